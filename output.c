/* output.c -- where results go, so that a run may be killed at any moment and nothing is half done.
 *
 *   stdout or -o F       one stream; F gets its name when the run is over
 *   -o 'out/{stem}.txt'  a file per item       \  each written beside its place
 *   --sidecar .txt       a file per picture    /  under another name, then renamed
 *   --resume F           records appended to F; what F has is not done again
 *   .npy                 rows, and a header that is right after each row
 *
 * A record leaves with one write: lines of several processes that append to one file stay whole.
 *
 * Easy to get wrong:
 *   - kill -9 in the middle of a write leaves a torn last line in F: it is cut off before going on.
 *     A file that is no list of records is refused, never cut.
 *   - 1 and "1" are different ids. A path that is not UTF-8 is known by its path_b64.
 *   - SIGINT may come while any thread runs: the handler only renames, unlinks and exits, which
 *     POSIX allows; while a record is being written it waits for the end of the write. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

/* === Files with a name for the time being ===================================================== */

enum { N_SLOTS = 4, MAX_PATH = 4096 };

/* What the signal handler has to tidy up. */
static struct {
    volatile sig_atomic_t used, keep;        /* keep: rename, since finished records are in it */
    char temp[MAX_PATH], path[MAX_PATH];
} slot[N_SLOTS];

static volatile sig_atomic_t writing, stop_signal, status_wanted, line_shown;

typedef struct {
    int         fd, slot;                    /* slot -1: written in place (stdout, a device) */
    bool        of_item;                     /* a bad name fails the item, not the run */
    bool        stream;                      /* worth its name as soon as one record is in it */
    const char *path;
} File;

static void drop_slot(int s)
{
    if (s < 0 || !slot[s].used) return;
    unlink(slot[s].temp);
    slot[s].used = 0;
}

/* The run ends before its time: finished records get their name, the rest goes. */
static void leave_slots(void)
{
    for (int s = 0; s < N_SLOTS; s++) {
        if (slot[s].used && slot[s].keep && rename(slot[s].temp, slot[s].path) == 0)
            slot[s].used = 0;
        drop_slot(s);
    }
}

/* A full disk or a folder that may not be written to ends the run: the next item would not fare
 * better. What is wrong with one name alone does not. */
static _Noreturn void cannot_write(const File *f)
{
    int e = errno;
    writing = 0;
    drop_slot(f->slot);
    if (f->of_item && (e == ENAMETOOLONG || e == EISDIR)) {
        if (f->fd >= 0) close(f->fd);
        fail("output.write", NULL, "%s: %s", quoted(f->path), strerror(e));
    }
    die(EXIT_OUTPUT, "%s: cannot be written: %s", quoted(f->path), strerror(e));
}

/* Makes the folders that the path names. */
static void make_folders(const char *path)
{
    char part[MAX_PATH];
    for (const char *s = strchr(path + 1, '/'); s; s = strchr(s + 1, '/')) {
        snprintf(part, sizeof part, "%.*s", (int)(s - path), path);
        mkdir(part, 0777);                   /* what is wrong shows when the file is opened */
    }
}

static File file_create(const char *path, bool of_item)
{
    File f = { .fd = -1, .slot = -1, .of_item = of_item, .path = path };
    struct stat st;
    char target[MAX_PATH];
    bool there = stat(path, &st) == 0;
    if (there && S_ISDIR(st.st_mode)) {
        errno = EISDIR;
        cannot_write(&f);
    }
    if (there && !S_ISREG(st.st_mode)) {     /* /dev/null, a pipe */
        f.fd = open(path, O_WRONLY | O_CLOEXEC);
        if (f.fd < 0) cannot_write(&f);
        return f;
    }
    const char *place = there && realpath(path, target) ? target : path;    /* through a link */
    int s = 0;
    while (s < N_SLOTS && slot[s].used) s++;
    if (s == N_SLOTS) bug("more than %d files at once", N_SLOTS);
    if (strlen(place) + 24 > MAX_PATH) {
        errno = ENAMETOOLONG;
        cannot_write(&f);
    }
    snprintf(slot[s].path, MAX_PATH, "%s", place);
    snprintf(slot[s].temp, MAX_PATH, "%.4070s.%ld.tmp", place, (long)getpid());
    slot[s].keep = 0;
    slot[s].used = 1;                        /* before it is there: a signal may come in between */
    f.fd = open(slot[s].temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (f.fd < 0) {
        slot[s].used = 0;
        cannot_write(&f);
    }
    f.slot = s;
    return f;
}

static void on_signal(int sig);

static void write_all(File *f, const void *p, size_t n)
{
    const char *s = p;
    writing = 1;
    while (n) {
        ssize_t got = write(f->fd, s, n);
        if (got < 0 && errno == EINTR && stop_signal && s == p) break;   /* none of it is out yet */
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) cannot_write(f);
        s += got;
        n -= (size_t)got;
    }
    if (f->slot >= 0 && f->stream) slot[f->slot].keep = 1;
    writing = 0;
    if (stop_signal) on_signal(stop_signal);
}

