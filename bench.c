/* bench.c -- mm bench: how near each kernel comes to what this machine can do.
 *
 * A speed alone says little: 200 GFLOP/s is excellent here and poor there. So the machine's own
 * limits are measured too, in the same run, and every speed is told in percent of the one that
 * bounds it:
 *
 *   fma     multiply-adds in f32, from registers            products of many rows, attention
 *   memory  reading, from no cache                          one row, one query, norms, softmax, ...
 *   bf16    dot products of bf16 pairs                      products of many rows, bf16 weights
 *   int8    dot products of bytes                           products of many rows, Q8 and Q4
 *
 * Machines that others use too are fast and slow by turns, within milliseconds and within minutes.
 * Against that:
 *   - each timing (15 ms, or one call) stands between two measurements of its limit, right before
 *     and right after it, of half its length; what is told is the median of these ratios;
 *   - the rows of the table are taken in turn, again and again, so that a bad minute falls on all;
 *   - a timing counts only if its two limits were alone on the processors they used, unless fewer
 *     than five are left then. What is left out is chosen by the limits, never by the kernel;
 *   - the spread, +-%, is half the distance between the quartiles of the ratios: if it is big, the
 *     machine was not quiet, or the kernel is not steady;
 *   - with one thread it is the processor's time that counts, so what others take does not. With
 *     more it is the clock's, since waiting for each other is part of what they do.
 *
 *   cases -> rows (one per type and instruction set) -> rounds of timings -> medians -> the table
 *
 * ref, the definition, is timed on 16 rows (or 8x8 pixels), as it is slow. What writes as much as
 * it reads may pass 100 % of memory: most machines do both at once. 3x3 convolutions pass 100 % of
 * fma: the operations told are those of the plain sum, and Winograd's are fewer.
 *
 * Easy to get wrong:
 *   - Weights that stay in a cache between two calls make a product look better than it is in a
 *     network: all that is read walks through a ring of 1 GiB.
 *   - A function applied in place again and again ends in zeros or subnormal numbers: the ring is
 *     filled anew behind it.
 *   - gcc 12 copies the accumulator of its int8 intrinsics, which halves their speed: the limits
 *     are loops of assembly.
 *   - The limits are those of the level in force: with --isa avx2 the 256-bit ones. NEON has its
 *     multiply-adds only: bf16 and int8 there need instructions that no kernel of mm uses yet. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "kernels/kernels.h"

enum { MAX_ROUNDS = 25, MIN_ROUNDS = 5, REF_ROWS = 16, MAX_ROWS = 200 };
static const double CASE_SECONDS = 15e-3, LEAST_SECONDS = 4e-3, MOST_SECONDS = 20e-3;

/* All that is read from memory: the ring; and what a network would have in its caches. */
static struct { char *ring; size_t size, at; float *in, *out; } mem;
enum { BLOCK = 1 << 20, ACTIVATIONS = 64 << 20 };            /* 4096 x 2880 floats and less */
static const size_t RING = (size_t)1 << 30;

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double processor_time(void) { return seconds_of(CLOCK_PROCESS_CPUTIME_ID); }

static double now(void)
{
    return n_threads() == 1 ? processor_time() : seconds_of(CLOCK_MONOTONIC);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts x. */
static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return x[n / 2];
}

/* Moves those of n values that were measured alone to the front and returns how many they are; if
 * they are too few, all count. */
static int undisturbed(double *x, const bool *alone, int n)
{
    int m = 0;
    for (int i = 0; i < n; i++) m += alone[i];
    if (m < MIN_ROUNDS) return n;
    m = 0;
    for (int i = 0; i < n; i++)
        if (alone[i]) x[m++] = x[i];
    return m;
}

/* === Limits =================================================================================== */

typedef enum { FMA, BF16_DOT, INT8_DOT, MEMORY, N_LIMITS } Limit;
static const struct { const char *name, *unit; } LIMITS[N_LIMITS] = {
    { "fma", "GFLOP/s" }, { "bf16", "GFLOP/s" }, { "int8", "GOP/s" }, { "memory", "GB/s" }
};

enum { STEPS = 20000, READ_TASK = 1 << 19 };
static volatile float sink;

typedef float    V128 __attribute__((vector_size(16)));
typedef float    V256 __attribute__((vector_size(32)));
typedef float    V512 __attribute__((vector_size(64)));
typedef uint64_t Words __attribute__((vector_size(16)));

/* Twelve sums that do not wait for each other, enough for two units with a latency of five or six;
 * op("%0") is the instruction that adds to the first, from the operands %12 and %13. */
#define TWELVE(op) op("%0") op("%1") op("%2") op("%3") op("%4") op("%5") op("%6") op("%7") \
                   op("%8") op("%9") op("%10") op("%11")
