/* ref.c -- every kernel in plain C: the definition that the fast ones are held against, and what
 * runs on a CPU that has none of them.
 *
 * One function per slot of the table, in the order of the table. gemm_avx2.c, vector_avx2.c and so
 * on have the same functions in the same order: read a function here, then there.
 *
 * Sums of long rows are kept in double, not for speed but so that a definition is better than what
 * it defines. The tile is the exception: it is what the whole program runs on where there is
 * nothing better, and a compiler can vectorise it in float.
 *
 * Easy to get wrong:
 *   - exp(-INFINITY) is 0 (masked scores), and -INFINITY - (-INFINITY) is not a number.
 *   - f16 has subnormals down to 2^-24; weights of real checkpoints have them.
 *   - GELU is x times the normal distribution function; "gelu" means the one with erf. */
#include "kernels.h"

#include <math.h>
#include <string.h>

/* === Conversions ============================================================================== */

/* f16: 1 sign, 5 exponent (bias 15), 10 mantissa bits. f32: 1, 8 (bias 127), 23. */
float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
    uint32_t bits;
    float f;
    if (exponent == 0)                          /* zero and subnormals: mantissa * 2^-24 */
        return (sign ? -1.0f : 1.0f) * (float)mantissa * 0x1p-24f;
    if (exponent == 31)                         /* infinity; NaN, made quiet */
        bits = sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000 : 0);
    else
        bits = sign | (exponent + 127 - 15) << 23 | mantissa << 13;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* bf16 is the upper half of an f32. */
float bf16_to_f32(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float f32_to_f32(float f) { return f; }

/* Bits of a float without the lower n, rounded to nearest, ties to even: an odd half is carried. */
static uint32_t shift_right(uint32_t bits, int n)
{
    uint32_t half = 1u << (n - 1);
    return (bits + half - 1 + (bits >> n & 1)) >> n;
}

/* A carry out of the mantissa goes into the exponent, and is then right as it is: also where the
 * largest subnormal becomes the smallest normal number, and the largest number infinity. */
uint16_t f32_to_f16(float f)
{
    uint32_t bits, sign;
    memcpy(&bits, &f, sizeof bits);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)                      /* NaN, made quiet; its upper bits stay */
        return (uint16_t)(sign | 0x7e00 | (bits >> 13 & 0x1ff));
    if (bits >= 0x477ff000)                     /* from 65520 up: infinity */
        return (uint16_t)(sign | 0x7c00);
    if (bits >= 0x38800000)                     /* 2^-14: normal */
        return (uint16_t)(sign | shift_right(bits - ((127 - 15) << 23), 13));
    int exponent = (int)(bits >> 23);
    if (exponent < 102)                         /* below 2^-25 */
        return (uint16_t)sign;
    return (uint16_t)(sign | shift_right((bits & 0x7fffff) | 0x800000, 126 - exponent));
}

uint16_t f32_to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)shift_right(bits, 16);
}

/* === Matrix products ========================================================================== */

enum { TILE_M = 4, TILE_N = 16 };               /* accumulators that a compiler can keep at hand */

/* What differs between the three weight types is how one element is read. */
#define FOR_EACH_TYPE(STAMP)          \
    STAMP(f32, float, f32_to_f32)     \
    STAMP(f16, uint16_t, f16_to_f32)  \
    STAMP(bf16, uint16_t, bf16_to_f32)

/* C[i][j] = sum over p of A[i][p] W[j][p] */
#define FEW(name, T, to_f32)                                                                   \
    static void few_##name##_ref(float *C, int ldc, const float *A, int lda, const void *W,    \
                                 int ldw, int m, int n, int k)                                 \
    {                                                                                          \
        for (int j = 0; j < n; j++) {                                                          \
            const T *w = (const T *)W + (size_t)j * ldw;                                       \
            for (int i = 0; i < m; i++) {                                                      \
                const float *a = A + (size_t)i * lda;                                          \
                double sum = 0;                                                                \
                for (int p = 0; p < k; p++)                                                    \
                    sum += (double)a[p] * to_f32(w[p]);                                        \
                C[(size_t)i * ldc + j] = (float)sum;                                           \
            }                                                                                  \
        }                                                                                      \
    }
