"""Rows in a few bytes each: what follows from the row before is left out.

A row takes 64 bytes, but in an archive that is written from start to end, little more than the size
and the time of a member is new in it. A scanner of millions of members packs its rows as it goes on,
so that they are never all in memory, and they are unpacked while they are written.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from imagearchive.containers.entry cimport Entry

import numpy as np

__all__ = ["PackedRows"]

cdef enum:
    BLOCK = 512
    # Bits of the byte before each row: which fields are stored. A row without any of them is the
    # next one of the same size.
    WHOLE = 1
    SIZE = 2
    MTIME = 4
    # The largest row: this byte and all of the row.
    MOST = 65


cdef inline void follow(const Entry* before, Entry* row) noexcept nogil:
    """Fill a row as if it was like the one before, with its data right behind that one's."""
    row[0] = before[0]
    row.header_offset = (before.offset + before.stored_size + (BLOCK - 1)) & ~(
        <uint64_t> (BLOCK - 1)
    )
    row.offset = row.header_offset + (before.offset - before.header_offset)


cdef uint64_t pack(const Entry* rows, uint64_t count, uint8_t* out) noexcept nogil:
    cdef uint64_t i, used = 0
    cdef uint8_t flags
    cdef Entry expected
    for i in range(count):
        flags = WHOLE
        if i:
            follow(&rows[i - 1], &expected)
            expected.index = rows[i].index
            flags = 0
            if rows[i].size != expected.size or rows[i].stored_size != expected.stored_size:
                flags |= SIZE
                expected.size = expected.stored_size = rows[i].size
            if rows[i].mtime != expected.mtime:
                flags |= MTIME
                expected.mtime = rows[i].mtime
            if memcmp(&expected, &rows[i], sizeof(Entry)):
                flags = WHOLE
        out[used] = flags
        used += 1
        if flags & WHOLE:
            memcpy(out + used, &rows[i], sizeof(Entry))
            used += sizeof(Entry)
        if flags & SIZE:
            memcpy(out + used, &rows[i].size, 8)
            used += 8
        if flags & MTIME:
            memcpy(out + used, &rows[i].mtime, 8)
            used += 8
    return used


cdef inline uint64_t unpack_next(const uint8_t* data, const Entry* before, Entry* row) noexcept nogil:
    """Undo `pack` for one row; return how many bytes it took. They are always those of `pack`."""
    cdef uint8_t flags = data[0]
    cdef uint64_t used = 1
    if flags & WHOLE:
        memcpy(row, data + used, sizeof(Entry))
        return used + sizeof(Entry)
    follow(before, row)
    if flags & SIZE:
        memcpy(&row.size, data + used, 8)
        row.stored_size = row.size
        used += 8
    if flags & MTIME:
        memcpy(&row.mtime, data + used, 8)
        used += 8
    return used


cdef void unpack(
    const uint8_t* data, Entry* rows, uint64_t count, uint64_t first
) noexcept nogil:
    cdef uint64_t i, used = 0
    for i in range(count):
        used += unpack_next(data + used, &rows[i] - 1 if i else &rows[0], &rows[i])
        rows[i].index = first + i


cdef uint64_t unpack_headers(
    const uint8_t* data,
    uint64_t first,
    uint64_t count,
    const uint64_t* positions,
    uint64_t wanted,
    uint64_t* out,
) noexcept nogil:
    """Find the `header_offset` of those positions that are in one block; return how many."""
    cdef Entry rows[2]
    cdef uint64_t i, used = 0, found = 0
    for i in range(count):
        if found == wanted:
            break
        used += unpack_next(data + used, &rows[(i + 1) & 1], &rows[i & 1])
        if positions[found] == first + i:
            out[found] = rows[i & 1].header_offset
            found += 1
    return found


