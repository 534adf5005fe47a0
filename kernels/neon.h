/* neon.h -- what the kernels for 64-bit ARM have in common: loading weights of each type into
 * registers of 4 floats, the ends of rows, sums over lanes.
 *
 * Only files that are compiled for this instruction set include it. All of it is inlined: a copy
 * that the linker keeps for everybody would end the program on an older CPU.
 *
 * Easy to get wrong: there are no masked loads and stores; the ends of rows are copied number by
 * number. */
#ifndef NEON_H
#define NEON_H

#include "kernels.h"

#include <arm_neon.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")         /* arrays of registers need constant indices */

/* The mask of the first n lanes; all of them from 4 up. */
INLINE uint32x4_t first(int n)
{
    static const uint32_t ones[8] = { ~0u, ~0u, ~0u, ~0u };
    return vld1q_u32(ones + (n < 4 ? 4 - n : 0));
}
INLINE float32x4_t keep_first(float32x4_t v, int n)
{
    return vbslq_f32(first(n), v, vdupq_n_f32(0));
}

/* 4 weights as floats, and the first n of them (the others 0). */
INLINE float32x4_t load_f32(const float *p)     { return vld1q_f32(p); }
INLINE float32x4_t load_f16(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
INLINE float32x4_t load_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
#define PART(name, T)                                                                          \
    INLINE float32x4_t part_##name(const T *p, int n)                                          \
    {                                                                                          \
        if (n >= 4)                                                                            \
            return load_##name(p);                                                             \
        T copy[4] = { n > 0 ? p[0] : 0, n > 1 ? p[1] : 0, n > 2 ? p[2] : 0, 0 };               \
        return load_##name(copy);                                                              \
    }
PART(f32, float) PART(f16, uint16_t) PART(bf16, uint16_t)

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
INLINE void store(float *p, int n, float32x4_t v)
{
    if (n >= 4) {
        vst1q_f32(p, v);
        return;
    }
    if (n > 0) p[0] = vgetq_lane_f32(v, 0);
    if (n > 1) p[1] = vgetq_lane_f32(v, 1);
    if (n > 2) p[2] = vgetq_lane_f32(v, 2);
}

#define FOR_EACH_TYPE(STAMP)                \
    STAMP(f32, float)                       \
    STAMP(f16, uint16_t)                    \
    STAMP(bf16, uint16_t)

#endif
