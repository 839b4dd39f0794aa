"""Commands that inspect an archive: ls, tree, find, cat, info, verify."""

from __future__ import annotations

import argparse
import fnmatch
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.archive.archive import Archive
from imagearchive.archive.checked_read import iter_chunks
from imagearchive.archive.entries import DirEntry
from imagearchive.archive.extract import matching
from imagearchive.archive.name_tree import decode, encode
from imagearchive.arrays import npy
from imagearchive.cli.archive_argument import open_archive_argument
from imagearchive.cli.argument_types import SizeCondition
from imagearchive.cli.messages import with_options
from imagearchive.cli.output import (
    escape_message,
    escape_name,
    file_size,
    format_permissions,
    format_size,
    format_time,
    pluralize,
    progress_bar,
    raw_name,
    relative_path,
    standard_output,
    write,
    write_json,
)
from imagearchive.containers.left_out import LeftOut, describe_reason
from imagearchive.errors import ImageArchiveError
from imagearchive.index.names import normalize

__all__ = ["cat", "find", "info", "ls", "tree", "verify"]

FAILED: Final = 1


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
            _write_json_rows(_record(archive, row.path, row.position) for row in rows)
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


def _write_json_rows(records: Iterator[dict[str, Any]]) -> None:
    """Print a JSON array, one element per line, without holding all of it."""
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
    with open_archive_argument(arguments) as archive:
        top = decode(normalize(encode(arguments.path)))
        # Raises if there is none, and names the closest match, before anything is printed.
        archive.listdir(top)
        if arguments.json:
            entries = (entry for _, _, entry in _entries(archive, arguments, top))
            _write_json_rows(_record(archive, entry.path, entry.position) for entry in entries)
            return 0
        counts = {"directories": 0, "files": 0}
        write([escape_name(top) or escape_name(str(arguments.archive))])
        write(_branches(archive, arguments, top, counts))
        folders = pluralize(counts["directories"], "directory", "directories")
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
            _write_json_rows(_record(archive, path, position) for path, position in matches)
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


# ---------------------------------------------------------------- info


# How facts are called in the text, where that is not the key of the JSON.
_LABELS: Final = {"libjpeg_turbo": "libjpeg-turbo"}
_MOST_ARRAYS: Final = 100


def info(arguments: argparse.Namespace) -> int:
    """Describe archives, or how this installation was built."""
    if arguments.build:
        described = [_build_facts()]
    elif not arguments.archives:
        arguments.parser.error("name an archive, or use --build")
    else:
        described = [_archive_facts(one) for one in _each_archive(arguments)]
    if arguments.json:
        write_json(described[0] if len(described) == 1 else described)
        return 0
    for number, facts in enumerate(described):
        if len(described) > 1:
            title = escape_name(str(arguments.archives[number]))
            write([*([""] if number else []), f"{title}:"])
        _write_facts(facts, arguments.human_readable)
    return 0


