/* tensor.h -- the ground that every model stands on: errors, memory, threads, tensors, checkpoints,
 * JSON, layers. One section per file, in the order in which they build on each other.
 *
 * Sizes, in code and comments alike:
 *   n_tok n_q n_kv   rows: tokens, queries, keys and values     n_heads n_kv_heads head_dim
 *   d d_ff           width of the residual stream, of the MLP    n_layers n_vocab n_patch H W C
 * A sentence is [n_tok, d]; a feature map of H x W pixels with C channels is [H*W, C], stored
 * [H, W, C]. Several independent items at once are [n_items, n_tok, d]: only attention looks at
 * the first dimension. */
#ifndef TENSOR_H
#define TENSOR_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include "types.h"

/* === Errors (tensor.c) =========================================================================
 *
 * No error codes travel upward. die() is for what the user can mend; fail() is for what is wrong
 * with one item of a batch (an unreadable picture, a bad record); bug() is for what we must mend.
 * A message names the file, then the tensor, key or flag, then what was found, then what was
 * expected; a second line, after "\n", tells what to do. Strings that come from files are printed
 * through quoted(), so that no terminal escape gets out. */

enum {                       /* exit codes: mm.1, EXIT STATUS */
    EXIT_ITEMS  = 1,         /* finished, but some items failed */
    EXIT_USAGE  = 2,
    EXIT_MODEL  = 3,         /* no model there, or one of an architecture or family not served */
    EXIT_FILE   = 4,         /* a model file is there, but invalid or unsafe */
    EXIT_INPUT  = 5,         /* the only operand could not be read */
    EXIT_MEMORY = 6,
    EXIT_OUTPUT = 7,
    EXIT_BUG    = 70
};

#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args), nonnull(fmt)))

/* From now on die() says "mm: CMD: ..."; cmd must stay. */
void messages_of(const char *cmd);
_Noreturn void die(int code, const char *fmt, ...) PRINTF(2, 3);
_Noreturn void bug(const char *fmt, ...) PRINTF(1, 2);

/* What went wrong with one item. `code` is one of mm.1, ERROR CODES (image.empty, ...). */
typedef struct {
    const char *code;
    char        msg[1024];
    char        hint[256];       /* what to do; may be empty */
} ItemError;

/* Fails the item in hand: jumps to the landing place, if one is set, else dies with EXIT_INPUT.
 * hint may be NULL. */
_Noreturn void fail(const char *code, const char *hint, const char *fmt, ...) PRINTF(3, 4);

/* The landing place of fail(). The command loop sets it for one item and clears it after:
 *     jmp_buf place;
 *     if (setjmp(place) == 0) { landing = &place; ... the item ... } else { ... item_error ... }
 *     landing = NULL; scratch_reset(mark);
 * die_landing does the same for die(), whose message is then in item_error: for fuzzers. */
extern jmp_buf  *landing, *die_landing;
extern ItemError item_error;

/* s with control characters and bytes that are not UTF-8 escaped, cut at 200 characters; one of a
 * few static buffers, valid for the next seven calls. */
const char *quoted(const char *s);
const char *quoted_n(const char *s, size_t n);
/* Is the character at s, of len bytes, one that turns or breaks the line (U+202E, U+2028, ...)? */
bool is_bidi(const unsigned char *s, size_t len);

/* === Memory (memory.c) =========================================================================
 *
 * Three lifetimes and no free(). File: mapped weights. keep: until exit. scratch: until the mark is
 * put back. Both arenas reserve address space once and never move; only the main thread allocates,
 * and never inside parallel_for. Everything is aligned to 64 bytes and zeroed only where stated. */

void  *keep_bytes(size_t n);                 /* zeroed */
char  *keep_string(const char *fmt, ...) PRINTF(1, 2);
void  *scratch_bytes(size_t n);              /* not zeroed */
char  *scratch_string(const char *fmt, ...) PRINTF(1, 2);
size_t scratch_mark(void);
void   scratch_reset(size_t mark);
size_t keep_peak(void), scratch_peak(void);  /* bytes, for -v */
size_t memory_available(void);               /* bytes that the machine, or the cgroup, has now */
size_t keep_mark(void);                      /* for fuzzers, which load a million models in one */
void   keep_reset(size_t mark);              /* process; nothing may point there any more */

