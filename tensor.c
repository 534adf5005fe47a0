/* tensor.c -- errors, and tensors as views.
 *
 * mm is a process that runs one command and ends, so errors end it: with a message for people and
 * an exit code for scripts. The one exception is a batch, where a bad picture must not lose the
 * other ten thousand: fail() returns to the landing place that the command loop has set. Nothing
 * needs to be freed on the way, since memory is given back by resetting scratch (memory.c).
 *
 * Easy to get wrong:
 *   - Messages quote names that come from files. A terminal obeys the escape sequences in them, so
 *     everything untrusted is printed through quoted(). */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tensor.h"

/* === Errors =================================================================================== */

jmp_buf  *landing, *die_landing;
ItemError item_error;

static const char *command;          /* of messages; NULL: not known yet */

void messages_of(const char *cmd) { command = cmd; }

/* Prints "mm: CMD: " and the message; what follows a newline is indented, as a hint. */
static void print_message(const char *kind, const char *fmt, va_list args)
{
    char line[4096];
    size_t n = 0;
    vsnprintf(line, sizeof line, fmt, args);
    fflush(stdout);
    const char *term = getenv("TERM");
    bool dumb = term && strcmp(term, "dumb") == 0;
    if (isatty(STDERR_FILENO) && !dumb) fputs("\r\033[K", stderr); /* over a line of progress */
    fprintf(stderr, "mm: %s%s%s", command ? command : "", command ? ": " : "", kind);
    for (const char *s = line; *s; s += n) {
        n = strcspn(s, "\n");
        fprintf(stderr, "%s%.*s\n", s == line ? "" : "    ", (int)n, s);
        n += s[n] == '\n';
    }
}

_Noreturn void die(int code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (die_landing) vsnprintf(item_error.msg, sizeof item_error.msg, fmt, args);
    else             print_message("", fmt, args);
    va_end(args);
    if (die_landing) longjmp(*die_landing, code);
    exit(code);
}

_Noreturn void bug(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    print_message("bug: ", fmt, args);
    va_end(args);
    fprintf(stderr, "    please report this line, with the command and the model\n");
    if (getenv("MM_ABORT")) abort();                    /* leaves a core for the debugger */
    _exit(EXIT_BUG);
}

_Noreturn void fail(const char *code, const char *hint, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    item_error.code = code;
    vsnprintf(item_error.msg, sizeof item_error.msg, fmt, args);
    snprintf(item_error.hint, sizeof item_error.hint, "%s", hint ? hint : "");
    va_end(args);
    if (landing) longjmp(*landing, 1);
    die(EXIT_INPUT, "%s%s%s", item_error.msg, hint ? "\n" : "", hint ? hint : "");
}

bool is_bidi(const unsigned char *s, size_t len)
{
    if (len == 2) return s[0] == 0xD8 && s[1] == 0x9C;                      /* U+061C */
    if (len != 3 || s[0] != 0xE2) return false;
    return (s[1] == 0x80 && (s[2] == 0x8E || s[2] == 0x8F || (s[2] >= 0xA8 && s[2] <= 0xAE)))
        || (s[1] == 0x81 && s[2] >= 0xA6 && s[2] <= 0xA9);
}

/* Length of the UTF-8 character at s, of at most n bytes; 0 if it is none, or a control character
 * (C0, DEL, or C1, which some terminals obey too; or one that turns the direction of writing). */
