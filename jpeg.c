/* jpeg.c -- checks the structure of a JPEG file, puts a clean one together for the decoder, and
 * turns what that decodes into pixels.
 *
 *   SOI, segments (marker FF xx, length, body), SOS header + entropy-coded data, ..., EOI
 *
 * ITU T.81 annex B. The walk goes through the whole file up to the end-of-image marker, so that a
 * file that was cut off is told before anything is decoded (decoders fill the rest with grey). What
 * is kept: SOF, DQT, DHT, DRI, SOS with its data. All else (thumbnails, profiles, comments,
 * padding) is left out of the clean copy.
 *
 *   clean copy -> stb_image: Huffman decoding -> blocks of 8x8 coefficients
 *              -> jpeg_idct -> a plane of bytes for each component -> upsampled -> RGB
 *
 * The last line is written here and not taken from stb_image, because the arithmetic is then that
 * of libjpeg, bit for bit (its "islow" transform, "fancy" upsampling and colour tables, which is
 * what PIL uses), while stb's own is up to 11 levels away from it.
 *
 * Easy to get wrong:
 *   - In entropy-coded data FF 00 is a byte FF, FF D0..D7 are restarts, FF FF is filling; any other
 *     FF xx ends it. Thumbnails hide in APP1 segments: only lengths skip them safely.
 *   - What follows EOI (a second picture in phones' files) does not matter.
 *   - Whether three components are YCbCr or RGB: YCbCr if there is a JFIF segment; else what
 *     Adobe's segment says; else RGB if they are named so. Four are CMYK, inverted, as Adobe does.
 *   - The last column of a component is the last real one, not the last of its last block.
 *   - libjpeg forbids the code of all ones; files rely on readers that accept what libjpeg accepts,
 *     not what the standard says. */
#include <string.h>

#include "image.h"

enum {
    SOF0 = 0xC0, SOF1 = 0xC1, SOF2 = 0xC2, DHT = 0xC4, DAC = 0xCC, RST0 = 0xD0, RST7 = 0xD7,
    SOI = 0xD8, EOI = 0xD9, SOS = 0xDA, DQT = 0xDB, DRI = 0xDD, APP0 = 0xE0, APP1 = 0xE1,
    APP14 = 0xEE, TEM = 0x01
};
enum { MAX_SCANS = 100 };            /* progressive files have about ten */

typedef struct { int id, h, v, table; bool seen; } Component;

typedef struct {
    File      f;
    size_t    pos;                   /* of the byte to be read next */
    uint8_t  *out;                   /* the clean copy */
    size_t    n_out;
    int       marker;                /* of the frame; 0: none yet */
    int       n_components, w, h, n_scans;
    Component c[4];
    bool      dqt[4], dc[4], ac[4];  /* tables that were defined */
    bool      jfif;
    int       adobe;                 /* Adobe's colour transform; -1: no such segment */
    uint64_t  n_entropy;             /* bytes of entropy-coded data */
} Walk;

static void keep_marker(Walk *w, int marker)
{
    w->out[w->n_out++] = 0xFF;
    w->out[w->n_out++] = (uint8_t)marker;
}

static void keep_part(Walk *w, const uint8_t *bytes, size_t n)
{
    memcpy(w->out + w->n_out, bytes, n);
    w->n_out += n;
}

/* Position in the file, for messages. */
static size_t at(const Walk *w, const uint8_t *p) { return (size_t)(p - w->f.bytes); }

/* === Segments: s is the body, n its length ==================================================== */

static void check_dqt(Walk *w, const uint8_t *s, size_t n)
{
    while (n > 0) {
        int    table = s[0] & 15, wide = s[0] >> 4;
        size_t size = wide ? 129 : 65;
        if (table > 3 || wide > 1 || size > n)
            image_corrupt(w->f, "JPEG", at(w, s), "quantisation table %d of %d bits", table,
                          8 << wide);
        w->dqt[table] = true;
        s += size;
        n -= size;
    }
}

