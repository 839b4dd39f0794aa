"""COCO, CSV and PTS annotation files -> records of image path, boxes and keypoints.

Boxes are ``(x, y, width, height)`` in pixels of the image, from its top left corner, as COCO
writes them; CSV files with corners are converted. Keypoints are ``(x, y, visibility)`` with
COCO's visibility: 0 not labelled, 1 labelled but hidden, 2 labelled and visible.

Annotation files come from elsewhere and are not trusted: a name that leads out of the raw
directory, a number that is none or a broken file raises `LabelError` with file and line. What is
merely incomplete (an image that is not there, a box without area) is listed as a `Problem`, so
that one lost file does not cost the run and is not lost from sight either.
"""

from __future__ import annotations

import csv
import math
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from imagearchive.errors import ArchiveNotFoundError, LabelError
from imagearchive.processing.json_stream import JsonStream

__all__ = [
    "Annotations",
    "Problem",
    "Record",
    "read_annotations",
    "read_coco",
    "read_csv",
    "read_pts",
]

COCO_NAME: Final = "_annotations.coco.json"
COCO_SPLITS: Final = ("train", "valid", "test")
CSV_SUFFIX: Final = "_annotations.csv"
PTS_SUFFIX: Final = ".pts"
# Tried in this order beside a .pts file.
IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")

IMAGE_COLUMNS: Final = ("image_path", "filename", "file_name", "image")
# The first set that a header has in full is taken. Corners come first: where they are given,
# columns called width and height hold the size of the image.
CORNER_COLUMNS: Final = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)
EXTENT_COLUMNS: Final = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("xmin", "ymin", "width", "height"),
)
CLASS_COLUMNS: Final = ("class", "label", "category", "class_name", "name")