static size_t printable(const unsigned char *s, size_t n)
{
    size_t len = s[0] < 0x80 ? 1 : s[0] >= 0xC2 && s[0] < 0xE0 ? 2 : s[0] >= 0xE0 && s[0] < 0xF0 ? 3
               : s[0] >= 0xF0 && s[0] < 0xF5 ? 4 : 0;
    if (len == 0 || len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    bool control  = len == 1 && (s[0] < 0x20 || s[0] == 0x7F);
    bool c1       = len == 2 && s[0] == 0xC2 && s[1] < 0xA0;
    bool overlong = (s[0] == 0xE0 && len == 3 && s[1] < 0xA0) || (s[0] == 0xF0 && s[1] < 0x90);
    bool turning  = is_bidi(s, len);
    bool beyond   = (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF4 && s[1] > 0x8F);
    return control || c1 || turning || overlong || beyond ? 0 : len;
}

const char *quoted_n(const char *str, size_t n)
{
    enum { N_BUFFERS = 8, MAX_CHARS = 200 };
    static char buffers[N_BUFFERS][4 * MAX_CHARS + 8];
    static int turn;
    char *buf = buffers[turn++ % N_BUFFERS], *out = buf;
    const unsigned char *s = (const unsigned char *)str;
    int n_chars = 0;
    for (size_t i = 0; i < n; n_chars++) {
        if (n_chars == MAX_CHARS) { memcpy(out, "...", 3); out += 3; break; }
        size_t len = printable(s + i, n - i);
        if (len) { memcpy(out, s + i, len); out += len; i += len; }
        else     out += sprintf(out, "\\x%02x", s[i++]);
    }
    *out = 0;
    return buf;
}

const char *quoted(const char *s)
{
    return s ? quoted_n(s, strlen(s)) : "(none)";
}

/* === Tensors ================================================================================== */

static const struct { const char *name; size_t size; } DTYPES[] = {
    [F32] = {"F32", 4}, [F16] = {"F16", 2}, [BF16] = {"BF16", 2}, [I64] = {"I64", 8},
    [I32] = {"I32", 4}, [U8]  = {"U8", 1},  [Q8] = {"Q8", 0}, [Q4] = {"Q4", 0},
    [OTHER] = {"OTHER", 0},
};

const char *dtype_name(DType t) { return DTYPES[t].name; }
size_t      dtype_size(DType t) { return DTYPES[t].size; }

Tensor scratch(int n, int cols)
{
    Tensor t = { .dtype = F32, .ndim = 2, .dim = {n, cols} };
    t.data = scratch_bytes(mul_size(mul_size((size_t)n, (size_t)cols), sizeof(float)));
    return t;
}

Tensor scratch3(int n, int n_each, int cols)
{
    Tensor t = { .dtype = F32, .ndim = 3, .dim = {n, n_each, cols} };
    size_t all = mul_size(mul_size((size_t)n, (size_t)n_each), (size_t)cols);
    t.data = scratch_bytes(mul_size(all, sizeof(float)));
    return t;
}

Tensor keep(int n, int cols)
{
    Tensor t = { .dtype = F32, .ndim = 2, .dim = {n, cols} };
    t.data = keep_bytes(mul_size(mul_size((size_t)n, (size_t)cols), sizeof(float)));
    return t;
}

int n_cols(Tensor t) { return t.ndim ? t.dim[t.ndim - 1] : 1; }

int n_rows(Tensor t)
{
    int n = 1;
    for (int i = 0; i + 1 < t.ndim; i++) n *= t.dim[i];
    return n;
}

size_t n_elem(Tensor t)
{
    size_t n = 1;
    for (int i = 0; i < t.ndim; i++) n *= (size_t)t.dim[i];
    return n;
}

Tensor rows(Tensor t, int first, int n)
{
    if (first < 0 || n < 0 || first > n_rows(t) - n)
        bug("rows: %d .. %d of %s", first, first + n - 1, shape_string(t));
    bool blocks = t.dtype == Q8 || t.dtype == Q4;
    if (blocks && first % 8) bug("rows: from %d of %s", first, shape_string(t));
    size_t skip = blocks ? quant_bytes(t.dtype, first, n_cols(t))
                         : mul_size((size_t)n_cols(t), dtype_size(t.dtype)) * (size_t)first;
    Tensor r = { .dtype = t.dtype, .ndim = 2, .dim = {n, n_cols(t)}, .name = t.name };
    r.data = (char *)t.data + skip;
    return r;
}

Tensor items(Tensor t, int n)
{
    if (n < 1 || n_rows(t) % n) bug("items: %d of %s", n, shape_string(t));
    return (Tensor){ .data = t.data, .dtype = t.dtype, .ndim = 3, .name = t.name,
                     .dim = {n, n_rows(t) / n, n_cols(t)} };
}

Tensor flat(Tensor t)
{
    return (Tensor){ .data = t.data, .dtype = t.dtype, .ndim = 2, .name = t.name,
                     .dim = {n_rows(t), n_cols(t)} };
}

const char *shape_string(Tensor t)
{
    enum { N_BUFFERS = 8 };
    static char buffers[N_BUFFERS][96];
    static int turn;
    char *buf = buffers[turn++ % N_BUFFERS];
    int n = sprintf(buf, "%s [", dtype_name(t.dtype));
    for (int i = 0; i < t.ndim; i++) n += sprintf(buf + n, i ? ", %d" : "%d", t.dim[i]);
    sprintf(buf + n, "]");
    return buf;
}
