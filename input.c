/* input.c -- what a run works on: operands, lists, folders, streams; one item after the other.
 *
 *   --text, -p    texts                                   \
 *   operands      paths, or texts; "-" is stdin, read as   >  input_next -> Item (raw)
 *                 --in says; with -r folders are entered  /      item_open -> Item (id, path, ...)
 *   --files-from  paths from a list; or what --in says           item_picture -> Image
 *
 * input_next only fetches and never fails, so that a bad record costs itself alone; item_open,
 * called under the landing of the run, reads the record.
 *
 * Easy to get wrong:
 *   - On a pipe a record must be answered before the next line is read: read() returns what is
 *     there, and nobody waits for a full buffer.
 *   - Lines end at \n only. A path may hold every other byte, \r among them.
 *   - The order of -r is that of the bytes of whole paths: "a-b" comes before "a/x", since '-' is
 *     less than '/'. So the names of directories are compared with their '/'.
 *   - Of a PNM stream a bad picture ends it: where the next one begins is not known. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

enum { MAX_LINE = 256 << 20, MAX_STREAM = 1 << 30, MAX_DEPTH = 200 };

/* One directory that -r is inside of. Its names are malloc'ed: a walk over a million files must
 * not keep them all, and scratch is put back after each item. */
typedef struct {
    char **name;                             /* sorted; directories end in '/' */
    int    n, next;
    size_t path_len;                         /* of Input.walk up to and with this directory's '/' */
} Folder;

/* A directory that -r has been in. */
typedef struct { dev_t dev; ino_t ino; bool used; } Place;

struct Input {
    const char    *cmd;
    const Options *o;
    Takes          takes;
    bool           texts;                    /* operands are texts */
    int64_t        i, n_text, next_text, next_operand;
    int64_t        n_list;                   /* how many the list has; -1: not known */
    const char    *list;                     /* --files-from or --files0-from */
    Lines          from_stdin, from_list;
    Lines         *pnm;                      /* the stream of pictures that is being read */
    bool           pnm_over;
    Folder         folder[MAX_DEPTH];
    int            depth;
    Place         *visited;                  /* by this operand: a hash table, grown by malloc */
    size_t         n_visited, size_visited;
    char           walk[4096];
};

/* === Pieces of a stream ======================================================================= */

Lines lines_open(int fd)
{
    void *p = mmap(NULL, MAX_STREAM, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) die(EXIT_MEMORY, "no address space for reading lines: is ulimit -v set?");
    return (Lines){ .fd = fd, .buf = p };
}

/* Reads what there is, at least a byte; false at the end. What is not yet taken moves to the front
 * first, once it is no more than what was taken: so the buffer stays small, and bytes move once. */
static bool lines_fill(Lines *l)
{
    enum { CHUNK = 1 << 16 };
    if (l->eof) return false;
    if (l->first && l->n - l->first <= l->first) {
        memmove(l->buf, l->buf + l->first, l->n - l->first);
        l->n -= l->first;
        l->first = 0;
    }
    if (l->n + CHUNK + 1 > MAX_STREAM) return false;
    ssize_t got;
    do got = read(l->fd, l->buf + l->n, CHUNK); while (got < 0 && errno == EINTR);
    if (got < 0 && l->fd == STDIN_FILENO && errno == EISDIR)
        die(EXIT_INPUT, "stdin is a directory");
    if (got < 0)
        die(EXIT_INPUT, "%s: cannot be read: %s", l->fd == STDIN_FILENO ? "stdin"
            : "the list of inputs", strerror(errno));
    if (got == 0) l->eof = true;
    l->n += (size_t)got;
    return got > 0;
}

