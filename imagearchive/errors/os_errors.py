"""Errors of the operating system that say which file they are about."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = [
    "OUT_OF_FILES",
    "OUT_OF_RESOURCES",
    "name_in_os_errors",
    "os_errors_for",
    "set_file_name",
]

#: Error numbers that say nothing about a file: no more files can be opened at the moment.
OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE)
#: Error numbers of a lack that the next file would meet as well.
OUT_OF_RESOURCES: Final = (*OUT_OF_FILES, errno.ENOMEM)


@contextmanager
def os_errors_for(path: str) -> Iterator[None]:
    """Set the file name of an `OSError` that has none, such as one from a read or write.

    Parameters
    ----------
    path : str
        The file or archive that the block reads or writes.
    """
    try:
        yield
    except OSError as error:
        # An error without a number is one of ours, whose message says everything.
        if error.errno is not None and error.filename is None:
            error.filename = path
        raise


@contextmanager
def name_in_os_errors(path: str) -> Iterator[None]:
    """Make every `OSError` of the block name this file alone, such as a target, not its parts."""
    try:
        yield
    except OSError as error:
        set_file_name(error, path)
        raise


def set_file_name(error: OSError, path: str | bytes) -> None:
    """Say that an error is about this file alone, instead of the files that it names."""
    error.filename = path
    # Set to None, it would appear in the message: "'a.npz' -> None".
    del error.filename2