static void check_dht(Walk *w, const uint8_t *s, size_t n)
{
    while (n > 0) {
        int    kind = s[0] >> 4, table = s[0] & 15;
        size_t total = 0;
        if (n < 17 || kind > 1 || table > 3)
            image_corrupt(w->f, "JPEG", at(w, s), "Huffman table %d of kind %d", table, kind);
        for (unsigned len = 1, code = 0; len <= 16; len++, code <<= 1) {
            total += s[len];
            code += s[len];
            if (s[len] && code >= 1u << len)
                image_corrupt(w->f, "JPEG", at(w, s), "Huffman table %d has too many codes", table);
        }
        if (total > 256 || 17 + total > n)
            image_corrupt(w->f, "JPEG", at(w, s), "Huffman table %d of %zu codes", table, total);
        (kind ? w->ac : w->dc)[table] = true;
        s += 17 + total;
        n -= 17 + total;
    }
}

static void check_frame(Walk *w, int marker, const uint8_t *s, size_t n)
{
    if (w->marker) image_corrupt(w->f, "JPEG", at(w, s), "a second frame");
    if (n < 6 || n != 6 + 3 * (size_t)s[5])
        image_corrupt(w->f, "JPEG", at(w, s), "frame header of %zu bytes", n);
    if (s[0] != 8) image_unsupported(w->f, scratch_string("JPEG with %d bits a sample", s[0]));
    w->marker = marker;
    w->h = (int)be16(s + 1);
    w->w = (int)be16(s + 3);
    w->n_components = s[5];
    if (w->n_components != 1 && w->n_components != 3 && w->n_components != 4)
        image_unsupported(w->f, scratch_string("JPEG with %d components", w->n_components));
    if (w->h == 0) image_unsupported(w->f, "JPEG whose height comes after its pixels");
    image_check_size(w->f, "JPEG", w->w, w->h);
    int h_max = 1, v_max = 1;
    for (int i = 0; i < w->n_components; i++) {
        const uint8_t *e = s + 6 + 3 * i;
        Component *c = &w->c[i];
        *c = (Component){ .id = e[0], .h = e[1] >> 4, .v = e[1] & 15, .table = e[2] };
        if (c->h < 1 || c->h > 4 || c->v < 1 || c->v > 4 || c->table > 3)
            image_corrupt(w->f, "JPEG", at(w, e), "component %d with sampling %dx%d, table %d",
                          i + 1, c->h, c->v, c->table);
        h_max = c->h > h_max ? c->h : h_max;
        v_max = c->v > v_max ? c->v : v_max;
    }
    for (int i = 0; i < w->n_components; i++)
        if (h_max % w->c[i].h || v_max % w->c[i].v)
            image_unsupported(w->f, scratch_string("JPEG with sampling %dx%d of %dx%d", w->c[i].h,
                                                   w->c[i].v, h_max, v_max));
}

/* A scan may use only what has been defined: the decoder would read tables that nobody wrote. */
static void check_scan(Walk *w, const uint8_t *s, size_t n)
{
    if (!w->marker) image_corrupt(w->f, "JPEG", at(w, s), "a scan before the frame header");
    if (n < 1 || s[0] < 1 || s[0] > 4 || n != 4 + 2 * (size_t)s[0])
        image_corrupt(w->f, "JPEG", at(w, s), "scan header of %zu bytes", n);
    if (++w->n_scans > MAX_SCANS)
        image_corrupt(w->f, "JPEG", at(w, s), "more than %d scans", MAX_SCANS);
    int  first = s[n - 3], last = s[n - 2], refine = s[n - 1] >> 4;
    bool progressive = w->marker == SOF2, dc = !progressive || (first == 0 && !refine);
    bool ac = !progressive || first > 0;
    if (progressive && (last > 63 || first > last))
        image_corrupt(w->f, "JPEG", at(w, s), "a scan of coefficients %d to %d", first, last);
    for (int i = 0; i < s[0]; i++) {
        int        id = s[1 + 2 * i], t = s[2 + 2 * i];
        Component *c = NULL;
        for (int k = 0; k < w->n_components && !c; k++)
            if (w->c[k].id == id) c = &w->c[k];
        if (!c)
            image_corrupt(w->f, "JPEG", at(w, s), "a scan of component %d, not in the frame", id);
        if (t >> 4 > 3 || (t & 15) > 3 || (dc && !w->dc[t >> 4]) || (ac && !w->ac[t & 15]))
            image_corrupt(w->f, "JPEG", at(w, s), "a scan with Huffman tables %d and %d: "
                          "not defined", t >> 4, t & 15);
        if (!w->dqt[c->table])
            image_corrupt(w->f, "JPEG", at(w, s), "quantisation table %d is not defined", c->table);
        c->seen |= first == 0;
    }
}

