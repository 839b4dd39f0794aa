"""Read every member of an archive and compare it with what the archive says about it."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from imagearchive.codecs import DecodedView, NpzArrays
from imagearchive.errors import CorruptArchiveError, ImageArchiveError, UnsafePickleError
from imagearchive.index import IndexTable
from imagearchive.parallel import Chunks, in_threads
from imagearchive.paths import expand

if TYPE_CHECKING:
    from imagearchive.archive import Archive

__all__ = ["Failure", "Verified", "verify"]

CHUNK: Final = 64
WINDOW: Final = 8 << 20


class Failure(NamedTuple):
    """Something wrong with an archive."""

    position: int
    """Position of the member; -1 where the archive or its index as a whole is meant."""
    name: str
    reason: str


@dataclass
class Verified:
    """What `verify` found.

    Attributes
    ----------
    files : int
        Members that were read.
    bytes : int
        Their size.
    checked : int
        How many of them were compared with a checksum that the container holds.
    decoded : int
        How many of them were decoded.
    failures : list of Failure
        In archive order; empty for a good archive.
    """

    files: int = 0
    bytes: int = 0
    checked: int = 0
    decoded: int = 0
    failures: list[Failure] = field(default_factory=list)


def verify(
    archive: Archive,
    *,
    decode: bool = False,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Verified:
    """Check an archive from end to end.

    Every member is read. Its checksum is compared where the container has one: CRC-32 in a ZIP or
    NPZ, CRC-32C in a Barecat archive. All headers are scanned again and compared with the index,
    which checks those of a TAR, that have checksums of their own; its data have none.

    Parameters
    ----------
    archive : Archive
    decode : bool
        Also decode what has a known extension: images, arrays, JSON and so on. Pickles are not.
    threads : int, optional
        Up to four by default, as many as there are processors.
    progress : callable, optional
        Called with the number of members done since the last call, from any of the threads.

    Returns
    -------
    Verified
        What is wrong is listed there, and raises nothing.
    """
    result = Verified()
    run = _Run(archive, decode, result, progress, _headers(archive, result.failures))
    in_threads(run.work, len(archive), CHUNK, threads)
    result.failures.sort(key=lambda failure: failure.position)
    return result


def _headers(archive: Archive, failures: list[Failure]) -> list[str]:
    """Compare the index with its own checksums and with the archives; return their scanners."""
    table = archive.table
    scanners: list[str] = []
    start = 0
    try:
        table.check()
    except (ImageArchiveError, OSError) as error:
        failures.append(Failure(-1, table.path or "index", str(error)))
    for path in expand(archive.path):
        try:
            fresh = IndexTable.build(path)
        except CorruptArchiveError as error:
            failures.append(Failure(-1, path, str(error)))
            fresh = IndexTable.build(path, strict=False)
        scanners += [fresh.scanner] * len(fresh.files)
        ours = table.entries[start : start + len(fresh)]
        same = len(ours) == len(fresh) and all(
            np.array_equal(ours[name], fresh.entries[name])
            for name in ("offset", "size", "stored", "crc", "method", "kind")
        )
        low, high = (int(table.name_offsets[min(end, len(table))]) for end in _span(start, fresh))
        if not same or not np.array_equal(table.names[low:high], fresh.names):
            failures.append(
                Failure(
                    -1, path, "its index does not describe it; build it with 'index --overwrite'"
                )
            )
        start += len(fresh)
    if start != len(table):
        failures.append(Failure(-1, str(archive.path), f"{len(table)} members instead of {start}"))
    return scanners


def _span(start: int, table: IndexTable) -> tuple[int, int]:
    return start, start + len(table)


class _Run:
    """One verification, shared by its threads."""

    def __init__(
        self,
        archive: Archive,
        decode: bool,
        result: Verified,
        progress: Callable[[int], object] | None,
        scanners: list[str],
    ) -> None:
        self._archive = archive
        self._view = DecodedView(archive, mode="unchanged") if decode else None
        self._scanners = scanners
        self._result = result
        self._progress = progress
        self._lock = threading.Lock()
        self._checksums = {scanner: _checksum(scanner) for scanner in set(scanners)}

    def work(self, chunks: Chunks) -> None:
        """Verify ranges of positions."""
        for places in chunks:
            part = Verified()
            for position in places:
                chunks.check()
                name = self._archive.name(position)
                try:
                    self._member(position, name, part, chunks)
                except (ImageArchiveError, OSError, MemoryError) as error:
                    part.failures.append(Failure(position, name, str(error)))
                part.files += 1
            with self._lock:
                result = self._result
                result.files += part.files
                result.bytes += part.bytes
                result.checked += part.checked
                result.decoded += part.decoded
                result.failures += part.failures
            if self._progress is not None:
                self._progress(len(places))

    def _member(self, position: int, name: str, part: Verified, chunks: Chunks) -> None:
        archive = self._archive
        entry = archive.table.entries[position]
        size = int(entry["size"])
        expected = int(entry["crc"])
        scanner = self._scanners[int(entry["shard"])]
        checksum = self._checksums[scanner]
        whole = archive.read(position) if size <= WINDOW else None
        seed = 0
        for data in [whole] if whole is not None else self._windows(position, size):
            chunks.check()
            if checksum is not None:
                seed = checksum(data, seed)
        part.bytes += size
        # Barecat writes 0 where it computed none.
        if checksum is not None and (expected or scanner == "zip"):
            part.checked += 1
            if seed != expected:
                raise _MismatchError(
                    f"its checksum is {seed:08x} where the archive says {expected:08x}"
                )
        if self._view is not None and self._view.knows(name):
            try:
                value = self._view.decode(name, archive.read(position) if whole is None else whole)
                for key in value if isinstance(value, NpzArrays) else ():
                    value[key]
                part.decoded += 1
            except UnsafePickleError:
                # Not decoded, which is no fault of the archive.
                pass

    def _windows(self, position: int, size: int) -> Iterator[bytes | memoryview]:
        member = self._archive.member(position)
        for offset in range(0, size, WINDOW):
            yield member.read(offset, min(WINDOW, size - offset))


class _MismatchError(ImageArchiveError):
    """A checksum differs."""


def _checksum(scanner: str) -> Callable[[bytes | memoryview, int], int] | None:
    if scanner == "zip":
        return zlib.crc32
    if scanner == "barecat":
        from imagearchive._scan import barecat

        # Raises before any work where the package for it is missing.
        barecat.checksum(b"")
        import crc32c

        return lambda data, seed: int(crc32c.crc32c(data, seed))
    return None
