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
 * Few rows: 8 rows of W are a 256-bit register; dpbusd with half the width is issued twice as often
 * on Zen 4 and nothing has to be put together. A block of 272 bytes takes 10 cycles to multiply and
 * about 40 to arrive: the memory is the limit up to 4 rows.
 *
 * Easy to get wrong: gcc 12's intrinsic for dpbusd copies the sum each time, hence the assembly. */
#include "avx512.h"

#include <string.h>

enum { TILE_M = 6, TILE_N = 32, VECTORS = TILE_N / 16, STREAMS = 12 };

/* s += the four products of each lane of u (unsigned) with the four bytes at p (signed). */
INLINE __m256i dot8(__m256i s, __m256i u, const void *p)
{
    __asm__("vpdpbusd %2%{1to8%}, %1, %0" : "+v"(s) : "v"(u), "m"(*(const int32_t *)p));
    return s;
}
INLINE __m256i dot8_register(__m256i s, __m256i u, __m256i a)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(u), "v"(a));
    return s;
}
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

/* u[g]: the weights of columns 4g .. 4g+3 of 8 rows, + 128. */
INLINE void load_q8(__m256i u[8], const BlockQ8 *b)
{
    UNROLL
    for (int g = 0; g < 8; g++)
        u[g] = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)b->q[g]),
                                _mm256_set1_epi8((char)0x80));
}
INLINE void load_q4(__m256i u[8], const BlockQ4 *b)
{
    __m256i low = _mm256_set1_epi8(15), values = _mm256_broadcastsi128_si256(
        _mm_xor_si128(_mm_loadu_si128((const __m128i *)q4_values), _mm_set1_epi8((char)0x80)));
    UNROLL
    for (int g = 0; g < 4; g++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)b->q[g]);
        u[g] = _mm256_shuffle_epi8(values, _mm256_and_si256(v, low));
        u[g + 4] = _mm256_shuffle_epi8(values, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
    }
}

INLINE __m256 scales8(const uint16_t *h)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)h));
}

/* M rows of activations by S rows of blocks, each `apart` of them behind the one before: so that
 * the memory delivers S long streams, whose prefetchers run ahead of the multipliers and over the
 * ends of pages together. One alone comes two thirds as fast. n columns are left to store. */
