/* test/fuzz/json.c -- any bytes as JSON: parse, then walk the whole document by its public
 * functions and ask for a value of every kind, as the loaders of configurations do. */
#include "fuzz.h"

/* All values in the order of the text, without recursion: depth is at most 64. */
static void walk(Json root)
{
    Json above[64], j = root;
    int depth = 0;
    while (j.node) {
        size_t n;
        const char *text, *key = json_key(j, &n);
        int64_t v;
        if (key && key[n]) bug("a key does not end with zero");
        if (depth && json_is(above[depth - 1], JSON_OBJECT)
            && json_get_n(above[depth - 1], key, n).node != j.node) bug("a key is not found");
        if (json_string(j, &n) && json_string(j, NULL)[n]) bug("a string does not end with zero");
        if (json_span(j, &text) == 0) bug("a value of no text");
        if (json_integer(j, &v) && json_number(j) != (double)v) bug("two numbers in one");
        Json next = json_first(j);
        if (next.node) {
            above[depth++] = j;
        } else {
            next = json_next(j);
            while (!next.node && depth) next = json_next(above[--depth]);
        }
        j = next;
    }
}

static void read_input(const uint8_t *bytes, size_t n)
{
    size_t mark = scratch_mark();
    Json j = json_parse("fuzz.json", (const char *)bytes, n, 64, n % 2 ? EXIT_FILE : 0);
    walk(j);
    json_int(j, "hidden_size", 1, 1, 65536);
    json_float(j, "layer_norm_eps", 1e-12, 0, 1);
    json_bool(j, "tie", true);
    json_act(json_get(j, "text_config"), "hidden_act", GELU);
    json_str_need(json_at(json_get(j, "list"), 1), "type");
    scratch_reset(mark);
}
