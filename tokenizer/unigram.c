/* unigram.c -- SentencePiece's unigram model: of all ways to cut a word into pieces, the one whose
 * scores (log-probabilities) have the largest sum (Kudo 2018, arXiv 1804.10959).
 *
 *   best[i]: the best way that ends at byte i; from each i where a character begins, every piece
 *   that the text goes on with leads to best[i + its length], and then back from the end:
 *
 *   ▁ h e l l o      best[0] -> ▁he -> ▁hell -> ▁hello
 *
 * A trie gives all pieces that begin at a place in one walk: O(n times the longest piece). Where no
 * piece is the single character that stands there, it may also be unknown, at a score below all.
 *
 * Two programs do this, and mm follows the one whose file it read: the `tokenizers` crate adds up
 * double precision, sentencepiece single (each sum rounded when it is stored); the crate matches
 * every piece of the list, sentencepiece neither control nor unused ones, and gives what the user
 * defined a score of its own, 0.1 for each byte after the first (so found by asking it).
 *
 * Easy to get wrong:
 *   - Of equal sums the one found first stays, which is the one with the longer last piece.
 *   - Neighbouring unknown characters are one token.
 *   - The unknown score is 10 below the lowest of all pieces (crate) or of the normal ones. */
#include <math.h>
#include <string.h>

#include "machine.h"

enum { UNKNOWN_PENALTY = 10, MAX_NODES = 1 << 24, MAX_PROBES = 1024 };
enum { NO_PIECE = -1 };
static const double MOST = -1e5;             /* sums of sentencepiece stay above */

/* Nodes are numbers; (node, byte) -> child by open addressing: key + 1 << 32 | child, 0: free. */
struct Trie {
    uint64_t *slot;
    uint32_t  mask;
    int      *piece;                         /* [n_nodes] */
    int       n_nodes;
};

/* The best way to a place: where its last piece begins (-1: none yet) and which it is. */
typedef struct { double score; int start, piece; } Best;

/* === The trie ================================================================================= */

static uint32_t slot_of(const Trie *t, uint32_t key)
{
    return (uint32_t)((key * 0x9E3779B97F4A7C15u) >> 32) & t->mask;
}

/* 0, which is the root and nobody's child: there is none. */
static inline int child(const Trie *t, int node, char c)
{
    uint64_t key = ((uint64_t)node << 8 | (uint8_t)c) + 1;
    uint32_t at = slot_of(t, (uint32_t)key);
    for (; t->slot[at]; at = (at + 1) & t->mask)
        if (t->slot[at] >> 32 == key) return (int)(uint32_t)t->slot[at];
    return 0;
}

static void grow(Trie *t)
{
    Trie old = *t;
    t->mask = 2 * t->mask + 1;
    t->slot = keep_bytes(mul_size((size_t)t->mask + 1, sizeof *t->slot));
    for (size_t i = 0; i <= old.mask; i++) {
        if (!old.slot[i]) continue;
        uint32_t at = slot_of(t, (uint32_t)(old.slot[i] >> 32));
        while (t->slot[at]) at = (at + 1) & t->mask;
        t->slot[at] = old.slot[i];
    }
}

static void insert(Trie *t, const char *name, Str s, int piece)
{
    int node = 0;
    for (size_t i = 0; i < s.n; i++) {
        int next = child(t, node, s.s[i]), n_probes = 0;
        if (!next) {
            if ((uint32_t)t->n_nodes > t->mask / 2) grow(t);
            uint64_t key = ((uint64_t)node << 8 | (uint8_t)s.s[i]) + 1;
            uint32_t at = slot_of(t, (uint32_t)key);
            for (; t->slot[at]; at = (at + 1) & t->mask) n_probes++;
            if (n_probes > MAX_PROBES)
                die(EXIT_FILE, "%s: the pieces are made so that finding one takes forever", name);
            next = t->n_nodes++;
            t->slot[at] = key << 32 | (uint32_t)next;
            t->piece[next] = NO_PIECE;
        }
        node = next;
    }
    if (node) t->piece[node] = piece;
}

/* Of the pieces for which `in` is true. */
static void build(Tokenizer *t, const bool *in)
{
    size_t n_bytes = 1, n_slots = 256;
    for (int i = 0; i < t->vocab.n_pieces; i++) n_bytes += t->vocab.piece[i].n;
    if (n_bytes > MAX_NODES) die(EXIT_FILE, "%s: the pieces have %zu letters, expected at most %d",
                                 t->name, n_bytes, MAX_NODES);
    while (n_slots < n_bytes / 2) n_slots *= 2;      /* many share their beginnings */
    Trie *trie = keep_bytes(sizeof *trie);
    *trie = (Trie){ keep_bytes(mul_size(n_slots, sizeof *trie->slot)), (uint32_t)n_slots - 1,
                    keep_bytes(mul_size(n_bytes, sizeof *trie->piece)), 1 };
    trie->piece[0] = NO_PIECE;
    for (int i = 0; i < t->vocab.n_pieces; i++) {
        const Piece *p = &t->vocab.piece[i];
        if (in[i]) insert(trie, t->name, (Str){ p->s, p->n }, i);
    }
    t->model.trie = trie;
}

