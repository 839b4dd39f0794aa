"""Resizing, cropping, flipping, padding, rotating.

Sizes are given as (width, height), as Pillow does. All but `RandomRotation`, and `Pad` with a
mode other than "constant", are placements: a run of them becomes one native step, and of a JPEG
only the region that the step needs is decoded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from imagearchive.errors import LimitError, OptionError
from imagearchive.errors.arguments import check_choice, check_flag, check_number, is_number
from imagearchive.images.geometry import FILTERS, Geometry
from imagearchive.images.random import Stream
from imagearchive.images.render import MAX_PIXELS
from imagearchive.transforms.base import (
    Array,
    GeometricTransform,
    Layout,
    Shape,
    Transform,
    require_stream,
)
from imagearchive.transforms.image_arguments import (
    ChannelValues,
    check_channel_values,
    check_interval,
    check_margins,
    check_probability,
    check_side,
    check_size,
    expand_channels,
    round_to_bytes,
)

__all__ = [
    "CenterCrop",
    "Pad",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
]

PadMode = Literal["constant", "edge", "reflect", "symmetric"]
Fill = float | Sequence[float]


#: Between pixels, for what Pillow turns and shears.
ROTATIONS = ("nearest", "bilinear", "bicubic")


class Resize(GeometricTransform):
    """Resize, antialiased as Pillow's ``Image.resize``.

    Parameters
    ----------
    width : int
        Of the result in pixels; without `height`, the length of the shorter side, the longer one
        following the image's proportions.
    height : int, optional
        Of the result in pixels.
    interpolation : {"bilinear", "bicubic", "lanczos", "box", "nearest"}
        The filter. "nearest" alone does not antialias.
    size : int, optional
        The length of the shorter side, in place of `width` and `height`.
    """

    arguments = ("width", "height", "interpolation")
    resizes = True

    def __init__(
        self,
        width: int | None = None,
        height: int | None = None,
        interpolation: str = "bilinear",
        *,
        size: int | None = None,
    ) -> None:
        super().__init__()
        if size is not None:
            if width is not None or height is not None:
                raise OptionError("pass either size or width and height, not both")
            width = check_side("size", size)
        self.width = check_side("width", width)
        self.height = None if height is None else check_side("height", height)
        self.interpolation = check_choice("interpolation", interpolation, FILTERS)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the result for an image's."""
        if self.height is not None:
            return self.width, self.height
        if width <= height:
            return self.width, max(1, int(self.width * height / width))
        return max(1, int(self.width * width / height)), self.width

    def add_to(self, geometry: Geometry, stream: Stream | None) -> None:
        """Add this transform to a step."""
        width, height = self.size(geometry.width, geometry.height)
        # A file of a few bytes can hold an image of 1 x 65,500 pixels.
        if self.height is None and width * height > MAX_PIXELS:
            raise LimitError(
                f"{self!r}: an image of {geometry.width} x {geometry.height} pixels would become "
                f"{width} x {height}; give width and height, or crop it first"
            )
        geometry.resize(width, height, None, self.interpolation)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        if self.height is not None:
            return self.height, self.width, shape[2]
        if shape[0] is not None and shape[1] is not None:
            width, height = self.size(shape[1], shape[0])
            return height, width, shape[2]
        return None, None, shape[2]


