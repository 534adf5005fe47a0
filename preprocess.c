/* preprocess.c -- from a picture to the numbers a model takes, as its preprocessor_config.json
 * says.
 *
 *   [h, w, 3] u8 -> pad to a square -> resize -> centre crop
 *                -> * rescale_factor -> (x - mean) / std -> [h, w, 3] F32
 *
 * The reference is transformers' PilBackend (5.23): the processors that run without torchvision and
 * to which published models were trained. Steps are switched by do_resize, do_center_crop,
 * do_rescale and do_normalize; a key that is absent or null takes the class's standard.
 *
 * Easy to get wrong:
 *   - Arithmetic, to the last bit: u8 * factor in double, rounded to float; then minus mean,
 *     divided by std, in float.
 *   - "size": 224 means the shorter edge for CLIP and a square for BLIP (default_to_square).
 *   - The longer edge is cut to an integer, not rounded: 224 * 640 / 427 = 335.7 is 335.
 *   - Where the crop is larger than the picture it is padded with black before normalising.
 *   - transformers 5 saves a processor with tokenizer and pictures in one processor_config.json, in
 *     which "image_processor" then takes precedence over a preprocessor_config.json beside it. */
#include <string.h>

#include "mm.h"
#include "kernels/kernels.h"

enum { MOST = 16384 };               /* of a side that a configuration asks for */

static const Preprocess CLIP_STANDARD = {
    .resize = true, .crop = true, .rescale = true, .normalize = true,
    .shortest_edge = 224, .resample = BICUBIC, .crop_w = 224, .crop_h = 224,
    .rescale_factor = 1.0 / 255,
    .mean = { 0.48145466f, 0.4578275f, 0.40821073f },
    .std = { 0.26862954f, 0.26130258f, 0.27577711f },
};

/* CLIPImageProcessor with the given size; 224 is its own. */
Preprocess preprocess_clip(int size)
{
    Preprocess p = CLIP_STANDARD;
    p.shortest_edge = p.crop_w = p.crop_h = size;
    return p;
}

/* BlipImageProcessor: the aspect is given up, nothing is cut off; 384 is its own size. */
Preprocess preprocess_blip(int size)
{
    Preprocess p = CLIP_STANDARD;
    p.crop = false;
    p.shortest_edge = 0;
    p.resize_w = p.resize_h = size;
    return p;
}

/* === Reading the configuration ================================================================ */

/* N, [height, width] or {"height": .., "width": ..}. Returns false if it is none of these. */
static bool read_sides(Json j, int *w, int *h)
{
    int64_t v;
    if (json_is(j, JSON_NUMBER)) {
        if (!json_integer(j, &v) || v < 1 || v > MOST)
            json_error(j, "is %g, expected an integer from 1 to %d", json_number(j), MOST);
        *w = *h = (int)v;
        return true;
    }
    if (json_is(j, JSON_ARRAY) && json_len(j) == 2) {
        int unused;
        return read_sides(json_at(j, 0), h, &unused) && read_sides(json_at(j, 1), w, &unused);
    }
    if (!json_is(j, JSON_OBJECT) || !json_is(json_get(j, "height"), JSON_NUMBER)
        || !json_is(json_get(j, "width"), JSON_NUMBER))
        return false;
    *h = json_int_need(j, "height", 1, MOST);
    *w = json_int_need(j, "width", 1, MOST);
    return true;
}

static void read_size(Preprocess *p, Json config)
{
    Json size = json_get(config, "size");
    bool square = json_bool(config, "default_to_square", p->shortest_edge == 0);
    int  edge = json_is(size, JSON_OBJECT) ? json_int(size, "shortest_edge", 0, 1, MOST) : 0;
    if (json_type(size) == JSON_NULL) return;
    if (edge && json_type(json_get(size, "longest_edge")) != JSON_NULL)
        json_error(size, "has shortest_edge and longest_edge; mm takes shortest_edge alone");
    if (!edge && !read_sides(size, &p->resize_w, &p->resize_h))
        json_error(size, "is not understood: expected an integer, {\"shortest_edge\"} or "
                   "{\"height\", \"width\"}");
    if (!edge && json_is(size, JSON_NUMBER) && !square) edge = p->resize_w;
    p->shortest_edge = edge;
}

/* Three numbers, or one for all channels. */
static void read_channels(float *out, Json config, const char *key, double least)
{
    Json j = json_get(config, key);
    if (json_type(j) == JSON_NULL) return;
    if (!json_is(j, JSON_NUMBER) && (!json_is(j, JSON_ARRAY) || json_len(j) != 3))
        json_error(j, "is not a number or a list of 3 numbers");
    for (int c = 0; c < 3; c++) {
        Json   v = json_is(j, JSON_ARRAY) ? json_at(j, c) : j;
        double d = json_number(v);
        if (!json_is(v, JSON_NUMBER) || !(d >= least && d <= 1e6))
            json_error(v, "is not a number from %g to 1e6", least);
        out[c] = (float)d;
    }
}

