"""A remote object as a storage."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NoReturn

from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    CorruptArchiveError,
    OptionTypeError,
)
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.closing import Closable
from imagearchive.storage.fork_lock import ForkSafeLock
from imagearchive.storage.remote.client import Client, ClientFactory, ObjectStatus
from imagearchive.storage.remote.prefetcher import Owner, abandon, prefetcher
from imagearchive.storage.remote.ranges import MAX_REQUEST

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.remote.block_cache import ObjectBlocks

__all__ = ["HEAD_BYTES", "RemoteStorage"]

#: How much of the beginning of an object is requested when it is opened.
HEAD_BYTES: Final = 16 << 10

# What is a small read, and how large a block is: it takes as long.
_SMALL: Final = 2 << 10
_BLOCK: Final = HEAD_BYTES
# A read that begins at most this far after the end of the last one continues it. On the way, as
# much time passes as until the answer to another request.
_STRIDE: Final = 2 << 20
# After so many such reads, what follows is fetched ahead.
_STREAK: Final = 2
# How much is fetched ahead, and in which parts.
_AHEAD: Final = 32 << 20
_PART: Final = 4 << 20
# Whose ranges are fetched ahead: what was announced, and what follows reads in order.
_ANNOUNCED, _IN_ORDER = range(2)


class _Requests:
    """Requests ranges of one state of an object; what is fetched ahead refers to it."""

    def __init__(
        self,
        path: str,
        key: str,
        client: ClientFactory,
        status: ObjectStatus,
        cache: ObjectBlocks | None,
    ) -> None:
        self.path, self.key, self.client, self.status = path, key, client, status
        self.cache = cache

    def fetch(self, offset: int, size: int) -> memoryview:
        """Return a range, from the cache if it is there."""
        if self.cache is None:
            return self.request(offset, size)
        return self.cache.fetch(offset, size, self.request)

    def request(self, offset: int, size: int) -> memoryview:
        """Return a range, by a request."""
        try:
            client: Client = self.client()
            return client.read(self.key, offset, size, self.status)
        except FileNotFoundError:
            raise ArchiveNotFoundError(
                f"{self.path}: the object was deleted while it was open"
            ) from None


class RemoteStorage(Closable):
    """An object on a server: every read is a request, unless it was fetched ahead.

    Safe for threads. A forked child makes clients of its own. Every request says which state of
    the object it expects, so bytes of two states never mix.

    Parameters
    ----------
    path : str
        The URL, for messages.
    key : str
        What the client calls the object.
    client : callable
        Returns the client of the current process.
    status : ObjectStatus
        The state of the object.
    head : bytes, optional
        The first bytes, if they are known, or else empty. If it is given, small reads fetch a block
        each, of which the last one is kept, because what follows is often read next. For headers,
        and not for members.
    cache : ObjectBlocks, optional
        Its blocks on this machine. Small reads with `head` do not add to them.
    """

    zero_copy = False

    def __init__(
        self,
        path: str,
        key: str,
        client: ClientFactory,
        status: ObjectStatus,
        head: bytes | None = None,
        cache: ObjectBlocks | None = None,
    ) -> None:
        self.path = path
        self.size = status.size
        self.identity = status.identity
        self._requests = _Requests(path, key, client, status, cache)
        self._cache = cache
        self._owners = [Owner(self._requests.fetch), Owner(self._requests.fetch)]
        self._pid = os.getpid()
        self._following = ForkSafeLock()
        # For who drops a storage, or a loader, without closing it.
        weakref.finalize(self, abandon, self._owners).atexit = False
        # Offset and bytes of the last block; replaced as a whole.
        self._block = (0, head or b"")
        self._small = 0 if head is None else _SMALL
        self._reads_ahead = True
        # Where the last read ended, how many before it were in order, and how far was fetched.
        self._last = -1
        self._streak = 0
        self._ahead = 0

    def read(self, offset: int, size: int) -> bytes:
        """Return a range, as bytes of its own."""
        self._check(offset, size)
        if not size:
            return b""
        self._follow_fork()
        found = prefetcher().read(self._owners[_ANNOUNCED], offset, size)
        if found is None and self._cache is not None:
            found = self._cache.read(offset, size)
        if found is not None:
            return found
        if self._reads_ahead and self._note(offset, size):
            return self._read_in_order(offset, size)
        if size > self._small:
            return bytes(self._requests.fetch(offset, size))
        start, block = self._block
        if not start <= offset <= offset + size <= start + len(block):
            size_of_block = min(_BLOCK, self.size - offset)
            start, block = offset, bytes(self._requests.request(offset, size_of_block))
            self._block = (start, block)
        return block[offset - start : offset - start + size]

    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Fill a writable buffer from `offset`."""
        target = memoryview(buffer).cast("B")
        target[:] = self.read(offset, len(target))
        return len(target)

    def prefetch(self, offset: int, size: int) -> None:
        """Request a range that will be read soon."""
        self.prefetch_ranges([(offset, size)])

    def prefetch_ranges(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Request ranges that will be read soon, neighbors together."""
        inside = [
            (offset, size)
            for offset, size in ranges
            if offset >= 0
            and size > 0
            and offset + size <= self.size
            # What is on this machine is read when it is needed.
            and not (self._cache is not None and self._cache.holds(offset, size))
        ]
        if inside and not self._closed:
            self._follow_fork()
            prefetcher().announce(self._owners[_ANNOUNCED], inside)

    def scattered(self) -> RemoteStorage:
        """Return a storage of the same object for reads that are far apart."""
        made = self._requests
        other = RemoteStorage(made.path, made.key, made.client, made.status)
        other._reads_ahead = False
        return other

    def check_unchanged(self) -> None:
        """Do nothing: the server refuses to send bytes of another state of the object."""

    def close(self) -> None:
        """Drop what was fetched ahead."""
        if not self._closed and self._pid == os.getpid():
            for owner in self._owners:
                prefetcher().forget(owner)
        super().close()

    def __reduce__(self) -> NoReturn:
        raise OptionTypeError(
            "a RemoteStorage cannot be pickled: pickle the path and open it again"
        )

    def _follow_fork(self) -> None:
        """Begin anew in a forked child, which has nothing of what its parent fetched."""
        if self._pid == os.getpid():
            return
        with self._following.of_process():
            # Another thread may have done it while this one waited.
            if self._pid != os.getpid():
                self._owners[:] = Owner(self._requests.fetch), Owner(self._requests.fetch)
                self._pid, self._ahead = os.getpid(), 0

    def _read_in_order(self, offset: int, size: int) -> bytes:
        """Return a range of which the beginning, at least, was fetched ahead."""
        found = bytearray()
        while len(found) < size:
            at, left = offset + len(found), size - len(found)
            part = prefetcher().read_part(self._owners[_IN_ORDER], at, left)
            found += self._requests.fetch(at, left) if part is None else part
        return bytes(found)

    def _note(self, offset: int, size: int) -> bool:
        """Fetch ahead if the reads are in order, such as those of a scan; return whether they are.

        Several threads that read at once only make it begin later or fetch more than necessary.
        """
        last, self._last = self._last, offset + size
        if not 0 <= offset - last <= _STRIDE or last < 0:
            if self._ahead:
                prefetcher().forget(self._owners[_IN_ORDER])
            self._streak = self._ahead = 0
            return False
        self._streak += 1
        if self._streak < _STREAK:
            return False
        # More with each step, so that a short run in order costs little.
        ahead = min(_AHEAD, _PART << min(self._streak - _STREAK, 8))
        start = max(offset, self._ahead)
        limit = min(self.size, offset + size + ahead)
        if limit - start >= _PART or limit == self.size > start:
            parts = [(at, min(_PART, limit - at)) for at in range(start, limit, _PART)]
            prefetcher().announce(self._owners[_IN_ORDER], parts)
            prefetcher().forget(self._owners[_IN_ORDER], before=offset)
            self._ahead = limit
        return True

    def _check(self, offset: int, size: int) -> None:
        if self._closed:
            raise ClosedError(f"{self.path}: closed; open the archive again to read from it")
        if offset < 0 or size < 0 or offset + size > self.size:
            raise CorruptArchiveError(
                f"{self.path}: a range of {pluralize(size, 'byte')} at offset {offset} is not "
                f"within the object of {pluralize(self.size, 'byte')}; it is truncated, or its "
                "index belongs to another object"
            )


assert _PART <= MAX_REQUEST
