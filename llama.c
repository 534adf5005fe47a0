/* llama.c -- decoder-only language models: LLaMA (arXiv 2302.13971) and what became of it (Llama 2,
 * 2307.09288; Vicuna, Alpaca, Mistral), Qwen (2309.16609) and Qwen2, Phi (2306.11644), OPT
 * (2205.01068). One decoder; what the papers do differently is data.
 *
 * Reference: transformers' LlamaForCausalLM, Qwen2ForCausalLM, PhiForCausalLM, OPTForCausalLM, and
 * QWenLMHeadModel as published with Qwen's checkpoints.
 *
 *   ids [n] -> table -> x [n, d]                                OPT: + learned positions
 *   LLaMA, Qwen, OPT:  n_layers times: x += attention(norm(x)); x += mlp(norm(x))
 *   Phi:               n_layers times: h = norm(x); x += attention(h) + mlp(h)
 *   OPT-350m:          n_layers times: x = norm(x + attention(x)); x = norm(x + mlp(x))
 *   -> norm -> head -> logits [n_vocab] of the last token
 *
 *   attention: causal, over all that came before; queries and keys are turned by their position
 *   (rotary), so the cache keeps turned keys. A prompt is read in blocks, which bounds the scratch
 *   memory; a token read by itself meets every weight once.
 *
 * Easy to get wrong:
 *   - Rotary angles are f32 products: position 4000 in f64 is another angle.
 *   - Phi turns the first 32 numbers of a head only, and its exponents are over 32, not head_dim.
 *   - Qwen v1: w1 is what the gate w2 is multiplied with; intermediate_size is twice the width;
 *     c_attn has a bias although no_bias is true.
 *   - OPT's positions begin at row 2 of their table; its final_layer_norm in a layer is the MLP's.
 *   - Scaling by length (dynamic NTK) follows from the whole prompt, not from the block in hand. */
#include <math.h>
#include <string.h>

#include "mm.h"

/* === The families ============================================================================= */

/* What a checkpoint of each model_type is called inside. NULL: there is none. */
typedef struct {
    const char *type;
    const char *base, *base_short;   /* what all names but the head's begin with; in older files */
    const char *embed, *positions, *final_norm, *head, *layer;
    const char *attn_norm, *mlp_norm;                /* no mlp_norm: both branches read one norm */
    const char *q, *k, *v, *qkv, *o;                 /* qkv: [q; k; v] in one matrix */
    const char *up, *gate, *down;
    const char *attn, *mlp;          /* the modules that o and down are part of; for trace() */
    bool rms, tied;                  /* RMSNorm; the head is the table unless config.json says */
} Family;

#define LLAMA_NAMES .base = "model.", .base_short = "", .embed = "embed_tokens", \
    .final_norm = "norm", .head = "lm_head", .layer = "layers.%d.", \
    .attn_norm = "input_layernorm", .mlp_norm = "post_attention_layernorm", \
    .q = "self_attn.q_proj", .k = "self_attn.k_proj", .v = "self_attn.v_proj", \
    .o = "self_attn.o_proj", .up = "mlp.up_proj", .gate = "mlp.gate_proj", \
    .down = "mlp.down_proj", .attn = "self_attn", .mlp = "mlp", .rms = true

static const Family FAMILIES[] = {
    { .type = "llama", LLAMA_NAMES },
    { .type = "mistral", LLAMA_NAMES },
    { .type = "qwen2", LLAMA_NAMES },
    { .type = "phi", .base = "model.", .base_short = "", .embed = "embed_tokens",
      .final_norm = "final_layernorm", .head = "lm_head", .layer = "layers.%d.",
      .attn_norm = "input_layernorm",
      .q = "self_attn.q_proj", .k = "self_attn.k_proj", .v = "self_attn.v_proj",
      .o = "self_attn.dense", .up = "mlp.fc1", .down = "mlp.fc2",
      .attn = "self_attn", .mlp = "mlp" },
    { .type = "phi-msft", .base = "transformer.", .base_short = "", .embed = "embd.wte",
      .final_norm = "lm_head.ln", .head = "lm_head.linear", .layer = "h.%d.",
      .attn_norm = "ln", .qkv = "mixer.Wqkv", .o = "mixer.out_proj",
      .up = "mlp.fc1", .down = "mlp.fc2", .attn = "mixer", .mlp = "mlp" },
    { .type = "qwen", .base = "transformer.", .base_short = "", .embed = "wte",
      .final_norm = "ln_f", .head = "lm_head", .layer = "h.%d.",
      .attn_norm = "ln_1", .mlp_norm = "ln_2", .qkv = "attn.c_attn", .o = "attn.c_proj",
      .up = "mlp.w1", .gate = "mlp.w2", .down = "mlp.c_proj",
      .attn = "attn", .mlp = "mlp", .rms = true },
    { .type = "opt", .base = "model.decoder.", .base_short = "decoder.", .embed = "embed_tokens",
      .positions = "embed_positions", .final_norm = "final_layer_norm", .head = "lm_head",
      .layer = "layers.%d.", .attn_norm = "self_attn_layer_norm", .mlp_norm = "final_layer_norm",
      .q = "self_attn.q_proj", .k = "self_attn.k_proj", .v = "self_attn.v_proj",
      .o = "self_attn.out_proj", .up = "fc1", .down = "fc2",
      .attn = "self_attn", .tied = true },
    { 0 }
};

