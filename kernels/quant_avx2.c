/* quant_avx2.c -- quantised products for x86 processors with AVX2, FMA and F16C.
 *
 * vpmaddubsw multiplies 32 unsigned with 32 signed bytes and adds neighbours to 16 bits; vpmaddwd
 * with ones adds neighbours again, to 32 bits; vpaddd to the sum: three instructions for 32
 * products, twice as many in a cycle as floats on Zen 2 and later and on Intel's processors.
 *
 * The unsigned operand is |w|, the signed one the activation with the sign of w (vpsignb):
 * |w| * 127 * 2 is at most 32512, and 16 bits hold it. With w + 128 instead they would not. Weights
 * of 4 bits have another way when they are used once: q4_values + 64 is 118 at most and unsigned as
 * it is; the 64 times the activations that are too much are half of what `start` says.
 *
 * The tile (many rows): 4 x 16, for each block of 32 columns
 *
 *   8 steps of: 2 registers of weights, their |w|, 4 activations broadcast; 8 times sign, maddubs,
 *   madd, add; then 8 times: conversion, product of scales, fused multiply-add
 *
 *   registers  8 sums of integers + 4 of weights + ones + activation + 1 = 15 of 16; the sums of
 *              floats lie in the first-level cache, to be met once in a block
 *   per block  64 products of 32 need 128 slots of the multipliers (2 a cycle on Zen 4), 256 of all
 *              four units: they are busy with nothing else, and 24 + 24 more come for the scales.
 *              So about 85 % of what maddubs, madd and add alone reach is the limit
 *
 * Few rows: a block of 272 bytes takes some 14 cycles to multiply and about 40 to arrive.
 *
 * AVX-512 without VNNI has nothing that would be faster: it uses this file. */
#include "avx2.h"

enum { TILE_M = 4, TILE_N = 16, VECTORS = TILE_N / 8, STREAMS = 12 };

