/* cli.h -- what the commands share: options, inputs, records, outputs. The same flag means the same
 * thing in every command, and every record has the same frame.
 *
 *   argv -> options.c -> Options -> input.c -> Item -> the command (mm.c) -> Result
 *        -> record.c (how it is written) -> output.c (where it goes)      cli.c turns the crank
 *
 * Nothing here knows a model (that is model.h); mm.c hands in its table. One section per file. */
#ifndef CLI_H
#define CLI_H

#include "mm.h"

/* === Options (options.c) =======================================================================
 *
 * A number that was not given is -1, a text NULL. */

typedef struct { const char **v; int64_t n; } Texts;     /* of an option that may be repeated */

typedef struct {
    const char *model, *prompt, *output, *in, *files0_from, *files_from, *resume, *errors, *sidecar;
    const char *if_exists, *trace, *ids, *vec, *isa, *progress, *seed, *normalize;
    const char *label_template, *system, *template, *kv, *quant;
    const char *base, *delta, *key;
    Texts text, labels, images, stop;        /* --text, --labels, ... as often as they are given */
    const char **operand;
    int64_t n_operands;
    int64_t threads, limit, skip, top, beams, max_tokens, logprobs, max_pixels, verbose, seconds;
    int64_t top_k, ctx;
    double temp, top_p, min_p, repeat_penalty;
    bool recursive, json, tsv, nul, retry_errors, exit0, quiet, timings, no_filename, no_exif;
    bool exact, raw, show_prompt, cpu, tensors, full, no_color, help, help_all, version;
} Options;

/* Commands as a set of bits, for the option table. */
enum { CAPTION = 1, EMBED = 2, CLASSIFY = 4, INFO = 8, PREPROCESS = 16, TOKENIZE = 32, HELP = 64,
       LS = 128, BENCH = 256, CHAT = 512, COMPLETE = 1024, QUANTIZE = 2048, CONVERT = 4096 };
#define WRITES   (CHAT | COMPLETE)           /* texts of any length */
#define RUNS     (CAPTION | EMBED | CLASSIFY | PREPROCESS | TOKENIZE | WRITES)  /* item by item */
#define PICTURES (CAPTION | EMBED | CLASSIFY | PREPROCESS)
#define EVERY    (RUNS | INFO | BENCH)
#define ANY      (EVERY | HELP | LS | CONVERT | QUANTIZE)

typedef struct Run Run;
typedef struct Command {
    const char *name, *alias;
    unsigned    bit;
    int       (*run)(Run *r);        /* NULL: planned */
    const char *usage, *what;        /* "[-p QUESTION] IMG...", one line */
    const char *examples;            /* lines for -h, at most six */
    const char *in_fields;           /* of a JSONL record, beside those that all read */
    const char *out_fields;          /* fields that it writes */
} Command;

typedef enum { FLAG, COUNT, TEXT, LIST, NUMBER, REAL, CHOICE, LATER } OptionKind;
typedef struct {
    char        letter;              /* 0: none */
    const char *name, *arg;          /* arg NULL: a flag; of a CHOICE: "a|b|c" */
    OptionKind  kind;
    size_t      field;               /* offset in Options */
    unsigned    commands;
    bool        brief;               /* shown by -h; the rest by --help-all */
    int64_t     min, max;
    const char *what;
} OptionRow;
extern const OptionRow OPTIONS[];    /* ends with a row without a name */

/* The command and its options. @FILE as the first argument, or the first after the command, stands
 * for the words in FILE. Usage errors die with EXIT_USAGE. Returns NULL if no command is given. */
const Command *options_parse(Options *o, const Command *table, int argc, char **argv,
                             const char **typed);
