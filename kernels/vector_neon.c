/* vector_neon.c -- rows of numbers with 64-bit ARM: registers of 4 floats: the steps of
 * attention, norms, activations, conversion.
 *
 * Most of them read and write each number once or twice: what bounds them is the memory, or the
 * first-level cache where a driver has just put the row there. exp, erf and the activations are
 * polynomials fitted for this file (minimax on the stated interval); the errors are measured over
 * all floats by test/kernels.c and bounded there.
 *
 * Vector operations for 4 numbers, as gcc 12 makes them (copies of registers included, fmla
 * overwrites an operand), and cycles of a Cortex-A76, which does two of them a cycle, two loads or
 * stores, and a division of 4 in 7 places of one unit:
 *
 *   add, mul, scale               1       loads and stores: 1 to 2 cycles
 *   exp_sum                       30      15 cycles
 *   silu, gelu_quick, gelu        30, 31  one of them a division: 18
 *   gelu_tanh                     34      the same: 20
 *   f16, bf16 to f32              1       f16: 2 places of one unit, 2 cycles; bf16: a shift, 1
 *
 * 4 numbers are 32 bytes read and written, 4 cycles where the memory gives 8 bytes a cycle: those
 * with exp and erf are bound by arithmetic on such a core, the others by memory. */
#include "neon.h"

#include <math.h>

/* === Vectors ================================================================================== */

static float dot_neon(const float *a, const float *b, int n)
{
    float32x4_t s[4] = { vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0),
                    vdupq_n_f32(0) };
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int v = 0; v < 4; v++)
            s[v] = vfmaq_f32(s[v], load_f32(a + i + 4 * v), load_f32(b + i + 4 * v));
    for (; i < n; i += 4)
        s[0] = vfmaq_f32(s[0], part_f32(a + i, n - i), part_f32(b + i, n - i));
    return vaddvq_f32(vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3])));
}

static void scale_neon(float *y, float s, int n)
{
    for (int i = 0; i < n; i += 4)
        store(y + i, n - i, vmulq_f32(vdupq_n_f32(s), part_f32(y + i, n - i)));
}

/* M rows and 4 N columns of weighted sums of rows: what is read of V serves the rows. Each sum is
 * taken in the order of j, whatever M and N are. The last columns may be fewer than 4. */
#define MIX(name, T)                                                                           \
    INLINE void mix_part_##name(float *y, int ldy, const float *p, int ldp, const T *V, int ldv,\
                                int n, int last, const int M, const int N)                     \
    {                                                                                          \
        float32x4_t s[4][4], v[4];                                                             \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int c = 0; c < N; c++)                                                        \
                s[i][c] = vdupq_n_f32(0);                                                      \
        for (int j = 0; j < n; j++, V += ldv) {                                                \
            UNROLL                                                                             \
            for (int c = 0; c < N; c++)                                                        \
                v[c] = last < 4 ? part_##name(V + 4 * c, last) : load_##name(V + 4 * c);       \
            UNROLL                                                                             \
            for (int i = 0; i < M; i++) {                                                      \
                float32x4_t a = vld1q_dup_f32(p + (size_t)i * ldp + j);                        \
                UNROLL                                                                         \
                for (int c = 0; c < N; c++)                                                    \
                    s[i][c] = vfmaq_f32(s[i][c], a, v[c]);                                     \
            }                                                                                  \
        }                                                                                      \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int c = 0; c < N; c++) {                                                      \
                float *to = y + (size_t)i * ldy + 4 * c;                                       \
                store(to, last, vaddq_f32(part_f32(to, last), s[i][c]));                       \
            }                                                                                  \
    }                                                                                          \
                                                                                               \
    INLINE void mix_rows_##name(float *y, int ldy, const float *p, int ldp, const T *V, int ldv,\
                                int n, int d, const int M, const int N)                        \
    {                                                                                          \
        int c = 0;                                                                             \
        for (; c + 4 * N <= d; c += 4 * N)                                                     \
            mix_part_##name(y + c, ldy, p, ldp, V + c, ldv, n, 4, M, N);                       \
        for (; c + 4 <= d; c += 4)                                                             \
            mix_part_##name(y + c, ldy, p, ldp, V + c, ldv, n, 4, M, 1);                       \
        if (c < d) mix_part_##name(y + c, ldy, p, ldp, V + c, ldv, n, d - c, M, 1);            \
    }                                                                                          \
                                                                                               \
    static void mix_##name##_neon(float *y, int ldy, const float *p, int ldp, const void *V,   \
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

static void add_neon(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i += 4)
        store(y + i, n - i, vaddq_f32(part_f32(y + i, n - i), part_f32(x + i, n - i)));
}

static void mul_neon(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i += 4)
        store(y + i, n - i, vmulq_f32(part_f32(y + i, n - i), part_f32(x + i, n - i)));
}

