/* Antialiased resampling of 8-bit pixels in two passes, as Pillow's Image.resize defines it:
 * coefficients of 22 bits, rows first, bytes between the passes. Results are equal bit for bit,
 * which is what makes the fast path and the plain one the same image. */
#include "pixels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BITS 22
#define HALF (1 << (BITS - 1))
/* A coefficient is high * 2^LOW_BITS + low, so that 16-bit multiply-adds stay exact. */
#define LOW_BITS 11
#define SLACK 64
/* Kernels make eight outputs a turn, so tables are filled up to a multiple of it. */
#define PADDED(n) (((n) + 7) & ~(size_t)7)

#if defined(__x86_64__) && defined(__GNUC__)
#define PX_X86 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,f16c")))
#else
#define PX_X86 0
#endif
#define INLINE static inline __attribute__((always_inline))

static int simd_state = -1;

int px_simd(int wanted)
{
    int available = 0;
#if PX_X86
    available = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
#endif
    simd_state = wanted ? available : 0;
    return simd_state;
}

int px_simd_now(void) { return simd_state < 0 ? px_simd(1) : simd_state; }


int px_grow(void **buffer, size_t *capacity, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) ||
        __builtin_add_overflow(bytes, (size_t)SLACK, &bytes))
        return PX_NO_MEMORY;
    if (bytes <= *capacity)
        return PX_OK;
    /* Contents are never needed again, so no realloc. */
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
    /* Nearest neighbours step by addition, as Pillow does: at exact ties the last bit decides. */
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
    /* Keep no more columns than are used, so that kernels read little past the end of a row. */
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

/* Coefficients in the order in which the kernel multiplies: for outputs (i, i + 1) and four taps,
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

int px_begin(px_work *work, const px_geometry *g, int channels, int divide)
{
    double d = (double)divide;
    double view_x = (double)g->view_x / d, view_y = (double)g->view_y / d;
    /* The decoder rounds sizes up; a view that is no multiple of it loses its hard edge to the
     * neighbouring pixel, which is part of what scaled decoding approximates. */
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
        code = make_halves(&work->x, g->win_w);
    if (code)
        return code;
    for (size_t i = 0; i < PADDED((size_t)g->win_w); i++)
        work->x.start[i] += (int32_t)x0;
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

/* ---- rows ------------------------------------------------------------------------------ */

INLINE uint8_t clip(int32_t v) { return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v); }

static void row_plain(const px_table *t, int64_t count, const uint8_t *row, int64_t first,
                      uint8_t *out, int64_t plane, int channels)
{
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *p = row + 4 * (t->start[i] - first);
        const int32_t *k = t->k + i * t->taps;
        for (int c = 0; c < channels; c++) {
            int32_t sum = HALF;
            for (int j = 0; j < t->used; j++)
                sum += k[j] * p[4 * j + c];
            out[c * plane + i] = clip(sum >> BITS);
        }
    }
}

#if PX_X86
/* Two outputs from `pairs` pairs of taps each. The first half of a vector of four pixels is a pair,
 * the second half the next; an odd last pair leaves its second half out. */
AVX2 INLINE __m256i two_pixels(const uint8_t *a, const uint8_t *b, const int16_t *k, int pairs)
{
    const __m256i first = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1));
    const __m256i second = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(8, -1, 12, -1, 9, -1, 13, -1, 10, -1, 14, -1, 11, -1, 15, -1));
    __m256i high = _mm256_setzero_si256(), low = high;
    for (int pair = 0; pair < pairs; pair += 2) {
        __m256i p = _mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(a + 8 * pair))),
            _mm_loadu_si128((const __m128i *)(b + 8 * pair)), 1);
        const __m256i *kv = (const __m256i *)(k + 32 * pair);
        __m256i pixels = _mm256_shuffle_epi8(p, first);
        __m256i h = _mm256_madd_epi16(pixels, _mm256_loadu_si256(kv));
        __m256i l = _mm256_madd_epi16(pixels, _mm256_loadu_si256(kv + 2));
        if (pair + 1 < pairs) {
            pixels = _mm256_shuffle_epi8(p, second);
            h = _mm256_add_epi32(h, _mm256_madd_epi16(pixels, _mm256_loadu_si256(kv + 1)));
            l = _mm256_add_epi32(l, _mm256_madd_epi16(pixels, _mm256_loadu_si256(kv + 3)));
        }
        high = pair ? _mm256_add_epi32(high, h) : h;
        low = pair ? _mm256_add_epi32(low, l) : l;
    }
    low = _mm256_add_epi32(low, _mm256_set1_epi32(HALF));
    return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(high, LOW_BITS), low), BITS);
}

