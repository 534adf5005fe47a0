/* bert.c -- BERT (arXiv 1810.04805), BLIP's text model (2201.12086), and sentence encoders
 * (Sentence-BERT, 1908.10084). Reference: transformers' BertModel and BlipTextModel.
 *
 *   ids [n_tok] -> word + segment + position -> norm: x [n_tok, d]
 *   n_layers times:  x = norm(x + attention(x))
 *                    x = norm(x + attention(x, memory))      BLIP only: memory is the image
 *                    x = norm(x + mlp(x))
 *   sentence: x [n_tok, d] -> mean, first or largest over the tokens -> [1, d]
 *   language model: logits = W_word norm(gelu(dense x)) + bias -> [n_tok, n_vocab]
 *
 * As a decoder the same layers see only what came before and keep its keys and values.
 *
 * Easy to get wrong:
 *   - The norm comes after the residual, so there is none at the end.
 *   - layer_norm_eps is 1e-12 here, 1e-5 in BLIP's image tower.
 *   - BLIP's text model has no segments, and its memory has the image tower's width.
 *   - The output matrix is the word table; checkpoints may leave it out, or carry it twice. Of its
 *     bias, too, there may be one or two copies.
 *   - Mean pooling counts [CLS] and [SEP]. */
#include <math.h>
#include <string.h>

#include "mm.h"

typedef struct {
    Attn attn;
    Norm attn_norm;
    Attn cross;                      /* absent in BERT */
    Norm cross_norm;
    Mlp  mlp;
    Norm mlp_norm;
    const char *name;                /* "encoder.layer.3.", for trace() */
} BertLayer;

struct Bert {
    int    n_layers, d, n_heads, d_ff, n_vocab, max_tokens;
    float  eps;
    Act    act;
    Tensor words, positions, segments;      /* [n_vocab, d], [max_tokens, d], [n_segments, d] */
    Norm   norm;
    BertLayer *layer;
    Linear transform, decoder;              /* the head: bert_load_head */
    Norm   head_norm;
    const char *name, *head_name;           /* where they are in the checkpoint, for trace() */
};

/* === Loading ================================================================================== */

/* ck at "attention" or "crossattention". */
static Attn bert_attn_load(Ckpt ck, const Bert *b, int d_kv)
{
    int head_dim = b->d / b->n_heads;
    return (Attn){
        .q = linear_load(ck, "self.query",   b->d, b->d),
        .k = linear_load(ck, "self.key",     b->d, d_kv),
        .v = linear_load(ck, "self.value",   b->d, d_kv),
        .o = linear_load(ck, "output.dense", b->d, b->d),
        .n_heads = b->n_heads, .n_kv_heads = b->n_heads, .head_dim = head_dim,
        .scale = 1.0f / sqrtf((float)head_dim),
        .trace = keep_string("%sself", ck.prefix),
    };
}

/* The initialiser is the table: our part -> name in the checkpoint -> shape. */
static BertLayer bert_layer_load(Ckpt ck, const Bert *b, int d_image, int i)
{
    ck = ckpt_at(ck, "encoder.layer.%d.", i);
    BertLayer l = {
        .attn      = bert_attn_load(ckpt_at(ck, "attention."), b, b->d),
        .attn_norm = norm_load(ck, "attention.output.LayerNorm", b->d, b->eps),
        .mlp = {
            .up   = linear_load(ck, "intermediate.dense", b->d_ff, b->d),
            .down = linear_load(ck, "output.dense", b->d, b->d_ff),
            .act  = b->act,
            .trace = keep_string("%sintermediate", ck.prefix),
        },
        .mlp_norm  = norm_load(ck, "output.LayerNorm", b->d, b->eps),
        .name      = keep_string("%s", ck.prefix),
    };
    if (d_image) {
        l.cross      = bert_attn_load(ckpt_at(ck, "crossattention."), b, d_image);
        l.cross_norm = norm_load(ck, "crossattention.output.LayerNorm", b->d, b->eps);
    }
    return l;
}

/* BLIP's files of before April 2023 say 8 heads, which is the class default and never was true. */
static int bert_heads(Json config, bool blip, int d)
{
    int n_heads = json_int(config, "num_attention_heads", blip ? 8 : 12, 1, 1024);
    if (blip && d == 768 && n_heads == 8) {
        fprintf(stderr, "mm: %s: 8 text heads of 96 are a known mistake of old files: "
                "12 heads are used\n", quoted(json_doc_name(config)));
        return 12;
    }
    if (d % n_heads)
        json_error(json_get(config, "num_attention_heads"),
                   "is %d, which does not divide hidden_size %d", n_heads, d);
    return n_heads;
}

