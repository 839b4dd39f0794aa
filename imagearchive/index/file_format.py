"""The file format of an index: consecutive ``.npy`` arrays, the last of which is the metadata.

`docs/development/index-format.md` specifies it. This module handles sections and bytes;
`imagearchive.index.table` interprets them.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from imagearchive.arrays import npy
from imagearchive.containers.packed_rows import PackedRows
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    CorruptIndexError,
    LimitError,
    UnsupportedArchiveError,
    UnsupportedMemberError,
)
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.atomic import AtomicFile
from imagearchive.storage.closing import Closable
from imagearchive.storage.crc import crc32
from imagearchive.storage.location import PublishingLocation
from imagearchive.storage.protocol import file_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from imagearchive.storage.location import Location
    from imagearchive.storage.protocol import FileStorage, Storage
    from imagearchive.storage.task_threads import Task, TaskThreads

__all__ = [
    "FORMAT",
    "VERSION",
    "IndexDraft",
    "IndexFile",
    "NotAnIndexError",
    "checksum",
    "load",
    "save",
]

FORMAT: Final = "imagearchive-index"
VERSION: Final = 1

#: What becomes a section of an index file.
Section: TypeAlias = "npt.NDArray[Any] | PackedRows"

# A file with more sections is not an index, even if each section is valid.
MAX_SECTIONS: Final = 4096
# After so many bytes, the system is asked to begin with writing to disk.
_SYNC_BYTES: Final = 8 << 20
# Longest .npy header of a section in bytes.
_MAX_HEADER: Final = 4096


class NotAnIndexError(CorruptIndexError):
    """The file exists, but is not an index of this library."""


class IndexFile(NamedTuple):
    """What an index file holds.

    Attributes
    ----------
    sections : dict of str to ndarray
        Read-only arrays over the mapping, in the order of the file.
    meta : dict
        Empty for a lone array, which is what the original ImageArchive wrote.
    identity : tuple
        Size and identity of the file that was mapped.
    storage : FileStorage
        The file, which stays open so that `check_unchanged` can be asked.
    """

    sections: dict[str, npt.NDArray[Any]]
    meta: dict[str, Any]
    identity: tuple[int, str]
    storage: FileStorage


def save(
    location: Location, sections: Mapping[str, Section], meta: Mapping[str, Any]
) -> tuple[int, str] | None:
    """Write an index atomically.

    The sections are written to a temporary file in the same directory, which is synchronized to
    disk and then renamed. Several processes may do this at once: all write the same bytes, and
    the last one wins.

    Returns
    -------
    (int, str) or None
        Size and identity of the file, as in `IndexFile`; None if it is not on this machine.

    Raises
    ------
    OSError
        The directory cannot be written, or the disk is full. No temporary file is left.
    """
    path = location.local_path
    if path is not None:
        with AtomicFile(path, check=False) as target, os_errors_for(path):
            writer = _IndexWriter(target.file, target.begin_sync)
            writer.add(sections)
            return writer.finish(meta)
    if isinstance(location, PublishingLocation):
        with tempfile.NamedTemporaryFile(prefix="imagearchive-") as file:
            writer = _IndexWriter(file, lambda: None)
            writer.add(sections)
            writer.finish(meta)
            location.publish(file.name)
        return None
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), location.path)


class IndexDraft(Closable):
    """The beginning of an index file, which a thread writes while the rest is computed.

    For one thread. Until `save`, the file has a temporary name; `close` removes it.

    Parameters
    ----------
    location : Location
        Where the index will be saved.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._target: AtomicFile | None = None
        self._writer: _IndexWriter | None = None
        self._threads: TaskThreads | None = None
        self._begun: list[tuple[str, Section]] = []
        self._tasks: list[Task[None]] = []

    def begin(self, sections: Mapping[str, Section]) -> None:
        """Begin to write the next sections of the file, which must not change anymore.

        Where the file cannot be written, nothing happens: `save` raises the error.
        """
        path = self.location.local_path
        if path is None or self.closed:
            return
        if self._writer is None or self._threads is None:
            # Imported here, because few archives are large enough.
            from imagearchive.storage.task_threads import TaskThreads

            try:
                self._target = AtomicFile(path, check=False)
            except OSError:
                return
            self._writer = _IndexWriter(self._target.file, self._target.begin_sync)
            self._threads = TaskThreads(1, name="imagearchive-index")
        self._begun += sections.items()
        self._tasks.append(self._threads.submit(self._writer.add, sections))

    def save(
        self, sections: Mapping[str, Section], meta: Mapping[str, Any]
    ) -> tuple[int, str] | None:
        """Write the rest of the index, and publish it, as the function `save` does.

        If the first sections are not those that were begun, all of them are written again.
        """
        first = list(sections.items())[: len(self._begun)]
        writer, target = self._writer, self._target
        try:
            if (
                writer is None
                or target is None
                or len(first) < len(self._begun)
                or any(a != b or x is not y for (a, x), (b, y) in zip(first, self._begun))
            ):
                self.close()
                return save(self.location, sections, meta)
            with os_errors_for(target.path):
                for task in self._tasks:
                    task.result()
                writer.add(dict(list(sections.items())[len(first) :]))
                written = writer.finish(meta)
            target.publish()
            return written
        finally:
            self.close()

    def close(self) -> None:
        """Stop writing, and remove the file unless it is published."""
        super().close()
        writer, target = self._writer, self._target
        # The sections are large, and may be those that the caller releases.
        self._begun, self._tasks, self._writer, self._target = [], [], None, None
        if writer is not None:
            writer.cancelled = True
        try:
            if self._threads is not None:
                self._threads.close()
        finally:
            if target is not None:
                target.abort()


