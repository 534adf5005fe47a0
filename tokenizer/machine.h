/* machine.h -- the parts of a tokenizer, shared by the files of this folder and by nobody else.
 *
 *   parse.c      tokenizer.json -> Tokenizer
 *   config.c     a model directory -> Tokenizer: legacy files, tokenizer_config.json and the like
 *   tokenizer.c  the vocabulary; encode and decode as a whole
 *   added.c      added tokens: cut out of the text before anything else happens
 *   legacy.c     vocab.txt, merges.txt, qwen.tiktoken -> Tokenizer
 *   spm.c        tokenizer.model, spiece.model -> Tokenizer
 *   normalize.c charsmap.c  text -> text         pretok.c  text -> words
 *   wordpiece.c bpe.c unigram.c  word -> ids     decode.c  pieces -> text
 *
 * Sequences are flattened when parsed: the machine is four short arrays of steps and a model. All
 * text inside is valid UTF-8 (unicode.h). Everything of one call lives in scratch. */
#ifndef MACHINE_H
#define MACHINE_H

#include "../tensor.h"
#include "tokenizer.h"
#include "unicode.h"

enum {
    MAX_STEPS   = 64,                /* of one kind; real files have at most six */
    MAX_IDS     = 1 << 22,           /* ids are below */
    MAX_CONTENT = 1024               /* bytes of an added token */
};
#define MAX_FILE ((size_t)128 << 20) /* bytes of tokenizer.json, vocab.json, ... */

/* === Strings ================================================================================== */

typedef struct { const char *s; size_t n; } Str;
/* A text that grows, in scratch. {0} is empty. */
typedef struct { char *s; size_t n, cap; } Text;
/* Ids that grow, in scratch. */
typedef struct { int *id; size_t n, cap; } IdList;

#define SPACE_MARK STR("\342\226\201")               /* U+2581, a space in SentencePiece's pieces */
#define STR(literal) ((Str){ literal, sizeof literal - 1 })
static inline bool str_eq(Str a, Str b)
{
    return a.n == b.n && __builtin_memcmp(a.s, b.s, a.n) == 0;
}
Str   str_of(const char *s);                         /* of a zero-terminated string */
Str   str_keep(Str s);                               /* a copy until exit, zero-terminated */
char *text_room(Text *t, size_t n);                  /* where n more bytes may be written */
void  text_add(Text *t, const char *s, size_t n);
void  text_put(Text *t, uint32_t c);                 /* appends a code point */
void  text_add_utf8(Text *t, const char *s, size_t n);   /* any bytes; bad ones become U+FFFD */
static inline Str text_str(const Text *t) { return (Str){ t->s, t->n }; }
/* from with every occurrence of what (not empty) replaced, left to right. */
void  text_replace(Text *out, Str from, Str what, Str by);
/* Decodes base64 (RFC 4648, with padding); room for 3/4 of the text and 3 more. False: it is none.
 */
bool  base64(char *out, size_t *n, Str text);
void  ids_room(IdList *l, size_t n);                 /* makes room for n more */
void  ids_add(IdList *l, int id);
/* Moves n bytes at p, allocated after first = scratch_bytes(1) at mark, to where first is, and
 * gives everything else back: how a result of unknown size is returned from a function that needs
 * scratch. */
void *to_front(size_t mark, char *first, const void *p, size_t n);

/* === Vocabulary (tokenizer.c) ================================================================= */

typedef struct {
    const char *s;
    uint32_t    n, hash;
    int         id;                  /* two pieces may share one, if the file is odd */
    int         added;               /* 1 + its index among the added tokens; 0: none */
} Piece;

typedef struct {
    Piece     *piece;                /* [n_pieces], all different */
    int        n_pieces, cap_pieces;
    int       *of_id;                /* [n_ids] 1 + index of the piece with this id; 0: none */
    int        n_ids, cap_ids;       /* n_ids: the largest + 1 */
    int        longest;              /* bytes of the longest piece */
    uint32_t  *slot;                 /* open addressing, at most half full. 0: free; else bits 0-22
                                      * 1 + index of the piece, 23-31 the top of its hash */
    uint32_t   mask;
} Vocab;

/* FNV-1a, so that the hashes of all prefixes of a word come in one pass. */
enum { HASH_START = 2166136261u };
static inline uint32_t hash_more(uint32_t h, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 16777619u;
    return h;
}

void vocab_init(Vocab *v, int n_pieces);             /* as many are about to come; more may */
/* The last id wins if a piece comes twice. Dies if too many pieces share a hash; name: for
 * messages. */
void vocab_put(Vocab *v, const char *name, Str piece, int id);
Piece *vocab_get(const Vocab *v, Str piece);         /* NULL: not there */
int    vocab_find(const Vocab *v, Str piece);        /* its id; -1: not there */
int    piece_of(const Vocab *v, Str piece);          /* its index; -1: not there */
/* The piece a + b, whose hash is known. */
Piece *vocab_get_hash(const Vocab *v, uint32_t hash, Str a, Str b);

