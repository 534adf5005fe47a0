/* quant_avx512vnni.c -- quantised products for x86 processors with AVX-512 and its instructions for
 * neural networks: Cascade Lake, Ice Lake, Zen 4 and later. vpdpbusd multiplies 64 unsigned bytes
 * with 64 signed ones and adds each four products to one of 16 sums: four times the multiplications
 * of floats.
 *
 * The unsigned operand is the weight, q + 128; the signed one is an activation's four columns,
 * broadcast from memory by the instruction itself. The 128 times the activations that are too much
 * are what the sum starts with.
 *
 * The tile (many rows): 6 x 32, for each block of 32 columns
 *
 *               rows 0..15 of the panel   rows 16..31
 *   A[0][4g..]          s00                   s01         8 steps of 12 dpbusd, for which 2
 *    ...                                                  registers of weights are loaded, then
 *   A[5][4g..]          s50                   s51         sum = fma((float)s, scale * scale, sum)
 *
 *   registers  12 sums of integers + 12 of floats + 2 of weights + 2 of scales + 2 = 30 of 32
 *   per block  96 dpbusd, and 12 each of: conversion, product of scales, multiply-add. On Zen 4 the
 *              dpbusd and the last two share the multipliers, one a cycle: 96 / 120 = 80 % of what
 *              dpbusd alone would reach is the limit of this format, whatever the loop
 *   loads      of 16 (weights) + 96 (broadcasts), one a cycle, hidden behind the multipliers
 *
 * Few rows: the blocks of two streams side by side make 16 rows of W; up to 8 rows of activations
 * pass by them, whose sums of floats lie in the first-level cache. Measured on Zen 4, cycles a
 * block of 272 bytes from the cache: 12 for one row of activations, 25 for four, 49 for eight, of
 * which dpbusd and what shares its unit need 40. From memory a block takes 28 to arrive: that is
 * the limit up to four rows; of Q4, whose blocks are half as large, up to three.
 *
 * Easy to get wrong: gcc 12's intrinsic for dpbusd copies the sum each time, hence the assembly. */
#include "avx512.h"

#include <string.h>

enum { TILE_M = 6, TILE_N = 32, VECTORS = TILE_N / 16, STREAMS = 6, FEW = 8,
       RB = Q_COLS + 8, FETCH = 256 };

/* s += the four products of each lane of u (unsigned) with the four bytes at p (signed). */
INLINE __m512i dot16(__m512i s, __m512i u, const void *p)
{
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(s) : "v"(u), "m"(*(const int32_t *)p));
    return s;
}

/* === Rounding activations ===================================================================== */

static void round_avx512vnni(void *R, const float *A, int lda, int m, int mr, int k)
{
    const __m512i not_sign = _mm512_set1_epi32(0x7fffffff);
    if (m < mr) memset(R, 0, rounded_bytes(mr, k));
    for (int i = 0; i < m; i++) {
        const float *x = A + (size_t)i * lda;
        char *to = R;
        for (int p = 0; p < k; p += Q_COLS, to += rounded_block(mr)) {
            int more = k - p > 16 ? k - p - 16 : 0;
            __m512 x0 = part_f32(x + p, k - p), x1 = part_f32(x + p + 16, more);
            __m512i b0 = _mm512_and_si512(_mm512_castps_si512(x0), not_sign);
            __m512i b1 = _mm512_and_si512(_mm512_castps_si512(x1), not_sign);
            int most = _mm512_reduce_max_epi32(_mm512_max_epi32(b0, b1));
            float max, s = 0;
            memcpy(&max, &most, sizeof max);
            __m512i q0 = _mm512_setzero_si512(), q1 = q0;
            if (most >= 0x7f800000) {
                s = __builtin_nanf("");
            } else if (max >= 0x1p-110f) {
                __m512 inverse = _mm512_set1_ps(127 / max);
                s = max / 127;
                q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
                q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
            }
            int start = -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(q0, q1));
            int8_t q[Q_COLS];
            _mm_storeu_si128((__m128i *)q, _mm512_cvtepi32_epi8(q0));
            _mm_storeu_si128((__m128i *)(q + 16), _mm512_cvtepi32_epi8(q1));
            for (int g = 0; g < 8; g++) memcpy(to + 4 * (g * mr + i), q + 4 * g, 4);
            memcpy(to + Q_COLS * mr + 4 * i, &s, sizeof s);
            memcpy(to + (Q_COLS + 4) * mr + 4 * i, &start, sizeof start);
        }
    }
}

/* === Few rows ================================================================================= */

/* 32 bytes at p and 32 at q. */
INLINE __m512i halves(const void *p, const void *q)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(p)),
                              _mm256_loadu_si256(q), 1);
}

