/* vector_avx2.c -- rows of numbers with AVX2: registers of 8 floats: the steps of
 * attention, norms, activations, conversion.
 *
 * Most of them read and write each number once or twice: what bounds them is the memory, or the
 * first-level cache where a driver has just put the row there. exp, erf and the activations are
 * polynomials fitted for this file (minimax on the stated interval); the errors are measured over
 * all floats by test/kernels.c and bounded there.
 *
 * Instructions for 8 numbers, the loop's included, as gcc 12 makes them:
 *
 *   layernorm                    15 in the last of its three passes
 *   exp_sum                      45
 *   silu, gelu, gelu_tanh        34, 36, 37, one of them a division of 8: 5 to 6 cycles of its unit
 *                                on Skylake and Zen 2, 14 on Haswell
 *
 * At four instructions a cycle (Haswell) that is 9 to 14 cycles, at six (Zen) 6 to 8. 8 numbers are
 * 64 bytes read and written: 8 cycles where the memory gives 8 bytes a cycle. Both are about even;
 * what is simpler than an exponential is bound by memory alone.
 *
 * Easy to get wrong: max(x, y) is y if one is not a number; with the bound first, NaN passes. */
#include "avx2.h"

#include <math.h>

/* === Vectors ================================================================================== */

static float dot_avx2(const float *a, const float *b, int n)
{
    __m256 s[4] = { _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                    _mm256_setzero_ps() };
    int i = 0;
    for (; i + 32 <= n; i += 32)
        for (int v = 0; v < 4; v++)
            s[v] = _mm256_fmadd_ps(load_f32(a + i + 8 * v), load_f32(b + i + 8 * v), s[v]);
    for (; i < n; i += 8)
        s[0] = _mm256_fmadd_ps(part_f32(a + i, n - i), part_f32(b + i, n - i), s[0]);
    return sum8(_mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
}

static void scale_avx2(float *y, float s, int n)
{
    for (int i = 0; i < n; i += 8)
        store(y + i, n - i, _mm256_mul_ps(_mm256_set1_ps(s), part_f32(y + i, n - i)));
}

/* M rows and 8 N columns of weighted sums of rows: what is read of V serves the rows. Each sum is
 * taken in the order of j, whatever M and N are. The last columns may be fewer than 8. */
#define MIX(name, T)                                                                           \
    INLINE void mix_part_##name(float *y, int ldy, const float *p, int ldp, const T *V, int ldv,\
                                int n, int last, const int M, const int N)                     \
    {                                                                                          \
        __m256 s[4][4], v[4];                                                                  \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int c = 0; c < N; c++)                                                        \
                s[i][c] = _mm256_setzero_ps();                                                 \
        for (int j = 0; j < n; j++, V += ldv) {                                                \
            UNROLL                                                                             \
            for (int c = 0; c < N; c++)                                                        \
                v[c] = last < 8 ? part_##name(V + 8 * c, last) : load_##name(V + 8 * c);       \
            UNROLL                                                                             \
            for (int i = 0; i < M; i++) {                                                      \
                __m256 a = _mm256_broadcast_ss(p + (size_t)i * ldp + j);                       \
                UNROLL                                                                         \
                for (int c = 0; c < N; c++)                                                    \
                    s[i][c] = _mm256_fmadd_ps(a, v[c], s[i][c]);                               \
            }                                                                                  \
        }                                                                                      \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int c = 0; c < N; c++) {                                                      \
                float *to = y + (size_t)i * ldy + 8 * c;                                       \
                store(to, last, _mm256_add_ps(part_f32(to, last), s[i][c]));                   \
            }                                                                                  \
    }                                                                                          \
                                                                                               \
    INLINE void mix_rows_##name(float *y, int ldy, const float *p, int ldp, const T *V, int ldv,\
                                int n, int d, const int M, const int N)                        \
    {                                                                                          \
        int c = 0;                                                                             \
        for (; c + 8 * N <= d; c += 8 * N)                                                     \
            mix_part_##name(y + c, ldy, p, ldp, V + c, ldv, n, 8, M, N);                       \
        for (; c + 8 <= d; c += 8)                                                             \
            mix_part_##name(y + c, ldy, p, ldp, V + c, ldv, n, 8, M, 1);                       \
        if (c < d) mix_part_##name(y + c, ldy, p, ldp, V + c, ldv, n, d - c, M, 1);            \
    }                                                                                          \
                                                                                               \
    static void mix_##name##_avx2(float *y, int ldy, const float *p, int ldp, const void *V,   \
                                   int ldv, int m, int n, int d)                               \
    {                                                                                          \
        int i = 0;                                                                             \
        for (; i + 4 <= m; i += 4)                                                             \
            mix_rows_##name(y + (size_t)i * ldy, ldy, p + (size_t)i * ldp, ldp, V, ldv, n, d,  \
                            4, 2);                                                             \
        for (; i < m; i++)                                                                     \
            mix_rows_##name(y + (size_t)i * ldy, ldy, p + (size_t)i * ldp, ldp, V, ldv, n, d,  \
                            1, 4);                                                             \
    }