char *lines_next(Lines *l, char end, size_t *n, bool *terminated)
{
    size_t searched = 0;
    bool too_long = false;
    for (;;) {
        char *start = l->buf + l->first;
        size_t have = l->n - l->first;
        char *stop = have > searched ? memchr(start + searched, end, have - searched) : NULL;
        if (!stop && have > MAX_LINE) {                  /* pass over it, keeping nothing */
            too_long = true;
            l->first = l->n;
            searched = 0;
        } else searched = have;
        if (!stop && lines_fill(l)) continue;
        start = l->buf + l->first;
        have = l->n - l->first;
        if (!stop && !have && !too_long) return NULL;
        *terminated = stop != NULL;
        *n = stop ? (size_t)(stop - start) : have;
        start[*n] = 0;
        l->first += *n + (stop ? 1 : 0);
        l->n_taken++;
        if (too_long || *n > MAX_LINE) *n = SIZE_MAX;
        return start;
    }
}

/* === What is there ============================================================================ */

static bool is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Does a picture begin here, be it one that mm cannot read? Only regular files: a pipe would wait
 * for ever. */
bool is_picture_file(const char *path)
{
    unsigned char head[64];
    struct stat st;
    if (stat(path, &st) || !S_ISREG(st.st_mode)) return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return false;
    ssize_t n = read(fd, head, sizeof head);
    close(fd);
    return n > 0 && image_kind(head, (size_t)n);
}

/* === No result over an input ================================================================== */

static bool same_file(const struct stat *a, const char *path)
{
    struct stat b;
    return path && !stat(path, &b) && a->st_dev == b.st_dev && a->st_ino == b.st_ino;
}

static const char *behind_at(const char *value)
{
    return value && *value == '@' ? value + 1 : NULL;
}

bool input_reads(const Options *o, const char *path, bool operands)
{
    struct stat st;
    if (stat(path, &st) || !S_ISREG(st.st_mode)) return false;
    const char *const one[] = { o->files_from, o->files0_from, behind_at(o->prompt),
                                behind_at(o->system), o->model };
    bool reads = is_picture_file(path);
    for (size_t i = 0; i < sizeof one / sizeof *one; i++) reads |= same_file(&st, one[i]);
    for (int64_t i = 0; operands && i < o->n_operands; i++) reads |= same_file(&st, o->operand[i]);
    for (int64_t i = 0; i < o->images.n; i++) reads |= same_file(&st, o->images.v[i]);
    for (int64_t i = 0; i < o->labels.n; i++) reads |= same_file(&st, behind_at(o->labels.v[i]));
    return reads;
}

/* Before anything is computed: what the options name to be written is none of what is read. */
static void spare_inputs(const char *cmd, const Options *o)
{
    const char *const name[] = { "-o", "--resume", "--trace", "--ids" };
    const char *const out[] = { o->output, o->resume, o->trace, o->ids };
    for (int i = 0; i < 4; i++) {
        if (!out[i]) continue;
        if (!*out[i]) usage_error(cmd, "%s: an empty name", name[i]);
        if (input_reads(o, out[i], true))
            usage_error(cmd, "%s %s: is an input, or a picture: not written over", name[i],
                        quoted(out[i]));
        for (int k = 0; k < i; k++)
            if (out[k] && strcmp(out[i], "-") && !strcmp(out[i], out[k]))
                usage_error(cmd, "%s and %s: both write %s", name[k], name[i], quoted(out[i]));
    }
}

/* === Opening ================================================================================== */

static int open_list(const char *cmd, const char *path)
{
    if (strcmp(path, "-") == 0) return STDIN_FILENO;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) usage_error(cmd, "%s: %s", quoted(path), strerror(errno));
    return fd;
}

/* How often stdin is asked for: it can be read once. */
static int stdin_uses(const Options *o)
{
    int n = 0;
    for (int64_t i = 0; i < o->n_operands; i++) n += strcmp(o->operand[i], "-") == 0;
    for (int64_t i = 0; i < o->text.n; i++) n += strcmp(o->text.v[i], "-") == 0;
    if (o->files_from && strcmp(o->files_from, "-") == 0) n++;
    if (o->files0_from && strcmp(o->files0_from, "-") == 0) n++;
    if (o->prompt && strcmp(o->prompt, "@-") == 0) n++;
    return n;
}

/* What --in says, if it is something else than files; else NULL. */
static const char *stream_format(const Options *o)
{
    return o->in && strcmp(o->in, "files") ? o->in : NULL;
}

