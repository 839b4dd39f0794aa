"""The files behind an archive, opened at first use, a bounded number at a time."""

from __future__ import annotations

import errno
import logging
import sys
from typing import TYPE_CHECKING, Final

import numpy as np

from imagearchive.errors import (
    ClosedError,
)
from imagearchive.index.freshness import file_changed
from imagearchive.storage.location import KnownLocation, locate
from imagearchive.storage.lru import LRUCache
from imagearchive.storage.protocol import FileStorage, ReadAheadStorage, StorageKind
from imagearchive.storage.span_cache import SpanCache

if TYPE_CHECKING:
    from imagearchive.index.table import IndexTable

__all__ = ["StoragePool", "check_indexed"]

# Storages of remote files hold no descriptor, but a kilobyte of memory.
MAX_REMOTE: Final = 4096
# Decompressed views keep what they decompressed last, in each thread.
MAX_VIEWS: Final = 32

logger = logging.getLogger(__name__)


def check_indexed(table: IndexTable, storage: FileStorage) -> None:
    """Raise unless a file that was just opened is the one that the index was compared with.

    Raises
    ------
    StaleIndexError
        The file has another size or identity.
    """
    expected = table.file_signatures.get(storage.path)
    if expected is not None and expected != (storage.size, storage.identity):
        raise file_changed(storage.path)


