/* conv.c -- convolutions: which algorithm, and the one for all of them, a matrix product whose left
 * matrix exists only in pieces.
 *
 *   1x1, stride 1                 a linear layer on the pixels: gemm
 *   3x3, stride 1                 mostly Winograd's algorithm, a quarter of the multiplications:
 *                                 winograd.c
 *   all others                    here
 *
 * Each pixel of the output is a row, and what the kernel covers there, c_in channels of each tap
 * (place of the kernel), is that row of a matrix A [n*out_h*out_w, kh*kw*c_in]: A W^T is the
 * convolution (Chellapilla 2006 called it im2col). A has each pixel kh*kw/stride^2 times, too much
 * for any memory, so only the tile_m rows that the micro-kernel multiplies next are gathered:
 *
 *   W [c_out, c_in, taps] -> panels [tap][channel][tile_n]   packed once for all rows of a task
 *   in [h, w, c_in]       -> A [tile_m, tap * channel]       gathered, 18 KiB of the first cache
 *   sums [rows, cols] += A . panels                          over blocks of taps and channels
 *   sums -> out                                              bias, activation, residual
 *
 * Gathering costs a load and a store for 16 numbers that are then multiplied with 64 columns each:
 * 16 * 64 / 16 = 64 multiply-adds of vectors. It is nowhere near the limit.
 *
 * A transposed convolution of stride s is s*s convolutions of stride 1: the outputs whose row and
 * column leave the same remainders (a phase) see the same taps, every s-th of the kernel.
 *
 * Groups are convolutions of their own, and few channels fill few columns of a tile: such layers,
 * depthwise ones most of all, are right but slow. None of the models meant to run here has one.
 *
 * Easy to get wrong:
 *   - Along k the taps come first, then the channels, since the picture has its channels together.
 *     W has its taps together; panels are packed as W is and their rows then change places.
 *   - The kernels' bits: all sums run over the same blocks in the same order, whatever n is and
 *     however the rows are split. What lies outside the picture is added as zeros.
 *   - With e.add, out holds the residual: only finished sums may meet it. */
#include "kernels.h"

#include <string.h>

enum {
    K_BLOCK  = 768,         /* numbers of a row of A at a time: 6 * 768 * 4 = 18 KiB */
    STRIP    = 64,          /* columns of a task: a panel of 64 * 768 * 4 = 192 KiB in L2 */
    MOST_ROWS = 1024,       /* rows of a task: sums of 1024 * 64 * 4 = 256 KiB beside it */
    PACK_ROWS = 128         /* rows of a panel that are packed at a time: 32 KiB */
};

/* A place of the kernel: the input pixel it sees, from where the output pixel is; which in W. */
typedef struct { int dy, dx, index; } Tap;

/* One phase of one group: m output pixels, n_out columns, n_taps * n_in numbers along k. */
typedef struct {
    const Convolution *c;
    const Tap *tap;
    int n_taps, n_in, n_out;
    int group, y0, x0;      /* output pixels (y0 + i*up, x0 + j*up) ... */
    int h, w, m;            /* ... i < h, j < w, of each picture */
    int up, down;           /* ... see input pixels (i*down + dy, j*down + dx) */
    int tap_block, c_block; /* of k */
    int cols, n_strips, row_part;
    size_t w_size;          /* bytes of an element of W */
    float *work;            /* one workspace per worker */
    size_t work_size;       /* floats of it */
} Phase;

/* A part of k: taps t .. t+n_t-1, channels c .. c+n_c-1 of the group. */
typedef struct { int t, n_t, c, n_c; } Block;

/* === Panels of weights ======================================================================== */

/* Rows (channel, tap) of T, as W has them -> rows (tap, channel) of the panel; the first row of T
 * is channel c0 of the block. */
