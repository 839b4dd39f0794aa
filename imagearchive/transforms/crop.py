"""Cropping and padding. Sizes are (width, height), as in Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from imagearchive.errors import OptionError, TransformError
from imagearchive.errors.arguments import (
    check_choice,
    check_flag,
    check_integer,
    check_number,
    check_sequence,
    is_number,
)
from imagearchive.errors.hints import Hint
from imagearchive.images.geometry import Geometry
from imagearchive.images.random import Stream
from imagearchive.transforms.base import (
    Array,
    GeometricTransform,
    Layout,
    Operation,
    Shape,
    require_stream,
)
from imagearchive.transforms.image_arguments import (
    Fill,
    check_channel_values,
    check_interval,
    check_margins,
    check_side,
    four_values,
)
from imagearchive.transforms.moves import FunctionMove, GeometryMove, Move

__all__ = ["CenterCrop", "Pad", "RandomCrop", "RandomIoUCrop"]

PadMode = Literal["constant", "edge", "reflect", "symmetric"]


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
        self._fill = four_values(self.fill)

    @property
    def fill_value(self) -> tuple[float, ...] | None:
        """The value that it pads with, or None if it does not pad."""
        return self._fill if self.pad_if_needed else None

    def _fit(self, geometry: Geometry | GeometryMove) -> None:
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

    def _fitting(self) -> tuple[Operation, ...]:
        """Return what `_fit` does as operations; a crop refuses images that are too small."""
        return (("pad_to", self.width, self.height, self._fill),) if self.pad_if_needed else ()

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

    def add_to(self, geometry: Geometry | GeometryMove, stream: Stream | None) -> None:
        """Add this transform to a native step."""
        stream = require_stream(stream)
        if self._padding is not None:
            geometry.pad(*self._padding, self._fill)
        self._fit(geometry)
        x = stream.below(geometry.width - self.width + 1)
        y = stream.below(geometry.height - self.height + 1)
        geometry.crop(x, y, self.width, self.height)

    def operations(self) -> tuple[Operation, ...] | None:
        """Return what `add_to` does; see `GeometricTransform.operations`."""
        border = () if self._padding is None else (("pad", *self._padding, self._fill),)
        return (*border, *self._fitting(), ("random_crop", self.width, self.height))


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

    def add_to(self, geometry: Geometry | GeometryMove, stream: Stream | None) -> None:
        """Add this transform to a native step."""
        self._fit(geometry)
        x = round((geometry.width - self.width) / 2)
        y = round((geometry.height - self.height) / 2)
        geometry.crop(x, y, self.width, self.height)

    def operations(self) -> tuple[Operation, ...] | None:
        """Return what `add_to` does; see `GeometricTransform.operations`."""
        return (*self._fitting(), ("center_crop", self.width, self.height))


class RandomIoUCrop(GeometricTransform):
    """Crop a random region that overlaps a box by a random minimum (Liu et al., "SSD", 2016).

    As torchvision's ``RandomIoUCrop``: a minimum is drawn from `min_overlaps`, then up to `trials`
    regions until one contains the center of a box and overlaps one of those boxes by at least the
    minimum. Boxes whose center is outside are dropped. If there are no boxes, if no region fits,
    or if the minimum that is drawn is 1 or more, the image stays whole.

    It works on samples with boxes only; see `Compose.apply`.

    Parameters
    ----------
    scale : (float, float)
        Bounds of the region's width and height, as fractions of the image's.
    ratio : (float, float)
        Bounds of the region's width divided by its height.
    min_overlaps : sequence of float
        Smallest intersection over union of the region and a box.
    trials : int
        How many regions are tried.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    arguments = ("scale", "ratio", "min_overlaps", "trials")
    is_random = True

    def __init__(
        self,
        scale: Sequence[float] = (0.3, 1.0),
        ratio: Sequence[float] = (0.5, 2.0),
        min_overlaps: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
        trials: int = 40,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.scale = check_interval("scale", scale, 0.0, 1.0)
        self.ratio = check_interval("ratio", ratio, 0.0)
        if self.scale[0] == 0.0 or self.ratio[0] == 0.0:
            raise OptionError(
                f"scale and ratio must be greater than 0, got scale={scale!r}, ratio={ratio!r}"
            )
        overlaps = check_sequence("min_overlaps", min_overlaps, "a list of numbers")
        self.min_overlaps = tuple(float(check_number("min_overlaps", v, 0)) for v in overlaps)
        if not self.min_overlaps:
            raise OptionError("min_overlaps must have at least one number")
        self.trials = check_integer("trials", trials, 1)

    def add_to(self, geometry: Geometry | GeometryMove, stream: Stream | None) -> None:
        """Add this transform to a native step."""
        boxes = geometry.boxes if isinstance(geometry, GeometryMove) else None
        if not isinstance(geometry, GeometryMove) or boxes is None:
            raise OptionError(
                "RandomIoUCrop needs the boxes in the image; pass a sample with a field of kind "
                "Boxes"
            )
        stream = require_stream(stream)
        minimum = self.min_overlaps[stream.below(len(self.min_overlaps))]
        if minimum >= 1.0 or not len(boxes):
            return
        width, height = geometry.width, geometry.height
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        for _ in range(self.trials):
            w = max(1, int(width * stream.uniform(*self.scale)))
            h = max(1, int(height * stream.uniform(*self.scale)))
            if not self.ratio[0] <= w / h <= self.ratio[1]:
                continue
            x, y = stream.below(width - w + 1), stream.below(height - h + 1)
            inside: npt.NDArray[np.bool_] = np.all(
                (centers > (x, y)) & (centers < (x + w, y + h)), axis=1
            )
            if not inside.any():
                continue
            if _overlaps(boxes[inside], (x, y, x + w, y + h)).max() < minimum:
                continue
            geometry.keep_boxes(inside)
            geometry.crop(x, y, w, h)
            return

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        return None, None, shape[2]


def _overlaps(boxes: Array, region: tuple[int, int, int, int]) -> Array:
    """Return the intersection over union of each box and a region."""
    low = np.maximum(boxes[:, :2], region[:2])
    high = np.minimum(boxes[:, 2:], region[2:])
    common = np.clip(high - low, 0, None).prod(1)
    own = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    area = (region[2] - region[0]) * (region[3] - region[1])
    overlaps: Array = common / (own + area - common)
    return overlaps


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
        self._fill = four_values(self.fill)

    @property
    def is_native(self) -> bool:
        """Whether the border has one color."""
        return self.mode == "constant"

    @property
    def fill_value(self) -> tuple[float, ...] | None:
        """The value of the border."""
        return self._fill

    def add_to(self, geometry: Geometry | GeometryMove, stream: Stream | None) -> None:
        """Add this transform to a native step."""
        geometry.pad(*self._padding, self._fill)

    def operations(self) -> tuple[Operation, ...] | None:
        """Return what `add_to` does; see `GeometricTransform.operations`."""
        return (("pad", *self._padding, self._fill),)

    def apply_array(
        self, array: Array, layout: Layout, stream: Stream | None
    ) -> tuple[Array, Layout]:
        """Transform one array; see `Transform.apply_array`."""
        if self.mode == "constant":
            return super().apply_array(array, layout, stream)
        left, top, right, bottom = self._padding
        widths = ((top, bottom), (left, right), (0, 0))
        return np.pad(array, widths, mode=self.mode), layout

    def move(self, width: int, height: int, channels: int, stream: Stream | None) -> Move | None:
        """Return where the pixels of an image go; see `Transform.move`."""
        if self.mode == "constant":
            return super().move(width, height, channels, stream)
        left, top, right, bottom = self._padding

        def repeat(array: Array) -> Array:
            return self.apply_array(array, "HWC", None)[0]

        matrix = [[1, 0, left], [0, 1, top], [0, 0, 1]]
        sides = width + left + right, height + top + bottom
        return FunctionMove(*sides, matrix, repeat, lambda array, fill: repeat(array))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        left, top, right, bottom = self._padding
        height = None if shape[0] is None else shape[0] + top + bottom
        width = None if shape[1] is None else shape[1] + left + right
        return height, width, shape[2]
