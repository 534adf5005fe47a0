/* nn.c -- the layers that all models share, in terms of kernels.h.
 *
 * Linear, LayerNorm, RMSNorm (arXiv 1607.06450, 1910.07467), multi-head attention with grouped keys
 * and values (1706.03762, 2305.13245), MLP, embedding, convolution, group norm (1803.08494).
 * How they are wired - before or after the norm, in parallel - is the business of the model files.
 *
 *   linear      x [n_tok, n_in]        -> out [n_tok, n_out]      out = x W^T + b
 *   attention   x [n_tok, d]           -> q [n_tok, n_heads*head_dim], k, v [n_kv, ..]
 *               softmax(q k^T scale + bias) v, head by head -> o -> out [n_tok, d]
 *   mlp         x [n_tok, d]           -> act(up x) [n_tok, d_ff] -> down -> out [n_tok, d]
 *   conv2d      x [n, H, W, C]         -> out [n, H', W', c_out]
 *   group_norm  x [n, H, W, C]         -> act((x - mean) / sqrt(variance + eps) w + b), by groups
 *   patch_embed image [H, W, C]        -> [(H/k)*(W/k), c_out]
 *
 * However the work is cut into pieces, each sum is added up by one thread in an order that follows
 * from the sizes of one item: the same item gives the same bits however many threads and neighbours
 * it has.
 *
 * Easy to get wrong:
 *   - Matrices are used as the checkpoint stores them; vectors are F32, converted at load.
 *   - The kernels choose their way of multiplying by the rows of one item, so an item of a batch
 *     is handed over as [n_items, n_tok, d], not as [n_items*n_tok, d].
 *   - With a cache, causal means: query i of n_q looks at keys 0 .. n_kv - n_q + i.
 *   - PyTorch keeps a kernel's weights as [c_in, k, k]; a patch of the picture is [k, k, c_in]. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tensor.h"

/* === Loading ================================================================================== */

/* A vector as F32: in place if it is stored so, else converted once, to stay. */
static Tensor vector_f32(Tensor t)
{
    if (!t.data || t.dtype == F32) return t;
    Tensor v = keep(1, (int)n_elem(t));
    kernel.cvt[t.dtype](f32(v), t.data, (int)n_elem(t));
    v.ndim = 1;
    v.dim[0] = (int)n_elem(t);
    v.name = t.name;
    return v;
}

/* Vectors are a thousandth of a model and are read many times, each by a kernel that wants f32. */
Tensor vector_load(Ckpt ck, const char *name, int n)
{
    return vector_f32(ckpt_get(ck, name, n));
}

Tensor matrix_load(Ckpt ck, const char *name, int n_out, int n_in, MatrixUse use)
{
    return quant_matrix(ckpt_matrix(ck, name, n_out, n_in, use), use);
}

/* W stays in the file, [n_out, n_in] as PyTorch stores it (with --quant it does not). A bias that
 * the file lacks is none; one of another shape dies here, one of another name in ckpt_done(). */
Linear linear_load(Ckpt ck, const char *name, int n_out, int n_in)
{
    ck = ckpt_at(ck, "%s.", name);
    return (Linear){
        .w = matrix_load(ck, "weight", n_out, n_in, LAYER_MATRIX),
        .b = vector_f32(ckpt_opt(ck, "bias", n_out)),
    };
}

/* gamma and beta are what TensorFlow called them: BERT's first checkpoints still do. */
Norm norm_load(Ckpt ck, const char *name, int d, float eps)
{
    ck = ckpt_at(ck, "%s.", name);
    bool old = !ckpt_has(ck, "weight") && ckpt_has(ck, "gamma");
    return (Norm){
        .w = vector_load(ck, old ? "gamma" : "weight", d),
        .b = vector_load(ck, old ? "beta" : "bias", d),
        .eps = eps,
    };
}

/* The weights stay as they are, [c_out, c_in, k, k]. */
Conv conv_load(Ckpt ck, const char *name, int c_out, int c_in, int k, int stride, int pad)
{
    ck = ckpt_at(ck, "%s.", name);
    return (Conv){
        .w = ckpt_get(ck, "weight", c_out, c_in, k, k),
        .b = vector_f32(ckpt_opt(ck, "bias", c_out)),
        .k = k, .stride = stride, .pad = pad,
    };
}

