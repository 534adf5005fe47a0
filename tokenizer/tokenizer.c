/* tokenizer.c -- the vocabulary, and encoding and decoding as a whole. What the steps do is in the
 * files that machine.h lists.
 *
 * Encoding, as AddedVocabulary and PreTokenizedString of the reference do it:
 *
 *   bytes -> UTF-8 -> segments between added tokens          (those with normalized = false)
 *     each segment -> normalizers -> segments between added tokens     (normalized = true)
 *       each of these -> pre-tokenizers -> words -> model -> ids
 *   ids -> template: special tokens around them
 *
 * Easy to get wrong:
 *   - Each segment is normalised on its own: what is put in front of a text is put in front of
 *     every segment.
 *   - Special tokens are found in any text, unless TOK_RAW. */
#include <stdlib.h>
#include <string.h>

#include "machine.h"

/* === Strings ================================================================================== */

Str str_of(const char *s) { return (Str){ s, strlen(s) }; }

Str str_keep(Str s)
{
    char *copy = keep_bytes(add_size(s.n, 1));
    if (s.n) memcpy(copy, s.s, s.n);
    return (Str){ copy, s.n };
}

char *text_room(Text *t, size_t n)
{
    size_t need = add_size(t->n, n);
    if (need > t->cap || !t->s) {                /* never NULL: NULL + 0 is undefined */
        size_t cap = add_size(mul_size(need, 2), 64);
        char *more = scratch_bytes(cap);
        if (t->n) memcpy(more, t->s, t->n);
        t->s = more;
        t->cap = cap;
    }
    return t->s + t->n;
}

void text_add(Text *t, const char *s, size_t n)
{
    char *to = text_room(t, n);
    if (n) memcpy(to, s, n);
    t->n += n;
}

void text_put(Text *t, uint32_t c)
{
    char *to = text_room(t, 4);
    t->n += (size_t)utf8_put(to, c);
}

void text_add_utf8(Text *t, const char *s, size_t n)
{
    text_room(t, n);
    for (size_t i = 0; i < n; ) {
        int bad, len = utf8_check(s + i, n - i, &bad);
        if (len) text_add(t, s + i, (size_t)len);
        else     text_put(t, U_REPLACEMENT);
        i += (size_t)(len ? len : bad);
    }
}

void text_replace(Text *out, Str from, Str what, Str by)
{
    const char *s = from.s, *end = from.s + from.n;
    while (s < end) {
        const char *hit = memmem(s, (size_t)(end - s), what.s, what.n);
        if (!hit) break;
        text_add(out, s, (size_t)(hit - s));
        text_add(out, by.s, by.n);
        s = hit + what.n;
    }
    text_add(out, s, (size_t)(end - s));
}

bool base64(char *out, size_t *n, Str text)
{
    static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static int8_t value[256];                /* 1 + what the character stands for; 0: nothing */
    for (int i = 0; i < 64 && !value['A']; i++) value[(uint8_t)DIGITS[63 - i]] = (int8_t)(64 - i);
    size_t pad = 0;
    while (pad < 2 && pad < text.n && text.s[text.n - 1 - pad] == '=') pad++;
    if (text.n % 4) return false;
    *n = 0;
    for (size_t i = 0; i < text.n; i += 4) {
        uint32_t v = 0;
        for (size_t k = i; k < i + 4; k++) {
            int digit = k < text.n - pad ? value[(uint8_t)text.s[k]] - 1 : 0;
            if (digit < 0) return false;
            v = v << 6 | (uint32_t)digit;
        }
        for (int k = 16; k >= 0; k -= 8) out[(*n)++] = (char)(v >> k);
    }
    *n -= pad;
    return true;
}

void ids_room(IdList *l, size_t n)
{
    size_t need = add_size(l->n, n);
    if (need <= l->cap) return;
    size_t cap = add_size(mul_size(need, 2), 64);
    int *more = scratch_bytes(mul_size(cap, sizeof *more));
    if (l->n) memcpy(more, l->id, l->n * sizeof *more);
    l->id = more;
    l->cap = cap;
}

void ids_add(IdList *l, int id)
{
    if (l->n == l->cap) ids_room(l, 1);
    l->id[l->n++] = id;
}

/* Taking everything at once from first on makes all of it ours again, p included, until it is
 * moved. */
void *to_front(size_t mark, char *first, const void *p, size_t n)
{
    size_t all = add_size((size_t)((const char *)p - first), n);
    scratch_reset(mark);
    if (scratch_bytes(all) != first) bug("to_front: scratch has moved");
    memmove(first, p, n);
    scratch_reset(mark);
    return scratch_bytes(n);
}