/* u[g]: the weights of columns 4g .. 4g+3 of the 8 rows of two blocks, + 128. */
INLINE void load_q8(__m512i u[8], const BlockQ8 *b0, const BlockQ8 *b1)
{
    UNROLL
    for (int g = 0; g < 8; g++)
        u[g] = _mm512_xor_si512(halves(b0->q[g], b1->q[g]), _mm512_set1_epi8((char)0x80));
}
INLINE void load_q4(__m512i u[8], const BlockQ4 *b0, const BlockQ4 *b1)
{
    __m512i low = _mm512_set1_epi8(15), values = _mm512_broadcast_i32x4(
        _mm_xor_si128(_mm_loadu_si128((const __m128i *)q4_values), _mm_set1_epi8((char)0x80)));
    UNROLL
    for (int g = 0; g < 4; g++) {
        __m512i v = halves(b0->q[g], b1->q[g]);
        u[g] = _mm512_shuffle_epi8(values, _mm512_and_si512(v, low));
        u[g + 4] = _mm512_shuffle_epi8(values, _mm512_and_si512(_mm512_srli_epi16(v, 4), low));
    }
}
INLINE void load_blocks(__m512i u[8], const char *b0, const char *b1, const DType type)
{
    if (type == Q8) load_q8(u, (const BlockQ8 *)b0, (const BlockQ8 *)b1);
    else            load_q4(u, (const BlockQ4 *)b0, (const BlockQ4 *)b1);
}

/* Their scales, with which a block of either type begins. */
INLINE __m512 scales(const char *b0, const char *b1)
{
    __m128i s0 = _mm_loadu_si128((const __m128i *)b0), s1 = _mm_loadu_si128((const __m128i *)b1);
    return _mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(s0), s1, 1));
}

/* sum[i] += two blocks of W times that of row i of the activations, i < M. */
INLINE void few_blocks(__m512 *sum, const char *W0, const char *W1, const char *R,
                       const DType type, const int M)
{
    __m512i u[8], s[FEW];
    load_blocks(u, W0, W1, type);
    UNROLL
    for (int i = 0; i < M; i++)
        s[i] = _mm512_set1_epi32(*(const int *)(R + i * RB + Q_COLS + 4));
    UNROLL
    for (int g = 0; g < 8; g++)
        UNROLL
        for (int i = 0; i < M; i++) s[i] = dot16(s[i], u[g], R + i * RB + 4 * g);
    __m512 scale = scales(W0, W1);
    UNROLL
    for (int i = 0; i < M; i++) {
        __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(*(const float *)(R + i * RB + Q_COLS)));
        sum[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[i]), both, sum[i]);
    }
}

static NOINLINE void few_store(float *C, int ldc, __m512 sum[][FEW], int m, int streams, int apart,
                               int n)
{
    for (int t = 0; t < streams; t++, C += Q_ROWS * apart, n -= Q_ROWS * apart)
        for (int i = 0; i < m; i++)
            _mm256_mask_storeu_ps(C + (size_t)i * ldc, (__mmask8)first(n),
                                  _mm256_loadu_ps((float *)&sum[t / 2][i] + 8 * (t % 2)));
}

/* The lines of a stream that are needed FETCH bytes further on. */
INLINE void fetch_lines(const char *w, const DType type)
{
    for (int i = 0; i < (int)quant_bytes(type, 1, 1); i += 64) __builtin_prefetch(w + FETCH + i);
}

/* m <= M rows of activations by `streams` rows of blocks, each `apart` of them behind the one
 * before. */
INLINE void few_streams(float *C, int ldc, const char *R, const char *W, int m, int streams,
                        int apart, int n, int k, const DType type, const int M)
{
    __m512 sum[STREAMS / 2][FEW];
    size_t w_row = (size_t)apart * quant_bytes(type, 1, k);
    memset(sum, 0, sizeof sum);
    for (int p = 0; p < k; p += Q_COLS, W += quant_bytes(type, 1, 1), R += RB) {
        char a[FEW * RB];                    /* the rows' blocks, side by side */
        const char *w = W;
        for (int i = 0; i < M; i++)
            memcpy(a + i * RB, R + (size_t)min(i, m - 1) * rounded_bytes(1, k), RB);
        for (int t = 0; t < streams; t += 2, w += 2 * w_row) {
            const char *next = t + 1 < streams ? w + w_row : w;
            fetch_lines(w, type);
            fetch_lines(next, type);
            few_blocks(sum[t / 2], w, next, a, type, M);
        }
    }
    few_store(C, ldc, sum, m, streams, apart, n);
}

/* Zen 4, two threads, in percent of what plain reading gives (GB/s, 65): two streams, fetched ahead
 * by 256 bytes 104, four 99, twelve 90; twelve that the processor's prefetchers follow alone 82.
 * The more rows of activations there are, the more streams are worth putting their blocks side by
 * side once for all. */
INLINE int n_streams(int m) { return m > 2 ? STREAMS : 2; }