class StoragePool:
    """The storages of an archive's files, opened at first use, a bounded number at a time.

    It has no lock, so a fork at any moment leaves nothing locked. Each step is atomic, and if two
    threads open the same file at once, one of the two storages is kept.
    """

    def __init__(self, table: IndexTable, kind: StorageKind, limit: int) -> None:
        self._table = table
        self._kind = kind
        # An evicted storage is not closed, as another thread may be reading from it. It closes when
        # its last user drops it.
        self._open = LRUCache[int, ReadAheadStorage](limit)
        self._closed = False
        self._spans: SpanCache | None = None
        # The shards whose members are files of their own.
        self._directories = {
            shard
            for shard in range(len(table.files) if _has_directories(table) else 0)
            if table.container(shard).members_are_files
        }
        # The open file of an archive that has only one: the fast path of `get`.
        self._sole: ReadAheadStorage | None = None
        self._file_count = len(table.files)
        self._single = self._file_count == 1 and not self._directories
        # The shards that are the same bytes as another one, read by another container format.
        self._same = {
            shard: one.parent
            for shard, one in table.derived.items()
            if one.parent is not None and not one.format
        }
        # How many shards, from the first on, are the bytes of that file.
        self._sole_shards = 1
        while self._same.get(self._sole_shards) == 0:
            self._sole_shards += 1
        self._remote = bool(table.files) and locate(table.files[0]).local_path is None
        if self._remote:
            # Nothing is open but connections, which all files share.
            self._open.limit = max(limit, MAX_REMOTE)
        # Decompressed views of archives inside archives.
        self._views = LRUCache[int, ReadAheadStorage](min(limit, MAX_VIEWS))
        if kind == "memory":
            # The user asked for everything to stay in memory.
            self._open.limit = sys.maxsize

    def path(self, shard: int, position: int) -> str:
        """Return the file that holds a member."""
        path = self._table.file_of(shard)
        if shard in self._directories:
            return locate(path).join(self._table.name(position)).path
        return path

    def get(self, shard: int, position: int) -> ReadAheadStorage:
        """Return the storage that holds a member.

        Raises
        ------
        ClosedError
            The pool is closed.
        """
        storage = self._sole
        if storage is not None and shard < self._sole_shards:
            return storage
        if shard >= self._file_count:
            return self._get_view(shard)
        key = shard
        if shard in self._directories:
            # Files of a directory have negative keys, which differ from all shard numbers.
            key = -1 - (position if position >= 0 else position + len(self._table))
        storage = self._open.get(key)
        if storage is not None:
            return storage
        if self._closed:
            raise ClosedError(f"{self.path(shard, position)}: the archive is closed; open it again")
        opened = self._open_unchanged(shard, position)
        storage = self._open.setdefault(key, opened)
        if storage is not opened:
            opened.close()
        if self._single:
            self._sole = storage
        return storage

    def file_view(self, shard: int, position: int) -> memoryview | None:
        """Return all bytes of the file that holds a member, or None if reading would copy them.

        None also for members that are files of their own.
        """
        if shard in self._directories:
            return None
        storage = self.get(shard, position)
        if not storage.zero_copy:
            return None
        whole = storage.read(0, storage.size)
        return whole if isinstance(whole, memoryview) else None

    def _get_view(self, shard: int) -> ReadAheadStorage:
        """Return what an archive inside another one refers to."""
        if shard in self._same:
            return self.get(self._same[shard], 0)
        storage = self._views.get(shard)
        if storage is None:
            parent = self._table.derived[shard].parent
            assert parent is not None
            # A view has few parents, one in the other; see `imagearchive.index.nesting`.
            opened = self._table.open_member_view(shard, self.get(parent, 0))
            self._share_spans(opened)
            storage = self._views.setdefault(shard, opened)
        return storage

    def _open_unchanged(self, shard: int, position: int) -> ReadAheadStorage:
        """Open the file of a member; raises StaleIndexError if it has changed."""
        storage = self._open_file(self.path(shard, position))
        try:
            if shard not in self._directories:
                check_indexed(self._table, storage)
            elif storage.size != self._table.lookup.row(position)[2]:
                # The listing recorded only its size.
                raise file_changed(storage.path)  # noqa: TRY301
            opened = self._table.open_derived(shard, storage)
            self._share_spans(opened)
            return opened  # noqa: TRY300
        except BaseException:
            storage.close()
            raise

    def _open_file(self, path: str) -> FileStorage:
        """Open a file; if too many are open, drop the least recently used first."""
        while True:
            try:
                location = locate(path)
                known = self._table.file_signatures.get(path)
                if (
                    known is not None
                    and self._kind != "memory"
                    and isinstance(location, KnownLocation)
                ):
                    # Saves a request; the server compares it with the object at each read.
                    return location.open_known(*known)
                return location.open(self._kind)
            except OSError as error:
                full = error.errno in (errno.EMFILE, errno.ENFILE)
                if not full or self._open.pop_oldest() is None:
                    raise
                self._open.limit = max(1, min(self._open.limit, len(self._open)))

    def keep_decompressed(self, limit: int, places: int) -> None:
        """Keep decompressed spans of compressed files; see `Archive.keep_decompressed`."""
        if self._table.compressed:
            self._spans = SpanCache(limit, places) if limit else None
            for storage in (*self._open.values(), *self._views.values()):
                self._share_spans(storage)

    def _share_spans(self, storage: ReadAheadStorage) -> None:
        if not self._table.compressed:
            return
        from imagearchive.storage.compressed import CompressedStorage

        if isinstance(storage, CompressedStorage):
            storage.share_spans(self._spans)

    def open_all(self) -> None:
        """Open all files that have members."""
        entries = self._table.entries
        for shard, position in zip(*np.unique(entries["shard"], return_index=True)):
            if int(shard) not in self._directories:
                self.get(int(shard), int(position))
        for position in range(len(entries)) if self._directories else ():
            self.get(self._table.lookup.row(position)[0], position)

    def check_unchanged(self) -> None:
        """Raise StaleIndexError if one of the open files has changed since it was opened."""
        for storage in self._open.values():
            storage.check_unchanged()

    @property
    def are_remote(self) -> bool:
        """Whether the files are on servers, so that none has to stay open."""
        return self._remote

    @property
    def can_keep_all_open(self) -> bool:
        """Whether all files may be open at once."""
        views = self._table.shards - self._file_count - len(self._same)
        fits = self._file_count <= self._open.limit and views <= self._views.limit
        return fits and not self._directories

    def close(self) -> None:
        """Close all storages; views returned before stay valid."""
        self._closed = True
        self._sole = self._spans = None
        for opened in (self._views, self._open):
            while (storage := opened.pop_oldest()) is not None:
                storage.close()


def _has_directories(table: IndexTable) -> bool:
    return any(container.members_are_files for container in table.containers)
