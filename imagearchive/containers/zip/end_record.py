"""The end of a ZIP archive, which says where its central directory is.

The end record carries a comment of up to 65,535 bytes, so it is found by searching backwards for
its magic, which the comment (or a stored ZIP inside the archive) may contain as well. Every
candidate is therefore weighed: the right one is followed by exactly its comment, and preceded by
exactly its central directory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from imagearchive.errors import UnsupportedArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["End", "find_ends"]

_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_MAGIC: Final = b"PK\x05\x06"
_RECORD: Final = b"PK\x01\x02"


class _Source(Protocol):
    path: str
    size: int

    def read(self, offset: int, size: int) -> bytes | memoryview: ...


@dataclass(frozen=True)
class End:
    """An end record and the central directory that it describes.

    Attributes
    ----------
    position : int
        Of the end record in the file.
    start, stop : int
        First byte of the central directory in the file, and the one behind it.
    shift : int
        What to add to the offsets in the archive: the length of a prefix (a self-extracting
        archive's program) that the writer did not know of.
    entries : int
        Number of members that it claims.
    disk : int
        Number of this file among those of a multi-disk archive.
    exact : bool
        Whether the file ends with the record's comment.
    zip64 : bool
        Whether the number of members comes from a ZIP64 record.
    """

    position: int
    start: int
    stop: int
    shift: int
    entries: int
    disk: int
    exact: bool
    zip64: bool


def find_ends(storage: _Source) -> list[End]:
    """Find the possible ends of an archive, the most likely first.

    Raises
    ------
    UnsupportedArchiveError
        The central directory is on another disk, and there is no other candidate.
    """
    if storage.size < _END.size:
        return []
    start = max(0, storage.size - (1 << 16) - _END.size)
    tail = bytes(storage.read(start, storage.size - start))
    ends = []
    elsewhere: UnsupportedArchiveError | None = None
    for at in _candidates(tail):
        try:
            end = _end(storage, start + at, tail[at : at + _END.size])
        except UnsupportedArchiveError as error:
            elsewhere = error
            continue
        if end is not None:
            ends.append(end)
    if not ends and elsewhere is not None:
        raise elsewhere
    # Among those that fit, the earliest: what comes behind it is its comment.
    return sorted(ends, key=lambda end: (not end.exact, end.shift != 0, end.position))


def _candidates(tail: bytes) -> Iterator[int]:
    at = tail.rfind(_MAGIC, 0, len(tail) - _END.size + len(_MAGIC))
    while at >= 0:
        yield at
        at = tail.rfind(_MAGIC, 0, at + len(_MAGIC) - 1)


def _end(storage: _Source, position: int, record: bytes) -> End | None:
    _, disk, directory_disk, here, entries, size, offset, comment = _END.unpack(record)
    rest = storage.size - position - _END.size
    stop = position
    zip64 = False
    # Looked for even where no field is full: some writers add a ZIP64 record that nobody needs, and
    # the directory then ends in front of it.
    found = _end64(storage, position)
    if found is not None:
        stop, disk64, directory_disk64, here64, entries64, size64, offset64 = found
        zip64 = 0xFFFF in {here, entries}
        disk = disk64 if disk == 0xFFFF else disk
        directory_disk = directory_disk64 if directory_disk == 0xFFFF else directory_disk
        here = here64 if here == 0xFFFF else here
        entries = entries64 if entries == 0xFFFF else entries
        size = size64 if size == 0xFFFFFFFF else size
        offset = offset64 if offset == 0xFFFFFFFF else offset
    exact = rest == comment
    if disk != directory_disk or here != entries:
        if not exact:
            return None
        raise UnsupportedArchiveError(
            f"{storage.path}: this is disk {disk + 1} of a multi-disk ZIP archive, whose directory "
            f"starts on disk {directory_disk + 1}; join the parts first (zip -s 0 IN --out OUT)"
        )
    start = stop - size
    if start < 0:
        return None
    shift = start - offset
    if size and not _starts_directory(storage, start):
        # There is something between the directory and its end record.
        if not offset + size <= stop or not _starts_directory(storage, offset):
            return None
        start, shift, stop = offset, 0, offset + size
    if shift < 0 or (not size and entries):
        return None
    return End(position, start, stop, shift, entries, disk, exact, zip64)


def _starts_directory(storage: _Source, offset: int) -> bool:
    return offset + 4 <= storage.size and bytes(storage.read(offset, 4)) == _RECORD


def _end64(storage: _Source, position: int) -> tuple[int, int, int, int, int, int, int] | None:
    """Position and fields of the ZIP64 end record in front of an end record."""
    at = position - _LOCATOR.size
    if at < _END64.size:
        return None
    magic, _, offset, _ = _LOCATOR.unpack(storage.read(at, _LOCATOR.size))
    if magic != b"PK\x06\x07":
        return None
    # Right in front of the locator, even where a prefix shifted it; else where the locator says.
    for start in (at - _END64.size, offset):
        if 0 <= start <= at - _END64.size:
            fields = _END64.unpack(storage.read(start, _END64.size))
            if fields[0] == b"PK\x06\x06" and start + 12 + fields[1] <= at:
                return (start, *fields[4:])
    return None
