/* pretok.c -- the pre-tokenizers: a text -> words, each of which the model sees alone.
 *
 * Each step cuts every word of the step before into smaller ones. The regular expressions that
 * occur in checkpoints are few, so each is a matcher written by hand, one step of the search per
 * word. Classes of characters: L letter, N number, S white space, O anything else (unicode.h).
 *
 *   BertPreTokenizer   words between S; punctuation stands alone
 *   Whitespace         \w+|[^\w\s]+
 *   ByteLevel          's|'t|'re|'ve|'m|'ll|'d| ?L+| ?N+| ?O+|\s+(?!\S)|\s+, then every byte
 *                      becomes a printable character (GPT-2's encoder.py)
 *   Split (Qwen, GPT-4)  contractions in any case | [^\r\nLN]?L+ | N | ?O+[\r\n]* | \s*[\r\n]+ |
 *                      \s+(?!\S) | \s+
 *   Metaspace          spaces become U+2581, which begins a word
 *   Split (CLIP)       's|'t|'re|'ve|'m|'ll|'d|L+|N|O+, what does not match is dropped
 *
 * Easy to get wrong:
 *   - A contraction is looked for only where a word may start: "'sad" is 's ad, "x!'s" is x !' s.
 *   - Combining marks are O: in CLIP's and GPT-2's patterns they end a word.
 *   - GPT-2: of a run of spaces before a word the last one belongs to the word. */
#include <string.h>

#include "machine.h"

static int kind_at(const Tokenizer *t, const char *s, const char **next)
{
    *next = s;
    return t->cls[utf8_next(next)] & U_KIND;
}

static void add_word(Words *w, const char *begin, const char *end)
{
    if (begin == end) return;
    if (w->n == w->cap) {
        size_t cap = add_size(mul_size(w->cap, 2), 64);
        Str *more = scratch_bytes(mul_size(cap, sizeof *more));
        if (w->n) memcpy(more, w->word, w->n * sizeof *more);
        w->word = more;
        w->cap = cap;
    }
    w->word[w->n++] = (Str){ begin, (size_t)(end - begin) };
}

/* === By classes of characters ================================================================= */

static void split_spaces(const Tokenizer *t, Str s, Words *out)
{
    const char *p = s.s, *end = s.s + s.n, *start = p, *next;
    for (; p < end; p = next) {
        if (kind_at(t, p, &next) != U_SPACE) continue;
        add_word(out, start, p);
        start = next;
    }
    add_word(out, start, end);
}

/* Punctuation stands alone; spaces go, if told so. */
static void split_punct(const Tokenizer *t, Str s, bool drop_spaces, Words *out)
{
    const char *p = s.s, *end = s.s + s.n, *start = p, *next;
    for (; p < end; p = next) {
        bool space = kind_at(t, p, &next) == U_SPACE && drop_spaces;
        const char *c = p;
        bool punct = t->cls[utf8_next(&c)] & U_PUNCT;
        if (!space && !punct) continue;
        add_word(out, start, p);
        if (punct) add_word(out, p, next);
        start = next;
    }
    add_word(out, start, end);
}

/* Runs of \w, and runs of what is neither \w nor space. */
static void split_words(const Tokenizer *t, Str s, Words *out)
{
    const char *p = s.s, *end = s.s + s.n, *start = p, *next;
    int last = -1;
    for (; p < end; p = next) {
        next = p;
        uint8_t cls = t->cls[utf8_next(&next)];
        int group = cls & U_WORD ? 1 : (cls & U_KIND) == U_SPACE ? 0 : 2;
        if (group != last) {
            if (last > 0) add_word(out, start, p);
            start = p;
            last = group;
        }
    }
    if (last > 0) add_word(out, start, end);
}

/* === By pattern =============================================================================== */

/* The end of the run of characters of one kind that starts at p. */
static const char *run(const Tokenizer *t, const char *p, const char *end, int kind)
{
    const char *next;
    while (p < end && kind_at(t, p, &next) == kind) p = next;
    return p;
}

/* Length of 's 't 're 've 'm 'll 'd at p, or 0. */
static size_t contraction(const char *p, const char *end)
{
    if (*p != '\'' || end - p < 2) return 0;
    if (strchr("stmd", p[1]) && p[1]) return 2;
    if (end - p < 3) return 0;
    bool three = !memcmp(p + 1, "re", 2) || !memcmp(p + 1, "ve", 2) || !memcmp(p + 1, "ll", 2);
    return three ? 3 : 0;
}

