"""Write the members of an archive below a directory, in several threads."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

from imagearchive.archive.checked_read import iter_data
from imagearchive.archive.expansion import check_expansion, find_repeats
from imagearchive.archive.name_tree import decode
from imagearchive.archive.safe_directories import SafeDirectories
from imagearchive.archive.threads import Chunks, run_in_threads
from imagearchive.containers.rows import KIND_FILE
from imagearchive.errors import TargetExistsError, UnsafePathError
from imagearchive.errors.hints import Hint
from imagearchive.storage.atomic import create_file
from imagearchive.storage.checksums import CHECKSUMS
from imagearchive.storage.limits import Limits
from imagearchive.storage.local import MemoryStorage
from imagearchive.storage.temporary import LockedDirectory

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["Destination", "Existing", "Extraction"]

Existing = Literal["error", "skip", "replace"]

# Beginning of the name of the directory for temporary files.
STAGING_PREFIX: Final = ".imagearchive-extract-"
# Members that a thread takes at a time: enough to stay in one directory, few enough to share.
CHUNK: Final = 64
# Larger members are written piece by piece, so that an interrupt does not wait for one of them.
LARGE: Final = 1 << 20
# What a file system says that has no hard links, or no more of them for one file.
_NO_LINK: Final = frozenset(
    [errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV]
)

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Destination:
    """Where an extraction writes.

    Attributes
    ----------
    path : str
        The directory, as errors name it.
    fd : int
        Its descriptor.
    is_new : bool
        The directory has no name yet, so its files need no temporary ones.
    existing : {"error", "skip", "replace"}
        What happens where a file of a member's name is there.
    """

    path: str
    fd: int
    is_new: bool
    existing: Existing


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

    def run(
        self, positions: npt.NDArray[np.int64], threads: int | None, resumed: bool = False
    ) -> None:
        """Write the members at these positions, except those that are there if it is resumed.

        Members that are one file in the archive, such as hard links, become hard links.
        """
        wanted = np.array([*map(self._is_wanted, positions.tolist())], np.bool_)
        if self._progress is not None and not wanted.all():
            self._progress(int((~wanted).sum()))
        positions = positions[wanted]
        first = find_repeats(self._archive, positions)
        is_repeat = first != np.arange(len(positions))
        sources = positions[first]
        check_expansion(self._archive, positions[~is_repeat], self._limits, holes=False)
        self._inodes = dict.fromkeys(sources[is_repeat].tolist())
        missing = np.ones(len(positions), np.bool_)
        if resumed:
            missing = self._find_missing(positions, sources)
        originals = positions[missing & ~is_repeat]
        repeats = missing & is_repeat
        pairs = list(zip(sources[repeats].tolist(), positions[repeats].tolist()))
        with ExitStack() as stack:
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
            for row, (position, source, size, mtime) in enumerate(members):
                folder, _, name = table.name_bytes(position).rpartition(b"/")
                try:
                    directory = folders.open(folder)
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                except (OSError, UnsafePathError):
                    continue
                # Names may differ only in case, and the file system takes them for one.
                if seen.setdefault((status.st_dev, status.st_ino), source) != source:
                    continue
                if status.st_size == size and (not mtime or status.st_mtime_ns == mtime):
                    missing[row] = False
                    self.resumed += 1
                    if source == position and position in self._inodes:
                        self._inodes[position] = status
                elif stat.S_ISREG(status.st_mode):
                    os.unlink(name, dir_fd=directory)
        if self._progress is not None and self.resumed:
            self._progress(self.resumed)
        return missing

    def _is_wanted(self, position: int) -> bool:
        table = self._archive.table
        name = table.name_bytes(position)
        if self._refused and decode(name) in self._refused:
            return False
        return not self._several or table.lookup.find(name) == position

    def _work(self, positions: npt.NDArray[np.int64], chunks: Chunks) -> None:
        counts = _Counts()
        part = _temporary_name()
        try:
            with SafeDirectories(self._target.fd, self._target.path) as folders:
                for places in chunks:
                    self._write_some(
                        folders, part, chunks, positions[places.start : places.stop], counts
                    )
                    if self._progress is not None:
                        self._progress(len(places))
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
        sizes = rows["size"].tolist()
        modes, mtimes = _permissions(rows["mode"]).tolist(), rows["mtime"].tolist()
        data = self._small_members(rows)
        for row, position in enumerate(positions.tolist()):
            name = table.name_bytes(position)
            directory = folders.open(name.rpartition(b"/")[0])
            write = partial(self._fill, position, data[row], sizes[row], chunks, mtimes[row])
            if position in self._inodes:
                write = partial(self._remember, position, write)
            base = name[name.rfind(b"/") + 1 :]
            create = partial(create_file, directory, base, write, modes[row])
            if self._write(directory, name, create, part):
                counts.files += 1
                counts.bytes += sizes[row]

    # ---------------------------------------------------------------- hard links

    def _remember(self, position: int, write: Callable[[int], None], descriptor: int) -> None:
        """Write a file that others are linked to, and remember its inode."""
        write(descriptor)
        self._inodes[position] = os.fstat(descriptor)

    def _link_some(
        self, positions: npt.NDArray[np.int64], pairs: list[tuple[int, int]], chunks: Chunks
    ) -> None:
        """Make the second member of each pair a link to the first, or a copy of it."""
        part = _temporary_name()
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
                        except _CannotLinkError:
                            if not sources:
                                check_expansion(self._archive, positions, self._limits, holes=False)
                            sources[original] = position
                            self._inodes[position] = None
                            copied = np.array([position], np.int64)
                            self._write_some(folders, part, chunks, copied, counts)
                    if self._progress is not None:
                        self._progress(len(places))
        finally:
            self.files += counts.files
            self.bytes += counts.bytes

    def _link(self, folders: SafeDirectories, source: int, position: int, part: bytes) -> bool:
        """Link a member to the file of another; return whether it was written.

        Raises
        ------
        _CannotLinkError
            There is no such file of ours, or the file system cannot link it.
        """
        status = self._inodes[source]
        if status is None:
            raise _CannotLinkError
        old, name = map(self._archive.table.name_bytes, (source, position))
        base = name[name.rfind(b"/") + 1 :]
        old_directory = folders.open(old.rpartition(b"/")[0])
        directory = folders.open(name.rpartition(b"/")[0])
        create = partial(
            _link_file, old_directory, old[old.rfind(b"/") + 1 :], status, directory, base
        )
        return self._write(directory, name, create, part)

    def _small_members(self, rows: npt.NDArray[np.void]) -> list[memoryview | None]:
        """Return the content of members that only have to be copied, None for the others."""
        source = self._mapped
        found: list[memoryview | None] = [None] * len(rows)
        if source is None:
            return found
        simple = (rows["kind"] == KIND_FILE) & (rows["method"] == 0) & (rows["size"] <= LARGE)
        algorithm = self._archive.table.container(0).checksum_algorithm
        checksum = None if algorithm is None else CHECKSUMS[algorithm]
        for row in np.flatnonzero(simple).tolist():
            start, size = int(rows["offset"][row]), int(rows["size"][row])
            # Reading a damaged one in the general way says what is wrong.
            if start + size > len(source):
                continue
            data = source[start : start + size]
            if checksum is None or checksum(data, 0) == rows["crc"][row]:
                found[row] = data
        return found

    def _write(self, directory: int, name: bytes, create: Callable[..., None], part: bytes) -> bool:
        """Write one file, whole or not at all; return whether it was written.

        `create` makes it under its own name, or with ``part=`` under that one first.
        """
        base = name[name.rfind(b"/") + 1 :]
        try:
            if self._target.is_new:
                with contextlib.suppress(FileExistsError):
                    create()
                    return True
            if self._target.existing != "replace" and _is_there(base, directory):
                if self._target.existing == "skip":
                    return False
                raise TargetExistsError(
                    f"{self._path(name)} exists",
                    hints=[
                        Hint("existing='replace'", "to replace it"),
                        Hint("existing='skip'", "to keep it"),
                    ],
                )
            try:
                create(part=part, staging=self._staging)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # Another file system is mounted below the target.
                create(part=part)
        except OSError as error:
            # Errors of reading name the archive.
            if error.errno and error.filename in (None, base, part):
                error.filename, error.filename2 = self._path(name), None
            raise
        return True

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
        _fill(content, size, chunks, mtime, descriptor)

    def _path(self, name: bytes) -> str:
        return os.path.join(self._target.path, decode(name))


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


class _CannotLinkError(Exception):
    """A file cannot be linked, so it is copied."""


def _temporary_name() -> bytes:
    return f".{os.urandom(8).hex()}.part".encode()


def _link_file(
    source_directory: int,
    source: bytes,
    status: os.stat_result,
    directory: int,
    name: bytes,
    part: bytes = b"",
    staging: int | None = None,
) -> None:
    """Make a hard link to a file, if it is still that of `status`.

    `part` and `staging` are as for `create_file`.
    """
    path = part or name
    place = directory if staging is None else staging
    try:
        os.link(
            source,
            path,
            src_dir_fd=source_directory,
            dst_dir_fd=place,
            follow_symlinks=False,
        )
    except OSError as error:
        if error.errno in _NO_LINK or isinstance(error, FileNotFoundError):
            raise _CannotLinkError from error
        error.filename, error.filename2 = path, None
        raise
    remove = path
    try:
        # Another process may have put something else there, which may get the same inode number.
        found = os.stat(path, dir_fd=place, follow_symlinks=False)
        same = os.path.samestat(status, found) and status.st_size == found.st_size
        if not (same and stat.S_ISREG(found.st_mode)):
            raise _CannotLinkError
        if part:
            os.rename(part, name, src_dir_fd=place, dst_dir_fd=directory)
        else:
            remove = b""
    finally:
        # Renaming a link to another link of the same file does nothing.
        if remove:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(remove, dir_fd=place)


def _is_there(name: bytes, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _fill(
    content: Iterable[tuple[int, bytes | memoryview]],
    size: int,
    chunks: Chunks,
    mtime: int,
    descriptor: int,
) -> None:
    """Write the content of a file, with holes where it has no data, and its modification time."""
    end = 0
    for offset, data in content:
        chunks.check()
        if offset > end:
            os.lseek(descriptor, offset, os.SEEK_SET)
        done = os.write(descriptor, data)
        while done < len(data):
            done += os.write(descriptor, memoryview(data)[done:])
        end = offset + len(data)
    if end < size:
        os.ftruncate(descriptor, size)
    if mtime:
        os.utime(descriptor, ns=(mtime, mtime))
