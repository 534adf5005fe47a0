/* models.c -- tests of the models: each tiny checkpoint under test/data/models computes what
 * transformers computes from it (test/reference/README.md describes the answers).
 *
 *   test/models                    the tiny checkpoints
 *   test/models FOLDER NAME...     others of the same layout: those that full.py makes
 *
 *   traced case:  every intermediate, in the order in which it is computed. The first that is off
 *                 is reported, with the one before it, which was still right.
 *   all cases:    logits, sequences (greedy, 3 beams), scores, vectors
 *
 * With assets (MM_ASSETS, default ../shared/assets), also a real sentence encoder. */
#include "../kernels/kernels.h"
#include "answers.h"

/* === Inputs =================================================================================== */

static const char *image_of(const Answers *a, int i)
{
    return json_str(json_at(a->cases, i), "image", NULL);
}

static Tensor pixels(const char *dir, const char *image, Preprocess standard)
{
    size_t n;
    uint8_t *bytes = read_file(keep_string("%s/pictures/%s", folder, image), &n);
    Preprocess p = preprocess_load(dir, standard);
    return preprocess(image_decode(image, bytes, n, (ImageOptions){ 0 }), &p);
}

/* === BLIP ===================================================================================== */

static Generated blip_run(Blip *b, BlipImage im, const Answers *a, int i, GenOptions o)
{
    int n;
    const int *ids = ids_of(a, i, &n);
    return blip_kind(b) == BLIP_VQA ? blip_answer(b, im, ids, n, o)
                                    : blip_caption(b, im, ids, n, o);
}

/* The logits of each step. */
static struct { Tensor want; int step; double worst; } logits;

static void logits_one(void *ctx, const char *name, Tensor t)
{
    (void)ctx;
    if (strncmp(name, "text_decoder.cls.predictions", 28)) return;
    if (name[28] && (name[28] != '.' || name[29] < '0' || name[29] > '9')) return;
    if (logits.step < logits.want.dim[0]) {
        const float *want = f32(rows(logits.want, logits.step, 1));
        logits.worst = fmax(logits.worst, nmse(f32(t), want, n_elem(t)));
    }
    logits.step++;
}

static void check_sequence(const Answers *a, int i, const char *kind, Generated g, int sep)
{
    Tensor want = answer(a, i, scratch_string("%s.ids", kind));
    Tensor margin = answer(a, i, scratch_string("%s.margin", kind));
    float clear = INFINITY;
    for (size_t k = 0; k < n_elem(margin); k++) clear = fminf(clear, f32(margin)[k]);
    if (clear < MARGIN) {
        printf("skipped: %s: case %d, %s: the reference's margin is %g\n", model, i, kind, clear);
        n_skipped++;
        return;
    }
    bool same = g.n == want.dim[0] && !memcmp(g.id, want.data, (size_t)g.n * sizeof(int));
    if (!check(same, scratch_string("case %d: %s: ids", i, kind))) {
        print_ids("    got ", g.id, g.n);
        print_ids("    want", want.data, want.dim[0]);
    }
    check(g.stopped == (g.id[g.n - 1] == sep), "stopped means: by the end token");
    float sum = 0;
    for (int k = g.n_prompt; k < g.n; k++) {
        TokenInfo t = g.info[k - g.n_prompt];
        check(t.chosen.id == g.id[k] && t.chosen.logprob <= t.top[0].logprob &&
              t.top[0].logprob >= t.top[1].logprob, "logprobs");
        sum += t.chosen.logprob;
    }
    Tensor score = answer(a, i, scratch_string("%s.score", kind));
    if (score.data && same)
        check(fabsf(sum / (float)(g.n - g.n_prompt) - f32(score)[0]) < 1e-4f, "score of the beams");
}

/* A prompt or question that the model has no positions for fails the item, not the run. */
static void blip_too_long(Blip *b, BlipImage im)
{
    enum { N = 1000 };
    static int ids[N];
    jmp_buf place;
    item_error.code = "";
    if (setjmp(place) == 0) {
        landing = &place;
        if (blip_kind(b) == BLIP_VQA) blip_answer(b, im, ids, N, (GenOptions){ .max_tokens = 1 });
        else blip_caption(b, im, ids, N, (GenOptions){ .max_tokens = 1 });
    }
    landing = NULL;
    check(!strcmp(item_error.code, "input.text"), "a text that is too long fails the item");
}

