"""Run work over a range of positions in a few threads, and stop all of them at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final

from imagearchive.errors import OptionError, WorkerError

__all__ = ["Chunks", "StoppedError", "in_threads"]

# More threads than this do not make files faster, and an archive on a disk slower.
MAX_DEFAULT: Final = 4


class StoppedError(WorkerError):
    """Work was given up because another thread failed or the user interrupted."""


class Chunks(Iterator[range]):
    """Consecutive ranges below `count`, handed out to any number of threads.

    Ends early once `stop` was called.
    """

    def __init__(self, count: int, chunk: int) -> None:
        self._starts = iter(range(0, count, chunk))
        self._count = count
        self._chunk = chunk
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def __next__(self) -> range:
        if self._stopped.is_set():
            raise StopIteration
        with self._lock:
            start = next(self._starts)
        return range(start, min(start + self._chunk, self._count))

    def stop(self) -> None:
        """Hand out nothing more."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def check(self) -> None:
        """Raise `StoppedError` if `stop` was called; for the middle of long work."""
        if self._stopped.is_set():
            raise StoppedError("stopped")


def in_threads(work: Callable[[Chunks], None], count: int, chunk: int, threads: int | None) -> None:
    """Call ``work(chunks)`` in several threads, which share the chunks.

    Parameters
    ----------
    work : callable
        Goes through the ranges that it is given.
    count, chunk : int
        How many positions there are, and how many a thread takes at a time.
    threads : int, optional
        By default one for each processor, four at most. With one, or where there is one chunk
        only, `work` runs in the calling thread.

    Raises
    ------
    OptionError
        `threads` is less than one.
    Exception
        What `work` raised first; the other threads then end after what they are at. So does an
        interrupt of the calling thread.
    """
    if threads is None:
        threads = min(MAX_DEFAULT, os.cpu_count() or 1)
    if threads < 1:
        raise OptionError(f"threads={threads}: at least one is needed")
    chunks = Chunks(count, chunk)
    threads = min(threads, -(-count // chunk))
    if threads <= 1:
        work(chunks)
        return

    def run() -> None:
        whole = False
        try:
            work(chunks)
            whole = True
        finally:
            if not whole:
                chunks.stop()

    with ThreadPoolExecutor(threads, thread_name_prefix="imagearchive") as pool:
        try:
            futures = [pool.submit(run) for _ in range(threads)]
            wait(futures)
        finally:
            # An interrupt reaches this thread alone.
            chunks.stop()
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    if errors:
        # Those that were stopped say nothing about the cause.
        raise min(errors, key=lambda error: isinstance(error, StoppedError))