# Guards against files that are not what their name says; far above any real annotation.
MAX_PTS_BYTES: Final = 1 << 24

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """What is known of one image.

    Attributes
    ----------
    path : str
        The image: the folder that was given, joined with the name from the annotation.
    boxes : ndarray of float64, shape (K, 4)
        ``x, y, width, height`` in pixels; K may be 0.
    labels : tuple of str
        The class of each box; empty strings where the file has none.
    keypoints : ndarray of float64, shape (N, 3), or None
        ``x, y, visibility`` of the first annotation that labels any.
    annotated : bool
        Whether the file says anything about this image. An image that is listed without
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
        The image, or the annotation file where no single image is meant.
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
        One for each image that is there, every path once.
    problems : list of Problem
        What was left out.
    """

    records: list[Record] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_annotations(
    folder: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> Annotations:
    """Read every annotation file under a folder.

    Found are ``*coco*/{train,valid,test}/_annotations.coco.json``, and at any depth
    ``*_annotations.csv`` and ``*.pts``. They are read in the order of their paths, so the result
    does not depend on the file system. An image that two files describe belongs to the first;
    the second is listed as a problem, because the same image in two samples could end up on both
    sides of a split.

    Parameters
    ----------
    folder : path-like
        Where to look. Links to folders are followed, each folder once.
    root : path-like, optional
        The folder that no annotation may lead out of; `folder` itself by default.

    Raises
    ------
    ArchiveNotFoundError
        There is no such folder.
    LabelError
        A file is broken, or names an image outside `root`.
    """
    top = os.fspath(folder)
    if not os.path.isdir(top):
        raise ArchiveNotFoundError(f"{top}: no such folder; put the annotated images there")
    inside = top if root is None else os.fspath(root)
    result = Annotations()
    origin: dict[str, str] = {}
    for source, part in _read_all(top, inside):
        for record in part.records:
            first = origin.setdefault(record.path, source)
            if first is source:
                result.records.append(record)
            else:
                reason = f"{source}: left out here, {first} describes this image already"
                result.problems.append(Problem(record.path, reason))
        result.problems.extend(part.problems)
    return result


def _read_all(top: str, root: str) -> Iterator[tuple[str, Annotations]]:
    for kind, path in _find(top):
        if kind == "coco":
            yield path, read_coco(path, root)
        elif kind == "csv":
            yield path, read_csv(path, root)
        else:
            yield path, read_pts(path, root)


def _find(top: str) -> Iterator[tuple[str, str]]:
    seen: set[tuple[int, int]] = set()
    for directory, folders, names in os.walk(top, followlinks=True, onerror=_raise):
        status = os.stat(directory)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        parts = os.path.relpath(directory, top).split(os.sep)
        coco = len(parts) == 2 and "coco" in parts[0].lower() and parts[1] in COCO_SPLITS
        for name in sorted(names):
            path = os.path.join(directory, name)
            if coco and name == COCO_NAME:
                yield "coco", path
            elif name.endswith(CSV_SUFFIX):
                yield "csv", path
            elif name.endswith(PTS_SUFFIX):
                yield "pts", path


def _raise(error: OSError) -> None:
    # os.walk leaves out folders that it cannot list, unless it is told otherwise.
    raise error


# --------------------------------------------------------------------------------------------
# COCO


def read_coco(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> Annotations:
    """Read a COCO file; images lie relative to its folder.

    The file is read as a stream, so that its segmentation masks are never in memory at once.
    Images that share a file name are one record.

    Parameters
    ----------
    path : path-like
        The JSON file, an object with ``images``, ``annotations`` and ``categories``.
    root : path-like, optional
        The folder that no name may lead out of; the file's own by default.

    Raises
    ------
    LabelError
        The file is no such JSON, an id occurs twice, a value is of the wrong type or not finite,
        or a name leads out of `root`.
    """
    name = os.fspath(path)
    images: dict[int | str, str] = {}
    categories: dict[int | str, str] = {}
    found: dict[int | str, _Found] = {}
    problems: list[Problem] = []
    with open(name, encoding="utf-8-sig") as file:
        stream = JsonStream(name, file)
        for key, item, where in _coco_items(stream):
            if key == "images":
                identity = _identity(item.get("id"), "image id", where)
                if identity in images:
                    raise LabelError(f"{where}: image id {identity!r} occurs twice; make it unique")
                images[identity] = _text(item.get("file_name"), "file_name", where)
            elif key == "categories":
                identity = _identity(item.get("id"), "category id", where)
                categories[identity] = str(item.get("name", identity))
            else:
                identity = _identity(item.get("image_id"), "image_id", where)
                _coco_annotation(item, found.setdefault(identity, _Found()), where, problems)
    lost = sum(found[identity].seen for identity in found.keys() - images.keys())
    if lost:
        reason = f"{lost} annotations refer to images that the file does not list"
        problems.append(Problem(name, reason))
    merged: dict[str, _Found] = {}
    for identity, file_name in images.items():
        target = merged.setdefault(file_name, _Found())
        target.extend(found.get(identity, _Found()))
    for entry in merged.values():
        entry.labels = [categories.get(label, str(label)) for label in entry.labels]
    return _collect(name, merged, root, problems)


class _Found:
    """The annotations of one image while its file is being read."""

    __slots__ = ("boxes", "keypoints", "labels", "seen", "where")

    def __init__(self, where: str = "") -> None:
        self.boxes: list[tuple[float, float, float, float]] = []
        self.labels: list[Any] = []
        self.keypoints: Floats | None = None
        self.seen = 0
        self.where = where

    def extend(self, other: _Found) -> None:
        self.boxes += other.boxes
        self.labels += other.labels
        self.seen += other.seen
        if self.keypoints is None:
            self.keypoints = other.keypoints


def _coco_items(stream: JsonStream) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every element of the three lists that matter, with the place where it stands."""
    missing = {"images", "annotations"}
    for key in stream.members():
        wanted = key in ("images", "annotations", "categories")
        missing.discard(key)
        if stream.peek() != "[":
            if wanted:
                raise LabelError(f"{stream.where()}: {key!r} is no list; is this a COCO file?")
            stream.value()
            continue
        for item, where in stream.elements():
            if not wanted:
                continue
            if not isinstance(item, dict):
                raise LabelError(f"{where}: an element of {key!r} is no object")
            yield key, item, where
    if missing:
        names = " and ".join(sorted(missing))
        raise LabelError(f"{stream.path}: no {names} in the file; is this a COCO file?")


def _coco_annotation(
    item: dict[str, Any], entry: _Found, where: str, problems: list[Problem]
) -> None:
    entry.seen += 1
    box = item.get("bbox")
    if box:
        values = _floats(box, "bbox", where)
        if len(values) != 4:
            raise LabelError(f"{where}: bbox has {len(values)} values, not x, y, width, height")
        _add_box(entry, tuple(values), item.get("category_id", ""), where, problems)  # type: ignore[arg-type]
    points = item.get("keypoints")
    if points and entry.keypoints is None:
        values = _floats(points, "keypoints", where)
        if len(values) % 3:
            raise LabelError(f"{where}: {len(values)} keypoint values are no x, y, v triples")
        array = np.array(values, np.float64).reshape(-1, 3)
        # COCO lists people without a single labelled point; they have no landmarks to learn.
        if (array[:, 2] > 0).any():
            entry.keypoints = array


# --------------------------------------------------------------------------------------------
# CSV


def read_csv(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> Annotations:
    """Read a CSV file of boxes, one a row; images lie relative to its folder.

    The header names the columns, in any order and case: the image is ``image_path`` or
    ``filename``, the box is ``xmin, ymin, xmax, ymax`` (or ``x1, y1, x2, y2``, or ``left, top,
    right, bottom``) or ``x, y, w, h`` (or ``x, y, width, height``), the class is ``class`` or
    ``label``. A row whose box columns are empty lists an image without boxes.

    Parameters
    ----------
    path : path-like
        UTF-8, with or without a byte order mark; commas; quotes as RFC 4180 has them.
    root : path-like, optional
        The folder that no name may lead out of; the file's own by default.

    Raises
    ------
    LabelError
        A column is missing, a value is no finite number, a box ends before it begins, a quote is
        not closed, or a name leads out of `root`.
    """
    name = os.fspath(path)
    found: dict[str, _Found] = {}
    problems: list[Problem] = []
    with open(name, encoding="utf-8-sig", newline="") as file:
        rows = _csv_rows(name, file)
        header = next(rows, None)
        if header is None:
            raise LabelError(f"{name}: the file is empty; its first line must name the columns")
        columns = _Columns(name, header[0])
        for row, line in rows:
            if not row:
                continue
            where = f"{name}, line {line}"
            if len(row) < columns.count:
                raise LabelError(
                    f"{where}: {len(row)} fields, but the header has {columns.count} columns"
                )
            image = _text(row[columns.image].strip(), "the image column", where)
            entry = found.setdefault(image, _Found(where))
            fields = [row[column].strip() for column in columns.box]
            if not any(fields):
                continue
            entry.seen += 1
            values = [_number(text, where) for text in fields]
            if columns.corners:
                values[2] -= values[0]
                values[3] -= values[1]
            label = row[columns.label].strip() if columns.label is not None else ""
            _add_box(entry, tuple(values), label, where, problems)  # type: ignore[arg-type]
    return _collect(name, found, root, problems)


def _csv_rows(path: str, file: TextIO) -> Iterator[tuple[list[str], int]]:
    reader = csv.reader(file, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise LabelError(f"{path}, line {line}: not valid CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise LabelError(f"{path}, line {line}: not UTF-8: {error}") from None
        yield row, line


class _Columns:
    """Where the columns of a CSV file stand."""

    def __init__(self, path: str, header: list[str]) -> None:
        names = [name.strip().lower() for name in header]
        place = {name: column for column, name in enumerate(names)}
        if len(place) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise LabelError(f"{path}, line 1: column {twice[0]!r} occurs twice")

        def first(options: Iterable[str]) -> int | None:
            return next((place[name] for name in options if name in place), None)

        image = first(IMAGE_COLUMNS)
        corners = next((s for s in CORNER_COLUMNS if place.keys() >= set(s)), None)
        box = corners or next((s for s in EXTENT_COLUMNS if place.keys() >= set(s)), None)
        if image is None or box is None:
            what = "image_path or filename" if image is None else "xmin, ymin, xmax, ymax"
            raise LabelError(
                f"{path}, line 1: no column {what} among {', '.join(names)!r:.200}; name the "
                f"columns, separated by commas"
            )
        self.image = image
        self.box = [place[name] for name in box]
        self.corners = corners is not None
        self.label = first(CLASS_COLUMNS)
        self.count = 1 + max([image, *self.box, -1 if self.label is None else self.label])


# --------------------------------------------------------------------------------------------
# PTS


def read_pts(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> Annotations:
    """Read a PTS file: the landmarks of the image of the same name beside it.

    ``version: 1``, ``n_points: N``, then N lines ``x y`` between braces. The coordinates are taken
    as they stand; every point counts as visible.

    Parameters
    ----------
    path : path-like
        The image beside it may end in ``.jpg``, ``.jpeg`` or ``.png``.
    root : path-like, optional
        As for the other readers; the image lies beside the file in any case.

    Raises
    ------
    LabelError
        The file is not of that form, a value is no finite number, or the count does not fit.
    """
    name = os.fspath(path)
    size = os.path.getsize(name)
    if size > MAX_PTS_BYTES:
        raise LabelError(f"{name}: {size} bytes are too many for a file of landmarks")
    with open(name, encoding="utf-8-sig") as file:
        try:
            lines = file.read().splitlines()
        except UnicodeDecodeError as error:
            raise LabelError(f"{name}: not UTF-8: {error}") from None
    points = _pts_points(name, lines)
    stem = name[: -len(PTS_SUFFIX)]
    image = next((stem + s for s in IMAGE_SUFFIXES if _is_file(stem + s)), None)
    if image is None:
        return Annotations([], [Problem(name, "no .jpg, .jpeg or .png of that name beside it")])
    if root is not None:
        _contain(image, os.fspath(root), name)
    return Annotations([Record(image, np.empty((0, 4)), (), points)], [])


def _pts_points(name: str, lines: list[str]) -> Floats:
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
                    f"{where}: {line.strip()!r:.40} where 'key: value' or '{{' belongs"
                )
            if key.strip().lower() == "n_points":
                count = _count(value.strip(), where)
        elif words == ["}"]:
            closed = True
        elif len(words) == 2:
            points.append((_number(words[0], where), _number(words[1], where), 2.0))
        else:
            raise LabelError(f"{where}: {len(words)} values where 'x y' belongs")
    if not closed:
        raise LabelError(f"{name}, line {len(lines)}: no closing brace; the file is incomplete")
    if count is None or count != len(points):
        said = "no n_points" if count is None else f"n_points is {count}"
        raise LabelError(f"{name}: {said}, but {len(points)} points follow")
    return np.array(points, np.float64).reshape(-1, 3)


def _count(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise LabelError(f"{where}: {text!r:.40} is no count")
    return int(text)


# --------------------------------------------------------------------------------------------
# What the three have in common


def _collect(
    source: str,
    found: dict[str, _Found],
    root: str | os.PathLike[str] | None,
    problems: list[Problem],
) -> Annotations:
    folder = os.path.dirname(source)
    inside = folder if root is None else os.fspath(root)
    result = Annotations([], problems)
    listed: set[str] = set()
    for image, entry in found.items():
        where = entry.where or source
        path = _resolve(image, folder, inside, where)
        if path in listed:
            problems.append(Problem(path, f"{where}: left out, listed before under another name"))
        elif not _is_file(path):
            problems.append(Problem(path, f"{where}: there is no such file"))
        else:
            listed.add(path)
            boxes = np.array(entry.boxes, np.float64).reshape(-1, 4)
            labels = tuple(map(str, entry.labels))
            result.records.append(Record(path, boxes, labels, entry.keypoints, entry.seen > 0))
    return result


def _resolve(image: str, folder: str, root: str, where: str) -> str:
    if "\0" in image:
        raise LabelError(f"{where}: the image's name contains a zero byte")
    # Written on Windows, read elsewhere.
    path = os.path.normpath(os.path.join(folder, image.replace("\\", "/")))
    _contain(path, root, where)
    return path


def _contain(path: str, root: str, where: str) -> None:
    """Refuse a path outside `root` as it is written; links in the file system are the user's."""
    top = os.path.abspath(root)
    if os.path.commonpath([os.path.abspath(path), top]) != top:
        raise LabelError(f"{where}: {path!r:.200} leads out of {root}; name images inside it")


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        # Not there, a name too long, a loop of links, no permission: nothing to read.
        return False


def _add_box(
    entry: _Found,
    box: tuple[float, float, float, float],
    label: object,
    where: str,
    problems: list[Problem],
) -> None:
    if box[2] < 0 or box[3] < 0:
        raise LabelError(f"{where}: a box of {box[2]:g} by {box[3]:g} pixels ends before it begins")
    if not (box[2] and box[3]):
        problems.append(Problem(where, "a box without area was left out"))
        return
    entry.boxes.append(box)
    entry.labels.append(label)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise LabelError(f"{where}: {text!r:.40} is no number") from None
    if not math.isfinite(value):
        raise LabelError(f"{where}: {text!r:.40} is no finite number")
    return value


def _floats(values: object, what: str, where: str) -> list[float]:
    if not isinstance(values, list):
        raise LabelError(f"{where}: {what} is no list")
    result: list[float] = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise LabelError(f"{where}: {value!r:.40} in {what} is no number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise LabelError(f"{where}: a value in {what} is no finite number")
        result.append(number)
    return result


def _identity(value: object, what: str, where: str) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise LabelError(f"{where}: {what} is {value!r:.40}, not a number or a string")
    return value


def _text(value: object, what: str, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise LabelError(f"{where}: {what} is {value!r:.40}, not a name")
    return value
