"""Finds the members of an archive that are archives themselves."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imagearchive.containers.derived import HEAD_BYTES, DerivedFile, find_stream_format
from imagearchive.containers.registry import find_member_container
from imagearchive.containers.rows import KIND_FILE, METHOD_STORED
from imagearchive.errors import ImageArchiveError, StaleIndexError
from imagearchive.index.freshness import file_changed
from imagearchive.storage.location import locate
from imagearchive.storage.lru import LRUCache
from imagearchive.storage.protocol import UNKNOWN_SIZE, ForwardReadError

if TYPE_CHECKING:
    from imagearchive.containers.container import Container
    from imagearchive.index.member_table import MemberTable
    from imagearchive.storage.protocol import ReadAheadStorage, Storage
    from imagearchive.storage.span_cache import SpanCache
    from imagearchive.storage.stream_format import StreamFormat

__all__ = [
    "InnerArchive",
    "OpenFiles",
    "begins_with_archive",
    "identify",
]


# Split bins may be more than a process can open.
MAX_OPEN: Final = 16


def begins_with_archive(table: MemberTable) -> bool:
    """Whether the first member of an archive is itself an archive.

    If it is not, ``nested="auto"`` opens none of the others.
    """
    if not len(table) or any(container.members_are_files for container in table.containers):
        return False
    noted = table.meta.get("begins_with_archive")
    if isinstance(noted, bool):
        return noted
    with ExitStack() as stack:
        first = table.entries[0]
        shard = int(first["shard"])
        storage = OpenFiles(table, stack)[shard]
        return identify(storage, table.container(shard), first, table.name(0)) is not None


class OpenFiles:
    """The files of an archive, opened when they are used, a few at a time."""

    def __init__(self, table: MemberTable, stack: ExitStack) -> None:
        self._table = table
        # A file is in use only until the next one is asked for.
        self._open: LRUCache[int, ReadAheadStorage] = LRUCache(
            MAX_OPEN, lambda storage: storage.close()
        )
        self._spans: SpanCache | None = None
        stack.callback(self._open.clear)

    def share_spans(self, cache: SpanCache) -> None:
        """Keep what is decompressed in a cache."""
        self._spans = cache

    def __getitem__(self, number: int) -> Storage:
        storage: Storage | None = self._open.get(number)
        if storage is not None:
            return storage
        path = self._table.files[number]
        file = locate(path).open("pread")
        expected = self._table.file_signatures.get(path)
        if expected is not None and expected != (file.size, file.identity):
            file.close()
            raise file_changed(path)
        opened = self._table.open_derived(number, file)
        if self._spans is not None and number in self._table.compressed:
            # Imported here, because few archives are compressed.
            from imagearchive.storage.compressed import CompressedStorage

            if isinstance(opened, CompressedStorage):
                opened.share_spans(self._spans)
        return self._open.setdefault(number, opened)


class InnerArchive(NamedTuple):
    """How a member is an archive.

    Attributes
    ----------
    container : Container
    views : list of DerivedFile
        How to decompress it, from the outside in; empty if it is stored as it is.
    """

    container: Container
    views: list[DerivedFile]


def identify(
    storage: Storage, container: Container, row: Any, path: str, forward: bool = False
) -> InnerArchive | None:
    """Return how a member is an archive, or None if it is not.

    The first bytes tell, so an archive behind a prefix, and an empty TAR, are files.

    Parameters
    ----------
    storage : Storage
        What the offset of the member refers to.
    container : Container
        The format of the archive that contains it.
    row : record of ENTRY_DTYPE
    path : str
        The path of the member inside the outermost archive.
    forward : bool
        Whether the storage is read once, from start to end.

    Raises
    ------
    ForwardReadError
        The storage is read once, and the member's format needs more than that.
    """
    if row["kind"] != KIND_FILE or not row["size"]:
        return None
    shard = int(row["shard"])
    offset, size, stored_size = int(row["offset"]), int(row["size"]), int(row["stored_size"])
    compressed = container.compressed_member(row)
    if compressed is None and row["method"] != METHOD_STORED:
        return None
    views = []
    try:
        if compressed is None:
            head = bytes(storage.read(offset, min(HEAD_BYTES, size)))
        else:
            format, crc = compressed
            view = DerivedFile(format, stored_size, size, (0, 0), shard, offset, crc, path)
            views.append(view)
            head = _head(view, storage, path)
        found = find_member_container(head)
        if found is None:
            stream_format = find_stream_format(head)
            if stream_format is None:
                return None
            _check_order(stream_format, forward, path)
            if views:
                # Imported here, because few members are compressed twice.
                from imagearchive.storage.compressed import CompressedStorage

                storage = CompressedStorage(views[0].stream(storage, path))
                offset, stored_size = 0, size
            view = DerivedFile(
                stream_format.name, stored_size, UNKNOWN_SIZE, (0, 0), shard, offset, 0, path
            )
            views.append(view)
            found = find_member_container(_head(view, storage, path))
    except (StaleIndexError, ForwardReadError):
        raise
    except ImageArchiveError:
        # Reading the file tells what is wrong with it.
        return None
    return None if found is None else InnerArchive(found, views)


def _check_order(format: StreamFormat, forward: bool, path: str) -> None:
    """Refuse data that cannot be decompressed while it is read once."""
    if forward and not format.reads_forward:
        raise ForwardReadError(f"{path}: decompressing {format.label} data needs jumps")


def _head(view: DerivedFile, storage: Storage, where: str) -> bytes:
    """Return the first bytes of compressed data."""
    decoder = view.stream(storage, where).start()
    head = b""
    while len(head) < HEAD_BYTES and (data := decoder.next(HEAD_BYTES - len(head))):
        head += data
    return head
