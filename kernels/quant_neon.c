/* quant_neon.c -- quantised products for 64-bit ARM without dot products (ARMv8.0: Cortex-A53, A57,
 * A72, A73), and for all of them the rounding of activations.
 *
 * smull multiplies 8 signed bytes with 8 others to 16 bits each; smlal adds 8 more products there.
 * |q_i q_j| <= 127 * 128, so two of them fit and a third would not. sadalp then adds neighbours to
 * sums of 32 bits: 3 instructions for 16 products, in place of one sdot.
 *
 *   w[g][h]   row 0: 4 columns | row 1: 4 | row 2: 4 | row 3: 4        (4 g .. of rows 4 h ..)
 *   times     the activations of these columns, four times
 *   smull     rows 0 and 1, smull2 rows 2 and 3: 8 products each
 *   smlal     the same of the next four columns
 *   sadalp    two sums of row 0, two of row 1: added to one at the end of the block (addp)
 *
 * There is one loop for few rows and for many, a row of activations at a time:
 *
 *   registers  4 of integers, two sums for each row + 2 of floats + 4 of weights + 2 of
 *              activations + 2 of products
 *   per block  16 smull, 16 smlal, 16 sadalp, 2 addp, and 2 each of subtraction, product of scales,
 *              multiply-add; 96 instructions in all. The first two kinds go to one of two units,
 *              sadalp to the other (Cortex-A57, A72, A76): 32 cycles for 256 products. Floats would
 *              take 64 multiply-adds: 64 cycles on a Cortex-A72, 32 on an A76
 *   loads      16 of weights, 8 of activations, 3 of scales: 27, in the shadow of the 32 cycles
 *              even with one load a cycle. So a tile of more rows, which would share the weights'
 *              loads, gains nothing, and q_tile_m is 1. What a panel saves is the unpacking of 4
 *              bits and of scales
 *
 * Tested for correctness by emulation (qemu-user); cycles are from the vendor's guides. */
#include "neon.h"

#include <math.h>

enum { TILE_M = 1, TILE_N = 8 };

/* === Rounding activations ===================================================================== */

/* 16 integers as bytes. */
INLINE int8x16_t to_bytes(const int32x4_t q[4])
{
    int16x8_t low = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]));
    int16x8_t high = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
    return vcombine_s8(vmovn_s16(low), vmovn_s16(high));
}

static void round_neon(void *R, const float *A, int lda, int m, int mr, int k)
{
    if (m < mr) memset(R, 0, rounded_bytes(mr, k));
    for (int i = 0; i < m; i++) {
        const float *x = A + (size_t)i * lda;
        char *to = R;
        for (int p = 0; p < k; p += Q_COLS, to += rounded_block(mr)) {
            float32x4_t v[8];
            int32x4_t most = vdupq_n_s32(0), q[8], sum = most;
            UNROLL
            for (int t = 0; t < 8; t++) {
                v[t] = k - p > 4 * t ? part_f32(x + p + 4 * t, k - p - 4 * t) : vdupq_n_f32(0);
                most = vmaxq_s32(most, vreinterpretq_s32_f32(vabsq_f32(v[t])));
            }
            int bits = vmaxvq_s32(most);
            float max, inverse = 0, scale = 0;
            memcpy(&max, &bits, sizeof max);
            if (bits >= 0x7f800000) scale = NAN;
            else if (max >= 0x1p-110f) inverse = 127 / max, scale = max / 127;
            UNROLL
            for (int t = 0; t < 8; t++) {
                q[t] = vcvtnq_s32_f32(vmulq_n_f32(v[t], inverse));      /* of NaN: 0 */
                sum = vaddq_s32(sum, q[t]);
            }
            int start = -128 * vaddvq_s32(sum);
            int8_t bytes[Q_COLS];
            vst1q_s8(bytes, to_bytes(q));
            vst1q_s8(bytes + 16, to_bytes(q + 4));
            for (int g = 0; g < 8; g++) memcpy(to + 4 * (g * mr + i), bytes + 4 * g, 4);
            memcpy(to + Q_COLS * mr + 4 * i, &scale, sizeof scale);
            memcpy(to + (Q_COLS + 4) * mr + 4 * i, &start, sizeof start);
        }
    }
}