/* === The walk ================================================================================= */

/* Steps over entropy-coded data; pos is then at the FF of the marker that ends it. */
static void skip_entropy(Walk *w)
{
    const uint8_t *b = w->f.bytes;
    while (w->pos < w->f.n) {
        const uint8_t *ff = memchr(b + w->pos, 0xFF, w->f.n - w->pos);
        if (!ff) break;
        size_t start = at(w, ff), p = start + 1;
        while (p < w->f.n && b[p] == 0xFF)
            p++;
        if (p == w->f.n) break;
        if (b[p] != 0 && (b[p] < RST0 || b[p] > RST7)) {
            w->pos = start;
            return;
        }
        w->pos = p + 1;
    }
    image_truncated(w->f, "JPEG", "the end-of-image marker");
}

/* The next marker: bytes in front of its FF are padding, FF FF is filling. */
static int next_marker(Walk *w)
{
    const uint8_t *b = w->f.bytes;
    for (;;) {
        while (w->pos < w->f.n && b[w->pos] != 0xFF)
            w->pos++;
        while (w->pos < w->f.n && b[w->pos] == 0xFF)
            w->pos++;
        if (w->pos >= w->f.n) image_truncated(w->f, "JPEG", "the end-of-image marker");
        if (b[w->pos++] != 0) return b[w->pos - 1];
    }
}

/* Checks a segment and keeps it if the decoder needs it. */
static void segment(Walk *w, Parsed *p, int marker, const uint8_t *s, size_t n)
{
    bool needed = true;
    if (marker == SOF0 || marker == SOF1 || marker == SOF2)
        check_frame(w, marker, s, n);
    else if (marker == DHT)
        check_dht(w, s, n);
    else if (marker >= SOF0 && marker <= 0xCF && marker != DAC)
        image_unsupported(w->f, marker == 0xC3 ? "lossless JPEG"
                                               : "arithmetic or hierarchical JPEG");
    else if (marker == DQT)
        check_dqt(w, s, n);
    else if (marker == SOS)
        check_scan(w, s, n);
    else if (marker == DRI)
        needed = n == 2;
    else
        needed = false;
    if (marker == APP0 && n >= 14 && memcmp(s, "JFIF", 5) == 0) w->jfif = true;
    if (marker == APP14 && n >= 12 && memcmp(s, "Adobe", 5) == 0) w->adobe = s[11];
    if (marker == APP1 && !p->exif && n > 6 && memcmp(s, "Exif\0", 6) == 0) {
        p->exif = s + 6;
        p->n_exif = n - 6;
    }
    if (!needed) return;
    keep_marker(w, marker);
    keep_part(w, s - 2, n + 2);      /* length and body */
    if (marker == SOS) {
        size_t start = w->pos;
        skip_entropy(w);
        keep_part(w, w->f.bytes + start, w->pos - start);
        w->n_entropy += w->pos - start;
    }
}

/* Every component must have come, and no block's first coefficient takes less than a bit: a small
 * file that promises a huge picture ends here. */
static void check_complete(const Walk *w)
{
    if (!w->marker || !w->n_scans) image_corrupt(w->f, "JPEG", w->pos, "it ends without a picture");
    for (int i = 0; i < w->n_components; i++)
        if (!w->c[i].seen)
            image_corrupt(w->f, "JPEG", w->pos, "it ends without component %d of %d", i + 1,
                          w->n_components);
    uint64_t n_blocks = (uint64_t)((w->w + 7) / 8) * (uint64_t)((w->h + 7) / 8);
    uint64_t sampled = n_blocks / 16;    /* component 1 may be a quarter as wide and high */
    if (8 * w->n_entropy < sampled)
        image_corrupt(w->f, "JPEG", w->pos, "%llu bytes of data cannot hold %d x %d pixels",
                      (unsigned long long)w->n_entropy, w->w, w->h);
}

