/* conv_neon.c -- what convolutions need beside the matrix product, for 64-bit ARM: Winograd's
 * transforms (winograd.c says what they are for). 32 registers of 4 floats; a register holds one
 * number of the square for 4 channels.
 *
 * The operations are those of conv_avx512.c, which counts them: 144 for 6x6 pixels, 99 for 3x3
 * weights, 120 for 6x6 sums. The weights (6x3 in between) and the sums (4x6) fit into the
 * registers, the pixels (6x6) but for 4 and a column of 6.
 *
 * Counted in what gcc 12 makes of it, not measured. 4 channels of 6x6 pixels are 380 instructions:
 * 144 multiply-adds; 36 loads of pixels, 36 of their addresses and 26 of what did not fit; 52
 * stores; 88 copies of registers (fmla overwrites one of its operands). A Cortex-A76 does two of
 * the first, two of loads and stores a cycle (72 and 75) and takes four instructions a cycle: 95
 * cycles, the copies are what costs. The same 4 channels cost 36 multiply-adds for every
 * 4 outputs or every tile that they meet.
 *
 * Group norm: moments does three operations for each register of pixels that it reads, affine one.
 * Memory is what bounds both. */
#include "neon.h"

enum { LANES = 4 };
typedef float32x4_t Vec;

INLINE Vec get(const float *p, int lanes)   { return part_f32(p, lanes); }
INLINE void put(float *p, int lanes, Vec v) { store(p, lanes, v); }
INLINE Vec times(float s, Vec a)            { return vmulq_n_f32(a, s); }
INLINE Vec plus(Vec a, Vec b)               { return vaddq_f32(a, b); }
INLINE Vec minus(Vec a, Vec b)              { return vsubq_f32(a, b); }
INLINE Vec mad(float s, Vec a, Vec b)       { return vfmaq_n_f32(b, a, s); }
INLINE Vec zero(void)                       { return vdupq_n_f32(0); }
INLINE Vec fma_of(Vec a, Vec b, Vec c)      { return vfmaq_f32(c, a, b); }

/* B^T x, x a column or row of 6. */
INLINE void points_in(Vec r[6], const Vec x[6])
{
    const float p = WINO_P, q = WINO_Q, p2 = p * p, q2 = q * q;
    Vec even_p = mad(-q2, x[2], x[4]), odd_p = mad(-q2, x[1], x[3]);
    Vec even_q = mad(-p2, x[2], x[4]), odd_q = mad(-p2, x[1], x[3]);
    r[0] = mad(p2 * q2, x[0], mad(-(p2 + q2), x[2], x[4]));
    r[1] = mad(p, odd_p, even_p);
    r[2] = mad(-p, odd_p, even_p);
    r[3] = mad(q, odd_q, even_q);
    r[4] = mad(-q, odd_q, even_q);
    r[5] = mad(p2 * q2, x[1], mad(-(p2 + q2), x[3], x[5]));
}

/* G x, x a column or row of 3. */
INLINE void points_w(Vec r[6], const Vec x[3])
{
    const double p = WINO_P, q = WINO_Q, p2 = p * p, q2 = q * q;
    const double at_p = 1 / (2 * p2 * (p2 - q2)), at_q = 1 / (2 * q2 * (q2 - p2));
    Vec even_p = mad((float)(p2 * at_p), x[2], times((float)at_p, x[0]));
    Vec even_q = mad((float)(q2 * at_q), x[2], times((float)at_q, x[0]));
    Vec odd_p = times((float)(p * at_p), x[1]), odd_q = times((float)(q * at_q), x[1]);
    r[0] = times((float)(1 / (p2 * q2)), x[0]);
    r[1] = plus(even_p, odd_p);
    r[2] = minus(even_p, odd_p);
    r[3] = plus(even_q, odd_q);
    r[4] = minus(even_q, odd_q);
    r[5] = x[2];
}

/* A^T x, x a column or row of 6. */
INLINE void points_out(Vec r[4], const Vec x[6])
{
    const float p = WINO_P, q = WINO_Q, p2 = p * p, q2 = q * q;
    Vec sum_p = plus(x[1], x[2]), sum_q = plus(x[3], x[4]);
    Vec odd_p = minus(x[1], x[2]), odd_q = minus(x[3], x[4]);
    r[0] = plus(x[0], plus(sum_p, sum_q));
    r[1] = mad(q, odd_q, times(p, odd_p));
    r[2] = mad(q2, sum_q, times(p2, sum_p));
    r[3] = mad(q2 * q, odd_q, mad(p2 * p, odd_p, x[5]));
}

