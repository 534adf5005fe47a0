/* answers.h -- what the tests of models share: the reference's answers (test/reference/README.md),
 * and the comparison of every intermediate with them.
 *
 *   NAME.answers.json         the cases
 *   NAME.answers.safetensors  what the reference computed: "cases.N.WHAT", and by name
 *
 * Limit of a comparison: normalised mean square error 1e-10, that is, 1e-5 of the size of the
 * tensor. f32 sums of up to a hundred terms are good to about 1e-7; the rest is for the layers that
 * amplify it. Sequences must be equal where the reference's decisions were clear by more than
 * MARGIN, which is ten times the largest difference of logits within that limit.
 *
 * Each test program includes this file once; everything in it is its own. */
#ifndef ANSWERS_H
#define ANSWERS_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../mm.h"

#pragma GCC diagnostic ignored "-Wunused-function"      /* no program needs all of it */

static const double MAX_NMSE = 1e-10, MARGIN = 1e-4;

static int n_passed, n_failed, n_skipped;
static const char *model = "", *folder = "test/data/models";

static bool tiny(void) { return !strcmp(folder, "test/data/models"); }

static bool check(bool ok, const char *what)
{
    if (ok) { n_passed++; return true; }
    n_failed++;
    printf("failed: %s: %s\n", model, what);
    return false;
}

/* === Answers ================================================================================== */

typedef struct {
    uint8_t *bytes;
    Ckpt     ck;
    Json     cases;
    bool    *seen;               /* by number of the entry */
    bool     traced;             /* there are intermediates */
} Answers;

static uint8_t *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f) die(EXIT_INPUT, "%s: cannot be read", path);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *bytes = keep_bytes(*n + 1);
    if (fread(bytes, 1, *n, f) != *n) die(EXIT_INPUT, "%s: cannot be read", path);
    fclose(f);
    return bytes;
}

static bool is_intermediate(const char *name)
{
    return strncmp(name, "cases.", 6) && strcmp(name, "pixel_values");
}

static Answers answers_load(const char *path)
{
    size_t n;
    char *text = (char *)read_file(keep_string("%s.answers.json", path), &n);
    Json json = json_parse("answers", text, n, 64, EXIT_FILE);
    Answers a = { .cases = json_get(json, "cases") };
    a.bytes = read_file(keep_string("%s.answers.safetensors", path), &n);
    a.ck = ckpt_parse("answers", a.bytes, n);
    a.seen = keep_bytes((size_t)ckpt_count(a.ck));
    for (int i = 0; i < ckpt_count(a.ck); i++)
        if (is_intermediate(ckpt_entry(a.ck, i).name)) a.traced = true;
    return a;
}

/* The entry of that name; false if there is none. */
static bool find(const Answers *a, const char *name, CkptEntry *e, int *number)
{
    for (int i = 0; i < ckpt_count(a->ck); i++) {
        *e = ckpt_entry(a->ck, i);
        *number = i;
        if (!strcmp(e->name, name)) return true;
    }
    return false;
}

/* A tensor of case i; {0} if there is none. Ids are I32, all else F32. */
static Tensor answer(const Answers *a, int i, const char *name)
{
    CkptEntry e;
    int number;
    if (!find(a, scratch_string("cases.%d.%s", i, name), &e, &number)) return (Tensor){ 0 };
    Tensor t = { .data = a->bytes + e.offset, .dtype = F32, .ndim = e.ndim };
    for (int k = 0; k < e.ndim; k++) t.dim[k] = (int)e.dim[k];
    return t;
}

static double nmse(const float *got, const float *want, size_t n)
{
    double diff = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        diff += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += (double)want[i] * want[i];
    }
    return size > 0 ? diff / size : diff > 0 || isnan(diff) ? INFINITY : 0;
}

static void near(const float *got, Tensor want, const char *what)
{
    if (!check(want.data, what)) return;
    double e = nmse(got, f32(want), n_elem(want));
    if (!check(e <= MAX_NMSE, what)) printf("    NMSE %g\n", e);
}