static void blip_generates(const char *dir, Answers *a)
{
    Json config = config_of(dir);
    Blip *b = blip_load(ckpt_open(dir), config);
    int sep = json_int(json_get(config, "text_config"), "sep_token_id", 102, 0, 1 << 22);
    Preprocess standard = preprocess_blip(blip_image_size(b));
    for (int i = 0; i < json_len(a->cases); i++) {
        size_t mark = scratch_mark();
        Tensor image = pixels(dir, image_of(a, i), standard);
        if (i == 0) check_pixels(a, image);
        if (i == 0 && a->traced) {
            watch_start(a);
            blip_run(b, blip_image(b, image), a, i, (GenOptions){ .max_tokens = 4 });
            watch_end();
        }
        BlipImage im = blip_image(b, image);
        logits.want = answer(a, i, "greedy.logits");
        logits.step = 0;
        logits.worst = 0;
        trace_to(logits_one, NULL);
        Generated g = blip_run(b, im, a, i, (GenOptions){ .max_tokens = -1, .logprobs = 3 });
        trace_to(NULL, NULL);
        check_sequence(a, i, "greedy", g, sep);
        if (!check(logits.step == logits.want.dim[0] && logits.worst <= MAX_NMSE, "logits"))
            printf("    case %d: %d steps, NMSE %g\n", i, logits.step, logits.worst);
        g = blip_run(b, im, a, i, (GenOptions){ .max_tokens = -1, .beams = 3, .logprobs = 3 });
        check_sequence(a, i, "beams", g, sep);
        Generated none = blip_run(b, im, a, i, (GenOptions){ .max_tokens = 0, .beams = 3 });
        check(none.n == none.n_prompt && !none.stopped, "no new tokens");
        if (i == 0 && tiny()) blip_too_long(b, im);
        scratch_reset(mark);
    }
}

static void blip_matches(const char *dir, Answers *a)
{
    Blip *b = blip_load(ckpt_open(dir), config_of(dir));
    Preprocess standard = preprocess_blip(blip_image_size(b));
    const char *last = "";
    BlipImage im = { 0 };
    for (int i = 0; i < json_len(a->cases); i++) {
        if (strcmp(last, image_of(a, i))) {
            last = image_of(a, i);
            Tensor image = pixels(dir, last, standard);
            if (i == 0) check_pixels(a, image);
            if (i == 0 && a->traced) watch_start(a);
            else if (a->traced) watch_end();
            im = blip_image(b, image);
        }
        int n;
        const int *ids = ids_of(a, i, &n);
        float match, cosine;
        blip_match(b, im, ids, n, &match, &cosine);
        near(&match, answer(a, i, "match"), "match");
        near(&cosine, answer(a, i, "cosine"), "cosine");
    }
}

static void blip_test(const char *dir, Answers *a)
{
    if (json_get(json_at(a->cases, 0), "match").node) blip_matches(dir, a);
    else blip_generates(dir, a);
}

/* === CLIP ===================================================================================== */

/* Padding with the end token changes nothing; what is too long loses what stands before its end. */
static void clip_ends(Clip *c, const Answers *a)
{
    for (int i = 0; i < json_len(a->cases); i++) {
        int n, longer[64];
        const int *ids = ids_of(a, i, &n);
        if (!ids || n > 40) continue;
        memcpy(longer, ids, (size_t)n * sizeof(int));
        if (n < 21) {                                     /* the context of these models */
            for (int k = n; k < 21; k++) longer[k] = ids[n - 1];
            near(f32(clip_text(c, longer, 1, 21)), answer(a, i, "vector"), "a padded text");
        } else {
            longer[n - 1] = longer[n] = 5;
            longer[n + 1] = ids[n - 1];
            near(f32(clip_text(c, longer, 1, n + 2)), answer(a, i, "vector"), "a cut text");
        }
    }
}

