/* formats.c -- which kind of picture a file is, its limits, and EXIF's orientation.
 *
 * A file is known by its first bytes, never by its name. mm reads JPEG, PNG, BMP and PNM; of every
 * other format that people have pictures in it says what it is and the line that converts it.
 *
 * Easy to get wrong:
 *   - "BM" and "P5" also begin texts: the next bytes must fit as well.
 *   - EXIF is a TIFF file in a nutshell: offsets that point anywhere, two byte orders. Only the
 *     first directory is read, nothing is followed; what does not fit means "not rotated". */
#include <string.h>
#include <unistd.h>

#include "image.h"

static bool starts(const uint8_t *bytes, size_t n, const char *magic, size_t n_magic)
{
    return n >= n_magic && memcmp(bytes, magic, n_magic) == 0;
}
#define STARTS(magic) starts(bytes, n, magic, sizeof magic - 1)

static bool is_bmp(const uint8_t *bytes, size_t n)
{
    static const uint8_t header_sizes[] = { 12, 40, 52, 56, 64, 108, 124 };
    return STARTS("BM") && n >= 18 && memchr(header_sizes, bytes[14], sizeof header_sizes)
        && !bytes[15] && !bytes[16] && !bytes[17];
}

static bool is_pnm(const uint8_t *bytes, size_t n, const char *kinds)
{
    return n >= 3 && bytes[0] == 'P' && bytes[1] && strchr(kinds, bytes[1])
        && bytes[2] && strchr(" \t\r\n#", bytes[2]);
}

Format image_format(const uint8_t *bytes, size_t n)
{
    if (STARTS("\xff\xd8\xff")) return JPEG;
    if (STARTS("\x89PNG\r\n\x1a\n")) return PNG;
    if (is_bmp(bytes, n)) return BMP;
    return is_pnm(bytes, n, "2356") ? PNM : NO_PICTURE;
}

bool image_is_picture(const uint8_t *bytes, size_t n)
{
    return image_format(bytes, n) != NO_PICTURE;
}

/* === Failures ================================================================================= */

/* What a file is that mm does not read; NULL if it is none of these. */
static const char *foreign(const uint8_t *bytes, size_t n)
{
    static const struct { size_t at; const char *magic, *format; } KNOWN[] = {
        { 8, "WEBP", "WebP" }, { 0, "GIF8", "GIF" }, { 0, "8BPS", "PSD" }, { 0, "%PDF", "PDF" },
        { 4, "ftypavif", "AVIF" }, { 4, "ftypavis", "AVIF" }, { 4, "ftyphei", "HEIC" },
        { 4, "ftyphev", "HEIC" }, { 4, "ftypmif1", "HEIC" }, { 4, "ftypmsf1", "HEIC" },
        { 4, "JXL \r\n\x87\n", "JPEG XL" }, { 0, "\xff\x0a", "JPEG XL" },
        { 4, "jP  \r\n\x87\n", "JPEG 2000" }, { 0, "qoif", "QOI" },
        { 0, "#?RADIANCE", "Radiance HDR" }, { 0, "v/1\x01", "OpenEXR" }, { 0, "<svg", "SVG" },
        { 0, "farbfeld", "farbfeld" },
    };
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++)
        if (n >= KNOWN[i].at && starts(bytes + KNOWN[i].at, n - KNOWN[i].at, KNOWN[i].magic,
                                       strlen(KNOWN[i].magic)))
            return KNOWN[i].format;
    if (starts(bytes, n, "II*\0", 4) || starts(bytes, n, "MM\0*", 4)) return "TIFF";
    if (starts(bytes, n, "\0\0\1\0", 4)) return "ICO";
    if (is_pnm(bytes, n, "147")) return bytes[1] == '7' ? "PAM" : "PBM";
    if (STARTS("<?xml") && memmem(bytes, n < 1024 ? n : 1024, "<svg", 4)) return "SVG";
    return NULL;
}

/* Only what is surely a picture: a folder may have PDFs in it, and texts that begin with "<svg". */
const char *image_kind(const uint8_t *bytes, size_t n)
{
    static const char *const NAME[] = { [JPEG] = "JPEG", [PNG] = "PNG", [BMP] = "BMP",
                                        [PNM] = "PNM" };
    static const char PICTURES[] = "WebP GIF AVIF HEIC JPEG XL JPEG 2000 TIFF";
    Format format = image_format(bytes, n);
    if (format != NO_PICTURE) return NAME[format];
    const char *other = n >= 12 ? foreign(bytes, n) : NULL;
    return other && strstr(PICTURES, other) ? other : NULL;
}

