"""Storages of local files: mapped, read with ``pread``, or held in memory.

A storage has no file position, so any number of threads can share one, and a forked child can keep
using its parent's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    CorruptArchiveError,
    OptionError,
    OptionTypeError,
    StaleIndexError,
    UnsupportedArchiveError,
)
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.closing import Closable
from imagearchive.storage.mapping import Mapping, SharedBytes
from imagearchive.storage.protocol import FileStorage, Storage, StorageKind, file_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Buffer

__all__ = [
    "MemoryStorage",
    "MmapStorage",
    "PreadStorage",
    "advise_on_path",
    "open_storage",
    "storage_kind",
]

# File systems where a page fault goes over the network. A mapping there can block a process so that
# it cannot be interrupted, or kill it with SIGBUS when the server drops the file.
NETWORK_FILE_SYSTEMS: Final = frozenset({
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.blobfuse", "fuse.gcsfuse",
    "fuse.glusterfs", "fuse.goofys", "fuse.juicefs", "fuse.mountpoint-s3", "fuse.rclone",
    "fuse.s3fs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
    "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "virtiofs", "wekafs",
})  # fmt: skip

# Nanoseconds between two times that a file system tells apart, and some more.
_TICK: Final = 20_000_000
_LONGEST_TICK: Final = 3_000_000_000
# How many names in a directory are compared with one that does not exist.
_MOST_COMPARED: Final = 1000


class MemoryStorage(Closable):
    """Bytes that are already in memory, or a whole file read into it.

    Safe for threads. A forked child shares the pages. A pickle would copy them, so the datasets
    pickle the path instead.
    """

    zero_copy = True

    def __init__(self, data: Buffer | Mapping, path: str = "<memory>", identity: str = "") -> None:
        self._bytes: Mapping | SharedBytes | None
        self._bytes = data if isinstance(data, Mapping) else SharedBytes(data)
        self.path = path
        self.size = len(self._bytes)
        self.identity = identity

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> MemoryStorage:
        """Read a whole file."""
        name = os.fspath(path)
        with PreadStorage(name) as storage:
            data = bytearray(storage.size)
            storage.readinto(0, data)
            return cls(data, name, storage.identity)

    def read(self, offset: int, size: int) -> memoryview:
        """Return a read-only view of the range."""
        data = self._bytes
        if data is None:
            raise _closed(self.path)
        try:
            return data.view(offset, size)
        except BufferError:
            # A page of a mapped file is gone, and this says why.
            self.check_unchanged()
            raise
        except (OverflowError, ValueError):
            raise _outside(self.path, offset, size, self.size) from None

    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Copy the range into `buffer`."""
        target = memoryview(buffer).cast("B")
        target[:] = self.read(offset, len(target))
        return len(target)

    def prefetch(self, offset: int, size: int) -> None:
        """Do nothing: the bytes are in memory already."""

    def check_unchanged(self) -> None:
        """Do nothing: the bytes are in memory already."""

    def __reduce__(self) -> NoReturn:
        raise _not_pickled(self)

    def close(self) -> None:
        """Release the bytes; views returned before keep them alive."""
        super().close()
        self._bytes = None


