"""Images against Pillow; hostile and broken images."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.codecs import ALPHA, GRAY, PIXELS, RNG, image_bytes

from imagearchive.codecs import decode, encode
from imagearchive.errors import (
    DecodeError,
    LimitError,
    OptionError,
)
from imagearchive.images.pillow import FORMATS, decode_with_pillow
from imagearchive.storage.limits import Limits


@pytest.mark.parametrize("extension", sorted(FORMATS))
def test_decode_image_every_extension_gives_three_channels(extension):
    data = image_bytes(Image.fromarray(PIXELS), FORMATS[extension])
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for name in (f"x.{extension}", f"a.b/C.D.{extension.upper()}"):
        array = decode(name, data)
        assert array.shape == (12, 17, 3)
        assert array.dtype == np.uint8
        assert array.flags.writeable
        np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(decode(f"x.{extension}", memoryview(data)), expected)


def test_decode_image_format_is_told_by_content():
    np.testing.assert_array_equal(
        decode("x.jpg", image_bytes(Image.fromarray(PIXELS), "PNG")), PIXELS
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM"])
def test_decode_image_gray_has_three_equal_channels(kind):
    # WebP has no gray; without loss, its colors stay gray.
    data = image_bytes(
        Image.fromarray(GRAY), kind, **({"lossless": True} if kind == "WEBP" else {})
    )
    array = decode("x.png", data)
    assert array.shape == (12, 17, 3)
    assert decode("x.png", data, mode="L").shape == (12, 17, 1)
    assert (array[..., :1] == array).all()


def test_decode_image_one_bit_is_black_and_white():
    bits = Image.fromarray(GRAY).convert("1")
    array = decode("x.png", image_bytes(bits, "PNG"))
    assert set(np.unique(array)) <= {0, 255}
    np.testing.assert_array_equal(array[..., 0] > 0, np.asarray(bits))
    assert decode("x.png", image_bytes(bits, "PNG"), mode="unchanged").shape == (12, 17, 1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF"])
def test_decode_image_palette_becomes_colors(kind):
    image = Image.fromarray(PIXELS).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    for mode in ("RGB", "unchanged"):
        np.testing.assert_array_equal(
            decode("x.png", image_bytes(image, kind), mode=mode), expected
        )


def test_decode_image_palette_transparency_is_dropped_kept_or_composited():
    image = Image.fromarray(PIXELS).quantize(4)
    data = image_bytes(image, "PNG", transparency=bytes([0, 128, 255, 255]))
    np.testing.assert_array_equal(decode("x.png", data), np.asarray(image.convert("RGB")))
    alpha = np.array([0, 128, 255, 255], np.uint8)[np.asarray(image)]
    for mode in ("RGBA", "unchanged"):
        np.testing.assert_array_equal(decode("x.png", data, mode=mode)[..., 3], alpha)
    white = decode("x.png", data, background=(255, 255, 255))
    assert (white[alpha == 0] == 255).all()
    np.testing.assert_array_equal(
        white[alpha == 255], np.asarray(image.convert("RGB"))[alpha == 255]
    )


def test_decode_image_alpha_is_dropped_kept_or_composited():
    data = image_bytes(Image.fromarray(ALPHA), "PNG")
    np.testing.assert_array_equal(decode("x.png", data), ALPHA[..., :3])
    np.testing.assert_array_equal(decode("x.png", data, mode="RGBA"), ALPHA)
    np.testing.assert_array_equal(decode("x.png", data, mode="unchanged"), ALPHA)
    on_red = decode("x.png", data, background=(255, 0, 0)).astype(float)
    share = ALPHA[..., 3:].astype(float) / 255
    expected = ALPHA[..., :3] * share + np.array([255, 0, 0]) * (1 - share)
    assert np.abs(on_red - expected).max() <= 1.01
    opaque = decode("x.png", image_bytes(Image.fromarray(PIXELS), "PNG"), mode="RGBA")
    assert (opaque[..., 3] == 255).all()


def test_decode_image_gray_with_alpha_or_transparent_level():
    image = Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(ALPHA[..., 3])])
    data = image_bytes(image, "PNG")
    np.testing.assert_array_equal(decode("x.png", data)[..., 0], GRAY)
    np.testing.assert_array_equal(decode("x.png", data, mode="RGBA")[..., 3], ALPHA[..., 3])
    level = int(GRAY[0, 0])
    keyed = image_bytes(Image.fromarray(GRAY), "PNG", transparency=level)
    np.testing.assert_array_equal(decode("x.png", keyed)[..., 0], GRAY)
    white = decode("x.png", keyed, background=(9, 9, 9))
    assert (white[level == GRAY] == 9).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_decode_image_16_bit_gray_is_reduced_to_its_high_byte(kind):
    deep = RNG.integers(0, 65536, (9, 8), dtype=np.uint16)
    data = image_bytes(Image.fromarray(deep), kind)
    np.testing.assert_array_equal(decode("x.tif", data)[..., 1], deep >> 8)
    unchanged = decode("x.tif", data, mode="unchanged")
    assert unchanged.shape == (9, 8, 1)
    np.testing.assert_array_equal(unchanged[..., 0], deep)


def test_decode_image_big_endian_16_bit_is_read():
    deep = RNG.integers(0, 65536, (9, 8), dtype=np.uint16)
    image = Image.frombytes("I;16B", (8, 9), deep.astype(">u2").tobytes())
    data = image_bytes(image, "TIFF")
    np.testing.assert_array_equal(decode("x.tif", data)[..., 0], deep >> 8)
    unchanged = decode("x.tif", data, mode="unchanged")
    np.testing.assert_array_equal(unchanged[..., 0], deep)
    assert unchanged.dtype == np.uint16


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_decode_image_32_bit_is_refused_unless_unchanged(dtype):
    values = RNG.normal(0, 1e4, (5, 6)).astype(dtype)
    data = image_bytes(Image.fromarray(values), "TIFF")
    np.testing.assert_array_equal(decode("x.tif", data, mode="unchanged")[..., 0], values)
    with pytest.raises(DecodeError, match=r"x\.tif: .*mode='unchanged'"):
        decode("x.tif", data)


def test_decode_image_cmyk_becomes_rgb_as_in_pillow():
    image = Image.fromarray(PIXELS).convert("CMYK")
    for kind in ("JPEG", "TIFF"):
        data = image_bytes(image, kind)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode("x.jpg", data), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_image_exif_orientation_is_applied_only_on_request(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = image_bytes(Image.fromarray(PIXELS), "PNG", exif=exif)
    np.testing.assert_array_equal(decode("x.png", data), PIXELS)
    turned = decode("x.png", data, exif_transpose=True)
    assert turned.shape == ((12, 17, 3) if orientation < 5 else (17, 12, 3))
    if orientation == 3:
        np.testing.assert_array_equal(turned, PIXELS[::-1, ::-1])
    if orientation == 6:
        np.testing.assert_array_equal(turned, np.rot90(PIXELS, -1))


def test_decode_image_animation_gives_first_frame():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = image_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode("x.gif", data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_decode_image_truncated_names_the_member(kind):
    data = image_bytes(Image.fromarray(PIXELS), kind)
    for length in sorted({0, 1, 2, 8, 20, len(data) // 2, int(len(data) * 0.8)}):
        with pytest.raises(DecodeError, match=r"^dir/x\.jpg: "):
            decode("dir/x.jpg", data[:length])


@given(
    st.binary(max_size=64), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
)
def test_decode_image_damaged_raises_decode_error_or_decodes(noise, kind):
    data = bytearray(image_bytes(Image.fromarray(PIXELS), kind))
    for index, value in enumerate(noise):
        data[(index * 97 + value) % len(data)] = value
    try:
        array = decode("x.jpg", bytes(data), max_pixels=1 << 20)
    except (DecodeError, LimitError):
        return
    assert array.ndim == 3
    assert array.shape[2] == 3


def test_decode_image_too_many_pixels_is_refused_before_decoding():
    huge = image_bytes(Image.new("L", (40, 40)), "BMP")
    bomb = bytearray(image_bytes(Image.new("1", (8, 8)), "PNG"))
    bomb[16:24] = struct.pack(">II", 60000, 60000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    with pytest.raises(LimitError, match=r"x\.png: .*60000 x 60000.*max_pixels"):
        decode("x.png", bytes(bomb))
    with pytest.raises(LimitError, match="max_pixels"):
        decode("x.bmp", huge, max_pixels=1599)
    assert decode("x.bmp", huge, max_pixels=1600).shape == (40, 40, 3)


@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, 1 << 10, 1 << 11])
def test_decode_image_limit_of_pillow_is_named(monkeypatch, limit):
    # A frame that extends beyond the image enlarges it, which Pillow itself checks: over
    # its limit it warns, over twice the limit it raises.
    width = 0xFFFF if limit == Image.MAX_IMAGE_PIXELS else 48
    gif = bytearray(image_bytes(Image.new("P", (8, 8)), "GIF"))
    frame = gif.index(b",\0\0\0\0\x08\0\x08\0")
    gif[frame + 5 : frame + 9] = struct.pack("<HH", width, width)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(LimitError, match=r"x\.gif: .*GIF.*PIL\.Image\.MAX_IMAGE_PIXELS"):
        decode("x.gif", bytes(gif), max_pixels=1 << 40)
    with pytest.raises(LimitError, match="MAX_IMAGE_PIXELS"):
        decode_with_pillow(bytes(gif), limits=Limits(max_pixels=1 << 40))


def test_decode_image_other_content_is_refused():
    with pytest.raises(DecodeError, match="not an image of a known format"):
        decode("x.png", b"hello, world, this is text")
    with pytest.raises(DecodeError, match="an empty member"):
        decode("x.png", b"")
    # PostScript would make Pillow start another program.
    with pytest.raises(DecodeError, match="known format"):
        decode("x.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


@pytest.mark.parametrize(
    "options", [{"mode": "HSV"}, {"background": (1, 2)}, {"background": (0, 0, 256)}]
)
def test_decode_image_invalid_option_is_refused(options):
    with pytest.raises(OptionError):
        decode("x.png", b"", **options)


def test_decode_with_pillow_truncated():
    data = image_bytes(Image.fromarray(PIXELS), "PNG")
    with pytest.raises(DecodeError):
        decode_with_pillow(data[:-60])
    assert decode_with_pillow(data).shape == PIXELS.shape


@pytest.mark.parametrize("extension", ["png", "bmp", "webp", "tif", "tiff", "ppm"])
def test_encode_image_lossless_round_trip_is_exact(extension):
    np.testing.assert_array_equal(
        decode(f"x.{extension}", encode(f"x.{extension}", PIXELS)), PIXELS
    )


def test_encode_image_gray_alpha_and_unsupported_arrays():
    close = decode("x.jpg", encode("x.jpg", np.full((16, 16, 3), 90, np.uint8)))
    assert np.abs(close.astype(int) - 90).max() <= 2
    np.testing.assert_array_equal(decode("x.png", encode("x.png", ALPHA), mode="RGBA"), ALPHA)
    gray = encode("x.png", GRAY[:, :, None])
    np.testing.assert_array_equal(decode("x.png", gray, mode="L")[..., 0], GRAY)
    with pytest.raises(DecodeError, match="float64"):
        encode("x.png", PIXELS / 2)
    with pytest.raises(DecodeError, match=r"\(12, 17, 4\).*JPEG"):
        encode("x.jpg", ALPHA)
