/* quant_neoni8mm.c -- quantised products of many rows for 64-bit ARM with matrix products of bytes:
 * smmla of ARMv8.6, in Neoverse N2 and V1, Cortex-A510 and A710, Apple's M2 and later. 2 rows of 8
 * signed bytes times 2 rows of 8 others are added to 2 x 2 sums of 32 bits: twice the products of
 * an sdot. Few rows are bound by memory and stay as quant_neondot.c has them.
 *
 *   a register of weights       row 2 p: columns 8 h .. 8 h + 7 | row 2 p + 1: the same columns
 *   a register of activations   row 2 i: columns 8 h .. 8 h + 7 | row 2 i + 1: the same columns
 *   a register of sums          [2 i][2 p] [2 i][2 p + 1] [2 i + 1][2 p] [2 i + 1][2 p + 1]
 *
 * Weights are put into this order when a panel is packed, activations (which come four columns of 4
 * rows at a time) by two zips on their way. Sums stay in squares of 2 x 2, floats too, until the
 * end.
 *
 * The tile: 4 x 8, for each block of 32 columns
 *
 *   4 steps of: 4 registers of weights, 2 of activations and 2 zips, 8 smmla; then for each of 8
 *   squares: a subtraction that makes floats, the product of scales, a multiply-add
 *
 *   registers  8 sums of integers + 8 of floats + 4 of weights + 4 of activations = 24 of 32
 *   per block  32 smmla, 8 zips, 24 for the floats, 2 zips for their scales: 66 for 1024 products,
 *              33 cycles with two units (Neoverse N2), 16.5 with four (V1); sdot takes 88. The
 *              floats are a third: they are what blocks of 32 columns cost, in a tile of any size
 *   loads      16 of weights, 8 of activations, 5 of scales: 10 cycles with three a cycle
 *   latency    a sum is used again after 8 smmla, 2 to 4 cycles; they take 3, and 1 from one to the
 *              next of a sum
 *
 * Tested for correctness by emulation (qemu-user); cycles are from the vendor's guides. */
#include "neon.h"

enum { TILE_M = 4, TILE_N = 8 };

/* w [rows 4 x .. of 4 columns each] -> pairs of rows, 8 columns each. */
INLINE int8x16_t pair(int8x16_t columns, int8x16_t next, int upper)
{
    int32x4_t a = vreinterpretq_s32_s8(columns), b = vreinterpretq_s32_s8(next);
    return vreinterpretq_s8_s32(upper ? vzip2q_s32(a, b) : vzip1q_s32(a, b));
}

/* A block of the panel: for each 8 columns 4 pairs of rows. */
INLINE void in_pairs(int8x16_t w[8][2])
{
    int8x16_t pairs[8][2];
    UNROLL
    for (int v = 0; v < 16; v++)
        pairs[v / 2][v % 2] = pair(w[v / 4 * 2][v / 2 % 2], w[v / 4 * 2 + 1][v / 2 % 2], v % 2);
    UNROLL
    for (int v = 0; v < 16; v++) w[v / 2][v % 2] = pairs[v / 2][v % 2];
}
QUANT_PACK(q8, BlockQ8, neoni8mm, in_pairs)
QUANT_PACK(q4, BlockQ4, neoni8mm, in_pairs)

/* Two columns, twice: of the scales of weights, for the two rows of a square. */
INLINE float32x4_t twice(const char *p)
{
    return vreinterpretq_f32_f64(vld1q_dup_f64((const double *)p));
}

/* The block at P times that of 4 rows at R, added to 2 x 4 squares of sums. */
INLINE void add_block(float32x4_t c[2][4], const char *R, const char *P)
{
    int32x4_t s[2][4];
    UNROLL
    for (int v = 0; v < 8; v++) s[v / 4][v % 4] = vdupq_n_s32(MAGIC);
    UNROLL
    for (int h = 0; h < 4; h++) {
        int8x16_t a0 = vld1q_s8((const int8_t *)R + 32 * h);
        int8x16_t a1 = vld1q_s8((const int8_t *)R + 32 * h + 16);
        int8x16_t a[2] = { pair(a0, a1, 0), pair(a0, a1, 1) };
        UNROLL
        for (int p = 0; p < 4; p++) {
            int8x16_t w = vld1q_s8((const int8_t *)P + 64 * h + 16 * p);
            s[0][p] = vmmlaq_s32(s[0][p], a[0], w);
            s[1][p] = vmmlaq_s32(s[1][p], a[1], w);
        }
    }
    float32x4_t rows = vld1q_f32((const float *)(R + Q_COLS * TILE_M));
    float32x4_t scale[2] = { vzip1q_f32(rows, rows), vzip2q_f32(rows, rows) };
    UNROLL
    for (int v = 0; v < 8; v++) {
        float32x4_t both = vmulq_f32(twice(P + 256 + 8 * (v % 4)), scale[v / 4]);
        c[v / 4][v % 4] = vfmaq_f32(c[v / 4][v % 4], counted(s[v / 4][v % 4]), both);
    }
}

/* mr rows of a block as 4, of which the others are 0. */
static const char *filled(char *to, const char *R, int mr)
{
    memset(to, 0, rounded_block(TILE_M));
    for (int g = 0; g <= 8; g++)                /* the last: scales */
        memcpy(to + 4 * TILE_M * g, R + 4 * mr * g, (size_t)mr * 4);
    return to;
}

/* Squares in two rows of four numbers, and back. */
INLINE float32x4_t upper(float32x4_t a, float32x4_t b)
{
    return vreinterpretq_f32_f64(vzip1q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
INLINE float32x4_t lower(float32x4_t a, float32x4_t b)
{
    return vreinterpretq_f32_f64(vzip2q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}

static void tile_neoni8mm(float *C, int ldc, const void *R, const void *P, int mr, int nr,
                          int n_blocks, bool accumulate)
{
    float32x4_t c[2][4], row[TILE_M][2];
    const char *r = R, *p = P;
    UNROLL
    for (int i = 0; i < TILE_M; i++)
        UNROLL
        for (int h = 0; h < 2; h++)
            row[i][h] = accumulate && i < mr && nr > 4 * h
                      ? part_f32(C + (size_t)i * ldc + 4 * h, nr - 4 * h) : vdupq_n_f32(0);
    UNROLL
    for (int v = 0; v < 4; v++) {
        int i = v / 2 * 2, h = v % 2;
        c[v / 2][2 * h] = upper(row[i][h], row[i + 1][h]);
        c[v / 2][2 * h + 1] = lower(row[i][h], row[i + 1][h]);
    }
    for (int b = 0; b < n_blocks; b++, r += rounded_block(mr), p += TILE_N * (Q_COLS + 4)) {
        char four[TILE_M * (Q_COLS + 8)];
        add_block(c, mr == TILE_M ? r : filled(four, r, mr), p);
    }
    UNROLL
    for (int v = 0; v < 8; v++) {
        int i = v / 2, h = v % 2;
        float32x4_t s = i % 2 ? lower(c[i / 2][2 * h], c[i / 2][2 * h + 1])
                              : upper(c[i / 2][2 * h], c[i / 2][2 * h + 1]);
        if (i < mr && nr > 4 * h) store(C + (size_t)i * ldc + 4 * h, nr - 4 * h, s);
    }
}

void quant_neoni8mm(Kernels *k)
{
    k->q_tile_m = TILE_M;
    k->q_tile_n = TILE_N;
    k->q_pack[Q8 - Q8] = pack_q8_neoni8mm;
    k->q_pack[Q4 - Q8] = pack_q4_neoni8mm;
    k->q_tile = tile_neoni8mm;
}
