/* gemm_avx512bf16.c -- products of bf16 weights for x86 processors with AVX-512-BF16: Cooper Lake,
 * Sapphire Rapids, Zen 4 and later.
 *
 * vdpbf16ps multiplies 32 pairs of bf16 numbers and adds them, two by two, to 16 sums in f32: twice
 * the multiply-adds of f32. Products of two bf16 numbers are exact in f32; what is lost is that the
 * activations are rounded to bf16 first, by 2^-8 of themselves at most, once for all columns. Few
 * rows are bound by memory: they stay as gemm_avx512.c has them, in f32.
 *
 * The tile is that of gemm_avx512.c, 6 x 64 sums, with pairs along k in the place of numbers:
 *
 *                   P[p], P[p+1] of the columns 0..15 | 16..31 | 32..47 | 48..63
 *   A[0][p, p+1]                 c00       c01      c02      c03
 *    ...                                                            24 sums in registers
 *   A[5][p, p+1]                 c50       c51      c52      c53
 *
 *   per step   two steps along k: 24 vdpbf16ps for 4 loads of the panel and 6 broadcasts of 32
 *              bits. Zen 4 begins one 512-bit vdpbf16ps a cycle: arithmetic is the limit again,
 *              and 256 bytes of the panel in 24 cycles are what the second-level cache gives in 8.
 *   latency    a sum is used again after 24 instructions; they take 6 cycles on Zen 4
 *
 * Packing moves pairs as if they were floats: the transposition of f32, for two columns at a time.
 *
 * Easy to get wrong:
 *   - An odd k ends in half a pair: its other half is 0 in A and in P.
 *   - These instructions take subnormal numbers for 0, and pay no attention to MXCSR. */
#include <string.h>

#include "avx512.h"
#include "tiles.h"

enum { TILE_M = 6, TILE_N = 64, LANES = 16, VECTORS = TILE_N / LANES };   /* as in gemm_avx512.c */

/* Two steps along k: N registers of the panel by M pairs of A. */
INLINE void tile_step(__m512 c[TILE_M][VECTORS], const uint16_t *A, int lda, const uint16_t *P,
                      const int M, const int N)
{
    __m512bh b[VECTORS];
    UNROLL
    for (int v = 0; v < N; v++)
        b[v] = (__m512bh)_mm512_loadu_si512(P + 32 * v);
    UNROLL
    for (int i = 0; i < M; i++) {
        int pair;
        memcpy(&pair, A + (size_t)i * lda, sizeof pair);
        __m512bh a = (__m512bh)_mm512_set1_epi32(pair);
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = _mm512_dpbf16_ps(c[i][v], a, b[v]);
    }
}

/* M x 16 N of the tile; the last register of a row stores its first `last` lanes. */
INLINE void tile_part(float *C, int ldc, const uint16_t *A, int lda, const uint16_t *P, int k,
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
    for (; M == TILE_M && N == VECTORS && ahead && p + 8 <= k; p += 8) {
        ahead = fetch(ahead);
        UNROLL
        for (int q = 0; q < 8; q += 2)
            tile_step(c, A + p + q, lda, P + (size_t)(p + q) * TILE_N, M, N);
    }
    for (; p < k; p += 2)
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

TILES(avx512bf16, uint16_t)

/* The first k numbers of a row, as 16 pairs; from 32 up all of them. */
INLINE __m512 part_pairs(const uint16_t *p, int k)
{
    __mmask32 mask = k >= 32 ? 0xffffffff : (1u << k) - 1;
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, p));
}

/* 16 columns of the panel, 32 steps along k: the first nr rows of w, k numbers of each. */
INLINE void pack_block(uint16_t *P, const uint16_t *w, int ldw, int nr, int k)
{
    __m512 v[16];
    UNROLL
    for (int t = 0; t < 16; t++)
        v[t] = t < nr ? part_pairs(w + (size_t)t * ldw, k) : _mm512_setzero_ps();
    store_columns((float *)P, TILE_N, v, (k + 1) / 2);
}

static void pack_avx512bf16(uint16_t *P, const uint16_t *W, int ldw, int nr, int k)
{
    for (int j = 0; j < TILE_N; j += 16)
        for (int p = 0; p < k; p += 32) {
            const uint16_t *w = W + (size_t)j * ldw + p;
            uint16_t *to = P + (size_t)p * TILE_N + 2 * j;
            if (k - p >= 32 && nr - j >= 16) pack_block(to, w, ldw, 16, 32);
            else                             pack_block(to, w, ldw, nr - j, min(k - p, 32));
        }
}

void gemm_avx512bf16(Kernels *k)
{
    if (k->exact) return;
    k->tile_bf16 = tile_avx512bf16;
    k->pack_bf16 = pack_avx512bf16;
}
