"""Worker processes that never run the caller's script a second time.

`concurrent.futures.ProcessPoolExecutor` either forks, which is unsafe beside threads, or starts
fresh interpreters that import the caller's ``__main__``: a script without the customary guard
then starts itself again and fails. These workers are fresh interpreters that import nothing but
the library. They end when their connection does, so none outlives a parent that was killed.
"""

from __future__ import annotations

import os
import pickle
import queue
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from multiprocessing.spawn import get_executable
from typing import Any, Final, TypeVar

from imagearchive.errors import WorkerError

__all__ = ["WorkerPool", "serve"]

T = TypeVar("T")

# The caller's sys.path, because the library may have been found through it.
_START: Final = (
    "import sys; sys.path[:] = {path!r}; "
    "from imagearchive.processing.process_pool import serve; serve({descriptor})"
)
# Unless told otherwise, glibc returns the memory of every decoded image to the system and faults
# it in again for the next, which takes a third of the time of a worker that decodes photographs.
# The pool's processes are the parallelism there is; threads of a BLAS only take memory.
_ENVIRONMENT: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "OPENBLAS_NUM_THREADS": "1",
}
# How long a worker that was told to end may take before it is killed.
_PATIENCE: Final = 5.0

_Task = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class WorkerPool(Executor):
    """An executor of worker processes (POSIX).

    Functions and arguments are pickled, as in `ProcessPoolExecutor`, but functions must be
    importable in a fresh interpreter: what a script defines in its own ``__main__`` is not.

    Every worker is served by one thread of this process, so `submit` may be called from any
    thread. A pool does not survive a fork: the child must make its own.

    Parameters
    ----------
    num_workers : int
        Number of processes, all started at once.
    """

    def __init__(self, num_workers: int) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._failure: WorkerError | None = None
        self._workers: list[_Worker] = []
        try:
            for _ in range(num_workers):
                self._workers.append(_Worker())
        except BaseException:
            for worker in self._workers:
                worker.kill()
            raise
        self._threads = [
            threading.Thread(
                target=self._attend, args=(worker,), name=f"worker-{worker.pid}", daemon=True
            )
            for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call a function in a worker.

        Raises
        ------
        WorkerError
            A worker died before, or the pool is shut down.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise WorkerError("the worker pool is shut down; make another")
            self._tasks.put((future, fn, args, kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers once the tasks submitted before are done, or cancelled."""
        with self._lock:
            first, self._closed = not self._closed, True
        if cancel_futures:
            self._drain(None)
        if first:
            for _ in self._threads:
                self._tasks.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _attend(self, worker: _Worker) -> None:
        """Feed one worker until the pool is shut down or the worker dies."""
        while (task := self._tasks.get()) is not None:
            future, function, args, kwargs = task
            if self._failure is not None:
                future.set_exception(self._failure)
            elif future.set_running_or_notify_cancel():
                try:
                    message = pickle.dumps((function, args, kwargs), pickle.HIGHEST_PROTOCOL)
                except Exception as error:  # noqa: BLE001 - whatever pickling raises is the answer
                    future.set_exception(error)
                    continue
                try:
                    head, *buffers = worker.call(message)
                except (EOFError, OSError):
                    self._fail(worker, future)
                    return
                _settle(future, head, buffers)
                del message, head, buffers
            # Neither task nor result is held while this thread waits for the next.
            del task, future, function, args, kwargs
        worker.end()

    def _fail(self, worker: _Worker, future: Future[Any]) -> None:
        status = worker.end()
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        failure = WorkerError(
            f"worker process {worker.pid} died ({how}); if the system ended it for want of "
            f"memory, use fewer workers"
        )
        with self._lock:
            self._failure = self._failure or failure
        future.set_exception(self._failure)
        # What waits would be done by fewer workers, slower and slower: better to say so at once.
        self._drain(self._failure)

    def _drain(self, failure: WorkerError | None) -> None:
        ends = 0
        while True:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                break
            if task is None:
                ends += 1
            elif failure is None:
                task[0].cancel()
                task[0].set_running_or_notify_cancel()
            elif task[0].set_running_or_notify_cancel():
                task[0].set_exception(failure)
        for _ in range(ends):
            self._tasks.put(None)


def _settle(future: Future[Any], head: bytearray, buffers: list[bytearray]) -> None:
    """Give a future what a worker answered."""
    try:
        result, failed = pickle.loads(head, buffers=buffers)
    except Exception as error:  # noqa: BLE001 - foreign code decides what it raises
        future.set_exception(error)
        return
    if failed:
        future.set_exception(result)
    else:
        future.set_result(result)


class _Worker:
    """One process and the connection to it."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            code = _START.format(path=sys.path, descriptor=descriptor)
            executable = get_executable()
            try:
                self._process = subprocess.Popen(
                    [os.fsdecode(executable) if executable else sys.executable, "-c", code],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(descriptor,),
                    env={**_ENVIRONMENT, **os.environ},
                )
            except BaseException:
                self._connection.close()
                raise
        self.pid = self._process.pid

    def call(self, message: bytes) -> list[bytearray]:
        """Send a task and wait for its result: a pickle, and what stays out of it."""
        _send(self._connection, [message])
        return _receive(self._connection)

    def end(self) -> int:
        """Close the connection, at which the process ends, and return its exit status."""
        self._connection.close()
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End the process at once."""
        self._connection.close()
        self._process.kill()
        return self._process.wait()


def serve(descriptor: int) -> None:
    """Run tasks from a connection until it ends. What the worker processes do.

    Parameters
    ----------
    descriptor : int
        The worker's end of a socket pair.
    """
    connection = socket.socket(fileno=descriptor)
    while True:
        try:
            (message,) = _receive(connection)
        except (EOFError, OSError, KeyboardInterrupt):
            # The parent is done, or gone; an interrupt at the terminal reaches both.
            return
        buffers: list[pickle.PickleBuffer] = []
        answer: Any = None
        try:
            function, args, kwargs = pickle.loads(message)
            answer = function(*args, **kwargs), False
            head = pickle.dumps(answer, 5, buffer_callback=buffers.append)
        except KeyboardInterrupt:
            return
        except Exception as error:  # noqa: BLE001 - handed to the caller, whatever it is
            buffers.clear()
            head = _pickled(error)
        try:
            _send(connection, [head, *(buffer.raw() for buffer in buffers)])
        except (BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
            return
        # A result is not kept while waiting for the next task.
        answer = function = args = kwargs = None
        del buffers, head, message


def _send(connection: socket.socket, parts: Sequence[bytes | memoryview]) -> None:
    """Send parts behind their number and their lengths, all 64-bit."""
    lengths = [len(parts), *(memoryview(part).nbytes for part in parts)]
    connection.sendall(struct.pack(f"<{len(lengths)}Q", *lengths))
    for part in parts:
        connection.sendall(part)


def _receive(connection: socket.socket) -> list[bytearray]:
    (count,) = struct.unpack("<Q", _exactly(connection, 8))
    lengths = struct.unpack(f"<{count}Q", _exactly(connection, 8 * count))
    return [_exactly(connection, length) for length in lengths]


def _exactly(connection: socket.socket, length: int) -> bytearray:
    # Large numbers of bytes come straight into the memory in which the result will lie.
    buffer = bytearray(length)
    view = memoryview(buffer)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return buffer


def _pickled(error: Exception) -> bytes:
    try:
        head = pickle.dumps((error, True), 5)
        # Some exceptions pickle, but cannot be made again from their arguments.
        pickle.loads(head)
    except Exception:  # noqa: BLE001 - then its text has to do
        head = pickle.dumps((WorkerError(f"{type(error).__name__}: {error}"), True), 5)
    return head
