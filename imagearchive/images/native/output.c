/* From 8-bit pixels to the output: scaling, casts, channels first or last. */
#include "pixels.h"
#include "simd.h"

#include <string.h>

/* ---- layouts ------------------------------------------------------------------------------ */

#if PX_X86
/* Split sixteen 4-byte pixels at a time into channels; return the number of pixels done. */
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

/* Widen eight 3-byte pixels at a time to 4 bytes, while the loads stay inside the row. */
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

void px_split(const uint8_t *p, int64_t n, uint8_t *out, int64_t plane, int channels)
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

void px_widen(const uint8_t *in, int64_t n, int channels, uint8_t *out)
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

/* ---- values ------------------------------------------------------------------------------- */

INLINE void floats_body(const uint8_t *in, int64_t n, float scale, float bias, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)in[i] * scale + bias;
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

/* Outputs of at least this many values bypass the caches, which are smaller than a batch.
 * Otherwise every cache line is read from memory before it is written. Halves the time for images
 * of 224 x 224 pixels, if they begin at a cache line. */
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

int px_bypasses_cache(const px_output_format *f, int64_t count)
{
    return f->planar && f->dtype == PX_FLOAT32 && count >= STREAM_FROM;
}

void px_stream_floats(const uint8_t *in, int64_t n, float scale, float bias, float *out)
{
    int64_t i = 0;
#if PX_X86
    if (px_simd_now())
        i = stream_floats_avx2(in, n, scale, bias, out);
#endif
    floats_plain(in + i, n - i, scale, bias, out + i);
}

void px_end_stream(void)
{
#if PX_X86
    _mm_sfence(); /* streaming stores are not ordered with others */
#endif
}

void px_write_plane(const px_output_format *f, int c, const uint8_t *in, int64_t n, uint8_t *out)
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

void px_write_interleaved(const px_output_format *f, const uint8_t *in, int64_t stride, int64_t n,
                               int channels, uint8_t *out)
{
    if (f->dtype == PX_UINT8 && channels == 1) {
        memcpy(out, in, (size_t)n);
        return;
    }
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

size_t px_item_size(int dtype)
{
    return dtype == PX_UINT8 ? 1 : dtype == PX_FLOAT32 ? 4 : 2;
}

/* ---- whole arrays ------------------------------------------------------------------------- */

/* Pixels of a row that are converted at a time, on the stack. */
#define CHUNK 4096
void px_convert_array(const px_output_format *f, const uint8_t *pixels, int64_t row_stride,
                      int64_t width, int64_t height, int channels, void *output)
{
    size_t item = px_item_size(f->dtype);
    uint8_t wide[4 * CHUNK + 32], planes[4 * CHUNK];
    uint8_t *out = output;
    int64_t area = width * height;
    int direct = px_bypasses_cache(f, area * channels);
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
                px_widen(in, n, channels, wide);
                px_split(wide, n, planes, CHUNK, channels);
            }
            if (!f->planar)
                px_write_interleaved(f, planes, CHUNK, n, channels,
                                   out + (size_t)(at * channels) * item);
            else
                for (int c = 0; c < channels; c++) {
                    uint8_t *place = out + (size_t)(c * area + at) * item;
                    if (direct)
                        px_stream_floats(planes + c * CHUNK, n, f->scale[c], f->bias[c],
                                      (float *)place);
                    else
                        px_write_plane(f, c, planes + c * CHUNK, n, place);
                }
        }
    px_end_stream();
}
