/* torch.c -- what torch.save() wrote, as a list of weights in the mapped file.
 *
 *   since 1.6   a ZIP archive: NAME/data.pkl, a pickle; NAME/data/KEY, the bytes of each storage
 *   before      pickles one after the other: magic number, version, the machine, the object, the
 *               keys of the storages; then for each key the number of elements (8 bytes) and them
 *
 * Source: torch/serialization.py and torch/_utils.py of PyTorch 2.13. In the pickle a tensor is
 *
 *   _rebuild_tensor_v2(("storage", FloatStorage, KEY, "cpu", n), offset, shape, strides, ...)
 *
 * where the storage comes through the opcode BINPERSID. Several tensors may be windows on one
 * storage (tied weights, slices); each becomes a weight of its own.
 *
 * Which dictionary is the model: the outermost one, or, where it has none of the weights itself or
 * wraps them, what it has under one of the names in `wrappers` (trainers write the model beside the
 * optimizer), and so on inward. Entries that are no tensors are left out. --key names another.
 *
 * Easy to get wrong:
 *   - A shape of 0 elements may have any strides, and an offset at the end of its storage.
 *   - Some types (float8) have no storage of their own: their storage is untyped, counted in bytes,
 *     and _rebuild_tensor_v3 names the type.
 *   - A storage may be referred to before it is read (the old form), and with several types.
 *   - "conj" and "neg" in the metadata mean that the numbers are not what the storage says. */
#include <string.h>

#include "convert.h"

enum { MAX_DEPTH = 8, MAX_PICKLE = 1 << 28, MAX_KEY = 256, MAX_FOUND = 1 << 19 };

typedef struct { const char *torch, *storage, *safetensors; int size; } Type;
static const Type types[] = {
    { "torch.float32", "torch.FloatStorage", "F32", 4 },
    { "torch.float16", "torch.HalfStorage", "F16", 2 },
    { "torch.bfloat16", "torch.BFloat16Storage", "BF16", 2 },
    { "torch.float64", "torch.DoubleStorage", "F64", 8 },
    { "torch.int64", "torch.LongStorage", "I64", 8 },
    { "torch.int32", "torch.IntStorage", "I32", 4 },
    { "torch.int16", "torch.ShortStorage", "I16", 2 },
    { "torch.int8", "torch.CharStorage", "I8", 1 },
    { "torch.uint8", "torch.ByteStorage", "U8", 1 },
    { "torch.bool", "torch.BoolStorage", "BOOL", 1 },
    { "torch.complex64", "torch.ComplexFloatStorage", "C64", 8 },
    { "torch.complex128", "torch.ComplexDoubleStorage", NULL, 16 },
    { "torch.uint16", "", "U16", 2 },
    { "torch.uint32", "", "U32", 4 },
    { "torch.uint64", "", "U64", 8 },
    { "torch.float8_e4m3fn", "", "F8_E4M3", 1 },
    { "torch.float8_e5m2", "", "F8_E5M2", 1 },
    { "torch.float8_e8m0fnu", "", "F8_E8M0", 1 },
    { "torch.float8_e4m3fnuz", "", "F8_E4M3FNUZ", 1 },
    { "torch.float8_e5m2fnuz", "", "F8_E5M2FNUZ", 1 },
    { "torch.uint8", "torch.storage.UntypedStorage", "U8", 1 },
    { "torch.uint8", "torch.UntypedStorage", "U8", 1 },
};
enum { N_TYPES = sizeof types / sizeof types[0] };

/* The bytes under one key; in the old form they are found after the pickle. */
typedef struct Block {
    struct Block  *next;             /* with the same hash */
    const char    *key;
    size_t         n_key;
    const uint8_t *data;             /* NULL: not found yet */
    size_t         n;                /* bytes */
    int            size;             /* of an element, where it was referred to first */
} Block;

/* A window on a block, as one reference sees it. */
typedef struct { Block *block; const Type *type; uint64_t first, n; } Storage;       /* bytes */

/* A tensor before its block is known to be there. */
typedef struct { Weight w; const Type *type; const Block *block; uint64_t first; } Found;