class MmapStorage(MemoryStorage):
    """A mapped local file: `read` returns views of the page cache without copying.

    The mapping stays valid when the file is deleted, replaced by rename, or grows. If the file is
    truncated in place, what is missing reads as zeros, and every later read raises. A view that was
    returned before cannot raise: call `check_unchanged` after using it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        name = os.fspath(path)
        self._opened: _OpenFile | None = _OpenFile(name, *_open(name))
        size = self._opened.size
        # An empty file cannot be mapped.
        with os_errors_for(name):
            self._mapping = Mapping(self._opened.number, size) if size else None
        super().__init__(self._mapping or b"", name, self._opened.identity)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> MmapStorage:
        """Map a whole file; the same as the constructor."""
        return cls(path)

    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Copy the range into `buffer`."""
        count = super().readinto(offset, buffer)
        if self._mapping is not None and self._mapping.damaged:
            self.check_unchanged()
        return count

    @property
    def state(self) -> str:
        """What differs after any change of the file from now on; empty if that is not certain.

        The owner of a file can set the time of its last modification back. That of the last change
        of its inode is set by the file system only, but a change within a tick of its clock after
        another one leaves it as it is.
        """
        if self._opened is None:
            return ""
        status = os.fstat(self._opened.number)
        # Some file systems keep whole seconds, or every other one.
        tick = _TICK if status.st_ctime_ns % 1_000_000_000 else _LONGEST_TICK
        if time.time_ns() - status.st_ctime_ns <= tick:
            return ""
        return f"{status.st_dev} {status.st_ino} {status.st_ctime_ns} {file_identity(status)}"

    def prefetch(self, offset: int, size: int) -> None:
        """Ask the kernel to read the whole range ahead at once.

        Linux does not read ahead of page faults in a file that is read at random, so a member that
        is not cached would be read page by page.
        """
        if self._mapping is not None and self._bytes is not None:
            self._mapping.prefetch(offset, size)

    def prefetch_all(self, offsets: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> bool:
        """Ask the kernel to read many ranges ahead, each from an offset to an end.

        Returns
        -------
        bool
            Whether it would be useless to ask for them again.
        """
        if self._mapping is None or self._bytes is None:
            return False
        return self._mapping.prefetch_all(offsets, ends)

    def check_unchanged(self) -> None:
        """Raise if the file has changed since it was opened; see `Storage.check_unchanged`."""
        opened, mapping = self._opened, self._mapping
        if opened is not None:
            opened.check_unchanged()
        if mapping is not None and mapping.damaged:
            raise OSError(errno.EIO, os.strerror(errno.EIO), self.path)

    def open_descriptor(self) -> PreadStorage | None:
        """Open the mapped file for reads without page faults; the caller closes it.

        Returns
        -------
        PreadStorage or None
            None if the file was deleted or replaced since it was mapped.
        """
        try:
            file = PreadStorage(self.path)
        except (OSError, UnsupportedArchiveError):
            return None
        if file.size == self.size:
            return file
        file.close()
        return None

    def close(self) -> None:
        """Release the mapping; views returned before keep it alive."""
        super().close()
        self._opened = None


class _OpenFile:
    """Owns an open descriptor, which is closed with its last user: not reused before.

    Attributes
    ----------
    number : int
        Its descriptor.
    size, identity
        As when it was opened.
    """

    __slots__ = ("identity", "number", "path", "size")

    def __init__(self, path: str, number: int, status: os.stat_result) -> None:
        self.number = number
        self.path = path
        self.size = status.st_size
        self.identity = file_identity(status)

    def check_unchanged(self) -> None:
        """Raise StaleIndexError if it has another size or modification time."""
        with os_errors_for(self.path):
            status = os.fstat(self.number)
        if status.st_size != self.size or file_identity(status) != self.identity:
            raise changed_while_open(self.path, self.size, status.st_size)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # A default argument, as modules are cleared when the interpreter exits.
        close(self.number)


class PreadStorage(Closable):
    """Positional reads from a file descriptor: always a copy, never a page fault.

    Safe for threads and after fork, because `os.pread` does not use the file position. If another
    thread closes the storage, reads that have begun still finish.
    """

    zero_copy = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._opened: _OpenFile | None = _OpenFile(self.path, *_open(self.path))
        self.size = self._opened.size
        self.identity = self._opened.identity

    def fileno(self) -> int:
        """Return the file descriptor, which is valid until `close`."""
        return self._held().number

    def _held(self) -> _OpenFile:
        opened = self._opened
        if opened is None:
            raise _closed(self.path)
        return opened

    def read(self, offset: int, size: int) -> bytes | memoryview:
        """Return a copy of the range."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise _outside(self.path, offset, size, self.size)
        held = self._held()
        try:
            data = os.pread(held.number, size, offset)
        except OSError as error:
            error.filename = self.path
            raise
        if len(data) == size:
            return data
        # Linux returns at most 2 GiB - 4 KiB from one call.
        buffer = bytearray(size)
        buffer[: len(data)] = data
        self._fill(held, offset, memoryview(buffer), len(data))
        return memoryview(buffer).toreadonly()

    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Copy the range into `buffer`."""
        target = memoryview(buffer).cast("B")
        if offset < 0 or offset + len(target) > self.size:
            raise _outside(self.path, offset, len(target), self.size)
        self._fill(self._held(), offset, target, 0)
        return len(target)

    def prefetch(self, offset: int, size: int) -> None:
        """Ask the kernel to read the range ahead."""
        held = self._opened
        if hasattr(os, "posix_fadvise") and held is not None:
            with contextlib.suppress(OSError, ValueError):
                os.posix_fadvise(held.number, offset, size, os.POSIX_FADV_WILLNEED)

    def check_unchanged(self) -> None:
        """Raise if the file has changed since it was opened; see `Storage.check_unchanged`."""
        if self._opened is not None:
            self._opened.check_unchanged()

    def _fill(self, held: _OpenFile, offset: int, target: memoryview, done: int) -> None:
        while done < len(target):
            with os_errors_for(self.path):
                count = os.preadv(held.number, [target[done:]], offset + done)
            if not count:
                raise changed_while_open(self.path, self.size, offset + done)
            done += count

    def __reduce__(self) -> NoReturn:
        raise _not_pickled(self)

    def close(self) -> None:
        """Close the descriptor as soon as no other thread reads from it."""
        super().close()
        self._opened = None


def open_storage(path: str | os.PathLike[str], kind: StorageKind = "auto") -> FileStorage:
    """Open a file for positional reads.

    Parameters
    ----------
    path : path-like
        A regular file.
    kind : {"auto", "mmap", "pread", "memory"}
        ``auto`` maps files on local disks and uses ``pread`` on network file systems.

    Raises
    ------
    ArchiveNotFoundError
        There is no such file.
    UnsupportedArchiveError
        It is not a regular file.
    """
    name = os.fspath(path)
    if kind == "auto":
        kind = storage_kind(name)
    if kind == "mmap":
        return MmapStorage(name)
    if kind == "pread":
        return PreadStorage(name)
    if kind == "memory":
        return MemoryStorage.from_file(name)
    raise unknown_kind(kind)


def unknown_kind(kind: object) -> OptionError:
    """Return the error for an unknown kind of storage."""
    return OptionError(f"storage={kind!r}: choose one of 'auto', 'mmap', 'pread', 'memory'")


def storage_kind(path: str, mounts: Sequence[tuple[str, str]] | None = None) -> StorageKind:
    """Return what ``auto`` means for a file: ``pread`` on network file systems, else ``mmap``.

    Parameters
    ----------
    path : str
    mounts : sequence of (mount point, file system), optional
        By default the mounts that Linux lists; none on other systems.
    """
    resolved = os.path.realpath(path)
    best, kind = "", ""
    for mount, file_system in _mounts() if mounts is None else mounts:
        inside = resolved == mount or resolved.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, file_system
    return "pread" if kind in NETWORK_FILE_SYSTEMS else "mmap"


@lru_cache(maxsize=1)
def _mounts() -> tuple[tuple[str, str], ...]:
    try:
        lines = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ()
    fields = [line.split(" ") for line in lines]
    # The kernel escapes spaces in mount points in octal.
    return tuple(
        (re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), f[1]), f[2])
        for f in fields
        if len(f) > 2
    )


