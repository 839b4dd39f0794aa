"""The container formats, and which of them reads a location: decided by content."""

from __future__ import annotations

from contextlib import closing
from typing import Final, NamedTuple

import numpy as np

from imagearchive.containers.barecat import BarecatContainer
from imagearchive.containers.bins import BinsContainer
from imagearchive.containers.container import Container, Match
from imagearchive.containers.directory import DirectoryContainer
from imagearchive.containers.foreign import describe_foreign
from imagearchive.containers.rows import RowBuffer
from imagearchive.containers.tar import TarContainer
from imagearchive.containers.zip import ZipContainer
from imagearchive.errors import (
    CorruptArchiveError,
    ImageArchiveError,
    OptionError,
    UnsupportedArchiveError,
)
from imagearchive.storage.location import Location

__all__ = [
    "Scanned",
    "all_containers",
    "container_named",
    "find_container",
    "register_container",
    "resolve_location",
    "scan_location",
    "unregister_container",
]

HEAD_BYTES: Final = 512

# In the order in which they are asked; of two that are as sure, the first reads the location.
# A TAR may hold a ZIP as its last member, so its own header goes first; a directory of files is
# what no other format is.
_CONTAINERS: Final[list[Container]] = [
    BinsContainer(),
    BarecatContainer(),
    DirectoryContainer(),
    TarContainer(),
    ZipContainer(),
]


class Scanned(NamedTuple):
    """What a scan found.

    Attributes
    ----------
    container : Container
        The format of the archive.
    rows : RowBuffer
    files : list of Location
        The files that hold the bytes, in the order of ``rows.entries["shard"]``.
    damage : str or None
        The error that ended the scan, if the caller asked for what is before it.
    ends : list of int
        Of each file, where its last member ends, directories and links included.
    """

    container: Container
    rows: RowBuffer
    files: list[Location]
    damage: str | None
    ends: list[int]


def all_containers() -> list[Container]:
    """Return all container formats in the order in which they are asked."""
    return list(_CONTAINERS)


def register_container(container: Container) -> None:
    """Add a container format; it is asked before those that there are.

    Processes that are started by ``spawn`` have to register it again.

    Raises
    ------
    OptionError
        There is a format of that name.
    """
    if container_named(container.name) is not None:
        raise OptionError(f"there is a container format called {container.name!r} already")
    _CONTAINERS.insert(0, container)


def unregister_container(name: str) -> None:
    """Remove a container format; does nothing if there is none of that name."""
    _CONTAINERS[:] = [container for container in _CONTAINERS if container.name != name]


def container_named(name: object) -> Container | None:
    """Return the container format of a name, or None."""
    for container in _CONTAINERS:
        if container.name == name:
            return container
    return None


def resolve_location(location: Location) -> Location:
    """Return the location to open for the one that a user names.

    Archives of some formats go by a name that none of their files has.
    """
    if not location.exists():
        for container in _CONTAINERS:
            resolved = container.resolve(location)
            if resolved is not None:
                return resolved
    return location


def find_container(location: Location) -> Container:
    """Return the format that reads a location.

    All formats are asked before an error of one of them is raised.

    Raises
    ------
    UnsupportedArchiveError
        No format reads it.
    OSError
        There is nothing at the location, or it cannot be read.
    """
    status = location.status()
    failure: Exception | None = None
    for container in _CONTAINERS:
        try:
            if container.sniff_location(location, status):
                return container
        except (OSError, ImageArchiveError) as error:
            failure = failure or error
    possible: Container | None = None
    with closing(location.open("pread")) as storage:
        head = bytes(storage.read(0, min(HEAD_BYTES, storage.size)))
        for container in _CONTAINERS:
            try:
                match = container.sniff(head, storage)
            except (OSError, ImageArchiveError) as error:
                failure = failure or error
                continue
            if match is Match.CERTAIN:
                return container
            if match is Match.POSSIBLE:
                possible = possible or container
    if possible is not None:
        return possible
    if failure is not None:
        raise failure
    described = describe_foreign(location.path, head)
    raise UnsupportedArchiveError(
        f"{location.path}: {described or _unknown(head)}",
    )


def _unknown(head: bytes) -> str:
    labels = [container.label for container in reversed(_CONTAINERS)]
    return (
        f"not an archive of a known format ({', '.join(labels)}); it begins with {head[:8]!r}. "
        f"Is it the right file, and whole?"
    )


def scan_location(location: Location, *, strict: bool = True) -> Scanned:
    """Scan the archive at a location, of whatever format it is.

    Raises
    ------
    UnsupportedArchiveError
        No format reads it.
    CorruptArchiveError
        It is damaged; with ``strict=False`` only if not even a part can be read.
    """
    container = find_container(location)
    damage = None
    try:
        rows, files = container.scan_location(location, True)
    except CorruptArchiveError as error:
        if strict:
            raise
        # Once more, for what can be read.
        damage = error.message
        rows, files = container.scan_location(location, False)
    entries = rows.entries[: rows.rows]
    ends = np.zeros(len(files), np.uint64)
    np.maximum.at(ends, entries["shard"], entries["offset"] + entries["stored_size"])
    return Scanned(container, rows, files, damage, ends.tolist())
