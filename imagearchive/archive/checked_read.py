"""Read the content of a member, and compare it with the checksum that the container stores."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from imagearchive.containers.rows import KIND_SPARSE
from imagearchive.containers.tar.sparse import SparseStorage
from imagearchive.errors import CorruptArchiveError
from imagearchive.errors.os_errors import os_errors_for

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["CHUNK_SIZE", "checksum_to_compare", "iter_chunks", "iter_data", "read_whole"]

CHUNK_SIZE: Final = 8 << 20
"""Bytes of the largest chunk."""


def iter_chunks(archive: Archive, position: int) -> Iterator[bytes | memoryview]:
    """Read a member chunk by chunk.

    Parameters
    ----------
    archive : Archive
    position : int
        Which member.

    Yields
    ------
    bytes-like
        At most `CHUNK_SIZE` bytes. A member that is not larger, even an empty one, is one chunk.

    Raises
    ------
    CorruptArchiveError, UnsupportedMemberError
        The member cannot be read, or its checksum differs. A checksum of several chunks is
        compared after the last of them.
    OSError
        The archive cannot be read; the error names it.
    """
    size = int(archive.table.entries["size"][position])
    if size <= CHUNK_SIZE:
        yield read_whole(archive, position)
        return
    with os_errors_for(_file(archive, position)):
        member = archive.member(position)
        checksum = 0
        expected = checksum_to_compare(archive, position)
        for offset in range(0, size, CHUNK_SIZE):
            data = member.read(offset, min(CHUNK_SIZE, size - offset))
            if expected is not None:
                checksum = zlib.crc32(data, checksum)
            yield data
    if expected is not None:
        _compare(archive, position, checksum, expected)


def iter_data(archive: Archive, position: int) -> Iterator[tuple[int, bytes | memoryview]]:
    """Read a member chunk by chunk, without the holes of a sparse file.

    A few kilobytes of TAR can describe a sparse file of exbibytes; this reads only its data.

    Yields
    ------
    offset : int
        Where in the member the chunk begins. Offsets ascend; bytes between chunks, and those after
        the last one, are zero.
    data : bytes-like
        At most `CHUNK_SIZE` bytes.

    Raises
    ------
    CorruptArchiveError, UnsupportedMemberError, OSError
        As `iter_chunks`.
    """
    if archive.table.entries["kind"][position] == KIND_SPARSE:
        with os_errors_for(_file(archive, position)):
            member = archive.member(position)
            if isinstance(member, SparseStorage):
                for offset, size in member.data_ranges(CHUNK_SIZE):
                    yield offset, member.read(offset, size)
                return
    offset = 0
    for data in iter_chunks(archive, position):
        yield offset, data
        offset += len(data)


def read_whole(archive: Archive, position: int) -> bytes | memoryview:
    """Read a member at once; raises the same errors as `iter_chunks`."""
    with os_errors_for(_file(archive, position)):
        data = archive.read(position)
    expected = checksum_to_compare(archive, position)
    if expected is not None:
        _compare(archive, position, zlib.crc32(data), expected)
    return data


def checksum_to_compare(archive: Archive, position: int) -> int | None:
    """Return the CRC-32 that the container stores for a member, None if reading compares it."""
    checksum = archive.checksum(position)
    if checksum is None or checksum.compared or checksum.algorithm != "crc32":
        return None
    return checksum.value


def _compare(archive: Archive, position: int, checksum: int, expected: int) -> None:
    if checksum != expected:
        raise CorruptArchiveError(
            f"{_file(archive, position)}: {archive.name(position)!r}: its checksum is "
            f"{checksum:08x} but the archive says {expected:08x}; the file is damaged"
        )


def _file(archive: Archive, position: int) -> str:
    return archive.table.files[int(archive.table.entries["shard"][position])]
