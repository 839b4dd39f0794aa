"""What the arguments of commands may be; what is wrong with one is said in a line."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from typing import Final

__all__ = [
    "SizeTest",
    "archive",
    "count",
    "image_size",
    "mtime",
    "number",
    "output",
    "parse_size",
    "path",
    "ratio",
    "seed",
    "share",
    "tar_path",
]

_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Read a size: ``4096``, ``64k``, ``1.5M``, ``1GiB``; the units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 4096, 64k, 1.5M or 1GiB")
    amount, unit = match.groups()
    return int(float(amount) * 1024 ** " kmgt".index(unit.lower() or " "))


class SizeTest:
    """A condition on sizes: larger (``+2k``), smaller (``-2k``) or exactly as large (``2k``).

    Attributes
    ----------
    sign : str
        ``"+"``, ``"-"`` or empty.
    size : int
        What is compared with, in bytes.
    """

    def __init__(self, text: str) -> None:
        self.sign = text[:1] if text.startswith(("+", "-")) else ""
        self.size = parse_size(text.removeprefix(self.sign))


def count(text: str) -> int:
    """Read a number from 1 on."""
    return _whole(text, 1, sys.maxsize)


def number(text: str) -> int:
    """Read a number from 0 on."""
    return _whole(text, 0, sys.maxsize)


def seed(text: str) -> int:
    """Read what starts a generator of random numbers."""
    return _whole(text, 0, (1 << 32) - 1)


def _whole(text: str, least: int, most: int) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or not least <= int(text) <= most:
        limits = f"at least {least}" + (f" and at most {most}" if most < sys.maxsize else "")
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, {limits}")
    return int(text)


def ratio(text: str) -> float:
    """Read a number from 1 on, whole or not."""
    return _float(text, 1, math.inf)


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    return _float(text, 0, 1)


def _float(text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        limits = f"from {least} to {most}" if most < math.inf else f"at least {least}"
        raise argparse.ArgumentTypeError(f"{text!r}: give a number, {limits}")
    return value


def path(text: str) -> str:
    """Read a path that is not empty."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path")
    return text


def archive(text: str) -> str:
    """Read the path of an archive, or a pattern of several."""
    if text == "-":
        raise argparse.ArgumentTypeError(
            "'-': archives are read out of order, which standard input cannot be; name a file"
        )
    return path(text)


def output(text: str) -> str:
    """Read the path of what is going to be written."""
    if text == "-":
        raise argparse.ArgumentTypeError(
            "'-': it appears when it is whole, so it cannot go to standard output; name a path"
        )
    return path(text)


def tar_path(text: str) -> str:
    """Read the name of a TAR archive to be."""
    if os.path.splitext(text)[1] != ".tar":
        raise argparse.ArgumentTypeError(
            f"{text!r}: pack writes TAR archives; end the name with .tar"
        )
    return path(text)


def mtime(text: str) -> int | None:
    """Read seconds since 1970; None is the time of each file."""
    if text == "keep":
        return None
    if not re.fullmatch("-?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: give seconds since 1970, or keep")
    return int(text)


def image_size(text: str) -> int | tuple[int, int] | None:
    """Read ``224``, ``320x240`` or ``keep``, which is None."""
    if text == "keep":
        return None
    numbers = [int(part) for part in text.lower().split("x") if re.fullmatch("[0-9]{1,9}", part)]
    if len(numbers) != len(text.split("x")) or len(numbers) > 2 or not all(numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: give 224, 320x240 or keep")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
