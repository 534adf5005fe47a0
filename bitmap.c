/* bitmap.c -- the two formats that are little more than their pixels: BMP and PNM.
 *
 * BMP (Windows, OS/2): a header of 12 to 124 bytes, masks or a palette, rows padded to 4 bytes, the
 * last row first unless the height is negative. 1, 4, 8 bits with a palette; 16, 24, 32 bits.
 *
 * PNM (netpbm): P2, P3 are grey and RGB as decimal text, P5, P6 the same as bytes, most significant
 * first where the largest value needs two.
 *
 *     P6
 *     # a comment
 *     3 2 255
 *     <18 bytes>
 *
 * Easy to get wrong:
 *   - Samples are scaled to 255 as PIL does it: 5 bits of a BMP as v*255/31, cut off; values of a
 *     PNM rounded to nearest, ties to even. Two-byte samples: the high byte (mm.1, PICTURES).
 *   - After PNM's last header number comes one white space, then data, which may look like white
 *     space, too. In text, a comment may stand between any two numbers.
 *   - A stream may hold several PNM pictures: what follows one is not its business. */
#include <math.h>
#include <string.h>

#include "image.h"

/* === BMP ====================================================================================== */

static size_t bmp_stride(const Parsed *p)
{
    return ((size_t)p->info.w * p->pixel_bits + 31) / 32 * 4;
}

/* The masks of 16- and 32-bit pixels: given behind the first 40 bytes of the header, or usual. */
static void bmp_masks(Parsed *p, File f, int bits, int compression)
{
    const uint8_t *b = f.bytes;
    if (compression == 3) {
        if (f.n < 14 + 52) image_truncated(f, "BMP", "the masks");
        for (int i = 0; i < 3; i++)
            p->mask[i] = le32(b + 14 + 40 + 4 * i);
    } else if (bits == 16) {
        p->mask[0] = 31u << 10, p->mask[1] = 31u << 5, p->mask[2] = 31u;
    } else {
        p->mask[0] = 255u << 16, p->mask[1] = 255u << 8, p->mask[2] = 255u;
    }
    for (int i = 0; i < 3; i++) {
        uint32_t m = p->mask[i], shifted = m ? m >> __builtin_ctz(m) : 0;
        if (!m || (shifted & (shifted + 1)) || shifted > 0xFFFF)
            image_corrupt(f, "BMP", 54 + 4 * (size_t)i, "the mask %08x of colour %d", m, i + 1);
    }
}

/* The palette stands behind the header, blue first, four bytes an entry (OS/2 1.x: three). */
static void bmp_palette(Parsed *p, File f, size_t header, int bits, uint32_t n_colors)
{
    size_t size = header == 12 ? 3 : 4, most = (size_t)1 << bits;
    size_t n = n_colors == 0 || n_colors > most ? most : n_colors, at = 14 + header;
    if (f.n < at || (f.n - at) / size < n) image_truncated(f, "BMP", "the end of its palette");
    for (size_t i = 0; i < n; i++)
        for (int c = 0; c < 3; c++)
            p->palette[i][c] = f.bytes[at + i * size + 2 - c];
    p->info.palette = true;
}

