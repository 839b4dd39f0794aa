"""Rotation, affine maps and perspective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from imagearchive.errors import OptionError
from imagearchive.errors.arguments import (
    check_choice,
    check_flag,
    check_number,
    check_sequence,
    is_number,
)
from imagearchive.images.random import Stream
from imagearchive.transforms.base import (
    Array,
    Layout,
    Shape,
    Transform,
    require_stream,
)
from imagearchive.transforms.image_arguments import (
    Fill,
    check_channel_values,
    check_interval,
    check_probability,
    expand_channels,
)
from imagearchive.transforms.moves import Move, WarpMove

__all__ = [
    "WARP_FILTERS",
    "RandomAffine",
    "RandomPerspective",
    "RandomRotation",
    "affinity",
    "homography",
    "inverse",
    "rotation",
]

#: Interpolations of the transforms that rotate, shear or distort.
WARP_FILTERS = ("nearest", "bilinear", "bicubic")

Point = tuple[int, int]


class RandomRotation(Transform):
    """Rotate by a random angle about the center.

    Pixels are sampled as by Pillow's ``Image.rotate``, RGBA with premultiplied alpha.

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
        self.degrees = _check_angles("degrees", degrees)
        self.expand = check_flag("expand", expand)
        self.fill = check_channel_values("fill", fill)

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        height, width, channels = array.shape
        return self.move(width, height, channels, stream).image(array), layout

    def move(self, width: int, height: int, channels: int, stream: Stream | None) -> Move:
        """Return where the pixels of an image go; see `Transform.move`."""
        angle = require_stream(stream).uniform(*self.degrees)
        coefficients, size = rotation(angle, width, height, self.expand)
        fill = expand_channels("fill", self.fill, channels)
        keeps_shape = self.expand or width == height or angle % 180.0 == 0.0
        # Pillow moves whole pixels then, without rounding the colors of transparent ones.
        exact = angle % 90.0 == 0.0 and keeps_shape
        interpolation = "nearest" if exact else self.interpolation
        return WarpMove(*size, (*coefficients, 0.0, 0.0), interpolation, fill)

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
        height, width, channels = array.shape
        move = self.move(width, height, channels, stream)
        return (array if move is None else move.image(array)), layout

    def move(self, width: int, height: int, channels: int, stream: Stream | None) -> Move | None:
        """Return where the pixels of an image go; see `Transform.move`."""
        stream = require_stream(stream)
        fill = expand_channels("fill", self.fill, channels)
        if stream.random() >= self.p:
            return None
        right, bottom = width - 1, height - 1
        corners = [(0, 0), (right, 0), (right, bottom), (0, bottom)]
        moved = self.corners(width, height, stream)
        if moved == corners:
            return None
        return WarpMove(width, height, homography(moved, corners), self.interpolation, fill)