/* What stb_image takes: a plane for each component, and its coefficients if progressive. */
static size_t memory_needed(const Walk *w)
{
    size_t all = 0;
    int    h_max = 1, v_max = 1;
    for (int i = 0; i < w->n_components; i++) {
        h_max = w->c[i].h > h_max ? w->c[i].h : h_max;
        v_max = w->c[i].v > v_max ? w->c[i].v : v_max;
    }
    size_t mcu_x = ((size_t)w->w + 8 * h_max - 1) / (8 * h_max);
    size_t mcu_y = ((size_t)w->h + 8 * v_max - 1) / (8 * v_max);
    for (int i = 0; i < w->n_components; i++)
        all += mcu_x * w->c[i].h * 8 * mcu_y * w->c[i].v * 8 * (w->marker == SOF2 ? 3 : 1);
    return all + (1 << 17);          /* tables */
}

/* As libjpeg's default_decompress_parms. */
static JpegColor color_of(const Walk *w)
{
    const Component *c = w->c;
    if (w->n_components == 1) return JPEG_GREY;
    if (w->n_components == 4) return w->adobe == 2 ? JPEG_YCCK : JPEG_CMYK;
    if (w->jfif || w->adobe > 0) return JPEG_YCC;
    bool rgb = c[0].id == 'R' && c[1].id == 'G' && c[2].id == 'B';
    return w->adobe == 0 || rgb ? JPEG_RGB : JPEG_YCC;
}

/* Walks through the file to EOI. Fills p: info, exif, clean, memory. */
void jpeg_parse(Parsed *p, File f)
{
    Walk w = { .f = f, .pos = 2, .adobe = -1, .out = scratch_bytes(add_size(f.n, 64)) };
    keep_marker(&w, SOI);
    for (int marker; (marker = next_marker(&w)) != EOI; ) {
        if (marker == TEM || (marker >= RST0 && marker <= RST7)) continue;
        if (marker == SOI) image_corrupt(f, "JPEG", w.pos, "a second start-of-image marker");
        if (f.n - w.pos < 2) image_truncated(f, "JPEG", "the end-of-image marker");
        size_t n = be16(f.bytes + w.pos);
        if (n < 2) image_corrupt(f, "JPEG", w.pos, "a segment of %zu bytes", n);
        if (n > f.n - w.pos) image_truncated(f, "JPEG", "the end-of-image marker");
        const uint8_t *body = f.bytes + w.pos + 2;
        w.pos += n;
        segment(&w, p, marker, body, n - 2);
    }
    keep_marker(&w, EOI);
    check_complete(&w);
    p->info = (ImageInfo){ .format = "JPEG", .w = w.w, .h = w.h, .channels = w.n_components,
                           .bits = 8 };
    p->clean = w.out;
    p->n_clean = w.n_out;
    p->memory = memory_needed(&w);
    p->color = color_of(&w);
}

/* === From coefficients to samples ============================================================= */

/* Eight coefficients to eight samples of one dimension, as libjpeg's jidctint.c, after Loeffler,
 * Ligtenberg and Moschytz. Constants have 13 fractional bits. Unsigned, as damaged ones may
 * wrap. */
static inline void idct_1d(uint32_t out[8], const uint32_t in[8])
{
    uint32_t z1 = (in[2] + in[6]) * 4433;                             /* even part */
    uint32_t t2 = z1 - in[6] * 15137, t3 = z1 + in[2] * 6270;
    uint32_t t0 = (in[0] + in[4]) * 8192, t1 = (in[0] - in[4]) * 8192;
    uint32_t a0 = t0 + t3, a3 = t0 - t3, a1 = t1 + t2, a2 = t1 - t2;

    uint32_t p0 = in[7], p1 = in[5], p2 = in[3], p3 = in[1];          /* odd part */
    uint32_t y1 = p0 + p3, y2 = p1 + p2, y3 = p0 + p2, y4 = p1 + p3, y5 = (y3 + y4) * 9633;
    y1 *= (uint32_t)-7373;
    y2 *= (uint32_t)-20995;
    y3 = y3 * (uint32_t)-16069 + y5;
    y4 = y4 * (uint32_t)-3196 + y5;
    p0 = p0 * 2446 + y1 + y3;
    p1 = p1 * 16819 + y2 + y4;
    p2 = p2 * 25172 + y2 + y3;
    p3 = p3 * 12299 + y1 + y4;

    out[0] = a0 + p3, out[7] = a0 - p3;
    out[1] = a1 + p2, out[6] = a1 - p2;
    out[2] = a2 + p1, out[5] = a2 - p1;
    out[3] = a3 + p0, out[4] = a3 - p0;
}

