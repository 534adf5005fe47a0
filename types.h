/* types.h -- the few words that the kernels and the ground both speak: how numbers are stored, the
 * activations, the threads.
 *
 *   types.h  <-  kernels/kernels.h     loops over plain float arrays; they know no tensor
 *   types.h  <-  tensor.h              tensors, memory, files; they know no instruction set
 *
 * Neither of the two includes the other; nn.c, which runs the one on the other, has both. So
 * what both must agree on stands here, and nothing else: a kernel can be read, tested and timed
 * without the rest of mm, and the rest without a line of intrinsics.
 *
 * Easy to get wrong: the order of F32, F16, BF16, Q8, Q4 is part of it: kernels keep an entry for
 * each of the first three, and of the last two, in arrays by that number. */
#ifndef TYPES_H
#define TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How the elements of a tensor are stored. F32, F16 and BF16 can be computed with; Q8 and Q4 are
 * matrices in blocks of 8 and 4 bits (kernels/quant_ref.c), which linear layers multiply with; I64,
 * I32 and U8 can be read; OTHER is a safetensors type that mm lists but does not use. */
typedef enum { F32, F16, BF16, Q8, Q4, I64, I32, U8, OTHER } DType;

/* Bytes of a matrix [n, k] of Q8 or Q4: blocks of 8 rows by 32 columns, row of blocks by row of
 * blocks, of 272 and 144 bytes. Rows from a multiple of 8 on are a matrix again. */
static inline size_t quant_bytes(DType type, int n, int k)
{
    return (((size_t)n + 7) / 8) * (((size_t)k + 31) / 32) * (type == Q8 ? 272 : 144);
}

/* The activations of the papers. Formulas: kernels/ref.c. */
typedef enum { ACT_NONE, GELU, GELU_TANH, GELU_QUICK, SILU, RELU } Act;

/* Calls fn(ctx, i, worker) once for every i in [0, n), spread over the threads of the pool, and
 * returns when all are done. Which worker runs which i is not fixed, so a result must depend on i
 * alone; `worker`, in [0, n_threads()), is for choosing a private workspace. */
typedef void TaskFn(void *ctx, int i, int worker);
void parallel_for(int n, TaskFn *fn, void *ctx);
int  n_threads(void);

#endif