cdef class PackedRows:
    """A sequence of rows that grows at its end, and is read from start to end.

    The ``index`` of a row is always its position in the sequence.

    For one thread while it grows; then for any number.

    Parameters
    ----------
    dtype : dtype
        `imagearchive.containers.rows.ENTRY_DTYPE`.

    Attributes
    ----------
    dtype : dtype
    end : int
        Where the stored data of the last member in the file ends.
    kinds : frozenset of int
        The kinds that occur.
    """

    cdef list blocks
    cdef list counts
    # By block: where its last member ends, and a bit for each kind in it.
    cdef list ends
    cdef list kind_bits
    cdef Py_ssize_t count
    cdef object scratch
    cdef readonly object dtype

    def __init__(self, dtype):
        self.dtype = dtype
        self.scratch = np.empty(0, np.uint8)
        self.blocks = []
        self.counts = []
        self.ends = []
        self.kind_bits = []
        self.count = 0

    def __len__(self):
        return self.count

    @property
    def end(self):
        return max(self.ends, default=0)

    @property
    def kinds(self):
        found = set(self.kind_bits)
        return frozenset(kind for kind in range(64) if any(bits >> kind & 1 for bits in found))

    @property
    def nbytes(self):
        """The memory that the rows take."""
        return sum(len(block) for block in self.blocks)

    def append(self, const Entry[::1] rows not None):
        """Append a copy of some rows; best a few thousand, which are unpacked together."""
        cdef Py_ssize_t i, count = rows.shape[0]
        cdef uint64_t used, end, last = 0, bits = 0
        if count == 0:
            return
        if len(self.scratch) < MOST * count:
            self.scratch = np.empty(MOST * count, np.uint8)
        cdef uint8_t[::1] scratch = self.scratch
        with nogil:
            used = pack(&rows[0], count, &scratch[0])
            for i in range(count):
                end = rows[i].offset + rows[i].stored_size
                if end > last:
                    last = end
                bits |= (<uint64_t> 1) << (rows[i].kind & 63)
        self.add_block(self.scratch[:used].copy(), count, last, bits)

    cdef add_block(self, block, count, end, bits):
        self.blocks.append(block)
        self.counts.append(count)
        self.ends.append(end)
        self.kind_bits.append(bits)
        self.count += count

    def extend(self, PackedRows other not None):
        """Append the rows of another sequence, which are not copied."""
        self.blocks += other.blocks
        self.counts += other.counts
        self.ends += other.ends
        self.kind_bits += other.kind_bits
        self.count += other.count

    def chunks(self):
        """Return all rows in order, as arrays that are valid until the next one is asked for.

        Yields
        ------
        ndarray of ENTRY_DTYPE
        """
        room = np.empty(max(self.counts, default=0), self.dtype)
        start = 0
        for number, count in enumerate(self.counts):
            self.unpack_block(number, start, room[:count])
            yield room[:count]
            start += count

    def unpack(self):
        """Return all rows as one array.

        Returns
        -------
        ndarray of ENTRY_DTYPE, shape (N,)
        """
        rows = np.empty(self.count, self.dtype)
        start = 0
        for number, count in enumerate(self.counts):
            self.unpack_block(number, start, rows[start:start + count])
            start += count
        return rows

    def select(self, mask):
        """Return some of the rows.

        Parameters
        ----------
        mask : ndarray of bool, shape (N,)

        Returns
        -------
        PackedRows
        """
        cdef PackedRows selected = PackedRows(self.dtype)
        room = np.empty(max(self.counts, default=0), self.dtype)
        start = 0
        for number, count in enumerate(self.counts):
            part = mask[start:start + count]
            if part.all():
                selected.add_block(
                    self.blocks[number], count, self.ends[number], self.kind_bits[number]
                )
            else:
                self.unpack_block(number, start, room[:count])
                # Records are selected more slowly than what has no fields.
                words = room[:count].view(np.uint64).reshape(count, -1)[part]
                selected.append(words.reshape(-1).view(self.dtype))
            start += count
        return selected

    def header_offsets(self, const uint64_t[::1] positions not None):
        """Return where the headers of some rows begin.

        Parameters
        ----------
        positions : ndarray of uint64, shape (n,)
            Strictly ascending.

        Returns
        -------
        ndarray of uint64, shape (n,)
        """
        cdef Py_ssize_t i, wanted = positions.shape[0], found = 0, number
        cdef uint64_t first = 0, count
        cdef const uint8_t[::1] data
        for i in range(wanted):
            if positions[i] >= <uint64_t> self.count or (i and positions[i] <= positions[i - 1]):
                raise IndexError(f"positions must ascend below {self.count}")
        offsets = np.empty(wanted, np.uint64)
        cdef uint64_t[::1] out = offsets
        for number in range(len(self.blocks)):
            if found == wanted:
                break
            data = self.blocks[number]
            count = self.counts[number]
            with nogil:
                found += unpack_headers(
                    &data[0], first, count, &positions[found], wanted - found, &out[found]
                )
            first += count
        return offsets

    cdef unpack_block(self, Py_ssize_t number, uint64_t first, Entry[::1] rows):
        cdef const uint8_t[::1] data = self.blocks[number]
        if rows.shape[0]:
            with nogil:
                unpack(&data[0], &rows[0], rows.shape[0], first)
