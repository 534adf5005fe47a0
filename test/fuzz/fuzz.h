/* fuzz.h -- what the fuzzers share: one input, read by one function, that may die() or fail() and
 * leave nothing behind.
 *
 * libFuzzer calls LLVMFuzzerTestOneInput a few thousand times a second in one process. A reader
 * that refuses its input is right to do so, and lands here; what must not happen is what the
 * sanitizers see, a bug(), an endless loop, or memory out of all proportion. Run: make fuzz-run. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdlib.h>
#include <string.h>

#include "../../mm.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* Reads the input; each fuzzer has one. */
static void read_input(const uint8_t *bytes, size_t n);

static void read_and_land(const uint8_t *bytes, size_t n)
{
    jmp_buf place;
    if (setjmp(place) == 0) {
        landing = die_landing = &place;
        read_input(bytes, n);
    }
    landing = die_landing = NULL;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    setenv("MM_ABORT", "1", 1);      /* bug() aborts, and libFuzzer keeps the input */
    threads_start(1);
    read_and_land((const uint8_t *)"{}", 2);     /* what is made once and kept is made now */
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    size_t kept = keep_mark(), mark = scratch_mark();
    read_and_land(bytes, n);
    scratch_reset(mark);
    keep_reset(kept);
    return 0;
}

#endif
