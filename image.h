/* image.h -- what the picture files (image.c, formats.c, jpeg.c, png.c, bitmap.c, stb_image.c)
 * share among themselves. Everybody else includes mm.h. */
#ifndef IMAGE_H
#define IMAGE_H

#include "mm.h"

enum { MAX_SIDE = 65535 };

typedef enum { NO_PICTURE, JPEG, PNG, BMP, PNM } Format;

/* What the components of a JPEG mean. */
typedef enum { JPEG_GREY, JPEG_YCC, JPEG_RGB, JPEG_CMYK, JPEG_YCCK } JpegColor;

/* The samples of one component: w x h, rows `stride` apart; one for h_step x v_step pixels. */
typedef struct { const uint8_t *data; int w, h, stride, h_step, v_step; } JpegPlane;

/* A file in memory, with what is asked of it. */
typedef struct {
    const char    *name;             /* for messages */
    const uint8_t *bytes;
    size_t         n;
    ImageOptions   options;
    bool           info_only;        /* the caller wants ImageInfo, no pixels */
    bool           stream;           /* PNM: more bytes may follow these */
} File;

/* What the header and the structure say. The parsers read the whole structure of the file and fail
 * the item where it breaks a rule; what they hand on needs no further distrust. */
typedef struct {
    ImageInfo      info;
    const uint8_t *exif;             /* the TIFF structure with the orientation; NULL if none */
    size_t         n_exif;
    const uint8_t *clean;            /* JPEG, PNG: the picture put together again from checked parts
                                      * only, for stb_image; scratch */
    size_t         n_clean;
    size_t         memory;           /* what decoding `clean` may take, in bytes */
    JpegColor      color;            /* JPEG */
    size_t         data;             /* BMP, PNM: where the pixels start */
    size_t         end;              /* PNM: where the picture ends */
    int            max_value;        /* PNM */
    bool           text;             /* PNM: samples are decimal numbers */
    int            pixel_bits;       /* BMP */
    bool           top_down;         /* BMP */
    uint32_t       mask[3];          /* BMP, 16 and 32 bits: where red, green, blue are */
    uint8_t        palette[256][3];  /* BMP */
} Parsed;

/* === image.c ================================================================================== */

Image image_new(int w, int h);       /* in scratch, not zeroed */

/* === formats.c ================================================================================ */

Format image_format(const uint8_t *bytes, size_t n);         /* by the first bytes */
/* Fails: says what the file is, if that can be told, and how to make a PNG of it. */
_Noreturn void image_unknown(File f);
_Noreturn void image_unsupported(File f, const char *what);  /* image.format, with the conversion */
_Noreturn void image_truncated(File f, const char *format, const char *missing);
_Noreturn void image_corrupt(File f, const char *format, size_t at, const char *fmt, ...)
    PRINTF(4, 5);
/* Sides of 1 to MAX_SIDE, pixels within the limit, else image.corrupt or image.toobig. */
void     image_check_size(File f, const char *format, int64_t w, int64_t h);
/* image.toobig if decoding would take more than half of this machine's memory. */
void     image_check_memory(File f, size_t bytes);
/* 1 to 8; 1 where the structure is damaged or has no orientation. */
int      exif_orientation(const uint8_t *tiff, size_t n);

static inline uint32_t be16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static inline uint32_t be32(const uint8_t *p) { return be16(p) << 16 | be16(p + 2); }
static inline uint32_t le16(const uint8_t *p) { return (uint32_t)p[1] << 8 | p[0]; }
static inline uint32_t le32(const uint8_t *p) { return le16(p + 2) << 16 | le16(p); }

/* === jpeg.c, png.c, bitmap.c ================================================================== */

void  jpeg_parse(Parsed *p, File f);
void  png_parse(Parsed *p, File f);
void  bmp_parse(Parsed *p, File f);
/* Needs the pixels, too; returns false, with p->info unset, if the file ends too early. */
bool  pnm_parse(Parsed *p, File f);
void  jpeg_idct(uint8_t *out, int stride, short data[64]);    /* a block, for stb_image.c */
void  jpeg_pixels(Image out, const JpegPlane *planes, JpegColor color);
void  bmp_pixels(Image out, const Parsed *p, File f);
void  pnm_pixels(Image out, const Parsed *p, File f);

/* === stb_image.c ============================================================================== */

/* Decodes a PNG to RGB, in scratch, within `memory` bytes. NULL, and *reason, if it cannot. */
uint8_t *stb_png(const uint8_t *bytes, size_t n, size_t memory, int *w, int *h,
                 const char **reason);
/* Decodes a JPEG to its planes, likewise; false, and *reason, if it cannot. */
bool     stb_jpeg(JpegPlane plane[4], const uint8_t *bytes, size_t n, size_t memory,
                  const char **reason);

#endif
