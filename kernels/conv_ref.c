/* conv_ref.c -- convolution by its definition, and the plain C of its micro-kernels.
 *
 * convolve_plain is what a convolution is: for each number of the output a sum over the pixels
 * below the kernel and over the channels, in double precision. Nobody runs it but the tests, which
 * hold everything that is faster against it.
 *
 *   in [n, h, w, c_in], W [c_out, c_in/groups, kh, kw] -> out [n, out_h, out_w, c_out]
 *
 * Easy to get wrong:
 *   - PyTorch's conv2d does not flip its kernel (mathematics would call it a correlation); its
 *     transposed convolution spreads each pixel by the same kernel, which seen from the output is
 *     flipped. W begins with the outputs in the one, with the inputs in the other.
 *   - Of a transposed convolution, padding takes away from the edges of the output.
 *   - B and A are exact in f32, G is not. A point may be scaled in one of the three if it is scaled
 *     back in another. */
#include "kernels.h"

/* === The definition =========================================================================== */

static float weight(const Convolution *c, size_t i)
{
    switch (c->type) {
    case F16:  return f16_to_f32(((const uint16_t *)c->w)[i]);
    case BF16: return bf16_to_f32(((const uint16_t *)c->w)[i]);
    default:   return ((const float *)c->w)[i];
    }
}

/* Which pixel of the input the output at `pos` sees below place t of the kernel; -1: none. */
static int source(const Convolution *c, int pos, int t, int pad, int size)
{
    int at = c->transposed ? pos + pad - t : pos * c->stride + t - pad;
    if (c->transposed && at % c->stride) return -1;
    at = c->transposed ? at / c->stride : at;
    return at < size ? at : -1;
}

/* The sum for picture p, pixel (y, x), channel co. */
static double plain_sum(const Convolution *c, int p, int y, int x, int co)
{
    int n_in = c->c_in / c->groups, n_out = c->c_out / c->groups, group = co / n_out;
    double sum = 0;
    for (int ky = 0; ky < c->kh; ky++)
        for (int kx = 0; kx < c->kw; kx++) {
            int iy = source(c, y, ky, c->pad_top, c->h);
            int ix = source(c, x, kx, c->pad_left, c->width);
            if (iy < 0 || ix < 0) continue;
            const float *in = c->in + (((size_t)p * c->h + iy) * c->width + ix) * c->c_in;
            for (int ci = group * n_in; ci < (group + 1) * n_in; ci++) {
                size_t row = c->transposed ? (size_t)ci * n_out + co % n_out
                                           : (size_t)co * n_in + ci % n_in;
                sum += (double)in[ci] * weight(c, (row * c->kh + ky) * c->kw + kx);
            }
        }
    return sum;
}

void convolve_plain(const Convolution *c)
{
    for (int p = 0; p < c->n; p++)
        for (int y = 0; y < c->out_h; y++)
            for (int x = 0; x < c->out_w; x++) {
                float *out = c->out + (((size_t)p * c->out_h + y) * c->out_w + x) * c->c_out;
                for (int co = 0; co < c->c_out; co++) {
                    double sum = plain_sum(c, p, y, x, co);
                    float s = (float)(c->e.bias ? sum + c->e.bias[co] : sum);
                    if (c->e.act) kernel.act[c->e.act](&s, 1);
                    out[co] = c->e.add ? out[co] + s : s;
                }
            }
}

/* === Winograd's transforms ==================================================================== */

/* The points are 0, p, -p, q, -q and infinity. Why these: winograd.c. */
#define P1 WINO_P
#define Q1 WINO_Q
#define P2 (P1 * P1)
#define Q2 (Q1 * Q1)
#define AT_P (1 / (2.0 * P2 * (P2 - Q2)))
#define AT_Q (1 / (2.0 * Q2 * (Q2 - P2)))

