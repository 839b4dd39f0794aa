"""Compression formats of whole files: their interface, and reading one from start to end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from imagearchive.errors import CorruptArchiveError
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.closing import Closable
from imagearchive.storage.compressed import STEP
from imagearchive.storage.protocol import UNKNOWN_SIZE, ForwardReadError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.checkpoints import CheckpointBuilder, Point
    from imagearchive.storage.compressed import CompressedStream, Decoder
    from imagearchive.storage.protocol import Storage

__all__ = [
    "DamagedRangeError",
    "ForwardStorage",
    "StreamFormat",
    "StreamRange",
    "plain_name",
]

# The extensions of compressed files, and what takes their place when they are decompressed.
_EXTENSIONS: Final = {
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst"), ""),
    **dict.fromkeys((".tgz", ".tbz", ".tbz2", ".txz", ".tzst"), ".tar"),
}


def plain_name(name: str) -> str:
    """Return the name of a compressed file without the extension that says so."""
    stem, extension = os.path.splitext(name)
    plain = _EXTENSIONS.get(extension.lower())
    return name if plain is None else stem + plain


class DamagedRangeError(CorruptArchiveError):
    """A checksum over a range of the output does not match.

    Attributes
    ----------
    start, stop : int
        The range of the output.
    """

    start = stop = 0


class StreamFormat:
    """A compression format of whole files. Stateless.

    Attributes
    ----------
    name : str
        Recorded in indexes; never changes.
    label : str
        The name of the format in messages.
    command : str
        The shell command that decompresses a file and keeps it, for messages.
    reads_forward : bool
        A decoder at the start reads the data once, from start to end.
    stream_type : type of StreamRange
        The class of its streams.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    command: ClassVar[str]
    reads_forward: ClassVar[bool] = False
    stream_type: ClassVar[type[StreamRange]]

    def sniff(self, head: bytes) -> bool:
        """Whether a file that begins with `head` has this format."""
        raise NotImplementedError

    def stream(
        self,
        storage: Storage,
        offset: int,
        stored_size: int,
        size: int,
        where: str,
        crc: int = 0,
    ) -> CompressedStream:
        """Return a range of a storage as a compressed stream.

        Parameters
        ----------
        storage : Storage
        offset, stored_size : int
            The range.
        size : int
            The length of its output, `UNKNOWN_SIZE` before it has been read to its end.
        where : str
            Its name in messages.
        crc : int
            The CRC-32 of the output, for formats without checksums of their own.
        """
        return self.stream_type(storage, offset, stored_size, size, where, crc)


@dataclasses.dataclass(frozen=True)
class StreamRange:
    """A range of a storage that holds compressed data; the base of the streams of each format.

    Attributes
    ----------
    storage : Storage
    offset, stored_size : int
        The range.
    size : int
        The length of its output, `UNKNOWN_SIZE` before it has been read to its end.
    where : str
        Its name in messages.
    crc : int
        The CRC-32 of its output; 0 if the format has checksums of its own.
    """

    label: ClassVar[str]

    storage: Storage
    offset: int
    stored_size: int
    size: int
    where: str
    crc: int = 0

    @property
    def span(self) -> int:
        """The longest output between two places where decompression can start.

        It is known before decompression; 0 if the format has such places anywhere.
        """
        return 0

    @property
    def known_size(self) -> int | None:
        """The length of its output as its headers state it, without decompression, or None."""
        return None

    def start(self, builder: CheckpointBuilder | None = None) -> Decoder:
        """Return a decoder at the start, which adds checkpoints to a builder."""
        raise NotImplementedError

    def resume(self, point: Point) -> Decoder:
        """Return a decoder at a checkpoint; raises ValueError if it cannot be used."""
        raise NotImplementedError

    def read(self, position: int, size: int) -> bytes | memoryview:
        """Return `size` bytes of the stream, or fewer at its end."""
        available = max(0, min(size, self.stored_size - position))
        return self.storage.read(self.offset + position, available) if available else b""

    def check_unchanged(self) -> None:
        """Raise if the file has changed since it was opened; see `Storage.check_unchanged`."""
        self.storage.check_unchanged()

    def error(self, reason: str) -> CorruptArchiveError:
        """Return the error for a damaged stream; raise StaleIndexError if the file has changed."""
        self.storage.check_unchanged()
        return CorruptArchiveError(f"{self.where}: {self.label}: {reason}; the file is damaged")

    def whole(self) -> bytes:
        """Return the whole output."""
        decoder = self.start()
        parts = []
        while decoder.position < self.size:
            data = decoder.next(self.size - decoder.position)
            if not data:
                raise self.error(
                    f"it decompresses to {decoder.position} of {pluralize(self.size, 'byte')}"
                )
            parts.append(data)
        return b"".join(parts)


