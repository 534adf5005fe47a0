/* unicode.h -- what the tokenizers need to know of Unicode, and UTF-8. Private to tokenizer/.
 *
 * The tables are what the components of the reference know (test/reference/tokenizer_probe.py), not
 * those of one Unicode version. */
#ifndef UNICODE_H
#define UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One byte for each code point: unicode_classes()[c]. The low two bits are the kind, the rest
 * flags. */
enum {
    U_KIND       = 3,        /* mask of the kinds: 0 other, */
    U_LETTER     = 1,        /* \p{L} */
    U_NUMBER     = 2,        /* \p{N} */
    U_SPACE      = 3,        /* White_Space, \s */
    U_PUNCT      = 4,        /* isolated by BertPreTokenizer and Punctuation */
    U_WORD       = 8,        /* \w */
    U_MARK       = 16,       /* dropped by StripAccents: M* */
    U_BERT_MARK  = 32,       /* dropped by BertNormalizer's strip_accents: Mn of an older Unicode */
    U_BERT_CLEAN = 64,       /* dropped by BertNormalizer's clean_text; comes before U_SPACE */
    U_COMPOSE    = 128       /* a text without any of these is in NFC already */
};

enum { U_MAX = 0x10FFFF, U_REPLACEMENT = 0xFFFD, U_MAX_DECOMPOSED = 18 };

/* The table, made at the first call. */
const uint8_t *unicode_classes(void);

uint32_t unicode_lower(uint32_t c);          /* one to one; U+0130 is up to the caller */
int      unicode_ccc(uint32_t c);            /* canonical combining class */
/* The full decomposition of c (itself, if it has none); returns its length. */
int      unicode_decompose(uint32_t c, bool compat, uint32_t out[U_MAX_DECOMPOSED]);
uint32_t unicode_compose(uint32_t a, uint32_t b);            /* 0: a and b stay two */

/* Bytes of the extended grapheme cluster that s begins with; n >= 1, valid UTF-8. */
size_t   cluster_length(const char *s, size_t n);

/* The code point at *s, which must be valid UTF-8; moves *s behind it. */
static inline uint32_t utf8_next(const char **s)
{
    const uint8_t *p = (const uint8_t *)*s;
    if (p[0] < 0x80) { *s += 1; return p[0]; }
    if (p[0] < 0xE0) { *s += 2; return (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu); }
    if (p[0] < 0xF0) {
        *s += 3;
        return (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    }
    *s += 4;
    return (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
}

/* The code point that ends before s; start <= result's start < s. */
static inline uint32_t utf8_before(const char *start, const char *s)
{
    do s--; while (s > start && (*s & 0xC0) == 0x80);
    return utf8_next(&s);
}

/* Writes c at out, 1 to 4 bytes; returns how many. */
static inline int utf8_put(char *out, uint32_t c)
{
    if (c < 0x80) { out[0] = (char)c; return 1; }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

/* Length of the valid UTF-8 character at s, of at most n bytes (n >= 1); 0 if there is none, and
 * then *bad is the number of bytes that become one U+FFFD, as Python's errors="replace" counts
 * them. */
int utf8_check(const char *s, size_t n, int *bad);

#endif
