"""Where random numbers come from: a key, never a thread, a worker or the clock."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

from imagearchive.errors.arguments import check_integer
from imagearchive.images.random import Stream

__all__ = ["InstanceStreams", "Key", "SampleKeys"]


class Key(NamedTuple):
    """Identifies the random stream of a transform for one sample.

    Attributes
    ----------
    seed : int
        The seed of the run. The low 64 bits count.
    epoch : int
        The low 32 bits count.
    index : int
        The index of the sample in its dataset. The low 64 bits count.
    position : int
        The position of the transform in its `Compose`, which sets it. At most 65,535.
    """

    seed: int
    epoch: int = 0
    index: int = 0  # type: ignore[assignment]  # hides tuple.index
    position: int = 0

    def at(self, position: int) -> Key:
        """Return the same key for the transform at another position."""
        return Key(self.seed, self.epoch, self.index, position)

    def stream(self) -> Stream:
        """Return the random numbers of this key, from the first."""
        return Stream(self.seed, self.epoch, self.index, self.position)


class _Streams(NamedTuple):
    """The streams of the calls in one process."""

    pid: int
    base: int
    salt: int
    calls: Iterator[int]


class SampleKeys(Sequence[Key]):
    """The keys of several samples of one epoch, each made when it is asked for.

    For small images, making one for each takes as long as a twentieth of decoding.

    Parameters
    ----------
    seed, epoch : int
        As in `Key`.
    indices : sequence of int
        The indices of the samples.
    """

    __slots__ = ("epoch", "indices", "seed")

    def __init__(self, seed: int, epoch: int, indices: Sequence[int]) -> None:
        self.seed = seed
        self.epoch = epoch
        self.indices = indices

    @classmethod
    def from_keys(cls, keys: Sequence[Key | None]) -> SampleKeys | None:
        """Return the same keys; None if one is missing, or they are not of one epoch."""
        if isinstance(keys, cls):
            return keys
        given = [key for key in keys if key is not None]
        epochs = {(key.seed, key.epoch) for key in given}
        if len(epochs) != 1 or len(given) < len(keys):
            return None
        return cls(*epochs.pop(), [key.index for key in given])

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, k: int) -> Key: ...
    @overload
    def __getitem__(self, k: slice) -> SampleKeys: ...
    def __getitem__(self, k: int | slice) -> Key | SampleKeys:
        if isinstance(k, slice):
            return SampleKeys(self.seed, self.epoch, self.indices[k])
        return Key(self.seed, self.epoch, self.indices[k])


class InstanceStreams:
    """The streams of an instance for calls without a key, one for each call.

    No two instances share a stream. Threads may share an instance. In a forked child, and in a copy
    that was unpickled in another process, the streams differ from those of the parent.

    Parameters
    ----------
    seed : int, optional
        Makes the streams repeatable in the process that created the instance.
    name : str
        Name of the transform's class, so that different classes draw differently from one seed.
    """

    def __init__(self, seed: Any = None, name: str = "", *, home: int | None = None) -> None:
        self.seed = None if seed is None else check_integer("seed", seed)
        self._name = name
        self._home = os.getpid() if home is None else home
        # Replaced as a whole: threads of a forked child may find out about the fork at once.
        self._streams = self._start()

    def _start(self) -> _Streams:
        pid = os.getpid()
        if self.seed is None:
            base = int.from_bytes(os.urandom(8), "little")
        else:
            base = self.seed ^ zlib.crc32(self._name.encode()) << 32
        salt = 0 if pid == self._home else int.from_bytes(os.urandom(4), "little") | 1
        return _Streams(pid, base, salt, itertools.count())

    def next(self) -> Stream:
        """Return the stream of the next call."""
        streams = self._streams
        if os.getpid() != streams.pid:
            streams = self._streams = self._start()
        # Position 65,535 is reserved for these, so they differ from every stream of a Compose.
        return Stream(streams.base, streams.salt, next(streams.calls), 0xFFFF)

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.seed, self._name, self._home)


def _restore(seed: int | None, name: str, home: int) -> InstanceStreams:
    return InstanceStreams(seed, name, home=home)
