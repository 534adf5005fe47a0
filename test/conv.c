/* conv.c -- convolutions of every level against the definition.
 *
 *   test/conv [--isa LEVEL] [--cases N] [--seed S]       all levels of this CPU, or one
 *
 * Random cases between guards: check.h. The definition is convolve_plain (kernels/conv_ref.c),
 * which adds up in double. The bounds are theorems as well: the definition, run on absolute values,
 * gives the sum of absolute products that they need. */
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static void verdict(bool ok) { *(ok ? &n_passed : &n_failed) += 1; }

/* === Cases ==================================================================================== */

/* W of n numbers with the signs removed. */
static void *absolute_weights(const void *w, DType type, size_t n)
{
    size_t unit = type == F32 ? 4 : 2;
    unsigned char *a = take(n * unit, unit);
    memcpy(a, w, n * unit);
    for (size_t i = 0; i < n; i++) a[(i + 1) * unit - 1] &= 0x7f;       /* little-endian */
    return a;
}

static float *absolute(const float *x, size_t n)
{
    float *a = floats(n);
    for (size_t i = 0; i < n; i++) a[i] = fabsf(x[i]);
    return a;
}

static size_t n_in(const Convolution *c)  { return (size_t)c->n * c->h * c->width * c->c_in; }
static size_t n_out(const Convolution *c) { return (size_t)c->n * c->out_h * c->out_w * c->c_out; }
static size_t n_w(const Convolution *c)
{
    return (size_t)c->c_in * c->c_out / c->groups * c->kh * c->kw;
}

/* All that PyTorch would give for a padding of pad at both ends, or up to 3 less or more. */
static int out_size(const Convolution *c, int size, int kernel_size, int pad)
{
    int n = c->transposed ? (size - 1) * c->stride - 2 * pad + kernel_size
                          : (size + 2 * pad - kernel_size) / c->stride + 1;
    n += below(4) ? 0 : below(7) - 3;
    return n < 1 ? 1 : n;
}

enum { ANY, WINOGRAD, STRIDED, PATCHES, TRANSPOSED, GROUPED, LINEAR };

/* Sizes of a case of this kind, with no more than about 1 << 22 products. */
static Convolution random_sizes(int kind)
{
    Convolution c = { .type = (DType)below(3), .stride = 1, .groups = 1 };
    do {
        c.n = 1 + below(3);
        c.h = size(kind == PATCHES ? 60 : 20);
        c.width = size(kind == PATCHES ? 60 : 20);
        c.c_in = kind == PATCHES ? 1 + below(4) : size(200);
        c.c_out = size(200);
        c.kh = kind == WINOGRAD || kind == STRIDED ? 3 : kind == LINEAR ? 1 : 1 + below(7);
        c.kw = kind == ANY || kind == TRANSPOSED ? 1 + below(7) : c.kh;
        if (kind == PATCHES) c.kh = c.kw = c.stride = 1 + below(32);
        if (kind == STRIDED) c.stride = 2;
        if (kind == ANY || kind == TRANSPOSED || kind == GROUPED) c.stride = 1 + below(4);
        if (kind == GROUPED) {
            c.groups = 1 + below(8);
            c.transposed = below(3) == 0;
            c.c_in = c.groups * (1 + below(20));
            c.c_out = c.groups * (1 + below(20));
        }
        c.transposed |= kind == TRANSPOSED;
        if (kind == WINOGRAD) c.pad_top = c.pad_left = below(4) ? 1 : below(3);
        else if (kind == ANY || kind == TRANSPOSED || kind == STRIDED || kind == GROUPED) {
            c.pad_top = below(c.kh);
            c.pad_left = below(c.kw);
        }
        c.out_h = out_size(&c, c.h, c.kh, c.pad_top);
        c.out_w = out_size(&c, c.width, c.kw, c.pad_left);
        if (kind == LINEAR) c.out_h = c.h, c.out_w = c.width;
    } while ((double)n_out(&c) * (double)n_w(&c) / c.c_out > 1 << 22 || n_in(&c) > 1 << 18 ||
             n_w(&c) > 1 << 18 || n_out(&c) > 1 << 18);
    snprintf(shape, sizeof shape, "%d of %dx%dx%d to %dx%dx%d, %s, %dx%d stride %d pad %d %d "
             "groups %d%s", c.n, c.h, c.width, c.c_in, c.out_h, c.out_w, c.c_out,
             c.type == F32 ? "f32" : c.type == F16 ? "f16" : "bf16", c.kh, c.kw, c.stride,
             c.pad_top, c.pad_left, c.groups, c.transposed ? ", transposed" : "");
    return c;
}

/* The sums of absolute products, with bias: what all bounds are made of. */
static float *absolute_sums(const Convolution *c)
{
    Convolution a = *c;
    a.e = (Epilogue){ 0 };
    a.in = absolute(c->in, n_in(c));
    a.w = absolute_weights(c->w, c->type, n_w(c));
    a.out = floats(n_out(c));
    if (c->e.bias) a.e.bias = absolute(c->e.bias, (size_t)c->c_out);
    convolve_plain(&a);
    return a.out;
}

/* The definition's result lies within the bound of the exact one as well: a rounding or two. RELU
 * makes no difference larger, and the sum with the residual is rounded once more. */
