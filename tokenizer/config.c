/* config.c -- a model directory -> the machine, as AutoTokenizer of transformers 5.23 makes it.
 *
 *   which class    tokenizer_config.json's tokenizer_class, else config.json's, else by model_type
 *   which file     tokenizer.json, else vocab.txt (BERT), else vocab.json + merges.txt (CLIP)
 *   which steps    BertTokenizer and CLIPTokenizer build theirs anew, whatever tokenizer.json says;
 *                  it gives them the vocabulary, merges and added tokens. Any other class takes the
 *                  file as it is, and so does mm where no class is named
 *   added tokens   those of tokenizer.json, then added_tokens_decoder of tokenizer_config.json (or,
 *                  in older directories, added_tokens.json), then the special tokens that have a
 *                  name (cls_token, ...) and were not there yet
 *
 * Easy to get wrong:
 *   - BertTokenizer lowers case unless tokenizer_config.json says do_lower_case false, even if
 *     tokenizer.json's normalizer does not.
 *   - special_tokens_map.json and added_tokens.json count only where there is no
 *     added_tokens_decoder.
 *   - vocab.txt: the line number is the id, white space at the end of a line does not count, and of
 *     equal lines the last one wins.
 *   - A token that is given by name only is special and not normalized. */
#include <stdlib.h>
#include <string.h>

#include "machine.h"

typedef enum {
    CLASS_PLAIN, CLASS_BERT, CLASS_CLIP, CLASS_LLAMA, CLASS_GPT2, CLASS_OPT, CLASS_QWEN2,
    CLASS_QWEN, CLASS_T5
} Class;

/* The names of classes, and the types of models that have one of a class. Of both the first that
 * fits. */
static const struct { const char *name; Class class; } CLASSES[] = {
    { "BertTokenizer", CLASS_BERT }, { "CLIPTokenizer", CLASS_CLIP },
    { "LlamaTokenizer", CLASS_LLAMA }, { "LLaMATokenizer", CLASS_LLAMA },
    { "GPT2Tokenizer", CLASS_GPT2 }, { "CodeGenTokenizer", CLASS_GPT2 },
    { "Qwen2Tokenizer", CLASS_QWEN2 }, { "QWenTokenizer", CLASS_QWEN }, { "T5Tokenizer", CLASS_T5 },
};
static const struct { const char *type, *class_name; } TYPES[] = {
    { "bert", "BertTokenizer" }, { "blip", "BertTokenizer" }, { "clip", "CLIPTokenizer" },
    { "llama", "LlamaTokenizer" }, { "llava", "LlamaTokenizer" },
    { "llava_llama", "LlamaTokenizer" }, { "opt", "GPT2Tokenizer" }, { "blip-2", "GPT2Tokenizer" },
    { "gpt2", "GPT2Tokenizer" }, { "codegen", "GPT2Tokenizer" }, { "phi", "GPT2Tokenizer" },
    { "qwen2", "Qwen2Tokenizer" }, { "qwen", "QWenTokenizer" }, { "t5", "T5Tokenizer" },
};

/* What a directory says of its tokenizer. Absent files are {0}. */
typedef struct {
    const char *dir;
    Json        config, special_map, added, json;    /* json: tokenizer.json */
    const char *class_name, *model_type;             /* NULL: nothing names one */
    Class       class;
} Dir;

