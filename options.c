/* options.c -- the words of the command line, and the one table of options.
 *
 *   mm [@FILE] CMD [@FILE] (-x | -x VALUE | --name | --name VALUE | OPERAND)... [-- OPERAND...]
 *                           -xVALUE and --name=VALUE mean the same
 *
 * Help, the manual page and the parser read the same rows of OPTIONS, so they cannot drift apart.
 * Options and operands may be mixed; "-" is an operand; an option that the command does not have
 * is an error that says who has it; a word that is nearly right gets "did you mean".
 *
 * Easy to get wrong:
 *   - "-" alone and "--" are no options, and after "--" everything is an operand.
 *   - @FILE counts only as the first argument, or the first after the command: a text to tokenize
 *     may begin with @ too. The value of --labels or -p beginning with @ is another matter: it is
 *     the option that reads it.
 *   - A number that was not given is -1: 0 is a value. The locale is C: 0.5 is written so. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

#define AT(f) offsetof(Options, f)
#define MOST  INT64_C(1000000000000000)

/* letter, name, value, kind, field, commands, shown by -h, smallest, largest, what it does */
const OptionRow OPTIONS[] = {
    {'m', "model", "M", TEXT, AT(model), RUNS | INFO, true, 0, 0,
     "path, org/name[@rev], alias, builtin:NAME (`mm ls`)"},
    {'p', "prompt", "TEXT", TEXT, AT(prompt), CAPTION | EMBED | TOKENIZE | WRITES, true, 0, 0,
     "a question, a beginning, a text (@FILE: from a file)"},
    {0, "system", "TEXT", TEXT, AT(system), CHAT, true, 0, 0,
     "what the model is told ahead of all (@FILE: a file)"},
    {0, "image", "F", LIST, AT(images), CHAT, true, 0, 0,
     "a picture that the question is about; again"},
    {0, "template", "NAME", TEXT, AT(template), CHAT, true, 0, 0,
     "how turns are written, if not as the checkpoint says"},
    {0, "show-prompt", NULL, FLAG, AT(show_prompt), WRITES, true, 0, 0,
     "no answer: the exact prompt, and its ids"},
    {0, "text", "T", LIST, AT(text), EMBED, true, 0, 0,
     "a text to embed, again and again (-: with --in lines)"},
    {0, "labels", "A,B|@F", LIST, AT(labels), CLASSIFY, true, 0, 0,
     "what to choose from; @F: a file, one a line; again"},
    {0, "label-template", "T", TEXT, AT(label_template), CLASSIFY, false, 0, 0,
     "{} is the label (CLIP: 'a photo of a {}.'; BLIP: '{}')"},
    {0, "top", "N", NUMBER, AT(top), CLASSIFY, true, 1, 1000000, "only the best N labels"},
    {'o', "output", "F", TEXT, AT(output), RUNS, true, 0, 0,
     "a file, or one per item: 'out/{stem}.txt' '{i:05}.npy'"},
    {0, "vec", "json|b64|f32|npy", CHOICE, AT(vec), EMBED, true, 0, 0,
     "vectors as json, b64, f32 or npy (default: numbers)"},
    {0, "ids", "F", TEXT, AT(ids), EMBED, false, 0, 0,
     "the ids of the rows of an .npy, one a line, into F"},
    {0, "normalize", "yes|no", CHOICE, AT(normalize), EMBED, false, 0, 0,
     "vectors of length 1 (default yes)"},
    {0, "in", "files|lines|jsonl|tsv|pnm", CHOICE, AT(in), RUNS, true, 0, 0,
     "stdin ('-') is files (default) lines jsonl tsv or pnm"},
    {0, "files0-from", "F", TEXT, AT(files0_from), PICTURES, false, 0, 0,
     "paths from F ('-': stdin), each ended by NUL"},
    {0, "files-from", "F", TEXT, AT(files_from), PICTURES, false, 0, 0,
     "paths from F ('-': stdin), one a line"},
    {'r', "recursive", NULL, FLAG, AT(recursive), PICTURES, true, 0, 0,
     "enter folders; pictures are known by first bytes"},
    {0, "json", NULL, FLAG, AT(json), (EVERY & ~PREPROCESS) | LS | CONVERT | QUANTIZE, true, 0, 0,
     "one JSON object per record and line"},
    {0, "tsv", NULL, FLAG, AT(tsv), RUNS & ~PREPROCESS, false, 0, 0,
     "id, tab, result; tabs and newlines escaped"},
    {'0', "null", NULL, FLAG, AT(nul), RUNS & ~PREPROCESS, false, 0, 0,
     "records end in NUL instead of newline"},
    {0, "no-filename", NULL, FLAG, AT(no_filename), RUNS, false, 0, 0,
     "no path in front where there are several inputs"},
    {0, "resume", "F", TEXT, AT(resume), RUNS & ~PREPROCESS, true, 0, 0,
     "append JSON records to F, leave out what it has"},
    {0, "retry-errors", NULL, FLAG, AT(retry_errors), RUNS & ~PREPROCESS, false, 0, 0,
     "with --resume: failed items again"},
    {0, "sidecar", "S", TEXT, AT(sidecar), PICTURES, false, 0, 0,
     "each result beside its picture: a.jpg -> a.jpgS"},
    {0, "if-exists", "skip|overwrite|fail", CHOICE, AT(if_exists), RUNS, false, 0, 0,
     "files there: skip (default; -o FILE: overwrite) fail"},
    {0, "errors", "record|skip|fail", CHOICE, AT(errors), RUNS, false, 0, 0,
     "a failed item: record (default) skip fail"},
    {0, "exit0", NULL, FLAG, AT(exit0), RUNS, false, 0, 0, "exit 0 even if items failed"},
    {0, "limit", "N", NUMBER, AT(limit), RUNS, false, 0, MOST, "stop after N items"},
    {0, "skip", "N", NUMBER, AT(skip), RUNS, false, 0, MOST, "leave out the first N items"},
    {0, "temp", "X", REAL, AT(temp), WRITES, true, 0, 100,
     "0: the likeliest token; higher: more surprising ones"},
    {0, "top-k", "N", NUMBER, AT(top_k), WRITES, false, 0, 1 << 22,
     "draw among the N likeliest tokens (0: all)"},
    {0, "top-p", "X", REAL, AT(top_p), WRITES, false, 0, 1,
     "draw among the likeliest that make up this share"},
    {0, "min-p", "X", REAL, AT(min_p), WRITES, false, 0, 1,
     "draw none less likely than X times the likeliest"},
    {0, "repeat-penalty", "X", REAL, AT(repeat_penalty), WRITES, false, 0, 100,
     "make tokens that are there less likely (1: no)"},
    {0, "beams", "N", NUMBER, AT(beams), CAPTION | WRITES, true, 1, 64,
     "beam search (default 1: none)"},
    {0, "max-tokens", "N", NUMBER, AT(max_tokens), CAPTION | WRITES, true, 0, 1000000,
     "new tokens at most (BLIP: 20, complete: 256)"},
    {0, "stop", "TEXT", LIST, AT(stop), WRITES, false, 0, 0,
     "end before this text; again"},
    {0, "ctx", "N", NUMBER, AT(ctx), WRITES | INFO, false, 1, 1 << 24,
     "tokens in all (default: the model's, at most 4096)"},
    {0, "kv", "f32|f16", CHOICE, AT(kv), WRITES | INFO, false, 0, 0,
     "keys and values in f32, or in half the memory"},
    {0, "logprobs", "K", NUMBER, AT(logprobs), CAPTION | WRITES, false, 1, 1000,
     "with --json: log probabilities and K alternatives"},
    {0, "raw", NULL, FLAG, AT(raw), CAPTION | CHAT, false, 0, 0,
     "special tokens written in the prompt are special"},
    {0, "base", "M", TEXT, AT(base), CONVERT, true, 0, 0,
     "what is converted is the difference to M: add it up"},
    {0, "delta", "alpaca|add", CHOICE, AT(delta), CONVERT, true, 0, 0,
     "rows not in M begin with its mean row, or zero"},
    {0, "key", "K", TEXT, AT(key), CONVERT, true, 0, 0,
     "the entry of the file that is the model (ema, ...)"},
    {'s', "seed", "N", TEXT, AT(seed), RUNS, false, 0, 0,
     "default 0; 'random' picks one; recorded"},
    {'t', "threads", "N", NUMBER, AT(threads), EVERY | CONVERT | QUANTIZE, true, 1, 512,
     "default: as affinity and cgroup allow"},
    {0, "isa", "LEVEL", TEXT, AT(isa), EVERY | QUANTIZE, false, 0, 0,
     "cap the kernels; `mm info --cpu` lists the levels"},
    {0, "exact", NULL, FLAG, AT(exact), RUNS, false, 0, 0,
     "f32 and the direct algorithms everywhere"},
    {0, "quant", "none|q8|q4", CHOICE, AT(quant), CAPTION | EMBED | CLASSIFY | WRITES | QUANTIZE,
     false, 0, 0, "weights in 8 or 4 bits (mm quantize: q8 if not given)"},
    {0, "no-exif", NULL, FLAG, AT(no_exif), PICTURES, false, 0, 0,
     "do not turn pictures as their EXIF data says"},
    {0, "max-pixels", "N", NUMBER, AT(max_pixels), PICTURES, false, 1, MOST,
     "refuse larger pictures (default 100 million)"},
    {0, "trace", "F", TEXT, AT(trace), CAPTION | EMBED | CLASSIFY, false, 0, 0,
     "write every named intermediate to F (safetensors)"},
    {0, "timings", NULL, FLAG, AT(timings), RUNS & ~PREPROCESS, false, 0, 0,
     "milliseconds in each record"},
    {0, "cpu", NULL, FLAG, AT(cpu), INFO, true, 0, 0, "kernels and threads of this machine"},
    {0, "tensors", NULL, FLAG, AT(tensors), INFO, true, 0, 0,
     "name, type, shape, offset of every tensor"},
    {0, "full", NULL, FLAG, AT(full), BENCH, true, 0, 0,
     "all shapes, with one thread, too (5 minutes)"},
    {0, "seconds", "S", NUMBER, AT(seconds), BENCH, true, 1, 86400,
     "to stop after, if 5 rounds are done (default 40)"},
    {0, "progress", "auto|none|plain", CHOICE, AT(progress), RUNS, false, 0, 0,
     "auto: on a terminal; none; plain: a line every 5 s"},
    {'q', "quiet", NULL, FLAG, AT(quiet), EVERY | CONVERT | QUANTIZE, false, 0, 0,
     "no progress, no warnings"},
    {'v', "verbose", NULL, COUNT, AT(verbose), EVERY | QUANTIZE, false, 0, 0,
     "times and memory at the end; -vv: each intermediate"},
    {0, "no-color", NULL, FLAG, AT(no_color), ANY, false, 0, 0, "accepted: there are no colours"},
    {'h', "help", NULL, FLAG, AT(help), ANY, false, 0, 0, "short help"},
    {0, "help-all", NULL, FLAG, AT(help_all), ANY, false, 0, 0, "all options"},
    {0, "version", NULL, FLAG, AT(version), ANY, false, 0, 0, "the version"},
    {0, "shard", "K/N", LATER, 0, EVERY, false, 0, 0, NULL},
    {0, "mem", "SIZE", LATER, 0, EVERY, false, 0, 0, NULL},
    {0, "batch", "N", LATER, 0, EVERY, false, 0, 0, NULL},
    {0, "provenance", NULL, LATER, 0, EVERY, false, 0, 0, NULL},
    {0, "unordered", NULL, LATER, 0, EVERY, false, 0, 0, NULL},
    {0, "timeout", "S", LATER, 0, EVERY, false, 0, 0, NULL},
    {0, "features", "F", LATER, 0, EVERY, false, 0, 0, NULL},
    {0, "layer", "N", LATER, 0, EVERY, false, 0, 0, NULL},
    {0, "dim", "N", LATER, 0, EVERY, false, 0, 0, NULL},
    {0}
};

