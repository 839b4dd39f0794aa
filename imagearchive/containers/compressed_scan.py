"""Scans archives that are compressed as a whole, while they are decompressed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from imagearchive.containers.container import Container, Match, Visit
from imagearchive.containers.derived import (
    DECOMPRESS,
    HEAD_BYTES,
    DerivedFile,
    check_expansion,
    stream_format_named,
)
from imagearchive.containers.rows import RowBuffer
from imagearchive.containers.single_file import SingleFileContainer
from imagearchive.errors import CorruptArchiveError, UnsupportedArchiveError
from imagearchive.errors.hints import Hint, shell_command
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.checkpoints import CheckpointBuilder
from imagearchive.storage.compressed import CompressedStorage, CompressedStream
from imagearchive.storage.location import Location
from imagearchive.storage.progress import Progress
from imagearchive.storage.protocol import UNKNOWN_SIZE
from imagearchive.storage.stream_format import (
    DamagedRangeError,
    ForwardStorage,
    StreamFormat,
    plain_name,
)

if TYPE_CHECKING:
    from imagearchive.storage.protocol import Storage

__all__ = ["Look", "ScannedStream", "scan_compressed", "scan_members", "scan_stream"]

# A read in a compressed file decompresses this much at most.
MAX_SPAN: Final = 64 << 20

#: Called with an archive before it is scanned while it is decompressed, and with the output. It may
#: return a function to visit its members, see `Container.scan_and_visit`.
Look = Callable[[Container, "Storage"], Visit | None]


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


def scan_compressed(
    location: Location,
    format: StreamFormat,
    containers: Sequence[Container],
    strict: bool,
    progress: Progress | None,
    look: Look | None = None,
) -> tuple[Container, RowBuffer, ScannedStream]:
    """Scan a compressed archive, and find its checkpoints in the same pass if its format allows.

    `containers` are the formats that the archive may have, in the order in which they are asked.
    The other parameters and the errors are those of `imagearchive.containers.registry`.
    """
    path = location.path
    with closing(location.open("pread")) as file:

        def check_size(size: int) -> None:
            check_expansion(file, size, format)

        whole = DerivedFile(format.name, file.size, UNKNOWN_SIZE, (0, 0))
        found = scan_stream(whole, file, path, containers, check_size, strict, progress, look)
        if found.container is not None and found.rows is not None:
            return found.container, found.rows, found
        storage = CompressedStorage(found.view.stream(file, path), found.checkpoints)
        return *_scan_decompressed(storage, location, format, containers, strict, look), found


def scan_stream(
    view: DerivedFile,
    storage: Storage,
    where: str,
    containers: Sequence[Container],
    check_size: Callable[[int], None],
    strict: bool,
    progress: Progress | None = None,
    look: Look | None = None,
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
    containers : sequence of Container
        The formats that it may have, in the order in which they are asked.
    check_size : callable
        Called with each new length of the output; raises an error if it is too long.
    strict : bool
        Whether damage is an error.
    progress : callable, optional
        Called with the bytes that are done and all of them; it may raise an error to stop.
    look : callable, optional
        What to do with its members in the same pass.

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
    try:
        container, rows = _scan_forward(forward, containers, strict, look)
        forward.drain()
    except CorruptArchiveError as error:
        # The error of the compressed data; that of the archive in it has advice already.
        if strict and not error.hints:
            error.hints = (Hint("strict=False", "to read the members before the damage"),)
        raise
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


def scan_members(
    container: Container, storage: Storage, strict: bool, look: Look | None
) -> RowBuffer:
    """Scan an archive, and visit its members if `look` wants that."""
    visit = None if look is None else look(container, storage)
    if visit is None:
        return container.scan(storage, strict)
    return container.scan_and_visit(storage, strict, visit)


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
    takes = "" if size is None else f" It takes {pluralize(size, 'byte')} when decompressed."
    convert = shell_command("imagearchive convert", where, plain_name(where))
    raise UnsupportedArchiveError(
        f"{one_piece}.{takes} Convert it first: {convert}",
        hints=[DECOMPRESS],
    )


def _scan_forward(
    forward: ForwardStorage, containers: Sequence[Container], strict: bool, look: Look | None
) -> tuple[Container, RowBuffer] | tuple[None, None]:
    """Scan an archive while it is decompressed, if it has a format that allows that."""
    head = forward.read(0, HEAD_BYTES)
    for container in containers:
        if container.scans_forward and container.sniff(head, forward):
            try:
                return container, scan_members(container, forward, strict, look)
            except CorruptArchiveError as error:
                # The cause of an end that comes too early.
                raise forward.damage or error from None
    return None, None


def _scan_decompressed(
    storage: CompressedStorage,
    location: Location,
    format: StreamFormat,
    containers: Sequence[Container],
    strict: bool,
    look: Look | None,
) -> tuple[Container, RowBuffer]:
    """Scan an archive, or a single array, whose checkpoints are known."""
    head = bytes(storage.read(0, min(HEAD_BYTES, storage.size)))
    for container in containers:
        if container.sniff(head, storage) is Match.CERTAIN:
            return container, scan_members(container, storage, strict, look)
    if not SingleFileContainer.accepts(head):
        raise UnsupportedArchiveError(
            f"{location.path}: {format.label} data, but neither an archive nor an array is in it; "
            f"it begins with {head[:8]!r}"
        )
    rows = RowBuffer(1)
    rows.append(os.fsencode(plain_name(location.name)), size=storage.size, stored_size=storage.size)
    return SingleFileContainer(), rows


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
        f"{error.message}. The damage is somewhere in the {pluralize(len(covered), 'member')} from "
        f"{first!r} to {last!r}",
        hints=[Hint("strict=False", "to read them anyway")],
    )
