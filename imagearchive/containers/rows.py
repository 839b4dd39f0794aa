"""The layout of a row, and the growable columns that a scanner fills."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.containers.left_out import LeftOut
from imagearchive.containers.packed_rows import PackedRows

__all__ = [
    "ENTRY_DTYPE",
    "KIND_CONTINUATION",
    "KIND_DIRECTORY",
    "KIND_ENCRYPTED",
    "KIND_FILE",
    "KIND_HARDLINK",
    "KIND_OTHER",
    "KIND_SPARSE",
    "KIND_SYMLINK",
    "METHOD_DEFLATED",
    "METHOD_STORED",
    "RowBuffer",
]

#: One row of the index table; the twin of ``Entry`` in ``entry.pxd``.
ENTRY_DTYPE: Final = np.dtype(
    [
        ("index", "<u8"),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("stored_size", "<u8"),
        ("header_offset", "<u8"),
        ("mtime", "<i8"),
        ("crc", "<u4"),
        ("shard", "<u4"),
        ("mode", "<u4"),
        ("method", "<u2"),
        ("kind", "<u2"),
    ]
)

KIND_FILE: Final = 0
KIND_SPARSE: Final = 1
KIND_HARDLINK: Final = 2
KIND_SYMLINK: Final = 3
KIND_DIRECTORY: Final = 4
KIND_OTHER: Final = 5
KIND_ENCRYPTED: Final = 6
KIND_CONTINUATION: Final = 7

METHOD_STORED: Final = 0
METHOD_DEFLATED: Final = 8


# How many rows are packed at a time: they fit in the cache of a processor.
_PACK_ROWS: Final = 8192


class RowBuffer:
    """Rows and names that grow while a scanner fills them.

    The name of row ``i`` is ``names[link_ends[i - 1]:name_ends[i]]`` and its link target
    ``names[name_ends[i]:link_ends[i]]`` (empty except for links), both as stored.

    Parameters
    ----------
    capacity : int
        For how many rows there is room at once.
    packs : bool
        Pack the rows in between, so that millions of them take little memory. The scanner fills
        `window`.

    Attributes
    ----------
    window : ndarray of ENTRY_DTYPE
        The rows from `first` on.
    first : int
        How many rows are packed.
    names : ndarray of uint8, shape (name_capacity,)
    name_ends, link_ends : ndarray of uint64, shape (capacity,)
    rows : int
        Rows filled so far.
    name_bytes : int
        Bytes of `names` filled so far.
    left_out : LeftOut
        What the scanner found and has no row for.
    """

    def __init__(self, capacity: int = 1024, *, packs: bool = False) -> None:
        window = min(capacity, _PACK_ROWS) if packs else capacity
        self.window: npt.NDArray[Any] = np.empty(window, ENTRY_DTYPE)
        self.first = 0
        self._packed = PackedRows(ENTRY_DTYPE) if packs else None
        self.name_ends: npt.NDArray[np.uint64] = np.empty(capacity, np.uint64)
        self.link_ends: npt.NDArray[np.uint64] = np.empty(capacity, np.uint64)
        self.names: npt.NDArray[np.uint8] = np.empty(capacity * 64, np.uint8)
        self.rows = 0
        self.name_bytes = 0
        self.left_out = LeftOut()

    @property
    def entries(self) -> npt.NDArray[Any]:
        """The rows as one array of ENTRY_DTYPE, with room for more; unpacks them if need be."""
        if self.first and self._packed is not None:
            self._pack()
            self.window, self.first = self._packed.unpack(), 0
            self._packed = None
        return self.window

    def packed_entries(self) -> PackedRows | None:
        """Return all rows if most are packed."""
        if not self.first:
            return None
        self._pack()
        return self._packed

    def first_header(self) -> int:
        """Return the `header_offset` of the first row, of which there must be one."""
        if self.first and self._packed is not None:
            return int(self._packed.header_offsets(np.zeros(1, np.uint64))[0])
        return int(self.window["header_offset"][0])

    def pack_window(self) -> bool:
        """Make room for more rows in `window` by packing those that fill it; False if it cannot."""
        if self._packed is None or len(self.window) != self.rows - self.first or not self.rows:
            return False
        if len(self.window) < _PACK_ROWS:
            self.window = _grow(self.window, len(self.window), _PACK_ROWS)
        else:
            self._pack()
        return True

    def _pack(self) -> None:
        if self._packed is not None:
            self._packed.append(self.window[: self.rows - self.first])
            self.first = self.rows

    def reserve(self, rows: int, name_bytes: int) -> None:
        """Make room for at least that many more rows and name bytes.

        If the buffer packs, `pack_window` makes room for the rows themselves.
        """
        need = self.rows + rows
        if self._packed is None and need > len(self.window):
            self.window = _grow(self.window, self.rows, max(need, 2 * len(self.window)))
        if need > len(self.name_ends):
            capacity = max(need, 2 * len(self.name_ends))
            self.name_ends = _grow(self.name_ends, self.rows, capacity)
            self.link_ends = _grow(self.link_ends, self.rows, capacity)
        need = self.name_bytes + name_bytes
        if need > len(self.names):
            self.names = _grow(self.names, self.name_bytes, max(need, 2 * len(self.names)))

    def append(self, name: bytes, link: bytes = b"", **fields: int) -> None:
        """Append one row; for scanners written in Python."""
        self.reserve(1, len(name) + len(link))
        self.pack_window()
        row, place = self.rows, self.rows - self.first
        self.window[place] = 0
        self.window["index"][place] = row
        for field, value in fields.items():
            self.window[field][place] = value
        for part, ends in ((name, self.name_ends), (link, self.link_ends)):
            end = self.name_bytes + len(part)
            self.names[self.name_bytes : end] = np.frombuffer(part, np.uint8)
            self.name_bytes = end
            ends[row] = end
        self.rows += 1

    def extend(self, other: RowBuffer, first: int = 0) -> None:
        """Append the rows of another buffer from row `first` on, numbered anew."""
        start, count = self.rows, other.rows - first
        text = int(other.link_ends[first - 1]) if first else 0
        size = other.name_bytes - text
        self.reserve(count, size)
        end, shift = start + count, self.name_bytes - text
        packed = other.packed_entries() if self._packed is not None and not first else None
        rows = other.entries[first : other.rows] if packed is None else other.window[:0]
        if self._packed is None:
            # As bytes, which are copied faster than the fields of records.
            self.window[start:end].view(np.uint8)[:] = rows.view(np.uint8)
            self.window["index"][start:end] = np.arange(start, end, dtype=np.uint64)
        else:
            self._pack()
            if packed is not None:
                self._packed.extend(packed)
            for low in range(0, len(rows), _PACK_ROWS):
                self._packed.append(rows[low : low + _PACK_ROWS])
            self.first = end
        self.names[self.name_bytes : self.name_bytes + size] = other.names[text : other.name_bytes]
        # Unsigned numbers wrap around, so a negative shift is added all the same.
        shift %= 1 << 64
        for own, ends in (
            (self.name_ends, other.name_ends),
            (self.link_ends, other.link_ends),
        ):
            np.add(ends[first : other.rows], np.uint64(shift), out=own[start:end])
        self.rows = end
        self.name_bytes += size

    def name(self, row: int) -> bytes:
        """Return the stored name of a row."""
        start = int(self.link_ends[row - 1]) if row else 0
        return self.names[start : int(self.name_ends[row])].tobytes()

    def link(self, row: int) -> bytes:
        """Return the stored link target of a row; empty if it is not a link."""
        return self.names[int(self.name_ends[row]) : int(self.link_ends[row])].tobytes()


def _grow(array: npt.NDArray[Any], filled: int, capacity: int) -> npt.NDArray[Any]:
    larger = np.empty(capacity, array.dtype)
    larger[:filled] = array[:filled]
    return larger
