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
 *     C  -> epilogue            activation, gate, residual, while the tile is in the cache. The
 *                               bias, and a residual that nothing else comes before, cost less:
 *                               the sums begin with them.
 *
 * A task is one strip of W (and, if there are too few strips for the threads, a part of the rows):
 * a thread packs what it uses, so threads never wait for each other.
 *
 * What that loses against the multiply-adds alone (197 rows, k = 768, Zen 4, AVX-512): packing 3 %,
 * rows of A and C that come from the second-level cache or further 3 %. It was 7 % for packing
 * while the memory slept during the tiles: now these fetch the next block ahead. 6 rows of A are
 * six short streams, whose beginnings a processor learns too late: fetched ahead as well.
 *
 * Two threads lose little more where their cores share a third-level cache. Where they do not, and
 * a product takes but a millisecond, they lose 5 to 10 %: rows of A that the other core wrote, and
 * lines of C that it read last, are a third of a microsecond away. So tasks that follow each other,
 * and the same columns of the next product, are one thread's (threads.c); and where one or two
 * strips are all of W, A is rounded to bf16 tile by tile, in the thread that multiplies it. With
 * more strips that costs more than it saves: 12 points at 197 rows by 64 columns.
 *
 * Easy to get wrong:
 *   - The order in which an element of C is summed depends on k alone (and on few or many, decided
 *     by the rows of one item): the same bits for any number of threads and items.
 *   - With e.add, C holds the residual: sums of the first k blocks must not pass through it. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "kernels.h"

enum {
    FEW_ROWS = 16,          /* rows of an item up to which packing costs more than it brings */
    FEW_BYTES = 2 << 20,    /* of W, in a task of the few-row product: streams of 256 KiB */
    K_BLOCK  = 512,         /* tile_m rows of A in L1: 6 * 512 * 4 = 12 KiB */
    STRIP    = 128,         /* columns of a task: panels of 128 * 512 * 4 = 256 KiB in L2, ... */
    LONG     = 384,         /* ... twice as many where A has so many rows: it is read less, ... */
    WIDE     = 320,         /* ... and these where it fits no cache */
    PACK     = 40,          /* what packing a column costs: the time of so many rows */
    NEAR = 3, FAR = 10,     /* what reading a row of A costs: the time of so many columns */
    CACHES   = 8 << 20,     /* bytes of A that stay near */
    ROUNDS   = 2,           /* strips up to which each rounds A for itself, tile by tile */
    ROUND_ROWS = 8,         /* rows of A in a task that rounds them */
    LINE     = 64,          /* bytes of a cache line */
    AHEAD    = 8            /* lines of each row of A that are fetched ahead */
};

typedef struct {
    float *C;
    const char *A, *W;
    size_t a_size, w_size;  /* bytes of an element of A, of W, ... */
    size_t p_size;          /* ... and of a panel */
    DType type;
    int ldc, lda, m, n, k;
    Epilogue e;
    int cols, n_strips;     /* columns of a strip; strips of W */

    int row_part, n_tasks;  /* many rows: rows of a task */
    int k_block;
    const float *bias;      /* with which the sums begin; then it is not in e */
    bool pairs;             /* A is rounded to bf16, panels hold pairs along k ... */
    bool late;              /* ... a tile of it right before it is multiplied */
    bool in_place;          /* the sums begin with the residual, in C */
    bool apart;             /* they wait in the workspace until act or mul are done */
    float *work;            /* one workspace per worker */
    size_t work_size;       /* floats of it */
} Product;

typedef struct { const char *at; int ld; } Rows;        /* of A, columns k0 .. k0 + k - 1 */

typedef struct {
    uint16_t *y;            /* [m, ldy] */
    const float *x;         /* [m, ldx] */
    int ldy, ldx, m, k;
} Rounding;

void finish_row(float *C, float *sums, const Epilogue *e, const float *mul, int j, int n)
{
    if (e->bias) kernel.add(sums, e->bias + j, n);
    if (e->act) kernel.act[e->act](sums, n);
    if (mul) kernel.mul(sums, mul, n);
    if (e->add) kernel.add(C, sums, n);
    else if (C != sums) memcpy(C, sums, (size_t)n * sizeof *C);
}

