/* png.c -- checks the structure of a PNG file and puts a clean one together for the decoder.
 *
 *   signature, chunks (length, type, body, CRC): IHDR first, PLTE, IDAT ..., IEND last
 *
 * PNG, third edition (W3C). Every chunk is walked over up to IEND, so that a file that was cut off
 * is told before anything is decoded. The clean copy has the header, one palette of 256 entries
 * (black where the file has none: as in PIL), all image data as one IDAT, and the end. Transparency
 * is left out, as mm drops it (mm.1, PICTURES); so are gamma, profiles, animation.
 *
 * Easy to get wrong:
 *   - A wrong CRC damns the file only in chunks that matter; elsewhere the chunk is passed over.
 *   - The inflated data are exactly as long as the header says, a filter byte per row; interlaced,
 *     that is the sum of seven smaller pictures, of which some are empty.
 *   - tEXt is Latin-1, iTXt is UTF-8. */
#include <string.h>

#include "image.h"

#ifndef FUZZING
#define FUZZING 0                    /* 1: any CRC will do, or no mutation gets past them */
#endif

enum { GREY = 0, RGB = 2, INDEXED = 3, GREY_ALPHA = 4, RGB_ALPHA = 6 };
enum { MAX_TEXT = 1 << 16 };         /* bytes of text chunks that are kept for mm info */

#define TYPE(s) ((uint32_t)(s)[0] << 24 | (uint32_t)(s)[1] << 16 | (uint32_t)(s)[2] << 8 | (s)[3])

typedef struct {
    File     f;
    int      w, h, bits, color, channels;
    bool     interlaced, header, palette;
    uint8_t  entries[3 * 256];
    size_t   n_data;                 /* bytes of all IDAT bodies */
    char    *text;
    size_t   n_text;
    uint32_t crc_table[256];
} Walk;

/* === CRC ====================================================================================== */

static void make_crc_table(uint32_t *table)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
        table[i] = c;
    }
}

static uint32_t crc(const uint32_t *table, const uint8_t *bytes, size_t n)
{
    uint32_t c = 0xFFFFFFFFu;
    for (size_t i = 0; i < n; i++)
        c = table[(c ^ bytes[i]) & 255] ^ c >> 8;
    return ~c;
}

/* === Chunks: s is the body, n its length ====================================================== */

static void header_chunk(Walk *w, const uint8_t *s, size_t n)
{
    static const uint32_t depths[7] = {          /* bit d set: d bits a sample are allowed */
        [GREY] = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 8 | 1 << 16, [RGB] = 1 << 8 | 1 << 16,
        [INDEXED] = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 8, [GREY_ALPHA] = 1 << 8 | 1 << 16,
        [RGB_ALPHA] = 1 << 8 | 1 << 16 };
    static const int channels[7] = { 1, 0, 3, 1, 2, 0, 4 };
    if (w->header || n != 13)
        image_corrupt(w->f, "PNG", 8, "an IHDR chunk that is not the first, or not of 13 bytes");
    if (be32(s) > INT32_MAX || be32(s + 4) > INT32_MAX)
        image_corrupt(w->f, "PNG", 16, "a picture of %u x %u pixels", be32(s), be32(s + 4));
    image_check_size(w->f, "PNG", be32(s), be32(s + 4));
    w->header = true;
    w->w = (int)be32(s);
    w->h = (int)be32(s + 4);
    w->bits = s[8];
    w->color = s[9];
    if (w->color > 6 || w->bits > 16 || !(depths[w->color] >> w->bits & 1))
        image_corrupt(w->f, "PNG", 24, "%d bits of colour type %d", w->bits, w->color);
    if (s[10] || s[11] || s[12] > 1)
        image_corrupt(w->f, "PNG", 26, "compression %d, filter %d, interlace %d: not known", s[10],
                      s[11], s[12]);
    w->channels = channels[w->color];
    w->interlaced = s[12];
}

static void palette_chunk(Walk *w, const uint8_t *s, size_t n)
{
    if (w->color != INDEXED)
        return;                      /* a suggestion for displays of few colours */
    if (n == 0 || n > 3 * 256 || n % 3)
        image_corrupt(w->f, "PNG", (size_t)(s - w->f.bytes), "a palette of %zu bytes", n);
    w->palette = true;
    memset(w->entries, 0, sizeof w->entries);
    memcpy(w->entries, s, n);
}

