/* pickle.c -- a pickle read as data: a stack machine that builds values and runs nothing.
 *
 *   80 02 7d 71 00 58 01 00 00 00 77 ... 2e      PROTO 2, EMPTY_DICT, BINPUT 0, BINUNICODE "w", ...
 *
 * A pickle is a program: its opcodes push values on a stack, put marks there, gather what is above
 * a mark into lists and dictionaries, and note values in a memo to use them again. Source:
 * CPython's Lib/pickletools.py, which documents each opcode; protocols 0 to 5 are known.
 *
 * In Python two opcodes make it dangerous: GLOBAL imports what it names, and REDUCE calls it. Here
 * GLOBAL pushes a name, and REDUCE asks torch.c, which knows a dozen of them; with any other
 * name it makes an OBJECT that remembers what it would have been. Names that have no place in a
 * file of data (os.system) end the reading, not because anything could happen here, but because
 * somebody should know.
 *
 * What a hostile file can cost: each push counts against MAX_PUSHES, so values, stack and memo
 * together stay below 300 MB however large the file; texts stay in the file, where they are;
 * nothing here calls itself, so depth is no matter; a structure that contains another ten times,
 * which does so with the next ("billion laughs"), is as small here as in the file: nobody walks it.
 *
 * Easy to get wrong:
 *   - BINGET pushes without making: a value can be used a million times for two bytes each. So
 *     whatever takes memory or time by the size of a value must be counted (pickle_spend).
 *   - The memo's indices come from the file: 4294967295 must not become an array of that size.
 *   - BUILD and APPENDS change a value that may be inside of others already, and inside of itself.
 *   - An integer of protocol 1 is text; "I01" and "I00" are True and False. */
#include <string.h>

#include "convert.h"

enum { MAX_PUSHES = 1 << 22, MAX_GLOBAL = 256, CHUNK = 1 << 16 };

typedef struct Machine {
    Value  **stack, **memo;
    size_t  *mark;                   /* heights of the stack */
    size_t   n, n_marks, n_memo, room, room_marks, room_memo, pushes, op;
    char    *pool;                   /* where small pieces are taken from */
    size_t   pool_left;
} Machine;

void pickle_error(const Pickle *p, const char *fmt, ...)
{
    char what[600];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    die(EXIT_FILE, "%s: its pickle, byte %zu: %s", quoted(p->shown), p->machine->op, what);
}

/* === Memory =================================================================================== */

/* n bytes that stay until the scratch mark is put back. */
static void *take(Machine *m, size_t n)
{
    n = (n + 7) / 8 * 8;
    if (n > CHUNK) return scratch_bytes(n);
    if (n > m->pool_left) {
        m->pool = scratch_bytes(CHUNK);
        m->pool_left = CHUNK;
    }
    m->pool += n;
    m->pool_left -= n;
    return m->pool - n;
}

/* Room for one more of `size` bytes; what was there is copied to where there is more. */
static void *grow(Machine *m, void *old, size_t n, size_t *room, size_t size)
{
    if (n < *room) return old;
    *room = *room ? 2 * *room : 8;
    void *p = take(m, *room * size);
    if (n) memcpy(p, old, n * size);
    return p;
}

Value *pickle_value(Pickle *p, ValueKind kind)
{
    Value *v = take(p->machine, sizeof *v);
    *v = (Value){ .kind = kind };
    return v;
}

static void add_item(Pickle *p, Value *to, Value *v)
{
    size_t room = to->room;
    to->item = grow(p->machine, to->item, to->n, &room, sizeof *to->item);
    to->room = (uint32_t)room;
    to->item[to->n++] = v;
    to->loaded |= v->loaded;
}

/* === Reading ================================================================================== */

const uint8_t *pickle_bytes(Pickle *p, uint64_t n)
{
    if (n > p->n - p->at)
        pickle_error(p, "%llu bytes are needed, %zu are left: it is cut off or damaged",
                     (unsigned long long)n, p->n - p->at);
    p->at += (size_t)n;
    return p->bytes + p->at - n;
}

static uint64_t number(Pickle *p, int n)
{
    const uint8_t *b = pickle_bytes(p, (uint64_t)n);
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)b[i] << (8 * i);
    return v;
}

/* Up to the next newline, without it. */
static const char *line(Pickle *p, size_t *n)
{
    const char *s = (const char *)p->bytes + p->at;
    const char *end = memchr(s, '\n', p->n - p->at);
    if (!end) pickle_error(p, "a line has no end: it is cut off or damaged");
    *n = (size_t)(end - s);
    p->at += *n + 1;
    return s;
}