/* Finishes the sums S [rows, cols] and puts them at row i0, column j0 of C; S may be there. */
static void finish(const Product *p, float *S, int lds, int i0, int j0, int rows, int cols)
{
    for (int i = i0; i < i0 + rows; i++, S += lds)
        finish_row(p->C + (size_t)i * p->ldc + j0, S, &p->e,
                   p->e.mul ? p->e.mul + (size_t)i * p->n + j0 : NULL, j0, cols);
}

static void few_task(void *ctx, int task, int worker)
{
    const Product *p = ctx;
    int j = task * p->cols, cols = min(p->cols, p->n - j);
    float *S = p->e.add ? p->work + worker * p->work_size : p->C + j;
    int lds = p->e.add ? p->cols : p->ldc;
    kernel.few[p->type](S, lds, (const float *)p->A, p->lda,
                        p->W + (size_t)j * p->k * p->w_size, p->k, p->m, cols, p->k);
    finish(p, S, lds, 0, j, p->m, cols);
}

/* Rows of W, of `row` bytes each, that are a task of few rows of A: an odd number of 8, so that the
 * eight streams do not meet in the same lines of the caches; and of such numbers, down to half the
 * largest, that with which the last thread is done first. */
static int few_cols(int n, size_t row)
{
    int threads = n_threads(), fit = row < FEW_BYTES ? (int)(FEW_BYTES / row) : 1, best = 8;
    int most = round_up(min(fit, ceil_div(n, 6 * threads)), 8) | 8;
    for (int cols = most, least = INT_MAX; cols > most / 2; cols -= 16) {
        int tasks = ceil_div(n, cols), rounds = tasks / threads, left = tasks % threads;
        int last = left == 0 ? 0 : left == 1 ? n - (tasks - 1) * cols : cols;
        if (rounds * cols + last + n / 256 >= least) continue;      /* little is no reason */
        least = rounds * cols + last;
        best = cols;
    }
    return best;
}

/* The block of W that is packed next: columns k0 .. k0 + k_block - 1 of the strip of a task. */
static Ahead next_block(const Product *p, int task, int k0)
{
    if (task >= p->n_tasks) return (Ahead){ 0 };
    int j = task % p->n_strips * p->cols, k = min(p->k_block, p->k - k0);
    return (Ahead){ .at = p->W + ((size_t)j * p->k + k0) * p->w_size, .step = p->k * p->w_size,
                    .rows = min(p->cols, p->n - j),
                    .columns = ceil_div(k * (int)p->w_size, LINE) };
}

/* The beginnings of the rows of A that are multiplied next, which no prefetcher of a processor can
 * guess; it goes on alone where it has seen some lines. */
static Ahead next_rows(const Product *p, int i, int i1, int k0, int k, Ahead *then)
{
    if (i >= i1) return (Ahead){ 0 };
    return (Ahead){ .at = p->A + ((size_t)i * p->lda + k0) * p->a_size,
                    .step = p->lda * p->a_size, .rows = min(kernel.tile_m, i1 - i),
                    .columns = p->late ? ceil_div(k * (int)p->a_size, LINE) : AHEAD,
                    .then = then };
}

/* Begins the sums of rows i .. i + rows - 1 with what costs nothing there: the bias. */
static void begin(const Product *p, float *S, int lds, int j0, int rows, int cols)
{
    for (int i = 0; i < rows; i++) {
        float *s = S + (size_t)i * lds;
        if (p->in_place) kernel.add(s, p->bias + j0, cols);
        else             memcpy(s, p->bias + j0, (size_t)cols * sizeof *s);
    }
}

/* Packs block k0 of the columns j0 .. j0 + cols - 1 of W. */
static void pack(const Product *p, char *panels, int j0, int cols, int k0, int k)
{
    for (int j = 0; j < cols; j += kernel.tile_n) {
        void *to = panels + (size_t)j * p->k_block * p->p_size;
        const char *w = p->W + ((size_t)(j0 + j) * p->k + k0) * p->w_size;
        int nr = min(kernel.tile_n, cols - j);
        if (p->pairs) kernel.pack_bf16(to, (const uint16_t *)w, p->k, nr, k);
        else          kernel.pack[p->type](to, w, p->k, nr, k);
    }
}

