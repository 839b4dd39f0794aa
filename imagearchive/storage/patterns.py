"""The archives that a path, a list or a brace pattern names."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Sequence
from typing import Final

from imagearchive.errors import OptionError, OptionTypeError

__all__ = ["ArchivePath", "absolute", "expand", "spelled"]

#: One archive, several, or a brace pattern.
ArchivePath = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_RANGE: Final = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
MAX_PATHS: Final = 1_000_000


def spelled(path: ArchivePath) -> str | list[str]:
    """Return a path as text, or several as a list; iterators are read once."""
    if isinstance(path, (str, bytes, os.PathLike)):
        return _text(path)
    try:
        return [_text(one) for one in path]
    except TypeError:
        raise OptionTypeError(
            f"an archive is given by its path, a list of paths or a brace pattern, not by {path!r}"
        ) from None


def _text(path: str | bytes | os.PathLike[str]) -> str:
    text = os.fsdecode(path)
    if not text or "\0" in text:
        raise OptionError(f"{text!r} is no path of an archive")
    return text


def absolute(path: str | list[str]) -> str | list[str]:
    """Return the same with absolute paths; brace patterns stay patterns."""
    return os.path.abspath(path) if isinstance(path, str) else [os.path.abspath(p) for p in path]


def expand(path: ArchivePath) -> list[str]:
    """Return the absolute paths of the archives that a path, a list or a brace pattern names.

    ``{0000..0146}`` counts, with zeros as written; ``{a,b}`` lists alternatives. A path that
    exists is taken as it is, braces and all.

    Raises
    ------
    OptionError
        The list is empty, or a range counts down, or the pattern names more than a million.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        expanded = [one for part in path for one in expand(part)]
        if not expanded:
            raise OptionError("no archive is given: the list of paths is empty")
        return expanded
    text = os.path.abspath(os.fsdecode(path))
    pieces = _BRACES.split(text)
    if len(pieces) == 1 or os.path.exists(text):
        return [text]
    choices: list[list[str]] = []
    for place, piece in enumerate(pieces):
        bounds = _RANGE.fullmatch(piece)
        if place % 2 == 0:
            choices.append([piece])
        elif bounds:
            low, high = bounds.groups()
            if int(high) < int(low) or int(high) - int(low) >= MAX_PATHS:
                raise OptionError(f"{text}: the range {{{piece}}} names no archive, or too many")
            width = len(low)
            choices.append([f"{number:0{width}d}" for number in range(int(low), int(high) + 1)])
        elif "," in piece:
            choices.append(piece.split(","))
        else:
            choices.append([f"{{{piece}}}"])
    if (count := math.prod(map(len, choices))) > MAX_PATHS:
        raise OptionError(f"{text}: the pattern names {count} archives, which are too many")
    return ["".join(parts) for parts in itertools.product(*choices)]
