/* unicode.c -- character classes, lower case, decomposition and composition, and checking of UTF-8.
 *
 *   classes     runs of equal bits, spread out into one byte per code point when first needed: 1.1
 *               MB, of which mostly one page is ever looked at
 *   lower case  runs of equal difference (A-Z: +32; the Latin pairs: every second one +1)
 *   NFD         one step of a canonical decomposition is a pair (a, b), and a may decompose
 *               further; Hangul syllables by arithmetic (The Unicode Standard, 3.12)
 *   NFKD        full decompositions in a pool, found by runs of equal length
 *   NFC         the pairs read backwards
 *   clusters    characters that belong together (UAX #29), by classes found from outside
 *
 * Easy to get wrong:
 *   - The package's normalisation tables are old (Unicode 12): a character of a later version
 *     neither decomposes nor is reordered. Do not "repair" unicode_data.h with a newer
 *     UnicodeData.txt.
 *   - Not every decomposition composes again (U+0958, singletons, U+0344). */
#include "unicode.h"

#include "../tensor.h"

typedef struct { uint32_t first, last; int step, add; } LowerRun;
typedef struct { uint32_t first, last; int ccc; } CccRun;
typedef struct { uint32_t c, a, b; } Pair;
typedef struct { uint32_t first, last; int n, start; } CompatRun;

#include "unicode_data.h"
#include "unicode_compat.h"
#include "unicode_clusters.h"

#define COUNT(array) ((int)(sizeof (array) / sizeof (array)[0]))

enum {                                       /* Hangul: syllable = S + (l * N_V + v) * N_T + t */
    H_S = 0xAC00, H_L = 0x1100, H_V = 0x1161, H_T = 0x11A7, N_L = 19, N_V = 21, N_T = 28,
    N_SYLLABLES = N_L * N_V * N_T
};

const uint8_t *unicode_classes(void)
{
    static uint8_t table[U_MAX + 1];
    if (table['a']) return table;
    for (int i = 0; i < COUNT(class_runs); i++) {
        uint32_t first = class_runs[i] >> 8;
        uint32_t end = i + 1 < COUNT(class_runs) ? class_runs[i + 1] >> 8 : U_MAX + 1u;
        if (class_runs[i] & 0xFF)
            for (uint32_t c = first; c < end; c++) table[c] = (uint8_t)class_runs[i];
    }
    return table;
}

/* The index of the last element whose first field is <= c, or -1: the fields are in order. */
#define FIND(array, field, c, found)                                      \
    do {                                                                  \
        int lo_ = 0, hi_ = COUNT(array);                                  \
        while (lo_ < hi_) {                                               \
            int mid_ = (lo_ + hi_) / 2;                                   \
            if ((array)[mid_].field <= (c)) lo_ = mid_ + 1; else hi_ = mid_; \
        }                                                                 \
        (found) = lo_ - 1;                                                \
    } while (0)

uint32_t unicode_lower(uint32_t c)
{
    int i;
    if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
    FIND(lower_runs, first, c, i);
    if (i < 0 || c > lower_runs[i].last) return c;
    const LowerRun *r = &lower_runs[i];
    return (c - r->first) % (uint32_t)r->step == 0 ? (uint32_t)((int)c + r->add) : c;
}

int unicode_ccc(uint32_t c)
{
    int i;
    FIND(ccc_runs, first, c, i);
    return i >= 0 && c <= ccc_runs[i].last ? ccc_runs[i].ccc : 0;
}

static int decompose_hangul(uint32_t c, uint32_t *out)
{
    uint32_t s = c - H_S, t = s % N_T;
    out[0] = H_L + s / (N_V * N_T);
    out[1] = H_V + s % (N_V * N_T) / N_T;
    out[2] = H_T + t;
    return t ? 3 : 2;
}

int unicode_decompose(uint32_t c, bool compat, uint32_t out[U_MAX_DECOMPOSED])
{
    uint32_t tail[U_MAX_DECOMPOSED];
    int n_tail = 0, i;
    if (c >= H_S && c < H_S + N_SYLLABLES) return decompose_hangul(c, out);
    if (compat) {
        FIND(compat_runs, first, c, i);
        if (i >= 0 && c <= compat_runs[i].last) {
            const CompatRun *r = &compat_runs[i];
            const uint32_t *from = compat_pool + r->start + (int)(c - r->first) * r->n;
            for (int k = 0; k < r->n; k++) out[k] = from[k];
            return r->n;
        }
    }
    for (;;) {                               /* c -> a b, a -> a' b', ...: a' b' b */
        FIND(pairs, c, c, i);
        if (i < 0 || pairs[i].c != c) break;
        if (pairs[i].b) tail[n_tail++] = pairs[i].b;
        c = pairs[i].a;
    }
    out[0] = c;
    for (int k = 0; k < n_tail; k++) out[1 + k] = tail[n_tail - 1 - k];
    return 1 + n_tail;
}