/* The command of this name or alias; dies, saying which one may be meant. */
const Command *command_named(const Command *table, const char *word);
/* "caption, embed": those whose bits are set. Kept. */
const char *command_names(const Command *table, unsigned bits);
/* "mm: CMD: ...", and where the help is; exit code 2. */
_Noreturn void usage_error(const char *cmd, const char *fmt, ...) PRINTF(2, 3);
/* The text of an option that takes TEXT or @FILE (@-: stdin), without the last newline. */
const char *option_text(const char *cmd, const char *option, const char *value);
/* The names in text, each ended by `end` or the end of all; blanks around them do not count. An
 * empty one is left out, and told. Kept. */
typedef struct { const char **name; int n; bool empty; } Names;
Names cut_names(const char *text, char end);
/* What a small model knows: the names in its concepts.txt, one a line. n 0: it has no such file. */
Names concepts_load(const char *dir);
/* The nearest of n names within two edits, or NULL. stride is the distance of the name pointers. */
const char *nearest(const char *word, const char *const *names, size_t n, size_t stride);

/* === Help (help.c) ============================================================================ */

void help_general(const Command *table, bool all);
void help_command(const Command *c, const char *name, bool all);    /* name: as typed */
void help_man(const Command *table);         /* the manual page, in man(7) */

/* === Inputs (input.c) ========================================================================= */

typedef enum { FROM_PATH, FROM_STDIN, FROM_TEXT, FROM_JSONL, FROM_TSV, FROM_PNM } Source;

typedef struct {
    Source         source;
    int64_t        i;                /* place among all inputs, from 0 */
    const char    *where;            /* "line 7 of list.txt"; NULL: an operand */
    const char    *raw;              /* the path, the text or the line; zero-terminated */
    size_t         raw_len;
    const char    *id;               /* zero-terminated; not UTF-8: path_b64 stands beside it */
    size_t         id_len;
    Json           id_json;          /* an id that is no string: written as it came */
    const char    *path;             /* the picture's file, or NULL */
    const uint8_t *bytes;            /* the picture itself, or NULL */
    size_t         n_bytes;
    const char    *text;             /* a text to work on, or NULL: a picture */
    size_t         text_len;
    const char    *prompt;           /* NULL: what -p says */
    Json           record;           /* the JSONL record; absent for other sources */
    int64_t        seed;
} Item;

typedef struct Input Input;
/* What the model takes. Operands are pictures, but of TAKES_TEXTS; a record's "text" counts unless
 * TAKES_PICTURES. TAKES_PROMPTS: operands are files that hold a text each, "-" is stdin as one text
 * unless --in says otherwise, and what a record must have is up to the command. */
typedef enum { TAKES_PICTURES, TAKES_TEXTS, TAKES_BOTH, TAKES_PROMPTS } Takes;
/* Dies with EXIT_USAGE if there is no input at all. */
Input  *input_open(const char *cmd, const Options *o, Takes takes);
/* The next input, raw: only i, source, raw and a first id are set. False: no more. */
bool    input_next(Input *in, Item *item);
/* Reads the record, decodes base64, cuts the stream. May fail(). Called for each item once. */
void    item_open(Input *in, Item *item);
/* The key of a record as it is written there: "max_tokens" or "max-tokens". */
const char *record_key(Json record, const char *key);
/* The picture of the item: its file read, decoded. May fail(). */
Image   item_picture(const Item *item, const Options *o);
/* The file, whole, in scratch. May fail() with image.missing or .toobig. */
uint8_t *read_picture_file(const char *path, size_t *n);
/* Is the file one that the run reads: a picture, by its first bytes (no command here writes one), a
 * list, what an option names, or, if operands are asked for, one of them? */
bool    input_reads(const Options *o, const char *path, bool operands);
bool    is_picture_file(const char *path);
int64_t input_total(const Input *in);        /* -1: not known */
bool    input_several(const Input *in);      /* more than one item may come */
bool    input_single(const Input *in);       /* exactly one operand: exit code 5 */
/* Zero-terminated pieces of a file, up to the next `end` byte: for stdin and lists. */
typedef struct { int fd; char *buf; size_t first, n; int64_t n_taken; bool eof; } Lines;
Lines   lines_open(int fd);
/* NULL: no more. A piece of more than 256 MB: *n = SIZE_MAX, the piece is passed over. terminated:
 * false for a last piece without its end. */
