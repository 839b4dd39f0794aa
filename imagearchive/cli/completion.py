"""The command that prints shell completion scripts; the package shtab makes them."""

from __future__ import annotations

import argparse

from imagearchive.cli import argument_types
from imagearchive.cli.output import write
from imagearchive.cli.parser import build_parser
from imagearchive.errors import MissingDependencyError

__all__ = ["completion"]

_PATHS = (
    argument_types.archive_path,
    argument_types.output_path,
    argument_types.path,
    argument_types.packed_path,
)


def completion(arguments: argparse.Namespace) -> int:
    """Print the completion script of a shell.

    Raises
    ------
    MissingDependencyError
        The package shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise MissingDependencyError(
            "shell completion needs the package shtab: pip install 'imagearchive[completion]'"
        ) from error
    parser, commands = build_parser()
    for command in commands.values():
        for action in command._actions:
            if action.type in _PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    write([shtab.complete(parser, arguments.shell)])
    return 0
