/* store.c -- weights into safetensors files, so that a run may be killed at any moment and nothing
 * half done has the name of a result.
 *
 *   OUT.PID.tmp ... all files, written through to the disk ... renamed to OUT
 *
 *   header: 8 bytes N | N bytes of JSON, filled up so that the data begins at a multiple of 64
 *   data:   the weights, those with larger elements first, so that each is aligned
 *   shards: stem-00001-of-00003.safetensors, ..., and stem.safetensors.index.json
 *
 * A weight that lies in its file as it will lie here goes from one to the other by write(), a few
 * megabytes at a time; anything else (strided, or to be computed) through a buffer. So memory stays
 * small whatever the sizes, and the pages of the source are handed back as they are done with.
 *
 * Easy to get wrong:
 *   - rename() replaces what is there. renameat2() can be told not to.
 *   - Without fsync() the new name may reach the disk before the data does. What is written is
 *     pushed out on the way, or everybody would wait for all of it at the end.
 *   - In an index the names are those of the files when all is done, and there is none if one shard
 *     is enough. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "convert.h"

enum { PIECE = 8 << 20, MAX_MADE = 4096 };

/* What is made so far, for the handler of a signal: the path is there before n counts it. */
static struct {
    const char *out, *temp;
    const char *made[MAX_MADE];
    volatile int n;
} store;

/* The path is under the name for the time being: the one that was given is told. */
static _Noreturn void cannot_write(const char *path)
{
    int e = errno;
    size_t n = strlen(store.temp);
    const char *rest = strncmp(path, store.temp, n) ? "" : path + n;
    die(EXIT_OUTPUT, "%s%s: cannot be written: %s", quoted(store.out), quoted(rest), strerror(e));
}

/* === A name for the time being ================================================================ */

void store_drop(void)
{
    while (store.n > 0) {
        const char *path = store.made[store.n - 1];
        if (unlink(path)) rmdir(path);
        store.n--;
    }
}

static void note(const char *path)
{
    if (store.n == MAX_MADE) die(EXIT_OUTPUT, "%s: is more than %d files", quoted(path), MAX_MADE);
    store.made[store.n] = path;
    store.n++;
}

static _Noreturn void is_there(void)
{
    die(EXIT_OUTPUT, "%s: is there already, and nothing is written over\n"
        "give another name, or remove it first", quoted(store.out));
}

const char *store_begin(const char *out)
{
    static bool registered;
    struct stat st;
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    store.out = keep_string("%.*s", (int)n, out);
    store.temp = keep_string("%s.%ld.tmp", store.out, (long)getpid());
    if (!lstat(store.out, &st)) is_there();
    if (!registered) atexit(store_drop);
    registered = true;
    return store.temp;
}

void store_folder(const char *path)
{
    note(path);
    if (mkdir(path, 0777)) store.n--, cannot_write(path);
}

static void sync_path(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd);                               /* a folder's names; what cannot do it need not */
    close(fd);
}

void store_done(void)
{
    struct stat st;
    char parent[4096];
    for (int i = 0; i < store.n; i++)
        if (!stat(store.made[i], &st) && S_ISDIR(st.st_mode)) sync_path(store.made[i]);
    if (renameat2(AT_FDCWD, store.temp, AT_FDCWD, store.out, RENAME_NOREPLACE)) {
        if (errno == EEXIST) is_there();
        if (errno != EINVAL && errno != ENOSYS) cannot_write(store.out);
        if (!lstat(store.out, &st)) is_there();          /* a file system that cannot promise it */
        if (rename(store.temp, store.out)) cannot_write(store.out);
    }
    store.n = 0;
    const char *slash = strrchr(store.out, '/');
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - store.out) + 1 : 1,
             slash ? store.out : ".");
    sync_path(parent);
}

/* === Files ==================================================================================== */

static int create(const char *path)
{
    note(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) store.n--, cannot_write(path);
    return fd;
}

static void write_all(int fd, const char *path, const void *bytes, size_t n)
{
    const char *s = bytes;
    while (n) {
        ssize_t got = write(fd, s, n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EFAULT)
            die(EXIT_FILE, "%s: the file it is made from became shorter", quoted(path));
        if (got < 0) cannot_write(path);
        s += got;
        n -= (size_t)got;
    }
}

static void finish(int fd, const char *path)
{
    if ((fsync(fd) && errno != EINVAL) | close(fd)) cannot_write(path);
}

void store_file(const char *path, const void *bytes, size_t n)
{
    int fd = create(path);
    write_all(fd, path, bytes, n);
    finish(fd, path);
}

