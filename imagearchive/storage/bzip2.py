"""bzip2 files as compressed streams, entered at any of their blocks.

Each block, up to 900 kB before compression, starts with a mark of 48 bits at any bit of a byte. A
block is decoded as a stream of its own: between the header of a stream, and a trailer that holds
the checksum of the block.
"""

from __future__ import annotations

import bz2
import dataclasses
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from imagearchive.errors.plurals import pluralize
from imagearchive.storage.compressed import STEP
from imagearchive.storage.stream_format import StreamFormat, StreamRange

if TYPE_CHECKING:
    from imagearchive.storage.checkpoints import CheckpointBuilder, Point

__all__ = ["Bzip2Format"]

logger = logging.getLogger(__name__)

_HEADER: Final = b"BZh"
_BLOCK: Final = 0x314159265359
_END: Final = 0x177245385090
_MARK_BITS: Final = 48
_CRC_BITS: Final = 32
# The bytes that a mark touches.
_MARK_BYTES: Final = 7
# How many marks the data of a block may contain. Chance does not produce one in years.
_MARKS_INSIDE: Final = 3
# Stored bytes that are read at a time.
_FEED: Final = 1 << 20
# No block takes more: 900 kB that cannot be compressed, their tables, and the mark.
_LONGEST: Final = 1 << 20


def _patterns() -> list[tuple[int, bytes, int, int, int, int, bool]]:
    """Return how each mark looks at each bit of a byte: five whole bytes, and the bits around."""
    found = []
    for mark in (_BLOCK, _END):
        for shift in range(8):
            octets = (mark << (8 - shift)).to_bytes(7, "big")
            first, last = 0xFF >> shift, (0xFF00 >> shift) & 0xFF
            row = (shift, octets[1:6], octets[0], first, octets[6], last, mark == _BLOCK)
            found.append(row)
    return found


_PATTERNS: Final = _patterns()


def _find_marks(data: bytes) -> list[tuple[int, bool]]:
    """Return the bit at which each mark starts, sorted, and whether it is that of a block.

    A mark of exactly the last six bytes is found too.
    """
    found = []
    for shift, middle, head, head_mask, tail, tail_mask, is_block in _PATTERNS:
        at = data.find(middle, 1)
        while at >= 0:
            ends = not tail_mask or (at + 5 < len(data) and data[at + 5] & tail_mask == tail)
            if ends and data[at - 1] & head_mask == head:
                found.append((8 * (at - 1) + shift, is_block))
            at = data.find(middle, at + 1)
    return sorted(found)


@dataclasses.dataclass(frozen=True)
class Bzip2Stream(StreamRange):
    """The bzip2 streams in a range of a file, which decompress to one output."""

    label = "bzip2"

    def start(self, builder: CheckpointBuilder | None = None) -> Bzip2Decoder:
        """Return a decoder at the start, which adds checkpoints to a builder."""
        return Bzip2Decoder(self, 0, 0, builder)

    def resume(self, point: Point) -> Bzip2Decoder:
        """Return a decoder at a checkpoint."""
        return Bzip2Decoder(self, 8 * point.source - point.bits, point.position)