typedef struct {
    const char *shown;
    bool        old;                 /* the form before the ZIP archive */
    Zip         zip;
    const char *root;                /* "NAME/" */
    size_t      n_root, n_blocks, n_found;
    Block      *blocks[4096];        /* by hash */
} Torch;

static const Type *type_named(const Value *v, bool storage)
{
    for (int i = 0; i < N_TYPES; i++)
        if (v->kind == V_GLOBAL && value_is(v, storage ? types[i].storage : types[i].torch))
            return &types[i];
    return NULL;
}

/* === Storages ================================================================================= */

static Block *block_of(Torch *t, const Value *key)
{
    size_t n_slots = sizeof t->blocks / sizeof t->blocks[0];
    Block **at = &t->blocks[hash_bytes(key->text, key->n, 0) % n_slots];
    for (Block *b = *at; b; b = b->next)
        if (b->n_key == key->n && !memcmp(b->key, key->text, key->n)) return b;
    Block *b = scratch_bytes(sizeof *b);
    *b = (Block){ .next = *at, .key = key->text, .n_key = key->n };
    t->n_blocks++;
    return *at = b;
}

/* It becomes part of a record's name: no zero byte. */
static bool is_key(const Value *v)
{
    return v->kind == V_TEXT && v->n <= MAX_KEY && !memchr(v->text, 0, v->n);
}

/* n elements of a type, in bytes. */
static uint64_t whole_bytes(const Pickle *p, int64_t n, int size)
{
    uint64_t bytes;
    if (n < 0 || __builtin_mul_overflow((uint64_t)n, (uint64_t)size, &bytes))
        pickle_error(p, "a storage has %lld elements", (long long)n);
    return bytes;
}

/* The record NAME/data/KEY, of just this size. */
static void find_record(const Pickle *p, Torch *t, Block *b, uint64_t n)
{
    const char *name = scratch_string("data/%.*s", (int)b->n_key, b->key);
    const ZipRecord *r = zip_find(&t->zip, t->root, t->n_root, name, b->n_key + 5);
    if (!r) pickle_error(p, "there is no record %s with a tensor's data", quoted(name));
    if (r->method)
        die(EXIT_FILE, "%s: record %s is compressed, expected it stored as torch.save() does\n"
            "unpack the archive and pack it again with `zip -0 -r`", quoted(t->shown),
            quoted(name));
    if (r->n != n)
        pickle_error(p, "record %s has %zu bytes, its storage %llu", quoted(name), r->n,
                     (unsigned long long)n);
    b->data = r->data;
    b->n = r->n;
}

/* In the old form a storage may be a window on another: (key, offset, elements). */
static void narrow(const Pickle *p, Storage *s, const Value *view)
{
    if (view->kind == V_NONE) return;
    if (view->kind != V_TUPLE || view->n != 3 || view->item[1]->kind != V_INT
        || view->item[2]->kind != V_INT)
        pickle_error(p, "a view of a storage is no (key, int, int)");
    uint64_t first = whole_bytes(p, view->item[1]->number, s->type->size);
    uint64_t n = whole_bytes(p, view->item[2]->number, s->type->size);
    if (first > s->n || n > s->n - first)
        pickle_error(p, "a view of a storage (%llu bytes at %llu) is outside of its %llu",
                     (unsigned long long)n, (unsigned long long)first, (unsigned long long)s->n);
    s->first = first;
    s->n = n;
}

