/* info.c -- mm info: what a model, a picture or this machine is, without computing anything;
 * mm ls: which models there are.
 *
 * All that is told of a model was checked on the way: it has been opened and every tensor bound, so
 * "176 used, 0 unknown, 0 missing" is a result and no hope.
 *
 * Easy to get wrong: the file is mapped, shared by all processes that use it, and can be dropped by
 * the system at any time; what a process needs for itself is a small part beside it. Adding both
 * up would frighten people off models that run well. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

const char *bytes_string(double n)
{
    static char buf[8][24];
    static int at;
    char *s = buf[at++ % 8];
    if (n >= 9.95e9) snprintf(s, 24, "%.0f GB", n / 1e9);
    else if (n >= 1e9) snprintf(s, 24, "%.1f GB", n / 1e9);
    else if (n >= 1e6) snprintf(s, 24, n < 9.95e6 ? "%.1f MB" : "%.0f MB", n / 1e6);
    else snprintf(s, 24, n < 9.95e3 ? "%.1f kB" : "%.0f kB", n / 1e3);
    return s;
}

static void print_buf(Buf *b)
{
    put(b, "\n");
    fwrite(b->p, 1, b->n, stdout);
}

/* === Pictures ================================================================================= */

bool info_picture(const char *path, const Options *o)
{
    struct stat st;
    bool std = strcmp(path, "-") == 0;
    if (!std && (stat(path, &st) || !S_ISREG(st.st_mode))) return false;
    if (!std) {
        size_t len = strlen(path);
        bool model = len > 12 && strcmp(path + len - 12, ".safetensors") == 0;
        if (access(path, R_OK)) die(EXIT_INPUT, "%s: %s", quoted(path), strerror(errno));
        if (model || strstr(path, "config.json")) return false;
    }
    size_t n;
    uint8_t *bytes = read_picture_file(std ? "/dev/stdin" : path, &n);
    ImageInfo f = image_info(path, bytes, n);
    Buf b = {0};
    if (o->json) {
        put(&b, "{\"v\":1,\"cmd\":\"info\",\"i\":0,\"id\":");
        put_json(&b, path, strlen(path));
        put(&b, ",\"ok\":true,\"format\":\"%s\",\"size\":[%d,%d],\"channels\":%d,\"bits\":%d,"
            "\"palette\":%s,\"orientation\":%d,\"bytes\":%zu", f.format, f.w, f.h, f.channels,
            f.bits, f.palette ? "true" : "false", f.orientation, n);
        if (f.text) {
            put(&b, ",\"text\":");
            put_json(&b, f.text, strlen(f.text));
        }
        put(&b, "}");
        print_buf(&b);
        return true;
    }
    static const char *const TURN[] = { "", "mirrored", "upside down", "upside down, mirrored",
        "mirrored, turned left", "turned left", "mirrored, turned right", "turned right" };
    put(&b, "%s  %d x %d pixels, %d channel%s of %d bits%s, %s", f.format, f.w, f.h, f.channels,
        f.channels == 1 ? "" : "s", f.bits, f.palette ? " (palette)" : "", bytes_string((double)n));
    if (f.orientation > 1 && f.orientation <= 8)
        put(&b, "\nEXIF orientation %d: stored %s; mm turns it (--no-exif: not)", f.orientation,
            TURN[f.orientation - 1]);
    if (f.text) {
        put(&b, "\n");
        put_plain(&b, f.text, strlen(f.text), false, false, isatty(STDOUT_FILENO));
    }
    print_buf(&b);
    return true;
}

/* === The machine ============================================================================== */

static const char *cpu_name(void)
{
    static char line[300];
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        fclose(f);
        line[strcspn(line, "\n")] = 0;
        return colon + 1 + strspn(colon + 1, " ");
    }
    if (f) fclose(f);
    return "not known";
}

void info_cpu(const Options *o, const char *level, const char *available)
{
    Buf b = {0};
    if (o->json) {
        put(&b, "{\"v\":1,\"cmd\":\"info\",\"i\":0,\"id\":\"--cpu\",\"ok\":true,\"cpu\":");
        put_json(&b, cpu_name(), strlen(cpu_name()));
        put(&b, ",\"isa\":\"%s\",\"levels\":[", level);
        for (const char *s = available; *s; ) {
            size_t n = strcspn(s, " ");
            put(&b, "%s\"%.*s\"", s == available ? "" : ",", (int)n, s);
            s += n + strspn(s + n, " ");
        }
        put(&b, "],\"threads\":%d,\"reason\":", n_threads());
        put_json(&b, threads_reason(), strlen(threads_reason()));
        put(&b, ",\"memory_free\":%zu}", memory_available());
    } else {
        put(&b, "cpu      %s\nkernels  %s   (this CPU has: %s; --isa or MM_CPU caps them)\n",
            quoted(cpu_name()), level, available);
        put(&b, "threads  %d   (%s)\nmemory   %s free", n_threads(), threads_reason(),
            bytes_string((double)memory_available()));
    }
    print_buf(&b);
}

