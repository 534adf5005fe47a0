/* attention.c -- softmax(scale Q K^T + bias) V for all heads, without ever keeping the whole matrix
 * of scores: keys pass by in blocks, and each query carries the maximum and the sum of what it has
 * seen (the running softmax of arXiv 1805.02867, in blocks as in FlashAttention, 2205.14135).
 *
 *   for each item, head and block of queries (a task):
 *     for each block of KEYS keys:
 *       S = scale Q K^T + bias                       [queries, keys]
 *       m' = max(m, max of the row of S)             the maximum so far
 *       P = exp(S - m')
 *       out = out exp(m - m') + P V;  sum = sum exp(m - m') + sum of the row of P;  m = m'
 *     out = out / sum
 *
 * Few queries (decoding): K and V are used as they lie there; each is read once: the memory is the
 * limit. Many queries: both products are done by the tile of matmul.c. A block of K is packed as W
 * is there; a block of V has the shape of a panel already, [keys, head_dim], and is only copied.
 * Both stay in the second-level cache, S [tile_m, KEYS] in the first. With 64 numbers in a head, a
 * score costs 128 multiply-adds and one exponential, a tenth of the time.
 *
 * Easy to get wrong:
 *   - exp(-INFINITY - -INFINITY): a row that has seen nothing but masked keys must skip the block.
 *   - Bits may not depend on how queries are grouped: a block of keys that a row may not see
 *     changes nothing (P is 0, the maximum stays), so its group may skip it or not.
 *   - kv_stride 0: items share keys and values. Then their rows are one long list of queries. */
#include "kernels.h"

#include <math.h>
#include <string.h>

enum {
    FEW_QUERIES = 4,        /* of an item, up to which packing costs more than it brings */
    KEYS        = 512,      /* of a block; a multiple of every tile_n */
    QUERIES     = 384       /* of a task, at most: K is packed for each task again */
};

typedef struct {
    const Attention *a;
    int    ld, ldkv;        /* distance of rows of q and out, of k and v */
    int    n_rows;          /* rows of queries that share keys and values */
    int    block_rows;      /* rows of a task */
    int    n_blocks;        /* tasks of an item and head */
    float *work;
    size_t work_size;       /* floats of each worker */
} Job;

/* What a task works on: rows row0 .. row0 + n_rows - 1 of the queries of one head. */
typedef struct {
    const Attention *a;
    const float *q, *bias;              /* bias [n_q, n_kv] of this head; NULL: none */
    const char *k, *v;
    float *out;
    int    n_kv;                        /* of this item */
    int    ld, ldkv, row0, n_rows;
    float *scores;                      /* [n_rows, KEYS]; many queries: [tile_m, KEYS] */
    float *max, *sum;                   /* [n_rows], so far */
    float *k_panels, *v_panels;         /* [KEYS / tile_n][head_dim][tile_n], [..][KEYS][tile_n] */
} Block;

/* How many keys row i of the block may look at. */
static int visible(const Block *b, int i)
{
    const Attention *a = b->a;
    int n = a->causal ? (b->row0 + i) % a->n_q + 1 + b->n_kv - a->n_q : b->n_kv;
    return n < 0 ? 0 : min(n, b->n_kv);
}

/* Scores s of row i for n keys from j on -> weights, not yet divided by their sum. Returns false if
 * all are 0. */
static bool soften(Block *b, float *s, int i, int j, int n)
{
    float *out = b->out + (size_t)i * b->ld;
    int seen = visible(b, i) - j;
    seen = seen < 0 ? 0 : min(seen, n);
    float m = -INFINITY;
    if (seen > 0) {
        kernel.scale(s, b->a->scale, seen);
        if (b->bias)
            kernel.add(s, b->bias + (size_t)((b->row0 + i) % b->a->n_q) * b->a->n_kv + j, seen);
        m = kernel.max(s, seen);
    }
    if (m == -INFINITY) {
        memset(s, 0, (size_t)n * sizeof *s);
        return false;
    }
    if (m > b->max[i]) {
        float shrink = expf(b->max[i] - m);     /* exp(-INFINITY) the first time */
        b->sum[i] *= shrink;
        if (j > 0) kernel.scale(out, shrink, b->a->head_dim);
        b->max[i] = m;
    }
    b->sum[i] += kernel.exp_sum(s, s, b->max[i], seen);
    memset(s + seen, 0, (size_t)(n - seen) * sizeof *s);
    return true;
}

/* Row j of k or v. */
static const void *row(const Block *b, const char *rows, int j)
{
    return rows + (size_t)j * b->ldkv * (b->a->kv_type == F32 ? 4 : 2);
}

static void few_queries(Block *b, int j, int n)
{
    int hd = b->a->head_dim;
    kernel.few[b->a->kv_type](b->scores, KEYS, b->q, b->ld, row(b, b->k, j), b->ldkv, b->n_rows, n,
                              hd);
    for (int i = 0; i < b->n_rows; i++) {
        float *out = b->out + (size_t)i * b->ld;
        if (j == 0) memset(out, 0, (size_t)hd * sizeof *out);
        float *s = b->scores + (size_t)i * KEYS;
        if (soften(b, s, i, j, n))
            kernel.mix[b->a->kv_type](out, s, row(b, b->v, j), b->ldkv, n, hd);
    }
}

