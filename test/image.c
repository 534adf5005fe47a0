/* test/image.c -- pictures: resampling and decoding against Pillow, preprocessing against
 * transformers, and that no damaged file gets further than an error.
 *
 * The answers stand in test/data/image/ and were written by test/reference/resize.py and
 * pictures.py. All must be equal, to the last bit: pixels of a JPEG, too.
 *
 * Usage: image [--seconds N]: N seconds of random damage instead of the short run. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../kernels/kernels.h"
#include "../mm.h"

#define DATA "test/data/image/"
static int n_passed, n_failed, n_skipped;

static bool check(bool ok, const char *what, const char *detail)
{
    n_passed += ok;
    n_failed += !ok;
    if (!ok) printf("FAILED: %s: %s\n", what, detail);
    return ok;
}

/* === Small tools ============================================================================== */

static uint8_t *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *bytes = calloc(1, *n + 1);
    if (fread(bytes, 1, *n, f) != *n) exit(1);
    fclose(f);
    return bytes;
}

static uint32_t fnv(const void *bytes, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)bytes)[i]) * 16777619u;
    return h;
}

static uint32_t fnv_image(Image i) { return fnv(i.rgb, 3 * (size_t)i.w * i.h); }

/* A picture of the generator's bytes, as resize.py makes them. */
static Image lcg_image(int w, int h)
{
    Image    image = { w, h, scratch_bytes(3 * (size_t)w * h) };
    uint32_t s = 12345;
    for (size_t i = 0; i < 3 * (size_t)w * h; i++) {
        s = s * 1664525u + 1013904223u;
        image.rgb[i] = (uint8_t)(s >> 24);
    }
    return image;
}

/* Hex digits at *s to bytes (scratch), up to the first other character. */
static uint8_t *unhex(const char **s, size_t *n)
{
    size_t   len = strspn(*s, "0123456789abcdef") / 2;
    uint8_t *out = scratch_bytes(len + 1);
    for (*n = 0; *n < len; *s += 2) {
        unsigned v;
        sscanf(*s, "%2x", &v);
        out[(*n)++] = (uint8_t)v;
    }
    *s += strspn(*s, " ");
    return out;
}

/* Decodes; the code of what went wrong, or "" and *out. */
static const char *decode(Image *out, const uint8_t *bytes, size_t n, ImageOptions o)
{
    jmp_buf place;
    const char *code = "";
    Image image = { 0 };
    if (setjmp(place) == 0) {
        landing = &place;
        image = image_decode("t.img", bytes, n, o);
        if (out) *out = image;
    } else {
        code = item_error.code;
    }
    landing = NULL;
    return code;
}

static char *data_file(const char *name)
{
    size_t n;
    char *text = (char *)read_file(scratch_string(DATA "%s", name), &n);
    check(text != NULL, name, "cannot be read");
    return text ? text : (char *)calloc(1, 1);
}

static const char *assets(void)
{
    return getenv("MM_ASSETS") ? getenv("MM_ASSETS") : "../shared/assets";
}

/* === Resampling =============================================================================== */

static void test_resize(void)
{
    char *all = data_file("resize.txt");
    int   w, h, w2, h2, f, used, vertical_first = 0;
    for (char *s = all; sscanf(s, "%d %d %d %d %d %n", &w, &h, &w2, &h2, &f, &used) == 5; ) {
        uint32_t want = (uint32_t)strtoul(s + used, &s, 16);
        size_t   mark = scratch_mark();
        uint32_t got = fnv_image(image_resize(lcg_image(w, h), w2, h2, (Filter)f));
        check(got == want, "resize", scratch_string("%dx%d to %dx%d, filter %d: %08x, Pillow "
                                                    "%08x", w, h, w2, h2, f, got, want));
        vertical_first += f != NEAREST && h > h2 && h - h2 > 2 * (w - w2) && w != w2;
        scratch_reset(mark);
    }
    check(n_passed >= 1000 && vertical_first >= 100, "resize", "too few cases");
    free(all);
}

/* === Decoding ================================================================================= */

static bool last_byte_counts(const char *name)
{
    return strncmp(name, "pnm-2", 5) && strncmp(name, "pnm-3", 5) && strncmp(name, "pnm-text", 8);
}