Conv conv_load_transposed(Ckpt ck, const char *name, int c_in, int c_out, int k, int stride,
                          int pad)
{
    ck = ckpt_at(ck, "%s.", name);
    return (Conv){
        .w = ckpt_get(ck, "weight", c_in, c_out, k, k),
        .b = vector_f32(ckpt_opt(ck, "bias", c_out)),
        .k = k, .stride = stride, .pad = pad, .transposed = true,
    };
}

GroupNorm group_norm_load(Ckpt ck, const char *name, int c, int groups, float eps)
{
    ck = ckpt_at(ck, "%s.", name);
    return (GroupNorm){ .w = vector_load(ck, "weight", c), .b = vector_load(ck, "bias", c),
                        .groups = groups, .eps = eps };
}

/* Rows first .. first+n-1 of a vector. */
static Tensor part(Tensor v, int first, int n)
{
    if (!v.data) return v;
    v.data = (char *)v.data + (size_t)first * dtype_size(v.dtype);
    v.dim[0] = n;
    return v;
}

/* Rows of a matrix. Quantised ones are interleaved by 8: from a multiple of 8 on they are a view as
 * others are, from elsewhere on they have to be put together anew. */
static Tensor matrix_rows(Tensor w, int first, int n)
{
    if ((w.dtype != Q8 && w.dtype != Q4) || first % Q_ROWS == 0) return rows(w, first, n);
    Tensor t = { .data = keep_bytes(quant_bytes(w.dtype, n, n_cols(w))), .dtype = w.dtype,
                 .ndim = 2, .dim = { n, n_cols(w) } };
    quant_copy(t.data, w.data, w.dtype, first, n, n_cols(w));
    return t;
}

/* A fused projection, [q; k; v] in one matrix, becomes three views of its rows; nothing is copied.
 * The parts have no name, since the reference knows, and traces, only the whole. */
Linear linear_rows(Linear l, int first, int n)
{
    l = (Linear){ .w = matrix_rows(l.w, first, n), .b = part(l.b, first, n) };
    l.w.name = NULL;
    return l;
}

/* === Rows in parallel ========================================================================= */

/* Waking the threads costs about as much as touching so many numbers; and what a task touches. */
enum { WORTH_THREADS = 1 << 15, TASK_NUMBERS = 1 << 13 };

typedef void RowsFn(const void *ctx, int first, int n);
typedef struct { RowsFn *fn; const void *ctx; int n_rows, n_block; } RowsJob;

static void rows_task(void *ctx, int i, int worker)
{
    (void)worker;
    const RowsJob *job = ctx;
    int first = i * job->n_block, left = job->n_rows - first;
    job->fn(job->ctx, first, left < job->n_block ? left : job->n_block);
}

/* Calls fn for all rows, block by block, on all threads where that is worth waking them. What fn
 * does to a row must depend on that row alone: then neither blocks nor threads change a bit. */
static void for_rows(int n, int n_col, RowsFn *fn, const void *ctx)
{
    if ((size_t)n * (size_t)n_col < 2 * (size_t)WORTH_THREADS) {
        fn(ctx, 0, n);
        return;
    }
    RowsJob job = { fn, ctx, n, 1 + TASK_NUMBERS / n_col };
    parallel_for((n + job.n_block - 1) / job.n_block, rows_task, &job);
}

Tensor scratch_like(Tensor x, int n_col)
{
    return x.ndim == 3 ? scratch3(x.dim[0], x.dim[1], n_col) : scratch(n_rows(x), n_col);
}

/* [n_items, n_tok, d], or one item [n_tok, d], or one vector [d]. */
static int n_items_of(Tensor x) { return x.ndim == 3 ? x.dim[0] : 1; }
static int n_tok_of(Tensor x)   { return x.ndim == 3 ? x.dim[1] : n_rows(x); }

/* === Trace ==================================================================================== */

/* Layers trace themselves: the reference calls a layer's output by the name of its weight without
 * ".weight" (or ".gamma"). What has another ending is a bare parameter there, and has no output. */
