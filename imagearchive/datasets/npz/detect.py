"""Whether a file holds arrays, by its content."""

from __future__ import annotations

from contextlib import closing
from typing import Final

from imagearchive.archive.archive import Archive
from imagearchive.arrays import npy
from imagearchive.index.names import ends_with
from imagearchive.storage.location import locate

__all__ = ["holds_arrays"]

# As in `numpy.load`. A ZIP without members is not an NPZ with rows.
_ZIP_PREFIX: Final = b"PK\3\4"


def holds_arrays(path: str) -> bool:
    """Whether a file is an NPZ or a lone ``.npy``, whatever its name.

    An NPZ is a ZIP of ``.npy`` members and nothing else.

    Raises
    ------
    CorruptArchiveError
        It is a damaged ZIP.
    """
    location = locate(path)
    if not location.exists() or not location.status().is_file:
        return False
    with closing(location.open("pread")) as storage:
        head = bytes(storage.read(0, min(len(npy.MAGIC), storage.size)))
    if head == npy.MAGIC:
        return True
    if not head.startswith(_ZIP_PREFIX):
        return False
    with Archive(path) as archive:
        table = archive.table
        return len(archive) > 0 and bool(
            ends_with(table.names, table.name_offsets, [b".npy"]).all()
        )