/* Every beginning of a good file must be refused as what it is: cut off. */
static void test_cut(const char *name, const uint8_t *bytes, size_t n)
{
    size_t end = n;
    if (!strcmp(name, "jpeg-trailing")) end -= 11;           /* what follows the picture */
    if (!last_byte_counts(name))                             /* the last number may be shorter */
        while (end > 0 && bytes[end - 1] != ' ' && (end == n || bytes[end - 1] != '\n')) end--;
    if (!strncmp(name, "bmp", 3)) end -= 3;              /* the last row's padding is optional */
    for (size_t cut = 0; cut < end; cut++) {
        size_t      mark = scratch_mark();
        uint8_t    *copy = memcpy(malloc(cut + 1), bytes, cut);
        const char *code = decode(NULL, copy, cut, (ImageOptions){ 0 });
        bool ok = !strcmp(code, cut ? "image.format" : "image.empty") && cut < 18;
        if (!ok && strcmp(code, "image.truncated"))
            check(false, name, scratch_string("cut at %zu of %zu: \"%s\"", cut, n, code));
        free(copy);
        scratch_reset(mark);
    }
    n_passed++;
}

static void test_picture(const char *line)
{
    char name[64];
    int  w, h, used;
    uint32_t hash;
    if (sscanf(line, "%63s %d %d %x %n", name, &w, &h, &hash, &used) != 4) return;
    const char *s = line + used;
    size_t      n;
    uint8_t    *file = unhex(&s, &n);
    Image       got = { 0 };
    const char *code = decode(&got, file, n, (ImageOptions){ 0 });
    if (!check(!*code, name, code) || !check(got.w == w && got.h == h, name, "size")) return;
    check(fnv_image(got) == hash, name, "pixels");
    if (!strcmp(name, "jpeg-exif-6") || !strcmp(name, "png-exif-6")) {
        decode(&got, file, n, (ImageOptions){ .ignore_exif = true });
        check(got.w == h && got.h == w, name, "not turned if EXIF is to be ignored");
        check(image_info("t.img", file, n).orientation == 6, name, "orientation in image_info");
    }
    if (!strcmp(name, "png-text")) {
        const char *text = image_info("t.img", file, n).text;
        check(text && !strcmp(text, "Title: caf\xc3\xa9\nprompt: a cat\\n\xe7\x8c\xab"), name,
              text ? text : "(none)");
    }
    test_cut(name, file, n);
}

static void test_pictures(void)
{
    char *all = data_file("pictures.txt");
    int   before = n_passed;
    for (char *line = strtok(all, "\n"); line; line = strtok(NULL, "\n")) {
        size_t mark = scratch_mark();
        test_picture(line);
        scratch_reset(mark);
    }
    check(n_passed - before > 300, "pictures.txt", "too few cases");
    free(all);
}

static void test_asset(const char *line, const char *folder)
{
    char     name[128];
    int      w, h;
    uint32_t hash;
    size_t   n;
    if (sscanf(line, "%127s %d %d %x", name, &w, &h, &hash) != 4) return;
    uint8_t *file = read_file(scratch_string("%s/images/%s", folder, name), &n);
    if (!file) { printf("skipped: %s is not there\n", name); n_skipped++; return; }
    Image       got = { 0 };
    const char *code = decode(&got, file, n, (ImageOptions){ 0 });
    if (check(!*code, name, code))
        check(got.w == w && got.h == h && fnv_image(got) == hash, name, "pixels");
    free(file);
}

static void test_assets(void)
{
    char       *all = data_file("assets.txt");
    const char *folder = assets();
    if (access(folder, R_OK)) {
        printf("skipped: pictures of %s (MM_ASSETS), which is not there\n", folder);
        n_skipped++;
    } else {
        for (char *line = strtok(all, "\n"); line; line = strtok(NULL, "\n")) {
            size_t mark = scratch_mark();
            test_asset(line, folder);
            scratch_reset(mark);
        }
    }
    free(all);
}

/* === What is refused, and with which words ==================================================== */

static void refused(const char *bytes, size_t n, ImageOptions o, const char *code,
                    const char *words)
{
    const char *got = decode(NULL, (const uint8_t *)bytes, n, o);
    bool ok = !strcmp(got, code)
           && (strstr(item_error.msg, words) || strstr(item_error.hint, words));
    check(ok, words, *got ? scratch_string("%s: %s (%s)", got, item_error.msg, item_error.hint)
                          : "decoded");
}
#define REFUSED(bytes, code, words) refused(bytes, sizeof bytes - 1, (ImageOptions){0}, code, words)

