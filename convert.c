/* convert.c -- mm convert: checkpoints of torch.save(), which mm does not load, into safetensors,
 * which it does.
 *
 *   mm convert FILE OUT.safetensors        one file
 *   mm convert FILE|DIR OUT                a folder; of a DIR the other files come along
 *   mm convert DIR OUT --base BASE         a difference, added to its base (delta.c)
 *
 *   find the weights -> map each file, read what it says (torch.c) -> write (store.c) under another
 *   name -> rename
 *
 * Names and numbers stay what they are; what becomes of the files:
 *
 *   pytorch_model.bin, or its shards and index      model.safetensors, or shards and index
 *   diffusion_pytorch_model.bin                     diffusion_pytorch_model.safetensors
 *   the only other *.bin *.pt *.pth *.ckpt          model.safetensors
 *   folders (unet/, 1_Pooling/)                     the same, each
 *   other weights (*.h5), optimizers, hidden files  left out
 *   everything else (config.json, tokenizer.model)  copied
 *
 * Easy to get wrong:
 *   - Windows on one storage are written each for itself, so a small file could ask for a huge
 *     one: what is written may be 8 times what was read, and no more.
 *   - A shard may hold more than its index says (buffers), but never less. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert.h"

enum { MAX_DEPTH = 3, MAX_INDEX = 100000000 };

uint64_t convert_shard_bytes = 5000000000;

typedef struct {
    const Run *r;
    const char *shown;               /* the input, for messages */
    Weights     base;                /* n 0: none */
    DeltaMode   mode;
    const char *rows;                /* what added rows began with; NULL: there are none */
    size_t      n_weights, n_left_out, n_copied, n_unused;
    const char *left_out, *unused;   /* the first few entries; files of weights not read */
    uint64_t    bytes_in, bytes_out;
    int         n_files;
} Job;

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static bool starts_with(const char *s, const char *start)
{
    return !strncmp(s, start, strlen(start));
}

/* === Reading one file ========================================================================= */

/* The weights of dir/name, of whatever kind it is. */
static Weights read_file(Job *job, const char *dir, const char *name, const char *key)
{
    size_t n, mark = scratch_mark();
    const char *shown = keep_string("%s/%s", dir, name);
    const uint8_t *bytes = model_map_once(dir, name, &n);
    if (!bytes) die(EXIT_FILE, "%s: is not there, expected a file", quoted(shown));
    Weights w = torch_read(shown, bytes, n, key);
    scratch_reset(mark);
    job->bytes_in += n;
    job->n_left_out += w.n_left_out;
    if (w.n_left_out && !job->left_out) job->left_out = w.left_out;
    return w;
}

/* The weights of a checkpoint of safetensors: a base, or a difference that is one already. */
static Weights read_safetensors(const char *dir)
{
    Ckpt ck = ckpt_open(dir);
    Weights out = { .n = (size_t)ckpt_count(ck), .left_out = "" };
    out.weight = keep_bytes(mul_size(out.n + 1, sizeof *out.weight));
    for (size_t i = 0; i < out.n; i++) {
        CkptEntry e = ckpt_entry(ck, (int)i);
        Weight *w = &out.weight[i];
        *w = (Weight){ .name = e.name, .type = e.dtype, .ndim = e.ndim, .n = 1, .data = e.data,
                       .file = keep_string("%s/%s", dir, e.file) };
        int64_t stride = 1;
        for (int k = e.ndim - 1; k >= 0; k--) {
            w->dim[k] = e.dim[k];
            w->stride[k] = stride;
            stride *= e.dim[k];
        }
        w->n = (uint64_t)stride;
        w->size = w->n ? (int)(e.n_bytes / w->n) : 1;
        if (w->n * (uint64_t)w->size != e.n_bytes)
            die(EXIT_FILE, "%s: tensor %s is %s, expected whole bytes", quoted(w->file),
                quoted(w->name), quoted(w->type));
    }
    return out;
}

/* === The weights of a folder ================================================================== */

/* One model among the files: what it is called here and there. */
typedef struct { const char *file, *stem; bool index; } Group;

typedef struct {
    const char **name;               /* all files, in the order of their bytes */
    size_t       n;
    const char **folder;
    size_t       n_folders;
    Group        group[16];
    int          n_groups;
    const char  *other;              /* a file of weights with no usual name */
    int          n_others;
    bool         safetensors;        /* there are some already */
} Folder;

static bool is_torch(const char *name)
{
    return ends_with(name, ".bin") || ends_with(name, ".pt") || ends_with(name, ".pth")
        || ends_with(name, ".ckpt");
}

