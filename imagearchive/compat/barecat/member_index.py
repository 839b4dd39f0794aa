"""The reading part of `barecat.Index`."""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from imagearchive.archive.archive import Archive
from imagearchive.archive.name_tree import encode
from imagearchive.compat.barecat.exceptions import NotOfferedError
from imagearchive.compat.barecat.infos import (
    BarecatDirInfo,
    BarecatEntryInfo,
    BarecatFileInfo,
    DirectoryCounts,
    Order,
    normalize_path,
)
from imagearchive.compat.barecat.not_offered import INDEX_METHODS, not_offered
from imagearchive.containers.barecat import BarecatContainer
from imagearchive.errors import CorruptIndexError, MemberNotFoundError

if TYPE_CHECKING:
    import numpy.typing as npt

    from imagearchive.index.table import IndexTable

__all__ = ["Index"]

logger = logging.getLogger(__name__)

_SHARD: Final = re.compile(r".*-shard-(\d{5,})", re.DOTALL)
_ROWS_AT_ONCE: Final = 4096
_COLUMNS: Final = ("shard", "offset", "size", "crc", "mode", "mtime")

_Entry = TypeVar("_Entry", bound=BarecatEntryInfo)
Directory = str | BarecatDirInfo


class Index:
    """The reading part of `barecat.Index`; `Barecat.index` returns one.

    Parameters
    ----------
    archive : path-like or Archive
        What `imagearchive.open` opens. An archive given by its path is closed with the index.
    readonly : bool
        False raises `NotOfferedError`.
    shard_size_limit, bufsize, wal, readonly_is_immutable
        Accepted, but without effect.
    shard_numbers : sequence of int, optional
        What `number_shards` returns for the archive's table.

    Notes
    -----
    The argument `bufsize` of the methods has no effect. Safe for threads and after fork.
    """

    def __init__(
        self,
        archive: str | os.PathLike[str] | Archive,
        shard_size_limit: int | str | None = None,
        bufsize: int | None = None,
        readonly: bool = True,
        wal: bool = False,
        readonly_is_immutable: bool = False,
        *,
        shard_numbers: Sequence[int] | None = None,
    ) -> None:
        if not readonly:
            raise NotOfferedError(
                "an index is only read here; write a TAR with imagearchive.TarWriter or "
                "imagearchive.pack"
            )
        self._is_owner = not isinstance(archive, Archive)
        self._archive = archive if isinstance(archive, Archive) else Archive(archive)
        self._table = self._archive.table
        self._shards = shard_numbers or number_shards(self._table)
        self._has_crc = is_barecat(self._table)
        self.path = self._archive.path
        self.readonly = True

    # --- all entries ------------------------------------------------------------------------

    def iter_all_fileinfos(
        self, order: Order = Order.ANY, bufsize: int | None = None
    ) -> Iterator[BarecatFileInfo]:
        """Iterate over all files, by default in archive order."""
        return self._fileinfos(self._positions(order))

    def iter_all_dirinfos(
        self, order: Order = Order.ANY, bufsize: int | None = None
    ) -> Iterator[BarecatDirInfo]:
        """Iterate over all directories, by default the root first and each before its own."""
        return map(self._dirinfo, self.iter_all_dirpaths(order))

    def iter_all_infos(
        self, order: Order = Order.ANY, bufsize: int | None = None
    ) -> Iterator[BarecatEntryInfo]:
        """Iterate over all directories and files, by default directories first."""
        entries: Iterator[BarecatEntryInfo] = chain(
            self.iter_all_dirinfos(order), self.iter_all_fileinfos(order)
        )
        return iter(_sorted(entries, order)) if order & (Order.PATH | Order.RANDOM) else entries

    def iter_all_filepaths(
        self, order: Order = Order.ANY, bufsize: int | None = None
    ) -> Iterator[str]:
        """Iterate over the paths of all files, by default in archive order."""
        return map(self._archive.name, self._positions(order).tolist())

    def iter_all_dirpaths(
        self, order: Order = Order.ANY, bufsize: int | None = None
    ) -> Iterator[str]:
        """Iterate over all directories, by default the root ``""`` first."""
        paths = chain([""], Archive.dirs(self._archive))
        if not order & (Order.PATH | Order.RANDOM):
            return paths
        return (info.path for info in _sorted(map(BarecatDirInfo, paths), order))

    def iter_all_paths(self, order: Order = Order.ANY, bufsize: int | None = None) -> Iterator[str]:
        """Iterate over the paths of all files.

        The original yields directories too, which its guide then tries to read.
        """
        return self.iter_all_filepaths(order)

    def __iter__(self) -> Iterator[BarecatFileInfo]:
        return self.iter_all_fileinfos()

    def __len__(self) -> int:
        return len(self._archive)

    @property
    def num_files(self) -> int:
        """The number of files."""
        return len(self._archive)

    @property
    def num_dirs(self) -> int:
        """The number of directories, the root included."""
        return sum(1 for _ in self.iter_all_dirpaths())

    @property
    def total_size(self) -> int:
        """The size of all files together, in bytes."""
        return self._archive.total_size

    # --- one entry --------------------------------------------------------------------------

    def lookup(self, path: str) -> BarecatEntryInfo:
        """Return the info object of a path; raises `MemberNotFoundError`."""
        if not self.isfile(path) and self.isdir(path):
            return self.lookup_dir(path)
        return self.lookup_file(path)

    def lookup_file(self, path: str, normalized: bool = False) -> BarecatFileInfo:
        """Return the info object of a file; raises `MemberNotFoundError`."""
        return self.fileinfo(self._archive.position(path))

    def lookup_files(self, paths: Iterable[str]) -> list[BarecatFileInfo]:
        """Return the info objects of several files; raises `MemberNotFoundError`."""
        return [self.lookup_file(path) for path in paths]

    def lookup_dir(self, dirpath: str) -> BarecatDirInfo:
        """Return the info object of a directory; raises `MemberNotFoundError`."""
        if not self.isdir(dirpath):
            raise MemberNotFoundError(f"{self.path}: no directory {dirpath!r}")
        return self._dirinfo(normalize_path(dirpath))

    def exists(self, path: str) -> bool:
        """Whether a file or directory has this path."""
        return self._archive.exists(path)

    def isfile(self, path: str) -> bool:
        """Whether a file has this path."""
        return self._archive.isfile(path)

    def isdir(self, path: str) -> bool:
        """Whether a directory has this path."""
        return self._archive.isdir(path)

    def __contains__(self, path: object) -> bool:
        return path in self._archive

    # --- directories ------------------------------------------------------------------------

    def listdir_names(self, diritem: Directory, order: Order = Order.ANY) -> list[str]:
        """Return the names in a directory, by default sorted."""
        return [_name(info) for info in self._listing(diritem, order)]

    def listdir_infos(self, diritem: Directory, order: Order = Order.ANY) -> list[BarecatEntryInfo]:
        """Return what is in a directory as info objects, directories first."""
        directories = self.iter_subdir_dirinfos(diritem, order)
        return [*directories, *self.iter_direct_fileinfos(diritem, order)]

    def iterdir_names(
        self, diritem: Directory, order: Order = Order.ANY, bufsize: int | None = None
    ) -> Iterator[str]:
        """Iterate over the names in a directory, by default sorted."""
        return iter(self.listdir_names(diritem, order))

    def iterdir_infos(
        self, diritem: Directory, order: Order = Order.ANY, bufsize: int | None = None
    ) -> Iterator[BarecatEntryInfo]:
        """Iterate over what is in a directory as info objects, directories first."""
        return iter(self.listdir_infos(diritem, order))

    def iter_direct_fileinfos(
        self, diritem: Directory, order: Order = Order.ANY, bufsize: int | None = None
    ) -> Iterator[BarecatFileInfo]:
        """Iterate over the files directly inside a directory; raises `MemberNotFoundError`."""
        found = self._listing(diritem, order)
        return (info for info in found if isinstance(info, BarecatFileInfo))

    def iter_subdir_dirinfos(
        self, diritem: Directory, order: Order = Order.ANY, bufsize: int | None = None
    ) -> Iterator[BarecatDirInfo]:
        """Iterate over the directories inside a directory; raises `MemberNotFoundError`."""
        found = self._listing(diritem, order)
        return (info for info in found if isinstance(info, BarecatDirInfo))

    def list_direct_fileinfos(
        self, dirpath: str, order: Order = Order.ANY
    ) -> list[BarecatFileInfo]:
        """Return the files directly inside a directory; none if it does not exist."""
        return list(self.iter_direct_fileinfos(dirpath, order)) if self.isdir(dirpath) else []

    def list_subdir_dirinfos(self, dirpath: str, order: Order = Order.ANY) -> list[BarecatDirInfo]:
        """Return the directories inside a directory; none if it does not exist."""
        return list(self.iter_subdir_dirinfos(dirpath, order)) if self.isdir(dirpath) else []

    def walk_infos(
        self, rootitem: Directory, bufsize: int = 32
    ) -> Iterator[tuple[BarecatDirInfo, list[BarecatDirInfo], list[BarecatFileInfo]]]:
        """Walk the tree from the top: ``(directory, directories, files)`` as info objects."""
        pending = [self.lookup_dir(_path(rootitem))]
        while pending:
            directory = pending.pop()
            found = self._listing(directory, Order.ANY)
            folders = [info for info in found if isinstance(info, BarecatDirInfo)]
            yield directory, folders, [one for one in found if isinstance(one, BarecatFileInfo)]
            pending.extend(reversed(folders))

    def walk_names(
        self, rootitem: Directory, bufsize: int = 32
    ) -> Iterator[tuple[str, list[str], list[str]]]:
        """Walk the tree as `os.walk` does; the root is called ``.``."""
        for folder, folders, files in Archive.walk(self._archive, _path(rootitem)):
            yield folder or ".", folders, files

    # --- patterns ---------------------------------------------------------------------------

    def glob_paths(
        self,
        pattern: str,
        recursive: bool = False,
        include_hidden: bool = False,
        only_files: bool = False,
    ) -> list[str]:
        """Return the files and directories that match, as `glob.glob` does."""
        return list(self.iterglob_paths(pattern, recursive, include_hidden, only_files=only_files))

    def iterglob_paths(
        self,
        pattern: str,
        recursive: bool = False,
        include_hidden: bool = False,
        bufsize: int | None = None,
        only_files: bool = False,
    ) -> Iterator[str]:
        """Iterate over what `glob_paths` returns."""
        found = Archive.iglob(
            self._archive, pattern, recursive=recursive, include_hidden=include_hidden
        )
        if only_files:
            return filter(self.isfile, found)
        # Unlike `glob.glob`, the original counts the root as a match.
        return chain([""], found) if pattern == "**" and recursive else found

    def iterglob_infos(
        self,
        pattern: str,
        recursive: bool = False,
        include_hidden: bool = False,
        bufsize: int | None = None,
        only_files: bool = False,
    ) -> Iterator[BarecatEntryInfo]:
        """Iterate over the info objects of what `glob_paths` returns."""
        return map(
            self.lookup,
            self.iterglob_paths(pattern, recursive, include_hidden, only_files=only_files),
        )

    # --- shards -----------------------------------------------------------------------------

    def get_last_file(self) -> BarecatFileInfo:
        """Return the file with the highest offset in the last shard.

        Raises
        ------
        MemberNotFoundError
            The archive is empty.
        """
        if not len(self):
            raise MemberNotFoundError(f"{self.path}: the archive is empty, so it has no last file")
        return self.fileinfo(int(self._positions(Order.ADDRESS)[-1]))

    @property
    def num_used_shards(self) -> int:
        """The highest number of a shard with files, plus one."""
        used = np.unique(self._table.entries["shard"]).tolist()
        return 1 + max((self._shards[place] for place in used), default=-1)

    @property
    def shard_size_limit(self) -> int:
        """Not offered, as the index does not keep it."""
        raise NotOfferedError(
            "shard_size_limit is not kept, as nothing is written; Barecat.physical_shard_end "
            "returns the size of a shard"
        )

    def logical_shard_end(self, shard: int) -> int:
        """Return the offset of the first byte after the last file of a shard."""
        entries = self._table.entries
        places = [place for place, number in enumerate(self._shards) if number == shard]
        found = entries[np.isin(entries["shard"], places)]
        return int((found["offset"] + found["stored_size"]).max(initial=0))

    # --- checking and closing ---------------------------------------------------------------

    def verify_integrity(self) -> bool:
        """Whether the index file is undamaged; `Barecat.verify_integrity` checks the data."""
        try:
            self._table.check()
        except CorruptIndexError as error:
            logger.warning("%s", error)
            return False
        return True

    def close(self) -> None:
        """Close an archive that was given by its path."""
        if self._is_owner:
            self._archive.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- rows -------------------------------------------------------------------------------

    def fileinfo(self, position: int) -> BarecatFileInfo:
        """Return the info object of the file at a position."""
        return next(self._fileinfos(np.array([position])))

    def _fileinfos(self, positions: npt.NDArray[Any]) -> Iterator[BarecatFileInfo]:
        for start in range(0, len(positions), _ROWS_AT_ONCE):
            part = positions[start : start + _ROWS_AT_ONCE]
            rows = self._table.entries[part]
            columns = (rows[name].tolist() for name in _COLUMNS)
            for position, shard, offset, size, crc, mode, mtime in zip(part.tolist(), *columns):
                yield BarecatFileInfo(
                    path=self._archive.name(position),
                    shard=self._shards[shard],
                    offset=offset,
                    size=size,
                    crc32c=crc if self._has_crc and (crc or not size) else None,
                    mode=mode or None,
                    mtime_ns=mtime or None,
                    position=position,
                )

    def _dirinfo(self, path: str) -> BarecatDirInfo:
        return BarecatDirInfo(path, count=self._count)

    def _count(self, directory: str) -> DirectoryCounts:
        is_file = [entry.is_file() for entry in Archive.scandir(self._archive, directory)]
        table = self._table
        low, high = table.lookup.bounds(encode(directory) + b"/" if directory else b"")
        sizes = table.entries["size"][table.name_order[low:high]]
        return DirectoryCounts(
            is_file.count(False), is_file.count(True), int(sizes.sum(dtype=np.uint64)), high - low
        )

    def _positions(self, order: Order) -> npt.NDArray[Any]:
        """Return the positions of all files in an order."""
        entries = self._table.entries
        found: npt.NDArray[Any]
        if order & Order.ADDRESS:
            found = np.lexsort((entries["offset"], entries["shard"]))
        elif order & Order.PATH:
            found = self._table.name_order
        elif order & Order.RANDOM:
            found = np.random.default_rng().permutation(len(entries))
        else:
            return np.arange(len(entries))
        return found[::-1] if order & Order.DESC else found

    def _listing(self, directory: Directory, order: Order) -> list[BarecatEntryInfo]:
        """Return the info objects of what is in a directory."""
        entries = list(Archive.scandir(self._archive, _path(directory)))
        positions = np.array([one.position for one in entries if one.is_file()], np.int64)
        files = self._fileinfos(positions)
        return _sorted(
            [next(files) if one.is_file() else self._dirinfo(one.path) for one in entries], order
        )


