/* chat.c -- mm chat: conversations, one-shot, in batches, and on a terminal.
 *
 *   messages -> template -> ids, with the rows of pictures in their places
 *            -> the session reads what it has not read before -> the answer, as it comes
 *
 * Nothing is remembered but the messages and what the session has read: every turn writes the whole
 * conversation down anew, as the reference does, and the session finds the beginning that both
 * share. So a long conversation costs only its last turn, records of a batch that share a system
 * text share its keys and values, and there is no second form of a conversation to go wrong.
 *
 * On a terminal (no -p, no --in) it asks for lines; what begins with / is for the program. When the
 * conversation outgrows the context, the oldest question and its answer are left out, and a line
 * says so. Messages there are malloc'ed: they come and go while the program runs.
 *
 * Easy to get wrong:
 *   - An answer that was stopped by Ctrl-C stays in the conversation as far as it came.
 *   - A message that failed must leave it, or two questions stand side by side.
 *   - Turns that are left out take their pictures along. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model.h"

typedef struct {
    Writer              w;
    const ChatTemplate *form;
    const char         *system;      /* of --system, or NULL */
    const char         *prompt;      /* of -p, for records that have none */
    uint64_t            seen;        /* hash of the pictures that the session holds; 0: none */
    int                 first_row[16];       /* of each of them */
} Chat;

enum { MAX_PICTURES = 16 };

/* === Pictures ================================================================================= */

/* The ids with each place of a picture, -1-k, filled with its rows. */
static Ids with_rows(const Chat *c, Ids ids, const int *first_row)
{
    int n_rows = c->w.m->llava ? llava_n_tokens(c->w.m->llava) : 0, n = 0;
    for (int i = 0; i < ids.n; i++) n += ids.id[i] < 0 ? n_rows : 1;
    int *id = scratch_bytes(mul_size((size_t)n + 1, sizeof *id));
    n = 0;
    for (int i = 0; i < ids.n; i++) {
        int k = -1 - ids.id[i];
        if (k < 0) id[n++] = ids.id[i];
        for (int row = 0; k >= 0 && row < n_rows; row++) id[n++] = -1 - (first_row[k] + row);
    }
    return (Ids){ id, n };
}

static int read_picture(const Chat *c, Image picture)
{
    size_t mark = scratch_mark();
    Tensor x = llava_image(c->w.m->llava, preprocess(picture, &c->w.m->pre));
    int row = session_picture(c->w.session, x);
    scratch_reset(mark);
    return row;
}

static void need_pictures(const Chat *c)
{
    if (!c->w.m->llava || !template_takes_images(c->form))
        fail("input.text", NULL, "%s sees no pictures (template %s)",
             quoted(c->w.r->model.label), template_name(c->form));
}

/* The pictures of an item: the record's, or those of --image; kept as long as the next item has the
 * same. Returns how many. */
static int item_pictures(Chat *c, const Item *item)
{
    const Options *o = &c->w.r->o;
    bool own = item->source == FROM_JSONL && (item->path || item->bytes);
    int n = own ? 1 : (int)o->images.n;
    if (!n) return 0;
    need_pictures(c);
    if (n > MAX_PICTURES) fail("input.text", NULL, "%d pictures, at most %d", n, MAX_PICTURES);
    uint64_t hash = 1;
    Item one[MAX_PICTURES];
    for (int i = 0; i < n; i++) {
        one[i] = own ? *item : (Item){ .path = o->images.v[i], .id = o->images.v[i] };
        if (one[i].path) one[i].bytes = read_picture_file(one[i].path, &one[i].n_bytes);
        hash = hash_bytes(one[i].bytes, one[i].n_bytes, hash) | 1;
    }
    if (hash == c->seen) return n;
    session_clear(c->w.session);
    c->seen = 0;
    for (int i = 0; i < n; i++) {
        ImageOptions io = { .ignore_exif = o->no_exif,
                            .max_pixels = o->max_pixels > 0 ? o->max_pixels : 0 };
        const char *name = one[i].path ? one[i].path : one[i].id;
        c->first_row[i] = read_picture(c, image_decode(name, one[i].bytes, one[i].n_bytes, io));
    }
    c->seen = hash;
    return n;
}

/* === Messages from records ==================================================================== */

static const char *const ROLES[] = { "system", "user", "assistant" };

