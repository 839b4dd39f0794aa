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
    """Return one number for each of four channels, or as many as the caller passed."""
    values = fill if isinstance(fill, tuple) else (fill,)
    return values * 4 if len(values) == 1 else values


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
        """The value that it pads with, or None if it does not pad."""
        return self._fill if self.pad_if_needed else None

    def _fit(self, geometry: Geometry) -> None:
        """Pad an image that is too small, equally on both sides, or raise."""
        missing_x = max(0, self.width - geometry.width)
        missing_y = max(0, self.height - geometry.height)
        if not (missing_x or missing_y):
            return
        if not self.pad_if_needed:
            raise TransformError(
                f"{self!r}: the image has only {geometry.width} x {geometry.height} pixels",
                hints=[Hint("pad_if_needed=True", "to pad it, or resize it first")],
            )
        geometry.pad(
            missing_x // 2,
            missing_y // 2,
            missing_x - missing_x // 2,
            missing_y - missing_y // 2,
            self._fill,
        )

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        return self.height, self.width, shape[2]


class RandomCrop(_Crop):
    """Crop a region of fixed size at a random position.

    Parameters
    ----------
    width, height : int
        Size of the region in pixels. By default, `height` is `width`.
    padding : int or sequence of int, optional
        Padding to add first, in pixels: one number for all sides, (left and right, top and
        bottom), or (left, top, right, bottom).
    pad_if_needed : bool
        Pad an image that is smaller than the region, equally on both sides, instead of raising.
    fill : float or sequence of float
        Value of padded pixels, one number for all channels or one for each.
    seed : int, optional
        Makes calls without a key repeatable.

    Raises
    ------
    TransformError
        When called, if the padded image is smaller than the region and `pad_if_needed` is False.
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
        """The value that it pads with, or None if it does not pad."""
        return self._fill if self.pad_if_needed or self._padding is not None else None

    def add_to(self, geometry: Geometry, stream: Stream | None) -> None:
        """Add this transform to a native step."""
        stream = require_stream(stream)
        if self._padding is not None:
            geometry.pad(*self._padding, self._fill)
        self._fit(geometry)
        x = stream.below(geometry.width - self.width + 1)
        y = stream.below(geometry.height - self.height + 1)
        geometry.crop(x, y, self.width, self.height)


class CenterCrop(_Crop):
    """Crop the center.

    Parameters
    ----------
    width, height : int
        Size of the region in pixels. By default, `height` is `width`.
    pad_if_needed : bool
        Pad an image that is smaller than the region, equally on both sides, instead of raising.
    fill : float or sequence of float
        Value of padded pixels, one number for all channels or one for each.

    Raises
    ------
    TransformError
        When called, if the image is smaller than the region and `pad_if_needed` is False.
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
        """Add this transform to a native step."""
        self._fit(geometry)
        x = round((geometry.width - self.width) / 2)
        y = round((geometry.height - self.height) / 2)
        geometry.crop(x, y, self.width, self.height)


def _plain_numbers(padding: Any) -> int | tuple[int, ...]:
    """Return checked padding as the caller passed it, in Python integers."""
    return int(padding) if is_number(padding) else tuple(int(v) for v in padding)


class Pad(GeometricTransform):
    """Add a border.

    Parameters
    ----------
    padding : int or sequence of int
        Width of the border in pixels: one number for all sides, (left and right, top and bottom),
        or (left, top, right, bottom).
    fill : float or sequence of float
        Value of the border for `mode` "constant", one number for all channels or one for each.
    mode : {"constant", "edge", "reflect", "symmetric"}
        "edge" repeats the outermost pixels, "reflect" mirrors the image without them and
        "symmetric" with them.
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
        """Whether the border has one color."""
        return self.mode == "constant"

    @property
    def fill_value(self) -> tuple[float, ...] | None:
        """The value of the border."""
        return self._fill

    def add_to(self, geometry: Geometry, stream: Stream | None) -> None:
        """Add this transform to a native step."""
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
