"""Rotation and perspective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from imagearchive.errors.arguments import check_choice, check_flag, check_number, is_number
from imagearchive.images.random import Stream
from imagearchive.images.render import warp_array
from imagearchive.transforms.base import (
    Array,
    Layout,
    Shape,
    Transform,
    require_stream,
    with_contiguous_rows,
)
from imagearchive.transforms.image_arguments import (
    Fill,
    check_channel_values,
    check_interval,
    check_probability,
    expand_channels,
    round_to_bytes,
)

__all__ = ["WARP_FILTERS", "RandomPerspective", "RandomRotation", "homography"]

#: Interpolations of the transforms that rotate, shear or distort.
WARP_FILTERS = ("nearest", "bilinear", "bicubic")

Point = tuple[int, int]


class RandomRotation(Transform):
    """Rotate by a random angle about the center, with Pillow, RGBA with premultiplied alpha.

    Parameters
    ----------
    degrees : float or (float, float)
        Bounds of the angle, counterclockwise; one number x means from -x to x.
    interpolation : {"nearest", "bilinear", "bicubic"}
        How values between pixels are computed.
    expand : bool
        Enlarge the result to show the whole image; otherwise the size does not change.
    fill : float or sequence of float
        Value of pixels outside the image, one number for all channels or one for each.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    arguments = ("degrees", "interpolation", "expand", "fill")
    is_random = True
    moves_pixels = True

    def __init__(
        self,
        degrees: float | Sequence[float],
        interpolation: str = "nearest",
        expand: bool = False,
        fill: Fill = 0,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.interpolation = check_choice("interpolation", interpolation, WARP_FILTERS)
        if is_number(degrees):
            degrees = abs(check_number("degrees", degrees))
            degrees = (-degrees, degrees)
        self.degrees = check_interval("degrees", degrees)
        self.expand = check_flag("expand", expand)
        self.fill = check_channel_values("fill", fill)

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        stream = require_stream(stream)
        angle = stream.uniform(*self.degrees)
        resample = Image.Resampling[self.interpolation.upper()]
        channels = array.shape[2]
        fill = expand_channels("fill", self.fill, channels)
        if array.dtype == np.uint8:
            fill = round_to_bytes(fill)

        def rotated(plane: Array, value: Any) -> Array:
            return np.asarray(
                Image.fromarray(plane).rotate(angle, resample, self.expand, fillcolor=value)
            )

        # Between pixels, Pillow interpolates colors multiplied by alpha, and takes the fill so too.
        blends = channels == 4 and resample != Image.Resampling.NEAREST
        if array.dtype == np.uint8 and channels > 1:
            if blends and fill[3]:
                fill = (*(round(value * fill[3] / 255) for value in fill[:3]), fill[3])
            return rotated(np.ascontiguousarray(array), fill), layout
        if blends:
            array = array.copy()
            array[:, :, :3] *= array[:, :, 3:]
            fill = (*(value * fill[3] for value in fill[:3]), fill[3])
        planes = [rotated(np.ascontiguousarray(array[:, :, c]), fill[c]) for c in range(channels)]
        result = np.stack(planes, axis=2)
        if blends:
            colors, alpha = result[:, :, :3], result[:, :, 3:]
            np.divide(colors, alpha, out=colors, where=alpha > 0)
        return result, layout

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        return (None, None, shape[2]) if self.expand else shape


class RandomPerspective(Transform):
    """Show the image as if seen from a random direction, with probability `p`.

    As in torchvision's ``RandomPerspective``, each corner moves inwards by a random whole number of
    pixels, at most `distortion_scale` times half the width and half the height, and the homography
    that takes the corners there is computed by least squares. Pixels are sampled as by Pillow's
    ``Image.transform(size, Image.Transform.PERSPECTIVE, coefficients)``, RGBA with premultiplied
    alpha. The size does not change.

    Parameters
    ----------
    distortion_scale : float
        How far corners move, from 0 (not at all) to 1 (up to the center).
    p : float
        Probability that the image changes.
    interpolation : {"bilinear", "nearest", "bicubic"}
        How values between pixels are computed.
    fill : float or sequence of float
        Value of pixels outside the image, one number for all channels or one for each.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    arguments = ("distortion_scale", "p", "interpolation", "fill")
    is_random = True
    moves_pixels = True

    def __init__(
        self,
        distortion_scale: float = 0.5,
        p: float = 0.5,
        interpolation: str = "bilinear",
        fill: Fill = 0,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.distortion_scale = float(check_number("distortion_scale", distortion_scale, 0, 1))
        self.p = check_probability("p", p)
        self.interpolation = check_choice("interpolation", interpolation, WARP_FILTERS)
        self.fill = check_channel_values("fill", fill)

    def corners(self, width: int, height: int, stream: Stream) -> list[Point]:
        """Draw where the corners of an image of that size go.

        Returns
        -------
        list of (int, int)
            x and y of the top left, top right, bottom right and bottom left corner, in pixels.
        """
        right, bottom = width - 1, height - 1
        across = int(self.distortion_scale * (width // 2)) + 1
        down = int(self.distortion_scale * (height // 2)) + 1
        return [
            (stream.below(across), stream.below(down)),
            (right - stream.below(across), stream.below(down)),
            (right - stream.below(across), bottom - stream.below(down)),
            (stream.below(across), bottom - stream.below(down)),
        ]

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        stream = require_stream(stream)
        height, width, channels = array.shape
        fill = expand_channels("fill", self.fill, channels)
        if stream.random() >= self.p:
            return array, layout
        right, bottom = width - 1, height - 1
        corners = [(0, 0), (right, 0), (right, bottom), (0, bottom)]
        moved = self.corners(width, height, stream)
        if moved == corners:
            return array, layout
        if array.dtype == np.uint8:
            fill = round_to_bytes(fill)
        out = np.empty(array.shape, array.dtype)
        coefficients = homography(moved, corners)
        warp_array(with_contiguous_rows(array), coefficients, self.interpolation, fill, out)
        return out, layout


def homography(points: Sequence[Point], images: Sequence[Point]) -> list[float]:
    """Return the eight coefficients of the homography that takes four points to four others.

    ``x' = (a*x + b*y + c) / (g*x + h*y + 1)`` and ``y' = (d*x + e*y + f) / (g*x + h*y + 1)`` are
    linear in a to h once multiplied out. As in torchvision, the equations are solved by least
    squares, since points may coincide (R. Hartley and A. Zisserman, "Multiple View Geometry in
    Computer Vision", 2nd ed., 2004, section 4.1). If many solutions are equally good, as for
    images of a single row, the result is the one closest to the identity.

    Returns
    -------
    list of float
        a to h, in the order of Pillow's ``Image.Transform.PERSPECTIVE``.
    """
    scale = float(max(1, *(abs(v) for point in (*points, *images) for v in point)))
    rows, values = [], []
    for point, image in zip(points, images):
        (x, y), (u, v) = (point[0] / scale, point[1] / scale), (image[0] / scale, image[1] / scale)
        rows.append([x, y, 1.0, 0.0, 0.0, 0.0, -u * x, -u * y])
        rows.append([0.0, 0.0, 0.0, x, y, 1.0, -v * x, -v * y])
        values += [u - x, v - y]
    solution = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    a, b, c, d, e, f, g, h = (float(v) for v in solution)
    return [1.0 + a, b, c * scale, d, 1.0 + e, f * scale, g / scale, h / scale]