#define FEW(name, Block)                                                                         \
    INLINE void few_rows_##name(float *C, int ldc, const char *R, size_t r_row, const Block *W,  \
                                int apart, int n, int n_blocks, const int M, const int S)        \
    {                                                                                            \
        __m256 sum[4][STREAMS];                                                                  \
        UNROLL                                                                                   \
        for (int i = 0; i < M; i++)                                                              \
            UNROLL                                                                               \
            for (int t = 0; t < S; t++) sum[i][t] = _mm256_setzero_ps();                         \
        for (int b = 0; b < n_blocks; b++, W++, R += rounded_block(1)) {                         \
            __m256i a[8];                        /* of one row there is room for in registers */ \
            UNROLL                                                                               \
            for (int g = 0; g < 8; g++) a[g] = _mm256_set1_epi32(*(const int *)(R + 4 * g));     \
            UNROLL                                                                               \
            for (int t = 0; t < S; t++) {                                                        \
                const Block *w = W + (size_t)(t * apart) * (size_t)n_blocks;                     \
                __m256i u[8];                                                                    \
                load_##name(u, w);                                                               \
                __m256 scale = scales8(w->scale);                                                \
                UNROLL                                                                           \
                for (int i = 0; i < M; i++) {                                                    \
                    const char *r = R + (size_t)i * r_row;                                       \
                    __m256i s = _mm256_set1_epi32(*(const int *)(r + Q_COLS + 4));               \
                    UNROLL                                                                       \
                    for (int g = 0; g < 8; g++)                                                  \
                        s = M == 1 ? dot8_register(s, u[g], a[g]) : dot8(s, u[g], r + 4 * g);    \
                    __m256 both = _mm256_set1_ps(*(const float *)(r + Q_COLS));                  \
                    both = _mm256_mul_ps(scale, both);                                           \
                    sum[i][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), both, sum[i][t]);         \
                }                                                                                \
            }                                                                                    \
        }                                                                                        \
        UNROLL                                                                                   \
        for (int i = 0; i < M; i++)                                                              \
            UNROLL                                                                               \
            for (int t = 0; t < S; t++) {                                                        \
                int j = 8 * t * apart;                                                           \
                _mm256_mask_storeu_ps(C + (size_t)i * ldc + j, (__mmask8)first(n - j),           \
                                      sum[i][t]);                                                \
            }                                                                                    \
    }                                                                                            \
                                                                                                 \
    /* As many rows of blocks as make S streams; the number that are done. */                     \
    INLINE int few_streams_##name(float *C, int ldc, const char *R, const Block *W, int n,       \
                                  int k, const int M, const int S)                               \
    {                                                                                            \
        int n_blocks = (k + Q_COLS - 1) / Q_COLS, apart = (n + 7) / 8 / S;                       \
        for (int j = 0; j < apart; j++)                                                          \
            few_rows_##name(C + 8 * j, ldc, R, rounded_bytes(1, k),                              \
                            W + (size_t)j * (size_t)n_blocks, apart, n - 8 * j, n_blocks, M, S); \
        return apart * S;                                                                        \
    }                                                                                            \
                                                                                                 \
    INLINE void few_all_##name(float *C, int ldc, const char *R, const char *W, int n, int k,    \
                               const int M, const int S)                                         \
    {                                                                                            \
        size_t row = quant_bytes(sizeof(Block) == sizeof(BlockQ8) ? Q8 : Q4, 1, k);              \
        int j = few_streams_##name(C, ldc, R, (const Block *)W, n, k, M, S);                     \
        j += few_streams_##name(C + 8 * j, ldc, R, (const Block *)(W + (size_t)j * row),         \
                                n - 8 * j, k, M, 4);                                             \
        few_streams_##name(C + 8 * j, ldc, R, (const Block *)(W + (size_t)j * row), n - 8 * j,   \
                           k, M, 1);                                                             \
    }                                                                                            \
                                                                                                 \
    static void few_##name##_avx512vnni(float *C, int ldc, const void *R, const void *W, int m,  \
                                        int n, int k)                                            \
    {                                                                                            \
        for (int i = 0; i < m; i += 4) {                                                         \
            float *c = C + (size_t)i * ldc;                                                      \
            const char *r = (const char *)R + (size_t)i * rounded_bytes(1, k);                   \
            switch (m - i) {                                                                     \
            case 1:  few_all_##name(c, ldc, r, W, n, k, 1, STREAMS); break;                      \
            case 2:  few_all_##name(c, ldc, r, W, n, k, 2, 6); break;                            \
            case 3:  few_all_##name(c, ldc, r, W, n, k, 3, 4); break;                            \
            default: few_all_##name(c, ldc, r, W, n, k, 4, 4); break;                            \
            }                                                                                    \
        }                                                                                        \
    }

/* === Many rows ================================================================================ */

/* The panel, block by block: 8 steps of 2 registers of weights, + 128, and 2 registers of scales.
 * Rows of blocks beyond the matrix are zero. */
#define PACK(name, Block)                                                                        \
    static void pack_##name##_avx512vnni(void *P, const void *W, size_t row_of_blocks, int nr,   \
                                         int n_blocks)                                           \
    {                                                                                            \
        for (int strip = 0; strip < TILE_N / 8; strip++) {                                       \
            const Block *w = (const Block *)((const char *)W + (size_t)strip * row_of_blocks);   \
            char *to = (char *)P + 32 * strip;                                                   \
            for (int b = 0; b < n_blocks; b++, w++, to += TILE_N * (Q_COLS + 4)) {               \
                __m256i u[8] = { _mm256_setzero_si256() };                                       \
                __m256 scale = _mm256_setzero_ps();                                              \
                if (8 * strip < nr) {                                                            \
                    load_##name(u, w);                                                           \
                    scale = scales8(w->scale);                                                   \
                }                                                                                \
                UNROLL                                                                           \
                for (int g = 0; g < 8; g++)                                                      \
                    _mm256_storeu_si256((__m256i *)(to + 4 * TILE_N * g), u[g]);                 \
                _mm256_storeu_ps((float *)(to + Q_COLS * TILE_N), scale);                        \
            }                                                                                    \
        }                                                                                        \
    }
