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
 *   - Of a transposed convolution, padding takes away from the edges of the output. */
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
