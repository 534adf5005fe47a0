/* repl.c -- a person at a terminal: lines that can be edited, an answer that can be stopped.
 *
 *   line_read:  raw mode -> keys -> the text and where the cursor is in it -> all of it drawn anew
 *   answering:  keys are not shown but wait; Ctrl-C is a signal that only raises a flag
 *   any way out (the end, die(), SIGTERM, Ctrl-Z): the terminal is as it was
 *
 * The text is drawn as rows, each ended by us, so that what the terminal itself wraps never counts:
 *
 *     > first line, cut where the           row 0: the prompt, two columns
 *       terminal ends                       row 1: as many blanks
 *       second line                         row 2
 *
 * Keys are those of readline and of most shells. A paste comes in brackets (ESC [200~ ... ESC
 * [201~): its newlines are text. A line that ends in \ goes on.
 *
 * Easy to get wrong:
 *   - Terminals do not agree on how wide some characters are: rows are broken where they may be
 *     full, and the cursor is put by writing what is before it once more.
 *   - A character of two columns that does not fit at the end of a row goes to the next.
 *   - Text that ends exactly at the right edge leaves the cursor on the next row, which is empty.
 *   - A terminal that became narrower has wrapped the rows that are there: counted before drawing.
 *   - Enter is \r, but \n where it was typed before the terminal was ours.
 *   - After Ctrl-Z and fg the terminal has to be set again; after SIGSTOP too, which nobody sees.
 *   - A paste of a megabyte must not be drawn a million times: only when no more input waits. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "cli.h"

enum { MAX_TEXT = 1 << 20, MAX_HISTORY = 1000, MAX_ROWS = 1000, INDENT = 2 };

/* === The terminal's modes ===================================================================== */

typedef enum { AS_FOUND, EDITING, ANSWERING } Mode;

static struct termios found;
static volatile sig_atomic_t mode, interrupted;
static volatile sig_atomic_t changed, elsewhere;     /* to be drawn anew; at another place */

/* Only calls that POSIX allows in a signal handler. */
static void set_mode(Mode want)
{
    struct termios t = found;
    if (want != AS_FOUND) {
        t.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        t.c_iflag &= ~(tcflag_t)(ICRNL | INLCR | ISTRIP);
    }
    if (want == EDITING) {
        t.c_lflag &= ~(tcflag_t)(ISIG | IEXTEN);
        t.c_iflag &= ~(tcflag_t)IXON;
    }
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    if (want == AS_FOUND) t = found;
    bool brackets = mode == EDITING;
    ssize_t n = 0;
    if (brackets && want != EDITING) n = write(STDOUT_FILENO, "\033[?2004l", 8);
    if (!brackets && want == EDITING) n = write(STDOUT_FILENO, "\033[?2004h", 8);
    (void)n;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &t);
    mode = want;
}

static void restore(void) { set_mode(AS_FOUND); }

static void on_interrupt(int sig) { (void)sig; interrupted = 1; }
static void on_resize(int sig) { (void)sig; changed = 1; }

static void on_end(int sig)
{
    restore();
    _exit(128 + sig);
}

static void on_suspend(int sig);

static void handle(int sig, void (*handler)(int))
{
    struct sigaction a = { .sa_handler = handler };
    sigemptyset(&a.sa_mask);
    sigaction(sig, &a, NULL);                /* without SA_RESTART: read() returns */
}

/* The mode that is wanted now, set again: somebody else had the terminal. */
static void on_continue(int sig)
{
    (void)sig;
    Mode want = (Mode)mode;
    mode = AS_FOUND;
    if (want != AS_FOUND) set_mode(want);
    changed = elsewhere = 1;
}

static void on_suspend(int sig)
{
    int e = errno;
    Mode want = (Mode)mode;
    sigset_t only, before;
    set_mode(AS_FOUND);
    handle(sig, SIG_DFL);
    sigemptyset(&only);
    sigaddset(&only, sig);
    raise(sig);
    sigprocmask(SIG_UNBLOCK, &only, &before);        /* here it stops, and later goes on */
    sigprocmask(SIG_SETMASK, &before, NULL);
    handle(sig, on_suspend);
    set_mode(want);
    changed = elsewhere = 1;
    errno = e;
}

