"""What annotation files say of images: records of paths, boxes, and keypoints."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Annotations", "Floats", "Problem", "Record"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """What is known of one image.

    Attributes
    ----------
    path : str
        The image: the folder of the annotation file, joined with the name in it.
    boxes : ndarray of float64, shape (K, 4)
        ``x, y, width, height`` in pixels; K may be 0.
    labels : tuple of str
        The class of each box; empty strings where the file has none.
    keypoints : ndarray of float64, shape (N, 3), or None
        ``x, y, visibility`` of the first annotation that labels any.
    annotated : bool
        Whether the file has an annotation for this image. An image that is listed without
        annotations is a negative example; one with annotations but without boxes is not.
    """

    path: str
    boxes: Floats
    labels: tuple[str, ...] = ()
    keypoints: Floats | None = None
    annotated: bool = True


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was left out, and why.

    Attributes
    ----------
    path : str
        The image, or the annotation file if the problem is not about a single image.
    reason : str
        What is wrong, with the annotation file and line where they are known.
    """

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Annotations:
    """The images that annotation files describe, in the order of the files.

    Attributes
    ----------
    records : list of Record
        One for each image that exists, every path once.
    problems : list of Problem
        What was left out.
    """

    records: list[Record] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