/* Fills p: info, palette or masks, data, top_down; all pixels are there. */
void bmp_parse(Parsed *p, File f)
{
    const uint8_t *b = f.bytes;
    size_t   header = le32(b + 14), offset = le32(b + 10);
    int64_t  w, h;
    int      bits, compression = 0;
    uint32_t n_colors = 0;
    if (f.n < 14 + header) image_truncated(f, "BMP", "the end of its header");
    if (header == 12) {
        w = le16(b + 18), h = le16(b + 20), bits = (int)le16(b + 24);
    } else {
        w = (int32_t)le32(b + 18), h = (int32_t)le32(b + 22), bits = (int)le16(b + 28);
        compression = (int)le32(b + 30);
        n_colors = le32(b + 46);
    }
    p->top_down = h < 0;
    h = h < 0 ? -h : h;
    if (compression == 1 || compression == 2) image_unsupported(f, "BMP with run-length coding");
    if (compression != 0 && compression != 3)
        image_unsupported(f, scratch_string("BMP of compression %u", (unsigned)compression));
    if (bits != 1 && bits != 4 && bits != 8 && bits != 16 && bits != 24 && bits != 32)
        image_corrupt(f, "BMP", 28, "%d bits a pixel", bits);
    if (compression == 3 && bits < 16)
        image_corrupt(f, "BMP", 30, "masks for %d bits a pixel", bits);
    image_check_size(f, "BMP", w, h);
    p->info = (ImageInfo){ .format = "BMP", .w = (int)w, .h = (int)h, .channels = bits <= 8 ? 1 : 3,
                           .bits = bits == 16 ? 5 : bits > 16 ? 8 : bits };
    if (bits <= 8) bmp_palette(p, f, header, bits, n_colors);
    else if (bits != 24) bmp_masks(p, f, bits, compression);
    p->pixel_bits = bits;
    if (offset == 14 + header && bits <= 8)
        offset += (header == 12 ? 3 : 4) * (n_colors ? n_colors : (size_t)1 << bits);   /* as PIL */
    size_t row = ((size_t)w * bits + 7) / 8, need = bmp_stride(p) * ((size_t)h - 1) + row;
    if (offset < 14 + header)
        image_corrupt(f, "BMP", 10, "pixels at byte %zu, inside the header", offset);
    if (offset > f.n || f.n - offset < need) image_truncated(f, "BMP", "the last pixel");
    p->data = offset;
}

/* The bits of mask in v, scaled to 255 and cut off. */
static uint8_t masked(uint32_t v, uint32_t mask)
{
    int shift = __builtin_ctz(mask);
    return (uint8_t)(((v & mask) >> shift) * 255 / (mask >> shift));
}

static void bmp_row(uint8_t *out, const uint8_t *in, const Parsed *p)
{
    int bits = p->pixel_bits;
    for (int x = 0; x < p->info.w; x++, out += 3) {
        if (bits <= 8) {
            int first = x * bits, i = in[first / 8] >> (8 - bits - first % 8) & ((1 << bits) - 1);
            memcpy(out, p->palette[i], 3);
        } else if (bits == 24) {
            out[0] = in[3 * x + 2];
            out[1] = in[3 * x + 1];
            out[2] = in[3 * x];
        } else {
            uint32_t v = bits == 16 ? le16(in + 2 * x) : le32(in + 4 * x);
            for (int c = 0; c < 3; c++)
                out[c] = masked(v, p->mask[c]);
        }
    }
}

void bmp_pixels(Image out, const Parsed *p, File f)
{
    for (int y = 0; y < out.h; y++) {
        size_t row = (size_t)(p->top_down ? y : out.h - 1 - y);
        bmp_row(out.rgb + 3 * (size_t)y * out.w, f.bytes + p->data + row * bmp_stride(p), p);
    }
}

/* === PNM ====================================================================================== */

typedef struct { File f; size_t pos; } Cursor;

static bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* Steps over white space and comments; false at the end of the bytes. */
static bool skip_space(Cursor *c)
{
    for (; c->pos < c->f.n; c->pos++) {
        if (c->f.bytes[c->pos] == '#')
            while (c->pos < c->f.n && c->f.bytes[c->pos] != '\n' && c->f.bytes[c->pos] != '\r')
                c->pos++;
        else if (!is_space(c->f.bytes[c->pos]))
            return true;
    }
    return false;
}

/* The next number, 0 to most; -1 if the bytes end first. In a stream a number that ends with the
 * bytes may go on. */
static int pnm_number(Cursor *c, int most, const char *what)
{
    const uint8_t *b = c->f.bytes;
    int v = 0;
    if (!skip_space(c)) return -1;
    size_t start = c->pos;
    while (c->pos < c->f.n && b[c->pos] >= '0' && b[c->pos] <= '9' && c->pos - start < 9)
        v = 10 * v + (b[c->pos++] - '0');
    if (c->pos == c->f.n && c->f.stream) return -1;
    if (c->pos == start) image_corrupt(c->f, "PNM", start, "a number was expected for %s", what);
    if (v > most) image_corrupt(c->f, "PNM", start, "%s is %d; at most %d", what, v, most);
    return v;
}

