"""Damaged JPEGs: the same pixels as from Pillow, or an error from both."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.images import encode, photo
from support.rendering import needs_jpeg

from imagearchive import transforms as T
from imagearchive.errors import DecodeError
from imagearchive.images.decode import decode_image, find_damage
from imagearchive.images.pillow import decode_with_pillow
from imagearchive.images.render import Decoder
from imagearchive.transforms import Compose, compile_pipeline

FILES = [
    encode(photo(70, 50), quality=85, mode=mode, **options)
    for mode, options in (
        ("RGB", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"restart_marker_rows": 1}),
        ("L", {}),
        ("L", {"progressive": True}),
        ("CMYK", {}),
    )
]


def outcome(function, *args):
    try:
        return function(*args)
    except DecodeError:
        return None


def damage(data, how, place, length):
    """Damage the data behind the first headers. `place` is a fraction."""
    start = data.index(b"\xff\xda") + 14
    at = start + int(place * (len(data) - start))
    if how == "cut":
        return data[:at]
    if how == "cut and closed":
        return data[:at] + b"\xff\xd9"
    if how == "deleted":
        return data[:at] + data[at + length :]
    middle = b"\xff\xd0" * length if how == "marker" else bytes(length)
    return data[:at] + middle + data[at + len(middle) :]


@settings(max_examples=400)
@given(
    st.sampled_from(FILES),
    st.sampled_from(["cut", "cut and closed", "deleted", "marker", "zeros"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 40),
)
def test_decode_image_of_damaged_jpeg_equals_pillow(data, how, place, length):
    broken = damage(data, how, place, length)
    expected = outcome(decode_with_pillow, broken)
    result = outcome(decode_image, broken)
    assert (result is None) == (expected is None)
    if expected is None:
        return
    np.testing.assert_array_equal(result, expected)
    # The lower right corner needs all rows.
    for steps in ([T.Resize(70, 50)], [_Corner(9), T.ToTensor()], [_Corner(9), T.Lambda(np.array)]):
        pipeline = compile_pipeline(Compose(steps), layout="HWC")
        np.testing.assert_array_equal(pipeline.render(broken), pipeline.apply(expected))


class _Corner(T.CenterCrop):
    """The lower right corner."""

    def add_to(self, geometry, stream):
        x, y = geometry.width - self.width, geometry.height - self.height
        geometry.crop(x, y, self.width, self.height)


@needs_jpeg
def test_decode_image_counts_damaged_images():
    decoder = Decoder()
    broken = damage(FILES[0], "cut and closed", 0.5, 0)
    for _ in range(2):
        decode_image(broken, decoder)
    decode_image(FILES[0], decoder)
    assert (decoder.damaged_images, "premature end" in decoder.damage) == (2, True)
    with pytest.raises(DecodeError, match="truncated"):
        decode_image(FILES[0][:-1], decoder)
    assert decoder.damaged_images == 2
    assert "premature end" in find_damage(broken)
    assert find_damage(FILES[0]) is None
    assert find_damage(encode(photo(9, 9), "PNG")) is None


@needs_jpeg
def test_render_all_into_renders_images_beside_a_damaged_one():
    broken = damage(FILES[0], "marker", 0.5, 8)
    files = [FILES[0], broken, FILES[2]]
    pipeline = compile_pipeline(T.Resize(20, 20))
    out = np.empty((3, 20, 20, 3), np.uint8)
    decoder = Decoder()
    pipeline.render_all_into(files, [None] * 3, out, decoder)
    for file, image in zip(files, out):
        np.testing.assert_array_equal(image, pipeline.apply(decode_with_pillow(file)))
    assert decoder.damaged_images == 1


@pytest.mark.parametrize("marker", [0xDB, 0xC4])
def test_decode_image_does_not_use_tables_of_the_image_before(marker):
    """A JPEG that has lost its tables is the same whatever was decoded before."""
    data = FILES[0]
    while (at := data.find(bytes([0xFF, marker]))) >= 0:
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    expected = outcome(decode_with_pillow, data)
    other = encode(photo(70, 50), quality=30, optimize=True)
    decoder = Decoder()
    for before in (None, FILES[0], other, data):
        if before is not None:
            outcome(decode_image, before, decoder)
        result = outcome(decode_image, data, decoder)
        assert (result is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(result, expected)


def test_decode_image_of_progressive_jpeg_without_its_last_scans_equals_pillow():
    data = encode(photo(70, 50), quality=85, progressive=True)
    ends = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    assert len(ends) > 3
    for end in ends[1:]:
        # Before the tables of the next scan.
        table = data.rfind(b"\xff\xc4", 0, end)
        incomplete = data[:table] + b"\xff\xd9"
        expected = decode_with_pillow(incomplete)
        np.testing.assert_array_equal(decode_image(incomplete), expected)
        pipeline = compile_pipeline(T.Resize(30, 30))
        np.testing.assert_array_equal(pipeline.render(incomplete), pipeline.apply(expected))
        assert find_damage(incomplete) is None
