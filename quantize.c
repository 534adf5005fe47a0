/* quantize.c -- mm quantize: a model with weights of 8 or 4 bits, in files that are used in place.
 *
 *   mm quantize MODEL OUT [--quant q8|q4]
 *
 *   the model is loaded, which tells what each tensor is for (quant.c: which are quantised)
 *   -> tensor by tensor, 8 MB of the result at a time -> OUT.PID.tmp/model.safetensors, or shards
 *   and their index -> its other files copied -> renamed to OUT (store.c)
 *
 * What is written are ordinary safetensors. A quantised matrix [n, k] has the name it had, and is
 * U8 [ceil(n/8), ceil(k/32), 272 or 144]: rows of blocks of 8 rows by 32 columns, as they are in
 * memory (kernels/quant_ref.c). The metadata says so:
 *
 *   "mm.blocks": "1"                   the version of this layout
 *   "mm.layout": "..."                 the layout, for whoever reads the file with other tools
 *   NAME:        "Q8 [n, k]"           for each tensor in blocks
 *
 * Easy to get wrong: a piece of 8 MB begins and ends within a row of blocks. Those are made whole,
 * in a buffer, and cut. */
#include <string.h>

#include "convert.h"
#include "model.h"

typedef struct { Tensor t; DType type; } Matrix;             /* type OTHER: stays as it is */
typedef struct { const Weight *weight; Matrix *matrix; } Plan;

/* Bytes first .. first+n-1 of a tensor as it will be. */
static void fill_blocks(void *ctx, const Weight *w, uint8_t *to, uint64_t first, uint64_t n)
{
    const Plan *s = ctx;
    const Matrix *m = &s->matrix[w - s->weight];
    if (m->type == OTHER) {
        weight_copy(w, to, first, n);
        return;
    }
    size_t mark = scratch_mark(), row = quant_bytes(m->type, 1, m->t.dim[1]);
    int begin = (int)(first / row), end = (int)((first + n + row - 1) / row);
    uint8_t *whole = scratch_bytes((size_t)(end - begin) * row);
    quant_encode_rows(whole, m->type, m->t, begin, end - begin);
    memcpy(to, whole + (first - (uint64_t)begin * row), n);
    scratch_reset(mark);
    size_t source = 8 * (size_t)m->t.dim[1] * dtype_size(m->t.dtype);
    hand_back((const uint8_t *)m->t.data + (size_t)begin * source,
              (size_t)(end - begin - (8 * end > m->t.dim[0])) * source);
}

static DType float_type(const char *name)
{
    return !strcmp(name, "F32") ? F32 : !strcmp(name, "F16") ? F16
         : !strcmp(name, "BF16") ? BF16 : OTHER;
}

/* A tensor of the model as it will be written. */
static Weight weight_of(Matrix *m, CkptEntry e, const char *dir, DType type)
{
    Weight w = { .name = e.name, .type = e.dtype, .ndim = e.ndim, .n = 1, .data = e.data,
                 .file = keep_string("%s/%s", dir, e.file) };
    int n = e.ndim == 2 ? (int)e.dim[0] : 0, k = e.ndim == 2 ? (int)e.dim[1] : 0;
    DType from = float_type(e.dtype);
    m->type = from == OTHER ? OTHER : quant_type(type, e.use, n, k);
    m->t = (Tensor){ .data = (void *)(uintptr_t)e.data, .dtype = from, .ndim = 2, .dim = { n, k },
                     .name = e.name };
    if (m->type != OTHER) {
        w.type = "U8";
        w.ndim = 3;
        w.blocks = keep_string("%s [%d, %d]", dtype_name(m->type), n, k);
        e.dim[0] = (n + 7) / 8;
        e.dim[1] = (k + 31) / 32;
        e.dim[2] = (int64_t)quant_bytes(m->type, 1, 1);
        e.n_bytes = quant_bytes(m->type, n, k);
    }
    for (int i = w.ndim - 1; i >= 0; i--) {
        w.dim[i] = e.dim[i];
        w.stride[i] = (int64_t)w.n;
        w.n *= (uint64_t)e.dim[i];
    }
    w.size = w.n ? (int)(e.n_bytes / w.n) : 1;
    if (w.n * (uint64_t)w.size != e.n_bytes)
        die(EXIT_FILE, "%s: tensor %s is %s, expected whole bytes", quoted(w.file), quoted(w.name),
            quoted(w.type));
    return w;
}

static void check(const Model *m, const char *given)
{
    if (is_builtin(m->dir))
        die(EXIT_MODEL, "%s: is in the program, and small: quantize a model of files",
            quoted(given));
    for (int i = 0; i < ckpt_count(m->ck); i++)
        if (ckpt_entry(m->ck, i).blocks != OTHER)
            die(EXIT_MODEL, "%s: is quantised already (tensor %s)\nquantize the model it was made "
                "from", quoted(given), quoted(ckpt_entry(m->ck, i).name));
}

static void report(const Run *r, const char *out, uint64_t before, uint64_t after, int n, int all)
{
    if (!r->o.json && r->o.quiet) return;
    if (r->o.json) {
        Buf b = { 0 };
        put(&b, "{\"v\":1,\"cmd\":\"quantize\",\"i\":0,\"id\":");
        put_json(&b, r->o.operand[0], strlen(r->o.operand[0]));
        put(&b, ",\"ok\":true,\"out\":");
        put_json(&b, out, strlen(out));
        put(&b, ",\"tensors\":%d,\"quantized\":%d,\"bytes_in\":%llu,\"bytes_out\":%llu}\n", all, n,
            (unsigned long long)before, (unsigned long long)after);
        fwrite(b.p, 1, b.n, stdout);
        return;
    }
    printf("%s: %d of %d tensors quantised, %s become %s\n", quoted(out), n, all,
           bytes_string((double)before), bytes_string((double)after));
}

int quantize_model(Run *r, Model *m)
{
    const char *given = r->o.operand[0], *out = r->o.operand[1];
    DType type = r->o.quant && !strcmp(r->o.quant, "q4") ? Q4 : Q8;
    check(m, given);
    size_t n = (size_t)ckpt_count(m->ck);
    int quantised = 0;
    uint64_t bytes = 0;
    Weight *w = keep_bytes(mul_size(n + 1, sizeof *w));
    Matrix *matrix = keep_bytes(mul_size(n + 1, sizeof *matrix));
    for (size_t i = 0; i < n; i++) {
        w[i] = weight_of(&matrix[i], ckpt_entry(m->ck, (int)i), m->dir, type);
        quantised += matrix[i].type != OTHER;
        bytes += w[i].n * (uint64_t)w[i].size;
    }
    if (!quantised)
        die(EXIT_MODEL, "%s: has no matrix that is worth quantising (at least 16 x 32)",
            quoted(given));
    const char *temp = store_begin(out);
    store_folder(temp);
    first_feedback(r, "quantising %s", quoted(r->model.label));
    store_shards(temp, "model", w, n, convert_shard_bytes, fill_blocks, &(Plan){ w, matrix });
    convert_copy_others(m->dir, temp);
    store_done();
    first_feedback(r, "%s", "");
    report(r, out, ckpt_bytes(m->ck), bytes, quantised, (int)n);
    return 0;
}
