/* parse.c -- tokenizer.json -> the machine. Format: the serde names of the `tokenizers` crate.
 *
 *   model          vocabulary, merges, what to do with unknown words
 *   normalizer, pre_tokenizer, decoder     one step, or nested Sequences, flattened here
 *   added_tokens   contents with flags
 *   post_processor what stands around a text or a pair of texts
 *   truncation, padding                    left out: mm's commands decide that
 *
 * A component or pattern that is not listed here ends the program with its name and its place in
 * the file: a tokenizer that leaves out a step gives ids that look right and are not.
 *
 * To add a component: a kind in machine.h, its row in one of the functions below, its code in
 * normalize.c, pretok.c or decode.c.
 *
 * Easy to get wrong:
 *   - strip_accents null means: as lowercase says.
 *   - ByteLevel's use_regex is true where the file does not say, even behind a Split.
 *   - Merges are "a b" in older files and ["a", "b"] in newer ones. */
#include <stdlib.h>
#include <string.h>

#include "machine.h"

static const char CLIP_PATTERN[] =
    "<\\|startoftext\\|>|<\\|endoftext\\|>|"
    "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";
enum { CLIP_SPECIALS = sizeof "<\\|startoftext\\|>|<\\|endoftext\\|>|" - 1 };

/* Qwen's and Qwen 2's; GPT-4's differs in the digits. */
static const char QWEN_PATTERN[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char GPT4_PATTERN[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* === Reading values =========================================================================== */

static Str string_need(Json object, const char *key)
{
    Str s;
    s.s = json_string(json_get(object, key), &s.n);
    if (!s.s) json_error(object, "has no string %s, expected one", key);
    return s;
}

/* null and absent are the empty string. */
static Str string_or_empty(Json object, const char *key)
{
    Json j = json_get(object, key);
    return json_is(j, JSON_NULL) || !j.node ? (Str){ "", 0 } : string_need(object, key);
}

static bool equals(Str s, const char *literal) { return str_eq(s, str_of(literal)); }

static int id_need(const Tokenizer *t, Json j)
{
    int64_t id;
    if (!json_integer(j, &id) || id < 0 || id >= t->vocab.n_ids || !t->vocab.of_id[id])
        json_error(j, "is not the id of a token of this vocabulary, expected one");
    return (int)id;
}

static _Noreturn void unknown(Json step, const char *what, Str found, const char *known)
{
    json_error(step, "is a %s of type \"%s\", which mm does not know; it knows %s", what,
               quoted_n(found.s, found.n), known);
}

/* The steps of a component, nested Sequences opened. list: where a Sequence keeps its parts. */
static int flatten(Json root, const char *list, Json out[MAX_STEPS])
{
    Json stack[64];
    int n = 0, depth = 0;
    if (!json_is(root, JSON_OBJECT)) {
        if (root.node && !json_is(root, JSON_NULL)) json_error(root, "is not an object or null");
        return 0;
    }
    stack[0] = root;
    while (depth >= 0) {
        Json j = stack[depth];
        if (!j.node) { depth--; continue; }
        stack[depth] = depth ? json_next(j) : (Json){0};
        if (equals(string_need(j, "type"), "Sequence")) {
            Json parts = json_get(j, list);
            if (!json_is(parts, JSON_ARRAY)) json_error(j, "has no array %s, expected one", list);
            if (++depth == 64) json_error(j, "is nested too deeply");
            stack[depth] = json_first(parts);
        } else {
            if (n == MAX_STEPS) json_error(root, "has more than %d steps", MAX_STEPS);
            out[n++] = j;
        }
    }
    return n;
}

/* {"String": s} gives s; {"Regex": r} gives r and *regex. */
static Str pattern_need(Json step, bool *regex)
{
    Json p = json_get(step, "pattern");
    *regex = json_is(json_get(p, "Regex"), JSON_STRING);
    if (json_is(p, JSON_STRING)) return string_need(step, "pattern");
    if (!json_is(p, JSON_OBJECT)) json_error(step, "has no pattern, expected one");
    return string_need(p, *regex ? "Regex" : "String");
}

static _Noreturn void unknown_pattern(Json step, Str pattern)
{
    json_error(step, "has the pattern %s, which mm does not know", quoted_n(pattern.s, pattern.n));
}

/* === Steps ==================================================================================== */

enum { MAX_GROWTH = 64 };                    /* so that no file makes a text explode */

static NormStep parse_replace(Json j)
{
    bool regex;
    Str what = pattern_need(j, &regex), by = string_need(j, "content");
    if (by.n > MAX_GROWTH)
        json_error(j, "replaces by %zu bytes, expected at most %d", by.n, MAX_GROWTH);
    if (regex && equals(what, " {2,}")) return (NormStep){ .kind = NORM_REPLACE_RUNS, .by = by };
    if (regex && equals(what, "\\s+")) return (NormStep){ .kind = NORM_REPLACE_SPACES, .by = by };
    if (regex || what.n == 0) unknown_pattern(j, what);
    return (NormStep){ .kind = NORM_REPLACE, .what = what, .by = by };
}

/* The table stands in the file as base64. */
static NormStep parse_precompiled(const char *name, Json j)
{
    Str text = string_need(j, "precompiled_charsmap");
    size_t n;
    char *blob = keep_bytes(text.n / 4 * 3 + 3);
    if (!base64(blob, &n, text)) json_error(j, "has a precompiled_charsmap that is not base64");
    return (NormStep){ .kind = NORM_PRECOMPILED,
                       .map = charsmap_open(name, (Str){ blob, n }) };
}

static NormStep parse_norm(const char *name, Json j)
{
    static const struct { const char *name; NormKind kind; } PLAIN[] = {
        { "NFC", NORM_NFC }, { "NFD", NORM_NFD }, { "NFKC", NORM_NFKC }, { "NFKD", NORM_NFKD },
        { "Lowercase", NORM_LOWER }, { "StripAccents", NORM_STRIP_ACCENTS },
    };
    Str type = string_need(j, "type");
    for (size_t i = 0; i < sizeof PLAIN / sizeof PLAIN[0]; i++)
        if (equals(type, PLAIN[i].name)) return (NormStep){ .kind = PLAIN[i].kind };
    if (equals(type, "Replace")) return parse_replace(j);
    if (equals(type, "Precompiled")) return parse_precompiled(name, j);
    if (equals(type, "Prepend")) {
        Str by = string_need(j, "prepend");
        if (by.n > MAX_GROWTH)
            json_error(j, "prepends %zu bytes, expected at most %d", by.n, MAX_GROWTH);
        return (NormStep){ .kind = NORM_PREPEND, .by = by };
    }
    if (equals(type, "Strip"))
        return (NormStep){ .kind = NORM_STRIP, .left = json_bool(j, "strip_left", true),
                           .right = json_bool(j, "strip_right", true) };
    if (equals(type, "BertNormalizer")) {
        bool lower = json_bool(j, "lowercase", true);
        return (NormStep){ .kind = NORM_BERT, .lower = lower,
                           .clean = json_bool(j, "clean_text", true),
                           .chinese = json_bool(j, "handle_chinese_chars", true),
                           .accents = json_bool(j, "strip_accents", lower) };
    }
    unknown(j, "normalizer", type, "BertNormalizer, Lowercase, NFC, NFD, NFKC, NFKD, Precompiled, "
            "Prepend, Replace, Sequence, Strip, StripAccents");
}

static PreStep parse_split(Json j)
{
    bool regex, invert = json_bool(j, "invert", false);
    Str p = pattern_need(j, &regex), behavior;
    bool qwen = equals(p, QWEN_PATTERN), gpt4 = equals(p, GPT4_PATTERN);
    bool specials = equals(p, CLIP_PATTERN), clip = equals(p, CLIP_PATTERN + CLIP_SPECIALS);
    if (!regex || !(qwen || gpt4 || clip || specials)) unknown_pattern(j, p);
    behavior = string_need(j, "behavior");
    if (qwen || gpt4) {                      /* these match every character */
        if (!equals(behavior, "Isolated") && !(equals(behavior, "Removed") && invert))
            json_error(j, "has a behavior that mm does not know with its pattern; it knows"
                       " \"Isolated\"");
        return (PreStep){ .kind = PRE_QWEN, .digits = gpt4 ? 3 : 1 };
    }
    if (!equals(behavior, "Removed") || !invert)
        json_error(j, "has CLIP's pattern, but is not \"Removed\" with invert, which mm knows");
    return (PreStep){ .kind = PRE_CLIP, .specials = specials };
}

/* In older files add_prefix_space says what prepend_scheme says in newer ones. */
static Prepend prepend_scheme(Json j)
{
    const char *scheme = json_str(j, "prepend_scheme", NULL);
    if (!scheme) return json_bool(j, "add_prefix_space", true) ? PREPEND_ALWAYS : PREPEND_NEVER;
    if (strcmp(scheme, "always") == 0) return PREPEND_ALWAYS;
    if (strcmp(scheme, "first") == 0)  return PREPEND_FIRST;
    if (strcmp(scheme, "never") != 0)
        json_error(j, "has prepend_scheme \"%s\", expected \"always\", \"first\" or \"never\"",
                   quoted(scheme));
    return PREPEND_NEVER;
}

/* What stands for a space: one character. */
static Str mark_need(Json j)
{
    Str mark = string_need(j, "replacement");
    const char *end = mark.s;
    if (mark.n) utf8_next(&end);
    if (mark.n == 0 || end != mark.s + mark.n)
        json_error(j, "has the replacement \"%s\", expected one character",
                   quoted_n(mark.s, mark.n));
    return mark;
}

static PreStep parse_pre(Json j)
{
    Str type = string_need(j, "type");
    if (equals(type, "BertPreTokenizer")) return (PreStep){ .kind = PRE_BERT };
    if (equals(type, "WhitespaceSplit"))  return (PreStep){ .kind = PRE_SPACES };
    if (equals(type, "Whitespace"))       return (PreStep){ .kind = PRE_WORDS };
    if (equals(type, "Split"))            return parse_split(j);
    if (equals(type, "Metaspace"))
        return (PreStep){ .kind = PRE_METASPACE, .mark = mark_need(j),
                          .prepend = prepend_scheme(j), .split = json_bool(j, "split", true) };
    if (equals(type, "Punctuation")) {
        if (strcmp(json_str(j, "behavior", "Isolated"), "Isolated") != 0)
            json_error(j, "has a behavior that mm does not know; it knows \"Isolated\"");
        return (PreStep){ .kind = PRE_PUNCT };
    }
    if (equals(type, "ByteLevel"))
        return (PreStep){ .kind = PRE_BYTES, .prefix_space = json_bool(j, "add_prefix_space", true),
                          .split = json_bool(j, "use_regex", true) };
    unknown(j, "pre_tokenizer", type,
            "BertPreTokenizer, ByteLevel, Metaspace, Punctuation, Sequence, Split, Whitespace, "
            "WhitespaceSplit");
}

static DecStep parse_dec(Json j)
{
    bool regex;
    Str type = string_need(j, "type");
    if (equals(type, "ByteLevel"))    return (DecStep){ .kind = DEC_BYTES };
    if (equals(type, "Fuse"))         return (DecStep){ .kind = DEC_FUSE };
    if (equals(type, "ByteFallback")) return (DecStep){ .kind = DEC_BYTE_FALLBACK };
    if (equals(type, "Metaspace"))
        return (DecStep){ .kind = DEC_METASPACE, .what = mark_need(j),
                          .prepend = prepend_scheme(j) != PREPEND_NEVER };
    if (equals(type, "WordPiece"))
        return (DecStep){ .kind = DEC_WORDPIECE, .what = string_need(j, "prefix"),
                          .cleanup = json_bool(j, "cleanup", true) };
    if (equals(type, "BPEDecoder"))
        return (DecStep){ .kind = DEC_BPE, .what = string_need(j, "suffix") };
    if (equals(type, "Strip")) {
        Str what = string_need(j, "content");
        if (what.n == 0) json_error(j, "strips nothing, expected a character in content");
        return (DecStep){ .kind = DEC_STRIP, .what = what,
                          .start = json_int_need(j, "start", 0, 1000),
                          .stop = json_int_need(j, "stop", 0, 1000) };
    }
    if (equals(type, "Replace")) {
        Str what = pattern_need(j, &regex);
        if (regex || what.n == 0) unknown_pattern(j, what);
        return (DecStep){ .kind = DEC_REPLACE, .what = what, .by = string_need(j, "content") };
    }
    unknown(j, "decoder", type,
            "BPEDecoder, ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, Strip, "
            "WordPiece");
}

void parse_steps(Tokenizer *t, Json root)
{
    Json step[MAX_STEPS];
    t->n_norm = flatten(json_get(root, "normalizer"), "normalizers", step);
    for (size_t i = 0, growth = 1; i < (size_t)t->n_norm; i++) {
        const NormStep *n = &t->norm[i];
        t->norm[i] = parse_norm(t->name, step[i]);
        if (n->kind == NORM_REPLACE && n->by.n > n->what.n)
            growth *= (n->by.n + n->what.n - 1) / n->what.n;
        if (n->kind == NORM_REPLACE_SPACES && n->by.n > 1) growth *= n->by.n;
        if (n->kind == NORM_REPLACE_RUNS && n->by.n > 2) growth *= (n->by.n + 1) / 2;
        if (n->kind == NORM_PRECOMPILED) growth *= 9;        /* one, but not two of them */
        if (growth > MAX_GROWTH)
            json_error(step[i], "and the steps before it make a text %zu times as long, expected"
                       " at most %d times", growth, MAX_GROWTH);
    }
    t->n_pre = flatten(json_get(root, "pre_tokenizer"), "pretokenizers", step);
    for (int i = 0; i < t->n_pre; i++) t->pre[i] = parse_pre(step[i]);
    t->n_dec = flatten(json_get(root, "decoder"), "decoders", step);
    for (int i = 0; i < t->n_dec; i++) t->dec[i] = parse_dec(step[i]);
}

/* === Model ==================================================================================== */

void parse_vocab(Tokenizer *t, Json vocab)
{
    if (!json_is(vocab, JSON_OBJECT)) json_error(vocab, "is not an object, expected token: id");
    if (json_len(vocab) > MAX_IDS) json_error(vocab, "has more than %d tokens", MAX_IDS);
    vocab_init(&t->vocab, json_len(vocab));
    for (Json j = json_first(vocab); j.node; j = json_next(j)) {
        int64_t id;
        Str piece;
        piece.s = json_key(j, &piece.n);
        if (!json_integer(j, &id) || id < 0 || id >= MAX_IDS)
            json_error(j, "is not an id, expected an integer from 0 to %d", MAX_IDS - 1);
        if (id < t->vocab.n_ids && t->vocab.of_id[id])
            json_error(j, "is %d, which is the id of another token too", (int)id);
        vocab_put(&t->vocab, t->name, piece, (int)id);
    }
}

static void parse_merge(Tokenizer *t, Json j, int rank)
{
    Str a = {0}, b = {0}, both;
    both.s = json_string(j, &both.n);
    if (both.s) {
        const char *space = memchr(both.s, ' ', both.n);
        if (space) {
            a = (Str){ both.s, (size_t)(space - both.s) };
            b = (Str){ space + 1, both.n - a.n - 1 };
        }
    } else if (json_len(j) == 2) {
        a.s = json_string(json_first(j), &a.n);
        b.s = json_string(json_next(json_first(j)), &b.n);
    }
    if (!a.s || !b.s || (both.s && memchr(b.s, ' ', b.n)))
        json_error(j, "is not a merge, expected \"left right\" or [\"left\", \"right\"]");
    if (!bpe_merge(t, a, b, rank))
        json_error(j, "merges \"%s\" and \"%s\", but the vocabulary lacks the result",
                   quoted_n(a.s, a.n), quoted_n(b.s, b.n));
}

static void parse_bpe(Tokenizer *t, Json model)
{
    Model *m = &t->model;
    Json merges = json_get(model, "merges");
    if (json_float(model, "dropout", 0, 0, 1) > 0)
        json_error(model, "has dropout, which makes ids random; expected null");
    if (!json_is(merges, JSON_ARRAY)) json_error(model, "has no array merges, expected one");
    m->prefix = string_or_empty(model, "continuing_subword_prefix");
    m->suffix = string_or_empty(model, "end_of_word_suffix");
    m->fuse_unk = json_bool(model, "fuse_unk", false);
    m->byte_fallback = json_bool(model, "byte_fallback", false);
    m->ignore_merges = json_bool(model, "ignore_merges", false);
    if (m->prefix.n > MAX_CONTENT || m->suffix.n > MAX_CONTENT)
        json_error(model, "has a prefix or suffix of more than %d bytes", MAX_CONTENT);
    bpe_init(t, json_len(merges));
    int rank = 0;
    for (Json j = json_first(merges); j.node; j = json_next(j)) parse_merge(t, j, rank++);
}

static double power_of_ten(int n)
{
    static const double EXACT[] = { 1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21,
                                    1e22 };
    char text[16];
    if (n < (int)(sizeof EXACT / sizeof EXACT[0])) return EXACT[n];
    snprintf(text, sizeof text, "1e%d", n);
    return strtod(text, NULL);
}

/* A score as the crate's JSON reader takes it, which may be one bit off: all digits that fit 64
 * bits as an integer, then one multiplication or division by a power of ten. Ties between ways to
 * cut a word hang on that bit. */
static double score_of(Json j)
{
    const char *p;
    size_t n = json_span(j, &p);
    const char *end = p + n;
    bool negative = *p == '-', point = false, full = false;
    uint64_t digits = 0;
    int exponent = 0;
    for (p += negative; p < end && *p != 'e' && *p != 'E'; p++) {
        uint64_t digit = (uint64_t)(*p - '0');
        if (*p == '.') { point = true; continue; }
        full |= digits > (UINT64_MAX - digit) / 10;
        if (!full) digits = digits * 10 + digit;
        exponent += full ? !point : -(int)point;
    }
    if (p < end || exponent < -300 || exponent > 300) return json_number(j);     /* never seen */
    double v = (double)digits;
    v = exponent < 0 ? v / power_of_ten(-exponent) : v * power_of_ten(exponent);
    return negative ? -v : v;
}

/* [[piece, score], ...]; the id is the place. */
static void parse_unigram(Tokenizer *t, Json model)
{
    Json list = json_get(model, "vocab"), unk = json_get(model, "unk_id");
    if (!json_is(list, JSON_ARRAY) || json_len(list) > MAX_IDS)
        json_error(list, "is not a list of at most %d pieces and scores", MAX_IDS);
    vocab_init(&t->vocab, json_len(list));
    t->model.score = keep_bytes(mul_size((size_t)json_len(list) + 1, sizeof *t->model.score));
    t->model.byte_fallback = json_bool(model, "byte_fallback", false);
    int id = 0;
    for (Json j = json_first(list); j.node; j = json_next(j), id++) {
        Str s = {0};
        Json score = json_next(json_first(j));
        if (json_len(j) == 2) s.s = json_string(json_first(j), &s.n);
        if (!s.s || !json_is(score, JSON_NUMBER)) json_error(j, "is not a piece and its score");
        vocab_put(&t->vocab, t->name, s, id);
        if (t->vocab.n_pieces == id) json_error(j, "is a piece that is there twice");
        t->model.score[id] = score_of(score);
    }
    if (!json_is(unk, JSON_NUMBER)) json_error(model, "has no unk_id, expected one");
    const Piece *p = &t->vocab.piece[t->vocab.of_id[id_need(t, unk)] - 1];
    set_unk(t, (Str){ p->s, p->n });
    unigram_json(t);
}

/* Old files do not name the type. */
static ModelKind model_kind(Json model)
{
    Str type = string_or_empty(model, "type");
    if (equals(type, "WordPiece")) return MODEL_WORDPIECE;
    if (equals(type, "BPE"))       return MODEL_BPE;
    if (equals(type, "Unigram"))   return MODEL_UNIGRAM;
    if (type.n) unknown(model, "model", type, "BPE, Unigram, WordPiece");
    if (json_get(model, "max_input_chars_per_word").node) return MODEL_WORDPIECE;
    if (json_get(model, "merges").node)                   return MODEL_BPE;
    if (json_is(json_get(model, "vocab"), JSON_ARRAY))    return MODEL_UNIGRAM;
    unknown(model, "model", type, "BPE, Unigram, WordPiece");
}

void parse_model(Tokenizer *t, Json root)
{
    Json model = json_get(root, "model");
    if (!json_is(model, JSON_OBJECT)) json_error(root, "has no object model, expected one");
    t->kind = model_kind(model);
    if (!json_get(model, "vocab").node) json_error(model, "has no vocab, expected one");
    if (t->kind == MODEL_UNIGRAM) { parse_unigram(t, model); return; }
    bool pieces = t->kind == MODEL_WORDPIECE;
    parse_vocab(t, json_get(model, "vocab"));
    if (pieces) {
        t->model.prefix = string_need(model, "continuing_subword_prefix");
        t->model.max_chars = json_int(model, "max_input_chars_per_word", 100, 0, 1 << 20);
    } else {
        parse_bpe(t, model);
    }
    set_unk(t, pieces ? string_need(model, "unk_token") : string_or_empty(model, "unk_token"));
    if ((pieces || t->model.unk.n) && t->model.unk_id < 0)
        json_error(model, "has the unk_token \"%s\", which is not in its vocab",
                   quoted_n(t->model.unk.s, t->model.unk.n));
}

/* === Added tokens ============================================================================= */

AddedToken parse_token(Json j)
{
    AddedToken a = { .content = string_need(j, "content") };
    a.single_word = json_bool(j, "single_word", false);
    a.lstrip = json_bool(j, "lstrip", false);
    a.rstrip = json_bool(j, "rstrip", false);
    a.special = json_bool(j, "special", false);
    a.normalized = json_bool(j, "normalized", !a.special);
    return a;
}

void parse_added(Tokenizer *t, Json root)
{
    Json list = json_get(root, "added_tokens");
    for (Json j = json_first(list); j.node; j = json_next(j)) added_add(t, parse_token(j));
}

/* === Post-processor =========================================================================== */

/* The ids of one item of a template. */
static void add_item(const Tokenizer *t, Json specials, Json item, IdList *out)
{
    Json special = json_get(item, "SpecialToken"), sequence = json_get(item, "Sequence");
    if (json_is(sequence, JSON_OBJECT)) {
        Str id = string_need(sequence, "id");
        if (!equals(id, "A") && !equals(id, "B")) json_error(sequence, "is neither A nor B");
        ids_add(out, equals(id, "A") ? TEMPLATE_A : TEMPLATE_B);
        return;
    }
    if (!json_is(special, JSON_OBJECT)) json_error(item, "is neither SpecialToken nor Sequence");
    Json named = json_get(specials, json_str_need(special, "id"));
    if (!json_is(json_get(named, "ids"), JSON_ARRAY))
        json_error(special, "names a token that has no ids in special_tokens");
    for (Json id = json_first(json_get(named, "ids")); id.node; id = json_next(id))
        ids_add(out, id_need(t, id));
}

static Template template_keep(const IdList *l)
{
    Template tpl = { keep_bytes(mul_size(l->n, sizeof(int))), (int)l->n };
    if (l->n) memcpy(tpl.item, l->id, l->n * sizeof(int));
    return tpl;
}

static Template parse_template(const Tokenizer *t, Json post, const char *key)
{
    enum { MAX_ITEMS = 64 };                 /* so that no file makes a text explode */
    size_t mark = scratch_mark();
    IdList items = {0};
    Json list = json_get(post, key);
    if (!json_is(list, JSON_ARRAY)) json_error(post, "has no array %s, expected one", key);
    for (Json j = json_first(list); j.node; j = json_next(j))
        add_item(t, json_get(post, "special_tokens"), j, &items);
    if (items.n > MAX_ITEMS)
        json_error(list, "has %zu parts, expected at most %d", items.n, MAX_ITEMS);
    Template tpl = template_keep(&items);
    scratch_reset(mark);
    return tpl;
}

static void add_if(IdList *l, int item)
{
    if (item != NO_TOKEN) ids_add(l, item);
}

void set_templates(Tokenizer *t, int first, int last, int before_b)
{
    size_t mark = scratch_mark();
    IdList one = {0}, two = {0};
    add_if(&one, first); ids_add(&one, TEMPLATE_A); add_if(&one, last);
    add_if(&two, first); ids_add(&two, TEMPLATE_A); add_if(&two, last);
    add_if(&two, before_b); ids_add(&two, TEMPLATE_B); add_if(&two, last);
    t->single = template_keep(&one);
    t->pair = template_keep(&two);
    scratch_reset(mark);
}

static int token_id(const Tokenizer *t, Json post, const char *key)
{
    Json pair = json_get(post, key);
    if (json_len(pair) != 2) json_error(post, "has no %s, expected [token, id]", key);
    return id_need(t, json_next(json_first(pair)));
}

static void no_template(Tokenizer *t)
{
    static int A[] = { TEMPLATE_A }, AB[] = { TEMPLATE_A, TEMPLATE_B };
    t->single = (Template){ A, 1 };
    t->pair = (Template){ AB, 2 };
}

void parse_post(Tokenizer *t, Json root)
{
    Json step[MAX_STEPS];
    int n = flatten(json_get(root, "post_processor"), "processors", step), n_templates = 0;
    no_template(t);
    for (int i = 0; i < n; i++) {
        Str type = string_need(step[i], "type");
        if (equals(type, "ByteLevel")) continue;             /* moves offsets only */
        if (n_templates++) json_error(step[i], "is a second template, expected one");
        if (equals(type, "TemplateProcessing")) {
            t->single = parse_template(t, step[i], "single");
            t->pair = parse_template(t, step[i], "pair");
        } else if (equals(type, "BertProcessing") || equals(type, "RobertaProcessing")) {
            int sep = token_id(t, step[i], "sep");
            set_templates(t, token_id(t, step[i], "cls"), sep,
                          equals(type, "RobertaProcessing") ? sep : NO_TOKEN);
        } else {
            unknown(step[i], "post_processor", type,
                    "BertProcessing, ByteLevel, RobertaProcessing, Sequence, TemplateProcessing");
        }
    }
}

Tokenizer *tok_new(const char *name)
{
    Tokenizer *t = keep_bytes(sizeof *t);
    t->name = keep_string("%s", quoted(name));           /* for messages alone */
    t->cls = unicode_classes();
    t->model.unk_id = t->model.unk_piece = -1;
    for (int i = 0; i < TOK_N_NAMES; i++) t->named[i] = -1;
    return t;
}

Tokenizer *tok_parse(const char *name, const char *json, size_t n)
{
    Tokenizer *t = tok_new(name);
    if (n > MAX_FILE) die(EXIT_FILE, "%s: has %zu bytes, expected at most %zu", name, n, MAX_FILE);
    Json root = json_parse(name, json, n, 64, EXIT_FILE);
    parse_model(t, root);
    model_done(t);
    parse_steps(t, root);
    parse_added(t, root);
    parse_post(t, root);
    added_compile(t);
    return t;
}
