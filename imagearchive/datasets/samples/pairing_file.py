"""Saves a pairing beside the index of its archive, so that it is computed once and then mapped."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import numpy as np

from imagearchive.datasets.samples.pairing import Pairing
from imagearchive.errors import CorruptIndexError
from imagearchive.index import file_format
from imagearchive.index.cache import FILES, describe_files, is_cached
from imagearchive.index.index_locations import cache_location
from imagearchive.storage.location import Location, locate
from imagearchive.storage.patterns import INDEX_SUFFIX

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.storage.protocol import FileStorage

__all__ = ["open_pairing"]

logger = logging.getLogger(__name__)

# Changes whenever the same members are paired in another way.
PAIRING_VERSION: Final = 1
POSITIONS: Final = "positions"


def open_pairing(
    archives: Iterable[Archive], description: str, count: int, pair: Callable[[], Pairing]
) -> tuple[Pairing, FileStorage | None]:
    """Map the saved pairing if it is of these archives as they are now; else compute and save it.

    Parameters
    ----------
    archives : iterable of Archive
        Each once; the first is the one whose index the file is beside.
    description : str
        Everything else that the pairing depends on.
    count : int
        Number of fields.
    pair : callable
        Computes the pairing.

    Returns
    -------
    pairing : Pairing
    storage : FileStorage or None
        The mapped file.
    """
    archives = list(archives)
    content = _content(archives)
    if content is None:
        return pair(), None
    digest = _digest(content, description)
    # By what is asked for, not by the content of the archives: a new pairing replaces the old one.
    name = _digest(*(path for archive in archives for path in archive.paths), description)
    locations = _locations(archives[0], name)
    for location in locations:
        found = _load(location, digest, count)
        if found is not None:
            return found
    pairing = pair()
    for location in locations:
        if _save(location, pairing, digest, archives):
            return _load(location, digest, count) or (pairing, None)
    return pairing, None


def _content(archives: list[Archive]) -> str | None:
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
    for part in (f"{PAIRING_VERSION}", *parts):
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


def _load(location: Location, digest: str, count: int) -> tuple[Pairing, FileStorage | None] | None:
    try:
        sections, meta, _, storage = file_format.load(location)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (CorruptIndexError, OSError) as error:
        logger.info("%s: pairing the members again: %s", location.path, error)
        return None
    positions, skipped = sections.get(POSITIONS), meta.get("skipped")
    incomplete = meta.get("incomplete")
    if (
        meta.get("pairing") != digest
        or positions is None
        or positions.ndim != 2
        or len(positions) != count
        or positions.dtype not in (np.int32, np.int64)
        or not isinstance(skipped, int)
        or not isinstance(incomplete, list)
        or not all(number in range(count) for number in incomplete)
    ):
        storage.close()
        return None
    return Pairing(positions, skipped, tuple(incomplete)), storage


def _save(location: Location, pairing: Pairing, digest: str, archives: list[Archive]) -> bool:
    if location.exists() and not _is_pairing(location):
        return False
    sections = {POSITIONS: pairing.positions}
    if is_cached(location):
        files = {
            os.fspath(path): seen
            for archive in archives
            for path, seen in archive.table.file_signatures.items()
        }
        sections[FILES] = describe_files(files)
    try:
        location.parent.make_directory()
        meta = {"skipped": pairing.skipped, "incomplete": list(pairing.incomplete)}
        file_format.save(location, sections, {**meta, "pairing": digest})
    except OSError as error:
        logger.info("%s: the pairing cannot be saved: %s", location.path, error.strerror)
        return False
    return True


def _is_pairing(location: Location) -> bool:
    """Whether a file may be replaced: it is a pairing, or was one before it was damaged."""
    try:
        return "pairing" in file_format.load(location).meta
    except file_format.NotAnIndexError:
        return False
    except CorruptIndexError:
        return True
