/* Antialiased resampling of 8-bit pixels in two passes, as Pillow's Image.resize defines it:
 * coefficients of 22 bits, rows first, bytes between the passes. Results are equal bit for bit,
 * so compiled pipelines and plain transforms give the same image. */
#include "resample.h"
#include "alpha.h"
#include "simd.h"

#include <string.h>

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
/* Two outputs from `pairs` pairs of taps each. A vector of four pixels holds two pairs, one in each
 * half; the second half of the last vector is skipped if `pairs` is odd. */
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

/* Eight outputs at a time; the planes have room for the last, incomplete group. */
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
    /* Reads start at column t->lo, which is inside the row. */
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

/* The sums of four outputs, four channels each, clipped to bytes. */
AVX512 INLINE __m128i four_pixels(const px_quad *quad, px_span span, const uint8_t *base)
{
    const uint8_t *p = base + 4 * (int64_t)span.first;
    __m512i pixels = _mm512_permutexvar_epi8(
        _mm512_load_si512(quad->index), _mm512_maskz_loadu_epi32((__mmask16)span.mask, p));
    const __m512i zero = _mm512_setzero_si512();
    __m512i d0 = _mm512_dpbusd_epi32(_mm512_set1_epi32(HALF), pixels,
                                     _mm512_load_si512(quad->digits[0]));
    __m512i d1 = _mm512_dpbusd_epi32(zero, pixels, _mm512_load_si512(quad->digits[1]));
    __m512i d2 = _mm512_dpbusd_epi32(zero, pixels, _mm512_load_si512(quad->digits[2]));
    __m512i sum = _mm512_add_epi32(
        d0, _mm512_add_epi32(_mm512_slli_epi32(d1, 8), _mm512_slli_epi32(d2, 16)));
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(_mm512_srai_epi32(sum, BITS), zero));
}

AVX512 static void row_avx512(const px_table *t, int64_t count, const uint8_t *row, int64_t first,
                              uint8_t *out, int64_t plane, int channels)
{
    const __m128i by_channel = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const uint8_t *base = (const uint8_t *)((uintptr_t)row - (uintptr_t)(4 * (first - t->origin)));
    const px_quad *quad = px_quads(t);
    const px_span *span = (const px_span *)(quad + PADDED((size_t)count) / 4);
    uint8_t *out1 = out + plane, *out2 = out1 + plane, *out3 = out2 + plane;
    for (int64_t i = 0; i < count; i += 8, quad += 2, span += 2) {
        __m128i lo = _mm_shuffle_epi8(four_pixels(quad, span[0], base), by_channel);
        __m128i hi = _mm_shuffle_epi8(four_pixels(quad + 1, span[1], base), by_channel);
        __m128i one = _mm_unpacklo_epi32(lo, hi), two = _mm_unpackhi_epi32(lo, hi);
        _mm_storel_epi64((__m128i *)(out + i), one);
        if (channels > 1) {
            _mm_storel_epi64((__m128i *)(out1 + i), _mm_unpackhi_epi64(one, one));
            _mm_storel_epi64((__m128i *)(out2 + i), two);
            if (channels > 3)
                _mm_storel_epi64((__m128i *)(out3 + i), _mm_unpackhi_epi64(two, two));
        }
    }
}
#endif