static void change_places(float *P, const float *T, Block b, int c0, int n_c)
{
    size_t row = (size_t)kernel.tile_n;
    for (int c = 0; c < n_c; c++)
        for (int t = 0; t < b.n_t; t++)
            memcpy(P + ((size_t)t * b.n_c + c0 + c) * row, T + ((size_t)c * b.n_t + t) * row,
                   row * sizeof *P);
}

/* The panel of columns j .. j+nr-1. Taps stand in W in the order of p->tap. */
static void pack(float *P, float *T, const Phase *p, Block b, int j, int nr)
{
    int taps = p->n_taps, ldw = p->n_in * taps;
    int step = b.n_t < taps ? 1 : 1 + (PACK_ROWS - 1) / taps;
    size_t row = (size_t)(p->group * p->n_out + j) * ldw;
    for (int c = 0; c < b.n_c; c += step) {
        int n_c = min(step, b.n_c - c);
        size_t at = row + (size_t)(b.c + c) * taps + b.t;
        kernel.pack[p->c->type](T, (const char *)p->c->w + at * p->w_size, ldw, nr, n_c * b.n_t);
        change_places(P, T, b, c, n_c);
    }
}

/* The same of W [c_in, n_out, taps]: the columns already lie in rows, only tap by tap. */
static void pack_transposed(float *P, float *T, const Phase *p, Block b, int j, int nr)
{
    int taps = p->c->kh * p->c->kw, tile_n = kernel.tile_n;
    for (int c = 0; c < b.n_c; c++) {
        size_t at = ((size_t)(p->group * p->n_in + b.c + c) * p->n_out + j) * taps;
        kernel.cvt[p->c->type](T, (const char *)p->c->w + at * p->w_size, nr * taps);
        for (int t = 0; t < b.n_t; t++) {
            float *to = P + ((size_t)t * b.n_c + c) * tile_n;
            for (int i = 0; i < tile_n; i++)
                to[i] = i < nr ? T[(size_t)i * taps + p->tap[b.t + t].index] : 0;
        }
    }
}

/* === Rows of the picture ====================================================================== */

/* n_t taps side by side, n_c channels each, of row iy from pixel ix: what is outside is 0. */
static void gather_run(float *A, const Phase *p, const float *picture, int iy, int ix, Block b)
{
    const Convolution *c = p->c;
    size_t n = (size_t)b.n_c;
    const float *from = picture + (size_t)p->group * p->n_in + b.c;
    for (int t = 0; t < b.n_t; t++, A += n) {
        if (iy < 0 || iy >= c->h || ix + t < 0 || ix + t >= c->width) {
            memset(A, 0, n * sizeof *A);
            continue;
        }
        /* where a pixel has no other channels, all taps inside are one piece */
        int many = n == (size_t)c->c_in ? min(b.n_t - t, c->width - (ix + t)) : 1;
        memcpy(A, from + ((size_t)iy * c->width + ix + t) * c->c_in, n * many * sizeof *A);
        A += n * (many - 1);
        t += many - 1;
    }
}

/* Taps from t that lie side by side in the picture, at most `most`. */
static int run_length(const Tap *t, int most)
{
    int n = 1;
    while (n < most && t[n].dy == t[0].dy && t[n].dx == t[0].dx + n) n++;
    return n;
}

/* Rows i .. i+rows-1 of the matrix: A [rows, n_t * n_c]. */
static void gather(float *A, const Phase *p, Block b, int i, int rows)
{
    const Convolution *c = p->c;
    int y = i / p->w % p->h, x = i % p->w;
    const float *picture = c->in + (size_t)(i / p->w / p->h) * c->h * c->width * c->c_in;
    for (; rows > 0; rows--) {
        for (int t = 0, n; t < b.n_t; t += n) {
            const Tap *tap = p->tap + b.t + t;
            n = run_length(tap, b.n_t - t);
            gather_run(A + (size_t)t * b.n_c, p, picture, y * p->down + tap->dy,
                       x * p->down + tap->dx, (Block){ b.t + t, n, b.c, b.n_c });
        }
        A += (size_t)b.n_t * b.n_c;
        if (++x < p->w) continue;
        x = 0;
        if (++y < p->h) continue;
        y = 0;
        picture += (size_t)c->h * c->width * c->c_in;
    }
}

