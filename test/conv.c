/* conv.c -- convolutions of every level against the definition.
 *
 *   test/conv [--isa LEVEL] [--cases N] [--seed S]       all levels of this CPU, or one
 *
 * Random cases between guards: check.h. The definition is convolve_plain (kernels/conv_ref.c),
 * which adds up in double. The bounds are theorems as well: the definition, run on absolute values,
 * gives the sum of absolute products that they need. */
#include "check.h"

/* === Cases ==================================================================================== */

/* W of n numbers with the signs removed. */
static void *absolute_weights(const void *w, DType type, size_t n)
{
    size_t unit = type == F32 ? 4 : 2;
    unsigned char *a = take(n * unit, unit);
    memcpy(a, w, n * unit);
    for (size_t i = 0; i < n; i++) a[(i + 1) * unit - 1] &= 0x7f;       /* little-endian */
    return a;
}

static float *absolute(const float *x, size_t n)
{
    float *a = floats(n);
    for (size_t i = 0; i < n; i++) a[i] = fabsf(x[i]);
    return a;
}

static size_t n_in(const Convolution *c)  { return (size_t)c->n * c->h * c->width * c->c_in; }
static size_t n_out(const Convolution *c) { return (size_t)c->n * c->out_h * c->out_w * c->c_out; }
static size_t n_w(const Convolution *c)
{
    return (size_t)c->c_in * c->c_out / c->groups * c->kh * c->kw;
}

/* All that PyTorch would give for a padding of pad at both ends, or up to 3 less or more. */
static int out_size(const Convolution *c, int size, int kernel_size, int pad)
{
    int n = c->transposed ? (size - 1) * c->stride - 2 * pad + kernel_size
                          : (size + 2 * pad - kernel_size) / c->stride + 1;
    n += below(4) ? 0 : below(7) - 3;
    return n < 1 ? 1 : n;
}

enum { ANY, WINOGRAD, STRIDED, PATCHES, TRANSPOSED, GROUPED, LINEAR };

/* Sizes of a case of this kind, with no more than about 1 << 22 products. */
static Convolution random_sizes(int kind)
{
    Convolution c = { .type = (DType)below(3), .stride = 1, .groups = 1 };
    do {
        c.n = 1 + below(3);
        c.h = size(kind == PATCHES ? 60 : 20);
        c.width = size(kind == PATCHES ? 60 : 20);
        c.c_in = kind == PATCHES ? 1 + below(4) : size(200);
        c.c_out = size(200);
        c.kh = kind == WINOGRAD || kind == STRIDED ? 3 : kind == LINEAR ? 1 : 1 + below(7);
        c.kw = kind == ANY || kind == TRANSPOSED ? 1 + below(7) : c.kh;
        if (kind == PATCHES) c.kh = c.kw = c.stride = 1 + below(32);
        if (kind == STRIDED) c.stride = 2;
        if (kind == ANY || kind == TRANSPOSED || kind == GROUPED) c.stride = 1 + below(4);
        if (kind == GROUPED) {
            c.groups = 1 + below(8);
            c.transposed = below(3) == 0;
            c.c_in = c.groups * (1 + below(20));
            c.c_out = c.groups * (1 + below(20));
        }
        c.transposed |= kind == TRANSPOSED;
        if (kind == WINOGRAD) c.pad_top = c.pad_left = below(4) ? 1 : below(3);
        else if (kind == ANY || kind == TRANSPOSED || kind == STRIDED || kind == GROUPED) {
            c.pad_top = below(c.kh);
            c.pad_left = below(c.kw);
        }
        c.out_h = out_size(&c, c.h, c.kh, c.pad_top);
        c.out_w = out_size(&c, c.width, c.kw, c.pad_left);
        if (kind == LINEAR) c.out_h = c.h, c.out_w = c.width;
    } while ((double)n_out(&c) * (double)n_w(&c) / c.c_out > 1 << 22 || n_in(&c) > 1 << 18 ||
             n_w(&c) > 1 << 18 || n_out(&c) > 1 << 18);
    snprintf(shape, sizeof shape, "%d of %dx%dx%d to %dx%dx%d, %s, %dx%d stride %d pad %d %d "
             "groups %d%s", c.n, c.h, c.width, c.c_in, c.out_h, c.out_w, c.c_out,
             c.type == F32 ? "f32" : c.type == F16 ? "f16" : "bf16", c.kh, c.kw, c.stride,
             c.pad_top, c.pad_left, c.groups, c.transposed ? ", transposed" : "");
    return c;
}

