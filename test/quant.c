/* quant.c -- quantised matrices: the format, and every kernel of every level against their
 * definition.
 *
 *   test/quant [--isa LEVEL] [--cases N] [--seed S]      all levels of this CPU, or one
 *
 * The definition (kernels/quant_ref.c) is held against sums in double, with a bound that follows
 * from it: the integers of a block are exact, so a sum over n blocks has n products of scales and n
 * fused multiply-adds, each off by at most u: gamma(n + 1) times the sum of the absolute terms.
 * Levels are held against the definition bit by bit.
 *
 * A product of floats differs from that of the weights as they are stored by the rounding of the
 * activations: each is off by at most half of its block's scale, max|x| / 254. */
#include "check.h"

/* === The format =============================================================================== */

static int n_blocks_of(int k) { return ceil_div(k, Q_COLS); }
static int type_of(int t) { return t == 8 ? Q8 : Q4; }

/* Weight (j, p) by the letter of the format: scale and integer. */
static double weight(const void *W, DType type, int k, int j, int p)
{
    const char *base = (const char *)W +
        ((size_t)(j / 8) * (size_t)n_blocks_of(k) + (size_t)(p / 32)) * (type == Q8 ? 272 : 144);
    int c = p % 32, r = j % 8;
    double scale = f16_to_f32(((const uint16_t *)base)[r]);
    if (type == Q8) return scale * ((const int8_t *)base)[16 + c / 4 * 32 + r * 4 + c % 4];
    uint8_t byte = ((const uint8_t *)base)[16 + c % 16 / 4 * 32 + r * 4 + c % 4];
    return scale * q4_values[c < 16 ? byte & 15 : byte >> 4];
}

/* Random blocks, as a file may hold them: any bytes, scales of 2^-12 .. 2^-5, sometimes 0. */
static void *random_blocks(DType type, int n, int k)
{
    size_t bytes = quant_bytes(type, n, k), block = type == Q8 ? 272 : 144;
    uint8_t *W = take(bytes, 2);
    for (size_t i = 0; i < bytes; i++)
        W[i] = (uint8_t)random_bits();
    for (size_t b = 0; b < bytes; b += block)
        for (int r = 0; r < 8; r++) {
            uint16_t h = (uint16_t)((random_bits() & 0x83ff) | (unsigned)(3 + below(8)) << 10);
            if (below(30) == 0) h = 0;
            memcpy(W + b + 2 * r, &h, 2);
        }
    return W;
}

/* The squared error with the scale that puts the largest weight on -64, one of those that are
 * tried. Theirs are told apart in floats (2^-17 of all squares is more than their rounding); the
 * best is then rounded to an f16, which adds squares of 2^-12, or 2^-25 among the subnormals. */
static double plain_error(const float *w, double *all)
{
    double largest = 0, sum = 0;
    *all = 0;
    for (int c = 0; c < 32; c++)
        if (fabs(w[c]) > fabs(largest)) largest = w[c];
    for (int c = 0; c < 32; c++) {
        double least = INFINITY;
        for (int v = 0; v < 16; v++)
            least = fmin(least, fabs(w[c] + largest / 64 * q4_values[v]));
        sum += least * least;
        *all += (double)w[c] * w[c];
    }
    return sum;
}

static void test_encode(int bits)
{
    DType type = type_of(bits);
    int n = 1 + below(8), k = size(300), blocks = n_blocks_of(k);
    snprintf(shape, sizeof shape, "n %d k %d", n, k);
    float *w = floats((size_t)n * k), *y = floats(k);
    for (int i = 0; i < n * k; i++)
        w[i] = (uniform() + uniform() + uniform()) * (i / k % 2 ? 0.03f : 1e-2f);
    char *W = take(quant_bytes(type, n, k), 2);
    if (!quant_encode(W, type, w, n, k)) fail_case("finite numbers are not taken");
    for (int r = 0; r < n; r++) {
        quant_decode(y, W, type, r, k);
        for (int b = 0; b < blocks; b++) {
            float x[32] = { 0 };
            double most = 0, error = 0, all;
            memcpy(x, w + (size_t)r * k + 32 * b, (size_t)min(32, k - 32 * b) * sizeof *x);
            for (int c = 0; c < 32; c++) most = fmax(most, fabs(x[c]));
            for (int c = 0; c < 32; c++) {
                int p = 32 * b + c;
                double v = weight(W, type, k, r, p);
                if (p < k) equal(p, y[p], (float)v);
                if (p < k) error += (v - x[c]) * (v - x[c]);
                /* half a step, which is an f16 and so 2^-10 off, or one of the subnormals */
                if (type == Q8) near(p, v, x[c], most / 254 * (1 + 0x1p-9) + 0x1p-25);
            }
            double plain = plain_error(x, &all);
            if (type == Q4 && error > plain + all * 0x1p-17 + 0x1p-33)
                fail_case("row %d block %d: error %g, plain %g", r, b, error, plain);
        }
    }
    for (int r = n; r < 8; r++)
        for (int p = 0; p < 32 * blocks; p++)
            if (weight(W, type, k, r, p) != 0) fail_case("row %d of %d is not 0", r, n);
    w[below(n * k)] = below(2) ? NAN : -INFINITY;
    if (quant_encode(W, type, w, n, k)) fail_case("NaN or infinity is taken");
}

