/* quant_ref.c -- weights in 8 and 4 bits: what the formats mean, how they are made, and their
 * products in plain C, the definition of every faster one.
 *
 * A block is 8 rows by 32 columns. Each row of it has a scale, an f16; a weight is
 *   Q8   scale * q                q from -127 to 127                             8.5 bits a weight
 *   Q4   scale * q4_values[q]     q from 0 to 15; the values lie closer           4.5 bits a weight
 *                                 near 0, where most weights are
 *
 * Four columns of 8 rows are 32 bytes that follow each other: a 256-bit register, two of 128, half
 * of one of 512 bits; an instruction that adds up four products of bytes leaves the sums of 8 rows
 * side by side, and nothing is ever added across a register:
 *
 *   q[g]:  row 0: column 4g 4g+1 4g+2 4g+3 | row 1: 4g 4g+1 4g+2 4g+3 | ...                 | row 7
 *   times  the activations of columns 4g .. 4g+3, repeated 8 times
 *
 * AVX2 (vpmaddubsw), VNNI (vpdpbusd) and NEON (sdot) take it as it is; two g make the pairs of
 * rows of 8 columns that smmla takes. So one file serves all of them.
 *
 * The activations are rounded too: 32 of a row share a scale s = max|x| / 127, an f32, and become
 * q = round(x / s). A product of row i with row j is then, block by block in this order,
 *
 *   sum = fma((float)(sum over the block of q_i q_j), scale_j * s_i, sum)
 *
 * The integers are exact, and how the rest is rounded is laid down: every level, and few rows or
 * many, give the same bits. |q_i| <= 127 and |q_j| <= 128, so a sum of 32 stays below 2^20.
 *
 * Easy to get wrong:
 *   - A row with a NaN or an infinity has no scale: it becomes NaN, so that every product with it
 *     is NaN, as with floats. As integers their bits are larger than those of all numbers.
 *   - maddubs and dpbusd take one operand unsigned. q + 128 is; the 128 times the sum of the other
 *     operand that is too much is what the sum starts with (`start`).
 *   - No value of Q4 is 0, so columns beyond k are not 0 either. The activations there are.
 *   - q_j is -128 only in a file that mm has not written; nothing may overflow even then. */
#include "kernels.h"

#include <math.h>
#include <string.h>

/* === The formats ============================================================================== */

/* The best 16 values for weights of networks: those of Lloyd's algorithm (repeated: each weight to
 * its nearest value, each value to the mean of its weights; each block with its best scale) over
 * linear layers of a language model, of a sentence encoder, and normal noise. Not symmetric: a
 * scale may be negative, so that the largest weight of a block may have the longer side. */
const int8_t q4_values[16] = {
    -64, -51, -40, -31, -24, -17, -11, -5, 1, 7, 12, 18, 25, 33, 42, 54
};

_Static_assert(sizeof(BlockQ8) == 272 && sizeof(BlockQ4) == 144, "as quant_bytes says");

/* The scale nearest to s; a finite one. */
static uint16_t scale_of(float s)
{
    return f32_to_f16(fminf(fmaxf(s, -65504), 65504));
}

static float largest(const float *w)
{
    float most = 0;
    for (int c = 0; c < Q_COLS; c++) most = fabsf(w[c]) > most ? fabsf(w[c]) : most;
    return most;
}

static int rounded(float x, int low, int high)
{
    int q = (int)rintf(x);
    return q < low ? low : q > high ? high : q;
}

/* 32 weights of row r. The scale is rounded up, so that none is more than 127 of it. */
static void encode_q8(BlockQ8 *b, int r, const float *w)
{
    float exact = largest(w) / 127;
    b->scale[r] = scale_of(exact);
    if (f16_to_f32(b->scale[r]) < exact && b->scale[r] < 0x7bff) b->scale[r]++;
    float scale = f16_to_f32(b->scale[r]);
    for (int c = 0; c < Q_COLS; c++)
        b->q[c / 4][r][c % 4] = scale > 0 ? (int8_t)rounded(w[c] / scale, -127, 127) : 0;
}