static float max_neon(const float *x, int n)
{
    float32x4_t m[4];
    for (int v = 0; v < 4; v++)
        m[v] = vdupq_n_f32(x[0]);
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int v = 0; v < 4; v++)
            m[v] = vmaxq_f32(load_f32(x + i + 4 * v), m[v]);
    for (; i < n; i += 4)
        m[0] = vmaxq_f32(vbslq_f32(first(n - i), part_f32(x + i, n - i), m[0]), m[0]);
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(m[0], m[1]), vmaxq_f32(m[2], m[3])));
}

/* e^x for every float: within 1 ulp, subnormal results (2 ulp of theirs) included.
 * x = n ln 2 + r with |r| <= ln 2 / 2; e^x = 2^n e^r. ln 2 is subtracted in two parts, the first
 * of which has 15 bits, so that n times it is exact. 2^n may be too small or too large for a float
 * where e^x is not: it is multiplied in two halves. */
INLINE float32x4_t exp4(float32x4_t x)
{
    x = vminq_f32(vdupq_n_f32(89), vmaxq_f32(vdupq_n_f32(-104), x));
    float32x4_t n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(0x1.715476p+0f)));
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(0x1.62e4p-1f));
    r = vfmsq_f32(r, n, vdupq_n_f32(0x1.7f7d1cp-20f));
    float32x4_t e = vdupq_n_f32(0x1.6a2350p-10f);
    e = vfmaq_f32(vdupq_n_f32(0x1.123a6cp-7f), e, r);
    e = vfmaq_f32(vdupq_n_f32(0x1.5558f4p-5f), e, r);
    e = vfmaq_f32(vdupq_n_f32(0x1.555490p-3f), e, r);
    e = vfmaq_f32(vdupq_n_f32(0x1.fffffcp-2f), e, r);
    e = vfmaq_f32(vdupq_n_f32(1), e, r);
    e = vfmaq_f32(vdupq_n_f32(1), e, r);
    int32x4_t i = vcvtq_s32_f32(n), half = vshrq_n_s32(i, 1), bias = vdupq_n_s32(127);
    int32x4_t rest = vsubq_s32(i, half);
    half = vshlq_n_s32(vaddq_s32(half, bias), 23);
    rest = vshlq_n_s32(vaddq_s32(rest, bias), 23);
    return vmulq_f32(vmulq_f32(e, vreinterpretq_f32_s32(half)), vreinterpretq_f32_s32(rest));
}

static float exp_sum_neon(float *y, const float *x, float m, int n)
{
    float32x4_t sum = vdupq_n_f32(0), vm = vdupq_n_f32(m);
    for (int i = 0; i < n; i += 4) {
        float32x4_t e = exp4(vsubq_f32(part_f32(x + i, n - i), vm));
        store(y + i, n - i, e);
        sum = vaddq_f32(sum, keep_first(e, n - i));
    }
    return vaddvq_f32(sum);
}

/* === Norms ==================================================================================== */

/* The sum of (x - m)^power over the row, power 1 or 2. */
INLINE float sum_power(const float *x, float m, int n, const int power)
{
    float32x4_t s[4], vm = vdupq_n_f32(m);
    for (int v = 0; v < 4; v++)
        s[v] = vdupq_n_f32(0);
    for (int i = 0; i < n; i += 16)
        for (int v = 0; v < 4; v++) {
            int left = n - i - 4 * v;
            if (left <= 0) break;
            float32x4_t d = vsubq_f32(part_f32(x + i + 4 * v, left), vm);
            d = keep_first(d, left);
            s[v] = power == 1 ? vaddq_f32(s[v], d) : vfmaq_f32(s[v], d, d);
        }
    return vaddvq_f32(vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3])));
}

static void layernorm_neon(float *y, const float *x, const float *w, const float *b, float eps,
                           int n)
{
    float mean = sum_power(x, 0, n, 1) / (float)n;
    float r = 1 / sqrtf(sum_power(x, mean, n, 2) / (float)n + eps);
    float32x4_t vm = vdupq_n_f32(mean), vr = vdupq_n_f32(r);
    for (int i = 0; i < n; i += 4) {
        int left = n - i;
        float32x4_t v = vmulq_f32(vsubq_f32(part_f32(x + i, left), vm), vr);
        store(y + i, left, vfmaq_f32(part_f32(b + i, left), v, part_f32(w + i, left)));
    }
}

static void rmsnorm_neon(float *y, const float *x, const float *w, float eps, int n)
{
    float32x4_t vr = vdupq_n_f32(1 / sqrtf(sum_power(x, 0, n, 2) / (float)n + eps));
    for (int i = 0; i < n; i += 4)
        store(y + i, n - i, vmulq_f32(vmulq_f32(part_f32(x + i, n - i), vr),
                                          part_f32(w + i, n - i)));
}

