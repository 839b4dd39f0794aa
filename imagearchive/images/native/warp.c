/* Perspective warps: each output pixel is sampled where the homography sends its center, with the
 * arithmetic of Pillow's Image.transform, so that 8-bit results are the same bit for bit. */
#include "alpha.h"
#include "pixels.h"
#include "simd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *pixels; /* uint8 or float32, premultiplied if there is alpha to interpolate */
    int64_t row_stride, width, height;
    const double *a; /* 8 coefficients */
    const float *fill;
} source;

INLINE double load(const char *p, int64_t i, int floats)
{
    return floats ? (double)((const float *)p)[i] : (double)((const uint8_t *)p)[i];
}

INLINE void store(char *p, int64_t i, double v, int floats)
{
    if (floats)
        ((float *)p)[i] = (float)v;
    else
        ((uint8_t *)p)[i] = (uint8_t)(v <= 0.0 ? 0 : v >= 255.0 ? 255 : (int)v);
}

/* The positions of `taps` neighbors of v in [0, size), and the distance of v from the first of the
 * middle two. Pixels beyond the edge are the edge's. */
INLINE double neighbors(double v, int64_t size, int taps, int64_t *at)
{
    v -= 0.5; /* now -0.5 or more */
    int64_t base = v >= 0.0 ? (int64_t)v : -1;
    for (int i = 0; i < taps; i++) {
        int64_t j = base + i - (taps / 2 - 1);
        at[i] = j < 0 ? 0 : j >= size ? size - 1 : j;
    }
    return v - (double)base;
}

/* Between v[0] and v[1], or between v[1] and v[2] by the cubic with a = -1. */
INLINE double between(const double *v, double d, int taps)
{
    if (taps == 2)
        return v[0] + (v[1] - v[0]) * d;
    double p1 = v[1];
    double p2 = -v[0] + v[2];
    double p3 = 2 * (v[0] - v[1]) + v[2] - v[3];
    double p4 = -v[0] + v[1] - v[2] + v[3];
    return p1 + d * (p2 + d * (p3 + d * p4));
}

INLINE void sample(const source *s, double x, double y, int channels, int taps, int floats,
                   char *out)
{
    size_t item = floats ? sizeof(float) : 1, pixel = item * (size_t)channels;
    if (taps == 1) {
        memcpy(out, s->pixels + (int64_t)y * s->row_stride + (int64_t)x * (int64_t)pixel, pixel);
        return;
    }
    int64_t columns[4], rows[4];
    double dx = neighbors(x, s->width, taps, columns);
    double dy = neighbors(y, s->height, taps, rows);
    for (int c = 0; c < channels; c++) {
        double values[4], column[4];
        for (int j = 0; j < taps; j++) {
            const char *row = s->pixels + rows[j] * s->row_stride;
            for (int i = 0; i < taps; i++)
                values[i] = load(row, columns[i] * channels + c, floats);
            column[j] = between(values, dx, taps);
        }
        store(out, c, between(column, dy, taps), floats);
    }
    if (channels < 4)
        return;
    if (!floats) {
        uint8_t *p = (uint8_t *)out;
        for (int c = 0; c < 3; c++)
            p[c] = undo_alpha(p[c], p[3]);
    } else {
        float *p = (float *)out;
        for (int c = 0; c < 3 && p[3] > 0.0f; c++)
            p[c] /= p[3];
    }
}

INLINE void warp_body(const source *s, int64_t width, int64_t height, int channels, int taps,
                      int floats, char *out)
{
    const double *a = s->a, w = (double)s->width, h = (double)s->height;
    size_t pixel = (floats ? sizeof(float) : 1) * (size_t)channels;
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++, out += pixel) {
            double u = (double)x + 0.5, v = (double)y + 0.5;
            double divisor = a[6] * u + a[7] * v + 1;
            double sx = (a[0] * u + a[1] * v + a[2]) / divisor;
            double sy = (a[3] * u + a[4] * v + a[5]) / divisor;
            /* Written so that NaN, from a divisor of zero, is outside. */
            if (sx >= 0.0 && sx < w && sy >= 0.0 && sy < h)
                sample(s, sx, sy, channels, taps, floats, out);
            else
                for (int c = 0; c < channels; c++)
                    store(out, c, (double)s->fill[c], floats);
        }
}

/* One loop for each combination, so that compilers unroll the inner ones. */
#define WARP(c, t, f)                                                                             \
    if (channels == c && taps == t && floats == f) {                                              \
        warp_body(s, width, height, c, t, f, out);                                                \
        return;                                                                                   \
    }
#define WARPS(c, f) WARP(c, 1, f) WARP(c, 2, f) WARP(c, 4, f)

static void warp(const source *s, int64_t width, int64_t height, int channels, int taps,
                 int floats, char *out)
{
    WARPS(1, 0) WARPS(3, 0) WARPS(4, 0)
    WARPS(1, 1) WARPS(3, 1) WARPS(4, 1)
}

