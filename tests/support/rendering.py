"""Geometries rendered natively, and the same steps by NumPy."""

import numpy as np
import pytest

from imagearchive.images.geometry import Geometry, OutputFormat
from imagearchive.images.render import HAVE_JPEG, Decoder

UINT8 = OutputFormat("uint8")
needs_jpeg = pytest.mark.skipif(not HAVE_JPEG, reason="built without libjpeg-turbo")


def resize(array, size, name, box):
    """Resize natively."""
    geometry = Geometry(array.shape[1], array.shape[0])
    geometry.resize(*size, box, name)
    out = np.empty((size[1], size[0], array.shape[2]), array.dtype)
    output_format = UINT8 if array.dtype == np.uint8 else OutputFormat("float32")
    Decoder().render_array(array, geometry, output_format, out)
    return out


def render_jpeg(data, geometry):
    """Decode what a geometry needs of a JPEG."""
    out = np.empty((geometry.height, geometry.width, 3), np.uint8)
    Decoder().render(data, geometry, UINT8, out)
    return out


def add_steps(geometry, array, steps):
    """Add the same steps to a geometry and, by NumPy, to an array."""
    for name, *numbers in steps:
        height, width = array.shape[:2]
        if name == "crop":
            x, y = int(numbers[0] * (width - 1)), int(numbers[1] * (height - 1))
            w = 1 + int(numbers[2] * (width - x - 1))
            h = 1 + int(numbers[3] * (height - y - 1))
            geometry.crop(x, y, w, h)
            array = array[y : y + h, x : x + w]
        elif name == "pad":
            left, top, right, bottom = numbers
            geometry.pad(left, top, right, bottom, (9, 8, 7, 6))
            out = np.empty((height + top + bottom, width + left + right, 3), np.uint8)
            out[:] = (9, 8, 7)
            out[top : top + height, left : left + width] = array
            array = out
        elif name == "flip_x":
            geometry.flip_x()
            array = array[:, ::-1]
        else:
            geometry.flip_y()
            array = array[::-1]
    return array