static void row_identity(const px_table *t, int64_t count, const uint8_t *row, int64_t first,
                         uint8_t *out, int64_t plane, int channels)
{
    const uint8_t *p = row + 4 * (t->start[0] - first);
    if (count == 1 || t->start[1] > t->start[0]) {
        px_split(p, count, out, plane, channels);
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
    if (work->x.use_quads) {
        row_avx512(&work->x, g->win_w, row, first, out, plane, work->channels);
        return;
    }
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

static void columns_plain(const uint8_t *in, int64_t stride, const int32_t *k, int taps,
                          int64_t w, uint8_t *out)
{
    columns_body(in, stride, k, taps, w, out);
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

void px_end(px_work *work, const px_geometry *g, const px_output_format *f, void *output)
{
    size_t item = px_item_size(f->dtype);
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
    /* Only whole cache lines: what is written to parts of one is slower past the caches. */
    int direct = px_bypasses_cache(f, g->canvas_w * g->canvas_h * channels) &&
                 g->canvas_w % 16 == 0 && (uintptr_t)output % 64 == 0;

    for (int64_t y = 0; y < g->canvas_h; y++) {
        int64_t i = y - top;
        int inside = i >= 0 && i < g->win_h && g->win_w > 0;
        const uint8_t *sources[4];
        for (int c = 0; c < channels; c++) {
            uint8_t *line = work->temp + c * pitch;
            sources[c] = line;
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
                    sources[c] = in; /* nothing to compute */
                else
                    columns(in, work->stride, k, taps, g->win_w, line);
            }
        }
        for (int c = 0; c < 3 && inside && work->premultiply; c++) {
            uint8_t *line = work->temp + c * pitch;
            for (int64_t x = 0; x < g->win_w; x++)
                line[x] = undo_alpha(sources[c][x], sources[3][x]);
            sources[c] = line;
        }
        for (int c = 0; c < channels; c++) {
            uint8_t *line = work->temp + c * pitch;
            const uint8_t *source = sources[c];
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
            if (f->planar) {
                uint8_t *place = out + ((size_t)c * (size_t)g->canvas_h + (size_t)y) *
                                           (size_t)g->canvas_w * item;
                if (direct)
                    px_stream_floats(source, g->canvas_w, f->scale[c], f->bias[c],
                                     (float *)place);
                else
                    px_write_plane(f, c, source, g->canvas_w, place);
            } else if (source != line)
                memcpy(line, source, (size_t)g->canvas_w);
        }
        if (!f->planar)
            px_write_interleaved(f, work->temp, pitch, g->canvas_w, channels,
                               out + (size_t)y * (size_t)g->canvas_w * (size_t)channels * item);
    }
    px_end_stream();
}

/* ---- whole arrays ---------------------------------------------------------------------- */

/* Without weights, only the pixels that are shown are read. */
static void nearest_rows(px_work *work, const px_geometry *g, const uint8_t *pixels,
                         int64_t row_stride, int channels)
{
    const int32_t *start = work->x.start;
    int64_t plane = work->stride * work->rows;
    for (int64_t i = 0; i < g->win_h; i++) {
        int64_t y = work->y.start[i];
        if (i && y == work->y.start[i - 1])
            continue;
        const uint8_t *in = pixels + y * row_stride;
        uint8_t *out = work->planes + (y - work->y.lo) * work->stride;
        for (int c = 0; c < channels; c++, in++, out += plane)
            for (int64_t x = 0; x < g->win_w; x++)
                out[x] = in[(int64_t)start[x] * channels];
    }
}

int px_render_array(px_work *work, const px_geometry *g, const px_output_format *format,
                    const uint8_t *pixels, int64_t row_stride, int channels, void *out)
{
    int code = px_begin(work, g, channels, 1);
    if (code)
        return code;
    int64_t lo = work->x.lo, n = work->x.hi - lo;
    if (g->filter == PX_NEAREST && !work->x.identity) {
        nearest_rows(work, g, pixels, row_stride, channels);
        px_end(work, g, format, out);
        return PX_OK;
    }
    if (px_grow((void **)&work->line, &work->line_cap, (size_t)(n + work->x.taps), 4))
        return PX_NO_MEMORY;
    for (int64_t y = work->y.lo; y < work->y.hi && n > 0; y++) {
        px_widen(pixels + y * row_stride + lo * channels, n, channels, work->line);
        if (work->premultiply)
            for (uint8_t *p = work->line; p < work->line + 4 * n; p += 4)
                for (int c = 0; c < 3; c++)
                    p[c] = times_alpha(p[c], p[3]);
        px_row(work, g, y, work->line, lo);
    }
    px_end(work, g, format, out);
    return PX_OK;
}

/* Render float32 (H, W, C) without normalization: rows, then columns, summed in double. */
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
                int colors = c < 3 && work->premultiply;
                for (int j = 0; j < tx->used; j++)
                    if (k[j]) { /* there may be no pixel beyond the row */
                        double alpha = colors ? (double)p[j * channels + 3] : 1.0;
                        sum += (double)k[j] * unit * (double)p[j * channels + c] * alpha;
                    }
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
        for (size_t x = 0; x < width && work->premultiply; x += 4)
            for (size_t c = 0; c < 3 && target[x + 3] > 0.0f; c++)
                target[x + c] /= target[x + 3];
    }
    return PX_OK;
}
