/* gemm_neon.c -- matrix products for 64-bit ARM (ARMv8.0, all of them): 32 registers of 4 floats.
 *
 * The tile (many rows): 6 x 16. Each step along k loads 4 registers of the panel and multiplies
 * them with 6 numbers of A, each from the first lane of a register (fmla by element):
 *
 *              P[p][0..3]  P[p][4..7]  P[p][8..11]  P[p][12..15]
 *   A[0][p]       c00          c01         c02          c03
 *    ...                                                           24 sums that never leave the
 *   A[5][p]       c50          c51         c52          c53        registers
 *
 *   registers  24 sums + 4 of the panel + 1 or 2 for A = 30 of 32
 *   per step   24 multiply-adds, 10 loads, 4 for the loop: 36 to 38 instructions. Cores with two
 *              128-bit multiply-adds and two loads a cycle (Cortex-A76, Neoverse N1) take 12 cycles
 *              for the first and 5 for the second, and decode four a cycle: 9.5. Those with four
 *              and three (Apple M1, Neoverse V1) take 6 and 4. Arithmetic is the limit.
 *   not ld1r   which spreads a number while it loads it: that takes a place of the multiply-adds,
 *              too, 30 in place of 24
 *   latency    a sum is used again after 24 multiply-adds, 6 to 12 cycles; they take 4
 *
 * Few rows: 8 rows of W by up to 3 of A, or 4 by up to 6, are 24 sums at most; the loads of W are
 * shared by the rows of A. What bounds it is the memory, which wants long streams: the rows of W
 * lie an eighth (a quarter) of the task apart. With one row of A, 4 f32 weights take a load and a
 * multiply-add, half a cycle: 32 bytes a cycle, more than any memory gives. f16 (fcvtl: two places
 * of one unit on a Cortex-A76) takes 2 cycles for 8 bytes, bf16 (a shift) one.
 *
 * Tested for correctness by emulation (qemu-user); instructions are counted in what gcc 12 makes of
 * it, cycles are from the vendor's optimisation guides, not measured. */
#include "neon.h"
#include "tiles.h"

enum { TILE_M = 6, TILE_N = 16, LANES = 4, VECTORS = TILE_N / LANES };

/* The sums of the lanes of a, b, c, d. */
INLINE float32x4_t sum4(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t d)
{
    return vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
}

/* M rows of A by R rows of W, an R-th of all rows apart: the memory delivers few long streams
 * faster than many short ones, and eight of them faster than four. The last ones may be beyond the
 * n rows that are left: then it is a row again that was there already, and not stored. */
enum {
    WIDE = 3,           /* rows of A up to which R is 8 */
    TALL = 6,           /* rows of A that 4 of W meet at a time */
    FETCH = 256         /* bytes */
};

#define FEW(name, T)                                                                           \
    INLINE void few_rows_##name(float *C, int ldc, const float *A, int lda, const T *const *w, \
                                int apart, int n, int k, const int R, const int M)             \
    {                                                                                          \
        float32x4_t s[TALL][8], a[TALL], v;                                                    \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int j = 0; j < R; j++)                                                        \
                s[i][j] = vdupq_n_f32(0);                                                      \
        int p = 0;                                                                             \
        for (; p + 4 <= k; p += 4) {                                                           \
            UNROLL                                                                             \
            for (int i = 0; i < M; i++)                                                        \
                a[i] = vld1q_f32(A + (size_t)i * lda + p);                                     \
            UNROLL                                                                             \
            for (int j = 0; j < R; j++) {                                                      \
                v = load_##name(w[j] + p);                                                     \
                if (R < 8) __builtin_prefetch(w[j] + p + FETCH / sizeof(T));                   \
                UNROLL                                                                         \
                for (int i = 0; i < M; i++)                                                    \
                    s[i][j] = vfmaq_f32(s[i][j], a[i], v);                                     \
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
                    s[i][j] = vfmaq_f32(s[i][j], a[i], v);                                     \
            }                                                                                  \
        }                                                                                      \
        UNROLL                                                                                 \
        for (int i = 0; i < M; i++)                                                            \
            UNROLL                                                                             \
            for (int g = 0; g < R; g += 4) {                                                   \
                float sum[4];                                                                  \
                vst1q_f32(sum, sum4(s[i][g], s[i][g + 1], s[i][g + 2], s[i][g + 3]));          \
                for (int j = g; j < g + 4 && j * apart < n; j++)                               \
                    C[(size_t)i * ldc + j * apart] = sum[j - g];                               \
            }                                                                                  \
    }                                                                                          \
                                                                                               \
    static void few_##name##_neon(float *C, int ldc, const float *A, int lda, const void *W,   \
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
INLINE void tile_step(float32x4_t c[TILE_M][VECTORS], const float *A, int lda, const float *P,
                      const int M, const int N)
{
    float32x4_t b[VECTORS];
    UNROLL
    for (int v = 0; v < N; v++)
        b[v] = vld1q_f32(P + 4 * v);
    UNROLL
    for (int i = 0; i < M; i++) {
        float32x4_t a = vld1q_dup_f32(A + (size_t)i * lda);
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = vfmaq_f32(c[i][v], a, b[v]);
    }
}

/* M x 4 N of the tile; the last register of a row stores its first `last` lanes. */
INLINE void tile_part(float *C, int ldc, const float *A, int lda, const float *P, int k,
                      bool accumulate, Ahead *ahead, int last, const int M, const int N)
{
    float32x4_t c[TILE_M][VECTORS];
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = vdupq_n_f32(0);
    UNROLL
    for (int i = 0; i < M; i++)
        for (int v = 0; v < N; v += 4)          /* needed at the end: here by then */
            __builtin_prefetch(C + (size_t)i * ldc + 4 * v, 1);
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
            float *to = C + (size_t)i * ldc + 4 * v;
            int lanes = v == N - 1 ? last : 4;
            if (accumulate) c[i][v] = vaddq_f32(part_f32(to, lanes), c[i][v]);
            store(to, lanes, c[i][v]);
        }
}

TILES(neon, float)

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

void gemm_neon(Kernels *k)
{
    k->few[F32] = few_f32_neon;
    k->few[F16] = few_f16_neon;
    k->few[BF16] = few_bf16_neon;
    k->tile_m = TILE_M;
    k->tile_n = TILE_N;
    k->tile = tile_neon;
    k->pack[F32] = pack_f32_neon;
    k->pack[F16] = pack_f16_neon;
    k->pack[BF16] = pack_bf16_neon;
}