class Bzip2Decoder:
    """Decodes bzip2 blocks from some position on.

    libbz2 checks the CRC-32 of each block. That of a whole stream is checked if it was decoded from
    its start.
    """

    def __init__(
        self,
        stream: Bzip2Stream,
        bit: int,
        position: int,
        builder: CheckpointBuilder | None = None,
    ) -> None:
        self.position = position
        self._stream = stream
        self._builder = builder
        # Where the next block or the header of a stream starts.
        self._bit = bit
        self._in_stream = bit > 0
        self._decoder: Any = None
        self._pending = b""
        self._end = 0
        # The marks that were found ahead, and up to where.
        self._marks: deque[tuple[int, bool]] = deque()
        self._searched = 0
        self._tries = 0
        # The checksum of the stream so far, if it was decoded from its start.
        self._crc: int | None = None if bit else 0

    @property
    def source(self) -> int:
        """How many stored bytes are used up."""
        return min(-(-self._bit // 8), self._stream.stored_size)

    def next(self, size: int) -> bytes:
        """Return between one and `size` bytes, or none at the end."""
        while True:
            if self._decoder is None and not self._open_block():
                return b""
            data = self._decompress(min(size, STEP))
            if data:
                self.position += len(data)
                return data

    def _decompress(self, size: int) -> bytes:
        """Decompress a part of the current block; nothing at its end."""
        pending, self._pending = self._pending, b""
        try:
            data: bytes = self._decoder.decompress(pending, size)
            damaged = not data and not self._decoder.eof and self._decoder.needs_input
        except OSError:
            data, damaged = b"", True
        if damaged:
            # The mark that ended the block may be a part of its data. Output starts only after the
            # whole block has been read.
            self._decoder = None
            self._tries += 1
            if self._tries > _MARKS_INSIDE or not self._drop_mark():
                raise self._stream.error(f"the block at byte {self._bit // 8} is damaged")
        elif self._decoder.eof:
            self._decoder = None
            self._tries = 0
            self._bit = self._end
        return data

    def _drop_mark(self) -> bool:
        """Forget the mark that ended the block; return whether there is another."""
        start = self._marks.popleft()
        self._marks.popleft()
        self._marks.appendleft(start)
        return self._search(self._bit) and len(self._marks) > 1

    def _read(self, byte: int, size: int) -> bytes:
        return bytes(self._stream.read(byte, size))

    def _open_block(self) -> bool:
        """Prepare to decode the next block; return False at the end of the last stream."""
        while True:
            if not self._in_stream and not self._open_stream():
                return False
            if not self._search(self._bit):
                raise self._stream.error(f"no block starts at byte {self._bit // 8}")
            if self._marks[0][1]:
                return self._start_block()
            self._close_stream()

    def _search(self, bit: int) -> bool:
        """Find the marks from a bit on, at least one after it; return whether one is at it."""
        marks = self._marks
        while marks and marks[0][0] < bit:
            marks.popleft()
        # Marks that the last search cut are found again.
        self._searched = max(self._searched, bit // 8)
        while len(marks) < 2 and self._searched < min(
            self._stream.stored_size, bit // 8 + 2 * _LONGEST
        ):
            start = max(self._searched - _MARK_BYTES, bit // 8)
            data = self._read(start, _FEED)
            last = marks[-1][0] if marks else bit - 1
            found = [(8 * start + at, is_block) for at, is_block in _find_marks(data)]
            marks.extend(mark for mark in found if mark[0] > last)
            self._searched = start + len(data)
        return bool(marks) and marks[0][0] == bit

    def _open_stream(self) -> bool:
        """Read the header of a stream at the current byte; return False if there is none."""
        stream, byte = self._stream, self.source
        head = self._read(byte, 4)
        if len(head) == 4 and head[:3] == _HEADER and head[3:4] in b"123456789":
            self._bit = 8 * (byte + 4)
            self._in_stream, self._crc = True, 0
            return True
        if not byte:
            raise stream.error("it has no header")
        if head.strip(b"\0") and self._builder is not None:
            logger.warning(
                "%s: %s ignored",
                stream.where,
                pluralize(
                    stream.stored_size - byte,
                    "byte after the last bzip2 stream is",
                    "bytes after the last bzip2 stream are",
                ),
            )
        return False

    def _close_stream(self) -> None:
        """Compare the checksum of a stream at its end."""
        end = self._bit + _MARK_BITS + _CRC_BITS
        start = self._bit // 8
        data = self._read(start, 12)
        if end > 8 * (start + len(data)):
            raise self._stream.error("its checksum is missing")
        expected = _bits(data, self._bit - 8 * start + _MARK_BITS, _CRC_BITS)
        if self._crc is not None and self._crc != expected:
            raise self._stream.error("the checksum of the stream does not match")
        self._bit = -(-end // 8) * 8
        self._in_stream = False

    def _start_block(self) -> bool:
        """Decode the block at the current bit, which ends at the next mark."""
        bit, stream = self._bit, self._stream
        if len(self._marks) < 2:
            raise stream.error(f"the block at byte {bit // 8} is cut")
        end = self._marks[1][0]
        data = self._read(bit // 8, -(-end // 8) - bit // 8)
        count = end - bit
        crc = _bits(data, bit % 8 + _MARK_BITS, _CRC_BITS)
        trailer = _END << _CRC_BITS | crc
        total = count + _MARK_BITS + _CRC_BITS
        octets = (_bits(data, bit % 8, count) << (_MARK_BITS + _CRC_BITS) | trailer) << -total % 8
        if self._builder is not None and self._builder.wants_free(self.position):
            self._builder.add(-(-bit // 8), self.position, -bit % 8)
        if self._crc is not None and not self._tries:
            self._crc = (self._crc << 1 & 0xFFFFFFFF | self._crc >> 31) ^ crc
        self._decoder, self._end = bz2.BZ2Decompressor(), end
        self._pending = _HEADER + b"9" + octets.to_bytes(-(-total // 8), "big")
        return True


def _bits(data: bytes, bit: int, count: int) -> int:
    """Return some bits as a number."""
    first, last = bit // 8, -(-(bit + count) // 8)
    number = int.from_bytes(data[first:last], "big") >> (8 * last - bit - count)
    return number & ((1 << count) - 1)


class Bzip2Format(StreamFormat):
    """bzip2, as ``bzip2``, ``lbzip2``, and ``pbzip2`` write it."""

    name = "bzip2"
    label = "bzip2"
    command = "bzip2 -dk"
    stream_type = Bzip2Stream

    def sniff(self, head: bytes) -> bool:
        """Recognize the header of a stream, and the mark of its first block or of its end."""
        marks = (_BLOCK.to_bytes(6, "big"), _END.to_bytes(6, "big"))
        return head[:3] == _HEADER and head[3:4].isdigit() and head[4:10] in marks
