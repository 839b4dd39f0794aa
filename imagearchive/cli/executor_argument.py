"""The executor that the options of a command ask for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imagearchive.errors import MissingDependencyError, WorkerError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from imagearchive.storage.executors import AnyExecutor

__all__ = ["open_dask_argument", "open_executor_argument"]


@contextmanager
def open_executor_argument(arguments: argparse.Namespace) -> Iterator[AnyExecutor | None]:
    """Return what ``--workers`` or ``--dask`` asks for, until the end of the block.

    Raises
    ------
    MissingDependencyError, WorkerError
        As `open_dask_argument`.
    """
    with open_dask_argument(arguments) as executor:
        yield executor or arguments.workers


@contextmanager
def open_dask_argument(arguments: argparse.Namespace) -> Iterator[Executor | None]:
    """Return the executor of the Dask cluster that ``--dask`` names, if it is given.

    Raises
    ------
    MissingDependencyError
        Dask is not installed.
    WorkerError
        There is no scheduler at the address.
    """
    if arguments.dask is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingDependencyError(
            "--dask needs the package distributed: pip install 'imagearchive[dask]'"
        ) from error
    try:
        client = Client(arguments.dask)
    except (OSError, ValueError) as error:
        raise WorkerError(f"{arguments.dask}: no Dask scheduler answers there: {error}") from error
    with client:
        yield client.get_executor()