typedef enum { ROPE_NONE, ROPE_PLAIN, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_LLAMA3, ROPE_YARN,
               ROPE_QWEN } RopeKind;

/* How positions become angles. */
typedef struct {
    RopeKind kind;
    int    n_rot;                    /* numbers of a head that are turned; even */
    double theta, factor;
    double low, high;                /* llama3: low_freq_factor, high_freq_factor; yarn: betas */
    int    original;                 /* the length it was trained for */
    float  size;                     /* cos and sin are multiplied by it: yarn */
    bool   truncate;                 /* yarn */
    bool   log_n;                    /* Qwen v1: queries grow past `original` */
} RopeConfig;

typedef struct {
    Norm   attn_norm, mlp_norm;
    Attn   attn;
    Linear qkv;                      /* the matrix of which attn.q, .k, .v are rows; for trace() */
    Mlp    mlp;
    const char *name;                /* "model.layers.3.", for trace() */
} LlamaLayer;

struct Llama {
    const Family *family;
    int    d, d_embed, d_ff, n_layers, n_heads, n_kv_heads, head_dim, n_vocab, max_len;
    float  eps;
    Act    act;
    bool   parallel, post_norm;      /* Phi; OPT-350m */
    RopeConfig rope;
    Tensor table, positions;         /* [n_vocab, d_embed]; OPT: [max_len + 2, d] */
    Linear project_in, project_out;  /* OPT-350m: d_embed is not d */
    LlamaLayer *layer;
    Norm   norm;                     /* absent in OPT-350m */
    Linear head;
    const char *config;              /* the file's name, for messages */
};

/* === Configuration ============================================================================ */

enum { MAX_D = 1 << 17, MAX_LEN = 1 << 20 };

/* The value under its name in config.json, or under an older one. */
static int config_int(Json c, const char *key, const char *old, int standard, int low, int most)
{
    if (old && !json_get(c, key).node) key = old;
    return json_int(c, key, standard, low, most);
}

static RopeKind rope_kind(Json j, const char *name)
{
    static const struct { const char *name; RopeKind kind; } KINDS[] = {
        { "default", ROPE_PLAIN }, { "linear", ROPE_LINEAR }, { "dynamic", ROPE_DYNAMIC },
        { "llama3", ROPE_LLAMA3 }, { "yarn", ROPE_YARN },
    };
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (!strcmp(KINDS[i].name, name)) return KINDS[i].kind;
    json_error(j, "has rope_type %s, which mm does not know: default, linear, dynamic, llama3, "
               "yarn", quoted(name));
}

/* YaRN's factor of cos and sin (arXiv 2309.00071). */
static float yarn_size(Json j, double factor)
{
    double m = json_float(j, "mscale", 0, 0, 1e6), all = json_float(j, "mscale_all_dim", 0, 0, 1e6);
    double base = factor > 1 ? 0.1 * log(factor) : 0;
    double size = m > 0 && all > 0 ? (base * m + 1) / (base * all + 1) : base + 1;
    return (float)json_float(j, "attention_factor", size, 0, 1e6);
}

/* rope_theta and rope_scaling; in files of transformers 5 both are in rope_parameters. */
static RopeConfig rope_config(Json c, const Llama *m)
{
    Json new = json_get(c, "rope_parameters"), old = json_get(c, "rope_scaling");
    Json j = json_is(new, JSON_OBJECT) ? new : old, flat = json_is(new, JSON_OBJECT) ? new : c;
    RopeConfig r = { .kind = ROPE_PLAIN, .size = 1, .original = m->max_len };
    r.theta = json_float(flat, "rope_theta", 10000, 1, 1e12);
    bool phi = !strncmp(m->family->type, "phi", 3);
    double part = json_float(json_get(flat, "partial_rotary_factor").node ? flat : c,
                             "partial_rotary_factor", phi ? 0.5 : 1, 0.01, 1);
    r.n_rot = config_int(c, "rotary_dim", NULL, (int)(m->head_dim * part), 2, m->head_dim);
    if (r.n_rot % 2) json_error(c, "asks for %d turned numbers of a head: odd", r.n_rot);
    if (!json_is(j, JSON_OBJECT)) return r;
    r.kind = rope_kind(j, json_str(j, "rope_type", json_str(j, "type", "default")));
    if (r.kind == ROPE_PLAIN) return r;
    r.factor = json_float(j, "factor", 1, 1e-3, 1e6);
    r.original = json_int(j, "original_max_position_embeddings", m->max_len, 1, MAX_LEN);
    if (r.kind == ROPE_DYNAMIC) r.original = m->max_len;
    bool yarn = r.kind == ROPE_YARN;
    r.low  = json_float(j, yarn ? "beta_fast" : "low_freq_factor", yarn ? 32 : 1, 1e-6, 1e6);
    r.high = json_float(j, yarn ? "beta_slow" : "high_freq_factor", yarn ? 1 : 4, 1e-6, 1e6);
    r.truncate = json_bool(j, "truncate", true);
    if (yarn) r.size = yarn_size(j, r.factor);
    return r;
}