#define PEAK(name, vector, reg, spare, op)                                                       \
    static void name(void *ctx, int i, int worker)                                               \
    {                                                                                            \
        vector a[12] = { 0 }, x = a[0] + 1e-3f, y = a[0] + 0.999f;                               \
        (void)ctx, (void)i, (void)worker;                                                        \
        for (int s = 0; s < STEPS; s++)                                                          \
            __asm__ volatile(TWELVE(op)                                                          \
                : "+" reg(a[0]), "+" reg(a[1]), "+" reg(a[2]), "+" reg(a[3]), "+" reg(a[4]),     \
                  "+" reg(a[5]), "+" reg(a[6]), "+" reg(a[7]), "+" reg(a[8]), "+" reg(a[9]),     \
                  "+" reg(a[10]), "+" reg(a[11])                                                 \
                : reg(x), reg(y) : spare);                                                       \
    }

#if defined(__x86_64__)
#define FMA_OP(a)  "vfmadd231ps %13, %12, " a "\n\t"
#define BF16_OP(a) "vdpbf16ps %13, %12, " a "\n\t"
#define VNNI_OP(a) "vpdpbusd %13, %12, " a "\n\t"
/* without VNNI: byte products to 16 bits, pairs of them to 32, and the sum */
#define INT8_OP(a) "vpmaddubsw %13, %12, %%ymm15\n\tvpmaddwd %12, %%ymm15, %%ymm15\n\t" \
                   "vpaddd %%ymm15, " a ", " a "\n\t"
__attribute__((target("avx2,fma"))) PEAK(fma_256, V256, "x", "xmm15", FMA_OP)
__attribute__((target("avx2")))     PEAK(int8_256, V256, "x", "xmm15", INT8_OP)
__attribute__((target("avx512f")))  PEAK(fma_512, V512, "v", "xmm15", FMA_OP)
__attribute__((target("avx512f")))  PEAK(bf16_512, V512, "v", "xmm15", BF16_OP)
__attribute__((target("avx512f")))  PEAK(vnni_512, V512, "v", "xmm15", VNNI_OP)
#elif defined(__aarch64__)
#define FMA_OP(a) "fmla " a ".4s, %12.4s, %13.4s\n\t"
PEAK(fma_neon, V128, "w", "v31", FMA_OP)
#endif

/* What every CPU has: a product and a sum. The sums differ, or compilers would keep only one. */
static void fma_plain(void *ctx, int i, int worker)
{
    V128 a[12] = { 0 }, x = a[0] + 0.999f, y = a[0] + 1e-3f;
    (void)ctx, (void)i, (void)worker;
    for (int j = 1; j < 12; j++) a[j] = a[j - 1] + 1.0f;
    for (int s = 0; s < STEPS; s++)
        for (int j = 0; j < 12; j++) a[j] = a[j] * x + y;
    for (int j = 1; j < 12; j++) a[0] += a[j];
    sink = a[0][0];
}

/* The loop of each limit at the level in force, and the operations of a task; fn NULL: none. */
static struct { TaskFn *fn; double ops; } peak[N_LIMITS];

static void set_peak(Limit l, TaskFn *fn, int lanes)
{
    peak[l].fn = fn;
    peak[l].ops = 2.0 * 12 * STEPS * lanes;
}

static void find_peaks(const char *level)
{
    set_peak(FMA, fma_plain, 4);
    (void)level;
#if defined(__x86_64__)
    if (!strncmp(level, "avx", 3)) {
        set_peak(FMA, fma_256, 8);
        set_peak(INT8_DOT, int8_256, 32);
    }
    bool bf16 = !strcmp(level, "avx512bf16");
    if (!strncmp(level, "avx512", 6)) set_peak(FMA, fma_512, 16);
    if (!strcmp(level, "avx512vnni") || bf16) set_peak(INT8_DOT, vnni_512, 64);
    if (bf16) set_peak(BF16_DOT, bf16_512, 32);
#elif defined(__aarch64__)
    if (!strncmp(level, "neon", 4)) set_peak(FMA, fma_neon, 4);
#endif
}

/* In four streams, line by line in turn: as many as one core's prefetchers follow easily. Four sums
 * by name: in an array of them a compiler that does not unroll would keep them in memory, and that,
 * not the machine's memory, would be the limit. */
static void read_task(void *ctx, int i, int worker)
{
    const char *from = (const char *)ctx + (size_t)i * READ_TASK;
    Words a = { 0 }, b = a, c = a, d = a;
    (void)worker;
    for (int at = 0; at < READ_TASK; at += 256) {
        const Words *p = (const void *)(from + at % 1024 / 256 * (READ_TASK / 4) + at / 1024 * 256);
        a ^= p[0] ^ p[4] ^ p[8]  ^ p[12];
        b ^= p[1] ^ p[5] ^ p[9]  ^ p[13];
        c ^= p[2] ^ p[6] ^ p[10] ^ p[14];
        d ^= p[3] ^ p[7] ^ p[11] ^ p[15];
    }
    a ^= b ^ c ^ d;
    sink = (float)a[0];
}

