/* mm.c -- the commands: what each does with one item, and what it needs before the first.
 *
 *   main -> options -> the command:  which model (model.c), which kernels, how many threads
 *                                    load once -> items one by one (cli.c) -> exit code
 *
 * Easy to get wrong: tokenize and preprocess need no weights, and so must not ask for them. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "kernels/kernels.h"
#include "model.h"

/* === Pictures for models ====================================================================== */

/* The item's picture as the model takes it: [H, W, 3], scratch. */
static Tensor model_input(Run *r, const Model *m, const Item *item, Result *res)
{
    computing(r);
    double start = now_ms();
    Tensor x = preprocess(item_picture(item, &r->o), &m->pre);
    res->ms_decode = now_ms() - start;
    return x;
}

/* === mm caption, mm vqa ======================================================================= */

typedef struct {
    Model      *m;
    Ids         ids;                 /* of -p; n 0: none */
    const char *prompt;
    int         max_len, n_vocab;    /* of a prompt, in tokens; the most alternatives there are */
} Captioner;

static Ids prompt_ids(const Run *r, const Captioner *c, const char *prompt)
{
    if (!prompt) return (Ids){0};
    return tok_encode(c->m->tok, prompt, strlen(prompt), TOK_SPECIAL | (r->o.raw ? 0 : TOK_RAW));
}

/* How sure the small captioner was of its words: their mean probability. Where it is lower than
 * UNSURE the picture is hardly one of its own; how often that is right: its README.md. */
#define UNSURE 0.95f

static void put_confidence(Result *res, const Generated *g)
{
    int n = g->n - g->n_prompt;
    float sum = 0;
    for (int i = 0; i < n; i++) sum += expf(g->info[i].chosen.logprob);
    put(&res->body, ",\"confidence\":");
    put_float(&res->body, sum / (float)n);   /* of no words: null */
    if (sum < UNSURE * (float)n) res->note = "not sure: this model knows only emoji-like pictures";
}

static bool is_question(const char *prompt)
{
    const char *mark = prompt ? strrchr(prompt, '?') : NULL;
    return mark && mark[1 + strspn(mark + 1, " \t\r\n")] == 0;
}

static _Noreturn void no_answers(const Run *r)
{
    die(EXIT_MODEL, "%s describes pictures, it does not answer questions\n"
        "it serves: caption (there -p is how the caption begins), preprocess, tokenize, info\n"
        "to get one that does: hf download Salesforce/blip-vqa-base\nthen: mm vqa -m blip-vqa -p "
        "QUESTION ...", quoted(r->model.label));
}

static void caption_item(Run *r, const Item *item, Result *res)
{
    Captioner *c = r->ctx;
    Blip *blip = c->m->blip;
    bool vqa = blip_kind(blip) == BLIP_VQA, small = is_builtin(c->m->dir);
    Ids q = item->prompt ? prompt_ids(r, c, item->prompt) : c->ids;
    if (vqa && !item->prompt && !c->prompt)
        fail("input.text", "give each record a prompt, or all of them -p QUESTION",
             "%s: no question", quoted_n(item->id, item->id_len));
    if (small && is_question(item->prompt))
        fail("input.text", "ask a model that does: mm vqa -m blip-vqa", "%s: %s answers no "
             "questions", quoted_n(item->id, item->id_len), quoted(r->model.label));
    int logprobs = json_int(item->record, "logprobs", r->o.logprobs > 0 ? (int)r->o.logprobs : 0, 0,
                            1000);
    GenOptions o = {
        .max_tokens = json_int(item->record, record_key(item->record, "max_tokens"),
                               (int)r->o.max_tokens, 0, 100000),
        .beams = json_int(item->record, "beams", (int)r->o.beams, 1, 64),
        .logprobs = small && !logprobs ? 1 : logprobs,
    };
    Tensor image = model_input(r, c->m, item, res);
    double start = now_ms();
    BlipImage seen = blip_image(blip, image);
    double encoded = now_ms();
    Generated g = vqa ? blip_answer(blip, seen, q.id, q.n, o)
                      : blip_caption(blip, seen, q.id, q.n, o);
    const char *text = tok_decode(c->m->tok, g.id, g.n, true);
    int n_in = g.n_prompt + (vqa ? q.n : 0);     /* the picture is attended to, it has no tokens */
    int n_out = g.n - g.n_prompt;
    res->ms_encode = encoded - start;
    res->ms_text = now_ms() - encoded;
    res->tokens_out = n_out;
    put_bytes(&res->text, text, strlen(text));
    put(&res->body, "\"text\":");
    put_json(&res->body, text, strlen(text));
    if (small) put_confidence(res, &g);
    put(&res->body, ",\"stop\":\"%s\"", g.stopped ? "eos" : g.full ? "context" : "length");
    put(&res->tail, "\"tokens\":{\"in\":%d,\"out\":%d},\"ids\":[", n_in, n_out);
    put_ids(&res->tail, g.id + g.n_prompt, n_out, ",");
    put(&res->tail, "]");
    if (logprobs) put_logprobs(&res->tail, &g, logprobs < c->n_vocab ? logprobs : c->n_vocab);
}

