"""What commands print to standard output: names, sizes, times, and JSON; and progress bars."""

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

from imagearchive.errors.os_errors import os_errors_for
from imagearchive.storage.location import locate

__all__ = [
    "escape_message",
    "escape_name",
    "file_size",
    "format_permissions",
    "format_size",
    "format_time",
    "progress_bar",
    "raw_name",
    "relative_path",
    "standard_output",
    "write",
    "write_json",
    "write_json_rows",
]

_NAMED_ESCAPES: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def escape_name(name: str) -> str:
    r"""Return a name that takes one line and can be recovered.

    Control characters and bytes that are not UTF-8 become escapes, which `printf` and Python
    understand; ``\`` is doubled.
    """
    if name.isascii() and name.isprintable() and "\\" not in name:
        return name
    return "".join(map(_escape_character, name.replace("\\", "\\\\")))


def raw_name(name: str) -> str:
    """Return a name that can be followed by NUL; one that contains NUL is escaped."""
    return escape_name(name) if "\0" in name else name


def escape_message(message: str) -> str:
    """Return a message on one line; a backslash stays as it is."""
    return "".join(map(_escape_character, message))


def _escape_character(character: str) -> str:
    if character.isprintable():
        return character
    if character in _NAMED_ESCAPES:
        return _NAMED_ESCAPES[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        # A byte that is not UTF-8.
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@contextlib.contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """Return standard output as a binary file, which is flushed at the end of the block.

    Raises
    ------
    OSError
        Standard output is closed, or the disk is full.
    """
    with os_errors_for("standard output"):
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()


def write(lines: Iterable[str], *, end: str = "\n") -> None:
    """Write lines to standard output in UTF-8; surrogates become the bytes that they represent."""
    with standard_output() as out:
        for line in lines:
            out.write((line + end).encode("utf-8", "surrogateescape"))


def write_json(value: Any) -> None:
    """Print a value as JSON."""
    write([json.dumps(value, indent=2)])


def write_json_rows(records: Iterator[dict[str, Any]]) -> None:
    """Print a JSON array, one element per line, without holding all of it."""

    def lines() -> Iterator[str]:
        before = "["
        for record in records:
            yield before + json.dumps(record)
            before = ",\n "
        yield "]\n" if before != "[" else "[]\n"

    write(lines(), end="")


def format_size(size: int, human: bool) -> str:
    """Return a size in bytes or, like ``ls -h``, as ``1.5K``: rounded up, in powers of 1024."""
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
    """Return a time in UTC, to the second; ``-`` if none is recorded."""
    if not nanoseconds:
        return "-".ljust(19)
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(nanoseconds // 1_000_000_000))
    except (OverflowError, ValueError, OSError):
        return "?".ljust(19)


def format_permissions(mode: int, directory: bool = False) -> str:
    """Return permissions as ``-rw-r--r--``."""
    return stat.filemode((stat.S_IFDIR if directory else stat.S_IFREG) | mode & 0o7777)


@contextlib.contextmanager
def progress_bar(
    total: int | None, unit: str, quiet: bool
) -> Iterator[Callable[[int], object] | None]:
    """Show a progress bar if standard error is a terminal; return what advances it, or None."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", unit_scale=True, leave=False, file=sys.stderr) as bar:
        yield bar.update


def relative_path(path: str | None) -> str | None:
    """Return a path relative to the working directory, if it is inside; a URL stays as it is."""
    if path is None or locate(path).local_path is None:
        return path
    relative = os.path.relpath(path)
    return path if relative.split(os.sep)[0] == ".." else relative


def file_size(path: str | None) -> int:
    """Return the size of a file, 0 if there is none."""
    try:
        return locate(path).status().size if path else 0
    except FileNotFoundError:
        return 0
