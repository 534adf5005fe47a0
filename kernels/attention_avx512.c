/* attention_avx512.c -- the steps of attention for x86 processors with AVX-512: the queries are
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
 *   tile       6 x 64, 8 x 48, 12 x 32 or 12 x 16, as many lanes as are in use: 24 sums (12), 4 or
 *              fewer registers of P, 1 or 2 for A
 *   per step   24 multiply-adds for 10 loads at most: arithmetic is the limit
 *   latency    a sum is used again after 24 multiply-adds; they take 4 cycles each
 *   blocks     S [KEYS, 64] is 24 KiB, in the first-level cache with what passes by
 *
 * A weight costs 5 multiply-adds and some additions, which other units of the processor do: with
 * 40 numbers in a head a score costs 80 multiply-adds elsewhere. */
#include "avx512.h"

#include <math.h>

enum { LANES = 64, VECTORS = LANES / 16 };

/* M rows of 16 N lanes. shrink NULL: C is not read. */
INLINE void tile(float *C, const float *shrink, const float *A, size_t row, size_t column,
                 const float *P, int k, const int M, const int N)
{
    __m512 c[12][VECTORS], b[VECTORS];
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++)
            c[i][v] = !shrink ? _mm512_setzero_ps()
                    : _mm512_mul_ps(load_f32(C + i * LANES + 16 * v), load_f32(shrink + 16 * v));
    for (int p = 0; p < k; p++) {
        UNROLL
        for (int v = 0; v < N; v++)
            b[v] = load_f32(P + (size_t)p * LANES + 16 * v);
        UNROLL
        for (int i = 0; i < M; i++) {
            __m512 a = _mm512_set1_ps(A[(size_t)i * row + (size_t)p * column]);
            UNROLL
            for (int v = 0; v < N; v++)
                c[i][v] = _mm512_fmadd_ps(a, b[v], c[i][v]);
        }
    }
    UNROLL
    for (int i = 0; i < M; i++)
        UNROLL
        for (int v = 0; v < N; v++)
            _mm512_storeu_ps(C + i * LANES + 16 * v, c[i][v]);
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

static void lane_scores_avx512(float *S, const float *Q, const float *K, int ldk, int n_lanes,
                               int n, int d)
{
    switch ((n_lanes + 15) / 16) {
    case 1:  tiles(S, NULL, K, (size_t)ldk, 1, Q, n, d, 12, 1); break;
    case 2:  tiles(S, NULL, K, (size_t)ldk, 1, Q, n, d, 12, 2); break;
    case 3:  tiles(S, NULL, K, (size_t)ldk, 1, Q, n, d, 8, 3); break;
    default: tiles(S, NULL, K, (size_t)ldk, 1, Q, n, d, 6, 4); break;
    }
}

/* 2^x for x <= 0, within 2.5 ulp; 0 below 2^-126. x = n + r with |r| <= 1/2: 2^r is a polynomial
 * (minimax on that interval). The sum with 1.5 * 2^23 + 127 has n + 127 in its lowest bits: shifted
 * into the exponent's place, they are 2^n. What is not a number stays so. */
INLINE __m512 exp2_512(__m512 x)
{
    __m512 magic = _mm512_set1_ps(0x1.8p23f + 127), t = _mm512_add_ps(x, magic);
    __m512 r = _mm512_sub_ps(x, _mm512_sub_ps(t, magic));
    __m512 e = _mm512_set1_ps(0x1.5bba14p-10f);
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0x1.3cea88p-7f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0x1.c6b752p-5f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0x1.ebf9bcp-3f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(0x1.62e42ap-1f));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(1));
    __mmask16 large = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126), _CMP_NLT_UQ);
    __m512 n = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t), 23));
    return _mm512_maskz_mul_ps(large, e, n);
}

/* 16 lanes. Masked: lane l sees seen[l] keys only. */
INLINE void soften(float *S, float *max, float *sum, float *shrink, const int *seen, int n)
{
    __m512i limit = seen ? _mm512_loadu_si512(seen) : _mm512_set1_epi32(n);
#define SEES(j) _mm512_cmplt_epi32_mask(_mm512_set1_epi32(j), limit)
    __m512 old = load_f32(max), m[2] = { old, old };
    for (int j = 0; j < n; j += 2)              /* two maxima, so that none waits for the other */
        UNROLL
        for (int i = 0; i < 2; i++) {
            const float *s = S + (j + i < n ? j + i : j) * LANES;
            m[i] = _mm512_mask_max_ps(m[i], seen ? SEES(j + i) : 0xffff, load_f32(s), m[i]);
        }
    m[0] = _mm512_max_ps(m[0], m[1]);
    _mm512_storeu_ps(max, m[0]);
    /* a lane that has seen nothing but masked keys: its weights and its sum are 0 */
    __mmask16 none = _mm512_cmp_ps_mask(m[0], _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ);
    m[0] = _mm512_mask_mov_ps(m[0], none, _mm512_setzero_ps());
    __m512 factor = exp2_512(_mm512_sub_ps(old, m[0])), total = _mm512_setzero_ps();
    for (int j = 0; j < n; j++) {
        __m512 p = exp2_512(_mm512_sub_ps(load_f32(S + j * LANES), m[0]));
        if (seen) p = _mm512_maskz_mov_ps(SEES(j), p);
        total = _mm512_add_ps(total, p);
        _mm512_storeu_ps(S + j * LANES, p);
    }
#undef SEES
    _mm512_storeu_ps(shrink, factor);
    _mm512_storeu_ps(sum, _mm512_fmadd_ps(load_f32(sum), factor, total));
}

static void lane_soften_avx512(float *S, float *max, float *sum, float *shrink, const int *seen,
                               int n_lanes, int n)
{
    for (int l = 0; l < n_lanes; l += 16)
        if (seen) soften(S + l, max + l, sum + l, shrink + l, seen + l, n);
        else      soften(S + l, max + l, sum + l, shrink + l, NULL, n);
}

static void lane_mix_avx512(float *out, const float *shrink, const float *S, const float *V,
                            int ldv, int n_lanes, int n, int d)
{
    switch ((n_lanes + 15) / 16) {
    case 1:  tiles(out, shrink, V, 1, (size_t)ldv, S, d, n, 12, 1); break;
    case 2:  tiles(out, shrink, V, 1, (size_t)ldv, S, d, n, 12, 2); break;
    case 3:  tiles(out, shrink, V, 1, (size_t)ldv, S, d, n, 8, 3); break;
    default: tiles(out, shrink, V, 1, (size_t)ldv, S, d, n, 6, 4); break;
    }
}

void attention_avx512(Kernels *k)
{
    k->lanes = LANES;
    k->lane_step = 16;
    k->lane_scores = lane_scores_avx512;
    k->lane_soften = lane_soften_avx512;
    k->lane_mix = lane_mix_avx512;
}
