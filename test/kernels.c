/* kernels.c -- every kernel of every level against its definition, in the manner of checkasm.
 *
 *   test/kernels [--isa LEVEL] [--cases N] [--seed S]    all levels of this CPU, or one
 *   test/kernels --best, --levels                        prints the best level, all levels
 *
 * Random cases between guards: check.h. Definitions are computed here once more, in double; bounds
 * other than check.h's theorem about sums stand at their case. */
#include "check.h"

/* === Matrix slots ============================================================================= */

static void test_few(int type)
{
    int m = size(9), n = size(70), k = size(300);
    int lda = k + below(4), ldw = k + below(4), ldc = n + below(4);
    snprintf(shape, sizeof shape, "m %d n %d k %d lda %d ldw %d ldc %d", m, n, k, lda, ldw, ldc);
    float *A = random_rows(m, k, lda, 1), *C = floats((size_t)m * ldc), one = 0;
    void *W = random_weights(type, n, k, ldw);
    kernel.few[type](C, ldc, A, lda, W, ldw, m, n, k);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0, abs = 0;
            for (int p = 0; p < k; p++) {
                double t = (double)A[(size_t)i * lda + p] * weight_at(W, type, (size_t)j * ldw + p);
                sum += t, abs += fabs(t);
            }
            near((long)i * n + j, C[(size_t)i * ldc + j], sum, gamma_n(k + 1) * abs + TINY);
        }
    int i = below(m), j = below(n);             /* an element is the same alone */
    kernel.few[type](&one, 1, A + (size_t)i * lda, lda,
                     (char *)W + (size_t)j * ldw * (type == F32 ? 4 : 2), ldw, 1, 1, k);
    equal((long)i * n + j, C[(size_t)i * ldc + j], one);
    check_gaps(C, m, n, ldc);
}

static void test_tile(int unused)
{
    (void)unused;
    int tn = kernel.tile_n, m = 1 + below(kernel.tile_m), n = 1 + below(tn), k = size(300);
    int lda = k + below(4), ldc = n + below(4);
    bool accumulate = below(2);
    snprintf(shape, sizeof shape, "m %d n %d k %d lda %d ldc %d%s", m, n, k, lda, ldc,
             accumulate ? " accumulate" : "");
    float *A = random_rows(m, k, lda, 1), *P = random_rows(k, n, tn, 1);
    float *C = floats((size_t)m * ldc), *before = floats((size_t)m * n);
    for (int p = 0; p < k; p++)
        memset(P + (size_t)p * tn + n, 0, (size_t)(tn - n) * sizeof *P);
    for (int i = 0; i < m * n; i++) {
        before[i] = accumulate ? uniform() : 0;
        if (accumulate)
            C[(size_t)(i / n) * ldc + i % n] = before[i];
    }
    Ahead ahead = { .at = (char *)P, .step = 100, .rows = 1 + below(9), .columns = 1 + below(9) };
    kernel.tile(C, ldc, A, lda, P, m, n, k, accumulate, below(2) ? &ahead : NULL);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum = before[i * n + j], abs = fabs(sum);
            for (int p = 0; p < k; p++) {
                double t = (double)A[(size_t)i * lda + p] * P[(size_t)p * tn + j];
                sum += t, abs += fabs(t);
            }
            near((long)i * n + j, C[(size_t)i * ldc + j], sum, gamma_n(k + 2) * abs + TINY);
        }
    check_gaps(C, m, n, ldc);
}

static void test_pack(int type)
{
    int tn = kernel.tile_n, n = 1 + below(tn), k = size(300), ldw = k + below(4);
    snprintf(shape, sizeof shape, "n %d k %d ldw %d", n, k, ldw);
    void *W = random_weights(type, n, k, ldw);
    float *P = floats((size_t)k * tn);
    kernel.pack[type](P, W, ldw, n, k);
    for (int p = 0; p < k; p++)
        for (int j = 0; j < tn; j++)
            equal((long)p * tn + j, P[(size_t)p * tn + j],
                  j < n ? weight_at(W, type, (size_t)j * ldw + p) : 0);
}

/* A panel and a tile of bf16 numbers. Their products are exact in f32. A processor rounds each term
 * to nearest (x86), or sums of two terms and then these to odd, which is off by 2 u (ARM): with k
 * filled up to whole pairs, (k + 1) / 2 + 1 such roundings, and one of what was there before. */
