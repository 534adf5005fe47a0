/* added.c -- added tokens: contents that are looked for in the text itself, such as [MASK].
 *
 *   text -> matches of the contents, leftmost and longest (tokens, and segments in between)
 *        -> each match widened over white space by lstrip and rstrip, or dropped by single_word
 *
 * It happens twice: in the raw text for tokens with normalized = false, then in each normalised
 * segment for the others, whose contents were normalised as well. All contents stand in one sorted
 * array; walking along the text narrows the range of those that still fit.
 *
 * Easy to get wrong:
 *   - A match that single_word or raw mode rejects is still consumed: the search goes on behind it.
 *   - lstrip takes spaces from the text before, but not from the previous match.
 *   - An id comes from the vocabulary if the content is there, else it is the next free one; the id
 *     written in the file does not count. The first new id is the number of pieces, not the largest
 *     id + 1.
 *   - The same content again replaces the flags, but once special is always special. */
#include <stdlib.h>
#include <string.h>

#include "machine.h"

const AddedToken *added_of_id(const Tokenizer *t, int id)
{
    if (id < 0 || id >= t->vocab.n_ids || !t->vocab.of_id[id]) return NULL;
    const Piece *p = &t->vocab.piece[t->vocab.of_id[id] - 1];
    return p->added ? &t->added[p->added - 1] : NULL;
}

const AddedToken *added_get(const Tokenizer *t, Str content)
{
    const Piece *p = vocab_get(&t->vocab, content);
    return p && p->added ? &t->added[p->added - 1] : NULL;
}

static void append(Tokenizer *t, AddedToken a)
{
    if (t->n_added == t->cap_added) {
        int cap = t->cap_added * 2 + 16;
        AddedToken *more = keep_bytes(mul_size((size_t)cap, sizeof *more));
        if (t->n_added) memcpy(more, t->added, (size_t)t->n_added * sizeof *more);
        t->added = more;
        t->cap_added = cap;
    }
    if (t->next_id < t->vocab.n_pieces) t->next_id = t->vocab.n_pieces;
    a.id = vocab_find(&t->vocab, a.content);
    if (a.id < 0) {
        a.id = t->next_id;
        a.content = str_keep(a.content);
        vocab_put(&t->vocab, t->name, a.content, a.id);
    }
    if (t->next_id <= a.id) t->next_id = a.id + 1;
    t->added[t->n_added++] = a;
    vocab_get(&t->vocab, a.content)->added = t->n_added;
}

void added_add(Tokenizer *t, AddedToken a)
{
    if (a.content.n == 0) return;
    if (a.content.n > MAX_CONTENT)
        die(EXIT_FILE, "%s: an added token of %zu bytes, at most %d expected", t->name, a.content.n,
            MAX_CONTENT);
    AddedToken *old = (AddedToken *)added_get(t, a.content);
    if (!old) { append(t, a); return; }
    a.id = old->id;
    a.content = old->content;
    a.special |= old->special;
    *old = a;
}

/* Bytewise; equal contents in the order in which they were added, since the first one matches. */
static int by_content(const void *x, const void *y)
{
    const Pattern *a = x, *b = y;
    size_t n = a->pattern.n < b->pattern.n ? a->pattern.n : b->pattern.n;
    int order = memcmp(a->pattern.s, b->pattern.s, n);
    if (order == 0) order = (a->pattern.n > b->pattern.n) - (a->pattern.n < b->pattern.n);
    return order ? order : (a->token > b->token) - (a->token < b->token);
}

void matcher_sort(Matcher *m)
{
    for (int i = 0; i < m->n; i++) m->first[(uint8_t)m->pattern[i].pattern.s[0]] = true;
    qsort(m->pattern, (size_t)m->n, sizeof *m->pattern, by_content);
}

/* Also sets what each token decodes to: the normalised content, in the reference. */
static void compile(Tokenizer *t, Matcher *m, bool normalized)
{
    *m = (Matcher){ .pattern = keep_bytes(mul_size((size_t)t->n_added + 1, sizeof *m->pattern)) };
    for (int i = 0; i < t->n_added; i++) {
        if (t->added[i].normalized != normalized) continue;
        Str s = t->added[i].content;
        if (normalized) {
            size_t mark = scratch_mark();
            s = str_keep(normalize(t, s));
            scratch_reset(mark);
        }
        t->added[i].shown = s;
        if (s.n == 0) continue;
        m->pattern[m->n++] = (Pattern){ s, i };
    }
    matcher_sort(m);
}

void added_compile(Tokenizer *t)
{
    compile(t, &t->raw, false);
    compile(t, &t->normal, true);
}

/* In [lo, hi) all patterns agree in their first `depth` bytes: the part whose next byte is b. */
static void narrow(const Matcher *m, int *lo, int *hi, size_t depth, uint8_t b)
{
    int a = *lo, e = *hi;
    while (a < e) {                          /* first not below b; what has ended is below */
        int mid = a + (e - a) / 2;
        const Str *p = &m->pattern[mid].pattern;
        if (p->n <= depth || (uint8_t)p->s[depth] < b) a = mid + 1; else e = mid;
    }
    *lo = a;
    e = *hi;
    while (a < e) {                          /* first that is above b */
        int mid = a + (e - a) / 2;
        if ((uint8_t)m->pattern[mid].pattern.s[depth] <= b) a = mid + 1; else e = mid;
    }
    *hi = a;
}