/* === The steps ================================================================================ */

typedef enum {
    NORM_NFC, NORM_NFD, NORM_NFKC, NORM_NFKD, NORM_LOWER, NORM_STRIP, NORM_STRIP_ACCENTS,
    NORM_REPLACE, NORM_REPLACE_SPACES, NORM_REPLACE_RUNS, NORM_PREPEND, NORM_BERT,
    NORM_PRECOMPILED, NORM_SPM
} NormKind;

/* charsmap.c: a compiled table of replacements; {0}: none. */
typedef struct { const char *name, *units; size_t n_units; Str pool; } Charsmap;

typedef struct {
    NormKind kind;
    bool     left, right;                            /* STRIP */
    bool     clean, chinese, accents, lower;         /* BERT */
    Str      what, by;                               /* REPLACE; PREPEND: by */
    Charsmap map;                                    /* PRECOMPILED, SPM */
    bool     dummy, squeeze, escape;                 /* SPM: a blank in front, no blanks at the ends
                                                      * nor two in a row, blanks as U+2581 */
} NormStep;

typedef enum {
    PRE_BERT, PRE_SPACES, PRE_WORDS, PRE_PUNCT, PRE_BYTES, PRE_CLIP, PRE_QWEN, PRE_METASPACE
} PreKind;
typedef enum { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS } Prepend;

typedef struct {
    PreKind kind;
    bool    prefix_space, split;                     /* BYTES: add_prefix_space, use_regex */
    int     digits;                                  /* QWEN: how many make a word at most */
    Str     mark;                                    /* METASPACE: what stands for a space; split */
    Prepend prepend;
    bool    specials;                                /* CLIP: the pattern names the two specials */
} PreStep;

typedef enum {
    DEC_WORDPIECE, DEC_BYTES, DEC_BPE, DEC_REPLACE, DEC_FUSE, DEC_STRIP, DEC_BYTE_FALLBACK,
    DEC_METASPACE, DEC_TRIM
} DecKind;

typedef struct {
    DecKind kind;
    bool    cleanup;                                 /* WORDPIECE */
    bool    prepend;                                 /* METASPACE: the first piece has no space */
    Str     what, by;                                /* prefix, suffix, pattern, character */
    int     start, stop;                             /* STRIP */
} DecStep;

/* What stands around the text: ids, or one of these. */
enum { TEMPLATE_A = -1, TEMPLATE_B = -2, NO_TOKEN = -3 };
typedef struct { int *item; int n; } Template;

/* === Added tokens (added.c) =================================================================== */

typedef struct {
    Str  content, shown;             /* shown: what it decodes to */
    int  id;
    bool single_word, lstrip, rstrip, normalized, special;
} AddedToken;

typedef struct { Str pattern; int token; } Pattern;
/* Contents in bytewise order, to be matched leftmost-longest; first[b]: some begin with byte b. */
typedef struct { Pattern *pattern; int n; bool first[256]; } Matcher;

/* === The models =============================================================================== */

/* One of the merges that give a piece: lengths of the two parts; next: 1 + index of another. */
typedef struct { const char *right; uint32_t n_left, n_right; int rank; uint32_t next; } Merge;
typedef struct BpePairs BpePairs;
typedef struct Trie Trie;
typedef struct WordCache WordCache;

typedef struct {
    Str    unk, prefix, suffix;
    int    unk_id, unk_piece;                        /* -1: none */
    int    n_pieces;                                 /* the first of the vocabulary; added tokens
                                                      * that come later are none of the model's */
    int    max_chars;                                /* WordPiece */
    bool   fuse_unk, byte_fallback, ignore_merges;   /* BPE */
    Merge    *merge;                                 /* [n_merges], all pairs different */
    int       n_merges;
    uint32_t *first_merge;                           /* [n_pieces] 1 + index; 0: none */
    int      *rank;                                  /* [n_pieces] merging by piece; -1: never */
    Matcher   user;                                  /* by piece: pieces that stand as they are */
    bool      cut;                                   /* U+2581 always begins a word of its own */
    int       guess;                                 /* where the next merge's piece may be */
    int       byte_piece[256];                       /* of <0x00> .. <0xFF>; -1: not there */
    BpePairs *pairs;
    double   *score;                                 /* Unigram: [n_pieces] */
    double    unk_score;
    bool      single;                                /* sums in single precision */
    Trie     *trie;
    WordCache *cache;
} Model;

typedef enum { MODEL_WORDPIECE, MODEL_BPE, MODEL_UNIGRAM } ModelKind;

struct Tokenizer {
    const char     *name;                            /* of the file, for messages */
    const uint8_t  *cls;                             /* unicode_classes() */
    Vocab           vocab;
    ModelKind       kind;
    Model           model;
    NormStep        norm[MAX_STEPS];
    PreStep         pre[MAX_STEPS];
    DecStep         dec[MAX_STEPS];
    int             n_norm, n_pre, n_dec;
    Template        single, pair;
    AddedToken     *added;
    int             n_added, cap_added, next_id;
    Matcher         raw, normal;                     /* not normalized, normalized */
    int             named[TOK_N_NAMES];              /* ids; -1: none */
    bool            split_special;                   /* TOK_RAW always */
};

