/* matmul.c -- C = A W^T: how a linear layer is cut into pieces. The arithmetic itself is in the
 * micro-kernels of the instruction set.
 *
 *   few rows (decoding)         each weight is used a handful of times: the memory is the limit.
 *     W [n, k], as stored       Strips of W are read once and multiplied with all rows of A.
 *
 *   many rows (images, prompts) each weight is used hundreds of times: arithmetic is the limit.
 *     W  -> panels              A strip of W, cut along k into blocks of at most K_BLOCK, is
 *                               transposed and converted to f32 once: P [k block, tile_n], which
 *                               stays in the second-level cache while ...
 *     A  -> tiles               ... all rows of A pass by, tile_m at a time, read where they are.
 *     C tile += A tile . P      tile_m x tile_n sums in registers.
 *     C  -> epilogue            bias, activation, gate, residual, while the tile is in the cache.
 *
 * A task of parallel_for is one strip of W (and, if there are too few strips for the threads, a
 * part of the rows): a thread packs what it uses, so threads never wait for each other.
 *
 * Easy to get wrong:
 *   - The order in which an element of C is summed depends on k alone (and on few or many, decided
 *     by the rows of one item): the same bits for any number of threads and items.
 *   - With e.add, C holds the residual: sums of the first k blocks must not pass through it. */
#include "kernels.h"

enum {
    FEW_ROWS = 16,          /* rows of an item up to which packing costs more than it brings */
    K_BLOCK  = 768,         /* tile_m rows of A in L1: 6 * 768 * 4 = 18 KiB */
    STRIP    = 64,          /* columns of a task: a panel of 64 * 768 * 4 = 192 KiB in L2 */
    FEW_BYTES = 128 << 10   /* of W, in a task of the few-row product */
};

typedef struct {
    float *C;
    const float *A;
    const char *W;
    size_t w_size;          /* bytes of an element of W */
    DType type;
    int ldc, lda, m, n, k;
    Epilogue e;
    int cols, n_strips;     /* columns of a strip; strips of W */
    int row_part;           /* rows of a task */
    float *work;            /* one workspace per worker */
    size_t work_size;       /* floats of it */
} Product;

/* Finishes the sums S [rows, cols] and puts them at row i0, column j0 of C; S may be there. */
static void finish(const Product *p, float *S, int lds, int i0, int j0, int rows, int cols)
{
    const Epilogue *e = &p->e;
    for (int i = 0; i < rows; i++) {
        float *s = S + (size_t)i * lds;
        if (e->bias) kernel.add(s, e->bias + j0, cols);
        if (e->act) kernel.act[e->act](s, cols);
        if (e->mul) kernel.mul(s, e->mul + (size_t)(i0 + i) * p->n + j0, cols);
        if (e->add) kernel.add(p->C + (size_t)(i0 + i) * p->ldc + j0, s, cols);
    }
}

static void few_task(void *ctx, int task, int worker)
{
    const Product *p = ctx;
    int j = task * p->cols, cols = min(p->cols, p->n - j);
    float *S = p->e.add ? p->work + worker * p->work_size : p->C + j;
    int lds = p->e.add ? p->cols : p->ldc;
    kernel.few[p->type](S, lds, p->A, p->lda, p->W + (size_t)j * p->k * p->w_size, p->k,
                        p->m, cols, p->k);
    finish(p, S, lds, 0, j, p->m, cols);
}

static void many_task(void *ctx, int task, int worker)
{
    const Product *p = ctx;
    int j0 = task % p->n_strips * p->cols, cols = min(p->cols, p->n - j0);
    int i0 = task / p->n_strips * p->row_part, i1 = min(i0 + p->row_part, p->m);
    int n_blocks = ceil_div(p->k, K_BLOCK), k_block = ceil_div(p->k, n_blocks);
    float *panels = p->work + worker * p->work_size;            /* [panels][k_block][tile_n] */
    float *sums = panels + (size_t)p->cols * k_block;           /* [row_part][cols], with e.add */
    float *S = p->e.add ? sums : p->C + (size_t)i0 * p->ldc + j0;
    int lds = p->e.add ? p->cols : p->ldc;

    for (int k0 = 0; k0 < p->k; k0 += k_block) {
        int k = min(k_block, p->k - k0);
        for (int j = 0; j < cols; j += kernel.tile_n)
            kernel.pack[p->type](panels + (size_t)j * k_block,
                                 p->W + ((size_t)(j0 + j) * p->k + k0) * p->w_size, p->k,
                                 min(kernel.tile_n, cols - j), k);
        for (int i = i0; i < i1; i += kernel.tile_m) {
            int rows = min(kernel.tile_m, i1 - i);
            float *s = S + (size_t)(i - i0) * lds;
            for (int j = 0; j < cols; j += kernel.tile_n)
                kernel.tile(s + j, lds, p->A + (size_t)i * p->lda + k0, p->lda,
                            panels + (size_t)j * k_block, rows, min(kernel.tile_n, cols - j), k,
                            k0 > 0);
            if (k0 + k == p->k) finish(p, s, lds, i, j0, rows, cols);
        }
    }
}

/* Cuts the product into tasks, gets a workspace for each worker, and runs them. */
static void run(Product *p, TaskFn *task, int n_tasks, size_t work_size)
{
    size_t mark = scratch_mark();
    p->work_size = (work_size + 15) / 16 * 16;
    if (work_size) p->work = scratch_bytes((size_t)n_threads() * p->work_size * sizeof *p->work);
    parallel_for(n_tasks, task, p);
    scratch_reset(mark);
}

void gemm(float *C, int ldc, const float *A, int lda, const void *W, DType type,
          int m, int n, int k, int m_item, Epilogue e)
{
    if (type == Q8 || type == Q4) {
        gemm_quant(C, ldc, A, lda, W, type, m, n, k, e);
        return;
    }
    Product p = { .C = C, .A = A, .W = W, .w_size = type == F32 ? 4 : 2, .type = type,
                  .ldc = ldc, .lda = lda, .m = m, .n = n, .k = k, .e = e };
    if (m_item <= FEW_ROWS) {
        size_t row = (size_t)k * p.w_size;
        p.cols = row < FEW_BYTES / 16 ? (int)(FEW_BYTES / row) / 16 * 16 : 16;
        run(&p, few_task, ceil_div(n, p.cols), e.add ? (size_t)m * p.cols : 0);
        return;
    }
    p.cols = round_up(min(STRIP, n), kernel.tile_n);
    p.n_strips = ceil_div(n, p.cols);
    /* at least four tasks for each thread, if that leaves 96 rows or more to a task */
    int parts = min(ceil_div(4 * n_threads(), p.n_strips), ceil_div(m, 96));
    p.row_part = round_up(ceil_div(m, parts), kernel.tile_m);
    int k_block = ceil_div(k, ceil_div(k, K_BLOCK));
    size_t work = (size_t)p.cols * k_block + (e.add ? (size_t)p.row_part * p.cols : 0);
    run(&p, many_task, p.n_strips * ceil_div(m, p.row_part), work);
}
