/* files.c -- the files of a model directory, opened with care: read whole, or mapped.
 *
 *   dir/name -> realpath -> still inside? -> open, do not wait -> a regular file? -> read or mmap
 *   builtin:NAME/name -> bytes of this program (builtin.c)
 *
 * A downloaded directory is untrusted: a shard may be a symbolic link to /etc/passwd, a FIFO that
 * hangs whoever opens it, a device. So a path counts by where it ends. It must end inside the
 * directory or, where the directory is a snapshot of the Hugging Face cache,
 *
 *   .../models--ORG--NAME/snapshots/COMMIT/model.safetensors -> ../../blobs/SHA256
 *
 * inside models--ORG--NAME. Two things that are often found in place of a model's file are told by
 * their first bytes: the pointer that a clone without Git LFS leaves, and the HTML page that a
 * download without permission leaves.
 *
 * Weights are mapped shared and read-only: processes share one copy, and nothing is read that is
 * not used. The price: if somebody truncates the file meanwhile, or the disk fails, the access
 * itself fails, with SIGBUS. A handler turns that into a message and exit code 4.
 *
 * Easy to get wrong:
 *   - O_NOFOLLOW looks at the last part of a path only; "1_Pooling/config.json" has two.
 *   - open() of a FIFO waits for a writer, unless O_NONBLOCK is given. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tensor.h"

/* === What is it, if not what it should be ===================================================== */

static bool starts(const uint8_t *bytes, size_t n, const char *magic, size_t len)
{
    return n >= len && !memcmp(bytes, magic, len);
}

static bool is_html(const uint8_t *bytes, size_t n)
{
    static const char *const begin[] = { "<!doctype", "<html", "<head", "<?xml" };
    while (n && (*bytes == ' ' || (*bytes >= '\t' && *bytes <= '\r'))) bytes++, n--;
    for (size_t i = 0; i < sizeof begin / sizeof begin[0]; i++) {
        size_t len = strlen(begin[i]);
        if (n >= len && !strncasecmp((const char *)bytes, begin[i], len)) return true;
    }
    return false;
}

const char *file_kind(const uint8_t *bytes, size_t n, const char **remedy)
{
    static const struct { const char *magic; size_t n; const char *kind, *remedy; } kinds[] = {
#define DOWNLOAD "download the file itself, from the model's page"
        { "version https://git-lfs", 23, "a Git LFS pointer, not the file it stands for",
          "run `git lfs pull` in the directory, or download the file itself" },
        { "PK\3\4", 4, "a ZIP archive, as torch.save() writes", CONVERT_IT },
        { "\x80\2", 2, "a Python pickle", CONVERT_IT },
        { "\x80\3", 2, "a Python pickle", CONVERT_IT },
        { "\x80\4", 2, "a Python pickle", CONVERT_IT },
        { "\x80\5", 2, "a Python pickle", CONVERT_IT },
        { "GGUF", 4, "a GGUF file (llama.cpp)", GET_SAFETENSORS },
        { "\x89HDF", 4, "an HDF5 file (TensorFlow)", GET_SAFETENSORS },
        { "\x1f\x8b", 2, "a gzip archive", "unpack it with gunzip" },
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (!starts(bytes, n, kinds[i].magic, kinds[i].n)) continue;
        *remedy = kinds[i].remedy;
        return kinds[i].kind;
    }
    *remedy = n ? DOWNLOAD ": the site may want you to log in or to accept a licence first"
                : DOWNLOAD ", again";
    return !n ? "empty" : is_html(bytes, n) ? "an HTML page" : NULL;
}

/* === Opening ================================================================================== */