/* Is "-" read line by line, or as a stream? Else it is one picture, or one prompt. */
static bool stdin_in_pieces(const Input *in)
{
    return stream_format(in->o) || in->takes == TAKES_TEXTS;
}

/* For a model of texts the name of a picture is most likely a mistake. */
static void refuse_pictures(const char *cmd, const Options *o)
{
    for (int64_t i = 0; i < o->n_operands; i++)
        if (is_picture_file(o->operand[i]))
            usage_error(cmd, "%s: is a picture, and this model takes texts only\nto embed these "
                        "very words: --text %s; pictures: -m clip", quoted(o->operand[i]),
                        quoted(o->operand[i]));
}

/* How many pieces the list has, to say how far the run is; -1 if it cannot be read twice. */
static int64_t count_list(const Input *in)
{
    char buf[1 << 16], end = in->o->files0_from ? 0 : '\n', last = end;
    struct stat st;
    int fd = in->from_list.fd;
    off_t at = lseek(fd, 0, SEEK_CUR);
    if (at < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode)) return -1;
    if (in->o->in && (!strcmp(in->o->in, "jsonl") || !strcmp(in->o->in, "pnm"))) return -1;
    int64_t count = 0;
    for (ssize_t n; (n = pread(fd, buf, sizeof buf, at)) > 0; at += n) {
        for (ssize_t i = 0; i < n; i++) count += buf[i] == end;
        last = buf[n - 1];
    }
    return count + (last != end);
}

Input *input_open(const char *cmd, const Options *opts, Takes takes)
{
    Input *in = keep_bytes(sizeof *in);
    Options *o = keep_bytes(sizeof *o);
    *o = *opts;
    *in = (Input){ .cmd = cmd, .o = o, .takes = takes,
                   .texts = takes == TAKES_TEXTS || takes == TAKES_PROMPTS,
                   .n_text = o->text.n, .n_list = -1 };
    in->list = o->files0_from ? o->files0_from : o->files_from;
    spare_inputs(cmd, o);
    if (o->files0_from && o->files_from)
        usage_error(cmd, "--files0-from and --files-from: one of them");
    const char *format = stream_format(o);
    if (in->texts && in->list && !format)
        usage_error(cmd, "this model takes texts, not files: for a file of texts say --in lines "
                    "--files-from %s", quoted(in->list));
    if (in->texts && o->recursive) usage_error(cmd, "-r: this model takes texts, not files");
    if (in->texts && strcmp(cmd, "embed") == 0) refuse_pictures(cmd, o);
    if (o->files0_from && format && strcmp(format, "pnm") == 0)
        usage_error(cmd, "--in pnm goes with --files-from FILE: nothing ends in NUL there");
    if (in->list && !(format && strcmp(format, "pnm") == 0) && is_picture_file(in->list))
        usage_error(cmd, "%s: is a picture, no list of names", quoted(in->list));
    bool none = !o->n_operands && !in->list && !o->text.n;
    if (format && o->n_operands && !in->list && stdin_uses(o) == 0)
        usage_error(cmd, "--in %s says how a stream is read: give '-' for stdin, or --files-from "
                    "FILE", o->in);
    bool without = o->in && !o->n_operands && !in->list && stdin_uses(o) == 0;   /* "-" is meant */
    if (without || (none && in->texts && !isatty(STDIN_FILENO))) {   /* echo text | mm tokenize */
        o->operand = keep_bytes(sizeof(char *));
        o->operand[o->n_operands++] = "-";
        none = false;
    }
    if (none) usage_error(cmd, in->texts ? "no text given" : "no picture given ('-' reads stdin)");
    if (stdin_uses(o) > 1) usage_error(cmd, "stdin ('-') can be read only once");
    if (in->list) in->from_list = lines_open(open_list(cmd, in->list));
    if (in->list && isatty(STDERR_FILENO)) in->n_list = count_list(in);
    return in;
}

bool input_single(const Input *in)
{
    const Options *o = in->o;
    if (in->list || o->in || o->n_operands + in->n_text != 1) return false;
    if (!o->recursive || !o->n_operands) return !input_several(in);
    return !is_folder(o->operand[0]) || access(o->operand[0], R_OK | X_OK);  /* nothing to enter */
}

