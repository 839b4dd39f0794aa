"""Read the members of an archive, and compare them with their checksums."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from imagearchive.archive.file_pool import StoragePool
from imagearchive.archive.file_system import ArchiveFileSystem
from imagearchive.archive.member_file import MemberFile
from imagearchive.containers.container import Checksum, Container
from imagearchive.containers.rows import KIND_SPARSE
from imagearchive.errors import (
    CorruptArchiveError,
    LimitError,
    OptionTypeError,
    SampleIndexError,
)
from imagearchive.errors.arguments import check_sequence
from imagearchive.errors.plurals import pluralize
from imagearchive.index.table import IndexTable
from imagearchive.storage.changes import changes_first
from imagearchive.storage.checksums import CHECKSUMS, Verify, compared_members
from imagearchive.storage.crc import PositionSet
from imagearchive.storage.limits import RATIO_FLOOR
from imagearchive.storage.local import MmapStorage
from imagearchive.storage.protocol import RangesStorage, Storage, StorageKind

__all__ = ["BYTES_AHEAD", "MemberReader", "count_ahead"]

# Members closer together than this are read ahead in one request: the bytes between them cost less
# than another request.
MAX_GAP: Final = 64 << 10
#: How much of members on servers is requested ahead: what keeps a fast and distant server busy, and
#: so many members at least and at most.
BYTES_AHEAD: Final = 64 << 20
LEAST_AHEAD: Final = 8
MOST_AHEAD: Final = 4096
# A sparse file takes almost no space in its archive, whatever size it claims. So does a deflated
# file that was made to exhaust memory; but that takes at least a thousandth of its size.
MAX_EXPANDED_READ: Final = 1 << 32
MAX_SPARSE_READ: Final = RATIO_FLOOR
MAX_EXPANSION: Final = 100
# Of so many members at most it is remembered that they were requested, a bit each.
MAX_REQUESTED: Final = 1 << 23


def count_ahead(size: int, count: int) -> int:
    """Return how many samples on a server to request ahead; `count` of them have `size` bytes."""
    return min(max(LEAST_AHEAD, BYTES_AHEAD * count // max(1, size)), MOST_AHEAD)


class MemberReader(ArchiveFileSystem):
    """What an archive reads from its files: the bytes of members, given by name or position.

    Base of `imagearchive.archive.archive.Archive`, which takes the same `storage`, `max_open`, and
    `verify`, and closes the files.
    """

    def __init__(
        self,
        path: str | list[str],
        table: IndexTable,
        storage: StorageKind,
        max_open: int,
        verify: Verify,
    ) -> None:
        super().__init__(path, table)
        self._pool = StoragePool(table, storage, max_open)
        containers = table.containers
        self._only_container = containers[0] if len(containers) == 1 else None
        self._compared = compared_members(
            verify,
            len(table),
            any(container.checksum_algorithm for container in containers),
        )
        # The members that need not be requested again: for small images, finding out where they are
        # takes the consumer of a loader as long as all else that it does.
        self._requested = PositionSet(len(table) if len(table) <= MAX_REQUESTED else 0)

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
            stored = self._lookup.stored_range(position)
        except OverflowError:
            stored = self._lookup.stored_range(self._position(key))
        if stored is None:
            return self._read_special(position)
        shard, offset, size = stored
        data = self._pool.get(shard, position).read(offset, size)
        if position not in self._compared:
            self._compare_once(position, data)
        return data

    def views(self, positions: npt.NDArray[np.int64]) -> list[memoryview] | None:
        """Return the bytes of several members as views of mapped files, by one native call.

        Returns
        -------
        list of memoryview, or None
            As from `read`. None if one of them has to be copied, decompressed, or compared with its
            checksum, or does not exist: `read` does that.
        """
        if not self._compared.has_all(positions):
            return None
        return self._lookup.stored_views(positions, self._pool.file_view)

    def read_unverified(self, position: int) -> bytes | memoryview:
        """Return the bytes of a member without comparing its checksum, for callers that do."""
        stored = self._lookup.stored_range(position)
        if stored is None:
            return self._read_special(position)
        shard, offset, size = stored
        return self._pool.get(shard, position).read(offset, size)

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
                f"{self._where(position)}: {pluralize(size, 'byte')}, of which the archive holds "
                f"{stored_size}, are not read into memory at once; read parts of it with open() or "
                "member()"
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
        """Ask the kernel, or a server, for members that will be read soon; returns at once.

        The members of a batch then arrive together instead of one after the other. Adjacent
        members are requested at once. In mapped files of at most 1 GiB, each member is requested
        only once; in others, it costs about a microsecond per member that is in the page cache
        already.
        """
        if not self._pool.can_keep_all_open and not self._pool.are_remote:
            # Files would be opened for this, and closed again before they are read.
            return
        positions, remote = self._positions(keys), self._pool.are_remote
        if self._requested.has_all(positions):
            return
        done = bool(positions.size)
        # Storages on servers decide themselves which ranges to join.
        files = self._lookup.file_ranges(positions, None if remote else MAX_GAP)
        for shard, position, starts, ends in files:
            file = self._pool.get(shard, position)
            if isinstance(file, MmapStorage):
                # For small members, calls for each of them take as long as a tenth of decoding.
                done = file.prefetch_all(starts, ends) and done
                continue
            done = False
            ranges = zip(starts.tolist(), (ends - starts).tolist())
            if isinstance(file, RangesStorage):
                file.prefetch_ranges(ranges)
            else:
                for start, size in ranges:
                    file.prefetch(start, size)
        if done:
            self._requested.add_all(positions)

    def _positions(self, keys: Iterable[str | int]) -> npt.NDArray[np.int64]:
        """Return the positions of members; those in an array are checked all at once."""
        if isinstance(keys, np.ndarray) and keys.dtype == np.int64 and keys.ndim == 1 and keys.size:
            low, high = keys.min(), keys.max()
            if low >= 0 and high < len(self.table):
                return np.ascontiguousarray(keys)
        listed = check_sequence("keys", keys)
        return np.array([self._position(key) for key in listed], np.int64)

    @property
    def requests_ahead(self) -> int:
        """How many members are best requested ahead; 0 for local files."""
        if not self._pool.are_remote:
            return 0
        # There may be a billion members.
        sizes = self.table.entries["stored_size"][:: max(1, len(self.table) // 1024)]
        return count_ahead(int(sizes.sum()), len(sizes))

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

    def _where(self, position: int) -> str:
        return f"{self._file_path(position)}: {self.name(position)!r}"

    def _file_path(self, position: int) -> str:
        return self._pool.path(int(self.table.entries["shard"][position]), position)