/* a * b and a + b; more than size_t holds ends with EXIT_MEMORY. */
size_t mul_size(size_t a, size_t b);
size_t add_size(size_t a, size_t b);

/* === Threads (threads.c; parallel_for is in types.h) ========================================== */

/* Starts the pool, once. n = 0: the smallest of the CPUs this process may run on, their physical
 * (on hybrid processors: performance) cores, and the cgroup's quota rounded down; at least 1. */
void threads_start(int n);
int  threads_default(void);                  /* what 0 means */
/* How the default was found, in words, for `mm info --cpu`. */
const char *threads_reason(void);

/* === Tensors (tensor.c) ========================================================================
 *
 * A view, passed by value. It never owns its data, is always contiguous and row-major, outermost
 * dimension first as in PyTorch. A tensor that a model does not have has data NULL. */

typedef struct {
    void       *data;
    DType       dtype;
    int         ndim, dim[4];
    const char *name;                        /* in the checkpoint; NULL for an activation */
} Tensor;

Tensor scratch(int rows, int cols);          /* F32 [rows, cols], not zeroed */
Tensor scratch3(int n, int rows, int cols);  /* F32 [n, rows, cols] */
Tensor keep(int rows, int cols);             /* F32 [rows, cols], zeroed, until exit */
/* [n_rows, d] -> rows first .. first+n-1, [n, d]. Of Q8 and Q4 first is a multiple of 8. */
Tensor rows(Tensor t, int first, int n);
Tensor items(Tensor t, int n);               /* [n*m, d] -> [n, m, d] */
Tensor flat(Tensor t);                       /* [.., m, d] -> [all rows, d] */
int    n_rows(Tensor t);                     /* product of all dimensions but the last */
int    n_cols(Tensor t);                     /* the last dimension */
size_t n_elem(Tensor t);
static inline float *f32(Tensor t) { return (float *)t.data; }
const char *dtype_name(DType t);
size_t      dtype_size(DType t);             /* bytes of an element; 0 for OTHER, Q8, Q4 */
const char *shape_string(Tensor t);          /* "F16 [11008, 4096]"; static buffers as quoted() */

/* === Files (files.c) ===========================================================================
 *
 * Files of a model directory: regular files only, and a symbolic link only if it stays inside the
 * directory or the Hugging Face repository cache that the directory is in. NULL (and *n = 0) if
 * there is none; what is there but unsafe is die(EXIT_FILE). */

/* The whole file, of at most max bytes; kept until exit, with a zero byte after the last. */
char          *model_file(const char *dir, const char *name, size_t max, size_t *n);
/* The file mapped, read-only and shared. If it becomes shorter, access ends with EXIT_FILE. */
const uint8_t *model_map(const char *dir, const char *name, size_t *n);
/* The same for what is read once, from front to back: nothing is fetched long before its use. */
const uint8_t *model_map_once(const char *dir, const char *name, size_t *n);
/* What a file that is not what it should be is instead ("a Git LFS pointer, ..."), and what to do.
 * NULL if its first bytes do not tell; there is a remedy even then. */
const char    *file_kind(const uint8_t *bytes, size_t n, const char **remedy);
/* Remedies for weights of another kind: of PyTorch; of TensorFlow and Flax; made from others. */
#define CONVERT_IT "run `mm convert` on it: it writes safetensors"
#define SAVE_PRETRAINED "load it with transformers in Python; its save_pretrained() writes " \
                        "safetensors"
#define GET_SAFETENSORS "get the model's safetensors files instead"

/* === Models in the program (builtin.c) =========================================================
 *
 * "builtin:NAME" is a directory whose files are part of the executable. model_file and model_map
 * know that, so it is one for everybody else as well. */