static char *join(const char *dir, const char *name)
{
    size_t n = strlen(dir);
    return keep_string("%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

/* Cuts "/last" off; false if there is nothing to cut. */
static bool cut_last(char *path)
{
    char *slash = strrchr(path, '/');
    if (!slash || slash == path) return false;
    *slash = 0;
    return true;
}

/* The folder that files of `dir` (a real path) may lie in: dir, or the cache's repository. */
static char *allowed_root(const char *dir)
{
    char *root = keep_string("%s", dir);
    if (!cut_last(root) || strcmp(strrchr(root, '/'), "/snapshots") || !cut_last(root))
        return keep_string("%s", dir);
    const char *last = strrchr(root, '/');
    return last && !strncmp(last, "/models--", 9) ? root : keep_string("%s", dir);
}

static bool is_inside(const char *path, const char *root)
{
    size_t n = strlen(root);
    if (n == 1) return true;                     /* the root of the file system */
    return !strncmp(path, root, n) && path[n] == '/';
}

/* Opens dir/name for reading. -1: there is none. Everything else that is wrong dies. */
static int open_inside(const char *dir, const char *name, const char *shown, size_t *size)
{
    struct stat st;
    char path[PATH_MAX], real_dir[PATH_MAX];
    if (!realpath(shown, path)) {
        if (errno == ENOENT && !lstat(shown, &st) && S_ISLNK(st.st_mode))
            die(EXIT_FILE, "%s: is a symbolic link to what is not there, expected a file\n"
                "download the model again: the file is not complete", quoted(shown));
        if (errno == ENOENT || errno == ENOTDIR) return -1;
        die(EXIT_FILE, "%s: cannot be opened: %s", quoted(shown), strerror(errno));
    }
    if (!realpath(dir, real_dir))
        die(EXIT_FILE, "%s: cannot be opened: %s", quoted(dir), strerror(errno));
    if (!is_inside(path, allowed_root(real_dir)))
        die(EXIT_FILE, "%s: leads out of the model directory, to %s; expected a file inside it\n"
            "if it is the right one, copy it to where %s is", quoted(shown), quoted(path),
            quoted(name));
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) die(EXIT_FILE, "%s: cannot be opened: %s", quoted(shown), strerror(errno));
    if (fstat(fd, &st)) die(EXIT_FILE, "%s: cannot be read: %s", quoted(shown), strerror(errno));
    if (!S_ISREG(st.st_mode))
        die(EXIT_FILE, "%s: is a %s, expected a regular file", quoted(shown),
            S_ISDIR(st.st_mode) ? "directory" : S_ISFIFO(st.st_mode) ? "FIFO" : "device");
    *size = (size_t)st.st_size;
    return fd;
}

/* === Reading ================================================================================== */

/* Up to n bytes, until the file ends; returns how many, and closes it. */
static size_t read_all(int fd, char *text, size_t n, const char *shown)
{
    size_t at = 0;
    while (at < n) {
        ssize_t got = read(fd, text + at, n - at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) die(EXIT_FILE, "%s: cannot be read: %s", quoted(shown), strerror(errno));
        if (got == 0) break;
        at += (size_t)got;
    }
    close(fd);
    return at;
}

char *model_file(const char *dir, const char *name, size_t max, size_t *n)
{
    size_t size;
    *n = 0;
    const char *shown = join(dir, name), *remedy;
    const uint8_t *inside = builtin_file(dir, name, &size);
    int fd = is_builtin(dir) ? -1 : open_inside(dir, name, shown, &size);
    if (!inside && fd < 0) return NULL;
    if (size > max)
        die(EXIT_FILE, "%s: has %zu bytes, expected at most %zu", quoted(shown), size, max);
    char *text = keep_bytes(size + 1);
    if (inside) memcpy(text, inside, size);
    *n = inside ? size : read_all(fd, text, size, shown);
    text[*n] = 0;
    const char *kind = file_kind((uint8_t *)text, *n, &remedy);
    if (kind && *n) die(EXIT_FILE, "%s: is %s, expected the text of %s\n%s", quoted(shown), kind,
                        quoted(name), remedy);
    return text;
}

/* === Mapping ================================================================================== */

typedef struct Mapping {
    struct Mapping *next;
    const uint8_t  *bytes;
    size_t          n;
    const char     *message;
} Mapping;

static Mapping *mappings;            /* all that are there: the handler must tell them apart */

/* Only what a signal handler may do: write and leave. */
static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    for (const Mapping *m = mappings; m; m = m->next) {
        size_t at = (size_t)((const uint8_t *)info->si_addr - m->bytes);
        if ((const uint8_t *)info->si_addr < m->bytes || at >= m->n) continue;
        ssize_t ignored = write(2, m->message, strlen(m->message));
        (void)ignored;
        _exit(EXIT_FILE);
    }
    signal(signal_number, SIG_DFL);  /* not ours: it happens again, and kills */
}

static void watch(const uint8_t *bytes, size_t n, const char *shown)
{
    Mapping *m = keep_bytes(sizeof *m);
    *m = (Mapping){ mappings, bytes, n, keep_string(
        "mm: %s: could not be read while in use, expected its %zu bytes\n"
        "    the file was made shorter, or the disk fails\n", quoted(shown), n) };
    if (!mappings) {
        struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
        sigaction(SIGBUS, &action, NULL);
    }
    mappings = m;
}

static const uint8_t *map_file(const char *dir, const char *name, size_t *n, int advice)
{
    const char *shown = join(dir, name);
    if (is_builtin(dir)) return builtin_file(dir, name, n);  /* mapped with the program */
    int fd = open_inside(dir, name, shown, n);
    if (fd < 0) return NULL;
    if (*n == 0) return close(fd), (const uint8_t *)"";
    void *bytes = mmap(NULL, *n, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (bytes == MAP_FAILED)
        die(EXIT_MEMORY, "%s: cannot map its %zu bytes: %s", quoted(shown), *n, strerror(errno));
    madvise(bytes, *n, MADV_HUGEPAGE);       /* reading brings pages of 2 MiB into the cache */
    madvise(bytes, *n, advice);
    watch(bytes, *n, shown);
    return bytes;
}

const uint8_t *model_map(const char *dir, const char *name, size_t *n)
{
    return map_file(dir, name, n, MADV_WILLNEED);
}

const uint8_t *model_map_once(const char *dir, const char *name, size_t *n)
{
    return map_file(dir, name, n, MADV_SEQUENTIAL);
}
