/* check.h -- what the tests of kernels share, in the manner of checkasm: random cases of awkward
 * sizes, memory that shows what was read or written beyond an edge, errors against a bound; and how
 * such a program runs: level by level, slot by slot, with 1, 2, 3 and 8 threads.
 *
 *   test/NAME [--isa LEVEL] [--cases N] [--seed S]      all levels of this CPU, or one
 *   test/NAME --few                                     on an emulator: fewer products for 1, 2, 3
 *                                                       and 8 threads, which take most of its time
 *   test/NAME --best, --levels                          prints the best level, all levels
 *
 * For each slot, random cases: sizes with many ones, primes and neighbours of powers of two; row
 * distances larger than rows; addresses that are aligned to nothing. All memory around and between
 * is filled with 0xff bytes, which is NaN in all three formats: reading past an edge poisons the
 * result, writing past one is seen afterwards.
 *
 * The tolerance is not tuned but a theorem: with u = 2^-24, a sum of n products in any order, with
 * or without fused multiplication, is off by at most n u / (1 - n u) times the sum of the absolute
 * products (gamma_n). A failure prints level, slot, seed and shape: --seed repeats it alone.
 *
 *   seed -> take, random_floats, ... -> the kernel -> near, equal, check_guards -> release
 *
 * Each test program includes this file once; everything in it is its own. */
#ifndef CHECK_H
#define CHECK_H

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../kernels/kernels.h"
#include "../tensor.h"

#pragma GCC diagnostic ignored "-Wunused-function"      /* no program needs all of it */

#define U 0x1p-24                               /* the largest relative error of a rounding */
#define TINY 0x1p-140                           /* many roundings among the subnormals */

static int n_passed, n_failed, n_cases = 2000;
static const char *slot = "";
static char shape[160];
static uint64_t seed, only_seed;
static bool case_failed, fewer;

/* === Random numbers, sizes, memory ============================================================ */

static uint64_t state;

static uint32_t random_bits(void)               /* splitmix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

static int below(int n) { return (int)(random_bits() % (uint32_t)n); }
static float uniform(void) { return (float)(int32_t)random_bits() * 0x1p-31f; }     /* -1 .. 1 */

static int size(int max)                        /* 1 .. max */
{
    static const int prime[] = { 2, 3, 5, 7, 11, 13, 17, 31, 37, 61, 67, 97, 127, 131, 251, 257 };
    int n;
    switch (below(5)) {
    case 0:  n = 1 + below(4); break;
    case 1:  n = prime[below(16)]; break;
    case 2:  n = (1 << below(10)) + below(3) - 1; break;
    default: n = 1 + below(max); break;
    }
    return n < 1 ? 1 : n > max ? max : n;
}

/* All memory of a case: one block filled with 0xff; what is handed out is remembered, so that the
 * rest can be looked through afterwards. */
enum { POOL = 16 << 20, GUARD = 256, MAX_PIECES = 48 };
static unsigned char pool[POOL];
static size_t used;
static struct { size_t start, end; } piece[MAX_PIECES];
static int n_pieces;

static void *take(size_t bytes, size_t unit)
{
    size_t start = (used + GUARD) / 64 * 64 + unit * (size_t)below((int)(64 / unit));
    if (n_pieces == MAX_PIECES || start + bytes + GUARD > POOL)
        bug("test/kernels: the pool is too small");
    piece[n_pieces].start = start;
    piece[n_pieces++].end = used = start + bytes;
    return pool + start;
}

static void release(void)
{
    memset(pool, 0xff, used + GUARD);
    used = 0;
    n_pieces = 0;
}

static float *floats(size_t n) { return take(n * sizeof(float), sizeof(float)); }

static float *random_floats(size_t n, float magnitude)
{
    float *x = floats(n);
    for (size_t i = 0; i < n; i++)
        x[i] = below(50) ? uniform() * magnitude : 0;
    return x;
}

/* [m, n] with rows ld apart; what is between them stays NaN. */
static float *random_rows(int m, int n, int ld, float magnitude)
{
    float *x = floats((size_t)m * ld);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
            x[(size_t)i * ld + j] = below(50) ? uniform() * magnitude : 0;
    return x;
}

static float weight_at(const void *W, DType type, size_t i)
{
    if (type == F32)
        return ((const float *)W)[i];
    uint16_t h = ((const uint16_t *)W)[i];
    return type == F16 ? f16_to_f32(h) : bf16_to_f32(h);
}

/* [n, k] with rows ld apart; f16 and bf16 from random bits: about -2 .. 2, and some subnormals. */
static void *random_weights(DType type, int n, int k, int ld)
{
    if (type == F32)
        return random_rows(n, k, ld, 1);
    uint16_t *w = take((size_t)n * ld * sizeof *w, sizeof *w);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < k; j++) {
            uint16_t r = (uint16_t)random_bits(), *to = w + (size_t)i * ld + j;
            if (type == F16)
                *to = below(20) ? (r & 0x83ff) | (uint16_t)((8 + below(8)) << 10) : r & 0x83ff;
            else
                *to = (r & 0x807f) | (uint16_t)((118 + below(10)) << 7);
        }
    return w;
}

/* === Verdicts ================================================================================= */

