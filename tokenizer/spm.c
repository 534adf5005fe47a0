/* spm.c -- SentencePiece's model files (tokenizer.model, spiece.model) -> the machine.
 *
 * The file is one protobuf message (sentencepiece_model.proto), a sequence of fields
 *
 *   [varint: number << 3 | type][value]     type 0 varint, 1 eight bytes, 2 length and bytes,
 *                                           5 four bytes
 *
 *   ModelProto       1 pieces, each { 1 string, 2 score (float), 3 kind }
 *                    2 trainer_spec { 3 model_type, 24 treat_whitespace_as_suffix,
 *                                     35 byte_fallback }
 *                    3 normalizer_spec { 2 precompiled_charsmap, 3 add_dummy_prefix,
 *                                        4 remove_extra_whitespaces, 5 escape_whitespaces }
 *
 * Fields that are not named here are skipped. BPE merges by piece (bpe.c): the rank of a piece is
 * the place of its score, the highest first. Unigram: unigram.c.
 *
 * Easy to get wrong:
 *   - A piece without a kind is a normal one; without the three switches of the normaliser they are
 *     on.
 *   - Control, unknown and byte pieces come out of no text: neither by merging nor as they are.
 *   - Pieces of equal score have equal rank, so that the leftmost merges. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "machine.h"

enum { KIND_NORMAL = 1, KIND_UNKNOWN, KIND_CONTROL, KIND_USER, KIND_UNUSED, KIND_BYTE };
enum { VARINT = 0, EIGHT = 1, BYTES = 2, FOUR = 5 };

typedef struct { const char *name, *start, *at, *end; } Wire;
typedef struct { int number, type; uint64_t value; Str bytes; } Field;

/* What the file says. */
typedef struct {
    int      model_type;
    bool     suffix, byte_fallback;
    NormStep norm;
    Str      charsmap;
    uint8_t *kind;                           /* [n_pieces] */
    float   *score;
} Spm;

/* === Protobuf ================================================================================= */

static _Noreturn void wire_error(const Wire *w, const char *what)
{
    die(EXIT_FILE, "%s: byte %zu: %s\nthis is no SentencePiece model, or it is damaged: get the"
        " file again", w->name, (size_t)(w->at - w->start), what);
}

static uint64_t varint(Wire *w)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (w->at == w->end) wire_error(w, "the message ends inside a number");
        uint8_t b = (uint8_t)*w->at++;
        v |= (uint64_t)(b & 0x7F) << shift;
        if (b < 0x80) return v;
    }
    wire_error(w, "a number of more than ten bytes");
}

static const char *take(Wire *w, uint64_t n)
{
    if (n > (uint64_t)(w->end - w->at)) wire_error(w, "a field is longer than what it is in");
    w->at += n;
    return w->at - n;
}

/* The next field; false at the end. */
static bool next_field(Wire *w, Field *f)
{
    if (w->at == w->end) return false;
    uint64_t tag = varint(w);
    if (tag >> 3 == 0 || tag >> 3 > 1 << 29) wire_error(w, "a field without a valid number");
    *f = (Field){ .number = (int)(tag >> 3), .type = (int)(tag & 7) };
    switch (f->type) {
    case VARINT: f->value = varint(w); break;
    case EIGHT:  take(w, 8); break;
    case FOUR:   memcpy(&f->value, take(w, 4), 4); break;
    case BYTES:
        f->bytes.n = varint(w);
        f->bytes.s = take(w, f->bytes.n);
        break;
    default: wire_error(w, "a field of a type that does not exist");
    }
    return true;
}

static bool is(const Field *f, int number, int type)
{
    return f->number == number && f->type == type;
}

static Wire inside(const Wire *w, const Field *f)
{
    return (Wire){ w->name, w->start, f->bytes.s, f->bytes.s + f->bytes.n };
}

/* === The message ============================================================================== */

