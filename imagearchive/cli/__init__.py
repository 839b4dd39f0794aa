"""The command line: ``imagearchive COMMAND …``, also ``python -m imagearchive COMMAND …``.

Arguments and printing only; the work of each command is done by the library.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from imagearchive.cli.interrupts import Interrupts
from imagearchive.cli.messages import (
    describe_error,
    print_error,
    print_failures,
    print_warnings,
)
from imagearchive.errors import ImageArchiveError, IncompleteError, MemberNotFoundError
from imagearchive.errors.os_errors import os_errors_for

__all__ = ["main"]

FAILED: Final = 1
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the name of the program; by default those of the process.

    Returns
    -------
    int
        Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 141 output closed early,
        143 terminated.
    """
    _open_standard_streams()
    with Interrupts() as interrupts, print_warnings():
        try:
            status = _run(sys.argv[1:] if argv is None else argv, interrupts)
        except Exception:
            # Some code turns an interrupt into another exception; NumPy does, while it is imported.
            if not interrupts.status:
                raise
            status = FAILED
        return interrupts.status if status and interrupts.status else status


def _run(argv: Sequence[str], interrupts: Interrupts) -> int:
    """Run a command; print what it raises and return the exit status."""
    arguments = argparse.Namespace(interrupts=interrupts)
    try:
        return _run_command(argv, arguments, interrupts)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output is gone. The interpreter must not flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PIPE_CLOSED
    except MemberNotFoundError as error:
        print_error(f"{arguments.archive}: {error.message}{_several_archives_hint(arguments)}")
    except IncompleteError as error:
        print_failures(error)
    except (ImageArchiveError, OSError) as error:
        print_error(describe_error(error))
    except MemoryError:
        print_error("not enough memory")
    return FAILED


def _run_command(argv: Sequence[str], arguments: argparse.Namespace, interrupts: Interrupts) -> int:
    status: int
    try:
        with interrupts.delay():
            from imagearchive.cli.parser import parse

            parse(argv, arguments)
            for name in arguments.modules:
                importlib.import_module(name)
            module, _, function = arguments.run.partition(":")
            run = getattr(importlib.import_module(f"imagearchive.cli.{module}"), function)
        status = run(arguments)
    except SystemExit as stop:
        # argparse has printed the help (0) or what is wrong (2).
        status = int(stop.code or 0)
    if sys.stdout is not None:
        with os_errors_for("standard output"):
            sys.stdout.flush()
    return status


def _several_archives_hint(arguments: argparse.Namespace) -> str:
    """Return advice for when the shell has replaced a pattern by the names of several archives."""
    from imagearchive.cli.parser import SEVERAL

    asked = [getattr(arguments, name, []) for name in ("paths", "members")]
    words = [*asked[0], *asked[1], getattr(arguments, "path", "")]
    return f"; {SEVERAL}" if any(map(os.path.isfile, words)) else ""


def _open_standard_streams() -> None:
    """Open those of the descriptors 0, 1, and 2 that are closed.

    Otherwise an archive could get the number 2, and a C library that prints an error would write
    into the archive.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
