"""What the readers of annotation files share: checks of values, and the way to records."""

from __future__ import annotations

import math
import os
import stat
from typing import Any

import numpy as np

from imagearchive.errors import LabelError
from imagearchive.processing.annotation_records import Annotations, Floats, Problem, Record

__all__ = [
    "ImageEntry",
    "check_inside",
    "check_name",
    "collect_records",
    "is_file",
    "parse_number",
]


class ImageEntry:
    """The annotations of one image while its file is being read."""

    __slots__ = ("annotations", "boxes", "keypoints", "labels", "where")

    def __init__(self, where: str = "") -> None:
        self.boxes: list[tuple[float, float, float, float]] = []
        self.labels: list[Any] = []
        self.keypoints: Floats | None = None
        # How many there are, with those that have no box.
        self.annotations = 0
        self.where = where

    def add_box(
        self,
        box: tuple[float, float, float, float],
        label: object,
        where: str,
        problems: list[Problem],
    ) -> None:
        """Add a box, or a problem if the box has no area."""
        *_, width, height = box
        if width < 0 or height < 0:
            raise LabelError(
                f"{where}: the box is {width:g} by {height:g} pixels, which is negative"
            )
        if not (width and height):
            problems.append(Problem(where, "left out a box without area"))
            return
        self.boxes.append(box)
        self.labels.append(label)

    def extend(self, other: ImageEntry) -> None:
        """Add the annotations of another entry for the same image."""
        self.boxes += other.boxes
        self.labels += other.labels
        self.annotations += other.annotations
        if self.keypoints is None:
            self.keypoints = other.keypoints


def collect_records(
    source: str,
    entries: dict[str, ImageEntry],
    root: str | os.PathLike[str] | None,
    problems: list[Problem],
) -> Annotations:
    """Return a record for each image that exists, and a problem for each that does not.

    Parameters
    ----------
    source : str
        The annotation file; names of images are relative to its folder.
    entries : dict of str to ImageEntry
        By the image's name in the annotation file.
    root : path-like, optional
        The folder that no name may lead out of; that of `source` by default.
    problems : list of Problem
        Those found before; the result has them first.
    """
    folder = os.path.dirname(source)
    inside = folder if root is None else os.fspath(root)
    result = Annotations([], problems)
    listed: set[str] = set()
    for name, entry in entries.items():
        where = entry.where or source
        path = _image_path(name, folder, inside, where)
        if path in listed:
            problems.append(Problem(path, f"{where}: listed before under another name; left out"))
        elif not is_file(path):
            problems.append(Problem(path, f"{where}: there is no such file"))
        else:
            listed.add(path)
            boxes = np.array(entry.boxes, np.float64).reshape(-1, 4)
            labels = tuple(map(str, entry.labels))
            annotated = entry.annotations > 0
            result.records.append(Record(path, boxes, labels, entry.keypoints, annotated))
    return result


def _image_path(name: str, folder: str, root: str, where: str) -> str:
    if "\0" in name:
        raise LabelError(f"{where}: the image's name contains a null character")
    # Written on Windows, read elsewhere.
    path = os.path.normpath(os.path.join(folder, name.replace("\\", "/")))
    check_inside(path, root, where)
    return path


def check_inside(path: str, root: str, where: str) -> None:
    """Refuse a path outside `root`. Symbolic links are not resolved; they are the user's own."""
    top = os.path.abspath(root)
    if os.path.commonpath([os.path.abspath(path), top]) != top:
        raise LabelError(f"{where}: {path!r:.200} is outside {root}; name only images inside it")


def is_file(path: str) -> bool:
    """Whether there is a regular file that can be looked at."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        # It does not exist, the name is too long, links loop, or permission is missing.
        return False


def parse_number(text: str, where: str) -> float:
    """Return a finite number."""
    try:
        value = float(text)
    except ValueError:
        raise LabelError(f"{where}: {text!r:.40} is not a number") from None
    if not math.isfinite(value):
        raise LabelError(f"{where}: {text!r:.40} is not a finite number")
    return value


def check_name(value: object, field: str, where: str) -> str:
    """Return the name of an image."""
    if not isinstance(value, str) or not value:
        raise LabelError(f"{where}: {field} must be the name of an image, got {value!r:.40}")
    return value
