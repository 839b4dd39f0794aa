"""The names that a pickled array may use."""

from libc.stdint cimport uint8_t, uint64_t

cdef uint8_t symbol_id(const uint8_t* p, uint64_t size) noexcept nogil
cdef bint allowed(uint8_t module, uint8_t name) noexcept nogil