static inline uint8_t clamp8(int32_t v) { return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v; }

/* A block of coefficients, row by row, to 8x8 samples: columns first, then rows. */
void jpeg_idct(uint8_t *out, int stride, short data[64])
{
    uint32_t mid[64], in[8], sum[8];
    int      any = 0;
    for (int i = 1; i < 64; i++)
        any |= data[i];
    if (!any) {                                              /* the mean alone: frequent */
        uint8_t flat = clamp8(((data[0] + 4) >> 3) + 128);
        for (int y = 0; y < 8; y++)
            memset(out + y * stride, flat, 8);
        return;
    }
    for (int x = 0; x < 8; x++) {
        for (int i = 0; i < 8; i++)
            in[i] = (uint32_t)data[8 * i + x];
        if (!(in[1] | in[2] | in[3] | in[4] | in[5] | in[6] | in[7])) {      /* the same, quicker */
            for (int i = 0; i < 8; i++)
                mid[8 * i + x] = in[0] * 4;
            continue;
        }
        idct_1d(sum, in);
        for (int i = 0; i < 8; i++)
            mid[8 * i + x] = (uint32_t)((int32_t)(sum[i] + (1 << 10)) >> 11);    /* 2 bits kept */
    }
    for (int y = 0; y < 8; y++, out += stride) {
        idct_1d(sum, mid + 8 * y);
        for (int i = 0; i < 8; i++)
            out[i] = clamp8(((int32_t)(sum[i] + (1 << 17)) >> 18) + 128);
    }
}

/* === From samples to pixels =================================================================== */

/* Twice as wide, each output three parts the nearer and one part the farther sample. */
static void upsample_h2v1(uint8_t *restrict out, const uint8_t *restrict a, int n)
{
    out[0] = a[0];
    out[1] = (uint8_t)((3 * a[0] + a[1] + 2) >> 2);
    for (int i = 1; i < n - 1; i++) {
        out[2 * i] = (uint8_t)((3 * a[i] + a[i - 1] + 1) >> 2);
        out[2 * i + 1] = (uint8_t)((3 * a[i] + a[i + 1] + 2) >> 2);
    }
    out[2 * n - 2] = (uint8_t)((3 * a[n - 1] + a[n - 2] + 1) >> 2);
    out[2 * n - 1] = a[n - 1];
}

/* Twice as high, too: first down the columns (near and far row), then along the row. */
static void upsample_h2v2(uint8_t *restrict out, const uint8_t *restrict a,
                          const uint8_t *restrict b, int n)
{
#define COL(i) (3 * a[i] + b[i])
    out[0] = (uint8_t)((4 * COL(0) + 8) >> 4);
    out[1] = (uint8_t)((3 * COL(0) + COL(1) + 7) >> 4);
    for (int i = 1; i < n - 1; i++) {
        out[2 * i] = (uint8_t)((3 * COL(i) + COL(i - 1) + 8) >> 4);
        out[2 * i + 1] = (uint8_t)((3 * COL(i) + COL(i + 1) + 7) >> 4);
    }
    out[2 * n - 2] = (uint8_t)((3 * COL(n - 1) + COL(n - 2) + 8) >> 4);
    out[2 * n - 1] = (uint8_t)((4 * COL(n - 1) + 7) >> 4);
#undef COL
}

