"""`ShardedSampler`: the order of `DataLoader` for torch's loader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np

from imagearchive.errors.arguments import check_integer
from imagearchive.errors.plurals import pluralize
from imagearchive.loader.epoch_counter import EpochCounter, Progress
from imagearchive.loader.locality import find_data_order
from imagearchive.loader.order import (
    ORDER_VERSION,
    BlockShuffle,
    EpochOrder,
    Shuffle,
    check_shuffle,
    find_rank,
)
from imagearchive.loader.saved_state import check_state, shuffle_state

__all__ = ["ShardedSampler"]


class ShardedSampler:
    """Gives ``torch.utils.data.DataLoader`` the order of `imagearchive.DataLoader`.

    Pass it as ``sampler=`` in place of ``torch.utils.data.DistributedSampler``. Unlike that one it
    does not pad: no sample comes twice. Its memory does not grow with the dataset.

    Parameters
    ----------
    data_source : sized or int
        The dataset, or the number of its samples.
    shuffle : bool or "blocks"
        Whether each epoch has an order of its own. If False, the order is ``0, 1, 2, …``. With
        "blocks", samples that are stored near each other stay near each other.
    seed : int
        Determines the orders. It must be the same on all ranks.
    rank, world_size : int, optional
        By default `find_rank` finds them.
    drop_last : bool
        If True, every rank has ``n // world_size`` samples. Pass the same value to torch's
        ``DataLoader``; then every rank has the same number of batches.
    block_size, blocks_per_window : int, optional
        For ``shuffle="blocks"``, as in `DataLoader`.

    Notes
    -----
    Every iteration takes the next epoch, unless `set_epoch` or `load_state_dict` chose one. A
    sampler may be pickled and forked. It serves one consumer at a time.
    """

    def __init__(
        self,
        data_source: Sized | int,
        *,
        shuffle: Shuffle = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
        block_size: int | None = None,
        blocks_per_window: int | None = None,
    ) -> None:
        n = len(data_source) if hasattr(data_source, "__len__") else data_source
        if rank is None or world_size is None:
            rank, world_size = find_rank(rank, world_size)
        chosen = check_shuffle(shuffle, block_size, blocks_per_window)
        self._order = EpochOrder(
            n,
            seed=seed,
            shuffle=chosen,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
            data_order=find_data_order(data_source) if isinstance(chosen, BlockShuffle) else None,
        )
        self._epochs = EpochCounter(self._order.of_epoch)

    def __repr__(self) -> str:
        order = self._order
        return (
            f"ShardedSampler({pluralize(order.n, 'sample')}, shuffle={order.shuffle!r}, "
            f"seed={order.seed}, rank={order.rank}, world_size={order.world_size})"
        )

    def __len__(self) -> int:
        """Return the number of samples of this rank in a whole epoch."""
        return self._order.samples

    def __iter__(self) -> Iterator[int]:
        return self._walk(self._epochs.begin())

    def _walk(self, progress: Progress) -> Iterator[int]:
        order = progress.order
        total = order.samples
        for first in range(0, total, 4096):
            steps = np.arange(first, min(first + 4096, total), dtype=np.int64)
            positions = order.start + order.rank + steps * order.world_size
            for index in order.indices(positions).tolist():
                progress.received += 1
                yield index
        # The position may not show it: other ranks may have one sample more.
        progress.ended = True

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration take this epoch, from its beginning."""
        self._epochs.set_next(check_integer("epoch", epoch))

    def state_dict(self, received: int | None = None) -> dict[str, Any]:
        """Return the position in the epoch, as plain integers.

        Parameters
        ----------
        received : int, optional
            Number of samples that the training loop has received in this iteration, the same on
            every rank. By default the number handed out. With ``num_workers > 0`` that is more than
            were received, since torch's loader asks ahead.
        """
        if received is not None:
            received = check_integer("received", received, 0)
        epoch, position = self._epochs.position(received)
        return {
            "order_version": ORDER_VERSION,
            "n": self._order.n,
            "seed": self._order.seed,
            **shuffle_state(self._order.shuffle, self._order.data_order),
            "epoch": epoch,
            "position": position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state, on any number of ranks.

        Raises
        ------
        StateMismatchError
            The state belongs to another dataset or order; the message names the difference.
        """
        self._epochs.set_next(*check_state(state, self.state_dict()))