static void test_refused(void)
{
    REFUSED("", "image.empty", "t.img: an empty file");
    REFUSED("RIFF\x24\0\0\0WEBPVP8 ", "image.format", "magick t.img out.png");
    REFUSED("\0\0\0\x18""ftypheic\0\0\0\0", "image.format", "heif-convert t.img");
    REFUSED("\0\0\0\x18""ftypavif\0\0\0\0", "image.format", "AVIF");
    REFUSED("GIF89a\1\0\1\0", "image.format", "its format is GIF;");
    REFUSED("II*\0\x08\0\0\0", "image.format", "its format is TIFF;");
    REFUSED("MM\0*\0\0\0\x08", "image.format", "its format is TIFF;");
    REFUSED("8BPS\0\1", "image.format", "its format is PSD;");
    REFUSED("\xff\x0a\xfa", "image.format", "its format is JPEG XL;");
    REFUSED("%PDF-1.7", "image.format", "its format is PDF;");
    REFUSED("<?xml version='1.0'?><svg>", "image.format", "its format is SVG;");
    REFUSED("\n<!doctype html><html>", "image.format", "a page of HTML");
    REFUSED("P4\n1 1\n\x80", "image.format", "its format is PBM;");
    REFUSED("BMore text than picture", "image.format", "begins with \"BMore");
    REFUSED("\x1b[31mred", "image.format", "begins with \"\\x1b[31mred\"");
    REFUSED("P6\n70000 1\n255\n", "image.toobig", "70000 x 1 pixels; a side may have 65535");
    REFUSED("P6\n20000 20000\n255\n", "image.toobig", "--max-pixels N");
    REFUSED("P6\n0 5\n255\n", "image.corrupt", "a picture of 0 x 5 pixels");
    REFUSED("P6\n5 -5\n255\n", "image.corrupt", "byte 5: a number was expected for the height");
    REFUSED("P6\n1 1\n65536\n...", "image.corrupt", "the largest value is 65536; at most 65535");
    REFUSED("P6\n1 1\n0\n...", "image.corrupt", "the largest value is 0");
    REFUSED("P3\n1 1\n15\n1 16 2\n", "image.corrupt", "byte 12: a sample is 16; at most 15");
    REFUSED("P6\n2 2\n255\n0123456789A", "image.truncated",
            "ends at byte 22, before the last pixel");
    refused("P6 3 3 255 ", 11, (ImageOptions){ .max_pixels = 8 }, "image.toobig", "limit of 8");
    REFUSED("\xff\xd8\xff\xe0\0\x10JFIF", "image.truncated", "JPEG data ends at byte 10");
    REFUSED("\xff\xd8\xff\xd9", "image.corrupt", "it ends without a picture");
    REFUSED("\xff\xd8\xff\xc0\0\x0b\x08\0\1\0\1\1\1\x11\0\xff\xd9", "image.corrupt",
            "without a picture");
    REFUSED("\xff\xd8\xff\xc9\0\x0b\x08\0\1\0\1\1\1\x11\0\xff\xd9", "image.format", "arithmetic");
    REFUSED("\xff\xd8\xff\xc0\0\x0b\x0c\0\1\0\1\1\1\x11\0\xff\xd9", "image.format", "12 bits");
    REFUSED("\xff\xd8\xff\xc0\0\x0b\x08\xff\xff\xff\xff\1\1\x11\0\xff\xd9", "image.toobig",
            "limit");
    REFUSED("\xff\xd8\xff\xc4\0\x14\0\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\2\xff\xd9", "image.corrupt",
            "too many codes");
    REFUSED("\xff\xd8\xff\xdb\0\x03\x04\xff\xd9", "image.corrupt", "quantisation table 4");
    REFUSED("\x89PNG\r\n\x1a\n\0\0\0\4CgBI\0\0\0\0\0\0\0\0", "image.format", "Apple's own variant");
    REFUSED("\x89PNG\r\n\x1a\n\0\0\0\0IDAT\0\0\0\0", "image.corrupt",
            "does not begin with an IHDR");
}

