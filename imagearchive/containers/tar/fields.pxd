"""Numbers and blocks as archive headers store them; every read stays inside the given width."""

from libc.stdint cimport INT64_MAX, INT64_MIN, UINT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t most)

cdef extern from *:
    """
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    /* Whether a field of 8 or 12 bytes is what programs write: 6 or 7 octal digits, or 11, and then
       NUL or a blank. Any other field is left to the caller. */
    static inline int plain_octal(const uint8_t *field, uint64_t width, int64_t *value) {
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        const uint64_t zeros = 0x3030303030303030u;
        uint64_t word, digits;
        uint32_t rest = 0;
        memcpy(&word, field, 8);
        digits = word;
        if (width == 12) {
            memcpy(&rest, field + 8, 4);
            if ((rest & 0x00F8F8F8u) != 0x00303030u || (rest >> 24 & ~0x20u)) return 0;
        } else if (width != 8) {
            return 0;
        } else if (!(word >> 56 & ~(uint64_t) 0x20)
                   && (word >> 48 & 0xF8) == 0x30) {
            digits = word << 8 | 0x30;
        } else if (!(word >> 48 & 0xDF)) {
            digits = word << 16 | 0x3030;
        } else {
            return 0;
        }
        if ((digits & 0xF8F8F8F8F8F8F8F8u) != zeros) return 0;
        /* Neighbors become pairs, then fours, then the number: the first digit is the lowest byte. */
        digits ^= zeros;
        digits = (digits * 8 + (digits >> 8)) & 0x00FF00FF00FF00FFu;
        digits = (digits * 64 + (digits >> 16)) & 0x0000FFFF0000FFFFu;
        digits = (digits * 4096 + (digits >> 32)) & 0x00000000FFFFFFFFu;
        if (width == 12)
            digits = digits << 9 | (rest & 7) << 6 | (rest >> 8 & 7) << 3 | (rest >> 16 & 7);
        *value = (int64_t) digits;
        return 1;
    #else
        (void) field; (void) width; (void) value;
        return 0;
    #endif
    }

    /* The sum of the 512 bytes of a block. */
    static inline uint64_t sum_of_block(const uint8_t *block) {
    #if defined(__SSE2__)
        const __m128i zero = _mm_setzero_si128();
        __m128i even = zero, odd = zero;
        uint64_t halves[2];
        for (int i = 0; i < 512; i += 32) {
            const __m128i *bytes = (const __m128i *) (block + i);
            even = _mm_add_epi64(even, _mm_sad_epu8(_mm_loadu_si128(bytes), zero));
            odd = _mm_add_epi64(odd, _mm_sad_epu8(_mm_loadu_si128(bytes + 1), zero));
        }
        _mm_storeu_si128((__m128i *) halves, _mm_add_epi64(even, odd));
        return halves[0] + halves[1];
    #else
        uint32_t total = 0;
        for (int i = 0; i < 512; i++) total += block[i];
        return total;
    #endif
    }
    """
    uint64_t sum_of_block(const uint8_t* block) noexcept nogil
    bint plain_octal(const uint8_t* field, uint64_t width, int64_t* value) noexcept nogil

cdef enum:
    BLOCK = 512
    NANOSECONDS = 1000000000


cdef inline uint64_t text_size(const uint8_t* field, uint64_t width) noexcept nogil:
    """Bytes before the first NUL, at most `width`."""
    return strnlen(<const char*> field, width)


cdef inline bint is_zero(const uint8_t* data, uint64_t size) noexcept nogil:
    """Whether all bytes are NUL; an empty range is."""
    return size == 0 or (data[0] == 0 and memcmp(data, data + 1, size - 1) == 0)


cdef inline uint64_t to_block(uint64_t size) noexcept nogil:
    """Round up to whole blocks; `size` must not exceed 2**63."""
    return (size + (BLOCK - 1)) & ~(<uint64_t> (BLOCK - 1))


