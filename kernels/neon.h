/* neon.h -- what the kernels for 64-bit ARM have in common: loading weights of each type into
 * registers of 4 floats, the ends of rows, blocks of quantised weights.
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

/* === Quantised weights ======================================================================== */

/* w[g][h]: columns 4g .. 4g+3 of rows 4h .. 4h+3 of a block. */
INLINE void load_q8(int8x16_t w[8][2], const BlockQ8 *b)
{
    UNROLL
    for (int g = 0; g < 8; g++) {
        w[g][0] = vld1q_s8(b->q[g][0]);
        w[g][1] = vld1q_s8(b->q[g][4]);
    }
}
INLINE void load_q4(int8x16_t w[8][2], const BlockQ4 *b)
{
    int8x16_t values = vld1q_s8(q4_values);
    UNROLL
    for (int g = 0; g < 4; g++)
        UNROLL
        for (int h = 0; h < 2; h++) {
            uint8x16_t v = vld1q_u8(b->q[g][4 * h]);
            w[g][h] = vqtbl1q_s8(values, vandq_u8(v, vdupq_n_u8(15)));
            w[g + 4][h] = vqtbl1q_s8(values, vshrq_n_u8(v, 4));
        }
}

/* Integers become floats by a subtraction: those of 1.5 * 2^23 and above are whole, so a sum that
 * began with the bits of that number is, read as a float, larger by just itself, if it is below
 * 2^22. Conversion takes a Cortex-A76 four times as long. */
enum { MAGIC = 0x4b400000 };
INLINE float32x4_t counted(int32x4_t s)
{
    return vsubq_f32(vreinterpretq_f32_s32(s), vdupq_n_f32(0x1.8p23f));
}

/* A block of a panel: 16 registers of weights, and 8 scales as f32. */
INLINE void store_block(char *to, int8x16_t w[8][2], const uint16_t *scale)
{
    UNROLL
    for (int v = 0; v < 16; v++) vst1q_s8((int8_t *)to + 16 * v, w[v / 2][v % 2]);
    vst1q_f32((float *)(to + 256), load_f16(scale));
    vst1q_f32((float *)(to + 272), load_f16(scale + 4));
}

/* The slot of few rows, of a function that adds the 8 rows of a block to two registers of sums:
 * few_block_NAME(sum, r, block). One block of weights is 8 rows, so W is read as it lies. */
#define QUANT_FEW(name, Block, level)                                                          \
    static void few_##name##_##level(float *C, int ldc, const void *R, const void *W, int m,   \
                                     int n, int k)                                             \
    {                                                                                          \
        int n_blocks = ceil_div(k, Q_COLS);                                                    \
        for (int j = 0; j < n; j += 8)                                                         \
            for (int i = 0; i < m; i++) {                                                      \
                const Block *w = (const Block *)W + (size_t)(j / 8) * (size_t)n_blocks;        \
                const char *r = (const char *)R + (size_t)i * rounded_bytes(1, k);             \
                float32x4_t sum[2] = { vdupq_n_f32(0), vdupq_n_f32(0) };                       \
                for (int b = 0; b < n_blocks; b++, r += rounded_block(1))                      \
                    few_block_##name(sum, r, w + b);                                           \
                store(C + (size_t)i * ldc + j, n - j, sum[0]);                                 \
                if (n - j > 4) store(C + (size_t)i * ldc + j + 4, n - j - 4, sum[1]);          \
            }                                                                                  \
    }

/* The slot that makes a panel of 8 rows, which are one row of blocks; order(w) puts a block's
 * registers as the tile wants them. */
#define QUANT_PACK(name, Block, level, order)                                                  \
    static void pack_##name##_##level(void *P, const void *W, size_t row_of_blocks, int nr,    \
                                      int n_blocks)                                            \
    {                                                                                          \
        char *to = P;                                                                          \
        (void)row_of_blocks, (void)nr;                                                         \
        for (int b = 0; b < n_blocks; b++, to += 8 * (Q_COLS + 4)) {                           \
            const Block *block = (const Block *)W + b;                                         \
            int8x16_t w[8][2];                                                                 \
            load_##name(w, block);                                                             \
            order(w);                                                                          \
            store_block(to, w, block->scale);                                                  \
        }                                                                                      \
    }
INLINE void as_loaded(int8x16_t w[8][2]) { (void)w; }

#define FOR_EACH_TYPE(STAMP)                \
    STAMP(f32, float)                       \
    STAMP(f16, uint16_t)                    \
    STAMP(bf16, uint16_t)

#endif