/* Where the text of n numbers ends; 0 if the bytes end first. */
static size_t pnm_text_end(Cursor c, size_t n, int max_value)
{
    for (size_t i = 0; i < n; i++)
        if (pnm_number(&c, max_value, "a sample") < 0) return 0;
    while (c.pos < c.f.n && is_space(c.f.bytes[c.pos]))
        c.pos++;                     /* so that the next picture of a stream begins with its P */
    return c.pos;
}

/* Fills p: info, max_value, data, end. False: the bytes end before the picture does. */
bool pnm_parse(Parsed *p, File f)
{
    enum { MOST = 999999999 };
    Cursor c = { f, 2 };
    int    kind = f.bytes[1] - '0', w, h;
    if ((w = pnm_number(&c, MOST, "the width")) < 0 || (h = pnm_number(&c, MOST, "the height")) < 0)
        return false;
    image_check_size(f, "PNM", w, h);
    if ((p->max_value = pnm_number(&c, 65535, "the largest value")) < 0) return false;
    if (p->max_value == 0) image_corrupt(f, "PNM", c.pos, "the largest value is 0");
    if (c.pos < f.n && f.bytes[c.pos] == '#')        /* a comment up to the line's end, then data */
        while (c.pos < f.n && f.bytes[c.pos] != '\n' && f.bytes[c.pos] != '\r')
            c.pos++;
    if (c.pos >= f.n) return false;
    if (!is_space(f.bytes[c.pos]))
        image_corrupt(f, "PNM", c.pos, "white space was expected after the largest value");
    p->data = ++c.pos;
    p->text = kind <= 3;
    p->info = (ImageInfo){ .format = "PNM", .w = w, .h = h, .channels = kind % 3 == 0 ? 3 : 1,
                           .bits = p->max_value > 255 ? 16 : 8 };
    size_t n = mul_size(mul_size((size_t)w, (size_t)h), (size_t)p->info.channels);
    if (p->text) {
        p->end = pnm_text_end(c, n, p->max_value);
        return p->end > 0;
    }
    n = mul_size(n, p->max_value > 255 ? 2 : 1);
    p->end = c.pos + n;
    return n <= f.n - c.pos;
}

/* Samples to bytes: v * 255 / max, to nearest; of two bytes, the high one. As PIL, in double. */
static uint8_t *pnm_scale(int max_value)
{
    uint8_t *table = scratch_bytes((size_t)max_value + 1);
    for (int v = 0; v <= max_value; v++) {
        double to = max_value > 255 ? 65535 : 255, scaled = rint((double)v / max_value * to);
        table[v] = (uint8_t)(max_value > 255 ? (int)scaled >> 8 : (int)scaled);
    }
    return table;
}

/* The next sample of the picture, at most max_value. */
static int pnm_sample(Cursor *c, const Parsed *p)
{
    if (p->text) return pnm_number(c, p->max_value, "a sample");
    const uint8_t *b = c->f.bytes + c->pos;
    int v = p->max_value > 255 ? (int)be16(b) : b[0];
    c->pos += p->max_value > 255 ? 2 : 1;
    return v < p->max_value ? v : p->max_value;
}

void pnm_pixels(Image out, const Parsed *p, File f)
{
    f.stream = false;
    Cursor c = { f, p->data };
    size_t n = (size_t)out.w * out.h, mark = scratch_mark();
    const uint8_t *scale = pnm_scale(p->max_value);
    for (uint8_t *o = out.rgb; n > 0; n--, o += 3) {
        o[0] = o[1] = o[2] = scale[pnm_sample(&c, p)];
        if (p->info.channels == 3) {
            o[1] = scale[pnm_sample(&c, p)];
            o[2] = scale[pnm_sample(&c, p)];
        }
    }
    scratch_reset(mark);
}
