/* nn.c -- tests of the layers: each option against naive loops in double precision, on the portable
 * kernels and on the best ones of this CPU; then what must be equal to the last bit: any number of
 * threads, one item alone or among others.
 *
 * The limit of a comparison is 2e-6 * sqrt(terms) of the largest value: sums of that many products
 * of numbers near 1, each rounded to 2^-24, with room for the few operations after. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../kernels/kernels.h"
#include "../tensor.h"

static int n_passed, n_failed;
static const char *level = "";

static void check(bool ok, const char *what)
{
    if (ok) { n_passed++; return; }
    n_failed++;
    printf("failed: %s (%s)\n", what, level);
}

/* === Random tensors =========================================================================== */

static uint64_t seed = 1;

static float uniform(void)                    /* -1 .. 1 */
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(seed >> 32) / 2147483648.0f;
}

static Tensor filled(Tensor t)
{
    for (size_t i = 0; i < n_elem(t); i++) f32(t)[i] = uniform();
    return t;
}

/* [n, cols] of the type; F16 and BF16 from random bits, with exponents that give about -2 .. 2. */
static Tensor weights(int n, int cols, DType type)
{
    Tensor t = filled(scratch(n, cols));
    t.dtype = type;
    uint16_t *half = t.data;
    for (size_t i = 0; type != F32 && i < n_elem(t); i++) {
        unsigned r = (unsigned)(int)(uniform() * 32767) & 0xffff;
        half[i] = (uint16_t)(type == F16 ? (r & 0x8bff) | 0x3400 : (r & 0x80ff) | 0x3f00);
    }
    return t;
}

static double at(Tensor t, size_t i)
{
    if (t.dtype == F32) return f32(t)[i];
    uint16_t h = ((uint16_t *)t.data)[i];
    return t.dtype == F16 ? f16_to_f32(h) : bf16_to_f32(h);
}

static Linear random_linear(int n_out, int n_in, DType type, bool bias)
{
    Linear l = { .w = weights(n_out, n_in, type) };
    if (bias) l.b = as_vector(filled(scratch(1, n_out)));
    return l;
}

/* === Naive loops ============================================================================== */

static double *naive_linear(const double *x, int m, const Linear *l)
{
    int n = l->w.dim[0], k = l->w.dim[1];
    double *y = scratch_bytes((size_t)m * n * sizeof *y);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double s = l->b.data ? f32(l->b)[j] : 0;
            for (int c = 0; c < k; c++) s += x[i * k + c] * at(l->w, (size_t)j * k + c);
            y[i * n + j] = s;
        }
    return y;
}

static double *as_double(Tensor t)
{
    double *y = scratch_bytes(n_elem(t) * sizeof *y);
    for (size_t i = 0; i < n_elem(t); i++) y[i] = at(t, i);
    return y;
}

/* One item: x [n_q, d], memory or x itself [n_kv, d_m] -> [n_q, d]. */
static double *naive_attention(const double *x, int n_q, const double *mem, int n_kv, const Attn *a,
                               Tensor bias, bool causal)
{
    double *q = naive_linear(x, n_q, &a->q), *k = naive_linear(mem, n_kv, &a->k);
    double *v = naive_linear(mem, n_kv, &a->v);
    int hd = a->head_dim, dq = a->n_heads * hd, dk = a->n_kv_heads * hd;
    double *out = scratch_bytes((size_t)n_q * dq * sizeof *out);
    double *p = scratch_bytes((size_t)n_kv * sizeof *p);
    for (int h = 0; h < a->n_heads; h++) {
        int hk = h / (a->n_heads / a->n_kv_heads);
        for (int i = 0; i < n_q; i++) {
            int n = causal ? i + 1 + n_kv - n_q : n_kv;
            double sum = 0;
            for (int j = 0; j < n; j++) {
                double s = 0;
                for (int c = 0; c < hd; c++) s += q[i * dq + h * hd + c] * k[j * dk + hk * hd + c];
                size_t b = ((size_t)(bias.data && bias.dim[0] > 1 ? h : 0) * n_q + i) * n_kv + j;
                p[j] = exp(s * a->scale + (bias.data ? f32(bias)[b] : 0));
                sum += p[j];
            }
            for (int c = 0; c < hd; c++) {
                double s = 0;
                for (int j = 0; j < n; j++) s += p[j] / sum * v[j * dk + hk * hd + c];
                out[i * dq + h * hd + c] = s;
            }
        }
    }
    return naive_linear(out, n_q, &a->o);
}

