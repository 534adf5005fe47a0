/* test/fuzz/vocabulary.c -- any bytes as a SentencePiece model (tokenizer.model, spiece.model) or,
 * if they do not begin as one does, as a qwen.tiktoken; if it loads, a text with everything in it
 * and the end of the input are encoded, and decoded again at once and id by id. */
#include "fuzz.h"

/* A zero byte ends what comes back early. */
static bool has_zero(const Tokenizer *t, Ids ids)
{
    for (int i = 0; i < ids.n; i++) {
        size_t n;
        const char *s = tok_piece(t, ids.id[i], &n);
        if (memchr(s, 0, n) || (n == 6 && memcmp(s, "<0x00>", 6) == 0)) return true;
    }
    return false;
}

static void use(const Tokenizer *t, const char *text, size_t n, int flags)
{
    Ids ids = tok_encode(t, text, n, flags);
    for (int i = 0; i < ids.n; i++)
        if (ids.id[i] < 0 || ids.id[i] >= tok_size(t)) bug("id %d of %d", ids.id[i], tok_size(t));
    char *back = tok_decode(t, ids.id, ids.n, flags & TOK_SPECIAL);
    if (strlen(back) > ((size_t)1 << 24)) bug("a text of %zu bytes", strlen(back));
    TokStream s = tok_stream(t, flags & TOK_SPECIAL);
    size_t at = 0, n_back = strlen(back);
    for (int i = 0; i <= ids.n; i++) {
        const char *part = i < ids.n ? tok_stream_put(&s, ids.id[i]) : tok_stream_end(&s);
        size_t len = strlen(part);
        bool same = at + len <= n_back && memcmp(back + at, part, len) == 0;
        if (!same && !has_zero(t, ids)) bug("decoded at once \"%s\", then \"%s\"", back, part);
        at += len;
    }
}

static void read_input(const uint8_t *bytes, size_t n)
{
    static const char text[] = "A photo of Zo\xc3\xab\xe2\x80\x99s  cat: caf\x65\xcc\x81, "
        "\xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80\xef\xb8\x8f </s> <unk> don't 3.14 \xef\xac\x81"
        "\t\r\n\xff\xed\xa0\x80 !\xe2\x96\x81";
    Tokenizer *t = n && *bytes == '\n' ? tok_parse_spm("fuzz.model", (const char *)bytes, n)
                                       : tok_parse_tiktoken("fuzz", (const char *)bytes, n);
    size_t tail = n < 64 ? n : 64;
    use(t, text, sizeof text - 1, TOK_SPECIAL);
    use(t, (const char *)bytes + n - tail, tail, TOK_RAW);
    use(t, "", 0, TOK_SPECIAL | TOK_RAW);
    const TokPart part[] = { { text, 20, false }, { text + 20, 40, true } };
    tok_encode_parts(t, part, 2, TOK_SPECIAL);
}