/* The first `lanes` channels from at on. */
INLINE void in_lanes(float *V, size_t ld, const float *const *px, size_t at, const int lanes)
{
    Vec x[6], t[6][6], r[6];
    UNROLL
    for (int j = 0; j < 6; j++) {
        UNROLL
        for (int i = 0; i < 6; i++) x[i] = get(px[6 * i + j] + at, lanes);
        points_in(r, x);
        UNROLL
        for (int i = 0; i < 6; i++) t[i][j] = r[i];
    }
    UNROLL
    for (int i = 0; i < 6; i++) {
        points_in(r, t[i]);
        UNROLL
        for (int j = 0; j < 6; j++) put(V + (size_t)(6 * i + j) * ld, lanes, r[j]);
    }
}

static void wino_in_neon(float *V, size_t ld, const float *const *px, size_t at, int n)
{
    int c = 0;
    for (; c + LANES <= n; c += LANES) in_lanes(V + c, ld, px, at + c, LANES);
    if (c < n) in_lanes(V + c, ld, px, at + c, n - c);
}

INLINE void w_lanes(float *U, size_t ld, const float *P, int n, const int lanes)
{
    Vec x[3], t[6][3], r[6];
    UNROLL
    for (int j = 0; j < 3; j++) {
        UNROLL
        for (int i = 0; i < 3; i++) x[i] = get(P + (size_t)(3 * i + j) * n, lanes);
        points_w(r, x);
        UNROLL
        for (int i = 0; i < 6; i++) t[i][j] = r[i];
    }
    UNROLL
    for (int i = 0; i < 6; i++) {
        points_w(r, t[i]);
        UNROLL
        for (int j = 0; j < 6; j++) put(U + (size_t)(6 * i + j) * ld, lanes, r[j]);
    }
}

static void wino_w_neon(float *U, size_t ld, const float *P, int n)
{
    int c = 0;
    for (; c + LANES <= n; c += LANES) w_lanes(U + c, ld, P + c, n, LANES);
    if (c < n) w_lanes(U + c, ld, P + c, n, n - c);
}

INLINE void out_lanes(float *Y, const float *M, size_t ld, int n, const int lanes)
{
    Vec x[6], t[4][6], r[4];
    UNROLL
    for (int j = 0; j < 6; j++) {
        UNROLL
        for (int i = 0; i < 6; i++) x[i] = get(M + (size_t)(6 * i + j) * ld, lanes);
        points_out(r, x);
        UNROLL
        for (int i = 0; i < 4; i++) t[i][j] = r[i];
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        points_out(r, t[i]);
        UNROLL
        for (int j = 0; j < 4; j++) put(Y + (size_t)(4 * i + j) * n, lanes, r[j]);
    }
}

static void wino_out_neon(float *Y, const float *M, size_t ld, int n)
{
    int c = 0;
    for (; c + LANES <= n; c += LANES) out_lanes(Y + c, M + c, ld, n, LANES);
    if (c < n) out_lanes(Y + c, M + c, ld, n, n - c);
}

/* ROWS rows of x, `lanes` channels, to the sums. */
INLINE void moments_lanes(float *sum, float *squares, const float *x, const float *at, int ld,
                          const int ROWS, bool begin, const int lanes)
{
    Vec s = begin ? zero() : get(sum, lanes), q = begin ? zero() : get(squares, lanes);
    Vec m = get(at, lanes);
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        Vec d = minus(get(x + (size_t)r * ld, lanes), m);
        s = plus(s, d);
        q = fma_of(d, d, q);
    }
    put(sum, lanes, s);
    put(squares, lanes, q);
}

/* Four rows at a time: so many streams the memory delivers well, and the sums, in the first-level
 * cache, are touched once for them. */
INLINE void moments_rows(float *sum, float *squares, const float *x, const float *at, int n,
                         const int ROWS, bool begin)
{
    int c = 0;
    for (; c + LANES <= n; c += LANES)
        moments_lanes(sum + c, squares + c, x + c, at + c, n, ROWS, begin, LANES);
    if (c < n) moments_lanes(sum + c, squares + c, x + c, at + c, n, ROWS, begin, n - c);
}

static void moments_neon(float *sum, float *squares, const float *x, const float *at, int rows,
                        int n)
{
    int r = 0;
    for (; r + 4 <= rows; r += 4) moments_rows(sum, squares, x + (size_t)r * n, at, n, 4, r == 0);
    for (; r < rows; r++)         moments_rows(sum, squares, x + (size_t)r * n, at, n, 1, r == 0);
}

static void affine_neon(float *y, const float *x, const float *a, const float *b, int n)
{
    int c = 0;
    for (; c + LANES <= n; c += LANES)
        put(y + c, LANES, fma_of(get(x + c, LANES), get(a + c, LANES), get(b + c, LANES)));
    if (c < n) put(y + c, n - c, fma_of(get(x + c, n - c), get(a + c, n - c), get(b + c, n - c)));
}

void conv_neon(Kernels *k)
{
    k->wino_in = wino_in_neon;
    k->wino_w = wino_w_neon;
    k->wino_out = wino_out_neon;
    k->moments = moments_neon;
    k->affine = affine_neon;
}
