/* quant_avx2.c -- quantised products for x86 processors with AVX2, FMA and F16C.
 *
 * vpmaddubsw multiplies 32 unsigned with 32 signed bytes and adds neighbours to 16 bits; vpmaddwd
 * multiplies 16 numbers of 16 bits and adds neighbours to 32. Neither takes signed bytes as they
 * are, and of 127 * 255 * 2 the former would lose the upper end. So there are three ways:
 *
 *   few rows, 8 bits   |w| times the activation with the sign of w (vpsignb): 32512 at most. Then
 *                      vpmaddwd with ones, and an addition: 4 instructions for 32 products
 *   few rows, 4 bits   q4_values + 64 is 118 at most and unsigned as it is: 3 instructions. The 64
 *                      times the activations that are too much are half of what `start` says
 *   many rows          both as 16-bit numbers, vpmaddwd and an addition: 4 for 32 products, too,
 *                      but 2 of them multiply, not 3 (vpsignb counts: on Zen it shares their units)
 *
 * The tile (many rows): 6 x 32 as two times 6 x 16. For each pair of columns 2 registers of weights
 * become 16 bits on their way from the panel, 6 pairs of activations are broadcast (they become 16
 * bits once for a block, in a buffer), 12 times multiply and add.
 *
 *   registers  12 sums of integers + 2 of weights + 1 pair + 1 product = all 16; the sums of floats
 *              lie in the first-level cache, where they are met once in a block
 *   bound      on Zen 4 two units multiply: 32 products of 8 rows take a cycle in them, 1.24 with
 *              the additions, and 1.5 with conversions and scales: 67 % of what maddubs, madd and
 *              add reach alone, and 1.3 times what floats could
 *
 * Few rows: up to 8 pass by a block, whose sums of floats lie in the first-level cache. On Zen 4 a
 * block takes 20 cycles to multiply for one row, 15 for each more (Q4: 12), and 28 to arrive.
 *
 * AVX-512 without VNNI has nothing that would be faster: it uses this file. */
#include "avx2.h"

enum { TILE_M = 6, TILE_N = 32, STREAMS = 12, FEW = 8, RB = Q_COLS + 8 };

/* s += the four products of each lane of |w| and a with the sign of w. */
INLINE __m256i dot_abs(__m256i s, __m256i abs, __m256i w, __m256i a)
{
    __m256i pairs = _mm256_maddubs_epi16(abs, _mm256_sign_epi8(a, w));
    return _mm256_add_epi32(s, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* Adds here and now: gcc would add up the products of several steps first, and run out of registers
 * for them. */
#define KEEP(v) __asm__("" : "+x"(v))

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
                __m256i abs = _mm256_and_si256(_mm256_castps_si256(v[t]), not_sign);
                most = _mm256_max_epi32(most, abs);
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

/* s[i] += the integers of 8 rows of a block times those of row i of the activations, i < M. */
INLINE void dot_q8(__m256i *s, const BlockQ8 *b, const char *R, const int M)
{
    UNROLL
    for (int i = 0; i < M; i++) s[i] = _mm256_setzero_si256();
    UNROLL
    for (int g = 0; g < 8; g++) {
        __m256i w = _mm256_loadu_si256((const __m256i *)b->q[g]), abs = _mm256_abs_epi8(w);
        UNROLL
        for (int i = 0; i < M; i++) {
            s[i] = dot_abs(s[i], abs, w, columns(R + i * RB + 4 * g));
            KEEP(s[i]);
        }
    }
}
INLINE void dot_q4(__m256i *s, const BlockQ4 *b, const char *R, const int M)
{
    const __m256i ones = _mm256_set1_epi16(1), low = _mm256_set1_epi8(15);
    __m256i values = values_plus(64);
    UNROLL
    for (int i = 0; i < M; i++) s[i] = _mm256_srai_epi32(columns(R + i * RB + Q_COLS + 4), 1);
    UNROLL
    for (int g = 0; g < 4; g++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)b->q[g]);
        __m256i u0 = _mm256_shuffle_epi8(values, _mm256_and_si256(v, low));
        __m256i u1 = _mm256_shuffle_epi8(values, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
        UNROLL
        for (int i = 0; i < M; i++) {
            const char *a = R + i * RB + 4 * g;
            __m256i p0 = _mm256_maddubs_epi16(u0, columns(a));
            __m256i p1 = _mm256_maddubs_epi16(u1, columns(a + 16));
            s[i] = _mm256_add_epi32(s[i], _mm256_madd_epi16(p0, ones));
            s[i] = _mm256_add_epi32(s[i], _mm256_madd_epi16(p1, ones));
            KEEP(s[i]);
        }
    }
}

/* sum[i] += a block of W times that of row i of the activations, i < M. */
INLINE void few_block(__m256 *sum, const char *W, const char *R, const DType type, const int M)
{
    __m256i s[FEW];
    __asm__("" : "+r"(R));                  /* gcc would keep 8 M addresses instead of this one */
    if (type == Q8) dot_q8(s, (const BlockQ8 *)W, R, M);
    else            dot_q4(s, (const BlockQ4 *)W, R, M);
    __m256 scale = scales8((const uint16_t *)W);
    UNROLL
    for (int i = 0; i < M; i++) {
        __m256 a = _mm256_broadcast_ss((const float *)(R + i * RB + Q_COLS));
        sum[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[i]), _mm256_mul_ps(scale, a), sum[i]);
    }
}

