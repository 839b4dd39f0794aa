"""The container formats, and how the format of an archive is found from its content."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from imagearchive.containers.barecat import BarecatContainer
from imagearchive.containers.bins import BinsContainer
from imagearchive.containers.container import Container, Match
from imagearchive.containers.derived import (
    DECOMPRESS,
    HEAD_BYTES,
    DerivedFile,
    check_expansion,
    stream_format_named,
    stream_format_of,
)
from imagearchive.containers.directory import DirectoryContainer
from imagearchive.containers.foreign import describe_foreign
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
from imagearchive.errors.hints import Hint
from imagearchive.storage.checkpoints import CheckpointBuilder
from imagearchive.storage.compressed import CompressedStorage, CompressedStream
from imagearchive.storage.location import Location
from imagearchive.storage.progress import Progress
from imagearchive.storage.stream_format import (
    UNKNOWN_SIZE,
    DamagedRangeError,
    ForwardStorage,
    StreamFormat,
    plain_name,
)

if TYPE_CHECKING:
    from imagearchive.storage.protocol import Storage

__all__ = [
    "Scanned",
    "ScannedStream",
    "all_containers",
    "archive_stem",
    "container_named",
    "find_container",
    "find_member_container",
    "register_container",
    "resolve_location",
    "scan_location",
    "scan_stream",
    "unregister_container",
]

# A read in a compressed file decompresses this much at most.
MAX_SPAN: Final = 64 << 20

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
_SINGLE_FILE: Final = SingleFileContainer()


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


class ScannedStream(NamedTuple):
    """The result of scanning compressed data.

    Attributes
    ----------
    container : Container or None
        The format, if it can be scanned from start to end.
    rows : RowBuffer or None
        The members, if there is a container.
    damage : str or None
        The error that ended the data, if ``strict=False``.
    view : DerivedFile
        The decompressed view, whose checkpoints are the whole of `checkpoints`.
    checkpoints : bytes
    """

    container: Container | None
    rows: RowBuffer | None
    damage: str | None
    view: DerivedFile
    checkpoints: bytes


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
    for container in (*_CONTAINERS, _SINGLE_FILE):
        if container.name == name:
            return container
    return None


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
        f"Is it the right file, and complete?"
    )


def find_member_container(head: bytes) -> Container | None:
    """Return the format of a member that is itself an archive, by its first bytes, or None."""
    return next((one for one in _CONTAINERS if one.sniff_member(head)), None)


def archive_stem(name: str) -> str:
    """Return the name of an archive without its extensions: ``a/b`` of ``a/b.tar.gz``."""
    name = plain_name(name)
    stem, extension = os.path.splitext(name)
    known = any(extension.lower() in container.extensions for container in _CONTAINERS)
    return stem if known else name


def scan_location(
    location: Location, *, strict: bool = True, progress: Progress | None = None
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

    Raises
    ------
    UnsupportedArchiveError
        It has no known format.
    LimitError
        It is compressed as a whole, and decompresses to more than 1,000 times its size.
    CorruptArchiveError
        It is damaged; with ``strict=False`` only if no part of it can be read.
    """
    format = stream_format_of(location)
    if format is not None:
        return _scan_compressed(location, format, strict, progress)
    container = find_container(location)
    damage = None
    try:
        # A directory that cannot be listed raises OSError: the archive is not damaged.
        rows, files = container.scan_location(location, strict or not container.members_are_files)
    except CorruptArchiveError as error:
        if strict:
            raise
        # Scan again for the members that can be read.
        damage = error.message
        rows, files = container.scan_location(location, False)
    entries = rows.entries[: rows.rows]
    ends = np.zeros(len(files), np.uint64)
    np.maximum.at(ends, entries["shard"], entries["offset"] + entries["stored_size"])
    return Scanned(container, rows, files, damage, ends.tolist())


def _scan_compressed(
    location: Location, format: StreamFormat, strict: bool, progress: Progress | None
) -> Scanned:
    """Scan a compressed archive, and find its checkpoints in the same pass if its format allows."""
    path = location.path
    with closing(location.open("pread")) as file:

        def check_size(size: int) -> None:
            check_expansion(file, size, format)

        whole = DerivedFile(format.name, file.size, UNKNOWN_SIZE, (0, 0))
        found = scan_stream(whole, file, path, check_size, strict, progress)
        container, rows = found.container, found.rows
        if container is None or rows is None:
            storage = CompressedStorage(found.view.stream(file, path), found.checkpoints)
            container, rows = _scan_decompressed(storage, location, format, strict)
    return Scanned(
        container,
        rows,
        [location],
        found.damage,
        [found.view.stored_size],
        found.view,
        found.checkpoints,
    )


