/* quant_neondot.c -- quantised products for 64-bit ARM with dot products: ARMv8.2's sdot, in the
 * Cortex-A76 of 2018 and later, Apple's M1, Graviton 2. It multiplies 16 signed bytes with 16
 * others and adds each four products to one of 4 sums; one operand may be four bytes of a register,
 * repeated.
 *
 * Four columns of 8 rows are two registers of weights; four columns of 4 rows of activations are
 * one, whose quarters the instruction picks. No sign is in the way, and `start` is not needed.
 * Activations are rounded by quant_neon.c.
 *
 * The tile (many rows): 4 x 8, for each block of 32 columns
 *
 *   8 steps of: 2 registers of weights, 1 of activations, 8 sdot; then 8 times: conversion, product
 *   of scales, fused multiply-add
 *
 *   registers  8 sums of integers + 8 of floats + 3 + 3 for the scales = 22 of 32
 *   per block  64 sdot and 24 others, 29 loads, 130 instructions in all. With two units that do
 *              either kind and two loads a cycle (Cortex-A76) 44 cycles against 15 for the loads:
 *              73 % of what sdot alone would reach is the limit. Conversion (scvtf: two places of
 *              one unit) would make it 48; neon.h has a way without
 *   why 4 x 8  8 sums are used again after 8 sdot, 4 cycles, and sdot takes 2 or 3. A larger tile
 *              would save loads only
 *
 * Few rows: 16 sdot for 272 bytes, with the activations of the block in two registers: 50
 * instructions, 13 cycles on a Cortex-A76, 21 bytes a cycle: the memory is the limit. 4 bits take
 * 40 more to unpack.
 *
 * Tested for correctness by emulation (qemu-user); cycles are from the vendor's guides. */
#include "neon.h"

enum { TILE_M = 4, TILE_N = 8 };

/* === Few rows ================================================================================= */

#define FEW_BLOCK(name, Block)                                                                   \
    INLINE void few_block_##name(float32x4_t sum[2], const char *r, const Block *b)              \
    {                                                                                            \
        int8x16_t w[8][2], a[2] = { vld1q_s8((const int8_t *)r),                                 \
                                    vld1q_s8((const int8_t *)r + 16) };                          \
        load_##name(w, b);                                                                       \
        float32x4_t scale = vld1q_dup_f32((const float *)(r + Q_COLS));                          \
        UNROLL                                                                                   \
        for (int h = 0; h < 2; h++) {                                                            \
            int32x4_t s = vdupq_n_s32(MAGIC);                                                    \
            s = vdotq_laneq_s32(s, w[0][h], a[0], 0);                                            \
            s = vdotq_laneq_s32(s, w[1][h], a[0], 1);                                            \
            s = vdotq_laneq_s32(s, w[2][h], a[0], 2);                                            \
            s = vdotq_laneq_s32(s, w[3][h], a[0], 3);                                            \
            s = vdotq_laneq_s32(s, w[4][h], a[1], 0);                                            \
            s = vdotq_laneq_s32(s, w[5][h], a[1], 1);                                            \
            s = vdotq_laneq_s32(s, w[6][h], a[1], 2);                                            \
            s = vdotq_laneq_s32(s, w[7][h], a[1], 3);                                            \
            sum[h] = vfmaq_f32(sum[h], counted(s),                                               \
                               vmulq_f32(load_f16(b->scale + 4 * h), scale));                    \
        }                                                                                        \
    }
FEW_BLOCK(q8, BlockQ8) QUANT_FEW(q8, BlockQ8, neondot)
FEW_BLOCK(q4, BlockQ4) QUANT_FEW(q4, BlockQ4, neondot)

/* === Many rows ================================================================================ */

QUANT_PACK(q8, BlockQ8, neondot, as_loaded)
QUANT_PACK(q4, BlockQ4, neondot, as_loaded)