/* Eight outputs a turn; the planes have room for the last, partial turn. */
AVX2 INLINE void row_groups(const px_table *t, int64_t count, const uint8_t *base, uint8_t *out,
                            int64_t plane, int channels, int groups, int pairs)
{
    const __m128i by_channel = _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    const int16_t *k = t->halves;
    const int32_t *start = t->start;
    uint8_t *out1 = out + plane, *out2 = out1 + plane, *out3 = out2 + plane;
#define PAIR(j)                                                                                   \
    two_pixels(base + 4 * (int64_t)start[i + 2 * (j)], base + 4 * (int64_t)start[i + 2 * (j) + 1], \
               k + 64 * groups * (j), pairs)
    for (int64_t i = 0; i < count; i += 8) {
        /* Lower lane: pixels 0 2 4 6, upper lane: pixels 1 3 5 7. */
        __m256i ab = _mm256_packs_epi32(PAIR(0), PAIR(1));
        __m256i bytes = _mm256_packus_epi16(ab, _mm256_packs_epi32(PAIR(2), PAIR(3)));
        __m128i even = _mm256_castsi256_si128(bytes), odd = _mm256_extracti128_si256(bytes, 1);
        __m128i lo = _mm_shuffle_epi8(_mm_unpacklo_epi8(even, odd), by_channel);
        __m128i hi = _mm_shuffle_epi8(_mm_unpackhi_epi8(even, odd), by_channel);
        __m128i first = _mm_unpacklo_epi32(lo, hi), second = _mm_unpackhi_epi32(lo, hi);
        _mm_storel_epi64((__m128i *)(out + i), first);
        if (channels > 1) {
            _mm_storel_epi64((__m128i *)(out1 + i), _mm_unpackhi_epi64(first, first));
            _mm_storel_epi64((__m128i *)(out2 + i), second);
            if (channels > 3)
                _mm_storel_epi64((__m128i *)(out3 + i), _mm_unpackhi_epi64(second, second));
        }
        k += 256 * groups;
    }
#undef PAIR
}

AVX2 static void row_avx2(const px_table *t, int64_t count, const uint8_t *row, int64_t first,
                          uint8_t *out, int64_t plane, int channels)
{
    /* Only ever read from column t->lo on, which lies in the row. */
    const uint8_t *base = (const uint8_t *)((uintptr_t)row - (uintptr_t)(4 * first));
    int pairs = (t->used + 1) / 2;
    if (channels == 3 && pairs == 1)
        row_groups(t, count, base, out, plane, 3, 1, 1);
    else if (channels == 3 && pairs == 2)
        row_groups(t, count, base, out, plane, 3, 1, 2);
    else if (channels == 3 && pairs == 3)
        row_groups(t, count, base, out, plane, 3, 2, 3);
    else if (channels == 3 && pairs == 4)
        row_groups(t, count, base, out, plane, 3, 2, 4);
    else
        row_groups(t, count, base, out, plane, channels, t->taps / 4, pairs);
}
#endif