/* The relative error, root of the mean square, of normal weights: what the format costs. */
static void test_error(void)
{
    enum { K = 1 << 16 };
    static float w[K], y[K];
    static const struct { DType type; double least, most; } want[] = {
        { Q8, 0.5e-2, 0.6e-2 }, { Q4, 7.0e-2, 7.7e-2 }
    };
    slot = "error of normal weights", case_failed = false, state = 4;
    for (int i = 0; i < K; i++) {
        double s = 0;
        for (int j = 0; j < 12; j++) s += uniform();
        w[i] = (float)(0.02 * s / 2);
    }
    for (int t = 0; t < 2; t++) {
        void *W = take(quant_bytes(want[t].type, 1, K), 2);
        double error = 0, all = 0;
        quant_encode(W, want[t].type, w, 1, K);
        quant_decode(y, W, want[t].type, 0, K);
        for (int i = 0; i < K; i++) {
            error += ((double)y[i] - w[i]) * ((double)y[i] - w[i]);
            all += (double)w[i] * w[i];
        }
        error = sqrt(error / all);
        printf("%s of normal weights: error %.2f %%\n", dtype_name(want[t].type), 100 * error);
        if (error < want[t].least || error > want[t].most)
            fail_case("%s: error %g", dtype_name(want[t].type), error);
        release();
    }
    *(case_failed ? &n_failed : &n_passed) += 1;
}

/* === Micro-kernels ============================================================================ */

static Kernels ref;                             /* the definition, whatever the level */

static void same_bytes(const void *got, const void *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (((const uint8_t *)got)[i] != ((const uint8_t *)want)[i]) {
            fail_case("byte %zu of %zu: got %d, want %d", i, n, ((const uint8_t *)got)[i],
                      ((const uint8_t *)want)[i]);
            return;
        }
}

/* The definition by its letter, and each level by the definition. */
static void test_round(int unused)
{
    (void)unused;
    int m = 1 + below(9), mr = m + below(3), k = size(300), lda = k + below(4);
    bool special = below(10) == 0;
    snprintf(shape, sizeof shape, "m %d mr %d k %d lda %d%s", m, mr, k, lda,
             special ? " special" : "");
    float *A = random_rows(m, k, lda, below(2) ? 1 : 1e-3f);
    if (special) {
        static const float odd[] = { INFINITY, -INFINITY, NAN, 0x1p-120f, -0x1p-149f, 3e38f };
        A[(size_t)below(m) * lda + below(k)] = odd[below(6)];
        if (below(2)) memset(A, 0, (size_t)k * sizeof *A);
    }
    size_t bytes = rounded_bytes(mr, k);
    char *R = take(bytes, 4), *want = take(bytes, 4);
    kernel.q_round(R, A, lda, m, mr, k);
    ref.q_round(want, A, lda, m, mr, k);
    same_bytes(R, want, bytes);
    for (int i = 0; i < mr; i++)
        for (int b = 0; b < n_blocks_of(k); b++) {
            const char *r = want + (size_t)b * rounded_block(mr);
            double scale = ((const float *)(r + 32 * mr))[i], most = 0;
            int sum = 0, start = ((const int32_t *)(r + 36 * mr))[i];
            for (int p = 32 * b; p < 32 * b + 32 && p < k && i < m; p++)
                most = fmax(most, fabs(A[(size_t)i * lda + p]));
            for (int c = 0; c < 32; c++) {
                int q = (int8_t)r[4 * (c / 4 * mr + i) + c % 4], p = 32 * b + c;
                double x = p < k && i < m ? A[(size_t)i * lda + p] : 0;
                sum += q;
                if (q < -127) fail_case("row %d: %d", i, q);
                if (isnan(scale) && q) fail_case("row %d: NaN times %d", i, q);
                if (isfinite(scale)) near(p, scale * q, x, most / 127 * (0.5 + 254 * U) + 0x1p-110);
            }
            if (start != -128 * sum) fail_case("row %d: start %d, sum %d", i, start, sum);
        }
}

