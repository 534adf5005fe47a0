/* image.c -- pictures from files to RGB: recognise, check, decode, turn upright, crop.
 *
 *   bytes -> structure checked (jpeg.c, png.c, bitmap.c) -> size and memory checked
 *         -> pixels (stb_image.c for JPEG and PNG) -> EXIF orientation -> [h, w, 3]
 *
 * A picture comes from anywhere, so nothing in it is believed: every length is held against the
 * bytes that are there, every size against the limits, before memory is taken. What fails, fails
 * the item (image.empty .format .truncated .corrupt .toobig), never the run.
 *
 * The pixels are those of PIL's ImageOps.exif_transpose(Image.open(f)).convert("RGB"), with the
 * exceptions of mm.1 (PICTURES), of which 16-bit grey by its high byte is the one that shows.
 *
 * Easy to get wrong:
 *   - convert("RGB") drops the alpha channel, it does not composite: what shines through is
 *     whatever colour the transparent pixels happen to have.
 *   - Orientations 5 to 8 exchange width and height. 6 is what phones write for portraits.
 *   - The centre crop of an odd difference: the reference rounds down when it cuts, and up when it
 *     pads (image_transforms.center_crop). */
#include <string.h>

#include "image.h"

/* Checks the whole structure; fails the item if there is anything wrong with it. */
static Format parse(Parsed *p, File f)
{
    Format format = image_format(f.bytes, f.n);
    if (f.n == 0) fail("image.empty", NULL, "%s: an empty file", quoted(f.name));
    if (format == JPEG) jpeg_parse(p, f);
    else if (format == PNG) png_parse(p, f);
    else if (format == BMP) bmp_parse(p, f);
    else if (format != PNM) image_unknown(f);
    else if (!pnm_parse(p, f)) image_truncated(f, "PNM", "the last pixel");
    p->info.orientation = exif_orientation(p->exif, p->n_exif);
    return format;
}

ImageInfo image_info(const char *name, const uint8_t *bytes, size_t n)
{
    Parsed p = { 0 };
    ImageOptions any = { .max_pixels = (int64_t)MAX_SIDE * MAX_SIDE };
    parse(&p, (File){ .name = name, .bytes = bytes, .n = n, .options = any, .info_only = true });
    return p.info;
}

size_t image_pnm_length(const char *name, const uint8_t *bytes, size_t n, ImageOptions o)
{
    File   f = { .name = name, .bytes = bytes, .n = n, .options = o, .stream = true };
    Parsed p = { 0 };
    if (n < 3) return 0;
    if (image_format(bytes, n) != PNM) image_unknown(f);
    return pnm_parse(&p, f) ? p.end : 0;
}

/* === Pixels =================================================================================== */

Image image_new(int w, int h)
{
    return (Image){ w, h, scratch_bytes(mul_size(mul_size((size_t)w, (size_t)h), 3)) };
}

static void decode_with_stb(Image out, const Parsed *p, File f, Format format)
{
    const char *reason = NULL;
    int         w = out.w, h = out.h;
    JpegPlane   plane[4];
    uint8_t    *rgb = NULL;
    if (format == JPEG && stb_jpeg(plane, p->clean, p->n_clean, p->memory, &reason))
        jpeg_pixels(out, plane, p->color);
    if (format == PNG && (rgb = stb_png(p->clean, p->n_clean, p->memory, &w, &h, &reason)))
        memcpy(out.rgb, rgb, 3 * (size_t)out.w * out.h);
    if (reason)
        fail("image.corrupt", "the file is damaged: copy or download it again",
             "%s: damaged %s: %s", quoted(f.name), p->info.format, reason);
    if (w != out.w || h != out.h)
        bug("%s: decoded to %d x %d, its header says %d x %d", quoted(f.name), w, h, out.w, out.h);
}

typedef struct { Image out, in; bool swap, from_right, from_bottom; } Turn;
enum { BAND = 16 };                  /* rows of one task, and pixels read in a row when swapping */

