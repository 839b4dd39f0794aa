"""A plain directory of files, read like an archive."""

from __future__ import annotations

import os
import re
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from imagearchive.arrays import npy
from imagearchive.containers.container import Container
from imagearchive.containers.left_out import (
    DANGLING_LINK,
    LINK_LIMIT,
    LOOPING_LINK,
    OWN_FILE,
    UNREADABLE_DIRECTORY,
)
from imagearchive.containers.rows import (
    ENTRY_DTYPE,
    KIND_DIRECTORY,
    KIND_FILE,
    KIND_OTHER,
    RowBuffer,
)
from imagearchive.errors import ImageArchiveError
from imagearchive.storage.patterns import INDEX_SUFFIX
from imagearchive.storage.temporary import is_temporary_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagearchive.storage.location import Entry, Location, Status

__all__ = ["DirectoryContainer"]

# Links to links can multiply directories without end.
_MAX_LINKED: Final = 100_000


# What distinguishes the index of an archive that is opened with the archives inside it.
_VARIANT: Final = re.compile(r"\.nested(-(auto|keep|[1-8]))?$")


class _Folder(NamedTuple):
    location: Location
    prefix: str
    above: tuple[Location, ...]
    """The directories that contain it, from the top."""

    is_linked: bool
    """Whether a link leads to it, or to a directory that contains it."""


class DirectoryContainer(Container):
    """A directory of files that is not another format."""

    name = "directory"
    version = 2
    label = "directory"
    members_are_files = True
    has_special_members = True

    def sniff_location(self, location: Location, status: Status, head: bytes) -> bool:
        """Recognize any directory."""
        return status.is_directory

    def scan_location(
        self, location: Location, strict: bool = True
    ) -> tuple[RowBuffer, list[Location]]:
        """List a directory and all below it, sorted by name.

        Symbolic links are followed, also out of the directory, as `os.walk` does with
        ``followlinks=True``; but not into a directory that contains the link. Index files of this
        library beside their archives, and its unfinished files, are left out.

        Raises
        ------
        OSError
            A directory cannot be listed. With ``strict=False``, only if it is `location` itself.
        """
        rows = RowBuffer()
        pending = [_Folder(location, "", (), False)]
        linked = 0
        while pending:
            folder = pending.pop()
            try:
                found = folder.location.list()
            except OSError:
                if strict or not folder.prefix:
                    raise
                rows.left_out.add(os.fsencode(folder.prefix[:-1]), UNREADABLE_DIRECTORY)
                continue
            own = _own_files(folder.location, found)
            below = []
            for entry in found:
                name, status = folder.prefix + entry.name, entry.status
                if entry.name in own:
                    rows.left_out.add(os.fsencode(name), OWN_FILE)
                elif status is None:
                    # Without a link, it has disappeared since the directory was listed.
                    if entry.is_link:
                        rows.left_out.add(os.fsencode(name), DANGLING_LINK)
                elif status.is_directory:
                    inside = _Folder(
                        folder.location.join(entry.name),
                        name + "/",
                        (*folder.above, folder.location),
                        folder.is_linked or entry.is_link,
                    )
                    linked += inside.is_linked
                    if inside.is_linked and linked > _MAX_LINKED:
                        rows.left_out.add(os.fsencode(name), LINK_LIMIT)
                    elif inside.is_linked and _is_loop(inside):
                        rows.left_out.add(os.fsencode(name), LOOPING_LINK)
                    else:
                        rows.append(os.fsencode(name), kind=KIND_DIRECTORY)
                        below.append(inside)
                else:
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


def _is_loop(folder: _Folder) -> bool:
    return any(folder.location.is_same(above) for above in folder.above)


def _own_files(folder: Location, found: Sequence[Entry]) -> set[str]:
    """Return the names of the index files whose archive is in the folder, and of unfinished files.

    A file with such a name that is not an index is data.
    """
    own = {entry.name for entry in found if is_temporary_name(entry.name)}
    stems: dict[str, list[Entry]] = {}
    for entry in found:
        if _names_index(entry):
            stem = entry.name[: -len(INDEX_SUFFIX)]
            for name in {stem, _VARIANT.sub("", stem)}:
                stems.setdefault(name, []).append(entry)
    if stems:
        for entry in found:
            stem = os.path.splitext(entry.name)[0]
            for index in (*stems.get(entry.name, ()), *stems.get(stem, ())):
                if index is not entry and _is_index(folder.join(index.name)):
                    own.add(index.name)
    return own


def _names_index(entry: Entry) -> bool:
    is_file = entry.status is not None and entry.status.is_file
    return is_file and entry.name.endswith(INDEX_SUFFIX)


def _is_index(location: Location) -> bool:
    try:
        with closing(location.open("pread")) as storage:
            return npy.parse_header(storage, 0, where=location.path).dtype == ENTRY_DTYPE
    except (OSError, ImageArchiveError):
        return False
