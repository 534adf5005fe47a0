/* vlm.c -- LLaVA (arXiv 2304.08485) and LLaVA-1.5 (2310.03744): a picture as a few hundred words.
 *
 * Reference: transformers' LlavaForConditionalGeneration; for checkpoints in their first layout the
 * authors' LlavaLlamaForCausalLM.
 *
 *   image [H, W, 3] -> CLIP's image tower, all but its last layer -> x [n_patch+1, d_image]
 *   -> without the class token -> projector: linear, or linear, GELU, linear -> [n_patch, d]
 *   -> these rows stand in the prompt like embedded tokens (llama.c)
 *
 * The two layouts:
 *   llava-hf      config.json with vision_config and text_config; one checkpoint. Names begin in
 *                 different ways, as transformers changed them; each part is looked for by itself.
 *   liuhaotian    config.json is LLaMA's with mm_* keys; the tower is a CLIP checkpoint of its own.
 *
 * Easy to get wrong:
 *   - The feature layer -2 is the output of the last layer but one; the final norm is not applied.
 *   - The projector's GELU is the exact one; the tower's is quick_gelu.
 *   - Pictures are padded to a square only where the files say so, with 255 times the mean,
 *     rounded down. */
#include <stdlib.h>
#include <string.h>

#include "mm.h"

enum { MAX_FEATURES = 8, MAX_PROJECTIONS = 8 };

struct Llava {
    Vit   *tower;
    Llama *text;
    Json   vision;                   /* the tower's configuration */
    Ckpt   beside;                   /* a tower that has a checkpoint of its own */
    bool   original, all_tokens;     /* all_tokens: the class token too */
    int    feature[MAX_FEATURES], n_features;    /* layers of the tower, side by side */
    Linear project[MAX_PROJECTIONS];             /* with `act` between them; none: identity */
    int    n_project;
    Act    act;
    const char *name;                /* of the projector, for trace() */
};

static bool is_original(Json config) { return json_get(config, "mm_vision_tower").node; }

/* === Loading: what both layouts have ========================================================== */

/* The first of these places where there is such a tensor; the first of all if there is none. */
static Ckpt find_part(Ckpt ck, const char *const *places, const char *tensor)
{
    for (int i = 0; places[i]; i++)
        if (ckpt_has(ckpt_at(ck, "%s", places[i]), tensor)) return ckpt_at(ck, "%s", places[i]);
    return ckpt_at(ck, "%s", places[0]);
}

static void one_feature(Llava *v, Json j, Json config, int standard)
{
    int64_t layer = standard;
    if (j.node && !json_integer(j, &layer)) json_error(j, "expected the number of a layer");
    int n = vit_layers(v->tower);
    if (layer < -n - 1 || layer > n)
        json_error(j.node ? j : config, "feature layer %lld: the tower has %d layers",
                   (long long)layer, n);
    v->feature[v->n_features++] = (int)layer;
}

/* vision_feature_layer: a number or a list of them. */
static void load_features(Llava *v, Json config, const char *key)
{
    Json j = json_get(config, key);
    if (!json_is(j, JSON_ARRAY)) {
        one_feature(v, j, config, -2);
        return;
    }
    if (json_len(j) < 1 || json_len(j) > MAX_FEATURES)
        json_error(j, "has %d layers, expected 1 to %d", json_len(j), MAX_FEATURES);
    for (Json k = json_first(j); k.node; k = json_next(k)) one_feature(v, k, config, -2);
}

static void check_choice(Json config, const char *key, const char *value, const char *const *known)
{
    for (int i = 0; known[i]; i++)
        if (!strcmp(value, known[i])) return;
    json_error(json_get(config, key), "is %s, which mm does not know", quoted(value));
}

/* === llava-hf ================================================================================= */