bool input_several(const Input *in)
{
    const Options *o = in->o;
    if (in->list || o->recursive || o->n_operands + in->n_text > 1) return true;
    if (!o->n_operands) return o->text.n && strcmp(o->text.v[0], "-") == 0;
    return strcmp(o->operand[0], "-") == 0 && stdin_in_pieces(in);
}

int64_t input_total(const Input *in)
{
    const Options *o = in->o;
    if (o->recursive || (in->list && in->n_list < 0)) return -1;
    for (int64_t i = 0; i < o->n_operands; i++)
        if (strcmp(o->operand[i], "-") == 0 && (in->texts || o->in)) return -1;
    for (int64_t i = 0; i < in->n_text; i++)
        if (strcmp(o->text.v[i], "-") == 0) return -1;
    int64_t n = o->n_operands + in->n_text + (in->list ? in->n_list : 0);
    if (o->limit >= 0 && o->limit < n - (o->skip > 0 ? o->skip : 0))
        n = o->limit + (o->skip > 0 ? o->skip : 0);
    return n;
}

/* === Folders ================================================================================== */

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The slot of the directory: its own, or the free one where it belongs. */
static Place *find_place(Place *table, size_t size, dev_t dev, ino_t ino)
{
    uint64_t id[2] = { (uint64_t)dev, (uint64_t)ino };
    size_t at = hash_bytes(id, sizeof id, 0) & (size - 1);
    while (table[at].used && (table[at].dev != dev || table[at].ino != ino))
        at = (at + 1) & (size - 1);
    return &table[at];
}

/* Is it the first time that this operand leads to the directory? With a few symbolic links there
 * are more paths than anybody could walk, and upward ones never end. */
static bool visit(Input *in, dev_t dev, ino_t ino)
{
    if (!in->depth && in->n_visited) {
        memset(in->visited, 0, in->size_visited * sizeof *in->visited);
        in->n_visited = 0;
    }
    if (2 * in->n_visited >= in->size_visited) {
        size_t size = in->size_visited ? 2 * in->size_visited : 64;
        Place *bigger = calloc(size, sizeof *bigger);
        if (!bigger) die(EXIT_MEMORY, "no memory for the folders in %s", quoted(in->walk));
        for (size_t i = 0; i < in->size_visited; i++) {
            Place *old = &in->visited[i];
            if (old->used) *find_place(bigger, size, old->dev, old->ino) = *old;
        }
        free(in->visited);
        in->visited = bigger;
        in->size_visited = size;
    }
    Place *p = find_place(in->visited, in->size_visited, dev, ino);
    if (p->used) return false;
    *p = (Place){ dev, ino, true };
    in->n_visited++;
    return true;
}

/* Enters the directory in->walk, which gets a '/' at its end. One that we have been in already is
 * passed over. False: it cannot be read. */
static bool enter_folder(Input *in)
{
    struct stat st;
    size_t len = strlen(in->walk);
    if (in->depth == MAX_DEPTH || len + 2 > sizeof in->walk || stat(in->walk, &st)) return false;
    if (!visit(in, st.st_dev, st.st_ino)) return true;
    DIR *d = opendir(in->walk);
    if (!d) return false;
    if (in->walk[len - 1] != '/') in->walk[len++] = '/';
    Folder f = { .path_len = len };
    int cap = 0;
    for (struct dirent *e; (e = readdir(d)); ) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        size_t n = strlen(e->d_name);
        if (len + n + 2 > sizeof in->walk) continue;
        if (f.n == cap) {
            cap = cap ? 2 * cap : 64;
            f.name = realloc(f.name, sizeof *f.name * (size_t)cap);
            if (!f.name) die(EXIT_MEMORY, "no memory for the names in %s", quoted(in->walk));
        }
        char *name = malloc(n + 2);
        if (!name) die(EXIT_MEMORY, "no memory for the names in %s", quoted(in->walk));
        memcpy(in->walk + len, e->d_name, n + 1);
        memcpy(name, e->d_name, n + 1);
        bool folder = e->d_type == DT_DIR
                   || ((e->d_type == DT_LNK || e->d_type == DT_UNKNOWN) && is_folder(in->walk));
        if (folder) memcpy(name + n, "/", 2);
        f.name[f.n++] = name;
    }
    closedir(d);
    in->walk[len] = 0;
    if (f.n) qsort(f.name, (size_t)f.n, sizeof *f.name, by_bytes);
    in->folder[in->depth++] = f;
    return true;
}