/* A PNG of zeros that promises `claimed` rows and holds data for `rows`: bombs and gaps. */
static size_t make_png(uint8_t *out, uint32_t w, uint32_t claimed, const uint8_t *data, size_t n)
{
    static const uint8_t head[16] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    struct { const char *type; uint8_t body[13]; size_t n; } ihdr = { "IHDR", { 0 }, 13 };
    size_t at = 0;
    memcpy(out, head, 8);
    at = 8;
    for (int i = 0; i < 4; i++) {
        ihdr.body[i] = (uint8_t)(w >> (24 - 8 * i));
        ihdr.body[4 + i] = (uint8_t)(claimed >> (24 - 8 * i));
    }
    ihdr.body[8] = 8;
    const struct { const char *type; const uint8_t *body; size_t n; } chunks[3] = {
        { "IHDR", ihdr.body, 13 }, { "IDAT", data, n }, { "IEND", NULL, 0 } };
    for (int i = 0; i < 3; i++) {
        uint32_t c = 0xFFFFFFFFu, len = (uint32_t)chunks[i].n;
        uint8_t *start = out + at + 4;
        for (int k = 0; k < 4; k++) out[at + k] = (uint8_t)(len >> (24 - 8 * k));
        memcpy(start, chunks[i].type, 4);
        if (len) memcpy(start + 4, chunks[i].body, len);
        for (size_t k = 0; k < len + 4; k++) {
            c ^= start[k];
            for (int b = 0; b < 8; b++) c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
        }
        for (int k = 0; k < 4; k++) start[4 + len + k] = (uint8_t)(~c >> (24 - 8 * k));
        at += 12 + len;
    }
    return at;
}

/* A deflate stream of one repeated zero byte, about 1,030 times as long inflated as stored: a fixed
 * block of matches of length 258 (code 285, 8 bits) at distance 1 (5 zero bits). */
static size_t make_bomb(uint8_t *out, size_t n_matches)
{
    size_t bit = 16, at;
    memset(out, 0, 16 + n_matches * 13 / 8 + 16);
    out[0] = 0x78;
    out[1] = 0x01;
#define PUT(v, n) for (at = 0; at < (n); at++, bit++) out[bit / 8] |= ((v) >> at & 1) << bit % 8
    PUT(3u, 3u);                                     /* last block, fixed codes */
    PUT(0x0Cu, 8u);                                  /* literal 0: 00110000, top bit first */
    for (size_t i = 0; i < n_matches; i++) PUT(0xA3u, 13u);  /* 285: 11000101; dist 0 */
    PUT(0u, 7u);                                     /* end of block */
#undef PUT
    return bit / 8 + 5;
}

static void test_bombs(void)
{
    static uint8_t data[1 << 20], png[(1 << 20) + 100];
    size_t n = make_png(png, 8, 8, data, make_bomb(data, 500000));   /* 129 MB for 8 x 8 pixels */
    size_t before = scratch_mark();
    refused((char *)png, n, (ImageOptions){ 0 }, "image.corrupt", "damaged PNG");
    check(scratch_mark() - before < 4 << 20, "deflate bomb", "took too much memory");
    n = make_png(png, 257, 100, data, make_bomb(data, 100));     /* exactly right: 1 + 257 a row */
    const char *code = decode(NULL, png, n, (ImageOptions){ 0 });
    check(!*code, "a PNG of zeros", item_error.msg);
    n = make_png(png, 257, 101, data, make_bomb(data, 100));         /* a row is missing */
    refused((char *)png, n, (ImageOptions){ 0 }, "image.corrupt", "damaged PNG");
    n = make_png(png, 60000, 1600, data, 2000);                  /* 96 MB out of 2 KB */
    refused((char *)png, n, (ImageOptions){ 0 }, "image.corrupt", "cannot hold 60000 x 1600");
    png[n - 20] ^= 1;
    refused((char *)png, n, (ImageOptions){ 0 }, "image.corrupt", "CRC");
}

static void test_stream(void)
{
    const char   s[] = "P6 1 2 255 abcdefP2 2 1 9\n1 # c\n 2\nP5 1 1 65535\nxyP3 1 1 9 1 2 33";
    const size_t want[] = { 17, 18, 15, 0 };
    size_t at = 0;
    for (int i = 0; i < 4; i++) {
        size_t n = image_pnm_length("s", (const uint8_t *)s + at, sizeof s - 1 - at,
                                    (ImageOptions){ 0 });
        check(n == want[i], "image_pnm_length", scratch_string("picture %d: %zu", i, n));
        for (size_t cut = 0; cut + 2 < n; cut++)     /* a text picture's line end may be missing */
            if (image_pnm_length("s", (const uint8_t *)s + at, cut, (ImageOptions){ 0 }))
                check(false, "image_pnm_length", scratch_string("picture %d, cut at %zu", i, cut));
        at += n;
    }
}

