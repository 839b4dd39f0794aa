"""Read the content of a member, and compare it with the checksum that the container stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from imagearchive.containers.rows import KIND_SPARSE
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.storage.changes import changes_first
from imagearchive.storage.checksums import CHECKSUMS
from imagearchive.storage.protocol import RangedStorage

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["CHUNK_SIZE", "iter_chunks", "iter_data", "read_whole"]

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
        with changes_first(archive):
            yield read_whole(archive, position)
        return
    with os_errors_for(_file(archive, position)):
        member = archive.member(position)
        found = 0
        expected = archive.checksum(position)
        if expected is not None and expected.compared:
            expected = None
        for offset in range(0, size, CHUNK_SIZE):
            with changes_first(archive):
                data = member.read(offset, min(CHUNK_SIZE, size - offset))
                if expected is not None:
                    found = CHECKSUMS[expected.algorithm](data, found)
                yield data
    if expected is not None and found != expected.value:
        raise archive.mismatch(position, found)


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
            if isinstance(member, RangedStorage):
                for offset, size in member.data_ranges(CHUNK_SIZE):
                    with changes_first(archive):
                        yield offset, member.read(offset, size)
                return
    offset = 0
    for data in iter_chunks(archive, position):
        yield offset, data
        offset += len(data)


def read_whole(archive: Archive, position: int) -> bytes | memoryview:
    """Read a member at once; raises the same errors as `iter_chunks`."""
    with os_errors_for(_file(archive, position)):
        data = archive.read_unverified(position)
    archive.compare(position, data)
    return data


def _file(archive: Archive, position: int) -> str:
    return archive.table.file_of(int(archive.table.entries["shard"][position]))