static double naive_act(double x, Act act)
{
    switch (act) {
    case GELU:       return 0.5 * x * (1 + erf(x / sqrt(2)));
    case GELU_TANH:  return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case GELU_QUICK: return x / (1 + exp(-1.702 * x));
    case SILU:       return x / (1 + exp(-x));
    case RELU:       return x > 0 ? x : 0;
    default:         return x;
    }
}

static void near(Tensor got, const double *want, int terms, const char *what)
{
    double max = 0, worst = 0;
    for (size_t i = 0; i < n_elem(got); i++) {
        max = fmax(max, fabs(want[i]));
        double diff = fabs(f32(got)[i] - want[i]);
        worst = diff > worst || isnan(diff) ? diff : worst;
    }
    bool ok = worst <= 2e-6 * sqrt(terms) * max;
    if (!ok) printf("%s: off by %g of %g\n", what, worst, max);
    check(ok, what);
}

static bool same(Tensor a, Tensor b)
{
    return n_elem(a) == n_elem(b) && !memcmp(a.data, b.data, n_elem(a) * sizeof(float));
}

/* === Tests ==================================================================================== */

static void test_linear(int m, int n, int k, DType type)
{
    size_t mark = scratch_mark();
    Tensor x = filled(scratch(m, k)), out = filled(scratch(m, n)), old = scratch(m, n);
    Linear l = random_linear(n, k, type, n % 2);
    double *want = naive_linear(as_double(x), m, &l);
    linear(out, x, &l);
    near(out, want, k, "linear");
    memcpy(old.data, filled(out).data, n_elem(out) * sizeof(float));
    linear_add(out, x, &l);
    double *sum = as_double(old);
    for (size_t i = 0; i < n_elem(out); i++) sum[i] += want[i];
    near(out, sum, k, "linear_add");
    for (Act act = ACT_NONE; act <= RELU; act++) {
        linear_act(out, x, &l, act);
        for (size_t i = 0; i < n_elem(out); i++) sum[i] = naive_act(want[i], act);
        near(out, sum, k, "linear_act");
    }
    Linear part = linear_rows(l, n / 2, n - n / 2);
    Tensor some = scratch(m, n - n / 2);
    linear(some, x, &part);
    for (int i = 0, c = 0; i < m; i++)
        for (int j = n / 2; j < n; j++) sum[c++] = want[i * n + j];
    near(some, sum, k, "linear_rows");
    scratch_reset(mark);
}

static void test_norm(int n, int d)
{
    size_t mark = scratch_mark();
    Tensor x = filled(scratch(n, d)), out = scratch(n, d);
    Norm p = { .w = as_vector(filled(scratch(1, d))), .b = as_vector(filled(scratch(1, d))),
               .eps = 0.01f };
    for (int rms = 0; rms < 2; rms++) {
        double *want = as_double(x);
        for (int i = 0; i < n; i++) {
            double *row = want + (size_t)i * d, mean = 0, var = 0;
            for (int c = 0; c < d && !rms; c++) mean += row[c] / d;
            for (int c = 0; c < d; c++) var += (row[c] - mean) * (row[c] - mean) / d;
            for (int c = 0; c < d; c++)
                row[c] = (row[c] - mean) / sqrt(var + p.eps) * f32(p.w)[c]
                         + (rms ? 0 : f32(p.b)[c]);
        }
        p.rms = rms;
        norm(out, x, &p);
        near(out, want, d, rms ? "norm: rms" : "norm");
        if (rms) norm(x, x, &p);
        check(!rms || same(x, out), "norm in place");
    }
    scratch_reset(mark);
}

static Attn random_attn(int d, int d_mem, int n_heads, int n_kv_heads, int head_dim)
{
    return (Attn){
        .q = random_linear(n_heads * head_dim, d, F32, true),
        .k = random_linear(n_kv_heads * head_dim, d_mem, F32, false),
        .v = random_linear(n_kv_heads * head_dim, d_mem, F32, true),
        .o = random_linear(d, n_heads * head_dim, F32, true),
        .n_heads = n_heads, .n_kv_heads = n_kv_heads, .head_dim = head_dim, .scale = 0.2f,
    };
}

