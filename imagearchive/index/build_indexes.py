"""Builds the indexes of many archives, on any executor."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from imagearchive.index.concatenate import open_concatenated
from imagearchive.index.nesting import Nested
from imagearchive.index.open_indexes import THREADS
from imagearchive.index.table import IndexTable
from imagearchive.index.upload import upload_index
from imagearchive.storage.executors import AnyExecutor, run_all
from imagearchive.storage.patterns import ArchivePath, expand_paths
from imagearchive.storage.progress import byte_progress
from imagearchive.storage.task_threads import TaskThreads

__all__ = ["IndexSummary", "build_index", "build_indexes"]


class IndexSummary(NamedTuple):
    """The index of an archive.

    Attributes
    ----------
    archive : str
        The path of the archive.
    members : int
        How many members it has.
    path : str or None
        The index file; None if it could not be saved.
    """

    archive: str
    members: int
    path: str | None


def build_indexes(
    archives: ArchivePath,
    ipath: str | os.PathLike[str] | None = None,
    *,
    executor: AnyExecutor | None = None,
    overwrite: bool = False,
    strict: bool = True,
    nested: Nested = False,
    progress: Callable[[int], object] | None = None,
) -> list[IndexSummary]:
    """Build the indexes of archives, several at a time, and save each.

    An index that is there and fresh is kept. So after a failure or an interrupt, the same call
    builds only those that are missing.

    Parameters
    ----------
    archives : path-like or sequence of path-like
        Paths and patterns.
    ipath : path-like, optional
        Also save one index for all of them, which `open` takes as its `ipath`.
    executor : int or concurrent.futures.Executor, optional
        A number of processes, or an executor whose workers see the archives under the same paths,
        such as ``dask.distributed.Client(...).get_executor()``. It is not shut down. By default a
        few threads.
    overwrite : bool
        Build indexes that are fresh as well.
    strict, nested
        As for `open`.
    progress : callable, optional
        Called with 1 after each archive.

    Returns
    -------
    list of IndexSummary
        For each archive, in order.

    Raises
    ------
    IncompleteError
        Some of the archives cannot be indexed; `failures` says which. All others were.
    StaleIndexError
        `ipath` exists and does not describe these archives as they are now, and `overwrite` is
        false.
    WorkerError
        The executor accepts no more tasks.
    """
    paths = expand_paths(archives)
    with ExitStack() as stack:
        chosen = executor
        if chosen is None:
            chosen = stack.enter_context(TaskThreads(THREADS))
        done = run_all(
            partial(build_index, overwrite=overwrite, strict=strict, nested=nested),
            paths,
            chosen,
            name=str,
            what="archives",
            progress=None if progress is None else lambda _: progress(1),
        )
    if ipath is not None:
        open_concatenated(
            paths, ipath, overwrite=overwrite, overwrite_each=False, strict=strict, nested=nested
        )
    return done


def build_index(
    path: str,
    *,
    overwrite: bool,
    strict: bool,
    nested: Nested,
    show_progress: bool = False,
    upload: bool = False,
) -> IndexSummary:
    """Build the index of one archive, if there is no fresh one; the task of a worker."""
    with byte_progress(f"indexing {os.path.basename(path)}") as progress:
        table = IndexTable.open(
            path,
            overwrite=overwrite,
            strict=strict,
            nested=nested,
            progress=progress if show_progress else None,
        )
    if upload:
        table = upload_index(table, nested)
    return IndexSummary(path, len(table), table.path)