#if PX_X86
/* Sixteen 4-byte pixels to sixteen bytes of each channel; returns how many pixels are done. */
AVX2 static int64_t split_avx2(const uint8_t *p, int64_t n, uint8_t *out, int64_t plane,
                               int channels)
{
    const __m256i group = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(p + 4 * i));
        __m256i b = _mm256_loadu_si256((const __m256i *)(p + 4 * i + 32));
        /* r0-3 r4-7 g0-3 g4-7 b0-3 b4-7 x0-3 x4-7 */
        a = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(a, group), order);
        b = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(b, group), order);
        __m256i even = _mm256_unpacklo_epi64(a, b); /* r | b */
        __m256i odd = _mm256_unpackhi_epi64(a, b);  /* g | x */
        _mm_storeu_si128((__m128i *)(out + i), _mm256_castsi256_si128(even));
        if (channels > 1) {
            _mm_storeu_si128((__m128i *)(out + plane + i), _mm256_castsi256_si128(odd));
            _mm_storeu_si128((__m128i *)(out + 2 * plane + i), _mm256_extracti128_si256(even, 1));
        }
        if (channels > 3)
            _mm_storeu_si128((__m128i *)(out + 3 * plane + i), _mm256_extracti128_si256(odd, 1));
    }
    return i;
}

/* 3-byte pixels to 4-byte ones, eight a turn, while the loads stay inside the row. */
AVX2 static int64_t widen_avx2(const uint8_t *in, int64_t n, uint8_t *out)
{
    const __m256i spread = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
    int64_t i = 0;
    for (; i + 11 <= n; i += 8) {
        __m256i v = _mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(in + 3 * i))),
            _mm_loadu_si128((const __m128i *)(in + 3 * i + 12)), 1);
        _mm256_storeu_si256((__m256i *)(out + 4 * i), _mm256_shuffle_epi8(v, spread));
    }
    return i;
}
#endif

/* 4-byte pixels to planes. */
static void split(const uint8_t *p, int64_t n, uint8_t *out, int64_t plane, int channels)
{
    int64_t i = 0;
#if PX_X86
    if (px_simd_now())
        i = split_avx2(p, n, out, plane, channels);
#endif
    for (; i < n; i++)
        for (int c = 0; c < channels; c++)
            out[c * plane + i] = p[4 * i + c];
}

/* Pixels of `channels` bytes to 4-byte pixels. */
static void widen(const uint8_t *in, int64_t n, int channels, uint8_t *out)
{
    int64_t i = 0;
    if (channels == 4) {
        memcpy(out, in, (size_t)n * 4);
        return;
    }
    if (channels == 1) {
        for (; i < n; i++)
            out[4 * i] = in[i];
        return;
    }
#if PX_X86
    if (px_simd_now())
        i = widen_avx2(in, n, out);
#endif
    for (; i < n; i++) {
        out[4 * i] = in[3 * i];
        out[4 * i + 1] = in[3 * i + 1];
        out[4 * i + 2] = in[3 * i + 2];
    }
}

static void row_identity(const px_table *t, int64_t count, const uint8_t *row, int64_t first,
                         uint8_t *out, int64_t plane, int channels)
{
    const uint8_t *p = row + 4 * (t->start[0] - first);
    if (count == 1 || t->start[1] > t->start[0]) {
        split(p, count, out, plane, channels);
        return;
    }
    for (int c = 0; c < channels; c++)
        for (int64_t i = 0; i < count; i++)
            out[c * plane + i] = p[-4 * i + c];
}

void px_row(px_work *work, const px_geometry *g, int64_t y, const uint8_t *row, int64_t first)
{
    uint8_t *out = work->planes + (y - work->y.lo) * work->stride;
    int64_t plane = work->stride * work->rows;
    if (!g->win_w)
        return;
    if (work->x.identity) {
        row_identity(&work->x, g->win_w, row, first, out, plane, work->channels);
        return;
    }
#if PX_X86
    if (px_simd_now()) {
        row_avx2(&work->x, g->win_w, row, first, out, plane, work->channels);
        return;
    }
#endif
    row_plain(&work->x, g->win_w, row, first, out, plane, work->channels);
}

/* ---- columns --------------------------------------------------------------------------- */

