"""Memory that a process shares with its child, so that arrays cross without a copy to a socket."""

from __future__ import annotations

import bisect
import collections
import contextlib
import mmap
import os
import struct
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing import reduction
from typing import Any, Final, cast

import numpy as np

__all__ = ["SharedArena"]

_ALIGNMENT: Final = 64
# The allocator looks at every block, so there are few. What has no room crosses otherwise.
MAX_BLOCKS: Final = 256


class SharedArena:
    """Shared memory that the child fills with blocks of buffers and the parent makes arrays of.

    The memory is an anonymous file: it has no name, so that nothing is left behind however the
    processes end. It is as large as the memory of the machine, but takes only what was touched.
    The blocks are reused from the lowest address on, their pages mapped already on both sides.

    Pass it to the child as an argument of `multiprocessing.Process`, then call
    `close_descriptor`.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, size)
        self._pid = os.getpid()
        # In the child: (start, stop) of the blocks in use, in order.
        self._used: list[tuple[int, int]] = []
        # In the parent: the same of the blocks that arrays refer to, and which of them no longer.
        self._lent: dict[int, int] = {}
        self._released: collections.deque[int] = collections.deque()
        self._highest = 0
        self._retired = False

    @classmethod
    def create(cls) -> SharedArena | None:
        """Return a new arena, or None where the system grants none."""
        if not hasattr(os, "memfd_create"):
            return None
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        descriptor = -1
        try:
            descriptor = os.memfd_create("imagearchive", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, size)
            return cls(descriptor, size)
        except OSError:
            # For instance a limit on the size of files or of the address space.
            if descriptor >= 0:
                os.close(descriptor)
            return None

    def close_descriptor(self) -> None:
        """Close the file, once the child was started; the mapping stays."""
        os.close(self._descriptor)

    def __reduce__(self) -> Any:
        return _attach, (reduction.DupFd(self._descriptor), len(self._memory))

    # In the child

    def store(self, buffers: Sequence[memoryview]) -> bytes | None:
        """Copy buffers to a free block; return what `views` needs, or None if there is no room."""
        lengths = [len(buffer) for buffer in buffers]
        size = _block_size(lengths)
        start = 0
        for first, stop in self._used:
            if first - start >= size:
                break
            start = stop
        if len(self._used) >= MAX_BLOCKS or start + size > len(self._memory):
            return None
        bisect.insort(self._used, (start, start + size))
        for offset, buffer in zip(_offsets(start, lengths), buffers):
            self._memory[offset : offset + len(buffer)] = buffer
        return struct.pack(f"<{1 + len(lengths)}Q", start, *lengths)

    def free(self, start: int) -> None:
        """Use a block again that the parent has released."""
        del self._used[bisect.bisect_left(self._used, (start, start))]

    # In the parent

    def views(self, stored: bytearray) -> list[memoryview]:
        """Return the buffers of a block; it is released when nothing refers to any of them."""
        start, *lengths = struct.unpack(f"<{len(stored) // 8}Q", stored)
        size = _block_size(lengths)
        owner = np.frombuffer(self._memory, np.uint8, size, start)
        self._lent[start] = start + size
        self._highest = max(self._highest, start + size)
        weakref.finalize(owner, self._release, start).atexit = False
        block = memoryview(cast(Any, owner))
        return [
            block[offset : offset + length] for offset, length in zip(_offsets(0, lengths), lengths)
        ]

    def take_released(self) -> Iterator[int]:
        """Yield the blocks released since the last call, for the child to `free`."""
        while self._released:
            yield self._released.popleft()

    def retire(self) -> None:
        """Give back all memory but that of blocks in use, once the child is gone."""
        self._retired = True
        start = 0
        for first, stop in [*sorted(self._lent.items()), (self._highest, 0)]:
            self._discard(start, first)
            start = stop

    def _release(self, start: int) -> None:
        # Called in any thread, and in forked processes for their copies of the arrays.
        if os.getpid() != self._pid:
            return
        stop = self._lent.pop(start)
        if self._retired:
            self._discard(start, stop)
        else:
            self._released.append(start)

    def _discard(self, start: int, stop: int) -> None:
        if start < stop:
            # Not every kernel can.
            with contextlib.suppress(OSError):
                self._memory.madvise(mmap.MADV_REMOVE, start, stop - start)


def _attach(descriptor: Any, size: int) -> SharedArena:
    arena = SharedArena(descriptor.detach(), size)
    arena.close_descriptor()
    return arena


def _block_size(lengths: Sequence[int]) -> int:
    *_, end = _offsets(0, [*lengths, 0])
    return -(-end // mmap.PAGESIZE) * mmap.PAGESIZE


def _offsets(start: int, lengths: Sequence[int]) -> Iterator[int]:
    """Yield where each buffer begins."""
    for length in lengths:
        yield start
        start += -(-length // _ALIGNMENT) * _ALIGNMENT