class RandomResizedCrop(GeometricTransform):
    """Resize a random part of the image to a fixed size.

    The box is drawn as torchvision draws it: an area of `scale` times the image's and a log-uniform
    `ratio`, ten times; failing that, the largest central box within the ratios. The box is
    resized as Pillow's ``resize(size, box=box)`` does, which at its edges sees the pixels next to
    it; torchvision cuts first.

    Parameters
    ----------
    size : int or (int, int)
        Side of the square result, or its width and height, in pixels.
    scale : (float, float)
        Bounds of the box's area, as parts of the image's.
    ratio : (float, float)
        Bounds of the box's width divided by its height.
    interpolation : str
        As for `Resize`.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    arguments = ("size", "scale", "ratio", "interpolation")
    is_random = True
    resizes = True

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.size = check_size("size", size)
        self.scale = check_interval("scale", scale, 0.0)
        self.ratio = check_interval("ratio", ratio, 0.0)
        if self.ratio[0] == 0.0 or self.scale[1] == 0.0:
            raise OptionError(
                f"scale and ratio must be greater than 0, got scale={scale!r}, ratio={ratio!r}"
            )
        self.interpolation = check_choice("interpolation", interpolation, FILTERS)
        self._log_ratio = (math.log(self.ratio[0]), math.log(self.ratio[1]))

    def box(self, width: int, height: int, stream: Stream) -> tuple[int, int, int, int]:
        """Draw x, y, width and height of the part of an image of that size."""
        area = width * height
        for _ in range(10):
            target = area * stream.uniform(*self.scale)
            ratio = math.exp(stream.uniform(*self._log_ratio))
            w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
            if 0 < w <= width and 0 < h <= height:
                return stream.below(width - w + 1), stream.below(height - h + 1), w, h
        w, h = width, height
        if width / height < self.ratio[0]:
            h = min(height, max(1, round(width / self.ratio[0])))
        elif width / height > self.ratio[1]:
            w = min(width, max(1, round(height * self.ratio[1])))
        return (width - w) // 2, (height - h) // 2, w, h

    def add_to(self, geometry: Geometry, stream: Stream | None) -> None:
        """Add this transform to a step."""
        stream = require_stream(stream)
        x, y, w, h = self.box(geometry.width, geometry.height, stream)
        geometry.resize(*self.size, (x, y, x + w, y + h), self.interpolation)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        return self.size[1], self.size[0], shape[2]


def _spread_fill(fill: ChannelValues) -> tuple[float, ...]:
    """One number for each of four channels, or as many as were given."""
    several = fill if isinstance(fill, tuple) else (fill,)
    return several * 4 if len(several) == 1 else several


class _Crop(GeometricTransform):
    """A crop of fixed size."""

    def __init__(
        self,
        width: int,
        height: int | None,
        pad_if_needed: bool,
        fill: Fill,
        seed: int | None,
    ) -> None:
        super().__init__(seed=seed)
        self.width = check_side("width", width)
        self.height = self.width if height is None else check_side("height", height)
        self.pad_if_needed = check_flag("pad_if_needed", pad_if_needed)
        self.fill = check_channel_values("fill", fill)
        self._fill = _spread_fill(self.fill)

    @property
    def fill_value(self) -> tuple[float, ...] | None:
        """What it pads with, or None where it does not pad."""
        return self._fill if self.pad_if_needed else None

    def _fit(self, geometry: Geometry) -> None:
        """Pad an image that is too small, on all sides alike, or say that it is."""
        short_x = max(0, self.width - geometry.width)
        short_y = max(0, self.height - geometry.height)
        if not (short_x or short_y):
            return
        if not self.pad_if_needed:
            raise OptionError(
                f"{self!r}: the image has only {geometry.width} x {geometry.height} pixels; "
                f"resize it first, or pass pad_if_needed=True"
            )
        geometry.pad(
            short_x // 2, short_y // 2, short_x - short_x // 2, short_y - short_y // 2, self._fill
        )

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        return self.height, self.width, shape[2]


class RandomCrop(_Crop):
    """Cut out a part of fixed size at a random place.

    Parameters
    ----------
    width, height : int
        Of the part in pixels; without `height` it is square.
    padding : int or sequence of int, optional
        Added first: one number for all sides, (left and right, top and bottom), or (left, top,
        right, bottom).
    pad_if_needed : bool
        Pad an image that is smaller than the part, alike on both sides, instead of raising.
    fill : float or sequence of float
        Value of padded pixels, for all channels or each.
    seed : int, optional
        Makes calls without a key repeatable.

    Raises
    ------
    OptionError
        On use, where the padded image is smaller than the part and `pad_if_needed` is false.
    """

    arguments = ("width", "height", "padding", "pad_if_needed", "fill")
    is_random = True

    def __init__(
        self,
        width: int,
        height: int | None = None,
        padding: int | Sequence[int] | None = None,
        pad_if_needed: bool = False,
        fill: Fill = 0,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(width, height, pad_if_needed, fill, seed)
        self._padding = None if padding is None else check_margins("padding", padding)
        self.padding = None if padding is None else _shown(padding)

    @property
    def fill_value(self) -> tuple[float, ...] | None:
        """What it pads with, or None where it does not pad."""
        return self._fill if self.pad_if_needed or self._padding is not None else None

    def add_to(self, geometry: Geometry, stream: Stream | None) -> None:
        """Add this transform to a step."""
        stream = require_stream(stream)
        if self._padding is not None:
            geometry.pad(*self._padding, self._fill)
        self._fit(geometry)
        x = stream.below(geometry.width - self.width + 1)
        y = stream.below(geometry.height - self.height + 1)
        geometry.crop(x, y, self.width, self.height)


class CenterCrop(_Crop):
    """Cut out the middle.

    Parameters
    ----------
    width, height : int
        Of the part in pixels; without `height` it is square.
    pad_if_needed : bool
        Pad an image that is smaller than the part instead of raising.
    fill : float or sequence of float
        Value of padded pixels, for all channels or each.

    Raises
    ------
    OptionError
        On use, where the image is smaller than the part and `pad_if_needed` is false.
    """

    arguments = ("width", "height", "pad_if_needed", "fill")

    def __init__(
        self,
        width: int,
        height: int | None = None,
        pad_if_needed: bool = False,
        fill: Fill = 0,
    ) -> None:
        super().__init__(width, height, pad_if_needed, fill, None)

    def add_to(self, geometry: Geometry, stream: Stream | None) -> None:
        """Add this transform to a step."""
        self._fit(geometry)
        x = round((geometry.width - self.width) / 2)
        y = round((geometry.height - self.height) / 2)
        geometry.crop(x, y, self.width, self.height)


class _Flip(GeometricTransform):
    is_random = True
    flips = True
    arguments = ("p",)

    def __init__(self, p: float = 0.5, *, seed: int | None = None) -> None:
        super().__init__(seed=seed)
        self.p = check_probability("p", p)

    def _flips(self, stream: Stream | None) -> bool:
        return require_stream(stream).random() < self.p


class RandomHorizontalFlip(_Flip):
    """Mirror left to right with probability `p`.

    Parameters
    ----------
    p : float
        Probability.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    def add_to(self, geometry: Geometry, stream: Stream | None) -> None:
        """Add this transform to a step."""
        if self._flips(stream):
            geometry.flip_x()