/* A row rounded, as double: element p of R with mr = 1. */
static double activation(const char *R, int p)
{
    const char *r = R + (size_t)(p / 32) * rounded_block(1);
    return (double)*(const float *)(r + 32) * (int8_t)r[p % 32];
}

/* sum and sum of absolute terms, block by block. */
static double exact_sum(const char *R, const void *W, DType type, int k, int j, double *abs)
{
    double sum = 0;
    *abs = 0;
    for (int b = 0; b < k; b += 32) {
        double block = 0;
        for (int p = b; p < b + 32 && p < k; p++)
            block += activation(R, p) * weight(W, type, k, j, p);
        sum += block;
        *abs += fabs(block);
    }
    return sum;
}

static char *random_rounded(int m, int k)
{
    float *A = random_floats((size_t)m * k, 1);
    char *R = take((size_t)m * rounded_bytes(1, k), 4);
    for (int i = 0; i < m; i++)
        ref.q_round(R + (size_t)i * rounded_bytes(1, k), A + (size_t)i * k, k, 1, 1, k);
    return R;
}

static void test_few(int bits)
{
    DType type = type_of(bits);
    int m = 1 + below(9), n = size(70), k = size(400), ldc = n + below(4);
    snprintf(shape, sizeof shape, "m %d n %d k %d ldc %d", m, n, k, ldc);
    void *W = random_blocks(type, n, k);
    char *R = random_rounded(m, k);
    float *C = floats((size_t)m * ldc), *want = floats((size_t)m * n);
    kernel.q_few[type - Q8](C, ldc, R, W, m, n, k);
    ref.q_few[type - Q8](want, n, R, W, m, n, k);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double abs, sum = exact_sum(R + (size_t)i * rounded_bytes(1, k), W, type, k, j, &abs);
            equal((long)i * n + j, C[(size_t)i * ldc + j], want[i * n + j]);
            near((long)i * n + j, want[i * n + j], sum, gamma_n(n_blocks_of(k) + 2) * abs + TINY);
        }
    check_gaps(C, m, n, ldc);
}

/* A panel and a tile give what the product of few rows gives. */
static void test_tile(int bits)
{
    DType type = type_of(bits);
    int tn = kernel.q_tile_n, m = 1 + below(kernel.q_tile_m), n = 1 + below(tn), k = size(500);
    int ldc = n + below(4), blocks = n_blocks_of(k), cut = below(blocks + 1);
    snprintf(shape, sizeof shape, "m %d n %d k %d ldc %d cut %d", m, n, k, ldc, cut);
    float *A = random_floats((size_t)m * k, 1);
    char *W = random_blocks(type, n, k), *R = take(rounded_bytes(m, k), 4);
    char *P = take((size_t)tn * 36 * (size_t)blocks, 64);
    char *rows = take((size_t)m * rounded_bytes(1, k), 4);
    float *C = floats((size_t)m * ldc), *want = floats((size_t)m * n);
    for (int i = 0; i < m; i++)
        ref.q_round(rows + (size_t)i * rounded_bytes(1, k), A + (size_t)i * k, k, 1, 1, k);
    ref.q_few[type - Q8](want, n, rows, W, m, n, k);
    ref.q_round(R, A, k, m, m, k);
    for (int part = 0; part < 2; part++) {      /* the first blocks, and the others added */
        int b = part ? cut : 0, more = part ? blocks - cut : cut;
        if (!more) continue;
        kernel.q_pack[type - Q8](P, W + (size_t)b * quant_bytes(type, 1, 1),
                                 quant_bytes(type, 1, k), n, more);
        kernel.q_tile(C, ldc, R + (size_t)b * rounded_block(m), P, m, n, more, b > 0);
    }
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
            equal((long)i * n + j, C[(size_t)i * ldc + j], want[i * n + j]);
    check_gaps(C, m, n, ldc);
}

/* === The product ============================================================================== */