/* Self-attention of several items with and without each option; then one by one through a cache. */
static void test_attention(int n_items, int n, int n_heads, int n_kv_heads, int head_dim)
{
    size_t mark = scratch_mark();
    int d = 21, terms = 200;
    Attn a = random_attn(d, d, n_heads, n_kv_heads, head_dim);
    Tensor x = filled(scratch3(n_items, n, d)), out = scratch_like(x, d), bias[3] = {{0}};
    bias[1] = filled(scratch3(1, n, n));
    bias[2] = filled(scratch3(n_heads, n, n));
    for (int option = 0; option < 6; option++) {
        AttnArgs args = { .bias = bias[option / 2], .causal = option % 2 };
        attention(out, x, &a, args);
        Tensor alone = scratch(n, d);
        for (int i = 0; i < n_items; i++) {
            Tensor xi = rows(flat(x), i * n, n), oi = rows(flat(out), i * n, n);
            double *xd = as_double(xi);
            near(oi, naive_attention(xd, n, xd, n, &a, args.bias, args.causal), terms, "attention");
            attention(alone, xi, &a, args);
            check(same(alone, oi), "attention: an item alone and among others");
        }
    }
    attention(out, x, &a, (AttnArgs){ .causal = true });
    KvCache c = kv_cache_scratch(n_items, n + 3, n_kv_heads * head_dim);
    Tensor step = scratch3(n_items, 1, d), all = scratch_like(x, d);
    for (int t = 0; t < n; t++) {
        Tensor xt = scratch3(n_items, 1, d);
        for (int i = 0; i < n_items; i++)
            memcpy(f32(xt) + i * d, f32(x) + (i * n + t) * d, (size_t)d * sizeof(float));
        attention(step, xt, &a, (AttnArgs){ .causal = true, .cache = &c });
        for (int i = 0; i < n_items; i++)
            memcpy(f32(all) + (i * n + t) * d, f32(step) + i * d, (size_t)d * sizeof(float));
    }
    near(all, as_double(out), terms, "attention: token by token = at once");
    check(c.len == n, "attention: length of the cache");
    scratch_reset(mark);
}

/* Pair i of each head of row t, turned by its angle, as the formula has it; then times scale[t]. */
static void naive_turn(Tensor x, int n_tok, int head_dim, const Rope *r, const float *scale)
{
    int n_pairs = n_cols(r->cos), d = n_cols(x);
    for (int i = 0; i < n_rows(x); i++)
        for (int h = 0; h < d; h += head_dim)
            for (int c = 0; c < n_pairs; c++) {
                float *a = f32(x) + i * d + h + c, *b = a + n_pairs;
                double co = f32(r->cos)[i % n_tok * n_pairs + c];
                double si = f32(r->sin)[i % n_tok * n_pairs + c], u = *a, v = *b;
                *a = (float)(u * co - v * si);
                *b = (float)(v * co + u * si);
            }
    for (int i = 0; scale && i < n_rows(x) * d; i++) f32(x)[i] *= scale[i / d % n_tok];
}

/* Attention with turned queries and keys, some or all numbers of a head, at once and through a
 * cache of either type. */
static void test_rope(int n_items, int n, int n_heads, int n_kv_heads, int head_dim, int n_pairs)
{
    size_t mark = scratch_mark();
    int d = 21, d_kv = n_kv_heads * head_dim;
    Attn a = random_attn(d, d, n_heads, n_kv_heads, head_dim);
    Rope r = { .cos = scratch(n, n_pairs), .sin = scratch(n, n_pairs),
               .q_scale = filled(scratch(1, n)) };
    for (int i = 0; i < n * n_pairs; i++) {
        f32(r.cos)[i] = cosf(0.3f * (float)i);
        f32(r.sin)[i] = sinf(0.3f * (float)i);
    }
    Tensor x = filled(scratch3(n_items, n, d)), out = scratch_like(x, d), want = scratch_like(x, d);
    Tensor q = scratch_like(x, n_heads * head_dim), heads = scratch_like(x, n_heads * head_dim);
    Tensor k = scratch_like(x, d_kv), v = scratch_like(x, d_kv);
    linear(q, x, &a.q);
    linear(k, x, &a.k);
    linear(v, x, &a.v);
    naive_turn(q, n, head_dim, &r, f32(r.q_scale));
    naive_turn(k, n, head_dim, &r, NULL);
    attend(heads, q, k, v, &a, (Tensor){ 0 }, true);
    linear(want, heads, &a.o);
    attention(out, x, &a, (AttnArgs){ .causal = true, .rope = r });
    near(out, as_double(want), 200, "attention with rope");
    KvCache c = kv_cache_scratch(n_items, n + 2, d_kv);
    attention(out, x, &a, (AttnArgs){ .causal = true, .rope = r, .cache = &c });
    near(out, as_double(want), 200, "attention with rope and a cache");
    c.k.dtype = c.v.dtype = F16;
    c.len = 0;
    attention(out, x, &a, (AttnArgs){ .causal = true, .rope = r, .cache = &c });
    double worst = 0;
    for (size_t i = 0; i < n_elem(out); i++)
        worst = fmax(worst, fabs(f32(out)[i] - f32(want)[i]));
    check(worst < 0.05 && worst > 0, "keys and values in f16: 11 bits of each");
    scratch_reset(mark);
}

