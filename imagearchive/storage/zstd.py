"""Zstandard files as compressed streams, entered at any of their frames.

The headers of its blocks show where each frame ends, without decompressing it. Frames that a
decoder skips, such as the table of the seekable format, are passed over.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imagearchive.errors import CorruptArchiveError, MissingDependencyError
from imagearchive.storage.compressed import STEP
from imagearchive.storage.stream_format import StreamFormat, StreamRange

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from imagearchive.storage.checkpoints import CheckpointBuilder, Point

__all__ = ["ZstdFormat", "import_zstandard"]

_MAGIC: Final = 0xFD2FB528
_SKIPPABLE: Final = 0x184D2A50
_LONGEST_WINDOW: Final = 1 << 27
# The type of a block that repeats one byte.
_REPEATED: Final = 1
# The longest header of a frame in bytes. At most so many bytes are read to find headers, and
# frames of so many bytes are read at once.
_HEADER: Final = 18
_WINDOW: Final = 1 << 16


class _Frame(NamedTuple):
    """Where a frame starts and ends, and the length of its output if its header says so."""

    offset: int
    end: int
    size: int | None


@dataclasses.dataclass(frozen=True)
class ZstdStream(StreamRange):
    """The Zstandard frames in a range of a file, which decompress to one output."""

    label = "Zstandard"

    def next_frame(self, offset: int) -> _Frame | None:
        """Return the first frame from a place on that holds data, or None.

        Raises
        ------
        CorruptArchiveError
            Neither a frame nor the end of the file is there, or the frame is cut.
        """
        while offset < self.stored_size:
            head = self._headers.read(offset, _HEADER).ljust(_HEADER, b"\0")
            magic = int.from_bytes(head[:4], "little")
            if magic == _MAGIC:
                return self._frame(offset, head)
            if magic & ~0xF != _SKIPPABLE:
                if offset and not any(head):
                    # Zeros may follow, as on tapes.
                    return None
                raise self.error(f"no frame starts at byte {offset}")
            offset += 8 + int.from_bytes(head[4:8], "little")
        if offset > self.stored_size:
            raise self.error("the last frame is cut, so it is truncated")
        return None

    @functools.cached_property
    def _headers(self) -> _HeaderReader:
        return _HeaderReader(self)

    def _frame(self, start: int, head: bytes) -> _Frame:
        descriptor = head[4]
        single_segment = descriptor & 0x20
        at = 5 if single_segment else 6
        at += (0, 1, 2, 4)[descriptor & 3]
        field = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
        size: int | None = None
        if field:
            size = int.from_bytes(head[at : at + field], "little") + (256 if field == 2 else 0)
        offset = start + at + field
        read_header = self._headers.read
        last = 0
        while not last:
            if offset + 3 > self.stored_size:
                raise self.error(f"the frame at byte {start} is cut, so it is truncated")
            header = int.from_bytes(read_header(offset, 3), "little")
            last = header & 1
            offset += 3 + (1 if header >> 1 & 3 == _REPEATED else header >> 3)
        offset += 4 if descriptor & 4 else 0
        if offset > self.stored_size:
            raise self.error(f"the frame at byte {start} is cut, so it is truncated")
        return _Frame(start, offset, size)

    @property
    def span(self) -> int:
        """The longest output of a frame, or the longest frame that does not say."""
        longest = 0
        frame = self.next_frame(0)
        while frame is not None:
            longest = max(longest, frame.end - frame.offset if frame.size is None else frame.size)
            frame = self.next_frame(frame.end)
        return longest

    @property
    def known_size(self) -> int | None:
        """The length of the output if the headers of all frames state theirs, or None."""
        total = 0
        frame = self.next_frame(0)
        while frame is not None:
            if frame.size is None:
                return None
            total += frame.size
            frame = self.next_frame(frame.end)
        return total

    def start(self, builder: CheckpointBuilder | None = None) -> ZstdDecoder:
        """Return a decoder at the start, which adds checkpoints to a builder."""
        return ZstdDecoder(self, 0, 0, builder)

    def resume(self, point: Point) -> ZstdDecoder:
        """Return a decoder at a checkpoint."""
        return ZstdDecoder(self, point.source, point.position)


class _HeaderReader:
    """Reads headers in order: the nearer they are to each other, the more bytes at once."""

    def __init__(self, stream: ZstdStream) -> None:
        self._stream = stream
        # Replaced as a whole, since threads share a stream.
        self._window = (0, b"")

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end of the stream."""
        start, data = self._window
        place = offset - start
        if 0 <= place <= len(data) - size:
            return data[place : place + size]
        length = 2 * len(data) if 0 <= place <= 2 * len(data) else _HEADER
        data = bytes(self._stream.read(offset, max(min(length, _WINDOW), size)))
        self._window = (offset, data)
        return data[:size]


