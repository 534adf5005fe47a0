/* bpe.c -- byte-pair encoding: a word starts as its characters, and neighbours merge, those with
 * the lowest rank first (Sennrich et al. 2016, arXiv 1508.07909).
 *
 *   word -> symbols [n]                     l o w e r</w>
 *        -> heap of mergeable pairs (rank, position); the best is taken, its two symbols are
 *           joined, and the pairs with its new neighbours go into the heap: O(n log n)
 *        -> ids                              low er</w>
 *
 * Which neighbours merge is known in one of two ways. From a list of merges (class BPE of the
 * `tokenizers` crate): each pair of pieces has its place in the list. By piece (SentencePiece's
 * BPE, tiktoken): any two whose concatenation is a piece, ranked by that piece. In both the
 * concatenation is looked up in the vocabulary; a list then says whether it may come from these
 * two.
 *
 * A word of megabytes is merged window by window, in the caches of the processor. A boundary
 * between two tokens of a text is final if nothing merges across it, and that depends on the two
 * tokens alone: inside each, merges happen in the same order whatever stands around it. So the text
 * before a boundary is done when the last token before it and the first one of the next window,
 * merged on their own, stay two.
 *
 * Easy to get wrong:
 *   - Of equal ranks the leftmost merges first: position is part of the heap's order.
 *   - An entry of the heap may have been overtaken: it counts only if its pair still gives the same
 *     piece.
 *   - With a prefix for pieces inside words ("##"), the merge of a and ##b is called a + b.
 *   - The suffix belongs to the last character before anything is looked up.
 *   - SentencePiece: pieces that the user defined stand, whatever is around them. */
#include <string.h>

#include "machine.h"

enum { MAX_TWINS = 4096 };           /* merges with the same result; a piece has fewer letters */
enum { SHORT = 20 };                 /* symbols for which looking at all pairs beats a heap */
enum { WINDOW = 4096, MARGIN = 256 };          /* symbols */
enum { FROZEN = 1 << 30 };           /* of a symbol: never merges */
enum { PAIRS = 1 << 14 };

/* A symbol is the index of its piece; of a character without one, ~ its place in the word. */
typedef struct { int sym, prev, next; } Link;        /* GONE: merged into its left one */
typedef struct { int rank, pos, piece; } Candidate;
typedef struct { Candidate *c; size_t n; } Heap;
/* Symbols of a stretch of a word, and of how many first symbols each is made. */
typedef struct { int *sym, *len; size_t n; } Row;
enum { GONE = INT32_MIN };

/* What find_pair found last for a pair of symbols; rank -1: nothing. */
struct BpePairs { struct { uint64_t key; int rank, piece; } at[PAIRS]; };

/* === Merges =================================================================================== */

void bpe_init(Tokenizer *t, int n_merges)
{
    Model *m = &t->model;
    m->merge = keep_bytes(mul_size((size_t)n_merges + 1, sizeof *m->merge));
    m->first_merge = keep_bytes(mul_size((size_t)t->vocab.n_pieces + 1, sizeof *m->first_merge));
}

/* The index of the piece a + b, -1: none. Vocabularies mostly list the pieces in the order of their
 * merges. */
static int merged_piece(Tokenizer *t, Str a, Str b)
{
    const Vocab *v = &t->vocab;
    int *guess = &t->model.guess;
    for (int i = *guess > 0 ? *guess - 1 : 0; i <= *guess && i < v->n_pieces; i++) {
        const Piece *p = &v->piece[i];
        if (p->n != a.n + b.n || memcmp(p->s, a.s, a.n) || memcmp(p->s + a.n, b.s, b.n)) continue;
        *guess = i + 1;
        return i;
    }
    const Piece *p = vocab_get_hash(v, hash_more(hash_more(HASH_START, a.s, a.n), b.s, b.n), a, b);
    if (!p) return -1;
    *guess = (int)(p - v->piece) + 1;
    return *guess - 1;
}

