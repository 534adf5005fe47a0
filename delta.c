/* delta.c -- checkpoints that are published as the difference to another one: base + delta.
 *
 *   Vicuna v0 and v1.1, LLaVA v1, Alpaca: LLaMA's licence did not allow to pass its weights on, so
 *   their authors published tuned - base. Added up, element by element, in f32, and rounded once to
 *   the delta's type.
 *
 * Source: FastChat's and LLaVA's apply_delta.py, Alpaca's weight_diff.py. A tensor that the base
 * does not have (LLaVA's projector) is in the delta as it is. The vocabulary has grown by a few
 * rows ([PAD], <im_start>), and what those are a difference to is a matter of who wrote it:
 * FastChat and LLaVA began them with zero, Alpaca with the mean of the base's rows.
 *
 * Easy to get wrong:
 *   - Vicuna v0 and Alpaca look alike: 32001 rows, one of them [PAD]. But [PAD] is never attended
 *     to, so in both its embedding stayed what it was at first: the mean. In a difference to the
 *     mean that row is nothing, in a difference to zero it is the mean itself: that tells them
 *     apart.
 *   - The mean of 32000 rows is taken in f64: in f32 one after the other they would lose digits.
 *   - Integers are differences as well (position_ids: 0 everywhere). */
#include <math.h>
#include <string.h>

#include "convert.h"

enum { BLOCK = 1 << 16 };

struct Delta {
    const Weights *base;
    const Weight **slot;             /* hash table of the base's names */
    size_t         n_slots;
    DeltaMode      mode;
    float        **mean;             /* of the base's weight of this index; NULL: not needed */
    bool           grown;
};

/* === Types ==================================================================================== */

static bool is_float(const Weight *w)
{
    return !strcmp(w->type, "F32") || !strcmp(w->type, "F16") || !strcmp(w->type, "BF16");
}

static bool is_integer(const Weight *w)
{
    return (w->type[0] == 'I' || w->type[0] == 'U') && w->type[1] >= '1' && w->type[1] <= '8';
}

static float float_of(uint32_t bits) { float f; memcpy(&f, &bits, sizeof f); return f; }
static uint32_t bits_of(float f) { uint32_t bits; memcpy(&bits, &f, sizeof bits); return bits; }

/* Exponent and fraction moved to where f32 has them are the number times 2^-112, subnormal ones
 * included; infinity and NaN have exponent 31 here, 255 there. */
static float from_half(uint16_t h)
{
    uint32_t rest = (uint32_t)(h & 0x7fff) << 13, sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t bits = bits_of(float_of(rest) * 0x1p112f);
    return float_of((rest >= 31u << 23 ? rest | 0x7f800000 : bits) | sign);
}

/* To the nearest, of two the even one. What is below the smallest normal number, 2^-14, is added to
 * 0.5: there the distance of two f32 is 2^-24, as that of two subnormal f16, so the sum rounds as
 * it should. */
static uint16_t to_half(float f)
{
    uint32_t bits = bits_of(f), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    uint32_t small = bits_of(float_of(rest) + 0.5f) - bits_of(0.5f);
    uint32_t normal = (rest + 0xfff + (rest >> 13 & 1) - (112u << 23)) >> 13;
    uint32_t large = rest > 0x7f800000 ? 0x7e00 : 0x7c00;
    uint32_t half = rest >= 0x47800000 ? large : rest < 0x38800000 ? small : normal;
    return (uint16_t)(half | sign);
}