def _open(path: str) -> tuple[int, os.stat_result]:
    """Return the descriptor and the status of a regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise ArchiveNotFoundError(f"{path}: no such file; {advise_on_path(path)}") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise UnsupportedArchiveError(f"{path}: not a regular file, so it cannot be read at random")
    return fd, status


def advise_on_path(path: str) -> str:
    """Return what may be wrong with the path of a file that does not exist."""
    # Imported here, because only errors need it.
    from difflib import get_close_matches

    folder, name = os.path.split(path)
    with contextlib.suppress(OSError, UnicodeError), os.scandir(folder or ".") as found:
        # A comparison with all the names of a large directory would take long.
        names = [entry.name for entry in islice(found, _MOST_COMPARED)]
        close = get_close_matches(name, names, 1, 0.7)
        if close:
            return f"did you mean {close[0]!r}?"
    return "is the path right?"


def _not_pickled(storage: Storage) -> OptionTypeError:
    return OptionTypeError(
        f"a {type(storage).__name__} cannot be pickled: pickle the path and open it again"
    )


def changed_while_open(path: str, size: int, now: int) -> StaleIndexError:
    """Return the error for a file that had `size` bytes when it was opened, and has `now`."""
    how = f"truncated to {now} of {pluralize(size, 'byte')}" if now < size else "written to"
    return StaleIndexError(
        f"{path}: changed while open: the file was {how}; open the archive again when it is "
        f"complete"
    )


def _closed(path: str) -> ClosedError:
    return ClosedError(f"{path}: closed; open the archive again to read from it")


def _outside(path: str, offset: int, size: int, file_size: int) -> CorruptArchiveError:
    return CorruptArchiveError(
        f"{path}: a range of {pluralize(size, 'byte')} at offset {offset} is not within the file "
        f"of {pluralize(file_size, 'byte')}; it is truncated, or its index belongs to another file"
    )
