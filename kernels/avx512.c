/* avx512.c -- the kernels for x86 processors with AVX-512 (F, BW, VL, DQ): Skylake-X of 2017, Ice
 * Lake, Zen 4 and later. 32 registers of 16 floats; masks for what does not fill a register.
 *
 * The tile (many rows): 6 x 64. Each step along k loads 4 registers of the panel and multiplies
 * them with 6 numbers of A, broadcast straight from memory:
 *
 *              P[p][0..15]  P[p][16..31]  P[p][32..47]  P[p][48..63]
 *   A[0][p]       c00           c01           c02           c03
 *    ...                                                               24 sums that never leave
 *   A[5][p]       c50           c51           c52           c53        the registers
 *
 *   registers  24 sums + 4 of the panel + 1 or 2 for A = 30 of 32
 *   per step   24 multiply-adds for 10 loads. Zen 4 does one 512-bit multiply-add and one load a
 *              cycle, Intel two and two: arithmetic is the limit, not the first-level cache.
 *   latency    a sum is used again after 24 multiply-adds; they take 4 cycles each
 *   why 64     widths of transformers are multiples of 64, and a head has 64: no ragged panels
 *   why 6      rows of A are often 4096 bytes apart and then fall into the same of 64 sets of the
 *              first-level cache. A set has 8 places: 6 rows leave room for the panel to pass by.
 *
 * Few rows: 4 rows of W by up to 4 of A are 16 sums; the loads of W are shared by the rows of A.
 * What bounds it is the memory: 16 weights take a cycle or two to multiply, 7 to arrive.
 *
 * exp, erf and the activations: polynomials fitted for this file (minimax on the stated interval).
 * The errors are measured over all floats by test/kernels.c and bounded there.
 *
 * Easy to get wrong: max(x, y) is y if one is not a number; with the bound first, NaN passes. */
#include "kernels.h"

#include <immintrin.h>
#include <math.h>

enum { TILE_M = 6, TILE_N = 64, VECTORS = TILE_N / 16 };

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")         /* arrays of registers need constant indices */

/* The mask of the first n lanes; all of them from 16 up. */
INLINE __mmask16 first(int n) { return (__mmask16)(n >= 16 ? 0xffff : (1u << n) - 1); }

/* 16 weights as floats, and the first n of them (the others 0). */
INLINE __m512 load_f32(const float *p)     { return _mm512_loadu_ps(p); }
INLINE __m512 load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
INLINE __m512 load_bf16(const uint16_t *p)
{
    __m512i v = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}
INLINE __m512 part_f32(const float *p, int n)     { return _mm512_maskz_loadu_ps(first(n), p); }
INLINE __m512 part_f16(const uint16_t *p, int n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
}
INLINE __m512 part_bf16(const uint16_t *p, int n)
{
    __m512i v = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

/* Stores the first n lanes. */
INLINE void store(float *p, int n, __m512 v) { _mm512_mask_storeu_ps(p, first(n), v); }

#define FOR_EACH_TYPE(STAMP)                \
    STAMP(f32, float)                       \
    STAMP(f16, uint16_t)                    \
    STAMP(bf16, uint16_t)

/* The sum and the maximum of the lanes. */
INLINE float sum16(__m512 v) { return _mm512_reduce_add_ps(v); }
INLINE float max16(__m512 v) { return _mm512_reduce_max_ps(v); }

/* === Matrix products ========================================================================== */

/* Holds v in a register: gcc would load it again for each of its uses. */
#define KEEP(v) __asm__("" : "+v"(v))

/* The sums of the lanes of a, b, c, d. */
INLINE __m128 sum4(__m512 a, __m512 b, __m512 c, __m512 d)
{
#define HALF(v) _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1))
    __m256 a8 = HALF(a), b8 = HALF(b), c8 = HALF(c), d8 = HALF(d);
#undef HALF
    __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a8, b8), _mm256_unpackhi_ps(a8, b8));
    __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c8, d8), _mm256_unpackhi_ps(c8, d8));
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
        __m512 s[4][4], v[4];                                                                  \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int j = 0; j < 4; j++)                                                        \
                s[i][j] = _mm512_setzero_ps();                                                 \
        int p = 0;                                                                             \
        for (; p + 16 <= k; p += 16) {                                                         \
            UNROLL                                                                             \
            for (int j = 0; j < 4; j++) {                                                      \
                v[j] = load_##name(w[j] + p);                                                  \
                KEEP(v[j]);                                                                    \
            }                                                                                  \
            UNROLL                                                                             \
            for (int i = 0; i < M; i++) {                                                      \
                __m512 a = _mm512_loadu_ps(A + (size_t)i * lda + p);                           \
                UNROLL                                                                         \
                for (int j = 0; j < 4; j++)                                                    \
                    s[i][j] = _mm512_fmadd_ps(a, v[j], s[i][j]);                               \
            }                                                                                  \
        }                                                                                      \
        if (p < k) {                                                                           \
            UNROLL                                                                             \
            for (int j = 0; j < 4; j++)                                                        \
                v[j] = part_##name(w[j] + p, k - p);                                           \
            UNROLL                                                                             \
            for (int i = 0; i < M; i++) {                                                      \
                __m512 a = part_f32(A + (size_t)i * lda + p, k - p);                           \
                UNROLL                                                                         \
                for (int j = 0; j < 4; j++)                                                    \
                    s[i][j] = _mm512_fmadd_ps(a, v[j], s[i][j]);                               \
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
    static void few_##name##_avx512(float *C, int ldc, const float *A, int lda, const void *W, \
                                    int ldw, int m, int n, int k)                              \
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

/* M x 16 N of the tile; the last register of a row stores its first `last` lanes. */
INLINE void tile_part(float *C, int ldc, const float *A, int lda, const float *P, int k,
                      bool accumulate, int last, const int M, const int N)
{
    __m512 c[TILE_M][VECTORS], b[VECTORS];
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = _mm512_setzero_ps();
    for (int p = 0; p < k; p++) {
        UNROLL
        for (int v = 0; v < N; v++)
            b[v] = _mm512_loadu_ps(P + (size_t)p * TILE_N + 16 * v);
        UNROLL
        for (int i = 0; i < M; i++) {
            __m512 a = _mm512_set1_ps(A[(size_t)i * lda + p]);
            UNROLL
            for (int v = 0; v < N; v++)
                c[i][v] = _mm512_fmadd_ps(a, b[v], c[i][v]);
        }
    }
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++) {
            float *to = C + (size_t)i * ldc + 16 * v;
            int lanes = v == N - 1 ? last : 16;
            if (accumulate) c[i][v] = _mm512_add_ps(part_f32(to, lanes), c[i][v]);
            store(to, lanes, c[i][v]);
        }
}

