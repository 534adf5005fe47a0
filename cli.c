/* cli.c -- the run: items in, results out, and what a person sees of it.
 *
 *   for each item:  landing place set -> item_open -> skipped? -> the command -> output_write
 *                   fail() lands here -> an error record, and on to the next
 *                   scratch is put back: ten thousand pictures need the memory of one
 *
 * stderr is for people. On a terminal it shows that something happens at once, then how far it is;
 * elsewhere it stays empty as long as all goes well.
 *
 * Easy to get wrong:
 *   - setjmp: a local that changes between setjmp and longjmp must be volatile, or live elsewhere.
 *   - The seed of an item follows from its id, not from its place: so shards and reorderings of a
 *     list draw the same numbers. A single item takes the seed as it was given. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

/* === Seeds ==================================================================================== */

static uint64_t random_seed(void)
{
    uint64_t v = 0;
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, &v, sizeof v) != sizeof v) v = (uint64_t)(now_ms() * 1e6);
    if (fd >= 0) close(fd);
    return v >> 1;
}

void run_seed(Run *r)
{
    const char *s = r->o.seed ? r->o.seed : getenv("MM_SEED");
    if (!s || !*s) return;
    if (strcmp(s, "random") == 0) {
        r->seed = random_seed();
        if (!r->o.quiet) fprintf(stderr, "mm: seed %llu\n", (unsigned long long)r->seed);
        return;
    }
    char *end;
    errno = 0;
    unsigned long long v = strtoull(s, &end, 10);
    if (*s < '0' || *s > '9' || *end || errno || v > INT64_MAX)
        usage_error(r->name, "%s %s: expected a whole number from 0 to 2^63-1, or random",
                    r->o.seed ? "--seed" : "MM_SEED", quoted(s));
    r->seed = v;
}

static int64_t item_seed(const Run *r, const Item *item)
{
    Json own = json_get(item->record, "seed");
    int64_t v;
    if (own.node && json_type(own) != JSON_NULL) {
        if (!json_integer(own, &v) || v < 0) json_error(own, "must be a whole number from 0");
        return v;
    }
    if (input_single(r->in)) return (int64_t)r->seed;
    uint64_t h = UINT64_C(0xcbf29ce484222325);           /* FNV-1a of the id */
    for (size_t i = 0; i < item->id_len; i++)
        h = (h ^ (unsigned char)item->id[i]) * UINT64_C(0x100000001b3);
    return (int64_t)((h + r->seed) & INT64_MAX);
}

/* === Progress ================================================================================= */

typedef struct {
    int64_t n_done, n_failed, n_skipped, n_tokens;
    double  ms_decode, ms_encode, ms_text, t_begin, t_shown;
    bool    shown, live, plain;              /* a line that is rewritten; a line now and then */
} Progress;

/* A terminal whose lines can be written over. */
static bool can_rewrite(void)
{
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) && !(term && strcmp(term, "dumb") == 0);
}

/* Writes over the line; what is too long for the terminal would wrap, and could not be wiped. */
static void show_line(char *line)
{
    struct winsize size;
    const char *env = getenv("COLUMNS");
    int columns = env ? atoi(env) : 0;
    if (columns < 1 && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0) columns = size.ws_col;
    size_t n = strlen(line), most = columns > 1 ? (size_t)columns - 1 : 79;
    if (n > most) {
        n = most;
        while (n && ((unsigned char)line[n] & 0xC0) == 0x80) n--;    /* not within a character */
        line[n] = 0;
    }
    fprintf(stderr, "\r\033[K%s", line);
    signals_progress(true);
}

