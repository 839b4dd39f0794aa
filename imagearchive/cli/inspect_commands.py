"""Commands that look into an archive: ls, tree, find, cat, info."""

from __future__ import annotations

import argparse
import fnmatch
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from imagearchive.archive.archive import Archive
from imagearchive.archive.checked_read import pieces
from imagearchive.archive.extract import matching
from imagearchive.archive.name_tree import decode, encode
from imagearchive.cli.archive_argument import open_given
from imagearchive.cli.argument_types import SizeTest
from imagearchive.cli.output import (
    counted,
    format_size,
    format_time,
    index_size,
    permissions,
    raw,
    short,
    standard_output,
    text,
    write,
    write_json,
)
from imagearchive.codecs import extension_of
from imagearchive.index.names import normalise

__all__ = ["cat", "find", "info", "ls", "tree"]


# ---------------------------------------------------------------- ls


def ls(arguments: argparse.Namespace) -> int:
    """List files and directories."""
    with open_given(arguments) as archive:
        groups = list(_groups(archive, arguments.paths or [""], arguments.recursive))
        if arguments.json:
            rows = (row for _, entries in groups for row in entries())
            _json_rows(_record(archive, path, position) for path, _, position in rows)
            return 0
        if arguments.null:
            rows = (row for _, entries in groups for row in entries())
            write((raw(path) for path, _, _ in rows), end="\0")
            return 0
        headed = len(groups) > 1
        for number, (title, entries) in enumerate(groups):
            if headed and title is not None:
                write([*([""] if number else []), f"{text(title) or '.'}:"])
            write(_lines(archive, arguments, ((name, position) for _, name, position in entries())))
    return 0


_Entry = tuple[str, str, int]
"""A path, how it is shown, and its position; -1 for a directory."""


def _groups(
    archive: Archive, paths: list[str], recursive: bool
) -> Iterator[tuple[str | None, Callable[[], Iterator[_Entry]]]]:
    """Split what is to be listed into files and directories; of the latter, each one a group."""
    files: list[_Entry] = []
    folders: list[str] = []
    for path in paths:
        found = [path] if archive.exists(path) or archive.table.find(path) >= 0 else []
        if not found:
            found = archive.glob(path, recursive=True)
        if not found:
            # Says what the closest name is.
            archive.position(path)
        for match in found:
            if archive.table.find(match) >= 0 or archive.isfile(match):
                files.append((match, match, archive.position(match)))
            else:
                folders.append(decode(normalise(encode(match))))
    if files:
        yield None, lambda: iter(files)
    for folder in folders:
        if not recursive:
            yield folder, _folder(archive, folder)
            continue
        for below, _, _ in archive.walk(folder):
            yield below, _folder(archive, below)


def _folder(archive: Archive, folder: str) -> Callable[[], Iterator[_Entry]]:
    def entries() -> Iterator[_Entry]:
        for entry in archive.scandir(folder):
            yield entry.path, entry.name, entry.position

    return entries


def _lines(
    archive: Archive, arguments: argparse.Namespace, rows: Iterator[tuple[str, int]]
) -> Iterator[str]:
    entries = archive.table.entries
    for name, position in rows:
        shown = text(name) + ("/" if position < 0 else "")
        if not arguments.long:
            yield shown
        elif position < 0:
            yield f"{permissions(0o755, True)} {'-':>12} {'-':<19} {shown}"
        else:
            row = entries[position]
            size = format_size(int(row["size"]), arguments.human_readable)
            mode, mtime = int(row["mode"]), int(row["mtime"])
            yield f"{permissions(mode)} {size:>12} {format_time(mtime)} {shown}"


def _record(archive: Archive, path: str, position: int) -> dict[str, Any]:
    if position < 0:
        return {"path": path, "type": "directory"}
    info = archive.info(position)
    return {
        "path": path,
        "type": "file",
        "position": position,
        "size": info.size,
        "stored": info.stored,
        "offset": info.offset,
        "archive": short(info.archive),
        "mode": info.mode,
        "mtime_ns": info.mtime_ns,
        "crc": info.crc,
    }