static void test_tile_bf16(int unused)
{
    (void)unused;
    if (!kernel.tile_bf16)
        return;
    int tn = kernel.tile_n, m = 1 + below(kernel.tile_m), n = 1 + below(tn), k = size(300);
    int whole = round_up(k, 4), lda = whole + below(4), ldw = k + below(4), ldc = n + below(4);
    bool accumulate = below(2);
    snprintf(shape, sizeof shape, "m %d n %d k %d lda %d ldw %d ldc %d%s", m, n, k, lda, ldw, ldc,
             accumulate ? " accumulate" : "");
    uint16_t *A = random_weights(BF16, m, whole, lda), *W = random_weights(BF16, n, k, ldw);
    uint16_t *P = take((size_t)whole * tn * sizeof *P, sizeof *P);
    float *C = random_rows(m, n, ldc, 1), *before = floats((size_t)m * ldc);
    memcpy(before, C, (size_t)m * ldc * sizeof *C);
    for (int i = 0; i < m; i++)
        memset(A + (size_t)i * lda + k, 0, (size_t)(whole - k) * sizeof *A);
    kernel.pack_bf16(P, W, ldw, n, k);
    kernel.tile_bf16(C, ldc, A, lda, P, m, n, k, accumulate, NULL);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum = accumulate ? before[(size_t)i * ldc + j] : 0, abs = fabs(sum);
            for (int p = 0; p < k; p++) {
                double t = (double)weight_at(A, BF16, (size_t)i * lda + p)
                         * weight_at(W, BF16, (size_t)j * ldw + p);
                sum += t, abs += fabs(t);
            }
            near((long)i * n + j, C[(size_t)i * ldc + j], sum, gamma_n(k + 4) * abs + TINY);
        }
    check_gaps(C, m, n, ldc);
}

/* Rows of A that are 0 but for a single 1 pick single weights, exactly. */
static void test_pack_bf16(int unused)
{
    (void)unused;
    if (!kernel.pack_bf16)
        return;
    int tn = kernel.tile_n, m = kernel.tile_m, n = 1 + below(tn), k = size(100), pick[16];
    int ldw = k + below(4), whole = round_up(k, 4);
    snprintf(shape, sizeof shape, "n %d k %d ldw %d", n, k, ldw);
    uint16_t *W = random_weights(BF16, n, k, ldw), *A = take((size_t)m * whole * sizeof *A, 2);
    uint16_t *P = take((size_t)whole * tn * sizeof *P, sizeof *P);
    float *C = floats((size_t)m * n);
    kernel.pack_bf16(P, W, ldw, n, k);
    for (int first = 0; first < k; first += m) {
        memset(A, 0, (size_t)m * whole * sizeof *A);
        for (int i = 0; i < m; i++) {
            pick[i] = min(first + i, k - 1);
            A[(size_t)i * whole + pick[i]] = 0x3f80;            /* 1 */
        }
        kernel.tile_bf16(C, n, A, whole, P, m, n, k, false, NULL);
        for (int i = 0; i < m * n; i++)
            equal((long)pick[i / n] * n + i % n, C[i],
                  weight_at(W, BF16, (size_t)(i % n) * ldw + pick[i / n]));
    }
}

/* === Vector slots ============================================================================= */

static void test_dot(int unused)
{
    (void)unused;
    int n = size(1000);
    snprintf(shape, sizeof shape, "n %d", n);
    float *a = random_floats(n, 1), *b = random_floats(n, 4);
    double sum = 0, abs = 0;
    for (int i = 0; i < n; i++)
        sum += (double)a[i] * b[i], abs += fabs((double)a[i] * b[i]);
    near(0, kernel.dot(a, b, n), sum, gamma_n(n + 1) * abs + TINY);
}

enum { SCALE, ADD, MUL };

static void test_elementwise(int which)
{
    int n = size(1000);
    float s = uniform() * 3;
    snprintf(shape, sizeof shape, "n %d", n);
    float *y = random_floats(n, 2), *x = random_floats(n, 2), *before = floats(n);
    memcpy(before, y, n * sizeof *y);
    switch (which) {
    case SCALE: kernel.scale(y, s, n); break;
    case ADD:   kernel.add(y, x, n); break;
    default:    kernel.mul(y, x, n); break;
    }
    for (int i = 0; i < n; i++)
        switch (which) {
        case SCALE: equal(i, y[i], before[i] * s); break;
        case ADD:   equal(i, y[i], before[i] + x[i]); break;
        default:    equal(i, y[i], before[i] * x[i]); break;
        }
}

