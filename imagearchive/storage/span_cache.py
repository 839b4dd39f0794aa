"""`SpanCache`: decompressed spans that the threads of a process share."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from imagearchive.errors import ImageArchiveError
from imagearchive.storage.fork_lock import ForkSafeLock

__all__ = ["Span", "SpanCache"]

#: Names a span: the stream, and the number of the checkpoint at which it starts.
Span = tuple[str, int]

_MAX_REQUESTS: Final = 1 << 16


class SpanCache:
    """The spans between checkpoints that were used most recently, decompressed.

    Each span is decompressed by one thread, whichever asks first. Others that need it decompress
    spans meanwhile that were requested ahead.

    Parameters
    ----------
    limit : int
        Most bytes to keep, apart from one span for each of the places.
    places : int
        At how many places of the streams reads go on at the same time.

    Notes
    -----
    Safe for threads. A forked child keeps what its parent had decompressed.
    """

    def __init__(self, limit: int, places: int = 1) -> None:
        self._limit = limit
        self._places = places
        self._lock = ForkSafeLock()
        self._pid = os.getpid()
        self._spans: OrderedDict[Span, bytes] = OrderedDict()
        self._bytes = 0
        self._longest = 0
        # Each span that a thread of this process decompresses, and the lock that it holds.
        self._begun: dict[Span, threading.Lock] = {}
        self._requested: deque[tuple[Span, Callable[[], bytes]]] = deque(maxlen=_MAX_REQUESTS)
        self._local = threading.local()

    def get(self, span: Span, decompress: Callable[[], bytes]) -> bytes:
        """Return a span, which is decompressed unless it is kept."""
        while True:
            data = self._find(span)
            if data is not None:
                return data
            begun = self._lock_of(span)
            # A thread that makes a span of another must not begin a third: it may need the first.
            if not begun.locked() or self._is_decompressing() or not self._work_ahead():
                return self._make(span, begun, decompress)

    def request(self, span: Span, decompress: Callable[[], bytes]) -> None:
        """Have a span decompressed by a thread that has nothing else to do."""
        if span not in self._spans:
            self._requested.append((span, decompress))

    def clear(self) -> None:
        """Drop everything."""
        with self._lock.of_process():
            self._requested.clear()
            self._spans.clear()
            self._bytes = 0

    def _find(self, span: Span) -> bytes | None:
        """Return a span if it is kept."""
        with self._lock.of_process():
            data = self._spans.get(span)
            if data is not None:
                self._spans.move_to_end(span)
            return data

    def _lock_of(self, span: Span) -> threading.Lock:
        """Return the lock under which a span is decompressed.

        The span counts as begun while the lock is locked. An interrupt may come between any two
        steps, but a "with" block always ends that.
        """
        with self._lock.of_process():
            if self._pid != os.getpid():
                # The threads of the parent are not here.
                self._pid, self._begun = os.getpid(), {}
            return self._begun.setdefault(span, threading.Lock())

    def _make(self, span: Span, begun: threading.Lock, decompress: Callable[[], bytes]) -> bytes:
        """Decompress a span; if another thread is doing so, wait for it."""
        outer = self._is_decompressing()
        with begun:
            data = self._spans.get(span)
            try:
                # The other thread may have failed; then this one tries by itself.
                if data is None:
                    self._local.decompressing = True
                    data = decompress()
                    with self._lock.of_process():
                        self._keep(span, data)
                return data
            finally:
                self._local.decompressing = outer
                self._begun.pop(span, None)

    def _is_decompressing(self) -> bool:
        """Whether this thread has called a function that decompresses a span."""
        return getattr(self._local, "decompressing", False)

    def _keep(self, span: Span, data: bytes) -> None:
        self._longest = max(self._longest, len(data))
        self._spans[span] = data
        # Counted anew: an interrupt may have come after the line above.
        self._bytes = sum(map(len, self._spans.values()))
        while self._bytes > self._most() and len(self._spans) > 1:
            self._bytes -= len(self._spans.popitem(last=False)[1])

    def _most(self) -> int:
        return self._limit + self._places * self._longest

    def _work_ahead(self) -> bool:
        """Decompress the next span that was requested; return False if there is none, or no room.

        Errors are raised for the reader that needs the span.
        """
        while self._bytes + self._longest <= self._most():
            try:
                span, decompress = self._requested.popleft()
            except IndexError:
                return False
            if span in self._spans:
                continue
            begun = self._lock_of(span)
            if begun.locked():
                continue
            with contextlib.suppress(ImageArchiveError, OSError):
                self._make(span, begun, decompress)
            return True
        return False
