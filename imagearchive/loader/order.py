"""Which sample comes when: pure arithmetic on (n, seed, epoch, rank, world size).

An epoch is a permutation of ``range(n)`` that is computed, not stored: any part of it can be asked
for at any time, so a position in the epoch is one integer, ranks share nothing but the seed, and a
billion samples take no more memory than ten.

Rank ``r`` of ``w`` takes the positions ``r, r + w, r + 2 w, …`` of the one global order. After
``k`` batches of ``b`` samples the ranks have together consumed exactly the first ``k w b``
positions, whatever the permutation; that is why a saved position can be resumed by another number
of ranks or with another batch size.
"""

from __future__ import annotations

import logging
import operator
import os
import sys
from collections.abc import Iterator, Mapping, Sized
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.permutation import MAX_SAMPLES, Permutation
from imagearchive.errors import OptionError, OptionTypeError, SampleIndexError, StateMismatchError
from imagearchive.errors.arguments import check_integer

__all__ = ["EpochOrder", "ShardedSampler", "find_rank"]

logger = logging.getLogger(__name__)

#: Changes whenever the same (n, seed, epoch) would give another order: saved states carry it.
ORDER_VERSION: Final = 1

MAX_BATCH: Final = 1 << 31

_Positions = npt.NDArray[np.int64]


class EpochOrder:
    """The batches that one rank sees in one epoch.

    Parameters
    ----------
    n : int
        Samples in the data set.
    seed, epoch : int
        Choose the permutation.
    shuffle : bool
        False: the order is ``0, 1, 2, …`` in every epoch.
    rank, world_size : int
        This rank's place among the ranks that share the epoch.
    batch_size : int
        Samples per batch of one rank.
    drop_last : bool
        True: only whole batches, equally many on every rank; less than
        ``batch_size * world_size`` samples of the epoch remain unused. False: every sample
        comes exactly once over all ranks, none twice; ranks differ by at most one sample, so
        where fewer than `world_size` samples remain some ranks have one batch less.
    start : int
        Position in the global order at which to begin: what comes before it was consumed, by
        however many ranks.

    Raises
    ------
    OptionError
        A value is out of range.

    Notes
    -----
    Immutable; computes any batch at any time in memory proportional to the batch.
    """

    __slots__ = (
        "_permutation",
        "batch_size",
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
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
        drop_last: bool = False,
        start: int = 0,
    ) -> None:
        self.n = check_integer("n", n, 0, MAX_SAMPLES)
        self.seed = check_integer("seed", seed)
        self.epoch = check_integer("epoch", epoch)
        self.shuffle = bool(shuffle)
        self.world_size = check_integer("world_size", world_size, 1, 1 << 31)
        self.rank = _rank(rank, self.world_size)
        self.batch_size = check_integer("batch_size", batch_size, 1, MAX_BATCH)
        self.drop_last = bool(drop_last)
        self.start = check_integer("start", start, 0, self.n)
        self._permutation = Permutation(self.n, self.seed, self.epoch) if self.shuffle else None

    def __len__(self) -> int:
        """Return how many batches this rank has, from `start` on."""
        if self.drop_last:
            return (self.n - self.start) // (self.batch_size * self.world_size)
        return (self.samples + self.batch_size - 1) // self.batch_size

    @property
    def samples(self) -> int:
        """Samples of this rank, from `start` on."""
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
        """Return the position in the global order once every rank has had that many batches."""
        return min(self.end, self.start + batches * self.batch_size * self.world_size)

    def positions(self, batch: int) -> _Positions:
        """Return the positions in the global order that make up a batch of this rank."""
        if not 0 <= batch < len(self):
            raise SampleIndexError(f"batch {batch} of an epoch of {len(self)} batches")
        first = batch * self.batch_size
        count = min(self.batch_size, self.samples - first)
        steps = np.arange(first, first + count, dtype=np.int64)
        return self.start + self.rank + steps * self.world_size

    def indices(self, positions: npt.NDArray[np.integer[Any]]) -> _Positions:
        """Return the sample indices that stand at positions of the global order."""
        if self._permutation is None:
            return np.asarray(positions).astype(np.int64)
        return self._permutation.take(positions)

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