#include "quant_few.h"

/* === Many rows ================================================================================ */

/* The panel, block by block: 8 steps of 2 registers of weights, + 128, and 2 registers of scales.
 * Rows of blocks beyond the matrix are zero. */
INLINE void pack(char *P, const char *W, size_t row_of_blocks, int nr, int n_blocks,
                 const DType type)
{
    static const BlockQ8 none;
    for (int v = 0; v < VECTORS; v++)
        for (int b = 0; b < n_blocks; b++) {
            const char *at = W + (size_t)(2 * v) * row_of_blocks +
                             (size_t)b * quant_bytes(type, 1, 1);
            char *to = P + (size_t)b * TILE_N * (Q_COLS + 4) + 64 * v;
            const char *b0 = nr > 16 * v ? at : (const char *)&none;
            const char *b1 = nr > 16 * v + 8 ? at + row_of_blocks : (const char *)&none;
            __m512i u[8];
            load_blocks(u, b0, b1, type);
            UNROLL
            for (int g = 0; g < 8; g++) _mm512_storeu_si512(to + 4 * TILE_N * g, u[g]);
            _mm512_storeu_ps(to + Q_COLS * TILE_N, scales(b0, b1));
        }
}

static void pack_q8_avx512vnni(void *P, const void *W, size_t row_of_blocks, int nr, int n_blocks)
{
    pack(P, W, row_of_blocks, nr, n_blocks, Q8);
}
static void pack_q4_avx512vnni(void *P, const void *W, size_t row_of_blocks, int nr, int n_blocks)
{
    pack(P, W, row_of_blocks, nr, n_blocks, Q4);
}

/* M rows of the tile; the second register of a row stores its first `last` lanes. */
INLINE void tile(float *C, int ldc, const char *R, const char *P, int n_blocks, bool accumulate,
                 const int n[VECTORS], const int M)
{
    __m512 c[TILE_M][VECTORS];
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            c[i][v] = accumulate ? part_f32(C + (size_t)i * ldc + 16 * v, n[v])
                                 : _mm512_setzero_ps();
    for (int b = 0; b < n_blocks; b++, R += rounded_block(M), P += TILE_N * (Q_COLS + 4)) {
        __m512i s[TILE_M][VECTORS];
        UNROLL
        for (int i = 0; i < M; i++)
            UNROLL
            for (int v = 0; v < VECTORS; v++)
                s[i][v] = _mm512_set1_epi32(*(const int *)(R + (Q_COLS + 4) * M + 4 * i));
        UNROLL
        for (int g = 0; g < 8; g++) {
            __m512i u[VECTORS];
            UNROLL
            for (int v = 0; v < VECTORS; v++)
                u[v] = _mm512_loadu_si512(P + 4 * TILE_N * g + 64 * v);
            UNROLL
            for (int i = 0; i < M; i++)
                UNROLL
                for (int v = 0; v < VECTORS; v++)
                    s[i][v] = dot16(s[i][v], u[v], R + 4 * (g * M + i));
        }
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            __m512 scale = _mm512_loadu_ps(P + Q_COLS * TILE_N + 64 * v);
            UNROLL
            for (int i = 0; i < M; i++) {
                __m512 a = _mm512_set1_ps(*(const float *)(R + Q_COLS * M + 4 * i));
                c[i][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[i][v]), _mm512_mul_ps(scale, a),
                                          c[i][v]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            store(C + (size_t)i * ldc + 16 * v, n[v], c[i][v]);
}

static void tile_avx512vnni(float *C, int ldc, const void *R, const void *P, int mr, int nr,
                            int n_blocks, bool accumulate)
{
    const int n[VECTORS] = { nr, nr > 16 ? nr - 16 : 0 };
    switch (mr) {
    case 1:  tile(C, ldc, R, P, n_blocks, accumulate, n, 1); break;
    case 2:  tile(C, ldc, R, P, n_blocks, accumulate, n, 2); break;
    case 3:  tile(C, ldc, R, P, n_blocks, accumulate, n, 3); break;
    case 4:  tile(C, ldc, R, P, n_blocks, accumulate, n, 4); break;
    case 5:  tile(C, ldc, R, P, n_blocks, accumulate, n, 5); break;
    default: tile(C, ldc, R, P, n_blocks, accumulate, n, 6); break;
    }
}

void quant_avx512vnni(Kernels *k)
{
    k->q_round = round_avx512vnni;
    k->q_few[Q8 - Q8] = few_q8;
    k->q_few[Q4 - Q8] = few_q4;
    k->q_few_rows = 16;
    k->q_tile_m = TILE_M;
    k->q_tile_n = TILE_N;
    k->q_pack[Q8 - Q8] = pack_q8_avx512vnni;
    k->q_pack[Q4 - Q8] = pack_q4_avx512vnni;
    k->q_tile = tile_avx512vnni;
}
