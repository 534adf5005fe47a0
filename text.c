/* text.c -- mm complete, and what it shares with mm chat: how a text is continued and written out.
 *
 *   what the checkpoint says <- the options <- the record     (each where it says something)
 *   prompt ids -> session -> tokens -> Stream: whole characters, stop strings held back
 *              -> at once to the output, if there is one item;  at the end text, stop, ids, ...
 *
 * Easy to get wrong:
 *   - Whoever sets --temp wants to draw: top_k and top_p are then those of generation_config.json,
 *     or transformers' defaults, not none.
 *   - The stop string is no part of the text, the end token no part of it either, but of the ids.
 *   - Chat trims: blanks at the end must wait until something follows them. */
#include <string.h>

#include "model.h"

/* === Options ================================================================================== */

static void add_end(GenOptions *o, int *end, int id)
{
    for (int i = 0; i < o->n_end; i++)
        if (end[i] == id) return;
    if (id >= 0) end[o->n_end++] = id;
}

void writer_open(Writer *w, Run *r, Model *m, int max_tokens, bool several)
{
    w->r = r;
    w->m = m;
    w->max_tokens = max_tokens;
    w->standard = generation_load(m->dir, m->config);
    GenOptions *o = &w->standard;
    int *end = keep_bytes(mul_size((size_t)o->n_end + 4, sizeof *end)), n = o->n_end;
    const int *old = o->end;
    for (o->n_end = 0; o->n_end < n; o->n_end++) end[o->n_end] = old[o->n_end];
    add_end(o, end, tok_named(m->tok, TOK_EOS));     /* some config.json have a wrong one */
    for (int i = 0; i < w->n_own_end; i++) add_end(o, end, w->own_end[i]);
    o->end = end;
    int most = llama_context(m->llama);
    if (r->o.ctx > most && !r->o.quiet)
        fprintf(stderr, "mm: %s: --ctx %lld: the model was trained for %d tokens, what comes after "
                "may make no sense\n", r->name, (long long)r->o.ctx, most);
    w->session = session_new(m->llama, (SessionOptions){
        .ctx = r->o.ctx > 0 ? (int)r->o.ctx : 0,
        .n_beams = r->o.beams > 1 ? (int)r->o.beams : 1,
        .kv = r->o.kv && strcmp(r->o.kv, "f16") == 0 ? F16 : F32, .repeatable = several });
}

/* An option of the command line, or of the checkpoint, or the record's own. */
static float real(Json record, const char *key, double option, float standard, double max)
{
    return (float)json_float(record, record_key(record, key),
                             option >= 0 ? option : (double)standard, 0, max);
}

GenOptions writer_options(const Writer *w, Json record, int64_t seed)
{
    const Options *o = &w->r->o;
    GenOptions g = w->standard;
    int room = session_context(w->session), max = (int)o->max_tokens;
    if (max < 0) max = w->max_tokens;
    g.max_tokens = json_int(record, record_key(record, "max_tokens"), max, 0, 1000000);
    if (g.max_tokens < 0 || g.max_tokens > room) g.max_tokens = room;
    g.temp = real(record, "temp", o->temp, g.temp, 100);
    g.top_k = json_int(record, record_key(record, "top_k"),
                       o->top_k >= 0 ? (int)o->top_k : g.top_k, 0, 1 << 22);
    g.top_p = real(record, "top_p", o->top_p, g.top_p, 1);
    g.min_p = real(record, "min_p", o->min_p, g.min_p, 1);
    g.repeat_penalty = real(record, "repeat_penalty", o->repeat_penalty, g.repeat_penalty, 100);
    g.beams = json_int(record, "beams", o->beams > 0 ? (int)o->beams : g.beams, 1, 64);
    g.logprobs = json_int(record, "logprobs", o->logprobs > 0 ? (int)o->logprobs : 0, 0, 1000);
    if (g.beams > 1 && o->temp < 0 && !json_get(record, "temp").node) g.temp = 0;
    if (g.beams > 1 && g.temp > 0)
        fail("input.text", NULL, "beams and a temperature exclude each other");
    if (g.beams > 1 && g.beams > o->beams)
        fail("input.text", "say --beams N with the largest number", "a record asks for %d beams, "
             "the session has room for %d", g.beams, o->beams > 0 ? (int)o->beams : 1);
    g.seed = (uint64_t)seed;
    return g;
}