static int cmd_caption(Run *r)
{
    Model *m = model_open(r, r->o.model);
    Captioner c = { .m = m, .prompt = option_text(r->name, "-p", r->o.prompt) };
    bool records = r->o.in && (!strcmp(r->o.in, "jsonl") || !strcmp(r->o.in, "tsv"));
    if (is_builtin(m->dir) && is_question(c.prompt)) no_answers(r);
    start_machine(r);
    r->in = input_open(r->name, &r->o, TAKES_PICTURES);
    model_weights(r, m);
    if (m->llava) return ask_pictures(r, m, c.prompt);
    if (blip_kind(m->blip) == BLIP_VQA && !c.prompt && !records)
        usage_error(r->name, "%s answers questions: say -p QUESTION", quoted(r->model.label));
    if (blip_kind(m->blip) == BLIP_CAPTION && strcmp(r->name, "vqa") == 0)
        no_answers(r);
    model_tokenizer(m);
    model_pictures(m);
    c.ids = prompt_ids(r, &c, c.prompt);
    c.max_len = text_context(m);
    c.n_vocab = json_int(text_config(m), "vocab_size", 30524, 1, 1 << 22);
    if (c.ids.n > c.max_len)
        usage_error(r->name, "-p: the prompt has %d tokens, the model takes %d", c.ids.n,
                    c.max_len);
    r->ctx = &c;
    return run_traced(r, caption_item);
}

/* === mm embed ================================================================================= */

static void put_vector(const Run *r, Result *res, Tensor v)
{
    const char *vec = r->o.vec ? r->o.vec : "";
    const float *x = f32(v);
    int n = n_cols(v);
    bool b64 = strcmp(vec, "b64") == 0, json = r->o.json || strcmp(vec, "json") == 0;
    bool rows = strcmp(vec, "f32") == 0 || strcmp(vec, "npy") == 0;
    res->vector = x;
    res->dim = n;
    Buf *b = &res->text;
    if (rows) return;
    if (b64) put_base64(b, x, (size_t)n * sizeof *x);
    for (int i = 0; !b64 && i < n; i++) {
        put(b, "%s", i ? (json ? "," : " ") : json ? "[" : "");
        put_float(b, x[i]);
    }
    if (!b64 && json) put(b, "]");
    if (!r->o.json) return;
    put(&res->body, b64 ? "\"vector\":\"%s\"" : "\"vector\":%s", b->p);
    put(&res->body, ",\"dim\":%d", n);
}