static void test_memory(int n_items, int n, int n_kv)
{
    size_t mark = scratch_mark();
    int d = 20, d_mem = 13;
    Attn a = random_attn(d, d_mem, 3, 3, 7);
    Tensor mem = filled(scratch(n_kv, d_mem)), x = filled(scratch3(n_items, n, d));
    Tensor out = scratch_like(x, d), again = scratch_like(x, d);
    attention(out, x, &a, (AttnArgs){ .memory = mem });
    for (int i = 0; i < n_items; i++)
        near(rows(flat(out), i * n, n), naive_attention(as_double(rows(flat(x), i * n, n)), n,
             as_double(mem), n_kv, &a, (Tensor){ 0 }, false), 200, "cross-attention");
    KvCache c = kv_cache_scratch(1, n_kv, 21);
    attention(again, x, &a, (AttnArgs){ .memory = mem, .cache = &c });
    check(same(again, out) && c.len == n_kv, "cross-attention, first call with a cache");
    memset(mem.data, 0, n_elem(mem) * sizeof(float));         /* must not be looked at again */
    attention(again, x, &a, (AttnArgs){ .memory = mem, .cache = &c });
    check(same(again, out) && c.len == n_kv, "cross-attention, second call with a cache");
    scratch_reset(mark);
}

static void test_attend(void)
{
    size_t mark = scratch_mark();
    Attn a = { .n_heads = 2, .n_kv_heads = 1, .head_dim = 5, .scale = 1 };
    Tensor q = filled(scratch3(3, 4, 10)), k = filled(scratch(6, 5)), v = filled(scratch(6, 5));
    Tensor shared = scratch_like(q, 10), each = scratch_like(q, 10);
    Tensor k3 = scratch3(3, 6, 5), v3 = scratch3(3, 6, 5);
    for (int i = 0; i < 3; i++) {
        memcpy(f32(k3) + i * 30, k.data, 30 * sizeof(float));
        memcpy(f32(v3) + i * 30, v.data, 30 * sizeof(float));
    }
    attend(shared, q, k, v, &a, (Tensor){ 0 }, true);
    attend(each, q, k3, v3, &a, (Tensor){ 0 }, true);
    check(same(shared, each), "attend: keys shared by the items = a copy for each");
    scratch_reset(mark);
}

static void test_mlp(int n, int d_ff)
{
    size_t mark = scratch_mark();
    int d = 11;
    Tensor x = filled(scratch(n, d)), out = scratch(n, d);
    Mlp m = { .up = random_linear(d_ff, d, F32, true), .down = random_linear(d, d_ff, F32, true),
              .act = SILU };
    for (int gated = 0; gated < 2; gated++) {
        if (gated) m.gate = random_linear(d_ff, d, F32, false);
        double *up = naive_linear(as_double(x), n, &m.up);
        double *gate = naive_linear(as_double(x), n, gated ? &m.gate : &m.up);
        for (int i = 0; i < n * d_ff; i++) up[i] = naive_act(gate[i], SILU) * (gated ? up[i] : 1);
        mlp(out, x, &m);
        near(out, naive_linear(up, n, &m.down), d_ff, gated ? "mlp: gated" : "mlp");
    }
    mlp(x, x, &m);
    check(same(x, out), "mlp in place");
    scratch_reset(mark);
}

