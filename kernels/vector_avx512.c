/* vector_avx512.c -- rows of numbers with AVX-512: registers of 16 floats: the steps of
 * attention, norms, activations, conversion.
 *
 * Most of them read and write each number once or twice: what bounds them is the memory, or the
 * first-level cache where a driver has just put the row there. exp, erf and the activations are
 * polynomials fitted for this file (minimax on the stated interval); the errors are measured over
 * all floats by test/kernels.c and bounded there.
 *
 * Easy to get wrong: max(x, y) is y if one is not a number; with the bound first, NaN passes. */
#include "avx512.h"

#include <math.h>
#include <string.h>

/* === Vectors ================================================================================== */

static float dot_avx512(const float *a, const float *b, int n)
{
    __m512 s[4] = { _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                    _mm512_setzero_ps() };
    int i = 0;
    for (; i + 64 <= n; i += 64)
        for (int v = 0; v < 4; v++)
            s[v] = _mm512_fmadd_ps(load_f32(a + i + 16 * v), load_f32(b + i + 16 * v), s[v]);
    for (; i < n; i += 16)
        s[0] = _mm512_fmadd_ps(part_f32(a + i, n - i), part_f32(b + i, n - i), s[0]);
    return sum16(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
}

static void scale_avx512(float *y, float s, int n)
{
    for (int i = 0; i < n; i += 16)
        store(y + i, n - i, _mm512_mul_ps(_mm512_set1_ps(s), part_f32(y + i, n - i)));
}

/* M rows and 16 N columns of weighted sums of rows: what is read of V serves the rows. Each sum is
 * taken in the order of j, whatever M and N are. The last columns may be fewer than 16. */
#define MIX(name, T)                                                                           \
    INLINE void mix_part_##name(float *y, int ldy, const float *p, int ldp, const T *V, int ldv,\
                                int n, int last, const int M, const int N)                     \
    {                                                                                          \
        __m512 s[4][4], v[4];                                                                  \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int c = 0; c < N; c++)                                                        \
                s[i][c] = _mm512_setzero_ps();                                                 \
        for (int j = 0; j < n; j++, V += ldv) {                                                \
            UNROLL                                                                             \
            for (int c = 0; c < N; c++)                                                        \
                v[c] = last < 16 ? part_##name(V + 16 * c, last) : load_##name(V + 16 * c);    \
            UNROLL                                                                             \
            for (int i = 0; i < M; i++) {                                                      \
                __m512 a = _mm512_set1_ps(p[(size_t)i * ldp + j]);                             \
                UNROLL                                                                         \
                for (int c = 0; c < N; c++)                                                    \
                    s[i][c] = _mm512_fmadd_ps(a, v[c], s[i][c]);                               \
            }                                                                                  \
        }                                                                                      \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int c = 0; c < N; c++) {                                                      \
                float *to = y + (size_t)i * ldy + 16 * c;                                      \
                store(to, last, _mm512_add_ps(part_f32(to, last), s[i][c]));                   \
            }                                                                                  \
    }                                                                                          \
                                                                                               \
    INLINE void mix_rows_##name(float *y, int ldy, const float *p, int ldp, const T *V, int ldv,\
                                int n, int d, const int M, const int N)                        \
    {                                                                                          \
        int c = 0;                                                                             \
        for (; c + 16 * N <= d; c += 16 * N)                                                   \
            mix_part_##name(y + c, ldy, p, ldp, V + c, ldv, n, 16, M, N);                      \
        for (; c + 16 <= d; c += 16)                                                           \
            mix_part_##name(y + c, ldy, p, ldp, V + c, ldv, n, 16, M, 1);                      \
        if (c < d) mix_part_##name(y + c, ldy, p, ldp, V + c, ldv, n, d - c, M, 1);            \
    }                                                                                          \
                                                                                               \
    static void mix_##name##_avx512(float *y, int ldy, const float *p, int ldp, const void *V, \
                                   int ldv, int m, int n, int d)                               \
    {                                                                                          \
        int i = 0;                                                                             \
        for (; i + 4 <= m; i += 4)                                                             \
            mix_rows_##name(y + (size_t)i * ldy, ldy, p + (size_t)i * ldp, ldp, V, ldv, n, d,  \
                            4, 4);                                                             \
        for (; i < m; i++)                                                                     \
            mix_rows_##name(y + (size_t)i * ldy, ldy, p + (size_t)i * ldp, ldp, V, ldv, n, d,  \
                            1, 4);                                                             \
    }