class RandomVerticalFlip(_Flip):
    """Mirror top to bottom with probability `p`.

    Parameters
    ----------
    p : float
        Probability.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    def add_to(self, geometry: Geometry, stream: Stream | None) -> None:
        """Add this transform to a step."""
        if self._flips(stream):
            geometry.flip_y()


def _shown(padding: Any) -> int | tuple[int, ...]:
    """Checked padding as it was given, in plain numbers."""
    return int(padding) if is_number(padding) else tuple(int(v) for v in padding)


class Pad(GeometricTransform):
    """Add a border.

    Parameters
    ----------
    padding : int or sequence of int
        Pixels: one number for all sides, (left and right, top and bottom), or (left, top, right,
        bottom).
    fill : float or sequence of float
        Value of the border, for all channels or each; for `mode` "constant".
    mode : {"constant", "edge", "reflect", "symmetric"}
        "edge" repeats the outermost pixels, "reflect" mirrors without and "symmetric" with them.
    """

    arguments = ("padding", "fill", "mode")

    def __init__(
        self, padding: int | Sequence[int], fill: Fill = 0, mode: PadMode = "constant"
    ) -> None:
        super().__init__()
        self.mode: PadMode = check_choice("mode", mode, get_args(PadMode))
        self._padding = check_margins("padding", padding)
        self.padding = _shown(padding)
        self.fill = check_channel_values("fill", fill)
        self._fill = _spread_fill(self.fill)

    @property
    def is_native(self) -> bool:
        """Whether it is a border of one colour."""
        return self.mode == "constant"

    @property
    def fill_value(self) -> tuple[float, ...] | None:
        """The border's value."""
        return self._fill

    def add_to(self, geometry: Geometry, stream: Stream | None) -> None:
        """Add this transform to a step."""
        geometry.pad(*self._padding, self._fill)

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        if self.mode == "constant":
            return super().apply_array(array, layout, stream)
        left, top, right, bottom = self._padding
        widths = ((top, bottom), (left, right), (0, 0))
        return np.pad(array, widths, mode=self.mode), layout

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        left, top, right, bottom = self._padding
        height = None if shape[0] is None else shape[0] + top + bottom
        width = None if shape[1] is None else shape[1] + left + right
        return height, width, shape[2]


class RandomRotation(Transform):
    """Rotate by a random angle about the centre, with Pillow.

    Parameters
    ----------
    degrees : float or (float, float)
        Bounds of the angle, counter-clockwise; one number means both ways.
    interpolation : {"nearest", "bilinear", "bicubic"}
        Between pixels.
    expand : bool
        Enlarge the result to show all of the image; otherwise it keeps its size.
    fill : float or sequence of float
        Value outside the image, for all channels or each.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    arguments = ("degrees", "interpolation", "expand", "fill")
    is_random = True

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
        self.interpolation = check_choice("interpolation", interpolation, ROTATIONS)
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

        if array.dtype == np.uint8 and channels == 3:
            return rotated(np.ascontiguousarray(array), fill), layout
        planes = [rotated(np.ascontiguousarray(array[:, :, c]), fill[c]) for c in range(channels)]
        return np.stack(planes, axis=2), layout

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        return (None, None, shape[2]) if self.expand else shape
