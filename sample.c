/* sample.c -- from logits to tokens: greedy and beam search.
 *
 * Greedy takes the likeliest token. Beam search keeps the n_beams likeliest beginnings; it is
 * that of transformers' GenerationMixin._beam_search with its defaults (length_penalty 1,
 * early_stopping False, one end token), step by step:
 *
 *   logits [n_live, n_vocab] -> log softmax, + score of the beam
 *   -> the best 2*n_beams candidates of all beams, best first
 *      those that end, if among the first n_beams:  finished, with score / number of new tokens
 *      the first n_beams of the others:             live on
 *   until no live beam can overtake the worst of n_beams finished ones, or all are at their limit
 *
 * Easy to get wrong:
 *   - A candidate that ends but is not among the first n_beams is thrown away.
 *   - At the limit every candidate ends, whatever its token, and the rule above still holds.
 *   - The stopping rule divides by the length that the beams have after the step, and waits until
 *     n_beams sequences have finished.
 *   - Of equal scores the first wins: lower beam, then lower token. */
#include <math.h>
#include <string.h>

#include "mm.h"

/* A sequence on its way: its ids, prompt and all, and what is to be told of its new tokens. */
typedef struct {
    int       *id;
    TokenInfo *info;
    int        n;
    float      score;            /* sum of log-probabilities; once finished: divided by length */
    bool       stopped;          /* its last token is the end token */
} Beam;

typedef struct {
    const Decoder *dec;
    GenOptions     o;
    int            n_prompt, max_len;
} Search;

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

typedef struct { int64_t at; float score; } Candidate;

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
    b->stopped = id == s->dec->end_id;
}

static Generated generated(const Beam *b, const Search *s)
{
    return (Generated){
        .id = b->id, .n = b->n, .n_prompt = s->n_prompt, .stopped = b->stopped,
        .full = !b->stopped && b->n == s->dec->max_len && b->n - s->n_prompt < s->o.max_tokens,
        .info = s->o.logprobs ? b->info : NULL,
    };
}

/* === Greedy =================================================================================== */

/* The prompt goes in at once, then each token as it is chosen. */
static Generated greedy(const Search *s, Beam *b)
{
    int n_new = b->n;                                 /* tokens that the decoder has not seen */
    float *p = NULL;                                  /* log-probabilities, if asked for */
    while (b->n < s->max_len && !b->stopped) {
        Tensor logits = s->dec->step(s->dec->model, b->id + b->n - n_new, 1, n_new, NULL);
        int n_vocab = n_cols(logits), id = argmax(f32(logits), n_vocab);
        TokenInfo info = { .chosen = { id, 0 } };
        if (s->o.logprobs) {
            if (!p) p = scratch_bytes(mul_size((size_t)n_vocab, sizeof *p));
            log_softmax(p, f32(logits), n_vocab);
            info = token_info(p, n_vocab, id, s->o.logprobs);
        }
        beam_append(b, s, id, info);
        n_new = 1;
    }
    return generated(b, s);
}

/* === Beam search ============================================================================== */

typedef struct {
    Beam *live, *next, *done;        /* n_beams each, best first; next: room for the step */
    int   n_live, n_done;
    int  *from, *newest;             /* for the decoder: where a live beam came from, its token */
    float *p;                        /* log-probabilities [n_live, n_vocab] */
    Candidate *best;                 /* [2*n_beams] */
} Beams;

/* The finished beam made of `b` and one more token takes its place among the best n_beams. */
static void finish(Beams *bs, const Search *s, const Beam *b, int id, TokenInfo info, float score)
{
    int n_beams = s->o.beams, i = bs->n_done < n_beams ? bs->n_done : n_beams - 1;
    float mean = score / (float)(b->n + 1 - s->n_prompt);
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
    int k = 2 * n_beams;
    Candidate *best = bs->best;
    float *p = bs->p;
    for (int b = 0; b < bs->n_live; b++) {
        float *row = p + (size_t)b * (size_t)n_vocab;
        log_softmax(row, f32(logits) + (size_t)b * (size_t)n_vocab, n_vocab);
        for (int i = 0; i < n_vocab; i++)
            rank_in(best, &n_best, k, (int64_t)b * n_vocab + i, row[i] + bs->live[b].score);
    }
    bool at_limit = bs->live[0].n + 1 == s->max_len;
    for (int i = 0; i < n_best; i++) {
        int b = (int)(best[i].at / n_vocab), id = (int)(best[i].at % n_vocab);
        const Beam *from = &bs->live[b];
        bool ends = id == s->dec->end_id || at_limit;
        if (ends ? i >= n_beams : n_next == n_beams) continue;
        TokenInfo info = { .chosen = { id, p[best[i].at] } };
        if (s->o.logprobs)
            info = token_info(p + (size_t)b * (size_t)n_vocab, n_vocab, id, s->o.logprobs);
        if (ends) {
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
    const Beam *b = &bs->live[0];
    return b->score / (float)(b->n - s->n_prompt) > bs->done[bs->n_done - 1].score;
}

/* The prompt is read by one beam: all would give the same. (The reference reads it n_beams times
 * and bars all but the first by a score of -1e9.) */
static Generated beam_search(const Search *s, const Beam *prompt)
{
    int n_beams = s->o.beams;
    Beams bs = {
        .live = beams_new(s, n_beams), .next = beams_new(s, n_beams), .done = beams_new(s, n_beams),
        .from = scratch_bytes((size_t)n_beams * sizeof(int)),
        .newest = scratch_bytes((size_t)n_beams * sizeof(int)),
        .best = scratch_bytes(2 * (size_t)n_beams * sizeof(Candidate)), .n_live = 1,
    };
    beam_copy(&bs.live[0], prompt, s->n_prompt);
    Tensor logits = s->dec->step(s->dec->model, prompt->id, 1, prompt->n, NULL);
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
    int left = dec->max_len - n_prompt;
    s.max_len = n_prompt + (o.max_tokens < left ? o.max_tokens : left);
    Beam b = beam_new(&s);
    memcpy(b.id, prompt, (size_t)n_prompt * sizeof(int));
    b.n = n_prompt;
    return o.beams > 1 && b.n < s.max_len ? beam_search(&s, &b) : greedy(&s, &b);
}
