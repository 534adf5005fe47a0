/* neon.c -- the kernels for 64-bit ARM (ARMv8.0, all of them): 32 registers of 4 floats.
 *
 * The tile (many rows): 6 x 16. Each step along k loads 4 registers of the panel and multiplies
 * them with 6 numbers of A, each loaded into all lanes of a register (ld1r):
 *
 *              P[p][0..3]  P[p][4..7]  P[p][8..11]  P[p][12..15]
 *   A[0][p]       c00          c01         c02          c03
 *    ...                                                           24 sums that never leave the
 *   A[5][p]       c50          c51         c52          c53        registers
 *
 *   registers  24 sums + 4 of the panel + 1 or 2 for A = 30 of 32
 *   per step   24 multiply-adds for 10 loads. Cores with two 128-bit multiply-adds and two loads a
 *              cycle (Cortex-A76, Neoverse N1) take 12 cycles for the first and 5 for the second;
 *              those with four and three (Apple M1, Neoverse V1) 6 and 4. Arithmetic is the limit.
 *   latency    a sum is used again after 24 multiply-adds, 6 to 12 cycles; they take 4
 *
 * Few rows: 4 rows of W by up to 4 of A are 16 sums; the loads of W are shared by the rows of A.
 * What bounds it is the memory.
 *
 * exp, erf and the activations: polynomials fitted for this file (minimax on the stated interval).
 * The errors are measured over all floats by test/kernels.c and bounded there.
 *
 * Tested for correctness by emulation (qemu-user); the cycles above are from the vendors'
 * optimisation guides, not measured.
 *
 * Easy to get wrong: there are no masked loads and stores; the ends of rows are copied number by
 * number. */
#include "kernels.h"

#include <arm_neon.h>
#include <math.h>
#include <string.h>

enum { TILE_M = 6, TILE_N = 16, VECTORS = TILE_N / 4 };

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")         /* arrays of registers need constant indices */

/* The mask of the first n lanes; all of them from 4 up. */
INLINE uint32x4_t first(int n)
{
    static const uint32_t ones[8] = { ~0u, ~0u, ~0u, ~0u };
    return vld1q_u32(ones + (n < 4 ? 4 - n : 0));
}
INLINE float32x4_t keep_first(float32x4_t v, int n)
{
    return vbslq_f32(first(n), v, vdupq_n_f32(0));
}