/* A name that can stand in a command line as it is; else a word in its place. */
static const char *shell_name(const char *name)
{
    const char *plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/+-";
    return *name && *name != '-' && strspn(name, plain) == strlen(name) && strlen(name) < 100
        ? name : "FILE";
}

static const char *conversion(File f, const char *format)
{
    const char *name = shell_name(f.name);
    if (format && strcmp(format, "HEIC") == 0)
        return scratch_string("make a PNG of it: heif-convert %s out.png", name);
    if (format && strcmp(format, "SVG") == 0)
        return scratch_string("make a PNG of it: rsvg-convert -o out.png %s", name);
    return scratch_string("make a PNG of it: magick %s out.png", name);
}

_Noreturn void image_unknown(File f)
{
    const char *format = foreign(f.bytes, f.n);
    if (format)
        fail("image.format", conversion(f, format), "%s: its format is %s; mm reads JPEG, PNG, BMP "
             "and PNM", quoted(f.name), format);
    size_t blank = 0;
    while (blank < f.n && f.bytes[blank] && strchr(" \t\r\n", f.bytes[blank]))
        blank++;
    if (blank < f.n && f.bytes[blank] == '<')
        fail("image.format", "was a web page saved in place of the picture?",
             "%s: not a picture but a page of HTML or XML", quoted(f.name));
    fail("image.format", NULL, "%s: not a picture that mm reads (JPEG, PNG, BMP, PNM); it begins "
         "with \"%s\"", quoted(f.name), quoted_n((const char *)f.bytes, f.n < 12 ? f.n : 12));
}

_Noreturn void image_unsupported(File f, const char *what)
{
    fail("image.format", conversion(f, NULL), "%s: %s is not read", quoted(f.name), what);
}

_Noreturn void image_truncated(File f, const char *format, const char *missing)
{
    fail("image.truncated", "the file is not complete: copy or download it again",
         "%s: %s data ends at byte %zu, before %s", quoted(f.name), format, f.n, missing);
}

_Noreturn void image_corrupt(File f, const char *format, size_t at, const char *fmt, ...)
{
    char    what[300];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    fail("image.corrupt", "the file is damaged: copy or download it again",
         "%s: damaged %s at byte %zu: %s", quoted(f.name), format, at, what);
}

/* === Limits =================================================================================== */

void image_check_size(File f, const char *format, int64_t w, int64_t h)
{
    int64_t most = f.options.max_pixels > 0 ? f.options.max_pixels : 100000000;
    if (w < 1 || h < 1)
        fail("image.corrupt", "the file is damaged: copy or download it again",
             "%s: damaged %s: a picture of %lld x %lld pixels", quoted(f.name), format,
             (long long)w, (long long)h);
    if (w > MAX_SIDE || h > MAX_SIDE)
        fail("image.toobig", NULL, "%s: %lld x %lld pixels; a side may have %d",
             quoted(f.name), (long long)w, (long long)h, MAX_SIDE);
    if (w * h > most)
        fail("image.toobig", "--max-pixels N sets the limit",
             "%s: %lld x %lld pixels are more than the limit of %lld", quoted(f.name),
             (long long)w, (long long)h, (long long)most);
}

void image_check_memory(File f, size_t bytes)
{
    long   pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    size_t half = pages > 0 && size > 0 ? mul_size((size_t)pages, (size_t)size) / 2 : SIZE_MAX;
    if (bytes > half)
        fail("image.toobig", NULL, "%s: decoding takes %zu MB; half of this machine's memory is "
             "%zu MB", quoted(f.name), bytes >> 20, half >> 20);
}

/* === EXIF ===================================================================================== */

int exif_orientation(const uint8_t *tiff, size_t n)
{
    if (!tiff || n < 14) return 1;
    bool big = tiff[0] == 'M';
    if (memcmp(tiff, big ? "MM\0*" : "II*\0", 4) != 0) return 1;
    size_t at = big ? be32(tiff + 4) : le32(tiff + 4);
    if (at > n - 2) return 1;
    const uint8_t *entry = tiff + at + 2;
    size_t count = big ? be16(tiff + at) : le16(tiff + at), fit = (n - at - 2) / 12;
    for (size_t i = 0; i < count && i < fit; i++, entry += 12) {
        uint32_t tag = big ? be16(entry) : le16(entry);
        uint32_t type = big ? be16(entry + 2) : le16(entry + 2);
        if (tag != 0x0112) continue;
        uint32_t v = type == 3 ? (big ? be16(entry + 8) : le16(entry + 8))      /* SHORT */
                   : type == 4 ? (big ? be32(entry + 8) : le32(entry + 8)) : 1; /* LONG */
        return v >= 1 && v <= 8 ? (int)v : 1;
    }
    return 1;
}
