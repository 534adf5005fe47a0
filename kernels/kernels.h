/* kernels.h -- what the machine does for the layers.
 *
 * Two floors. The micro-kernels stand in one table, `kernel`: one slot per operation, filled with
 * the plain C of ref.c and then overwritten, level by level, with what the CPU at hand does better.
 * The drivers (matmul.c, attention.c) cut the work into pieces that fit the caches, hand them to
 * the threads and call micro-kernels.
 *
 * Contract of every micro-kernel: a pure function of its arguments; no allocation, lock, print or
 * thread; no alignment demanded; any size >= 1, tails included; reads and writes nothing outside
 * the named extents. Only drivers call parallel_for and take scratch.
 *
 * Every output element is summed by one thread in an order that depends on the sizes of one item
 * only: not on the thread count, not on how many items are computed together.
 *
 * A new level: files gemm_NAME.c, vector_NAME.c, ... with any subset of the slots; their prototypes
 * here; its row in LEVELS[] (kernels.c); its flags line in the Makefile. A new slot: contract here,
 * definition in ref.c, a row in test/kernels.c; faster versions when a profile asks for them. */
#ifndef KERNELS_H
#define KERNELS_H

#include "../types.h"

/* === Drivers ================================================================================== */

/* What gemm does with each finished sum s = A[i] . W[j], in this order; zero fields do nothing. */
typedef struct {
    const float *bias;       /* [n]            s += bias[j] */
    Act          act;        /*                s  = act(s) */
    const float *mul;        /* [m, n], ld n   s *= mul[i][j]   (the gate of a gated MLP) */
    bool         add;        /*                C[i][j] += s instead of C[i][j] = s */
} Epilogue;

/* What every product and convolution ends with: the finished sums of columns j .. j+n-1 of a row
 * pass through the epilogue to their place in C, which may be where they are. mul: the factors of
 * these columns, NULL if there are none (e->mul is not looked at). The sums are changed. */
void finish_row(float *C, float *sums, const Epilogue *e, const float *mul, int j, int n);

/* C[m, n] = A[m, k] . W[n, k]^T, both contiguous along k: PyTorch's Linear. lda and ldc are row
 * strides in elements; W is dense, of type F32, F16 or BF16. C must not overlap A or W. m_item is
 * the number of rows of one item (m is a multiple of it): few rows (up to 16) read the weights
 * once, as stored, at the speed of memory; many rows pack panels of W that stay in the cache. The
 * choice follows from m_item alone, and in both a row of C is the same whatever m is. The
 * arithmetic is f32, but that of many rows and BF16 is bf16 on CPUs that have it, unless
 * kernels_init was told `exact`: A is rounded to bf16, the sums are f32. */
void gemm(float *C, int ldc, const float *A, int lda, const void *W, DType type,
          int m, int n, int k, int m_item, Epilogue e);

/* The same for W of type Q8 or Q4: what gemm calls then (quantmul.c). A is rounded to 8 bits in
 * blocks of 32; the same bits at every level, for any number of rows. */
void gemm_quant(float *C, int ldc, const float *A, int lda, const void *W, DType type,
                int m, int n, int k, Epilogue e);

/* Scaled dot-product attention of independent items. For each item and each head h:
 *   out[i] = softmax_j(scale * q[i] . k[j] + bias[i][j]) . v[j]
 * over j < n_kv, and with causal only j <= i + n_kv - n_q. Blocked with a running maximum and sum:
 * nothing of size n_q x n_kv is kept. Query head h reads key/value head h / (n_heads/n_kv_heads).
 * A row whose every score is -INFINITY gives zeros. */
typedef struct {
    float       *out;        /* [n_items, n_q, n_heads*head_dim], dense */
    const float *q;          /* the same shape, dense */
    const void  *k, *v;      /* [n_items, n_kv, n_kv_heads*head_dim]; item i starts at i*kv_stride
                              * elements (0: all items share the keys and values) */
    DType        kv_type;    /* of k and v: F32, F16, BF16 */
    int          kv_row;     /* elements from row to row; 0: rows are dense */
    size_t       kv_stride;
    const int   *kv_len;     /* NULL, or [n_items]: item i has kv_len[i] <= n_kv keys instead of
                              * n_kv; not where items share them */
    const float *bias;       /* NULL, or [bias_heads, n_q, n_kv], shared by the items */
    int          bias_heads; /* 1 or n_heads */
    int          n_items, n_q, n_kv, n_heads, n_kv_heads, head_dim;
    float        scale;
    bool         causal;
} Attention;

