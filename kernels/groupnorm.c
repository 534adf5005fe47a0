/* groupnorm.c -- group normalisation of pictures (arXiv 1803.08494), the norm of U-Nets and of
 * their autoencoders.
 *
 * Channels fall into groups of neighbours. Of each group of each picture, over all pixels:
 *
 *   y = (x - mean) / sqrt(variance + eps) * w[channel] + b[channel],  then the activation
 *
 *   x [pixels, c] -> per block of 64 pixels and group: mean and sum of squares around it (double)
 *                 -> per group: the blocks joined -> per channel: y = x * scale + shift
 *
 * What bounds it is the memory: x is read twice and y is written once. The activation (SiLU in all
 * these networks) costs no pass of its own, since it is applied row by row as y is written.
 *
 * Easy to get wrong:
 *   - The variance is that of the population. E[x^2] - E[x]^2 loses everything where the mean is
 *     large; here each block first finds the means of its channels, then, while the block is in the
 *     cache, the squares around them. Joining (Chan 1979) adds what the means differ by.
 *   - Blocks have the same size whatever the number of threads, and are joined in order. */
#include "kernels.h"

#include <math.h>

enum { BLOCK = 64 };        /* pixels: 64 * 320 * 4 = 80 KiB, in L2 between its two passes */

typedef struct { double n, mean, squares; } Moments;    /* squares: sum of (x - mean)^2 */

typedef struct {
    float *out;
    const float *in, *w, *b;
    int n, pixels, c, groups, n_blocks;
    float eps;
    Act act;
    Moments *part;          /* [n][n_blocks][groups] */
    float *scale, *shift;   /* [n][c] */
    float *work;            /* [workers][3][c] */
} GroupJob;

/* a and b are of disjoint numbers: those of all of them. */
static Moments join(Moments a, Moments b)
{
    double n = a.n + b.n, d = b.mean - a.mean;
    return (Moments){ n, a.mean + d * b.n / n, a.squares + b.squares + d * d * a.n * b.n / n };
}

/* Channels that have their mean and squares over the same number of rows: as one group. rest is how
 * far the mean is from the exact one, times rows. */
static Moments group_of(const float *mean, const float *rest, const float *squares, int width,
                        int rows)
{
    double sum = 0, all = 0, part = 1.0 / rows;
    for (int c = 0; c < width; c++) sum += mean[c] + rest[c] * part;
    double middle = sum / width;
    for (int c = 0; c < width; c++) {
        double d = mean[c] + rest[c] * part - middle;
        all += squares[c] - rest[c] * part * rest[c] + rows * d * d;
    }
    return (Moments){ (double)rows * width, middle, all };
}

/* The moments of the groups of one block. */
static void block_task(void *ctx, int task, int worker)
{
    const GroupJob *j = ctx;
    int first = task % j->n_blocks * BLOCK, rows = min(BLOCK, j->pixels - first);
    const float *x = j->in + ((size_t)(task / j->n_blocks) * j->pixels + first) * j->c;
    float *mean = j->work + (size_t)worker * 3 * j->c, *sum = mean + j->c, *squares = sum + j->c;
    kernel.moments(sum, squares, x, x, rows, j->c);
    for (int c = 0; c < j->c; c++) mean[c] = x[c] + sum[c] * (1.0f / (float)rows);
    kernel.moments(sum, squares, x, mean, rows, j->c);
    int width = j->c / j->groups;
    for (int g = 0; g < j->groups; g++)
        j->part[(size_t)task * j->groups + g] = group_of(mean + g * width, sum + g * width,
                                                         squares + g * width, width, rows);
}

/* One group of one picture: from its blocks to scale and shift of its channels. */
static void group_task(void *ctx, int task, int worker)
{
    const GroupJob *j = ctx;
    int picture = task / j->groups, g = task % j->groups, width = j->c / j->groups;
    const Moments *part = j->part + (size_t)picture * j->n_blocks * j->groups + g;
    Moments m = { 0 };
    (void)worker;
    for (int i = 0; i < j->n_blocks; i++) m = join(m, part[(size_t)i * j->groups]);
    double r = 1 / sqrt(m.squares / m.n + j->eps);
    for (int c = g * width; c < (g + 1) * width; c++) {
        j->scale[(size_t)picture * j->c + c] = (float)(r * j->w[c]);
        j->shift[(size_t)picture * j->c + c] = (float)(j->b[c] - m.mean * r * j->w[c]);
    }
}

static void apply_task(void *ctx, int task, int worker)
{
    const GroupJob *j = ctx;
    int first = task % j->n_blocks * BLOCK, rows = min(BLOCK, j->pixels - first);
    size_t picture = (size_t)(task / j->n_blocks), at = (picture * j->pixels + first) * j->c;
    const float *scale = j->scale + picture * j->c, *shift = j->shift + picture * j->c;
    (void)worker;
    for (int i = 0; i < rows; i++, at += j->c) {
        kernel.affine(j->out + at, j->in + at, scale, shift, j->c);
        if (j->act) kernel.act[j->act](j->out + at, j->c);
    }
}

void group_normalize(float *out, const float *in, const float *w, const float *b, int n,
                     int pixels, int c, int groups, float eps, Act act)
{
    size_t mark = scratch_mark();
    GroupJob j = { .out = out, .in = in, .w = w, .b = b, .n = n, .pixels = pixels, .c = c,
                   .groups = groups, .n_blocks = ceil_div(pixels, BLOCK), .eps = eps, .act = act };
    j.part = scratch_bytes((size_t)n * j.n_blocks * groups * sizeof *j.part);
    j.scale = scratch_bytes((size_t)n * c * sizeof *j.scale);
    j.shift = scratch_bytes((size_t)n * c * sizeof *j.shift);
    j.work = scratch_bytes((size_t)n_threads() * 3 * c * sizeof *j.work);
    parallel_for(n * j.n_blocks, block_task, &j);
    parallel_for(n * groups, group_task, &j);
    parallel_for(n * j.n_blocks, apply_task, &j);
    scratch_reset(mark);
}
