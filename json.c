/* json.c -- a strict JSON reader (RFC 8259) for config.json, shard lists, safetensors headers,
 * tokenizer.json and JSONL records.
 *
 *   text -> count_text() -> how many values, members and bytes of strings there are
 *        -> one array of nodes, one pool of strings, one hash table, each of just that size
 *        -> parse_text() -> Json: a pointer to a node and to its document
 *
 * A node is 28 bytes and stands in the order of the text: the first child of an array or object is
 * the node after it, `next` leads to the next sibling. Numbers stay as written in the text, so that
 * an int64 is exact; strings are decoded to UTF-8 in the pool, each as
 * [4 bytes length][bytes][zero byte]. One table finds the members of all objects of more than FEW
 * by (object, key): it refuses the second of two equal keys, and finds one word of a vocabulary of
 * 100,000 at once. In smaller objects the members are looked at one by one.
 *
 * Stricter than most readers, on purpose: no duplicate keys, no lone surrogates, no bytes that are
 * not UTF-8, no NaN, no comments, no byte order mark. Where two readers may see two different
 * things in one file, one of them can be deceived.
 *
 * Easy to get wrong:
 *   - A string may hold a zero byte (\u0000): json_string() gives the length too.
 *   - "Written as an integer" excludes 1.0 and 1e3: a config that says so is a mistake.
 *   - The hash is keyed with random bytes of this process, so that no file can be built whose keys
 *     collide. Nothing visible depends on it. */
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "tensor.h"

enum { MAX_DEPTH = 64, FEW = 8 };
static const size_t MAX_TEXT = (size_t)1 << 30;   /* every offset fits 32 bits */

struct JsonNode {
    uint32_t start, end;         /* of the value in the text */
    uint32_t next;               /* the next sibling; 0 (the root is nobody's sibling): none */
    uint32_t parent;             /* the root's is the root */
    uint32_t key;                /* place of the member's key in the pool, + 1; 0: no member */
    uint32_t value;              /* string: place in the pool; bool: 0, 1; else children */
    uint32_t type;
};

/* node 0: free. The other half of the hash saves most looks at nodes far away. */
typedef struct { uint32_t node, hash; } Slot;

struct JsonDoc {
    const char *name, *text;
    size_t      n;               /* bytes of text */
    int         code;            /* of die(); 0: fail() */
    JsonNode   *nodes;
    char       *pool;
    Slot       *slots;           /* hash table of members */
    uint32_t    n_nodes, max_nodes, n_pool, slot_mask;
};

/* === Errors =================================================================================== */

static _Noreturn void doc_error(const JsonDoc *d, const char *msg)
{
    if (d->code) die(d->code, "%s: %s", quoted(d->name), msg);
    fail("input.json", NULL, "%s: %s", quoted(d->name), msg);
}

static size_t line_of(const JsonDoc *d, size_t at)
{
    size_t line = 1;
    for (size_t i = 0; i < at && i < d->n; i++) line += d->text[i] == '\n';
    return line;
}

/* The text is wrong at `at`, where `expected` should be. */
static _Noreturn void syntax_error(const JsonDoc *d, size_t at, const char *expected)
{
    char found[32], msg[512];
    unsigned char c = at < d->n ? (unsigned char)d->text[at] : 0;
    if (at >= d->n) snprintf(found, sizeof found, "the end of the text");
    else if (c > ' ' && c < 0x7f) snprintf(found, sizeof found, "'%c'", c);
    else snprintf(found, sizeof found, "the byte 0x%02x", c);
    snprintf(msg, sizeof msg, "not valid JSON: line %zu, byte %zu: found %s, expected %s",
             line_of(d, at), at, found, expected);
    doc_error(d, msg);
}

/* "vision_config.layers[3]": the keys from the root to the node; cut at the left if too long. */
static const char *path_of(char *buf, size_t size, const JsonDoc *d, uint32_t node)
{
    size_t at = size - 1;
    buf[at] = 0;
    for (; node; node = d->nodes[node].parent) {
        char part[256];
        const JsonNode *v = &d->nodes[node];
        if (v->key) {
            uint32_t len;
            memcpy(&len, d->pool + v->key - 1, sizeof len);
            snprintf(part, sizeof part, "%s%s", v->parent ? "." : "",
                     quoted_n(d->pool + v->key - 1 + sizeof len, len));
        } else {
            int i = 0;
            uint32_t sibling = v->parent + 1;
            for (; sibling != node; sibling = d->nodes[sibling].next) i++;
            snprintf(part, sizeof part, "[%d]", i);
        }
        size_t len = strlen(part);
        if (len > at) break;
        at -= len;
        memcpy(buf + at, part, len);
    }
    return buf + at;
}