static void fail_case(const char *fmt, ...) PRINTF(1, 2);
static void fail_case(const char *fmt, ...)
{
    if (case_failed)
        return;
    case_failed = true;
    char text[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    printf("failed: %s %s --seed %llu [%s]: %s\n", kernels_level(), slot,
           (unsigned long long)seed, shape, text);
}

static void near(long index, double got, double want, double bound)
{
    bool same = got == want || (isnan(got) && isnan(want));
    if (!same && !(fabs(got - want) <= bound))
        fail_case("element %ld: got %.9g, want %.9g, bound %.3g", index, got, want, bound);
}

static void equal(long index, float got, float want)
{
    if (memcmp(&got, &want, sizeof got) && !(isnan(got) && isnan(want)))
        fail_case("element %ld: got %.9g, want just %.9g", index, (double)got, (double)want);
}

/* What is not an element must still be 0xff. */
static void check_gaps(const float *C, int m, int n, int ld)
{
    uint32_t bits;
    for (int i = 0; i < m; i++)
        for (int j = n; j < ld; j++) {
            memcpy(&bits, C + (size_t)i * ld + j, sizeof bits);
            if (bits != 0xffffffff)
                fail_case("row %d: wrote column %d of %d", i, j, n);
        }
}

static void check_guards(void)
{
    size_t at = 0;
    for (int p = 0; p <= n_pieces; p++) {
        size_t end = p < n_pieces ? piece[p].start : used + GUARD;
        for (; at < end; at++)
            if (pool[at] != 0xff)
                fail_case("wrote %s buffer %d of %d", p ? "after" : "before", p ? p : 1, n_pieces);
        at = p < n_pieces ? piece[p].end : end;
    }
}

/* gamma(n) = n u / (1 - n u) */
static double gamma_n(double n) { return n * U / (1 - n * U); }

/* === Running ================================================================================== */

/* A row of a program's table of tests. */
typedef struct {
    const char *name;
    void      (*test)(int arg);
    int         arg, part;                      /* 1 / part of the cases */
} SlotTest;

static void verdict(bool ok) { *(ok ? &n_passed : &n_failed) += 1; }

/* Random cases of the tests, at the level in force; the seed follows from row and case. */
static void run_slots(const SlotTest *tests, int n_tests)
{
    long cases = 0;
    for (int t = 0; t < n_tests; t++) {
        int n = (n_cases + tests[t].part - 1) / tests[t].part, failed = 0;
        slot = tests[t].name;
        for (int i = 0; i < n && failed < 3; i++) {
            seed = only_seed ? only_seed : (uint64_t)(t + 1) * 1000003 + i;
            state = seed;
            size_t mark = scratch_mark();
            case_failed = false;
            tests[t].test(tests[t].arg);
            check_guards();
            failed += case_failed;
            release();
            scratch_reset(mark);
            if (only_seed) break;
        }
        verdict(!failed);
        cases += n;
    }
    printf("%s: %d slots, %ld cases\n", kernels_level(), n_tests, cases);
}

/* A digest of floats (FNV-1a by bits) goes on from h; the first begins with NO_FLOATS. */
static const uint64_t NO_FLOATS = 14695981039346656037u;

static uint64_t hash_floats(uint64_t h, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        h = (h ^ bits) * 0x100000001b3u;
    }
    return h;
}

/* Of n products in a digest those that are taken. */
static int of_digest(int n) { return fewer ? n / 4 : n; }

/* The same bits for 1, 2, 3 and 8 threads: digest() of each must be *want, or becomes that if it is
 * still 0. The pool is started once in a process: each number of threads gets its own. */
static void test_threads(const char *level, uint64_t (*digest)(void), uint64_t *want)
{
    static const int THREADS[] = { 1, 2, 3, 8 };
    for (int t = 0; t < 4; t++) {
        int fd[2];
        uint64_t h = 0;
        if (pipe(fd)) bug("test: no pipe");
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            threads_start(THREADS[t]);
            kernels_init(level, false);
            uint64_t mine = digest();
            _exit(write(fd[1], &mine, sizeof mine) != sizeof mine);
        }
        close(fd[1]);
        bool ok = pid > 0 && read(fd[0], &h, sizeof h) == sizeof h && h == (*want ? *want : h);
        if (!*want) *want = h;
        close(fd[0]);
        waitpid(pid, NULL, 0);
        if (!ok)
            printf("failed: %s: %d threads do not give the same bits\n", level, THREADS[t]);
        verdict(ok);
    }
}

/* What main does: reads the options, calls test_level for all levels of this CPU or the one that is
 * asked for, prints the sum. Returns the exit status. */
static int run_levels(const char *name, int argc, char **argv, void (*test_level)(const char *))
{
    const char *isa = NULL;
    char levels[64];
    memset(pool, 0xff, sizeof pool);
    snprintf(levels, sizeof levels, "%s", kernels_available());
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--best")) {
            puts(strrchr(levels, ' ') ? strrchr(levels, ' ') + 1 : levels);
            return 0;
        } else if (!strcmp(argv[i], "--levels")) {
            puts(levels);
            return 0;
        } else if (!strcmp(argv[i], "--few")) {
            fewer = true;
        } else if (i + 1 < argc && !strcmp(argv[i], "--isa")) {
            isa = argv[++i];
        } else if (i + 1 < argc && !strcmp(argv[i], "--cases")) {
            n_cases = atoi(argv[++i]);
        } else if (i + 1 < argc && !strcmp(argv[i], "--seed")) {
            only_seed = strtoull(argv[++i], NULL, 10);
        } else {
            fprintf(stderr, "usage: %s [--best | --levels] [--isa LEVEL] [--cases N] [--seed S] "
                    "[--few]\n", name);
            return 2;
        }
    }
    if (isa && !kernels_init(isa, false)) {
        printf("%s: this CPU has %s\n", name, levels);
        return 2;
    }
    for (char *level = strtok(levels, " "); level; level = strtok(NULL, " "))
        if (!isa || !strcmp(isa, level)) test_level(level);
    printf("%s: %d passed, %d failed, 0 skipped\n", name, n_passed, n_failed);
    return n_failed > 0;
}

#endif
