/* ckpt.c -- safetensors checkpoints: checked whole, then used in place.
 *
 *   8 bytes: N, little-endian | N bytes of JSON | data
 *   { "__metadata__": {string: string},
 *     NAME: { "dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12] }, ... }
 *
 *   directory -> model.safetensors, or the shards that model.safetensors.index.json names, or the
 *   only *.safetensors there is -> map -> check every header whole -> a table of tensors, by name
 *   -> ckpt_get(): a view of the mapped file, of exactly the shape that the architecture expects
 *
 * All rules of the format (github.com/huggingface/safetensors, "Format") are checked before there
 * is any pointer: what the checks have passed is in Entry, and nobody looks at the file again.
 * Together they leave no freedom: in the order of their offsets the tensors follow each other
 * without overlap or hole, from the first byte of the data to the last, and the sizes agree with
 * type and shape. Two readers cannot see two different models in one file.
 *
 * A file of `mm quantize` (quantize.c) is an ordinary one, whose metadata says which of its tensors
 * of bytes are matrices in blocks; what it says is held against their shapes here.
 *
 * The table is strict in both directions: a loader that asks for what is not there dies, and so
 * does a checkpoint with tensors that nobody asked for (ckpt_done): a forgotten bias would only
 * make the answers a little worse.
 *
 * Easy to get wrong:
 *   - Tensors of size zero and of rank 0 are valid; several of size zero share an offset.
 *   - Data may start anywhere, so a tensor may be misaligned. It is copied then, the one copy of
 *     weights in this program.
 *   - Names of shards come from a file: they are file names in this directory, never paths.
 *   - A hash of names must not be predictable, or 100 MB of colliding names take a day (json.c). */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tensor.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors are little-endian and used in place: mm does not run on big-endian machines"
#endif

#define LLU(v) ((unsigned long long)(v))

enum { MAX_HEADER = 100000000, MAX_INDEX = 100000000, MAX_NAME = 1024, MAX_RANK = 8 };

/* The types of the format; what is not here is listed, but nothing is known of its size. */
typedef struct { const char *name; int bits; DType dtype; } Type;
static const Type types[] = {
    { "F32", 32, F32 },   { "F16", 16, F16 },   { "BF16", 16, BF16 },
    { "I64", 64, I64 },   { "I32", 32, I32 },   { "U8", 8, U8 },
    { "F64", 64, OTHER }, { "C64", 64, OTHER }, { "U64", 64, OTHER }, { "U32", 32, OTHER },
    { "I16", 16, OTHER }, { "U16", 16, OTHER }, { "I8", 8, OTHER },   { "BOOL", 8, OTHER },
    { "F8_E4M3", 8, OTHER },     { "F8_E5M2", 8, OTHER },     { "F8_E8M0", 8, OTHER },
    { "F8_E4M3FNUZ", 8, OTHER }, { "F8_E5M2FNUZ", 8, OTHER },
    { "F6_E2M3", 6, OTHER },     { "F6_E3M2", 6, OTHER },     { "F4", 4, OTHER },
};

typedef struct {
    const char    *name, *type_name;
    size_t         n_name;
    const Type    *type;         /* NULL: a type that is not in the table */
    int            ndim, shard;
    int64_t        dim[MAX_RANK];
    uint64_t       begin, end;   /* in the data of the shard */
    const uint8_t *data;
    DType          blocks;       /* Q8 or Q4: a matrix [n, k] in blocks; else OTHER */
    int            n, k;
    MatrixUse      use;          /* somebody asked for it as a matrix */
    bool           used;         /* somebody asked for it */
    bool           known;        /* or wants it to be ignored */
} Entry;

typedef struct {
    const char    *name, *shown; /* in the directory; with it, for messages */
    const uint8_t *bytes, *data;
    size_t         n, n_data;    /* bytes of the file, bytes of its data */
    Json           header;
} Shard;

struct CkptFiles {
    const char *shown, *config;  /* what messages call the whole, and its config.json */
    Shard      *shards;
    Entry      *entries;         /* by shard, then by offset */
    uint32_t   *slots;           /* hash table of names: index of an entry + 1; 0: free */
    size_t      n_shards, n_entries, slot_mask;
};