/* Texts of one length together give the bits that each gives alone. */
static void clip_stack(Clip *c)
{
    enum { N_TEXTS = 5, LEN = 7 };
    int ids[N_TEXTS * LEN];
    for (int i = 0; i < N_TEXTS * LEN; i++) ids[i] = 1 + i * 3 % 17;
    Tensor all = clip_text(c, ids, N_TEXTS, LEN);
    for (int i = 0; i < N_TEXTS; i++) {
        Tensor one = clip_text(c, ids + i * LEN, 1, LEN);
        check(!memcmp(f32(one), f32(rows(all, i, 1)), n_elem(one) * sizeof(float)),
              "a text among others");
    }
}

static void clip_test(const char *dir, Answers *a)
{
    Clip *c = clip_load(ckpt_open(dir), config_of(dir));
    Preprocess standard = preprocess_clip(clip_image_size(c));
    bool first = true;
    int n_cases = json_len(a->cases);
    Tensor *vector = scratch_bytes((size_t)n_cases * sizeof *vector);
    if (a->traced) watch_start(a);
    for (int i = 0; i < n_cases; i++) {
        int n;
        const int *ids = ids_of(a, i, &n);
        if (ids) {
            vector[i] = clip_text(c, ids, 1, n);
        } else {
            if (!first) trace_to(NULL, NULL);             /* one picture is traced */
            Tensor image = pixels(dir, image_of(a, i), standard);
            if (first) check_pixels(a, image);
            first = false;
            vector[i] = clip_image(c, image);
            if (a->traced) trace_to(watch_one, NULL);
        }
        near(f32(vector[i]), answer(a, i, "vector"), "vector");
        l2_normalize(vector[i]);
        near(f32(vector[i]), answer(a, i, "vector_normalized"), "vector_normalized");
    }
    if (a->traced) watch_end();
    if (tiny()) clip_ends(c, a);
    if (tiny()) clip_stack(c);
    for (int i = 0; i < n_cases; i++) {                   /* a picture against all texts */
        Tensor want = answer(a, i, "logits"), scores;
        if (!want.data) continue;
        scores = scratch(1, (int)n_elem(want));
        for (int k = 0, j = 0; k < n_cases; k++)
            if (!image_of(a, k))
                f32(scores)[j++] = clip_logit_scale(c)
                                   * dot(f32(vector[i]), f32(vector[k]), clip_dim(c));
        near(f32(scores), want, "logits");
        softmax_rows(scores);
        near(f32(scores), answer(a, i, "scores"), "scores");
    }
}

/* === BERT ===================================================================================== */

/* What is too long loses what stands before its end token. */
static void bert_ends(Sentence *s, const char *dir)
{
    enum { N = 100 };
    int ids[N], max = json_int(config_of(dir), "max_position_embeddings", 512, 1, 512);
    max = json_int(json_file(dir, "sentence_bert_config.json", 1 << 20), "max_seq_length", max, 1,
                   512);
    if (!check(max < N, "a model of few positions")) return;
    for (int i = 0; i < N; i++) ids[i] = 5 + i % 50;
    Tensor cut = sentence_forward(s, ids, N);
    ids[max - 1] = ids[N - 1];
    Tensor right = sentence_forward(s, ids, max);
    check(!memcmp(cut.data, right.data, n_elem(cut) * sizeof(float)), "a cut text");
}

static void bert_test(const char *dir, Answers *a)
{
    Sentence *s = sentence_load(dir, ckpt_open(dir), config_of(dir));
    size_t n_json;
    char *modules = model_file(dir, "modules.json", 1 << 20, &n_json);
    bool normalized = modules && strstr(modules, "Normalize");
    for (int i = 0; i < json_len(a->cases); i++) {
        int n;
        const int *ids = ids_of(a, i, &n);
        if (a->traced && i == 0) watch_start(a);
        if (a->traced && i == 2) watch_end();
        Tensor v = sentence_forward(s, ids, n);
        near(f32(v), answer(a, i, normalized ? "vector_normalized" : "vector"), "vector");
        l2_normalize(v);
        near(f32(v), answer(a, i, "vector_normalized"), "vector_normalized");
    }
    if (tiny()) bert_ends(s, dir);
}

