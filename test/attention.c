/* attention.c -- attention and its steps at every level against their definitions, in the manner of
 * checkasm (check.h).
 *
 *   test/attention [--isa LEVEL] [--cases N] [--seed S]
 *
 * Whole attentions: few queries and many, causal or not, with a bias, masked rows, heads that
 * share keys, items that do, items of several lengths, keys in three types. Each row is computed
 * once more in double; the bound follows from what goes wrong in a score. The steps: transposition,
 * and the three kernels in which queries are lanes. */
#include "check.h"

/* === Attention, step by step ================================================================== */

static void test_transpose(int unused)
{
    (void)unused;
    int m = size(70), n = size(140), ldf = n + below(4), ldt = m + below(4);
    float s = below(2) ? 1 : uniform();
    snprintf(shape, sizeof shape, "m %d n %d ldf %d ldt %d", m, n, ldf, ldt);
    float *from = random_rows(m, n, ldf, 1), *to = floats((size_t)n * ldt);
    kernel.transpose(to, ldt, from, ldf, m, n, s);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
            equal((long)i * n + j, to[(size_t)j * ldt + i], s * from[(size_t)i * ldf + j]);
    check_gaps(to, n, m, ldt);
}

/* Lanes that a kernel may touch, and [n, lanes] of which the others stay NaN. */
static int touched(int n_lanes)
{
    return round_up(n_lanes, kernel.lane_step);
}

static void test_lane_scores(int unused)
{
    (void)unused;
    int l = 1 + below(kernel.lanes), n = size(100), d = size(200), ldk = d + below(4);
    int lanes = kernel.lanes, all = touched(l);
    snprintf(shape, sizeof shape, "lanes %d n %d d %d ldk %d", l, n, d, ldk);
    float *Q = random_rows(d, all, lanes, 1), *K = random_rows(n, d, ldk, 1);
    float *S = floats((size_t)n * lanes);
    kernel.lane_scores(S, Q, K, ldk, l, n, d);
    for (int j = 0; j < n; j++)
        for (int i = 0; i < l; i++) {
            double sum = 0, abs = 0;
            for (int c = 0; c < d; c++) {
                double t = (double)K[(size_t)j * ldk + c] * Q[(size_t)c * lanes + i];
                sum += t, abs += fabs(t);
            }
            near((long)j * lanes + i, S[(size_t)j * lanes + i], sum, gamma_n(d + 1) * abs + TINY);
        }
    check_gaps(S, n, all, lanes);
}

/* Weights within 2.5 ulp of the power of the difference, which is rounded itself. */
static void test_lane_soften(int unused)
{
    (void)unused;
    int l = 1 + below(kernel.lanes), n = size(100), lanes = kernel.lanes, all = touched(l);
    bool masked = below(2);
    snprintf(shape, sizeof shape, "lanes %d n %d%s", l, n, masked ? " masked" : "");
    float *S = random_rows(n, all, lanes, below(2) ? 9.0f : 200.0f), *max = random_floats(all, 9);
    float *before = floats((size_t)n * lanes), *sum = random_floats(all, 1), *shrink = floats(all);
    float *old_max = floats(all), *old_sum = floats(all);
    int *seen = take((size_t)all * sizeof *seen, sizeof *seen);
    for (int i = 0; i < all; i++) {
        seen[i] = below(n + 4) - 2;
        if (below(3) == 0) max[i] = -INFINITY, sum[i] = 0;
        sum[i] = fabsf(sum[i]);
        for (int j = 0; j < n; j++)
            if (below(9) == 0 || i % 13 == 5) S[(size_t)j * lanes + i] = -INFINITY;
    }
    memcpy(before, S, (size_t)n * lanes * sizeof *S);
    memcpy(old_max, max, all * sizeof *max);
    memcpy(old_sum, sum, all * sizeof *sum);
    kernel.lane_soften(S, max, sum, shrink, masked ? seen : NULL, l, n);
    for (int i = 0; i < l; i++) {
        int n_seen = !masked ? n : seen[i] < 0 ? 0 : min(seen[i], n);
        float m = old_max[i];
        for (int j = 0; j < n_seen; j++)
            m = fmaxf(m, before[(size_t)j * lanes + i]);
        equal(i, max[i], m);
        m = m == -INFINITY ? 0 : m;
        double want = exp2((double)(old_max[i] - m)), total = old_sum[i] * want;
        near(i, shrink[i], want, 2.5 * 2 * U * want + 0x1p-125);
        for (int j = 0; j < n; j++) {
            want = j < n_seen ? exp2((double)(before[(size_t)j * lanes + i] - m)) : 0;
            near((long)j * lanes + i, S[(size_t)j * lanes + i], want,
                 want > 0 ? 5 * U * want + 0x1p-125 : 0);
            total += want;
        }
        near(i, sum[i], total, gamma_n(n + 8) * total + (n + 1) * 0x1p-125);
    }
}

