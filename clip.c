/* clip.c -- CLIP (arXiv 2103.00020): pictures and texts as vectors of one space.
 *
 * Reference: transformers' CLIPModel.
 *
 *   image [H, W, 3] -> vit.c -> norm of the class token [1, d_vision] -> projection -> [1, d_proj]
 *   ids [n_tok] -> token + position: x [n_tok, d]
 *       n_layers times: x += attention(norm(x)), causal; x += mlp(norm(x))
 *       -> norm -> the row of the end token [1, d] -> projection -> [1, d_proj]
 *   similarity = exp(logit_scale) * image/|image| . text/|text|
 *
 * Easy to get wrong:
 *   - OpenAI's configurations say eos_token_id 2, which is wrong; the reference then takes the
 *     row of the largest id, the first of them. Any other eos_token_id is searched for.
 *   - text_config_dict and vision_config_dict, where they are not null, replace text_config and
 *     vision_config altogether.
 *   - What a configuration leaves out is that of the base model with patches of 32. */
#include <math.h>
#include <string.h>

#include "mm.h"

typedef struct {
    Norm norm1;
    Attn attn;
    Norm norm2;
    Mlp  mlp;
    const char *name;                /* "text_model.encoder.layers.3.", for trace() */
} TextLayer;

typedef struct {
    int    n_layers, d, d_ff, n_heads, n_vocab, max_tokens, eos;
    float  eps;
    Act    act;
    Tensor tokens, positions;        /* [n_vocab, d], [max_tokens, d] */
    TextLayer *layer;
    Norm   final_norm;
    const char *name;
} Text;

struct Clip {
    Vit   *vision;
    Text   text;
    Linear vision_proj, text_proj;   /* [d_proj, d_vision], [d_proj, d] */
    int    d_proj;
    float  scale;
};

/* === Loading ================================================================================== */

static TextLayer text_layer_load(Ckpt ck, const Text *t, int i)
{
    ck = ckpt_at(ck, "encoder.layers.%d.", i);
    int head_dim = t->d / t->n_heads;
    return (TextLayer){
        .norm1 = norm_load(ck, "layer_norm1", t->d, t->eps),
        .attn = {
            .q = linear_load(ck, "self_attn.q_proj",   t->d, t->d),
            .k = linear_load(ck, "self_attn.k_proj",   t->d, t->d),
            .v = linear_load(ck, "self_attn.v_proj",   t->d, t->d),
            .o = linear_load(ck, "self_attn.out_proj", t->d, t->d),
            .n_heads = t->n_heads, .n_kv_heads = t->n_heads, .head_dim = head_dim,
            .scale = 1.0f / sqrtf((float)head_dim),
        },
        .norm2 = norm_load(ck, "layer_norm2", t->d, t->eps),
        .mlp = {
            .up   = linear_load(ck, "mlp.fc1", t->d_ff, t->d),
            .down = linear_load(ck, "mlp.fc2", t->d, t->d_ff),
            .act  = t->act,
        },
        .name = keep_string("%s", ck.prefix),
    };
}

static Text text_load(Ckpt ck, Json config)
{
    Text t = {
        .n_layers   = json_int(config, "num_hidden_layers", 12, 1, 1024),
        .d          = json_int(config, "hidden_size", 512, 1, 65536),
        .d_ff       = json_int(config, "intermediate_size", 2048, 1, 1 << 20),
        .n_heads    = json_int(config, "num_attention_heads", 8, 1, 1024),
        .n_vocab    = json_int(config, "vocab_size", 49408, 1, 1 << 22),
        .max_tokens = json_int(config, "max_position_embeddings", 77, 1, 1 << 20),
        .eos        = json_int(config, "eos_token_id", 49407, 0, 1 << 22),
        .eps        = (float)json_float(config, "layer_norm_eps", 1e-5, 0, 1),
        .act        = json_act(config, "hidden_act", GELU_QUICK),
        .name       = keep_string("%s", ck.prefix),
    };
    if (t.d % t.n_heads)
        json_error(json_get(config, "num_attention_heads"),
                   "is %d, which does not divide hidden_size %d", t.n_heads, t.d);
    Ckpt e = ckpt_at(ck, "embeddings.");
    t.tokens    = ckpt_get(e, "token_embedding.weight", t.n_vocab, t.d);
    t.positions = ckpt_get(e, "position_embedding.weight", t.max_tokens, t.d);
    ckpt_ignore(e, "position_ids");                   /* 0, 1, 2, ...: old files carry it */
    t.layer = keep_bytes(mul_size((size_t)t.n_layers, sizeof *t.layer));
    for (int i = 0; i < t.n_layers; i++) t.layer[i] = text_layer_load(ck, &t, i);
    t.final_norm = norm_load(ck, "final_layer_norm", t.d, t.eps);
    return t;
}

