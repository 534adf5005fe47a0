/* test/json.c -- the JSON reader: what it must take, what it must refuse and with which words, and
 * that it is fast enough for a tokenizer.json. Each refusal is tested through fail() (code 0). */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../tensor.h"

static int n_passed, n_failed;

static void check(bool ok, const char *what, const char *got)
{
    n_passed += ok;
    n_failed += !ok;
    if (!ok) printf("FAILED: %s: got %s\n", what, got);
}

/* The message that the text, or what `look` does with it, ends with; "" if nothing is wrong. */
static const char *error_of(const char *text, size_t n, int depth, void (*look)(Json))
{
    static char msg[sizeof item_error.msg];
    jmp_buf place;
    msg[0] = 0;
    size_t mark = scratch_mark();
    if (setjmp(place) == 0) {
        landing = &place;
        Json j = json_parse("t.json", text, n, depth, 0);
        if (look) look(j);
    } else {
        snprintf(msg, sizeof msg, "%s", item_error.msg);
    }
    landing = NULL;
    scratch_reset(mark);
    return msg;
}

static void good(const char *text)
{
    const char *msg = error_of(text, strlen(text), 64, NULL);
    check(!*msg, text, msg);
}

static void bad(const char *text, const char *expected)
{
    const char *msg = error_of(text, strlen(text), 8, NULL);
    check(strstr(msg, expected) && strstr(msg, "t.json: "), text, *msg ? msg : "no error");
}

static void syntax(void)
{
    static const char *const fine[] = {
        "0", "-0", "1e5", "-1.25E-3", "\"\"", "null", "true", " [ ] ", "{}", "[[[[[[[[1]]]]]]]]",
        "{\"a\":{\"a\":1},\"b\":{\"a\":2}}", "[1,\r\n\t2]", "\"\\ud83d\\ude00\\u0000\\/\"",
        "\"\xf0\x9f\x98\x80 \xe4\xb8\xad \xc2\x80 \xf4\x8f\xbf\xbf\"", "{\"\":0}",
        "{\"a,[{:\\\"\":\",[{:\"}",
    };
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++) good(fine[i]);

    static const struct { const char *text, *msg; } broken[] = {
        { "", "byte 0: found the end of the text, expected a value" },
        { "  ", "byte 2: found the end of the text" },
        { "{", "found the end of the text, expected a key in quotes" },
        { "[", "found the end of the text, expected a value" },
        { "[1", "expected ',' or ']'" },
        { "[1,", "expected a value" },
        { "[1,]", "byte 3: found ']', expected a value" },
        { "[1}", "found '}', expected ',' or ']'" },
        { "{\"a\":1]", "found ']', expected ',' or '}'" },
        { "{\"a\":1,}", "expected a key in quotes" },
        { "{\"a\" 1}", "expected ':' after the key" },
        { "{\"a\":}", "found '}', expected a value" },
        { "{a:1}", "found 'a', expected a key in quotes" },
        { "{1:1}", "expected a key in quotes" },
        { "[1]\n[2]", "line 2, byte 4: found '[', expected the end of the text" },
        { "01", "no digit after a leading zero" },
        { "-", "expected a digit" },
        { "+1", "found '+', expected a value" },
        { "1.", "a digit after the decimal point" },
        { ".5", "expected a value" },
        { "1e", "a digit of the exponent" },
        { "0x10", "found 'x', expected the end" },
        { "NaN", "found 'N', expected a value" },
        { "Infinity", "found 'I'" },
        { "-Infinity", "expected a digit" },
        { "nul", "found 'n', expected a value" },
        { "truth", "found 't', expected a value" },
        { "'a'", "expected a value" },
        { "// c\n1", "expected a value" },
        { "\"abc", "the closing quote" },
        { "\"abc\\", "after a backslash" },
        { "\"abc\\\"", "the closing quote" },
        { "\"\\x41\"", "found 'x', expected one of" },
        { "\"\\u12g4\"", "found 'g', expected four hex digits" },
        { "\"\\u12", "four hex digits" },
        { "\"\\ud800\"", "a pair of surrogates" },
        { "\"\\ud800\\u0041\"", "a pair of surrogates" },
        { "\"\\ud800\\ud800\"", "a pair of surrogates" },
        { "\"\\udc00\\ud800\"", "a pair of surrogates" },
        { "\"a\nb\"", "found the byte 0x0a, expected no raw control character" },
        { "\"\x80\"", "found the byte 0x80, expected UTF-8" },
        { "\"\xc0\x80\"", "expected UTF-8" },
        { "\"\xc3\"", "expected UTF-8" },
        { "\"\xe0\x80\x80\"", "expected UTF-8" },
        { "\"\xed\xa0\x80\"", "expected UTF-8" },
        { "\"\xf4\x90\x80\x80\"", "expected UTF-8" },
        { "\"\xf8\x88\x80\x80\x80\"", "expected UTF-8" },
        { "\"\xf0\x9f\x98", "expected UTF-8" },
        { "\xc3\xa4", "found the byte 0xc3, expected a value" },
        { "\xef\xbb\xbf{}", "byte order mark" },
        { "[[[[[[[[[1]]]]]]]]]", "no more than 8 levels" },
        { "{\"a\":1,\n\"b\":2,\n\"a\":3}", "key a stands twice, in line 1 and line 3" },
        { "{\"a\":1,\"\\u0061\":3}", "key a stands twice" },
        { "{\"x\":[{\"b\":1,\"b\":1}]}", "key x[0].b stands twice" },
        { "{\"\":1,\"\":3}", "stands twice" },
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++)
        bad(broken[i].text, broken[i].msg);
    check(*error_of("1\0", 2, 8, NULL), "a zero byte after the value", "no error");

    char deep[200];
    memset(deep, '[', 100);
    memset(deep + 100, ']', 100);
    check(strstr(error_of(deep, 200, 1000, NULL), "64 levels"), "100 levels", "no error");
}