_Noreturn void usage_error(const char *cmd, const char *fmt, ...)
{
    char msg[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(msg, sizeof msg, fmt, args);
    va_end(args);
    if (cmd) die(EXIT_USAGE, "%s\n`mm %s -h` shows how", msg, cmd);
    die(EXIT_USAGE, "%s\n`mm --help` shows how", msg);
}

/* === Nearly right ============================================================================= */

/* Edits (insert, delete, replace, swap neighbours) from a to b; words here are short. */
static int distance(const char *a, const char *b)
{
    enum { MAX = 32 };
    int d[MAX + 1][MAX + 1], na = (int)strlen(a), nb = (int)strlen(b);
    if (na > MAX || nb > MAX) return MAX;
    for (int i = 0; i <= na; i++) d[i][0] = i;
    for (int j = 0; j <= nb; j++) d[0][j] = j;
    for (int i = 1; i <= na; i++)
        for (int j = 1; j <= nb; j++) {
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]
                && d[i - 2][j - 2] + 1 < best) best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[na][nb];
}

const char *nearest(const char *word, const char *const *names, size_t n, size_t stride)
{
    const char *best = NULL;
    int best_d = strlen(word) < 5 ? 2 : 3;               /* fewer edits than this */
    for (size_t i = 0; i < n; i++) {
        const char *name = *(const char *const *)((const char *)names + i * stride);
        int d = name ? distance(word, name) : best_d;
        if (d < best_d) { best = name; best_d = d; }
    }
    return best;
}

