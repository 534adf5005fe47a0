/* attention_neon.c -- the steps of attention for 64-bit ARM: the queries are the lanes of registers
 * (attention.c), so a head of any size fills them, and nothing is ever summed across lanes.
 *
 * Both products are one loop. C [m, lanes] += A [m, k] P [k, lanes], where A is read number by
 * number and broadcast, with any distance of rows and columns:
 *
 *   scores   C = S [keys, lanes]       A = K [keys, d]          P = Q^T [d, lanes]
 *   mixing   C = out^T [d, lanes]      A = V^T: V [keys, d]     P = weights [keys, lanes]
 *            with columns for rows
 *
 *   tile       6 x 16 of registers of 4: 24 sums, 4 registers of P, 1 or 2 for A = 30 of 32.
 *              12 x 4 where 4 lanes or fewer are in use, 12 x 8 for 8
 *   per step   24 multiply-adds, 10 loads, 4 to 7 others: 41 instructions at most, as gcc 12 makes
 *              them. A core with four vector units and three loads a cycle (Neoverse V1, Apple M1)
 *              needs 6 cycles of arithmetic, 3.3 of loads; with two and two (Cortex-A76, Neoverse
 *              N1) 12 and 5, and 10 to decode four a cycle: arithmetic is the limit. Not timed.
 *   latency    a sum is used again after 24 multiply-adds; they take 4 cycles each, so 4 units can
 *              keep 16 of them under way
 *   softmax    4 weights take 5 multiply-adds and 11 others of the same units, twice as often where
 *              keys are masked: 16 of them are 8 cycles on a Cortex-A76. In a head of 64 numbers
 *              the same 4 scores cost 128 multiply-adds, 64 cycles
 *   blocks     S [KEYS, 16] is 6 KiB, in the first-level cache with what passes by */
#include "neon.h"

#include <math.h>

enum { LANES = 16, VECTORS = LANES / 4 };

/* M rows of 4 N lanes. shrink NULL: C is not read. */
INLINE void tile(float *C, const float *shrink, const float *A, size_t row, size_t column,
                 const float *P, int k, const int M, const int N)
{
    float32x4_t c[12][VECTORS], b[VECTORS];
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = !shrink ? vdupq_n_f32(0)
                    : vmulq_f32(load_f32(C + i * LANES + 4 * v), load_f32(shrink + 4 * v));
    for (int p = 0; p < k; p++) {
        UNROLL
        for (int v = 0; v < N; v++)
            b[v] = load_f32(P + (size_t)p * LANES + 4 * v);
        UNROLL
        for (int i = 0; i < M; i++) {
            float32x4_t a = vld1q_dup_f32(A + (size_t)i * row + (size_t)p * column);
            UNROLL
            for (int v = 0; v < N; v++)
                c[i][v] = vfmaq_f32(c[i][v], a, b[v]);
        }
    }
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++)
            vst1q_f32(C + i * LANES + 4 * v, c[i][v]);
}

/* All rows: tiles of M, then 4, then 1. */
INLINE void tiles(float *C, const float *shrink, const float *A, size_t row, size_t column,
                  const float *P, int m, int k, const int M, const int N)
{
    int i = 0;
    for (; i + M <= m; i += M)
        tile(C + i * LANES, shrink, A + i * row, row, column, P, k, M, N);
    for (; i + 4 <= m; i += 4)
        tile(C + i * LANES, shrink, A + i * row, row, column, P, k, 4, N);
    for (; i < m; i++)
        tile(C + i * LANES, shrink, A + i * row, row, column, P, k, 1, N);
}

static void lane_scores_neon(float *S, const float *Q, const float *K, int ldk, int n_lanes, int n,
                             int d)
{
    if (n_lanes <= 4)      tiles(S, NULL, K, (size_t)ldk, 1, Q, n, d, 12, 1);
    else if (n_lanes <= 8) tiles(S, NULL, K, (size_t)ldk, 1, Q, n, d, 12, 2);
    else                   tiles(S, NULL, K, (size_t)ldk, 1, Q, n, d, 6, 4);
}