FOR_EACH_TYPE(MIX)

static void add_avx512(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i += 16)
        store(y + i, n - i, _mm512_add_ps(part_f32(y + i, n - i), part_f32(x + i, n - i)));
}

static void mul_avx512(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i += 16)
        store(y + i, n - i, _mm512_mul_ps(part_f32(y + i, n - i), part_f32(x + i, n - i)));
}

static float max_avx512(const float *x, int n)
{
    __m512 m[4];
    for (int v = 0; v < 4; v++)
        m[v] = _mm512_set1_ps(x[0]);
    int i = 0;
    for (; i + 64 <= n; i += 64)
        for (int v = 0; v < 4; v++)
            m[v] = _mm512_max_ps(load_f32(x + i + 16 * v), m[v]);
    for (; i < n; i += 16)
        m[0] = _mm512_mask_max_ps(m[0], first(n - i), part_f32(x + i, n - i), m[0]);
    return max16(_mm512_max_ps(_mm512_max_ps(m[0], m[1]), _mm512_max_ps(m[2], m[3])));
}

/* e^x for every float: within 1 ulp, subnormal results included.
 * x = n ln 2 + r with |r| <= ln 2 / 2; e^x = 2^n e^r. ln 2 is subtracted in two parts, the first
 * of which has 15 bits, so that n times it is exact. */
INLINE __m512 exp512(__m512 x)
{
    x = _mm512_min_ps(_mm512_set1_ps(89), _mm512_max_ps(_mm512_set1_ps(-104), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
    __m512 e = _mm512_set1_ps(0x1.6a2350p-10f);
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0x1.123a6cp-7f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0x1.5558f4p-5f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0x1.555490p-3f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0x1.fffffcp-2f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1));
    return _mm512_scalef_ps(e, n);
}

static float exp_sum_avx512(float *y, const float *x, float m, int n)
{
    __m512 sum = _mm512_setzero_ps(), vm = _mm512_set1_ps(m);
    for (int i = 0; i < n; i += 16) {
        __m512 e = exp512(_mm512_sub_ps(part_f32(x + i, n - i), vm));
        store(y + i, n - i, e);
        sum = _mm512_mask_add_ps(sum, first(n - i), sum, e);
    }
    return sum16(sum);
}

/* === Norms ==================================================================================== */