/* The next picture of the folders we are in, in in->walk; false when we are out of all. A folder
 * that cannot be read stands for itself: opening it will tell why. */
static bool next_in_folders(Input *in)
{
    while (in->depth) {
        Folder *f = &in->folder[in->depth - 1];
        if (f->next == f->n) {
            free(f->name);
            in->depth--;
            continue;
        }
        char *name = f->name[f->next++];
        size_t n = strlen(name);
        memcpy(in->walk + f->path_len, name, n + 1);
        free(name);
        if (in->walk[f->path_len + n - 1] == '/') {
            in->walk[f->path_len + n - 1] = 0;
            if (!enter_folder(in)) return true;
        } else if (is_picture_file(in->walk)) return true;
    }
    return false;
}

/* === The next input =========================================================================== */

static bool give(Input *in, Item *item, Source source, const char *raw, size_t n)
{
    *item = (Item){ .source = source, .i = in->i++, .raw = raw, .raw_len = n, .id = raw,
                    .id_len = n };
    if (source == FROM_JSONL || source == FROM_PNM || n == SIZE_MAX) {   /* no id, so far */
        item->id = scratch_string(source == FROM_PNM ? "-#%lld" : "#%lld", (long long)item->i);
        item->id_len = strlen(item->id);
    }
    return true;
}

static Source line_source(const Input *in)
{
    const char *fmt = in->o->in;
    if (fmt && strcmp(fmt, "jsonl") == 0) return FROM_JSONL;
    if (fmt && strcmp(fmt, "tsv") == 0) return FROM_TSV;
    return in->texts ? FROM_TEXT : FROM_PATH;
}

/* The next piece of stdin, or of a list; NULL stands for stdin. as_text: of --text -. */
static bool next_of_stream(Input *in, Item *item, Lines *l, const char *name, bool as_text)
{
    if (!as_text && in->o->in && strcmp(in->o->in, "pnm") == 0) {
        if (in->pnm != l) in->pnm_over = false;
        in->pnm = l;
        if (in->pnm_over || (l->first == l->n && !lines_fill(l))) return false;
        return give(in, item, FROM_PNM, "-", 1);
    }
    Source source = as_text ? FROM_TEXT : line_source(in);
    for (;;) {
        size_t n;
        bool terminated;
        char *line = lines_next(l, name && in->o->files0_from ? 0 : '\n', &n, &terminated);
        if (!line) return false;
        if (source == FROM_JSONL && n != SIZE_MAX && line[strspn(line, " \t\r\n")] == 0
            && strlen(line) == n) continue;              /* a blank line is no record */
        give(in, item, source, line, n);
        bool std = !name || strcmp(name, "-") == 0;
        item->where = scratch_string("line %lld of %s", (long long)l->n_taken,
                                     std ? "stdin" : quoted(name));
        return true;
    }
}

static bool next_of_stdin(Input *in, Item *item, bool as_text)
{
    if (!in->from_stdin.buf) in->from_stdin = lines_open(STDIN_FILENO);
    return next_of_stream(in, item, &in->from_stdin, NULL, as_text);
}

