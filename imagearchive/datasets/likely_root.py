"""Warns where the directories of the samples are probably not the classes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import numpy as np

from imagearchive.archive.name_tree import decode, encode
from imagearchive.datasets.selection import IMAGE_EXTENSIONS
from imagearchive.index.name_order import is_first_of_name, sort_names
from imagearchive.index.names import ends_with, take_parts

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.selection import Selection
    from imagearchive.index.table import IndexTable

__all__ = ["likely_root", "warn_of_doubtful_classes"]

logger = logging.getLogger(__name__)

_SPLITS: Final = frozenset(
    ("train", "training", "trainval", "val", "valid", "validation", "test", "testing")
)
#: So many members are looked at, which are enough for a guess.
_LOOKED_AT: Final = 1 << 17
_IMAGES: Final = [encode(f".{extension}") for extension in IMAGE_EXTENSIONS]


def warn_of_doubtful_classes(archive: Archive, selection: Selection, classes: list[str]) -> None:
    """Log that no sample has a class, or that its classes look like something else.

    `classes` are those that the samples may have; there are none if no sample has one.
    """
    are_splits = _SPLITS.issuperset(map(str.lower, classes))
    if len(classes) > 1 and not are_splits:
        return
    root = likely_root(archive.table)
    if root is not None and (
        encode(root) + b"/" == selection.prefix or (not root and not selection.prefix)
    ):
        root = None
    if not classes:
        logger.warning(
            "%s: no sample is in a class directory, so all %d have the label -1, the first is "
            "%r; name the directory that contains the class directories with root=%s, or the "
            "labels with table=, label_file= or label_extension=. nested=True opens "
            "archives within the archive",
            archive.path,
            len(selection),
            archive.name(selection.view(0)[0]),
            "" if root is None else f", probably root={root!r}",
        )
    elif root is not None and are_splits:
        logger.warning(
            "%s: the classes are %s, which look like the parts of a dataset; for the classes "
            "of one part, pass root=%r",
            archive.path,
            ", ".join(map(repr, classes)),
            root,
        )
    elif root is not None:
        logger.warning(
            "%s: all samples are in one class, %r; if the classes are its subdirectories, pass "
            "root=%r",
            archive.path,
            classes[0],
            root,
        )


def likely_root(table: IndexTable) -> str | None:
    """Return the directory that probably contains the class directories.

    It is the one with the most images in its subdirectories, if at least two of these have some.
    Where several have equally many, it is the first by name. None if there is none. Of very large
    archives, the first members are looked at.
    """
    bounds = table.name_offsets[: _LOOKED_AT + 1]
    text = np.asarray(table.names[: int(bounds[-1])])
    images = np.flatnonzero(ends_with(text, bounds, _IMAGES))
    starts, ends = bounds[:-1][images], bounds[1:][images]
    slashes = np.flatnonzero(text == ord("/")).astype(np.uint64)
    before = np.searchsorted(slashes, ends)
    depths = before - np.searchsorted(slashes, starts)
    inside = np.flatnonzero(depths > 0)
    if not len(inside):
        return None
    # An image in the directory "a/b" counts for "a", and one in "b" for the root.
    starts, before, depths = starts[inside], before[inside], depths[inside]
    last = slashes[before - 1]
    parents = np.where(depths > 1, slashes[np.maximum(before - 2, 0)], starts)
    directories, offsets = take_parts(table.names, starts, last)
    order = sort_names(directories, offsets)
    first = np.flatnonzero(is_first_of_name(directories, offsets, order)[order])
    # One row for each directory of images, and how many images it has.
    rows = order[first].astype(np.int64)
    counts = np.diff(np.append(first, len(order)))
    names, offsets = take_parts(table.names, starts[rows], parents[rows])
    order = sort_names(names, offsets).astype(np.int64)
    first = np.flatnonzero(is_first_of_name(names, offsets, order.astype(np.uint64))[order])
    images_below = np.add.reduceat(counts[order], first)
    directories_below = np.diff(np.append(first, len(order)))
    images_below[directories_below < 2] = 0
    best = int(np.argmax(images_below))
    if not images_below[best]:
        return None
    row = order[first[best]]
    return decode(names[offsets[row] : offsets[row + 1]].tobytes())