/* === Vocabulary =============================================================================== */

enum { INDEX_BITS = 23, INDEX_MASK = (1 << INDEX_BITS) - 1 };

static uint32_t slot_of(uint32_t hash, uint32_t index)
{
    return (hash & ~(uint32_t)INDEX_MASK) | (index + 1);
}

static void make_slots(Vocab *v, size_t n)
{
    v->slot = keep_bytes(mul_size(n, sizeof *v->slot));
    v->mask = (uint32_t)n - 1;
}

static void grow_slots(Vocab *v)
{
    make_slots(v, 2 * ((size_t)v->mask + 1));
    for (int i = 0; i < v->n_pieces; i++) {
        uint32_t at = v->piece[i].hash & v->mask;
        while (v->slot[at]) at = (at + 1) & v->mask;
        v->slot[at] = slot_of(v->piece[i].hash, (uint32_t)i);
    }
}

static void grow_pieces(Vocab *v, int cap)
{
    Piece *more = keep_bytes(mul_size((size_t)cap, sizeof *more));
    if (v->n_pieces) memcpy(more, v->piece, (size_t)v->n_pieces * sizeof *more);
    v->piece = more;
    v->cap_pieces = cap;
}

static void grow_ids(Vocab *v, int cap)
{
    int *more = keep_bytes(mul_size((size_t)cap, sizeof *more));
    if (v->n_ids) memcpy(more, v->of_id, (size_t)v->n_ids * sizeof *more);
    v->of_id = more;
    v->cap_ids = cap;
}

void vocab_init(Vocab *v, int n_pieces)
{
    size_t n = 256;
    if (n_pieces > MAX_IDS) n_pieces = MAX_IDS;
    while (n < (size_t)n_pieces * 2 + 128) n *= 2;
    *v = (Vocab){0};
    make_slots(v, n);
    grow_pieces(v, n_pieces + 64);
    grow_ids(v, n_pieces + 64);
}

/* The piece a + b; if it is not there, NULL, and *at is the free slot where it belongs. */
static Piece *find_piece(const Vocab *v, uint32_t hash, Str a, Str b, uint32_t *at, int *n_probes)
{
    *at = hash & v->mask;
    for (*n_probes = 0; v->slot[*at]; *at = (*at + 1) & v->mask, ++*n_probes) {
        uint32_t index = (v->slot[*at] & INDEX_MASK) - 1;
        if (v->slot[*at] != slot_of(hash, index)) continue;
        Piece *p = &v->piece[index];
        if (p->n == a.n + b.n && memcmp(p->s, a.s, a.n) == 0 && memcmp(p->s + a.n, b.s, b.n) == 0)
            return p;
    }
    return NULL;
}

static Piece *add_piece(Vocab *v, Str s, uint32_t hash, uint32_t at)
{
    if (v->n_pieces == v->cap_pieces) grow_pieces(v, 2 * v->cap_pieces);
    if ((int)s.n > v->longest) v->longest = (int)s.n;
    v->slot[at] = slot_of(hash, (uint32_t)v->n_pieces);
    v->piece[v->n_pieces] = (Piece){ .s = s.s, .n = (uint32_t)s.n, .hash = hash };
    return &v->piece[v->n_pieces++];
}

void vocab_put(Vocab *v, const char *name, Str piece, int id)
{
    enum { MAX_PROBES = 4096 };      /* by chance a hundred; in a file made for it, anything */
    int n_probes;
    uint32_t at, hash = hash_more(HASH_START, piece.s, piece.n);
    if (id < 0 || id >= MAX_IDS)
        die(EXIT_FILE, "%s: token \"%s\" has id %d, expected 0 to %d", name,
            quoted_n(piece.s, piece.n), id, MAX_IDS - 1);
    if (v->n_pieces == MAX_IDS) die(EXIT_FILE, "%s: more than %d tokens", name, MAX_IDS);
    if ((size_t)v->n_pieces * 2 + 2 > v->mask) grow_slots(v);
    Piece *p = find_piece(v, hash, piece, (Str){ "", 0 }, &at, &n_probes);
    if (n_probes > MAX_PROBES)
        die(EXIT_FILE, "%s: the vocabulary is made so that looking a token up takes forever", name);
    if (!p) p = add_piece(v, piece, hash, at);
    else if (v->of_id[p->id] == 1 + (int)(p - v->piece)) v->of_id[p->id] = 0;
    if (id >= v->cap_ids) grow_ids(v, id < 2 * v->cap_ids ? 2 * v->cap_ids : id + 1);
    if (id >= v->n_ids) v->n_ids = id + 1;
    p->id = id;
    v->of_id[id] = 1 + (int)(p - v->piece);
}

