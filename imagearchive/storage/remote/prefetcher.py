"""Requests ahead: what will be read soon is fetched by many requests at once, in bounded memory."""

from __future__ import annotations

import atexit
import contextlib
import copy
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Final

from imagearchive.storage.mapping import SharedBytes
from imagearchive.storage.remote.ranges import Request, plan_requests
from imagearchive.storage.task_threads import start_thread

__all__ = [
    "MAX_IN_FLIGHT",
    "PREFETCH_BYTES",
    "Owner",
    "Prefetcher",
    "abandon",
    "prefetcher",
    "set_prefetch_bytes",
]

#: Requests that a process has under way at the same time.
MAX_IN_FLIGHT: Final = 64
#: Most bytes that a process has fetched, or is fetching, and that nobody has read yet.
PREFETCH_BYTES: Final = 256 << 20
# Seconds that the end of the program waits for requests under way.
_EXIT_TIMEOUT: Final = 5.0

_Fetch = Callable[[int, int], memoryview]
_QUEUED, _RUNNING, _DONE = range(3)


class _Pending:
    """A request that was announced, and what it brought."""

    __slots__ = ("data", "done", "error", "maker", "owner", "request", "state", "unread")

    def __init__(self, owner: Owner, request: Request) -> None:
        self.owner = owner
        self.request = request
        self.state = _QUEUED
        # The call of a reader that makes it; None if a thread of the prefetcher does. It is known
        # here and not by what `_claim` returns, which Python 3.10 may lose at an interrupt.
        self.maker: object = None
        # Ranges that nobody has read yet.
        self.unread = len(request.ranges)
        # Threads read different ranges of it at the same time.
        self.data: SharedBytes | None = None
        self.error: Exception | None = None
        # Locked until the data is there. A lock and not an event, so that an interrupt leaves
        # nobody waiting; see `imagearchive.storage.task_threads`.
        self.done = threading.Lock()
        self.done.acquire()

    @property
    def end(self) -> int:
        return self.request.offset + self.request.size

    def run(self) -> None:
        """Make the request."""
        try:
            self.data = SharedBytes(self.owner.fetch(self.request.offset, self.request.size))
        except Exception as error:  # noqa: BLE001 - raised again by who reads the range
            self.error = error
        finally:
            self.state = _DONE
            self.done.release()

    def give_up(self) -> None:
        """Let others go on without the data, if the request was interrupted before it was made."""
        if self.state != _DONE:
            self.state = _DONE
            self.done.release()


class Owner:
    """The announced ranges of one storage.

    Parameters
    ----------
    fetch : callable
        Reads offset and size by one request. It must not refer to the storage, which could not be
        collected otherwise.
    """

    def __init__(self, fetch: _Fetch) -> None:
        self.fetch = fetch
        self.pid = os.getpid()
        self.by_range: dict[tuple[int, int], _Pending] = {}
        self.pending: list[_Pending] = []