/* What a trainer leaves beside the model. */
static bool is_training(const char *name)
{
    static const char *const names[] = { "training_args.bin", "optimizer.", "scheduler.",
                                         "rng_state", "scaler." };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (starts_with(name, names[i]) && is_torch(name)) return true;
    return false;
}

static bool is_other_weights(const char *name)
{
    static const char *const ends[] = { ".safetensors", ".safetensors.index.json", ".h5",
        ".msgpack", ".onnx", ".gguf", ".ot", ".tflite", ".bin.index.json", ".mlmodel", ".pb" };
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (ends_with(name, ends[i])) return true;
    return false;
}

/* "pytorch_model.fp16.bin" -> "model.fp16"; NULL: no usual name. */
static const char *stem_of(const char *name, const char *end)
{
    bool diffusion = starts_with(name, "diffusion_pytorch_model");
    if ((!diffusion && !starts_with(name, "pytorch_model")) || !ends_with(name, end)) return NULL;
    const char *rest = name + (diffusion ? 23 : 13);
    size_t n = strlen(rest) - strlen(end);
    if (n && *rest != '.') return NULL;                  /* a shard: "-00001-of-00002" */
    return keep_string("%s%.*s", diffusion ? "diffusion_pytorch_model" : "model", (int)n, rest);
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Names of regular files and of folders; links to folders are not followed. */
static void list_folder(Folder *f, const char *dir)
{
    size_t room = 0;
    struct stat st, link;
    DIR *d = opendir(dir);
    if (!d) die(EXIT_FILE, "%s: cannot be opened: %s", quoted(dir), strerror(errno));
    while (readdir(d)) room++;
    rewinddir(d);
    f->name = keep_bytes(mul_size(room + 1, sizeof *f->name));
    f->folder = keep_bytes(mul_size(room + 1, sizeof *f->folder));
    for (struct dirent *e; (e = readdir(d)) && f->n + f->n_folders < room; ) {
        const char *path = keep_string("%s/%s", dir, e->d_name);
        if (e->d_name[0] == '.' || lstat(path, &link) || stat(path, &st)) continue;
        if (S_ISDIR(link.st_mode)) f->folder[f->n_folders++] = keep_string("%s", e->d_name);
        else if (S_ISREG(st.st_mode)) f->name[f->n++] = keep_string("%s", e->d_name);
    }
    closedir(d);
    qsort(f->name, f->n, sizeof *f->name, by_bytes);
    qsort(f->folder, f->n_folders, sizeof *f->folder, by_bytes);
}

static void add_group(Folder *f, const char *dir, const char *file, const char *stem, bool index)
{
    for (int i = 0; i < f->n_groups; i++)
        if (!strcmp(f->group[i].stem, stem)) {           /* one file before an index, as usual */
            if (!index) f->group[i] = (Group){ file, stem, false };
            return;
        }
    if (f->n_groups == 16) die(EXIT_FILE, "%s: has more than 16 models", quoted(dir));
    f->group[f->n_groups++] = (Group){ file, stem, index };
}

static void find_groups(Folder *f, const char *dir)
{
    for (size_t i = 0; i < f->n; i++) {
        const char *name = f->name[i], *one = stem_of(name, ".bin");
        const char *many = stem_of(name, ".bin.index.json");
        if (one || many) add_group(f, dir, name, one ? one : many, !one);
        else if (is_torch(name) && !is_training(name)
                 && !starts_with(name, "pytorch_model-")
                 && !starts_with(name, "diffusion_pytorch_model-")) {
            f->n_others++;
            f->other = name;
        }
        f->safetensors |= ends_with(name, ".safetensors");
    }
    if (!f->n_groups && f->n_others == 1) add_group(f, dir, f->other, "model", false);
    if (!f->n_groups && f->n_others > 1)
        die(EXIT_FILE, "%s: has %d files of weights (%s, ...), expected pytorch_model.bin or one\n"
            "say which: mm convert %s/%s OUT", quoted(dir), f->n_others, quoted(f->other),
            quoted(dir), quoted(f->other));
    if (f->n_groups && f->safetensors)
        die(EXIT_FILE, "%s: has safetensors beside %s, and needs no converting\n"
            "or say which file: mm convert %s/%s OUT", quoted(dir), quoted(f->group[0].file),
            quoted(dir), quoted(f->group[0].file));
}

/* A name from an index is a file in this folder, whatever the system makes of names. */
static bool is_shard_name(const char *s, size_t n)
{
    static const char allowed[] =
        "._-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    return strlen(s) == n && strspn(s, allowed) == n && !strchr("._-", s[0]) && is_torch(s);
}

/* The shards that the index names, each once, in the order of their names. */
static const char **find_shards(const char *shown, Json map, size_t *n)
{
    size_t all = 0;
    if (!json_is(map, JSON_OBJECT) || !json_len(map))
        die(EXIT_FILE, "%s: key weight_map is not there or empty, expected {tensor: shard}",
            quoted(shown));
    const char **name = keep_bytes(mul_size((size_t)json_len(map), sizeof *name));
    for (Json m = json_first(map); m.node; m = json_next(m)) {
        size_t len;
        const char *s = json_string(m, &len);
        if (!s || !is_shard_name(s, len))
            json_error(m, "is %s, expected the name of a file of weights in the same directory",
                       s ? quoted_n(s, len) : "no string");
        name[all++] = s;
    }
    qsort(name, all, sizeof *name, by_bytes);
    *n = 0;
    for (size_t i = 0; i < all; i++)
        if (!i || strcmp(name[i], name[i - 1])) name[(*n)++] = name[i];
    return name;
}

/* Sorted pointers, for looking up and for finding what is there twice. */
static int by_name(const void *a, const void *b)
{
    return strcmp((*(const Weight *const *)a)->name, (*(const Weight *const *)b)->name);
}

static int to_name(const void *key, const void *w)
{
    return strcmp(key, (*(const Weight *const *)w)->name);
}

static void check_shards(const Weights *all, Json map)
{
    size_t mark = scratch_mark();
    const Weight **sorted = scratch_bytes(mul_size(all->n + 1, sizeof *sorted));
    for (size_t i = 0; i < all->n; i++) sorted[i] = &all->weight[i];
    qsort(sorted, all->n, sizeof *sorted, by_name);
    for (size_t i = 1; i < all->n; i++)
        if (!by_name(&sorted[i - 1], &sorted[i]))
            die(EXIT_FILE, "%s: tensor %s is in %s too, expected in one shard",
                quoted(sorted[i]->file), quoted(sorted[i]->name), quoted(sorted[i - 1]->file));
    for (Json m = json_first(map); m.node; m = json_next(m)) {
        const Weight **found = bsearch(json_key(m, NULL), sorted, all->n, sizeof *sorted, to_name);
        const char *shard = json_string(m, NULL);
        if (!found || !ends_with((*found)->file, shard))
            json_error(m, "is %s, but the tensor is in %s", quoted(shard),
                       found ? quoted((*found)->file) : "no shard");
    }
    scratch_reset(mark);
}

static Weights read_sharded(Job *job, const char *dir, const char *name)
{
    size_t n = 0, n_index, total = 0;
    const char *shown = keep_string("%s/%s", dir, name);
    char *text = model_file(dir, name, MAX_INDEX, &n_index);
    if (!text) die(EXIT_FILE, "%s: is gone, expected a file", quoted(shown));
    Json map = json_get(json_parse(shown, text, n_index, 8, EXIT_FILE), "weight_map");
    const char **shard = find_shards(shown, map, &n);
    Weights *part = keep_bytes(mul_size(n, sizeof *part)), all = { .left_out = "" };
    for (size_t i = 0; i < n; i++) {
        part[i] = read_file(job, dir, shard[i], NULL);
        total = add_size(total, part[i].n);
    }
    all.weight = keep_bytes(mul_size(total, sizeof *all.weight));
    for (size_t i = 0; i < n; i++) {
        memcpy(all.weight + all.n, part[i].weight, part[i].n * sizeof *all.weight);
        all.n += part[i].n;
    }
    check_shards(&all, map);
    return all;
}

/* === Writing ================================================================================== */

/* "vicuna/": does its tokenizer have the token [PAD]? */
static bool has_pad(const char *dir)
{
    static const char *const files[] = { "added_tokens.json", "special_tokens_map.json",
                                         "tokenizer_config.json" };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        size_t n;
        const char *text = model_file(dir, files[i], 16 << 20, &n);
        if (text && strstr(text, "\"[PAD]\"")) return true;
    }
    return false;
}