/* Keys that are missing have the defaults of BertConfig and BlipTextConfig; all sizes are held
 * against the shapes of the tensors, so that a wrong one dies here. */
Bert *bert_load(Ckpt ck, Json config, BertOptions o)
{
    Bert *b = keep_bytes(sizeof *b);
    bool blip = o.d_image > 0;
    const char *kind = json_str(config, "position_embedding_type", "absolute");
    if (strcmp(kind, "absolute"))
        die(EXIT_MODEL, "%s: key position_embedding_type is \"%s\": mm runs BERT with \"absolute\"",
            quoted(json_doc_name(config)), quoted(kind));
    b->d          = json_int(config, "hidden_size", 768, 1, 65536);
    b->n_layers   = json_int(config, "num_hidden_layers", 12, 1, 1024);
    b->n_heads    = bert_heads(config, blip, b->d);
    b->d_ff       = json_int(config, "intermediate_size", 3072, 1, 1 << 20);
    b->n_vocab    = json_int(config, "vocab_size", blip ? 30524 : 30522, 1, 1 << 22);
    b->max_tokens = json_int(config, "max_position_embeddings", 512, 1, 1 << 20);
    b->eps        = (float)json_float(config, "layer_norm_eps", 1e-12, 0, 1);
    b->act        = json_act(config, "hidden_act", GELU);
    b->name       = keep_string("%s", ck.prefix);

    Ckpt e = ckpt_at(ck, "embeddings.");
    b->words     = o.tied ? matrix_load(e, "word_embeddings.weight", b->n_vocab, b->d, HEAD_MATRIX)
                          : ckpt_get(e, "word_embeddings.weight", b->n_vocab, b->d);
    b->positions = ckpt_get(e, "position_embeddings.weight", b->max_tokens, b->d);
    if (!o.no_segments) {
        int n_segments = json_int(config, "type_vocab_size", 2, 1, 1 << 16);
        b->segments = ckpt_get(e, "token_type_embeddings.weight", n_segments, b->d);
    }
    b->norm = norm_load(e, "LayerNorm", b->d, b->eps);
    ckpt_ignore(e, "position_ids");                   /* 0, 1, 2, ...: old files carry it */

    b->layer = keep_bytes(mul_size((size_t)b->n_layers, sizeof *b->layer));
    for (int i = 0; i < b->n_layers; i++) b->layer[i] = bert_layer_load(ck, b, o.d_image, i);
    return b;
}

/* What is absent is tied: the matrix to the word table. A file may hold the bias as "bias", as
 * "decoder.bias", or as both, which the reference keeps as one tensor. */
void bert_load_head(Bert *b, Ckpt ck)
{
    b->transform = linear_load(ck, "transform.dense", b->d, b->d);
    b->head_norm = norm_load(ck, "transform.LayerNorm", b->d, b->eps);
    const char *bias = ckpt_has(ck, "decoder.bias") ? "decoder." : "";
    if (ckpt_has(ck, "decoder.weight")) {
        b->decoder.w = matrix_load(ck, "decoder.weight", b->n_vocab, b->d, HEAD_MATRIX);
    } else {
        b->decoder.w = b->words;
        b->decoder.w.name = keep_string("%sdecoder.weight", ck.prefix);
    }
    b->decoder.b = vector_load(ckpt_at(ck, "%s", bias), "bias", b->n_vocab);
    if (*bias) ckpt_ignore(ck, "bias");               /* the other copy */
    b->head_name = keep_string("%s", ck.prefix);
}

int bert_layers(const Bert *b)     { return b->n_layers; }
int bert_dim(const Bert *b)        { return b->d; }
int bert_vocab(const Bert *b)      { return b->n_vocab; }
int bert_max_tokens(const Bert *b) { return b->max_tokens; }

KvCache *bert_caches(const Bert *b, int n_items, int max_len)
{
    KvCache *c = scratch_bytes(mul_size((size_t)b->n_layers, sizeof *c));
    for (int i = 0; i < b->n_layers; i++) c[i] = kv_cache_scratch(n_items, max_len, b->d);
    return c;
}

/* === Forward ================================================================================== */

