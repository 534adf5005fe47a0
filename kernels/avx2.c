/* avx2.c -- the kernels for x86 processors with AVX2, FMA and F16C: Haswell of 2013, Zen of 2017
 * and later. 16 registers of 8 floats.
 *
 * The tile (many rows): 6 x 16. Each step along k loads 2 registers of the panel and multiplies
 * them with 6 numbers of A, broadcast straight from memory:
 *
 *              P[p][0..7]  P[p][8..15]
 *   A[0][p]       c00          c01
 *    ...                                      12 sums that never leave the registers
 *   A[5][p]       c50          c51
 *
 *   registers  12 sums + 2 of the panel + 1 or 2 for A = 16: all there are
 *   per step   12 multiply-adds for 8 loads. Two multiply-adds and two loads a cycle (Haswell to
 *              Zen 4): 6 cycles of arithmetic, 4 of loads. 4 x 24 has no register left for A;
 *              8 x 8 needs 9 loads for 8 multiply-adds.
 *   latency    a sum is used again after 12 multiply-adds, 6 cycles; they take 4 or 5 each
 *   Zen 1      does half of each a cycle: the same shape, half the speed
 *
 * Few rows: 4 rows of W by up to 2 of A are 8 sums; the loads of W are shared by the rows of A.
 * What bounds it is the memory.
 *
 * exp, erf and the activations: polynomials fitted for this file (minimax on the stated interval).
 * The errors are measured over all floats by test/kernels.c and bounded there.
 *
 * Easy to get wrong:
 *   - max(x, y) is y if one is not a number; with the bound first, NaN goes through.
 *   - There is no masked load of 16-bit numbers: the ends of f16 and bf16 rows are copied first. */
#include "kernels.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

enum { TILE_M = 6, TILE_N = 16, VECTORS = TILE_N / 8 };

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")         /* arrays of registers need constant indices */

/* The mask of the first n lanes; all of them from 8 up. */
INLINE __m256i first(int n)
{
    static const int32_t ones[16] = { -1, -1, -1, -1, -1, -1, -1, -1 };
    return _mm256_loadu_si256((const __m256i *)(ones + (n < 8 ? 8 - n : 0)));
}

/* 8 weights as floats, and the first n of them (the others 0). */
INLINE __m256 load_f32(const float *p)     { return _mm256_loadu_ps(p); }
INLINE __m256 load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
INLINE __m256 load_bf16(const uint16_t *p)
{
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}
INLINE __m256 part_f32(const float *p, int n)
{
    return n >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, first(n));
}
INLINE __m256 part_f16(const uint16_t *p, int n)
{
    uint16_t copy[8] = { 0 };
    memcpy(copy, p, (size_t)(n < 8 ? n : 8) * sizeof *p);
    return load_f16(copy);
}
INLINE __m256 part_bf16(const uint16_t *p, int n)
{
    uint16_t copy[8] = { 0 };
    memcpy(copy, p, (size_t)(n < 8 ? n : 8) * sizeof *p);
    return load_bf16(copy);
}
/* Stores the first n lanes. */
INLINE void store(float *p, int n, __m256 v)
{
    if (n >= 8) _mm256_storeu_ps(p, v);
    else _mm256_maskstore_ps(p, first(n), v);
}

#define FOR_EACH_TYPE(STAMP)                \
    STAMP(f32, float)                       \
    STAMP(f16, uint16_t)                    \
    STAMP(bf16, uint16_t)