static bool layer_name(const char *weight, int *n)
{
    const char *end = weight ? strrchr(weight, '.') : NULL;
    if (!end || (strcmp(end, ".weight") && strcmp(end, ".gamma"))) return false;
    *n = (int)(end - weight);
    return true;
}

static void trace_layer(Tensor out, Tensor weight)
{
    int n;
    if (tracing() && layer_name(weight.name, &n))
        trace(as_batch(out), "%.*s", n, weight.name);
}

Tensor as_batch(Tensor x)
{
    if (x.ndim > 2) return x;
    Tensor t = { .data = x.data, .dtype = x.dtype, .ndim = x.ndim + 1, .dim = {1} };
    for (int i = 0; i < x.ndim; i++) t.dim[i + 1] = x.dim[i];
    return t;
}

Tensor as_vector(Tensor x)
{
    if (n_rows(x) != 1) bug("as_vector: %s", shape_string(x));
    x.dim[0] = n_cols(x);
    x.ndim = 1;
    return x;
}

/* === Linear =================================================================================== */

static double flops;                         /* for -v: a multiply and an add are two */

double nn_flops(void) { return flops; }

/* out = epilogue(x W^T + b). How gemm goes about it depends on the rows of one item, n_tok: one
 * token of ten texts is read like one token of one, and gives the same bits. */
static void linear_with(Tensor out, Tensor x, const Linear *l, Epilogue e)
{
    int m = n_rows(x), n = l->w.dim[0], k = l->w.dim[1];
    if (n_cols(x) != k || n_cols(out) != n || n_rows(out) != m)
        bug("linear: %s %s from x %s to out %s", l->w.name ? l->w.name : "?", shape_string(l->w),
            shape_string(x), shape_string(out));
    e.bias = f32(l->b);
    flops += 2.0 * m * n * k;
    gemm(f32(out), n, f32(x), k, l->w.data, l->w.dtype, m, n, k, n_tok_of(x), e);
}

void linear(Tensor out, Tensor x, const Linear *l)
{
    linear_with(out, x, l, (Epilogue){ 0 });
    trace_layer(out, l->w);
}

typedef struct { float *x; int d; Act act; } ActJob;

static void act_block(const void *ctx, int first, int n)
{
    const ActJob *j = ctx;
    kernel.act[j->act](j->x + (size_t)first * (size_t)j->d, n * j->d);
}

/* The activation is part of the epilogue, while a tile of the output is in the cache: an MLP's
 * hidden units would otherwise go to memory and back. Only where they are traced is it a pass of
 * its own. */
void linear_act(Tensor out, Tensor x, const Linear *l, Act act)
{
    if (!tracing()) {
        linear_with(out, x, l, (Epilogue){ .act = act });
        return;
    }
    linear(out, x, l);
    for_rows(n_rows(out), n_cols(out), act_block, &(ActJob){ f32(out), n_cols(out), act });
}

void linear_add(Tensor out, Tensor x, const Linear *l)
{
    linear_with(out, x, l, (Epilogue){ .add = true });
}

/* === Norms and other work on rows ============================================================= */

typedef struct { float *y; const float *x; const Norm *n; int d; } NormJob;

static void norm_rows(const void *ctx, int first, int n)
{
    const NormJob *j = ctx;
    const Norm *p = j->n;
    for (size_t i = (size_t)first * (size_t)j->d, k = 0; k < (size_t)n; k++, i += (size_t)j->d) {
        if (p->rms) kernel.rmsnorm(j->y + i, j->x + i, f32(p->w), p->eps, j->d);
        else        kernel.layernorm(j->y + i, j->x + i, f32(p->w), f32(p->b), p->eps, j->d);
    }
}

/* LayerNorm: (x - mean) / sqrt(var + eps) * w + b, for each row; var is sum((x - mean)^2) / d.
 * RMSNorm:   x / sqrt(mean(x^2) + eps) * w. */
