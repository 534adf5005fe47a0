/* stb_image.c -- the one place where stb_image (Sean Barrett, public domain) is compiled.
 *
 * stb_image decodes JPEG and PNG in 2,000 lines that anybody can read, and it is not meant for
 * hostile files: its README says so. What mm does about it:
 *
 *   - Only its JPEG and PNG readers are compiled. BMP and PNM are read by bitmap.c. Of JPEG it does
 *     the Huffman decoding; transform, upsampling and colours are jpeg.c's, which are libjpeg's.
 *   - It never sees a file. jpeg.c and png.c check the structure of a picture and put together a
 *     new one of the checked parts: no chunk, segment or table that stb would have to distrust.
 *   - It gets its memory from scratch, zeroed, and only as much as the picture's size explains.
 *     What would grow beyond that (a deflate bomb) fails. With scratch nothing can be freed twice,
 *     used after it was freed (until the caller resets scratch), or leak when something fails.
 *   - The sums of a JPEG's damaged coefficients may wrap, and shifts by too much occur when its
 *     data end early; the Makefile compiles this file with -fwrapv, and the values end as pixels
 *     only.
 *
 * Known troubles of 2.27 and 2.28 in these two readers, and where they end: too many Huffman codes
 * (jpeg.c counts them), tables used before they are defined (jpeg.c demands them), palette entries
 * and distance codes that nobody set (memory is zeroed, png.c completes the palette), an output
 * size that overflows (image_check_size). */
#include <limits.h>
#include <string.h>

#include "image.h"

/* State of the one decode under way: stb_image's allocation hooks have no argument to carry it. */
static size_t memory_left;

static void *take(size_t n)
{
    if (n > memory_left) return NULL;
    memory_left -= n;
    return memset(scratch_bytes(n), 0, n);
}

static void *take_more(void *old, size_t n_old, size_t n)
{
    void *p = take(n);
    if (p && old) memcpy(p, old, n_old < n ? n_old : n);
    return p;
}

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_MAX_DIMENSIONS MAX_SIDE
#define STBI_ASSERT(x) ((void)0)                 /* damaged files would trip them */
#define STBI_MALLOC(n) take(n)
#define STBI_REALLOC_SIZED(p, n_old, n) take_more(p, n_old, n)
#define STBI_REALLOC(p, n) take_more(p, 0, n)    /* never called: the sized one is */
#define STBI_FREE(p) ((void)(p))
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image.h>

static const char *failure(void)
{
    return stbi_failure_reason() ? stbi_failure_reason() : "damaged";
}

uint8_t *stb_png(const uint8_t *bytes, size_t n, size_t memory, int *w, int *h, const char **reason)
{
    int channels;
    memory_left = memory;
    uint8_t *rgb = n <= INT_MAX ? stbi_load_from_memory(bytes, (int)n, w, h, &channels, 3) : NULL;
    if (!rgb) *reason = failure();
    return rgb;
}

/* The first half of stbi__jpeg_load: up to the planes, with libjpeg's transform. */
bool stb_jpeg(JpegPlane plane[4], const uint8_t *bytes, size_t n, size_t memory,
              const char **reason)
{
    stbi__context s;
    memory_left = memory;
    stbi__jpeg *j = n <= INT_MAX ? take(sizeof *j) : NULL;
    if (!j) return *reason = "too large", false;
    stbi__start_mem(&s, bytes, (int)n);
    s.img_n = 0;
    j->s = &s;
    stbi__setup_jpeg(j);
    j->idct_block_kernel = jpeg_idct;
    if (!stbi__decode_jpeg_image(j)) return *reason = failure(), false;
    for (int k = 0; k < s.img_n; k++)
        plane[k] = (JpegPlane){ .data = j->img_comp[k].data, .w = j->img_comp[k].x,
                                .h = j->img_comp[k].y, .stride = j->img_comp[k].w2,
                                .h_step = j->img_h_max / j->img_comp[k].h,
                                .v_step = j->img_v_max / j->img_comp[k].v };
    return true;
}
