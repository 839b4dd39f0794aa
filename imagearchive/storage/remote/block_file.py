"""The files of the block cache: a header that names the block, checksums, and the data."""

from __future__ import annotations

import os
import struct
from typing import Final

from imagearchive.storage.crc import crc32c

__all__ = ["BLOCK", "describe_block", "header_size", "read_block"]

#: Bytes of a block. Larger ones make the first random epoch fetch more than it uses, smaller ones
#: make more files.
BLOCK: Final = 256 << 10
# What one checksum covers: a read checks no more than it needs.
_PAGE: Final = 16 << 10
# Magic, digest of the object and number of the block, bytes of data; then a checksum for each page,
# and one of the header itself.
_HEADER: Final = struct.Struct("<8s32sQI")
_MAGIC: Final = b"IABLOCK1"
_CHECKSUMS: Final = tuple(struct.Struct(f"<{pages}I") for pages in range(BLOCK // _PAGE + 2))
_MAX_HEADER: Final = _HEADER.size + _CHECKSUMS[-1].size
_CHECKSUM: Final = struct.Struct("<I")


def read_block(descriptor: int, digest: bytes, number: int, start: int, stop: int) -> bytes | None:
    """Return a part of an open block, or None if it is damaged."""
    head = os.pread(descriptor, _MAX_HEADER, 0)
    if len(head) < _HEADER.size:
        return None
    magic, described, counted, length = _HEADER.unpack_from(head)
    if (magic, described, counted) != (_MAGIC, digest, number) or not stop <= length <= BLOCK:
        return None
    pages = -(-length // _PAGE)
    size = header_size(length)
    if len(head) < size:
        return None
    *checksums, own = _CHECKSUMS[pages + 1].unpack_from(head, _HEADER.size)
    if crc32c(head[: size - _CHECKSUM.size]) != own:
        return None
    first = start // _PAGE
    end = min(-(-stop // _PAGE) * _PAGE, length)
    data = os.pread(descriptor, end - first * _PAGE, size + first * _PAGE)
    view = memoryview(data)
    if len(data) != end - first * _PAGE or any(
        crc32c(view[at : at + _PAGE]) != checksums[first + at // _PAGE]
        for at in range(0, len(data), _PAGE)
    ):
        return None
    return data[start - first * _PAGE : stop - first * _PAGE]


def header_size(length: int) -> int:
    """Return the bytes before the data of a block of this length."""
    return _HEADER.size + _CHECKSUMS[-(-length // _PAGE) + 1].size


def describe_block(digest: bytes, number: int, data: memoryview) -> bytes:
    """Return the header of a block."""
    checksums = [crc32c(data[at : at + _PAGE]) for at in range(0, len(data), _PAGE)]
    header = _HEADER.pack(_MAGIC, digest, number, len(data))
    header += _CHECKSUMS[len(checksums)].pack(*checksums)
    return header + _CHECKSUM.pack(crc32c(header))