FOR_EACH_TYPE(MIX)

static void add_avx2(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i += 8)
        store(y + i, n - i, _mm256_add_ps(part_f32(y + i, n - i), part_f32(x + i, n - i)));
}

static void mul_avx2(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i += 8)
        store(y + i, n - i, _mm256_mul_ps(part_f32(y + i, n - i), part_f32(x + i, n - i)));
}

static float max_avx2(const float *x, int n)
{
    __m256 m[4];
    for (int v = 0; v < 4; v++)
        m[v] = _mm256_set1_ps(x[0]);
    int i = 0;
    for (; i + 32 <= n; i += 32)
        for (int v = 0; v < 4; v++)
            m[v] = _mm256_max_ps(load_f32(x + i + 8 * v), m[v]);
    for (; i < n; i += 8) {
        __m256 v = part_f32(x + i, n - i), part = _mm256_castsi256_ps(first(n - i));
        m[0] = _mm256_max_ps(_mm256_blendv_ps(m[0], v, part), m[0]);
    }
    return max8(_mm256_max_ps(_mm256_max_ps(m[0], m[1]), _mm256_max_ps(m[2], m[3])));
}

/* e^x = 2^n e^r, x = n ln 2 + r, |r| <= ln 2 / 2 (and a little): e^r and the sum with 1.5 * 2^23 +
 * 127 that has n + 127 in its lowest bits. ln 2 is subtracted in two parts, the first of which has
 * 15 bits, so that n times it is exact. */
INLINE __m256 exp_part(__m256 x, __m256 *n127)
{
    __m256 magic = _mm256_set1_ps(0x1.8p23f + 127);
    *n127 = _mm256_fmadd_ps(x, _mm256_set1_ps(0x1.715476p+0f), magic);
    __m256 n = _mm256_sub_ps(*n127, magic);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    __m256 e = _mm256_set1_ps(0x1.6a2350p-10f);
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0x1.123a6cp-7f));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0x1.5558f4p-5f));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0x1.555490p-3f));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0x1.fffffcp-2f));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1));
    return _mm256_fmadd_ps(e, r, _mm256_set1_ps(1));
}

/* The number whose exponent is the lowest bits of i: 2^(i - 127) for 0 < i < 255, 0 for 0. */
INLINE __m256 power(__m256i i) { return _mm256_castsi256_ps(_mm256_slli_epi32(i, 23)); }

/* e^x for every float: within 1 ulp, subnormal results (2 ulp of theirs) included. Where 2^n is too
 * small or too large for a float and e^x is not, it is multiplied in two halves. */
