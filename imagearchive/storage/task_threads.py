"""`TaskThreads`: calls functions in a few threads, and is safe to interrupt.

Python may raise a `KeyboardInterrupt` in the main thread between the moment when
`threading.Condition` takes its lock and the beginning of the ``with`` block. Then nobody ever
releases the lock. `Future` and `Event` are built on conditions, so a thread of a
`ThreadPoolExecutor` that reports its result waits forever, and so does the program that joins it.
Here the caller's thread uses only locks and queues that are implemented in C.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from imagearchive.errors import WorkerError
from imagearchive.storage.closing import Closable, live_objects

__all__ = ["Task", "TaskThreads", "start_thread"]

T = TypeVar("T")


def start_thread(thread: threading.Thread) -> None:
    """Start a thread.

    An interrupt in the middle is a `KeyboardInterrupt`. `Thread.start` waits on a condition, which
    may then raise a RuntimeError about its lock instead. The thread may run nevertheless.

    Raises
    ------
    RuntimeError
        The system grants no more threads.
    """
    try:
        thread.start()
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


class Task(Generic[T]):
    """The call of a function, and its result."""

    __slots__ = ("__weakref__", "_call", "_callbacks", "_done", "_error", "_result")

    def __init__(self, call: Callable[[], T]) -> None:
        self._call: Callable[[], T] | None = call
        self._error: BaseException | None = None
        self._result: T
        self._callbacks: list[Callable[[Task[T]], object]] = []
        # Locked until the result is there.
        self._done = threading.Lock()
        self._done.acquire()

    def run(self) -> None:
        """Call the function; only once."""
        call, self._call = self._call, None
        try:
            assert call is not None
            self._result = call()
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            self._error = error
        finally:
            # Waiting for a task must not keep alive what its function refers to.
            del call
            self._end()

    def cancel(self) -> None:
        """Give the task up, instead of running it."""
        self._call = None
        self._error = WorkerError("the task was cancelled before it began")
        self._end()

    def _end(self) -> None:
        self._done.release()
        self._call_back()

    def _call_back(self) -> None:
        # Each callback is popped by one thread only.
        while self._callbacks:
            with contextlib.suppress(IndexError):
                self._callbacks.pop()(self)

    def add_done_callback(self, callback: Callable[[Task[T]], object]) -> None:
        """Have a function called with the task when it has ended, or at once if it has.

        The thread that runs the task calls it, so it must be short, and must not raise.
        """
        self._callbacks.append(callback)
        if not self._done.locked():
            self._call_back()

    def exception(self) -> BaseException | None:
        """Wait until the function has ended; return what it raised."""
        with self._done:
            return self._error

    def result(self) -> T:
        """Wait until the function has ended; return its result, or raise what it raised."""
        error = self.exception()
        if error is None:
            return self._result
        try:
            raise error
        finally:
            # The traceback refers to this frame: without this it would be a cycle.
            del error


class TaskThreads(Closable):
    """A few threads that call functions, in the order in which they were submitted.

    A thread starts with each task, up to the limit. If the system grants none, `submit` calls the
    function itself. `close` cancels the tasks that have not begun, and waits for the others,
    however often it is interrupted.

    Parameters
    ----------
    threads : int
        How many there are at most.
    name : str
        Name of the threads.

    Notes
    -----
    One thread submits; any thread may wait for a task.
    """

    def __init__(self, threads: int, name: str = "imagearchive") -> None:
        self._limit = threads
        self._name = name
        self._pid = os.getpid()
        self._threads: list[threading.Thread] = []
        self._queue: SimpleQueue[Task[Any] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._running: set[Task[Any]] = set()
        self._cancelled = False
        _open.add(self)

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Task[T]:
        """Have a thread call a function, with the context variables of the caller."""
        context = contextvars.copy_context()
        task = Task(lambda: context.run(function, *args, **kwargs))
        if len(self._threads) < self._limit and not self._start():
            if not self._threads:
                task.run()
                return task
            self._limit = len(self._threads)
        self._queue.put(task)
        return task

    def _start(self) -> bool:
        # A daemon: if an interrupt comes while it starts, it may never get beyond that, and would
        # keep the program from ending.
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            start_thread(thread)
        except RuntimeError:
            return False
        self._threads.append(thread)
        return True

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            with self._lock:
                if self._cancelled:
                    task.cancel()
                    continue
                self._running.add(task)
            task.run()
            self._running.discard(task)
            # Waiting for work must not keep the last result alive.
            del task
        # For the next thread.
        self._queue.put(None)

    def close(self, wait: bool = True) -> None:
        """Cancel the tasks that have not begun, and wait for those that have.

        Parameters
        ----------
        wait : bool
            False leaves the waiting to the end of the program.
        """
        interrupt = None
        while True:
            try:
                super().close()
                self._cancelled = True
                self._queue.put(None)
                if wait:
                    self._join()
            except KeyboardInterrupt as error:
                # The tasks use what the caller is about to close.
                interrupt = error
            else:
                break
        if interrupt is not None:
            raise interrupt

    def _join(self) -> None:
        with self._lock:
            # From here on, no thread begins a task.
            running = self._running.copy()
        for task in running:
            task.exception()
        for thread in self._threads:
            thread.join()
        _open.discard(self)

    def close_in_owner(self) -> None:
        """Close in the process that made the object; forked children have no threads."""
        if self._pid == os.getpid():
            self.close()


_open: weakref.WeakSet[TaskThreads] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Threads that nobody waited for may be in the middle of a file.
    for threads in live_objects(_open):
        threads.close_in_owner()
