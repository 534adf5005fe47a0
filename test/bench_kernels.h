/* bench_kernels.h -- speeds of the kernels beside the limit of the machine: the second half of
 * test/kernels.c (--bench [LEVEL] [THREADS]).
 *
 * A machine that others use as well gives each figure its own limit: before and after each timing
 * the peak of multiply-adds (or of reading memory) is measured, and the median of the ratios is
 * printed beside the median of the speeds, and the best beside it. With one thread the processor's
 * time is measured, not the clock's: what others take does not count. Weights walk through 256 MiB,
 * so that they come from memory as in a network, and not from a cache. */
#ifndef BENCH_KERNELS_H
#define BENCH_KERNELS_H

#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { BENCH_WEIGHTS = 64 << 20, BENCH_ROUNDS = 25, PEAK_STEPS = 20000 };

static double bench_now(void)
{
    struct timespec t;
    clock_gettime(n_threads() == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts x: the best is then the last. */
static double median(double *x, int n)
{
    qsort(x, n, sizeof *x, compare_doubles);
    return x[n / 2];
}

/* === Limits =================================================================================== */

static volatile float bench_sink;

/* Twelve sums that do not wait for each other; nothing but multiply-adds. */
#if defined(__x86_64__)
__attribute__((target("avx512f"))) static void peak_avx512(void *ctx, int i, int worker)
{
    (void)ctx, (void)i, (void)worker;
    __m512 a[12], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-3f);
    for (int j = 0; j < 12; j++)
        a[j] = _mm512_set1_ps((float)j);
    for (int s = 0; s < PEAK_STEPS / 2; s++)
#pragma GCC unroll 12
        for (int j = 0; j < 12; j++)
            a[j] = _mm512_fmadd_ps(a[j], x, y);
    for (int j = 1; j < 12; j++)
        a[0] = _mm512_add_ps(a[0], a[j]);
    bench_sink = _mm512_cvtss_f32(a[0]);
}

__attribute__((target("avx2,fma"))) static void peak_avx2(void *ctx, int i, int worker)
{
    (void)ctx, (void)i, (void)worker;
    __m256 a[12], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-3f);
    for (int j = 0; j < 12; j++)
        a[j] = _mm256_set1_ps((float)j);
    for (int s = 0; s < PEAK_STEPS; s++)
#pragma GCC unroll 12
        for (int j = 0; j < 12; j++)
            a[j] = _mm256_fmadd_ps(a[j], x, y);
    for (int j = 1; j < 12; j++)
        a[0] = _mm256_add_ps(a[0], a[j]);
    bench_sink = _mm256_cvtss_f32(a[0]);
}
#else
static void peak_avx512(void *ctx, int i, int worker) { (void)ctx, (void)i, (void)worker; }
static void peak_avx2(void *ctx, int i, int worker)   { (void)ctx, (void)i, (void)worker; }
#endif

/* GFLOP/s of multiply-adds with the threads of the pool; 0 for levels without a measure. */
static double fma_peak(void)
{
    bool wide = !strcmp(kernels_level(), "avx512");
    if (!wide && strcmp(kernels_level(), "avx2"))
        return 0;
    int n = 4 * n_threads();
    double start = bench_now();
    parallel_for(n, wide ? peak_avx512 : peak_avx2, NULL);
    return 1e-9 * n * PEAK_STEPS * 12 * 16 / (bench_now() - start);
}

enum { READ_TASK = 1 << 17 };                   /* floats; read in four streams, page by page */

static void read_task(void *ctx, int i, int worker)
{
    (void)worker;
    const float *from = (const float *)ctx + (size_t)i * READ_TASK;
    for (int at = 0; at < READ_TASK / 4; at += 1024)
        for (int stream = 0; stream < 4; stream++)
            bench_sink = kernel.max(from + stream * (READ_TASK / 4) + at, 1024);
}

/* GB/s of reading, 64 MiB somewhere in the weights. */
static double read_peak(const float *W)
{
    static int turn;
    const float *from = W + (size_t)(turn++ % 4) * (BENCH_WEIGHTS / 4);
    double start = bench_now();
    parallel_for(BENCH_WEIGHTS / 4 / READ_TASK, read_task, (void *)from);
    return 1e-9 * BENCH_WEIGHTS / (bench_now() - start);
}

/* === The kernels at shapes of real models ===================================================== */

/* One product: GFLOP/s in % of the multiply-adds' peak, or (m_item 1) GB/s in % of reading. */
static void bench_gemm(DType type, int m, int n, int k, int m_item, const float *A, float *C,
                       const float *W)
{
    size_t step = (size_t)n * k / (type == F32 ? 1 : 2), at = 0;        /* in floats */
    double work = m_item == 1 ? 4.0 * step : 2.0 * m * n * k;
    double speed[BENCH_ROUNDS], ratio[BENCH_ROUNDS];
    int repeat = 1 + (int)(m_item == 1 ? 32e6 / work : 3e8 / work);
    for (int r = 0; r < BENCH_ROUNDS; r++) {
        double limit = m_item == 1 ? read_peak(W) : fma_peak(), start = bench_now();
        for (int q = 0; q < repeat; q++, at += step) {
            if (at + step > BENCH_WEIGHTS)
                at = 0;
            gemm(C, n, A, k, W + at, type, m, n, k, m_item, (Epilogue){ .bias = A });
        }
        speed[r] = 1e-9 * work * repeat / (bench_now() - start);
        limit = (limit + (m_item == 1 ? read_peak(W) : fma_peak())) / 2;
        ratio[r] = limit > 0 ? 100 * speed[r] / limit : 0;
    }
    double s = median(speed, BENCH_ROUNDS);
    printf("gemm %-5s %5dx%5dx%4d%s %7.1f %s %5.1f %%   best %.1f\n",
           type == F32 ? "f32" : type == F16 ? "f16" : "bf16", m, n, k,
           m_item == 1 ? " few" : "    ", s, m_item == 1 ? "GB/s   " : "GFLOP/s",
           median(ratio, BENCH_ROUNDS), speed[BENCH_ROUNDS - 1]);
    fflush(stdout);
}

