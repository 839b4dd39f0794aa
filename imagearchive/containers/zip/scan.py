"""ZIP: the central directory and the local headers in, rows of the index table out.

The central directory says which members there are; where the data of one start only its local
header knows, since names and extra fields differ in length between the two (``np.savez`` writes
a ZIP64 field of 20 bytes into the local header alone).

Nothing that a header claims is believed before it is checked against the file: members are in
front of the central directory and do not overlap (an archive whose members overlap is how a few
kilobytes unpack to terabytes). A member whose local header has another name, method or size is
listed, but not read: which of the two is right cannot be known.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.containers.left_out import DAMAGED
from imagearchive.containers.rows import (
    KIND_DIRECTORY,
    KIND_ENCRYPTED,
    KIND_FILE,
    KIND_SYMLINK,
    RowBuffer,
)
from imagearchive.containers.zip import records as zip_records
from imagearchive.containers.zip.end_record import End, find_ends
from imagearchive.containers.zip.markers import (
    BEGINNINGS,
    CONTRADICTIONS,
    METHOD_OTHER_DISK,
)
from imagearchive.containers.zip.records import Code
from imagearchive.errors import CorruptArchiveError
from imagearchive.errors.hints import Hint
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.protocol import RangesStorage

if TYPE_CHECKING:
    from imagearchive.containers.container import Visit
    from imagearchive.storage.protocol import Storage

__all__ = ["scan", "sniff"]

logger = logging.getLogger(__name__)

# More candidates for the end record than this are deliberate, and each may cost a whole scan.
_MAX_ENDS: Final = 8
# Longest target of a symbolic link: Linux's longest path, many times over.
_MAX_LINK: Final = 1 << 16
# A record takes at most 46 + 3 * 65535 bytes, so every window holds one.
_WINDOW: Final = 1 << 20
# For storages without a descriptor or a mapping: one request brings many small members.
_LOCAL_WINDOW: Final = 1 << 17
# Members of so many bytes on average are large: their headers are requested one by one, each with
# so many bytes, which nearly always hold one.
_LARGE: Final = 2 << 20
_HEADER: Final = 4 << 10
_LOCAL: Final = struct.Struct("<4s5H3L2H")


def sniff(storage: Storage) -> bool:
    """Whether the file starts as a ZIP archive does, or ends as one (behind a prefix)."""
    head = bytes(storage.read(0, min(4, storage.size)))
    if head in BEGINNINGS:
        return True
    # Behind its end, only an archive that is not empty is taken for one.
    return any(end.exact or end.entries for end in find_ends(storage))


def scan(storage: Storage, strict: bool = True, visit: Visit | None = None) -> RowBuffer:
    """Read the table of all members, in the order of the central directory.

    Parameters
    ----------
    storage : Storage
        The archive. With a file descriptor or a mapping, all headers are read without the GIL.
    strict : bool
        Raise at the first damage. Otherwise serve the members that are intact and log the rest.
    visit : callable, optional
        See `imagearchive.containers.container.Container.scan_and_visit`. It may see members that
        are found to be damaged later.

    Returns
    -------
    RowBuffer
        ``crc`` is the CRC-32, ``method`` the number of the compression (0 stored, 8 deflated).
        Names are UTF-8 where the archive says so and converted from code page 437 elsewhere.
        ``mtime`` comes from the extended timestamp where there is one; the MS-DOS time has no
        zone and is taken as UTC. A symbolic link's target, its content, is its link name.
        Encrypted members have their own kind, and those on another disk `METHOD_OTHER_DISK`,
        those whose local header contradicts it `METHOD_OTHER_NAME` or `METHOD_CONTRADICTED`.

    Raises
    ------
    CorruptArchiveError
        There is no end record, a count, size or offset contradicts the file, or members overlap.
    UnsupportedArchiveError
        The central directory is in another file of a multi-disk archive.
    """
    failure: CorruptArchiveError | None = None
    for end in find_ends(storage)[:_MAX_ENDS]:
        result = _attempt(storage, end, strict, visit)
        if isinstance(result, RowBuffer):
            return result
        failure = failure or result
    if failure is not None:
        raise failure
    rows = RowBuffer() if strict else salvage(storage)
    if rows.rows:
        if visit is not None:
            visit(rows, 0, rows.rows)
        return rows
    raise CorruptArchiveError(
        f"{storage.path}: the file of {pluralize(storage.size, 'byte')} does not end as a ZIP "
        "archive does: it is truncated, or not a ZIP archive. Fetch the archive again",
        hints=[Hint("strict=False", "to read the members that are complete")] if strict else (),
    )


def _attempt(
    storage: Storage, end: End, strict: bool, visit: Visit | None
) -> RowBuffer | CorruptArchiveError:
    try:
        return _Scan(storage, end, strict, visit).run()
    except CorruptArchiveError as error:
        # Its traceback would hold all rows of the attempt.
        return error.with_traceback(None)


class _Scan:
    """One scan: the rows under construction and the damage on the way."""

    def __init__(self, storage: Storage, end: End, strict: bool, visit: Visit | None) -> None:
        self.storage = storage
        self.end = end
        self.strict = strict
        self.visit = visit
        self.rows = RowBuffer()
        self.digests: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self.lengths: npt.NDArray[np.uint16] = np.empty(0, np.uint16)
        self.lost = 0
        self.example = ""

    def run(self) -> RowBuffer:
        self.read_directory()
        self.reserve(1, 1)
        bad = self.read_locals()
        bad += self.overlapping(bad)
        links = self.read_links(bad)
        rows = _finished(self.rows, bad, links)
        if self.lost:
            # The archive warns of what is left out.
            logger.info(
                "%s: %s damaged and left out; the first: %s",
                self.storage.path,
                pluralize(self.lost, "member is", "members are"),
                self.example,
            )
        return rows

    def damaged(self, what: str, offset: int, reason: str) -> None:
        """Raise, or count the loss where the caller wants what is left."""
        message = f"{self.storage.path}: {what} at offset {offset}: {reason}; the file is damaged"
        if self.strict:
            raise CorruptArchiveError(message)
        self.lost += 1
        self.example = self.example or message

    def damaged_row(self, row: int, reason: str) -> int:
        name = self.rows.name(row).decode("utf-8", "replace")
        self.damaged(f"member {name!r}", int(self.rows.entries["header_offset"][row]), reason)
        self.rows.left_out.add(self.rows.name(row), DAMAGED)
        return row

    def reserve(self, rows: int, name_bytes: int) -> None:
        self.rows.reserve(rows, name_bytes)
        capacity = len(self.rows.entries)
        if len(self.digests) < capacity:
            self.digests = np.resize(self.digests, capacity)
            self.lengths = np.resize(self.lengths, capacity)

    def read_directory(self) -> None:
        """Append a row for each record of the central directory."""
        end = self.end
        position = end.start
        while position < end.stop:
            data = self.storage.read(position, min(_WINDOW, end.stop - position))
            self.reserve(len(data) // 46 + 1, 3 * len(data) + 1)
            at, code, length = zip_records.central_records(
                data, self.rows, self.digests, self.lengths, end.shift, end.disk
            )
            position += at
            if code == Code.FINE or (code == Code.CUT and at and len(data) == _WINDOW):
                continue
            if code == Code.BAD_SIGNATURE and bytes(data[at : at + 4]) == b"PK\x05\x05":
                break  # a digital signature closes the directory
            number = self.rows.rows + self.lost
            reason = zip_records.REASONS[code]
            self.damaged(f"record {number} of the central directory", position, reason)
            self.rows.left_out.add_count(DAMAGED, 1)
            if not length:
                break
            position += length
        count = self.rows.rows + self.lost
        # Writers that go beyond 65,535 members without ZIP64 leave the low bits of their number.
        if (count if end.zip64 else count & 0xFFFF) != end.entries:
            self.damaged(
                "end record",
                end.position,
                f"it counts {pluralize(end.entries, 'member')}, not {count}",
            )

    def read_locals(self) -> list[int]:
        """Find where the data start; return the rows whose local header is wrong."""
        storage, columns = self.storage, (self.rows, self.digests, self.lengths)
        limit = self.end.start
        descriptor = storage.fileno() if hasattr(storage, "fileno") else -1
        window: bytes | memoryview = b""
        start = 0
        bad = []
        row = 0
        if descriptor < 0 and storage.zero_copy:
            window = storage.read(0, limit)
        size = self.request_headers(limit)
        while row < self.rows.rows:
            first = row
            if descriptor >= 0:
                row, code, error = zip_records.local_headers_of_file(
                    descriptor, *columns, row, limit
                )
                if code == Code.SYSTEM_ERROR:
                    raise OSError(error, os.strerror(error), storage.path)
            else:
                row, code = zip_records.local_headers(window, start, *columns, row, limit)
            if self.visit is not None and row > first:
                self.visit(self.rows, first, row)
            if code == Code.CUT:
                before, start = start, int(self.rows.entries["header_offset"][row])
                cut_again = start == before and len(window) > 0
                wanted = _LOCAL_WINDOW if cut_again else size
                window = storage.read(start, min(wanted, limit - start))
            elif code not in {Code.FINE, Code.PAUSE}:
                bad.append(self.damaged_row(row, zip_records.REASONS[code]))
                row += 1
        return bad + self.contradicted()

    def request_headers(self, limit: int) -> int:
        """Request the headers of large members, all at once; return how many bytes to read of each.

        Of small ones, those between the headers are read as well, in order.
        """
        storage, count = self.storage, self.rows.rows
        if not isinstance(storage, RangesStorage) or not count or limit < count * _LARGE:
            return _LOCAL_WINDOW
        offsets = self.rows.entries["header_offset"][:count].tolist()
        storage.prefetch_ranges((at, min(_HEADER, limit - at)) for at in offsets if at < limit)
        return _HEADER

    def contradicted(self) -> list[int]:
        """Return the members whose two headers differ, unless all members are wanted."""
        if self.strict:
            return []
        methods = self.rows.entries["method"][: self.rows.rows]
        rows: list[int] = np.flatnonzero(np.isin(methods, list(CONTRADICTIONS))).tolist()
        return [self.damaged_row(row, CONTRADICTIONS[int(methods[row])]) for row in rows]

    def overlapping(self, bad: list[int]) -> list[int]:
        """Return the rows that start before the end of an earlier one."""
        entries = self.rows.entries[: self.rows.rows]
        here = entries["method"] != METHOD_OTHER_DISK
        here[bad] = False
        rows = np.flatnonzero(here)
        starts = entries["header_offset"][rows]
        if np.any(starts[1:] < starts[:-1]):
            rows = rows[np.argsort(starts, kind="stable")]
            starts = entries["header_offset"][rows]
        ends = np.maximum.accumulate(entries["offset"][rows] + entries["stored_size"][rows])
        return [
            self.damaged_row(int(row), "it overlaps another member")
            for row in rows[1:][starts[1:] < ends[:-1]]
        ]

    def read_links(self, bad: list[int]) -> dict[int, bytes]:
        """Read the targets of the symbolic links; add those that cannot be read to `bad`."""
        entries = self.rows.entries[: self.rows.rows]
        lost = set(bad)
        links = {}
        for row in np.flatnonzero(entries["kind"] == KIND_SYMLINK).tolist():
            if row in lost:
                continue
            if entries["method"][row] not in {0, 8}:
                # Its target is out of reach; as a file it raises a clear error when it is read.
                entries["kind"][row] = KIND_FILE
                continue
            target = self.target(entries[row])
            if target is None:
                bad.append(self.damaged_row(row, "its link target is damaged or too long"))
            else:
                links[row] = target
        return links

    def target(self, entry: Any) -> bytes | None:
        size, stored = int(entry["size"]), int(entry["stored_size"])
        if max(size, stored) > _MAX_LINK:
            return None
        data = bytes(self.storage.read(int(entry["offset"]), stored))
        if entry["method"] == 8:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
            except zlib.error:
                return None
        return data if len(data) == size and zlib.crc32(data) == entry["crc"] else None


def salvage(storage: Storage) -> RowBuffer:
    """Find the members of a truncated archive by following its local headers.

    It stops at the first header that does not say how long its data are, and at the end of the
    file. Modes are unknown, so symbolic links are served as files.
    """
    rows = RowBuffer()
    position = 0
    while position + _LOCAL.size <= storage.size:
        fields = _LOCAL.unpack(storage.read(position, _LOCAL.size))
        magic, _, flags, method, time, date, crc, stored, size, name_size, extra_size = fields
        offset = position + _LOCAL.size + name_size + extra_size
        if magic != b"PK\x03\x04" or flags & 8 or offset > storage.size:
            break
        text = bytes(storage.read(position + _LOCAL.size, name_size + extra_size))
        name, extra = text[:name_size], text[name_size:]
        if stored == 0xFFFFFFFF:
            size, stored = _zip64_sizes(extra) or (size, stored)
        # As in the central directory. An encrypted member has a header of its own.
        if stored > storage.size - offset or (
            not flags & 1
            and ((method == 0 and size != stored) or (method == 8 and size // 1032 > stored))
        ):
            break
        kind = KIND_DIRECTORY if name.endswith(b"/") else KIND_FILE
        rows.append(
            name if flags & 0x800 else name.decode("cp437").encode(),
            offset=offset,
            size=size,
            stored_size=stored,
            header_offset=position,
            mtime=zip_records.dos_time(date, time),
            crc=crc,
            method=method,
            kind=KIND_ENCRYPTED if flags & 1 and kind == KIND_FILE else kind,
        )
        position = offset + stored
    logger.warning(
        "%s: no central directory: the file is truncated; %s found by their own headers",
        storage.path,
        pluralize(rows.rows, "member"),
    )
    return rows


def _finished(rows: RowBuffer, bad: list[int], links: dict[int, bytes]) -> RowBuffer:
    """Leave out the bad rows and put the link targets behind the names."""
    if not bad and not links:
        return rows
    count = rows.rows
    keep = np.ones(count, bool)
    keep[bad] = False
    # Here links are still empty, so the ends of the names are those of the rows.
    lengths = np.diff(rows.name_ends[:count], prepend=np.uint64(0))
    names = rows.names[: rows.name_bytes][np.repeat(keep, lengths.astype(np.int64))]
    link_lengths = np.zeros(count, np.uint64)
    for row, target in links.items():
        link_lengths[row] = len(target)
    lengths, link_lengths = lengths[keep], link_lengths[keep]
    result = RowBuffer(max(1, len(lengths)))
    result.left_out = rows.left_out
    result.rows = len(lengths)
    result.entries[: result.rows] = rows.entries[:count][keep]
    result.entries["index"][: result.rows] = np.arange(result.rows)
    result.link_ends[: result.rows] = np.cumsum(lengths + link_lengths)
    result.name_ends[: result.rows] = result.link_ends[: result.rows] - link_lengths
    total = int(lengths.sum() + link_lengths.sum())
    result.names = np.empty(total, np.uint8)
    result.name_bytes = total
    is_name = np.ones(total, bool)
    new_rows = np.cumsum(keep) - 1
    for row, target in links.items():
        start = int(result.name_ends[new_rows[row]])
        result.names[start : start + len(target)] = np.frombuffer(target, np.uint8)
        is_name[start : start + len(target)] = False
    result.names[is_name] = names
    return result


def _zip64_sizes(extra: bytes) -> tuple[int, int] | None:
    """Return both sizes from the extra fields of a local header, which come in any order."""
    start = 0
    while start + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, start)
        if kind == 1 and length >= 16 and start + 20 <= len(extra):
            size, stored = struct.unpack_from("<2Q", extra, start + 4)
            return size, stored
        start += 4 + length
    return None