static void test_mix(int type)
{
    int m = size(9), n = size(200), d = size(200), ldv = d + below(5), ldp = n + below(3);
    int ldy = d + below(4);
    snprintf(shape, sizeof shape, "m %d n %d d %d ldv %d ldp %d ldy %d", m, n, d, ldv, ldp, ldy);
    float *p = random_rows(m, n, ldp, 1), *y = random_rows(m, d, ldy, 1);
    float *before = floats((size_t)m * ldy), *one = floats(d);
    void *V = random_weights(type, n, d, ldv);
    memcpy(before, y, (size_t)m * ldy * sizeof *y);
    kernel.mix[type](y, ldy, p, ldp, V, ldv, m, n, d);
    for (int i = 0; i < m; i++)
        for (int c = 0; c < d; c++) {
            double sum = before[(size_t)i * ldy + c], abs = fabs(sum);
            for (int j = 0; j < n; j++) {
                double t = (double)p[(size_t)i * ldp + j] * weight_at(V, type, (size_t)j * ldv + c);
                sum += t, abs += fabs(t);
            }
            near((long)i * d + c, y[(size_t)i * ldy + c], sum, gamma_n(n + 2) * abs + TINY);
        }
    check_gaps(y, m, d, ldy);
    int i = below(m);                           /* a row is the same alone */
    memcpy(one, before + (size_t)i * ldy, d * sizeof *one);
    kernel.mix[type](one, d, p + (size_t)i * ldp, ldp, V, ldv, 1, n, d);
    for (int c = 0; c < d; c++)
        equal((long)i * d + c, y[(size_t)i * ldy + c], one[c]);
}

static void test_max(int unused)
{
    (void)unused;
    int n = size(1000);
    snprintf(shape, sizeof shape, "n %d", n);
    float *x = random_floats(n, 9), want = -INFINITY;
    for (int i = 0; i < n; i++) {
        x[i] = below(4) ? x[i] - 20 : below(50) ? x[i] - 40 : -INFINITY;
        want = x[i] > want ? x[i] : want;
    }
    equal(0, kernel.max(x, n), want);
}

static double ulps(double got, double want)     /* the error in units of the last place of want */
{
    int e;
    frexp(want, &e);
    return got == want ? 0 : fabs(got - want) / ldexp(1, e - 24 < -149 ? -149 : e - 24);
}

static void test_exp_sum(int unused)
{
    (void)unused;
    int n = size(600);
    float m = uniform() * 50, reach = below(2) ? 10.0f : 120.0f;
    bool in_place = below(2);
    snprintf(shape, sizeof shape, "n %d m %g%s", n, (double)m, in_place ? " in place" : "");
    float *x = random_floats(n, reach), *y = in_place ? x : floats(n), *before = floats(n);
    double sum = 0;
    for (int i = 0; i < n; i++) {
        x[i] = below(30) ? (x[i] < 80 ? x[i] : 80) + m : -INFINITY;
        before[i] = x[i];
    }
    float got = kernel.exp_sum(y, x, m, n);
    for (int i = 0; i < n; i++) {
        double want = exp((double)(before[i] - m));
        sum += want;
        if (ulps(y[i], want) > 1.5)             /* below 2^-126 it may be rounded twice */
            fail_case("element %d: exp(%.9g) is %.9g, %.2f ulp off", i, (double)(before[i] - m),
                      (double)y[i], ulps(y[i], want));
    }
    near(n, got, sum, gamma_n(n + 3) * sum + TINY);
}

/* === Norms ==================================================================================== */

