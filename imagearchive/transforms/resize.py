"""Resizing, of the whole image or of a random part.

Sizes are (width, height), as in Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from imagearchive.errors import LimitError, OptionError
from imagearchive.errors.arguments import check_choice
from imagearchive.images.geometry import FILTERS, Geometry
from imagearchive.images.random import Stream
from imagearchive.images.render import MAX_PIXELS
from imagearchive.transforms.base import GeometricTransform, Shape, require_stream
from imagearchive.transforms.image_arguments import check_interval, check_side, check_size

__all__ = ["RandomResizedCrop", "Resize"]


class Resize(GeometricTransform):
    """Resize with antialiasing, as Pillow's ``Image.resize`` does.

    Parameters
    ----------
    width : int
        Width of the result in pixels. Without `height`, the length of the shorter side; the other
        side keeps the proportions.
    height : int, optional
        Height of the result in pixels.
    interpolation : {"bilinear", "bicubic", "lanczos", "box", "nearest"}
        The filter. Only "nearest" does not antialias.
    size : int, optional
        The length of the shorter side, instead of `width` and `height`.
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
        """Return the width and height of the result for an image of that size."""
        if self.height is not None:
            return self.width, self.height
        if width <= height:
            return self.width, max(1, int(self.width * height / width))
        return max(1, int(self.width * width / height)), self.width

    def add_to(self, geometry: Geometry, stream: Stream | None) -> None:
        """Add this transform to a native step."""
        width, height = self.size(geometry.width, geometry.height)
        # A file of a few bytes can hold an image of 1 x 65,500 pixels.
        if self.height is None and width * height > MAX_PIXELS:
            raise LimitError(
                f"{self!r}: an image of {geometry.width} x {geometry.height} pixels would become "
                f"{width} x {height}; pass width and height, or crop it first"
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
    """Crop a random region and resize it to a fixed size.

    The region is drawn as in torchvision: up to ten tries with an area of `scale` times that of the
    image and a log-uniform `ratio`, then the largest central region within the ratios. It is
    resized as by Pillow's ``resize(size, box=box)``, whose filter also sees the pixels around the
    region; torchvision crops first.

    Parameters
    ----------
    size : int or (int, int)
        Both sides of the result, or (width, height), in pixels.
    scale : (float, float)
        Bounds of the region's area, as fractions of the image's.
    ratio : (float, float)
        Bounds of the region's width divided by its height.
    interpolation : str
        The filter, as for `Resize`.
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
        """Draw x, y, width and height of the region for an image of that size."""
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
        """Add this transform to a native step."""
        stream = require_stream(stream)
        x, y, w, h = self.box(geometry.width, geometry.height, stream)
        geometry.resize(*self.size, (x, y, x + w, y + h), self.interpolation)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        return self.size[1], self.size[0], shape[2]