/* The sum of (x - m)^power over the row, power 1 or 2. */
INLINE float sum_power(const float *x, float m, int n, const int power)
{
    __m512 s[4], vm = _mm512_set1_ps(m);
    for (int v = 0; v < 4; v++)
        s[v] = _mm512_setzero_ps();
    for (int i = 0; i < n; i += 64)
        for (int v = 0; v < 4; v++) {
            int left = n - i - 16 * v;
            if (left <= 0) break;
            __m512 d = _mm512_maskz_sub_ps(first(left), part_f32(x + i + 16 * v, left), vm);
            s[v] = power == 1 ? _mm512_add_ps(s[v], d) : _mm512_fmadd_ps(d, d, s[v]);
        }
    return sum16(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
}

static void layernorm_avx512(float *y, const float *x, const float *w, const float *b, float eps,
                             int n)
{
    float mean = sum_power(x, 0, n, 1) / (float)n;
    float r = 1 / sqrtf(sum_power(x, mean, n, 2) / (float)n + eps);
    __m512 vm = _mm512_set1_ps(mean), vr = _mm512_set1_ps(r);
    for (int i = 0; i < n; i += 16) {
        int left = n - i;
        __m512 v = _mm512_mul_ps(_mm512_sub_ps(part_f32(x + i, left), vm), vr);
        store(y + i, left, _mm512_fmadd_ps(v, part_f32(w + i, left), part_f32(b + i, left)));
    }
}

static void rmsnorm_avx512(float *y, const float *x, const float *w, float eps, int n)
{
    __m512 vr = _mm512_set1_ps(1 / sqrtf(sum_power(x, 0, n, 2) / (float)n + eps));
    for (int i = 0; i < n; i += 16)
        store(y + i, n - i, _mm512_mul_ps(_mm512_mul_ps(part_f32(x + i, n - i), vr),
                                          part_f32(w + i, n - i)));
}

/* === Activations ============================================================================== */

/* erf(t) = t N(t^2) / D(t^2), within 6 ulp (1 on average); exactly 1 beyond 3.925. */
INLINE __m512 erf512(__m512 t)
{
    t = _mm512_min_ps(_mm512_set1_ps(3.925f), _mm512_max_ps(_mm512_set1_ps(-3.925f), t));
    __m512 s = _mm512_mul_ps(t, t);
    __m512 n = _mm512_set1_ps(0x1.129bc0p-19f), d = _mm512_set1_ps(0x1.3f2a04p-15f);
    n = _mm512_fmadd_ps(n, s, _mm512_set1_ps(0x1.2aadb2p-12f));
    d = _mm512_fmadd_ps(d, s, _mm512_set1_ps(0x1.311962p-10f));
    n = _mm512_fmadd_ps(n, s, _mm512_set1_ps(0x1.ee7ad2p-9f));
    d = _mm512_fmadd_ps(d, s, _mm512_set1_ps(0x1.eaf8bep-7f));
    n = _mm512_fmadd_ps(n, s, _mm512_set1_ps(0x1.b04972p-5f));
    d = _mm512_fmadd_ps(d, s, _mm512_set1_ps(0x1.d3b1acp-4f));
    n = _mm512_fmadd_ps(n, s, _mm512_set1_ps(0x1.86568ep-3f));
    d = _mm512_fmadd_ps(d, s, _mm512_set1_ps(0x1.0125fep-1f));
    n = _mm512_fmadd_ps(n, s, _mm512_set1_ps(0x1.20dd74p+0f));
    d = _mm512_fmadd_ps(d, s, _mm512_set1_ps(1));
    __m512 e = _mm512_div_ps(_mm512_mul_ps(t, n), d);
    return _mm512_min_ps(_mm512_set1_ps(1), _mm512_max_ps(_mm512_set1_ps(-1), e));
}

/* x / (1 + e^-z) */
INLINE __m512 sigmoid_times(__m512 x, __m512 z)
{
    __m512 e = exp512(_mm512_sub_ps(_mm512_setzero_ps(), z));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1), e));
}

INLINE __m512 gelu(__m512 x)
{
    __m512 half = _mm512_mul_ps(x, _mm512_set1_ps(0.5f));
    return _mm512_fmadd_ps(half, erf512(_mm512_mul_ps(x, _mm512_set1_ps(0x1.6a09e6p-1f))), half);
}

INLINE __m512 gelu_tanh(__m512 x)       /* z = 2 sqrt(2 / pi) (x + 0.044715 x^3) */
{
    __m512 s = _mm512_mul_ps(x, x);
    __m512 z = _mm512_fmadd_ps(s, _mm512_set1_ps(0x1.2444f2p-4f), _mm512_set1_ps(0x1.988454p+0f));
    return sigmoid_times(x, _mm512_mul_ps(x, z));
}

INLINE __m512 gelu_quick(__m512 x)
{
    return sigmoid_times(x, _mm512_mul_ps(x, _mm512_set1_ps(1.702f)));
}

INLINE __m512 silu(__m512 x) { return sigmoid_times(x, x); }
INLINE __m512 relu(__m512 x) { return _mm512_max_ps(_mm512_setzero_ps(), x); }

#define ACTIVATION(name)                                                                       \
    static void name##_avx512(float *y, int n)                                                 \
    {                                                                                          \
        for (int i = 0; i < n; i += 16)                                                        \
            store(y + i, n - i, name(part_f32(y + i, n - i)));                                 \
    }
ACTIVATION(gelu) ACTIVATION(gelu_tanh) ACTIVATION(gelu_quick) ACTIVATION(silu) ACTIVATION(relu)

/* === Conversion of rows ======================================================================= */