INLINE __m256 exp256(__m256 x)
{
    __m256 n127, size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    if (!_mm256_movemask_ps(_mm256_cmp_ps(size, _mm256_set1_ps(87), _CMP_NLE_UQ))) {
        __m256 e = exp_part(x, &n127);
        return _mm256_mul_ps(e, power(_mm256_castps_si256(n127)));
    }
    x = _mm256_min_ps(_mm256_set1_ps(89), _mm256_max_ps(_mm256_set1_ps(-104), x));
    __m256 e = exp_part(x, &n127);
    __m256i bias = _mm256_set1_epi32(127);
    __m256i i = _mm256_sub_epi32(_mm256_castps_si256(n127), _mm256_set1_epi32(0x4b40007f));
    __m256i half = _mm256_srai_epi32(i, 1), rest = _mm256_sub_epi32(i, half);
    e = _mm256_mul_ps(e, power(_mm256_add_epi32(half, bias)));
    return _mm256_mul_ps(e, power(_mm256_add_epi32(rest, bias)));
}

static float exp_sum_avx2(float *y, const float *x, float m, int n)
{
    __m256 sum = _mm256_setzero_ps(), vm = _mm256_set1_ps(m);
    for (int i = 0; i < n; i += 8) {
        __m256 e = exp256(_mm256_sub_ps(part_f32(x + i, n - i), vm));
        store(y + i, n - i, e);
        sum = _mm256_add_ps(sum, _mm256_and_ps(e, _mm256_castsi256_ps(first(n - i))));
    }
    return sum8(sum);
}

/* === Norms ==================================================================================== */