static void test_lane_mix(int unused)
{
    (void)unused;
    int l = 1 + below(kernel.lanes), n = size(100), d = size(200), ldv = d + below(4);
    int lanes = kernel.lanes, all = touched(l);
    snprintf(shape, sizeof shape, "lanes %d n %d d %d ldv %d", l, n, d, ldv);
    float *S = random_rows(n, all, lanes, 1), *V = random_rows(n, d, ldv, 1);
    float *out = random_rows(d, all, lanes, 1), *before = floats((size_t)d * lanes);
    float *shrink = random_floats(all, 1);
    memcpy(before, out, (size_t)d * lanes * sizeof *out);
    kernel.lane_mix(out, shrink, S, V, ldv, l, n, d);
    for (int c = 0; c < d; c++)
        for (int i = 0; i < l; i++) {
            double sum = (double)before[(size_t)c * lanes + i] * shrink[i], abs = fabs(sum);
            for (int j = 0; j < n; j++) {
                double t = (double)V[(size_t)j * ldv + c] * S[(size_t)j * lanes + i];
                sum += t, abs += fabs(t);
            }
            near((long)c * lanes + i, out[(size_t)c * lanes + i], sum,
                 gamma_n(n + 2) * abs + TINY);
        }
    check_gaps(out, d, all, lanes);
}

/* === The whole ================================================================================ */

/* One row of one head, in double. bound[c]: a score is off by s (a dot product and the bias); a
 * weight then by 2 s relatively, and by its difference to the maximum, exp and the sums. */
static void attend_exact(const Attention *a, int item, int i, int h, double *out, double *bound)
{
    int hd = a->head_dim, ld = a->n_heads * hd, n_kv = a->kv_len ? a->kv_len[item] : a->n_kv;
    int ldkv = a->kv_row ? a->kv_row : a->n_kv_heads * hd;
    const float *q = a->q + ((size_t)item * a->n_q + i) * ld + (size_t)h * hd;
    size_t kv = item * a->kv_stride + (size_t)(h / (a->n_heads / a->n_kv_heads)) * hd;
    int n = a->causal ? i + 1 + n_kv - a->n_q : n_kv;
    double *s = calloc((size_t)a->n_kv, sizeof *s), max = -INFINITY, min = INFINITY, off = 0;
    double sum = 0;
    for (int j = 0; j < n; j++) {
        double dot = 0, abs = 0, b = 0;
        for (int c = 0; c < hd; c++) {
            double t = (double)q[c] * weight_at(a->k, a->kv_type, kv + (size_t)j * ldkv + c);
            dot += t, abs += fabs(t);
        }
        if (a->bias)
            b = a->bias[((size_t)(a->bias_heads > 1 ? h : 0) * a->n_q + i) * a->n_kv + j];
        s[j] = dot * (double)a->scale + b;
        if (isinf(b))
            continue;
        double err = gamma_n(hd + 4) * abs * (double)a->scale + 2 * U * fabs(b);
        off = err > off ? err : off;
        max = s[j] > max ? s[j] : max;
        min = s[j] < min ? s[j] : min;
    }
    memset(out, 0, (size_t)hd * sizeof *out);
    memset(bound, 0, (size_t)hd * sizeof *bound);
    for (int j = 0; j < n && max > -INFINITY; j++)
        sum += s[j] = exp(s[j] - max);
    for (int j = 0; j < n && sum > 0; j++)
        for (int c = 0; c < hd; c++) {
            double t = s[j] / sum * weight_at(a->v, a->kv_type, kv + (size_t)j * ldkv + c);
            out[c] += t, bound[c] += fabs(t);
        }
    double rel = 2.1 * off + 2 * gamma_n(a->n_kv + 40) + 2 * U * (max > min ? max - min : 0);
    for (int c = 0; c < hd; c++)
        bound[c] = bound[c] * rel + 0x1p-110;
    free(s);
}

/* Keys or values of all items, rows ld apart, of which d numbers count. */
static void *random_keys(DType type, int rows, int d, int ld)
{
    return random_weights(type, rows, d, ld);
}

/* A bias with masked places; rows are masked altogether, sometimes. */
static float *random_bias(const Attention *a)
{
    size_t n = (size_t)a->bias_heads * a->n_q * a->n_kv;
    float *bias = random_floats(n, 3);
    int whole_row = below(a->n_q);
    for (size_t i = 0; i < n; i++)
        if (below(6) == 0 || (whole_row % 3 == 0 && (int)(i / a->n_kv) % a->n_q == whole_row))
            bias[i] = -INFINITY;
    return bias;
}