/* The stop strings that count for the record: its own, or those of --stop; and the template's. */
static const char **stop_strings(const Writer *w, Json record, int *n)
{
    Json own = json_get(record, "stop");
    bool given = own.node && json_type(own) != JSON_NULL, list = json_is(own, JSON_ARRAY);
    const Texts *o = &w->r->o.stop;
    const char **stop = scratch_bytes(sizeof *stop * (size_t)(json_len(own) + o->n + 2));
    *n = 0;
    for (int64_t i = 0; !given && i < o->n; i++) stop[(*n)++] = o->v[i];
    for (Json j = list ? json_first(own) : own; given && j.node; j = json_next(j)) {
        stop[*n] = json_string(j, NULL);
        if (!stop[*n]) json_error(j, "must be a text, or a list of texts");
        ++*n;
        if (!list) break;
    }
    if (w->own_stop) stop[(*n)++] = w->own_stop;
    int kept = 0;
    for (int i = 0; i < *n; i++)
        if (*stop[i]) stop[kept++] = stop[i];
    *n = kept;
    return stop;
}

/* === Text as it comes ========================================================================= */

typedef struct {
    Stream  *stream;
    bool     trim, go_on;
    Buf      all;                    /* of the text so far */
    size_t   from, done;             /* where it begins, if trimmed; what is handed out */
    PieceFn *piece;
    void    *ctx;
} Flow;

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

static void flow_text(void *ctx, const char *s, size_t n)
{
    Flow *f = ctx;
    put_bytes(&f->all, s, n);
    size_t end = f->all.n;
    while (f->trim && f->from < end && is_blank(f->all.p[f->from])) f->from++;
    while (f->trim && end > f->from && is_blank(f->all.p[end - 1])) end--;
    if (f->done < f->from) f->done = f->from;
    if (end <= f->done || !f->piece) return;
    f->go_on = f->piece(f->ctx, f->all.p + f->done, end - f->done);
    f->done = end;
}

static bool flow_id(void *ctx, int id)
{
    Flow *f = ctx;
    bool more = stream_put(f->stream, id);
    if (f->piece && f->go_on) f->go_on = f->piece(f->ctx, "", 0);    /* also if nothing came out */
    return more && f->go_on;
}

Written writer_write(Writer *w, Json record, const int *id, int n, GenOptions o, PieceFn *piece,
                     void *ctx)
{
    int n_stop;
    size_t len;
    const char **stop = stop_strings(w, record, &n_stop);
    Flow f = { .trim = w->trim, .go_on = true, .piece = piece, .ctx = ctx };
    f.stream = stream_new(w->m->tok, stop, n_stop, flow_text, &f);
    if (!w->trim) stream_follow(f.stream, id, n);
    o.put = o.beams > 1 ? NULL : flow_id;
    o.ctx = &f;
    Generated g = session_generate(w->session, id, n, o);
    for (int i = g.n_prompt; o.beams > 1 && i < g.n; i++)
        if (!stream_put(f.stream, g.id[i])) break;
    stream_end(f.stream, &len);
    size_t end = f.all.n;
    while (f.trim && end > f.from && is_blank(f.all.p[end - 1])) end--;
    put_bytes(&f.all, "", 0);
    f.all.p[end] = 0;
    return (Written){
        .g = g, .text = f.all.p + f.from, .n = end - f.from,
        .stop = stream_stopped(f.stream) ? "stop" : g.stopped ? "eos" : g.full ? "context"
              : "length" };
}

/* === Records ================================================================================== */

static bool to_output(void *ctx, const char *s, size_t n)
{
    Run *r = ctx;
    if (n) output_piece(r->out, s, n);
    return true;
}

const char *context_hint(const Writer *w)
{
    int room = session_context(w->session), most = llama_context(w->m->llama);
    return room < most ? scratch_string("--ctx N makes the context larger, up to %d", most)
                       : "that is all this model takes: shorten it";
}