void attention_heads(const Attention *a);

/* Which two numbers of a head are a pair (arXiv 2104.09864): LLaMA's rotate_half, GPT-J's own. */
enum { ROPE_HALVES, ROPE_PAIRS };

/* Convolution of n pictures [h, w, c_in] -> [out_h, out_w, c_out], PyTorch's conv2d:
 *   s[y][x][co] = sum in[y*stride + ky - pad_top][x*stride + kx - pad_left][ci] W[co][ci][ky][kx]
 * over ky < kh, kx < kw, ci < c_in; pixels outside the picture are 0. Or conv_transpose2d:
 *   s[y*stride + ky - pad_top][x*stride + kx - pad_left][co] += in[y][x][ci] W[ci][co][ky][kx]
 * Then bias, activation and residual of the epilogue (e.mul must be NULL). The size of the output
 * is the caller's: whatever is asked for beyond the picture is computed from zeros, so padding at
 * the bottom and at the right is part of it. Pictures are dense, one after the other; W, of type
 * F32, F16 or BF16, is dense as PyTorch has it: [c_out, c_in/groups, kh, kw], or transposed
 * [c_in, c_out/groups, kh, kw]. Inputs and outputs fall into groups that do not see each other. No
 * buffer may overlap another. Which algorithm is taken, and the order of all sums, depend on the
 * sizes of one picture alone. The error is that of a sum of c_in/groups * kh * kw products; of 3x3
 * with stride 1, unless kernel.exact, that of winograd.c. */
typedef struct {
    float       *out;
    const float *in;
    const void  *w;
    DType        type;
    int          n, h, width, c_in, c_out, out_h, out_w;
    int          kh, kw, stride, pad_top, pad_left, groups;
    bool         transposed;
    Epilogue     e;
} Convolution;

void convolve(const Convolution *c);
void convolve_plain(const Convolution *c);   /* the definition (conv_ref.c): slow, for tests */
void convolve_winograd(const Convolution *c);               /* 3x3 and stride 1 only: winograd.c */
bool winograd_wins(const Convolution *c);    /* fewer multiplications, and not kernel.exact */

/* Group normalisation of n pictures [pixels, c], each group of c/groups neighbouring channels by
 * itself: y = act((x - mean) / sqrt(variance + eps) * w[channel] + b[channel]). out may be in. */
void group_normalize(float *out, const float *in, const float *w, const float *b, int n,
                     int pixels, int c, int groups, float eps, Act act);

/* The matrices of Winograd's F(4x4, 3x3): out = A^T [(G w G^T) * (B^T in B)] A, from 6x6 pixels to
 * 4x4, * number by number. Here B^T, G and A^T. */
#define WINO_P 0.625f                        /* the points: 0, +-p, +-q, infinity */
#define WINO_Q 1.5f
extern const float WINO_B[6][6], WINO_G[6][3], WINO_A[4][6];

/* === Quantised matrices (quant_ref.c: what the numbers mean) ================================== */

/* 8 rows by 32 columns. A matrix [n, k] is [ceil(n/8)][ceil(k/32)] blocks. Rows from n on have a
 * scale of 0, columns from k on anything: they meet activations that are 0. */
enum { Q_ROWS = 8, Q_COLS = 32 };
typedef struct {
    uint16_t scale[Q_ROWS];          /* f16 */
    int8_t   q[8][Q_ROWS][4];        /* column 4 g + c of row r: q[g][r][c] */
} BlockQ8;                           /* 272 bytes: 8.5 bits a weight */
typedef struct {
    uint16_t scale[Q_ROWS];
    uint8_t  q[4][Q_ROWS][4];        /* columns 4 g + c in the lower, 16 + 4 g + c in the upper 4 */
} BlockQ4;                           /* 144 bytes: 4.5 bits */