/* === Intermediates ============================================================================ */

static struct {
    Answers    *a;
    char        last[256];       /* the last that was right */
    int         n;
    bool        failed;
    bool        some;            /* the reference has only some of the names */
} watch;

static bool same_shape(Tensor t, const CkptEntry *e)
{
    bool same = t.ndim == e->ndim;
    for (int i = 0; i < t.ndim && same; i++) same = t.dim[i] == e->dim[i];
    return same;
}

static void watch_one(void *ctx, const char *name, Tensor t)
{
    (void)ctx;
    CkptEntry e;
    int number;
    if (watch.failed) return;
    char what[600];
    if (!find(watch.a, name, &e, &number)) {
        if (watch.some) return;
        snprintf(what, sizeof what, "%s %s: not in the reference", name, shape_string(t));
    } else if (!same_shape(t, &e)) {
        snprintf(what, sizeof what, "%s is %s, in the reference %d dimensions, [%d, %d, ..]", name,
                 shape_string(t), e.ndim, (int)e.dim[0], (int)e.dim[1]);
    } else {
        double err = nmse(f32(t), (const float *)(watch.a->bytes + e.offset), n_elem(t));
        watch.a->seen[number] = true;
        if (err <= MAX_NMSE) {
            snprintf(watch.last, sizeof watch.last, "%s", name);
            watch.n++;
            n_passed++;
            return;
        }
        snprintf(what, sizeof what, "%s %s: NMSE %g", name, shape_string(t), err);
    }
    watch.failed = true;
    check(false, what);
    printf("    %d were right, the last %s\n", watch.n, *watch.last ? watch.last : "(none)");
}

static void watch_start(Answers *a)
{
    memset(&watch, 0, sizeof watch);
    watch.some = !tiny();
    watch.a = a;
    trace_to(watch_one, NULL);
}

/* BLIP's keys and values of the picture are made for the first text and kept for the others; the
 * reference makes them each time. */
static bool kept(const char *name)
{
    const char *cross = strstr(name, "text_encoder.") ? strstr(name, "crossattention.self.") : NULL;
    return cross && (strstr(cross, "key.") || strstr(cross, "value."));
}

static void watch_end(void)
{
    trace_to(NULL, NULL);
    int n_missing = 0;
    for (int i = 0; i < ckpt_count(watch.a->ck) && !watch.failed; i++) {
        const char *name = ckpt_entry(watch.a->ck, i).name;
        if (!is_intermediate(name) || watch.a->seen[i] || kept(name)) continue;
        if (n_missing++ < 5) printf("    not traced: %s\n", name);
    }
    check(n_missing == 0, "every intermediate of the reference is traced");
    check(watch.n > 20, "intermediates were traced");
}

/* === Inputs =================================================================================== */

static Json config_of(const char *dir)
{
    return json_file(dir, "config.json", 1 << 20);
}

static const int *ids_of(const Answers *a, int i, int *n)
{
    Tensor t = answer(a, i, "input_ids");
    *n = t.data ? t.dim[0] : 0;
    return t.data;
}

/* The first picture after preprocessing, against [1, 3, H, W]; false if the answers have none. */
static bool check_pixels(const Answers *a, Tensor got)
{
    CkptEntry e;
    int number;
    if (!find(a, "pixel_values", &e, &number)) return false;
    const float *want = (const float *)(a->bytes + e.offset);
    size_t hw = (size_t)got.dim[0] * (size_t)got.dim[1];
    double worst = 0;
    for (size_t i = 0; i < hw; i++)
        for (size_t c = 0; c < 3; c++)
            worst = fmax(worst, fabs(f32(got)[i * 3 + c] - want[c * hw + i]));
    check(e.dim[2] == got.dim[0] && worst < 1e-6, "pixel_values");
    return true;
}

static void print_ids(const char *what, const int *id, int n)
{
    printf("%s", what);
    for (int i = 0; i < n; i++) printf(" %d", id[i]);
    printf("\n");
}

#endif
