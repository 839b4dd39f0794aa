"""The order of samples in an epoch: arithmetic on (n, seed, epoch, rank, world size).

An epoch is a permutation of ``range(n)`` that is computed, not stored. Any part of it can be
computed at any time, so a position in the epoch is one integer, ranks share nothing but the seed,
and a billion samples take no more memory than ten.

Rank ``r`` of ``w`` takes the positions ``r, r + w, r + 2 w, …`` of the one global order. After
``k`` batches of ``b`` samples, the ranks have together consumed exactly the first ``k w b``
positions, whatever the permutation. A saved position can therefore be resumed by another number of
ranks or with another batch size.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.permutation import MAX_SAMPLES, BlockPermutation, Permutation
from imagearchive.errors import OptionError, SampleIndexError
from imagearchive.errors.arguments import check_flag, check_integer, shorten
from imagearchive.errors.plurals import pluralize

__all__ = [
    "MAX_BATCH",
    "ORDER_VERSION",
    "BlockShuffle",
    "EpochOrder",
    "Shuffle",
    "check_shuffle",
    "find_rank",
]

#: Changes whenever the same (n, seed, epoch) gives another order. Saved states contain it.
ORDER_VERSION: Final = 1

MAX_BATCH: Final = 1 << 31

#: What ``shuffle=`` may be.
Shuffle = bool | Literal["blocks"]

_Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BlockShuffle:
    """How ``shuffle="blocks"`` orders samples; see `BlockPermutation`.

    Attributes
    ----------
    block_size : int
        Samples of a block.
    blocks_per_window : int
        Blocks whose samples are shuffled among themselves.
    """

    block_size: int = 64
    blocks_per_window: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            value = check_integer(field.name, getattr(self, field.name), 1, MAX_SAMPLES)
            object.__setattr__(self, field.name, value)

    @property
    def window(self) -> int:
        """Most samples of a window, but for those that fill no block."""
        return self.block_size * self.blocks_per_window


def check_shuffle(
    shuffle: Any, block_size: int | None, blocks_per_window: int | None
) -> bool | BlockShuffle:
    """Return how to shuffle, as the arguments of a loader or a sampler say.

    Raises
    ------
    OptionError
        `shuffle` is another text, or the others are given without ``shuffle="blocks"``.
    """
    asked = {"block_size": block_size, "blocks_per_window": blocks_per_window}
    given = {name: value for name, value in asked.items() if value is not None}
    if isinstance(shuffle, str):
        if shuffle != "blocks":
            raise OptionError(f"shuffle must be True, False, or 'blocks', got {shorten(shuffle)}")
        return BlockShuffle(**given)
    if given:
        raise OptionError(f"{next(iter(given))}= is for shuffle='blocks'; pass both or neither")
    return check_flag("shuffle", shuffle)


class EpochOrder:
    """The batches that one rank sees in one epoch.

    Parameters
    ----------
    n : int
        Number of samples in the dataset.
    seed, epoch : int
        Determine the permutation.
    shuffle : bool or BlockShuffle
        If False, the order is ``0, 1, 2, …`` in every epoch.
    rank, world_size : int
        The number of this rank, and of all ranks that share the epoch.
    batch_size : int
        Samples per batch of one rank.
    drop_last : bool
        If True, there are full batches only, the same number on every rank, and fewer than
        ``batch_size * world_size`` samples of the epoch remain unused. If False, the ranks together
        yield every sample exactly once. Ranks then differ by at most one sample, so some may have
        one batch less.
    start : int
        Position in the global order at which to begin. The samples before it have been consumed, by
        any number of ranks.
    data_order : ndarray of int64, shape (n,), optional
        The sample indices in the order of their data, whose neighbors a block consists of. By
        default ``0, 1, 2, …``.

    Raises
    ------
    OptionError
        A value is out of range.

    Notes
    -----
    Immutable. Any batch can be computed at any time, in memory proportional to the batch.
    """

    __slots__ = (
        "_permutation",
        "batch_size",
        "data_order",
        "drop_last",
        "epoch",
        "n",
        "rank",
        "seed",
        "shuffle",
        "start",
        "world_size",
    )

    def __init__(
        self,
        n: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool | BlockShuffle = True,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
        drop_last: bool = False,
        start: int = 0,
        data_order: _Positions | None = None,
    ) -> None:
        self.n = check_integer("n", n, 0, MAX_SAMPLES)
        self.seed = check_integer("seed", seed)
        self.epoch = check_integer("epoch", epoch)
        self.shuffle = shuffle
        self.world_size = check_integer("world_size", world_size, 1, 1 << 31)
        self.rank = _check_rank(rank, self.world_size)
        self.batch_size = check_integer("batch_size", batch_size, 1, MAX_BATCH)
        self.drop_last = bool(drop_last)
        self.start = check_integer("start", start, 0, self.n)
        self.data_order = data_order
        self._permutation: Permutation | BlockPermutation | None = None
        if isinstance(shuffle, BlockShuffle):
            self._permutation = BlockPermutation(
                self.n, self.seed, self.epoch, shuffle.block_size, shuffle.blocks_per_window
            )
        elif shuffle:
            self._permutation = Permutation(self.n, self.seed, self.epoch)

    def of_epoch(self, epoch: int, start: int = 0) -> EpochOrder:
        """Return the order of another epoch, from a position on, with the same options."""
        return EpochOrder(
            self.n,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            rank=self.rank,
            world_size=self.world_size,
            batch_size=self.batch_size,
            drop_last=self.drop_last,
            start=start,
            data_order=self.data_order,
        )

    def __len__(self) -> int:
        """Return the number of batches of this rank, from `start` on."""
        if self.drop_last:
            return (self.n - self.start) // (self.batch_size * self.world_size)
        return (self.samples + self.batch_size - 1) // self.batch_size

    @property
    def samples(self) -> int:
        """The number of samples of this rank, from `start` on."""
        if self.drop_last:
            return len(self) * self.batch_size
        return max(0, -(-(self.n - self.start - self.rank) // self.world_size))

    @property
    def end(self) -> int:
        """The position in the global order at which the epoch ends for all ranks."""
        if self.drop_last:
            return self.start + len(self) * self.batch_size * self.world_size
        return self.n

    def position_after(self, batches: int) -> int:
        """Return the position in the global order after so many batches of every rank."""
        return min(self.end, self.start + batches * self.batch_size * self.world_size)

    def positions(self, batch: int, count: int = 1) -> _Positions:
        """Return the positions in the global order of batches of this rank.

        Parameters
        ----------
        batch : int
            The first of them.
        count : int
            How many follow each other.
        """
        if not 0 <= batch <= len(self) - count:
            raise SampleIndexError(
                f"batch {batch} is out of range: the epoch has {pluralize(len(self), 'batch')}"
            )
        first = batch * self.batch_size
        stop = min(first + count * self.batch_size, self.samples)
        steps = np.arange(first, stop, dtype=np.int64)
        return self.start + self.rank + steps * self.world_size

    def indices(self, positions: npt.NDArray[np.integer[Any]]) -> _Positions:
        """Return the sample indices at positions of the global order."""
        if self._permutation is None:
            return np.asarray(positions).astype(np.int64)
        indices = self._permutation.take(positions)
        if self.data_order is None or not isinstance(self._permutation, BlockPermutation):
            return indices
        return self.data_order[indices]

    def begin_windows(
        self, positions: _Positions, begun: set[int], following: int = 1
    ) -> Iterator[_Positions]:
        """Yield the sample indices of windows of blocks that should be read ahead now.

        Those are the windows that positions are in and those that follow, as far as this rank
        reads them, each in the order of its data.

        Parameters
        ----------
        positions : ndarray of int64
            The positions of a batch.
        begun : set of int
            The windows that were yielded before; new ones are added.
        following : int
            How many windows follow.
        """
        blocks = self._permutation
        if not isinstance(blocks, BlockPermutation) or not len(positions):
            return
        first, last = blocks.window_of(positions[[0, -1]]).tolist()
        for window in range(first, min(last + 1 + following, blocks.windows)):
            if window not in begun:
                begun.add(window)
                start, stop = blocks.window(window)
                own = max(start, self.start) - self.start - self.rank
                own = self.start + self.rank + -(-own // self.world_size) * self.world_size
                mine = np.arange(max(own, self.start + self.rank), stop, self.world_size)
                data = np.sort(blocks.take(mine))
                yield data if self.data_order is None else self.data_order[data]

    def __getitem__(self, batch: int) -> _Positions:
        """Return the sample indices of one batch, int64 of shape (size of the batch,)."""
        where = operator.index(batch)
        return self.indices(self.positions(where + len(self) if where < 0 else where))

    def __iter__(self) -> Iterator[_Positions]:
        for batch in range(len(self)):
            yield self[batch]

    def __repr__(self) -> str:
        return (
            f"EpochOrder({self.n}, seed={self.seed}, epoch={self.epoch}, shuffle={self.shuffle}, "
            f"rank={self.rank}, world_size={self.world_size}, batch_size={self.batch_size}, "
            f"drop_last={self.drop_last}, start={self.start})"
        )


def find_rank(rank: int | None = None, world_size: int | None = None) -> tuple[int, int]:
    """Return the rank of this process and the world size.

    They come from the first of these: the arguments; ``torch.distributed``, if its default process
    group is initialized; the environment variables ``RANK`` and ``WORLD_SIZE``, which ``torchrun``
    sets. Otherwise there is one rank, 0.

    Raises
    ------
    OptionError
        Only one of the two is given, or the rank is out of range.
    """
    if rank is not None or world_size is not None:
        if rank is None or world_size is None:
            raise OptionError(
                f"pass both rank and world_size or neither, got {rank} and {world_size}"
            )
        size = check_integer("world_size", world_size, 1)
        return _check_rank(rank, size), size
    # A module that was never imported cannot be initialized, and importing torch takes seconds.
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank()), int(distributed.get_world_size())
    texts = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if texts == (None, None):
        return 0, 1
    if texts[0] is None or texts[1] is None:
        raise OptionError(
            f"set both RANK and WORLD_SIZE in the environment or neither, got RANK={texts[0]} and "
            f"WORLD_SIZE={texts[1]}"
        )
    try:
        values = int(texts[0]), int(texts[1])
    except ValueError:
        raise OptionError(
            f"RANK and WORLD_SIZE in the environment must be integers, got {texts[0]!r} and "
            f"{texts[1]!r}"
        ) from None
    return _check_rank(values[0], check_integer("WORLD_SIZE", values[1], 1)), values[1]


def _check_rank(rank: int, world_size: int) -> int:
    """Return a rank as Python's own integer, if it is below the world size."""
    value = check_integer("rank", rank)
    if not 0 <= value < world_size:
        raise OptionError(
            f"rank must be 0 to {world_size - 1} with world_size={world_size}, got {value}"
        )
    return value
