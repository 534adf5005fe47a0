/* language.c -- tests of language models: each tiny checkpoint computes what transformers computes
 * from it (test/reference/language.py makes them; README.md there describes the answers).
 *
 *   test/language                   the tiny checkpoints under test/data/models
 *   test/language FOLDER NAME...    others of this layout; "llava..." is asked about pictures
 *
 *   traced case   every intermediate, in the order in which it is computed
 *   pictures      LLaVA in four layouts: pixels, rows, logits, tokens
 *   all cases     logits at several places of a prompt, read at once, in blocks and token by token;
 *                 64 greedy tokens, with and without a cache; beams; sampled tokens; and without
 *                 --exact, where a CPU rounds more, nearly the same
 *
 * With assets (MM_ASSETS, default ../shared/assets): what two real models write. */
#include "../kernels/kernels.h"
#include "answers.h"

enum { NEW = 64, BEAM_NEW = 24, N_BEAMS = 3 };
static const int END[] = { 2 };

static Session *session(Llama *m, int n_block)
{
    return session_new(m, (SessionOptions){ .ctx = 300, .n_beams = N_BEAMS, .n_block = n_block });
}

/* === Logits =================================================================================== */

static void logits_near(Tensor got, const Answers *a, int i, int row, const char *what)
{
    Tensor want = answer(a, i, "logits");
    double e = nmse(f32(got), f32(rows(want, row, 1)), n_elem(got));
    if (!check(e <= MAX_NMSE, what)) printf("    case %d, row %d: NMSE %g\n", i, row, e);
}

/* At the places that the reference tells, by reading up to each; a model whose angles depend on the
 * length of the text is asked for the last only. */
static void check_logits(Llama *m, const Answers *a, int i)
{
    int n;
    const int *ids = ids_of(a, i, &n);
    Tensor at = answer(a, i, "at");
    int n_at = at.dim[0];
    bool by_length = json_bool(json_at(a->cases, i), "by_length", false);
    Session *s = session(m, 0), *blocks = session(m, 41);
    logits_near(session_read(s, ids, n), a, i, n_at - 1, "logits, read at once");
    Tensor whole = scratch(1, llama_vocab(m)), cut;
    memcpy(f32(whole), f32(session_read(s, (session_cut(s, 0), ids), n)),
           n_elem(whole) * sizeof(float));
    cut = session_read(blocks, ids, n);
    check(n < 32 || !memcmp(f32(whole), f32(cut), n_elem(cut) * sizeof(float)),
          "a prompt in blocks gives the same bits");
    if (by_length) return;
    session_cut(s, 0);
    for (int k = 0, next = 0; k < n; k++) {
        Tensor got = session_read(s, ids + k, 1);
        if (((int *)at.data)[next] == k) logits_near(got, a, i, next++, "logits, token by token");
    }
}

/* === Sequences ================================================================================ */

static void same_ids(const Answers *a, int i, const char *kind, Generated g)
{
    Tensor want = answer(a, i, scratch_string("%s.ids", kind));
    Tensor margin = answer(a, i, scratch_string("%s.margin", kind));
    float clear = INFINITY;
    for (size_t k = 0; k < n_elem(margin) && margin.data; k++)
        clear = fminf(clear, f32(margin)[k]);
    if (clear < MARGIN) {
        printf("skipped: %s: case %d, %s: the reference's margin is %g\n", model, i, kind, clear);
        n_skipped++;
        return;
    }
    bool same = g.n == want.dim[0] && !memcmp(g.id, want.data, (size_t)g.n * sizeof(int));
    if (check(same, scratch_string("case %d: %s: ids", i, kind))) return;
    print_ids("    got ", g.id, g.n);
    print_ids("    want", want.data, want.dim[0]);
}