/* The nearest of q4_values for x from -64 to 64, by the whole part of 2 (x + 64): the borders, half
 * way between two values, are multiples of 1/2. */
typedef struct { float value[257]; uint8_t index[257]; } Nearest;

static Nearest nearest_values(void)
{
    Nearest near;
    for (int h = 0, i = 0; h <= 256; h++) {
        while (i < 15 && h - 128 >= q4_values[i] + q4_values[i + 1]) i++;
        near.index[h] = (uint8_t)i;
        near.value[h] = q4_values[i];
    }
    return near;
}

static int half_steps(float w, float inverse)
{
    float h = w * inverse * 2 + 128;
    return (int)(h < 0 ? 0 : h > 256 ? 256 : h);
}

/* With the scale 1/inverse: gives back the scale that suits the values then nearest best, in the
 * sense of least squares, and how much of sum w^2 it explains. */
static float fit(float *gain, const float *w, float inverse, const Nearest *near)
{
    float wv[4] = { 0 }, vv[4] = { 0 };
    for (int c = 0; c < Q_COLS; c += 4)
        for (int t = 0; t < 4; t++) {
            float v = near->value[half_steps(w[c + t], inverse)];
            wv[t] += w[c + t] * v;
            vv[t] += v * v;
        }
    float a = wv[0] + wv[1] + wv[2] + wv[3], b = vv[0] + vv[1] + vv[2] + vv[3];
    *gain = a * a / b;
    return a / b;
}

/* Which scale is best is found by trying: the largest weight on either side, from well inside the
 * values to beyond them, where it is cut. First in larger steps, then beside the best. */
static float best_scale(const float *w, const Nearest *near)
{
    float most = largest(w), best = 0, scale = 0, at = 0, gain;
    if (most < 0x1p-100f) return 0;
    for (int t = 0; t < 16; t++) {
        float top = (t % 2 ? 4.0f : -4.0f) * (float)(11 + t / 2);           /* 44 .. 72 */
        float s = fit(&gain, w, top / most, near);
        if (gain > best) best = gain, scale = s, at = top;
    }
    for (int t = -1; t <= 1; t += 2) {
        float s = fit(&gain, w, (at + (float)(2 * t)) / most, near);
        if (gain > best) best = gain, scale = s;
    }
    return scale;
}

static void encode_q4(BlockQ4 *b, int r, const float *w, const Nearest *near)
{
    b->scale[r] = scale_of(best_scale(w, near));
    float scale = f16_to_f32(b->scale[r]), inverse = scale != 0 ? 1 / scale : 0;
    for (int c = 0; c < 16; c++)
        b->q[c / 4][r][c % 4] = (uint8_t)(near->index[half_steps(w[c], inverse)] |
                                          near->index[half_steps(w[c + 16], inverse)] << 4);
}

bool quant_encode(void *blocks, DType type, const float *w, int n, int k)
{
    Nearest near = nearest_values();
    memset(blocks, 0, quant_bytes(type, 1, k));
    for (int r = 0; r < n; r++)
        for (int p = 0; p < k; p += Q_COLS) {
            float x[Q_COLS] = { 0 };
            memcpy(x, w + (size_t)r * (size_t)k + p, (size_t)min(Q_COLS, k - p) * sizeof *x);
            for (int c = 0; c < Q_COLS; c++)
                if (!isfinite(x[c])) return false;
            if (type == Q8) encode_q8((BlockQ8 *)blocks + p / Q_COLS, r, x);
            else            encode_q4((BlockQ4 *)blocks + p / Q_COLS, r, x, &near);
        }
    return true;
}

