"""The protocols of storages: random access to bytes, from any thread or process."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, Literal, Protocol, runtime_checkable

from imagearchive.errors import CorruptArchiveError

if TYPE_CHECKING:
    import os
    from abc import ABCMeta as ProtocolType
    from collections.abc import Iterable, Iterator

    from typing_extensions import Buffer
else:
    ProtocolType = type(Protocol)

__all__ = [
    "UNKNOWN_SIZE",
    "DescriptorStorage",
    "FileStorage",
    "ForwardReadError",
    "MappedStorage",
    "QuickProtocol",
    "RangedStorage",
    "RangesStorage",
    "ReadAheadStorage",
    "SelfCheckingStorage",
    "Storage",
    "StorageKind",
    "file_identity",
]

#: The size of a compressed stream's output whose end has not been seen.
UNKNOWN_SIZE: Final = 1 << 62

StorageKind = Literal["auto", "mmap", "pread", "memory"]


class ForwardReadError(CorruptArchiveError):
    """What is read once, from start to end, cannot be read in this order."""


def file_identity(status: os.stat_result) -> str:
    """Return the identity of a local file: its modification time, in nanoseconds since 1970."""
    return f"mtime_ns={status.st_mtime_ns}"


class QuickProtocol(ProtocolType):
    """The metaclass of protocols for which `isinstance` is called whenever a file is opened.

    It collects the members of a protocol once. Python before 3.12 does so at each call, which
    takes 20 us.
    """

    def __instancecheck__(cls, instance: object) -> bool:  # noqa: N805
        if Protocol not in cls.__bases__:
            return super().__instancecheck__(instance)
        # The class first, so that no property is computed.
        kind = type(instance)
        return all(hasattr(kind, name) or hasattr(instance, name) for name in _member_names(cls))


@functools.cache
def _member_names(protocol: type) -> tuple[str, ...]:
    """Return the names of a protocol's members, its own before those of the protocols above."""
    names = [
        name
        for base in protocol.__mro__
        if Protocol in base.__bases__
        for name in (*base.__annotations__, *vars(base))
        if not name.startswith("_")
    ]
    return tuple(dict.fromkeys(names))


@runtime_checkable
class Storage(Protocol, metaclass=QuickProtocol):
    """Random access to the bytes of one file, from any thread or process.

    Attributes
    ----------
    path : str
        The file's name in messages.
    size : int
        Its length in bytes when it was opened.
    """

    path: str
    size: int

    @property
    def zero_copy(self) -> bool:
        """Whether `read` returns views of memory, without reading or copying."""
        ...

    def read(self, offset: int, size: int) -> bytes | memoryview:
        """Return exactly `size` bytes from `offset`; read-only, and copied only if necessary.

        Raises
        ------
        CorruptArchiveError
            The range is not inside the file.
        StaleIndexError
            The file has shrunk since it was opened.
        ClosedError
            The storage is closed.
        """
        ...

    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Fill a writable buffer from `offset`; return its length in bytes. Raises as `read`."""
        ...

    def check_unchanged(self) -> None:
        """Raise if the file behind the storage has changed since it was opened; a system call.

        Whoever finds damaged bytes asks this first: bytes of a file that was overwritten are not
        damage. Does nothing for bytes in memory, and once the storage is closed.

        Raises
        ------
        StaleIndexError
            The file has another size or modification time.
        OSError
            Bytes of a mapped file could not be read.
        """
        ...

    def close(self) -> None:
        """Release the file; views returned before stay valid. A second call does nothing."""
        ...


@runtime_checkable
class SelfCheckingStorage(Storage, Protocol):
    """A storage that compares its content with a checksum when any part of it is read."""

    def verify(self) -> None:
        """Check all of the content now, unless it has been checked before.

        Raises
        ------
        CorruptArchiveError
            The content does not match its checksum.
        """
        ...


@runtime_checkable
class RangedStorage(Storage, Protocol):
    """A storage that knows where it has data; everything between is zero."""

    def data_ranges(self, most: int) -> Iterator[tuple[int, int]]:
        """Yield offset and size of each stretch of data, in pieces of at most `most` bytes."""
        ...


@runtime_checkable
class ReadAheadStorage(Storage, Protocol):
    """A storage that can read ahead."""

    def prefetch(self, offset: int, size: int) -> None:
        """Request a range that will be read soon; costs about a microsecond and never fails."""
        ...


@runtime_checkable
class RangesStorage(Storage, Protocol):
    """A storage for which many requests at once are faster than one after the other."""

    def prefetch_ranges(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Request ranges, offset and size each, that will be read soon; never fails."""
        ...

    def scattered(self) -> Storage:
        """Return a storage of the same bytes for reads that are far apart; the caller closes it.

        It fetches nothing ahead, so that many threads can read in order, each at another place.
        """
        ...


@runtime_checkable
class FileStorage(ReadAheadStorage, Protocol):
    """A storage of a whole file.

    Attributes
    ----------
    identity : str
        The identity of the file when it was opened; see `imagearchive.storage.location.Status`.
    """

    identity: str


@runtime_checkable
class MappedStorage(FileStorage, Protocol):
    """A storage of a mapped file, which can also be read through a descriptor."""

    def open_descriptor(self) -> DescriptorStorage | None:
        """Open the file for reads without page faults, or return None if it is gone."""
        ...


class DescriptorStorage(FileStorage, Protocol):
    """A storage of an open file, for native code that reads it by its descriptor."""

    def fileno(self) -> int:
        """Return the file descriptor, which is valid until `close`."""
        ...
