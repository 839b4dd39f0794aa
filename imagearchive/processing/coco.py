"""COCO annotation files: one JSON object of images, annotations, and categories."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from imagearchive.codecs.coco_elements import (
    check_id,
    check_numbers,
    coco_elements,
    hashable,
)
from imagearchive.codecs.json_stream import JsonStream
from imagearchive.errors import LabelError
from imagearchive.errors.plurals import pluralize
from imagearchive.processing.annotation_records import Annotations, Problem
from imagearchive.processing.collect import ImageEntry, check_name, collect_records
from imagearchive.storage.location import local_path

__all__ = ["read_coco"]


def read_coco(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> Annotations:
    """Read a COCO file; the names of images are relative to its folder.

    The file is read as a stream, so its segmentation masks are never in memory all at once.
    Images that share a file name become one record.

    Parameters
    ----------
    path : path-like
        The JSON file, an object with ``images``, ``annotations``, and ``categories``.
    root : path-like, optional
        The folder that no name may lead out of; the file's own by default.

    Raises
    ------
    LabelError
        The file is not valid JSON of that form, an id occurs twice, a value is of the wrong type
        or not finite, or a name leads out of `root`.
    """
    name = local_path("path", path)
    images: dict[int | str, str] = {}
    categories: dict[int | str, str] = {}
    entries: dict[int | str, ImageEntry] = {}
    problems: list[Problem] = []
    with open(name, encoding="utf-8-sig") as file:
        stream = JsonStream(name, file)
        for key, item, where in coco_elements(stream):
            if key == "images":
                identity = check_id(item.get("id"), "image id", where)
                if identity in images:
                    raise LabelError(f"{where}: image id {identity!r} occurs twice; make it unique")
                images[identity] = check_name(item.get("file_name"), "file_name", where)
            elif key == "categories":
                identity = check_id(item.get("id"), "category id", where)
                categories[identity] = str(item.get("name", identity))
            else:
                identity = check_id(item.get("image_id"), "image_id", where)
                _add_annotation(item, entries.setdefault(identity, ImageEntry()), where, problems)
    unlisted = sum(entries[identity].annotations for identity in entries.keys() - images.keys())
    if unlisted:
        refer = pluralize(unlisted, "annotation refers", "annotations refer")
        reason = f"{refer} to images that the file does not list"
        problems.append(Problem(name, reason))
    merged: dict[str, ImageEntry] = {}
    for identity, file_name in images.items():
        target = merged.setdefault(file_name, ImageEntry())
        target.extend(entries.get(identity, ImageEntry()))
    for entry in merged.values():
        entry.labels = [categories.get(hashable(label), str(label)) for label in entry.labels]
    return collect_records(name, merged, root, problems)


def _add_annotation(
    item: dict[str, Any], entry: ImageEntry, where: str, problems: list[Problem]
) -> None:
    entry.annotations += 1
    box = item.get("bbox")
    if box:
        values = check_numbers(box, "bbox", where)
        if len(values) != 4:
            raise LabelError(
                f"{where}: bbox must be [x, y, width, height], got "
                f"{pluralize(len(values), 'value')}"
            )
        x, y, width, height = values
        entry.add_box((x, y, width, height), item.get("category_id", ""), where, problems)
    points = item.get("keypoints")
    if points and entry.keypoints is None:
        values = check_numbers(points, "keypoints", where)
        if len(values) % 3:
            raise LabelError(
                f"{where}: keypoints must be triples of x, y, and visibility, got "
                f"{pluralize(len(values), 'value')}"
            )
        array = np.array(values, np.float64).reshape(-1, 3)
        # COCO lists people without a single labeled point; they have no landmarks to learn.
        if (array[:, 2] > 0).any():
            entry.keypoints = array