static NOINLINE void few_store(float *C, int ldc, __m256 sum[][FEW], int m, int streams, int apart,
                               int n)
{
    for (int t = 0; t < streams; t++, C += Q_ROWS * apart, n -= Q_ROWS * apart)
        for (int i = 0; i < m; i++) store(C + (size_t)i * ldc, n, sum[t][i]);
}

/* m <= M rows of activations by `streams` rows of blocks, each `apart` of them behind the one
 * before. */
INLINE void few_streams(float *C, int ldc, const char *R, const char *W, int m, int streams,
                        int apart, int n, int k, const DType type, const int M)
{
    __m256 sum[STREAMS][FEW];
    size_t w_row = (size_t)apart * quant_bytes(type, 1, k);
    memset(sum, 0, sizeof sum);
    for (int p = 0; p < k; p += Q_COLS, W += quant_bytes(type, 1, 1), R += RB) {
        char a[FEW * RB];                    /* the rows' blocks, side by side */
        for (int i = 0; i < M; i++)
            memcpy(a + i * RB, R + (size_t)min(i, m - 1) * rounded_bytes(1, k), RB);
        for (int t = 0; t < streams; t++)
            few_block(sum[t], W + (size_t)t * w_row, a, type, M);
    }
    few_store(C, ldc, sum, m, streams, apart, n);
}

/* As many as there can be: the memory delivers long streams, whose prefetchers run ahead of the
 * multipliers and over the ends of pages together. One alone comes two thirds as fast; with many
 * sums to a stream, fewer are better. */
INLINE int n_streams(int m) { return m > 2 ? STREAMS / 2 : STREAMS; }

#include "quant_few.h"

/* === Many rows ================================================================================ */

/* The panel, block by block: for each pair of columns 8 rows of bytes, row of blocks by row of
 * blocks, as vpmovsxbw takes them; and their scales. Rows of blocks beyond the matrix are zero. */
INLINE void pack_block(char *to, const __m256i w[8])
{
    const __m256i pairs = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
                                           0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    UNROLL
    for (int g = 0; g < 8; g++) {
        __m256i v = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(w[g], pairs), 0xd8);
        _mm_storeu_si128((__m128i *)(to + 4 * TILE_N * g), _mm256_castsi256_si128(v));
        _mm_storeu_si128((__m128i *)(to + 4 * TILE_N * g + 2 * TILE_N),
                         _mm256_extracti128_si256(v, 1));
    }
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
            char *to = (char *)P + 16 * strip;                                                   \
            for (int b = 0; b < n_blocks; b++, to += TILE_N * (Q_COLS + 4)) {                    \
                __m256i v[8] = { _mm256_setzero_si256() };                                       \
                if (8 * strip < nr) unpack_##name(v, w + b);                                     \
                pack_block(to, v);                                                               \
                store((float *)(to + Q_COLS * TILE_N + 16 * strip), 8,                           \
                      8 * strip < nr ? scales8(w[b].scale) : _mm256_setzero_ps());               \
            }                                                                                    \
        }                                                                                        \
    }
PACK(q8, BlockQ8)
PACK(q4, BlockQ4)

/* M x 16 of the tile: from `columns` j on of the panel, into sums, ld apart. A holds the block's
 * activations as 16-bit numbers: for each four columns, row by row. */