/* Qwen v1 has keys of its own, the first release others still; its seq_length is what it was
 * trained for, max_position_embeddings what it may be stretched to. */
static void qwen_config(Llama *m, Json c)
{
    m->d        = config_int(c, "hidden_size", "n_embd", 4096, 1, MAX_D);
    m->n_layers = config_int(c, "num_hidden_layers", "n_layer", 32, 1, 1024);
    m->n_heads  = config_int(c, "num_attention_heads", "n_head", 32, 1, 1024);
    m->d_ff     = config_int(c, "intermediate_size", "ffn_hidden_size", 22016, 2, 1 << 21) / 2;
    m->head_dim = json_int(c, "kv_channels", 128, 1, 4096);
    m->n_kv_heads = m->n_heads;
    m->n_vocab  = config_int(c, "padded_vocab_size", "vocab_size", 151936, 1, 1 << 22);
    m->max_len  = config_int(c, "max_position_embeddings", "n_positions", 8192, 1, MAX_LEN);
    m->eps      = (float)json_float(c, "layer_norm_epsilon", 1e-6, 0, 1);
    m->act      = SILU;
    m->rope = (RopeConfig){
        .kind     = json_bool(c, "use_dynamic_ntk", true) ? ROPE_QWEN : ROPE_PLAIN,
        .theta    = json_float(c, "rotary_emb_base", 10000, 1, 1e12),
        .n_rot    = (int)(m->head_dim * json_float(c, "rotary_pct", 1, 0.01, 1)),
        .original = json_int(c, "seq_length", 8192, 2, MAX_LEN),
        .log_n    = json_bool(c, "use_logn_attn", true),
        .size     = 1,
    };
    if (m->rope.n_rot % 2) json_error(json_get(c, "rotary_pct"), "turns an odd number");
}

static void opt_config(Llama *m, Json c)
{
    m->eps       = 1e-5f;                            /* the class has no key for it */
    m->d_ff      = json_int(c, "ffn_dim", 3072, 1, 1 << 20);
    m->d_embed   = json_int(c, "word_embed_proj_dim", m->d, 1, MAX_D);
    m->act       = json_act(c, "activation_function", RELU);
    m->post_norm = !json_bool(c, "do_layer_norm_before", true);
    m->rope.kind = ROPE_NONE;
    if (!json_bool(c, "layer_norm_elementwise_affine", true))
        json_error(json_get(c, "layer_norm_elementwise_affine"), "is false: norms without weights "
                   "are not supported");
}

/* Numbers that decide whether all others make sense. */
static void check_config(const Llama *m, Json c)
{
    if (m->n_heads % m->n_kv_heads)
        json_error(json_get(c, "num_key_value_heads"), "is %d, which does not divide "
                   "num_attention_heads %d", m->n_kv_heads, m->n_heads);
    if (m->n_heads * m->head_dim > MAX_D)
        json_error(c, "asks for %d heads of %d numbers", m->n_heads, m->head_dim);
    int window = json_int(c, "sliding_window", MAX_LEN, 0, INT32_MAX);
    bool slides = !strcmp(m->family->type, "mistral")
               || json_bool(c, "use_sliding_window", false);
    if (slides && window < m->max_len && json_is(json_get(c, "sliding_window"), JSON_NUMBER))
        json_error(json_get(c, "sliding_window"), "is %d: mm attends to all of the text and does "
                   "not run models that forget\nset max_position_embeddings to it to use the "
                   "model up to there", window);
    if (json_bool(c, "qk_layernorm", false))
        json_error(json_get(c, "qk_layernorm"), "is true: mm runs Phi without it");
}