class Prefetcher:
    """Fetches announced ranges in their order, and keeps them until they are read.

    A range that a reader needs before its turn has come is fetched by the reader itself. If memory
    is full of ranges that nobody reads, such as those of an epoch that was given up, the oldest
    make room. Safe for threads; each process has its own.

    Parameters
    ----------
    limit : int
        Most bytes, apart from one request for each thread that waits for one. At most half of them
        are under way.
    in_flight : int
        Most requests at the same time.
    """

    def __init__(self, limit: int = PREFETCH_BYTES, in_flight: int = MAX_IN_FLIGHT) -> None:
        self.limit = limit
        self.in_flight = in_flight
        self._lock = threading.Lock()
        self._queue: deque[_Pending] = deque()
        self._kept: dict[_Pending, None] = {}
        self._used = 0
        # Including what has ended since `_start` looked.
        self._under_way: dict[_Pending, None] = {}
        self._bytes_under_way = 0
        self._work: SimpleQueue[_Pending | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        self._abandoned: deque[Owner] = deque()

    @property
    def used(self) -> int:
        """Bytes that are fetched or being fetched, and not read yet."""
        return self._used

    def announce(self, owner: Owner, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetch ranges that will be read soon; those that were announced before are left out."""
        ranges = list(ranges)
        with self._lock:
            self._announce(owner, ranges)

    def _announce(self, owner: Owner, ranges: list[tuple[int, int]]) -> None:
        for one in ranges:
            self._drop_failed(owner.by_range.get(one))
        new = [one for one in ranges if one not in owner.by_range]
        for request in plan_requests(new):
            pending = _Pending(owner, request)
            owner.pending.append(pending)
            for one in request.ranges:
                owner.by_range[one] = pending
            self._queue.append(pending)
        self._start()

    def read(self, owner: Owner, offset: int, size: int) -> bytes | None:
        """Return a range that was announced, or None if the caller is to request it.

        Raises what the request raised, unless it failed before: the server may be well again.
        """
        if not owner.by_range:
            return None
        pending, me = None, object()
        try:
            with self._lock:
                self._drop_failed(owner.by_range.get((offset, size)))
                pending = owner.by_range.pop((offset, size), None)
                if pending is not None:
                    self._claim(pending, me)
            return None if pending is None else self._take(pending, me, offset, size)
        finally:
            # Also after an interrupt: nobody else makes the request, or reads the range.
            if pending is not None:
                with self._lock:
                    mine = pending.maker is me
                    pending.unread -= 1
                    if mine:
                        pending.give_up()
                    if pending.unread <= 0:
                        self._drop(pending)
                    if mine or pending.unread <= 0:
                        self._start()

    def read_part(self, owner: Owner, offset: int, size: int) -> bytes | None:
        """Return as much of a range as the announced range around its beginning holds, or None.

        The announced range is kept until `forget`.
        """
        pending, me = None, object()
        try:
            with self._lock:
                pending = self._find(owner, offset)
                if pending is not None:
                    self._claim(pending, me)
            if pending is None:
                return None
            return self._take(pending, me, offset, min(size, pending.end - offset))
        finally:
            if pending is not None and pending.maker is me:
                with self._lock:
                    pending.give_up()
                    self._start()

    def _find(self, owner: Owner, offset: int) -> _Pending | None:
        """Return what was announced around an offset and did not fail; called with the lock."""
        for pending in list(owner.pending):
            self._drop_failed(pending)
        for pending in owner.pending:
            if pending.request.offset <= offset < pending.end:
                return pending
        return None

    def _claim(self, pending: _Pending, reader: object) -> None:
        """Let a reader make a request that has not begun; called with the lock."""
        if pending.state != _QUEUED:
            return
        self._dequeue(pending)
        # A reader may find room for what it wants while the next request does not fit. If room were
        # made for the reader alone, nothing would be fetched ahead from then on.
        following = self._queue[0].request.size if self._queue else 0
        self._make_room(max(pending.request.size, following))
        self._begin(pending, reader)

    def _take(self, pending: _Pending, reader: object, offset: int, size: int) -> bytes | None:
        if pending.maker is reader:
            pending.run()
        with pending.done:
            data, error = pending.data, pending.error
        if data is None:
            with self._lock:
                self._drop(pending)
                self._start()
        if error is not None:
            raise copy.copy(error) from error
        if data is None:
            # Its reader was interrupted.
            return None
        start = offset - pending.request.offset
        # A copy, so that a small member does not keep a large buffer alive.
        return bytes(data.view(start, min(size, len(data) - start)))

    def forget(self, owner: Owner, before: int | None = None) -> None:
        """Drop what was announced for a storage, or only what ends before an offset."""
        with self._lock:
            self._forget(owner, before)
            self._start()

    def abandon(self, owner: Owner) -> None:
        """Drop what was announced for a storage that is gone; may be called at any moment."""
        self._abandoned.append(owner)
        # The garbage collector may call this in a thread that has the lock.
        if self._lock.acquire(blocking=False):
            try:
                self._forget_abandoned()
            finally:
                self._lock.release()

    def _forget_abandoned(self) -> None:
        while self._abandoned:
            self._forget(self._abandoned.popleft())

    def _forget(self, owner: Owner, before: int | None = None) -> None:
        for pending in [one for one in owner.pending if before is None or one.end <= before]:
            if pending.state == _QUEUED:
                self._dequeue(pending)
            self._drop(pending)

    def _dequeue(self, pending: _Pending) -> None:
        # It may be missing after an interrupt.
        with contextlib.suppress(ValueError):
            self._queue.remove(pending)

    def close(self) -> None:
        """Start nothing more, and wait a moment for what is under way."""
        with self._lock:
            self._closed = True
        self._work.put(None)
        until = time.monotonic() + _EXIT_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _start(self) -> None:
        """Begin requests as far as there is room; called with the lock."""
        self._forget_abandoned()
        # Here and not where they end, so that after an interrupt none counts for good.
        for ended in [one for one in self._under_way if one.state == _DONE]:
            del self._under_way[ended]
            self._bytes_under_way -= ended.request.size
        while self._queue and not self._closed and len(self._under_way) < self.in_flight:
            size = self._queue[0].request.size
            if self._used and self._used + size > self.limit:
                return
            # Requests share the bandwidth. If all ran at once, the first would end with the last.
            if self._under_way and self._bytes_under_way + size > self.limit // 2:
                return
            if self._idle < 1 and not self._add_thread():
                # Readers make the requests.
                return
            pending = self._queue.popleft()
            self._idle -= 1
            # The thread waits for the lock. In the other order, an interrupt between the two would
            # leave a request that has begun and that nobody makes.
            self._work.put(pending)
            self._begin(pending)

    def _begin(self, pending: _Pending, maker: object = None) -> None:
        pending.maker = maker
        pending.state = _RUNNING
        self._under_way[pending] = None
        self._bytes_under_way += pending.request.size
        self._used += pending.request.size
        self._kept[pending] = None

    def _add_thread(self) -> bool:
        # A daemon, because a request may take minutes, and the program should end.
        thread = threading.Thread(target=self._serve, name="imagearchive-fetch", daemon=True)
        try:
            start_thread(thread)
        except RuntimeError:
            return False
        self._threads.append(thread)
        self._idle += 1
        return True

    def _serve(self) -> None:
        while (pending := self._work.get()) is not None:
            with self._lock:
                # After an interrupt it may not have begun; its reader makes it then.
                begun = pending.state == _RUNNING and pending.maker is None
            if begun:
                pending.run()
            with self._lock:
                self._idle += 1
                self._start()
            del pending
        # For the next thread, also for one that was interrupted while it was started.
        self._work.put(None)

    def _make_room(self, size: int) -> None:
        """Drop the oldest ranges that were fetched and not read; called with the lock.

        If the memory is full, half of it is made free: a reader came before its turn, so what
        fills the memory is probably of no use, and the requests ahead need room as well.
        """
        if self._used + size <= self.limit:
            return
        for pending in list(self._kept):
            if self._used + size <= self.limit // 2:
                return
            if pending.state == _DONE:
                self._drop(pending)

    def _drop_failed(self, pending: _Pending | None) -> None:
        """Forget a request that failed, and for which nobody waited; called with the lock."""
        if pending is not None and pending.error is not None:
            self._drop(pending)

    def _drop(self, pending: _Pending) -> None:
        """Forget a request; who waits for it still gets its data. Called with the lock."""
        if pending in self._kept:
            del self._kept[pending]
            self._used -= pending.request.size
        owner = pending.owner
        if pending in owner.pending:
            owner.pending.remove(pending)
        for one in pending.request.ranges:
            if owner.by_range.get(one) is pending:
                del owner.by_range[one]


_current = [Prefetcher()]


def prefetcher() -> Prefetcher:
    """Return the one of this process."""
    return _current[0]


def abandon(owners: Iterable[Owner]) -> None:
    """Drop what was announced for a storage that is gone, unless it was a parent's."""
    for owner in owners:
        if owner.pid == os.getpid():
            _current[0].abandon(owner)


def set_prefetch_bytes(limit: int) -> None:
    """Set how many bytes this process, and those that it forks, may have fetched ahead."""
    _current[0].limit = limit


def _replace_in_child() -> None:
    # The threads are gone, and the lock may be locked. Ranges under way are the parent's.
    _current[0] = Prefetcher(_current[0].limit, _current[0].in_flight)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_in_child)


@atexit.register
def _close() -> None:
    _current[0].close()