/* Row y of the picture from a plane; the result is in buffer, or the plane's own row. */
static const uint8_t *upsample(uint8_t *buffer, const JpegPlane *p, int y)
{
    int  row = y / p->v_step, other = y % 2 ? row + 1 : row - 1;
    bool h2 = p->h_step == 2 && p->w > 2;
    other = other < 0 ? 0 : other >= p->h ? p->h - 1 : other;
    const uint8_t *a = p->data + (size_t)row * p->stride, *b = p->data + (size_t)other * p->stride;
    if (p->h_step == 1 && p->v_step == 1) return a;
    if (h2 && p->v_step == 1)
        upsample_h2v1(buffer, a, p->w);
    else if (h2 && p->v_step == 2)
        upsample_h2v2(buffer, a, b, p->w);
    else if (p->h_step == 1 && p->v_step == 2)
        for (int x = 0; x < p->w; x++)
            buffer[x] = (uint8_t)((3 * a[x] + b[x] + (y % 2 ? 2 : 1)) >> 2);
    else
        for (int x = 0; x < p->w * p->h_step; x++)
            buffer[x] = a[x / p->h_step];
    return buffer;
}

/* ITU-R BT.601 as in JFIF, each product rounded as in libjpeg's tables: R = y + 1.402 cr,
 * G = y - 0.344 cb - 0.714 cr, B = y + 1.772 cb. The constants with 16 fractional bits are written
 * as whole numbers and rests of 15 bits (1.402 is 1 + 26345/65536), so that compilers can use the
 * 16-bit multiplications that all SIMD sets have. */
static void ycc_to_rgb(uint8_t *out, const uint8_t *luma, const uint8_t *blue, const uint8_t *red,
                       int n)
{
    enum { CHUNK = 64 };
    uint8_t r[CHUNK], g[CHUNK], b[CHUNK];
    for (int x = 0; x < n; x += CHUNK) {
        int m = n - x < CHUNK ? n - x : CHUNK;
        for (int i = 0; i < m; i++) {
            int16_t y = luma[x + i], cb = (int16_t)(blue[x + i] - 128);
            int16_t cr = (int16_t)(red[x + i] - 128);
            r[i] = clamp8(y + cr + ((26345 * cr + 32768) >> 16));
            g[i] = clamp8(y - cr + ((-22554 * cb + 18734 * cr + 32768) >> 16));
            b[i] = clamp8(y + 2 * cb + ((-14942 * cb + 32768) >> 16));
        }
        for (int i = 0; i < m; i++, out += 3) {
            out[0] = r[i];
            out[1] = g[i];
            out[2] = b[i];
        }
    }
}

/* c of 255 parts, and rounded: for light that passes the ink and then the black. */
static inline uint8_t times(int c, int k)
{
    int t = c * k + 128;
    return (uint8_t)((t + (t >> 8)) >> 8);
}

typedef struct { Image out; const JpegPlane *plane; JpegColor color; uint8_t *buffers; } Rows;

static void row_task(void *ctx, int y, int worker)
{
    const Rows    *r = ctx;
    int            w = r->out.w, n = r->color == JPEG_GREY ? 1 : r->color >= JPEG_CMYK ? 4 : 3;
    uint8_t       *out = r->out.rgb + 3 * (size_t)y * w;
    const uint8_t *s[4];
    for (int k = 0; k < n; k++)
        s[k] = upsample(r->buffers + (4 * (size_t)worker + k) * (w + 8), &r->plane[k], y);
    if (r->color == JPEG_YCC || r->color == JPEG_YCCK)
        ycc_to_rgb(out, s[0], s[1], s[2], w);
    else
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++)
                out[3 * x + c] = s[n == 1 ? 0 : c][x];
    if (r->color == JPEG_YCCK)
        for (int x = 0; x < 3 * w; x++)
            out[x] = (uint8_t)(255 - out[x]);
    if (n == 4)
        for (int x = 0; x < 3 * w; x++)
            out[x] = times(out[x], s[3][x / 3]);
}

void jpeg_pixels(Image out, const JpegPlane *planes, JpegColor color)
{
    Rows r = { out, planes, color, scratch_bytes(mul_size(4 * (size_t)n_threads(), out.w + 8u)) };
    parallel_for(out.h, row_task, &r);
}
