/* test/pickle.c -- mm convert: files of torch.save() against what PyTorch itself reads of them, and
 * hostile ones, made by hand, which must end with exit code 4 and a message, having run nothing and
 * used little memory.
 *
 * test/reference/torchfiles.py wrote test/data/torch. A hostile case is a pickle, put into a ZIP
 * archive as torch.save() would; a child process reads it, the parent looks at exit code, message,
 * memory, and whether the file exists that the pickle would have made in Python. Files cut off at
 * every byte, and with every bit changed, are read in this process, from memory that ends where the
 * file ends, so that a sanitizer sees each step too far. */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../convert.h"
#include "folder.h"

#define DATA "test/data/torch/"

static char canary[300];             /* what a hostile pickle would make */

static uint8_t *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END)) {
        perror(path);
        exit(1);
    }
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *bytes = scratch_bytes(*n + 1);
    if (fread(bytes, 1, *n, f) != *n) exit(1);
    fclose(f);
    return bytes;
}

/* === What PyTorch reads ======================================================================= */

/* Every tensor of the safetensors file, and no other, with the same bytes. */
static void same_tensors(const char *what, const Weights *w, const char *expected)
{
    size_t n;
    const uint8_t *bytes = read_file(expected, &n);
    Ckpt ck = ckpt_parse(expected, bytes, n);
    const char *why = (size_t)ckpt_count(ck) == w->n ? NULL : "another number of tensors";
    for (int i = 0; i < ckpt_count(ck) && !why; i++) {
        CkptEntry e = ckpt_entry(ck, i);
        const Weight *found = NULL;
        for (size_t k = 0; k < w->n; k++)
            if (!strcmp(w->weight[k].name, e.name)) found = &w->weight[k];
        if (!found) why = keep_string("no %s", quoted(e.name));
        else if (strcmp(found->type, e.dtype) || found->ndim != e.ndim
                 || memcmp(found->dim, e.dim, (size_t)e.ndim * sizeof *e.dim)
                 || found->n * (uint64_t)found->size != e.n_bytes)
            why = keep_string("%s is %s", quoted(e.name), weight_shape(found));
        if (why) break;
        for (uint64_t step = 1; step < 12; step += 3) {  /* in pieces, too */
            uint8_t *copy = scratch_bytes(e.n_bytes + 1);
            uint64_t part = step == 1 ? found->n : step;
            for (uint64_t at = 0, m; at < found->n; at += m) {
                m = found->n - at < part ? found->n - at : part;
                weight_copy(found, copy + at * (uint64_t)found->size, at, m);
            }
            if (memcmp(copy, e.data, e.n_bytes)) why = keep_string("%s differs", quoted(e.name));
        }
    }
    check(!why, what, why);
}

static void test_reading(void)
{
    static const struct { const char *file, *expected, *key; } cases[] = {
        { "types.bin", "types", NULL },       { "types.old.bin", "types.old", NULL },
        { "views.bin", "views", NULL },       { "views.old.bin", "views.old", NULL },
        { "wrapped.ckpt", "wrapped", NULL },  { "wrapped.old.ckpt", "wrapped.old", NULL },
        { "protocol1.pt", "protocol1", NULL },{ "protocol1.old.pt", "protocol1.old", NULL },
        { "protocol3.pt", "protocol3", NULL },{ "protocol4.pt", "protocol4", NULL },
        { "protocol5.pt", "protocol5", NULL },{ "ema.pt", "ema", NULL },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t n, mark = scratch_mark();
        const uint8_t *bytes = read_file(scratch_string(DATA "%s", cases[i].file), &n);
        Weights w = torch_read(cases[i].file, bytes, n, cases[i].key);
        same_tensors(cases[i].file, &w, scratch_string(DATA "%s.safetensors", cases[i].expected));
        scratch_reset(mark);
    }
    size_t n;
    const uint8_t *bytes = read_file(DATA "ema.pt", &n);
    check(torch_read("ema.pt", bytes, n, "ema").n == 1, "--key ema", "another number of tensors");
}

/* === Making pickles and archives ============================================================== */

#define TEXT(s) s, sizeof s - 1
#define P(b, text) put_bytes(b, TEXT(text))

static void put_le(Buf *b, uint64_t v, int n)
{
    for (int i = 0; i < n; i++) put_bytes(b, &(char){ i < 8 ? (char)(v >> (8 * i)) : 0 }, 1);
}

static void put_text(Buf *b, const char *s)
{
    P(b, "X");
    put_le(b, strlen(s), 4);
    put_bytes(b, s, strlen(s));
}

static void put_int(Buf *b, int64_t v)
{
    P(b, "\x8a\x08");
    put_le(b, (uint64_t)v, 8);
}

/* ("storage", torch.FloatStorage, key, "cpu", n) and BINPERSID */
static void put_storage(Buf *b, const char *key, int64_t n)
{
    P(b, "(");
    put_text(b, "storage");
    P(b, "ctorch\nFloatStorage\n");
    put_text(b, key);
    put_text(b, "cpu");
    put_int(b, n);
    P(b, "tQ");
}

