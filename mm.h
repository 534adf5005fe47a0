/* mm.h -- the public face of every file above the ground: pictures, generation, the models, and
 * what the commands share. One section per file. */
#ifndef MM_H
#define MM_H

#include "tensor.h"
#include "tokenizer/tokenizer.h"

#define MM_VERSION "0.1.0"

/* === Pictures (image.c) ======================================================================= */

typedef struct { int w, h; uint8_t *rgb; } Image;           /* [h, w, 3], in scratch */

typedef struct {
    bool    ignore_exif;             /* leave the pixels as they are stored */
    int64_t max_pixels;              /* 0: the default, 100 million */
} ImageOptions;

/* What the file says of itself, without decoding it. */
typedef struct {
    const char *format;              /* "JPEG", "PNG", "BMP", "PNM" */
    int         w, h, channels, bits;
    int         orientation;         /* EXIF, 1 to 8; 1 if there is none */
    bool        palette;
    const char *text;                /* PNG text chunks, "key: value" a line; NULL if none */
} ImageInfo;

/* Reads a picture from memory. `name` is for messages. Fails the item with image.empty, .format
 * (WebP, HEIC, AVIF, GIF, TIFF are named, with the one-line conversion), .truncated, .corrupt,
 * .toobig. Pixels as PIL's convert("RGB"): mm.1, PICTURES. */
Image     image_decode(const char *name, const uint8_t *bytes, size_t n, ImageOptions o);
ImageInfo image_info(const char *name, const uint8_t *bytes, size_t n);
bool      image_is_picture(const uint8_t *bytes, size_t n);  /* by its first bytes: one mm reads */
/* "PNG", "WebP": also kinds of pictures that mm does not read; NULL: no picture. By first bytes. */
const char *image_kind(const uint8_t *bytes, size_t n);
/* Length of the PNM picture that starts at bytes: for streams of them. 0: more bytes are needed. */
size_t    image_pnm_length(const char *name, const uint8_t *bytes, size_t n, ImageOptions o);

typedef enum { NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING } Filter;   /* PIL's numbers */

Image  image_resize(Image in, int w, int h, Filter f);      /* Pillow's, byte for byte */
Image  image_crop(Image in, int w, int h);                  /* centre; zeros where it is larger */

/* What preprocessor_config.json asks for. */
typedef struct {
    bool   resize, crop, rescale, normalize;
    int    resize_w, resize_h;       /* exact size, or ... */
    int    shortest_edge;            /* ... if > 0: keep the aspect, shorter side is this */
    Filter resample;
    int    crop_w, crop_h;
    double rescale_factor;
    float  mean[3], std[3];
    bool   from_file;                /* there was a file that says it */
} Preprocess;

/* standard holds what counts for keys that are absent. Dies with EXIT_FILE for values that make no
 * sense; a missing preprocessor_config.json leaves the standard. */
Preprocess preprocess_load(const char *dir, Preprocess standard);
Preprocess preprocess_clip(int size), preprocess_blip(int size);    /* the classes' defaults */
Tensor     preprocess(Image in, const Preprocess *p);       /* [h, w, 3] F32, scratch */

/* === Generation (sample.c) ==================================================================== */

typedef struct {
    int max_tokens;                  /* new tokens at most; < 0: the model's default */
    int beams;                       /* 0 or 1: greedy */
    int logprobs;                    /* how many alternatives to record; 0: none */
} GenOptions;

typedef struct { int id; float logprob; } TokenProb;
typedef struct { TokenProb chosen; TokenProb *top; } TokenInfo;     /* top: GenOptions.logprobs */

typedef struct {
    int        *id;                  /* prompt and all; scratch */
    int         n, n_prompt;
    bool        stopped;             /* ended by the end token (which is in id) */
    bool        full;                /* ended because the decoder's context is full */
    TokenInfo  *info;                /* one per generated token, if logprobs */
} Generated;

/* One step of a decoder: the next token's logits [n_beams, n_vocab] (scratch, or the model's own
 * buffer, valid until the next step) for n_beams sequences whose newest n tokens are
 * id [n_beams, n]; from, if not NULL, says which beam of the last step each beam continues. The
 * first step brings the prompt, for one beam. */
typedef struct Decoder {
    Tensor (*step)(void *model, const int *id, int n_beams, int n, const int *from);
    void   *model;
    int     end_id;                  /* generation stops after it */
    int     max_len;                 /* prompt and new tokens together, at most */
} Decoder;

/* Greedy or beam search as transformers runs them. o.max_tokens must be set (>= 0). */
Generated generate(const Decoder *dec, const int *prompt, int n_prompt, GenOptions o);

/* === BERT (bert.c) ============================================================================ */

typedef struct Bert Bert;

/* What a stack of BERT layers is made of; the default, all zero, is BERT itself. */
typedef struct {
    bool no_segments;                /* no token_type_embeddings: BLIP */
    int  d_image;                    /* > 0: cross-attention to image rows of this width: BLIP */
} BertOptions;