static void embed_item(Run *r, const Item *item, Result *res)
{
    Model *m = r->ctx;
    Tensor v;
    double start = now_ms();
    if (item->text) {
        computing(r);
        Ids ids = tok_encode(m->tok, item->text, item->text_len, TOK_SPECIAL);
        v = m->clip ? clip_text(m->clip, ids.id, 1, ids.n)
                    : sentence_forward(m->sentence, ids.id, ids.n);
        res->ms_text = now_ms() - start;
    } else {
        Tensor image = model_input(r, m, item, res);
        start = now_ms();
        v = clip_image(m->clip, image);
        res->ms_encode = now_ms() - start;
    }
    if (!r->o.normalize || strcmp(r->o.normalize, "no")) l2_normalize(v);
    put_vector(r, res, v);
}

static int cmd_embed(Run *r)
{
    Model *m = model_open(r, r->o.model);
    const char *prompt = option_text(r->name, "-p", r->o.prompt);
    bool texts = strcmp(m->row->type, "bert") == 0;
    if (prompt) r->o.text.v[r->o.text.n++] = prompt;
    start_machine(r);
    r->in = input_open(r->name, &r->o, texts ? TAKES_TEXTS : TAKES_BOTH);
    r->text_lines = true;
    model_weights(r, m);
    model_tokenizer(m);
    if (!texts) model_pictures(m);
    r->ctx = m;
    return run_traced(r, embed_item);
}

/* === mm classify ============================================================================== */

typedef struct { const char *label; float score, cosine; int place; } Scored;

typedef struct {
    Model       *m;
    const char **label;
    int          n;
    const char  *form;               /* --label-template */
    Tensor       text;               /* CLIP: [n, d], each of length 1 */
} Classifier;

/* "a photo of a {}." with the label in place of {}. */
static const char *label_text(const char *form, const char *label)
{
    Buf b = {0};
    const char *at = strstr(form, "{}");
    put_bytes(&b, form, (size_t)(at - form));
    put(&b, "%s%s", label, at + 2);
    return b.p;
}

/* The labels of the options, one after the other: A,B or @FILE, one a line. */
static Names read_labels(const Run *r)
{
    Names all = {0};
    for (int64_t i = 0; i < r->o.labels.n; i++) {
        const char *option = r->o.labels.v[i];
        const char *given = option_text(r->name, "--labels", option);
        bool file = option[0] == '@';
        Names some = cut_names(given, file ? '\n' : ',');
        if (some.empty && !file) usage_error(r->name, "--labels %s: an empty label", quoted(given));
        if (!some.n) usage_error(r->name, "--labels: no labels in %s", quoted(option + 1));
        const char **name = keep_bytes(mul_size(sizeof *name, (size_t)(all.n + some.n)));
        for (int k = 0; k < all.n + some.n; k++)
            name[k] = k < all.n ? all.name[k] : some.name[k - all.n];
        all = (Names){ .name = name, .n = all.n + some.n };
    }
    return all;
}

static Ids label_ids(const Classifier *c, const char *text)
{
    return tok_encode(c->m->tok, text, strlen(text), TOK_SPECIAL);
}

typedef struct { Ids ids; int place; } LabelIds;

static int shorter_first(const void *a, const void *b)
{
    const LabelIds *x = a, *y = b;
    return x->ids.n != y->ids.n ? x->ids.n - y->ids.n : x->place - y->place;
}

/* Vectors of n texts of one length, each to its place in out. */
static void encode_stack(const Classifier *c, Tensor out, const LabelIds *l, int n)
{
    size_t mark = scratch_mark(), n_ids = (size_t)l->ids.n;
    int *ids = scratch_bytes(mul_size(mul_size((size_t)n, n_ids), sizeof *ids));
    for (int i = 0; i < n; i++) memcpy(ids + (size_t)i * n_ids, l[i].ids.id, n_ids * sizeof *ids);
    Tensor v = clip_text(c->m->clip, ids, n, l->ids.n);
    l2_normalize(v);
    for (int i = 0; i < n; i++)
        memcpy(f32(rows(out, l[i].place, 1)), f32(rows(v, i, 1)), n_cols(v) * sizeof(float));
    scratch_reset(mark);
}

