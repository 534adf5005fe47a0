/* test/files.c -- bad model files, made by hand: each must end with exit code 4 and a message that
 * names the file, the thing, what was found, what was expected and, where one can do something, the
 * remedy. Odd but valid files must load.
 *
 * A case writes a directory, forks, and lets the child open it as a model's loader would; the
 * parent looks at exit code and message. Files cut off at every byte, and with every bit changed,
 * are read in this process, from memory that ends where the file ends, so that a sanitizer sees
 * each step too far; die_landing brings die() back. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "folder.h"

static int  n_skipped;

/* === Making files ============================================================================= */

static void write_text(const char *name, const char *text) { write_file(name, text, strlen(text)); }

/* A safetensors file: length, header (n bytes; 0: all of the string), n_data bytes 1, 2, 3, ... */
static uint8_t *build(size_t *n_out, const char *header, size_t n, size_t n_data)
{
    if (!n) n = strlen(header);
    *n_out = 8 + n + n_data;
    uint8_t *bytes = scratch_bytes(*n_out);
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(bytes + 8, header, n);
    for (size_t i = 0; i < n_data; i++) bytes[8 + n + i] = (uint8_t)(i + 1);
    return bytes;
}

static void write_model(const char *name, const char *header, size_t n_data)
{
    size_t n;
    uint8_t *bytes = build(&n, header, 0, n_data);
    write_file(name, bytes, n);
}

/* === Running a loader ========================================================================= */

typedef struct { int code; char err[4096]; } Outcome;

static Outcome run(void (*loader)(void))
{
    Outcome o = { .code = -1 };
    int fd[2];
    if (pipe(fd)) return o;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fd[1], 2);
        close(fd[0]);
        close(fd[1]);
        alarm(20);                               /* a FIFO that is waited for ends the case */
        loader();
        _exit(0);
    }
    close(fd[1]);
    size_t n = 0;
    for (ssize_t got; (got = read(fd[0], o.err + n, sizeof o.err - 1 - n)) > 0; ) n += (size_t)got;
    close(fd[0]);
    int status = 0;
    waitpid(pid, &status, 0);
    o.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    return o;
}

static void open_only(void) { ckpt_open(dir); }

/* As a small architecture would: weight w [2, 3], bias b [2] if there, nothing else. */
static void load_small(void)
{
    Ckpt ck = ckpt_open(dir);
    ckpt_get(ck, "w", 2, 3);
    ckpt_opt(ck, "b", 2);
    ckpt_ignore(ck, "*.position_ids");
    ckpt_done(ck);
}

/* Does `text` have all of the needles, which are separated by '|'? */
static bool has_all(const char *text, const char *needles)
{
    char list[512];
    snprintf(list, sizeof list, "%s", needles);
    for (char *save, *s = strtok_r(list, "|", &save); s; s = strtok_r(NULL, "|", &save))
        if (!strstr(text, s)) return false;
    return true;
}

/* Exit code 4, one message that begins with the directory's name, and all of the needles in it. */
static void refused(const char *what, void (*loader)(void), const char *needles)
{
    Outcome o = run(loader);
    char begin[300];
    snprintf(begin, sizeof begin, "mm: %s", dir);
    bool ok = !strncmp(o.err, begin, strlen(begin)) && has_all(o.err, needles);
    ok = ok && o.code == EXIT_FILE;
    check(ok, what, scratch_string("exit code %d and: %s(wanted: %s)", o.code, o.err, needles));
    empty(dir);
}

static void accepted(const char *what, void (*loader)(void))
{
    Outcome o = run(loader);
    check(o.code == 0 && !*o.err, what, scratch_string("exit code %d and: %s", o.code, o.err));
    empty(dir);
}

/* === Headers ================================================================================== */

#define W "\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}"
#define T(name, dtype, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape \
    ",\"data_offsets\":[" #begin "," #end "]}"

#define BLOCKS(name, what) \
    "\"__metadata__\":{\"mm.blocks\":\"1\",\"" name "\":\"" what "\"},"

#define ONE_BLOCK T("w", "U8", "[1,1,272]", 0, 272)