char   *lines_next(Lines *l, char end, size_t *n, bool *terminated);

/* === Records (record.c) ======================================================================= */

typedef struct { char *p; size_t n, cap; } Buf;      /* grows in scratch */

void put(Buf *b, const char *fmt, ...) PRINTF(2, 3);
void put_bytes(Buf *b, const void *p, size_t n);
void put_json(Buf *b, const char *s, size_t n);      /* a JSON string, always valid UTF-8 */
void put_float(Buf *b, float x);                     /* shortest that reads back; NaN, inf: null */
void put_base64(Buf *b, const void *p, size_t n);
void put_ids(Buf *b, const int *id, int n, const char *between);
void put_logprobs(Buf *b, const Generated *g, int k);        /* a JSON member, k alternatives */
void put_plain(Buf *b, const char *s, size_t n, bool newlines, bool tabs, bool controls);
bool is_utf8(const char *s, size_t n);
/* Strict RFC 4648 with padding; NULL if it is not. In scratch. */
uint8_t *base64_decode(const char *s, size_t n, size_t *n_out);
/* The 128 bytes in front of float32 data, as numpy.save writes them. */
void npy_header(char header[128], const int64_t *dim, int ndim);

/* What a command makes of an item. */
typedef struct {
    Buf          text;               /* text output, without the last newline */
    bool         table;              /* text is several lines, each a line of output */
    Buf          body, tail;         /* JSON members, separated by commas, around model and seed */
    const float *vector;             /* for --vec f32 and npy */
    int          dim;
    const void  *blob;               /* a whole binary file instead of text */
    size_t       n_blob;
    double       ms_decode, ms_encode, ms_text;
    int          tokens_out;
    const char  *note;               /* for people on a terminal, or NULL */
} Result;

/* === Outputs (output.c) ======================================================================= */

typedef struct Output Output;
Output *output_open(Run *r);
/* True if the item is left out: done before (--resume), or its file is there (--if-exists). Dies
 * with EXIT_USAGE if the file is one of the run's inputs. */
bool    output_skip(Output *out, const Item *item);
int64_t output_n_there(const Output *out);   /* items left out because of --if-exists */
/* A piece of the item's text as it comes: written at once if the output is text for one item, else
 * nothing. res->text must begin with all pieces. */
void    output_piece(Output *out, const char *s, size_t n);
void    output_write(Output *out, const Item *item, const Result *res);      /* may fail() */
void    output_error(Output *out, const Item *item, const ItemError *e);
/* All is done: files get their names. commit false: what is unfinished is removed. Returns whether
 * the file of --resume holds failed items. */
bool    output_close(Output *out, bool commit);
void    signals_start(void);
void    store_drop(void);            /* store.c: nothing half converted stays; for the handler */
void    signals_farewell(const char *line);  /* what SIGINT says last; for a terminal */
bool    output_on_terminal(const Output *out);
void    signals_progress(bool shown);        /* a line on the terminal has to be wiped first */
bool    signals_progress_shown(void);
bool    signals_status(void);                /* SIGUSR1 came since the last call */

/* === A person at a terminal (columns.c, repl.c) =============================================== */

/* What a reader calls a character, at s: its bytes (n >= 1 are there), and the columns it takes. */
size_t character(const char *s, size_t n, int *columns);
size_t character_before(const char *s, size_t n);    /* bytes of the last one; 0 if n is 0 */

/* Takes the terminal that is stdin and stdout, until exit: its signals are ours, and whatever the
 * way out, it is left as it was found. False: there is none. */
bool terminal_begin(void);
/* While an answer is written keys are not shown, and Ctrl-C makes terminal_interrupted() true. */
void terminal_answer(bool begins);
bool terminal_interrupted(void);

typedef enum { LINE_READ, LINE_DROPPED, LINE_END } LineResult;      /* Enter, Ctrl-C, Ctrl-D */
/* Lets a person write a line, or several; prompt is two columns wide. The text is UTF-8, without
 * control characters but \n and \t, and stays until the next call. */
