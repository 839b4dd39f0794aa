"""The content of a member from its beginning to its end, checked as far as the container allows."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from imagearchive.errors import CorruptArchiveError
from imagearchive.errors.os_errors import os_errors_for

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["WINDOW", "pieces", "uncompared_checksum", "whole"]

WINDOW: Final = 8 << 20
"""Bytes of the largest piece."""


def pieces(archive: Archive, position: int) -> Iterator[bytes | memoryview]:
    """Read a member piece by piece.

    Parameters
    ----------
    archive : Archive
    position : int
        Which member.

    Yields
    ------
    bytes-like
        At most `WINDOW` bytes; a member that is no larger is one piece, an empty one too.

    Raises
    ------
    CorruptArchiveError, UnsupportedMemberError
        The member cannot be read, or is not what its checksum says; of a member of several
        pieces, this shows after the last of them.
    OSError
        The archive cannot be read; the error names it.
    """
    size = int(archive.table.entries["size"][position])
    if size <= WINDOW:
        yield whole(archive, position)
        return
    with os_errors_for(_file(archive, position)):
        member = archive.member(position)
        checksum = 0
        expected = uncompared_checksum(archive, position)
        for offset in range(0, size, WINDOW):
            data = member.read(offset, min(WINDOW, size - offset))
            if expected is not None:
                checksum = zlib.crc32(data, checksum)
            yield data
    if expected is not None:
        _compare(archive, position, checksum, expected)


def whole(archive: Archive, position: int) -> bytes | memoryview:
    """Read a member at once; raises as `pieces`."""
    with os_errors_for(_file(archive, position)):
        data = archive.read(position)
    expected = uncompared_checksum(archive, position)
    if expected is not None:
        _compare(archive, position, zlib.crc32(data), expected)
    return data


def uncompared_checksum(archive: Archive, position: int) -> int | None:
    """Return the CRC-32 that the container has of a member, unless reading compares it."""
    checksum = archive.checksum(position)
    if checksum is None or checksum.compared or checksum.algorithm != "crc32":
        return None
    return checksum.value


def _compare(archive: Archive, position: int, checksum: int, expected: int) -> None:
    if checksum != expected:
        raise CorruptArchiveError(
            f"{_file(archive, position)}: {archive.name(position)!r}: its checksum is "
            f"{checksum:08x} where the archive says {expected:08x}; the file is damaged"
        )


def _file(archive: Archive, position: int) -> str:
    return archive.table.files[int(archive.table.entries["shard"][position])]
