"""A plain directory of files, as a table like any other container's."""

from __future__ import annotations

import os
import stat

from imagearchive.containers.rows import KIND_DIRECTORY, KIND_FILE, KIND_OTHER, RowBuffer

__all__ = ["NAME", "VERSION", "scan_path", "sniff"]

NAME = "directory"
VERSION = 1


def sniff(path: str) -> bool:
    """Whether the path is a directory."""
    return os.path.isdir(path)


def scan_path(path: str, strict: bool = True) -> tuple[RowBuffer, list[str]]:
    """List a directory and all below it, sorted by name.

    Symbolic links to files count as files; links to directories are not followed, since they may
    form loops. Each file is an archive file of its own, found again by its name.

    Raises
    ------
    OSError
        A directory cannot be listed, with ``strict=False`` only for `path` itself.
    """
    rows = RowBuffer()
    pending = [(os.fsencode(path), b"")]
    while pending:
        folder, prefix = pending.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            if strict or not prefix:
                raise
            continue
        below = []
        for entry in found:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                rows.append(name, kind=KIND_DIRECTORY)
                below.append((entry.path, name + b"/"))
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:
                # A dangling link, or a file that went away since the listing.
                continue
            regular = stat.S_ISREG(status.st_mode)
            rows.append(
                name,
                kind=KIND_FILE if regular else KIND_OTHER,
                size=status.st_size,
                stored=status.st_size,
                mtime=status.st_mtime_ns,
                mode=stat.S_IMODE(status.st_mode),
            )
        pending.extend(reversed(below))
    return rows, [path]
