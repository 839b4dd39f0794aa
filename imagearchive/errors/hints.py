"""Advice that an error gives: which argument to pass, and what that does.

The message of an error says what is wrong; its hints say which argument helps. They are kept
apart because not everybody passes arguments: the command line prints the option that it has for
an argument, and leaves out a hint that it has no option for.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Hint", "shell_command", "with_hints"]


class Hint(NamedTuple):
    """One argument that the caller may pass.

    Attributes
    ----------
    argument : str
        As it is written in a call: ``"overwrite=True"``; only its name, ``"max_size"``, where the
        caller chooses the value.
    effect : str
        What it does, as an infinitive: ``"to replace it"``.
    """

    argument: str
    effect: str


def with_hints(message: str, hints: Iterable[Hint]) -> str:
    """Return a message followed by its hints, for a Python program."""
    advice = " or ".join(f"{hint.argument} {hint.effect}" for hint in hints)
    return f"{message}; pass {advice}" if advice else message


def shell_command(command: str, *paths: str) -> str:
    """Return a command that can be copied into a shell, whatever characters its paths have."""
    # A path that begins with a dash would be an option.
    safe = (f"./{path}" if path.startswith("-") else path for path in paths)
    return " ".join([command, *map(shlex.quote, safe)])
