"""Decode a stream of tasks, in this process or by an executor, and yield the results in order."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from functools import partial
from typing import Final

from imagearchive.errors import WorkerError
from imagearchive.processing.tasks import Decoded, DecodeOptions, Job, decode_task
from imagearchive.storage.executors import run_tasks
from imagearchive.storage.process_pool import WorkerPool

__all__ = ["decode_in_order", "split_tasks"]

# A task is bounded in bytes of its result, not in images, so memory does not depend on
# batch_size. Larger ones were measured to be no faster.
TASK_BYTES: Final = 4 << 20
# What an image is expected to take whose size is not known.
EXPECTED_BYTES: Final = 3 << 20
# Tasks in flight for each worker: one that runs, and one that is ready when it is done.
TASKS_PER_WORKER: Final = 2


def split_tasks(
    jobs: Sequence[Job], batch_size: int, options: DecodeOptions
) -> Iterator[Sequence[Job]]:
    """Split each batch into tasks of a bounded size."""
    size = options.image_size
    expected = 3 * math.prod(size) if size else EXPECTED_BYTES
    count = max(1, TASK_BYTES // expected)
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        for first in range(0, len(batch), count):
            yield batch[first : first + count]


def decode_in_order(
    tasks: Iterator[Sequence[Job]],
    options: DecodeOptions,
    executor: Executor | WorkerPool | None,
    num_workers: int,
) -> Generator[tuple[int, Decoded]]:
    """Yield the number of jobs and the result of each task, while the next are in flight.

    Closing the generator cancels the tasks of an executor that have not begun. Those of a pool are
    cancelled when the pool is closed.

    Parameters
    ----------
    tasks : iterator of sequences of Job
        Each is submitted as one call.
    options : DecodeOptions
        The same for all.
    executor : Executor or WorkerPool, optional
        Without, each task is run here when its result is asked for.
    num_workers : int
        How many workers of the executor to keep busy.

    Raises
    ------
    WorkerError
        A worker died or failed.
    """
    if executor is None:
        for task in tasks:
            yield len(task), decode_task(task, options)
        return
    outcomes = run_tasks(
        partial(decode_task, options=options),
        tasks,
        executor,
        in_flight=TASKS_PER_WORKER * max(1, num_workers) + 1,
        in_order=True,
    )
    with closing(outcomes):
        for task, decoded, error in outcomes:
            if decoded is None:
                raise _error_of(task, error)
            yield len(task), decoded


def _error_of(task: Sequence[Job], error: BaseException | None) -> WorkerError:
    if isinstance(error, WorkerError):
        return error
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    failure = WorkerError(
        f"a worker failed on one of the {len(task)} images from {task[0].path} on: {what}"
    )
    failure.__cause__ = error
    return failure
