/* sample.c -- tests of sample.c: greedy and beam search on toy models, against the sequences and
 * scores that transformers finds (test/data/beams.txt, made by test/reference/beams.py, which
 * describes the models and the file). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../mm.h"

static int n_passed, n_failed;

enum { MAX_BEAMS = 8, MAX_LEN = 64, MAX_VOCAB = 60 };
static const int END[] = { 0, 1 };
#define END_0 .end = END, .n_end = 1

typedef struct {
    long long seed;
    int   n_vocab;
    double spread, bonus;
    int   len, n_beams;
    int   id[MAX_BEAMS][MAX_LEN];            /* what each beam has read so far */
    float logits[MAX_BEAMS * MAX_VOCAB];
} Toy;

static void toy_logits(float *out, const Toy *t, int a, int b)
{
    uint64_t state = ((uint64_t)t->seed * 1000003 + (uint64_t)a) * 1000003 + (uint64_t)b;
    for (int i = 0; i < t->n_vocab; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        double logit = (double)(state >> 40) / (1 << 24) * t->spread;
        out[i] = (float)(i ? logit : logit + t->bonus);
    }
}

/* The toy keeps all tokens of its beams, as a model keeps keys and values: `from` must be right. */
static Tensor toy_step(void *model, const int *id, int n_beams, int n, const int *from)
{
    Toy *t = model, old = *t;
    for (int i = 0; i < n_beams; i++) {
        if (from) memcpy(t->id[i], old.id[from[i]], sizeof t->id[i]);
        memcpy(t->id[i] + t->len, id + i * n, (size_t)n * sizeof(int));
        int len = t->len + n;
        toy_logits(t->logits + i * t->n_vocab, t, t->id[i][len - 2], t->id[i][len - 1]);
    }
    t->len += n;
    t->n_beams = n_beams;
    return (Tensor){ .data = t->logits, .dtype = F32, .ndim = 2, .dim = { n_beams, t->n_vocab } };
}

static void check_line(const char *line)
{
    Toy *t = scratch_bytes(sizeof *t);
    *t = (Toy){ 0 };
    GenOptions o = { .logprobs = 2, .end = END, .n_end = 1 };
    int prompt[2], used = 0;
    if (sscanf(line, "%lld %d %lf %lf %d %d %d %d | %n", &t->seed, &t->n_vocab, &t->spread,
               &t->bonus, &o.beams, &o.max_tokens, &prompt[0], &prompt[1], &used) != 8 || !used) {
        n_failed++;
        printf("failed: not a case: %s\n", line);
        return;
    }
    Decoder dec = { .step = toy_step, .model = t, .max_len = MAX_LEN };
    Generated g = generate(&dec, prompt, 2, o);
    char *s = (char *)line + used;
    int n = 0;
    bool same = true;
    for (; *s != '|'; n++, s += strspn(s, " ")) {
        long id = strtol(s, &s, 10);
        same = same && n < g.n && g.id[n] == id;
    }
    double want = strtod(s + 1, NULL), sum = 0;
    for (int i = 0; i < g.n - 2; i++) {
        sum += (double)g.info[i].chosen.logprob;
        same = same && g.info[i].chosen.id == g.id[i + 2];
    }
    same = same && n == g.n && fabs(sum / (g.n - 2) - want) < 1e-5 && !g.full &&
           g.stopped == (g.id[g.n - 1] == 0) && (g.stopped || g.n == 2 + o.max_tokens);
    same ? n_passed++ : n_failed++;
    if (same) return;
    printf("failed: %s    got", line);
    for (int i = 0; i < g.n; i++) printf(" %d", g.id[i]);
    printf(" | %f\n", sum / (g.n - 2));
}

/* What has no answer in the file: the limits. */
static void check_limits(int beams)
{
    Toy *t = scratch_bytes(sizeof *t);
    *t = (Toy){ .seed = 5, .n_vocab = 17, .spread = 1, .bonus = -9 };
    Decoder dec = { .step = toy_step, .model = t, .max_len = 10 };
    int prompt[] = { 3, 4 };
    GenOptions o = { .max_tokens = 20, .beams = beams, END_0 };
    Generated g = generate(&dec, prompt, 2, o);
    bool ok = g.n == 10 && g.full && !g.stopped;
    t->len = 0;
    g = generate(&dec, prompt, 2, (GenOptions){ .max_tokens = 0, .beams = beams, END_0 });
    ok = ok && g.n == 2 && !g.full && !g.stopped;
    t->len = 0;
    dec.max_len = 2;
    g = generate(&dec, prompt, 2, (GenOptions){ .max_tokens = 3, .beams = beams, END_0 });
    ok = ok && g.n == 2 && g.full;
    ok ? n_passed++ : n_failed++;
    if (!ok) printf("failed: limits with %d beams\n", beams);
}

/* More beams than tokens, and nothing but the end token. */
static void check_small(void)
{
    Toy *t = scratch_bytes(sizeof *t);
    int prompt[] = { 1, 1 };
    for (int n_vocab = 1; n_vocab <= 3; n_vocab++) {
        *t = (Toy){ .seed = 5, .n_vocab = n_vocab, .spread = 1 };
        Decoder dec = { .step = toy_step, .model = t, .max_len = MAX_LEN };
        Generated g = generate(&dec, prompt, 2, (GenOptions){ .max_tokens = 5, .beams = MAX_BEAMS,
                                                              .logprobs = 9, END_0 });
        bool ok = g.n > 2 && g.n <= 7 && g.stopped == (g.id[g.n - 1] == 0);
        ok ? n_passed++ : n_failed++;
        if (!ok) printf("failed: %d beams of a vocabulary of %d\n", MAX_BEAMS, n_vocab);
    }
}

/* Next to no temperature is none, also where a quotient is too large for a float. */
static void check_cold(void)
{
    Toy *t = scratch_bytes(sizeof *t);
    int prompt[] = { 3, 4 }, id[2][10];
    for (int cold = 0; cold < 2; cold++) {
        *t = (Toy){ .seed = 5, .n_vocab = 17, .spread = 100, .bonus = -99 };
        Decoder dec = { .step = toy_step, .model = t, .max_len = 10 };
        Generated g = generate(&dec, prompt, 2, (GenOptions){ .max_tokens = 8,
                                                              .temp = cold ? 1e-38f : 0 });
        memcpy(id[cold], g.id, sizeof id[cold]);
    }
    bool ok = memcmp(id[0], id[1], sizeof id[0]) == 0;
    ok ? n_passed++ : n_failed++;
    if (!ok) printf("failed: a temperature of 1e-38 is another than 0\n");
}

int main(void)
{
    FILE *f = fopen("test/data/beams.txt", "r");
    if (!f) die(EXIT_INPUT, "test/data/beams.txt: cannot be read");
    for (char line[1024]; fgets(line, sizeof line, f); ) {
        size_t mark = scratch_mark();
        check_line(line);
        scratch_reset(mark);
    }
    fclose(f);
    check_limits(1);
    check_limits(4);
    check_small();
    check_cold();
    printf("sample: %d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed > 0;
}
