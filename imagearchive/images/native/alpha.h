/* Premultiplied alpha, rounded as by Pillow's conversions from RGBA to RGBa and back. */
#ifndef IMAGEARCHIVE_ALPHA_H
#define IMAGEARCHIVE_ALPHA_H

#include <stdint.h>

#include "simd.h"

INLINE uint8_t times_alpha(unsigned value, unsigned alpha)
{
    unsigned v = value * alpha + 128;
    return (uint8_t)(((v >> 8) + v) >> 8);
}

INLINE uint8_t undo_alpha(unsigned value, unsigned alpha)
{
    unsigned v = alpha == 0 || alpha == 255 ? value : 255 * value / alpha;
    return (uint8_t)(v > 255 ? 255 : v);
}

#endif