void norm(Tensor out, Tensor x, const Norm *n)
{
    int d = n_cols(x);
    if (n->w.dim[0] != d || n_cols(out) != d || n_rows(out) != n_rows(x))
        bug("norm: %s %s from x %s to out %s", n->w.name ? n->w.name : "?", shape_string(n->w),
            shape_string(x), shape_string(out));
    for_rows(n_rows(x), d, norm_rows, &(NormJob){ f32(out), f32(x), n, d });
    trace_layer(out, n->w);
}

typedef struct { float *x; const float *y; int d; } AddJob;

static void add_block(const void *ctx, int first, int n)
{
    const AddJob *j = ctx;
    size_t at = (size_t)first * (size_t)j->d;
    kernel.add(j->x + at, j->y + at, n * j->d);
}

/* The residual connection: the stream x takes up what a branch y has found. */
void add(Tensor x, Tensor y)
{
    if (n_rows(x) != n_rows(y) || n_cols(x) != n_cols(y))
        bug("add: %s to %s", shape_string(y), shape_string(x));
    for_rows(n_rows(x), n_cols(x), add_block, &(AddJob){ f32(x), f32(y), n_cols(x) });
}

/* exp(x - max) / sum: the largest exponent is 0, so nothing overflows. */
void softmax_rows(Tensor x)
{
    int d = n_cols(x);
    for (int i = 0; i < n_rows(x); i++) {
        float *row = f32(x) + (size_t)i * (size_t)d;
        float sum = kernel.exp_sum(row, row, kernel.max(row, d), d);
        kernel.scale(row, 1.0f / sum, d);
    }
}

/* A row of zeros stays zeros, as in torch.nn.functional.normalize. */
void l2_normalize(Tensor x)
{
    int d = n_cols(x);
    for (int i = 0; i < n_rows(x); i++) {
        float *row = f32(x) + (size_t)i * (size_t)d;
        float len = sqrtf(kernel.dot(row, row, d));
        kernel.scale(row, 1.0f / fmaxf(len, 1e-12f), d);
    }
}

float dot(const float *a, const float *b, int n)
{
    return kernel.dot(a, b, n);
}

/* === Tables =================================================================================== */

/* Row i as F32. */
static void table_row(float *out, Tensor table, int i)
{
    size_t d = (size_t)n_cols(table);
    if (table.dtype == Q8 || table.dtype == Q4)
        quant_decode(out, table.data, table.dtype, i, (int)d);
    else
        kernel.cvt[table.dtype](out, (const char *)table.data + (size_t)i * d *
                                dtype_size(table.dtype), (int)d);
}

int cut_ids(int *to, const int *ids, int n, int max)
{
    int n_cut = n < max ? n : max;
    memcpy(to, ids, (size_t)n_cut * sizeof *to);
    to[n_cut - 1] = ids[n - 1];
    return n_cut;
}

/* An id beyond the table means that tokenizer and weights do not belong together: the user's to
 * mend. */
void embed_rows(Tensor out, Tensor table, const int *ids, int n)
{
    int d = n_cols(table);
    if (n_rows(out) != n || n_cols(out) != d)
        bug("embed_rows: %d rows of %s to %s", n, shape_string(table), shape_string(out));
    for (int i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= n_rows(table))
            die(EXIT_FILE, "token %d, but tensor %s has %d rows\n"
                "are the tokenizer and the weights from the same model?",
                ids[i], quoted(table.name ? table.name : "?"), n_rows(table));
        table_row(f32(out) + (size_t)i * (size_t)d, table, ids[i]);
    }
    trace_layer(out, table);
}

/* Positions: token t of each item gets row first + t. */
void add_rows(Tensor x, Tensor table, int first)
{
    int d = n_cols(x), n_tok = n_tok_of(x);
    if (n_cols(table) != d || first < 0 || first > n_rows(table) - n_tok)
        bug("add_rows: rows %d.. of %s to %s", first, shape_string(table), shape_string(x));
    size_t mark = scratch_mark();
    Tensor used = scratch(n_tok, d);                          /* these rows as F32 */
    for (int t = 0; t < n_tok; t++)
        table_row(f32(rows(used, t, 1)), table, first + t);
    for (int i = 0; i < n_rows(x); i++)
        kernel.add(f32(x) + (size_t)i * (size_t)d, f32(rows(used, i % n_tok, 1)), d);
    trace_layer(used, table);
    scratch_reset(mark);
}