static void file_finish(File *f, bool commit)
{
    if (f->fd < 0) return;
    bool bad = close(f->fd) < 0;
    f->fd = -1;
    if (bad && commit) cannot_write(f);
    if (f->slot < 0) return;
    if (commit && rename(slot[f->slot].temp, slot[f->slot].path) < 0) cannot_write(f);
    if (commit) slot[f->slot].used = 0;
    else drop_slot(f->slot);
}

/* === Signals ================================================================================== */

/* The line is made in the one that is not in use: the handler may come at any time. */
static char farewell[2][200];
static volatile sig_atomic_t farewell_at;

void signals_farewell(const char *line)
{
    int other = !farewell_at;
    snprintf(farewell[other], sizeof farewell[other], "%s", line);
    farewell_at = other;
}

static void on_signal(int sig)
{
    if (writing) {                           /* the record first; write_all comes back here */
        stop_signal = sig;
        return;
    }
    leave_slots();
    trace_file_drop();
    store_drop();
    const char *last = farewell[farewell_at];
    ssize_t n = line_shown ? write(STDERR_FILENO, "\r\033[K", 4) : 0;
    if (sig == SIGINT && *last) n = write(STDERR_FILENO, last, strlen(last));
    (void)n;
    _exit(128 + sig);
}

static void on_status(int sig)
{
    (void)sig;
    status_wanted = 1;
}

/* If stdin, stdout or stderr are closed when we start, the next file that is opened must not take
 * their place: a message would end in a result. Opened the wrong way round, so that use fails. */
static void keep_three(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0) open("/dev/null", fd ? O_RDONLY : O_WRONLY);
}

void signals_start(void)
{
    keep_three();
    struct sigaction stop = { .sa_handler = on_signal }, status = { .sa_handler = on_status };
    sigemptyset(&stop.sa_mask);
    sigaddset(&stop.sa_mask, SIGINT);
    sigaddset(&stop.sa_mask, SIGTERM);
    sigemptyset(&status.sa_mask);
    status.sa_flags = SA_RESTART;
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGUSR1, &status, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_IGN);                /* ulimit -f: the write fails, and says so */
    atexit(leave_slots);                     /* die() in the middle of a run */
}

void signals_progress(bool shown) { line_shown = shown; }
bool signals_progress_shown(void) { return line_shown; }

bool signals_status(void)
{
    bool was = status_wanted;
    status_wanted = 0;
    return was;
}

/* === A set of names =========================================================================== */

typedef struct { uint32_t *len; const char **key; size_t n, size; } Set;

/* The place of the key, or the free place where it would be. */
static size_t set_place(const Set *s, const char *key, size_t n)
{
    size_t at = hash_bytes(key, n, 0) & (s->size - 1);
    while (s->key[at] && (s->len[at] != n || memcmp(s->key[at], key, n)))
        at = (at + 1) & (s->size - 1);
    return at;
}

static bool set_has(const Set *s, const char *key, size_t n)
{
    return s->size && s->key[set_place(s, key, n)];
}

/* The bytes of many keys in few pieces of keep. */
static char *keep_key(const char *key, size_t n)
{
    static char  *pool;
    static size_t left;
    if (n > left) {
        size_t size = n > (1 << 18) ? n : (size_t)1 << 18;
        pool = keep_bytes(size);             /* may fail the item: then nothing has changed */
        left = size;
    }
    char *p = pool;
    memcpy(p, key, n);
    pool += n;
    left -= n;
    return p;
}

static void set_add(Set *s, const char *key, size_t n)
{
    if (2 * s->n >= s->size) {
        Set bigger = { .n = s->n, .size = s->size ? 2 * s->size : 1024 };
        bigger.len = keep_bytes(mul_size(bigger.size, sizeof *bigger.len));
        bigger.key = keep_bytes(mul_size(bigger.size, sizeof *bigger.key));
        for (size_t i = 0; i < s->size; i++) {
            if (!s->key[i]) continue;
            size_t at = set_place(&bigger, s->key[i], s->len[i]);
            bigger.key[at] = s->key[i];
            bigger.len[at] = s->len[i];
        }
        *s = bigger;
    }
    size_t at = set_place(s, key, n);
    if (s->key[at]) return;
    s->key[at] = keep_key(key, n);
    s->len[at] = (uint32_t)n;
    s->n++;
}