/* The sums of absolute products, with bias: what all bounds are made of. */
static float *absolute_sums(const Convolution *c)
{
    Convolution a = *c;
    a.e = (Epilogue){ 0 };
    a.in = absolute(c->in, n_in(c));
    a.w = absolute_weights(c->w, c->type, n_w(c));
    a.out = floats(n_out(c));
    if (c->e.bias) a.e.bias = absolute(c->e.bias, (size_t)c->c_out);
    convolve_plain(&a);
    return a.out;
}

/* to [m, m] = |T| x |T|^T, T [m, n], x [n, n] */
static void both_sides(double *to, const float *T, const double *x, int m, int n)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j < m; j++) {
            double sum = 0;
            for (int p = 0; p < n; p++)
                for (int q = 0; q < n; q++)
                    sum += fabs((double)T[i * n + p] * T[j * n + q]) * x[p * n + q];
            to[i * m + j] = sum;
        }
}

/* |G||w||G|^T of all pairs of channels: [c_out][c_in][36]. */
static double *absolute_filters(const Convolution *c)
{
    size_t n = (size_t)c->c_out * c->c_in;
    double *u = scratch_bytes(n * 36 * sizeof *u), w[9];
    for (size_t i = 0; i < n; i++) {
        for (int t = 0; t < 9; t++) w[t] = fabs(weight_at(c->w, c->type, i * 9 + t));
        both_sides(u + i * 36, WINO_G[0], w, 6, 3);
    }
    return u;
}

/* |B|^T|d||B| of the tile at (y, x): [c_in][36]. */
static void absolute_tile(double *v, const Convolution *c, int picture, int y, int x)
{
    double d[36];
    for (int ci = 0; ci < c->c_in; ci++) {
        for (int i = 0; i < 36; i++) {
            int iy = y + i / 6 - c->pad_top, ix = x + i % 6 - c->pad_left;
            bool inside = iy >= 0 && iy < c->h && ix >= 0 && ix < c->width;
            size_t at = (((size_t)picture * c->h + iy) * c->width + ix) * c->c_in + ci;
            d[i] = inside ? fabs(c->in[at]) : 0;
        }
        both_sides(v + ci * 36, WINO_B[0], d, 6, 6);
    }
}

/* The T of winograd.c, and the bias: what its bounds are made of. */
static void winograd_sums(float *sums, const Convolution *c)
{
    double *u = absolute_filters(c), *v = scratch_bytes((size_t)c->c_in * 36 * sizeof *v);
    int down = (c->out_h + 3) / 4, across = (c->out_w + 3) / 4;
    for (int t = 0; t < c->n * down * across; t++) {
        int picture = t / (down * across), y = t / across % down * 4, x = t % across * 4;
        absolute_tile(v, c, picture, y, x);
        for (int co = 0; co < c->c_out; co++) {
            double m[36] = { 0 }, sum[16];
            for (int i = 0; i < c->c_in * 36; i++)
                m[i % 36] += u[(size_t)co * c->c_in * 36 + i] * v[i];
            both_sides(sum, WINO_A[0], m, 4, 6);
            for (int i = 0; i < 16; i++) {
                int oy = y + i / 4, ox = x + i % 4;
                if (oy >= c->out_h || ox >= c->out_w) continue;
                size_t at = (((size_t)picture * c->out_h + oy) * c->out_w + ox) * c->c_out + co;
                sums[at] = (float)sum[i] + (c->e.bias ? fabsf(c->e.bias[co]) : 0);
            }
        }
    }
}

/* The definition's result lies within the bound of the exact one as well: a rounding or two. RELU
 * makes no difference larger, and the sum with the residual is rounded once more. */
static void check_case(const Convolution *c, const float *before)
{
    size_t n = n_out(c);
    Convolution plain = *c;
    float *abs = absolute_sums(c);
    plain.out = floats(n);
    memcpy(plain.out, before, n * sizeof *before);
    convolve_plain(&plain);
    double terms = (double)n_w(c) / c->c_out + 4, off;
    bool linear = c->kh * c->kw == 1 && c->stride == 1 && c->groups == 1 && !c->transposed;
    if (winograd_wins(c)) {
        winograd_sums(abs, c);
        terms = c->c_in + 30;
    }
    /* gemm may multiply bf16 weights with pixels that it has rounded to bf16, 8 digits */
    off = gamma_n(terms) + (linear && c->type == BF16 && kernel.tile_bf16 ? 0x1.01p-8 : 0);
    for (size_t i = 0; i < n; i++) {
        double residual = c->e.add ? fabs(before[i]) : 0;
        near((long)i, c->out[i], plain.out[i], off * (abs[i] + residual) + TINY);
    }
}

