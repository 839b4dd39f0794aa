"""CSV annotation files: one box in each row."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from typing import Final, TextIO

from imagearchive.errors import LabelError
from imagearchive.errors.plurals import pluralize
from imagearchive.processing.annotation_records import Annotations, Problem
from imagearchive.processing.collect import (
    ImageEntry,
    check_name,
    collect_records,
    parse_number,
)
from imagearchive.storage.location import local_path

__all__ = ["read_csv"]

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


def read_csv(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> Annotations:
    """Read a CSV file with one box in each row; the names of images are relative to its folder.

    The header names the columns, in any order and case: the image is ``image_path`` or
    ``filename``, the box is ``xmin, ymin, xmax, ymax`` (or ``x1, y1, x2, y2``, or ``left, top,
    right, bottom``) or ``x, y, w, h`` (or ``x, y, width, height``), the class is ``class`` or
    ``label``. A row whose box columns are empty lists an image without boxes.

    Parameters
    ----------
    path : path-like
        UTF-8, with or without a byte order mark; separated by commas, quoted as in RFC 4180.
    root : path-like, optional
        The folder that no name may lead out of; the file's own by default.

    Raises
    ------
    LabelError
        A column is missing, a value is not a finite number, a box has a negative size, a quote is
        not closed, or a name leads out of `root`.
    """
    name = local_path("path", path)
    entries: dict[str, ImageEntry] = {}
    problems: list[Problem] = []
    with open(name, encoding="utf-8-sig", newline="") as file:
        rows = _rows(name, file)
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
                    f"{where}: {pluralize(len(row), 'field')}, but the header has "
                    f"{pluralize(columns.count, 'column')}"
                )
            image = check_name(row[columns.image].strip(), "the image column", where)
            entry = entries.setdefault(image, ImageEntry(where))
            fields = [row[column].strip() for column in columns.box]
            if not any(fields):
                continue
            entry.annotations += 1
            x, y, width, height = (parse_number(text, where) for text in fields)
            if columns.corners:
                width -= x
                height -= y
            label = row[columns.label].strip() if columns.label is not None else ""
            entry.add_box((x, y, width, height), label, where, problems)
    return collect_records(name, entries, root, problems)


def _rows(path: str, file: TextIO) -> Iterator[tuple[list[str], int]]:
    """Yield each row with the number of its first line."""
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
    """Which column holds what, by the header."""

    def __init__(self, path: str, header: list[str]) -> None:
        names = [name.strip().lower() for name in header]
        numbers = {name: column for column, name in enumerate(names)}
        if len(numbers) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise LabelError(f"{path}, line 1: column {twice[0]!r} occurs twice")

        def first(options: Iterable[str]) -> int | None:
            return next((numbers[name] for name in options if name in numbers), None)

        image = first(IMAGE_COLUMNS)
        corners = next((s for s in CORNER_COLUMNS if numbers.keys() >= set(s)), None)
        box = corners or next((s for s in EXTENT_COLUMNS if numbers.keys() >= set(s)), None)
        if image is None or box is None:
            what = "image_path or filename" if image is None else "xmin, ymin, xmax, ymax"
            raise LabelError(
                f"{path}, line 1: no column {what} among {', '.join(names)!r:.200}; name the "
                f"columns, separated by commas"
            )
        self.image = image
        self.box = [numbers[name] for name in box]
        self.corners = corners is not None
        self.label = first(CLASS_COLUMNS)
        self.count = 1 + max([image, *self.box, -1 if self.label is None else self.label])