/* === Hash ===================================================================================== */

static inline uint64_t rotate(uint64_t x, int n) { return x << n | x >> (64 - n); }

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1]; v[1] = rotate(v[1], 13) ^ v[0]; v[0] = rotate(v[0], 32);
    v[2] += v[3]; v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3]; v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1]; v[1] = rotate(v[1], 17) ^ v[2]; v[2] = rotate(v[2], 32);
}

uint64_t hash_bytes(const void *bytes, size_t n, uint64_t salt)
{
    static const void *random;                   /* 16 bytes from the kernel */
    uint64_t key[2] = { 0, 0 };
    if (!random) random = (const void *)getauxval(AT_RANDOM);
    if (random) memcpy(key, random, sizeof key);
    key[1] ^= salt;
    uint64_t v[4] = { key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                      key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573 };
    const unsigned char *p = bytes;
    size_t left = n;
    for (; left >= 8; p += 8, left -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    uint64_t last = (uint64_t)n << 56;           /* what is left, and the length in the top byte */
    for (size_t i = 0; i < left; i++) last |= (uint64_t)p[i] << (8 * i);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++) sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static const char *pool_string(const JsonDoc *d, uint32_t at, size_t *n)
{
    uint32_t len;
    memcpy(&len, d->pool + at, sizeof len);
    if (n) *n = len;
    return d->pool + at + sizeof len;
}

static bool has_key(const JsonDoc *d, uint32_t member, const char *key, size_t n)
{
    size_t len;
    const char *k = pool_string(d, d->nodes[member].key - 1, &len);
    return len == n && !memcmp(k, key, n);
}

/* The slot of `key` in the table: the one it has, or the free one it would get. */
static Slot *find_slot(const JsonDoc *d, uint32_t object, const char *key, size_t n, uint32_t *hash)
{
    uint64_t h = hash_bytes(key, n, object);
    uint32_t i = (uint32_t)(h >> 32) & d->slot_mask;
    *hash = (uint32_t)h;
    for (; d->slots[i].node; i = (i + 1) & d->slot_mask) {
        uint32_t member = d->slots[i].node;
        if (d->slots[i].hash != *hash || d->nodes[member].parent != object) continue;
        if (has_key(d, member, key, n)) break;
    }
    return &d->slots[i];
}

/* The member of that key, 0 if there is none. */
static uint32_t find_member(const JsonDoc *d, uint32_t object, const char *key, size_t n)
{
    uint32_t hash, i = object + 1, left = d->nodes[object].value;
    if (left > FEW) return find_slot(d, object, key, n, &hash)->node;
    for (; left; left--, i = d->nodes[i].next)
        if (has_key(d, i, key, n)) return i;
    return 0;
}

static void put_slot(JsonDoc *d, uint32_t object, uint32_t member, uint32_t key)
{
    size_t n;
    uint32_t hash;
    const char *s = pool_string(d, key, &n);
    Slot *slot = find_slot(d, object, s, n, &hash);
    *slot = (Slot){ member, hash };
}

/* A new member, of which only the key is there yet. The first beyond FEW takes those before it
 * along into the table. */
static void add_member(JsonDoc *d, uint32_t object, uint32_t member, uint32_t key)
{
    uint32_t before = d->nodes[object].value, i = object + 1;
    if (before < FEW) return;
    if (before == FEW)
        for (; i; i = d->nodes[i].next) put_slot(d, object, i, d->nodes[i].key - 1);
    put_slot(d, object, member, key);
}

/* === Counting ================================================================================= */

/* Sizes the document. As far as the text is valid the counts are exact for strings, and at least
 * the truth for values: each is the first, or follows a comma or an opening bracket. */
static void count_text(JsonDoc *d, void *(*alloc)(size_t))
{
    const char *p = d->text, *end = p + d->n;
    size_t values = 1, members = 0, pool = 0;
    while (p < end) {
        char c = *p++;
        if (c == '"') {
            const char *start = p;
            while (p < end && *p != '"') p += 1 + (*p == '\\');
            if (p > end) p = end;
            pool += (size_t)(p++ - start) + sizeof(uint32_t) + 1;
        } else {
            values += c == ',' || c == '[' || c == '{';
            members += c == ':';
        }
    }
    size_t slots = 2;                            /* a power of two, at most half full */
    while (slots < 2 * members) slots *= 2;
    d->max_nodes = (uint32_t)values;
    d->nodes = alloc(mul_size(values, sizeof(JsonNode)));
    d->pool  = alloc(pool + 1);
    d->slots = alloc(mul_size(slots, sizeof(Slot)));
    if (!d->code) memset(d->slots, 0, slots * sizeof(Slot));    /* keep is zeroed, scratch is not */
    d->slot_mask = (uint32_t)(slots - 1);
}

/* === Parsing ================================================================================== */

static inline bool is_digit(char c) { return c >= '0' && c <= '9'; }

static inline char peek(const JsonDoc *d, size_t at) { return at < d->n ? d->text[at] : 0; }

static size_t skip_space(const JsonDoc *d, size_t at)
{
    while (at < d->n && (d->text[at] == ' ' || d->text[at] == '\n' || d->text[at] == '\r'
                         || d->text[at] == '\t')) at++;
    return at;
}

/* -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)? : returns where it ends. */
static size_t parse_number(const JsonDoc *d, size_t at)
{
    if (peek(d, at) == '-') at++;
    if (!is_digit(peek(d, at))) syntax_error(d, at, "a digit");
    if (peek(d, at) == '0') {
        if (is_digit(peek(d, ++at))) syntax_error(d, at, "no digit after a leading zero");
    } else {
        while (is_digit(peek(d, at))) at++;
    }
    if (peek(d, at) == '.') {
        if (!is_digit(peek(d, ++at))) syntax_error(d, at, "a digit after the decimal point");
        while (is_digit(peek(d, at))) at++;
    }
    if (peek(d, at) == 'e' || peek(d, at) == 'E') {
        at++;
        if (peek(d, at) == '+' || peek(d, at) == '-') at++;
        if (!is_digit(peek(d, at))) syntax_error(d, at, "a digit of the exponent");
        while (is_digit(peek(d, at))) at++;
    }
    return at;
}

/* The four hex digits at `at`. */
static uint32_t parse_hex4(const JsonDoc *d, size_t at)
{
    uint32_t v = 0;
    for (int i = 0; i < 4; i++, at++) {
        char c = peek(d, at), lower = (char)(c | 0x20);
        if (is_digit(c)) v = v * 16 + (uint32_t)(c - '0');
        else if (lower >= 'a' && lower <= 'f') v = v * 16 + (uint32_t)(lower - 'a' + 10);
        else syntax_error(d, at, "four hex digits after \\u");
    }
    return v;
}

static size_t put_utf8(char *out, uint32_t c)
{
    if (c < 0x80) { out[0] = (char)c; return 1; }
    int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    out[0] = (char)((0xff00 >> (more + 1) & 0xff) | c >> (6 * more));
    for (int i = 1; i <= more; i++) out[i] = (char)(0x80 | (c >> (6 * (more - i)) & 0x3f));
    return (size_t)more + 1;
}

/* The escape at *at (a backslash): writes what it means, returns the bytes written. */
static size_t parse_escape(const JsonDoc *d, size_t *at, char *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    size_t start = *at;
    char c = peek(d, start + 1);
    *at += 2;
    if (c != 'u') {
        const char *k = c ? strchr(from, c) : NULL;
        if (!k) syntax_error(d, start + 1, "one of \" \\ / b f n r t u after a backslash");
        *out = to[k - from];
        return 1;
    }
    uint32_t code = parse_hex4(d, *at);
    *at += 4;
    if (code >= 0xd800 && code < 0xe000) {       /* half of a surrogate pair */
        bool pair = code < 0xdc00 && peek(d, *at) == '\\' && peek(d, *at + 1) == 'u';
        uint32_t low = pair ? parse_hex4(d, *at + 2) : 0;
        if (low < 0xdc00 || low > 0xdfff)
            syntax_error(d, start, "a pair of surrogates (half of one is no character)");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        *at += 6;
    }
    return put_utf8(out, code);
}

/* Bytes of the UTF-8 character at `at`, which is not ASCII; dies if it is none. The table is that
 * of the Unicode standard (3-7): no overlong form, no surrogate, nothing above 10FFFF. */
static size_t utf8_length(const JsonDoc *d, size_t at)
{
    const unsigned char *p = (const unsigned char *)d->text + at;
    size_t left = d->n - at;
    unsigned char c = p[0], low = 0x80, high = 0xbf;
    size_t len = c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    if (c == 0xe0) low = 0xa0;
    if (c == 0xed) high = 0x9f;
    if (c == 0xf0) low = 0x90;
    if (c == 0xf4) high = 0x8f;
    bool ok = len && len <= left && p[1] >= low && p[1] <= high;
    for (size_t i = 2; ok && i < len; i++) ok = (p[i] & 0xc0) == 0x80;
    if (!ok) syntax_error(d, at, "UTF-8");
    return len;
}

static inline bool is_plain(unsigned char c)
{
    return c >= ' ' && c < 0x80 && c != '"' && c != '\\';
}

/* The string at *at (a quote) goes to the pool; *at moves behind it. Returns its place there. */
static uint32_t parse_string(JsonDoc *d, size_t *at)
{
    uint32_t place = d->n_pool;
    char *start = d->pool + place + sizeof(uint32_t), *out = start;
    const char *text = d->text;
    size_t i = *at + 1;
    for (;;) {
        size_t run = i;                          /* plain ASCII, mostly */
        while (i < d->n && is_plain((unsigned char)text[i])) i++;
        memcpy(out, text + run, i - run);
        out += i - run;
        if (i >= d->n) syntax_error(d, i, "the closing quote of a string");
        if (text[i] == '"') break;
        if (text[i] == '\\') {
            out += parse_escape(d, &i, out);
        } else if ((unsigned char)text[i] < ' ') {
            syntax_error(d, i, "no raw control character in a string (\\n is an escape)");
        } else {
            size_t len = utf8_length(d, i);
            memcpy(out, text + i, len);
            out += len;
            i += len;
        }
    }
    uint32_t len = (uint32_t)(out - start);
    *out++ = 0;
    memcpy(d->pool + place, &len, sizeof len);
    d->n_pool = (uint32_t)(out - d->pool);
    *at = i + 1;
    return place;
}

/* A member's key and colon. Returns the key's place in the pool; it is known to be new. */
static uint32_t parse_key(JsonDoc *d, size_t *at, uint32_t object)
{
    size_t start = *at;
    if (peek(d, start) != '"') syntax_error(d, start, "a key in quotes");
    uint32_t key = parse_string(d, at);
    *at = skip_space(d, *at);
    if (peek(d, *at) != ':') syntax_error(d, *at, "':' after the key");
    *at = skip_space(d, *at + 1);

    size_t len;
    const char *k = pool_string(d, key, &len);
    uint32_t twin = find_member(d, object, k, len);
    if (twin) {
        char path[512], msg[1024];
        snprintf(msg, sizeof msg, "key %s stands twice, in line %zu and line %zu (byte %zu),"
                 " expected once", path_of(path, sizeof path, d, twin),
                 line_of(d, d->nodes[twin].start), line_of(d, start), start);
        doc_error(d, msg);
    }
    add_member(d, object, d->n_nodes, key);      /* the value that comes next */
    return key;
}

/* A string, number or word at *at. */
static void parse_scalar(JsonDoc *d, JsonNode *v, size_t *at)
{
    static const struct { const char *word; JsonType type; uint32_t value; } words[] = {
        { "true", JSON_BOOL, 1 }, { "false", JSON_BOOL, 0 }, { "null", JSON_NULL, 0 },
    };
    char c = peek(d, *at);
    if (c == '"') {
        v->type = JSON_STRING;
        v->value = parse_string(d, at);
        return;
    }
    if (c == '-' || is_digit(c)) {
        v->type = JSON_NUMBER;
        *at = parse_number(d, *at);
        return;
    }
    for (int i = 0; i < 3; i++) {
        size_t len = strlen(words[i].word);
        if (len > d->n - *at || memcmp(d->text + *at, words[i].word, len)) continue;
        v->type = words[i].type;
        v->value = words[i].value;
        *at += len;
        return;
    }
    syntax_error(d, *at, "a value");
}

typedef struct { uint32_t node, last; } Level;   /* an open array or object, its newest child */

/* A new node at `at`, the next child of the open array or object. */
static JsonNode *add_node(JsonDoc *d, Level *open, uint32_t key, size_t at)
{
    uint32_t index = d->n_nodes++;
    if (index >= d->max_nodes) bug("json: more values than counted");
    d->nodes[index] = (JsonNode){ .start = (uint32_t)at, .key = key };
    if (open) {
        d->nodes[index].parent = open->node;
        d->nodes[open->node].value++;
        if (open->last) d->nodes[open->last].next = index;
        open->last = index;
    }
    return &d->nodes[index];
}

/* The whole text. `open` is the innermost of the arrays and objects that are not closed yet. */
static void parse_text(JsonDoc *d, int max_depth)
{
    Level stack[MAX_DEPTH], *open = NULL;
    uint32_t key = 0;
    int depth = 0;
    for (size_t at = skip_space(d, 0); ; ) {
        JsonNode *v = add_node(d, open, key, at);
        bool inside = false;                     /* behind a bracket, where a value must follow */
        key = 0;
        char c = peek(d, at);
        if (c == '[' || c == '{') {
            if (depth == max_depth) {
                char what[64];
                snprintf(what, sizeof what, "no more than %d levels of brackets", max_depth);
                syntax_error(d, at, what);
            }
            v->type = c == '[' ? JSON_ARRAY : JSON_OBJECT;
            open = &stack[depth++];
            *open = (Level){ (uint32_t)(v - d->nodes), 0 };
            at = skip_space(d, at + 1);
            inside = peek(d, at) != (c == '[' ? ']' : '}');
            if (inside && c == '{') key = parse_key(d, &at, open->node) + 1;
        } else {
            parse_scalar(d, v, &at);
            v->end = (uint32_t)at;
        }
        while (!inside && depth) {               /* close what is complete */
            JsonNode *o = &d->nodes[open->node];
            bool array = o->type == JSON_ARRAY;
            at = skip_space(d, at);
            if (peek(d, at) == (array ? ']' : '}')) {
                o->end = (uint32_t)++at;
                open = --depth ? open - 1 : NULL;
            } else if (peek(d, at) == ',') {
                at = skip_space(d, at + 1);
                if (!array) key = parse_key(d, &at, open->node) + 1;
                inside = true;
            } else {
                syntax_error(d, at, array ? "',' or ']'" : "',' or '}'");
            }
        }
        if (inside) continue;
        at = skip_space(d, at);
        if (at < d->n) syntax_error(d, at, "the end of the text");
        return;
    }
}

static void *keep_some(size_t n) { return keep_bytes(n); }
static void *scratch_some(size_t n) { return scratch_bytes(n); }

Json json_parse(const char *name, const char *text, size_t n, int max_depth, int code)
{
    void *(*alloc)(size_t) = code ? keep_some : scratch_some;
    char *copy = alloc(strlen(name) + 1);
    memcpy(copy, name, strlen(name) + 1);
    JsonDoc *d = alloc(sizeof *d);
    *d = (JsonDoc){ .name = copy, .text = text, .n = n, .code = code };
    if (n > MAX_TEXT) doc_error(d, "JSON text of more than 1 GB, expected less");
    if (n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
        doc_error(d, "not valid JSON: begins with a byte order mark, expected the text itself");
    count_text(d, alloc);
    parse_text(d, max_depth < MAX_DEPTH ? max_depth : MAX_DEPTH);
    return (Json){ .node = d->nodes, .doc = d };
}

Json json_file(const char *dir, const char *name, size_t max)
{
    size_t n, mark = scratch_mark();
    char *text = model_file(dir, name, max, &n);
    if (!text) return (Json){ 0 };
    Json j = json_parse(scratch_string("%s/%s", dir, name), text, n, MAX_DEPTH, EXIT_FILE);
    scratch_reset(mark);
    return j;
}

/* === Reading ================================================================================== */

static Json json_of(const JsonDoc *d, uint32_t index)
{
    return (Json){ .node = &d->nodes[index], .doc = d };
}

/* What `j` does not have. In what is absent itself, that stays the thing that is missing. */
static Json absent(Json j, const char *key)
{
    if (!j.node) return j;
    return (Json){ .doc = j.doc, .above = j.node, .missing = key };
}

static uint32_t index_of(Json j) { return (uint32_t)(j.node - j.doc->nodes); }

bool json_is(Json j, JsonType t) { return j.node && j.node->type == (uint32_t)t; }

JsonType json_type(Json j) { return j.node ? (JsonType)j.node->type : JSON_NULL; }

Json json_get_n(Json object, const char *key, size_t n)
{
    if (!json_is(object, JSON_OBJECT)) return absent(object, key);
    uint32_t i = find_member(object.doc, index_of(object), key, n);
    return i ? json_of(object.doc, i) : absent(object, key);
}

Json json_get(Json object, const char *key) { return json_get_n(object, key, strlen(key)); }

int json_len(Json j)
{
    return json_is(j, JSON_ARRAY) || json_is(j, JSON_OBJECT) ? (int)j.node->value : 0;
}

static const char one_more[] = "(one more element)";

Json json_first(Json j)
{
    return json_len(j) ? json_of(j.doc, index_of(j) + 1) : absent(j, one_more);
}

Json json_next(Json j)
{
    if (!j.node) return j;
    return j.node->next ? json_of(j.doc, j.node->next)
                        : absent(json_of(j.doc, j.node->parent), one_more);
}

Json json_at(Json array, int i)
{
    Json j = i < 0 ? absent(array, one_more) : json_first(array);
    while (j.node && i-- > 0) j = json_next(j);
    return j;
}

const char *json_key(Json member, size_t *n)
{
    if (n) *n = 0;
    if (!member.node || !member.node->key) return NULL;
    return pool_string(member.doc, member.node->key - 1, n);
}

const char *json_string(Json j, size_t *n)
{
    if (n) *n = 0;
    return json_is(j, JSON_STRING) ? pool_string(j.doc, j.node->value, n) : NULL;
}

double json_number(Json j)
{
    if (!json_is(j, JSON_NUMBER)) return 0;
    const char *start;
    size_t n = json_span(j, &start);
    if (j.node->end < j.doc->n) return strtod(start, NULL);     /* the next byte ends the number */
    size_t mark = scratch_mark();                               /* a lone number: text has no end */
    char *copy = scratch_bytes(n + 1);
    memcpy(copy, start, n);
    copy[n] = 0;
    double v = strtod(copy, NULL);
    scratch_reset(mark);
    return v;
}

bool json_integer(Json j, int64_t *v)
{
    if (!json_is(j, JSON_NUMBER)) return false;
    const char *p = j.doc->text + j.node->start, *end = j.doc->text + j.node->end;
    bool negative = *p == '-';
    uint64_t limit = (uint64_t)INT64_MAX + negative, u = 0;
    for (p += negative; p < end; p++) {
        if (!is_digit(*p)) return false;
        uint64_t digit = (uint64_t)(*p - '0');
        if (u > (limit - digit) / 10) return false;
        u = u * 10 + digit;
    }
    *v = negative ? (int64_t)(0 - u) : (int64_t)u;
    return true;
}

uint64_t json_offset(Json j) { return j.node ? j.node->start : 0; }

size_t json_span(Json j, const char **start)
{
    *start = j.node ? j.doc->text + j.node->start : "";
    return j.node ? j.node->end - j.node->start : 0;
}

const char *json_doc_name(Json j) { return j.doc ? j.doc->name : ""; }

/* === Configurations =========================================================================== */

typedef struct { char s[640]; } Path;

/* The path of a value, or of what is missing. */
static Path full_path(Json j)
{
    Path out;
    char buf[512];
    if (!j.doc) bug("json: no document to complain about");
    if (!j.node && !j.above) bug("json: a value that was never looked for");
    uint32_t node = (uint32_t)((j.node ? j.node : j.above) - j.doc->nodes);
    const char *path = path_of(buf, sizeof buf, j.doc, node);
    if (j.node) snprintf(out.s, sizeof out.s, "%s", path);
    else        snprintf(out.s, sizeof out.s, "%s%s%.100s", path, *path ? "." : "", j.missing);
    return out;
}

void json_error(Json j, const char *fmt, ...)
{
    char what[512], msg[1200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    Path path = full_path(j);
    snprintf(msg, sizeof msg, "%s%s%s%s", *path.s ? "key " : "", path.s, *path.s ? " " : "", what);
    doc_error(j.doc, msg);
}

/* The value as a message shows it: `16`, `"16"`, `null`, `an array`. */
static const char *shown(char out[256], Json j)
{
    size_t n;
    const char *s = json_string(j, &n);
    if (s) {
        snprintf(out, 256, "\"%s\"", quoted_n(s, n));
    } else if (json_is(j, JSON_ARRAY) || json_is(j, JSON_OBJECT)) {
        snprintf(out, 256, json_is(j, JSON_ARRAY) ? "an array" : "an object");
    } else {
        n = json_span(j, &s);
        snprintf(out, 256, "%s", quoted_n(s, n < 60 ? n : 60));
    }
    return out;
}

/* The member, or {0} where it is absent or null. */
static Json find(Json object, const char *key)
{
    char buf[256];
    if (json_type(object) != JSON_NULL && !json_is(object, JSON_OBJECT))
        json_error(object, "is %s, expected an object", shown(buf, object));
    Json j = json_get(object, key);
    return json_is(j, JSON_NULL) ? absent(object, key) : j;
}

static Json need(Json object, const char *key, const char *expected)
{
    if (!object.node) json_error(object, "is missing, expected an object with %s", key);
    Json j = find(object, key), found = json_get(object, key);
    if (!j.node) json_error(found, "is %s, expected %s", found.node ? "null" : "missing", expected);
    return j;
}

static int int_of(Json j, int min, int max, const char *expected)
{
    int64_t v;
    char buf[256];
    if (!json_integer(j, &v) || v < min || v > max)
        json_error(j, "is %s, expected %s", shown(buf, j), expected);
    return (int)v;
}

int json_int(Json object, const char *key, int standard, int min, int max)
{
    char expected[64];
    snprintf(expected, sizeof expected, "an integer from %d to %d", min, max);
    Json j = find(object, key);
    return j.node ? int_of(j, min, max, expected) : standard;
}

int json_int_need(Json object, const char *key, int min, int max)
{
    char expected[64];
    snprintf(expected, sizeof expected, "an integer from %d to %d", min, max);
    return int_of(need(object, key, expected), min, max, expected);
}

double json_float(Json object, const char *key, double standard, double min, double max)
{
    Json j = find(object, key);
    if (!j.node) return standard;
    double v = json_number(j);
    char buf[256];
    if (!json_is(j, JSON_NUMBER) || !(v >= min && v <= max))
        json_error(j, "is %s, expected a number from %g to %g", shown(buf, j), min, max);
    return v;
}

bool json_bool(Json object, const char *key, bool standard)
{
    Json j = find(object, key);
    if (!j.node) return standard;
    char buf[256];
    if (!json_is(j, JSON_BOOL)) json_error(j, "is %s, expected true or false", shown(buf, j));
    return j.node->value;
}

static const char *str_of(Json j)
{
    char buf[256];
    size_t n;
    const char *s = json_string(j, &n);
    if (!s) json_error(j, "is %s, expected a string", shown(buf, j));
    if (memchr(s, 0, n)) json_error(j, "has a zero byte in its string, expected none");
    return s;
}

const char *json_str(Json object, const char *key, const char *standard)
{
    Json j = find(object, key);
    return j.node ? str_of(j) : standard;
}

const char *json_str_need(Json object, const char *key)
{
    return str_of(need(object, key, "a string"));
}

Act json_act(Json object, const char *key, Act standard)
{
    static const struct { const char *name; Act act; } acts[] = {
        { "gelu", GELU }, { "gelu_python", GELU },
        { "gelu_new", GELU_TANH }, { "gelu_pytorch_tanh", GELU_TANH }, { "gelu_fast", GELU_TANH },
        { "quick_gelu", GELU_QUICK }, { "silu", SILU }, { "swish", SILU }, { "relu", RELU },
    };
    const char *name = json_str(object, key, NULL);
    if (!name) return standard;
    for (size_t i = 0; i < sizeof acts / sizeof acts[0]; i++)
        if (!strcmp(name, acts[i].name)) return acts[i].act;
    json_error(json_get(object, key), "is \"%s\", expected an activation that mm knows: gelu,"
               " gelu_new, quick_gelu, silu or relu", quoted(name));
}