/* The last picture is the same alone. */
static void check_alone(const Convolution *c, const float *before)
{
    Convolution one = *c;
    size_t in = n_in(c) / c->n, out = n_out(c) / c->n;
    one.n = 1;
    one.in += in * (c->n - 1);
    one.out = floats(out);
    memcpy(one.out, before + out * (c->n - 1), out * sizeof *before);
    convolve(&one);
    for (size_t i = 0; i < out; i++) equal((long)i, c->out[out * (c->n - 1) + i], one.out[i]);
}

static void test_conv(int kind)
{
    Convolution c = random_sizes(kind);
    size_t n = n_out(&c);
    kernel.exact = kind == WINOGRAD && below(4) == 0;
    float *out = random_floats(n, 2), *before = floats(n);
    c.in = random_floats(n_in(&c), 1);
    c.w = random_weights(c.type, (int)n_w(&c), 1, 1);
    c.e.bias = below(2) ? random_floats((size_t)c.c_out, 2) : NULL;
    c.e.act = below(3) ? ACT_NONE : RELU;
    c.e.add = below(2);
    memcpy(before, out, n * sizeof *out);
    c.out = out;
    convolve(&c);
    check_case(&c, before);
    check_alone(&c, before);
    kernel.exact = false;
}

/* === Winograd's transforms ==================================================================== */

/* A slot against its matrices T x T^T: T [m, n] has at most five numbers other than 0 in a row, so
 * each of the two products rounds five times, its constants once. */
static void check_transform(const float *got, size_t ld, const float *const *x, const float *T,
                            int m, int n, int lanes)
{
    double in[36], want[36], abs[36], row[36];
    for (int c = 0; c < lanes; c++) {
        for (int i = 0; i < n * n; i++) in[i] = fabs(x[i][c]);
        both_sides(abs, T, in, m, n);
        for (int i = 0; i < m; i++)
            for (int q = 0; q < n; q++) {
                row[i * n + q] = 0;
                for (int p = 0; p < n; p++)
                    row[i * n + q] += (double)T[i * n + p] * x[p * n + q][c];
            }
        for (int i = 0; i < m * m; i++) {
            want[i] = 0;
            for (int q = 0; q < n; q++) want[i] += row[i / m * n + q] * T[i % m * n + q];
            near((long)i * lanes + c, got[i * ld + c], want[i], gamma_n(12) * abs[i] + TINY);
        }
    }
}

enum { PIXELS, WEIGHTS, SUMS };

static void test_transform(int which)
{
    static const struct { const float *T; int m, n; } OF[] = {
        { WINO_B[0], 6, 6 }, { WINO_G[0], 6, 3 }, { WINO_A[0], 4, 6 }
    };
    int n = size(150), rows_in = OF[which].n * OF[which].n, rows_out = OF[which].m * OF[which].m;
    int ld = n + below(5), ld_out = which == SUMS ? n : ld, ld_in = which == SUMS ? ld : n;
    snprintf(shape, sizeof shape, "n %d ld %d", n, ld);
    const float *px[36], *from = random_rows(rows_in, n, ld_in, 1);
    float *out = floats((size_t)rows_out * ld_out);
    int at = which == PIXELS ? below(4) : 0;
    for (int i = 0; i < rows_in; i++) px[i] = from + (size_t)i * ld_in;
    for (int i = 0; i < rows_in && at; i++) {   /* pixels are anywhere */
        px[i] = random_floats((size_t)(n + at), 1) + at;
        px[i] -= at;
    }
    switch (which) {
    case PIXELS:  kernel.wino_in(out, (size_t)ld_out, px, (size_t)at, n); break;
    case WEIGHTS: kernel.wino_w(out, (size_t)ld_out, from, n); break;
    default:      kernel.wino_out(out, from, (size_t)ld_in, n); break;
    }
    for (int i = 0; i < rows_in; i++) px[i] += at;
    check_transform(out, (size_t)ld_out, px, OF[which].T, OF[which].m, OF[which].n, n);
    check_gaps(out, rows_out, n, ld_out);
}

