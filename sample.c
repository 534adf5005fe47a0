/* sample.c -- from logits to tokens: greedy, sampling and beam search.
 *
 * Greedy takes the likeliest token. Sampling draws one, after what is unlikely has been left out
 * (top-k, nucleus of arXiv 1904.09751, min-p of 2407.01082), in the order of transformers:
 *
 *   logits [n_vocab] -> / repeat_penalty for tokens that are there already (1909.05858)
 *   -> / temp -> top_k -> top_p -> min_p -> softmax -> rng_choose
 *
 * Beam search keeps the n_beams likeliest beginnings; it is
 * that of transformers' GenerationMixin._beam_search, step by step:
 *
 *   logits [n_live, n_vocab] -> log softmax, repeat_penalty, + score of the beam
 *   -> the best 2*n_beams candidates of all beams (more for several end tokens), best first
 *      those that end, if among the first n_beams:  finished, with score / length^length_penalty
 *      the first n_beams of the others:             live on
 *   until no live beam can overtake the worst of n_beams finished ones, or all are at their limit
 *
 * Easy to get wrong:
 *   - repeat_penalty divides what is positive and multiplies what is negative.
 *   - top_k keeps all that equal the k-th; top_p keeps the token that passes the limit.
 *   - A candidate that ends but is not among the first n_beams is thrown away.
 *   - At the limit every candidate ends, whatever its token, and the rule above still holds.
 *   - The stopping rule divides by the length that the beams have after the step, and waits until
 *     n_beams sequences have finished.
 *   - Of equal scores the first wins: lower beam, then lower token. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mm.h"

/* A sequence on its way: its ids, prompt and all, and what is to be told of its new tokens. */
typedef struct {
    int       *id;
    TokenInfo *info;
    int        n;
    float      score;            /* sum of log-probabilities; once finished: divided by length */
    bool       stopped;          /* its last token is an end token */
    bool       halted;           /* GenOptions.put said so */
} Beam;

typedef struct {
    const Decoder *dec;
    GenOptions     o;
    int            n_prompt, max_len;
    unsigned char *seen;         /* for repeat_penalty: a bit per token of the vocabulary */
    Rng           *rng;          /* for sampling, with room for: */
    float         *score, *copy; /* [n_vocab] */
    struct Candidate *order;     /* [n_vocab] */
} Search;

static bool ends(const Search *s, int id)
{
    for (int i = 0; i < s->o.n_end; i++)
        if (s->o.end[i] == id) return true;
    return false;
}

/* === Probabilities ============================================================================ */

/* p = log softmax of logits. The sum is taken in double: 30,000 small terms. */
static void log_softmax(float *p, const float *logits, int n)
{
    float max = logits[0];
    for (int i = 1; i < n; i++) max = logits[i] > max ? logits[i] : max;
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)expf(logits[i] - max);
    float log_sum = (float)log(sum);
    for (int i = 0; i < n; i++) p[i] = logits[i] - max - log_sum;
}

/* The first of the largest, as torch.argmax. */
static int argmax(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++) best = x[i] > x[best] ? i : best;
    return best;
}

typedef struct Candidate { int64_t at; float score; } Candidate;

/* Puts (at, score) into best[0 .. *n_best-1], which is sorted, best first, and holds at most k. */
static void rank_in(Candidate *best, int *n_best, int k, int64_t at, float score)
{
    if (*n_best == k && !(score > best[k - 1].score)) return;
    int i = *n_best < k ? (*n_best)++ : k - 1;
    for (; i > 0 && score > best[i - 1].score; i--) best[i] = best[i - 1];
    best[i] = (Candidate){ at, score };
}

/* What to tell of a token that was chosen among log-probabilities p: itself and the k best. */
static TokenInfo token_info(const float *p, int n_vocab, int id, int k)
{
    if (k > n_vocab) k = n_vocab;
    TokenInfo info = { .chosen = { id, p[id] } };
    if (k < 1) return info;
    Candidate *best = scratch_bytes((size_t)k * sizeof *best);
    int n_best = 0;
    for (int i = 0; i < n_vocab; i++) rank_in(best, &n_best, k, i, p[i]);
    info.top = scratch_bytes((size_t)k * sizeof *info.top);
    for (int i = 0; i < k; i++) info.top[i] = (TokenProb){ (int)best[i].at, best[i].score };
    return info;
}

