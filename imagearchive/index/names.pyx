"""Member names as flat bytes: normalize, sort, filter by suffix.

Every function works on two columns, ``names`` (uint8, flat) and ``offsets`` (uint64, N + 1), and
makes no Python object per name. The GIL is released around each pass.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

import numpy as np

from imagearchive.errors import CorruptIndexError

cdef struct Group:
    uint64_t low
    uint64_t high
    uint64_t depth

cdef struct Key:
    uint64_t prefix
    uint64_t row


cdef void check(const uint8_t[::1] names, const uint64_t[::1] offsets) except *:
    """Raise unless every name is inside `names`; the passes over them rely on it."""
    cdef Py_ssize_t i, count = offsets.shape[0] - 1
    cdef bint good = count >= 0 and offsets[count] <= <uint64_t> names.shape[0]
    if good:
        with nogil:
            for i in range(count):
                if offsets[i] > offsets[i + 1]:
                    good = False
                    break
    if not good:
        raise CorruptIndexError(
            "the name offsets do not ascend inside the names: the index is damaged; delete it and "
            "open the archive again"
        )


# --- normalizing ----------------------------------------------------------------------------

cdef bint is_plain(const uint8_t* name, uint64_t size) noexcept nogil:
    """Whether a name has no empty, "." or ".." component."""
    cdef uint64_t i, start = 0
    if size == 0 or name[0] == b"/" or name[size - 1] == b"/":
        return False
    for i in range(size + 1):
        if i == size or name[i] == b"/":
            if i == start:
                return False
            if name[start] == b"." and (
                i - start == 1 or (i - start == 2 and name[start + 1] == b".")
            ):
                return False
            start = i + 1
    return True


cdef inline uint64_t add_part(
    uint8_t* out, uint64_t used, const uint8_t* part, uint64_t size
) noexcept nogil:
    if used:
        out[used] = b"/"
        used += 1
    memcpy(out + used, part, size)
    return used + size


cdef uint64_t normalize_one(
    const uint8_t* name, uint64_t size, uint8_t* out
) noexcept nogil:
    """Write the name as a file system would resolve it from the root; return its length.

    A name that leads out of the root keeps its "..": it can be listed and read by position, but
    no lookup of a path finds it by accident.
    """
    cdef uint64_t i, part, start = 0, used = 0
    cdef bint inside = True
    for i in range(size + 1):
        if i < size and name[i] != b"/":
            continue
        part = i - start
        if part == 0 or (part == 1 and name[start] == b"."):
            pass
        elif inside and part == 2 and name[start] == b"." and name[start + 1] == b".":
            if used == 0:
                inside = False
                break
            while used > 0 and out[used - 1] != b"/":
                used -= 1
            if used > 0:
                used -= 1
        else:
            used = add_part(out, used, name + start, part)
        start = i + 1
    if inside:
        return used
    start = used = 0
    for i in range(size + 1):
        if i < size and name[i] != b"/":
            continue
        part = i - start
        if part and not (part == 1 and name[start] == b"."):
            used = add_part(out, used, name + start, part)
        start = i + 1
    return used


def normalize(name: bytes) -> bytes:
    """Return a name as `normalize_all` would store it; ``b""`` for the root."""
    cdef const uint8_t[::1] view
    cdef uint8_t[::1] target
    if not name:
        return name
    view = name
    if is_plain(&view[0], len(name)):
        return name
    out = bytearray(len(name))
    target = out
    cdef uint64_t used = normalize_one(&view[0], len(name), &target[0])
    return bytes(out[:used])


def normalize_all(
    const uint8_t[::1] names not None,
    const uint64_t[::1] name_ends not None,
    const uint64_t[::1] link_ends not None,
):
    """Normalize the names of raw rows and drop the link targets between them.

    Returns
    -------
    names : ndarray of uint8
    offsets : ndarray of uint64, shape (rows + 1,)
    """
    cdef Py_ssize_t i, rows = name_ends.shape[0]
    cdef uint64_t start = 0, end, used = 0, total = names.shape[0]
    offsets_array = np.empty(rows + 1, np.uint64)
    # One spare byte, so that an empty table has an address.
    out_array = np.empty(total + 1, np.uint8)
    cdef uint64_t[::1] offsets = offsets_array
    cdef uint8_t[::1] out = out_array
    cdef const uint8_t* source
    cdef bint good = link_ends.shape[0] == rows
    offsets[0] = 0
    if good and rows:
        with nogil:
            for i in range(rows):
                end = name_ends[i]
                if end < start or link_ends[i] < end or link_ends[i] > total:
                    good = False
                    break
                if end > start:
                    source = &names[start]
                    if is_plain(source, end - start):
                        memcpy(&out[used], source, end - start)
                        used += end - start
                    else:
                        used += normalize_one(source, end - start, &out[used])
                offsets[i + 1] = used
                start = link_ends[i]
    if not good:
        raise CorruptIndexError("the scanner returned names outside its buffer")
    return out_array[:used], offsets_array


# --- sorting --------------------------------------------------------------------------------

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


cdef inline uint64_t prefix_at(
    const uint8_t* names, const uint64_t* offsets, uint64_t row, uint64_t depth
) noexcept nogil:
    """Eight bytes of a name from `depth`, big-endian, padded with zeros."""
    cdef uint64_t key = 0, start = offsets[row] + depth, end = offsets[row + 1]
    cdef int i
    for i in range(8):
        key <<= 8
        if start + i < end:
            key |= names[start + i]
    return key


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
    cdef uint64_t room = 64, top = 1, low, high, depth, i, run, ended
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
    cdef Py_ssize_t i, count = offsets.shape[0] - 1
    order_array = np.arange(count, dtype=np.uint64)
    if count < 2:
        return order_array
    cdef uint64_t[::1] order = order_array
    cdef const uint8_t* data = &names[0] if names.shape[0] else <const uint8_t*> &order[0]
    cdef bint ordered = True
    cdef int status = 0
    with nogil:
        # Archives are often written in order: then one pass is all.
        for i in range(count - 1):
            if compare(data, &offsets[0], i, i + 1) > 0:
                ordered = False
                break
        if not ordered:
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


# --- selecting ------------------------------------------------------------------------------

def ends_with(
    const uint8_t[::1] names not None,
    const uint64_t[::1] offsets not None,
    suffixes,
):
    """Mark the names that end with one of the suffixes; the case of ASCII letters is ignored.

    Parameters
    ----------
    suffixes : sequence of bytes

    Returns
    -------
    mask : ndarray of bool, shape (N,)
    """
    check(names, offsets)
    cdef Py_ssize_t i, j, count = offsets.shape[0] - 1
    mask_array = np.zeros(count, np.uint8)
    cdef uint8_t[::1] mask = mask_array
    cdef const uint8_t[::1] suffix
    cdef uint64_t size, start
    cdef bint same
    for wanted in suffixes:
        size = len(wanted)
        if size == 0:
            mask_array[:] = 1
            break
        suffix = wanted.lower()
        with nogil:
            for i in range(count):
                if offsets[i + 1] - offsets[i] < size:
                    continue
                start = offsets[i + 1] - size
                same = True
                for j in range(<Py_ssize_t> size):
                    if lower(names[start + j]) != suffix[j]:
                        same = False
                        break
                if same:
                    mask[i] = 1
    return mask_array.view(np.bool_)


def contains(
    const uint8_t[::1] names not None,
    const uint64_t[::1] offsets not None,
    bytes part not None,
):
    """Mark the names that contain some bytes; the case of ASCII letters is ignored.

    Parameters
    ----------
    part : bytes
        The time grows with its length, so callers limit it.

    Returns
    -------
    mask : ndarray of bool, shape (N,)
    """
    check(names, offsets)
    cdef Py_ssize_t i, count = offsets.shape[0] - 1
    cdef uint64_t size = len(part), start, last, j
    mask_array = np.zeros(count, np.uint8)
    if size == 0:
        mask_array[:] = 1
        return mask_array.view(np.bool_)
    cdef uint8_t[::1] mask = mask_array
    cdef const uint8_t[::1] wanted = part.lower()
    cdef uint8_t first = wanted[0]
    with nogil:
        for i in range(count):
            if offsets[i + 1] - offsets[i] < size:
                continue
            start = offsets[i]
            last = offsets[i + 1] - size
            while start <= last:
                if lower(names[start]) == first:
                    j = 1
                    while j < size and lower(names[start + j]) == wanted[j]:
                        j += 1
                    if j == size:
                        mask[i] = 1
                        break
                start += 1
    return mask_array.view(np.bool_)


def gather(
    const uint8_t[::1] names not None,
    const uint64_t[::1] offsets not None,
    const uint64_t[::1] rows not None,
    bytes prefix not None=b"",
    uint64_t skip=0,
):
    """Copy the names of some rows into columns of their own.

    Parameters
    ----------
    rows : array of uint64
    prefix : bytes, default=b""
        Takes the place of the first `skip` bytes of each name.
    skip : int, default=0

    Returns
    -------
    names : ndarray of uint8
    offsets : ndarray of uint64, shape (len(rows) + 1,)
    """
    check(names, offsets)
    cdef Py_ssize_t i, count = rows.shape[0], total = offsets.shape[0] - 1
    cdef uint64_t row, used = 0, size, added = len(prefix)
    cdef const uint8_t* start = <const uint8_t*> <const char*> prefix
    cdef bint good = True
    out_offsets = np.zeros(count + 1, np.uint64)
    cdef uint64_t[::1] target_offsets = out_offsets
    with nogil:
        for i in range(count):
            row = rows[i]
            if row >= <uint64_t> total or offsets[row + 1] - offsets[row] < skip:
                good = False
                break
            used += offsets[row + 1] - offsets[row] - skip + added
            target_offsets[i + 1] = used
    if not good:
        raise CorruptIndexError("a row number is beyond the index: the index is damaged")
    out = np.empty(used, np.uint8)
    cdef uint8_t[::1] target = out
    with nogil:
        for i in range(count):
            row = rows[i]
            size = offsets[row + 1] - offsets[row] - skip
            if added:
                memcpy(&target[target_offsets[i]], start, added)
            if size:
                memcpy(&target[target_offsets[i] + added], &names[offsets[row] + skip], size)
    return out, out_offsets


def take_parts(
    const uint8_t[::1] names not None,
    const uint64_t[::1] starts not None,
    const uint64_t[::1] ends not None,
):
    """Copy a part of each name into columns of their own.

    Parameters
    ----------
    starts, ends : array of uint64, shape (N,)
        Where each part starts and ends in `names`.

    Returns
    -------
    parts : ndarray of uint8
    part_offsets : ndarray of uint64, shape (N + 1,)
    """
    cdef Py_ssize_t i, count = starts.shape[0]
    cdef uint64_t used = 0, size, total = names.shape[0]
    cdef bint good = ends.shape[0] == count
    out_offsets = np.zeros(count + 1, np.uint64)
    cdef uint64_t[::1] target_offsets = out_offsets
    if good:
        with nogil:
            for i in range(count):
                if starts[i] > ends[i] or ends[i] > total:
                    good = False
                    break
                used += ends[i] - starts[i]
                target_offsets[i + 1] = used
    if not good:
        raise CorruptIndexError("a part of a name is outside the names: the index is damaged")
    out = np.empty(used, np.uint8)
    cdef uint8_t[::1] target = out
    with nogil:
        for i in range(count):
            size = ends[i] - starts[i]
            if size:
                memcpy(&target[target_offsets[i]], &names[starts[i]], size)
    return out, out_offsets