INLINE void columns_body(const uint8_t *in, int64_t stride, const int32_t *k, int taps, int64_t w,
                         uint8_t *out)
{
    /* Blocks of 32 keep the sums in registers; rows are padded to a multiple of 32. */
    for (int64_t x = 0; x < w; x += 32) {
        int32_t sum[32];
        for (int i = 0; i < 32; i++)
            sum[i] = HALF;
        for (int j = 0; j < taps; j++) {
            const uint8_t *p = in + j * stride + x;
            int32_t kj = k[j];
            for (int i = 0; i < 32; i++)
                sum[i] += kj * (int32_t)p[i];
        }
        for (int i = 0; i < 32; i++)
            out[x + i] = clip(sum[i] >> BITS);
    }
}

INLINE void floats_body(const uint8_t *in, int64_t n, float scale, float bias, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)in[i] * scale + bias;
}

static void columns_plain(const uint8_t *in, int64_t stride, const int32_t *k, int taps,
                          int64_t w, uint8_t *out)
{
    columns_body(in, stride, k, taps, w, out);
}

static void floats_plain(const uint8_t *in, int64_t n, float scale, float bias, float *out)
{
    floats_body(in, n, scale, bias, out);
}

/* IEEE 754 binary16, rounded to nearest even. */
static uint16_t to_half(float value)
{
    uint32_t bits, sign, rest;
    memcpy(&bits, &value, 4);
    sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits >= 0x47800000u) /* too large, infinite, or not a number */
        return (uint16_t)(sign | (bits > 0x7f800000u ? 0x7e00u : 0x7c00u));
    if (bits < 0x38800000u) { /* subnormal: let the addition of 0.5 do the rounding */
        float shifted;
        memcpy(&shifted, &bits, 4);
        shifted += 0.5f;
        memcpy(&bits, &shifted, 4);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    rest = bits & 0x1fffu;
    bits = (bits - 0x38000000u) >> 13;
    if (rest > 0x1000u || (rest == 0x1000u && (bits & 1u)))
        bits++;
    return (uint16_t)(sign | bits);
}

static void halves_plain(const uint8_t *in, int64_t n, float scale, float bias, uint16_t *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = to_half((float)in[i] * scale + bias);
}

#if PX_X86
AVX2 INLINE __m256i clipped(__m256i a, __m256i b)
{
    return _mm256_packs_epi32(_mm256_srai_epi32(a, BITS), _mm256_srai_epi32(b, BITS));
}

AVX2 static void columns_avx2(const uint8_t *in, int64_t stride, const int32_t *k, int taps,
                              int64_t w, uint8_t *out)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t x = 0; x < w; x += 32) {
        __m256i s0 = _mm256_set1_epi32(HALF), s1 = s0, s2 = s0, s3 = s0;
        const uint8_t *p = in + x;
        for (int j = 0; j < taps; j++, p += stride) {
            __m256i kj = _mm256_set1_epi32(k[j]);
            s0 = _mm256_add_epi32(s0, _mm256_mullo_epi32(kj, _mm256_cvtepu8_epi32(
                                          _mm_loadl_epi64((const __m128i *)p))));
            s1 = _mm256_add_epi32(s1, _mm256_mullo_epi32(kj, _mm256_cvtepu8_epi32(
                                          _mm_loadl_epi64((const __m128i *)(p + 8)))));
            s2 = _mm256_add_epi32(s2, _mm256_mullo_epi32(kj, _mm256_cvtepu8_epi32(
                                          _mm_loadl_epi64((const __m128i *)(p + 16)))));
            s3 = _mm256_add_epi32(s3, _mm256_mullo_epi32(kj, _mm256_cvtepu8_epi32(
                                          _mm_loadl_epi64((const __m128i *)(p + 24)))));
        }
        _mm256_storeu_si256((__m256i *)(out + x),
                            _mm256_permutevar8x32_epi32(
                                _mm256_packus_epi16(clipped(s0, s1), clipped(s2, s3)), order));
    }
}

AVX2 static void floats_avx2(const uint8_t *in, int64_t n, float scale, float bias, float *out)
{
    floats_body(in, n, scale, bias, out);
}

