"""The arrays of an NPZ, or of a lone ``.npy``, as storages with headers."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Final

import numpy.typing as npt

from imagearchive.archive.archive import Archive
from imagearchive.arrays import npy
from imagearchive.datasets.npz.columns import open_whole
from imagearchive.errors import (
    CorruptArchiveError,
    MemberNotFoundError,
    OptionError,
    UnsupportedArchiveError,
)
from imagearchive.storage.deflate import WHOLE, DeflatedStorage
from imagearchive.storage.local import MemoryStorage, MmapStorage, PreadStorage, open_storage
from imagearchive.storage.protocol import Storage, StorageKind
from imagearchive.storage.slice import SliceStorage

__all__ = ["NpzFile", "NpzMember", "OpenRange"]

logger = logging.getLogger(__name__)

_SUFFIX: Final = ".npy"
_CHECK: Final = 1 << 20


class NpzMember:
    """One array of the file.

    Attributes
    ----------
    name : str
        Its name, without ``.npy``.
    where : str
        What to call it in messages.
    storage : Storage
        Its ``.npy`` bytes.
    mapped : bool
        Whether `storage` hands out views of memory without reading.
    """

    def __init__(
        self, archive: Archive | None, whole: Storage | None, position: int, name: str, verify: bool
    ) -> None:
        self.name = name
        self._archive = archive
        self._position = position
        # What prepare() has to do, at most once.
        self._crc: int | None = None
        self._unchecked = False
        self._file: Storage
        self._offset = 0
        if archive is None:
            if whole is None:
                raise OptionError(f"{name}: neither an archive nor a file")
            self.where = whole.path
            self._file = self.storage = whole
            self.mapped = isinstance(whole, MemoryStorage)
            return
        entry = archive.table.entries[position]
        self._file = archive.storage(int(entry["shard"]))
        self.where = f"{self._file.path}: {name + _SUFFIX!r}"
        self._offset = int(entry["offset"])
        # Raises where it is encrypted, or compressed in a way that is not read.
        self.storage = archive.member(position)
        self.mapped = False
        if isinstance(self.storage, DeflatedStorage):
            self._unchecked = verify
        else:
            self.mapped = isinstance(self._file, MemoryStorage) and isinstance(
                self.storage, SliceStorage
            )
            if verify:
                self._crc = int(entry["crc"])

    def header(self) -> npy.NpyHeader:
        """Read the header of the array."""
        return npy.parse_header(self.storage, where=self.where)

    def prepare(self) -> None:
        """Check the CRC-32 of the member, where that was asked for and not done yet."""
        # Read once: another thread may be checking, too, and be done first.
        expected = self._crc
        if expected is not None:
            crc, position, size = 0, 0, self.storage.size
            while position < size:
                data = self.storage.read(position, min(_CHECK, size - position))
                crc = zlib.crc32(data, crc)
                position += len(data)
            if crc != expected:
                raise CorruptArchiveError(
                    f"{self.where}: its CRC-32 is {crc:08x}, not {expected:08x}; the file is "
                    f"damaged: make it again or fetch it again"
                )
            self._crc = None
        storage = self.storage
        if isinstance(storage, DeflatedStorage) and self._unchecked:
            # Smaller members are inflated whole, which checks them.
            if storage.checkpoints is None and storage.size > WHOLE:
                storage.build_checkpoints()
            self._unchecked = False

    def descriptor(self) -> OpenRange | None:
        """Return a mapped member as a range of an open file, to be closed; or None."""
        if not self.mapped or not isinstance(self._file, MmapStorage):
            return None
        try:
            file = PreadStorage(self._file.path)
        except (OSError, UnsupportedArchiveError):
            # Deleted or replaced since it was mapped: the mapping serves as well.
            return None
        if file.size == self._file.size:
            return OpenRange(file, self._offset)
        file.close()
        return None

    def load(self, kind: str) -> Mapping[str, npt.NDArray[Any]] | None:
        """Return what `save` kept in the index, or None."""
        if self._archive is None:
            return None
        prefix = f"{kind}/{self._position}/"
        extra = self._archive.table.extra
        found = {key[len(prefix) :]: extra[key] for key in extra if key.startswith(prefix)}
        return found or None

    def save(self, kind: str, tables: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep arrays in the index file, as far as it can be written."""
        if self._archive is not None:
            prefix = f"{kind}/{self._position}/"
            self._archive.table.add_extra({prefix + key: table for key, table in tables.items()})


class OpenRange:
    """Where a member begins in an open file."""

    def __init__(self, file: PreadStorage, offset: int) -> None:
        self.offset = offset
        self.fileno = file.fileno
        self.close = file.close


class NpzFile(Mapping[str, npt.NDArray[Any]]):
    """The arrays of an NPZ by name, each read whole when it is asked for.

    Parameters
    ----------
    path : path-like
        An NPZ, any other ZIP with ``.npy`` members, or a single ``.npy``, which is then called by
        the name of the file.
    ipath, overwrite_index : optional
        As for `Archive`.
    storage : {"auto", "mmap", "pread", "memory"}
    verify : bool
        Whether members are checked against their CRC-32 at their first use.

    Raises
    ------
    ArchiveNotFoundError, UnsupportedArchiveError, CorruptArchiveError
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        ipath: str | os.PathLike[str] | None = None,
        *,
        storage: StorageKind = "auto",
        verify: bool = False,
        overwrite_index: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        self._verify = verify
        self._archive: Archive | None = None
        self._single = _single(self.path, storage)
        self._members: dict[str, NpzMember] = {}
        self._positions: dict[str, int] = {}
        if self._single is not None:
            name = os.path.basename(self.path)
            self._positions[name.removesuffix(_SUFFIX)] = 0
            return
        self._archive = Archive(self.path, ipath, storage=storage, overwrite_index=overwrite_index)
        for position, name in enumerate(self._archive.files()):
            if name.endswith(_SUFFIX):
                self._positions[name.removesuffix(_SUFFIX)] = position

    def member(self, name: str) -> NpzMember:
        """Return an array as a storage; raises `MemberNotFoundError`."""
        member = self._members.get(name)
        if member is None:
            if name not in self._positions:
                raise MemberNotFoundError(
                    f"{self.path}: no array {name!r}; it has {', '.join(self._positions)[:500]}"
                )
            member = NpzMember(
                self._archive, self._single, self._positions[name], name, self._verify
            )
            self._members[name] = member
        return member

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """Read a whole array, as `numpy.load` would; arrays of objects without `pickle`."""
        return open_whole(self.member(name))

    def __iter__(self) -> Any:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def close(self) -> None:
        """Close the file; views returned before stay valid."""
        for part in (self._archive, self._single):
            if part is not None:
                part.close()

    def __repr__(self) -> str:
        return f"NpzFile({self.path!r}: {', '.join(self._positions)[:500]})"


def _single(path: str, storage: StorageKind) -> Storage | None:
    """The file as a storage, where it is a lone ``.npy``."""
    if os.path.isdir(path):
        raise UnsupportedArchiveError(
            f"{path}: a folder; give the path of one NPZ, and join several by CombinedLazyDataset"
        )
    with closing(open_storage(path, "pread")) as probe:
        if bytes(probe.read(0, min(6, probe.size))) != npy.MAGIC:
            return None
    return open_storage(path, storage)