bool bpe_merge(Tokenizer *t, Str left, Str right, int rank)
{
    Model *m = &t->model;
    Str tail = right;
    int n_twins = 0;
    if (tail.n >= m->prefix.n) { tail.s += m->prefix.n; tail.n -= m->prefix.n; }
    int piece = merged_piece(t, left, tail);
    if (piece < 0) return false;
    uint32_t at = m->first_merge[piece];
    for (; at; at = m->merge[at - 1].next, n_twins++) {          /* of equal ones the last counts */
        Merge *same = &m->merge[at - 1];
        if (same->n_left != left.n || same->n_right != right.n) continue;
        if (memcmp(same->right, right.s, right.n) == 0) { same->rank = rank; return true; }
    }
    if (n_twins > MAX_TWINS)
        die(EXIT_FILE, "%s: the merges are made so that looking one up takes forever", t->name);
    m->merge[m->n_merges] = (Merge){ right.s, (uint32_t)left.n, (uint32_t)right.n, rank,
                                     m->first_merge[piece] };
    m->first_merge[piece] = (uint32_t)++m->n_merges;
    return true;
}

/* Does any piece have the mark behind another character? Then words may not be cut there. */
static bool mark_inside(const Vocab *v, Str mark)
{
    for (int i = 0; i < v->n_pieces; i++) {
        const char *s = v->piece[i].s, *end = s + v->piece[i].n, *hit;
        while ((size_t)(end - s) >= mark.n && memcmp(s, mark.s, mark.n) == 0) s += mark.n;
        if ((hit = memmem(s, (size_t)(end - s), mark.s, mark.n)) && hit >= s) return true;
    }
    return false;
}

void bpe_finish(Tokenizer *t)
{
    Model *m = &t->model;
    m->cut = !m->ignore_merges && !m->prefix.n && !m->suffix.n
          && piece_of(&t->vocab, SPACE_MARK) >= 0 && !mark_inside(&t->vocab, SPACE_MARK);
    m->pairs = keep_bytes(sizeof *m->pairs);
}

/* === Pairs ==================================================================================== */

/* The string of a symbol and its hash. */
static Str symbol(const Tokenizer *t, Str word, int sym, uint32_t *hash)
{
    if (sym >= 0) {
        const Piece *p = &t->vocab.piece[sym & ~FROZEN];
        *hash = p->hash;
        return (Str){ p->s, p->n };
    }
    const char *s = word.s + ~sym, *end = s;
    utf8_next(&end);
    *hash = hash_more(HASH_START, s, (size_t)(end - s));
    return (Str){ s, (size_t)(end - s) };
}

/* The merge of the two; rank -1: they do not merge. */
static Candidate look_up(const Tokenizer *t, Str word, int a, int b)
{
    const Model *m = &t->model;
    const Candidate none = { -1, 0, 0 };
    uint32_t hash, unused;
    Str left = symbol(t, word, a, &hash), right = symbol(t, word, b, &unused), tail = right;
    if (tail.n >= m->prefix.n) { tail.s += m->prefix.n; tail.n -= m->prefix.n; }
    const Piece *p = vocab_get_hash(&t->vocab, hash_more(hash, tail.s, tail.n), left, tail);
    int piece = p ? (int)(p - t->vocab.piece) : m->n_pieces;
    if (piece >= m->n_pieces) return none;           /* an added token is none of the model's */
    if (m->rank) return (Candidate){ m->rank[piece], 0, piece };
    for (uint32_t at = m->first_merge[piece]; at; at = m->merge[at - 1].next) {
        const Merge *g = &m->merge[at - 1];
        if (g->n_left != left.n || g->n_right != right.n) continue;
        if (m->prefix.n && memcmp(g->right, right.s, right.n) != 0) continue;
        return (Candidate){ g->rank, 0, piece };
    }
    return none;
}

