/* attention.c -- scaled dot-product attention, cut into pieces. */
#include "kernels.h"

#include <math.h>
#include <string.h>

enum { KEYS = 128, ROWS = 32 };

typedef struct {
    const Attention *a;
    int group_rows;         /* rows of queries that share keys and values */
    int n_blocks;           /* blocks of ROWS rows of them */
    float *work;
} Job;

static int min(int a, int b) { return a < b ? a : b; }

/* keys that row i of an item may look at */
static int visible(const Attention *a, int i)
{
    int n = a->causal ? i + 1 + a->n_kv - a->n_q : a->n_kv;
    return n < 0 ? 0 : min(n, a->n_kv);
}

static void row_task(const Attention *a, int group, int row, int h, float *s)
{
    int hd = a->head_dim, ld = a->n_heads * hd, ldkv = a->n_kv_heads * hd;
    int i = row % a->n_q, n = visible(a, i);
    size_t at = ((size_t)group * (a->kv_stride ? a->n_q : 0) + row) * ld + (size_t)h * hd;
    size_t kv = group * a->kv_stride + (size_t)(h / (a->n_heads / a->n_kv_heads)) * hd;
    float *out = a->out + at, max = -INFINITY, sum = 0;
    memset(out, 0, (size_t)hd * sizeof *out);
    for (int j = 0; j < n; j += KEYS) {
        int keys = min(KEYS, n - j);
        kernel.few[F32](s, KEYS, a->q + at, ld, a->k + kv + (size_t)j * ldkv, ldkv, 1, keys, hd);
        kernel.scale(s, a->scale, keys);
        if (a->bias)
            kernel.add(s, a->bias + ((size_t)(a->bias_heads > 1 ? h : 0) * a->n_q + i) * a->n_kv + j,
                       keys);
        float m = kernel.max(s, keys);
        m = m > max ? m : max;
        if (m == -INFINITY)
            continue;
        float shrink = expf(max - m);
        sum = sum * shrink + kernel.exp_sum(s, s, m, keys);
        kernel.scale(out, shrink, hd);
        kernel.mix(out, s, a->v + kv + (size_t)j * ldkv, ldkv, keys, hd);
        max = m;
    }
    if (sum > 0)
        kernel.scale(out, 1 / sum, hd);
}

static void task(void *ctx, int t, int worker)
{
    const Job *job = ctx;
    int block = t % job->n_blocks, h = t / job->n_blocks % job->a->n_heads;
    int group = t / job->n_blocks / job->a->n_heads;
    int end = min((block + 1) * ROWS, job->group_rows);
    for (int row = block * ROWS; row < end; row++)
        row_task(job->a, group, row, h, job->work + worker * KEYS);
}

void attention_heads(const Attention *a)
{
    size_t mark = scratch_mark();
    int groups = a->kv_stride ? a->n_items : 1;
    Job job = { .a = a, .group_rows = a->kv_stride ? a->n_q : a->n_items * a->n_q };
    job.n_blocks = (job.group_rows + ROWS - 1) / ROWS;
    job.work = scratch_bytes((size_t)n_threads() * KEYS * sizeof(float));
    parallel_for(groups * a->n_heads * job.n_blocks, task, &job);
    scratch_reset(mark);
}