/* A row as bf16. Rows begin a cache line further each, so that those of a tile do not meet in one
 * set of the cache. */
static int rounded_ld(int k) { return round_up(k, 32) + 32; }
static void round_row(uint16_t *y, const float *x, int k)
{
    kernel.narrow[BF16](y, x, k);
    for (int j = k; j % 4; j++) y[j] = 0;       /* the rest of the last pairs */
}

static void round_task(void *ctx, int task, int worker)
{
    const Rounding *r = ctx;
    (void)worker;
    for (int i = task * ROUND_ROWS; i < min((task + 1) * ROUND_ROWS, r->m); i++)
        round_row(r->y + (size_t)i * r->ldy, r->x + (size_t)i * r->ldx, r->k);
}

/* A becomes bf16, in scratch: once for all strips. */
static void round_rows(Product *p)
{
    int ld = rounded_ld(p->k);
    Rounding r = { scratch_bytes((size_t)p->m * ld * sizeof(uint16_t)), (const float *)p->A,
                   ld, p->lda, p->m, p->k };
    parallel_for(ceil_div(p->m, ROUND_ROWS), round_task, &r);
    p->A = (const char *)r.y;
    p->lda = ld;
    p->a_size = sizeof *r.y;
}

/* The n rows from row i on, as they are multiplied; `rounded` has room for a tile. */
static Rows rows_of(const Product *p, int i, int n, int k0, int k, uint16_t *rounded)
{
    Rows a = { p->A + ((size_t)i * p->lda + k0) * p->a_size, p->lda };
    if (!p->late) return a;
    int ld = rounded_ld(p->k_block);
    for (int r = 0; r < n; r++)
        round_row(rounded + (size_t)r * ld, (const float *)a.at + (size_t)r * a.ld, k);
    return (Rows){ (const char *)rounded, ld };
}

/* mr rows of A by one panel. */
static void multiply(const Product *p, float *S, int lds, Rows a, int mr, const char *panel, int nr,
                     int k0, int k, Ahead *ahead)
{
    bool accumulate = k0 > 0 || p->bias || p->in_place;
    if (p->pairs)
        kernel.tile_bf16(S, lds, (const uint16_t *)a.at, a.ld, (const uint16_t *)panel, mr, nr, k,
                         accumulate, ahead);
    else
        kernel.tile(S, lds, (const float *)a.at, a.ld, (const float *)panel, mr, nr, k, accumulate,
                    ahead);
}

