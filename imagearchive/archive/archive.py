"""Read the members of an archive: `Archive` and `open_archive`."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from imagearchive.archive.entries import DirEntry, MemberInfo
from imagearchive.archive.file_pool import StoragePool
from imagearchive.archive.file_system import ArchiveFileSystem
from imagearchive.archive.member_file import MemberFile
from imagearchive.archive.samples import Samples
from imagearchive.containers.container import Checksum, Container
from imagearchive.containers.left_out import LeftOut, LeftOutMember, log_left_out
from imagearchive.containers.rows import KIND_FILE, KIND_SPARSE, METHOD_STORED
from imagearchive.errors import (
    CorruptArchiveError,
    LimitError,
    MemberNotFoundError,
    OptionTypeError,
    SampleIndexError,
    StaleIndexError,
)
from imagearchive.errors.arguments import check_flag, check_integer, check_sequence, shorten
from imagearchive.index.concatenate import open_concatenated
from imagearchive.index.nesting import Nested
from imagearchive.storage.changes import changes_first
from imagearchive.storage.checksums import CHECKSUMS, Verify, check_verify, compared_members
from imagearchive.storage.closing import Closable
from imagearchive.storage.limits import RATIO_FLOOR
from imagearchive.storage.local import unknown_kind
from imagearchive.storage.location import locate
from imagearchive.storage.mapping import copy_bytes
from imagearchive.storage.patterns import ArchivePath, absolute_paths, as_text, expand_paths
from imagearchive.storage.protocol import Storage, StorageKind

__all__ = [
    "Archive",
    "ArchivePath",
    "DirEntry",
    "LeftOut",
    "LeftOutMember",
    "MemberInfo",
    "open_archive",
]

# Members closer together than this are read ahead in one request: the bytes between them cost less
# than another request.
MAX_GAP: Final = 64 << 10
# A sparse file takes almost no space in its archive, whatever size it claims. So does a deflated
# file that was made to exhaust memory; but that takes at least a thousandth of its size.
MAX_EXPANDED_READ: Final = 1 << 32
MAX_SPARSE_READ: Final = RATIO_FLOOR
MAX_EXPANSION: Final = 100


def open_archive(path: ArchivePath, **options: Any) -> Archive:
    """Open any archive: TAR, ZIP, NPZ, Barecat, split bins, a directory, or several of them.

    Parameters
    ----------
    path : path-like or sequence of path-like
        An archive, a list of archives, or a brace pattern such as ``train-{0000..0146}.tar``.
    **options
        As for `Archive`.

    Returns
    -------
    Archive
    """
    return Archive(path, **options)


@dataclasses.dataclass(frozen=True)
class ArchiveOptions:
    """How an archive was opened: what its pickle carries beside the path.

    The attributes are arguments of `Archive`; paths are absolute.
    """

    ipath: str | None
    storage: StorageKind
    strict: bool
    max_open: int
    verify: Verify
    decompress_to: str | None
    nested: Nested


class Archive(ArchiveFileSystem, Closable, Mapping[str, bytes]):
    """One archive, or several read as one: a mapping of name to bytes.

    Positions number the members in archive order; names are paths with ``/``. Iteration yields
    files only, as `files` does.

    Parameters
    ----------
    path : path-like or sequence of path-like
        See `open_archive`.
    ipath : path-like, optional
        The index file to use, or to create; see `imagearchive.index.table.IndexTable.open`.
        Of several archives, it is one index for all, and nothing is saved beside them.
    storage : {"auto", "mmap", "pread", "memory"}
        How bytes are read; see `imagearchive.storage.local.open_storage`.
    overwrite_index : bool
        Build the index even if there is a fresh one.
    strict : bool
        Whether damage in the archive is an error. Otherwise the members before it can be read.
    max_open : int
        How many archive files stay open at once.
    verify : {"first", "always", "never"} or bool
        When a member that is read as a whole is compared with the checksum that a ZIP or Barecat
        has of it: at its first read in this process, at every read (True), or never (False).
        Compressed members are always compared. Parts of a member, as a file from `open` reads
        them, cannot be.
    decompress_to : path-like, optional
        A directory for decompressed copies. An archive that is compressed as a whole, such as
        ``train.tar.xz``, is decompressed there once, and the copy is read. It is found again by the
        name, size, time, and ends of the archive. Of several processes, one makes it. Delete it
        yourself when it is no longer needed.
    nested : bool, int, "auto", or "keep"
        Which members that are archives themselves are opened in place: ``n01440764.tar`` becomes
        the directory ``n01440764``. True opens all, up to eight levels deep, and a number opens as
        many levels. With ``"keep"``, and where another member has the name without the extensions,
        the directory keeps them. ``"auto"`` opens those of each level whose members are all
        archives. The content tells what is an archive: a TAR or ZIP, so also an NPZ, stored,
        deflated, or compressed as a ``.tar.gz`` is.

    Attributes
    ----------
    path : path-like or sequence of path-like
        As given.
    paths : list of str
        The archives, absolute.
    opened_paths : list of str
        What is read in place of each: the archive itself, or its copy in `decompress_to`.
    table : IndexTable
        The table of the members.
    left_out : LeftOut
        What the archive holds that is not a member or cannot be read: how many by reason, and the
        first names. It is logged when a process opens the archive for the first time.

    Raises
    ------
    ArchiveNotFoundError, UnsupportedArchiveError, CorruptArchiveError, StaleIndexError

    Notes
    -----
    Safe for threads, and after fork: reads are positional. A pickle holds the path and the
    options and opens the archive again.
    """

    def __init__(
        self,
        path: ArchivePath,
        ipath: str | os.PathLike[str] | None = None,
        *,
        storage: StorageKind = "auto",
        overwrite_index: bool = False,
        strict: bool = True,
        max_open: int = 128,
        verify: Verify | bool = "first",
        decompress_to: str | os.PathLike[str] | None = None,
        nested: Nested = False,
    ) -> None:
        check_integer("max_open", max_open, 1)
        strict = check_flag("strict", strict)
        overwrite_index = check_flag("overwrite_index", overwrite_index)
        if storage not in ("auto", "mmap", "pread", "memory"):
            raise unknown_kind(storage)
        given = as_text(path)
        # Absolute, so that reads do not depend on the current directory.
        self.paths = expand_paths(given)
        self._options = ArchiveOptions(
            ipath=None if ipath is None else locate(ipath, "ipath").path,
            storage=storage,
            strict=strict,
            max_open=max_open,
            verify=check_verify(verify),
            decompress_to=None if decompress_to is None else locate(decompress_to).path,
            nested=nested,
        )
        self.opened_paths = self.paths
        if decompress_to is not None:
            self.opened_paths = [_decompressed(path, decompress_to) for path in self.paths]
        table = open_concatenated(
            self.opened_paths, ipath, overwrite=overwrite_index, strict=strict, nested=nested
        )
        super().__init__(given, table)
        self.left_out = self.table.left_out
        log_left_out(given, self.left_out, table.meta.get("damage"))
        self._pool = StoragePool(self.table, storage, max_open)
        containers = self.table.containers
        self._only_container = containers[0] if len(containers) == 1 else None
        self._compared = compared_members(
            self._options.verify,
            len(self.table),
            any(container.checksum_algorithm for container in containers),
        )
        if storage == "memory":
            self._pool.open_all()

    @property
    def nested(self) -> Nested:
        """The argument: which archives inside the archive are opened."""
        return self._options.nested

    # --- reading ----------------------------------------------------------------------------

    def read(self, key: str | int) -> bytes | memoryview:
        """Return the bytes of a member, given by name or position.

        If the archive is mapped and the member is stored, nothing is copied: the result is a
        read-only view of the page cache. Its bytes become zeros if the file is truncated; see
        `check_unchanged`.

        Raises
        ------
        MemberNotFoundError, SampleIndexError
            There is no such member.
        CorruptArchiveError
            Its bytes contradict the index, or its checksum.
        UnsupportedMemberError
            It is encrypted, or compressed by an unsupported method.
        LimitError
            It takes less than a hundredth of its size in the archive: a sparse file larger than
            64 MiB, or a deflated one larger than 4 GiB.
        """
        position = key if isinstance(key, int) else self.position(key)
        try:
            shard, offset, size, _, method, kind = self._lookup.row(position)
        except OverflowError:
            shard, offset, size, _, method, kind = self._lookup.row(self._position(key))
        if method == METHOD_STORED and kind == KIND_FILE:
            data = self._pool.get(shard, position).read(offset, size)
            if position not in self._compared:
                self._compare_once(position, data)
            return data
        return self._read_special(position)

    def read_unverified(self, position: int) -> bytes | memoryview:
        """Return the bytes of a member without comparing its checksum, for callers that do."""
        shard, offset, size, _, method, kind = self._lookup.row(position)
        if method == METHOD_STORED and kind == KIND_FILE:
            return self._pool.get(shard, position).read(offset, size)
        return self._read_special(position)

    def _compare_once(self, position: int, data: bytes | memoryview) -> None:
        position = self._position(position)
        if position not in self._compared:
            self.compare(position, data)
            self._compared.add(position)

    def compare(self, position: int, data: bytes | memoryview) -> None:
        """Compare the whole content of a member with its checksum, unless reading has done so.

        Raises
        ------
        CorruptArchiveError
            They differ.
        """
        checksum = self.checksum(position)
        if checksum is not None and not checksum.compared:
            found = CHECKSUMS[checksum.algorithm](data, 0)
            if found != checksum.value:
                raise self.mismatch(position, found)

    def mismatch(self, position: int, found: int) -> CorruptArchiveError:
        """Return the error for a member whose content has the checksum `found`.

        Raises
        ------
        StaleIndexError
            The file has changed since it was opened.
        """
        self.check_unchanged()
        checksum = self.checksum(position)
        expected = 0 if checksum is None else checksum.value
        return CorruptArchiveError(
            f"{self._where(position)} at offset {int(self.table.entries['offset'][position])}: its "
            f"checksum is {found:08x} but the archive says "
            f"{expected:08x}; the file is damaged"
        )

    def _read_special(self, position: int) -> bytes | memoryview:
        """Read a member whose content is not just a range of its file."""
        position = self._position(position)
        shard, _, size, stored_size, _, kind = self._lookup.row(position)
        storage = self._pool.get(shard, position)
        most = MAX_SPARSE_READ if kind == KIND_SPARSE else MAX_EXPANDED_READ
        if size > most and size > MAX_EXPANSION * stored_size:
            raise LimitError(
                f"{self._where(position)}: {size} bytes, of which the archive holds {stored_size}, "
                f"are not read into memory at once; read parts of it with open() or member()"
            )
        row = self.table.entries[position]
        with changes_first(self):
            return self._container(shard).read_member(storage, row, self._where(position))

    def member(self, key: str | int) -> Storage:
        """Return a member as a storage of its own: random access without reading all of it.

        Parameters
        ----------
        key : str or int
            Name or position.

        Returns
        -------
        Storage
            Positions count from the start of the member. A compressed member is inflated from
            the nearest checkpoint; see `imagearchive.storage.deflate`.
        """
        position = self._position(key)
        row = self.table.entries[position]
        shard = int(row["shard"])
        storage = self._pool.get(shard, position)
        return self._container(shard).open_member(
            storage, row, self._where(position), self.table.checkpoints(position)
        )

    def checksum(self, key: str | int) -> Checksum | None:
        """Return the checksum that the container stores for a member, or None."""
        row = self.table.entries[self._position(key)]
        return self._container(int(row["shard"])).checksum(row)

    def _container(self, shard: int) -> Container:
        container = self._only_container
        return self.table.container(shard) if container is None else container

    def read_many(self, keys: Iterable[str | int]) -> list[bytes | memoryview]:
        """Return the bytes of several members, in the order of `keys`.

        They are read in the order of their offsets, which saves seeks on a disk.
        """
        if isinstance(keys, str):
            raise OptionTypeError(f"{keys!r} is one name; read() reads one member")
        positions = [self._position(key) for key in check_sequence("keys", keys)]
        rows = self.table.entries[positions] if positions else self.table.entries[:0]
        found: list[bytes | memoryview] = [b""] * len(positions)
        for i in np.lexsort((rows["offset"], rows["shard"])).tolist():
            found[i] = self.read(positions[i])
        return found

    def prefetch(self, keys: Iterable[str | int]) -> None:
        """Ask the kernel to read members ahead, without waiting for them.

        The members of a batch then arrive together instead of one after the other. Adjacent
        members are requested at once. Costs about a microsecond per member if they are in the
        page cache already.
        """
        if not self._pool.can_keep_all_open:
            # Files would be opened for this, and closed again before they are read.
            return
        listed = check_sequence("keys", keys)
        positions = np.array([self._position(key) for key in listed], np.int64)
        if not len(positions):
            return
        rows = self.table.entries[positions]
        order = np.lexsort((rows["offset"], rows["shard"]))
        shards = rows["shard"][order].astype(np.int64)
        starts = rows["offset"][order].astype(np.int64)
        # Members may overlap, such as links to one file, so the last may not have the highest end.
        ends = starts + rows["stored_size"][order].astype(np.int64)
        first = np.ones(len(order), np.bool_)
        first[1:] = (shards[1:] != shards[:-1]) | (starts[1:] - ends[:-1] > MAX_GAP)
        groups = np.flatnonzero(first)
        last = np.maximum.reduceat(ends, groups)
        for i, end in zip(groups.tolist(), last.tolist()):
            start = int(starts[i])
            file = self._pool.get(int(shards[i]), int(positions[order[i]]))
            file.prefetch(start, end - start)

    def keep_decompressed(self, limit: int, places: int = 1) -> None:
        """Have all threads share what they decompress, for reads that stay near each other.

        Without it, each thread decompresses by itself what it reads. With it, every span between
        two checkpoints is decompressed once and kept as long as there is room, which saves work if
        several threads read in about the same order. `DataLoader` calls it unless it shuffles all
        samples. Does nothing for archives that are not compressed as a whole.

        Parameters
        ----------
        limit : int
            Most bytes to keep in this process, apart from one span for each of the places; 0 stops
            it.
        places : int
            At how many places of the archive threads read at the same time.
        """
        self._pool.keep_decompressed(limit, places)

    def open(self, key: str | int) -> io.BufferedReader:
        """Open a member as a binary file object, seekable and independent of any other.

        Returns
        -------
        io.BufferedReader
            It works with Pillow, `numpy.load`, `json.load` and `io.TextIOWrapper`.
        """
        position = self._position(key)
        return io.BufferedReader(MemberFile(self.member(position), self.name(position)))

    def storage(self, shard: int = 0) -> Storage:
        """Return the storage of one of the files; ``table.files`` lists them."""
        if not 0 <= shard < self.table.shards:
            raise SampleIndexError(f"file {shard} of {self.table.shards}")
        return self._pool.get(shard, 0)

    def check_unchanged(self) -> None:
        """Raise if one of the open files has changed since it was opened.

        If an archive is truncated while it is mapped, the missing bytes of views that `read`
        returned before are zeros. Call this after using such a view. A file that was deleted or
        replaced by another of its name is unchanged: it stays readable while it is open.

        Raises
        ------
        StaleIndexError
            A file has another size or modification time. The message says "changed while open".
        OSError
            Bytes of a mapped file could not be read.
        """
        self.table.check_unchanged()
        self._pool.check_unchanged()

    def open_file(self) -> None:
        """Open the file now instead of at the first read, if the archive is a single file."""
        if len(self.table.files) == 1 and not self._container(0).members_are_files:
            self.storage()

    # --- mapping ----------------------------------------------------------------------------

    def __getitem__(self, name: str) -> bytes:
        if not isinstance(name, str):
            raise MemberNotFoundError(f"{name!r} is not a name; read() also takes positions")
        data = self.read(self.position(name))
        return data if data.__class__ is bytes else copy_bytes(data, self)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the bytes of a member, given by name, or `default` if there is none."""
        position = self._tree.find(name) if isinstance(name, str) else -1
        return default if position < 0 else copy_bytes(self.read(position), self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._tree.find(name) >= 0

    def __iter__(self) -> Iterator[str]:
        return self.files()

    def __len__(self) -> int:
        return self._lookup.count

    def _where(self, position: int) -> str:
        return f"{self._file_path(position)}: {self.name(position)!r}"

    def _file_path(self, position: int) -> str:
        return self._pool.path(int(self.table.entries["shard"][position]), position)

    # --- samples of several files -----------------------------------------------------------

    def samples(self, *extensions: str) -> Samples:
        """Group members into samples by their name up to the first dot of its last component.

        Parameters
        ----------
        *extensions : str
            One for each value of a sample, without the leading dot; ``;`` separates alternatives:
            ``samples("jpg;png", "cls")``. Without extensions, a sample is a dict of extension, in
            lower case, to bytes, with its name under ``"__key__"``.

        Returns
        -------
        Samples
            A sequence of tuples of bytes-like values, in archive order of their first files.

        Notes
        -----
        The rules are those of WebDataset: files without an extension, hidden files, and all below
        a top-level directory such as ``__meta__`` do not belong to samples.
        """
        return Samples(self, extensions)

    # --- closing and pickling ---------------------------------------------------------------

    def close(self) -> None:
        """Close all files. Views returned before stay valid; a second call does nothing."""
        super().close()
        self._pool.close()
        self.table.save_extra()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (
            type(self),
            absolute_paths(self.path),
            self._options,
            self.table.fingerprint(),
        )

    # Mapping compares by content, which would read both archives.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        path = self.path
        state = ", closed" if self._closed else ""
        return f"Archive({path!r}, {len(self)} members{state})"


def _reopen(
    kind: type[Archive], path: ArchivePath, options: ArchiveOptions, fingerprint: str
) -> Archive:
    archive = kind(path, **dataclasses.asdict(options))
    check_fingerprint(archive, fingerprint)
    return archive


def check_archive(archive: Any) -> None:
    """Raise OptionTypeError if `archive` is not an open archive, such as a path."""
    if not isinstance(archive, Archive):
        raise OptionTypeError(
            f"archive must be an open Archive, got {shorten(archive)}; pass imagearchive.open(path)"
        )


def check_fingerprint(archive: Archive, fingerprint: str) -> None:
    """Raise StaleIndexError if an archive that was opened again is not the one that was pickled."""
    if archive.table.fingerprint() != fingerprint:
        raise StaleIndexError(
            f"{archive.path}: the archive changed since it was pickled, so positions and labels "
            f"would differ in this process; open it again in all processes"
        )


def _decompressed(path: str, directory: str | os.PathLike[str]) -> str:
    """Return the path of what is read in place of an archive with ``decompress_to=``."""
    # Imported here, because few archives are decompressed.
    from imagearchive.containers.decompressed_copy import decompressed_copy

    location = locate(path)
    return decompressed_copy(location, directory).path if location.exists() else path