/* The sum and the maximum of the lanes. */
INLINE float sum8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float max8(__m256 v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* === Matrix products ========================================================================== */

/* Holds v in a register: gcc would load it again for each of its uses. */
#define KEEP(v) __asm__("" : "+x"(v))

/* The sums of the lanes of a, b, c, d. */
INLINE __m128 sum4(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    __m256 s = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

/* M rows of A by 4 rows of W, a quarter of all rows apart: so that the memory delivers four long
 * streams, not many short ones (twice as fast where a row has 768 numbers). The last may be beyond
 * the n rows that are left: then it is a row again that was there already, and not stored. */
#define FEW(name, T)                                                                           \
    INLINE void few_rows_##name(float *C, int ldc, const float *A, int lda, const T *const *w, \
                                int quarter, int n, int k, const int M)                        \
    {                                                                                          \
        __m256 s[2][4], v[4];                                                                  \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int j = 0; j < 4; j++)                                                        \
                s[i][j] = _mm256_setzero_ps();                                                 \
        int p = 0;                                                                             \
        for (; p + 8 <= k; p += 8) {                                                           \
            UNROLL                                                                             \
            for (int j = 0; j < 4; j++) {                                                      \
                v[j] = load_##name(w[j] + p);                                                  \
                KEEP(v[j]);                                                                    \
            }                                                                                  \
            UNROLL                                                                             \
            for (int i = 0; i < M; i++) {                                                      \
                __m256 a = _mm256_loadu_ps(A + (size_t)i * lda + p);                           \
                UNROLL                                                                         \
                for (int j = 0; j < 4; j++)                                                    \
                    s[i][j] = _mm256_fmadd_ps(a, v[j], s[i][j]);                               \
            }                                                                                  \
        }                                                                                      \
        if (p < k) {                                                                           \
            UNROLL                                                                             \
            for (int j = 0; j < 4; j++)                                                        \
                v[j] = part_##name(w[j] + p, k - p);                                           \
            UNROLL                                                                             \
            for (int i = 0; i < M; i++) {                                                      \
                __m256 a = part_f32(A + (size_t)i * lda + p, k - p);                           \
                UNROLL                                                                         \
                for (int j = 0; j < 4; j++)                                                    \
                    s[i][j] = _mm256_fmadd_ps(a, v[j], s[i][j]);                               \
            }                                                                                  \
        }                                                                                      \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++) {                                                          \
            float sum[4];                                                                      \
            _mm_storeu_ps(sum, sum4(s[i][0], s[i][1], s[i][2], s[i][3]));                      \
            for (int j = 0; j < 4 && j * quarter < n; j++)                                     \
                C[(size_t)i * ldc + j * quarter] = sum[j];                                     \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    static void few_##name##_avx2(float *C, int ldc, const float *A, int lda, const void *W,   \
                                  int ldw, int m, int n, int k)                                \
    {                                                                                          \
        int quarter = (n + 3) / 4;                                                             \
        for (int j = 0; j < quarter; j++) {                                                    \
            const T *w[4];                                                                     \
            for (int t = 0; t < 4; t++)                                                        \
                w[t] = (const T *)W + (size_t)min(j + t * quarter, n - 1) * ldw;               \
            for (int i = 0; i < m; i += 2) {                                                   \
                float *c = C + (size_t)i * ldc + j;                                            \
                const float *a = A + (size_t)i * lda;                                          \
                switch (m - i) {                                                               \
                case 1:  few_rows_##name(c, ldc, a, lda, w, quarter, n - j, k, 1); break;      \
                default: few_rows_##name(c, ldc, a, lda, w, quarter, n - j, k, 2); break;      \
                }                                                                              \
            }                                                                                  \
        }                                                                                      \
    }
FOR_EACH_TYPE(FEW)

/* M x 8 N of the tile; the last register of a row stores its first `last` lanes. */
INLINE void tile_part(float *C, int ldc, const float *A, int lda, const float *P, int k,
                      bool accumulate, int last, const int M, const int N)
{
    __m256 c[TILE_M][VECTORS], b[VECTORS];
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = _mm256_setzero_ps();
    for (int p = 0; p < k; p++) {
        UNROLL
        for (int v = 0; v < N; v++)
            b[v] = _mm256_loadu_ps(P + (size_t)p * TILE_N + 8 * v);
        UNROLL
        for (int i = 0; i < M; i++) {
            __m256 a = _mm256_broadcast_ss(A + (size_t)i * lda + p);
            UNROLL
            for (int v = 0; v < N; v++)
                c[i][v] = _mm256_fmadd_ps(a, b[v], c[i][v]);
        }
    }
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++) {
            float *to = C + (size_t)i * ldc + 8 * v;
            int lanes = v == N - 1 ? last : 8;
            if (accumulate) c[i][v] = _mm256_add_ps(part_f32(to, lanes), c[i][v]);
            store(to, lanes, c[i][v]);
        }
}