/* stem NULL: `to` is the name of the one file. */
static void write_weights(Job *job, Weights *w, const char *dir, const char *to, const char *stem)
{
    size_t mark = scratch_mark();
    uint64_t sum = 0, bytes;
    FillFn *fill = NULL;
    Delta *delta = NULL;
    first_feedback(job->r, "converting %s", quoted(dir));
    if (!w->n) die(EXIT_FILE, "%s: has no weights", quoted(dir));
    if (job->base.n) {
        delta = delta_open(w, &job->base, job->mode, has_pad(dir));
        fill = delta_fill;
        if (delta_rows(delta)) job->rows = delta_rows(delta);
    }
    for (size_t i = 0; i < w->n; i++) {
        bytes = w->weight[i].n * (uint64_t)w->weight[i].size;
        if (__builtin_add_overflow(sum, bytes, &sum)) sum = UINT64_MAX / 2;
    }
    if (!job->base.n && sum / 8 > job->bytes_in + 1000000)
        die(EXIT_FILE, "%s: its tensors share their numbers: written out they would be %s, it has "
            "%s\nthis may be an attack: no model is like that", quoted(job->shown),
            bytes_string((double)sum), bytes_string((double)job->bytes_in));
    job->n_weights += w->n;
    job->bytes_out += sum;
    if (stem) job->n_files += store_shards(to, stem, w->weight, w->n, convert_shard_bytes, fill,
                                           delta);
    else store_weights(to, w->weight, w->n, fill, delta), job->n_files++;
    scratch_reset(mark);
}