/* The reference hands a tensor through several modules: one tensor, several names. */
static void trace_as(Tensor x, const char *prefix, const char *name)
{
    if (tracing()) trace(as_batch(x), "%s%s", prefix, name);
}

/* All tokens are of segment 0. */
static void add_segments(Tensor x, Tensor table)
{
    size_t mark = scratch_mark();
    int *zero = scratch_bytes(mul_size((size_t)n_rows(x), sizeof *zero));
    memset(zero, 0, (size_t)n_rows(x) * sizeof *zero);
    Tensor s = scratch_like(x, n_cols(x));
    embed_rows(s, table, zero, n_rows(x));
    add(x, s);
    scratch_reset(mark);
}

/* x = norm(word + segment + position), for tokens at first, first+1, ... [.., n, d] */
static void bert_embed(Tensor x, const Bert *b, const int *ids, int first)
{
    embed_rows(x, b->words, ids, n_rows(x));
    if (b->segments.data) add_segments(x, b->segments);
    add_rows(x, b->positions, first);
    norm(x, x, &b->norm);
    trace_as(x, b->name, "embeddings");
}

/* Post-norm: each branch h is added to the stream x [.., n, d], and the sum is normed. */
static void bert_layer(Tensor x, const BertLayer *l, AttnArgs self, AttnArgs cross)
{
    size_t mark = scratch_mark();
    Tensor h = scratch_like(x, n_cols(x));
    attention(h, x, &l->attn, self);
    add(x, h);
    norm(x, x, &l->attn_norm);
    trace_as(x, l->name, "attention.output");
    trace_as(x, l->name, "attention");

    if (cross.memory.data) {
        attention(h, x, &l->cross, cross);
        add(x, h);
        norm(x, x, &l->cross_norm);
        trace_as(x, l->name, "crossattention.output");
        trace_as(x, l->name, "crossattention");
    }

    mlp(h, x, &l->mlp);
    add(x, h);
    norm(x, x, &l->mlp_norm);
    trace_as(x, l->name, "output");
    scratch_reset(mark);
}

/* The caches know how far the text is: a decoder's first token has position self[0].len. */
Tensor bert_forward(Bert *b, const int *ids, int n_items, int n, BertArgs args)
{
    int first = args.self ? args.self[0].len : 0;
    if (n < 1 || first + n > b->max_tokens)
        fail("input.text", "shorten it", "the text has %d tokens, the model takes 1 to %d",
             first + n, b->max_tokens);
    Tensor x = n_items > 1 ? scratch3(n_items, n, b->d) : scratch(n, b->d);
    bert_embed(x, b, ids, first);
    for (int i = 0; i < b->n_layers; i++) {
        AttnArgs self  = { .cache = args.self ? &args.self[i] : NULL, .causal = args.self };
        AttnArgs cross = { .cache = args.cross ? &args.cross[i] : NULL, .memory = args.memory };
        bert_layer(x, &b->layer[i], self, cross);
        trace(as_batch(x), "%sencoder.layer.%d", b->name, i);
    }
    return x;
}

/* The product with the word table, [n_vocab, d], is the largest of a decoder's step: 23 million
 * weights of 123 in BLIP base. x [.., d] -> [.., n_vocab] */
void bert_logits(Tensor out, Tensor x, const Bert *b)
{
    size_t mark = scratch_mark();
    Tensor h = scratch_like(x, b->d);
    linear_act(h, x, &b->transform, b->act);
    norm(h, h, &b->head_norm);
    trace_as(h, b->head_name, "transform");
    linear(out, h, &b->decoder);
    if (tracing()) trace(as_batch(out), "%.*s", (int)strlen(b->head_name) - 1, b->head_name);
    scratch_reset(mark);
}

/* === Sentence encoders ======================================================================== */

typedef enum { POOL_MEAN, POOL_CLS, POOL_MAX } Pool;

struct Sentence {
    Bert *bert;
    Pool  pool;
    bool  normalize;
    int   max_tokens;
};

enum { MAX_JSON = 1 << 20 };