/* A whole tensor of the two dimensions a, b on storage 0, which has 6 elements. */
static void put_tensor(Buf *b, int64_t offset, int64_t rows, int64_t cols, int64_t step,
                       int64_t skip)
{
    P(b, "ctorch._utils\n_rebuild_tensor_v2\n(");
    put_storage(b, "0", 6);
    put_int(b, offset);
    put_int(b, rows), put_int(b, cols), P(b, "\x86");
    put_int(b, step), put_int(b, skip), P(b, "\x86");
    P(b, "\x89}tR");
}

typedef struct { size_t head, entry; } Place;
typedef struct { Buf b; Place place[8]; int n; size_t directory, end; } Archive;

/* A record: local header and data; the directory is written from what is remembered. */
static void add_record(Archive *a, const char *name, const void *data, size_t n)
{
    a->place[a->n++].head = a->b.n;
    P(&a->b, "PK\3\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    put_le(&a->b, n, 4), put_le(&a->b, n, 4);
    put_le(&a->b, strlen(name), 2), put_le(&a->b, 0, 2);
    put_bytes(&a->b, name, strlen(name));
    put_bytes(&a->b, data, n);
}

static void add_directory(Archive *a)
{
    a->directory = a->b.n;
    for (int i = 0; i < a->n; i++) {
        const uint8_t *h = (uint8_t *)a->b.p + a->place[i].head;
        size_t n_name = h[26] | (size_t)h[27] << 8;
        char *copy = scratch_bytes(30 + n_name);
        memcpy(copy, h, 30 + n_name);
        a->place[i].entry = a->b.n;
        P(&a->b, "PK\1\2\0\0");
        put_bytes(&a->b, copy + 4, 26);                  /* as it is, up to the extra's length */
        put_le(&a->b, 0, 10);
        put_le(&a->b, a->place[i].head, 4);
        put_bytes(&a->b, copy + 30, n_name);
    }
    a->end = a->b.n;
    P(&a->b, "PK\5\6\0\0\0\0");
    put_le(&a->b, (uint64_t)a->n, 2), put_le(&a->b, (uint64_t)a->n, 2);
    put_le(&a->b, a->end - a->directory, 4), put_le(&a->b, a->directory, 4), put_le(&a->b, 0, 2);
}

/* As torch.save() would: the pickle, and one storage of six floats. */
static Archive archive(const Buf *pickle)
{
    static const float six[6] = { 1, 2, 3, 4, 5, 6 };
    Archive a = { 0 };
    add_record(&a, "x/data.pkl", pickle->p, pickle->n);
    add_record(&a, "x/byteorder", "little", 6);
    add_record(&a, "x/data/0", six, sizeof six);
    add_directory(&a);
    return a;
}

/* {"w": a good tensor}, without the end, so that more can follow. */
static Buf good(void)
{
    Buf b = { 0 };
    P(&b, "\x80\2}");
    put_text(&b, "w");
    put_tensor(&b, 0, 2, 3, 3, 1);
    P(&b, "s");
    return b;
}

/* === Running a reader ========================================================================= */

typedef struct { int code; long rss; char err[2000]; } Outcome;

static const uint8_t *input;
static size_t n_input;
static const char *operand[2], *base, *delta;

static void read_input(void) { torch_read("x.bin", input, n_input, NULL); }

static void run_convert(void)
{
    static const Command command = { .name = "convert", .bit = CONVERT };
    Run r = { .cmd = &command, .name = "convert",
              .o = { .operand = operand, .n_operands = 2, .quiet = true, .base = base,
                     .delta = delta } };
    messages_of("convert");
    int code = convert_model(&r);
    fflush(stdout);
    exit(code);
}

static Outcome run(void (*reader)(void))
{
    Outcome o = { .code = -1 };
    int fd[2];
    if (pipe(fd)) return o;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 1);
        dup2(fd[1], 2);
        close(fd[0]);
        close(fd[1]);
        alarm(60);
        reader();
        _exit(0);
    }
    close(fd[1]);
    size_t n = 0;
    for (ssize_t got; (got = read(fd[0], o.err + n, sizeof o.err - 1 - n)) > 0; ) n += (size_t)got;
    close(fd[0]);
    struct rusage used;
    int status = 0;
    wait4(pid, &status, 0, &used);
    o.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    o.rss = used.ru_maxrss / 1024;
    return o;
}

/* MB: what a child may use. A sanitizer has its own, and the parent's pages count as well. */
#if defined(__SANITIZE_ADDRESS__)
enum { SMALL = 700, LARGE = 2000 };
#else
enum { SMALL = 100, LARGE = 400 };
#endif

static void refused_file(const char *what, const void *bytes, size_t n, const char *message,
                         long mb)
{
    input = memcpy(malloc(n), bytes, n);                 /* of just this size */
    n_input = n;
    Outcome o = run(read_input);
    free((void *)(uintptr_t)input);
    bool made = access(canary, F_OK) == 0;
    check(o.code == 4 && strstr(o.err, message) && !made && strstr(o.err, "x.bin"), what,
          scratch_string("exit code %d%s, %s", o.code, made ? ", AND IT WAS RUN" : "", o.err));
    check(o.rss < mb, what, scratch_string("%ld MB of memory", o.rss));
}

static void refused(const char *what, const Buf *pickle, const char *message)
{
    Archive a = archive(pickle);
    refused_file(what, a.b.p, a.b.n, message, SMALL);
}