static void values(void)
{
    static const char text[] =
        "{ \"n\": [-9223372036854775808, 9223372036854775807,"
        "9223372036854775808, 1.0, 0.1, 1e9999],"
        "  \"s\": \"a\\u0000\\u00e4\\ud83d\\ude00\\n\","
        "  \"o\": {\"x\": true, \"y\": null}, \"e\": [] }";
    size_t mark = scratch_mark(), n;
    Json j = json_parse("t", text, strlen(text), 8, 0), a = json_get(j, "n");
    int64_t v = 0;
    check(json_len(j) == 4 && json_len(a) == 6, "lengths", "others");
    check(json_integer(json_at(a, 0), &v) && v == INT64_MIN, "INT64_MIN", "another");
    check(json_integer(json_at(a, 1), &v) && v == INT64_MAX, "INT64_MAX", "another");
    check(!json_integer(json_at(a, 2), &v), "2^63 is no int64", "one");
    check(!json_integer(json_at(a, 3), &v), "1.0 is not written as an integer", "one");
    check(json_number(json_at(a, 4)) == 0.1, "0.1", "another");
    check(json_number(json_at(a, 5)) > 1e300, "1e9999 is infinite", "another");
    check(!json_at(a, 6).node && !json_at(a, -1).node, "no seventh element", "one");
    const char *s = json_string(json_get(j, "s"), &n);
    check(n == 9 && !memcmp(s, "a\0\xc3\xa4\xf0\x9f\x98\x80\n", 10), "the string", "another");
    Json o = json_get(j, "o"), x = json_first(o), y = json_next(x);
    check(!strcmp(json_key(y, &n), "y") && n == 1 && !json_next(y).node, "members", "others");
    check(json_bool(o, "x", false) && json_bool(o, "y", true), "booleans", "others");
    check(json_int(o, "y", 7, 0, 9) == 7, "null is the default", "another");
    check(!json_get(o, "n").node && !json_get(a, "x").node, "keys of another object", "found");
    check(!json_get(j, "x").node, "a key of an inner object", "found");
    const char *span;
    check(json_span(o, &span) == 22 && span[0] == '{' && span[21] == '}', "span", "another");
    check(json_offset(a) == 7, "offset", "another");
    Json e = json_get(j, "e");
    check(!json_first(e).node && json_is(e, JSON_ARRAY), "[]", "another");
    check(json_number(json_parse("t", "12", 1, 8, 0)) == 1, "a number ends with the text", "12");
    scratch_reset(mark);
}

/* Objects of 1 to 20 members, of which small ones have no table: every key is found, each is
 * refused a second time, and none is found in the object beside it. */
static void members(void)
{
    int wrong = 0;
    for (int n = 1; n <= 20; n++) {
        size_t mark = scratch_mark();
        const char *list = "";
        for (int i = 0; i < n; i++)
            list = scratch_string("%s%s\"k%d\":{\"k%d\":%d}", list, i ? "," : "", i, i, i);
        const char *text = scratch_string("[{%s},{%s,\"x\":0},{}]", list, list);
        Json a = json_first(json_parse("t", text, strlen(text), 8, 0)), b = json_next(a);
        for (int i = 0; i < n; i++) {
            const char *key = scratch_string("k%d", i), *twice;
            wrong += json_int_need(json_get(b, key), key, 0, 99) != i;
            twice = scratch_string("[{%s},{%s,\"k%d\":0}]", list, list, i);
            wrong += !strstr(error_of(twice, strlen(twice), 8, NULL), "stands twice");
        }
        wrong += json_get(a, "x").node || !json_get(b, "x").node || json_get(a, "k").node;
        wrong += json_get(json_next(b), "k0").node != NULL || json_len(b) != n + 1;
        scratch_reset(mark);
    }
    check(wrong == 0, "members of objects of all sizes", "wrong ones");
}

static void get_int(Json j)   { json_int(json_get(j, "a"), "k", 1, 1, 1024); }
static void need_int(Json j)  { json_int_need(json_get(j, "a"), "k", 1, 1024); }
static void get_float(Json j) { json_float(json_get(j, "a"), "k", 1, 0, 1); }
static void get_bool(Json j)  { json_bool(json_get(j, "a"), "k", false); }
static void get_str(Json j)   { json_str(json_get(j, "a"), "k", NULL); }
static void need_str(Json j)  { json_str_need(json_get(j, "a"), "k"); }
static void get_act(Json j)   { json_act(json_get(j, "a"), "k", GELU); }
static void third(Json j)     { json_error(json_at(json_get(json_get(j, "a"), "k"), 2), "is odd"); }

