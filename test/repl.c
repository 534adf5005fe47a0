/* test/repl.c -- the line editor of repl.c, on a terminal of its own: a child edits, we press keys
 * and look at the screen, which a few lines here draw as a terminal would.
 *
 * Nothing waits for a fixed time: a screen has ten seconds to become what it should be. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "../cli.h"

enum { MAX_COLUMNS = 60, ROWS = 12, PATIENCE = 10000 };

static int n_passed, n_failed;
static int columns = 20;

/* === A terminal =============================================================================== */

/* A cell holds a character; "" is the second column of the one before it, " " is empty. */
static char screen[ROWS][MAX_COLUMNS][32];
static int  row, column, master;
static char input[1 << 16];                  /* bytes of the child that are not yet drawn */
static size_t n_input;

static void blank(int r, int from)
{
    for (int i = from; i < MAX_COLUMNS; i++) strcpy(screen[r][i], " ");
}

static void reset_screen(void)
{
    for (int r = 0; r < ROWS; r++) blank(r, 0);
    row = column = 0;
}

static void new_line(void)
{
    if (row + 1 < ROWS) {
        row++;
        return;
    }
    memmove(screen[0], screen[1], sizeof screen - sizeof screen[0]);
    blank(ROWS - 1, 0);
}

/* "\033[12A" and the like at s; its length, or 0 if it is not whole. */
static size_t control(const char *s, size_t n)
{
    int number = 0;
    size_t i = 2;
    if (n < 3) return 0;
    for (; i < n && (s[i] == '?' || s[i] == ';' || (s[i] >= '0' && s[i] <= '9')); i++)
        if (s[i] >= '0') number = s[i] == '?' ? number : 10 * number + s[i] - '0';
    if (i == n) return 0;
    switch (s[i]) {
    case 'A': row = row > number ? row - number : 0; break;
    case 'C': column = column + number < columns ? column + number : columns - 1; break;
    case 'H': row = column = 0; break;
    case 'K': blank(row, column); break;
    case 'J':
        blank(row, number == 2 ? 0 : column);
        for (int r = number == 2 ? 0 : row + 1; r < ROWS; r++) blank(r, 0);
        break;
    case 'h': case 'l': break;
    default: printf("FAILED: an unknown control sequence %c\n", s[i]); n_failed++;
    }
    return i + 1;
}

/* Puts the character of n bytes on the screen. A full row waits with wrapping, as xterm does. */
static void show(const char *s, size_t n, int width)
{
    if (column + width > columns) {
        column = 0;
        new_line();
    }
    if (n >= sizeof screen[0][0]) n = sizeof screen[0][0] - 1;
    memcpy(screen[row][column], s, n);
    screen[row][column][n] = 0;
    if (width == 2) screen[row][column + 1][0] = 0;
    column += width;
}

static void draw_input(void)
{
    size_t at = 0;
    for (size_t n; at < n_input; at += n) {
        int width;
        n = 1;
        if (input[at] == '\033') {
            n = control(input + at, n_input - at);
            if (!n) break;
        } else if (input[at] == '\r') column = 0;
        else if (input[at] == '\n') new_line();
        else if (input[at] != '\a') {
            n = character(input + at, n_input - at, &width);
            show(input + at, n, width);
        }
    }
    memmove(input, input + at, n_input -= at);
}

/* The screen's row as text, without blanks at its end. */
static const char *row_text(int r)
{
    static char text[MAX_COLUMNS * 32];
    size_t n = 0;
    for (int i = 0; i < columns; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s", screen[r][i]);
    while (n && text[n - 1] == ' ') text[--n] = 0;
    return text;
}

/* === The child ================================================================================ */

static pid_t child;
static struct termios at_first;

/* Reads lines and tells what it read; ends with Ctrl-D. */
static _Noreturn void edit_lines(void)
{
    const char *text;
    if (!terminal_begin()) exit(99);
    for (;;) {
        LineResult got = line_read("> ", &text);
        if (got == LINE_END) exit(0);
        printf("%s", got == LINE_DROPPED ? "dropped " : "got ");
        for (const char *s = text; *s; s++)
            if (*s == '\n') printf("\\n");
            else putchar(*s);
        printf("$\r\n");
        fflush(stdout);
    }
}

static void set_size(void)
{
    struct winsize size = { .ws_row = ROWS, .ws_col = (unsigned short)columns };
    ioctl(master, TIOCSWINSZ, &size);
}

static void start(void)
{
    master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) || unlockpt(master)) bug("no terminal to be had");
    const char *name = ptsname(master);
    set_size();
    int terminal = open(name, O_RDWR | O_NOCTTY);
    tcgetattr(terminal, &at_first);
    reset_screen();
    n_input = 0;
    fflush(stdout);
    child = fork();
    if (child == 0) {
        close(master);                       /* else it never hangs up */
        setsid();
        ioctl(terminal, TIOCSCTTY, 0);
        for (int fd = 0; fd < 3; fd++) dup2(terminal, fd);
        edit_lines();
    }
    close(terminal);
}