#define TILE_ROWS(M)                                                                           \
    static void tile_##M(float *C, int ldc, const float *A, int lda, const float *P, int nr,   \
                         int k, bool accumulate)                                               \
    {                                                                                          \
        int last = (nr - 1) % 16 + 1;                                                          \
        switch ((nr - 1) / 16) {                                                               \
        case 0:  tile_part(C, ldc, A, lda, P, k, accumulate, last, M, 1); break;               \
        case 1:  tile_part(C, ldc, A, lda, P, k, accumulate, last, M, 2); break;               \
        case 2:  tile_part(C, ldc, A, lda, P, k, accumulate, last, M, 3); break;               \
        default: tile_part(C, ldc, A, lda, P, k, accumulate, last, M, 4); break;               \
        }                                                                                      \
    }
TILE_ROWS(1) TILE_ROWS(2) TILE_ROWS(3) TILE_ROWS(4) TILE_ROWS(5) TILE_ROWS(6)

static void tile_avx512(float *C, int ldc, const float *A, int lda, const float *P, int mr, int nr,
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

/* Four rows a, b, c, d of 16 -> q[c]: column 4 l + c of them in quarter l. */
INLINE void transpose_quarters(__m512 q[4], __m512 a, __m512 b, __m512 c, __m512 d)
{
    __m512 ab0 = _mm512_unpacklo_ps(a, b), ab2 = _mm512_unpackhi_ps(a, b);
    __m512 cd0 = _mm512_unpacklo_ps(c, d), cd2 = _mm512_unpackhi_ps(c, d);
    q[0] = _mm512_shuffle_ps(ab0, cd0, 0x44);
    q[1] = _mm512_shuffle_ps(ab0, cd0, 0xee);
    q[2] = _mm512_shuffle_ps(ab2, cd2, 0x44);
    q[3] = _mm512_shuffle_ps(ab2, cd2, 0xee);
}

/* q[g][c] of the rows 4g .. 4g+3 -> 16 columns of 16 rows, of which the first n are stored. */
INLINE void store_columns(float *P, __m512 q[4][4], int n)
{
    UNROLL
    for (int c = 0; c < 4; c++) {
        __m512 a = _mm512_shuffle_f32x4(q[0][c], q[1][c], 0x88);    /* quarters 0 2 | 0 2 */
        __m512 b = _mm512_shuffle_f32x4(q[0][c], q[1][c], 0xdd);    /* quarters 1 3 | 1 3 */
        __m512 d = _mm512_shuffle_f32x4(q[2][c], q[3][c], 0x88);
        __m512 e = _mm512_shuffle_f32x4(q[2][c], q[3][c], 0xdd);
        __m512 column[4] = { _mm512_shuffle_f32x4(a, d, 0x88), _mm512_shuffle_f32x4(b, e, 0x88),
                             _mm512_shuffle_f32x4(a, d, 0xdd), _mm512_shuffle_f32x4(b, e, 0xdd) };
        UNROLL
        for (int l = 0; l < 4; l++)
            if (4 * l + c < n) _mm512_storeu_ps(P + (size_t)(4 * l + c) * TILE_N, column[l]);
    }
}

/* 16 x 16 of the panel: the first nr rows of w, k columns. */
#define PACK(name, T)                                                                          \
    INLINE void pack_block_##name(float *P, const T *w, int ldw, int nr, int k)                \
    {                                                                                          \
        __m512 q[4][4], v[16];                                                                 \
        UNROLL                                                                                 \
        for (int t = 0; t < 16; t++)                                                           \
            v[t] = t >= nr ? _mm512_setzero_ps()                                               \
                 : k == 16 ? load_##name(w + (size_t)t * ldw)                                  \
                 :           part_##name(w + (size_t)t * ldw, k);                              \
        UNROLL                                                                                 \
        for (int g = 0; g < 4; g++)                                                            \
            transpose_quarters(q[g], v[4 * g], v[4 * g + 1], v[4 * g + 2], v[4 * g + 3]);      \
        store_columns(P, q, k);                                                                \
    }                                                                                          \
                                                                                               \
    static void pack_##name##_avx512(float *P, const void *W, int ldw, int nr, int k)          \
    {                                                                                          \
        for (int j = 0; j < TILE_N; j += 16)                                                   \
            for (int p = 0; p < k; p += 16) {                                                  \
                const T *w = (const T *)W + (size_t)j * ldw + p;                               \
                float *to = P + (size_t)p * TILE_N + j;                                        \
                if (k - p >= 16 && nr - j >= 16)                                               \
                    pack_block_##name(to, w, ldw, 16, 16);                                     \
                else                                                                           \
                    pack_block_##name(to, w, ldw, nr - j, k - p < 16 ? k - p : 16);            \
            }                                                                                  \
    }
FOR_EACH_TYPE(PACK)

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

/* 16 N columns of a weighted sum of rows; two sums for each, so that none waits for the other. */
INLINE void mix_part(float *y, const float *p, const float *V, int ldv, int n, int last,
                     const int N)
{
    __m512 s[2][4], v;
    UNROLL
    for (int c = 0; c < N; c++)
        s[0][c] = s[1][c] = _mm512_setzero_ps();
    int j = 0;
    for (; j + 2 <= n; j += 2)
        UNROLL
        for (int h = 0; h < 2; h++)
            UNROLL
            for (int c = 0; c < N; c++) {
                const float *at = V + (size_t)(j + h) * ldv + 16 * c;
                v = c == N - 1 ? part_f32(at, last) : load_f32(at);
                s[h][c] = _mm512_fmadd_ps(_mm512_set1_ps(p[j + h]), v, s[h][c]);
            }
    UNROLL
    for (int c = 0; c < N; c++) {
        const float *at = V + (size_t)j * ldv + 16 * c;
        int lanes = c == N - 1 ? last : 16;
        if (j < n) s[0][c] = _mm512_fmadd_ps(_mm512_set1_ps(p[j]), part_f32(at, lanes), s[0][c]);
        store(y + 16 * c, lanes, _mm512_add_ps(part_f32(y + 16 * c, lanes),
                                               _mm512_add_ps(s[0][c], s[1][c])));
    }
}

static void mix_avx512(float *y, const float *p, const float *V, int ldv, int n, int d)
{
    int c = 0;
    for (; c + 64 <= d; c += 64)
        mix_part(y + c, p, V + c, ldv, n, 16, 4);
    for (; c < d; c += 16)
        mix_part(y + c, p, V + c, ldv, n, d - c < 16 ? d - c : 16, 1);
}

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
        for (int i = 0; i < n; i += 16)                                                        \
            store(y + i, n - i, part_##name((const T *)x + i, n - i));                         \
    }
FOR_EACH_TYPE(CVT)

void kernels_avx512(Kernels *k)
{
    Kernels mine = {
        .few = { few_f32_avx512, few_f16_avx512, few_bf16_avx512 },
        .tile_m = TILE_M, .tile_n = TILE_N, .tile = tile_avx512,
        .pack = { pack_f32_avx512, pack_f16_avx512, pack_bf16_avx512 },
        .dot = dot_avx512, .scale = scale_avx512, .mix = mix_avx512,
        .add = add_avx512, .mul = mul_avx512, .max = max_avx512, .exp_sum = exp_sum_avx512,
        .layernorm = layernorm_avx512, .rmsnorm = rmsnorm_avx512,
        .act = { k->act[ACT_NONE], gelu_avx512, gelu_tanh_avx512, gelu_quick_avx512, silu_avx512,
                 relu_avx512 },
        .cvt = { cvt_f32_avx512, cvt_f16_avx512, cvt_bf16_avx512 },
    };
    *k = mine;
}
