"""The container formats, and how the format of an archive is found from its content."""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from imagearchive.containers.barecat import BarecatContainer
from imagearchive.containers.bins import BinsContainer
from imagearchive.containers.container import Container, Match
from imagearchive.containers.derived import (
    HEAD_BYTES,
    DerivedFile,
    find_stream_format,
)
from imagearchive.containers.directory import DirectoryContainer
from imagearchive.containers.rows import RowBuffer
from imagearchive.containers.single_file import SingleFileContainer
from imagearchive.containers.tar.tar_container import TarContainer
from imagearchive.containers.zip.zip_container import ZipContainer
from imagearchive.errors import (
    CorruptArchiveError,
    ImageArchiveError,
    OptionError,
    UnsupportedArchiveError,
)
from imagearchive.storage.location import Location

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imagearchive.containers.compressed_scan import Look
    from imagearchive.storage.location import Status
    from imagearchive.storage.progress import Progress
    from imagearchive.storage.protocol import FileStorage

__all__ = [
    "Scanned",
    "all_containers",
    "archive_stem",
    "container_named",
    "find_container",
    "find_member_container",
    "register_container",
    "resolve_location",
    "scan_location",
    "unregister_container",
]

# Formats are asked in this order; of two that are equally certain, the first wins. TAR is before
# ZIP, because the last member of a TAR may be a ZIP. A directory that is not another format is a
# directory of files.
_CONTAINERS: Final[list[Container]] = [
    BinsContainer(),
    BarecatContainer(),
    DirectoryContainer(),
    TarContainer(),
    ZipContainer(),
]


class Scanned(NamedTuple):
    """The result of a scan.

    Attributes
    ----------
    container : Container
        The format of the archive.
    rows : RowBuffer
    files : list of Location
        The files that contain the bytes, in the order of ``rows.entries["shard"]``.
    damage : str or None
        The error that ended the scan, if ``strict=False``.
    ends : list of int
        For each file, where its last member ends, including directories and links.
    derived : DerivedFile or None
        The decompressed view of the file, to which the rows refer, if it is compressed.
    checkpoints : bytes
        Those of `derived`.
    """

    container: Container
    rows: RowBuffer
    files: list[Location]
    damage: str | None
    ends: list[int]
    derived: DerivedFile | None = None
    checkpoints: bytes = b""


def all_containers() -> list[Container]:
    """Return all container formats, in the order in which they are asked."""
    return list(_CONTAINERS)


def register_container(container: Container) -> None:
    """Add a container format, which is asked before the others.

    Processes that are started by ``spawn`` have to register it again.

    Raises
    ------
    OptionError
        There is already a format of that name.
    """
    if container_named(container.name) is not None:
        raise OptionError(f"there is already a container format named {container.name!r}")
    _CONTAINERS.insert(0, container)


def unregister_container(name: str) -> None:
    """Remove a container format; does nothing if there is none of that name."""
    _CONTAINERS[:] = [container for container in _CONTAINERS if container.name != name]


def container_named(name: object) -> Container | None:
    """Return the container format with a name, or None."""
    for container in _CONTAINERS:
        if container.name == name:
            return container
    # Found only inside a compressed file.
    return SingleFileContainer() if name == SingleFileContainer.name else None


def resolve_location(location: Location) -> Location:
    """Return the location to open for the one that the user names.

    Archives of some formats have a name that is not the name of any file.
    """
    if not location.exists():
        for container in _CONTAINERS:
            resolved = container.resolve(location)
            if resolved is not None:
                return resolved
    return location


def find_container(location: Location) -> Container:
    """Return the format of the archive at a location.

    An error of one format is raised only after all formats have been asked.

    Raises
    ------
    UnsupportedArchiveError
        It has no known format.
    OSError
        The location does not exist, or cannot be read.
    """
    with _first_bytes(location) as start:
        return _find(location, start)[0]


class _Start(NamedTuple):
    """What a file begins with, and the file; nothing of a location that is not a file."""

    status: Status
    head: bytes
    storage: FileStorage | None


@contextmanager
def _first_bytes(location: Location) -> Iterator[_Start]:
    """Open a location for the block, once for all formats: on a network, each opening is a request.

    Opening a pipe would wait for its writer.
    """
    status = location.status()
    if not status.is_file:
        yield _Start(status, b"", None)
        return
    with closing(location.open("pread")) as storage:
        yield _Start(status, bytes(storage.read(0, min(HEAD_BYTES, storage.size))), storage)


