"""xz files as compressed streams, entered at any of their blocks.

The index at the end of each stream says where its blocks are and how long their output is. A block
is decoded as a stream of its own: between the header of its stream, and an index of one block.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import lzma
import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from imagearchive.errors import CorruptArchiveError, LimitError
from imagearchive.errors.hints import shell_command
from imagearchive.storage.compressed import STEP
from imagearchive.storage.stream_format import StreamFormat, StreamRange

if TYPE_CHECKING:
    from imagearchive.storage.checkpoints import CheckpointBuilder, Point

__all__ = ["XzFormat"]

_MAGIC: Final = b"\xfd7zXZ\0"
_END_MAGIC: Final = b"YZ"
# The lengths of the header and the footer of a stream.
_HEADER: Final = 12
_FOOTER: Final = 12
_FEED: Final = 1 << 16
# A file states how large a dictionary its decoder must allocate, up to 4 GiB. The largest preset
# uses 64 MiB, for which a decoder needs 65 MiB.
_MEMORY: Final = 128 << 20
# The index of a stream takes at least two bytes for each block of at least 8.
_LONGEST_INDEX: Final = 256 << 20
# Most blocks and streams. Each takes about 300 bytes of memory, but may take only 10 in the file;
# a real block has 1 MiB or more.
MAX_BLOCKS: Final = 1 << 20


class _Block(NamedTuple):
    """A block: its place, its length with and without padding, and its output."""

    offset: int
    unpadded_size: int
    position: int
    size: int
    header: bytes
    """The header of its stream."""

    @property
    def stored_size(self) -> int:
        """Its length with padding."""
        return -(-self.unpadded_size // 4) * 4


@dataclasses.dataclass(frozen=True)
class XzStream(StreamRange):
    """The xz streams in a range of a file, which decompress to one output."""

    label = "xz"

    @functools.cached_property
    def blocks(self) -> list[_Block]:
        """All blocks, read from the indexes of the streams.

        Raises CorruptArchiveError, and LimitError for more than `MAX_BLOCKS`.
        """
        streams = []
        listed = 0
        end = self.stored_size
        while end > 0:
            if end % 4 or end < _HEADER + _FOOTER:
                raise self.error("it does not end like an xz stream, so it is truncated")
            footer = bytes(self.read(end - _FOOTER, _FOOTER))
            if not any(footer[-4:]):
                # Zeros may follow a stream, in groups of four.
                end -= 4
                while end > 0 and not any(chunk := bytes(self.read(max(0, end - 4096), 4096))):
                    end -= len(chunk)
                continue
            stream = self._stream_before(end, footer)
            streams.append(stream)
            end = stream[0]
            listed += 1 + len(stream[2])
            if listed > MAX_BLOCKS:
                raise self._too_many_blocks()
        found: list[_Block] = []
        position = 0
        for start, header, records in reversed(streams):
            offset = start + _HEADER
            for unpadded_size, size in records:
                found.append(_Block(offset, unpadded_size, position, size, header))
                offset += found[-1].stored_size
                position += size
        return found

    def _stream_before(self, end: int, footer: bytes) -> tuple[int, bytes, list[tuple[int, int]]]:
        """Return the start, the header, and the index of the stream that ends at `end`."""
        crc, backward, flags = struct.unpack("<II2s", footer[:10])
        if footer[10:] != _END_MAGIC or zlib.crc32(footer[4:10]) != crc:
            raise self.error(f"no xz stream ends at byte {end}, so it is truncated")
        length = 4 * (backward + 1)
        if length > min(end - _HEADER - _FOOTER, _LONGEST_INDEX):
            raise self.error(f"the index that ends at byte {end - _FOOTER} is too long")
        index = bytes(self.read(end - _FOOTER - length, length))
        if index[0] or zlib.crc32(index[:-4]) != int.from_bytes(index[-4:], "little"):
            raise self.error(f"the index at byte {end - _FOOTER - length} is damaged")
        records = self._records(index)
        stored = sum(-(-unpadded // 4) * 4 for unpadded, _ in records)
        start = end - _FOOTER - length - stored - _HEADER
        header = bytes(self.read(start, _HEADER)) if start >= 0 else b""
        if header[:6] != _MAGIC or header[6:8] != flags:
            raise self.error(f"no xz stream starts at byte {start}, where an index says so")
        return start, header, records

    def _records(self, index: bytes) -> list[tuple[int, int]]:
        """Return the unpadded size and the output size of each block."""
        count, at = _number(index, 1)
        if MAX_BLOCKS < count <= len(index) // 2:
            raise self._too_many_blocks()
        records = []
        # Each takes two bytes or more.
        if count <= len(index) // 2:
            for _ in range(count):
                unpadded, at = _number(index, at)
                size, at = _number(index, at)
                if at > len(index) - 4 or unpadded < 5:
                    break
                records.append((unpadded, size))
        if len(records) != count:
            raise self.error("the index of its blocks is malformed")
        return records

    def _too_many_blocks(self) -> LimitError:
        return LimitError(
            f"{self.where}: {self.label}: it has more than {MAX_BLOCKS} blocks and streams; if you "
            f"trust the file, decompress it first: {shell_command('xz -dk', self.where)}"
        )

    @property
    def span(self) -> int:
        """The longest output of a block."""
        return max((block.size for block in self.blocks), default=0)

    @property
    def known_size(self) -> int:
        """The length of the output, as the indexes state it."""
        return sum(block.size for block in self.blocks)

    def start(self, builder: CheckpointBuilder | None = None) -> XzDecoder:
        """Return a decoder at the start, which adds checkpoints to a builder."""
        return XzDecoder(self, self.blocks, builder)

    def resume(self, point: Point) -> XzDecoder:
        """Return a decoder at a checkpoint; raises ValueError if no block starts there."""
        blocks = self.blocks
        number = bisect.bisect_left(blocks, point.source, key=lambda block: block.offset)
        if number == len(blocks) or blocks[number][:3:2] != (point.source, point.position):
            raise ValueError("no block starts there")
        return XzDecoder(self, blocks[number:])


class XzDecoder:
    """Decodes xz blocks; liblzma compares the checksum of each."""

    def __init__(
        self, stream: XzStream, blocks: list[_Block], builder: CheckpointBuilder | None = None
    ) -> None:
        self._stream = stream
        self._blocks = blocks
        self._builder = builder
        self._number = 0
        self._decoder: lzma.LZMADecompressor | None = None
        self._fed = 0
        self.source = blocks[0].offset if blocks else 0
        self.position = blocks[0].position if blocks else 0

    def next(self, size: int) -> bytes:
        """Return between one and `size` bytes, or none at the end."""
        while self._number < len(self._blocks):
            block = self._blocks[self._number]
            if self._decoder is None:
                self._open(block)
            decoder = self._decoder
            assert decoder is not None
            feed = b""
            if decoder.needs_input:
                feed = bytes(
                    self._stream.read(
                        block.offset + self._fed, min(_FEED, block.stored_size - self._fed)
                    )
                )
                self._fed += len(feed)
                if self._fed == block.stored_size:
                    feed += _trailer(block)
                elif not feed:
                    raise self._damaged(block, "it is truncated")
            try:
                data = decoder.decompress(feed, min(size, STEP))
            except lzma.LZMAError as error:
                raise self._damaged(block, str(error)) from error
            self.source = block.offset + self._fed
            self.position += len(data)
            if decoder.eof:
                if self.position != block.position + block.size:
                    raise self._damaged(block, "its output has another length than its index says")
                self._number, self._decoder = self._number + 1, None
            elif not data and decoder.needs_input and self._fed == block.stored_size:
                raise self._damaged(block, "it is longer than its index says")
            if data:
                return data
        self.source = self._stream.stored_size
        return b""

    def _open(self, block: _Block) -> None:
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
        try:
            self._decoder.decompress(block.header)
        except lzma.LZMAError as error:
            raise self._damaged(block, str(error)) from error
        self._fed = 0
        if self._builder is not None and self._builder.wants_free(block.position):
            self._builder.add(block.offset, block.position)

    def _damaged(self, block: _Block, reason: str) -> CorruptArchiveError:
        return self._stream.error(f"block at byte {block.offset}: {reason}")


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and where it ends; beyond the data if it is cut."""
    value = 0
    for count, octet in enumerate(data[at : at + 9]):
        value |= (octet & 0x7F) << (7 * count)
        if octet < 0x80:
            return value, at + count + 1
    return 0, len(data) + 1


def _encoded(value: int) -> bytes:
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*octets, value])


def _trailer(block: _Block) -> bytes:
    """Return an index of one block, and the footer of the stream."""
    index = b"\0\1" + _encoded(block.unpadded_size) + _encoded(block.size)
    index += bytes(-len(index) % 4)
    index += struct.pack("<I", zlib.crc32(index))
    tail = struct.pack("<I", len(index) // 4 - 1) + block.header[6:8]
    return index + struct.pack("<I", zlib.crc32(tail)) + tail + _END_MAGIC


class XzFormat(StreamFormat):
    """xz, as ``xz -T0``, ``xz --block-size``, and ``pixz`` write it in blocks."""

    name = "xz"
    label = "xz"
    command = "xz -dk"
    stream_type = XzStream

    def sniff(self, head: bytes) -> bool:
        """Recognize the header of a stream."""
        return head[:6] == _MAGIC
