/* resize.c -- resampling exactly as Pillow does it, byte for byte.
 *
 * Every published vision model was trained on pictures that Pillow had made smaller, so "about the
 * same" is not enough: a different last bit in a pixel is a different logit. The algorithm is that
 * of Pillow's Resample.c and, for the nearest neighbour, Geometry.c (version 13), told here anew:
 *
 *   in [h, w, 3] u8  ->  one axis  ->  u8, rounded and clamped  ->  the other axis  ->  out
 *
 * An axis of n samples becomes one of m: output i sits at c = (i + 0.5) * n/m in the input and is a
 * weighted mean of the inputs within `support` of c. When shrinking, the filter is stretched by
 * n/m, so that it also removes what the smaller picture cannot hold (this is what torch calls
 * antialias). The weights are computed in double, normalised, and rounded to 22 fractional bits;
 * all the rest is integer arithmetic, hence the same on every machine and for every thread count.
 *
 * Easy to get wrong:
 *   - The pass over the rows does not always come first: Pillow 13 runs the vertical pass first
 *     when that is less work by its own rule (vertical_first below). As the picture between the
 *     passes is rounded to bytes, the order shows.
 *   - A pass whose size does not change is skipped; it would not be the identity for every filter.
 *   - Negative weights round away from zero as the positive ones do: not floor, not rint.
 *   - Bicubic has a = -0.5. (torch's interpolate has -0.75.)
 *   - Nearest adds up the step instead of multiplying it, and so is off the closed formula in about
 *     a fifth of all size pairs. */
#include <math.h>
#include <string.h>

#include "image.h"
#include "kernels/kernels.h"

_Static_assert(TAP_BITS == 22, "Pillow's PRECISION_BITS: 32 - 8 - 2");

/* === The filters ============================================================================== */

static double sinc(double x)
{
    if (x == 0.0) return 1.0;
    x *= M_PI;
    return sin(x) / x;
}

static double lanczos(double x)
{
    return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
}