/* Four rows of activations by 8 of the panel. */
static void tile_4(float *C, int ldc, const char *R, const char *P, int nr, int n_blocks,
                   bool accumulate)
{
    float32x4_t c[TILE_M][2];
    UNROLL
    for (int i = 0; i < TILE_M; i++)
        UNROLL
        for (int h = 0; h < 2; h++)
            c[i][h] = accumulate && nr > 4 * h ? part_f32(C + (size_t)i * ldc + 4 * h, nr - 4 * h)
                                               : vdupq_n_f32(0);
    for (int b = 0; b < n_blocks; b++, R += rounded_block(TILE_M), P += TILE_N * (Q_COLS + 4)) {
        int32x4_t s[TILE_M][2];
        UNROLL
        for (int i = 0; i < TILE_M; i++) s[i][0] = s[i][1] = vdupq_n_s32(MAGIC);
        UNROLL
        for (int g = 0; g < 8; g++) {
            int8x16_t a = vld1q_s8((const int8_t *)R + 16 * g);
            UNROLL
            for (int h = 0; h < 2; h++) {
                int8x16_t w = vld1q_s8((const int8_t *)P + 32 * g + 16 * h);
                s[0][h] = vdotq_laneq_s32(s[0][h], w, a, 0);
                s[1][h] = vdotq_laneq_s32(s[1][h], w, a, 1);
                s[2][h] = vdotq_laneq_s32(s[2][h], w, a, 2);
                s[3][h] = vdotq_laneq_s32(s[3][h], w, a, 3);
            }
        }
        UNROLL
        for (int h = 0; h < 2; h++) {
            float32x4_t scale = vld1q_f32((const float *)(P + 256 + 16 * h));
            UNROLL
            for (int i = 0; i < TILE_M; i++) {
                float32x4_t a = vld1q_dup_f32((const float *)(R + Q_COLS * TILE_M + 4 * i));
                c[i][h] = vfmaq_f32(c[i][h], counted(s[i][h]), vmulq_f32(scale, a));
            }
        }
    }
    UNROLL
    for (int i = 0; i < TILE_M; i++)
        UNROLL
        for (int h = 0; h < 2; h++)
            if (nr > 4 * h) store(C + (size_t)i * ldc + 4 * h, nr - 4 * h, c[i][h]);
}

/* The last rows, one by one: their columns stand mr rows apart. */
static void tile_1(float *C, const char *R, const char *P, int mr, int nr, int n_blocks,
                   bool accumulate)
{
    float32x4_t c[2];
    for (int h = 0; h < 2; h++)
        c[h] = accumulate && nr > 4 * h ? part_f32(C + 4 * h, nr - 4 * h) : vdupq_n_f32(0);
    for (int b = 0; b < n_blocks; b++, R += rounded_block(mr), P += TILE_N * (Q_COLS + 4)) {
        float32x4_t a = vld1q_dup_f32((const float *)(R + Q_COLS * mr));
        for (int h = 0; h < 2; h++) {
            int32x4_t s = vdupq_n_s32(MAGIC);
            for (int g = 0; g < 8; g++) {
                int32x4_t four = vld1q_dup_s32((const int32_t *)(R + 4 * g * mr));
                s = vdotq_s32(s, vld1q_s8((const int8_t *)P + 32 * g + 16 * h),
                              vreinterpretq_s8_s32(four));
            }
            float32x4_t scale = vld1q_f32((const float *)(P + 256 + 16 * h));
            c[h] = vfmaq_f32(c[h], counted(s), vmulq_f32(scale, a));
        }
    }
    for (int h = 0; h < 2; h++)
        if (nr > 4 * h) store(C + 4 * h, nr - 4 * h, c[h]);
}

static void tile_neondot(float *C, int ldc, const void *R, const void *P, int mr, int nr,
                         int n_blocks, bool accumulate)
{
    if (mr == TILE_M) {
        tile_4(C, ldc, R, P, nr, n_blocks, accumulate);
        return;
    }
    for (int i = 0; i < mr; i++)
        tile_1(C + (size_t)i * ldc, (const char *)R + 4 * i, P, mr, nr, n_blocks, accumulate);
}

void quant_neondot(Kernels *k)
{
    k->q_few[Q8 - Q8] = few_q8_neondot;
    k->q_few[Q4 - Q8] = few_q4_neondot;
    k->q_tile_m = TILE_M;
    k->q_tile_n = TILE_N;
    k->q_pack[Q8 - Q8] = pack_q8_neondot;
    k->q_pack[Q4 - Q8] = pack_q4_neondot;
    k->q_tile = tile_neondot;
}