bool input_next(Input *in, Item *item)
{
    const Options *o = in->o;
    while (in->next_text < in->n_text) {
        const char *t = o->text.v[in->next_text];
        if (strcmp(t, "-") == 0 && next_of_stdin(in, item, true)) return true;
        in->next_text++;
        if (strcmp(t, "-")) return give(in, item, FROM_TEXT, t, strlen(t));
    }
    for (;;) {
        if (in->depth && next_in_folders(in))
            return give(in, item, FROM_PATH, in->walk, strlen(in->walk));
        if (in->next_operand == o->n_operands) break;
        const char *word = o->operand[in->next_operand];
        if (strcmp(word, "-") == 0) {
            bool stream = stdin_in_pieces(in);
            if (stream && next_of_stdin(in, item, false)) return true;
            in->next_operand++;
            if (!stream) return give(in, item, FROM_STDIN, word, 1);
            continue;
        }
        in->next_operand++;
        if (in->takes == TAKES_TEXTS) return give(in, item, FROM_TEXT, word, strlen(word));
        if (!o->recursive || !is_folder(word))
            return give(in, item, FROM_PATH, word, strlen(word));
        snprintf(in->walk, sizeof in->walk, "%s", word);
        if (!enter_folder(in)) return give(in, item, FROM_PATH, word, strlen(word));
    }
    return in->list && next_of_stream(in, item, &in->from_list, in->list, false);
}

/* === Reading a record ========================================================================= */

static void need_clean_path(const Item *item, const char *path, size_t n)
{
    const char *where = item->where ? item->where : "operand";
    if (n == 0) fail("image.missing", NULL, "%s: an empty path", where);
    if (memchr(path, 0, n))
        fail("input.text", NULL, "%s: a path with a NUL byte: %s", where, quoted(path));
}

const char *record_key(Json record, const char *key)
{
    char *other = scratch_string("%s", key);
    for (char *s = other; *s; s++) if (*s == '_') *s = '-';
    return json_get(record, other).node ? other : key;
}

static const char *record_text(Json record, const char *key, size_t *n)
{
    Json j = json_get(record, key);
    const char *s = json_string(j, n);
    if (!s && json_type(j) != JSON_NULL) json_error(j, "must be a string");
    return s;
}

/* The record's own id: as it came, of whatever type. */
static void take_id(Item *item, Json id)
{
    if (json_is(id, JSON_STRING)) {
        item->id = json_string(id, &item->id_len);
    } else if (id.node && json_type(id) != JSON_NULL) {
        item->id_json = id;
        item->id_len = json_span(id, &item->id);
        item->id = scratch_string("%.*s", (int)item->id_len, item->id);
    }
}

static void open_record(Input *in, Item *item)
{
    const char *name = item->where;
    Json record = json_parse(name, item->raw, item->raw_len, 64, 0);
    if (!json_is(record, JSON_OBJECT))
        fail("input.json", NULL, "%s: expected an object, as {\"image\":\"a.jpg\"}", name);
    item->record = record;
    Json id = json_get(record, "id");
    take_id(item, id);
    size_t n = 0, n_path = 0, n_b64 = 0;
    const char *path = record_text(item->record, "image", &n_path);
    if (path && (!id.node || json_type(id) == JSON_NULL)) {
        item->id = path;
        item->id_len = n_path;
    }
    item->prompt = record_text(item->record, "prompt", &n);
    if (item->prompt && strlen(item->prompt) != n)
        fail("input.json", NULL, "%s: prompt has a NUL character", name);
    const char *b64 = record_text(item->record, "image_b64", &n_b64);
    if (path && b64) fail("input.json", NULL, "%s: image and image_b64: one of them", name);
    if (path) {
        need_clean_path(item, path, n_path);
        item->path = path;
    } else if (b64) {
        item->bytes = base64_decode(b64, n_b64, &item->n_bytes);
        if (!item->bytes)
            fail("input.json", NULL, "%s: image_b64 is not base64 (RFC 4648, with padding)", name);
    }
    bool picture = path || b64;
    if (in->takes == TAKES_PROMPTS || (in->takes != TAKES_PICTURES && !picture)) {
        item->text = record_text(item->record, "text", &item->text_len);
        if (!item->text && in->texts && item->prompt) {
            item->text = item->prompt;
            item->text_len = n;
        }
    }
    if (!picture && !item->text && in->takes != TAKES_PROMPTS) {
        bool from_mm = json_is(json_get(record, "cmd"), JSON_STRING);    /* there id is the path */
        if (in->texts) fail("input.json", NULL, "%s: no key text", name);
        if (!from_mm || !json_is(id, JSON_STRING))
            fail("input.json", NULL, "%s: no key image or image_b64%s", name,
                 in->takes == TAKES_BOTH ? " or text" : "");
        need_clean_path(item, item->id, item->id_len);
        item->path = item->id;
    }
    if (item->text && !path && !json_is(id, JSON_STRING) && !item->id_json.node) {
        item->id = item->text;
        item->id_len = item->text_len;
    }
}

