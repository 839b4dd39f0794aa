"""What commands print to standard error: errors and warnings, one line each."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Final

from imagearchive.cli.output import escape_message
from imagearchive.errors import ImageArchiveError, IncompleteError
from imagearchive.errors.hints import Hint
from imagearchive.errors.os_errors import OUT_OF_RESOURCES

__all__ = [
    "describe_error",
    "print_error",
    "print_failures",
    "print_notes",
    "print_warnings",
    "report_errors",
    "with_options",
]

#: The options that do what the arguments of the library do. A hint about any other argument is
#: left out.
OPTIONS: Final = {
    "decompress_to=DIR": "--decompress-to DIR",
    "existing='replace'": "--overwrite",
    "existing='skip'": "--skip-existing",
    "max_objects": "--max-objects",
    "max_pixels": "--max-pixels",
    "max_ratio": "--max-ratio",
    "max_size": "--max-size",
    "missing='drop'": "--missing skip",
    "missing='none'": "--missing none",
    "missing='skip'": "--missing skip",
    "nested=False": "--nested no",
    "resize": "--resize",
    "on_error='skip'": "--skip-broken",
    "overwrite=True": "--overwrite",
    "overwrite_index=True": "'imagearchive index --overwrite'",
    "root": "--root",
    "skip_unsafe=True": "--skip-unsafe",
    "start_clean=True": "--overwrite",
    "storage_options={'skip_signature': True}": "--storage-option skip_signature=true",
    "strict=False": "--partial",
}


def with_options(message: str, hints: Iterable[Hint]) -> str:
    """Return a message followed by its hints, for somebody who types commands."""
    advice = " or ".join(
        f"{OPTIONS[hint.argument]} {hint.effect}" for hint in hints if hint.argument in OPTIONS
    )
    return f"{message}; use {advice}" if advice else message


def print_error(message: str) -> None:
    """Print an error or a warning on one line of standard error."""
    # Where standard error is closed, nobody can be told.
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"imagearchive: {escape_message(message)}", file=sys.stderr, flush=True)


def describe_error(error: ImageArchiveError | OSError) -> str:
    """Return the message of an error, for somebody who types commands."""
    if isinstance(error, ImageArchiveError):
        return with_options(error.message, error.hints)
    return _describe_system_error(error)


def print_failures(error: IncompleteError) -> None:
    """Print what became of each of many archives that failed, and how many there were."""
    for name, failure in error.failures:
        if isinstance(failure, ImageArchiveError | OSError):
            message = describe_error(failure)
        else:
            message = f"{type(failure).__name__}: {failure}"
        print_error(message if name in message else f"{name}: {message}")
    print_error(error.summary)


@contextlib.contextmanager
def report_errors() -> Iterator[list[str]]:
    """Print an error of the block and go on; its message is then in the list.

    Errors that the next archive would raise as well, such as too many open files, are raised.
    """
    messages: list[str] = []
    try:
        yield messages
    except (ImageArchiveError, OSError) as error:
        if isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES:
            raise
        messages.append(describe_error(error))
        print_error(messages[0])


def _describe_system_error(error: OSError) -> str:
    """Return what the system reports, after the files that it is about."""
    if error.strerror is None:
        return str(error)
    names = [error.filename, error.filename2]
    shown = " -> ".join(os.fsdecode(name) for name in names if isinstance(name, str | bytes))
    return f"{shown}: {error.strerror}" if shown else error.strerror


class _PrintingHandler(logging.Handler):
    """Prints the warnings that the library logs, each message once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        message = record.getMessage()
        if message not in self._seen:
            self._seen.add(message)
            print_error(f"warning: {message}")


class _NoteHandler(logging.Handler):
    """Prints what a module logs as information."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        if record.levelno == logging.INFO:
            print_error(record.getMessage())


@contextlib.contextmanager
def print_notes(module: str, quiet: bool) -> Iterator[None]:
    """Print what a module logs as information, too, unless the user wants it quiet."""
    logger = logging.getLogger(module)
    handler = _NoteHandler()
    level = logger.level
    if not quiet:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextlib.contextmanager
def print_warnings() -> Iterator[None]:
    """Print warnings, and what is logged as one, as messages of the command."""
    logger = logging.getLogger("imagearchive")
    handler = _PrintingHandler()
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            yield
    finally:
        logger.removeHandler(handler)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    print_error(f"warning: {message}")