const Pattern *matcher_longest(const Matcher *m, const char *s, size_t n)
{
    const Pattern *found = NULL;
    if (n == 0 || !m->first[(uint8_t)*s]) return NULL;
    int lo = 0, hi = m->n;
    for (size_t i = 0; i < n && lo < hi; i++) {
        narrow(m, &lo, &hi, i, (uint8_t)s[i]);
        if (lo < hi && m->pattern[lo].pattern.n == i + 1) found = &m->pattern[lo];
    }
    return found;
}

static bool word_before(const Tokenizer *t, Str s, size_t at)
{
    return at > 0 && (t->cls[utf8_before(s.s, s.s + at)] & U_WORD);
}

static bool word_after(const Tokenizer *t, Str s, size_t at)
{
    const char *p = s.s + at;
    return at < s.n && (t->cls[utf8_next(&p)] & U_WORD);
}

/* Where the white space that ends at `end` begins, not before `from`. */
static size_t spaces_before(const Tokenizer *t, Str s, size_t from, size_t end)
{
    while (end > from) {
        uint32_t c = utf8_before(s.s + from, s.s + end);
        if ((t->cls[c] & U_KIND) != U_SPACE) break;
        char buf[4];
        end -= (size_t)utf8_put(buf, c);
    }
    return end;
}

static size_t spaces_after(const Tokenizer *t, Str s, size_t at)
{
    while (at < s.n) {
        const char *p = s.s + at;
        if ((t->cls[utf8_next(&p)] & U_KIND) != U_SPACE) break;
        at = (size_t)(p - s.s);
    }
    return at;
}

void added_split(const Tokenizer *t, const Matcher *m, Str s, Run run, SegmentFn *segment,
                 IdList *out)
{
    size_t done = 0, at = 0;
    Run part = run;
    while (m->n && at < s.n) {
        const Pattern *p = matcher_longest(m, s.s + at, s.n - at);
        if (!p) { at++; continue; }
        const AddedToken *a = &t->added[p->token];
        size_t begin = at, end = at + p->pattern.n;
        at = end;
        if (run.raw && a->special) continue;
        if (a->single_word && (word_before(t, s, begin) || word_after(t, s, end))) continue;
        if (a->lstrip && begin > done) begin = spaces_before(t, s, done, begin);
        if (a->rstrip) end = spaces_after(t, s, end);
        if (done < begin) segment(t, (Str){ s.s + done, begin - done }, part, out);
        ids_add(out, a->id);
        done = end;
        part.first = false;
    }
    if (done < s.n) segment(t, (Str){ s.s + done, s.n - done }, part, out);
}

/* === Texts of which parts are raw ============================================================= */

/* A noncharacter that no part has. */
static uint32_t unused_point(const TokPart *part, int n)
{
    for (uint32_t c = 0xFDD0; c <= 0xFDEF; c++) {
        char s[4];
        size_t len = (size_t)utf8_put(s, c);
        bool used = false;
        for (int i = 0; i < n && !used; i++) used = memmem(part[i].text, part[i].n, s, len);
        if (!used) return c;
    }
    return U_REPLACEMENT;                    /* somebody tries hard: all of theirs goes */
}

/* Where in the special token at `at`, of n bytes, the guard goes: before its second character, or
 * where the raw part begins. SIZE_MAX: no raw part is touched. start [n_parts + 1]. */
static size_t guard_place(const TokPart *part, const size_t *start, int n_parts, Str s, size_t at,
                          size_t n)
{
    for (int i = 0; i < n_parts; i++) {
        if (!part[i].raw || start[i] >= at + n || start[i + 1] <= at) continue;
        if (start[i] > at) return start[i];
        size_t second = at + 1;
        while (second < at + n && (s.s[second] & 0xC0) == 0x80) second++;
        return second;
    }
    return SIZE_MAX;
}

Text added_guard(const Tokenizer *t, const TokPart *part, int n, uint32_t *guard)
{
    Text all = {0}, out = {0};
    size_t *start = scratch_bytes(mul_size((size_t)n + 1, sizeof *start)), done = 0;
    bool begins[256] = {0};                  /* a special token begins with this byte */
    for (int k = 0; k < t->n_added; k++)
        if (t->added[k].special) begins[(uint8_t)t->added[k].content.s[0]] = true;
    for (int i = 0; i < n; i++) {
        start[i] = all.n;
        text_add_utf8(&all, part[i].text, part[i].n);
    }
    start[n] = all.n;
    *guard = unused_point(part, n);
    for (size_t at = 0; at < all.n; at++) {
        for (int k = 0; begins[(uint8_t)all.s[at]] && k < t->n_added; k++) {
            Str c = t->added[k].content;
            if (!t->added[k].special || all.n - at < c.n || memcmp(all.s + at, c.s, c.n)) continue;
            size_t place = guard_place(part, start, n, text_str(&all), at, c.n);
            if (place == SIZE_MAX || place <= done) continue;
            text_add(&out, all.s + done, place - done);
            text_put(&out, *guard);
            done = place;
        }
    }
    if (done == 0) *guard = 0;
    text_add(&out, all.s + done, all.n - done);
    return out;
}