static void read_trainer(Wire w, Spm *m)
{
    Field f;
    while (next_field(&w, &f)) {
        if (is(&f, 3, VARINT))  m->model_type = f.value < 100 ? (int)f.value : 100;
        if (is(&f, 24, VARINT)) m->suffix = f.value;
        if (is(&f, 35, VARINT)) m->byte_fallback = f.value;
    }
}

static void read_normalizer(Wire w, Spm *m)
{
    Field f;
    while (next_field(&w, &f)) {
        if (is(&f, 2, BYTES))  m->charsmap = f.bytes;
        if (is(&f, 3, VARINT)) m->norm.dummy = f.value;
        if (is(&f, 4, VARINT)) m->norm.squeeze = f.value;
        if (is(&f, 5, VARINT)) m->norm.escape = f.value;
    }
}

static void read_piece(Wire w, Tokenizer *t, Spm *m)
{
    Field f;
    Str s = {0};
    float score = 0;
    uint64_t kind = KIND_NORMAL;
    const char *start = w.at;
    int id = t->vocab.n_pieces, bad;
    while (next_field(&w, &f)) {
        if (is(&f, 1, BYTES))  s = f.bytes;
        if (is(&f, 2, FOUR))   memcpy(&score, &f.value, 4);
        if (is(&f, 3, VARINT)) kind = f.value;
    }
    w.at = start;
    if (s.n == 0 || s.n > MAX_CONTENT) wire_error(&w, "a piece without letters, or with too many");
    if (!isfinite(score)) wire_error(&w, "the score of a piece is no number");
    if (kind < KIND_NORMAL || kind > KIND_BYTE) wire_error(&w, "a piece of a kind that is unknown");
    for (size_t i = 0, len; i < s.n; i += len) {
        len = (size_t)utf8_check(s.s + i, s.n - i, &bad);
        if (!len) wire_error(&w, "a piece is not UTF-8");
    }
    vocab_put(&t->vocab, t->name, s, id);
    if (t->vocab.n_pieces == id)
        die(EXIT_FILE, "%s: the piece \"%s\" is there twice", t->name, quoted_n(s.s, s.n));
    m->kind[id] = (uint8_t)kind;
    m->score[id] = score;
}

static int count_pieces(Wire w)
{
    Field f;
    int n = 0;
    while (next_field(&w, &f)) {
        if (!is(&f, 1, BYTES)) continue;
        if (n++ == MAX_IDS) wire_error(&w, "more pieces than there may be");
    }
    return n;
}

static Spm read_model(Tokenizer *t, Wire w)
{
    Spm m = { .model_type = 1, .norm = { .kind = NORM_SPM, .dummy = true, .squeeze = true,
                                         .escape = true } };
    Field f;
    int n = count_pieces(w);
    if (n == 0) wire_error(&w, "there is no piece in it");
    vocab_init(&t->vocab, n);
    m.kind = keep_bytes((size_t)n);
    m.score = keep_bytes(mul_size((size_t)n, sizeof *m.score));
    while (next_field(&w, &f)) {
        if (is(&f, 1, BYTES)) read_piece(inside(&w, &f), t, &m);
        if (is(&f, 2, BYTES)) read_trainer(inside(&w, &f), &m);
        if (is(&f, 3, BYTES)) read_normalizer(inside(&w, &f), &m);
    }
    m.norm.map = charsmap_open(t->name, m.charsmap);
    return m;
}

/* === The machine ============================================================================== */

typedef struct { float score; int piece; } Scored;

static int by_score(const void *x, const void *y)
{
    const Scored *a = x, *b = y;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return (a->piece > b->piece) - (a->piece < b->piece);
}