static void accepted(const char *what, const Buf *pickle, size_t n_weights)
{
    Archive a = archive(pickle);
    jmp_buf place;
    size_t mark = scratch_mark();
    if (setjmp(place)) {
        die_landing = NULL;
        check(false, what, item_error.msg);
        return;
    }
    die_landing = &place;
    Weights w = torch_read("x.bin", (uint8_t *)a.b.p, a.b.n, NULL);
    die_landing = NULL;
    check(w.n == n_weights, what, "another number of weights");
    scratch_reset(mark);
}

/* === Hostile pickles: names =================================================================== */

/* touch CANARY, with the opcodes in front and behind of it. */
static Buf command_between(const void *before, size_t n_before, const void *after, size_t n_after)
{
    Buf b = { 0 };
    put_bytes(&b, before, n_before);
    put_text(&b, scratch_string("touch %s", canary));
    put_bytes(&b, after, n_after);
    return b;
}

#define HOSTILE(what, before, after, message) do { \
        Buf b_ = command_between(before, sizeof before - 1, after, sizeof after - 1); \
        refused(what, &b_, message); \
    } while (0)

static void test_names(void)
{
    HOSTILE("os.system", "\x80\2cos\nsystem\n", "\x85R.", "os.system");
    HOSTILE("posix.system", "\x80\2cposix\nsystem\n", "\x85R.", "posix.system");
    HOSTILE("nt.system", "\x80\2cnt\nsystem\n", "\x85R.", "nt.system");
    HOSTILE("eval", "\x80\2c__builtin__\neval\n", "\x85R.", "__builtin__.eval");
    HOSTILE("exec", "\x80\2" "cbuiltins\nexec\n", "\x85R.", "builtins.exec");
    HOSTILE("subprocess by NEWOBJ", "\x80\2csubprocess\nPopen\n", "\x85\x81.", "subprocess.Popen");
    HOSTILE("by STACK_GLOBAL", "\x80\4\x8c\2os\x8c\6system\x93", "\x85R.", "os.system");
    HOSTILE("by INST", "(", "ios\nsystem\n.", "os.system");
    HOSTILE("by OBJ", "(cos\nsystem\n", "o.", "os.system");
    HOSTILE("runpy", "\x80\2crunpy\n_run_code\n", "}\x86R.", "runpy._run_code");
    HOSTILE("importlib", "\x80\2cimportlib\nimport_module\n", "\x85R.", "importlib.import_module");
    HOSTILE("nested: getattr(__import__(...))", "\x80\2c__builtin__\ngetattr\nc__builtin__\n"
            "__import__\nX\2\0\0\0os\x85RX\6\0\0\0system\x86R", "\x85R.", "__builtin__.getattr");
    HOSTILE("attrgetter", "\x80\2coperator\nattrgetter\n", "\x85R.", "operator.attrgetter");
    HOSTILE("types.CodeType", "\x80\2ctypes\nCodeType\n", "\x85R.", "types.CodeType");
    HOSTILE("a module inside of another", "\x80\2cos.path\njoin\n", "\x85R.", "os.path.join");
    HOSTILE("in an entry left out", "\x80\2}X\1\0\0\0xcos\nsystem\n", "\x85Rs.", "os.system");
    HOSTILE("an unknown function", "\x80\2cevil\nrun\n", "\x85R.", "holds evil.run");
    HOSTILE("an unknown object, built", "\x80\2cevil\nThing\n)\x81}X\1\0\0\0x", "sb.",
            "holds evil.Thing");
    HOSTILE("an escape in a name", "\x80\2cos\n\x1b[31msystem\n", "\x85R.", "\\x1b[31msystem");
    Buf b = good();
    put_text(&b, "v");
    P(&b, "cevil\nmake_tensor\n");
    put_storage(&b, "0", 6);
    P(&b, "\x85Rs.");
    refused("a tensor made by an unknown function", &b, "is made by evil.make_tensor");
    b = good();
    put_text(&b, "v");
    P(&b, "ctorch._utils\n_rebuild_qtensor\n)Rs.");
    refused("a quantized tensor", &b, "is made by torch._utils._rebuild_qtensor");
    b = good();
    put_text(&b, "v");
    P(&b, "cnumpy.core.multiarray\n_reconstruct\n)Rs.");
    refused("an array among the weights", &b, "is made by numpy.core.multiarray._reconstruct");
    b = good();
    put_text(&b, "v");
    P(&b, "cevil\nThing\n)Rs.");
    accepted("an unknown object beside the weights", &b, 1);
    b = (Buf){ 0 };
    P(&b, "\x80\2ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type_v2\n"
          "ctorch\nTensor\n(tNtR.");
    refused("a rebuild of a rebuild", &b, "holds torch._tensor._rebuild_from_type_v2");
}

/* === Hostile pickles: sizes =================================================================== */

/* n times the same opcodes. */
static void repeat(Buf *b, const char *op, size_t n_op, size_t n)
{
    for (size_t i = 0; i < n; i++) put_bytes(b, op, n_op);
}