/* Row r of a block as integers. */
static float row_q8(int8_t q[Q_COLS], const void *block, int r)
{
    const BlockQ8 *b = block;
    for (int c = 0; c < Q_COLS; c++) q[c] = b->q[c / 4][r][c % 4];
    return f16_to_f32(b->scale[r]);
}

static float row_q4(int8_t q[Q_COLS], const void *block, int r)
{
    const BlockQ4 *b = block;
    for (int c = 0; c < 16; c++) {
        q[c]      = q4_values[b->q[c / 4][r][c % 4] & 15];
        q[c + 16] = q4_values[b->q[c / 4][r][c % 4] >> 4];
    }
    return f16_to_f32(b->scale[r]);
}

static float row_of(int8_t q[Q_COLS], const void *block, DType type, int r)
{
    return type == Q8 ? row_q8(q, block, r) : row_q4(q, block, r);
}

void quant_decode(float *y, const void *W, DType type, int r, int k)
{
    int8_t q[Q_COLS];
    const char *block = (const char *)W + (size_t)(r / Q_ROWS) * quant_bytes(type, 1, k);
    for (int p = 0; p < k; p += Q_COLS, block += quant_bytes(type, 1, 1)) {
        float scale = row_of(q, block, type, r % Q_ROWS);
        for (int c = 0; c < Q_COLS && p + c < k; c++) y[p + c] = scale * q[c];
    }
}

void quant_copy(void *to, const void *W, DType type, int first, int n, int k)
{
    size_t size = quant_bytes(type, 1, 1), row = quant_bytes(type, 1, k);
    memset(to, 0, quant_bytes(type, n, k));
    for (int i = 0; i < n; i++)
        for (size_t b = 0; b < row; b += size) {
            int r = (first + i) % Q_ROWS, s = i % Q_ROWS;
            const char *x = (const char *)W + (size_t)((first + i) / Q_ROWS) * row + b;
            char *y = (char *)to + (size_t)(i / Q_ROWS) * row + b;
            memcpy(y + 2 * s, x + 2 * r, 2);                     /* the scale; then, in both, */
            for (size_t g = 16; g < size; g += 32)               /* 4 bytes of each row */
                memcpy(y + g + 4 * s, x + g + 4 * r, 4);
        }
}

/* === Products ================================================================================= */

enum { TILE_M = 4, TILE_N = 8 };

/* One block of a row of activations: at most 32 numbers, those beyond n count as 0. Those too small
 * for 127 / max to be a number are 0 as well. */
static void round_block(int8_t q[Q_COLS], float *scale, int32_t *start, const float *x, int n)
{
    uint32_t most = 0, bits;
    int sum = 0;
    for (int c = 0; c < n; c++) {
        memcpy(&bits, x + c, sizeof bits);
        if ((bits & 0x7fffffff) > most) most = bits & 0x7fffffff;
    }
    float max, inverse = 0;
    memcpy(&max, &most, sizeof max);
    *scale = most >= 0x7f800000 ? NAN : max < 0x1p-110f ? 0 : max / 127;
    if (*scale > 0) inverse = 127 / max;
    for (int c = 0; c < Q_COLS; c++) {
        q[c] = inverse > 0 && c < n ? (int8_t)rintf(x[c] * inverse) : 0;
        sum += q[c];
    }
    *start = -128 * sum;
}

static void round_ref(void *R, const float *A, int lda, int m, int mr, int k)
{
    memset(R, 0, rounded_bytes(mr, k));
    for (int i = 0; i < m; i++) {
        char *to = R;
        for (int p = 0; p < k; p += Q_COLS, to += rounded_block(mr)) {
            int8_t q[Q_COLS];
            float *scale = (float *)(to + Q_COLS * mr);
            round_block(q, scale + i, (int32_t *)(scale + mr) + i, A + (size_t)i * lda + p,
                        min(Q_COLS, k - p));
            for (int g = 0; g < 8; g++) memcpy(to + 4 * (g * mr + i), q + 4 * g, 4);
        }
    }
}

