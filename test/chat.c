/* test/chat.c -- conversations: every form of template.c against what the reference writes and
 * encodes (test/data/templates, made by test/reference/templates.py), what must not be recognised,
 * and how wide texts are on a terminal. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../cli.h"

#define DATA "test/data/templates"

static int n_passed, n_failed;

static void check(bool ok, const char *what, const char *fmt, ...) PRINTF(3, 4);
static void check(bool ok, const char *what, const char *fmt, ...)
{
    n_passed += ok;
    n_failed += !ok;
    if (ok) return;
    va_list args;
    va_start(args, fmt);
    printf("FAILED: %s: ", what);
    vprintf(fmt, args);
    printf("\n");
    va_end(args);
}

/* === Templates ================================================================================ */

static const char *root;                     /* a temporary folder */

/* The files of a case as a model directory; a text is a file as it is, anything else JSON. */
static const char *make_folder(Json one, const char *name, int number)
{
    const char *dir = keep_string("%s/%d", root, number), *at = name;
    mkdir(dir, 0700);
    for (const char *slash; (slash = strchr(at, '/')); at = slash + 1)
        mkdir(keep_string("%s/%.*s", dir, (int)(slash - name), name), 0700);
    dir = keep_string("%s/%s", dir, name);
    mkdir(dir, 0700);
    for (Json file = json_first(json_get(one, "files")); file.node; file = json_next(file)) {
        const char *text = NULL;
        size_t n = json_is(file, JSON_STRING) ? 0 : json_span(file, &text);
        if (!text) text = json_string(file, &n);
        FILE *f = fopen(keep_string("%s/%s", dir, json_key(file, NULL)), "wb");
        if (!f || fwrite(text, 1, n, f) != n || fclose(f)) bug("cannot write into %s", dir);
    }
    return dir;
}

static const Tokenizer *tokenizer(const char *name)
{
    static struct { const char *name; Tokenizer *tok; } loaded[5];
    int i = 0;
    while (loaded[i].name && strcmp(loaded[i].name, name)) i++;
    if (!loaded[i].name) {
        loaded[i].name = name;
        loaded[i].tok = tok_load(keep_string(DATA "/%s", name));
    }
    return loaded[i].tok;
}

static int read_messages(Message *m, Json one)
{
    int n = 0, left = json_int(one, "n_images", 0, 0, 9);
    for (Json j = json_first(json_get(one, "messages")); j.node; j = json_next(j)) {
        const char *role = json_str_need(j, "role");
        m[n].role = *role == 's' ? ROLE_SYSTEM : *role == 'u' ? ROLE_USER : ROLE_ASSISTANT;
        m[n].text = json_string(json_get(j, "content"), &m[n].n);
        m[n].n_images = m[n].role == ROLE_USER ? left : 0;
        if (m[n++].role == ROLE_USER) left = 0;
    }
    return n;
}

static void check_ids(const char *name, Ids ids, Json want)
{
    int i = 0;
    Json j = json_first(want);
    for (; j.node && i < ids.n; j = json_next(j), i++)
        if (ids.id[i] != (int)json_number(j)) break;
    check(!j.node && i == ids.n, name, "id %d of %d is %d, expected %d of %d", i, ids.n,
          i < ids.n ? ids.id[i] : -999, j.node ? (int)json_number(j) : -999, json_len(want));
}

static void test_case(Json one, int number)
{
    size_t mark = scratch_mark();
    const char *name = json_str_need(one, "name"), *given = json_str(one, "given", NULL);
    const char *dir = make_folder(one, json_str_need(one, "folder"), number);
    const Tokenizer *tok = tokenizer(json_str_need(one, "tokenizer"));
    Message m[8];
    int n = read_messages(m, one);
    Json config = json_file(dir, "config.json", 1 << 20);
    const ChatTemplate *t = template_open(dir, config, given);
    const char *form = json_str_need(one, "form"), *text = json_str_need(one, "text");
    check(t && strcmp(template_name(t), form) == 0, name, "recognised as %s, expected %s",
          t ? template_name(t) : "nothing", form);
    if (t) {
        size_t len;
        const char *got = template_text(t, tok, m, n, &len);
        check(len == strlen(text) && strcmp(got, text) == 0, name, "text:\n%s\nexpected:\n%s", got,
              text);
        check_ids(name, template_encode(t, tok, m, n, false), json_get(one, "ids"));
    }
    scratch_reset(mark);
}