FOR_EACH_TYPE(FEW)

/* C[i][j] (+)= sum over p of A[i][p] P[p][j] */
static void tile_ref(float *C, int ldc, const float *A, int lda, const float *P, int mr, int nr,
                     int k, bool accumulate, Ahead *ahead)
{
    (void)ahead;
    for (int i = 0; i < mr; i++) {
        const float *a = A + (size_t)i * lda;
        float *c = C + (size_t)i * ldc, sum[TILE_N] = { 0 };
        for (int p = 0; p < k; p++)
            for (int j = 0; j < TILE_N; j++)
                sum[j] += a[p] * P[(size_t)p * TILE_N + j];
        for (int j = 0; j < nr; j++)
            c[j] = accumulate ? c[j] + sum[j] : sum[j];
    }
}

/* P[p][j] = W[j][p] for j < nr, 0 for the other columns of the panel */
#define PACK(name, T, to_f32)                                                                  \
    static void pack_##name##_ref(float *P, const void *W, int ldw, int nr, int k)             \
    {                                                                                          \
        memset(P, 0, (size_t)k * TILE_N * sizeof *P);                                          \
        for (int j = 0; j < nr; j++) {                                                         \
            const T *w = (const T *)W + (size_t)j * ldw;                                       \
            for (int p = 0; p < k; p++)                                                        \
                P[(size_t)p * TILE_N + j] = to_f32(w[p]);                                      \
        }                                                                                      \
    }
FOR_EACH_TYPE(PACK)

/* === Vectors ================================================================================== */

static float dot_ref(const float *a, const float *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return (float)sum;
}

static void scale_ref(float *y, float s, int n)
{
    for (int i = 0; i < n; i++)
        y[i] *= s;
}

#define MIX(name, T, to_f32)                                                                   \
    static void mix_##name##_ref(float *y, int ldy, const float *p, int ldp, const void *V,    \
                                 int ldv, int m, int n, int d)                                 \
    {                                                                                          \
        for (int i = 0; i < m; i++)                                                            \
            for (int c = 0; c < d; c++) {                                                      \
                double sum = 0;                                                                \
                for (int j = 0; j < n; j++)                                                    \
                    sum += (double)p[(size_t)i * ldp + j] *                                    \
                           to_f32(((const T *)V)[(size_t)j * ldv + c]);                        \
                y[(size_t)i * ldy + c] += (float)sum;                                          \
            }                                                                                  \
    }
FOR_EACH_TYPE(MIX)

static void add_ref(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i++)
        y[i] += x[i];
}

static void mul_ref(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i++)
        y[i] *= x[i];
}