/* The next n bytes of the ring. */
static char *take(size_t n)
{
    n = (n + 63) / 64 * 64;
    if (n > mem.size - mem.at) mem.at = 0;
    mem.at += n;
    return mem.ring + mem.at - n;
}

/* What the machine gives right now, in 10^9 operations or bytes a second, over about span seconds.
 * *alone becomes false if others took processors meanwhile: these loops keep all threads busy. Few
 * calls of many tasks: at the end of each all wait for the slowest thread, as in a kernel. */
static double limit_rate(Limit l, double span, bool *alone)
{
    double cpu = processor_time(), start = now(), t = 0, done = 0;
    double least = 4 * n_threads(), most = (double)(mem.size / READ_TASK), n = least;
    while (t < span) {
        n = n < least ? least : n;
        n = n > most ? most : n;
        if (l == MEMORY) parallel_for((int)n, read_task, take((size_t)n * READ_TASK));
        else             parallel_for((int)n, peak[l].fn, NULL);
        done += (int)n;
        t = now() - start;
        n = done * (span - t) / t;
    }
    if (processor_time() - cpu < 0.9 * n_threads() * t) *alone = false;
    return 1e-9 * done * (l == MEMORY ? READ_TASK : peak[l].ops) / t;
}

/* === The kernels at shapes of real models ===================================================== */

typedef struct Row Row;
typedef struct {
    const char *kernel;
    void      (*call)(const Row *r, char *from);     /* once, on bytes of the ring */
    Limit       limit;
    int         shape[4];
    bool        brief;                               /* without --full, too */
    DType       type;                                /* OTHER: one row each for F32, F16, BF16 */
    Act         act;
    bool        causal, in_place, picture;           /* picture: w x h pixels of 3 bytes */
} Case;

struct Row {
    const Case *c;
    DType       type;
    const char *isa;
    Limit       limit;                               /* of the case, or what there is instead */
    int         shape[4], repeat, n;                 /* calls of a timing; timings so far */
    double      ms[MAX_ROUNDS], ratio[MAX_ROUNDS];   /* of one call; speed to limit */
    double      percent;                             /* the result */
    bool        alone[MAX_ROUNDS];                   /* as far as the limits around it tell */
};

/* m x n x k: up to 16 rows read W once, as stored; more rows are a matter of arithmetic. */
static void product(const Row *r, char *W)
{
    int m = r->shape[0], n = r->shape[1], k = r->shape[2];
    gemm(mem.out, n, mem.in, k, W, r->type, m, n, k, m, (Epilogue){ .bias = mem.in });
}

/* n pictures x side x c_in x c_out: 3x3, stride 1, padding 1. */
static void pictures(const Row *r, char *W)
{
    int n = r->shape[0], side = r->shape[1];
    convolve(&(Convolution){ .out = mem.out, .in = mem.in, .w = W, .type = r->type, .n = n,
        .h = side, .width = side, .c_in = r->shape[2], .c_out = r->shape[3], .out_h = side,
        .out_w = side, .kh = 3, .kw = 3, .stride = 1, .pad_top = 1, .pad_left = 1, .groups = 1,
        .e.bias = mem.in });
}

/* pixels x channels, in 32 groups. */
static void groups(const Row *r, char *from)
{
    group_normalize((float *)from, (float *)from, mem.in, mem.in, 1, r->shape[0], r->shape[1], 32,
                    1e-5f, SILU);
}

/* n_q x n_kv x n_heads x head_dim: the keys and values from the ring. */
static void attend_heads(const Row *r, char *from)
{
    int n_kv = r->shape[1], heads = r->shape[2], hd = r->shape[3];
    size_t n = (size_t)n_kv * (size_t)(heads * hd);
    attention_heads(&(Attention){ .out = mem.out, .q = mem.in, .k = from,
        .v = from + n * dtype_size(r->type), .kv_type = r->type, .kv_stride = n, .n_items = 1,
        .n_q = r->shape[0], .n_kv = n_kv, .n_heads = heads, .n_kv_heads = heads, .head_dim = hd,
        .scale = 0.125f,
        .causal = r->c->causal });
}

/* m x n, a few rows at a time. */
typedef void RowFn(const Row *r, void *x, float *y, int n);
typedef struct { const Row *r; char *from; RowFn *fn; } Job;
enum { ROWS = 8 };

static void rows_task(void *ctx, int i, int worker)
{
    const Job *j = ctx;
    int m = j->r->shape[0], n = j->r->shape[1];
    size_t size = dtype_size(j->r->type);
    (void)worker;
    for (int row = i * ROWS; row < m && row < (i + 1) * ROWS; row++) {
        size_t at = (size_t)row * (size_t)n;
        j->fn(j->r, j->from + at * size, mem.out + at, n);
    }
}

static void each_row(const Row *r, char *from, RowFn *fn)
{
    parallel_for((r->shape[0] + ROWS - 1) / ROWS, rows_task, &(Job){ r, from, fn });
}