/* Note 1: ten times a list of ten times a list ..., 200 deep, which written out were 10^200. */
static void put_laughs(Buf *b)
{
    P(b, "]q\1" "0");
    for (int i = 0; i < 200; i++) P(b, "](h\1h\1h\1h\1h\1h\1h\1h\1h\1h\1eq\1" "0");
}

static void test_sizes(void)
{
    Buf b = good();
    put_text(&b, "x");
    put_laughs(&b);
    P(&b, "h\1s.");
    accepted("billion laughs in what is left out", &b, 1);
    b = (Buf){ 0 };
    P(&b, "\x80\2");
    put_laughs(&b);
    P(&b, "h\1");
    repeat(&b, "\x85", 1, 100000);
    P(&b, ".");
    refused("billion laughs, 100000 deep", &b, "neither dictionary nor tensor");
    b = (Buf){ 0 };
    P(&b, "\x80\2}q\0");
    put_text(&b, "model");
    P(&b, "h\0s.");
    refused("a dictionary that is its own model", &b, "has no tensors");
    b = (Buf){ 0 };
    P(&b, "\x80\2X\xf0\xff\xff\xff...");
    refused("a text of 4 GB", &b, "4294967280 bytes are needed");
    b = (Buf){ 0 };
    P(&b, "\x80\4\x8d\xff\xff\xff\xff\xff\xff\xff\xff.");
    refused("a text of 2^64 bytes", &b, "18446744073709551615 bytes are needed");
    b = (Buf){ 0 };
    P(&b, "\x80\2\x8b\xff\xff\xff\x7f.");
    refused("an integer of 2 GB", &b, "2147483647 bytes are needed");
    b = (Buf){ 0 };
    P(&b, "\x80\2]r\xff\xff\xff\xff.");
    refused("note 4294967295", &b, "note 4294967295 is written after 1 values");
    b = (Buf){ 0 };
    P(&b, "\x80\2]p99999999999999999999\n.");
    refused("a note beyond 64 bits", &b, "is written after");
    b = (Buf){ 0 };
    P(&b, "\x80\2h\7.");
    refused("a note that was never written", &b, "note 7 is read");
    b = (Buf){ 0 };
    P(&b, "\x80\2" "c");
    repeat(&b, "a", 1, 5000);
    P(&b, "\nb\n.");
    refused("a name of 5000 bytes", &b, "5001 bytes");
    b = (Buf){ 0 };
    P(&b, "\x80\2");
    repeat(&b, "N", 1, 5000000);
    P(&b, ".");
    Archive a = archive(&b);
    refused_file("five million values", a.b.p, a.b.n, "more than 4194304 values", LARGE);
    b = (Buf){ 0 };
    P(&b, "\x80\2]q\0(");
    repeat(&b, "h\0", 2, 4000000);
    P(&b, "e.");
    a = archive(&b);
    refused_file("a list of four million", a.b.p, a.b.n, "neither dictionary", LARGE);
    b = (Buf){ 0 };                                      /* 100000 pairs, copied again and again */
    P(&b, "\x80\2ccollections\nOrderedDict\nq\0NN\x86q\1](");
    repeat(&b, "h\1", 2, 100000);
    P(&b, "e\x85q\2");
    repeat(&b, "h\0h\2R", 5, 100000);
    P(&b, ".");
    a = archive(&b);
    refused_file("a dictionary copied 100000 times", a.b.p, a.b.n, "more than 4194304", LARGE);
    b = (Buf){ 0 };                                      /* 600000 tensors of one storage */
    P(&b, "\x80\2ctorch._utils\n_rebuild_tensor_v2\nq\0(");
    put_storage(&b, "0", 6);
    P(&b, "K\0)tq\1");
    b.n -= 4;
    P(&b, "))tq\1");
    repeat(&b, "h\0h\1R", 5, 600000);
    P(&b, ".");
    a = archive(&b);
    refused_file("600000 tensors", a.b.p, a.b.n, "more than 524288 tensors", LARGE);
}

/* === Hostile pickles: structure =============================================================== */

