"""Several archives read as one: their tables, one after the other, in one table."""

from __future__ import annotations

import hashlib
import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagearchive.containers import registry as containers
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    CorruptIndexError,
    OptionError,
    StaleIndexError,
)
from imagearchive.index import file_format as index_file
from imagearchive.index.freshness import READ_PARTLY, REBUILD, Signature, signatures
from imagearchive.index.lookup import Lookup
from imagearchive.index.names import sort_names
from imagearchive.index.table import IndexTable, cache_path, directory_labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["open_tables"]

logger = logging.getLogger(__name__)


def open_tables(
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
    seen = _signatures(paths)
    # What a directory holds can change without a trace in its own size and time.
    plain = None not in seen
    digest = _digest(paths, seen, strict)
    place = None if ipath is None else os.path.abspath(os.fsdecode(ipath))
    if place is not None and not plain:
        raise OptionError(
            f"ipath={place!r}: a directory is among the archives, so nothing is saved"
        )
    if place is None and plain:
        place = cache_path([digest], paths[0])
    if place is not None and not overwrite:
        found = _load(place, paths, seen, digest, strict, given=ipath is not None)
        if found is not None:
            return found
    if ipath is not None and place is not None and os.path.exists(place):
        _refuse_foreign(place, paths)
    table = _concatenate(
        IndexTable.open(path, overwrite=overwrite, strict=strict) for path in paths
    )
    if place is None or len(table.files) != len(paths):
        return table
    table.meta["joined"] = digest
    table.meta["joined_paths"] = _digest(paths, [None] * len(paths), strict)
    # One line for each archive would be parsed at every open, in every process.
    table.meta["archives"] = []
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        return table.saved(place)
    except OSError as error:
        if ipath is not None:
            raise OptionError(f"ipath={place!r} cannot be written: {error.strerror}") from error
        logger.info("%s: the joined index cannot be saved: %s", place, error.strerror)
        return table


def _signatures(paths: Sequence[str]) -> list[Signature | None]:
    try:
        return signatures(paths)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArchiveNotFoundError(
            f"{error.filename}: no such archive, of {len(paths)} asked for; is the pattern right?"
        ) from None


def _digest(paths: Sequence[str], seen: Sequence[Signature | None], strict: bool) -> str:
    """Digest what a joined table depends on."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (f"{index_file.VERSION} {strict}", *containers.versions()):
        digest.update(part.encode() + b"\0")
    for path, signature in zip(paths, seen):
        digest.update(os.fsencode(path) + f"\0{signature}\0".encode())
    return digest.hexdigest()


def _load(
    place: str,
    paths: Sequence[str],
    seen: Sequence[Signature | None],
    digest: str,
    strict: bool,
    given: bool,
) -> IndexTable | None:
    """Map the joined table where it is there and fits."""
    try:
        table = IndexTable.load(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except CorruptIndexError:
        if given:
            raise
        return None
    if table.meta.get("joined") != digest:
        if not given:
            return None
        same = table.meta.get("joined_paths") == _digest(paths, [None] * len(paths), strict)
        reason = "one of them changed since" if same else "it was built for other ones"
        raise StaleIndexError(
            f"{place}: it does not fit the {len(paths)} archives from {paths[0]} on: {reason}",
            hints=[REBUILD],
        )
    if strict and table.meta.get("damage"):
        raise CorruptArchiveError(
            f"{table.meta['damage']} (as found when {place} was built)", hints=[READ_PARTLY]
        )
    table.files = list(paths)
    table.verified = {path: one for path, one in zip(paths, seen) if one is not None}
    return table


def _refuse_foreign(place: str, paths: Sequence[str]) -> None:
    """Raise where the file to overwrite is no index."""
    if os.path.isdir(place) or any(os.path.samefile(place, path) for path in paths):
        raise OptionError(f"ipath={place!r} is an archive or a directory: name another file")
    try:
        index_file.load(place)
    except index_file.NotAnIndexError as error:
        raise OptionError(f"ipath={place!r}: {error}; it is not overwritten") from error
    except CorruptIndexError:
        pass


def _concatenate(tables: Iterable[IndexTable]) -> IndexTable:
    """Put the members of several archives into one table, in that order.

    The tables are copied and let go one by one: each keeps a file mapped while it is there.
    """
    columns: dict[str, list[npt.NDArray[Any]]] = {"entries": [], "names": [], "name_offsets": []}
    files: list[str] = []
    meta: dict[str, Any] = {"archives": [], "directories": []}
    verified: dict[str, Signature] = {}
    for table in tables:
        entries = np.array(table.entries)
        entries["shard"] += np.uint32(len(files))
        columns["entries"].append(entries)
        columns["names"].append(np.array(table.names))
        columns["name_offsets"].append(np.array(table.name_offsets))
        meta["scanner"] = table.scanner
        meta["scanner_version"] = table.meta.get("scanner_version")
        meta["directories"] += table.directories
        meta["archives"] += [
            {"path": os.path.abspath(file), "directory": bool(archive.get("directory"))}
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
