"""Commands that list the members of an archive and print them: ls, tree, find, cat."""

from __future__ import annotations

import argparse
import fnmatch
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.archive.archive import Archive
from imagearchive.archive.checked_read import iter_chunks
from imagearchive.archive.entries import DirEntry
from imagearchive.archive.extract import matching
from imagearchive.archive.name_tree import MAX_DEPTH, decode, encode, too_deep
from imagearchive.cli.archive_argument import open_archive_argument
from imagearchive.cli.argument_types import SizeCondition
from imagearchive.cli.output import (
    escape_name,
    format_permissions,
    format_size,
    format_time,
    raw_name,
    relative_path,
    standard_output,
    write,
    write_json_rows,
)
from imagearchive.errors.plurals import pluralize
from imagearchive.index.names import normalize

__all__ = ["cat", "find", "ls", "tree"]


# ---------------------------------------------------------------- ls


class _Row(NamedTuple):
    """A file or directory to list."""

    path: str
    shown: str
    position: int
    """-1 for a directory."""


class _Group(NamedTuple):
    """Rows to list under one title; the title of files that were asked for by name is None."""

    title: str | None
    rows: Callable[[], Iterator[_Row]]


def ls(arguments: argparse.Namespace) -> int:
    """List files and directories."""
    with open_archive_argument(arguments) as archive:
        groups = list(_groups(archive, arguments.paths or [""], arguments.recursive))
        if arguments.json:
            rows = (row for group in groups for row in group.rows())
            write_json_rows(_record(archive, row.path, row.position) for row in rows)
            return 0
        if arguments.null:
            rows = (row for group in groups for row in group.rows())
            write((raw_name(row.path) for row in rows), end="\0")
            return 0
        for number, group in enumerate(groups):
            if len(groups) > 1 and group.title is not None:
                write([*([""] if number else []), f"{escape_name(group.title) or '.'}:"])
            write(_lines(archive, arguments, ((row.shown, row.position) for row in group.rows())))
    return 0


def _groups(archive: Archive, paths: list[str], recursive: bool) -> Iterator[_Group]:
    """Return the files of what is to be listed as one group, and each directory as another."""
    files: list[_Row] = []
    folders: list[str] = []
    for path in paths:
        found = [path] if archive.exists(path) or archive.table.find(path) >= 0 else []
        if not found:
            found = archive.glob(path, recursive=True)
        if not found:
            # Raises, and names the closest match.
            archive.position(path)
        for match in found:
            if archive.table.find(match) >= 0 or archive.isfile(match):
                files.append(_Row(match, match, archive.position(match)))
            else:
                folders.append(decode(normalize(encode(match))))
    if files:
        yield _Group(None, lambda: iter(files))
    for folder in folders:
        if not recursive:
            yield _Group(folder, _rows_of(archive, folder))
            continue
        for below, _, _ in archive.walk(folder):
            yield _Group(below, _rows_of(archive, below))


def _rows_of(archive: Archive, folder: str) -> Callable[[], Iterator[_Row]]:
    def rows() -> Iterator[_Row]:
        for entry in archive.scandir(folder):
            yield _Row(entry.path, entry.name, entry.position)

    return rows


def _lines(
    archive: Archive, arguments: argparse.Namespace, rows: Iterator[tuple[str, int]]
) -> Iterator[str]:
    entries = archive.table.entries
    for name, position in rows:
        shown = escape_name(name) + ("/" if position < 0 else "")
        if not arguments.long:
            yield shown
        elif position < 0:
            yield f"{format_permissions(0o755, True)} {'-':>12} {'-':<19} {shown}"
        else:
            row = entries[position]
            size = format_size(int(row["size"]), arguments.human_readable)
            mode, mtime = int(row["mode"]), int(row["mtime"])
            yield f"{format_permissions(mode)} {size:>12} {format_time(mtime)} {shown}"


def _record(archive: Archive, path: str, position: int) -> dict[str, Any]:
    if position < 0:
        return {"path": path, "type": "directory"}
    info = archive.info(position)
    return {
        "path": path,
        "type": "file",
        "position": position,
        "size": info.size,
        "stored": info.stored_size,
        "offset": info.offset,
        "archive": relative_path(info.archive),
        "mode": info.mode,
        "mtime_ns": info.mtime_ns,
        "crc": info.crc,
    }


# ---------------------------------------------------------------- tree


def tree(arguments: argparse.Namespace) -> int:
    """Draw the directories."""
    with open_archive_argument(arguments) as archive:
        top = decode(normalize(encode(arguments.path)))
        # Raises if there is none, and names the closest match, before anything is printed.
        archive.listdir(top)
        if arguments.json:
            entries = (entry for _, _, entry in _entries(archive, arguments, top))
            write_json_rows(_record(archive, entry.path, entry.position) for entry in entries)
            return 0
        counts = {"directories": 0, "files": 0}
        write([escape_name(top) or escape_name(str(arguments.archive))])
        write(_branches(archive, arguments, top, counts))
        folders = pluralize(counts["directories"], "directory")
        write(["", f"{folders}, {pluralize(counts['files'], 'file')}"])
    return 0


