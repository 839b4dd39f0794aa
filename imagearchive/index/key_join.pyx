"""Joins the members of several fields by the keys in their names, without an object per name."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

import numpy as np

from imagearchive.index.names cimport check, is_reserved, lower

from imagearchive.errors import CorruptIndexError

# How often a pattern may repeat the key.
cdef enum:
    MAX_REPEATS = 8

MOST_REPEATS = MAX_REPEATS


cdef bint has_early_dot(const uint8_t* key, uint64_t size) noexcept nogil:
    """Whether the last component of a key has a dot, a leading one aside."""
    cdef uint64_t i = size
    while i > 0 and key[i - 1] != b"/":
        i -= 1
    i += 1
    while i < size:
        if key[i] == b".":
            return True
        i += 1
    return False


cdef bint is_hidden(const uint8_t* name, uint64_t key_end) noexcept nogil:
    """Whether the last component of a key begins with a dot."""
    cdef uint64_t i = key_end
    while i > 0 and name[i - 1] != b"/":
        i -= 1
    return i < key_end and name[i] == b"."


def match_names(
    const uint8_t[::1] names not None,
    const uint64_t[::1] offsets not None,
    list literals not None,
    bint first_dot,
):
    """Find the names that a pattern matches, and the key in each.

    Parameters
    ----------
    literals : list of bytes
        The text before the first key, between each two keys, and after the last; at least two. Of
        the last, the case of ASCII letters is ignored.
    first_dot : bool
        Follow WebDataset: refuse keys with a dot in their last component, hidden files, and, where
        the pattern begins with the key, what is below a directory such as ``__meta__``.

    Returns
    -------
    rows : ndarray of uint64, shape (M,)
        Ascending.
    starts, ends : ndarray of uint64, shape (M,)
        Where each key starts and ends in `names`.
    dotted : ndarray of uint64
        The rows that only an earlier dot excludes.
    """
    check(names, offsets)
    cdef Py_ssize_t repeats = len(literals) - 1
    if not 1 <= repeats <= MAX_REPEATS:
        raise ValueError(f"a pattern must have 1 to {MAX_REPEATS} keys, got {repeats}")
    cdef const uint8_t* parts[MAX_REPEATS + 1]
    cdef uint64_t lengths[MAX_REPEATS + 1]
    cdef uint64_t fixed = 0
    cdef bytes literal, last = literals[repeats].lower()
    cdef Py_ssize_t k
    for k in range(repeats + 1):
        literal = last if k == repeats else literals[k]
        parts[k] = <const uint8_t*> <const char*> literal
        lengths[k] = len(literal)
        fixed += lengths[k]
    cdef bint bare = lengths[0] == 0
    cdef Py_ssize_t i, count = offsets.shape[0] - 1, found = 0, refused = 0
    rows_array = np.empty(count, np.uint64)
    starts_array = np.empty(count, np.uint64)
    ends_array = np.empty(count, np.uint64)
    dotted_array = np.empty(count if first_dot else 0, np.uint64)
    if count == 0 or names.shape[0] == 0:
        return rows_array[:0], starts_array[:0], ends_array[:0], dotted_array[:0]
    cdef uint64_t[::1] rows = rows_array, starts = starts_array, ends = ends_array
    cdef uint64_t[::1] dotted = dotted_array
    cdef const uint8_t* name
    cdef const uint8_t* key
    cdef uint64_t size, room, position, j
    cdef bint good
    with nogil:
        for i in range(count):
            size = offsets[i + 1] - offsets[i]
            if size <= fixed:
                continue
            room = (size - fixed) // <uint64_t> repeats
            if room * <uint64_t> repeats != size - fixed:
                continue
            name = &names[offsets[i]]
            if lengths[0] and memcmp(name, parts[0], lengths[0]):
                continue
            position = size - lengths[repeats]
            good = True
            for j in range(lengths[repeats]):
                if lower(name[position + j]) != parts[repeats][j]:
                    good = False
                    break
            if not good:
                continue
            key = name + lengths[0]
            position = lengths[0] + room
            for k in range(1, repeats):
                if memcmp(name + position, parts[k], lengths[k]):
                    good = False
                    break
                position += lengths[k]
                if memcmp(name + position, key, room):
                    good = False
                    break
                position += room
            if not good:
                continue
            if first_dot:
                if is_hidden(name, lengths[0] + room) or (bare and is_reserved(name, size)):
                    continue
                if has_early_dot(key, room):
                    dotted[refused] = i
                    refused += 1
                    continue
            rows[found] = i
            starts[found] = offsets[i] + lengths[0]
            ends[found] = starts[found] + room
            found += 1
    return (
        rows_array[:found].copy(),
        starts_array[:found].copy(),
        ends_array[:found].copy(),
        dotted_array[:refused].copy(),
    )


cdef struct Keys:
    const uint8_t* text
    const uint64_t* offsets
    const uint64_t* order
    # The archive of each key; NULL if they are not told apart.
    const int64_t* groups
    uint64_t count


cdef inline int compare(
    const Keys* a, uint64_t row_a, const Keys* b, uint64_t row_b
) noexcept nogil:
    cdef uint64_t start_a = a.offsets[row_a], start_b = b.offsets[row_b]
    cdef uint64_t size_a = a.offsets[row_a + 1] - start_a, size_b = b.offsets[row_b + 1] - start_b
    cdef uint64_t common = size_a if size_a < size_b else size_b
    cdef int sign = memcmp(a.text + start_a, b.text + start_b, common) if common else 0
    if sign:
        return sign
    if size_a != size_b:
        return 1 if size_a > size_b else -1
    if a.groups == NULL or b.groups == NULL:
        return 0
    return (a.groups[row_a] > b.groups[row_b]) - (a.groups[row_a] < b.groups[row_b])


cdef class SortedKeys:
    """Keys, the permutation that sorts them, and the archive that each is from.

    Parameters
    ----------
    text : array of uint8
        The keys, one after the other.
    offsets : array of uint64, shape (N + 1,)
    order : array of uint64, shape (N,)
        Sorts the keys bytewise; equal keys keep their order. See `sort_names`.
    groups : array of int64, shape (N,), optional
        Ascending. Keys of different groups are different keys. None if groups do not matter.
    """

    cdef Keys keys
    cdef object owners

    def __init__(self, text, offsets, order, groups=None):
        cdef const uint8_t[::1] text_view = text
        cdef const uint64_t[::1] offset_view = offsets
        cdef const uint64_t[::1] order_view = order
        cdef const int64_t[::1] group_view
        check(text_view, offset_view)
        cdef Py_ssize_t count = offset_view.shape[0] - 1
        if order_view.shape[0] != count or (count and int(np.max(order)) >= count):
            raise CorruptIndexError("the order does not fit the keys")
        self.owners = (text, offsets, order, groups)
        self.keys.count = 0
        self.keys.text = &text_view[0] if text_view.shape[0] else NULL
        self.keys.offsets = &offset_view[0]
        self.keys.order = &order_view[0] if count else NULL
        self.keys.groups = NULL
        if groups is not None:
            group_view = groups
            if group_view.shape[0] != count:
                raise CorruptIndexError("the groups do not fit the keys")
            self.keys.groups = &group_view[0] if count else NULL
        self.keys.count = count

    def __len__(self):
        return self.keys.count

    def repeated(self):
        """Return the pairs of keys that are equal and of one group.

        Returns
        -------
        ndarray of uint64, shape (R, 2)
            A key and the next one that equals it, by row.
        """
        cdef uint64_t i, used = 0
        cdef const Keys* keys = &self.keys
        if keys.count < 2:
            return np.empty((0, 2), np.uint64)
        mask_array = np.zeros(keys.count - 1, np.uint8)
        cdef uint8_t[::1] mask = mask_array
        with nogil:
            for i in range(keys.count - 1):
                mask[i] = compare(keys, keys.order[i], keys, keys.order[i + 1]) == 0
        ranks = np.flatnonzero(mask_array)
        order = self.owners[2]
        return np.stack([order[ranks], order[ranks + 1]], axis=1)

    def find_in(self, SortedKeys other not None):
        """Return where each key is among others.

        Groups are compared if both have them. Of equal keys of `other`, the first is found.

        Returns
        -------
        ndarray of int64, shape (N,)
            Rows of `other`; -1 for keys that it lacks.
        """
        cdef const Keys* a = &self.keys
        cdef const Keys* b = &other.keys
        cdef uint64_t i = 0, j = 0
        cdef int sign
        found_array = np.full(a.count, -1, np.int64)
        cdef int64_t[::1] found = found_array
        with nogil:
            while i < a.count and j < b.count:
                sign = compare(a, a.order[i], b, b.order[j])
                if sign > 0:
                    j += 1
                    continue
                if sign == 0:
                    found[a.order[i]] = b.order[j]
                i += 1
        return found_array
