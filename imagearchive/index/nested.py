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

from imagearchive.errors import (
    CorruptArchiveError,
    LimitError,
    UnsupportedArchiveError,
)
from imagearchive.errors.hints import Hint
from imagearchive.errors.plurals import pluralize
from imagearchive.index.build import BuiltIndex, directory_labels
from imagearchive.index.freshness import file_changed, fingerprints, signatures
from imagearchive.index.inner_archives import (
    InnerArchive,
    OpenFiles,
    identify,
)
from imagearchive.index.inner_scan import AS_FILES, InnerScanner, ScannedArchive
from imagearchive.index.levels import Level, directory_names, top_level
from imagearchive.index.lookup import Lookup
from imagearchive.index.metadata import CHECKPOINTS, add_container_runs
from imagearchive.index.name_order import sort_names
from imagearchive.index.names import gather
from imagearchive.index.nested_shards import Shards
from imagearchive.index.nesting import MAX_DEPTH
from imagearchive.storage.compressed import CompressedStorage
from imagearchive.storage.limits import RATIO_FLOOR
from imagearchive.storage.location import locate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagearchive.index.member_table import MemberTable
    from imagearchive.index.nesting import Nesting
    from imagearchive.storage.progress import Progress
    from imagearchive.storage.protocol import Storage

__all__ = ["build_nested"]

logger = logging.getLogger(__name__)

# Links to archives repeat their members: this many times those of the others, and a few more.
_REPEATS: Final = 16
_MORE_ROWS: Final = 1 << 16

_OTHERS: Final = Hint("strict=False", "to read what is not damaged")