extern const int8_t q4_values[16];   /* what 4 bits stand for, times scale */

/* Rows w [n <= 8, k], dense, to a row of blocks. False if a number is not finite. */
bool quant_encode(void *blocks, DType type, const float *w, int n, int k);
/* Row r of a matrix as f32. */
void quant_decode(float *y, const void *W, DType type, int r, int k);

/* Rows first .. first+n-1 of a matrix, as a matrix of its own; exact. */
void quant_copy(void *to, const void *W, DType type, int first, int n, int k);

/* m <= mr rows of activations as 8-bit numbers, in blocks of 32 columns: for each block
 * q[8][mr][4] as above, scale[mr] (f32), start[mr] (int32: -128 times the sum of q). */
static inline size_t rounded_block(int mr)      { return (size_t)mr * (Q_COLS + 8); }
static inline size_t rounded_bytes(int mr, int k)
{
    return (size_t)((k + Q_COLS - 1) / Q_COLS) * rounded_block(mr);
}

/* Resampling (resize.c): an output is clip8(sum of weight k times input first + k, k < n). Weights
 * have 22 fractional bits and are stored as two numbers of 16 bits, weight = high 2^15 + low with
 * 0 <= low < 2^15; two taps together: q[4 i] = { low, next low, high, next high }. The table goes
 * on with zeros to a multiple of four taps. clip8 rounds half up to an integer of 0 .. 255. */
enum { TAP_BITS = 22 };
typedef struct { int first, n; const int16_t *q; } Taps;

/* === Micro-kernels ============================================================================ */

/* What a tile fetches into the second-level cache while it multiplies and leaves the memory idle:
 * one cache line every four steps along k, down a column of `rows` lines and then down the next. */
typedef struct Ahead Ahead;
struct Ahead {
    const char *at;         /* the top of the column; nothing is read: it may lie anywhere */
    size_t step;            /* bytes from a row to the next */
    int rows, row;          /* lines of a column; those of this one that are done */
    int columns;            /* that are left: at least one */
    Ahead *then;            /* what comes after them, or NULL */
};

