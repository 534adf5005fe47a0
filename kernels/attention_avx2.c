/* attention_avx2.c -- the steps of attention for x86 processors with AVX2 and FMA: the queries are
 * the lanes of registers (attention.c), so a head of any size fills them, and nothing is ever
 * summed across lanes.
 *
 * Both products are one loop. C [m, lanes] += A [m, k] P [k, lanes], where A is read number by
 * number and broadcast, with any distance of rows and columns:
 *
 *   scores   C = S [keys, lanes]       A = K [keys, d]          P = Q^T [d, lanes]
 *   mixing   C = out^T [d, lanes]      A = V^T: V [keys, d]     P = weights [keys, lanes]
 *            with columns for rows
 *
 *   tile       6 x 16: 12 sums, 2 registers of P, 1 or 2 for A: all there are. 8 x 8 where 8 lanes
 *              or fewer are in use
 *   per step   12 multiply-adds, 6 cycles, for 8 loads, 4 cycles; with the loop 24 instructions, 6
 *              cycles where four are taken in each. 8 x 8: 8 for 9 loads, the limit: 4.5 cycles
 *   latency    a sum is used again after 12 multiply-adds, 6 cycles; they take 4 or 5 each
 *   blocks     S [KEYS, 16] is 6 KiB, in the first-level cache with what passes by
 *
 * A weight costs 5 multiply-adds, a product and 8 others, which other units of the processor do for
 * the most part; 20 instructions for 8 weights, 25 with a mask. With 40 numbers in a head the same
 * scores cost 80 multiply-adds: softmax is a tenth of it all. */
#include "avx2.h"

#include <math.h>

enum { LANES = 16, VECTORS = LANES / 8 };

/* M rows of 8 N lanes. shrink NULL: C is not read. */
INLINE void tile(float *C, const float *shrink, const float *A, size_t row, size_t column,
                 const float *P, int k, const int M, const int N)
{
    __m256 c[8][VECTORS], b[VECTORS];
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = !shrink ? _mm256_setzero_ps()
                    : _mm256_mul_ps(load_f32(C + i * LANES + 8 * v), load_f32(shrink + 8 * v));
    for (int p = 0; p < k; p++) {
        UNROLL
        for (int v = 0; v < N; v++)
            b[v] = load_f32(P + (size_t)p * LANES + 8 * v);
        UNROLL
        for (int i = 0; i < M; i++) {
            __m256 a = _mm256_broadcast_ss(A + (size_t)i * row + (size_t)p * column);
            UNROLL
            for (int v = 0; v < N; v++)
                c[i][v] = _mm256_fmadd_ps(a, b[v], c[i][v]);
        }
    }
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++)
            _mm256_storeu_ps(C + i * LANES + 8 * v, c[i][v]);
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

static void lane_scores_avx2(float *S, const float *Q, const float *K, int ldk, int n_lanes, int n,
                             int d)
{
    if (n_lanes <= 8) tiles(S, NULL, K, (size_t)ldk, 1, Q, n, d, 8, 1);
    else              tiles(S, NULL, K, (size_t)ldk, 1, Q, n, d, 6, 2);
}

/* 2^x for x <= 0, within 2.5 ulp; 0 below 2^-126. x = n + r with |r| <= 1/2: 2^r is a polynomial
 * (minimax on that interval). The sum with 1.5 * 2^23 + 127 has n + 127 in its lowest bits: shifted
 * into the exponent's place, they are 2^n. What is not a number stays so. */
INLINE __m256 exp2_256(__m256 x)
{
    __m256 magic = _mm256_set1_ps(0x1.8p23f + 127), t = _mm256_add_ps(x, magic);
    __m256 r = _mm256_sub_ps(x, _mm256_sub_ps(t, magic));
    __m256 e = _mm256_set1_ps(0x1.5bba14p-10f);
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0x1.3cea88p-7f));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0x1.c6b752p-5f));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0x1.ebf9bcp-3f));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0x1.62e42ap-1f));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1));
    __m256 large = _mm256_cmp_ps(x, _mm256_set1_ps(-126), _CMP_NLT_UQ);
    __m256 n = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t), 23));
    return _mm256_and_ps(large, _mm256_mul_ps(e, n));
}

/* 8 lanes. Masked: lane l sees seen[l] keys only. */
INLINE void soften(float *S, float *max, float *sum, float *shrink, const int *seen, int n)
{
    __m256i limit = seen ? _mm256_loadu_si256((const __m256i *)seen) : _mm256_set1_epi32(n);
#define SEES(j) _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, _mm256_set1_epi32(j)))
    __m256 old = load_f32(max), m[2] = { old, old };
    for (int j = 0; j < n; j += 2)              /* two maxima, so that none waits for the other */
        UNROLL
        for (int i = 0; i < 2; i++) {
            __m256 s = load_f32(S + (j + i < n ? j + i : j) * LANES);
            if (seen) s = _mm256_blendv_ps(m[i], s, SEES(j + i));
            m[i] = _mm256_max_ps(s, m[i]);
        }
    m[0] = _mm256_max_ps(m[0], m[1]);
    _mm256_storeu_ps(max, m[0]);
    /* a lane that has seen nothing but masked keys: its weights and its sum are 0 */
    m[0] = _mm256_andnot_ps(_mm256_cmp_ps(m[0], _mm256_set1_ps(-INFINITY), _CMP_EQ_OQ), m[0]);
    __m256 factor = exp2_256(_mm256_sub_ps(old, m[0])), total = _mm256_setzero_ps();
    for (int j = 0; j < n; j++) {
        __m256 p = exp2_256(_mm256_sub_ps(load_f32(S + j * LANES), m[0]));
        if (seen) p = _mm256_and_ps(p, SEES(j));
        total = _mm256_add_ps(total, p);
        _mm256_storeu_ps(S + j * LANES, p);
    }
#undef SEES
    _mm256_storeu_ps(shrink, factor);
    _mm256_storeu_ps(sum, _mm256_fmadd_ps(load_f32(sum), factor, total));
}

static void lane_soften_avx2(float *S, float *max, float *sum, float *shrink, const int *seen,
                             int n_lanes, int n)
{
    for (int l = 0; l < n_lanes; l += 8)
        if (seen) soften(S + l, max + l, sum + l, shrink + l, seen + l, n);
        else      soften(S + l, max + l, sum + l, shrink + l, NULL, n);
}

static void lane_mix_avx2(float *out, const float *shrink, const float *S, const float *V, int ldv,
                          int n_lanes, int n, int d)
{
    if (n_lanes <= 8) tiles(out, shrink, V, 1, (size_t)ldv, S, d, n, 8, 1);
    else              tiles(out, shrink, V, 1, (size_t)ldv, S, d, n, 6, 2);
}

void attention_avx2(Kernels *k)
{
    k->lanes = LANES;
    k->lane_step = 8;
    k->lane_scores = lane_scores_avx2;
    k->lane_soften = lane_soften_avx2;
    k->lane_mix = lane_mix_avx2;
}
