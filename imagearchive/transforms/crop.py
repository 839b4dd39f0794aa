"""Cropping and padding. Sizes are (width, height), as in Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from imagearchive.errors import TransformError
from imagearchive.errors.arguments import check_choice, check_flag, is_number
from imagearchive.errors.hints import Hint
from imagearchive.images.geometry import Geometry
from imagearchive.images.random import Stream
from imagearchive.transforms.base import (
    Array,
    GeometricTransform,
    Layout,
    Shape,
    require_stream,
)
from imagearchive.transforms.image_arguments import (
    ChannelValues,
    Fill,
    check_channel_values,
    check_margins,
    check_side,
)

__all__ = ["CenterCrop", "Pad", "RandomCrop"]

PadMode = Literal["constant", "edge", "reflect", "symmetric"]


def _four_values(fill: ChannelValues) -> tuple[float, ...]:
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
        self._fill = _four_values(self.fill)

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
            raise TransformError(
                f"{self!r}: the image has only {geometry.width} x {geometry.height} pixels",
                hints=[Hint("pad_if_needed=True", "to pad it, or resize it first")],
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
    TransformError
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
        self.padding = None if padding is None else _plain_numbers(padding)

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
    TransformError
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


def _plain_numbers(padding: Any) -> int | tuple[int, ...]:
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
        self.padding = _plain_numbers(padding)
        self.fill = check_channel_values("fill", fill)
        self._fill = _four_values(self.fill)

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