static void bench_attention(int items, int n_q, int n_kv, int heads, int hd, bool causal, float *A,
                            float *C)
{
    int d = heads * hd;
    Attention a = { .out = C, .q = A, .k = A + (size_t)items * n_q * d, .n_items = items,
                    .n_q = n_q, .n_kv = n_kv, .n_heads = heads, .n_kv_heads = heads,
                    .head_dim = hd, .scale = 0.125f, .causal = causal };
    a.v = a.k + (size_t)n_kv * d;
    double work = 4.0 * items * n_q * n_kv * d / (causal ? 2 : 1);
    double speed[BENCH_ROUNDS], ratio[BENCH_ROUNDS];
    int repeat = 1 + (int)(3e8 / work);
    for (int r = 0; r < BENCH_ROUNDS; r++) {
        double limit = fma_peak(), start = bench_now();
        for (int q = 0; q < repeat; q++)
            attention_heads(&a);
        speed[r] = 1e-9 * work * repeat / (bench_now() - start);
        limit = (limit + fma_peak()) / 2;
        ratio[r] = limit > 0 ? 100 * speed[r] / limit : 0;
    }
    double s = median(speed, BENCH_ROUNDS);
    printf("attention %dx%dx%d, %d heads of %d%s: %.1f GFLOP/s %.1f %%   best %.1f\n", items, n_q,
           n_kv, heads, hd, causal ? ", causal" : "", s, median(ratio, BENCH_ROUNDS),
           speed[BENCH_ROUNDS - 1]);
    fflush(stdout);
}

static void bench_vectors(float *x, float *y)
{
    static const char *const NAME[] = { "", "gelu", "gelu_tanh", "gelu_quick", "silu", "relu" };
    double t[BENCH_ROUNDS];
    for (int f = GELU; f <= RELU + 3; f++) {
        for (int r = 0; r < BENCH_ROUNDS; r++) {
            double start = bench_now();
            for (int q = 0; q < 300; q++) {
                memcpy(y, x, 3072 * sizeof *y);
                if (f <= RELU)
                    kernel.act[f](y, 3072);
                else if (f == RELU + 1)
                    kernel.layernorm(y, x, x + 4096, x + 8192, 1e-5f, 3072);
                else if (f == RELU + 2)
                    bench_sink = kernel.exp_sum(y, x, 1, 3072);
            }
            t[r] = (bench_now() - start) / 300 / 3072 * 1e9;
        }
        printf("%s %.3f ns an element\n", f <= RELU ? NAME[f] : f == RELU + 1 ? "layernorm"
               : f == RELU + 2 ? "exp_sum" : "(of each: the copy)", median(t, BENCH_ROUNDS));
    }
}

static int bench_kernels(const char *level, int threads)
{
    static const int SHAPES[][3] = {
        { 197, 768, 768 }, { 197, 3072, 768 }, { 197, 768, 3072 }, { 577, 768, 768 },
        { 577, 3072, 768 }, { 577, 768, 3072 }, { 577, 1024, 1024 }, { 577, 4096, 1024 },
        { 50, 768, 768 }, { 16, 768, 768 },
    };
    static const int FEW[][3] = { { 1, 768, 768 }, { 3, 768, 768 }, { 1, 3072, 768 },
                                  { 3, 3072, 768 }, { 1, 30524, 768 }, { 3, 30524, 768 } };
    if (!kernels_init(level)) {
        printf("kernels: this CPU has %s\n", kernels_available());
        return 2;
    }
    threads_start(threads);
    float *W = keep_bytes((size_t)BENCH_WEIGHTS * sizeof *W), *A = keep_bytes(64 << 20);
    float *C = keep_bytes(64 << 20);
    for (size_t i = 0; i < BENCH_WEIGHTS; i++)      /* as f16 and bf16, too: nothing special */
        W[i] = (float)(i * 2654435761u >> 8 & 1023) * 1e-3f - 0.5f;
    for (size_t i = 0; i < 16 << 20; i++)
        A[i] = (float)(i * 40503u >> 5 & 1023) * 1e-3f - 0.5f;
    printf("%s, %d threads: %.1f GFLOP/s, %.1f GB/s\n", kernels_level(), n_threads(), fma_peak(),
           read_peak(W));
    for (int type = F32; type <= BF16; type++)
        for (size_t s = 0; s < sizeof SHAPES / sizeof *SHAPES; s++)
            bench_gemm(type, SHAPES[s][0], SHAPES[s][1], SHAPES[s][2], SHAPES[s][0], A, C, W);
    for (int type = F32; type <= BF16; type++)
        for (size_t s = 0; s < sizeof FEW / sizeof *FEW; s++)
            bench_gemm(type, FEW[s][0], FEW[s][1], FEW[s][2], 1, A, C, W);
    bench_attention(1, 577, 577, 12, 64, false, A, C);
    bench_attention(1, 197, 197, 12, 64, false, A, C);
    bench_attention(1, 50, 50, 12, 64, false, A, C);
    bench_attention(1, 77, 77, 8, 64, true, A, C);
    bench_attention(1, 4096, 4096, 8, 40, false, A, C);
    bench_attention(3, 1, 577, 12, 64, false, A, C);
    bench_attention(1, 20, 577, 12, 64, false, A, C);
    bench_vectors(A, C);
    return 0;
}

#endif
