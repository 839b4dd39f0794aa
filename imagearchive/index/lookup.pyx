"""Rows by position and positions by name, straight from the mapped columns of an index."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport UINT64_MAX, uint8_t, uint64_t
from libc.string cimport memcmp

from imagearchive.containers.entry cimport Entry

import numpy as np

from imagearchive.errors import CorruptIndexError, SampleIndexError


cdef class Lookup:
    """Reads the columns of one index table without a NumPy call per access.

    Immutable and without state of its own: any number of threads may use one. Each position and
    offset is checked where it is used, so a damaged index ends in an exception.

    Parameters
    ----------
    entries : array of ENTRY_DTYPE, shape (N,)
    names : array of uint8
    name_offsets : array of uint64, shape (N + 1,)
    name_order : array of uint64, shape (N,)
    """

    cdef const Entry[::1] entries
    cdef const uint8_t[::1] names
    cdef const uint64_t[::1] offsets
    cdef const uint64_t[::1] order
    cdef readonly Py_ssize_t count

    def __init__(self, entries, names, name_offsets, name_order):
        cdef Py_ssize_t count = len(entries)
        # Nothing is kept before all of it fits.
        if len(name_offsets) != count + 1 or len(name_order) != count:
            raise CorruptIndexError(
                f"the index has {count} entries, {len(name_offsets)} name offsets and "
                f"{len(name_order)} sorted names, which do not fit together: delete it and "
                f"open the archive again"
            )
        self.count = 0
        self.entries = entries
        self.names = names
        self.offsets = name_offsets
        self.order = name_order
        self.count = count

    def row(self, Py_ssize_t position):
        """Where a member lies: ``(shard, offset, size, stored, method, kind)``.

        Negative positions count from the end.

        Raises
        ------
        SampleIndexError
            The position lies beyond the table.
        """
        if position < 0:
            position += self.count
        if not 0 <= position < self.count:
            raise SampleIndexError(
                f"position {position if position >= 0 else position - self.count} of "
                f"{self.count} members"
            )
        cdef const Entry* entry = &self.entries[position]
        return entry.shard, entry.offset, entry.size, entry.stored_size, entry.method, entry.kind

    cdef int span(self, uint64_t row, uint64_t* start, uint64_t* size) noexcept nogil:
        """Where a name lies; -1 where the index is damaged."""
        if row >= <uint64_t> self.count:
            return -1
        cdef uint64_t begin = self.offsets[row], end = self.offsets[row + 1]
        if end < begin or end > <uint64_t> self.names.shape[0]:
            return -1
        start[0] = begin
        size[0] = end - begin
        return 0

    def name(self, Py_ssize_t position):
        """The bytes of a member's name; positions as for `row`."""
        cdef uint64_t start, size
        if position < 0:
            position += self.count
        if not 0 <= position < self.count:
            raise SampleIndexError(f"position {position} of {self.count} members")
        if self.span(position, &start, &size):
            raise damaged(position)
        if size == 0:
            return b""
        return PyBytes_FromStringAndSize(<const char*> &self.names[start], size)

    cdef Py_ssize_t rank(
        self, const uint8_t* key, uint64_t key_size, uint64_t limit, bint prefixed,
        Py_ssize_t low, Py_ssize_t high,
    ) noexcept nogil:
        """The first place in [low, high) that comes after `key`; -1 where the index is damaged.

        Of the names that are the same, those of rows below `limit` count as before; names that
        begin with the key do so where `prefixed`.
        """
        cdef Py_ssize_t middle
        cdef uint64_t start, size
        cdef int sign
        while low < high:
            middle = low + (high - low) // 2
            if self.span(self.order[middle], &start, &size):
                return -1
            sign = 0
            if size and key_size:
                sign = memcmp(&self.names[start], key, size if size < key_size else key_size)
            if sign == 0:
                if size < key_size:
                    sign = -1
                elif size == key_size:
                    sign = -1 if self.order[middle] < limit else 1
                else:
                    sign = -1 if prefixed else 1
            if sign < 0:
                low = middle + 1
            else:
                high = middle
        return low

    def find(self, bytes name not None, before=None):
        """The position of the member of that name; -1 if there is none.

        Where several have the name, the last of them, or the last whose position is below
        `before`.
        """
        cdef const uint8_t* key = <const uint8_t*> <const char*> name
        cdef uint64_t start, size, row, key_size = len(name)
        cdef uint64_t limit = UINT64_MAX if before is None else before
        cdef Py_ssize_t after = self.rank(key, key_size, limit, False, 0, self.count)
        if after > 0:
            row = self.order[after - 1]
            if not self.span(row, &start, &size):
                if size != key_size or (size and memcmp(&self.names[start], key, size)):
                    return -1
                return <Py_ssize_t> row
        if after:
            raise damaged(after)
        return -1

    def bounds(self, bytes prefix not None):
        """The range ``(low, high)`` of `name_order` whose names begin with `prefix`."""
        cdef const uint8_t* key = <const uint8_t*> <const char*> prefix
        cdef Py_ssize_t low = self.rank(key, len(prefix), 0, False, 0, self.count)
        cdef Py_ssize_t high = self.rank(key, len(prefix), UINT64_MAX, True, 0, self.count)
        if low < 0 or high < low:
            raise damaged(low)
        return low, high

    def children(self, Py_ssize_t low, Py_ssize_t high, uint64_t skip):
        """Where each entry of a directory begins, in a range of `name_order` as `bounds` gives it.

        Directories are passed over by binary search, so the cost grows with the entries of the
        directory and not with what lies below them.

        Parameters
        ----------
        low, high : int
            The range of places whose names begin with the directory's name and "/".
        skip : int
            The length of that beginning in bytes.

        Returns
        -------
        places : ndarray of uint64, shape (M,)
            For each entry, the place of its first name.
        directories : ndarray of bool, shape (M,)
        """
        if not 0 <= low <= high <= self.count:
            raise SampleIndexError(f"places {low}..{high} of {self.count} sorted names")
        cdef Py_ssize_t room = 64, used = 0, place = low, step, after
        cdef uint64_t start, size, i
        places = np.empty(room, np.uint64)
        flags = np.empty(room, np.uint8)
        cdef uint64_t[::1] place_view = places
        cdef uint8_t[::1] flag_view = flags
        cdef bint directory
        while place < high:
            if used == room:
                room *= 2
                places = np.resize(places, room)
                flags = np.resize(flags, room)
                place_view = places
                flag_view = flags
            with nogil:
                while place < high and used < room:
                    if self.span(self.order[place], &start, &size):
                        place = -1
                        break
                    i = skip
                    while i < size and self.names[start + i] != b"/":
                        i += 1
                    directory = i < size
                    place_view[used] = place
                    flag_view[used] = directory
                    used += 1
                    if not directory:
                        place += 1
                        continue
                    # Gallop to a place behind the directory, then search between.
                    step = 1
                    after = place + 1
                    while after < high and self.begins(after, &self.names[start], i + 1):
                        place = after
                        step *= 2
                        after = place + step
                    place = self.rank(
                        &self.names[start], i + 1, UINT64_MAX, True, place,
                        after if after < high else high,
                    )
                    if place < 0:
                        break
            if place < 0:
                raise damaged(used)
        return places[:used].copy(), flags[:used].copy().view(np.bool_)

    def listing(self, bytes prefix not None):
        """What a directory holds, in the order of the sorted names.

        Parameters
        ----------
        prefix : bytes
            The directory's name and "/"; empty for the root.

        Returns
        -------
        names : list of str
            Of the entries, without `prefix`; bytes that are no UTF-8 appear as surrogates.
        positions : list of int
            Of each entry; -1 for a directory. Of several members of one name, the last.
        ordered : bool
            Whether the names ascend. Sorted with their "/", directories can come too late.
        """
        low, high = self.bounds(prefix)
        cdef Py_ssize_t place = low, end = high, step, after
        cdef uint64_t start, size, i, skip = len(prefix), length
        cdef const uint8_t* last = NULL
        cdef uint64_t last_length = 0
        cdef bint last_file = False, ordered = True, same
        cdef int sign
        cdef list names = [], positions = []
        while place < end:
            if self.span(self.order[place], &start, &size) or size < skip:
                raise damaged(place)
            i = skip
            while i < size and self.names[start + i] != b"/":
                i += 1
            length = i - skip
            sign = 1
            if last != NULL:
                sign = memcmp(
                    &self.names[start + skip], last, length if length < last_length else last_length
                ) if length and last_length else 0
                if sign == 0:
                    sign = (length > last_length) - (length < last_length)
            if i == size and last_file and sign == 0:
                positions[len(positions) - 1] = self.order[place]
                place += 1
                continue
            ordered = ordered and sign >= 0
            names.append(
                PyUnicode_DecodeUTF8(
                    <const char*> &self.names[start + skip], length, "surrogateescape"
                ) if length else ""
            )
            last = &self.names[start + skip] if size > skip else NULL
            last_length = length
            last_file = i == size
            if last_file:
                positions.append(self.order[place])
                place += 1
                continue
            positions.append(-1)
            step = 1
            after = place + 1
            while after < end and self.begins(after, &self.names[start], i + 1):
                place = after
                step *= 2
                after = place + step
            place = self.rank(
                &self.names[start], i + 1, UINT64_MAX, True, place, after if after < end else end
            )
            if place < 0:
                raise damaged(place)
        return names, positions, ordered

    cdef bint begins(self, Py_ssize_t place, const uint8_t* key, uint64_t key_size) noexcept nogil:
        cdef uint64_t start, size
        if self.span(self.order[place], &start, &size):
            return False
        return size >= key_size and memcmp(&self.names[start], key, key_size) == 0

    def sorted_name(self, Py_ssize_t place):
        """The name at a place of `name_order`, as bytes."""
        if not 0 <= place < self.count:
            raise SampleIndexError(f"place {place} of {self.count} sorted names")
        cdef uint64_t row = self.order[place]
        if row >= <uint64_t> self.count:
            raise damaged(place)
        return self.name(<Py_ssize_t> row)


cdef damaged(place):
    return CorruptIndexError(
        f"the names of the index are damaged near row {place}: delete the index file and open the "
        f"archive again"
    )
