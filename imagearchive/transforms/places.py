"""Boxes and keypoints on their way through transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.errors.plurals import pluralize
from imagearchive.transforms.base import is_tensor
from imagearchive.transforms.fields import Boxes
from imagearchive.transforms.moves import Move, map_corners

__all__ = ["PlacedBoxes", "as_boxes", "as_points", "concatenate", "take_rows"]

Floats = npt.NDArray[np.float64]


class PlacedBoxes:
    """The boxes of one field: where they are now, and how much of each is left."""

    def __init__(self, corners: Floats) -> None:
        self.corners = corners
        self.visible = np.ones(len(corners))
        self.kept = np.ones(len(corners), np.bool_)

    def move(self, move: Move) -> None:
        """Move and clip them, and count what is left of each."""
        corners = map_corners(move.matrix, self.corners)
        # A part of a box that a warp takes behind the horizon has no place; none of it is kept.
        self.kept &= np.isfinite(corners).all(1)
        corners = np.nan_to_num(corners, nan=0.0)
        clipped = np.clip(corners, 0, (move.width, move.height) * 2)
        before, after = _areas(corners), _areas(clipped)
        self.visible *= np.divide(after, before, out=np.zeros_like(after), where=before > 0)
        self.corners = clipped

    def rows(self, field: Boxes) -> npt.NDArray[np.bool_]:
        """Return which boxes remain."""
        sides = self.corners[:, 2:] - self.corners[:, :2]
        large = (sides >= field.min_size).all(1) & (sides > 0).all(1)
        return self.kept & large & (self.visible >= field.min_visibility) & (self.visible > 0)


def _areas(corners: Floats) -> Floats:
    areas: Floats = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    return areas


def take_rows(name: str, values: Any, rows: npt.NDArray[np.bool_], boxes: str) -> Any:
    """Return the entries of a field that belong to boxes which stay."""
    if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != len(rows):
        count = len(values) if hasattr(values, "__len__") else type(values).__name__
        raise OptionError(
            f"{name!r} must have {pluralize(len(rows), 'entry')}, one for each box of {boxes!r}, "
            f"got {count}"
        )
    if isinstance(values, np.ndarray) or is_tensor(values):
        return values[rows] if isinstance(values, np.ndarray) else values[rows.tolist()]
    return type(values)(value for value, stays in zip(values, rows) if stays)


def concatenate(values: Sequence[Any]) -> Any:
    """Return the entries of several samples, as a list, an array or a tensor like the first."""
    if isinstance(values[0], (list, tuple)):
        return type(values[0])(item for value in values for item in value)
    if is_tensor(values[0]):
        return values[0].new_tensor(np.concatenate([value.numpy() for value in values]))
    return np.concatenate(values)


def as_boxes(name: str, value: Any) -> Floats:
    """Return boxes as float64, and check them."""
    array = np.asarray(value, np.float64)
    if array.size == 0:
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise OptionTypeError(f"boxes {name!r} must have the shape (n, 4), got {array.shape}")
    if not np.isfinite(array).all():
        raise OptionError(f"boxes {name!r} must be finite numbers")
    return array


def as_points(name: str, value: Any) -> Floats:
    """Return keypoints as float64, and check their shape."""
    array = np.asarray(value, np.float64)
    if array.ndim not in (2, 3) or array.shape[-1] not in (2, 3):
        raise OptionTypeError(
            f"keypoints {name!r} must have the shape (n, 2), (n, 3), or these for each object, "
            f"got {array.shape}"
        )
    return array
