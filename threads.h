/* threads.h -- what memory.c asks of threads.c: is a parallel_for under way? */
#ifndef THREADS_H
#define THREADS_H

#include <stdbool.h>

bool threads_busy(void);

#endif
