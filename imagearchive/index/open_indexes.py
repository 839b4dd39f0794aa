"""Opens the indexes of many archives in a few threads."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final

from imagearchive.index.table import IndexTable
from imagearchive.storage.location import Location
from imagearchive.storage.task_threads import Task, TaskThreads

__all__ = ["open_indexes"]

# More than processors, because saving an index mostly waits for the disk. Few, because each thread
# has a file or two open, and finished tables wait for those before them.
THREADS: Final = 8
# Seconds before a progress bar is shown.
DELAY: Final = 2.0


def open_indexes(
    archives: Sequence[Location], *, overwrite: bool, strict: bool, save: bool
) -> Generator[IndexTable, None, None]:
    """Iterate over the indexes of several archives, in their order; see `IndexTable.open`.

    Missing indexes are built in several threads. If that takes more than two seconds and standard
    error is a terminal, a progress bar is shown. The first error in the order of the archives is
    raised, and no further archive is begun.
    """

    def open_one(archive: Location) -> IndexTable:
        return IndexTable.open(archive.path, overwrite=overwrite, strict=strict, save=save)

    with _progress_bar(len(archives)) as step:
        for table in _map_in_threads(open_one, archives):
            yield table
            step(1)


def _map_in_threads(
    function: Callable[[Location], IndexTable], archives: Iterable[Location]
) -> Iterator[IndexTable]:
    """Yield what the function returns, in order; few results wait at any time."""
    waiting = iter(archives)
    pending: deque[Task[IndexTable]] = deque()
    pool = TaskThreads(THREADS)
    try:
        pending.extend(pool.submit(function, one) for one in islice(waiting, 2 * THREADS))
        while pending:
            table = pending.popleft().result()
            pending.extend(pool.submit(function, one) for one in islice(waiting, 1))
            yield table
    finally:
        # An interrupt does not wait for the archives that are being scanned.
        pool.close(wait=not pending)


@contextmanager
def _progress_bar(total: int) -> Iterator[Callable[[int], object]]:
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(
        total=total,
        desc="indexing",
        unit=" archives",
        delay=DELAY,
        leave=False,
        file=sys.stderr,
    ) as bar:
        yield bar.update