/* 2^x for x <= 0, within 2.5 ulp; 0 below 2^-126. x = n + r with |r| <= 1/2: 2^r is a polynomial
 * (minimax on that interval). The sum with 1.5 * 2^23 + 127 has n + 127 in its lowest bits: shifted
 * into the exponent's place, they are 2^n. What is not a number stays so. */
INLINE float32x4_t exp2_128(float32x4_t x)
{
    float32x4_t magic = vdupq_n_f32(0x1.8p23f + 127), t = vaddq_f32(x, magic);
    float32x4_t r = vsubq_f32(x, vsubq_f32(t, magic));
    float32x4_t e = vdupq_n_f32(0x1.5bba14p-10f);
    e = vfmaq_f32(vdupq_n_f32(0x1.3cea88p-7f), e, r);
    e = vfmaq_f32(vdupq_n_f32(0x1.c6b752p-5f), e, r);
    e = vfmaq_f32(vdupq_n_f32(0x1.ebf9bcp-3f), e, r);
    e = vfmaq_f32(vdupq_n_f32(0x1.62e42ap-1f), e, r);
    e = vfmaq_f32(vdupq_n_f32(1), e, r);
    float32x4_t n = vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(t), 23));
    uint32x4_t small = vcltq_f32(x, vdupq_n_f32(-126));
    return vbslq_f32(small, vdupq_n_f32(0), vmulq_f32(e, n));
}

/* 4 lanes. Masked: lane l sees seen[l] keys only. */
INLINE void soften(float *S, float *max, float *sum, float *shrink, const int *seen, int n)
{
    int32x4_t limit = seen ? vld1q_s32(seen) : vdupq_n_s32(n);
#define SEES(j) vcltq_s32(vdupq_n_s32(j), limit)
    float32x4_t old = load_f32(max), m[2] = { old, old };
    for (int j = 0; j < n; j += 2)              /* two maxima, so that none waits for the other */
        UNROLL
        for (int i = 0; i < 2; i++) {
            float32x4_t s = load_f32(S + (j + i < n ? j + i : j) * LANES);
            if (seen) s = vbslq_f32(SEES(j + i), s, m[i]);
            m[i] = vmaxnmq_f32(s, m[i]);        /* the number, where one is none */
        }
    m[0] = vmaxnmq_f32(m[0], m[1]);
    vst1q_f32(max, m[0]);
    /* a lane that has seen nothing but masked keys: its weights and its sum are 0 */
    m[0] = vbslq_f32(vceqq_f32(m[0], vdupq_n_f32(-INFINITY)), vdupq_n_f32(0), m[0]);
    float32x4_t factor = exp2_128(vsubq_f32(old, m[0])), total = vdupq_n_f32(0);
    for (int j = 0; j < n; j++) {
        float32x4_t p = exp2_128(vsubq_f32(load_f32(S + j * LANES), m[0]));
        if (seen) p = vbslq_f32(SEES(j), p, vdupq_n_f32(0));
        total = vaddq_f32(total, p);
        vst1q_f32(S + j * LANES, p);
    }
#undef SEES
    vst1q_f32(shrink, factor);
    vst1q_f32(sum, vfmaq_f32(total, load_f32(sum), factor));
}

static void lane_soften_neon(float *S, float *max, float *sum, float *shrink, const int *seen,
                             int n_lanes, int n)
{
    for (int l = 0; l < n_lanes; l += 4)
        if (seen) soften(S + l, max + l, sum + l, shrink + l, seen + l, n);
        else      soften(S + l, max + l, sum + l, shrink + l, NULL, n);
}

static void lane_mix_neon(float *out, const float *shrink, const float *S, const float *V, int ldv,
                          int n_lanes, int n, int d)
{
    if (n_lanes <= 4)      tiles(out, shrink, V, 1, (size_t)ldv, S, d, n, 12, 1);
    else if (n_lanes <= 8) tiles(out, shrink, V, 1, (size_t)ldv, S, d, n, 12, 2);
    else                   tiles(out, shrink, V, 1, (size_t)ldv, S, d, n, 6, 4);
}

void attention_neon(Kernels *k)
{
    k->lanes = LANES;
    k->lane_step = 8;
    k->lane_scores = lane_scores_neon;
    k->lane_soften = lane_soften_neon;
    k->lane_mix = lane_mix_neon;
}
