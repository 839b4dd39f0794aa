"""Compressed members: gzip, bzip2, xz, Zstandard, and raw deflate streams of ZIP archives."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import zlib
from collections.abc import Hashable, Iterable

from support.deflate import deflate

from fuzz.harness import Harness, check
from imagearchive.codecs.compression import compress, decompress
from imagearchive.storage.deflate import DeflatedStorage
from imagearchive.storage.limits import Limits
from imagearchive.storage.local import MemoryStorage

_KINDS = ("gz", "bz2", "xz", "zst")
# Small, so that an input that decompresses to much takes little time.
_LIMITS = Limits(max_size=1 << 20)


class Compressed(Harness):
    """Decompresses; the first byte of an input chooses the format.

    Of a deflate stream, the next bytes are the size that its ZIP claims.
    """

    name = "deflate"
    smoke_runs = 120_000
    max_size = 1 << 14
    tokens = (
        b"\x1f\x8b\x08",
        b"\xfd7zXZ\0",
        b"BZh9",
        b"\x28\xb5\x2f\xfd",
        b"\0\0\xff\xff",
        b"\3\0",
    )

    def seeds(self) -> Iterable[bytes]:
        """Return streams of one and two parts in every format."""
        content = b"".join(b"%d, " % i for i in range(200)) + random.Random(1).randbytes(300)
        for number, kind in enumerate(_KINDS):
            yield bytes([number]) + compress(kind, content)
            yield bytes([number]) + compress(kind, content) + compress(kind, b"more")
            yield bytes([number]) + compress(kind, bytes(100_000))
        for level in (0, 1, 9):
            yield b"\4" + len(content).to_bytes(4, "little") + deflate(content, level)
        yield b"\4" + len(content).to_bytes(4, "little") + deflate(content, 9, zlib.Z_FIXED)

    def run(self, data: bytes) -> Hashable:
        """Decompress; what is accepted must be what the standard library returns."""
        number, data = data[0] % 5 if data else 0, data[1:]
        if number == 4:
            return self._run_deflate(int.from_bytes(data[:4], "little"), data[4:])
        found = decompress(_KINDS[number], data, _LIMITS)
        if number < 3:
            try:
                expected = (gzip.decompress, bz2.decompress, lzma.decompress)[number](data)
            except (OSError, EOFError, lzma.LZMAError):
                # Zeros between or behind streams, which only some of them allow.
                check(b"\0" in data, "the standard library refuses it")
                return number
            check(found == expected, "the standard library decompresses to something else")
        return number, len(found).bit_length()

    def _run_deflate(self, size: int, data: bytes) -> Hashable:
        decoder = zlib.decompressobj(-15)
        try:
            expected = decoder.decompress(data, 1 << 21)
        except zlib.error:
            expected = None
        crc = 0 if expected is None else zlib.crc32(expected)
        storage = DeflatedStorage(MemoryStorage(data), 0, len(data), size, crc, "member")
        if size > 10:
            storage.read(size // 2, min(size - size // 2, 1000))
        found = storage.read(0, min(size, 1 << 20))
        if size <= 1 << 20:
            check(found == expected, "zlib inflates to something else")
        return 4, len(found).bit_length()