Piece *vocab_get(const Vocab *v, Str s)
{
    int n_probes;
    uint32_t at;
    return find_piece(v, hash_more(HASH_START, s.s, s.n), s, (Str){ "", 0 }, &at, &n_probes);
}

int vocab_find(const Vocab *v, Str piece)
{
    const Piece *p = vocab_get(v, piece);
    return p ? p->id : -1;
}

int piece_of(const Vocab *v, Str piece)
{
    const Piece *p = vocab_get(v, piece);
    return p ? (int)(p - v->piece) : -1;
}

Piece *vocab_get_hash(const Vocab *v, uint32_t hash, Str a, Str b)
{
    int n_probes;
    uint32_t at;
    return find_piece(v, hash, a, b, &at, &n_probes);
}

int tok_id(const Tokenizer *t, const char *piece) { return vocab_find(&t->vocab, str_of(piece)); }

const char *tok_piece(const Tokenizer *t, int id, size_t *n)
{
    if (id < 0 || id >= t->vocab.n_ids || !t->vocab.of_id[id]) return NULL;
    const Piece *p = &t->vocab.piece[t->vocab.of_id[id] - 1];
    if (n) *n = p->n;
    return p->s;
}

int tok_size(const Tokenizer *t) { return t->vocab.n_ids; }

int tok_named(const Tokenizer *t, TokName which)
{
    return which >= 0 && which < TOK_N_NAMES ? t->named[which] : -1;
}

bool tok_is_special(const Tokenizer *t, int id)
{
    const AddedToken *a = added_of_id(t, id);
    return a && a->special;
}

bool tok_adds_bos(const Tokenizer *t)
{
    int bos = t->named[TOK_BOS];
    return bos >= 0 && t->single.n && t->single.item[0] == bos;
}

const char *tok_file(const Tokenizer *t) { return t->name; }

const char *tok_kind(const Tokenizer *t)
{
    static const char *const KIND[] = { "WordPiece", "BPE", "Unigram" };
    return KIND[t->kind];
}

/* === Encoding ================================================================================= */

/* Words come again: a table remembers the ids of short ones. */
enum { CACHE_SIZE = 1 << 13, CACHE_WORD = 26, CACHE_IDS = 8 };
/* 64 bytes: one line of the processor's cache. Emptied by writing over it. */
typedef struct {
    uint32_t hash;
    uint8_t  n, n_ids;               /* n 0: empty */
    char     word[CACHE_WORD];
    int      id[CACHE_IDS];
} CacheEntry;
struct WordCache { CacheEntry entry[CACHE_SIZE]; };

void set_unk(Tokenizer *t, Str unk)
{
    t->model.unk = unk;
    t->model.unk_piece = unk.n ? piece_of(&t->vocab, unk) : -1;
    t->model.unk_id = unk.n ? vocab_find(&t->vocab, unk) : -1;
}

void find_bytes(Tokenizer *t)
{
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        t->model.byte_piece[i] = piece_of(&t->vocab, str_of(name));
    }
}

void model_done(Tokenizer *t)
{
    t->model.n_pieces = t->vocab.n_pieces;
    t->model.cache = keep_bytes(sizeof *t->model.cache);
    find_bytes(t);
    if (t->kind == MODEL_BPE) bpe_finish(t);
}

static void model_ids(const Tokenizer *t, Str word, bool raw, IdList *out)
{
    switch (t->kind) {
    case MODEL_WORDPIECE: wordpiece(t, word, out); break;
    case MODEL_BPE:       bpe(t, word, out); break;
    case MODEL_UNIGRAM:   unigram(t, word, raw, out); break;
    }
}

static void word_ids(const Tokenizer *t, Str word, bool raw, IdList *out)
{
    if (word.n == 0) return;
    bool other = raw && t->kind == MODEL_UNIGRAM;    /* than what the table has */
    if (word.n > CACHE_WORD || other) { model_ids(t, word, raw, out); return; }
    uint32_t hash = hash_more(HASH_START, word.s, word.n);
    CacheEntry *e = &t->model.cache->entry[(hash ^ hash >> 16) & (CACHE_SIZE - 1)];
    if (e->hash == hash && e->n == word.n && memcmp(e->word, word.s, word.n) == 0) {
        ids_room(out, e->n_ids);
        for (int i = 0; i < e->n_ids; i++) out->id[out->n++] = e->id[i];
        return;
    }
    size_t start = out->n;
    model_ids(t, word, raw, out);
    size_t n_ids = out->n - start;
    if (n_ids > CACHE_IDS) return;
    *e = (CacheEntry){ .hash = hash, .n = (uint8_t)word.n, .n_ids = (uint8_t)n_ids };
    memcpy(e->word, word.s, word.n);
    if (n_ids) memcpy(e->id, out->id + start, n_ids * sizeof *e->id);
}

