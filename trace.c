/* trace.c -- watching a model think.
 *
 * A forward pass calls trace(x, "module.name") after each step that the reference names too. What
 * becomes of it is up to the sink: a file to be held against PyTorch's hooks (--trace), lines on
 * the terminal (-vv), a comparison (test/models.c). Without a sink it costs one test of a pointer.
 *
 *   --trace FILE:  tensors are appended to a nameless file beside FILE as they come; at the end the
 *                  header, whose size is known only then, and the data become FILE
 *
 * Easy to get wrong: a module that is called again (a decoder, for each token) has the same name
 * each time. The first call keeps it; the k-th further call gets ".k". */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tensor.h"

typedef struct Seen { struct Seen *next; int n; char name[]; } Seen;

static TraceFn *sink;
static void    *sink_ctx;
static Seen    *seen[1024];          /* by hash: a large model has thousands of names */

bool tracing(void) { return sink != NULL; }

void trace_to(TraceFn *fn, void *ctx)
{
    sink = fn;
    sink_ctx = ctx;
    memset(seen, 0, sizeof seen);
}

/* How often the name has come before. */
static int times_seen(const char *name)
{
    Seen **first = &seen[hash_bytes(name, strlen(name), 0) % (sizeof seen / sizeof *seen)];
    for (Seen *s = *first; s; s = s->next)
        if (strcmp(s->name, name) == 0) return ++s->n;
    Seen *s = keep_bytes(sizeof *s + strlen(name) + 1);
    memcpy(s->name, name, strlen(name) + 1);
    s->next = *first;
    *first = s;
    return 0;
}

static void emit(Tensor t, const char *fmt, va_list args)
{
    char name[512];
    int n = vsnprintf(name, sizeof name - 16, fmt, args);
    if (n < 0 || n >= (int)sizeof name - 16) bug("trace: the name %.40s... is too long", name);
    int again = times_seen(name);
    if (again) sprintf(name + n, ".%d", again);
    sink(sink_ctx, name, t);
}

void trace(Tensor t, const char *fmt, ...)
{
    if (!sink) return;
    va_list args;
    va_start(args, fmt);
    emit(t, fmt, args);
    va_end(args);
}

void trace_map(Tensor t, int h, int w, const char *fmt, ...)
{
    if (!sink) return;
    size_t mark = scratch_mark(), C = (size_t)n_cols(t), n_pix = (size_t)h * (size_t)w;
    int n = (int)(n_elem(t) / C / n_pix);
    Tensor map = { .dtype = F32, .ndim = 4, .dim = {n, (int)C, h, w} };
    map.data = scratch_bytes(n_elem(map) * sizeof(float));
    for (size_t p = 0; p < (size_t)n; p++)   /* [n, H, W, C] -> [n, C, H, W] */
        for (size_t c = 0; c < C; c++)
            for (size_t i = 0; i < n_pix; i++)
                f32(map)[(p * C + c) * n_pix + i] = f32(t)[(p * n_pix + i) * C + c];
    va_list args;
    va_start(args, fmt);
    emit(map, fmt, args);
    va_end(args);
    scratch_reset(mark);
}

/* === --trace FILE ============================================================================= */

static struct {
    const char *path, *temp;                 /* temp: beside path, while it is being written */
    volatile sig_atomic_t temp_used;
    FILE       *data;                        /* nameless: it is gone when we are */
    char       *header;                      /* grows; malloc, since it must move */
    size_t      n_header, size_header;
    uint64_t    n_data;
} out;

static _Noreturn void cannot_write(void)
{
    die(EXIT_OUTPUT, "%s: cannot write the trace: %s", quoted(out.path), strerror(errno));
}

static void header_add(const char *fmt, ...) PRINTF(1, 2);
static void header_add(const char *fmt, ...)
{
    enum { ROOM = 1024 };                    /* more than a name and four numbers need */
    if (out.size_header - out.n_header < ROOM) {
        out.size_header = add_size(mul_size(out.size_header, 2), ROOM);
        out.header = realloc(out.header, out.size_header);
        if (!out.header) die(EXIT_MEMORY, "no memory for the header of the trace");
    }
    va_list args;
    va_start(args, fmt);
    out.n_header += (size_t)vsnprintf(out.header + out.n_header, ROOM, fmt, args);
    va_end(args);
}

static void append(void *ctx, const char *name, Tensor t)
{
    (void)ctx;
    if (t.dtype != F32) bug("trace: %s is %s", name, shape_string(t));
    size_t n_bytes = n_elem(t) * sizeof(float);
    header_add("%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", out.n_header > 1 ? "," : "", name);
    for (int i = 0; i < t.ndim; i++) header_add(i ? ",%d" : "%d", t.dim[i]);
    header_add("],\"data_offsets\":[%llu,%llu]}", (unsigned long long)out.n_data,
               (unsigned long long)(out.n_data + n_bytes));
    out.n_data += n_bytes;
    if (fwrite(t.data, 1, n_bytes, out.data) != n_bytes) cannot_write();
}

/* An open file beside out.path, with the name out.temp for the time being. */
static FILE *open_beside(void)
{
    out.temp_used = 1;
    FILE *f = fopen(out.temp, "w+bx");
    if (f) return f;
    out.temp_used = 0;
    cannot_write();
}

void trace_file_drop(void)
{
    if (out.temp_used) unlink(out.temp);
    out.temp_used = 0;
}

void trace_file_start(const char *path)
{
    struct stat st;
    out.path = path;
    out.temp = keep_string("%s.%ld.tmp", path, (long)getpid());
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        die(EXIT_OUTPUT, "%s: is no regular file, expected one for the trace", quoted(path));
    out.data = open_beside();
    trace_file_drop();
    header_add("{");
    trace_to(append, NULL);
}

void trace_file_finish(void)
{
    if (!out.data) return;
    trace_to(NULL, NULL);
    header_add("}");
    while (out.n_header % 8) header_add(" ");           /* so that the data is aligned */
    char buf[1 << 16];
    FILE *f = open_beside();
    uint64_t n = out.n_header;
    for (int i = 0; i < 8; i++) putc((int)(n >> (8 * i) & 255), f);      /* little-endian */
    fwrite(out.header, 1, out.n_header, f);
    rewind(out.data);
    for (size_t got; (got = fread(buf, 1, sizeof buf, out.data)) > 0; ) fwrite(buf, 1, got, f);
    bool ok = !ferror(out.data) && !ferror(f);
    if (fclose(f) != 0 || !ok || rename(out.temp, out.path) != 0) {
        int why = errno;
        trace_file_drop();
        errno = why;
        cannot_write();
    }
    out.temp_used = 0;
    fclose(out.data);
    out.data = NULL;
}
