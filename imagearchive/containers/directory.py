"""A plain directory of files, read like an archive."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from imagearchive.containers.container import Container
from imagearchive.containers.rows import KIND_DIRECTORY, KIND_FILE, KIND_OTHER, RowBuffer

if TYPE_CHECKING:
    from imagearchive.storage.location import Location, Status

__all__ = ["DirectoryContainer"]


class DirectoryContainer(Container):
    """A directory of files that is not another format."""

    name = "directory"
    version = 1
    label = "directory"
    members_are_files = True
    has_special_members = True

    def sniff_location(self, location: Location, status: Status) -> bool:
        """Recognize any directory."""
        return status.is_directory

    def scan_location(
        self, location: Location, strict: bool = True
    ) -> tuple[RowBuffer, list[Location]]:
        """List a directory and all below it, sorted by name.

        Symbolic links to files count as files. Links to directories are not followed, because
        they may form loops.

        Raises
        ------
        OSError
            A directory cannot be listed. With ``strict=False``, only if it is `location` itself.
        """
        rows = RowBuffer()
        pending = [(location, "")]
        while pending:
            folder, prefix = pending.pop()
            try:
                found = folder.list()
            except OSError:
                if strict or not prefix:
                    raise
                continue
            below = []
            for entry in found:
                name, status = prefix + entry.name, entry.status
                if status is None:
                    continue
                if status.is_directory and not entry.is_link:
                    rows.append(os.fsencode(name), kind=KIND_DIRECTORY)
                    below.append((folder.join(entry.name), name + "/"))
                    continue
                rows.append(
                    os.fsencode(name),
                    kind=KIND_FILE if status.is_file else KIND_OTHER,
                    size=status.size,
                    stored_size=status.size,
                    mtime=status.mtime_ns,
                    mode=stat.S_IMODE(status.mode),
                )
            pending.extend(reversed(below))
        return rows, [location]