/* === Activations ============================================================================== */

/* erf(t) = t N(t^2) / D(t^2), within 6 ulp (1 on average); exactly 1 beyond 3.925. */
INLINE float32x4_t erf4(float32x4_t t)
{
    t = vminq_f32(vdupq_n_f32(3.925f), vmaxq_f32(vdupq_n_f32(-3.925f), t));
    float32x4_t s = vmulq_f32(t, t);
    float32x4_t n = vdupq_n_f32(0x1.129bc0p-19f), d = vdupq_n_f32(0x1.3f2a04p-15f);
    n = vfmaq_f32(vdupq_n_f32(0x1.2aadb2p-12f), n, s);
    d = vfmaq_f32(vdupq_n_f32(0x1.311962p-10f), d, s);
    n = vfmaq_f32(vdupq_n_f32(0x1.ee7ad2p-9f), n, s);
    d = vfmaq_f32(vdupq_n_f32(0x1.eaf8bep-7f), d, s);
    n = vfmaq_f32(vdupq_n_f32(0x1.b04972p-5f), n, s);
    d = vfmaq_f32(vdupq_n_f32(0x1.d3b1acp-4f), d, s);
    n = vfmaq_f32(vdupq_n_f32(0x1.86568ep-3f), n, s);
    d = vfmaq_f32(vdupq_n_f32(0x1.0125fep-1f), d, s);
    n = vfmaq_f32(vdupq_n_f32(0x1.20dd74p+0f), n, s);
    d = vfmaq_f32(vdupq_n_f32(1), d, s);
    float32x4_t e = vdivq_f32(vmulq_f32(t, n), d);
    return vminq_f32(vdupq_n_f32(1), vmaxq_f32(vdupq_n_f32(-1), e));
}

/* x / (1 + e^-z) */
INLINE float32x4_t sigmoid_times(float32x4_t x, float32x4_t z)
{
    float32x4_t e = exp4(vsubq_f32(vdupq_n_f32(0), z));
    return vdivq_f32(x, vaddq_f32(vdupq_n_f32(1), e));
}

INLINE float32x4_t gelu(float32x4_t x)
{
    float32x4_t half = vmulq_f32(x, vdupq_n_f32(0.5f));
    return vfmaq_f32(half, half, erf4(vmulq_f32(x, vdupq_n_f32(0x1.6a09e6p-1f))));
}

INLINE float32x4_t gelu_tanh(float32x4_t x)       /* z = 2 sqrt(2 / pi) (x + 0.044715 x^3) */
{
    float32x4_t s = vmulq_f32(x, x);
    float32x4_t z = vfmaq_f32(vdupq_n_f32(0x1.988454p+0f), s, vdupq_n_f32(0x1.2444f2p-4f));
    return sigmoid_times(x, vmulq_f32(x, z));
}

INLINE float32x4_t gelu_quick(float32x4_t x)
{
    return sigmoid_times(x, vmulq_f32(x, vdupq_n_f32(1.702f)));
}

INLINE float32x4_t silu(float32x4_t x) { return sigmoid_times(x, x); }
INLINE float32x4_t relu(float32x4_t x) { return vmaxq_f32(vdupq_n_f32(0), x); }

#define ACTIVATION(name)                                                                       \
    static void name##_neon(float *y, int n)                                                   \
    {                                                                                          \
        for (int i = 0; i < n; i += 4)                                                         \
            store(y + i, n - i, name(part_f32(y + i, n - i)));                                 \
    }
ACTIVATION(gelu) ACTIVATION(gelu_tanh) ACTIVATION(gelu_quick) ACTIVATION(silu) ACTIVATION(relu)

/* === Conversion of rows ======================================================================= */

