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

cdef extern from *:
    """
    #include <string.h>

    #if defined(__GNUC__)
    #define fetch_soon(address) __builtin_prefetch(address)
    #else
    #define fetch_soon(address) ((void) (address))
    #endif

    /* How many of the first `size` bytes are equal before the first that differs. */
    static inline uint64_t shared_bytes(const uint8_t *a, const uint8_t *b, uint64_t size) {
        uint64_t i = 0, word, other;
        while (i + 8 <= size) {
            memcpy(&word, a + i, 8);
            memcpy(&other, b + i, 8);
            if (word != other) {
    #if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
                return i + (uint64_t) (__builtin_ctzll(word ^ other) >> 3);
    #else
                break;
    #endif
            }
            i += 8;
        }
        while (i < size && a[i] == b[i]) i++;
        return i;
    }
    """
    void fetch_soon(const void* address) noexcept nogil
    uint64_t shared_bytes(const uint8_t* a, const uint8_t* b, uint64_t size) noexcept nogil

cdef enum:
    LOOK_AHEAD = 64
    # How many names ahead memory is asked for, where they are not one after the other.
    PREFETCH_OFFSETS = 24
    PREFETCH_NAMES = 12

cdef struct Group:
    uint64_t low
    uint64_t high
    uint64_t depth


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


cdef bint is_sorted(
    const uint64_t* order, uint64_t count, const uint8_t* names, const uint64_t* offsets,
    uint64_t depth, uint64_t* shared, bint* distinct
) noexcept nogil:
    """Whether names that agree up to `depth` are certainly in order.

    Also finds how many bytes from `depth` on all of them share, at most `LOOK_AHEAD`: no more of
    a name is compared, so that the work of a sort stays linear in the bytes of the names. Clears
    `distinct` if two neighbors are equal.
    """
    cdef uint64_t i, size_a, size_b, size, equal
    cdef const uint8_t* a
    cdef const uint8_t* b
    cdef bint ordered = True
    shared[0] = LOOK_AHEAD
    b = names + offsets[order[0]] + depth
    size_b = offsets[order[0] + 1] - offsets[order[0]] - depth
    for i in range(1, count):
        if i + PREFETCH_OFFSETS < count:
            fetch_soon(offsets + order[i + PREFETCH_OFFSETS])
            fetch_soon(names + offsets[order[i + PREFETCH_NAMES]] + depth)
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
            if size_a == size_b:
                distinct[0] = False
        if not ordered and shared[0] == 0:
            return False
    return ordered


cdef void radix_sort(
    uint64_t* keys, uint64_t* spare, uint64_t count, int first_byte
) noexcept nogil:
    """Stable sort by the bytes from `first_byte` on, the lowest first; leaves out shared bytes."""
    cdef uint64_t histogram[256]
    cdef uint64_t i, total, bucket, differing = 0
    cdef int byte, value
    cdef uint64_t* source = keys
    cdef uint64_t* target = spare
    cdef uint64_t* swap
    for i in range(count):
        differing |= keys[i] ^ keys[0]
    for byte in range(first_byte, 8):
        if not (differing >> (8 * byte)) & 255:
            continue
        memset(histogram, 0, sizeof(histogram))
        for i in range(count):
            histogram[(source[i] >> (8 * byte)) & 255] += 1
        total = 0
        for value in range(256):
            bucket = histogram[value]
            histogram[value] = total
            total += bucket
        for i in range(count):
            bucket = (source[i] >> (8 * byte)) & 255
            target[histogram[bucket]] = source[i]
            histogram[bucket] += 1
        swap = source
        source = target
        target = swap
    if source != keys:
        memcpy(keys, source, count * sizeof(uint64_t))


cdef void insertion_sort(
    uint64_t* order, uint64_t count, const uint8_t* names, const uint64_t* offsets, bint* distinct
) noexcept nogil:
    cdef uint64_t i, j, row
    cdef int sign
    for i in range(1, count):
        row = order[i]
        j = i
        while j > 0:
            sign = compare(names, offsets, order[j - 1], row)
            if sign == 0:
                distinct[0] = False
            if sign <= 0:
                break
            order[j] = order[j - 1]
            j -= 1
        order[j] = row


