"""What commands print: names, sizes, times, progress."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final

from imagearchive.errors.os_errors import naming

__all__ = [
    "counted",
    "escape",
    "format_size",
    "format_time",
    "permissions",
    "progress",
    "raw",
    "short",
    "standard_output",
    "text",
    "write",
    "write_json",
]

_NAMED: Final = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def text(name: str) -> str:
    r"""Return a name for one line: control characters and non-UTF-8 as escapes, ``\`` doubled.

    The escapes are those of `printf` in a shell, and of Python.
    """
    if name.isascii() and name.isprintable() and "\\" not in name:
        return name
    return "".join(_escaped(character, "\\\\") for character in name)


def raw(name: str) -> str:
    """Return a name to be ended by NUL; one that contains a NUL would be taken for two."""
    return text(name) if "\0" in name else name


def escape(message: str) -> str:
    """Return a message without control characters; a backslash stays what it is."""
    return "".join(_escaped(character, "\\") for character in message)


def _escaped(character: str, backslash: str) -> str:
    if character == "\\":
        return backslash
    if character.isprintable():
        return character
    if character in _NAMED:
        return _NAMED[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        # A byte that is no UTF-8.
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@contextlib.contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """Give standard output for bytes, and flush it in the end.

    Raises
    ------
    OSError
        It is closed, or its disk is full.
    """
    with naming("standard output"):
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()


def write(lines: Iterable[str], *, end: str = "\n") -> None:
    """Write lines to standard output as UTF-8, surrogates as the bytes they stand for."""
    with standard_output() as out:
        for line in lines:
            out.write((line + end).encode("utf-8", "surrogateescape"))


def write_json(value: Any) -> None:
    """Print a value as JSON."""
    write([json.dumps(value, indent=2)])


def counted(number: int, one: str, more: str = "") -> str:
    """Return a number with its noun: ``1 file``, ``2 files``."""
    return f"{number} {one if number == 1 else more or one + 's'}"


def format_size(size: int, human: bool) -> str:
    """Return a size in bytes, or as ``1.5K`` as `ls -h` does: rounded up, powers of 1024."""
    if not human or size < 1024:
        return str(size)
    scaled = size / 1024
    units = iter("KMGTPE")
    unit = next(units)
    while scaled > 1023 and unit != "E":
        scaled /= 1024
        unit = next(units)
    tenths = math.ceil(scaled * 10)
    return f"{tenths / 10:.1f}{unit}" if tenths < 100 else f"{math.ceil(scaled)}{unit}"


def format_time(nanoseconds: int) -> str:
    """Return a time in UTC, to the second; a blank where none is recorded."""
    if not nanoseconds:
        return "-".ljust(19)
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(nanoseconds // 1_000_000_000))
    except (OverflowError, ValueError, OSError):
        return "?".ljust(19)


def permissions(mode: int, directory: bool = False) -> str:
    """Return permissions as ``-rw-r--r--``."""
    return stat.filemode((stat.S_IFDIR if directory else stat.S_IFREG) | mode & 0o7777)


@contextlib.contextmanager
def progress(total: int | None, unit: str, quiet: bool) -> Iterator[Callable[[int], object] | None]:
    """Show a progress bar where standard error is a terminal; give the function that moves it."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", unit_scale=True, leave=False, file=sys.stderr) as bar:
        yield bar.update


def short(path: str | None) -> str | None:
    """Return a path as seen from the working directory, if it lies in it."""
    if path is None:
        return None
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def index_size(path: str | None) -> int:
    """Return the size of an index file, 0 where there is none."""
    try:
        return os.stat(path).st_size if path else 0
    except FileNotFoundError:
        return 0
