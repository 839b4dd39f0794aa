"""Send objects between two processes, with the contents of arrays outside of the pickle.

A message is a few parts, each a run of bytes. On the socket it is the number of parts and their
lengths, as unsigned 64-bit integers, and then the parts. A large part is received directly into
the memory that the array then uses; `multiprocessing.connection` copies it several times.
"""

from __future__ import annotations

import functools
import io
import pickle
import select
import socket
import struct
import sys
from typing import Any, Final

import numpy as np

__all__ = ["MessageReader", "dump", "send_message"]

_NUMBER_SIZE: Final = 8
# Shorter messages are sent in one call, and received through a buffer of this size.
_BUFFER_SIZE: Final = 1 << 16


def dump(obj: object) -> tuple[memoryview, list[memoryview]]:
    """Pickle an object; return the pickle and the buffers that `pickle.loads` needs with it.

    The contents of NumPy arrays and of dense CPU tensors are buffers, whatever their strides.
    """
    stream = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    _Pickler(stream, 5, buffer_callback=buffers.append).dump(obj)
    return stream.getbuffer(), [buffer.raw() for buffer in buffers]


def send_message(connection: socket.socket, *parts: bytes | memoryview) -> None:
    """Send one message; raises BrokenPipeError or ConnectionResetError if nobody reads it."""
    lengths = [len(part) for part in parts]
    table = struct.pack(f"<{len(parts) + 1}Q", len(parts), *lengths)
    if sum(lengths) < _BUFFER_SIZE:
        connection.sendall(b"".join((table, *parts)))
        return
    connection.sendall(table)
    for part in parts:
        connection.sendall(part)


class MessageReader:
    """Receives messages from a socket. For one thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._bytes = bytearray(_BUFFER_SIZE)
        self._buffer = memoryview(self._bytes)
        self._start = self._stop = 0
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def ready(self, seconds: float) -> bool:
        """Wait until a message begins or the other end is closed; return whether that happened."""
        return self._start < self._stop or bool(self._poll.poll(seconds * 1000))

    def read(self) -> list[bytearray]:
        """Return the parts of the next message, each in memory of its own.

        Raises
        ------
        EOFError
            The other end is closed.
        """
        (count,) = self._read_numbers(1)
        return [self._read_exactly(length) for length in self._read_numbers(count)]

    def _read_numbers(self, count: int) -> tuple[int, ...]:
        end = self._start + count * _NUMBER_SIZE
        if end > self._stop:
            return struct.unpack(f"<{count}Q", self._read_exactly(count * _NUMBER_SIZE))
        start, self._start = self._start, end
        return struct.unpack_from(f"<{count}Q", self._buffer, start)

    def _read_exactly(self, size: int) -> bytearray:
        end = self._start + size
        if end <= self._stop:
            start, self._start = self._start, end
            return self._bytes[start:end]
        target = bytearray(size)
        view = memoryview(target)
        done = min(size, self._stop - self._start)
        view[:done] = self._buffer[self._start : self._start + done]
        self._start += done
        while size - done >= _BUFFER_SIZE:
            done += self._receive(view[done:])
        while done < size:
            self._stop = self._receive(self._buffer)
            self._start = min(size - done, self._stop)
            view[done : done + self._start] = self._buffer[: self._start]
            done += self._start
        return target

    def _receive(self, view: memoryview) -> int:
        try:
            count = self._socket.recv_into(view)
        except ConnectionResetError:
            # The other end was closed before it had read all that was sent to it.
            count = 0
        if not count:
            raise EOFError
        return count


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
    dense = (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.is_leaf
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
    )
    if not dense:
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