/* === @FILE ==================================================================================== */

/* The whole of a small text file ("-": stdin), zero-terminated, until exit. */
static char *read_text(const char *cmd, const char *option, const char *path, size_t *n)
{
    enum { MAX = 16 << 20 };
    bool std = strcmp(path, "-") == 0;
    int fd = std ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) usage_error(cmd, "%s: %s: %s", option, quoted(path), strerror(errno));
    char *buf = keep_bytes(1 << 12);
    size_t size = 1 << 12;
    for (*n = 0; ; ) {
        if (*n + 1 == size) {
            if (size == MAX) usage_error(cmd, "%s: %s: more than 16 MB", option, quoted(path));
            char *more = keep_bytes(size * 2);
            memcpy(more, buf, *n);
            buf = more;
            size *= 2;
        }
        ssize_t got = read(fd, buf + *n, size - 1 - *n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) usage_error(cmd, "%s: %s: %s", option, quoted(path), strerror(errno));
        if (got == 0) break;
        *n += (size_t)got;
    }
    if (!std) close(fd);
    return buf;
}

const char *option_text(const char *cmd, const char *option, const char *value)
{
    if (!value || value[0] != '@') return value;
    size_t n;
    char *s = read_text(cmd, option, value + 1, &n);
    if (memchr(s, 0, n)) usage_error(cmd, "%s: %s: has a NUL byte", option, quoted(value + 1));
    if (n && s[n - 1] == '\n') s[n - 1] = 0;
    return s;
}