/* ("storage", type, key, device, elements), in the old form with a view: a STORAGE. */
static Value *load_storage(Pickle *p, const Value *id)
{
    Torch *t = p->ctx;
    bool module = id->kind == V_TUPLE && id->n && value_is(id->item[0], "module");
    if (id->kind != V_TUPLE || id->n != (t->old ? 6 : 5) || !value_is(id->item[0], "storage")
        || id->item[4]->kind != V_INT) {
        if (!module) pickle_error(p, "what stands for a storage is no (\"storage\", type, ..)");
        Value *v = pickle_value(p, V_OBJECT);              /* source code of a class: not needed */
        v->text = "torch.nn.Module";
        v->n = (uint32_t)strlen(v->text);
        return v;
    }
    const Type *type = type_named(id->item[1], true);
    Value *v = pickle_value(p, type ? V_STORAGE : V_OBJECT);
    v->loaded = true;
    if (!type) {                                         /* matters if a tensor is made of it */
        bool named = id->item[1]->kind == V_GLOBAL;
        v->text = named ? id->item[1]->text : "a storage of no type";
        v->n = (uint32_t)strlen(v->text);
        return v;
    }
    if (!is_key(id->item[2])) pickle_error(p, "the key of a storage is no short text");
    Block *b = block_of(t, id->item[2]);
    uint64_t n = whole_bytes(p, id->item[4]->number, type->size);
    bool first = !b->size;
    if (first) b->size = type->size;
    if (first && t->old) b->n = (size_t)n;
    if (first && !t->old) find_record(p, t, b, n);
    if (n > b->n)
        pickle_error(p, "a storage of %zu bytes is said to have %llu", b->n, (unsigned long long)n);
    Storage *s = scratch_bytes(sizeof *s);
    *s = (Storage){ .block = b, .type = type, .n = n };
    if (t->old) narrow(p, s, id->item[5]);
    v->made = s;
    return v;
}

/* === Tensors ================================================================================== */

static int64_t item_number(const Pickle *p, const Value *list, uint32_t i)
{
    const Value *v = list->item[i];
    if (v->kind != V_INT || v->number < 0)
        pickle_error(p, "a tensor has a shape, stride or offset that is no number, or below 0");
    return v->number;
}

/* Shape and strides; the elements they reach must lie in the storage. */
static void shape_weight(const Pickle *p, Found *t, const Storage *s, int64_t offset,
                         const Value *shape, const Value *strides)
{
    Weight *w = &t->w;
    uint64_t last = 0, step, room = s->n / (uint64_t)w->size;
    w->ndim = (int)shape->n;
    w->n = 1;
    bool fits = true;
    for (int i = 0; i < w->ndim; i++) {
        w->dim[i] = item_number(p, shape, (uint32_t)i);
        w->stride[i] = item_number(p, strides, (uint32_t)i);
        fits = fits && !__builtin_mul_overflow(w->n, (uint64_t)w->dim[i], &w->n);
        if (!w->dim[i]) continue;
        fits = fits && !__builtin_mul_overflow((uint64_t)w->dim[i] - 1, (uint64_t)w->stride[i],
                                               &step)
                    && !__builtin_add_overflow(last, step, &last);
    }
    for (int i = 0; i < w->ndim; i++)                    /* whatever the others, it is empty */
        if (!w->dim[i]) w->n = 0, fits = true;
    if (w->n == 0) last = 0;
    bool inside = fits && (uint64_t)offset <= room
               && (w->n == 0 || (last < room && (uint64_t)offset < room - last));
    if (!inside || w->n > UINT64_MAX / 64)
        pickle_error(p, "a tensor %s reaches beyond its storage of %llu elements", weight_shape(w),
                     (unsigned long long)room);
    t->block = s->block;
    t->first = s->first + (uint64_t)offset * (uint64_t)w->size;
}

/* (storage, offset, shape, strides, ...); type: NULL, or what v3 says. */
static Value *rebuild_tensor(Pickle *p, const Value *args, const Type *type)
{
    if (args->n < 4) pickle_error(p, "a tensor is made of %u things, expected 4", args->n);
    const Value *shape = args->item[2], *strides = args->item[3];
    if (args->item[0]->kind != V_STORAGE) return NULL;     /* a type that nobody here knows */
    bool lists = (shape->kind == V_TUPLE || shape->kind == V_LIST)
              && (strides->kind == V_TUPLE || strides->kind == V_LIST) && shape->n == strides->n;
    if (!lists) pickle_error(p, "a tensor has no shape, or not as many strides as dimensions");
    if (shape->n > MAX_RANK)
        pickle_error(p, "a tensor has %u dimensions, safetensors at most %d", shape->n, MAX_RANK);
    const Storage *s = args->item[0]->made;
    Torch *torch = p->ctx;
    if (++torch->n_found > MAX_FOUND)
        pickle_error(p, "it has more than %d tensors, which no model needs", MAX_FOUND);
    Found *t = scratch_bytes(sizeof *t);
    memset(t, 0, sizeof *t);
    t->type = type ? type : s->type;
    t->w.size = t->type->size;
    t->w.type = t->type->safetensors ? t->type->safetensors : t->type->torch;
    shape_weight(p, t, s, item_number(p, args, 1), shape, strides);
    Value *v = pickle_value(p, V_WEIGHT);
    v->loaded = true;
    v->made = t;
    return v;
}