static void encode_words(const Tokenizer *t, Str s, Run run, IdList *out)
{
    char guard[4];
    if (run.guard) {
        Text clean = {0};
        text_replace(&clean, s, (Str){ guard, (size_t)utf8_put(guard, run.guard) }, STR(""));
        s = text_str(&clean);
    }
    Words w = pre_tokenize(t, s, run.first);
    if (t->model.cut) w = cut_at_marks(&w);
    for (size_t i = 0; i < w.n; i++) word_ids(t, w.word[i], run.raw || run.guard, out);
}

static void encode_segment(const Tokenizer *t, Str s, Run run, IdList *out)
{
    added_split(t, &t->normal, normalize(t, s), run, encode_words, out);
}

/* The ids of a text without anything around them. */
static IdList encode_text(const Tokenizer *t, const char *text, size_t n, Run run)
{
    IdList out = {0};
    Text clean = {0};
    text_add_utf8(&clean, text, n);
    added_split(t, &t->raw, text_str(&clean), run, encode_segment, &out);
    return out;
}

static Ids fill_template(const Template *tpl, bool special, const IdList *part)
{
    IdList all = {0};
    for (int i = 0; i < tpl->n; i++) {
        int item = tpl->item[i];
        if (item >= 0) {
            if (special) ids_add(&all, item);
            continue;
        }
        const IdList *ids = &part[item == TEMPLATE_B];
        for (size_t k = 0; k < ids->n; k++) ids_add(&all, ids->id[k]);
    }
    if (all.n > INT32_MAX) die(EXIT_MEMORY, "a text of more than %d tokens", INT32_MAX);
    return (Ids){ all.id, (int)all.n };
}

/* The result of a call, moved to where its scratch began. */
static Ids finish(const Template *tpl, int flags, const IdList *part, size_t mark, char *first)
{
    Ids ids = fill_template(tpl, flags & TOK_SPECIAL, part);
    if (ids.n == 0) ids.id = (int *)(void *)first;
    ids.id = to_front(mark, first, ids.id, (size_t)ids.n * sizeof *ids.id);
    return ids;
}

Ids tok_encode(const Tokenizer *t, const char *text, size_t n, int flags)
{
    size_t mark = scratch_mark();
    char *first = scratch_bytes(1);
    Run run = { .raw = (flags & TOK_RAW) || t->split_special, .first = true };
    IdList part[2] = { encode_text(t, text, n, run), {0} };
    return finish(&t->single, flags, part, mark, first);
}

Ids tok_encode_pair(const Tokenizer *t, const char *a, size_t n_a, const char *b, size_t n_b,
                    int flags)
{
    size_t mark = scratch_mark();
    char *first = scratch_bytes(1);
    Run run = { .raw = (flags & TOK_RAW) || t->split_special, .first = true };
    IdList part[2] = { encode_text(t, a, n_a, run), encode_text(t, b, n_b, run) };
    return finish(&t->pair, flags, part, mark, first);
}

Ids tok_encode_parts(const Tokenizer *t, const TokPart *part, int n_parts, int flags)
{
    size_t mark = scratch_mark();
    char *first = scratch_bytes(1);
    Run run = { .raw = (flags & TOK_RAW) || t->split_special, .first = true };
    Text all = added_guard(t, part, n_parts, &run.guard);
    IdList ids[2] = { encode_text(t, all.s, all.n, run), {0} };
    return finish(&t->single, flags, ids, mark, first);
}

/* === Decoding ================================================================================= */

/* An added token goes by what it decodes to, as in the reference. */
Str shown_piece(const Tokenizer *t, int id, bool skip_special)
{
    Str s = {0};
    s.s = tok_piece(t, id, &s.n);
    const AddedToken *a = added_of_id(t, id);
    if (a) {
        s = a->shown;
        a = added_get(t, s);
    }
    return skip_special && a && a->special ? (Str){0} : s;
}

char *tok_decode(const Tokenizer *t, const int *id, int n, bool skip_special)
{
    size_t mark = scratch_mark(), n_pieces = 0;
    char *first = scratch_bytes(1);
    Str *piece = scratch_bytes(mul_size((size_t)n + 1, sizeof *piece));
    for (int i = 0; i < n; i++) {
        Str s = shown_piece(t, id[i], skip_special);
        if (s.s) piece[n_pieces++] = s;
    }
    Text out = decode_pieces(t, piece, n_pieces);
    text_add(&out, "", 1);
    return to_front(mark, first, out.s, out.n);
}