Names cut_names(const char *text, char end)
{
    const char ends[] = { end, 0 };
    size_t room = 1;
    for (const char *s = text; *s; s++) room += *s == end;
    Names names = { .name = keep_bytes(mul_size(sizeof(char *), room)) };
    for (const char *s = text; ; ) {
        size_t n = strcspn(s, ends), from = strspn(s, " \t\r");
        const char *next = s[n] ? s + n + 1 : NULL;
        if (from > n) from = n;
        size_t to = n;
        while (to > from && strchr(" \t\r", s[to - 1])) to--;
        if (to > from) names.name[names.n++] = keep_string("%.*s", (int)(to - from), s + from);
        else names.empty = true;
        if (!next) return names;
        s = next;
    }
}

Names concepts_load(const char *dir)
{
    size_t n;
    const char *text = model_file(dir, "concepts.txt", 1 << 20, &n);
    if (!text) return (Names){0};
    Names names = cut_names(text, '\n');
    if (strlen(text) != n || !names.n)
        die(EXIT_FILE, "%s/concepts.txt: %s, expected a name a line", quoted(dir),
            names.n ? "has a NUL byte" : "has no names");
    return names;
}

/* The words of an argument file: separated by white space, quoted with '...' or "...", a backslash
 * takes the next byte as it is, # at the beginning of a word makes the rest of the line a comment.
 * Cut in place; returns how many, at most max. */
