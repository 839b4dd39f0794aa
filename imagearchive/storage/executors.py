"""Runs tasks on any executor: the one way of everything that takes ``executor=``.

An executor is local processes, a `concurrent.futures.Executor`, or anything else with its
`submit`: Dask's ``Client.get_executor()``, ``mpi4py.futures.MPIPoolExecutor``. Executors run a task
again if its worker was lost, and may even run it twice at the same time. So a task does its work in
a temporary file that appears under its name when it is whole, and gives the same result again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Protocol,
    TypeAlias,
    TypeVar,
    cast,
)

from imagearchive.errors import IncompleteError, OptionTypeError, WorkerError
from imagearchive.errors.arguments import check_integer

if TYPE_CHECKING:
    from imagearchive.storage.task_threads import Task

__all__ = [
    "AnyExecutor",
    "CallingThread",
    "Outcome",
    "Submits",
    "open_executor",
    "run_all",
    "run_tasks",
]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Submits(Protocol):
    """An executor, as far as it is used here."""

    def submit(
        self, function: Callable[..., Result], /, *args: Any, **kwargs: Any
    ) -> Future[Result] | Task[Result]:
        """Have a function called."""


#: What an argument ``executor`` may be; a number is one of processes.
AnyExecutor: TypeAlias = Submits | int

# Tasks that are submitted and have not ended. Nothing tells how many workers an executor has, and
# each task that waits takes little memory.
IN_FLIGHT: Final = 1024


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of a task: its result, or what it raised."""

    item: Item
    result: Result | None
    error: BaseException | None

    def __iter__(self) -> Iterator[Any]:
        yield from (self.item, self.result, self.error)

    def get(self) -> Result:
        """Return the result, or raise what the task raised."""
        if self.error is not None:
            raise self.error
        return cast("Result", self.result)