/* === Few rows ================================================================================= */

INLINE int8x16_t four(const char *a)            /* columns of a row, 4 times */
{
    return vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t *)a));
}

/* 8 rows of a block by a row of activations r: sums of integers, then of floats. */
INLINE void add_block(float32x4_t sum[2], int8x16_t w[8][2], float32x4_t s0, float32x4_t s1,
                      const char *r)
{
    const int32x4_t none = vdupq_n_s32(0), start = vsetq_lane_s32(MAGIC, none, 0);
    int32x4_t low[2], high[2];                  /* rows 0 and 1, 2 and 3 of four */
    low[0] = low[1] = high[0] = high[1] = vsetq_lane_s32(MAGIC, start, 2);
    UNROLL
    for (int g = 0; g < 8; g += 2) {
        int8x16_t a0 = four(r + 4 * g), a1 = four(r + 4 * g + 4);
        UNROLL
        for (int h = 0; h < 2; h++) {
            int16x8_t s = vmull_s8(vget_low_s8(w[g][h]), vget_low_s8(a0));
            int16x8_t t = vmull_high_s8(w[g][h], a0);
            s = vmlal_s8(s, vget_low_s8(w[g + 1][h]), vget_low_s8(a1));
            t = vmlal_high_s8(t, w[g + 1][h], a1);
            low[h] = vpadalq_s16(low[h], s);
            high[h] = vpadalq_s16(high[h], t);
        }
    }
    float32x4_t scale = vld1q_dup_f32((const float *)(r + Q_COLS));
    sum[0] = vfmaq_f32(sum[0], counted(vpaddq_s32(low[0], high[0])), vmulq_f32(s0, scale));
    sum[1] = vfmaq_f32(sum[1], counted(vpaddq_s32(low[1], high[1])), vmulq_f32(s1, scale));
}

#define FEW_BLOCK(name, Block)                                                                 \
    INLINE void few_block_##name(float32x4_t sum[2], const char *r, const Block *b)            \
    {                                                                                          \
        int8x16_t w[8][2];                                                                     \
        load_##name(w, b);                                                                     \
        add_block(sum, w, load_f16(b->scale), load_f16(b->scale + 4), r);                      \
    }
FEW_BLOCK(q8, BlockQ8) QUANT_FEW(q8, BlockQ8, neon)
FEW_BLOCK(q4, BlockQ4) QUANT_FEW(q4, BlockQ4, neon)

/* === Many rows ================================================================================ */

QUANT_PACK(q8, BlockQ8, neon, as_loaded)
QUANT_PACK(q4, BlockQ4, neon, as_loaded)

/* One row: mr is 1. */
static void tile_neon(float *C, int ldc, const void *R, const void *P, int mr, int nr,
                      int n_blocks, bool accumulate)
{
    const char *r = R, *p = P;
    float32x4_t sum[2];
    (void)ldc, (void)mr;
    for (int h = 0; h < 2; h++)
        sum[h] = accumulate && nr > 4 * h ? part_f32(C + 4 * h, nr - 4 * h) : vdupq_n_f32(0);
    for (int b = 0; b < n_blocks; b++, r += rounded_block(1), p += TILE_N * (Q_COLS + 4)) {
        int8x16_t w[8][2];
        UNROLL
        for (int v = 0; v < 16; v++) w[v / 2][v % 2] = vld1q_s8((const int8_t *)p + 16 * v);
        add_block(sum, w, vld1q_f32((const float *)(p + 256)),
                  vld1q_f32((const float *)(p + 272)), r);
    }
    for (int h = 0; h < 2; h++)
        if (nr > 4 * h) store(C + 4 * h, nr - 4 * h, sum[h]);
}

void quant_neon(Kernels *k)
{
    k->q_round = round_neon;
    k->q_few[Q8 - Q8] = few_q8_neon;
    k->q_few[Q4 - Q8] = few_q4_neon;
    k->q_tile_m = TILE_M;
    k->q_tile_n = TILE_N;
    k->q_pack[Q8 - Q8] = pack_q8_neon;
    k->q_pack[Q4 - Q8] = pack_q4_neon;
    k->q_tile = tile_neon;
}
