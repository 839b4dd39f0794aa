"""Errors of the system that say which file they are about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["naming"]


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Name the file in an `OSError` that does not do so itself, as those of reads and writes.

    Parameters
    ----------
    path : str
        What the statements inside read or write.
    """
    try:
        yield
    except OSError as error:
        # Those without a number are ours, and their message says it all.
        if error.errno is not None and error.filename is None:
            error.filename = path
        raise