LineResult line_read(const char *prompt, const char **text);
/* Lines of earlier runs, at most 1000; history_save writes the file anew. */
void history_load(const char *path);
void history_save(void);

/* === The run (cli.c) ========================================================================== */

struct Run {
    const Command *cmd, *table;      /* table: all of them */
    const char    *name;             /* as typed: caption or vqa */
    Options        o;
    Input         *in;
    Output        *out;
    ModelPath      model;
    uint64_t       seed;
    bool           text_lines;       /* text output is a bare line per item: embed, tokenize */
    double         t_start, t_first; /* process start, first compute, in ms; 0: not yet */
    double         ms_load, file_bytes;
    void          *ctx;
};

typedef void ItemFn(Run *r, const Item *item, Result *res);
/* Takes the items one by one through fn; returns the exit code. r->in must be open. */
int    run_items(Run *r, ItemFn *fn);
/* The same, with what --trace and -vv ask for; trace_begin: earlier, where it begins earlier. */
int    run_traced(Run *r, ItemFn *fn);
void   trace_begin(Run *r);
void   run_seed(Run *r);             /* -s, MM_SEED; "random" picks one and says so */
double now_ms(void);
void   first_feedback(const Run *r, const char *fmt, ...) PRINTF(2, 3);      /* a terminal only */

/* === The machine (machine.c) ================================================================== */

/* The kernels; returns how many threads are asked for, 0: the default. */
int  choose_machine(Run *r);
void start_machine(Run *r);                  /* that, the threads, and the seed */
void computing(Run *r);                      /* from here on it computes: for -v */

/* === mm info (info.c) ========================================================================= */

typedef struct {
    const char *label, *dir, *type, *name, *arch, *runs, *tokenizer;
    const char **known;              /* names of what it knows, if it says so */
    int         n_known;
    Json        config, vision;      /* vision: of the picture tower, if it has one */
    Ckpt        ck;
    double      beside;              /* bytes of a picture tower that has a file of its own */
    int         n_rows;              /* of a picture, if not the tower's tokens */
} ModelFacts;

/* === What it costs (estimate.c) =============================================================== */

/* A transformer's shape, as config.json has it. */
typedef struct {
    int layers, d, d_ff, heads, kv_heads, head_dim, mlp_matrices;
    int image, patch, n_tok;         /* a picture's side, a patch's, rows of the picture */
    int vocab, context;
} Tower;

typedef struct {
    Tower  vision, text;             /* vision.layers 0: takes no pictures */
    double mapped, own, kv_token;    /* bytes: of the weights, shared; of a process; of a token */
    int    ctx;                      /* tokens that `own` counts keys and values of; 0: none */
    double read, multiply, call;     /* measured: bytes of weights and operations a second; and the
                                      * seconds of a product of next to nothing */
    double image_s, text_s;          /* seconds for a picture, for a short text; 0: it does not */
    double token_s, prompt_s;        /* seconds for a token that it writes, that it reads */
} Cost;

/* Measures for 0.1 s, with the kernels and threads in force. */
Cost estimate(const ModelFacts *m, const Options *o);

/* === mm info, continued ======================================================================= */

/* True if path is a picture, and was told about; false: something else. */
bool info_picture(const char *path, const Options *o);
void info_cpu(const Options *o, const char *level, const char *available);
void info_tensors(Ckpt ck, const Options *o);
void info_model(const ModelFacts *m, const Options *o);
void info_found(const FoundModel *m, int i, const Options *o);       /* a line of mm ls */
const char *bytes_string(double n);          /* "990 MB"; static buffers */

/* === mm convert (convert.c, convert.h) ======================================================== */

int convert_model(const Run *r);             /* the exit code */

/* === mm bench (bench.c) ======================================================================= */

/* Measures with the kernels in force, first with one thread, then with that many (0: the default):
 * the pool must not have been started. Returns the exit code. */
int bench(const Run *r, int threads);

#endif
