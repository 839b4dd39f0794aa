"""PNG, natively and by Pillow."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterable
from random import Random

import numpy as np
from support.images import encode, photo
from support.png import (
    CHANNELS,
    KINDS,
    SIGNATURE,
    chunk,
    chunks_of,
    compress,
    file_of,
    filtered,
    write_png,
)
from support.rendering import UINT8

from fuzz.harness import Harness, check
from fuzz.mutation import INTERESTING, mutate
from imagearchive.errors import ImageArchiveError
from imagearchive.images.geometry import Geometry
from imagearchive.images.masks import INDEX
from imagearchive.images.pillow import ImageOptions, decode_with_pillow
from imagearchive.images.render import Decoder, UnsupportedPngError, native_info
from imagearchive.storage.limits import Limits

MAX_PIXELS = 1 << 16
_LIMITS = Limits(max_pixels=MAX_PIXELS)
_EXTRA = (
    *((b"gAMA", 4), (b"cHRM", 32), (b"sRGB", 1), (b"pHYs", 9), (b"tRNS", 6), (b"bKGD", 6)),
    *((b"acTL", 8), (b"fcTL", 26), (b"fdAT", 9), (b"eXIf", 14), (b"PLTE", 12), (b"IEND", 0)),
)
_PACKED = (b"iCCP", b"zTXt", b"iTXt", b"tEXt")
_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE)


class PngImages(Harness):
    """Decodes an image whole and in part, and compares what is not refused with Pillow."""

    name = "png"
    smoke_runs = 40_000
    max_size = 1 << 14
    tokens = (b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", *_PACKED)

    def __init__(self) -> None:
        self._decoder = Decoder(MAX_PIXELS)

    def seeds(self) -> Iterable[bytes]:
        """Return small PNGs of every kind."""
        rng = np.random.default_rng(0)
        for number, (depth, color) in enumerate(KINDS):
            values = rng.integers(0, 1 << depth, (9, 13, CHANNELS[color]))
            values[4:] = values[4:5, :1]
            yield write_png(values, depth, color, filters=[0, 1, 2, 3, 4, 4, 3, 2, 1])
            strategy = _STRATEGIES[number % len(_STRATEGIES)]
            yield write_png(values, depth, color, level=number % 10, strategy=strategy, pieces=2)
        yield encode(photo(50, 37), "PNG")
        yield encode(photo(50, 37), "PNG", mode="P")
        yield encode(photo(1, 1), "PNG")

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change bytes, chunks, compressed pixels, or pixels; mostly with right checksums."""
        chunks = chunks_of(data)
        kind = rng.randrange(6)
        if kind == 0 or not chunks:
            return mutate(rng, data, other, self.tokens)
        at = rng.randrange(len(chunks))
        name, content = chunks[at]
        if kind == 1:
            chunks[at] = name, mutate(rng, content, b"", self.tokens)
        elif kind == 2:
            others = chunks_of(other) or chunks
            place = rng.randrange(len(chunks) + 1)
            chunks[place:place] = [rng.choice(others)] * rng.choice((1, 1, 2, 20))
            if rng.random() < 0.3:
                del chunks[at]
        elif kind == 3:
            place = rng.randrange(len(chunks) + 1)
            chunks[place:place] = [self._extra(rng)]
        elif kind == 4:
            return self._with_pixels(rng, chunks)
        else:
            stream = bytearray(b"".join(part for name, part in chunks if name == b"IDAT"))
            for _ in range(rng.choice((1, 1, 3))):
                if stream:
                    stream[rng.randrange(min(len(stream), 80))] ^= 1 << rng.randrange(8)
            return self._with_stream(chunks, bytes(stream))
        return file_of(chunks)

    def _extra(self, rng: Random) -> tuple[bytes, bytes]:
        if rng.random() < 0.5:
            name, size = rng.choice(_EXTRA)
            return name, rng.randbytes(max(0, size + rng.choice((-1, 0, 0, 1))))
        packed = compress(bytes(rng.choice((0, 9, 1 << 20, (1 << 20) + 1, 1 << 21))))
        zeros = bytes(rng.randrange(5))
        return rng.choice(_PACKED), b"name" + zeros + rng.choice((packed, packed[:-5], b""))

    def _with_pixels(self, rng: Random, chunks: list[tuple[bytes, bytes]]) -> bytes:
        """Change bytes of the filtered rows, or their filters, and compress them again."""
        stream = b"".join(part for name, part in chunks if name == b"IDAT")
        try:
            rows = bytearray(zlib.decompressobj().decompress(stream, 1 << 16))
        except zlib.error:
            rows = bytearray(filtered(np.zeros((9, 39), np.uint8), 3, [rng.randrange(5)] * 9))
        for _ in range(rng.choice((1, 5, 50))):
            if rows:
                value = rng.choice((0, 1, 2, 3, 4, 5, 255, rng.choice(INTERESTING) & 255))
                rows[rng.randrange(len(rows))] = value
        if rng.random() < 0.1:
            rows = rows[: -rng.randrange(1, 9)] if rng.random() < 0.5 else rows + bytes(9)
        strategy, memory = rng.choice(_STRATEGIES), rng.randint(1, 9)
        return self._with_stream(chunks, compress(bytes(rows), rng.randrange(10), strategy, memory))

    def _with_stream(self, chunks: list[tuple[bytes, bytes]], stream: bytes) -> bytes:
        """Replace the compressed pixels."""
        result, done = SIGNATURE, False
        for name, content in chunks:
            if name != b"IDAT":
                result += chunk(name, content)
            elif not done:
                result, done = result + chunk(name, stream), True
        return result

    def run(self, data: bytes) -> Hashable:
        """Compare the whole image, its integers, and a part of it."""
        info = native_info(data) if data[:1] == b"\x89" else None
        if info is None:
            return None
        width, height, channels, orientation = info
        rng = Random(zlib.crc32(data))
        try:
            whole = self._decoder.decode(data)
        except UnsupportedPngError:
            # Damage that a part need not see.
            if width * height <= MAX_PIXELS:
                self._part(data, width, height, rng)
            raise
        check(np.array_equal(whole, self._by_pillow(data, None)), "other pixels than Pillow's")
        if channels == 1:
            indices = self._decoder.decode_indices(data)
            expected = self._by_pillow(data, INDEX)[:, :, 0]
            check(np.array_equal(indices, expected), "other integers than Pillow's")
        x, y, part = self._part(data, width, height, rng)
        expected = whole[y : y + part.shape[0], x : x + part.shape[1]]
        check(np.array_equal(part, expected), "a part differs from the whole image")
        return channels, orientation, width > 8, height > 8, data[24:25]

    def _by_pillow(self, data: bytes, options: ImageOptions | None) -> np.ndarray:
        try:
            return decode_with_pillow(data, options, _LIMITS)
        except ImageArchiveError as error:
            check(False, f"Pillow refuses it: {error}")
            raise

    def _part(
        self, data: bytes, width: int, height: int, rng: Random
    ) -> tuple[int, int, np.ndarray]:
        x, y = rng.randrange(width), rng.randrange(height)
        geometry = Geometry(width, height)
        geometry.crop(x, y, rng.randint(1, width - x), rng.randint(1, height - y))
        out = np.empty((geometry.height, geometry.width, 3), np.uint8)
        self._decoder.render(data, geometry, UINT8, out)
        return x, y, out
