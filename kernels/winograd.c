/* winograd.c -- 3x3 convolutions of stride 1 with a quarter of the multiplications: F(4x4, 3x3) of
 * Winograd's minimal filtering (arXiv 1509.09308).
 *
 * A filter of 3 numbers over a row is the product of two polynomials, and a product of polynomials
 * can be had by values at points: value by value, then back to coefficients. 4 outputs take 6
 * pixels and 6 points: 6 multiplications in place of 12. In two dimensions a tile of 4x4 outputs
 * takes 6x6 pixels and 36 multiplications in place of 144. For one tile and one pair of channels
 *
 *   Y = A^T [(G w G^T) * (B^T d B)] A      d 6x6 pixels, w 3x3, Y 4x4, * number by number
 *
 * and the sum over the input channels can be taken before A: at each of the 36 points a matrix
 * product over channels, M = V U, of all tiles by all outputs.
 *
 *   in [h, w, c_in]     -> V [k block][36][tile][k]        6x6 pixels, 4 apart; 0 outside
 *   W [c_out, c_in, 9]  -> panels [c_in * 9][tile_n] -> U [36][k][tile_n]    block by block of k
 *   V, U                -> M [36][tile][column]            36 products, the micro-kernel of gemm
 *   M                   -> 4x4 pixels -> bias, activation, residual -> out
 *
 * Blocks: tiles such that V has at most 12 MiB, for the third-level cache; in a task a strip of 64
 * outputs, of which U of 64 channels (590 KiB) stays in the second. U is made anew for every call
 * (and every block and task): as a whole, kept, it would have 4 (f16: 8) times the size of W.
 *
 * What it comes to (Zen 4, two cores, f16 weights, two pictures; percent of the multiply-adds that
 * the plain sum would need at full speed): 320 channels at 64x64 pixels 290 %, 640 at 32x32 310 %,
 * 1280 at 16x16 270 %, 1280 at 8x8 170 %. Of the last, 11 ms, the products are half; packing the
 * weights, which come from memory in short pieces, takes 3 ms and G w G^T 2.5, for 8 tiles only.
 *
 * The error. B and A have no rounded numbers in them, and the usual points 0, +-1, +-2 give 2.3
 * times the error of these: 0, +-5/8, +-3/2, infinity, the best of those tried that are exact.
 * With u = 2^-24, |x| the absolute values and T = |A|^T [sum of (|G||w||G|^T) * (|B|^T|d||B|)] |A|,
 *
 *   |Y - exact| <= gamma(c_in + 30) T,       gamma(n) = n u / (1 - n u)
 *
 * pixel by pixel: 8 roundings in each of V and U, 10 in A, c_in + 2 in the products, 2 after. And
 * T <= 175 max|d| sum|w|: that is the worst that signs can do. Random ones do 1.6 times the error
 * of the direct sum at 256 channels (test/conv.c measures it, and holds T against every number).
 *
 * Easy to get wrong:
 *   - Tiles hang over the edges on all sides. Pixels outside are rows of zeros; outputs outside are
 *     not written.
 *   - With e.add, out holds the residual; it meets the 4x4 pixels, not M.
 *   - What is summed in which order depends on c_in alone. */
#include "kernels.h"

#include <string.h>

enum {
    K_BLOCK   = 64,         /* channels of a block: U of 36 * 64 * 64 * 4 = 590 KiB in L2 */
    STRIP     = 64,         /* columns of a task */
    V_BYTES   = 12 << 20,
    LEAST_TILES = 48,       /* of a task, for which U is made */
    PACK_CHANNELS = 16,     /* 16 * 9 rows of a panel at a time: 36 KiB */
    PAD       = 16,         /* floats between the 36: no two start in the same set of a cache */
    TILES_IN_TASK = 4       /* of the transform of the picture */
};

typedef struct {
    const Convolution *c;
    int down, across, m;    /* tiles of a picture, and of all */
    int first, n_tiles;     /* tiles of the block in hand */
    int cols, n_strips;     /* columns of a strip; strips */
    int row_part;           /* tiles of a task */
    int k_block;
    const float *zeros;     /* c_in of them: a pixel outside */
    float *V;
    size_t ld_v, ld_u, ld_m;                  /* from one of the 36 to the next */
    float *work;            /* one workspace per worker */
    size_t work_size;       /* floats of it */
} Winograd;