static void test_rows(DType type)
{
    size_t mark = scratch_mark();
    Tensor table = weights(9, 13, type), x = scratch3(2, 3, 13), y = filled(scratch3(2, 3, 13));
    int ids[] = { 8, 0, 3, 3, 7, 1 };
    embed_rows(x, table, ids, 6);
    double *want = scratch_bytes(6 * 13 * sizeof *want), *sum = as_double(y);
    for (int i = 0; i < 78; i++) {
        want[i] = at(table, (size_t)(ids[i / 13] * 13 + i % 13));
        sum[i] += at(table, (size_t)((2 + i / 13 % 3) * 13 + i % 13));
    }
    near(x, want, 0, "embed_rows");
    add_rows(y, table, 2);
    near(y, sum, 1, "add_rows");
    Tensor z = filled(scratch(3, 17));
    double *soft = as_double(z), *unit = as_double(z);
    for (int i = 0; i < 3; i++) {
        double total = 0, square = 0;
        for (int c = 0; c < 17; c++) {
            total += exp(soft[i * 17 + c]);
            square += unit[i * 17 + c] * unit[i * 17 + c];
        }
        for (int c = 0; c < 17; c++) {
            soft[i * 17 + c] = exp(soft[i * 17 + c]) / total;
            unit[i * 17 + c] /= sqrt(square);
        }
    }
    Tensor copy = scratch(3, 17);
    memcpy(copy.data, z.data, n_elem(z) * sizeof(float));
    softmax_rows(z);
    near(z, soft, 17, "softmax_rows");
    l2_normalize(copy);
    near(copy, unit, 17, "l2_normalize");
    scratch_reset(mark);
}

/* An id that the table does not have is the model's fault: exit code 4, and the name. */
static void test_beyond(int id)
{
    size_t mark = scratch_mark();
    jmp_buf place;
    Tensor table = weights(9, 5, F32), x = scratch(1, 5);
    table.name = "words.weight";
    int code = setjmp(place);
    if (!code) {
        die_landing = &place;
        embed_rows(x, table, &id, 1);
    }
    die_landing = NULL;
    check(code == EXIT_FILE && strstr(item_error.msg, "words.weight has 9 rows"),
          "embed_rows: an id beyond the table");
    scratch_reset(mark);
}

static void test_reorder(void)
{
    size_t mark = scratch_mark();
    KvCache c = kv_cache_scratch(4, 5, 3);
    filled(c.k), filled(c.v);
    Tensor old_k = scratch3(4, 5, 3), old_v = scratch3(4, 5, 3);
    memcpy(old_k.data, c.k.data, n_elem(c.k) * sizeof(float));
    memcpy(old_v.data, c.v.data, n_elem(c.v) * sizeof(float));
    c.len = 2;
    int from[] = { 2, 0, 2, 1 };
    kv_reorder(&c, from, 4);
    bool ok = true;
    for (int i = 0; i < 4; i++)
        ok = ok && !memcmp(f32(c.k) + i * 15, f32(old_k) + from[i] * 15, 6 * sizeof(float))
                && !memcmp(f32(c.v) + i * 15, f32(old_v) + from[i] * 15, 6 * sizeof(float));
    check(ok, "kv_reorder");
    scratch_reset(mark);
}

static void test_patches(int h, int w, int k, int c_out)
{
    size_t mark = scratch_mark();
    Tensor image = filled(scratch3(h, w, 3)), flat_w = filled(scratch(c_out, 3 * k * k));
    Conv c = { .w = flat_w, .k = k, .stride = k };
    c.w.ndim = 4;
    c.w.dim[1] = 3;
    c.w.dim[2] = c.w.dim[3] = k;
    c.b = as_vector(filled(scratch(1, c_out)));
    int rows_n = h / k, cols_n = w / k;
    double *want = scratch_bytes((size_t)rows_n * cols_n * c_out * sizeof *want);
    for (int i = 0; i < rows_n * cols_n; i++)
        for (int o = 0; o < c_out; o++) {
            double s = f32(c.b)[o];
            for (int ch = 0; ch < 3; ch++)
                for (int y = 0; y < k; y++)
                    for (int x = 0; x < k; x++) {
                        int at_x = i % cols_n * k + x, at_y = i / cols_n * k + y;
                        s += (double)f32(image)[(at_y * w + at_x) * 3 + ch]
                             * f32(flat_w)[((o * 3 + ch) * k + y) * k + x];
                    }
            want[i * c_out + o] = s;
        }
    Tensor out = patch_embed(image, &c);
    check(n_rows(out) == rows_n * cols_n && n_cols(out) == c_out, "patch_embed: shape");
    near(out, want, 3 * k * k, "patch_embed");
    scratch_reset(mark);
}

/* Layers trace themselves by the names of their weights. */
static char traced[256];
static void note(void *ctx, const char *name, Tensor t)
{
    (void)ctx;
    size_t n = strlen(traced);
    snprintf(traced + n, sizeof traced - n, "%s %s\n", name, shape_string(t));
}

