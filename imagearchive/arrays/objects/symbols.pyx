"""The names that a pickled array may use, for the locator, which works without Python objects.

The twin of ``GLOBALS`` in `plain_types`; a test holds the two together.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, strlen

__all__ = ["is_allowed"]

# The words of which the allowed names are made; 0 is any other string.
cdef const char** WORDS = [
    "", "numpy", "ndarray", "dtype", "numpy.core.multiarray", "numpy._core.multiarray",
    "_reconstruct", "scalar", "numpy.core.numeric", "numpy._core.numeric", "_frombuffer",
    "_codecs", "encode", "builtins", "__builtin__", "set", "frozenset", "bytearray", "bytes",
    "complex", "collections", "OrderedDict",
]
cdef enum:
    WORD_COUNT = 22


cdef uint8_t word_of(const uint8_t* p, uint64_t size) noexcept nogil:
    cdef int i
    if size < 3 or size > 22:
        return 0
    for i in range(1, WORD_COUNT):
        if p[0] == <uint8_t>WORDS[i][0] and strlen(WORDS[i]) == size:
            if memcmp(p, WORDS[i], size) == 0:
                return <uint8_t>i
    return 0


cdef bint allowed(uint8_t module, uint8_t name) noexcept nogil:
    if module == 1:
        return name == 2 or name == 3
    if module == 4 or module == 5:
        return name == 6 or name == 7
    if module == 8 or module == 9:
        return name == 10
    if module == 11:
        return name == 12
    if module == 13 or module == 14:
        return 15 <= name <= 19
    return module == 20 and name == 21


def is_allowed(bytes module, bytes name):
    """Whether the locator lets a name pass."""
    return bool(
        allowed(word_of(module, <uint64_t>len(module)), word_of(name, <uint64_t>len(name)))
    )
