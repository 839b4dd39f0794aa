from libc.stdint cimport uint8_t, uint32_t


cdef uint32_t crc32_after(uint32_t before, const uint8_t* data, size_t size) noexcept nogil
cdef uint32_t crc32c_after(uint32_t before, const uint8_t* data, size_t size) noexcept nogil