typedef struct { const char *dir, *data, *licence, *card; } BuiltinModel;

bool is_builtin(const char *dir);            /* by its name; there may be no such model */
const BuiltinModel *builtin_models(void);    /* ends with one whose dir is NULL */
const BuiltinModel *builtin_model(const char *dir);          /* NULL: there is none */
/* The bytes of dir/name, in place, at a multiple of 64. NULL (and *n = 0) if there is none. */
const uint8_t *builtin_file(const char *dir, const char *name, size_t *n);

/* === Checkpoints (ckpt.c) =======================================================================
 *
 * The safetensors of a model directory, mapped and used in place: model.safetensors (or another
 * single *.safetensors), or the shards of model.safetensors.index.json. All rules of the format are
 * checked before any pointer is made; every violation is die(EXIT_FILE). A Ckpt is a place in the
 * name space: ckpt_at() moves it, by value, so loaders read as tables. */

/* What a matrix is for, which decides how it may be quantised: a layer, or an output matrix (which
 * may be the table of embeddings as well). */
typedef enum { NO_MATRIX, LAYER_MATRIX, HEAD_MATRIX } MatrixUse;

typedef struct CkptFiles CkptFiles;
typedef struct { CkptFiles *files; char prefix[192]; } Ckpt;

typedef struct {                             /* for `mm info --tensors` */
    const char *name, *dtype, *file;
    int         ndim;
    int64_t     dim[8];
    uint64_t    offset, n_bytes;             /* offset in the file */
    const uint8_t *data;                     /* mapped; at any address */
    bool        used;
    MatrixUse   use;
    DType       blocks;                      /* Q8, Q4: dtype and dim are those of the matrix */
} CkptEntry;

Ckpt      ckpt_open(const char *dir);
Ckpt      ckpt_at(Ckpt ck, const char *fmt, ...) PRINTF(2, 3);   /* prefix + formatted */
bool      ckpt_has(Ckpt ck, const char *name);
/* The tensor prefix+name of exactly this shape (unused dimensions: omit, see the macros), and of a
 * type that can be computed with; anything else dies. ckpt_opt gives {0} if the name is absent. */
Tensor    ckpt_get_shape(Ckpt ck, const char *name, int ndim, const int *dim);
Tensor    ckpt_opt_shape(Ckpt ck, const char *name, int ndim, const int *dim);
#define   ckpt_get(ck, name, ...) ckpt_get_shape(ck, name, SHAPE(__VA_ARGS__))
#define   ckpt_opt(ck, name, ...) ckpt_opt_shape(ck, name, SHAPE(__VA_ARGS__))
#define   SHAPE(...) (int)(sizeof (int[]){__VA_ARGS__} / sizeof(int)), (int[]){__VA_ARGS__}
/* A matrix to multiply with, [n, k]: as ckpt_get, or Q8 or Q4 if the file is of `mm quantize`. */
Tensor    ckpt_matrix(Ckpt ck, const char *name, int n, int k, MatrixUse use);
/* One element as float: logit_scale and the like, shape [] or [1]. */
float     ckpt_scalar(Ckpt ck, const char *name);
/* Marks tensors as known but not used: exact names after the prefix, or with one '*' in them. */
void      ckpt_ignore(Ckpt ck, const char *pattern);
/* Dies if the checkpoint has tensors that nobody asked for. To be called when all is loaded. */
void      ckpt_done(Ckpt ck);
int       ckpt_count(Ckpt ck);
CkptEntry ckpt_entry(Ckpt ck, int i);        /* in the order of the files */
uint64_t  ckpt_bytes(Ckpt ck);               /* all tensor data */
/* A safetensors file in memory, checked by the same rules; what the fuzzer and the tests call. */
Ckpt      ckpt_parse(const char *name, const uint8_t *bytes, size_t n);

/* === Quantising (quant.c) ======================================================================
 *
 * From F32, F16 or BF16 to Q8 or Q4: see quant.c. */