static void load_hf(Llava *v, Ckpt ck, Json config)
{
    static const char *const TOWER[] = { "vision_tower.vision_model.", "vision_tower.",
        "model.vision_tower.vision_model.", "model.vision_tower.", NULL };
    static const char *const PROJECTOR[] = { "multi_modal_projector.",
        "model.multi_modal_projector.", NULL };
    static const char *const BODY[] = { "language_model.model.", "model.language_model.", NULL };
    static const char *const STRATEGIES[] = { "default", "full", NULL };
    Json vision = json_get(config, "vision_config"), text = json_get(config, "text_config");
    const char *kind = json_str(vision, "model_type", "clip_vision_model");
    if (strcmp(kind, "clip_vision_model"))
        json_error(json_get(vision, "model_type"), "is %s: mm runs LLaVA with CLIP's tower",
                   quoted(kind));
    v->vision = vision;
    v->tower = vit_load_clip(find_part(ck, TOWER, "embeddings.class_embedding"), vision);
    Ckpt body = find_part(ck, BODY, "embed_tokens.weight");
    bool old = strstr(body.prefix, "language_model.model.");
    v->text = llama_load_parts(body, old ? ckpt_at(ck, "language_model.") : ck, text);
    load_features(v, config, "vision_feature_layer");
    const char *strategy = json_str(config, "vision_feature_select_strategy", "default");
    check_choice(config, "vision_feature_select_strategy", strategy, STRATEGIES);
    v->all_tokens = !strcmp(strategy, "full");
    v->act = json_act(config, "projector_hidden_act", GELU);
    Ckpt p = find_part(ck, PROJECTOR, "linear_1.weight");
    int d = llama_dim(v->text);
    v->project[0] = linear_load(p, "linear_1", d, vit_dim(v->tower) * v->n_features);
    v->project[1] = linear_load(p, "linear_2", d, d);
    v->n_project = 2;
    v->name = keep_string("%.*s", (int)strlen(p.prefix) - 1, p.prefix);
}

/* === The first layout ========================================================================= */

/* "linear", "identity", or "mlp2x_gelu": how many linears. */
static int projections(Json config)
{
    const char *type = json_str(config, "mm_projector_type", "linear");
    if (!strcmp(type, "linear")) return 1;
    if (!strcmp(type, "identity")) return 0;
    int n = strncmp(type, "mlp", 3) ? 0 : type[3] - '0';
    if (n < 1 || n > MAX_PROJECTIONS || strcmp(type + 4, "x_gelu"))
        json_error(json_get(config, "mm_projector_type"), "is %s: mm knows linear, identity and "
                   "mlp1x_gelu to mlp8x_gelu", quoted(type));
    return n;
}

static const char *tower_dir(Json config)
{
    return model_resolve(json_str_need(config, "mm_vision_tower")).dir;
}

/* The tower: in the checkpoint itself if it was trained further, else a CLIP beside it. */
static void load_tower(Llava *v, Ckpt ck, Json config)
{
    const char *dir = tower_dir(config);
    Json clip = json_file(dir, "config.json", 16 << 20), vision = json_get(clip, "vision_config");
    if (!clip.node)
        die(EXIT_MODEL, "%s: has no config.json; key mm_vision_tower of %s names it", quoted(dir),
            quoted(json_doc_name(config)));
    Ckpt own = ckpt_at(ck, "model.vision_tower.vision_tower.vision_model.");
    if (!ckpt_has(own, "embeddings.class_embedding")) {
        v->beside = ckpt_open(dir);
        own = ckpt_at(v->beside, "vision_model.");
    }
    v->vision = vision.node ? vision : clip;
    v->tower = vit_load_clip(own, v->vision);
}