/* === Elements ================================================================================= */

/* The runs of elements that lie next to each other are copied whole. */
void weight_copy(const Weight *w, uint8_t *to, uint64_t first, uint64_t n)
{
    size_t size = (size_t)w->size;
    if (weight_is_contiguous(w)) {
        memcpy(to, w->data + first * size, n * size);
        return;
    }
    int64_t at[MAX_RANK], inner = w->dim[w->ndim - 1], step = w->stride[w->ndim - 1];
    uint64_t rest = first;
    for (int i = w->ndim - 1; i >= 0; i--) {
        at[i] = (int64_t)(rest % (uint64_t)w->dim[i]);
        rest /= (uint64_t)w->dim[i];
    }
    while (n) {
        const uint8_t *from = w->data;
        for (int i = 0; i < w->ndim; i++) from += (uint64_t)at[i] * (uint64_t)w->stride[i] * size;
        uint64_t run = (uint64_t)(inner - at[w->ndim - 1]);
        if (run > n) run = n;
        if (step == 1) memcpy(to, from, run * size);
        else for (uint64_t i = 0; i < run; i++)
            memcpy(to + i * size, from + i * (uint64_t)step * size, size);
        to += run * size;
        n -= run;
        at[w->ndim - 1] = 0;
        for (int i = w->ndim - 2; i >= 0 && ++at[i] == w->dim[i]; i--) at[i] = 0;
    }
}

/* === Safetensors ============================================================================== */

static int larger_first(const void *a, const void *b)
{
    const Weight *const *x = a, *const *y = b;
    return (*x)->size != (*y)->size ? (*y)->size - (*x)->size : *x < *y ? -1 : *x > *y;
}

/* What other tools need to know of matrices in blocks, and mm of each. */
static void put_metadata(Buf *b, const Weight *const *w, size_t n)
{
    bool blocks = false;
    for (size_t i = 0; i < n; i++) blocks |= w[i]->blocks != NULL;
    put(b, "{\"__metadata__\":{\"format\":\"%s\"", blocks ? "mm" : "pt");
    if (blocks)
        put(b, ",\"mm.blocks\":\"1\",\"mm.layout\":\"Q8 [n, k], Q4 [n, k]: U8 [ceil(n/8), "
            "ceil(k/32), bytes], blocks of 8 rows by 32 columns. A block: 8 scales (f16), then "
            "Q8: int8 [8][8][4], column 4g+c of row r at [g][r][c]; Q4: bytes [4][8][4], index of "
            "column 4g+c in the lower, of 16+4g+c in the upper 4 bits, into -64 -51 -40 -31 -24 "
            "-17 -11 -5 1 7 12 18 25 33 42 54. A weight is scale times that\"");
    for (size_t i = 0; i < n; i++) {
        if (!w[i]->blocks) continue;
        put(b, ",");
        put_json(b, w[i]->name, strlen(w[i]->name));
        put(b, ":\"%s\"", w[i]->blocks);
    }
    put(b, "}");
}

/* Length, JSON, blanks. */
static Buf header(const Weight *const *w, size_t n)
{
    Buf b = { 0 };
    uint64_t at = 0;
    put_bytes(&b, "\0\0\0\0\0\0\0", 8);
    put_metadata(&b, w, n);
    for (size_t i = 0; i < n; i++) {
        put(&b, ",");
        put_json(&b, w[i]->name, strlen(w[i]->name));
        put(&b, ":{\"dtype\":\"%s\",\"shape\":[", w[i]->type);
        for (int k = 0; k < w[i]->ndim; k++)
            put(&b, k ? ",%lld" : "%lld", (long long)w[i]->dim[k]);
        uint64_t end = at + w[i]->n * (uint64_t)w[i]->size;
        put(&b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)end);
        at = end;
    }
    put(&b, "}");
    while (b.n % 64) put(&b, " ");
    for (int i = 0; i < 8; i++) b.p[i] = (char)((uint64_t)(b.n - 8) >> (8 * i));
    return b;
}

/* They stay in the system's cache. A page that is only half done with is handed back too: it will
 * come again if it is needed. */
void hand_back(const uint8_t *from, size_t n)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)from / page * page;
    madvise((void *)first, (uintptr_t)from + n - first, MADV_DONTNEED);
}