/* === The picture ============================================================================== */

/* Where tile t is: its picture, its first output. */
typedef struct { int picture, y, x; } Place;

static Place place_of(const Winograd *w, int t)
{
    int per = w->down * w->across;
    return (Place){ t / per, t % per / w->across * 4, t % w->across * 4 };
}

/* The 36 pixels under tile t. */
static void pixels_of(const float **px, const Winograd *w, int t)
{
    const Convolution *c = w->c;
    Place at = place_of(w, t);
    const float *picture = c->in + (size_t)at.picture * c->h * c->width * c->c_in;
    for (int i = 0; i < 36; i++) {
        int y = at.y + i / 6 - c->pad_top, x = at.x + i % 6 - c->pad_left;
        bool inside = y >= 0 && y < c->h && x >= 0 && x < c->width;
        px[i] = inside ? picture + ((size_t)y * c->width + x) * c->c_in : w->zeros;
    }
}

static void in_task(void *ctx, int task, int worker)
{
    const Winograd *w = ctx;
    const float *px[36];
    (void)worker;
    for (int t = task * TILES_IN_TASK; t < min((task + 1) * TILES_IN_TASK, w->n_tiles); t++) {
        pixels_of(px, w, w->first + t);
        float *V = w->V + (size_t)t * w->k_block;
        for (int k = 0; k < w->c->c_in; k += w->k_block, V += 36 * w->ld_v)
            kernel.wino_in(V, w->ld_v, px, (size_t)k, min(w->k_block, w->c->c_in - k));
    }
}

/* === The weights ============================================================================== */

/* U of channels k .. k+n-1, columns j .. j+cols-1: [36][panel][n][tile_n]; T is room for a piece of
 * a panel. */
static void weights(float *U, float *T, const Winograd *w, int k, int n, int j, int cols)
{
    const Convolution *c = w->c;
    int ldw = c->c_in * 9, tile_n = kernel.tile_n;
    for (int v = 0; v < cols; v += tile_n, U += (size_t)n * tile_n)
        for (int i = 0; i < n; i += PACK_CHANNELS) {
            int m = min(PACK_CHANNELS, n - i);
            size_t at = (size_t)(j + v) * ldw + (size_t)(k + i) * 9;
            kernel.pack[c->type](T, (const char *)c->w + at * (c->type == F32 ? 4 : 2), ldw,
                                 min(tile_n, cols - v), m * 9);
            for (int p = 0; p < m; p++)
                kernel.wino_w(U + (size_t)(i + p) * tile_n, w->ld_u, T + (size_t)p * 9 * tile_n,
                              tile_n);
        }
}

/* === The products ============================================================================= */

/* M += V U, of k channels, tiles i0 .. i0+n-1 of the block, at each of the 36 points. */
static void products(float *M, const float *V, const float *U, const Winograd *w, int n, int k,
                     int cols, bool accumulate)
{
    for (int point = 0; point < 36; point++, M += w->ld_m, V += w->ld_v, U += w->ld_u)
        for (int i = 0; i < n; i += kernel.tile_m)
            for (int j = 0; j < cols; j += kernel.tile_n)
                kernel.tile(M + (size_t)i * w->cols + j, w->cols, V + (size_t)i * w->k_block,
                            w->k_block, U + (size_t)j * k, min(kernel.tile_m, n - i),
                            min(kernel.tile_n, cols - j), k, accumulate, NULL);
}

/* One tile: Y [16, cols] -> the outputs that exist. */
static void finish(float *Y, const Winograd *w, int t, int j, int cols)
{
    const Convolution *c = w->c;
    Place at = place_of(w, t);
    for (int i = 0; i < 16; i++, Y += cols) {
        int y = at.y + i / 4, x = at.x + i % 4;
        if (y >= c->out_h || x >= c->out_w) continue;
        float *out = c->out + (((size_t)at.picture * c->out_h + y) * c->out_w + x) * c->c_out + j;
        finish_row(out, Y, &c->e, NULL, j, cols);
    }
}