def scan_stream(
    view: DerivedFile,
    storage: Storage,
    where: str,
    check_size: Callable[[int], None],
    strict: bool,
    progress: Progress | None = None,
) -> ScannedStream:
    """Scan compressed data, and find its checkpoints in the same pass.

    Parameters
    ----------
    view : DerivedFile
        Where the data is, and how it is compressed. Its size may be `UNKNOWN_SIZE`.
    storage : Storage
        The file or archive that holds the data.
    where : str
        Its name in messages.
    check_size : callable
        Called with each new length of the output; raises an error if it is too long.
    strict : bool
        Whether damage is an error.
    progress : callable, optional
        As for `scan_location`.

    Raises
    ------
    UnsupportedArchiveError
        It is in one piece, so that nothing in it can be read at random.
    CorruptArchiveError
        It is damaged.
    """
    builder = CheckpointBuilder(view.stored_size)
    stream = view.stream(storage, where)
    _check_span(stream, stream.span, where, view)
    decoder = stream.start(builder)

    def report(size: int) -> None:
        check_size(size)
        if progress is not None:
            progress(decoder.source, view.stored_size)

    forward = ForwardStorage(decoder, where, strict, report)
    container, rows = _scan_forward(forward, strict)
    forward.drain()
    if strict and forward.damage is not None:
        raise _name_members(forward.damage, rows)
    # What a ZIP says of the size of a member identifies its checkpoints, even if it is damaged.
    size = forward.size if view.size == UNKNOWN_SIZE else view.size
    span, view = builder.span(forward.size), dataclasses.replace(view, size=size)
    _check_span(view.stream(storage, where), span, where, view)
    checkpoints = builder.finish(view.stream(storage, where))
    view = dataclasses.replace(view, checkpoints=(0, len(checkpoints)))
    damage = None if forward.damage is None else forward.damage.message
    return ScannedStream(container, rows, damage, view, checkpoints)


def _check_span(stream: CompressedStream, span: int, where: str, view: DerivedFile) -> None:
    """Refuse data of which each read would decompress too much."""
    format = stream_format_named(view.format)
    if span <= MAX_SPAN or format is None:
        return
    one_piece = (
        f"{where}: {format.label} data in one piece, so reading a member would decompress all that "
        f"comes before it"
    )
    if view.parent is not None:
        raise UnsupportedArchiveError(f"{one_piece}; extract it from its archive first")
    size = stream.size if stream.size != UNKNOWN_SIZE else stream.known_size
    takes = "" if size is None else f" It takes {size} bytes when decompressed."
    name = os.path.basename(where)
    raise UnsupportedArchiveError(
        f"{one_piece}.{takes} Convert it with 'imagearchive convert {name} {plain_name(name)}'",
        hints=[DECOMPRESS],
    )


def _scan_forward(
    forward: ForwardStorage, strict: bool
) -> tuple[Container, RowBuffer] | tuple[None, None]:
    """Scan an archive while it is decompressed, if it has a format that allows that."""
    head = forward.read(0, HEAD_BYTES)
    for container in _CONTAINERS:
        if container.scans_forward and container.sniff(head, forward):
            try:
                return container, container.scan(forward, strict)
            except CorruptArchiveError as error:
                # The cause of an end that comes too early.
                raise forward.damage or error from None
    return None, None


def _scan_decompressed(
    storage: CompressedStorage, location: Location, format: StreamFormat, strict: bool
) -> tuple[Container, RowBuffer]:
    """Scan an archive, or a single array, whose checkpoints are known."""
    head = bytes(storage.read(0, min(HEAD_BYTES, storage.size)))
    for container in _CONTAINERS:
        if container.sniff(head, storage) is Match.CERTAIN:
            return container, container.scan(storage, strict)
    if not SingleFileContainer.accepts(head):
        raise UnsupportedArchiveError(
            f"{location.path}: {format.label} data, but neither an archive nor an array is in it; "
            f"it begins with {head[:8]!r}"
        )
    rows = RowBuffer(1)
    rows.append(os.fsencode(plain_name(location.name)), size=storage.size, stored_size=storage.size)
    return _SINGLE_FILE, rows


def _name_members(error: CorruptArchiveError, rows: RowBuffer | None) -> CorruptArchiveError:
    """Return the error for a checksum that does not match, with the members that it covers."""
    if rows is None or not rows.rows or not isinstance(error, DamagedRangeError):
        return error
    entries = rows.entries[: rows.rows]
    starts, ends = entries["offset"], entries["offset"] + entries["stored_size"]
    covered = np.flatnonzero((ends > error.start) & (starts < error.stop))
    if not len(covered):
        return error
    first, last = (os.fsdecode(rows.name(int(row))) for row in (covered[0], covered[-1]))
    return CorruptArchiveError(
        f"{error.message}. Any of the {len(covered)} members from {first!r} to {last!r} may be "
        f"damaged",
        hints=[Hint("strict=False", "to read them anyway")],
    )
