/* test/fuzz/tokenizer.c -- any bytes as a tokenizer.json; if it loads, a text with everything in it
 * and the end of the input are encoded, alone and as a pair, and decoded again. */
#include "fuzz.h"

static void check_ids(const Tokenizer *t, Ids ids, int flags)
{
    for (int i = 0; i < ids.n; i++)
        if (ids.id[i] < 0 || ids.id[i] >= tok_size(t)) bug("id %d of %d", ids.id[i], tok_size(t));
    char *back = tok_decode(t, ids.id, ids.n, flags & TOK_SPECIAL);
    if (strlen(back) > ((size_t)1 << 24)) bug("a text of %zu bytes", strlen(back));
}

static void use(const Tokenizer *t, const char *text, size_t n, int flags)
{
    check_ids(t, tok_encode(t, text, n, flags), flags);
}

static void read_input(const uint8_t *bytes, size_t n)
{
    static const char text[] = "A photo of Zo\xc3\xab\xe2\x80\x99s  cat: caf\x65\xcc\x81, "
        "\xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80\xef\xb8\x8f [MASK]<|endoftext|> don't 3.14"
        "\t\r\n\xff\xed\xa0\x80 \0!";
    Tokenizer *t = tok_parse("fuzz.json", (const char *)bytes, n);
    size_t tail = n < 64 ? n : 64;
    use(t, text, sizeof text - 1, TOK_SPECIAL);
    use(t, (const char *)bytes + n - tail, tail, TOK_RAW);
    use(t, "", 0, TOK_SPECIAL | TOK_RAW);
    const char *end = (const char *)bytes + n - tail;
    check_ids(t, tok_encode_pair(t, text, sizeof text - 1, end, tail, TOK_SPECIAL), TOK_SPECIAL);
    check_ids(t, tok_encode_pair(t, end, tail, "", 0, TOK_RAW), TOK_RAW);
    const int some[] = { -1, 0, 1, tok_size(t) - 1, tok_size(t), 2, 1 << 30 };
    tok_decode(t, some, sizeof some / sizeof *some, n % 2);
    tok_id(t, "[CLS]");
    size_t len;
    for (int i = -1; i < tok_size(t) + 1 && i < 1000; i++) tok_piece(t, i, &len);
}
