"""The names that a pickled array may use, for the indexer, which works without Python objects.

They are the same as in ``GLOBALS`` of `allowed`; a test compares the two.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, strlen

__all__ = ["is_allowed"]

# The modules and names of the allowed globals. 0 stands for any other string.
cdef const char** SYMBOLS = [
    "", "numpy", "ndarray", "dtype", "numpy.core.multiarray", "numpy._core.multiarray",
    "_reconstruct", "scalar", "numpy.core.numeric", "numpy._core.numeric", "_frombuffer",
    "_codecs", "encode", "builtins", "__builtin__", "set", "frozenset", "bytearray", "bytes",
    "complex", "collections", "OrderedDict",
]
cdef enum:
    SYMBOL_COUNT = 22


cdef uint8_t symbol_id(const uint8_t* p, uint64_t size) noexcept nogil:
    """Return the position of a string in SYMBOLS, or 0 if it is not one of them."""
    cdef int i
    if size < 3 or size > 22:
        return 0
    for i in range(1, SYMBOL_COUNT):
        if p[0] == <uint8_t>SYMBOLS[i][0] and strlen(SYMBOLS[i]) == size:
            if memcmp(p, SYMBOLS[i], size) == 0:
                return <uint8_t>i
    return 0


cdef bint allowed(uint8_t module, uint8_t name) noexcept nogil:
    """Whether a module and a name, as positions in SYMBOLS, are an allowed global."""
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
    """Whether the indexer accepts a global."""
    return bool(
        allowed(symbol_id(module, <uint64_t>len(module)), symbol_id(name, <uint64_t>len(name)))
    )