/* === One header =============================================================================== */

static const char incomplete[] = "the download may be incomplete: get the file again";

/* N, and that the header is all there; N is checked before it is used for anything. */
static size_t header_length(const Shard *s)
{
    const char *remedy, *shown = quoted(s->shown), *kind = file_kind(s->bytes, s->n, &remedy);
    uint64_t n = 0;
    for (size_t i = 0; i < 8 && i < s->n; i++) n |= (uint64_t)s->bytes[i] << (8 * i);
    bool plausible = s->n > 8 && n <= MAX_HEADER && s->bytes[8] == '{';
    if (kind && !plausible)
        die(EXIT_FILE, "%s: is %s, expected safetensors\n%s", shown, kind, remedy);
    if (s->n < 8)
        die(EXIT_FILE, "%s: has %zu bytes, expected at least 8 for the length of the header\n%s",
            shown, s->n, incomplete);
    if (n > MAX_HEADER)
        die(EXIT_FILE, "%s: its first 8 bytes promise a header of %llu bytes, expected at most %d\n"
            "it is no safetensors file, or one beyond that limit, which is the format's own", shown,
            LLU(n), MAX_HEADER);
    if (n > s->n - 8)
        die(EXIT_FILE, "%s: has %zu bytes, its first 8 promise a header of %llu\n%s", shown, s->n,
            LLU(n), incomplete);
    if (n < 2 || s->bytes[8] != '{')
        die(EXIT_FILE, "%s: its header of %llu bytes does not begin with '{', expected JSON\n"
            "it is no safetensors file, or a damaged one: get it again", shown, LLU(n));
    return (size_t)n;
}

static void read_header(Shard *s)
{
    size_t n = header_length(s);
    char *text = keep_bytes(n);                  /* the file may change while we look at it, */
    const char *end;                             /* and what was counted must be what is read */
    memcpy(text, s->bytes + 8, n);
    s->data = s->bytes + 8 + n;
    s->n_data = s->n - 8 - n;
    s->header = json_parse(scratch_string("%s: header", s->shown), text, n, 8, EXIT_FILE);
    for (size_t i = json_span(s->header, &end); i < n; i++)
        if (end[i] != ' ')
            die(EXIT_FILE, "%s: byte %zu after the header is 0x%02x, expected spaces only",
                quoted(s->shown), i, (unsigned char)end[i]);
    Json meta = json_get(s->header, "__metadata__");
    if (!meta.node) return;
    if (!json_is(meta, JSON_OBJECT)) json_error(meta, "is no object, expected {string: string}");
    for (Json m = json_first(meta); m.node; m = json_next(m))
        if (!json_is(m, JSON_STRING)) json_error(m, "is no string, expected one");
}

static size_t n_tensors(const Shard *s)
{
    return (size_t)json_len(s->header) - (json_get(s->header, "__metadata__").node != NULL);
}

static uint64_t whole_number(Json j)
{
    int64_t v;
    const char *text;
    size_t n = json_span(j, &text);
    if (!json_integer(j, &v) || *text == '-')
        json_error(j, "is %s, expected a whole number from 0 to 2^63 - 1",
                   quoted_n(text, n < 40 ? n : 40));
    return (uint64_t)v;
}

enum { DTYPE, DIMS, OFFSETS, N_FIELDS };

/* The fields of a tensor: each once, and no others. */
static void find_fields(Json field[N_FIELDS], Json tensor)
{
    static const char *const names[N_FIELDS] = { "dtype", "shape", "data_offsets" };
    if (!json_is(tensor, JSON_OBJECT))
        json_error(tensor, "is no object, expected one with dtype, shape and data_offsets");
    for (int i = 0; i < N_FIELDS; i++) field[i].node = NULL;
    for (Json j = json_first(tensor); j.node; j = json_next(j)) {
        size_t n;
        const char *key = json_key(j, &n);
        int i = 0;
        while (i < N_FIELDS && (strlen(names[i]) != n || memcmp(names[i], key, n))) i++;
        if (i == N_FIELDS)
            json_error(j, "is no field of a tensor, expected dtype, shape and data_offsets");
        field[i] = j;
    }
    for (int i = 0; i < N_FIELDS; i++)
        if (!field[i].node)
            json_error(tensor, "has no %s, expected dtype, shape and data_offsets", names[i]);
}