/* A whole number in decimal; *small: does it fit? */
static int64_t decimal(Pickle *p, const char *s, size_t n, bool *small)
{
    bool minus = n && *s == '-';
    int64_t v = 0;
    *small = true;
    if (n && s[n - 1] == 'L') n--;
    if (n <= (size_t)minus) pickle_error(p, "a number has no digits");
    for (size_t i = minus; i < n; i++) {
        if (s[i] < '0' || s[i] > '9') pickle_error(p, "a number has %s", quoted_n(s + i, 1));
        *small = *small && !__builtin_mul_overflow(v, 10, &v)
              && !__builtin_add_overflow(v, s[i] - '0', &v);
    }
    return minus && *small ? -v : v;             /* too large, it may be INT64_MIN */
}

/* === The stack ================================================================================ */

void pickle_spend(Pickle *p, size_t n)
{
    Machine *m = p->machine;
    if (n > MAX_PUSHES - m->pushes)
        pickle_error(p, "it builds more than %d values, which no model needs", MAX_PUSHES);
    m->pushes += n;
}

static void push(Pickle *p, Value *v)
{
    Machine *m = p->machine;
    pickle_spend(p, 1);
    m->stack = grow(m, m->stack, m->n, &m->room, sizeof *m->stack);
    m->stack[m->n++] = v;
}

static Value *push_new(Pickle *p, ValueKind kind)
{
    Value *v = pickle_value(p, kind);
    push(p, v);
    return v;
}

/* Nothing below the newest mark can be reached but through the mark. */
static Value *top(Pickle *p)
{
    Machine *m = p->machine;
    if (m->n <= (m->n_marks ? m->mark[m->n_marks - 1] : 0))
        pickle_error(p, "a value is taken from the stack where there is none");
    return m->stack[m->n - 1];
}

static Value *pop(Pickle *p)
{
    Value *v = top(p);
    p->machine->n--;
    return v;
}

/* The values above the newest mark, which goes: *n of them. They stay valid until the next push. */
static Value **pop_mark(Pickle *p, size_t *n)
{
    Machine *m = p->machine;
    if (!m->n_marks) pickle_error(p, "a mark is taken from the stack where there is none");
    size_t at = m->mark[--m->n_marks];
    *n = m->n - at;
    m->n = at;
    return m->stack + at;
}

static void push_mark(Pickle *p)
{
    Machine *m = p->machine;
    pickle_spend(p, 1);
    m->mark = grow(m, m->mark, m->n_marks, &m->room_marks, sizeof *m->mark);
    m->mark[m->n_marks++] = m->n;
}

static void push_text(Pickle *p, const uint8_t *text, uint64_t n)
{
    if (n > UINT32_MAX) pickle_error(p, "a text has %llu bytes", (unsigned long long)n);
    Value *v = push_new(p, V_TEXT);
    v->text = (const char *)text;
    v->n = (uint32_t)n;
}

static void push_number(Pickle *p, ValueKind kind, int64_t v) { push_new(p, kind)->number = v; }

/* What nobody needs to look into. */
static Value *push_object(Pickle *p, const char *name)
{
    Value *v = push_new(p, V_OBJECT);
    v->text = name;
    v->n = (uint32_t)strlen(name);
    return v;
}

/* === Opcodes: what they do is in their names, those of pickletools.py ========================= */

/* Integers, reals, None, True, False. */
static bool op_number(Pickle *p, int op)
{
    size_t n;
    const char *s;
    bool small;
    switch (op) {
    case 'N':  push_new(p, V_NONE); return true;
    case 0x88: push_number(p, V_BOOL, 1); return true;                          /* NEWTRUE */
    case 0x89: push_number(p, V_BOOL, 0); return true;
    case 'K':  push_number(p, V_INT, (int64_t)number(p, 1)); return true;       /* BININT1 */
    case 'M':  push_number(p, V_INT, (int64_t)number(p, 2)); return true;
    case 'J':  push_number(p, V_INT, (int32_t)(uint32_t)number(p, 4)); return true;
    case 'G':  pickle_bytes(p, 8), push_object(p, "float"); return true;      /* BINFLOAT */
    case 'F':  line(p, &n), push_object(p, "float"); return true;
    case 'I':  case 'L': {
        s = line(p, &n);
        int64_t v = decimal(p, s, n, &small);
        if (op == 'I' && n == 2 && *s == '0') push_number(p, V_BOOL, v);
        else if (small) push_number(p, V_INT, v);
        else push_text(p, (const uint8_t *)s, n), top(p)->kind = V_LONG;
        return true;
    }
    case 0x8a: case 0x8b: {                                                   /* LONG1, LONG4 */
        uint64_t n_bytes = number(p, op == 0x8a ? 1 : 4), v = 0;
        const uint8_t *b = pickle_bytes(p, n_bytes);
        if (n_bytes > 8) {
            push_text(p, b, n_bytes);
            top(p)->kind = V_LONG;
            return true;
        }
        for (uint64_t i = 0; i < 8; i++)                 /* two's complement: the sign goes on */
            v |= (uint64_t)(i < n_bytes ? b[i] : n_bytes && b[n_bytes - 1] >> 7 ? 255 : 0)
              << (8 * i);
        push_number(p, V_INT, (int64_t)v);
        return true;
    }
    default: return false;
    }
}