class RandomAffine(Transform):
    """Rotate, translate, scale and shear by random amounts, about the center.

    As torchvision's ``RandomAffine``, with its order of the four and its signs. Pixels are sampled
    as by Pillow's ``Image.transform``, RGBA with premultiplied alpha. The size does not change.

    Parameters
    ----------
    degrees : float or (float, float)
        Bounds of the angle, clockwise; one number x means from -x to x.
    translate : (float, float), optional
        How far the image moves at most, as fractions of its width and height.
    scale : (float, float), optional
        Bounds of the factor.
    shear : float, (float, float) or sequence of 4 floats, optional
        Bounds of the angle in degrees by which vertical lines lean: x means from -x to x. The third
        and fourth are those of horizontal lines.
    interpolation : {"nearest", "bilinear", "bicubic"}
        How values between pixels are computed.
    fill : float or sequence of float
        Value of pixels outside the image, one number for all channels or one for each.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    arguments = ("degrees", "translate", "scale", "shear", "interpolation", "fill")
    is_random = True
    moves_pixels = True

    def __init__(
        self,
        degrees: float | Sequence[float],
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        interpolation: str = "nearest",
        fill: Fill = 0,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.degrees = _check_angles("degrees", degrees)
        self.translate = None if translate is None else _check_fractions("translate", translate)
        self.scale = None if scale is None else check_interval("scale", scale, 0.0)
        if self.scale is not None and self.scale[0] == 0.0:
            raise OptionError(f"scale must be greater than 0, got {scale!r}")
        self.shear = None if shear is None else _check_shear(shear)
        self.interpolation = check_choice("interpolation", interpolation, WARP_FILTERS)
        self.fill = check_channel_values("fill", fill)

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        height, width, channels = array.shape
        return self.move(width, height, channels, stream).image(array), layout

    def move(self, width: int, height: int, channels: int, stream: Stream | None) -> Move:
        """Return where the pixels of an image go; see `Transform.move`."""
        stream = require_stream(stream)
        angle = stream.uniform(*self.degrees)
        x = y = lean_x = lean_y = 0.0
        factor = 1.0
        if self.translate is not None:
            x = round(stream.uniform(-1, 1) * self.translate[0] * width)
            y = round(stream.uniform(-1, 1) * self.translate[1] * height)
        if self.scale is not None:
            factor = stream.uniform(*self.scale)
        if self.shear is not None:
            lean_x = stream.uniform(*self.shear[:2])
            lean_y = stream.uniform(*self.shear[2:]) if len(self.shear) == 4 else 0.0
        coefficients = affinity((width / 2, height / 2), angle, (x, y), factor, (lean_x, lean_y))
        fill = expand_channels("fill", self.fill, channels)
        return WarpMove(width, height, (*coefficients, 0.0, 0.0), self.interpolation, fill)


def _check_angles(name: str, value: Any) -> tuple[float, float]:
    if is_number(value):
        value = abs(check_number(name, value))
        return -float(value), float(value)
    return check_interval(name, value)


def _check_fractions(name: str, value: Any) -> tuple[float, float]:
    expected = "two numbers from 0 to 1"
    both = check_sequence(name, value, expected)
    if len(both) != 2:
        raise OptionError(f"{name} must be {expected}, got {value!r}")
    x, y = (float(check_number(name, v, 0, 1)) for v in both)
    return x, y


def _check_shear(value: Any) -> tuple[float, ...]:
    if is_number(value) or len(check_sequence("shear", value, "numbers")) == 2:
        bounds: tuple[float, ...] = _check_angles("shear", value)
    elif len(value) == 4:
        bounds = (*check_interval("shear", value[:2]), *check_interval("shear", value[2:]))
    else:
        raise OptionError(f"shear must be one, two or four numbers, got {value!r}")
    if max(map(abs, bounds)) >= 90:
        raise OptionError(f"shear must be between -90 and 90 degrees, got {value!r}")
    return bounds


def rotation(
    angle: float, width: int, height: int, expand: bool
) -> tuple[list[float], tuple[int, int]]:
    """Return the coefficients of Pillow's ``Image.rotate``, and the size of the result.

    Returns
    -------
    list of float
        Six numbers that take a place in the result to one in the image.
    (int, int)
        Width and height.
    """
    radians = -math.radians(angle % 360.0)
    cos, sin = round(math.cos(radians), 15), round(math.sin(radians), 15)
    x, y = width / 2, height / 2
    c, f = -cos * x - sin * y + x, sin * x - cos * y + y
    if not expand:
        return [cos, sin, c, -sin, cos, f], (width, height)
    if angle % 180.0 == 90.0:
        # The center is that of a pixel or between two; rounding would add one.
        size = (height, width)
    else:
        size = _bounding_size([cos, sin, c, -sin, cos, f], width, height)
    u, v = (width - size[0]) / 2, (height - size[1]) / 2
    return [cos, sin, cos * u + sin * v + c, -sin, cos, -sin * u + cos * v + f], size


def _bounding_size(coefficients: list[float], width: int, height: int) -> tuple[int, int]:
    """Return width and height of what shows the whole of a rotated image, as Pillow rounds them."""
    a, b, c, d, e, f = coefficients
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    across = [a * u + b * v + c for u, v in corners]
    down = [d * u + e * v + f for u, v in corners]
    return (
        math.ceil(max(across)) - math.floor(min(across)),
        math.ceil(max(down)) - math.floor(min(down)),
    )


def affinity(
    center: tuple[float, float],
    angle: float,
    translation: tuple[float, float],
    scale: float,
    shear: tuple[float, float],
) -> tuple[float, ...]:
    """Return the coefficients of a rotation, shear, scale and translation about a center.

    The image is sheared, rotated clockwise and scaled about the center, and translated then.

    Returns
    -------
    tuple of float
        Six numbers that take a place in the result to one in the image.
    """
    turn, lean_x, lean_y = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    rotate = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    shear_y = np.array([[1.0, 0.0], [-math.tan(lean_y), 1.0]])
    shear_x = np.array([[1.0, -math.tan(lean_x)], [0.0, 1.0]])
    linear = np.linalg.inv(scale * rotate @ shear_y @ shear_x)
    moved = np.array(center) + translation
    offset = np.array(center) - linear @ moved
    (a, b), (d, e) = linear.tolist()
    return a, b, float(offset[0]), d, e, float(offset[1])


def inverse(coefficients: Sequence[float]) -> Array:
    """Return the matrix that takes a place in the image to one in the result, of six numbers."""
    result: Array = np.linalg.inv(np.array([*coefficients, 0.0, 0.0, 1.0]).reshape(3, 3))
    return result


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
