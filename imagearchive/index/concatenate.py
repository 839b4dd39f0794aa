"""The index of several archives that are read as one: their tables, one after the other."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import os
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagearchive.containers.left_out import LeftOut
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
from imagearchive.index.index_locations import (
    cache_location,
    check_replaceable,
    unwritable_index,
)
from imagearchive.index.lookup import Lookup
from imagearchive.index.metadata import CHECKPOINTS, add_container_runs
from imagearchive.index.name_order import sort_names
from imagearchive.index.nesting import Nested, Nesting
from imagearchive.index.recorded_files import FILES, RecordedFiles, describe_files
from imagearchive.index.table import IndexTable
from imagearchive.index.upload import check_uploads, upload_index
from imagearchive.storage.answers import remember_answers
from imagearchive.storage.location import Location, PublishingLocation, locate
from imagearchive.storage.progress import byte_progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from imagearchive.containers.derived import DerivedFile

__all__ = ["open_concatenated"]

logger = logging.getLogger(__name__)

# In the metadata of a combined table: no archive contains others.
PLAIN = "plain"


@remember_answers()
def open_concatenated(
    paths: Sequence[str],
    ipath: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    overwrite_each: bool | None = None,
    strict: bool = True,
    nested: Nested = False,
    upload: bool = False,
) -> IndexTable:
    """Open the index of one archive, or of several as one table.

    Each archive has an index of its own. The combined table is saved too, in the user's cache
    directory, under a digest of the names, sizes, and times of all archives. Worker processes map
    that one file instead of concatenating the tables again.

    Parameters and errors are those of `IndexTable.open`. For several archives, `ipath` is the
    combined index, and then it is the only file that is saved: indexes that the archives have are
    used, but missing ones are not saved. `overwrite_each` says whether indexes that the archives
    have are built again, by default as `overwrite`. If archives have members of the same name, all
    are kept, and a lookup finds the last. With `upload`, the index of each archive on a server is
    saved beside it.

    The combined index of archives on servers, or one on a server, is opened without asking for the
    status of any archive, which may be many: it describes their state, and reading from one in
    another state is an error.
    """
    if upload:
        check_uploads(paths)
    given = None if ipath is None else locate(ipath)
    are_remote = locate(paths[0]).local_path is None
    describes_state = are_remote or isinstance(given, PublishingLocation)
    if len(paths) > 1 and given is not None and describes_state and not overwrite:
        table = _load_without_asking(given, paths, strict, nested)
        if table is not None and not upload:
            return table
    located = [locate(path) for path in paths]
    if are_remote:
        # Imported here, because a single archive on this machine needs no threads.
        from imagearchive.index.open_indexes import ask_ahead

        ask_ahead(located, given)
    if len(paths) == 1:
        with byte_progress(f"indexing {os.path.basename(paths[0])}") as progress:
            table = IndexTable.open(
                paths[0],
                ipath,
                overwrite=overwrite,
                strict=strict,
                progress=progress,
                nested=nested,
            )
        return upload_index(table, nested) if upload else table
    archives = [resolve_location(location) for location in located]
    seen = _signatures(archives)
    # The size and time of a directory do not change with the files in it.
    can_save = None not in seen
    archive_paths = [archive.path for archive in archives]
    digest = _digest(archive_paths, seen, strict, nested)
    location = given
    if location is not None and not can_save:
        raise OptionError(
            f"{location.path}: cannot be the index, because one of the archives is a directory, "
            f"which is listed each time it is opened"
        )
    if location is None and can_save:
        location = cache_location([digest], archives[0])
    remote = isinstance(location, PublishingLocation)
    if location is not None and not overwrite and not upload and not remote:
        wanted = _Wanted(archive_paths, seen, strict, nested)
        found = _load(location, archives, seen, wanted, strict, ipath is not None)
        if found is not None:
            return found
    if ipath is not None and location is not None and location.exists():
        _check_is_index(location, archives)
    from imagearchive.index.open_indexes import open_indexes

    if are_remote:
        ask_ahead(archives, all_indexes=True)
    tables = open_indexes(
        archives,
        overwrite=overwrite if overwrite_each is None else overwrite_each,
        strict=strict,
        save=ipath is None,
        nested=nested,
    )
    begins: list[bool] = []
    with closing(tables):
        parts: Iterable[IndexTable] = tables
        if upload:
            parts = (upload_index(one, nested) for one in tables)
        elif nested is False and ipath is not None and not remote:
            parts = _note_inner(tables, begins)
        table = _concatenate(parts)
    # Then the tables for nested=False and nested="auto" are the same.
    nesting = Nesting.from_argument(nested)
    looked = bool(begins) if nesting is None else nesting.auto
    if looked and "nested" not in table.meta and not any(begins):
        table.meta[PLAIN] = True
    if location is None or len(table.files) != len(paths):
        return table
    table.meta["joined"] = digest
    table.meta["joined_paths"] = _digest(archive_paths, None, strict, nested)
    if remote or (given is not None and are_remote):
        # The state of each file is in the index, and each request says that it expects it.
        table.extra = {**table.extra, FILES: describe_files(table.file_signatures)}
    # Every process would parse one entry for each archive whenever it opens the table.
    table.meta["archives"] = []
    try:
        location.parent.make_directory()
        return table.save(location)
    except OSError as error:
        if ipath is not None:
            raise unwritable_index(location.path, error) from error
        logger.info("%s: the combined index cannot be saved: %s", location.path, error.strerror)
        return table


def _signatures(archives: Sequence[Location]) -> list[Signature | None]:
    try:
        return signatures(archives)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArchiveNotFoundError(
            f"{error.filename}: no such archive, one of {len(archives)}; is the pattern right?"
        ) from None


def _digest(
    paths: Sequence[str],
    seen: Iterable[Signature | None] | None,
    strict: bool,
    nested: Nested,
) -> str:
    """Digest everything that a combined table depends on; without `seen`, but for their state."""
    versions = sorted(f"{one.name} {one.version}" for one in all_containers())
    digest = hashlib.blake2b(digest_size=16)
    options = f"{file_format.VERSION} {strict}"
    if nested is not False:
        options += f" {Nesting.from_argument(nested)}"
    for part in (options, *versions):
        digest.update(part.encode() + b"\0")
    for path, signature in zip(paths, itertools.repeat(None) if seen is None else seen):
        digest.update(os.fsencode(path) + f"\0{signature}\0".encode())
    return digest.hexdigest()


def _note_inner(tables: Iterable[IndexTable], begins: list[bool]) -> Iterator[IndexTable]:
    """Yield tables, and note whether their archives begin with an archive."""
    from imagearchive.index.inner_archives import begins_with_archive

    for table in tables:
        begins.append(begins_with_archive(table))
        yield table


class _Wanted:
    """The digests that a combined table may have, each computed when it is asked for."""

    def __init__(
        self, paths: Sequence[str], seen: Sequence[Signature | None], strict: bool, nested: Nested
    ) -> None:
        self._files = paths, seen, strict
        nesting = Nesting.from_argument(nested)
        self._nested = nested
        # If no archive contains others, nested=False and nested="auto" are the same.
        self._other: Nested | None = None
        if nesting is None or nesting.auto:
            self._other = "auto" if nesting is None else False

    @cached_property
    def digest(self) -> str:
        """Of everything."""
        return _digest(*self._files, self._nested)

    @cached_property
    def paths(self) -> str:
        """Without the state of the archives."""
        paths, _, strict = self._files
        return _digest(paths, None, strict, self._nested)

    @cached_property
    def other_digest(self) -> str | None:
        """As `digest`, for the other value of `nested`."""
        return None if self._other is None else _digest(*self._files, self._other)

    @cached_property
    def other_paths(self) -> str | None:
        """As `paths`, for the other value of `nested`."""
        paths, _, strict = self._files
        return None if self._other is None else _digest(paths, None, strict, self._other)

    def has_digest(self, meta: Mapping[str, Any]) -> bool:
        """Whether these are the metadata of such a table of these archives in their state."""
        return meta.get("joined") == self.digest or bool(
            meta.get(PLAIN) and meta.get("joined") == self.other_digest
        )

    def has_paths(self, meta: Mapping[str, Any]) -> bool:
        """Whether these are the metadata of such a table of these archives in any state."""
        return meta.get("joined_paths") == self.paths or bool(
            meta.get(PLAIN) and meta.get("joined_paths") == self.other_paths
        )

    def explain(self, meta: Mapping[str, Any]) -> str:
        """Say why a table with these metadata is another one."""
        if self.has_paths(meta):
            return "one of them has changed"
        if self.other_paths is not None and meta.get("joined_paths") == self.other_paths:
            return "it was built with another value of nested"
        return "it was built for others"


def _load(
    location: Location,
    archives: Sequence[Location],
    seen: Sequence[Signature | None],
    wanted: _Wanted,
    strict: bool,
    given: bool,
) -> IndexTable | None:
    """Map the combined table if it exists and is fresh."""
    try:
        sizes = [0 if one is None else one[0] for one in seen]
        meta = file_format.load(location).meta
        # The columns of an index of other archives say nothing about these.
        if wanted.has_digest(meta):
            table = IndexTable.load(location.path, sizes=sizes)
            meta = table.meta
    except (FileNotFoundError, NotADirectoryError):
        return None
    except CorruptIndexError:
        if given:
            raise
        return None
    if not wanted.has_digest(meta):
        if not given:
            return None
        raise StaleIndexError(
            f"{location.path}: it does not describe the {len(archives)} archives from "
            f"{archives[0].path} on: {wanted.explain(meta)}",
            hints=[REBUILD],
        )
    if strict and table.meta.get("damage"):
        raise CorruptArchiveError(
            f"{table.meta['damage']} (as found when {location.path} was built)", hints=[READ_PARTLY]
        )
    table.files = [archive.path for archive in archives]
    table.file_signatures = {file: one for file, one in zip(table.files, seen) if one is not None}
    return table


def _load_without_asking(
    location: Location, paths: Sequence[str], strict: bool, nested: Nested
) -> IndexTable | None:
    """Map a combined table that describes the state of the archives.

    None if there is none yet.
    """
    try:
        sections, meta, *_ = file_format.load(location)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if location.local_path is not None and FILES not in sections:
        return None
    known = RecordedFiles(sections)
    wanted = _Wanted(paths, [], strict, nested)
    if not wanted.has_paths(meta):
        raise StaleIndexError(
            f"{location.path}: it does not describe the {len(paths)} archives from "
            f"{paths[0]} on: {wanted.explain(meta)}",
            hints=[REBUILD],
        )
    # `expand_paths` has returned the paths of locations, and there may be very many.
    try:
        sizes = np.fromiter((known[path][0] for path in paths), np.uint64, len(paths))
    except (KeyError, OverflowError):
        raise CorruptIndexError(
            f"{location.path}: it does not describe all archives; delete it"
        ) from None
    table = IndexTable.load(location.path, sizes=sizes)
    if strict and table.meta.get("damage"):
        raise CorruptArchiveError(
            f"{table.meta['damage']} (as found when {location.path} was built)", hints=[READ_PARTLY]
        )
    table.files, table.file_signatures = paths, known
    return table


def _check_is_index(location: Location, archives: Sequence[Location]) -> None:
    """Raise OptionError if the file to overwrite is not an index."""
    check_replaceable(location, archives)
    try:
        file_format.load(location)
    except file_format.NotAnIndexError as error:
        raise OptionError(f"{error}; refusing to overwrite it") from error
    except CorruptIndexError:
        pass


def _concatenate(tables: Iterable[IndexTable]) -> IndexTable:
    """Copy the members of several archives into one table, in that order.

    The tables are copied and dropped one by one, because each keeps a file mapped.
    """
    columns: dict[str, list[npt.NDArray[Any]]] = {"entries": [], "names": [], "name_offsets": []}
    files: list[str] = []
    meta: dict[str, Any] = {"containers": [], "archives": [], "directories": []}
    file_signatures: dict[str, Signature] = {}
    shards = _Shards()
    checkpoints: list[npt.NDArray[np.uint8]] = []
    checkpoint_bytes = 0
    left_out = LeftOut()
    for table in tables:
        columns["entries"].append(np.array(table.entries))
        columns["names"].append(np.array(table.names))
        columns["name_offsets"].append(np.array(table.name_offsets))
        shards.add(table, checkpoint_bytes)
        left_out.extend(table.left_out, len(files))
        meta["directories"] += table.directories
        meta["archives"] += [
            {"path": file, "directory": bool(archive.get("directory"))}
            for file, archive in zip(table.files, table.meta.get("archives", []))
        ]
        if "nested" in table.meta:
            one, before = table.meta["nested"], meta.get("nested", {})
            meta["nested"] = {
                **one,
                "archives": before.get("archives", 0) + one["archives"],
                "deepest": max(before.get("deepest", 0), one["deepest"]),
            }
        if CHECKPOINTS in table.extra:
            checkpoints.append(np.array(table.extra[CHECKPOINTS]))
            checkpoint_bytes += len(checkpoints[-1])
        if "damage" in table.meta:
            meta.setdefault("damage", table.meta["damage"])
        files += table.files
        file_signatures |= table.file_signatures
    meta["containers"], derived = shards.finish(columns["entries"])
    if derived:
        meta["derived"] = derived
    if left_out:
        meta["left_out"] = left_out.to_metadata()
    entries = np.concatenate(columns["entries"])
    entries["index"] = np.arange(len(entries), dtype=np.uint64)
    names = np.concatenate(columns["names"])
    name_offsets = np.zeros(len(entries) + 1, np.uint64)
    sizes = np.concatenate([np.diff(offsets) for offsets in columns["name_offsets"]])
    np.cumsum(sizes, out=name_offsets[1:])
    order = sort_names(names, name_offsets)
    values, offsets = directory_labels(Lookup(entries, names, name_offsets, order), order)
    meta["directories"] = sorted(set(meta["directories"]))
    combined = IndexTable(
        entries=entries,
        label_values=values,
        label_offsets=offsets,
        names=names,
        name_offsets=name_offsets,
        name_order=order,
        files=files,
        meta=meta,
        extra={CHECKPOINTS: np.concatenate(checkpoints)} if checkpoints else {},
    )
    combined.file_signatures = file_signatures
    return combined


class _Shards:
    """The files and views of several tables, numbered as one: all files, then all views."""

    def __init__(self) -> None:
        self._runs: list[dict[str, Any]] = []
        self._view_runs: list[dict[str, Any]] = []
        # By table: how many files and views it has, and its views by number.
        self._counts: list[tuple[int, int]] = []
        self._derived: list[dict[int, DerivedFile]] = []
        self._files = self._views = 0

    def add(self, table: IndexTable, checkpoint_bytes: int) -> None:
        """Add a table, whose checkpoints begin at `checkpoint_bytes`."""
        files = len(table.files)
        views = table.shards - files
        derived = {}
        for number, one in table.derived.items():
            start, stop = one.checkpoints
            moved = (start + checkpoint_bytes, stop + checkpoint_bytes)
            derived[number] = dataclasses.replace(one, checkpoints=moved)
        runs = table.meta["containers"]
        add_container_runs(
            self._runs, [run for run in runs if run["first_file"] < files], self._files
        )
        if views:
            names = [table.container(number) for number in range(files, files + views)]
            for number, container in enumerate(names, self._views):
                run = {"name": container.name, "version": container.version, "first_file": 0}
                add_container_runs(self._view_runs, [run], number)
        self._counts.append((files, views))
        self._derived.append(derived)
        self._files += files
        self._views += views

    def finish(
        self, entries: Sequence[npt.NDArray[Any]]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Number the shards in the rows of each table; return the containers and the views."""
        add_container_runs(self._runs, self._view_runs, self._files)
        described: dict[str, Any] = {}
        first_file, first_view = 0, self._files
        for rows, (files, views), derived in zip(entries, self._counts, self._derived):
            numbers = np.concatenate(
                [first_file + np.arange(files), first_view + np.arange(views)]
            ).astype(np.uint32)
            if first_file or views:
                rows["shard"] = numbers[rows["shard"]]
            for number, one in derived.items():
                if one.parent is not None:
                    one = dataclasses.replace(one, parent=int(numbers[one.parent]))
                described[str(numbers[number])] = one.to_json()
            first_file += files
            first_view += views
        return self._runs, described