/* The tokens that have a name, in the reference's order, which is that of TokName. */
static const char *const NAMED[TOK_N_NAMES] = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"
};
/* What a class calls them if nothing else is said. */
static const char *const DEFAULTS[][TOK_N_NAMES] = {
    [CLASS_PLAIN] = { NULL },
    [CLASS_BERT]  = { [TOK_UNK] = "[UNK]", [TOK_SEP] = "[SEP]", [TOK_PAD] = "[PAD]",
                      [TOK_CLS] = "[CLS]", [TOK_MASK] = "[MASK]" },
    [CLASS_CLIP]  = { [TOK_BOS] = "<|startoftext|>", [TOK_EOS] = "<|endoftext|>",
                      [TOK_UNK] = "<|endoftext|>", [TOK_PAD] = "<|endoftext|>" },
    [CLASS_LLAMA] = { [TOK_BOS] = "<s>", [TOK_EOS] = "</s>", [TOK_UNK] = "<unk>" },
    [CLASS_GPT2]  = { [TOK_BOS] = "<|endoftext|>", [TOK_EOS] = "<|endoftext|>",
                      [TOK_UNK] = "<|endoftext|>" },
    [CLASS_OPT]   = { [TOK_BOS] = "</s>", [TOK_EOS] = "</s>", [TOK_UNK] = "</s>",
                      [TOK_PAD] = "<pad>" },
    [CLASS_QWEN2] = { [TOK_EOS] = "<|endoftext|>", [TOK_UNK] = "<|endoftext|>",
                      [TOK_PAD] = "<|endoftext|>" },
    [CLASS_QWEN]  = { [TOK_EOS] = "<|endoftext|>", [TOK_PAD] = "<|endoftext|>" },
    [CLASS_T5]    = { [TOK_EOS] = "</s>", [TOK_UNK] = "<unk>", [TOK_PAD] = "<pad>" },
};

/* === What the directory says ================================================================== */

/* Without "Fast" at its end. */
static const char *class_of(Json j)
{
    const char *name = json_str(j, "tokenizer_class", NULL);
    size_t n = name ? strlen(name) : 0;
    if (n > 4 && strcmp(name + n - 4, "Fast") == 0) return keep_string("%.*s", (int)n - 4, name);
    return name;
}

static const char *class_of_model(const char *type)
{
    for (size_t i = 0; type && i < sizeof TYPES / sizeof TYPES[0]; i++)
        if (strcmp(TYPES[i].type, type) == 0) return TYPES[i].class_name;
    return NULL;
}

static Class class_named(const char *name)
{
    for (size_t i = 0; name && i < sizeof CLASSES / sizeof CLASSES[0]; i++)
        if (strcmp(CLASSES[i].name, name) == 0) return CLASSES[i].class;
    return CLASS_PLAIN;
}

static Dir read_dir(const char *dir)
{
    Dir d = { .dir = dir };
    Json model_config = json_file(dir, "config.json", MAX_FILE);
    d.config = json_file(dir, "tokenizer_config.json", MAX_FILE);
    if (!json_get(d.config, "added_tokens_decoder").node) {
        d.special_map = json_file(dir, "special_tokens_map.json", MAX_FILE);
        d.added = json_file(dir, "added_tokens.json", MAX_FILE);
    }
    d.model_type = json_str(model_config, "model_type", NULL);
    d.class_name = class_of(d.config);
    if (!d.class_name) d.class_name = class_of(model_config);
    if (!d.class_name) d.class_name = class_of_model(d.model_type);
    d.class = class_named(d.class_name);
    return d;
}

/* === Named tokens ============================================================================= */

/* A token given as a string or as an object. */
static bool token_of(Json j, AddedToken *a)
{
    if (json_is(j, JSON_OBJECT)) {
        *a = parse_token(j);
    } else if (json_is(j, JSON_STRING)) {
        *a = (AddedToken){0};
        a->content.s = json_string(j, &a->content.n);
    } else {
        return false;
    }
    a->special = true;
    return true;
}

static const char *const *defaults(const Dir *d) { return DEFAULTS[d->class]; }

static bool named_token(const Dir *d, int which, AddedToken *a)
{
    const char *standard = defaults(d)[which];
    if (token_of(json_get(d->special_map, NAMED[which]), a)) return true;
    if (token_of(json_get(d->config, NAMED[which]), a)) return true;
    if (json_get(d->config, NAMED[which]).node) return false;        /* null: none */
    if (standard) *a = (AddedToken){ .content = str_of(standard), .special = true };
    return standard != NULL;
}

