/* normalize.c -- the normalizers: text -> text, one after the other.
 *
 * Each step reads one text and writes a new one into scratch; a step that changes nothing hands on
 * what it got. Plain ASCII, most of what is ever tokenized, takes short cuts.
 *
 *   NFC NFD NFKC NFKD   code points [n] -> decomposed -> marks in the order of their
 *                       combining classes -> composed
 *   BertNormalizer      clean -> spaces around Chinese -> NFD without Mn -> lower case
 *
 * Easy to get wrong:
 *   - BertNormalizer's clean_text drops VT, FF and NEL (controls) before it turns spaces into " ".
 *   - Lowercase goes character by character: no final sigma. U+0130 becomes two: i, U+0307.
 *   - Stripping accents does not compose again: Hangul stays in pieces. */
#include <string.h>

#include "machine.h"

typedef struct { uint32_t *c; size_t n, cap; } Points;

static bool is_ascii(Str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.s[i] & 0x80) return false;
    return true;
}

/* === Unicode normalisation ==================================================================== */

static void points_add(Points *p, const uint32_t *c, size_t n)
{
    if (p->n + n > p->cap) {
        size_t cap = add_size(mul_size(add_size(p->n, n), 2), 64);
        uint32_t *more = scratch_bytes(mul_size(cap, sizeof *more));
        if (p->n) memcpy(more, p->c, p->n * sizeof *more);
        p->c = more;
        p->cap = cap;
    }
    for (size_t i = 0; i < n; i++) p->c[p->n + i] = c[i];
    p->n += n;
}

/* Sorts marks by combining class, stably. Counting, since a hostile text may have millions. */
static void sort_marks(uint32_t *c, size_t n)
{
    size_t count[257] = {0}, mark = scratch_mark();
    uint32_t *copy = scratch_bytes(mul_size(n, sizeof *copy));
    uint8_t *ccc = scratch_bytes(n);
    for (size_t i = 0; i < n; i++) {
        copy[i] = c[i];
        ccc[i] = (uint8_t)unicode_ccc(c[i]);
        count[ccc[i] + 1]++;
    }
    for (int k = 0; k < 256; k++) count[k + 1] += count[k];
    for (size_t i = 0; i < n; i++) c[count[ccc[i]]++] = copy[i];
    scratch_reset(mark);
}

static void decompose(const Tokenizer *t, Points *out, Str s, bool compat)
{
    const char *p = s.s, *end = s.s + s.n;
    while (p < end) {
        uint32_t to[U_MAX_DECOMPOSED], c = utf8_next(&p);
        int n = 1;
        if (c < 0x80) to[0] = c;
        else          n = unicode_decompose(c, compat, to);
        points_add(out, to, (size_t)n);
    }
    size_t start = 0;                        /* of the marks in hand */
    for (size_t i = 0; i <= out->n; i++) {
        bool mark = i < out->n && (t->cls[out->c[i]] & U_COMPOSE) && unicode_ccc(out->c[i]);
        if (mark) continue;
        if (i > start + 1) sort_marks(out->c + start, i - start);
        start = i + 1;
    }
}

/* The canonical composition algorithm: a mark joins the last starter unless something of its own
 * class, or of none, stands between. */
static void compose(Points *p)
{
    size_t n = 0, starter = SIZE_MAX;
    int last = 0;                            /* class of what stands before, after the starter */
    for (size_t i = 0; i < p->n; i++) {
        uint32_t c = p->c[i];
        int ccc = unicode_ccc(c);
        bool adjacent = starter != SIZE_MAX && starter + 1 == n;
        if (starter != SIZE_MAX && (adjacent || (last && last < ccc))) {
            uint32_t both = unicode_compose(p->c[starter], c);
            if (both) { p->c[starter] = both; continue; }
        }
        if (ccc == 0) starter = n;
        last = ccc;
        p->c[n++] = c;
    }
    p->n = n;
}

static Str unicode_form(const Tokenizer *t, Str s, bool compat, bool composed)
{
    if (is_ascii(s)) return s;
    if (composed && !compat) {
        const char *p = s.s, *end = s.s + s.n;
        bool quick = true;
        while (quick && p < end) quick = !(t->cls[utf8_next(&p)] & U_COMPOSE);
        if (quick) return s;
    }
    Points points = {0};
    Text out = {0};
    decompose(t, &points, s, compat);
    if (composed) compose(&points);
    text_room(&out, s.n);
    for (size_t i = 0; i < points.n; i++) text_put(&out, points.c[i]);
    return text_str(&out);
}

/* === Character by character =================================================================== */

static Str lowercase(Str s)
{
    Text out = {0};
    const char *p = s.s, *end = s.s + s.n;
    text_room(&out, s.n);
    while (p < end) {
        uint32_t c = utf8_next(&p);
        if (c < 0x80) { *text_room(&out, 1) = (char)unicode_lower(c); out.n++; }
        else if (c == 0x130) { text_put(&out, 'i'); text_put(&out, 0x307); }
        else text_put(&out, unicode_lower(c));
    }
    return text_str(&out);
}

/* s without the characters that have one of the bits. */
static Str without(const Tokenizer *t, Str s, uint8_t bits)
{
    if (is_ascii(s)) return s;               /* marks only: none of them is ASCII */
    Text out = {0};
    const char *p = s.s, *end = s.s + s.n;
    text_room(&out, s.n);
    while (p < end) {
        const char *from = p;
        if (!(t->cls[utf8_next(&p)] & bits)) text_add(&out, from, (size_t)(p - from));
    }
    return text_str(&out);
}