static void test_trace(void)
{
    size_t mark = scratch_mark();
    Linear up = random_linear(6, 4, F32, true), down = random_linear(4, 6, F32, true);
    up.w.name = "a.fc1.weight";
    down.w.name = "a.fc2";
    Mlp m = { .up = up, .down = down, .act = GELU, .trace = "a.hidden" };
    Tensor x = filled(scratch(2, 4)), y = scratch(2, 4), z = scratch(2, 4), v = scratch(1, 6);
    mlp(y, x, &m);
    *traced = 0;
    trace_to(note, NULL);
    mlp(z, x, &m);
    linear(as_vector(v), as_vector(rows(x, 0, 1)), &up);
    trace_to(NULL, NULL);
    check(!strcmp(traced, "a.fc1 F32 [1, 2, 6]\na.hidden F32 [1, 2, 6]\na.fc1.1 F32 [1, 6]\n"),
          "trace: names and shapes");
    check(same(y, z), "trace changes nothing");
    scratch_reset(mark);
}

static void test_layers(void)
{
    static const int SIZES[][3] = { { 1, 7, 5 }, { 3, 33, 64 }, { 9, 70, 31 }, { 30, 130, 800 } };
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++)
        for (DType type = F32; type <= BF16; type++)
            test_linear(SIZES[i][0], SIZES[i][1], SIZES[i][2], type);
    test_norm(1, 5);
    test_norm(300, 257);
    test_attention(1, 9, 3, 3, 7);
    test_attention(3, 11, 4, 2, 5);
    test_attention(2, 70, 2, 1, 16);
    test_rope(1, 9, 3, 3, 8, 4);
    test_rope(3, 11, 4, 2, 10, 3);
    test_memory(1, 1, 37);
    test_memory(3, 1, 140);
    test_memory(2, 12, 9);
    test_attend();
    test_mlp(3, 40);
    test_mlp(17, 24);
    for (DType type = F32; type <= BF16; type++) test_rows(type);
    test_beyond(-1);
    test_beyond(9);
    test_reorder();
    test_patches(9, 14, 4, 5);
    test_patches(24, 24, 8, 19);
    test_trace();
}

/* === The same bits with any number of threads ================================================= */

static uint64_t hash(uint64_t h, Tensor t)
{
    const unsigned char *p = t.data;
    for (size_t i = 0; i < n_elem(t) * sizeof(float); i++) h = (h ^ p[i]) * 1099511628211u;
    return h;
}

/* A layer of each kind, large enough to be cut into pieces. */
static uint64_t layers_hash(int threads)
{
    threads_start(threads);
    seed = 99;
    Tensor x = filled(scratch3(2, 211, 160)), h = scratch_like(x, 160);
    Attn a = random_attn(160, 160, 5, 5, 32);
    Norm n = { .w = as_vector(filled(scratch(1, 160))), .b = as_vector(filled(scratch(1, 160))),
               .eps = 1e-5f };
    Mlp m = { .up = random_linear(640, 160, BF16, true), .down = random_linear(160, 640, F16, true),
              .act = GELU };
    norm(h, x, &n);
    attention(h, h, &a, (AttnArgs){ .causal = true });
    add(x, h);
    mlp(h, x, &m);
    add(x, h);
    softmax_rows(h);
    uint64_t sum = hash(hash(14695981039346656037u, x), h);
    Tensor row = filled(scratch(3, 160)), out = scratch(3, 640);     /* few rows */
    linear(out, row, &m.up);
    return hash(sum, out);
}

static uint64_t hash_in_child(int threads)
{
    int fd[2];
    uint64_t h = (uint64_t)threads;
    if (pipe(fd)) return h;
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        h = layers_hash(threads);
        _exit(write(fd[1], &h, sizeof h) != sizeof h);
    }
    close(fd[1]);
    if (read(fd[0], &h, sizeof h) != sizeof h) h = (uint64_t)threads;
    close(fd[0]);
    waitpid(child, NULL, 0);
    return h;
}

static void test_threads(void)
{
    uint64_t one = hash_in_child(1);
    check(one != 1 && hash_in_child(2) == one, "two threads: the bits of one");
    check(one != 1 && hash_in_child(7) == one, "seven threads: the bits of one");
}

int main(void)
{
    kernels_init("ref", true);
    level = "ref";
    test_layers();
    test_threads();
    kernels_init(NULL, true);
    level = kernels_level();
    if (strcmp(level, "ref")) {
        test_layers();
        test_threads();
    }
    printf("nn: %d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed > 0;
}
