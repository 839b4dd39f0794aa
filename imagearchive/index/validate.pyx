"""Checks the columns of an index that came from a file, in one pass over each.

The columns may have been written by anyone. What this module accepts cannot lead a reader outside
the names, the labels or the files. No Python object is made per row, and the GIL is released.
"""

from libc.stdint cimport UINT64_MAX, uint64_t
from libc.stdlib cimport calloc, free

from imagearchive.containers.entry cimport KIND_ENCRYPTED, KIND_FILE, KIND_SPARSE, Entry

__all__ = ["UNBOUNDED", "first_bad_entry", "first_bad_offset", "is_permutation"]

# The size of a file that is not known.
UNBOUNDED = UINT64_MAX


cdef inline bint is_bad(
    const Entry* entry, uint64_t row, const uint64_t* sizes, uint64_t files
) noexcept nogil:
    cdef uint64_t size, shard = entry.shard
    if shard >= files:
        return True
    size = sizes[shard]
    return (
        (entry.index != row)
        | (entry.offset > size)
        | (entry.stored_size > size - entry.offset)
        | (entry.header_offset > size)
        | (entry.kind == KIND_FILE and entry.method == 0 and entry.size != entry.stored_size)
        | (entry.kind != KIND_FILE and entry.kind != KIND_SPARSE and entry.kind != KIND_ENCRYPTED)
    )


def first_bad_entry(
    const Entry[::1] entries not None,
    const uint64_t[::1] sizes not None,
    Py_ssize_t start,
    Py_ssize_t stop,
):
    """The first row in ``[start, stop)`` that no scanner writes, or -1.

    Such a row is out of order, is in a file that the index does not list, is not a file, leaves the
    file that holds it, or is stored as it is but in another size.

    Parameters
    ----------
    entries : array of ENTRY_DTYPE
    sizes : array of uint64
        The size of each file in bytes; `UNBOUNDED` if it is not known.
    start, stop : int
    """
    cdef Py_ssize_t row, found = -1
    cdef uint64_t files = <uint64_t> sizes.shape[0]
    if not 0 <= start <= stop <= entries.shape[0]:
        raise ValueError(f"rows {start} to {stop} of {entries.shape[0]}")
    if start == stop:
        return -1
    if files == 0:
        return start
    with nogil:
        for row in range(start, stop):
            if is_bad(&entries[row], <uint64_t> row, &sizes[0], files):
                found = row
                break
    return found


def first_bad_offset(const uint64_t[::1] offsets not None, uint64_t total):
    """The first offset that breaks the rule, or -1: they ascend from 0 to exactly `total`."""
    cdef Py_ssize_t i, found = -1, count = offsets.shape[0]
    if count == 0 or offsets[0] != 0:
        return 0
    with nogil:
        for i in range(1, count):
            if offsets[i] < offsets[i - 1]:
                found = i
                break
    if found < 0 and offsets[count - 1] != total:
        return count - 1
    return found


def is_permutation(const uint64_t[::1] order not None):
    """Whether every number from 0 to N - 1 occurs once."""
    cdef Py_ssize_t i, count = order.shape[0]
    cdef uint64_t value, word, bit
    cdef uint64_t* seen
    cdef bint good = True
    with nogil:
        # Of an archive whose names are in order, the permutation changes nothing.
        i = 0
        while i < count and order[i] == <uint64_t> i:
            i += 1
    if i == count:
        return True
    seen = <uint64_t*> calloc(count // 64 + 1, sizeof(uint64_t))
    if seen == NULL:
        raise MemoryError
    with nogil:
        for i in range(count):
            value = order[i]
            if value >= <uint64_t> count:
                good = False
                break
            word = seen[value >> 6]
            bit = (<uint64_t> 1) << (value & 63)
            if word & bit:
                good = False
                break
            seen[value >> 6] = word | bit
    free(seen)
    return good