/* Each is the header of a model.safetensors with n_data bytes of data. */
static const struct { const char *what, *header; size_t n_data; const char *needles; } bad[] = {
    { "overlap", "{" W "," T("v", "F32", "[2]", 20, 28) "}", 28,
      "tensor v begins at byte 20|w ends at 24|expected no overlap" },
    { "two tensors in one place", "{" W "," T("v", "F32", "[2,3]", 0, 24) "}", 24, "no overlap" },
    { "hole", "{" W "," T("v", "F32", "[2]", 28, 36) "}", 36,
      "bytes 24 to 28|before tensor v|hole" },
    { "hole at the start", "{" T("w", "F32", "[2,3]", 4, 28) "}", 28, "bytes 0 to 4|hole" },
    { "zero-sized tensor inside another", "{" W "," T("z", "F32", "[0]", 8, 8) "}", 24, "overlap" },
    { "file too short", "{" W "}", 23,
      "has |bytes, its header promises|incomplete|get the file again" },
    { "file too long", "{" W "}", 25, "has |its header promises|expected none after the last" },
    { "data of no tensor", "{}", 1, "expected none after the last" },
    { "end before begin", "{" T("w", "F32", "[2,3]", 24, 0) "}", 24,
      "w.data_offsets|begins at 24" },
    { "end beyond 64 bits", "{" T("w", "F32", "[2,3]", 0, 99999999999999999999) "}", 24,
      "w.data_offsets[1]|is 99999999999999999999|expected a whole number" },
    { "end of 2^60", "{" T("w", "U8", "[1152921504606846976]", 0, 1152921504606846976) "}", 24,
      "its header promises 1152921504606847" },
    { "begin + size wraps", "{" T("w", "F32", "[2,3]", 9223372036854775800, 24) "}", 24,
      "begins at" },
    { "negative offset", "{" T("w", "F32", "[2,3]", -24, 0) "}", 24,
      "is -24|expected a whole number" },
    { "offset minus zero", "{" T("w", "F32", "[2,3]", -0, 24) "}", 24, "is -0|expected a whole" },
    { "offset 0.0", "{" T("w", "F32", "[2,3]", 0.0, 24) "}", 24, "is 0.0|expected a whole number" },
    { "offset 24e0", "{" T("w", "F32", "[2,3]", 0, 24e0) "}", 24,
      "is 24e0|expected a whole number" },
    { "offset with a leading zero", "{" T("w", "F32", "[2,3]", 0, 024) "}", 24, "leading zero" },
    { "one offset", "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[24]}}", 24,
      "w.data_offsets|has 1 numbers|expected 2" },
    { "three offsets", "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24,24]}}", 24,
      "has 3 numbers" },
    { "offsets are no array", "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":24}}", 24,
      "w.data_offsets is no array" },
    { "size is not that of the shape", "{" T("w", "F32", "[2,3]", 0, 20) "}", 20,
      "w.data_offsets spans 20 bytes|expected 24 for F32" },
    { "size is not that of the type", "{" T("w", "F16", "[2,3]", 0, 24) "}", 24,
      "expected 12 for F16" },
    { "shape product wraps to 0", "{" T("w", "F32", "[4294967296,4294967296]", 0, 0) "}", 0,
      "w.shape has more elements than 64 bits" },
    { "shape product wraps to the size", "{" T("w", "U8", "[2305843009213693953,8]", 0, 8) "}", 8,
      "w.shape has more elements" },
    { "negative dimension", "{" T("w", "F32", "[-2,-3]", 0, 24) "}", 24, "w.shape[0]|is -2" },
    { "dimension 2.0", "{" T("w", "F32", "[2.0,3]", 0, 24) "}", 24, "w.shape[0] is 2.0" },
    { "dimension \"2\"", "{" T("w", "F32", "[\"2\",3]", 0, 24) "}", 24,
      "w.shape[0]|expected a whole" },
    { "dimension null", "{" T("w", "F32", "[null]", 0, 24) "}", 24, "w.shape[0] is null" },
    { "nine dimensions", "{" T("w", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1,
      "w.shape has 9 numbers|at most 8" },
    { "half a byte", "{" T("w", "F4", "[3]", 0, 1) "}", 1,
      "w.shape makes 12 bits of F4|whole bytes" },
    { "no dtype", "{\"w\":{\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24, "key w has no dtype" },
    { "no shape", "{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,24]}}", 24, "key w has no shape" },
    { "no offsets", "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,3]}}", 24,
      "key w has no data_offsets" },
    { "dtype is a number", "{\"w\":{\"dtype\":32,\"shape\":[6],\"data_offsets\":[0,24]}}", 24,
      "w.dtype is not the name of a type, expected one such as F32" },
    { "unknown field", "{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0}}", 1,
      "key w.x is no field of a tensor|expected dtype" },
    { "unknown field with a zero byte",
      "{\"w\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1],\"dtype\\u0000\":0}}", 1,
      "key w.dtype\\x00 is no field of a tensor" },
    { "tensor is a number", "{\"w\":5}", 0, "key w is no object" },
    { "tensor is an array", "{\"w\":[]}", 0, "key w is no object" },
    { "the same tensor twice", "{" W "," W "}", 24, "key w stands twice" },
    { "the same tensor twice, escaped", "{" W "," T("\\u0077", "U8", "[1]", 24, 25) "}", 25,
      "key w stands twice" },
    { "the same field twice", "{\"w\":{\"dtype\":\"U8\",\"dtype\":\"F32\"}}", 24,
      "w.dtype stands twice" },
    { "__metadata__ twice", "{\"__metadata__\":{},\"__metadata__\":{}," W "}", 24, "stands twice" },
    { "__metadata__ of a number", "{\"__metadata__\":{\"a\":1}," W "}", 24,
      "__metadata__.a is no string" },
    { "__metadata__ is a string", "{\"__metadata__\":\"pt\"," W "}", 24,
      "__metadata__ is no object" },
    { "zero byte in a name", "{" T("__metadata__\\u0000", "U8", "[1]", 0, 1) "}", 1, "zero byte" },
    { "header begins with a space", " {" W "}", 24, "does not begin with '{'" },
    { "header is an array", "[]", 0, "does not begin with '{'" },
    /* matrices in blocks */
    { "blocks of another version", "{\"__metadata__\":{\"mm.blocks\":\"2\"}," W "}", 24,
      "__metadata__.mm.blocks is 2, expected 1|another version of mm" },
    { "blocks of no tensor", "{" BLOCKS("v", "Q8 [8, 32]") ONE_BLOCK "}", 272,
      "__metadata__.v is no tensor of this file" },
    { "blocks of no type", "{" BLOCKS("w", "Q5 [8, 32]") ONE_BLOCK "}", 272,
      "__metadata__.w is Q5 [8, 32], expected such as Q8" },
    { "blocks and more", "{" BLOCKS("w", "Q8 [8, 32] ") ONE_BLOCK "}", 272,
      "is Q8 [8, 32] , expected such as" },
    { "blocks of no rows", "{" BLOCKS("w", "Q8 [0, 32]") ONE_BLOCK "}", 272,
      "is Q8 [0, 32], expected such as" },
    { "blocks of too many rows",
      "{" BLOCKS("w", "Q8 [4294967304, 32]") ONE_BLOCK "}", 272,
      "expected such as Q8" },
    { "blocks that are too few", "{" BLOCKS("w", "Q8 [9, 32]") ONE_BLOCK "}", 272,
      "w is Q8 [9, 32], which is U8 [2, 1, 272], but the tensor is U8 [1, 1, 272]" },
    { "blocks of the other type", "{" BLOCKS("w", "Q4 [8, 32]") ONE_BLOCK "}", 272,
      "which is U8 [1, 1, 144], but the tensor is U8 [1, 1, 272]" },
    { "blocks that are no bytes",
      "{" BLOCKS("w", "Q8 [8, 32]") T("w", "F16", "[1,1,136]", 0, 272) "}", 272,
      "which is U8 [1, 1, 272], but the tensor is F16 [1, 1, 136]" },
    { "header is half an object", "{" W, 24, "header|not valid JSON|found the end of the text" },
    { "header goes on", "{" W "}{}", 24, "found '{', expected the end of the text" },
    { "header ends with a newline", "{" W "} \n", 24, "is 0x0a, expected spaces only" },
    { "header ends in a backslash", "{\"w\\", 0, "not valid JSON" },
    { "header is not UTF-8", "{\"\xff\":0}", 0, "found the byte 0xff, expected UTF-8" },
    { "header is too deep", "{\"w\":[[[[[[[[]]]]]]]]}", 0, "no more than 8 levels" },
    { "escape sequence in a name", "{" T("\\u001b[31m", "F32", "[1]", 0, 5) "}", 5,
      "key \\x1b[31m" },
};

static void bad_headers(void)
{
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        write_model("model.safetensors", bad[i].header, bad[i].n_data);
        refused(bad[i].what, open_only, scratch_string("model.safetensors|%s", bad[i].needles));
    }
    char long_name[1200], *header;
    memset(long_name, 'a', sizeof long_name);
    long_name[1025] = 0;
    header = scratch_string("{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
                            long_name);
    write_model("model.safetensors", header, 1);
    refused("a name of 1025 bytes", open_only, "has a name of 1025 bytes, expected at most 1024");
}