/* === The output of a run ====================================================================== */

struct Output {
    Run        *r;
    enum { STREAM, PER_ITEM, SIDECAR, RESUME } kind;
    enum { AS_TEXT, AS_JSON, AS_BLOB, AS_F32, AS_NPY } form;
    bool        several, on_terminal, failed_before;
    const char *to;                          /* -o, or what --sidecar adds */
    File        file, ids;
    File        sink;                        /* an .npy for a pipe: gathered in file, then copied */
    int64_t     n_rows;
    int         dim;
    Set         done, names;                 /* ids that --resume has; files written */
    Set         operands;                    /* FileKeys of operands that are texts */
    bool        is_there;                    /* the one file: all items are left out */
    int64_t     n_there;                     /* items left out, since their file is there */
    size_t      n_pieces;                    /* bytes of the item's text that are out already */
};

/* An id as the set of --resume knows it: its type, then its bytes. */
static Buf id_key(const char *type, const char *id, size_t n)
{
    Buf b = {0};
    put(&b, "%s", type);
    put_bytes(&b, id, n);
    return b;
}

static Buf key_of_item(const Item *item)
{
    return id_key(item->id_json.node ? "=" : "$", item->id, item->id_len);
}

static Buf key_of_record(Json record)
{
    size_t n = 0, n_bytes;
    const char *b64 = json_string(json_get(record, "path_b64"), &n), *raw;
    uint8_t *bytes = b64 ? base64_decode(b64, n, &n_bytes) : NULL;
    if (bytes) return id_key("$", (char *)bytes, n_bytes);
    Json id = json_get(record, "id");
    const char *s = json_string(id, &n);
    if (s) return id_key("$", s, n);
    n = json_span(id, &raw);
    return id_key("=", raw, n);
}

/* === --resume ================================================================================= */

static _Noreturn void no_record_file(Run *r, int64_t line, const char *why)
{
    usage_error(r->name, "--resume %s: line %lld %s: not a file that this command wrote",
                quoted(r->o.resume), (long long)line, why);
}

/* Results of two models in one file could not be told apart by whoever reads it. */
static void check_model(const Run *r, Json record, int64_t line)
{
    const char *model = json_string(json_get(record, "model"), NULL);
    if (model && r->model.label && strcmp(model, r->model.label))
        usage_error(r->name, "--resume %s: line %lld is of the model %s, this run's is %s\n"
                    "say -m %s, or another file", quoted(r->o.resume), (long long)line,
                    quoted(model), quoted(r->model.label), quoted(model));
}

/* A line of the file. Returns whether it is kept: false for a failed item that is tried again. */
static bool resume_line(Output *out, const char *text, size_t n, int64_t line)
{
    Run *r = out->r;
    size_t mark = scratch_mark();
    jmp_buf place;
    if (setjmp(place)) no_record_file(r, line, "is no JSON record");
    landing = &place;
    Json record = json_parse(r->o.resume, text, n, 64, 0);
    landing = NULL;
    const char *cmd = json_string(json_get(record, "cmd"), NULL);
    if (!cmd || !json_is(json_get(record, "ok"), JSON_BOOL) || !json_get(record, "id").node)
        no_record_file(r, line, "has no cmd, id and ok");
    if (strcmp(cmd, r->name)) no_record_file(r, line, scratch_string("is of `mm %s`", quoted(cmd)));
    check_model(r, record, line);
    bool ok = json_bool(record, "ok", false), kept = ok || !r->o.retry_errors;
    if (kept) {
        Buf key = key_of_record(record);
        set_add(&out->done, key.p, key.n);
    }
    if (!ok && kept) out->failed_before = true;
    scratch_reset(mark);
    return kept;
}

/* Reads what is there, cuts a torn last line off, and, for --retry-errors, leaves out the failed
 * records, so that each id has one record in the end. */