/* id TAB path-or-text [TAB prompt]; with one column it is both. */
static void open_columns(Input *in, Item *item)
{
    char *line = scratch_bytes(item->raw_len + 1);
    memcpy(line, item->raw, item->raw_len + 1);
    if (memchr(line, 0, item->raw_len)) fail("input.text", NULL, "%s: a NUL byte", item->where);
    char *second = strchr(line, '\t'), *third = second ? strchr(second + 1, '\t') : NULL;
    if (second) *second++ = 0;
    if (third) *third++ = 0;
    item->id = line;
    item->id_len = strlen(line);
    const char *what = second ? second : line;
    if (third) item->prompt = third;
    if (in->texts) {
        item->text = what;
        item->text_len = strlen(what);
    } else {
        need_clean_path(item, what, strlen(what));
        item->path = what;
    }
}

/* The file, whole, in scratch. Fails with these codes. */
static uint8_t *read_file(const char *path, size_t *n, const char *missing, const char *toobig)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t len = strlen(path);
    if (fd < 0)
        fail(missing, len && path[len - 1] == '\r'
             ? "the line ends in \\r (a Windows line end): remove it, as with `tr -d '\\r'`" : NULL,
             "%s: %s", quoted(path), strerror(errno));
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        close(fd);
        bool picture = strcmp(missing, "image.missing") == 0;
        fail(missing, picture ? "-r goes through the pictures in it" : NULL, "%s: is a directory",
             quoted(path));
    }
    size_t size = S_ISREG(st.st_mode) && st.st_size > 0 ? (size_t)st.st_size + 1 : 1 << 16;
    if (size > MAX_STREAM) {
        close(fd);
        fail(toobig, NULL, "%s: more than 1 GB", quoted(path));
    }
    uint8_t *buf = scratch_bytes(size);
    for (*n = 0; ; ) {
        if (*n == size) {                                /* a pipe, or a file that grew */
            uint8_t *more = size < MAX_STREAM ? scratch_bytes(size * 2) : NULL;
            if (!more) {
                close(fd);
                fail(toobig, NULL, "%s: more than 1 GB", quoted(path));
            }
            memcpy(more, buf, *n);
            buf = more;
            size *= 2;
        }
        ssize_t got = read(fd, buf + *n, size - *n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            int e = errno;
            close(fd);
            fail(missing, NULL, "%s: %s", quoted(path), strerror(e));
        }
        if (got == 0) break;
        *n += (size_t)got;
    }
    close(fd);
    return buf;
}

uint8_t *read_picture_file(const char *path, size_t *n)
{
    return read_file(path, n, "image.missing", "image.toobig");
}

/* A prompt from a file; its last newline does not count. */
static void open_text_file(Item *item)
{
    size_t n;
    const uint8_t *s = read_file(item->raw, &n, "input.text", "input.text");
    if (image_kind(s, n)) fail("input.text", NULL, "%s: is a picture, not text", quoted(item->raw));
    if (n && s[n - 1] == '\n') n--;
    char *text = scratch_bytes(add_size(n, 1));
    memcpy(text, s, n);
    text[n] = 0;
    item->text = text;
    item->text_len = n;
}

/* Does more come at once? A writer has to be woken first. Files: always; read() tells the end. */
static bool more_comes(int fd)
{
    enum { PATIENCE = 20 };                              /* milliseconds */
    struct pollfd p = { .fd = fd, .events = POLLIN };
    return poll(&p, 1, PATIENCE) == 1;
}