/* 4 weights as floats, and the first n of them (the others 0). */
INLINE float32x4_t load_f32(const float *p)     { return vld1q_f32(p); }
INLINE float32x4_t load_f16(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
INLINE float32x4_t load_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
#define PART(name, T)                                                                          \
    INLINE float32x4_t part_##name(const T *p, int n)                                          \
    {                                                                                          \
        if (n >= 4)                                                                            \
            return load_##name(p);                                                             \
        T copy[4] = { n > 0 ? p[0] : 0, n > 1 ? p[1] : 0, n > 2 ? p[2] : 0, 0 };               \
        return load_##name(copy);                                                              \
    }
PART(f32, float) PART(f16, uint16_t) PART(bf16, uint16_t)

/* Stores the first n lanes. */
INLINE void store(float *p, int n, float32x4_t v)
{
    if (n >= 4) {
        vst1q_f32(p, v);
        return;
    }
    if (n > 0) p[0] = vgetq_lane_f32(v, 0);
    if (n > 1) p[1] = vgetq_lane_f32(v, 1);
    if (n > 2) p[2] = vgetq_lane_f32(v, 2);
}

#define FOR_EACH_TYPE(STAMP)                \
    STAMP(f32, float)                       \
    STAMP(f16, uint16_t)                    \
    STAMP(bf16, uint16_t)

/* === Matrix products ========================================================================== */

/* The sums of the lanes of a, b, c, d. */
INLINE float32x4_t sum4(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t d)
{
    return vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
}

/* M rows of A by 4 rows of W, a quarter of all rows apart: so that the memory delivers four long
 * streams, not many short ones (twice as fast where a row has 768 numbers). The last may be beyond
 * the n rows that are left: then it is a row again that was there already, and not stored. */
#define FEW(name, T)                                                                           \
    INLINE void few_rows_##name(float *C, int ldc, const float *A, int lda, const T *const *w, \
                                int quarter, int n, int k, const int M)                        \
    {                                                                                          \
        float32x4_t s[4][4], v[4];                                                             \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int j = 0; j < 4; j++)                                                        \
                s[i][j] = vdupq_n_f32(0);                                                      \
        int p = 0;                                                                             \
        for (; p + 4 <= k; p += 4) {                                                           \
            UNROLL                                                                             \
            for (int j = 0; j < 4; j++)                                                        \
                v[j] = load_##name(w[j] + p);                                                  \
            UNROLL                                                                             \
            for (int i = 0; i < M; i++) {                                                      \
                float32x4_t a = vld1q_f32(A + (size_t)i * lda + p);                            \
                UNROLL                                                                         \
                for (int j = 0; j < 4; j++)                                                    \
                    s[i][j] = vfmaq_f32(s[i][j], a, v[j]);                                     \
            }                                                                                  \
        }                                                                                      \
        if (p < k) {                                                                           \
            UNROLL                                                                             \
            for (int j = 0; j < 4; j++)                                                        \
                v[j] = part_##name(w[j] + p, k - p);                                           \
            UNROLL                                                                             \
            for (int i = 0; i < M; i++) {                                                      \
                float32x4_t a = part_f32(A + (size_t)i * lda + p, k - p);                      \
                UNROLL                                                                         \
                for (int j = 0; j < 4; j++)                                                    \
                    s[i][j] = vfmaq_f32(s[i][j], a, v[j]);                                     \
            }                                                                                  \
        }                                                                                      \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++) {                                                          \
            float sum[4];                                                                      \
            vst1q_f32(sum, sum4(s[i][0], s[i][1], s[i][2], s[i][3]));                          \
            for (int j = 0; j < 4 && j * quarter < n; j++)                                     \
                C[(size_t)i * ldc + j * quarter] = sum[j];                                     \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    static void few_##name##_neon(float *C, int ldc, const float *A, int lda, const void *W,   \
                                  int ldw, int m, int n, int k)                                \
    {                                                                                          \
        int quarter = (n + 3) / 4;                                                             \
        for (int j = 0; j < quarter; j++) {                                                    \
            const T *w[4];                                                                     \
            for (int t = 0; t < 4; t++)                                                        \
                w[t] = (const T *)W + (size_t)min(j + t * quarter, n - 1) * ldw;               \
            for (int i = 0; i < m; i += 4) {                                                   \
                float *c = C + (size_t)i * ldc + j;                                            \
                const float *a = A + (size_t)i * lda;                                          \
                switch (m - i) {                                                               \
                case 1:  few_rows_##name(c, ldc, a, lda, w, quarter, n - j, k, 1); break;      \
                case 2:  few_rows_##name(c, ldc, a, lda, w, quarter, n - j, k, 2); break;      \
                case 3:  few_rows_##name(c, ldc, a, lda, w, quarter, n - j, k, 3); break;      \
                default: few_rows_##name(c, ldc, a, lda, w, quarter, n - j, k, 4); break;      \
                }                                                                              \
            }                                                                                  \
        }                                                                                      \
    }
FOR_EACH_TYPE(FEW)

