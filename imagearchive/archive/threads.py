"""Divide a range of positions among a few threads, which all stop at the first error."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Final

from imagearchive.errors import WorkerError
from imagearchive.errors.arguments import check_integer
from imagearchive.storage.task_threads import TaskThreads

__all__ = ["Chunks", "StoppedError", "run_in_threads"]

# More threads write files no faster, and read an archive on a disk more slowly.
DEFAULT_THREADS: Final = 4


class StoppedError(WorkerError):
    """A thread gave up its work because another one failed or the user interrupted."""


class Chunks(Iterator[range]):
    """Consecutive ranges below `count`, shared by any number of threads.

    Each range goes to one of them. The iterator ends early after `stop`.
    """

    def __init__(self, count: int, chunk: int) -> None:
        self._starts = iter(range(0, count, chunk))
        self._count = count
        self._chunk = chunk
        self._lock = threading.Lock()
        # Not an Event, which a signal handler may leave locked.
        self._stopped = False

    def __next__(self) -> range:
        if self._stopped:
            raise StopIteration
        with self._lock:
            start = next(self._starts)
        return range(start, min(start + self._chunk, self._count))

    def stop(self) -> None:
        """End the iterator in every thread."""
        self._stopped = True

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def check(self) -> None:
        """Raise `StoppedError` after `stop`; to call in the middle of long work."""
        if self._stopped:
            raise StoppedError("stopped")


def run_in_threads(
    work: Callable[[Chunks], None], count: int, chunk: int, threads: int | None
) -> None:
    """Call ``work(chunks)`` in several threads, which share the chunks.

    Returns or raises only when none of the threads is at work any more, so the caller may close
    the files that they use.

    Parameters
    ----------
    work : callable
        Iterates over the `Chunks` that it is given.
    count, chunk : int
        How many positions there are, and how many a thread takes at a time.
    threads : int, optional
        By default one for each processor, four at most. With one, or with a single chunk, `work`
        runs in the calling thread.

    Raises
    ------
    OptionError, OptionTypeError
        `threads` is not a positive integer.
    Exception
        The first that `work` raised. The other threads stop at their next chunk or `check`, as
        they do when the calling thread is interrupted.
    """
    if threads is None:
        threads = min(DEFAULT_THREADS, os.cpu_count() or 1)
    check_integer("threads", threads, 1)
    chunks = Chunks(count, chunk)
    threads = min(threads, -(-count // chunk))
    if threads <= 1:
        work(chunks)
        return

    with TaskThreads(threads) as pool:
        try:
            # An interrupt may come when some of the threads are at work already.
            tasks = [pool.submit(_work, work, chunks) for _ in range(threads)]
            outcomes = [task.exception() for task in tasks]
        finally:
            chunks.stop()
    errors = [outcome for outcome in outcomes if outcome is not None]
    if errors:
        # Those that were stopped say nothing about the cause.
        raise min(errors, key=lambda error: isinstance(error, StoppedError))


def _work(work: Callable[[Chunks], None], chunks: Chunks) -> None:
    try:
        work(chunks)
    except BaseException:
        chunks.stop()
        raise