def _each_archive(arguments: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """Yield the arguments of a command for each of its archives."""
    if arguments.ipath is not None and len(arguments.archives) > 1:
        arguments.parser.error("--ipath names the index of one archive")
    for archive in arguments.archives:
        yield argparse.Namespace(**{**vars(arguments), "archive": archive})


def _write_facts(facts: dict[str, Any], human_readable: bool) -> None:
    sizes = ("size", "stored", "index_size", "largest")
    width = max(map(len, facts)) + 1
    for key, value in facts.items():
        if key == "compressed":
            continue
        if key == "format":
            compressed = facts["compressed"]
            shown = f"{value}, compressed with {compressed}" if compressed else value
        elif key == "left_out":
            names = [f"{one['name']} ({one['reason']})" for one in value["members"]]
            reasons = [f"{reason} {count}" for reason, count in value["counts"].items()]
            shown = f"{', '.join(reasons)}: {_first(names, value['count'])}"
        elif key == "arrays":
            shown = "; ".join(f"{escape_name(name)} {_shown(one)}" for name, one in value.items())
        elif isinstance(value, dict):
            counts = (f"{escape_name(str(name))} {count}" for name, count in value.items())
            shown = ", ".join(counts) or "-"
        elif isinstance(value, list):
            shown = _first(value, len(value))
        elif key in sizes:
            shown = format_size(int(value), human_readable)
        elif isinstance(value, bool):
            shown = "yes" if value else "no"
        else:
            shown = escape_name(str(value))
        label = _LABELS.get(key, key.replace("_", " "))
        write([f"{label + ':':<{width}} {shown}"])


def _first(names: list[Any], count: int) -> str:
    """Return the first five names, and how many there are if there are more."""
    shown = ", ".join(escape_name(str(name)) for name in names[:5])
    return f"{shown}, … ({count})" if count > min(len(names), 5) else shown


def _left_out(left_out: LeftOut) -> dict[str, Any]:
    return {
        "count": len(left_out),
        "counts": left_out.counts,
        "members": [one._asdict() for one in left_out.members],
    }


def _shown(array: dict[str, Any]) -> str:
    if "error" in array:
        return f"({escape_name(array['error'])})"
    return f"{array['dtype']} {tuple(array['shape'])}"


def _array_facts(archive: Archive) -> dict[str, dict[str, Any]]:
    """Return dtype and shape of the arrays of an archive, the first hundred."""
    facts: dict[str, dict[str, Any]] = {}
    budget = npy.HeaderBudget()
    for position, name in enumerate(archive.files()):
        if not name.endswith(".npy"):
            continue
        if len(facts) == _MOST_ARRAYS:
            break
        try:
            header = budget.parse(
                archive.member(position), archive.info(position).stored_size, name
            )
        except (OSError, ImageArchiveError) as error:
            facts[name.removesuffix(".npy")] = {"error": str(error)}
            continue
        dtype = header.dtype.name if header.dtype.names is None else str(header.dtype)
        facts[name.removesuffix(".npy")] = {"dtype": dtype, "shape": list(header.shape)}
    return facts


def _archive_facts(arguments: argparse.Namespace) -> dict[str, Any]:
    # Imported here, since it brings Pillow along, which no other listing needs.
    from imagearchive.codecs import extension_of

    with open_archive_argument(arguments) as archive:
        table = archive.table
        entries = table.entries
        methods = {0: "stored", 8: "deflated"}
        values, counts = np.unique(entries["method"], return_counts=True)
        extensions: dict[str, int] = {}
        for name in archive.files():
            extension = extension_of(name)
            extensions[extension] = extensions.get(extension, 0) + 1
        common = sorted(extensions.items(), key=lambda item: (-item[1], item[0]))[:10]
        derived = table.derived
        plain = ~np.isin(entries["shard"], list(derived))
        stored = int(entries["stored_size"][plain].sum(dtype=np.uint64))
        facts: dict[str, Any] = {
            "format": ", ".join(container.name for container in table.containers),
            "compressed": ", ".join(sorted({one.format for one in derived.values()})) or None,
            "files": [relative_path(path) for path in table.files],
            "members": len(table),
            "directories": sum(1 for _ in archive.dirs()),
            "size": archive.total_size,
            "stored": stored + sum(one.stored_size for one in derived.values()),
            "largest": int(entries["size"].max()) if len(entries) else 0,
            "compression": {
                methods.get(value, f"method_{value}"): count
                for value, count in zip(values.tolist(), counts.tolist())
            },
            "extensions": {f".{name}" if name else "none": count for name, count in common},
            "index": relative_path(table.path) or "in memory",
            "index_size": file_size(table.path),
        }
        if arrays := _array_facts(archive):
            facts["arrays"] = arrays
        if archive.left_out:
            facts["left_out"] = _left_out(archive.left_out)
        if table.meta.get("damage"):
            facts["damage"] = table.meta["damage"]
        return facts


def _build_facts() -> dict[str, Any]:
    import importlib.util
    import platform
    from importlib.metadata import version

    import PIL

    from imagearchive.images.render import HAVE_JPEG

    optional = {
        "torch": "torch",
        "zstandard": "compressed",
        "msgpack": "msgpack",
        "shtab": "completion",
    }
    return {
        "imagearchive": version("imagearchive"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "libjpeg_turbo": bool(HAVE_JPEG),
        "optional_packages": {
            name: "installed"
            if importlib.util.find_spec(name)
            else f"missing (imagearchive[{extra}])"
            for name, extra in optional.items()
        },
    }


# ---------------------------------------------------------------- verify


def verify(arguments: argparse.Namespace) -> int:
    """Read and check every member."""
    results = []
    for one in _each_archive(arguments):
        found = _verify_one(one)
        results.append(found)
        if not arguments.json:
            _write_verified(found, arguments)
    if arguments.json:
        write_json(results[0] if len(results) == 1 else results)
    return FAILED if any(found["failures"] for found in results) else 0


def _verify_one(arguments: argparse.Namespace) -> dict[str, Any]:
    from imagearchive.archive.verify import verify as check
    from imagearchive.storage.limits import Limits

    limits = Limits(
        arguments.max_size or Limits.max_size,
        arguments.max_ratio or Limits.max_ratio,
        arguments.max_pixels or Limits.max_pixels,
        arguments.max_objects or Limits.max_objects,
    )
    with (
        open_archive_argument(arguments) as archive,
        progress_bar(len(archive), "members", arguments.quiet) as step,
    ):
        found = check(
            archive,
            decode=arguments.decode,
            limits=limits,
            threads=arguments.threads,
            progress=step,
        )
    return {
        "archive": relative_path(str(arguments.archive)),
        "files": found.files,
        "bytes": found.bytes,
        "checksums": found.checked,
        "decoded": found.decoded,
        "left_out": _left_out(found.left_out),
        "failures": [
            {
                "position": failure.position,
                "name": failure.name,
                # The intact part has been verified, so --partial, which verify lacks, is no advice.
                "reason": with_options(
                    failure.message,
                    [hint for hint in failure.hints if hint.argument != "strict=False"],
                ),
            }
            for failure in found.failures
        ],
    }


def _write_verified(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    start = f"{escape_name(found['archive'])}: " if len(arguments.archives) > 1 else ""
    failures = found["failures"]
    write(f"{start}{escape_name(one['name'])}: {escape_message(one['reason'])}" for one in failures)
    if arguments.quiet:
        return
    for one in found["left_out"]["members"]:
        reason = describe_reason(one["reason"])
        write([f"{start}{escape_name(one['name'])}: left out or unreadable: {reason}"])
    summary = (
        f"{pluralize(found['files'], 'member')} read, "
        f"{pluralize(found['checksums'], 'checksum')} compared, "
        f"{found['decoded']} decoded, {pluralize(len(failures), 'failure')}"
    )
    count = found["left_out"]["count"]
    write([start + summary + (f", {count} left out" if count else "")])
