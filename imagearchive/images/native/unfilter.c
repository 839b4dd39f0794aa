/* The filters of PNG, undone: each byte was stored as its difference to a prediction from the bytes
 * to the left (one pixel), above, and above the left one. */
#include "png.h"
#include "simd.h"

#include <string.h>

INLINE uint8_t paeth(int left, int above, int corner)
{
    int to_left = above - corner, to_above = left - corner, to_corner = to_left + to_above;
    to_left = to_left < 0 ? -to_left : to_left;
    to_above = to_above < 0 ? -to_above : to_above;
    to_corner = to_corner < 0 ? -to_corner : to_corner;
    int best = to_above <= to_corner ? above : corner;
    int least = to_above <= to_corner ? to_above : to_corner;
    return (uint8_t)(to_left <= least ? left : best);
}

INLINE void row_plain(int filter, const uint8_t *in, const uint8_t *above, size_t n, size_t step,
                      uint8_t *out)
{
    switch (filter) {
    case PX_SUB:
        memcpy(out, in, step);
        for (size_t i = step; i < n; i++)
            out[i] = (uint8_t)(in[i] + out[i - step]);
        break;
    case PX_AVERAGE:
        for (size_t i = 0; i < step; i++)
            out[i] = (uint8_t)(in[i] + above[i] / 2);
        for (size_t i = step; i < n; i++)
            out[i] = (uint8_t)(in[i] + (out[i - step] + above[i]) / 2);
        break;
    case PX_PAETH:
        for (size_t i = 0; i < step; i++)
            out[i] = (uint8_t)(in[i] + above[i]);
        for (size_t i = step; i < n; i++)
            out[i] = (uint8_t)(in[i] + paeth(out[i - step], above[i], above[i - step]));
        break;
    }
}

static void row_1(int filter, const uint8_t *in, const uint8_t *above, size_t n, uint8_t *out)
{
    row_plain(filter, in, above, n, 1, out);
}

static void row_n(int filter, const uint8_t *in, const uint8_t *above, size_t n, size_t step,
                  uint8_t *out)
{
    row_plain(filter, in, above, n, step, out);
}

#if PX_X86
/* Pixels of 3 or 4 bytes, one at a time: each needs the one before. */
AVX2 INLINE __m128i load_pixel(const uint8_t *p, size_t step)
{
    uint32_t v = 0;
    memcpy(&v, p, step);
    return _mm_cvtsi32_si128((int)v);
}

AVX2 INLINE void store_pixel(uint8_t *p, __m128i pixel, size_t step)
{
    uint32_t v = (uint32_t)_mm_cvtsi128_si32(pixel);
    memcpy(p, &v, step);
}

AVX2 INLINE __m128i paeth_avx2(__m128i left, __m128i above, __m128i corner)
{
    __m128i to_left = _mm_sub_epi16(above, corner), to_above = _mm_sub_epi16(left, corner);
    __m128i to_corner = _mm_abs_epi16(_mm_add_epi16(to_left, to_above));
    to_left = _mm_abs_epi16(to_left);
    to_above = _mm_abs_epi16(to_above);
    __m128i least = _mm_min_epi16(to_above, to_corner);
    __m128i best = _mm_blendv_epi8(above, corner, _mm_cmpgt_epi16(to_above, to_corner));
    return _mm_blendv_epi8(left, best, _mm_cmpgt_epi16(to_left, least));
}

/* `read` is how many bytes a load or store takes: 4 also for pixels of 3 bytes, but the last. */
AVX2 INLINE void pixels_avx2(int filter, const uint8_t *in, const uint8_t *above, size_t n,
                             size_t step, size_t read, __m128i *last, __m128i *corner, uint8_t *out)
{
    __m128i left = *last, diagonal = *corner;
    const __m128i ones = _mm_set1_epi8(1);
    for (size_t i = 0; i < n; i += step) {
        __m128i value = load_pixel(in + i, read);
        if (filter == PX_SUB)
            left = _mm_add_epi8(value, left);
        else if (filter == PX_AVERAGE) {
            /* The instruction rounds up. */
            __m128i b = load_pixel(above + i, read);
            __m128i odd = _mm_and_si128(_mm_xor_si128(left, b), ones);
            left = _mm_add_epi8(value, _mm_sub_epi8(_mm_avg_epu8(left, b), odd));
        } else {
            __m128i b = _mm_cvtepu8_epi16(load_pixel(above + i, read));
            left = _mm_add_epi8(_mm_cvtepu8_epi16(value), paeth_avx2(left, b, diagonal));
            diagonal = b;
        }
        store_pixel(out + i, filter == PX_PAETH ? _mm_packus_epi16(left, left) : left, read);
    }
    *last = left;
    *corner = diagonal;
}

