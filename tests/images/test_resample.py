"""Resampling, against Pillow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.images import noise, photo
from support.rendering import resize

from imagearchive.images.geometry import FILTERS
from imagearchive.images.render import use_simd

SIDES = st.one_of(st.sampled_from([1, 2, 3, 8, 15, 16, 17, 33]), st.integers(1, 120))


def as_pillow(array):
    height, width, channels = array.shape
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    return Image.frombytes(mode, (width, height), array.tobytes())


def resize_rows_first(image, size, method, box):
    """`Image.resize` in two passes: newer Pillows turn the order round where it is cheaper."""
    if image.size == size and box == (0, 0, *size):
        return image
    mode = image.mode
    if mode == "RGBA" and method != Image.Resampling.NEAREST:
        image = image.convert("RGBa")
    image = image.resize((size[0], image.height), method, (box[0], 0, box[2], image.height))
    image = image.resize(size, method, (0, box[1], size[0], box[3]))
    return image.convert(mode) if image.mode != mode else image


@settings(max_examples=150)
@given(
    SIDES, SIDES, SIDES, SIDES, st.sampled_from([1, 3, 4]), st.sampled_from(FILTERS),
    st.integers(0, 10**6), st.sampled_from([0, 1, 2]),
)  # fmt: skip
def test_resize_equals_pillow_in_two_passes(width, height, w, h, channels, name, seed, vectors):
    array = noise(width, height, channels, seed)
    rng = np.random.default_rng(seed)
    x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
    x1, y1 = int(rng.integers(x0, width)) + 1, int(rng.integers(y0, height)) + 1
    use_simd(vectors > 0, wide=vectors > 1)
    try:
        ours = resize(array, (w, h), name, (x0, y0, x1, y1))
    finally:
        use_simd(True)
    method = Image.Resampling[name.upper()]
    theirs = resize_rows_first(as_pillow(array), (w, h), method, (x0, y0, x1, y1))
    np.testing.assert_array_equal(ours, np.asarray(theirs).reshape(ours.shape))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resize_keeps_colors_of_transparent_pixels_out(dtype, simd):
    image = np.zeros((24, 24, 4), dtype)
    image[:, :] = (0, 255, 0, 0)
    image[:, :11] = (200, 0, 0, 255)
    # The other filters overshoot.
    for name in ("box", "bilinear"):
        result = resize(image, (10, 9), name, None)
        visible = result[result[:, :, 3] > 64]
        assert (visible[:, 3] < 250).any()
        np.testing.assert_allclose(visible[:, 1], 0, atol=1e-3)
        np.testing.assert_allclose(visible[:, 0], 200, atol=3)


def test_resize_of_floats_with_alpha_equals_resize_of_premultiplied_floats():
    array = np.random.default_rng(3).random((17, 23, 4)).astype(np.float32)
    premultiplied = array.copy()
    premultiplied[:, :, :3] *= array[:, :, 3:]
    ours = resize(array, (9, 30), "bilinear", None)
    for c in range(4):
        theirs = Image.fromarray(np.ascontiguousarray(premultiplied[:, :, c]))
        theirs = np.asarray(theirs.resize((9, 30), Image.Resampling.BILINEAR))
        expected = theirs if c == 3 else theirs / ours[:, :, 3]
        np.testing.assert_allclose(ours[:, :, c], expected, atol=2e-5)


@pytest.mark.parametrize("size", [(224, 224), (61, 47), (400, 300), (1, 1), (640, 9)])
@pytest.mark.parametrize("make", [noise, photo])
def test_resize_is_close_to_pillow_in_one_call(make, size, simd):
    array = make(331, 219)
    box = (12.25, 7.5, 300.75, 210.125)
    for box_ in (None, box):
        ours = resize(array, size, "bilinear", box_).astype(int)
        theirs = np.asarray(
            Image.fromarray(array).resize(size, Image.Resampling.BILINEAR, box_)
        ).astype(int)
        assert abs(ours - theirs).mean() < 0.5
        assert abs(ours - theirs).max() <= 2


@pytest.mark.parametrize("name", FILTERS)
def test_resize_of_floats_equals_pillow(name):
    array = np.random.default_rng(3).standard_normal((37, 53, 3)).astype(np.float32)
    for size in ((20, 11), (90, 70)):
        ours = resize(array, size, name, None)
        for c in range(3):
            theirs = Image.fromarray(np.ascontiguousarray(array[:, :, c]))
            theirs = theirs.resize(size, Image.Resampling[name.upper()])
            np.testing.assert_allclose(ours[:, :, c], np.asarray(theirs), atol=2e-5)


def test_resize_strong_reduction_reads_all_pixels():
    array = photo(2000, 1501)
    ours = resize(array, (3, 2), "bilinear", None).astype(int)
    theirs = np.asarray(Image.fromarray(array).resize((3, 2), Image.Resampling.BILINEAR))
    assert abs(ours - theirs).max() <= 1