/* === Group norm =============================================================================== */

static void test_moments(int unused)
{
    (void)unused;
    int n = size(150), rows = size(70);
    snprintf(shape, sizeof shape, "rows %d n %d", rows, n);
    float *x = random_rows(rows, n, n, 2), *at = random_floats(n, 1);
    float *sum = floats(n), *squares = floats(n);
    kernel.moments(sum, squares, x, at, rows, n);
    for (int c = 0; c < n; c++) {
        double s = 0, abs = 0, q = 0;
        for (int r = 0; r < rows; r++) {
            double d = (double)x[(size_t)r * n + c] - at[c];
            s += d, abs += fabs(d), q += d * d;
        }
        near(c, sum[c], s, gamma_n(rows + 1) * abs + TINY);
        near(c, squares[c], q, gamma_n(rows + 3) * q + TINY);
    }
}

static void test_affine(int unused)
{
    (void)unused;
    int n = size(300);
    bool in_place = below(2);
    snprintf(shape, sizeof shape, "n %d%s", n, in_place ? " in place" : "");
    float *x = random_floats(n, 2), *a = random_floats(n, 3), *b = random_floats(n, 4);
    float *before = floats(n), *y = in_place ? x : floats(n);
    memcpy(before, x, n * sizeof *x);
    kernel.affine(y, x, a, b, n);
    for (int c = 0; c < n; c++) {
        double t = (double)before[c] * a[c];
        near(c, y[c], t + b[c], U * (fabs(t) + fabs(t + b[c])) * 1.01 + TINY);
    }
}

/* Group g of picture x [pixels, c], in double: mean and variance. */
static void exact_moments(double *mean, double *variance, const float *x, int pixels, int c,
                          int first, int width)
{
    double sum = 0, squares = 0, n = (double)pixels * width;
    for (int i = 0; i < pixels * width; i++)
        sum += x[(size_t)(i / width) * c + first + i % width];
    *mean = sum / n;
    for (int i = 0; i < pixels * width; i++)
        squares += pow(x[(size_t)(i / width) * c + first + i % width] - *mean, 2);
    *variance = squares / n;
}

/* With r = 1 / sqrt(variance + eps): the mean of a block of 64 pixels is off by gamma(66) times the
 * mean of |x - m|, less than 1 / r, m near the channel's mean; the squares around it by gamma(140)
 * of them, which r sees half; scale and shift are rounded once, the product and the sum once. Where
 * the mean is large, so is |x| r, and with it the rounding of m in the first place. */
static void test_group_norm(int unused)
{
    (void)unused;
    int n = 1 + below(3), pixels = size(300), groups = 1 + below(8), width = size(20);
    int c = groups * width;
    bool in_place = below(2);
    Act act = below(2) ? RELU : ACT_NONE;
    float eps = below(2) ? 1e-5f : 1e-6f, mean_of_all = below(3) ? 0 : uniform() * 100;
    snprintf(shape, sizeof shape, "%d of %d pixels, %d groups of %d, mean %g%s", n, pixels, groups,
             width, (double)mean_of_all, in_place ? " in place" : "");
    size_t all = (size_t)n * pixels * c;
    float *x = random_floats(all, 2), *w = random_floats(c, 2), *b = random_floats(c, 2);
    for (size_t i = 0; i < all; i++) x[i] += mean_of_all;
    float *before = floats(all), *y = in_place ? x : floats(all);
    memcpy(before, x, all * sizeof *x);
    group_normalize(y, x, w, b, n, pixels, c, groups, eps, act);
    for (int g = 0; g < n * groups; g++) {
        int first = g % groups * width;
        size_t picture = (size_t)(g / groups) * pixels * c;
        double mean, variance;
        exact_moments(&mean, &variance, before + picture, pixels, c, first, width);
        double r = 1 / sqrt(variance + eps), deviation = sqrt(variance);
        for (int i = 0; i < pixels * width; i++) {
            int ch = first + i % width;
            size_t at = picture + (size_t)(i / width) * c + ch;
            double t = (before[at] - mean) * r * w[ch], want = t + b[ch];
            double bound = fabs(w[ch]) * r * (4 * U * (fabs(before[at]) + fabs(mean)) +
                                              gamma_n(66) * deviation) +
                           fabs(t) * gamma_n(75) + 2 * U * (fabs(want) + fabs(b[ch]));
            near((long)at, y[at], act == RELU && want < 0 ? 0 : want, bound + TINY);
        }
    }
}