/* The sum of (x - m)^power over the row, power 1 or 2. */
INLINE float sum_power(const float *x, float m, int n, const int power)
{
    __m256 s[4], vm = _mm256_set1_ps(m);
    for (int v = 0; v < 4; v++)
        s[v] = _mm256_setzero_ps();
    for (int i = 0; i < n; i += 32)
        for (int v = 0; v < 4; v++) {
            int left = n - i - 8 * v;
            if (left <= 0) break;
            __m256 d = _mm256_sub_ps(part_f32(x + i + 8 * v, left), vm);
            d = _mm256_and_ps(d, _mm256_castsi256_ps(first(left)));
            s[v] = power == 1 ? _mm256_add_ps(s[v], d) : _mm256_fmadd_ps(d, d, s[v]);
        }
    return sum8(_mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
}

static void layernorm_avx2(float *y, const float *x, const float *w, const float *b, float eps,
                           int n)
{
    float mean = sum_power(x, 0, n, 1) / (float)n;
    float r = 1 / sqrtf(sum_power(x, mean, n, 2) / (float)n + eps);
    __m256 vm = _mm256_set1_ps(mean), vr = _mm256_set1_ps(r);
    for (int i = 0; i < n; i += 8) {
        int left = n - i;
        __m256 v = _mm256_mul_ps(_mm256_sub_ps(part_f32(x + i, left), vm), vr);
        store(y + i, left, _mm256_fmadd_ps(v, part_f32(w + i, left), part_f32(b + i, left)));
    }
}

static void rmsnorm_avx2(float *y, const float *x, const float *w, float eps, int n)
{
    __m256 vr = _mm256_set1_ps(1 / sqrtf(sum_power(x, 0, n, 2) / (float)n + eps));
    for (int i = 0; i < n; i += 8)
        store(y + i, n - i, _mm256_mul_ps(_mm256_mul_ps(part_f32(x + i, n - i), vr),
                                          part_f32(w + i, n - i)));
}

/* === Activations ============================================================================== */

/* erf(t) = t N(t^2) / D(t^2), within 6 ulp (1 on average); exactly 1 beyond 3.925. */
INLINE __m256 erf256(__m256 t)
{
    t = _mm256_min_ps(_mm256_set1_ps(3.925f), _mm256_max_ps(_mm256_set1_ps(-3.925f), t));
    __m256 s = _mm256_mul_ps(t, t);
    __m256 n = _mm256_set1_ps(0x1.129bc0p-19f), d = _mm256_set1_ps(0x1.3f2a04p-15f);
    n = _mm256_fmadd_ps(n, s, _mm256_set1_ps(0x1.2aadb2p-12f));
    d = _mm256_fmadd_ps(d, s, _mm256_set1_ps(0x1.311962p-10f));
    n = _mm256_fmadd_ps(n, s, _mm256_set1_ps(0x1.ee7ad2p-9f));
    d = _mm256_fmadd_ps(d, s, _mm256_set1_ps(0x1.eaf8bep-7f));
    n = _mm256_fmadd_ps(n, s, _mm256_set1_ps(0x1.b04972p-5f));
    d = _mm256_fmadd_ps(d, s, _mm256_set1_ps(0x1.d3b1acp-4f));
    n = _mm256_fmadd_ps(n, s, _mm256_set1_ps(0x1.86568ep-3f));
    d = _mm256_fmadd_ps(d, s, _mm256_set1_ps(0x1.0125fep-1f));
    n = _mm256_fmadd_ps(n, s, _mm256_set1_ps(0x1.20dd74p+0f));
    d = _mm256_fmadd_ps(d, s, _mm256_set1_ps(1));
    __m256 e = _mm256_div_ps(_mm256_mul_ps(t, n), d);
    return _mm256_min_ps(_mm256_set1_ps(1), _mm256_max_ps(_mm256_set1_ps(-1), e));
}

/* x / (1 + e^-z). Below e^-87 the power adds nothing to 1; up to e^89, where it becomes infinite
 * and the quotient 0, 2^n is 2 * 2^(n - 1). */
INLINE __m256 sigmoid_times(__m256 x, __m256 z)
{
    __m256 n127, y = _mm256_xor_ps(z, _mm256_set1_ps(-0.0f));
    y = _mm256_min_ps(_mm256_set1_ps(89), _mm256_max_ps(_mm256_set1_ps(-87), y));
    __m256 e = exp_part(y, &n127);
    __m256i i = _mm256_sub_epi32(_mm256_castps_si256(n127), _mm256_set1_epi32(1));
    return _mm256_div_ps(x, _mm256_fmadd_ps(_mm256_add_ps(e, e), power(i), _mm256_set1_ps(1)));
}

INLINE __m256 gelu(__m256 x)
{
    __m256 half = _mm256_mul_ps(x, _mm256_set1_ps(0.5f));
    return _mm256_fmadd_ps(half, erf256(_mm256_mul_ps(x, _mm256_set1_ps(0x1.6a09e6p-1f))), half);
}

INLINE __m256 gelu_tanh(__m256 x)       /* z = 2 sqrt(2 / pi) (x + 0.044715 x^3) */
{
    __m256 s = _mm256_mul_ps(x, x);
    __m256 z = _mm256_fmadd_ps(s, _mm256_set1_ps(0x1.2444f2p-4f), _mm256_set1_ps(0x1.988454p+0f));
    return sigmoid_times(x, _mm256_mul_ps(x, z));
}

INLINE __m256 gelu_quick(__m256 x)
{
    return sigmoid_times(x, _mm256_mul_ps(x, _mm256_set1_ps(1.702f)));
}

INLINE __m256 silu(__m256 x) { return sigmoid_times(x, x); }
INLINE __m256 relu(__m256 x) { return _mm256_max_ps(_mm256_setzero_ps(), x); }

#define ACTIVATION(name)                                                                       \
    static void name##_avx2(float *y, int n)                                                   \
    {                                                                                          \
        for (int i = 0; i < n; i += 8)                                                         \
            store(y + i, n - i, name(part_f32(y + i, n - i)));                                 \
    }
ACTIVATION(gelu) ACTIVATION(gelu_tanh) ACTIVATION(gelu_quick) ACTIVATION(silu) ACTIVATION(relu)

/* === Conversion of rows ======================================================================= */

#define CVT(name, T)                                                                           \
    static void cvt_##name##_avx2(float *y, const void *x, int n)                              \
    {                                                                                          \
        int i = 0;                                                                             \
        for (; i + 8 <= n; i += 8)                                                             \
            _mm256_storeu_ps(y + i, load_##name((const T *)x + i));                            \
        if (i < n)                                                                             \
            store(y + i, n - i, part_##name((const T *)x + i, n - i));                         \
    }
FOR_EACH_TYPE(CVT)

static void narrow_f32_avx2(void *y, const float *x, int n)
{
    memcpy(y, x, (size_t)n * sizeof *x);
}

INLINE __m128i to_f16(__m256 v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }

/* To nearest, ties to even: half of the last place that stays, less one if that place is even, and
 * what is carried over is right. */
INLINE __m128i to_bf16(__m256 v)
{
    __m256i bits = _mm256_castps_si256(v), upper = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    bits = _mm256_srli_epi32(bits, 16);
    __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));        /* not a number */
    __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    bits = _mm256_blendv_epi8(bits, quiet, _mm256_castps_si256(nan));
    bits = _mm256_packus_epi32(bits, bits);                                 /* 0..3 twice, 4..7 */
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(bits, 0x08));
}

