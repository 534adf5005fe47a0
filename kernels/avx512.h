/* avx512.h -- what the kernels for AVX-512 (F, BW, VL, DQ) have in common: loading weights of each
 * type into registers of 16 floats, masks for the ends of rows, sums over lanes.
 *
 * Only files that are compiled for this instruction set include it. All of it is inlined: a copy
 * that the linker keeps for everybody would end the program on an older CPU.
 *
 * Easy to get wrong: part_x(p, 0) reads nothing and is 0, with n >= 16 it is load_x; n < 0 is a
 * shift by too much. */
#ifndef AVX512_H
#define AVX512_H

#include "kernels.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
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

/* Fetches a line into the second-level cache; returns where to go on, NULL if that was all. */
INLINE Ahead *fetch(Ahead *a)
{
    __builtin_prefetch(a->at + (size_t)a->row * a->step, 0, 2);
    if (++a->row < a->rows) return a;
    a->row = 0;
    a->at += 64;
    return --a->columns > 0 ? a : a->then;
}

/* Stores the first n lanes. */
INLINE void store(float *p, int n, __m512 v) { _mm512_mask_storeu_ps(p, first(n), v); }

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

/* The first n columns of 16 rows, ld floats apart. The bits are moved as they are. */
INLINE void store_columns(float *P, int ld, const __m512 row[16], int n)
{
    __m512 q[4][4];
    UNROLL
    for (int g = 0; g < 4; g++)
        transpose_quarters(q[g], row[4 * g], row[4 * g + 1], row[4 * g + 2], row[4 * g + 3]);
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
            if (4 * l + c < n) _mm512_storeu_ps(P + (size_t)(4 * l + c) * ld, column[l]);
    }
}

#define FOR_EACH_TYPE(STAMP)                \
    STAMP(f32, float)                       \
    STAMP(f16, uint16_t)                    \
    STAMP(bf16, uint16_t)

/* The sum and the maximum of the lanes. */
INLINE float sum16(__m512 v) { return _mm512_reduce_add_ps(v); }
INLINE float max16(__m512 v) { return _mm512_reduce_max_ps(v); }

#endif
