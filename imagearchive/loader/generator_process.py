"""`MpQItr`: a generator that runs in a child process while its items are used in this one.

How items cross: the child pickles each (protocol 5) and writes it to a socket. The contents of
NumPy arrays and PyTorch tensors stay out of the pickle; large ones are copied once, into a shared
memory segment that this process maps and rebuilds the arrays on, without a second copy. When the
arrays are gone the segment goes back to the child for the next item, its pages already mapped on
both sides. A segment is an anonymous file passed as a descriptor: it has no name, so that nothing
is left behind however either process ends.

The socket carries credits in the other direction. The child stops when `qsize` items are waiting,
so memory stays constant however fast the generator is.
"""

from __future__ import annotations

import array
import collections
import functools
import io
import mmap
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
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.context import BaseContext
from typing import Any, Final, Generic, NoReturn, TypeVar, cast

import numpy as np

from imagearchive.errors import ClosedError, OptionError, OptionTypeError, WorkerError

__all__ = ["MpQItr"]

T_co = TypeVar("T_co", covariant=True)

# Child to parent: kind, segment, buffers, bytes of pickle.
_HEADER: Final = struct.Struct("<IIIxxxxQ")
_ITEM, _END, _ERROR = 0, 1, 2
_INLINE: Final = 0xFFFFFFFF
# The segment is new, and its descriptor comes with the header.
_WITH_DESCRIPTOR: Final = 0x80000000
# Parent to child: kind and value.
_NOTE: Final = struct.Struct("<II")
_TAKEN, _FREE = 0, 1

# Below this many bytes a trip through the socket costs less than handing a segment back and forth.
_SEGMENT_MINIMUM: Final = 1 << 15
_ALIGNMENT: Final = 64
_READ_SIZE: Final = 1 << 16
_DESCRIPTORS_PER_READ: Final = 8
# How long a generator may take to run its `finally` blocks before its process is killed.
_GRACE_SECONDS: Final = 2.0
# A process that inherited the child's socket can hide its death, so it is also looked after.
_LOOK_SECONDS: Final = 1.0


