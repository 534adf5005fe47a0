/* decode.c -- a picture as stb_image reads it, as a PNM file on stdout: for the reference scripts.
 *
 * JPEG decoders differ by a few levels. To compare mm with transformers on the same pixels, JPEG
 * files are decoded once by mm's decoder and then given to both. EXIF orientation is not applied.
 *
 *     cc -isystem /usr/include/stb -o decode decode.c -lm && ./decode a.jpg > a.ppm */
#include <stdbool.h>
#include <stdio.h>

#define STB_IMAGE_IMPLEMENTATION
#define STBI_FAILURE_USERMSG
#include <stb_image.h>

int main(int argc, char **argv)
{
    int w, h, channels;
    unsigned char *rgb = argc == 2 ? stbi_load(argv[1], &w, &h, &channels, 3) : NULL;
    if (!rgb) {
        fprintf(stderr, "decode: %s\n", argc == 2 ? stbi_failure_reason() : "usage: decode PICTURE");
        return 1;
    }
    printf("P6\n%d %d\n255\n", w, h);
    size_t n = (size_t)w * (size_t)h * 3;
    bool failed = fwrite(rgb, 1, n, stdout) != n || fflush(stdout) != 0;
    stbi_image_free(rgb);
    return failed;
}
