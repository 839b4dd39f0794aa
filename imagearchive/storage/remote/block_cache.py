"""Blocks of remote objects on local disk, shared by all processes of a machine.

A block is a file whose name is a digest of the object (URL, identity, size) and of the number of
the block. It appears by a rename when it is whole, and says itself which block it is, with a
checksum for each page. So a reader needs no lock: what it opens is a whole block of the right state
of the right object, or it is dropped and fetched again.

Only writers take turns, by a lock that the system releases when a process ends. The writer that
has it counts a block before it writes it, and removes the blocks that were not used for longest if
there is no room. So a process that is killed leaves at most a count that is too high, which is
corrected when the folder is listed to make room.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import re
import struct
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from imagearchive.storage.crc import crc32c
from imagearchive.storage.fork_lock import ForkSafeLock
from imagearchive.storage.path_options import BlockCacheOptions
from imagearchive.storage.remote.ranges import MAX_REQUEST

__all__ = ["BLOCK", "ObjectBlocks", "open_blocks"]

logger = logging.getLogger(__name__)

#: Bytes of a block. Larger ones make the first random epoch fetch more than it uses, smaller ones
#: make more files.
BLOCK: Final = 256 << 10
# What one checksum covers: a read checks no more than it needs.
_PAGE: Final = 16 << 10
# Magic, digest of the object and number of the block, bytes of data; then a checksum for each page,
# and one of the header itself.
_HEADER: Final = struct.Struct("<8s32sQI")
_MAGIC: Final = b"IABLOCK1"
_CHECKSUMS: Final = tuple(struct.Struct(f"<{pages}I") for pages in range(BLOCK // _PAGE + 2))
_MAX_HEADER: Final = _HEADER.size + _CHECKSUMS[-1].size
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

_OPEN_BLOCK: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_COUNT: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

_Request = Callable[[int, int], memoryview]


class _Flight:
    """A block that a thread of this process is fetching, for others that need it, too."""

    __slots__ = ("data", "done")

    def __init__(self) -> None:
        self.data: memoryview | None = None
        # A lock and not an event, so that an interrupt leaves nobody waiting.
        self.done = threading.Lock()
        self.done.acquire()

    def finish(self) -> None:
        if self.done.locked():
            self.done.release()

    def wait(self) -> memoryview | None:
        """Return the block; None if it could not be fetched."""
        with self.done:
            return self.data


_flights: dict[tuple[bytes, int], _Flight] = {}
_folders: dict[BlockCacheOptions, _Folder] = {}
_writers: Final = ForkSafeLock()
# Descriptors through which this process holds locks.
_locked: set[int] = set()


def open_blocks(options: BlockCacheOptions, name: str, identity: str, size: int) -> ObjectBlocks:
    """Return the blocks of one state of an object.

    Parameters
    ----------
    options : BlockCacheOptions
    name : str
        What distinguishes the object from all others on all servers, without credentials.
    identity : str
        What distinguishes its state from others; see `ObjectStatus`.
    size : int
        Of the object, in bytes.
    """
    text = repr((name, identity, size)).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=32, person=b"imagearchive").digest()
    folder = _folders.get(options) or _folders.setdefault(options, _Folder(options))
    return ObjectBlocks(folder, digest, size)


class ObjectBlocks:
    """The blocks of one state of an object, in the cache or on their way into it.

    Safe for threads and processes, and after a fork. Nothing that happens to the folder is an
    error: what cannot be read from it is requested, and what cannot be written is not cached.

    Parameters
    ----------
    folder : _Folder
    digest : bytes
        Of the object and its state.
    size : int
        Of the object.
    """

    def __init__(self, folder: _Folder, digest: bytes, size: int) -> None:
        self._folder = folder
        self._digest = digest
        self._size = size

    def holds(self, offset: int, size: int) -> bool:
        """Whether all of a range seems to be in the cache."""
        return all(
            os.path.exists(self._folder.path_of(self._digest, number))
            for number, _, _ in _split(offset, size)
        )

    def read(self, offset: int, size: int) -> bytes | None:
        """Return a range, or None if a part of it is not in the cache."""
        parts = []
        for number, start, stop in _split(offset, size):
            part = self._folder.load(self._digest, number, start, stop)
            if part is None:
                return None
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def fetch(self, offset: int, size: int, request: _Request) -> memoryview:
        """Return a range, and cache what had to be requested for it.

        Parameters
        ----------
        offset, size : int
        request : callable
            Requests offset and size. It is called for whole blocks, neighbors together. A block
            that another thread is requesting is not requested again.
        """
        found = bytearray(size)
        missing: list[int] = []
        for number, start, stop in _split(offset, size):
            part = self._folder.load(self._digest, number, start, stop)
            if part is None:
                missing.append(number)
            else:
                at = number * BLOCK + start - offset
                found[at : at + len(part)] = part

        def keep(number: int, data: memoryview) -> None:
            start = max(offset, number * BLOCK)
            stop = min(offset + size, number * BLOCK + len(data))
            found[start - offset : stop - offset] = data[
                start - number * BLOCK : stop - number * BLOCK
            ]

        mine: list[tuple[int, _Flight]] = []
        others: list[tuple[int, _Flight]] = []
        try:
            for number in missing:
                # In the list first, so that an interrupt leaves no flight that nobody finishes.
                mine.append((number, _Flight()))
                flight = _flights.setdefault((self._digest, number), mine[-1][1])
                if flight is not mine[-1][1]:
                    mine.pop()
                    others.append((number, flight))
            for run in _runs(mine):
                blocks = self._request(run[0][0], len(run), request)
                for (number, flight), data in zip(run, blocks):
                    flight.data = data
                    flight.finish()
                    keep(number, data)
                self._folder.store(self._digest, run[0][0], blocks)
        finally:
            for number, flight in mine:
                flight.finish()
                if _flights.get((self._digest, number)) is flight:
                    del _flights[self._digest, number]
        # Last, so that no two threads wait for each other.
        for number, flight in others:
            theirs = flight.wait()
            keep(number, self._request(number, 1, request)[0] if theirs is None else theirs)
        return memoryview(found).toreadonly()

    def _request(self, first: int, count: int, request: _Request) -> list[memoryview]:
        start = first * BLOCK
        data = request(start, min(count * BLOCK, self._size - start))
        return [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]


class _Folder:
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
        key = digest + number.to_bytes(8, "little")
        name = hashlib.blake2b(key, digest_size=16).hexdigest()
        return f"{self._path}/{name[:2]}/{name[2:]}"

    def load(self, digest: bytes, number: int, start: int, stop: int) -> bytes | None:
        """Return a part of a block; None if it is not there. A damaged block is removed."""
        path = self.path_of(digest, number)
        try:
            descriptor = os.open(path, _OPEN_BLOCK)
        except OSError:
            return None
        try:
            data = _read_block(descriptor, digest, number, start, stop)
            if data is None:
                logger.warning("%s: damaged; fetching this part of the object again", path)
                os.unlink(path)
            elif time.time() - os.fstat(descriptor).st_mtime > _TOUCH_INTERVAL:
                # Fails in a folder that may only be read.
                with contextlib.suppress(OSError):
                    os.utime(descriptor)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return data

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
        with self._lock() as count:
            if count is None:
                # Another process is listing the folder: read on meanwhile.
                self._quiet_until = time.monotonic() + _LOCK_TIMEOUT
                return
            paths = [self.path_of(digest, first + place) for place in range(len(blocks))]
            new = [
                (path, first + place, data)
                for place, (path, data) in enumerate(zip(paths, blocks))
                if not os.path.exists(path)
            ]
            # A small cache keeps a part of a long run, rather than nothing else.
            del new[max(1, self._limit // 4 // BLOCK) :]
            sizes = [_allocated(_header_size(len(data)) + len(data)) for _, _, data in new]
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
                    self._publish(path, _describe(digest, number, data), data)
                except OSError:
                    _write_count(count, used - size)
                    raise

    def _publish(self, path: str, header: bytes, data: memoryview) -> None:
        new = f"{self._path}/{_NEW_NAME}"
        descriptor = os.open(new, _OPEN_NEW, 0o600)
        try:
            try:
                _write_all(descriptor, memoryview(header))
                _write_all(descriptor, data)
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

    @contextlib.contextmanager
    def _lock(self) -> Iterator[int | None]:
        """Lock the folder for writing; yield the descriptor of the count, or None if it is busy."""
        deadline = time.monotonic() + _LOCK_TIMEOUT
        descriptor = self._open_count()
        _locked.add(descriptor)
        try:
            while not self._try_lock(descriptor):
                if time.monotonic() > deadline:
                    yield None
                    return
                time.sleep(_LOCK_INTERVAL)
            # Otherwise the folder was deleted while this process waited.
            yield descriptor if self._is_current(descriptor) else None
        finally:
            # Not only closed: a child that was forked meanwhile has the descriptor, too.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            _locked.discard(descriptor)
            os.close(descriptor)

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
    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

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
        for used_ns, length, _ in self._list():
            times.append(used_ns)
            sizes.append(length)
        used = _allocated(_COUNT.size + _CHECKSUM.size) + sum(sizes)
        wanted = self._limit - size
        if used > wanted:
            wanted -= self._limit // _REMOVED_SHARE
            last = _last_to_remove(times, sizes, used - wanted)
            # Listed again, because there may be too many to keep their names.
            for used_ns, length, path in self._list():
                if used <= wanted:
                    break
                if used_ns <= last:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                    used -= length
        _write_count(count, used)
        return used

    def _list(self) -> Iterator[tuple[int, int, str]]:
        """Yield time of the last use, allocated bytes, and path of each block."""
        for group in filter(_GROUP.fullmatch, os.listdir(self._path)):
            with os.scandir(f"{self._path}/{group}") as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield status.st_mtime_ns, _allocated(status.st_size), entry.path


def _split(offset: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield the blocks of a range, each with the beginning and end of the range within it."""
    end = offset + size
    for number in range(offset // BLOCK, -(-end // BLOCK)):
        start = number * BLOCK
        yield number, max(offset - start, 0), min(end - start, BLOCK)


def _last_to_remove(times: array[int], sizes: array[int], size: int) -> int:
    """Return the latest use among the oldest blocks that have a size together."""
    if not times:
        return 0
    order = np.argsort(np.asarray(times))
    enough = int(np.searchsorted(np.cumsum(np.asarray(sizes)[order]), size))
    return times[int(order[min(enough, len(order) - 1)])]


def _runs(flights: list[tuple[int, _Flight]]) -> Iterator[list[tuple[int, _Flight]]]:
    """Yield flights of neighboring blocks together, as far as one request should go."""
    run: list[tuple[int, _Flight]] = []
    for flight in flights:
        if run and (flight[0] != run[-1][0] + 1 or len(run) * BLOCK >= MAX_REQUEST):
            yield run
            run = []
        run.append(flight)
    if run:
        yield run


def _read_block(descriptor: int, digest: bytes, number: int, start: int, stop: int) -> bytes | None:
    """Return a part of an open block, or None if it is damaged."""
    head = os.pread(descriptor, _MAX_HEADER, 0)
    if len(head) < _HEADER.size:
        return None
    magic, described, counted, length = _HEADER.unpack_from(head)
    if (magic, described, counted) != (_MAGIC, digest, number) or not stop <= length <= BLOCK:
        return None
    pages = -(-length // _PAGE)
    size = _header_size(length)
    if len(head) < size:
        return None
    *checksums, own = _CHECKSUMS[pages + 1].unpack_from(head, _HEADER.size)
    if crc32c(head[: size - _CHECKSUM.size]) != own:
        return None
    first = start // _PAGE
    end = min(-(-stop // _PAGE) * _PAGE, length)
    data = os.pread(descriptor, end - first * _PAGE, size + first * _PAGE)
    view = memoryview(data)
    if len(data) != end - first * _PAGE or any(
        crc32c(view[at : at + _PAGE]) != checksums[first + at // _PAGE]
        for at in range(0, len(data), _PAGE)
    ):
        return None
    return data[start - first * _PAGE : stop - first * _PAGE]


def _header_size(length: int) -> int:
    return _HEADER.size + _CHECKSUMS[-(-length // _PAGE) + 1].size


def _describe(digest: bytes, number: int, data: memoryview) -> bytes:
    """Return the header of a block."""
    checksums = [crc32c(data[at : at + _PAGE]) for at in range(0, len(data), _PAGE)]
    header = _HEADER.pack(_MAGIC, digest, number, len(data))
    header += _CHECKSUMS[len(checksums)].pack(*checksums)
    return header + _CHECKSUM.pack(crc32c(header))


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


def _write_all(descriptor: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(descriptor, data) :]


def _allocated(size: int) -> int:
    return -(-size // _ALLOCATION) * _ALLOCATION


def _forget_parent() -> None:
    # Blocks under way, and locks, are the parent's. A lock stays with it when the child closes it.
    _flights.clear()
    for folder in _folders.values():
        folder.begin_child()
    for descriptor in _locked:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _locked.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