static int dot32(const int8_t *a, const int8_t *b)
{
    int sum = 0;
    for (int c = 0; c < Q_COLS; c++) sum += a[c] * b[c];
    return sum;
}

#define FEW(name, Block)                                                                         \
    static void few_##name##_ref(float *C, int ldc, const void *R, const void *W, int m, int n,  \
                                 int k)                                                          \
    {                                                                                            \
        int n_blocks = ceil_div(k, Q_COLS);                                                      \
        for (int j = 0; j < n; j++) {                                                            \
            const Block *w = (const Block *)W + (size_t)(j / Q_ROWS) * (size_t)n_blocks;         \
            for (int i = 0; i < m; i++) C[(size_t)i * ldc + j] = 0;                              \
            for (int b = 0; b < n_blocks; b++) {                                                 \
                int8_t q[Q_COLS];                                                                \
                float scale = row_##name(q, w + b, j % Q_ROWS);                                  \
                for (int i = 0; i < m; i++) {                                                    \
                    const char *r = (const char *)R + (size_t)i * rounded_bytes(1, k) +          \
                                    (size_t)b * rounded_block(1);                                \
                    float *c = C + (size_t)i * ldc + j, s;                                       \
                    memcpy(&s, r + Q_COLS, sizeof s);                                            \
                    *c = fmaf((float)dot32((const int8_t *)r, q), scale * s, *c);                \
                }                                                                                \
            }                                                                                    \
        }                                                                                        \
    }                                                                                            \
                                                                                                 \
    /* P, block by block: the integers of TILE_N rows [TILE_N][32], their scales as f32 */       \
    static void pack_##name##_ref(void *P, const void *W, size_t row_of_blocks, int nr,          \
                                  int n_blocks)                                                  \
    {                                                                                            \
        (void)row_of_blocks, (void)nr;               /* TILE_N rows are one row of blocks */     \
        for (int b = 0; b < n_blocks; b++)                                                       \
            for (int r = 0; r < TILE_N; r++) {                                                   \
                char *to = (char *)P + (size_t)b * TILE_N * (Q_COLS + 4);                        \
                float scale = row_##name((int8_t *)to + r * Q_COLS, (const Block *)W + b, r);    \
                memcpy(to + TILE_N * Q_COLS + 4 * r, &scale, sizeof scale);                      \
            }                                                                                    \
    }
FEW(q8, BlockQ8)
FEW(q4, BlockQ4)

static void tile_ref(float *C, int ldc, const void *R, const void *P, int mr, int nr, int n_blocks,
                     bool accumulate)
{
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nr; j++) {
            float *c = C + (size_t)i * ldc + j, sum = accumulate ? *c : 0;
            const char *r = R, *p = P;
            for (int b = 0; b < n_blocks; b++, r += rounded_block(mr), p += TILE_N * (Q_COLS + 4)) {
                int8_t a[Q_COLS];
                float s, scale;
                for (int g = 0; g < 8; g++) memcpy(a + 4 * g, r + 4 * (g * mr + i), 4);
                memcpy(&s, r + Q_COLS * mr + 4 * i, sizeof s);
                memcpy(&scale, p + TILE_N * Q_COLS + 4 * j, sizeof scale);
                sum = fmaf((float)dot32(a, (const int8_t *)p + j * Q_COLS), scale * s, sum);
            }
            *c = sum;
        }
}

void quant_ref(Kernels *k)
{
    k->q_round = round_ref;
    k->q_few[Q8 - Q8] = few_q8_ref;
    k->q_few[Q4 - Q8] = few_q4_ref;
    k->q_few_rows = 4;
    k->q_tile_m = TILE_M;
    k->q_tile_n = TILE_N;
    k->q_pack[Q8 - Q8] = pack_q8_ref;
    k->q_pack[Q4 - Q8] = pack_q4_ref;
    k->q_tile = tile_ref;
}
