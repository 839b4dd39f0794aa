"""A member as a binary file object."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO, Final

from imagearchive.errors import ClosedError, OptionError
from imagearchive.storage.local import MemoryStorage

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.protocol import Storage

__all__ = ["MemberFile", "open_bytes"]

# Copying fewer bytes is cheaper than reading them through a Python object.
_COPY_BELOW: Final = 1 << 20


def open_bytes(data: bytes | memoryview) -> BinaryIO:
    """Return bytes in memory as a binary file.

    Up to 1 MiB is copied. A larger view is not: the file keeps its memory alive, such as the
    mapping of an archive, until it is closed.
    """
    if isinstance(data, bytes) or len(data) <= _COPY_BELOW:
        return io.BytesIO(data)
    return io.BufferedReader(MemberFile(MemoryStorage(data), "<memory>"))


class MemberFile(io.RawIOBase):
    """A member as a raw file; `Archive.open` puts a buffer on top."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self._place = 0
        self.name = name
        self.mode = "rb"

    def readable(self) -> bool:
        """Whether it can be read: always."""
        self._check()
        return True

    def seekable(self) -> bool:
        """Whether it has positions: always."""
        self._check()
        return True

    def tell(self) -> int:
        """Return the position."""
        self._check()
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, which may lie behind the end."""
        self._check()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._storage.size}
        if whence not in base:
            raise OptionError(f"whence={whence}: 0, 1 and 2 are known")
        if base[whence] + offset < 0:
            raise OptionError(f"{self.name}: cannot seek to {base[whence] + offset}")
        self._place = base[whence] + offset
        return self._place

    def readinto(self, buffer: Buffer) -> int:
        """Fill a buffer from the position on; return how much of it."""
        self._check()
        target = memoryview(buffer).cast("B")
        count = max(0, min(len(target), self._storage.size - self._place))
        if count:
            self._storage.readinto(self._place, target[:count])
            self._place += count
        return count

    def readall(self) -> bytes:
        """Read from the position to the end, with a single copy."""
        self._check()
        count = max(0, self._storage.size - self._place)
        data = bytes(self._storage.read(self._place, count)) if count else b""
        self._place += count
        return data

    def _check(self) -> None:
        if self.closed:
            raise ClosedError(f"{self.name}: I/O operation on closed file")
