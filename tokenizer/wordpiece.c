/* wordpiece.c -- BERT's model: a word becomes the longest pieces that fit, from left to right.
 *
 *   unwanted -> un ##want ##ed          all pieces but the first are looked up with "##" before
 *                                       them
 *
 * (Wu et al. 2016, arXiv 1609.08144; class WordPiece of the reference.) The hashes of all prefixes
 * of what is left are made in one pass, and then tried from the longest down.
 *
 * Easy to get wrong:
 *   - If any position has no piece, the whole word is one [UNK], whatever was found before.
 *   - The limit of 100 counts characters, not bytes. */
#include "machine.h"

static int n_chars(Str s)
{
    int n = 0;
    for (size_t i = 0; i < s.n; i++) n += (s.s[i] & 0xC0) != 0x80;
    return n;
}

/* The id of the longest of the first n_pieces pieces that rest begins with; *n is its length. -1:
 * none. hash: room for rest.n. */
static int longest_piece(const Vocab *v, int n_pieces, Str prefix, Str rest, uint32_t *hash,
                         size_t *n)
{
    size_t max = rest.n;
    if (prefix.n + max > (size_t)v->longest)
        max = (size_t)v->longest > prefix.n ? (size_t)v->longest - prefix.n : 0;
    uint32_t h = hash_more(HASH_START, prefix.s, prefix.n);
    for (size_t i = 0; i < max; i++) hash[i] = h = hash_more(h, rest.s + i, 1);
    for (*n = max; *n > 0; --*n) {
        if (*n < rest.n && (rest.s[*n] & 0xC0) == 0x80) continue;    /* inside a character */
        const Piece *p = vocab_get_hash(v, hash[*n - 1], prefix, (Str){ rest.s, *n });
        if (p && p - v->piece < n_pieces) return p->id;
    }
    return -1;
}

void wordpiece(const Tokenizer *t, Str word, IdList *out)
{
    const Model *m = &t->model;
    size_t start = out->n, n;
    if (n_chars(word) > m->max_chars) { ids_add(out, m->unk_id); return; }
    ids_room(out, word.n);
    size_t mark = scratch_mark();
    uint32_t *hash = scratch_bytes(mul_size(word.n, sizeof *hash));
    for (size_t at = 0; at < word.n; at += n) {
        Str rest = { word.s + at, word.n - at };
        int id = longest_piece(&t->vocab, m->n_pieces, at ? m->prefix : STR(""), rest, hash, &n);
        if (id < 0) {
            out->n = start;
            id = m->unk_id;
            n = rest.n;
        }
        ids_add(out, id);
    }
    scratch_reset(mark);
}