static void layernorm_row(const Row *r, void *x, float *y, int n)
{
    (void)r, (void)y;
    kernel.layernorm(x, x, mem.in, mem.in, 1e-5f, n);
}

static void rmsnorm_row(const Row *r, void *x, float *y, int n)
{
    (void)r, (void)y;
    kernel.rmsnorm(x, x, mem.in, 1e-5f, n);
}

static void softmax_row(const Row *r, void *x, float *y, int n)
{
    (void)r, (void)y;
    kernel.scale(x, 1 / kernel.exp_sum(x, x, kernel.max(x, n), n), n);
}

static void act_row(const Row *r, void *x, float *y, int n)
{
    (void)y;
    kernel.act[r->c->act](x, n);
}

/* LLaMA's heads of 128. */
static void rope_row(const Row *r, void *x, float *y, int n)
{
    (void)r, (void)y;
    kernel.rope[ROPE_HALVES](x, mem.in, mem.in + 64, n / 128, 128, 64);
}

static void narrow_row(const Row *r, void *x, float *y, int n)
{
    (void)r;
    kernel.narrow[F16](y, x, n);
}

static void cvt_row(const Row *r, void *x, float *y, int n) { kernel.cvt[r->type](y, x, n); }

static void layernorm(const Row *r, char *from)  { each_row(r, from, layernorm_row); }
static void rmsnorm(const Row *r, char *from)    { each_row(r, from, rmsnorm_row); }
static void softmax(const Row *r, char *from)    { each_row(r, from, softmax_row); }
static void activation(const Row *r, char *from) { each_row(r, from, act_row); }
static void rope(const Row *r, char *from)       { each_row(r, from, rope_row); }
static void convert(const Row *r, char *from)    { each_row(r, from, cvt_row); }
static void narrow(const Row *r, char *from)     { each_row(r, from, narrow_row); }

/* Pictures: w x h, and to which w x h. */
static void resize(const Row *r, char *from)
{
    Image in = { r->shape[0], r->shape[1], (uint8_t *)from };
    image_resize(in, r->shape[2], r->shape[3], BICUBIC);
}

static void normalize(const Row *r, char *from)
{
    Preprocess p = preprocess_clip(224);
    p.resize = p.crop = false;
    preprocess((Image){ r->shape[0], r->shape[1], (uint8_t *)from }, &p);
}

#define GEMM(limit, m, n, k)       "gemm", product, limit, { m, n, k }, .type = OTHER
#define QUANT(limit, m, n, k, t)   "gemm_quant", product, limit, { m, n, k }, .type = t
#define CONV(side, c_in, c_out)    "conv3x3", pictures, FMA, { 2, side, c_in, c_out }, .type = F16
#define ATTEND(bound, q, kv, h, d) .kernel = "attention", .call = attend_heads, .limit = bound, \
                                   .shape = { q, kv, h, d }
#define IN_PLACE(kernel, call)     kernel, call, MEMORY, { 4096, 1280 }, .in_place = true