/* The list of messages; fails unless roles are in turns. Returns how many; *m in scratch. */
static int read_messages(Json list, Message **m)
{
    int n = json_len(list), i = 0;
    if (!json_is(list, JSON_ARRAY) || !n) json_error(list, "must be a list of messages");
    *m = scratch_bytes(mul_size((size_t)n, sizeof **m));
    bool question = true;                    /* that is what comes next */
    for (Json j = json_first(list); j.node; j = json_next(j), i++) {
        Json content = json_get(j, "content");
        const char *role = json_str_need(j, "role");
        int k = 0;
        while (k < 3 && strcmp(role, ROLES[k])) k++;
        if (k == 3) json_error(json_get(j, "role"), "is %s, expected system, user or assistant",
                               quoted(role));
        bool first = k == ROLE_SYSTEM && i == 0;
        if (!first && k != (question ? ROLE_USER : ROLE_ASSISTANT))
            json_error(json_get(j, "role"), "is %s, expected %s: after a system text, if any, come "
                       "user and assistant in turns", role, question ? "user" : "assistant");
        if (!first) question = !question;
        (*m)[i] = (Message){ .role = (Role)k };
        (*m)[i].text = json_string(content, &(*m)[i].n);
        if (!(*m)[i].text) json_error(content, "must be a text");
    }
    return n;
}

/* What the item says, as messages. */
static int item_messages(const Chat *c, const Item *item, Message **m)
{
    Json list = json_get(item->record, "messages");
    const char *system = json_str(item->record, "system", c->system);
    int n;
    if (list.node && json_type(list) != JSON_NULL) {
        Message *all;
        n = read_messages(list, m);
        if ((*m)[n - 1].role != ROLE_USER)
            json_error(list, "ends with %s, expected a question of the user",
                       ROLES[(*m)[n - 1].role]);
        if ((*m)[0].role == ROLE_SYSTEM && !template_takes_system(c->form))
            json_error(list, "has a system text: the template %s has no place for one",
                       template_name(c->form));
        if ((*m)[0].role == ROLE_SYSTEM || !system) return n;
        all = scratch_bytes(mul_size((size_t)n + 1, sizeof *all));
        memcpy(all + 1, *m, (size_t)n * sizeof *all);
        *m = all;
    } else {
        const char *text = item->text ? item->text : c->prompt;
        if (!text)
            fail("input.json", "or give all of them -p TEXT", "%s: no key messages, text or prompt",
                 quoted_n(item->id, item->id_len));
        n = 1;
        *m = scratch_bytes(2 * sizeof **m);
        (*m)[system != NULL] = (Message){ .role = ROLE_USER, .text = text,
                                          .n = item->text ? item->text_len : strlen(text) };
        if (!system) return 1;
    }
    if (!template_takes_system(c->form))
        fail("input.text", NULL, "the template %s has no place for a system text",
             template_name(c->form));
    (*m)[0] = (Message){ .role = ROLE_SYSTEM, .text = system, .n = strlen(system) };
    return n + 1;
}

/* === One-shot and batches ===================================================================== */

static void chat_item(Run *r, const Item *item, Result *res)
{
    Chat *c = r->ctx;
    Message *m;
    int n = item_messages(c, item, &m), first = m[0].role == ROLE_SYSTEM;
    if (r->o.show_prompt) {
        m[first].n_images = (int)r->o.images.n;
        Ids ids = template_encode(c->form, c->w.m->tok, m, n, r->o.raw);
        size_t len;
        const char *text = template_text(c->form, c->w.m->tok, m, n, &len);
        writer_show(text, len, ids, res);
        return;
    }
    double start = now_ms();
    m[first].n_images = item_pictures(c, item);
    res->ms_encode = now_ms() - start;
    Ids ids = template_encode(c->form, c->w.m->tok, m, n, r->o.raw);
    ids = with_rows(c, ids, c->first_row);
    writer_item(&c->w, item, ids.id, ids.n, res);
}

/* === On a terminal ============================================================================ */

typedef struct { char *text; size_t n; Role role; int n_images; char *image; } Turn;

typedef struct {
    Chat *c;
    Turn *turn;                      /* [n], malloc'ed: questions and answers in turns */
    int   n, cap;
    int  *row, n_rows, cap_rows;     /* first rows of the pictures of all turns, in their order */
    int   n_new;                     /* pictures for the next question, the last of those */
    char *new_image;                 /* the file of the last one */
    int   n_answers;
} Talk;