/* === The product ============================================================================== */

/* Finishes the sums S of rows i .. i+rows-1, columns j .. j+cols-1 of the group. */
static void finish(const Phase *p, float *S, int i, int rows, int j, int cols)
{
    const Convolution *c = p->c;
    size_t channel = (size_t)p->group * p->n_out + j;
    for (; rows > 0; rows--, i++, S += p->cols) {
        size_t y = (size_t)(p->y0 + i / p->w % p->h * p->up);
        size_t x = (size_t)(p->x0 + i % p->w * p->up);
        size_t picture = (size_t)(i / p->w / p->h);
        float *out = c->out + ((picture * c->out_h + y) * c->out_w + x) * c->c_out + channel;
        finish_row(out, S, &c->e, NULL, (int)channel, cols);
    }
}

/* Adds block b to the sums S [i1 - i0, cols] of rows i0 .. i1-1. */
static void multiply(float *S, float *A, const float *P, const Phase *p, Block b, int i0, int i1,
                     int cols)
{
    int k = b.n_t * b.n_c;
    for (int i = i0; i < i1; i += kernel.tile_m) {
        int rows = min(kernel.tile_m, i1 - i);
        gather(A, p, b, i, rows);
        for (int j = 0; j < cols; j += kernel.tile_n)
            kernel.tile(S + (size_t)(i - i0) * p->cols + j, p->cols, A, k, P + (size_t)j * k, rows,
                        min(kernel.tile_n, cols - j), k, b.t + b.c > 0, NULL);
    }
}

static int k_of(const Phase *p)    { return p->tap_block * p->c_block; }
static int temp_rows(const Phase *p)
{
    int whole = p->c->kh * p->c->kw;
    return p->c->transposed ? whole : PACK_ROWS + whole;
}

static void phase_task(void *ctx, int task, int worker)
{
    const Phase *p = ctx;
    int j = task % p->n_strips * p->cols, cols = min(p->cols, p->n_out - j);
    int i0 = task / p->n_strips * p->row_part, i1 = min(i0 + p->row_part, p->m);
    float *P = p->work + worker * p->work_size;                 /* [panels][k][tile_n] */
    float *S = P + (size_t)p->cols * k_of(p);                   /* [row_part][cols] */
    float *A = S + (size_t)p->cols * p->row_part;               /* [tile_m][k] */
    float *T = A + (size_t)kernel.tile_m * k_of(p);             /* [temp_rows][tile_n] */
    for (int c = 0; c < p->n_in; c += p->c_block)
        for (int t = 0; t < p->n_taps; t += p->tap_block) {
            Block b = { t, min(p->tap_block, p->n_taps - t), c, min(p->c_block, p->n_in - c) };
            for (int v = 0; v < cols; v += kernel.tile_n)
                (p->c->transposed ? pack_transposed : pack)(P + (size_t)v * b.n_t * b.n_c, T, p, b,
                    j + v, min(kernel.tile_n, cols - v));
            multiply(S, A, P, p, b, i0, i1, cols);
        }
    finish(p, S, i0, i1 - i0, j, cols);
}

/* Blocks of k: all taps and some channels, or all channels and some taps of a large kernel; at
 * least 16 channels, which the picture has side by side, if there are so many. */
static void choose_blocks(Phase *p)
{
    int c = K_BLOCK / p->n_taps;
    p->c_block = min(p->n_in, c > 16 ? c / 16 * 16 : 16);
    p->tap_block = min(p->n_taps, K_BLOCK / p->c_block);
}

