/* hub.c -- where a model is. mm looks, in this order, and never downloads:
 *
 *   0. builtin:NAME, in the program itself
 *   1. a path: a directory with config.json, or the model.safetensors in one
 *   2. $MM_MODELS (a colon list): DIR/NAME
 *   3. an alias: blip -> Salesforce/blip-image-captioning-base
 *   4. the Hugging Face cache: models--org--name/refs/REV -> snapshots/COMMIT
 *
 * mm ls lists 0, 2 and 4.
 *
 * Easy to get wrong:
 *   - The cache has four names in the environment, and the order of huggingface_hub counts.
 *   - An id and a revision become parts of a path: they are checked first, as huggingface_hub does,
 *     so that "../.." is no id.
 *   - A commit may be asked for by its full name: then there is no refs/ file for it. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

static const struct { const char *alias, *id; } ALIASES[] = {
    { "blip",         "Salesforce/blip-image-captioning-base" },
    { "blip-large",   "Salesforce/blip-image-captioning-large" },
    { "blip-vqa",     "Salesforce/blip-vqa-base" },
    { "blip-itm",     "Salesforce/blip-itm-base-coco" },
    { "clip",         "openai/clip-vit-large-patch14" },     /* B/32 has no safetensors on main */
    { "clip-b32",     "openai/clip-vit-base-patch32" },
    { "clip-b16",     "openai/clip-vit-base-patch16" },
    { "clip-l14",     "openai/clip-vit-large-patch14" },
    { "clip-l14-336", "openai/clip-vit-large-patch14-336" },
    { "minilm",       "sentence-transformers/all-MiniLM-L6-v2" },
    { "bge-small",    "BAAI/bge-small-en-v1.5" },
    { "e5-small",     "intfloat/e5-small-v2" },
    { "qwen2.5",      "Qwen/Qwen2.5-0.5B-Instruct" },
    { "llama2",       "meta-llama/Llama-2-7b-hf" },
    { "llama2-chat",  "meta-llama/Llama-2-7b-chat-hf" },
    { "phi-2",        "microsoft/phi-2" },
    { "llava15",      "llava-hf/llava-1.5-7b-hf" },
};
enum { N_ALIASES = sizeof ALIASES / sizeof ALIASES[0], MAX_PATH = 4096 };

static bool exists(const char *dir, const char *name)
{
    char path[MAX_PATH];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n < (int)sizeof path && stat(path, &st) == 0;
}

