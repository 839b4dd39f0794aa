"""One array of an NPZ, or a lone ``.npy`` file, as a storage with a header."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy.typing as npt

from imagearchive.archive.archive import Archive
from imagearchive.archive.checked_read import iter_chunks
from imagearchive.arrays import npy
from imagearchive.storage.protocol import (
    DescriptorStorage,
    MappedStorage,
    RangesStorage,
    SelfCheckingStorage,
    Storage,
)
from imagearchive.storage.slice import SliceStorage

__all__ = ["NPY_SUFFIX", "ArraySource", "NpzArray", "OpenRange"]

NPY_SUFFIX: Final = ".npy"


class ArraySource:
    """The bytes of one array in the form of a ``.npy`` file.

    Parameters
    ----------
    storage : Storage
        All bytes of the array, header included.
    where : str
        Names the array in messages.
    file : Storage
        The file that holds them.
    offset : int
        Where they begin in the file, unless they are compressed.

    Attributes
    ----------
    storage : Storage
    where : str
    """

    def __init__(self, storage: Storage, where: str, file: Storage, offset: int = 0) -> None:
        self.storage = storage
        self.where = where
        self._file = file
        self._offset = offset

    def header(self) -> npy.NpyHeader:
        """Read the header of the array."""
        return npy.parse_header(self.storage, where=self.where)

    def verify(self) -> None:
        """Compare the bytes with their checksum, if that was asked for and is not done yet."""

    def open_range(self) -> OpenRange | None:
        """Open the file of a mapped array, for reads without page faults; the caller closes it.

        Returns
        -------
        OpenRange or None
            None if the array is not mapped, or if the file is no longer there.
        """
        if not (self.storage.zero_copy and isinstance(self._file, MappedStorage)):
            return None
        # Deleted or replaced since it was mapped: the mapping serves as well.
        file = self._file.open_descriptor()
        return None if file is None else OpenRange(file, self._offset)

    @property
    def is_remote(self) -> bool:
        """Whether its bytes are read from a server as they are stored."""
        stored = self.storage is self._file or isinstance(self.storage, SliceStorage)
        return stored and isinstance(self._file, RangesStorage)

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Request parts of the array from a server, offset and size each, all at once.

        Does nothing for an array on this machine, or that is compressed.
        """
        if self.is_remote and isinstance(self._file, RangesStorage):
            self._file.prefetch_ranges((self._offset + start, size) for start, size in ranges)

    def load_tables(self, kind: str) -> Mapping[str, npt.NDArray[Any]] | None:
        """Return the tables that `save_tables` stored, or None."""
        return None

    def save_tables(self, kind: str, tables: Mapping[str, npt.NDArray[Any]]) -> None:
        """Store tables about this array in the index file, if there is one to write to."""


class NpzArray(ArraySource):
    """An array in an archive: a member whose name ends with ``.npy``.

    Parameters
    ----------
    archive : Archive
    position : int
        Of the member.
    verify : bool
        Whether `verify` compares the member with its checksum.
    budget : HeaderBudget
        Shared by the arrays of the archive.

    Raises
    ------
    UnsupportedMemberError
        The member is encrypted, or compressed by a method that is not supported.
    """

    def __init__(
        self, archive: Archive, position: int, verify: bool, budget: npy.HeaderBudget
    ) -> None:
        info = archive.info(position)
        file = archive.storage(int(archive.table.entries["shard"][position]))
        super().__init__(
            archive.member(position), f"{info.archive}: {info.name!r}", file, info.offset
        )
        self._archive = archive
        self._position = position
        self._unverified = verify
        self._stored_size = info.stored_size
        self._budget = budget

    def header(self) -> npy.NpyHeader:
        """Read the header of the array, within the budget of the archive."""
        return self._budget.parse(self.storage, self._stored_size, self.where)

    def verify(self) -> None:
        """Compare the member with its checksum, if that was asked for and is not done yet."""
        # Threads may do it at the same time, each on its own.
        if self._unverified:
            if isinstance(self.storage, SelfCheckingStorage):
                self.storage.verify()
            else:
                for _ in iter_chunks(self._archive, self._position):
                    pass
            self._unverified = False

    def load_tables(self, kind: str) -> Mapping[str, npt.NDArray[Any]] | None:
        """Return the tables that `save_tables` stored, or None."""
        prefix = self._section(kind)
        extra = self._archive.table.extra
        found = {key[len(prefix) :]: extra[key] for key in extra if key.startswith(prefix)}
        return found or None

    def save_tables(self, kind: str, tables: Mapping[str, npt.NDArray[Any]]) -> None:
        """Store tables about this array in the index file, if it can be written."""
        prefix = self._section(kind)
        self._archive.table.add_extra({prefix + key: table for key, table in tables.items()})

    def _section(self, kind: str) -> str:
        return f"{kind}/{self._position}/"


class OpenRange:
    """An array inside an open file: it begins at byte `offset`."""

    def __init__(self, file: DescriptorStorage, offset: int) -> None:
        self.offset = offset
        self.fileno = file.fileno
        self.close = file.close
