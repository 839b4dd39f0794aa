/* The coefficients of resampling, one table for each axis, as Pillow computes them. */
#include "resample.h"
#include "simd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Kernels may read this many bytes past the end of a buffer. */
#define SLACK 64

int px_grow(void **buffer, size_t *capacity, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) ||
        __builtin_add_overflow(bytes, (size_t)SLACK, &bytes))
        return PX_NO_MEMORY;
    if (bytes <= *capacity)
        return PX_OK;
    /* The old contents are not needed, so no realloc. */
    free(*buffer);
    *capacity = 0;
    *buffer = calloc(bytes, 1);
    if (!*buffer)
        return PX_NO_MEMORY;
    *capacity = bytes;
    return PX_OK;
}

void px_work_free(px_work *work)
{
    px_table *tables[2] = {&work->x, &work->y};
    for (int i = 0; i < 2; i++) {
        free(tables[i]->start);
        free(tables[i]->k);
        free(tables[i]->halves);
        free(tables[i]->quads);
    }
    free(work->planes);
    free(work->line);
    free(work->temp);
    memset(work, 0, sizeof *work);
}

/* ---- coefficients ---------------------------------------------------------------------- */

static double sinc(double x)
{
    if (x == 0.0)
        return 1.0;
    x *= M_PI;
    return sin(x) / x;
}

static double support_of(int filter)
{
    switch (filter) {
    case PX_BOX: return 0.5;
    case PX_BICUBIC: return 2.0;
    case PX_LANCZOS: return 3.0;
    default: return 1.0;
    }
}

static double weight(int filter, double x)
{
    double a = fabs(x);
    switch (filter) {
    case PX_BOX:
        return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
    case PX_BICUBIC: /* Keys' cubic, a = -0.5 */
        if (a < 1.0)
            return (1.5 * a - 2.5) * a * a + 1.0;
        return a < 2.0 ? ((-0.5 * a + 2.5) * a - 4.0) * a + 2.0 : 0.0;
    case PX_LANCZOS:
        return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
    default:
        return a < 1.0 ? 1.0 - a : 0.0;
    }
}