/* The metadata that v2 has in place 6 and v3 in place 7: only an empty one changes nothing. */
static bool has_metadata(const Value *args, uint32_t place)
{
    return args->n > place && args->item[place]->kind != V_NONE
        && !(args->item[place]->kind == V_DICT && !args->item[place]->n);
}

/* An OrderedDict, made of nothing or of a list of pairs. */
static Value *make_dict(Pickle *p, const Value *args)
{
    Value *v = pickle_value(p, V_DICT);
    if (!args->n || args->item[0]->kind != V_LIST) return v;
    const Value *pairs = args->item[0];
    pickle_spend(p, pairs->n);
    v->item = scratch_bytes(mul_size(pairs->n, 2 * sizeof *v->item));
    for (uint32_t i = 0; i < pairs->n; i++) {
        const Value *pair = pairs->item[i];
        if ((pair->kind != V_TUPLE && pair->kind != V_LIST) || pair->n != 2)
            pickle_error(p, "a dictionary is made of what are no pairs");
        v->item[v->n++] = pair->item[0];
        v->item[v->n++] = pair->item[1];
        v->loaded |= pair->loaded;
    }
    v->room = v->n;
    return v;
}

/* The functions that torch.save() has in its pickles, and what they would do. */
static Value *call(Pickle *p, const Value *function, const Value *args)
{
    const char *name = function->text;
    Value *first = args->n ? args->item[0] : NULL, *v = NULL;
    bool ours = !strncmp(name, "torch._utils.", 13) || !strncmp(name, "torch._tensor.", 14);
    if (!strcmp(name, "collections.OrderedDict")) return make_dict(p, args);
    if (!strcmp(name, "collections.defaultdict")) return pickle_value(p, V_DICT);
    if (!strcmp(name, "torch.Size")) return first && first->kind != V_OBJECT ? first : NULL;
    if (!strcmp(name, "torch._utils._rebuild_tensor")) v = rebuild_tensor(p, args, NULL);
    if (!strcmp(name, "torch._utils._rebuild_tensor_v2") && !has_metadata(args, 6))
        v = rebuild_tensor(p, args, NULL);
    if (!strcmp(name, "torch._utils._rebuild_tensor_v3") && !has_metadata(args, 7)) {
        const Type *type = args->n > 6 ? type_named(args->item[6], false) : NULL;
        if (type) v = rebuild_tensor(p, args, type);
    }
    bool parameter = !strcmp(name, "torch._utils._rebuild_parameter")
                  || !strcmp(name, "torch._utils._rebuild_parameter_with_state");
    if (parameter && first && first->kind == V_WEIGHT) return first;
    if (!strcmp(name, "torch._tensor._rebuild_from_type_v2") && args->n > 2
        && args->item[2]->kind == V_TUPLE && first->kind == V_GLOBAL
        && (value_is(args->item[1], "torch.Tensor")
            || value_is(args->item[1], "torch.nn.parameter.Parameter")
            || value_is(args->item[1], "torch.nn.parameter.Buffer"))
        && strcmp(first->text, name)) v = call(p, first, args->item[2]);
    if (v || !(ours || !strncmp(name, "numpy", 5))) return v;
    v = pickle_value(p, V_OBJECT);             /* a tensor, or an array, of a kind not known here */
    v->text = name;
    v->n = function->n;
    v->loaded = ours || strstr(name, "_reconstruct");
    return v;
}

/* === Which of it is the model ================================================================= */

static bool has_weights(const Value *v)
{
    for (uint32_t i = 1; v->kind == V_DICT && i < v->n; i += 2)
        if (v->item[i]->kind == V_WEIGHT) return true;
    return false;
}

