"""Resizing, of the whole image or of a random part.

Sizes are (width, height), as in Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence

from imagearchive.errors import LimitError, OptionError
from imagearchive.errors.arguments import check_choice, check_flag
from imagearchive.images.geometry import FILTERS, Geometry
from imagearchive.images.geometry_plan import random_region
from imagearchive.images.random import Stream
from imagearchive.images.render import MAX_PIXELS
from imagearchive.transforms.base import GeometricTransform, Operation, Shape, require_stream
from imagearchive.transforms.image_arguments import (
    Fill,
    check_channel_values,
    check_interval,
    check_side,
    check_size,
    four_values,
)
from imagearchive.transforms.moves import GeometryMove

__all__ = ["Letterbox", "LongestMaxSize", "RandomResizedCrop", "Resize", "ScaleJitter"]


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

    def add_to(self, geometry: Geometry | GeometryMove, stream: Stream | None) -> None:
        """Add this transform to a native step."""
        width, height = self.size(geometry.width, geometry.height)
        # A file of a few bytes can hold an image of 1 x 65,500 pixels.
        if self.height is None and width * height > MAX_PIXELS:
            raise LimitError(
                f"{self!r}: an image of {geometry.width} x {geometry.height} pixels would become "
                f"{width} x {height}; pass width and height, or crop it first"
            )
        geometry.resize(width, height, None, self.interpolation)

    def operations(self) -> tuple[Operation, ...] | None:
        """Return what `add_to` does; see `GeometricTransform.operations`."""
        if self.height is None:
            return (("resize_shorter", self.width, MAX_PIXELS, self.interpolation),)
        return (("resize", self.width, self.height, self.interpolation),)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        if self.height is not None:
            return self.height, self.width, shape[2]
        if shape[0] is not None and shape[1] is not None:
            width, height = self.size(shape[1], shape[0])
            return height, width, shape[2]
        return None, None, shape[2]


class LongestMaxSize(GeometricTransform):
    """Resize so that the longer side has a given length; the other keeps the proportions.

    Parameters
    ----------
    size : int
        Length of the longer side in pixels.
    interpolation : str
        The filter, as for `Resize`.
    """

    arguments = ("size", "interpolation")
    resizes = True

    def __init__(self, size: int, interpolation: str = "bilinear") -> None:
        super().__init__()
        self.size = check_side("size", size)
        self.interpolation = check_choice("interpolation", interpolation, FILTERS)

    def add_to(self, geometry: Geometry | GeometryMove, stream: Stream | None) -> None:
        """Add this transform to a native step."""
        size = fitted(geometry.width, geometry.height, self.size, self.size)
        geometry.resize(*size, None, self.interpolation)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        if shape[0] is None or shape[1] is None:
            return None, None, shape[2]
        width, height = fitted(shape[1], shape[0], self.size, self.size)
        return height, width, shape[2]


class Letterbox(GeometricTransform):
    """Resize to fit into a fixed size, keeping the proportions, and pad equally on both sides.

    Parameters
    ----------
    width, height : int
        Size of the result in pixels. By default, `height` is `width`.
    fill : float or sequence of float
        Value of padded pixels, one number for all channels or one for each.
    enlarge : bool
        Whether smaller images grow; otherwise they are only padded.
    interpolation : str
        The filter, as for `Resize`.
    """

    arguments = ("width", "height", "fill", "enlarge", "interpolation")
    resizes = True

    def __init__(
        self,
        width: int,
        height: int | None = None,
        fill: Fill = 114,
        enlarge: bool = True,
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__()
        self.width = check_side("width", width)
        self.height = self.width if height is None else check_side("height", height)
        self.fill = check_channel_values("fill", fill)
        self.enlarge = check_flag("enlarge", enlarge)
        self.interpolation = check_choice("interpolation", interpolation, FILTERS)

    @property
    def fill_value(self) -> tuple[float, ...] | None:
        """The value of the border."""
        return four_values(self.fill)

    def add_to(self, geometry: Geometry | GeometryMove, stream: Stream | None) -> None:
        """Add this transform to a native step."""
        width, height = fitted(geometry.width, geometry.height, self.width, self.height)
        if not self.enlarge and width > geometry.width:
            width, height = geometry.width, geometry.height
        if (width, height) != (geometry.width, geometry.height):
            geometry.resize(width, height, None, self.interpolation)
        x, y = self.width - width, self.height - height
        geometry.pad(x // 2, y // 2, x - x // 2, y - y // 2, four_values(self.fill))

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        return self.height, self.width, shape[2]


class ScaleJitter(GeometricTransform):
    """Resize by a random factor, keeping the proportions.

    As torchvision's ``ScaleJitter``: the image that just fits into `width` x `height` is resized by
    a random factor more.

    Parameters
    ----------
    width, height : int
        The size in pixels that a factor of 1 fits into. By default, `height` is `width`.
    scale : (float, float)
        Bounds of the factor.
    interpolation : str
        The filter, as for `Resize`.
    seed : int, optional
        Makes calls without a key repeatable.
    """

    arguments = ("width", "height", "scale", "interpolation")
    is_random = True
    resizes = True

    def __init__(
        self,
        width: int,
        height: int | None = None,
        scale: Sequence[float] = (0.1, 2.0),
        interpolation: str = "bilinear",
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        self.width = check_side("width", width)
        self.height = self.width if height is None else check_side("height", height)
        self.scale = check_interval("scale", scale, 0.0)
        if self.scale[0] == 0.0:
            raise OptionError(f"scale must be greater than 0, got {scale!r}")
        self.interpolation = check_choice("interpolation", interpolation, FILTERS)

    def add_to(self, geometry: Geometry | GeometryMove, stream: Stream | None) -> None:
        """Add this transform to a native step."""
        factor = require_stream(stream).uniform(*self.scale)
        factor *= min(self.width / geometry.width, self.height / geometry.height)
        width = max(1, int(geometry.width * factor))
        height = max(1, int(geometry.height * factor))
        if width * height > MAX_PIXELS:
            raise LimitError(
                f"{self!r}: an image of {geometry.width} x {geometry.height} pixels would become "
                f"{width} x {height}; pass a smaller scale"
            )
        geometry.resize(width, height, None, self.interpolation)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        return None, None, shape[2]


def fitted(width: int, height: int, max_width: int, max_height: int) -> tuple[int, int]:
    """Return the largest size of the same proportions that fits into another, at least 1 x 1."""
    if width * max_height >= height * max_width:
        return max_width, max(1, round(height * max_width / width))
    return max(1, round(width * max_height / height)), max_height


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

    def box(self, width: int, height: int, stream: Stream) -> tuple[int, int, int, int]:
        """Draw x, y, width and height of the region for an image of that size."""
        return random_region(stream, width, height, self.scale, self.ratio)

    def add_to(self, geometry: Geometry | GeometryMove, stream: Stream | None) -> None:
        """Add this transform to a native step."""
        stream = require_stream(stream)
        x, y, w, h = self.box(geometry.width, geometry.height, stream)
        geometry.resize(*self.size, (x, y, x + w, y + h), self.interpolation)

    def operations(self) -> tuple[Operation, ...] | None:
        """Return what `add_to` does; see `GeometricTransform.operations`."""
        return (("resize_region", *self.size, self.scale, self.ratio, self.interpolation),)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the result; see `Transform.output_shape`."""
        return self.size[1], self.size[0], shape[2]