/* Fill the table for outputs [first, first + count) of `size`, reversed when `flip`. */
static int make_table(px_table *t, int filter, double box0, double box1, int64_t in_size,
                      int64_t size, int64_t first, int64_t count, int flip)
{
    double scale = (box1 - box0) / (double)size;
    double stretch = scale < 1.0 ? 1.0 : scale;
    double support = support_of(filter) * stretch;
    int64_t taps = filter == PX_NEAREST ? 1 : (int64_t)ceil(support) * 2 + 1;
    if (taps > in_size)
        taps = in_size;
    t->taps = (int)((taps + 3) & ~(int64_t)3);
    t->used = 1;
    t->identity = size == in_size && box0 == 0.0 && box1 == (double)in_size;
    t->lo = in_size;
    t->hi = 0;
    size_t padded = PADDED((size_t)count);
    size_t cells;
    if (__builtin_mul_overflow(padded, (size_t)t->taps, &cells) ||
        px_grow((void **)&t->start, &t->start_cap, padded, sizeof(int32_t)) ||
        px_grow((void **)&t->k, &t->k_cap, cells, sizeof(int32_t)))
        return PX_NO_MEMORY;
    memset(t->k, 0, cells * sizeof(int32_t));

    double stack[64];
    double *w = taps <= 64 ? stack : malloc((size_t)taps * sizeof(double));
    if (!w)
        return PX_NO_MEMORY;
    /* For nearest neighbors, add up steps as Pillow does: at exact ties the last bit decides. */
    double step = box0 + scale * 0.5;
    for (int64_t i = 0; filter == PX_NEAREST && i < first; i++)
        step += scale;
    for (int64_t i = 0; i < count; i++, step += scale) {
        double center = filter == PX_NEAREST ? step : box0 + ((double)(first + i) + 0.5) * scale;
        int64_t slot = flip ? count - 1 - i : i;
        int32_t *k = t->k + slot * t->taps;
        int64_t lo, n;
        if (filter == PX_NEAREST || t->identity) {
            lo = (int64_t)floor(center);
            lo = lo < 0 ? 0 : lo >= in_size ? in_size - 1 : lo;
            n = 1;
            k[0] = 1 << BITS;
        } else {
            double sum = 0.0;
            int64_t hi = (int64_t)(center + support + 0.5);
            lo = (int64_t)(center - support + 0.5);
            lo = lo < 0 ? 0 : lo;
            hi = hi > in_size ? in_size : hi;
            n = hi - lo > taps ? taps : hi - lo;
            for (int64_t j = 0; j < n; j++) {
                w[j] = weight(filter, ((double)(j + lo) - center + 0.5) * (1.0 / stretch));
                sum += w[j];
            }
            double inverse = sum != 0.0 ? 1.0 / sum : 1.0;
            for (int64_t j = 0; j < n; j++) {
                double v = w[j] * inverse * (double)(1 << BITS);
                k[j] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
            }
        }
        t->start[slot] = (int32_t)lo;
        if (n > t->used)
            t->used = (int)n;
        if (lo < t->lo)
            t->lo = lo;
        if (lo + n > t->hi)
            t->hi = lo + n;
    }
    if (w != stack)
        free(w);
    /* Drop unused columns, so that kernels read little past the end of a row. */
    int taps_used = (t->used + 3) & ~3;
    if (taps_used < t->taps) {
        for (int64_t i = 1; i < count; i++)
            memmove(t->k + i * taps_used, t->k + i * t->taps, (size_t)taps_used * sizeof(int32_t));
        for (size_t i = (size_t)count * (size_t)taps_used; i < padded * (size_t)taps_used; i++)
            t->k[i] = 0;
        t->taps = taps_used;
    }
    for (size_t i = (size_t)count; i < padded; i++)
        t->start[i] = count ? t->start[count - 1] : 0;
    if (!count)
        t->lo = t->hi = 0;
    return PX_OK;
}

/* Coefficients in the order that the kernel multiplies them: for outputs (i, i + 1) and four taps,
 * high halves of taps 0 1, then 2 3, then low halves; each pair repeated for four channels. */
static int make_halves(px_table *t, int64_t count)
{
    size_t padded = PADDED((size_t)count);
    size_t groups = (size_t)t->taps / 4, cells;
    if (__builtin_mul_overflow(padded, groups * 32, &cells) ||
        px_grow((void **)&t->halves, &t->halves_cap, cells, sizeof(int16_t)))
        return PX_NO_MEMORY;
    int16_t *out = t->halves;
    for (size_t i = 0; i < padded; i += 2)
        for (size_t g = 0; g < groups; g++)
            for (int low = 0; low < 2; low++)
                for (int pair = 0; pair < 2; pair++)
                    for (size_t lane = 0; lane < 2; lane++) {
                        const int32_t *k = t->k + (i + lane) * (size_t)t->taps + g * 4 + pair * 2;
                        int16_t a = (int16_t)(low ? k[0] & ((1 << LOW_BITS) - 1) : k[0] >> LOW_BITS);
                        int16_t b = (int16_t)(low ? k[1] & ((1 << LOW_BITS) - 1) : k[1] >> LOW_BITS);
                        for (int c = 0; c < 4; c++) {
                            *out++ = a;
                            *out++ = b;
                        }
                    }
    return PX_OK;
}

