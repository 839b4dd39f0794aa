"""Random access to compressed streams, by checkpoints inside them."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from imagearchive.errors import ClosedError, CorruptArchiveError
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.checkpoints import (
    SPACING,
    CheckpointBuilder,
    Checkpoints,
    Point,
    StreamIdentity,
)
from imagearchive.storage.closing import Closable
from imagearchive.storage.fork_lock import ForkSafeLock
from imagearchive.storage.progress import LOG_INTERVAL, Progress

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.protocol import Storage
    from imagearchive.storage.span_cache import SpanCache

__all__ = ["STEP", "CompressedStorage", "CompressedStream", "Decoder", "build_checkpoints"]

logger = logging.getLogger(__name__)

#: Streams up to this size are decompressed whole at the first read and kept.
WHOLE: Final = 1 << 20

#: Output that is requested from a decoder at a time.
STEP: Final = 1 << 20

# Read-ahead for a reader that continues where its last read ended.
_AHEAD: Final = 1 << 17
# Longest output that is kept for the next read, and longest that is kept if it was only skipped.
_KEEP: Final = 4 << 20
_KEEP_SKIPPED: Final = 1 << 20


class Decoder(Protocol):
    """Decompresses a stream from some position on."""

    @property
    def source(self) -> int:
        """How many stored bytes are used up."""
        ...

    @property
    def position(self) -> int:
        """The position of the next byte in the output."""
        ...

    def next(self, size: int) -> bytes:
        """Return between one and `size` bytes, or none at the end of the stream.

        Raises
        ------
        CorruptArchiveError
            The stream is damaged.
        """
        ...


class CompressedStream(StreamIdentity, Protocol):
    """A compressed stream in a storage."""

    @property
    def label(self) -> str:
        """The name of the compression format in messages."""
        ...

    @property
    def span(self) -> int:
        """The longest output between two places where decompression can start, if it is known."""
        ...

    @property
    def known_size(self) -> int | None:
        """The length of the output as the headers state it, without decompression, or None."""
        ...

    def start(self, builder: CheckpointBuilder | None = None) -> Decoder:
        """Return a decoder at the start, which adds checkpoints to a builder."""
        ...

    def resume(self, point: Point) -> Decoder:
        """Return a decoder at a checkpoint.

        Raises
        ------
        ValueError
            The checkpoint cannot be used.
        """
        ...

    def whole(self) -> bytes:
        """Return the whole output."""
        ...

    def check_unchanged(self) -> None:
        """Raise if the file has changed since it was opened; see `Storage.check_unchanged`."""
        ...


def build_checkpoints(stream: CompressedStream, progress: Progress | None = None) -> bytes:
    """Decompress a whole stream, check it, and return its checkpoints.

    Parameters
    ----------
    stream : CompressedStream
    progress : callable, optional
        Called with the number of stored bytes read so far and their total. If the work takes more
        than a few seconds, progress is logged in any case.

    Returns
    -------
    bytes
        For `imagearchive.storage.checkpoints.Checkpoints`.

    Raises
    ------
    CorruptArchiveError
        The stream is damaged, or its size or checksum is wrong.
    """
    builder = CheckpointBuilder(stream.stored_size)
    decoder = stream.start(builder)
    logged = time.monotonic()
    while decoder.next(STEP):
        if progress is not None:
            progress(decoder.source, stream.stored_size)
        if time.monotonic() - logged > LOG_INTERVAL:
            logged = time.monotonic()
            logger.info(
                "%s: building checkpoints for random access: %d %%",
                stream.where,
                100 * decoder.source // max(stream.stored_size, 1),
            )
    if progress is not None:
        progress(decoder.source, stream.stored_size)
    return builder.finish(stream)


class CompressedStorage(Closable):
    """A compressed stream as storage with random access.

    To read a range, the stream is decompressed from the last checkpoint before it. Each thread
    keeps the block that it decompressed last, so that sequential reading decompresses nothing
    twice. Streams up to 1 MiB are decompressed whole once. For threads that read near each other,
    `share_spans` decompresses whole spans between checkpoints, once for all of them.

    Without checkpoints, reading forward from the start works; the first jump builds them.

    Parameters
    ----------
    stream : CompressedStream
    checkpoints : bytes-like, optional
        What `build_checkpoints` returned. It is not copied: a mapped file is best.
    owned : Storage, optional
        A storage to close together with this one.

    Raises
    ------
    CorruptIndexError
        `checkpoints` is damaged or belongs to another stream.

    Notes
    -----
    Any number of threads may read at once, without locks: each has its own decoder, which releases
    the GIL. A forked child continues with its own copy of its thread's decoder.
    """

    zero_copy = False

    def __init__(
        self,
        stream: CompressedStream,
        checkpoints: Buffer | None = None,
        owned: Storage | None = None,
    ) -> None:
        self._owned = owned
        self.path = stream.where
        # A member may be compressed twice, by different formats.
        self._name = f"{stream.where}: {stream.label}"
        self.size = stream.size
        self._stream = stream
        self._whole: bytes | None = None
        self._spans: SpanCache | None = None
        self._local = threading.local()
        self._lock = ForkSafeLock()
        self._checkpoints: Checkpoints | None = None
        if checkpoints is not None:
            self._checkpoints = Checkpoints(stream, checkpoints)

    @property
    def checkpoints(self) -> memoryview | None:
        """The checkpoints as bytes that can be saved, or None if there are none yet."""
        return None if self._checkpoints is None else self._checkpoints.data

    def build_checkpoints(self, progress: Progress | None = None) -> bytes:
        """Decompress the whole stream, check it, and build, use and return its checkpoints.

        Parameters, results, and errors are those of the function of the same name.
        """
        data = build_checkpoints(self._stream, progress)
        self._checkpoints = Checkpoints(self._stream, data)
        return data

    def verify(self) -> None:
        """Check the stream by building its checkpoints, unless it has some.

        A stream that is small enough to be decompressed whole is checked at its first read.
        """
        if self._checkpoints is None and self.size > WHOLE:
            self.build_checkpoints()

    def read(self, offset: int, size: int) -> memoryview:
        """Return exactly `size` bytes of the output from `offset`, as a read-only view.

        Raises
        ------
        CorruptArchiveError
            The range exceeds the output, or the stream is damaged.
        ClosedError
            The storage is closed.
        """
        if self._closed:
            raise ClosedError(f"{self.path}: closed; open the archive again to read from it")
        end = offset + size
        if offset < 0 or size < 0 or end > self.size:
            raise CorruptArchiveError(
                f"{self.path}: a range of {pluralize(size, 'byte')} at offset {offset} is not "
                f"within its {self.size} bytes; the archive is damaged, or its index belongs to "
                "another file"
            )
        whole = self._whole
        if whole is None and self.size <= WHOLE:
            whole = self._whole = self._stream.whole()
        if whole is not None:
            return memoryview(whole)[offset:end]
        spans, checkpoints = self._spans, self._checkpoints
        if spans is not None and checkpoints is not None and size:
            return self._read_spans(spans, checkpoints, offset, end)
        cursor: _Cursor | None = getattr(self._local, "cursor", None)
        if cursor is None or not cursor.start <= offset <= end <= cursor.position:
            cursor = self._advance(cursor, offset, end)
        view = memoryview(cursor.data)[offset - cursor.start : end - cursor.start]
        if len(cursor.data) > _KEEP:
            cursor.start, cursor.data = cursor.position, b""
        return view

    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Fill a writable buffer from `offset`; return its length in bytes. Raises as `read`."""
        target = memoryview(buffer).cast("B")
        for start in range(0, len(target), STEP):
            part = target[start : start + STEP]
            part[:] = self.read(offset + start, len(part))
        if not len(target):
            self.read(offset, 0)
        return len(target)

    def share_spans(self, cache: SpanCache | None) -> None:
        """Keep whole spans in a cache, for all threads; None stops that."""
        self._spans = cache

    def prefetch(self, offset: int, size: int) -> None:
        """Request spans that are kept in a cache.

        Does nothing without a cache: a reader that goes on decompresses ahead by itself.
        """
        spans, checkpoints = self._spans, self._checkpoints
        if spans is None or checkpoints is None or size <= 0 or self.size <= WHOLE:
            return
        first, last = (checkpoints.last_before(place) for place in (offset, offset + size - 1))
        for number in range(first, last + 1):
            spans.request((self._name, number), partial(self._decompress_span, checkpoints, number))

    def check_unchanged(self) -> None:
        """Raise if the file has changed since it was opened; see `Storage.check_unchanged`."""
        self._stream.check_unchanged()

    def close(self) -> None:
        """Release the memory; views returned before stay valid."""
        super().close()
        if self._owned is not None:
            self._owned.close()
        self._whole = self._checkpoints = self._spans = None
        self._local = threading.local()

    def _read_spans(
        self, spans: SpanCache, checkpoints: Checkpoints, offset: int, end: int
    ) -> memoryview:
        """Read a range that is not empty from whole spans."""
        parts = []
        number, at = checkpoints.last_before(offset), offset
        while at < end:
            decompress = partial(self._decompress_span, checkpoints, number)
            data = spans.get((self._name, number), decompress)
            start = checkpoints.position(number)
            parts.append(memoryview(data)[at - start : end - start])
            at = start + len(data)
            number += 1
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))

    def _decompress_span(self, checkpoints: Checkpoints, number: int) -> bytes:
        """Return the output between a checkpoint and the next."""
        last = number + 1 == len(checkpoints)
        end = self.size if last else checkpoints.position(number + 1)
        cursor = _Cursor(self._decoder(checkpoints, number), self._stream)
        cursor.fill(cursor.position, end)
        return cursor.data

    def _advance(self, cursor: _Cursor | None, offset: int, end: int) -> _Cursor:
        """Decompress up to `end` in this thread."""
        checkpoints = self._checkpoints
        number = 0 if checkpoints is None else checkpoints.last_before(offset)
        nearest = 0 if checkpoints is None else checkpoints.position(number)
        if cursor is not None and (offset < cursor.start or nearest > cursor.position):
            cursor = None
        reached = nearest if cursor is None else cursor.position
        if checkpoints is None and offset > reached + SPACING:
            with self._lock.of_process():
                if self._checkpoints is None:
                    self.build_checkpoints()
            return self._advance(cursor, offset, end)
        # The thread gets its cursor back only after success: a failed decoder cannot be used again.
        self._local.cursor = None
        if cursor is None:
            cursor = _Cursor(self._decoder(checkpoints, number), self._stream)
            ahead = 0
        else:
            ahead = _AHEAD if offset <= cursor.position else 0
        cursor.fill(offset, min(end + ahead, self.size))
        self._local.cursor = cursor
        return cursor

    def _decoder(self, checkpoints: Checkpoints | None, number: int) -> Decoder:
        if checkpoints is None or number == 0:
            return self._stream.start()
        try:
            return self._stream.resume(checkpoints.point(number))
        except ValueError as error:
            raise checkpoints.damaged(number) from error


