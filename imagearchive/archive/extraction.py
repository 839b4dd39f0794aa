"""Write the members of an archive below a directory, in several threads."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from imagearchive.archive.checked_read import iter_data
from imagearchive.archive.destination import (
    Destination,
    base_of,
    folder_of,
    temporary_name,
    write_content,
)
from imagearchive.archive.expansion import check_expansion, find_repeats
from imagearchive.archive.hard_links import CannotLinkError, link_file
from imagearchive.archive.name_tree import decode
from imagearchive.archive.safe_directories import SafeDirectories
from imagearchive.archive.small_files import create_files
from imagearchive.archive.threads import Chunks, run_in_threads
from imagearchive.containers.rows import KIND_FILE, KIND_SPARSE
from imagearchive.errors import LimitError, UnsafePathError
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.atomic import create_file
from imagearchive.storage.changes import changes_first
from imagearchive.storage.checksums import CHECKSUMS
from imagearchive.storage.limits import Limits
from imagearchive.storage.local import MemoryStorage
from imagearchive.storage.temporary import LockedDirectory

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["Extraction"]

# Beginning of the name of the directory for temporary files.
STAGING_PREFIX: Final = ".imagearchive-extract-"
# Members that a thread takes at a time: enough to stay in one directory, few enough to share.
CHUNK: Final = 64
# Larger members are written piece by piece, so that an interrupt does not wait for one of them.
LARGE: Final = 1 << 20
# Members of at most this size are written many at a time; an interrupt waits for one chunk.
SMALL: Final = 1 << 16
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class _Counts:
    """What one thread has done."""

    files: int = 0
    bytes: int = 0


class Extraction:
    """One extraction, shared by its threads.

    Parameters
    ----------
    archive : Archive
    target : Destination
    refused : collection of str
        Names that are not written.
    limits : Limits
        Bounds on what is written, compared with what the archive holds.
    progress : callable, optional
        Called with the number of files done since the last call, from any of the threads.

    Attributes
    ----------
    files, bytes, skipped : int
        Files written, their size, and members that were passed over.
    resumed : int
        Files that were written before.
    counted : bool
        Whether `resumed` counts all of them yet.
    """

    def __init__(
        self,
        archive: Archive,
        target: Destination,
        refused: Collection[str] = (),
        limits: Limits | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self._archive = archive
        self._target = target
        self._refused = frozenset(refused)
        self._limits = limits or Limits()
        self._progress = progress
        # Several archives read as one may share names, of which the last counts.
        self._several = len(archive.table.files) > 1
        self._mapped = _mapped(archive)
        self._lock = threading.Lock()
        # The directory of temporary files, where there is one.
        self._staging: int | None = None
        # By position: the file that was written of a member that others are linked to.
        self._inodes: dict[int, os.stat_result | None] = {}
        self.files = 0
        self.bytes = 0
        self.skipped = 0
        self.resumed = 0
        self.counted = False

    def run(
        self, positions: npt.NDArray[np.int64], threads: int | None, resumed: bool = False
    ) -> None:
        """Write the members at these positions, except those that are there if it is resumed.

        Members that are one file in the archive, such as hard links, become hard links.
        """
        if self._refused or self._several:
            wanted = np.array([*map(self._is_wanted, positions.tolist())], np.bool_)
            if not wanted.all():
                self._step(int((~wanted).sum()))
            positions = positions[wanted]
        first = find_repeats(self._archive, positions)
        is_repeat = first != np.arange(len(positions))
        sources = positions[first]
        check_expansion(self._archive, positions[~is_repeat], self._limits, holes=False)
        self._inodes = dict.fromkeys(sources[is_repeat].tolist())
        missing = np.ones(len(positions), np.bool_)
        if resumed:
            missing = self._find_missing(positions, sources)
        self.counted = True
        originals = positions[missing & ~is_repeat]
        repeats = missing & is_repeat
        pairs = list(zip(sources[repeats].tolist(), positions[repeats].tolist()))
        with ExitStack() as stack:
            # The missing bytes of a mapped archive make `os.write` fail.
            stack.enter_context(changes_first(self._archive))
            if not self._target.is_new:
                # Where the next run finds what this one leaves if it is killed.
                staging = stack.enter_context(LockedDirectory(self._target.path, STAGING_PREFIX))
                self._staging = os.open(staging.path, _OPEN_DIRECTORY)
                stack.callback(os.close, self._staging)
            run_in_threads(partial(self._work, originals), len(originals), CHUNK, threads)
            link = partial(self._link_some, positions, pairs)
            run_in_threads(link, len(pairs), CHUNK, 1)
        self.skipped = len(positions) - self.files - self.resumed

    def _find_missing(
        self, positions: npt.NDArray[np.int64], sources: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Find the members whose files are not there, and remove files that are not whole.

        Data are appended, and the modification time is set at the end. So a file that was cut off
        differs in one of them.

        Parameters
        ----------
        positions : ndarray of int64
        sources : ndarray of int64
            For each, the position of the member that it is linked to, or its own.
        """
        table = self._archive.table
        rows = table.entries[positions]
        missing = np.ones(len(positions), np.bool_)
        members = zip(
            positions.tolist(), sources.tolist(), rows["size"].tolist(), rows["mtime"].tolist()
        )
        # By inode: the member that it holds.
        seen: dict[tuple[int, int], int] = {}
        with SafeDirectories(self._target.fd, self._target.path) as folders:
            for row, member in enumerate(members):
                missing[row] = self._is_missing(folders, seen, *member)
        if self.resumed:
            self._step(self.resumed)
        return missing

    def _is_missing(
        self,
        folders: SafeDirectories,
        seen: dict[tuple[int, int], int],
        position: int,
        source: int,
        size: int,
        mtime: int,
    ) -> bool:
        folder, _, name = self._archive.table.name_bytes(position).rpartition(b"/")
        try:
            directory = folders.open(folder)
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except (OSError, UnsafePathError):
            return True
        # Names may differ only in case, and the file system takes them for one.
        if seen.setdefault((status.st_dev, status.st_ino), source) != source:
            return True
        if status.st_size == size and (not mtime or status.st_mtime_ns == mtime):
            self.resumed += 1
            if source == position and position in self._inodes:
                self._inodes[position] = status
            return False
        if stat.S_ISREG(status.st_mode):
            os.unlink(name, dir_fd=directory)
        return True

    def _step(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done)

    def _is_wanted(self, position: int) -> bool:
        table = self._archive.table
        name = table.name_bytes(position)
        if self._refused and decode(name) in self._refused:
            return False
        return not self._several or table.lookup.find(name) == position

    def _work(self, positions: npt.NDArray[np.int64], chunks: Chunks) -> None:
        counts = _Counts()
        part = temporary_name()
        try:
            with SafeDirectories(self._target.fd, self._target.path) as folders:
                for places in chunks:
                    self._write_some(
                        folders, part, chunks, positions[places.start : places.stop], counts
                    )
                    self._step(len(places))
        finally:
            with self._lock:
                self.files += counts.files
                self.bytes += counts.bytes

    def _write_some(
        self,
        folders: SafeDirectories,
        part: bytes,
        chunks: Chunks,
        positions: npt.NDArray[np.int64],
        counts: _Counts,
    ) -> None:
        """Write a few members."""
        table = self._archive.table
        rows = table.entries[positions]
        names = [*map(table.name_bytes, positions.tolist())]
        offsets, sizes, mtimes = (rows[column].tolist() for column in ("offset", "size", "mtime"))
        modes = _permissions(rows["mode"])
        is_simple = self._find_simple(rows)
        in_batch = self._find_batched(positions, is_simple, rows["size"])
        groups = groupby(range(len(names)), lambda row: (folder_of(names[row]), in_batch[row]))
        for (folder, is_batch), group in groups:
            chunks.check()
            directory = folders.open(folder)
            members = [*group]
            done = 0
            if is_batch:
                done = self._create_batch(directory, names, rows, modes, members)
                counts.files += done
                counts.bytes += sum(sizes[row] for row in members[:done])
            for row in members[done:]:
                position, name = int(positions[row]), names[row]
                small = None
                if is_simple[row] and self._mapped is not None:
                    small = self._mapped[offsets[row] : offsets[row] + sizes[row]]
                write = partial(self._fill, position, small, sizes[row], chunks, mtimes[row])
                if position in self._inodes:
                    write = partial(self._remember, position, write)
                create = partial(create_file, directory, base_of(name), write, int(modes[row]))
                if self._target.write(directory, name, create, part, self._staging):
                    counts.files += 1
                    counts.bytes += sizes[row]

    def _find_simple(self, rows: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
        """Find the members whose content only has to be copied from the mapped archive."""
        source = self._mapped
        if source is None:
            return np.zeros(len(rows), np.bool_)
        offsets, sizes = rows["offset"], rows["size"]
        simple: npt.NDArray[np.bool_] = (
            (rows["kind"] == KIND_FILE) & (rows["method"] == 0) & (sizes <= LARGE)
        )
        # Reading a damaged one in the general way says what is wrong.
        starts = np.minimum(offsets, len(source))
        simple &= (offsets == starts) & (sizes <= len(source) - starts)
        algorithm = self._archive.table.container(0).checksum_algorithm
        if algorithm is not None:
            checksum = CHECKSUMS[algorithm]
            for row in np.flatnonzero(simple).tolist():
                start, size = int(offsets[row]), int(sizes[row])
                simple[row] = checksum(source[start : start + size], 0) == rows["crc"][row]
        return simple

    # ---------------------------------------------------------------- small files

    def _find_batched(
        self,
        positions: npt.NDArray[np.int64],
        is_simple: npt.NDArray[np.bool_],
        sizes: npt.NDArray[np.uint64],
    ) -> list[bool]:
        """Find the members that `_create_batch` may write."""
        if not self._target.is_new:
            return [False] * len(positions)
        small: npt.NDArray[np.bool_] = is_simple & (sizes <= SMALL)
        for row in np.flatnonzero(small).tolist() if self._inodes else ():
            small[row] = int(positions[row]) not in self._inodes
        batched: list[bool] = small.tolist()
        return batched

    def _create_batch(
        self,
        directory: int,
        names: list[bytes],
        rows: npt.NDArray[np.void],
        modes: npt.NDArray[np.uint32],
        members: list[int],
    ) -> int:
        """Create the first of these files, up to one that fails; return how many."""
        part = slice(members[0], members[-1] + 1)
        return create_files(
            directory,
            tuple(map(base_of, names[part])),
            self._mapped or b"",
            rows["offset"][part].astype(np.uint64),
            rows["size"][part].astype(np.uint64),
            modes[part],
            rows["mtime"][part].astype(np.int64),
        )

    # ---------------------------------------------------------------- hard links

    def _remember(self, position: int, write: Callable[[int], None], descriptor: int) -> None:
        """Write a file that others are linked to, and remember its inode."""
        write(descriptor)
        self._inodes[position] = os.fstat(descriptor)

    def _link_some(
        self, positions: npt.NDArray[np.int64], pairs: list[tuple[int, int]], chunks: Chunks
    ) -> None:
        """Make the second member of each pair a link to the first, or a copy of it."""
        part = temporary_name()
        # By original: the member that others are linked to, where that is a copy.
        sources: dict[int, int] = {}
        counts = _Counts()
        try:
            with SafeDirectories(self._target.fd, self._target.path) as folders:
                for places in chunks:
                    for original, position in pairs[places.start : places.stop]:
                        chunks.check()
                        source = sources.get(original, original)
                        try:
                            if self._link(folders, source, position, part):
                                counts.files += 1
                                counts.bytes += int(self._archive.table.entries["size"][position])
                        except CannotLinkError:
                            if not sources:
                                check_expansion(self._archive, positions, self._limits, holes=False)
                            sources[original] = position
                            self._inodes[position] = None
                            copied = np.array([position], np.int64)
                            self._write_some(folders, part, chunks, copied, counts)
                    self._step(len(places))
        finally:
            self.files += counts.files
            self.bytes += counts.bytes

    def _link(self, folders: SafeDirectories, source: int, position: int, part: bytes) -> bool:
        """Link a member to the file of another; return whether it was written.

        Raises
        ------
        CannotLinkError
            This extraction did not write the other file, or the file system cannot link it.
        """
        status = self._inodes[source]
        if status is None:
            raise CannotLinkError
        old, name = map(self._archive.table.name_bytes, (source, position))
        old_directory = folders.open(folder_of(old))
        directory = folders.open(folder_of(name))
        create = partial(link_file, old_directory, base_of(old), status, directory, base_of(name))
        return self._target.write(directory, name, create, part, self._staging)

    def _fill(
        self,
        position: int,
        small: memoryview | None,
        size: int,
        chunks: Chunks,
        mtime: int,
        descriptor: int,
    ) -> None:
        content = iter_data(self._archive, position) if small is None else ((0, small),)
        try:
            write_content(content, size, chunks, mtime, descriptor)
        except OSError as error:
            # Where a size does not fit the file system, Linux reports either.
            too_large = error.filename is None and error.errno in (errno.EFBIG, errno.EINVAL)
            if not too_large or self._archive.table.entries["kind"][position] != KIND_SPARSE:
                raise
            raise LimitError(
                f"{self._archive.path}: member {self._archive.name(position)[:200]!r} takes "
                f"{pluralize(size, 'byte')}, more than a file can have here ({self._target.path}: "
                f"{error.strerror}); extract to another file system, or only the other members"
            ) from error


def _permissions(modes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return the permissions that the ``data`` filter leaves; 0o644 where none are recorded."""
    kept = modes & 0o755 | 0o600
    kept = np.where(kept & 0o100, kept, kept & ~np.uint32(0o111))
    return np.where(modes & 0o777, kept, 0o644).astype(np.uint32)


def _mapped(archive: Archive) -> memoryview | None:
    """Return the bytes of an archive that is one file in memory or mapped."""
    if len(archive.table.files) != 1 or archive.table.container(0).members_are_files:
        return None
    storage = archive.storage()
    return storage.read(0, storage.size) if isinstance(storage, MemoryStorage) else None