static void test_norm(int rms)
{
    int n = size(1000);
    float eps = below(2) ? 1e-5f : 1e-12f, shift = rms || below(2) ? 0 : uniform() * 30;
    bool in_place = below(2);
    snprintf(shape, sizeof shape, "n %d eps %g shift %g", n, (double)eps, (double)shift);
    float *x = random_floats(n, below(2) ? 1.0f : 1e-2f), *w = random_floats(n, 2);
    float *b = random_floats(n, 1), *y = in_place ? x : floats(n);
    double *d = malloc((size_t)n * sizeof *d), mean = 0, abs = 0, var = 0;
    for (int i = 0; i < n; i++) {
        x[i] += shift;
        mean += x[i] / (double)n, abs += fabs(x[i]) / n;
    }
    mean = rms ? 0 : mean;
    for (int i = 0; i < n; i++) {
        d[i] = x[i] - mean;
        var += d[i] * d[i] / n;
    }
    if (rms)
        kernel.rmsnorm(y, x, w, eps, n);
    else
        kernel.layernorm(y, x, w, b, eps, n);
    /* The mean is off by at most off; each difference by that and a rounding; the squares by twice
     * as much, of which the part that is the same for all adds off^2, for the sum of d is 0. */
    double off = rms ? 0 : gamma_n(n + 1) * abs, r = 1 / sqrt(var + eps);
    double var_off = gamma_n(n + 6) * var + 2 * U * off * sqrt(var) + 1.1 * off * off;
    double rel = var_off * r * r / 2 + 4 * U;
    for (int i = 0; i < n; i++) {
        double v = d[i] * r, want = v * w[i] + (rms ? 0 : b[i]);
        double v_off = fabs(v) * (rel + 4 * U) + off * r * (1 + rel);
        near(i, y[i], want, 1.01 * (fabs(w[i]) * v_off + U * fabs(want)) + TINY);
    }
    free(d);
}

/* === Activations ============================================================================== */