cdef inline bint tar_number(const uint8_t* field, uint64_t width, int64_t* value) noexcept nogil:
    """Octal digits between blanks up to a NUL, or GNU's base 256; False if it is neither.

    An empty field is zero. A base-256 number is big-endian two's complement behind a first byte
    of 0x80 or 0xFF.
    """
    cdef uint64_t i = 0, bits = 0
    cdef uint8_t fill
    if plain_octal(field, width, value):
        return True
    if field[0] == 0x80 or field[0] == 0xFF:
        fill = 0xFF if field[0] == 0xFF else 0
        i = 1
        while i + 8 < width:
            if field[i] != fill:
                return False
            i += 1
        while i < width:
            bits = (bits << 8) | field[i]
            i += 1
        if width >= 9:
            if (bits >> 63) != (fill & 1):
                return False
        elif fill:
            # Fewer than eight bytes: extend the sign.
            bits |= UINT64_MAX - ((<uint64_t> 1 << (8 * (width - 1))) - 1)
        value[0] = <int64_t> bits
        return True
    while i < width and (field[i] == c" " or field[i] == c"\t"):
        i += 1
    while i < width and c"0" <= field[i] <= c"7":
        if bits >> 60:
            return False
        bits = (bits << 3) | <uint64_t> (field[i] - c"0")
        i += 1
    value[0] = <int64_t> bits
    return i == width or field[i] == 0 or field[i] == c" "


cdef inline bint tar_checksum(const uint8_t* header) noexcept nogil:
    """Whether a header's sum fits it, taking its bytes as unsigned or, as old tars did, signed."""
    cdef int64_t stored
    cdef uint64_t total
    cdef int high = 0, i
    if not tar_number(header + 148, 8, &stored):
        return False
    total = sum_of_block(header)
    # The field itself counts as eight blanks.
    for i in range(148, 156):
        total -= header[i]
    total += 8 * 32
    if stored == <int64_t> total:
        return True
    for i in range(148):
        high += header[i] >> 7
    for i in range(156, BLOCK):
        high += header[i] >> 7
    return stored == <int64_t> total - 256 * high


cdef inline bint decimal(const uint8_t* text, uint64_t size, int64_t* value) noexcept nogil:
    """Digits only, at least one, below 2**63."""
    cdef uint64_t i, total = 0, digit
    if size == 0:
        return False
    for i in range(size):
        if not c"0" <= text[i] <= c"9":
            return False
        digit = text[i] - c"0"
        if total > (<uint64_t> INT64_MAX - digit) // 10:
            return False
        total = 10 * total + digit
    value[0] = <int64_t> total
    return True


cdef inline int64_t seconds_to_ns(int64_t seconds, int64_t fraction) noexcept nogil:
    """Whole seconds and nanoseconds as nanoseconds, held inside the range of 64 bits."""
    if seconds >= INT64_MAX // NANOSECONDS:
        return INT64_MAX
    if seconds <= INT64_MIN // NANOSECONDS:
        return INT64_MIN
    return seconds * NANOSECONDS + fraction


cdef inline bint pax_time(const uint8_t* text, uint64_t size, int64_t* value) noexcept nogil:
    """Seconds with any number of decimals, perhaps negative, as nanoseconds (cut, not rounded)."""
    cdef uint64_t i, point
    cdef int64_t seconds, fraction = 0, scale = NANOSECONDS
    cdef bint negative = size > 0 and text[0] == c"-"
    if negative:
        text += 1
        size -= 1
    point = 0
    while point < size and text[point] != c".":
        point += 1
    if not decimal(text, point, &seconds):
        return False
    for i in range(point + 1, size):
        if not c"0" <= text[i] <= c"9":
            return False
        scale //= 10
        fraction += scale * <int64_t> (text[i] - c"0")
    value[0] = seconds_to_ns(-seconds, -fraction) if negative else seconds_to_ns(seconds, fraction)
    return True