def _find(location: Location, start: _Start) -> tuple[Container, FileStorage | None]:
    """Return the format of an archive, and the storage to scan if it is a single file."""
    failure: Exception | None = None
    for container in _CONTAINERS:
        try:
            if container.sniff_location(location, start.status, start.head):
                return container, None
        except (OSError, ImageArchiveError) as error:
            failure = failure or error
    head, storage = start.head, start.storage
    if storage is None:
        # Raises the error of what is not a file.
        location.open("pread").close()
        raise failure or UnsupportedArchiveError(f"{location.path}: {_unknown(head)}")
    possible: Container | None = None
    for container in _CONTAINERS:
        try:
            match = container.sniff(head, storage)
        except (OSError, ImageArchiveError) as error:
            failure = failure or error
            continue
        if match is Match.CERTAIN:
            return container, storage
        if match is Match.POSSIBLE:
            possible = possible or container
    if possible is not None:
        return possible, storage
    if failure is not None:
        raise failure
    from imagearchive.containers.foreign import describe_foreign

    described = describe_foreign(location.path, head)
    raise UnsupportedArchiveError(
        f"{location.path}: {described or _unknown(head)}",
    )


def _unknown(head: bytes) -> str:
    labels = [container.label for container in reversed(_CONTAINERS)]
    return (
        f"not an archive of a known format ({', '.join(labels)}); it begins with {head[:8]!r}. "
        f"Is it the right file, and complete?"
    )


def find_member_container(head: bytes) -> Container | None:
    """Return the format of a member that is itself an archive, by its first bytes, or None."""
    return next((one for one in _CONTAINERS if one.sniff_member(head)), None)


def archive_stem(name: str) -> str:
    """Return the name of an archive without its extensions: ``a/b`` of ``a/b.tar.gz``."""
    from imagearchive.storage.stream_format import plain_name

    name = plain_name(name)
    stem, extension = os.path.splitext(name)
    known = any(extension.lower() in container.extensions for container in _CONTAINERS)
    return stem if known else name


def scan_location(
    location: Location,
    *,
    strict: bool = True,
    progress: Progress | None = None,
    look: Look | None = None,
) -> Scanned:
    """Scan the archive at a location, of any format.

    Parameters
    ----------
    location : Location
    strict : bool
        Whether damage is an error.
    progress : callable, optional
        Called while a compressed archive is decompressed, with the bytes that are done and all of
        them; it may raise an error to stop that.
    look : callable, optional
        What to do with the members of a compressed archive while it is decompressed.

    Raises
    ------
    UnsupportedArchiveError
        It has no known format.
    LimitError
        It is compressed as a whole, and decompresses to more than 1,000 times its size.
    CorruptArchiveError
        It is damaged; with ``strict=False`` only if no part of it can be read.
    """
    with _first_bytes(location) as start:
        format = find_stream_format(start.head)
        if format is None:
            container, storage = _find(location, start)
            rows, files, damage = _scan(container, location, storage, strict)
    if format is not None:
        from imagearchive.containers.compressed_scan import scan_compressed

        container, rows, found = scan_compressed(
            location, format, _CONTAINERS, strict, progress, look
        )
        stop, view = found.view.stored_size, found.view
        return Scanned(container, rows, [location], found.damage, [stop], view, found.checkpoints)
    packed = rows.packed_entries() if len(files) == 1 else None
    if packed is not None:
        return Scanned(container, rows, files, damage, [packed.end])
    entries = rows.entries[: rows.rows]
    ends = np.zeros(len(files), np.uint64)
    if len(files) > 1:
        np.maximum.at(ends, entries["shard"], entries["offset"] + entries["stored_size"])
    elif len(entries):
        ends[0] = (entries["offset"] + entries["stored_size"]).max()
    return Scanned(container, rows, files, damage, ends.tolist())


def _scan(
    container: Container, location: Location, storage: FileStorage | None, strict: bool
) -> tuple[RowBuffer, list[Location], str | None]:
    """Return the rows and files of an archive, and its damage if the rest could be read."""

    def scan(strict: bool) -> tuple[RowBuffer, list[Location]]:
        if storage is None:
            return container.scan_location(location, strict)
        return container.scan(storage, strict), [location]

    try:
        # A directory that cannot be listed raises OSError: the archive is not damaged.
        return *scan(strict or not container.members_are_files), None
    except CorruptArchiveError as error:
        if strict:
            raise
        # Scan again for the members that can be read.
        return *scan(False), error.message