class _Cursor:
    """A decoder at some position of the output, and its last output.

    `data` is the output from `start` to `position`, where the decoder continues.
    """

    __slots__ = ("data", "decoder", "start", "stream")

    def __init__(self, decoder: Decoder, stream: CompressedStream) -> None:
        self.decoder = decoder
        self.stream = stream
        self.start = decoder.position
        self.data = b""

    @property
    def position(self) -> int:
        """Where the decoder continues."""
        return self.decoder.position

    def fill(self, offset: int, end: int) -> None:
        """Decompress up to `end`, and keep the output from `offset` on, or all if it is little."""
        parts = []
        if offset < self.position:
            parts.append(memoryview(self.data)[offset - self.start :])
            self.start = offset
        elif offset - self.start > _KEEP_SKIPPED or self.start != self.position:
            self.data = b""
            while self.position < offset:
                self._next(offset - self.position)
            self.start = self.position
        while self.position < end:
            parts.append(memoryview(self._next(end - self.position)))
        self.data = b"".join(parts)

    def _next(self, size: int) -> bytes:
        data = self.decoder.next(min(size, STEP))
        if not data:
            raise CorruptArchiveError(
                f"{self.stream.where}: the compressed data ends after {self.position} of "
                f"{self.stream.size} bytes; the file is damaged"
            )
        return data