AVX2 static void halves_avx2(const uint8_t *in, int64_t n, float scale, float bias, uint16_t *out)
{
    __m256 s = _mm256_set1_ps(scale), b = _mm256_set1_ps(bias);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_cvtepi32_ps(
            _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(in + i))));
        v = _mm256_add_ps(_mm256_mul_ps(v, s), b);
        _mm_storeu_si128((__m128i *)(out + i),
                         _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    halves_plain(in + i, n - i, scale, bias, out + i);
}
#endif

static void columns(const uint8_t *in, int64_t stride, const int32_t *k, int taps, int64_t w,
                    uint8_t *out)
{
#if PX_X86
    if (px_simd_now()) {
        columns_avx2(in, stride, k, taps, w, out);
        return;
    }
#endif
    columns_plain(in, stride, k, taps, w, out);
}

/* One row of one channel to its place in a planar output. */
static void write_plane(const px_output_format *f, int c, const uint8_t *in, int64_t n, uint8_t *out)
{
    if (f->dtype == PX_UINT8) {
        memcpy(out, in, (size_t)n);
        return;
    }
#if PX_X86
    if (px_simd_now()) {
        if (f->dtype == PX_FLOAT32)
            floats_avx2(in, n, f->scale[c], f->bias[c], (float *)out);
        else
            halves_avx2(in, n, f->scale[c], f->bias[c], (uint16_t *)out);
        return;
    }
#endif
    if (f->dtype == PX_FLOAT32)
        floats_plain(in, n, f->scale[c], f->bias[c], (float *)out);
    else
        halves_plain(in, n, f->scale[c], f->bias[c], (uint16_t *)out);
}

/* One row of interleaved output from `channels` rows that are `stride` apart. */
static void write_interleaved(const px_output_format *f, const uint8_t *in, int64_t stride, int64_t n,
                               int channels, uint8_t *out)
{
    if (f->dtype == PX_UINT8 && channels == 3) {
        const uint8_t *r = in, *g = in + stride, *b = in + 2 * stride;
        for (int64_t i = 0; i < n; i++) {
            out[3 * i] = r[i];
            out[3 * i + 1] = g[i];
            out[3 * i + 2] = b[i];
        }
        return;
    }
    for (int c = 0; c < channels; c++) {
        const uint8_t *p = in + c * stride;
        float scale = f->scale[c], bias = f->bias[c];
        if (f->dtype == PX_UINT8) {
            for (int64_t i = 0; i < n; i++)
                out[channels * i + c] = p[i];
        } else if (f->dtype == PX_FLOAT32) {
            float *o = (float *)out + c;
            for (int64_t i = 0; i < n; i++)
                o[channels * i] = (float)p[i] * scale + bias;
        } else {
            uint16_t table[256], *o = (uint16_t *)out + c;
            for (int v = 0; v < 256; v++)
                table[v] = to_half((float)v * scale + bias);
            for (int64_t i = 0; i < n; i++)
                o[channels * i] = table[p[i]];
        }
    }
}

static size_t size_of(int dtype)
{
    return dtype == PX_UINT8 ? 1 : dtype == PX_FLOAT32 ? 4 : 2;
}