/* The texts' vectors, [n, d], each of length 1. Texts of one length are computed together; where
 * they are traced one by one. */
static void encode_labels(const Classifier *c, Tensor out, const char **label, const char *form)
{
    enum { MAX_ROWS = 1024 };
    size_t mark = scratch_mark();
    int n = n_rows(out);
    LabelIds *l = scratch_bytes(mul_size((size_t)n, sizeof *l));
    for (int i = 0; i < n; i++) {
        l[i] = (LabelIds){ label_ids(c, label_text(form, label[i])), i };
    }
    if (!tracing()) qsort(l, (size_t)n, sizeof *l, shorter_first);
    for (int i = 0, k; i < n; i += k) {
        int most = tracing() ? 1 : MAX_ROWS / (l[i].ids.n + 1) + 1;
        for (k = 1; i + k < n && k < most && l[i + k].ids.n == l[i].ids.n; ) k++;
        encode_stack(c, out, l + i, k);
    }
    scratch_reset(mark);
}

/* CLIP: softmax over the labels of scale * cosine. */
static void score_clip(const Classifier *c, Tensor image, Tensor text, Scored *s)
{
    int n = n_rows(text);
    Tensor v = clip_image(c->m->clip, image), p = scratch(1, n);
    l2_normalize(v);
    for (int i = 0; i < n; i++)
        f32(p)[i] = clip_logit_scale(c->m->clip) * dot(f32(v), f32(rows(text, i, 1)), n_cols(v));
    softmax_rows(p);
    for (int i = 0; i < n; i++) s[i].score = f32(p)[i];
}

/* BLIP: P(match) of each label by itself. */
static void score_blip(const Classifier *c, Tensor image, const char *form, Scored *s, int n)
{
    BlipImage seen = blip_image(c->m->blip, image);
    for (int i = 0; i < n; i++) {
        Ids ids = label_ids(c, label_text(form, s[i].label));
        int max = text_context(c->m);
        if (ids.n > max)
            fail("input.text", NULL, "label %s has %d tokens, the model takes %d",
                 quoted(s[i].label), ids.n, max);
        blip_match(c->m->blip, seen, ids.id, ids.n, &s[i].score, &s[i].cosine);
    }
}

static int best_first(const void *a, const void *b)
{
    const Scored *x = a, *y = b;
    float s = isnan(x->score) ? -1 : x->score, t = isnan(y->score) ? -1 : y->score;     /* last */
    if (s != t) return s > t ? -1 : 1;
    return x->place - y->place;
}

/* The record's own labels ("labels":["cat","dog"]), or those of the option. */
static const char **item_labels(const Classifier *c, const Item *item, int *n)
{
    Json own = json_get(item->record, "labels");
    *n = c->n;
    if (!own.node || json_type(own) == JSON_NULL) {
        if (!c->n) fail("input.json", "or give all of them --labels A,B", "%s: no labels",
                        quoted_n(item->id, item->id_len));
        return c->label;
    }
    *n = json_len(own);
    if (!json_is(own, JSON_ARRAY) || *n == 0) json_error(own, "must be a list of texts");
    const char **label = scratch_bytes(sizeof *label * (size_t)*n);
    size_t len, i = 0;
    for (Json j = json_first(own); j.node; j = json_next(j)) {
        label[i++] = json_string(j, &len);
        if (!label[i - 1] || strlen(label[i - 1]) != len) json_error(j, "must be a text, no NUL");
    }
    return label;
}

