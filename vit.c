/* vit.c -- image encoders that cut a picture into patches and run a transformer over them.
 *
 * ViT (arXiv 2010.11929), CLIP's image tower (2103.00020), BLIP's (2201.12086). Reference:
 * transformers' CLIPVisionModel and BlipVisionModel.
 *
 *   image [H, W, 3] -> patches [n_patch, k*k*3] -> linear, class token in front, + positions
 *   x [n_tok, d], n_tok = n_patch + 1
 *   CLIP: x = norm(x)
 *   n_layers times: x += attention(norm(x)); x += mlp(norm(x))
 *   BLIP: x = norm(x);  CLIP: only row 0 is normed, by vit_pool
 *
 * Easy to get wrong:
 *   - CLIP normalises once more before the first layer and calls it pre_layrnorm (sic).
 *   - CLIP's patches have no bias, BLIP's have.
 *   - BLIP's q, k, v are one matrix, [3*d, d], q first; they are split at load into views of it.
 *   - GELU is the exact one in BLIP, the quick one in OpenAI's CLIP: the configuration says. */
#include <math.h>
#include <string.h>

#include "mm.h"

typedef struct {
    Norm   norm1;
    Attn   attn;
    Linear qkv;                      /* BLIP: the matrix of which attn.q, .k, .v are rows */
    Norm   norm2;
    Mlp    mlp;
    const char *name;                /* "vision_model.encoder.layers.3.", for trace() */
} VitLayer;

struct Vit {
    int    image_size, patch_size, n_patch, d, d_ff, n_layers, n_heads;
    float  eps;
    Act    act;
    Conv   patch;
    Tensor class_token, positions;   /* [1, d], [n_patch+1, d] */
    Norm   pre_norm, post_norm;      /* pre_norm: absent in BLIP */
    bool   norm_all;                 /* BLIP: the final norm is for all rows */
    VitLayer *layer;
    const char *name, *config;       /* place in the checkpoint, for trace(); config file */
};

/* === Loading ================================================================================== */

/* image_size and patch_size that fit each other; a picture has at most 65,536 patches. */
static void vit_sizes(Vit *v, Json config, int image_size, int patch_size)
{
    v->image_size = json_int(config, "image_size", image_size, 1, 8192);
    v->patch_size = json_int(config, "patch_size", patch_size, 1, 1024);
    int side = v->image_size / v->patch_size;
    if (side < 1 || side > 256)
        json_error(json_get(config, "patch_size"), "is %d: %d x %d patches of image_size %d",
                   v->patch_size, side, side, v->image_size);
    v->n_patch = side * side;
}

/* What both configurations have; the defaults are those of the class. */
static Vit *vit_config(Json config, int image_size, int patch_size, Act act)
{
    Vit *v = keep_bytes(sizeof *v);
    vit_sizes(v, config, image_size, patch_size);
    v->d        = json_int(config, "hidden_size", 768, 1, 65536);
    v->d_ff     = json_int(config, "intermediate_size", 3072, 1, 1 << 20);
    v->n_layers = json_int(config, "num_hidden_layers", 12, 1, 1024);
    v->n_heads  = json_int(config, "num_attention_heads", 12, 1, 1024);
    v->eps      = (float)json_float(config, "layer_norm_eps", 1e-5, 0, 1);
    v->act      = json_act(config, "hidden_act", act);
    v->config   = keep_string("%s", json_doc_name(config));
    if (v->d % v->n_heads)
        json_error(json_get(config, "num_attention_heads"),
                   "is %d, which does not divide hidden_size %d", v->n_heads, v->d);
    if (json_int(config, "num_channels", 3, 1, 1024) != 3)
        json_error(json_get(config, "num_channels"), "is not 3: mm reads pictures as RGB");
    return v;
}

/* What both layouts call the same. */
static VitLayer vit_layer_load(Ckpt ck, const Vit *v)
{
    return (VitLayer){
        .norm1 = norm_load(ck, "layer_norm1", v->d, v->eps),
        .norm2 = norm_load(ck, "layer_norm2", v->d, v->eps),
        .attn = {
            .n_heads = v->n_heads, .n_kv_heads = v->n_heads, .head_dim = v->d / v->n_heads,
            .scale = 1.0f / sqrtf((float)(v->d / v->n_heads)),
        },
        .mlp = {
            .up   = linear_load(ck, "mlp.fc1", v->d_ff, v->d),
            .down = linear_load(ck, "mlp.fc2", v->d, v->d_ff),
            .act  = v->act,
        },
        .name = keep_string("%s", ck.prefix),
    };
}

/* The same layer under two sets of names. BLIP's fused matrix is kept beside its parts, for
 * trace(). */
static void vit_layers_load(Vit *v, Ckpt ck, bool fused)
{
    v->name  = keep_string("%s", ck.prefix);
    v->layer = keep_bytes(mul_size((size_t)v->n_layers, sizeof *v->layer));
    for (int i = 0; i < v->n_layers; i++) {
        Ckpt at = ckpt_at(ck, "encoder.layers.%d.", i);
        VitLayer *l = &v->layer[i];
        *l = vit_layer_load(at, v);
        at = ckpt_at(at, "self_attn.");
        if (fused) {
            l->qkv    = linear_load(at, "qkv", 3 * v->d, v->d);
            l->attn.q = linear_rows(l->qkv, 0, v->d);
            l->attn.k = linear_rows(l->qkv, v->d, v->d);
            l->attn.v = linear_rows(l->qkv, 2 * v->d, v->d);
            l->attn.o = linear_load(at, "projection", v->d, v->d);
        } else {
            l->attn.q = linear_load(at, "q_proj", v->d, v->d);
            l->attn.k = linear_load(at, "k_proj", v->d, v->d);
            l->attn.v = linear_load(at, "v_proj", v->d, v->d);
            l->attn.o = linear_load(at, "out_proj", v->d, v->d);
        }
    }
}