/* A prompt that leaves no room is a matter of usage, if it is the only one. */
static void check_room(const Writer *w, const Item *item, int n)
{
    int room = session_context(w->session);
    if (n <= room) return;
    const char *hint = context_hint(w);
    if (input_single(w->r->in))
        usage_error(w->r->name, "the prompt has %d tokens, the context %d\n%s", n, room, hint);
    fail("input.text", hint, "%s: the prompt has %d tokens, the context %d",
         quoted_n(item->id, item->id_len), n, room);
}

void writer_item(Writer *w, const Item *item, const int *id, int n, Result *res)
{
    GenOptions o = writer_options(w, item->record, item->seed);
    int first = tok_named(w->m->tok, TOK_BOS);
    if (!n && first >= 0) id = &first, n = 1;            /* an empty prompt */
    if (!n && input_single(w->r->in))
        usage_error(w->r->name, "an empty prompt, and this model has no token to begin with");
    if (!n)
        fail("input.text", NULL, "%s: an empty prompt, and this model has no token to begin with",
             quoted_n(item->id, item->id_len));
    check_room(w, item, n);
    computing(w->r);
    double start = now_ms();
    Written t = writer_write(w, item->record, id, n, o, to_output, w->r);
    int n_out = t.g.n - t.g.n_prompt, n_vocab = llama_vocab(w->m->llama);
    res->ms_text = now_ms() - start;
    res->tokens_out = n_out;
    put_bytes(&res->text, t.text, t.n);
    put(&res->body, "\"text\":");
    put_json(&res->body, t.text, t.n);
    put(&res->body, ",\"stop\":\"%s\"", t.stop);
    put(&res->tail, "\"tokens\":{\"in\":%d,\"out\":%d},\"ids\":[", n, n_out);
    put_ids(&res->tail, t.g.id + t.g.n_prompt, n_out, ",");
    put(&res->tail, "]");
    if (o.logprobs) put_logprobs(&res->tail, &t.g, o.logprobs < n_vocab ? o.logprobs : n_vocab);
}

void writer_show(const char *text, size_t n, Ids ids, Result *res)
{
    put_bytes(&res->text, text, n);
    put(&res->text, "\n");
    put_ids(&res->text, ids.id, ids.n, " ");
    put(&res->body, "\"prompt\":");
    put_json(&res->body, text, n);
    put(&res->body, ",\"prompt_ids\":[");
    put_ids(&res->body, ids.id, ids.n, ",");
    put(&res->body, "]");
}

/* === mm complete ============================================================================== */

/* The text as it is, behind what the tokenizer puts in front. */
static void show_text(const Writer *w, const Item *item, Ids ids, Result *res)
{
    Ids start = tok_encode(w->m->tok, "", 0, TOK_SPECIAL);
    Buf b = {0};
    for (int i = 0; i < start.n; i++) {
        size_t n;
        const char *s = tok_piece(w->m->tok, start.id[i], &n);
        if (s) put_bytes(&b, s, n);
    }
    put_bytes(&b, item->text, item->text_len);
    writer_show(b.p, b.n, ids, res);
}

static void complete_item(Run *r, const Item *item, Result *res)
{
    Writer *w = r->ctx;
    if (!item->text)
        fail("input.json", NULL, "%s: no key text or prompt", quoted_n(item->id, item->id_len));
    Ids ids = tok_encode(w->m->tok, item->text, item->text_len, TOK_SPECIAL);
    if (r->o.show_prompt) {
        show_text(w, item, ids, res);
        return;
    }
    writer_item(w, item, ids.id, ids.n, res);
}

int cmd_complete(Run *r)
{
    Model *m = model_open(r, r->o.model);
    Writer w = {0};
    const char *prompt = option_text(r->name, "-p", r->o.prompt);
    if (prompt) r->o.text.v[r->o.text.n++] = prompt;
    start_machine(r);
    r->in = input_open(r->name, &r->o, TAKES_PROMPTS);
    model_tokenizer(m);
    if (!r->o.show_prompt) {
        model_weights(r, m);
        writer_open(&w, r, m, 256, input_several(r->in));
    }
    w.m = m;
    r->ctx = &w;
    return run_traced(r, complete_item);
}