static void put_scores(const Run *r, const Classifier *c, Result *res, const Scored *s, int n,
                       int top)
{
    int n_text = top > 0 ? top : 5;
    put(&res->body, "\"labels\":[");
    for (int i = 0; i < n && (top <= 0 || i < top); i++) {
        put(&res->body, "%s{\"label\":", i ? "," : "");
        put_json(&res->body, s[i].label, strlen(s[i].label));
        put(&res->body, ",\"score\":");
        put_float(&res->body, s[i].score);
        if (c->m->blip) {
            put(&res->body, ",\"itc\":");
            put_float(&res->body, s[i].cosine);
        }
        put(&res->body, "}");
    }
    put(&res->body, "]");
    res->table = true;
    for (int i = 0; i < n && i < n_text; i++) {
        put(&res->text, "%s%.4f\t", i ? "\n" : "", (double)fabsf(s[i].score));   /* no -nan */
        put_plain(&res->text, s[i].label, strlen(s[i].label), true, r->o.tsv, false);
    }
}

static void classify_item(Run *r, const Item *item, Result *res)
{
    Classifier *c = r->ctx;
    int n, top = json_int(item->record, "top", r->o.top > 0 ? (int)r->o.top : -1, 1, 1000000);
    const char **label = item_labels(c, item, &n);
    const char *key = record_key(item->record, "label_template");
    const char *form = json_str(item->record, key, c->form);
    bool own = label != c->label || form != c->form;
    if (!strstr(form, "{}")) json_error(json_get(item->record, key), "has no {}");
    Tensor image = model_input(r, c->m, item, res), text = c->text;
    double start = now_ms();
    if (c->m->clip && own) {
        text = scratch(n, clip_dim(c->m->clip));
        encode_labels(c, text, label, form);
        res->ms_text = now_ms() - start;
        start = now_ms();
    }
    Scored *s = scratch_bytes(sizeof *s * (size_t)n);
    for (int i = 0; i < n; i++) s[i] = (Scored){ .label = label[i], .place = i };
    if (c->m->clip) score_clip(c, image, text, s);
    else score_blip(c, image, form, s, n);
    res->ms_encode = now_ms() - start;
    qsort(s, (size_t)n, sizeof *s, best_first);
    put_scores(r, c, res, s, n, top);
}

static int cmd_classify(Run *r)
{
    Model *m = model_open(r, r->o.model);
    Classifier c = { .m = m, .form = r->o.label_template };
    if (!c.form) c.form = strcmp(m->row->type, "clip") ? "{}" : "a photo of a {}.";
    if (!strstr(c.form, "{}"))
        usage_error(r->name, "--label-template %s: has no {}", quoted(c.form));
    Names labels = r->o.labels.n ? read_labels(r) : concepts_load(m->dir);
    c.label = labels.name;
    c.n = labels.n;
    if (!c.n && (!r->o.in || strcmp(r->o.in, "jsonl")))
        usage_error(r->name, "no labels: say --labels cat,dog or --labels @FILE");
    start_machine(r);
    r->in = input_open(r->name, &r->o, TAKES_PICTURES);
    model_weights(r, m);
    model_tokenizer(m);
    model_pictures(m);
    for (int i = 0; m->blip && i < c.n; i++) {
        int n = label_ids(&c, label_text(c.form, c.label[i])).n, max = text_context(m);
        if (n > max)
            usage_error(r->name, "--labels: %s has %d tokens, the model takes %d",
                        quoted(c.label[i]), n, max);
    }
    trace_begin(r);                          /* the labels are part of it */
    if (m->clip && c.n) {
        computing(r);
        c.text = keep(c.n, clip_dim(m->clip));
        encode_labels(&c, c.text, c.label, c.form);
    }
    r->ctx = &c;
    return run_traced(r, classify_item);
}

/* === mm preprocess, mm tokenize =============================================================== */

static void preprocess_item(Run *r, const Item *item, Result *res)
{
    Model *m = r->ctx;
    Tensor x = model_input(r, m, item, res);             /* [H, W, 3] */
    int H = x.dim[0], W = x.dim[1];
    size_t n_pix = (size_t)H * (size_t)W;
    char *npy = scratch_bytes(add_size(128, mul_size(3 * sizeof(float), n_pix)));
    float *out = (float *)(npy + 128);                   /* [1, 3, H, W] */
    for (size_t i = 0; i < n_pix; i++)
        for (size_t ch = 0; ch < 3; ch++) out[ch * n_pix + i] = f32(x)[3 * i + ch];
    npy_header(npy, (int64_t[]){ 1, 3, H, W }, 4);
    res->blob = npy;
    res->n_blob = 128 + 3 * sizeof(float) * n_pix;
}

