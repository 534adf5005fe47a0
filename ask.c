/* ask.c -- mm caption with a model that converses (LLaVA): each picture is one question.
 *
 *   picture -> rows (vlm.c), kept while the next item has the same picture
 *   question, -p or the record's, in the checkpoint's own template -> ids, the rows in their place
 *   -> the session -> the answer, trimmed
 *
 * Without a question it is asked to describe the picture. Many questions on one picture cost one
 * run of the image tower, and the session keeps what their prompts have in common.
 *
 * Easy to get wrong: the session's rows of an older picture are gone once the next one is there. */
#include <string.h>

#include "model.h"

#define DESCRIBE "Describe this image."

typedef struct {
    Writer              w;
    const ChatTemplate *form;
    const char         *prompt;
    uint64_t            seen;        /* hash of the picture in the session; 0: none */
    int                 first_row;
} Asker;

/* The item's picture is in the session. */
static void look(Asker *a, const Item *item, Result *res)
{
    Run *r = a->w.r;
    Item one = *item;
    computing(r);
    double start = now_ms();
    if (!one.bytes) one.bytes = read_picture_file(one.path, &one.n_bytes);
    uint64_t hash = hash_bytes(one.bytes, one.n_bytes, 1) | 1;
    if (hash == a->seen) return;
    Tensor x = preprocess(item_picture(&one, &r->o), &a->w.m->pre);
    res->ms_decode = now_ms() - start;
    start = now_ms();
    session_clear(a->w.session);
    a->seen = 0;
    a->first_row = session_picture(a->w.session, llava_image(a->w.m->llava, x));
    a->seen = hash;
    res->ms_encode = now_ms() - start;
}

static void ask_item(Run *r, const Item *item, Result *res)
{
    Asker *a = r->ctx;
    const char *text = item->prompt ? item->prompt : a->prompt ? a->prompt : DESCRIBE;
    look(a, item, res);
    Message m = { .role = ROLE_USER, .text = text, .n = strlen(text), .n_images = 1 };
    Ids ids = template_encode(a->form, a->w.m->tok, &m, 1, r->o.raw);
    int n_rows = llava_n_tokens(a->w.m->llava), n = 0;
    int *id = scratch_bytes(mul_size((size_t)(ids.n + n_rows), sizeof *id));
    for (int i = 0; i < ids.n; i++) {
        if (ids.id[i] >= 0) id[n++] = ids.id[i];
        for (int k = 0; ids.id[i] < 0 && k < n_rows; k++) id[n++] = -1 - (a->first_row + k);
    }
    writer_item(&a->w, item, id, n, res);
}

int ask_pictures(Run *r, Model *m, const char *prompt)
{
    Asker *a = keep_bytes(sizeof *a);
    *a = (Asker){ .w = { .m = m, .r = r, .trim = true }, .prompt = prompt };
    a->form = template_open(m->dir, m->config, NULL);
    if (!a->form) a->form = template_open(m->dir, m->config, m->llava && llava_original(m->llava)
                                          ? "llava-v1" : "llava-hf");
    if (!a->form || !template_takes_images(a->form))
        die(EXIT_MODEL, "%s: its template has no place for pictures", quoted(r->model.label));
    model_tokenizer(m);
    model_pictures(m);
    a->w.own_stop = template_stop(a->form);
    a->w.n_own_end = template_ends(a->form, m->tok, a->w.own_end);
    writer_open(&a->w, r, m, 512, input_several(r->in));         /* 512: the authors' own */
    if (a->w.standard.max_tokens >= 0) a->w.max_tokens = a->w.standard.max_tokens;
    a->w.standard.temp = 0;                  /* captions are not drawn */
    r->ctx = a;
    return run_traced(r, ask_item);
}