static bool is_model_dir(const char *dir)
{
    return exists(dir, "config.json") || exists(dir, "model_index.json");
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* === Paths ==================================================================================== */

static _Noreturn void no_config(const char *dir)
{
    if (access(dir, R_OK | X_OK))
        die(EXIT_MODEL, "%s: cannot be entered: %s", quoted(dir), strerror(errno));
    if (exists(dir, "refs") && exists(dir, "snapshots"))
        die(EXIT_MODEL, "%s: is a repository of the Hugging Face cache: the model is in one of its "
            "snapshots/\nsay org/name, and mm finds it", quoted(dir));
    die(EXIT_MODEL, "%s: no config.json in this directory\na model directory has config.json, "
        "*.safetensors and the tokenizer's files, as `hf download ID --local-dir DIR` makes it",
        quoted(dir));
}

/* What kind of picture the file is; NULL: none. */
static const char *picture_kind(const char *path)
{
    uint8_t head[64];
    struct stat st;
    if (stat(path, &st) || !S_ISREG(st.st_mode)) return NULL;
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(head, 1, sizeof head, f) : 0;
    if (f) fclose(f);
    return image_kind(head, n);
}

/* A file was named: the safetensors of a model directory will do. */
static const char *dir_of_file(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *dir = !slash ? "." : slash == path ? "/"
                    : keep_string("%.*s", (int)(slash - path), path);
    const char *kind = picture_kind(path);
    if (kind)
        die(EXIT_FILE, "%s: is a picture (%s), expected a model\n-m takes the model; pictures stand"
            " by themselves", quoted(path), kind);
    if (!ends_with(name, ".safetensors") && strcmp(name, "config.json"))
        die(EXIT_FILE, "%s: mm reads safetensors: this is another kind of file\n"
            "name the directory that has config.json and *.safetensors; of PyTorch's .bin, .pt, "
            ".ckpt `mm convert` makes them", quoted(path));
    if (strcmp(name, "model.safetensors") && strcmp(name, "config.json")
        && exists(dir, "model.safetensors"))
        die(EXIT_USAGE, "%s: its directory has a model.safetensors, which would be read instead",
            quoted(path));
    return dir;
}

/* === The Hugging Face cache =================================================================== */

/* org/name or name: words of letters, digits, '-', '_', '.', at most 96 characters, beginning and
 * ending with a letter, digit or '_'; no "--" and no "..". */
static bool is_repo_id(const char *id)
{
    int n_parts = 0;
    if (strstr(id, "--") || strstr(id, "..") || ends_with(id, ".git")) return false;
    for (const char *s = id; ; s++) {
        size_t n = strcspn(s, "/");
        if (n == 0 || n > 96 || ++n_parts > 2) return false;
        for (size_t i = 0; i < n; i++) {
            bool word = isalnum((unsigned char)s[i]) || s[i] == '_';
            if (!word && s[i] != '-' && s[i] != '.') return false;
            if (!word && (i == 0 || i == n - 1)) return false;
        }
        s += n;
        if (!*s) return true;
    }
}

/* A branch, a tag, refs/pr/1 or a commit. */
static bool is_revision(const char *rev)
{
    if (!*rev || strlen(rev) > 200 || rev[0] == '/' || strstr(rev, "..")) return false;
    for (const char *s = rev; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("._-/", *s)) return false;
    return true;
}

static bool is_commit(const char *s)
{
    return strlen(s) == 40 && strspn(s, "0123456789abcdef") == 40;
}

static const char *cache_dir(void)
{
    const char *v;
    if ((v = getenv("HF_HUB_CACHE")) && *v) return v;
    if ((v = getenv("HUGGINGFACE_HUB_CACHE")) && *v) return v;
    if ((v = getenv("HF_HOME")) && *v) return keep_string("%s/hub", v);
    if ((v = getenv("XDG_CACHE_HOME")) && *v) return keep_string("%s/huggingface/hub", v);
    if ((v = getenv("HOME")) && *v) return keep_string("%s/.cache/huggingface/hub", v);
    return NULL;
}

/* The commit that a revision means in this repository: from refs/REV, or REV itself. */
static bool commit_of(char commit[41], const char *repo, const char *rev)
{
    char path[MAX_PATH];
    if (is_commit(rev)) {
        memcpy(commit, rev, 41);
        return true;
    }
    if (snprintf(path, sizeof path, "%s/refs/%s", repo, rev) >= (int)sizeof path) return false;
    FILE *f = fopen(path, "re");
    if (!f) return false;
    size_t n = fread(commit, 1, 40, f);
    fclose(f);
    commit[n] = 0;
    return is_commit(commit);
}

static _Noreturn void not_in_cache(const char *name, const char *id, const char *rev,
                                   const char *cache)
{
    const char *models = getenv("MM_MODELS");
    char at[220] = "";
    if (strcmp(rev, "main")) snprintf(at, sizeof at, " --revision %s", rev);
    die(EXIT_MODEL, "%s: no such model here\nlooked for: the directory %s%s, %s in the cache "
        "%s\nto get it: hf download %s%s    (hf comes with `pip install huggingface_hub`)",
        quoted(name), quoted(name), models && *models ? ", $MM_MODELS" : " ($MM_MODELS is not set)",
        quoted(id), cache ? quoted(cache) : "(no HOME)", id, at);
}

const char *model_aliases(void)
{
    const char *list = ALIASES[0].alias;
    for (int i = 1; i < N_ALIASES; i++) list = keep_string("%s %s", list, ALIASES[i].alias);
    return list;
}

static ModelPath from_cache(const char *name, const char *id_rev)
{
    const char *at = strchr(id_rev, '@');
    const char *id = at ? keep_string("%.*s", (int)(at - id_rev), id_rev) : id_rev;
    const char *rev = at ? at + 1 : "main", *cache = cache_dir();
    if (!is_repo_id(id) || !is_revision(rev))
        die(EXIT_MODEL, "%s: no such directory, and no Hugging Face id (org/name or "
            "org/name@revision)", quoted(name));
    if (!strchr(id, '/') && !at)
    {
        const char *near = nearest(name, &ALIASES[0].alias, N_ALIASES, sizeof ALIASES[0]);
        die(EXIT_MODEL, "%s: no such directory, none in $MM_MODELS, and no alias%s%s%s\n"
            "aliases: %s\n`mm ls` lists the models that are here", quoted(name),
            near ? ": did you mean " : "", near ? near : "", near ? "?" : "", model_aliases());
    }
    if (!cache) not_in_cache(name, id, rev, NULL);
    char *repo = keep_string("%s/models--%s", cache, id), commit[41];
    char *slash = strrchr(repo, '/');
    if (strchr(id, '/'))                     /* org/name -> models--org--name */
        repo = keep_string("%.*s--%s", (int)(slash - repo), repo, slash + 1);
    if (!commit_of(commit, repo, rev)) not_in_cache(name, id, rev, cache);
    const char *dir = keep_string("%s/snapshots/%s", repo, commit);
    if (!is_model_dir(dir)) {
        if (exists(dir, ".")) no_config(dir);
        not_in_cache(name, id, rev, cache);
    }
    return (ModelPath){ .dir = dir, .label = keep_string("%s@%.7s", id, commit) };
}

/* === Resolving ================================================================================ */

static const char *id_of_alias(const char *name)
{
    for (int i = 0; i < N_ALIASES; i++)
        if (strcmp(name, ALIASES[i].alias) == 0) return ALIASES[i].id;
    return NULL;
}

/* DIR/NAME for the directories of $MM_MODELS. */
static const char *in_models(const char *name)
{
    const char *list = getenv("MM_MODELS");
    if (name[0] == '/' || strstr(name, "..")) return NULL;
    while (list && *list) {
        size_t n = strcspn(list, ":");
        char path[MAX_PATH];
        if (n && snprintf(path, sizeof path, "%.*s/%s", (int)n, list, name) < (int)sizeof path
            && is_model_dir(path)) return keep_string("%s", path);
        list += n + (list[n] == ':');
    }
    return NULL;
}

static ModelPath in_program(const char *name)
{
    if (builtin_model(name)) return (ModelPath){ .dir = name, .label = name };
    if (!builtin_models()->dir)
        die(EXIT_MODEL, "%s: this mm was built without models in it (make BUILTIN=no)",
            quoted(name));
    die(EXIT_MODEL, "%s: no such model is built in\n`mm ls` lists those that are",
        quoted(name));
}

ModelPath model_resolve(const char *name)
{
    struct stat st;
    if (is_builtin(name)) return in_program(name);
    if (!*name) die(EXIT_USAGE, "the name of the model is empty");
    if (stat(name, &st) == 0) {
        bool folder = S_ISDIR(st.st_mode);
        const char *dir = folder ? name : dir_of_file(name);
        if (is_model_dir(dir)) return (ModelPath){ .dir = dir, .label = name };
        if (!folder || (!in_models(name) && !id_of_alias(name))) no_config(dir);
    }
    const char *dir = in_models(name), *id = id_of_alias(name);
    if (dir) return (ModelPath){ .dir = dir, .label = name };
    if (id && (dir = in_models(id))) return (ModelPath){ .dir = dir, .label = id };
    if (id) return from_cache(name, id);
    if (name[0] == '/' || name[0] == '.' || name[0] == '~' || ends_with(name, "/"))
        die(EXIT_MODEL, "%s: no such directory", quoted(name));
    return from_cache(name, name);
}

/* === All of them ============================================================================== */

typedef struct { FoundModel *model; int n, room; } List;

static double weights_bytes(const char *dir)
{
    double sum = 0;
    struct stat st;
    char path[MAX_PATH];
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)); )
        if (ends_with(e->d_name, ".safetensors")
            && snprintf(path, sizeof path, "%s/%s", dir, e->d_name) < (int)sizeof path
            && stat(path, &st) == 0) sum += (double)st.st_size;
    if (d) closedir(d);
    return sum;
}