typedef struct {
    /* f32 and the direct algorithms, as kernels_init was told. Set before the levels fill in */
    bool exact;

    /* few rows: C[i][j] = A[i] . W[j], i < m, j < n; W as stored, of the type of the slot, its rows
     * ldw elements apart. Each element is summed in the same order whatever m and n are */
    void (*few[3])(float *C, int ldc, const float *A, int lda, const void *W, int ldw,
                   int m, int n, int k);                                    /* F32 F16 BF16 */
    /* many rows: C[mr, nr] (+)= A[mr, k] . P[k, nr], where P is a packed panel: k rows of tile_n
     * elements, padded with zeros beyond the matrix. mr <= tile_m, nr <= tile_n. */
    int tile_m, tile_n;
    void (*tile)(float *C, int ldc, const float *A, int lda, const float *P, int mr, int nr, int k,
                 bool accumulate, Ahead *ahead);                /* NULL: fetch nothing */
    /* one panel: rows j .. j+nr-1 of W [n, ldw], columns 0 .. k-1, transposed to f32 [k, tile_n] */
    void (*pack[3])(float *P, const void *W, int ldw, int nr, int k);   /* F32 F16 BF16 */
    /* the same where bf16 numbers are multiplied in pairs, with bf16 weights; NULL where they are
     * not, and with exact. A has been rounded by narrow[BF16], and k is filled up with 0 to a
     * multiple of 4, in it and in the panel, whose order only these two know. lda and ldw in
     * elements. */
    void (*tile_bf16)(float *C, int ldc, const uint16_t *A, int lda, const uint16_t *P, int mr,
                      int nr, int k, bool accumulate, Ahead *ahead);
    void (*pack_bf16)(uint16_t *P, const uint16_t *W, int ldw, int nr, int k);

    /* Quantised matrices, by type - Q8. Each element is the sum over the blocks of k, in order, of
     * (float)(integer sum of the block) * (weight's scale * activation's scale), each time one
     * fused multiply-add: the same bits at every level. W and R begin at the first block wanted. */
    /* m rows of A -> R, mr interleaved; rows from m on are zero */
    void (*q_round)(void *R, const float *A, int lda, int m, int mr, int k);
    /* few rows: C[i][j], i < m, j < n; R: m times rounded with mr = 1 */
    void (*q_few[2])(float *C, int ldc, const void *R, const void *W, int m, int n, int k);
    int q_few_rows;                  /* up to how many they are faster than panels and tiles */
    /* many rows: C[mr, nr] (+)= R . P; mr <= q_tile_m, the mr of R; nr <= q_tile_n. P: a panel of
     * n_blocks blocks of q_tile_n rows (a multiple of 8), q_tile_n * 36 bytes each, in an order
     * that only q_pack and q_tile know */
    int q_tile_m, q_tile_n;
    void (*q_pack[2])(void *P, const void *W, size_t row_of_blocks, int nr, int n_blocks);
    void (*q_tile)(float *C, int ldc, const void *R, const void *P, int mr, int nr, int n_blocks,
                   bool accumulate);

    /* Winograd's transforms, of n channels or columns at once: each of the 36, 9 or 16 numbers of a
     * square is a row of n. The rows of V, U and M are ld elements apart, all others dense.
     * V = B^T d B, d the 36 pixels px[i][at ..];  U = G w G^T, w in P [9, n];  Y = A^T M A */
    void (*wino_in)(float *V, size_t ld, const float *const *px, size_t at, int n);
    void (*wino_w)(float *U, size_t ld, const float *P, int n);
    void (*wino_out)(float *Y, const float *M, size_t ld, int n);

    /* sum[c] = sum over rows r of x[r][c] - at[c], squares[c] = sum of its square; x [rows, n] */
    void (*moments)(float *sum, float *squares, const float *x, const float *at, int rows, int n);
    /* y = x a + b; y may be x */
    void (*affine)(float *y, const float *x, const float *a, const float *b, int n);

    float (*dot)(const float *a, const float *b, int n);
    void  (*scale)(float *y, float s, int n);                           /* y *= s */
    /* y[i][c] += sum of p[i][j] V[j][c] over j < n, for i < m, c < d: weighted sums of rows, which
     * are ldv apart, of the type of the slot. Each sum is the same whatever m is */
    void  (*mix[3])(float *y, int ldy, const float *p, int ldp, const void *V, int ldv,
                    int m, int n, int d);                                   /* F32 F16 BF16 */
    void  (*add)(float *y, const float *x, int n);                      /* y += x */
    void  (*mul)(float *y, const float *x, int n);                      /* y *= x */
    float (*max)(const float *x, int n);
    /* y = exp(x - m), within 1 ulp; returns their sum; y may be x. exp(-INFINITY) is 0 */
    float (*exp_sum)(float *y, const float *x, float m, int n);
    void  (*layernorm)(float *y, const float *x, const float *w, const float *b, float eps, int n);
    void  (*rmsnorm)(float *y, const float *x, const float *w, float eps, int n);   /* y may be x */
    /* by Act, in place. GELU is off by at most 4 * 2^-24 |x|; bounds of all: test/kernels.c */
    void  (*act[6])(float *y, int n);
    void  (*cvt[3])(float *y, const void *x, int n);                    /* F32 F16 BF16 -> f32 */
    void  (*narrow[3])(void *y, const float *x, int n);     /* f32 -> F32 F16 BF16, to nearest */
    /* Rotates the first 2 half numbers of each of n_heads heads of d numbers, in place: the pair
     * (a, b) by its angle i < half, to (a cos[i] - b sin[i], b cos[i] + a sin[i]). The pairs are
     * (y[i], y[i + half]) for ROPE_HALVES, (y[2 i], y[2 i + 1]) for ROPE_PAIRS. */
    void  (*rope[2])(float *y, const float *cos, const float *sin, int n_heads, int d, int half);
    /* Pictures, 3 bytes a pixel. n outputs of a column pass: input k of output i is at
     * in[k*stride + i] (`first` is the caller's); all w_out pixels of a row pass, for rows whose
     * starts are ldo and ldi bytes apart; and n pixels as numbers:
     * y = ((float)(x factor) - mean[channel]) / std[channel] */
    void  (*resize_columns)(uint8_t *out, const uint8_t *in, size_t stride, const Taps *t, int n);
    void  (*resize_rows)(uint8_t *out, size_t ldo, const uint8_t *in, size_t ldi, const Taps *taps,
                         int rows, int w_in, int w_out);
    void  (*normalize)(float *y, const uint8_t *x, double factor, const float *mean,
                       const float *std, int n);
    /* to[j][i] = s from[i][j], i < m, j < n; rows ldt and ldf apart */
    void  (*transpose)(float *to, int ldt, const float *from, int ldf, int m, int n, float s);

    /* attention of many queries, which are lanes: arrays [.., lanes], of which the first n_lanes
     * count. All lanes up to a multiple of lane_step are read and written. */
    int lanes, lane_step;
    /* S[j][l] = K[j] . Q[..][l], j < n; K [n, ldk], Q [d, lanes] */
    void (*lane_scores)(float *S, const float *Q, const float *K, int ldk, int n_lanes, int n,
                        int d);
    /* S [n, lanes]: scores -> weights 2^(S - max), within 2.5 ulp, or 0 below 2^-126; lane l sees
     * the first seen[l] keys only (NULL: all). max[l] becomes the new maximum, shrink[l] =
     * 2^(old maximum - new), sum[l] = sum[l] shrink[l] + the weights. All -INFINITY: all 0. */
    void (*lane_soften)(float *S, float *max, float *sum, float *shrink, const int *seen,
                        int n_lanes, int n);
    /* out[c][l] = out[c][l] shrink[l] + sum over j < n of V[j][c] S[j][l]; V [n, ldv], c < d */
    void (*lane_mix)(float *out, const float *shrink, const float *S, const float *V, int ldv,
                     int n_lanes, int n, int d);
} Kernels;