/* From now on matrices are quantised as they are loaded: Q8, Q4; OTHER: not. */
void   quant_at_load(DType type);
/* What a matrix becomes when a model is quantised to `type`; OTHER: it stays. */
DType  quant_type(DType type, MatrixUse use, int n, int k);
/* The matrix in memory that stays; t itself if nothing is to be done. */
Tensor quant_matrix(Tensor t, MatrixUse use);
/* Rows of blocks first .. first+n-1 of t into `to`, on all threads. Dies with EXIT_FILE if a weight
 * is not finite. */
void   quant_encode_rows(uint8_t *to, DType type, Tensor t, int first, int n);

/* === Trace (trace.c) ===========================================================================
 *
 * trace(x, "vision_model.encoder.layers.%d.mlp", i) after each step that the reference names. Off:
 * nothing. With a sink, each call hands over the name (the k-th further call of a name gets ".k")
 * and the tensor. Tensors have PyTorch's shape: [n_tok, d] is passed as items(x, 1). */

typedef void TraceFn(void *ctx, const char *name, Tensor t);
void trace_to(TraceFn *fn, void *ctx);       /* NULL: off; resets the counts */
bool tracing(void);
void trace(Tensor t, const char *fmt, ...) PRINTF(2, 3);
/* t [h*w, C] or [n, h, w, C] as [n, C, h, w] */
void trace_map(Tensor t, int h, int w, const char *fmt, ...) PRINTF(4, 5);
/* The sink of --trace FILE: everything goes into one safetensors file, F32, that gets its name when
 * it is complete. Both die with EXIT_OUTPUT if it cannot be written. */
void trace_file_start(const char *path);
void trace_file_finish(void);
void trace_file_drop(void);                  /* nothing half written stays; for signal handlers */

/* === JSON (json.c) =============================================================================
 *
 * A strict reader: RFC 8259, UTF-8 without surrogates or bytes that are not, depth at most 64
 * (8 for safetensors headers), no duplicate keys, no recursion. A Json is a value by value; what is
 * absent has node NULL, has nothing in it either, and can be complained about all the same. null
 * counts as absent in the getters that have a default. Names in messages are full paths:
 * "clip/config.json: key vision_config.patch_size is ...". */

