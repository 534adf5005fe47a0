/* model.h -- a model as the commands hold it (mm.c), and how they get it (model.c).
 *
 *   model_open -> may it do that? -> model_weights, model_tokenizer, model_pictures, as the command
 *   needs them
 *
 * All of these die with a message where a file is wrong. Beside mm.h, where each family has its own
 * face; this is what they look like from the command line. */
#ifndef MODEL_H
#define MODEL_H

#include "cli.h"

typedef struct Model Model;

typedef struct {
    const char *type, *arch;         /* config.json: model_type, architectures[0] */
    const char *marker;              /* without architectures: a tensor that only this one has */
    const char *name;
    unsigned    commands;
    void      (*load)(Model *m);
    BlipKind    blip;                /* what blip_load may find instead of what config.json says */
} ModelRow;

struct Model {
    const ModelRow *row;
    const char *dir, *arch;
    Json        config;
    Ckpt        ck;
    Tokenizer  *tok;
    Preprocess  pre;
    bool        has_weights;
    Clip       *clip;                /* which of these are there depends on the row */
    Blip       *blip;
    Sentence   *sentence;
    Llama      *llama;
    Llava      *llava;               /* llama is its language model */
    int         image_size;          /* 0: takes no pictures */
};

/* Which model, and what it is. given: what the user named, or NULL. Sets r->model. Dies with
 * EXIT_MODEL if there is none, or one that does not serve the command. */
Model *model_open(Run *r, const char *given);
/* The same for a command that needs the tokenizer alone: any model's will do, and a directory that
 * has nothing else. Without a row, if mm does not run the model. */
Model *model_open_texts(Run *r, const char *given);
void   model_weights(Run *r, Model *m);
/* mm quantize (quantize.c): the exit code. m is loaded, --quant not applied. */
int    quantize_model(Run *r, Model *m);
void   model_tokenizer(Model *m);            /* m->tok */
void   model_pictures(Model *m);             /* m->pre; after model_weights its size is checked */
int    text_context(const Model *m);         /* how many tokens a text may have */
Json   text_config(const Model *m);

/* === What the commands that write texts share (text.c) ======================================== */

typedef struct Writer {
    Run        *r;
    Model      *m;
    Session    *session;
    GenOptions  standard;            /* what the checkpoint says */
    const char *own_stop;            /* a stop string of the template, or NULL */
    int         own_end[2], n_own_end;       /* and end tokens */
    int         max_tokens;          /* if nobody says; -1: as many as fit */
    bool        trim;                /* blanks around the text do not count */
} Writer;

/* Session and standard as the options say; the tokenizer must be loaded. max_tokens: if nobody
 * says; -1: as many as fit. several: a batch, whose results must not depend on each other. */
void writer_open(Writer *w, Run *r, Model *m, int max_tokens, bool several);
/* The options for an item with this record (absent: none). May fail(). */
GenOptions writer_options(const Writer *w, Json record, int64_t seed);
/* A continuation and its text. */
typedef struct {
    Generated   g;
    const char *text;                /* trimmed, if the writer trims */
    size_t      n;
    const char *stop;                /* "eos", "stop", "length", "context" */
} Written;
/* Continues n ids, with o.put and o.ctx unset. piece (may be NULL) gets the text as it comes, and
 * says whether to go on. */
typedef bool PieceFn(void *ctx, const char *s, size_t n);
Written writer_write(Writer *w, Json record, const int *id, int n, GenOptions o, PieceFn *piece,
                     void *ctx);
/* The same for an item of a run: the text goes to the output as it comes, the rest into res. */
void writer_item(Writer *w, const Item *item, const int *id, int n, Result *res);
/* What to do about a prompt that is longer than the context; scratch. */
const char *context_hint(const Writer *w);
/* --show-prompt: a prompt as text and as ids, into res. */
void writer_show(const char *text, size_t n, Ids ids, Result *res);

int cmd_complete(Run *r), cmd_chat(Run *r);
/* mm caption with a model that converses (ask.c); its weights must be loaded. Exit code. */
int ask_pictures(Run *r, Model *m, const char *prompt);

#endif