/* Defaults are those of the classes. */
static void llama_config(Llama *m, Json c)
{
    static const struct { const char *type; int d, n_layers, n_heads, d_ff, n_vocab, max_len; }
    STANDARD[] = {
        { "llama",    4096, 32, 32, 11008, 32000, 2048 },
        { "mistral",  4096, 32, 32, 14336, 32000, 4096 * 32 },
        { "qwen2",    4096, 32, 32, 22016, 151936, 32768 },
        { "phi",      2048, 24, 32, 8192, 51200, 2048 },
        { "phi-msft", 2048, 24, 32, 8192, 51200, 2048 },
        { "opt",      768, 12, 12, 3072, 50272, 2048 },
    };
    bool phi = !strncmp(m->family->type, "phi", 3), opt = m->family->positions;
    size_t i = 0;
    while (strcmp(STANDARD[i].type, m->family->type)) i++;
    m->d        = config_int(c, "hidden_size", "n_embd", STANDARD[i].d, 1, MAX_D);
    m->n_layers = config_int(c, "num_hidden_layers", "n_layer", STANDARD[i].n_layers, 1, 1024);
    m->n_heads  = config_int(c, "num_attention_heads", "n_head", STANDARD[i].n_heads, 1, 1024);
    m->n_vocab  = json_int(c, "vocab_size", STANDARD[i].n_vocab, 1, 1 << 22);
    m->max_len  = config_int(c, "max_position_embeddings", "n_positions", STANDARD[i].max_len, 1,
                             1 << 24);
    if (!json_get(c, "head_dim").node && m->d % m->n_heads)
        json_error(json_get(c, "num_attention_heads"), "is %d, which does not divide hidden_size "
                   "%d", m->n_heads, m->d);
    m->head_dim = json_int(c, "head_dim", m->d / m->n_heads, 1, 4096);
    m->n_kv_heads = config_int(c, "num_key_value_heads", "n_head_kv",
                               strcmp(m->family->type, "mistral") ? m->n_heads : 8, 1, 1024);
    m->d_embed = m->d;
    if (opt) {
        opt_config(m, c);
        return;
    }
    m->d_ff     = config_int(c, "intermediate_size", "n_inner",
                             phi ? 4 * m->d : STANDARD[i].d_ff, 1, 1 << 20);
    m->act      = json_act(c, phi && json_get(c, "activation_function").node
                           ? "activation_function" : "hidden_act", phi ? GELU_TANH : SILU);
    const char *eps = !phi ? "rms_norm_eps" : json_get(c, "layer_norm_eps").node
                    ? "layer_norm_eps" : "layer_norm_epsilon";
    m->eps      = (float)json_float(c, eps, phi ? 1e-5 : 1e-6, 0, 1);
    m->parallel = !m->family->mlp_norm;
    m->rope     = rope_config(c, m);
}

/* === Loading ================================================================================== */

static Norm norm_of(Ckpt ck, const char *name, const Llama *m)
{
    if (!m->family->rms) return norm_load(ck, name, m->d, m->eps);
    return (Norm){ .w = vector_load(ckpt_at(ck, "%s.", name), "weight", m->d),
                   .eps = m->eps, .rms = true };
}

static LlamaLayer layer_load(Ckpt ck, const Llama *m)
{
    const Family *f = m->family;
    int d_q = m->n_heads * m->head_dim, d_kv = m->n_kv_heads * m->head_dim;
    LlamaLayer l = {
        .attn_norm = norm_of(ck, f->attn_norm, m),
        .attn = {
            .o = linear_load(ck, f->o, m->d, d_q),
            .n_heads = m->n_heads, .n_kv_heads = m->n_kv_heads, .head_dim = m->head_dim,
            .scale = 1.0f / sqrtf((float)m->head_dim),
        },
        .mlp = {
            .up   = linear_load(ck, f->up, m->d_ff, m->d),
            .down = linear_load(ck, f->down, m->d, m->d_ff),
            .act  = m->act,
        },
        .name = keep_string("%s", ck.prefix),
    };
    if (f->mlp_norm) l.mlp_norm = norm_of(ck, f->mlp_norm, m);
    if (f->gate) l.mlp.gate = linear_load(ck, f->gate, m->d_ff, m->d);
    if (f->qkv) {
        l.qkv    = linear_load(ck, f->qkv, d_q + 2 * d_kv, m->d);
        l.attn.q = linear_rows(l.qkv, 0, d_q);
        l.attn.k = linear_rows(l.qkv, d_q, d_kv);
        l.attn.v = linear_rows(l.qkv, d_q + d_kv, d_kv);
    } else {
        l.attn.q = linear_load(ck, f->q, d_q, m->d);
        l.attn.k = linear_load(ck, f->k, d_kv, m->d);
        l.attn.v = linear_load(ck, f->v, d_kv, m->d);
    }
    return l;
}

static Linear head_matrix(Ckpt ck, const Llama *m)
{
    Linear l = { .w = matrix_load(ck, "weight", m->n_vocab, m->d_embed, HEAD_MATRIX) };
    if (ckpt_has(ck, "bias")) l.b = vector_load(ck, "bias", m->n_vocab);
    return l;
}

