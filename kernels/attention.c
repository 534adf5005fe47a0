/* attention.c -- softmax(scale Q K^T + bias) V for all heads, without ever keeping the whole matrix
 * of scores: keys pass by in blocks, and each query carries the maximum and the sum of what it has
 * seen (the running softmax of arXiv 1805.02867, in blocks as in FlashAttention, 2205.14135).
 *
 * Many queries (pictures, prompts): arithmetic is the limit. The queries are the lanes of vector
 * registers: all arrays of a group of queries are [.., lanes]. Then maxima and sums need no step
 * across lanes, keys and values are read number by number as they are, and a head of any size fills
 * the registers. Only q is transposed on the way in and out on the way back.
 *
 *   for each item, head of keys and some groups of queries (a task):
 *     Q^T [head_dim, lanes] = q scale log2(e)
 *     for each block of KEYS keys; K, V [KEYS, head_dim] in f32, dense:
 *       S = K Q^T + bias^T log2(e)                   [KEYS, lanes]      lane_scores
 *       m' = max(m, S);  P = 2^(S - m')              [KEYS, lanes]      lane_soften
 *       sum = sum 2^(m - m') + sum of P;  m = m'     [lanes]
 *       O = O 2^(m - m') + V^T P                     [head_dim, lanes]  lane_mix
 *     out = (O / sum)^T
 *
 * Heads of queries that share keys (GQA, arXiv 2305.13245), and items that do, are further lanes.
 *
 * Few queries (decoding): the memory is the limit. The cache is cut into chunks of whole rows, all
 * heads of a key being one row, so that what a task reads lies in one piece. Each chunk gives
 * maximum, sum and output of its own, for each query and head; they are put together at the end:
 *     out = sum_c 2^(m_c - m) O_c / sum_c 2^(m_c - m) sum_c     (the powers are of e here)
 *
 * Easy to get wrong:
 *   - exp(-INFINITY - -INFINITY): a row that has seen nothing but masked keys must give zeros.
 *   - Bits may not depend on threads or other items: blocks and chunks begin at fixed keys, and a
 *     key that a query may not see changes nothing (P is 0, the maximum stays), so that its group
 *     may skip it or not.
 *   - kv_stride 0: items share keys and values. Then their rows are one long list of queries. */
#include "kernels.h"

#include <math.h>
#include <string.h>

enum {
    FEW_QUERIES   = 16,         /* of a head of keys; more are lanes */
    KEYS          = 96,         /* of a block: S stays in the first-level cache */
    CHUNKS        = 16,         /* into which a short cache is cut */
    CHUNK_BYTES   = 512 << 10,  /* of keys that a task of few queries reads, at most */
    NEXT_KEYS     = 8,          /* rows of keys that are read at a time, head by head */
    TASK_BYTES    = 256 << 10,  /* Q^T and O of a task: they stay in the second-level cache */
    WORTH_THREADS = 1 << 16,    /* numbers to put together, from which on threads are woken */
    MAX_GROUPS    = 16,         /* of a task */
    MAX_LANES     = 64          /* of a group, at every level */
};

static const float LOG2_E = 1.44269504f;

typedef struct {
    const Attention *a;
    int    ld, row;         /* floats from row to row of q and out; elements, of k and v */
    size_t width;           /* bytes of an element of k and v */
    int    group;           /* heads of queries that share one of keys */
    int    n_rows;          /* rows of queries that share keys: of an item, or of all */
    int    n_blocks;        /* many: tasks of an item and head; few: chunks of an item */
    int    block;           /* many: lanes of a task; few: keys of the longest chunk */
    float *work;
    size_t work_size;       /* floats of each worker */
    float *part, *state;    /* few: [items, chunks, n_rows, n_heads*head_dim], [.., n_heads, 2] */
} Job;

/* How many keys row i may look at, of n_kv. */
static int visible(const Attention *a, int i, int n_kv)
{
    int n = a->causal ? i % a->n_q + 1 + n_kv - a->n_q : n_kv;
    return n < 0 ? 0 : min(n, n_kv);
}

static int keys_of(const Attention *a, int item)
{
    return a->kv_len ? a->kv_len[item] : a->n_kv;
}

/* The bias of row i and head h; NULL: none. */
static const float *bias_row(const Attention *a, int h, int i)
{
    size_t head = a->bias_heads > 1 ? (size_t)h : 0;
    return a->bias ? a->bias + (head * a->n_q + i % a->n_q) * a->n_kv : NULL;
}