/* Rows: (x^2 - p^2)(x^2 - q^2), which vanishes at all points but 0; and so on. */
const float WINO_B[6][6] = {
    { P2 * Q2,        0, -(P2 + Q2),          0, 1, 0 },
    {       0, -P1 * Q2,        -Q2,         P1, 1, 0 },
    {       0,  P1 * Q2,        -Q2,        -P1, 1, 0 },
    {       0, -P2 * Q1,        -P2,         Q1, 1, 0 },
    {       0,  P2 * Q1,        -P2,        -Q1, 1, 0 },
    {       0,  P2 * Q2,          0, -(P2 + Q2), 0, 1 },
};

/* Rows: 1, x, x^2 at each point x, divided by the value that its row above has there. */
const float WINO_G[6][3] = {
    { (float)(1.0 / (P2 * Q2)), 0, 0 },
    { (float)AT_P, (float)(P1 * AT_P), (float)(P2 * AT_P) },
    { (float)AT_P, (float)(-P1 * AT_P), (float)(P2 * AT_P) },
    { (float)AT_Q, (float)(Q1 * AT_Q), (float)(Q2 * AT_Q) },
    { (float)AT_Q, (float)(-Q1 * AT_Q), (float)(Q2 * AT_Q) },
    { 0, 0, 1 },
};

/* Columns: 1, x, x^2, x^3 at each point x. */
const float WINO_A[4][6] = {
    { 1,       1,        1,       1,        1, 0 },
    { 0,      P1,      -P1,      Q1,      -Q1, 0 },
    { 0,      P2,       P2,      Q2,       Q2, 0 },
    { 0, P1 * P2, -P1 * P2, Q1 * Q2, -Q1 * Q2, 1 },
};

/* to [m, m] = T x T^T, T [m, n], x [n, n] */
static void both_sides(double *to, const float *T, const double *x, int m, int n)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j < m; j++) {
            double sum = 0;
            for (int p = 0; p < n; p++)
                for (int q = 0; q < n; q++)
                    sum += (double)T[i * n + p] * T[j * n + q] * x[p * n + q];
            to[i * m + j] = sum;
        }
}

static void wino_in_ref(float *V, size_t ld, const float *const *px, size_t at, int n)
{
    double d[36], v[36];
    for (int c = 0; c < n; c++) {
        for (int i = 0; i < 36; i++) d[i] = px[i][at + c];
        both_sides(v, WINO_B[0], d, 6, 6);
        for (int i = 0; i < 36; i++) V[i * ld + c] = (float)v[i];
    }
}

static void wino_w_ref(float *U, size_t ld, const float *P, int n)
{
    double w[9], u[36];
    for (int c = 0; c < n; c++) {
        for (int i = 0; i < 9; i++) w[i] = P[i * n + c];
        both_sides(u, WINO_G[0], w, 6, 3);
        for (int i = 0; i < 36; i++) U[i * ld + c] = (float)u[i];
    }
}

static void wino_out_ref(float *Y, const float *M, size_t ld, int n)
{
    double m[36], y[16];
    for (int c = 0; c < n; c++) {
        for (int i = 0; i < 36; i++) m[i] = M[i * ld + c];
        both_sides(y, WINO_A[0], m, 4, 6);
        for (int i = 0; i < 16; i++) Y[i * n + c] = (float)y[i];
    }
}

/* === Group norm =============================================================================== */

static void moments_ref(float *sum, float *squares, const float *x, const float *at, int rows,
                        int n)
{
    for (int c = 0; c < n; c++) {
        double s = 0, q = 0;
        for (int r = 0; r < rows; r++) {
            double d = (double)x[(size_t)r * n + c] - at[c];
            s += d, q += d * d;
        }
        sum[c] = (float)s;
        squares[c] = (float)q;
    }
}

static void affine_ref(float *y, const float *x, const float *a, const float *b, int n)
{
    for (int c = 0; c < n; c++) y[c] = x[c] * a[c] + b[c];
}

void conv_ref(Kernels *k)
{
    k->wino_in = wino_in_ref;
    k->wino_w = wino_w_ref;
    k->wino_out = wino_out_ref;
    k->moments = moments_ref;
    k->affine = affine_ref;
}