static void many_task(void *ctx, int task, int worker)
{
    const Product *p = ctx;
    int j0 = task % p->n_strips * p->cols, cols = min(p->cols, p->n - j0);
    int i0 = task / p->n_strips * p->row_part, i1 = min(i0 + p->row_part, p->m);
    int tile_m = kernel.tile_m, tile_n = kernel.tile_n;
    float *sums = p->work + worker * p->work_size;              /* [row_part][cols] */
    char *panels = (char *)(sums + (p->apart ? (size_t)p->row_part * p->cols : 0));
    uint16_t *rounded = (uint16_t *)(panels + (size_t)p->cols * p->k_block * p->p_size);
    float *S = p->apart ? sums : p->C + (size_t)i0 * p->ldc + j0;
    int lds = p->apart ? p->cols : p->ldc;

    for (int k0 = 0; k0 < p->k; k0 += p->k_block) {
        int k = min(p->k_block, p->k - k0), k1 = k0 + k;
        Ahead next = k1 < p->k ? next_block(p, task, k1) : next_block(p, task + 1, 0);
        pack(p, panels, j0, cols, k0, k);
        for (int i = i0; i < i1; i += tile_m) {
            int rows = min(tile_m, i1 - i);
            Rows a = rows_of(p, i, rows, k0, k, rounded);
            float *s = S + (size_t)(i - i0) * lds;
            if (k0 == 0 && p->bias) begin(p, s, lds, j0, rows, cols);
            Ahead a_rows = next_rows(p, i + tile_m, i1, k0, k, next.columns > 0 ? &next : NULL);
            for (int j = 0; j < cols; j += tile_n) {
                Ahead *ahead = a_rows.columns > 0 ? &a_rows : next.columns > 0 ? &next : NULL;
                multiply(p, s + j, lds, a, rows, panels + (size_t)j * p->k_block * p->p_size,
                         min(tile_n, cols - j), k0, k, ahead);
            }
            if (k1 == p->k) finish(p, s, lds, i, j0, rows, cols);
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

/* Columns and rows of a task: those with which the last thread is done first. A task takes its rows
 * times its columns along k, and packs its strip: the time of PACK rows more. It reads its rows of
 * A: the time of NEAR or FAR columns, as A fits the caches or not. At the end threads wait for each
 * other, the longer the larger tasks are: for a sixth of one of full width, say. */
static void plan(Product *p)
{
    int threads = n_threads(), tile_n = kernel.tile_n;
    bool far = (double)p->m * p->k * p->p_size > CACHES;
    int read = far ? FAR : NEAR, most = p->m < LONG ? STRIP : far ? WIDE : 2 * STRIP;
    int widest = min(most, round_up(p->n, tile_n));
    double least = INFINITY;
    for (int strips = ceil_div(p->n, widest); ; strips *= 2) {
        int cols = round_up(ceil_div(p->n, strips), tile_n);
        strips = ceil_div(p->n, cols);
        for (int parts = 1; parts <= 8 && (parts == 1 || p->m / parts >= 96); parts++) {
            int rows = round_up(ceil_div(p->m, parts), kernel.tile_m);
            int tasks = strips * ceil_div(p->m, rows);
            double each = (double)p->n / strips + read;
            double last = threads > 1 ? (cols + read) * 7 / 6.0 : each;
            double t = ((ceil_div(tasks, threads) - 1) * each + last) * (rows + PACK);
            if (t >= least) continue;
            least = t;
            p->cols = cols, p->n_strips = strips, p->row_part = rows, p->n_tasks = tasks;
        }
        if (cols == tile_n) return;
    }
}

void gemm(float *C, int ldc, const float *A, int lda, const void *W, DType type,
          int m, int n, int k, int m_item, Epilogue e)
{
    if (type == Q8 || type == Q4) {
        gemm_quant(C, ldc, A, lda, W, type, m, n, k, e);
        return;
    }
    Product p = { .C = C, .A = (const char *)A, .W = W, .a_size = sizeof *A,
                  .w_size = type == F32 ? 4 : 2, .type = type, .ldc = ldc,
                  .lda = lda, .m = m, .n = n, .k = k, .e = e };
    if (m_item <= FEW_ROWS) {
        p.cols = few_cols(n, (size_t)k * p.w_size);
        run(&p, few_task, ceil_div(n, p.cols), e.add ? (size_t)m * p.cols : 0);
        return;
    }
    p.apart = e.add && (e.act || e.mul);
    p.in_place = e.add && !p.apart;
    p.bias = e.bias;
    p.e = (Epilogue){ .act = e.act, .mul = e.mul, .add = p.apart };
    p.pairs = type == BF16 && kernel.tile_bf16;
    p.p_size = p.pairs ? sizeof(uint16_t) : sizeof *A;
    int most = K_BLOCK * (int)(sizeof *A / p.p_size);
    p.k_block = round_up(ceil_div(k, ceil_div(k, most)), 4);
    plan(&p);
    size_t mark = scratch_mark();
    p.late = p.pairs && p.n_strips <= ROUNDS;
    if (p.pairs && !p.late) round_rows(&p);
    run(&p, many_task, p.n_tasks, ((size_t)p.cols * p.k_block * p.p_size +
        (p.late ? (size_t)kernel.tile_m * rounded_ld(p.k_block) * sizeof(uint16_t) : 0)) /
        sizeof *A + (p.apart ? (size_t)p.row_part * p.cols : 0));
    scratch_reset(mark);
}