static Candidate find_pair(const Tokenizer *t, Str word, int a, int b)
{
    if (a < 0 || b < 0) return look_up(t, word, a, b);
    if ((a | b) & FROZEN) return (Candidate){ -1, 0, 0 };
    uint64_t key = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    uint64_t slot = (key ^ key >> 29) * 0x9E3779B97F4A7C15u >> 32 & (PAIRS - 1);
    if (t->model.pairs->at[slot].key != key + 1) {
        Candidate found = look_up(t, word, a, b);
        t->model.pairs->at[slot].key = key + 1;
        t->model.pairs->at[slot].rank = found.rank;
        t->model.pairs->at[slot].piece = found.piece;
    }
    return (Candidate){ t->model.pairs->at[slot].rank, 0, t->model.pairs->at[slot].piece };
}

/* === Merging ================================================================================== */

static bool before(Candidate a, Candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.pos < b.pos;
}

static void push(Heap *h, Candidate c)
{
    size_t i = h->n++;
    for (; i > 0 && before(c, h->c[(i - 1) / 2]); i = (i - 1) / 2) h->c[i] = h->c[(i - 1) / 2];
    h->c[i] = c;
}

static Candidate pop(Heap *h)
{
    Candidate best = h->c[0], last = h->c[--h->n];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < h->n) {
        if (child + 1 < h->n && before(h->c[child + 1], h->c[child])) child++;
        if (!before(h->c[child], last)) break;
        h->c[i] = h->c[child];
        i = child;
    }
    h->c[i] = last;
    return best;
}

static void offer(const Tokenizer *t, Str word, const Link *link, Heap *h, int pos)
{
    int next = pos < 0 ? -1 : link[pos].next;
    if (next < 0) return;
    Candidate c = find_pair(t, word, link[pos].sym, link[next].sym);
    c.pos = pos;
    if (c.rank >= 0) push(h, c);
}

/* Merges the symbols sym [n] until no pair can be merged. The row has room for n. */
static void merge_many(const Tokenizer *t, Str word, const int *sym, size_t n, Row *out)
{
    size_t mark = scratch_mark();
    Link *link = scratch_bytes(mul_size(n, sizeof *link));
    Heap heap = { scratch_bytes(mul_size(3 * n, sizeof *heap.c)), 0 };
    for (size_t i = 0; i < n; i++)
        link[i] = (Link){ sym[i], (int)i - 1, i + 1 < n ? (int)i + 1 : -1 };
    for (size_t i = 0; i + 1 < n; i++) offer(t, word, link, &heap, (int)i);
    while (heap.n) {
        Candidate c = pop(&heap);
        Link *left = &link[c.pos];
        if (left->sym == GONE || left->next < 0) continue;
        Link *right = &link[left->next];
        Candidate now = find_pair(t, word, left->sym, right->sym);
        if (now.rank < 0 || now.piece != c.piece) continue;
        left->sym = c.piece;
        left->next = right->next;
        right->sym = GONE;
        if (left->next >= 0) link[left->next].prev = c.pos;
        offer(t, word, link, &heap, left->prev);
        offer(t, word, link, &heap, c.pos);
    }
    out->n = 0;
    for (int i = 0; i >= 0; i = link[i].next) {
        out->sym[out->n] = link[i].sym;
        out->len[out->n++] = (link[i].next < 0 ? (int)n : link[i].next) - i;
    }
    scratch_reset(mark);
}

/* The same for n <= SHORT: the best pair is looked for each time. */
static void merge_few(const Tokenizer *t, Str word, const int *sym, size_t n, Row *out)
{
    Candidate pair[SHORT];
    for (size_t i = 0; i < n; i++) { out->sym[i] = sym[i]; out->len[i] = 1; }
    for (size_t i = 0; i + 1 < n; i++) pair[i] = find_pair(t, word, sym[i], sym[i + 1]);
    for (;;) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i + 1 < n; i++)
            if (pair[i].rank >= 0 && (best == SIZE_MAX || pair[i].rank < pair[best].rank)) best = i;
        if (best == SIZE_MAX) break;
        out->sym[best] = pair[best].piece;
        out->len[best] += out->len[best + 1];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            out->sym[i] = out->sym[i + 1];
            out->len[i] = out->len[i + 1];
            pair[i] = pair[i + 1];
        }
        if (best > 0) pair[best - 1] = find_pair(t, word, out->sym[best - 1], out->sym[best]);
        if (best + 1 < n) pair[best] = find_pair(t, word, out->sym[best], out->sym[best + 1]);
    }
    out->n = n;
}

