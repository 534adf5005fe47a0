/* avx512.h -- what the kernels for AVX-512 (F, BW, VL, DQ) have in common: loading weights of each
 * type into registers of 16 floats, masks for the ends of rows, sums over lanes.
 *
 * Only files that are compiled for this instruction set include it. All of it is inlined: a copy
 * that the linker keeps for everybody would end the program on an older CPU.
 *
 * Easy to get wrong: part_x(p, n) with n <= 0 reads nothing and is 0; with n >= 16 it is load_x. */
#ifndef AVX512_H
#define AVX512_H

#include "kernels.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
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

/* The next of the lines that a tile fetches ahead, into the second-level cache. */
INLINE void fetch(Ahead *a)
{
    __builtin_prefetch(a->at + (size_t)a->row * a->step, 0, 2);
    if (++a->row < a->rows) return;
    a->row = 0;
    a->columns--;
    a->at += 64;
}

/* Stores the first n lanes. */
INLINE void store(float *p, int n, __m512 v) { _mm512_mask_storeu_ps(p, first(n), v); }

#define FOR_EACH_TYPE(STAMP)                \
    STAMP(f32, float)                       \
    STAMP(f16, uint16_t)                    \
    STAMP(bf16, uint16_t)

/* The sum and the maximum of the lanes. */
INLINE float sum16(__m512 v) { return _mm512_reduce_add_ps(v); }
INLINE float max16(__m512 v) { return _mm512_reduce_max_ps(v); }

#endif