static int cmd_preprocess(Run *r)
{
    Model *m = model_open(r, r->o.model);
    start_machine(r);
    model_pictures(m);
    r->in = input_open(r->name, &r->o, TAKES_PICTURES);
    r->ctx = m;
    return run_items(r, preprocess_item);
}

static void tokenize_item(Run *r, const Item *item, Result *res)
{
    Model *m = r->ctx;
    if (!item->text) fail("input.json", NULL, "%s: no text", quoted_n(item->id, item->id_len));
    Ids ids = tok_encode(m->tok, item->text, item->text_len, TOK_SPECIAL);
    put_ids(&res->text, ids.id, ids.n, " ");
    put(&res->body, "\"ids\":[");
    put_ids(&res->body, ids.id, ids.n, ",");
    put(&res->body, "]");
}

static int cmd_tokenize(Run *r)
{
    Model *m = model_open_texts(r, r->o.model);
    const char *prompt = option_text(r->name, "-p", r->o.prompt);
    if (prompt) r->o.text.v[r->o.text.n++] = prompt;
    start_machine(r);
    model_tokenizer(m);
    r->in = input_open(r->name, &r->o, TAKES_TEXTS);
    r->text_lines = true;
    r->ctx = m;
    return run_items(r, tokenize_item);
}

/* === mm info, mm ls, mm help ================================================================= */

