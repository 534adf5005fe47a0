/* gemm_neonbf16.c -- products of bf16 weights for 64-bit ARM with matrix products of bf16: bfmmla
 * of ARMv8.6, in Neoverse N2 and V1, Cortex-A510 and A710, Apple's M2 and later. It multiplies 2
 * rows of 4 bf16 numbers with 2 rows of 4 others and adds to 2 x 2 sums in f32: four times the
 * multiply-adds of fmla. Products of two bf16 numbers are exact in f32; what is lost is that the
 * activations are rounded to bf16 first, by 2^-8 of themselves at most, once for all columns. Few
 * rows are bound by memory: they stay as gemm_neon.c has them, in f32.
 *
 * The tile is that of gemm_neon.c, 6 x 16 sums, in squares of two rows and two columns:
 *
 *                      P[p..p+3] of columns 0 1 | 2 3 | ... | 14 15
 *   A[0], A[1][p..p+3]                  c00   c01   ...   c07
 *   A[2], A[3][p..p+3]                  c10                          24 squares in registers
 *   A[4], A[5][p..p+3]                  c20
 *
 *   registers  24 squares + 3 pairs of rows of A + 1 or 2 of the panel = 29 of 32
 *   per step   four steps along k: 24 bfmmla, 8 loads of the panel, 6 of A, of which 3 go to the
 *              upper half of a register, which costs a vector instruction, too. 27 of these are
 *              13.5 cycles with two units (Neoverse N2), 7 with four (V1); 14 loads, 5 cycles with
 *              three a cycle. fmla takes 96 for the same: 48 cycles, and 24
 *   latency    a square is used again after 24 instructions, 12 or 6 cycles; they take 5, and less
 *              from one to the next of a square
 *   bfdot      two products for each of 4 sums, would need 48 in place of 24
 *
 * An odd row is multiplied with itself; what comes of it is not stored.
 *
 * Easy to get wrong:
 *   - k that is no multiple of 4 ends in zeros, in A and in P.
 *   - These instructions round to odd, not to nearest, and take subnormal numbers for 0 (unless a
 *     system sets FPCR.EBF where there is one; Linux does not; qemu 7 rounds to odd). So a sum of
 *     two products is off by 2^-23 of itself at most, and so is adding it: two roundings for two
 *     terms, each twice as large as to nearest. Adding them one by one in f32 may lose as much.
 *
 * Tested for correctness by emulation (qemu-user); cycles are from the vendor's guides. */
#include "neon.h"
#include "tiles.h"

enum { TILE_M = 6, TILE_N = 16, LANES = 4, VECTORS = TILE_N / LANES };  /* as in gemm_neon.c */

/* Four numbers at p and at q; and the other way round, pairs of squares as rows of four sums. */
INLINE bfloat16x8_t two_rows(const uint16_t *p, const uint16_t *q)
{
    return vreinterpretq_bf16_u16(vcombine_u16(vld1_u16(p), vld1_u16(q)));
}
INLINE float32x4_t row_of(float32x4_t square, float32x4_t next, int lower)
{
    float64x2_t a = vreinterpretq_f64_f32(square), b = vreinterpretq_f64_f32(next);
    return vreinterpretq_f32_f64(lower ? vzip2q_f64(a, b) : vzip1q_f64(a, b));
}

/* Four steps along k: 4 N columns of the panel by M rows of A. */
INLINE void tile_step(float32x4_t c[TILE_M / 2][TILE_N / 2], const uint16_t *A, int lda,
                      const uint16_t *P, const int M, const int N)
{
    bfloat16x8_t a[TILE_M / 2];
    UNROLL
    for (int i = 0; i < M; i += 2)
        a[i / 2] = two_rows(A + (size_t)i * lda, A + (size_t)(i + 1 < M ? i + 1 : i) * lda);
    UNROLL
    for (int v = 0; v < 2 * N; v++) {
        bfloat16x8_t b = vreinterpretq_bf16_u16(vld1q_u16(P + 8 * v));
        UNROLL
        for (int i = 0; i < M; i += 2)
            c[i / 2][v] = vbfmmlaq_f32(c[i / 2][v], a[i / 2], b);
    }
}

/* M x 4 N of the tile; the last register of a row stores its first `last` lanes. */
INLINE void tile_part(float *C, int ldc, const uint16_t *A, int lda, const uint16_t *P, int k,
                      bool accumulate, Ahead *ahead, int last, const int M, const int N)
{
    float32x4_t c[TILE_M / 2][TILE_N / 2];
    UNROLL
    for (int i = 0; i < M; i += 2)
        UNROLL
        for (int v = 0; v < 2 * N; v++)
            c[i / 2][v] = vdupq_n_f32(0);
    UNROLL
    for (int i = 0; i < M; i++)
        for (int v = 0; v < N; v += 4)          /* needed at the end: here by then */
            __builtin_prefetch(C + (size_t)i * ldc + 4 * v, 1);
    for (int p = 0; p < k; p += 4) {
        if (M == TILE_M && N == VECTORS && ahead) ahead = fetch(ahead);
        tile_step(c, A + p, lda, P + (size_t)p * TILE_N, M, N);
    }
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++) {
            float *to = C + (size_t)i * ldc + 4 * v;
            int lanes = v == N - 1 ? last : 4;
            float32x4_t s = row_of(c[i / 2][2 * v], c[i / 2][2 * v + 1], i % 2);
            if (accumulate) s = vaddq_f32(part_f32(to, lanes), s);
            store(to, lanes, s);
        }
}

TILES(neonbf16, uint16_t)

/* The panel: for each four steps along k, 16 columns of four numbers. */
static void pack_neonbf16(uint16_t *P, const uint16_t *W, int ldw, int nr, int k)
{
    for (int p = 0; p < k; p += 4)
        for (int j = 0; j < TILE_N; j++, P += 4) {
            const uint16_t *w = W + (size_t)j * ldw + p;
            if (j < nr && k - p >= 4) {
                vst1_u16(P, vld1_u16(w));
                continue;
            }
            for (int c = 0; c < 4; c++) P[c] = j < nr && c < k - p ? w[c] : 0;
        }
}

void gemm_neonbf16(Kernels *k)
{
    if (k->exact) return;
    k->tile_bf16 = tile_neonbf16;
    k->pack_bf16 = pack_neonbf16;
}