#define NARROW(name)                                                                           \
    static void narrow_##name##_avx2(void *y, const float *x, int n)                           \
    {                                                                                          \
        uint16_t *to = y;                                                                      \
        int i = 0;                                                                             \
        for (; i + 8 <= n; i += 8)                                                             \
            _mm_storeu_si128((__m128i *)(to + i), to_##name(load_f32(x + i)));                 \
        if (i < n) {                                                                           \
            uint16_t copy[8];                                                                  \
            _mm_storeu_si128((__m128i *)copy, to_##name(part_f32(x + i, n - i)));              \
            memcpy(to + i, copy, (size_t)(n - i) * sizeof *to);                                \
        }                                                                                      \
    }
NARROW(f16) NARROW(bf16)

/* === Positions ================================================================================ */

static void rope_halves_avx2(float *y, const float *cos, const float *sin, int n_heads, int d,
                             int half)
{
    for (int h = 0; h < n_heads; h++, y += d)
        for (int i = 0; i < half; i += 8) {
            int left = half - i;
            __m256 a = part_f32(y + i, left), b = part_f32(y + half + i, left);
            __m256 c = part_f32(cos + i, left), s = part_f32(sin + i, left);
            store(y + i, left, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
            store(y + half + i, left, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
        }
}

/* Four pairs a b: each times its cosine, minus and plus its neighbour times the sine. */
static void rope_pairs_avx2(float *y, const float *cos, const float *sin, int n_heads, int d,
                            int half)
{
    __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    for (int h = 0; h < n_heads; h++, y += d)
        for (int i = 0; i < half; i += 4) {
            int left = half - i < 4 ? half - i : 4;
            __m256 v = part_f32(y + 2 * i, 2 * left);
            __m256 c = _mm256_permutevar8x32_ps(part_f32(cos + i, left), twice);
            __m256 s = _mm256_permutevar8x32_ps(part_f32(sin + i, left), twice);
            __m256 other = _mm256_mul_ps(_mm256_permute_ps(v, 0xb1), s);
            store(y + 2 * i, 2 * left, _mm256_fmaddsub_ps(v, c, other));
        }
}

/* === Pictures ================================================================================= */

/* Sums of low and high parts -> numbers of 32 bits with the fraction cut off; low begins with half
 * a unit. */
INLINE __m256i whole(__m256i low, __m256i high)
{
    return _mm256_srai_epi32(_mm256_add_epi32(low, _mm256_slli_epi32(high, 15)), TAP_BITS);
}

/* One output of the column pass, for what does not fill a register. The two sums may pass 2^31, as
 * they do in registers; what they add up to does not, so it is right modulo 2^32. */
static uint8_t one_output(const uint8_t *in, size_t stride, const Taps *t)
{
    uint32_t low = 1 << (TAP_BITS - 1), high = 0;
    for (int k = 0; k < t->n; k++) {
        low += (uint32_t)(in[k * stride] * t->q[k / 2 * 4 + k % 2]);
        high += (uint32_t)(in[k * stride] * t->q[k / 2 * 4 + k % 2 + 2]);
    }
    int32_t v = (int32_t)(low + (high << 15)) >> TAP_BITS;
    return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v;
}

/* 32 outputs. Bytes of two rows, interleaved and widened, are pairs of 16-bit numbers: one
 * instruction multiplies both with their weights and adds them. */
INLINE void columns_32(uint8_t *out, const uint8_t *in, size_t stride, const Taps *t)
{
    __m256i low[4], high[4], zero = _mm256_setzero_si256();
    UNROLL
    for (int v = 0; v < 4; v++) {
        low[v] = _mm256_set1_epi32(1 << (TAP_BITS - 1));
        high[v] = zero;
    }
    for (int k = 0; k < t->n; k += 2) {
        int32_t weights[2];
        memcpy(weights, t->q + 2 * k, sizeof weights);
        __m256i ql = _mm256_set1_epi32(weights[0]), qh = _mm256_set1_epi32(weights[1]);
        const uint8_t *next = in + (k + 1 < t->n ? k + 1 : k) * stride;     /* weight 0 there */
        __m256i a = _mm256_loadu_si256((const __m256i *)(in + k * stride));
        __m256i b = _mm256_loadu_si256((const __m256i *)next);
        __m256i ab[2] = { _mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b) };
        UNROLL
        for (int v = 0; v < 4; v++) {
            __m256i pair = v % 2 ? _mm256_unpackhi_epi8(ab[v / 2], zero)
                                 : _mm256_unpacklo_epi8(ab[v / 2], zero);
            low[v] = _mm256_add_epi32(low[v], _mm256_madd_epi16(pair, ql));
            high[v] = _mm256_add_epi32(high[v], _mm256_madd_epi16(pair, qh));
        }
    }
    __m256i first_half = _mm256_packs_epi32(whole(low[0], high[0]), whole(low[1], high[1]));
    __m256i second_half = _mm256_packs_epi32(whole(low[2], high[2]), whole(low[3], high[3]));
    _mm256_storeu_si256((__m256i *)out, _mm256_packus_epi16(first_half, second_half));
}

static void resize_columns_avx2(uint8_t *out, const uint8_t *in, size_t stride, const Taps *t,
                                int n)
{
    int i = 0;
    for (; i + 32 <= n; i += 32)
        columns_32(out + i, in + i, stride, t);
    for (; i < n; i++)
        out[i] = one_output(in + i, stride, t);
}

/* A pixel of two rows, one in each half of the register: r g b, each from four taps at a time. */
INLINE __m256i load_rows(const uint8_t *a, const uint8_t *b)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a)),
                                   _mm_loadu_si128((const __m128i *)b), 1);
}