/* === Many queries ============================================================================= */

/* Lane l of an item and head of keys is row l % n_rows, head l / n_rows of the group: neighbours
 * are rows of the same head, and see about as much. */
typedef struct {
    const Job *job;
    int    item, kv_head, n_kv;
    float *K, *V;                       /* [KEYS, head_dim] */
    float *S, *B;                       /* [KEYS, lanes]: scores, bias */
} Task;

typedef struct {
    int    first, n;                    /* its lanes */
    float *Q, *O;                       /* [head_dim, lanes] */
    float *max, *sum;                   /* [lanes] */
    int   *seen;                        /* [lanes]: keys that a lane may see */
    int    least, most;                 /* of them */
} Group;

static size_t group_floats(int hd) { return (size_t)kernel.lanes * (2 * hd + 3); }

/* Where lane l is in q and out. */
static size_t place(const Task *t, int l)
{
    const Job *job = t->job;
    int h = t->kv_head * job->group + l / job->n_rows, i = l % job->n_rows;
    return ((size_t)t->item * job->n_rows + i) * job->ld + (size_t)h * job->a->head_dim;
}

/* How many lanes from l on, at most n, are rows of one head and item, one after the other. */
static int run_length(const Task *t, int l, int n)
{
    const Job *job = t->job;
    return min(n, job->a->n_q - l % job->n_rows % job->a->n_q);
}

static void group_start(const Task *t, Group *g)
{
    const Attention *a = t->job->a;
    int lanes = kernel.lanes, hd = a->head_dim;
    memset(g->Q, 0, (size_t)lanes * hd * sizeof *g->Q);
    memset(g->O, 0, (size_t)lanes * hd * sizeof *g->O);
    for (int l = 0, n; l < g->n; l += n) {
        n = run_length(t, g->first + l, g->n - l);
        kernel.transpose(g->Q + l, lanes, a->q + place(t, g->first + l), t->job->ld, n, hd,
                         a->scale * LOG2_E);
    }
    g->least = t->n_kv;
    g->most = 0;
    for (int l = 0; l < lanes; l++) {
        g->max[l] = -INFINITY;
        g->sum[l] = 0;
        g->seen[l] = l < g->n ? visible(a, (g->first + l) % t->job->n_rows, t->n_kv) : 0;
        if (l < g->n) g->least = min(g->least, g->seen[l]);
        g->most = g->seen[l] > g->most ? g->seen[l] : g->most;
    }
}

/* S += bias^T log2(e) for n keys from j on. */
static void add_bias(const Task *t, const Group *g, int j, int n)
{
    const Job *job = t->job;
    const Attention *a = job->a;
    memset(t->B, 0, (size_t)n * kernel.lanes * sizeof *t->B);
    for (int l = 0, m; l < g->n; l += m) {
        int lane = g->first + l, h = t->kv_head * job->group + lane / job->n_rows;
        m = run_length(t, lane, g->n - l);
        kernel.transpose(t->B + l, kernel.lanes, bias_row(a, h, lane % job->n_rows) + j, a->n_kv, m,
                         n, LOG2_E);
    }
    kernel.add(t->S, t->B, n * kernel.lanes);
}

/* The lanes l .. l+m-1 of a group meet n keys from j on; seen NULL: and see all of them. */
static void meet(const Task *t, const Group *g, int l, int m, int j, int n, const int *seen)
{
    int hd = t->job->a->head_dim;
    float shrink[MAX_LANES];
    kernel.lane_scores(t->S + l, g->Q + l, t->K, hd, m, n, hd);
    if (t->job->a->bias) add_bias(t, g, j, n);
    kernel.lane_soften(t->S + l, g->max + l, g->sum + l, shrink, seen, m, n);
    kernel.lane_mix(g->O + l, shrink, t->S + l, t->V, hd, m, n, hd);
}

/* A block of keys of which some lanes see a part only: lane_step lanes at a time, since each few
 * see a little more than those before them. */
static void meet_partly(const Task *t, const Group *g, int j, int n)
{
    int seen[MAX_LANES], step = t->job->a->bias ? kernel.lanes : kernel.lane_step;
    for (int l = 0; l < kernel.lanes; l++)
        seen[l] = g->seen[l] - j;
    for (int l = 0; l < g->n; l += step) {
        int m = min(step, g->n - l), most = 0;
        for (int i = l; i < l + m; i++)
            most = seen[i] > most ? seen[i] : most;
        if (most > 0) meet(t, g, l, m, j, min(n, most), seen + l);
    }
}

