/* convert.h -- what the files of mm convert (zip.c, pickle.c, torch.c, store.c, convert.c) share
 * among themselves.
 *
 *   FILE.bin -> zip.c: which records it has -> pickle.c: what its pickle says -> torch.c: a list of
 *   named weights, windows on the mapped file -> convert.c -> store.c: safetensors
 *
 * Nothing here is on the way to a model: models are loaded from safetensors only (ckpt.c). */
#ifndef CONVERT_H
#define CONVERT_H

#include "cli.h"

enum { MAX_RANK = 8, MAX_NAME = 1024 };      /* as in safetensors (ckpt.c) */

/* === ZIP archives (zip.c) ===================================================================== */

typedef struct {
    const char    *name;             /* in the file: not zero-terminated */
    size_t         n_name, n;
    const uint8_t *data;             /* n bytes, inside the file, overlapping no other record */
    int            method;           /* 0: stored as it is */
    size_t         head;             /* where its local header is */
} ZipRecord;

typedef struct { ZipRecord *record; size_t n; } Zip;         /* by name; scratch */

/* All records of a ZIP file in memory. `shown` is for messages. Dies with EXIT_FILE where a rule is
 * broken, or where two readers could see different records. */
Zip              zip_read(const char *shown, const uint8_t *bytes, size_t n);
/* The record head + tail; NULL: there is none. */
const ZipRecord *zip_find(const Zip *zip, const char *head, size_t n_head, const char *tail,
                          size_t n_tail);

/* === Pickles (pickle.c) =======================================================================
 *
 * What a pickle builds, as plain data. A class or function is its name, and an object made with one
 * that nobody here knows is an object (V_OBJECT) that remembers just that name. */

typedef enum { V_NONE, V_BOOL, V_INT, V_LONG, V_TEXT, V_TUPLE, V_LIST, V_DICT, V_GLOBAL, V_OBJECT,
               V_STORAGE, V_WEIGHT } ValueKind;

typedef struct Value Value;
struct Value {
    ValueKind kind;
    bool      loaded;                /* weights, or something that may be some, went into it */
    uint32_t  n, room;               /* bytes of a text; items; of a dictionary 2 each */
    union {
        int64_t     number;          /* V_BOOL, V_INT */
        const char *text;            /* V_TEXT; V_LONG: its bytes; V_GLOBAL, V_OBJECT: a name */
        Value     **item;            /* V_TUPLE, V_LIST, V_DICT */
        void       *made;            /* V_STORAGE, V_WEIGHT: by the hooks */
    };
};

typedef struct Pickle Pickle;
struct Pickle {
    const char    *shown;            /* file, for messages */
    const uint8_t *bytes;
    size_t         n, at;            /* at: where the next pickle begins */
    /* function(args), both as found; NULL: nothing that is known, it becomes an object. */
    Value       *(*call)(Pickle *p, const Value *function, const Value *args);
    Value       *(*persistent)(Pickle *p, const Value *id);  /* what `id` stands for */
    void          *ctx;              /* of these two */
    struct Machine *machine;         /* pickle.c's own */
};

/* Runs the pickle at p->at and puts p->at behind it. Executes nothing, never calls itself; memory
 * is bounded by the bytes read and by a fixed limit. All in scratch. Dies with EXIT_FILE. */
Value *pickle_read(Pickle *p);
Value *pickle_value(Pickle *p, ValueKind kind);              /* a new one, for the hooks */
/* Counts n values against the limit, as pushing them does: for hooks that copy. */
void   pickle_spend(Pickle *p, size_t n);
/* Moves `at` behind n bytes; dies if the file ends before. */
const uint8_t *pickle_bytes(Pickle *p, uint64_t n);
bool   value_is(const Value *v, const char *text);           /* a text, or the name of a global */
/* The last value under the key, or NULL; dict may be anything. */
Value *dict_get(const Value *dict, const char *key);
_Noreturn void pickle_error(const Pickle *p, const char *fmt, ...) PRINTF(2, 3);

/* === Weights (torch.c) ======================================================================== */

/* A tensor in a mapped file; strides as PyTorch has them. */
typedef struct {
    const char    *name;             /* zero-terminated UTF-8 */
    const char    *type;             /* as safetensors call it */
    int            size, ndim;       /* bytes of an element */
    int64_t        dim[MAX_RANK], stride[MAX_RANK];          /* in elements */
    uint64_t       n;                /* elements */
    const uint8_t *data;             /* the first element */
    const char    *file;             /* for messages */
    const char    *blocks;           /* "Q8 [n, k]": a matrix in blocks (quantize.c); or NULL */
} Weight;

typedef struct {
    Weight     *weight;
    size_t      n, n_left_out;       /* entries that are no weights */
    const char *left_out;            /* the first few of those, or "" */
} Weights;

/* The weights that a file of torch.save() holds; key: the entry of the outermost dictionary that
 * has them, or NULL: torch.c says how it is found. Kept until exit; uses scratch. Dies with
 * EXIT_FILE. */
Weights torch_read(const char *shown, const uint8_t *bytes, size_t n, const char *key);
bool    weight_is_contiguous(const Weight *w);
const char *weight_shape(const Weight *w);                   /* "F16 [2, 3]"; static buffers */

/* === Safetensors, written (store.c) =========================================================== */

/* Fills n elements of w, from the first-th on, into `to`; weight_copy is the plain one. */
typedef void FillFn(void *ctx, const Weight *w, uint8_t *to, uint64_t first, uint64_t n);
void    weight_copy(const Weight *w, uint8_t *to, uint64_t first, uint64_t n);

/* Everything is made under a name for the time being: OUT.PID.tmp, a file or a folder. It becomes
 * OUT with store_done(); nothing that is there already is ever written over. If the run ends before
 * (die, SIGINT), all of it is removed. All of these die with EXIT_OUTPUT. */
const char *store_begin(const char *out);    /* the name for the time being */
void        store_done(void);
void        store_folder(const char *path);
void        store_file(const char *path, const void *bytes, size_t n);
/* One safetensors file. fill NULL: the weights as they are. */
void        store_weights(const char *path, const Weight *w, size_t n, FillFn *fill, void *ctx);
/* folder/stem.safetensors, or shards of at most shard_bytes and their index. How many files. */
int         store_shards(const char *folder, const char *stem, const Weight *w, size_t n,
                         uint64_t shard_bytes, FillFn *fill, void *ctx);
/* These bytes of a mapped file are done with: they count no more as memory of this process. */
void        hand_back(const uint8_t *from, size_t n);

/* === Differences (delta.c) ==================================================================== */

typedef struct Delta Delta;
typedef enum { DELTA_AUTO, DELTA_ADD, DELTA_ALPACA } DeltaMode;

/* A checkpoint that is the difference to a base. has_pad: its tokenizer has a token [PAD]. Checks
 * that each weight fits; drops from delta what is a mere table of angles and not in the base. Both
 * must stay. Dies with EXIT_FILE. */
Delta  *delta_open(Weights *delta, const Weights *base, DeltaMode mode, bool has_pad);
FillFn  delta_fill;                          /* ctx: the Delta */
/* What added rows begin with: "the mean of the base's rows", "zero"; NULL: there are none. */
const char *delta_rows(const Delta *d);

/* === The command (convert.c) ================================================================= */

/* Shards have at most that many bytes of weights: 5 GB; to be changed by tests only. */
extern uint64_t convert_shard_bytes;
/* The files of a model's folder that are no weights, and those of the folders in it. */
void convert_copy_others(const char *dir, const char *to);

#endif
