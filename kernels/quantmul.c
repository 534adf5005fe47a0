/* quantmul.c -- C = A W^T where W is quantised (quant_ref.c): how the product is cut into pieces.
 *
 *   A [m, k]  -> 8-bit blocks        once for the whole product: a row is read for every row of W
 *
 *   few rows (decoding)              W is read once, as stored, at the speed of memory. A task is
 *                                    some rows of blocks that follow each other in memory.
 *   many rows (images, prompts)      arithmetic is the limit.
 *     W  -> panels                   q_tile_n rows of W, B_BLOCK blocks of them: 4 bits become 8,
 *                                    scales f32, in the order of the registers. It stays in the
 *                                    first-level cache (32 rows: 18 KiB) while ...
 *     A  -> tiles                    ... all rows pass by, q_tile_m at a time, interleaved.
 *     C tile += A tile . P           integers in registers for a block, then floats
 *     C  -> epilogue                 as in matmul.c
 *
 * Easy to get wrong:
 *   - Here the order of a sum is the same for few rows and for many, and integers are exact: the
 *     choice between the two may follow from m, and may change, without changing a bit.
 *   - The last tile has fewer rows: its mr, the interleaving, is smaller as well.
 *   - With e.add, C holds the residual: sums of the first blocks must not pass through it. */
#include "kernels.h"

enum { B_BLOCK = 16 };      /* blocks of k in a panel */

typedef struct {
    float *C;
    const float *A;
    const char *W;
    DType type;
    int ldc, lda, m, n, k;
    Epilogue e;
    char *R;                /* A, rounded */
    int mr;                 /* rows that are interleaved in it */
    int n_blocks;           /* of a row of W */
    size_t w_row;           /* bytes of 8 rows of W, */
    size_t r_row;           /* of mr rows of R */
    int cols, n_strips;     /* columns of a task; of how many such C is made */
    int row_part;           /* rows of a task */
    char *work;             /* one workspace per worker */
    size_t work_size;
} Product;

static void finish(const Product *p, float *S, int lds, int i0, int j0, int rows, int cols)
{
    for (int i = i0; i < i0 + rows; i++, S += lds)
        finish_row(p->C + (size_t)i * p->ldc + j0, S, &p->e,
                   p->e.mul ? p->e.mul + (size_t)i * p->n + j0 : NULL, j0, cols);
}

static void round_task(void *ctx, int t, int worker)
{
    const Product *p = ctx;
    int i = t * p->mr, rows = min(p->mr, p->m - i);
    (void)worker;
    kernel.q_round(p->R + (size_t)t * p->r_row, p->A + (size_t)i * p->lda, p->lda, rows, rows,
                   p->k);
}

static void few_task(void *ctx, int task, int worker)
{
    const Product *p = ctx;
    int j = task * p->cols, cols = min(p->cols, p->n - j);
    float *S = p->e.add ? (float *)(p->work + worker * p->work_size) : p->C + j;
    int lds = p->e.add ? p->cols : p->ldc;
    kernel.q_few[p->type - Q8](S, lds, p->R, p->W + (size_t)(j / Q_ROWS) * p->w_row, p->m, cols,
                               p->k);
    finish(p, S, lds, 0, j, p->m, cols);
}

/* Columns j .. j+cols-1 of rows i0 .. i1-1: panels of n_blocks blocks from b on. */
static void add_blocks(const Product *p, float *S, int lds, char *panels, int j, int cols, int i0,
                       int i1, int b, int n_blocks)
{
    int tile_n = kernel.q_tile_n;
    size_t panel = (size_t)B_BLOCK * (size_t)tile_n * (Q_COLS + 4);
    for (int c = 0; c < cols; c += tile_n)
        kernel.q_pack[p->type - Q8](panels + (size_t)(c / tile_n) * panel,
                                    p->W + (size_t)((j + c) / Q_ROWS) * p->w_row +
                                        (size_t)b * quant_bytes(p->type, 1, 1),
                                    p->w_row, min(tile_n, cols - c), n_blocks);
    for (int i = i0; i < i1; i += p->mr) {
        int rows = min(p->mr, i1 - i);
        const char *r = p->R + (size_t)(i / p->mr) * p->r_row + (size_t)b * rounded_block(rows);
        for (int c = 0; c < cols; c += tile_n)
            kernel.q_tile(S + (size_t)(i - i0) * lds + c, lds, r,
                          panels + (size_t)(c / tile_n) * panel, rows, min(tile_n, cols - c),
                          n_blocks, b > 0);
    }
}