def _json_rows(records: Iterator[dict[str, Any]]) -> None:
    """Print a JSON array, an element a line, without holding all of it."""
    import json

    def lines() -> Iterator[str]:
        before = "["
        for record in records:
            yield before + json.dumps(record)
            before = ",\n "
        yield "]\n" if before != "[" else "[]\n"

    write(lines(), end="")


# ---------------------------------------------------------------- tree


def tree(arguments: argparse.Namespace) -> int:
    """Draw the directories."""
    with open_given(arguments) as archive:
        top = decode(normalise(encode(arguments.path)))
        # Says what the closest name is, before anything is printed.
        archive.listdir(top)
        counts = {"directories": 0, "files": 0}
        write([text(top) or text(str(arguments.archive))])
        write(_branches(archive, arguments, top, counts))
        folders = counted(counts["directories"], "directory", "directories")
        write(["", f"{folders}, {counted(counts['files'], 'file')}"])
    return 0


def _branches(
    archive: Archive, arguments: argparse.Namespace, top: str, counts: dict[str, int]
) -> Iterator[str]:
    def children(folder: str) -> list[Any]:
        found = list(archive.scandir(folder))
        return [entry for entry in found if entry.is_dir()] if arguments.directories else found

    # A stack, as names may be nested deeper than Python's calls.
    levels = [("", children(top), 0)]
    while levels:
        indent, entries, place = levels.pop()
        if place == len(entries):
            continue
        entry = entries[place]
        levels.append((indent, entries, place + 1))
        last = place + 1 == len(entries)
        branch = indent + ("└── " if last else "├── ")
        if entry.is_dir():
            counts["directories"] += 1
            yield f"{branch}{text(entry.name)}/"
            if arguments.level is None or len(levels) < arguments.level:
                levels.append((indent + ("    " if last else "│   "), children(entry.path), 0))
            continue
        counts["files"] += 1
        if arguments.human_readable:
            size = format_size(int(archive.table.entries["size"][entry.position]), True)
            yield f"{branch}[{size:>5}]  {text(entry.name)}"
        else:
            yield branch + text(entry.name)


# ---------------------------------------------------------------- find


def find(arguments: argparse.Namespace) -> int:
    """Find files by name and size."""
    if arguments.type == "d" and arguments.size:
        arguments.parser.error("directories have no size: use --size with files")
    with open_given(arguments) as archive:
        if arguments.type == "d":
            matches = _find_directories(archive, arguments)
        else:
            matches = _find_files(archive, arguments)
        if arguments.json:
            _json_rows(_record(archive, path, position) for path, position in matches)
        elif arguments.null:
            write((raw(path) for path, _ in matches), end="\0")
        else:
            write(_lines(archive, arguments, matches))
    return 0


def _pattern(pattern: str | None) -> Callable[[str], object]:
    return (lambda name: True) if pattern is None else re.compile(fnmatch.translate(pattern)).match


