"""The shards of an index with archives inside the archive: files, and views of parts of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from imagearchive.containers.derived import DerivedFile
from imagearchive.index.metadata import CHECKPOINTS

if TYPE_CHECKING:
    from imagearchive.containers.container import Container
    from imagearchive.index.member_table import MemberTable
    from imagearchive.storage.protocol import Storage

__all__ = ["Shards"]


class Shards:
    """Numbers what the rows of an index refer to.

    The files of the archive come first. A decompressed view is a shard of its own, and so is a
    second container format in the same file or view.

    Parameters
    ----------
    table : MemberTable
        The index of the archive itself.

    Attributes
    ----------
    parts : list of DerivedFile
        The shards after the files.
    part_containers : list of Container
        The container format of each of them.
    checkpoints : list of bytes
        Their checkpoints, which follow those of the archive.
    """

    def __init__(self, table: MemberTable) -> None:
        self.parts: list[DerivedFile] = []
        self.part_containers: list[Container] = []
        self.checkpoints: list[bytes] = []
        self._table = table
        # The shard of another container format in the same file or view.
        self._shared: dict[tuple[int, str], int] = {}
        # The container and the file or view of each shard.
        self._containers: dict[int, Container] = {}
        self._canonical: dict[int, int] = {}
        self._checkpoint_bytes = len(table.extra.get(CHECKPOINTS, b""))

    def file_of(self, shard: int) -> int:
        """Return the shard of the same file or view that was the first."""
        return self._canonical.get(shard, shard)

    def of_container(self, outer: int, container: Container, storage: Storage) -> int:
        """Return the shard of a container format in the same file or view as another shard."""
        file = self.file_of(outer)
        if (self._containers.get(file) or self._table.container(file)) is container:
            return file
        shard = self._shared.get((file, container.name))
        if shard is None:
            same = DerivedFile("", storage.size, storage.size, (0, 0), file)
            shard = self._add(same, container)
            self._shared[file, container.name] = shard
            self._canonical[shard] = file
        return shard

    def add_view(self, view: DerivedFile, container: Container | None, checkpoints: bytes) -> int:
        """Add a decompressed view with its checkpoints; return its shard."""
        start = self._checkpoint_bytes
        self._checkpoint_bytes += len(checkpoints)
        self.checkpoints.append(checkpoints)
        view = dataclasses.replace(view, checkpoints=(start, self._checkpoint_bytes))
        return self._add(view, container or self._table.containers[0])

    def _add(self, part: DerivedFile, container: Container) -> int:
        number = len(self._table.files) + len(self.parts)
        self.parts.append(part)
        self.part_containers.append(container)
        self._containers[number] = container
        return number

    def root(self, shard: int) -> int:
        """Return the number of the file that contains a shard."""
        files = len(self._table.files)
        while shard >= files:
            parent = self.parts[shard - files].parent
            assert parent is not None
            shard = parent
        return shard