class CallingThread:
    """Runs each task when it is submitted, in the thread that submits it."""

    def submit(self, function: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Task[Result]:
        """Call a function."""
        from imagearchive.storage.task_threads import Task

        task = Task(partial(function, *args, **kwargs))
        task.run()
        error = task.exception()
        if error is not None and not isinstance(error, Exception):
            raise error
        return task


@contextmanager
def open_executor(executor: AnyExecutor) -> Iterator[Submits]:
    """Return an executor for the block; processes that are started for it end with it.

    If the block raises, also by an interrupt, they are interrupted in their tasks. One of them that
    dies is replaced.

    Raises
    ------
    OptionError, OptionTypeError
        It is neither a positive number nor an object with `submit`.
    """
    if not isinstance(executor, int):
        if not callable(getattr(executor, "submit", None)):
            raise OptionTypeError(
                f"executor must be a number of processes or have a method submit, as "
                f"concurrent.futures.Executor, got {type(executor).__name__}"
            )
        yield executor
        return
    # Imported here, because other executors do not need it.
    from imagearchive.storage.process_pool import WorkerPool

    pool = WorkerPool(check_integer("executor", executor, 1), replace_dead=True)
    try:
        yield pool
    except BaseException:
        pool.terminate()
        raise
    pool.close()


def run_tasks(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    executor: Submits,
    *,
    in_flight: int = IN_FLIGHT,
    in_order: bool = False,
) -> Generator[Outcome[Item, Result]]:
    """Call a function with each item, and yield what became of it.

    Closing the generator cancels the tasks of an `Executor` that have not begun. Those of our own
    processes and threads are cancelled when they are closed.

    Parameters
    ----------
    function : callable
        For processes, it can be pickled, and so can items and results.
    items : iterable
        Taken as they are needed.
    executor : Executor, WorkerPool, or TaskThreads
        See `open_executor`.
    in_flight : int
        How many tasks may be submitted whose outcome was not yielded.
    in_order : bool
        Whether the outcomes come in the order of the items, or as the tasks end.

    Raises
    ------
    WorkerError
        The executor accepts no more tasks.
    """
    waiting: _Waiting[Item, Result] = {}
    try:
        yield from _run_tasks(function, enumerate(items), executor, in_flight, in_order, waiting)
    finally:
        for _, pending in waiting.values():
            if isinstance(pending, Future):
                pending.cancel()


#: By number: an item, and the call of the function with it.
_Waiting: TypeAlias = "dict[int, tuple[Item, Future[Result] | Task[Result]]]"


def _run_tasks(
    function: Callable[[Item], Result],
    source: Iterator[tuple[int, Item]],
    executor: Submits,
    in_flight: int,
    in_order: bool,
    waiting: _Waiting[Item, Result],
) -> Iterator[Outcome[Item, Result]]:
    ended: SimpleQueue[int] = SimpleQueue()
    held: dict[int, Outcome[Item, Result]] = {}
    upcoming = 0
    while True:
        while len(waiting) + len(held) < in_flight:
            for number, item in source:
                pending = _submit(executor, function, item)
                waiting[number] = item, pending
                pending.add_done_callback(partial(_put, ended, number))
                break
            else:
                break
            if not ended.empty():
                # Somebody waits for that outcome.
                break
        if not waiting:
            return
        number = ended.get()
        item, pending = waiting.pop(number)
        held[number] = _outcome(item, pending)
        # The result must not be kept alive by what it came in.
        del item, pending
        if not in_order:
            yield held.pop(number)
            continue
        while upcoming in held:
            yield held.pop(upcoming)
            upcoming += 1


def run_all(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    executor: AnyExecutor,
    *,
    name: Callable[[Item], str],
    what: str,
    in_flight: int = IN_FLIGHT,
    progress: Callable[[Result], object] | None = None,
) -> list[Result]:
    """Call a function with each item, and return the results in the order of the items.

    Parameters
    ----------
    function, items, executor, in_flight
        As for `run_tasks` and `open_executor`.
    name : callable
        Returns how to call an item in an error.
    what : str
        What the items are, in the plural.
    progress : callable, optional
        Called with each result as it comes.

    Raises
    ------
    IncompleteError
        Some of the tasks failed; the others were done.
    WorkerError
        The executor accepts no more tasks.
    """
    results: list[Any] = []
    failures: dict[int, tuple[str, BaseException]] = {}
    with (
        open_executor(executor) as opened,
        closing(
            run_tasks(partial(_numbered, function), enumerate(items), opened, in_flight=in_flight)
        ) as outcomes,
    ):
        _collect(outcomes, name, progress, results, failures)
    if failures:
        raise IncompleteError.of(
            [failures[number] for number in sorted(failures)], len(results), what
        )
    return results


def _collect(
    outcomes: Iterator[Outcome[tuple[int, Item], Result]],
    name: Callable[[Item], str],
    progress: Callable[[Result], object] | None,
    results: list[Any],
    failures: dict[int, tuple[str, BaseException]],
) -> None:
    for (number, item), result, error in outcomes:
        results += [None] * (number + 1 - len(results))
        if error is not None:
            failures[number] = name(item), error
            continue
        results[number] = result
        if progress is not None:
            progress(results[number])


def _numbered(function: Callable[[Item], Result], numbered: tuple[int, Item]) -> Result:
    return function(numbered[1])


def _put(ended: SimpleQueue[int], number: int, _: object) -> None:
    ended.put(number)


def _submit(
    executor: Submits, function: Callable[[Item], Result], item: Item
) -> Future[Result] | Task[Result]:
    try:
        return executor.submit(function, item)
    except WorkerError:
        raise
    except RuntimeError as error:
        # Raised by executors that are broken or shut down.
        raise WorkerError(f"the executor accepts no more tasks: {error}") from error


def _outcome(item: Item, pending: Future[Result] | Task[Result]) -> Outcome[Item, Result]:
    try:
        error = pending.exception()
    except CancelledError as cancelled:
        error = cancelled
    if error is not None:
        return Outcome(item, None, error)
    return Outcome(item, pending.result(), None)
