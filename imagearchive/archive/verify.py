"""Read every member of an archive, and compare it with its checksum and the index."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.archive.archive import Archive, check_archive
from imagearchive.archive.checked_read import CHUNK_SIZE, iter_data
from imagearchive.archive.expansion import find_repeats
from imagearchive.archive.threads import Chunks, run_in_threads
from imagearchive.codecs.npz_arrays import NpzArrays
from imagearchive.codecs.view import DecodedView
from imagearchive.containers.left_out import LeftOut
from imagearchive.errors import (
    CorruptArchiveError,
    ImageArchiveError,
    StaleIndexError,
    UnsafePickleError,
)
from imagearchive.errors.hints import Hint, with_hints
from imagearchive.errors.os_errors import OUT_OF_RESOURCES, os_errors_for
from imagearchive.errors.plurals import pluralize
from imagearchive.images.decode import find_damage
from imagearchive.index.freshness import REBUILD
from imagearchive.index.name_order import sort_names
from imagearchive.index.nesting import Nested, Nesting
from imagearchive.index.table import IndexTable
from imagearchive.storage.changes import changes_first
from imagearchive.storage.checksums import CHECKSUMS
from imagearchive.storage.executors import AnyExecutor, Outcome, open_executor, run_tasks
from imagearchive.storage.limits import Limits, check_limits

__all__ = ["Failure", "Verified", "verify"]

CHUNK: Final = 64
# The fields of the rows of an index that are compared with the headers.
COMPARED: Final = ("offset", "size", "stored_size", "crc", "method", "kind")


class Failure(NamedTuple):
    """A problem found in an archive.

    Attributes
    ----------
    position : int
        Position of the member; -1 for the archive or its index as a whole.
    name : str
        The member, archive or index file.
    message : str
        What is wrong with it.
    hints : tuple of Hint
        Which arguments help.
    """

    position: int
    name: str
    message: str
    hints: tuple[Hint, ...] = ()

    @property
    def reason(self) -> str:
        """The message and the hints."""
        return with_hints(self.message, self.hints)


@dataclass
class Verified:
    """What `verify` found.

    Attributes
    ----------
    files : int
        Members that were read.
    bytes : int
        Their total size.
    checked : int
        How many of them were compared with a checksum.
    decoded : int
        How many of them were decoded.
    failures : list of Failure
        In archive order; empty for a good archive.
    left_out : LeftOut
        What the archive holds that is not a member, or cannot be read; see `Archive.left_out`.
    """

    files: int = 0
    bytes: int = 0
    checked: int = 0
    decoded: int = 0
    failures: list[Failure] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)


def verify(
    archive: Archive,
    *,
    decode: bool = False,
    limits: Limits | None = None,
    threads: int | None = None,
    executor: AnyExecutor | None = None,
    progress: Callable[[int], object] | None = None,
) -> Verified:
    """Check an archive from end to end.

    Every member is read, and compared with its checksum if the container stores one: CRC-32 in
    ZIP and NPZ, CRC-32C in Barecat. So are the archives that are opened inside the archive.
    Members that are one stored file, as hard links are, are read once. All headers are scanned
    again and compared with the index. In a TAR this checks the headers, which have checksums; its
    data have none.

    Parameters
    ----------
    archive : Archive
    decode : bool
        Also decode members with a known extension: images, arrays, JSON, and so on, but not
        pickles. A damaged JPEG is a failure even though Pillow decodes it.
    limits : Limits, optional
        Anything larger is a failure. By default the limits of `DecodedView`.
    threads : int, optional
        By default one for each processor, at most four; of each task of an `executor`, one.
    executor : int or concurrent.futures.Executor, optional
        If the archive consists of several, verify each as a task: in a number of processes, or by
        an executor whose workers see the archives under the same paths. It is not shut down. An
        archive that a worker cannot read is a failure with the path as its name.
    progress : callable, optional
        Called from any of the threads with the number of members done since the last call.

    Returns
    -------
    Verified
        Problems of the archive are listed there and raise nothing.

    Raises
    ------
    StaleIndexError
        A file has changed since it was opened. With an `executor`, that is a failure.
    WorkerError
        The executor accepts no more tasks.
    OSError
        Too many files are open, or memory is short, which says nothing about the archive.
    """
    check_archive(archive)
    result = Verified(left_out=archive.left_out)
    chosen = asdict(check_limits(limits))
    if executor is not None:
        _verify_each(archive, executor, result, progress, decode, limits, threads or 1)
        return result
    view = DecodedView(archive, mode="unchanged", **chosen) if decode else None
    with changes_first(archive):
        _check_headers(archive, result.failures)
    if result.failures:
        archive.check_unchanged()
    for path in archive.paths if "nested" in archive.table.meta else ():
        result.failures += _check_inner_archives(archive, path, threads)
    first = find_repeats(archive, np.arange(len(archive)))
    is_first = first == np.arange(len(archive))
    originals = np.flatnonzero(is_first)
    verifier = _Verifier(archive, view, result, progress)
    run_in_threads(partial(verifier.work, originals), len(originals), CHUNK, threads)
    _add_repeats(archive, np.flatnonzero(~is_first), first, result)
    if progress is not None and not is_first.all():
        progress(int((~is_first).sum()))
    result.failures.sort(key=lambda failure: failure.position)
    return result


class _OneVerified(NamedTuple):
    """What a task found in an archive, and a digest of the rows of its index."""

    found: Verified
    rows: bytes


def _verify_each(
    archive: Archive,
    executor: AnyExecutor,
    result: Verified,
    progress: Callable[[int], object] | None,
    decode: bool,
    limits: Limits | None,
    threads: int,
) -> None:
    """Verify each archive of several on an executor."""
    _check_index(archive.table, result.failures)
    verify_one = partial(
        _verify_one,
        # A joined index describes all archives, and each task reads one.
        ipath=archive.ipath if len(archive.paths) == 1 else None,
        nested=archive.nested,
        decode=decode,
        limits=limits,
        threads=threads,
    )
    with (
        open_executor(executor) as opened,
        closing(run_tasks(verify_one, archive.opened_paths, opened, in_order=True)) as outcomes,
    ):
        _add_outcomes(archive, result, outcomes, progress)
    result.failures.sort(key=lambda failure: failure.position)


def _add_outcomes(
    archive: Archive,
    result: Verified,
    outcomes: Iterator[Outcome[str, _OneVerified]],
    progress: Callable[[int], object] | None,
) -> None:
    """Add what was found in each of several archives, in their order."""
    for outcome, (start, stop) in zip(outcomes, _rows_of_paths(archive)):
        try:
            found, rows = outcome.get()
        except (ImageArchiveError, OSError, MemoryError) as error:
            failures = [_failure(error, -1, outcome.item, outcome.item)]
        else:
            result.files += found.files
            result.bytes += found.bytes
            result.checked += found.checked
            result.decoded += found.decoded
            failures = [
                one if one.position < 0 else one._replace(position=one.position + start)
                for one in found.failures
            ]
            if rows != _digest_rows(archive.table, start, stop):
                failures.append(
                    Failure(-1, outcome.item, "its index does not describe it", (REBUILD,))
                )
        result.failures += failures
        if progress is not None:
            progress(stop - start)


def _verify_one(
    path: str,
    *,
    ipath: str | None,
    nested: Nested,
    decode: bool,
    limits: Limits | None,
    threads: int,
) -> _OneVerified:
    """Verify one archive of several; the task of a worker."""
    with Archive(path, ipath, storage="pread", strict=False, nested=nested) as archive:
        found = verify(archive, decode=decode, limits=limits, threads=threads)
        # The list of the whole archive is there already.
        found.left_out = LeftOut()
        return _OneVerified(found, _digest_rows(archive.table, 0, len(archive)))


def _rows_of_paths(archive: Archive) -> Iterator[tuple[int, int]]:
    """Yield the first row of each path of an archive, and the one after its last."""
    table = archive.table
    files = table.files
    roots = list(range(table.shards))
    for number, view in table.derived.items():
        if view.parent is not None:
            roots[number] = view.parent
    for number in range(len(files), table.shards):
        while roots[number] >= len(files):
            roots[number] = roots[roots[number]]
    counts = np.bincount(np.array(roots)[table.entries["shard"]], minlength=len(files))
    ends = np.concatenate([[0], np.cumsum(counts)]).tolist()
    first = 0
    for path in archive.opened_paths:
        last = first + 1
        # Split bins are several files of one directory.
        while last < len(files) and files[first] != path and files[last].startswith(f"{path}/"):
            last += 1
        yield ends[first], ends[last]
        first = last


def _digest_rows(table: IndexTable, start: int, stop: int) -> bytes:
    """Digest what the rows of an index say about the members of an archive."""
    digest = hashlib.blake2b(digest_size=16)
    for name in COMPARED:
        digest.update(table.entries[name][start:stop].tobytes())
    low, high = int(table.name_offsets[start]), int(table.name_offsets[stop])
    digest.update(table.names[low:high].tobytes())
    digest.update((table.name_offsets[start:stop] - np.uint64(low)).tobytes())
    return digest.digest()


def _check_inner_archives(archive: Archive, path: str, threads: int | None) -> list[Failure]:
    """Compare the archives inside an archive, on all levels, with the checksums of them."""
    nesting = Nesting.from_argument(archive.nested)
    assert nesting is not None
    with tempfile.TemporaryDirectory() as folder:
        failures = _check_opened(archive, Archive(path, storage="pread", strict=False), threads)
        for depth in range(1, archive.table.meta["nested"]["deepest"]):
            # Archives of this level are members of the archive if only those above it are opened.
            outer = Archive(
                path,
                os.path.join(folder, f"{depth}.idx.npy"),
                storage="pread",
                strict=False,
                nested=dataclasses.replace(nesting, depth=depth),
            )
            failures += _check_opened(archive, outer, threads)
    return failures


def _check_opened(archive: Archive, outer: Archive, threads: int | None) -> list[Failure]:
    """Compare the members of an archive that another one opens, and close it."""
    with outer:
        table = outer.table
        if not any(container.checksum_algorithm for container in table.containers):
            return []
        opened = [
            position
            for position in range(len(table))
            if archive.table.find(table.name(position)) < 0
        ]
        found = Verified()
        verifier = _Verifier(outer, None, found, None)
        run_in_threads(
            partial(verifier.work, np.array(opened, np.int64)), len(opened), CHUNK, threads
        )
    return [failure._replace(position=-1) for failure in found.failures]


def _add_repeats(
    archive: Archive,
    repeats: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    result: Verified,
) -> None:
    """Count members whose content was verified under another name, and repeat its failures."""
    failures = {failure.position: failure for failure in result.failures}
    for position in repeats.tolist():
        result.files += 1
        result.bytes += int(archive.table.entries["size"][position])
        result.checked += archive.checksum(position) is not None
        failure = failures.get(int(first[position]))
        if failure is not None:
            result.failures.append(failure._replace(position=position, name=archive.name(position)))


def _check_index(table: IndexTable, failures: list[Failure]) -> None:
    """Compare the index with its own checksums."""
    index = table.path or "index"
    try:
        with os_errors_for(index):
            table.check()
    except (ImageArchiveError, OSError) as error:
        failures.append(_failure(error, -1, index, index))
    if not np.array_equal(sort_names(table.names, table.name_offsets), table.name_order):
        failures.append(Failure(-1, index, "it lists the names in a wrong order", (REBUILD,)))


def _check_headers(archive: Archive, failures: list[Failure]) -> None:
    """Compare the index with its own checksums and with the archives."""
    table = archive.table
    start = 0
    _check_index(table, failures)
    for path in archive.opened_paths:
        try:
            with os_errors_for(path):
                fresh = IndexTable.build(path, nested=archive.nested)
        except CorruptArchiveError as error:
            failures.append(_failure(error, -1, path, path))
            fresh = IndexTable.build(path, strict=False, nested=archive.nested)
        ours = table.entries[start : start + len(fresh)]
        same = len(ours) == len(fresh) and all(
            np.array_equal(ours[name], fresh.entries[name]) for name in COMPARED
        )
        end = start + len(fresh)
        low, high = (int(table.name_offsets[min(row, len(table))]) for row in (start, end))
        if not same or not np.array_equal(table.names[low:high], fresh.names):
            failures.append(Failure(-1, path, "its index does not describe it", (REBUILD,)))
        start = end
    if start != len(table):
        failures.append(
            Failure(-1, str(archive.path), f"{pluralize(len(table), 'member')} instead of {start}")
        )


def _failure(error: Exception, position: int, name: str, *where: str) -> Failure:
    """Describe an error without the prefixes `where`, as a `Failure` has the name already."""
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in OUT_OF_RESOURCES:
            error.filename = error.filename or where[0]
            raise error
        return Failure(position, name, error.strerror or str(error))
    if isinstance(error, MemoryError):
        return Failure(position, name, "not enough memory for it")
    if isinstance(error, ImageArchiveError):
        message, hints = error.message, error.hints
    else:
        message, hints = str(error), ()
    for prefix in where:
        message = message.removeprefix(f"{prefix}: ")
    return Failure(position, name, message, hints)


class _Verifier:
    """Verifies members; shared by the threads."""

    def __init__(
        self,
        archive: Archive,
        view: DecodedView | None,
        result: Verified,
        progress: Callable[[int], object] | None,
    ) -> None:
        self._archive = archive
        self._view = view
        self._result = result
        self._progress = progress
        self._lock = threading.Lock()

    def work(self, originals: npt.NDArray[np.int64], chunks: Chunks) -> None:
        """Verify the members at these positions."""
        for places in chunks:
            positions = originals[places.start : places.stop].tolist()
            part = Verified()
            for position in positions:
                chunks.check()
                name = self._archive.name(position)
                try:
                    with changes_first(self._archive):
                        self._verify_member(position, name, part, chunks)
                except StaleIndexError:
                    raise
                except (ImageArchiveError, OSError, MemoryError) as error:
                    file = self._archive.info(position).archive
                    part.failures.append(_failure(error, position, name, file, repr(name)))
                part.files += 1
            with self._lock:
                result = self._result
                result.files += part.files
                result.bytes += part.bytes
                result.checked += part.checked
                result.decoded += part.decoded
                result.failures += part.failures
            if self._progress is not None:
                self._progress(len(positions))

    def _verify_member(self, position: int, name: str, part: Verified, chunks: Chunks) -> None:
        archive = self._archive
        size = int(archive.table.entries["size"][position])
        checksum = archive.checksum(position)
        content = archive.read_unverified(position) if size <= CHUNK_SIZE else None
        found = 0
        # The holes of a sparse file are not read: a TAR has no checksum of them.
        for _, data in [(0, content)] if content is not None else iter_data(archive, position):
            chunks.check()
            if checksum is not None:
                found = CHECKSUMS[checksum.algorithm](data, found)
        part.bytes += size
        if checksum is not None:
            part.checked += 1
            if found != checksum.value:
                raise _MismatchError(
                    f"its checksum is {found:08x} but the archive says {checksum.value:08x}"
                )
        if self._view is not None and self._view.knows(name):
            data = archive.read(position) if content is None else content
            stored_size = archive.info(position).stored_size
            part.decoded += _decode(self._view, name, data, stored_size)
            damage = find_damage(data)
            if damage is not None:
                raise _DamagedImageError(
                    f"its data is damaged ({damage}); Pillow decodes it, with wrong pixels"
                )


def _decode(view: DecodedView, name: str, data: bytes | memoryview, stored_size: int) -> bool:
    """Decode a member; return whether that was possible without loading a pickle."""
    complete = True
    try:
        value = view.decode(name, data, stored_size)
    except UnsafePickleError:
        # Pickles are not loaded, which is not a problem of the archive.
        return False
    except ImageArchiveError as error:
        # Raise the cause, whose message does not repeat the name.
        cause = error.__cause__
        raise cause if isinstance(cause, ImageArchiveError) else error from None
    for key in value if isinstance(value, NpzArrays) else ():
        try:
            value[key]
        except UnsafePickleError:
            complete = False
    return complete


class _MismatchError(ImageArchiveError):
    """A checksum differs."""


class _DamagedImageError(ImageArchiveError):
    """An image that is decoded in spite of its damage."""