class _IndexWriter:
    """Writes the sections of an index, one after the other.

    Attributes
    ----------
    cancelled : bool
        Set by another thread: what is written does not matter anymore.
    """

    def __init__(self, file: Any, begin_sync: Callable[[], None]) -> None:
        self._file = file
        self._begin_sync = begin_sync
        self._described: list[dict[str, Any]] = []
        self._waiting = 0
        self.cancelled = False

    def add(self, sections: Mapping[str, Section]) -> None:
        """Write sections; returns early if the writer is cancelled."""
        file = self._file
        for name, section in sections.items():
            arrays: Iterable[npt.NDArray[Any]]
            if isinstance(section, PackedRows):
                shape, arrays = (len(section),), section.chunks()
                header = npy.build_header(section.dtype, shape, False, npy.ALIGNMENT, file.tell())
                file.write(header)
            else:
                npy.write_header(file, section)
                arrays = [section]
            crc = 0
            for array in arrays:
                for chunk in npy.iter_bytes(array, file.tell()):
                    if self.cancelled:
                        return
                    crc = crc32(chunk, crc)
                    file.write(chunk)
                    self._waiting += len(chunk)
                    if self._waiting >= _SYNC_BYTES:
                        # The disk is busy while the rest is computed and copied.
                        self._begin_sync()
                        self._waiting = 0
            self._described.append({"name": name, "crc32": crc})

    def finish(self, meta: Mapping[str, Any]) -> tuple[int, str]:
        """Write the metadata; return size and identity of the file."""
        whole = {**meta, "format": FORMAT, "version": VERSION, "sections": self._described}
        text = json.dumps(whole, sort_keys=True, ensure_ascii=True).encode()
        npy.write_array(self._file, np.frombuffer(text, np.uint8))
        self._file.flush()
        status = os.fstat(self._file.fileno())
        return status.st_size, file_identity(status)


def load(location: Location) -> IndexFile:
    """Map an index file; only the headers and the metadata are read.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    NotAnIndexError
        The file was not written by this library.
    CorruptIndexError
        It was written by this library, but is damaged.
    """
    path = location.path
    if location.local_path is not None and not location.exists():
        # Usually just not made yet, so nobody needs the advice that takes time.
        raise ArchiveNotFoundError(f"{path}: no such file")
    try:
        if isinstance(location, PublishingLocation):
            storage = location.open_copy()
        else:
            storage = location.open("mmap")
    except UnsupportedArchiveError as error:
        raise NotAnIndexError(str(error)) from error
    if not storage.size:
        raise CorruptIndexError(f"{path}: the index is empty; delete it")
    identity = (storage.size, storage.identity)
    arrays = list(_arrays(storage))
    last = arrays[-1]
    if len(arrays) == 1:
        return IndexFile({"entries": last}, {}, identity, storage)
    if last.dtype != np.uint8 or last.ndim != 1:
        raise NotAnIndexError(
            f"{path}: {pluralize(len(arrays), 'array')}, but the last is not metadata"
        )
    try:
        meta = json.loads(last.tobytes())
        names = [section["name"] for section in meta["sections"]]
        checksums = [section.get("crc32") for section in meta["sections"]]
        version = meta["version"]
        ours = meta["format"] == FORMAT
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotAnIndexError(f"{path}: the last array is not the metadata of an index") from error
    if not ours or not isinstance(version, int):
        raise NotAnIndexError(f"{path}: not an index of this library")
    if version > VERSION:
        raise CorruptIndexError(
            f"{path}: written by a newer release (format {version}, this one reads up to "
            f"{VERSION}); update imagearchive, or build the index again"
        )
    if (
        not all(isinstance(name, str) for name in names)
        or not all(type(crc) is int for crc in checksums)
        or len(names) != len(arrays) - 1
        or len(set(names)) != len(names)
    ):
        raise CorruptIndexError(
            f"{path}: the metadata do not name each of "
            f"{pluralize(len(arrays) - 1, 'section')} once, with a checksum; delete it"
        )
    return IndexFile(dict(zip(names, arrays)), meta, identity, storage)


def checksum(array: npt.NDArray[Any]) -> int:
    """Return the CRC-32 of the bytes of a section."""
    return crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _arrays(storage: Storage) -> Iterator[npt.NDArray[Any]]:
    path = storage.path
    position = 0
    count = 0
    while position < storage.size:
        count += 1
        where = f"{path}: not an index" if count == 1 else f"{path}: array {count}"
        try:
            header = npy.parse_header(storage, position, where=where, max_header=_MAX_HEADER)
        except (CorruptArchiveError, LimitError, UnsupportedMemberError) as error:
            kind = NotAnIndexError if count == 1 else CorruptIndexError
            raise kind(f"{error}; if it was meant to be an index, delete it") from error
        if (
            header.has_objects
            or (header.fortran_order and len(header.shape) > 1)
            # Elements of no bytes take memory all the same, and no bound of the file holds them.
            or not header.itemsize
            or not 1 <= len(header.shape) <= 2
        ):
            raise NotAnIndexError(
                f"{where} holds {header.dtype} {header.shape}, which an index never does; build "
                f"the index again"
            )
        if count > MAX_SECTIONS:
            raise NotAnIndexError(f"{path}: more than {MAX_SECTIONS} arrays")
        start = position + header.data_offset
        yield (
            np.frombuffer(storage.read(start, header.nbytes), header.dtype, header.count).reshape(
                header.shape
            )
            if header.nbytes
            else np.empty(header.shape, header.dtype)
        )
        position = start + header.nbytes
