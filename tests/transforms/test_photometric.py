"""Color adjustments, jitter, grayscale and blur."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from support.images import noise, photo, same_distribution

from imagearchive import transforms as T
from imagearchive.transforms import Key


@pytest.mark.parametrize("make", [noise, photo])
@pytest.mark.parametrize("factor", [0.0, 0.35, 1.0, 1.7, 3.0])
def test_adjust_equals_image_enhance(make, factor):
    image = make(90, 70)
    picture = Image.fromarray(image)
    for ours, theirs in (
        (T.adjust_brightness, ImageEnhance.Brightness),
        (T.adjust_contrast, ImageEnhance.Contrast),
        (T.adjust_saturation, ImageEnhance.Color),
    ):
        expected = np.asarray(theirs(picture).enhance(factor)).astype(int)
        difference = abs(ours(image, factor).astype(int) - expected)
        assert difference.max() <= 1
        assert difference.mean() < 0.01
        # The same on floats in [0, 1], and in gray.
        floats = ours(image.astype(np.float32) / np.float32(255), factor)
        assert floats.dtype == np.float32
        assert abs(floats * 255 - expected).mean() < 1
        gray = np.asarray(picture.convert("L"))
        expected = np.asarray(theirs(Image.fromarray(gray)).enhance(factor)).astype(int)
        assert abs(ours(gray[:, :, None], factor)[:, :, 0].astype(int) - expected).max() <= 1


def test_adjust_of_floats_equals_the_formulas():
    image = np.random.default_rng(0).random((9, 8, 3), np.float32)
    gray = image @ np.array([0.299, 0.587, 0.114])
    for factor in (0.0, 0.4, 1.0, 1.9):
        for result, other in (
            (T.adjust_brightness(image, factor), 0.0),
            (T.adjust_contrast(image, factor), gray.mean()),
            (T.adjust_saturation(image, factor), gray[:, :, None]),
        ):
            expected = np.clip(factor * image + (1 - factor) * other, 0, 1)
            np.testing.assert_allclose(result, expected, atol=1e-6)
    for shift in (-0.5, -0.2, 0.0, 0.13, 0.5):
        expected = np.empty_like(image)
        for y, x in np.ndindex(image.shape[:2]):
            h, s, v = colorsys.rgb_to_hsv(*map(float, image[y, x]))
            expected[y, x] = colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)
        np.testing.assert_allclose(T.adjust_hue(image, shift), expected, atol=1e-5)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.05, 0.3, 0.5])
def test_adjust_hue_equals_pillows_hsv(shift):
    image = np.concatenate([noise(90, 70), photo(90, 70)])
    h, s, v = Image.fromarray(image).convert("HSV").split()
    moved = (np.asarray(h).astype(int) + int(shift * 255)) % 256
    expected = Image.merge("HSV", (Image.fromarray(moved.astype(np.uint8)), s, v)).convert("RGB")
    difference = abs(T.adjust_hue(image, shift).astype(int) - np.asarray(expected))
    assert difference.mean() < 0.1
    assert difference.max() <= 8
    floats = T.adjust_hue(image.astype(np.float32) / np.float32(255), shift)
    assert abs(floats * 255 - np.asarray(expected)).mean() < 2.5


def test_color_jitter_draws_order_and_factors():
    image = photo(40, 30)
    jitter = T.ColorJitter(0.4, (0.5, 0.6), 0.3, 0.2)
    orders = set()
    adjust = (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation, T.adjust_hue)
    bounds = ((0.6, 1.4), (0.5, 0.6), (0.7, 1.3), (-0.2, 0.2))
    for index in range(60):
        key = Key(2, 0, index)
        stream = key.stream()
        order = stream.permutation(4)
        orders.add(tuple(order))
        expected = image
        values = [stream.uniform(*b) for b in bounds]
        for which in order:
            expected = adjust[which](expected, values[which])
        np.testing.assert_array_equal(jitter(image, key), expected)
    assert len(orders) > 15  # of 24
    np.testing.assert_array_equal(T.ColorJitter()(image), image)


def test_color_jitter_draws_uniformly():
    """A white pixel shows the factor of brightness, and black and white that of contrast."""
    white = np.full((1, 1, 3), 0.5, np.float32)
    factors = [T.ColorJitter(0.4)(white, Key(0, 0, i))[0, 0, 0] * 2 for i in range(2000)]
    assert same_distribution(factors, np.random.default_rng(0).uniform(0.6, 1.4, 2000))
    # Never below zero.
    factors = [T.ColorJitter(1.5)(white, Key(0, 0, i))[0, 0, 0] * 2 for i in range(2000)]
    drawn = np.random.default_rng(0).uniform(0.0, 2.5, 2000)
    assert same_distribution(factors, np.minimum(drawn, 2.0))


def test_grayscale_equals_pillow():
    image = noise(50, 40)
    gray = np.asarray(Image.fromarray(image).convert("L"))
    np.testing.assert_array_equal(T.Grayscale()(image)[:, :, 0], gray)
    np.testing.assert_array_equal(T.Grayscale(3)(image), np.stack([gray] * 3, 2))


def test_gaussian_blur_equals_the_definition():
    image = photo(30, 20)
    sigma = 1.3
    x = np.arange(-3, 4)
    kernel = np.exp(-0.5 * (x / sigma) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    padded = np.pad(image.astype(float), ((3, 3), (3, 3), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(0, 1))
    expected = np.einsum("hwcij,ij->hwc", windows, kernel)
    result = T.GaussianBlur(7, sigma)(image)
    assert abs(result - expected).max() < 0.51