static void *grown(void *p, int n, int *cap, size_t size)
{
    if (n < *cap) return p;
    *cap = 2 * *cap + 16;
    p = realloc(p, mul_size((size_t)*cap, size));
    if (!p) die(EXIT_MEMORY, "no memory for the conversation");
    return p;
}

static void say(Talk *t, Role role, const char *text, size_t n)
{
    t->turn = grown(t->turn, t->n, &t->cap, sizeof *t->turn);
    char *copy = malloc(n + 1);
    if (!copy) die(EXIT_MEMORY, "no memory for the conversation");
    if (n) memcpy(copy, text, n);
    copy[n] = 0;
    t->turn[t->n++] = (Turn){ .text = copy, .n = n, .role = role };
}

static void drop_pictures(Talk *t, int first, int n)
{
    memmove(t->row + first, t->row + first + n, sizeof *t->row * (size_t)(t->n_rows - first - n));
    t->n_rows -= n;
}

/* The turns from first on, n of them, are gone, pictures and all. */
static void drop_turns(Talk *t, int first, int n)
{
    int before = 0;
    for (int i = 0; i < first; i++) before += t->turn[i].n_images;
    for (int i = first; i < first + n; i++) {
        if (t->turn[i].n_images) drop_pictures(t, before, t->turn[i].n_images);
        free(t->turn[i].text);
        free(t->turn[i].image);
    }
    memmove(t->turn + first, t->turn + first + n, sizeof *t->turn * (size_t)(t->n - first - n));
    t->n -= n;
}

static void clear(Talk *t)
{
    drop_turns(t, 0, t->n);
    t->n_rows = t->n_new = 0;
    free(t->new_image);
    t->new_image = NULL;
    session_clear(t->c->w.session);
}

static void print(const char *s, size_t n)
{
    for (ssize_t got; n; s += got, n -= (size_t)got) {
        got = write(STDOUT_FILENO, s, n);
        if (got < 0 && errno == EINTR) got = 0;
        if (got < 0) die(EXIT_OUTPUT, "stdout: cannot be written: %s", strerror(errno));
    }
}

/* A line of the program's own, in parentheses: nobody said it. */
static void note(const char *fmt, ...) PRINTF(1, 2);
static void note(const char *fmt, ...)
{
    char line[1500] = "(";
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line + 1, sizeof line - 4, fmt, args);
    va_end(args);
    n = n < (int)sizeof line - 4 ? n + 1 : (int)sizeof line - 4;
    line[n++] = ')';
    line[n++] = '\n';
    print(line, (size_t)n);
}

static bool show_piece(void *ctx, const char *s, size_t n)
{
    size_t mark = scratch_mark();
    Buf b = {0};
    (void)ctx;
    put_plain(&b, s, n, false, false, true);
    if (b.n) print(b.p, b.n);
    scratch_reset(mark);
    return !terminal_interrupted();
}

/* The conversation as ids; scratch. */
static Ids talk_ids(const Talk *t)
{
    const Chat *c = t->c;
    Message *m = scratch_bytes(mul_size((size_t)t->n + 1, sizeof *m));
    int n = 0;
    if (c->system)
        m[n++] = (Message){ .role = ROLE_SYSTEM, .text = c->system, .n = strlen(c->system) };
    for (int i = 0; i < t->n; i++)
        m[n++] = (Message){ t->turn[i].role, t->turn[i].text, t->turn[i].n, t->turn[i].n_images };
    Ids ids = template_encode(c->form, c->w.m->tok, m, n, c->w.r->o.raw);
    return with_rows(c, ids, t->row);
}

/* Once an eighth of the context is not free, old turns go until a quarter is: so that it is not
 * read anew with every turn from then on. */
static Ids make_room(Talk *t)
{
    int room = session_context(t->c->w.session), dropped = 0;
    Ids ids = talk_ids(t);
    if (ids.n <= room - room / 8) return ids;
    while (ids.n > room - room / 4 && t->n > 2) {
        drop_turns(t, 0, 2);
        dropped++;
        ids = talk_ids(t);
    }
    if (dropped)
        note("the oldest %s no longer fit%s into the context of %d tokens and %s left out",
             dropped > 1 ? "turns" : "turn", dropped > 1 ? "" : "s", room,
             dropped > 1 ? "were" : "was");
    if (ids.n > room)
        fail("input.text", context_hint(&t->c->w),
             "this has %d tokens, the context %d", ids.n, room);
    return ids;
}