bool terminal_begin(void)
{
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) || tcgetattr(STDIN_FILENO, &found))
        return false;
    atexit(restore);
    handle(SIGINT, on_interrupt);
    handle(SIGTERM, on_end);
    handle(SIGHUP, on_end);
    handle(SIGQUIT, on_end);
    handle(SIGTSTP, on_suspend);
    handle(SIGCONT, on_continue);
    handle(SIGWINCH, on_resize);
    return true;
}

void terminal_answer(bool begins)
{
    set_mode(begins ? ANSWERING : AS_FOUND);
    if (begins) interrupted = 0;
}

bool terminal_interrupted(void) { return interrupted; }

static int terminal_columns(int *rows)
{
    struct winsize size;
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    *rows = known && size.ws_row > 1 ? size.ws_row : 24;
    return known ? size.ws_col > 10 ? size.ws_col : 10 : 80;
}

/* === History ================================================================================== */

/* Lines that were entered, oldest first; malloc'ed, since it forgets. */
static char *history[MAX_HISTORY];
static int   n_history;
static const char *history_file;

static void history_put(const char *text)
{
    if (!*text || (n_history && strcmp(history[n_history - 1], text) == 0)) return;
    if (n_history == MAX_HISTORY) {
        free(history[0]);
        memmove(history, history + 1, sizeof history[0] * --n_history);
    }
    char *copy = strdup(text);
    if (copy) history[n_history++] = copy;
}

/* A line of the file: "\n" for a newline in the text, "\\" for a backslash. In place. */
static void from_file(char *s)
{
    char *to = s;
    for (; *s; s++) {
        if (*s == '\\' && s[1]) *to++ = *++s == 'n' ? '\n' : *s;
        else *to++ = *s;
    }
    *to = 0;
}

static void to_file(Buf *b, const char *s)
{
    for (; *s; s++) {
        if (*s == '\n') put_bytes(b, "\\n", 2);
        else if (*s == '\\') put_bytes(b, "\\\\", 2);
        else put_bytes(b, s, 1);
    }
    put_bytes(b, "\n", 1);
}

/* Only what belongs to a person: a regular file, and of its last megabyte the last lines. */
void history_load(const char *path)
{
    history_file = path;
    size_t mark = scratch_mark(), n;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        if (st.st_size > MAX_TEXT) lseek(fd, -(off_t)MAX_TEXT, SEEK_END);
        bool terminated, cut = st.st_size > MAX_TEXT;
        Lines lines = lines_open(fd);
        for (char *s; (s = lines_next(&lines, '\n', &n, &terminated)); cut = false) {
            if (cut || n > MAX_TEXT / 2 || !is_utf8(s, n) || strlen(s) != n) continue;
            from_file(s);
            history_put(s);
        }
    }
    close(fd);
    scratch_reset(mark);
}

/* The whole file anew, for the user alone; that it cannot be written is no reason to complain. */
void history_save(void)
{
    if (!history_file || !n_history) return;
    size_t mark = scratch_mark();
    Buf b = {0};
    for (int i = 0; i < n_history; i++) to_file(&b, history[i]);
    const char *temp = scratch_string("%s.%ld.tmp", history_file, (long)getpid());
    int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0) {
        bool good = write(fd, b.p, b.n) == (ssize_t)b.n;
        good = close(fd) == 0 && good;
        if (!good || rename(temp, history_file) < 0) unlink(temp);
    }
    scratch_reset(mark);
}

/* === The text in hand ========================================================================= */

typedef struct {
    const char *prompt;              /* INDENT columns */
    char   *s;                       /* [MAX_TEXT + 1] */
    size_t  n, at;                   /* bytes; where the cursor is */
    char   *killed;                  /* what Ctrl-K and its like took, for Ctrl-Y; malloc'ed */
    char   *draft;                   /* what was there before going up in history; malloc'ed */
    int     place;                   /* in history; n_history: the draft */
    int     row;                     /* of the cursor, among those drawn */
    int     drawn[MAX_ROWS];         /* columns of the rows drawn, down to the cursor's */
    int     cursor_column;
    bool    pasting;
} Line;

static void beep(void)
{
    ssize_t n = write(STDOUT_FILENO, "\a", 1);
    (void)n;
}

