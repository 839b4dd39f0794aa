"""Converters for the arguments of commands: `type=` of `argparse`.

Each takes the text of an argument and returns its value, or raises
`argparse.ArgumentTypeError` with a message of one line.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Final

from imagearchive.errors import OptionError
from imagearchive.errors.arguments import check_size
from imagearchive.index.nesting import MAX_DEPTH
from imagearchive.storage.location import expand_home

__all__ = [
    "SizeCondition",
    "access_options",
    "archive_path",
    "byte_size",
    "fraction",
    "image_size",
    "merge_options",
    "mtime",
    "nested",
    "nonnegative_integer",
    "output_path",
    "packed_path",
    "path",
    "port",
    "positive_integer",
    "ratio",
    "seed",
    "storage_option",
]

_BOOLEANS: Final = {"true": True, "false": False}


def byte_size(text: str) -> int:
    """Convert ``4096``, ``64k``, ``1.5M``, or ``1GiB`` to bytes; units are powers of 1024."""
    try:
        return check_size("size", text)
    except OptionError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; write 4096, 64k, 1.5M, or 1GiB"
        ) from None


def storage_option(text: str) -> tuple[list[str], str | bool]:
    """Convert ``NAME=VALUE`` or ``GROUP.NAME=VALUE``, at any depth, to names and a value."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        # Not shown: it may be a credential.
        raise argparse.ArgumentTypeError("write NAME=VALUE, such as region=eu-central-1")
    return name.split("."), _BOOLEANS.get(value.lower(), value)


def access_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments that say how to reach URLs, and where to cache what is read."""
    if arguments.cache_bytes is not None and arguments.cache_dir is None:
        arguments.parser.error("--cache-bytes needs --cache-dir, the folder of the cache")
    return {
        "storage_options": merge_options(arguments.storage_options),
        "cache_dir": arguments.cache_dir,
        "cache_bytes": arguments.cache_bytes,
    }


def merge_options(given: Sequence[tuple[list[str], str | bool]] | None) -> dict[str, Any] | None:
    """Return the dict that several options of `storage_option` make; None for none.

    Raises
    ------
    OptionError
        A name is that of a value and of a group.
    """
    if given is None:
        return None
    merged: dict[str, Any] = {}
    for (*groups, name), value in given:
        group = merged
        for one in groups:
            group = group.setdefault(one, {})
            if not isinstance(group, dict):
                raise OptionError(f"--storage-option: {one} is a value, and also a group of values")
        if isinstance(group.get(name), dict):
            raise OptionError(f"--storage-option: {name} is a value, and also a group of values")
        group[name] = value
    return merged


class SizeCondition:
    """A condition on sizes: larger (``+2k``), smaller (``-2k``) or equal (``2k``).

    Attributes
    ----------
    sign : str
        ``"+"``, ``"-"`` or empty.
    size : int
        The size to compare with, in bytes.
    """

    def __init__(self, text: str) -> None:
        self.sign = text[:1] if text.startswith(("+", "-")) else ""
        self.size = byte_size(text.removeprefix(self.sign))


def positive_integer(text: str) -> int:
    """Convert an integer that is at least 1."""
    return _integer(text, 1, sys.maxsize)


def nonnegative_integer(text: str) -> int:
    """Convert an integer that is at least 0."""
    return _integer(text, 0, sys.maxsize)


def port(text: str) -> int:
    """Convert the number of a port; 0 stands for any free one."""
    return _integer(text, 0, 65535)


def seed(text: str) -> int:
    """Convert the seed of a random generator."""
    return _integer(text, 0, (1 << 32) - 1)


def _integer(text: str, low: int, high: int) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or not low <= int(text) <= high:
        limits = f"from {low} to {high}" if high < sys.maxsize else f"at least {low}"
        raise argparse.ArgumentTypeError(f"must be an integer, {limits}, got {text!r}")
    return int(text)


def ratio(text: str) -> float:
    """Convert a number that is at least 1."""
    return _number(text, 1, math.inf)


def fraction(text: str) -> float:
    """Convert a number from 0 to 1."""
    return _number(text, 0, 1)


def _number(text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        limits = f"from {low} to {high}" if high < math.inf else f"at least {low}"
        raise argparse.ArgumentTypeError(f"must be a number, {limits}, got {text!r}")
    return value


def path(text: str) -> str:
    """Convert a path, which must not be empty; ``~`` is expanded where the shell did not."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a path")
    return expand_home(text)


def archive_path(text: str) -> str:
    """Convert the path of an archive, or a pattern for several."""
    if text == "-":
        raise argparse.ArgumentTypeError(
            "'-': archives need random access, so they cannot be read from standard input; "
            "name a file"
        )
    return path(text)


def nested(text: str) -> bool | int | str:
    """Convert which archives inside an archive are opened."""
    words: dict[str, bool | str] = {"yes": True, "no": False, "auto": "auto", "keep": "keep"}
    if text in words:
        return words[text]
    if text.isdecimal() and len(text) == 1 and int(text) <= MAX_DEPTH:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"{text!r}: write auto, yes, no, keep, or a number of levels up to {MAX_DEPTH}"
    )


def output_path(text: str) -> str:
    """Convert the path of a file or directory to write."""
    if text == "-":
        raise argparse.ArgumentTypeError(
            "'-': files appear when they are complete, so they cannot go to standard output; "
            "name a path"
        )
    return path(text)


def packed_path(text: str) -> str:
    """Convert the path of a TAR or ZIP archive to write; ``-`` is standard output."""
    if text != "-" and os.path.splitext(text)[1].lower() not in {".tar", ".zip"}:
        raise argparse.ArgumentTypeError(
            f"{text!r}: pack writes TAR and ZIP archives, so the name must end with .tar or .zip"
        )
    return path(text)


def mtime(text: str) -> int | None:
    """Convert seconds since 1970; ``keep`` becomes None, the time of each file."""
    if text == "keep":
        return None
    if not re.fullmatch("-?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"must be seconds since 1970, or keep, got {text!r}")
    return int(text)


def image_size(text: str) -> int | tuple[int, int] | None:
    """Convert ``224`` or ``320x240``; ``keep`` becomes None."""
    if text == "keep":
        return None
    numbers = [int(part) for part in text.lower().split("x") if re.fullmatch("[0-9]{1,9}", part)]
    if len(numbers) != len(text.split("x")) or len(numbers) > 2 or not all(numbers):
        raise argparse.ArgumentTypeError(f"must be 224, 320x240, or keep, got {text!r}")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
