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

enum { BITS = 22 };                  /* Pillow's PRECISION_BITS: 32 - 8 - 2 */

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

typedef struct { int first, n; const int32_t *q; } Tap;     /* out = sum of q[k] * in[first + k] */

/* The weights for all m outputs of an axis of n inputs, each over at most `size` inputs. */
static Tap *axis_taps(int n, int m, Filter f)
{
    double scale = (double)n / m, stretch = scale < 1.0 ? 1.0 : scale;
    double support = FILTERS[f].support * stretch, inverse = 1.0 / stretch;
    size_t size = add_size(mul_size((size_t)ceil(support), 2), 1);
    Tap     *taps = scratch_bytes(mul_size((size_t)m, sizeof *taps));
    int32_t *q = scratch_bytes(mul_size(mul_size((size_t)m, size), sizeof *q));
    double  *k = scratch_bytes(mul_size(size, sizeof *k));

    for (int i = 0; i < m; i++, q += size) {
        double center = (i + 0.5) * scale, sum = 0.0;
        int lo = (int)(center - support + 0.5), hi = (int)(center + support + 0.5);
        if (lo < 0) lo = 0;
        if (hi > n) hi = n;
        for (int j = 0; j < hi - lo; j++) {
            k[j] = FILTERS[f].weight((j + lo - center + 0.5) * inverse);
            sum += k[j];
        }
        for (int j = 0; j < hi - lo; j++) {
            double w = (sum != 0.0 ? k[j] / sum : k[j]) * (1 << BITS);
            q[j] = w < 0 ? (int32_t)(w - 0.5) : (int32_t)(w + 0.5);
        }
        taps[i] = (Tap){ lo, hi - lo, q };
    }
    return taps;
}

/* === The two passes =========================================================================== */

typedef struct {
    const uint8_t *in;
    uint8_t       *out;
    int            w_in, w_out, rows, block;     /* block: output rows of one task */
    const Tap     *taps;
} Pass;

/* The sums stay below 2^31 for every filter here; unsigned, so that damage could only wrap. */
static inline uint8_t clip8(uint32_t sum)
{
    int32_t v = (int32_t)sum >> BITS;
    return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v;
}

static void horizontal_row(uint8_t *out, const uint8_t *in, const Tap *taps, int w_out)
{
    for (int x = 0; x < w_out; x++, out += 3) {
        const uint8_t *p = in + 3 * (size_t)taps[x].first;
        const int32_t *q = taps[x].q;
        uint32_t r = 1u << (BITS - 1), g = r, b = r;
        for (int k = 0, n = taps[x].n; k < n; k++, p += 3) {
            uint32_t weight = (uint32_t)q[k];
            r += p[0] * weight;
            g += p[1] * weight;
            b += p[2] * weight;
        }
        out[0] = clip8(r);
        out[1] = clip8(g);
        out[2] = clip8(b);
    }
}

static void horizontal_task(void *ctx, int i, int worker)
{
    const Pass *p = ctx;
    (void)worker;
    for (int y = i * p->block; y < p->rows && y < (i + 1) * p->block; y++)
        horizontal_row(p->out + 3 * (size_t)y * p->w_out, p->in + 3 * (size_t)y * p->w_in, p->taps,
                       p->w_out);
}

/* One output row is a sum of whole input rows, so the inner loop runs along the row. It is cut into
 * strips whose sums stay in the first-level cache. A weight has 24 bits; split into a high and a
 * low part of 16 bits at most, it makes the products 16 x 16 bits, which every SIMD set has:
 * p * q = (p * high << 15) + p * low. */
enum { STRIP = 512 };

static void vertical_strip(uint8_t *out, const uint8_t *in, size_t stride, const Tap *tap, int n)
{
    uint32_t low[STRIP], high[STRIP];
    for (int i = 0; i < n; i++) {
        low[i] = 1u << (BITS - 1);
        high[i] = 0;
    }
    in += (size_t)tap->first * stride;
    for (int k = 0; k < tap->n; k++, in += stride) {
        int16_t ql = (int16_t)(tap->q[k] & 0x7fff), qh = (int16_t)(tap->q[k] >> 15);
        for (int i = 0; i < n; i++) {
            low[i]  += (uint32_t)((int16_t)in[i] * ql);
            high[i] += (uint32_t)((int16_t)in[i] * qh);
        }
    }
    for (int i = 0; i < n; i++)
        out[i] = clip8((high[i] << 15) + low[i]);
}

static void vertical_task(void *ctx, int i, int worker)
{
    const Pass *p = ctx;
    size_t stride = 3 * (size_t)p->w_in;
    (void)worker;
    for (int y = i * p->block; y < p->rows && y < (i + 1) * p->block; y++)
        for (size_t x = 0; x < stride; x += STRIP) {
            int n = stride - x < STRIP ? (int)(stride - x) : STRIP;
            vertical_strip(p->out + y * stride + x, p->in + x, stride, &p->taps[y], n);
        }
}

static void run_pass(TaskFn *task, Pass *p)
{
    p->block = 1 + 16384 / (3 * p->w_out);       /* tasks of about 16,000 samples: some 50 us */
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