static void insert(Line *l, const char *s, size_t n)
{
    if (n > MAX_TEXT - l->n) {
        beep();
        return;
    }
    memmove(l->s + l->at + n, l->s + l->at, l->n - l->at);
    memcpy(l->s + l->at, s, n);
    l->n += n;
    l->at += n;
}

static void erase(Line *l, size_t from, size_t to, bool keep_it)
{
    if (from == to) return;
    if (keep_it) {
        free(l->killed);
        l->killed = strndup(l->s + from, to - from);
    }
    memmove(l->s + from, l->s + to, l->n - to);
    l->n -= to - from;
    l->at = from;
}

static void set_text(Line *l, const char *text)
{
    size_t n = strlen(text);
    if (n > MAX_TEXT) n = 0;
    memcpy(l->s, text, n);
    l->n = l->at = n;
}

static size_t left_of(const Line *l, size_t at) { return at - character_before(l->s, at); }

static size_t right_of(const Line *l, size_t at)
{
    int columns;
    return at < l->n ? at + character(l->s + at, l->n - at, &columns) : at;
}

/* Letters and digits make words, and all that is not ASCII. */
static bool in_word(const Line *l, size_t at)
{
    unsigned char c = (unsigned char)l->s[at];
    return c >= 0x80 || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
}

static size_t word_left(const Line *l, size_t at)
{
    while (at && !in_word(l, left_of(l, at))) at = left_of(l, at);
    while (at && in_word(l, left_of(l, at))) at = left_of(l, at);
    return at;
}

static size_t word_right(const Line *l, size_t at)
{
    while (at < l->n && !in_word(l, at)) at = right_of(l, at);
    while (at < l->n && in_word(l, at)) at = right_of(l, at);
    return at;
}

/* Ctrl-W: back to a blank. */
static size_t blank_left(const Line *l, size_t at)
{
    while (at && strchr(" \t\n", l->s[at - 1])) at--;
    while (at && !strchr(" \t\n", l->s[at - 1])) at--;
    return at;
}

static size_t line_start(const Line *l, size_t at)
{
    while (at && l->s[at - 1] != '\n') at--;
    return at;
}

static size_t line_end(const Line *l, size_t at)
{
    while (at < l->n && l->s[at] != '\n') at++;
    return at;
}

/* === Drawing ================================================================================== */

/* Where a walk over the text has come to; start: where its row begins. */
typedef struct { size_t at; int row, column; size_t start; } Spot;

/* Puts the character at spot->at: returns its bytes; where it goes is in *spot, then moved on. */
static size_t step(const Line *l, Spot *spot, int width, int *columns)
{
    size_t n = character(l->s + spot->at, l->n - spot->at, columns);
    unsigned char c = (unsigned char)l->s[spot->at];
    if (c == '\t') *columns = 4;
    if (c == '\n') *columns = 0;
    if (spot->column + *columns > width) {
        spot->row++;
        spot->column = INDENT;
        spot->start = spot->at;
    }
    return n;
}

static void step_over(const Line *l, Spot *spot, size_t n, int width, int columns)
{
    spot->column += columns;
    if (l->s[spot->at] == '\n' || spot->column >= width) {
        bool both = l->s[spot->at + n - 1] != '\n' && spot->at + n < l->n
                 && l->s[spot->at + n] == '\n';
        if (!both) {                         /* a full row before a newline is one row */
            spot->row++;
            spot->column = INDENT;
            spot->start = spot->at + n;
        }
    }
    spot->at += n;
}

static Spot find(const Line *l, size_t at, int width)
{
    Spot spot = { .column = INDENT };
    while (spot.at < at) {
        int columns;
        size_t n = step(l, &spot, width, &columns);
        step_over(l, &spot, n, width, columns);
    }
    return spot;
}

/* How many rows the terminal has made of those above the cursor, now that it has `width`. */
static int rows_above(const Line *l, int width)
{
    int n = 0;
    for (int i = 0; i < l->row; i++) n += l->drawn[i] > width ? (l->drawn[i] - 1) / width + 1 : 1;
    return n + (l->cursor_column >= width ? l->cursor_column / width : 0);
}

/* Begins a new row of the drawing. */
static void next_row(Buf *b, Line *l, int *row)
{
    put(b, "\r\n%*s", INDENT, "");
    if (++*row < MAX_ROWS) l->drawn[*row] = INDENT;
}

