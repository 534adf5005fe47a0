/* test/fuzz/safetensors.c -- any bytes as a safetensors file; then every tensor is asked for by its
 * own shape and read from end to end.
 *
 * A fuzzer that must guess the length of the header first finds little. So the first byte chooses:
 * even, the rest is the file; odd, the next two bytes are the length of the data, and the rest is
 * the header, to which the right 8 bytes are put in front. */
#include "fuzz.h"

static void read_all(Ckpt ck, const uint8_t *bytes, size_t n)
{
    unsigned sum = 0;
    for (int i = 0; i < ckpt_count(ck); i++) {
        CkptEntry e = ckpt_entry(ck, i);
        if (e.offset > n || e.n_bytes > n - e.offset) bug("tensor %d is outside of the file", i);
        for (uint64_t k = 0; k < e.n_bytes; k++) sum += bytes[e.offset + k];
        if (!ckpt_has(ck, e.name)) bug("tensor %d is not found", i);
    }
    if (sum == 12345) ckpt_ignore(ck, "*.weight");
    for (int i = 0; i < ckpt_count(ck); i++) {
        CkptEntry e = ckpt_entry(ck, i);
        int dim[4] = { 0 };
        for (int k = 0; k < e.ndim && k < 4; k++) dim[k] = (int)(e.dim[k] & 0x7fffffff);
        if (e.ndim == 0 && !strcmp(e.dtype, "F16")) ckpt_scalar(ck, e.name);
        Tensor t = ckpt_get_shape(ck, e.name, e.ndim < 4 ? e.ndim : 4, dim);
        if (n_elem(t) * dtype_size(t.dtype) != e.n_bytes) bug("tensor %d has another size", i);
        if ((uintptr_t)t.data % dtype_size(t.dtype)) bug("tensor %d is not aligned", i);
        for (uint64_t k = 0; k < e.n_bytes; k++) sum += ((uint8_t *)t.data)[k];
    }
    ckpt_done(ck);
    if (sum == 54321) ckpt_get(ck, "model.layers.0.weight", 2, 3);
}

static void read_input(const uint8_t *bytes, size_t n)
{
    if (n < 3) return;
    size_t n_file = n - 1, n_header = n - 3, n_data = bytes[1] | (size_t)bytes[2] << 8;
    bool built = bytes[0] % 2;
    if (built) n_file = 8 + n_header + n_data;
    uint8_t *file = scratch_bytes(n_file);       /* of just this size: a step too far is seen */
    if (built) {
        for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)n_header >> (8 * i));
        memcpy(file + 8, bytes + 3, n_header);
        memset(file + 8 + n_header, bytes[0], n_data);
    } else {
        memcpy(file, bytes + 1, n_file);
    }
    read_all(ckpt_parse("fuzz.safetensors", file, n_file), file, n_file);
}