/* Everything read again for each token. */
static void check_no_cache(Llama *m, const int *ids, int n, Generated g)
{
    Session *s = session(m, 0);
    bool same = true;
    for (int k = n; k < g.n && k < n + 12; k++) {
        session_cut(s, 0);
        Tensor logits = session_read(s, g.id, k);
        int best = 0;
        for (int v = 1; v < n_cols(logits); v++)
            if (f32(logits)[v] > f32(logits)[best]) best = v;
        same = same && best == g.id[k];
    }
    check(same && !memcmp(g.id, ids, (size_t)n * sizeof(int)), "no cache: the same tokens");
}

/* A second text that begins as the first: what is kept of it must not change what follows. */
static void check_reuse(Llama *m, const int *ids, int n, Generated g)
{
    GenOptions o = { .max_tokens = NEW };
    Session *s = session_new(m, (SessionOptions){ .ctx = 300, .repeatable = true });
    int other[64];
    memcpy(other, ids, sizeof other);
    other[63] ^= 1;
    session_generate(s, other, n < 64 ? n : 64, o);
    int len = session_len(s);
    Generated again = session_generate(s, ids, n, o);
    check(len > 0 && again.n == g.n && !memcmp(again.id, g.id, (size_t)g.n * sizeof(int)),
          "a prompt after another one");
}

static void check_sequences(Llama *m, const Answers *a, int i)
{
    int n;
    const int *ids = ids_of(a, i, &n);
    Session *s = session(m, 0);
    GenOptions o = { .max_tokens = NEW };
    Generated g = session_generate(s, ids, n, o);
    same_ids(a, i, "greedy", g);
    bool by_length = json_bool(json_at(a->cases, i), "by_length", false);
    if (!by_length) check_no_cache(m, ids, n, g);
    if (n > 64) check_reuse(m, ids, n, g);
    o.end = END;
    o.n_end = 1;
    o.max_tokens = BEAM_NEW;
    o.beams = N_BEAMS;
    o.logprobs = 1;
    Generated b = session_generate(s, ids, n, o);
    same_ids(a, i, "beams", b);
    float sum = 0;
    for (int k = 0; k < b.n - n; k++) sum += b.info[k].chosen.logprob;
    check(fabsf(sum / (float)(b.n - n) - *f32(answer(a, i, "beams.score"))) < 1e-4f, "score");
    same_ids(a, i, "sampled", session_generate(s, ids, n, (GenOptions){
        .max_tokens = NEW / 2, .end = END, .n_end = 1, .seed = 7,
        .temp = 0.9f, .top_k = 20, .top_p = 0.9f, .min_p = 0.02f, .repeat_penalty = 1.1f,
    }));
}

/* === Without --exact ========================================================================== */

/* Prompts to models with weights in bf16, and those that have the same continuation where a CPU
 * that multiplies bf16 rounds the activations, too. */
static int n_prompts, n_same;

static Generated continued(Session *s, bool exact, const int *prompt, int n)
{
    kernels_init(getenv("MM_CPU"), exact);
    session_cut(s, 0);
    return session_generate(s, prompt, n, (GenOptions){ .max_tokens = 12 });
}

/* The logits of a long prompt, and tokens after short ones. The limits are what is promised. */
static void check_rounded(Llama *m, const Answers *a, int i)
{
    enum { PROMPTS = 20, LEN = 24 };
    int n, prompt[LEN];
    const int *ids = ids_of(a, i, &n);
    Tensor want = rows(answer(a, i, "logits"), answer(a, i, "at").dim[0] - 1, 1);
    Session *s = session(m, 0);
    kernels_init(getenv("MM_CPU"), false);
    double e = nmse(f32(session_read(s, ids, n)), f32(want), n_elem(want));
    if (!check(e <= 1e-4, "logits without --exact")) printf("    NMSE %g\n", e);
    for (int k = 0; k < PROMPTS && e > MAX_NMSE; k++) {
        for (int j = 0; j < LEN; j++) prompt[j] = 3 + (k * 7 + j * (k + 5) + j * j) % 60;
        Generated rounded = continued(s, false, prompt, LEN);
        Generated exact = continued(s, true, prompt, LEN);
        n_same += !memcmp(rounded.id, exact.id, (size_t)exact.n * sizeof *exact.id);
        n_prompts++;
    }
    kernels_init(getenv("MM_CPU"), true);
}