/* The output matrix; tied, it is the table of the embeddings. Of a tie files keep either copy. */
static void head_load(Llama *m, Ckpt body, Ckpt head, Json config)
{
    const Family *f = m->family;
    const char *name = keep_string("%s%s.weight", head.prefix, f->head);
    bool tied = json_bool(config, "tie_word_embeddings", f->tied);
    bool table = ckpt_has(body, keep_string("%s.weight", f->embed));
    Ckpt in_head = ckpt_at(head, "%s.", f->head), in_table = ckpt_at(body, "%s.", f->embed);
    if (tied && !table) {
        m->head  = head_matrix(in_head, m);
        m->table = m->head.w;
        return;
    }
    if (!tied) {
        m->table = ckpt_get(in_table, "weight", m->n_vocab, m->d_embed);
        m->head  = head_matrix(in_head, m);
        return;
    }
    m->table  = matrix_load(in_table, "weight", m->n_vocab, m->d_embed, HEAD_MATRIX);
    m->head.w = m->table;
    m->head.w.name = name;
    ckpt_ignore(in_head, "weight");
}

static void body_load(Llama *m, Ckpt ck)
{
    const Family *f = m->family;
    if (f->positions)
        m->positions = ckpt_get(ckpt_at(ck, "%s.", f->positions), "weight", m->max_len + 2, m->d);
    if (m->d_embed != m->d) {
        m->project_in  = linear_load(ck, "project_in", m->d, m->d_embed);
        m->project_out = linear_load(ck, "project_out", m->d_embed, m->d);
    }
    m->layer = keep_bytes(mul_size((size_t)m->n_layers, sizeof *m->layer));
    for (int i = 0; i < m->n_layers; i++) {
        Ckpt at = ckpt_at(ck, f->layer, i);
        m->layer[i] = layer_load(at, m);
        ckpt_ignore(at, "self_attn.rotary_emb.inv_freq");
        ckpt_ignore(at, "attn.masked_bias");
    }
    ckpt_ignore(ck, "rotary_emb.inv_freq");
}

/* LLaVA's first layout is LLaMA with keys of its own. */
static const Family *family_of(Json config)
{
    const char *type = json_str(config, "model_type", "llama");
    if (!strncmp(type, "llava", 5)) type = "llama";
    for (const Family *f = FAMILIES; f->type; f++)
        if (!strcmp(f->type, type)) return f;
    die(EXIT_MODEL, "%s: model_type %s is no language model that mm runs",
        quoted(json_doc_name(config)), quoted(type));
}

Llama *llama_load_parts(Ckpt body, Ckpt head, Json config)
{
    Llama *m = keep_bytes(sizeof *m);
    m->family = family_of(config);
    m->config = keep_string("%s", json_doc_name(config));
    if (strcmp(m->family->type, "qwen") == 0) qwen_config(m, config);
    else llama_config(m, config);
    if (!m->d_embed) m->d_embed = m->d;
    check_config(m, config);
    bool in_head = !strncmp(m->family->final_norm, "lm_head.", 8);       /* phi-msft */
    if (!m->post_norm && !json_bool(config, "_remove_final_layer_norm", false))
        m->norm = norm_of(in_head ? head : body, m->family->final_norm, m);
    head_load(m, body, head, config);
    body_load(m, body);
    return m;
}

Llama *llama_load(Ckpt ck, Json config)
{
    const Family *f = family_of(config);
    Ckpt body = ckpt_at(ck, "%s", f->base), bare = ckpt_at(ck, "%s", f->base_short);
    const char *table = keep_string("%s.weight", f->embed);
    if (!ckpt_has(body, table) && ckpt_has(bare, table)) body = bare;
    return llama_load_parts(body, ck, config);
}

int llama_vocab(const Llama *m)   { return m->n_vocab; }
int llama_dim(const Llama *m)     { return m->d; }
int llama_context(const Llama *m) { return m->max_len; }

/* === Rotary angles ============================================================================ */

/* base^(2i/n_rot) as the reference has it: powers in f32. */
static float inverse(double base, int i, int n_rot)
{
    float exponent = (float)(2 * i) / (float)n_rot;
    return 1.0f / (float)pow(base, (double)exponent);
}

/* Llama 3: long waves are stretched, short ones stay, in between a mixture. */
static float llama3(float inv, const RopeConfig *r)
{
    double wave = 2 * M_PI / (double)inv, o = r->original;
    if (wave < o / r->high) return inv;
    if (wave > o / r->low) return (float)((double)inv / r->factor);
    double s = (o / wave - r->low) / (r->high - r->low);
    return (float)((1 - s) * (double)inv / r->factor + s * (double)inv);
}

/* The pair that turns n times in the original length. */
static double yarn_pair(const RopeConfig *r, double n)
{
    return r->n_rot * log(r->original / (n * 2 * M_PI)) / (2 * log(r->theta));
}

/* YaRN: the first pairs stay, the last are stretched, a ramp between. */
static float yarn(float inv, int i, const RopeConfig *r)
{
    double low = yarn_pair(r, r->low), high = yarn_pair(r, r->high);
    if (r->truncate) {
        low  = floor(low);
        high = ceil(high);
    }
    low  = fmax(low, 0);
    high = fmin(high, r->n_rot - 1);
    if (low == high) high += 0.001;
    float ramp = (float)fmin(fmax((i - low) / (high - low), 0), 1);
    return inv / (float)r->factor * ramp + inv * (1 - ramp);
}