static void test_structure(void)
{
    static const struct { const char *what, *code; size_t n; const char *message; } cases[] = {
#define C(what, code, message) { what, code, sizeof code - 1, message }
        C("nothing", "", "1 bytes are needed"),
        C("no end", "\x80\2}", "1 bytes are needed, 0 are left"),
        C("an empty stack", "\x80\2.", "where there is none"),
        C("a mark that is not there", "\x80\2t.", "a mark is taken"),
        C("through a mark", "\x80\2N(\x85.", "where there is none"),
        C("two values", "\x80\2}}.", "more than one value"),
        C("a mark is left", "\x80\2(}.", "more than one value"),
        C("protocol 9", "\x80\11}.", "protocol"),
        C("PERSID", "Pabc\n.", "opcode 0x50"),
        C("EXT1", "\x80\2\x82\1.", "opcode 0x82"),
        C("NEXT_BUFFER", "\x80\5\x97.", "opcode 0x97"),
        C("a key without a value", "\x80\2}(Nu.", "key without a value"),
        C("a dictionary of three", "\x80\2(NNNd.", "key without a value"),
        C("items for a tuple", "\x80\2)(Nu.", "key without a value"),
        C("appended to a dictionary", "\x80\2}Na.", "no list"),
        C("a number of letters", "Iabc\n.", "a number has a"),
        C("a line without an end", "I12", "a line has no end"),
        C("a class named by numbers", "\x80\4K\1K\2\x93.", "is no text"),
        C("a tensor alone", "\x80\2N.", "neither dictionary nor tensor"),
        C("a tuple of an empty stack", "(t.", "neither dictionary nor tensor"),
        C("an empty dictionary", "\x80\2}.", "has no tensors"),
        C("bytes behind its end", "\x80\2}..", "goes on after its end"),
        C("a storage that is no tuple", "\x80\2NQ.", "stands for a storage"),
        C("a key with a zero byte", "\x80\2(X\7\0\0\0storagectorch\nFloatStorage\nX\3\0\0\0a\0b"
          "NK\6tQ.", "no short text"),
        C("the least of 64 bits", "L-9223372036854775808L\n.", "neither dictionary nor tensor"),
        C("a tensor of nothing", "\x80\2ctorch._utils\n_rebuild_tensor_v2\n)R.",
          "is made of 0 things"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Buf b = { 0 };
        put_bytes(&b, cases[i].code, cases[i].n);
        refused(cases[i].what, &b, cases[i].message);
    }
}

static void bad_tensor(const char *what, int64_t offset, int64_t rows, int64_t cols, int64_t step,
                       int64_t skip, const char *message)
{
    Buf b = { 0 };
    P(&b, "\x80\2}");
    put_text(&b, "w");
    put_tensor(&b, offset, rows, cols, step, skip);
    P(&b, "s.");
    refused(what, &b, message);
}

static void bad_storage(const char *what, const char *key, int64_t n, const char *message)
{
    Buf b = { 0 };
    P(&b, "\x80\2");
    put_storage(&b, key, n);
    P(&b, ".");
    refused(what, &b, message);
}

static void bad_name(const char *what, const char *name, size_t n, const char *message)
{
    Buf b = good();
    P(&b, "X");
    put_le(&b, n, 4);
    put_bytes(&b, name, n);
    put_tensor(&b, 0, 2, 3, 3, 1);
    P(&b, "s.");
    refused(what, &b, message);
}

static void test_tensors(void)
{
    static const char beyond[] = "reaches beyond its storage of 6 elements";
    const int64_t big = INT64_MAX;
    bad_tensor("one element too far", 1, 2, 3, 3, 1, beyond);
    bad_tensor("an offset too far", 7, 0, 3, 3, 1, beyond);
    bad_tensor("a stride too long", 0, 2, 3, 4, 1, beyond);
    bad_tensor("2^63 rows", 0, big, big, 3, 1, beyond);
    bad_tensor("2^62 elements of nothing", 0, (int64_t)1 << 60, 16, 0, 0, beyond);
    bad_tensor("a stride of 2^63", 0, 3, 3, big, big, beyond);
    bad_tensor("2^63 as the offset", big, 1, 1, 1, 1, beyond);
    bad_tensor("rows below 0", 0, -1, 3, 3, 1, "below 0");
    bad_tensor("a stride below 0", 5, 2, 3, -1, 1, "below 0");
    bad_tensor("an offset below 0", -1, 2, 3, 3, 1, "below 0");
    bad_storage("a storage that is not there", "1", 6, "there is no record data/1");
    bad_storage("a path as the key", "../../../etc/passwd", 6, "there is no record data/../");
    bad_storage("a storage of another size", "0", 5, "record data/0 has 24 bytes, its storage 20");
    bad_storage("a storage of 2^62", "0", (int64_t)1 << 62, "a storage has 46116");
    bad_storage("a storage below 0", "0", -6, "a storage has -6");
    bad_name("the same name twice", "w", 1, "has two tensors w");
    bad_name("a name that is not UTF-8", "\xff\xfe", 2, "a tensor's name is \\xff\\xfe");
    bad_name("a name with a zero", "a\0b", 3, "a tensor's name is a\\x00b");
    bad_name("__metadata__", "__metadata__", 12, "safetensors forbid");
    char *longer = memset(scratch_bytes(2000), 'a', 2000);
    bad_name("a name of 2000 bytes", longer, 2000, "at most 1024 bytes");
    Buf b = { 0 };
    P(&b, "\x80\2ctorch._utils\n_rebuild_tensor_v2\n(");
    put_storage(&b, "0", 6);
    P(&b, "K\0(K\1K\1K\1K\1K\1K\1K\1K\1K\1t(K\1K\1K\1K\1K\1K\1K\1K\1K\1ttR.");
    refused("nine dimensions", &b, "a tensor has 9 dimensions");
}

/* === Hostile archives ========================================================================= */

/* A good archive with v written at `at` (n bytes). */
static void patched(const char *what, size_t at, uint64_t v, int n, const char *message)
{
    Buf pickle = good();
    P(&pickle, ".");
    Archive a = archive(&pickle);
    for (int i = 0; i < n; i++) a.b.p[at + (size_t)i] = (char)(v >> (8 * i));
    refused_file(what, a.b.p, a.b.n, message, SMALL);
}

static void test_archives(void)
{
    Buf pickle = good();
    P(&pickle, ".");
    Archive a = archive(&pickle);
    accepted("the archive that is damaged below", &pickle, 1);
    size_t entry = a.place[2].entry, head = a.place[2].head, end = a.end;
    patched("no end record", end, 0, 4, "has no end record");
    patched("a directory at the end of the file", end + 16, a.b.n, 4, "does not end where");
    patched("a directory at 4 GB", end + 16, 0xffffffff, 4, "does not end where");
    patched("65535 records", end + 8, 0xffffffff, 4, "does not end where");
    patched("one record too few", end + 8, 0x00020002, 4, "goes on after the last");
    patched("several disks", end + 4, 1, 2, "is one of several parts");
    patched("a size beyond the file", entry + 20, 0x7fffffff7fffffff, 8, "reaches into the direc");
    patched("two sizes", entry + 24, 20, 4, "has two sizes");
    patched("64 bits that are not there", entry + 20, 0xffffffff, 4, "lacks a 64-bit size");
    patched("a header at another place", entry + 42, 1, 4, "is not at byte 1");
    patched("the header of another record", entry + 42, 0, 4, "contradict each other");
    patched("another name in the header", head + 30, 'y', 1, "contradict each other");
    patched("another size in the header", head + 22, 20, 4, "contradict each other");
    patched("another method in the header", head + 8, 8, 2, "contradict each other");
    patched("a name beyond the directory", entry + 28, 0xffff, 2, "does not end inside");
    patched("no entry", entry, 0, 4, "has no entry at byte");
    patched("big-endian", a.place[1].head + 30 + 11, 'b', 1, "record byteorder is bittle");
    for (int k = 0; k < 2; k++) {                        /* in both places */
        static const struct { size_t local, entry; int value; const char *message; } both[] = {
            { 8, 10, 8, "is compressed" }, { 6, 8, 1, "is encrypted" } };
        Archive c = archive(&pickle);
        c.b.p[c.place[2].head + both[k].local] = (char)both[k].value;
        c.b.p[c.place[2].entry + both[k].entry] = (char)both[k].value;
        refused_file(both[k].message, c.b.p, c.b.n, both[k].message, SMALL);
    }
    static const struct { const char *name, *message; } more[] = {
        { "x/data/0", "has two records" }, { "y/data.pkl", "has two records data.pkl" },
        { "x/constants.pkl", "TorchScript" } };
    for (int k = 0; k < 3; k++) {
        Archive c = { 0 };
        add_record(&c, "x/data.pkl", pickle.p, pickle.n);
        add_record(&c, "x/data/0", "abcdefghijklmnopqrstuvwx", 24);
        add_record(&c, more[k].name, "abcdefghijklmnopqrstuvwx", 24);
        add_directory(&c);
        refused_file(more[k].message, c.b.p, c.b.n, more[k].message, SMALL);
    }
    Archive c = { 0 };                                   /* one record inside of another */
    add_record(&c, "x/data.pkl", pickle.p, pickle.n);
    Archive inner = { 0 };
    add_record(&inner, "x/data/0", "abcdefghijklmnopqrstuvwx", 24);
    add_record(&c, "x/outer", inner.b.p, inner.b.n);
    c.place[c.n++].head = c.b.n - inner.b.n;
    add_directory(&c);
    refused_file("overlapping records", c.b.p, c.b.n, "overlap", SMALL);
    c = (Archive){ 0 };
    add_record(&c, "x/model.json", "{}", 2);
    add_directory(&c);
    refused_file("an archive of something else", c.b.p, c.b.n, "it has no data.pkl", SMALL);
    refused_file("a text", "hello, world, this is text", 26, "of a kind that mm does not know",
                 SMALL);
    refused_file("a page", "<!DOCTYPE html><html></html>", 28, "is an HTML page", SMALL);
}

/* === The old form ============================================================================= */

#define MAGIC "\x80\2\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
#define VERSION "\x80\2M\xe9\3."
#define LITTLE "\x80\2}X\x0d\0\0\0little_endian\x88s."

/* {"w": tensor} on storage "0" of six floats, whose view is `view`; keys; and n_elements + data. */
static void bad_old(const char *what, const char *head, size_t n_head, const char *view,
                    const char *keys, uint64_t n_elements, const char *behind, const char *message)
{
    Buf b = { 0 };
    put_bytes(&b, head, n_head);
    P(&b, "\x80\2}X\1\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloat"
          "Storage\nX\1\0\0\0" "0X\3\0\0\0cpuK\6");
    put_bytes(&b, view, strlen(view));
    P(&b, "tQK\0K\2K\3\x86K\3K\1\x86\x89}tRs.\x80\2](");
    put_bytes(&b, keys, strlen(keys));
    P(&b, "e.");
    put_le(&b, n_elements, 8);
    P(&b, "abcdefghijklmnopqrstuvwx");
    put_bytes(&b, behind, strlen(behind));
    if (message) refused_file(what, b.p, b.n, message, SMALL);
    else check(torch_read("x.bin", (uint8_t *)b.p, b.n, NULL).n == 1, what, "not read");
}

static void test_old(void)
{
    static const char head[] = MAGIC VERSION LITTLE;
    size_t n = sizeof head - 1;
    bad_old("the old form", head, n, "N", "U\1" "0", 6, "", NULL);
    bad_old("a view", head, n, "(U\1" "1K\1K\5t", "U\1" "0", 6, "", "its storage of 5");
    bad_old("a view outside", head, n, "(U\1" "1K\1K\6t", "U\1" "0", 6, "", "is outside of its 24");
    bad_old("a view of nothing", head, n, "(K\1t", "U\1" "0", 6, "", "a view of a storage is no");
    bad_old("more behind", head, n, "N", "U\1" "0", 6, "y", "goes on for 1 bytes");
    bad_old("another size", head, n, "N", "U\1" "0", 5, "", "has 5 elements, expected 6");
    bad_old("2^62 elements", head, n, "N", "U\1" "0", (uint64_t)1 << 62, "", "expected 6");
    bad_old("another key", head, n, "N", "U\1" "7", 6, "", "used by no tensor");
    bad_old("a key twice", head, n, "N", "U\1" "0U\1" "0", 6, "", "for the second time");
    bad_old("no key", head, n, "N", "", 6, "", "lists 0 storages, its tensors use 1");
    bad_old("a key of a number", head, n, "N", "K\1", 6, "", "is no short text");
    static const char other[] = "\x80\2K\1." VERSION LITTLE, version[] = MAGIC "\x80\2K\7." LITTLE;
    static const char big[] = MAGIC VERSION "\x80\2}X\x0d\0\0\0little_endian\x89s.";
    bad_old("another magic number", other, sizeof other - 1, "N", "U\1" "0", 6, "", "not one of");
    bad_old("version 7", version, sizeof version - 1, "N", "U\1" "0", 6, "", "is of version 7");
    bad_old("big-endian", big, sizeof big - 1, "N", "U\1" "0", 6, "", "big-endian");
    Buf b = command_between("\x80\2cos\nsystem\n", 14, "\x85R.", 3);
    refused_file("a pickle of something else", b.p, b.n, "os.system", SMALL);
}

/* === Damage =================================================================================== */

/* Reads n bytes from memory of just this size, and every weight of what is read. Returns whether
 * it was refused. */
static bool is_refused(const uint8_t *bytes, size_t n)
{
    jmp_buf place;
    size_t kept = keep_mark(), mark = scratch_mark();
    uint8_t *exact = memcpy(malloc(n ? n : 1), bytes, n);
    volatile bool bad = true;
    if (setjmp(place) == 0) {
        die_landing = &place;
        Weights w = torch_read("cut.bin", exact, n, NULL);
        for (size_t i = 0; i < w.n; i++) {
            uint64_t all = w.weight[i].n < 4096 ? w.weight[i].n : 4096;
            weight_copy(&w.weight[i], scratch_bytes(all * (uint64_t)w.weight[i].size + 1), 0, all);
        }
        bad = false;
    }
    die_landing = NULL;
    free(exact);
    scratch_reset(mark);
    keep_reset(kept);
    return bad;
}

static void test_damage(void)
{
    static const char *const files[] = { "views.bin", "views.old.bin", "wrapped.old.ckpt",
                                         "protocol1.old.pt", "protocol4.pt" };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        size_t n, n_bad = 0, n_flipped = 0;
        uint8_t *bytes = read_file(scratch_string(DATA "%s", files[i]), &n);
        for (size_t cut = 0; cut < n; cut++) n_bad += is_refused(bytes, cut);
        check(n_bad == n, files[i], scratch_string("%zu of %zu cut files refused", n_bad, n));
        for (size_t bit = 0; bit < 8 * n; bit++) {
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
            n_flipped += is_refused(bytes, n);
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        check(n_flipped > n / 4, files[i],              /* the rest are numbers, or padding */
              scratch_string("%zu of %zu changed files refused", n_flipped, 8 * n));
    }
}

/* === The command ============================================================================== */

/* How many entries the folder has, hidden and temporary ones as well. */
static int count(const char *folder)
{
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d)); )
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    if (d) closedir(d);
    return n;
}

