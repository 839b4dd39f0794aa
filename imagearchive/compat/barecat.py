"""The reading part of the package `barecat`: change the import and keep the code.

`Barecat` opens whatever `imagearchive.open` opens: Barecat archives, but also TAR, ZIP, split bins,
and directories. It differs from the original in one way: ``index.iter_all_paths()`` yields only
files, so that each of its paths can be read. ``dirs()`` yields the directories.

Nothing here writes archives; use `imagearchive.TarWriter` or ``imagearchive convert``.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from imagearchive.archive.archive import Archive
from imagearchive.codecs.view import DecodedView
from imagearchive.containers.barecat import BarecatContainer
from imagearchive.errors import (
    CorruptArchiveError,
    ImageArchiveError,
    MemberNotFoundError,
    OptionError,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.checksums import Verify
    from imagearchive.storage.patterns import ArchivePath

__all__ = [
    "Barecat",
    "BarecatDirInfo",
    "BarecatError",
    "BarecatFileInfo",
    "BarecatIntegrityError",
    "DecodedView",
    "FileNotFoundBarecatError",
    "Index",
]

BarecatError = ImageArchiveError
BarecatIntegrityError = CorruptArchiveError
FileNotFoundBarecatError = MemberNotFoundError

_SHARD: Final = re.compile(r".*-shard-(\d{5,})", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class BarecatFileInfo:
    """Metadata of a file; `crc32c`, `mode`, and `mtime_ns` are None if they are not stored.

    `shard` is the number of the shard or, in other formats, of the archive file that `offset`
    refers to. Owner and group, which the original has, are not kept.
    """

    path: str
    shard: int
    offset: int
    size: int
    crc32c: int | None
    mode: int | None
    mtime_ns: int | None
    position: int = dataclasses.field(repr=False)
    uid: None = dataclasses.field(default=None, repr=False)
    gid: None = dataclasses.field(default=None, repr=False)

    @property
    def end(self) -> int:
        """Offset of the first byte after the file."""
        return self.offset + self.size

    @property
    def mtime_dt(self) -> datetime | None:
        """The modification time in local time."""
        return None if self.mtime_ns is None else datetime.fromtimestamp(self.mtime_ns / 1e9)

    def isfile(self) -> bool:
        """Return True."""
        return True

    def isdir(self) -> bool:
        """Return False."""
        return False


@dataclasses.dataclass(frozen=True)
class BarecatDirInfo:
    """A directory, which is stored or implied by the paths of files."""

    path: str

    def isfile(self) -> bool:
        """Return False."""
        return False

    def isdir(self) -> bool:
        """Return True."""
        return True


Info = BarecatFileInfo | BarecatDirInfo


class Barecat(Archive):
    """A read-only archive with the methods of `barecat.Barecat`.

    Parameters
    ----------
    path : path-like
        The archive; for a Barecat archive without ``-shard-00000`` or ``-sqlite-index``.
    threadsafe : bool
        Accepted, but not needed: threads and processes may always share an archive.
    verify : {"always", "first", "never"} or bool
        When a file that is read as a whole is compared with its checksum; by default always, as in
        the original. See `imagearchive.Archive`.
    shard_size_limit, exist_ok, allow_writing_symlinked_shard, wal, readonly_is_immutable
        Accepted, but without effect on an archive that is only read.
    readonly, overwrite, append_only, auto_codec
        Values other than the defaults raise `OptionError`.
    **options
        As for `imagearchive.Archive`.

    Notes
    -----
    Safe for threads, for every start method of `multiprocessing`, and picklable.
    """

    def __init__(
        self,
        path: ArchivePath,
        shard_size_limit: int | str | None = None,
        readonly: bool = True,
        overwrite: bool = False,
        auto_codec: bool = False,
        exist_ok: bool = True,
        append_only: bool = False,
        threadsafe: bool = False,
        allow_writing_symlinked_shard: bool = False,
        wal: bool = False,
        readonly_is_immutable: bool = False,
        *,
        verify: Verify | bool = "always",
        **options: Any,
    ) -> None:
        if not readonly or overwrite or append_only:
            raise OptionError(
                f"{path}: archives are only read here; to write one, use the package barecat or "
                f"imagearchive.TarWriter"
            )
        if auto_codec:
            raise OptionError(
                "auto_codec=True is not supported; wrap the archive in DecodedView instead"
            )
        super().__init__(path, verify=verify, **options)
        is_barecat = all(one.name == BarecatContainer.name for one in self.table.containers)
        numbers = [_SHARD.fullmatch(file) if is_barecat else None for file in self.table.files]
        self._shards = [int(m[1]) if m else place for place, m in enumerate(numbers)]
        self._has_crc = is_barecat
        self.threadsafe = threadsafe
        self.readonly = True

    @property
    def index(self) -> Index:
        """Lookups and iteration over all files and directories."""
        return Index(self)

    # --- reading ----------------------------------------------------------------------------

    def read(
        self, item: BarecatFileInfo | str | int, offset: int = 0, size: int = -1
    ) -> bytes | memoryview:
        """Return `size` bytes of a file from `offset`, by default all of them.

        Raises
        ------
        MemberNotFoundError
            There is no such file.
        CorruptArchiveError
            The checksum of the whole file differs.
        """
        key = item.position if isinstance(item, BarecatFileInfo) else item
        if offset or size >= 0:
            member = self.member(key)
            start = max(0, min(offset, member.size))
            left = member.size - start
            return bytes(member.read(start, left if size < 0 else min(size, left)))
        data = super().read(key)
        return data if isinstance(data, bytes) else bytes(data)

    def readinto(self, item: BarecatFileInfo | str | int, buffer: Buffer, offset: int = 0) -> int:
        """Read from a file until it ends or the buffer is full; return the number of bytes."""
        key = item.position if isinstance(item, BarecatFileInfo) else item
        member = self.member(key)
        target = memoryview(buffer).cast("B")
        start = max(0, min(offset, member.size))
        count = min(len(target), member.size - start)
        if count == member.size:
            # Compares the checksum.
            target[:count] = self.read(key)
        else:
            member.readinto(start, target[:count])
        return count

    def open(  # type: ignore[override]
        self,
        item: BarecatFileInfo | str | int,
        mode: str = "r",
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> io.BufferedReader | io.TextIOWrapper:
        """Open a file, as text unless `mode` contains ``b``; the default encoding is UTF-8."""
        if mode.replace("b", "").replace("t", "") != "r":
            raise OptionError(
                f"mode must be 'r' or 'rb', as the archive is read-only, got {mode!r}"
            )
        raw = super().open(item.position if isinstance(item, BarecatFileInfo) else item)
        if "b" in mode:
            return raw
        return io.TextIOWrapper(raw, encoding or "utf-8", errors, newline)

    # --- file system ------------------------------------------------------------------------

    def scandir(self, path: str | os.PathLike[str] = "") -> Iterator[Info]:  # type: ignore[override]
        """Iterate over the info objects of what a directory contains."""
        for entry in super().scandir(path):
            if entry.is_file():
                yield self._fileinfo(entry.position)
            else:
                yield BarecatDirInfo(entry.path)

    def walk(self, path: str | os.PathLike[str] = "") -> Iterator[tuple[str, list[str], list[str]]]:
        """Walk the tree as `os.walk` does; the root is called ``.``."""
        for folder, folders, files in super().walk(path):
            yield folder or ".", folders, files

    def glob(
        self, pattern: str, recursive: bool = False, include_hidden: bool = False
    ) -> list[str]:
        """Return the files and directories that match, as `glob.glob` does."""
        return list(self.iglob(pattern, recursive, include_hidden))

    def iglob(
        self, pattern: str, recursive: bool = False, include_hidden: bool = False
    ) -> Iterator[str]:
        """Iterate over what `glob` returns."""
        return super().iglob(pattern, recursive=recursive, include_hidden=include_hidden)

    def globfiles(
        self, pattern: str, recursive: bool = False, include_hidden: bool = False
    ) -> list[str]:
        """Return the files that match."""
        return list(self.iglobfiles(pattern, recursive, include_hidden))

    def iglobfiles(
        self, pattern: str, recursive: bool = False, include_hidden: bool = False
    ) -> Iterator[str]:
        """Iterate over what `globfiles` returns."""
        return filter(self.isfile, self.iglob(pattern, recursive, include_hidden))

    def dirs(self) -> Iterator[str]:
        """Iterate over all directories, the root ``""`` first."""
        yield ""
        yield from super().dirs()

    @property
    def num_files(self) -> int:
        """The number of files."""
        return len(self)

    @property
    def num_dirs(self) -> int:
        """The number of directories, the root included."""
        return sum(1 for _ in self.dirs())

    def check_crc32c(self, item: BarecatFileInfo | str | int) -> bool:
        """Whether the stored checksum of a file is right, or none is stored."""
        key = item.position if isinstance(item, BarecatFileInfo) else item
        if self._has_crc:
            try:
                self.compare(self.position(key), self.read_unverified(self.position(key)))
            except CorruptArchiveError:
                return False
        return True

    def _fileinfo(self, position: int) -> BarecatFileInfo:
        entry = self.table.entries[position]
        crc, size = int(entry["crc"]), int(entry["size"])
        return BarecatFileInfo(
            path=self.name(position),
            shard=self._shards[entry["shard"]] if self._shards else 0,
            offset=int(entry["offset"]),
            size=size,
            crc32c=crc if self._has_crc and (crc or not size) else None,
            mode=int(entry["mode"]) or None,
            mtime_ns=int(entry["mtime"]) or None,
            position=position,
        )


class Index:
    """The reading part of `barecat.Index`; `Barecat.index` returns one."""

    def __init__(self, archive: Barecat) -> None:
        self._archive = archive

    def iter_all_fileinfos(self) -> Iterator[BarecatFileInfo]:
        """Iterate over all files, in archive order."""
        return map(self._archive._fileinfo, range(len(self._archive)))

    def iter_all_filepaths(self) -> Iterator[str]:
        """Iterate over the paths of all files, in archive order."""
        return self._archive.files()

    def iter_all_paths(self) -> Iterator[str]:
        """Iterate over the paths of all files.

        The original yields directories too, which its guide then tries to read.
        """
        return self._archive.files()

    def iter_all_dirpaths(self) -> Iterator[str]:
        """Iterate over all directories, the root ``""`` first."""
        return self._archive.dirs()

    def iter_all_dirinfos(self) -> Iterator[BarecatDirInfo]:
        """Iterate over all directories as info objects."""
        return map(BarecatDirInfo, self._archive.dirs())

    def iter_all_infos(self) -> Iterator[BarecatFileInfo | BarecatDirInfo]:
        """Iterate over all directories and files as info objects."""
        yield from self.iter_all_dirinfos()
        yield from self.iter_all_fileinfos()

    def lookup(self, path: str) -> BarecatFileInfo | BarecatDirInfo:
        """Return the info object of a path; raises `MemberNotFoundError`."""
        if not self._archive.isfile(path) and self._archive.isdir(path):
            return self.lookup_dir(path)
        return self.lookup_file(path)

    def lookup_file(self, path: str) -> BarecatFileInfo:
        """Return the info object of a file; raises `MemberNotFoundError`."""
        return self._archive._fileinfo(self._archive.position(path))

    def lookup_dir(self, path: str) -> BarecatDirInfo:
        """Return the info object of a directory; raises `MemberNotFoundError`."""
        if not self._archive.isdir(path):
            raise MemberNotFoundError(f"{self._archive.path}: no directory {path!r}")
        return BarecatDirInfo(os.path.normpath("/" + path).lstrip("/"))

    def listdir_names(self, path: str) -> list[str]:
        """Return the names in a directory."""
        return self._archive.listdir(path)

    def listdir_infos(self, path: str) -> list[BarecatFileInfo | BarecatDirInfo]:
        """Return what is in a directory as info objects."""
        return list(self._archive.scandir(path))

    def walk_names(self, path: str) -> Iterator[tuple[str, list[str], list[str]]]:
        """Walk the tree as `Barecat.walk` does."""
        return self._archive.walk(path)

    def exists(self, path: str) -> bool:
        """Whether a file or directory has this path."""
        return self._archive.exists(path)

    def isfile(self, path: str) -> bool:
        """Whether a file has this path."""
        return self._archive.isfile(path)

    def isdir(self, path: str) -> bool:
        """Whether a directory has this path."""
        return self._archive.isdir(path)

    @property
    def num_files(self) -> int:
        """The number of files."""
        return len(self._archive)

    @property
    def num_dirs(self) -> int:
        """The number of directories, the root included."""
        return self._archive.num_dirs

    @property
    def total_size(self) -> int:
        """The size of all files together, in bytes."""
        return self._archive.total_size

    def __len__(self) -> int:
        return len(self._archive)

    def __iter__(self) -> Iterator[BarecatFileInfo]:
        return self.iter_all_fileinfos()

    def __contains__(self, path: object) -> bool:
        return path in self._archive
