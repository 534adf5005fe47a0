/* decode.c -- the decoders: pieces -> text.
 *
 * Each step turns the list of pieces into another; what is left at the end is put together without
 * anything in between. Without a decoder, spaces stand between the pieces.
 *
 * Easy to get wrong:
 *   - WordPiece's cleanup looks at one piece at a time, with the space that was put before it.
 *   - ByteLevel: a piece with any character that stands for no byte is taken as it is, whole.
 *   - Broken UTF-8 becomes U+FFFD: once per broken sequence in ByteLevel, once per byte in
 *     ByteFallback.
 *   - While ids come one by one, what a later one can still change must wait: the beginning of a
 *     character, and a run of byte pieces, which one bad byte turns into U+FFFD as a whole.
 *   - CLIPTokenizer goes over the text once more: "</w>" to space, then Python's strip(), for which
 *     U+001C to U+001F are spaces too. */
#include <string.h>

#include "machine.h"

typedef struct { Str *s; size_t n; } Pieces;

static bool starts_with(Str s, Str head)
{
    return s.n >= head.n && memcmp(s.s, head.s, head.n) == 0;
}

static Str replaced(Str s, Str what, Str by)
{
    Text out = {0};
    if (what.n == 0 || !memmem(s.s, s.n, what.s, what.n)) return s;
    text_replace(&out, s, what, by);
    return text_str(&out);
}

static Str fused(const Pieces *p)
{
    Text all = {0};
    for (size_t i = 0; i < p->n; i++) text_add(&all, p->s[i].s, p->s[i].n);
    return text_str(&all);
}

static Str clean_up(Str s)
{
    static const char *const FROM_TO[][2] = {
        { " .", "." }, { " ?", "?" }, { " !", "!" }, { " ,", "," }, { " ' ", "'" },
        { " n't", "n't" }, { " 'm", "'m" }, { " do not", " don't" }, { " 's", "'s" },
        { " 've", "'ve" }, { " 're", "'re" }
    };
    if (!memchr(s.s, ' ', s.n)) return s;
    for (size_t i = 0; i < sizeof FROM_TO / sizeof FROM_TO[0]; i++)
        s = replaced(s, str_of(FROM_TO[i][0]), str_of(FROM_TO[i][1]));
    return s;
}

static void decode_wordpiece(Pieces *p, const DecStep *step)
{
    for (size_t i = 0; i < p->n; i++) {
        Str s = p->s[i];
        if (i > 0 && starts_with(s, step->what)) {
            s.s += step->what.n;
            s.n -= step->what.n;
        } else if (i > 0) {
            Text with = {0};
            text_add(&with, " ", 1);
            text_add(&with, s.s, s.n);
            s = text_str(&with);
        }
        p->s[i] = step->cleanup ? clean_up(s) : s;
    }
}

/* Appends the bytes that s stands for, or s itself. */
static void add_bytes(Text *out, Str s)
{
    size_t start = out->n;
    for (const char *p = s.s; p < s.s + s.n; ) {
        int byte = char_byte(utf8_next(&p));
        if (byte < 0) {
            out->n = start;
            text_add(out, s.s, s.n);
            return;
        }
        char c = (char)byte;
        text_add(out, &c, 1);
    }
}

static void decode_bytes(Pieces *p)
{
    Text bytes = {0}, out = {0};
    for (size_t i = 0; i < p->n; i++) add_bytes(&bytes, p->s[i]);
    text_add_utf8(&out, bytes.s, bytes.n);
    p->s[0] = text_str(&out);
    p->n = 1;
}

static void decode_bpe(Pieces *p, const DecStep *step)
{
    for (size_t i = 0; i < p->n; i++)
        p->s[i] = replaced(p->s[i], step->what, i + 1 < p->n ? STR(" ") : STR(""));
}

/* The byte of a piece such as <0x0A>, or -1. */
static int fallback_byte(Str s)
{
    int byte = 0;
    if (s.n != 6 || memcmp(s.s, "<0x", 3) != 0 || s.s[5] != '>') return -1;
    for (int i = 3; i < 5; i++) {
        const char *digits = "0123456789abcdef", *d;
        char c = s.s[i];
        if (c >= 'A' && c <= 'F') c = (char)(c + 32);
        if (!c || !(d = strchr(digits, c))) return -1;
        byte = byte * 16 + (int)(d - digits);
    }
    return byte;
}