static void put_character(Buf *b, const char *s, size_t n)
{
    if (*s == '\t') put(b, "    ");
    else if (*s != '\n') put_bytes(b, s, n);
}

/* Draws the rows from top on, at most as many as fit; the cursor's is among them. */
static void draw_rows(Buf *b, Line *l, int width, int top, int height)
{
    Spot spot = { .column = INDENT };
    int row = 0;
    l->drawn[0] = INDENT;
    put(b, "%s", top ? "  " : l->prompt);
    while (spot.at < l->n) {
        int columns, before = spot.row;
        size_t n = step(l, &spot, width, &columns);
        if (spot.row >= top + height) break;
        if (spot.row > before && spot.row > top) next_row(b, l, &row);
        before = spot.row;
        const char *s = l->s + spot.at;
        if (spot.row >= top) {
            put_character(b, s, n);
            if (row < MAX_ROWS) l->drawn[row] += columns;
        }
        step_over(l, &spot, n, width, columns);
        if (spot.row > before && spot.row > top && spot.row < top + height) next_row(b, l, &row);
    }
}

/* Everything anew, over what was there. At the end (last), the cursor is put behind the text. */
static void draw(Line *l, bool last)
{
    size_t mark = scratch_mark();
    int height, width = terminal_columns(&height), above = rows_above(l, width);
    Spot end = find(l, l->n, width), cursor = last ? end : find(l, l->at, width);
    int top = cursor.row >= height ? cursor.row - height + 1 : 0;
    int bottom = end.row < top + height ? end.row : top + height - 1;
    Buf b = {0};
    put(&b, "\r");
    if (above) put(&b, "\033[%dA", above);
    put(&b, "\033[J");
    draw_rows(&b, l, width, top, height);
    if (bottom > cursor.row) put(&b, "\033[%dA", bottom - cursor.row);
    /* The row is written again up to the cursor: the terminal knows best how wide that is. */
    put(&b, "\r%s", cursor.row ? "  " : l->prompt);
    for (size_t at = cursor.start, n; at < cursor.at; at += n) {
        int columns;
        n = character(l->s + at, cursor.at - at, &columns);
        put_character(&b, l->s + at, n);
    }
    l->row = cursor.row - top < MAX_ROWS ? cursor.row - top : MAX_ROWS - 1;
    l->cursor_column = cursor.column;
    ssize_t n = write(STDOUT_FILENO, b.p, b.n);
    (void)n;
    scratch_reset(mark);
}

/* === Keys ===================================================================================== */

enum {
    KEY_NONE = -1, KEY_END_OF_INPUT = -2, KEY_LEFT = 0x200000, KEY_RIGHT, KEY_UP, KEY_DOWN,
    KEY_HOME, KEY_END, KEY_DELETE, KEY_WORD_LEFT, KEY_WORD_RIGHT, KEY_KILL_WORD,
    KEY_RUBOUT_WORD, KEY_NEWLINE, KEY_PASTE, KEY_PASTED
};

static unsigned char waiting[4096];          /* bytes read and not yet used */
static size_t n_waiting, next_waiting;

/* The next byte within ms (-1: whenever it comes). KEY_NONE: none, or a signal came. */
static int next_byte(int ms)
{
    if (next_waiting == n_waiting) {
        struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
        if (ms >= 0 && poll(&p, 1, ms) != 1) return KEY_NONE;
        ssize_t n = read(STDIN_FILENO, waiting, sizeof waiting);
        if (n < 0 && errno == EINTR) return KEY_NONE;
        if (n <= 0) return KEY_END_OF_INPUT;
        n_waiting = (size_t)n;
        next_waiting = 0;
    }
    return waiting[next_waiting++];
}

static bool more_waits(void)
{
    struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
    return next_waiting < n_waiting || poll(&p, 1, 0) == 1;
}

