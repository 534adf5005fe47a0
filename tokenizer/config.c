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

typedef enum { CLASS_PLAIN, CLASS_BERT, CLASS_CLIP } Class;

/* What a directory says of its tokenizer. Absent files are {0}. */
typedef struct {
    const char *dir;
    Json        config, special_map, added, json;    /* json: tokenizer.json */
    const char *class_name;                          /* NULL: nothing names one */
    Class       class;
} Dir;

/* The tokens that have a name, in the reference's order, which is that of TokName. */
static const char *const NAMED[TOK_N_NAMES] = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"
};
static const char *const BERT_NAMED[TOK_N_NAMES] = {
    [TOK_UNK] = "[UNK]", [TOK_SEP] = "[SEP]", [TOK_PAD] = "[PAD]", [TOK_CLS] = "[CLS]",
    [TOK_MASK] = "[MASK]"
};
static const char *const CLIP_NAMED[TOK_N_NAMES] = {
    [TOK_BOS] = "<|startoftext|>", [TOK_EOS] = "<|endoftext|>", [TOK_UNK] = "<|endoftext|>",
    [TOK_PAD] = "<|endoftext|>"
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

static const char *class_of_model(Json config)
{
    const char *type = json_str(config, "model_type", "");
    if (strcmp(type, "bert") == 0 || strcmp(type, "blip") == 0) return "BertTokenizer";
    return strcmp(type, "clip") == 0 ? "CLIPTokenizer" : NULL;
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
    d.class_name = class_of(d.config);
    if (!d.class_name) d.class_name = class_of(model_config);
    if (!d.class_name) d.class_name = class_of_model(model_config);
    const char *name = d.class_name ? d.class_name : "";
    if (strcmp(name, "BertTokenizer") == 0) d.class = CLASS_BERT;
    if (strcmp(name, "CLIPTokenizer") == 0) d.class = CLASS_CLIP;
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

static const char *const *defaults(const Dir *d)
{
    static const char *const NONE[TOK_N_NAMES];
    return d->class == CLASS_BERT ? BERT_NAMED : d->class == CLASS_CLIP ? CLIP_NAMED : NONE;
}

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
    if (d->json.node && !(listed && d->class != CLASS_PLAIN)) parse_added(t, d->json);
    add_decoder(t, d);
    add_old(t, d);
    add_named(t, d);
}

/* === The two classes ========================================================================== */

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

/* CLIPTokenizer cleans up after the decoder; without it every word would end in "</w>". */
static void trim_after_bytes(Tokenizer *t)
{
    if (t->kind != MODEL_BPE || t->model.suffix.n == 0 || t->n_dec != 1) return;
    if (t->dec[0].kind != DEC_BYTES) return;
    t->dec[t->n_dec++] = (DecStep){ .kind = DEC_TRIM, .what = t->model.suffix };
}

/* === Legacy files ============================================================================= */

/* The next line of a text, without its end; false when there is none. */
static bool next_line(const char **s, const char *end, Str *line)
{
    if (*s >= end) return false;
    const char *stop = memchr(*s, '\n', (size_t)(end - *s));
    *line = (Str){ *s, (size_t)((stop ? stop : end) - *s) };
    *s = stop ? stop + 1 : end;
    if (stop && line->n && line->s[line->n - 1] == '\r') line->n--;
    return true;
}

static void need_utf8(const char *name, const char *s, size_t n)
{
    for (size_t i = 0; i < n; ) {
        int bad, len = utf8_check(s + i, n - i, &bad);
        if (!len) die(EXIT_FILE, "%s: byte %zu is not UTF-8", name, i);
        i += (size_t)len;
    }
}

/* How many lines there are at most. */
static int count_lines(const char *s, size_t n)
{
    size_t lines = 1;
    for (size_t i = 0; i < n; i++) lines += s[i] == '\n';
    return lines < MAX_IDS ? (int)lines : MAX_IDS;
}

static Tokenizer *load_vocab_txt(const Dir *d, const char *text, size_t n)
{
    Tokenizer *t = tok_new(keep_string("%s/vocab.txt", d->dir));
    const char *s = text, *end = text + n;
    Str line;
    need_utf8(t->name, text, n);
    vocab_init(&t->vocab, count_lines(text, n));
    for (int id = 0; next_line(&s, end, &line); id++) {
        while (line.n) {
            const char *tail = line.s + line.n;
            uint32_t c = utf8_before(line.s, tail);
            if ((t->cls[c] & U_KIND) != U_SPACE) break;
            do tail--; while ((*tail & 0xC0) == 0x80);
            line.n = (size_t)(tail - line.s);
        }
        vocab_put(&t->vocab, t->name, line, id);
    }
    t->kind = MODEL_WORDPIECE;
    return t;
}

static void read_merges(Tokenizer *t, const char *name, const char *text, size_t n)
{
    const char *s = text, *end = text + n;
    Str line;
    need_utf8(name, text, n);
    bpe_init(t, count_lines(text, n));
    for (int rank = 0, at = 1; next_line(&s, end, &line); at++) {
        if (line.n >= 8 && memcmp(line.s, "#version", 8) == 0) continue;
        const char *space = memchr(line.s, ' ', line.n);
        size_t n_left = space ? (size_t)(space - line.s) : line.n;
        Str left = { line.s, n_left }, right = { line.s + n_left + 1, line.n - n_left - 1 };
        if (!space || memchr(right.s, ' ', right.n))
            die(EXIT_FILE, "%s: line %d is \"%s\", expected two pieces and a space between them",
                name, at, quoted_n(line.s, line.n));
        if (!bpe_merge(t, left, right, rank++))
            die(EXIT_FILE, "%s: line %d merges \"%s\", but vocab.json lacks a piece or the result",
                name, at, quoted_n(line.s, line.n));
    }
}

static Tokenizer *load_vocab_json(Dir *d, Json vocab)
{
    size_t n;
    const char *merges = model_file(d->dir, "merges.txt", MAX_FILE, &n);
    Tokenizer *t = tok_new(keep_string("%s/vocab.json", d->dir));
    if (!merges) die(EXIT_FILE, "%s: merges.txt is missing beside it", t->name);
    parse_vocab(t, vocab);
    bool clip = vocab_find(&t->vocab, STR("<|startoftext|>")) >= 0
             && vocab_find(&t->vocab, STR("a</w>")) >= 0;
    if (d->class != CLASS_CLIP && (d->class_name || !clip))
        die(EXIT_FILE, "%s: is the vocabulary of a %s, expected CLIPTokenizer\n"
            "add the checkpoint's tokenizer.json", t->name,
            d->class_name ? quoted(d->class_name) : "tokenizer that nothing names");
    d->class = CLASS_CLIP;
    t->kind = MODEL_BPE;
    t->model.suffix = STR("</w>");
    read_merges(t, keep_string("%s/merges.txt", quoted(d->dir)), merges, n);
    return t;
}

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

/* The vocabulary and, from tokenizer.json, the steps. */
static Tokenizer *load_file(Dir *d)
{
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
        return load_vocab_txt(d, text, n);
    }
    Json vocab = json_file(d->dir, "vocab.json", MAX_FILE);
    if (vocab.node) return load_vocab_json(d, vocab);
    die(EXIT_FILE, "%s: has no tokenizer: none of tokenizer.json, vocab.txt, vocab.json is there\n"
        "copy the checkpoint's tokenizer files beside its weights", quoted(d->dir));
}

Tokenizer *tok_load(const char *dir)
{
    Dir d = read_dir(dir);
    Tokenizer *t = load_file(&d);
    model_done(t);
    bool bert = d.class == CLASS_BERT && t->kind == MODEL_WORDPIECE;
    bool clip = d.class == CLASS_CLIP && t->kind == MODEL_BPE;
    if (!bert && !clip) d.class = CLASS_PLAIN;
    if (bert) bert_steps(t, &d);
    if (clip) clip_steps(t, &d);
    add_all(t, &d);
    if (d.json.node) parse_post(t, d.json);
    if (bert) set_templates(t, id_or_die(t, named_content(&d, TOK_CLS)),
                            id_or_die(t, named_content(&d, TOK_SEP)), false);
    if (clip) set_templates(t, id_or_die(t, named_content(&d, TOK_BOS)),
                            id_or_die(t, named_content(&d, TOK_EOS)), true);
    find_named(t, &d);
    added_compile(t);
    trim_after_bytes(t);
    t->split_special = json_bool(d.config, "split_special_tokens", false);
    return t;
}
