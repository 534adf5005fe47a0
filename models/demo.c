/* demo.c -- writes a small BLIP checkpoint with random weights, and a picture to caption with it.
 *
 *     demo FOLDER   ->   FOLDER/blip/{config.json, preprocessor_config.json, vocab.txt,
 *                                      model.safetensors}   and FOLDER/scene.png
 *
 * The checkpoint has the layout of Salesforce/blip-image-captioning-base with small numbers, so all
 * that mm does for the real one it does here: map the file, check every tensor, tokenise, encode
 * the picture, write a caption word by word. The words mean nothing, since nothing was learned:
 * this is for trying the program where no checkpoint is at hand, and for tests with thousands of
 * pictures.
 *
 * Easy to get wrong: weights drawn with a small deviation make a network that ignores the picture.
 * Here the deviation is 1/sqrt(inputs), so that every layer passes on what it got. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>
#pragma GCC diagnostic pop

enum { D = 48, D_FF = 96, N_LAYERS = 2, N_HEADS = 4, IMAGE = 64, PATCH = 16, MAX_POS = 64 };

static const char *const WORDS[] = {
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "of", "on", "in", "with", "and",
    "picture", "photo", "cat", "dog", "bird", "horse", "boat", "tree", "house", "hill", "sun",
    "sky", "sea", "man", "woman", "child", "red", "green", "blue", "yellow", "white", "black",
    "small", "large", "old", "two", "three", "near", "under", "over", "sitting", "standing",
    "running", "sleeping", "looking", "holding", "is", "are", ".", ",", "?", "s", "##s", "##ing",
};
enum { N_WORDS = sizeof WORDS / sizeof *WORDS, BOS = N_WORDS, N_VOCAB = N_WORDS + 2, SEP = 3 };

/* === The checkpoint: tensors are listed first, their values drawn when they are written ======= */

typedef struct { char name[128]; int ndim, dim[4]; float center, width; } Entry;

static Entry entries[256];
static int   n_entries;

static void tensor(const char *name, float center, float width, int ndim, const int *dim)
{
    Entry *e = &entries[n_entries++];
    snprintf(e->name, sizeof e->name, "%s", name);
    e->ndim = ndim;
    memcpy(e->dim, dim, (size_t)ndim * sizeof *dim);
    e->center = center;
    e->width = width;
}

static void linear(const char *name, int n_out, int n_in)
{
    char full[128];
    snprintf(full, sizeof full, "%s.weight", name);
    tensor(full, 0, 2.4f / sqrtf((float)n_in), 2, (int[]){n_out, n_in});
    snprintf(full, sizeof full, "%s.bias", name);
    tensor(full, 0, 0.1f, 1, &n_out);
}

static void norm(const char *name)
{
    char full[128];
    int d = D;
    snprintf(full, sizeof full, "%s.weight", name);
    tensor(full, 1, 0.2f, 1, &d);
    snprintf(full, sizeof full, "%s.bias", name);
    tensor(full, 0, 0.2f, 1, &d);
}

/* name formatted with the layer's number */
static const char *at(const char *fmt, int layer)
{
    static char buf[128];
    snprintf(buf, sizeof buf, fmt, layer);
    return buf;
}

static void vision_tensors(void)
{
    int n_tok = (IMAGE / PATCH) * (IMAGE / PATCH) + 1, d = D;
    tensor("vision_model.embeddings.class_embedding", 0, 1, 3, (int[]){1, 1, D});
    tensor("vision_model.embeddings.position_embedding", 0, 1, 3, (int[]){1, n_tok, D});
    tensor("vision_model.embeddings.patch_embedding.weight", 0, 0.1f, 4,
           (int[]){D, 3, PATCH, PATCH});
    tensor("vision_model.embeddings.patch_embedding.bias", 0, 0.1f, 1, &d);
    for (int i = 0; i < N_LAYERS; i++) {
        norm(at("vision_model.encoder.layers.%d.layer_norm1", i));
        norm(at("vision_model.encoder.layers.%d.layer_norm2", i));
        linear(at("vision_model.encoder.layers.%d.self_attn.qkv", i), 3 * D, D);
        linear(at("vision_model.encoder.layers.%d.self_attn.projection", i), D, D);
        linear(at("vision_model.encoder.layers.%d.mlp.fc1", i), D_FF, D);
        linear(at("vision_model.encoder.layers.%d.mlp.fc2", i), D, D_FF);
    }
    norm("vision_model.post_layernorm");
}

