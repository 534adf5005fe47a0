/* kernels.c -- which instructions this CPU has, and the table filled accordingly.
 *
 * A level is a row of LEVELS[]: a name, a question to the CPU, and functions that overwrite the
 * slots it does better. Rows are tried from the first to the last, so each level stands on those
 * before it and none needs to be complete. A row that the CPU lacks is left out: on ARM bf16 and
 * i8mm are apart, and one that has the former alone gets neonbf16 on top of neondot.
 *
 * Easy to get wrong:
 *   - That a CPU has AVX is not enough: the operating system must save its registers when it
 *     switches tasks. It says so in XCR0, readable only if CPUID shows OSXSAVE; XGETBV without it
 *     is an illegal instruction.
 *   - One wide instruction before this question has been asked ends the program on an old CPU.
 *     Hence this file, like all but the level files, is compiled for the oldest CPU of the
 *     architecture, and level files keep their helpers static: an inline function of a header
 *     compiled with -mavx2 may be the copy that the linker keeps for everybody. */
#include "kernels.h"

#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

Kernels kernel;

static bool always(void) { return true; }

#if defined(__x86_64__)
/* Register files that the operating system saves: bits of XCR0. */
enum { XCR0_YMM = 0x6, XCR0_ZMM = 0xe6 };       /* SSE | AVX; and opmask, upper halves, zmm16-31 */

static unsigned os_saves(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a;
}

static bool has_avx2(void)
{
    unsigned a, b, c, d, need = bit_AVX | bit_FMA | bit_F16C;
    if ((os_saves() & XCR0_YMM) != XCR0_YMM) return false;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & need) != need) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

static bool has_avx512(void)
{
    unsigned a, b, c, d, need = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    if (!has_avx2() || (os_saves() & XCR0_ZMM) != XCR0_ZMM) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & need) == need;
}

static bool has_vnni(void)
{
    unsigned a, b, c, d;
    return has_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & bit_AVX512VNNI);
}

static bool has_avx512bf16(void)
{
    unsigned a, b, c, d;
    return has_vnni() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & bit_AVX512BF16);
}
#elif defined(__aarch64__)
enum { DOT = 1 << 20, I8MM = 1 << 13, BF16MM = 1 << 14 };  /* of HWCAP; and two of HWCAP2 */

static bool has_neon(void)    { return getauxval(AT_HWCAP) & HWCAP_ASIMD; }
static bool has_dot(void)     { return getauxval(AT_HWCAP) & DOT; }
static bool has_i8mm(void)    { return has_dot() && getauxval(AT_HWCAP2) & I8MM; }
static bool has_armbf16(void) { return has_dot() && getauxval(AT_HWCAP2) & BF16MM; }
#endif

typedef struct {
    const char *name;
    bool      (*has)(void);
    void      (*fill[6])(Kernels *k);           /* its files; NULL ends the list */
} Level;

static const Level LEVELS[] = {
    { "ref", always, { kernels_ref, quant_ref, conv_ref } },
#if defined(__x86_64__)
    { "avx2", has_avx2, { gemm_avx2, vector_avx2, attention_avx2, conv_avx2,
                         quant_avx2 } },
    { "avx512", has_avx512, { gemm_avx512, vector_avx512, attention_avx512, conv_avx512 } },
    { "avx512vnni", has_vnni, { quant_avx512vnni } },
    { "avx512bf16", has_avx512bf16, { gemm_avx512bf16 } },
#elif defined(__aarch64__)
    { "neon", has_neon, { gemm_neon, vector_neon, attention_neon, conv_neon, quant_neon } },
    { "neondot", has_dot, { quant_neondot } },
    { "neoni8mm", has_i8mm, { quant_neoni8mm } },
    { "neonbf16", has_armbf16, { gemm_neonbf16 } },
#endif
};
enum { N_LEVELS = sizeof LEVELS / sizeof *LEVELS };

static int level;                               /* index of the level in force */

bool kernels_init(const char *cap, bool exact)
{
    int best = 0;
    for (int i = 0; i < N_LEVELS; i++) {
        if (!LEVELS[i].has()) continue;
        best = i;
        if (cap && *cap && !strcmp(cap, LEVELS[i].name)) break;
    }
    if (cap && *cap && strcmp(cap, LEVELS[best].name)) return false;
    kernel.exact = exact;
    for (int i = 0; i <= best; i++)
        for (int f = 0; f < 6 && LEVELS[i].fill[f] && LEVELS[i].has(); f++)
            LEVELS[i].fill[f](&kernel);
    level = best;
    return true;
}

const char *kernels_level(void) { return LEVELS[level].name; }

const char *kernels_available(void)
{
    static char list[64];
    int n = 0;
    for (int i = 0; i < N_LEVELS; i++)
        if (LEVELS[i].has())
            n += snprintf(list + n, sizeof list - (size_t)n, "%s%s", i ? " " : "", LEVELS[i].name);
    return list;
}