static void group_finish(const Task *t, Group *g)
{
    const Attention *a = t->job->a;
    int lanes = kernel.lanes, hd = a->head_dim;
    for (int l = 0; l < lanes; l++)
        g->sum[l] = g->sum[l] > 0 || isnan(g->sum[l]) ? 1 / g->sum[l] : 0;
    for (int c = 0; c < hd; c++)
        kernel.mul(g->O + (size_t)c * lanes, g->sum, lanes);
    for (int l = 0, n; l < g->n; l += n) {
        n = run_length(t, g->first + l, g->n - l);
        kernel.transpose(a->out + place(t, g->first + l), t->job->ld, g->O + l, lanes, hd, n, 1);
    }
}

/* Rows j .. j+n-1 of the keys and values of a head: dense, in f32. They lie far from each other,
 * and no hardware guesses where the next is: those of the next block are asked for in time. */
static void fetch(const Task *t, int j, int n)
{
    const Job *job = t->job;
    const Attention *a = job->a;
    int hd = a->head_dim;
    size_t at = t->item * a->kv_stride + (size_t)j * job->row + (size_t)t->kv_head * hd;
    for (int i = 0; i < n; i++, at += job->row) {
        size_t next = (at + (size_t)KEYS * job->row) * job->width;
        for (int line = 0; j + i + KEYS < t->n_kv && line < hd * (int)job->width; line += 64) {
            __builtin_prefetch((const char *)a->k + next + line, 0, 2);
            __builtin_prefetch((const char *)a->v + next + line, 0, 2);
        }
        kernel.cvt[a->kv_type](t->K + (size_t)i * hd, (const char *)a->k + at * job->width, hd);
        kernel.cvt[a->kv_type](t->V + (size_t)i * hd, (const char *)a->v + at * job->width, hd);
    }
}

/* Tasks of the last queries come first: with causal they are the longest. */
static void many_task(void *ctx, int task, int worker)
{
    const Job *job = ctx;
    const Attention *a = job->a;
    int hd = a->head_dim, lanes = kernel.lanes, heads = task % (a->n_kv_heads * job->n_blocks);
    int first = (job->n_blocks - 1 - heads / a->n_kv_heads) * job->block, most = 0;
    int n_lanes = min(job->block, job->group * job->n_rows - first);
    float *work = job->work + worker * job->work_size;
    Task t = { job, task / (a->n_kv_heads * job->n_blocks), heads % a->n_kv_heads, 0,
               work, work + KEYS * hd, work + 2 * KEYS * hd, work + KEYS * (2 * hd + lanes) };
    Group group[MAX_GROUPS];
    t.n_kv = keys_of(a, t.item);
    work = t.B + KEYS * lanes;
    for (int i = 0; i * lanes < n_lanes; i++, work += group_floats(hd)) {
        group[i] = (Group){ .first = first + i * lanes, .n = min(lanes, n_lanes - i * lanes),
                            .Q = work, .O = work + hd * lanes, .max = work + 2 * hd * lanes };
        group[i].sum = group[i].max + lanes;
        group[i].seen = (int *)(group[i].sum + lanes);
        group_start(&t, &group[i]);
        most = group[i].most > most ? group[i].most : most;
    }
    for (int j = 0; j < most; j += KEYS) {
        int n = min(KEYS, most - j);
        fetch(&t, j, n);
        for (int i = 0; i * lanes < n_lanes; i++)
            if (group[i].least >= j + n)   meet(&t, &group[i], 0, group[i].n, j, n, NULL);
            else if (group[i].most > j)    meet_partly(&t, &group[i], j, n);
    }
    for (int i = 0; i * lanes < n_lanes; i++)
        group_finish(&t, &group[i]);
}