/* Fill the quads, if four taps and sixteen pixels are enough for each of them. */
static int make_quads(px_table *t, int64_t count)
{
    size_t quads = PADDED((size_t)count) / 4;
    t->use_quads = 0;
    if (t->taps != 4 || t->identity || px_simd_now() < PX_AVX512)
        return PX_OK;
    if (px_grow((void **)&t->quads, &t->quads_cap, quads + 1, sizeof(px_quad) + sizeof(px_span)))
        return PX_NO_MEMORY;
    px_quad *quad = px_quads(t);
    px_span *span = (px_span *)(quad + quads);
    const int32_t *k = t->k, *start = t->start;
    for (; quad < px_quads(t) + quads; quad++, span++, start += 4) {
        int32_t lo = start[0], hi = start[0];
        for (int o = 1; o < 4; o++) {
            lo = start[o] < lo ? start[o] : lo;
            hi = start[o] > hi ? start[o] : hi;
        }
        if (hi - lo + 4 > 16)
            return PX_OK;
        span->first = lo;
        span->mask = (1u << (hi - lo + 4)) - 1;
        for (int o = 0; o < 4; o++, k += 4) {
            uint8_t digits[3][4];
            for (int j = 0; j < 4; j++) {
                int32_t rest = k[j];
                for (int d = 0; d < 3; d++) {
                    digits[d][j] = (uint8_t)rest;
                    rest = (rest - (int8_t)rest) >> 8;
                }
                if (rest)
                    return PX_OK; /* larger than three digits; no filter has such coefficients */
            }
            uint32_t at = 0x0c080400u + (uint32_t)(start[o] - lo) * 0x04040404u;
            for (int c = 0; c < 4; c++, at += 0x01010101u) {
                memcpy(quad->index + 16 * o + 4 * c, &at, 4);
                for (int d = 0; d < 3; d++)
                    memcpy(quad->digits[d] + 16 * o + 4 * c, digits[d], 4);
            }
        }
    }
    t->use_quads = 1;
    return PX_OK;
}

int px_begin(px_work *work, const px_geometry *g, int channels, int divide)
{
    double d = (double)divide;
    double view_x = (double)g->view_x / d, view_y = (double)g->view_y / d;
    /* The decoder rounds sizes up. If `divide` does not divide the view, its edge pixels also have
     * a part of their neighbors; that is one of the approximations of scaled decoding. */
    int64_t x0 = (int64_t)floor(view_x), y0 = (int64_t)floor(view_y);
    int64_t x1 = (g->view_x + g->view_w + divide - 1) / divide;
    int64_t y1 = (g->view_y + g->view_h + divide - 1) / divide;
    int code;

    work->channels = channels;
    code = make_table(&work->x, g->filter, g->box_x0 / d + view_x - (double)x0,
                      g->box_x1 / d + view_x - (double)x0, x1 - x0, g->size_w, g->win_x, g->win_w,
                      g->flip_x);
    if (!code)
        code = make_table(&work->y, g->filter, g->box_y0 / d + view_y - (double)y0,
                          g->box_y1 / d + view_y - (double)y0, y1 - y0, g->size_h, g->win_y,
                          g->win_h, g->flip_y);
    if (!code)
        code = make_quads(&work->x, g->win_w);
    if (!code && !work->x.use_quads)
        code = make_halves(&work->x, g->win_w);
    if (code)
        return code;
    work->premultiply = channels == 4 && g->filter != PX_NEAREST &&
                        !(work->x.identity && work->y.identity);
    for (size_t i = 0; i < PADDED((size_t)g->win_w); i++)
        work->x.start[i] += (int32_t)x0;
    work->x.origin = x0;
    for (int64_t i = 0; i < g->win_h; i++)
        work->y.start[i] += (int32_t)y0;
    work->x.lo += x0;
    work->x.hi += x0;
    work->y.lo += y0;
    work->y.hi += y0;
    work->rows = work->y.hi - work->y.lo;
    work->stride = (g->win_w + 31) & ~(int64_t)31;
    size_t cells;
    if (__builtin_mul_overflow((size_t)work->stride, (size_t)work->rows, &cells) ||
        px_grow((void **)&work->planes, &work->planes_cap, cells, (size_t)channels) ||
        px_grow((void **)&work->temp, &work->temp_cap,
                (size_t)(work->stride > g->canvas_w ? work->stride : g->canvas_w) + 32,
                (size_t)channels))
        return PX_NO_MEMORY;
    return PX_OK;
}
