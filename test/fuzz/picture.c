/* test/fuzz/picture.c -- any bytes as a picture: what it says of itself, its pixels, and a resize
 * to what a model would get. More than a million pixels are refused, for speed. */
#include "../../kernels/kernels.h"
#include "fuzz.h"

static void read_input(const uint8_t *bytes, size_t n)
{
    ImageOptions o = { .ignore_exif = n % 2, .max_pixels = 1 << 20 };
    volatile unsigned sum = image_is_picture(bytes, n);      /* outlives a longjmp */
    jmp_buf *outer = landing, place;
    if (setjmp(place) == 0) {                    /* each may refuse: ask the next all the same */
        landing = &place;
        ImageInfo info = image_info("fuzz", bytes, n);
        if (info.text) sum = sum + (unsigned)strlen(info.text);
    }
    if (setjmp(place) == 0) sum = sum + (unsigned)image_pnm_length("fuzz", bytes, n, o);
    landing = outer;
    Image image = image_decode("fuzz", bytes, n, o);
    if (image.w < 1 || image.h < 1) bug("picture of %d x %d", image.w, image.h);
    for (size_t i = 0; i < (size_t)image.w * image.h * 3; i++) sum = sum + image.rgb[i];
    if (!kernel.resize_rows) kernels_init(NULL, false);
    if (sum != 1) image_resize(image, 7, 5, BICUBIC);
}