/* === LLaVA ==================================================================================== */

enum { IMAGE = 60 };                     /* a row of a picture, in the reference's ids */

static Tensor llava_pixels(const char *dir, const char *image)
{
    size_t n;
    uint8_t *bytes = read_file(keep_string("%s/pictures/%s", folder, image), &n);
    Preprocess p = llava_pictures(dir, config_of(dir));
    return preprocess(image_decode(image, bytes, n, (ImageOptions){ 0 }), &p);
}

/* The ids with rows first, first+1, ... of the session's pictures in place of IMAGE. */
static int *with_rows(const int *ids, int n, int first)
{
    int *own = scratch_bytes((size_t)n * sizeof *own);
    for (int i = 0; i < n; i++) own[i] = ids[i] == IMAGE ? -1 - first++ : ids[i];
    return own;
}

static void llava_case(Llava *v, Session *s, const char *dir, const Answers *a, int i)
{
    int n;
    const char *image = json_str(json_at(a->cases, i), "image", "");
    const int *ids = ids_of(a, i, &n);
    Tensor pixels = llava_pixels(dir, image), want = answer(a, i, "greedy.ids");
    if (i == 0) check(check_pixels(a, pixels), "pixel_values are there");
    Tensor rows_of = llava_image(v, pixels);
    check(n_rows(rows_of) == llava_n_tokens(v), "rows of a picture");
    near(f32(rows_of), answer(a, i, "rows"), "what the language model sees");
    int *prompt = with_rows(ids, n, session_picture(s, rows_of));
    session_cut(s, 0);
    near(f32(session_read(s, prompt, n)), answer(a, i, "logits"), "logits behind a picture");
    Generated g = session_generate(s, prompt, n, (GenOptions){ .max_tokens = want.dim[0] - n });
    bool same = g.n == want.dim[0];
    for (int k = n; k < g.n && same; k++) same = g.id[k] == ((int *)want.data)[k];
    check(same, "tokens about a picture");
}

static void test_llava(const char *name)
{
    size_t mark = scratch_mark();
    model = name;
    const char *dir = keep_string("%s/%s", folder, name);
    Answers a = answers_load(dir);
    Llava *v = llava_load(ckpt_open(dir), config_of(dir));
    Session *s = session_new(llava_text(v), (SessionOptions){ .ctx = 84 + llava_n_tokens(v) });
    for (int i = 0; i < json_len(a.cases); i++) llava_case(v, s, dir, &a, i);
    check(session_len(s) > 0, "a session goes on");
    session_clear(s);
    check(session_len(s) == 0, "a session is cleared");
    scratch_reset(mark);
}

/* === Trained models =========================================================================== */

static int *ids_in(Json list, int *n)
{
    int *id = scratch_bytes((size_t)json_len(list) * sizeof *id + 1);
    *n = 0;
    for (Json j = json_first(list); j.node; j = json_next(j)) id[(*n)++] = (int)json_number(j);
    return id;
}

/* The reference's prompt, then its ids. */
static void same_story(Session *s, Json c, const char *key, GenOptions o)
{
    int n, n_want;
    int *prompt = ids_in(json_get(c, "prompt_ids"), &n);
    const int *want = ids_in(json_get(c, key), &n_want);
    Generated g = session_generate(s, prompt, n, o);
    if (check(g.n - n == n_want && !memcmp(g.id + n, want, (size_t)n_want * sizeof *want), key))
        return;
    print_ids("    got ", g.id + n, g.n - n);
    print_ids("    want", want, n_want);
}

