"""Which scanner reads a path: decided by content, never by extension."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from functools import partial
from types import ModuleType
from typing import NamedTuple

import numpy as np

from imagearchive.containers import barecat, directory
from imagearchive.containers.bins import scan as split
from imagearchive.containers.rows import RowBuffer
from imagearchive.containers.tar import scan as tar
from imagearchive.containers.zip import scan as zip
from imagearchive.errors import CorruptArchiveError, UnsupportedArchiveError
from imagearchive.storage.local import open_storage

__all__ = ["Scanned", "is_plain_directory", "located", "scan", "scanner_version", "versions"]

SCANNERS: dict[str, ModuleType] = {
    module.NAME: module for module in (tar, zip, split, barecat, directory)
}
HEAD_BYTES = 512


class Scanned(NamedTuple):
    """What a scanner found."""

    scanner: str
    version: int
    rows: RowBuffer
    files: list[str]
    damage: str | None
    """The error that ended the scan, where the caller asked for what lies before it."""
    ends: list[int]
    """Of each file, where its last member ends, directories and links included."""


def scanner_version(name: str) -> int | None:
    """Return the version of a scanner, or None where there is none of that name."""
    module = SCANNERS.get(name)
    return None if module is None else int(module.VERSION)


def located(path: str) -> str:
    """Return the file to open for what a user calls `path`.

    Older Barecat archives are known by a name that none of their files has.
    """
    return barecat.index_path(path)


def versions() -> list[str]:
    """Return the names and versions of all scanners."""
    return [f"{name} {module.VERSION}" for name, module in sorted(SCANNERS.items())]


def is_plain_directory(path: str) -> bool:
    """Whether the path is a directory of files, as opposed to a container made of several."""
    return os.path.isdir(path) and not split.sniff(path) and not barecat.sniff(path)


def scan(path: str, *, strict: bool = True) -> Scanned:
    """Scan the archive at `path`, of whatever kind it is.

    Raises
    ------
    UnsupportedArchiveError
        No scanner knows the file.
    CorruptArchiveError
        It is damaged; with ``strict=False`` only where not even a part can be read.
    """
    for module in (split, barecat, directory):
        if module.sniff(path):
            return _tolerant(module, partial(module.scan_path, path), strict)
    # Faults cost more than reads where headers lie far apart, and no less where they do not.
    with closing(open_storage(path, "pread")) as storage:
        head = bytes(storage.read(0, min(HEAD_BYTES, storage.size)))
        # A TAR may hold a ZIP as its last member, so its own header decides first.
        known = tar if tar.sniff(head, path) else zip if zip.sniff(storage) else None
        if known is not None:
            return _tolerant(known, lambda strict: (known.scan(storage, strict), [path]), strict)
    if not head:
        raise UnsupportedArchiveError(f"{path}: the file is empty; is it the right one, and whole?")
    raise UnsupportedArchiveError(
        f"{path}: neither TAR, ZIP, NPZ, Barecat nor a directory; it begins with {head[:8]!r}. "
        f"Is it the right file, and whole?"
    )


def _tolerant(
    module: ModuleType, scanner: Callable[[bool], tuple[RowBuffer, list[str]]], strict: bool
) -> Scanned:
    """Scan, and where that fails and the caller allows it, once more for what can be read."""
    damage = None
    try:
        rows, files = scanner(True)
    except CorruptArchiveError as error:
        if strict:
            raise
        damage = error.message
        rows, files = scanner(False)
    entries = rows.entries[: rows.rows]
    ends = np.zeros(len(files), np.uint64)
    np.maximum.at(ends, entries["shard"], entries["offset"] + entries["stored"])
    return Scanned(module.NAME, module.VERSION, rows, files, damage, ends.tolist())