static void copy_file(Job *job, const char *dir, const char *name, const char *to)
{
    size_t n;
    const uint8_t *bytes = model_map_once(dir, name, &n);
    if (!bytes) die(EXIT_FILE, "%s/%s: is gone, expected a file", quoted(dir), quoted(name));
    store_file(keep_string("%s/%s", to, name), bytes, n);
    job->n_copied++;
}

static void add_unused(Job *job, const char *name)
{
    enum { SHOWN = 4 };
    if (job->n_unused++ < SHOWN)
        job->unused = keep_string("%s%s%s", job->unused ? job->unused : "",
                                  job->unused ? ", " : "", name);
}

/* What is no weights comes along; `used` are the names of the groups. */
static void copy_others(Job *job, const Folder *f, const char *dir, const char *to)
{
    for (size_t i = 0; i < f->n; i++) {
        const char *name = f->name[i];
        bool used = starts_with(name, "pytorch_model") || starts_with(name, "diffusion_pytorch_m")
                 || (job->base.n && ends_with(name, ".safetensors"))
                 || (job->base.n && ends_with(name, ".safetensors.index.json"));
        for (int k = 0; k < f->n_groups; k++) used |= !strcmp(name, f->group[k].file);
        if (used) continue;
        if (is_torch(name) || is_other_weights(name)) add_unused(job, name);
        else copy_file(job, dir, name, to);
    }
}

static void convert_folder(Job *job, const char *dir, const char *to, int depth)
{
    Folder f = { 0 };
    list_folder(&f, dir);
    find_groups(&f, dir);
    store_folder(to);
    for (int i = 0; i < f.n_groups; i++) {
        const Group *g = &f.group[i];
        Weights w = g->index ? read_sharded(job, dir, g->file)
                             : read_file(job, dir, g->file, job->r->o.key);
        write_weights(job, &w, dir, to, g->stem);
    }
    if (!f.n_groups && f.safetensors && job->base.n && !depth) {
        Weights w = read_safetensors(dir);
        write_weights(job, &w, dir, to, "model");
    }
    copy_others(job, &f, dir, to);
    for (size_t i = 0; i < f.n_folders && depth < MAX_DEPTH; i++)
        convert_folder(job, keep_string("%s/%s", dir, f.folder[i]),
                       keep_string("%s/%s", to, f.folder[i]), depth + 1);
}

/* Of the folder itself, and of those in it: they are at most MAX_DEPTH deep. */
static void copy_folder(const char *dir, const char *to, int depth)
{
    Folder f = { 0 };
    list_folder(&f, dir);
    if (depth) store_folder(to);
    for (size_t i = 0; i < f.n; i++)
        if (!is_torch(f.name[i]) && !is_other_weights(f.name[i]))
            copy_file(&(Job){ 0 }, dir, f.name[i], to);
    for (size_t i = 0; i < f.n_folders && depth < MAX_DEPTH; i++)
        copy_folder(keep_string("%s/%s", dir, f.folder[i]), keep_string("%s/%s", to, f.folder[i]),
                    depth + 1);
}

void convert_copy_others(const char *dir, const char *to) { copy_folder(dir, to, 0); }

/* === The command ============================================================================== */

/* An operand: a file, or the folder of a model. */
typedef struct { const char *dir, *file; } Place;