/* n rows of V -> panels [n][tile_n], padded with zeros. */
static void pack_values(Block *b, int j, int n)
{
    DType type = b->a->kv_type;
    for (int c = 0; c < b->a->head_dim; c += kernel.tile_n) {
        int cols = min(kernel.tile_n, b->a->head_dim - c);
        for (int p = 0; p < n; p++) {
            float *to = b->v_panels + (size_t)c * KEYS + (size_t)p * kernel.tile_n;
            kernel.cvt[type](to, (const char *)row(b, b->v, j + p) + c * (type == F32 ? 4 : 2),
                             cols);
            memset(to + cols, 0, (size_t)(kernel.tile_n - cols) * sizeof *to);
        }
    }
}

static void many_queries(Block *b, int j, int n)
{
    int hd = b->a->head_dim, tn = kernel.tile_n;
    float *s = b->scores;
    for (int p = 0; p < n; p += tn)
        kernel.pack[b->a->kv_type](b->k_panels + (size_t)p * hd, row(b, b->k, j + p), b->ldkv,
                                   min(tn, n - p), hd);
    pack_values(b, j, n);
    for (int i = 0; i < b->n_rows; i += kernel.tile_m) {
        int rows = min(kernel.tile_m, b->n_rows - i);
        for (int p = 0; p < n; p += tn)
            kernel.tile(s + p, KEYS, b->q + (size_t)i * b->ld, b->ld, b->k_panels + (size_t)p * hd,
                        rows, min(tn, n - p), hd, false, NULL);
        for (int r = 0; r < rows; r++)
            soften(b, s + (size_t)r * KEYS, i + r, j, n);
        for (int c = 0; c < hd; c += tn)
            kernel.tile(b->out + (size_t)i * b->ld + c, b->ld, s, KEYS,
                        b->v_panels + (size_t)c * KEYS, rows, min(tn, hd - c), n, j > 0,
                        NULL);
    }
}

static void attention_task(void *ctx, int task, int worker)
{
    const Job *job = ctx;
    const Attention *a = job->a;
    int hd = a->head_dim, block = task % job->n_blocks, h = task / job->n_blocks % a->n_heads;
    int item = task / job->n_blocks / a->n_heads;       /* always 0 if the items share keys */
    int row0 = block * job->block_rows, kv_head = h / (a->n_heads / a->n_kv_heads);
    size_t at = ((size_t)item * job->n_rows + row0) * job->ld + (size_t)h * hd;
    size_t kv = (item * a->kv_stride + (size_t)kv_head * hd) * (a->kv_type == F32 ? 4 : 2);
    float *work = job->work + worker * job->work_size;
    Block b = {
        .a = a, .ld = job->ld, .ldkv = job->ldkv,
        .row0 = row0, .n_rows = min(job->block_rows, job->n_rows - row0),
        .q = a->q + at, .out = a->out + at, .k = (const char *)a->k + kv,
        .v = (const char *)a->v + kv, .n_kv = a->kv_len ? a->kv_len[item] : a->n_kv,
        .bias = !a->bias ? NULL : a->bias + (size_t)(a->bias_heads > 1 ? h : 0) * a->n_q * a->n_kv,
        .max = work, .sum = work + QUERIES, .scores = work + 2 * QUERIES,
    };
    b.k_panels = b.scores + (size_t)kernel.tile_m * KEYS;
    b.v_panels = b.k_panels + (size_t)KEYS * hd;

    int n_keys = 0;                                     /* that any row of the block may see */
    for (int i = 0; i < b.n_rows; i++) {
        b.max[i] = -INFINITY;
        b.sum[i] = 0;
        n_keys = visible(&b, i) > n_keys ? visible(&b, i) : n_keys;
    }
    for (int j = 0; j < n_keys; j += KEYS)
        (a->n_q <= FEW_QUERIES ? few_queries : many_queries)(&b, j, min(KEYS, n_keys - j));
    for (int i = 0; i < b.n_rows; i++) {
        float *out = b.out + (size_t)i * b.ld;
        if (n_keys == 0) memset(out, 0, (size_t)hd * sizeof *out);
        else if (b.sum[i] > 0) kernel.scale(out, 1 / b.sum[i], hd);
    }
}

void attention_heads(const Attention *a)
{
    bool few = a->n_q <= FEW_QUERIES;
    int hd = a->head_dim, items = a->kv_stride ? a->n_items : 1;
    Job job = { .a = a, .ld = a->n_heads * hd, .ldkv = a->kv_row ? a->kv_row : a->n_kv_heads * hd,
                .n_rows = a->kv_stride ? a->n_q : a->n_items * a->n_q };
    job.block_rows = ceil_div(job.n_rows, ceil_div(job.n_rows, QUERIES));
    job.block_rows = few ? job.block_rows : round_up(job.block_rows, kernel.tile_m);
    job.n_blocks = ceil_div(job.n_rows, job.block_rows);
    job.work_size = 2 * QUERIES + (size_t)KEYS * (few ? job.block_rows : kernel.tile_m + hd +
                                                  round_up(hd, kernel.tile_n));

    size_t mark = scratch_mark();
    job.work = scratch_bytes((size_t)n_threads() * job.work_size * sizeof *job.work);
    parallel_for(items * a->n_heads * job.n_blocks, attention_task, &job);
    scratch_reset(mark);
}