static void list_add(List *l, const char *name, const char *dir, double bytes)
{
    if (l->n == l->room) {
        l->room = l->room ? 2 * l->room : 64;
        FoundModel *more = keep_bytes(mul_size((size_t)l->room, sizeof *more));
        for (int i = 0; i < l->n; i++) more[i] = l->model[i];
        l->model = more;
    }
    l->model[l->n++] = (FoundModel){ .name = name, .dir = dir, .bytes = bytes };
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* What is in a folder, in the order of the names' bytes; without hidden ones. NULL ends it. */
static const char **folder_names(const char *path)
{
    size_t n = 0, room = 64;
    const char **name = keep_bytes(room * sizeof *name);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d)); ) {
        if (e->d_name[0] == '.') continue;
        if (n + 1 == room) {
            const char **more = keep_bytes(mul_size(room *= 2, sizeof *more));
            for (size_t i = 0; i < n; i++) more[i] = name[i];
            name = more;
        }
        name[n++] = keep_string("%s", e->d_name);
    }
    if (d) closedir(d);
    qsort(name, n, sizeof *name, by_bytes);
    return name;
}

static void list_models(List *l)
{
    for (const char *list = getenv("MM_MODELS"); list && *list; ) {
        int n = (int)strcspn(list, ":"), before = l->n;
        const char *folder = keep_string("%.*s", n, list);
        for (const char **name = folder_names(folder); n && *name; name++) {
            const char *dir = keep_string("%s/%s", folder, *name);
            bool hidden = false;                 /* by one of that name in a folder before */
            for (int i = 0; i < before; i++) hidden |= strcmp(l->model[i].name, *name) == 0;
            if (!hidden && is_model_dir(dir)) list_add(l, *name, dir, weights_bytes(dir));
        }
        list += n + (list[n] == ':');
    }
}