/* --raw is the reference without its care: special tokens in what a user says count. */
static void test_raw(void)
{
    const Tokenizer *tok = tokenizer("qwen");
    int end = tok_id(tok, "<|im_end|>"), n_end[2] = {0};
    const ChatTemplate *t = template_open(DATA "/qwen", (Json){0}, "chatml");
    Message m = { ROLE_USER, "a<|im_end|>b", 12, 0 };
    for (int raw = 0; raw < 2; raw++) {
        Ids ids = template_encode(t, tok, &m, 1, raw);
        for (int i = 0; i < ids.n; i++) n_end[raw] += ids.id[i] == end;
    }
    check(n_end[0] == 2 && n_end[1] == 3, "--raw", "%d and %d end tokens, expected 2 and 3",
          n_end[0], n_end[1]);                /* of the system text, of the question */
    int id[2], n = template_ends(t, tok, id);
    check(n == 1 && id[0] == end, "chatml ends", "with %d tokens, first %d", n, id[0]);
    check(!template_open(DATA "/qwen", (Json){0}, "nonsense"), "--template nonsense", "accepted");
    const char *names = template_names();
    char copy[300];
    snprintf(copy, sizeof copy, "%s", names);
    for (char *s = strtok(copy, ", "); s; s = strtok(NULL, ", ")) {
        const ChatTemplate *one = template_open(DATA "/qwen", (Json){0}, s);
        check(one && strcmp(template_name(one), s) == 0, s, "cannot be chosen by its name");
    }
}

/* mm_use_im_start_end with a tokenizer that lacks the tokens. */
static void test_no_marks(void)
{
    const char *text = "{\"mm_vision_tower\":\"x\",\"mm_use_im_start_end\":true}";
    Json config = json_parse("config.json", text, strlen(text), 8, EXIT_FILE);
    const ChatTemplate *t = template_open(DATA "/legacy", config, "llava-v1");
    Message m = { ROLE_USER, "a", 1, 1 };
    jmp_buf place;
    int code = setjmp(place);
    if (!code) {
        die_landing = &place;
        template_encode(t, tokenizer("legacy"), &m, 1, false);
    }
    die_landing = NULL;
    check(code == EXIT_MODEL && strstr(item_error.msg, "<im_start>"), "no marks", "exit code %d",
          code);
}

static void test_templates(void)
{
    Json all = json_file(DATA, "cases.json", 64 << 20);
    char path[] = "/tmp/mm-chat-XXXXXX";
    root = mkdtemp(path);
    if (!root) bug("no temporary folder");
    int number = 0;
    for (Json j = json_first(json_get(all, "cases")); j.node; j = json_next(j))
        test_case(j, number++);
    for (Json j = json_first(json_get(all, "unknown")); j.node; j = json_next(j)) {
        const char *dir = make_folder(j, "vicuna-7b-v1.5", number++);
        Json config = json_file(dir, "config.json", 1 << 20);
        const ChatTemplate *t = template_open(dir, config, NULL);
        check(!t, json_str_need(j, "name"), "taken for %s", t ? template_name(t) : "");
    }
    check(number > 150, "cases", "only %d", number);
    test_raw();
    test_no_marks();
    if (fork() == 0) execlp("rm", "rm", "-rf", root, (char *)NULL);
}

/* === Columns ================================================================================== */

static void test_columns(void)
{
    static const struct { const char *s; int n, columns; } CASES[] = {  /* n: characters */
        { "abc", 3, 3 }, { "\xC3\xA9", 1, 1 }, { "e\xCC\x81x", 2, 2 },
        { "\xE4\xBD\xA0\xE5\xA5\xBD", 2, 4 },                                   /* 2 of CJK */
        { "\xF0\x9F\x99\x82", 1, 2 },                                           /* a smile */
        { "\xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD!", 2, 5 },                          /* with a tone */
        { "\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x9A\x80", 1, 4 },               /* joined */
        { "\xF0\x9F\x87\xA9\xF0\x9F\x87\xAA\xF0\x9F\x87\xAB", 2, 3 },           /* flag, letter */
        { "\xE2\x9D\xA4\xEF\xB8\x8F", 1, 2 },                                   /* VS16 */
        { "\xED\x95\x9C\xEF\xBC\xA1", 2, 4 },                                   /* Hangul, A */
        { "\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", 1, 2 },                       /* jamo */
        { "\xE2\x80\x8B", 1, 0 }, { "\n\xCC\x81", 2, 1 }, { "\xFFz", 2, 2 }, { "\xE4\xBD", 2, 2 },
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        const char *s = CASES[i].s;
        size_t n = strlen(s), at = 0, back = n;
        int count = 0, total = 0, columns, n_back = 0;
        for (; at < n; at += character(s + at, n - at, &columns), total += columns, count++) {}
        while (back) {
            size_t len = character_before(s, back);
            if (!len) break;
            back -= len;
            n_back++;
        }
        check(count == CASES[i].n && n_back == count && at == n && !back, "characters",
              "case %zu: %d, backwards %d, expected %d", i, count, n_back, CASES[i].n);
        if (*s != '\n')
            check(total == CASES[i].columns, "columns", "case %zu: %d, expected %d", i, total,
                  CASES[i].columns);
    }
    check(character_before("", 0) == 0, "characters", "one before nothing");
}

int main(void)
{
    test_templates();
    test_columns();
    printf("chat: %d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed != 0;
}