static void converts(const char *what, const char *in, const char *out, int code,
                     const char *message)
{
    operand[0] = in;
    operand[1] = out;
    Outcome o = run(run_convert);
    check(o.code == code && strstr(o.err, message), what,
          scratch_string("exit code %d, %s", o.code, o.err));
}

/* Is the safetensors file at `path` the one that the reference made? */
static void is_same(const char *what, const char *path, const char *expected)
{
    size_t n;
    if (access(path, F_OK)) {
        check(false, what, "no file");
        return;
    }
    const uint8_t *bytes = read_file(path, &n);
    check(n > 8 && (bytes[0] | bytes[1] << 8) % 64 == 56, what, "data that is not aligned");
    Ckpt ck = ckpt_parse(path, bytes, n);
    Weights w = { .n = (size_t)ckpt_count(ck) };
    w.weight = keep_bytes((w.n + 1) * sizeof *w.weight);
    for (size_t i = 0; i < w.n; i++) {
        CkptEntry e = ckpt_entry(ck, (int)i);
        Weight *t = &w.weight[i];
        *t = (Weight){ .name = e.name, .type = e.dtype, .ndim = e.ndim, .n = 1, .data = e.data };
        for (int k = e.ndim - 1; k >= 0; k--) {
            t->dim[k] = e.dim[k];
            t->stride[k] = (int64_t)t->n;
            t->n *= (uint64_t)e.dim[k];
        }
        t->size = t->n ? (int)(e.n_bytes / t->n) : 1;
        if (t->size && (e.offset % (uint64_t)t->size)) check(false, what, "a weight not aligned");
    }
    same_tensors(what, &w, expected);
}