Vit *vit_load_clip(Ckpt ck, Json config)
{
    Vit *v = vit_config(config, 224, 32, GELU_QUICK);
    Ckpt e = ckpt_at(ck, "embeddings.");
    v->class_token = ckpt_get(e, "class_embedding", v->d);
    v->positions   = ckpt_get(e, "position_embedding.weight", v->n_patch + 1, v->d);
    v->patch       = conv_load(e, "patch_embedding", v->d, 3, v->patch_size, v->patch_size, 0);
    ckpt_ignore(e, "position_ids");                   /* 0, 1, 2, ...: old files carry it */
    v->pre_norm    = norm_load(ck, "pre_layrnorm", v->d, v->eps);
    v->post_norm   = norm_load(ck, "post_layernorm", v->d, v->eps);
    vit_layers_load(v, ck, false);
    return v;
}

Vit *vit_load_blip(Ckpt ck, Json config)
{
    Vit *v = vit_config(config, 384, 16, GELU);
    Ckpt e = ckpt_at(ck, "embeddings.");
    v->class_token = ckpt_get(e, "class_embedding", 1, 1, v->d);
    v->positions   = ckpt_get(e, "position_embedding", 1, v->n_patch + 1, v->d);
    v->patch       = conv_load(e, "patch_embedding", v->d, 3, v->patch_size, v->patch_size, 0);
    v->post_norm   = norm_load(ck, "post_layernorm", v->d, v->eps);
    v->norm_all    = true;
    vit_layers_load(v, ck, true);
    return v;
}

int vit_image_size(const Vit *v) { return v->image_size; }
int vit_dim(const Vit *v)        { return v->d; }
int vit_patches(const Vit *v)    { return v->n_patch; }
int vit_layers(const Vit *v)     { return v->n_layers; }

/* === Forward ================================================================================== */

/* Patches with the class token in front, and where they are. */
static void vit_embed(Tensor x, const Vit *v, Tensor image)
{
    size_t mark = scratch_mark();
    Tensor patches = patch_embed(image, &v->patch);           /* [n_patch, d] */
    embed_rows(rows(x, 0, 1), v->class_token, (int[]){ 0 }, 1);
    memcpy(f32(rows(x, 1, v->n_patch)), f32(patches), n_elem(patches) * sizeof(float));
    add_rows(x, v->positions, 0);
    trace(as_batch(x), "%sembeddings", v->name);
    scratch_reset(mark);
}

/* Pre-norm: the stream x [n_tok, d] is only ever added to. With a trace the fused projection runs
 * once more as a whole: it is what the reference names. */
static void vit_layer(Tensor x, const VitLayer *l)
{
    size_t mark = scratch_mark();
    Tensor h = scratch_like(x, n_cols(x));
    norm(h, x, &l->norm1);
    if (tracing() && l->qkv.w.data) linear(scratch_like(x, 3 * n_cols(x)), h, &l->qkv);
    attention(h, h, &l->attn, (AttnArgs){ 0 });
    trace(as_batch(h), "%sself_attn", l->name);
    add(x, h);
    norm(h, x, &l->norm2);
    mlp(h, h, &l->mlp);
    trace(as_batch(h), "%smlp", l->name);
    add(x, h);
    scratch_reset(mark);
}

/* The stream behind the first n layers. */
static Tensor run_layers(Vit *v, Tensor image, int n)
{
    if (image.dim[0] != v->image_size || image.dim[1] != v->image_size)
        die(EXIT_FILE, "%s: pictures are prepared as %d x %d, the model takes %d x %d\n"
            "are preprocessor_config.json and config.json from the same model?",
            quoted(v->config), image.dim[1], image.dim[0], v->image_size, v->image_size);
    Tensor x = scratch(v->n_patch + 1, v->d);
    vit_embed(x, v, image);
    if (v->pre_norm.w.data) norm(x, x, &v->pre_norm);
    for (int i = 0; i < n; i++) {
        vit_layer(x, &v->layer[i]);
        trace(as_batch(x), "%sencoder.layers.%d", v->name, i);
    }
    return x;
}

Tensor vit_forward(Vit *v, Tensor image)
{
    Tensor x = run_layers(v, image, v->n_layers);
    if (v->norm_all) norm(x, x, &v->post_norm);
    return x;
}

Tensor vit_hidden(Vit *v, Tensor image, int layer)
{
    if (layer < 0) layer += v->n_layers + 1;
    if (layer < 0 || layer > v->n_layers) bug("vit_hidden: layer %d of %d", layer, v->n_layers);
    return run_layers(v, image, layer);
}

/* x [n_tok, d] -> [1, d]. Rows are normed one by one, so the other rows may be left out. */
Tensor vit_pool(Vit *v, Tensor x)
{
    Tensor out = scratch(1, v->d);
    norm(as_vector(out), as_vector(rows(x, 0, 1)), &v->post_norm);
    return out;
}
