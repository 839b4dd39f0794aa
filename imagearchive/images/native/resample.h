/* Shared by coefficients.c and resample.c. */
#ifndef IMAGEARCHIVE_RESAMPLE_H
#define IMAGEARCHIVE_RESAMPLE_H

#include "pixels.h"

#define BITS 22
#define HALF (1 << (BITS - 1))
/* A coefficient is high * 2^LOW_BITS + low, so that 16-bit multiply-adds stay exact. */
#define LOW_BITS 11
/* Kernels make eight outputs a turn, so tables are filled up to a multiple of it. */
#define PADDED(n) (((n) + 7) & ~(size_t)7)

#endif
