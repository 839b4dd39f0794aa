"""The folder of the block cache: reads, writes, and removes blocks, and limits how much they take.

Only writers take turns, by a lock that the system releases when a process ends. The writer that
has it counts a block before it writes it, and removes the blocks that were not used for longest if
there is no room. So a process that is killed leaves at most a count that is too high, which is
corrected when the folder is listed to make room.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import re
import shutil
import struct
import time
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from imagearchive.storage.atomic import write_all
from imagearchive.storage.crc import crc32c
from imagearchive.storage.fork_lock import ForkSafeLock
from imagearchive.storage.path_options import BlockCacheOptions
from imagearchive.storage.remote.block_file import (
    BLOCK,
    BlockReader,
    describe_block,
    header_size,
)

__all__ = ["BlockFolder", "BlockUsage", "block_usage", "open_folder", "remove_blocks"]

logger = logging.getLogger(__name__)

# Magic, bytes of all files, the run of the system that counted them; then a checksum.
_COUNT: Final = struct.Struct("<8sQ36s")
_COUNT_MAGIC: Final = b"IACOUNT1"
_CHECKSUM: Final = struct.Struct("<I")
# What is below the folder that the user names.
_SUBFOLDER: Final = "imagearchive-blocks"
_COUNT_NAME: Final = "count"
_NEW_NAME: Final = "new"
_GROUP: Final = re.compile(r"[0-9a-f]{2}")
# File systems allocate this much at a time.
_ALLOCATION: Final = 4096
# How much is removed at once when there is no room, so that the folder is seldom listed.
_REMOVED_SHARE: Final = 20
# Seconds between two updates of the time at which a block was used last.
_TOUCH_INTERVAL: Final = 60
# Seconds to wait for other writers, and between two tries.
_LOCK_TIMEOUT: Final = 1.0
_LOCK_INTERVAL: Final = 0.002
# Seconds without writing after the disk was full or the folder could not be written.
_PAUSE: Final = 30.0

_OPEN_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_COUNT: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

_folders: dict[BlockCacheOptions, BlockFolder] = {}
_writers: Final = ForkSafeLock()
# Descriptors through which this process holds locks.
_locked: set[int] = set()


class BlockUsage(NamedTuple):
    """How much there is in a folder of blocks.

    Attributes
    ----------
    folder : str
        As it was named.
    blocks : int
        Number of blocks.
    size : int
        Bytes that they take on the disk.
    last_used_ns : int
        When one of them was used last, in nanoseconds since 1970; 0 if there is none.
    """

    folder: str
    blocks: int
    size: int
    last_used_ns: int


def open_folder(options: BlockCacheOptions) -> BlockFolder:
    """Return the folder of a cache; all callers in a process get the same object."""
    return _folders.get(options) or _folders.setdefault(options, BlockFolder(options))


def block_usage(folder: str, used_before_ns: int | None = None) -> BlockUsage:
    """Return how much there is in a folder that `cache_dir` names.

    Parameters
    ----------
    folder : str
    used_before_ns : int, optional
        Count only blocks that were used last before this time.

    Raises
    ------
    OSError
        The folder cannot be read.
    """
    blocks = size = last = 0
    for used_ns, allocated, _ in _list_blocks(os.path.join(folder, _SUBFOLDER)):
        if used_before_ns is None or used_ns < used_before_ns:
            blocks, size, last = blocks + 1, size + allocated, max(last, used_ns)
    return BlockUsage(folder, blocks, size, last)


def remove_blocks(folder: str, used_before_ns: int | None = None) -> None:
    """Remove blocks, also while programs use the folder; they count again when they need room.

    Parameters
    ----------
    folder : str
        What `cache_dir` names.
    used_before_ns : int, optional
        Remove only blocks that were used last before this time; by default all that is there.

    Raises
    ------
    OSError
        A block cannot be removed.
    """
    path = os.path.join(folder, _SUBFOLDER)
    if used_before_ns is None:
        # Programs may add a block meanwhile.
        shutil.rmtree(path, ignore_errors=True)
    for used_ns, _, block in _list_blocks(path):
        if used_before_ns is None or used_ns < used_before_ns:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(block)


class BlockFolder:
    """The folder of a cache, and how large it may be."""

    def __init__(self, options: BlockCacheOptions) -> None:
        self._path = os.path.join(options.folder, _SUBFOLDER)
        self._limit = options.limit
        self._quiet_until = 0.0
        # Whether a thread of this process is listing the folder, which may take seconds.
        self._listing = False
        self._warned = False

    def begin_child(self) -> None:
        """Forget what a thread of the parent was doing."""
        self._listing = False

    def path_of(self, digest: bytes, number: int) -> str:
        """Return the path of a block."""
        return f"{self._path}/{(digest[0] + number) & 255:02x}/{digest.hex()}-{number:x}"

    def load(self, reader: BlockReader, digest: bytes, number: int, start: int, stop: int) -> bool:
        """Add a part of a block to a reader; return whether it is there.

        A damaged block is removed.
        """
        path = self.path_of(digest, number)
        try:
            modified = reader.add(path, digest, number, start, stop)
            if modified is None:
                logger.warning("%s: damaged; fetching this part of the object again", path)
                os.unlink(path)
                return False
        except OSError:
            return False
        if time.time() - modified > _TOUCH_INTERVAL:
            # Fails in a folder that may only be read.
            with contextlib.suppress(OSError):
                os.utime(path, follow_symlinks=False)
        return True

    def store(self, digest: bytes, first: int, blocks: list[memoryview]) -> None:
        """Write blocks that follow each other, unless that is impossible now."""
        if self._listing or time.monotonic() < self._quiet_until:
            return
        try:
            with _writers.of_process():
                try:
                    self._write(digest, first, blocks)
                except FileNotFoundError:
                    # The folder was deleted meanwhile.
                    self._write(digest, first, blocks)
        except OSError as error:
            self._quiet_until = time.monotonic() + _PAUSE
            if not self._warned:
                self._warned = True
                logger.warning("%s: reading on without caching: %s", self._path, error.strerror)

    def _write(self, digest: bytes, first: int, blocks: list[memoryview]) -> None:
        # Not a context manager of our own: interrupted at the end of its `__enter__`, it would stay
        # locked until the traceback is dropped.
        count = self._open_count()
        try:
            _locked.add(count)
            # It is not the current one if the folder was deleted while this process waited.
            if self._wait_for_lock(count) and self._is_current(count):
                self._write_new(count, digest, first, blocks)
            else:
                # Another process is listing the folder: read on meanwhile.
                self._quiet_until = time.monotonic() + _LOCK_TIMEOUT
        finally:
            try:
                # Not only closed: a child that was forked meanwhile has the descriptor, too.
                fcntl.flock(count, fcntl.LOCK_UN)
            finally:
                _locked.discard(count)
                os.close(count)

    def _write_new(self, count: int, digest: bytes, first: int, blocks: list[memoryview]) -> None:
        """Write those blocks that are not there; called with the lock."""
        paths = [self.path_of(digest, first + place) for place in range(len(blocks))]
        new = [
            (path, first + place, data)
            for place, (path, data) in enumerate(zip(paths, blocks))
            if not os.path.exists(path)
        ]
        # A small cache keeps a part of a long run, rather than nothing else.
        del new[max(1, self._limit // 4 // BLOCK) :]
        sizes = [_allocated(header_size(len(data)) + len(data)) for _, _, data in new]
        used = self._make_room(count, sum(sizes))
        for size, (path, number, data) in zip(sizes, new):
            if used + size > self._limit or not self._is_current(count):
                # All other blocks together were too small to make room, or the folder was
                # deleted, and others count in a new one.
                return
            # Counted first: a process that is killed leaves a count that is too high.
            used += size
            _write_count(count, used)
            try:
                self._publish(path, describe_block(digest, number, data), data)
            except OSError:
                _write_count(count, used - size)
                raise

    def _publish(self, path: str, header: bytes, data: memoryview) -> None:
        new = f"{self._path}/{_NEW_NAME}"
        descriptor = os.open(new, _OPEN_NEW, 0o600)
        try:
            try:
                write_all(descriptor, memoryview(header))
                write_all(descriptor, data)
            finally:
                os.close(descriptor)
            try:
                os.rename(new, path)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(os.path.dirname(path), 0o700)
                os.rename(new, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise

    def _open_count(self) -> int:
        path = f"{self._path}/{_COUNT_NAME}"
        try:
            return os.open(path, _OPEN_COUNT, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._path, 0o700)
            return os.open(path, _OPEN_COUNT, 0o600)

    def _is_current(self, count: int) -> bool:
        """Whether an open count is that of the folder; raises FileNotFoundError if it has none."""
        return os.path.samestat(os.fstat(count), os.stat(f"{self._path}/{_COUNT_NAME}"))

    @staticmethod
    def _wait_for_lock(descriptor: int) -> bool:
        deadline = time.monotonic() + _LOCK_TIMEOUT
        while time.monotonic() <= deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_INTERVAL)
            else:
                return True
        return False

    def _make_room(self, count: int, size: int) -> int:
        """Return how many bytes are used, after removing blocks if there is no room for more."""
        used = _read_count(count)
        if used is not None and used + size <= self._limit:
            return used
        self._listing = True
        try:
            return self._remove_oldest(count, size)
        finally:
            self._listing = False

    def _remove_oldest(self, count: int, size: int) -> int:
        """Count what is there, and remove blocks if there is still no room."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._path}/{_NEW_NAME}")
        times, sizes = array("q"), array("q")
        for used_ns, length, _ in _list_blocks(self._path):
            times.append(used_ns)
            sizes.append(length)
        used = _allocated(_COUNT.size + _CHECKSUM.size) + sum(sizes)
        wanted = self._limit - size
        if used > wanted:
            wanted -= self._limit // _REMOVED_SHARE
            last = _last_to_remove(times, sizes, used - wanted)
            # Listed again, because there may be too many to keep their names.
            for used_ns, length, path in _list_blocks(self._path):
                if used <= wanted:
                    break
                if used_ns <= last:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                    used -= length
        _write_count(count, used)
        return used