class ShardedSampler:
    """Gives ``torch.utils.data.DataLoader`` the order of `imagearchive.DataLoader`.

    Pass it as ``sampler=``. It replaces ``torch.utils.data.DistributedSampler`` without that
    one's padding: no sample comes twice, and memory does not grow with the data set.

    Parameters
    ----------
    data_source : sized or int
        The data set, or the number of its samples.
    shuffle : bool
        A new order in every epoch, or ``0, 1, 2, …``.
    seed : int
        Chooses the orders; the same on all ranks.
    rank, world_size : int, optional
        Where not given, as `find_rank` finds them.
    drop_last : bool
        True: every rank has ``n // world_size`` samples. Give torch's ``DataLoader`` the same
        value, then every rank has equally many batches.

    Notes
    -----
    Every iteration begins a new epoch unless `set_epoch` or `load_state_dict` says which.
    Pickles and forks freely; one instance serves one consumer at a time.
    """

    def __init__(
        self,
        data_source: Sized | int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
    ) -> None:
        n = len(data_source) if hasattr(data_source, "__len__") else data_source
        if rank is None or world_size is None:
            rank, world_size = find_rank(rank, world_size)
        self._options: dict[str, Any] = {
            "n": check_integer("n", n, 0, MAX_SAMPLES),
            "seed": check_integer("seed", seed),
            "shuffle": bool(shuffle),
            "rank": _rank(rank, check_integer("world_size", world_size, 1)),
            "world_size": world_size,
            "drop_last": bool(drop_last),
        }
        self._next_epoch = 0
        self._start = 0
        self._current: EpochOrder | None = None
        self._handed_out = 0
        self._ended = False

    def _order(self, epoch: int, start: int) -> EpochOrder:
        return EpochOrder(epoch=epoch, start=start, **self._options)

    def __len__(self) -> int:
        """Return how many samples of a whole epoch this rank has."""
        return self._order(0, 0).samples

    def __iter__(self) -> Iterator[int]:
        order = self._order(self._next_epoch, self._start)
        self._current, self._handed_out, self._ended = order, 0, False
        self._next_epoch, self._start = order.epoch + 1, 0
        return self._walk(order)

    def _walk(self, order: EpochOrder) -> Iterator[int]:
        total = order.samples
        for first in range(0, total, 4096):
            steps = np.arange(first, min(first + 4096, total), dtype=np.int64)
            positions = order.start + order.rank + steps * order.world_size
            for index in order.indices(positions).tolist():
                if self._current is order:
                    self._handed_out += 1
                yield index
        if self._current is order:
            # Other ranks may have one sample more.
            self._ended = True

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that epoch, from its beginning."""
        self._next_epoch, self._start = check_integer("epoch", epoch), 0
        self._current = None

    def state_dict(self, received: int | None = None) -> dict[str, Any]:
        """Return where the epoch stands, as plain integers.

        Parameters
        ----------
        received : int, optional
            How many samples of this rank the training loop has received in this iteration, on
            every rank alike. Default: as many as were handed out, which with ``num_workers > 0``
            is more than was received, since torch's loader asks ahead.
        """
        epoch, position = self._next_epoch, self._start
        if self._current is not None:
            order = self._current
            count = self._handed_out if received is None else check_integer("received", received, 0)
            after = order.position_after(count)
            if after < order.end and not (self._ended and received is None):
                epoch, position = order.epoch, after
        options = self._options
        return {
            "order_version": ORDER_VERSION,
            "n": options["n"],
            "seed": options["seed"],
            "shuffle": options["shuffle"],
            "epoch": epoch,
            "position": position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state, on this or any other number of ranks.

        Raises
        ------
        StateMismatchError
            The state is of another data set or order; the message names what differs.
        """
        epoch, position = check_state(state, self.state_dict())
        self._next_epoch, self._start, self._current = epoch, position, None


def check_state(
    state: Mapping[str, Any], own: Mapping[str, Any], hints: Mapping[str, str] | None = None
) -> tuple[int, int]:
    """Compare a saved state with one's own; return the epoch and the position to continue at.

    Raises
    ------
    StateMismatchError
        Any entry but ``epoch`` and ``position`` is missing or differs; the message names it.
    """
    if not isinstance(state, Mapping):
        raise StateMismatchError(f"{state!r} is no saved state: pass what state_dict() returned")
    for name, value in own.items():
        if name not in state:
            raise StateMismatchError(
                f"the saved state has no entry {name!r}: it was not saved by this kind of object, "
                f"or by an older release"
            )
        if name not in ("epoch", "position") and state[name] != value:
            hint = (hints or {}).get(name, "pass the same data and options as when it was saved")
            what = "the number of samples, n," if name == "n" else name
            raise StateMismatchError(
                f"the saved state does not fit: {what} was {state[name]!r} when it was saved and "
                f"is {value!r} here; {hint}"
            )
    try:
        epoch = check_integer("epoch", state["epoch"])
        position = check_integer("position", state["position"], 0, int(state["n"]))
    except (OptionError, OptionTypeError) as error:
        raise StateMismatchError(f"the saved state is damaged: {error}") from None
    return epoch, position


def find_rank(rank: int | None = None, world_size: int | None = None) -> tuple[int, int]:
    """Return this process's rank and the world size.

    The first of these that says so: the arguments; ``torch.distributed``, where its default
    process group is initialised; the environment variables ``RANK`` and ``WORLD_SIZE``, which
    ``torchrun`` sets; one rank alone.

    Raises
    ------
    OptionError
        Only one of the two is known, or the rank is out of range.
    """
    if rank is not None or world_size is not None:
        if rank is None or world_size is None:
            raise OptionError(
                f"pass both rank and world_size or neither, got {rank} and {world_size}"
            )
        size = check_integer("world_size", world_size, 1)
        return _rank(rank, size), size
    # What was never imported cannot be initialised, and importing torch takes seconds.
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank()), int(distributed.get_world_size())
    texts = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if texts == (None, None):
        return 0, 1
    if texts[0] is None or texts[1] is None:
        raise OptionError(
            f"RANK={texts[0]}, WORLD_SIZE={texts[1]} in the environment: set both or neither"
        )
    try:
        values = int(texts[0]), int(texts[1])
    except ValueError:
        raise OptionError(
            f"RANK={texts[0]!r}, WORLD_SIZE={texts[1]!r} in the environment must be integers"
        ) from None
    return _rank(values[0], check_integer("WORLD_SIZE", values[1], 1)), values[1]


def _rank(rank: int, world_size: int) -> int:
    value = check_integer("rank", rank)
    if not 0 <= value < world_size:
        raise OptionError(
            f"rank must be 0 to {world_size - 1} with world_size={world_size}, got {value}"
        )
    return value
