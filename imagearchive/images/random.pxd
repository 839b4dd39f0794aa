from cython cimport final
from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef struct px_stream:
    uint32_t counter[4]
    uint32_t key[2]
    uint32_t words[4]
    int used


cdef uint64_t low_bits(value, str name) except? 0xFFFFFFFFFFFFFFFF
cdef void stream_start(px_stream *s, uint64_t seed, uint32_t epoch, uint64_t index,
                       uint32_t position) noexcept nogil
# These return -1 when the stream has no more numbers.
cdef int stream_word(px_stream *s, uint32_t *value) noexcept nogil
cdef int stream_unit(px_stream *s, double *value) noexcept nogil
cdef int stream_uniform(px_stream *s, double low, double high, double *value) noexcept nogil
# `limit` is from 1 to 2**32 - 1.
cdef int stream_below(px_stream *s, uint64_t limit, int64_t *value) noexcept nogil


@final
cdef class Stream:
    cdef px_stream s
    cdef uint32_t word(self) except? 0xFFFFFFFF
    cdef double unit(self) except? -1.0
