/* tokenizer.h -- text to token ids and back, as the Hugging Face tokenizers do it.
 *
 * A tokenizer.json is a small machine: added tokens are cut out, the rest is normalised, cut into
 * words (pre-tokenizer), each word becomes ids (model), and the post-processor adds the special
 * tokens. Other files (vocab.txt; vocab.json + merges.txt; SentencePiece models; qwen.tiktoken) are
 * turned into the same machine. A component that mm does not know refuses to load: a guess would be
 * silently wrong. */
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct Tokenizer Tokenizer;
typedef struct { int *id; int n; } Ids;

/* The tokenizer of a model directory; dies with EXIT_FILE (4) if there is none or it is invalid. */
Tokenizer *tok_load(const char *dir);
/* The machine of a tokenizer.json alone, as the `tokenizers` package reads it; what the fuzzer and
 * the tests call. name is for messages; json must live as long as the tokenizer. */
Tokenizer *tok_parse(const char *name, const char *json, size_t n);
/* The same for a SentencePiece model (tokenizer.model: with Llama's special tokens, spiece.model:
 * with T5's) and for Qwen's tiktoken file, as they are read where no configuration stands beside
 * them. */
Tokenizer *tok_parse_spm(const char *name, const char *bytes, size_t n);
Tokenizer *tok_parse_tiktoken(const char *name, const char *text, size_t n);

enum {
    TOK_SPECIAL = 1,         /* add what the post-processor adds ([CLS] .. [SEP]) */
    TOK_RAW     = 2          /* special tokens written in the text are text */
};

/* Text (any bytes; what is not UTF-8 becomes U+FFFD as Python's errors="replace" does) to ids, in
 * scratch. */
Ids tok_encode(const Tokenizer *t, const char *text, size_t n, int flags);
/* A pair of texts, as the post-processor joins them: [CLS] a [SEP] b [SEP]. */
Ids tok_encode_pair(const Tokenizer *t, const char *a, size_t n_a, const char *b, size_t n_b,
                    int flags);

/* One text in parts, encoded as the whole it is; in a part that is raw no special token is found,
 * nor one that reaches into it from the part before: a template with what a user wrote in it. */
typedef struct { const char *text; size_t n; bool raw; } TokPart;
Ids tok_encode_parts(const Tokenizer *t, const TokPart *part, int n_parts, int flags);

/* Ids to text, zero-terminated, in scratch; ids that are not in the vocabulary are skipped, special
 * tokens too if skip_special. The checkpoint's own decoder, with no second clean-up. */
char *tok_decode(const Tokenizer *t, const int *id, int n, bool skip_special);

/* Decoding while ids come: what tok_decode would give for all of them, handed out in parts, each of
 * whole characters and as early as no later id can change it (a run of byte pieces such as <0xE2>
 * waits for its end, at most 256 bytes). Not for decoders that look at the end of a text first
 * (CLIP's): EXIT_MODEL. Copying the struct is fine: tok_stream_end of a copy tells what would come
 * if the text ended here. */
typedef struct {
    const Tokenizer *tok;
    bool skip_special, started;              /* started: a piece has come */
    int  strip;                              /* how many leading blanks may still go */
    int  n_held;
    char held[256];                          /* bytes of a character, or of a run, not yet whole */
} TokStream;
TokStream   tok_stream(const Tokenizer *t, bool skip_special);
const char *tok_stream_put(TokStream *s, int id);    /* zero-terminated, may be empty; scratch */
const char *tok_stream_end(TokStream *s);            /* the rest, broken UTF-8 as U+FFFD; scratch */

/* The ids of the tokens that tokenizer_config.json and its like, or the kind of tokenizer, give a
 * name to. -1: there is none. */
typedef enum {
    TOK_BOS, TOK_EOS, TOK_UNK, TOK_SEP, TOK_PAD, TOK_CLS, TOK_MASK, TOK_N_NAMES
} TokName;
int         tok_named(const Tokenizer *t, TokName which);
bool        tok_is_special(const Tokenizer *t, int id);          /* dropped by skip_special */
bool        tok_adds_bos(const Tokenizer *t);        /* TOK_SPECIAL puts TOK_BOS in front */

int         tok_id(const Tokenizer *t, const char *piece);       /* -1: not there */
const char *tok_piece(const Tokenizer *t, int id, size_t *n);    /* NULL: not there */
int         tok_size(const Tokenizer *t);                        /* largest id + 1 */
const char *tok_kind(const Tokenizer *t);                        /* "WordPiece", "BPE": for info */
const char *tok_file(const Tokenizer *t);                        /* of the vocabulary; quoted */

#endif