/* Empty: it has none. */
static Str named_content(const Dir *d, int which)
{
    AddedToken a = {0};
    const char *standard = defaults(d)[which];
    if (named_token(d, which, &a)) return a.content;
    return standard ? str_of(standard) : STR("");
}

static void find_named(Tokenizer *t, const Dir *d)
{
    for (int i = 0; i < TOK_N_NAMES; i++) {
        Str content = named_content(d, i);
        t->named[i] = content.n ? vocab_find(&t->vocab, content) : -1;
    }
}

static void add_if_new(Tokenizer *t, Json j)
{
    AddedToken a;
    if (token_of(j, &a) && !added_get(t, a.content)) added_add(t, a);
}

/* Names of a model's own: image_token and the like. */
static void add_own_names(Tokenizer *t, Json config)
{
    for (Json j = json_first(config); j.node; j = json_next(j)) {
        size_t n;
        const char *key = json_key(j, &n);
        bool token = n > 6 && strcmp(key + n - 6, "_token") == 0;
        for (int i = 0; i < TOK_N_NAMES; i++) token &= strcmp(key, NAMED[i]) != 0;
        if (token) add_if_new(t, j);
    }
}

static void add_named(Tokenizer *t, const Dir *d)
{
    static const char *const LISTS[] = { "extra_special_tokens", "additional_special_tokens" };
    AddedToken a;
    for (int i = 0; i < TOK_N_NAMES; i++)
        if (named_token(d, i, &a) && !added_get(t, a.content)) added_add(t, a);
    add_own_names(t, d->config);
    for (int i = 0; i < 2; i++) {
        const Json from[2] = { json_get(d->config, LISTS[i]), json_get(d->special_map, LISTS[i]) };
        for (int k = 0; k < 2; k++)
            for (Json j = json_first(from[k]); j.node; j = json_next(j)) add_if_new(t, j);
    }
}

/* === Added tokens ============================================================================= */

typedef struct { int64_t id; AddedToken token; } Numbered;

static int by_id(const void *x, const void *y)
{
    const Numbered *a = x, *b = y;
    return (a->id > b->id) - (a->id < b->id);
}

static bool is_named(const Dir *d, Str content)
{
    AddedToken a;
    for (int i = 0; i < TOK_N_NAMES; i++)
        if (named_token(d, i, &a) && str_eq(a.content, content)) return true;
    return false;
}

/* {id: {content, lstrip, ...}}, in the order of the ids. */
static void add_decoder(Tokenizer *t, const Dir *d)
{
    Json list = json_get(d->config, "added_tokens_decoder");
    size_t mark = scratch_mark(), n = 0;
    Numbered *all = scratch_bytes(mul_size((size_t)json_len(list) + 1, sizeof *all));
    for (Json j = json_first(list); j.node; j = json_next(j)) {
        const char *key = json_key(j, NULL);
        size_t n_digits = strspn(key, "0123456789");
        if (!n_digits || n_digits > 9 || key[n_digits])
            json_error(j, "has a name that is no id, expected digits");
        all[n] = (Numbered){ strtoll(key, NULL, 10), parse_token(j) };
        all[n].token.special |= is_named(d, all[n].token.content);
        n++;
    }
    qsort(all, n, sizeof *all, by_id);
    for (size_t i = 0; i < n; i++) added_add(t, all[i].token);
    scratch_reset(mark);
}

/* added_tokens.json: {content: id}. */
static void add_old(Tokenizer *t, const Dir *d)
{
    size_t mark = scratch_mark(), n = 0;
    Numbered *all = scratch_bytes(mul_size((size_t)json_len(d->added) + 1, sizeof *all));
    for (Json j = json_first(d->added); j.node; j = json_next(j)) {
        Numbered *one = &all[n++];
        *one = (Numbered){0};
        one->token.content.s = json_key(j, &one->token.content.n);
        if (!json_integer(j, &one->id)) json_error(j, "is not an id, expected an integer");
        one->token.special = is_named(d, one->token.content);
        one->token.normalized = !one->token.special;
    }
    qsort(all, n, sizeof *all, by_id);
    for (size_t i = 0; i < n; i++)
        if (!added_get(t, all[i].token.content)) added_add(t, all[i].token);
    scratch_reset(mark);
}

