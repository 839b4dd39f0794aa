"""The column of an NPZ that is written straight into the file, before its header is known."""

from __future__ import annotations

import struct
import zlib
from typing import Any, BinaryIO, Final

import numpy as np

from imagearchive.arrays.npy import build_header
from imagearchive.arrays.ragged import VALUES
from imagearchive.containers.npz.column_writer import CHUNK, Chunks, Part, Sink
from imagearchive.containers.zip.stream import MemberHeader, deflater, padding

__all__ = ["DirectColumn", "crc32_combine", "member_name"]

# A stored block of a deflate stream: five bytes in front of at most this many.
_BLOCK: Final = 0xFFFF


class DirectColumn(Sink):
    """The first member of the file, written while its header is unknown.

    In front of the data is room for the longest header; the name, which depends on whether the
    column turns out ragged, is padded by an extra field. In a deflated member the ``.npy`` header
    is in stored blocks, whose length does not depend on their content.
    """

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        dtype: np.dtype[Any],
        longest: tuple[int, ...],
        level: int | None,
    ) -> None:
        self._file = file
        self._level = level
        self._name_room = len(member_name(name + VALUES))
        self._header_at = MemberHeader.local_size(self._name_room) + len(padding(0))
        self._header_size = len(build_header(dtype, longest, at=self._header_at))
        blocks = len(_stored_blocks(bytes(self._header_size))) if level else self._header_size
        self._start = self._header_at + blocks
        self._compressor = deflater(level)
        self._crc = 0
        self.size = 0
        file.write(bytes(self._start))

    def write(self, data: memoryview) -> None:
        """Append bytes."""
        self._crc = zlib.crc32(data, self._crc)
        self.size += len(data)
        self._file.write(self._compressor.compress(data) if self._compressor else data)

    def chunks(self) -> Chunks:
        """Read everything back and leave the file empty, for a column that must be converted."""
        file = self._file
        if self._compressor:
            file.write(self._compressor.flush())
        file.seek(self._start)
        decoder = zlib.decompressobj(-zlib.MAX_WBITS) if self._compressor else None
        left = self.size
        while left:
            data = file.read(min(CHUNK, left) if decoder is None else CHUNK)
            while left and data:
                piece = decoder.decompress(data, CHUNK) if decoder else data
                data = decoder.unconsumed_tail if decoder else b""
                left -= len(piece)
                yield piece
        file.seek(0)
        file.truncate()

    def finish(self, part: Part) -> MemberHeader:
        """Write the headers; return that of the member, for the directory."""
        file = self._file
        if self._compressor:
            file.write(self._compressor.flush())
        stored = file.tell() - self._header_at
        header = build_header(part.dtype, part.shape, size=self._header_size)
        crc = crc32_combine(zlib.crc32(header), self._crc, self.size)
        name = member_name(part.name)
        member = MemberHeader(name, 0, self._level is not None)
        member.crc, member.size, member.stored_size = crc, len(header) + self.size, stored
        file.seek(0)
        file.write(member.local(after=padding(self._name_room - len(name))))
        file.write(_stored_blocks(header) if self._level else header)
        return member

    def close(self) -> None:
        """Do nothing: the file belongs to the writer."""


def _stored_blocks(data: bytes) -> bytes:
    """Wrap bytes in stored blocks of a deflate stream, none of them the last (RFC 1951, 3.2.4)."""
    blocks = []
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        blocks.append(struct.pack("<BHH", 0, len(block), len(block) ^ _BLOCK) + block)
    return b"".join(blocks)


def member_name(name: str) -> bytes:
    """Return the name of the member that holds an array."""
    return f"{name}.npy".encode("utf-8", "surrogatepass")


def crc32_combine(first: int, second: int, length: int) -> int:
    """CRC-32 of two byte strings one after the other, from theirs and the second's length.

    Appending a byte multiplies the CRC by x^8 in GF(2)[x] modulo the CRC's polynomial, so it is
    ``first * x^(8 * length) + second``. In the reflected form, 1 << 31 is the polynomial 1.
    """
    power, square = 1 << 31, 1 << 23  # x^0 and x^8
    while length:
        if length & 1:
            power = _product(power, square)
        square = _product(square, square)
        length >>= 1
    return _product(power, first) ^ second


def _product(a: int, b: int) -> int:
    """Product of two polynomials modulo that of CRC-32, all reflected."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (0xEDB88320 if b & 1 else 0)
    return product