static void resume_open(Output *out)
{
    const char *path = out->r->o.resume;
    struct stat st;
    bool std = strcmp(path, "-") == 0;
    int fd = std ? -1 : open(path, O_RDWR | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC, 0666);
    out->file = (File){ .fd = fd, .slot = -1, .path = path };
    if (std || (fd < 0 ? errno == EISDIR : fstat(fd, &st) == 0 && !S_ISREG(st.st_mode)))
        usage_error(out->r->name, "--resume %s: is no regular file, expected one to read again",
                    quoted(path));
    if (fd < 0) cannot_write(&out->file);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        die(EXIT_OUTPUT, "%s: another process is writing to it", quoted(path));
    Lines lines = lines_open(fd);
    File kept = { .fd = -1 };
    if (out->r->o.retry_errors) kept = file_create(path, false);
    off_t whole = 0;
    int64_t n_lines = 0;
    size_t n;
    bool terminated;
    for (char *line; (line = lines_next(&lines, '\n', &n, &terminated)); whole += (off_t)n + 1) {
        if (!terminated || n == SIZE_MAX) {
            static const char BEGIN[] = "{\"v\":";
            size_t m = n < sizeof BEGIN - 1 ? n : sizeof BEGIN - 1;
            if (n == SIZE_MAX || memcmp(line, BEGIN, m))
                no_record_file(out->r, n_lines + 1, "is no JSON record");
            break;
        }
        bool keep_it = resume_line(out, line, n, ++n_lines);
        if (kept.fd < 0 || !keep_it) continue;
        line[n] = '\n';
        write_all(&kept, line, n + 1);
    }
    if (kept.fd < 0) {
        if (ftruncate(fd, whole) < 0 && errno != EINVAL) cannot_write(&out->file);
        return;
    }
    file_finish(&kept, true);
    close(fd);
    out->file.fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (out->file.fd < 0) cannot_write(&out->file);
    flock(out->file.fd, LOCK_EX | LOCK_NB);
}

/* === Names from templates ===================================================================== */

/* The last part of the item's path, and how much of it is before the extension. Neither is empty,
 * "." or "..", whatever the path is: with "..." the stem would be, and lead out of the folder. */
static const char *item_name(const Item *item, size_t *stem)
{
    const char *name = item->path ? item->path : item->source == FROM_STDIN ? "stdin" : item->id;
    const char *slash = strrchr(name, '/');
    if (slash) name = slash + 1;
    if (!*name || !strcmp(name, ".") || !strcmp(name, "..")) name = "_";
    const char *dot = strrchr(name, '.');
    *stem = dot && dot > name + strspn(name, ".") ? (size_t)(dot - name) : strlen(name);
    return name;
}

/* One field "{name}" or "{i:05}" (without the braces). False: unknown. */
static bool put_field(Buf *b, const Item *item, const char *field, size_t n)
{
    static const Item NONE = { .id = "" };
    size_t stem;
    const char *colon = memchr(field, ':', n), *name = item_name(item ? item : &NONE, &stem);
    size_t len = colon ? (size_t)(colon - field) : n;
    int width = 0;
    long long seed = item ? item->seed : 0;
    if (colon) {
        if (n - len < 2 || n - len > 4) return false;
        for (size_t k = len + 1; k < n; k++) {
            if (field[k] < '0' || field[k] > '9') return false;
            width = 10 * width + field[k] - '0';
        }
    }
    if (len == 1 && field[0] == 'i') put(b, "%0*lld", width, item ? (long long)item->i : 0);
    else if (colon) return false;
    else if (len == 4 && !memcmp(field, "stem", 4)) put(b, "%.*s", (int)stem, name);
    else if (len == 4 && !memcmp(field, "name", 4)) put(b, "%s", name);
    else if (len == 4 && !memcmp(field, "seed", 4)) put(b, "%lld", seed);
    else if (len == 3 && !memcmp(field, "pid", 3)) put(b, "%ld", (long)getpid());
    else return false;
    return true;
}

/* The template filled in; item NULL: only checked. *per_item: does it differ from item to item? */
static Buf fill_template(Run *r, const char *t, const Item *item, bool *per_item)
{
    Buf b = {0};
    *per_item = false;
    for (const char *s = t; *s; s++) {
        const char *close = *s == '{' ? strchr(s, '}') : NULL;
        if (*s == '{' && !close)
            usage_error(r->name, "-o %s: a { without its }", quoted(t));
        if (!close) {
            put_bytes(&b, s, 1);
            continue;
        }
        if (!put_field(&b, item, s + 1, (size_t)(close - s - 1)))
            usage_error(r->name, "-o %s: unknown field %s; there are {stem} {name} {i} {i:05} "
                        "{seed} {pid}", quoted(t), quoted_n(s, (size_t)(close - s + 1)));
        if (strncmp(s, "{pid}", 5)) *per_item = true;
        s = close;
    }
    put_bytes(&b, "", 0);
    return b;
}

/* === Opening ================================================================================== */

