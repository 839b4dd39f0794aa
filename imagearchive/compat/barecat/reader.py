"""The reading part of `barecat.Barecat`."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from imagearchive.archive.archive import Archive
from imagearchive.archive.member_file import MemberFile
from imagearchive.archive.verify import verify as verify_archive
from imagearchive.compat.barecat.exceptions import NotOfferedError
from imagearchive.compat.barecat.infos import BarecatEntryInfo, BarecatFileInfo
from imagearchive.compat.barecat.member_index import Index, is_barecat, number_shards
from imagearchive.compat.barecat.not_offered import METHODS, not_offered
from imagearchive.errors import CorruptArchiveError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.checksums import Verify
    from imagearchive.storage.patterns import ArchivePath

__all__ = ["Barecat", "BarecatFileObject", "BarecatReadOnlyFileObject"]

logger = logging.getLogger(__name__)

MAX_LOGGED: Final = 10


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
        Values other than the defaults raise `NotOfferedError`.
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
            raise NotOfferedError(
                f"{path}: archives are only read here; write a TAR with imagearchive.TarWriter or "
                f"imagearchive.pack"
            )
        if auto_codec:
            raise NotOfferedError(
                "auto_codec=True is not offered; wrap the archive in DecodedView, which decodes "
                "its files"
            )
        super().__init__(path, verify=verify, **options)
        self._shards = number_shards(self.table)
        self._has_crc = is_barecat(self.table)
        self.threadsafe = threadsafe
        self.readonly = True

    @property
    def index(self) -> Index:
        """Lookups and iteration over all files and directories."""
        return Index(self, shard_numbers=self._shards)

    # --- reading ----------------------------------------------------------------------------

    def read(
        self, item: BarecatFileInfo | str | int, offset: int = 0, size: int | None = -1
    ) -> bytes | memoryview:
        """Return `size` bytes of a file from `offset`; all of them if it is -1 or None.

        Raises
        ------
        MemberNotFoundError
            There is no such file.
        CorruptArchiveError
            The checksum of the whole file differs.
        """
        key = _key(item)
        size = -1 if size is None else size
        if offset or size >= 0:
            member = self.member(key)
            start = max(0, min(offset, member.size))
            left = member.size - start
            return bytes(member.read(start, left if size < 0 else min(size, left)))
        data = super().read(key)
        return data if isinstance(data, bytes) else bytes(data)

    def readinto(self, item: BarecatFileInfo | str | int, buffer: Buffer, offset: int = 0) -> int:
        """Read from a file until it ends or the buffer is full; return the number of bytes."""
        key = _key(item)
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
    ) -> BarecatReadOnlyFileObject | io.TextIOWrapper:
        """Open a file, as text unless `mode` contains ``b``; the default encoding is UTF-8."""
        if mode.replace("b", "").replace("t", "") != "r":
            raise NotOfferedError(
                f"mode must be 'r' or 'rb', as the archive is read-only, got {mode!r}; write a TAR "
                f"with imagearchive.TarWriter"
            )
        position = self.position(_key(item))
        file = BarecatReadOnlyFileObject(MemberFile(self.member(position), self.name(position)))
        if "b" in mode:
            return file
        return io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

    # --- mapping ----------------------------------------------------------------------------

    def keys(self) -> Iterator[str]:  # type: ignore[override]
        """Iterate over the paths of all files."""
        return self.files()

    def values(self) -> Iterator[bytes]:  # type: ignore[override]
        """Iterate over the contents of all files."""
        return (self[name] for name in self.files())

    def items(self) -> Iterator[tuple[str, bytes]]:  # type: ignore[override]
        """Iterate over pairs of path and content."""
        return ((name, self[name]) for name in self.files())

    def setdefault(self, key: str, default: Any = None, /) -> bytes:
        """Return the content of a file.

        Raises
        ------
        NotOfferedError
            There is no such file, so the original would write it.
        """
        if key not in self:
            raise NotOfferedError(
                f"{self.path}: there is no {key!r}, and archives are only read here; use get()"
            )
        return self[key]

    # --- file system ------------------------------------------------------------------------

    def scandir(self, path: str | os.PathLike[str] = "") -> Iterator[BarecatEntryInfo]:  # type: ignore[override]
        """Iterate over the info objects of what a directory contains, directories first."""
        return self.index.iterdir_infos(os.fspath(path))

    def walk(self, path: str | os.PathLike[str] = "") -> Iterator[tuple[str, list[str], list[str]]]:
        """Walk the tree as `os.walk` does; the root is called ``.``."""
        return self.index.walk_names(os.fspath(path))

    def glob(
        self, pattern: str, recursive: bool = False, include_hidden: bool = False
    ) -> list[str]:
        """Return the files and directories that match, as `glob.glob` does."""
        return self.index.glob_paths(pattern, recursive, include_hidden)

    def iglob(
        self, pattern: str, recursive: bool = False, include_hidden: bool = False
    ) -> Iterator[str]:
        """Iterate over what `glob` returns."""
        return self.index.iterglob_paths(pattern, recursive, include_hidden)

    def globfiles(
        self, pattern: str, recursive: bool = False, include_hidden: bool = False
    ) -> list[str]:
        """Return the files that match."""
        return self.index.glob_paths(pattern, recursive, include_hidden, only_files=True)

    def iglobfiles(
        self, pattern: str, recursive: bool = False, include_hidden: bool = False
    ) -> Iterator[str]:
        """Iterate over what `globfiles` returns."""
        return self.index.iterglob_paths(pattern, recursive, include_hidden, only_files=True)

    def dirs(self) -> Iterator[str]:
        """Iterate over all directories, the root ``""`` first."""
        return self.index.iter_all_dirpaths()

    @property
    def num_files(self) -> int:
        """The number of files."""
        return len(self)

    @property
    def num_dirs(self) -> int:
        """The number of directories, the root included."""
        return self.index.num_dirs

    @property
    def total_logical_size(self) -> int:
        """The size of all files together, in bytes."""
        return self.total_size

    @property
    def total_physical_size_stat(self) -> int:
        """The size of the shards together, in bytes; in other formats, of the archive's files."""
        # By place, because shards of several archives have the same numbers.
        places = [place for place, number in enumerate(self._shards) if number >= 0]
        return sum(self.storage(place).size for place in places)

    total_physical_size_seek = total_physical_size_stat

    @property
    def shard_size_limit(self) -> int:
        """Not offered, as the index does not keep it."""
        return self.index.shard_size_limit

    def logical_shard_end(self, shard_number: int) -> int:
        """Return the offset of the first byte after the last file of a shard."""
        return self.index.logical_shard_end(shard_number)

    def physical_shard_end(self, shard_number: int) -> int:
        """Return the size of a shard in bytes, 0 if no file is in it."""
        if shard_number < 0 or shard_number not in self._shards:
            return 0
        return self.storage(self._shards.index(shard_number)).size

    # --- checking ---------------------------------------------------------------------------

    def check_crc32c(self, item: BarecatFileInfo | str | int) -> bool:
        """Whether the stored checksum of a file is right, or none is stored."""
        key = _key(item)
        if self._has_crc:
            try:
                position = self.position(key)
                self.compare(position, self.read_unverified(position))
            except CorruptArchiveError:
                return False
        return True

    def verify_integrity(self, quick: bool = False) -> bool:
        """Whether all files have their checksums and the index is undamaged; see also `verify`.

        Parameters
        ----------
        quick : bool
            Compare only the last file.
        """
        if quick:
            files_are_right = not len(self) or self.check_crc32c(self.index.get_last_file())
        else:
            failures = verify_archive(self).failures
            for failure in failures[:MAX_LOGGED]:
                logger.warning("%s: %s", self.path, failure)
            files_are_right = not failures
        return self.index.verify_integrity() and files_are_right


for _method, _instead in METHODS.items():
    setattr(Barecat, _method, not_offered(f"Barecat.{_method}", _instead))


class BarecatFileObject(io.BufferedReader):
    """A file in an archive as a binary file object."""


class BarecatReadOnlyFileObject(BarecatFileObject):
    """What `Barecat.open` returns: seekable, and independent of any other."""

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return len(self)

    def readall(self) -> bytes:
        """Read all bytes from the current position on."""
        return self.read()

    def __len__(self) -> int:
        raw = self.raw
        assert isinstance(raw, MemberFile)
        return raw.size


def _key(item: BarecatFileInfo | str | int) -> str | int:
    """Return what an archive calls a file: its position, or its path."""
    if not isinstance(item, BarecatFileInfo):
        return item
    return item.path if item.position is None else item.position