/* What comes after ESC: "[A", "OA", "[1;5C", "[3~", "b". */
static int escape_key(void)
{
    enum { PATIENCE = 50 };                  /* milliseconds: a key sends all at once */
    static const struct { int number, key; } TILDE[] = {
        { 1, KEY_HOME }, { 3, KEY_DELETE }, { 4, KEY_END }, { 7, KEY_HOME }, { 8, KEY_END },
        { 200, KEY_PASTE }, { 201, KEY_PASTED }
    };
    int c = next_byte(PATIENCE), number = 0, modifier = 0;
    switch (c) {
    case 'b': return KEY_WORD_LEFT;
    case 'f': return KEY_WORD_RIGHT;
    case 'd': return KEY_KILL_WORD;
    case 127: case 8: return KEY_RUBOUT_WORD;
    case '\r': case '\n': return KEY_NEWLINE;
    case '[': case 'O': break;
    default: return KEY_NONE;
    }
    for (c = next_byte(PATIENCE); (c >= '0' && c <= '9') || c == ';'; c = next_byte(PATIENCE)) {
        if (c == ';') modifier = 1;
        else if (modifier) modifier = c;
        else if (number < 1000) number = 10 * number + c - '0';
    }
    bool word = modifier == '5' || modifier == '3';      /* with Ctrl or Alt */
    switch (c) {
    case 'A': return KEY_UP;
    case 'B': return KEY_DOWN;
    case 'C': return word ? KEY_WORD_RIGHT : KEY_RIGHT;
    case 'D': return word ? KEY_WORD_LEFT : KEY_LEFT;
    case 'H': return KEY_HOME;
    case 'F': return KEY_END;
    case '~': break;
    default: return KEY_NONE;
    }
    for (size_t i = 0; i < sizeof TILDE / sizeof TILDE[0]; i++)
        if (TILDE[i].number == number) return TILDE[i].key;
    return KEY_NONE;
}

/* The rest of a UTF-8 character that begins with c, put into the text. Broken ones are dropped. */
static void insert_character(Line *l, int c)
{
    char s[4] = { (char)c };
    size_t n = c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4, have = 1;
    while (have < n) {
        int next = next_byte(200);
        if (next < 0x80 || next > 0xBF) {
            if (next >= 0) next_waiting--;   /* not ours */
            return;
        }
        s[have++] = (char)next;
    }
    bool c1 = n == 2 && (unsigned char)s[0] == 0xC2 && (unsigned char)s[1] < 0xA0;
    if (is_utf8(s, n) && !c1) insert(l, s, n);
}

/* Up and down: between the lines of the text, then through history. */
static void move_up(Line *l)
{
    size_t start = line_start(l, l->at);
    if (start) {
        size_t above = line_start(l, start - 1), column = l->at - start;
        l->at = above + column < start - 1 ? above + column : start - 1;
        while (l->at > above && (l->s[l->at] & 0xC0) == 0x80) l->at--;
        return;
    }
    if (l->place == 0) {
        beep();
        return;
    }
    if (l->place == n_history) {
        free(l->draft);
        l->draft = strndup(l->s, l->n);
    }
    set_text(l, history[--l->place]);
}

static void move_down(Line *l)
{
    size_t start = line_start(l, l->at), end = line_end(l, l->at);
    if (end < l->n) {
        size_t last = line_end(l, end + 1), column = l->at - start;
        l->at = end + 1 + column < last ? end + 1 + column : last;
        while (l->at > end + 1 && l->at < l->n && (l->s[l->at] & 0xC0) == 0x80) l->at--;
        return;
    }
    if (l->place == n_history) {
        beep();
        return;
    }
    l->place++;
    set_text(l, l->place < n_history ? history[l->place] : l->draft ? l->draft : "");
}

#define CONTROL(letter) ((letter) & 31)

static void swap_two(Line *l)
{
    size_t at = l->at == l->n ? left_of(l, l->at) : l->at, before = left_of(l, at);
    size_t end = right_of(l, at);
    if (before == at || at == end) return;
    char *first = strndup(l->s + before, at - before);
    if (!first) return;
    memmove(l->s + before, l->s + at, end - at);
    memcpy(l->s + before + (end - at), first, at - before);
    free(first);
    l->at = end;
}

static void yank(Line *l) { if (l->killed) insert(l, l->killed, strlen(l->killed)); }