static float max_ref(const float *x, int n)
{
    float m = x[0];
    for (int i = 1; i < n; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

static float exp_sum_ref(float *y, const float *x, float m, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += y[i] = expf(x[i] - m);
    return (float)sum;
}

/* === Norms ==================================================================================== */

/* y = (x - mean) / sqrt(variance + eps) * w + b. The variance is that of the population (divided by
 * n), taken from the differences to the mean: E[x^2] - E[x]^2 would lose everything that matters
 * where the mean is large. */
static void layernorm_ref(float *y, const float *x, const float *w, const float *b, float eps,
                          int n)
{
    double mean = 0, var = 0;
    for (int i = 0; i < n; i++)
        mean += x[i];
    mean /= n;
    for (int i = 0; i < n; i++)
        var += (x[i] - mean) * (x[i] - mean);
    double r = 1 / sqrt(var / n + eps);
    for (int i = 0; i < n; i++)
        y[i] = (float)((x[i] - mean) * r) * w[i] + b[i];
}

/* y = x / sqrt(mean of x^2 + eps) * w */
static void rmsnorm_ref(float *y, const float *x, const float *w, float eps, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    double r = 1 / sqrt(sum / n + eps);
    for (int i = 0; i < n; i++)
        y[i] = (float)(x[i] * r) * w[i];
}

/* === Activations ============================================================================== */

static void none_ref(float *y, int n)
{
    (void)y, (void)n;
}

/* x P(X <= x) for X normal: x (1 + erf(x / sqrt 2)) / 2. arXiv 1606.08415 */
static void gelu_ref(float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = (float)(0.5 * y[i] * erfc(-0.70710678118654752 * y[i]));
}

/* x (1 + tanh(u)) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3): GELU as GPT-2 and BERT's code had it.
 * (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)): with the exponential nothing cancels where x < 0. */
static void gelu_tanh_ref(float *y, int n)
{
    for (int i = 0; i < n; i++) {
        double x = y[i], u = 0.79788456080286536 * (x + 0.044715 * x * x * x);
        y[i] = (float)(x / (1 + exp(-2 * u)));
    }
}

/* x sigmoid(1.702 x): OpenAI's CLIP */
static void gelu_quick_ref(float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = (float)(y[i] / (1 + exp(-1.702 * y[i])));
}

/* x sigmoid(x), also called swish. arXiv 1702.03118 */
static void silu_ref(float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = (float)(y[i] / (1 + exp(-(double)y[i])));
}

static void relu_ref(float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = y[i] < 0 ? 0 : y[i];
}

/* === Conversion of rows ======================================================================= */

#define CVT(name, T, to_f32)                                                                   \
    static void cvt_##name##_ref(float *y, const void *x, int n)                               \
    {                                                                                          \
        for (int i = 0; i < n; i++)                                                            \
            y[i] = to_f32(((const T *)x)[i]);                                                  \
    }
FOR_EACH_TYPE(CVT)

static void narrow_f32_ref(void *y, const float *x, int n)
{
    memcpy(y, x, (size_t)n * sizeof *x);
}

static void narrow_f16_ref(void *y, const float *x, int n)
{
    for (int i = 0; i < n; i++)
        ((uint16_t *)y)[i] = f32_to_f16(x[i]);
}

static void narrow_bf16_ref(void *y, const float *x, int n)
{
    for (int i = 0; i < n; i++)
        ((uint16_t *)y)[i] = f32_to_bf16(x[i]);
}

/* === Positions ================================================================================ */

static void rotate(float *a, float *b, float cos, float sin)
{
    float was = *a;
    *a = was * cos - *b * sin;
    *b = *b * cos + was * sin;
}

static void rope_halves_ref(float *y, const float *cos, const float *sin, int n_heads, int d,
                            int half)
{
    for (int h = 0; h < n_heads; h++, y += d)
        for (int i = 0; i < half; i++)
            rotate(y + i, y + i + half, cos[i], sin[i]);
}

static void rope_pairs_ref(float *y, const float *cos, const float *sin, int n_heads, int d,
                           int half)
{
    for (int h = 0; h < n_heads; h++, y += d)
        for (int i = 0; i < half; i++)
            rotate(y + 2 * i, y + 2 * i + 1, cos[i], sin[i]);
}

/* === Pictures ================================================================================= */

static int32_t weight(const Taps *t, int k)
{
    const int16_t *q = t->q + k / 2 * 4 + k % 2;
    return q[2] * (1 << 15) + q[0];
}

/* The sums stay below 2^31 for every filter there is; unsigned, so that damage could only wrap. */
static uint8_t clip8(uint32_t sum)
{
    int32_t v = (int32_t)(sum + (1u << (TAP_BITS - 1))) >> TAP_BITS;
    return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v;
}

static void resize_columns_ref(uint8_t *out, const uint8_t *in, size_t stride, const Taps *t, int n)
{
    for (int i = 0; i < n; i++) {
        uint32_t sum = 0;
        for (int k = 0; k < t->n; k++)
            sum += (uint32_t)in[k * stride + i] * (uint32_t)weight(t, k);
        out[i] = clip8(sum);
    }
}

static void resize_rows_ref(uint8_t *out, size_t ldo, const uint8_t *in, size_t ldi,
                            const Taps *taps, int rows, int w_in, int w_out)
{
    (void)w_in;
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < w_out; x++) {
            const Taps *t = taps + x;
            uint32_t sum[3] = { 0 };
            for (int k = 0; k < t->n; k++)
                for (int c = 0; c < 3; c++)
                    sum[c] += in[y * ldi + 3 * (size_t)(t->first + k) + c] *
                              (uint32_t)weight(t, k);
            for (int c = 0; c < 3; c++)
                out[y * ldo + 3 * (size_t)x + c] = clip8(sum[c]);
        }
}

static void normalize_ref(float *y, const uint8_t *x, double factor, const float *mean,
                          const float *std, int n)
{
    for (int i = 0; i < 3 * n; i++)
        y[i] = ((float)(x[i] * factor) - mean[i % 3]) / std[i % 3];
}

/* === Attention of many queries ================================================================ */

enum { LANES = 16 };

static void transpose_ref(float *to, int ldt, const float *from, int ldf, int m, int n, float s)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
            to[(size_t)j * ldt + i] = s * from[(size_t)i * ldf + j];
}

