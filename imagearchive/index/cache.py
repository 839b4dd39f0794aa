"""The indexes in the user's cache directory: lists and removes them.

Each of them names its archives in the section ``files``: path, size, and identity of each file, all
followed by NUL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.errors import CorruptIndexError
from imagearchive.index import file_format
from imagearchive.index.freshness import Signature, signatures
from imagearchive.index.index_locations import cache_directory
from imagearchive.storage.location import Location, locate
from imagearchive.storage.patterns import INDEX_SUFFIX

__all__ = [
    "FILES",
    "CachedIndex",
    "cached_indexes",
    "describe_files",
    "is_cached",
    "recorded_files",
    "remove_cached",
]

FILES: Final = "files"


class CachedIndex(NamedTuple):
    """An index in the cache directory.

    Attributes
    ----------
    path : str
    size : int
        In bytes.
    archives : list of str
        The files of the archive, or of all archives that are read as one.
    state : {"fresh", "stale", "unknown"}
        Whether those files are as they were. Unknown if the index does not name them.
    last_used_ns : int
        Nanoseconds since 1970. Most systems note only the first use of a day.
    """

    path: str
    size: int
    archives: list[str]
    state: Literal["fresh", "stale", "unknown"]
    last_used_ns: int


def is_cached(location: Location) -> bool:
    """Whether an index file is in the cache directory."""
    folder = cache_directory()
    return folder is not None and location.parent.path == folder.path


def describe_files(found: Mapping[str, Signature]) -> npt.NDArray[np.uint8]:
    """Return the section ``files`` for files as they were when they were indexed."""
    text = "".join(f"{path}\0{size}\0{identity}\0" for path, (size, identity) in found.items())
    return np.frombuffer(os.fsencode(text), np.uint8)


def cached_indexes() -> list[CachedIndex]:
    """Return the indexes in the cache directory, sorted by name.

    Each file of their archives is looked at once.

    Raises
    ------
    OSError
        The directory cannot be read.
    """
    folder = cache_directory()
    if folder is None or not folder.exists():
        return []
    names = [entry.name for entry in folder.list() if entry.name.endswith(INDEX_SUFFIX)]
    found = []
    for name in names:
        # Another process may remove one meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found.append(_describe(folder.join(name)))
    return found


def remove_cached(index: CachedIndex) -> None:
    """Remove an index from the cache directory; processes that have it open keep it."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(index.path)


def _describe(location: Location) -> CachedIndex:
    archives: list[str] = []
    state: Literal["fresh", "stale", "unknown"] = "unknown"
    with _unused(location.path) as status, contextlib.suppress(CorruptIndexError):
        recorded = recorded_files(file_format.load(location).sections)
        archives = list(recorded)
        if recorded:
            state = "fresh" if all(map(_is_unchanged, *zip(*recorded.items()))) else "stale"
    last_used = max(status.st_atime_ns, status.st_mtime_ns)
    return CachedIndex(location.path, status.st_size, archives, state, last_used)


@contextlib.contextmanager
def _unused(path: str) -> Iterator[os.stat_result]:
    """Yield the status of a file; what the block reads does not count as use."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        yield status
        # Only the owner may set times.
        with contextlib.suppress(PermissionError):
            os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(descriptor)


def recorded_files(sections: Mapping[str, npt.NDArray[Any]]) -> dict[str, Signature]:
    """Return what `describe_files` recorded: size and identity of each file, by its path."""
    if FILES not in sections:
        return {}
    parts = os.fsdecode(sections[FILES].tobytes()).split("\0")
    return {
        path: (int(size), identity)
        for path, size, identity in zip(*[iter(parts)] * 3)
        if size.isdecimal() and len(size) < 20
    }


def _is_unchanged(path: str, recorded: Signature) -> bool:
    try:
        seen = signatures([locate(path)])[0]
    except OSError:
        return False
    return seen == recorded
