"""The command line: ``imagearchive COMMAND …``, also ``python -m imagearchive COMMAND …``.

Arguments and printing only; what the commands do is in the library.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from imagearchive.cli.parser import build_parser
from imagearchive.errors import ImageArchiveError

__all__ = ["main"]

OPTIONS = {
    "pass existing='replace' or existing='skip'": "use --overwrite or --skip-existing",
    "pass overwrite=True": "use --overwrite",
    "pass start_clean=True": "use --overwrite",
    " or append=True to add to it": "",
    "skip_unsafe=True": "--skip-unsafe",
    "overwrite_index=True": "imagearchive index --overwrite",
    "say with root=": "say with --root",
}

FAILED = 1
INTERRUPTED = 130
PIPE_CLOSED = 141


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
    try:
        arguments = build_parser().parse_args(argv)
        module, _, function = arguments.run.partition(":")
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            run = getattr(importlib.import_module(f"imagearchive.cli.{module}"), function)
            status: int = run(arguments)
            sys.stdout.flush()
            return status
    except SystemExit as stop:
        # argparse has printed help (0) or what is wrong (2).
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough. The interpreter must not flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except ImageArchiveError as error:
        _complain(_in_options(str(error)))
    except OSError as error:
        _complain(_explain(error))
    except MemoryError:
        _complain("not enough memory")
    return FAILED


def _complain(text: str) -> None:
    from imagearchive.cli.output import escape

    print(f"imagearchive: {escape(text)}", file=sys.stderr)


def _in_options(message: str) -> str:
    """Speak of the options of a command where the library speaks of parameters."""
    for parameter, option in OPTIONS.items():
        message = message.replace(parameter, option)
    return message


def _explain(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    names = [error.filename, error.filename2]
    shown = " -> ".join(os.fsdecode(name) for name in names if isinstance(name, str | bytes))
    return f"{shown}: {error.strerror}" if shown else error.strerror


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    _complain(f"warning: {message}")
