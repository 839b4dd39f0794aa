"""COCO, CSV, and PTS annotation files -> records of image path, boxes, and keypoints.

Boxes are ``(x, y, width, height)`` in pixels of the image, from its top left corner, as COCO
writes them; CSV files with corners are converted. Keypoints are ``(x, y, visibility)`` with
COCO's visibility: 0 not labeled, 1 labeled but hidden, and 2 labeled and visible.

Annotation files come from elsewhere and are not trusted: a name that leads out of the raw
directory, a value that is not a number or a broken file raises `LabelError` with file and line.
What is merely incomplete (an image that does not exist, a box without area) is listed as a
`Problem`, so that one missing file neither stops the run nor goes unnoticed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

from imagearchive.errors import ArchiveNotFoundError
from imagearchive.processing.annotation_records import Annotations, Problem, Record
from imagearchive.processing.coco import read_coco
from imagearchive.processing.csv_boxes import read_csv
from imagearchive.processing.pts import PTS_SUFFIX, read_pts
from imagearchive.storage.location import local_path

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


def read_annotations(
    folder: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> Annotations:
    """Read every annotation file under a folder.

    These are ``*coco*/{train,valid,test}/_annotations.coco.json``, and at any depth
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
    top = local_path("folder", folder)
    if not os.path.isdir(top):
        raise ArchiveNotFoundError(f"{top}: no such folder; put the annotated images there")
    inside = top if root is None else os.fspath(root)
    result = Annotations()
    source_of: dict[str, str] = {}
    for source, read in _find(top):
        part = read(source, inside)
        for record in part.records:
            first = source_of.setdefault(record.path, source)
            if first is source:
                result.records.append(record)
            else:
                reason = f"{source}: left out here, because {first} describes this image already"
                result.problems.append(Problem(record.path, reason))
        result.problems.extend(part.problems)
    return result


def _find(top: str) -> Iterator[tuple[str, Callable[[str, str], Annotations]]]:
    """Yield every annotation file with the function that reads it."""
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
                yield path, read_coco
            elif name.endswith(CSV_SUFFIX):
                yield path, read_csv
            elif name.endswith(PTS_SUFFIX):
                yield path, read_pts


def _raise(error: OSError) -> None:
    # Without this, os.walk leaves out folders that it cannot list.
    raise error