static int cut_words(char *s, char **word, int max)
{
    int n = 0;
    for (char *in = s; ; ) {
        while (*in == ' ' || *in == '\t' || *in == '\n' || *in == '\r') in++;
        if (*in == '#') {
            while (*in && *in != '\n') in++;
            continue;
        }
        if (!*in) return n;
        if (n == max) usage_error(NULL, "more than %d arguments in an argument file", max);
        char *out = word[n++] = in, quote = 0;
        for (; *in && (quote || !strchr(" \t\r\n", *in)); in++)
            if (quote ? *in == quote : *in == '\'' || *in == '"') quote = quote ? 0 : *in;
            else if (*in == '\\' && quote != '\'' && in[1]) *out++ = *++in;
            else *out++ = *in;
        if (quote) usage_error(NULL, "a quote (%c) in an argument file is not closed", quote);
        bool more = *in;
        *out = 0;
        if (!more) return n;
        in++;
    }
}

/* argv with the @FILE in front, or after the first word, replaced by its words. */
static char **expand(int *argc, char **argv)
{
    enum { MAX = 100000 };
    for (int at = 1; at <= 2 && at < *argc; at++) {
        if (argv[at][0] != '@' || !argv[at][1]) continue;
        size_t n;
        char *text = read_text(NULL, "arguments", argv[at] + 1, &n);
        if (memchr(text, 0, n)) usage_error(NULL, "%s: has a NUL byte", quoted(argv[at] + 1));
        char **all = keep_bytes(sizeof *all * (size_t)(MAX + *argc));
        for (int i = 0; i < at; i++) all[i] = argv[i];
        int m = cut_words(text, all + at, MAX);
        for (int i = at + 1; i < *argc; i++) all[m + i - 1] = argv[i];
        *argc += m - 1;
        return all;
    }
    return argv;
}

/* === Parsing ================================================================================== */

static const OptionRow *by_name(const char *cmd, const char *name, size_t n)
{
    for (const OptionRow *row = OPTIONS; row->name; row++)
        if (strlen(row->name) == n && memcmp(row->name, name, n) == 0) return row;
    char word[40];
    snprintf(word, sizeof word, "%.*s", n > 39 ? 39 : (int)n, name);
    size_t count = 0;
    while (OPTIONS[count].name) count++;
    const char *near = nearest(word, &OPTIONS[0].name, count, sizeof OPTIONS[0]);
    if (near) usage_error(cmd, "unknown option --%s: did you mean --%s?", quoted(word), near);
    usage_error(cmd, "unknown option --%s", quoted(word));
}

static const OptionRow *by_letter(const char *cmd, char c, const char *word)
{
    for (const OptionRow *row = OPTIONS; row->name; row++)
        if (row->letter == c) return row;
    if (access(word, F_OK) == 0)
        usage_error(cmd, "unknown option -%s; for the file of that name put -- in front: -- %s",
                    quoted_n(&c, 1), quoted(word));
    usage_error(cmd, "unknown option -%s", quoted_n(&c, 1));
}

