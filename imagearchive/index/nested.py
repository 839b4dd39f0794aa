"""Opens the archives inside an archive: their members become rows of the same index.

The rows of an archive that is stored as it is refer to the file that contains it, so reading them
costs what reading any member costs. Those of a compressed one refer to its decompressed view.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.containers.compressed_scan import scan_stream
from imagearchive.containers.derived import MAX_COMPRESSION, DerivedFile
from imagearchive.containers.registry import all_containers
from imagearchive.containers.rows import RowBuffer
from imagearchive.errors import (
    CorruptArchiveError,
    LimitError,
    UnsupportedArchiveError,
)
from imagearchive.errors.hints import Hint
from imagearchive.index.build import BuiltIndex, directory_labels
from imagearchive.index.freshness import file_changed, fingerprints, signatures
from imagearchive.index.inner_archives import (
    InnerArchive,
    Level,
    OpenFiles,
    directory_names,
    identify,
    top_level,
)
from imagearchive.index.lookup import Lookup
from imagearchive.index.metadata import CHECKPOINTS, add_container_runs
from imagearchive.index.names import gather, sort_names
from imagearchive.index.nesting import MAX_DEPTH
from imagearchive.index.resolve import resolve
from imagearchive.storage.compressed import CompressedStorage
from imagearchive.storage.limits import RATIO_FLOOR
from imagearchive.storage.location import locate
from imagearchive.storage.slice import SliceStorage

if TYPE_CHECKING:
    from imagearchive.containers.container import Container
    from imagearchive.index.member_table import MemberTable
    from imagearchive.index.nesting import Nesting
    from imagearchive.storage.protocol import Storage

__all__ = ["build_nested"]

logger = logging.getLogger(__name__)

# How many archives are opened inside one. A small archive with many was made to exhaust time.
MAX_ARCHIVES: Final = 1 << 16
_FEW_ARCHIVES: Final = 1 << 12
# No archive in a ZIP takes less of it, with its headers.
_LEAST_BYTES: Final = 64
# Links to archives repeat their members: this many times those of the others, and a few more.
_REPEATS: Final = 16
_MORE_ROWS: Final = 1 << 16

_AS_FILES: Final = Hint("nested=False", "to read the archives inside it as files")
_OTHERS: Final = Hint("strict=False", "to read what is not damaged")


def build_nested(table: MemberTable, nesting: Nesting, strict: bool) -> BuiltIndex:
    """Return the index of an archive and the archives inside it.

    Parameters
    ----------
    table : MemberTable
        The index of the archive itself.
    nesting : Nesting
    strict : bool
        Whether damage is an error. Otherwise the members before it are kept, and an archive that
        cannot be read at all remains a file.

    Raises
    ------
    CorruptArchiveError, UnsupportedArchiveError
        An archive inside cannot be read; the message begins with its path.
    LimitError
        There are too many of them, or they decompress to too much.
    StaleIndexError
        The archive changed since its own index was opened.
    """
    with ExitStack() as stack:
        return _Builder(table, nesting, strict, OpenFiles(table, stack)).build()


class _Builder:
    """Collects the rows of an archive and of those inside it, in archive order."""

    def __init__(
        self, table: MemberTable, nesting: Nesting, strict: bool, files: OpenFiles
    ) -> None:
        self._table = table
        self._nesting = nesting
        self._strict = strict
        self._files = files
        self._parts: list[DerivedFile] = []
        self._part_containers: list[Container] = []
        # The shard of another container format in the same file or view.
        self._shared: dict[tuple[int, str], int] = {}
        # The container and the file or view of each shard.
        self._containers: dict[int, Container] = {}
        self._canonical: dict[int, int] = {}
        self._checkpoints: list[bytes] = []
        self._checkpoint_bytes = len(table.extra.get(CHECKPOINTS, b""))
        self._entries: list[npt.NDArray[Any]] = []
        self._names: list[npt.NDArray[np.uint8]] = []
        self._sizes: list[npt.NDArray[np.uint64]] = []
        self._directories: list[bytes] = []
        self._left_out = table.left_out
        self._damage: str | None = table.meta.get("damage")
        self._damages = 0
        self._found = 0
        self._archives = 0
        self._too_deep = 0
        self._deepest = 0
        self._seen: set[tuple[int, int]] = set()
        self._rows = self._repeated_rows = self._prefix_bytes = self._decompressed = 0
        held = sum(one[0] for one in signatures([locate(file) for file in table.files]) if one)
        self._most_archives = min(MAX_ARCHIVES, _FEW_ARCHIVES + held // _LEAST_BYTES)
        self._most_names = max(RATIO_FLOOR, held)
        self._most_decompressed = max(RATIO_FLOOR, held * MAX_COMPRESSION)

    # --- the result -------------------------------------------------------------------------

    def build(self) -> BuiltIndex:
        table = self._table
        self._add_level(top_level(table, self._files))
        if self._too_deep:
            logger.warning(
                "%s: %d archives more than %d levels deep are left as files",
                table.files[0],
                self._too_deep,
                self._nesting.depth,
            )
        entries = np.concatenate([table.entries[:0], *self._entries])
        entries["index"] = np.arange(len(entries), dtype=np.uint64)
        names = np.concatenate([table.names[:0], *self._names])
        offsets = np.zeros(len(entries) + 1, np.uint64)
        np.cumsum(np.concatenate([offsets[:0], *self._sizes]), out=offsets[1:])
        order = sort_names(names, offsets)
        values, label_offsets = directory_labels(Lookup(entries, names, offsets, order), order)
        columns = {
            "entries": entries,
            "label_values": values,
            "label_offsets": label_offsets,
            "names": names,
            "name_offsets": offsets,
            "name_order": order,
        }
        extra = {}
        if self._checkpoints or CHECKPOINTS in table.extra:
            saved = table.extra.get(CHECKPOINTS, np.empty(0, np.uint8))
            added = np.frombuffer(b"".join(self._checkpoints), np.uint8)
            extra[CHECKPOINTS] = np.concatenate([saved, added])
        known = dict(table.file_signatures)
        meta = self._metadata(entries)
        now = signatures([locate(file) for file in table.files])
        for file, signature in zip(table.files, now):
            if known.get(file, signature) != signature:
                raise file_changed(file)
        unchanged = table.unchanged_during_scan
        return BuiltIndex(columns, list(table.files), meta, extra, known, unchanged)

    def _metadata(self, entries: npt.NDArray[Any]) -> dict[str, Any]:
        table = self._table
        locations = [locate(file) for file in table.files]
        archives = table.meta["archives"]
        compressed = bool(self._parts) or any(one.get("compressed") for one in archives)
        prints = fingerprints(
            locations, entries, [int(one.get("end", 0)) for one in archives], compressed=compressed
        )
        runs = [dict(run) for run in table.meta["containers"]]
        for number, container in enumerate(self._part_containers, len(table.files)):
            run = {"name": container.name, "version": container.version, "first_file": 0}
            add_container_runs(runs, [run], number)
        meta: dict[str, Any] = {
            "containers": runs,
            "archives": [{"path": old["path"], **new} for old, new in zip(archives, prints)],
            "directories": sorted(
                name.decode("utf-8", "surrogateescape") for name in set(self._directories)
            ),
            "nested": {
                **self._nesting.to_metadata(),
                "archives": self._archives,
                "deepest": self._deepest,
            },
        }
        if self._left_out:
            meta["left_out"] = self._left_out.to_metadata()
        if self._damage:
            meta["damage"] = self._damage
        derived = {**table.derived, **dict(enumerate(self._parts, len(table.files)))}
        if derived:
            meta["derived"] = {str(number): one.to_json() for number, one in derived.items()}
        return meta

    # --- levels -----------------------------------------------------------------------------

    def _add_level(self, level: Level) -> None:
        """Add the rows of an archive, and in their place those of the archives inside it.

        It calls itself once for each level, of which there are at most `Nesting.depth`.
        """
        self._directories += [level.prefix + name for name in level.directories]
        start = 0
        for row, inner, directory in self._inner_archives(level):
            child = self._open(level, row, inner, directory)
            if child is None:
                continue
            self._add_rows(level, start, row)
            start = row + 1
            self._archives += 1
            self._deepest = max(self._deepest, child.depth)
            if not len(child.entries) and not child.directories:
                self._directories.append(child.prefix[:-1])
            self._add_level(child)
        self._add_rows(level, start, len(level.entries))

    def _add_rows(self, level: Level, start: int, stop: int) -> None:
        """Add rows of an archive that are not archives."""
        if start == stop:
            return
        rows = np.arange(start, stop, dtype=np.uint64)
        names, offsets = gather(level.names, level.offsets, rows, level.prefix)
        self._entries.append(level.entries[start:stop])
        self._names.append(names)
        self._sizes.append(np.diff(offsets))

    def _inner_archives(self, level: Level) -> list[tuple[int, InnerArchive, bytes]]:
        """Return the members that are archives: row, kind, and name of the directory."""
        found: list[tuple[int, InnerArchive]] = []
        auto = self._nesting.auto
        if level.depth == self._nesting.depth < MAX_DEPTH:
            return []
        for row in range(len(level.entries)):
            inner = identify(level, level.entries[row], level.name_of(row))
            if inner is not None:
                found.append((row, inner))
            elif auto:
                return []
        if level.depth == self._nesting.depth:
            self._too_deep += len(found)
            return []
        self._found += len(found)
        if self._found > self._most_archives:
            if auto and not level.depth:
                logger.info(
                    "%s: its %d archives are left as files", self._table.files[0], len(found)
                )
                return []
            raise LimitError(
                f"{level.where or self._table.files[0]}: more than {self._most_archives} archives "
                f"within one archive",
                hints=[_AS_FILES],
            )
        names = [level.name_of(row) for row, _ in found]
        directories = directory_names(level, names, self._nesting.keep)
        return [
            (row, inner, directory)
            for (row, inner), directory in zip(found, directories)
            if directory is not None
        ]

    def _open(self, level: Level, row: int, inner: InnerArchive, directory: bytes) -> Level | None:
        """Scan an archive inside an archive; None if it cannot be read, and that is no error."""
        entry = level.entries[row]
        shard = int(entry["shard"])
        name = os.fsdecode(level.name_of(row))
        where = f"{level.where or self._table.files[shard]}/{name}"
        damages = self._damages
        try:
            rows, container, base, shard, storage = self._scan(level, entry, inner, where)
        except (CorruptArchiveError, UnsupportedArchiveError) as error:
            if self._strict:
                raise type(error)(error.message, hints=[_OTHERS, _AS_FILES]) from error
            self._add_damage(error.message)
            return None
        if not rows.rows and self._damages > damages:
            return None
        resolved = resolve(rows)
        entries = resolved.entries
        root = self._root(shard)
        for reason, mask in container.unreadable(entries).items():
            resolved.left_out.add_rows(
                resolved.names, resolved.name_offsets, mask, reason, entries["shard"]
            )
        prefix = level.prefix + directory + b"/"
        self._count_names((len(entries) + len(resolved.directories) + 1) * len(prefix), where)
        self._left_out.extend(resolved.left_out, root, prefix.decode("utf-8", "surrogateescape"))
        entries["offset"] += np.uint64(base)
        entries["header_offset"] += np.uint64(base)
        entries["shard"] = shard
        self._count_rows((int(entry["shard"]), int(entry["offset"])), len(entries), where)
        storages = {shard: storage}
        return Level(
            entries,
            resolved.names,
            resolved.name_offsets,
            resolved.name_order,
            resolved.directories,
            where,
            f"{level.name}{name}/",
            prefix,
            level.depth + 1,
            storages,
            {shard: container}.__getitem__,
        )

    def _count_names(self, size: int, where: str) -> None:
        """Limit the directories in the names of members, which every member repeats."""
        self._prefix_bytes += size
        if self._prefix_bytes > self._most_names:
            raise LimitError(
                f"{where}: the names of the members of archives within archives take more than "
                f"{self._most_names} bytes",
                hints=[_AS_FILES],
            )

    def _count_rows(self, place: tuple[int, int], count: int, where: str) -> None:
        """Limit how often links to archives repeat their members."""
        if place not in self._seen:
            self._seen.add(place)
            self._rows += count
            return
        self._repeated_rows += count
        if self._repeated_rows > _REPEATS * self._rows + _MORE_ROWS:
            raise LimitError(
                f"{where}: links to archives would repeat their members "
                f"{self._repeated_rows} times",
                hints=[_AS_FILES],
            )

    # --- scanning ---------------------------------------------------------------------------

    def _scan(
        self, level: Level, entry: Any, inner: InnerArchive, where: str
    ) -> tuple[RowBuffer, Container, int, int, Storage]:
        """Scan an archive; return its rows, their container, base, and shard, and the storage."""
        outer = int(entry["shard"])
        storage = level.storages[outer]
        if not inner.views:
            base = int(entry["offset"])
            inside = SliceStorage(storage, base, int(entry["size"]), where)
            rows = self._scan_storage(inner.container, inside)
            return (
                rows,
                inner.container,
                base,
                self._shard(outer, inner.container, storage),
                storage,
            )
        parent = self._canonical.get(outer, outer)
        for view in inner.views[:-1]:
            parent, storage = self._decompress(view, parent, storage, where)
        view = dataclasses.replace(inner.views[-1], parent=parent)
        found = scan_stream(
            view, storage, where, all_containers(), self._check_decompressed, self._strict
        )
        if found.damage is not None:
            self._add_damage(found.damage)
        self._decompressed += found.view.size
        storage = CompressedStorage(found.view.stream(storage, where), found.checkpoints)
        container = found.container or inner.container
        rows = found.rows or self._scan_storage(container, storage)
        return rows, container, 0, self._add_view(found.view, container, found.checkpoints), storage

    def _scan_storage(self, container: Container, storage: Storage) -> RowBuffer:
        try:
            return container.scan(storage, True)
        except CorruptArchiveError as error:
            if self._strict:
                raise
            rows = container.scan(storage, False)
            self._add_damage(error.message)
            return rows

    def _decompress(
        self, view: DerivedFile, parent: int, storage: Storage, where: str
    ) -> tuple[int, Storage]:
        """Add the view of a member that is compressed once more inside."""
        self._check_decompressed(view.size)
        self._decompressed += view.size
        inside = CompressedStorage(view.stream(storage, where))
        checkpoints = inside.build_checkpoints()
        view = dataclasses.replace(view, parent=parent, checkpoints=(0, len(checkpoints)))
        return self._add_view(view, None, checkpoints), inside

    def _check_decompressed(self, size: int) -> None:
        if self._decompressed + size > self._most_decompressed:
            raise LimitError(
                f"{self._table.files[0]}: the archives within it decompress to more than "
                f"{MAX_COMPRESSION} times its size",
                hints=[_AS_FILES],
            )

    def _add_damage(self, message: str) -> None:
        logger.warning("%s", message)
        self._damage = self._damage or message
        self._damages += 1

    # --- shards -----------------------------------------------------------------------------

    def _shard(self, outer: int, container: Container, storage: Storage) -> int:
        """Return the shard of a container format in the same file or view as another shard."""
        file = self._canonical.get(outer, outer)
        if (self._containers.get(file) or self._table.container(file)) is container:
            return file
        shard = self._shared.get((file, container.name))
        if shard is None:
            same = DerivedFile("", storage.size, storage.size, (0, 0), file)
            shard = self._add_part(same, container)
            self._shared[file, container.name] = shard
            self._canonical[shard] = file
        return shard

    def _add_view(self, view: DerivedFile, container: Container | None, checkpoints: bytes) -> int:
        start = self._checkpoint_bytes
        self._checkpoint_bytes += len(checkpoints)
        self._checkpoints.append(checkpoints)
        view = dataclasses.replace(view, checkpoints=(start, self._checkpoint_bytes))
        return self._add_part(view, container or self._table.containers[0])

    def _add_part(self, part: DerivedFile, container: Container) -> int:
        number = len(self._table.files) + len(self._parts)
        self._parts.append(part)
        self._part_containers.append(container)
        self._containers[number] = container
        return number

    def _root(self, shard: int) -> int:
        """Return the number of the file that contains a shard."""
        files = len(self._table.files)
        while shard >= files:
            parent = self._parts[shard - files].parent
            assert parent is not None
            shard = parent
        return shard
