"""What native code that walks over names uses."""

from libc.stdint cimport uint8_t, uint64_t


cdef void check(const uint8_t[::1] names, const uint64_t[::1] offsets) except *


cdef inline uint8_t lower(uint8_t byte) noexcept nogil:
    return byte + 32 if b"A" <= byte <= b"Z" else byte
