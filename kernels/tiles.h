/* tiles.h -- a tile of any size from the one function that a file of gemm_*.c has for it:
 *
 *   tile_part(C, ldc, A, lda, P, k, accumulate, ahead, last, M, N)     M rows, N registers a row,
 *                                                                      `last` lanes in the last
 *
 * M and N must be constants there, or the sums are no registers. So for each M from 1 to 6 and each
 * N up to VECTORS there is a copy of it; TILES(level, T) makes them and tile_LEVEL, which chooses.
 *
 *   level   names it; T: the type of A and of the panel
 *
 * The file has TILE_M 6, VECTORS (at most 4) registers a row, and LANES of a register. */
#ifndef TILES_H
#define TILES_H

#define TILE_ROWS(M, T)                                                                        \
    static void tile_##M(float *C, int ldc, const T *A, int lda, const T *P, int nr, int k,    \
                         bool accumulate, Ahead *ahead)                                        \
    {                                                                                          \
        int last = (nr - 1) % LANES + 1;                                                       \
        switch ((nr - 1) / LANES) {                                                            \
        case 0:  TILE_PART(M, 1); break;                                                       \
        case 1:  TILE_PART(M, 2); break;                                                       \
        case 2:  TILE_PART(M, 3); break;                                                       \
        default: TILE_PART(M, 4); break;                                                       \
        }                                                                                      \
    }
#define TILE_PART(M, N)                                                                        \
    if (N <= VECTORS)                                                                          \
        tile_part(C, ldc, A, lda, P, k, accumulate, ahead, last, M, N <= VECTORS ? N : 1)

#define TILES(level, T)                                                                        \
    TILE_ROWS(1, T) TILE_ROWS(2, T) TILE_ROWS(3, T)                                            \
    TILE_ROWS(4, T) TILE_ROWS(5, T) TILE_ROWS(6, T)                                            \
                                                                                               \
    static void tile_##level(float *C, int ldc, const T *A, int lda, const T *P, int mr,       \
                             int nr, int k, bool accumulate, Ahead *ahead)                     \
    {                                                                                          \
        switch (mr) {                                                                          \
        case 1:  tile_1(C, ldc, A, lda, P, nr, k, accumulate, ahead); break;                   \
        case 2:  tile_2(C, ldc, A, lda, P, nr, k, accumulate, ahead); break;                   \
        case 3:  tile_3(C, ldc, A, lda, P, nr, k, accumulate, ahead); break;                   \
        case 4:  tile_4(C, ldc, A, lda, P, nr, k, accumulate, ahead); break;                   \
        case 5:  tile_5(C, ldc, A, lda, P, nr, k, accumulate, ahead); break;                   \
        default: tile_6(C, ldc, A, lda, P, nr, k, accumulate, ahead); break;                   \
        }                                                                                      \
    }

#endif