/* Texts and bytes: pointed to, where they are. */
static bool op_text(Pickle *p, int op)
{
    uint64_t n;
    size_t n_line;
    const char *s;
    switch (op) {
    case 'U': case 0x8c: case 'C': n = number(p, 1); break;   /* SHORT_BINSTRING, _BINUNICODE, .. */
    case 'T': case 'X': case 'B':  n = number(p, 4); break;
    case 0x8d: case 0x8e: case 0x96: n = number(p, 8); break; /* BINUNICODE8, BINBYTES8, .. */
    case 'V': s = line(p, &n_line), push_text(p, (const uint8_t *)s, n_line); return true;
    case 'S':                                                 /* in quotes; escapes stay */
        s = line(p, &n_line);
        if (n_line < 2) pickle_error(p, "a text has no quotes");
        push_text(p, (const uint8_t *)s + 1, n_line - 2);
        return true;
    default: return false;
    }
    push_text(p, pickle_bytes(p, n), n);
    return true;
}

static void push_items(Pickle *p, ValueKind kind, Value **item, size_t n)
{
    Value *v = pickle_value(p, kind);
    v->item = n ? take(p->machine, n * sizeof *item) : NULL;
    v->n = v->room = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        v->item[i] = item[i];
        v->loaded |= item[i]->loaded;
    }
    if (kind == V_DICT && n % 2) pickle_error(p, "a dictionary has a key without a value");
    push(p, v);
}

static void push_tuple(Pickle *p, size_t n)
{
    Value *item[3] = { NULL };
    for (size_t i = n; i-- > 0; ) item[i] = pop(p);
    push_items(p, V_TUPLE, item, n);
}

/* Items for the list, dictionary or whatever is on top; objects swallow them. */
static void extend(Pickle *p, Value **item, size_t n, ValueKind kind)
{
    Value *to = top(p);
    if (kind == V_DICT && n % 2) pickle_error(p, "a dictionary gets a key without a value");
    if (to->kind != kind && to->kind != V_OBJECT)
        pickle_error(p, "items are added to what is no %s", kind == V_DICT ? "dictionary" : "list");
    for (size_t i = 0; i < n; i++)
        if (to->kind == kind) add_item(p, to, item[i]);
        else to->loaded |= item[i]->loaded;
}

/* Tuples, lists, dictionaries, sets. */
static bool op_container(Pickle *p, int op)
{
    size_t n;
    Value **item, *two[2];
    switch (op) {
    case '(':  push_mark(p); return true;
    case ')':  push_new(p, V_TUPLE); return true;
    case ']':  push_new(p, V_LIST); return true;
    case '}':  push_new(p, V_DICT); return true;
    case 0x8f: push_object(p, "set"); return true;                            /* EMPTY_SET */
    case 't':  item = pop_mark(p, &n); push_items(p, V_TUPLE, item, n); return true;
    case 'l':  item = pop_mark(p, &n); push_items(p, V_LIST, item, n); return true;
    case 'd':  item = pop_mark(p, &n); push_items(p, V_DICT, item, n); return true;
    case 0x91: pop_mark(p, &n); push_object(p, "frozenset"); return true;
    case 0x85: case 0x86: case 0x87: push_tuple(p, (size_t)op - 0x84); return true;   /* TUPLE1.. */
    case 'a':  two[0] = pop(p); extend(p, two, 1, V_LIST); return true;         /* APPEND */
    case 'e':  item = pop_mark(p, &n); extend(p, item, n, V_LIST); return true;
    case 0x90: item = pop_mark(p, &n); extend(p, item, n, V_LIST); return true; /* ADDITEMS */
    case 's':  two[1] = pop(p); two[0] = pop(p); extend(p, two, 2, V_DICT); return true;
    case 'u':  item = pop_mark(p, &n); extend(p, item, n, V_DICT); return true; /* SETITEMS */
    default:   return false;
    }
}