static const Case CASES[] = {
    { GEMM(FMA, 577, 3072, 768), .brief = true },           /* BLIP base and ViT-B/16 at 384 */
    { GEMM(FMA, 197, 768, 768) },                           /* ViT-B/16 */
    { GEMM(FMA, 197, 3072, 768) },
    { GEMM(FMA, 197, 768, 3072) },
    { GEMM(FMA, 577, 1024, 1024) },                         /* CLIP ViT-L/14 at 336 */
    { GEMM(FMA, 577, 4096, 1024) },
    { GEMM(FMA, 512, 4096, 4096) },                         /* LLaMA 7B, a prompt */
    { GEMM(FMA, 512, 11008, 4096) },
    { GEMM(FMA, 4096, 320, 2880) },                         /* Stable Diffusion, 3x3 convolutions */
    { GEMM(FMA, 1024, 640, 5760) },
    { GEMM(FMA, 256, 1280, 11520) },
    { GEMM(MEMORY, 1, 768, 768) },                          /* BLIP's decoder, one beam and three */
    { GEMM(MEMORY, 3, 768, 768) },
    { GEMM(MEMORY, 1, 3072, 768) },
    { GEMM(MEMORY, 3, 3072, 768) },
    { GEMM(MEMORY, 1, 30524, 768) },
    { GEMM(MEMORY, 3, 30524, 768), .brief = true },
    { GEMM(MEMORY, 1, 4096, 11008), .brief = true },        /* LLaMA 7B, TinyLlama: a token */
    { GEMM(MEMORY, 1, 2048, 5632) },
    { GEMM(MEMORY, 4, 4096, 11008) },                       /* and four, of a draft */
    { QUANT(INT8_DOT, 512, 4096, 4096, Q8), .brief = true }, /* LLaMA 7B, quantised: a prompt, */
    { QUANT(INT8_DOT, 512, 4096, 4096, Q4), .brief = true },
    { QUANT(INT8_DOT, 512, 11008, 4096, Q8) },
    { QUANT(INT8_DOT, 512, 11008, 4096, Q4) },
    { QUANT(INT8_DOT, 512, 4096, 11008, Q8) },
    { QUANT(INT8_DOT, 512, 4096, 11008, Q4) },
    { QUANT(INT8_DOT, 577, 3072, 768, Q8) },
    { QUANT(INT8_DOT, 577, 3072, 768, Q4) },
    { QUANT(MEMORY, 1, 4096, 11008, Q8), .brief = true },   /* a token */
    { QUANT(MEMORY, 1, 4096, 11008, Q4), .brief = true },
    { QUANT(MEMORY, 1, 2048, 5632, Q8) },
    { QUANT(MEMORY, 1, 2048, 5632, Q4) },
    { CONV(64, 320, 320), .brief = true },                  /* Stable Diffusion at 512 x 512; */
    { CONV(32, 640, 640) },                                 /* percent: of the plain sum */
    { CONV(16, 1280, 1280) },
    { CONV(8, 1280, 1280) },
    { ATTEND(FMA, 577, 577, 12, 64), .brief = true },       /* BLIP */
    { ATTEND(FMA, 197, 197, 12, 64) },                      /* ViT-B/16 */
    { ATTEND(FMA, 77, 77, 12, 64), .causal = true },        /* CLIP's texts */
    { ATTEND(FMA, 4096, 4096, 8, 40) },                     /* Stable Diffusion at 512 x 512 */
    { ATTEND(FMA, 512, 512, 32, 128), .causal = true },     /* LLaMA 7B, a prompt */
    { ATTEND(MEMORY, 1, 1024, 12, 64), .brief = true },     /* a token after 1024 */
    { ATTEND(MEMORY, 1, 4096, 32, 128) },                   /* LLaMA 7B, after 4096 */
    { ATTEND(MEMORY, 1, 4096, 32, 128), .type = F16 },
    { ATTEND(MEMORY, 16, 4096, 32, 128), .type = F16 },     /* 16 tokens at once */
    { IN_PLACE("layernorm", layernorm), .brief = true },
    { IN_PLACE("rmsnorm", rmsnorm), .brief = true },
    { IN_PLACE("softmax", softmax), .brief = true },
    { IN_PLACE("group_norm", groups), .brief = true },      /* with SiLU */
    { IN_PLACE("gelu", activation), .act = GELU, .brief = true },
    { IN_PLACE("gelu_tanh", activation), .act = GELU_TANH, .brief = true },
    { IN_PLACE("gelu_quick", activation), .act = GELU_QUICK, .brief = true },
    { IN_PLACE("silu", activation), .act = SILU, .brief = true },
    { IN_PLACE("relu", activation), .act = RELU, .brief = true },
    { IN_PLACE("rope", rope), .brief = true },
    { "cvt", convert, MEMORY, { 4096, 1280 }, .type = F16, .brief = true },
    { "cvt", convert, MEMORY, { 4096, 1280 }, .type = BF16, .brief = true },
    { "narrow", narrow, MEMORY, { 4096, 1280 }, .brief = true },        /* to F16 */
    { "resize", resize, MEMORY, { 640, 480, 384, 384 }, .type = U8, .picture = true,
      .brief = true },
    { "resize", resize, MEMORY, { 640, 480, 298, 224 }, .type = U8, .picture = true },
    { "normalize", normalize, MEMORY, { 640, 480 }, .type = U8, .picture = true, .brief = true },
};
enum { N_CASES = sizeof CASES / sizeof *CASES };

/* Bytes of the ring that a call reads. */
static size_t bytes_read(const Row *r)
{
    const int *s = r->shape;
    size_t size = dtype_size(r->type);
    if (r->type == Q8 || r->type == Q4) return quant_bytes(r->type, s[1], s[2]);
    if (r->c->call == product)      return size * (size_t)s[1] * (size_t)s[2];
    if (r->c->call == pictures)     return size * 9 * (size_t)s[2] * (size_t)s[3];
    if (r->c->call == attend_heads) return 2 * size * (size_t)s[1] * (size_t)(s[2] * s[3]);
    return size * (size_t)s[0] * (size_t)s[1] * (r->c->picture ? 3 : 1);
}

/* What a call does, in the unit of its limit: floating-point operations, or bytes that must pass
 * between memory and processor at least once. */
static double work(const Row *r)
{
    const int *s = r->shape;
    double area = (double)s[0] * s[1], bytes = (double)bytes_read(r);
    if (r->c->causal)               area -= s[0] * (s[0] - 1.0) / 2;
    if (r->c->call == pictures)     return 18 * area * s[1] * s[2] * s[3];
    if (r->limit != MEMORY)         return r->c->call == product ? 2 * area * s[2]
                                                                 : 4 * area * s[2] * s[3];
    if (r->c->in_place)             return 2 * bytes;
    if (r->c->call == convert)      return bytes + 4 * area;
    if (r->c->call == narrow)       return bytes + 2 * area;
    if (r->c->call == normalize)    return bytes + 12 * area;
    if (r->c->call == resize)       return bytes + 3.0 * s[2] * s[3];
    return bytes;
}

