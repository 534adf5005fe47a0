/* avx2.h -- what the kernels for AVX2, FMA and F16C have in common: loading weights of each type
 * into registers of 8 floats, the ends of rows, sums over lanes.
 *
 * Only files that are compiled for this instruction set include it. All of it is inlined: a copy
 * that the linker keeps for everybody would end the program on an older CPU.
 *
 * Easy to get wrong: there is no masked load of 16-bit numbers: the ends of f16 and bf16 rows are
 * copied first. */
#ifndef AVX2_H
#define AVX2_H

#include "kernels.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#define UNROLL _Pragma("GCC unroll 16")         /* arrays of registers need constant indices */

/* The mask of the first n lanes; all of them from 8 up. */
INLINE __m256i first(int n)
{
    static const int32_t ones[16] = { -1, -1, -1, -1, -1, -1, -1, -1 };
    return _mm256_loadu_si256((const __m256i *)(ones + (n < 8 ? 8 - n : 0)));
}

/* 8 weights as floats, and the first n of them (the others 0). */
INLINE __m256 load_f32(const float *p)     { return _mm256_loadu_ps(p); }
INLINE __m256 load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
INLINE __m256 load_bf16(const uint16_t *p)
{
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}
INLINE __m256 part_f32(const float *p, int n)
{
    return n >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, first(n));
}
INLINE __m256 part_f16(const uint16_t *p, int n)
{
    uint16_t copy[8] = { 0 };
    memcpy(copy, p, (size_t)(n < 8 ? n : 8) * sizeof *p);
    return load_f16(copy);
}
INLINE __m256 part_bf16(const uint16_t *p, int n)
{
    uint16_t copy[8] = { 0 };
    memcpy(copy, p, (size_t)(n < 8 ? n : 8) * sizeof *p);
    return load_bf16(copy);
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
INLINE void store(float *p, int n, __m256 v)
{
    if (n >= 8) _mm256_storeu_ps(p, v);
    else _mm256_maskstore_ps(p, first(n), v);
}

#define FOR_EACH_TYPE(STAMP)                \
    STAMP(f32, float)                       \
    STAMP(f16, uint16_t)                    \
    STAMP(bf16, uint16_t)

/* The sum and the maximum of the lanes. */
INLINE float sum8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float max8(__m256 v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

#endif