for _method, _instead in INDEX_METHODS.items():
    setattr(Index, _method, not_offered(f"Index.{_method}", _instead))


def is_barecat(table: IndexTable) -> bool:
    """Whether all files of a table belong to Barecat archives."""
    return all(container.name == BarecatContainer.name for container in table.containers)


def number_shards(table: IndexTable) -> list[int]:
    """Return the number of each file of a table: of its shard, or else its place.

    The index file of a Barecat archive, which holds no members, is numbered -1.
    """
    if not is_barecat(table):
        return list(range(len(table.files)))
    matches = [_SHARD.fullmatch(file) for file in table.files]
    return [int(match[1]) if match else -1 for match in matches]


def _path(directory: Directory) -> str:
    return directory.path if isinstance(directory, BarecatDirInfo) else directory


def _name(info: BarecatEntryInfo) -> str:
    return info.path.rpartition("/")[2]


def _address(info: BarecatEntryInfo) -> tuple[int, int]:
    if isinstance(info, BarecatFileInfo):
        return info.shard or 0, info.offset or 0
    # Directories have no address and come first.
    return -1, 0


def _sorted(infos: Iterable[_Entry], order: Order) -> list[_Entry]:
    """Return info objects in an order."""
    found = list(infos)
    if order & Order.ADDRESS:
        found.sort(key=_address, reverse=bool(order & Order.DESC))
    elif order & Order.PATH:
        found.sort(key=lambda info: encode(info.path), reverse=bool(order & Order.DESC))
    elif order & Order.RANDOM:
        random.shuffle(found)
    return found
