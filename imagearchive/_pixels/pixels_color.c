/* Colour of 8-bit RGB pixels, with the roundings of Pillow's ImageEnhance and HSV conversion. */
#include "pixels.h"

#include <math.h>

static inline uint8_t clipped(double v)
{
    return (uint8_t)(v <= 0.0 ? 0 : v >= 255.0 ? 255 : (int)v);
}

static inline unsigned grey_of(const uint8_t *p)
{
    return (19595u * p[0] + 38470u * p[1] + 7471u * p[2] + 0x8000u) >> 16;
}

void px_blend_value(uint8_t *pixels, size_t count, double factor, int value)
{
    uint8_t table[256];
    for (int v = 0; v < 256; v++)
        table[v] = clipped((double)((float)value + (float)factor * (float)(v - value)));
    for (size_t i = 0; i < count; i++)
        pixels[i] = table[pixels[i]];
}

void px_blend_grey(uint8_t *pixels, size_t pixel_count, double factor)
{
    float f = (float)factor;
    for (size_t i = 0; i < pixel_count; i++, pixels += 3) {
        int grey = (int)grey_of(pixels);
        for (int c = 0; c < 3; c++) {
            float v = (float)grey + f * (float)(pixels[c] - grey);
            v = v < 0.0f ? 0.0f : v > 255.0f ? 255.0f : v;
            pixels[c] = (uint8_t)v;
        }
    }
}

int px_mean_grey(const uint8_t *pixels, size_t pixel_count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < pixel_count; i++, pixels += 3)
        sum += grey_of(pixels);
    return (int)((double)sum / (double)pixel_count + 0.5);
}

void px_grey(const uint8_t *pixels, size_t pixel_count, uint8_t *out)
{
    for (size_t i = 0; i < pixel_count; i++, pixels += 3)
        out[i] = (uint8_t)grey_of(pixels);
}

/* RGB -> HSV in bytes, shift, and back: hue as sixths of the circle between the primaries. */
void px_shift_hue(uint8_t *pixels, size_t pixel_count, int shift)
{
    for (size_t i = 0; i < pixel_count; i++, pixels += 3) {
        int r = pixels[0], g = pixels[1], b = pixels[2];
        int high = r > g ? (r > b ? r : b) : (g > b ? g : b);
        int low = r < g ? (r < b ? r : b) : (g < b ? g : b);
        if (high == low)
            continue; /* no hue */
        float range = (float)(high - low), h;
        if (r == high)
            h = (float)(g - b) / range;
        else if (g == high)
            h = 2.0f + (float)(b - r) / range;
        else
            h = 4.0f + (float)(r - g) / range;
        h = h / 6.0f + 1.0f;
        h = h >= 1.0f ? h - 1.0f : h;
        int hue = ((int)(h * 255.0f) + shift) & 255;
        int saturation = (int)(range / (float)high * 255.0f);
        float sector = (float)hue * 6.0f / 255.0f;
        int which = (int)sector;
        float rest = sector - (float)which;
        float s = (float)saturation / 255.0f, v = (float)high;
        uint8_t p = (uint8_t)(v * (1.0f - s) + 0.5f);
        uint8_t q = (uint8_t)(v * (1.0f - s * rest) + 0.5f);
        uint8_t t = (uint8_t)(v * (1.0f - s * (1.0f - rest)) + 0.5f);
        uint8_t top = (uint8_t)high;
        switch (which % 6) {
        case 0: pixels[0] = top, pixels[1] = t, pixels[2] = p; break;
        case 1: pixels[0] = q, pixels[1] = top, pixels[2] = p; break;
        case 2: pixels[0] = p, pixels[1] = top, pixels[2] = t; break;
        case 3: pixels[0] = p, pixels[1] = q, pixels[2] = top; break;
        case 4: pixels[0] = t, pixels[1] = p, pixels[2] = top; break;
        default: pixels[0] = top, pixels[1] = p, pixels[2] = q; break;
        }
    }
}
