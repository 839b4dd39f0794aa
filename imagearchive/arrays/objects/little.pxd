"""Reads the numbers of a pickle stream."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef inline uint32_t u32(const uint8_t* p) noexcept nogil:
    """Little-endian, 4 bytes."""
    return p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16 | <uint32_t>p[3] << 24


cdef inline uint64_t u64(const uint8_t* p) noexcept nogil:
    """Little-endian, 8 bytes."""
    return u32(p) | <uint64_t>u32(p + 4) << 32


cdef inline uint64_t u64_big(const uint8_t* p) noexcept nogil:
    """Big-endian, 8 bytes."""
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value = value << 8 | p[i]
    return value