INLINE void tile_block(float *sums, int ld, const int16_t *A, const float *a_scale, const char *P,
                       int j, const int M)
{
    __m256i s[TILE_M][2];
    UNROLL
    for (int i = 0; i < M; i++) s[i][0] = s[i][1] = _mm256_setzero_si256();
    _Pragma("GCC unroll 1")                     /* gcc would move all additions to the end */
    for (int g = 0; g < 8; g++, A += 4 * M)
        UNROLL
        for (int h = 0; h < 2; h++) {
            const __m128i *p = (const __m128i *)(P + 2 * TILE_N * (2 * g + h) + 2 * j);
            __m256i w0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(p));
            __m256i w1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(p + 1));
            UNROLL
            for (int i = 0; i < M; i++) {
                __m256i a = columns((const char *)(A + 4 * i + 2 * h));
                s[i][0] = _mm256_add_epi32(s[i][0], _mm256_madd_epi16(w0, a));
                s[i][1] = _mm256_add_epi32(s[i][1], _mm256_madd_epi16(w1, a));
                KEEP(s[i][0]);
                KEEP(s[i][1]);
            }
        }
    UNROLL
    for (int v = 0; v < 2; v++) {
        __m256 scale = _mm256_loadu_ps((const float *)(P + Q_COLS * TILE_N) + j + 8 * v);
        UNROLL
        for (int i = 0; i < M; i++) {
            float *c = sums + (size_t)i * ld + j + 8 * v;
            __m256 both = _mm256_mul_ps(scale, _mm256_broadcast_ss(a_scale + i));
            _mm256_storeu_ps(c, _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[i][v]), both,
                                                _mm256_loadu_ps(c)));
        }
    }
}

INLINE void tile_rows(float *sums, int ld, const char *R, const char *P, int n_blocks, int nr,
                      const int M)
{
    for (int b = 0; b < n_blocks; b++, R += rounded_block(M), P += TILE_N * (Q_COLS + 4)) {
        int16_t A[TILE_M * Q_COLS];
        for (int t = 0; t < 2 * M; t++)
            _mm256_storeu_si256((__m256i *)A + t,
                                _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)R + t)));
        for (int j = 0; j < nr; j += 16)
            tile_block(sums, ld, A, (const float *)(R + Q_COLS * M), P, j, M);
    }
}

/* Whole panels are summed up where the sums belong, others in a buffer. */
static void tile_avx2(float *C, int ldc, const void *R, const void *P, int mr, int nr,
                      int n_blocks, bool accumulate)
{
    float buffer[TILE_M * TILE_N], *sums = nr == TILE_N ? C : buffer;
    int ld = nr == TILE_N ? ldc : TILE_N;
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < TILE_N; j += 8) {
            if (accumulate && sums == C) continue;
            __m256 c = accumulate && j < nr ? part_f32(C + (size_t)i * ldc + j, nr - j)
                                            : _mm256_setzero_ps();
            _mm256_storeu_ps(sums + (size_t)i * ld + j, c);
        }
    switch (mr) {
    case 1:  tile_rows(sums, ld, R, P, n_blocks, nr, 1); break;
    case 2:  tile_rows(sums, ld, R, P, n_blocks, nr, 2); break;
    case 3:  tile_rows(sums, ld, R, P, n_blocks, nr, 3); break;
    case 4:  tile_rows(sums, ld, R, P, n_blocks, nr, 4); break;
    case 5:  tile_rows(sums, ld, R, P, n_blocks, nr, 5); break;
    default: tile_rows(sums, ld, R, P, n_blocks, nr, 6); break;
    }
    for (int i = 0; i < mr && sums != C; i++)
        for (int j = 0; j < nr; j += 8)
            store(C + (size_t)i * ldc + j, nr - j, _mm256_loadu_ps(sums + TILE_N * i + j));
}

void quant_avx2(Kernels *k)
{
    k->q_round = round_avx2;
    k->q_few[Q8 - Q8] = few_q8;
    k->q_few[Q4 - Q8] = few_q4;
    k->q_few_rows = 16;
    k->q_tile_m = TILE_M;
    k->q_tile_n = TILE_N;
    k->q_pack[Q8 - Q8] = pack_q8_avx2;
    k->q_pack[Q4 - Q8] = pack_q4_avx2;
    k->q_tile = tile_avx2;
}