/* One flag is true: "pooling_mode_mean_tokens" and the like; newer files have one word instead. */
static Pool pool_read(Json config)
{
    static const struct { const char *flag, *word; int pool; } MODES[] = {
        { "pooling_mode_mean_tokens", "mean", POOL_MEAN },
        { "pooling_mode_cls_token", "cls", POOL_CLS },
        { "pooling_mode_max_tokens", "max", POOL_MAX },
        { "pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", -1 },
        { "pooling_mode_weightedmean_tokens", "weightedmean", -1 },
        { "pooling_mode_lasttoken", "lasttoken", -1 },
    };
    const char *word = json_str(config, "pooling_mode", "");
    int found = -1, n = 0;
    const char *name = *word ? word : "nothing";
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++) {
        bool on = *word ? !strcmp(word, MODES[i].word) : json_bool(config, MODES[i].flag, false);
        if (!on) continue;
        found = MODES[i].pool;
        name = MODES[i].word;
        n++;
    }
    if (n != 1 || found < 0)
        die(EXIT_MODEL, "%s: pooling by %s: mm pools by mean, cls or max",
            quoted(json_doc_name(config)), n > 1 ? "several modes" : quoted(name));
    return (Pool)found;
}

/* modules.json lists what a text passes through: Transformer, Pooling, perhaps Normalize. */
static void modules_read(Sentence *s, const char *dir, Json modules)
{
    const char *transformer = "";
    for (Json m = json_first(modules); m.node; m = json_next(m)) {
        const char *type = json_str_need(m, "type"), *dot = strrchr(type, '.');
        const char *path = json_str(m, "path", ""), *kind = dot ? dot + 1 : type;
        if (!strcmp(kind, "Transformer")) {
            transformer = path;
        } else if (!strcmp(kind, "Pooling")) {
            Json config = json_file(dir, keep_string("%s/config.json", path), MAX_JSON);
            if (config.node) s->pool = pool_read(config);
        } else if (!strcmp(kind, "Normalize")) {
            s->normalize = true;
        } else {
            die(EXIT_MODEL, "%s: module %s: mm runs Transformer, Pooling and Normalize",
                quoted(json_doc_name(modules)), quoted(type));
        }
    }
    Json limits = json_file(dir, keep_string("%s%ssentence_bert_config.json", transformer,
                                             *transformer ? "/" : ""), MAX_JSON);
    s->max_tokens = json_int(limits, "max_seq_length", s->max_tokens, 1, 1 << 20);
}

/* A BertModel has its tensors at the top, a BertForMaskedLM under "bert."; what they were trained
 * with besides, a pooler for "next sentence" and a head for masked words, a sentence vector does
 * not need. */
Sentence *sentence_load(const char *dir, Ckpt ck, Json config)
{
    Sentence *s = keep_bytes(sizeof *s);
    if (ckpt_has(ck, "bert.embeddings.word_embeddings.weight")) {
        ckpt_ignore(ck, "cls.*");                     /* what BERT was trained with */
        ck = ckpt_at(ck, "bert.");
    }
    s->bert = bert_load(ck, config, (BertOptions){ 0 });
    ckpt_ignore(ck, "pooler.*");
    ckpt_done(ck);

    s->max_tokens = s->bert->max_tokens;
    modules_read(s, dir, json_file(dir, "modules.json", MAX_JSON));
    if (s->max_tokens > s->bert->max_tokens) s->max_tokens = s->bert->max_tokens;
    return s;
}

/* x [n_tok, d] -> out [1, d]. There is no padding here, so every token counts. */
static void pool(Tensor out, Tensor x, Pool how)
{
    int n = n_rows(x), d = n_cols(x);
    float *y = f32(out);
    memcpy(y, f32(x), (size_t)d * sizeof *y);
    if (how == POOL_CLS) return;
    for (int i = 1; i < n; i++) {
        const float *row = f32(rows(x, i, 1));
        for (int k = 0; k < d; k++) y[k] = how == POOL_MEAN ? y[k] + row[k] : fmaxf(y[k], row[k]);
    }
    if (how == POOL_MEAN)
        for (int k = 0; k < d; k++) y[k] /= (float)n;
}

Tensor sentence_forward(Sentence *s, const int *ids, int n)
{
    Tensor out = scratch(1, s->bert->d);
    size_t mark = scratch_mark();
    int *some = scratch_bytes(mul_size((size_t)s->max_tokens, sizeof *some));
    if (n < 1) fail("input.text", NULL, "the text has no tokens");
    n = cut_ids(some, ids, n, s->max_tokens);
    pool(out, bert_forward(s->bert, some, 1, n, (BertArgs){ 0 }), s->pool);
    if (s->normalize) l2_normalize(out);
    scratch_reset(mark);
    return out;
}