/* Where tokenizer_config.json lists the added tokens, BertTokenizer and CLIPTokenizer take only
 * those. */
static void add_all(Tokenizer *t, const Dir *d)
{
    bool listed = json_get(d->config, "added_tokens_decoder").node;
    bool replaced = listed && (d->class == CLASS_BERT || d->class == CLASS_CLIP);
    if (d->json.node && !replaced) parse_added(t, d->json);
    add_decoder(t, d);
    add_old(t, d);
    add_named(t, d);
}

/* === The classes ============================================================================== */

static int id_or_die(const Tokenizer *t, Str piece)
{
    int id = vocab_find(&t->vocab, piece);
    if (id < 0)
        die(EXIT_FILE, "%s: the vocabulary has no token \"%s\", which this tokenizer needs",
            t->name, quoted_n(piece.s, piece.n));
    return id;
}

static void bert_steps(Tokenizer *t, const Dir *d)
{
    bool lower = json_bool(d->config, "do_lower_case", true);
    t->n_norm = t->n_pre = t->n_dec = 1;
    t->norm[0] = (NormStep){ .kind = NORM_BERT, .clean = true, .lower = lower,
                             .chinese = json_bool(d->config, "tokenize_chinese_chars", true),
                             .accents = json_bool(d->config, "strip_accents", lower) };
    t->pre[0] = (PreStep){ .kind = PRE_BERT };
    t->dec[0] = (DecStep){ .kind = DEC_WORDPIECE, .what = STR("##"), .cleanup = true };
    t->model.prefix = STR("##");
    t->model.max_chars = 100;
    id_or_die(t, named_content(d, TOK_UNK));
    set_unk(t, named_content(d, TOK_UNK));
}

static void clip_steps(Tokenizer *t, const Dir *d)
{
    t->n_norm = 3;
    t->norm[0] = (NormStep){ .kind = NORM_NFC };
    t->norm[1] = (NormStep){ .kind = NORM_REPLACE_SPACES, .by = STR(" ") };
    t->norm[2] = (NormStep){ .kind = NORM_LOWER };
    t->n_pre = 2;
    t->pre[0] = (PreStep){ .kind = PRE_CLIP, .specials = true };
    t->pre[1] = (PreStep){ .kind = PRE_BYTES, .split = true };
    t->n_dec = 1;
    t->dec[0] = (DecStep){ .kind = DEC_BYTES };
    id_or_die(t, named_content(d, TOK_UNK));
    set_unk(t, named_content(d, TOK_UNK));
}

static void gpt2_steps(Tokenizer *t)
{
    t->pre[t->n_pre++] = (PreStep){ .kind = PRE_BYTES, .split = true };
    t->dec[t->n_dec++] = (DecStep){ .kind = DEC_BYTES };
}

static void qwen_steps(Tokenizer *t)
{
    t->norm[t->n_norm++] = (NormStep){ .kind = NORM_NFC };
    t->pre[t->n_pre++] = (PreStep){ .kind = PRE_QWEN, .digits = 1 };
    t->pre[t->n_pre++] = (PreStep){ .kind = PRE_BYTES };
    t->dec[t->n_dec++] = (DecStep){ .kind = DEC_BYTES };
}

/* The special tokens of Qwen's tokenizer, in the order of their ids behind the ranks. */
static void qwen_specials(Tokenizer *t)
{
    static const char *const FIRST[] = { "<|endoftext|>", "<|im_start|>", "<|im_end|>" };
    enum { N_EXTRA = 205 };
    for (int i = 0; i < 3 + N_EXTRA; i++) {
        Str s = str_of(i < 3 ? FIRST[i] : keep_string("<|extra_%d|>", i - 3));
        added_add(t, (AddedToken){ .content = s, .special = true, .normalized = true });
    }
}

