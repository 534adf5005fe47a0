/* quant_few.h -- quantised products of few rows on x86: which rows of W pass by together. Included
 * by the files that have, for their instruction set,
 *
 *   few_streams(C, ldc, R, W, m, streams, apart, n, k, type, M)   m <= M <= FEW rows of activations
 *                                                                 by as many rows of blocks
 *   n_streams(m)                                                  how many, at most
 *
 * and the slots few_q8 and few_q4 come of it. */
#ifndef QUANT_FEW_H
#define QUANT_FEW_H

/* The same for any m: the first rows meet W in memory, those after them in the cache. */
INLINE void few_rows(float *C, int ldc, const char *R, const char *W, int m, int streams, int apart,
                     int n, int k, const DType type)
{
    for (; m > 0; m -= FEW, C += FEW * (size_t)ldc, R += FEW * rounded_bytes(1, k))
        switch (m) {
        case 1:         few_streams(C, ldc, R, W, m, streams, apart, n, k, type, 1); break;
        case 2:         few_streams(C, ldc, R, W, m, streams, apart, n, k, type, 2); break;
        case 3:         few_streams(C, ldc, R, W, m, streams, apart, n, k, type, 3); break;
        case 4:         few_streams(C, ldc, R, W, m, streams, apart, n, k, type, 4); break;
        case 5: case 6: few_streams(C, ldc, R, W, m, streams, apart, n, k, type, 6); break;
        default:        few_streams(C, ldc, R, W, min(m, FEW), streams, apart, n, k, type, FEW);
        }
}

/* All of W, in streams of equal length, and what is left then. */
INLINE void few(float *C, int ldc, const char *R, const char *W, int m, int n, int k,
                const DType type)
{
    while (n > 0) {
        int rows = ceil_div(n, Q_ROWS), streams = min(rows, n_streams(m)), apart = rows / streams;
        for (int j = 0; j < apart; j++, C += Q_ROWS, W += quant_bytes(type, 1, k))
            few_rows(C, ldc, R, W, m, streams, apart, n - Q_ROWS * j, k, type);
        C += Q_ROWS * apart * (streams - 1);
        W += (size_t)(apart * (streams - 1)) * quant_bytes(type, 1, k);
        n -= Q_ROWS * apart * streams;
    }
}

static void few_q8(float *C, int ldc, const void *R, const void *W, int m, int n, int k)
{
    few(C, ldc, R, W, m, n, k, Q8);
}
static void few_q4(float *C, int ldc, const void *R, const void *W, int m, int n, int k)
{
    few(C, ldc, R, W, m, n, k, Q4);
}

#endif