static bool ends_with(const char *s, const char *end)
{
    size_t n = s ? strlen(s) : 0, m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* What no option says, the name of the file does: x.npy, x.json, x.jsonl, x.tsv. */
static void choose_by_name(Run *r)
{
    Options *o = &r->o;
    const char *name = o->output ? o->output : o->sidecar;
    const char *option = o->output ? "-o" : "--sidecar";
    bool npy = ends_with(name, ".npy");
    bool json = ends_with(name, ".json") || ends_with(name, ".jsonl");
    unsigned bit = r->cmd->bit;
    if (npy && !(bit & (EMBED | PREPROCESS)))
        usage_error(r->name, "%s %s: the result is text, an .npy is an array of numbers", option,
                    quoted(name));
    if (bit == PREPROCESS && (json || ends_with(name, ".tsv")))
        usage_error(r->name, "%s %s: preprocess writes .npy", option, quoted(name));
    if (npy && bit == EMBED && !o->vec) o->vec = "npy";
    if (o->vec || o->json || o->tsv) return;
    if (json) o->json = true;
    if (ends_with(name, ".tsv")) o->tsv = true;
}

static void choose_form(Output *out)
{
    choose_by_name(out->r);
    const Options *o = &out->r->o;
    const char *vec = o->vec;
    bool rows = vec && (!strcmp(vec, "npy") || !strcmp(vec, "f32"));
    if (rows && (o->json || o->tsv))
        usage_error(out->r->name, "%s and %s exclude each other", o->json ? "--json" : "--tsv",
                    o->vec ? "--vec npy|f32" : "an .npy file");
    out->form = rows ? (vec[0] == 'n' ? AS_NPY : AS_F32) : out->r->cmd->bit == PREPROCESS ? AS_BLOB
              : o->json ? AS_JSON : AS_TEXT;
    if (o->ids && !rows) usage_error(out->r->name, "--ids goes with --vec npy or f32");
    if (o->logprobs > 0 && out->form != AS_JSON)
        usage_error(out->r->name, "--logprobs goes with --json: they are part of the record");
}

static void check_options(Output *out)
{
    const Options *o = &out->r->o;
    const char *name = out->r->name;
    if ((o->resume != NULL) + (o->sidecar != NULL) + (o->output != NULL) > 1)
        usage_error(name, "-o, --resume and --sidecar: one of them");
    if (o->retry_errors && !o->resume) usage_error(name, "--retry-errors goes with --resume");
    if (o->json && o->tsv) usage_error(name, "--json and --tsv: one of them");
    if (o->sidecar && (!*o->sidecar || strchr(o->sidecar, '/')))
        usage_error(name, "--sidecar %s: expected an ending, as .txt", quoted(o->sidecar));
    if (o->resume && (out->form != AS_JSON))
        usage_error(name, "--resume keeps JSON records: it goes with --json alone");
}

/* Does --if-exists let the file be as it is? Devices and pipes are written to. */
static bool stays(const Output *out, const char *path)
{
    struct stat st;
    const char *mode = out->r->o.if_exists;
    if (!mode) mode = out->kind == STREAM ? "overwrite" : "skip";
    if (strcmp(mode, "overwrite") == 0 || stat(path, &st) || !S_ISREG(st.st_mode)) return false;
    if (strcmp(mode, "skip") == 0) return true;
    if (out->kind == STREAM) die(EXIT_OUTPUT, "%s: exists (--if-exists fail)", quoted(path));
    fail("output.write", NULL, "%s: exists", quoted(path));
}

/* A file, whatever it is called. */
typedef struct { uint64_t dev, ino; } FileKey;

static bool file_key(FileKey *key, const char *path)
{
    struct stat st;
    if (stat(path, &st)) return false;
    *key = (FileKey){ (uint64_t)st.st_dev, (uint64_t)st.st_ino };
    return true;
}

/* Pictures are known by their first bytes; files of text are looked up here, once for all items. */
static void note_operands(Output *out)
{
    FileKey key;
    for (int64_t i = 0; i < out->r->o.n_operands; i++)
        if (file_key(&key, out->r->o.operand[i])) set_add(&out->operands, (char *)&key, sizeof key);
}

static bool is_input(const Output *out, const char *path)
{
    FileKey key;
    return input_reads(&out->r->o, path, false)
        || (out->operands.n && file_key(&key, path)
            && set_has(&out->operands, (char *)&key, sizeof key));
}

Output *output_open(Run *r)
{
    Output *out = keep_bytes(sizeof *out);
    *out = (Output){ .r = r, .file = { .fd = -1, .slot = -1 }, .ids = { .fd = -1, .slot = -1 },
                     .several = input_several(r->in) };
    if (r->o.resume && !r->o.tsv && !r->o.vec) r->o.json = true;
    if (r->o.resume && r->o.vec && (!strcmp(r->o.vec, "json") || !strcmp(r->o.vec, "b64")))
        r->o.json = true;
    choose_form(out);
    check_options(out);
    const char *to = r->o.output;
    bool per_item = false;
    if (to && strcmp(to, "-")) {
        size_t mark = scratch_mark();
        to = keep_string("%s", fill_template(r, to, NULL, &per_item).p);
        scratch_reset(mark);
    }
    if (r->o.resume) {
        out->kind = RESUME;
        resume_open(out);
    } else if (r->o.sidecar) {
        out->kind = SIDECAR;
        out->to = r->o.sidecar;
    } else if (per_item) {
        out->kind = PER_ITEM;
        out->to = r->o.output;
        if (!(r->cmd->bit & PICTURES)) note_operands(out);
    } else if (out->form == AS_BLOB && out->several) {
        usage_error(r->name, "several inputs: say -o 'out/{stem}.npy', a file for each");
    } else if (to && strcmp(to, "-")) {
        out->is_there = stays(out, to);
        if (!out->is_there) out->file = file_create(to, false);
        out->file.stream = true;
    } else {
        out->on_terminal = isatty(STDOUT_FILENO);
        if (out->form >= AS_BLOB && out->on_terminal)
            usage_error(r->name, "binary data on a terminal: say -o FILE.npy");
        out->file = (File){ .fd = STDOUT_FILENO, .slot = -1, .path = "stdout" };
    }
    out->sink.fd = -1;
    if (out->form == AS_NPY && out->file.fd >= 0 && out->file.slot < 0) {
        out->sink = out->file;               /* the header is known at the end only */
        FILE *f = tmpfile();
        if (!f) die(EXIT_OUTPUT, "a temporary file for the vectors: %s", strerror(errno));
        out->file = (File){ .fd = fileno(f), .slot = -1, .path = "temporary file" };
    }
    if (r->o.ids && (out->kind == PER_ITEM || out->kind == SIDECAR))
        usage_error(r->name, "--ids goes with one file of vectors: here each item has its own");
    if (r->o.ids) out->ids = file_create(r->o.ids, false);
    out->ids.stream = true;
    return out;
}

/* === Writing ================================================================================== */

/* Is name one of the words in list ("text stop ids")? */
static bool in_list(const char *list, const char *name, size_t n)
{
    for (const char *p = list; p && *p; p += strspn(p, " ")) {
        size_t len = strcspn(p, " ");
        if (len == n && memcmp(p, name, n) == 0) return true;
        p += len;
    }
    return false;
}

/* JSON as the input has it, on one line and without what a terminal might obey: DEL and C1 can only
 * stand in strings, \r only between values. */
static void put_json_text(Buf *b, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i], next = i + 1 < n ? (unsigned char)s[i + 1] : 0;
        bool c1 = c == 0xC2 && next >= 0x80 && next < 0xA0;
        if (c < ' ') put_bytes(b, " ", 1);
        else if (c == 0x7F) put_bytes(b, "\\u007f", 6);
        else if (c1) put(b, "\\u%04x", next);
        else put_bytes(b, s + i, 1);
        i += c1;
    }
}