static void lane_scores_ref(float *S, const float *Q, const float *K, int ldk, int n_lanes, int n,
                            int d)
{
    (void)n_lanes;
    for (int j = 0; j < n; j++) {
        float sum[LANES] = { 0 };
        for (int c = 0; c < d; c++)
            for (int l = 0; l < LANES; l++)
                sum[l] += K[(size_t)j * ldk + c] * Q[c * LANES + l];
        memcpy(S + j * LANES, sum, sizeof sum);
    }
}

static void lane_soften_ref(float *S, float *max, float *sum, float *shrink, const int *seen,
                            int n_lanes, int n)
{
    for (int l = 0; l < n_lanes; l++) {
        int n_seen = seen && seen[l] < n ? seen[l] : n;
        float m = max[l];
        double total = 0;
        for (int j = 0; j < n_seen; j++)
            m = S[j * LANES + l] > m ? S[j * LANES + l] : m;
        float base = m == -INFINITY ? 0 : m;    /* else -INFINITY - -INFINITY */
        for (int j = 0; j < n; j++)
            total += S[j * LANES + l] = j < n_seen ? exp2f(S[j * LANES + l] - base) : 0;
        shrink[l] = exp2f(max[l] - base);
        sum[l] = sum[l] * shrink[l] + (float)total;
        max[l] = m;
    }
}

static void lane_mix_ref(float *out, const float *shrink, const float *S, const float *V, int ldv,
                         int n_lanes, int n, int d)
{
    (void)n_lanes;
    for (int c = 0; c < d; c++) {
        float sum[LANES];
        for (int l = 0; l < LANES; l++)
            sum[l] = out[c * LANES + l] * shrink[l];
        for (int j = 0; j < n; j++)
            for (int l = 0; l < LANES; l++)
                sum[l] += V[(size_t)j * ldv + c] * S[j * LANES + l];
        memcpy(out + c * LANES, sum, sizeof sum);
    }
}

void kernels_ref(Kernels *k)
{
    *k = (Kernels){
        .exact = k->exact,
        .few = { few_f32_ref, few_f16_ref, few_bf16_ref },
        .tile_m = TILE_M, .tile_n = TILE_N, .tile = tile_ref,
        .pack = { pack_f32_ref, pack_f16_ref, pack_bf16_ref },
        .dot = dot_ref, .scale = scale_ref, .mix = { mix_f32_ref, mix_f16_ref, mix_bf16_ref },
        .add = add_ref, .mul = mul_ref, .max = max_ref, .exp_sum = exp_sum_ref,
        .layernorm = layernorm_ref, .rmsnorm = rmsnorm_ref,
        .act = { none_ref, gelu_ref, gelu_tanh_ref, gelu_quick_ref, silu_ref, relu_ref },
        .cvt = { cvt_f32_ref, cvt_f16_ref, cvt_bf16_ref },
        .narrow = { narrow_f32_ref, narrow_f16_ref, narrow_bf16_ref },
        .rope = { rope_halves_ref, rope_pairs_ref }, .transpose = transpose_ref,
        .resize_columns = resize_columns_ref, .resize_rows = resize_rows_ref,
        .normalize = normalize_ref,
        .lanes = LANES, .lane_step = LANES, .lane_scores = lane_scores_ref,
        .lane_soften = lane_soften_ref, .lane_mix = lane_mix_ref,
    };
}
