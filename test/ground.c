/* ground.c -- tests of memory.c, threads.c, tensor.c and trace.c: the parts that all others stand
 * on. What ends the process (die, bug) is tried in a child process. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../tensor.h"

static int n_passed, n_failed;

static void check(bool ok, const char *what)
{
    if (ok) { n_passed++; return; }
    n_failed++;
    printf("failed: %s\n", what);
}

/* Runs fn in a child; its exit code, and what it wrote to stderr. */
static int in_child(void (*fn)(void), char *err, size_t size)
{
    int pipe_fd[2];
    if (pipe(pipe_fd) != 0) exit(1);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipe_fd[1], 2);
        close(pipe_fd[0]);
        fn();
        _exit(0);
    }
    close(pipe_fd[1]);
    size_t n = 0;
    for (ssize_t got; n + 1 < size && (got = read(pipe_fd[0], err + n, size - 1 - n)) > 0; )
        n += (size_t)got;
    err[n] = 0;
    close(pipe_fd[0]);
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void ends(void (*fn)(void), int code, const char *message, const char *what)
{
    char err[4096];
    int got = in_child(fn, err, sizeof err);
    bool ok = got == code && strstr(err, message);
    if (!ok) printf("exit code %d, expected %d; stderr: %s\n", got, code, err);
    check(ok, what);
}

/* === Errors =================================================================================== */

static void die_two_lines(void) { die(EXIT_FILE, "a.json: key %s\nmend it", quoted("x\x1b[2J")); }
static void fail_alone(void)    { fail("image.empty", "try again", "b.png: no bytes"); }
static void call_bug(void)      { bug("linear: %d", 3); }

static void test_errors(void)
{
    ends(die_two_lines, EXIT_FILE, "mm: a.json: key x\\x1b[2J\n    mend it\n", "die with a hint");
    ends(fail_alone, EXIT_INPUT, "mm: b.png: no bytes\n    try again\n", "fail without a batch");
    ends(call_bug, EXIT_BUG, "mm: bug: linear: 3\n", "bug");

    jmp_buf place;
    volatile int landed = 0;
    if (setjmp(place) == 0) {
        landing = &place;
        fail("image.truncated", NULL, "c.png: %d bytes", 7);
    } else {
        landed = 1;
    }
    landing = NULL;
    check(landed && strcmp(item_error.code, "image.truncated") == 0 &&
          strcmp(item_error.msg, "c.png: 7 bytes") == 0 && !item_error.hint[0], "fail in a batch");

    const char *utf8 = "caf\xc3\xa9 \xe4\xb8\xad";
    check(strcmp(quoted(utf8), utf8) == 0, "quoted: UTF-8");
    check(strcmp(quoted("a\nb\x7f"), "a\\x0ab\\x7f") == 0, "quoted: control characters");
    check(strcmp(quoted("\xc2\x9b" "1m"), "\\xc2\\x9b1m") == 0, "quoted: C1");
    check(strcmp(quoted("\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80"),
                 "\\xc0\\x80\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80") == 0, "quoted: not UTF-8");
    char many[1000];
    memset(many, 'x', sizeof many);
    check(strlen(quoted_n(many, sizeof many)) == 203, "quoted: cut at 200 characters");
}

/* === Memory =================================================================================== */

static void too_much(void)    { mul_size((size_t)1 << 40, (size_t)1 << 40); }
static void sum_too_big(void) { add_size((size_t)-1, 1); }
static void whole_arena(void) { scratch_bytes((size_t)1 << 50); }
static void reset_ahead(void) { scratch_reset(scratch_mark() + 64); }
static void more_than_the_machine(void) { keep_bytes(memory_available() + ((size_t)1 << 30)); }

/* In a batch an item that takes too much fails alone. */
static void test_memory_of_item(void)
{
    jmp_buf place;
    size_t mark = scratch_mark();
    volatile bool landed = true;
    if (setjmp(place) == 0) {
        landing = &place;
        scratch_bytes(memory_available() + ((size_t)1 << 30));
        landed = false;
    }
    landing = NULL;
    check(landed && strcmp(item_error.code, "memory") == 0, "too much for the machine, in a batch");
    check(scratch_mark() == mark, "too much for the machine: nothing was taken");
}

static void test_memory(void)
{
    size_t mark = scratch_mark();
    char *a = scratch_bytes(1), *b = scratch_bytes(100);
    check((uintptr_t)a % 64 == 0 && (uintptr_t)b % 64 == 0, "scratch is aligned to 64 bytes");
    check(b >= a + 1, "scratch pieces do not overlap");
    memset(b, 0xAA, 100);
    scratch_reset(mark);
    check(scratch_bytes(1) == (void *)a, "scratch comes back at the mark");
    scratch_reset(mark);
    unsigned char *k = keep_bytes(100000);
    size_t sum = 0;
    for (int i = 0; i < 100000; i++) sum += k[i];
    check(sum == 0, "keep is zeroed");
    check(strcmp(scratch_string("%s-%d", "a", 5), "a-5") == 0, "scratch_string");
    check(strcmp(keep_string("%05.1f", 2.25), "002.2") == 0, "keep_string");
    ends(too_much, EXIT_MEMORY, "mm: ", "mul_size overflow");
    ends(sum_too_big, EXIT_MEMORY, "mm: ", "add_size overflow");
    ends(whole_arena, EXIT_MEMORY, "mm: ", "scratch: more than there is");
    ends(more_than_the_machine, EXIT_MEMORY, "mm: ", "more than the machine has");
    test_memory_of_item();
    ends(reset_ahead, EXIT_BUG, "scratch_reset", "scratch_reset beyond the end");
}