/* Bytes become text if they are UTF-8 as a whole, else one U+FFFD each. */
static void flush_bytes(Text *bytes, Pieces *out)
{
    bool good = true;
    for (size_t i = 0; good && i < bytes->n; ) {
        int bad, len = utf8_check(bytes->s + i, bytes->n - i, &bad);
        good = len > 0;
        i += (size_t)len;
    }
    Text text = {0};
    if (good) text_add(&text, bytes->s, bytes->n);
    for (size_t i = 0; !good && i < bytes->n; i++) text_put(&text, U_REPLACEMENT);
    if (bytes->n) out->s[out->n++] = text_str(&text);
    bytes->n = 0;
}

static void decode_byte_fallback(Pieces *p)
{
    Text bytes = {0};
    Pieces out = { p->s, 0 };                /* never longer than what was read */
    for (size_t i = 0; i < p->n; i++) {
        Str s = p->s[i];
        int byte = fallback_byte(s);
        char c = (char)byte;
        if (byte >= 0) { text_add(&bytes, &c, 1); continue; }
        flush_bytes(&bytes, &out);
        out.s[out.n++] = s;
    }
    flush_bytes(&bytes, &out);
    p->n = out.n;
}

static Str strip(Str s, const DecStep *step)
{
    for (int i = 0; i < step->start && s.n && starts_with(s, step->what); i++) {
        s.s += step->what.n;
        s.n -= step->what.n;
    }
    for (int i = 0; i < step->stop && s.n >= step->what.n; i++) {
        if (memcmp(s.s + s.n - step->what.n, step->what.s, step->what.n) != 0) break;
        s.n -= step->what.n;
    }
    return s;
}

static bool python_space(const Tokenizer *t, uint32_t c)
{
    return (t->cls[c] & U_KIND) == U_SPACE || (c >= 0x1C && c <= 0x1F);
}

static Str trim(const Tokenizer *t, Str s)
{
    const char *p = s.s, *end = s.s + s.n, *next = p;
    while (p < end && python_space(t, utf8_next(&next))) p = next;
    while (end > p && python_space(t, utf8_before(p, end)))
        do end--; while ((*end & 0xC0) == 0x80);
    return (Str){ p, (size_t)(end - p) };
}

/* Marks become spaces, but in the first piece they go. */
static void decode_metaspace(Pieces *p, const DecStep *step)
{
    for (size_t i = 0; i < p->n; i++)
        p->s[i] = replaced(p->s[i], step->what, i || !step->prepend ? STR(" ") : STR(""));
}

static void decode_step(const Tokenizer *t, const DecStep *step, Pieces *p)
{
    switch (step->kind) {
    case DEC_WORDPIECE: decode_wordpiece(p, step); break;
    case DEC_BYTES:     decode_bytes(p); break;
    case DEC_BPE:       decode_bpe(p, step); break;
    case DEC_METASPACE: decode_metaspace(p, step); break;
    case DEC_BYTE_FALLBACK: decode_byte_fallback(p); break;
    case DEC_FUSE:
        p->s[0] = fused(p);
        p->n = 1;
        break;
    case DEC_TRIM:
        p->s[0] = trim(t, replaced(fused(p), step->what, STR(" ")));
        p->n = 1;
        break;
    case DEC_REPLACE:
        for (size_t i = 0; i < p->n; i++) p->s[i] = replaced(p->s[i], step->what, step->by);
        break;
    case DEC_STRIP:
        for (size_t i = 0; i < p->n; i++) p->s[i] = strip(p->s[i], step);
        break;
    }
}

Text decode_pieces(const Tokenizer *t, Str *piece, size_t n)
{
    Text out = {0};
    Pieces p = { piece, n };
    for (int i = 0; i < t->n_dec && p.n; i++) decode_step(t, &t->dec[i], &p);
    for (size_t i = 0; i < p.n; i++) {
        if (i && t->n_dec == 0) text_add(&out, " ", 1);
        text_add(&out, p.s[i].s, p.s[i].n);
    }
    return out;
}

/* === One id after the other =================================================================== */

static bool makes_one(DecKind kind) { return kind == DEC_FUSE || kind == DEC_BYTES; }

/* The last step, if it strips the text as a whole. */
static const DecStep *last_strip(const Tokenizer *t)
{
    int n = t->n_dec;
    bool strips = n > 1 && t->dec[n - 1].kind == DEC_STRIP && makes_one(t->dec[n - 2].kind);
    return strips ? &t->dec[n - 1] : NULL;
}

/* Does no step look at the whole text before anything of it is certain? */
static bool streams(const Tokenizer *t)
{
    int n = t->n_dec - (last_strip(t) != NULL);
    for (int i = 0; i < t->n_dec; i++) {
        const DecStep *d = &t->dec[i];
        bool fuses_next = i + 1 < n && t->dec[i + 1].kind == DEC_FUSE;
        if (d->kind == DEC_BPE || d->kind == DEC_TRIM) return false;
        if (d->kind == DEC_STRIP && d->stop) return false;
        if (d->kind == DEC_BYTE_FALLBACK && !fuses_next) return false;
        if (makes_one(d->kind) && i + 1 < n) return false;
    }
    return true;
}