/* One pixel of four rows. Reads 16 bytes from every fourth tap on. */
INLINE void pixel_of_4(uint8_t *out, size_t ldo, const uint8_t *in, size_t ldi, const Taps *t,
                       int bytes)
{
    /* pixels 0 1 (2 3) of twelve bytes -> 16-bit pairs r r, g g, b b, nothing */
    const __m256i first_two = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
    const __m256i second_two = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
    __m256i low[2], high[2];
    UNROLL
    for (int v = 0; v < 2; v++) {
        low[v] = _mm256_set1_epi32(1 << (TAP_BITS - 1));
        high[v] = _mm256_setzero_si256();
    }
    for (int k = 0; k < t->n; k += 4) {
        int32_t q[4];
        memcpy(q, t->q + 2 * k, sizeof q);
        UNROLL
        for (int v = 0; v < 2; v++) {
            const uint8_t *p = in + 2 * v * ldi + 3 * (size_t)k;
            __m256i x = load_rows(p, p + ldi), a = _mm256_shuffle_epi8(x, first_two);
            __m256i b = _mm256_shuffle_epi8(x, second_two);
            low[v] = _mm256_add_epi32(low[v], _mm256_madd_epi16(a, _mm256_set1_epi32(q[0])));
            high[v] = _mm256_add_epi32(high[v], _mm256_madd_epi16(a, _mm256_set1_epi32(q[1])));
            low[v] = _mm256_add_epi32(low[v], _mm256_madd_epi16(b, _mm256_set1_epi32(q[2])));
            high[v] = _mm256_add_epi32(high[v], _mm256_madd_epi16(b, _mm256_set1_epi32(q[3])));
        }
    }
    __m256i v = _mm256_packs_epi32(whole(low[0], high[0]), whole(low[1], high[1]));
    v = _mm256_packus_epi16(v, v);              /* rows 0, 2 | rows 1, 3: four bytes each */
    __m128i even = _mm256_castsi256_si128(v), odd = _mm256_extracti128_si256(v, 1);
    uint32_t rgb[4] = { (uint32_t)_mm_cvtsi128_si32(even), (uint32_t)_mm_cvtsi128_si32(odd),
                        (uint32_t)_mm_extract_epi32(even, 1), (uint32_t)_mm_extract_epi32(odd, 1) };
    for (int y = 0; y < 4; y++)                 /* a fourth byte is the next pixel's, yet to come */
        if (bytes == 4) memcpy(out + y * ldo, rgb + y, 4);
        else            memcpy(out + y * ldo, rgb + y, 3);
}