static Json array_field(Json j, int min, int max)
{
    if (!json_is(j, JSON_ARRAY)) json_error(j, "is no array, expected one");
    if (json_len(j) < min || json_len(j) > max)
        json_error(j, "has %d numbers, expected %s%d", json_len(j), min < max ? "at most " : "",
                   max);
    return j;
}

/* Do type and shape make as many bytes as the offsets span? */
static void check_size(const Entry *e, Json shape, Json offsets)
{
    uint64_t bits = (uint64_t)e->type->bits, size = e->end - e->begin;
    for (int i = 0; i < e->ndim; i++)
        if (__builtin_mul_overflow(bits, (uint64_t)e->dim[i], &bits))
            json_error(shape, "has more elements than 64 bits can count, expected fewer");
    if (bits % 8)
        json_error(shape, "makes %llu bits of %s, expected whole bytes", LLU(bits), e->type->name);
    if (bits / 8 != size)
        json_error(offsets, "spans %llu bytes, expected %llu for %s of this shape", LLU(size),
                   LLU(bits / 8), e->type->name);
}

/* One member of the header, "NAME": {...}. */
static void read_entry(Entry *e, Json t)
{
    size_t n;
    e->name = json_key(t, &n);
    e->n_name = n;
    if (n > MAX_NAME) json_error(t, "has a name of %zu bytes, expected at most %d", n, MAX_NAME);
    if (memchr(e->name, 0, n)) json_error(t, "has a zero byte in its name, expected none");
    Json field[N_FIELDS];
    find_fields(field, t);
    e->type_name = json_string(field[DTYPE], &n);
    if (!e->type_name || strlen(e->type_name) != n)
        json_error(field[DTYPE], "is not the name of a type, expected one such as F32");
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (!strcmp(types[i].name, e->type_name)) e->type = &types[i];

    Json shape = array_field(field[DIMS], 0, MAX_RANK), d = json_first(shape);
    for (; d.node; d = json_next(d)) e->dim[e->ndim++] = (int64_t)whole_number(d);
    Json offsets = array_field(field[OFFSETS], 2, 2);
    e->begin = whole_number(json_first(offsets));
    e->end   = whole_number(json_next(json_first(offsets)));
    if (e->end < e->begin)
        json_error(offsets, "begins at %llu and ends at %llu, expected an end that is no smaller",
                   LLU(e->begin), LLU(e->end));
    if (e->type) check_size(e, shape, offsets);
}