static void test_gemm(int bits)
{
    DType type = type_of(bits);
    int m = below(2) ? 1 + below(4) : 1 + below(60), n = size(200);
    int k = below(8) ? size(300) : 700 + below(1500), lda = k + below(4), ldc = n + below(4);
    Epilogue e = { .act = below(2) ? RELU : ACT_NONE, .add = below(2) };
    bool bias = below(2), mul = below(3) == 0;
    snprintf(shape, sizeof shape, "m %d n %d k %d lda %d ldc %d bias %d act %d mul %d add %d", m, n,
             k, lda, ldc, bias, e.act, mul, e.add);
    float *A = random_rows(m, k, lda, 1), *C = random_rows(m, n, ldc, 1);
    float *b = random_floats(n, 1), *g = random_floats((size_t)m * n, 2);
    float *before = floats((size_t)m * ldc), *one = floats((size_t)n);
    void *W = random_blocks(type, n, k);
    e.bias = bias ? b : NULL;
    e.mul = mul ? g : NULL;
    memcpy(before, C, (size_t)m * ldc * sizeof *C);
    gemm(C, ldc, A, lda, W, type, m, n, k, m, e);
    for (int q = 0; q < 100; q++) {
        int i = below(m), j = below(n);
        double sum = bias ? b[j] : 0, abs = fabs(sum), off = 0;
        for (int p0 = 0; p0 < k; p0 += 32) {
            double most = 0, w_abs = 0;
            for (int p = p0; p < p0 + 32 && p < k; p++) {
                double a = A[(size_t)i * lda + p], w = weight(W, type, k, j, p);
                most = fmax(most, fabs(a));
                w_abs += fabs(w);
                sum += a * w, abs += fabs(a * w);
            }
            off += most / 254 * w_abs;          /* what rounding A to 8 bits may change */
        }
        double bound = 1.001 * off + gamma_n(n_blocks_of(k) + 4) * (abs + off);
        double want = e.act && sum < 0 ? 0 : sum;
        if (mul) {
            want *= g[(size_t)i * n + j];
            bound = bound * fabs(g[(size_t)i * n + j]) + U * fabs(want);
        }
        if (e.add) {
            want += before[(size_t)i * ldc + j];
            bound += U * (fabs(want) + bound);
        }
        near((long)i * n + j, C[(size_t)i * ldc + j], want, 1.01 * bound + TINY);
    }
    check_gaps(C, m, n, ldc);
    int i = below(m);                           /* a row alone is the same */
    memcpy(one, before + (size_t)i * ldc, (size_t)n * sizeof *one);
    if (mul) e.mul = g + (size_t)i * n;
    gemm(one, n, A + (size_t)i * lda, lda, W, type, 1, n, k, 1, e);
    for (int j = 0; j < n; j++) equal(j, one[j], C[(size_t)i * ldc + j]);
    if (n <= 8) return;
    int first = 8 * (1 + below((n - 1) / 8));   /* and so are rows of W from a multiple of 8 on */
    Tensor all = { .data = W, .dtype = type, .ndim = 2, .dim = { n, k } };
    Tensor some = rows(all, first, n - first);
    if (mul) e.mul = g + (size_t)i * n + first;
    memcpy(one, before + (size_t)i * ldc, (size_t)n * sizeof *one);
    if (bias) e.bias = b + first;
    gemm(one + first, n, A + (size_t)i * lda, lda, some.data, type, 1, n - first, k, 1, e);
    for (int j = first; j < n; j++) equal(j, one[j], C[(size_t)i * ldc + j]);
}

/* === The table of tests ======================================================================= */

static const SlotTest TESTS[] = {
    { "encode q8", test_encode, 8, 4 }, { "encode q4", test_encode, 4, 8 },
    { "round", test_round, 0, 1 },
    { "few q8", test_few, 8, 4 }, { "few q4", test_few, 4, 4 },
    { "tile q8", test_tile, 8, 2 }, { "tile q4", test_tile, 4, 2 },
    { "gemm q8", test_gemm, 8, 4 }, { "gemm q4", test_gemm, 4, 4 },
};
enum { N_TESTS = sizeof TESTS / sizeof *TESTS };

/* === Threads and levels ======================================================================= */

/* A digest of products of many shapes: one number for all levels and all numbers of threads. */
static uint64_t digest(void)
{
    uint64_t h = NO_FLOATS;
    for (int t = 0; t < of_digest(24); t++) {
        state = 77 + t;
        DType type = t % 2 ? Q8 : Q4;
        int m = t % 3 ? 1 + below(3) : 17 + below(250), n = 1 + below(600), k = 1 + below(1500);
        float *A = random_floats((size_t)m * k, 1), *C = random_floats((size_t)m * n, 1);
        void *W = random_blocks(type, n, k);
        gemm(C, n, A, k, W, type, m, n, k, m, (Epilogue){ .act = RELU, .add = t % 4 == 0 });
        h = hash_floats(h, C, (size_t)m * n);
        release();
    }
    return h;
}

/* ref comes first, whatever level is asked for: the others must give its bits. */
static void test_level(const char *level)
{
    static bool begun;
    static uint64_t want;
    if (!begun) {
        begun = true;
        if (!only_seed) test_error();
        if (strcmp(level, "ref")) test_level("ref");
    }
    kernels_init("ref", false);
    ref = kernel;
    if (!only_seed) test_threads(level, digest, &want);
    kernels_init(level, false);
    run_slots(TESTS, N_TESTS);
}

int main(int argc, char **argv)
{
    n_cases = 800;
    return run_levels("quant", argc, argv, test_level);
}