/* === Rotary positions ========================================================================= */

typedef struct { float *x; const Rope *rope; int n_heads, head_dim, n_tok; } RopeJob;

static void rope_rows(const void *ctx, int first, int n)
{
    const RopeJob *j = ctx;
    int n_pairs = n_cols(j->rope->cos), d = j->n_heads * j->head_dim;
    for (int i = first; i < first + n; i++) {
        size_t at = (size_t)(i % j->n_tok) * (size_t)n_pairs;
        kernel.rope[ROPE_HALVES](j->x + (size_t)i * (size_t)d, f32(j->rope->cos) + at,
                                 f32(j->rope->sin) + at, j->n_heads, j->head_dim, n_pairs);
    }
}

/* x [.., n_tok, n_heads*head_dim]: queries or keys, in place. */
static void rotate(Tensor x, const Rope *r, int n_heads, int head_dim)
{
    if (!r->cos.data) return;
    if (n_rows(r->cos) != n_tok_of(x) || 2 * n_cols(r->cos) > head_dim)
        bug("rope: angles %s for %s of %d heads", shape_string(r->cos), shape_string(x), n_heads);
    for_rows(n_rows(x), n_cols(x), rope_rows,
             &(RopeJob){ f32(x), r, n_heads, head_dim, n_tok_of(x) });
}

static void scale_queries(Tensor q, Tensor by)
{
    if (!by.data) return;
    for (int i = 0; i < n_rows(q); i++)
        kernel.scale(f32(q) + (size_t)i * (size_t)n_cols(q), f32(by)[i % n_tok_of(q)], n_cols(q));
}

/* === Keys and values of the past ============================================================== */

KvCache kv_cache_scratch(int n_items, int max_len, int d)
{
    return (KvCache){ .k = scratch3(n_items, max_len, d), .v = scratch3(n_items, max_len, d) };
}

/* Through a copy of what is used: beams may have swapped places. */
static void reorder(Tensor t, int len, const int *from, int n_items)
{
    size_t row = (size_t)t.dim[2] * dtype_size(t.dtype);      /* bytes */
    size_t item = (size_t)t.dim[1] * row, used = (size_t)len * row;
    size_t mark = scratch_mark();
    char *old = scratch_bytes(mul_size((size_t)t.dim[0], used)), *now = t.data;
    for (int i = 0; i < t.dim[0]; i++)
        memcpy(old + (size_t)i * used, now + (size_t)i * item, used);
    for (int i = 0; i < n_items; i++)
        memcpy(now + (size_t)i * item, old + (size_t)from[i] * used, used);
    scratch_reset(mark);
}

void kv_reorder(KvCache *c, const int *from, int n_items)
{
    bool same = true;
    for (int i = 0; i < n_items; i++) {
        if (from[i] < 0 || from[i] >= c->k.dim[0] || n_items > c->k.dim[0])
            bug("kv_reorder: item %d of %d from %d of %d", i, n_items, from[i], c->k.dim[0]);
        same = same && from[i] == i;
    }
    if (same || !c->len) return;
    reorder(c->k, c->len, from, n_items);
    reorder(c->v, c->len, from, n_items);
}

/* Projects the tokens of x into rows len .. len+n_tok-1 of each item of the cache, of whatever type
 * it is, with positions if there is a rope. Of a single item in F32 these rows follow each other,
 * and the product is written where it will stay. */
static void cache_project(Tensor cache, int len, Tensor x, const Linear *l, const Rope *rope,
                          const Attn *a)
{
    int n_items = n_items_of(x), n_tok = n_tok_of(x), d = cache.dim[2];
    if (n_items > cache.dim[0] || len + n_tok > cache.dim[1])
        bug("attention: %d items, rows %d..%d do not fit a cache %s", n_items, len,
            len + n_tok - 1, shape_string(cache));
    if (n_items == 1 && cache.dtype == F32) {
        Tensor new = rows(flat(cache), len, n_tok);
        linear(new, x, l);
        if (rope) rotate(new, rope, a->n_kv_heads, a->head_dim);
        return;
    }
    size_t mark = scratch_mark();
    Tensor new = scratch_like(x, d);
    linear(new, x, l);
    if (rope) rotate(new, rope, a->n_kv_heads, a->head_dim);
    size_t n = (size_t)n_tok * (size_t)d, item = (size_t)cache.dim[1] * (size_t)d;
    for (size_t i = 0; i < (size_t)n_items; i++)
        kernel.narrow[cache.dtype]((char *)cache.data + (i * item + (size_t)len * (size_t)d) *
                                   dtype_size(cache.dtype), f32(new) + i * n, (int)n);
    scratch_reset(mark);
}

/* === Attention ================================================================================ */

/* Keys and values as attention finds them: [n_kv, d_kv] of item i begins at i * stride. */
typedef struct { const void *k, *v; DType type; int n_kv; size_t stride; } Keys;

/* Cross-attention: the memory serves all items. Its keys and values do not change while a text is
 * written, so with a cache they are computed once: for a picture of 577 rows they cost as much as
 * 577 tokens. */
static Keys keys_of_memory(const Attn *a, const AttnArgs *args)
{
    int d = a->n_kv_heads * a->head_dim;
    KvCache *c = args->cache;
    if (!c) {
        Tensor k = scratch(n_rows(args->memory), d), v = scratch(n_rows(args->memory), d);
        linear(k, args->memory, &a->k);
        linear(v, args->memory, &a->v);
        return (Keys){ f32(k), f32(v), F32, n_rows(args->memory), 0 };
    }
    if (!c->len) {
        cache_project(c->k, 0, args->memory, &a->k, NULL, a);
        cache_project(c->v, 0, args->memory, &a->v, NULL, a);
        c->len = n_rows(args->memory);
    }
    return (Keys){ c->k.data, c->v.data, c->k.dtype, c->len, 0 };
}

/* Self-attention: each item has its own. With a cache those of the past come first, and a new token
 * costs one row instead of all. */
static Keys keys_of_self(Tensor x, const Attn *a, const AttnArgs *args)
{
    int d = a->n_kv_heads * a->head_dim;
    KvCache *c = args->cache;
    if (!c) {
        Tensor k = scratch_like(x, d), v = scratch_like(x, d);
        linear(k, x, &a->k);
        rotate(k, &args->rope, a->n_kv_heads, a->head_dim);
        linear(v, x, &a->v);
        return (Keys){ f32(k), f32(v), F32, n_tok_of(x), (size_t)n_tok_of(x) * (size_t)d };
    }
    cache_project(c->k, c->len, x, &a->k, &args->rope, a);
    cache_project(c->v, c->len, x, &a->v, NULL, a);
    c->len += n_tok_of(x);
    return (Keys){ c->k.data, c->v.data, c->k.dtype, c->len, (size_t)c->k.dim[1] * (size_t)d };
}

static void attend_keys(Tensor out, Tensor q, Keys kv, const Attn *a, Tensor bias, bool causal)
{
    if (n_cols(q) != a->n_heads * a->head_dim || n_cols(out) != n_cols(q) ||
        n_rows(out) != n_rows(q))
        bug("attend: %d heads of %d from q %s to out %s", a->n_heads, a->head_dim,
            shape_string(q), shape_string(out));
    if (bias.data && n_elem(bias) % ((size_t)n_tok_of(q) * (size_t)kv.n_kv))
        bug("attend: bias %s for %d queries, %d keys", shape_string(bias), n_tok_of(q), kv.n_kv);
    flops += 4.0 * n_rows(q) * kv.n_kv * n_cols(q);
    attention_heads(&(Attention){
        .out = f32(out), .q = f32(q), .k = kv.k, .v = kv.v, .kv_type = kv.type,
        .kv_stride = kv.stride,
        .bias = f32(bias), .bias_heads = bias.data && bias.ndim == 3 ? bias.dim[0] : 1,
        .n_items = n_items_of(q), .n_q = n_tok_of(q), .n_kv = kv.n_kv,
        .n_heads = a->n_heads, .n_kv_heads = a->n_kv_heads, .head_dim = a->head_dim,
        .scale = a->scale, .causal = causal,
    });
}