const char *command_names(const Command *table, unsigned bits)
{
    const char *list = "";
    for (const Command *c = table; c->name; c++)
        if (c->bit & bits) list = keep_string("%s%s%s", list, *list ? ", " : "", c->name);
    return list;
}

static void check_command(const Command *c, const Command *table, const OptionRow *row)
{
    if (row->kind == LATER) usage_error(c->name, "--%s: not in this version of mm", row->name);
    if (row->commands & c->bit) return;
    usage_error(c->name, "--%s is not an option of %s (it belongs to: %s)", row->name, c->name,
                command_names(table, row->commands));
}

static int64_t number(const char *cmd, const OptionRow *row, const char *value)
{
    char *end;
    errno = 0;
    long long v = strtoll(value, &end, 10);
    if (end == value || *end || errno || v < row->min || v > row->max)
        usage_error(cmd, "--%s %s: expected a whole number from %lld to %lld", row->name,
                    quoted(value), (long long)row->min, (long long)row->max);
    return v;
}

static double real(const char *cmd, const OptionRow *row, const char *value)
{
    char *end;
    double v = strtod(value, &end);
    bool number_like = strspn(value, "0123456789.eE-+") == strlen(value);
    if (end == value || *end || !number_like || !(v >= (double)row->min && v <= (double)row->max))
        usage_error(cmd, "--%s %s: expected a number from %lld to %lld", row->name, quoted(value),
                    (long long)row->min, (long long)row->max);
    return v;
}