/* M x 4 N of the tile; the last register of a row stores its first `last` lanes. */
INLINE void tile_part(float *C, int ldc, const float *A, int lda, const float *P, int k,
                      bool accumulate, int last, const int M, const int N)
{
    float32x4_t c[TILE_M][VECTORS], b[VECTORS];
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = vdupq_n_f32(0);
    for (int p = 0; p < k; p++) {
        UNROLL
        for (int v = 0; v < N; v++)
            b[v] = vld1q_f32(P + (size_t)p * TILE_N + 4 * v);
        UNROLL
        for (int i = 0; i < M; i++) {
            float32x4_t a = vld1q_dup_f32(A + (size_t)i * lda + p);
            UNROLL
            for (int v = 0; v < N; v++)
                c[i][v] = vfmaq_f32(c[i][v], a, b[v]);
        }
    }
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++) {
            float *to = C + (size_t)i * ldc + 4 * v;
            int lanes = v == N - 1 ? last : 4;
            if (accumulate) c[i][v] = vaddq_f32(part_f32(to, lanes), c[i][v]);
            store(to, lanes, c[i][v]);
        }
}

#define TILE_ROWS(M)                                                                           \
    static void tile_##M(float *C, int ldc, const float *A, int lda, const float *P, int nr,   \
                         int k, bool accumulate)                                               \
    {                                                                                          \
        int last = (nr - 1) % 4 + 1;                                                           \
        switch ((nr - 1) / 4) {                                                                \
        case 0:  tile_part(C, ldc, A, lda, P, k, accumulate, last, M, 1); break;               \
        case 1:  tile_part(C, ldc, A, lda, P, k, accumulate, last, M, 2); break;               \
        case 2:  tile_part(C, ldc, A, lda, P, k, accumulate, last, M, 3); break;               \
        default: tile_part(C, ldc, A, lda, P, k, accumulate, last, M, 4); break;               \
        }                                                                                      \
    }
TILE_ROWS(1) TILE_ROWS(2) TILE_ROWS(3) TILE_ROWS(4) TILE_ROWS(5) TILE_ROWS(6)

static void tile_neon(float *C, int ldc, const float *A, int lda, const float *P, int mr, int nr,
                      int k, bool accumulate)
{
    switch (mr) {
    case 1:  tile_1(C, ldc, A, lda, P, nr, k, accumulate); break;
    case 2:  tile_2(C, ldc, A, lda, P, nr, k, accumulate); break;
    case 3:  tile_3(C, ldc, A, lda, P, nr, k, accumulate); break;
    case 4:  tile_4(C, ldc, A, lda, P, nr, k, accumulate); break;
    case 5:  tile_5(C, ldc, A, lda, P, nr, k, accumulate); break;
    default: tile_6(C, ldc, A, lda, P, nr, k, accumulate); break;
    }
}

/* Four rows of 4 -> 4 columns, of which the first n are stored: pairs, then pairs of pairs. */
INLINE void store_columns(float *P, float32x4_t v[4], int n)
{
    float64x2_t ab0 = vreinterpretq_f64_f32(vtrn1q_f32(v[0], v[1]));    /* a0 b0 a2 b2 */
    float64x2_t ab1 = vreinterpretq_f64_f32(vtrn2q_f32(v[0], v[1]));    /* a1 b1 a3 b3 */
    float64x2_t cd0 = vreinterpretq_f64_f32(vtrn1q_f32(v[2], v[3]));
    float64x2_t cd1 = vreinterpretq_f64_f32(vtrn2q_f32(v[2], v[3]));
    float32x4_t column[4] = {
        vreinterpretq_f32_f64(vtrn1q_f64(ab0, cd0)), vreinterpretq_f32_f64(vtrn1q_f64(ab1, cd1)),
        vreinterpretq_f32_f64(vtrn2q_f64(ab0, cd0)), vreinterpretq_f32_f64(vtrn2q_f64(ab1, cd1)),
    };
    UNROLL
    for (int c = 0; c < 4; c++)
        if (c < n) vst1q_f32(P + (size_t)c * TILE_N, column[c]);
}