class ForwardStorage(Closable):
    """The output of a decoder as a storage that is read once, from start to end.

    Reads must not go back further than the start of the last read.

    Parameters
    ----------
    decoder : Decoder
    path : str
        The name in messages.
    strict : bool
        Whether damage is an error. Otherwise the output ends before it.
    check_size : callable, optional
        Called with each new length of the output, before more is decompressed; raises an error if
        it is too long.

    Attributes
    ----------
    size : int
        `UNKNOWN_SIZE` until the end has been reached.
    damage : CorruptArchiveError or None
        The error that ended the output. A checksum that does not match is never raised, because
        what it covers is known only after a scan.

    Notes
    -----
    Once it has failed, each further read fails in the same way.
    """

    zero_copy = False

    def __init__(
        self,
        decoder: Decoder,
        path: str,
        strict: bool = True,
        check_size: Callable[[int], None] | None = None,
    ) -> None:
        self.path = path
        self._check_size = check_size
        self.size = UNKNOWN_SIZE
        self.damage: CorruptArchiveError | None = None
        self._decoder = decoder
        self._strict = strict
        self._failure: BaseException | None = None
        self._start = 0
        self._kept = b""
        # Where the output ends that was returned. The decoder may be further when it raises.
        self._end = 0

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, or fewer at the end of the output.

        Raises
        ------
        ForwardReadError
            What is at `offset` is not kept any more.
        """
        if offset < self._start:
            raise ForwardReadError(
                f"{self.path}: reading it needs a jump back, which is not possible while its "
                f"checkpoints are built"
            )
        if offset + size <= self._start + len(self._kept):
            return self._kept[offset - self._start : offset - self._start + size]
        kept = self._kept[offset - self._start :]
        while self._end < offset and self._next(offset - self._end):
            pass
        parts = [kept]
        missing = size - len(kept)
        while missing > 0 and (data := self._next(missing)):
            parts.append(data)
            missing -= len(data)
        self._start = offset
        self._kept = b"".join(parts)
        return self._kept[:size]

    def readinto(self, offset: int, buffer: Buffer) -> int:
        """Fill a buffer as far as there is output; return its length in bytes."""
        target = memoryview(buffer).cast("B")
        data = self.read(offset, len(target))
        target[: len(data)] = data
        return len(data)

    def check_unchanged(self) -> None:
        """Do nothing: a scan compares the file itself before and after."""

    def drain(self) -> None:
        """Decompress what is left, so that all of it is checked."""
        while self._next(STEP):
            pass

    def _next(self, size: int) -> bytes:
        if self._failure is not None:
            raise self._failure
        if self.size != UNKNOWN_SIZE:
            return b""
        try:
            return self._decompress(size)
        except BaseException as error:
            # A decoder that has failed cannot be used again.
            self._failure = error
            raise

    def _decompress(self, size: int) -> bytes:
        try:
            data = self._decoder.next(min(size, STEP))
        except CorruptArchiveError as error:
            if self._strict and not isinstance(error, DamagedRangeError):
                raise
            self.damage = error
            data = b""
        self._end += len(data)
        if not data:
            self.size = self._end
        elif self._check_size is not None:
            self._check_size(self._end)
        return data