/* === Timings ================================================================================== */

/* Numbers that are ordinary in all three formats: f32 and bf16 of 2^-15 to 2, f16 of 1/2 to 2. */
static void fill_block(void *ctx, int i, int worker)
{
    uint32_t *to = (uint32_t *)((char *)ctx + (size_t)i * BLOCK);
    (void)worker;
    for (uint32_t j = 0; j < BLOCK / 4; j++) to[j] = (j * 2654435761u & 0x87ff87ff) | 0x38003800;
}

static void fill(void *to, size_t n) { parallel_for((int)(n / BLOCK), fill_block, to); }

/* What is free, or all that the container may use. */
static double memory_room(void)
{
    double room = (double)memory_available(), most;
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "re");
    if (f && fscanf(f, "%lf", &most) == 1 && most < room) room = most;      /* or it says max */
    if (f) fclose(f);
    return room;
}

static void get_memory(const Run *run)
{
    size_t room = (size_t)(memory_room() / 4);
    mem.size = room < RING ? room / BLOCK * BLOCK : RING;
    if (mem.size < 64 * BLOCK) mem.size = 64 * BLOCK;
    if (mem.size < RING && !run->o.quiet)
        fprintf(stderr, "mm: %s: memory is scarce: weights walk through %s instead of 1 GiB, "
                "larger ones are left out\n", run->name, bytes_string((double)mem.size));
    mem.ring = keep_bytes(mem.size);
    mem.in = keep_bytes(ACTIVATIONS);
    mem.out = keep_bytes(ACTIVATIONS);
    fill(mem.ring, mem.size);
    fill(mem.in, ACTIVATIONS);
}

/* Seconds of `repeat` calls. */
static double time_calls(const Row *r, int repeat)
{
    size_t step = (bytes_read(r) + 63) / 64 * 64, n = step * (size_t)repeat;
    size_t mark = scratch_mark();
    char *from = take(n);
    double start = now();
    for (int i = 0; i < repeat; i++) {
        r->c->call(r, from + step * (size_t)i);
        scratch_reset(mark);
    }
    double seconds = now() - start;
    if (r->c->in_place) {
        size_t first = (size_t)(from - mem.ring) / BLOCK, last = (size_t)(from - mem.ring) + n - 1;
        fill(mem.ring + first * BLOCK, (last / BLOCK - first + 1) * BLOCK);
    }
    return seconds;
}

/* One timing between two of its limit. The first time, what one call takes is found out. */
static void time_row(Row *r)
{
    if (!kernels_init(r->isa, false)) bug("bench: no level %s", r->isa);
    if (!r->repeat) {
        time_calls(r, 1);
        double most = (double)(mem.size / 2 / bytes_read(r)), n = CASE_SECONDS / time_calls(r, 1);
        r->repeat = n < 1 || most < 1 ? 1 : (int)(n < most ? n : most);
    }
    double span = r->n ? r->ms[r->n - 1] * r->repeat / 2e3 : LEAST_SECONDS;
    span = span < LEAST_SECONDS ? LEAST_SECONDS : span > MOST_SECONDS ? MOST_SECONDS : span;
    bool *alone = &r->alone[r->n];
    *alone = true;
    double before = limit_rate(r->limit, span, alone);
    if (r->limit != MEMORY && r->n && r->ms[r->n - 1] < 1e3 * MOST_SECONDS)
        time_calls(r, 1);           /* activations are in the caches, as from the layer before */
    double seconds = time_calls(r, r->repeat) / r->repeat;
    double limit = (before + limit_rate(r->limit, span, alone)) / 2;
    r->ms[r->n] = 1e3 * seconds;
    r->ratio[r->n++] = 1e-9 * work(r) / seconds / limit;
}

/* Takes limits and rows in turn until the time is up: rate[l] becomes the median of limit l.
 * Returns the number of rounds. */
static int run_rounds(const Run *run, Row *rows, int n_rows, double rate[N_LIMITS], double until)
{
    static double limit[N_LIMITS][MAX_ROUNDS];
    static bool alone[N_LIMITS][MAX_ROUNDS];
    double t = now_ms(), last = 0;
    int n = 0;
    for (; n < MAX_ROUNDS && (n < MIN_ROUNDS || t + last < until); n++) {
        first_feedback(run, "measuring with %d thread%s: round %d", n_threads(),
                       n_threads() > 1 ? "s" : "", n + 1);
        for (int l = 0; l < N_LIMITS; l++)
            if (l == MEMORY || peak[l].fn) {
                alone[l][n] = true;
                limit[l][n] = limit_rate(l, LEAST_SECONDS, &alone[l][n]);
            }
        for (int i = 0; i < n_rows; i++) time_row(&rows[i]);
        last = now_ms() - t;
        t += last;
    }
    first_feedback(run, "%s", "");
    signals_progress(false);
    for (int l = 0; l < N_LIMITS; l++)
        rate[l] = l == MEMORY || peak[l].fn
                ? median(limit[l], undisturbed(limit[l], alone[l], n)) : 0;
    return n;
}

