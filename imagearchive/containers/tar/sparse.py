"""Sparse members of TAR archives, read as if they had been extracted."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from imagearchive.containers.tar.scan import read_member
from imagearchive.errors import ClosedError, CorruptArchiveError
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.closing import Closable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

    from imagearchive.storage.protocol import Storage

__all__ = ["SparseStorage", "sparse_map"]

BLOCK: Final = 512
PLAIN, OLD, PAX_0_0, PAX_0_1, PAX_1_0 = range(5)

# Fields of the old GNU header: four parts in the header itself, 21 in each block after it.
OLD_PARTS_AT: Final = 386
OLD_EXTENDED_AT: Final = 482
BLOCK_EXTENDED_AT: Final = 504
FIELD_SIZE: Final = 12
PART_SIZE: Final = 24
# The longest numbers that fit 63 bits.
MAX_DIGITS: Final = 19

Numbers = npt.NDArray[np.uint64]


def sparse_map(storage: Storage, header_offset: int) -> tuple[int, npt.NDArray[np.int64], int]:
    """Parse where the data of a sparse member belong.

    Parameters
    ----------
    storage : Storage
        The TAR archive.
    header_offset : int
        First byte of the member's headers (``entries["header_offset"]``).

    Returns
    -------
    real_size : int
        Bytes of the member once extracted.
    parts : ndarray of int64, shape (n, 2)
        Offset in the extracted member and length of each stretch of data, ascending and without
        overlap; the bytes between them are zero.
    data_offset : int
        Where in the archive the stretches begin, one right after the other.

    Raises
    ------
    CorruptArchiveError
        The headers or the map are damaged, or the member is not sparse.
    """
    rows, variant, map_at, map_size = read_member(storage, header_offset)
    entry = rows.entries[0]
    where = f"{storage.path}: member {_printable(rows.name(0))} at offset {header_offset}"
    real_size, stored = int(entry["size"]), int(entry["stored_size"])
    if variant == PLAIN:
        raise CorruptArchiveError(
            f"{where}: not a sparse file; the index belongs to another archive, delete it and "
            f"open the archive again"
        )
    try:
        if variant == OLD:
            numbers = _old_numbers(storage, map_at)
        else:
            data = bytes(storage.read(map_at, map_size))
            numbers = _map_numbers(data) if variant == PAX_1_0 else _pax_numbers(data)
        if len(numbers) % 2:
            raise ValueError("an offset without a length")  # noqa: TRY301
        if (numbers >> np.uint64(63)).any():
            raise ValueError("a number beyond 63 bits")  # noqa: TRY301
        parts = numbers.view(np.int64).reshape(-1, 2)
        # Parts without data say where the file ends; the size has already said it.
        parts = np.ascontiguousarray(parts[parts[:, 1] > 0])
        _check(parts, real_size, stored)
    except ValueError as error:
        raise CorruptArchiveError(
            f"{where}: the map of the sparse file is damaged ({error}); fetch the archive again, "
            f"or leave this member out"
        ) from None
    return real_size, parts, int(entry["offset"])


def _check(parts: npt.NDArray[np.int64], real_size: int, stored: int) -> None:
    """Raise ValueError unless the parts ascend inside the file and their data are stored."""
    starts, lengths = parts[:, 0], parts[:, 1]
    if (starts > real_size).any() or (lengths > real_size - starts).any():
        raise ValueError(f"a part beyond the size of {pluralize(real_size, 'byte')}")
    # The sum cannot overflow: both are within the file.
    if (starts[:-1] + lengths[:-1] > starts[1:]).any():
        raise ValueError("parts that overlap or do not ascend")
    if int(lengths.sum()) > stored:
        raise ValueError(f"{pluralize(int(lengths.sum()), 'byte')} of parts, but {stored} stored")


def _old_numbers(storage: Storage, header: int) -> Numbers:
    """Numbers of the old GNU map: fixed fields, in the header and the blocks behind it."""
    block = bytes(storage.read(header, BLOCK))
    start, count, extended = OLD_PARTS_AT, 4, block[OLD_EXTENDED_AT]
    used = []
    while True:
        parts = block[start : start + PART_SIZE * count]
        lengths = parts[FIELD_SIZE::PART_SIZE]
        end = lengths.find(b"\0")
        used.append(parts if end < 0 else parts[: PART_SIZE * end])
        if not extended:
            return _fields(b"".join(used))
        header += BLOCK
        block = bytes(storage.read(header, BLOCK))
        start, count, extended = 0, 21, block[BLOCK_EXTENDED_AT]


def _fields(data: bytes) -> Numbers:
    """Numbers of fields of 12 bytes: at once where they are 11 octal digits, as GNU tar writes."""
    fields = np.frombuffer(data, np.uint8).reshape(-1, FIELD_SIZE)
    digits = fields[:, :-1] - np.uint8(ord("0"))
    numbers = np.zeros(len(fields), np.uint64)
    for digit in digits.T:
        numbers = numbers * np.uint64(8) + digit
    others = (digits > 7).any(1) | ((fields[:, -1] != 0) & (fields[:, -1] != ord(" ")))
    for row in np.flatnonzero(others).tolist():
        number = _field(fields[row].tobytes())
        # What does not fit is refused by its highest bit.
        numbers[row] = min(number, (1 << 64) - 1)
    return numbers


def _field(field: bytes) -> int:
    """A header's number: octal digits, or base 256 behind a byte of 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = re.fullmatch(rb"[ \t]*([0-7]*)(?:[ \0].*)?", field, re.DOTALL)
    if digits is None:
        raise ValueError(f"a number that cannot be read: {field!r}")
    return int(digits[1] or b"0", 8)


