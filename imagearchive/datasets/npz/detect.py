"""Whether a file holds arrays, by its content."""

from __future__ import annotations

from contextlib import closing
from typing import Final

from imagearchive.archive.archive import Archive
from imagearchive.arrays import npy
from imagearchive.containers.decompressed_copy import decompressed_copy
from imagearchive.containers.derived import HEAD_BYTES, find_stream_format
from imagearchive.errors import ArchiveNotFoundError
from imagearchive.index.names import ends_with
from imagearchive.storage.location import locate

__all__ = ["holds_arrays"]

# As in `numpy.load`. A ZIP without members is not an NPZ with rows.
_ZIP_PREFIX: Final = b"PK\3\4"


def holds_arrays(path: str, decompress_to: str | None = None, strict: bool = True) -> bool:
    """Whether a file is an NPZ or a lone ``.npy``, whatever its name.

    An NPZ is a ZIP of ``.npy`` members and nothing else. Either may be compressed as a whole.

    Parameters
    ----------
    path : str
    decompress_to : str, optional
        A directory in which a compressed file is decompressed; see `imagearchive.Archive`.
    strict : bool, default True
        Whether damage is an error. Otherwise, the members that can be read decide.

    Raises
    ------
    CorruptArchiveError
        It is a damaged ZIP; with ``strict=False`` only if no part of it can be read.
    """
    location = locate(path)
    # An object on a server is opened by one request, which brings what is read below.
    if location.local_path is not None and not (location.exists() and location.status().is_file):
        return False
    try:
        if decompress_to is not None:
            location = decompressed_copy(location, decompress_to, arrays=True)
        with closing(location.open("pread")) as storage:
            head = bytes(storage.read(0, min(HEAD_BYTES, storage.size)))
    except ArchiveNotFoundError:
        return False
    if head.startswith(npy.MAGIC):
        return True
    if not head.startswith(_ZIP_PREFIX) and find_stream_format(head) is None:
        return False
    with Archive(location.path, strict=strict) as archive:
        table = archive.table
        return len(archive) > 0 and bool(
            ends_with(table.names, table.name_offsets, [b".npy"]).all()
        )
