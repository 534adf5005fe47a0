/* gemm_avx512.c -- matrix products for x86 processors with AVX-512 (F, BW, VL, DQ): Skylake-X of
 * 2017, Ice Lake, Zen 4 and later. 32 registers of 16 floats; masks for what does not fill one.
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
 * Few rows: the memory is the limit, and it wants streams: 8 rows of W at a time, an eighth of the
 * task apart, each 64 KiB long (Zen 4: 99 % of what plain reading gives; four streams 91 %, four
 * that are one row long 77 %, for the prefetcher begins anew with each). With up to 3 rows of A
 * these are 24 sums; with more, 4 rows of W meet up to 6 of A. 16 weights take a cycle or two to
 * multiply with a row of A, and 4 to 7 to arrive: from about 6 rows on (f16; f32: 12) arithmetic
 * is the limit again. */
#include "avx512.h"
#include "tiles.h"

enum { TILE_M = 6, TILE_N = 64, LANES = 16, VECTORS = TILE_N / LANES };

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

/* M rows of A by R rows of W, an R-th of all rows apart: the memory delivers few long streams
 * faster than many short ones, and eight of them faster than four. The last ones may be beyond the
 * n rows that are left: then it is a row again that was there already, and not stored. */
enum {
    WIDE = 3,           /* rows of A up to which R is 8 */
    TALL = 6,           /* rows of A that 4 of W meet at a time */
    FETCH = 2048        /* bytes of all R rows together that are fetched ahead */
};

#define FEW(name, T)                                                                           \
    INLINE void few_rows_##name(float *C, int ldc, const float *A, int lda, const T *const *w, \
                                int apart, int n, int k, const int R, const int M)             \
    {                                                                                          \
        __m512 s[TALL][8], a[TALL], v;                                                         \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int j = 0; j < R; j++)                                                        \
                s[i][j] = _mm512_setzero_ps();                                                 \
        int p = 0;                                                                             \
        for (; p + 16 <= k; p += 16) {                                                         \
            UNROLL                                                                             \
            for (int i = 0; i < M; i++)                                                        \
                a[i] = _mm512_loadu_ps(A + (size_t)i * lda + p);                               \
            UNROLL                                                                             \
            for (int j = 0; j < R; j++) {                                                      \
                v = load_##name(w[j] + p);                                                     \
                KEEP(v);                                                                       \
                __builtin_prefetch(w[j] + p + FETCH / R / sizeof(T));                          \
                UNROLL                                                                         \
                for (int i = 0; i < M; i++)                                                    \
                    s[i][j] = _mm512_fmadd_ps(a[i], v, s[i][j]);                               \
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
                    s[i][j] = _mm512_fmadd_ps(a[i], v, s[i][j]);                               \
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
    static void few_##name##_avx512(float *C, int ldc, const float *A, int lda, const void *W, \
                                    int ldw, int m, int n, int k)                              \
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
                case 82: few_rows_##name(c, ldc, a, lda, w, apart, n - j, k, 8, 2); break;     \
                case 83: few_rows_##name(c, ldc, a, lda, w, apart, n - j, k, 8, 3); break;     \
                case 41: few_rows_##name(c, ldc, a, lda, w, apart, n - j, k, 4, 1); break;     \
                case 42: few_rows_##name(c, ldc, a, lda, w, apart, n - j, k, 4, 2); break;     \
                case 43: few_rows_##name(c, ldc, a, lda, w, apart, n - j, k, 4, 3); break;     \
                case 44: few_rows_##name(c, ldc, a, lda, w, apart, n - j, k, 4, 4); break;     \
                case 45: few_rows_##name(c, ldc, a, lda, w, apart, n - j, k, 4, 5); break;     \
                case 46: few_rows_##name(c, ldc, a, lda, w, apart, n - j, k, 4, 6); break;     \
                }                                                                              \
            }                                                                                  \
        }                                                                                      \
    }
FOR_EACH_TYPE(FEW)

/* One step along k: N registers of the panel by M numbers of A. */
INLINE void tile_step(__m512 c[TILE_M][VECTORS], const float *A, int lda, const float *P,
                      const int M, const int N)
{
    __m512 b[VECTORS];
    UNROLL
    for (int v = 0; v < N; v++)
        b[v] = _mm512_loadu_ps(P + 16 * v);
    UNROLL
    for (int i = 0; i < M; i++) {
        __m512 a = _mm512_set1_ps(A[(size_t)i * lda]);
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = _mm512_fmadd_ps(a, b[v], c[i][v]);
    }
}

/* M x 16 N of the tile; the last register of a row stores its first `last` lanes. */
INLINE void tile_part(float *C, int ldc, const float *A, int lda, const float *P, int k,
                      bool accumulate, Ahead *ahead, int last, const int M, const int N)
{
    __m512 c[TILE_M][VECTORS];
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = _mm512_setzero_ps();
    UNROLL
    for (int i = 0; i < M; i++)
        for (int v = 0; v < N; v += 1)          /* needed at the end: here by then */
            __builtin_prefetch(C + (size_t)i * ldc + 16 * v, 1);
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
            float *to = C + (size_t)i * ldc + 16 * v;
            int lanes = v == N - 1 ? last : 16;
            if (accumulate) c[i][v] = _mm512_add_ps(part_f32(to, lanes), c[i][v]);
            store(to, lanes, c[i][v]);
        }
}

TILES(avx512, float)

/* 16 x 16 of the panel: the first nr rows of w, k columns. */
#define PACK(name, T)                                                                          \
    INLINE void pack_block_##name(float *P, const T *w, int ldw, int nr, int k)                \
    {                                                                                          \
        __m512 v[16];                                                                          \
        UNROLL                                                                                 \
        for (int t = 0; t < 16; t++)                                                           \
            v[t] = t >= nr ? _mm512_setzero_ps()                                               \
                 : k == 16 ? load_##name(w + (size_t)t * ldw)                                  \
                 :           part_##name(w + (size_t)t * ldw, k);                              \
        store_columns(P, TILE_N, v, k);                                                        \
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

void gemm_avx512(Kernels *k)
{
    k->few[F32] = few_f32_avx512;
    k->few[F16] = few_f16_avx512;
    k->few[BF16] = few_bf16_avx512;
    k->tile_m = TILE_M;
    k->tile_n = TILE_N;
    k->tile = tile_avx512;
    k->pack[F32] = pack_f32_avx512;
    k->pack[F16] = pack_f16_avx512;
    k->pack[BF16] = pack_bf16_avx512;
}