/* A key that moves or changes; false: it is none of these. */
static bool edit(Line *l, int key)
{
    switch (key) {
    case CONTROL('A'): case KEY_HOME:    l->at = line_start(l, l->at); break;
    case CONTROL('E'): case KEY_END:     l->at = line_end(l, l->at); break;
    case CONTROL('B'): case KEY_LEFT:    l->at = left_of(l, l->at); break;
    case CONTROL('F'): case KEY_RIGHT:   l->at = right_of(l, l->at); break;
    case CONTROL('P'): case KEY_UP:      move_up(l); break;
    case CONTROL('N'): case KEY_DOWN:    move_down(l); break;
    case KEY_WORD_LEFT:                  l->at = word_left(l, l->at); break;
    case KEY_WORD_RIGHT:                 l->at = word_right(l, l->at); break;
    case 127: case CONTROL('H'):         erase(l, left_of(l, l->at), l->at, false); break;
    case KEY_DELETE: case CONTROL('D'):  erase(l, l->at, right_of(l, l->at), false); break;
    case CONTROL('K'):                   erase(l, l->at, line_end(l, l->at), true); break;
    case CONTROL('U'):                   erase(l, line_start(l, l->at), l->at, true); break;
    case CONTROL('W'):                   erase(l, blank_left(l, l->at), l->at, true); break;
    case KEY_RUBOUT_WORD:                erase(l, word_left(l, l->at), l->at, true); break;
    case KEY_KILL_WORD:                  erase(l, l->at, word_right(l, l->at), true); break;
    case CONTROL('Y'):                   yank(l); break;
    case CONTROL('T'):                   swap_two(l); break;
    case KEY_NEWLINE:                    insert(l, "\n", 1); break;
    case '\t':                           insert(l, "\t", 1); break;
    default: return false;
    }
    return true;
}

/* === Reading a line =========================================================================== */

/* Between the brackets of a paste everything is text; \r is how terminals send newlines. */
static void pasted_key(Line *l, int c)
{
    if (c == '\033') {
        if (escape_key() == KEY_PASTED) l->pasting = false;
    } else if (c == '\r' || c == '\n') insert(l, "\n", 1);
    else if (c == '\t' || (c >= ' ' && c != 127)) insert_character(l, c);
}

/* Enter: true if the text is complete. */
static bool enter(Line *l)
{
    if (l->n && l->at == l->n && l->s[l->n - 1] == '\\') {
        l->s[l->n - 1] = '\n';
        return false;
    }
    return true;
}

static void leave(Line *l, const char *what)
{
    draw(l, true);
    ssize_t n = write(STDOUT_FILENO, what, strlen(what));
    (void)n;
    l->s[l->n] = 0;
    free(l->draft);
    free(l->killed);
    set_mode(AS_FOUND);
}

LineResult line_read(const char *prompt, const char **text)
{
    Line l = { .prompt = prompt, .place = n_history };
    static char *room;
    if (!room) room = keep_bytes(MAX_TEXT + 1);
    l.s = room;
    *text = room;
    interrupted = 0;
    set_mode(EDITING);
    draw(&l, false);
    for (;;) {
        if (elsewhere) l.row = l.cursor_column = 0;
        if (changed || !more_waits()) {
            changed = elsewhere = 0;
            draw(&l, false);
        }
        int key = next_byte(-1);
        if (interrupted) key = CONTROL('C');
        if (key == KEY_END_OF_INPUT || (key == CONTROL('D') && l.n == 0 && !l.pasting)) {
            leave(&l, "\r\n");
            return LINE_END;
        }
        if (key == KEY_NONE) continue;
        if (l.pasting) {
            pasted_key(&l, key);
            continue;
        }
        if (key == '\033') key = escape_key();
        if (key == KEY_PASTE) l.pasting = true;
        else if (key == CONTROL('C')) {
            leave(&l, "^C\r\n");
            return LINE_DROPPED;
        } else if (key == '\r' || key == '\n') {
            if (!enter(&l)) continue;
            leave(&l, "\r\n");
            history_put(l.s);
            return LINE_READ;
        } else if (key == CONTROL('Z')) raise(SIGTSTP);
        else if (key == CONTROL('L')) {
            ssize_t n = write(STDOUT_FILENO, "\033[H\033[2J", 7);
            (void)n;
            elsewhere = 1;
        } else if (!edit(&l, key) && key >= ' ' && key < 0x100) insert_character(&l, key);
    }
}
