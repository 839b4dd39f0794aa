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
    mode = {1: "L", 3: "RGB", 4: "RGBX"}[channels]
    return Image.frombytes(mode, (width, height), array.tobytes())


@settings(max_examples=150, deadline=None)
@given(
    SIDES, SIDES, SIDES, SIDES, st.sampled_from([1, 3, 4]), st.sampled_from(FILTERS),
    st.integers(0, 10**6), st.booleans(),
)  # fmt: skip
def test_resize_equals_pillow_in_two_passes(width, height, w, h, channels, name, seed, vectors):
    array = noise(width, height, channels, seed)
    rng = np.random.default_rng(seed)
    x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
    x1, y1 = int(rng.integers(x0, width)) + 1, int(rng.integers(y0, height)) + 1
    use_simd(vectors)
    try:
        ours = resize(array, (w, h), name, (x0, y0, x1, y1))
    finally:
        use_simd(True)
    # Rows first, then columns: newer Pillows turn the order round where it is cheaper.
    method = Image.Resampling[name.upper()]
    theirs = as_pillow(array).resize((w, height), method, (x0, 0, x1, height))
    theirs = np.asarray(theirs.resize((w, h), method, (0, y0, w, y1))).reshape(ours.shape)
    np.testing.assert_array_equal(ours, theirs)


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
