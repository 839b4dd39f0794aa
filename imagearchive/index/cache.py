"""The indexes in the user's cache directory: lists and removes them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Literal, NamedTuple

from imagearchive.errors import CorruptIndexError
from imagearchive.index import file_format
from imagearchive.index.freshness import Signature, signatures
from imagearchive.index.index_locations import cache_directory
from imagearchive.index.recorded_files import RecordedFiles
from imagearchive.storage.location import Location, locate
from imagearchive.storage.patterns import INDEX_SUFFIX

__all__ = [
    "CachedIndex",
    "cached_indexes",
    "is_cached",
    "remove_cached",
]


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
        recorded = RecordedFiles(file_format.load(location).sections)
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


def _is_unchanged(path: str, recorded: Signature) -> bool:
    try:
        seen = signatures([locate(path)])[0]
    except OSError:
        return False
    return seen == recorded