/* === The table ================================================================================ */

static bool wanted(const Options *o, const Case *c)
{
    if (!c->brief && !o->full) return false;
    for (int i = 0; i < o->n_operands; i++)
        if (!strcmp(o->operand[i], c->kernel)) return true;
    return o->n_operands == 0;
}

static void check_names(const Run *run)
{
    for (int i = 0; i < run->o.n_operands; i++) {
        Buf names = {0};
        bool known = false;
        for (int c = 0; c < N_CASES; c++) {
            known = known || !strcmp(CASES[c].kernel, run->o.operand[i]);
            if (!c || strcmp(CASES[c].kernel, CASES[c - 1].kernel))
                put(&names, " %s", CASES[c].kernel);
        }
        if (!known)
            usage_error(run->name, "%s: no such kernel; there are%s", quoted(run->o.operand[i]),
                        names.p);
    }
}

/* Returns how many rows there are then: one that is larger than the ring is left out. */
static int add_row(Row *rows, int n, const Case *c, DType type, const char *isa)
{
    Row *r = &rows[n];
    Limit limit = c->limit == FMA && c->call == product && type == BF16 ? BF16_DOT : c->limit;
    bool there = limit == MEMORY || (peak[limit].fn && strcmp(isa, "ref"));
    *r = (Row){ .c = c, .type = type, .isa = isa, .limit = there ? limit : FMA };
    memcpy(r->shape, c->shape, sizeof r->shape);
    if (!c->picture && !strcmp(isa, "ref") && r->shape[0] > REF_ROWS) r->shape[0] = REF_ROWS;
    if (c->call == pictures && !strcmp(isa, "ref")) r->shape[0] = 1, r->shape[1] = 8;
    return bytes_read(r) <= mem.size ? n + 1 : n;
}

/* Each case at the level in force and, beside it, the definition: of the brief ones. */
static int choose_rows(Row *rows, const Options *o, const char *level)
{
    int n = 0;
    for (const Case *c = CASES; c < CASES + N_CASES; c++) {
        if (!wanted(o, c)) continue;
        for (int type = F32; type <= BF16; type++) {
            DType t = c->type == OTHER ? (DType)type : c->type;
            if (n + 2 > MAX_ROWS) bug("bench: more than %d rows", MAX_ROWS);
            if (strcmp(level, "ref")) n = add_row(rows, n, c, t, level);
            if (c->brief || !strcmp(level, "ref")) n = add_row(rows, n, c, t, "ref");
            if (c->type != OTHER) break;
        }
    }
    return n;
}

static const char *shape_text(const Row *r)
{
    static char s[64];
    size_t n = 0;
    for (int i = 0; i < 4 && r->shape[i]; i++)
        n += (size_t)snprintf(s + n, sizeof s - n, i ? "x%d" : "%d", r->shape[i]);
    return s;
}

static void put_frame(Buf *b)
{
    static int i;
    put(b, "{\"v\":1,\"cmd\":\"bench\",\"i\":%d,\"ok\":true,", i++);
}

static void put_limits(Buf *b, const double rate[N_LIMITS], bool json)
{
    int t = n_threads();
    if (!json) put(b, "limits with %d thread%s:", t, t > 1 ? "s" : "");
    for (int l = 0; l < N_LIMITS; l++) {
        if (rate[l] <= 0) continue;
        if (!json) {
            put(b, "  %s %.1f %s", LIMITS[l].name, rate[l], LIMITS[l].unit);
            continue;
        }
        put_frame(b);
        put(b, "\"limit\":\"%s\",\"threads\":%d,\"rate\":%.6g,\"unit\":\"%s\"}\n", LIMITS[l].name,
            t, rate[l], LIMITS[l].unit);
    }
    if (!json) put(b, "\n");
}

/* Returns whether the ratios scatter by more than a tenth. */
static bool put_row(Buf *b, Row *r, bool json)
{
    const char *unit = LIMITS[r->limit].unit, *limit = LIMITS[r->limit].name;
    int n = undisturbed(r->ms, r->alone, r->n);
    undisturbed(r->ratio, r->alone, r->n);
    double ms = median(r->ms, n), ratio = median(r->ratio, n), rate = 1e-6 * work(r) / ms;
    r->percent = 100 * ratio;
    double spread = 50 * (r->ratio[3 * n / 4] - r->ratio[n / 4]) / ratio;
    const char *kernel_name = scratch_string("%s%s", r->c->kernel, r->c->causal ? "_causal" : "");
    if (json) {
        put_frame(b);
        put(b, "\"kernel\":\"%s\",\"type\":\"%s\",\"shape\":\"%s\",\"isa\":\"%s\",\"threads\":%d,"
            "\"ms\":%.6g,\"rate\":%.6g,\"unit\":\"%s\",\"limit\":\"%s\",\"percent\":%.1f,"
            "\"spread\":%.1f,\"timings\":%d}\n", kernel_name, dtype_name(r->type), shape_text(r),
            r->isa, n_threads(), ms, rate, unit, limit, 100 * ratio, spread, n);
    } else {
        put(b, "%-16s %-4s %-15s %-10s %2d %9.3f %7.1f %-7s %6.1f %% %-6s %5.1f%s\n", kernel_name,
            dtype_name(r->type), shape_text(r), r->isa, n_threads(), ms, rate, unit, 100 * ratio,
            limit, spread, spread > 10 ? " !" : "");
    }
    return spread > 10;
}

