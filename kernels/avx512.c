/* avx512.c -- the kernels of this level. */
#include "kernels.h"

void kernels_avx512(Kernels *k) { (void)k; }