static void test_command(void)
{
    empty(dir);
    for (const char *const *f = (const char *const[]){ "types.bin", "views.bin", "views.old.bin",
                                                       "wrapped.ckpt", NULL }; *f; f++) {
        size_t n = strlen(*f) - strlen(strrchr(*f, '.'));
        converts(*f, scratch_string(DATA "%s", *f), in_dir("one.safetensors"), 0, "");
        is_same(*f, in_dir("one.safetensors"), scratch_string(DATA "%.*s.safetensors", (int)n, *f));
        unlink(in_dir("one.safetensors"));
    }
    converts("a folder", DATA "sharded", in_dir("m/"), 0, "");
    is_same("a folder", in_dir("m/model.safetensors"), DATA "sharded.safetensors");
    check(count(in_dir("m")) == 3 && count(in_dir("m/1_Pooling")) == 1, "a folder", "other files");
    converts("what is there", DATA "sharded", in_dir("m"), 7, "is there already");
    converts("a file that is there", DATA "types.bin", in_dir("m/config.json"), 7, "is there alr");
    converts("no such folder", DATA "types.bin", in_dir("nowhere/x.safetensors"), 7, "cannot be");
    converts("a folder into a file", DATA "sharded", in_dir("x.safetensors"), 2, "is a folder");
    converts("no weights", DATA "sharded/1_Pooling", in_dir("x"), 4, "has no weights to convert");
    converts("a model that is none", "nowhere/nothing", in_dir("x"), 3, "nowhere/nothing");
    check(count(dir) == 1, "what failed leaves nothing", scratch_string("%d entries", count(dir)));
    convert_shard_bytes = 70;
    converts("shards", DATA "sharded", in_dir("s"), 0, "");
    convert_shard_bytes = 5000000000;
    check(count(in_dir("s")) == 6, "three shards, an index, the rest", "another number");
    Ckpt ck = ckpt_open(in_dir("s"));
    check(ckpt_count(ck) == 4 && ckpt_bytes(ck) == 144, "what the shards hold", "another number");
    mkdir(in_dir("two"), 0777);
    write_file("two/a.pt", "x", 1);
    write_file("two/b.pt", "x", 1);
    converts("two files of weights", in_dir("two"), in_dir("x"), 4, "has 2 files of weights");
    write_file("two/pytorch_model.bin.index.json",
               TEXT("{\"weight_map\":{\"a\":\"../../secret.bin\"}}"));
    converts("a path in an index", in_dir("two"), in_dir("x"), 4, "expected the name of a file");
    write_file("two/pytorch_model.bin.index.json",
               TEXT("{\"weight_map\":{\"a\":\"gone.bin\"}}"));
    converts("a shard that is not there", in_dir("two"), in_dir("x"), 4, "is not there");
    Buf b = { 0 };                                       /* 10^12 elements of one */
    P(&b, "\x80\2}");
    put_text(&b, "w");
    put_tensor(&b, 0, 1000000, 1000000, 0, 0);
    P(&b, "s.");
    Archive a = archive(&b);
    write_file("bomb.bin", a.b.p, a.b.n);
    converts("a tensor that is mostly air", in_dir("bomb.bin"), in_dir("x"), 4, "share their num");
}