typedef enum { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonType;
typedef struct JsonNode JsonNode;
typedef struct JsonDoc JsonDoc;
typedef struct {
    const JsonNode *node;                    /* NULL: absent */
    const JsonDoc  *doc;
    const JsonNode *above;                   /* of what is absent: the object it would be in, */
    const char     *missing;                 /* and its key: for messages */
} Json;

/* code: the exit code of a bad document (kept until exit); 0: it fails the item (input.json) and
 * lives in scratch. `name` is copied; `text` must live as long as the document. */
Json     json_parse(const char *name, const char *text, size_t n, int max_depth, int code);
/* The document in a file of a model directory; absent if there is no such file. Kept until exit. */
Json     json_file(const char *dir, const char *name, size_t max);
bool     json_is(Json j, JsonType t);        /* false for what is absent */
JsonType json_type(Json j);                  /* JSON_NULL for what is absent */
Json     json_get(Json object, const char *key);           /* absent if there is none */
Json     json_get_n(Json object, const char *key, size_t n);   /* a key that may hold zero bytes */
int      json_len(Json j);                   /* elements of an array, members of an object, or 0 */
Json     json_first(Json j);                 /* first element or member, or absent */
Json     json_next(Json j);                  /* its next sibling */
Json     json_at(Json array, int i);         /* the i-th element; walks the list */
const char *json_key(Json member, size_t *n);               /* n may be NULL; zero-terminated */
const char *json_string(Json j, size_t *n);  /* NULL if not a string; zero-terminated */
double   json_number(Json j);                /* 0 if not a number */
bool     json_integer(Json j, int64_t *v);   /* true if written as an integer that fits */
uint64_t json_offset(Json j);                /* where the value starts in the text */
size_t   json_span(Json j, const char **start);             /* the value's own text, as written */
/* Getters for configurations. A wrong type or a number out of range dies (or fails the item) and
 * names the key; absent or null gives the default. The _need forms have no default. */
int      json_int(Json object, const char *key, int standard, int min, int max);
int      json_int_need(Json object, const char *key, int min, int max);
double   json_float(Json object, const char *key, double standard, double min, double max);
bool     json_bool(Json object, const char *key, bool standard);
const char *json_str(Json object, const char *key, const char *standard);
const char *json_str_need(Json object, const char *key);
Act      json_act(Json object, const char *key, Act standard);   /* "gelu", "quick_gelu", ... */
/* die(EXIT_FILE) or fail(), as the document was opened: "FILE: key PATH " + message. */
_Noreturn void json_error(Json j, const char *fmt, ...) PRINTF(2, 3);
const char *json_doc_name(Json j);

/* SipHash-1-3 keyed with random bytes of this process and salt: no file can be built so that its
 * strings collide. For tables only: the values differ from run to run. */
uint64_t hash_bytes(const void *bytes, size_t n, uint64_t salt);

/* === Layers (nn.c) =============================================================================
 *
 * Shared sub-layers; how they are wired is up to the family. Output first, as in memcpy. x and out
 * are [n_tok, d] or [n_items, n_tok, d]; out may be x where stated. An absent weight or bias is a
 * tensor with data NULL. A shape that does not fit is a bug().
 *
 * Linear, norm, embedding and convolution trace their output by the name of their weight, so model
 * files trace only what is composed of them. */

typedef struct { Tensor w, b; } Linear;      /* [n_out, n_in], [n_out] or absent */
typedef struct { Tensor w, b; float eps; bool rms; } Norm;
typedef struct { Tensor w, b; int groups; float eps; } GroupNorm;          /* [c], [c] */
typedef struct {                             /* w [c_out, c_in/groups, k, k], b [c_out] or absent */
    Tensor w, b;
    int    k, stride, pad;                   /* pad: zeros around the picture */
    int    extra;                            /* more of them at the bottom and at the right */
    int    groups;                           /* 0 is 1 */
    bool   transposed;                       /* w [c_in, c_out/groups, k, k]; pad takes away from
                                              * the edges of the output, extra adds to it */
} Conv;
/* Keys and values of the tokens so far, item by item: [n_items, max_len, n_kv_heads*head_dim]. */
typedef struct { Tensor k, v; int len; } KvCache;

/* Angles by which queries and keys are turned, one for each pair of numbers (rotary positions,
 * arXiv 2104.09864): [n_tok, n_pairs], row t for token t of each item. Of a head with more numbers
 * than 2*n_pairs the rest stays. Pair i is (x[i], x[n_pairs + i]). */
typedef struct {
    Tensor cos, sin;                         /* absent: nothing is turned */
    Tensor q_scale;                          /* [n_tok]: queries are multiplied by it; or absent */
} Rope;

typedef struct {                             /* weights of one attention sub-layer */
    Linear q, k, v, o;
    int    n_heads, n_kv_heads, head_dim;
    float  scale;                            /* of q.k: 1/sqrt(head_dim), mostly */
    const char *trace;                       /* name of what the heads give; NULL: none */
} Attn;

typedef struct {                             /* what one call adds; {0} is plain self-attention */
    Tensor      bias;                        /* [n_heads or 1, n_q, n_kv], added to the scores */
    bool        causal;                      /* no looking ahead */
    Rope        rope;                        /* positions, by turning q and k */
    KvCache    *cache;                       /* append k, v; attend to all that came before */
    Tensor      memory;                      /* cross-attention: k and v come from here [n_kv, d_m],
                                              * for all items alike; with a cache they are computed
                                              * at the first call and kept */
} AttnArgs;

typedef struct {                             /* down(act(up x)), or down(act(gate x) * up x) */
    Linear up, gate, down;
    Act    act;
    const char *trace;                       /* name of the hidden units; NULL: none */
} Mlp;

/* Matrices stay in the file as they are. Vectors (biases, norms) are F32 from here on: those stored
 * as F16 or BF16 are converted once, into keep. */
Tensor vector_load(Ckpt ck, const char *name, int n);        /* dies if it is not there */
Linear linear_load(Ckpt ck, const char *name, int n_out, int n_in);  /* .weight, .bias if there */
/* The weights alone, under their full name; Q8 or Q4 if the file, or --quant, has them so.
 * Embeddings that are the output matrix, too, are a HEAD_MATRIX. */
Tensor matrix_load(Ckpt ck, const char *name, int n_out, int n_in, MatrixUse use);
Norm   norm_load(Ckpt ck, const char *name, int d, float eps);       /* weight/bias or gamma/beta */
Conv   conv_load(Ckpt ck, const char *name, int c_out, int c_in, int k, int stride, int pad);
/* The same for a ConvTranspose2d: .transposed is set, extra is 0. */
Conv   conv_load_transposed(Ckpt ck, const char *name, int c_in, int c_out, int k, int stride,
                            int pad);
GroupNorm group_norm_load(Ckpt ck, const char *name, int c, int groups, float eps);
Linear linear_rows(Linear l, int first, int n);              /* a part of a fused projection */

void linear(Tensor out, Tensor x, const Linear *l);          /* out = x W^T + b */
void linear_act(Tensor out, Tensor x, const Linear *l, Act act);     /* act(x W^T + b) */
void linear_add(Tensor out, Tensor x, const Linear *l);      /* out += ..; for families to come */
void norm(Tensor out, Tensor x, const Norm *n);              /* out may be x */
void attention(Tensor out, Tensor x, const Attn *a, AttnArgs args);
/* The middle of attention alone, for families to come that project otherwise. */
void attend(Tensor out, Tensor q, Tensor k, Tensor v, const Attn *a, Tensor bias, bool causal);
void mlp(Tensor out, Tensor x, const Mlp *m);                /* out may be x */
void add(Tensor x, Tensor y);                                /* x += y */
/* For trace(), as PyTorch has it: [n_tok, d] becomes [1, n_tok, d]; what belongs to no token is [d]
 * here and [1, d] there. */
Tensor as_batch(Tensor x);
Tensor as_vector(Tensor x);                  /* [1, d] -> [d] */
Tensor scratch_like(Tensor x, int cols);     /* the rows of x, another width */
void embed_rows(Tensor out, Tensor table, const int *ids, int n);    /* out[i] = table[ids[i]] */
/* The first of n ids, at most max, and of a text that is cut the last: its end token. How many. */
int  cut_ids(int *to, const int *ids, int n, int max);
void add_rows(Tensor x, Tensor table, int first);            /* x[i] += table[first + i] */
void softmax_rows(Tensor x);                                 /* each row, in place */
void l2_normalize(Tensor x);                                 /* each row: x / |x| */
/* Pictures are [H, W, C], or several [n, H, W, C]. conv_like gives the output of conv2d its size,
 * in scratch; conv2d_add adds to what is there. Convolutions of 3x3 with stride 1 are Winograd's,
 * whose error is about twice that of the plain sum, unless --exact is given. */
Tensor conv_like(Tensor x, const Conv *c);
void conv2d(Tensor out, Tensor x, const Conv *c);
void conv2d_act(Tensor out, Tensor x, const Conv *c, Act act);
void conv2d_add(Tensor out, Tensor x, const Conv *c);
void group_norm(Tensor out, Tensor x, const GroupNorm *g, Act act);       /* out may be x */
/* Patch embedding: image [H, W, C] -> [(H/k)*(W/k), c_out], row by row; k = stride, no padding. */
Tensor patch_embed(Tensor image, const Conv *c);             /* scratch */
KvCache kv_cache_scratch(int n_items, int max_len, int d);
/* items[i] of the cache becomes what item from[i] was: beams that changed places. */
void    kv_reorder(KvCache *c, const int *from, int n_items);
float   dot(const float *a, const float *b, int n);
double  nn_flops(void);                      /* floating-point operations of all linears so far */

#endif