/* What one call adds; {0} is an encoder that sees all of its n tokens at once. */
typedef struct {
    Tensor   memory;                 /* cross-attention to these rows [n_kv, d_image], if any */
    KvCache *cross;                  /* one per layer, for the memory's keys and values: computed by
                                      * the first call, used by all later ones; NULL: not kept */
    KvCache *self;                   /* one per layer: a decoder. Causal, after what came before */
} BertArgs;

Bert  *bert_load(Ckpt ck, Json config, BertOptions o);      /* ck at "embeddings", "encoder" */
/* The language-model head, ck at "transform", "decoder", "bias". */
void   bert_load_head(Bert *b, Ckpt ck);
/* ids [n_items, n] -> [n_items, n, d], or [n, d] if n_items is 1. Scratch. Texts longer than
 * bert_max_tokens fail the item. */
Tensor bert_forward(Bert *b, const int *ids, int n_items, int n, BertArgs args);
void   bert_logits(Tensor out, Tensor x, const Bert *b);    /* [.., d] -> [.., n_vocab] */
int    bert_layers(const Bert *b), bert_dim(const Bert *b), bert_vocab(const Bert *b);
int    bert_max_tokens(const Bert *b);
/* n_layers empty caches of n_items items and max_len rows of bert_dim; scratch. */
KvCache *bert_caches(const Bert *b, int n_items, int max_len);

/* A sentence encoder: BERT, pooled and, if its modules.json says so, normalised. */
typedef struct Sentence Sentence;
Sentence *sentence_load(const char *dir, Ckpt ck, Json config);
/* ids [n] -> [1, d], scratch. A text that is too long is cut; its end token stays. */
Tensor    sentence_forward(Sentence *s, const int *ids, int n);

/* === Image encoders (vit.c) =================================================================== */

typedef struct Vit Vit;
/* CLIP's (vision_config, names of CLIPVisionModel) and BLIP's; told apart by the loader called. */
Vit   *vit_load_clip(Ckpt ck, Json config);
Vit   *vit_load_blip(Ckpt ck, Json config);
/* [H, W, 3] -> [n_patch+1, d], scratch. BLIP: after the final norm; CLIP: before it. */
Tensor vit_forward(Vit *v, Tensor image);
Tensor vit_pool(Vit *v, Tensor x);                       /* CLIP: the final norm of row 0 [1, d] */
int    vit_image_size(const Vit *v), vit_dim(const Vit *v);

/* === CLIP (clip.c) ============================================================================ */

typedef struct Clip Clip;
Clip  *clip_load(Ckpt ck, Json config);
Tensor clip_image(Clip *c, Tensor image);                   /* -> [1, d_proj], not normalised */
/* ids [n_items, n], texts of one length -> [n_items, d_proj]; cut to the context, the end kept.
 * What a text gives does not depend on those beside it. */
Tensor clip_text(Clip *c, const int *ids, int n_items, int n);
float  clip_logit_scale(const Clip *c);                     /* exp'd: about 100 */
int    clip_image_size(const Clip *c), clip_dim(const Clip *c);

/* === BLIP (blip.c) ============================================================================ */

typedef struct Blip Blip;
typedef enum { BLIP_CAPTION, BLIP_VQA, BLIP_ITM } BlipKind;

/* A picture as the texts see it: what the vision tower made of it, and each text layer's keys and
 * values of it, which the first text that asks fills in. Several texts may use one. Scratch. */
typedef struct {
    Tensor   states;                 /* [n_patch+1, d_image] */
    KvCache *cross;                  /* one per text layer */
    Tensor   common;                 /* ITM: its unit vector in the space of texts [1, d_common] */
} BlipImage;

Blip     *blip_load(Ckpt ck, Json config);                  /* the kind is told by the tensors */
BlipKind  blip_kind(const Blip *b);
BlipImage blip_image(Blip *b, Tensor image);                /* image [H, W, 3] */
/* ids are those of the tokenizer with its special tokens ([CLS] .. [SEP]); n 0: no prompt. */
Generated blip_caption(Blip *b, BlipImage image, const int *ids, int n, GenOptions o);
Generated blip_answer(Blip *b, BlipImage image, const int *ids, int n, GenOptions o);
/* P(match), and the cosine of the contrastive heads. */
void      blip_match(Blip *b, BlipImage image, const int *ids, int n, float *match, float *cosine);
int       blip_image_size(const Blip *b);

/* === Where a model is (hub.c) ================================================================= */

typedef struct {
    const char *dir;                 /* the model directory */
    const char *label;               /* for records: org/name@1234567, or the path as given */
} ModelPath;

/* builtin:NAME, an existing path, $MM_MODELS, an alias, the Hugging Face cache: mm.1, MODELS. Dies
 * with EXIT_MODEL if there is none, naming what was searched. */
ModelPath model_resolve(const char *name);

/* All that are in the program, in $MM_MODELS and in the Hugging Face cache, by a name that
 * model_resolve takes; kept. */
typedef struct {
    const char *name, *dir;          /* dir NULL: in the program */
    double      bytes;               /* of its safetensors */
} FoundModel;
const FoundModel *models_found(int *n);

#endif