static int by_offset(const void *a, const void *b)
{
    const Entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* No overlap, no hole, and the last tensor ends with the file. */
static void check_layout(const Shard *s, const Entry *e, size_t n)
{
    uint64_t at = 0;
    for (size_t i = 0; i < n; at = e[i++].end) {
        if (e[i].begin > at)
            die(EXIT_FILE, "%s: bytes %llu to %llu of the data, before tensor %s, belong to none,"
                " expected no hole", quoted(s->shown), LLU(at), LLU(e[i].begin), quoted(e[i].name));
        if (e[i].begin < at)
            die(EXIT_FILE, "%s: tensor %s begins at byte %llu of the data and %s ends at %llu,"
                " expected no overlap", quoted(s->shown), quoted(e[i].name), LLU(e[i].begin),
                quoted(e[i - 1].name), LLU(at));
    }
    uint64_t head = (uint64_t)(s->data - s->bytes);
    if (at > s->n_data)
        die(EXIT_FILE, "%s: has %zu bytes, its header promises %llu\n%s", quoted(s->shown), s->n,
            LLU(head + at), incomplete);
    if (at < s->n_data)
        die(EXIT_FILE, "%s: has %zu bytes, its header promises %llu: expected none after the last"
            " tensor", quoted(s->shown), s->n, LLU(head + at));
}

/* === The table ================================================================================ */

static uint32_t *find_slot(const CkptFiles *f, const char *name, size_t n)
{
    size_t i = hash_bytes(name, n, 0) & f->slot_mask;
    for (; f->slots[i]; i = (i + 1) & f->slot_mask) {
        const Entry *e = &f->entries[f->slots[i] - 1];
        if (e->n_name == n && !memcmp(e->name, name, n)) break;
    }
    return &f->slots[i];
}

static Entry *find_entry(const CkptFiles *f, const char *name, size_t n)
{
    uint32_t slot = *find_slot(f, name, n);
    return slot ? &f->entries[slot - 1] : NULL;
}

static const char *shape_text(int ndim, const int64_t *dim)
{
    const char *s = "";
    for (int i = 0; i < ndim; i++)
        s = scratch_string("%s%s%lld", s, i ? ", " : "", (long long)dim[i]);
    return scratch_string("[%s]", s);
}

/* Of a shard whose metadata has "mm.blocks": every other key is the name of a tensor, its value
 * "Q8 [n, k]" or "Q4 [n, k]". The tensor is U8 [ceil(n/8), ceil(k/32), bytes of a block]. */
static void read_blocks(CkptFiles *f, const Shard *s, Json meta)
{
    Json version = json_get(meta, "mm.blocks");
    const char *v = json_string(version, NULL);
    if (!version.node) return;
    if (!v || strcmp(v, "1"))
        json_error(version, "is %s, expected 1: the file is of another version of mm", quoted(v));
    for (Json m = json_first(meta); m.node; m = json_next(m)) {
        size_t n_name;
        int n = 0, k = 0, end = 0;
        char type[3] = "";
        const char *name = json_key(m, &n_name), *text = json_string(m, NULL);
        if (!strncmp(name, "mm.", 3) || !strcmp(name, "format")) continue;
        Entry *e = find_entry(f, name, n_name);
        if (!e || &f->shards[e->shard] != s) json_error(m, "is no tensor of this file");
        bool ok = sscanf(text, "Q%1[48] [%9d, %9d]%n", type, &n, &k, &end) == 3 && end &&
                  !text[end] && n > 0 && k > 0;
        if (!ok) json_error(m, "is %s, expected such as Q8 [4096, 4096]", quoted(text));
        e->blocks = type[0] == '8' ? Q8 : Q4;
        e->n = n;
        e->k = k;
        int64_t want[3] = { (n + 7) / 8, (k + 31) / 32, (int64_t)quant_bytes(e->blocks, 1, 1) };
        if (!e->type || e->type->dtype != U8 || e->ndim != 3 || memcmp(e->dim, want, sizeof want))
            json_error(m, "is %s, which is U8 %s, but the tensor is %s %s", text,
                       shape_text(3, want), e->type_name, shape_text(e->ndim, e->dim));
    }
}

/* Adds the tensors of a shard to the table. */
static void add_entries(CkptFiles *f, int shard)
{
    Shard *s = &f->shards[shard];
    Entry *first = f->entries + f->n_entries, *e = first;
    Json meta = json_get(s->header, "__metadata__");         /* {0}, or the one that is no tensor */
    bool sorted = true;
    for (Json t = json_first(s->header); t.node; t = json_next(t)) {
        if (json_offset(t) == json_offset(meta)) continue;
        e->shard = shard;
        e->blocks = OTHER;
        read_entry(e, t);
        sorted &= e == first || by_offset(e - 1, e) < 0;
        e++;
    }
    size_t n = (size_t)(e - first);
    if (!sorted) qsort(first, n, sizeof *first, by_offset);
    check_layout(s, first, n);
    for (e = first; e < first + n; e++) {
        e->data = s->data + e->begin;
        uint32_t *slot = find_slot(f, e->name, e->n_name);
        if (*slot)
            die(EXIT_FILE, "%s: tensor %s is in %s too, expected in one shard", quoted(s->shown),
                quoted(e->name), quoted(f->shards[f->entries[*slot - 1].shard].name));
        *slot = (uint32_t)++f->n_entries;
    }
    read_blocks(f, s, meta);
}

/* Checks all shards, whose names and bytes are set, and fills the table. */
static void read_shards(CkptFiles *f)
{
    size_t n = 0, n_slots = 2;
    for (size_t i = 0; i < f->n_shards; i++) {
        read_header(&f->shards[i]);
        n += n_tensors(&f->shards[i]);
    }
    while (n_slots < 2 * n) n_slots *= 2;
    f->entries = keep_bytes(mul_size(n, sizeof(Entry)));
    f->slots = keep_bytes(mul_size(n_slots, sizeof(uint32_t)));
    f->slot_mask = n_slots - 1;
    for (size_t i = 0; i < f->n_shards; i++) add_entries(f, (int)i);
}

/* One file is the whole checkpoint. */
static void use_single(CkptFiles *f, const char *name, const char *shown, const uint8_t *bytes,
                       size_t n)
{
    f->shown = shown;
    f->n_shards = 1;
    f->shards = keep_bytes(sizeof(Shard));
    f->shards[0] = (Shard){ .name = name, .shown = shown, .bytes = bytes, .n = n };
    read_shards(f);
}

Ckpt ckpt_parse(const char *name, const uint8_t *bytes, size_t n)
{
    CkptFiles *f = keep_bytes(sizeof *f);
    f->config = "config.json";
    use_single(f, keep_string("%s", name), keep_string("%s", name), bytes, n);
    return (Ckpt){ .files = f };
}

/* === The files of a directory ================================================================= */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* ^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$ : a file here, whatever the system makes of names. */
static bool is_shard_name(const char *s)
{
    static const char allowed[] =
        "._-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    return strspn(s, allowed) == strlen(s) && !strchr("._-", s[0]) && ends_with(s, ".safetensors");
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The shards that weight_map names, each once, in the order of their names. */
static void find_shards(CkptFiles *f, const char *dir, Json map)
{
    if (!json_is(map, JSON_OBJECT) || !json_len(map))
        die(EXIT_FILE, "%s: key weight_map is not there or empty, expected {tensor: shard}",
            quoted(f->shown));
    size_t mark = scratch_mark(), n = 0, n_names = (size_t)json_len(map);
    const char **names = scratch_bytes(mul_size(n_names, sizeof *names));
    for (Json m = json_first(map); m.node; m = json_next(m), n++) {
        size_t len;
        names[n] = json_string(m, &len);
        if (!names[n] || strlen(names[n]) != len || !is_shard_name(names[n]))
            json_error(m, "is %s, expected the name of a .safetensors file in the same directory",
                       names[n] ? quoted_n(names[n], len) : "no string");
    }
    qsort(names, n_names, sizeof *names, by_name);
    for (size_t i = n = 0; i < n_names; i++)
        if (!i || strcmp(names[i], names[i - 1])) names[n++] = names[i];
    f->shards = keep_bytes(mul_size(n, sizeof(Shard)));
    f->n_shards = n;
    for (size_t i = 0; i < n; i++) {
        Shard *s = &f->shards[i];
        s->name = names[i];
        s->shown = keep_string("%s/%s", dir, names[i]);
        s->bytes = model_map(dir, s->name, &s->n);
        if (!s->bytes)
            die(EXIT_FILE, "%s: shard %zu of %zu is missing, expected all that %s names\n"
                "download the model again", quoted(s->shown), i + 1, n, quoted(f->shown));
    }
    scratch_reset(mark);
}

/* Each name of weight_map is in just that shard, and there is no other. */
static void check_map(const CkptFiles *f, Json map)
{
    for (Json m = json_first(map); m.node; m = json_next(m)) {
        size_t n;
        const char *name = json_key(m, &n), *shard = json_string(m, NULL);
        const Entry *e = find_entry(f, name, n);
        if (!e || strcmp(f->shards[e->shard].name, shard))
            json_error(m, "is %s, but the tensor is in %s", quoted(shard),
                       e ? quoted(f->shards[e->shard].name) : "no shard");
    }
    for (size_t i = 0; i < f->n_entries; i++)
        if (!json_get(map, f->entries[i].name).node)
            die(EXIT_FILE, "%s: tensor %s is not in the weight_map of %s, expected there",
                quoted(f->shards[f->entries[i].shard].shown), quoted(f->entries[i].name),
                quoted(f->shown));
}

/* Neither model.safetensors nor a list of shards: the name of the only *.safetensors there is. */
static const char *only_safetensors(const char *dir)
{
    static const struct { const char *end, *remedy; } others[] = {
        { ".bin", CONVERT_IT }, { ".pt", CONVERT_IT }, { ".pth", CONVERT_IT },
        { ".ckpt", CONVERT_IT }, { ".pkl", SAVE_PRETRAINED }, { ".h5", SAVE_PRETRAINED },
        { ".msgpack", SAVE_PRETRAINED },
        { ".gguf", GET_SAFETENSORS }, { ".onnx", GET_SAFETENSORS },
    };
    const char *found = NULL, *other = NULL, *remedy = "download the model's safetensors files";
    int n = 0;
    DIR *d = opendir(dir);
    if (!d) die(EXIT_FILE, "%s: cannot be opened: %s", quoted(dir), strerror(errno));
    for (struct dirent *e; (e = readdir(d)); ) {         /* in no order: the first name counts */
        if (e->d_name[0] == '.') continue;
        if (ends_with(e->d_name, ".safetensors")) {
            n++;
            if (!found || strcmp(e->d_name, found) < 0) found = keep_string("%s", e->d_name);
        }
        for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
            if (!ends_with(e->d_name, others[i].end)) continue;
            if (other && strcmp(e->d_name, other) > 0) continue;
            other = keep_string("%s", e->d_name);
            remedy = others[i].remedy;
        }
    }
    closedir(d);
    if (n > 1)
        die(EXIT_FILE, "%s: has %d files *.safetensors (%s, ...), expected one\n"
            "if one of them is the whole model, name it model.safetensors", quoted(dir), n,
            quoted(found));
    if (!n)
        die(EXIT_FILE, "%s: has %s, expected model.safetensors\n%s", quoted(dir),
            other ? quoted(other) : "no weights", remedy);
    return found;
}

Ckpt ckpt_open(const char *dir)
{
    size_t n, n_index;
    CkptFiles *f = keep_bytes(sizeof *f);
    f->config = keep_string("%s/config.json", dir);
    const uint8_t *bytes = model_map(dir, "model.safetensors", &n);
    const char *list = "model.safetensors.index.json";
    char *index = bytes ? NULL : model_file(dir, list, MAX_INDEX, &n_index);
    if (index) {
        f->shown = keep_string("%s/%s", dir, list);
        Json map = json_get(json_parse(f->shown, index, n_index, 8, EXIT_FILE), "weight_map");
        find_shards(f, dir, map);
        read_shards(f);
        check_map(f, map);
    } else {
        const char *name = "model.safetensors";
        if (!bytes) bytes = model_map(dir, name = only_safetensors(dir), &n);
        if (!bytes) die(EXIT_FILE, "%s/%s: is gone, expected a file", quoted(dir), quoted(name));
        use_single(f, name, keep_string("%s/%s", dir, name), bytes, n);
    }
    return (Ckpt){ .files = f };
}

/* === Asking for tensors ======================================================================= */

Ckpt ckpt_at(Ckpt ck, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    size_t at = strlen(ck.prefix), room = sizeof ck.prefix - at;
    int n = vsnprintf(ck.prefix + at, room, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= room) bug("ckpt_at: prefix %s is too long", quoted(ck.prefix));
    return ck;
}

typedef struct { char s[MAX_NAME + 1]; } FullName;

static Entry *look_up(FullName *full, Ckpt ck, const char *name)
{
    int n = snprintf(full->s, sizeof full->s, "%s%s", ck.prefix, name);
    if (n < 0 || (size_t)n >= sizeof full->s) bug("ckpt: name %s is too long", quoted(full->s));
    return find_entry(ck.files, full->s, (size_t)n);
}

bool ckpt_has(Ckpt ck, const char *name)
{
    FullName full;
    return look_up(&full, ck, name) != NULL;
}

/* The name in the table that ends most like the one that is missing, if whole parts of it agree. */
static const char *similar_name(const CkptFiles *f, const char *name)
{
    size_t n = strlen(name), best = 0;
    const char *found = NULL;
    for (size_t i = 0; i < f->n_entries; i++) {
        const char *other = f->entries[i].name;
        size_t m = strlen(other), same = 0, whole = 0;
        while (same < n && same < m && name[n - same - 1] == other[m - same - 1])
            if (name[n - ++same] == '.') whole = same;
        if (same == n || same == m) whole = same + 1;
        if (whole > best) best = whole, found = other;
    }
    return best > 8 ? found : NULL;              /* more than ".weight" */
}

static _Noreturn void missing(const CkptFiles *f, const char *name)
{
    const char *like = similar_name(f, name);
    die(EXIT_FILE, "%s: tensor %s is missing, expected among the %zu that are there\n"
        "%s%s%sis %s that of another model?", quoted(f->shown), quoted(name), f->n_entries,
        like ? "there is " : "", like ? quoted(like) : "", like ? "; " : "", quoted(f->config));
}

/* A type that mm computes with, or dies. */
static DType computable(const CkptFiles *f, const Entry *e)
{
    DType t = e->type ? e->type->dtype : OTHER;
    if (e->blocks != OTHER)
        die(EXIT_FILE, "%s: tensor %s is quantised (%s [%d, %d]), expected F32, F16 or BF16: it is "
            "none of those that mm quantizes\nquantize the model again",
            quoted(f->shards[e->shard].shown), quoted(e->name), dtype_name(e->blocks), e->n, e->k);
    if (t == F32 || t == F16 || t == BF16) return t;
    die(EXIT_FILE, "%s: tensor %s is %s %s, expected F32, F16 or BF16, which mm computes with\n"
        "get the model with 32- or 16-bit weights", quoted(f->shards[e->shard].shown),
        quoted(e->name), quoted(e->type_name), shape_text(e->ndim, e->dim));
}

Tensor ckpt_opt_shape(Ckpt ck, const char *name, int ndim, const int *dim)
{
    FullName full;
    const CkptFiles *f = ck.files;
    Entry *e = look_up(&full, ck, name);
    if (!e) return (Tensor){ 0 };
    if (ndim < 0 || ndim > 4) bug("ckpt: %s of rank %d", full.s, ndim);
    Tensor t = { .dtype = computable(f, e), .ndim = ndim, .name = e->name };
    int64_t want[4];
    bool same = ndim == e->ndim;
    for (int i = 0; i < ndim; i++) {
        want[i] = t.dim[i] = dim[i];
        same = same && want[i] == e->dim[i];
    }
    if (!same)
        die(EXIT_FILE, "%s: tensor %s is %s %s, expected %s\n"
            "%s says so: are it and the weights from the same model?",
            quoted(f->shards[e->shard].shown), quoted(e->name), e->type_name,
            shape_text(e->ndim, e->dim), shape_text(ndim, want), quoted(f->config));
    if ((uintptr_t)e->data % dtype_size(t.dtype)) {
        size_t n = (size_t)(e->end - e->begin);
        e->data = memcpy(keep_bytes(n), e->data, n);
    }
    e->used = true;
    t.data = (void *)(uintptr_t)e->data;         /* read-only: writing to it would crash */
    return t;
}

Tensor ckpt_get_shape(Ckpt ck, const char *name, int ndim, const int *dim)
{
    FullName full;
    if (!look_up(&full, ck, name)) missing(ck.files, full.s);
    return ckpt_opt_shape(ck, name, ndim, dim);
}

Tensor ckpt_matrix(Ckpt ck, const char *name, int n, int k, MatrixUse use)
{
    FullName full;
    const CkptFiles *f = ck.files;
    Entry *e = look_up(&full, ck, name);
    if (!e) missing(f, full.s);
    e->use = use;
    if (e->blocks == OTHER) return ckpt_get(ck, name, n, k);
    if (e->n != n || e->k != k)
        die(EXIT_FILE, "%s: tensor %s is %s [%d, %d], expected [%d, %d]\n"
            "%s says so: are it and the weights from the same model?",
            quoted(f->shards[e->shard].shown), quoted(e->name), dtype_name(e->blocks), e->n, e->k,
            n, k, quoted(f->config));
    if ((uintptr_t)e->data % sizeof(uint16_t)) {
        size_t bytes = (size_t)(e->end - e->begin);
        e->data = memcpy(keep_bytes(bytes), e->data, bytes);
    }
    e->used = true;
    return (Tensor){ .data = (void *)(uintptr_t)e->data, .dtype = e->blocks, .ndim = 2,
                     .dim = { n, k }, .name = e->name };
}

static float half_to_float(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    float v = exponent == 31 ? (fraction ? NAN : INFINITY)
            : exponent ? ldexpf((float)(1024 + fraction), exponent - 25)
            : ldexpf((float)fraction, -24);
    return h >> 15 ? -v : v;
}

float ckpt_scalar(Ckpt ck, const char *name)
{
    FullName full;
    const CkptFiles *f = ck.files;
    Entry *e = look_up(&full, ck, name);
    if (!e) missing(f, full.s);
    DType t = computable(f, e);
    if (e->ndim > 1 || (e->ndim == 1 && e->dim[0] != 1))
        die(EXIT_FILE, "%s: tensor %s is %s %s, expected one number: [] or [1]",
            quoted(f->shards[e->shard].shown), quoted(e->name), e->type_name,
            shape_text(e->ndim, e->dim));
    e->used = true;
    uint16_t half;
    uint32_t bits;
    memcpy(&half, e->data, sizeof half);
    if (t == F16) return half_to_float(half);
    if (t == BF16) bits = (uint32_t)half << 16;
    else memcpy(&bits, e->data, sizeof bits);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* === What is left over ======================================================================== */

void ckpt_ignore(Ckpt ck, const char *pattern)
{
    FullName full;
    const char *star = strchr(pattern, '*');
    if (!star) {
        Entry *e = look_up(&full, ck, pattern);
        if (e) e->known = true;
        return;
    }
    int n = snprintf(full.s, sizeof full.s, "%s%.*s", ck.prefix, (int)(star - pattern), pattern);
    if (n < 0 || (size_t)n >= sizeof full.s) bug("ckpt_ignore: %s is too long", pattern);
    for (size_t i = 0; i < ck.files->n_entries; i++) {
        Entry *e = &ck.files->entries[i];
        e->known |= !strncmp(e->name, full.s, (size_t)n) && ends_with(e->name + n, star + 1);
    }
}

void ckpt_done(Ckpt ck)
{
    enum { SHOWN = 4 };
    const CkptFiles *f = ck.files;
    const char *list = "";
    size_t n = 0;
    for (size_t i = 0; i < f->n_entries; i++) {
        const Entry *e = &f->entries[i];
        if (e->used || e->known) continue;
        if (n++ < SHOWN) list = scratch_string("%s%s%s", list, n > 1 ? ", " : "", quoted(e->name));
    }
    if (n)
        die(EXIT_FILE, "%s: has %zu tensor%s that this architecture does not have, expected none:"
            " %s%s\nis %s that of another model?", quoted(f->shown), n, n > 1 ? "s" : "", list,
            n > SHOWN ? ", ..." : "", quoted(f->config));
}

int ckpt_count(Ckpt ck) { return (int)ck.files->n_entries; }

CkptEntry ckpt_entry(Ckpt ck, int i)
{
    if (i < 0 || i >= ckpt_count(ck)) bug("ckpt_entry %d of %d", i, ckpt_count(ck));
    const Entry *e = &ck.files->entries[i];
    const Shard *s = &ck.files->shards[e->shard];
    CkptEntry out = { .name = e->name, .dtype = e->type_name, .file = s->name, .ndim = e->ndim,
                      .offset = (uint64_t)(s->data - s->bytes) + e->begin,
                      .n_bytes = e->end - e->begin, .data = s->data + e->begin,
                      .used = e->used, .use = e->use, .blocks = e->blocks };
    if (e->blocks != OTHER) {
        out.dtype = dtype_name(e->blocks);
        out.ndim = 2;
        out.dim[0] = e->n;
        out.dim[1] = e->k;
        return out;
    }
    memcpy(out.dim, e->dim, sizeof out.dim);
    return out;
}

uint64_t ckpt_bytes(Ckpt ck)
{
    uint64_t n = 0;
    for (size_t i = 0; i < ck.files->n_shards; i++) n += ck.files->shards[i].n_data;
    return n;
}