static void merge(const Tokenizer *t, Str word, const int *sym, size_t n, Row *out)
{
    if (n <= SHORT) merge_few(t, word, sym, n, out);
    else            merge_many(t, word, sym, n, out);
}

static Row row_of(size_t n)
{
    return (Row){ scratch_bytes(mul_size(n, sizeof(int))), scratch_bytes(mul_size(n, sizeof(int))),
                  0 };
}

/* Do the tokens that begin at sym and are n_left and n_right symbols long stay apart? */
static bool apart(const Tokenizer *t, Str word, const int *sym, int n_left, int n_right)
{
    size_t mark = scratch_mark(), n = (size_t)n_left + (size_t)n_right;
    Row two = row_of(n);
    merge(t, word, sym, n, &two);
    bool yes = two.n == 2 && two.len[0] == n_left;
    scratch_reset(mark);
    return yes;
}

static void emit(Row *out, const Row *row, size_t n)
{
    memcpy(out->sym + out->n, row->sym, n * sizeof *row->sym);
    memcpy(out->len + out->n, row->len, n * sizeof *row->len);
    out->n += n;
}

/* How many tokens of the row end at least MARGIN before its last symbol; *len: of how many symbols
 * they are. */
static size_t safe_part(const Row *row, size_t n, size_t *len)
{
    size_t end = n - MARGIN, k = 0;
    for (*len = 0; k < row->n && *len + (size_t)row->len[k] <= end; k++)
        *len += (size_t)row->len[k];
    return k;
}

/* The windows of a long word. If what follows shows that the last boundary was none, tokens are
 * taken back and the window grows, in the end to all that is left. */
static void merge_long(const Tokenizer *t, Str word, const int *sym, size_t n, Row *out)
{
    size_t at = 0, window = WINDOW, back = 1;
    while (at < n) {
        size_t mark = scratch_mark(), w = n - at < 2 * window ? n - at : window, len = w, n_out;
        Row row = row_of(w);
        merge(t, word, sym + at, w, &row);
        int last = out->n ? out->len[out->n - 1] : 0;
        if (last && !apart(t, word, sym + at - last, last, row.len[0])) {
            for (size_t i = 0; i < back && out->n; i++) at -= (size_t)out->len[--out->n];
            back *= 2;
            window *= 2;
        } else {
            n_out = w == n - at ? row.n : safe_part(&row, w, &len);
            if (n_out == 0) window *= 2;
            else { emit(out, &row, n_out); at += len; }
        }
        scratch_reset(mark);
    }
}

/* === One word ================================================================================= */

/* The pieces of the bytes of s, if the vocabulary has all of them; how many. 0: it has not. */
static size_t byte_fallback(const Model *m, Str s, int *out)
{
    for (size_t i = 0; i < s.n; i++)
        if ((out[i] = m->byte_piece[(uint8_t)s.s[i]]) < 0) return 0;
    return s.n;
}

/* The index of a piece of the model, -1: none. */
static int model_piece(const Tokenizer *t, Str s)
{
    int i = piece_of(&t->vocab, s);
    return i < t->model.n_pieces ? i : -1;
}

/* Characters to symbols. A run of unknown ones is held back until the next known one, as the crate
 * does; bytes that stand in for an unknown character do not end it. Returns how many. */