/* === Beams ==================================================================================== */

static Beam beam_new(const Search *s)
{
    return (Beam){ .id   = scratch_bytes(mul_size((size_t)s->max_len, sizeof(int))),
                   .info = scratch_bytes(mul_size((size_t)s->max_len, sizeof(TokenInfo))) };
}

static Beam *beams_new(const Search *s, int n)
{
    Beam *b = scratch_bytes(mul_size((size_t)n, sizeof *b));
    for (int i = 0; i < n; i++) b[i] = beam_new(s);
    return b;
}

/* to becomes what `from` is; both keep their own memory. */
static void beam_copy(Beam *to, const Beam *from, int n_prompt)
{
    memcpy(to->id, from->id, (size_t)from->n * sizeof(int));
    memcpy(to->info, from->info, (size_t)(from->n - n_prompt) * sizeof(TokenInfo));
    to->n = from->n;
    to->score = from->score;
    to->stopped = from->stopped;
}

static void beam_append(Beam *b, const Search *s, int id, TokenInfo info)
{
    b->info[b->n - s->n_prompt] = info;
    b->id[b->n++] = id;
    b->stopped = ends(s, id);
}

static Generated generated(const Beam *b, const Search *s)
{
    return (Generated){
        .id = b->id, .n = b->n, .n_prompt = s->n_prompt,
        .stopped = b->stopped, .halted = b->halted && !b->stopped,
        .full = !b->stopped && !b->halted && b->n == s->dec->max_len &&
                b->n - s->n_prompt < s->o.max_tokens,
        .info = s->o.logprobs ? b->info : NULL,
    };
}

/* === Choosing a token ========================================================================= */

/* Tokens that are there already become less likely; once each, however often they are there. What
 * stands for a row of a picture (id < 0) is no token. */
static void penalize(const Search *s, float *score, int n_vocab, const int *id, int n)
{
    float p = s->o.repeat_penalty;
    if (!s->seen) return;
    memset(s->seen, 0, ((size_t)n_vocab + 7) / 8);
    for (int i = 0; i < n; i++) {
        int t = id[i], bit = 1 << (t & 7);
        if (t < 0 || t >= n_vocab || (s->seen[t >> 3] & bit)) continue;
        s->seen[t >> 3] |= (unsigned char)bit;
        score[t] = score[t] < 0 ? score[t] * p : score[t] / p;
    }
}

/* The k-th largest of x (k from 1), by Hoare's quickselect; x is left in another order. */
static float kth_largest(float *x, int n, int k)
{
    int lo = 0, hi = n - 1, want = k - 1;
    while (lo < hi) {
        float pivot = x[lo + (hi - lo) / 2];
        int i = lo, j = hi;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i > j) break;
            float t = x[i];
            x[i++] = x[j];
            x[j--] = t;
        }
        if (want <= j) hi = j;
        else if (want >= i) lo = i;
        else break;
    }
    return x[want];
}