static void text_tensors(void)
{
    int n_vocab = N_VOCAB;
    tensor("text_decoder.bert.embeddings.word_embeddings.weight", 0, 0.35f, 2, (int[]){N_VOCAB, D});
    tensor("text_decoder.bert.embeddings.position_embeddings.weight", 0, 1, 2,
           (int[]){MAX_POS, D});
    norm("text_decoder.bert.embeddings.LayerNorm");
    for (int i = 0; i < N_LAYERS; i++) {
        static const char *const blocks[] = {"attention", "crossattention"};
        static const char *const parts[] = {"self.query", "self.key", "self.value", "output.dense"};
        for (int b = 0; b < 2; b++) {
            char name[128];
            for (int p = 0; p < 4; p++) {
                snprintf(name, sizeof name, "text_decoder.bert.encoder.layer.%d.%s.%s", i,
                         blocks[b], parts[p]);
                linear(name, D, D);
            }
            snprintf(name, sizeof name, "text_decoder.bert.encoder.layer.%d.%s.output.LayerNorm",
                     i, blocks[b]);
            norm(name);
        }
        linear(at("text_decoder.bert.encoder.layer.%d.intermediate.dense", i), D_FF, D);
        linear(at("text_decoder.bert.encoder.layer.%d.output.dense", i), D, D_FF);
        norm(at("text_decoder.bert.encoder.layer.%d.output.LayerNorm", i));
    }
    linear("text_decoder.cls.predictions.transform.dense", D, D);
    norm("text_decoder.cls.predictions.transform.LayerNorm");
    tensor("text_decoder.cls.predictions.bias", 0, 0.5f, 1, &n_vocab);
}

static size_t n_elem(const Entry *e)
{
    size_t n = 1;
    for (int i = 0; i < e->ndim; i++) n *= (size_t)e->dim[i];
    return n;
}

/* A number in [-1, 1): the generator is Knuth's linear congruence, so it is the same everywhere. */
static float draw(void)
{
    static uint64_t state = 15;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) / 8388608.0f - 1.0f;
}

/* === Files ==================================================================================== */

static FILE *create(const char *folder, const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f) { perror(path); exit(1); }
    return f;
}

static void close_or_die(FILE *f, const char *name)
{
    if (ferror(f) | fclose(f)) { perror(name); exit(1); }
}

