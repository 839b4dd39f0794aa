"""Memory for batches, used again when the consumer has let go of it."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Buffers"]

_Array = npt.NDArray[Any]


class Buffers:
    """Hands out arrays, and keeps the memory of those that are gone for the next ones.

    Fresh memory costs a page fault for every 4 KiB, which for normalized batches is as much time as
    a tenth of the decoding.

    The base of an array from `take` is a `_Lease`. Whatever uses the memory keeps it alive: views,
    slices, torch tensors, memory views. When it is gone, nothing can see the memory any more.

    Parameters
    ----------
    limit : int
        How many unused buffers to keep.

    Notes
    -----
    Safe for threads. A lease may end in the middle of any line of any thread: it only appends to a
    deque, which needs no lock.
    """

    def __init__(self, limit: int) -> None:
        self._unused: deque[_Array] = deque(maxlen=limit)

    def keep(self, limit: int) -> None:
        """Keep so many unused buffers from now on; the memory of earlier arrays may be dropped."""
        if self._unused.maxlen != limit:
            self._unused = deque(self._unused, limit)

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> _Array:
        """Return an array that nothing else refers to, with any content."""
        return np.asarray(_Lease(self._memory(shape, dtype), self._unused))

    def _memory(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> _Array:
        """Return unused memory of this shape and type, or new one. Others are dropped."""
        while True:
            try:
                memory = self._unused.pop()
            except IndexError:
                return _aligned(shape, dtype)
            if memory.shape == shape and memory.dtype == dtype:
                return memory


def _aligned(shape: tuple[int, ...], dtype: npt.DTypeLike) -> _Array:
    """Return an array that begins at a cache line: otherwise writing past the caches is slow."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


class _Lease:
    """The base of an array that is handed out, which NumPy keeps alive with the array.

    Not an array itself, since NumPy makes the base of an array the base of its views, too.
    """

    __slots__ = ("__array_interface__", "_memory", "_unused")

    def __init__(self, memory: _Array, unused: deque[_Array]) -> None:
        self.__array_interface__ = memory.__array_interface__
        self._memory = memory
        self._unused = unused

    def __del__(self) -> None:
        self._unused.append(self._memory)