static void test_attention(int type)
{
    int kv_heads = 1 + below(3), heads = kv_heads * (1 + below(3)), hd = size(90);
    int items = 1 + below(3), len[3];
    bool causal = below(2), shared = below(3) == 0, uneven = !shared && below(3) == 0;
    int n_q = below(2) ? 1 + below(4) : size(90), n_kv = below(5) ? size(150) : 500 + below(150);
    n_kv = causal && n_kv < n_q ? n_q : n_kv;
    int d = heads * hd, dkv = kv_heads * hd, bias_heads = below(2) ? 1 : heads;
    int row = dkv + (below(2) ? below(5) : 0), more = below(3);
    snprintf(shape, sizeof shape, "items %d n_q %d n_kv %d heads %d kv_heads %d head_dim %d%s%s%s "
             "bias_heads %d row %d", items, n_q, n_kv, heads, kv_heads, hd,
             causal ? " causal" : "", shared ? " shared" : "", uneven ? " uneven" : "", bias_heads,
             row);
    size_t stride = shared ? 0 : (size_t)(n_kv + more) * row, width = type == F32 ? 4 : 2;
    size_t q_floats = (size_t)items * n_q * d;
    int kv_rows = stride ? items * (n_kv + more) : n_kv;
    Attention a = { .out = floats(q_floats), .q = random_floats(q_floats, 2),
                    .k = random_weights(type, kv_rows, dkv, row),
                    .v = random_weights(type, kv_rows, dkv, row), .kv_type = type,
                    .kv_row = row > dkv ? row : 0, .kv_stride = stride, .bias_heads = bias_heads,
                    .n_items = items, .n_q = n_q, .n_kv = n_kv, .n_heads = heads,
                    .n_kv_heads = kv_heads, .head_dim = hd, .scale = 1 / sqrtf((float)hd),
                    .causal = causal };
    for (int i = 0; i < items; i++)
        len[i] = causal ? n_q + below(n_kv - n_q + 1) : 1 + below(n_kv);
    if (uneven) a.kv_len = len;
    if (below(2)) a.bias = random_bias(&a);
    attention_heads(&a);
    for (int t = 0; t < 30; t++) {
        double out[128], bound[128];
        int item = below(items), i = below(n_q), h = below(heads);
        attend_exact(&a, item, i, h, out, bound);
        for (int c = 0; c < hd; c++) {
            long at = ((long)item * n_q + i) * d + h * hd + c;
            near(at, a.out[at], out[c], bound[c]);
        }
    }
    float *all = a.out;                         /* the last item is the same alone */
    size_t last = (size_t)(items - 1) * n_q * d;
    a.out = floats((size_t)n_q * d);
    a.q += last;
    a.k = (const char *)a.k + (items - 1) * stride * width;
    a.v = (const char *)a.v + (items - 1) * stride * width;
    a.n_items = 1;
    if (uneven) a.kv_len = len + items - 1;
    attention_heads(&a);
    for (int i = 0; i < n_q * d; i++)
        equal(i, a.out[i], all[last + i]);
}

/* === The table of tests ======================================================================= */

static const SlotTest TESTS[] = {
    { "transpose", test_transpose, 0, 4 }, { "lane_scores", test_lane_scores, 0, 8 },
    { "lane_soften", test_lane_soften, 0, 4 }, { "lane_mix", test_lane_mix, 0, 8 },
    { "attention f32", test_attention, F32, 2 }, { "attention f16", test_attention, F16, 8 },
    { "attention bf16", test_attention, BF16, 8 },
};
enum { N_TESTS = sizeof TESTS / sizeof *TESTS };

/* === Threads ================================================================================== */

/* A digest of attentions of many shapes. */
static uint64_t digest(void)
{
    uint64_t h = NO_FLOATS;
    for (int t = 0; t < of_digest(24); t++) {
        state = 77 + t;
        int m = t % 2 ? 1 + below(3) : 17 + below(250), d = 24, n_kv = t % 3 ? 300 : 2000;
        int kv_heads = t % 4 ? 3 : 1;
        DType kv_type = t % 5 ? F32 : F16;
        Attention a = { .out = floats((size_t)m * 3 * d), .q = random_floats((size_t)m * 3 * d, 1),
                        .k = random_weights(kv_type, n_kv, kv_heads * d, kv_heads * d),
                        .v = random_weights(kv_type, n_kv, kv_heads * d, kv_heads * d),
                        .kv_type = kv_type, .n_items = 1, .n_q = m, .n_kv = n_kv, .n_heads = 3,
                        .n_kv_heads = kv_heads, .head_dim = d, .scale = 0.3f, .causal = t & 1 };
        attention_heads(&a);
        h = hash_floats(h, a.out, (size_t)m * 3 * d);
        release();
    }
    return h;
}

static void test_level(const char *level)
{
    uint64_t want = 0;
    if (!only_seed) test_threads(level, digest, &want);
    kernels_init(level, false);
    run_slots(TESTS, N_TESTS);
}

int main(int argc, char **argv)
{
    return run_levels("attention", argc, argv, test_level);
}