/* safetensors: the header's length in 8 bytes, the header, the numbers. */
static void write_weights(const char *folder)
{
    static char header[1 << 16];
    size_t n = (size_t)sprintf(header, "{\"__metadata__\":{\"format\":\"pt\"}"), at_byte = 0;
    for (int i = 0; i < n_entries; i++) {
        const Entry *e = &entries[i];
        n += (size_t)sprintf(header + n, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[", e->name);
        for (int j = 0; j < e->ndim; j++)
            n += (size_t)sprintf(header + n, j ? ",%d" : "%d", e->dim[j]);
        size_t end = at_byte + n_elem(e) * sizeof(float);
        n += (size_t)sprintf(header + n, "],\"data_offsets\":[%zu,%zu]}", at_byte, end);
        at_byte = end;
    }
    header[n++] = '}';
    while (n % 8) header[n++] = ' ';
    FILE *f = create(folder, "model.safetensors");
    for (int i = 0; i < 8; i++) putc((int)((uint64_t)n >> (8 * i) & 255), f);
    fwrite(header, 1, n, f);
    for (int i = 0; i < n_entries; i++)
        for (size_t k = n_elem(&entries[i]); k > 0; k--) {
            float v = entries[i].center + entries[i].width * draw();
            fwrite(&v, sizeof v, 1, f);
        }
    close_or_die(f, "model.safetensors");
}

static void write_texts(const char *folder)
{
    FILE *f = create(folder, "config.json");
    fprintf(f, "{\n  \"architectures\": [\"BlipForConditionalGeneration\"],\n"
               "  \"model_type\": \"blip\",\n"
               "  \"text_config\": {\"vocab_size\": %d, \"hidden_size\": %d, "
               "\"encoder_hidden_size\": %d,\n    \"intermediate_size\": %d, "
               "\"num_hidden_layers\": %d, \"num_attention_heads\": %d,\n    "
               "\"max_position_embeddings\": %d, \"hidden_act\": \"gelu\", "
               "\"layer_norm_eps\": 1e-12,\n    \"bos_token_id\": %d, \"eos_token_id\": 2, "
               "\"pad_token_id\": 0, \"sep_token_id\": %d},\n",
            N_VOCAB, D, D, D_FF, N_LAYERS, N_HEADS, MAX_POS, BOS, SEP);
    fprintf(f, "  \"vision_config\": {\"hidden_size\": %d, \"intermediate_size\": %d, "
               "\"num_hidden_layers\": %d,\n    \"num_attention_heads\": %d, \"image_size\": %d, "
               "\"patch_size\": %d, \"hidden_act\": \"gelu\",\n    \"layer_norm_eps\": 1e-5}\n}\n",
            D, D_FF, N_LAYERS, N_HEADS, IMAGE, PATCH);
    close_or_die(f, "config.json");
    f = create(folder, "preprocessor_config.json");
    fprintf(f, "{\"image_processor_type\": \"BlipImageProcessor\", \"do_resize\": true, "
               "\"size\": {\"height\": %d, \"width\": %d},\n \"resample\": 3, "
               "\"do_rescale\": true, \"rescale_factor\": 0.00392156862745098,\n "
               "\"do_normalize\": true, \"image_mean\": [0.48145466, 0.4578275, 0.40821073],\n "
               "\"image_std\": [0.26862954, 0.26130258, 0.27577711], \"do_convert_rgb\": true}\n",
            IMAGE, IMAGE);
    close_or_die(f, "preprocessor_config.json");
    f = create(folder, "vocab.txt");
    for (int i = 0; i < N_WORDS; i++) fprintf(f, "%s\n", WORDS[i]);
    close_or_die(f, "vocab.txt");
}

/* A sun over two hills. */
static void write_scene(const char *folder)
{
    enum { W = 320, H = 240 };
    static uint8_t rgb[H][W][3];
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++) {
            float dx = (float)x - 230, dy = (float)y - 70;
            float far  = 150 + 25 * sinf((float)x / 48), near = 185 + 20 * cosf((float)x / 61);
            int sky[3] = {110 + y / 3, 170 + y / 5, 235}, sun[3] = {255, 214, 80};
            int green[3] = {70, 140, 80}, dark[3] = {40, 100, 55};
            int *c = (float)y > near ? dark : (float)y > far ? green
                   : dx * dx + dy * dy < 900 ? sun : sky;
            for (int i = 0; i < 3; i++) rgb[y][x][i] = (uint8_t)c[i];
        }
    char path[1024];
    snprintf(path, sizeof path, "%s/scene.png", folder);
    if (!stbi_write_png(path, W, H, 3, rgb, W * 3)) { perror(path); exit(1); }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: demo FOLDER\n");
        return 2;
    }
    char model[1000];
    snprintf(model, sizeof model, "%s/blip", argv[1]);
    mkdir(argv[1], 0777);
    mkdir(model, 0777);
    vision_tensors();
    text_tensors();
    write_weights(model);
    write_texts(model);
    write_scene(argv[1]);
    return 0;
}
