"""Saves arrays beside the index of an archive, so that they are computed once and then mapped."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.errors import CorruptIndexError
from imagearchive.index import file_format
from imagearchive.index.cache import is_cached
from imagearchive.index.index_locations import cache_location
from imagearchive.index.recorded_files import FILES, describe_files
from imagearchive.storage.location import Location, locate
from imagearchive.storage.patterns import INDEX_SUFFIX

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.index.freshness import Signature
    from imagearchive.storage.protocol import FileStorage

__all__ = ["SavedArrays", "content_of", "is_array", "open_saved"]

logger = logging.getLogger(__name__)

# Changes whenever the same input gives other arrays.
VERSION: Final = 2
#: The entry of the metadata that says what a file is for.
KIND: Final = "samples"


@dataclass(frozen=True)
class SavedArrays:
    """Arrays, and what belongs to them.

    Attributes
    ----------
    sections : mapping of str to ndarray
    meta : mapping of str to object
        What JSON can hold.
    file : FileStorage or None
        The mapped file of the arrays.
    """

    sections: Mapping[str, npt.NDArray[Any]]
    meta: Mapping[str, Any] = field(default_factory=dict)
    file: FileStorage | None = None


def open_saved(
    archives: Iterable[Archive],
    asked: str,
    content: str | None,
    compute: Callable[[], SavedArrays],
    is_valid: Callable[[SavedArrays], bool],
    files: Mapping[str, Signature] | None = None,
) -> SavedArrays:
    """Map saved arrays if they are of what is there now; else compute and save them.

    Parameters
    ----------
    archives : iterable of Archive
        Each once; the first is the one whose index the file is beside.
    asked : str
        What the arrays are, in paths and options. New arrays replace the old ones of the same.
    content : str or None
        What changes if the arrays do. None if nothing says so: they are not saved then.
    compute : callable
    is_valid : callable
        Whether arrays that were read are usable as far as their types and shapes say.
    files : mapping of str to Signature, optional
        Other files that the arrays depend on.
    """
    archives = list(archives)
    if content is None or archives[0].table.path is None:
        return compute()
    digest = _digest(asked, content)
    locations = _locations(archives[0], _digest(asked))
    for location in locations:
        found = _load(location, digest, is_valid)
        if found is not None:
            return found
    computed = compute()
    signatures = {
        os.fspath(path): seen
        for archive in archives
        for path, seen in archive.table.file_signatures.items()
    }
    for location in locations:
        if _save(location, computed, digest, {**signatures, **(files or {})}):
            return _load(location, digest, is_valid) or computed
    return computed


def is_array(array: npt.NDArray[Any], dtype: type[np.generic], ndim: int) -> bool:
    """Whether an array that was read has the right type."""
    return array.dtype == dtype and array.ndim == ndim


def content_of(archives: Iterable[Archive]) -> str | None:
    """Return what tells these archives from others; None if one of them has no saved index."""
    parts = []
    for archive in archives:
        table = archive.table
        sections = table.meta.get("sections")
        if table.path is None or not sections:
            return None
        columns = [one["crc32"] for one in sections if one["name"] in ("entries", "names")]
        parts.append(f"{len(table)} {columns}")
    return "\0".join(parts)


def _digest(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (f"{VERSION}", *parts):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _locations(archive: Archive, name: str) -> list[Location]:
    path = archive.table.path
    assert path is not None
    index = locate(path)
    stem = index.name.removesuffix(INDEX_SUFFIX)
    beside = index.parent.join(f"{stem}.{name[:16]}{INDEX_SUFFIX}")
    cached = cache_location([index.path, name], locate(archive.paths[0]))
    return [beside] if cached is None or is_cached(beside) else [beside, cached]


def _load(
    location: Location, digest: str, is_valid: Callable[[SavedArrays], bool]
) -> SavedArrays | None:
    try:
        sections, meta, _, storage = file_format.load(location)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (CorruptIndexError, OSError) as error:
        logger.info("%s: computing it again: %s", location.path, error)
        return None
    found = SavedArrays(sections, meta, storage)
    if meta.get(KIND) != digest or not is_valid(found):
        storage.close()
        return None
    return found


def _save(
    location: Location, arrays: SavedArrays, digest: str, files: Mapping[str, Signature]
) -> bool:
    if location.exists() and not _is_ours(location):
        return False
    sections = dict(arrays.sections)
    if is_cached(location):
        sections[FILES] = describe_files(files)
    try:
        location.parent.make_directory()
        file_format.save(location, sections, {**arrays.meta, KIND: digest})
    except OSError as error:
        logger.info("%s: cannot be saved: %s", location.path, error.strerror)
        return False
    return True


def _is_ours(location: Location) -> bool:
    """Whether a file may be replaced: it has saved arrays, or had before it was damaged."""
    try:
        return KIND in file_format.load(location).meta
    except file_format.NotAnIndexError:
        return False
    except CorruptIndexError:
        return True