static double cosine(Sentence *s, const Answers *a, int i, int k)
{
    int n_i, n_k;
    const int *ids_i = ids_of(a, i, &n_i), *ids_k = ids_of(a, k, &n_k);
    Tensor u = sentence_forward(s, ids_i, n_i), v = sentence_forward(s, ids_k, n_k);
    l2_normalize(u);
    l2_normalize(v);
    return dot(f32(u), f32(v), n_cols(u));
}

/* A real model: MiniLM, where there are assets. */
static void minilm_test(void)
{
    const char *assets = getenv("MM_ASSETS");
    const char *dir = keep_string("%s/models/minilm", assets ? assets : "../shared/assets");
    size_t n_json;
    model = "minilm";
    if (!model_file(dir, "config.json", 1 << 20, &n_json)) {
        printf("skipped: minilm: %s is not there\n", dir);
        n_skipped++;
        return;
    }
    Answers a = answers_load("test/data/minilm");
    Sentence *s = sentence_load(dir, ckpt_open(dir), config_of(dir));
    for (int i = 0; i < json_len(a.cases); i++) {
        int n;
        const int *ids = ids_of(&a, i, &n);
        Tensor v = sentence_forward(s, ids, n), want = answer(&a, i, "vector_normalized");
        l2_normalize(v);
        double worst = 0;
        for (size_t k = 0; k < n_elem(v); k++) worst = fmax(worst, fabs(f32(v)[k] - f32(want)[k]));
        if (!check(worst <= 1e-5, "sentence vector")) printf("    case %d: off by %g\n", i, worst);
    }
    check(cosine(s, &a, 0, 1) > cosine(s, &a, 0, 2) + 0.2, "a cat: nearer to a kitten");
}

/* === Configurations that cannot be right ====================================================== */

static void load_any(const char *dir, Json config)
{
    Ckpt ck = ckpt_open(dir);
    const char *type = json_str(config, "model_type", "");
    if (!strcmp(type, "blip")) blip_load(ck, config);
    else if (!strcmp(type, "clip")) clip_load(ck, config);
    else sentence_load(dir, ck, config);
}

/* Loads the model with `from` replaced by `to` in its config.json, at the first place after
 * `after`. It must die with this code, and with a message that has `says` in it. */