/* tokenizer_config.json decides, whatever tokenizer.json says. */
static void prefix_space(Tokenizer *t, const Dir *d)
{
    for (int i = 0; i < t->n_pre; i++)
        if (t->pre[i].kind == PRE_BYTES)
            t->pre[i].prefix_space = json_bool(d->config, "add_prefix_space", false);
}

/* "legacy" (the default): each part of a text between special tokens begins with a blank of its
 * own. Without, only the beginning of the text does, and only if there is none. */
static void llama_steps(Tokenizer *t, const Dir *d)
{
    NormStep *spm = &t->norm[0];
    bool prefix = json_bool(d->config, "add_prefix_space", spm->dummy);
    bool legacy = json_bool(d->config, "legacy", true);
    spm->dummy = prefix && legacy;
    if (prefix && !legacy)
        t->pre[t->n_pre++] = (PreStep){ .kind = PRE_METASPACE, .mark = SPACE_MARK,
                                        .prepend = PREPEND_FIRST };
    t->dec[t->n_dec++] = (DecStep){ .kind = DEC_REPLACE, .what = SPACE_MARK, .by = STR(" ") };
    t->dec[t->n_dec++] = (DecStep){ .kind = DEC_BYTE_FALLBACK };
    t->dec[t->n_dec++] = (DecStep){ .kind = DEC_FUSE };
    if (prefix) t->dec[t->n_dec++] = (DecStep){ .kind = DEC_STRIP, .what = STR(" "), .start = 1 };
}

/* The tokens that stand for gaps: <extra_id_99> .. <extra_id_0> behind the pieces. */
static void t5_steps(Tokenizer *t, const Dir *d)
{
    t->dec[t->n_dec++] = (DecStep){ .kind = DEC_METASPACE, .what = SPACE_MARK, .prepend = true };
    for (int i = json_int(d->config, "extra_ids", 100, 0, 10000) - 1; i >= 0; i--)
        added_add(t, (AddedToken){ .content = str_of(keep_string("<extra_id_%d>", i)),
                                   .special = true });
}

/* What tokenizer_config.json says to put around a text. Llama's and OPT's begin with BOS if it does
 * not say; others stay with what tokenizer.json has. */
static void flag_templates(Tokenizer *t, const Dir *d)
{
    static const char *const KEYS[] = { "add_bos_token", "add_eos_token" };
    bool bos_usual = d->class == CLASS_LLAMA || d->class == CLASS_OPT, said = bos_usual;
    for (int i = 0; i < 2; i++) said |= json_is(json_get(d->config, KEYS[i]), JSON_BOOL);
    bool bos = json_bool(d->config, KEYS[0], bos_usual), eos = json_bool(d->config, KEYS[1], false);
    Str first = named_content(d, TOK_BOS), last = named_content(d, TOK_EOS);
    if (!said) return;
    int begin = bos && first.n ? id_or_die(t, first) : NO_TOKEN;
    set_templates(t, begin, eos && last.n ? id_or_die(t, last) : NO_TOKEN, begin);
}

static void class_templates(Tokenizer *t, const Dir *d)
{
    bool legacy = !d->json.node;
    switch (d->class) {
    case CLASS_BERT:
        set_templates(t, id_or_die(t, named_content(d, TOK_CLS)),
                      id_or_die(t, named_content(d, TOK_SEP)), NO_TOKEN);
        break;
    case CLASS_CLIP: {
        int eos = id_or_die(t, named_content(d, TOK_EOS));
        set_templates(t, id_or_die(t, named_content(d, TOK_BOS)), eos, eos);
        break;
    }
    case CLASS_T5:
        if (legacy) set_templates(t, NO_TOKEN, id_or_die(t, named_content(d, TOK_EOS)), NO_TOKEN);
        break;
    default: flag_templates(t, d);
    }
}

/* CLIPTokenizer cleans up after the decoder; without it every word would end in "</w>". */
static void trim_after_bytes(Tokenizer *t)
{
    if (t->kind != MODEL_BPE || t->model.suffix.n == 0 || t->n_dec != 1) return;
    if (t->dec[0].kind != DEC_BYTES) return;
    t->dec[t->n_dec++] = (DecStep){ .kind = DEC_TRIM, .what = t->model.suffix };
}

