"""Scans archives inside an archive, those of a compressed one while it is decompressed.

What is read from start to end, once, allows no jumps. So an archive that needs them, such as a ZIP,
whose table is at its end, is only noted there, and scanned later.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.containers.compressed_scan import Look, scan_members, scan_stream
from imagearchive.containers.derived import MAX_COMPRESSION, stream_format_named
from imagearchive.containers.registry import all_containers
from imagearchive.containers.rows import KIND_FILE
from imagearchive.errors import (
    CorruptArchiveError,
    ImageArchiveError,
    LimitError,
    StaleIndexError,
)
from imagearchive.errors.hints import Hint
from imagearchive.errors.plurals import pluralize
from imagearchive.index.inner_archives import identify
from imagearchive.index.nesting import MAX_DEPTH
from imagearchive.index.resolve import resolve
from imagearchive.storage.checkpoints import CheckpointBuilder
from imagearchive.storage.compressed import CompressedStorage, build_checkpoints
from imagearchive.storage.limits import RATIO_FLOOR
from imagearchive.storage.protocol import ForwardReadError
from imagearchive.storage.slice import SliceStorage
from imagearchive.storage.span_cache import SpanCache
from imagearchive.storage.stream_format import ForwardStorage

if TYPE_CHECKING:
    from imagearchive.containers.compressed_scan import ScannedStream
    from imagearchive.containers.container import Container, Visit
    from imagearchive.containers.derived import DerivedFile
    from imagearchive.containers.rows import RowBuffer
    from imagearchive.index.inner_archives import InnerArchive
    from imagearchive.index.nesting import Nesting
    from imagearchive.index.resolve import Resolved
    from imagearchive.storage.progress import Progress
    from imagearchive.storage.protocol import Storage

__all__ = ["AS_FILES", "MAX_ARCHIVES", "InnerMembers", "InnerScanner", "ScannedArchive"]

#: The hint for archives that are not to be opened.
AS_FILES: Final = Hint("nested=False", "to read the archives inside it as files")

#: How many archives are opened inside one. A small archive with many was made to exhaust time.
MAX_ARCHIVES: Final = 1 << 16
_FEW_ARCHIVES: Final = 1 << 12
# No archive in a ZIP takes less of it, with its headers.
_LEAST_BYTES: Final = 64
# How much of compressed archives is kept, so that the jumps of a scan decompress nothing twice.
_KEPT: Final = 32 << 20


class ScannedArchive(NamedTuple):
    """An archive inside an archive.

    Attributes
    ----------
    container : Container
    resolved : Resolved
        Its members, whose offsets refer to the archive or, if it is compressed, to its output.
    views : list of (DerivedFile, bytes)
        How it was decompressed, from the outside in, with the checkpoints; empty if it is stored.
    members : InnerMembers or None
        What is known of the archives inside it.
    damage : str or None
        The error that ended the scan, if ``strict=False``.
    """

    container: Container
    resolved: Resolved
    views: list[tuple[DerivedFile, bytes]]
    members: InnerMembers | None
    damage: str | None


class InnerScanner:
    """Scans the archives inside an archive, of all levels.

    Parameters
    ----------
    nesting : Nesting
    path : str
        The path of the archive.
    size : int
        Its length in bytes, which the number of archives inside and their output depend on.

    Attributes
    ----------
    members : InnerMembers or None
        What is known of the archives inside it, if it was visited as a whole.
    most_archives : int
    is_full : bool
        Whether there are more archives, so that no further members were looked at.
    spans : SpanCache
        What compressed archives keep while they are scanned.
    """

    def __init__(self, nesting: Nesting, path: str, size: int) -> None:
        self.nesting = nesting
        self.members: InnerMembers | None = None
        self.most_archives = min(MAX_ARCHIVES, _FEW_ARCHIVES + size // _LEAST_BYTES)
        self.is_full = False
        self.spans = SpanCache(_KEPT)
        self._path = path
        self._archives = self._decompressed = 0
        self._most_decompressed = max(RATIO_FLOOR, size * MAX_COMPRESSION)

    def look(self, container: Container, storage: Storage) -> Visit | None:
        """Look at the members of the archive itself while it is decompressed; see `Look`."""
        self.is_full = False
        self._archives = self._decompressed = 0
        forward = isinstance(storage, ForwardStorage)
        self.members = self.inside(container, storage, self._path, "", 0, forward)
        return None if self.members is None else self.members.visit

    def inside(
        self,
        container: Container,
        storage: Storage,
        where: str,
        path: str,
        depth: int,
        forward: bool,
    ) -> InnerMembers | None:
        """Return the members of an archive, before they are looked at; None if they are not to be.

        Parameters
        ----------
        container : Container
        storage : Storage
            What the offsets of its members refer to.
        where : str
            Its path in messages.
        path : str
            Its path inside the outermost archive, with a slash at its end; empty for that one.
        depth : int
            0 for the outermost archive.
        forward : bool
            Whether the storage is read once, from start to end.
        """
        if depth == self.nesting.depth < MAX_DEPTH:
            return None
        return InnerMembers(self, container, storage, where, path, depth, forward)

    def count(self) -> None:
        """Count an archive."""
        self._archives += 1
        self.is_full = self._archives > self.most_archives

    def scan(
        self,
        inner: InnerArchive,
        storage: Storage,
        entry: Any,
        where: str,
        path: str,
        depth: int,
        *,
        strict: bool = True,
        forward: bool = False,
        look: bool = True,
        progress: Progress | None = None,
    ) -> ScannedArchive:
        """Scan an archive inside an archive.

        Parameters
        ----------
        inner : InnerArchive
        storage : Storage
            What contains it.
        entry : record of ENTRY_DTYPE
            Where it is.
        where, path : str
            Its path in messages, and that inside the outermost archive.
        depth : int
            1 for those inside the outermost archive.
        strict : bool
            Whether damage is an error. Otherwise the members before it are returned.
        forward : bool
            Whether the storage is read once, from start to end.
        look : bool
            Whether to look at the members of a stored archive meanwhile.
        progress : callable, optional
            Called while a compressed archive is decompressed.

        Raises
        ------
        ForwardReadError
            The storage is read once, and the archive needs jumps.
        CorruptArchiveError, UnsupportedArchiveError, LimitError
            The archive cannot be read.
        """
        seen: list[InnerMembers | None] = []

        def look_inside(container: Container, output: Storage) -> Visit | None:
            once = forward or isinstance(output, ForwardStorage)
            members = self.inside(container, output, where, f"{path}/", depth, once)
            seen[:] = [members]
            return None if members is None else members.visit

        if inner.views:
            views, found = self._scan_views(
                inner.views, storage, where, strict, look_inside, forward, progress
            )
            container, rows, damage = found.container, found.rows, found.damage
            if container is None or rows is None:
                for view, checkpoints in views:
                    storage = self.open_view(view, storage, where, checkpoints)
                container = inner.container
                rows, damage = _scan_leniently(container, storage, strict, look_inside)
        else:
            container, views = inner.container, []
            stored = _Stored(storage, int(entry["offset"]), int(entry["size"]), where)
            looking = look_inside if look else None
            rows, damage = _scan_leniently(container, stored, strict, looking)
        resolved = resolve(rows)
        for reason, mask in container.unreadable(resolved.entries).items():
            resolved.left_out.add_rows(
                resolved.names, resolved.name_offsets, mask, reason, resolved.entries["shard"]
            )
        return ScannedArchive(container, resolved, views, seen[0] if seen else None, damage)

    def open_view(
        self, view: DerivedFile, storage: Storage, where: str, checkpoints: bytes
    ) -> CompressedStorage:
        """Return the output of compressed data, which is kept for jumps."""
        opened = CompressedStorage(view.stream(storage, where), checkpoints)
        opened.share_spans(self.spans)
        return opened

    def _scan_views(
        self,
        views: list[DerivedFile],
        storage: Storage,
        where: str,
        strict: bool,
        look: Look,
        forward: bool,
        progress: Progress | None,
    ) -> tuple[list[tuple[DerivedFile, bytes]], ScannedStream]:
        """Decompress an archive, which may be compressed once more inside."""
        *outer, last = views
        done: list[tuple[DerivedFile, bytes]] = []
        if outer and _reads_forward(last):
            try:
                return self._scan_both(outer[0], last, storage, where, look, progress)
            except CorruptArchiveError:
                if strict:
                    raise
        for view in outer:
            if forward:
                raise ForwardReadError(f"{where}: it is compressed twice")
            self._check_decompressed(view.size)
            checkpoints = build_checkpoints(view.stream(storage, where), progress)
            self._decompressed += view.size
            done.append((view, checkpoints))
            storage = self.open_view(view, storage, where, checkpoints)
        found = scan_stream(
            last, storage, where, all_containers(), self._check_decompressed, strict, progress, look
        )
        self._decompressed += found.view.size
        return [*done, (found.view, found.checkpoints)], found

    def _scan_both(
        self,
        view: DerivedFile,
        last: DerivedFile,
        storage: Storage,
        where: str,
        look: Look,
        progress: Progress | None,
    ) -> tuple[list[tuple[DerivedFile, bytes]], ScannedStream]:
        """Decompress an archive that is compressed twice, in one pass."""
        self._check_decompressed(view.size)
        builder = CheckpointBuilder(view.stored_size)
        stream = view.stream(storage, where)
        output = ForwardStorage(stream.start(builder), where)
        found = scan_stream(
            last, output, where, all_containers(), self._check_decompressed, True, progress, look
        )
        output.drain()
        checkpoints = builder.finish(stream)
        self._decompressed += view.size + found.view.size
        return [(view, checkpoints), (found.view, found.checkpoints)], found

    def _check_decompressed(self, size: int) -> None:
        if self._decompressed + size > self._most_decompressed:
            raise LimitError(
                f"{self._path}: the archives within it decompress to more than "
                f"{MAX_COMPRESSION} times its size",
                hints=[AS_FILES],
            )


class InnerMembers:
    """What is known of the members of one archive after they were looked at.

    Attributes
    ----------
    archives : dict of int to ScannedArchive or None
        The members that are archives, by offset; None for those that could not be scanned, or are
        not certainly archives. All other members are files.
    file : int or None
        The offset of a member because of which ``nested="auto"`` opens none of them.
    """

    def __init__(
        self,
        scanner: InnerScanner,
        container: Container,
        storage: Storage,
        where: str,
        path: str,
        depth: int,
        forward: bool,
    ) -> None:
        self.archives: dict[int, ScannedArchive | None] = {}
        self.file: int | None = None
        self._scanner = scanner
        self._container = container
        self._storage = storage
        self._where = where
        self._path = path
        self._depth = depth
        self._forward = forward

    def visit(self, rows: RowBuffer, first: int, stop: int) -> None:
        """Look at some rows; see `Container.scan_and_visit`."""
        for row in range(first, stop):
            entry = rows.entries[row]
            if entry["kind"] == KIND_FILE:
                self.look(entry, rows.name(row))

    def look(self, entry: Any, name: bytes) -> None:
        """Look at a member, and scan it if it is an archive."""
        scanner = self._scanner
        if self.file is not None or scanner.is_full:
            return
        offset = int(entry["offset"])
        self.archives.pop(offset, None)
        text = os.fsdecode(name).removeprefix("./")
        where, path = f"{self._where}/{text}", f"{self._path}{text}"
        try:
            inner = identify(self._storage, self._container, entry, path, self._forward)
            if inner is None:
                if scanner.nesting.auto:
                    self.file = offset
                    self.archives.clear()
                return
            scanner.count()
            self.archives[offset] = None
            is_scanned = self._depth < scanner.nesting.depth and not (
                self._forward and not _scans_forward(inner)
            )
            if is_scanned:
                self.archives[offset] = scanner.scan(
                    inner,
                    self._storage,
                    entry,
                    where,
                    path,
                    self._depth + 1,
                    forward=self._forward,
                )
        except StaleIndexError:
            raise
        except ImageArchiveError as error:
            # Without "auto", it is certain that it is to be opened.
            if isinstance(error, LimitError) and not scanner.nesting.auto:
                raise
            # Scanning it again tells what is wrong with it.
            self.archives[offset] = None

    def find(self, entries: npt.NDArray[Any], base: int) -> npt.NDArray[np.bool_]:
        """Return which members may be archives.

        Parameters
        ----------
        entries : ndarray of ENTRY_DTYPE
            The members, with offsets that are greater by `base`.
        """
        offsets = np.fromiter(self.archives, np.uint64, len(self.archives)) + np.uint64(base)
        files = (entries["kind"] == KIND_FILE) & (entries["size"] > 0)
        found: npt.NDArray[np.bool_] = files & np.isin(entries["offset"], offsets)
        return found


class _Stored(SliceStorage):
    """A stored archive; what cuts it short is never taken for its end."""

    def read(self, offset: int, size: int) -> bytes | memoryview:
        """Return a range of the archive."""
        data = super().read(offset, size)
        if len(data) < size:
            raise ForwardReadError(
                f"{self.path}: it ends after {pluralize(offset + len(data), 'byte')}"
            )
        return data


def _scan_leniently(
    container: Container, storage: Storage, strict: bool, look: Look | None
) -> tuple[RowBuffer, str | None]:
    """Return the rows of an archive, and what is wrong with it."""
    try:
        return scan_members(container, storage, True, look), None
    except CorruptArchiveError as error:
        if strict:
            raise
        return scan_members(container, storage, False, look), error.message


def _reads_forward(view: DerivedFile) -> bool:
    format = stream_format_named(view.format)
    return format is not None and format.reads_forward


def _scans_forward(inner: InnerArchive) -> bool:
    """Whether an archive can be scanned while it is read once, from start to end."""
    return inner.container.scans_forward and all(map(_reads_forward, inner.views))
