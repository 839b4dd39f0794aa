"""`MpQItr`: a generator that runs in a child process while its items are used in this one.

The child pickles each item and writes it to a socket. The contents of NumPy arrays and PyTorch
tensors stay out of the pickle; large ones are copied once, into shared memory that this process
makes the arrays of.

This process answers with credits: how many items were taken, and which shared memory is free
again. The child stops when `qsize` items are waiting, so memory stays bounded however fast the
generator is.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.context import BaseContext
from typing import Any, Final, Generic, NoReturn, TypeVar, cast

from imagearchive.errors import ClosedError, OptionTypeError, WorkerError
from imagearchive.errors.arguments import check_callable, check_choice, check_integer
from imagearchive.errors.plurals import pluralize
from imagearchive.errors.transport import dump_exception, load_exception
from imagearchive.loader.shared_arena import SharedArena
from imagearchive.storage.closing import Closable, live_objects
from imagearchive.storage.framing import MessageReader, dump, send_message

__all__ = ["MpQItr"]

T_co = TypeVar("T_co", covariant=True)

# The first part of a message to the parent. After it come, for an item, the pickle and its
# buffers; for one in shared memory, the pickle and where the buffers are; for an error, that.
_ITEM, _SHARED_ITEM, _ERROR, _END = b"I", b"S", b"X", b"E"
# To the child: minus the number of items taken, or the start of a free block.
_CREDIT: Final = struct.Struct("<q")

# Fewer bytes than this cross the socket faster than they are handed over in shared memory.
_SHARED_MINIMUM: Final = 1 << 15
# Seconds that a generator may take to run its `finally` blocks before its process is killed.
_EXIT_TIMEOUT: Final = 2.0
# Other processes may have inherited the child's socket, which then stays open when the child
# dies. So it is also checked every so many seconds.
_CHECK_SECONDS: Final = 1.0


class MpQItr(Closable, Generic[T_co]):
    """Run a generator in a child process and iterate over what it yields.

    Each ``iter()`` starts a new child, at the beginning of the generator. Loops over the same
    object are independent of one another.

    Parameters
    ----------
    generator_function : callable
        Called in the child as ``generator_function(*args, **kwargs)``; returns any iterable. Its
        items must be picklable. Arrays and dense CPU tensors, however nested, are copied only
        once.
    *args, **kwargs
        Passed to the function. A function that itself takes `qsize` or `mp_context` can be wrapped
        in `functools.partial`.
    qsize : int
        How many finished items may wait. The child holds one more, which it is working on.
    mp_context : {"fork", "spawn", "forkserver"} or multiprocessing context, optional
        How the child is started; by default as `multiprocessing` does. All methods but ``fork``
        pickle the function and its arguments.

    Raises
    ------
    OptionError, OptionTypeError
        An argument is wrong. ``iter()`` raises OptionTypeError if the function or its arguments
        cannot be pickled for the start method.
    WorkerError
        While iterating: the child was killed or exited before the generator ended.
    Exception
        While iterating: whatever the generator raised, of its own type, with the child's
        traceback as ``__cause__``. An exception that cannot be pickled becomes a `WorkerError`.

    Notes
    -----
    The child ends when the loop is left early, and at ``close()``, the end of a ``with`` block,
    garbage collection, and the end of the interpreter. It gets SIGTERM, which raises `SystemExit`
    in the generator so that its ``finally`` blocks run, and SIGKILL after 2 s. The child ignores
    SIGINT: Ctrl-C interrupts only the loop, which may be continued.

    In a forked child, PyTorch uses one thread, as in the workers of its DataLoader, because its
    thread pool does not survive a fork.

    The generator may start processes, such as the workers of a `torch.utils.data.DataLoader`. One
    iterator may be shared by threads. It cannot be used in a forked process; a pickled `MpQItr`
    starts again.

    Examples
    --------
    >>> from imagearchive import MpQItr
    >>> for number in MpQItr(range, 3):
    ...     print(number)
    0
    1
    2
    """

    def __init__(
        self,
        generator_function: Callable[..., Iterable[T_co]],
        *args: Any,
        qsize: int = 16,
        mp_context: str | BaseContext | None = None,
        **kwargs: Any,
    ) -> None:
        self._function = check_callable("generator_function", generator_function)
        self._args = args
        self._kwargs = kwargs
        self._qsize = check_integer("qsize", qsize, 1)
        if isinstance(mp_context, BaseContext):
            mp_context = mp_context.get_start_method()
        if mp_context is not None:
            mp_context = check_choice(
                "mp_context", mp_context, multiprocessing.get_all_start_methods()
            )
        self._start_method = mp_context
        self._runs: weakref.WeakSet[_Run[T_co]] = weakref.WeakSet()

    def __iter__(self) -> Iterator[T_co]:
        """Start a child and return the iterator over what it yields."""
        if self._closed:
            raise ClosedError("this MpQItr is closed; create a new one to iterate again")
        run = _Run[T_co](self._function, self._args, self._kwargs, self._qsize, self._start_method)
        self._runs.add(run)
        return run

    def close(self) -> None:
        """End every child that is still running; a second call does nothing."""
        super().close()
        for run in live_objects(self._runs):
            run.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_runs": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _runs=weakref.WeakSet())


class _Run(Generic[T_co]):
    """One child and the receiving end of its socket."""

    def __init__(
        self,
        function: Callable[..., Iterable[T_co]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        qsize: int,
        start_method: str | None,
    ) -> None:
        context = multiprocessing.get_context(start_method)
        self._name = getattr(function, "__qualname__", None) or repr(function)
        self._pid = os.getpid()
        # Reentrant: what ends the iteration closes it.
        self._lock = threading.RLock()
        self._received = 0
        self._taken = 0
        self._confirm_at = max(1, qsize // 2)
        # Why there are no more items; empty after the last one, None while there may be more.
        self._end_reason: str | None = None
        # The child has said that it is done, and exits by itself.
        self._child_done = threading.Event()
        # First, as it may fail, and only the arena holds a descriptor that nobody would close.
        self._socket, theirs = socket.socketpair()
        self._arena = SharedArena.create()
        self._reader = MessageReader(self._socket)
        # A forked child has a copy of our end, which would hide from it that we closed ours.
        inherited = self._socket if context.get_start_method() == "fork" else None
        self._process = context.Process(  # type: ignore[attr-defined]
            target=_serve,
            args=(theirs, inherited, self._arena, function, args, kwargs, qsize),
            name=f"MpQItr({self._name})",
            daemon=False,
        )
        try:
            self._process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self._socket.close()
            raise OptionTypeError(
                f"{self._name} or its arguments cannot be pickled for the start method "
                f"{context.get_start_method()!r}: {error}; define the function at the top level "
                f'of a module, or use mp_context="fork"'
            ) from error
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
            if self._arena is not None:
                self._arena.close_descriptor()
        # Unlike `__del__`, also called before multiprocessing waits for children at exit.
        self._terminate = multiprocessing.util.Finalize(
            self,
            _terminate,
            (self._process, self._socket, self._child_done),
            exitpriority=100,
        )

    def __iter__(self) -> _Run[T_co]:
        return self

    def __next__(self) -> T_co:
        # Before the lock, which a thread of the parent may have held when this process was forked.
        if os.getpid() != self._pid:
            raise WorkerError(
                f"this iterator over {self._name} belongs to process {self._pid}, which started "
                f"it; iterate over the MpQItr again in this process"
            )
        with self._lock:
            return self._next()

    def _next(self) -> T_co:
        # Ctrl-C while waiting loses nothing; in the middle of a message it does.
        while self._end_reason is None and not self._reader.ready(_CHECK_SECONDS):
            if not self._process.is_alive() and not self._reader.ready(0):
                self._raise_death()
        if self._end_reason is not None:
            if self._end_reason:
                raise ClosedError(self._end_reason)
            raise StopIteration
        try:
            return self._receive()
        except EOFError:
            if self._end_reason is None:
                self._raise_death()
            raise ClosedError(self._end_reason) from None
        except BaseException:
            if self._end_reason is None:
                self.close("an item was lost when the loop was interrupted; iterate again")
            raise

    def _receive(self) -> T_co:
        kind, *parts = self._reader.read()
        if kind in (_END, _ERROR):
            self._child_done.set()
            self.close("")
            if kind == _END:
                raise StopIteration
            raise load_exception(parts[0], self._name)
        head, *buffers = parts
        views: list[Any] = buffers
        if kind == _SHARED_ITEM and self._arena is not None:
            views = self._arena.views(buffers[0])
        self._confirm(at_once=kind == _SHARED_ITEM)
        self._received += 1
        try:
            return cast(T_co, pickle.loads(head, buffers=views))
        except Exception as error:
            self.close(f"item {self._received - 1} of {self._name} could not be unpickled")
            raise WorkerError(
                f"item {self._received - 1} of {self._name} was pickled in the child process but "
                f"cannot be unpickled here: {error!r}"
            ) from error

    def _confirm(self, at_once: bool) -> None:
        """Tell the child what was taken and what is free, now and then or at once."""
        self._taken += 1
        if not at_once and self._taken < self._confirm_at:
            return
        credits = [-self._taken]
        if self._arena is not None:
            credits += self._arena.take_released()
        self._taken = 0
        try:
            self._socket.sendall(b"".join(map(_CREDIT.pack, credits)))
        except (BrokenPipeError, ConnectionResetError):
            # The child is done; what it sent is still to be read.
            pass

    def _raise_death(self) -> NoReturn:
        self._process.join(_EXIT_TIMEOUT)
        code = self._process.exitcode
        self.close("")
        if code is None:
            how = "closed its connection"
        elif code < 0:
            try:
                how = f"was killed by {signal.Signals(-code).name}"
            except ValueError:
                how = f"was killed by signal {-code}"
            if code == -signal.SIGKILL:
                how += " (the kernel does that when memory runs out)"
        else:
            how = f"exited with exit status {code}"
        raise WorkerError(
            f"the process that ran {self._name} {how} after {pluralize(self._received, 'item')}, "
            "before the generator had ended"
        )

    def close(self, reason: str = "this iterator is closed; iterate over the MpQItr again") -> None:
        """End the child; `reason` is what a later ``next()`` reports, empty for a normal end."""
        if os.getpid() != self._pid:
            return
        if self._end_reason is None:
            self._end_reason = reason
            # Wakes a thread that waits for an item.
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._lock:
            # Does nothing a second time.
            self._terminate()
            arena, self._arena = self._arena, None
            if arena is not None:
                arena.retire()


def _terminate(process: Any, connection: socket.socket, child_done: threading.Event) -> None:
    """Close the connection and end the child process."""
    connection.close()
    if child_done.is_set():
        process.join(_EXIT_TIMEOUT)
    if process.is_alive():
        process.terminate()
        process.join(_EXIT_TIMEOUT)
    if process.is_alive():
        process.kill()
    process.join()
    process.close()


# What follows runs in the child.


class _ParentGoneError(Exception):
    """Nobody reads what the generator yields."""


def _serve(
    connection: socket.socket,
    inherited: socket.socket | None,
    arena: SharedArena | None,
    function: Callable[..., Iterable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    qsize: int,
) -> None:
    if inherited is not None:
        inherited.close()
        if torch := sys.modules.get("torch"):
            # The threads of its pool were not forked: an operation that hands them work would
            # wait forever.
            torch.set_num_threads(1)
    # Ctrl-C reaches every process of the terminal; what it means is for the parent to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminated = threading.Event()

    def terminate(*_: object) -> NoReturn:
        terminated.set()
        sys.exit(0)

    signal.signal(signal.SIGTERM, terminate)
    sender = _Sender(connection, arena, qsize)
    try:
        try:
            for item in function(*args, **kwargs):
                sender.put(item)
        except _ParentGoneError:
            return
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised in the parent
            if not terminated.is_set():
                sender.send(_ERROR, dump_exception(error))
        else:
            sender.send(_END)
    except _ParentGoneError:
        pass
    finally:
        connection.close()


class _Sender:
    """Sends items to the parent, and waits while enough of them are unread."""

    def __init__(self, connection: socket.socket, arena: SharedArena | None, qsize: int) -> None:
        self._socket = connection
        self._arena = arena
        self._qsize = qsize
        self._unread = 0
        self._credits = b""
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def put(self, item: object) -> None:
        head, buffers = dump(item)
        while self._unread >= self._qsize:
            self._read_credits()
        stored: bytes | None = None
        if self._arena is not None and sum(map(len, buffers)) >= _SHARED_MINIMUM:
            while self._poll.poll(0):
                self._read_credits()
            stored = self._arena.store(buffers)
        if stored is None:
            self.send(_ITEM, head, *buffers)
        else:
            self.send(_SHARED_ITEM, head, stored)
        self._unread += 1

    def send(self, *parts: bytes | memoryview) -> None:
        try:
            send_message(self._socket, *parts)
        except (BrokenPipeError, ConnectionResetError):
            raise _ParentGoneError from None

    def _read_credits(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            raise _ParentGoneError
        data = self._credits + data
        whole = len(data) - len(data) % _CREDIT.size
        self._credits = data[whole:]
        for (value,) in _CREDIT.iter_unpack(data[:whole]):
            if value < 0:
                self._unread += value
            elif self._arena is not None:
                self._arena.free(value)