void px_end(px_work *work, const px_geometry *g, const px_output_format *f, void *output)
{
    size_t item = size_of(f->dtype);
    int channels = work->channels;
    int64_t plane = work->stride * work->rows;
    int64_t left = g->flip_x ? g->canvas_w - g->at_x - g->win_w : g->at_x;
    int64_t top = g->flip_y ? g->canvas_h - g->at_y - g->win_h : g->at_y;
    int64_t pitch = work->stride > g->canvas_w + 32 ? work->stride : g->canvas_w + 32;
    uint8_t fill[4];
    for (int c = 0; c < 4; c++)
        fill[c] = clip((int32_t)(g->fill[c] < -1e6f ? -1e6f : g->fill[c] > 1e6f ? 1e6f
                                                                       : g->fill[c] + 0.5f));
    int padded = g->win_w < g->canvas_w || g->win_h < g->canvas_h;
    uint8_t *out = output;
    const px_table *t = &work->y;

    for (int64_t y = 0; y < g->canvas_h; y++) {
        int64_t i = y - top;
        int inside = i >= 0 && i < g->win_h && g->win_w > 0;
        for (int c = 0; c < channels; c++) {
            uint8_t *line = work->temp + c * pitch;
            const uint8_t *source = line;
            if (inside) {
                const uint8_t *in = work->planes + c * plane + (t->start[i] - t->lo) * work->stride;
                const int32_t *k = t->k + i * t->taps;
                int taps = t->used;
                /* Rows past the last one have a coefficient of 0 and may not exist. */
                while (taps > 1 && !k[taps - 1])
                    taps--;
                for (; taps > 1 && !k[0]; taps--, k++)
                    in += work->stride;
                if (taps == 1 && k[0] == 1 << BITS)
                    source = in; /* nothing to compute */
                else
                    columns(in, work->stride, k, taps, g->win_w, line);
            }
            if (padded) {
                if (inside) {
                    memmove(line + left, source, (size_t)g->win_w);
                    memset(line, fill[c], (size_t)left);
                    memset(line + left + g->win_w, fill[c],
                           (size_t)(g->canvas_w - left - g->win_w));
                } else
                    memset(line, fill[c], (size_t)g->canvas_w);
                source = line;
            }
            if (f->planar)
                write_plane(f, c, source, g->canvas_w,
                             out + ((size_t)c * (size_t)g->canvas_h + (size_t)y) *
                                       (size_t)g->canvas_w * item);
            else if (source != line)
                memcpy(line, source, (size_t)g->canvas_w);
        }
        if (!f->planar)
            write_interleaved(f, work->temp, pitch, g->canvas_w, channels,
                               out + (size_t)y * (size_t)g->canvas_w * (size_t)channels * item);
    }
}

/* ---- whole arrays ---------------------------------------------------------------------- */

int px_render_array(px_work *work, const px_geometry *g, const px_output_format *format,
                    const uint8_t *pixels, int64_t row_stride, int channels, void *out)
{
    int code = px_begin(work, g, channels, 1);
    if (code)
        return code;
    int64_t lo = work->x.lo, n = work->x.hi - lo;
    if (px_grow((void **)&work->line, &work->line_cap, (size_t)(n + work->x.taps), 4))
        return PX_NO_MEMORY;
    for (int64_t y = work->y.lo; y < work->y.hi && n > 0; y++) {
        widen(pixels + y * row_stride + lo * channels, n, channels, work->line);
        px_row(work, g, y, work->line, lo);
    }
    px_end(work, g, format, out);
    return PX_OK;
}

/* The same for float32 (H, W, C), without normalisation: rows, then columns, sums in double. */
int px_render_float(px_work *work, const px_geometry *g, const float *pixels, int64_t row_stride,
                    int channels, float *out)
{
    int code = px_begin(work, g, channels, 1);
    if (code)
        return code;
    const px_table *tx = &work->x, *ty = &work->y;
    const double unit = 1.0 / (double)(1 << BITS);
    int64_t left = g->flip_x ? g->canvas_w - g->at_x - g->win_w : g->at_x;
    int64_t top = g->flip_y ? g->canvas_h - g->at_y - g->win_h : g->at_y;
    size_t cells, width = (size_t)g->win_w * (size_t)channels;
    if (__builtin_mul_overflow(width, (size_t)work->rows, &cells) ||
        px_grow((void **)&work->planes, &work->planes_cap, cells, sizeof(float)))
        return PX_NO_MEMORY;
    float *middle = (float *)work->planes;
    for (int64_t y = 0; y < work->rows; y++) {
        const float *row = (const float *)((const char *)pixels + (y + ty->lo) * row_stride);
        for (int64_t i = 0; i < g->win_w; i++) {
            const int32_t *k = tx->k + i * tx->taps;
            const float *p = row + (int64_t)tx->start[i] * channels;
            for (int c = 0; c < channels; c++) {
                double sum = 0.0;
                for (int j = 0; j < tx->used; j++)
                    if (k[j]) /* beyond the row there is nothing to read */
                        sum += (double)k[j] * unit * (double)p[j * channels + c];
                middle[(size_t)y * width + (size_t)(i * channels + c)] = (float)sum;
            }
        }
    }
    for (int64_t y = 0; y < g->canvas_h; y++) {
        float *row = out + (size_t)y * (size_t)g->canvas_w * (size_t)channels;
        int64_t i = y - top;
        if (i < 0 || i >= g->win_h || g->win_w < g->canvas_w)
            for (int64_t x = 0; x < g->canvas_w; x++)
                for (int c = 0; c < channels; c++)
                    row[x * channels + c] = g->fill[c];
        if (i < 0 || i >= g->win_h)
            continue;
        const int32_t *k = ty->k + i * ty->taps;
        const float *in = middle + (size_t)(ty->start[i] - ty->lo) * width;
        float *target = row + left * channels;
        for (size_t x = 0; x < width; x++) {
            double sum = 0.0;
            for (int j = 0; j < ty->used; j++)
                if (k[j])
                    sum += (double)k[j] * unit * (double)in[(size_t)j * width + x];
            target[x] = (float)sum;
        }
    }
    return PX_OK;
}