static void resize_rows_avx2(uint8_t *out, size_t ldo, const uint8_t *in, size_t ldi,
                             const Taps *taps, int rows, int w_in, int w_out)
{
    for (int y = 0; y < rows; y += 4, out += 4 * ldo, in += 4 * ldi)
        for (int x = 0; x < w_out; x++) {
            const Taps *t = taps + x;
            size_t from = 3 * (size_t)t->first, read = 3 * (size_t)((t->n + 3) / 4 * 4 - 4) + 16;
            if (y + 4 <= rows && from + read <= 3 * (size_t)w_in) {
                pixel_of_4(out + 3 * (size_t)x, ldo, in + from, ldi, t, x + 1 < w_out ? 4 : 3);
                continue;
            }
            for (int i = 0; i < 4 && y + i < rows; i++)
                for (int c = 0; c < 3; c++)
                    out[i * ldo + 3 * (size_t)x + c] = one_output(in + i * ldi + from + c, 3, t);
        }
}

/* Eight numbers: to double, times factor, rounded to float, as Python does it. */
INLINE __m256 scaled8(const uint8_t *x, __m256d factor)
{
    __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)x));
    __m256d a = _mm256_cvtepi32_pd(_mm256_castsi256_si128(v));
    __m256d b = _mm256_cvtepi32_pd(_mm256_extracti128_si256(v, 1));
    return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_mul_pd(b, factor)),
                           _mm256_cvtpd_ps(_mm256_mul_pd(a, factor)));
}

/* Eight pixels at a time: their channels come in the same order again after three registers. */
static void normalize_avx2(float *y, const uint8_t *x, double factor, const float *mean,
                           const float *std, int n)
{
    float m[24], s[24];
    for (int i = 0; i < 24; i++) {
        m[i] = mean[i % 3];
        s[i] = std[i % 3];
    }
    __m256d f = _mm256_set1_pd(factor);
    int i = 0;
    for (; i + 24 <= 3 * n; i += 24)
        UNROLL
        for (int v = 0; v < 24; v += 8) {
            __m256 d = _mm256_sub_ps(scaled8(x + i + v, f), load_f32(m + v));
            _mm256_storeu_ps(y + i + v, _mm256_div_ps(d, load_f32(s + v)));
        }
    for (; i < 3 * n; i++)
        y[i] = ((float)(x[i] * factor) - m[i % 3]) / s[i % 3];
}

