"""Prepares the samples that `repack` writes, in threads or by an executor."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Final

from imagearchive.datasets.permutation import Permutation
from imagearchive.errors import ImageArchiveError, OptionError
from imagearchive.errors.hints import Hint
from imagearchive.processing.repack_recipe import Recipe
from imagearchive.processing.repack_source import RepackSource, Row, Written
from imagearchive.storage.executors import AnyExecutor, Submits, open_executor, run_tasks
from imagearchive.storage.task_threads import TaskThreads

__all__ = ["Run", "RunOptions"]

logger = logging.getLogger(__name__)

# Samples of a task at most: enough to make handing it over cheap, few enough to bound the memory.
_TASK: Final = 16


@dataclass(frozen=True)
class RunOptions:
    """The arguments of `repack` that say how samples are prepared."""

    shuffle: bool
    seed: int
    workers: int
    executor: AnyExecutor | None
    skip: bool
    overwrite: bool
    progress: Callable[[int], object]


class Run:
    """Prepares samples in order, in threads or by an executor, and counts what comes out."""

    def __init__(self, samples: RepackSource, recipe: Recipe, options: RunOptions) -> None:
        self.samples, self.recipe, self.options = samples, recipe, options
        self.count = len(samples)
        self.order = Permutation(self.count, options.seed) if options.shuffle else range(self.count)
        self.written = self.images = self.encoded = self.stored = self.made = 0
        self.skipped: list[tuple[str, str]] = []
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time since the run began."""
        return time.perf_counter() - self._start

    def results(self, method: str, start: int) -> Generator[Any]:
        """Yield what a method of the source returns for each sample, from `start` on."""
        executor, workers = self.options.executor, self.options.workers
        # Several for each worker, so that all of them end at about the same time.
        each = max(1, min(_TASK, (self.count - start) // (8 * workers)))
        tasks = (
            [int(self.order[i]) for i in range(first, min(first + each, self.count))]
            for first in range(start, self.count, each)
        )
        # Threads share the samples, and processes get a copy.
        samples = self.samples if executor is None else pickle.dumps(self.samples)
        call = partial(_prepare, samples, method=method, recipe=self.recipe)
        with ExitStack() as opened:
            if executor is None:
                opened_executor: Submits = opened.enter_context(TaskThreads(workers, "repack"))
            else:
                opened_executor = opened.enter_context(open_executor(executor))
                workers = executor if isinstance(executor, int) else workers
            outcomes = opened.enter_context(
                closing(
                    run_tasks(call, tasks, opened_executor, in_flight=2 * workers, in_order=True)
                )
            )
            for result in chain.from_iterable(outcome.get() for outcome in outcomes):
                self.options.progress(1)
                if isinstance(result, _Failure):
                    if not self.options.skip:
                        raise result.error
                    self.skipped.append((result.key, result.error.message))
                    logger.warning("left out: %s", result.error.message)
                else:
                    yield result

    def first_row(self) -> Row | None:
        """Return the first row that can be read; None if there is none."""
        for position in range(self.count):
            try:
                return self.samples.row(int(self.order[position]), self.recipe)
            except OptionError:
                raise
            except ImageArchiveError:
                if not self.options.skip:
                    raise
        return None

    def add(self, sample: Written) -> None:
        """Count one sample."""
        self.written += 1
        self.images += sample.images
        self.encoded += sample.encoded
        self.stored += sample.stored
        self.made += sum(memoryview(data).nbytes for _, data in sample.members)


@dataclass(frozen=True)
class _Failure:
    key: str
    error: ImageArchiveError


def _failure(key: str, error: ImageArchiveError) -> _Failure:
    """Name the sample in an error, and say what repack can do about it."""
    message = error.message
    if not message.startswith(key) and repr(key) not in message:
        message = f"{key}: {message}"
    hint = Hint("on_error='skip'", "to leave it out")
    return _Failure(key, type(error)(message, hints=[hint]))


@lru_cache(maxsize=2)
def _unpickled(source: bytes) -> RepackSource:
    samples: RepackSource = pickle.loads(source)
    return samples


def _prepare(
    source: RepackSource | bytes, indices: Sequence[int], *, method: str, recipe: Recipe
) -> list[Any]:
    """Prepare the samples of one task; runs in a thread or in a worker process."""
    samples = _unpickled(source) if isinstance(source, bytes) else source
    results: list[Any] = []
    for index in indices:
        try:
            results.append(getattr(samples, method)(index, recipe))
        except OptionError:
            raise
        except ImageArchiveError as error:
            results.append(_failure(samples.key(index), error))
    return results