/* Pixels of a chunk of a row, in three layouts on the stack. */
#define CHUNK 4096
/* Outputs of as many values go past the caches, which are smaller than a batch: without that
 * every line is read from memory before it is written. Halves the time on images of 224 x 224. */
#define STREAM_FROM 32768

#if PX_X86
AVX2 static int64_t stream_floats_avx2(const uint8_t *in, int64_t n, float scale, float bias,
                                       float *out)
{
    __m256 s = _mm256_set1_ps(scale), b = _mm256_set1_ps(bias);
    int64_t i = 0;
    for (; i < n && ((uintptr_t)(out + i) & 31); i++)
        out[i] = (float)in[i] * scale + bias;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_cvtepi32_ps(
            _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(in + i))));
        _mm256_stream_ps(out + i, _mm256_add_ps(_mm256_mul_ps(v, s), b));
    }
    return i;
}
#endif

static void stream_floats(const uint8_t *in, int64_t n, float scale, float bias, float *out)
{
    int64_t i = 0;
#if PX_X86
    if (px_simd_now())
        i = stream_floats_avx2(in, n, scale, bias, out);
#endif
    floats_plain(in + i, n - i, scale, bias, out + i);
}

void px_convert_array(const px_output_format *f, const uint8_t *pixels, int64_t row_stride, int64_t width,
                     int64_t height, int channels, void *output)
{
    size_t item = size_of(f->dtype);
    uint8_t wide[4 * CHUNK + 32], planes[4 * CHUNK];
    uint8_t *out = output;
    int64_t area = width * height;
    int direct = f->planar && f->dtype == PX_FLOAT32 && area * channels >= STREAM_FROM;
    if (row_stride == width * channels && area) {
        width = area; /* no gaps: one long row */
        height = 1;
    }
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x += CHUNK) {
            const uint8_t *in = pixels + y * row_stride + x * channels;
            int64_t n = width - x < CHUNK ? width - x : CHUNK;
            int64_t at = y * width + x;
            if (!f->planar && f->dtype == PX_UINT8) {
                memcpy(out + at * channels, in, (size_t)(n * channels));
                continue;
            }
            if (channels == 1)
                memcpy(planes, in, (size_t)n);
            else {
                widen(in, n, channels, wide);
                split(wide, n, planes, CHUNK, channels);
            }
            if (!f->planar)
                write_interleaved(f, planes, CHUNK, n, channels,
                                   out + (size_t)(at * channels) * item);
            else
                for (int c = 0; c < channels; c++) {
                    uint8_t *place = out + (size_t)(c * area + at) * item;
                    if (direct)
                        stream_floats(planes + c * CHUNK, n, f->scale[c], f->bias[c],
                                      (float *)place);
                    else
                        write_plane(f, c, planes + c * CHUNK, n, place);
                }
        }
#if PX_X86
    _mm_sfence(); /* streaming stores are not ordered with others */
#endif
}
