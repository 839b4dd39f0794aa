"""Rows by position and positions by name, straight from the mapped columns of an index."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport INT64_MAX, UINT64_MAX, int64_t, uint8_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcmp

from imagearchive.containers.entry cimport KIND_FILE, KIND_SYMLINK, Entry
from imagearchive.storage.mapping cimport any_damaged

import numpy as np

from imagearchive.errors import CorruptIndexError, SampleIndexError
from imagearchive.errors.plurals import pluralize

cdef enum:
    METHOD_STORED = 0  # as in imagearchive.containers.rows
    # Sorting more ranges takes longer than waiting for the GIL.
    MANY_RANGES = 1024


cdef struct Range:
    int64_t shard, start, end
    Py_ssize_t position


cdef int compare(const void* first, const void* second) noexcept nogil:
    cdef const Range* a = <const Range*> first
    cdef const Range* b = <const Range*> second
    if a.shard != b.shard:
        return -1 if a.shard < b.shard else 1
    if a.start != b.start:
        return -1 if a.start < b.start else 1
    return (a.position > b.position) - (a.position < b.position)


cdef void sort_ranges(Range* ranges, size_t count) noexcept nogil:
    cdef size_t i
    for i in range(1, count):
        if compare(&ranges[i - 1], &ranges[i]) > 0:
            qsort(ranges, count, sizeof(Range), compare)
            return


cdef size_t join_ranges(Range* ranges, size_t count, int64_t gap) noexcept nogil:
    """Join sorted ranges that are near each other; return how many are left."""
    cdef size_t i, last = 0
    for i in range(1, count):
        # They may overlap, such as links to one file, so the last may not have the highest end.
        if ranges[i].shard == ranges[last].shard and ranges[i].start - ranges[last].end <= gap:
            ranges[last].end = max(ranges[last].end, ranges[i].end)
        else:
            last += 1
            ranges[last] = ranges[i]
    return last + 1


cdef class Lookup:
    """Reads the columns of one index table without a NumPy call per access.

    Immutable and stateless, so any number of threads may use one. Each position and offset is
    checked where it is used, so a damaged index ends in an exception.

    Parameters
    ----------
    entries : array of ENTRY_DTYPE, shape (N,)
    names : array of uint8
    name_offsets : array of uint64, shape (N + 1,)
    name_order : array of uint64, shape (N,)
    check_unchanged : callable, optional
        Called if a mapping of this process is damaged. Raises if it is the one of the columns, so
        that no value that was read from it is returned.
    """

    cdef const Entry[::1] entries
    cdef const uint8_t[::1] names
    cdef const uint64_t[::1] offsets
    cdef const uint64_t[::1] order
    cdef object check_unchanged
    cdef readonly Py_ssize_t count

    def __init__(self, entries, names, name_offsets, name_order, check_unchanged=None):
        cdef Py_ssize_t count = len(entries)
        # Check everything before keeping anything.
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
        self.check_unchanged = check_unchanged
        self.count = count

    cdef damaged(self):
        """Return the error for names that contradict each other."""
        if self.check_unchanged is not None:
            self.check_unchanged()
        return CorruptIndexError(
            "the names of the index are damaged: delete the index file and open the archive again"
        )

    cdef inline int check_mapping(self) except -1:
        if any_damaged() and self.check_unchanged is not None:
            self.check_unchanged()
        return 0

    cdef inline Py_ssize_t from_start(self, Py_ssize_t position) except -1:
        """Return a position that counts from the start."""
        if not -self.count <= position < self.count:
            members = pluralize(self.count, "member")
            raise SampleIndexError(f"position {position} is out of range for {members}")
        return position + self.count if position < 0 else position

    def row(self, Py_ssize_t position):
        """Return where a member is: ``(shard, offset, size, stored_size, method, kind)``.

        Negative positions count from the end.

        Raises
        ------
        SampleIndexError
            The position is beyond the table.
        """
        position = self.from_start(position)
        cdef const Entry* entry = &self.entries[position]
        row = entry.shard, entry.offset, entry.size, entry.stored_size, entry.method, entry.kind
        self.check_mapping()
        return row

    def stored_range(self, Py_ssize_t position):
        """Return where a member is that is stored as it is: ``(shard, offset, size)``.

        Returns None for other members; positions and errors as for `row`.
        """
        position = self.from_start(position)
        cdef const Entry* entry = &self.entries[position]
        if entry.method != METHOD_STORED or entry.kind != KIND_FILE:
            self.check_mapping()
            return None
        found = entry.shard, entry.offset, entry.size
        self.check_mapping()
        return found

    def stored_views(self, const int64_t[::1] positions not None, file_view):
        """Return the bytes of members that are stored as they are, as views of their files.

        Parameters
        ----------
        positions : array of int64
            As for `row`.
        file_view : callable
            Returns all bytes of the file of a member, from its shard and its position, as a
            memoryview, or None if they are not in memory. Called again where the shard changes.

        Returns
        -------
        list of memoryview, or None
            None if one of the members cannot be viewed.
        """
        cdef Py_ssize_t i, position
        cdef const Entry* entry
        cdef uint64_t shard = 0, offset, end
        cdef Py_ssize_t size = -1
        cdef list views = []
        for i in range(positions.shape[0]):
            position = self.from_start(positions[i])
            entry = &self.entries[position]
            if entry.method != METHOD_STORED or entry.kind != KIND_FILE:
                return None
            if size < 0 or entry.shard != shard:
                shard = entry.shard
                file = file_view(shard, position)
                if file is None:
                    return None
                size = len(file)
            offset = entry.offset
            if entry.size > <uint64_t> size or offset > <uint64_t> size - entry.size:
                return None
            end = offset + entry.size
            views.append(file[offset:end])
        self.check_mapping()
        return views

    def file_ranges(self, const int64_t[::1] positions not None, gap=None):
        """Return where the stored bytes of members are, in the order of the files.

        Parameters
        ----------
        positions : array of int64
            As for `row`.
        gap : int, optional
            Ranges of a file with at most so many bytes between them become one. By default, each
            member has its own.

        Returns
        -------
        list of (shard, position, starts, ends)
            For each file the position of its first member, and its ranges as arrays of int64.
        """
        cdef size_t count = positions.shape[0], i, first
        cdef uint64_t end
        cdef const Entry* entry
        cdef Range* ranges
        cdef list files = []
        if not count:
            return files
        starts, ends = np.empty(count, np.int64), np.empty(count, np.int64)
        cdef int64_t[::1] start_view = starts, end_view = ends
        ranges = <Range*> PyMem_Malloc(count * sizeof(Range))
        if ranges == NULL:
            raise MemoryError
        try:
            for i in range(count):
                ranges[i].position = self.from_start(positions[i])
                entry = &self.entries[ranges[i].position]
                # A damaged index may contain anything.
                end = min(entry.offset, <uint64_t> INT64_MAX)
                ranges[i].shard = entry.shard
                ranges[i].start = end
                ranges[i].end = end + min(entry.stored_size, <uint64_t> INT64_MAX - end)
            if count > MANY_RANGES:
                with nogil:
                    sort_ranges(ranges, count)
            else:
                sort_ranges(ranges, count)
            if gap is not None:
                count = join_ranges(ranges, count, gap)
            first = 0
            for i in range(count):
                start_view[i], end_view[i] = ranges[i].start, ranges[i].end
                if i + 1 == count or ranges[i + 1].shard != ranges[i].shard:
                    files.append((
                        ranges[first].shard, ranges[first].position,
                        starts[first:i + 1], ends[first:i + 1],
                    ))
                    first = i + 1
        finally:
            PyMem_Free(ranges)
        self.check_mapping()
        return files

    cdef int span(self, uint64_t row, uint64_t* start, uint64_t* size) noexcept nogil:
        """Find the bytes of a name; return -1 if the index is damaged."""
        if row >= <uint64_t> self.count:
            return -1
        cdef uint64_t begin = self.offsets[row], end = self.offsets[row + 1]
        if end < begin or end > <uint64_t> self.names.shape[0]:
            return -1
        start[0] = begin
        size[0] = end - begin
        return 0

    def name(self, Py_ssize_t position):
        """Return the bytes of a member's name; positions as for `row`."""
        cdef uint64_t start, size
        position = self.from_start(position)
        if self.span(position, &start, &size):
            raise self.damaged()
        if size == 0:
            self.check_mapping()
            return b""
        name = PyBytes_FromStringAndSize(<const char*> &self.names[start], size)
        self.check_mapping()
        return name

    cdef Py_ssize_t search(
        self, const uint8_t* key, uint64_t key_size, uint64_t limit, bint prefixed,
        Py_ssize_t low, Py_ssize_t high, uint64_t known=0,
    ) noexcept nogil:
        """Return the first rank in [low, high) that sorts after `key`; -1 if the index is damaged.

        Names equal to the key sort before it if their row is below `limit`; names that begin with
        the key sort before it if `prefixed`. All names in the range begin
        with the first `known` bytes of the key, which are not compared again.
        """
        cdef Py_ssize_t middle
        cdef uint64_t start, size
        cdef int sign
        while low < high:
            middle = low + (high - low) // 2
            if self.span(self.order[middle], &start, &size):
                return -1
            sign = 0
            if size > known and key_size > known:
                sign = memcmp(
                    &self.names[start + known], key + known,
                    (size if size < key_size else key_size) - known,
                )
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
        """Return the position of the member of that name; -1 if there is none.

        If several members have the name, the last of them wins, or the last whose position is
        below `before`.
        """
        cdef const uint8_t* key = <const uint8_t*> <const char*> name
        cdef uint64_t start, size, row, key_size = len(name)
        cdef uint64_t limit = UINT64_MAX if before is None else before
        cdef Py_ssize_t after = self.search(key, key_size, limit, False, 0, self.count)
        cdef bint same
        self.check_mapping()
        if after > 0:
            row = self.order[after - 1]
            if not self.span(row, &start, &size):
                same = size == key_size and not (size and memcmp(&self.names[start], key, size))
                self.check_mapping()
                return <Py_ssize_t> row if same else -1
        if after:
            raise self.damaged()
        return -1

    def bounds(self, bytes prefix not None):
        """Return the range ``(low, high)`` of `name_order` whose names begin with `prefix`."""
        cdef const uint8_t* key = <const uint8_t*> <const char*> prefix
        cdef Py_ssize_t low = self.search(key, len(prefix), 0, False, 0, self.count)
        cdef Py_ssize_t high = self.search(key, len(prefix), UINT64_MAX, True, 0, self.count)
        if low < 0 or high < low:
            raise self.damaged()
        self.check_mapping()
        return low, high

    def symlink_on(self, bytes path not None, Py_ssize_t start=0):
        """Find the first directory on a path that is a symbolic link.

        Parameters
        ----------
        path : bytes
            A normalized name.
        start : int, default=0
            Length of a beginning of `path` that is a directory without links on the way.

        Returns
        -------
        row : int
            The last member of that name; -1 if there is no link, or a directory is missing
            before it.
        end : int
            The length of its name, where there is a link.
        """
        cdef const uint8_t* key = <const uint8_t*> <const char*> path
        cdef Py_ssize_t size = len(path), low = 0, high = self.count, end = start, after
        cdef uint64_t known = 0, begin, length, row
        cdef Py_ssize_t found = -1
        with nogil:
            # All names in [low, high) begin with the same `known` bytes of the path.
            while 0 <= low < high:
                if end > 0:
                    after = self.search(key, end, UINT64_MAX, False, low, high, known)
                    if after > low:
                        row = self.order[after - 1]
                        if (
                            not self.span(row, &begin, &length) and length == <uint64_t> end
                            and memcmp(&self.names[begin], key, end) == 0
                            and self.entries[row].kind == KIND_SYMLINK
                        ):
                            found = row
                            break
                    low = after
                    if low >= 0:
                        low = self.search(key, end + 1, 0, False, low, high, known)
                    if low >= 0:
                        high = self.search(key, end + 1, UINT64_MAX, True, low, high, known)
                    known = end + 1
                end += 1
                while end < size and key[end] != b"/":
                    end += 1
                if end >= size:
                    break
        if low < 0 or high < 0:
            raise self.damaged()
        self.check_mapping()
        return found, end

    def children(self, Py_ssize_t low, Py_ssize_t high, uint64_t skip):
        """Return where each entry of a directory begins in `name_order`.

        Subdirectories are skipped by binary search, so the cost grows with the entries of the
        directory and not with the members below them.

        Parameters
        ----------
        low, high : int
            The range of `name_order` whose names begin with the directory's name and "/"; see
            `bounds`.
        skip : int
            The length of that prefix in bytes.

        Returns
        -------
        ranks : ndarray of uint64, shape (M,)
            For each entry, the rank of its first name.
        directories : ndarray of bool, shape (M,)
        """
        if not 0 <= low <= high <= self.count:
            raise SampleIndexError(f"ranks {low}..{high} of {self.count} sorted names")
        cdef Py_ssize_t room = 64, used = 0, rank = low, step, after
        cdef uint64_t start, size, i
        ranks = np.empty(room, np.uint64)
        flags = np.empty(room, np.uint8)
        cdef uint64_t[::1] rank_view = ranks
        cdef uint8_t[::1] flag_view = flags
        cdef bint directory
        while rank < high:
            if used == room:
                room *= 2
                ranks = np.resize(ranks, room)
                flags = np.resize(flags, room)
                rank_view = ranks
                flag_view = flags
            with nogil:
                while rank < high and used < room:
                    if self.span(self.order[rank], &start, &size):
                        rank = -1
                        break
                    i = skip
                    while i < size and self.names[start + i] != b"/":
                        i += 1
                    directory = i < size
                    rank_view[used] = rank
                    flag_view[used] = directory
                    used += 1
                    if not directory:
                        rank += 1
                        continue
                    # Gallop past the directory, then search back.
                    step = 1
                    after = rank + 1
                    while after < high and self.begins(after, &self.names[start], i + 1):
                        rank = after
                        step *= 2
                        after = rank + step
                    rank = self.search(
                        &self.names[start], i + 1, UINT64_MAX, True, rank,
                        after if after < high else high,
                    )
                    if rank < 0:
                        break
            if rank < 0:
                raise self.damaged()
        self.check_mapping()
        return ranks[:used].copy(), flags[:used].copy().view(np.bool_)

    def listing(self, bytes prefix not None):
        """List a directory in the order of the sorted names.

        Parameters
        ----------
        prefix : bytes
            The directory's name and "/"; empty for the root.

        Returns
        -------
        names : list of str
            The entries without `prefix`; bytes that are not UTF-8 appear as surrogates.
        positions : list of int
            One for each entry: -1 for a directory; of several members of one name, the last.
        ordered : bool
            Whether the names ascend. Directories sort with their "/", so they can come too late.
        """
        low, high = self.bounds(prefix)
        cdef Py_ssize_t rank = low, end = high, step, after
        cdef uint64_t start, size, i, skip = len(prefix), length
        cdef const uint8_t* last = NULL
        cdef uint64_t last_length = 0
        cdef bint last_file = False, ordered = True, same
        cdef int sign
        cdef list names = [], positions = []
        while rank < end:
            if self.span(self.order[rank], &start, &size) or size < skip:
                raise self.damaged()
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
                positions[len(positions) - 1] = self.order[rank]
                rank += 1
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
                positions.append(self.order[rank])
                rank += 1
                continue
            positions.append(-1)
            step = 1
            after = rank + 1
            while after < end and self.begins(after, &self.names[start], i + 1):
                rank = after
                step *= 2
                after = rank + step
            rank = self.search(
                &self.names[start], i + 1, UINT64_MAX, True, rank, after if after < end else end
            )
            if rank < 0:
                raise self.damaged()
        self.check_mapping()
        return names, positions, ordered

    cdef bint begins(self, Py_ssize_t rank, const uint8_t* key, uint64_t key_size) noexcept nogil:
        cdef uint64_t start, size
        if self.span(self.order[rank], &start, &size):
            return False
        return size >= key_size and memcmp(&self.names[start], key, key_size) == 0

    def sorted_name(self, Py_ssize_t rank):
        """Return the name at a rank of `name_order`, as bytes."""
        if not 0 <= rank < self.count:
            raise SampleIndexError(f"rank {rank} of {self.count} sorted names")
        cdef uint64_t row = self.order[rank]
        if row >= <uint64_t> self.count:
            raise self.damaged()
        return self.name(<Py_ssize_t> row)