AVX2 INLINE void row_avx2(int filter, const uint8_t *in, const uint8_t *above, size_t n,
                          size_t step, uint8_t *out)
{
    __m128i left = _mm_setzero_si128(), corner = left;
    size_t most = n - step;
    pixels_avx2(filter, in, above, most, step, 4, &left, &corner, out);
    pixels_avx2(filter, in + most, above + most, step, step, step, &left, &corner, out + most);
}

AVX2 static void row_pixels_avx2(int filter, const uint8_t *in, const uint8_t *above, size_t n,
                                 size_t step, uint8_t *out)
{
    if (step == 3 && filter == PX_SUB)
        row_avx2(PX_SUB, in, above, n, 3, out);
    else if (step == 3 && filter == PX_AVERAGE)
        row_avx2(PX_AVERAGE, in, above, n, 3, out);
    else if (step == 3)
        row_avx2(PX_PAETH, in, above, n, 3, out);
    else if (filter == PX_SUB)
        row_avx2(PX_SUB, in, above, n, 4, out);
    else if (filter == PX_AVERAGE)
        row_avx2(PX_AVERAGE, in, above, n, 4, out);
    else
        row_avx2(PX_PAETH, in, above, n, 4, out);
}
#endif

int px_unfilter(int filter, const uint8_t *in, const uint8_t *above, size_t n, size_t step,
                uint8_t *out)
{
    switch (filter) {
    case PX_NONE:
        memcpy(out, in, n);
        return PX_OK;
    case PX_UP:
        for (size_t i = 0; i < n; i++)
            out[i] = (uint8_t)(in[i] + above[i]);
        return PX_OK;
    case PX_SUB:
    case PX_AVERAGE:
    case PX_PAETH:
        break;
    default:
        return PX_UNSUPPORTED;
    }
#if PX_X86
    if (step >= 3 && px_simd_now()) {
        row_pixels_avx2(filter, in, above, n, step, out);
        return PX_OK;
    }
#endif
    if (step == 1)
        row_1(filter, in, above, n, out);
    else
        row_n(filter, in, above, n, step, out);
    return PX_OK;
}

/* ---- Adler-32 -------------------------------------------------------------------------- */

#define ADLER_MODULUS 65521
/* So many bytes cannot overflow the sums. */
#define ADLER_BYTES 5552

#if PX_X86
AVX2 static void adler_avx2(const uint8_t *data, size_t n, uint32_t *a, uint32_t *b)
{
    const __m256i weights = _mm256_setr_epi8(32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19,
                                             18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4,
                                             3, 2, 1);
    const __m256i ones = _mm256_set1_epi16(1), zero = _mm256_setzero_si256();
    __m256i sums = zero, before = zero, weighted = zero;
    for (size_t i = 0; i < n; i += 32) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(data + i));
        before = _mm256_add_epi32(before, sums);
        sums = _mm256_add_epi32(sums, _mm256_sad_epu8(v, zero));
        weighted = _mm256_add_epi32(weighted,
                                    _mm256_madd_epi16(_mm256_maddubs_epi16(v, weights), ones));
    }
    uint32_t s[8], p[8], w[8], sum = 0, products = 0;
    _mm256_storeu_si256((__m256i *)s, sums);
    _mm256_storeu_si256((__m256i *)p, before);
    _mm256_storeu_si256((__m256i *)w, weighted);
    for (int i = 0; i < 8; i++) {
        sum += s[i];
        products += 32 * p[i] + w[i];
    }
    *b += *a * (uint32_t)n + products;
    *a += sum;
}
#endif

uint32_t px_adler(uint32_t before, const uint8_t *data, size_t size)
{
    uint32_t a = before & 0xffff, b = before >> 16;
    while (size) {
        size_t n = size < ADLER_BYTES ? size : ADLER_BYTES, i = 0;
#if PX_X86
        if (px_simd_now()) {
            i = n & ~(size_t)31;
            adler_avx2(data, i, &a, &b);
        }
#endif
        for (; i < n; i++) {
            a += data[i];
            b += a;
        }
        a %= ADLER_MODULUS;
        b %= ADLER_MODULUS;
        data += n;
        size -= n;
    }
    return b << 16 | a;
}