/* === The files ================================================================================ */

/* Classes whose vocab.txt is read as BERT's. */
static void need_bert_class(Dir *d)
{
    static const char *const LIKE_BERT[] = {
        "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "LxmertTokenizer",
        "MobileBertTokenizer", "BasicTokenizer", "PreTrainedTokenizer", "TokenizersBackend"
    };
    bool ok = !d->class_name;
    for (size_t i = 0; i < sizeof LIKE_BERT / sizeof LIKE_BERT[0] && !ok; i++)
        ok = strcmp(d->class_name, LIKE_BERT[i]) == 0;
    if (!ok)
        die(EXIT_FILE, "%s/vocab.txt: is the vocabulary of a %s, expected BertTokenizer\n"
            "add the checkpoint's tokenizer.json", quoted(d->dir), quoted(d->class_name));
    d->class = CLASS_BERT;
}

/* OPT's class is GPT-2's, with other special tokens. */
static bool is_opt(const Vocab *v)
{
    return vocab_find(v, STR("</s>")) == 2 && vocab_find(v, STR("<pad>")) == 1;
}

/* Nothing names the class of a vocab.json: a few tokens tell. */
static Class class_by_tokens(const Tokenizer *t)
{
    const Vocab *v = &t->vocab;
    bool suffix = vocab_find(v, STR("a</w>")) >= 0, bytes = vocab_find(v, STR("\304\240")) >= 0;
    if (suffix && vocab_find(v, STR("<|startoftext|>")) >= 0) return CLASS_CLIP;
    if (bytes && is_opt(v)) return CLASS_OPT;
    return bytes && vocab_find(v, STR("<|endoftext|>")) >= 0 ? CLASS_GPT2 : CLASS_PLAIN;
}

static Tokenizer *load_vocab_json(Dir *d, Json vocab)
{
    Tokenizer *t = tok_new(keep_string("%s/vocab.json", d->dir));
    parse_vocab(t, vocab);
    if (!d->class_name) d->class = class_by_tokens(t);
    bool known = d->class == CLASS_CLIP || d->class == CLASS_GPT2 || d->class == CLASS_OPT
              || d->class == CLASS_QWEN2;
    if (!known)
        die(EXIT_FILE, "%s: is the vocabulary of a %s, expected CLIPTokenizer, GPT2Tokenizer,"
            " CodeGenTokenizer or Qwen2Tokenizer\nadd the checkpoint's tokenizer.json", t->name,
            d->class_name ? quoted(d->class_name) : "tokenizer that nothing names");
    t->kind = MODEL_BPE;
    if (d->class == CLASS_CLIP) t->model.suffix = STR("</w>");
    read_merges(t, d->dir);
    return t;
}

/* tokenizer.model or spiece.model. */
static Tokenizer *load_spm(Dir *d, const char *file, const char *bytes, size_t n)
{
    Tokenizer *t = spm_parse(keep_string("%s/%s", d->dir, file), bytes, n);
    if (!d->class_name) d->class = t->kind == MODEL_BPE ? CLASS_LLAMA : CLASS_T5;
    bool fits = d->class == (t->kind == MODEL_BPE ? CLASS_LLAMA : CLASS_T5);
    if (!fits)
        die(EXIT_FILE, "%s: is the vocabulary of a %s, expected %s\nadd the checkpoint's"
            " tokenizer.json", t->name, quoted(d->class_name),
            t->kind == MODEL_BPE ? "LlamaTokenizer" : "T5Tokenizer");
    return t;
}