/* The base for a text of len tokens. */
static double theta_of(const RopeConfig *r, int len)
{
    double power = (double)r->n_rot / (r->n_rot - 2);
    if (len <= r->original || r->n_rot <= 2) return r->theta;
    if (r->kind == ROPE_DYNAMIC)
        return r->theta * pow(r->factor * len / r->original - (r->factor - 1), power);
    if (r->kind != ROPE_QWEN) return r->theta;
    double alpha = pow(2, ceil(log((double)len / r->original) / log(2) + 1)) - 1;
    return r->theta * pow(fmax(alpha, 1), power);
}

/* Radians per position of each pair, for a text of len tokens. */
static void frequencies(float *inv, const RopeConfig *r, int len)
{
    double theta = theta_of(r, len);
    for (int i = 0; i < r->n_rot / 2; i++) {
        inv[i] = inverse(theta, i, r->n_rot);
        if (r->kind == ROPE_LINEAR) inv[i] /= (float)r->factor;
        if (r->kind == ROPE_LLAMA3) inv[i] = llama3(inv[i], r);
        if (r->kind == ROPE_YARN)   inv[i] = yarn(inv[i], i, r);
    }
}

/* === Sessions ================================================================================= */

enum {
    BLOCK = 512,             /* tokens of a prompt at once */
    MANY  = 32               /* rows from which layers compute each row in the same way (nn.c): what
                              * was read in fewer may differ in the last bits */
};

struct Session {
    Llama   *m;
    SessionOptions o;
    KvCache *kv;                     /* a layer each: [n_beams, ctx, n_kv_heads*head_dim] */
    int      len, n_many;            /* tokens read; those at the beginning read MANY at a time */
    int     *id;                     /* what was read [ctx] */
    Tensor   logits;                 /* [n_beams, n_vocab] */
    float   *inv;                    /* frequencies for a text of rope_len tokens */
    int      rope_len;
    bool     mixed;                  /* keys were turned by several sets of frequencies */
    Tensor   pictures;               /* [room for rows, d] */
    int      n_rows;
};

static Tensor cache_tensor(const Session *s, int d)
{
    size_t n = mul_size(mul_size((size_t)s->o.n_beams, (size_t)s->o.ctx), (size_t)d);
    return (Tensor){ .data = keep_bytes(mul_size(n, dtype_size(s->o.kv))), .dtype = s->o.kv,
                     .ndim = 3, .dim = { s->o.n_beams, s->o.ctx, d } };
}

/* Memory for the whole context, most of which the system does not provide before it is used. */
Session *session_new(Llama *m, SessionOptions o)
{
    Session *s = keep_bytes(sizeof *s);
    if (!o.ctx) o.ctx = m->max_len < 4096 ? m->max_len : 4096;
    if (!o.n_beams) o.n_beams = 1;
    if (!o.n_block) o.n_block = BLOCK;
    if (m->positions.data && o.ctx > m->max_len)
        die(EXIT_USAGE, "--ctx %d: this model has %d positions", o.ctx, m->max_len);
    *s = (Session){ .m = m, .o = o };
    s->id     = keep_bytes(mul_size((size_t)o.ctx, sizeof(int)));
    s->logits = keep(o.n_beams, m->n_vocab);
    s->inv    = keep_bytes((size_t)(m->rope.n_rot / 2 + 1) * sizeof(float));
    s->kv     = keep_bytes((size_t)m->n_layers * sizeof *s->kv);
    for (int i = 0; i < m->n_layers; i++) {
        s->kv[i].k = cache_tensor(s, m->n_kv_heads * m->head_dim);
        s->kv[i].v = cache_tensor(s, m->n_kv_heads * m->head_dim);
    }
    return s;
}

int session_context(const Session *s) { return s->o.ctx; }
int session_len(const Session *s)     { return s->len; }

int session_picture(Session *s, Tensor rows_in)
{
    int n = n_rows(rows_in), d = s->m->d, room = s->pictures.data ? s->pictures.dim[0] : 0;
    if (n_cols(rows_in) != d) bug("session_picture: %s for d %d", shape_string(rows_in), d);
    if (n > room - s->n_rows) {
        Tensor more = keep(2 * (s->n_rows + n), d);
        if (s->n_rows) memcpy(f32(more), f32(s->pictures), (size_t)s->n_rows * d * sizeof(float));
        s->pictures = more;
    }
    memcpy(f32(rows(s->pictures, s->n_rows, n)), f32(rows_in), n_elem(rows_in) * sizeof(float));
    s->n_rows += n;
    return s->n_rows - n;
}

void session_clear(Session *s)
{
    session_cut(s, 0);
    s->n_rows = 0;
}

void session_cut(Session *s, int len)
{
    if (len < 0 || len > s->len) bug("session_cut: to %d of %d", len, s->len);
    s->len = len;
    if (s->n_many > len) s->n_many = len;
    if (!len) s->mixed = false;
    for (int i = 0; i < s->m->n_layers; i++) s->kv[i].len = len;
}