static size_t first_symbols(const Tokenizer *t, Str word, int *sym)
{
    const Model *m = &t->model;
    size_t n = 0;
    bool unk = false;
    Text key = {0};
    for (size_t at = 0, len; at < word.n; at += len) {
        const char *end = word.s + at;
        utf8_next(&end);
        len = (size_t)(end - word.s) - at;
        Str c = { word.s + at, len };
        Str prefix = at ? m->prefix : STR(""), suffix = at + len == word.n ? m->suffix : STR("");
        if (prefix.n || suffix.n) {
            key.n = 0;
            text_add(&key, prefix.s, prefix.n);
            text_add(&key, c.s, c.n);
            text_add(&key, suffix.s, suffix.n);
            c = text_str(&key);
        }
        int known = model_piece(t, c);
        if (known >= 0) {
            if (unk) sym[n++] = m->unk_piece;
            unk = false;
            sym[n++] = known;
            continue;
        }
        size_t n_bytes = m->byte_fallback ? byte_fallback(m, c, sym + n) : 0;
        n += n_bytes;
        if (n_bytes || m->unk_piece < 0) continue;
        if (unk && !m->fuse_unk) sym[n++] = m->unk_piece;
        unk = true;
    }
    if (unk) sym[n++] = m->unk_piece;
    return n;
}

/* SentencePiece's: what the user defined stands, and unknown characters are symbols of their own.
 * Those are taken for bytes or unknown only after merging (last_symbols). */
static size_t first_strings(const Tokenizer *t, Str word, int *sym)
{
    size_t n = 0;
    for (size_t at = 0, len; at < word.n; at += len) {
        const Pattern *p = matcher_longest(&t->model.user, word.s + at, word.n - at);
        const char *end = word.s + at;
        utf8_next(&end);
        len = p ? p->pattern.n : (size_t)(end - word.s) - at;
        int known = p ? p->token | FROZEN : model_piece(t, (Str){ word.s + at, len });
        sym[n++] = known >= 0 ? known : ~(int)at;
    }
    return n;
}

static void ids_of(const Tokenizer *t, Str word, const Row *row, IdList *out)
{
    const Model *m = &t->model;
    bool unk = false;
    ids_room(out, row->n);
    for (size_t i = 0; i < row->n; i++) {
        int bytes[4], sym = row->sym[i];
        if (sym >= 0) {
            ids_add(out, t->vocab.piece[sym & ~FROZEN].id);
            unk = false;
            continue;
        }
        uint32_t hash;
        Str c = symbol(t, word, sym, &hash);
        size_t n_bytes = m->byte_fallback ? byte_fallback(m, c, bytes) : 0;
        for (size_t k = 0; k < n_bytes; k++) ids_add(out, t->vocab.piece[bytes[k]].id);
        if (!n_bytes && !unk && m->unk_id >= 0) ids_add(out, m->unk_id);
        unk = n_bytes == 0;
    }
}

void bpe(const Tokenizer *t, Str word, IdList *out)
{
    const Model *m = &t->model;
    size_t most = add_size(word.n, add_size(m->suffix.n, 2));       /* symbols, bytes included */
    most = add_size(most, mul_size(word.n, m->prefix.n));
    if (most > INT32_MAX / 4) die(EXIT_MEMORY, "a word of %zu bytes", word.n);
    if (word.n == 0) return;
    int whole = m->ignore_merges ? model_piece(t, word) : -1;
    if (whole >= 0) { ids_add(out, t->vocab.piece[whole].id); return; }
    ids_room(out, most);                             /* below what is given back */
    size_t mark = scratch_mark();
    int *sym = scratch_bytes(mul_size(most, sizeof *sym));
    size_t n = m->rank ? first_strings(t, word, sym) : first_symbols(t, word, sym);
    Row row = row_of(n);
    if (n <= 2 * WINDOW) merge(t, word, sym, n, &row);
    else                 merge_long(t, word, sym, n, &row);
    ids_of(t, word, &row, out);
    scratch_reset(mark);
}
