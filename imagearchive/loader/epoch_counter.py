"""Which epoch is next, and how far the consumer has come in the current one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imagearchive.loader.order import EpochOrder
from imagearchive.storage.fork_lock import ForkSafeLock

__all__ = ["EpochCounter", "Progress"]


class Progress:
    """How far the consumer of one iterator has come."""

    __slots__ = ("ended", "order", "received")

    def __init__(self, order: EpochOrder) -> None:
        self.order = order
        self.received = 0
        self.ended = False


class EpochCounter:
    """Counts the epochs of a loader or a sampler.

    Parameters
    ----------
    order_of : callable
        From an epoch and the position to begin at to its `EpochOrder`.

    Notes
    -----
    Safe for threads. The lock is reentrant, since a signal handler may use a loader whose thread it
    interrupts.
    """

    def __init__(self, order_of: Callable[[int, int], EpochOrder]) -> None:
        self._order_of = order_of
        self._lock = ForkSafeLock(reentrant=True)
        self.next_epoch = 0
        self._start = 0
        self._progress: Progress | None = None

    def begin(self) -> Progress:
        """Take the next epoch."""
        with self._lock.of_process():
            order = self._order_of(self.next_epoch, self._start)
            self.next_epoch, self._start = order.epoch + 1, 0
            self._progress = Progress(order)
            return self._progress

    def give_back(self, progress: Progress) -> None:
        """Undo `begin`, unless another epoch has begun since."""
        with self._lock.of_process():
            if self._progress is progress:
                self.next_epoch, self._start = progress.order.epoch, progress.order.start
                self._progress = None

    def set_next(self, epoch: int, start: int = 0) -> None:
        """Make the next epoch this one, from a position in the global order on."""
        self.next_epoch, self._start, self._progress = epoch, start, None

    def next_start(self) -> tuple[int, int]:
        """Return the epoch and the position at which the next iteration begins."""
        return self.next_epoch, self._start

    def position(self, received: int | None = None) -> tuple[int, int]:
        """Return the epoch and the position of the first sample that was not received yet.

        Of several iterators, the one begun last counts. The result is the same on all ranks that
        have received equally many batches, or have all come to the end of the epoch.

        Parameters
        ----------
        received : int, optional
            Batches received, if not as many as were handed out.
        """
        progress = self._progress
        if progress is not None:
            order = progress.order
            after = order.position_after(progress.received if received is None else received)
            # A rank that has one batch less than others is at its end before that position.
            ended = progress.ended and received is None
            if after < order.end and not ended:
                return order.epoch, after
        return self.next_start()

    def is_finished(self) -> bool:
        """Return whether the epoch begun last has been received to its end."""
        progress = self._progress
        if progress is None:
            return False
        return progress.ended or progress.received >= len(progress.order)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = ForkSafeLock(reentrant=True)