extern Kernels kernel;

/* Fills the table up to the level `cap` (NULL or "": the best). Levels of x86: ref avx2 avx512
 * avx512vnni avx512bf16; of ARM: ref neon neondot neoni8mm neonbf16. Each has those before it that
 * this CPU has. An unknown name, or one that this CPU lacks, is not taken: returns false, and the
 * table is not changed. exact: f32 is never rounded to less and no algorithm taken that needs fewer
 * operations (--exact). */
bool        kernels_init(const char *cap, bool exact);
const char *kernels_level(void);             /* the level in force */
const char *kernels_available(void);         /* "ref avx2 avx512" */

/* What each level overwrites, a file each. */
void kernels_ref(Kernels *k);
void attention_avx2(Kernels *k);
void attention_avx512(Kernels *k);
void attention_neon(Kernels *k);
void gemm_avx2(Kernels *k);
void gemm_avx512(Kernels *k);
void gemm_avx512bf16(Kernels *k);
void gemm_neon(Kernels *k);
void gemm_neonbf16(Kernels *k);
void conv_ref(Kernels *k);
void conv_avx2(Kernels *k);
void conv_avx512(Kernels *k);
void conv_neon(Kernels *k);
void vector_avx2(Kernels *k);
void vector_avx512(Kernels *k);
void vector_neon(Kernels *k);
void quant_ref(Kernels *k);
void quant_avx2(Kernels *k);
void quant_avx512vnni(Kernels *k);
void quant_neon(Kernels *k);
void quant_neondot(Kernels *k);
void quant_neoni8mm(Kernels *k);

/* Conversions of single values, exact (f16 and bf16 to f32). */
float f16_to_f32(uint16_t h);
float bf16_to_f32(uint16_t h);
/* The nearest f16 and bf16, ties to even; too large: infinity; NaN stays NaN. */
uint16_t f32_to_f16(float f);
uint16_t f32_to_bf16(float f);

static inline int min(int a, int b)      { return a < b ? a : b; }
static inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
static inline int round_up(int a, int b) { return ceil_div(a, b) * b; }

/* The drivers' workspace: bytes of scratch, put back when they return (tensor.c). */
void  *scratch_bytes(size_t n);
size_t scratch_mark(void);
void   scratch_reset(size_t mark);

#endif