static bool is_space(const Tokenizer *t, uint32_t c) { return (t->cls[c] & U_KIND) == U_SPACE; }

static Str strip(const Tokenizer *t, Str s, bool left, bool right)
{
    const char *p = s.s, *end = s.s + s.n;
    while (left && p < end) {
        const char *from = p;
        if (!is_space(t, utf8_next(&p))) { p = from; break; }
    }
    while (right && end > p) {
        const char *before = end;
        do before--; while ((*before & 0xC0) == 0x80);
        const char *c = before;
        if (!is_space(t, utf8_next(&c))) break;
        end = before;
    }
    return (Str){ p, (size_t)(end - p) };
}

/* Runs of white space, each replaced by the same. */
static Str replace_spaces(const Tokenizer *t, Str s, Str by)
{
    Text out = {0};
    const char *p = s.s, *end = s.s + s.n;
    bool inside = false;
    text_room(&out, s.n);
    while (p < end) {
        const char *from = p;
        bool space = is_space(t, utf8_next(&p));
        if (!space) text_add(&out, from, (size_t)(p - from));
        else if (!inside) text_add(&out, by.s, by.n);
        inside = space;
    }
    return text_str(&out);
}

/* Runs of two and more of a character (plain ASCII). */
static Str replace_runs(Str s, char c, Str by)
{
    Text out = {0};
    const char *p = s.s, *end = s.s + s.n;
    text_room(&out, s.n);
    while (p < end) {
        const char *from = p;
        while (p < end && *p == c) p++;
        if (p - from > 1) { text_add(&out, by.s, by.n); continue; }
        while (p < end && *p != c) p++;
        text_add(&out, from, (size_t)(p - from));
    }
    return text_str(&out);
}

/* === BertNormalizer =========================================================================== */

/* As the reference has it: 2B820 to 2B91F are left out, perhaps by a slip of the pen. */
static bool is_chinese(uint32_t c)
{
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF)
        || (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B81F)
        || (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF)
        || (c >= 0x2F800 && c <= 0x2FA1F);
}

static Str bert_ascii(const Tokenizer *t, Str s, const NormStep *step)
{
    Text out = {0};
    char *to = text_room(&out, s.n);
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = (uint8_t)s.s[i];
        if (step->clean && (t->cls[c] & U_BERT_CLEAN)) continue;
        if (step->clean && is_space(t, c)) c = ' ';
        to[out.n++] = (char)(step->lower && c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    return text_str(&out);
}

static Str bert_clean(const Tokenizer *t, Str s, const NormStep *step)
{
    Text out = {0};
    const char *p = s.s, *end = s.s + s.n;
    text_room(&out, s.n);
    while (p < end) {
        uint32_t c = utf8_next(&p);
        if (step->clean && (t->cls[c] & U_BERT_CLEAN)) continue;
        if (step->clean && is_space(t, c)) c = ' ';
        bool chinese = step->chinese && is_chinese(c);
        if (chinese) text_put(&out, ' ');
        text_put(&out, c);
        if (chinese) text_put(&out, ' ');
    }
    return text_str(&out);
}

static Str bert(const Tokenizer *t, Str s, const NormStep *step)
{
    if (is_ascii(s)) return bert_ascii(t, s, step);
    s = bert_clean(t, s, step);
    if (step->accents) s = without(t, unicode_form(t, s, false, false), U_BERT_MARK);
    return step->lower ? lowercase(s) : s;
}

/* === All of them ============================================================================== */

static Str replace(Str s, const NormStep *step)
{
    Text out = {0};
    text_replace(&out, s, step->what, step->by);
    return text_str(&out);
}

static Str prepend(Str s, Str by)
{
    Text out = {0};
    if (s.n == 0) return s;
    text_add(&out, by.s, by.n);
    text_add(&out, s.s, s.n);
    return text_str(&out);
}

Str normalize(const Tokenizer *t, Str s)
{
    for (int i = 0; i < t->n_norm; i++) {
        const NormStep *step = &t->norm[i];
        switch (step->kind) {
        case NORM_NFC:            s = unicode_form(t, s, false, true); break;
        case NORM_NFD:            s = unicode_form(t, s, false, false); break;
        case NORM_NFKC:           s = unicode_form(t, s, true, true); break;
        case NORM_NFKD:           s = unicode_form(t, s, true, false); break;
        case NORM_LOWER:          s = lowercase(s); break;
        case NORM_STRIP:          s = strip(t, s, step->left, step->right); break;
        case NORM_STRIP_ACCENTS:  s = without(t, s, U_MARK); break;
        case NORM_REPLACE:        s = replace(s, step); break;
        case NORM_REPLACE_SPACES: s = replace_spaces(t, s, step->by); break;
        case NORM_REPLACE_RUNS:   s = replace_runs(s, ' ', step->by); break;
        case NORM_PRECOMPILED:    s = precompiled_normalize(step, s); break;
        case NORM_SPM:            s = spm_normalize(t, step, s); break;
        case NORM_PREPEND:        s = prepend(s, step->by); break;
        case NORM_BERT:           s = bert(t, s, step); break;
        }
    }
    return s;
}