void unigram_json(Tokenizer *t)
{
    size_t mark = scratch_mark();
    int n = t->vocab.n_pieces;
    bool *in = scratch_bytes((size_t)n + 1);
    double min = INFINITY;
    for (int i = 0; i < n; i++) {
        in[i] = true;
        if (t->model.score[i] < min) min = t->model.score[i];
    }
    t->model.unk_score = min - UNKNOWN_PENALTY;
    build(t, in);
    scratch_reset(mark);
}

/* Which pieces are normal, control, ..: spm.c. */
void unigram_spm(Tokenizer *t, const float *score, const bool *normal, const bool *user)
{
    size_t mark = scratch_mark();
    int n = t->vocab.n_pieces;
    bool *in = scratch_bytes((size_t)n + 1);
    float min = INFINITY;
    t->model.score = keep_bytes(mul_size((size_t)n + 1, sizeof *t->model.score));
    for (int i = 0; i < n; i++) {
        in[i] = normal[i] || user[i];
        if (normal[i] && score[i] < min) min = score[i];
    }
    for (int i = 0; i < n; i++)
        t->model.score[i] = user[i] ? 0.1 * (double)t->vocab.piece[i].n - 0.1 : (double)score[i];
    t->model.unk_score = min - (float)UNKNOWN_PENALTY;
    t->model.single = true;
    build(t, in);
    scratch_reset(mark);
}

/* === One word ================================================================================= */

static void offer(const Model *m, Best *to, double score, int start, int piece)
{
    if (m->single) score = (float)score;
    if (to->start < 0 || score > to->score) *to = (Best){ score, start, piece };
}

/* sentencepiece takes a large sum off everything that is still open, so that single precision
 * lasts; what is open is at most one piece ahead. */
static void take_off(const Tokenizer *t, Best *best, size_t at, size_t n)
{
    double sum = best[at].score;
    for (size_t i = at; i <= n && i <= at + (size_t)t->vocab.longest; i++)
        if (best[i].start >= 0) best[i].score = (float)(best[i].score - sum);
}

/* The ways on from `at`. raw: special tokens do not come out of a text. */
static void go_on(const Tokenizer *t, Str word, size_t at, bool raw, Best *best)
{
    const Model *m = &t->model;
    const char *next = word.s + at;
    utf8_next(&next);
    size_t one = (size_t)(next - word.s) - at;
    bool known = false;
    if (m->single && best[at].score < MOST) take_off(t, best, at, word.n);
    double till = best[at].score;
    int node = 0;
    for (size_t i = at; i < word.n && (node = child(m->trie, node, word.s[i])); i++) {
        int piece = m->trie->piece[node];
        if (piece == NO_PIECE) continue;
        if (raw && tok_is_special(t, t->vocab.piece[piece].id)) continue;
        offer(m, &best[i + 1], m->score[piece] + till, (int)at, piece);
        known |= i + 1 - at == one;
    }
    if (!known) offer(m, &best[at + one], m->unk_score + till, (int)at, NO_PIECE);
}

/* The ids of unknown characters: their bytes, if all of them have pieces, else one for all. */
static void add_unknown(const Tokenizer *t, Str s, IdList *out)
{
    const Model *m = &t->model;
    bool bytes = m->byte_fallback;
    for (size_t i = 0; i < s.n && bytes; i++) bytes = m->byte_piece[(uint8_t)s.s[i]] >= 0;
    for (size_t i = 0; i < s.n && bytes; i++)
        ids_add(out, t->vocab.piece[m->byte_piece[(uint8_t)s.s[i]]].id);
    if (!bytes) ids_add(out, m->unk_id);
}

void unigram(const Tokenizer *t, Str word, bool raw, IdList *out)
{
    if (word.n > INT32_MAX / 4) die(EXIT_MEMORY, "a word of %zu bytes", word.n);
    ids_room(out, word.n);                           /* below what is given back */
    size_t mark = scratch_mark(), unknown = SIZE_MAX;
    Best *best = scratch_bytes(mul_size(word.n + 1, sizeof *best));
    for (size_t i = 0; i <= word.n; i++) best[i] = (Best){ 0, -1, NO_PIECE };
    for (size_t at = 0; at < word.n; ) {
        go_on(t, word, at, raw, best);
        do at++; while (at < word.n && (word.s[at] & 0xC0) == 0x80);
    }
    int end = (int)word.n, last = -1;                /* turned round: each start says its end */
    while (end > 0) {
        int start = best[end].start;
        best[end].start = last;
        last = end;
        end = start;
    }
    for (int at = 0; at < (int)word.n; at = last, last = best[last].start) {
        bool known = best[last].piece != NO_PIECE;
        if (!known && unknown == SIZE_MAX) unknown = (size_t)at;
        if (known && unknown != SIZE_MAX)
            add_unknown(t, (Str){ word.s + unknown, (size_t)at - unknown }, out);
        if (known) { unknown = SIZE_MAX; ids_add(out, t->vocab.piece[best[last].piece].id); }
    }
    if (unknown != SIZE_MAX)
        add_unknown(t, (Str){ word.s + unknown, word.n - unknown }, out);
    scratch_reset(mark);
}