static void product_task(void *ctx, int task, int worker)
{
    const Winograd *w = ctx;
    int j = task % w->n_strips * w->cols, cols = min(w->cols, w->c->c_out - j);
    int t = task / w->n_strips * w->row_part, n = min(w->row_part, w->n_tiles - t);
    float *U = w->work + worker * w->work_size;                 /* [36][panels][k][tile_n] */
    float *M = U + 36 * w->ld_u;                                /* [36][row_part][cols] */
    float *T = M + 36 * w->ld_m;                                /* [channels][9][tile_n] */
    float *Y = T + (size_t)PACK_CHANNELS * 9 * kernel.tile_n;   /* [16][cols] */
    const float *V = w->V + (size_t)t * w->k_block;
    for (int k = 0; k < w->c->c_in; k += w->k_block, V += 36 * w->ld_v) {
        int n_k = min(w->k_block, w->c->c_in - k);
        weights(U, T, w, k, n_k, j, cols);
        products(M, V, U, w, n, n_k, cols, k > 0);
    }
    for (int i = 0; i < n; i++) {
        kernel.wino_out(Y, M + (size_t)i * w->cols, w->ld_m, cols);
        finish(Y, w, w->first + t + i, j, cols);
    }
}

/* === The whole ================================================================================ */

/* Even blocks of k, of tiles, and at least four tasks for each thread if they are large enough. */
static void choose_blocks(Winograd *w)
{
    int c_in = w->c->c_in, c_out = w->c->c_out;
    int most = (int)(V_BYTES / (36 * sizeof(float)) / (size_t)c_in);
    most = most < LEAST_TILES ? LEAST_TILES : most;
    w->k_block = ceil_div(c_in, ceil_div(c_in, K_BLOCK));
    w->cols = round_up(min(STRIP, c_out), kernel.tile_n);
    w->n_strips = ceil_div(c_out, w->cols);
    w->n_tiles = min(w->m, round_up(ceil_div(w->m, ceil_div(w->m, most)), kernel.tile_m));
    int parts = min(ceil_div(4 * n_threads(), w->n_strips), ceil_div(w->n_tiles, LEAST_TILES));
    w->row_part = min(w->n_tiles, round_up(ceil_div(w->n_tiles, parts), kernel.tile_m));
    w->ld_v = (size_t)w->n_tiles * w->k_block + PAD;
    w->ld_u = (size_t)w->cols * w->k_block + PAD;
    w->ld_m = (size_t)w->row_part * w->cols + PAD;
}

bool winograd_wins(const Convolution *c)
{
    int tiles = ceil_div(c->out_h, 4) * ceil_div(c->out_w, 4);
    return c->kh == 3 && c->kw == 3 && c->stride == 1 && c->groups == 1 && !c->transposed &&
           !kernel.exact && c->c_in >= 16 && 5 * tiles <= c->out_h * c->out_w;
}

void convolve_winograd(const Convolution *c)
{
    size_t mark = scratch_mark();
    Winograd w = { .c = c, .down = ceil_div(c->out_h, 4), .across = ceil_div(c->out_w, 4) };
    w.m = c->n * w.down * w.across;
    choose_blocks(&w);
    float *zeros = scratch_bytes((size_t)c->c_in * sizeof *zeros);
    memset(zeros, 0, (size_t)c->c_in * sizeof *zeros);
    w.zeros = zeros;
    w.V = scratch_bytes((size_t)ceil_div(c->c_in, w.k_block) * 36 * w.ld_v * sizeof *w.V);
    size_t size = 36 * (w.ld_u + w.ld_m) + (size_t)PACK_CHANNELS * 9 * kernel.tile_n
                + (size_t)16 * w.cols;
    w.work_size = (size + 15) / 16 * 16;
    w.work = scratch_bytes((size_t)n_threads() * w.work_size * sizeof *w.work);
    int block = w.n_tiles;
    for (; w.first < w.m; w.first += block) {
        w.n_tiles = min(block, w.m - w.first);
        parallel_for(ceil_div(w.n_tiles, TILES_IN_TASK), in_task, &w);
        parallel_for(w.n_strips * ceil_div(w.n_tiles, w.row_part), product_task, &w);
    }
    scratch_reset(mark);
}
