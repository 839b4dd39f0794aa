"""The archives that an argument names."""

from __future__ import annotations

import argparse
import glob
import os

from imagearchive.archive.archive import Archive, open_archive
from imagearchive.errors import ArchiveNotFoundError
from imagearchive.errors.os_errors import naming
from imagearchive.storage.patterns import expand

__all__ = ["open_given", "resolve"]


def open_given(arguments: argparse.Namespace) -> Archive:
    """Open the archive that a command is about."""
    found = resolve(arguments.archive)
    path = arguments.archive if found == expand(arguments.archive) else found
    with naming(arguments.archive):
        return open_archive(path, ipath=arguments.ipath, strict=not arguments.partial)


def resolve(given: str) -> list[str]:
    """Return the archives that an argument stands for: itself, or those that match its wildcards.

    Index files match no pattern, so that ``'train-*'`` may stand for ``'train-*.tar'``.

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
            raise ArchiveNotFoundError(f"{path}: no such archive, and nothing that matches")
        found += matches
    return found