/* Products of a type, of many rows or of one: the geometric mean over the shapes, and the worst. */
static void put_summary(Buf *b, const Row *rows, int n_rows, DType type, bool one_row, bool json)
{
    double logs = 0;
    const Row *worst = NULL;
    int n = 0;
    for (const Row *r = rows; r < rows + n_rows; r++) {
        bool one = r->shape[0] == 1, many = r->limit != MEMORY;
        if (r->c->call != product || r->type != type || !strcmp(r->isa, "ref")) continue;
        if (!(one_row ? one : many)) continue;
        logs += log(r->percent);
        if (!worst || r->percent < worst->percent) worst = r;
        n++;
    }
    if (n < 2) return;
    const char *which = one_row ? "one row" : "many rows";
    if (json) {
        put_frame(b);
        put(b, "\"summary\":\"%s\",\"type\":\"%s\",\"rows\":\"%s\",\"threads\":%d,\"shapes\":%d,"
            "\"percent\":%.1f,\"limit\":\"%s\",\"worst\":%.1f,\"worst_shape\":\"%s\"}\n",
            worst->c->kernel, dtype_name(type), which, n_threads(), n, exp(logs / n),
            LIMITS[worst->limit].name, worst->percent, shape_text(worst));
    } else {
        put(b, "%s %-4s %-9s %2d: mean of %2d shapes %6.1f %% of %-6s  worst %6.1f %% at %s\n",
            worst->c->kernel, dtype_name(type), which, n_threads(), n, exp(logs / n),
            LIMITS[worst->limit].name, worst->percent, shape_text(worst));
    }
}

/* Measures and prints with the threads that there are: the limits, and the rows. */
static void measure(const Run *run, Row *rows, int n_rows, double until)
{
    double rate[N_LIMITS], start = now_ms(), load = 0;
    bool json = run->o.json, unsteady = false, over = false;
    size_t mark = scratch_mark();
    Buf b = {0};
    int n = run_rounds(run, rows, n_rows, rate, until);
    if (run->o.verbose > 0)
        fprintf(stderr, "%d rounds of %d rows with %d thread%s: %.1f s\n", n, n_rows, n_threads(),
                n_threads() > 1 ? "s" : "", (now_ms() - start) / 1e3);
    put_limits(&b, rate, json);
    if (n_rows && !json)
        put(&b, "\n%-16s %-4s %-15s %-10s %2s %9s %7s %-7s %8s %-6s %5s\n", "kernel", "type",
            "shape", "isa", "t", "ms", "rate", "unit", "percent", "of", "+-%");
    for (int i = 0; i < n_rows; i++) {
        unsteady |= put_row(&b, &rows[i], json);
        over |= rows[i].percent > 100;
    }
    if (n_rows && !json && run->o.full) put(&b, "\n");
    for (int type = F32; run->o.full && type <= Q4; type++) {
        put_summary(&b, rows, n_rows, (DType)type, false, json);
        put_summary(&b, rows, n_rows, (DType)type, true, json);
    }
    if (over && !json)
        put(&b, "more than 100 %%: memory is written while it is read; Winograd's 3x3 convolutions "
            "do fewer\n  operations than are told\n");
    if (unsteady && !json && getloadavg(&load, 1) == 1)
        put(&b, "! not to be relied on: half of the single results lie further than this from the "
            "percentage told\n  (load average %.1f)\n", load);
    if (n_rows && !json) put(&b, "\n");
    fwrite(b.p, 1, b.n, stdout);
    fflush(stdout);
    scratch_reset(mark);
}

int bench(const Run *run, int threads)
{
    const char *level = kernels_level();
    double seconds = run->o.seconds > 0 ? (double)run->o.seconds : run->o.full ? 180 : 40;
    double start = now_ms(), until = start + 1e3 * seconds;
    if (threads == 0) threads = threads_default();
    check_names(run);
    get_memory(run);
    find_peaks(level);
    Row *rows = keep_bytes(MAX_ROWS * sizeof *rows);
    if (threads > 1) {                       /* the pool starts once: one thread comes first */
        int n = run->o.full ? choose_rows(rows, &run->o, level) : 0;
        measure(run, rows, n, start + 500 * seconds);
        threads_start(threads);
    }
    measure(run, rows, choose_rows(rows, &run->o, level), until);
    return 0;
}