/* "a, b, c": the entries that hold dictionaries with weights, for a message. */
static const char *candidates(const Value *v)
{
    const char *list = "";
    for (uint32_t i = 0, n = 0; v->kind == V_DICT && i + 1 < v->n && i < 200 && n < 6; i += 2) {
        if (v->item[i]->kind != V_TEXT || !has_weights(v->item[i + 1])) continue;
        list = scratch_string("%s%s%s", list, n++ ? ", " : "",
                              quoted_n(v->item[i]->text, v->item[i]->n));
    }
    return list;
}

static _Noreturn void no_model(const Torch *t, const Value *v)
{
    if (v->kind != V_DICT)
        die(EXIT_FILE, "%s: holds %s, expected a dictionary of tensors\n"
            "in Python: torch.save(model.state_dict(), FILE)", quoted(t->shown),
            v->kind == V_OBJECT ? quoted_n(v->text, v->n) : v->kind == V_WEIGHT ? "one tensor"
                              : "neither dictionary nor tensor");
    const char *others = candidates(v);
    die(EXIT_FILE, "%s: its dictionary of %u entries has no tensors, and none in a place that is "
        "known%s%s", quoted(t->shown), v->n / 2, *others ? "\nsay which: --key with one of " : "",
        others);
}

static const Value *find_model(const Torch *t, const Value *v, const char *key)
{
    static const char *const wrappers[] = { "state_dict", "model_state_dict", "model", "module",
                                            "params", NULL };
    if (key) {
        const Value *inner = dict_get(v, key);
        if (!inner)
            die(EXIT_FILE, "%s: has no entry %s%s%s", quoted(t->shown), quoted(key),
                *candidates(v) ? "\nthere are: " : "", candidates(v));
        v = inner;
    }
    for (int depth = 0; depth < MAX_DEPTH; depth++) {
        const Value *inner = NULL;
        for (int i = 0; !inner && wrappers[i]; i++) {
            inner = dict_get(v, wrappers[i]);
            if (inner && (inner->kind != V_DICT || (has_weights(v) && !has_weights(inner))))
                inner = NULL;
        }
        if (!inner) break;
        v = inner;
    }
    if (!has_weights(v)) no_model(t, v);
    return v;
}

/* A name as safetensors have them: UTF-8, not too long, not their own word. */
static void check_key(const Torch *t, const Value *key)
{
    if (key->kind != V_TEXT || key->n > MAX_NAME || !is_utf8(key->text, key->n)
        || memchr(key->text, 0, key->n))
        die(EXIT_FILE, "%s: a tensor's name is %s, expected a text of at most %d bytes",
            quoted(t->shown), key->kind == V_TEXT ? quoted_n(key->text, key->n) : "no text",
            MAX_NAME);
    if (value_is(key, "__metadata__"))
        die(EXIT_FILE, "%s: a tensor is named __metadata__, which safetensors forbid",
            quoted(t->shown));
}

static void add_weight(const Torch *t, Weights *out, const char *name, const Found *found)
{
    if (!found->type->safetensors)
        die(EXIT_FILE, "%s: tensor %s is %s, which safetensors do not have", quoted(t->shown),
            quoted(name), found->type->torch);
    Weight *w = &out->weight[out->n++];
    *w = found->w;
    w->name = name;
    w->file = t->shown;
    w->data = found->block->data + found->first;
}

/* Every name once: with two of them, which one counts would be a matter of the reader. Returns
 * false if it is there already; slot is a table of n_slots, all NULL at first. */
static bool add_name(const Value **slot, size_t n_slots, const Value *key)
{
    size_t at = hash_bytes(key->text, key->n, 1) & (n_slots - 1);
    for (; slot[at]; at = (at + 1) & (n_slots - 1))
        if (slot[at]->n == key->n && !memcmp(slot[at]->text, key->text, key->n)) return false;
    slot[at] = key;
    return true;
}

