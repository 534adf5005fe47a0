/* quant.c -- weights in 8 or 4 bits: which, and what it costs; at load (--quant), and for the file
 * that mm quantize writes (quantize.c). What the formats are: kernels/quant_ref.c.
 *
 *   matrix [n, k], F32, F16 or BF16 -> 8 rows at a time, on all threads: f32 -> blocks -> memory
 *
 * Which matrices:
 *   layers (linear_load)         Q8 or Q4, as asked for
 *   output matrices (HEAD_MATRIX)       Q8, also where Q4 is asked for
 *   tables of embeddings         as they are: of them a row is read now and then. A table that is
 *                                the output matrix, too, is one
 *   convolutions, norms, biases  as they are: small, or not multiplied with by linear layers
 *   less than 16 x 32            as they are: they would not become smaller
 *
 * What it costs: the relative error of the weights of the 42 layers of a model of 15 million
 * numbers (stories15M), root of the mean square; and how far log-probabilities move, their absolute
 * difference weighted by the probability, over eight texts of 200 tokens that it wrote itself. A
 * larger model loses less. Measured by test/quality.c:
 *
 *   layers                                        bits   weights   log p
 *   Q8                                            8.5    0.54 %    0.020    output matrix as it is
 *   Q8                                            8.5    0.54 %    0.0225   output matrix in Q8
 *   Q4                                            4.5    7.32 %    0.1805   as it is
 *   Q4                                            4.5    7.32 %    0.180    in Q8
 *   Q4                                            4.5    7.32 %    0.212    in Q4
 *
 * This model's output matrix is its table of embeddings, too, so quantising such a table is part of
 * it: in 8 bits it costs next to nothing, in 4 more than all layers in 8. With the formats modelled
 * in PyTorch, on other texts; the output matrix in Q8:
 *
 *   Q8                                            8.5    0.54 %    0.027
 *   Q4                                            4.5    7.32 %    0.216
 *   16 steps from a minimum to the maximum        5.0    7.87 %    0.245
 *   the same, both ends searched                  5.0    7.08 %    0.218
 *   16 steps of max / -8                          4.5    8.68 %    0.271
 *   the same, the step searched                   4.5    8.17 %    0.257
 *
 * So 16 well placed values do what a scale and a minimum do, with half a bit less. The scale of a
 * block is the one with the least sum of squares. Weighting these by the size of the weights (s is
 * its root mean square in the block) brings nothing: 0.1795 with |w| + s, 0.180 with the root of
 * w^2 + s^2, 0.184 with w^2 + s^2, where plain squares give 0.180.
 *
 * Of pictures: with the built-in models, smaller still, the captions of the four scenes of
 * models/demo stay the same in Q8 and Q4. CLIP's vectors of 17 pictures have a cosine with those of
 * f16 weights of 0.9999 or more in Q8, 0.998 (median; 0.986 the least) in Q4.
 *
 * Easy to get wrong: rows from a multiple of 8 on are a view, as in any matrix; a model that splits
 * a fused matrix elsewhere gets a copy of its part (linear_rows). */
#include "kernels/kernels.h"
#include "tensor.h"

static DType at_load = OTHER;

void quant_at_load(DType type) { at_load = type; }

DType quant_type(DType type, MatrixUse use, int n, int k)
{
    if (type == OTHER || use == NO_MATRIX || n < 16 || k < Q_COLS) return OTHER;
    return use == HEAD_MATRIX ? Q8 : type;
}

typedef struct {
    uint8_t *to;
    DType    type;
    Tensor   t;
    int      first;
    float   *work;                   /* 8 rows for each thread */
    bool    *finite;                 /* one for each thread */
} Job;

/* Eight rows: as floats, then as blocks. */
static void encode_task(void *ctx, int i, int worker)
{
    const Job *j = ctx;
    int n = j->t.dim[0], k = j->t.dim[1], row = Q_ROWS * (j->first + i);
    int n_rows_here = min(Q_ROWS, n - row);
    float *w = j->work + (size_t)worker * Q_ROWS * (size_t)k;
    const char *from = (const char *)j->t.data +
                       (size_t)row * (size_t)k * dtype_size(j->t.dtype);
    for (int r = 0; r < n_rows_here; r++)
        kernel.cvt[j->t.dtype](w + (size_t)r * (size_t)k,
                               from + (size_t)r * (size_t)k * dtype_size(j->t.dtype), k);
    if (!quant_encode(j->to + (size_t)i * quant_bytes(j->type, 1, k), j->type, w, n_rows_here, k))
        j->finite[worker] = false;
}

void quant_encode_rows(uint8_t *to, DType type, Tensor t, int first, int n)
{
    size_t mark = scratch_mark(), threads = (size_t)n_threads();
    Job job = { .to = to, .type = type, .t = t, .first = first,
                .work = scratch_bytes(mul_size(threads * Q_ROWS, (size_t)t.dim[1] * sizeof(float))),
                .finite = scratch_bytes(threads) };
    for (size_t i = 0; i < threads; i++) job.finite[i] = true;
    parallel_for(n, encode_task, &job);
    for (size_t i = 0; i < threads; i++)
        if (!job.finite[i])
            die(EXIT_FILE, "tensor %s has a NaN or an infinity, which cannot be quantised",
                quoted(t.name));
    scratch_reset(mark);
}

Tensor quant_matrix(Tensor t, MatrixUse use)
{
    if (t.dtype != F32 && t.dtype != F16 && t.dtype != BF16) return t;
    DType type = quant_type(at_load, use, t.dim[0], t.dim[1]);
    if (type == OTHER) return t;
    uint8_t *to = keep_bytes(quant_bytes(type, t.dim[0], t.dim[1]));
    quant_encode_rows(to, type, t, 0, ceil_div(t.dim[0], Q_ROWS));
    t.data = to;
    t.dtype = type;
    return t;
}
