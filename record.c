/* record.c -- how results are written down: JSON, numbers, base64, .npy headers, plain text.
 *
 * Everything is put together in a Buf in scratch and leaves the program with one write (output.c).
 *
 * Easy to get wrong:
 *   - A path is bytes, JSON is UTF-8: bytes that are not UTF-8 become U+FFFD, and path_b64 beside
 *     the id has the truth (output.c).
 *   - A float needs up to nine digits to be read back; "%.9g" alone would make 0.1 into
 *     0.100000001. Six digits are enough for whoever has at most six, so the search begins there.
 *   - JSON has no NaN and no infinity: null. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* === A text that grows ======================================================================== */

static void room(Buf *b, size_t n)
{
    size_t need = add_size(b->n, add_size(n, 1));
    if (need <= b->cap) return;
    size_t cap = b->cap ? b->cap : 256;
    while (cap < need) cap = mul_size(cap, 2);
    char *p = scratch_bytes(cap);
    if (b->n) memcpy(p, b->p, b->n);
    b->p = p;
    b->cap = cap;
}

void put_bytes(Buf *b, const void *p, size_t n)
{
    room(b, n);
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
    b->p[b->n] = 0;
}

void put(Buf *b, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    room(b, (size_t)n);
    vsnprintf(b->p + b->n, (size_t)n + 1, fmt, again);
    b->n += (size_t)n;
    va_end(again);
    va_end(args);
}

/* === UTF-8 ==================================================================================== */

/* Length of the well-formed UTF-8 character at s, of at most n bytes; 0 if there is none. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
    static const struct { unsigned char first, last, low, high; size_t len; } FORM[] = {
        {0x00, 0x7F, 0, 0, 1},       {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
        {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
        {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4},
    };
    for (size_t f = 0; f < sizeof FORM / sizeof FORM[0]; f++) {
        if (s[0] < FORM[f].first || s[0] > FORM[f].last) continue;
        if (FORM[f].len > n) return 0;
        if (FORM[f].len > 1 && (s[1] < FORM[f].low || s[1] > FORM[f].high)) return 0;
        for (size_t i = 2; i < FORM[f].len; i++)
            if ((s[i] & 0xC0) != 0x80) return 0;
        return FORM[f].len;
    }
    return 0;
}

bool is_utf8(const char *s, size_t n)
{
    for (size_t i = 0, len; i < n; i += len)
        if (!(len = utf8_length((const unsigned char *)s + i, n - i))) return false;
    return true;
}

/* C1 control character at s (two bytes)? Terminals obey some of them. */
static bool is_c1(const char *s, size_t len)
{
    return len == 2 && (unsigned char)s[0] == 0xC2 && (unsigned char)s[1] < 0xA0;
}

void put_json(Buf *b, const char *s, size_t n)
{
    put_bytes(b, "\"", 1);
    for (size_t i = 0; i < n; ) {
        unsigned char c = (unsigned char)s[i];
        size_t len = utf8_length((const unsigned char *)s + i, n - i);
        if (len == 0) put_bytes(b, "\xEF\xBF\xBD", 3);
        else if (c == '"' || c == '\\') put(b, "\\%c", c);
        else if (c == '\n') put_bytes(b, "\\n", 2);
        else if (c == '\t') put_bytes(b, "\\t", 2);
        else if (c < 0x20 || c == 0x7F) put(b, "\\u%04x", c);
        else if (is_c1(s + i, len)) put(b, "\\u%04x", (unsigned char)s[i + 1]);
        else put_bytes(b, s + i, len);
        i += len ? len : 1;
    }
    put_bytes(b, "\"", 1);
}

void put_plain(Buf *b, const char *s, size_t n, bool newlines, bool tabs, bool controls)
{
    for (size_t i = 0; i < n; ) {
        unsigned char c = (unsigned char)s[i];
        size_t len = utf8_length((const unsigned char *)s + i, n - i);
        if (newlines && c == '\n') put_bytes(b, "\\n", 2);
        else if (tabs && c == '\t') put_bytes(b, "\\t", 2);
        else if (tabs && c == '\\') put_bytes(b, "\\\\", 2);
        else if (controls && ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F || !len))
            put(b, "\\x%02x", c);
        else if (controls && is_c1(s + i, len)) put(b, "\\u%04x", (unsigned char)s[i + 1]);
        else if (controls && is_bidi((const unsigned char *)s + i, len))
            put(b, "\\u%04x", len == 2 ? 0x61C
                : 0x2000 | (s[i + 1] & 0x3F) << 6 | (s[i + 2] & 0x3F));
        else put_bytes(b, s + i, len ? len : 1);
        i += len ? len : 1;
    }
}

