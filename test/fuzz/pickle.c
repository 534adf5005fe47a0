/* test/fuzz/pickle.c -- any bytes as a file of torch.save(); if it is read, every weight of it is
 * copied from end to end, and the differences between its weights are added up.
 *
 * A fuzzer that must guess the archive around a pickle first finds little. So the first byte
 * chooses: 0, the rest is the file; 1, the rest is a pickle of the old form, to which what comes
 * before it is put in front; else it is the data.pkl of an archive with three storages. */
#include "fuzz.h"

#include "../../convert.h"

static void put_le(Buf *b, uint64_t v, int n)
{
    for (int i = 0; i < n; i++) put_bytes(b, &(char){ i < 8 ? (char)(v >> (8 * i)) : 0 }, 1);
}

/* Local headers and data, directory, end: as torch.save() has them. */
static void put_archive(Buf *b, const uint8_t *pickle, size_t n)
{
    static const char *const name[] = { "x/data.pkl", "x/data/0", "x/data/1", "x/data/2" };
    static const uint8_t numbers[] = "\0\1\2\3\4\5\6\7\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"
                                     "\x10\x11\x12\x13\x14\x15\x16";
    const size_t size[] = { n, 24, 8, 1 };
    size_t head[4];
    for (int i = 0; i < 4; i++) {
        head[i] = b->n;
        put_bytes(b, "PK\3\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 18);
        put_le(b, size[i], 4), put_le(b, size[i], 4), put_le(b, strlen(name[i]), 4);
        put_bytes(b, name[i], strlen(name[i]));
        put_bytes(b, i ? numbers : pickle, size[i]);
    }
    size_t directory = b->n;
    for (int i = 0; i < 4; i++) {
        put_bytes(b, "PK\1\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
        put_le(b, size[i], 4), put_le(b, size[i], 4), put_le(b, strlen(name[i]), 4);
        put_le(b, 0, 10), put_le(b, head[i], 4);
        put_bytes(b, name[i], strlen(name[i]));
    }
    size_t end = b->n;
    put_bytes(b, "PK\5\6\0\0\0\0\4\0\4\0", 12);
    put_le(b, end - directory, 4), put_le(b, directory, 4), put_le(b, 0, 2);
}

/* In pieces of odd lengths; at most 4096 elements of each: they may be windows of any size. */
static void copy_all(const Weights *w, FillFn *fill, void *ctx)
{
    for (size_t i = 0; i < w->n; i++) {
        const Weight *t = &w->weight[i];
        uint64_t all = t->n < 4096 ? t->n : 4096;
        for (uint64_t at = 0, n = 1; at < all; at += n, n = 2 * n + 1) {
            if (n > all - at) n = all - at;
            size_t mark = scratch_mark();
            fill(ctx, t, scratch_bytes(n * (uint64_t)t->size), at, n);
            scratch_reset(mark);
        }
        if (strlen(t->name) > MAX_NAME) bug("a name of %zu bytes", strlen(t->name));
    }
}

static void copy(void *ctx, const Weight *w, uint8_t *to, uint64_t first, uint64_t n)
{
    (void)ctx;
    weight_copy(w, to, first, n);
}

static void read_input(const uint8_t *bytes, size_t n)
{
    static const char old[] = "\x80\2\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
                              "\x80\2M\xe9\3.\x80\2}X\x0d\0\0\0little_endian\x88s.";
    if (n < 1) return;
    Buf b = { 0 };
    if (bytes[0] == 1) put_bytes(&b, old, sizeof old - 1);
    if (bytes[0] > 1) put_archive(&b, bytes + 1, n - 1);
    else put_bytes(&b, bytes + 1, n - 1);
    if (!b.n) return;
    uint8_t *file = memcpy(scratch_bytes(b.n), b.p, b.n);    /* of just this size */
    Weights w = torch_read("fuzz.bin", file, b.n, bytes[0] == 3 ? "ema" : NULL);
    copy_all(&w, copy, NULL);
    Weights base = w, sum = w;
    sum.weight = scratch_bytes(w.n * sizeof *w.weight);
    memcpy(sum.weight, w.weight, w.n * sizeof *w.weight);
    for (size_t i = 0; i < w.n; i++)
        if (w.weight[i].n > 1 << 16) return;
    copy_all(&sum, delta_fill, delta_open(&sum, &base, n % 2 ? DELTA_ALPACA : DELTA_AUTO, true));
}
