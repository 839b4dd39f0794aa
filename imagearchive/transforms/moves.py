"""Where a transform moves the pixels of an image, and with them masks, boxes and keypoints.

Coordinates are continuous: the image of W x H pixels spans from (0, 0) to (W, H), and the center of
the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imagearchive.errors import OptionError
from imagearchive.images.decode import local_decoder, oriented
from imagearchive.images.geometry import FILTERS, Geometry, OutputFormat
from imagearchive.images.render import Decoder, warp_array
from imagearchive.transforms.image_arguments import round_to_bytes

__all__ = [
    "FLOAT32_FORMAT",
    "UINT8_FORMAT",
    "FunctionMove",
    "GeometryMove",
    "Move",
    "WarpMove",
    "apply_geometry",
    "map_corners",
    "map_mask",
    "map_points",
    "orientation_move",
    "with_contiguous_rows",
]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

UINT8_FORMAT = OutputFormat("uint8")
FLOAT32_FORMAT = OutputFormat("float32")


def apply_geometry(array: Array, geometry: Geometry, decoder: Decoder | None = None) -> Array:
    """Render an (H, W, C) array into a new one."""
    out = np.empty((geometry.height, geometry.width, array.shape[2]), array.dtype)
    output_format = FLOAT32_FORMAT if array.dtype == np.float32 else UINT8_FORMAT
    (decoder or local_decoder()).render_array(
        with_contiguous_rows(array), geometry, output_format, out
    )
    return out


def with_contiguous_rows(array: Array) -> Array:
    """Return the array itself if each row is contiguous and aligned, otherwise a copy."""
    _, width, channels = array.shape
    item = array.itemsize
    side_by_side = array.strides[1:] == (channels * item, item) or (width == 1 and channels == 1)
    return array if side_by_side and array.flags.aligned else np.array(array, order="C")


class Move:
    """What one transform does to the places in one image.

    Attributes
    ----------
    width, height : int
        Size of the result in pixels.
    matrix : ndarray of float64, shape (3, 3)
        The homography that takes continuous coordinates of the image to those of the result.
    """

    width: int
    height: int
    matrix: Floats

    def image(self, array: Array) -> Array:
        """Return an (H, W, C) image of uint8 or float32, moved."""
        raise NotImplementedError

    def mask(self, array: Array, fill: Sequence[int]) -> Array:
        """Return (H, W, C) bytes, moved without interpolation; C is 1 or 4, and that of `fill`."""
        raise NotImplementedError


class GeometryMove(Move):
    """Crops, one resize, flips and padding, as `Geometry` combines them.

    It has the methods of `Geometry`, so that it can be passed to `GeometricTransform.add_to`.

    Parameters
    ----------
    width, height : int
        Size of the image in pixels.
    boxes : ndarray of float64, shape (n, 4), optional
        The boxes in the image, for transforms whose choices depend on them.

    Attributes
    ----------
    kept : ndarray of bool, shape (n,), or None
        Which of the boxes stay, if a transform drops some.
    """

    def __init__(self, width: int, height: int, boxes: Floats | None = None) -> None:
        self.geometry = Geometry(width, height)
        self._source = width, height
        self._boxes = boxes
        self.kept: npt.NDArray[np.bool_] | None = None
        self._calls: list[tuple[str, tuple[Any, ...]]] = []
        self.matrix = np.eye(3)

    @property
    def width(self) -> int:  # type: ignore[override]
        """Width of the result."""
        return self.geometry.width

    @property
    def height(self) -> int:  # type: ignore[override]
        """Height of the result."""
        return self.geometry.height

    @property
    def fresh(self) -> bool:
        """Same as that of `Geometry`."""
        return self.geometry.fresh

    @property
    def boxes(self) -> Floats | None:
        """The boxes in the image as it is now, or None if the sample has none."""
        return None if self._boxes is None else map_corners(self.matrix, self._boxes)

    def keep_boxes(self, kept: npt.NDArray[np.bool_]) -> None:
        """Drop the other boxes, whatever of them remains visible."""
        self.kept = kept if self.kept is None else self.kept & kept

    def resize(
        self, width: int, height: int, box: Sequence[float] | None = None, filter: str = "bilinear"
    ) -> None:
        """Same as that of `Geometry`."""
        x0, y0, x1, y1 = box or (0, 0, self.width, self.height)
        self._call("resize", width, height, box, filter)
        x, y = width / (x1 - x0), height / (y1 - y0)
        self._then([[x, 0, -x0 * x], [0, y, -y0 * y], [0, 0, 1]])

    def crop(self, x: int, y: int, width: int, height: int) -> None:
        """Same as that of `Geometry`."""
        self._call("crop", x, y, width, height)
        self._then([[1, 0, -x], [0, 1, -y], [0, 0, 1]])

    def pad(
        self, left: int, top: int, right: int, bottom: int, fill: Sequence[float] = (0, 0, 0, 0)
    ) -> None:
        """Same as that of `Geometry`."""
        self._call("pad", left, top, right, bottom, fill)
        self._then([[1, 0, left], [0, 1, top], [0, 0, 1]])

    def flip_x(self) -> None:
        """Same as that of `Geometry`."""
        self._call("flip_x")
        self._then([[-1, 0, self.width], [0, 1, 0], [0, 0, 1]])

    def flip_y(self) -> None:
        """Same as that of `Geometry`."""
        self._call("flip_y")
        self._then([[1, 0, 0], [0, -1, self.height], [0, 0, 1]])

    def _call(self, name: str, *arguments: Any) -> None:
        getattr(self.geometry, name)(*arguments)
        self._calls.append((name, arguments))

    def _then(self, matrix: Sequence[Sequence[float]]) -> None:
        self.matrix = np.array(matrix, np.float64) @ self.matrix

    def image(self, array: Array) -> Array:
        """Return an (H, W, C) image of uint8 or float32, moved."""
        return apply_geometry(array, self.geometry)

    def mask(self, array: Array, fill: Sequence[int]) -> Array:
        """Return (H, W, C) bytes, moved without interpolation."""
        nearest = Geometry(*self._source)
        for name, arguments in self._calls:
            if name == "resize":
                arguments = (*arguments[:3], FILTERS[0])
            elif name == "pad":
                arguments = (*arguments[:4], fill)
            getattr(nearest, name)(*arguments)
        out = np.empty((self.height, self.width, array.shape[2]), np.uint8)
        local_decoder().render_array(with_contiguous_rows(array), nearest, UINT8_FORMAT, out)
        return out


class WarpMove(Move):
    """A homography, sampled as by Pillow's ``Image.transform``.

    Parameters
    ----------
    width, height : int
        Size of the result in pixels.
    coefficients : sequence of float
        Eight numbers that take a place in the result to one in the image, in the order of Pillow's
        ``Image.Transform.PERSPECTIVE``.
    interpolation : {"nearest", "bilinear", "bicubic"}
        How values between pixels of the image are computed.
    fill : sequence of float
        Value of pixels outside the image, one number for each channel.
    """

    def __init__(
        self,
        width: int,
        height: int,
        coefficients: Sequence[float],
        interpolation: str,
        fill: Sequence[float],
    ) -> None:
        self.width, self.height = width, height
        self._coefficients = list(coefficients)
        self._interpolation, self._fill = interpolation, fill
        inverse = np.array([*self._coefficients, 1.0]).reshape(3, 3)
        # A matrix that cannot be inverted shows a line of the image; nothing else is visible then.
        singular = abs(np.linalg.det(inverse)) < 1e-12
        self.matrix = np.full((3, 3), np.nan) if singular else np.linalg.inv(inverse)

    def image(self, array: Array) -> Array:
        """Return an (H, W, C) image of uint8 or float32, moved."""
        fill = round_to_bytes(self._fill) if array.dtype == np.uint8 else self._fill
        return self._warp(array, self._interpolation, fill)

    def mask(self, array: Array, fill: Sequence[int]) -> Array:
        """Return (H, W, C) bytes, moved without interpolation."""
        return self._warp(array, FILTERS[0], fill)

    def _warp(self, array: Array, interpolation: str, fill: Sequence[float]) -> Array:
        out = np.empty((self.height, self.width, array.shape[2]), array.dtype)
        warp_array(with_contiguous_rows(array), self._coefficients, interpolation, fill, out)
        return out


class FunctionMove(Move):
    """A move by functions of arrays, for transforms that are none of the others.

    Parameters
    ----------
    width, height, matrix
        As for `Move`.
    image : callable
        From an (H, W, C) image to the moved one.
    mask : callable
        From (H, W, C) bytes and the value outside to the moved bytes.
    """

    def __init__(
        self,
        width: int,
        height: int,
        matrix: Any,
        image: Callable[[Array], Array],
        mask: Callable[[Array, Sequence[int]], Array],
    ) -> None:
        self.width, self.height = width, height
        self.matrix = np.asarray(matrix, np.float64)
        self._image, self._mask = image, mask

    def image(self, array: Array) -> Array:
        """Return an (H, W, C) image of uint8 or float32, moved."""
        return self._image(array)

    def mask(self, array: Array, fill: Sequence[int]) -> Array:
        """Return (H, W, C) bytes, moved without interpolation."""
        return self._mask(array, fill)


def map_points(matrix: Floats, points: Floats) -> Floats:
    """Return points of shape (..., 2) where a homography takes them.

    Points on or behind the horizon, which no pixel shows, become NaN.
    """
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    divisor = mapped[..., 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(divisor > 0, mapped[..., :2] / divisor, np.nan)


def map_corners(matrix: Floats, boxes: Floats) -> Floats:
    """Return the smallest boxes around the corners of others, where a homography takes them."""
    x0, y0, x1, y1 = boxes.T
    corners = np.stack([np.stack(pair, -1) for pair in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], 1)
    mapped = map_points(matrix, corners)
    return np.concatenate([mapped.min(1), mapped.max(1)], 1)


def map_mask(move: Move, mask: Array, fill: int, name: str) -> Array:
    """Return a mask of shape (H, W) or (N, H, W), moved without interpolation, in its dtype."""
    if mask.ndim == 3:
        if not len(mask):
            return np.empty((0, move.height, move.width), mask.dtype)
        return np.stack([map_mask(move, plane, fill, name) for plane in mask])
    if mask.dtype.kind not in "bui":
        raise OptionError(f"the mask {name!r} must have integer values, got {mask.dtype}")
    limits = np.iinfo(np.uint8 if mask.dtype.kind == "b" else mask.dtype)
    if not limits.min <= fill <= limits.max:
        raise OptionError(f"the fill {fill} of the mask {name!r} does not fit {mask.dtype}")
    # The native code moves bytes, four at a time for wider integers.
    pixel = np.array([fill], "<i8").view(np.uint8)
    if mask.dtype.itemsize == 1:
        plane = np.ascontiguousarray(mask).view(np.uint8)[:, :, None]
        return move.mask(plane, pixel[:1].tolist())[:, :, 0].view(mask.dtype)
    width = np.dtype("<i4" if mask.dtype.itemsize <= 4 else "<i8")
    wide = np.ascontiguousarray(mask).astype(width).view(np.uint8)
    wide = wide.reshape(*mask.shape, width.itemsize)
    parts = [
        move.mask(np.ascontiguousarray(wide[:, :, i : i + 4]), pixel[i : i + 4].tolist())
        for i in range(0, width.itemsize, 4)
    ]
    moved = np.concatenate(parts, axis=2).view(width)[:, :, 0]
    return moved.astype(mask.dtype)


def orientation_move(orientation: int, width: int, height: int) -> Move:
    """Return the move of an EXIF orientation, 2 to 8."""
    x, y = [1, 0, 0], [0, 1, 0]
    mirrored_x, mirrored_y = [-1, 0, width], [0, -1, height]
    rows = {
        2: (mirrored_x, y),
        3: (mirrored_x, mirrored_y),
        4: (x, mirrored_y),
        5: (y, x),
        6: (mirrored_y, x),
        7: (mirrored_y, mirrored_x),
        8: (y, mirrored_x),
    }[orientation]
    sides = (height, width) if orientation > 4 else (width, height)
    return FunctionMove(
        *sides,
        [*rows, [0, 0, 1]],
        lambda array: oriented(array, orientation),
        lambda array, fill: oriented(array, orientation),
    )
