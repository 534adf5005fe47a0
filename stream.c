/* stream.c -- text as a model writes it: tokens in, whole characters out, up to a stop string.
 *
 *   id -> tok_stream_put -> text so far: [ written | held back | ]
 *   a stop string is searched for in what is not written yet; the longest end of the text that may
 *   still become one is held back; the rest is written at once
 *
 * Easy to get wrong:
 *   - What a token says depends on what stands before it: the first word of a text has no blank in
 *     front, the next one has.
 *   - A stop string may come in several tokens, begin in the middle of one, and end in the middle
 *     of another.
 *   - Of several that are complete the one that begins first counts. */
#include <string.h>

#include "mm.h"

struct Stream {
    TokStream   tok;
    const char *const *stop;
    int         n_stop;
    void      (*write)(void *ctx, const char *text, size_t n);
    void       *ctx;
    char       *text;                /* zero-terminated */
    size_t      n, room, n_written;
    bool        stopped;
};

Stream *stream_new(const Tokenizer *t, const char *const *stop, int n_stop,
                   void (*write)(void *ctx, const char *text, size_t n), void *ctx)
{
    Stream *s = scratch_bytes(sizeof *s);
    *s = (Stream){ .tok = tok_stream(t, true), .stop = stop, .n_stop = n_stop, .write = write,
                   .ctx = ctx, .text = scratch_bytes(1024), .room = 1024 };
    s->text[0] = 0;
    return s;
}

/* What the tokenizer hands out lies in scratch: it is taken over and given back, unless the text
 * has to move behind it. */
static void append(Stream *s, const char *more, size_t mark)
{
    size_t n = strlen(more), need = add_size(add_size(s->n, n), 1);
    bool fits = need <= s->room;
    if (!fits) {
        s->room = mul_size(need, 2);
        char *text = scratch_bytes(s->room);
        memcpy(text, s->text, s->n);
        s->text = text;
    }
    memcpy(s->text + s->n, more, n + 1);
    s->n += n;
    if (fits) scratch_reset(mark);
}

/* Cuts the text off before the first stop string in what is not written yet. */
static void find_stop(Stream *s)
{
    size_t best = s->n;
    for (int i = 0; i < s->n_stop; i++) {
        const char *from = s->text + s->n_written, *at = *s->stop[i] ? strstr(from, s->stop[i])
                                                                     : NULL;
        if (!at || (size_t)(at - s->text) >= best) continue;
        best = (size_t)(at - s->text);
        s->stopped = true;
    }
    s->n = best;
    s->text[best] = 0;
}

/* Bytes at the end of the text that may become a stop string. */
static size_t held_back(const Stream *s)
{
    size_t most = 0, have = s->n - s->n_written;
    for (int i = 0; i < s->n_stop; i++) {
        size_t len = strlen(s->stop[i]), k = len ? len - 1 : 0;
        if (k > have) k = have;
        while (k > most && memcmp(s->text + s->n - k, s->stop[i], k)) k--;
        if (k > most) most = k;
    }
    return most;
}

static void write_up_to(Stream *s, size_t end)
{
    if (s->write && end > s->n_written)
        s->write(s->ctx, s->text + s->n_written, end - s->n_written);
    s->n_written = end;
}

void stream_follow(Stream *s, const int *id, int n)
{
    for (int i = 0; i < n; i++) {
        size_t mark = scratch_mark();
        if (id[i] >= 0) tok_stream_put(&s->tok, id[i]);
        scratch_reset(mark);
    }
}

bool stream_put(void *stream, int id)
{
    Stream *s = stream;
    if (s->stopped) return false;
    size_t mark = scratch_mark();
    append(s, tok_stream_put(&s->tok, id), mark);
    find_stop(s);
    write_up_to(s, s->n - (s->stopped ? 0 : held_back(s)));
    return !s->stopped;
}

const char *stream_end(Stream *s, size_t *n)
{
    size_t mark = scratch_mark();
    if (!s->stopped) {
        append(s, tok_stream_end(&s->tok), mark);
        find_stop(s);
    }
    write_up_to(s, s->n);
    if (n) *n = s->n;
    return s->text;
}

bool stream_stopped(const Stream *s) { return s->stopped; }