static void run_phase(Phase *p)
{
    size_t mark = scratch_mark();
    p->m = p->c->n * p->h * p->w;
    choose_blocks(p);
    p->cols = round_up(min(STRIP, p->n_out), kernel.tile_n);
    p->n_strips = ceil_div(p->n_out, p->cols);
    /* at least four tasks for each thread, if that leaves 96 rows or more to a task */
    int parts = min(ceil_div(4 * n_threads(), p->n_strips), ceil_div(p->m, 96));
    p->row_part = min(round_up(ceil_div(p->m, parts), kernel.tile_m), MOST_ROWS);
    size_t size = (size_t)p->cols * (k_of(p) + p->row_part) + (size_t)kernel.tile_m * k_of(p)
                + (size_t)temp_rows(p) * kernel.tile_n;
    p->work_size = (size + 15) / 16 * 16;
    p->work = scratch_bytes((size_t)n_threads() * p->work_size * sizeof *p->work);
    parallel_for(p->n_strips * ceil_div(p->m, p->row_part), phase_task, p);
    scratch_reset(mark);
}

/* === Phases =================================================================================== */

/* The taps that outputs at y = y0, x = x0 (modulo the stride, if transposed) see, in the order of
 * the picture. Returns how many. */
static int choose_taps(Tap *tap, const Convolution *c, int y0, int x0)
{
    int n = 0, s = c->stride;
    if (!c->transposed) {
        for (int i = 0; i < c->kh * c->kw; i++)
            tap[n++] = (Tap){ i / c->kw - c->pad_top, i % c->kw - c->pad_left, i };
        return n;
    }
    for (int ky = c->kh - 1; ky >= 0; ky--)
        for (int kx = c->kw - 1; kx >= 0; kx--) {
            int y = y0 + c->pad_top - ky, x = x0 + c->pad_left - kx;
            if (y % s == 0 && x % s == 0) tap[n++] = (Tap){ y / s, x / s, ky * c->kw + kx };
        }
    return n;
}

/* Outputs that no pixel of the input reaches: the kernel is smaller than the stride. */
static void fill_phase(Phase *p)
{
    enum { COLS = 256 };
    float zero[COLS];
    p->cols = COLS;
    for (int i = 0; i < p->c->n * p->h * p->w; i++)
        for (int j = 0; j < p->n_out; j += COLS) {
            memset(zero, 0, sizeof zero);
            finish(p, zero, i, 1, j, min(COLS, p->n_out - j));
        }
}

static void convolve_direct(const Convolution *c)
{
    size_t mark = scratch_mark();
    int up = c->transposed ? c->stride : 1;
    Tap *tap = scratch_bytes((size_t)c->kh * (size_t)c->kw * sizeof *tap);
    for (int y0 = 0; y0 < min(up, c->out_h); y0++)
        for (int x0 = 0; x0 < min(up, c->out_w); x0++)
            for (int group = 0; group < c->groups; group++) {
                Phase p = {
                    .c = c, .tap = tap, .n_taps = choose_taps(tap, c, y0, x0),
                    .n_in = c->c_in / c->groups, .n_out = c->c_out / c->groups, .group = group,
                    .y0 = y0, .x0 = x0, .up = up, .down = c->transposed ? 1 : c->stride,
                    .h = ceil_div(c->out_h - y0, up), .w = ceil_div(c->out_w - x0, up),
                    .w_size = c->type == F32 ? 4 : 2,
                };
                if (p.n_taps) run_phase(&p);
                else fill_phase(&p);
            }
    scratch_reset(mark);
}

/* === Which algorithm ========================================================================== */

static bool is_linear(const Convolution *c)
{
    return c->kh == 1 && c->kw == 1 && c->stride == 1 && c->groups == 1 && !c->transposed &&
           !c->pad_top && !c->pad_left && c->out_h == c->h && c->out_w == c->width;
}

void convolve(const Convolution *c)
{
    if (is_linear(c))
        gemm(c->out, c->c_out, c->in, c->c_in, c->w, c->type, c->n * c->h * c->width, c->c_out,
             c->c_in, c->h * c->width, c->e);
    else if (winograd_wins(c))
        convolve_winograd(c);
    else
        convolve_direct(c);
}