/* Python numbers its notes from 0 or 1 on, so an index cannot exceed what was pushed. */
static void memo_put(Pickle *p, uint64_t i)
{
    Machine *m = p->machine;
    if (i > m->pushes)
        pickle_error(p, "note %llu is written after %zu values", (unsigned long long)i, m->pushes);
    Value *v = top(p);
    while (m->n_memo <= i) {
        m->memo = grow(m, m->memo, m->n_memo, &m->room_memo, sizeof *m->memo);
        m->memo[m->n_memo++] = NULL;
    }
    m->memo[i] = v;
}

static void memo_get(Pickle *p, uint64_t i)
{
    Machine *m = p->machine;
    if (i >= m->n_memo || !m->memo[i])
        pickle_error(p, "note %llu is read and was never written", (unsigned long long)i);
    push(p, m->memo[i]);
}

static bool op_memo(Pickle *p, int op)
{
    size_t n;
    bool small;
    const char *s;
    switch (op) {
    case 'q':  memo_put(p, number(p, 1)); return true;                             /* BINPUT */
    case 'r':  memo_put(p, number(p, 4)); return true;
    case 'h':  memo_get(p, number(p, 1)); return true;                             /* BINGET */
    case 'j':  memo_get(p, number(p, 4)); return true;
    case 0x94: memo_put(p, p->machine->n_memo); return true;                       /* MEMOIZE */
    case 'p':  s = line(p, &n), memo_put(p, (uint64_t)decimal(p, s, n, &small)); return true;
    case 'g':  s = line(p, &n), memo_get(p, (uint64_t)decimal(p, s, n, &small)); return true;
    case '0':  if (p->machine->n_marks && p->machine->mark[p->machine->n_marks - 1]
                   == p->machine->n) pop_mark(p, &n);                         /* POP: or the mark */
               else pop(p);
               return true;
    case '1':  pop_mark(p, &n); return true;
    case '2':  push(p, top(p)); return true;                                  /* DUP */
    default:   return false;
    }
}

/* === Names and calls ========================================================================== */

static bool is_word(const char *s, size_t n, const char *const *words)
{
    for (; *words; words++)
        if (strlen(*words) == n && !memcmp(*words, s, n)) return true;
    return false;
}

/* Modules that data has no use for. They could do no harm here; elsewhere they might. */
static void check_name(Pickle *p, const char *module, size_t n_module, const char *name,
                       size_t n_name)
{
    static const char *const bad[] = {
        "os", "posix", "nt", "sys", "subprocess", "commands", "popen2", "pty", "shutil", "socket",
        "runpy", "importlib", "imp", "zipimport", "pkgutil", "code", "codeop", "ctypes", "operator",
        "webbrowser", "multiprocessing", "asyncio", "threading", "signal", "pickle", "_pickle",
        "dill", "cloudpickle", "joblib", "marshal", "shelve", "pip", "ensurepip", "venv", "pdb",
        "bdb", "timeit", "cProfile", "profile", "trace", "doctest", "inspect", "urllib", "urllib2",
        "http", "httplib", "requests", "ftplib", "smtplib", "tempfile", "builtin", NULL };
    static const char *const builtins[] = { "builtins", "__builtin__", NULL };
    static const char *const harmless[] = {
        "set", "frozenset", "complex", "slice", "range", "xrange", "bytearray", "bytes", "object",
        "int", "long", "float", "bool", "str", "unicode", "list", "tuple", "dict", NULL };
    static const char *const types[] = { "types", NULL };
    static const char *const code[] = { "CodeType", "FunctionType", "LambdaType", NULL };
    size_t n = 0;
    while (n < n_module && module[n] != '.') n++;
    if (!is_word(module, n, bad)
        && !(is_word(module, n, builtins) && !is_word(name, n_name, harmless))
        && !(is_word(module, n, types) && is_word(name, n_name, code))) return;
    die(EXIT_FILE, "%s: its pickle, byte %zu: it wants %s.%s, which no file of data needs\n"
        "this may be an attack: nothing of it was run; do not load it in Python either",
        quoted(p->shown), p->machine->op, quoted_n(module, n_module), quoted_n(name, n_name));
}

