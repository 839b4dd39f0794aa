/* Colors of 8-bit RGB pixels, rounded as by Pillow's ImageEnhance and HSV conversion. */
#include "pixels.h"
#include "simd.h"

/* Nothing here uses floating-point traps; without them, selections need no branches. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math")
#endif

static inline uint8_t clipped(double v)
{
    return (uint8_t)(v <= 0.0 ? 0 : v >= 255.0 ? 255 : (int)v);
}

static inline unsigned gray_of(const uint8_t *p)
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

/* The loops run over planes of a chunk of pixels, so that compilers vectorize them. Each is
 * compiled a second time for AVX2. */
#define CHUNK 512
#if defined(__x86_64__) && defined(__GNUC__)
#define TWICE(name, parameters, arguments)                                                        \
    __attribute__((target("avx2"))) static void name##_avx2 parameters { name##_body arguments; } \
    static void name##_plain parameters { name##_body arguments; }                                \
    static void name parameters                                                                   \
    {                                                                                             \
        if (px_simd_now())                                                                        \
            name##_avx2 arguments;                                                                \
        else                                                                                      \
            name##_plain arguments;                                                               \
    }
#else
#define TWICE(name, parameters, arguments)                                                        \
    static void name parameters { name##_body arguments; }
#endif

typedef struct {
    uint8_t r[CHUNK], g[CHUNK], b[CHUNK];
} planes;

INLINE void take(const uint8_t *pixels, int n, planes *out)
{
    for (int i = 0; i < n; i++) {
        out->r[i] = pixels[3 * i];
        out->g[i] = pixels[3 * i + 1];
        out->b[i] = pixels[3 * i + 2];
    }
}

INLINE void give(const planes *in, int n, uint8_t *pixels)
{
    for (int i = 0; i < n; i++) {
        pixels[3 * i] = in->r[i];
        pixels[3 * i + 1] = in->g[i];
        pixels[3 * i + 2] = in->b[i];
    }
}

INLINE uint8_t blended(int gray, int value, float factor)
{
    float v = (float)gray + factor * (float)(value - gray);
    v = v < 0.0f ? 0.0f : v;
    v = v > 255.0f ? 255.0f : v;
    return (uint8_t)(int)v;
}

INLINE void blend_body(uint8_t *pixels, int n, float factor)
{
    planes p;
    take(pixels, n, &p);
    for (int i = 0; i < n; i++) {
        int r = p.r[i], g = p.g[i], b = p.b[i];
        int gray = (19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16;
        p.r[i] = blended(gray, r, factor);
        p.g[i] = blended(gray, g, factor);
        p.b[i] = blended(gray, b, factor);
    }
    give(&p, n, pixels);
}

TWICE(blend, (uint8_t *pixels, int n, float factor), (pixels, n, factor))

void px_blend_gray(uint8_t *pixels, size_t pixel_count, double factor)
{
    for (size_t i = 0; i < pixel_count; i += CHUNK)
        blend(pixels + 3 * i, (int)(pixel_count - i < CHUNK ? pixel_count - i : CHUNK),
              (float)factor);
}

int px_mean_gray(const uint8_t *pixels, size_t pixel_count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < pixel_count; i++, pixels += 3)
        sum += gray_of(pixels);
    return (int)((double)sum / (double)pixel_count + 0.5);
}

void px_gray(const uint8_t *pixels, size_t pixel_count, uint8_t *out)
{
    for (size_t i = 0; i < pixel_count; i++, pixels += 3)
        out[i] = (uint8_t)gray_of(pixels);
}

/* One channel of HSV -> RGB: how far the hue is from the channel's two sectors of full value.
 * Uses only minima, because a branch would keep the loop from being vectorized. */
INLINE uint8_t channel(float offset, float sector, float s, float top)
{
    float k = offset + sector, w;
    k -= 6.0f * (float)(int)(k * (1.0f / 6.0f));
    w = 4.0f - k;
    w = w < k ? w : k;
    w = w < 1.0f ? w : 1.0f;
    w = w > 0.0f ? w : 0.0f;
    return (uint8_t)(int)(top * (1.0f - s * w) + 0.5f);
}

/* RGB -> HSV in bytes, shift, and back: hue as sixths of the circle between the primaries. */
INLINE void hue_body(uint8_t *pixels, int n, int shift)
{
    planes p;
    take(pixels, n, &p);
    for (int i = 0; i < n; i++) {
        int r = p.r[i], g = p.g[i], b = p.b[i];
        int high = r > g ? r : g, low = r < g ? r : g;
        high = high > b ? high : b;
        low = low < b ? low : b;
        /* Grays have no hue; 1 keeps the division defined and their saturation at 0. */
        int range = high - low;
        float divisor = (float)(range + (range == 0));
        int red = r == high, green = (g == high) & ~red, blue = 1 - red - green;
        int ahead = red * (g - b) + green * (b - r) + blue * (r - g);
        float from = (float)(2 * green + 4 * blue);
        float h = (from + (float)ahead / divisor) / 6.0f + 1.0f;
        h -= (float)(int)h;
        int hue = ((int)(h * 255.0f) + shift) & 255;
        float top = (float)high;
        int saturation = (int)((float)range / (float)(high + (high == 0)) * 255.0f);
        float sector = (float)hue * 6.0f / 255.0f;
        float s = (float)saturation / 255.0f;
        p.r[i] = channel(5.0f, sector, s, top);
        p.g[i] = channel(3.0f, sector, s, top);
        p.b[i] = channel(1.0f, sector, s, top);
    }
    give(&p, n, pixels);
}

TWICE(hue, (uint8_t *pixels, int n, int shift), (pixels, n, shift))

void px_shift_hue(uint8_t *pixels, size_t pixel_count, int shift)
{
    for (size_t i = 0; i < pixel_count; i += CHUNK)
        hue(pixels + 3 * i, (int)(pixel_count - i < CHUNK ? pixel_count - i : CHUNK), shift);
}
