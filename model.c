/* model.c -- the table of the models that mm runs: which one a folder holds, and how it is loaded.
 *
 *   -m, a variable, the small one -> model_resolve (hub.c) -> config.json -> its row in MODELS[]
 *   -> does it serve the command? -> its weights; its tokenizer; how it wants pictures
 *
 * To add a model:
 *   1. foo.c: header comment, config, foo_layer_load, foo_load, foo_layer, foo_forward
 *   2. its section in mm.h (3-8 lines)
 *   3. its row in MODELS[] below: what config.json calls it -> load, the commands it serves
 *   4. test/reference/: a tiny checkpoint and answers; a row in test/models.c
 *   5. a row in the README's table
 * An old family with new numbers touches only 3 and 5.
 *
 * Easy to get wrong: what a model can do must be known before its weights are touched: the wrong
 * family is exit code 3, whatever state the files are in. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model.h"

/* === The table ================================================================================ */

static void load_clip(Model *m)
{
    m->clip = clip_load(m->ck, m->config);
    m->image_size = clip_image_size(m->clip);
}

static void load_blip(Model *m)
{
    m->blip = blip_load(m->ck, m->config);
    m->image_size = blip_image_size(m->blip);
}

static void load_llama(Model *m)
{
    m->llama = llama_load(m->ck, m->config);
    ckpt_done(m->ck);
}

static void load_llava(Model *m)
{
    m->llava = llava_load(m->ck, m->config);
    m->llama = llava_text(m->llava);
    m->image_size = llava_image_size(m->llava);
}

static void load_sentence(Model *m) { m->sentence = sentence_load(m->dir, m->ck, m->config); }

#define WITH_PICTURES (PREPROCESS | TOKENIZE)
#define A_WRITER      (CHAT | COMPLETE | TOKENIZE)

static const ModelRow MODELS[] = {
    { "blip", "BlipForConditionalGeneration", "text_decoder.bert.embeddings.word_embeddings.weight",
      "BLIP captioning", CAPTION | WITH_PICTURES, load_blip, BLIP_CAPTION },
    { "blip", "BlipForQuestionAnswering", "text_encoder.embeddings.word_embeddings.weight",
      "BLIP question answering", CAPTION | WITH_PICTURES, load_blip, BLIP_VQA },
    { "blip", "BlipForImageTextRetrieval", "itm_head.weight",
      "BLIP image-text matching", CLASSIFY | WITH_PICTURES, load_blip, BLIP_ITM },
    { "clip", "CLIPModel", NULL, "CLIP", EMBED | CLASSIFY | WITH_PICTURES, load_clip, 0 },
    { "bert", "BertModel", NULL, "BERT sentence encoder", EMBED | TOKENIZE, load_sentence, 0 },
    { "bert", "BertForMaskedLM", NULL, "BERT sentence encoder", EMBED | TOKENIZE, load_sentence,
      0 },
    { "bert", "BertForPreTraining", NULL, "BERT sentence encoder", EMBED | TOKENIZE, load_sentence,
      0 },
    { "llama", "LlamaForCausalLM", NULL, "LLaMA", A_WRITER, load_llama, 0 },
    { "llama", "LLaMAForCausalLM", NULL, "LLaMA", A_WRITER, load_llama, 0 },
    { "mistral", "MistralForCausalLM", NULL, "Mistral", A_WRITER, load_llama, 0 },
    { "qwen", "QWenLMHeadModel", NULL, "Qwen", A_WRITER, load_llama, 0 },
    { "qwen2", "Qwen2ForCausalLM", NULL, "Qwen 2", A_WRITER, load_llama, 0 },
    { "phi", "PhiForCausalLM", NULL, "Phi", A_WRITER, load_llama, 0 },
    { "phi-msft", "PhiForCausalLM", NULL, "Phi, first layout", A_WRITER, load_llama, 0 },
    { "opt", "OPTForCausalLM", NULL, "OPT", A_WRITER, load_llama, 0 },
    { "llava", "LlavaForConditionalGeneration", "multi_modal_projector.linear_1.weight", "LLaVA",
      CAPTION | CHAT | WITH_PICTURES, load_llava, 0 },
    { "llava", "LlavaLlamaForCausalLM", "model.embed_tokens.weight", "LLaVA, first layout",
      CAPTION | CHAT | WITH_PICTURES, load_llava, 0 },
    { "llava_llama", "LlavaLlamaForCausalLM", NULL, "LLaVA, first layout",
      CAPTION | CHAT | WITH_PICTURES, load_llava, 0 },
    { 0 }
};

