"""A range of another storage as a storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagearchive.errors import CorruptArchiveError
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.closing import Closable

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.protocol import Storage

__all__ = ["SliceStorage"]


class SliceStorage(Closable):
    """A range of another storage, such as a stored member. Closing it leaves the other open."""

    def __init__(self, storage: Storage, offset: int, size: int, path: str) -> None:
        if offset + size > storage.size:
            raise CorruptArchiveError(
                f"{path}: a range of {pluralize(size, 'byte')} at offset {offset} is not within "
                f"the file of {pluralize(storage.size, 'byte')}; it is truncated, or its index "
                "belongs to another file"
            )
        self._storage = storage
        self._offset = offset
        self.size = size
        self.path = path

    @property
    def zero_copy(self) -> bool:
        """Whether the other storage returns views of memory."""
        return self._storage.zero_copy

    def read(self, offset: int, size: int) -> bytes | memoryview:
        """Return a range of the member."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise CorruptArchiveError(
                f"{self.path}: a range of {pluralize(size, 'byte')} at offset {offset} is not "
                f"within its {self.size}"
            )
        return self._storage.read(self._offset + offset, size)

    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Copy a range of the member into `buffer`."""
        length = memoryview(buffer).nbytes
        if offset < 0 or offset + length > self.size:
            raise CorruptArchiveError(
                f"{self.path}: a range of {pluralize(length, 'byte')} at offset {offset} is not "
                f"within its {self.size}"
            )
        return self._storage.readinto(self._offset + offset, buffer)

    def check_unchanged(self) -> None:
        """Raise if the file has changed since it was opened; see `Storage.check_unchanged`."""
        self._storage.check_unchanged()
