"""Opens the indexes of many archives in a few threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Final

from imagearchive.index.nesting import Nested
from imagearchive.index.table import IndexTable
from imagearchive.storage.executors import run_tasks
from imagearchive.storage.location import Location
from imagearchive.storage.progress import byte_progress, count_progress
from imagearchive.storage.task_threads import TaskThreads

__all__ = ["open_indexes"]

# More than processors, because saving an index mostly waits for the disk. Few, because each thread
# has a file or two open, and finished tables wait for those before them.
THREADS: Final = 8


def open_indexes(
    archives: Sequence[Location],
    *,
    overwrite: bool,
    strict: bool,
    save: bool,
    nested: Nested = False,
) -> Generator[IndexTable, None, None]:
    """Iterate over the indexes of several archives, in their order; see `IndexTable.open`.

    Missing indexes are built in several threads. If that takes more than two seconds and standard
    error is a terminal, a progress bar is shown. The first error in the order of the archives is
    raised, and no further archive is begun. After it, or after an interrupt, archives that are
    being decompressed are given up.
    """
    stopped = threading.Event()

    def open_one(archive: Location) -> IndexTable:
        with byte_progress(f"indexing {archive.name}") as show:

            def progress(done: int, total: int) -> None:
                if stopped.is_set():
                    raise InterruptedError(f"{archive.path}: the index is not needed any more")
                show(done, total)

            return IndexTable.open(
                archive.path,
                overwrite=overwrite,
                strict=strict,
                save=save,
                progress=progress,
                nested=nested,
            )

    try:
        with count_progress("indexing", len(archives), "archives") as step:
            for table in _map_in_threads(open_one, archives):
                yield table
                step(1)
    finally:
        stopped.set()


def _map_in_threads(
    function: Callable[[Location], IndexTable], archives: Iterable[Location]
) -> Iterator[IndexTable]:
    """Yield what the function returns, in order; few results wait at any time."""
    pool = TaskThreads(THREADS)
    complete = False
    try:
        for outcome in run_tasks(function, archives, pool, in_flight=2 * THREADS, in_order=True):
            yield outcome.get()
            # The table keeps a file mapped.
            del outcome
        complete = True
    finally:
        # An interrupt does not wait for the archives that are being scanned.
        pool.close(wait=complete)