/* The vocabulary and, from tokenizer.json, the steps. */
static Tokenizer *load_file(Dir *d)
{
    static const char *const SPM[] = { "tokenizer.model", "spiece.model" };
    size_t n;
    const char *text;
    d->json = json_file(d->dir, "tokenizer.json", MAX_FILE);
    if (d->json.node) {
        Tokenizer *t = tok_new(keep_string("%s/tokenizer.json", d->dir));
        parse_model(t, d->json);
        parse_steps(t, d->json);
        return t;
    }
    if ((text = model_file(d->dir, "vocab.txt", MAX_FILE, &n))) {
        need_bert_class(d);
        return load_vocab_txt(keep_string("%s/vocab.txt", d->dir), text, n);
    }
    Json vocab = json_file(d->dir, "vocab.json", MAX_FILE);
    if (vocab.node) return load_vocab_json(d, vocab);
    for (int i = 0; i < 2; i++)
        if ((text = model_file(d->dir, SPM[i], MAX_FILE, &n))) return load_spm(d, SPM[i], text, n);
    if ((text = model_file(d->dir, "qwen.tiktoken", MAX_FILE, &n))) {
        d->class = CLASS_QWEN;
        return tiktoken_parse(keep_string("%s/qwen.tiktoken", d->dir), text, n);
    }
    die(EXIT_FILE, "%s: has no tokenizer: none of tokenizer.json, vocab.txt, vocab.json,"
        " tokenizer.model, spiece.model, qwen.tiktoken is there\n"
        "copy the checkpoint's tokenizer files beside its weights", quoted(d->dir));
}

/* === The directory ============================================================================ */

/* A class that does not fit what the files are counts for nothing. */
static Class fitting(const Tokenizer *t, Class c)
{
    static const ModelKind KIND[] = { [CLASS_BERT] = MODEL_WORDPIECE, [CLASS_CLIP] = MODEL_BPE,
        [CLASS_LLAMA] = MODEL_BPE, [CLASS_GPT2] = MODEL_BPE, [CLASS_OPT] = MODEL_BPE,
        [CLASS_QWEN2] = MODEL_BPE, [CLASS_QWEN] = MODEL_BPE, [CLASS_T5] = MODEL_UNIGRAM };
    if (c == CLASS_PLAIN || t->kind != KIND[c]) return CLASS_PLAIN;
    return c == CLASS_GPT2 && is_opt(&t->vocab) ? CLASS_OPT : c;
}

static void set_steps(Tokenizer *t, const Dir *d)
{
    bool legacy = !d->json.node;
    switch (d->class) {
    case CLASS_BERT:  bert_steps(t, d); break;
    case CLASS_CLIP:  clip_steps(t, d); break;
    case CLASS_GPT2:
    case CLASS_OPT:   if (legacy) gpt2_steps(t); prefix_space(t, d); break;
    case CLASS_QWEN2: if (legacy) qwen_steps(t); prefix_space(t, d); break;
    case CLASS_QWEN:  qwen_steps(t); qwen_specials(t); break;
    case CLASS_LLAMA: if (legacy) llama_steps(t, d); break;
    case CLASS_T5:    if (legacy) t5_steps(t, d); break;
    case CLASS_PLAIN: break;
    }
}

/* From the vocabulary to the whole machine. */
static Tokenizer *complete(Tokenizer *t, Dir *d)
{
    model_done(t);
    d->class = fitting(t, d->class);
    set_steps(t, d);
    add_all(t, d);
    parse_post(t, d->json);
    class_templates(t, d);
    find_named(t, d);
    added_compile(t);
    trim_after_bytes(t);
    t->split_special = json_bool(d->config, "split_special_tokens", false);
    return t;
}

Tokenizer *tok_load(const char *dir)
{
    Dir d = read_dir(dir);
    return complete(load_file(&d), &d);
}

Tokenizer *tok_parse_spm(const char *name, const char *bytes, size_t n)
{
    Tokenizer *t = spm_parse(name, bytes, n);
    return complete(t, &(Dir){ .class = t->kind == MODEL_BPE ? CLASS_LLAMA : CLASS_T5 });
}

Tokenizer *tok_parse_tiktoken(const char *name, const char *text, size_t n)
{
    return complete(tiktoken_parse(name, text, n), &(Dir){ .class = CLASS_QWEN });
}
