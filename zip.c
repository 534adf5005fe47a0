/* zip.c -- the records of a ZIP archive as torch.save() writes it.
 *
 *   [local header, name, extra | data] ... | central directory | [ZIP64 end, locator] | end
 *
 *   search the end from the back -> where the directory is -> one entry per record: name, sizes,
 *   where its local header is -> check it against that header -> a table, by name
 *
 * Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3. PyTorch stores its records as they
 * are, without compression, so that they can be mapped: so can we.
 *
 * A ZIP file says everything twice, in the directory and in front of the data, and readers differ
 * in whom they believe. Here both must say the same, names may come once only, records may not
 * overlap, and the directory must end where the end says: what one reader sees, all see.
 *
 * Easy to get wrong:
 *   - Sizes and offsets of 0xffffffff stand for a 64-bit number in an extra field, which holds just
 *     those of the three that are needed, in their order.
 *   - The local header's extra field has another length than the directory's: PyTorch fills it up
 *     so that the data is aligned.
 *   - With bit 3 of the flags the local header has zeros for the sizes. */
#include <stdlib.h>
#include <string.h>

#include "convert.h"

#define INCOMPLETE "the download may be incomplete: get the file again"

typedef struct { const char *shown; const uint8_t *bytes; size_t n; } File;

static uint64_t le(const uint8_t *p, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

/* Are there n bytes at `at`, beginning with PK and these two? */
static bool is_at(const File *f, uint64_t at, size_t n, int a, int b)
{
    return at <= f->n && n <= f->n - at && f->bytes[at] == 'P' && f->bytes[at + 1] == 'K'
        && f->bytes[at + 2] == a && f->bytes[at + 3] == b;
}

/* === The directory ============================================================================ */

typedef struct { uint64_t at, size, n; } Directory;

/* The end record: 22 bytes and a comment that reaches to the end of the file. */
static size_t find_end(const File *f)
{
    enum { END = 22, COMMENT = 65535 };
    for (size_t back = END; back <= f->n && back <= END + COMMENT; back++) {
        size_t at = f->n - back;
        if (is_at(f, at, END, 5, 6) && le(f->bytes + at + 20, 2) == back - END) return at;
    }
    die(EXIT_FILE, "%s: has no end record of a ZIP archive in its %zu bytes\n" INCOMPLETE,
        quoted(f->shown), f->n);
}

static Directory find_directory(const File *f)
{
    enum { LOCATOR = 20, END64 = 56 };
    size_t end = find_end(f);
    const uint8_t *e = f->bytes + end;
    Directory d = { .at = le(e + 16, 4), .size = le(e + 12, 4), .n = le(e + 10, 2) };
    bool spans = le(e + 4, 2) || le(e + 6, 2) || le(e + 8, 2) != d.n;
    if (end >= LOCATOR && is_at(f, end - LOCATOR, LOCATOR, 6, 7)) {
        uint64_t at = le(f->bytes + end - LOCATOR + 8, 8);
        if (!is_at(f, at, END64, 6, 6) || at + END64 > end - LOCATOR)
            die(EXIT_FILE, "%s: its ZIP64 end record is not at byte %llu, as it says",
                quoted(f->shown), (unsigned long long)at);
        const uint8_t *w = f->bytes + at;
        Directory d64 = { .at = le(w + 48, 8), .size = le(w + 40, 8), .n = le(w + 32, 8) };
        if ((d.n != 0xffff && d.n != d64.n) || (d.size != 0xffffffff && d.size != d64.size)
            || (d.at != 0xffffffff && d.at != d64.at))
            die(EXIT_FILE, "%s: its two end records contradict each other", quoted(f->shown));
        spans = le(w + 16, 4) || le(w + 20, 4) || le(w + 24, 8) != d64.n;
        d = d64;
        end = (size_t)at;
    }
    if (spans)
        die(EXIT_FILE, "%s: is one of several parts of a ZIP archive, expected all in one file",
            quoted(f->shown));
    if (d.at > end || d.size != end - d.at || d.n > d.size / 46)
        die(EXIT_FILE, "%s: its directory (%llu bytes at %llu, %llu records) does not end where the"
            " end record begins, at byte %zu", quoted(f->shown), (unsigned long long)d.size,
            (unsigned long long)d.at, (unsigned long long)d.n, end);
    return d;
}

/* === Its entries ============================================================================== */

/* A number that is too large for its field: the next one of the ZIP64 extra field. */
static void widen(const File *f, uint64_t *v, const uint8_t **extra, size_t *n)
{
    if (*v != 0xffffffff) return;
    if (*n < 8)
        die(EXIT_FILE, "%s: an entry of its directory lacks a 64-bit size", quoted(f->shown));
    *v = le(*extra, 8);
    *extra += 8;
    *n -= 8;
}

/* Of the extra fields (id, length, bytes) the one of ZIP64. */
static const uint8_t *zip64_field(const uint8_t *extra, size_t n, size_t *n_field)
{
    for (size_t at = 0; n - at >= 4; ) {
        size_t len = (size_t)le(extra + at + 2, 2);
        if (len > n - at - 4) break;
        *n_field = len;
        if (le(extra + at, 2) == 1) return extra + at + 4;
        at += 4 + len;
    }
    *n_field = 0;
    return NULL;
}

/* What stands in front of the data must agree with the directory. */
static void check_local(const File *f, ZipRecord *r, uint64_t flags, uint64_t limit)
{
    const char *name = quoted_n(r->name, r->n_name);
    if (!is_at(f, r->head, 30, 3, 4))
        die(EXIT_FILE, "%s: record %s is not at byte %zu, where the directory says it is",
            quoted(f->shown), name, r->head);
    const uint8_t *h = f->bytes + r->head;
    size_t n_name = (size_t)le(h + 26, 2), before = 30 + n_name + (size_t)le(h + 28, 2);
    uint64_t room = r->head < limit ? limit - r->head : 0;
    if (before > room || r->n > room - before)
        die(EXIT_FILE, "%s: record %s (%zu bytes at %zu) reaches into the directory at byte %llu",
            quoted(f->shown), name, r->n, r->head, (unsigned long long)limit);
    uint64_t size = le(h + 22, 4);
    bool same = n_name == r->n_name && !memcmp(h + 30, r->name, n_name)
             && (int)le(h + 8, 2) == r->method && le(h + 6, 2) == flags;
    if (!(flags & 8) && size != 0xffffffff) same = same && (size == r->n || r->method);
    if (!same)
        die(EXIT_FILE, "%s: record %s: its own header and the directory contradict each other",
            quoted(f->shown), name);
    r->data = h + before;
}

/* The entry at *at, which is put behind it. */
static ZipRecord read_entry(const File *f, const Directory *d, uint64_t *at)
{
    enum { ENTRY = 46 };
    uint64_t end = d->at + d->size;
    if (end - *at < ENTRY || !is_at(f, *at, ENTRY, 1, 2))
        die(EXIT_FILE, "%s: its directory has no entry at byte %llu, expected one",
            quoted(f->shown), (unsigned long long)*at);
    const uint8_t *e = f->bytes + *at;
    size_t n_name = (size_t)le(e + 28, 2), n_extra = (size_t)le(e + 30, 2), n_field;
    size_t whole = ENTRY + n_name + n_extra + (size_t)le(e + 32, 2);
    if (whole > end - *at)
        die(EXIT_FILE, "%s: the entry of its directory at byte %llu does not end inside it",
            quoted(f->shown), (unsigned long long)*at);
    *at += whole;
    uint64_t flags = le(e + 8, 2), packed = le(e + 20, 4), size = le(e + 24, 4);
    uint64_t head = le(e + 42, 4);
    const uint8_t *field = zip64_field(e + ENTRY + n_name, n_extra, &n_field);
    widen(f, &size, &field, &n_field);
    widen(f, &packed, &field, &n_field);
    widen(f, &head, &field, &n_field);
    ZipRecord r = { .name = (const char *)e + ENTRY, .n_name = n_name, .n = (size_t)packed,
                    .method = (int)le(e + 10, 2), .head = (size_t)head };
    if (flags & 1)
        die(EXIT_FILE, "%s: record %s is encrypted", quoted(f->shown), quoted_n(r.name, n_name));
    if (!r.method && size != packed)
        die(EXIT_FILE, "%s: record %s is stored as it is, yet has two sizes", quoted(f->shown),
            quoted_n(r.name, n_name));
    check_local(f, &r, flags, d->at);
    return r;
}

static int by_place(const void *a, const void *b)
{
    const ZipRecord *x = a, *y = b;
    return x->head < y->head ? -1 : x->head > y->head;
}

/* Names as two pieces, so that a name can be looked up without being put together. */
static int compare(const char *a, size_t n, const char *b, size_t n_b)
{
    int c = memcmp(a, b, n < n_b ? n : n_b);
    return c ? c : n < n_b ? -1 : n > n_b;
}

static int by_name(const void *a, const void *b)
{
    const ZipRecord *x = a, *y = b;
    return compare(x->name, x->n_name, y->name, y->n_name);
}

Zip zip_read(const char *shown, const uint8_t *bytes, size_t n)
{
    File f = { shown, bytes, n };
    Directory d = find_directory(&f);
    uint64_t at = d.at;
    Zip zip = { .n = (size_t)d.n,
                .record = scratch_bytes(mul_size((size_t)d.n + 1, sizeof *zip.record)) };
    for (size_t i = 0; i < zip.n; i++) zip.record[i] = read_entry(&f, &d, &at);
    if (at != d.at + d.size)
        die(EXIT_FILE, "%s: its directory goes on after the last of %zu entries", quoted(shown),
            zip.n);
    ZipRecord *r = zip.record;
    qsort(r, zip.n, sizeof *r, by_place);
    for (size_t i = 1; i < zip.n; i++)
        if (r[i - 1].data + r[i - 1].n > bytes + r[i].head)
            die(EXIT_FILE, "%s: records %s and %s overlap", quoted(shown),
                quoted_n(r[i - 1].name, r[i - 1].n_name), quoted_n(r[i].name, r[i].n_name));
    qsort(r, zip.n, sizeof *r, by_name);
    for (size_t i = 1; i < zip.n; i++)
        if (!by_name(&r[i - 1], &r[i]))
            die(EXIT_FILE, "%s: has two records %s", quoted(shown),
                quoted_n(r[i].name, r[i].n_name));
    return zip;
}

const ZipRecord *zip_find(const Zip *zip, const char *head, size_t n_head, const char *tail,
                          size_t n_tail)
{
    for (size_t low = 0, high = zip->n; low < high; ) {
        size_t mid = low + (high - low) / 2;
        const ZipRecord *r = &zip->record[mid];
        size_t n_first = r->n_name < n_head ? r->n_name : n_head;
        int c = compare(head, n_head, r->name, n_first);
        if (!c) c = compare(tail, n_tail, r->name + n_first, r->n_name - n_first);
        if (!c) return r;
        if (c < 0) high = mid;
        else low = mid + 1;
    }
    return NULL;
}
