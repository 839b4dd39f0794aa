"""Information about the members and directories of an archive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imagearchive.errors import MemberNotFoundError

__all__ = ["DirEntry", "MemberInfo"]


@dataclass(frozen=True)
class MemberInfo:
    """The index's information about a member.

    Attributes
    ----------
    name : str
        Its path in the archive.
    position : int
        Its number in archive order.
    offset : int
        Where its stored bytes begin in `archive`.
    size : int
        Its length in bytes.
    stored_size : int
        The bytes it takes in the archive; less than `size` if it is compressed.
    mtime_ns : int
        Modification time in nanoseconds since 1970.
    mode : int
        Permission bits.
    crc : int
        CRC-32 in a ZIP, CRC-32C in a Barecat archive, otherwise 0.
    archive : str
        The file that holds it.
    """

    name: str
    position: int
    offset: int
    size: int
    stored_size: int
    mtime_ns: int
    mode: int
    crc: int
    archive: str


class DirEntry:
    """An entry of a directory in an archive, as `os.DirEntry`."""

    __slots__ = ("_info", "name", "path", "position")

    def __init__(
        self, info: Callable[[int], MemberInfo], name: str, path: str, position: int
    ) -> None:
        self._info = info
        self.name = name
        self.path = path
        self.position = position

    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.position < 0

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.position >= 0

    def stat(self) -> MemberInfo:
        """Return the information about the file; raises `MemberNotFoundError` for a directory."""
        if self.position < 0:
            raise MemberNotFoundError(
                f"{self.path!r} is a directory, which has no information of its own"
            )
        return self._info(self.position)

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"