static void write_weight(int fd, const char *path, const Weight *w, FillFn *fill, void *ctx)
{
    size_t size = (size_t)w->size, most = PIECE / size, mark = scratch_mark();
    bool plain = !fill && weight_is_contiguous(w);
    uint8_t *buf = plain ? NULL : scratch_bytes(PIECE);
    for (uint64_t first = 0, n; first < w->n; first += n) {
        n = w->n - first < most ? w->n - first : most;
        const uint8_t *from = plain ? w->data + first * size : buf;
        if (fill) fill(ctx, w, buf, first, n);
        else if (!plain) weight_copy(w, buf, first, n);
        write_all(fd, path, from, n * size);
        sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
        if (!w->blocks && weight_is_contiguous(w)) hand_back(w->data + first * size, n * size);
    }
    scratch_reset(mark);
}

static void write_shard(const char *path, const Weight *w, size_t n, FillFn *fill, void *ctx)
{
    size_t mark = scratch_mark();
    const Weight **order = scratch_bytes(mul_size(n + 1, sizeof *order));
    for (size_t i = 0; i < n; i++) order[i] = &w[i];
    qsort(order, n, sizeof *order, larger_first);
    Buf head = header(order, n);
    if (head.n > 100000000)
        die(EXIT_OUTPUT, "%s: its header would have %zu bytes, safetensors allow 100000000",
            quoted(path), head.n);
    int fd = create(path);
    write_all(fd, path, head.p, head.n);
    for (size_t i = 0; i < n; i++) write_weight(fd, path, order[i], fill, ctx);
    finish(fd, path);
    scratch_reset(mark);
}

static uint64_t bytes_of(const Weight *w) { return w->n * (uint64_t)w->size; }

static uint64_t sum_of(const Weight *w, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        if (__builtin_add_overflow(sum, bytes_of(&w[i]), &sum)) return UINT64_MAX;
    return sum;
}

/* Refuses before anything is written what could not be written whole. */
static void check_space(const char *folder, const Weight *w, size_t n)
{
    struct statvfs fs;
    if (statvfs(folder, &fs)) return;
    double need = (double)sum_of(w, n), room = (double)fs.f_bavail * (double)fs.f_frsize;
    if (need > room)
        die(EXIT_OUTPUT, "%s: %s are needed there, %s are free", quoted(folder), bytes_string(need),
            bytes_string(room));
}

/* The first weight of the next shard: as many as fit, at least one. */
static size_t shard_end(const Weight *w, size_t n, size_t from, uint64_t most)
{
    uint64_t sum = 0;
    size_t i = from;
    for (; i < n && (!most || i == from || bytes_of(&w[i]) <= most - sum); i++) {
        sum += bytes_of(&w[i]);
        if (most && sum > most) sum = most;
    }
    return i;
}

static void write_index(const char *path, const char *stem, const Weight *w, size_t n,
                        const size_t *shard_of, int n_shards)
{
    size_t mark = scratch_mark();
    Buf b = { 0 };
    put(&b, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {",
        (unsigned long long)sum_of(w, n));
    for (size_t i = 0; i < n; i++) {
        put(&b, i ? ",\n    " : "\n    ");
        put_json(&b, w[i].name, strlen(w[i].name));
        put(&b, ": \"%s-%05zu-of-%05d.safetensors\"", stem, shard_of[i], n_shards);
    }
    put(&b, "\n  }\n}\n");
    store_file(path, b.p, b.n);
    scratch_reset(mark);
}

void store_weights(const char *path, const Weight *w, size_t n, FillFn *fill, void *ctx)
{
    char folder[4096];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1,
             slash ? path : ".");
    check_space(folder, w, n);
    write_shard(path, w, n, fill, ctx);
}

int store_shards(const char *folder, const char *stem, const Weight *w, size_t n,
                 uint64_t shard_bytes, FillFn *fill, void *ctx)
{
    size_t *shard_of = scratch_bytes(mul_size(n + 1, sizeof *shard_of));
    int n_shards = 0;
    check_space(folder, w, n);
    for (size_t at = 0; at < n || !n_shards; n_shards++)
        for (size_t end = shard_end(w, n, at, shard_bytes); at < end; at++)
            shard_of[at] = (size_t)n_shards + 1;
    size_t at = 0;
    for (int i = 1; i <= n_shards; i++) {
        size_t first = at;
        while (at < n && shard_of[at] == (size_t)i) at++;
        const char *path = n_shards == 1 ? keep_string("%s/%s.safetensors", folder, stem)
                         : keep_string("%s/%s-%05d-of-%05d.safetensors", folder, stem, i, n_shards);
        write_shard(path, w + first, at - first, fill, ctx);
    }
    if (n_shards > 1)
        write_index(keep_string("%s/%s.safetensors.index.json", folder, stem), stem, w, n, shard_of,
                    n_shards);
    return n_shards;
}
