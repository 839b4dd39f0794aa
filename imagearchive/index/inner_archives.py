"""Finds the members of an archive that are archives themselves."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.containers.derived import HEAD_BYTES, DerivedFile, find_stream_format
from imagearchive.containers.registry import archive_stem, find_member_container
from imagearchive.containers.rows import KIND_FILE, METHOD_STORED
from imagearchive.errors import ImageArchiveError, StaleIndexError
from imagearchive.index.freshness import file_changed
from imagearchive.index.lookup import Lookup
from imagearchive.storage.location import locate
from imagearchive.storage.lru import LRUCache
from imagearchive.storage.protocol import UNKNOWN_SIZE

if TYPE_CHECKING:
    from imagearchive.containers.container import Container
    from imagearchive.index.member_table import MemberTable
    from imagearchive.storage.protocol import ReadAheadStorage, Storage

__all__ = [
    "InnerArchive",
    "Level",
    "OpenFiles",
    "begins_with_archive",
    "directory_names",
    "identify",
    "top_level",
]


# Split bins may be more than a process can open.
MAX_OPEN: Final = 16


def begins_with_archive(table: MemberTable) -> bool:
    """Whether the first member of an archive is itself an archive.

    If it is not, ``nested="auto"`` opens none of the others.
    """
    if not len(table) or any(container.members_are_files for container in table.containers):
        return False
    noted = table.meta.get("begins_with_archive")
    if isinstance(noted, bool):
        return noted
    with ExitStack() as stack:
        files = OpenFiles(table, stack)
        level = top_level(table, files)
        return identify(level, table.entries[0], table.name_bytes(0)) is not None


class OpenFiles:
    """The files of an archive, opened when they are used, a few at a time."""

    def __init__(self, table: MemberTable, stack: ExitStack) -> None:
        self._table = table
        # A file is in use only until the next one is asked for.
        self._open: LRUCache[int, ReadAheadStorage] = LRUCache(
            MAX_OPEN, lambda storage: storage.close()
        )
        stack.callback(self._open.clear)

    def __getitem__(self, number: int) -> Storage:
        storage: Storage | None = self._open.get(number)
        if storage is not None:
            return storage
        path = self._table.files[number]
        file = locate(path).open("pread")
        expected = self._table.file_signatures.get(path)
        if expected is not None and expected != (file.size, file.identity):
            file.close()
            raise file_changed(path)
        return self._open.setdefault(number, self._table.open_derived(number, file))


class Level(NamedTuple):
    """An archive whose members are looked at.

    Attributes
    ----------
    entries, names, offsets, order : ndarray
        Its columns. The offsets and shards of the entries are those of the index.
    directories : sequence of bytes
        Its empty directories.
    where : str
        The path of the archive in messages; for the outermost, which may have several files, empty.
    name : str
        The path inside the outermost archive, with a slash at its end; empty for that one.
    prefix : bytes
        What the names begin with in the index.
    depth : int
        0 for the outermost archive.
    storages : OpenFiles or mapping of int to Storage
        What the offsets refer to, by shard.
    container_of : callable
        From a shard to its container.
    """

    entries: npt.NDArray[Any]
    names: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.uint64]
    order: npt.NDArray[np.uint64]
    directories: list[bytes]
    where: str
    name: str
    prefix: bytes
    depth: int
    storages: OpenFiles | Mapping[int, Storage]
    container_of: Callable[[int], Container]

    def name_of(self, row: int) -> bytes:
        """Return the name of a member in its archive."""
        return self.names[int(self.offsets[row]) : int(self.offsets[row + 1])].tobytes()


class InnerArchive(NamedTuple):
    """How a member is an archive.

    Attributes
    ----------
    container : Container
    views : list of DerivedFile
        How to decompress it, from the outside in; empty if it is stored as it is.
    """

    container: Container
    views: list[DerivedFile]


def top_level(table: MemberTable, files: OpenFiles) -> Level:
    """Return the archive itself."""
    return Level(
        table.entries,
        table.names,
        table.name_offsets,
        table.name_order,
        [os.fsencode(name) for name in table.directories],
        "",
        "",
        b"",
        0,
        files,
        table.container,
    )


def identify(level: Level, row: Any, name: bytes) -> InnerArchive | None:
    """Return how a member is an archive, or None if it is not.

    The first bytes tell, so an archive behind a prefix, and an empty TAR, are files.
    """
    if row["kind"] != KIND_FILE or not row["size"]:
        return None
    shard = int(row["shard"])
    offset, size, stored_size = int(row["offset"]), int(row["size"]), int(row["stored_size"])
    storage = level.storages[shard]
    compressed = level.container_of(shard).compressed_member(row)
    if compressed is None and row["method"] != METHOD_STORED:
        return None
    path = level.name + os.fsdecode(name)
    views = []
    try:
        if compressed is None:
            head = bytes(storage.read(offset, min(HEAD_BYTES, size)))
        else:
            format, crc = compressed
            view = DerivedFile(format, stored_size, size, (0, 0), shard, offset, crc, path)
            views.append(view)
            head = _head(view, storage, path)
        container = find_member_container(head)
        if container is None:
            stream_format = find_stream_format(head)
            if stream_format is None:
                return None
            if views:
                # Imported here, because few members are compressed twice.
                from imagearchive.storage.compressed import CompressedStorage

                storage = CompressedStorage(views[0].stream(storage, path))
                offset, stored_size = 0, size
            view = DerivedFile(
                stream_format.name, stored_size, UNKNOWN_SIZE, (0, 0), shard, offset, 0, path
            )
            views.append(view)
            container = find_member_container(_head(view, storage, path))
    except StaleIndexError:
        raise
    except ImageArchiveError:
        # Reading the file tells what is wrong with it.
        return None
    return None if container is None else InnerArchive(container, views)


def _head(view: DerivedFile, storage: Storage, where: str) -> bytes:
    """Return the first bytes of compressed data."""
    decoder = view.stream(storage, where).start()
    head = b""
    while len(head) < HEAD_BYTES and (data := decoder.next(HEAD_BYTES - len(head))):
        head += data
    return head


def directory_names(level: Level, names: list[bytes], keep: bool) -> list[bytes | None]:
    """Return the directory of each archive; None if there is another member in its place."""
    lookup = Lookup(level.entries, level.names, level.offsets, level.order)
    empty = set(level.directories)

    def is_directory(name: bytes) -> bool:
        low, high = lookup.bounds(name + b"/")
        return low < high or name in empty

    stems = [name if keep else os.fsencode(archive_stem(os.fsdecode(name))) for name in names]
    counts: dict[bytes, int] = {}
    for stem in stems:
        counts[stem] = counts.get(stem, 0) + 1
    found: list[bytes | None] = []
    for name, stem in zip(names, stems):
        free = stem == name or lookup.find(stem) < 0
        chosen = stem if free and counts[stem] == 1 and not is_directory(stem) else name
        found.append(None if is_directory(chosen) else chosen)
    return found