/* === Against PyTorch ========================================================================== */

/* test/data/conv, written by test/reference/convolutions.py: for each case x, w, b and y as PyTorch
 * has them, [n, C, H, W]. Its own sums are f32: twice the bound of one. */
static const struct {
    const char *name;
    Conv        c;
    int         groups;                         /* of a group norm, which has no kernel */
    Act         act;
} CASES[] = {
    { "same", { .k = 3, .stride = 1, .pad = 1 }, 0, 0 },
    { "same.f16", { .k = 3, .stride = 1, .pad = 1 }, 0, 0 },
    { "same.bf16", { .k = 3, .stride = 1, .pad = 1 }, 0, 0 },
    { "half", { .k = 3, .stride = 2, .pad = 1 }, 0, 0 },
    { "half.vae", { .k = 3, .stride = 2, .extra = 1 }, 0, 0 },
    { "patches", { .k = 7, .stride = 7 }, 0, 0 },
    { "point", { .k = 1, .stride = 1 }, 0, 0 },
    { "depthwise", { .k = 3, .stride = 1, .pad = 1, .groups = 12 }, 0, 0 },
    { "gan.first", { .k = 4, .stride = 1, .transposed = true }, 0, 0 },
    { "gan.next", { .k = 4, .stride = 2, .pad = 1, .transposed = true }, 0, 0 },
    { "gan.extra", { .k = 3, .stride = 2, .pad = 1, .extra = 1, .groups = 2, .transposed = true },
      0, 0 },
    { "norm", { .k = 0 }, 4, ACT_NONE }, { "norm.silu", { .k = 0 }, 8, SILU },
};

/* A tensor of a case: of any shape. */
static Tensor of_case(Ckpt ck, const char *name, const char *part)
{
    char full[64];
    snprintf(full, sizeof full, "%s.%s", name, part);
    for (int i = 0; i < ckpt_count(ck); i++) {
        CkptEntry e = ckpt_entry(ck, i);
        int dim[4];
        for (int d = 0; d < e.ndim && d < 4; d++) dim[d] = (int)e.dim[d];
        if (!strcmp(e.name, full)) return ckpt_get_shape(ck, full, e.ndim, dim);
    }
    bug("test/data/conv: no %s", full);
}

/* [n, C, H, W] -> [n, H, W, C] */
static Tensor channels_last(Tensor t)
{
    int C = t.dim[1], H = t.dim[2], W = t.dim[3], i = 0;
    float *y = scratch_bytes(n_elem(t) * sizeof *y);
    for (int n = 0; n < t.dim[0]; n++)
        for (int p = 0; p < H * W; p++)
            for (int c = 0; c < C; c++) y[i++] = f32(t)[((size_t)n * C + c) * H * W + p];
    return (Tensor){ .data = y, .ndim = 4, .dim = { t.dim[0], H, W, C } };
}

static void test_reference(void)
{
    Ckpt ck = ckpt_open("test/data/conv");
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const char *name = CASES[i].name;
        Tensor x = channels_last(of_case(ck, name, "x")), w = of_case(ck, name, "w");
        Tensor b = of_case(ck, name, "b"), want = channels_last(of_case(ck, name, "y")), got = x;
        Conv c = CASES[i].c;
        double worst = 0, largest = 0;
        if (c.k) {
            c.w = w, c.b = b;
            got = conv_like(x, &c);
            conv2d(got, x, &c);
        } else {
            group_norm(got, x, &(GroupNorm){ w, b, CASES[i].groups, 1e-5f }, CASES[i].act);
        }
        bool ok = !memcmp(got.dim, want.dim, sizeof got.dim);
        for (size_t e = 0; ok && e < n_elem(want); e++) {
            worst = fmax(worst, fabs((double)f32(got)[e] - f32(want)[e]));
            largest = fmax(largest, fabs((double)f32(want)[e]));
        }
        ok = ok && worst <= 1e-6 * largest;
        if (!ok)
            printf("failed: %s: %s: %s, PyTorch has %s up to %.3g, off by %.3g\n", kernels_level(),
                   name, shape_string(got), shape_string(want), largest, worst);
        verdict(ok);
    }
}

/* === Accuracy ================================================================================= */