/* The model_types of the table, for messages. */
static const char *known_types(void)
{
    static char list[400];
    size_t n = 0;
    const char *last = "";
    for (const ModelRow *row = MODELS; row->type && n < sizeof list; last = row++->type)
        if (strcmp(row->type, last))
            n += (size_t)snprintf(list + n, sizeof list - n, "%s\"%s\"", *last ? ", " : "",
                                  row->type);
    return list;
}

/* === What config.json says ==================================================================== */

static Json read_config(const char *dir)
{
    Json config = json_file(dir, "config.json", 16 << 20);
    if (!config.node)
        die(EXIT_MODEL, "%s: model_index.json is there, but no config.json: a diffusers pipeline, "
            "which this version does not run", quoted(dir));
    if (!json_is(config, JSON_OBJECT))
        die(EXIT_FILE, "%s/config.json: is no JSON object", quoted(dir));
    return config;
}

static _Noreturn void unknown_model(const Model *m, const char *type)
{
    char known[300] = "";
    size_t n = 0;
    for (const ModelRow *row = MODELS; row->type; row++)
        if ((!type || strcmp(row->type, type) == 0) && n < sizeof known)
            n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", row->arch);
    if (type && n)
        die(EXIT_MODEL, "%s/config.json: key architectures is %s, which mm does not run\n"
            "of model_type %s it runs: %s", quoted(m->dir), quoted(m->arch), quoted(type), known);
    if (!type)
        die(EXIT_MODEL, "%s/config.json: key model_type is missing: this version runs %s",
            quoted(m->dir), known_types());
    die(EXIT_MODEL, "%s/config.json: key model_type is %s, which mm does not know\n"
        "this version runs %s", quoted(m->dir), quoted(type), known_types());
}

/* The row for model_type and architectures; for a file without the latter, by its tensors. NULL:
 * none. */
static const ModelRow *find_row(Model *m)
{
    Json arch = json_get(m->config, "architectures");
    const char *type = json_str(m->config, "model_type", NULL);
    m->arch = json_string(json_is(arch, JSON_ARRAY) ? json_first(arch) : arch, NULL);
    const ModelRow *found = NULL;
    for (const ModelRow *row = MODELS; row->type; row++) {
        if (!type || strcmp(row->type, type)) continue;
        if (m->arch && strcmp(row->arch, m->arch) == 0) return row;
        if (m->arch) continue;
        if (row->marker && !m->has_weights) {
            m->ck = ckpt_open(m->dir);
            m->has_weights = true;
        }
        if (!found || (row->marker && ckpt_has(m->ck, row->marker))) found = row;
    }
    if (found) m->arch = found->arch;
    return found;
}

/* === Choosing ================================================================================= */

static _Noreturn void wrong_family(const Run *r, const Model *m)
{
    die(EXIT_MODEL, "%s is a %s model (%s)\nit serves: %s", quoted(m->dir),
        m->row->name, m->arch, command_names(r->table, m->row->commands | INFO));
}

