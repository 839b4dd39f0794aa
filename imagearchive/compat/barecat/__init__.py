"""The reading part of the package `barecat`: change the import and keep the code.

`Barecat` opens whatever `imagearchive.open` opens: Barecat archives, but also TAR, ZIP, split bins,
and directories. It differs from the original in one way: ``index.iter_all_paths()`` yields only
files, so that each of its paths can be read. ``dirs()`` yields the directories.

Nothing here writes archives. Functions and methods that do so in the original raise
`NotOfferedError`, and its message names what to use instead.
"""

from __future__ import annotations

import os
from functools import lru_cache

from imagearchive.archive.extract import extract as extract_archive
from imagearchive.compat.barecat.decoded_view import DecodedView
from imagearchive.compat.barecat.exceptions import (
    BarecatError,
    BarecatIntegrityError,
    DirectoryNotEmptyBarecatError,
    FileExistsBarecatError,
    FileNotFoundBarecatError,
    FileTooLargeBarecatError,
    IsADirectoryBarecatError,
    NotADirectoryBarecatError,
    NotEnoughSpaceBarecatError,
    NotOfferedError,
)
from imagearchive.compat.barecat.infos import (
    BarecatDirInfo,
    BarecatEntryInfo,
    BarecatFileInfo,
    Order,
)
from imagearchive.compat.barecat.member_index import Index
from imagearchive.compat.barecat.not_offered import FUNCTIONS, not_offered
from imagearchive.compat.barecat.reader import (
    Barecat,
    BarecatFileObject,
    BarecatReadOnlyFileObject,
)
from imagearchive.storage.location import locate

__all__ = [
    "SHARD_SIZE_UNLIMITED",
    "Barecat",
    "BarecatDirInfo",
    "BarecatEntryInfo",
    "BarecatError",
    "BarecatFileInfo",
    "BarecatFileObject",
    "BarecatIntegrityError",
    "BarecatReadOnlyFileObject",
    "DecodedView",
    "DirectoryNotEmptyBarecatError",
    "FileExistsBarecatError",
    "FileNotFoundBarecatError",
    "FileTooLargeBarecatError",
    "Index",
    "IsADirectoryBarecatError",
    "NotADirectoryBarecatError",
    "NotEnoughSpaceBarecatError",
    "NotOfferedError",
    "Order",
    "exists",
    "extract",
    "get_cached_reader",
    "open",
    "read_index",
]

SHARD_SIZE_UNLIMITED = (1 << 63) - 1


def open(
    path: str | os.PathLike[str],
    mode: str = "r",
    auto_codec: bool = False,
    threadsafe_reader: bool = True,
) -> Barecat:
    """Open an archive for reading.

    Raises
    ------
    NotOfferedError
        `mode` is not ``"r"``, or `auto_codec` is True.
    """
    if mode != "r":
        raise NotOfferedError(
            f"mode must be 'r', as archives are only read here, got {mode!r}; write a TAR with "
            f"imagearchive.TarWriter or imagearchive.pack"
        )
    return Barecat(path, auto_codec=auto_codec, threadsafe=threadsafe_reader)


def get_cached_reader(path: str | os.PathLike[str], auto_codec: bool | None = None) -> Barecat:
    """Return an archive that is opened once per process; threads share it.

    Raises
    ------
    NotOfferedError
        `auto_codec` is not False, which the original takes as True.
    """
    if auto_codec is not False:
        raise NotOfferedError(
            "pass auto_codec=False and wrap the archive in DecodedView, which decodes its files"
        )
    return _open_cached(locate(path).path)


@lru_cache
def _open_cached(path: str) -> Barecat:
    return Barecat(path)


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is an archive: its index file or one of its shards."""
    location = locate(path)
    return any(
        location.parent.join(location.name + suffix).exists()
        for suffix in ("", "-sqlite-index", "-shard-00000")
    )


def extract(barecat_path: str | os.PathLike[str], target_directory: str | os.PathLike[str]) -> None:
    """Extract an archive into a directory; see `imagearchive.extract`."""
    with Barecat(barecat_path) as archive:
        extract_archive(archive, target_directory, existing="replace")


def read_index(path: str | os.PathLike[str]) -> dict[str, tuple[int | None, ...]]:
    """Return the shard, offset, and size in bytes of each file, by path."""
    with Index(path) as index:
        return {info.path: (info.shard, info.offset, info.size) for info in index}


for _function, _instead in FUNCTIONS.items():
    globals()[_function] = not_offered(_function, _instead)