cdef uint64_t part_ended(
    uint64_t* order,
    uint64_t* spare,
    uint64_t count,
    const uint64_t* offsets,
    uint64_t depth,
    uint64_t width,
    bint* distinct,
) noexcept nogil:
    """Of names that agree in `width` bytes, put those that end there first, the shorter the earlier.

    Padding and a stored NUL look the same in a prefix; the lengths tell them apart. Stable.
    Returns how many names ended, and clears `distinct` if two of those are equal.
    """
    cdef uint64_t starts[10]
    cdef uint64_t i, left
    memset(starts, 0, sizeof(starts))
    for i in range(count):
        left = offsets[order[i] + 1] - offsets[order[i]] - depth
        starts[(left if left < width else width) + 1] += 1
    if starts[width + 1] == count:
        return 0
    for i in range(1, width + 1):
        if starts[i] > 1:
            distinct[0] = False
        starts[i] += starts[i - 1]
    cdef uint64_t ended = starts[width]
    for i in range(count):
        left = offsets[order[i] + 1] - offsets[order[i]] - depth
        if left > width:
            left = width
        spare[starts[left]] = order[i]
        starts[left] += 1
    memcpy(order, spare, count * sizeof(uint64_t))
    return ended


cdef int sort_rows(
    uint64_t* order, uint64_t count, const uint8_t* names, const uint64_t* offsets, bint* distinct
) noexcept nogil:
    """Sort row numbers by name, a few bytes at a time; 0, or -1 if out of memory.

    Clears `distinct` if two names are equal. Work is bounded by the bytes of the names, whatever
    they are: names made to defeat a quicksort cannot make opening an archive hang.

    What is sorted are keys of 64 bits: bytes of the name, and below them the row, so that `order`
    holds them and only one more array is needed. Of 10 million names, 5 bytes are in a key.
    """
    cdef uint64_t* spare = <uint64_t*> malloc(count * sizeof(uint64_t))
    cdef uint64_t room = 64, top = 1, low, high, depth, i, run, ended, shared, key, other = 0
    cdef uint64_t width, row_mask
    cdef int row_bytes = 1
    cdef Group* stack = <Group*> malloc(room * sizeof(Group))
    cdef Group* larger
    cdef int status = -1
    while (count - 1) >> (8 * row_bytes):
        row_bytes += 1
    width = 8 - row_bytes
    row_mask = ((<uint64_t> 1) << (8 * row_bytes)) - 1
    if spare != NULL and stack != NULL:
        status = 0
        stack[0] = Group(low=0, high=count, depth=0)
    while status == 0 and top:
        top -= 1
        low, high, depth = stack[top].low, stack[top].high, stack[top].depth
        if high - low < 16:
            insertion_sort(order + low, high - low, names, offsets, distinct)
            continue
        # Archives are often written in order, if not all of it, then each directory.
        if is_sorted(order + low, high - low, names, offsets, depth, &shared, distinct):
            continue
        depth += shared
        for i in range(low, high):
            order[i] |= prefix_at(names, offsets, order[i], depth) & ~row_mask
        radix_sort(order + low, spare, high - low, row_bytes)
        run = low
        key = order[low]
        order[low] &= row_mask
        for i in range(low + 1, high + 1):
            if i < high:
                other = order[i]
                order[i] &= row_mask
                if (other ^ key) <= row_mask:
                    continue
            if i - run > 1:
                ended = 0
                # Where a name ends, the rest of its prefix is zero.
                if (key >> (8 * row_bytes)) & 255 == 0:
                    ended = part_ended(
                        order + run, spare, i - run, offsets, depth, width, distinct
                    )
                if i - run - ended > 1:
                    if top == room:
                        larger = <Group*> realloc(stack, 2 * room * sizeof(Group))
                        if larger == NULL:
                            status = -1
                            break
                        stack = larger
                        room *= 2
                    stack[top] = Group(low=run + ended, high=i, depth=depth + width)
                    top += 1
            run = i
            key = other
    free(spare)
    free(stack)
    return status


def sort_names(const uint8_t[::1] names not None, const uint64_t[::1] offsets not None):
    """Return the permutation that sorts names bytewise; equal names keep their order.

    Returns
    -------
    order : ndarray of uint64, shape (N,)
    """
    return sort_and_compare_names(names, offsets)[0]


def sort_and_compare_names(
    const uint8_t[::1] names not None, const uint64_t[::1] offsets not None
):
    """Sort names as `sort_names`, and find out whether all are different.

    Returns
    -------
    order : ndarray of uint64, shape (N,)
    distinct : bool
    """
    check(names, offsets)
    cdef Py_ssize_t count = offsets.shape[0] - 1
    order_array = np.arange(count, dtype=np.uint64)
    if count < 2:
        return order_array, True
    cdef uint64_t[::1] order = order_array
    cdef const uint8_t* data = &names[0] if names.shape[0] else <const uint8_t*> &order[0]
    cdef bint distinct = True
    cdef int status
    with nogil:
        status = sort_rows(&order[0], count, data, &offsets[0], &distinct)
    if status:
        raise MemoryError(f"no memory to sort {count} names")
    return order_array, distinct


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
