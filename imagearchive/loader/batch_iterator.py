"""The iterator of a loader: one pass over an epoch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from imagearchive.loader.bad_samples import BadSampleLog
from imagearchive.loader.batches import Batch
from imagearchive.loader.epoch_counter import EpochCounter, Progress
from imagearchive.loader.thread_pool import JOIN_TIMEOUT, Pool
from imagearchive.storage.fork_lock import ForkSafeLock

__all__ = ["BatchIterator"]


class BatchIterator(Iterator[Any]):
    """One pass over an epoch, which begins when the first batch is asked for.

    Its threads do not refer to it, so dropping it stops them.

    Parameters
    ----------
    epochs : EpochCounter
    start_threads : callable
        Starts the threads that make the batches still to come.
    bad_samples : BadSampleLog
        Where the broken and damaged samples of each batch that is received are reported.
    """

    def __init__(
        self,
        epochs: EpochCounter,
        start_threads: Callable[[Progress], Pool],
        bad_samples: BadSampleLog,
    ) -> None:
        self._epochs = epochs
        self._start_threads = start_threads
        self._bad_samples = bad_samples
        self._progress: Progress | None = None
        self._pool: Pool | None = None
        self._closed = False
        self._pid = os.getpid()
        self._lock = ForkSafeLock()

    def _running(self) -> tuple[Pool, Progress]:
        """Return the threads, which are started for the first batch, and again after a fork."""
        pool, progress = self._pool, self._progress
        if progress is None:
            begun = self._epochs.begin()
            try:
                pool = self._start_threads(begun)
            except BaseException:
                self._epochs.give_back(begun)
                raise
            progress = self._progress = begun
        elif pool is None:
            pool = self._start_threads(progress)
        self._pool = pool
        if self._closed:
            # Another thread has closed it meanwhile, and may not have seen the pool, or may just be
            # replacing the attribute.
            pool.close()
        return pool, progress

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        try:
            with self._lock.of_process():
                batch = self._take()
        except BaseException:
            # The traceback keeps this frame alive, in notebooks for long.
            self.close(JOIN_TIMEOUT)
            raise
        if batch is None:
            self.close()
            raise StopIteration
        return batch.value

    def _take(self) -> Batch | None:
        """Return the next batch that holds samples, or None at the end; called with the lock."""
        if self._pid != os.getpid():
            # The fork left the threads in the parent.
            self._pid, self._pool = os.getpid(), None
        batch: Batch
        # Another thread may have come to the end while this one waited.
        while not self._closed:
            pool, progress = self._running()
            more, batch = pool.take()
            if not more:
                progress.ended = not self._closed
                break
            progress.received += 1
            for bad in batch.bad:
                self._bad_samples.report_error(bad)
            for damaged in batch.damaged:
                self._bad_samples.report_damaged(damaged)
            if not batch.empty:
                return batch
        return None

    def close(self, timeout: float | None = None) -> None:
        """Stop the threads, and end the iteration; see `Pool.close`."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close(timeout)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        pool = getattr(self, "_pool", None)
        # Pools are closed before the interpreter is finalized, which clears modules.
        if pool is not None and not is_finalizing():
            # The garbage collector may run in a thread that holds what the workers wait for.
            pool.close(JOIN_TIMEOUT)
