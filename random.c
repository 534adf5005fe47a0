/* random.c -- PyTorch's generator on a CPU, so that a seed means here what it means there.
 *
 * The Mersenne twister MT19937 (Matsumoto and Nishimura, 1998), and what torch makes of its 32-bit
 * numbers u:
 *
 *   torch.rand          f32: the low 24 bits of one u, / 2^24
 *   exponential_        f64: -log(1 - v), v the low 53 bits of two u, / 2^53; the first u is the
 *                       high half
 *   torch.multinomial   one draw: argmax of p[i] / e[i], with e from exponential_
 *
 * Reference: at::mt19937, at::CPUGeneratorImpl, torch.multinomial of PyTorch 2.13.
 *
 * Easy to get wrong:
 *   - Of a seed of 64 bits the twister uses the low 32.
 *   - A draw from n shares takes 2 n numbers, also for shares that are 0.
 *   - On Intel's processors torch's exponential_ asks MKL for its numbers instead; the numbers here
 *     are those of all other machines. */
#include <math.h>

#include "mm.h"

enum { N = 624, M = 397 };

void rng_seed(Rng *r, uint64_t seed)
{
    r->s[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < N; i++)
        r->s[i] = UINT32_C(1812433253) * (r->s[i - 1] ^ r->s[i - 1] >> 30) + i;
    r->at = N;
}

/* The next 624 numbers, from the last. */
static void twist(Rng *r)
{
    for (int i = 0; i < N; i++) {
        uint32_t y = (r->s[i] & UINT32_C(0x80000000)) | (r->s[(i + 1) % N] & 0x7fffffff);
        r->s[i] = r->s[(i + M) % N] ^ y >> 1 ^ (y & 1 ? UINT32_C(0x9908b0df) : 0);
    }
    r->at = 0;
}

uint32_t rng_u32(Rng *r)
{
    if (r->at == N) twist(r);
    uint32_t y = r->s[r->at++];
    y ^= y >> 11;
    y ^= y << 7 & UINT32_C(0x9d2c5680);
    y ^= y << 15 & UINT32_C(0xefc60000);
    return y ^ y >> 18;
}

float rng_uniform(Rng *r)
{
    return (float)(rng_u32(r) & 0xffffff) * 0x1p-24f;
}

/* The logarithm is only taken where it counts: most shares of a vocabulary are 0. */
int rng_choose(Rng *r, const float *share, int n)
{
    int best = 0;
    float most = -1;
    for (int i = 0; i < n; i++) {
        uint64_t high = rng_u32(r), bits = (high << 32 | rng_u32(r)) & ((UINT64_C(1) << 53) - 1);
        if (!(share[i] > 0)) continue;
        float e = (float)-log1p(-(double)bits * 0x1p-53), q = share[i] / e;
        if (q > most) {
            most = q;
            best = i;
        }
    }
    return best;
}