static double bilinear(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static double box(double x)
{
    return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
}

static double hamming(double x)
{
    x = fabs(x);
    if (x == 0.0) return 1.0;
    if (x >= 1.0) return 0.0;
    x *= M_PI;
    return sin(x) / x * (0.54f + 0.46f * cos(x));    /* the constants are floats in Pillow, too */
}

static const struct { double (*weight)(double x), support; } FILTERS[] = {
    [LANCZOS]  = { lanczos,  3.0 },
    [BILINEAR] = { bilinear, 1.0 },
    [BICUBIC]  = { bicubic,  2.0 },
    [BOX]      = { box,      0.5 },
    [HAMMING]  = { hamming,  1.0 },
};

/* === Weights of one axis ====================================================================== */

/* The weights for all m outputs of an axis of n inputs, each over at most `size` inputs. */
static Taps *axis_taps(int n, int m, Filter f)
{
    double scale = (double)n / m, stretch = scale < 1.0 ? 1.0 : scale;
    double support = FILTERS[f].support * stretch, inverse = 1.0 / stretch;
    size_t size = add_size(mul_size((size_t)ceil(support), 2), 1), padded = (size + 3) / 4 * 4;
    size_t bytes = mul_size(mul_size((size_t)m, padded), 2 * sizeof(int16_t));
    Taps    *taps = scratch_bytes(mul_size((size_t)m, sizeof *taps));
    int16_t *q = scratch_bytes(bytes);
    double  *k = scratch_bytes(mul_size(size, sizeof *k));
    memset(q, 0, bytes);

    for (int i = 0; i < m; i++, q += 2 * padded) {
        double center = (i + 0.5) * scale, sum = 0.0;
        int lo = (int)(center - support + 0.5), hi = (int)(center + support + 0.5);
        if (lo < 0) lo = 0;
        if (hi > n) hi = n;
        for (int j = 0; j < hi - lo; j++) {
            k[j] = FILTERS[f].weight((j + lo - center + 0.5) * inverse);
            sum += k[j];
        }
        for (int j = 0; j < hi - lo; j++) {
            double w = (sum != 0.0 ? k[j] / sum : k[j]) * (1 << TAP_BITS);
            int32_t whole = w < 0 ? (int32_t)(w - 0.5) : (int32_t)(w + 0.5);
            q[j / 2 * 4 + j % 2] = (int16_t)(whole & 0x7fff);
            q[j / 2 * 4 + j % 2 + 2] = (int16_t)(whole >> 15);
        }
        taps[i] = (Taps){ lo, hi - lo, q };
    }
    return taps;
}

/* === The two passes =========================================================================== */

typedef struct {
    const uint8_t *in;
    uint8_t       *out;
    int            w_in, w_out, rows, block;     /* block: output rows of one task */
    const Taps    *taps;
} Pass;

static void horizontal_task(void *ctx, int i, int worker)
{
    const Pass *p = ctx;
    int y = i * p->block, n = p->rows - y < p->block ? p->rows - y : p->block;
    size_t ldo = 3 * (size_t)p->w_out, ldi = 3 * (size_t)p->w_in;
    (void)worker;
    kernel.resize_rows(p->out + y * ldo, ldo, p->in + y * ldi, ldi, p->taps, n, p->w_in, p->w_out);
}

/* One output row is a sum of whole input rows. */
static void vertical_task(void *ctx, int i, int worker)
{
    const Pass *p = ctx;
    size_t stride = 3 * (size_t)p->w_in;
    (void)worker;
    for (int y = i * p->block; y < p->rows && y < (i + 1) * p->block; y++)
        kernel.resize_columns(p->out + y * stride, p->in + (size_t)p->taps[y].first * stride,
                              stride, &p->taps[y], (int)stride);
}

static void run_pass(TaskFn *task, Pass *p)
{
    p->block = (4 + 16384 / (3 * p->w_out)) / 4 * 4;         /* tasks of about 16,000 samples */
    parallel_for((p->rows + p->block - 1) / p->block, task, p);
}

static void horizontal(Image out, Image in, Filter f)
{
    Pass p = { .in = in.rgb, .out = out.rgb, .w_in = in.w, .w_out = out.w, .rows = in.h,
               .taps = axis_taps(in.w, out.w, f) };
    run_pass(horizontal_task, &p);
}

static void vertical(Image out, Image in, Filter f)
{
    Pass p = { .in = in.rgb, .out = out.rgb, .w_in = in.w, .w_out = out.w, .rows = out.h,
               .taps = axis_taps(in.h, out.h, f) };
    run_pass(vertical_task, &p);
}

/* Pillow's rule, in its words: the height shrinks, and by more than twice what the width does. */
static bool vertical_first(Image in, int w, int h)
{
    return in.h > h && (int64_t)in.h - h > 2 * ((int64_t)in.w - w);
}

/* === Nearest neighbour ======================================================================== */

static int *nearest_axis(int n, int m)
{
    int   *index = scratch_bytes(mul_size((size_t)m, sizeof *index));
    double scale = (double)n / m, x = scale * 0.5;
    for (int i = 0; i < m; i++, x += scale)
        index[i] = (int)x < n ? (int)x : n - 1;
    return index;
}

static void nearest(Image out, Image in)
{
    const int *xs = nearest_axis(in.w, out.w), *ys = nearest_axis(in.h, out.h);
    uint8_t *o = out.rgb;
    for (int y = 0; y < out.h; y++)
        for (int x = 0; x < out.w; x++, o += 3)
            memcpy(o, in.rgb + 3 * ((size_t)ys[y] * in.w + xs[x]), 3);
}

/* in, resampled to w x h, as PIL's Image.resize((w, h), f). */
Image image_resize(Image in, int w, int h, Filter f)
{
    Image  out = image_new(w, h);
    size_t mark = scratch_mark();
    if (in.w == w && in.h == h) {
        memcpy(out.rgb, in.rgb, 3 * (size_t)w * h);
    } else if (f == NEAREST) {
        nearest(out, in);
    } else if (in.h == h) {
        horizontal(out, in, f);
    } else if (in.w == w) {
        vertical(out, in, f);
    } else if (vertical_first(in, w, h)) {
        Image middle = image_new(in.w, h);
        vertical(middle, in, f);
        horizontal(out, middle, f);
    } else {
        Image middle = image_new(w, in.h);
        horizontal(middle, in, f);
        vertical(out, middle, f);
    }
    scratch_reset(mark);
    return out;
}