static void getters(void)
{
    static const struct { const char *text; void (*look)(Json); const char *msg; } cases[] = {
        { "{\"a\":{\"k\":0}}", get_int, "key a.k is 0, expected an integer from 1 to 1024" },
        { "{\"a\":{\"k\":-1}}", get_int, "key a.k is -1, expected" },
        { "{\"a\":{\"k\":1000000000}}", get_int, "key a.k is 1000000000, expected" },
        { "{\"a\":{\"k\":1e9}}", get_int, "key a.k is 1e9, expected" },
        { "{\"a\":{\"k\":99999999999999999999}}", get_int, "is 99999999999999999999, expected" },
        { "{\"a\":{\"k\":1.5}}", get_int, "key a.k is 1.5, expected" },
        { "{\"a\":{\"k\":\"16\\u001b\"}}", get_int, "key a.k is \"16\\x1b\", expected" },
        { "{\"a\":{\"k\":[1]}}", get_int, "key a.k is an array, expected" },
        { "{\"a\":{\"k\":true}}", get_int, "key a.k is true, expected" },
        { "{\"a\":5}", get_int, "key a is 5, expected an object" },
        { "{\"b\":5}", need_int, "key a is missing, expected an object with k" },
        { "{\"a\":{\"k\":[0]}}", third, "key a.k.(one more element) is odd" },
        { "{\"b\":{\"k\":[0]}}", third, "key a is odd" },
        { "{\"a\":{}}", need_int, "key a.k is missing, expected an integer from 1 to 1024" },
        { "{\"a\":{\"k\":null}}", need_int, "key a.k is null, expected" },
        { "{\"a\":{\"k\":2}}", get_float, "key a.k is 2, expected a number from 0 to 1" },
        { "{\"a\":{\"k\":\"1\"}}", get_float, "key a.k is \"1\", expected a number" },
        { "{\"a\":{\"k\":-1e999}}", get_float, "key a.k is -1e999, expected" },
        { "{\"a\":{\"k\":1}}", get_bool, "key a.k is 1, expected true or false" },
        { "{\"a\":{\"k\":1}}", get_str, "key a.k is 1, expected a string" },
        { "{\"a\":{\"k\":\"a\\u0000\"}}", get_str, "key a.k has a zero byte" },
        { "{\"a\":{}}", need_str, "key a.k is missing, expected a string" },
        { "{\"a\":{\"k\":\"mish\"}}", get_act, "key a.k is \"mish\", expected an activation" },
        { "{\"a\":{\"k\":[0,0,0]}}", third, "key a.k[2] is odd" },
        { "{\"a\":{\"k\":1024}}", get_int, "" }, { "{}", get_int, "" },
        { "{\"a\":null}", get_int, "" }, { "{\"a\":{\"k\":1}}", get_float, "" },
        { "{\"a\":{\"k\":\"gelu_new\"}}", get_act, "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *msg = error_of(cases[i].text, strlen(cases[i].text), 8, cases[i].look);
        bool ok = *cases[i].msg ? strstr(msg, cases[i].msg) && strstr(msg, "t.json: ") : !*msg;
        check(ok, cases[i].text, *msg ? msg : "no error");
    }
}

/* A vocabulary of 100,000 words and as many merges, about 3 MB: every word must be found. Time is
 * printed, and only a blunder (a second) fails. */
static void large(void)
{
    enum { N = 100000 };
    size_t mark = scratch_mark(), n = 0, size = (size_t)N * 48;
    char *text = scratch_bytes(size);
    n += (size_t)snprintf(text + n, size - n, "{\"vocab\":{");
    for (int i = 0; i < N; i++)
        n += (size_t)snprintf(text + n, size - n, "%s\"w%x\":%d", i ? "," : "", i, i);
    n += (size_t)snprintf(text + n, size - n, "},\"merges\":[");
    for (int i = 0; i < N; i++)
        n += (size_t)snprintf(text + n, size - n, "%s\"w%x w\"", i ? "," : "", i);
    n += (size_t)snprintf(text + n, size - n, "]}");
    clock_t start = clock();
    Json j = json_parse("large", text, n, 8, 0);
    double ms = 1e3 * (double)(clock() - start) / CLOCKS_PER_SEC;
    Json vocab = json_get(j, "vocab");
    int wrong = 0;
    for (int i = 0; i < N; i++) {
        char key[16];
        int64_t v = -1;
        snprintf(key, sizeof key, "w%x", i);
        wrong += !json_integer(json_get(vocab, key), &v) || v != i;
    }
    printf("large: %.1f MB in %.1f ms\n", (double)n / 1e6, ms);
    check(wrong == 0 && ms < 1000, "100,000 words", "wrong ones, or too slow");
    scratch_reset(mark);
}

int main(void)
{
    syntax();
    values();
    members();
    getters();
    large();
    printf("json: %d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed > 0;
}