/* === Preprocessing ============================================================================ */

static void write_config(const char *dir, const char *name, const char *text)
{
    FILE *f = fopen(scratch_string("%s/%s", dir, name), "w");
    if (!f || fputs(text, f) < 0 || fclose(f)) { printf("cannot write to %s\n", dir); exit(1); }
}

static void test_preprocess_line(char *line, const char *dir)
{
    char *kind = strsep(&line, "\t"), *config = strsep(&line, "\t"), *source = strsep(&line, "\t");
    int   w, h, rows, cols;
    uint32_t want;
    Image    in;
    if (!source || sscanf(line, "%d %d %x", &rows, &cols, &want) != 3) return;
    write_config(dir, "preprocessor_config.json", config);
    if (sscanf(source, "%d %d", &w, &h) == 2) {
        in = lcg_image(w, h);
    } else {
        size_t   n;
        uint8_t *file = read_file(scratch_string("%s/images/%s", assets(), source), &n);
        if (!file) { printf("skipped: %s\n", source); n_skipped++; return; }
        decode(&in, file, n, (ImageOptions){ 0 });
        free(file);
    }
    Preprocess p = kind[0] == 'c' ? preprocess_clip(224) : preprocess_blip(384);
    p = preprocess_load(dir, p);
    Tensor     out = preprocess(in, &p);
    bool ok = out.ndim == 3 && out.dim[0] == rows && out.dim[1] == cols && out.dim[2] == 3;
    uint32_t got = fnv(out.data, n_elem(out) * sizeof(float));
    check(ok && got == want, kind, scratch_string("%s of %s: %s, hash %08x, transformers "
                                                  "%08x", config, source, shape_string(out), got,
                                                  want));
}

/* preprocess_load of this text must end with EXIT_FILE and these words. */
static void bad_config(const char *dir, const char *text, const char *words)
{
    jmp_buf place;
    item_error.msg[0] = 0;
    write_config(dir, "preprocessor_config.json", text);
    if (setjmp(place) == 0) {
        die_landing = &place;
        preprocess_load(dir, preprocess_clip(224));
    }
    die_landing = NULL;
    check(strstr(item_error.msg, words) && strstr(item_error.msg, "preprocessor_config.json"), text,
          item_error.msg);
}

static void test_preprocess(void)
{
    char  dir[] = "/tmp/mm-image-XXXXXX", *all = data_file("preprocess.txt"), *rest = all;
    if (!mkdtemp(dir)) exit(1);
    Preprocess p = preprocess_load(dir, preprocess_blip(96));
    check(p.resize_w == 96 && !p.crop && !p.shortest_edge, "preprocess", "no file: the standard");
    for (char *line; (line = strsep(&rest, "\n")); ) {
        size_t mark = scratch_mark();
        test_preprocess_line(line, dir);
        scratch_reset(mark);
    }
    bad_config(dir, "{\"size\": 0}", "key size is 0, expected an integer from 1");
    bad_config(dir, "{\"size\": \"224\"}", "key size is not understood");
    bad_config(dir, "{\"size\": {\"longest_edge\": 5}}", "key size is not understood");
    bad_config(dir, "{\"size\": {\"shortest_edge\": 5, \"longest_edge\": 9}}", "longest_edge");
    bad_config(dir, "{\"size\": {\"shortest_edge\": 1e9}}", "key size.shortest_edge");
    bad_config(dir, "{\"crop_size\": {\"height\": 5}}", "key crop_size is not understood");
    bad_config(dir, "{\"resample\": 6}", "key resample");
    bad_config(dir, "{\"image_mean\": [1, 2]}", "key image_mean is not a number or a list of 3");
    bad_config(dir, "{\"image_std\": [1, 0, 1]}", "key image_std");
    bad_config(dir, "{\"do_pad\": true, \"pad_size\": 9}", "key pad_size is set");
    bad_config(dir, "{\"do_resize\": 1}", "key do_resize");
    bad_config(dir, "[]", "");
    write_config(dir, "processor_config.json", "{\"image_processor\": "
                 "{\"size\": {\"shortest_edge\": 7}}}");
    p = preprocess_load(dir, preprocess_clip(224));
    check(p.shortest_edge == 7 && p.crop_w == 224, "processor_config.json", "goes first");
    unlink(scratch_string("%s/processor_config.json", dir));
    unlink(scratch_string("%s/preprocessor_config.json", dir));
    rmdir(dir);
    free(all);
}