class MpQItr(Generic[T_co]):
    """Run a generator in a child process and iterate over what it yields.

    Each ``iter()`` starts a child of its own, from the beginning of the generator; loops over the
    same object do not disturb one another.

    Parameters
    ----------
    generator_function : callable
        Called in the child as ``generator_function(*args, **kwargs)``; returns any iterable. Its
        items must be picklable; arrays and dense CPU tensors, however nested, cross without a
        needless copy.
    *args, **kwargs
        Passed on. A function that itself takes `qsize` or `mp_context` can be wrapped in
        `functools.partial`.
    qsize : int
        How many finished items may wait. The child holds one more, the one that it works on.
    mp_context : {"fork", "spawn", "forkserver"} or multiprocessing context, optional
        How the child is started; by default as `multiprocessing` does. All but ``fork`` pickle
        the function and its arguments, so both must be importable.

    Raises
    ------
    OptionError, OptionTypeError
        `qsize` or `mp_context` cannot be used; the function is not callable, or it or its
        arguments cannot be pickled for the start method (raised by ``iter()``).
    WorkerError
        While iterating: the child was killed or left without finishing.
    Exception
        While iterating: whatever the generator raised, of its own type, with the child's
        traceback as ``__cause__``. An exception that cannot be pickled becomes a `WorkerError`.

    Notes
    -----
    Leaving a loop early, ``close()``, a ``with`` block, garbage collection and the end of the
    interpreter end the child: it gets SIGTERM, raised in the generator as `SystemExit` so that
    its ``finally`` blocks run, and after 2 s SIGKILL. The child ignores SIGINT, so that Ctrl-C
    interrupts only the loop, which may go on.

    In a forked child, PyTorch computes on one thread, as in the workers of its DataLoader: its
    pool does not survive a fork.

    The child is no daemon: the generator may start processes, such as the workers of a
    `torch.utils.data.DataLoader`. One iterator may be shared by threads. It cannot be used in a
    forked process; a pickled `MpQItr` starts afresh.

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
        if not callable(generator_function):
            raise OptionTypeError(
                f"generator_function is {type(generator_function).__name__}, not callable; pass "
                f"the function itself and its arguments after it"
            )
        if not isinstance(qsize, int) or qsize < 1 or qsize >= _WITH_DESCRIPTOR:
            raise OptionError(f"qsize={qsize!r}: at least one item must be able to wait")
        if isinstance(mp_context, BaseContext):
            mp_context = mp_context.get_start_method()
        if mp_context not in (None, *multiprocessing.get_all_start_methods()):
            raise OptionError(
                f"mp_context={mp_context!r}: choose one of "
                f"{', '.join(multiprocessing.get_all_start_methods())}"
            )
        self._function = generator_function
        self._args = args
        self._kwargs = kwargs
        self._qsize = qsize
        self._start_method = mp_context
        self._closed = False
        self._runs: weakref.WeakSet[_Run[T_co]] = weakref.WeakSet()

    def __iter__(self) -> Iterator[T_co]:
        """Start a child and return the iterator over what it yields."""
        if self._closed:
            raise ClosedError("this MpQItr is closed; make another to iterate again")
        run = _Run[T_co](self._function, self._args, self._kwargs, self._qsize, self._start_method)
        self._runs.add(run)
        return run

    def close(self) -> None:
        """End every child that is still running; a second call does nothing."""
        self._closed = True
        for run in list(self._runs):
            run.close()

    def __enter__(self) -> MpQItr[T_co]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        self._unconfirmed = 0
        self._confirm_at = max(1, qsize // 2)
        self._finished: str | None = None
        self._mappings: dict[int, mmap.mmap] = {}
        self._leases: dict[int, weakref.ref[Any]] = {}
        self._freed: collections.deque[int] = collections.deque()

        ours, theirs = socket.socketpair()
        self._socket = ours
        self._inlet = _Inlet(ours)
        # A forked child has a copy of our end, which would hide from it that we closed ours.
        inherited = ours if context.get_start_method() == "fork" else None
        self._process = context.Process(  # type: ignore[attr-defined]
            target=_serve,
            args=(theirs, inherited, function, args, kwargs, qsize),
            name=f"MpQItr({self._name})",
            daemon=False,
        )
        try:
            self._process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            ours.close()
            raise OptionTypeError(
                f"{self._name} or its arguments cannot be pickled for the start method "
                f"{context.get_start_method()!r}: {error}; define the function at the top level "
                f'of a module, or use mp_context="fork"'
            ) from error
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        # Unlike `__del__`, also called before multiprocessing waits for children at exit.
        self._end = multiprocessing.util.Finalize(
            self, _end_child, (self._process, ours, self._inlet), exitpriority=100
        )

    def __iter__(self) -> _Run[T_co]:
        return self

    def __next__(self) -> T_co:
        with self._lock:
            return self._next()

    def _next(self) -> T_co:
        if os.getpid() != self._pid:
            raise WorkerError(
                f"this iterator over {self._name} belongs to the process {self._pid} that started "
                f"it; iterate over the MpQItr again in this process"
            )
        # Waiting may be interrupted (Ctrl-C) and taken up again; a message cut in two may not.
        while self._finished is None and not self._inlet.ready(_LOOK_SECONDS):
            if not self._process.is_alive() and not self._inlet.ready(0):
                self._died()
        if self._finished is not None:
            if self._finished:
                raise ClosedError(self._finished)
            raise StopIteration
        try:
            return self._receive()
        except EOFError:
            if self._finished is None:
                self._died()
            raise ClosedError(self._finished) from None
        except BaseException:
            if self._finished is None:
                self.close("an item was lost when the loop was interrupted; iterate again")
            raise

    def _receive(self) -> T_co:
        kind, segment, buffers, size = _HEADER.unpack(self._inlet.read(_HEADER.size))
        body = self._inlet.read(size)
        if kind != _ITEM:
            self._inlet.ended = True
            self.close("")
        if kind == _END:
            raise StopIteration
        if kind == _ERROR:
            raise _rebuild_exception(self._name, body)
        lengths = struct.unpack(f"<{buffers}Q", self._inlet.read(8 * buffers)) if buffers else ()
        if segment == _INLINE:
            views: list[Any] = [self._inlet.read(length) for length in lengths]
        else:
            views = self._views(segment, lengths)
        self._confirm(segment != _INLINE)
        self._received += 1
        try:
            return cast(T_co, pickle.loads(body, buffers=views))
        except Exception as error:
            self.close(f"item {self._received - 1} of {self._name} could not be rebuilt")
            raise WorkerError(
                f"item {self._received - 1} of {self._name} was pickled in the child but cannot "
                f"be rebuilt here: {error!r}"
            ) from error

    def _views(self, segment: int, lengths: tuple[int, ...]) -> list[memoryview]:
        number = segment & ~_WITH_DESCRIPTOR
        if segment & _WITH_DESCRIPTOR:
            fd = self._inlet.descriptor()
            try:
                self._mappings[number] = mmap.mmap(fd, 0)
            finally:
                os.close(fd)
        # Every array of the item keeps the owner alive; when it goes, the segment is free.
        owner = np.frombuffer(self._mappings[number], np.uint8)
        freed = self._freed
        self._leases[number] = weakref.ref(owner, lambda _: freed.append(number))
        whole = memoryview(cast(Any, owner))
        views = []
        for start, length in zip(_offsets(lengths), lengths):
            views.append(whole[start : start + length])
        return views

    def _confirm(self, at_once: bool) -> None:
        self._unconfirmed += 1
        if not at_once and self._unconfirmed < self._confirm_at:
            return
        notes = [_NOTE.pack(_TAKEN, self._unconfirmed)]
        while self._freed:
            notes.append(_NOTE.pack(_FREE, self._freed.popleft()))
        self._unconfirmed = 0
        try:
            self._socket.sendall(b"".join(notes))
        except (BrokenPipeError, ConnectionResetError):
            # The child is done; what it sent is still to be read.
            pass

    def _died(self) -> NoReturn:
        self._process.join(_GRACE_SECONDS)
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
            how = f"left with exit status {code}"
        raise WorkerError(
            f"the process that ran {self._name} {how} after {self._received} items, before the "
            f"generator had ended"
        )

    def close(self, reason: str = "this iterator is closed; iterate over the MpQItr again") -> None:
        """End the child; `reason` is what a later ``next()`` reports, empty for a normal end."""
        if os.getpid() != self._pid:
            return
        if self._finished is None:
            self._finished = reason
            # Wakes a thread that waits for an item.
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._mappings.clear()
            self._leases.clear()
            # Does nothing a second time.
            self._end()


def _end_child(process: Any, ours: socket.socket, inlet: _Inlet) -> None:
    """Close our end and see the child off."""
    finished = inlet.ended
    ours.close()
    inlet.drop_descriptors()
    if finished:
        process.join(_GRACE_SECONDS)
    if process.is_alive():
        process.terminate()
        process.join(_GRACE_SECONDS)
    if process.is_alive():
        process.kill()
    process.join()
    process.close()


class _Inlet:
    """Buffered reading from a socket that descriptors come through as well."""

    def __init__(self, source: socket.socket) -> None:
        self._socket = source
        self._buffer = bytearray(_READ_SIZE)
        self._start = self._stop = 0
        self._descriptors: collections.deque[int] = collections.deque()
        self._poll = select.poll()
        self._poll.register(source, select.POLLIN)
        self.ended = False

    def ready(self, seconds: float) -> bool:
        """Wait until something can be read, or the other end is closed."""
        return self._start < self._stop or bool(self._poll.poll(seconds * 1000))

    def read(self, size: int) -> bytearray:
        """Return exactly `size` bytes, in memory of their own."""
        target = bytearray(size)
        view = memoryview(target)
        done = min(size, self._stop - self._start)
        view[:done] = memoryview(self._buffer)[self._start : self._start + done]
        self._start += done
        # What is large goes where it belongs; the buffer is for many small items.
        while size - done >= _READ_SIZE:
            done += self._receive(view[done:])
        while done < size:
            self._stop = self._receive(memoryview(self._buffer))
            self._start = min(size - done, self._stop)
            view[done : done + self._start] = memoryview(self._buffer)[: self._start]
            done += self._start
        return target

    def _receive(self, view: memoryview) -> int:
        # Descriptors may come with any bytes: a plain recv would throw them away.
        try:
            count, ancillary, flags, _ = self._socket.recvmsg_into(
                [view],
                socket.CMSG_SPACE(_DESCRIPTORS_PER_READ * 4),
                getattr(socket, "MSG_CMSG_CLOEXEC", 0),
            )
        except ConnectionResetError:
            # The other end was closed with notes of ours unread.
            raise EOFError from None
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
                self._descriptors.extend(numbers)
        if flags & socket.MSG_CTRUNC:
            raise WorkerError(
                "this process has too many open files to receive shared memory; raise the limit "
                "(ulimit -n) or close some"
            )
        if not count:
            self.ended = True
            raise EOFError
        return count

    def descriptor(self) -> int:
        """Return the next descriptor that came; the caller closes it."""
        return self._descriptors.popleft()

    def drop_descriptors(self) -> None:
        """Close what came and was not asked for."""
        while self._descriptors:
            os.close(self._descriptors.popleft())


def _offsets(lengths: Iterable[int]) -> Iterator[int]:
    """Where each buffer starts in a segment."""
    start = 0
    for length in lengths:
        yield start
        start += -(-length // _ALIGNMENT) * _ALIGNMENT


def _rebuild_exception(name: str, body: bytearray) -> BaseException:
    pickled, kind, message, trace = pickle.loads(body)
    cause = WorkerError(f"in the child process of {name}:\n\n{trace}")
    error: object = None
    if pickled is not None:
        try:
            error = pickle.loads(pickled)
        except Exception as failure:  # noqa: BLE001 - a foreign constructor may raise anything
            message += f" ({kind} cannot be rebuilt here: {failure!r})"
    if not isinstance(error, BaseException):
        error = WorkerError(f"{name} raised {kind}: {message}")
    error.__cause__ = cause
    return error


# What follows runs in the child.


class _ParentGoneError(Exception):
    """Nobody reads what the generator yields."""


def _serve(
    theirs: socket.socket,
    inherited: socket.socket | None,
    function: Callable[..., Iterable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    qsize: int,
) -> None:
    if inherited is not None:
        inherited.close()
        if "torch" in sys.modules:
            # The threads of its pool were not forked: an operation that hands them work would
            # wait for ever.
            _torch().set_num_threads(1)
    # Ctrl-C reaches every process of the terminal; what it means is for the parent to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ending = []

    def end(*_: object) -> NoReturn:
        ending.append(True)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    outlet = _Outlet(theirs, qsize)
    try:
        try:
            for item in function(*args, **kwargs):
                outlet.put(item)
        except _ParentGoneError:
            return
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised in the parent
            if ending:
                return
            outlet.message(_ERROR, _pickle_exception(error))
        else:
            outlet.message(_END, b"")
    except _ParentGoneError:
        pass
    finally:
        theirs.close()


def _pickle_exception(error: BaseException) -> bytes:
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    pickled: bytes | None = None
    # SystemExit and KeyboardInterrupt would end the parent, which nobody asked for.
    if isinstance(error, Exception):
        try:
            pickled = pickle.dumps(error)
            if type(pickle.loads(pickled)) is not type(error):
                pickled = None
        except Exception:  # noqa: BLE001 - foreign code decides what it raises
            pickled = None
    return pickle.dumps((pickled, type(error).__qualname__, str(error), trace))


class _Segment:
    """Shared memory without a name."""

    def __init__(self, number: int, capacity: int) -> None:
        self.number = number
        self.capacity = capacity
        self.fd = os.memfd_create("MpQItr", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, capacity)
            self.memory = mmap.mmap(self.fd, capacity)
        except BaseException:
            os.close(self.fd)
            raise


class _Outlet:
    """The sending end: pickles, shares memory, and waits for credit."""

    def __init__(self, target: socket.socket, qsize: int) -> None:
        self._socket = target
        self._qsize = qsize
        self._waiting = 0
        self._segments: dict[int, _Segment] = {}
        self._free: set[int] = set()
        # As many as can wait, and some that the loop's body still holds. One that holds on to
        # more gets them through the socket: their number is bounded, as are descriptors.
        self._most = min(qsize, 64) + 16 if hasattr(os, "memfd_create") else 0
        self._poll = select.poll()
        self._poll.register(target, select.POLLIN)
        self._notes = b""

    def put(self, item: object) -> None:
        stream = io.BytesIO()
        buffers: list[pickle.PickleBuffer] = []
        _Pickler(stream, 5, buffer_callback=buffers.append).dump(item)
        raw = [_raw(buffer) for buffer in buffers]
        while self._waiting >= self._qsize:
            self._read_notes()
        lengths = [len(view) for view in raw]
        table = struct.pack(f"<{len(lengths)}Q", *lengths)
        total = sum(-(-length // _ALIGNMENT) * _ALIGNMENT for length in lengths)
        segment, fd = self._segment(total)
        if segment is None:
            self.message(_ITEM, stream.getbuffer(), table, raw)
        else:
            for start, view in zip(_offsets(lengths), raw):
                segment.memory[start : start + len(view)] = view
            number = segment.number | (_WITH_DESCRIPTOR if fd is not None else 0)
            try:
                self.message(_ITEM, stream.getbuffer(), table, (), number, len(raw), fd)
            finally:
                if fd is not None:
                    os.close(fd)
        self._waiting += 1

    def _segment(self, size: int) -> tuple[_Segment | None, int | None]:
        """Find a segment for an item, with its descriptor if the parent has not mapped it yet."""
        if size < _SEGMENT_MINIMUM or not self._most:
            return None, None
        while self._poll.poll(0):
            self._read_notes()
        fitting = [n for n in self._free if self._segments[n].capacity >= size]
        if fitting:
            number = min(fitting, key=lambda n: self._segments[n].capacity)
            self._free.discard(number)
            return self._segments[number], None
        if len(self._segments) >= self._most:
            if not self._free:
                return None, None
            # Its number is used again, which replaces the parent's mapping.
            number = min(self._free, key=lambda n: self._segments[n].capacity)
            self._free.discard(number)
            self._segments.pop(number).memory.close()
        else:
            number = len(self._segments)
        # Room for items that vary in size; pages that are never touched cost nothing.
        capacity = -(-(size + size // 4) // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            segment = _Segment(number, capacity)
        except OSError:
            self._most = len(self._segments)
            return None, None
        self._segments[number] = segment
        return segment, segment.fd

    def message(
        self,
        kind: int,
        body: bytes | memoryview,
        table: bytes = b"",
        raw: Iterable[memoryview] = (),
        segment: int = _INLINE,
        buffers: int | None = None,
        fd: int | None = None,
    ) -> None:
        raw = list(raw)
        count = len(raw) if buffers is None else buffers
        header = _HEADER.pack(kind, segment, count, len(body))
        ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            if fd is not None
            else []
        )
        try:
            # Small items in one call; large ones from where they are.
            small = b"".join((header, body, table)) if len(body) < _READ_SIZE else header
            sent = self._socket.sendmsg([small], ancillary)
            if sent < len(small):
                self._socket.sendall(memoryview(small)[sent:])
            if small is header:
                self._socket.sendall(body)
                self._socket.sendall(table)
            for view in raw:
                self._socket.sendall(view)
        except (BrokenPipeError, ConnectionResetError):
            raise _ParentGoneError from None

    def _read_notes(self) -> None:
        try:
            data = self._socket.recv(_READ_SIZE)
        except ConnectionResetError:
            data = b""
        if not data:
            raise _ParentGoneError
        data = self._notes + data
        whole = len(data) - len(data) % _NOTE.size
        self._notes = data[whole:]
        for kind, value in _NOTE.iter_unpack(data[:whole]):
            if kind == _TAKEN:
                self._waiting -= value
            else:
                self._free.add(value)


class _Pickler(pickle.Pickler):
    """Keeps the contents of arrays and tensors out of the pickle."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is np.ndarray:
            # NumPy itself would copy what is not contiguous into the pickle.
            if obj.dtype.hasobject or obj.flags.forc or not obj.nbytes:
                return NotImplemented
            return np.ascontiguousarray(obj).__reduce_ex__(5)
        torch = sys.modules.get("torch")
        if torch is not None and type(obj) is torch.Tensor:
            return _reduce_tensor(torch, obj)
        return NotImplemented


def _reduce_tensor(torch: Any, tensor: Any) -> Any:
    plain = (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.is_leaf
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
    )
    if not plain:
        return NotImplemented
    flat = tensor.detach().contiguous().reshape(-1)
    data = pickle.PickleBuffer(flat.view(torch.uint8).numpy()) if flat.numel() else b""
    return _rebuild_tensor, (data, tensor.dtype, tuple(tensor.shape), tensor.requires_grad)


def _rebuild_tensor(data: Any, dtype: Any, shape: tuple[int, ...], requires_grad: bool) -> Any:
    torch = _torch()
    flat = torch.frombuffer(data, dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)
    return flat.reshape(shape).requires_grad_(requires_grad)


@functools.lru_cache(maxsize=1)
def _torch() -> Any:
    import torch

    return torch


def _raw(buffer: pickle.PickleBuffer) -> memoryview:
    return buffer.raw()