/* models--org--name/snapshots/COMMIT -> org/name, or org/name@COMMIT if it is not the newest. */
static void list_cache(List *l)
{
    const char *cache = cache_dir();
    for (const char **repo = folder_names(cache ? cache : ""); *repo; repo++) {
        if (strncmp(*repo, "models--", 8)) continue;
        char *id = keep_string("%s", *repo + 8), *gap = strstr(id, "--"), commit[41] = "";
        if (gap) {
            *gap = '/';
            memmove(gap + 1, gap + 2, strlen(gap + 2) + 1);
        }
        if (!is_repo_id(id)) continue;
        const char *path = keep_string("%s/%s", cache, *repo);
        const char *snapshots = keep_string("%s/snapshots", path);
        if (!commit_of(commit, path, "main")) commit[0] = 0;
        for (const char **name = folder_names(snapshots); *name; name++) {
            const char *dir = keep_string("%s/%s", snapshots, *name);
            bool newest = strcmp(*name, commit) == 0;
            if (!is_commit(*name) || !is_model_dir(dir)) continue;
            list_add(l, newest && gap ? id : keep_string("%s@%s", id, newest ? "main" : *name), dir,
                     weights_bytes(dir));
        }
    }
}

const FoundModel *models_found(int *n)
{
    List l = {0};
    for (const BuiltinModel *m = builtin_models(); m->dir; m++) {
        size_t bytes;
        builtin_file(m->dir, "model.safetensors", &bytes);
        list_add(&l, m->dir, NULL, (double)bytes);
    }
    list_models(&l);
    list_cache(&l);
    *n = l.n;
    return l.model;
}