/* === Models =================================================================================== */

void info_tensors(Ckpt ck, const Options *o)
{
    for (int i = 0; i < ckpt_count(ck); i++) {
        size_t mark = scratch_mark();
        CkptEntry e = ckpt_entry(ck, i);
        Buf b = {0};
        if (o->json) {
            put(&b, "{\"name\":");
            put_json(&b, e.name, strlen(e.name));
            put(&b, ",\"dtype\":");
            put_json(&b, e.dtype, strlen(e.dtype));
            put(&b, ",\"shape\":[");
        } else put(&b, "%s\t%s\t[", quoted(e.name), quoted(e.dtype));
        for (int k = 0; k < e.ndim; k++)
            put(&b, "%s%lld", !k ? "" : o->json ? "," : ", ", (long long)e.dim[k]);
        if (o->json) {
            put(&b, "],\"offset\":%llu,\"bytes\":%llu,\"file\":", (unsigned long long)e.offset,
                (unsigned long long)e.n_bytes);
            put_json(&b, e.file, strlen(e.file));
            put(&b, ",\"used\":%s}", e.used ? "true" : "false");
        } else
            put(&b, "]\t%llu\t%s%s", (unsigned long long)e.offset, quoted(e.file),
                e.used ? "" : "\tnot used");
        print_buf(&b);
        scratch_reset(mark);
    }
}

/* What the files hold: how many, which types, what is used. */
typedef struct { int n_files, n_used, n; const char *types; } Weights;

static Weights count_weights(Ckpt ck)
{
    Weights w = { .n = ckpt_count(ck), .types = "" };
    const char *last_file = NULL;
    for (int i = 0; i < w.n; i++) {
        CkptEntry e = ckpt_entry(ck, i);
        if (!last_file || strcmp(last_file, e.file)) w.n_files++;
        last_file = e.file;
        w.n_used += e.used;
        if (strlen(w.types) < 100 && !strstr(w.types, e.dtype))
            w.types = scratch_string("%s%s%s", w.types, *w.types ? " " : "", e.dtype);
    }
    return w;
}

/* What a model says it knows; all of it as JSON, some as text. A built-in one has a licence too. */
static void put_known(Buf *b, const ModelFacts *m, bool json)
{
    const BuiltinModel *in = builtin_model(m->dir);
    int n = json || m->n_known < 8 ? m->n_known : 8;
    if (json) {
        put(b, ",\"knows\":[");
        for (int i = 0; i < n; i++) {
            put(b, "%s", i ? "," : "");
            put_json(b, m->known[i], strlen(m->known[i]));
        }
        put(b, "]");
        if (in) put(b, ",\"data\":\"%s\",\"licence\":\"%s\"", in->data, in->licence);
        return;
    }
    put(b, "\n  knows    %d things:", m->n_known);
    for (int i = 0; i < n; i++) put(b, "%s %s", i ? "," : "", quoted(m->known[i]));
    put(b, "%s", n < m->n_known ? ", ... (all of them: --json)" : "");
    if (!in) return;
    put(b, "\n  data     %s\n  licence  %s\n  limits   no photographs; its measured quality: %s",
        in->data, in->licence, in->card);
}

static void model_json(Buf *b, const ModelFacts *m, const Weights *w, const Cost *c)
{
    const Tower *v = &c->vision, *t = &c->text;
    put(b, "{\"v\":1,\"cmd\":\"info\",\"i\":0,\"id\":");
    put_json(b, m->label, strlen(m->label));
    put(b, ",\"ok\":true,\"name\":\"%s\",\"architecture\":\"%s\",\"runs\":[", m->name, m->arch);
    for (const char *s = m->runs; *s; ) {
        size_t n = strcspn(s, ",");
        put(b, "%s\"%.*s\"", s == m->runs ? "" : ",", (int)n, s);
        s += n + strspn(s + n, ", ");
    }
    put(b, "]");
    if (v->layers)
        put(b, ",\"vision\":{\"layers\":%d,\"d\":%d,\"heads\":%d,\"image_size\":%d,"
            "\"patch_size\":%d,\"tokens\":%d}", v->layers, v->d, v->heads, v->image, v->patch,
            v->n_tok);
    put(b, ",\"text\":{\"layers\":%d,\"d\":%d,\"heads\":%d,\"context\":%d,\"vocab\":%d,"
        "\"tokenizer\":\"%s\"}", t->layers, t->d, t->heads, t->context, t->vocab, m->tokenizer);
    put(b, ",\"weights\":{\"files\":%d,\"bytes\":%.0f,\"types\":", w->n_files, c->mapped);
    put_json(b, w->types, strlen(w->types));
    put(b, ",\"tensors\":%d,\"used\":%d,\"unknown\":0,\"missing\":0}", w->n, w->n_used);
    if (m->n_known) put_known(b, m, true);
    put(b, ",\"memory\":{\"mapped\":%.0f,\"private_estimate\":%.0f,\"free\":%.0f", c->mapped,
        c->own, (double)memory_available());
    if (c->ctx) put(b, ",\"ctx\":%d,\"kv_per_token\":%.0f", c->ctx, c->kv_token);
    put(b, "},\"speed_estimate\":{\"threads\":%d,\"read_bytes_s\":%.3g,\"flop_s\":%.3g",
        n_threads(), c->read, c->multiply);
    if (c->image_s > 0) put(b, ",\"image_s\":%.3g", c->image_s);
    if (c->text_s > 0) put(b, ",\"text_s\":%.3g", c->text_s);
    if (c->token_s > 0) put(b, ",\"token_s\":%.3g", c->token_s);
    if (c->prompt_s > 0) put(b, ",\"prompt_token_s\":%.3g", c->prompt_s);
    put(b, "}}");
}

