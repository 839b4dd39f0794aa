"""Geometry and the rendering of arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.images import noise
from support.rendering import UINT8, add_steps, resize

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.images.geometry import Geometry, OutputFormat
from imagearchive.images.render import Decoder, convert_array, convert_arrays

SIDES = st.one_of(st.sampled_from([1, 2, 3, 8, 15, 16, 17, 33]), st.integers(1, 120))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("crop"), *[st.floats(0, 1)] * 4),
        st.tuples(st.just("pad"), *[st.integers(0, 9)] * 4),
        st.tuples(st.sampled_from(["flip_x", "flip_y"])),
    ),
    max_size=6,
)


@settings(max_examples=150)
@given(SIDES, SIDES, STEPS, st.booleans(), st.integers(0, 1000))
def test_geometry_crops_pads_and_flips_are_exact(width, height, steps, with_resize, seed):
    array = expected = noise(width, height, 3, seed)
    geometry = Geometry(width, height)
    if with_resize:
        geometry.resize(40, 31)
        expected = resize(array, (40, 31), "bilinear", None)
    expected = add_steps(geometry, expected, steps)
    assert (geometry.width, geometry.height) == (expected.shape[1], expected.shape[0])
    out = np.empty(expected.shape, np.uint8)
    Decoder().render_array(array, geometry, UINT8, out)
    np.testing.assert_array_equal(out, expected)
    # Floats go through code of their own.
    if not with_resize:
        floats = np.empty(expected.shape, np.float32)
        Decoder().render_array(array.astype(np.float32), geometry, OutputFormat("float32"), floats)
        np.testing.assert_array_equal(floats, expected)


def test_geometry_refuses_steps_that_do_not_fit():
    geometry = Geometry(10, 8)
    for call in (
        lambda: geometry.crop(0, 0, 11, 1),
        lambda: geometry.crop(-1, 0, 1, 1),
        lambda: geometry.crop(0, 0, 0, 1),
        lambda: geometry.crop(2**62, 0, 2**62, 1),
        lambda: geometry.resize(0, 1),
        lambda: geometry.resize(1, 2**40),
        lambda: geometry.resize(5, 5, (0, 0, 11, 5)),
        lambda: geometry.resize(5, 5, (0, 0, float("nan"), 5)),
        lambda: geometry.resize(5, 5, (3, 0, 3, 5)),
        lambda: geometry.resize(5, 5, None, "sharp"),
        lambda: geometry.pad(-1, 0, 0, 0),
        lambda: geometry.pad(2**30, 0, 0, 0),
        lambda: Geometry(0, 5),
        lambda: Geometry(5, 2**40),
    ):
        with pytest.raises(OptionError):
            call()
    geometry.flip_x()
    assert not geometry.fresh
    with pytest.raises(OptionError, match="resizes once"):
        geometry.resize(5, 5)


def test_geometry_refuses_arguments_out_of_range():
    geometry = Geometry(8, 6)
    for sides in ((2**62, 0, 2**62, 0), (1 << 24, 0, 0, 0), (0, 0, 0, (1 << 24) - 6)):
        with pytest.raises(OptionError, match="too large"):
            geometry.pad(*sides)
    for fill in ((), (1, 2, 3, 4, 5), (float("nan"),)):
        with pytest.raises(OptionError, match="numbers"):
            geometry.pad(1, 1, 1, 1, fill)
        with pytest.raises(OptionError, match="numbers"):
            OutputFormat("float32", False, fill)
        with pytest.raises(OptionError, match="numbers"):
            OutputFormat("float32", False, (1.0,), fill)
    assert (geometry.width, geometry.height) == (8, 6)
    for limit in (-1, 1 << 64, "a", 2.5):
        with pytest.raises(OptionTypeError, match="max_pixels"):
            Decoder(limit)
    assert Decoder(np.int64(7)).max_pixels == 7


def test_render_array_strided_input_and_wrong_output():
    array = noise(30, 20)
    view = array[2:18:2, 3:27]
    geometry = Geometry(24, 8)
    out = np.empty((8, 24, 3), np.uint8)
    decoder = Decoder()
    decoder.render_array(view, geometry, UINT8, out)
    np.testing.assert_array_equal(out, view)
    decoder.render_array(array[::-1][:8, :24], geometry, UINT8, out)
    np.testing.assert_array_equal(out, array[::-1][:8, :24])
    for bad in (out[:, :-1], out.astype(np.float32), np.empty((8, 24, 4), np.uint8)):
        with pytest.raises(OptionError, match="output must be"):
            decoder.render_array(view, geometry, UINT8, bad)
    with pytest.raises(OptionError, match="must be contiguous"):
        decoder.render_array(array[:, ::-1], Geometry(30, 20), UINT8, np.empty_like(array))
    with pytest.raises((ValueError, BufferError)):
        decoder.render_array(view, geometry, UINT8, np.empty((24, 8, 3), np.uint8).swapaxes(0, 1))
    out.setflags(write=False)
    with pytest.raises((ValueError, BufferError)):
        decoder.render_array(view, geometry, UINT8, out)
    with pytest.raises(OptionTypeError):
        decoder.render_array(array.astype(np.int32), Geometry(30, 20), UINT8, out)
    with pytest.raises(OptionError, match="channels"):
        decoder.render_array(np.zeros((4, 4, 2), np.uint8), Geometry(4, 4), UINT8, out)
    # The decoder is still good.
    good = np.empty((8, 24, 3), np.uint8)
    decoder.render_array(view, geometry, UINT8, good)
    np.testing.assert_array_equal(good, view)


def test_render_arrays_equals_render_array():
    arrays = [noise(30, 20)[::2], noise(11, 9), noise(40, 12)[:, 3:27]]
    places = []
    for turn, array in enumerate(arrays):
        geometry = Geometry(array.shape[1], array.shape[0])
        geometry.resize(8, 6)
        if turn:
            geometry.flip_x()
        places.append(geometry)
    output_format = OutputFormat("float32", True, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    decoder = Decoder()
    one, many = np.empty((2, 3, 3, 6, 8), np.float32)
    for array, geometry, out in zip(arrays, places, one):
        decoder.render_array(array, geometry, output_format, out)
    decoder.render_arrays(arrays, places, output_format, many)
    np.testing.assert_array_equal(many, one)

    same = [noise(8, 6), noise(16, 6)[:, :8], noise(8, 6)]
    for array, out in zip(same, one):
        convert_array(array, output_format, out)
    convert_arrays(same, output_format, many)
    np.testing.assert_array_equal(many, one)


def test_render_arrays_refuses_what_does_not_fit():
    arrays, places = [noise(8, 6)] * 2, [Geometry(8, 6)] * 2
    out = np.full((2, 6, 8, 3), 7, np.uint8)
    decoder = Decoder()
    with pytest.raises(OptionError, match=r"images need . geometries"):
        decoder.render_arrays(arrays, places[:1], UINT8, out)
    with pytest.raises(OptionTypeError, match="expected a Geometry"):
        decoder.render_arrays(arrays, [None, None], UINT8, out)
    with pytest.raises(OptionError, match="another size"):
        decoder.render_arrays(arrays, [Geometry(8, 6), Geometry(6, 8)], UINT8, out)
    for render in (
        lambda arrays, out: decoder.render_arrays(arrays, places, UINT8, out),
        lambda arrays, out: convert_arrays(arrays, UINT8, out),
    ):
        with pytest.raises(OptionError, match="images need an output"):
            render(arrays, out[:1])
        with pytest.raises(OptionError, match="contiguous and writable"):
            render(arrays, out[:, ::-1])
        for others in ([noise(8, 6), noise(8, 6, 1)], [noise(8, 6), noise(8, 6).astype("f4")]):
            with pytest.raises(OptionError, match="rendered together"):
                render(others, out)
        for wrong in (noise(8, 6)[:, :, 0], noise(8, 6, 2)):
            with pytest.raises(OptionError, match="channels"):
                render([wrong, wrong], out)
        with pytest.raises(OptionError, match="no images"):
            render([], out[:0])
    with pytest.raises(OptionError, match="output must be"):
        convert_arrays([noise(8, 6), noise(6, 8)], UINT8, out)
    assert (out == 7).all()