static void push_global(Pickle *p, const char *module, size_t n_module, const char *name,
                        size_t n_name)
{
    if (n_module > MAX_GLOBAL || n_name > MAX_GLOBAL)
        pickle_error(p, "the name of a class has %zu bytes", n_module + n_name);
    check_name(p, module, n_module, name, n_name);
    Value *v = push_new(p, V_GLOBAL);
    char *text = take(p->machine, n_module + n_name + 2);
    memcpy(text, module, n_module);
    text[n_module] = '.';
    memcpy(text + n_module + 1, name, n_name);
    text[n_module + 1 + n_name] = 0;
    v->text = text;
    v->n = (uint32_t)(n_module + 1 + n_name);
}

static Value *object_of(Pickle *p, const Value *class, const Value *args)
{
    Value *v = pickle_value(p, V_OBJECT);
    bool named = class->kind == V_GLOBAL || class->kind == V_OBJECT;
    v->text = named ? class->text : "an object";
    v->n = named ? class->n : (uint32_t)strlen(v->text);
    v->loaded = class->loaded || args->loaded;
    return v;
}

static void push_call(Pickle *p, const Value *function, const Value *args)
{
    bool known = function->kind == V_GLOBAL && args->kind == V_TUPLE;
    Value *v = known ? p->call(p, function, args) : NULL;
    push(p, v ? v : object_of(p, function, args));
}

/* INST and OBJ: the class, then its arguments above a mark. */
static void push_instance(Pickle *p, bool class_inside)
{
    size_t n, n_module, n_name;
    if (!class_inside) {
        const char *module = line(p, &n_module), *name = line(p, &n_name);
        push_global(p, module, n_module, name, n_name);
    }
    const Value *class = class_inside ? NULL : pop(p);
    Value **item = pop_mark(p, &n);
    if (class_inside && n == 0) pickle_error(p, "an object has no class");
    if (class_inside) class = *item++, n--;
    push_items(p, V_TUPLE, item, n);
    push_call(p, class, pop(p));
}

static bool op_object(Pickle *p, int op)
{
    const Value *args, *name;
    Value *v;
    size_t n_module, n_name;
    switch (op) {
    case 'c': {                                                               /* GLOBAL */
        const char *module = line(p, &n_module), *text = line(p, &n_name);
        push_global(p, module, n_module, text, n_name);
        return true;
    }
    case 0x93:                                                                /* STACK_GLOBAL */
        name = pop(p), v = pop(p);
        if (name->kind != V_TEXT || v->kind != V_TEXT)
            pickle_error(p, "the name of a class is no text");
        push_global(p, v->text, v->n, name->text, name->n);
        return true;
    case 'R': case 0x81: args = pop(p), v = pop(p); push_call(p, v, args); return true;
    case 0x92: pop(p), args = pop(p), v = pop(p); push_call(p, v, args); return true;
    case 'i':  push_instance(p, false); return true;
    case 'o':  push_instance(p, true); return true;
    case 'b':  args = pop(p), v = top(p); v->loaded |= args->loaded; return true;     /* BUILD */
    case 'Q':  push(p, p->persistent(p, pop(p))); return true;                /* BINPERSID */
    default:   return false;
    }
}

/* === The machine ============================================================================== */

Value *pickle_read(Pickle *p)
{
    Machine *m = p->machine = memset(scratch_bytes(sizeof *m), 0, sizeof *m);
    m->stack = grow(m, NULL, 0, &m->room, sizeof *m->stack);     /* there even while it is empty */
    for (;;) {
        m->op = p->at;
        int op = *pickle_bytes(p, 1);
        if (op == '.') break;
        if (op == 0x80) {
            if (number(p, 1) > 5) pickle_error(p, "has a protocol that mm does not know");
        } else if (op == 0x95) {
            pickle_bytes(p, 8);                          /* FRAME: only says how much to read */
        } else if (!op_memo(p, op) && !op_number(p, op) && !op_text(p, op) && !op_container(p, op)
                   && !op_object(p, op)) {
            pickle_error(p, "opcode 0x%02x is none that data needs, or it is damaged", op);
        }
    }
    Value *v = pop(p);
    if (m->n || m->n_marks)
        pickle_error(p, "it ends with more than one value on its stack");
    return v;
}

bool value_is(const Value *v, const char *text)
{
    return (v->kind == V_TEXT || v->kind == V_GLOBAL) && v->n == strlen(text)
        && !memcmp(v->text, text, v->n);
}

Value *dict_get(const Value *dict, const char *key)
{
    if (dict->kind != V_DICT) return NULL;
    for (uint32_t i = dict->n; i >= 2; i -= 2)
        if (value_is(dict->item[i - 2], key)) return dict->item[i - 1];
    return NULL;
}