/* Draws what comes until the row has this text and the cursor is at this column; -1: wherever. */
static void expect(const char *what, int r, const char *text, int at)
{
    for (int waited = 0; ; waited += 10) {
        struct pollfd p = { .fd = master, .events = POLLIN };
        while (poll(&p, 1, 0) == 1 && (p.revents & POLLIN)) {
            ssize_t n = read(master, input + n_input, sizeof input - n_input);
            if (n <= 0) break;
            n_input += (size_t)n;
            draw_input();
        }
        bool same = strcmp(row_text(r), text) == 0 && (at < 0 || column == at);
        if (same || waited > PATIENCE) {
            n_passed += same;
            n_failed += !same;
            if (same) return;
            printf("FAILED: %s: row %d is \"%s\", expected \"%s\"; cursor in %d, %d, column "
                   "expected %d\n", what, r, row_text(r), text, row, column, at);
            for (int i = 0; i < ROWS; i++) printf("    |%s\n", row_text(i));
            return;
        }
        usleep(10000);
    }
}

static void begin(void)
{
    start();
    expect("prompt", 0, ">", 2);             /* keys before that would be echoed */
}

static void press(const char *keys)
{
    size_t n = strlen(keys);
    if (write(master, keys, n) != (ssize_t)n) bug("the terminal takes no keys");
}

static void check(bool ok, const char *what)
{
    n_passed += ok;
    n_failed += !ok;
    if (!ok) printf("FAILED: %s\n", what);
}

/* The child is gone, with this status, and the terminal as it was. */
static void ended(const char *what, int status)
{
    int got;
    struct termios now;
    waitpid(child, &got, 0);
    tcgetattr(master, &now);
    check(WIFEXITED(got) && WEXITSTATUS(got) == status, what);
    check(now.c_lflag == at_first.c_lflag && now.c_iflag == at_first.c_iflag,
          "the terminal is as it was found");
    close(master);
}

/* === Tests ==================================================================================== */

#define LEFT   "\033[D"
#define RIGHT  "\033[C"
#define UP     "\033[A"
#define DOWN   "\033[B"
#define HOME   "\033[H"
#define END    "\033[4~"
#define DELETE "\033[3~"

static void test_editing(void)
{
    columns = 24;
    begin();
    press("hello");
    expect("typing", 0, "> hello", 7);
    press(LEFT LEFT "X");
    expect("insert", 0, "> helXlo", 6);
    press("\177" RIGHT DELETE "p!");
    expect("rubout, delete", 0, "> hellp!", 8);
    press("\177\177!\r");
    expect("enter", 1, "got hell!$", -1);
    press("one two  three" "\033b" "\033b" "4 " "\033[1;5C" "\033[1;5D" "\033d");
    expect("words", 2, "> one 4   three", 8);
    press("\005" "\027" "\001" "\013" "\031" "\031\r");
    expect("kill and yank", 3, "got one 4   one 4   $", -1);
    press(UP UP);
    expect("history", 4, "> hell!", 7);
    press(DOWN DOWN "new" UP DOWN HOME "a " END "!\r");
    expect("a draft waits", 5, "got a new!$", -1);
    press("abc" "\003");
    expect("Ctrl-C", 6, "> abc^C", -1);
    expect("Ctrl-C drops", 7, "dropped abc$", -1);
    press("ab" LEFT "\024\r");
    expect("swapped", 9, "got ba$", -1);
    press("a\tb\001\033x\033[99~\033[5;5Z" "\014");
    expect("tab, unknown keys, Ctrl-L", 0, "> a    b", 2);
    press("\003");
    press("\004");
    ended("Ctrl-D leaves", 0);
    columns = 20;
}

