"""The content of a member, in pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from imagearchive.naming import naming

if TYPE_CHECKING:
    from imagearchive.archive import Archive

__all__ = ["WINDOW", "pieces"]

WINDOW: Final = 8 << 20
"""Bytes of the largest piece."""


def pieces(archive: Archive, position: int) -> Iterator[bytes | memoryview]:
    """Read a member from its beginning to its end.

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
        The member cannot be read.
    OSError
        The archive cannot be read; the error names it.
    """
    entry = archive.table.entries[position]
    size = int(entry["size"])
    with naming(archive.table.files[int(entry["shard"])]):
        if size <= WINDOW:
            yield archive.read(position)
            return
        member = archive.member(position)
        for offset in range(0, size, WINDOW):
            yield member.read(offset, min(WINDOW, size - offset))