def _entries(
    archive: Archive, arguments: argparse.Namespace, top: str
) -> Iterator[tuple[str, bool, DirEntry]]:
    """Yield the entries below a directory, each directory before what is in it.

    Each comes with the indentation of its line, and whether it is the last of its directory.
    """

    def children(folder: str) -> list[DirEntry]:
        found = list(archive.scandir(folder))
        return [entry for entry in found if entry.is_dir()] if arguments.directories else found

    # A stack, because directories may be nested deeper than Python's recursion limit.
    levels = [("", children(top), 0)]
    while levels:
        indent, entries, index = levels.pop()
        if index == len(entries):
            continue
        entry, last = entries[index], index + 1 == len(entries)
        levels.append((indent, entries, index + 1))
        yield indent, last, entry
        if entry.is_dir() and (arguments.level is None or len(levels) < arguments.level):
            if len(levels) > MAX_DEPTH:
                raise too_deep()
            levels.append((indent + ("    " if last else "│   "), children(entry.path), 0))


def _branches(
    archive: Archive, arguments: argparse.Namespace, top: str, counts: dict[str, int]
) -> Iterator[str]:
    for indent, last, entry in _entries(archive, arguments, top):
        branch = indent + ("└── " if last else "├── ")
        if entry.is_dir():
            counts["directories"] += 1
            yield f"{branch}{escape_name(entry.name)}/"
            continue
        counts["files"] += 1
        if arguments.human_readable:
            size = format_size(int(archive.table.entries["size"][entry.position]), True)
            yield f"{branch}[{size:>5}]  {escape_name(entry.name)}"
        else:
            yield branch + escape_name(entry.name)


# ---------------------------------------------------------------- find


def find(arguments: argparse.Namespace) -> int:
    """Find files by name and size."""
    if arguments.type == "d" and arguments.size:
        arguments.parser.error("directories have no size: use --size with files")
    with open_archive_argument(arguments) as archive:
        if arguments.type == "d":
            matches = _find_directories(archive, arguments)
        else:
            matches = _find_files(archive, arguments)
        if arguments.json:
            write_json_rows(_record(archive, path, position) for path, position in matches)
        elif arguments.null:
            write((raw_name(path) for path, _ in matches), end="\0")
        else:
            write(_lines(archive, arguments, matches))
    return 0


def _matcher(pattern: str | None) -> Callable[[str], object]:
    return (lambda name: True) if pattern is None else re.compile(fnmatch.translate(pattern)).match


def _find_files(archive: Archive, arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    table = archive.table
    folder = normalize(encode(arguments.path)) if arguments.path else b""
    if folder and archive.isfile(arguments.path):
        positions = np.array([archive.position(arguments.path)])
    else:
        # Raises if there is no such directory, and names the closest match.
        archive.listdir(arguments.path)
        low, high = table.lookup.bounds(folder + b"/") if folder else (0, len(table))
        positions = table.name_order[low:high]
    sizes = table.entries["size"][positions]
    keep = np.ones(len(positions), bool)
    for condition in arguments.size:
        keep &= _satisfies(sizes, condition)
    base, whole = _matcher(arguments.name), _matcher(arguments.whole)
    for position in positions[keep].tolist():
        name = table.name(position)
        if base(name.rpartition("/")[2]) and whole(name):
            yield name, position


def _satisfies(sizes: npt.NDArray[Any], condition: SizeCondition) -> npt.NDArray[np.bool_]:
    if condition.sign == "+":
        return sizes > condition.size
    return sizes < condition.size if condition.sign == "-" else sizes == condition.size


def _find_directories(archive: Archive, arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    base, whole = _matcher(arguments.name), _matcher(arguments.whole)
    for folder, _, _ in archive.walk(arguments.path):
        if folder and base(folder.rpartition("/")[2]) and whole(folder):
            yield folder, -1


# ---------------------------------------------------------------- cat


def cat(arguments: argparse.Namespace) -> int:
    """Write members to standard output."""
    from imagearchive.archive.expansion import check_expansion
    from imagearchive.storage.limits import Limits

    with open_archive_argument(arguments) as archive, standard_output() as out:
        # All names are looked up before the first byte is written.
        positions = [one for name in arguments.members for one in _find_members(archive, name)]
        check_expansion(
            archive, positions, Limits(max_ratio=arguments.max_ratio or Limits.max_ratio)
        )
        for position in positions:
            for data in iter_chunks(archive, position):
                out.write(data)
    return 0


def _find_members(archive: Archive, name: str) -> list[int]:
    found = matching(archive, name)
    # If there is none, `position` raises and names the closest match.
    return found or [archive.position(name)]