static void many_queries(Job *job)
{
    const Attention *a = job->a;
    int lanes = kernel.lanes, hd = a->head_dim, all = job->group * job->n_rows;
    int items = a->kv_stride ? a->n_items : 1, heads = items * a->n_kv_heads;
    int groups = ceil_div(all, lanes), most = TASK_BYTES / (8 * hd * lanes);
    most = min(most < 1 ? 1 : most, MAX_GROUPS);
    /* at least four tasks for each thread */
    int blocks = ceil_div(4 * n_threads(), heads);
    blocks = min(groups, blocks > ceil_div(groups, most) ? blocks : ceil_div(groups, most));
    int each = ceil_div(groups, blocks);
    job->block = each * lanes;
    job->n_blocks = ceil_div(groups, each);
    job->work_size = (size_t)KEYS * (2 * hd + 2 * lanes) + each * group_floats(hd);
    job->work = scratch_bytes((size_t)n_threads() * job->work_size * sizeof *job->work);
    parallel_for(heads * job->n_blocks, many_task, job);
}

/* === Few queries ============================================================================== */

/* Of an item, the rows of one head of keys after the other: q [kv_heads][n][head_dim], where n is
 * n_rows rows of the heads of the group. */
static void gather_queries(const Job *job, float *to, int item)
{
    const Attention *a = job->a;
    int hd = a->head_dim, wide = job->group * hd;
    for (int g = 0; g < a->n_kv_heads; g++)
        for (int i = 0; i < job->n_rows; i++, to += wide) {
            size_t at = ((size_t)item * job->n_rows + i) * job->ld + (size_t)g * wide;
            memcpy(to, a->q + at, (size_t)wide * sizeof *to);
            kernel.scale(to, a->scale, wide);
        }
}

/* Scores s of row i of head h for n keys from j on -> weights e^(s - max), and state {max, sum}. */
static void soften(const Job *job, float *s, float *state, int h, int i, int n_kv, int j, int n)
{
    const Attention *a = job->a;
    const float *bias = bias_row(a, h, i);
    int seen = visible(a, i, n_kv) - j;
    seen = seen < 0 ? 0 : min(seen, n);
    state[0] = -INFINITY;
    state[1] = 0;
    if (seen > 0) {
        if (bias) kernel.add(s, bias + j, seen);
        state[0] = kernel.max(s, seen);
        /* all masked: e^(-INFINITY - 0) is 0 */
        state[1] = kernel.exp_sum(s, s, state[0] == -INFINITY ? 0 : state[0], seen);
    }
    memset(s + seen, 0, (size_t)(n - seen) * sizeof *s);
}

/* Keys of a chunk of an item: it follows from the item's own length, not from its neighbours'. */
static int chunk_of(const Job *job, int n_kv)
{
    return min(job->block, round_up(ceil_div(n_kv > 0 ? n_kv : 1, CHUNKS), 16));
}

/* One chunk of keys of an item: all heads. Keys are read NEXT_KEYS whole rows at a time, values
 * likewise: one stream of memory. */
static void few_task(void *ctx, int task, int worker)
{
    const Job *job = ctx;
    const Attention *a = job->a;
    int hd = a->head_dim, item = task / job->n_blocks, n_kv = keys_of(a, item);
    int chunk = chunk_of(job, n_kv), j0 = task % job->n_blocks * chunk, n = min(chunk, n_kv - j0);
    int rows = job->group * job->n_rows;
    size_t kv = item * a->kv_stride + (size_t)j0 * job->row;
    const char *k = (const char *)a->k + kv * job->width, *v = (const char *)a->v + kv * job->width;
    float *q = job->work + worker * job->work_size, *S = q + (size_t)job->n_rows * job->ld;
    float *out = job->part + (size_t)task * job->n_rows * job->ld;
    float *state = job->state + (size_t)task * job->n_rows * a->n_heads * 2;
    if (n <= 0) return;

    gather_queries(job, q, item);
    for (int j = 0; j < n; j += NEXT_KEYS)
        for (int g = 0; g < a->n_kv_heads; g++)
            kernel.few[a->kv_type](S + (size_t)g * rows * job->block + j, job->block,
                                   q + (size_t)g * rows * hd, hd,
                                   k + ((size_t)j * job->row + (size_t)g * hd) * job->width,
                                   job->row, rows, min(NEXT_KEYS, n - j), hd);
    for (int r = 0; r < rows * a->n_kv_heads; r++) {        /* as gather_queries orders them */
        int g = r / rows, i = r % rows / job->group, h = g * job->group + r % job->group;
        soften(job, S + (size_t)r * job->block, state + 2 * r, h, i, n_kv, j0, n);
    }
    memset(out, 0, (size_t)job->n_rows * job->ld * sizeof *out);
    for (int j = 0; j < n; j += NEXT_KEYS)
        for (int g = 0; g < a->n_kv_heads; g++)
            kernel.mix[a->kv_type](out + (size_t)g * rows * hd, hd,
                                   S + (size_t)g * rows * job->block + j, job->block,
                                   v + ((size_t)j * job->row + (size_t)g * hd) * job->width,
                                   job->row, rows, min(NEXT_KEYS, n - j), hd);
}