/* A matrix in blocks is taken where one is asked for, at an odd address too, of its size only. */
static void load_matrix(void)
{
    Tensor t = ckpt_matrix(ckpt_open(dir), "w", 9, 33, LAYER_MATRIX);
    if (t.dtype != Q4 || n_rows(t) != 9 || n_cols(t) != 33 || (uintptr_t)t.data % 2) _exit(9);
}

static void blocks(void)
{
    write_model("model.safetensors", "{" BLOCKS("w", "Q4 [9, 33]") T("x", "U8", "[1]", 0, 1) ","
                T("w", "U8", "[2,2,144]", 1, 577) "}", 577);
    accepted("a matrix in blocks", load_matrix);
    write_model("model.safetensors", "{" BLOCKS("w", "Q4 [10, 33]")
                T("w", "U8", "[2,2,144]", 0, 576) "}", 576);
    refused("a matrix in blocks of another size", load_matrix,
            "tensor w is Q4 [10, 33], expected [9, 33]|config.json says so");
}

/* Files that are something else, or damaged before the header. */
static void bad_files(void)
{
    static const struct { const char *what, *bytes; size_t n; const char *needles; } cases[] = {
        { "empty file", "", 0, "is empty, expected safetensors|download the file" },
        { "seven bytes", "\2\0\0\0\0\0\0", 7, "has 7 bytes, expected at least 8" },
        { "length only", "\2\0\0\0\0\0\0\0", 8, "has 8 bytes, its first 8 promise a header of 2" },
        { "header of length 0", "\0\0\0\0\0\0\0\0{}", 10, "header of 0 bytes|expected JSON" },
        { "header of length 1", "\1\0\0\0\0\0\0\0{}", 10, "header of 1 bytes|expected JSON" },
        { "header longer than the file", "\3\0\0\0\0\0\0\0{}", 10, "has 10 bytes|header of 3" },
        { "header of 100,000,001 bytes", "\x01\xe1\xf5\x05\0\0\0\0{}", 10,
          "100000001 bytes, expected at most" },
        { "length that wraps", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10,
          "18446744073709551615 bytes" },
        { "length 2^64 - 8", "\xf8\xff\xff\xff\xff\xff\xff\xff{}", 10,
          "expected at most 100000000" },
        { "LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", 63,
          "is a Git LFS pointer|expected safetensors|git lfs pull" },
        { "HTML", "\n<!DOCTYPE html><html><head>", 28, "is an HTML page|download the file|log in" },
        { "html in small letters", "<html lang=en>Forbidden", 23, "is an HTML page" },
        { "ZIP, as of torch.save()", "PK\3\4\0\0\0\0\0\0\0\0", 12,
          "is a ZIP archive|mm convert" },
        { "pickle", "\x80\2}q\0(X\1\0\0\0a", 12, "is a Python pickle|mm convert" },
        { "GGUF", "GGUF\3\0\0\0\0\0\0\0", 12, "is a GGUF file|safetensors files instead" },
        { "gzip", "\x1f\x8b\x08\0\0\0\0\0\0\0", 10, "is a gzip archive|gunzip" },
        { "HDF5", "\x89HDF\r\n\x1a\n\0\0", 10, "is an HDF5 file" },
        { "text", "hello, this is no model\n", 24, "first 8 bytes promise|expected at most" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_file("model.safetensors", cases[i].bytes, cases[i].n);
        refused(cases[i].what, open_only, scratch_string("model.safetensors|%s", cases[i].needles));
    }
}

/* === Directories ============================================================================== */

static void made(int status, const char *name) { if (status) perror(name); }
static void make_fifo(const char *name)   { made(mkfifo(in_dir(name), 0600), name); }
static void make_folder(const char *name) { made(mkdir(in_dir(name), 0700), name); }
static void make_link(const char *to, const char *name) { made(symlink(to, in_dir(name)), name); }

static void bad_directories(void)
{
    refused("nothing", open_only, "has no weights, expected model.safetensors|download");
    write_text("pytorch_model.bin", "PK");
    refused("pytorch_model.bin only", open_only,
            "has pytorch_model.bin, expected model.safetensors|"
            "run `mm convert`");
    write_text("model.ckpt", "PK");
    refused("model.ckpt only", open_only, "has model.ckpt|mm convert");
    write_text("consolidated.00.pth", "PK");
    refused("pth only", open_only, "has consolidated.00.pth|mm convert");
    write_text("model-q4.gguf", "GGUF");
    refused("GGUF only", open_only, "has model-q4.gguf|get the model's safetensors files");
    write_text("model.onnx", "");
    refused("ONNX only", open_only, "has model.onnx|get the model's safetensors files");
    write_model("b.safetensors", "{" W "}", 24);
    write_model("a.safetensors", "{" W "}", 24);
    refused("two files", open_only,
            "has 2 files *.safetensors (a.safetensors, ...), expected one|name it");
    make_folder("model.safetensors");
    refused("a folder", open_only, "model.safetensors: is a directory, expected a regular file");
    make_fifo("model.safetensors");
    refused("a FIFO", open_only, "model.safetensors: is a FIFO, expected a regular file");
    make_link("/dev/zero", "model.safetensors");
    refused("a link to a device", open_only,
            "leads out of the model directory, to /dev/zero|copy it");
    make_link("/etc/passwd", "model.safetensors");
    refused("a link out", open_only,
            "leads out of the model directory, to /etc/passwd|expected a file");
    make_link("../../../../../../etc/passwd", "model.safetensors");
    refused("a relative link out", open_only, "leads out of the model directory, to /etc/passwd");
    make_link("nowhere", "model.safetensors");
    refused("a link to nowhere", open_only, "is a symbolic link to what is not there|download");
    make_link("model.safetensors", "model.safetensors");
    refused("a link to itself", open_only, "model.safetensors: cannot be opened");
    if (geteuid() != 0) {
        write_model("model.safetensors", "{" W "}", 24);
        chmod(in_dir("model.safetensors"), 0);
        refused("not readable", open_only,
                "model.safetensors: cannot be opened: Permission denied");
    }
}

#define INDEX "model.safetensors.index.json"
static const char first[] = "m-1.safetensors", second[] = "m-2.safetensors";

/* Two good shards, w in the first and b in the second. */
static void write_shards(const char *map)
{
    write_model(first, "{" W "}", 24);
    write_model(second, "{" T("b", "F32", "[2]", 0, 8) "}", 8);
    write_text(INDEX, scratch_string("{\"metadata\":{\"total_size\":32},\"weight_map\":%s}", map));
}

static void shards(void)
{
    static const char good[] = "{\"w\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}";
    write_shards(good);
    accepted("two shards", load_small);

    static const char *const names[] = {
        "../m-1.safetensors", "/etc/m-1.safetensors", "sub/m-1.safetensors", "..", "",
        ".safetensors", "-m.safetensors", "m-1.bin", "m-1.safetensors\\u0000",
        "m\\\\1.safetensors", "C:m.safetensors", "m 1.safetensors", "m-1.safetensors/",
        "https://h/m-1.safetensors",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        write_shards(scratch_string("{\"w\":\"%s\",\"b\":\"m-2.safetensors\"}", names[i]));
        refused(scratch_string("shard named %s", names[i]), open_only,
                INDEX "|key weight_map.w is |expected the name of a .safetensors file");
    }
    static const struct { const char *what, *map, *needles; } maps[] = {
        { "shard that is missing", "{\"w\":\"m-1.safetensors\",\"b\":\"m-3.safetensors\"}",
          "m-3.safetensors: shard 2 of 2 is missing|" INDEX "|download" },
        { "tensor in the other shard", "{\"w\":\"m-2.safetensors\",\"b\":\"m-1.safetensors\"}",
          "weight_map.w is m-2.safetensors, but the tensor is in m-1.safetensors" },
        { "tensor in no shard",
          "{\"w\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\",\"c\":\"m-2.safetensors\"}",
          "weight_map.c is m-2.safetensors, but the tensor is in no shard" },
        { "tensor that is not listed", "{\"w\":\"m-1.safetensors\",\"x\":\"m-2.safetensors\"}",
          "weight_map.x is m-2.safetensors, but the tensor is in no shard" },
        { "shard number", "{\"w\":1}", "weight_map.w is no string" },
        { "tensor listed twice", "{\"w\":\"m-1.safetensors\",\"w\":\"m-1.safetensors\"}", "twice" },
        { "empty map", "{}", "weight_map is not there or empty" },
        { "map is an array", "[]", "weight_map is not there or empty" },
        { "name with a zero byte", "{\"w\\u0000\":\"m-1.safetensors\"}",
          "the tensor is in no shard" },
    };
    for (size_t i = 0; i < sizeof maps / sizeof maps[0]; i++) {
        write_shards(maps[i].map);
        refused(maps[i].what, open_only, maps[i].needles);
    }
    write_shards(good);
    write_model(second, "{" T("b", "F32", "[2]", 0, 8) "," T("c", "U8", "[1]", 8, 9) "}", 9);
    refused("a shard with more than is listed", open_only,
            "m-2.safetensors: tensor c is not in the weight_map of|" INDEX);
    write_shards(good);
    write_model(second, "{" T("b", "F32", "[2]", 0, 8) "," T("w", "F32", "[2,3]", 8, 32) "}", 32);
    refused("a tensor in two shards", open_only,
            "m-2.safetensors: tensor w is in m-1.safetensors too");
    write_shards(good);
    write_model(second, "{" T("b", "F32", "[2]", 0, 8) "}", 7);
    refused("the second shard is cut", open_only, "m-2.safetensors: has |its header promises");
    write_shards(good);
    unlink(in_dir(second));
    make_fifo(second);
    refused("a FIFO as shard", open_only, "m-2.safetensors: is a FIFO, expected a regular file");
    write_shards(good);
    unlink(in_dir(second));
    make_link("/etc/passwd", second);
    refused("a link out as shard", open_only, "m-2.safetensors: leads out of the model directory");
    write_shards(good);
    write_text(INDEX, "{\"metadata\":{}}");
    refused("no weight_map", open_only, INDEX ": key weight_map is not there");
    write_shards(good);
    write_text(INDEX, "[1,2");
    refused("index that is no JSON", open_only, INDEX ": not valid JSON: line 1, byte 4");
    write_shards(good);
    write_text(INDEX, "version https://git-lfs.github.com/spec/v1\n");
    refused("index that is an LFS pointer", open_only, INDEX ": is a Git LFS pointer|git lfs pull");
}

/* === What a loader asks for =================================================================== */

static const struct { const char *what, *header; size_t n_data; const char *needles; } wrong[] = {
    { "no tensor at all", "{}", 0, "tensor w is missing, expected among the 0|config.json" },
    { "other tensors", "{" T("encoder.layer.weight", "F32", "[1]", 0, 4) "}", 4,
      "tensor w is missing" },
    { "another prefix", "{" T("model.w", "F32", "[2,3]", 0, 24) "}", 24, "tensor w is missing" },
    { "transposed", "{" T("w", "F32", "[3,2]", 0, 24) "}", 24,
      "tensor w is F32 [3, 2], expected [2, 3]|config.json says so" },
    { "flat", "{" T("w", "F32", "[6]", 0, 24) "}", 24, "tensor w is F32 [6], expected [2, 3]" },
    { "rank 5", "{" T("w", "F32", "[1,1,1,2,3]", 0, 24) "}", 24,
      "is F32 [1, 1, 1, 2, 3], expected" },
    { "rank 0", "{" T("w", "F32", "[]", 0, 4) "}", 4, "is F32 [], expected [2, 3]" },
    { "zero rows", "{" T("w", "F32", "[0,3]", 0, 0) "}", 0, "is F32 [0, 3], expected [2, 3]" },
    { "dimension of 2^32 + 2", "{" T("w", "F32", "[4294967298,0]", 0, 0) "}", 0,
      "[4294967298, 0], exp" },
    { "F64", "{" T("w", "F64", "[2,3]", 0, 48) "}", 48,
      "w is F64 [2, 3], expected F32, F16 or BF16|get" },
    { "F8", "{" T("w", "F8_E4M3", "[2,3]", 0, 6) "}", 6,
      "is F8_E4M3 [2, 3], expected F32, F16 or BF16" },
    { "I64", "{" T("w", "I64", "[2,3]", 0, 48) "}", 48,
      "is I64 [2, 3], expected F32, F16 or BF16" },
    { "BOOL", "{" T("w", "BOOL", "[2,3]", 0, 6) "}", 6,
      "is BOOL [2, 3], expected F32, F16 or BF16" },
    { "a type of the future", "{" T("w", "Q3_K", "[2,3]", 0, 6) "}", 6,
      "is Q3_K [2, 3], expected F32" },
    { "a matrix in blocks where none may be",
      "{" BLOCKS("w", "Q8 [2, 3]") ONE_BLOCK "}", 272,
      "tensor w is quantised (Q8 [2, 3]), expected F32, F16 or BF16|quantize the model again" },
    { "optional bias of another shape", "{" W "," T("b", "F32", "[3]", 24, 36) "}", 36,
      "tensor b is F32 [3], expected [2]" },
    { "one tensor too many", "{" W "," T("v", "F32", "[1]", 24, 28) "}", 28,
      "has 1 tensor that this architecture does not have, expected none: v|config.json" },
    { "six too many", "{" W "," T("1", "U8", "[0]", 24, 24) "," T("2", "U8", "[0]", 24, 24) ","
      T("3", "U8", "[0]", 24, 24) "," T("4", "U8", "[0]", 24, 24) ","
      T("5", "U8", "[0]", 24, 24) "," T("6", "U8", "[0]", 24, 24) "}", 24,
      "has 6 tensors|: 1, 2, 3, 4, ..." },
};

static void load_prefixed(void)
{
    ckpt_get(ckpt_at(ckpt_open(dir), "encoder.layers.%d.", 0), "mlp.weight", 2, 3);
}

static void load_scalar(void) { ckpt_scalar(ckpt_open(dir), "w"); }

static void wrong_tensors(void)
{
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        write_model("model.safetensors", wrong[i].header, wrong[i].n_data);
        refused(wrong[i].what, load_small,
                scratch_string("model.safetensors|%s", wrong[i].needles));
    }
    write_model("model.safetensors",
                "{" T("clip.encoder.layers.0.mlp.weight", "U8", "[1]", 0, 1) "}", 1);
    refused("a name with another prefix", load_prefixed, "encoder.layers.0.mlp.weight is missing|"
            "there is clip.encoder.layers.0.mlp.weight; is ");
    write_model("model.safetensors", "{" W "}", 24);
    refused("not a scalar", load_scalar, "w is F32 [2, 3], expected one number");
}