/* NAME_config, or NAME_config_dict, which counts alone where there is one. */
static Json sub_config(Json config, const char *name, const char *name_dict)
{
    Json dict = json_get(config, name_dict);
    return json_type(dict) != JSON_NULL ? dict : json_get(config, name);
}

/* All widths meet in d_proj; a file's logit_scale is a logarithm. */
Clip *clip_load(Ckpt ck, Json config)
{
    Clip *c = keep_bytes(sizeof *c);
    c->vision = vit_load_clip(ckpt_at(ck, "vision_model."),
                              sub_config(config, "vision_config", "vision_config_dict"));
    c->text   = text_load(ckpt_at(ck, "text_model."),
                          sub_config(config, "text_config", "text_config_dict"));
    c->d_proj = json_int(config, "projection_dim", 512, 1, 65536);
    c->vision_proj = linear_load(ck, "visual_projection", c->d_proj, vit_dim(c->vision));
    c->text_proj   = linear_load(ck, "text_projection", c->d_proj, c->text.d);
    c->scale  = expf(ckpt_scalar(ck, "logit_scale"));
    ckpt_done(ck);
    return c;
}

float clip_logit_scale(const Clip *c) { return c->scale; }
int   clip_image_size(const Clip *c)  { return vit_image_size(c->vision); }
int   clip_dim(const Clip *c)         { return c->d_proj; }

/* === Forward ================================================================================== */

Tensor clip_image(Clip *c, Tensor image)
{
    Tensor out = scratch(1, c->d_proj);
    size_t mark = scratch_mark();
    Tensor pooled = vit_pool(c->vision, vit_forward(c->vision, image));
    linear(as_vector(out), as_vector(pooled), &c->vision_proj);
    scratch_reset(mark);
    return out;
}

/* vit.c's layer, but a token sees no later one. x [n_tok, d] */
static void text_layer(Tensor x, const TextLayer *l)
{
    size_t mark = scratch_mark();
    Tensor h = scratch_like(x, n_cols(x));
    norm(h, x, &l->norm1);
    attention(h, h, &l->attn, (AttnArgs){ .causal = true });
    trace(as_batch(h), "%sself_attn", l->name);
    add(x, h);
    norm(h, x, &l->norm2);
    mlp(h, h, &l->mlp);
    trace(as_batch(h), "%smlp", l->name);
    add(x, h);
    scratch_reset(mark);
}

/* The token whose row stands for the text: it alone has seen all of it. The first of several, as
 * tokenizers pad with it; 0 if there is none, as the reference's argmax has it. */
static int end_of_text(const Text *t, const int *ids, int n)
{
    int at = 0;
    for (int i = 0; i < n; i++) {
        if (t->eos == 2 && ids[i] > ids[at]) at = i;
        if (t->eos != 2 && ids[i] == t->eos) return i;
    }
    return at;
}

/* ids [n_items, n] -> [n_items, n, d]. No mask for padding: what stands after the end token is not
 * seen by it. */
static Tensor text_forward(const Text *t, const int *ids, int n_items, int n)
{
    Tensor x = n_items > 1 ? scratch3(n_items, n, t->d) : scratch(n, t->d);
    embed_rows(x, t->tokens, ids, n_items * n);
    add_rows(x, t->positions, 0);
    trace(as_batch(x), "%sembeddings", t->name);
    for (int i = 0; i < t->n_layers; i++) {
        text_layer(x, &t->layer[i]);
        trace(as_batch(x), "%sencoder.layers.%d", t->name, i);
    }
    norm(x, x, &t->final_norm);
    return x;
}

/* Each end is an item of its own for the projection as well, so that the same kernel computes it
 * whether it comes alone or not. */
Tensor clip_text(Clip *c, const int *ids, int n_items, int n)
{
    Tensor out = scratch(n_items, c->d_proj);
    size_t mark = scratch_mark();
    if (n < 1) fail("input.text", NULL, "the text has no tokens");
    int d = c->text.d, n_cut = n < c->text.max_tokens ? n : c->text.max_tokens;
    int *some = scratch_bytes(mul_size(mul_size((size_t)n_items, (size_t)n_cut), sizeof *some));
    for (int i = 0; i < n_items; i++) cut_ids(some + i * n_cut, ids + i * n, n, n_cut);
    Tensor x = flat(text_forward(&c->text, some, n_items, n_cut)), ends = scratch(n_items, d);
    for (int i = 0; i < n_items; i++) {
        int at = i * n_cut + end_of_text(&c->text, some + i * n_cut, n_cut);
        memcpy(f32(rows(ends, i, 1)), f32(rows(x, at, 1)), (size_t)d * sizeof(float));
    }
    if (n_items == 1) linear(as_vector(out), as_vector(ends), &c->text_proj);
    else linear(items(out, n_items), items(ends, n_items), &c->text_proj);
    scratch_reset(mark);
    return out;
}