/* -m, or $MM_VQA_MODEL, $MM_CAPTION_MODEL, ... NULL: neither is given. */
static const char *chosen_model(const Run *r, const char *given)
{
    const char *name = given;
    const char *names[] = { r->name, r->cmd->name };
    for (int i = 0; !name && i < 2; i++) {
        char var[40] = "MM_", *s = var + 3;
        for (const char *c = names[i]; *c; c++) *s++ = (char)(*c - 'a' + 'A');
        snprintf(s, 8, "_MODEL");
        name = getenv(var);
        if (name && !*name) name = NULL;
    }
    return name;
}

/* What to fetch, for those who have given no model. */
static const char *full_model(const Run *r, const char **alias)
{
    bool vqa = strcmp(r->name, "vqa") == 0, caption = r->cmd->bit == CAPTION;
    bool writes = r->cmd->bit & WRITES;
    *alias = writes ? "qwen2.5" : vqa ? "blip-vqa" : caption ? "blip" : "clip";
    return writes ? "Qwen/Qwen2.5-0.5B-Instruct" : vqa ? "Salesforce/blip-vqa-base"
         : caption ? "Salesforce/blip-image-captioning-base" : "openai/clip-vit-large-patch14";
}

/* Nobody said which: the small model in the program. */
static const char *small_model(const Run *r)
{
    const char *alias, *id = full_model(r, &alias);
    const char *name = r->cmd->bit == CAPTION ? "builtin:caption" : "builtin:clip";
    if (strcmp(r->name, "vqa") && !(r->cmd->bit & WRITES) && builtin_model(name)) return name;
    die(EXIT_MODEL, "no model given: say -m MODEL\n"
        "to get one: hf download %s\nthen: mm %s -m %s ...    (hf comes with `pip install "
        "huggingface_hub`)", id, r->name, alias);
}

/* For a person at a terminal who has not chosen it. */
static void tell_small(const Run *r)
{
    if (!is_builtin(r->model.dir) || !(r->cmd->bit & (CAPTION | EMBED | CLASSIFY))
        || chosen_model(r, r->o.model) || r->o.quiet || !isatty(STDERR_FILENO)) return;
    const char *alias, *id = full_model(r, &alias);
    fprintf(stderr, "mm: %s is small: it knows %d things as emoji pictures, no photographs. "
            "For those: hf download %s; mm %s -m %s ...\n", r->model.label,
            concepts_load(r->model.dir).n, id, r->name, alias);
}

Model *model_open(Run *r, const char *given)
{
    const char *name = chosen_model(r, given);
    if (!name) name = small_model(r);
    r->model = model_resolve(name);
    Model *m = keep_bytes(sizeof *m);
    m->dir = r->model.dir;
    m->config = read_config(m->dir);
    m->row = find_row(m);
    if (!m->row) unknown_model(m, json_str(m->config, "model_type", NULL));
    if (!(r->cmd->bit & (INFO | QUANTIZE)) && !(m->row->commands & r->cmd->bit))
        wrong_family(r, m);
    return m;
}

/* No config.json, but files of a tokenizer. */
static bool only_tokenizer(const char *dir)
{
    static const char *const FILES[] = { "tokenizer.json", "tokenizer.model", "spiece.model",
                                         "vocab.txt", "vocab.json", "qwen.tiktoken" };
    if (is_builtin(dir) || access(keep_string("%s/config.json", dir), F_OK) == 0) return false;
    for (size_t i = 0; i < sizeof FILES / sizeof FILES[0]; i++)
        if (access(keep_string("%s/%s", dir, FILES[i]), F_OK) == 0) return true;
    return false;
}

Model *model_open_texts(Run *r, const char *given)
{
    const char *name = chosen_model(r, given);
    if (!name) name = small_model(r);
    r->model = only_tokenizer(name) ? (ModelPath){ .dir = name, .label = name }
                                    : model_resolve(name);
    Model *m = keep_bytes(sizeof *m);
    m->dir = r->model.dir;
    m->config = json_file(m->dir, "config.json", 16 << 20);
    m->row = find_row(m);
    return m;
}

/* === Loading ================================================================================== */

