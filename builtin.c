/* builtin.c -- the small models that are part of the program: their files as bytes in it.
 *
 *   models/tiny-caption/model.safetensors --.incbin--> read-only data of the executable
 *   "builtin:caption" + "model.safetensors" -> where these bytes are
 *
 * mm knows a model as a directory with files, and a built-in model is one too: files.c asks here
 * when the directory is called "builtin:NAME". So nothing else has to know of them, and what is in
 * the program is checked as strictly as what came from elsewhere. The weights are used where the
 * system has mapped the executable: no copy, and shared by all processes that run it.
 *
 * The assembler's .incbin takes a file as it is; an array in C would be 25 MB of text to compile.
 *
 * To add a model: its files in FILES, its row in MODELS, and its folder in the Makefile's TINY.
 *
 * Easy to get wrong:
 *   - Tensors are used in place, so each file begins at a multiple of 64, a cache line.
 *   - '@progbits' is a comment for some assemblers; '%progbits' is understood by all.
 *   - make must know that this file depends on files that no #include names.
 *   - With BUILTIN=no the tables are empty, and C has no empty arrays: hence the last rows. */
#include <string.h>

#include "tensor.h"

/* symbol, model, name of the file, where it comes from. Both know the same things by the same
 * names, so one list serves both. */
#define FILES(X)                                                                            \
    X(caption_config,    "caption", "config.json",  "tiny-caption/config.json")             \
    X(caption_pictures,  "caption", "preprocessor_config.json",                             \
                                                    "tiny-caption/preprocessor_config.json") \
    X(caption_tokenizer, "caption", "tokenizer_config.json",                                \
                                                    "tiny-caption/tokenizer_config.json")   \
    X(caption_vocab,     "caption", "vocab.txt",    "tiny-caption/vocab.txt")               \
    X(caption_concepts,  "caption", "concepts.txt", "tiny-clip/concepts.txt")               \
    X(caption_weights,   "caption", "model.safetensors", "tiny-caption/model.safetensors")  \
    X(clip_config,       "clip",    "config.json",  "tiny-clip/config.json")                \
    X(clip_pictures,     "clip",    "preprocessor_config.json",                             \
                                                    "tiny-clip/preprocessor_config.json")   \
    X(clip_tokenizer,    "clip",    "tokenizer_config.json", "tiny-clip/tokenizer_config.json") \
    X(clip_vocab,        "clip",    "vocab.json",   "tiny-clip/vocab.json")                 \
    X(clip_merges,       "clip",    "merges.txt",   "tiny-clip/merges.txt")                 \
    X(clip_concepts,     "clip",    "concepts.txt", "tiny-clip/concepts.txt")               \
    X(clip_weights,      "clip",    "model.safetensors", "tiny-clip/model.safetensors")

typedef struct { const char *model, *name; const uint8_t *begin, *end; } File;

#if BUILTIN

#define INCLUDE(symbol, model, name, path)                    \
    __asm__(".pushsection .rodata.builtin, \"a\", %progbits\n" \
            ".balign 64\n"                                    \
            ".global builtin_" #symbol "\n"                   \
            "builtin_" #symbol ":\n"                          \
            ".incbin \"models/" path "\"\n"                   \
            ".global builtin_" #symbol "_end\n"               \
            "builtin_" #symbol "_end:\n"                      \
            ".byte 0\n"                                       \
            ".popsection\n");                                 \
    extern const uint8_t builtin_##symbol[], builtin_##symbol##_end[];
FILES(INCLUDE)

#define ROW(symbol, model, name, path) \
    { "builtin:" model, name, builtin_##symbol, builtin_##symbol##_end },
static const File files[] = { FILES(ROW) { 0 } };

#define EMOJI "scenes of one to three things, composed of Noto emoji graphics (Apache-2.0)"
static const BuiltinModel models[] = {
    { "builtin:caption", EMOJI, "Apache-2.0", "models/tiny-caption/README.md" },
    { "builtin:clip",    EMOJI, "Apache-2.0", "models/tiny-clip/README.md" },
    { 0 }
};

#else
static const File files[] = { { 0 } };
static const BuiltinModel models[] = { { 0 } };
#endif

bool is_builtin(const char *dir) { return strncmp(dir, "builtin:", 8) == 0; }

const BuiltinModel *builtin_models(void) { return models; }

const BuiltinModel *builtin_model(const char *dir)
{
    for (const BuiltinModel *m = models; m->dir; m++)
        if (strcmp(m->dir, dir) == 0) return m;
    return NULL;
}

const uint8_t *builtin_file(const char *dir, const char *name, size_t *n)
{
    *n = 0;
    for (const File *f = files; f->model; f++) {
        if (strcmp(f->model, dir) || strcmp(f->name, name)) continue;
        *n = (size_t)(f->end - f->begin);
        return f->begin;
    }
    return NULL;
}