def _decimal(text: bytes) -> int:
    # Longer ones do not fit 63 bits, and int() takes quadratic time for them.
    if not re.fullmatch(rb"[0-9]{1,19}", text):
        raise ValueError(f"a number that cannot be read: {text[:20]!r}")
    return int(text)


def _decimals(text: bytes, separator: bytes) -> Numbers:
    """Numbers with a separator between them; at least one."""
    characters = np.frombuffer(text, np.uint8)
    ends = np.append(np.flatnonzero(characters == ord(separator)), len(text))
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts
    numbers = np.zeros(len(starts), np.uint64)
    # Longer ones do not fit 63 bits.
    wrong = (lengths == 0) | (lengths > MAX_DIGITS)
    for place in range(min(int(lengths.max()), MAX_DIGITS)):
        rows = np.flatnonzero(lengths > place)
        digits = characters[starts[rows] + place] - np.uint8(ord("0"))
        wrong[rows[digits > 9]] = True
        numbers[rows] = numbers[rows] * np.uint64(10) + digits
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"a number that cannot be read: {text[starts[row] : ends[row]][:20]!r}")
    return numbers


def _map_numbers(data: bytes) -> Numbers:
    """Numbers of map 1.0: their count of pairs, then the pairs, each closed by a newline."""
    count = 2 * _decimal(data.partition(b"\n")[0])
    lines = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    if len(lines) <= count:
        raise ValueError("fewer numbers than announced")
    if not count:
        return np.zeros(0, np.uint64)
    return _decimals(data[lines[0] + 1 : lines[count]], b"\n")


def _pax_numbers(records: bytes) -> Numbers:
    """Numbers of maps 0.0 (a record for each) and 0.1 (one list)."""
    at = 0
    single: list[int] = []
    listed: bytes | None = None
    while at < len(records) and records[at]:
        length = records[at : at + 32].partition(b" ")[0]
        end = at + _decimal(length)
        keyword, _, value = records[at + len(length) + 1 : end - 1].partition(b"=")
        if keyword == b"GNU.sparse.map":
            listed = value
        elif keyword == b"GNU.sparse.offset":
            if len(single) % 2:
                raise ValueError("an offset without a length")
            single.append(_decimal(value))
        elif keyword == b"GNU.sparse.numbytes":
            if not len(single) % 2:
                raise ValueError("a length without an offset")
            single.append(_decimal(value))
        at = end
    if listed:
        return _decimals(listed, b",")
    return np.array(single if listed is None else [], np.uint64)


