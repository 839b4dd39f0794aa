"""What `barecat` tells about files and directories, and in which order."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from datetime import datetime
from enum import Flag, auto
from typing import Any, NamedTuple

__all__ = ["BarecatDirInfo", "BarecatEntryInfo", "BarecatFileInfo", "DirectoryCounts", "Order"]


class Order(Flag):
    """The order of an iteration; ``|`` combines `PATH` or `ADDRESS` with `DESC`.

    Attributes
    ----------
    ANY
        The order of the archive.
    RANDOM
        A new random order each time.
    ADDRESS
        By shard and offset.
    PATH
        By the bytes of the path in UTF-8.
    DESC
        Descending.
    """

    ANY = auto()
    RANDOM = auto()
    ADDRESS = auto()
    PATH = auto()
    DESC = auto()


def normalize_path(path: str | os.PathLike[str]) -> str:
    """Return a path without leading slashes, ``.``, and ``..``; the root is the empty string."""
    normal = os.path.normpath(path).lstrip("/")
    return "" if normal == "." else normal


class BarecatEntryInfo:
    """Base class of what describes a file or a directory."""

    path: str
    mtime_ns: int | None

    @property
    def mtime_dt(self) -> datetime | None:
        """The modification time in local time."""
        return datetime.fromtimestamp(self.mtime_ns / 1e9) if self.mtime_ns else None

    def isfile(self) -> bool:
        """Whether it is a file."""
        return False

    def isdir(self) -> bool:
        """Whether it is a directory."""
        return False


@dataclasses.dataclass(frozen=True)
class BarecatFileInfo(BarecatEntryInfo):
    """Metadata of a file; `crc32c`, `mode`, and `mtime_ns` are None if they are not stored.

    `shard` is the number of the shard or, in other formats, of the archive file that `offset`
    refers to. `size` is in bytes. Owner and group are not kept.
    """

    path: str = ""
    mode: int | None = None
    uid: int | None = dataclasses.field(default=None, repr=False)
    gid: int | None = dataclasses.field(default=None, repr=False)
    mtime_ns: int | None = None
    shard: int | None = None
    offset: int | None = None
    size: int | None = None
    crc32c: int | None = None
    #: The position in the archive; None if the object was made by hand.
    position: int | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.position is None:
            object.__setattr__(self, "path", normalize_path(self.path))

    @property
    def end(self) -> int:
        """Offset of the first byte after the file."""
        return (self.offset or 0) + (self.size or 0)

    def isfile(self) -> bool:
        """Return True."""
        return True

    def asdict(self) -> dict[str, Any]:
        """Return the metadata as a dictionary."""
        found = dataclasses.asdict(self)
        del found["position"]
        return found


class DirectoryCounts(NamedTuple):
    """What is in a directory, and in all below it."""

    num_subdirs: int
    num_files: int
    size_tree: int
    num_files_tree: int


class BarecatDirInfo(BarecatEntryInfo):
    """A directory, which is stored or implied by the paths of files.

    Mode, time, and owner are not kept and are None. The numbers are counted when they are first
    asked for.

    Attributes
    ----------
    path : str
    num_subdirs, num_files : int
        Directories and files directly inside it.
    size_tree : int
        The size of all files below it, in bytes.
    num_files_tree : int
        The number of all files below it.
    """

    num_subdirs: int
    num_files: int
    size_tree: int
    num_files_tree: int

    def __init__(
        self,
        path: str = "",
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime_ns: int | None = None,
        *,
        count: Callable[[str], DirectoryCounts] | None = None,
    ) -> None:
        self.path = normalize_path(path) if count is None else path
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime_ns = mtime_ns
        self._count = count

    def __getattr__(self, name: str) -> Any:
        if name not in DirectoryCounts._fields:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        if self._count is None:
            return None
        self.__dict__.update(self._count(self.path)._asdict())
        return self.__dict__[name]

    @property
    def num_entries(self) -> int:
        """The number of directories and files directly inside it."""
        return self.num_subdirs + self.num_files

    def isdir(self) -> bool:
        """Return True."""
        return True

    def asdict(self) -> dict[str, Any]:
        """Return the metadata as a dictionary."""
        names = ("path", *DirectoryCounts._fields, "mode", "uid", "gid", "mtime_ns")
        return {name: getattr(self, name) for name in names}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.asdict(), "_count": None}

    def __repr__(self) -> str:
        return f"BarecatDirInfo({self.path!r})"
