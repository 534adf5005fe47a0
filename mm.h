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
/* The picture in the middle of a larger one; half a pixel goes to the right and below. */
Image  image_pad(Image in, int w, int h, const uint8_t ground[3]);

/* What preprocessor_config.json asks for. */
typedef struct {
    bool   pad, resize, crop, rescale, normalize;    /* pad: to a square, before all else */
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

/* === Random numbers (random.c) ================================================================ */

typedef struct { uint32_t s[624]; int at; } Rng;            /* torch's generator on a CPU */

void     rng_seed(Rng *r, uint64_t seed);                   /* torch.manual_seed */
uint32_t rng_u32(Rng *r);
float    rng_uniform(Rng *r);                               /* [0, 1), as torch.rand */
/* One of n, in proportion to its share: torch.multinomial(share, 1). */
int      rng_choose(Rng *r, const float *share, int n);

/* === Generation (sample.c) ==================================================================== */

/* How to continue a text. Zero is the vanilla meaning of every field: greedy, no end token. */
typedef struct {
    int max_tokens;                  /* new tokens at most; < 0: the model's default */
    int beams;                       /* 0 or 1: one sequence; more: beam search, temp must be 0 */
    int logprobs;                    /* how many alternatives to record; 0: none */
    const int *end;                  /* tokens that end it (and are part of it) */
    int n_end;
    float temp;                      /* 0: the likeliest; else drawn, logits divided by this */
    int   top_k;                     /* drawn among the k likeliest; 0: all */
    float top_p, min_p;              /* drawn: nucleus, least share of the best; 0: no limit */
    float repeat_penalty;            /* of tokens that are there already; 0 or 1: none */
    float length_penalty;            /* beams: power of the length to divide by; 0 means 1 */
    bool  early_stopping;            /* beams: stop when that many sequences are finished */
    uint64_t seed;                   /* as torch.manual_seed */
    /* Each new token as it comes, but an end token; not with beams. False: that was the last. */
    bool (*put)(void *ctx, int id);
    void *ctx;
} GenOptions;

typedef struct { int id; float logprob; } TokenProb;
typedef struct { TokenProb chosen; TokenProb *top; } TokenInfo;     /* top: GenOptions.logprobs */

typedef struct {
    int        *id;                  /* prompt and all; scratch */
    int         n, n_prompt;
    bool        stopped;             /* ended by an end token (which is in id) */
    bool        halted;              /* ended by GenOptions.put */
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
    int     max_len;                 /* prompt and new tokens together, at most */
} Decoder;

/* Greedy, sampling or beam search as transformers runs them. o.max_tokens must be set (>= 0). */
Generated generate(const Decoder *dec, const int *prompt, int n_prompt, GenOptions o);
/* What generation_config.json says, or in its absence config.json, as older checkpoints do; what
 * both leave out as transformers has it. temp is 0 unless do_sample; top_k and the others stand for
 * those who set a temp of their own. end: its eos_token_id, one or several; kept. */
GenOptions generation_load(const char *dir, Json config);

/* === Text as it comes (stream.c) ==============================================================
 *
 * A GenOptions.put that turns tokens into text: whole characters, stop strings cut off and what may
 * become one held back, all in one pass over the text. */

typedef struct Stream Stream;
/* write (may be NULL) gets each piece of text as soon as it is certain. Scratch. */
Stream     *stream_new(const Tokenizer *t, const char *const *stop, int n_stop,
                       void (*write)(void *ctx, const char *text, size_t n), void *ctx);
/* The text continues that of these n ids; before the first stream_put. */
void        stream_follow(Stream *s, const int *id, int n);
bool        stream_put(void *stream, int id);            /* false: a stop string is complete */
const char *stream_end(Stream *s, size_t *n);            /* all of it, zero-terminated */
bool        stream_stopped(const Stream *s);             /* by a stop string */

/* === BERT (bert.c) ============================================================================ */

typedef struct Bert Bert;

/* What a stack of BERT layers is made of; the default, all zero, is BERT itself. */
typedef struct {
    bool no_segments;                /* no token_type_embeddings: BLIP */
    bool tied;                       /* the table of words is the head's matrix, too */
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
/* The same behind some of the layers only, without a final norm: the reference's hidden_states,
 * 0 to vit_layers; negative numbers count from the end, -1 is behind the last. Scratch. */
Tensor vit_hidden(Vit *v, Tensor image, int layer);
int    vit_image_size(const Vit *v), vit_dim(const Vit *v);
int    vit_layers(const Vit *v), vit_patches(const Vit *v);

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

/* === Language models (llama.c) =================================================================
 *
 * One decoder for LLaMA and its children (Llama 2, Vicuna, Alpaca, Mistral), Qwen, Phi and OPT. The
 * weights are a Llama. A text in progress is a Session: what has been read so far, as keys and
 * values; several may share the weights. A text is a list of ids, in which -1-k stands for row k of
 * the session's pictures: an LM takes embeddings, and a picture is a few hundred of them. */

typedef struct Llama Llama;
typedef struct Session Session;

/* config: of the language model itself (LLaVA: text_config); ck where its names begin. */
Llama *llama_load(Ckpt ck, Json config);
/* The same where the output matrix stands elsewhere than the table and the layers. */
Llama *llama_load_parts(Ckpt body, Ckpt head, Json config);
int    llama_vocab(const Llama *m), llama_dim(const Llama *m);
int    llama_context(const Llama *m);                    /* max_position_embeddings */

typedef struct {
    int   ctx;                       /* tokens it holds; 0: llama_context, at most 4096 */
    int   n_beams;                   /* sequences side by side; 0: 1 */
    DType kv;                        /* F32; F16: half the memory */
    int   n_block;                   /* tokens of a prompt read at once; 0: 512 */
    bool  repeatable;                /* session_reuse keeps nothing that would change a bit: for
                                      * batches, whose records must not depend on each other */
} SessionOptions;

Session *session_new(Llama *m, SessionOptions o);        /* kept */
int      session_context(const Session *s);              /* tokens it holds */
int      session_len(const Session *s);                  /* tokens read so far */
/* A picture's rows [n, d], copied (and kept): returns the number k of the first, to be read as
 * ids -1-k, -1-k-1, ... */
int      session_picture(Session *s, Tensor rows);
/* All pictures and all that was read go; numbers begin at 0 again. For the next item of a batch. */
void     session_clear(Session *s);
/* Reads n >= 1 more tokens, block by block: the logits of what comes next [1, n_vocab], the
 * session's own until the next call. More than fits fails the item. */
Tensor   session_read(Session *s, const int *id, int n);
/* Only the first len tokens stay. */
void     session_cut(Session *s, int len);
/* Of the n ids of a text, how many at its beginning need not be read again: the session is cut to
 * those. Always less than n, so that there is something to read. */
int      session_reuse(Session *s, const int *id, int n);
/* Reads the prompt, as far as session_reuse says that it must, and continues it. The last new token
 * is not read: it is in no session until the next prompt brings it. A prompt longer than the
 * context fails the item with both numbers. o.beams must not be more than the session's. */
Generated session_generate(Session *s, const int *prompt, int n_prompt, GenOptions o);

/* === LLaVA (vlm.c) ============================================================================ */

typedef struct Llava Llava;
/* All layouts of llava-hf, and liuhaotian's first one, whose picture tower is a model of its own
 * (mm_vision_tower, found as -m finds models). */
Llava *llava_load(Ckpt ck, Json config);
Llama *llava_text(const Llava *v);
int    llava_image_size(const Llava *v), llava_n_tokens(const Llava *v);    /* rows of a picture */
bool   llava_original(const Llava *v);                   /* liuhaotian's layout */
/* The tower's configuration, and the bytes that are used of a checkpoint of its own. */
Json   llava_vision(const Llava *v, double *beside);
/* How it wants pictures; needs no weights. */
Preprocess llava_pictures(const char *dir, Json config);
/* [H, W, 3] -> [n_tokens, d] for session_picture; scratch. */
Tensor llava_image(Llava *v, Tensor image);

/* === Chat templates (template.c) ============================================================== */

typedef enum { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT } Role;
/* n_images pictures belong to a message of the user: they stand before its text. */
typedef struct { Role role; const char *text; size_t n; int n_images; } Message;
typedef struct ChatTemplate ChatTemplate;

/* The form in which the checkpoint was trained to converse: by the chat_template that it brings, by
 * facts of its configuration and its name; or, if name is not NULL, the one of that name. Kept.
 * NULL: not known. */
const ChatTemplate *template_open(const char *dir, Json config, const char *name);
const char *template_names(void);            /* "llama2, vicuna, ...": all that there are */
const char *template_name(const ChatTemplate *t);
const char *template_system(const ChatTemplate *t);      /* what counts if none is given; or NULL */
bool        template_takes_system(const ChatTemplate *t);
bool        template_takes_images(const ChatTemplate *t);
const char *template_stop(const ChatTemplate *t);        /* a stop string of its own, or NULL */
/* Tokens that end an answer beside the model's own; returns how many. */
int         template_ends(const ChatTemplate *t, const Tokenizer *tok, int id[2]);
/* A conversation up to where the model goes on: a system text, if any, then questions and answers
 * in turns, a question last. -1-k stands for picture k. What the messages say is text, never a
 * special token, unless raw. Scratch. */
Ids   template_encode(const ChatTemplate *t, const Tokenizer *tok, const Message *m, int n,
                      bool raw);
/* The same as a text of *n_bytes, with special tokens spelt out. Scratch. */
char *template_text(const ChatTemplate *t, const Tokenizer *tok, const Message *m, int n,
                    size_t *n_bytes);

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
const char *model_aliases(void);         /* "blip blip-large ..." */

#endif
