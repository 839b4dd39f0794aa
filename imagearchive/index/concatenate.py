"""Several archives read as one: their tables, one after the other, in one table."""

from __future__ import annotations

import hashlib
import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagearchive.containers.registry import all_containers, resolve_location
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    CorruptIndexError,
    OptionError,
    StaleIndexError,
)
from imagearchive.index import file_format
from imagearchive.index.build import directory_labels
from imagearchive.index.freshness import READ_PARTLY, REBUILD, Signature, signatures
from imagearchive.index.index_locations import cache_location
from imagearchive.index.lookup import Lookup
from imagearchive.index.names import sort_names
from imagearchive.index.table import IndexTable, check_replaceable
from imagearchive.storage.location import Location, locate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["open_concatenated"]

logger = logging.getLogger(__name__)


def open_concatenated(
    paths: Sequence[str],
    ipath: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    strict: bool = True,
) -> IndexTable:
    """Open the index of one archive, or of several as one table.

    Each of several archives has an index of its own. Their sum is kept too, in the user's cache
    directory under the names, sizes and times of all of them, so that worker processes map one
    file instead of joining the tables anew.

    Parameters and errors are those of `IndexTable.open`; of several archives, `ipath` is where
    the sum lies. Equal names in several archives all stay; a look-up finds the last.
    """
    if len(paths) == 1:
        return IndexTable.open(paths[0], ipath, overwrite=overwrite, strict=strict)
    archives = [resolve_location(locate(path)) for path in paths]
    seen = _signatures(archives)
    # What a directory holds can change without a trace in its own size and time.
    can_save = None not in seen
    digest = _digest(archives, seen, strict)
    place = None if ipath is None else locate(ipath)
    if place is not None and not can_save:
        raise OptionError(
            f"{place.path}: cannot be the index, as a directory is among the archives, and a "
            f"directory is listed each time it is opened"
        )
    if place is None and can_save:
        place = cache_location([digest], archives[0])
    if place is not None and not overwrite:
        found = _load(place, archives, seen, digest, strict, given=ipath is not None)
        if found is not None:
            return found
    if ipath is not None and place is not None and place.exists():
        _refuse_foreign(place, archives)
    table = _concatenate(
        IndexTable.open(one.path, overwrite=overwrite, strict=strict) for one in archives
    )
    if place is None or len(table.files) != len(paths):
        return table
    table.meta["joined"] = digest
    table.meta["joined_paths"] = _digest(archives, [None] * len(archives), strict)
    # One line for each archive would be parsed at every open, in every process.
    table.meta["archives"] = []
    try:
        place.parent.make_directory()
        return table.save(place)
    except OSError as error:
        if ipath is not None:
            raise OptionError(f"{place.path}: cannot write the index: {error.strerror}") from error
        logger.info("%s: the joined index cannot be saved: %s", place.path, error.strerror)
        return table


def _signatures(archives: Sequence[Location]) -> list[Signature | None]:
    try:
        return signatures(archives)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArchiveNotFoundError(
            f"{error.filename}: no such archive, one of {len(archives)}; is the pattern right?"
        ) from None


def _digest(archives: Sequence[Location], seen: Sequence[Signature | None], strict: bool) -> str:
    """Digest what a joined table depends on."""
    versions = sorted(f"{one.name} {one.version}" for one in all_containers())
    digest = hashlib.blake2b(digest_size=16)
    for part in (f"{file_format.VERSION} {strict}", *versions):
        digest.update(part.encode() + b"\0")
    for archive, signature in zip(archives, seen):
        digest.update(os.fsencode(archive.path) + f"\0{signature}\0".encode())
    return digest.hexdigest()


def _load(
    place: Location,
    archives: Sequence[Location],
    seen: Sequence[Signature | None],
    digest: str,
    strict: bool,
    given: bool,
) -> IndexTable | None:
    """Map the joined table where it is there and fits."""
    try:
        table = IndexTable.load(place.path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except CorruptIndexError:
        if given:
            raise
        return None
    if table.meta.get("joined") != digest:
        if not given:
            return None
        same = table.meta.get("joined_paths") == _digest(archives, [None] * len(archives), strict)
        reason = "one of them has changed" if same else "it was built for others"
        raise StaleIndexError(
            f"{place.path}: it does not describe the {len(archives)} archives from "
            f"{archives[0].path} on: {reason}",
            hints=[REBUILD],
        )
    if strict and table.meta.get("damage"):
        raise CorruptArchiveError(
            f"{table.meta['damage']} (as found when {place.path} was built)", hints=[READ_PARTLY]
        )
    table.files = [archive.path for archive in archives]
    table.verified = {file: one for file, one in zip(table.files, seen) if one is not None}
    return table


def _refuse_foreign(place: Location, archives: Sequence[Location]) -> None:
    """Raise OptionError if the file to overwrite is not an index."""
    check_replaceable(place, archives)
    try:
        file_format.load(place)
    except file_format.NotAnIndexError as error:
        raise OptionError(f"{error}; refusing to overwrite it") from error
    except CorruptIndexError:
        pass


def _concatenate(tables: Iterable[IndexTable]) -> IndexTable:
    """Put the members of several archives into one table, in that order.

    The tables are copied and let go one by one: each keeps a file mapped while it is there.
    """
    columns: dict[str, list[npt.NDArray[Any]]] = {"entries": [], "names": [], "name_offsets": []}
    files: list[str] = []
    meta: dict[str, Any] = {"containers": [], "archives": [], "directories": []}
    verified: dict[str, Signature] = {}
    for table in tables:
        entries = np.array(table.entries)
        entries["shard"] += np.uint32(len(files))
        columns["entries"].append(entries)
        columns["names"].append(np.array(table.names))
        columns["name_offsets"].append(np.array(table.name_offsets))
        _add_runs(meta["containers"], table.meta["containers"], len(files))
        meta["directories"] += table.directories
        meta["archives"] += [
            {"path": file, "directory": bool(archive.get("directory"))}
            for file, archive in zip(table.files, table.meta.get("archives", []))
        ]
        if "damage" in table.meta:
            meta.setdefault("damage", table.meta["damage"])
        files += table.files
        verified |= table.verified
    entries = np.concatenate(columns["entries"])
    entries["index"] = np.arange(len(entries), dtype=np.uint64)
    names = np.concatenate(columns["names"])
    name_offsets = np.zeros(len(entries) + 1, np.uint64)
    sizes = np.concatenate([np.diff(offsets) for offsets in columns["name_offsets"]])
    np.cumsum(sizes, out=name_offsets[1:])
    order = sort_names(names, name_offsets)
    values, offsets = directory_labels(Lookup(entries, names, name_offsets, order), order)
    meta["directories"] = sorted(set(meta["directories"]))
    joined = IndexTable(
        entries=entries,
        label_values=values,
        label_offsets=offsets,
        names=names,
        name_offsets=name_offsets,
        name_order=order,
        files=files,
        meta=meta,
    )
    joined.verified = verified
    return joined


def _add_runs(runs: list[dict[str, Any]], others: list[dict[str, Any]], first_file: int) -> None:
    """Add the formats of further files; equal neighbors become one."""
    for run in others:
        last = runs[-1] if runs else {}
        if (last.get("name"), last.get("version")) != (run["name"], run["version"]):
            runs.append({**run, "first_file": run["first_file"] + first_file})
