"""Threads that prepare jobs ahead of a consumer, which receives the results in order.

The threads refer to the pool and never to its consumer. When the consumer is closed or collected,
it calls `Pool.close`, and the threads end.

No lock is held while foreign code runs, and everything that `close` uses is reentrant, because
the garbage collector may call it in the middle of any line of any thread.

`ThreadPoolExecutor` would take twice the time for a job of one part and five times for one of
eight, would run the rest of the jobs before the interpreter exits, and has no state per thread.
"""

from __future__ import annotations

import atexit
import operator
import os
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, Protocol

from imagearchive.errors import WorkerError
from imagearchive.storage.closing import live_objects
from imagearchive.storage.task_threads import start_thread

__all__ = ["JOIN_TIMEOUT", "Job", "Pool"]

# Seconds to wait for threads, which may be in the middle of a large image, when the caller cannot
# wait until they end.
JOIN_TIMEOUT: Final = 1.0


class Job(Protocol):
    """One result to deliver, made of parts that any thread may do in any order."""

    parts: int

    def run(self, part: int, tools: Any) -> None:
        """Do one part; no other thread uses `tools`."""
        ...

    def finish(self) -> Any:
        """Return the result, once all parts are done."""
        ...


class _Entry:
    """A job in the pool, and its result."""

    __slots__ = ("error", "failures", "finished", "job", "parts", "result", "unfinished")

    def __init__(self, job: Job) -> None:
        self.job: Job | None = job
        self.parts = job.parts
        # Popping is atomic, so exactly one thread gets the 0, after all others have popped theirs.
        self.unfinished = list(range(job.parts))
        self.result: Any = None
        # Appending is atomic.
        self.failures: list[tuple[int, BaseException]] = []
        self.error: BaseException | None = None
        self.finished: SimpleQueue[bool] = SimpleQueue()


class Pool:
    """A few threads and the jobs that they are doing.

    Parameters
    ----------
    threads : int
        With 0, `take` does each job in the thread that calls it.
    ahead : int
        How many jobs may be begun but not yet received.
    next_job : callable
        Returns the next `Job`, or None after the last. Called in the consumer's thread.
    make_tools : callable
        Called once in every thread; its result goes to `Job.run`.

    Notes
    -----
    `take` and `close` may be called from any thread. In a forked child the pool has no threads,
    and only `close` may be called.
    """

    def __init__(
        self,
        threads: int,
        ahead: int,
        next_job: Callable[[], Job | None],
        make_tools: Callable[[], Any],
        name: str = "imagearchive",
    ) -> None:
        self._pid = os.getpid()
        self._ahead = ahead
        self._next_job = next_job
        self._make_tools = make_tools
        self._taking = threading.Lock()
        self._work: SimpleQueue[tuple[_Entry, int] | None] = SimpleQueue()
        # A list, whose copy in `stop` is atomic.
        self._entries: list[_Entry] = []
        self._exhausted = False
        self._closed = False
        self._own_tools: Any = None
        self._threads = [
            # Daemons, so that a forgotten iterator does not keep the program from ending;
            # `_close_all` stops and joins them before the interpreter is finalized.
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        if self._threads:
            _pools.add(self)
            self._start()

    def _start(self) -> None:
        for number, thread in enumerate(self._threads):
            try:
                start_thread(thread)
            except BaseException:
                # The system grants no more threads, or the user interrupts. Those that run would
                # wait forever.
                del self._threads[number:]
                self.close()
                raise

    def take(self) -> tuple[bool, Any]:
        """Return (True, result of the next job), or (False, None) after the last or `close`.

        Raises what the job raised: of several parts that failed, the error of the first.
        """
        with self._taking:
            if not self._threads:
                return self._take_here()
            self._refill()
            if self._closed or not self._entries:
                return False, None
            entry = self._entries[0]
            if not entry.finished.get():
                return False, None
            del self._entries[0]
            error, entry.error = entry.error, None
            if error is not None:
                try:
                    if isinstance(error, StopIteration):
                        # It would look like the end of the epoch.
                        raise WorkerError("reading a sample raised StopIteration") from error
                    raise error
                finally:
                    # The traceback refers to this frame: without this it would be a cycle.
                    del error
            self._refill()
            return True, entry.result

    def _take_here(self) -> tuple[bool, Any]:
        if self._closed:
            return False, None
        if self._own_tools is None:
            self._own_tools = self._make_tools()
        try:
            job = self._next_job()
            if job is None:
                return False, None
            for part in range(job.parts):
                job.run(part, self._own_tools)
            return True, job.finish()
        except Exception as error:
            if self._is_closed():
                return False, None
            if isinstance(error, StopIteration):
                raise WorkerError("reading a sample raised StopIteration") from error
            raise

    def _is_closed(self) -> bool:
        """Whether the pool is closed; another thread may have closed what the jobs read as well."""
        return self._closed

    def _refill(self) -> None:
        while not self._exhausted and not self._closed and len(self._entries) < self._ahead:
            try:
                job = self._next_job()
            except Exception:
                if self._is_closed():
                    return
                raise
            if job is None:
                self._exhausted = True
                return
            entry = _Entry(job)
            self._entries.append(entry)
            for part in range(entry.parts):
                self._work.put((entry, part))

    def _run(self) -> None:
        tools: Any = None
        while True:
            item = self._work.get()
            if item is None or self._closed:
                # For the next thread, also for one that was interrupted while it was started.
                self._work.put(None)
                return
            entry, part = item
            try:
                if tools is None:
                    tools = self._make_tools()
                # The parts before the first one that fails are always done, so that it does not
                # depend on the threads which one that is.
                if entry.job is not None and all(part < failed for failed, _ in entry.failures):
                    entry.job.run(part, tools)
            except BaseException as error:  # noqa: BLE001 - raised again by `take`
                entry.failures.append((part, error))
            if entry.unfinished.pop() == 0:
                _finish(entry)
            # Waiting for work must not keep the last batch alive.
            del item, entry

    def stop(self) -> None:
        """Tell the threads to end after their current part, and wake a consumer that waits."""
        self._closed = True
        if self._pid != os.getpid():
            # The queues' locks may have been held when the process forked.
            return
        self._work.put(None)
        for entry in self._entries.copy():
            entry.finished.put(False)

    def close(self, timeout: float | None = None) -> None:
        """Stop the threads and wait for them, as long as one part of a job takes.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most. A thread in the middle of a part cannot be interrupted; it
            ends after that.
        """
        self.stop()
        end = None if timeout is None else time.monotonic() + timeout
        current = threading.current_thread()
        for thread in self._threads:
            if thread is not current:
                thread.join(None if end is None else max(0.0, end - time.monotonic()))


def _finish(entry: _Entry) -> None:
    job, entry.job = entry.job, None
    failures, entry.failures = entry.failures, []
    if failures:
        entry.error = min(failures, key=operator.itemgetter(0))[1]
    elif job is not None:
        try:
            entry.result = job.finish()
        except BaseException as error:  # noqa: BLE001 - raised again by `take`
            entry.error = error
    entry.finished.put(True)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    pools = live_objects(_pools)
    for pool in pools:
        pool.stop()
    end = time.monotonic() + JOIN_TIMEOUT
    for pool in pools:
        pool.close(max(0.0, end - time.monotonic()))