/* Row and head r: out = sum of e^(m_c - m) O_c / sum of e^(m_c - m) s_c over chunks c. */
static void combine(const Job *job, int item, int r, float *weights)
{
    const Attention *a = job->a;
    int hd = a->head_dim, rows = job->group * job->n_rows, per_chunk = job->n_rows * a->n_heads;
    int n_kv = keys_of(a, item), chunks = ceil_div(n_kv, chunk_of(job, n_kv));
    int g = r / rows, i = r % rows / job->group;
    size_t at = ((size_t)item * job->n_rows + i) * job->ld;
    float *out = a->out + at + (size_t)(g * job->group + r % job->group) * hd;
    const float *state = job->state + ((size_t)item * job->n_blocks * per_chunk + r) * 2;
    const float *part = job->part + ((size_t)item * job->n_blocks * per_chunk + r) * hd;
    float m = -INFINITY, sum = 0;
    for (int c = 0; c < chunks; c++)
        m = fmaxf(m, state[(size_t)c * per_chunk * 2]);
    for (int c = 0; c < chunks; c++) {
        const float *s = state + (size_t)c * per_chunk * 2;
        weights[c] = m == -INFINITY ? 0 : expf(s[0] - m);
        sum += weights[c] * s[1];
    }
    memset(out, 0, (size_t)hd * sizeof *out);
    if (chunks > 0)
        kernel.mix[F32](out, hd, weights, chunks, part, job->n_rows * job->ld, 1, chunks, hd);
    kernel.scale(out, sum == 0 ? 0 : 1 / sum, hd);
}

static void combine_task(void *ctx, int task, int worker)
{
    const Job *job = ctx;
    int n = job->a->n_heads * job->n_rows, item = task / job->a->n_kv_heads;
    int each = n / job->a->n_kv_heads, first = task % job->a->n_kv_heads * each;
    for (int r = first; r < first + each; r++)
        combine(job, item, r, job->work + worker * job->work_size);
}

static void few_queries(Job *job)
{
    const Attention *a = job->a;
    int items = a->kv_stride ? a->n_items : 1, rows = job->n_rows * a->n_heads;
    size_t row_bytes = (size_t)a->n_kv_heads * a->head_dim * job->width;
    size_t keys = CHUNK_BYTES / row_bytes / 16 * 16;
    job->block = keys < 16 ? 16 : keys > 512 ? 512 : (int)keys;
    for (int i = 0; i < items; i++) {
        int chunks = ceil_div(keys_of(a, i), chunk_of(job, keys_of(a, i)));
        job->n_blocks = chunks > job->n_blocks ? chunks : job->n_blocks;
    }
    job->work_size = (size_t)rows * (a->head_dim + job->block) + job->n_blocks;
    job->work_size = (job->work_size + 15) / 16 * 16;
    job->work = scratch_bytes((size_t)n_threads() * job->work_size * sizeof *job->work);
    size_t n = (size_t)items * job->n_blocks * rows;
    job->part = scratch_bytes(n * a->head_dim * sizeof *job->part);
    job->state = scratch_bytes(n * 2 * sizeof *job->state);
    parallel_for(items * job->n_blocks, few_task, job);
    if (n * a->head_dim > WORTH_THREADS)
        parallel_for(items * a->n_kv_heads, combine_task, job);
    else
        for (int t = 0; t < items * a->n_kv_heads; t++)
            combine_task(job, t, 0);
}

void attention_heads(const Attention *a)
{
    size_t mark = scratch_mark();
    Job job = { .a = a, .ld = a->n_heads * a->head_dim,
                .row = a->kv_row ? a->kv_row : a->n_kv_heads * a->head_dim,
                .width = a->kv_type == F32 ? 4 : 2, .group = a->n_heads / a->n_kv_heads,
                .n_rows = a->kv_stride ? a->n_q : a->n_items * a->n_q };
    if (a->n_q * job.group <= FEW_QUERIES) few_queries(&job);
    else                                   many_queries(&job);
    scratch_reset(mark);
}
