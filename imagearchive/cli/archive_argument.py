"""The archive that a command reads."""

from __future__ import annotations

import argparse
import glob
import os

from imagearchive.archive.archive import Archive, open_archive
from imagearchive.errors import ArchiveNotFoundError
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.storage.patterns import expand

__all__ = ["open_archive_argument", "resolve"]


def open_archive_argument(arguments: argparse.Namespace) -> Archive:
    """Open the archive that a command reads."""
    found = resolve(arguments.archive)
    path = arguments.archive if found == expand(arguments.archive) else found
    with os_errors_for(arguments.archive):
        return open_archive(path, ipath=arguments.ipath, strict=not arguments.partial)


def resolve(given: str) -> list[str]:
    """Return the paths of the archives that an argument matches.

    Index files are left out, so ``'train-*'`` matches the same archives as ``'train-*.tar'``.

    Raises
    ------
    ArchiveNotFoundError
        Nothing matches.
    """
    found: list[str] = []
    for path in expand(given):
        if os.path.lexists(path) or not glob.has_magic(path):
            found.append(path)
            continue
        matches = sorted(one for one in glob.glob(path) if not one.endswith(".idx.npy"))
        if not matches:
            raise ArchiveNotFoundError(f"{path}: no archive matches this pattern")
        found += matches
    return found