#define TILE_ROWS(M)                                                                           \
    static void tile_##M(float *C, int ldc, const float *A, int lda, const float *P, int nr,   \
                         int k, bool accumulate)                                               \
    {                                                                                          \
        int last = (nr - 1) % 8 + 1;                                                           \
        switch ((nr - 1) / 8) {                                                                \
        case 0:  tile_part(C, ldc, A, lda, P, k, accumulate, last, M, 1); break;               \
        default: tile_part(C, ldc, A, lda, P, k, accumulate, last, M, 2); break;               \
        }                                                                                      \
    }
TILE_ROWS(1) TILE_ROWS(2) TILE_ROWS(3) TILE_ROWS(4) TILE_ROWS(5) TILE_ROWS(6)

static void tile_avx2(float *C, int ldc, const float *A, int lda, const float *P, int mr, int nr,
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

/* Four rows a, b, c, d of 8 -> q[c]: column 4 l + c of them in half l. */
INLINE void transpose_halves(__m256 q[4], __m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 ab0 = _mm256_unpacklo_ps(a, b), ab2 = _mm256_unpackhi_ps(a, b);
    __m256 cd0 = _mm256_unpacklo_ps(c, d), cd2 = _mm256_unpackhi_ps(c, d);
    q[0] = _mm256_shuffle_ps(ab0, cd0, 0x44);
    q[1] = _mm256_shuffle_ps(ab0, cd0, 0xee);
    q[2] = _mm256_shuffle_ps(ab2, cd2, 0x44);
    q[3] = _mm256_shuffle_ps(ab2, cd2, 0xee);
}

/* q[g][c] of the rows 4g .. 4g+3 -> 8 columns of 8 rows, of which the first n are stored. */
INLINE void store_columns(float *P, __m256 q[2][4], int n)
{
    UNROLL
    for (int c = 0; c < 4; c++) {
        __m256 column[2] = { _mm256_permute2f128_ps(q[0][c], q[1][c], 0x20),     /* halves 0 | 0 */
                             _mm256_permute2f128_ps(q[0][c], q[1][c], 0x31) };   /* halves 1 | 1 */
        UNROLL
        for (int l = 0; l < 2; l++)
            if (4 * l + c < n) _mm256_storeu_ps(P + (size_t)(4 * l + c) * TILE_N, column[l]);
    }
}

/* 8 x 8 of the panel: the first nr rows of w, k columns. */
#define PACK(name, T)                                                                          \
    INLINE void pack_block_##name(float *P, const T *w, int ldw, int nr, int k)                \
    {                                                                                          \
        __m256 q[2][4], v[8];                                                                  \
        UNROLL                                                                                 \
        for (int t = 0; t < 8; t++)                                                            \
            v[t] = t >= nr ? _mm256_setzero_ps()                                               \
                 : k == 8  ? load_##name(w + (size_t)t * ldw)                                  \
                 :           part_##name(w + (size_t)t * ldw, k);                              \
        UNROLL                                                                                 \
        for (int g = 0; g < 2; g++)                                                            \
            transpose_halves(q[g], v[4 * g], v[4 * g + 1], v[4 * g + 2], v[4 * g + 3]);        \
        store_columns(P, q, k);                                                                \
    }                                                                                          \
                                                                                               \
    static void pack_##name##_avx2(float *P, const void *W, int ldw, int nr, int k)            \
    {                                                                                          \
        for (int j = 0; j < TILE_N; j += 8)                                                    \
            for (int p = 0; p < k; p += 8) {                                                   \
                const T *w = (const T *)W + (size_t)j * ldw + p;                               \
                float *to = P + (size_t)p * TILE_N + j;                                        \
                if (k - p >= 8 && nr - j >= 8)                                                 \
                    pack_block_##name(to, w, ldw, 8, 8);                                       \
                else                                                                           \
                    pack_block_##name(to, w, ldw, nr - j, k - p < 8 ? k - p : 8);              \
            }                                                                                  \
    }
FOR_EACH_TYPE(PACK)

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

/* 8 N columns of a weighted sum of rows; two sums for each, so that none waits for the other. */
INLINE void mix_part(float *y, const float *p, const float *V, int ldv, int n, int last,
                     const int N)
{
    __m256 s[2][4], v;
    UNROLL
    for (int c = 0; c < N; c++)
        s[0][c] = s[1][c] = _mm256_setzero_ps();
    int j = 0;
    for (; j + 2 <= n; j += 2)
        UNROLL
        for (int h = 0; h < 2; h++)
            UNROLL
            for (int c = 0; c < N; c++) {
                const float *at = V + (size_t)(j + h) * ldv + 8 * c;
                v = c == N - 1 ? part_f32(at, last) : load_f32(at);
                s[h][c] = _mm256_fmadd_ps(_mm256_broadcast_ss(p + j + h), v, s[h][c]);
            }
    UNROLL
    for (int c = 0; c < N; c++) {
        const float *at = V + (size_t)j * ldv + 8 * c;
        int lanes = c == N - 1 ? last : 8;
        if (j < n)
            s[0][c] = _mm256_fmadd_ps(_mm256_broadcast_ss(p + j), part_f32(at, lanes), s[0][c]);
        store(y + 8 * c, lanes, _mm256_add_ps(part_f32(y + 8 * c, lanes),
                                              _mm256_add_ps(s[0][c], s[1][c])));
    }
}

static void mix_avx2(float *y, const float *p, const float *V, int ldv, int n, int d)
{
    int c = 0;
    for (; c + 32 <= d; c += 32)
        mix_part(y + c, p, V + c, ldv, n, 8, 4);
    for (; c < d; c += 8)
        mix_part(y + c, p, V + c, ldv, n, d - c < 8 ? d - c : 8, 1);
}

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

/* e^x for every float: within 1 ulp, subnormal results (2 ulp of theirs) included.
 * x = n ln 2 + r with |r| <= ln 2 / 2; e^x = 2^n e^r. ln 2 is subtracted in two parts, the first
 * of which has 15 bits, so that n times it is exact. 2^n may be too small or too large for a float
 * where e^x is not: it is multiplied in two halves. */
INLINE __m256 exp256(__m256 x)
{
    x = _mm256_min_ps(_mm256_set1_ps(89), _mm256_max_ps(_mm256_set1_ps(-104), x));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)), 8);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    __m256 e = _mm256_set1_ps(0x1.6a2350p-10f);
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0x1.123a6cp-7f));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0x1.5558f4p-5f));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0x1.555490p-3f));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0x1.fffffcp-2f));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1));
    __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1);
    __m256i bias = _mm256_set1_epi32(127);
    __m256i rest = _mm256_sub_epi32(i, half);
    half = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    rest = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(e, _mm256_castsi256_ps(half)), _mm256_castsi256_ps(rest));
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

/* x / (1 + e^-z) */
INLINE __m256 sigmoid_times(__m256 x, __m256 z)
{
    __m256 e = exp256(_mm256_sub_ps(_mm256_setzero_ps(), z));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1), e));
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

void kernels_avx2(Kernels *k)
{
    Kernels mine = {
        .few = { few_f32_avx2, few_f16_avx2, few_bf16_avx2 },
        .tile_m = TILE_M, .tile_n = TILE_N, .tile = tile_avx2,
        .pack = { pack_f32_avx2, pack_f16_avx2, pack_bf16_avx2 },
        .dot = dot_avx2, .scale = scale_avx2, .mix = mix_avx2,
        .add = add_avx2, .mul = mul_avx2, .max = max_avx2, .exp_sum = exp_sum_avx2,
        .layernorm = layernorm_avx2, .rmsnorm = rmsnorm_avx2,
        .act = { k->act[ACT_NONE], gelu_avx2, gelu_tanh_avx2, gelu_quick_avx2, silu_avx2,
                 relu_avx2 },
        .cvt = { cvt_f32_avx2, cvt_f16_avx2, cvt_bf16_avx2 },
    };
    *k = mine;
}