/* === Random damage ============================================================================ */

static uint64_t seed = 1;
static uint32_t rnd(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

static uint32_t png_crc(const uint8_t *s, size_t n)
{
    uint32_t c = 0xFFFFFFFFu;
    for (size_t k = 0; k < n; k++) {
        c ^= s[k];
        for (int b = 0; b < 8; b++) c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
    }
    return ~c;
}

/* Makes the CRCs of a PNG right again, so that damage gets past them. */
static void mend_png(uint8_t *b, size_t n)
{
    for (size_t at = 8; at + 12 <= n; ) {
        size_t len = 0;
        for (int k = 0; k < 4; k++) len = len << 8 | b[at + k];
        if (len > n - at - 12) return;
        uint32_t c = png_crc(b + at + 4, len + 4);
        for (int k = 0; k < 4; k++) b[at + 8 + len + k] = (uint8_t)(c >> (24 - 8 * k));
        at += len + 12;
    }
}

/* Whatever happens, it must be a picture or an error; decoded twice it must be the same. */
static void damage_once(const uint8_t *file, size_t n)
{
    size_t   mark = scratch_mark(), cut = rnd(8) ? n : rnd((uint32_t)n);
    uint8_t *b = memcpy(malloc(n + 1), file, n);
    for (uint32_t i = 0, flips = 1 + rnd(8); i < flips; i++) {
        size_t at = rnd((uint32_t)n);
        switch (rnd(4)) {
        case 0:  b[at] ^= (uint8_t)(1 << rnd(8)); break;
        case 1:  b[at] = (uint8_t)(rnd(2) ? 0xFF : 0); break;
        case 2:  b[at] = (uint8_t)rnd(256); break;
        default: memmove(b + at, b + rnd((uint32_t)at + 1), rnd((uint32_t)(n - at) + 1) % 17);
        }
    }
    if (n > 8 && b[0] == 0x89 && rnd(4)) mend_png(b, n);
    ImageOptions o = { .max_pixels = 1 << 20 };
    Image one = { 0 }, two = { 0 };
    const char *first = decode(&one, b, cut, o), *second = decode(&two, b, cut, o);
    if (strcmp(first, second) || (!*first && (one.w != two.w || memcmp(one.rgb, two.rgb,
                                  3 * (size_t)one.w * one.h))))
        check(false, "damage", "decoded twice, two results");
    jmp_buf place;
    if (setjmp(place) == 0) {
        landing = &place;
        image_info("t.img", b, cut);
        if (cut > 3 && b[0] == 'P') image_pnm_length("t.img", b, cut, o);
    }
    landing = NULL;
    free(b);
    scratch_reset(mark);
}

static void test_damage(double seconds, int rounds)
{
    char  *all = data_file("pictures.txt");
    char  *lines[400];
    int    n_lines = 0;
    clock_t start = clock();
    long   count = 0;
    for (char *line = strtok(all, "\n"); line && n_lines < 400; line = strtok(NULL, "\n"))
        lines[n_lines++] = line;
    for (int r = 0; r < rounds || (double)(clock() - start) / CLOCKS_PER_SEC < seconds; r++)
        for (int i = 0; i < n_lines; i++, count++) {
            size_t mark = scratch_mark(), n;
            const char *s = strrchr(lines[i], ' ') + 1;
            uint8_t *file = unhex(&s, &n);
            for (int k = 0; k < 20; k++) damage_once(file, n);
            scratch_reset(mark);
        }
    if (seconds > 0) printf("%ld damaged files\n", count * 20);
    n_passed++;
    free(all);
}

int main(int argc, char **argv)
{
    char levels[64];
    threads_start(2);
    snprintf(levels, sizeof levels, "%s", kernels_available());
    kernels_init(NULL, false);
    if (argc == 3 && !strcmp(argv[1], "--seconds")) {
        seed = (uint64_t)time(NULL);
        test_damage(atof(argv[2]), 0);
        return n_failed > 0;
    }
    for (char *level = strtok(levels, " "); level; level = strtok(NULL, " ")) {
        kernels_init(level, false);
        test_resize();
        test_preprocess();
    }
    test_pictures();
    test_assets();
    test_refused();
    test_bombs();
    test_stream();
    test_damage(0, 3);
    printf("image: %d passed, %d failed, %d skipped\n", n_passed, n_failed, n_skipped);
    return n_failed > 0;
}
