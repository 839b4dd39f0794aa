"""What is measured of one image, against NumPy and Pillow."""

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.images import decode_by_pillow, encode, noise, photo

from imagearchive.processing.report.measure import channel_moments, difference_hash, measure


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_channel_moments_random_pixels_equal_numpy(width, height, seed):
    pixels = noise(width, height, seed=seed)
    mean, mean_square = channel_moments(pixels)
    scaled = pixels.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, scaled.mean(0), rtol=1e-12)
    np.testing.assert_allclose(mean_square, (scaled**2).mean(0), rtol=1e-12)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_measure_image_equals_pillow(fmt):
    data = encode(photo(60, 40), fmt)
    found = measure(data)
    assert found.digest == hashlib.blake2b(data, digest_size=16).digest()
    assert (found.problem, found.decoded, found.orientation) == ("", True, 1)
    assert (found.format, found.mode, found.width, found.height) == (fmt, "RGB", 60, 40)
    expected = decode_by_pillow(data).reshape(-1, 3).mean(0) / 255
    np.testing.assert_allclose(found.mean, expected, atol=2 / 255)


def test_measure_sixteen_bits_takes_the_high_byte():
    buffer = io.BytesIO()
    values = np.arange(30 * 20, dtype=np.uint16).reshape(20, 30) * 100
    Image.fromarray(values).save(buffer, "PNG")
    found = measure(buffer.getvalue())
    assert found.mode.startswith("I;16")
    np.testing.assert_allclose(found.mean, [(values >> 8).mean() / 255] * 3)


def test_measure_orientation_is_that_of_exif():
    image = Image.fromarray(photo(40, 20))
    exif = image.getexif()
    exif[274] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    found = measure(buffer.getvalue())
    assert (found.orientation, found.width, found.height) == (6, 40, 20)


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xe0\x00", b"\x89PNG\r\n\x1a\n"])
def test_measure_broken_image_says_why(data):
    found = measure(data)
    assert found.problem
    assert not found.decoded


def test_measure_truncated_jpeg_is_a_problem():
    data = encode(photo(200, 100))
    assert measure(data[: len(data) // 2]).problem


def imagehash_dhash(pixels):
    """The bits as `imagehash.dhash` defines them, of Pillow's own gray and resampling."""
    small = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.LANCZOS)
    values = np.asarray(small)
    text = "".join("01"[int(values[y, x + 1] > values[y, x])] for y in range(8) for x in range(8))
    return int(text, 2)


def test_difference_hash_photo_has_the_bits_of_its_definition():
    for seed in range(5):
        pixels = photo(120, 90, seed)
        assert difference_hash(pixels) == imagehash_dhash(pixels)


def test_difference_hash_smaller_copy_differs_in_few_bits():
    pixels = photo(320, 240, 3)
    copy = decode_by_pillow(encode(pixels[::2, ::2], "JPEG", quality=70))
    assert (difference_hash(pixels) ^ difference_hash(copy)).bit_count() <= 3
    assert (difference_hash(pixels) ^ difference_hash(photo(320, 240, 4))).bit_count() > 10


def test_difference_hash_uniform_or_tiny_image_has_none():
    assert difference_hash(np.full((50, 50, 3), 200, np.uint8)) is None
    assert difference_hash(noise(8, 8)) is None