#define CVT(name, T)                                                                           \
    static void cvt_##name##_neon(float *y, const void *x, int n)                              \
    {                                                                                          \
        int i = 0;                                                                             \
        for (; i + 4 <= n; i += 4)                                                             \
            vst1q_f32(y + i, load_##name((const T *)x + i));                                   \
        if (i < n)                                                                             \
            store(y + i, n - i, part_##name((const T *)x + i, n - i));                         \
    }
FOR_EACH_TYPE(CVT)

static void narrow_f32_neon(void *y, const float *x, int n)
{
    memcpy(y, x, (size_t)n * sizeof *x);
}

INLINE uint16x4_t to_f16(float32x4_t v) { return vreinterpret_u16_f16(vcvt_f16_f32(v)); }

/* To nearest, ties to even: half of the last place that stays, less one if that place is even, and
 * what is carried over is right. */
INLINE uint16x4_t to_bf16(float32x4_t v)
{
    uint32x4_t bits = vreinterpretq_u32_f32(v), upper = vshrq_n_u32(bits, 16);
    uint32x4_t odd = vandq_u32(upper, vdupq_n_u32(1)), number = vceqq_f32(v, v);
    bits = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    return vmovn_u32(vbslq_u32(number, bits, vorrq_u32(upper, vdupq_n_u32(0x40))));
}

#define NARROW(name)                                                                           \
    static void narrow_##name##_neon(void *y, const float *x, int n)                           \
    {                                                                                          \
        uint16_t *to = y;                                                                      \
        int i = 0;                                                                             \
        for (; i + 4 <= n; i += 4)                                                             \
            vst1_u16(to + i, to_##name(load_f32(x + i)));                                      \
        if (i < n) {                                                                           \
            uint16_t copy[4];                                                                  \
            vst1_u16(copy, to_##name(part_f32(x + i, n - i)));                                 \
            memcpy(to + i, copy, (size_t)(n - i) * sizeof *to);                                \
        }                                                                                      \
    }
NARROW(f16) NARROW(bf16)

/* === Positions ================================================================================ */

static void rope_halves_neon(float *y, const float *cos, const float *sin, int n_heads, int d,
                             int half)
{
    for (int h = 0; h < n_heads; h++, y += d)
        for (int i = 0; i < half; i += 4) {
            int left = half - i;
            float32x4_t a = part_f32(y + i, left), b = part_f32(y + half + i, left);
            float32x4_t c = part_f32(cos + i, left), s = part_f32(sin + i, left);
            store(y + i, left, vfmsq_f32(vmulq_f32(a, c), b, s));
            store(y + half + i, left, vfmaq_f32(vmulq_f32(b, c), a, s));
        }
}

/* Two pairs a b: each times its cosine, minus and plus its neighbour times the sine. */
static void rope_pairs_neon(float *y, const float *cos, const float *sin, int n_heads, int d,
                            int half)
{
    const float minus[4] = { -1, 1, -1, 1 };
    float32x4_t sign = vld1q_f32(minus);
    for (int h = 0; h < n_heads; h++, y += d)
        for (int i = 0; i < half; i += 2) {
            int left = half - i < 2 ? half - i : 2;
            float32x4_t v = part_f32(y + 2 * i, 2 * left);
            float32x4_t c = part_f32(cos + i, left), s = part_f32(sin + i, left);
            c = vzip1q_f32(c, c);
            s = vmulq_f32(vzip1q_f32(s, s), sign);
            store(y + 2 * i, 2 * left, vfmaq_f32(vmulq_f32(v, c), vrev64q_f32(v), s));
        }
}

/* === Transposition ============================================================================ */

/* m rows of n numbers, both at most 4. */
INLINE void transpose_block(float *to, int ldt, const float *from, int ldf, int m, int n, float s)
{
    float32x4_t v[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        v[i] = i < m ? vmulq_n_f32(part_f32(from + (size_t)i * ldf, n), s) : vdupq_n_f32(0);
    float32x4x2_t ab = vtrnq_f32(v[0], v[1]), cd = vtrnq_f32(v[2], v[3]);
    v[0] = vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
    v[1] = vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
    v[2] = vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
    v[3] = vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
    UNROLL
    for (int j = 0; j < 4; j++)
        if (j < n) store(to + (size_t)j * ldt, m, v[j]);
}

static void transpose_neon(float *to, int ldt, const float *from, int ldf, int m, int n, float s)
{
    for (int i = 0; i < m; i += 4)
        for (int j = 0; j < n; j += 4)
            transpose_block(to + (size_t)j * ldt + i, ldt, from + (size_t)i * ldf + j, ldf,
                            min(m - i, 4), min(n - j, 4), s);
}

void vector_neon(Kernels *k)
{
    k->dot = dot_neon;
    k->scale = scale_neon;
    k->mix[F32] = mix_f32_neon;
    k->mix[F16] = mix_f16_neon;
    k->mix[BF16] = mix_bf16_neon;
    k->add = add_neon;
    k->mul = mul_neon;
    k->max = max_neon;
    k->exp_sum = exp_sum_neon;
    k->layernorm = layernorm_neon;
    k->rmsnorm = rmsnorm_neon;
    k->act[GELU] = gelu_neon;
    k->act[GELU_TANH] = gelu_tanh_neon;
    k->act[GELU_QUICK] = gelu_quick_neon;
    k->act[SILU] = silu_neon;
    k->act[RELU] = relu_neon;
    k->cvt[F32] = cvt_f32_neon;
    k->cvt[F16] = cvt_f16_neon;
    k->cvt[BF16] = cvt_bf16_neon;
    k->narrow[F32] = narrow_f32_neon;
    k->narrow[F16] = narrow_f16_neon;
    k->narrow[BF16] = narrow_bf16_neon;
    k->rope[ROPE_HALVES] = rope_halves_neon;
    k->rope[ROPE_PAIRS] = rope_pairs_neon;
    k->transpose = transpose_neon;
}
