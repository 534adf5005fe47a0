/* legacy.c -- vocabularies in the files that were there before tokenizer.json.
 *
 *   vocab.txt       a piece a line, its number is the id (BERT)
 *   merges.txt      "left right" a line, in the order of their ranks (CLIP, GPT-2, OPT, Qwen 2)
 *   qwen.tiktoken   "base64 rank" a line: the bytes of a piece; any two neighbours merge whose
 *                   concatenation is a piece, the lowest rank first, and the rank is the id
 *                   (tiktoken, Qwen v1's tokenization_qwen.py)
 *
 * The pieces of a tiktoken file become strings of GPT-2's printable characters, one for each byte,
 * so that all else is as in byte-level BPE.
 *
 * Easy to get wrong:
 *   - vocab.txt: white space at the end of a line does not count, and of equal lines the last wins.
 *   - merges.txt: lines that begin with "#version" are skipped, wherever they are; a merge may
 *     begin with # itself.
 *   - tiktoken looks a whole word up before it merges anything. */
#include <string.h>

#include "machine.h"

/* The next line of a text, without its end; false when there is none. */
static bool next_line(const char **s, const char *end, Str *line)
{
    if (*s >= end) return false;
    const char *stop = memchr(*s, '\n', (size_t)(end - *s));
    *line = (Str){ *s, (size_t)((stop ? stop : end) - *s) };
    *s = stop ? stop + 1 : end;
    if (stop && line->n && line->s[line->n - 1] == '\r') line->n--;
    return true;
}

static void need_utf8(const char *name, const char *s, size_t n)
{
    for (size_t i = 0; i < n; ) {
        int bad, len = utf8_check(s + i, n - i, &bad);
        if (!len) die(EXIT_FILE, "%s: byte %zu is not UTF-8", name, i);
        i += (size_t)len;
    }
}

/* How many lines there are at most. */
static int count_lines(const char *s, size_t n)
{
    int lines = 1;                           /* n: MAX_FILE at most */
    for (size_t i = 0; i < n; i++) lines += s[i] == '\n';
    return lines;
}

Tokenizer *load_vocab_txt(const char *name, const char *text, size_t n)
{
    Tokenizer *t = tok_new(name);
    const char *s = text, *end = text + n;
    Str line;
    need_utf8(t->name, text, n);
    vocab_init(&t->vocab, count_lines(text, n));
    for (int id = 0; next_line(&s, end, &line); id++) {
        while (line.n) {
            const char *tail = line.s + line.n;
            uint32_t c = utf8_before(line.s, tail);
            if ((t->cls[c] & U_KIND) != U_SPACE) break;
            do tail--; while ((*tail & 0xC0) == 0x80);
            line.n = (size_t)(tail - line.s);
        }
        vocab_put(&t->vocab, t->name, line, id);
    }
    t->kind = MODEL_WORDPIECE;
    return t;
}

void read_merges(Tokenizer *t, const char *dir)
{
    size_t n;
    const char *name = keep_string("%s/merges.txt", quoted(dir));
    const char *text = model_file(dir, "merges.txt", MAX_FILE, &n), *s = text, *end = text + n;
    if (!text) die(EXIT_FILE, "%s: merges.txt is missing beside it", t->name);
    Str line;
    need_utf8(name, text, n);
    bpe_init(t, count_lines(text, n));
    for (int rank = 0, at = 1; next_line(&s, end, &line); at++) {
        if (line.n >= 8 && memcmp(line.s, "#version", 8) == 0) continue;
        const char *space = memchr(line.s, ' ', line.n);
        size_t n_left = space ? (size_t)(space - line.s) : line.n;
        Str left = { line.s, n_left }, right = { line.s + n_left + 1, line.n - n_left - 1 };
        if (!space || memchr(right.s, ' ', right.n))
            die(EXIT_FILE, "%s: line %d is \"%s\", expected two pieces and a space between them",
                name, at, quoted_n(line.s, line.n));
        if (!bpe_merge(t, left, right, rank++))
            die(EXIT_FILE, "%s: line %d merges \"%s\", but vocab.json lacks a piece or the result",
                name, at, quoted_n(line.s, line.n));
    }
}

/* === tiktoken ================================================================================= */

/* "base64 rank"; the piece in printable characters at out, which has room. */
static Str tiktoken_line(const Tokenizer *t, Str line, int at, char *out, int64_t *rank)
{
    const char *space = memchr(line.s, ' ', line.n), *end = line.s + line.n;
    size_t n_bytes = 0, n = 0, n_code = space ? (size_t)(space - line.s) : 0;
    char bytes[3 * MAX_CONTENT];
    *rank = -1;
    if (n_code && n_code <= 2 * MAX_CONTENT && base64(bytes, &n_bytes, (Str){ line.s, n_code })) {
        *rank = 0;
        for (const char *p = space + 1; p < end && *rank >= 0; p++)
            *rank = *p >= '0' && *p <= '9' && *rank < MAX_IDS ? *rank * 10 + (*p - '0') : -1;
        if (space + 1 == end) *rank = -1;
    }
    if (*rank < 0 || n_bytes == 0)
        die(EXIT_FILE, "%s: line %d is \"%s\", expected base64, a space and a rank", t->name, at,
            quoted_n(line.s, line.n));
    for (size_t i = 0; i < n_bytes; i++)
        n += (size_t)utf8_put(out + n, (uint32_t)byte_char((uint8_t)bytes[i]));
    return (Str){ out, n };
}

Tokenizer *tiktoken_parse(const char *name, const char *text, size_t n)
{
    Tokenizer *t = tok_new(name);
    const char *s = text, *end = text + n;
    Str line;
    int n_lines = count_lines(text, n), at = 1;
    char *pool = keep_bytes(add_size(mul_size(n, 3) / 2, 4));       /* 3/4 of the text, doubled */
    vocab_init(&t->vocab, n_lines);
    t->model.rank = keep_bytes(mul_size((size_t)n_lines + 1, sizeof *t->model.rank));
    for (; next_line(&s, end, &line); at++) {
        int64_t rank;
        if (line.n == 0) continue;
        Str piece = tiktoken_line(t, line, at, pool, &rank);
        int before = t->vocab.n_pieces;
        bool twice = rank < t->vocab.n_ids && t->vocab.of_id[rank];
        t->model.rank[before] = (int)rank;
        vocab_put(&t->vocab, t->name, piece, (int)rank);
        if (twice || t->vocab.n_pieces == before)
            die(EXIT_FILE, "%s: the piece or the rank of line %d is there twice", t->name, at);
        pool += piece.n;
    }
    if (t->vocab.n_pieces == 0) die(EXIT_FILE, "%s: there is no piece in it", t->name);
    t->kind = MODEL_BPE;
    t->model.ignore_merges = true;
    return t;
}