/* The next picture of a stream of PNMs. Where a text picture ends is found by reading it from its
 * start: that is done again only when there are twice as many bytes, or when no more have come,
 * since whoever sends a picture may wait for what becomes of it. */
static void open_pnm(Input *in, Item *item)
{
    Lines *l = in->pnm;
    ImageOptions io = { .max_pixels = in->o->max_pixels > 0 ? in->o->max_pixels : 0 };
    size_t tried = 0;
    in->pnm_over = true;                                 /* unless the picture's end is found */
    for (bool last = false;;) {
        const uint8_t *bytes = (const uint8_t *)l->buf + l->first;
        size_t have = l->n - l->first, n = 0;
        bool text = have > 1 && bytes[1] <= '3';
        if (last || !text || have / 2 >= tried || !more_comes(l->fd)) {
            n = image_pnm_length("-", bytes, have, io);
            tried = have;
        }
        if (n && n <= have) {
            item->bytes = bytes;
            item->n_bytes = n;
            l->first += n;
            while (l->first < l->n && strchr(" \t\r\n", l->buf[l->first])) l->first++;
            in->pnm_over = false;
            return;
        }
        if (last)
            fail(l->eof ? "image.truncated" : "image.toobig", NULL,
                 "-: the stream of PNM pictures %s", l->eof ? "ends within a picture"
                                                            : "has one of more than 1 GB");
        last = !lines_fill(l);
    }
}

/* stdin, whole, as one picture, or as one text, whose last newline does not count. */
static void open_stdin(Input *in, Item *item)
{
    const char *what = in->texts ? "text" : "picture";
    if (isatty(STDIN_FILENO))
        usage_error(in->cmd, "stdin is a terminal: '-' reads a %s from a pipe", what);
    Lines l = lines_open(STDIN_FILENO);
    while (lines_fill(&l)) {}
    if (in->texts && l.eof) {
        item->text = l.buf;
        item->text_len = l.n && l.buf[l.n - 1] == '\n' ? l.n - 1 : l.n;
        l.buf[item->text_len] = 0;
        return;
    }
    if (!l.eof)
        fail(in->texts ? "input.text" : "image.toobig", NULL, "-: more than 1 GB on stdin");
    if (!l.n) fail("image.empty", NULL, "-: nothing came on stdin, expected a picture");
    if (l.n && !image_is_picture((const uint8_t *)l.buf, l.n) && memchr(l.buf, '\n', l.n))
        fail("image.format", "for a list of paths on stdin say --in lines, for records --in jsonl",
             "-: stdin is not a picture");
    item->bytes = (const uint8_t *)l.buf;
    item->n_bytes = l.n;
}

void item_open(Input *in, Item *item)
{
    if (item->raw_len == SIZE_MAX)
        fail(item->source == FROM_JSONL ? "input.json" : "input.text", NULL,
             "%s: more than 256 MB", item->where);
    switch (item->source) {
    case FROM_PATH:
        need_clean_path(item, item->raw, item->raw_len);
        if (in->texts) open_text_file(item);
        else if (in->takes == TAKES_BOTH && access(item->raw, F_OK))
            fail("image.missing", scratch_string("to embed these words: --text \"%s\"",
                 quoted(item->raw)), "%s: %s", quoted(item->raw), strerror(errno));
        else item->path = item->raw;
        break;
    case FROM_TEXT:
        item->text = item->raw;
        item->text_len = item->raw_len;
        break;
    case FROM_STDIN: open_stdin(in, item); break;
    case FROM_JSONL: open_record(in, item); break;
    case FROM_TSV:   open_columns(in, item); break;
    case FROM_PNM:   open_pnm(in, item); break;
    }
}

/* === Pictures ================================================================================= */

Image item_picture(const Item *item, const Options *o)
{
    ImageOptions io = { .ignore_exif = o->no_exif,
                        .max_pixels = o->max_pixels > 0 ? o->max_pixels : 0 };
    const uint8_t *bytes = item->bytes;
    size_t n = item->n_bytes;
    if (item->path) bytes = read_picture_file(item->path, &n);
    return image_decode(item->path ? item->path : item->id, bytes, n, io);
}
