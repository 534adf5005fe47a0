/* quality.c -- what weights of 8 and 4 bits cost a real model: the figures of quant.c, measured.
 *
 *   test/quality [TEXTS]     over so many texts of 200 tokens (2; the figures of quant.c: 8)
 *
 * stories15M (MM_ASSETS, default ../shared/assets) writes the texts itself, drawn at random with
 * the seeds 1, 2, ... Then it reads them with its weights as they are, and quantised. Of all tokens
 * that could come next it gives the probabilities p and q:
 *
 *   cost = sum over v of p(v) |log p(v) - log q(v)|, mean over the tokens
 *
 * tells, in nats, how far the probabilities that matter are off. Over eight texts that is
 * 0.0225 and 0.180, over the first alone 0.0187 and 0.166: hence the limits, half and half as much
 * again. A matrix that is chosen, encoded or multiplied wrongly changes it by more. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/kernels.h"
#include "../mm.h"

enum { LENGTH = 200, MOST_TEXTS = 8 };

static Generated text[MOST_TEXTS];

static Llama *load(const char *dir, DType type)
{
    size_t n;
    char *config = model_file(dir, "config.json", 1 << 20, &n);
    quant_at_load(type);
    return llama_load(ckpt_open(dir), json_parse("config.json", config, n, 64, EXIT_FILE));
}

/* log p from logits; both [n]. */
static void log_softmax(float *y, const float *x, int n)
{
    float most = kernel.max(x, n), sum = kernel.exp_sum(y, x, most, n);
    for (int v = 0; v < n; v++) y[v] = x[v] - most - logf(sum);
}

/* The mean cost of reading the first n texts with q in place of p. */
static double cost(Llama *p, Llama *q, int n)
{
    double sum = 0, tokens = 0;
    int n_vocab = llama_vocab(p);
    Session *sp = session_new(p, (SessionOptions){ 0 });
    Session *sq = session_new(q, (SessionOptions){ 0 });
    float *lp = f32(scratch(1, n_vocab)), *lq = f32(scratch(1, n_vocab));
    for (int t = 0; t < n; t++) {
        session_clear(sp);
        session_clear(sq);
        for (int i = 0; i < text[t].n; i++) {
            log_softmax(lp, f32(session_read(sp, &text[t].id[i], 1)), n_vocab);
            log_softmax(lq, f32(session_read(sq, &text[t].id[i], 1)), n_vocab);
            for (int v = 0; v < n_vocab; v++)
                if (lp[v] > -20) sum += (double)expf(lp[v]) * fabsf(lp[v] - lq[v]);
        }
        tokens += text[t].n;
    }
    return sum / tokens;
}

int main(int argc, char **argv)
{
    static const struct { DType type; double cost; } WANT[] = { { Q8, 0.0225 }, { Q4, 0.180 } };
    static const int BEGIN = 1, END = 2;
    int n = argc > 1 ? atoi(argv[1]) : 2, passed = 0;
    const char *assets = getenv("MM_ASSETS");
    size_t size;
    kernels_init(getenv("MM_CPU"), false);
    threads_start(0);
    const char *dir = keep_string("%s/models/stories15M", assets ? assets : "../shared/assets");
    if (!model_file(dir, "config.json", 1 << 20, &size)) {
        printf("skipped: %s is not there\nquality: 0 passed, 0 failed, 1 skipped\n", dir);
        return 0;
    }
    Llama *plain = load(dir, OTHER);
    for (int t = 0; t < MOST_TEXTS && t < n; t++) {
        GenOptions o = { .max_tokens = LENGTH, .temp = 1, .seed = (uint64_t)t + 1, .end = &END,
                         .n_end = 1 };
        text[t] = session_generate(session_new(plain, (SessionOptions){ 0 }), &BEGIN, 1, o);
    }
    for (int i = 0; i < 2; i++) {
        double c = cost(plain, load(dir, WANT[i].type), n < MOST_TEXTS ? n : MOST_TEXTS);
        bool ok = c > WANT[i].cost / 2 && c < WANT[i].cost * 1.5;
        printf("%s%s: log probabilities are off by %.4f\n", ok ? "" : "failed: ",
               dtype_name(WANT[i].type), c);
        passed += ok;
    }
    printf("quality: %d passed, %d failed, 0 skipped\n", passed, 2 - passed);
    return passed < 2;
}
