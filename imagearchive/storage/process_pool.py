"""Worker processes that never run the caller's script a second time.

`concurrent.futures.ProcessPoolExecutor` either forks, which is unsafe beside threads, or starts
fresh interpreters that import the caller's ``__main__``: a script without the customary guard
then starts itself again and fails. Its workers also outlive a parent that is killed. These
workers are fresh interpreters that import nothing but the library, and end when their connection
does.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import current_process
from multiprocessing.spawn import get_executable
from typing import Any, Final, TypeVar

from imagearchive.errors import WorkerError
from imagearchive.errors.transport import dump_exception, load_exception
from imagearchive.storage.closing import Closable
from imagearchive.storage.framing import MessageReader, dump, send_message
from imagearchive.storage.task_threads import Task, TaskThreads

__all__ = ["WorkerPool", "serve"]

T = TypeVar("T")

# The caller's sys.path, because the library may have been found through it.
_START: Final = (
    "import sys; sys.path[:] = {path!r}; "
    "from imagearchive.storage.process_pool import serve; serve({descriptor})"
)
# Unless told otherwise, glibc returns the memory of every decoded image to the system and faults
# it in again for the next, which takes a third of the time of a worker that decodes photographs.
# The pool's processes are the parallelism there is; threads of a BLAS only take memory.
_ENVIRONMENT: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "OPENBLAS_NUM_THREADS": "1",
}
# Seconds that a worker may take to end before it is killed.
_EXIT_TIMEOUT: Final = 5.0
_RESULT, _ERROR = b"R", b"E"


class WorkerPool(Closable):
    """Worker processes that call functions (POSIX).

    Functions and arguments are pickled, as in `ProcessPoolExecutor`, but functions must be
    importable in a fresh interpreter: what a script defines in its own ``__main__`` is not.

    One thread submits; any thread may wait for a task. `close` cancels the tasks that have not
    begun, and waits for the others; `terminate` interrupts those. It is not an `Executor`, because
    an interrupt may lock a `Future` forever. A pool does not survive a fork: the child must create
    its own.

    Parameters
    ----------
    num_workers : int
        Number of processes, all started at once.
    replace_dead : bool
        What happens when a worker dies. With True, another one takes its place and runs its task
        again; if that one dies as well, the task fails. With False, every task that is not done
        fails, because the next worker would probably die, too.
    """

    def __init__(self, num_workers: int, *, replace_dead: bool = False) -> None:
        self._replace_dead = replace_dead
        self._failure: str | None = None
        self._terminated = False
        self._workers: list[_Worker] = []
        try:
            for _ in range(num_workers):
                self._workers.append(_Worker())
        except BaseException:
            for worker in self._workers:
                worker.kill()
            raise
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        # One for each worker, so that whoever has a thread finds an idle worker.
        self._threads = TaskThreads(num_workers, "imagearchive-worker")

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Task[T]:
        """Call a function in a worker.

        Raises
        ------
        WorkerError
            A worker has died, or the pool is closed.
        """
        if self._failure is not None:
            raise WorkerError(self._failure)
        if self._closed:
            raise WorkerError("the worker pool is closed")
        return self._threads.submit(self._call, function, args, kwargs)

    def close(self) -> None:
        """Cancel the tasks that have not begun, wait for the others, and end the workers."""
        super().close()
        try:
            self._threads.close()
        finally:
            for worker in self._workers:
                worker.end()

    def terminate(self) -> None:
        """Cancel the tasks that have not begun, interrupt the others, and end the workers."""
        self._terminated = True
        super().close()
        try:
            # Those that a thread is just replacing end in `close`, for want of a task.
            workers = list(self._workers)
            for worker in workers:
                worker.interrupt()
            for worker in workers:
                worker.wait()
        finally:
            self.close()

    def _call(self, function: Callable[..., T], args: Any, kwargs: Any) -> T:
        """Call the function in an idle worker and return its result; runs in a thread."""
        message = pickle.dumps((function, args, kwargs), 5)
        answer = self._ask(message)
        if isinstance(answer, str):
            # The worker was killed, perhaps not because of this task.
            answer = self._ask(message)
        if isinstance(answer, str):
            raise WorkerError(answer)
        kind, head, *buffers = answer
        if kind == _ERROR:
            raise load_exception(head, getattr(function, "__qualname__", repr(function)))
        result: T = pickle.loads(head, buffers=buffers)
        return result

    def _ask(self, message: bytes) -> list[bytearray] | str:
        """Return what an idle worker answers, or how it died if another one has replaced it."""
        if self._failure is not None:
            raise WorkerError(self._failure)
        if self._terminated:
            raise WorkerError("the worker pool was terminated")
        worker = self._idle.get()
        try:
            return worker.call(message)
        except (EOFError, OSError):
            death = worker.describe_death()
            if not self._replace_dead or self._terminated:
                self._failure = self._failure or death
                raise WorkerError(self._failure) from None
            self._workers.remove(worker)
            worker = _Worker()
            self._workers.append(worker)
            return death
        finally:
            self._idle.put(worker)


class _Worker:
    """One process and the connection to it."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        self._reader = MessageReader(self._connection)
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
        # Credentials in tasks are for processes with this key; see
        # `imagearchive.storage.path_options`. If the process is dead, the first task will tell.
        with contextlib.suppress(OSError):
            send_message(self._connection, bytes(current_process().authkey))

    def call(self, message: bytes) -> list[bytearray]:
        """Send a task and wait for the answer: its kind, a pickle, and the pickle's buffers."""
        send_message(self._connection, message)
        return self._reader.read()

    def end(self) -> int:
        """Close the connection, at which the process ends, and return its exit status."""
        self._connection.close()
        try:
            return self._process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            return self.kill()

    def interrupt(self) -> None:
        """Raise `KeyboardInterrupt` in the process, so that its task cleans up and ends."""
        self._process.terminate()

    def wait(self) -> int:
        """Wait until the process has ended; kill it if that takes long."""
        try:
            return self._process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self) -> int:
        """Kill the process and return its exit status."""
        self._connection.close()
        self._process.kill()
        return self._process.wait()

    def describe_death(self) -> str:
        """Say how the process ended, once its connection is broken."""
        status = self.end()
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        return (
            f"worker process {self.pid} died ({how}); if the system killed it for lack of memory, "
            f"use fewer workers"
        )


def serve(descriptor: int) -> None:
    """Run tasks from a connection until it is closed; the main function of a worker process.

    Parameters
    ----------
    descriptor : int
        The worker's end of a socket pair.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    connection = socket.socket(fileno=descriptor)
    reader = MessageReader(connection)
    try:
        current_process().authkey = bytes(reader.read()[0])
        while True:
            send_message(connection, *_run(*reader.read()))
    except (EOFError, OSError, KeyboardInterrupt):
        # The parent is done or gone; Ctrl-C at the terminal reaches the workers, too.
        return


def _run(message: bytearray) -> list[bytes | memoryview]:
    """Run one task and return the answer."""
    try:
        function, args, kwargs = pickle.loads(message)
        head, buffers = dump(function(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 - raised again by the parent
        return [_ERROR, dump_exception(error)]
    return [_RESULT, head, *buffers]
