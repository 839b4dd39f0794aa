"""Checksums over mapped files that other processes truncate."""

from __future__ import annotations

import functools
import os
import struct
import zlib
from collections.abc import Hashable, Iterable
from random import Random

from fuzz.harness import Harness, check
from fuzz.harnesses.memory import scratch_folder
from fuzz.mutation import mutate
from imagearchive.storage.crc import crc32, crc32c, use_instructions
from imagearchive.storage.mapping import Mapping

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST_PAGES = 8
# Size of the file, its size when it is read, and ranges whose checksums are computed.
_HEAD = struct.Struct("<HHB")
_RANGE = struct.Struct("<HH")


class MappedFiles(Harness):
    """Maps a file, truncates or extends it, and computes checksums of ranges of the mapping.

    An input is the two sizes, ranges, and the content, which is repeated.
    """

    name = "mapped"
    smoke_runs = 40_000
    max_size = 1 << 10

    def seeds(self) -> Iterable[bytes]:
        """Return files that stay as they are, shrink within a page and by pages, and grow."""
        ranges = (0, 65535, 1, 8, 4090, 20, 8000, 3)
        for size, new in ((9000, 9000), (9000, 8999), (9000, 100), (30000, 0), (5, 9000)):
            yield _HEAD.pack(size, new, 4) + struct.pack("<8H", *ranges) + bytes(range(251))

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change bytes, and often the ranges and sizes."""
        changed = bytearray(mutate(rng, data, other, self.tokens).ljust(_HEAD.size + 1, b"\0"))
        if rng.random() < 0.5:
            place = rng.randrange(len(changed) - 1)
            near = rng.randrange(_MOST_PAGES) * _PAGE + rng.randrange(-9, 9)
            changed[place : place + 2] = struct.pack("<H", near & 0xFFFF)
        return bytes(changed)

    def run(self, data: bytes) -> Hashable:
        """Compare with the same ranges of the bytes that should be there."""
        data = data.ljust(_HEAD.size + 1, b"\0")
        size, new, count = _HEAD.unpack_from(data)
        size = size % (_MOST_PAGES * _PAGE) or 1
        new %= _MOST_PAGES * _PAGE
        ranges = [
            _RANGE.unpack_from(data, place)
            for place in range(_HEAD.size, len(data) - _RANGE.size, _RANGE.size)
        ][: min(count, 8)]
        content = (data * (size // len(data) + 1))[:size]
        file = _file()
        os.ftruncate(file, 0)
        os.pwrite(file, content, 0)
        mapping = Mapping(file, size)
        os.ftruncate(file, new)
        # The rest of the last page of the file is zeros, and so is a page that is no longer there.
        expected = content[:new].ljust(size, b"\0")
        view = mapping.view(0, size)
        for instructions in (False, True):
            use_instructions(instructions)
            for start, length in ranges:
                part, true = view[start : start + length], expected[start : start + length]
                check(crc32(part, start) == zlib.crc32(true, start), "another CRC-32")
                check(crc32c(part, start) == _crc32c(true, start), "another CRC-32C")
        check(bytes(view) == expected, "another content")
        missing = -(-new // _PAGE) < -(-size // _PAGE)
        check(mapping.damaged == missing, "damage is not told as it is")
        return len(ranges), new < size, missing


@functools.cache
def _file() -> int:
    return os.open(os.path.join(scratch_folder(), "file"), os.O_RDWR | os.O_CREAT, 0o600)


@functools.cache
def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _crc32c(data: bytes, value: int) -> int:
    table = _crc32c_table()
    value ^= 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF
