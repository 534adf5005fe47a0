/* estimate.c -- what a model will cost on this machine, told before it runs: memory and time.
 *
 *   config.json -> the shape of its towers -> multiplications for n tokens, keys and values a token
 *   checkpoint  -> bytes that are read for one token
 *   a matrix of the model's size, at most 256 MB, multiplied here and now by one row, and a small
 *   one by 256 -> bytes and multiplications a second, with the kernels, the threads and the type of
 *   weights that the model will have
 *   -> seconds per picture, tokens per second
 *
 * One token meets every weight once and does two operations with it, so it takes as long as reading
 * them takes; a picture or a prompt is hundreds of tokens at once, and takes as long as multiplying
 * does. The larger of the two counts, and for each matrix what a call of a kernel takes that does
 * next to nothing. What is left out (norms, softmax, decoding the picture) is a tenth or two; other
 * programs that run meanwhile are not, since they are there while measuring.
 *
 * Easy to get wrong:
 *   - A table of embeddings is not read, a row of it is; unless it is the output matrix as well.
 *   - Memory that was never written is one page of zeros: reading it would measure the cache.
 *   - What fits the last cache is read twice as fast: only a small model may be measured in it.
 *   - The first call of a kernel is slower than the next: it starts threads and fills caches. */
#include <math.h>
#include <string.h>

#include "cli.h"

enum { LEAST = 16 << 20, MOST = 256 << 20, PIECE = 1 << 20 };        /* of weights, in bytes */
enum { ROWS = 256, SIDE = 1024, PROMPT = 512, TEXT_TOKENS = 16 };

/* === The shape of a model ===================================================================== */

/* The value under one of two names. */
static int config_int(Json c, const char *key, const char *other, int standard, int max)
{
    return json_int(c, json_get(c, key).node ? key : other, standard, 1, max);
}

static Tower tower_of(Json c, const char *type, bool vision)
{
    bool clip = !strcmp(type, "clip"), small = clip && !vision, qwen = !strcmp(type, "qwen");
    bool plain = !strcmp(type, "opt") || !strncmp(type, "phi", 3) || !strcmp(type, "bert")
              || !strcmp(type, "blip") || clip || vision;
    Tower t = {
        .layers = config_int(c, "num_hidden_layers", "n_layer", 12, 1024),
        .d = config_int(c, "hidden_size", "n_embd", small ? 512 : 768, 1 << 17),
        .heads = config_int(c, "num_attention_heads", "n_head", small ? 8 : 12, 1024),
        .image = json_int(c, "image_size", clip ? 224 : 384, 1, 16384),
        .patch = json_int(c, "patch_size", clip ? 32 : 16, 1, 1024),
        .vocab = json_int(c, "vocab_size", clip ? 49408 : 30524, 1, 1 << 22),
        .context = config_int(c, "max_position_embeddings", "n_positions", clip ? 77 : 512,
                              1 << 24),
    };
    t.d_ff = config_int(c, "intermediate_size", "ffn_dim", 4 * t.d, 1 << 21) / (qwen ? 2 : 1);
    t.kv_heads = json_int(c, "num_key_value_heads", t.heads, 1, 1024);
    t.head_dim = config_int(c, "head_dim", "kv_channels", t.d / t.heads ? t.d / t.heads : 1, 4096);
    t.mlp_matrices = plain ? 2 : 3;
    int side = t.image / t.patch;
    t.n_tok = side * side + 1;
    return t;
}

/* Operations for n tokens at once: two per weight and token, and four per number of a query and
 * token it looks at. */
static double tower_flops(const Tower *t, double n)
{
    double q = (double)t->heads * t->head_dim, kv = (double)t->kv_heads * t->head_dim;
    double weights = t->d * (2 * q + 2 * kv) + (double)t->mlp_matrices * t->d * t->d_ff;
    return t->layers * n * (2 * weights + 4 * q * n);
}

/* === The checkpoint =========================================================================== */

static bool is_table(const char *name) { return strstr(name, "embed") || strstr(name, "wte."); }

/* Bytes of the matrices that have this in their names; without a head the largest table is one. */
static double matrix_bytes(Ckpt ck, const char *part, bool has_head)
{
    double sum = 0, table = 0;
    for (int i = 0; i < ckpt_count(ck); i++) {
        CkptEntry e = ckpt_entry(ck, i);
        if (!e.used || e.ndim < 2 || !strstr(e.name, part)) continue;
        if (!is_table(e.name)) sum += (double)e.n_bytes;
        else if ((double)e.n_bytes > table) table = (double)e.n_bytes;
        has_head |= strstr(e.name, "lm_head") != NULL;
    }
    return has_head ? sum : sum + table;
}

/* The type that most of the bytes have. */
static DType main_type(Ckpt ck)
{
    static const struct { const char *name; DType type; } types[] = {
        { "F32", F32 }, { "F16", F16 }, { "BF16", BF16 }, { "Q8", Q8 }, { "Q4", Q4 } };
    enum { N = sizeof types / sizeof types[0] };
    double sum[N] = { 0 };
    int best = 0;
    for (int i = 0; i < ckpt_count(ck); i++)
        for (int k = 0; k < N; k++) {
            CkptEntry e = ckpt_entry(ck, i);
            if (e.used && !strcmp(e.dtype, types[k].name)) sum[k] += (double)e.n_bytes;
            if (sum[k] > sum[best]) best = k;
        }
    return types[best].type;
}

/* === The machine ============================================================================== */

static void fill_piece(void *ctx, int i, int worker)
{
    (void)worker;
    memset((char *)ctx + (size_t)i * PIECE, 0x3c, PIECE);        /* a small number in any type */
}

/* Seconds of x W^T: the mean of what fits into 20 ms, after the first. */
static double time_linear(Tensor out, Tensor x, const Linear *l)
{
    int n = 0;
    linear(out, x, l);
    double start = now_ms(), spent = 0;
    while (n < 1 || (n < 1000 && spent < 20)) {
        linear(out, x, l);
        spent = now_ms() - start;
        n++;
    }
    return 1e-3 * (spent > 0 ? spent : 1e-3) / n;
}

static size_t weight_bytes(DType type, int n, int k)
{
    return type == Q8 || type == Q4 ? quant_bytes(type, n, k)
                                    : (size_t)n * (size_t)k * dtype_size(type);
}

/* Bytes of weights read a second for one row, operations a second for many. */
static void measure(Cost *c, DType type)
{
    enum { LONG = 4096 };
    size_t mark = scratch_mark();
    double size = fmin(fmin(c->mapped, MOST), 0.25 * (double)memory_available());
    size_t bytes = (size_t)fmax(size, LEAST) / PIECE * PIECE;
    char *weights = scratch_bytes(bytes);
    parallel_for((int)(bytes / PIECE), fill_piece, weights);
    int n = 8 * (int)(bytes / weight_bytes(type, 8, LONG));
    Linear wide = { .w = { weights, type, 2, { n, LONG }, "estimate" } };
    Linear square = { .w = { weights, type, 2, { SIDE, SIDE }, "estimate" } };
    Linear tiny = { .w = { weights, type, 2, { 32, 32 }, "estimate" } };
    Tensor x = scratch(ROWS, SIDE), one = scratch(1, LONG), small = scratch(1, 32);
    memset(x.data, 0, n_elem(x) * sizeof(float));
    memset(one.data, 0, n_elem(one) * sizeof(float));
    memset(small.data, 0, n_elem(small) * sizeof(float));
    c->multiply = 2.0 * ROWS * SIDE * SIDE / time_linear(scratch(ROWS, SIDE), x, &square);
    c->read = (double)weight_bytes(type, n, LONG) / time_linear(scratch(1, n), one, &wide);
    c->call = time_linear(scratch(1, 32), small, &tiny);
    scratch_reset(mark);
}

/* n tokens at once through a tower whose matrices have so many bytes. */
static double seconds(const Cost *c, const Tower *t, double n, double bytes)
{
    double multiply = tower_flops(t, n) / c->multiply, read = bytes / c->read;
    return (multiply > read ? multiply : read) + t->layers * (4 + t->mlp_matrices) * c->call;
}

/* === All of it ================================================================================ */

/* A picture's rows become keys and values for each layer of the text once, and are read for each
 * token. */
static void estimate_blip(Cost *c, const ModelFacts *m)
{
    bool writes = strstr(m->runs, "caption") != NULL;
    double bytes = matrix_bytes(m->ck, writes ? "text_decoder." : "text_encoder.", true);
    double pairs = 2.0 * c->text.layers * c->vision.n_tok;      /* rows of keys and of values */
    c->image_s = seconds(c, &c->vision, c->vision.n_tok, matrix_bytes(m->ck, "vision_", true))
               + 2 * pairs * c->vision.d * c->text.d / c->multiply;
    if (writes) c->token_s = seconds(c, &c->text, 1, bytes + 4 * pairs * c->text.d);
    else c->text_s = seconds(c, &c->text, TEXT_TOKENS, bytes);
}

static void estimate_writer(Cost *c, const ModelFacts *m, const Options *o)
{
    bool has_vision = c->vision.layers > 0;
    double bytes = matrix_bytes(m->ck, "", false);
    if (has_vision) bytes -= matrix_bytes(m->ck, "vision_tower.", true);      /* LLaVA's */
    c->ctx = o->ctx > 0 ? (int)o->ctx : c->text.context < 4096 ? c->text.context : 4096;
    double size = o->kv && !strcmp(o->kv, "f16") ? 2 : 4;
    c->kv_token = 2.0 * c->text.layers * c->text.kv_heads * c->text.head_dim * size;
    c->prompt_s = seconds(c, &c->text, PROMPT, bytes) / PROMPT;
    c->token_s = seconds(c, &c->text, 1, bytes + PROMPT * c->kv_token);
    if (has_vision)
        c->image_s = seconds(c, &c->vision, c->vision.n_tok, 0) + c->vision.n_tok * c->prompt_s;
}

/* What one process needs for itself: keys and values, activations, the logits, the picture. */
static double own_bytes(const Cost *c)
{
    const Tower *v = &c->vision, *t = &c->text;
    double n = (double)keep_peak() + 8e6;                /* packed panels, stacks, the program */
    double rows = c->ctx > PROMPT ? PROMPT : c->ctx ? c->ctx : t->context;
    if (v->layers) n += 12e6 * 3 * 2 + 4.0 * v->n_tok * (8.0 * v->d + v->d_ff);
    return n + 4.0 * (rows * (8.0 * t->d + (t->mlp_matrices - 1.0) * t->d_ff) + t->vocab)
         + c->ctx * c->kv_token;
}

Cost estimate(const ModelFacts *m, const Options *o)
{
    Json vision = m->vision, text = json_get(m->config, "text_config");
    Cost c = { .mapped = (double)ckpt_bytes(m->ck) + m->beside,
               .text = tower_of(text.node ? text : m->config,
                                json_str(text, "model_type", m->type), false) };
    if (vision.node) c.vision = tower_of(vision, m->type, true);
    if (m->n_rows) c.vision.n_tok = m->n_rows;
    measure(&c, main_type(m->ck));
    if (strstr(m->runs, "complete") || strstr(m->runs, "chat")) estimate_writer(&c, m, o);
    else if (!strcmp(m->type, "blip")) estimate_blip(&c, m);
    else {
        const char *prefix = vision.node ? "text_model." : "";
        if (vision.node)
            c.image_s = seconds(&c, &c.vision, c.vision.n_tok,
                                matrix_bytes(m->ck, "vision_model.", true));
        c.text_s = seconds(&c, &c.text, TEXT_TOKENS, matrix_bytes(m->ck, prefix, true));
    }
    c.own = own_bytes(&c);
    return c;
}