class ZstdDecoder:
    """Decodes Zstandard frames; libzstd compares their checksums."""

    def __init__(
        self,
        stream: ZstdStream,
        source: int,
        position: int,
        builder: CheckpointBuilder | None = None,
    ) -> None:
        self.source = source
        self.position = position
        self._stream = stream
        self._builder = builder
        self._zstandard = import_zstandard(f"{stream.where}: Zstandard data")
        self._decompressor = self._zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW)
        self._frame: _Frame | None = None
        self._frame_position = 0
        self._reader: Any = None
        self._end = source

    def next(self, size: int) -> bytes:
        """Return between one and `size` bytes, or none at the end."""
        while self._frame is not None or self._open():
            frame = self._frame
            assert frame is not None
            try:
                data: bytes = self._reader.read(min(size, STEP))
            except self._zstandard.ZstdError as error:
                raise self._damaged(frame, str(error)) from error
            self.position += len(data)
            made = self.position - self._frame_position
            if frame.size is not None and (made > frame.size or (not data and made < frame.size)):
                raise self._damaged(
                    frame, f"its output does not have the {frame.size} bytes of its header"
                )
            if data:
                return data
            self._frame, self.source, self._end = None, frame.end, frame.end
        return b""

    def _open(self) -> bool:
        """Start to decode the next frame; return False if there is none."""
        stream = self._stream
        frame = stream.next_frame(self._end)
        if frame is None:
            self.source = stream.stored_size
            return False
        if self._builder is not None and self._builder.wants_free(self.position):
            self._builder.add(frame.offset, self.position)
        size = frame.end - frame.offset
        source = stream.read(frame.offset, size) if size <= _WINDOW else _FrameFile(stream, frame)
        self._reader = self._decompressor.stream_reader(source, read_across_frames=False)
        self._frame, self._frame_position, self.source = frame, self.position, frame.offset
        return True

    def _damaged(self, frame: _Frame, reason: str) -> CorruptArchiveError:
        return self._stream.error(f"frame at byte {frame.offset}: {reason}")


class _FrameFile(io.RawIOBase):
    """One frame as a file."""

    def __init__(self, stream: ZstdStream, frame: _Frame) -> None:
        super().__init__()
        self._stream = stream
        self._at = frame.offset
        self._end = frame.end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer).cast("B")
        data = self._stream.read(self._at, min(len(target), self._end - self._at))
        target[: len(data)] = data
        self._at += len(data)
        return len(data)


def import_zstandard(user: str) -> Any:
    """Return the module `zstandard`; the error for its absence names what needs it."""
    try:
        import zstandard
    except ImportError as error:
        raise MissingDependencyError(
            f"{user} needs another package: pip install 'imagearchive[compressed]'"
        ) from error
    return zstandard


class ZstdFormat(StreamFormat):
    """Zstandard, in several frames as ``pzstd``, ``t2sz``, and seekable writers make them."""

    name = "zstd"
    label = "Zstandard"
    command = "zstd -d"
    stream_type = ZstdStream

    def sniff(self, head: bytes) -> bool:
        """Recognize the header of a frame, or of one to skip."""
        magic = int.from_bytes(head[:4], "little")
        return len(head) >= 8 and (magic == _MAGIC or magic & ~0xF == _SKIPPABLE)