FEW(q8, BlockQ8) PACK(q8, BlockQ8)
FEW(q4, BlockQ4) PACK(q4, BlockQ4)

/* M x 16 N of the tile; the last register of a row stores its first `last` lanes. */
INLINE void tile_part(float *C, int ldc, const char *R, const char *P, int n_blocks,
                      bool accumulate, int last, const int M, const int N)
{
    __m512 c[TILE_M][VECTORS];
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = accumulate ? part_f32(C + (size_t)i * ldc + 16 * v, v == N - 1 ? last : 16)
                                 : _mm512_setzero_ps();
    for (int b = 0; b < n_blocks; b++, R += rounded_block(M), P += TILE_N * (Q_COLS + 4)) {
        __m512i s[TILE_M][VECTORS];
        UNROLL
        for (int i = 0; i < M; i++)
            UNROLL
            for (int v = 0; v < N; v++)
                s[i][v] = _mm512_set1_epi32(*(const int *)(R + (Q_COLS + 4) * M + 4 * i));
        UNROLL
        for (int g = 0; g < 8; g++) {
            __m512i u[VECTORS];
            UNROLL
            for (int v = 0; v < N; v++) u[v] = _mm512_loadu_si512(P + 4 * TILE_N * g + 64 * v);
            UNROLL
            for (int i = 0; i < M; i++)
                UNROLL
                for (int v = 0; v < N; v++) s[i][v] = dot16(s[i][v], u[v], R + 4 * (g * M + i));
        }
        UNROLL
        for (int v = 0; v < N; v++) {
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
        for (int v = 0; v < N; v++)
            store(C + (size_t)i * ldc + 16 * v, v == N - 1 ? last : 16, c[i][v]);
}

#define TILE_ROWS(M)                                                                             \
    static void tile_##M(float *C, int ldc, const char *R, const char *P, int nr, int n_blocks,  \
                         bool accumulate)                                                        \
    {                                                                                            \
        int last = (nr - 1) % 16 + 1;                                                            \
        if (nr <= 16) tile_part(C, ldc, R, P, n_blocks, accumulate, last, M, 1);                 \
        else          tile_part(C, ldc, R, P, n_blocks, accumulate, last, M, 2);                 \
    }
TILE_ROWS(1) TILE_ROWS(2) TILE_ROWS(3) TILE_ROWS(4) TILE_ROWS(5) TILE_ROWS(6)

static void tile_avx512vnni(float *C, int ldc, const void *R, const void *P, int mr, int nr,
                            int n_blocks, bool accumulate)
{
    switch (mr) {
    case 1:  tile_1(C, ldc, R, P, nr, n_blocks, accumulate); break;
    case 2:  tile_2(C, ldc, R, P, nr, n_blocks, accumulate); break;
    case 3:  tile_3(C, ldc, R, P, nr, n_blocks, accumulate); break;
    case 4:  tile_4(C, ldc, R, P, nr, n_blocks, accumulate); break;
    case 5:  tile_5(C, ldc, R, P, nr, n_blocks, accumulate); break;
    default: tile_6(C, ldc, R, P, nr, n_blocks, accumulate); break;
    }
}

void quant_avx512vnni(Kernels *k)
{
    k->q_round = round_avx512vnni;
    k->q_few[Q8 - Q8] = few_q8_avx512vnni;
    k->q_few[Q4 - Q8] = few_q4_avx512vnni;
    k->q_tile_m = TILE_M;
    k->q_tile_n = TILE_N;
    k->q_pack[Q8 - Q8] = pack_q8_avx512vnni;
    k->q_pack[Q4 - Q8] = pack_q4_avx512vnni;
    k->q_tile = tile_avx512vnni;
}
