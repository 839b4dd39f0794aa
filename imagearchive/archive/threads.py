"""Run work over a range of positions in a few threads, and stop all of them at once."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Final

from imagearchive.errors import OptionError, WorkerError

__all__ = ["Chunks", "StoppedError", "in_threads"]

logger = logging.getLogger(__name__)

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

    crew = _Crew(work, chunks)
    members: list[threading.Thread] = []
    try:
        for _ in range(threads):
            member = threading.Thread(target=crew.run, name="imagearchive")
            try:
                member.start()
            except RuntimeError as error:
                # The system grants no more of them; the work is done by those that there are.
                logger.info("%d of %d threads: %s", len(members), threads, error)
                break
            members.append(member)
        if not members:
            crew.run()
        for member in members:
            member.join()
    finally:
        # An interrupt reaches this thread alone, and may do so while it starts another.
        crew.end()
    if crew.errors:
        # Those that were stopped say nothing about the cause.
        raise min(crew.errors, key=lambda error: isinstance(error, StoppedError))


class _Crew:
    """Threads at work; once `end` has returned, none of them touches anything."""

    def __init__(self, work: Callable[[Chunks], None], chunks: Chunks) -> None:
        self._work = work
        self._chunks = chunks
        self._active = 0
        self._changed = threading.Condition()
        self.errors: list[BaseException] = []

    def run(self) -> None:
        """Work as one of the threads."""
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

    def end(self) -> None:
        """Let nobody begin any more, and wait for those who did, whoever interrupts that."""
        again = None
        while True:
            try:
                with self._changed:
                    self._chunks.stop()
                    while self._active:
                        self._changed.wait()
            except KeyboardInterrupt as interrupt:
                # They write to descriptors that the caller is about to close.
                again = interrupt
            else:
                break
        if again is not None:
            raise again