/* Fields of the input record that neither mm reads nor the record has. */
static void put_copied(Buf *b, const Command *c, Json record)
{
    static const char *const COMMON = "v cmd i id path_b64 ok error model seed ms image image_b64";
    for (Json m = json_first(record); m.node; m = json_next(m)) {
        size_t n, n_value;
        const char *key = json_key(m, &n), *value;
        char *as_field = scratch_bytes(n + 1);           /* max-tokens is max_tokens */
        for (size_t i = 0; i < n; i++) as_field[i] = key[i] == '-' ? '_' : key[i];
        if (in_list(COMMON, key, n) || in_list(c->in_fields, as_field, n)
            || in_list(c->out_fields, key, n)) continue;
        put_bytes(b, ",", 1);
        put_json(b, key, n);
        n_value = json_span(m, &value);
        put_bytes(b, ":", 1);
        put_json_text(b, value, n_value);
    }
}

static void put_head(Buf *b, const Run *r, const Item *item, bool ok)
{
    put(b, "{\"v\":1,\"cmd\":\"%s\",\"i\":%lld,\"id\":", r->name, (long long)item->i);
    if (item->id_json.node) put_json_text(b, item->id, item->id_len);
    else put_json(b, item->id, item->id_len);
    if (!is_utf8(item->id, item->id_len)) {
        put(b, ",\"path_b64\":\"");
        put_base64(b, item->id, item->id_len);
        put(b, "\"");
    }
    put(b, ",\"ok\":%s", ok ? "true" : "false");
}