/* Two digits: an estimate has no more. */
static const char *about(double x)
{
    double step = 1;
    while (x >= 100 * step) step *= 10;
    return x < 10 ? scratch_string("%.2g", x)
                  : scratch_string("%.0f", step * (double)(int64_t)(x / step + 0.5));
}

static const char *seconds_about(double s)
{
    return s < 0.1 ? scratch_string("%s ms", about(1e3 * s)) : scratch_string("%s s", about(s));
}

static void model_text(Buf *b, const ModelFacts *m, const Weights *w, const Cost *c)
{
    const Tower *v = &c->vision, *t = &c->text;
    const char *commit = strrchr(m->label, '@'), *line = "";
    double available = (double)memory_available();
    put(b, "%s  (%s%s%s)      runs: %s\n", m->name, m->arch, commit ? ", commit " : "",
        commit ? quoted(commit + 1) : "", m->runs);
    if (v->layers)
        put(b, "  vision   ViT-%d/%d, %d layers, d %d, %d heads -> %d tokens\n", v->image, v->patch,
            v->layers, v->d, v->heads, v->n_tok);
    put(b, "  text     %d layers, d %d, %d heads, ctx %d, vocab %d (%s)\n", t->layers, t->d,
        t->heads, t->context, t->vocab, m->tokenizer);
    put(b, "  weights  %d file%s, %s %s, %d tensors: %d used, %d ignored, 0 unknown, 0 missing"
        "      headers: valid\n", w->n_files, w->n_files == 1 ? "" : "s", bytes_string(c->mapped),
        quoted(w->types), w->n, w->n_used, w->n - w->n_used);
    put(b, "  memory   %s mapped (shared) + about %s private", bytes_string(c->mapped),
        bytes_string(c->own));
    if (c->ctx) put(b, " at ctx %d (%s a token)", c->ctx, bytes_string(c->kv_token));
    put(b, ";  this machine: %s free  %s\n", bytes_string(available), c->mapped + c->own < available
        ? "OK" : "TIGHT: weights will be read from disk again and again");
    if (c->token_s > 0) line = scratch_string("%s tokens/s", about(1 / c->token_s));
    if (c->prompt_s > 0) line = scratch_string("%s, prompts %s tokens/s", line,
                                               about(1 / c->prompt_s));
    if (c->image_s > 0) line = scratch_string("%s%s%s per image", line, *line ? ", " : "",
                                              seconds_about(c->image_s));
    if (c->text_s > 0) line = scratch_string("%s%s%s per text", line, *line ? ", " : "",
                                             seconds_about(c->text_s));
    put(b, "  speed    about %s on %d thread%s (weights: %s/s read, %s GFLOP/s)    [estimate]",
        line, n_threads(), n_threads() == 1 ? "" : "s", bytes_string(c->read),
        about(1e-9 * c->multiply));
    if (m->n_known) put_known(b, m, false);
}

void info_model(const ModelFacts *m, const Options *o)
{
    Weights w = count_weights(m->ck);
    Cost c = estimate(m, o);
    Buf b = {0};
    if (o->json) model_json(&b, m, &w, &c);
    else model_text(&b, m, &w, &c);
    print_buf(&b);
}

/* === mm ls ==================================================================================== */

void info_found(const FoundModel *m, int i, const Options *o)
{
    size_t mark = scratch_mark();
    Buf b = {0};
    if (o->json) {
        put(&b, "{\"v\":1,\"cmd\":\"ls\",\"i\":%d,\"id\":", i);
        put_json(&b, m->name, strlen(m->name));
        put(&b, ",\"ok\":%s,\"bytes\":%.0f,\"dir\":", m->bytes > 0 ? "true" : "false",
            m->bytes);
        if (m->dir) put_json(&b, m->dir, strlen(m->dir));
        else put(&b, "null");
        put(&b, "}");
    } else
        put(&b, "%7s  %-40s  %s%s", bytes_string(m->bytes), quoted(m->name),
            m->dir ? quoted(m->dir) : "(in the program)",
            m->bytes > 0 ? "" : "  (no weights there that mm reads)");
    print_buf(&b);
    scratch_reset(mark);
}