static void test_wide(void)
{
    begin();
    press("\xE4\xBD\xA0\xE5\xA5\xBD\xF0\x9F\x99\x82" "e\xCC\x81");
    expect("wide", 0, "> \xE4\xBD\xA0\xE5\xA5\xBD\xF0\x9F\x99\x82" "e\xCC\x81", 9);
    press(LEFT LEFT "x");
    expect("between wide ones", 0, "> \xE4\xBD\xA0\xE5\xA5\xBDx\xF0\x9F\x99\x82" "e\xCC\x81", 7);
    press(END "\177\177\r");
    expect("whole characters go", 1, "got \xE4\xBD\xA0\xE5\xA5\xBDx$", -1);
    press("1234567890123456\xE4\xBD\xA0");
    expect("exactly a row", 2, "> 1234567890123456\xE4\xBD\xA0", 2);
    check(row == 3, "the cursor is on the next row");
    press("\177" "7\xE4\xBD\xA0");
    expect("no room for two columns", 2, "> 12345678901234567", -1);
    expect("it goes to the next row", 3, "  \xE4\xBD\xA0", 4);
    press(HOME "\xFF\xC2\x9B\xE4\xBD" "z");
    expect("broken ones are dropped", 2, "> z12345678901234567", 3);
    press("\r");
    expect("all of it", 4, "got z123456789012345", -1);
    press("\004");
    ended("Ctrl-D leaves", 0);
}

static void test_lines(void)
{
    begin();
    press("one\\\rtwo" UP);
    expect("a backslash goes on", 1, "  two", -1);
    expect("up within the text", 0, "> one", 5);
    press("!" DOWN END "\r");
    expect("both lines", 2, "got one!\\ntwo$", -1);
    press("\033[200~a\rb\nc\033[Ad\003\tx\033[201~");
    expect("a paste", 3, "> a", -1);
    expect("its last line", 5, "  cd    x", 9);
    press("\r");
    expect("pasted", 6, "got a\\nb\\ncd\tx$", -1);
    press("\003");
    expect("next", 7, "> ^C", -1);
    press("123456789 123456789 1234");
    expect("wrapped", 9, "> 123456789 12345678", -1);
    columns = 14;
    reset_screen();                          /* what a terminal makes of it is its own affair */
    set_size();
    expect("narrower", 1, "  3456789 1234", 2);
    columns = 20;
    press("\001\013\004");
    ended("Ctrl-D leaves", 0);
}

/* What is typed before there is an editor waits for it; then newlines are \n. */
static void test_early(void)
{
    start();
    press("early\rbird");
    expect("typed early", 2, "got early$", -1);
    expect("and the rest", 3, "> bird", 6);
    press("\003\004");
    ended("Ctrl-D leaves", 0);
}

/* More text than there are rows: those around the cursor are shown. */
static void test_tall(void)
{
    begin();
    for (char c = 'a'; c < 'a' + ROWS + 4; c++) {
        press((char[]){ c, '\033', '\r', 0 });       /* Alt-Enter */
    }
    press("end");
    expect("the end of a tall text", ROWS - 1, "  end", 5);
    expect("as many rows as there are", 0, "  f", -1);
    for (int i = 0; i < ROWS + 4; i++) press(UP);
    expect("its beginning", 0, "> a", 3);
    press("\003\004");
    ended("Ctrl-D leaves", 0);
}

static void test_signals(void)
{
    int status;
    begin();
    press("abc");
    expect("typing", 0, "> abc", 5);
    kill(child, SIGTSTP);                    /* nobody could wake it: the kernel lets it go on */
    press("d");
    expect("SIGTSTP", 0, "> abcd", 6);
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    tcsetattr(master, TCSANOW, &at_first);
    kill(child, SIGCONT);
    press("e");
    expect("after SIGSTOP too", 0, "> abcde", 7);
    kill(child, SIGTERM);
    ended("SIGTERM: 143", 128 + SIGTERM);
    begin();
    close(master);                           /* the terminal is gone: SIGHUP */
    waitpid(child, &status, 0);
    check(!WIFEXITED(status) || WEXITSTATUS(status) != 99, "a lost terminal ends it");
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    test_editing();
    test_wide();
    test_lines();
    test_early();
    test_tall();
    test_signals();
    printf("repl: %d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed != 0;
}