int session_reuse(Session *s, const int *id, int n)
{
    const RopeConfig *r = &s->m->rope;
    int same = 0, least = s->o.repeatable ? MANY : 1, most = s->o.repeatable ? s->n_many : s->len;
    while (same < most && same < n && s->id[same] == id[same]) same++;
    if (same > n - least) same = n > least ? n - least : 0;
    /* Keys turned for another length are those of another text. */
    if (s->mixed || (s->len && theta_of(r, s->rope_len) != theta_of(r, n))) same = 0;
    session_cut(s, same);
    return same;
}

/* === Forward ================================================================================== */

/* x [n, d]: rows of the table, and of pictures where id < 0. */
static void embed(Tensor x, const Session *s, const int *id, int n)
{
    for (int i = 0, k; i < n; i += k) {
        bool picture = id[i] < 0;
        for (k = 1; i + k < n && (id[i + k] < 0) == picture; ) k++;
        if (!picture) {
            embed_rows(rows(x, i, k), s->m->table, id + i, k);
            continue;
        }
        for (int t = i; t < i + k; t++) {
            if (-1 - id[t] >= s->n_rows) bug("session: row %d of %d", -1 - id[t], s->n_rows);
            memcpy(f32(rows(x, t, 1)), f32(rows(s->pictures, -1 - id[t], 1)),
                   (size_t)n_cols(x) * sizeof(float));
        }
    }
}

/* Angles of positions first .. first+n-1. Products in f32, as the reference has them. */
static Rope angles(const Session *s, int first, int n)
{
    const RopeConfig *r = &s->m->rope;
    if (r->kind == ROPE_NONE) return (Rope){ 0 };
    int n_pairs = r->n_rot / 2;
    Rope a = { .cos = scratch(n, n_pairs), .sin = scratch(n, n_pairs) };
    for (int t = 0; t < n; t++)
        for (int i = 0; i < n_pairs; i++) {
            double angle = (double)((float)(first + t) * s->inv[i]);
            f32(a.cos)[(size_t)t * n_pairs + i] = (float)cos(angle) * r->size;
            f32(a.sin)[(size_t)t * n_pairs + i] = (float)sin(angle) * r->size;
        }
    if (!r->log_n || first + n <= r->original) return a;
    a.q_scale = scratch(1, n);
    for (int t = 0; t < n; t++) {
        int place = first + t + 1;
        double grow = place > r->original ? log(place) / log(r->original) : 1;
        f32(a.q_scale)[t] = (float)grow;
    }
    return a;
}

/* The two branches, y from h. The reference traces them as modules; and of a fused matrix only the
 * whole, which is computed once more for that. */
static void attend_to(Tensor y, Tensor h, const Llama *m, const LlamaLayer *l, AttnArgs args)
{
    if (tracing() && l->qkv.w.data) linear(scratch_like(h, l->qkv.w.dim[0]), h, &l->qkv);
    attention(y, h, &l->attn, args);
    trace(as_batch(y), "%s%s", l->name, m->family->attn);
}

static void think(Tensor y, Tensor h, const Llama *m, const LlamaLayer *l)
{
    mlp(y, h, &l->mlp);
    if (m->family->mlp) trace(as_batch(y), "%s%s", l->name, m->family->mlp);
}

static void layer(Tensor x, const Llama *m, const LlamaLayer *l, AttnArgs args)
{
    size_t mark = scratch_mark();
    Tensor h = scratch_like(x, m->d), y = scratch_like(x, m->d);
    if (m->post_norm) {                              /* OPT-350m: x = norm(x + ..), twice */
        attend_to(y, x, m, l, args);
        add(x, y);
        norm(x, x, &l->attn_norm);
        think(y, x, m, l);
        add(x, y);
        norm(x, x, &l->mlp_norm);
    } else if (m->parallel) {                        /* Phi: both branches read one norm */
        norm(h, x, &l->attn_norm);
        attend_to(y, h, m, l, args);
        think(h, h, m, l);
        add(x, y);
        add(x, h);
    } else {
        norm(h, x, &l->attn_norm);
        attend_to(y, h, m, l, args);
        add(x, y);
        norm(h, x, &l->mlp_norm);
        think(y, h, m, l);
        add(x, y);
    }
    scratch_reset(mark);
}

/* Reads id [n_items, n] behind what each item of the cache holds: x [n_items, n, d], the output of
 * the last layer; scratch. */
static Tensor forward(Session *s, const int *id, int n_items, int n)
{
    const Llama *m = s->m;
    Tensor x = n_items > 1 ? scratch3(n_items, n, m->d) : scratch(n, m->d);
    size_t mark = scratch_mark();
    if (m->project_in.w.data) {
        Tensor e = scratch_like(x, m->d_embed);
        embed(flat(e), s, id, n_items * n);
        linear(x, e, &m->project_in);
    } else {
        embed(flat(x), s, id, n_items * n);
    }
    if (m->positions.data) add_rows(x, m->positions, s->len + 2);
    AttnArgs args = { .causal = true, .rope = angles(s, s->len, n) };
    for (int i = 0; i < m->n_layers; i++) {
        args.cache = &s->kv[i];
        layer(x, m, &m->layer[i], args);
        trace(as_batch(x), "%.*s", (int)strlen(m->layer[i].name) - 1, m->layer[i].name);
    }
    scratch_reset(mark);
    return x;
}