static int worse_first(const void *a, const void *b)
{
    const Candidate *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Leaves out the unlikeliest, as long as all that is left out is at most 1 - top_p together. What
 * is below (1 - top_p) / n by itself is left out without looking where it would stand: n such
 * shares are not enough. So few are left to be sorted. */
static void keep_nucleus(const Search *s, float *score, int n)
{
    float max = score[argmax(score, n)];
    double sum = 0, limit = 1 - (double)s->o.top_p, out = 0;
    for (int i = 0; i < n; i++) sum += (double)expf(score[i] - max);
    float small = (float)(limit * sum / n) * 0.99f;          /* 0.99: rounding of exp */
    int n_order = 0;
    for (int i = 0; i < n; i++) {
        float e = expf(score[i] - max);
        if (e < small) {
            out += (double)e / sum;
            score[i] = -INFINITY;
        } else if (score[i] > -INFINITY) {
            s->order[n_order++] = (Candidate){ i, score[i] };
        }
    }
    qsort(s->order, (size_t)n_order, sizeof *s->order, worse_first);
    for (int i = 0; i < n_order - 1; i++) {
        out += (double)expf(s->order[i].score - max) / sum;
        if (out > limit) break;
        score[s->order[i].at] = -INFINITY;
    }
}

/* Draws a token from scores that are penalised already; they are spoilt. */
static int draw(const Search *s, float *score, int n)
{
    const GenOptions *o = &s->o;
    int best = argmax(score, n);
    if (!isfinite(score[best] / o->temp)) return best;       /* next to no temperature */
    for (int i = 0; i < n; i++) score[i] /= o->temp;
    if (o->top_k > 0 && o->top_k < n) {
        memcpy(s->copy, score, (size_t)n * sizeof *score);
        float least = kth_largest(s->copy, n, o->top_k);
        for (int i = 0; i < n; i++)
            if (score[i] < least) score[i] = -INFINITY;
    }
    if (o->top_p > 0 && o->top_p < 1) keep_nucleus(s, score, n);
    float max = score[argmax(score, n)];
    double sum = 0;
    for (int i = 0; i < n; i++) {
        float e = expf(score[i] - max);
        score[i] = e < o->min_p ? 0 : e;
        sum += (double)score[i];
    }
    for (int i = 0; i < n; i++) score[i] = (float)(score[i] / sum);
    return rng_choose(s->rng, score, n);
}

/* The next token after the sequence b. */
static int choose(const Search *s, const Beam *b, Tensor logits)
{
    int n = n_cols(logits);
    if (!s->score) return argmax(f32(logits), n);
    memcpy(s->score, logits.data, (size_t)n * sizeof(float));
    penalize(s, s->score, n, b->id, b->n);
    return s->rng ? draw(s, s->score, n) : argmax(s->score, n);
}

/* Room for what the options ask for, when the size of the vocabulary is known. */
static void prepare(Search *s, int n_vocab)
{
    size_t n = (size_t)n_vocab;
    bool penalty = s->o.repeat_penalty > 0 && s->o.repeat_penalty != 1, sample = s->o.temp > 0;
    if (penalty) s->seen = scratch_bytes(n / 8 + 1);
    if (penalty || sample) s->score = scratch_bytes(mul_size(n, sizeof *s->score));
    if (!sample) return;
    s->copy  = scratch_bytes(mul_size(n, sizeof *s->copy));
    s->order = scratch_bytes(mul_size(n, sizeof *s->order));
    s->rng   = scratch_bytes(sizeof *s->rng);
    rng_seed(s->rng, s->o.seed);
}

/* === One sequence ============================================================================= */

/* The prompt goes in at once, then each token as it is chosen. */
static Generated one_by_one(Search *s, Beam *b)
{
    int n_new = b->n;                                 /* tokens that the decoder has not seen */
    float *p = NULL;                                  /* log-probabilities, if asked for */
    while (b->n < s->max_len && !b->stopped && !b->halted) {
        Tensor logits = s->dec->step(s->dec->model, b->id + b->n - n_new, 1, n_new, NULL);
        int n_vocab = n_cols(logits);
        if (n_new == b->n && b->n == s->n_prompt) prepare(s, n_vocab);
        int id = choose(s, b, logits);
        TokenInfo info = { .chosen = { id, 0 } };
        if (s->o.logprobs) {
            if (!p) p = scratch_bytes(mul_size((size_t)n_vocab, sizeof *p));
            log_softmax(p, f32(logits), n_vocab);
            info = token_info(p, n_vocab, id, s->o.logprobs);
        }
        beam_append(b, s, id, info);
        n_new = 1;
        b->halted = !b->stopped && s->o.put && !s->o.put(s->o.ctx, id);
    }
    return generated(b, s);
}

/* === Beam search ============================================================================== */

typedef struct {
    Beam *live, *next, *done;        /* n_beams each, best first; next: room for the step */
    int   n_live, n_done;
    int  *from, *newest;             /* for the decoder: where a live beam came from, its token */
    float *p;                        /* log-probabilities [n_live, n_vocab] */
    int   n_best;                    /* candidates of a step: 2*n_beams or more */
    Candidate *best;                 /* [n_best] */
} Beams;

static float length_power(const Search *s, int n)
{
    return s->o.length_penalty == 0 ? (float)n : (float)pow(n, (double)s->o.length_penalty);
}

/* The finished beam made of `b` and one more token takes its place among the best n_beams. */
static void finish(Beams *bs, const Search *s, const Beam *b, int id, TokenInfo info, float score)
{
    int n_beams = s->o.beams, i = bs->n_done < n_beams ? bs->n_done : n_beams - 1;
    float mean = score / length_power(s, b->n + 1 - s->n_prompt);
    if (bs->n_done == n_beams && !(mean > bs->done[i].score)) return;
    if (bs->n_done < n_beams) bs->n_done++;
    Beam place = bs->done[i];
    for (; i > 0 && mean > bs->done[i - 1].score; i--) bs->done[i] = bs->done[i - 1];
    beam_copy(&place, b, s->n_prompt);
    beam_append(&place, s, id, info);
    place.score = mean;
    bs->done[i] = place;
}

/* One step: ranks the candidates, finishes those that end, and lets the best others live. */
static void beam_step(Beams *bs, const Search *s, Tensor logits)
{
    int n_beams = s->o.beams, n_vocab = n_cols(logits), n_next = 0, n_best = 0;
    Candidate *best = bs->best;
    float *p = bs->p;
    for (int b = 0; b < bs->n_live; b++) {
        float *row = p + (size_t)b * (size_t)n_vocab;
        log_softmax(row, f32(logits) + (size_t)b * (size_t)n_vocab, n_vocab);
        penalize(s, row, n_vocab, bs->live[b].id, bs->live[b].n);
        for (int i = 0; i < n_vocab; i++)
            rank_in(best, &n_best, bs->n_best, (int64_t)b * n_vocab + i,
                    row[i] + bs->live[b].score);
    }
    bool at_limit = bs->live[0].n + 1 == s->max_len;
    for (int i = 0; i < n_best; i++) {
        int b = (int)(best[i].at / n_vocab), id = (int)(best[i].at % n_vocab);
        const Beam *from = &bs->live[b];
        bool last = ends(s, id) || at_limit;
        if (last ? i >= n_beams : n_next == n_beams) continue;
        TokenInfo info = { .chosen = { id, p[best[i].at] } };
        if (s->o.logprobs)
            info = token_info(p + (size_t)b * (size_t)n_vocab, n_vocab, id, s->o.logprobs);
        if (last) {
            finish(bs, s, from, id, info, best[i].score);
            continue;
        }
        Beam *to = &bs->next[n_next];
        beam_copy(to, from, s->n_prompt);
        beam_append(to, s, id, info);
        to->score = best[i].score;
        bs->from[n_next] = b;
        bs->newest[n_next++] = id;
    }
    Beam *old = bs->live;
    bs->live = bs->next;
    bs->next = old;
    bs->n_live = n_next;
}

/* Could the best live beam still overtake the worst finished one? _check_early_stop_heuristic. */
static bool can_improve(const Beams *bs, const Search *s)
{
    if (!bs->n_live) return false;
    if (bs->n_done < s->o.beams) return true;
    if (s->o.early_stopping) return false;
    const Beam *b = &bs->live[0];
    return b->score / length_power(s, b->n - s->n_prompt) > bs->done[bs->n_done - 1].score;
}

/* The prompt is read by one beam: all would give the same. (The reference reads it n_beams times
 * and bars all but the first by a score of -1e9.) */
static Generated beam_search(Search *s, const Beam *prompt)
{
    int n_beams = s->o.beams;
    Beams bs = {
        .live = beams_new(s, n_beams), .next = beams_new(s, n_beams), .done = beams_new(s, n_beams),
        .from = scratch_bytes((size_t)n_beams * sizeof(int)),
        .newest = scratch_bytes((size_t)n_beams * sizeof(int)),
        .n_best = (s->o.n_end > 1 ? s->o.n_end + 1 : 2) * n_beams, .n_live = 1,
    };
    bs.best = scratch_bytes(mul_size((size_t)bs.n_best, sizeof(Candidate)));
    beam_copy(&bs.live[0], prompt, s->n_prompt);
    Tensor logits = s->dec->step(s->dec->model, prompt->id, 1, prompt->n, NULL);
    prepare(s, n_cols(logits));
    bs.p = scratch_bytes(mul_size(mul_size((size_t)n_beams, n_elem(logits)), sizeof(float)));
    beam_step(&bs, s, logits);
    while (can_improve(&bs, s)) {
        logits = s->dec->step(s->dec->model, bs.newest, bs.n_live, 1, bs.from);
        beam_step(&bs, s, logits);
    }
    return generated(&bs.done[0], s);
}

Generated generate(const Decoder *dec, const int *prompt, int n_prompt, GenOptions o)
{
    Search s = { .dec = dec, .o = o, .n_prompt = n_prompt };
    if (o.max_tokens < 0 || n_prompt < 1 || n_prompt > dec->max_len)
        bug("generate: %d tokens after a prompt of %d of %d", o.max_tokens, n_prompt, dec->max_len);
    if (o.beams > 1 && o.temp > 0) bug("generate: beams that draw");
    int left = dec->max_len - n_prompt;
    s.max_len = n_prompt + (o.max_tokens < left ? o.max_tokens : left);
    Beam b = beam_new(&s);
    memcpy(b.id, prompt, (size_t)n_prompt * sizeof(int));
    b.n = n_prompt;
    return o.beams > 1 && b.n < s.max_len ? beam_search(&s, &b) : one_by_one(&s, &b);
}

/* === What the checkpoint wants ================================================================ */

/* eos_token_id: one id, several, or none; -1 stands for none in old files. */
static void load_ends(GenOptions *o, Json eos)
{
    enum { MANY = 64 };
    int n = json_is(eos, JSON_ARRAY) ? json_len(eos) : json_is(eos, JSON_NUMBER);
    if (n > MANY) json_error(eos, "has %d ids, expected at most %d", n, MANY);
    int *end = keep_bytes((size_t)(n ? n : 1) * sizeof *end);
    for (int i = 0; i < n; i++) {
        Json j = json_is(eos, JSON_ARRAY) ? json_at(eos, i) : eos;
        int64_t id;
        if (!json_integer(j, &id) || id > INT32_MAX || id < -1)
            json_error(j, "expected a token id or a list of them");
        if (id >= 0) end[o->n_end++] = (int)id;
    }
    o->end = end;
}

GenOptions generation_load(const char *dir, Json config)
{
    Json g = json_file(dir, "generation_config.json", 1 << 20);
    if (!g.node) g = config;                 /* older checkpoints keep these keys there */
    else if (!json_is(g, JSON_OBJECT)) json_error(g, "is no JSON object");
    GenOptions o = {
        .max_tokens     = json_int(g, "max_new_tokens", -1, -1, 1 << 24),
        .beams          = json_int(g, "num_beams", 1, 1, 64),
        .top_k          = json_int(g, "top_k", 50, 0, 1 << 24),
        .top_p          = (float)json_float(g, "top_p", 1, 0, 1),
        .min_p          = (float)json_float(g, "min_p", 0, 0, 1),
        .repeat_penalty = (float)json_float(g, "repetition_penalty", 1, 1e-3, 1e3),
        .length_penalty = (float)json_float(g, "length_penalty", 1, -1e3, 1e3),
        .early_stopping = json_is(json_get(g, "early_stopping"), JSON_BOOL)
                       && json_bool(g, "early_stopping", false),
    };
    bool sample = json_bool(g, "do_sample", false);
    float temp = (float)json_float(g, "temperature", 1, 0, 1e3);
    if (sample) o.temp = temp;
    if (o.length_penalty == 0) o.length_penalty = 1e-30f;    /* here 0 would mean 1 */
    Json eos = json_get(g, "eos_token_id");
    load_ends(&o, eos.node ? eos : json_get(config, "eos_token_id"));
    return o;
}