#define CVT(name, T)                                                                           \
    static void cvt_##name##_avx512(float *y, const void *x, int n)                            \
    {                                                                                          \
        int i = 0;                                                                             \
        for (; i + 16 <= n; i += 16)                                                           \
            _mm512_storeu_ps(y + i, load_##name((const T *)x + i));                            \
        if (i < n)                                                                             \
            store(y + i, n - i, part_##name((const T *)x + i, n - i));                         \
    }
FOR_EACH_TYPE(CVT)

static void narrow_f32_avx512(void *y, const float *x, int n)
{
    memcpy(y, x, (size_t)n * sizeof *x);
}

INLINE __m256i to_f16(__m512 v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }

/* To nearest, ties to even: half of the last place that stays, less one if that place is even, and
 * what is carried over is right. */
INLINE __m256i to_bf16(__m512 v)
{
    __m512i bits = _mm512_castps_si512(v), upper = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    bits = _mm512_srli_epi32(bits, 16);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    bits = _mm512_mask_or_epi32(bits, nan, upper, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(bits);
}

#define NARROW(name)                                                                           \
    static void narrow_##name##_avx512(void *y, const float *x, int n)                         \
    {                                                                                          \
        for (int i = 0; i < n; i += 16)                                                        \
            _mm256_mask_storeu_epi16((uint16_t *)y + i, first(n - i),                          \
                                     to_##name(part_f32(x + i, n - i)));                       \
    }
NARROW(f16) NARROW(bf16)

/* === Positions ================================================================================ */

static void rope_halves_avx512(float *y, const float *cos, const float *sin, int n_heads, int d,
                               int half)
{
    for (int h = 0; h < n_heads; h++, y += d)
        for (int i = 0; i < half; i += 16) {
            int left = half - i;
            __m512 a = part_f32(y + i, left), b = part_f32(y + half + i, left);
            __m512 c = part_f32(cos + i, left), s = part_f32(sin + i, left);
            store(y + i, left, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
            store(y + half + i, left, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
        }
}

/* Eight pairs a b: each times its cosine, minus and plus its neighbour times the sine. */
static void rope_pairs_avx512(float *y, const float *cos, const float *sin, int n_heads, int d,
                              int half)
{
    __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    for (int h = 0; h < n_heads; h++, y += d)
        for (int i = 0; i < half; i += 8) {
            int left = half - i < 8 ? half - i : 8;
            __m512 v = part_f32(y + 2 * i, 2 * left);
            __m512 c = _mm512_permutexvar_ps(twice, part_f32(cos + i, left));
            __m512 s = _mm512_permutexvar_ps(twice, part_f32(sin + i, left));
            __m512 other = _mm512_mul_ps(_mm512_permute_ps(v, 0xb1), s);
            store(y + 2 * i, 2 * left, _mm512_fmaddsub_ps(v, c, other));
        }
}

void vector_avx512(Kernels *k)
{
    k->dot = dot_avx512;
    k->scale = scale_avx512;
    k->mix[F32] = mix_f32_avx512;
    k->mix[F16] = mix_f16_avx512;
    k->mix[BF16] = mix_bf16_avx512;
    k->add = add_avx512;
    k->mul = mul_avx512;
    k->max = max_avx512;
    k->exp_sum = exp_sum_avx512;
    k->layernorm = layernorm_avx512;
    k->rmsnorm = rmsnorm_avx512;
    k->act[GELU] = gelu_avx512;
    k->act[GELU_TANH] = gelu_tanh_avx512;
    k->act[GELU_QUICK] = gelu_quick_avx512;
    k->act[SILU] = silu_avx512;
    k->act[RELU] = relu_avx512;
    k->cvt[F32] = cvt_f32_avx512;
    k->cvt[F16] = cvt_f16_avx512;
    k->cvt[BF16] = cvt_bf16_avx512;
    k->narrow[F32] = narrow_f32_avx512;
    k->narrow[F16] = narrow_f16_avx512;
    k->narrow[BF16] = narrow_bf16_avx512;
    k->rope[ROPE_HALVES] = rope_halves_avx512;
    k->rope[ROPE_PAIRS] = rope_pairs_avx512;
}
