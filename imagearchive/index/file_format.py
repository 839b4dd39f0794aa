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
    CorruptArchiveError,
    CorruptIndexError,
    LimitError,
    UnsupportedArchiveError,
    UnsupportedMemberError,
)
from imagearchive.errors.os_errors import os_errors_for
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.atomic import AtomicFile
from imagearchive.storage.crc import crc32
from imagearchive.storage.location import PublishingLocation
from imagearchive.storage.protocol import file_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from imagearchive.storage.location import Location
    from imagearchive.storage.protocol import FileStorage, Storage

__all__ = ["FORMAT", "VERSION", "IndexFile", "NotAnIndexError", "checksum", "load", "save"]

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
            _write(target.file, sections, meta, target.begin_sync)
            target.file.flush()
            status = os.fstat(target.file.fileno())
        return status.st_size, file_identity(status)
    if isinstance(location, PublishingLocation):
        with tempfile.NamedTemporaryFile(prefix="imagearchive-") as file:
            _write(file, sections, meta, lambda: None)
            file.flush()
            location.publish(file.name)
        return None
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), location.path)


def _write(
    file: Any,
    sections: Mapping[str, Section],
    meta: Mapping[str, Any],
    begin_sync: Callable[[], None],
) -> None:
    described = []
    waiting = 0
    for name, section in sections.items():
        arrays: Iterable[npt.NDArray[Any]]
        if isinstance(section, PackedRows):
            shape, arrays = (len(section),), section.chunks()
            file.write(npy.build_header(section.dtype, shape, False, npy.ALIGNMENT, file.tell()))
        else:
            npy.write_header(file, section)
            arrays = [section]
        crc = 0
        for array in arrays:
            for chunk in npy.iter_bytes(array, file.tell()):
                crc = crc32(chunk, crc)
                file.write(chunk)
                waiting += len(chunk)
                if waiting >= _SYNC_BYTES:
                    # The disk is busy while the rest is computed and copied.
                    begin_sync()
                    waiting = 0
        described.append({"name": name, "crc32": crc})
    whole = {**meta, "format": FORMAT, "version": VERSION, "sections": described}
    text = json.dumps(whole, sort_keys=True, ensure_ascii=True).encode()
    npy.write_array(file, np.frombuffer(text, np.uint8))


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