static Weights collect(const Torch *t, const Value *model)
{
    enum { SHOWN = 4 };
    Weights out = { .left_out = "" };
    size_t n_slots = 16;
    while (n_slots < model->n) n_slots *= 2;
    const Value **seen = scratch_bytes(n_slots * sizeof *seen);
    memset(seen, 0, n_slots * sizeof *seen);
    out.weight = keep_bytes(mul_size(model->n / 2, sizeof *out.weight));
    for (uint32_t i = 0; i + 1 < model->n; i += 2) {
        const Value *key = model->item[i], *v = model->item[i + 1];
        if (v->kind == V_WEIGHT) {
            check_key(t, key);
            if (!add_name(seen, n_slots, key))
                die(EXIT_FILE, "%s: has two tensors %s", quoted(t->shown),
                    quoted_n(key->text, key->n));
            add_weight(t, &out, keep_string("%.*s", (int)key->n, key->text), v->made);
            continue;
        }
        const char *name = key->kind == V_TEXT ? quoted_n(key->text, key->n) : "(no text)";
        if (v->kind == V_OBJECT && v->loaded)
            die(EXIT_FILE, "%s: %s is made by %s, which mm does not know\n"
                "in Python: load it, turn it into an ordinary tensor, save it again",
                quoted(t->shown), name, quoted_n(v->text, v->n));
        if (out.n_left_out++ < SHOWN)
            out.left_out = keep_string("%s%s%s", out.left_out, *out.left_out ? ", " : "", name);
    }
    if (out.n_left_out > SHOWN) out.left_out = keep_string("%s, ...", out.left_out);
    return out;
}

/* === The two forms ============================================================================ */

static const char other_order[] = "it was written by a machine with another order of bytes";

/* NAME/ of the only record NAME/data.pkl. */
static const ZipRecord *find_pickle(Torch *t)
{
    const ZipRecord *found = NULL;
    for (size_t i = 0; i < t->zip.n; i++) {
        const ZipRecord *r = &t->zip.record[i];
        const char *slash = memchr(r->name, '/', r->n_name);
        size_t n = slash ? (size_t)(slash + 1 - r->name) : 0;
        if (!slash || r->n_name - n != 8 || memcmp(slash + 1, "data.pkl", 8)) continue;
        if (found) die(EXIT_FILE, "%s: has two records data.pkl", quoted(t->shown));
        found = r;
        t->root = r->name;
        t->n_root = n;
    }
    if (!found)
        die(EXIT_FILE, "%s: is a ZIP archive, but not one of torch.save(): it has no data.pkl",
            quoted(t->shown));
    if (zip_find(&t->zip, t->root, t->n_root, "constants.pkl", 13))
        die(EXIT_FILE, "%s: is a TorchScript program, expected a file of torch.save()\n"
            "in Python: torch.save(torch.jit.load(FILE).state_dict(), OUT)", quoted(t->shown));
    if (found->method || found->n > MAX_PICKLE)
        die(EXIT_FILE, "%s: record data.pkl is %s, expected it stored, of at most %d bytes",
            quoted(t->shown), found->method ? "compressed" : "too long", MAX_PICKLE);
    return found;
}

static Value *read_zip(Torch *t, Pickle *p, const uint8_t *bytes, size_t n)
{
    t->zip = zip_read(t->shown, bytes, n);
    const ZipRecord *r = find_pickle(t), *order = zip_find(&t->zip, t->root, t->n_root,
                                                           "byteorder", 9);
    if (order && (order->n != 6 || memcmp(order->data, "little", 6)))
        die(EXIT_FILE, "%s: record byteorder is %s, expected little: %s", quoted(t->shown),
            quoted_n((const char *)order->data, order->n < 20 ? order->n : 20), other_order);
    p->bytes = r->data;
    p->n = r->n;
    Value *v = pickle_read(p);
    if (p->at != p->n) die(EXIT_FILE, "%s: data.pkl goes on after its end", quoted(t->shown));
    return v;
}

static bool is_magic(const Value *v)
{
    static const char binary[] = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    static const char digits[] = "119547037146038801333356L";
    return v->kind == V_LONG && ((v->n == 10 && !memcmp(v->text, binary, 10))
                               || (v->n == 25 && !memcmp(v->text, digits, 25)));
}

