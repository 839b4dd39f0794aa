"""Scaling, casts and layouts of the output."""

import numpy as np
import pytest
from support.images import noise

from imagearchive.images.geometry import Geometry, OutputFormat
from imagearchive.images.render import Decoder, convert_array


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
def test_convert_array_equals_numpy(dtype, planar, channels, simd):
    array = noise(517, 5, channels)
    array[0, :256, 0] = np.arange(256)
    scale, bias = np.float32([0.017, 0.25, 3.0, 1e-6]), np.float32([-2.1, 1e-7, 0.5, 0.0])
    output_format = OutputFormat(dtype, planar, scale.tolist(), bias.tolist())
    expected = array
    if dtype != "uint8":
        expected = array.astype(np.float32) * scale[:channels] + bias[:channels]
    expected = expected.astype(dtype)
    expected = expected.transpose(2, 0, 1) if planar else expected
    out = np.empty(output_format.shape(5, 517, channels), dtype)
    convert_array(array, output_format, out)
    np.testing.assert_array_equal(out, expected)
    out[:] = 0
    Decoder().render_array(array, Geometry(517, 5), output_format, out)
    np.testing.assert_array_equal(out, expected)


# Whole cache lines of large images of floats are written past the caches.
@pytest.mark.parametrize("width", [112, 113, 224])
@pytest.mark.parametrize("shift", [0, 4, 32])
def test_render_of_large_images_is_the_same_at_any_address(width, shift, simd):
    array = noise(width + 9, 120, 3)
    geometry = Geometry(width + 9, 120)
    geometry.resize(width, 112)
    output_format = OutputFormat("float32", True, (0.017, 0.25, 3.0), (-2.1, 1e-7, 0.5))
    pixels = np.empty((112, width, 3), np.uint8)
    Decoder().render_array(array, geometry, OutputFormat("uint8"), pixels)
    memory = np.zeros(3 * 112 * width * 4 + 128, np.uint8)
    start = -memory.ctypes.data % 64 + shift
    out = memory[start : start + 3 * 112 * width * 4].view(np.float32).reshape(3, 112, width)
    Decoder().render_array(array, geometry, output_format, out)
    scale, bias = np.float32([0.017, 0.25, 3.0]), np.float32([-2.1, 1e-7, 0.5])
    np.testing.assert_array_equal(out, (pixels * scale + bias).transpose(2, 0, 1))
    assert not memory[:start].any()
    assert not memory[start + out.nbytes :].any()


def test_convert_array_rounds_float16_as_numpy(simd):
    array = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    for scale, bias in ((1e-7, 1e-8), (300.0, 0.0), (1e-5, -1e-3), (0.333, -0.01), (2.4e-7, 0.0)):
        out = np.empty((1, 1, 256), np.float16)
        convert_array(array, OutputFormat("float16", True, (scale,), (bias,)), out)
        with np.errstate(over="ignore"):
            expected = array[:, :, 0] * np.float32(scale) + np.float32(bias)
            np.testing.assert_array_equal(out[0], expected.astype(np.float16))
