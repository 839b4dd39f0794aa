"""A member as a binary file object."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO, Final

from imagearchive.errors import ClosedError, OptionError
from imagearchive.storage.changes import changes_first
from imagearchive.storage.local import MemoryStorage

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.protocol import Storage

__all__ = ["MemberFile", "open_bytes"]

# Copying fewer bytes is faster than reading them through a Python object.
_COPY_BELOW: Final = 1 << 20


def open_bytes(data: bytes | memoryview) -> BinaryIO:
    """Return bytes in memory as a binary file.

    Up to 1 MiB is copied. A larger view is not copied; the file keeps its memory alive, such as the
    mapping of an archive, until it is closed.
    """
    if isinstance(data, bytes) or len(data) <= _COPY_BELOW:
        return io.BytesIO(data)
    return io.BufferedReader(MemberFile(MemoryStorage(data), "<memory>"))


class MemberFile(io.RawIOBase):
    """A member as a raw file; `Archive.open` puts a buffer on top."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self._position = 0
        self.name = name
        self.mode = "rb"

    @property
    def size(self) -> int:
        """The size of the member in bytes."""
        return self._storage.size

    def readable(self) -> bool:
        """Return True: members can always be read."""
        self._check()
        return True

    def seekable(self) -> bool:
        """Return True: members can always be sought in."""
        self._check()
        return True

    def tell(self) -> int:
        """Return the position."""
        self._check()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, which may be beyond the end."""
        self._check()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._storage.size}
        if whence not in base:
            raise OptionError(f"whence must be 0, 1, or 2, got {whence}")
        if base[whence] + offset < 0:
            raise OptionError(f"{self.name}: cannot seek to {base[whence] + offset}")
        self._position = base[whence] + offset
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        """Fill a buffer from the current position; return the number of bytes."""
        self._check()
        target = memoryview(buffer).cast("B")
        count = max(0, min(len(target), self._storage.size - self._position))
        if count:
            with changes_first(self._storage):
                self._storage.readinto(self._position, target[:count])
            self._position += count
        return count

    def readall(self) -> bytes:
        """Read from the current position to the end, with a single copy."""
        self._check()
        count = max(0, self._storage.size - self._position)
        with changes_first(self._storage):
            data = bytes(self._storage.read(self._position, count)) if count else b""
        self._position += count
        return data

    def _check(self) -> None:
        if self.closed:
            raise ClosedError(f"{self.name}: I/O operation on closed file")
