"""Random access to deflated members, by checkpoints inside their streams."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from imagearchive.errors import ClosedError, CorruptArchiveError, MissingDependencyError
from imagearchive.storage.checkpoints import (
    SPACING,
    Checkpoints,
    DeflateStream,
    build_checkpoints,
)
from imagearchive.storage.closing import Closable
from imagearchive.storage.fork_lock import ForkSafeLock

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.protocol import Storage

__all__ = ["DeflatedStorage", "inflate"]

#: Members up to this size are inflated whole at the first read and kept.
WHOLE: Final = 1 << 20

#: The same if ``indexed_gzip`` is missing. For larger members, each process would need too much
#: memory.
WHOLE_WITHOUT_INDEX: Final = 64 << 20

# Compressed bytes that are fed at a time: zlib copies what it has not used yet.
_FEED: Final = 1 << 16
# Output that is requested from zlib at a time.
_STEP: Final = 1 << 20
# Read-ahead for a reader that continues where its last read ended.
_AHEAD: Final = 1 << 17
# Longest output that is kept for the next read.
_KEEP: Final = 4 << 20


def inflate(
    storage: Storage, offset: int, stored_size: int, size: int, crc: int, where: str
) -> bytes:
    """Inflate a whole member.

    Parameters
    ----------
    storage : Storage
        The archive file.
    offset, stored_size : int
        Byte range of the raw deflate stream.
    size : int
        Inflated size in bytes. Not one byte more is inflated.
    crc : int
        CRC-32 of the inflated bytes.
    where : str
        Name of the member in messages.

    Raises
    ------
    CorruptArchiveError
        The stream is damaged, or its inflated size or CRC-32 is wrong.
    """
    return _inflate(DeflateStream(storage, offset, stored_size, size, crc, where))


def _inflate(stream: DeflateStream) -> bytes:
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # Asking for one more byte detects a stream that is too long.
        data = decoder.decompress(stream.read(0, stream.stored_size), stream.size + 1)
    except zlib.error as error:
        raise stream.error(str(error)) from error
    if len(data) != stream.size or not decoder.eof:
        length = "more" if len(data) > stream.size else f"{len(data)}"
        raise stream.error(f"it inflates to {length} of {stream.size} bytes")
    if zlib.crc32(data) != stream.crc:
        raise stream.error("its CRC-32 does not match")
    return data


class DeflatedStorage(Closable):
    """A deflated member as storage with random access.

    To read a range, the stream is inflated from the last checkpoint before it, which is about half
    a MiB away on average. Each thread keeps the block that it inflated last, so that sequential
    reading inflates nothing twice. Members up to 1 MiB are inflated whole once.

    Without checkpoints, reading forward from the start works; the first jump builds them. If
    ``indexed_gzip`` is missing, members up to 64 MiB are inflated whole instead.

    Parameters
    ----------
    storage : Storage
        The archive file, which stays open when this storage is closed.
    offset, stored_size : int
        Byte range of the raw deflate stream in it.
    size : int
        Inflated size in bytes.
    crc : int
        CRC-32 of the inflated bytes. It is checked when checkpoints are built, when the member is
        inflated whole, and when the member is read from start to end.
    name : str
        Name of the member, for messages.
    checkpoints : bytes-like, optional
        What `build_checkpoints` returned. It is not copied: a mapped file is best.

    Raises
    ------
    CorruptIndexError
        `checkpoints` is damaged or belongs to another member.

    Notes
    -----
    Any number of threads may read at once, without locks: each has its own decoder, and zlib
    releases the GIL. A forked child continues with its own copy of its thread's decoder.
    """

    zero_copy = False

    def __init__(
        self,
        storage: Storage,
        offset: int,
        stored_size: int,
        size: int,
        crc: int,
        name: str,
        checkpoints: Buffer | None = None,
    ) -> None:
        self.path = f"{storage.path}: member {name!r}"
        self.size = size
        self._stream = DeflateStream(storage, offset, stored_size, size, crc, self.path)
        self._whole: bytes | None = None
        self._local = threading.local()
        self._lock = ForkSafeLock()
        self._checkpoints: Checkpoints | None = None
        if checkpoints is not None:
            self._checkpoints = Checkpoints(self._stream, checkpoints)

    @property
    def checkpoints(self) -> memoryview | None:
        """The checkpoints as bytes that can be saved, or None if there are none yet."""
        return None if self._checkpoints is None else self._checkpoints.data

    def build_checkpoints(self, progress: Callable[[int, int], object] | None = None) -> bytes:
        """Inflate the whole stream, check it, and build, use and return its checkpoints.

        Parameters
        ----------
        progress : callable, optional
            Called with the number of stored bytes read so far and their total. If the work takes
            more than a few seconds, progress is logged in any case.

        Returns
        -------
        bytes
            For the argument `checkpoints`; about 3 % of the inflated size.

        Raises
        ------
        CorruptArchiveError
            The stream is damaged, or its inflated size or CRC-32 is wrong.
        MissingDependencyError
            ``indexed_gzip`` is not installed.
        """
        data = build_checkpoints(self._stream, progress)
        self._checkpoints = Checkpoints(self._stream, data)
        return data

    def verify(self) -> None:
        """Check the member by building its checkpoints, unless it has some.

        A member that is small enough to be inflated whole is checked at its first read.
        """
        if self._checkpoints is None and self.size > WHOLE:
            self.build_checkpoints()

    def read(self, offset: int, size: int) -> memoryview:
        """Return exactly `size` inflated bytes from `offset`, as a read-only view.

        Raises
        ------
        CorruptArchiveError
            The range exceeds the member, or the stream is damaged.
        MissingDependencyError
            Checkpoints are needed, and ``indexed_gzip`` is not installed.
        ClosedError
            The storage is closed.
        """
        if self._closed:
            raise ClosedError(f"{self.path}: closed; open the archive again to read from it")
        end = offset + size
        if offset < 0 or size < 0 or end > self.size:
            raise CorruptArchiveError(
                f"{self.path}: {size} bytes at offset {offset} are not within its {self.size} "
                f"bytes; the archive is damaged, or its index belongs to another file"
            )
        whole = self._whole
        if whole is None and self.size <= WHOLE:
            whole = self._whole = _inflate(self._stream)
        if whole is not None:
            return memoryview(whole)[offset:end]
        cursor: _Cursor | None = getattr(self._local, "cursor", None)
        if cursor is None or not cursor.start <= offset <= end <= cursor.position:
            cursor = self._advance(cursor, offset, end)
            if cursor is None:
                return self.read(offset, size)
        view = memoryview(cursor.data)[offset - cursor.start : end - cursor.start]
        if len(cursor.data) > _KEEP:
            cursor.start, cursor.data = cursor.position, b""
        return view

    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Fill a writable buffer from `offset`; return its length in bytes. Raises as `read`."""
        target = memoryview(buffer).cast("B")
        for start in range(0, len(target), _STEP):
            part = target[start : start + _STEP]
            part[:] = self.read(offset + start, len(part))
        if not len(target):
            self.read(offset, 0)
        return len(target)

    def close(self) -> None:
        """Release the memory; views returned before stay valid."""
        super().close()
        self._whole = self._checkpoints = None
        self._local = threading.local()

    def _advance(self, cursor: _Cursor | None, offset: int, end: int) -> _Cursor | None:
        """Inflate up to `end` in this thread; return None if the whole member is in memory now."""
        checkpoints = self._checkpoints
        number = 0 if checkpoints is None else checkpoints.last_before(offset)
        nearest = 0 if checkpoints is None else checkpoints.position(number)
        if cursor is not None and (offset < cursor.start or nearest > cursor.position):
            cursor = None
        reached = nearest if cursor is None else cursor.position
        if checkpoints is None and offset > reached + SPACING:
            if not self._prepare():
                return None
            return self._advance(cursor, offset, end)
        # The thread gets its cursor back only after success: a failed decoder cannot be used again.
        self._local.cursor = None
        if cursor is None:
            cursor = _Cursor(self._stream, checkpoints, number)
            ahead = 0
        else:
            ahead = _AHEAD if offset <= cursor.position else 0
        cursor.fill(offset, min(end + ahead, self.size))
        self._local.cursor = cursor
        return cursor

    def _prepare(self) -> bool:
        """Build the checkpoints once; return False if the member was inflated whole instead."""
        with self._lock:
            if self._checkpoints is None and self._whole is None:
                try:
                    self.build_checkpoints()
                except MissingDependencyError:
                    if self.size > WHOLE_WITHOUT_INDEX:
                        raise
                    self._whole = _inflate(self._stream)
        return self._whole is None


