/* bpe.c -- byte-pair encoding: a word starts as its characters, and neighbours merge, those with
 * the lowest rank first (Sennrich et al. 2016, arXiv 1508.07909; class BPE of the reference).
 *
 *   word -> symbols [n], a linked list      l o w e r</w>
 *        -> heap of mergeable pairs (rank, position); the best is taken, its two symbols are
 *           joined, and the pairs with its new neighbours go into the heap: O(n log n)
 *        -> ids                             low er</w>
 *
 * Words come again: a table remembers the ids of short ones.
 *
 * Easy to get wrong:
 *   - Of equal ranks the leftmost merges first: position is part of the heap's order.
 *   - An entry of the heap may have been overtaken. The reference takes it as long as its pair
 *     still gives the same new id, even if that pair now has another rank; so does this file.
 *   - With a prefix for pieces inside words ("##"), the merge of a and ##b is called a + b.
 *   - The suffix belongs to the last character before anything is looked up. */
#include <string.h>

#include "machine.h"

enum { MAX_PROBES = 1024 };          /* by chance a hundred; in a file made for it, anything */
enum { CACHE_SIZE = 1 << 13, CACHE_WORD = 26, CACHE_IDS = 8 };

/* 64 bytes: one line of the processor's cache. Emptied by writing over it. */
typedef struct {
    uint32_t hash;
    uint8_t  n, n_ids;               /* n 0: empty */
    char     word[CACHE_WORD];
    int      id[CACHE_IDS];
} CacheEntry;
struct BpeCache { CacheEntry entry[CACHE_SIZE]; };

typedef struct { int id, prev, next; } Symbol;          /* id -1: merged into its left one */
typedef struct { int rank, pos, id; } Candidate;
typedef struct { Candidate *c; size_t n; } Heap;

/* === Merges =================================================================================== */

void bpe_init(Tokenizer *t, int n_merges)
{
    size_t n = 64;
    while (n < (size_t)n_merges * 2) n *= 2;
    t->model.merge = keep_bytes(mul_size((size_t)n_merges + 1, sizeof *t->model.merge));
    t->model.merge_slot = keep_bytes(mul_size(n, sizeof *t->model.merge_slot));
    t->model.merge_mask = (uint32_t)n - 1;
}

static uint64_t pair_of(int left, int right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* The merge of a pair; NULL if there is none, and then *at is a free slot, *n_probes away from
 * where the pair belongs. */
static Merge *find_free(const Model *m, uint64_t pair, uint32_t *at, int *n_probes)
{
    uint64_t hash = (pair ^ pair >> 29) * 0x9E3779B97F4A7C15u;
    *at = (uint32_t)(hash >> 32) & m->merge_mask;
    for (*n_probes = 0; m->merge_slot[*at]; *at = (*at + 1) & m->merge_mask, ++*n_probes) {
        Merge *merge = &m->merge[m->merge_slot[*at] - 1];
        if (merge->pair == pair) return merge;
    }
    return NULL;
}

static const Merge *find_merge(const Model *m, uint64_t pair)
{
    uint32_t at;
    int n_probes;
    return find_free(m, pair, &at, &n_probes);
}

/* The id of the piece a + b. Vocabularies mostly list the pieces in the order of their merges. */
static int merged_piece(Tokenizer *t, Str a, Str b)
{
    const Vocab *v = &t->vocab;
    int id = t->model.guess;
    const Piece *p = id < v->n_ids && v->of_id[id] ? &v->piece[v->of_id[id] - 1] : NULL;
    if (!p || p->n != a.n + b.n || memcmp(p->s, a.s, a.n) || memcmp(p->s + a.n, b.s, b.n))
        id = vocab_find_hash(v, hash_more(hash_more(HASH_START, a.s, a.n), b.s, b.n), a, b);
    t->model.guess = id + 1;
    return id;
}

bool bpe_merge(Tokenizer *t, Str left, Str right, int rank)
{
    Str tail = right;
    size_t n_prefix = t->model.prefix.n;
    if (tail.n >= n_prefix) { tail.s += n_prefix; tail.n -= n_prefix; }
    int a = vocab_find(&t->vocab, left), b = vocab_find(&t->vocab, right);
    int both = merged_piece(t, left, tail);
    if (a < 0 || b < 0 || both < 0) return false;
    Model *m = &t->model;
    uint32_t at;
    int n_probes;
    Merge *merge = find_free(m, pair_of(a, b), &at, &n_probes);
    if (n_probes > MAX_PROBES)
        die(EXIT_FILE, "%s: the merges are made so that looking one up takes forever", t->name);
    if (!merge) {
        merge = &m->merge[m->n_merges];
        m->merge_slot[at] = (uint32_t)++m->n_merges;
    }
    *merge = (Merge){ pair_of(a, b), rank, both };   /* of equal pairs the last one counts */
    return true;
}

void bpe_finish(Tokenizer *t)
{
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        t->model.byte_id[i] = vocab_find(&t->vocab, str_of(name));
    }
    t->model.cache = keep_bytes(sizeof *t->model.cache);
}

