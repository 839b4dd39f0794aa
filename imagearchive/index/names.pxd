"""What native code that walks over names uses."""

from libc.stdint cimport uint8_t, uint64_t


cdef void check(const uint8_t[::1] names, const uint64_t[::1] offsets) except *


cdef inline bint is_reserved(const uint8_t* name, uint64_t size) noexcept nogil:
    """Whether a name is ``__meta__`` or the like, or below such a directory, as in WebDataset."""
    cdef uint64_t first = 0
    while first < size and name[first] != b"/":
        first += 1
    return (
        first >= 4 and name[0] == b"_" and name[1] == b"_"
        and name[first - 2] == b"_" and name[first - 1] == b"_"
    )


cdef inline uint8_t lower(uint8_t byte) noexcept nogil:
    return byte + 32 if b"A" <= byte <= b"Z" else byte