/* === Threads ================================================================================== */

typedef struct { atomic_int count[500]; atomic_int bad_worker; } Counts;

static void count_task(void *ctx, int i, int worker)
{
    Counts *c = ctx;
    atomic_fetch_add(&c->count[i], 1);
    if (worker < 0 || worker >= n_threads()) atomic_store(&c->bad_worker, 1);
}

static void allocating_task(void *ctx, int i, int worker)
{
    (void)ctx, (void)i, (void)worker;
    scratch_bytes(1);
}

static void nesting_task(void *ctx, int i, int worker)
{
    (void)i, (void)worker;
    parallel_for(2, count_task, ctx);
}

static void allocate_inside(void) { parallel_for(8, allocating_task, NULL); }
static void nest(void)
{
    static Counts c;
    parallel_for(8, nesting_task, &c);
}

static void test_threads(void)
{
    static Counts c;
    bool all_once = true;
    for (int round = 0; round < 3000; round++) {
        int n = round % 500;
        for (int i = 0; i < n; i++) atomic_store(&c.count[i], 0);
        parallel_for(n, count_task, &c);
        for (int i = 0; i < n; i++) all_once = all_once && atomic_load(&c.count[i]) == 1;
        if (round % 300 == 0) usleep(2000);             /* let the workers fall asleep */
    }
    check(all_once, "parallel_for: every task once");
    check(!atomic_load(&c.bad_worker), "parallel_for: worker numbers");
    check(n_threads() == 7 && strstr(threads_reason(), "7"), "as many threads as asked for");
}

/* === Tensors and trace ======================================================================== */

static void rows_beyond(void) { rows(scratch(3, 4), 2, 2); }

static char   last_name[64];
static Tensor last;

static void remember(void *ctx, const char *name, Tensor t)
{
    (void)ctx;
    snprintf(last_name, sizeof last_name, "%s", name);
    last = t;
}

static void test_tensors(void)
{
    Tensor t = scratch(6, 4);
    for (int i = 0; i < 24; i++) f32(t)[i] = (float)i;
    Tensor r = rows(t, 2, 3), it = items(t, 2);
    check(r.dim[0] == 3 && f32(r)[0] == 8, "rows");
    check(it.ndim == 3 && it.dim[0] == 2 && it.dim[1] == 3 && it.dim[2] == 4, "items");
    check(flat(it).ndim == 2 && n_rows(it) == 6 && n_cols(it) == 4 && n_elem(it) == 24, "flat");
    check(strcmp(shape_string(it), "F32 [2, 3, 4]") == 0, "shape_string");
    ends(rows_beyond, EXIT_BUG, "rows", "rows beyond the end");

    trace(t, "nobody listens");
    trace_to(remember, NULL);
    trace(t, "layer.%d", 3);
    check(strcmp(last_name, "layer.3") == 0 && last.data == t.data, "trace: name and tensor");
    trace(t, "layer.%d", 3);
    check(strcmp(last_name, "layer.3.1") == 0, "trace: the second call of a name");
    trace(t, "layer.%d", 4);
    check(strcmp(last_name, "layer.4") == 0, "trace: another name");
    bool counted = true;
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 5000; i++) {
            trace(t, "many.%d", i);
            counted &= !strcmp(last_name, scratch_string(round ? "many.%d.1" : "many.%d", i));
        }
    check(counted, "trace: five thousand names, twice");
    trace_map(t, 2, 3, "map");
    check(last.ndim == 4 && last.dim[1] == 4 && last.dim[2] == 2 && last.dim[3] == 3,
          "trace_map: PyTorch's shape");
    trace_to(NULL, NULL);
}

static void test_trace_file(void)
{
    char path[] = "/tmp/mm-ground-XXXXXX";
    int fd = mkstemp(path);
    Tensor t = { .data = (float[]){1, 2, 3, 4, 5, 6}, .dtype = F32, .ndim = 2, .dim = {2, 3} };
    trace_file_start(path);
    trace(items(t, 1), "x");
    trace(t, "x");
    trace_file_finish();
    unsigned char head[8];
    FILE *f = fopen(path, "rb");
    size_t got = fread(head, 1, 8, f);
    char text[512] = "";
    size_t n = got == 8 ? (size_t)head[0] + 256u * head[1] : 0;
    float data[12] = {0};
    check(n > 0 && n < sizeof text && n % 8 == 0 && fread(text, 1, n, f) == n &&
          strstr(text, "{\"x\":{\"dtype\":\"F32\",\"shape\":[1,2,3],\"data_offsets\":[0,24]},"
                       "\"x.1\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[24,48]}}"),
          "trace file: header");
    check(fread(data, 1, 48, f) == 48 && data[5] == 6 && data[6] == 1 && fgetc(f) == EOF,
          "trace file: data");
    fclose(f);
    close(fd);
    unlink(path);
}

int main(void)
{
    test_errors();
    test_memory();
    test_tensors();
    test_trace_file();
    ends(allocate_inside, EXIT_BUG, "inside parallel_for", "a task that allocates");
    ends(nest, EXIT_BUG, "inside parallel_for", "a task that starts tasks");
    threads_start(7);                        /* more than there are processors, mostly */
    test_threads();                          /* last: a process with threads had better not fork */
    printf("ground: %d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed > 0;
}