/* How good it is where signs are random: at most three times the error of the direct sum. */
static void test_accuracy(void)
{
    slot = "winograd's accuracy";
    state = 5;
    Convolution c = { .type = F32, .n = 1, .h = 16, .width = 16, .c_in = 256, .out_h = 16,
                      .out_w = 16, .c_out = 16, .kh = 3, .kw = 3, .stride = 1, .pad_top = 1,
                      .pad_left = 1, .groups = 1 };
    size_t n = n_out(&c);
    float *want = floats(n), *fast = floats(n), *direct = floats(n);
    double square = 0, error[2] = { 0 };
    c.in = random_floats(n_in(&c), 1);
    c.w = random_weights(F32, (int)n_w(&c), 1, 1);
    c.out = want;
    convolve_plain(&c);
    c.out = fast;
    convolve(&c);
    c.out = direct;
    kernel.exact = true;
    convolve(&c);
    kernel.exact = false;
    for (size_t i = 0; i < n; i++) {
        square += (double)want[i] * want[i];
        error[0] += pow((double)fast[i] - want[i], 2);
        error[1] += pow((double)direct[i] - want[i], 2);
    }
    bool ok = error[0] < 9 * error[1];
    printf("%s3x3, 256 channels: error of winograd %.2g, of the direct sum %.2g of the output\n",
           ok ? "" : "failed: ", sqrt(error[0] / square), sqrt(error[1] / square));
    verdict(ok);
    release();
}

/* --exact is kept by whatever fills the table, and means the direct sum. */
static void test_exact(const char *level)
{
    Convolution c = { .h = 8, .width = 8, .c_in = 64, .out_h = 8, .out_w = 8, .c_out = 64, .kh = 3,
                      .kw = 3, .stride = 1, .groups = 1 };
    bool fast, exact;
    kernels_init(level, false);
    fast = winograd_wins(&c);
    kernels_init(level, true);
    exact = !winograd_wins(&c);
    kernels_init(level, false);
    if (!fast || !exact) printf("failed: %s: exact is not what chooses the algorithm\n", level);
    verdict(fast && exact);
}

/* === The table of tests ======================================================================= */

static const SlotTest TESTS[] = {
    { "any", test_conv, ANY, 4 }, { "3x3", test_conv, WINOGRAD, 4 },
    { "3x3 stride 2", test_conv, STRIDED, 8 }, { "patches", test_conv, PATCHES, 8 },
    { "transposed", test_conv, TRANSPOSED, 4 }, { "groups", test_conv, GROUPED, 8 },
    { "1x1", test_conv, LINEAR, 8 }, { "wino_in", test_transform, PIXELS, 1 },
    { "wino_w", test_transform, WEIGHTS, 1 }, { "wino_out", test_transform, SUMS, 1 },
    { "moments", test_moments, 0, 1 }, { "affine", test_affine, 0, 1 },
    { "group_norm", test_group_norm, 0, 1 },
};
enum { N_TESTS = sizeof TESTS / sizeof *TESTS };

/* === Threads ================================================================================== */

static uint64_t digest(void)
{
    uint64_t h = NO_FLOATS;
    slot = "threads";
    for (int t = 0; t < of_digest(28); t++) {
        state = 77 + t;
        Convolution c = random_sizes(t % 7);
        c.in = random_floats(n_in(&c), 1);
        c.w = random_weights(c.type, (int)n_w(&c), 1, 1);
        c.out = random_floats(n_out(&c), 1);
        c.e = (Epilogue){ .act = SILU, .add = t % 4 == 0 };
        convolve(&c);
        h = hash_floats(h, c.out, n_out(&c));
        release();
    }
    for (int t = 0; t < 8; t++) {
        int n = 1 + t % 2, pixels = 1 + below(t % 3 ? 900 : 64), c = 4 * (1 + below(40));
        size_t all = (size_t)n * pixels * c;
        float *x = random_floats(all, 2), *w = random_floats(c, 2), *b = random_floats(c, 2);
        group_normalize(x, x, w, b, n, pixels, c, 4, 1e-5f, t % 4 ? SILU : ACT_NONE);
        h = hash_floats(h, x, all);
        release();
    }
    return h;
}

static void test_level(const char *level)
{
    uint64_t want = 0;
    if (!only_seed) test_threads(level, digest, &want);
    kernels_init(level, false);
    if (!only_seed) {
        test_accuracy();
        test_exact(level);
        test_reference();
    }
    run_slots(TESTS, N_TESTS);
}

int main(int argc, char **argv)
{
    n_cases = 200;
    return run_levels("conv", argc, argv, test_level);
}