/* s += the four products of each lane of |w| and a with the sign of w. */
INLINE __m256i dot_abs(__m256i s, __m256i abs, __m256i w, __m256i a)
{
    __m256i pairs = _mm256_maddubs_epi16(abs, _mm256_sign_epi8(a, w));
    return _mm256_add_epi32(s, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

INLINE __m256i columns(const char *p)       /* four of a row, 8 times */
{
    return _mm256_castps_si256(_mm256_broadcast_ss((const float *)p));
}

/* === Rounding activations ===================================================================== */

INLINE int max_of(__m256i v)
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}
INLINE int sum_of(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* 4 x 8 integers of 32 bits -> 32 bytes in their order: packing works within halves. */
INLINE __m256i to_bytes(const __m256i q[4])
{
    __m256i v = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    return _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static void round_avx2(void *R, const float *A, int lda, int m, int mr, int k)
{
    const __m256i not_sign = _mm256_set1_epi32(0x7fffffff);
    if (m < mr) memset(R, 0, rounded_bytes(mr, k));
    for (int i = 0; i < m; i++) {
        char *to = R;
        for (int p = 0; p < k; p += Q_COLS, to += rounded_block(mr)) {
            const float *x = A + (size_t)i * lda + p;
            __m256i q[4], most = _mm256_setzero_si256(), sum = most;
            __m256 v[4], inverse = _mm256_setzero_ps();
            UNROLL
            for (int t = 0; t < 4; t++) {
                v[t] = k - p > 8 * t ? part_f32(x + 8 * t, k - p - 8 * t) : _mm256_setzero_ps();
                most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(v[t]), not_sign));
            }
            int bits = max_of(most);
            float max, s = 0;
            memcpy(&max, &bits, sizeof max);
            if (bits >= 0x7f800000) {
                s = __builtin_nanf("");
                v[0] = v[1] = v[2] = v[3] = inverse;
            } else if (max >= 0x1p-110f) {
                inverse = _mm256_set1_ps(127 / max);
                s = max / 127;
            }
            UNROLL
            for (int t = 0; t < 4; t++) {
                q[t] = _mm256_cvtps_epi32(_mm256_mul_ps(v[t], inverse));
                sum = _mm256_add_epi32(sum, q[t]);
            }
            int start = -128 * sum_of(sum);
            int8_t bytes[Q_COLS];
            _mm256_storeu_si256((__m256i *)bytes, to_bytes(q));
            for (int g = 0; g < 8; g++) memcpy(to + 4 * (g * mr + i), bytes + 4 * g, 4);
            memcpy(to + Q_COLS * mr + 4 * i, &s, sizeof s);
            memcpy(to + (Q_COLS + 4) * mr + 4 * i, &start, sizeof start);
        }
    }
}

/* === Few rows ================================================================================= */

INLINE __m256 scales8(const uint16_t *h) { return load_f16(h); }

/* 4-bit indices, in halves of the bytes: v[g] of columns 4g .. 4g+3 of 8 rows. */
INLINE void load_q4(__m256i v[8], const BlockQ4 *b, __m256i values)
{
    const __m256i low = _mm256_set1_epi8(15);
    UNROLL
    for (int g = 0; g < 4; g++) {
        __m256i q = _mm256_loadu_si256((const __m256i *)b->q[g]);
        v[g] = _mm256_shuffle_epi8(values, _mm256_and_si256(q, low));
        v[g + 4] = _mm256_shuffle_epi8(values, _mm256_and_si256(_mm256_srli_epi16(q, 4), low));
    }
}
INLINE __m256i values_plus(int8_t more)
{
    __m128i v = _mm_loadu_si128((const __m128i *)q4_values);
    return _mm256_broadcastsi128_si256(_mm_add_epi8(v, _mm_set1_epi8(more)));
}

/* The integers of 8 rows of a block with a row of activations r. */
INLINE __m256i block_q8(const BlockQ8 *b, const char *r)
{
    __m256i s = _mm256_setzero_si256();
    UNROLL
    for (int g = 0; g < 8; g++) {
        __m256i w = _mm256_loadu_si256((const __m256i *)b->q[g]);
        s = dot_abs(s, _mm256_abs_epi8(w), w, columns(r + 4 * g));
    }
    return s;
}
INLINE __m256i block_q4(const BlockQ4 *b, const char *r)
{
    __m256i u[8], s = _mm256_srai_epi32(columns(r + Q_COLS + 4), 1);
    load_q4(u, b, values_plus(64));
    UNROLL
    for (int g = 0; g < 8; g++) {
        __m256i pairs = _mm256_maddubs_epi16(u[g], columns(r + 4 * g));
        s = _mm256_add_epi32(s, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return s;
}

/* One row of activations by S rows of blocks, `apart` of them from each other: so that the memory
 * delivers S long streams, whose prefetchers run ahead of the multipliers and over the ends of pages
 * together. The last block of all stores n columns. */
#define FEW(name, Block)                                                                         \
    INLINE void few_row_##name(float *C, const char *R, const Block *W, int apart, int n,        \
                               int n_blocks, const int S)                                        \
    {                                                                                            \
        __m256 sum[STREAMS];                                                                     \
        UNROLL                                                                                   \
        for (int t = 0; t < S; t++) sum[t] = _mm256_setzero_ps();                                \
        for (int b = 0; b < n_blocks; b++, W++, R += rounded_block(1))                           \
            UNROLL                                                                               \
            for (int t = 0; t < S; t++) {                                                        \
                const Block *w = W + (size_t)(t * apart) * (size_t)n_blocks;                     \
                __m256 s = _mm256_cvtepi32_ps(block_##name(w, R));                               \
                __m256 a = _mm256_broadcast_ss((const float *)(R + Q_COLS));                     \
                sum[t] = _mm256_fmadd_ps(s, _mm256_mul_ps(scales8(w->scale), a), sum[t]);        \
            }                                                                                    \
        UNROLL                                                                                   \
        for (int t = 0; t < S; t++) store(C + 8 * t * apart, n - 8 * t * apart, sum[t]);         \
    }                                                                                            \
                                                                                                 \
    /* As many rows of blocks as make S streams; the number that are done. */                     \
    INLINE int few_streams_##name(float *C, const char *R, const Block *W, int n, int n_blocks,  \
                                  const int S)                                                   \
    {                                                                                            \
        int apart = (n + 7) / 8 / S;                                                             \
        for (int j = 0; j < apart; j++)                                                          \
            few_row_##name(C + 8 * j, R, W + (size_t)j * (size_t)n_blocks, apart, n - 8 * j,     \
                           n_blocks, S);                                                         \
        return apart * S;                                                                        \
    }                                                                                            \
                                                                                                 \
    static void few_##name##_avx2(float *C, int ldc, const void *R, const void *W, int m, int n, \
                                  int k)                                                         \
    {                                                                                            \
        size_t blocks = (size_t)((k + Q_COLS - 1) / Q_COLS);                                     \
        for (int i = 0; i < m; i++) {                                                            \
            float *c = C + (size_t)i * ldc;                                                      \
            const char *r = (const char *)R + (size_t)i * rounded_bytes(1, k);                   \
            const Block *w = W;                                                                  \
            int j = few_streams_##name(c, r, w, n, (int)blocks, STREAMS);                        \
            j += few_streams_##name(c + 8 * j, r, w + (size_t)j * blocks, n - 8 * j,             \
                                    (int)blocks, 4);                                             \
            few_streams_##name(c + 8 * j, r, w + (size_t)j * blocks, n - 8 * j, (int)blocks, 1); \
        }                                                                                        \
    }
FEW(q8, BlockQ8)
FEW(q4, BlockQ4)

/* === Many rows ================================================================================ */

/* The panel, block by block: 8 steps of 2 registers of weights, and 2 registers of scales. Rows of
 * blocks beyond the matrix are zero. */