static void answer(Talk *t)
{
    Ids ids = make_room(t);
    GenOptions o = writer_options(&t->c->w, (Json){0}, (int64_t)t->c->w.r->seed + t->n_answers++);
    terminal_answer(true);
    Written w = writer_write(&t->c->w, (Json){0}, ids.id, ids.n, o, show_piece, NULL);
    if (o.beams > 1) show_piece(NULL, w.text, w.n);
    bool interrupted = terminal_interrupted();
    terminal_answer(false);
    print("\n", 1);
    say(t, ROLE_ASSISTANT, w.text, w.n);
    if (interrupted) note("stopped; what is there stays");
    else if (strcmp(w.stop, "context") == 0)
        note("the context of %d tokens is full", session_context(t->c->w.session));
}

static void print_failure(void)
{
    terminal_answer(false);
    if (item_error.hint[0]) note("%s; %s", item_error.msg, item_error.hint);
    else note("%s", item_error.msg);
}

/* Runs fn, which may fail(): then a line says why, and false comes back. */
static bool try(void (*fn)(Talk *, const char *), Talk *t, const char *arg)
{
    size_t mark = scratch_mark();
    jmp_buf place;
    bool good = setjmp(place) == 0;
    if (good) {
        landing = &place;
        fn(t, arg);
    } else print_failure();
    landing = NULL;
    scratch_reset(mark);
    return good;
}

static void ask(Talk *t, const char *text)
{
    say(t, ROLE_USER, text, strlen(text));
    Turn *turn = &t->turn[t->n - 1];
    turn->n_images = t->n_new;
    turn->image = t->new_image;
    t->n_new = 0;
    t->new_image = NULL;
    answer(t);
}

/* --- Commands: what begins with a slash --- */

/* Reads a picture for the next question. */
static Image take_image(Talk *t, const char *path)
{
    Chat *c = t->c;
    need_pictures(c);
    if (t->n_rows == MAX_PICTURES) fail("input.text", NULL, "at most %d pictures", MAX_PICTURES);
    size_t n;
    const Options *o = &c->w.r->o;
    ImageOptions io = { .ignore_exif = o->no_exif,
                        .max_pixels = o->max_pixels > 0 ? o->max_pixels : 0 };
    const uint8_t *bytes = read_picture_file(path, &n);
    Image image = image_decode(path, bytes, n, io);
    int row = read_picture(c, image);
    t->row = grown(t->row, t->n_rows, &t->cap_rows, sizeof *t->row);
    t->row[t->n_rows++] = row;
    t->n_new++;
    free(t->new_image);
    t->new_image = strdup(path);
    return image;
}

static void add_image(Talk *t, const char *path)
{
    if (!*path) fail("input.text", NULL, "/image needs a file");
    Image image = take_image(t, path);
    note("%s, %d x %d: the next question is about it", quoted(path), image.w, image.h);
}

/* Only what /save has written is replaced: a slip of the finger must not cost a picture. */
static void check_replaced(const char *path)
{
    static const char BEGIN[] = "{\"messages\":[";
    char head[sizeof BEGIN] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) return;
    ssize_t n = fd < 0 ? -1 : read(fd, head, sizeof BEGIN - 1);
    if (fd >= 0) close(fd);
    if (n < 0 || strcmp(head, BEGIN))
        fail("output.write", "give another name", "%s: is there, and no saved conversation",
             quoted(path));
}

/* One line: {"messages":[...]}, which --in jsonl reads as well. */
static void save(Talk *t, const char *path)
{
    Buf b = {0};
    const char *image = t->n && t->turn[0].n_images == 1 ? t->turn[0].image : NULL;
    int n_images = 0;
    if (!*path) fail("output.write", NULL, "/save needs a file");
    check_replaced(path);
    put(&b, "{\"messages\":[");
    if (t->c->system) {
        put(&b, "{\"role\":\"system\",\"content\":");
        put_json(&b, t->c->system, strlen(t->c->system));
        put(&b, "}%s", t->n ? "," : "");
    }
    for (int i = 0; i < t->n; i++) {
        put(&b, "%s{\"role\":\"%s\",\"content\":", i ? "," : "", ROLES[t->turn[i].role]);
        put_json(&b, t->turn[i].text, t->turn[i].n);
        put(&b, "}");
        n_images += t->turn[i].n_images;
    }
    put(&b, "]");
    if (image) {                             /* a record has one, of the first question */
        put(&b, ",\"image\":");
        put_json(&b, image, strlen(image));
    }
    put(&b, "}\n");
    const char *temp = scratch_string("%s.%ld.tmp", path, (long)getpid());
    int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    bool good = fd >= 0 && write(fd, b.p, b.n) == (ssize_t)b.n;
    if (fd >= 0) good = close(fd) == 0 && good;
    if (!good || rename(temp, path) < 0) {
        int e = errno;
        if (fd >= 0) unlink(temp);
        fail("output.write", NULL, "%s: %s", quoted(path), strerror(e));
    }
    int n_lost = n_images - (image != NULL);
    note("%d messages in %s%s", t->n + (t->c->system != NULL), quoted(path), !n_lost ? ""
         : scratch_string("; %d picture%s not: a file keeps one, of the first question", n_lost,
                          n_lost == 1 ? " is" : "s are"));
}

