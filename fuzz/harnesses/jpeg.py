"""Regions of JPEGs, against the same region of the whole image."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterable
from random import Random

import numpy as np
from support.images import encode, noise, photo
from support.paths import GOLDEN
from support.rendering import UINT8

from fuzz.harness import Harness, check
from fuzz.mutation import INTERESTING, mutate
from imagearchive.errors import ImageArchiveError
from imagearchive.images.decode import decode_image, oriented
from imagearchive.images.geometry import Geometry
from imagearchive.images.pillow import decode_with_pillow
from imagearchive.images.render import Decoder, jpeg_info

MAX_PIXELS = 1 << 16
_MARKERS = (
    0xC0,
    0xC1,
    0xC2,
    0xC4,
    0xC9,
    0xCC,
    0xD8,
    0xD9,
    0xDA,
    0xDB,
    0xDD,
    0xE0,
    0xE1,
    0xEE,
    0xFE,
)


def _decode_by_pillow(data: bytes) -> np.ndarray | None:
    """Decode an image, or return None: Pillow refuses a few that libjpeg-turbo decodes."""
    try:
        return decode_with_pillow(data)
    except ImageArchiveError:
        return None


class JpegRegions(Harness):
    """Decodes an image whole, as Pillow does, and renders parts of it."""

    name = "jpeg"
    smoke_runs = 150_000
    max_size = 1 << 14
    tokens = tuple(bytes([0xFF, marker]) for marker in (*_MARKERS, *range(0xD0, 0xD8)))

    def __init__(self) -> None:
        self._decoder = Decoder(MAX_PIXELS)

    def seeds(self) -> Iterable[bytes]:
        """Return small JPEGs of every kind."""
        for path in sorted((GOLDEN / "jpeg").glob("*.jpg")):
            yield path.read_bytes()
        image = photo(50, 37)
        for options in (
            {}, {"progressive": True}, {"mode": "L"}, {"mode": "CMYK"}, {"subsampling": "4:4:4"},
            {"subsampling": "4:2:0", "restart_marker_rows": 1}, {"progressive": True, "mode": "L"},
        ):  # fmt: skip
            yield encode(image, quality=40, **options)
        yield encode(photo(1, 1))
        # Large enough for the tables that skip several Huffman codes at once.
        for options in (
            {"mode": "L"}, {"mode": "L", "restart_marker_blocks": 5},
            {"mode": "L", "optimize": True},
            {"subsampling": "4:2:0", "restart_marker_rows": 1, "optimize": True},
        ):  # fmt: skip
            side = 145 if "mode" in options else 120
            yield encode(noise(side, side), quality=90, **options)

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change bytes, or segments as a whole."""
        if rng.random() < 0.6:
            return mutate(rng, data, other, self.tokens)
        changed = bytearray(data)
        starts = [i for i in range(len(data) - 4) if data[i] == 0xFF and data[i + 1] in _MARKERS]
        if not starts:
            return mutate(rng, data, other, self.tokens)
        at = rng.choice(starts)
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        kind = rng.randrange(5)
        if kind == 0:
            del changed[at : at + length]
        elif kind == 1:
            changed[at:at] = changed[at : at + length] * rng.choice((1, 1, 2, 20))
        elif kind == 2:
            changed[at + 1] = rng.choice(_MARKERS)
        elif kind == 3:
            changed[at + 2 : at + 4] = (rng.choice(INTERESTING) & 0xFFFF).to_bytes(2, "big")
        else:
            offset = rng.randrange(2, max(3, min(length, 20)))
            changed[at + offset : at + offset + 1] = bytes(
                [rng.choice((0, 1, 2, 3, 4, 8, 17, 63, 255))]
            )
        return bytes(changed)

    def run(self, data: bytes) -> Hashable:
        """Render regions; those of an image that decodes whole must be parts of it."""
        info = jpeg_info(data)
        if info is None:
            return None
        width, height, components, orientation = info
        rng = Random(zlib.crc32(data))
        try:
            whole = self._decoder.decode(data)
        except ImageArchiveError:
            if width * height > MAX_PIXELS:
                raise
            # Damage that a region need not see.
            self._region(data, width, height, rng)
            raise
        if rng.random() < 0.3:
            expected = _decode_by_pillow(data)
            check(
                expected is None or np.array_equal(whole, expected), "Pillow decodes other pixels"
            )
        oriented(whole, orientation)
        x, y, part = self._region(data, width, height, rng)
        check(
            np.array_equal(part, whole[y : y + part.shape[0], x : x + part.shape[1]]),
            "a region differs from the whole image",
        )
        self._resized(data, width, height, rng)
        if rng.random() < 0.1:
            decode_image(data, self._decoder, exif_transpose=True)
        return components, orientation, width > 8, height > 8

    def _region(
        self, data: bytes, width: int, height: int, rng: Random
    ) -> tuple[int, int, np.ndarray]:
        x, y = rng.randrange(width), rng.randrange(height)
        geometry = Geometry(width, height)
        geometry.crop(x, y, rng.randint(1, width - x), rng.randint(1, height - y))
        return x, y, self._render(data, geometry)

    def _resized(self, data: bytes, width: int, height: int, rng: Random) -> None:
        geometry = Geometry(width, height)
        x, y = rng.randrange(width), rng.randrange(height)
        box = (x, y, rng.randint(x + 1, width), rng.randint(y + 1, height))
        geometry.min_reduction = rng.choice((0, 1, 2))
        geometry.resize(
            rng.randint(1, 20), rng.randint(1, 20), box, rng.choice(("bilinear", "lanczos"))
        )
        self._render(data, geometry)

    def _render(self, data: bytes, geometry: Geometry) -> np.ndarray:
        out = np.empty((geometry.height, geometry.width, 3), np.uint8)
        self._decoder.render(data, geometry, UINT8, out)
        return out