static void check_case(const Convolution *c, const float *before)
{
    size_t n = n_out(c);
    Convolution plain = *c;
    float *abs = absolute_sums(c);
    plain.out = floats(n);
    memcpy(plain.out, before, n * sizeof *before);
    convolve_plain(&plain);
    double terms = (double)n_w(c) / c->c_out + 4;
    for (size_t i = 0; i < n; i++) {
        double residual = c->e.add ? fabs(before[i]) : 0;
        near((long)i, c->out[i], plain.out[i], gamma_n(terms) * (abs[i] + residual) + TINY);
    }
}

/* The last picture is the same alone. */
static void check_alone(const Convolution *c, const float *before)
{
    Convolution one = *c;
    size_t in = n_in(c) / c->n, out = n_out(c) / c->n;
    one.n = 1;
    one.in += in * (c->n - 1);
    one.out = floats(out);
    memcpy(one.out, before + out * (c->n - 1), out * sizeof *before);
    convolve(&one);
    for (size_t i = 0; i < out; i++) equal((long)i, c->out[out * (c->n - 1) + i], one.out[i]);
}

static void test_conv(int kind)
{
    Convolution c = random_sizes(kind);
    size_t n = n_out(&c);
    float *out = random_floats(n, 2), *before = floats(n);
    c.in = random_floats(n_in(&c), 1);
    c.w = random_weights(c.type, (int)n_w(&c), 1, 1);
    c.e.bias = below(2) ? random_floats((size_t)c.c_out, 2) : NULL;
    c.e.act = below(3) ? ACT_NONE : RELU;
    c.e.add = below(2);
    memcpy(before, out, n * sizeof *out);
    c.out = out;
    convolve(&c);
    check_case(&c, before);
    check_alone(&c, before);
}

/* === The table of tests ======================================================================= */

static const struct {
    const char *name;
    void      (*test)(int arg);
    int         arg, part;                      /* 1 / part of the cases */
} TESTS[] = {
    { "any", test_conv, ANY, 4 }, { "3x3", test_conv, WINOGRAD, 4 },
    { "3x3 stride 2", test_conv, STRIDED, 8 }, { "patches", test_conv, PATCHES, 8 },
    { "transposed", test_conv, TRANSPOSED, 4 }, { "groups", test_conv, GROUPED, 8 },
    { "1x1", test_conv, LINEAR, 8 },
};
enum { N_TESTS = sizeof TESTS / sizeof *TESTS };

static long run_slot(int t)
{
    int n = (n_cases + TESTS[t].part - 1) / TESTS[t].part, failed = 0;
    slot = TESTS[t].name;
    for (int i = 0; i < n && failed < 3; i++) {
        seed = only_seed ? only_seed : (uint64_t)(t + 1) * 1000003 + i;
        state = seed;
        size_t mark = scratch_mark();
        case_failed = false;
        TESTS[t].test(TESTS[t].arg);
        check_guards();
        failed += case_failed;
        release();
        scratch_reset(mark);
        if (only_seed) break;
    }
    verdict(!failed);
    return n;
}

/* === Threads ================================================================================== */

static uint64_t digest(void)
{
    uint64_t h = 14695981039346656037u;
    slot = "threads";
    for (int t = 0; t < 28; t++) {
        state = 77 + t;
        Convolution c = random_sizes(t % 7);
        c.in = random_floats(n_in(&c), 1);
        c.w = random_weights(c.type, (int)n_w(&c), 1, 1);
        c.out = random_floats(n_out(&c), 1);
        c.e = (Epilogue){ .act = SILU, .add = t % 4 == 0 };
        convolve(&c);
        for (size_t i = 0; i < n_out(&c); i++) {
            uint32_t bits;
            memcpy(&bits, c.out + i, sizeof bits);
            h = (h ^ bits) * 0x100000001b3u;
        }
        release();
    }
    return h;
}

/* The pool is started once in a process: each number of threads gets its own. */
static void test_threads(const char *level)
{
    static const int THREADS[] = { 1, 2, 3, 8 };
    uint64_t h[4] = { 0 };
    for (int t = 0; t < 4; t++) {
        int fd[2];
        if (pipe(fd)) bug("test/conv: no pipe");
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            threads_start(THREADS[t]);
            kernels_init(level, false);
            uint64_t mine = digest();
            _exit(write(fd[1], &mine, sizeof mine) != sizeof mine);
        }
        close(fd[1]);
        bool ok = pid > 0 && read(fd[0], h + t, sizeof *h) == sizeof *h && h[t] == h[0];
        close(fd[0]);
        waitpid(pid, NULL, 0);
        if (!ok) printf("failed: %s: %d threads do not give the bits of one\n", level, THREADS[t]);
        verdict(ok);
    }
}

static void test_level(const char *level)
{
    long cases = 0;
    if (!only_seed) test_threads(level);
    kernels_init(level, false);
    for (int t = 0; t < N_TESTS; t++) cases += run_slot(t);
    printf("%s: %d kinds, %ld cases\n", level, N_TESTS, cases);
}

int main(int argc, char **argv)
{
    const char *isa = NULL;
    char levels[64];
    n_cases = 400;
    memset(pool, 0xff, sizeof pool);
    snprintf(levels, sizeof levels, "%s", kernels_available());
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--isa")) isa = argv[i + 1];
        else if (!strcmp(argv[i], "--cases")) n_cases = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--seed")) only_seed = strtoull(argv[i + 1], NULL, 10);
    }
    if (isa && !kernels_init(isa, false)) {
        printf("conv: this CPU has %s\n", levels);
        return 2;
    }
    for (char *level = strtok(levels, " "); level; level = strtok(NULL, " "))
        if (!isa || !strcmp(isa, level)) test_level(level);
    printf("conv: %d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed > 0;
}
