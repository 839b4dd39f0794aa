"""The names of an archive: their positions, and the tree of directories that they form."""

from __future__ import annotations

import operator
import os
from abc import abstractmethod
from collections.abc import Iterator

import numpy as np

from imagearchive.archive.entries import DirEntry, MemberInfo
from imagearchive.archive.name_tree import NameTree, decode, encode, name_text
from imagearchive.errors import OptionTypeError, SampleIndexError
from imagearchive.errors.plurals import pluralize
from imagearchive.index.table import IndexTable

__all__ = ["ArchiveFileSystem"]


class ArchiveFileSystem:
    """What an archive answers from its index alone, as a read-only file system.

    Base of `imagearchive.archive.archive.Archive`, which adds the content of members.
    """

    def __init__(self, path: str | list[str], table: IndexTable) -> None:
        self.path = path
        self.table = table
        self._lookup = table.lookup
        self._tree = NameTree(self._lookup, table.directories)

    @abstractmethod
    def _file_path(self, position: int) -> str:
        """Return the path of the file that holds a member."""

    # --- positions and names ----------------------------------------------------------------

    def position(self, name: str | int) -> int:
        """Return the position of a member, given by name; raises `MemberNotFoundError`."""
        if not isinstance(name, str):
            return self._position(name)
        position = self._lookup.find(encode(name))
        return position if position >= 0 else self._tree.require(name)

    def _position(self, key: str | int) -> int:
        if isinstance(key, str):
            return self.position(key)
        try:
            position = operator.index(key)
        except TypeError:
            raise OptionTypeError(
                f"a member is given by name or position, not by {type(key).__name__}"
            ) from None
        count = self._lookup.count
        if position < 0:
            position += count
        if not 0 <= position < count:
            raise SampleIndexError(f"{self.path}: position {key} of {pluralize(count, 'member')}")
        return position

    def name(self, position: int) -> str:
        """Return the name of the member at a position."""
        return decode(self._lookup.name(position))

    # --- files and directories --------------------------------------------------------------

    def files(self) -> Iterator[str]:
        """Iterate over the names of all files, in archive order."""
        name = self._lookup.name
        return (decode(name(position)) for position in range(self._lookup.count))

    def dirs(self) -> Iterator[str]:
        """Iterate over all directories, each before those inside it; the root is left out."""
        return self._tree.directories()

    @property
    def total_size(self) -> int:
        """The size of all members together, in bytes."""
        return int(self.table.entries["size"].sum(dtype=np.uint64))

    def listdir(self, path: str | os.PathLike[str] = "") -> list[str]:
        """Return the names in a directory, sorted.

        Raises
        ------
        MemberNotFoundError
            There is no such directory.
        """
        return self._tree.listing(path)[1]

    def scandir(self, path: str | os.PathLike[str] = "") -> Iterator[DirEntry]:
        """Iterate over the entries of a directory, sorted by name."""
        directory, names, positions = self._tree.listing(path)
        prefix = directory + "/" if directory else ""
        for name, position in zip(names, positions):
            yield DirEntry(self.info, name, prefix + name, position)

    def walk(self, path: str | os.PathLike[str] = "") -> Iterator[tuple[str, list[str], list[str]]]:
        """Walk the tree as `os.walk` does: ``(directory, directories, files)`` from the top."""
        return self._tree.walk(path)

    def glob(
        self, pattern: str, *, recursive: bool = False, include_hidden: bool = False
    ) -> list[str]:
        """Return the paths that match a pattern, as `glob.glob` on the extracted archive would.

        Parameters
        ----------
        pattern : str
            ``*``, ``?``, ``[...]`` within a component; ``**`` for any depth where `recursive`.
        recursive : bool
            Whether ``**`` matches directories of any depth.
        include_hidden : bool
            Whether wildcards match names that begin with a dot.
        """
        text = name_text(pattern)
        return self._tree.glob_all(text, recursive=recursive, include_hidden=include_hidden)

    def iglob(
        self, pattern: str, *, recursive: bool = False, include_hidden: bool = False
    ) -> Iterator[str]:
        """Iterate over what `glob` returns."""
        text = name_text(pattern)
        return self._tree.glob(text, recursive=recursive, include_hidden=include_hidden)

    def exists(self, path: str | os.PathLike[str]) -> bool:
        """Whether the path is a file or a directory."""
        return self._tree.isfile(path) or self._tree.isdir(path)

    def isfile(self, path: str | os.PathLike[str]) -> bool:
        """Whether the path is a file."""
        return self._tree.isfile(path)

    def isdir(self, path: str | os.PathLike[str]) -> bool:
        """Whether the path is a directory; the empty path is the root."""
        return self._tree.isdir(path)

    def info(self, key: str | int) -> MemberInfo:
        """Return the index's information about a member."""
        position = self._position(key)
        entry = self.table.entries[position]
        return MemberInfo(
            name=self.name(position),
            position=position,
            offset=int(entry["offset"]),
            size=int(entry["size"]),
            stored_size=int(entry["stored_size"]),
            mtime_ns=int(entry["mtime"]),
            mode=int(entry["mode"]),
            crc=int(entry["crc"]),
            archive=self._file_path(position),
        )

    stat = info