/* x [n, d], or one row for each of several items [n_items, 1, d] -> logits of the last row, or of
 * each item. Rows that are not asked for are only normed where it is traced. */
static void head(Tensor logits, Tensor x, const Llama *m)
{
    size_t mark = scratch_mark();
    if (x.ndim == 2 && !tracing()) x = rows(x, n_rows(x) - 1, 1);
    Tensor h = scratch_like(x, m->d);
    if (m->norm.w.data) norm(h, x, &m->norm);
    else memcpy(f32(h), f32(x), n_elem(x) * sizeof(float));
    if (m->project_out.w.data) {
        Tensor e = scratch_like(x, m->d_embed);
        linear(e, h, &m->project_out);
        h = e;
    }
    if (x.ndim == 2) linear(logits, rows(h, n_rows(h) - 1, 1), &m->head);
    else linear(items(logits, x.dim[0]), h, &m->head);
    scratch_reset(mark);
}

/* The frequencies for a text that will have len tokens. Qwen v1 keeps those of its prompt. */
static void set_frequencies(Session *s, int len)
{
    const RopeConfig *r = &s->m->rope;
    if (r->kind == ROPE_NONE || (s->len && r->kind != ROPE_DYNAMIC)) return;
    if (s->len && len < s->rope_len) len = s->rope_len;
    if (s->len && theta_of(r, s->rope_len) != theta_of(r, len)) s->mixed = true;
    if (!s->len || s->mixed) frequencies(s->inv, r, len);
    s->rope_len = len;
}

static void check_room(const Session *s, int n)
{
    if (n < 1) bug("session_read: %d tokens", n);
    if (n <= s->o.ctx - s->len) return;
    fail("input.text", "shorten it, or raise --ctx", "the text has %d tokens, the context is %d",
         s->len + n, s->o.ctx);
}

/* Cuts the tokens into blocks of about the same size: a small last one would be computed in another
 * way. Where it is traced there is one block, as in the reference. */
Tensor session_read(Session *s, const int *id, int n)
{
    check_room(s, n);
    set_frequencies(s, s->len + n);
    int n_blocks = tracing() ? 1 : (n + s->o.n_block - 1) / s->o.n_block;
    int block = (n + n_blocks - 1) / n_blocks;
    bool many = n >= MANY && s->n_many == s->len;
    size_t mark = scratch_mark();
    for (int i = 0, k; i < n; i += k) {
        k = n - i < block ? n - i : block;
        scratch_reset(mark);
        Tensor x = forward(s, id + i, 1, k);
        memcpy(s->id + s->len, id + i, (size_t)k * sizeof(int));
        s->len += k;
        if (i + k == n) head(rows(s->logits, 0, 1), x, s->m);
    }
    if (many) s->n_many = s->len;
    scratch_reset(mark);
    return rows(s->logits, 0, 1);
}

/* One more token for each of n beams. */
static Tensor read_beams(Session *s, const int *id, int n, const int *from)
{
    check_room(s, 1);
    set_frequencies(s, s->len + 1);
    for (int i = 0; i < s->m->n_layers; i++) kv_reorder(&s->kv[i], from, n);
    size_t mark = scratch_mark();
    Tensor x = forward(s, id, n, 1);
    s->len++;
    head(rows(s->logits, 0, n), x, s->m);
    scratch_reset(mark);
    return rows(s->logits, 0, n);
}

typedef struct { Session *s; bool begun; } Reader;

/* Decoder.step */
static Tensor read_step(void *model, const int *id, int n_beams, int n, const int *from)
{
    Reader *r = model;
    if (from) return read_beams(r->s, id, n_beams, from);
    int known = r->begun ? 0 : session_reuse(r->s, id, n);
    r->begun = true;
    return session_read(r->s, id + known, n - known);
}

Generated session_generate(Session *s, const int *prompt, int n_prompt, GenOptions o)
{
    if (o.beams > s->o.n_beams && o.beams > 1) bug("session_generate: %d beams", o.beams);
    if (n_prompt > s->o.ctx)
        fail("input.text", "shorten it, or raise --ctx", "the text has %d tokens, the context is "
             "%d", n_prompt, s->o.ctx);
    Reader r = { .s = s };
    Decoder dec = { .step = read_step, .model = &r, .max_len = s->o.ctx };
    Generated g = generate(&dec, prompt, n_prompt, o);
    if (o.beams > 1 && s->len > n_prompt) session_cut(s, n_prompt);      /* the rest is a mixture */
    return g;
}