/* Of a run of spaces from p to e the last one leads the next word, if there is one, but a single
 * space that does not is a word of its own: \s+(?!\S)|\s+ */
static const char *without_last(const char *p, const char *e, const char *end)
{
    const char *last = e;
    if (e == end) return e;
    do last--; while ((*last & 0xC0) == 0x80);
    return last == p ? e : last;
}

static const char *gpt2_word(const Tokenizer *t, const char *p, const char *end)
{
    const char *next, *word = p;
    size_t n = contraction(p, end);
    if (n) return p + n;
    if (*p == ' ' && p + 1 < end && kind_at(t, p + 1, &next) != U_SPACE) word = p + 1;
    int kind = kind_at(t, word, &next);
    if (kind != U_SPACE) return run(t, word, end, kind);
    return without_last(p, run(t, p, end, U_SPACE), end);
}

/* As contraction, in capitals too; the long s, U+017F, is one as well. */
static size_t any_contraction(const char *p, const char *end)
{
    char low[3] = { 0 };
    if (*p != '\'' || end - p < 2) return 0;
    if (end - p >= 3 && memcmp(p + 1, "\xC5\xBF", 2) == 0) return 3;
    for (int i = 0; i < 3 && p + i < end; i++)
        low[i] = (char)(p[i] >= 'A' && p[i] <= 'Z' ? p[i] + 32 : p[i]);
    return contraction(low, low + (end - p < 3 ? end - p : 3));
}

/* The end of a word of Qwen's pattern, which is GPT-4's but for the number of digits. */
static const char *qwen_word(const Tokenizer *t, const char *p, const char *end, int digits)
{
    const char *next, *after, *word = p;
    size_t n = any_contraction(p, end);
    if (n) return p + n;
    int kind = kind_at(t, p, &next);
    if (kind == U_LETTER) return run(t, p, end, U_LETTER);
    bool newline = *p == '\r' || *p == '\n';
    if (kind != U_NUMBER && !newline && next < end && kind_at(t, next, &after) == U_LETTER)
        return run(t, next, end, U_LETTER);
    if (kind == U_NUMBER) {
        while (--digits > 0 && next < end && kind_at(t, next, &after) == U_NUMBER) next = after;
        return next;
    }
    if (*p == ' ' && next < end && kind_at(t, next, &after) == 0) word = next;
    if (kind_at(t, word, &after) == 0) {
        p = run(t, word, end, 0);
        while (p < end && (*p == '\r' || *p == '\n')) p++;
        return p;
    }
    const char *e = run(t, p, end, U_SPACE), *line = e;
    while (line > p && line[-1] != '\r' && line[-1] != '\n') line--;
    return line > p ? line : without_last(p, e, end);
}

static void split_qwen(const Tokenizer *t, Str s, int digits, Words *out)
{
    const char *p = s.s, *end = s.s + s.n, *next;
    for (; p < end; p = next) {
        next = qwen_word(t, p, end, digits);
        add_word(out, p, next);
    }
}

static size_t clip_special(const char *p, const char *end)
{
    static const char *const NAME[] = { "<|startoftext|>", "<|endoftext|>" };
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(NAME[i]);
        if ((size_t)(end - p) >= n && memcmp(p, NAME[i], n) == 0) return n;
    }
    return 0;
}

static void split_clip(const Tokenizer *t, Str s, bool specials, Words *out)
{
    const char *p = s.s, *end = s.s + s.n, *next;
    while (p < end) {
        int kind = kind_at(t, p, &next);
        if (kind == U_SPACE) { p = next; continue; }
        size_t n = specials ? clip_special(p, end) : 0;
        if (n == 0) n = contraction(p, end);
        if (n) next = p + n;
        else if (kind != U_NUMBER) next = run(t, p, end, kind);
        add_word(out, p, next);
        p = next;
    }
}

/* === Bytes ==================================================================================== */

enum { N_LOW = 33, N_MIDDLE = 34 };          /* 0-32, 127-160 and 173 have no printable character */

int byte_char(int byte)
{
    if (byte < N_LOW) return 256 + byte;
    if (byte >= 127 && byte < 127 + N_MIDDLE) return 256 + N_LOW + byte - 127;
    return byte == 173 ? 256 + N_LOW + N_MIDDLE : byte;
}

