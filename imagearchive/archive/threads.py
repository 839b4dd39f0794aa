"""Divide a range of positions among a few threads, which all stop at the first error."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Final

from imagearchive.errors import WorkerError
from imagearchive.errors.arguments import check_integer

__all__ = ["Chunks", "StoppedError", "run_in_threads"]

logger = logging.getLogger(__name__)

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
        self._stopped = threading.Event()

    def __next__(self) -> range:
        if self._stopped.is_set():
            raise StopIteration
        with self._lock:
            start = next(self._starts)
        return range(start, min(start + self._chunk, self._count))

    def stop(self) -> None:
        """End the iterator in every thread."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def check(self) -> None:
        """Raise `StoppedError` after `stop`; to call in the middle of long work."""
        if self._stopped.is_set():
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

    group = _ThreadGroup(work, chunks)
    try:
        started = sum(group.start() for _ in range(threads))
        if started < threads:
            logger.info("the system granted %d of %d threads", started, threads)
        if not started:
            group.run()
        group.wait()
    finally:
        group.stop()
    if group.errors:
        # Those that were stopped say nothing about the cause.
        raise min(group.errors, key=lambda error: isinstance(error, StoppedError))


class _ThreadGroup:
    """Threads that do the same work.

    `ThreadPoolExecutor` does not do: an interrupt while it starts a thread leaves that thread
    running, and neither `shutdown` nor a future knows of it.
    """

    def __init__(self, work: Callable[[Chunks], None], chunks: Chunks) -> None:
        self._work = work
        self._chunks = chunks
        self._threads: list[threading.Thread] = []
        self._active = 0
        self._changed = threading.Condition()
        self.errors: list[BaseException] = []

    def start(self) -> bool:
        """Start another thread; return whether the system granted one."""
        thread = threading.Thread(target=self.run, name="imagearchive")
        try:
            thread.start()
        except RuntimeError:
            return False
        self._threads.append(thread)
        return True

    def run(self) -> None:
        """Work in the calling thread."""
        with self._changed:
            if self._chunks.stopped:
                return
            self._active += 1
        try:
            self._work(self._chunks)
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            self._chunks.stop()
            self.errors.append(error)
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def wait(self) -> None:
        """Wait until all threads are done."""
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Let no thread begin, and wait for those at work, however often that is interrupted."""
        interrupt = None
        while True:
            try:
                with self._changed:
                    self._chunks.stop()
                    while self._active:
                        self._changed.wait()
            except KeyboardInterrupt as error:
                # They write to descriptors that the caller is about to close.
                interrupt = error
            else:
                break
        if interrupt is not None:
            raise interrupt
