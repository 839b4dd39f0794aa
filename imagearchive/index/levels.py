"""The members of one archive, on their way to the index of an archive with archives inside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.containers.registry import archive_stem
from imagearchive.index.lookup import Lookup

if TYPE_CHECKING:
    from imagearchive.containers.container import Container
    from imagearchive.index.inner_archives import OpenFiles
    from imagearchive.index.inner_scan import InnerMembers
    from imagearchive.index.member_table import MemberTable
    from imagearchive.storage.protocol import Storage

__all__ = ["Level", "directory_names", "top_level"]


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
    members : InnerMembers or None
        What is known of its members.
    base : int
        What to subtract from the offsets of the entries to find a member there.
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
    members: InnerMembers | None = None
    base: int = 0

    def name_of(self, row: int) -> bytes:
        """Return the name of a member in its archive."""
        return self.names[int(self.offsets[row]) : int(self.offsets[row + 1])].tobytes()


def top_level(table: MemberTable, files: OpenFiles, members: InnerMembers | None) -> Level:
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
        members,
    )


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