static void dies(const char *name, const char *after, const char *from, const char *to, int code,
                 const char *says)
{
    model = name;
    size_t n;
    const char *dir = keep_string("test/data/models/%s", name);
    char *text = model_file(dir, "config.json", 1 << 20, &n);
    char *at = strstr(text, after);
    at = at ? strstr(at, from) : NULL;
    if (!check(at, keep_string("config.json has %s", from))) return;
    char *bad = keep_string("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    jmp_buf place;
    int got = setjmp(place);
    if (!got) {
        die_landing = &place;
        load_any(dir, json_parse("config.json", bad, strlen(bad), 64, EXIT_FILE));
    }
    die_landing = NULL;
    if (!check(got == code && strstr(item_error.msg, says), keep_string("%s -> %s", from, to)))
        printf("    exit code %d, expected %d: %s\n", got, code, got ? item_error.msg : "(loaded)");
}

static void bad_configs(void)
{
#define VISION "clip", "vision_config\""
#define SIZE   VISION, "\"hidden_size\": 44"
    static const struct {
        const char *name, *after, *from, *to; int code; const char *says;
    } BAD[] = {
        { SIZE, "\"hidden_size\": 0", 4, "hidden_size" },
        { SIZE, "\"hidden_size\": -1", 4, "hidden_size" },
        { SIZE, "\"hidden_size\": 1e9", 4, "hidden_size" },
        { SIZE, "\"hidden_size\": \"44\"", 4, "hidden_size" },
        { SIZE, "\"hidden_size\": 48", 4, "[44" },
        { SIZE, "\"old_size\": 44", 4, "768" },
        { VISION, "_heads\": 4", "_heads\": 5", 4, "does not divide" },
        { VISION, "_heads\": 4", "_heads\": 0", 4, "num_attention_heads" },
        { VISION, "_layers\": 3", "_layers\": 4", 4, "encoder.layers.3." },
        { VISION, "_layers\": 3", "_layers\": 2", 4, "encoder.layers.2." },
        { VISION, "_layers\": 3", "_layers\": 2000000000", 4, "num_hidden_layers" },
        { VISION, "image_size\": 30", "image_size\": 36", 4, "position_embedding" },
        { VISION, "image_size\": 30", "image_size\": 6", 4, "patch_size" },
        { VISION, "patch_size\": 7", "patch_size\": 0", 4, "patch_size" },
        { VISION, "\"quick_gelu\"", "\"swoosh\"", 4, "hidden_act" },
        { VISION, "\"layer_norm_eps\": 1e-05", "\"layer_norm_eps\": -1", 4, "eps" },
        { "clip", "", "\"projection_dim\": 20", "\"projection_dim\": 21", 4, "visual_projection" },
        { "bert-mean", "", "\"vocab_size\": 131", "\"vocab_size\": 130", 4, "word_embeddings" },
        { "bert-mean", "", "\"vocab_size\": 131", "\"vocab_size\": 100000000000", 4, "vocab_size" },
        { "bert-mean", "", "\"absolute\"", "\"relative_key\"", 3, "position_embedding_type" },
        { "bert-mean", "", "_embeddings\": 40", "_embeddings\": 41", 4, "position_embeddings" },
        { "bert-mean", "", "mediate_size\": 52", "mediate_size\": 51", 4, "intermediate" },
        { "blip-caption", "text_config", "sep_token_id\": 3", "sep_token_id\": -3", 4, "sep_t" },
        { "blip-caption", "text_config", "bos_token_id\": 131", "bos_token_id\": 133", 4, "bos_" },
        { "blip-caption", "vision_config", "patch_size\": 8", "patch_size\": 9", 4, "position" },
        { "clip", "", "\"vision_config\"", "\"old_config\"", 4, "768" },
        { "clip", "", "\"vision_config_dict\": null", "\"vision_config_dict\": {}", 4, "768" },
        { "clip", "", "\"vision_config_dict\": null", "\"vision_config_dict\": []", 4, "_dict" },
        { "clip", "", "\"text_config\": {", "\"text_config\": 7, \"x\": {", 4, "text_config" },
        { "blip-vqa", "", "\"text_config\"", "\"old_config\"", 4, "768" },
        { "blip-itm", "", "_hidden_size\": 20", "_hidden_size\": 24", 4, "vision_proj" },
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        dies(BAD[i].name, BAD[i].after, BAD[i].from, BAD[i].to, BAD[i].code, BAD[i].says);
}

/* === All of them ============================================================================== */

static void test_model(const char *name)
{
    size_t mark = scratch_mark();
    model = name;
    const char *dir = keep_string("%s/%s", folder, name);
    Answers a = answers_load(dir);
    const char *type = json_str(config_of(dir), "model_type", "");
    if (!strcmp(type, "blip")) blip_test(dir, &a);
    else if (!strcmp(type, "clip")) clip_test(dir, &a);
    else bert_test(dir, &a);
    scratch_reset(mark);
}

int main(int argc, char **argv)
{
    static const char *const TINY[] = {
        "clip", "clip-gelu", "clip-gelu-f16", "bert-mean", "bert-legacy", "bert-bf16",
        "blip-caption", "blip-caption-f16", "blip-caption-bf16", "blip-vqa", "blip-itm",
    };
    kernels_init(getenv("MM_CPU"), true);
    threads_start(0);
    if (argc > 1) {
        folder = argv[1];
        for (int i = 2; i < argc; i++) test_model(argv[i]);
    } else {
        for (size_t i = 0; i < sizeof TINY / sizeof *TINY; i++) test_model(TINY[i]);
        minilm_test();
        bad_configs();
    }
    printf("models: %d passed, %d failed, %d skipped\n", n_passed, n_failed, n_skipped);
    return n_failed > 0;
}