static void test_delta(void)
{
    static const struct { const char *name, *mode; } cases[] = {
        { "add", NULL }, { "mean", "alpaca" }, { "bf16", "add" } };
    empty(dir);
    for (int i = 0; i < 3; i++) {
        base = scratch_string(DATA "delta/%s.base.bin", cases[i].name);
        delta = cases[i].mode;
        converts(cases[i].name, scratch_string(DATA "delta/%s.bin", cases[i].name),
                 in_dir("d.safetensors"), 0, "");
        is_same(cases[i].name, in_dir("d.safetensors"),
                scratch_string(DATA "delta/%s.safetensors", cases[i].name));
        unlink(in_dir("d.safetensors"));
    }
    delta = NULL;
    base = DATA "types.bin";
    converts("a base that it does not belong to", DATA "delta/add.bin", in_dir("x"), 4,
             "has 0 of the 19 tensors");
    base = DATA "delta/add.bin";
    converts("a base that is larger", DATA "delta/add.base.bin", in_dir("x"), 4,
             "expected the same shape, or more rows");
    base = NULL;
    delta = "add";
    converts("a mode without a base", DATA "delta/add.bin", in_dir("x"), 2, "needs --base");
    delta = NULL;
    check(count(dir) == 0, "what failed leaves nothing", "something");
}

int main(void)
{
    make_dir("mm-pickle");
    snprintf(canary, sizeof canary, "%s.canary", dir);
    threads_start(2);
    void (*const tests[])(void) = { test_reading, test_names, test_sizes, test_structure,
                                    test_tensors, test_archives, test_old, test_damage,
                                    test_command, test_delta };
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        size_t mark = scratch_mark();
        tests[i]();
        scratch_reset(mark);
    }
    empty(dir);
    rmdir(dir);
    printf("pickle: %d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed > 0;
}
