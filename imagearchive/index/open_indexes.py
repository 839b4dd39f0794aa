"""Opens the indexes of many archives in a few threads, and asks servers for several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Final

from imagearchive.index.index_locations import index_locations
from imagearchive.index.nesting import Nested
from imagearchive.index.table import IndexTable
from imagearchive.storage.executors import run_tasks
from imagearchive.storage.location import MAX_REQUESTS, Location, PublishingLocation
from imagearchive.storage.progress import byte_progress, count_progress
from imagearchive.storage.task_threads import TaskThreads

__all__ = ["ask_ahead", "open_indexes"]

# More than processors, because saving an index mostly waits for the disk. Few, because each thread
# has a file or two open, and finished tables wait for those before them.
THREADS: Final = 8
# Up to so many archives, their indexes are asked for before it is known whether they are needed.
FEW: Final = MAX_REQUESTS // 2


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


def ask_ahead(
    archives: Sequence[Location],
    ipath: Location | None = None,
    *,
    head: bool = False,
    all_indexes: bool = False,
) -> None:
    """Ask servers, all at once, for what opening archives will ask for one after the other.

    Within `imagearchive.storage.answers.remember_answers`, which remembers errors, too. Does
    nothing for archives on this machine.

    Parameters
    ----------
    archives : sequence of Location
        What is asked for is their status, and the indexes beside them that this machine has no
        copy of.
    ipath : Location, optional
        The index of them all, which is asked for in place of theirs.
    head : bool
        Whether to ask for the first bytes of the first archive with its status.
    all_indexes : bool
        Whether to ask for indexes even if there are more than `FEW` archives.
    """
    calls: list[Callable[[], object]] = []
    for number, archive in enumerate(archives):
        if isinstance(archive, PublishingLocation):
            calls.append(archive.open if head and not number else archive.status)
            if ipath is None and (all_indexes or len(archives) <= FEW):
                places = index_locations(archive)
                if not any(one.local_path is not None and one.exists() for one in places):
                    calls += [
                        one.open_copy for one in places if isinstance(one, PublishingLocation)
                    ]
    if isinstance(ipath, PublishingLocation):
        calls.append(ipath.open_copy)
    if len(calls) < 2:
        return
    with TaskThreads(min(MAX_REQUESTS, len(calls))) as threads:
        # An error is raised again to whoever needs the answer.
        for task in [threads.submit(call) for call in calls]:
            task.exception()


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
