"""PTS annotation files: the landmarks of one image."""

from __future__ import annotations

import os
from typing import Final

import numpy as np

from imagearchive.errors import LabelError
from imagearchive.errors.plurals import pluralize
from imagearchive.processing.annotation_records import Annotations, Floats, Problem, Record
from imagearchive.processing.collect import check_inside, is_file, parse_number
from imagearchive.storage.location import local_path

__all__ = ["PTS_SUFFIX", "read_pts"]

PTS_SUFFIX: Final = ".pts"
# Tried in this order beside a .pts file.
IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
# Far above any real file of landmarks.
MAX_BYTES: Final = 1 << 24


def read_pts(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> Annotations:
    """Read a PTS file: the landmarks of the image of the same name beside it.

    ``version: 1``, ``n_points: N``, then N lines ``x y`` between braces. The coordinates are not
    changed; every point counts as visible.

    Parameters
    ----------
    path : path-like
        The image beside it may end in ``.jpg``, ``.jpeg``, or ``.png``.
    root : path-like, optional
        As for the other readers; the image is beside the file in any case.

    Raises
    ------
    LabelError
        The file is not of that form, a value is not a finite number, or ``n_points`` is wrong.
    """
    name = local_path("path", path)
    size = os.path.getsize(name)
    if size > MAX_BYTES:
        raise LabelError(
            f"{name}: a file of landmarks may have at most {MAX_BYTES} bytes, got {size}"
        )
    with open(name, encoding="utf-8-sig") as file:
        try:
            lines = file.read().splitlines()
        except UnicodeDecodeError as error:
            raise LabelError(f"{name}: not UTF-8: {error}") from None
    points = _parse_points(name, lines)
    stem = name[: -len(PTS_SUFFIX)]
    image = next((stem + s for s in IMAGE_SUFFIXES if is_file(stem + s)), None)
    if image is None:
        reason = "there is no .jpg, .jpeg, or .png of the same name beside it"
        return Annotations([], [Problem(name, reason)])
    if root is not None:
        check_inside(image, os.fspath(root), name)
    return Annotations([Record(image, np.empty((0, 4)), (), points)], [])


def _parse_points(name: str, lines: list[str]) -> Floats:
    count: int | None = None
    points: list[tuple[float, float, float]] = []
    inside = closed = False
    for number, line in enumerate(lines, 1):
        where = f"{name}, line {number}"
        words = line.split()
        if not words:
            continue
        if closed:
            raise LabelError(f"{where}: {line.strip()!r:.40} after the closing brace")
        if not inside and words == ["{"]:
            inside = True
        elif not inside:
            key, colon, value = line.partition(":")
            if not colon:
                raise LabelError(
                    f"{where}: expected 'key: value' or '{{', got {line.strip()!r:.40}"
                )
            if key.strip().lower() == "n_points":
                count = _parse_count(value.strip(), where)
        elif words == ["}"]:
            closed = True
        elif len(words) == 2:
            points.append((parse_number(words[0], where), parse_number(words[1], where), 2.0))
        else:
            raise LabelError(f"{where}: expected 'x y', got {pluralize(len(words), 'value')}")
    if not closed:
        raise LabelError(f"{name}, line {len(lines)}: no closing brace; the file is incomplete")
    if count is None:
        raise LabelError(f"{name}: no n_points before the points")
    if count != len(points):
        raise LabelError(
            f"{name}: n_points is {count}, but "
            f"{pluralize(len(points), 'point follows', 'points follow')}"
        )
    return np.array(points, np.float64).reshape(-1, 3)


def _parse_count(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise LabelError(f"{where}: n_points must be a number of points, got {text!r:.40}")
    return int(text)
