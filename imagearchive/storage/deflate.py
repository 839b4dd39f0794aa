"""Deflated members of an archive as storages."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imagearchive.errors import CorruptArchiveError
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.compressed import STEP, CompressedStorage
from imagearchive.storage.inflate import RAW, Inflater
from imagearchive.storage.stream_format import StreamFormat, StreamRange

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.checkpoints import CheckpointBuilder, Point
    from imagearchive.storage.protocol import Storage

__all__ = [
    "DeflateFormat",
    "DeflateStream",
    "DeflatedStorage",
    "InflateDecoder",
    "inflate",
    "inflater_at",
]

# Compressed bytes that are fed to a decoder at a time.
FEED: Final = 1 << 16

# No deflate stream has a higher ratio: 258 bytes from two bits.
_MAX_RATIO: Final = 1032


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
    return DeflateStream(storage, offset, stored_size, size, where, crc).whole()


@dataclass(frozen=True)
class DeflateStream(StreamRange):
    """A raw deflate stream in a file, whose size and CRC-32 are known.

    The CRC-32 is compared wherever the stream is read from start to end.

    Raises
    ------
    CorruptArchiveError
        No stream of this length can inflate to that size.
    """

    label = "deflate"

    def __post_init__(self) -> None:
        if self.size > _MAX_RATIO * (self.stored_size + 1):
            raise self.error(f"{pluralize(self.stored_size, 'byte')} cannot inflate to {self.size}")

    def error(self, reason: str) -> CorruptArchiveError:
        """Return the error for a damaged stream; raise StaleIndexError if the file has changed."""
        self.storage.check_unchanged()
        return CorruptArchiveError(
            f"{self.where}: deflate stream at offset {self.offset}: {reason}; the file is damaged"
        )

    def start(self, builder: CheckpointBuilder | None = None) -> _DeflateDecoder:
        """Return a decoder at the start, which adds checkpoints to a builder."""
        return _DeflateDecoder(self, Inflater(RAW), builder=builder)

    def resume(self, point: Point) -> _DeflateDecoder:
        """Return a decoder at a checkpoint; raises ValueError if it cannot be used."""
        return _DeflateDecoder(self, inflater_at(self, point), point)

    def whole(self) -> bytes:
        """Return all inflated bytes; not one byte more than `size` is inflated."""
        decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # Asking for one more byte detects a stream that is too long.
            data = decoder.decompress(self.read(0, self.stored_size), self.size + 1)
        except zlib.error as error:
            raise self.error(str(error)) from error
        if len(data) != self.size or not decoder.eof:
            length = "more" if len(data) > self.size else f"{len(data)}"
            raise self.error(f"it inflates to {length} of {pluralize(self.size, 'byte')}")
        if zlib.crc32(data) != self.crc:
            raise self.error("its CRC-32 does not match")
        return data


class DeflateFormat(StreamFormat):
    """Raw deflate, as members of a ZIP are stored; never a file of its own."""

    name = "deflate"
    label = "deflate"
    command = "unzip"
    reads_forward = True
    stream_type = DeflateStream

    def sniff(self, head: bytes) -> bool:
        """Recognize nothing: the archive says which members are deflated."""
        return False


def inflater_at(stream: StreamRange, point: Point) -> Inflater:
    """Return a decoder at a checkpoint inside deflated data; raises ValueError."""
    byte = stream.read(point.source - 1, 1)[0] if point.bits else 0
    return Inflater(RAW, point.window, point.bits, byte)


class InflateDecoder:
    """Decodes deflated data from some position on; subclasses check its end.

    Parameters
    ----------
    stream : StreamRange
    inflater : Inflater
    point : Point, optional
        Where the inflater stands. By default at the start of the stream.
    builder : CheckpointBuilder, optional
        Where to add checkpoints.

    Attributes
    ----------
    source : int
        How many stored bytes are used up.
    position : int
        The position of the next byte in the output.
    """

    def __init__(
        self,
        stream: StreamRange,
        inflater: Inflater,
        point: Point | None = None,
        builder: CheckpointBuilder | None = None,
    ) -> None:
        self.source = 0 if point is None else point.source
        self.position = 0 if point is None else point.position
        self._inflated = stream
        self._inflater = inflater
        self._builder = builder
        self._pending = memoryview(b"")

    def next(self, size: int) -> bytes:
        """Return between one and `size` bytes, or none at the end."""
        builder = self._builder
        while True:
            if self._inflater.ended:
                following = self._following()
                if following is None:
                    return b""
                self._inflater = following
            fed = self._fetch()
            due = builder is not None and builder.wants(self.position)
            try:
                data, used = self._inflater.decompress(self._pending, min(size, STEP), due)
            except ValueError as error:
                raise self._inflated.error(str(error)) from error
            self._use(used)
            self.position += len(data)
            if builder is not None and due and self._inflater.at_block:
                window = self._inflater.window()
                builder.add(self.source, self.position, self._inflater.bits, window)
            if data:
                self._check(data)
                return data
            if not fed and not self._inflater.ended:
                raise self._inflated.error(
                    f"it ends early, after {pluralize(self.position, 'byte')} of output"
                )

    def _fetch(self) -> int:
        """Read more of the stream if nothing is pending; return how much is."""
        if not self._pending:
            self._pending = memoryview(self._inflated.read(self.source, FEED))
        return len(self._pending)

    def _use(self, count: int) -> None:
        self.source += count
        self._pending = self._pending[count:]

    def _following(self) -> Inflater | None:
        """Return a decoder for what follows a deflate stream that has ended, or None."""
        raise NotImplementedError

    def _check(self, data: bytes) -> None:
        """Check the output."""


class _DeflateDecoder(InflateDecoder):
    """Decodes a `DeflateStream`."""

    def __init__(
        self,
        stream: DeflateStream,
        inflater: Inflater,
        point: Point | None = None,
        builder: CheckpointBuilder | None = None,
    ) -> None:
        super().__init__(stream, inflater, point, builder)
        self._stream = stream
        # The CRC-32 of the output so far, if it was read from the start.
        self._crc = 0 if point is None else None

    def _following(self) -> None:
        stream = self._stream
        if self.position != stream.size or (self._builder and self.source != stream.stored_size):
            raise stream.error(
                f"it inflates to {self.position} of {pluralize(stream.size, 'byte')}"
            )

    def _check(self, data: bytes) -> None:
        """Check the size, and the CRC-32 at the end of a stream that was read from its start."""
        stream = self._stream
        if self.position > stream.size:
            raise stream.error(f"it inflates to more than {pluralize(stream.size, 'byte')}")
        if self._crc is not None:
            self._crc = zlib.crc32(data, self._crc)
            if self.position == stream.size and self._crc != stream.crc:
                raise stream.error("its CRC-32 does not match")


class DeflatedStorage(CompressedStorage):
    """A deflated member as storage with random access.

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
    where : str
        Name of the member in messages, with that of its archive.
    checkpoints : bytes-like, optional
        What `build_checkpoints` returned. It is not copied: a mapped file is best.
    """

    def __init__(
        self,
        storage: Storage,
        offset: int,
        stored_size: int,
        size: int,
        crc: int,
        where: str,
        checkpoints: Buffer | None = None,
    ) -> None:
        stream = DeflateStream(storage, offset, stored_size, size, where, crc)
        super().__init__(stream, checkpoints)