/* The object with the image processor's keys; absent if the model has no such file. */
static Json open_config(const char *dir)
{
    static const char *const names[] = { "processor_config.json", "preprocessor_config.json" };
    for (int i = 0; i < 2; i++) {
        Json j = json_file(dir, names[i], 1 << 20);
        Json processor = i == 0 ? json_get(j, "image_processor") : j;
        if (json_type(processor) == JSON_NULL) continue;
        if (!json_is(processor, JSON_OBJECT)) json_error(processor, "is not an object");
        return processor;
    }
    return (Json){ 0 };
}

Preprocess preprocess_load(const char *dir, Preprocess standard)
{
    Preprocess p = standard;
    Json config = open_config(dir), crop = json_get(config, "crop_size");
    p.from_file = config.node != NULL;
    p.resize = json_bool(config, "do_resize", p.resize);
    p.crop = json_bool(config, "do_center_crop", p.crop);
    p.rescale = json_bool(config, "do_rescale", p.rescale);
    p.normalize = json_bool(config, "do_normalize", p.normalize);
    json_bool(config, "do_convert_rgb", true);       /* pictures are RGB here in any case */
    /* For LLaVA's processor do_pad means a square. For the others it pads to the largest picture of
     * a batch, and a batch of mm is one picture. */
    const char *kind = json_str(config, "image_processor_type", "");
    if (!strncmp(kind, "LlavaImageProcessor", 19)) p.pad = json_bool(config, "do_pad", false);
    if (json_bool(config, "do_pad", false) && json_type(json_get(config, "pad_size")) != JSON_NULL)
        json_error(json_get(config, "pad_size"), "is set; mm does not pad for this model");
    read_size(&p, config);
    p.resample = (Filter)json_int(config, "resample", p.resample, NEAREST, HAMMING);
    if (json_type(crop) != JSON_NULL && !read_sides(crop, &p.crop_w, &p.crop_h))
        json_error(crop, "is not understood: expected an integer or {\"height\", \"width\"}");
    p.rescale_factor = json_float(config, "rescale_factor", p.rescale_factor, 0, 1e6);
    read_channels(p.mean, config, "image_mean", -1e6);
    read_channels(p.std, config, "image_std", 1e-6);
    if (p.crop && p.crop_w == 0)
        json_error(config, "asks for do_center_crop, but has no crop_size");
    return p;
}

/* === The steps ================================================================================ */

static Image resized(Image in, const Preprocess *p)
{
    int64_t w = p->resize_w, h = p->resize_h, edge = p->shortest_edge;
    if (edge > 0) {
        w = in.w <= in.h ? edge : edge * in.w / in.h;
        h = in.w <= in.h ? edge * in.h / in.w : edge;
    }
    if (w * h > 100000000)
        fail("image.toobig", NULL, "a picture of %d x %d pixels would be resized to %lld x %lld",
             in.w, in.h, (long long)w, (long long)h);
    return image_resize(in, (int)w, (int)h, p->resample);
}

/* The picture in the middle of a square in the colour of the mean. */
static Image padded(Image in, const float *mean)
{
    int side = in.w > in.h ? in.w : in.h;
    uint8_t ground[3];
    if ((int64_t)side * side > 100000000)
        fail("image.toobig", NULL, "a picture of %d x %d pixels would be padded to %d x %d", in.w,
             in.h, side, side);
    for (int c = 0; c < 3; c++) ground[c] = (uint8_t)((double)mean[c] * 255);
    return image_pad(in, side, side, ground);
}

typedef struct { Image in; float *out; double factor; float mean[3], std[3]; } Levels;

static void levels_row(void *ctx, int y, int worker)
{
    const Levels *l = ctx;
    size_t at = 3 * (size_t)l->in.w * (size_t)y;
    (void)worker;
    kernel.normalize(l->out + at, l->in.rgb + at, l->factor, l->mean, l->std, l->in.w);
}

/* What is switched off is done with numbers that change nothing. */
Tensor preprocess(Image in, const Preprocess *p)
{
    if (p->pad && in.w != in.h) in = padded(in, p->mean);
    if (p->resize) in = resized(in, p);
    if (p->crop) in = image_crop(in, p->crop_w, p->crop_h);
    Tensor out = scratch3(in.h, in.w, 3);
    Levels l = { .in = in, .out = f32(out), .factor = p->rescale ? p->rescale_factor : 1 };
    for (int c = 0; c < 3; c++) {
        l.mean[c] = p->normalize ? p->mean[c] : 0;
        l.std[c] = p->normalize ? p->std[c] : 1;
    }
    parallel_for(in.h, levels_row, &l);
    return out;
}
