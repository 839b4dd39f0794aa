"""Images that Pillow's parsers need long for: many small parts, in a few compressed kilobytes."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from imagearchive.errors import DecodeError
from imagearchive.images.pillow import decode_pillow

COUNT = 100_000


def encoded(kind, mode="RGB", **options):
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def chunk(kind, data):
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def inserted(data, place, part, count=COUNT):
    return data[:place] + part * count + data[place:]


JPEG, PNG, PPM = encoded("JPEG"), encoded("PNG"), encoded("PPM")
GIF = encoded("GIF", "L")
# The position of its first block, after the header and the palette.
GIF_BLOCK = 13 + 3 * 256
EXIF = b"\xff\xe1\0\x10Exif\0\0II*\0\0\0\0\0"

HOSTILE = {
    "JPEG fill bytes": inserted(JPEG, 2, b"\xff"),
    "JPEG stuffed zeros": inserted(JPEG, 2, b"\xff\0"),
    "JPEG comments": inserted(JPEG, 2, b"\xff\xfe\0\2"),
    "JPEG EXIF parts": inserted(JPEG, 2, EXIF),
    "JPEG long EXIF parts": inserted(JPEG, 2, b"\xff\xe1\xff\xffExif\0\0" + bytes(65527), 400),
    "PNG texts": inserted(PNG, 33, chunk(b"tEXt", b"a\0b")),
    "PNG texts at the end": inserted(PNG, len(PNG) - 12, chunk(b"tEXt", b"a\0b")),
    "PNG empty data": inserted(PNG, 33, chunk(b"IDAT", b"")),
    "GIF comments": inserted(GIF, GIF_BLOCK, b"!\xfe\1a\0"),
    "GIF long comment": inserted(
        inserted(GIF, GIF_BLOCK, b"!\xfe\0", 1), GIF_BLOCK + 2, b"\xff" + b"a" * 255, 20_000
    ),
    "PPM comment": inserted(PPM, 3, b"#" + b"a" * COUNT + b"\n", 1),
    "PPM spaces": inserted(PPM, 3, b" "),
    "PPM comments in plain text": b"P1 400 400 " + b"#a\n" * COUNT,
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_decode_pillow_too_many_small_parts_are_refused(data):
    with pytest.raises(DecodeError, match="made to take long"):
        decode_pillow(data)


def small_png_chunks():
    rng = np.random.default_rng(1)
    pixels = zlib.compress(b"".join(b"\0" + rng.bytes(3 * 50) for _ in range(40)))
    parts = [chunk(b"IDAT", pixels[i : i + 100]) for i in range(0, len(pixels), 100)]
    return PNG[:33] + b"".join(parts) + chunk(b"IEND", b"")


BIG = np.random.default_rng(2).integers(0, 256, (3000, 300, 3), np.uint8)
COMMON = {
    "TIFF of one row each strip": ("TIFF", {"tiffinfo": {278: 1}}),
    "PNG": ("PNG", {}),
    "JPEG with a long profile": ("JPEG", {"icc_profile": bytes(4_000_000), "quality": 95}),
    "JPEG with EXIF": ("JPEG", {"exif": b"Exif\0\0" + bytes(60_000)}),
    "GIF": ("GIF", {"comment": b"a" * 100_000}),
    "PPM": ("PPM", {}),
    "WebP": ("WEBP", {}),
}


@pytest.mark.parametrize(("kind", "options"), COMMON.values(), ids=COMMON)
def test_decode_pillow_large_headers_of_real_images_are_read(kind, options):
    file = io.BytesIO()
    Image.fromarray(BIG).save(file, kind, **options)
    found = np.asarray(decode_pillow(file.getvalue()))
    assert np.array_equal(found, np.asarray(Image.open(file).convert("RGB")))


def test_decode_pillow_png_in_small_chunks_is_read():
    data = small_png_chunks()
    found = np.asarray(decode_pillow(data))
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
