"""Small pictures of encoded images."""

import io

import numpy as np
import pytest
from PIL import Image

from imagearchive.errors import DecodeError
from imagearchive.images.thumbnails import encode_thumbnail, thumbnail


def smooth(width, height):
    small = np.random.default_rng(1).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize(("size", "expected"), [((640, 480), (64, 48)), ((300, 900), (21, 64))])
def test_thumbnail_looks_like_pillows(kind, size, expected):
    image = smooth(*size)
    data = encoded(image, kind)
    pixels = thumbnail(data, 64)
    assert pixels.shape == (expected[1], expected[0], 3)
    small = Image.open(io.BytesIO(data)).convert("RGB").resize(expected, Image.Resampling.BILINEAR)
    assert np.abs(pixels.astype(int) - np.asarray(small, int)).mean() < 3


def test_thumbnail_of_a_smaller_image_is_the_image():
    image = smooth(40, 30)
    np.testing.assert_array_equal(thumbnail(encoded(image, "PNG"), 64), np.asarray(image))


def test_thumbnail_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(smooth(200, 100), kind, exif=exif)
        assert thumbnail(data, 50).shape == (50, 25, 3)
        assert thumbnail(data, 50, exif_transpose=False).shape == (25, 50, 3)


def test_thumbnail_of_damaged_data_is_an_error_or_what_pillow_makes_of_it():
    data = encoded(smooth(200, 100), "JPEG")
    for wrong in (b"", b"text", data[:200]):
        with pytest.raises(DecodeError):
            thumbnail(wrong, 50)
    damaged = bytearray(data)
    damaged[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    assert thumbnail(bytes(damaged), 50).shape == (25, 50, 3)


def test_encoded_thumbnail_is_a_jpeg():
    pixels = thumbnail(encoded(smooth(200, 100), "PNG"), 50)
    again = Image.open(io.BytesIO(encode_thumbnail(pixels)))
    assert (again.format, again.size) == ("JPEG", (50, 25))


def test_thumbnail_with_background_shows_it_behind_transparent_pixels():
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:10] = (200, 0, 0, 255)
    for kind in ("PNG", "WEBP"):
        data = encoded(
            Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {})
        )
        small = thumbnail(data, 10, background=(255, 255, 255))
        assert small.shape == (10, 10, 3)
        assert small[0, 0].tolist() == [200, 0, 0]
        assert small[-1, -1].tolist() == [255, 255, 255]