def _find_files(archive: Archive, arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    table = archive.table
    folder = normalise(encode(arguments.path)) if arguments.path else b""
    if folder and archive.isfile(arguments.path):
        places = np.array([archive.position(arguments.path)])
    else:
        # Says what the closest name is.
        archive.listdir(arguments.path)
        low, high = table.lookup.bounds(folder + b"/") if folder else (0, len(table))
        places = table.name_order[low:high]
    sizes = table.entries["size"][places]
    keep = np.ones(len(places), bool)
    for test in arguments.size:
        keep &= _passes(test, sizes)
    base, whole = _pattern(arguments.name), _pattern(arguments.whole)
    for position in places[keep].tolist():
        name = table.name(position)
        if base(name.rpartition("/")[2]) and whole(name):
            yield name, position


def _passes(test: SizeTest, sizes: Any) -> Any:
    if test.sign == "+":
        return sizes > test.size
    return sizes < test.size if test.sign == "-" else sizes == test.size


def _find_directories(archive: Archive, arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    base, whole = _pattern(arguments.name), _pattern(arguments.whole)
    for folder, _, _ in archive.walk(arguments.path):
        if folder and base(folder.rpartition("/")[2]) and whole(folder):
            yield folder, -1


# ---------------------------------------------------------------- cat


def cat(arguments: argparse.Namespace) -> int:
    """Write members to standard output."""
    with open_given(arguments) as archive, standard_output() as out:
        # All names are looked up before the first byte is written.
        for position in [place for name in arguments.members for place in _asked(archive, name)]:
            for data in pieces(archive, position):
                out.write(data)
    return 0


def _asked(archive: Archive, name: str) -> list[int]:
    found = matching(archive, name)
    # Says what the closest name is.
    return found or [archive.position(name)]


# ---------------------------------------------------------------- info


def info(arguments: argparse.Namespace) -> int:
    """Tell what an archive is and holds, or how this installation was built."""
    if arguments.build:
        facts = _build_facts()
    elif arguments.archive is None:
        arguments.parser.error("name an archive, or ask for --build")
    else:
        facts = _archive_facts(arguments)
    if arguments.json:
        write_json(facts)
        return 0
    sizes = ("size", "stored", "index size", "largest")
    width = max(map(len, facts)) + 1
    for key, value in facts.items():
        if isinstance(value, dict):
            shown = ", ".join(f"{text(str(name))} {count}" for name, count in value.items()) or "-"
        elif isinstance(value, list):
            shown = ", ".join(text(str(item)) for item in value[:5])
            shown += f", … ({len(value)})" if len(value) > 5 else ""
        elif key in sizes:
            shown = format_size(int(value), arguments.human_readable)
        elif isinstance(value, bool):
            shown = "yes" if value else "no"
        else:
            shown = text(str(value))
        write([f"{key + ':':<{width}} {shown}"])
    return 0


def _archive_facts(arguments: argparse.Namespace) -> dict[str, Any]:
    with open_given(arguments) as archive:
        table = archive.table
        entries = table.entries
        methods = {0: "stored", 8: "deflated"}
        values, counts = np.unique(entries["method"], return_counts=True)
        extensions: dict[str, int] = {}
        for name in archive.files():
            extension = extension_of(name)
            extensions[extension] = extensions.get(extension, 0) + 1
        common = sorted(extensions.items(), key=lambda item: (-item[1], item[0]))[:10]
        facts: dict[str, Any] = {
            "format": table.scanner,
            "files": [short(path) for path in table.files],
            "members": len(table),
            "directories": sum(1 for _ in archive.dirs()),
            "size": archive.total_size,
            "stored": int(entries["stored"].sum(dtype=np.uint64)),
            "largest": int(entries["size"].max()) if len(entries) else 0,
            "compression": {
                methods.get(value, f"method {value}"): count
                for value, count in zip(values.tolist(), counts.tolist())
            },
            "extensions": {f".{name}" if name else "none": count for name, count in common},
            "index": short(table.path) or "in memory",
            "index size": index_size(table.path),
        }
        if table.meta.get("damage"):
            facts["damage"] = table.meta["damage"]
        return facts


def _build_facts() -> dict[str, Any]:
    import importlib.util
    import platform
    from importlib.metadata import version

    import PIL

    try:
        from imagearchive.images.render import HAVE_JPEG
    except ImportError:
        jpeg = False
    else:
        jpeg = bool(HAVE_JPEG)
    optional = {
        "torch": "torch",
        "indexed_gzip": "compressed",
        "zstandard": "compressed",
        "msgpack": "msgpack",
        "crc32c": "barecat",
    }
    there = {name: importlib.util.find_spec(name) is not None for name in optional}
    return {
        "imagearchive": version("imagearchive"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "libjpeg-turbo": jpeg,
        "optional packages": {
            name: "installed" if found else f"missing (imagearchive[{optional[name]}])"
            for name, found in there.items()
        },
    }