static void load(Talk *t, const char *path)
{
    size_t n;
    bool terminated;
    Message *m;
    if (!*path) fail("input.text", NULL, "/load needs a file");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail("input.text", NULL, "%s: %s", quoted(path), strerror(errno));
    Lines lines = lines_open(fd);
    char *line = lines_next(&lines, '\n', &n, &terminated);
    close(fd);
    if (!line || n == SIZE_MAX) fail("input.json", NULL, "%s: no conversation", quoted(path));
    Json record = json_parse(path, line, n, 64, 0), list = json_get(record, "messages");
    int count = json_is(list, JSON_ARRAY) && !json_len(list) ? 0 : read_messages(list, &m);
    if (count && m[0].role == ROLE_SYSTEM && !template_takes_system(t->c->form))
        json_error(list, "has a system text: the template %s has no place for one",
                   template_name(t->c->form));
    clear(t);
    int first = count && m[0].role == ROLE_SYSTEM;
    if (first) t->c->system = keep_string("%s", m[0].text);
    for (int i = first; i < count; i++) say(t, m[i].role, m[i].text, m[i].n);
    if (t->n && t->turn[t->n - 1].role == ROLE_USER) drop_turns(t, t->n - 1, 1);
    note("%d messages from %s", t->n, quoted(path));
    const char *image = json_string(json_get(record, "image"), NULL);
    if (!image || !t->n) return;
    take_image(t, image);
    note("its picture is %s", quoted(image));
    t->turn[0].n_images = t->n_new;
    t->turn[0].image = t->new_image;
    t->n_new = 0;
    t->new_image = NULL;
}

static void clear_command(Talk *t, const char *arg)
{
    (void)arg;
    clear(t);
    note("a new conversation");
}

static void help(Talk *t, const char *arg);

static const struct {
    const char *name, *arg, *what;
    void (*fn)(Talk *, const char *);        /* NULL: leaves */
} SLASH[] = {
    { "/image", " FILE", "the next question is about this picture", add_image },
    { "/clear", "",      "forget the conversation; a new one begins", clear_command },
    { "/save",  " FILE", "write the conversation, as JSON", save },
    { "/load",  " FILE", "go on with one that was saved", load },
    { "/help",  "",      "this", help },
    { "/exit",  "",      "leave (so does Ctrl-D)", NULL },
};
enum { N_SLASH = sizeof SLASH / sizeof SLASH[0] };

static void help(Talk *t, const char *arg)
{
    char line[100];
    (void)t;
    (void)arg;
    for (int i = 0; i < N_SLASH; i++) {
        int n = snprintf(line, sizeof line, "  %s%-*s  %s\n", SLASH[i].name,
                         12 - (int)strlen(SLASH[i].name), SLASH[i].arg, SLASH[i].what);
        print(line, (size_t)n);
    }
    static const char MORE[] =
        "  Ctrl-C stops an answer, and clears a line; up and down: earlier lines\n"
        "  a line that ends in \\ goes on in the next; a blank in front of / makes it text\n";
    print(MORE, sizeof MORE - 1);
}

/* False: leave. */
static bool slash(Talk *t, const char *line)
{
    size_t n = strcspn(line, " \t\n");
    const char *arg = line + n + strspn(line + n, " \t\n");
    char *copy = scratch_string("%s", arg);
    for (size_t len = strlen(copy); len && strchr(" \t\n", copy[len - 1]); ) copy[--len] = 0;
    if (n == 5 && memcmp(line, "/quit", 5) == 0) return false;
    for (int i = 0; i < N_SLASH; i++) {
        if (strlen(SLASH[i].name) != n || memcmp(SLASH[i].name, line, n)) continue;
        if (!SLASH[i].fn) return false;
        try(SLASH[i].fn, t, copy);
        return true;
    }
    note("no command %s: /help lists those there are", quoted_n(line, n));
    return true;
}