uint32_t unicode_compose(uint32_t a, uint32_t b)
{
    if (a >= H_L && a < H_L + N_L && b >= H_V && b < H_V + N_V)
        return H_S + ((a - H_L) * N_V + (b - H_V)) * N_T;
    if (a >= H_S && a < H_S + N_SYLLABLES && (a - H_S) % N_T == 0 && b > H_T && b < H_T + N_T)
        return a + (b - H_T);
    int lo = 0, hi = COUNT(compose_order);
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        const Pair *p = &pairs[compose_order[mid]];
        if (p->a == a && p->b == b) return p->c;
        if (p->a < a || (p->a == a && p->b < b)) lo = mid + 1; else hi = mid;
    }
    return 0;
}

/* How a character takes part in grapheme clusters (GB.. are the rules of UAX #29). */
enum { C_ATTACH = 1, C_PREPEND, C_CONTROL, C_PICTURE, C_LINKER, C_CONSONANT };

static int cluster_class(uint32_t c)
{
    int i;
    if (c < 0x300) return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0xAD ? C_CONTROL
                        : c == 0xA9 || c == 0xAE ? C_PICTURE : 0;
    if (c >= 0x3400 && c < 0xA000) return 0;
    FIND(cluster_runs, first, c, i);
    return i >= 0 && c <= cluster_runs[i].last ? cluster_runs[i].ccc : 0;
}

/* Hangul: 1 leading, 2 vowel, 3 trailing consonant, 4 syllable without, 5 with a trailing one. */
static int hangul_class(uint32_t c)
{
    if (c < H_L || (c > 0x11FF && c < 0xA960) || c > 0xD7FB) return 0;
    if (c >= H_S && c < H_S + N_SYLLABLES) return (c - H_S) % N_T == 0 ? 4 : 5;
    if (c < 0x1160 || (c >= 0xA960 && c < 0xA97D)) return 1;
    if (c < 0x11A8 || (c >= 0xD7B0 && c < 0xD7C7)) return 2;
    return c < 0x1200 || c >= 0xD7CB ? 3 : 0;
}

static bool hangul_joins(int a, int b)               /* GB6, GB7, GB8 */
{
    if (a == 1) return b == 1 || b == 2 || b >= 4;
    if (a == 2 || a == 4) return b == 2 || b == 3;
    return (a == 3 || a == 5) && b == 3;
}

static bool is_flag(uint32_t c) { return c >= 0x1F1E6 && c <= 0x1F1FF; }

size_t cluster_length(const char *s, size_t n)
{
    enum { ZWJ = 0x200D };
    const char *p = s, *end = s + n;
    uint32_t last = utf8_next(&p);
    if (last < 0x80 && (p == end || !(*p & 0x80)))
        return last == '\r' && p < end && *p == '\n' ? 2 : 1;
    int cls = cluster_class(last), n_flags = is_flag(last);
    bool picture = cls == C_PICTURE, consonant = cls == C_CONSONANT, linked = false;
    while (p < end && cls != C_CONTROL) {
        const char *next = p;
        uint32_t c = utf8_next(&next);
        int k = cluster_class(c);
        bool attached = k == C_ATTACH || k == C_LINKER;
        bool joins = attached || hangul_joins(hangul_class(last), hangul_class(c));
        if (cls == C_PREPEND && k != C_CONTROL) joins = true;                  /* GB9b */
        if (k == C_CONSONANT && consonant && linked) joins = true;             /* GB9c */
        if (k == C_PICTURE && picture && last == ZWJ) joins = true;            /* GB11 */
        if (is_flag(c) && is_flag(last) && n_flags % 2) joins = true;          /* GB12, GB13 */
        if (!joins) break;
        if (!attached) picture = k == C_PICTURE;
        if (!attached) { consonant = k == C_CONSONANT; linked = false; }
        linked |= k == C_LINKER;
        n_flags += is_flag(c);
        last = c;
        cls = k;
        p = next;
    }
    return (size_t)(p - s);
}

/* The second byte decides whether a lead byte is any good (no overlong forms, no surrogates,
 * nothing beyond U+10FFFF); a good beginning that breaks off is one U+FFFD, whatever its length. */
int utf8_check(const char *str, size_t n, int *bad)
{
    const uint8_t *s = (const uint8_t *)str;
    *bad = 1;
    if (s[0] < 0x80) return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4) return 0;
    int len = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    uint8_t lo = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
    uint8_t hi = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n || s[i] < lo || s[i] > hi) { *bad = i; return 0; }
        lo = 0x80;
        hi = 0xBF;
    }
    return len;
}