static Buf json_record(const Run *r, const Item *item, const Result *res)
{
    Buf b = {0};
    put_head(&b, r, item, true);
    if (res->body.n) {
        put_bytes(&b, ",", 1);
        put_bytes(&b, res->body.p, res->body.n);
    }
    if (r->model.label) {
        put(&b, ",\"model\":");
        put_json(&b, r->model.label, strlen(r->model.label));
    }
    put(&b, ",\"seed\":%lld", (long long)item->seed);
    if (res->tail.n) {
        put_bytes(&b, ",", 1);
        put_bytes(&b, res->tail.p, res->tail.n);
    }
    if (r->o.timings)
        put(&b, ",\"ms\":{\"load\":%.0f,\"decode\":%.0f,\"encode\":%.0f,\"text\":%.0f}",
            r->ms_load, res->ms_decode, res->ms_encode, res->ms_text);
    put_copied(&b, r->cmd, item->record);
    put(&b, "}");
    return b;
}

/* One line (each line of a table), with the id in front where it is wanted. */
static Buf text_record(const Output *out, const Item *item, const Result *res)
{
    const Run *r = out->r;
    Buf b = {0};
    bool one_file = out->kind == PER_ITEM || out->kind == SIDECAR;
    bool id = r->o.tsv || (out->several && !one_file && !r->o.no_filename && !r->text_lines);
    bool flat = r->o.tsv || (out->several && !one_file && !r->o.nul);
    const char *s = res->text.p ? res->text.p : "", *end = s + res->text.n;
    s += out->n_pieces;
    do {
        const char *stop = res->table ? memchr(s, '\n', (size_t)(end - s)) : NULL;
        size_t n = (size_t)((stop ? stop : end) - s);
        if (id) {
            put_plain(&b, item->id, item->id_len, true, r->o.tsv, out->on_terminal);
            put_bytes(&b, "\t", 1);
        }
        put_plain(&b, s, n, flat, r->o.tsv && !res->table, out->on_terminal);
        if (stop) put_bytes(&b, "\n", 1);
        s = stop ? stop + 1 : end;
    } while (s < end);
    return b;
}

/* A row of an .npy or of raw floats; the header is made right after each. */
static void write_row(Output *out, const Item *item, const Result *res)
{
    char header[128];
    if (!out->dim) out->dim = res->dim;
    if (res->dim != out->dim) bug("a vector of %d after some of %d", res->dim, out->dim);
    npy_header(header, (int64_t[]){ out->n_rows + 1, out->dim }, 2);
    if (out->form == AS_NPY && out->n_rows == 0) write_all(&out->file, header, sizeof header);
    write_all(&out->file, res->vector, sizeof(float) * (size_t)res->dim);
    out->n_rows++;
    if (out->form == AS_NPY && pwrite(out->file.fd, header, sizeof header, 0) != sizeof header)
        cannot_write(&out->file);
    if (out->ids.fd < 0) return;
    Buf b = {0};
    put_plain(&b, item->id, item->id_len, true, false, false);
    put_bytes(&b, "\n", 1);
    write_all(&out->ids, b.p, b.n);
}

static const char *item_file(Output *out, const Item *item)
{
    bool per_item;
    if (out->kind == PER_ITEM) return fill_template(out->r, out->to, item, &per_item).p;
    if (!item->path)
        fail("output.write", "use -o '{i}.txt'", "%s: no path to put a sidecar beside",
             quoted_n(item->id, item->id_len));
    return scratch_string("%s%s", item->path, out->to);
}

bool output_on_terminal(const Output *out) { return out->kind == STREAM && out->on_terminal; }

bool output_skip(Output *out, const Item *item)
{
    if (out->kind == RESUME) {
        Buf key = key_of_item(item);
        return set_has(&out->done, key.p, key.n);
    }
    bool there = out->is_there;
    if (out->kind != STREAM) {
        const char *path = item_file(out, item);
        if (set_has(&out->names, path, strlen(path)))
            fail("output.write", "add {i} to the template", "%s: another input was written to it",
                 quoted(path));
        if (is_input(out, path))
            usage_error(out->r->name, "%s: is an input, or a picture: not written over",
                        quoted(path));
        there = stays(out, path);
    }
    out->n_there += there;
    return there;
}