static bool is_picture_name(const char *name)
{
    const char *dot = strrchr(name, '.');
    const char *ends[] = { ".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".gif" };
    for (size_t i = 0; dot && i < sizeof ends / sizeof ends[0]; i++)
        if (strcasecmp(dot, ends[i]) == 0) return true;
    return false;
}

static int cmd_info(Run *r)
{
    const char *what = r->o.n_operands ? r->o.operand[0] : r->o.model;
    if (r->o.n_operands > 1) usage_error(r->name, "one model or picture at a time");
    if (r->o.cpu) {
        start_machine(r);
        info_cpu(&r->o, kernels_level(), kernels_available());
        return 0;
    }
    if (!what) usage_error(r->name, "say a model, a picture, or --cpu");
    if (info_picture(what, &r->o)) return 0;
    if (access(what, F_OK) && is_picture_name(what))
        die(EXIT_INPUT, "%s: no such file", quoted(what));
    Model *m = model_open(r, what);
    start_machine(r);
    model_weights(r, m);
    if (r->o.tensors) {
        info_tensors(m->ck, &r->o);
        return 0;
    }
    if (m->row->commands & PREPROCESS) model_pictures(m);
    model_tokenizer(m);
    Names known = concepts_load(m->dir);
    ModelFacts f = { .known = known.name, .n_known = known.n,
                     .label = r->model.label, .dir = m->dir, .type = m->row->type,
                     .name = m->row->name, .arch = m->arch,
                     .runs = command_names(r->table, m->row->commands),
                     .tokenizer = tok_kind(m->tok), .config = m->config,
                     .vision = json_get(m->config, "vision_config"), .ck = m->ck };
    if (m->llava) {
        f.vision = llava_vision(m->llava, &f.beside);
        f.n_rows = llava_n_tokens(m->llava);
    }
    info_model(&f, &r->o);
    return 0;
}

static int cmd_ls(Run *r)
{
    if (r->o.n_operands) usage_error(r->name, "takes no arguments: it lists all models");
    int n;
    const FoundModel *found = models_found(&n);
    for (int i = 0; i < n; i++) info_found(&found[i], i, &r->o);
    if (!n)
        die(EXIT_MODEL, "no models here: none in mm itself, in $MM_MODELS, in the Hugging Face "
            "cache\nto get one: hf download Salesforce/blip-image-captioning-base");
    return 0;
}

static int cmd_quantize(Run *r)
{
    if (r->o.n_operands != 2) usage_error(r->name, "say which model, and what to make of it");
    if (r->o.quant && !strcmp(r->o.quant, "none"))
        usage_error(r->name, "--quant none: expected q8 or q4");
    start_machine(r);
    Model *m = model_open(r, r->o.operand[0]);
    model_weights(r, m);
    return quantize_model(r, m);
}

static int cmd_convert(Run *r)
{
    threads_start(choose_machine(r));
    return convert_model(r);
}

static int cmd_bench(Run *r) { return bench(r, choose_machine(r)); }

static int cmd_help(Run *r)
{
    const char *word = r->o.n_operands ? r->o.operand[0] : NULL;
    if (!word) help_general(r->table, r->o.help_all);
    else if (strcmp(word, "man") == 0) help_man(r->table);
    else help_command(command_named(r->table, word), word, r->o.help_all);
    return 0;
}

static const Command COMMANDS[] = {
    { "caption", "vqa", CAPTION, cmd_caption, "[-m MODEL] [-p TEXT] PICTURE...",
      "describe pictures, or answer questions about them",
      "  mm caption scene.png                             a small model: emoji only\n"
      "  mm caption -m blip photo.jpg\n"
      "  mm caption -m blip -p \"a photo of\" *.jpg         each begins with these words\n"
      "  mm vqa -m blip-vqa -p \"what is this?\" photo.jpg  a question\n"
      "  mm caption -m llava15 -p \"what is odd?\" *.jpg    LLaVA answers in sentences\n"
      "  mm caption -m blip --json -r photos > captions.jsonl\n",
      "prompt max_tokens beams logprobs", "text confidence stop tokens ids logprobs" },
    { "chat", NULL, CHAT, cmd_chat, "[-m MODEL] [-p TEXT] [--system TEXT]",
      "converse; without -p on a terminal, line by line",
      "  mm chat -m qwen2.5                              there /help says more\n"
      "  mm chat -m qwen2.5 -p \"why is the sky blue?\"\n"
      "  git diff | mm chat -m qwen2.5 --system \"Write a commit message.\"\n"
      "  mm chat -m llava15 --image photo.jpg -p \"what is odd here?\"\n"
      "  mm chat -m qwen2.5 --in jsonl --json < talks.jsonl\n",
      "messages system prompt text max_tokens temp top_k top_p min_p repeat_penalty beams stop "
      "logprobs", "text stop tokens ids logprobs prompt prompt_ids" },
    { "complete", NULL, COMPLETE, cmd_complete, "[-m MODEL] [-p TEXT | FILE...]",
      "continue a text",
      "  mm complete -m llama2 -p \"The three laws of\"\n"
      "  mm complete -m llama2 -p Once --temp 0.8 --top-p 0.9 --seed 7\n"
      "  mm complete -m microsoft/phi-1 --max-tokens 100 function.py\n"
      "  mm complete -m llama2 --in lines --json < beginnings.txt\n",
      "prompt text max_tokens temp top_k top_p min_p repeat_penalty beams stop logprobs",
      "text stop tokens ids logprobs prompt prompt_ids" },
    { "embed", NULL, EMBED, cmd_embed, "[-m MODEL] [--text T]... [PICTURE or TEXT...]",
      "turn pictures or texts into vectors",
      "  mm embed -m clip photo.jpg                      numbers, a line per picture\n"
      "  mm embed -m clip --text \"a dog\" --json photo.jpg\n"
      "  mm embed -m minilm \"a cat sat on the mat\"       sentence encoders take texts\n"
      "  mm embed -m clip -r photos -o v.npy --ids ids.txt\n",
      "prompt text", "vector dim" },
    { "classify", NULL, CLASSIFY, cmd_classify, "[-m MODEL] [--labels A,B] PICTURE...",
      "score labels for pictures",
      "  mm classify scene.png                           the things a small model knows\n"
      "  mm classify -m clip --labels cat,dog photo.jpg  scores add up to 1\n"
      "  mm classify -m clip --labels @names.txt --top 1 *.jpg\n"
      "  mm classify -m blip-itm --labels \"a cat on a sofa\" photo.jpg   does it fit?\n",
      "labels label_template top", "labels" },
    { "info", NULL, INFO, cmd_info, "MODEL | PICTURE | --cpu",
      "what a model, a picture or this machine is",
      "  mm info blip\n  mm info builtin:caption\n  mm info --tensors --json ./model\n"
      "  mm info photo.jpg\n  mm info --cpu\n",
      NULL, NULL },
    { "ls", NULL, LS, cmd_ls, "[--json]", "the models that -m knows by name here",
      "  mm ls                          in mm, in $MM_MODELS, in the Hugging Face cache\n"
      "  mm ls --json | jq -r .id\n",
      NULL, NULL },
    { "preprocess", NULL, PREPROCESS, cmd_preprocess, "[-m MODEL] -o F.npy PICTURE",
      "the numbers that a model sees of a picture",
      "  mm preprocess -m clip photo.jpg -o photo.npy    float32 [1,3,H,W]\n"
      "  mm preprocess -m clip *.jpg -o 'out/{stem}.npy'\n",
      NULL, NULL },
    { "tokenize", NULL, TOKENIZE, cmd_tokenize, "[-m MODEL] TEXT...", "texts as token ids",
      "  mm tokenize -m clip \"a photo of a dog\"\n"
      "  mm tokenize -m minilm --json < lines.txt        a record per line\n",
      "text prompt", "ids" },
    { "convert", NULL, CONVERT, cmd_convert, "FILE|DIR OUT [--base M]",
      "PyTorch's .bin, .pt, .pth, .ckpt into safetensors",
      "  mm convert vicuna-7b-v1.3 vicuna               a folder, with its other files\n"
      "  mm convert v1-5-pruned-emaonly.ckpt sd.safetensors\n"
      "  mm convert vicuna-7b-delta-v1.1 vicuna --base llama-7b    a difference\n"
      "  mm convert model.pt out --key ema              another entry of the file\n",
      NULL, NULL },
    { "quantize", NULL, QUANTIZE, cmd_quantize, "MODEL OUT [--quant q8|q4]",
      "a model with weights in 8 or 4 bits",
      "  mm quantize llama-7b llama-7b-q8               a folder that -m takes\n"
      "  mm quantize --quant q4 llama-7b llama-7b-q4\n",
      NULL, NULL },
    { "bench", NULL, BENCH, cmd_bench, "[--full] [KERNEL...]",
      "how near the kernels come to this machine's limits",
      "  mm bench                        half a minute: in percent of the limits\n"
      "  mm bench --full --json > bench.jsonl\n  mm bench --seconds 5 gemm attention\n",
      NULL, "kernel type shape isa threads ms rate unit limit percent spread timings" },
    { "help", NULL, HELP, cmd_help, "[CMD]", "help, also of one command", "", NULL, NULL },
    { 0 }
};

int main(int argc, char **argv)
{
    Run r = { .t_start = now_ms(), .table = COMMANDS };
    int code = 0;
    r.cmd = options_parse(&r.o, COMMANDS, argc, argv, &r.name);
    if (r.o.version) printf("mm %s\n", MM_VERSION);
    else if (!r.cmd || (r.cmd->bit == HELP && r.o.help)) {
        help_general(COMMANDS, r.o.help_all);
        code = !r.o.help && !r.o.help_all ? EXIT_USAGE : 0;
    } else if (r.o.help || r.o.help_all) {
        help_command(r.cmd, r.name, r.o.help_all);
    } else {
        signals_start();
        code = r.cmd->run(&r);
    }
    if (fflush(stdout) || ferror(stdout))
        die(EXIT_OUTPUT, "stdout: cannot be written: %s", strerror(errno));
    return code;
}