/* === Configurations =========================================================================== */

static void load_config(void)
{
    size_t n;
    char *text = model_file(dir, "config.json", 1 << 20, &n);
    Json config = json_parse(in_dir("config.json"), text, n, 64, EXIT_FILE);
    int d = json_int_need(config, "hidden_size", 1, 65536);
    int n_heads = json_int(config, "num_attention_heads", 12, 1, 1024);
    if (d % n_heads) json_error(json_get(config, "num_attention_heads"), "does not divide %d", d);
    json_float(config, "layer_norm_eps", 1e-12, 0, 1);
    json_act(config, "hidden_act", GELU);
    json_bool(config, "tie", true);
}

static void configs(void)
{
    static const struct { const char *text, *needles; } cases[] = {
        { "{\"hidden_size\":0}", "hidden_size is 0, expected an integer from 1 to 65536" },
        { "{\"hidden_size\":-1}", "hidden_size is -1, expected" },
        { "{\"hidden_size\":1000000000}", "hidden_size is 1000000000, expected" },
        { "{\"hidden_size\":1e9}", "hidden_size is 1e9, expected" },
        { "{\"hidden_size\":1.5}", "hidden_size is 1.5, expected" },
        { "{\"hidden_size\":18446744073709551617}", "is 18446744073709551617, expected" },
        { "{\"hidden_size\":\"768\"}", "hidden_size is \"768\", expected" },
        { "{\"hidden_size\":null}", "hidden_size is null, expected" },
        { "{\"hidden_size\":[768]}", "hidden_size is an array, expected" },
        { "{\"hidden_size\":{}}", "hidden_size is an object, expected" },
        { "{}", "hidden_size is missing, expected" },
        { "[]", "is an array, expected an object" },
        { "5", "is 5, expected an object" },
        { "{\"hidden_size\":768,\"num_attention_heads\":0}", "num_attention_heads is 0, expected" },
        { "{\"hidden_size\":768,\"num_attention_heads\":7}",
          "num_attention_heads does not divide 768" },
        { "{\"hidden_size\":767}", "num_attention_heads does not divide 767" },
        { "{\"hidden_size\":768,\"layer_norm_eps\":-1}",
          "layer_norm_eps is -1, expected a number" },
        { "{\"hidden_size\":768,\"layer_norm_eps\":1e999}", "layer_norm_eps is 1e999, expected" },
        { "{\"hidden_size\":768,\"layer_norm_eps\":NaN}", "line 1, byte 36: found 'N'" },
        { "{\"hidden_size\":768,\"hidden_act\":\"mish\"}", "hidden_act is \"mish\", expected" },
        { "{\"hidden_size\":768,\"tie\":\"yes\"}", "tie is \"yes\", expected true or false" },
        { "{\"hidden_size\":768,\"hidden_size\":1024}", "hidden_size stands twice" },
        { "{\"hidden_size\":768,}", "not valid JSON|found '}', expected a key" },
        { "{'hidden_size':768}", "found ''', expected a key" },
        { "// c\n{}", "not valid JSON|found '/'" },
        { "", "not valid JSON|the end of the text" },
        { "<!doctype html>", "is an HTML page|download" },
        { "version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer|git lfs pull" },
        { "\xef\xbb\xbf{}", "byte order mark" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_text("config.json", cases[i].text);
        refused(cases[i].text, load_config, scratch_string("config.json: |%s", cases[i].needles));
    }
    write_text("config.json", "{\"hidden_size\":768,\"num_attention_heads\":null,\"other\":[{}]}");
    accepted("a good config", load_config);
    char *large = scratch_bytes(2 << 20);
    memset(large, ' ', 2 << 20);
    write_file("config.json", large, 2 << 20);
    refused("a config of 2 MB", load_config,
            "config.json: has 2097152 bytes, expected at most 1048576");
    make_link("/etc/hostname", "config.json");
    refused("a config elsewhere", load_config, "config.json: leads out of the model directory");
    make_fifo("config.json");
    refused("a config that is a FIFO", load_config, "config.json: is a FIFO");
    size_t n;
    check(!model_file(dir, "config.json", 1, &n) && n == 0, "no config is NULL", "something");
    check(!json_file(dir, "config.json", 1).node, "no config is absent", "something");
    empty(dir);
}

/* === Odd, and valid =========================================================================== */

static void load_listed(void)
{
    Ckpt ck = ckpt_open(dir);
    if (ckpt_count(ck) != 3 || strcmp(ckpt_entry(ck, 2).dtype, "Q3_K")) _exit(9);
    if (strcmp(ckpt_entry(ck, 1).name, "f4") || ckpt_entry(ck, 1).n_bytes != 2) _exit(9);
}

/* The data of w begins at an odd address, and with the bytes 1 2 3 4. */
static void load_unaligned(void)
{
    Tensor w = ckpt_get(ckpt_open(dir), "w", 2, 3);
    static const uint8_t bytes[] = { 2, 3, 4, 5 };
    if ((uintptr_t)w.data % sizeof(float) || memcmp(w.data, bytes, 4)) _exit(9);
}

static void load_scalars(void)
{
    Ckpt ck = ckpt_open(dir);
    float a = ckpt_scalar(ck, "f32"), b = ckpt_scalar(ck, "f16"), c = ckpt_scalar(ck, "bf16");
    if (a != 1.5f || b != 1.5f || c != 1.5f) _exit(9);
    ckpt_done(ck);
}

static void odd_but_valid(void)
{
    write_model("model.safetensors", "{}", 0);
    accepted("no tensors", open_only);
    write_model("model.safetensors", "{" W "}      ", 24);
    accepted("padded with spaces", load_small);
    write_model("model.safetensors", "{ \"__metadata__\" : {\"format\":\"pt\"} , \n" W "\t}", 24);
    accepted("white space and metadata", load_small);
    write_model("model.safetensors", "{" T("b", "F16", "[2]", 24, 28) "," W "}", 28);
    accepted("not in the order of offsets", load_small);
    write_model("model.safetensors", "{" W "," T("a.position_ids", "I64", "[0,5]", 24, 24) ","
                T("c.position_ids", "I64", "[]", 24, 32) "}", 32);
    accepted("zero-sized and rank 0, ignored by pattern", load_small);
    write_model("model.safetensors", "{" T("a", "U8", "[1]", 0, 1) ","
                T("f4", "F4", "[4]", 1, 3) "," T("q", "Q3_K", "[7]", 3, 8) "}", 8);
    accepted("types that are only listed", load_listed);
    write_model("model.safetensors", "{" T("a", "U8", "[1]", 0, 1) "," T("w", "F32", "[2,3]", 1, 25)
                "}    ", 25);
    accepted("an unaligned tensor", load_unaligned);
    write_model("weights.safetensors", "{" W "}", 24);
    write_text("pytorch_model.bin", "PK");
    accepted("the only *.safetensors, of another name", load_small);
    write_model("real", "{" W "}", 24);
    make_link("real", "model.safetensors");
    accepted("a link inside the directory", load_small);

    size_t n;
    uint8_t *bytes = build(&n, "{" T("f32", "F32", "[]", 0, 4) "," T("f16", "F16", "[1]", 4, 6) ","
                           T("bf16", "BF16", "[]", 6, 8) "}", 0, 8);
    memcpy(bytes + n - 8, "\0\0\xc0\x3f\0\x3e\xc0\x3f", 8);
    write_file("model.safetensors", bytes, n);
    accepted("scalars of three types", load_scalars);
}

/* models--o--n/{blobs/b, snapshots/c/model.safetensors -> ../../blobs/b}, as the Hub's cache is. */
static void hub_cache(void)
{
    char outer[sizeof dir];
    memcpy(outer, dir, sizeof dir);
    make_folder("models--o--n");
    make_folder("models--o--n/blobs");
    make_folder("models--o--n/snapshots");
    make_folder("models--o--n/snapshots/c");
    write_model("models--o--n/blobs/b", "{" W "}", 24);
    write_model("outside", "{" W "}", 24);
    snprintf(dir, sizeof dir, "%.200s/models--o--n/snapshots/c", outer);
    make_link("../../blobs/b", "model.safetensors");
    accepted("a blob of the cache", load_small);
    make_link("../../../outside", "model.safetensors");
    refused("out of the cache's repository", load_small, "leads out of the model directory");
    snprintf(dir, sizeof dir, "%.200s/models--o--n", outer);
    make_link("../outside", "model.safetensors");
    Outcome o = run(load_small);
    check(o.code == EXIT_FILE, "the repository itself is no snapshot", o.err);
    memcpy(dir, outer, sizeof dir);
    empty(dir);
}

static void touch_truncated(void)
{
    size_t n;
    const volatile uint8_t *bytes = model_map(dir, "model.safetensors", &n);
    if (truncate(in_dir("model.safetensors"), 100)) _exit(9);
    _exit(bytes[n - 1]);
}

/* The file becomes shorter while it is mapped: SIGBUS, told as what it is. */
static void shorter_file(void)
{
    write_model("model.safetensors", "{}", 100000);
    refused("truncated while in use", touch_truncated,
            "could not be read while in use, expected its "
            "100010 bytes|the file was made shorter");
}

/* === In memory ================================================================================ */

/* What ckpt_parse says to these bytes: 0, or the exit code. They end where the
 * memory ends, for the sanitizer. */
static int parse_code(const uint8_t *bytes, size_t n)
{
    jmp_buf place;
    uint8_t *copy = malloc(n ? n : 1);
    memcpy(copy, bytes, n);
    int code = setjmp(place);
    if (code == 0) {
        die_landing = &place;
        Ckpt ck = ckpt_parse("memory", copy, n);
        for (int i = 0; i < ckpt_count(ck); i++) {
            CkptEntry e = ckpt_entry(ck, i);
            if (e.offset > n || e.n_bytes > n - e.offset) code = EXIT_BUG;
        }
    }
    die_landing = NULL;
    free(copy);
    return code;
}

static void cut_and_changed(void)
{
    size_t n;
    uint8_t *bytes = build(&n, "{\"__metadata__\":{\"a\":\"\\u00e4\"}," W ","
                           T("b", "BF16", "[2]", 24, 28) "}  ", 0, 28);
    check(parse_code(bytes, n) == 0, "the file that is cut and changed", "refused");
    int n_taken = 0, n_odd = 0;
    for (size_t i = 0; i < n; i++) n_taken += parse_code(bytes, i) != EXIT_FILE;
    check(n_taken == 0, "the file cut off at every byte", scratch_string("%d taken", n_taken));
    for (size_t i = 0; i < n - 28; i++) {
        for (int bit = 0; bit < 8; bit++) {
            bytes[i] ^= (uint8_t)(1 << bit);
            int code = parse_code(bytes, n);
            n_odd += code != 0 && code != EXIT_FILE;
            bytes[i] ^= (uint8_t)(1 << bit);
        }
    }
    check(n_odd == 0, "the file with every bit changed", scratch_string("%d odd ends", n_odd));
}

static void many_tensors(void)
{
    enum { N = 10000 };
    size_t size = (size_t)N * 96, n = 0, n_file;
    char *header = scratch_bytes(size), name[64];
    for (int i = 0; i < N; i++)
        n += (size_t)snprintf(header + n, size - n, "%c\"layers.%d.weight\":"
                              "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                              i ? ',' : '{', i, i, i + 1);
    n += (size_t)snprintf(header + n, size - n, "}");
    uint8_t *bytes = build(&n_file, header, n, N);
    Ckpt ck = ckpt_parse("many", bytes, n_file);
    int found = 0;
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "%d.weight", i);
        found += ckpt_has(ckpt_at(ck, "layers."), name);
    }
    check(ckpt_count(ck) == N && found == N, "10,000 tensors", scratch_string("%d", found));
    check(!ckpt_has(ck, "layers.10000.weight") && ckpt_bytes(ck) == N, "and no more", "more");
    ckpt_ignore(ck, "layers.*.weight");
    ckpt_done(ck);
}