/* k and v [n_kv, ..] serve all items of q; [n_items, n_kv, ..] one each. */
void attend(Tensor out, Tensor q, Tensor k, Tensor v, const Attn *a, Tensor bias, bool causal)
{
    int d = a->n_kv_heads * a->head_dim;
    if (n_cols(k) != d || n_cols(v) != d || n_rows(k) != n_rows(v) ||
        (k.ndim == 3 && k.dim[0] != n_items_of(q)))
        bug("attend: q %s, k %s, v %s", shape_string(q), shape_string(k), shape_string(v));
    size_t stride = k.ndim == 3 ? (size_t)n_tok_of(k) * (size_t)d : 0;
    attend_keys(out, q, (Keys){ f32(k), f32(v), F32, n_tok_of(k), stride }, a, bias, causal);
}

/* out = [head 1, .., head n] W_o^T, head h = softmax(q_h k_h^T scale + bias) v_h, where q, k and v
 * are projections of x, or k and v of the memory. The scores, n_q x n_kv for each head, never exist
 * as a whole: attention_heads keeps a running maximum and sum. */
void attention(Tensor out, Tensor x, const Attn *a, AttnArgs args)
{
    size_t mark = scratch_mark();
    Tensor q = scratch_like(x, a->n_heads * a->head_dim);
    Tensor heads = scratch_like(x, a->n_heads * a->head_dim);
    linear(q, x, &a->q);
    rotate(q, &args.rope, a->n_heads, a->head_dim);
    scale_queries(q, args.rope.q_scale);
    Keys kv = args.memory.data ? keys_of_memory(a, &args) : keys_of_self(x, a, &args);
    attend_keys(heads, q, kv, a, args.bias, args.causal);
    if (a->trace) trace(as_batch(heads), "%s", a->trace);
    linear(out, heads, &a->o);
    scratch_reset(mark);
}

/* === MLP ====================================================================================== */

/* down(act(up x)); gated (SwiGLU and its kin, arXiv 2002.05202): down(act(gate x) * up x). */
void mlp(Tensor out, Tensor x, const Mlp *m)
{
    size_t mark = scratch_mark();
    Tensor h = scratch_like(x, m->up.w.dim[0]);               /* [n_tok, d_ff] */
    if (m->gate.w.data) {
        Tensor gate = scratch_like(x, m->up.w.dim[0]);
        linear_act(gate, x, &m->gate, m->act);
        if (!tracing()) {
            linear_with(h, x, &m->up, (Epilogue){ .mul = f32(gate) });
        } else {
            linear(h, x, &m->up);
            kernel.mul(f32(h), f32(gate), (int)n_elem(h));
        }
    } else {
        linear_act(h, x, &m->up, m->act);
    }
    if (m->trace) trace(as_batch(h), "%s", m->trace);
    linear(out, h, &m->down);
    scratch_reset(mark);
}

/* === Pictures ================================================================================= */

/* [H, W, C] and [n, H, W, C] */
typedef struct { int n, h, w, c; } Picture;

static Picture picture_of(Tensor x)
{
    if (x.ndim != 3 && x.ndim != 4) bug("no picture: %s", shape_string(x));
    const int *d = x.dim + x.ndim - 3;
    return (Picture){ x.ndim == 4 ? x.dim[0] : 1, d[0], d[1], d[2] };
}

static int conv_size(int n, const Conv *c)
{
    return c->transposed ? (n - 1) * c->stride - 2 * c->pad + c->k + c->extra
                         : (n + 2 * c->pad + c->extra - c->k) / c->stride + 1;
}

static int conv_groups(const Conv *c) { return c->groups ? c->groups : 1; }
static int conv_out(const Conv *c)
{
    return c->transposed ? c->w.dim[1] * conv_groups(c) : c->w.dim[0];
}

Tensor conv_like(Tensor x, const Conv *c)
{
    Picture p = picture_of(x);
    int h = conv_size(p.h, c), w = conv_size(p.w, c);
    if (h < 1 || w < 1) bug("conv2d: %s from %s", shape_string(c->w), shape_string(x));
    Tensor t = scratch3(p.n, h * w, conv_out(c));
    if (x.ndim == 3) return (Tensor){ .data = t.data, .ndim = 3, .dim = { h, w, conv_out(c) } };
    return (Tensor){ .data = t.data, .ndim = 4, .dim = { p.n, h, w, conv_out(c) } };
}