static const char *choice(const char *cmd, const OptionRow *row, const char *value)
{
    size_t n = strlen(value);
    for (const char *p = row->arg; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (n && strncmp(p, value, n) == 0 && (p[n] == '|' || p[n] == 0)) return value;
    if (strcmp(row->name, "progress") == 0
        && (strcmp(value, "json") == 0 || strcmp(value, "hadoop") == 0))
        usage_error(cmd, "--progress %s: not in this version of mm", value);
    usage_error(cmd, "--%s %s: expected %s", row->name, quoted(value), row->arg);
}

static void store(Options *o, const char *cmd, const OptionRow *row, const char *value)
{
    void *field = (char *)o + row->field;
    switch (row->kind) {
    case FLAG:   *(bool *)field = true; break;
    case COUNT:  ++*(int64_t *)field; break;
    case TEXT:
        if (row->letter == 'p' && o->prompt)
            usage_error(cmd, "-p is there twice: one text, or --in lines");
        *(const char **)field = value;
        break;
    case LIST:   ((Texts *)field)->v[((Texts *)field)->n++] = value; break;
    case NUMBER: *(int64_t *)field = number(cmd, row, value); break;
    case REAL:   *(double *)field = real(cmd, row, value); break;
    case CHOICE: *(const char **)field = choice(cmd, row, value); break;
    case LATER:  break;
    }
}

/* "-qv", "-mM", "-m M": returns how many words beyond this one were taken. */
static int short_options(Options *o, const Command *c, const Command *table, char **word)
{
    for (const char *p = word[0] + 1; *p; p++) {
        const OptionRow *row = by_letter(c->name, *p, word[0]);
        check_command(c, table, row);
        if (!row->arg) {
            store(o, c->name, row, NULL);
            continue;
        }
        const char *value = p[1] ? p + 1 : word[1];
        if (!value) usage_error(c->name, "-%c needs a value: %s", *p, row->arg);
        store(o, c->name, row, value);
        return p[1] ? 0 : 1;
    }
    return 0;
}

static int long_option(Options *o, const Command *c, const Command *table, char **word)
{
    const char *name = word[0] + 2, *equals = strchr(name, '=');
    const OptionRow *row = by_name(c->name, name, equals ? (size_t)(equals - name) : strlen(name));
    check_command(c, table, row);
    if (!row->arg) {
        if (equals) usage_error(c->name, "--%s takes no value", row->name);
        store(o, c->name, row, NULL);
        return 0;
    }
    const char *value = equals ? equals + 1 : word[1];
    if (!value) usage_error(c->name, "--%s needs a value: %s", row->name, row->arg);
    store(o, c->name, row, value);
    return equals ? 0 : 1;
}

/* Commands of later versions, so that nobody takes them for a typing mistake. */
static const char *const PLANNED[] = {
    "search", "generate", "detect", "segment", "pull", "verify", "selftest", "completion"
};
enum { N_PLANNED = sizeof PLANNED / sizeof PLANNED[0] };

const Command *command_named(const Command *table, const char *word)
{
    size_t n = 0;
    for (const Command *c = table; c->name; c++, n++)
        if (strcmp(c->name, word) == 0 || (c->alias && strcmp(c->alias, word) == 0)) return c;
    for (size_t i = 0; i < N_PLANNED; i++)
        if (strcmp(PLANNED[i], word) == 0)
            die(EXIT_USAGE, "%s comes in a later version of mm", word);
    const char *near = nearest(word, &table[0].name, n, sizeof *table);
    if (!near) near = nearest(word, &table[0].alias, n, sizeof *table);
    if (near) usage_error(NULL, "unknown command %s: did you mean %s?", quoted(word), near);
    usage_error(NULL, "unknown command %s", quoted(word));
}

/* Something that begins with '-' in place of a command. */
static _Noreturn void no_such_word(const char *word)
{
    static const char *const KNOWN[] = { "--help", "--help-all", "--version" };
    const char *near = nearest(word, KNOWN, 3, sizeof KNOWN[0]);
    if (near) usage_error(NULL, "unknown option %s: did you mean %s?", quoted(word), near);
    usage_error(NULL, "%s: a command comes first, as in `mm caption photo.jpg`", quoted(word));
}

const Command *options_parse(Options *o, const Command *table, int argc, char **argv,
                             const char **typed)
{
    *o = (Options){ .threads = -1, .limit = -1, .skip = -1, .top = -1, .beams = -1,
                    .max_tokens = -1, .logprobs = -1, .max_pixels = -1, .seconds = -1,
                    .top_k = -1, .ctx = -1, .temp = -1, .top_p = -1, .min_p = -1,
                    .repeat_penalty = -1 };
    argv = expand(&argc, argv);
    int at = 1;
    for (; at < argc && argv[at][0] == '-'; at++)        /* before the command: help and version */
        if (!strcmp(argv[at], "-h") || !strcmp(argv[at], "--help")) o->help = true;
        else if (!strcmp(argv[at], "--help-all")) o->help_all = true;
        else if (!strcmp(argv[at], "--version")) o->version = true;
        else no_such_word(argv[at]);
    if (at >= argc || o->help || o->help_all || o->version) return NULL;
    *typed = argv[at];
    const Command *c = command_named(table, argv[at]);
    messages_of(*typed);
    size_t room = sizeof(char *) * (size_t)(argc + 1);
    o->text.v = keep_bytes(room);
    o->labels.v = keep_bytes(room);
    o->images.v = keep_bytes(room);
    o->stop.v = keep_bytes(room);
    o->operand = keep_bytes(room);
    bool only_operands = false;
    for (at++; at < argc; at++) {
        char *word = argv[at];
        if (only_operands || word[0] != '-' || !word[1]) o->operand[o->n_operands++] = word;
        else if (strcmp(word, "--") == 0) only_operands = true;
        else if (word[1] == '-') at += long_option(o, c, table, argv + at);
        else at += short_options(o, c, table, argv + at);
    }
    if (o->beams > 1 && o->temp > 0)
        usage_error(c->name, "--beams and --temp exclude each other: beams do not draw");
    return c;
}