/* === Models in the program ==================================================================== */

static const char *built_in_dir;

static void read_too_much(void)
{
    size_t n;
    model_file(built_in_dir, "config.json", 10, &n);
}

/* All tensors are used where the program has them: nothing is copied, nothing lies elsewhere. */
static bool all_in_place(Ckpt ck, const uint8_t *bytes, size_t n)
{
    for (int i = 0; i < ckpt_count(ck); i++) {
        CkptEntry e = ckpt_entry(ck, i);
        int dim[4];
        for (int k = 0; k < e.ndim && k < 4; k++) dim[k] = (int)e.dim[k];
        Tensor t = ckpt_get_shape(ck, e.name, e.ndim, dim);
        if (t.data != bytes + e.offset || e.offset + e.n_bytes > n) return false;
    }
    return ckpt_count(ck) > 0;
}

static void built_in(void)
{
    size_t n, m;
    for (const BuiltinModel *b = builtin_models(); b->dir; b++) {
        const uint8_t *bytes = builtin_file(b->dir, "model.safetensors", &n);
        check(bytes && (uintptr_t)bytes % 64 == 0, b->dir, "weights that are not aligned");
        check(model_map(b->dir, "model.safetensors", &m) == bytes && m == n, b->dir, "a copy");
        check(all_in_place(ckpt_open(b->dir), bytes, n), b->dir, "tensors that are elsewhere");
        const char *text = model_file(b->dir, "config.json", 1 << 20, &n);
        check(text && n && strlen(text) == n, b->dir, "a config.json that does not end");
        check(!model_file(b->dir, "../config.json", 1 << 20, &n) && !n, b->dir, "a file elsewhere");
        built_in_dir = b->dir;
        Outcome o = run(read_too_much);
        check(o.code == EXIT_FILE && strstr(o.err, "at most 10"), "a file too long", o.err);
    }
    check(!model_map("builtin:none", "model.safetensors", &n) && !n, "builtin:none", "a file");
    n_skipped = !builtin_models()->dir;
    if (n_skipped) printf("skipped: no models in the program\n");
}

int main(void)
{
    make_dir("mm-files");
    bad_headers();
    blocks();
    bad_files();
    bad_directories();
    shards();
    wrong_tensors();
    configs();
    odd_but_valid();
    hub_cache();
    shorter_file();
    cut_and_changed();
    many_tensors();
    built_in();
    empty(dir);
    rmdir(dir);
    printf("files: %d passed, %d failed, %d skipped\n", n_passed, n_failed, n_skipped);
    return n_failed > 0;
}
