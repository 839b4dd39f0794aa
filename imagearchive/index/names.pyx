"""Member names as flat bytes: normalize, filter by suffix, copy.

Every function works on two columns, ``names`` (uint8, flat) and ``offsets`` (uint64, N + 1), and
makes no Python object per name. The GIL is released around each pass.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

import numpy as np

from imagearchive.errors import CorruptIndexError

cdef enum:
    # Bytes of names that are always copied, so that they keep no larger array alive.
    COPIED = 0x100000


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


cdef bint have_odd_parts(const uint8_t* names, uint64_t size) noexcept nogil:
    """Whether a slash is followed by a slash or a dot anywhere; a loop of vector instructions."""
    cdef uint64_t i
    cdef uint8_t found = 0
    for i in range(1, size):
        # "." and "/" differ in the last bit.
        found |= (names[i - 1] == b"/") & ((names[i] | 1) == b"/")
    return found


cdef inline bint may_change(const uint8_t* name, uint64_t size, bint odd) noexcept nogil:
    """Whether a name may need normalizing; `odd` is what `have_odd_parts` says about all names.

    In most archives, no name has such a part, and only the ends of each one are looked at.
    """
    # "." and "/" differ in the last bit.
    return odd or (name[0] | 1) == b"/" or name[size - 1] == b"/"


cdef bint are_normalized(
    const uint8_t[::1] names, const uint64_t[::1] name_ends, const uint64_t[::1] link_ends
) noexcept nogil:
    """Whether names need no change, have no link targets between them, and fill `names`."""
    cdef Py_ssize_t i, rows = name_ends.shape[0]
    cdef uint64_t start = 0, end, total = names.shape[0]
    if link_ends.shape[0] != rows or total == 0:
        return False
    cdef bint odd = have_odd_parts(&names[0], total)
    for i in range(rows):
        end = name_ends[i]
        if end <= start or end > total or link_ends[i] != end:
            return False
        if may_change(&names[start], end - start, odd) and not is_plain(&names[start], end - start):
            return False
        start = end
    return start == total


def normalize_all(
    const uint8_t[::1] names not None,
    const uint64_t[::1] name_ends not None,
    const uint64_t[::1] link_ends not None,
):
    """Normalize the names of raw rows and drop the link targets between them.

    Returns
    -------
    names : ndarray of uint8
        The array that was passed, if there are many names and none of them changes.
    offsets : ndarray of uint64, shape (rows + 1,)
    """
    cdef Py_ssize_t i, rows = name_ends.shape[0]
    cdef uint64_t start = 0, end, used = 0, total = names.shape[0]
    if total > COPIED and are_normalized(names, name_ends, link_ends):
        offsets_array = np.zeros(rows + 1, np.uint64)
        offsets_array[1:] = name_ends
        return np.asarray(names), offsets_array
    offsets_array = np.empty(rows + 1, np.uint64)
    # One spare byte, so that an empty table has an address.
    out_array = np.empty(total + 1, np.uint8)
    cdef uint64_t[::1] offsets = offsets_array
    cdef uint8_t[::1] out = out_array
    cdef const uint8_t* source
    cdef bint good = link_ends.shape[0] == rows, odd
    offsets[0] = 0
    if good and rows:
        with nogil:
            odd = total and have_odd_parts(&names[0], total)
            for i in range(rows):
                end = name_ends[i]
                if end < start or link_ends[i] < end or link_ends[i] > total:
                    good = False
                    break
                if end > start:
                    source = &names[start]
                    if not may_change(source, end - start, odd) or is_plain(source, end - start):
                        memcpy(&out[used], source, end - start)
                        used += end - start
                    else:
                        used += normalize_one(source, end - start, &out[used])
                offsets[i + 1] = used
                start = link_ends[i]
    if not good:
        raise CorruptIndexError("the scanner returned names outside its buffer")
    return out_array[:used], offsets_array


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
