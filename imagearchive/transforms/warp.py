"""Rotation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from imagearchive.errors.arguments import check_choice, check_flag, check_number, is_number
from imagearchive.images.random import Stream
from imagearchive.transforms.base import Array, Layout, Shape, Transform, require_stream
from imagearchive.transforms.image_arguments import (
    Fill,
    check_channel_values,
    check_interval,
    expand_channels,
    round_to_bytes,
)

__all__ = ["WARP_FILTERS", "RandomRotation"]

#: Interpolations of the transforms that rotate, shear or distort.
WARP_FILTERS = ("nearest", "bilinear", "bicubic")


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

        if array.dtype == np.uint8 and channels == 3:
            return rotated(np.ascontiguousarray(array), fill), layout
        planes = [rotated(np.ascontiguousarray(array[:, :, c]), fill[c]) for c in range(channels)]
        return np.stack(planes, axis=2), layout

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        return (None, None, shape[2]) if self.expand else shape