/* The rank of each piece that can come out of a text; -1 of the others. */
static void set_ranks(Tokenizer *t, const Spm *m)
{
    int n = t->vocab.n_pieces, n_ranked = 0, rank = 0;
    size_t mark = scratch_mark();
    Scored *s = scratch_bytes(mul_size((size_t)n, sizeof *s));
    bool sorted = true;
    t->model.rank = keep_bytes(mul_size((size_t)n, sizeof *t->model.rank));
    for (int i = 0; i < n; i++) {
        t->model.rank[i] = -1;
        if (m->kind[i] == KIND_UNUSED)
            die(EXIT_FILE, "%s: the piece \"%s\" is marked unused, which mm does not know in BPE",
                t->name, quoted_n(t->vocab.piece[i].s, t->vocab.piece[i].n));
        if (m->kind[i] != KIND_NORMAL && m->kind[i] != KIND_USER) continue;
        s[n_ranked++] = (Scored){ m->score[i], i };
        sorted &= n_ranked < 2 || s[n_ranked - 2].score >= m->score[i];
    }
    if (!sorted) qsort(s, (size_t)n_ranked, sizeof *s, by_score);
    for (int i = 0; i < n_ranked; i++) {
        rank += i && s[i].score != s[i - 1].score;
        t->model.rank[s[i].piece] = rank;
    }
    scratch_reset(mark);
}

static void set_scores(Tokenizer *t, const Spm *m)
{
    size_t mark = scratch_mark(), n = (size_t)t->vocab.n_pieces;
    bool *normal = scratch_bytes(n), *user = scratch_bytes(n);
    for (size_t i = 0; i < n; i++) {
        normal[i] = m->kind[i] == KIND_NORMAL;
        user[i] = m->kind[i] == KIND_USER;
    }
    unigram_spm(t, m->score, normal, user);
    scratch_reset(mark);
}

static void set_user(Tokenizer *t, const Spm *m)
{
    Matcher *user = &t->model.user;
    user->pattern = keep_bytes(mul_size((size_t)t->vocab.n_pieces + 1, sizeof *user->pattern));
    for (int i = 0; i < t->vocab.n_pieces; i++) {
        Piece *p = &t->vocab.piece[i];
        if (m->kind[i] == KIND_USER) user->pattern[user->n++] = (Pattern){ { p->s, p->n }, i };
    }
    matcher_sort(user);
}

static void need_bytes(const Tokenizer *t, const Spm *m)
{
    int n = 0;
    for (int i = 0; i < t->vocab.n_pieces; i++) n += m->kind[i] == KIND_BYTE;
    if (n != 256)
        die(EXIT_FILE, "%s: has %d byte pieces, expected 256 since byte_fallback is on", t->name,
            n);
}

Tokenizer *spm_parse(const char *name, const char *bytes, size_t n)
{
    Tokenizer *t = tok_new(name);
    int n_unknown = 0;
    Spm m = read_model(t, (Wire){ t->name, bytes, bytes, bytes + n });
    if (m.model_type != 1 && m.model_type != 2)
        die(EXIT_FILE, "%s: is a model of type %d, expected 1 (unigram) or 2 (BPE)", t->name,
            m.model_type);
    if (m.suffix)
        die(EXIT_FILE, "%s: treats white space as suffix, which mm does not know", t->name);
    for (int i = 0; i < t->vocab.n_pieces; i++) {
        if (m.kind[i] != KIND_UNKNOWN) continue;
        set_unk(t, (Str){ t->vocab.piece[i].s, t->vocab.piece[i].n });
        n_unknown++;
    }
    if (n_unknown != 1)
        die(EXIT_FILE, "%s: has %d unknown pieces, expected one", t->name, n_unknown);
    if (m.byte_fallback) need_bytes(t, &m);
    t->kind = m.model_type == 1 ? MODEL_UNIGRAM : MODEL_BPE;
    t->model.byte_fallback = m.byte_fallback;
    t->model.fuse_unk = true;
    set_user(t, &m);
    if (m.model_type == 2) set_ranks(t, &m);
    else set_scores(t, &m);
    t->norm[t->n_norm++] = m.norm;
    for (int i = 0; i < t->vocab.n_pieces; i++) {
        if (m.kind[i] != KIND_CONTROL) continue;
        Piece *p = &t->vocab.piece[i];
        added_add(t, (AddedToken){ .content = { p->s, p->n }, .special = true });
    }
    return t;
}