void first_feedback(const Run *r, const char *fmt, ...)
{
    if (r->o.quiet || r->cmd->bit == INFO || !can_rewrite()) return;
    if (r->o.progress && strcmp(r->o.progress, "auto")) return;
    char line[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    show_line(line);
}

static void wipe(Progress *p)
{
    if (p->shown && signals_progress_shown()) fputs("\r\033[K", stderr);
    p->shown = false;
    signals_progress(false);
}

static double resident_bytes(void)
{
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    if (fscanf(f, "%ld %ld", &pages, &resident) != 2) resident = 0;
    fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static void status_text(const Run *r, const Progress *p, char *line, size_t size)
{
    static const struct { unsigned bit; const char *doing; } WORDS[] = {
        { CAPTION, "captioning" }, { EMBED, "embedding" }, { CLASSIFY, "classifying" },
        { PREPROCESS, "preprocessing" }, { TOKENIZE, "tokenizing" }, { CHAT, "answering" },
        { COMPLETE, "completing" },
    };
    const char *doing = r->name;
    for (size_t i = 0; i < sizeof WORDS / sizeof WORDS[0]; i++)
        if (WORDS[i].bit == r->cmd->bit) doing = WORDS[i].doing;
    double seconds = (now_ms() - p->t_begin) / 1e3;
    double rate = seconds > 0 ? (double)p->n_done / seconds : 0;
    int64_t total = input_total(r->in);
    int64_t done = p->n_done + p->n_skipped;
    size_t n = (size_t)snprintf(line, size, "%s %lld", doing, (long long)done);
    if (total >= 0) n += (size_t)snprintf(line + n, size - n, "/%lld", (long long)total);
    n += (size_t)snprintf(line + n, size - n, "  %.1f/s", rate);
    if (total >= 0 && rate > 0) {
        double eta = (double)(total - done) / rate;
        if (eta >= 120) n += (size_t)snprintf(line + n, size - n, "  ETA %.0f min", eta / 60);
        else n += (size_t)snprintf(line + n, size - n, "  ETA %.0f s", eta);
    }
    if (p->n_failed)
        n += (size_t)snprintf(line + n, size - n, "  %lld failed", (long long)p->n_failed);
    snprintf(line + n, size - n, "  %s", bytes_string(resident_bytes()));
}

/* After an item: a status line if it is time, or if SIGUSR1 asks for it. */
static void show(const Run *r, Progress *p)
{
    char line[300];
    double now = now_ms();
    bool asked = signals_status();
    if (!asked && !(p->live && now - p->t_shown > 100) && !(p->plain && now - p->t_shown > 5000))
        return;
    status_text(r, p, line, sizeof line);
    if (p->live && !asked) {
        show_line(line);
        p->shown = true;
    } else fprintf(stderr, "mm: %s: %s\n", r->name, line);
    p->t_shown = now;
}

/* What to say when the run is interrupted now. */
static void farewell(const Run *r, const Progress *p)
{
    char line[200], total[32] = "";
    if (input_total(r->in) >= 0)
        snprintf(total, sizeof total, " of %lld", (long long)input_total(r->in));
    snprintf(line, sizeof line, "mm: %s: %lld%s done%s\n", r->name,
             (long long)(p->n_done + p->n_skipped), total, r->o.resume || r->o.sidecar
             ? "; run it again to go on" : "; with --resume FILE a run can go on");
    signals_farewell(line);
}

/* What a learner wants to know: -v. */
static void summary(const Run *r, const Progress *p)
{
    double ms = now_ms() - p->t_begin;
    fprintf(stderr, "%lld item%s in %.2f s", (long long)p->n_done, p->n_done == 1 ? "" : "s",
            ms / 1e3);
    if (p->n_failed) fprintf(stderr, ", %lld failed", (long long)p->n_failed);
    if (p->n_skipped) fprintf(stderr, ", %lld done before", (long long)p->n_skipped);
    fprintf(stderr, ": decode %.1f ms, encode %.1f ms, text %.1f ms", p->ms_decode, p->ms_encode,
            p->ms_text);
    if (p->n_tokens && p->ms_text > 0)
        fprintf(stderr, "; %lld tokens, %.1f tok/s", (long long)p->n_tokens,
                1e3 * (double)p->n_tokens / p->ms_text);
    double busy = p->ms_encode + p->ms_text, flops = nn_flops();
    if (flops > 0 && busy > 0) fprintf(stderr, "; %.1f GFLOP/s", flops / busy / 1e6);
    fprintf(stderr, "\nstart to first compute %.1f ms (load %.1f ms); %d thread%s; %s file, %s "
            "keep, %s scratch\n", r->t_first ? r->t_first - r->t_start : 0, r->ms_load, n_threads(),
            n_threads() == 1 ? "" : "s",
            bytes_string(r->file_bytes), bytes_string((double)keep_peak()),
            bytes_string((double)scratch_peak()));
}

/* === The loop ================================================================================= */

typedef enum { DONE, SKIPPED, FAILED } Outcome;

static Outcome one_item(Run *r, ItemFn *fn, Item *item, Progress *p)
{
    static Result res;                       /* static: it must outlive the jump */
    jmp_buf place;
    res = (Result){0};
    if (setjmp(place)) {
        landing = NULL;
        return FAILED;
    }
    landing = &place;
    item_open(r->in, item);
    bool skipped = (r->o.skip > 0 && item->i < r->o.skip) || output_skip(r->out, item);
    if (!skipped) {
        item->seed = item_seed(r, item);
        fn(r, item, &res);
        if (p->live && output_on_terminal(r->out)) wipe(p);
        output_write(r->out, item, &res);
        if (res.note && p->live) {
            wipe(p);
            fprintf(stderr, "mm: %s: %s: %s\n", r->name, quoted_n(item->id, item->id_len),
                    res.note);
        }
        p->ms_decode += res.ms_decode;
        p->ms_encode += res.ms_encode;
        p->ms_text += res.ms_text;
        p->n_tokens += res.tokens_out;
        r->ms_load = r->o.timings ? 0 : r->ms_load;      /* a record tells it once */
    }
    landing = NULL;
    return skipped ? SKIPPED : DONE;
}

static Progress progress_start(const Run *r)
{
    Progress p = { .t_begin = now_ms(), .t_shown = now_ms() };
    const char *mode = r->o.progress ? r->o.progress : "auto";
    bool quiet = r->o.quiet || strcmp(mode, "none") == 0;
    p.plain = !quiet && strcmp(mode, "plain") == 0;
    p.live = !quiet && !p.plain && can_rewrite();
    p.shown = p.live;                        /* the line of first_feedback */
    return p;
}

/* Code 5 is for an operand that could not be read: not for a failure of later steps. */
static bool is_unreadable(const ItemError *e)
{
    return strncmp(e->code, "image.", 6) == 0 || strncmp(e->code, "input.", 6) == 0;
}

int run_items(Run *r, ItemFn *fn)
{
    Item item;
    bool single = input_single(r->in), stop = false;
    int code = 0;
    double ms_load = r->ms_load;
    r->out = output_open(r);
    Progress p = progress_start(r);
    size_t mark = scratch_mark();
    for (int64_t n = 0; !stop && (r->o.limit < 0 || n < r->o.limit); ) {
        if (!input_next(r->in, &item)) break;
        Outcome outcome = one_item(r, fn, &item, &p);
        n += outcome != SKIPPED;
        if (outcome == SKIPPED) p.n_skipped++;
        else p.n_done++;
        if (outcome == FAILED) {
            p.n_failed++;
            wipe(&p);
            output_error(r->out, &item, &item_error);
            code = !single ? EXIT_ITEMS : strcmp(item_error.code, "memory") == 0 ? EXIT_MEMORY
                 : is_unreadable(&item_error) ? EXIT_INPUT : EXIT_ITEMS;
            stop = r->o.errors && strcmp(r->o.errors, "fail") == 0;
        }
        show(r, &p);
        if (p.live && !single) farewell(r, &p);
        scratch_reset(mark);
    }
    wipe(&p);
    if (r->o.recursive && !p.n_done && !p.n_skipped && !r->o.quiet)
        fprintf(stderr, "mm: %s: no pictures in %s\n", r->name,
                r->o.n_operands ? quoted(r->o.operand[0]) : "the folders of the list");
    /* A file of which nothing was finished is not made. */
    bool failed_before = output_close(r->out, p.n_done > p.n_failed || !(single || stop));
    if (failed_before && !code) {
        code = EXIT_ITEMS;
        if (!r->o.quiet)
            fprintf(stderr, "mm: %s: %s has failed items from before: --retry-errors tries them "
                    "again\n", r->name, quoted(r->o.resume));
    }
    r->ms_load = ms_load;
    long long there = (long long)output_n_there(r->out);
    if (there && !r->o.quiet)
        fprintf(stderr, "mm: %s: %lld of %lld skipped: files are there (--if-exists overwrite "
                "writes them anew)\n", r->name, there, (long long)p.n_done + there);
    if (p.n_failed && !single && !stop && !r->o.quiet)
        fprintf(stderr, "mm: %s: %lld of %lld items failed\n", r->name, (long long)p.n_failed,
                (long long)p.n_done);
    if (r->o.verbose > 0) summary(r, &p);
    return r->o.exit0 && (code == EXIT_ITEMS || code == EXIT_INPUT) ? 0 : code;
}

/* === Intermediates ========================================================================== */

/* -vv: each intermediate as it comes. */
static void print_trace(void *ctx, const char *name, Tensor t)
{
    const Run *r = ctx;
    double sum = 0, squares = 0;
    size_t n = n_elem(t);
    for (size_t i = 0; i < n; i++) {
        sum += (double)f32(t)[i];
        squares += (double)f32(t)[i] * (double)f32(t)[i];
    }
    double mean = sum / (double)n, variance = squares / (double)n - mean * mean;
    fprintf(stderr, "%9.1f ms  %-52s %-20s mean % .5f  std %.5f\n", now_ms() - r->t_start, name,
            shape_string(t), mean, sqrt(variance > 0 ? variance : 0));
}

void trace_begin(Run *r)
{
    if (r->o.trace) trace_file_start(r->o.trace);
    else if (r->o.verbose > 1) trace_to(print_trace, r);
}

int run_traced(Run *r, ItemFn *fn)
{
    if (!tracing()) trace_begin(r);
    int code = run_items(r, fn);
    trace_file_finish();
    return code;
}