static void add_char(Walk *w, unsigned c)
{
    if (w->n_text + 2 >= MAX_TEXT) return;
    if (c < 0x80) {
        w->text[w->n_text++] = (char)c;
    } else {
        w->text[w->n_text++] = (char)(0xC0 | c >> 6);
        w->text[w->n_text++] = (char)(0x80 | (c & 63));
    }
}

/* A line "key: value"; line ends inside are shown as \n. An iTXt value is UTF-8 already. */
static void add_text(Walk *w, const uint8_t *key, size_t n_key, const uint8_t *s, size_t n,
                     bool utf8)
{
    if (!w->text) w->text = scratch_bytes(MAX_TEXT);
    for (size_t i = 0; i < n_key; i++)
        add_char(w, key[i]);
    add_char(w, ':');
    add_char(w, ' ');
    for (size_t i = 0; i < n && w->n_text + 3 < MAX_TEXT; i++) {
        if (s[i] == '\n') {
            add_char(w, '\\');
            add_char(w, 'n');
        } else if (utf8 && s[i]) {
            w->text[w->n_text++] = (char)s[i];
        } else {
            add_char(w, s[i] ? s[i] : ' ');
        }
    }
    add_char(w, '\n');
}

/* tEXt: key 0 value. iTXt: key 0 compressed method language 0 translated-key 0 value. Compressed
 * values are left out. */
static void text_chunk(Walk *w, const uint8_t *s, size_t n, bool international)
{
    const uint8_t *end = s + n, *key_end = memchr(s, 0, n), *v;
    if (!key_end || key_end == s) return;
    v = key_end + 1;
    if (international) {
        if (end - v < 2 || v[0]) return;
        v += 2;
        for (int i = 0; i < 2; i++) {
            const uint8_t *zero = memchr(v, 0, (size_t)(end - v));
            if (!zero) return;
            v = zero + 1;
        }
    }
    add_text(w, s, (size_t)(key_end - s), v, (size_t)(end - v), international);
}

/* === The walk ================================================================================= */

/* Calls for each chunk what belongs to it; ends at IEND. Fills p->exif. */
static void walk(Walk *w, Parsed *p)
{
    const uint8_t *b = w->f.bytes;
    size_t         n_file = w->f.n;
    for (size_t pos = 8; ; ) {
        if (n_file - pos < 12) image_truncated(w->f, "PNG", "the IEND chunk");
        size_t   n = be32(b + pos);
        uint32_t type = be32(b + pos + 4);
        const uint8_t *s = b + pos + 8;
        bool vital = !(type & 1u << 29);             /* a capital first letter */
        for (int i = 4; i < 8; i++)
            if ((b[pos + i] | 32) < 'a' || (b[pos + i] | 32) > 'z')
                image_corrupt(w->f, "PNG", pos, "not a chunk");
        if (n > n_file - pos - 12) image_truncated(w->f, "PNG", "the IEND chunk");
        if (!w->header && type == TYPE("CgBI"))
            image_unsupported(w->f, "Apple's own variant of PNG (CgBI)");
        if (!w->header && type != TYPE("IHDR"))
            image_corrupt(w->f, "PNG", pos, "it does not begin with an IHDR chunk");
        bool intact = FUZZING || crc(w->crc_table, b + pos + 4, n + 4) == be32(s + n);
        if (vital && !intact)
            image_corrupt(w->f, "PNG", pos, "the CRC of chunk %.4s is wrong",
                          (const char *)b + pos + 4);

        if (type == TYPE("IHDR"))
            header_chunk(w, s, n);
        else if (type == TYPE("PLTE"))
            palette_chunk(w, s, n);
        else if (type == TYPE("IDAT"))
            w->n_data = add_size(w->n_data, n);
        else if (type == TYPE("IEND"))
            return;
        else if (vital)
            image_corrupt(w->f, "PNG", pos, "chunk %.4s is not known", (const char *)b + pos + 4);
        else if (type == TYPE("eXIf") && intact) {
            p->exif = s;
            p->n_exif = n;
        } else if (w->f.info_only && intact && (type == TYPE("tEXt") || type == TYPE("iTXt"))) {
            text_chunk(w, s, n, type == TYPE("iTXt"));
        }
        pos += n + 12;
    }
}

/* === The clean copy =========================================================================== */