static Place place_of(const char *given)
{
    struct stat st;
    if (stat(given, &st)) return (Place){ .dir = model_resolve(given).dir };
    if (S_ISDIR(st.st_mode)) return (Place){ .dir = given };
    char *path = realpath(given, NULL), *slash = path ? strrchr(path, '/') : NULL;
    if (!path || !S_ISREG(st.st_mode))
        die(EXIT_FILE, "%s: is neither a regular file nor a folder", quoted(given));
    Place p = { .dir = slash == path ? "/" : keep_string("%.*s", (int)(slash - path), path),
                .file = keep_string("%s", slash + 1) };
    free(path);
    return p;
}

/* All weights of a base, in whichever form. */
static Weights read_base(Job *job, const char *given)
{
    Folder f = { 0 };
    Place p = place_of(given);
    if (p.file && !ends_with(p.file, ".safetensors")) return read_file(job, p.dir, p.file, NULL);
    list_folder(&f, p.dir);
    for (size_t i = 0; i < f.n; i++) f.safetensors |= ends_with(f.name[i], ".safetensors");
    if (f.safetensors) return read_safetensors(p.dir);
    find_groups(&f, p.dir);
    if (!f.n_groups) die(EXIT_FILE, "%s: has no weights, expected a base's", quoted(p.dir));
    return f.group[0].index ? read_sharded(job, p.dir, f.group[0].file)
                            : read_file(job, p.dir, f.group[0].file, NULL);
}

static void report(const Job *job, const char *out)
{
    Buf b = { 0 };
    if (job->r->o.json) {
        put(&b, "{\"v\":1,\"cmd\":\"convert\",\"i\":0,\"id\":");
        put_json(&b, job->shown, strlen(job->shown));
        put(&b, ",\"ok\":true,\"file\":");
        put_json(&b, out, strlen(out));
        put(&b, ",\"files\":%d,\"tensors\":%zu,\"bytes\":%llu,\"copied\":%zu,\"left_out\":%zu",
            job->n_files, job->n_weights, (unsigned long long)job->bytes_out, job->n_copied,
            job->n_left_out);
        if (job->rows) {
            put(&b, ",\"added_rows\":");
            put_json(&b, job->rows, strlen(job->rows));
        }
        put(&b, "}");
    } else {
        put(&b, "%s  %zu tensor%s, %s, %d file%s", quoted(out), job->n_weights,
            job->n_weights == 1 ? "" : "s",
            bytes_string((double)job->bytes_out), job->n_files, job->n_files == 1 ? "" : "s");
        if (job->n_copied) put(&b, "; %zu other file%s copied", job->n_copied,
                               job->n_copied == 1 ? "" : "s");
        if (job->rows) put(&b, "; added rows begin with %s", job->rows);
        if (job->n_left_out)
            put(&b, "\n  left out, no tensor%s: %zu (%s)",
                job->n_left_out == 1 ? "" : "s", job->n_left_out, job->left_out);
        if (job->n_unused) put(&b, "\n  not read: %zu files (%s)", job->n_unused,
                               quoted(job->unused));
    }
    put(&b, "\n");
    fwrite(b.p, 1, b.n, stdout);
}

static DeltaMode delta_mode(const Run *r)
{
    if (r->o.delta && !r->o.base)
        usage_error(r->name, "--delta needs --base: what is it added to?");
    return !r->o.delta ? DELTA_AUTO : !strcmp(r->o.delta, "add") ? DELTA_ADD : DELTA_ALPACA;
}

int convert_model(const Run *r)
{
    if (r->o.n_operands != 2) usage_error(r->name, "say what to convert, and what to make of it");
    const char *in = r->o.operand[0], *out = r->o.operand[1];
    Job job = { .r = r, .shown = in, .mode = delta_mode(r) };
    Place p = place_of(in);
    bool one = ends_with(out, ".safetensors");
    if (p.file && ends_with(p.file, ".safetensors") && !job.r->o.base)
        usage_error(r->name, "%s: is safetensors already: -m takes it", quoted(in));
    if (one && !p.file)
        usage_error(r->name, "%s is a folder: %s must be the name of one, too", quoted(in),
                    quoted(out));
    if (r->o.base) job.base = read_base(&job, r->o.base);
    const char *temp = store_begin(out);
    if (!p.file) {
        convert_folder(&job, p.dir, temp, 0);
        if (!job.n_weights)
            die(EXIT_FILE, "%s: has no weights to convert: no *.bin, *.pt, *.pth, *.ckpt\n%s",
                quoted(in), "mm convert reads files of PyTorch's torch.save()");
    } else {
        Weights w = read_file(&job, p.dir, p.file, r->o.key);
        if (!one) store_folder(temp);
        write_weights(&job, &w, p.dir, temp, one ? NULL : "model");
    }
    store_done();
    report(&job, out);
    return 0;
}