/* === Transposition ============================================================================ */

/* Eight rows v of eight numbers -> eight columns. */
INLINE void transpose8(__m256 v[8])
{
    __m256 t[8], u[8];
    UNROLL
    for (int i = 0; i < 8; i += 2) {            /* rows i, i+1: columns 0 1 4 5 and 2 3 6 7 */
        t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 8; i += 4)              /* rows i..i+3: columns c and c+4 */
        UNROLL
        for (int c = 0; c < 2; c++) {
            u[i + 2 * c] = _mm256_shuffle_ps(t[i + c], t[i + 2 + c], 0x44);
            u[i + 2 * c + 1] = _mm256_shuffle_ps(t[i + c], t[i + 2 + c], 0xee);
        }
    UNROLL
    for (int c = 0; c < 4; c++) {
        v[c] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
        v[c + 4] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
    }
}

/* m rows of n numbers, both at most 8. */
INLINE void transpose_block(float *to, int ldt, const float *from, int ldf, int m, int n, __m256 s)
{
    __m256 v[8];
    UNROLL
    for (int i = 0; i < 8; i++)
        v[i] = i < m ? _mm256_mul_ps(part_f32(from + (size_t)i * ldf, n), s)
                     : _mm256_setzero_ps();
    transpose8(v);
    UNROLL
    for (int j = 0; j < 8; j++)
        if (j < n) store(to + (size_t)j * ldt, m, v[j]);
}

static void transpose_avx2(float *to, int ldt, const float *from, int ldf, int m, int n, float s)
{
    __m256 vs = _mm256_set1_ps(s);
    for (int i = 0; i < m; i += 8)
        for (int j = 0; j < n; j += 8) {
            float *t = to + (size_t)j * ldt + i;
            const float *f = from + (size_t)i * ldf + j;
            if (m - i >= 8 && n - j >= 8) transpose_block(t, ldt, f, ldf, 8, 8, vs);
            else transpose_block(t, ldt, f, ldf, min(m - i, 8), min(n - j, 8), vs);
        }
}

void vector_avx2(Kernels *k)
{
    k->dot = dot_avx2;
    k->scale = scale_avx2;
    k->mix[F32] = mix_f32_avx2;
    k->mix[F16] = mix_f16_avx2;
    k->mix[BF16] = mix_bf16_avx2;
    k->add = add_avx2;
    k->mul = mul_avx2;
    k->max = max_avx2;
    k->exp_sum = exp_sum_avx2;
    k->layernorm = layernorm_avx2;
    k->rmsnorm = rmsnorm_avx2;
    k->act[GELU] = gelu_avx2;
    k->act[GELU_TANH] = gelu_tanh_avx2;
    k->act[GELU_QUICK] = gelu_quick_avx2;
    k->act[SILU] = silu_avx2;
    k->act[RELU] = relu_avx2;
    k->cvt[F32] = cvt_f32_avx2;
    k->cvt[F16] = cvt_f16_avx2;
    k->cvt[BF16] = cvt_bf16_avx2;
    k->narrow[F32] = narrow_f32_avx2;
    k->narrow[F16] = narrow_f16_avx2;
    k->narrow[BF16] = narrow_bf16_avx2;
    k->rope[ROPE_HALVES] = rope_halves_avx2;
    k->rope[ROPE_PAIRS] = rope_pairs_avx2;
    k->resize_columns = resize_columns_avx2;
    k->resize_rows = resize_rows_avx2;
    k->normalize = normalize_avx2;
    k->transpose = transpose_avx2;
}