/* The bytes of each block: how many elements, and these. */
static void read_blocks(Torch *t, Pickle *p, const Value *keys)
{
    size_t n_read = 0;
    if (keys->kind != V_LIST && keys->kind != V_TUPLE)
        die(EXIT_FILE, "%s: has no list of storages after its pickle", quoted(t->shown));
    for (uint32_t i = 0; i < keys->n; i++) {
        const Value *key = keys->item[i];
        if (!is_key(key))
            die(EXIT_FILE, "%s: the key of a storage is no short text", quoted(t->shown));
        size_t known = t->n_blocks;
        Block *b = block_of(t, key);
        if (t->n_blocks != known || b->data)
            die(EXIT_FILE, "%s: storage %s is listed, but %s", quoted(t->shown),
                quoted_n(b->key, b->n_key), b->data ? "for the second time" : "used by no tensor");
        const uint8_t *head = pickle_bytes(p, 8);
        uint64_t n = 0, bytes;
        for (int k = 0; k < 8; k++) n |= (uint64_t)head[k] << (8 * k);
        if (__builtin_mul_overflow(n, (uint64_t)b->size, &bytes) || bytes != b->n)
            die(EXIT_FILE, "%s: storage %s has %llu elements, expected %zu", quoted(t->shown),
                quoted_n(b->key, b->n_key), (unsigned long long)n, b->n / (size_t)b->size);
        b->data = pickle_bytes(p, bytes);
        n_read++;
    }
    if (n_read != t->n_blocks)
        die(EXIT_FILE, "%s: lists %zu storages, its tensors use %zu", quoted(t->shown), n_read,
            t->n_blocks);
}

static Value *read_old(Torch *t, Pickle *p)
{
    t->old = true;
    if (!is_magic(pickle_read(p)))
        die(EXIT_FILE, "%s: is a Python pickle, but not one of torch.save()", quoted(t->shown));
    const Value *version = pickle_read(p);
    if (version->kind != V_INT || version->number != 1001)
        die(EXIT_FILE, "%s: is of version %lld of torch.save()'s old form, expected 1001",
            quoted(t->shown), version->kind == V_INT ? (long long)version->number : -1LL);
    const Value *little = dict_get(pickle_read(p), "little_endian");
    if (little && little->kind == V_BOOL && !little->number)
        die(EXIT_FILE, "%s: its numbers are big-endian, expected little-endian: %s",
            quoted(t->shown), other_order);
    Value *v = pickle_read(p);
    read_blocks(t, p, pickle_read(p));
    if (p->at != p->n)
        die(EXIT_FILE, "%s: goes on for %zu bytes after the last storage", quoted(t->shown),
            p->n - p->at);
    return v;
}

Weights torch_read(const char *shown, const uint8_t *bytes, size_t n, const char *key)
{
    Torch *t = memset(scratch_bytes(sizeof *t), 0, sizeof *t);
    t->shown = shown;
    Pickle p = { .shown = shown, .bytes = bytes, .n = n, .call = call, .persistent = load_storage,
                 .ctx = t };
    const char *remedy, *kind = file_kind(bytes, n, &remedy);
    bool zip = n > 4 && !memcmp(bytes, "PK\3\4", 4), pickle = n > 2 && bytes[0] == 0x80;
    if (!zip && !pickle && !(n > 25 && !memcmp(bytes, "L1195", 5)))
        die(EXIT_FILE, "%s: is %s, expected a file of torch.save()%s%s", quoted(shown),
            kind ? kind : "of a kind that mm does not know", kind ? "\n" : "", kind ? remedy : "");
    const Value *v = zip ? read_zip(t, &p, bytes, n) : read_old(t, &p);
    return collect(t, find_model(t, v, key));
}

/* === Weights ================================================================================== */

bool weight_is_contiguous(const Weight *w)
{
    int64_t stride = 1;
    if (w->n == 0) return true;
    for (int i = w->ndim - 1; i >= 0; i--) {
        if (w->dim[i] == 1) continue;
        if (w->stride[i] != stride) return false;
        stride *= w->dim[i];
    }
    return true;
}

const char *weight_shape(const Weight *w)
{
    static char buf[4][240];
    static int at;
    char *s = buf[at++ % 4];
    int n = snprintf(s, sizeof buf[0], "%s [", w->type);
    for (int i = 0; i < w->ndim; i++)
        n += snprintf(s + n, sizeof buf[0] - (size_t)n, i ? ", %lld" : "%lld",
                      (long long)w->dim[i]);
    snprintf(s + n, sizeof buf[0] - (size_t)n, "]");
    return s;
}
