/* gemm_avx2.c -- matrix products for x86 processors with AVX2, FMA and F16C: Haswell of 2013, Zen
 * of 2017 and later. 16 registers of 8 floats.
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
 *   decoding   26 instructions a step, 115 in four with what is fetched ahead: 29 cycles for 24 of
 *              arithmetic where four are taken a cycle (Haswell), 19 or less where six (Zen)
 *   latency    a sum is used again after 12 multiply-adds, 6 cycles; they take 4 or 5 each
 *   Zen 1      does half of each a cycle: the same shape, half the speed
 *
 * Few rows: 8 rows of W by one of A, or 4 by up to 3, are 8 to 12 sums; the loads of W are shared
 * by the rows of A. What bounds it is the memory, which wants long streams: the rows of W lie an
 * eighth (a quarter) of the task apart. */
#include "avx2.h"
#include "tiles.h"

#include <string.h>

enum { TILE_M = 6, TILE_N = 16, LANES = 8, VECTORS = TILE_N / LANES };

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

/* M rows of A by R rows of W, an R-th of all rows apart: the memory delivers few long streams
 * faster than many short ones, and eight of them faster than four. The last ones may be beyond the
 * n rows that are left: then it is a row again that was there already, and not stored. */
enum {
    WIDE = 1,           /* rows of A up to which R is 8 */
    TALL = 3,           /* rows of A that 4 of W meet at a time */
    FETCH = 2048        /* bytes of all R rows together that are fetched ahead */
};

#define FEW(name, T)                                                                           \
    INLINE void few_rows_##name(float *C, int ldc, const float *A, int lda, const T *const *w, \
                                int apart, int n, int k, const int R, const int M)             \
    {                                                                                          \
        __m256 s[TALL][8], a[TALL], v;                                                         \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int j = 0; j < R; j++)                                                        \
                s[i][j] = _mm256_setzero_ps();                                                 \
        int p = 0;                                                                             \
        for (; p + 8 <= k; p += 8) {                                                           \
            UNROLL                                                                             \
            for (int i = 0; i < M; i++)                                                        \
                a[i] = _mm256_loadu_ps(A + (size_t)i * lda + p);                               \
            UNROLL                                                                             \
            for (int j = 0; j < R; j++) {                                                      \
                v = load_##name(w[j] + p);                                                     \
                KEEP(v);                                                                       \
                __builtin_prefetch(w[j] + p + FETCH / R / sizeof(T));                          \
                UNROLL                                                                         \
                for (int i = 0; i < M; i++)                                                    \
                    s[i][j] = _mm256_fmadd_ps(a[i], v, s[i][j]);                               \
            }                                                                                  \
        }                                                                                      \
        if (p < k) {                                                                           \
            UNROLL                                                                             \
            for (int i = 0; i < M; i++)                                                        \
                a[i] = part_f32(A + (size_t)i * lda + p, k - p);                               \
            UNROLL                                                                             \
            for (int j = 0; j < R; j++) {                                                      \
                v = part_##name(w[j] + p, k - p);                                              \
                UNROLL                                                                         \
                for (int i = 0; i < M; i++)                                                    \
                    s[i][j] = _mm256_fmadd_ps(a[i], v, s[i][j]);                               \
            }                                                                                  \
        }                                                                                      \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int g = 0; g < R; g += 4) {                                                   \
                float sum[4];                                                                  \
                _mm_storeu_ps(sum, sum4(s[i][g], s[i][g + 1], s[i][g + 2], s[i][g + 3]));      \
                for (int j = g; j < g + 4 && j * apart < n; j++)                               \
                    C[(size_t)i * ldc + j * apart] = sum[j - g];                               \
            }                                                                                  \
    }                                                                                          \
                                                                                               \
    static void few_##name##_avx2(float *C, int ldc, const float *A, int lda, const void *W,   \
                                  int ldw, int m, int n, int k)                                \
    {                                                                                          \
        int rows = m <= WIDE ? 8 : 4, apart = (n + rows - 1) / rows;                           \
        int part = (m + (m + TALL - 1) / TALL - 1) / ((m + TALL - 1) / TALL);                  \
        for (int j = 0; j < apart; j++) {                                                      \
            const T *w[8];                                                                     \
            for (int t = 0; t < rows; t++)                                                     \
                w[t] = (const T *)W + (size_t)min(j + t * apart, n - 1) * ldw;                 \
            for (int i = 0; i < m; i += part) {                                                \
                float *c = C + (size_t)i * ldc + j;                                            \
                const float *a = A + (size_t)i * lda;                                          \
                switch (10 * rows + min(part, m - i)) {                                        \
                case 81: few_rows_##name(c, ldc, a, lda, w, apart, n - j, k, 8, 1); break;     \
                case 41: few_rows_##name(c, ldc, a, lda, w, apart, n - j, k, 4, 1); break;     \
                case 42: few_rows_##name(c, ldc, a, lda, w, apart, n - j, k, 4, 2); break;     \
                case 43: few_rows_##name(c, ldc, a, lda, w, apart, n - j, k, 4, 3); break;     \
                }                                                                              \
            }                                                                                  \
        }                                                                                      \
    }
FOR_EACH_TYPE(FEW)

/* One step along k: N registers of the panel by M numbers of A. */
INLINE void tile_step(__m256 c[TILE_M][VECTORS], const float *A, int lda, const float *P,
                      const int M, const int N)
{
    __m256 b[VECTORS];
    UNROLL
    for (int v = 0; v < N; v++)
        b[v] = _mm256_loadu_ps(P + 8 * v);
    UNROLL
    for (int i = 0; i < M; i++) {
        __m256 a = _mm256_broadcast_ss(A + (size_t)i * lda);
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = _mm256_fmadd_ps(a, b[v], c[i][v]);
    }
}

/* M x 8 N of the tile; the last register of a row stores its first `last` lanes. */
INLINE void tile_part(float *C, int ldc, const float *A, int lda, const float *P, int k,
                      bool accumulate, Ahead *ahead, int last, const int M, const int N)
{
    __m256 c[TILE_M][VECTORS];
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = _mm256_setzero_ps();
    UNROLL
    for (int i = 0; i < M; i++)
        for (int v = 0; v < N; v += 2)          /* needed at the end: here by then */
            __builtin_prefetch(C + (size_t)i * ldc + 8 * v, 1);
    int p = 0;
    for (; M == TILE_M && N == VECTORS && ahead && p + 4 <= k; p += 4) {
        ahead = fetch(ahead);
        UNROLL
        for (int q = 0; q < 4; q++)
            tile_step(c, A + p + q, lda, P + (size_t)(p + q) * TILE_N, M, N);
    }
    for (; p < k; p++)
        tile_step(c, A + p, lda, P + (size_t)p * TILE_N, M, N);
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

TILES(avx2, float)

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

void gemm_avx2(Kernels *k)
{
    k->few[F32] = few_f32_avx2;
    k->few[F16] = few_f16_avx2;
    k->few[BF16] = few_bf16_avx2;
    k->tile_m = TILE_M;
    k->tile_n = TILE_N;
    k->tile = tile_avx2;
    k->pack[F32] = pack_f32_avx2;
    k->pack[F16] = pack_f16_avx2;
    k->pack[BF16] = pack_bf16_avx2;
}