class _Cursor:
    """A decoder at some position of the output, and its last output.

    `data` is the output from `start` to `position`, where the decoder continues.
    """

    __slots__ = ("crc", "data", "decoder", "pending", "position", "source", "start", "stream")

    def __init__(self, stream: DeflateStream, checkpoints: Checkpoints | None, number: int) -> None:
        self.stream = stream
        self.data = b""
        self.pending: bytes | memoryview = b""
        self.decoder: Any
        self.crc: int | None
        if checkpoints is None or number == 0:
            self.start = self.position = self.source = 0
            self.decoder = zlib.decompressobj(-zlib.MAX_WBITS)
            self.crc = 0
        else:
            self.start = self.position = checkpoints.position(number)
            self.decoder, self.source = checkpoints.decoder(number)
            self.crc = None

    def fill(self, offset: int, end: int) -> None:
        """Inflate up to `end`, and keep the output from `offset` on, or all if it is little."""
        parts = []
        if offset < self.position:
            parts.append(memoryview(self.data)[offset - self.start :])
            self.start = offset
        elif offset - self.start > _KEEP or self.start != self.position:
            self._skip(offset)
        while self.position < end:
            parts.append(memoryview(self._next(end - self.position)))
        self.data = b"".join(parts)

    def _skip(self, offset: int) -> None:
        self.data = b""
        while self.position < offset:
            self._next(offset - self.position)
        self.start = self.position

    def _next(self, size: int) -> bytes:
        """Inflate between one and `size` bytes."""
        stream = self.stream
        try:
            while True:
                if not self.pending:
                    self.pending = stream.read(self.source, _FEED)
                    self.source += len(self.pending)
                fed = len(self.pending)
                data: bytes = self.decoder.decompress(self.pending, min(size, _STEP))
                self.pending = self.decoder.unconsumed_tail
                if data:
                    self.position += len(data)
                    self._update_crc(data)
                    return data
                if self.decoder.eof or not fed:
                    raise stream.error(f"it ends after {self.position} of {stream.size} bytes")
        except zlib.error as error:
            raise stream.error(str(error)) from error

    def _update_crc(self, data: bytes) -> None:
        """Check the CRC-32 at the end of a stream that was read from start to end."""
        if self.crc is not None:
            self.crc = zlib.crc32(data, self.crc)
            if self.position == self.stream.size and self.crc != self.stream.crc:
                raise self.stream.error("its CRC-32 does not match")