static void stories(void)
{
    const char *assets = getenv("MM_ASSETS");
    size_t n_json, n_text;
    char *text = (char *)read_file("test/data/stories.json", &n_text);
    Json cases = json_get(json_parse("stories", text, n_text, 64, EXIT_FILE), "cases");
    Llama *m = NULL;
    for (Json c = json_first(cases); c.node; c = json_next(c)) {
        const char *name = json_str(c, "model", "");
        const char *dir = keep_string("%s/models/%s", assets ? assets : "../shared/assets", name);
        if (!model_file(dir, "config.json", 1 << 20, &n_json)) {
            printf("skipped: %s: %s is not there\n", name, dir);
            n_skipped++;
            continue;
        }
        if (!m || strcmp(model, name)) m = llama_load(ckpt_open(dir), config_of(dir));
        model = name;
        Session *s = session_new(m, (SessionOptions){ 0 });
        GenOptions o = { .max_tokens = 200, .end = END, .n_end = 1 };
        same_story(s, c, "ids", o);
        o.max_tokens = 60;
        o.seed = 7;
        o.temp = 0.9f, o.top_k = 20, o.top_p = 0.9f, o.min_p = 0.02f, o.repeat_penalty = 1.1f;
        same_story(s, c, "sampled", o);
    }
}

/* === Configurations that cannot be right ====================================================== */

/* Loads test/data/models/NAME with `from` replaced by `to` in its config.json. It must die with
 * this code, and with a message that has `says` in it. */