static uint8_t *put_chunk(uint8_t *out, const char *type, size_t n)
{
    uint8_t head[8] = { (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n };
    memcpy(head + 4, type, 4);
    memcpy(out, head, 8);
    return out + 8;
}

static uint8_t *put_crc(uint8_t *out) { return (uint8_t *)memset(out, 0, 4) + 4; }   /* not read */

static void make_clean(const Walk *w, Parsed *p)
{
    const uint8_t *b = w->f.bytes;
    uint8_t *out = scratch_bytes(add_size(w->n_data, 8 + 25 + 12 + sizeof w->entries + 12 + 12));
    p->clean = out;
    memcpy(out, b, 33);                              /* the signature and IHDR as they are */
    out += 33;
    if (w->color == INDEXED) {
        out = put_chunk(out, "PLTE", sizeof w->entries);
        memcpy(out, w->entries, sizeof w->entries);
        out = put_crc(out + sizeof w->entries);
    }
    out = put_chunk(out, "IDAT", w->n_data);
    for (size_t pos = 33; be32(b + pos + 4) != TYPE("IEND"); pos += be32(b + pos) + 12) {
        if (be32(b + pos + 4) != TYPE("IDAT")) continue;
        memcpy(out, b + pos + 8, be32(b + pos));
        out += be32(b + pos);
    }
    out = put_crc(out);
    out = put_crc(put_chunk(out, "IEND", 0));
    p->n_clean = (size_t)(out - p->clean);
}

/* Bytes of the inflated data: for each row of each pass a filter byte and its samples. */
static size_t inflated_size(const Walk *w)
{
    static const int x0[] = { 0, 4, 0, 2, 0, 1, 0 }, dx[] = { 8, 8, 4, 4, 2, 2, 1 };
    static const int y0[] = { 0, 0, 4, 0, 2, 0, 1 }, dy[] = { 8, 8, 8, 4, 4, 2, 2 };
    size_t sum = 0, bits = (size_t)w->channels * w->bits;
    if (!w->interlaced) return (size_t)w->h * (1 + (w->w * bits + 7) / 8);
    for (int i = 0; i < 7; i++) {
        size_t nx = w->w > x0[i] ? (size_t)(w->w - x0[i] + dx[i] - 1) / dx[i] : 0;
        size_t ny = w->h > y0[i] ? (size_t)(w->h - y0[i] + dy[i] - 1) / dy[i] : 0;
        if (nx) sum += ny * (1 + (nx * bits + 7) / 8);
    }
    return sum;
}

/* stb_image inflates into a buffer that it doubles when full, unfilters, deinterlaces, and converts
 * to RGB and to 8 bits. One doubling is allowed for: files with a few bytes too many exist. */
static size_t memory_needed(const Walk *w)
{
    size_t pixels = (size_t)w->w * w->h, sample = w->bits == 16 ? 2 : 1;
    size_t inflated = inflated_size(w);
    size_t planes = pixels * w->channels * sample * (w->interlaced ? 2 : 1);
    return inflated * (w->interlaced ? 8 : 3) + planes + pixels * 3 * (sample + 1) + w->n_data
         + (1 << 16);
}

/* Walks through the file to IEND. Fills p: info, exif, clean, memory. */
void png_parse(Parsed *p, File f)
{
    Walk w = { .f = f };
    make_crc_table(w.crc_table);
    walk(&w, p);
    if (w.n_data == 0) image_corrupt(f, "PNG", f.n, "no image data");
    if (w.color == INDEXED && !w.palette) image_corrupt(f, "PNG", f.n, "no palette");
    p->info = (ImageInfo){ .format = "PNG", .w = w.w, .h = w.h, .channels = w.channels,
                           .bits = w.bits, .palette = w.color == INDEXED };
    if (w.text) {
        w.text[w.n_text - (w.n_text && w.text[w.n_text - 1] == '\n')] = 0;
        p->info.text = w.text;
    }
    size_t inflated = inflated_size(&w);
    if (inflated > INT32_MAX || w.n_data > INT32_MAX)
        fail("image.toobig", NULL, "%s: %zu bytes of samples; at most %d", quoted(f.name), inflated,
             INT32_MAX);
    if (inflated / 1040 > w.n_data)      /* deflate makes no more than 1,032 bytes of one */
        image_corrupt(f, "PNG", f.n, "%zu bytes of data cannot hold %d x %d pixels", w.n_data, w.w,
                      w.h);
    p->memory = memory_needed(&w);
    if (!f.info_only) make_clean(&w, p);
}