/* tokenizer.c */
void set_unk(Tokenizer *t, Str unk);                 /* the model's unknown piece; empty: none */
void find_bytes(Tokenizer *t);                       /* the pieces <0x00> .. <0xFF> */
void model_done(Tokenizer *t);                       /* its vocabulary is complete */

/* === Functions ================================================================================ */

/* parse.c: tokenizer.json, part by part and in this order. */
Tokenizer *tok_new(const char *name);
void parse_model(Tokenizer *t, Json root);
void parse_steps(Tokenizer *t, Json root);
void parse_added(Tokenizer *t, Json root);
void parse_post(Tokenizer *t, Json root);
void parse_vocab(Tokenizer *t, Json vocab);          /* {token: id} */
AddedToken parse_token(Json j);                      /* {content, lstrip, ...} */
/* first A last, and first A last before_b B last; NO_TOKEN: nothing there. */
void set_templates(Tokenizer *t, int first, int last, int before_b);

/* legacy.c: vocabularies without steps; text must stay. read_merges: of dir's merges.txt, for a
 * vocabulary that is there. */
Tokenizer *load_vocab_txt(const char *name, const char *text, size_t n);
void       read_merges(Tokenizer *t, const char *dir);
Tokenizer *tiktoken_parse(const char *name, const char *text, size_t n);

/* spm.c: a SentencePiece model. bytes must stay. */
Tokenizer *spm_parse(const char *name, const char *bytes, size_t n);

/* added.c */
void added_add(Tokenizer *t, AddedToken a);          /* gives it an id, as the reference does */
const AddedToken *added_get(const Tokenizer *t, Str content);         /* NULL: none */
const AddedToken *added_of_id(const Tokenizer *t, int id);
void added_compile(Tokenizer *t);                    /* after the last one: makes the matchers */
/* Texts of n parts with a noncharacter put into every special token that a raw part touches, so
 * that it is found no more; *guard: the character, to be taken out again. 0: none was needed. */
Text added_guard(const Tokenizer *t, const TokPart *part, int n, uint32_t *guard);
/* What one call of encode is to do. first: the segment begins where the text does. guard: of
 * added_guard, or 0. */
typedef struct { bool raw, first; uint32_t guard; } Run;
/* Cuts s at the tokens of m. Calls segment for what is between, ids_add for the tokens. */
typedef void SegmentFn(const Tokenizer *t, Str s, Run run, IdList *out);
/* The longest pattern that s begins with, or NULL. */
const Pattern *matcher_longest(const Matcher *m, const char *s, size_t n);
void matcher_sort(Matcher *m);                       /* when all patterns are there */
void added_split(const Tokenizer *t, const Matcher *m, Str s, Run run, SegmentFn *segment,
                 IdList *out);

/* normalize.c: s as it leaves the normalizers, in scratch or as it was. */
Str normalize(const Tokenizer *t, Str s);

/* charsmap.c. The table must stay; dies if it is none. */
Charsmap charsmap_open(const char *name, Str blob);
Str spm_normalize(const Tokenizer *t, const NormStep *step, Str s);
Str precompiled_normalize(const NormStep *step, Str s);

/* pretok.c: the words of a text. They point into s or into scratch. */
typedef struct { Str *word; size_t n, cap; } Words;
Words pre_tokenize(const Tokenizer *t, Str s, bool first);    /* first: s begins the text */
Words cut_at_marks(const Words *in);                 /* so that each run of U+2581 begins a word */
int   byte_char(int byte);                           /* GPT-2's printable character for a byte */
int   char_byte(uint32_t c);                         /* and back; -1: none */

/* wordpiece.c, bpe.c, unigram.c: the ids of a word. raw: special tokens do not come out of it. */
void wordpiece(const Tokenizer *t, Str word, IdList *out);
void bpe(const Tokenizer *t, Str word, IdList *out);
void unigram(const Tokenizer *t, Str word, bool raw, IdList *out);
/* When model.score is there; or from the scores and kinds of a SentencePiece model's pieces. */
void unigram_json(Tokenizer *t);
void unigram_spm(Tokenizer *t, const float *score, const bool *normal, const bool *user);
void bpe_init(Tokenizer *t, int n_merges);
/* A merge of rank `rank`; false if the result is not in the vocabulary. right must stay. */
bool bpe_merge(Tokenizer *t, Str left, Str right, int rank);
void bpe_finish(Tokenizer *t);                       /* after the last merge */

/* decode.c: pieces -> text, in scratch. tok_decode's piece of an id; s NULL: it gives nothing. */
Str  shown_piece(const Tokenizer *t, int id, bool skip_special);
Text decode_pieces(const Tokenizer *t, Str *piece, size_t n);

#endif