/* 4 x 4 of the panel: the first nr rows of w, k columns. */
#define PACK(name, T)                                                                          \
    INLINE void pack_block_##name(float *P, const T *w, int ldw, int nr, int k)                \
    {                                                                                          \
        float32x4_t v[4];                                                                      \
        UNROLL                                                                                 \
        for (int t = 0; t < 4; t++)                                                            \
            v[t] = t >= nr ? vdupq_n_f32(0)                                                    \
                 : k == 4  ? load_##name(w + (size_t)t * ldw)                                  \
                 :           part_##name(w + (size_t)t * ldw, k);                              \
        store_columns(P, v, k);                                                                \
    }                                                                                          \
                                                                                               \
    static void pack_##name##_neon(float *P, const void *W, int ldw, int nr, int k)            \
    {                                                                                          \
        for (int j = 0; j < TILE_N; j += 4)                                                    \
            for (int p = 0; p < k; p += 4) {                                                   \
                const T *w = (const T *)W + (size_t)j * ldw + p;                               \
                float *to = P + (size_t)p * TILE_N + j;                                        \
                if (k - p >= 4 && nr - j >= 4)                                                 \
                    pack_block_##name(to, w, ldw, 4, 4);                                       \
                else                                                                           \
                    pack_block_##name(to, w, ldw, nr - j, k - p < 4 ? k - p : 4);              \
            }                                                                                  \
    }
FOR_EACH_TYPE(PACK)

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

/* 4 N columns of a weighted sum of rows; two sums for each, so that none waits for the other. */
INLINE void mix_part(float *y, const float *p, const float *V, int ldv, int n, int last,
                     const int N)
{
    float32x4_t s[2][4], v;
    UNROLL
    for (int c = 0; c < N; c++)
        s[0][c] = s[1][c] = vdupq_n_f32(0);
    int j = 0;
    for (; j + 2 <= n; j += 2)
        UNROLL
        for (int h = 0; h < 2; h++)
            UNROLL
            for (int c = 0; c < N; c++) {
                const float *at = V + (size_t)(j + h) * ldv + 4 * c;
                v = c == N - 1 ? part_f32(at, last) : load_f32(at);
                s[h][c] = vfmaq_f32(s[h][c], vld1q_dup_f32(p + j + h), v);
            }
    UNROLL
    for (int c = 0; c < N; c++) {
        const float *at = V + (size_t)j * ldv + 4 * c;
        int lanes = c == N - 1 ? last : 4;
        if (j < n) s[0][c] = vfmaq_f32(s[0][c], vld1q_dup_f32(p + j), part_f32(at, lanes));
        store(y + 4 * c, lanes, vaddq_f32(part_f32(y + 4 * c, lanes),
                                              vaddq_f32(s[0][c], s[1][c])));
    }
}

static void mix_neon(float *y, const float *p, const float *V, int ldv, int n, int d)
{
    int c = 0;
    for (; c + 16 <= d; c += 16)
        mix_part(y + c, p, V + c, ldv, n, 4, 4);
    for (; c < d; c += 4)
        mix_part(y + c, p, V + c, ldv, n, d - c < 4 ? d - c : 4, 1);
}

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

void kernels_neon(Kernels *k)
{
    Kernels mine = {
        .few = { few_f32_neon, few_f16_neon, few_bf16_neon },
        .tile_m = TILE_M, .tile_n = TILE_N, .tile = tile_neon,
        .pack = { pack_f32_neon, pack_f16_neon, pack_bf16_neon },
        .dot = dot_neon, .scale = scale_neon, .mix = mix_neon,
        .add = add_neon, .mul = mul_neon, .max = max_neon, .exp_sum = exp_sum_neon,
        .layernorm = layernorm_neon, .rmsnorm = rmsnorm_neon,
        .act = { k->act[ACT_NONE], gelu_neon, gelu_tanh_neon, gelu_quick_neon, silu_neon,
                 relu_neon },
        .cvt = { cvt_f32_neon, cvt_f16_neon, cvt_bf16_neon },
    };
    *k = mine;
}