TokStream tok_stream(const Tokenizer *t, bool skip_special)
{
    const DecStep *strip_step = last_strip(t);
    if (!streams(t))
        die(EXIT_MODEL, "%s: its decoder needs the whole text, so that this tokenizer does not suit"
            " a model that writes", t->name);
    return (TokStream){ .tok = t, .skip_special = skip_special,
                        .strip = strip_step ? strip_step->start : 0 };
}

/* Takes the bytes that are held, as many as there is no doubt about: whole characters, and U+FFFD
 * for what can no more become one. all: no more bytes will come. */
static void release(TokStream *s, Text *out, bool all)
{
    int at = 0, bad;
    while (at < s->n_held) {
        int left = s->n_held - at, len = utf8_check(s->held + at, (size_t)left, &bad);
        uint8_t lead = (uint8_t)s->held[at];
        if (!len && bad == left && lead >= 0xC2 && lead <= 0xF4 && !all) break;  /* a beginning */
        if (len) text_add(out, s->held + at, (size_t)len);
        else     text_put(out, U_REPLACEMENT);
        at += len ? len : bad;
    }
    s->n_held -= at;
    memmove(s->held, s->held + at, (size_t)s->n_held);
}

/* The text of a run of byte pieces: all of it is UTF-8, or each byte is a U+FFFD. */
static void release_run(TokStream *s, Text *out)
{
    Text run = {0};
    Str piece;
    Pieces one = { &piece, 0 };
    text_add(&run, s->held, (size_t)s->n_held);
    flush_bytes(&run, &one);
    if (one.n) text_add(out, piece.s, piece.n);
    s->n_held = 0;
}

static void hold_byte(TokStream *s, Text *out, char c)
{
    if (s->n_held == (int)sizeof s->held) release_run(s, out);
    s->held[s->n_held++] = c;
}

static void hold_text(TokStream *s, Text *out, Str bytes)
{
    for (size_t i = 0; i < bytes.n; i++) {
        s->held[s->n_held++] = bytes.s[i];
        if (s->n_held == (int)sizeof s->held) release(s, out, false);
    }
    release(s, out, false);
}

/* Through the steps, the piece alone. */
static void stream_piece(TokStream *s, Text *out, Str piece)
{
    const Tokenizer *t = s->tok;
    int n = t->n_dec - (last_strip(t) != NULL);
    for (int i = 0; i < n; i++) {
        const DecStep *d = &t->dec[i];
        Str two[2] = { STR(""), piece };     /* the first piece of a text may be another case */
        Pieces p = s->started ? (Pieces){ two, 2 } : (Pieces){ two + 1, 1 };
        Text bytes = {0};
        int byte;
        switch (d->kind) {
        case DEC_FUSE: break;
        case DEC_BYTES:
            add_bytes(&bytes, piece);
            hold_text(s, out, text_str(&bytes));
            return;
        case DEC_BYTE_FALLBACK:
            if ((byte = fallback_byte(piece)) >= 0) { hold_byte(s, out, (char)byte); return; }
            release_run(s, out);
            break;
        default:
            decode_step(t, d, &p);
            piece = p.s[p.n - 1];
        }
    }
    if (t->n_dec == 0 && s->started) text_add(out, " ", 1);
    text_add(out, piece.s, piece.n);
}

/* The blanks that go in front of everything. */
static const char *strip_front(TokStream *s, Text *out)
{
    Str text = text_str(out);
    while (s->strip && text.n) {
        Str what = last_strip(s->tok)->what;
        if (!starts_with(text, what)) { s->strip = 0; break; }
        text.s += what.n;
        text.n -= what.n;
        s->strip--;
    }
    Text rest = {0};
    text_add(&rest, text.s, text.n);
    text_add(&rest, "", 1);
    return rest.s;
}

const char *tok_stream_put(TokStream *s, int id)
{
    Text out = {0};
    Str piece = shown_piece(s->tok, id, s->skip_special);
    if (piece.s) {
        stream_piece(s, &out, piece);
        s->started = true;
    }
    return strip_front(s, &out);
}

const char *tok_stream_end(TokStream *s)
{
    Text out = {0};
    bool bytes = false;
    for (int i = 0; i < s->tok->n_dec; i++) bytes |= s->tok->dec[i].kind == DEC_BYTES;
    if (bytes) release(s, &out, true);
    else       release_run(s, &out);
    return strip_front(s, &out);
}