/* A band of output rows, column by column: each pixel from where it is in the input. */
static void turn_band(void *ctx, int band, int worker)
{
    const Turn    *t = ctx;
    const uint8_t *in = t->in.rgb;
    uint8_t       *out = t->out.rgb;
    int w = t->out.w, y0 = band * BAND, y1 = y0 + BAND < t->out.h ? y0 + BAND : t->out.h;
    (void)worker;
    for (int x = 0; x < w; x++)
        for (int y = y0; y < y1; y++) {
            int u = t->swap ? y : x, v = t->swap ? x : y;
            u = t->from_right ? t->in.w - 1 - u : u;
            v = t->from_bottom ? t->in.h - 1 - v : v;
            memcpy(out + 3 * ((size_t)y * w + x), in + 3 * ((size_t)v * t->in.w + u), 3);
        }
}

/* The picture as its orientation, 2 to 8, means it. */
static void upright(Image out, Image in, int orientation)
{
    Turn t = { out, in, .swap = orientation >= 5,
               .from_right = strchr("\2\3\7\10", orientation) != NULL,
               .from_bottom = strchr("\3\4\6\7", orientation) != NULL };
    parallel_for((out.h + BAND - 1) / BAND, turn_band, &t);
}

Image image_decode(const char *name, const uint8_t *bytes, size_t n, ImageOptions o)
{
    File   f = { .name = name, .bytes = bytes, .n = n, .options = o };
    Parsed p = { 0 };
    Format format = parse(&p, f);
    int    w = p.info.w, h = p.info.h, turn = o.ignore_exif ? 1 : p.info.orientation;
    image_check_memory(f, add_size(p.memory, mul_size(6 * (size_t)w, (size_t)h)));

    Image  out = turn >= 5 ? image_new(h, w) : image_new(w, h);
    size_t mark = scratch_mark();
    Image  stored = turn > 1 ? image_new(w, h) : out;
    if (format == BMP) bmp_pixels(stored, &p, f);
    else if (format == PNM) pnm_pixels(stored, &p, f);
    else decode_with_stb(stored, &p, f, format);
    if (turn > 1) upright(out, stored, turn);
    scratch_reset(mark);
    return out;
}

/* === Crop ===================================================================================== */

/* Copies what of `in` falls into out when its corner is at (left, top) of the output. */
static void paste(Image out, Image in, int left, int top)
{
    for (int y = 0; y < out.h; y++) {
        int v = y - top, x0 = left > 0 ? left : 0, x1 = left + in.w < out.w ? left + in.w : out.w;
        if (v >= 0 && v < in.h && x0 < x1)
            memcpy(out.rgb + 3 * ((size_t)y * out.w + x0),
                   in.rgb + 3 * ((size_t)v * in.w + (x0 - left)), 3 * (size_t)(x1 - x0));
    }
}

/* Where the input begins in an output of m: center_crop cuts at (n - m) // 2. Where any side is too
 * small, it first pads: the larger of n and m, with the input at ceil of half the difference. */
static int crop_start(int n, int m)
{
    int cut = n >= m ? (n - m) / 2 : -((m - n + 1) / 2);     /* (n - m) // 2 */
    int pad = m > n ? (m - n + 1) / 2 : 0, start = cut + pad;
    return pad - (start > 0 ? start : 0);
}

Image image_pad(Image in, int w, int h, const uint8_t ground[3])
{
    Image out = image_new(w, h);
    for (size_t i = 0; i < 3 * (size_t)w * (size_t)h; i++) out.rgb[i] = ground[i % 3];
    paste(out, in, (w - in.w) / 2, (h - in.h) / 2);
    return out;
}

Image image_crop(Image in, int w, int h)
{
    Image out = image_new(w, h);
    memset(out.rgb, 0, 3 * (size_t)w * h);
    paste(out, in, crop_start(in.w, w), crop_start(in.h, h));
    return out;
}