INLINE void pack_block(char *to, const __m256i w[8], __m256 scale)
{
    UNROLL
    for (int g = 0; g < 8; g++) _mm256_storeu_si256((__m256i *)(to + 4 * TILE_N * g), w[g]);
    _mm256_storeu_ps((float *)(to + Q_COLS * TILE_N), scale);
}

INLINE void unpack_q8(__m256i w[8], const BlockQ8 *b)
{
    UNROLL
    for (int g = 0; g < 8; g++) w[g] = _mm256_loadu_si256((const __m256i *)b->q[g]);
}
INLINE void unpack_q4(__m256i w[8], const BlockQ4 *b) { load_q4(w, b, values_plus(0)); }

#define PACK(name, Block)                                                                        \
    static void pack_##name##_avx2(void *P, const void *W, size_t row_of_blocks, int nr,         \
                                   int n_blocks)                                                 \
    {                                                                                            \
        for (int strip = 0; strip < TILE_N / 8; strip++) {                                       \
            const Block *w = (const Block *)((const char *)W + (size_t)strip * row_of_blocks);   \
            char *to = (char *)P + 32 * strip;                                                   \
            for (int b = 0; b < n_blocks; b++, to += TILE_N * (Q_COLS + 4)) {                    \
                __m256i v[8] = { _mm256_setzero_si256() };                                       \
                if (8 * strip < nr) unpack_##name(v, w + b);                                     \
                pack_block(to, v, 8 * strip < nr ? scales8(w[b].scale) : _mm256_setzero_ps());   \
            }                                                                                    \
        }                                                                                        \
    }
PACK(q8, BlockQ8)
PACK(q4, BlockQ4)

/* M x 16 of the tile, into sums [M][16]. */
INLINE void tile_rows(float *sums, const char *R, const char *P, int n_blocks, const int M)
{
    for (int b = 0; b < n_blocks; b++, R += rounded_block(M), P += TILE_N * (Q_COLS + 4)) {
        __m256i s[TILE_M][VECTORS];
        UNROLL
        for (int i = 0; i < M; i++) s[i][0] = s[i][1] = _mm256_setzero_si256();
        _Pragma("GCC unroll 1")                     /* gcc would move all additions to the end */
        for (int g = 0; g < 8; g++) {
            __m256i w0 = _mm256_loadu_si256((const __m256i *)(P + 4 * TILE_N * g));
            __m256i w1 = _mm256_loadu_si256((const __m256i *)(P + 4 * TILE_N * g + 32));
            __m256i abs0 = _mm256_abs_epi8(w0), abs1 = _mm256_abs_epi8(w1);
            UNROLL
            for (int i = 0; i < M; i++) {
                __m256i a = columns(R + 4 * (g * M + i));
                s[i][0] = dot_abs(s[i][0], abs0, w0, a);
                s[i][1] = dot_abs(s[i][1], abs1, w1, a);
            }
        }
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            __m256 scale = _mm256_loadu_ps((const float *)(P + Q_COLS * TILE_N + 32 * v));
            UNROLL
            for (int i = 0; i < M; i++) {
                float *c = sums + TILE_N * i + 8 * v;
                __m256 a = _mm256_broadcast_ss((const float *)(R + Q_COLS * M + 4 * i));
                _mm256_storeu_ps(c, _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[i][v]),
                                                    _mm256_mul_ps(scale, a), _mm256_loadu_ps(c)));
            }
        }
    }
}

static void tile_avx2(float *C, int ldc, const void *R, const void *P, int mr, int nr,
                      int n_blocks, bool accumulate)
{
    float sums[TILE_M * TILE_N] = { 0 };
    for (int i = 0; i < mr && accumulate; i++)
        memcpy(sums + TILE_N * i, C + (size_t)i * ldc, (size_t)nr * sizeof *sums);
    switch (mr) {
    case 1:  tile_rows(sums, R, P, n_blocks, 1); break;
    case 2:  tile_rows(sums, R, P, n_blocks, 2); break;
    case 3:  tile_rows(sums, R, P, n_blocks, 3); break;
    default: tile_rows(sums, R, P, n_blocks, 4); break;
    }
    for (int i = 0; i < mr; i++)
        memcpy(C + (size_t)i * ldc, sums + TILE_N * i, (size_t)nr * sizeof *sums);
}

void quant_avx2(Kernels *k)
{
    k->q_round = round_avx2;
    k->q_few[Q8 - Q8] = few_q8_avx2;
    k->q_few[Q4 - Q8] = few_q4_avx2;
    k->q_tile_m = TILE_M;
    k->q_tile_n = TILE_N;
    k->q_pack[Q8 - Q8] = pack_q8_avx2;
    k->q_pack[Q4 - Q8] = pack_q4_avx2;
    k->q_tile = tile_avx2;
}