static void load_original(Llava *v, Ckpt ck, Json config)
{
    static const char *const FEATURES[] = { "patch", "cls_patch", NULL };
    v->original = true;
    load_tower(v, ck, config);
    v->text = llama_load_parts(ckpt_at(ck, "model."), ck, config);
    load_features(v, config, "mm_vision_select_layer");
    const char *feature = json_str(config, "mm_vision_select_feature", "patch");
    check_choice(config, "mm_vision_select_feature", feature, FEATURES);
    v->all_tokens = !strcmp(feature, "cls_patch");
    v->act = GELU;
    v->n_project = projections(config);
    v->name = "model.mm_projector";
    Ckpt p = ckpt_at(ck, "model.");
    int d = llama_dim(v->text), d_in = vit_dim(v->tower) * v->n_features;
    bool bare = ckpt_has(p, "mm_projector.weight");          /* one linear, not in a list */
    for (int i = 0; i < v->n_project; i++, d_in = d)
        v->project[i] = linear_load(p, bare ? "mm_projector"
                                            : keep_string("mm_projector.%d", 2 * i), d, d_in);
    if (!v->n_project && d_in != d)
        json_error(json_get(config, "mm_projector_type"), "is identity, but the tower gives %d "
                   "numbers and the language model takes %d", d_in, d);
}

Llava *llava_load(Ckpt ck, Json config)
{
    Llava *v = keep_bytes(sizeof *v);
    if (is_original(config)) load_original(v, ck, config);
    else load_hf(v, ck, config);
    ckpt_done(ck);
    return v;
}

Llama *llava_text(const Llava *v)      { return v->text; }
bool llava_original(const Llava *v)    { return v->original; }
int llava_image_size(const Llava *v)   { return vit_image_size(v->tower); }
int llava_n_tokens(const Llava *v)     { return vit_patches(v->tower) + v->all_tokens; }

Json llava_vision(const Llava *v, double *beside)
{
    *beside = 0;
    for (int i = 0; v->beside.files && i < ckpt_count(v->beside); i++) {
        CkptEntry e = ckpt_entry(v->beside, i);
        if (e.used) *beside += (double)e.n_bytes;
    }
    return v->vision;
}

/* The size of pictures is the tower's; what a file says counts more. */
Preprocess llava_pictures(const char *dir, Json config)
{
    bool original = is_original(config);
    if (original) dir = tower_dir(config);
    Json clip = original ? json_file(dir, "config.json", 16 << 20) : config;
    Json vision = json_get(clip, "vision_config");
    int size = json_int(vision.node ? vision : clip, "image_size", original ? 224 : 336, 1, 8192);
    Preprocess p = preprocess_load(dir, preprocess_clip(size));
    const char *aspect = json_str(config, "image_aspect_ratio", "square");
    if (original && !strcmp(aspect, "anyres"))
        json_error(json_get(config, "image_aspect_ratio"), "is anyres: that is LLaVA-NeXT, which "
                   "mm does not run");
    p.pad = original ? !strcmp(aspect, "pad") : p.pad;
    return p;
}

/* === Pictures ================================================================================= */

/* What the tower says of each patch: one of its layers, or several side by side. */
static Tensor features(Llava *v, Tensor image)
{
    int d = vit_dim(v->tower), first = !v->all_tokens, n = llava_n_tokens(v);
    Tensor out = scratch(n, d * v->n_features);
    size_t mark = scratch_mark();
    for (int k = 0; k < v->n_features; k++) {
        Tensor x = vit_hidden(v->tower, image, v->feature[k]);
        for (int i = 0; i < n; i++)
            memcpy(f32(rows(out, i, 1)) + (size_t)k * (size_t)d, f32(rows(x, first + i, 1)),
                   (size_t)d * sizeof(float));
        scratch_reset(mark);
    }
    return out;
}

Tensor llava_image(Llava *v, Tensor image)
{
    int n = llava_n_tokens(v), d = llama_dim(v->text);
    Tensor out = scratch(n, d);
    size_t mark = scratch_mark();
    Tensor x = features(v, image);
    for (int i = 0; i < v->n_project; i++) {
        bool last = i + 1 == v->n_project;
        Tensor y = last ? out : scratch(n, d);
        if (last) linear(y, x, &v->project[i]);
        else linear_act(y, x, &v->project[i], v->act);
        x = y;
    }
    if (!v->n_project) memcpy(f32(out), f32(x), n_elem(x) * sizeof(float));
    trace(as_batch(out), "%s", v->name);
    scratch_reset(mark);
    return out;
}