static int converse(Chat *c)
{
    Run *r = c->w.r;
    Talk t = { .c = c };
    if (!terminal_begin()) usage_error(r->name, "no terminal to talk on: say -p TEXT");
    if (signals_progress_shown()) fputs("\r\033[K", stderr);
    if (!r->o.quiet)
        note("%s, template %s; /help, Ctrl-D to leave", quoted(r->model.label),
             template_name(c->form));
    const char *file = getenv("MM_HISTORY");
    if (file && *file) history_load(file);
    for (int64_t i = 0; i < r->o.images.n; i++) try(add_image, &t, r->o.images.v[i]);
    for (;;) {
        const char *line;
        size_t mark = scratch_mark();
        LineResult got = line_read("> ", &line);
        if (got == LINE_END || (got == LINE_READ && *line == '/' && !slash(&t, line))) break;
        bool blank = line[strspn(line, " \t\n")] == 0;
        if (got == LINE_READ && !blank && *line != '/' && !try(ask, &t, line)
            && t.n && t.turn[t.n - 1].role == ROLE_USER)
            drop_turns(&t, t.n - 1, 1);
        scratch_reset(mark);
    }
    history_save();
    return 0;
}

/* === mm chat ================================================================================== */

static _Noreturn void no_template(const Run *r, const Model *m)
{
    if (r->o.template)
        die(EXIT_MODEL, "--template %s: there are %s", quoted(r->o.template), template_names());
    die(EXIT_MODEL, "%s: how conversations are written for this model is not known: nothing in its "
        "files says so\nif you know, say --template NAME: %s\n`mm complete` continues a text as it "
        "is", quoted(m->dir), template_names());
}

static void check_options(const Run *r, const Chat *c, bool talks)
{
    const Options *o = &r->o;
    for (int64_t i = 0; i < o->n_operands; i++)
        if (is_picture_file(o->operand[i]))
            usage_error(r->name, "%s: is a picture: say --image %s", quoted(o->operand[i]),
                        quoted(o->operand[i]));
        else if (strcmp(o->operand[i], "-"))
            usage_error(r->name, "%s: takes no files: say -p TEXT, -p @FILE, or --in lines|jsonl -",
                        quoted(o->operand[i]));
    if (c->system && !template_takes_system(c->form))
        usage_error(r->name, "--system: the template %s has no place for it",
                    template_name(c->form));
    if (o->images.n && !template_takes_images(c->form))
        usage_error(r->name, "--image: the template %s has no place for pictures",
                    template_name(c->form));
    if (talks && (o->json || o->tsv || o->output || o->resume || o->show_prompt))
        usage_error(r->name, "on a terminal it is a conversation: for %s say -p TEXT",
                    o->json ? "--json" : o->tsv ? "--tsv" : o->output ? "-o"
                    : o->resume ? "--resume" : "--show-prompt");
}

int cmd_chat(Run *r)
{
    const Options *o = &r->o;
    Model *m = model_open(r, o->model);
    Chat c = { .w = { .m = m, .r = r, .trim = true } };
    c.form = template_open(m->dir, m->config, o->template);
    if (!c.form) no_template(r, m);
    c.prompt = option_text(r->name, "-p", o->prompt);
    c.system = option_text(r->name, "--system", o->system);
    bool records = o->in && strcmp(o->in, "jsonl") == 0;
    bool talks = !c.prompt && !o->in && !o->n_operands && isatty(STDIN_FILENO)
              && isatty(STDOUT_FILENO);
    check_options(r, &c, talks);
    if (c.prompt && !records) r->o.text.v[r->o.text.n++] = c.prompt;
    start_machine(r);
    if (!talks) r->in = input_open(r->name, o, TAKES_PROMPTS);
    model_tokenizer(m);
    r->ctx = &c;
    if (!o->show_prompt) {
        model_weights(r, m);
        if (m->llava) model_pictures(m);
        c.w.own_stop = template_stop(c.form);
        c.w.n_own_end = template_ends(c.form, m->tok, c.w.own_end);
        writer_open(&c.w, r, m, -1, !talks && input_several(r->in));
    }
    return talks ? converse(&c) : run_traced(r, chat_item);
}
