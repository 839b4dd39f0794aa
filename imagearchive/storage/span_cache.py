"""`SpanCache`: decompressed spans that the threads of a process share."""

from __future__ import annotations

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
        # The spans that a thread of this process decompresses at the moment.
        self._begun: dict[Span, threading.Event] = {}
        self._requested: deque[tuple[Span, Callable[[], bytes]]] = deque(maxlen=_MAX_REQUESTS)

    def get(self, span: Span, decompress: Callable[[], bytes]) -> bytes:
        """Return a span, which is decompressed unless it is kept."""
        while True:
            data, begun = self._take_or_begin(span)
            if data is not None:
                return data
            if begun is None:
                return self._finish(span, decompress)
            if not self._work_ahead():
                # The thread that has begun may fail; then this one tries by itself.
                begun.wait()

    def request(self, span: Span, decompress: Callable[[], bytes]) -> None:
        """Have a span decompressed by a thread that has nothing else to do."""
        if span not in self._spans:
            self._requested.append((span, decompress))

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._requested.clear()
            self._spans.clear()
            self._bytes = 0

    def _take_or_begin(self, span: Span) -> tuple[bytes | None, threading.Event | None]:
        """Return a span that is kept, or the event of its end if another thread is at work on it.

        Otherwise it counts as begun by this thread.
        """
        with self._lock:
            if self._pid != os.getpid():
                # The threads of the parent are not here; one may have been about to add a span.
                self._pid, self._begun = os.getpid(), {}
                self._bytes = sum(map(len, self._spans.values()))
            data = self._spans.get(span)
            if data is not None:
                self._spans.move_to_end(span)
                return data, None
            begun = self._begun.get(span)
            if begun is None:
                self._begun[span] = threading.Event()
            return None, begun

    def _finish(self, span: Span, decompress: Callable[[], bytes]) -> bytes:
        """Decompress a span that this thread has begun."""
        data = None
        try:
            data = decompress()
            return data
        finally:
            with self._lock:
                if data is not None:
                    self._keep(span, data)
                begun = self._begun.pop(span, None)
            if begun is not None:
                begun.set()

    def _keep(self, span: Span, data: bytes) -> None:
        self._longest = max(self._longest, len(data))
        self._spans[span] = data
        self._bytes += len(data)
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
            with self._lock:
                if span in self._spans or span in self._begun:
                    continue
                self._begun[span] = threading.Event()
            try:
                self._finish(span, decompress)
            except (ImageArchiveError, OSError):
                pass
            return True
        return False
