/* memory.c -- two arenas, and no free().
 *
 *   keep     until exit: caches, tables, vocabularies, small converted weights
 *   scratch  until the mark is put back: activations, pictures, records
 *
 *       Tensor out = scratch(n_patch, d);      the result first ...
 *       size_t mark = scratch_mark();
 *       ...                                    ... then what it takes to make it
 *       scratch_reset(mark);
 *       return out;
 *
 * Each arena is one stretch of address space, reserved at first use and filled with memory by the
 * kernel as it is touched; it never moves, so pointers stay good, and no size has to be guessed.
 * What exceeds the memory that the machine has is refused: the system would let us begin, and kill
 * us, or somebody else, in the middle.
 *
 * Scratch asks for pages of 2 MiB: activations and packed panels then meet in fewer places of the
 * caches, and their addresses are translated faster (1 to 3 % of a product of matrices).
 *
 * Easy to get wrong:
 *   - Only the main thread allocates. A task of parallel_for that does is a bug, and is told so.
 *   - scratch is not zeroed: what was there before is still there. Under AddressSanitizer every
 *     piece is followed by a poisoned gap, and what was put back is poisoned. */
#include <string.h>
#include <sys/mman.h>

#include "tensor.h"
#include "threads.h"

#ifdef __has_feature
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define POISON(p, n)   ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
enum { GAP = 64 };
#else
#define POISON(p, n)   ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
enum { GAP = 0 };
#endif

enum { ALIGN = 64, LARGE = 64 << 20 };       /* a cache line, and the widest vector; a size to be
                                              * compared with what the machine has */

typedef struct {
    const char *name;
    char       *base;
    size_t      used, peak, size;
} Arena;

static Arena keep_arena = { .name = "keep" }, scratch_arena = { .name = "scratch" };

/* In a batch it costs the item that asks for too much, not those after it. */
static _Noreturn void no_memory(const char *fmt, ...) PRINTF(1, 2);
static _Noreturn void no_memory(const char *fmt, ...)
{
    char what[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    if (landing) fail("memory", NULL, "%s", what);
    die(EXIT_MEMORY, "%s", what);
}

size_t mul_size(size_t a, size_t b)
{
    size_t c;
    if (__builtin_mul_overflow(a, b, &c))
        no_memory("%zu x %zu bytes are more than this machine can address", a, b);
    return c;
}

size_t add_size(size_t a, size_t b)
{
    size_t c;
    if (__builtin_add_overflow(a, b, &c))
        no_memory("%zu + %zu bytes are more than this machine can address", a, b);
    return c;
}

/* === How much there is ======================================================================== */

/* The number in a line "NAME NUMBER" of a small file, times unit; `standard` if there is none. */
static size_t read_size(const char *path, const char *name, size_t unit, size_t standard)
{
    char line[200];
    unsigned long long v;
    size_t found = standard, n = strlen(name);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, name, n) && sscanf(line + n, "%llu", &v) == 1 && v <= SIZE_MAX / unit)
            found = (size_t)v * unit;
    if (f) fclose(f);
    return found;
}

size_t memory_available(void)
{
    size_t most = read_size("/proc/meminfo", "MemAvailable:", 1024, SIZE_MAX / 4)
                + read_size("/proc/meminfo", "SwapFree:", 1024, 0);
    size_t v2 = read_size("/sys/fs/cgroup/memory.max", "", 1, SIZE_MAX);
    size_t v1 = read_size("/sys/fs/cgroup/memory/memory.limit_in_bytes", "", 1, SIZE_MAX);
    if (v2 < most) most = v2;
    return v1 < most ? v1 : most;
}

/* === The arenas =============================================================================== */

/* 256 GiB where the system lets us, less where it limits address space (ulimit -v, 32 bits). */
static void reserve(Arena *a)
{
    size_t most = sizeof(size_t) == 8 ? (size_t)1 << 38 : (size_t)1 << 29;
    for (size_t n = most; n >= (size_t)1 << 24; n /= 2) {
        void *p = mmap(NULL, n, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) continue;
        if (a == &scratch_arena) madvise(p, n, MADV_HUGEPAGE);
        a->base = p;
        a->size = n;
        return;
    }
    die(EXIT_MEMORY, "no address space for the %s arena: is ulimit -v set?", a->name);
}

/* What the machine had when it was first asked. The system would grant more, and then kill. */
static size_t available(void)
{
    static size_t n;
    if (!n) n = memory_available();
    return n;
}

static void *take(Arena *a, size_t n)
{
    if (threads_busy()) bug("allocation of %zu bytes inside parallel_for", n);
    if (!a->base) reserve(a);
    size_t whole = add_size(n, GAP + ALIGN - 1) / ALIGN * ALIGN;
    if (whole > a->size - a->used)
        no_memory("%zu MB more for %s: only %zu MB of address space are left", whole >> 20, a->name,
                  (a->size - a->used) >> 20);
    size_t both = add_size(add_size(keep_arena.used, scratch_arena.used), whole);
    if (both > LARGE && both > available())
        no_memory("%zu MB are needed, %zu MB more than before: when this run began, the machine had"
                  " %zu MB", both >> 20, whole >> 20, available() >> 20);
    char *p = a->base + a->used;
    a->used += whole;
    if (a->used > a->peak) a->peak = a->used;
    UNPOISON(p, n);
    POISON(p + n, whole - n);
    return p;
}

/* Memory of the keep arena is never given back, so it is as the system made it: zero. */
void *keep_bytes(size_t n)    { return take(&keep_arena, n); }
void *scratch_bytes(size_t n) { return take(&scratch_arena, n); }
size_t scratch_mark(void)     { return scratch_arena.used; }
size_t keep_peak(void)        { return keep_arena.peak; }
size_t scratch_peak(void)     { return scratch_arena.peak; }

size_t keep_mark(void) { return keep_arena.used; }

void keep_reset(size_t mark)
{
    Arena *a = &keep_arena;
    if (mark > a->used) bug("keep_reset to %zu of %zu", mark, a->used);
    if (!a->base) return;
    UNPOISON(a->base + mark, a->used - mark);
    memset(a->base + mark, 0, a->used - mark);
    POISON(a->base + mark, a->used - mark);
    a->used = mark;
}

void scratch_reset(size_t mark)
{
    Arena *a = &scratch_arena;
    if (mark > a->used) bug("scratch_reset to %zu of %zu", mark, a->used);
    if (a->base) POISON(a->base + mark, a->used - mark);
    a->used = mark;
}

static char *format_into(Arena *a, const char *fmt, va_list args)
    __attribute__((format(printf, 2, 0), nonnull));
static char *format_into(Arena *a, const char *fmt, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    char *s = take(a, (size_t)n + 1);
    vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}

char *keep_string(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *s = format_into(&keep_arena, fmt, args);
    va_end(args);
    return s;
}

char *scratch_string(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *s = format_into(&scratch_arena, fmt, args);
    va_end(args);
    return s;
}