static void many_task(void *ctx, int task, int worker)
{
    const Product *p = ctx;
    int j = task % p->n_strips * p->cols, cols = min(p->cols, p->n - j);
    int i0 = task / p->n_strips * p->row_part, i1 = min(i0 + p->row_part, p->m);
    float *S = (float *)(p->work + worker * p->work_size);      /* [row_part][cols] */
    char *panels = (char *)(S + (size_t)p->row_part * p->cols);
    bool direct = !p->e.add && p->n_blocks <= B_BLOCK;
    int lds = direct ? p->ldc : p->cols;
    if (direct) S = p->C + (size_t)i0 * p->ldc + j;
    for (int b = 0; b < p->n_blocks; b += B_BLOCK)
        add_blocks(p, S, lds, panels, j, cols, i0, i1, b, min(B_BLOCK, p->n_blocks - b));
    finish(p, S, lds, i0, j, i1 - i0, cols);
}

/* Rounds A, with mr rows together. */
static void round_rows(Product *p, int mr)
{
    p->mr = mr;
    p->r_row = rounded_bytes(mr, p->k);
    int tiles = ceil_div(p->m, mr);
    p->R = scratch_bytes((size_t)tiles * p->r_row);
    if (p->m > 16) parallel_for(tiles, round_task, p);
    else for (int t = 0; t < tiles; t++) round_task(p, t, 0);
}

static void run(Product *p, TaskFn *task, int n_tasks, size_t work_size)
{
    p->work_size = (work_size + 63) / 64 * 64;
    if (work_size) p->work = scratch_bytes((size_t)n_threads() * p->work_size);
    parallel_for(n_tasks, task, p);
}

void gemm_quant(float *C, int ldc, const float *A, int lda, const void *W, DType type,
                int m, int n, int k, Epilogue e)
{
    size_t mark = scratch_mark();
    Product p = { .C = C, .A = A, .W = W, .type = type, .ldc = ldc, .lda = lda, .m = m, .n = n,
                  .k = k, .e = e, .n_blocks = ceil_div(k, Q_COLS),
                  .w_row = quant_bytes(type, 1, k) };
    if (m <= kernel.q_few_rows) {
        round_rows(&p, 1);
        /* two tasks for each thread: long streams, which mostly end together */
        int strips = ceil_div(n, Q_ROWS);
        p.cols = Q_ROWS * ceil_div(strips, min(2 * n_threads(), ceil_div(strips, 8)));
        run(&p, few_task, ceil_div(n, p.cols), e.add ? (size_t)m * (size_t)p.cols * 4 : 0);
    } else {
        round_rows(&p, kernel.q_tile_m);
        p.cols = kernel.q_tile_n;
        p.n_strips = ceil_div(n, p.cols);
        /* at least four tasks for each thread, if that leaves 96 rows or more to a task */
        int parts = min(ceil_div(4 * n_threads(), p.n_strips), ceil_div(m, 96));
        p.row_part = round_up(ceil_div(m, parts), p.mr);
        size_t sums = (size_t)p.row_part * (size_t)p.cols * 4;
        run(&p, many_task, p.n_strips * ceil_div(m, p.row_part),
            sums + (size_t)B_BLOCK * (size_t)p.cols * (Q_COLS + 4));
    }
    scratch_reset(mark);
}