static void conv2d_with(Tensor out, Tensor x, const Conv *c, Epilogue e)
{
    Picture from = picture_of(x), to = picture_of(out);
    int groups = conv_groups(c);
    int n_in = c->transposed ? c->w.dim[0] : c->w.dim[1] * groups;
    if (from.c != n_in || to.c != conv_out(c) || from.n != to.n || to.h != conv_size(from.h, c) ||
        to.w != conv_size(from.w, c))
        bug("conv2d: %s from %s to %s", shape_string(c->w), shape_string(x), shape_string(out));
    e.bias = f32(c->b);
    flops += 2.0 * (double)n_elem(c->transposed ? x : out) * (double)n_elem(c->w) /
             c->w.dim[0];
    convolve(&(Convolution){
        .out = f32(out), .in = f32(x), .w = c->w.data, .type = c->w.dtype,
        .n = from.n, .h = from.h, .width = from.w, .c_in = from.c,
        .out_h = to.h, .out_w = to.w, .c_out = to.c, .kh = c->k, .kw = c->k, .stride = c->stride,
        .pad_top = c->pad, .pad_left = c->pad, .groups = groups, .transposed = c->transposed,
        .e = e,
    });
}

/* The reference calls a layer's output by the name of its weight, as trace_layer() says. */
static void trace_picture(Tensor t, Tensor weight)
{
    int n;
    if (tracing() && layer_name(weight.name, &n))
        trace_map(t, t.dim[t.ndim - 3], t.dim[t.ndim - 2], "%.*s", n, weight.name);
}

void conv2d(Tensor out, Tensor x, const Conv *c)
{
    conv2d_with(out, x, c, (Epilogue){ 0 });
    trace_picture(out, c->w);
}

/* As in linear_act. */
void conv2d_act(Tensor out, Tensor x, const Conv *c, Act act)
{
    if (!tracing()) {
        conv2d_with(out, x, c, (Epilogue){ .act = act });
        return;
    }
    conv2d(out, x, c);
    for_rows(n_rows(out), n_cols(out), act_block, &(ActJob){ f32(out), n_cols(out), act });
}

/* With a trace, what the reference has is the convolution by itself, before the sum. */
void conv2d_add(Tensor out, Tensor x, const Conv *c)
{
    if (!tracing()) {
        conv2d_with(out, x, c, (Epilogue){ .add = true });
        return;
    }
    size_t mark = scratch_mark();
    Tensor y = conv_like(x, c);
    conv2d(y, x, c);
    add(out, y);
    scratch_reset(mark);
}

/* The activation comes with the norm, in one pass over memory, unless the reference's norm alone is
 * to be traced. */
void group_norm(Tensor out, Tensor x, const GroupNorm *g, Act act)
{
    Picture p = picture_of(x);
    if (n_elem(out) != n_elem(x) || n_cols(out) != p.c || (int)n_elem(g->w) != p.c ||
        p.c % g->groups)
        bug("group_norm: %s in %d groups from %s to %s", shape_string(g->w), g->groups,
            shape_string(x), shape_string(out));
    group_normalize(f32(out), f32(x), f32(g->w), f32(g->b), p.n, p.h * p.w, p.c, g->groups, g->eps,
                    tracing() ? ACT_NONE : act);
    if (!tracing()) return;
    trace_picture(out, g->w);
    for_rows(n_rows(out), n_cols(out), act_block, &(ActJob){ f32(out), n_cols(out), act });
}

/* A convolution whose stride is its size touches each pixel once. What is left over at the right
 * and lower edge is not looked at. */
Tensor patch_embed(Tensor image, const Conv *c)
{
    if (image.ndim != 3 || c->stride != c->k || c->pad) bug("patch_embed: %s", shape_string(c->w));
    Tensor out = conv_like(image, c);
    conv2d(out, image, c);
    Tensor patches = out;
    patches.ndim = 2;
    patches.dim[0] = out.dim[0] * out.dim[1];
    patches.dim[1] = out.dim[2];
    return patches;
}