def _list_blocks(path: str) -> Iterator[tuple[int, int, str]]:
    """Yield time of the last use, allocated bytes, and path of each block."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return
    for group in filter(_GROUP.fullmatch, names):
        with contextlib.suppress(FileNotFoundError), os.scandir(f"{path}/{group}") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    yield status.st_mtime_ns, _allocated(status.st_size), entry.path


def _last_to_remove(times: array[int], sizes: array[int], size: int) -> int:
    """Return the latest use among the oldest blocks that have a size together."""
    if not times:
        return 0
    order = np.argsort(np.asarray(times))
    enough = int(np.searchsorted(np.cumsum(np.asarray(sizes)[order]), size))
    return times[int(order[min(enough, len(order) - 1)])]


def _read_count(descriptor: int) -> int | None:
    """Return how many bytes are used, or None if that is not certain."""
    data = os.pread(descriptor, _COUNT.size + _CHECKSUM.size, 0)
    if len(data) != _COUNT.size + _CHECKSUM.size:
        return None
    magic, used, boot = _COUNT.unpack_from(data)
    (checksum,) = _CHECKSUM.unpack_from(data, _COUNT.size)
    # After a power failure, the count on disk may be older than the blocks.
    if magic != _COUNT_MAGIC or boot != _boot() or crc32c(data[: _COUNT.size]) != checksum:
        return None
    return int(used)


def _write_count(descriptor: int, used: int) -> None:
    data = _COUNT.pack(_COUNT_MAGIC, used, _boot())
    os.pwrite(descriptor, data + _CHECKSUM.pack(crc32c(data)), 0)


@functools.cache
def _boot() -> bytes:
    """Return what identifies this run of the system, where there is such a thing."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()[:36].ljust(36)
    except OSError:
        return bytes(36)


def _allocated(size: int) -> int:
    return -(-size // _ALLOCATION) * _ALLOCATION


def _forget_parent() -> None:
    # Locks are the parent's, and stay with it when the child closes them.
    for folder in _folders.values():
        folder.begin_child()
    for descriptor in _locked:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _locked.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