def build_nested(
    table: MemberTable,
    nesting: Nesting,
    strict: bool,
    progress: Progress | None = None,
    scanner: InnerScanner | None = None,
) -> BuiltIndex:
    """Return the index of an archive and the archives inside it.

    Parameters
    ----------
    table : MemberTable
        The index of the archive itself.
    nesting : Nesting
    strict : bool
        Whether damage is an error. Otherwise the members before it are kept, and an archive that
        cannot be read at all remains a file.
    progress : callable, optional
        Called with how many bytes of the archive are done, and with its size; it may raise an
        error to stop.
    scanner : InnerScanner, optional
        What looked at the members of a compressed archive while it was scanned.

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
        return _Builder(table, nesting, strict, OpenFiles(table, stack), progress, scanner).build()


class _Builder:
    """Collects the rows of an archive and of those inside it, in archive order."""

    def __init__(
        self,
        table: MemberTable,
        nesting: Nesting,
        strict: bool,
        files: OpenFiles,
        progress: Progress | None,
        scanner: InnerScanner | None,
    ) -> None:
        self._table = table
        self._nesting = nesting
        self._strict = strict
        self._files = files
        self._shards = Shards(table)
        self._entries: list[npt.NDArray[Any]] = []
        self._names: list[npt.NDArray[np.uint8]] = []
        self._sizes: list[npt.NDArray[np.uint64]] = []
        self._directories: list[bytes] = []
        self._left_out = table.left_out
        self._damage: str | None = table.meta.get("damage")
        self._found = 0
        self._archives = 0
        self._too_deep = 0
        self._deepest = 0
        self._seen: set[tuple[int, int]] = set()
        self._rows = self._repeated_rows = self._prefix_bytes = 0
        held = sum(one[0] for one in signatures([locate(file) for file in table.files]) if one)
        self._most_names = max(RATIO_FLOOR, held)
        self._progress = progress
        self._held = held
        self._done = 0
        self._scanner = scanner or InnerScanner(nesting, table.files[0], held)
        files.share_spans(self._scanner.spans)

    # --- the result -------------------------------------------------------------------------

    def build(self) -> BuiltIndex:
        table = self._table
        if self._scanner.members is None and 0 in table.compressed:
            self._look_at_all()
        self._add_level(top_level(table, self._files, self._scanner.members))
        if self._too_deep:
            logger.warning(
                "%s: %s left as files, more than %s deep",
                table.files[0],
                pluralize(self._too_deep, "archive is", "archives are"),
                pluralize(self._nesting.depth, "level"),
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
        if self._shards.checkpoints or CHECKPOINTS in table.extra:
            saved = table.extra.get(CHECKPOINTS, np.empty(0, np.uint8))
            added = np.frombuffer(b"".join(self._shards.checkpoints), np.uint8)
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
        compressed = bool(self._shards.parts) or any(one.get("compressed") for one in archives)
        prints = fingerprints(
            locations, entries, [int(one.get("end", 0)) for one in archives], compressed=compressed
        )
        runs = [dict(run) for run in table.meta["containers"]]
        for number, container in enumerate(self._shards.part_containers, len(table.files)):
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
        derived = {**table.derived, **dict(enumerate(self._shards.parts, len(table.files)))}
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
            if not level.depth:
                self._done = max(self._done, self._place(level.entries[row], end=True))
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

    def _look_at_all(self) -> None:
        """Scan the archives inside a compressed archive in one pass."""
        table = self._table
        visit = self._scanner.look(table.container(0), self._files[0])
        members = self._scanner.members
        if visit is None or members is None:
            return
        _, rows = np.unique(table.entries["offset"], return_index=True)
        for row in rows.tolist():
            members.look(table.entries[row], table.name_bytes(row))
            self._done = self._place(table.entries[row], end=True)
            self._report(self._done)

    def _inner_archives(
        self, level: Level
    ) -> list[tuple[int, InnerArchive | ScannedArchive, bytes]]:
        """Return the members that are archives: row, kind, and name of the directory."""
        found: list[tuple[int, InnerArchive | ScannedArchive]] = []
        auto = self._nesting.auto
        if level.depth == self._nesting.depth < MAX_DEPTH:
            return []
        for row in self._rows_to_look_at(level):
            self._report(self._done)
            inner = self._identify(level, row)
            if inner is not None:
                found.append((row, inner))
            elif auto:
                return []
        if level.depth == self._nesting.depth:
            self._too_deep += len(found)
            return []
        self._found += len(found)
        if self._found > self._scanner.most_archives or self._scanner.is_full:
            if auto and not level.depth:
                kept = pluralize(len(found), "archive in it is", "archives in it are")
                logger.info("%s: %s left as files", self._table.files[0], kept)
                return []
            raise LimitError(
                f"{level.where or self._table.files[0]}: more than "
                f"{self._scanner.most_archives} archives "
                f"within one archive",
                hints=[AS_FILES],
            )
        names = [level.name_of(row) for row, _ in found]
        directories = directory_names(level, names, self._nesting.keep)
        return [
            (row, inner, directory)
            for (row, inner), directory in zip(found, directories)
            if directory is not None
        ]

    def _rows_to_look_at(self, level: Level) -> Sequence[int]:
        """Return the rows that may be archives; none if ``nested="auto"`` opens none of them."""
        members = level.members
        every = range(len(level.entries))
        if members is None:
            return every
        if members.file is not None:
            # Unless it is not in the table, because another member replaces it.
            offsets = level.entries["offset"]
            return [] if np.any(offsets == members.file + level.base) else every
        found = members.find(level.entries, level.base)
        if self._nesting.auto and not found.all():
            return []
        rows: list[int] = np.flatnonzero(found).tolist()
        return rows

    def _identify(self, level: Level, row: int) -> InnerArchive | ScannedArchive | None:
        """Return how a member is an archive, or None if it is not."""
        entry = level.entries[row]
        if level.members is not None:
            scanned = level.members.archives.get(int(entry["offset"]) - level.base)
            if scanned is not None:
                return scanned
        shard = int(entry["shard"])
        path = level.name + os.fsdecode(level.name_of(row))
        return identify(level.storages[shard], level.container_of(shard), entry, path)

    def _open(
        self, level: Level, row: int, inner: InnerArchive | ScannedArchive, directory: bytes
    ) -> Level | None:
        """Scan an archive inside an archive; None if it cannot be read, and that is no error."""
        entry = level.entries[row]
        outer = int(entry["shard"])
        name = os.fsdecode(level.name_of(row))
        where = f"{level.where or self._table.files[outer]}/{name}"
        storage = level.storages[outer]
        if isinstance(inner, InnerArchive):
            scanned = self._scan(inner, storage, entry, where, level, name)
        else:
            scanned = inner
        if scanned is None:
            return None
        container, resolved = scanned.container, scanned.resolved
        if scanned.damage is not None and not len(resolved.entries) and not resolved.directories:
            return None
        if scanned.views:
            base, parent = 0, self._shards.file_of(outer)
            offset = int(entry["offset"])
            for number, (view, checkpoints) in enumerate(scanned.views, 1):
                view = dataclasses.replace(
                    view, parent=parent, offset=offset, name=level.name + name
                )
                is_last = number == len(scanned.views)
                parent = self._shards.add_view(view, container if is_last else None, checkpoints)
                storage, offset = self._scanner.open_view(view, storage, where, checkpoints), 0
            shard = parent
        else:
            base, shard = int(entry["offset"]), self._shards.of_container(outer, container, storage)
        # Another member may be the same archive.
        entries = resolved.entries.copy()
        root = self._shards.root(shard)
        prefix = level.prefix + directory + b"/"
        self._count_names((len(entries) + len(resolved.directories) + 1) * len(prefix), where)
        self._left_out.extend(resolved.left_out, root, prefix.decode("utf-8", "surrogateescape"))
        entries["offset"] += np.uint64(base)
        entries["header_offset"] += np.uint64(base)
        entries["shard"] = shard
        self._count_rows((outer, int(entry["offset"])), len(entries), where)
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
            {shard: storage},
            {shard: container}.__getitem__,
            scanned.members,
            base,
        )

    def _scan(
        self,
        inner: InnerArchive,
        storage: Storage,
        entry: Any,
        where: str,
        level: Level,
        name: str,
    ) -> ScannedArchive | None:
        """Scan an archive; None if it cannot be read, and that is no error."""
        progress: Progress | None = None
        if not level.depth:
            start = self._place(entry)

            def progress(done: int, total: int) -> None:
                self._report(max(self._done, start + done))

        try:
            scanned = self._scanner.scan(
                inner,
                storage,
                entry,
                where,
                level.name + name,
                level.depth + 1,
                strict=self._strict,
                look=isinstance(storage, CompressedStorage),
                progress=progress,
            )
        except (CorruptArchiveError, UnsupportedArchiveError) as error:
            if self._strict:
                raise type(error)(error.message, hints=[_OTHERS, AS_FILES]) from error
            self._add_damage(error.message)
            return None
        if scanned.damage is not None:
            self._add_damage(scanned.damage)
        return scanned

    def _place(self, entry: Any, end: bool = False) -> int:
        """Return where a member of the outermost archive is in its file, nearly if compressed."""
        place = int(entry["offset"]) + (int(entry["stored_size"]) if end else 0)
        view = self._table.compressed.get(int(entry["shard"]))
        return place if view is None else place * view.stored_size // max(view.size, 1)

    def _report(self, done: int) -> None:
        if self._progress is not None:
            self._progress(min(done, self._held), self._held)

    def _count_names(self, size: int, where: str) -> None:
        """Limit the directories in the names of members, which every member repeats."""
        self._prefix_bytes += size
        if self._prefix_bytes > self._most_names:
            raise LimitError(
                f"{where}: the names of the members of archives within archives take more than "
                f"{pluralize(self._most_names, 'byte')}",
                hints=[AS_FILES],
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
                hints=[AS_FILES],
            )

    def _add_damage(self, message: str) -> None:
        logger.warning("%s", message)
        self._damage = self._damage or message