/* === Numbers, base64, npy ===================================================================== */

void put_float(Buf *b, float x)
{
    if (!isfinite(x)) {
        put_bytes(b, "null", 4);
        return;
    }
    char s[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, (double)x);
        if (strtof(s, NULL) == x) break;
    }
    put_bytes(b, s, strlen(s));
}

void put_ids(Buf *b, const int *id, int n, const char *between)
{
    for (int i = 0; i < n; i++) put(b, "%s%d", i ? between : "", id[i]);
}

void put_logprobs(Buf *b, const Generated *g, int k)
{
    put(b, ",\"logprobs\":[");
    for (int i = 0; i < g->n - g->n_prompt; i++) {
        put(b, "%s{\"id\":%d,\"logprob\":", i ? "," : "", g->info[i].chosen.id);
        put_float(b, g->info[i].chosen.logprob);
        put(b, ",\"top\":[");
        for (int j = 0; j < k; j++) {
            put(b, "%s[%d,", j ? "," : "", g->info[i].top[j].id);
            put_float(b, g->info[i].top[j].logprob);
            put(b, "]");
        }
        put(b, "]}");
    }
    put(b, "]");
}

static const char BASE64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void put_base64(Buf *b, const void *p, size_t n)
{
    const unsigned char *s = p;
    room(b, add_size(mul_size(n / 3, 4), 4));
    for (size_t i = 0; i < n; i += 3) {
        unsigned v = (unsigned)s[i] << 16 | (i + 1 < n ? (unsigned)s[i + 1] << 8 : 0)
                   | (i + 2 < n ? s[i + 2] : 0);
        char four[4] = { BASE64[v >> 18], BASE64[v >> 12 & 63], '=', '=' };
        if (i + 1 < n) four[2] = BASE64[v >> 6 & 63];
        if (i + 2 < n) four[3] = BASE64[v & 63];
        put_bytes(b, four, 4);
    }
}

uint8_t *base64_decode(const char *s, size_t n, size_t *n_out)
{
    signed char value[256];
    memset(value, -1, sizeof value);
    for (int i = 0; i < 64; i++) value[(unsigned char)BASE64[i]] = (signed char)i;
    if (n % 4) return NULL;
    size_t pad = n && s[n - 1] == '=' ? 1 + (s[n - 2] == '=') : 0;
    uint8_t *out = scratch_bytes(n / 4 * 3 + 1);
    *n_out = n / 4 * 3 - pad;
    for (size_t i = 0, at = 0; i < n; i += 4) {
        unsigned v = 0;
        for (size_t k = 0; k < 4; k++) {
            int d = i + k >= n - pad ? 0 : value[(unsigned char)s[i + k]];
            if (d < 0) return NULL;
            v = v << 6 | (unsigned)d;
        }
        for (size_t k = 0; k < 3; k++, v <<= 8) {
            uint8_t byte = (uint8_t)(v >> 16);
            if (at < *n_out) out[at++] = byte;
            else if (byte) return NULL;                  /* bits set where padding says none are */
        }
    }
    return out;
}

/* Magic, version 1.0, length, and a Python dict padded with blanks; numpy leaves 21 characters of
 * room for the first dimension to grow, and fills up to a multiple of 64. With up to four
 * dimensions it is 128 bytes in all. */
void npy_header(char header[128], const int64_t *dim, int ndim)
{
    char shape[96], first[24], dict[200];
    size_t n = 0;
    for (int i = 0; i < ndim; i++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, i ? ", %lld" : "%lld",
                              (long long)dim[i]);
    snprintf(first, sizeof first, "%lld", (long long)dim[0]);
    int len = snprintf(dict, sizeof dict,
                       "{'descr': '<f4', 'fortran_order': False, 'shape': (%s%s), }%*s", shape,
                       ndim == 1 ? "," : "", 21 - (int)strlen(first), "");
    if (len > 117) bug("npy_header: a shape of %d characters", len);
    memset(header, ' ', 128);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    memcpy(header + 10, dict, (size_t)len);
    header[127] = '\n';
}