def _printable(name: bytes) -> str:
    return repr(name[:200].decode("utf-8", "backslashreplace"))


class SparseStorage(Closable):
    """A sparse member as position-addressable bytes; its holes read as zeros.

    It borrows the archive's storage and does not close it. Safe for threads and after fork where
    that storage is.

    Parameters
    ----------
    storage : Storage
        The TAR archive.
    header_offset : int
        First byte of the member's headers (``entries["header_offset"]``).
    path : str
        What to call the member in messages.

    Attributes
    ----------
    path : str
    size : int
        Bytes of the member once extracted.
    parts : ndarray of int64, shape (n, 2)
        See `sparse_map`.

    Raises
    ------
    CorruptArchiveError
        As `sparse_map`.
    """

    zero_copy = False

    def __init__(self, storage: Storage, header_offset: int, path: str) -> None:
        self.path = path
        self.size, self.parts, self._data = sparse_map(storage, header_offset)
        self._storage: Storage | None = storage
        self._starts: list[int] = self.parts[:, 0].tolist()
        self._lengths: list[int] = self.parts[:, 1].tolist()
        # Where in the stored data each part begins.
        self._stored: list[int] = (np.cumsum(self.parts[:, 1]) - self.parts[:, 1]).tolist()

    def read(self, offset: int, size: int) -> bytes | memoryview:
        """Return the range; a view of the archive if it is within one stretch of data.

        Raises
        ------
        CorruptArchiveError
            The range is not within the member.
        ClosedError
            The storage is closed.
        """
        storage = self._open(offset, size)
        part = bisect_right(self._starts, offset) - 1
        if part >= 0 and offset + size <= self._starts[part] + self._lengths[part]:
            at = self._data + self._stored[part] + offset - self._starts[part]
            return storage.read(at, size)
        buffer = bytearray(size)
        self._fill(storage, offset, memoryview(buffer))
        return memoryview(buffer).toreadonly()

    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Fill a writable buffer from `offset`; return its length in bytes. Raises as `read`."""
        target = memoryview(buffer).cast("B")
        storage = self._open(offset, len(target))
        np.frombuffer(target, np.uint8)[:] = 0
        self._fill(storage, offset, target)
        return len(target)

    def data_ranges(self, most: int) -> Iterator[tuple[int, int]]:
        """Yield offset and size of each stretch of data, in pieces of at most `most` bytes."""
        for start, length in zip(self._starts, self._lengths):
            for offset in range(start, start + length, most):
                yield offset, min(most, start + length - offset)

    def check_unchanged(self) -> None:
        """Raise if the file has changed since it was opened; see `Storage.check_unchanged`."""
        if self._storage is not None:
            self._storage.check_unchanged()

    def close(self) -> None:
        """Release the archive's storage, which stays open."""
        super().close()
        self._storage = None

    def _open(self, offset: int, size: int) -> Storage:
        if self._storage is None:
            raise ClosedError(f"{self.path}: closed; open the archive again to read from it")
        if offset < 0 or size < 0 or offset + size > self.size:
            raise CorruptArchiveError(
                f"{self.path}: a range of {pluralize(size, 'byte')} at offset {offset} is not "
                f"within the sparse member of {pluralize(self.size, 'byte')}"
            )
        return self._storage

    def _fill(self, storage: Storage, offset: int, target: memoryview) -> None:
        """Read the data that fall into a buffer of zeros."""
        end = offset + len(target)
        part = max(bisect_right(self._starts, offset) - 1, 0)
        while part < len(self._starts) and self._starts[part] < end:
            start = max(self._starts[part], offset)
            stop = min(self._starts[part] + self._lengths[part], end)
            if start < stop:
                at = self._data + self._stored[part] + start - self._starts[part]
                storage.readinto(at, target[start - offset : stop - offset])
            part += 1
