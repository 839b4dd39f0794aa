"""The order of names as flat bytes: sorts them, and finds the rows of equal names.

Every function works on two columns, ``names`` (uint8, flat) and ``offsets`` (uint64, N + 1), and
makes no Python object per name. The GIL is released around each pass.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from imagearchive.index.names cimport check

import numpy as np

from imagearchive.errors import CorruptIndexError

cdef enum:
    LOOK_AHEAD = 64

cdef struct Group:
    uint64_t low
    uint64_t high
    uint64_t depth

cdef struct Key:
    uint64_t prefix
    uint64_t row


cdef inline int compare(
    const uint8_t* names, const uint64_t* offsets, uint64_t a, uint64_t b
) noexcept nogil:
    cdef uint64_t size_a = offsets[a + 1] - offsets[a], size_b = offsets[b + 1] - offsets[b]
    cdef int sign = memcmp(
        names + offsets[a], names + offsets[b], size_a if size_a < size_b else size_b
    )
    if sign:
        return sign
    return (size_a > size_b) - (size_a < size_b)


cdef inline uint64_t load_big(const uint8_t* bytes) noexcept nogil:
    """Eight bytes as a big-endian number; compilers make one load and one swap of it."""
    return (
        <uint64_t> bytes[0] << 56 | <uint64_t> bytes[1] << 48 | <uint64_t> bytes[2] << 40
        | <uint64_t> bytes[3] << 32 | <uint64_t> bytes[4] << 24 | <uint64_t> bytes[5] << 16
        | <uint64_t> bytes[6] << 8 | <uint64_t> bytes[7]
    )


cdef inline uint64_t prefix_at(
    const uint8_t* names, const uint64_t* offsets, uint64_t row, uint64_t depth
) noexcept nogil:
    """Eight bytes of a name from `depth`, big-endian, padded with zeros."""
    cdef uint64_t key = 0, start = offsets[row] + depth, end = offsets[row + 1]
    cdef int i
    if start + 8 <= end:
        return load_big(names + start)
    for i in range(8):
        key <<= 8
        if start + i < end:
            key |= names[start + i]
    return key


cdef inline uint64_t shared_bytes(
    const uint8_t* a, const uint8_t* b, uint64_t size
) noexcept nogil:
    """How many of the first `size` bytes are equal before the first that differs."""
    cdef uint64_t i = 0
    while i + 8 <= size and load_big(a + i) == load_big(b + i):
        i += 8
    while i < size and a[i] == b[i]:
        i += 1
    return i


cdef bint is_sorted(
    const uint64_t* order, uint64_t count, const uint8_t* names, const uint64_t* offsets,
    uint64_t depth, uint64_t* shared
) noexcept nogil:
    """Whether names that agree up to `depth` are certainly in order.

    Also finds how many bytes from `depth` on all of them share, at most `LOOK_AHEAD`: no more of
    a name is compared, so that the work of a sort stays linear in the bytes of the names.
    """
    cdef uint64_t i, size_a, size_b, size, equal
    cdef const uint8_t* a
    cdef const uint8_t* b
    cdef bint ordered = True
    shared[0] = LOOK_AHEAD
    b = names + offsets[order[0]] + depth
    size_b = offsets[order[0] + 1] - offsets[order[0]] - depth
    for i in range(1, count):
        a, size_a = b, size_b
        b = names + offsets[order[i]] + depth
        size_b = offsets[order[i] + 1] - offsets[order[i]] - depth
        size = size_a if size_a < size_b else size_b
        if size > LOOK_AHEAD:
            size = LOOK_AHEAD
        equal = shared_bytes(a, b, size)
        if equal < shared[0]:
            shared[0] = equal
        if equal < size:
            ordered = ordered and a[equal] < b[equal]
        elif size == LOOK_AHEAD:
            ordered = False
        else:
            ordered = ordered and size_a <= size_b
        if not ordered and shared[0] == 0:
            return False
    return ordered


cdef void radix_sort(Key* keys, Key* spare, uint64_t count) noexcept nogil:
    """Stable sort by prefix: byte by byte from the last, leaving out bytes that all share."""
    cdef uint64_t histogram[8][256]
    cdef uint64_t i, total, bucket, part
    cdef int byte, value
    cdef Key* source = keys
    cdef Key* target = spare
    cdef Key* swap
    memset(histogram, 0, sizeof(histogram))
    for i in range(count):
        part = keys[i].prefix
        for byte in range(8):
            histogram[byte][(part >> (8 * byte)) & 255] += 1
    for byte in range(8):
        if histogram[byte][(keys[0].prefix >> (8 * byte)) & 255] == count:
            continue
        total = 0
        for value in range(256):
            bucket = histogram[byte][value]
            histogram[byte][value] = total
            total += bucket
        for i in range(count):
            bucket = (source[i].prefix >> (8 * byte)) & 255
            target[histogram[byte][bucket]] = source[i]
            histogram[byte][bucket] += 1
        swap = source
        source = target
        target = swap
    if source != keys:
        memcpy(keys, source, count * sizeof(Key))


cdef void insertion_sort(
    uint64_t* order, uint64_t count, const uint8_t* names, const uint64_t* offsets
) noexcept nogil:
    cdef uint64_t i, j, row
    for i in range(1, count):
        row = order[i]
        j = i
        while j > 0 and compare(names, offsets, order[j - 1], row) > 0:
            order[j] = order[j - 1]
            j -= 1
        order[j] = row


cdef uint64_t part_ended(
    uint64_t* order, Key* spare, uint64_t count, const uint64_t* offsets, uint64_t depth
) noexcept nogil:
    """Of names that agree in eight bytes, put those that end there first, the shorter the earlier.

    Padding and a stored NUL look the same in a prefix; the lengths tell them apart. Stable.
    Returns how many names ended.
    """
    cdef uint64_t starts[10]
    cdef uint64_t i, left
    memset(starts, 0, sizeof(starts))
    for i in range(count):
        left = offsets[order[i] + 1] - offsets[order[i]] - depth
        starts[(left if left < 8 else 8) + 1] += 1
    if starts[9] == count:
        return 0
    for i in range(1, 10):
        starts[i] += starts[i - 1]
    cdef uint64_t ended = starts[8]
    for i in range(count):
        left = offsets[order[i] + 1] - offsets[order[i]] - depth
        if left > 8:
            left = 8
        spare[starts[left]].row = order[i]
        starts[left] += 1
    for i in range(count):
        order[i] = spare[i].row
    return ended


cdef int sort_rows(
    uint64_t* order, uint64_t count, const uint8_t* names, const uint64_t* offsets
) noexcept nogil:
    """Sort row numbers by name, eight bytes at a time; 0, or -1 if out of memory.

    Work is bounded by the bytes of the names, whatever they are: names made to defeat a quicksort
    cannot make opening an archive hang.
    """
    cdef Key* keys = <Key*> malloc(count * sizeof(Key))
    cdef Key* spare = <Key*> malloc(count * sizeof(Key))
    cdef uint64_t room = 64, top = 1, low, high, depth, i, run, ended, shared
    cdef Group* stack = <Group*> malloc(room * sizeof(Group))
    cdef Group* larger
    cdef int status = -1
    if keys != NULL and spare != NULL and stack != NULL:
        status = 0
        stack[0] = Group(low=0, high=count, depth=0)
    while status == 0 and top:
        top -= 1
        low, high, depth = stack[top].low, stack[top].high, stack[top].depth
        if high - low < 16:
            insertion_sort(order + low, high - low, names, offsets)
            continue
        # Archives are often written in order, if not all of it, then each directory.
        if is_sorted(order + low, high - low, names, offsets, depth, &shared):
            continue
        depth += shared
        for i in range(low, high):
            keys[i].prefix = prefix_at(names, offsets, order[i], depth)
            keys[i].row = order[i]
        radix_sort(keys + low, spare, high - low)
        for i in range(low, high):
            order[i] = keys[i].row
        run = low
        for i in range(low + 1, high + 1):
            if i < high and keys[i].prefix == keys[run].prefix:
                continue
            if i - run > 1:
                ended = 0
                # Where a name ends, the rest of its prefix is zero.
                if keys[run].prefix & 255 == 0:
                    ended = part_ended(order + run, spare, i - run, offsets, depth)
                if i - run - ended > 1:
                    if top == room:
                        larger = <Group*> realloc(stack, 2 * room * sizeof(Group))
                        if larger == NULL:
                            status = -1
                            break
                        stack = larger
                        room *= 2
                    stack[top] = Group(low=run + ended, high=i, depth=depth + 8)
                    top += 1
            run = i
    free(keys)
    free(spare)
    free(stack)
    return status


def sort_names(const uint8_t[::1] names not None, const uint64_t[::1] offsets not None):
    """Return the permutation that sorts names bytewise; equal names keep their order.

    Returns
    -------
    order : ndarray of uint64, shape (N,)
    """
    check(names, offsets)
    cdef Py_ssize_t count = offsets.shape[0] - 1
    order_array = np.arange(count, dtype=np.uint64)
    if count < 2:
        return order_array
    cdef uint64_t[::1] order = order_array
    cdef const uint8_t* data = &names[0] if names.shape[0] else <const uint8_t*> &order[0]
    cdef int status
    with nogil:
        status = sort_rows(&order[0], count, data, &offsets[0])
    if status:
        raise MemoryError(f"no memory to sort {count} names")
    return order_array


cdef mark_one_of_each(
    const uint8_t[::1] names,
    const uint64_t[::1] offsets,
    const uint64_t[::1] order,
    Py_ssize_t dropped,
):
    """Mark one row of each name: of two neighbors in `order`, the one at `dropped` is not it."""
    check(names, offsets)
    cdef Py_ssize_t i, count = offsets.shape[0] - 1
    if order.shape[0] != count or (count and np.max(order) >= <uint64_t> count):
        raise CorruptIndexError("the order does not fit the names: the index is damaged; delete it")
    mask_array = np.ones(count, np.uint8)
    if count < 2:
        return mask_array.view(np.bool_)
    cdef uint8_t[::1] mask = mask_array
    cdef const uint8_t* data = &names[0] if names.shape[0] else <const uint8_t*> &order[0]
    with nogil:
        for i in range(count - 1):
            if compare(data, &offsets[0], order[i], order[i + 1]) == 0:
                mask[order[i + dropped]] = 0
    return mask_array.view(np.bool_)


def is_last_of_name(
    const uint8_t[::1] names not None,
    const uint64_t[::1] offsets not None,
    const uint64_t[::1] order not None,
):
    """Mark the rows that are the last of their name in `order`, which sorts the names.

    Returns
    -------
    last : ndarray of bool, shape (N,), by row
    """
    return mark_one_of_each(names, offsets, order, 0)


def is_first_of_name(
    const uint8_t[::1] names not None,
    const uint64_t[::1] offsets not None,
    const uint64_t[::1] order not None,
):
    """Mark the rows that are the first of their name in `order`, which sorts the names.

    Returns
    -------
    first : ndarray of bool, shape (N,), by row
    """
    return mark_one_of_each(names, offsets, order, 1)
