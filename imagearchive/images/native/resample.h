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


/* What AVX-512 multiplies for four outputs of at most four taps each, all from 16 pixels. Byte
 * 16 o + 4 c + j is about output o, channel c, and tap j. */
typedef struct {
    uint8_t index[64];     /* where the byte is in the pixels */
    int8_t digits[3][64];  /* the coefficient is d0 + 2^8 d1 + 2^16 d2 */
} px_quad;

typedef struct {
    int32_t first; /* the first of the pixels */
    uint32_t mask; /* which of them are read */
} px_span;

/* Quads are aligned to cache lines. The spans are behind the last of them. */
static inline px_quad *px_quads(const px_table *t)
{
    return (px_quad *)(((uintptr_t)t->quads + 63) & ~(uintptr_t)63);
}

#endif
