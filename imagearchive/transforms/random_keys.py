"""Where random numbers come from: a key, never a thread, a worker or the time."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from imagearchive.errors.arguments import check_integer
from imagearchive.images.random import Stream

__all__ = ["InstanceStreams", "Key"]


class Key(NamedTuple):
    """What the random choices of a transform for one sample are a function of.

    Attributes
    ----------
    seed : int
        Of the run; its low 64 bits count.
    epoch : int
        Its low 32 bits count.
    index : int
        Of the sample in its dataset; its low 64 bits count.
    position : int
        Of the transform in its `Compose`; set by the `Compose`. At most 65,535.
    """

    seed: int
    epoch: int = 0
    index: int = 0  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    position: int = 0

    def at(self, position: int) -> Key:
        """The same key for the transform at another position."""
        return Key(self.seed, self.epoch, self.index, position)

    def stream(self) -> Stream:
        """The random numbers that belong to this key, from their first."""
        return Stream(self.seed, self.epoch, self.index, self.position)


class InstanceStreams:
    """Streams for calls without a key: one instance never repeats another's.

    A new stream is handed out per call. Calls from several threads are safe. In a forked child,
    and in a copy that was unpickled in another process, the streams differ from the parent's.

    Parameters
    ----------
    seed : int, optional
        Makes the streams of the creating process repeatable; otherwise the system's entropy.
    name : str
        Of the transform's class: two of different classes draw differently from one seed.
    """

    def __init__(self, seed: Any = None, name: str = "", *, home: int | None = None) -> None:
        self.seed = None if seed is None else check_integer("seed", seed)
        self._name = name
        self._home = os.getpid() if home is None else home
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        if self.seed is None:
            self._base = int.from_bytes(os.urandom(8), "little")
        else:
            self._base = self.seed ^ zlib.crc32(self._name.encode()) << 32
        self._salt = 0 if self._pid == self._home else int.from_bytes(os.urandom(4), "little") | 1
        self._calls: Iterator[int] = itertools.count()

    def next(self) -> Stream:
        """The stream of the next call."""
        if os.getpid() != self._pid:
            self._start()
        # Position 65,535 is kept for these, so that they never meet a stream of a Compose.
        return Stream(self._base, self._salt, next(self._calls), 0xFFFF)

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.seed, self._name, self._home)


def _restore(seed: int | None, name: str, home: int) -> InstanceStreams:
    return InstanceStreams(seed, name, home=home)