int char_byte(uint32_t c)
{
    if (c < 256) return byte_char((int)c) == (int)c ? (int)c : -1;
    if (c < 256 + N_LOW) return (int)c - 256;
    if (c < 256 + N_LOW + N_MIDDLE) return (int)c - 256 - N_LOW + 127;
    return c == 256 + N_LOW + N_MIDDLE ? 173 : -1;
}

/* The text has room: nothing moves, and words may point into it. */
static void add_bytes(Text *text, const char *s, const char *end, Words *out)
{
    char *start = text->s + text->n, *to = start;
    for (; s < end; s++) to += utf8_put(to, (uint32_t)byte_char((uint8_t)*s));
    text->n += (size_t)(to - start);
    add_word(out, start, to);
}

static Words byte_level(const Tokenizer *t, const Words *in, const PreStep *step)
{
    size_t room = 0;
    Words out = {0};
    Text text = {0};
    for (size_t i = 0; i < in->n; i++)
        room = add_size(room, mul_size(2, add_size(in->word[i].n, 1)));
    text_room(&text, room);
    for (size_t i = 0; i < in->n; i++) {
        Str s = in->word[i];
        if (step->prefix_space && s.s[0] != ' ') {
            Text with = {0};
            text_add(&with, " ", 1);
            text_add(&with, s.s, s.n);
            s = text_str(&with);
        }
        const char *p = s.s, *end = s.s + s.n, *next;
        for (; p < end; p = next) {
            next = step->split ? gpt2_word(t, p, end) : end;
            add_bytes(&text, p, next, &out);
        }
    }
    return out;
}

/* === Metaspace ================================================================================ */

Words cut_at_marks(const Words *in)
{
    Words out = {0};
    for (size_t i = 0; i < in->n; i++) {
        Str mark = SPACE_MARK, s = in->word[i];
        const char *p = s.s, *end = s.s + s.n, *start = p;
        while ((p = memmem(p, (size_t)(end - p), mark.s, mark.n))) {
            add_word(&out, start, p);
            start = p;
            while ((size_t)(end - p) >= mark.n && memcmp(p, mark.s, mark.n) == 0) p += mark.n;
        }
        add_word(&out, start, end);
    }
    return out;
}

/* Spaces become marks, one may come in front, and each then begins a word. */
static void metaspace(Str s, const PreStep *step, bool first, Words *out)
{
    Text marked = {0};
    Str mark = step->mark;
    bool wanted = step->prepend == PREPEND_ALWAYS || (step->prepend == PREPEND_FIRST && first);
    bool there = s.s[0] == ' ' || (s.n >= mark.n && memcmp(s.s, mark.s, mark.n) == 0);
    if (wanted && !there) text_add(&marked, mark.s, mark.n);
    text_replace(&marked, s, STR(" "), mark);
    const char *start = marked.s, *end = marked.s + marked.n, *p = start;
    while (step->split && (p = memmem(p, (size_t)(end - p), mark.s, mark.n))) {
        add_word(out, start, p);
        start = p;
        p += mark.n;
    }
    add_word(out, start, end);
}

/* === All of them ============================================================================== */

Words pre_tokenize(const Tokenizer *t, Str s, bool first)
{
    Words in = {0};
    add_word(&in, s.s, s.s + s.n);
    for (int i = 0; i < t->n_pre; i++) {
        const PreStep *step = &t->pre[i];
        Words out = {0};
        if (step->kind == PRE_BYTES) out = byte_level(t, &in, step);
        for (size_t k = 0; k < in.n && step->kind != PRE_BYTES; k++) {
            switch (step->kind) {
            case PRE_BERT:   split_punct(t, in.word[k], true, &out); break;
            case PRE_PUNCT:  split_punct(t, in.word[k], false, &out); break;
            case PRE_SPACES: split_spaces(t, in.word[k], &out); break;
            case PRE_WORDS:  split_words(t, in.word[k], &out); break;
            case PRE_CLIP:   split_clip(t, in.word[k], step->specials, &out); break;
            case PRE_QWEN:   split_qwen(t, in.word[k], step->digits, &out); break;
            case PRE_METASPACE:
                metaspace(in.word[k], step, first && in.word[k].s == s.s, &out);
                break;
            case PRE_BYTES:  break;
            }
        }
        in = out;
    }
    return in;
}
