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
void   model_tokenizer(Model *m);            /* m->tok */
void   model_pictures(Model *m);             /* m->pre; after model_weights its size is checked */
int    text_context(const Model *m);         /* how many tokens a text may have */
Json   text_config(const Model *m);
/* "caption, tokenize": the commands of a set, the most telling first. A static buffer. */
const char *command_list(const Run *r, unsigned bits);

#endif