/* === The heap ================================================================================= */

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

/* === One word ================================================================================= */

/* The ids of the bytes of s, if the vocabulary has all of them; n of them at out. 0: it has not. */
static size_t byte_fallback(const Model *m, Str s, int *out)
{
    for (size_t i = 0; i < s.n; i++)
        if ((out[i] = m->byte_id[(uint8_t)s.s[i]]) < 0) return 0;
    return s.n;
}

/* Characters to ids. A run of unknown ones is held back until the next known one, as the reference
 * does; bytes that stand in for an unknown character do not end it. Returns how many. */
static size_t first_symbols(const Tokenizer *t, Str word, int *id)
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
        Str prefix = at ? m->prefix : (Str){ "", 0 };
        Str suffix = at + len == word.n ? m->suffix : (Str){ "", 0 };
        if (prefix.n || suffix.n) {
            key.n = 0;
            text_add(&key, prefix.s, prefix.n);
            text_add(&key, c.s, c.n);
            text_add(&key, suffix.s, suffix.n);
            c = text_str(&key);
        }
        int known = vocab_find(&t->vocab, c);
        if (known >= 0) {
            if (unk) id[n++] = m->unk_id;
            unk = false;
            id[n++] = known;
            continue;
        }
        size_t n_bytes = m->byte_fallback ? byte_fallback(m, c, id + n) : 0;
        n += n_bytes;
        if (n_bytes || m->unk_id < 0) continue;
        if (unk && !m->fuse_unk) id[n++] = m->unk_id;
        unk = true;
    }
    if (unk) id[n++] = m->unk_id;
    return n;
}

static void offer(const Model *m, const Symbol *sym, Heap *h, int pos)
{
    int next = pos < 0 ? -1 : sym[pos].next;
    if (next < 0) return;
    const Merge *merge = find_merge(m, pair_of(sym[pos].id, sym[next].id));
    if (merge) push(h, (Candidate){ merge->rank, pos, merge->id });
}

/* Merges until no pair can be merged. id [n] in place; returns how many are left. */
static size_t merge_all(const Model *m, int *id, size_t n)
{
    Symbol *sym = scratch_bytes(mul_size(n, sizeof *sym));
    Heap heap = { scratch_bytes(mul_size(3 * n, sizeof *heap.c)), 0 };
    for (size_t i = 0; i < n; i++)
        sym[i] = (Symbol){ id[i], (int)i - 1, i + 1 < n ? (int)i + 1 : -1 };
    for (size_t i = 0; i + 1 < n; i++) offer(m, sym, &heap, (int)i);
    while (heap.n) {
        Candidate c = pop(&heap);
        Symbol *left = &sym[c.pos];
        if (left->id < 0 || left->next < 0) continue;
        Symbol *right = &sym[left->next];
        const Merge *merge = find_merge(m, pair_of(left->id, right->id));
        if (!merge || merge->id != c.id) continue;
        left->id = c.id;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0) sym[left->next].prev = c.pos;
        offer(m, sym, &heap, left->prev);
        offer(m, sym, &heap, c.pos);
    }
    size_t n_left = 0;
    for (int i = 0; i >= 0; i = sym[i].next) id[n_left++] = sym[i].id;
    return n_left;
}

static void whole_word(const Tokenizer *t, Str word, IdList *out)
{
    const Model *m = &t->model;
    size_t most = add_size(word.n, add_size(m->suffix.n, 2));       /* symbols, bytes included */
    most = add_size(most, mul_size(word.n, m->prefix.n));
    if (most > INT32_MAX) die(EXIT_MEMORY, "a word of %zu bytes", word.n);
    if (m->ignore_merges) {
        int id = vocab_find(&t->vocab, word);
        if (id >= 0) { ids_add(out, id); return; }
    }
    ids_room(out, most);
    size_t mark = scratch_mark();
    int *id = out->id + out->n;
    size_t n = first_symbols(t, word, id);
    if (n > 1) n = merge_all(m, id, n);
    out->n += n;
    scratch_reset(mark);
}

void bpe(const Tokenizer *t, Str word, IdList *out)
{
    if (word.n == 0) return;
    if (word.n > CACHE_WORD) { whole_word(t, word, out); return; }
    uint32_t hash = hash_more(HASH_START, word.s, word.n);
    CacheEntry *e = &t->model.cache->entry[(hash ^ hash >> 16) & (CACHE_SIZE - 1)];
    if (e->hash == hash && e->n == word.n && memcmp(e->word, word.s, word.n) == 0) {
        ids_room(out, e->n_ids);
        for (int i = 0; i < e->n_ids; i++) out->id[out->n++] = e->id[i];
        return;
    }
    size_t start = out->n;
    whole_word(t, word, out);
    size_t n_ids = out->n - start;
    if (n_ids > CACHE_IDS) return;
    *e = (CacheEntry){ .hash = hash, .n = (uint8_t)word.n, .n_ids = (uint8_t)n_ids };
    memcpy(e->word, word.s, word.n);
    if (n_ids) memcpy(e->id, out->id + start, n_ids * sizeof *e->id);
}
