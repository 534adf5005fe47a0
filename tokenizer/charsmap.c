/* charsmap.c -- SentencePiece's normaliser: text -> text by a compiled table of replacements, and
 * the treatment of blanks (Kudo and Richardson 2018, arXiv 1808.06226; sentencepiece's Normalizer,
 * the `tokenizers` crate's Precompiled).
 *
 * The table ("precompiled_charsmap") is a double array of 32-bit units, a trie over bytes, and a
 * pool of zero-terminated replacements:
 *
 *   [bytes of the units][unit 0]..[unit n-1][replacement\0 replacement\0 ..]
 *   unit: bits 0-7 label, 8 a value hangs here, 9 the offset is shifted by 8, 10-31 offset;
 *         of a value: bits 0-30, its place in the pool, and bit 31 set
 *   from the node at `pos`, byte c leads to pos ^ offset ^ c, if the label there is c
 *
 * It is read as it is; every place is checked when it is looked at.
 *
 * sentencepiece replaces the longest match at each position. The crate cuts the text into grapheme
 * clusters first and replaces a whole cluster of less than six bytes by what its shortest prefix in
 * the table gives; larger ones go character by character. So U+FB01 with a mark loses the mark.
 *
 * Easy to get wrong:
 *   - Blanks are dropped (remove_extra_whitespaces) by what the table makes of them: a tab is one
 *     if the table says so.
 *   - What the user defined as a piece is not normalised.
 *   - A text of blanks only gives nothing, not even the blank in front (add_dummy_prefix). */
#include <string.h>

#include "machine.h"

enum { MAX_GROWTH = 64 };            /* bytes for one byte; real tables have eleven at most */

static uint32_t unit_at(const Charsmap *m, size_t i)
{
    uint32_t u = 0;
    if (i < m->n_units) memcpy(&u, m->units + 4 * i, 4);
    return u;
}

static size_t offset_of(uint32_t unit) { return (size_t)(unit >> 10) << ((unit & 0x200) >> 6); }

Charsmap charsmap_open(const char *name, Str blob)
{
    uint32_t size = 0;
    if (blob.n == 0) return (Charsmap){0};
    if (blob.n >= 4) memcpy(&size, blob.s, 4);
    if (blob.n < 8 || size % 4 || size < 4 || size > blob.n - 4)
        die(EXIT_FILE, "%s: its precompiled_charsmap says that its table has %u of %zu bytes", name,
            size, blob.n);
    Charsmap m = { name, blob.s + 4, size / 4, { blob.s + 4 + size, blob.n - 4 - size } };
    for (size_t i = 0; i < m.pool.n; ) {
        int bad, len = utf8_check(m.pool.s + i, m.pool.n - i, &bad);
        if (!len) die(EXIT_FILE, "%s: byte %zu of its precompiled_charsmap's replacements is not"
                      " UTF-8", name, i);
        i += (size_t)len;
    }
    if (m.pool.n && m.pool.s[m.pool.n - 1])
        die(EXIT_FILE, "%s: its precompiled_charsmap does not end with a zero byte", name);
    return m;
}

/* What hangs at a node, if it is a replacement of something of len bytes. */
static bool value_at(const Charsmap *m, size_t pos, size_t len, Str *by)
{
    size_t place = unit_at(m, pos) & 0x7FFFFFFF;
    if (place >= m->pool.n || (m->pool.s[place] & 0xC0) == 0x80) return false;
    *by = str_of(m->pool.s + place);
    if (by->n > MAX_GROWTH * len)
        die(EXIT_FILE, "%s: its precompiled_charsmap replaces %zu bytes by %zu, expected at most %d"
            " times as many", m->name, len, by->n, MAX_GROWTH);
    return true;
}

/* Length of the longest (or the shortest) prefix of s that the table has; 0: none. What ends inside
 * a character does not count. */
static size_t replacement(const Charsmap *m, Str s, bool longest, Str *by)
{
    size_t found = 0, pos = m->n_units ? offset_of(unit_at(m, 0)) : 0;
    for (size_t i = 0; m->n_units && i < s.n && s.s[i]; i++) {
        pos ^= (uint8_t)s.s[i];
        uint32_t u = unit_at(m, pos);
        if (pos >= m->n_units || (u & 0x800000FF) != (uint8_t)s.s[i]) break;
        pos ^= offset_of(u);
        bool inside = i + 1 < s.n && (s.s[i + 1] & 0xC0) == 0x80;      /* a character */
        if ((u >> 8 & 1) && !inside && value_at(m, pos, i + 1, by)) found = i + 1;
        if (found && !longest) break;
    }
    return found;
}

/* === sentencepiece ============================================================================ */

/* What the text at s becomes; returns how much of it that was. */
static size_t spm_prefix(const Tokenizer *t, const NormStep *step, Str s, Str *by)
{
    const Pattern *p = matcher_longest(&t->model.user, s.s, s.n);
    if (p) {
        *by = p->pattern;
        return p->pattern.n;
    }
    size_t n = replacement(&step->map, s, true, by);
    if (n) return n;
    const char *end = s.s;
    utf8_next(&end);
    *by = (Str){ s.s, (size_t)(end - s.s) };
    return by->n;
}

static bool ends_with(const Text *t, Str tail)
{
    return t->n >= tail.n && memcmp(t->s + t->n - tail.n, tail.s, tail.n) == 0;
}

static Str after(Str s, size_t n) { return (Str){ s.s + n, s.n - n }; }

Str spm_normalize(const Tokenizer *t, const NormStep *step, Str s)
{
    Text out = {0};
    Str by, mark = step->escape ? SPACE_MARK : STR(" ");
    size_t n;
    for (; step->squeeze && s.n; s = after(s, n)) {
        n = spm_prefix(t, step, s, &by);
        if (!str_eq(by, STR(" "))) break;
    }
    if (s.n == 0) return s;
    text_room(&out, s.n + mark.n);
    if (step->dummy) text_add(&out, mark.s, mark.n);
    for (bool blank = step->squeeze; s.n; s = after(s, n)) {
        n = spm_prefix(t, step, s, &by);
        while (blank && by.n && by.s[0] == ' ') by = after(by, 1);
        if (by.n == 0) continue;
        for (size_t i = 0; i < by.n; i++) {
            if (by.s[i] == ' ') text_add(&out, mark.s, mark.n);
            else                text_add(&out, by.s + i, 1);
        }
        blank = step->squeeze && by.s[by.n - 1] == ' ';
    }
    while (step->squeeze && ends_with(&out, mark)) out.n -= mark.n;
    return text_str(&out);
}

/* === The crate's Precompiled ================================================================== */

static bool precompiled_one(const Charsmap *m, Str s, Text *out)
{
    Str by;
    if (!replacement(m, s, false, &by)) return false;
    text_add(out, by.s, by.n);
    return true;
}

Str precompiled_normalize(const NormStep *step, Str s)
{
    Text out = {0};
    text_room(&out, s.n);
    for (size_t at = 0, n; at < s.n; at += n) {
        n = cluster_length(s.s + at, s.n - at);
        if (n < 6 && precompiled_one(&step->map, (Str){ s.s + at, n }, &out)) continue;
        for (size_t i = 0, len; i < n; i += len) {
            const char *c = s.s + at + i, *end = c;
            utf8_next(&end);
            len = (size_t)(end - c);
            if (!precompiled_one(&step->map, (Str){ c, len }, &out)) text_add(&out, c, len);
        }
    }
    return text_str(&out);
}