/* A copy of an RGBA image whose colors are multiplied by alpha; 8-bit alpha counts in 255ths. */
static char *premultiplied(const source *s, int floats)
{
    size_t item = floats ? sizeof(float) : 1, count;
    if (__builtin_mul_overflow((size_t)s->width * 4 * item, (size_t)s->height, &count))
        return NULL;
    char *copy = malloc(count);
    if (!copy)
        return NULL;
    for (int64_t y = 0; y < s->height; y++) {
        const char *in = s->pixels + y * s->row_stride;
        char *out = copy + (size_t)y * (size_t)s->width * 4 * item;
        for (int64_t i = 0; i < 4 * s->width; i += 4)
            for (int c = 0; c < 4; c++) {
                if (floats) {
                    const float *p = (const float *)in + i;
                    ((float *)out)[i + c] = c < 3 ? p[c] * p[3] : p[3];
                } else {
                    const uint8_t *p = (const uint8_t *)in + i;
                    ((uint8_t *)out)[i + c] = c < 3 ? times_alpha(p[c], p[3]) : p[3];
                }
            }
    }
    return copy;
}

/* Whether to compute positions in 16.16 fixed point, as Pillow does to take the nearest pixels of an
 * affine map. It computes those of scalings and homographies in floating point. */
static int is_fixed(const double *a, int64_t width, int64_t height)
{
    if (a[6] != 0.0 || a[7] != 0.0 || (a[1] == 0.0 && a[3] == 0.0))
        return 0;
    for (int corner = 0; corner < 4; corner++) {
        double x = corner & 1 ? (double)width : 0.0, y = corner & 2 ? (double)height : 0.0;
        /* Written so that NaN does not fit. */
        if (!(fabs(a[0] * x + a[1] * y + a[2]) < 32768.0 &&
              fabs(a[3] * x + a[4] * y + a[5]) < 32768.0))
            return 0;
    }
    return 1;
}

static int64_t to_fixed(double v)
{
    return (int64_t)floor(v * 65536.0 + 0.5);
}

INLINE void take_nearest(const source *s, int64_t width, int64_t height, size_t pixel,
                         const char *fill, char *out)
{
    const double *a = s->a;
    int64_t right_x = to_fixed(a[0]), down_x = to_fixed(a[1]);
    int64_t right_y = to_fixed(a[3]), down_y = to_fixed(a[4]);
    int64_t first_x = to_fixed(a[2] + a[0] * 0.5 + a[1] * 0.5);
    int64_t first_y = to_fixed(a[5] + a[3] * 0.5 + a[4] * 0.5);
    for (int64_t y = 0; y < height; y++) {
        int64_t at_x = first_x + y * down_x, at_y = first_y + y * down_y;
        for (int64_t x = 0; x < width; x++, out += pixel, at_x += right_x, at_y += right_y) {
            int64_t column = at_x >> 16, row = at_y >> 16;
            int inside = column >= 0 && column < s->width && row >= 0 && row < s->height;
            memcpy(out, inside ? s->pixels + row * s->row_stride + column * (int64_t)pixel : fill,
                   pixel);
        }
    }
}

static void warp_fixed(const source *s, int64_t width, int64_t height, int channels, int floats,
                       char *out)
{
    char fill[4 * sizeof(float)];
    for (int c = 0; c < channels; c++)
        store(fill, c, (double)s->fill[c], floats);
    switch ((floats ? 4 : 1) * channels) {
    case 1:
        take_nearest(s, width, height, 1, fill, out);
        break;
    case 3:
        take_nearest(s, width, height, 3, fill, out);
        break;
    case 4:
        take_nearest(s, width, height, 4, fill, out);
        break;
    case 12:
        take_nearest(s, width, height, 12, fill, out);
        break;
    default:
        take_nearest(s, width, height, 16, fill, out);
    }
}

int px_warp(const void *pixels, int64_t row_stride, int64_t width, int64_t height, int channels,
            int floats, const double *coefficients, int filter, const float *fill,
            int64_t out_width, int64_t out_height, void *out)
{
    source s = {pixels, row_stride, width, height, coefficients, fill};
    int taps = filter == PX_NEAREST ? 1 : filter == PX_BILINEAR ? 2 : 4;
    char *copy = NULL;
    if (taps == 1 && is_fixed(coefficients, out_width, out_height)) {
        warp_fixed(&s, out_width, out_height, channels, floats, out);
        return PX_OK;
    }
    if (channels == 4 && taps > 1) {
        copy = premultiplied(&s, floats);
        if (!copy)
            return PX_NO_MEMORY;
        s.pixels = copy;
        s.row_stride = width * 4 * (floats ? (int64_t)sizeof(float) : 1);
    }
    warp(&s, out_width, out_height, channels, taps, floats, out);
    free(copy);
    return PX_OK;
}