int64_t output_n_there(const Output *out) { return out->n_there; }

static void write_item_file(Output *out, const Item *item, const void *p, size_t n)
{
    const char *path = item_file(out, item);
    if (out->kind == PER_ITEM) {
        set_add(&out->names, path, strlen(path));
        make_folders(path);
    }
    File f = file_create(path, true);
    write_all(&f, p, n);
    file_finish(&f, true);
}

void output_piece(Output *out, const char *s, size_t n)
{
    if (out->kind != STREAM || out->form != AS_TEXT || out->several || out->r->o.tsv) return;
    size_t mark = scratch_mark();
    Buf b = {0};
    put_plain(&b, s, n, false, false, out->on_terminal);
    if (line_shown) fputs("\r\033[K", stderr);
    line_shown = 0;
    write_all(&out->file, b.p, b.n);
    out->n_pieces += n;
    scratch_reset(mark);
}

void output_write(Output *out, const Item *item, const Result *res)
{
    bool one_file = out->kind == PER_ITEM || out->kind == SIDECAR;
    if ((out->form == AS_NPY || out->form == AS_F32) && !one_file) {
        write_row(out, item, res);
        return;
    }
    Buf b = {0};
    if (out->form == AS_BLOB) {
        b = (Buf){ (char *)(uintptr_t)res->blob, res->n_blob, 0 };
    } else if (out->form == AS_NPY || out->form == AS_F32) {
        char header[128];
        npy_header(header, (int64_t[]){ 1, res->dim }, 2);
        if (out->form == AS_NPY) put_bytes(&b, header, sizeof header);
        put_bytes(&b, res->vector, sizeof(float) * (size_t)res->dim);
    } else {
        b = out->form == AS_JSON ? json_record(out->r, item, res) : text_record(out, item, res);
        put_bytes(&b, out->r->o.nul && out->kind != RESUME ? "\0" : "\n", 1);
    }
    if (one_file) write_item_file(out, item, b.p, b.n);
    else write_all(&out->file, b.p, b.n);
    out->n_pieces = 0;
    if (out->kind == RESUME) {
        Buf key = key_of_item(item);
        set_add(&out->done, key.p, key.n);
    }
}

void output_error(Output *out, const Item *item, const ItemError *e)
{
    const Run *r = out->r;
    const char *mode = r->o.errors ? r->o.errors : "record";
    bool stream = out->kind == STREAM || out->kind == RESUME;
    if (out->n_pieces) write_all(&out->file, "\n", 1);
    out->n_pieces = 0;
    if (out->form != AS_JSON || !stream || strcmp(mode, "skip") == 0) {
        fprintf(stderr, "mm: %s: %s\n", r->name, e->msg);
        if (e->hint[0]) fprintf(stderr, "    %s\n", e->hint);
        return;
    }
    Buf b = {0};
    put_head(&b, r, item, false);
    put(&b, ",\"error\":{\"code\":\"%s\",\"msg\":", e->code);
    put_json(&b, e->msg, strlen(e->msg));
    if (e->hint[0]) {
        put(&b, ",\"hint\":");
        put_json(&b, e->hint, strlen(e->hint));
    }
    put(&b, "}");
    put_copied(&b, r->cmd, item->record);
    put(&b, "}");
    put_bytes(&b, r->o.nul && out->kind != RESUME ? "\0" : "\n", 1);
    write_all(&out->file, b.p, b.n);
    if (out->kind != RESUME) return;
    out->failed_before = true;
    Buf key = key_of_item(item);
    set_add(&out->done, key.p, key.n);
}

/* The gathered .npy goes where it should. */
static void copy_gathered(Output *out)
{
    char buf[1 << 16];
    lseek(out->file.fd, 0, SEEK_SET);
    for (ssize_t n; (n = read(out->file.fd, buf, sizeof buf)) != 0; ) {
        if (n < 0) cannot_write(&out->file);
        write_all(&out->sink, buf, (size_t)n);
    }
}

bool output_close(Output *out, bool commit)
{
    if (out->form == AS_NPY && out->file.fd >= 0 && out->n_rows == 0 && commit) {
        char header[128];
        npy_header(header, (int64_t[]){ 0, 0 }, 2);
        write_all(&out->file, header, sizeof header);
    }
    if (out->sink.fd >= 0 && commit) copy_gathered(out);
    file_finish(&out->file, commit);
    file_finish(&out->sink, commit);
    file_finish(&out->ids, commit);
    return out->failed_before;
}