void model_weights(Run *r, Model *m)
{
    double start = now_ms();
    tell_small(r);
    first_feedback(r, "loading %s", quoted(r->model.label));
    if (!m->has_weights) m->ck = ckpt_open(m->dir);
    m->has_weights = true;
    if (r->o.quant && r->cmd->bit != QUANTIZE)
        quant_at_load(!strcmp(r->o.quant, "q8") ? Q8 : !strcmp(r->o.quant, "q4") ? Q4 : OTHER);
    m->row->load(m);
    r->file_bytes = (double)ckpt_bytes(m->ck);
    r->ms_load = now_ms() - start;
    if (!m->blip) return;
    for (const ModelRow *row = MODELS; row->type; row++)     /* what the tensors say counts */
        if (row->load == load_blip && row->blip == blip_kind(m->blip)) m->row = row;
    if (!(r->cmd->bit & (INFO | QUANTIZE)) && !(m->row->commands & r->cmd->bit)) wrong_family(r, m);
}

Json text_config(const Model *m)
{
    Json text = json_get(m->config, "text_config");
    return text.node ? text : m->config;
}

int text_context(const Model *m)
{
    return json_int(text_config(m), "max_position_embeddings", 512, 1, 65536);
}

/* The tokenizer, which must be the model's own: words that it lacks would become [UNK], and vanish
 * from what is said. Published checkpoints have more rows than tokens, never fewer: BLIP 2 more
 * (its vocab.txt lacks [DEC] and [ENC]); many fill up to a multiple of 64 or 128; Phi-1.5 has 51200
 * rows for 50295 tokens, a 57th more. A tenth is for small models, whose multiple of 64 is more. */
void model_tokenizer(Model *m)
{
    m->tok = tok_load(m->dir);
    if (!m->row) return;
    int usual = m->llama ? llama_vocab(m->llama) : m->row->load == load_clip ? 49408
              : m->row->load == load_blip ? 30524 : m->row->load == load_llama ? 0 : 30522;
    int rows = json_int(text_config(m), "vocab_size", usual, 1, 1 << 22), n = tok_size(m->tok);
    if (!rows) return;                       /* config.json does not tell */
    int missing = rows - n;
    bool few = missing > rows / 10 || (missing > 128 && missing > rows / 32);
    if (n <= rows && !few) return;
    die(EXIT_FILE, "%s: has %d tokens, but key vocab_size of config.json is %d\n"
        "copy the tokenizer's files from where the weights come from", tok_file(m->tok), n, rows);
}

/* The picture side: what preprocessor_config.json says; without one the class's own standard at
 * the size the model needs. */
void model_pictures(Model *m)
{
    bool clip = strcmp(m->row->type, "clip") == 0;
    bool llava = m->row->load == load_llava;
    m->pre = llava ? llava_pictures(m->dir, m->config)
                   : preprocess_load(m->dir, clip ? preprocess_clip(224) : preprocess_blip(384));
    if (!m->pre.from_file && !llava) {
        Json vision = json_get(m->config, "vision_config");
        int own = json_int(vision, "image_size", clip ? 224 : 384, 1, 16384);
        m->pre = clip ? preprocess_clip(own) : preprocess_blip(own);
    }
    if (!m->image_size) return;
    const Preprocess *p = &m->pre;
    bool fixed = p->crop || (p->resize && !p->shortest_edge);
    int w = p->crop ? p->crop_w : p->resize_w, h = p->crop ? p->crop_h : p->resize_h;
    if (!fixed)
        die(EXIT_FILE, "%s/preprocessor_config.json: pictures keep their shape, but config.json "
            "says image_size %d\nset size or crop_size to it", quoted(m->dir), m->image_size);
    if (w != m->image_size || h != m->image_size)
        die(EXIT_FILE, "%s/preprocessor_config.json: pictures become %d x %d, but key "
            "vision_config.image_size of config.json is %d\nare both files from the same model?",
            quoted(m->dir), w, h, m->image_size);
}