static uint16_t to_bfloat(float f)
{
    uint32_t bits = bits_of(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void to_f32(float *to, const uint8_t *from, char type, size_t n)
{
    uint16_t h;
    if (type == 'f') memcpy(to, from, n * sizeof *to);
    else for (size_t i = 0; i < n; i++) {
        memcpy(&h, from + 2 * i, 2);
        to[i] = type == 'h' ? from_half(h) : float_of((uint32_t)h << 16);
    }
}

static void from_f32(uint8_t *to, const float *from, char type, size_t n)
{
    if (type == 'f') memcpy(to, from, n * sizeof *from);
    else for (size_t i = 0; i < n; i++) {
        uint16_t h = type == 'h' ? to_half(from[i]) : to_bfloat(from[i]);
        memcpy(to + 2 * i, &h, 2);
    }
}

/* f32, half or bfloat16, in a letter. */
static char kind_of(const Weight *w)
{
    return !strcmp(w->type, "F32") ? 'f' : !strcmp(w->type, "F16") ? 'h' : 'b';
}

/* === Adding =================================================================================== */

typedef struct { uint8_t *to; const uint8_t *base; const Weight *w, *b; size_t n; } Sum;

static void add_integers(const Sum *s)
{
    size_t size = (size_t)s->w->size;
    for (size_t i = 0; i < s->n; i++) {
        uint64_t x = 0, y = 0;
        memcpy(&x, s->to + i * size, size);
        memcpy(&y, s->base + i * size, size);
        x += y;
        memcpy(s->to + i * size, &x, size);
    }
}

static void add_block(void *ctx, int block, int worker)
{
    enum { PART = 1024 };
    const Sum *s = ctx;
    float x[PART], y[PART];
    size_t first = (size_t)block * BLOCK, last = s->n - first < BLOCK ? s->n : first + BLOCK;
    size_t size = (size_t)s->w->size, base_size = (size_t)s->b->size;
    (void)worker;
    for (size_t i = first, n; i < last; i += n) {
        n = last - i < PART ? last - i : PART;
        to_f32(x, s->to + i * size, kind_of(s->w), n);
        to_f32(y, s->base + i * base_size, kind_of(s->b), n);
        for (size_t k = 0; k < n; k++) x[k] += y[k];
        from_f32(s->to + i * size, x, kind_of(s->w), n);
    }
}

/* Rows that the base does not have: to[i] is element first + i of the weight. */
static void add_mean(uint8_t *to, const Weight *w, const float *mean, uint64_t first, uint64_t n)
{
    size_t d = (size_t)w->dim[1], size = (size_t)w->size;
    for (uint64_t i = 0; i < n; i++) {
        float x;
        to_f32(&x, to + i * size, kind_of(w), 1);
        x += mean[(first + i) % d];
        from_f32(to + i * size, &x, kind_of(w), 1);
    }
}

static const Weight *find(const Delta *d, const char *name)
{
    size_t at = hash_bytes(name, strlen(name), 2) & (d->n_slots - 1);
    for (; d->slot[at]; at = (at + 1) & (d->n_slots - 1))
        if (!strcmp(d->slot[at]->name, name)) return d->slot[at];
    return NULL;
}

void delta_fill(void *ctx, const Weight *w, uint8_t *to, uint64_t first, uint64_t n)
{
    const Delta *d = ctx;
    const Weight *b = find(d, w->name);
    weight_copy(w, to, first, n);
    if (!b) return;
    size_t mark = scratch_mark(), base_size = (size_t)b->size;
    bool plain = weight_is_contiguous(b);
    uint64_t both = first >= b->n ? 0 : b->n - first < n ? b->n - first : n;
    uint8_t *buf = plain ? NULL : scratch_bytes((size_t)both * base_size);
    if (!plain) weight_copy(b, buf, first, both);
    Sum s = { to, plain ? b->data + first * base_size : buf, w, b, (size_t)both };
    if (is_float(w)) parallel_for((int)((both + BLOCK - 1) / BLOCK), add_block, &s);
    else add_integers(&s);
    if (plain && both) hand_back(s.base, (size_t)both * base_size);
    const float *mean = d->mean[b - d->base->weight];
    if (mean) add_mean(to + both * (size_t)w->size, w, mean, first + both, n - both);
    scratch_reset(mark);
}

/* === Before anything is added ================================================================= */

static bool is_grown(const Weight *w, const Weight *b)
{
    return w->ndim == 2 && b->ndim == 2 && w->dim[0] > b->dim[0] && w->dim[1] == b->dim[1]
        && b->dim[0] > 0 && is_float(w);
}

static void check_pair(const Weight *w, const Weight *b)
{
    bool same = w->ndim == b->ndim;
    for (int i = 0; same && i < w->ndim; i++) same = w->dim[i] == b->dim[i];
    if (!same && !is_grown(w, b))
        die(EXIT_FILE, "%s: tensor %s is %s, in %s it is %s: expected the same shape, or more rows"
            "\nis it a difference to that base?", quoted(w->file), quoted(w->name), weight_shape(w),
            quoted(b->file), weight_shape(b));
    bool added = is_float(w) ? is_float(b) : is_integer(w) && !strcmp(w->type, b->type);
    if (!added)
        die(EXIT_FILE, "%s: tensor %s is %s, in %s it is %s: these two cannot be added",
            quoted(w->file), quoted(w->name), weight_shape(w), quoted(b->file), weight_shape(b));
}

/* Tables of angles are computed when a model is loaded; only old files have them. */
static bool is_angles(const char *name)
{
    static const char end[] = ".rotary_emb.inv_freq";
    size_t n = strlen(name), m = sizeof end - 1;
    return n > m && !strcmp(name + n - m, end);
}

/* Row `row` of a weight, in f32. */
static void read_row(float *to, const Weight *w, uint64_t row)
{
    size_t mark = scratch_mark(), d = (size_t)w->dim[1];
    uint8_t *buf = scratch_bytes(mul_size(d, (size_t)w->size));
    weight_copy(w, buf, row * d, d);
    to_f32(to, buf, kind_of(w), d);
    scratch_reset(mark);
}

static float *mean_row(const Weight *b)
{
    size_t d = (size_t)b->dim[1];
    float *mean = keep_bytes(mul_size(d, sizeof *mean));
    size_t mark = scratch_mark();
    float *row = scratch_bytes(mul_size(d, sizeof *row));
    double *sum = memset(scratch_bytes(mul_size(d, sizeof *sum)), 0, d * sizeof *sum);
    for (int64_t i = 0; i < b->dim[0]; i++) {
        read_row(row, b, (uint64_t)i);
        for (size_t k = 0; k < d; k++) sum[k] += row[k];
    }
    for (size_t k = 0; k < d; k++) mean[k] = (float)(sum[k] / (double)b->dim[0]);
    scratch_reset(mark);
    return mean;
}

/* Is the first added row the mean itself, rather than a difference to it? */
static bool row_is_mean(const Weight *w, const Weight *b, const float *mean)
{
    size_t mark = scratch_mark(), d = (size_t)w->dim[1];
    float *row = scratch_bytes(mul_size(d, sizeof *row));
    double off = 0, size = 0;
    read_row(row, w, (uint64_t)b->dim[0]);
    for (size_t k = 0; k < d; k++) {
        off += ((double)row[k] - mean[k]) * ((double)row[k] - mean[k]);
        size += (double)mean[k] * mean[k];
    }
    scratch_reset(mark);
    return off < 0.25 * size;
}

/* Alpaca: 32001 rows, [PAD], and the row of its embedding is not the mean itself. */
static DeltaMode guess_mode(const Weights *delta, const Delta *d, bool has_pad)
{
    static const char embedding[] = "model.embed_tokens.weight";
    for (size_t i = 0; has_pad && i < delta->n; i++) {
        const Weight *w = &delta->weight[i], *b = find(d, w->name);
        if (!b || strcmp(w->name, embedding) || w->dim[0] != 32001 || b->dim[0] != 32000) continue;
        return row_is_mean(w, b, mean_row(b)) ? DELTA_ADD : DELTA_ALPACA;
    }
    return DELTA_ADD;
}

static void fill_table(Delta *d)
{
    for (d->n_slots = 16; d->n_slots < 2 * d->base->n; ) d->n_slots *= 2;
    d->slot = keep_bytes(mul_size(d->n_slots, sizeof *d->slot));
    for (size_t i = 0; i < d->base->n; i++) {
        const Weight *b = &d->base->weight[i];
        size_t at = hash_bytes(b->name, strlen(b->name), 2) & (d->n_slots - 1);
        while (d->slot[at]) at = (at + 1) & (d->n_slots - 1);
        d->slot[at] = b;
    }
}

/* What the base has must be in the delta too: otherwise it is not a difference to it. */
static void check_all(const Weights *delta, const Delta *d)
{
    size_t n_found = 0, n_base = 0;
    for (size_t i = 0; i < delta->n; i++) {
        const Weight *w = &delta->weight[i], *b = find(d, w->name);
        if (!b) continue;
        check_pair(w, b);
        n_found += !is_angles(w->name);
    }
    for (size_t i = 0; i < d->base->n; i++) n_base += !is_angles(d->base->weight[i].name);
    if (n_found < n_base || !n_found)
        die(EXIT_FILE, "%s: has %zu of the %zu tensors of %s, expected all of them\n"
            "is it a difference to that base?", quoted(delta->weight[0].file), n_found, n_base,
            quoted(d->base->n ? d->base->weight[0].file : "the base"));
}

Delta *delta_open(Weights *delta, const Weights *base, DeltaMode mode, bool has_pad)
{
    Delta *d = keep_bytes(sizeof *d);
    size_t n = 0;
    d->base = base;
    d->mean = keep_bytes(mul_size(base->n + 1, sizeof *d->mean));
    fill_table(d);
    for (size_t i = 0; i < delta->n; i++)
        if (!is_angles(delta->weight[i].name) || find(d, delta->weight[i].name))
            delta->weight[n++] = delta->weight[i];
    delta->n = n;
    if (!n) die(EXIT_FILE, "%s: has no weights but angles", quoted(delta->weight[0].file));
    check_all(delta, d);
    d->mode = mode != DELTA_AUTO ? mode : guess_mode(delta, d, has_pad);
    for (size_t i = 0; i < n; i++) {
        const Weight *w = &delta->weight[i], *b = find(d, w->name);
        if (!b || !is_grown(w, b)) continue;
        d->grown = true;
        if (d->mode == DELTA_ALPACA) d->mean[b - base->weight] = mean_row(b);
    }
    return d;
}

const char *delta_rows(const Delta *d)
{
    return !d->grown ? NULL : d->mode == DELTA_ALPACA ? "the mean of the base's rows" : "zero";
}
