"""The command line: ``imagearchive COMMAND …``, also ``python -m imagearchive COMMAND …``.

Arguments and printing only; what the commands do is in the library.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

from imagearchive.cli.output import complain
from imagearchive.errors import ImageArchiveError, MemberNotFoundError
from imagearchive.errors.os_errors import naming

__all__ = ["main"]

FAILED: Final = 1
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
# Keys that are pressed again so soon after the first do not interrupt the tidying up.
PATIENCE: Final = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; by default those of the process.

    Returns
    -------
    int
        Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 141 output closed early.
    """
    _occupy_standard_descriptors()
    with _Interrupts() as interrupts, _spoken_warnings():
        try:
            status = _run(sys.argv[1:] if argv is None else argv, interrupts)
        except Exception:
            # Not everybody lets an interrupt pass; NumPy turns it into another exception.
            if not interrupts.seen:
                raise
            status = INTERRUPTED
        return INTERRUPTED if status and interrupts.seen else status


def _run(argv: Sequence[str], interrupts: _Interrupts) -> int:
    arguments = argparse.Namespace()
    try:
        return _command(argv, arguments, interrupts)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough. The interpreter must not flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PIPE_CLOSED
    except MemberNotFoundError as error:
        _explain(f"{arguments.archive}: {error}{_hint(arguments)}")
    except ImageArchiveError as error:
        _explain(str(error))
    except OSError as error:
        complain(_of_the_system(error))
    except MemoryError:
        complain("not enough memory")
    return FAILED


def _command(argv: Sequence[str], arguments: argparse.Namespace, interrupts: _Interrupts) -> int:
    status: int
    try:
        with interrupts.held():
            from imagearchive.cli.parser import parse

            parse(argv, arguments)
            module, _, function = arguments.run.partition(":")
            run = getattr(importlib.import_module(f"imagearchive.cli.{module}"), function)
            for name in arguments.needs:
                importlib.import_module(name)
        status = run(arguments)
    except SystemExit as stop:
        # argparse has printed help (0) or what is wrong (2).
        status = int(stop.code or 0)
    if sys.stdout is not None:
        with naming("standard output"):
            sys.stdout.flush()
    return status


def _hint(arguments: argparse.Namespace) -> str:
    """Say what went wrong where the shell has put several archives in the place of one."""
    from imagearchive.cli.parser import SEVERAL

    asked = [getattr(arguments, name, []) for name in ("paths", "members")]
    words = [*asked[0], *asked[1], getattr(arguments, "path", "")]
    return f"; {SEVERAL}" if any(map(os.path.isfile, words)) else ""


def _explain(message: str) -> None:
    from imagearchive.cli.wording import in_options

    complain(in_options(message))


def _of_the_system(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    names = [error.filename, error.filename2]
    shown = " -> ".join(os.fsdecode(name) for name in names if isinstance(name, str | bytes))
    return f"{shown}: {error.strerror}" if shown else error.strerror


def _occupy_standard_descriptors() -> None:
    """Open those of 0, 1 and 2 that are closed, lest an archive gets the number and is written to.

    A C library that complains to descriptor 2 does not know what that is.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


class _Interrupts:
    """While a command runs: whether the user has interrupted it, and no second time at once."""

    def __init__(self) -> None:
        self.seen = False
        self._when = 0.0
        self._holding = False
        self._before: object = None

    def __enter__(self) -> _Interrupts:
        # Where the caller has a handler of its own, or is another thread, interrupts are its.
        with contextlib.suppress(ValueError):
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Put interrupts off: a module that is imported only in part fails in its own ways."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self.seen:
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.seen and now - self._when < PATIENCE:
            return
        self.seen, self._when = True, now
        if not self._holding:
            raise KeyboardInterrupt


class _Complaining(logging.Handler):
    """Prints what the library logs, each message once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        message = record.getMessage()
        if message not in self._seen:
            self._seen.add(message)
            _explain(f"warning: {message}")


@contextlib.contextmanager
def _spoken_warnings() -> Iterator[None]:
    """Print warnings and logged ones as messages of the command."""
    logger = logging.getLogger("imagearchive")
    handler = _Complaining()
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
    _explain(f"warning: {message}")