static void dies(const char *name, const char *from, const char *to, int code, const char *says)
{
    size_t n;
    const char *dir = keep_string("test/data/models/%s", name);
    char *text = model_file(dir, "config.json", 1 << 20, &n), *at = strstr(text, from);
    model = name;
    if (!check(at, keep_string("config.json has %s", from))) return;
    char *bad = keep_string("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    jmp_buf place;
    int got = setjmp(place);
    if (!got) {
        die_landing = &place;
        Json config = json_parse("config.json", bad, strlen(bad), 64, EXIT_FILE);
        Ckpt ck = ckpt_open(dir);
        if (strstr(name, "llava")) llava_load(ck, config);
        else llama_load(ck, config);
        ckpt_done(ck);
    }
    die_landing = NULL;
    if (!check(got == code && strstr(item_error.msg, says), keep_string("%s -> %s", from, to)))
        printf("    exit code %d, expected %d: %s\n", got, code, got ? item_error.msg : "(loaded)");
}

static void bad_configs(void)
{
    static const struct { const char *name, *from, *to; int code; const char *says; } BAD[] = {
        { "llama", "\"hidden_size\": 42", "\"hidden_size\": 0", 4, "hidden_size" },
        { "llama", "\"hidden_size\": 42", "\"hidden_size\": 1e12", 4, "hidden_size" },
        { "llama", "\"hidden_size\": 42", "\"hidden_size\": 44", 4, "[44" },
        { "llama", "\"num_attention_heads\": 6", "\"num_attention_heads\": 0", 4, "heads" },
        { "llama", "value_heads\": 2", "value_heads\": 4", 4, "does not divide" },
        { "llama", "hidden_layers\": 2", "hidden_layers\": 3", 4, "layers.2." },
        { "llama", "hidden_layers\": 2", "hidden_layers\": 1", 4, "layers.1." },
        { "llama", "hidden_layers\": 2", "hidden_layers\": 2000000000", 4, "hidden_layers" },
        { "llama", "\"head_dim\": 10", "\"head_dim\": 12", 4, "o_proj" },
        { "llama", "\"vocab_size\": 67", "\"vocab_size\": 68", 4, "[68" },
        { "llama", "\"rope_theta\": 10000.0", "\"rope_theta\": -1", 4, "rope_theta" },
        { "llama", "\"model_type\": \"llama\"", "\"model_type\": \"lama\"", 3, "lama" },
        { "llama-f16", "\"linear\"", "\"spiral\"", 4, "spiral" },
        { "llama-f16", "\"factor\": 4.0", "\"factor\": 0", 4, "factor" },
        { "phi", "rotary_factor\": 0.5", "rotary_factor\": 7", 4, "partial_rotary_factor" },
        { "phi", "rotary_factor\": 0.5", "rotary_factor\": 0.25", 4, "odd" },
        { "opt", "\"max_position_embeddings\": 300", "\"max_position_embeddings\": 301", 4,
          "embed_positions" },
        { "qwen", "\"kv_channels\": 14", "\"kv_channels\": 16", 4, "c_proj" },
        { "llava", "feature_layer\": -2", "feature_layer\": -9", 4, "feature layer" },
        { "llava", "\"default\"", "\"some\"", 4, "vision_feature_select_strategy" },
        { "llava", "\"clip_vision_model\"", "\"siglip_vision_model\"", 4, "siglip" },
        { "llava-first", "models/llava-first/tower", "models/no/tower", 3, "models/no/tower" },
        { "llava-first-mlp", "\"mlp2x_gelu\"", "\"mlp\"", 4, "mm_projector_type" },
        { "llava-first-mlp", "\"mlp2x_gelu\"", "\"mlp3x_gelu\"", 4, "mm_projector.4" },
        { "llava-first-mlp", "\"mlp2x_gelu\"", "\"\"", 4, "mm_projector_type" },
        { "llava-first-mlp", "select_layer\": -2", "select_layer\": [-2, 1]", 4, "[42, 72]" },
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        dies(BAD[i].name, BAD[i].from, BAD[i].to, BAD[i].code, BAD[i].says);
}

/* === All of them ============================================================================== */

static void test_model(const char *name)
{
    size_t mark = scratch_mark(), kept = keep_mark();
    model = name;
    const char *dir = keep_string("%s/%s", folder, name);
    Answers a = answers_load(dir);
    Ckpt ck = ckpt_open(dir);
    Llama *m = llama_load(ck, config_of(dir));
    ckpt_done(ck);
    for (int i = 0; i < json_len(a.cases); i++) {
        int n;
        const int *ids = ids_of(&a, i, &n);
        if (a.traced && i == 0) {
            Session *s = session(m, 0);
            watch_start(&a);
            session_generate(s, ids, n, (GenOptions){ .max_tokens = 3 });
            watch_end();
        }
        check_logits(m, &a, i);
        check_sequences(m, &a, i);
        if (i > 0) check_rounded(m, &a, i);
        scratch_reset(mark);
    }
    keep_reset(kept);
}

int main(int argc, char **argv)
{
    static const char *const TINY[] = {
        "llama", "llama-f16", "llama-dynamic", "llama3", "mistral-yarn", "qwen2", "qwen", "phi",
        "phi-msft", "opt", "opt-post",
    };
    static const char *const WITH_PICTURES[] = {
        "llava", "llava-new", "llava-first", "llava-first-mlp",
    };
    kernels_init(getenv("MM_CPU"), true);
    threads_start(0);
    if (argc > 1) {
        folder = argv[1];
        for (int i = 2; i < argc; i++)
            (strncmp(argv[i], "llava", 5) ? test_model : test_llava)(argv[i]);
    } else {
        for (size_t i = 0; i < sizeof TINY / sizeof *TINY; i++) test_model(TINY[i]);
        for (size_t i = 0; i < sizeof WITH_PICTURES / sizeof *WITH_PICTURES; i++)
            test_llava(WITH_PICTURES[i]);
        stories();
        bad_configs();
    }
    model = "all";
    check(100 * n_same >= 95 * n_prompts,
          scratch_string("without --exact: %d of %d the same", n_same, n_prompts));
    printf("language: %d passed, %d failed, %d skipped\n", n_passed, n_failed, n_skipped);
    return n_failed > 0;
}
