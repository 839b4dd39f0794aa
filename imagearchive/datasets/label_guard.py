"""Refuses to move pixels under labels that say where something is in the image."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagearchive.errors import OptionError
from imagearchive.errors.arguments import check_choice
from imagearchive.transforms.base import Transform, is_tensor
from imagearchive.transforms.compose import flat

__all__ = ["LabelGuard", "LabelKind"]

logger = logging.getLogger(__name__)

LabelKind = Literal["places", "values"]

# Names of columns, and keys of labels, that hold places.
PLACE_NAMES: Final = frozenset(
    (
        *("bbox", "bboxes", "box", "boxes", "keypoint", "keypoints", "landmark", "landmarks"),
        *("mask", "masks", "polygon", "polygons", "segmentation"),
    )
)
SCALARS: Final = (int, float, str, bytes, np.generic)
WAY_OUT: Final = (
    "name the kinds of the fields, as in DataLoader(fields={'image': Image(), 'boxes': Boxes()}) "
    "or in SampleArchive, so that they move together, leave out the geometric transforms, or pass "
    "label_kind='values' if the labels are not places in the image"
)


class LabelGuard:
    """Checks labels for a transform that moves pixels, and therefore should move some labels.

    Labels that are certainly places raise an error: masks of the image's size, labels that are
    images, columns and keys with names such as "boxes", and label files in which all samples have
    multiples of 4 or of 5 values, but not equally many. Arrays that may be places are logged once:
    rows of 2 to 5 numbers, and vectors of at least 4 numbers that could be pixels. Numbers, text,
    one-hot vectors, and probabilities are never places.

    Parameters
    ----------
    transform : callable or None
    label_kind : {"places", "values"} or None
        What the caller says about the labels. None: it is guessed, as above.
    """

    def __init__(
        self, transform: Callable[..., Any] | None, label_kind: LabelKind | None = None
    ) -> None:
        self.kind = check_choice("label_kind", label_kind, (None, *get_args(LabelKind)))
        # A class may serve as a function, which `flat` refuses.
        steps = [] if isinstance(transform, type) else flat(transform)
        moving = [step for step in steps if isinstance(step, Transform) and step.moves_pixels]
        self._name = type(moving[0]).__name__ if moving else ""
        #: Whether there is anything to check.
        self.active = bool(moving) and self.kind != "values"
        self._warned = False
        if self.active and self.kind == "places":
            self._refuse("label_kind='places' says that the labels are places in the image")

    def check_sizes(self, sizes: npt.NDArray[np.int64] | None) -> None:
        """Check how many values each sample has in a label file."""
        if not self.active or sizes is None:
            return
        found = np.unique(sizes[sizes > 0])
        for per_box in (4, 5):
            if len(found) > 1 and not (found % per_box).any():
                listed = ", ".join(map(str, found[:3])) + (", ..." if len(found) > 3 else "")
                self._refuse(
                    f"the samples have {listed} values in the label file, as boxes of {per_box} "
                    f"numbers do"
                )

    def check_column(self, label: Any, column: str) -> None:
        """Check the name of a label in a dict."""
        if self.active and column.lower() in PLACE_NAMES and not isinstance(label, SCALARS):
            self._refuse(f"the label is the column {column!r}")

    def check(self, label: Any, shape: tuple[int, ...] | None) -> None:
        """Check one label.

        Parameters
        ----------
        label : object
        shape : tuple of int, optional
            Height and width of the image, if they are known, and anything else behind them.
        """
        if not self.active or isinstance(label, SCALARS):
            return
        reason = _certain(label, shape)
        if reason:
            self._refuse(reason)
        if not self._warned and _possible(label, shape):
            self._warned = True
            logger.warning(
                "%s moves the pixels of an image, but not its label, and labels such as %s may be "
                "places in it. Pass label_kind='values' if they are not; otherwise use "
                "SampleArchive, which moves boxes, masks, and keypoints with the image",
                self._name,
                np.array2string(np.asarray(label).ravel()[:5], separator=", "),
            )

    def _refuse(self, reason: str) -> None:
        raise OptionError(
            f"{self._name} moves the pixels of an image, but not its label, and {reason}; {WAY_OUT}"
        )


def _certain(label: Any, shape: tuple[int, ...] | None) -> str:
    """Return why a label is certainly a place, or an empty string."""
    if isinstance(label, Mapping):
        names = [name for name in label if str(name).lower() in PLACE_NAMES]
        return f"the label has the entry {names[0]!r}" if names else ""
    if isinstance(label, Image.Image):
        return "the label is an image"
    if type(label).__module__.startswith("torchvision.tv_tensors"):
        return f"the label is {type(label).__name__}"
    if shape is not None and (isinstance(label, np.ndarray) or is_tensor(label)):
        sides, own = tuple(shape[:2]), tuple(label.shape)
        if len(own) >= 2 and sides in (own[:2], own[-2:]):
            return f"the label is an array of the image's size, {sides[1]} x {sides[0]}"
    return ""


def _possible(label: Any, shape: tuple[int, ...] | None) -> bool:
    """Whether a label may be boxes, keypoints, or other coordinates in pixels."""
    try:
        array = np.asarray(label)
    except (TypeError, ValueError, RuntimeError):
        return False
    if array.dtype.kind not in "uif" or not array.size:
        return False
    if array.ndim == 2:
        return bool(2 <= array.shape[1] <= 5)
    if array.ndim != 1 or len(array) < 4:
        return False
    limit = np.inf if shape is None else float(max(shape[:2]))
    low, high = float(array.min()), float(array.max())
    return low >= 0 and 1 < high <= limit