static double act_exact(Act act, double x)
{
    switch (act) {
    case GELU:       return 0.5 * x * erfc(-x * sqrt(0.5));
    case GELU_TANH:  return x / (1 + exp(-2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case GELU_QUICK: return x / (1 + exp(-1.702 * x));
    case SILU:       return x / (1 + exp(-x));
    case RELU:       return x > 0 ? x : 0;
    default:         return x;
    }
}

/* GELU: x / 2 (1 + e), where e is erf to 6 u and its argument adds one more: 3.5 u |x|, and a
 * rounding. The others are x / (1 + exp(-z)): z is off by `off` roundings, and what that does to
 * the result is z (1 - sigmoid) times as much; then exp (2), sum and quotient. Where exp(-z)
 * overflows, the result is 0 instead of less than 2^-121. */
static double act_bound(Act act, double x)
{
    double y = act_exact(act, x), z, off;
    switch (act) {
    case GELU:       return U * (3.5 * fabs(x) + fabs(y)) + TINY;
    case GELU_TANH:  z = 2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x), off = 5; break;
    case GELU_QUICK: z = 1.702 * x, off = 2; break;
    case SILU:       z = x, off = 0; break;
    default:         return 0;
    }
    return U * 1.01 * fabs(y) * (5 + off * fabs(z) / (1 + exp(z))) + 0x1p-121;
}

static void test_act(int act)
{
    int n = size(500);
    float reach = below(3) ? 6.0f : 100.0f;
    snprintf(shape, sizeof shape, "n %d reach %g", n, (double)reach);
    float *y = random_floats(n, reach), *x = floats(n);
    memcpy(x, y, n * sizeof *x);
    kernel.act[act](y, n);
    for (int i = 0; i < n; i++)
        near(i, y[i], act_exact(act, x[i]), act_bound(act, x[i]));
}

static void test_cvt(int type)
{
    int n = size(600);
    snprintf(shape, sizeof shape, "n %d", n);
    void *x = random_weights(type, 1, n, n);
    float *y = floats(n);
    kernel.cvt[type](y, x, n);
    for (int i = 0; i < n; i++)
        equal(i, y[i], weight_at(x, type, i));
}

/* Numbers of all sizes that are near a number of 11 bits, or between two of them. */
static float near_f16(void)
{
    uint32_t bits = random_bits(), low = random_bits() & 3;
    float f;
    bits = (bits & 0x8007e000) | (uint32_t)(below(8) ? 90 + below(60) : below(255)) << 23;
    bits |= below(3) == 0 ? random_bits() & 0x1fff : low == 3 ? 0x1fff : low << 12;
    bits += (uint32_t)below(3) - 1;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* To the nearest number of p bits whose last is at least 2^least; ties to even. */
static double rounded(double x, int p, int least, double most)
{
    int e;
    frexp(x, &e);
    double unit = ldexp(1, e - p < least ? least : e - p), y = nearbyint(x / unit) * unit;
    return fabs(y) > most ? copysign(INFINITY, x) : y;
}

static void test_narrow(int type)
{
    int n = size(600);
    snprintf(shape, sizeof shape, "n %d", n);
    float *x = floats(n);
    size_t width = type == F32 ? 4 : 2;
    void *y = take(n * width, width);
    for (int i = 0; i < n; i++)
        x[i] = near_f16();
    kernel.narrow[type](y, x, n);
    for (int i = 0; i < n; i++)
        equal(i, weight_at(y, type, i), type == F32 ? x[i] : type == F16
              ? (float)rounded(x[i], 11, -24, 65504) : (float)rounded(x[i], 8, -133, 0x1.fep127));
}

static void test_rope(int kind)
{
    int half = size(70), d = 2 * half + (below(2) ? below(40) : 0), heads = 1 + below(4);
    snprintf(shape, sizeof shape, "heads %d d %d half %d", heads, d, half);
    size_t n = (size_t)heads * d;
    float *y = random_floats(n, 2), *x = floats(n), *cos = random_floats(half, 1);
    float *sin = random_floats(half, 1);
    memcpy(x, y, n * sizeof *x);
    kernel.rope[kind](y, cos, sin, heads, d, half);
    for (size_t i = 0; i < n; i++) {
        int at = (int)(i % (size_t)d), pair = kind == ROPE_HALVES ? at % half : at / 2;
        bool second = kind == ROPE_HALVES ? at >= half : at % 2;
        size_t step = kind == ROPE_HALVES ? (size_t)half : 1, other = second ? i - step : i + step;
        if (at >= 2 * half) {
            equal((long)i, y[i], x[i]);
            continue;
        }
        double s = second ? sin[pair] : -sin[pair], a = (double)x[i] * cos[pair];
        double b = (double)x[other] * s;
        near((long)i, y[i], a + b, gamma_n(2) * (fabs(a) + fabs(b)) + TINY);
    }
}

/* === Pictures ================================================================================= */

/* n weights that add up to about 1, some of them negative, as resize.c stores them. */
static const int16_t *random_taps(int n)
{
    int16_t *q = take((size_t)(n + 3) / 4 * 4 * 2 * sizeof *q, sizeof *q);
    memset(q, 0, (size_t)(n + 3) / 4 * 4 * 2 * sizeof *q);
    for (int k = 0; k < n; k++) {
        int32_t w = (int32_t)(((double)uniform() + 0.7) * (1 << TAP_BITS) / n);
        q[k / 2 * 4 + k % 2] = (int16_t)(w & 0x7fff);
        q[k / 2 * 4 + k % 2 + 2] = (int16_t)(w >> 15);
    }
    return q;
}

static uint8_t *random_bytes(size_t n)
{
    uint8_t *x = take(n, 1);
    for (size_t i = 0; i < n; i++)
        x[i] = (uint8_t)(below(4) ? below(256) : below(2) * 255);
    return x;
}

/* The mean of in[k * step] with the weights of t, rounded, within a byte. */
static int resampled(const uint8_t *in, size_t step, const Taps *t)
{
    int64_t sum = 1 << (TAP_BITS - 1);
    for (int k = 0; k < t->n; k++) {
        const int16_t *q = t->q + k / 2 * 4 + k % 2;
        sum += (int64_t)in[k * step] * ((int64_t)q[2] * (1 << 15) + q[0]);
    }
    sum >>= TAP_BITS;
    return sum < 0 ? 0 : sum > 255 ? 255 : (int)sum;
}

static void test_columns(int unused)
{
    (void)unused;
    int n = size(200), taps = size(20);
    size_t stride = n + below(5);
    snprintf(shape, sizeof shape, "n %d taps %d stride %zu", n, taps, stride);
    uint8_t *in = random_bytes(taps * stride), *out = take((size_t)n, 1);
    Taps t = { 0, taps, random_taps(taps) };
    kernel.resize_columns(out, in, stride, &t, n);
    for (int i = 0; i < n; i++)
        equal(i, out[i], (float)resampled(in + i, stride, &t));
}

static void test_rows(int unused)
{
    (void)unused;
    int w_in = size(60), w_out = size(20), rows = 1 + below(9);
    size_t ldi = 3 * (size_t)w_in + below(5), ldo = 3 * (size_t)w_out + below(5);
    snprintf(shape, sizeof shape, "rows %d of %d pixels to %d, ldi %zu ldo %zu", rows, w_in, w_out,
             ldi, ldo);
    uint8_t *in = random_bytes(rows * ldi - (ldi - 3 * (size_t)w_in)), *out = take(rows * ldo, 1);
    Taps t[64];
    for (int x = 0; x < w_out; x++) {
        t[x].n = 1 + below(min(w_in, 20));
        t[x].first = below(w_in - t[x].n + 1);
        t[x].q = x % 8 == 0 || t[x].n > t[x - 1].n ? random_taps(t[x].n) : t[x - 1].q;
        if (x % 8 && t[x].n <= t[x - 1].n) t[x].n = t[x - 1].n, t[x].first = t[x - 1].first;
    }
    kernel.resize_rows(out, ldo, in, ldi, t, rows, w_in, w_out);
    for (int y = 0; y < rows; y++) {
        for (int i = 0; i < 3 * w_out; i++)
            equal(y * w_out + i, out[y * ldo + i],
                  (float)resampled(in + y * ldi + 3 * (size_t)t[i / 3].first + i % 3, 3,
                                   &t[i / 3]));
        for (size_t i = 3 * (size_t)w_out; i < ldo; i++)
            if (out[y * ldo + i] != 0xff)
                fail_case("row %d: wrote byte %zu of %d", y, i, 3 * w_out);
    }
}

static void test_normalize(int unused)
{
    (void)unused;
    int n = size(200);
    double factor = below(3) ? 1 / 255.0 : 1;
    float mean[3], std[3], *y = floats(3 * (size_t)n);
    snprintf(shape, sizeof shape, "n %d", n);
    uint8_t *x = random_bytes(3 * (size_t)n);
    for (int c = 0; c < 3; c++) {
        mean[c] = uniform();
        std[c] = 0.2f + fabsf(uniform());
    }
    kernel.normalize(y, x, factor, mean, std, n);
    for (int i = 0; i < 3 * n; i++)
        equal(i, y[i], ((float)(x[i] * factor) - mean[i % 3]) / std[i % 3]);
}

/* === Drivers ================================================================================== */

static void test_gemm(int type)
{
    kernels_init(kernels_level(), below(2));    /* exact, or not */
    bool few = below(2);
    int m_item = few ? 1 + below(16) : 17 + below(40), items = 1 + below(3), m = m_item * items;
    int n = size(200), k = below(8) ? size(300) : 700 + below(1500);
    int lda = k + below(4), ldc = n + below(4);
    Epilogue e = { .act = below(2) ? (Act)below(6) : ACT_NONE, .add = below(2) };
    bool bias = below(2), mul = below(3) == 0;
    snprintf(shape, sizeof shape, "m %d of %d n %d k %d lda %d ldc %d bias %d act %d mul %d add %d",
             m, m_item, n, k, lda, ldc, bias, e.act, mul, e.add);
    float *A = random_rows(m, k, lda, 1), *C = random_rows(m, n, ldc, 1);
    float *one = floats((size_t)m * ldc), *before = floats((size_t)m * ldc);
    float *b = random_floats(n, 1), *g = random_floats((size_t)m * n, 2);
    void *W = random_weights(type, n, k, k);
    e.bias = bias ? b : NULL;
    e.mul = mul ? g : NULL;
    memcpy(before, C, (size_t)m * ldc * sizeof *C);
    memcpy(one, C, (size_t)m * ldc * sizeof *C);
    gemm(C, ldc, A, lda, W, type, m, n, k, m_item, e);
    for (int q = 0; q < 200; q++) {             /* some elements: each slot has its own test */
        int i = below(m), j = below(n);
        double sum = bias ? b[j] : 0, abs = fabs(sum);
        if (e.add)                              /* the residual may be the first of the terms */
            abs += fabs(before[(size_t)i * ldc + j]);
        for (int p = 0; p < k; p++) {
            double t = (double)A[(size_t)i * lda + p] * weight_at(W, type, (size_t)j * k + p);
            sum += t, abs += fabs(t);
        }
        /* no activation is steeper than 1.13; a bf16 number has 8 digits, so A rounded to it is off
         * by 2^-8 at most */
        double off = gamma_n(k + 8) + (type == BF16 && !few && kernel.tile_bf16 ? 0x1.01p-8 : 0);
        double want = act_exact(e.act, sum);
        double bound = 1.13 * off * abs + act_bound(e.act, sum);
        if (mul) {
            want *= g[(size_t)i * n + j];
            bound = bound * fabs(g[(size_t)i * n + j]) + U * fabs(want);
        }
        if (e.add) {
            want += before[(size_t)i * ldc + j];
            bound += U * (fabs(want) + bound);
        }
        near((long)i * n + j, C[(size_t)i * ldc + j], want, 1.01 * bound + TINY);
    }
    check_gaps(C, m, n, ldc);
    gemm(one, ldc, A, lda, W, type, m_item, n, k, m_item, e);       /* the first item alone */
    for (int i = 0; i < m_item; i++)
        for (int j = 0; j < n; j++)
            equal((long)i * n + j, one[(size_t)i * ldc + j], C[(size_t)i * ldc + j]);
}

/* === The table of tests ======================================================================= */

static const SlotTest TESTS[] = {
    { "few f32", test_few, F32, 4 }, { "few f16", test_few, F16, 4 },
    { "few bf16", test_few, BF16, 4 }, { "tile", test_tile, 0, 2 },
    { "pack f32", test_pack, F32, 2 }, { "pack f16", test_pack, F16, 2 },
    { "pack bf16", test_pack, BF16, 2 }, { "dot", test_dot, 0, 1 },
    { "scale", test_elementwise, SCALE, 1 },
    { "mix f32", test_mix, F32, 2 }, { "mix f16", test_mix, F16, 4 },
    { "mix bf16", test_mix, BF16, 4 }, { "add", test_elementwise, ADD, 1 },
    { "mul", test_elementwise, MUL, 1 }, { "max", test_max, 0, 1 },
    { "exp_sum", test_exp_sum, 0, 1 }, { "layernorm", test_norm, 0, 1 },
    { "rmsnorm", test_norm, 1, 1 }, { "gelu", test_act, GELU, 1 },
    { "gelu_tanh", test_act, GELU_TANH, 1 }, { "gelu_quick", test_act, GELU_QUICK, 1 },
    { "silu", test_act, SILU, 1 }, { "relu", test_act, RELU, 1 },
    { "act none", test_act, ACT_NONE, 1 }, { "cvt f32", test_cvt, F32, 1 },
    { "cvt f16", test_cvt, F16, 1 }, { "cvt bf16", test_cvt, BF16, 1 },
    { "narrow f32", test_narrow, F32, 1 }, { "narrow f16", test_narrow, F16, 1 },
    { "narrow bf16", test_narrow, BF16, 1 }, { "rope halves", test_rope, ROPE_HALVES, 1 },
    { "rope pairs", test_rope, ROPE_PAIRS, 1 },
    { "resize_columns", test_columns, 0, 2 }, { "resize_rows", test_rows, 0, 2 },
    { "normalize", test_normalize, 0, 2 },
    { "tile bf16", test_tile_bf16, 0, 2 }, { "pack bf16 pairs", test_pack_bf16, 0, 2 },
    { "gemm f32", test_gemm, F32, 8 }, { "gemm f16", test_gemm, F16, 8 },
    { "gemm bf16", test_gemm, BF16, 8 },
};
enum { N_TESTS = sizeof TESTS / sizeof *TESTS };

/* === Single values ============================================================================ */

/* All 65536 numbers of 16 bits. */
static void test_conversions(void)
{
    static uint16_t h[65536];
    static float y[65536];
    for (int i = 0; i < 65536; i++)
        h[i] = (uint16_t)i;
    slot = "cvt, all numbers";
    case_failed = false;
    kernel.cvt[F16](y, h, 65536);
    for (int i = 0; i < 65536; i++) {
        int exponent = i >> 10 & 31, mantissa = i & 1023;
        double v = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        v = exponent < 31 ? v : mantissa ? NAN : INFINITY;
        equal(i, y[i], (float)(i & 0x8000 ? -v : v));
    }
    kernel.cvt[BF16](y, h, 65536);
    for (int i = 0; i < 65536; i++) {
        uint32_t bits = (uint32_t)i << 16;
        float v;
        memcpy(&v, &bits, sizeof v);
        equal(i, y[i], v);
    }
    verdict(!case_failed);
}

/* Every `step`-th float: the largest error of exp in ulp, of the activations in their bounds. */
static void test_accuracy(void)
{
    enum { N = 1024 };
    static float x[N], y[N];
    uint32_t step = n_cases < 2000 ? 100003 : 5003;
    double worst[6] = { 0 }, exp_worst = 0;
    slot = "accuracy";
    case_failed = false;
    for (uint64_t bits = 0; bits < 0xff800000u; ) {
        for (int i = 0; i < N; i++, bits += step) {
            uint32_t b = (uint32_t)(bits < 0xff800000u ? bits : 0);
            b = (b & 0x7fffffff) > 0x7f800000 ? 0 : b;              /* no NaN */
            memcpy(x + i, &b, sizeof b);
        }
        kernel.exp_sum(y, x, 0, N);
        for (int i = 0; i < N; i++) {
            double want = exp(x[i]);
            if (want < 0x1p128 && ulps(y[i], want) > exp_worst)
                exp_worst = ulps(y[i], want);
            if (want >= 0x1p128 && !isinf(y[i]))
                fail_case("exp(%.9g) is %.9g, not infinite", (double)x[i], (double)y[i]);
        }
        for (int a = GELU; a <= RELU; a++) {
            memcpy(y, x, sizeof y);
            kernel.act[a](y, N);
            for (int i = 0; i < N; i++) {
                if (fabsf(x[i]) > 1e9f)
                    continue;
                double bound = act_bound(a, x[i]), off = fabs(y[i] - act_exact(a, x[i]));
                near((long)i, y[i], act_exact(a, x[i]), bound);
                if (bound > 0 && off / bound > worst[a])
                    worst[a] = off / bound;
            }
        }
    }
    if (exp_worst > 1.5)
        fail_case("exp is %.2f ulp off", exp_worst);
    printf("%s: largest error: exp %.2f ulp; of the bound: gelu %.2f, gelu_tanh %.2f, "
           "gelu_quick %.2f, silu %.2f\n", kernels_level(), exp_worst, worst[GELU],
           worst[GELU_TANH], worst[GELU_QUICK], worst[SILU]);
    verdict(!case_failed);
}

/* What is not a number stays so, and does not end in a crash or in a number. */
static void test_specials(void)
{
    float x[21], y[21];
    slot = "special values";
    case_failed = false;
    for (int i = 0; i < 21; i++)
        x[i] = i == 5 ? NAN : i == 7 ? -INFINITY : (float)-i;
    float sum = kernel.exp_sum(y, x, 0, 21);
    equal(5, y[5], NAN);
    equal(7, y[7], 0);
    equal(21, sum, NAN);
    for (int a = GELU; a < RELU; a++) {
        memcpy(y, x, sizeof y);
        y[7] = INFINITY;
        kernel.act[a](y, 21);
        equal(5, y[5], NAN);
        equal(7, y[7], INFINITY);
    }
    for (int i = 0; i < 21; i++)
        x[i] = -INFINITY;
    equal(22, kernel.max(x, 21), -INFINITY);
    verdict(!case_failed);
}

/* === Threads ================================================================================== */

/* A digest of products of many shapes. */
static uint64_t digest(void)
{
    uint64_t h = NO_FLOATS;
    for (int t = 0; t < of_digest(24); t++) {
        state = 77 + t;
        int m = t % 2 ? 1 + below(3) : 17 + below(250), n = 1 + below(400), k = 1 + below(900);
        float *A = random_floats((size_t)m * k, 1), *C = random_floats((size_t)m * n, 1);
        void *W = random_weights(t % 3, n, k, k);
        gemm(C, n, A, k, W, t % 3, m, n, k, m, (Epilogue){ .act = SILU, .add = t % 4 == 0 });
        h = hash_floats(h, C, (size_t)m * n);
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
        test_conversions();
        test_accuracy();
        test_specials();
    }
    run_slots(TESTS, N_TESTS);
}

int main(int argc, char **argv)
{
    return run_levels("kernels", argc, argv, test_level);
}
