"""Masks: the integers that files store, whatever Pillow makes of them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from support.images import encode, noise

from imagearchive import DecodedView
from imagearchive.errors import DecodeError, LimitError
from imagearchive.images.decode import image_size
from imagearchive.images.masks import decode_mask
from imagearchive.images.pillow import ImageOptions, decode_with_pillow
from imagearchive.images.render import Decoder

RNG = np.random.default_rng(0)


def png(values, depth, color, palette=b""):
    """A PNG of any bit depth, which Pillow cannot write."""
    rows = b""
    for row in values:
        bits = "".join(f"{int(value):0{depth}b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = values.shape
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    palette = chunk(b"PLTE", palette) if palette else b""
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + palette + data


def tiff(values, depth, white_is_zero=False):
    """A grayscale TIFF of any bit depth, which Pillow cannot write."""
    pixels = b""
    for row in values:
        bits = "".join(f"{int(value):0{depth}b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        pixels += int(bits, 2).to_bytes(len(bits) // 8, "big")
    height, width = values.shape
    tags = {256: width, 257: height, 258: depth, 259: 1, 262: 0 if white_is_zero else 1}
    tags |= {273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: height, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_decode_mask_tiff_of_every_depth_gives_stored_integers(depth):
    values = RNG.integers(0, 1 << depth, (5, 7))
    np.testing.assert_array_equal(decode_mask(tiff(values, depth)), values)
    white = (1 << depth) - 1
    inverted = tiff(values, depth, white_is_zero=True)
    np.testing.assert_array_equal(decode_mask(inverted), white - values)


def test_decode_mask_pgm_with_long_comments_gives_stored_integers():
    values = RNG.integers(0, 16, (5, 7)).astype(np.uint8)
    comment = b"# 1 2 3 4 5 6\n" * 100
    for header in (b"P5\n%b7 5\n%b15\n", b"P5 %b7 %b5 15\n"):
        data = header % (comment, comment) + values.tobytes()
        np.testing.assert_array_equal(decode_mask(data), values)


@pytest.mark.parametrize("white", [15, 255, 65535])
def test_decode_pgm_with_exif_transpose_is_the_same_without_exif(white):
    values = RNG.integers(0, white + 1, (5, 7))
    data = f"P5 7 5 {white}\n".encode() + values.astype(">u2" if white > 255 else "u1").tobytes()
    for mode in ("index", "unchanged", "L"):
        plain = decode_with_pillow(data, ImageOptions(mode=mode))
        turned = decode_with_pillow(data, ImageOptions(mode=mode, exif_transpose=True))
        np.testing.assert_array_equal(turned, plain)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("color", [0, 3])
def test_decode_mask_png_of_every_depth_gives_stored_integers(depth, color):
    if color == 3 and depth == 16:
        depth = 8
    values = RNG.integers(0, 1 << depth, (5, 7))
    palette = RNG.integers(0, 256, 3 << depth).astype(np.uint8).tobytes() if color == 3 else b""
    mask = decode_mask(png(values, depth, color, palette))
    np.testing.assert_array_equal(mask, values)
    assert mask.dtype == (np.uint16 if depth == 16 else np.uint8)


@pytest.mark.parametrize("white", [1, 3, 20, 200, 255, 256, 1000, 40000, 65535])
@pytest.mark.parametrize("plain", [True, False])
def test_decode_mask_pgm_of_every_range_gives_stored_integers(white, plain):
    values = RNG.integers(0, white + 1, (5, 7))
    if plain:
        data = (
            f"P2\n# a comment\n7 5\n{white}\n".encode()
            + " ".join(map(str, values.ravel())).encode()
        )
    else:
        kind = ">u2" if white > 255 else "u1"
        data = f"P5 7 5 {white}\n".encode() + values.astype(kind).tobytes()
    np.testing.assert_array_equal(decode_mask(data), values)


@pytest.mark.parametrize("fmt", ["PNG", "GIF", "TIFF", "BMP"])
def test_decode_mask_of_palette_files_gives_indices(fmt):
    values = RNG.choice([0, 1, 2, 255], (6, 5)).astype(np.uint8)
    image = Image.fromarray(values, "P")
    image.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, fmt, **({"optimize": False} if fmt == "GIF" else {}))
    np.testing.assert_array_equal(decode_mask(file.getvalue()), values)


def test_decode_mask_of_colors_raises():
    with pytest.raises(DecodeError, match="no single integer"):
        decode_mask(encode(noise(4, 4), "PNG"))


def test_decode_mask_beyond_the_limit_raises():
    with pytest.raises(LimitError):
        decode_mask(encode(noise(4, 4, 1), "PNG"), Decoder(max_pixels=15))


def test_decoded_view_mode_index_gives_palette_indices():
    values = np.array([[0, 1, 2, 255]], np.uint8)
    image = Image.fromarray(values, "P")
    image.putpalette(bytes(range(255, -1, -1)) * 3)
    file = io.BytesIO()
    image.save(file, "PNG")
    view = DecodedView({"a.png": file.getvalue()}, mode="index")
    np.testing.assert_array_equal(view["a.png"], values[:, :, None])


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "GIF"])
def test_image_size_is_that_of_the_header(fmt):
    assert image_size(encode(noise(9, 4), fmt)) == (9, 4)
    with pytest.raises(DecodeError):
        image_size(b"no image")
