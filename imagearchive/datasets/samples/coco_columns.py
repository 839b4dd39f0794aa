"""The annotations of a COCO file as columns: those of each image are a range of their rows."""

from __future__ import annotations

import io
import math
import zlib
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagearchive.archive.name_tree import encode
from imagearchive.codecs.coco_elements import check_id, check_numbers, coco_elements
from imagearchive.codecs.json_stream import JsonStream
from imagearchive.datasets.samples.segmentations import FARTHEST, Segmentations, check_size
from imagearchive.errors import LabelError, LimitError
from imagearchive.storage.limits import Limits

if TYPE_CHECKING:
    from imagearchive.datasets.samples.patterns import Pattern
    from imagearchive.transforms.compound_fields import Coco

__all__ = ["CocoColumns"]

Id = int | str


class CocoColumns:
    """Boxes, classes, masks, and keypoints of all images of a COCO file.

    Parameters
    ----------
    name : str
        Of the file, for messages.
    data : bytes
        Its content.
    coco : Coco
        Says what is read.

    Attributes
    ----------
    classes : list of str
        The names of the categories, in the order of their ids.
    checksum : int
        Of the content.
    example : str or None
        The file name of the first image.

    Raises
    ------
    LabelError
        The file is not a COCO file, or is damaged.
    """

    def __init__(self, name: str, data: bytes, coco: Coco) -> None:
        self.name = name
        self.checksum = zlib.crc32(data)
        self._coco = coco
        self._files: dict[Id, str] = {}
        self._sizes: dict[Id, Any] = {}
        categories: dict[Id, str] = {}
        # An image may come after its annotations.
        numbers: dict[Id, int] = {}
        images, kinds = array("q"), array("q")
        kind_numbers: dict[Id, int] = {}
        boxes = array("d")
        points, point_rows = array("d"), array("q")
        self._points_each: int | None = None
        self._outlines = Segmentations()
        file = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig")
        for key, item, where in coco_elements(JsonStream(name, file)):
            if key == "images":
                self._add_image(item, where)
            elif key == "categories":
                identity = check_id(item.get("id"), "category id", where)
                if identity in categories:
                    raise LabelError(f"{where}: category id {identity!r} occurs twice")
                categories[identity] = str(item.get("name", identity))
            elif coco.crowd or not item.get("iscrowd"):
                identity = check_id(item.get("image_id"), "image id", where)
                images.append(numbers.setdefault(identity, len(numbers)))
                kind = check_id(item.get("category_id"), "category id", where)
                kinds.append(kind_numbers.setdefault(kind, len(kind_numbers)))
                where = f"{where}, an annotation of image {identity!r}"
                boxes.extend(_corners(item.get("bbox"), where))
                if coco.masks:
                    self._outlines.add(item.get("segmentation"), where)
                if coco.keypoints:
                    self._add_points(item.get("keypoints"), points, point_rows, where)
        self._check_images(numbers)
        order_of_kinds = sorted(categories, key=lambda one: (isinstance(one, str), one))
        self.classes = [categories[identity] for identity in order_of_kinds]
        self._sort(images, numbers)
        self.boxes = np.array(boxes, np.float32).reshape(-1, 4)[self._order]
        self.kinds = _renumber(kinds, kind_numbers, order_of_kinds, name)[self._order]
        each = self._points_each or 0
        if coco.keypoints and not each:
            raise LabelError(f"{name}: no annotation has keypoints; leave out keypoints=True")
        if coco.keypoints:
            self.points = np.array(points, np.float32).reshape(-1, each, 3)
            # Objects without keypoints take no room: a file may have many of them.
            self.point_rows = np.array(point_rows, np.int64)[self._order]
        self._check_sizes()
        self.example = next(iter(self._files.values()), None)

    def _add_image(self, item: dict[str, Any], where: str) -> None:
        identity = check_id(item.get("id"), "image id", where)
        if identity in self._files:
            raise LabelError(f"{where}: image id {identity!r} occurs twice; make it unique")
        file_name = item.get("file_name")
        if not isinstance(file_name, str) or not file_name:
            raise LabelError(f"{where}: image {identity!r} has no file_name, got {file_name!r:.40}")
        self._files[identity] = file_name
        if self._coco.masks:
            size = [item.get("height"), item.get("width")]
            self._sizes[identity] = check_size(size, f"size of image {identity!r}", where)

    def _add_points(
        self, value: Any, points: array[float], point_rows: array[int], where: str
    ) -> None:
        numbers = check_numbers(value, "keypoints", where) if value else []
        if any(abs(number) > FARTHEST for number in numbers):
            raise LabelError(f"{where}: keypoints lead far out of any image")
        if numbers and self._points_each is None and not len(numbers) % 3:
            self._points_each = len(numbers) // 3
        each = self._points_each or 0
        if numbers and len(numbers) != 3 * each:
            raise LabelError(
                f"{where}: keypoints must be triples of x, y, and visibility, equally many for "
                f"each object, got {len(numbers)} numbers"
            )
        point_rows.append(len(points) // (3 * each) if numbers else -1)
        points.extend(numbers)

    def _check_images(self, numbers: dict[Id, int]) -> None:
        unlisted = numbers.keys() - self._files.keys()
        if unlisted:
            identity = next(one for one in numbers if one in unlisted)
            raise LabelError(
                f"{self.name}: annotations refer to {len(unlisted)} images that the file does not "
                f"list, such as image {identity!r}"
            )

    def _sort(self, images: array[int], numbers: dict[Id, int]) -> None:
        """Compute the order of annotations by image, and the range of each image."""
        rows = {identity: row for row, identity in enumerate(self._files)}
        row_of = np.array([rows[identity] for identity in numbers], np.int64)
        image_rows = row_of[np.array(images, np.int64)] if len(images) else np.zeros(0, np.int64)
        self._order = np.argsort(image_rows, kind="stable")
        counts = np.bincount(image_rows, minlength=len(rows))
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def _check_sizes(self) -> None:
        """Compare the sizes of run lengths with those of images."""
        self.sizes = np.array(list(self._sizes.values()), np.int64).reshape(-1, 2)
        if not self._coco.masks:
            return
        image_of = np.repeat(np.arange(len(self._files)), np.diff(self.offsets))
        for row, number in zip(image_of.tolist(), self._order.tolist()):
            size = self._outlines.size(number)
            if size is not None and size != tuple(self.sizes[row].tolist()):
                identity = list(self._files)[row]
                height, width = self.sizes[row].tolist()
                raise LabelError(
                    f"{self.name}: image {identity!r} has {width} x {height} pixels, but the run "
                    f"lengths of an annotation have {size[1]} x {size[0]}"
                )

    def rows(self, pattern: Pattern, keys: Iterable[str]) -> npt.NDArray[np.int64]:
        """Return the row of each sample's image, -1 if the file does not list it.

        The file names of the images are forgotten.

        Parameters
        ----------
        pattern : Pattern
            Of the names of images. Names in the file may lack its directories.
        keys : iterable of str
            Of the samples.

        Raises
        ------
        LabelError
            Two images, or two samples, have the same key.
        """
        found: dict[str, int] = {}
        for row, (identity, file_name) in enumerate(self._files.items()):
            key = pattern.key_below(encode(file_name))
            if key is not None and found.setdefault(key, row) != row:
                other = list(self._files)[found[key]]
                raise LabelError(
                    f"{self.name}: the images {other!r} and {identity!r} both are of the sample "
                    f"{key!r}, {self._files[other]!r} and {file_name!r}; list each file once"
                )
        rows = []
        used = set()
        for key in keys:
            row = found.get(key, -1)
            if row in used:
                raise LabelError(
                    f"several samples have the key {key!r}, so the annotations of {self.name} "
                    f"cannot be assigned; open the archives one by one, each with its own, and "
                    f"use CombinedLazyDataset"
                )
            if row >= 0:
                used.add(row)
            rows.append(row)
        self._files, self._sizes = {}, {}
        return np.array(rows, np.int64)

    def values(self, row: int, max_pixels: float) -> list[npt.NDArray[Any]]:
        """Return the values of an image: boxes, classes, and masks and keypoints if asked for.

        Raises
        ------
        LimitError
            The masks or the keypoints are too large.
        """
        part = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        values: list[npt.NDArray[Any]] = [self.boxes[part].copy(), self.kinds[part].copy()]
        if self._coco.masks:
            height, width = self.sizes[row].tolist()
            count = part.stop - part.start
            if height * width > max_pixels or count * height * width > Limits().max_size:
                raise LimitError(
                    f"{self.name}: {count} masks of {width} x {height} pixels are too large; leave "
                    f"out masks=True"
                )
            values.append(self._outlines.masks(self._order[part], height, width))
        if self._coco.keypoints:
            values.append(self._points_of(self.point_rows[part]))
        return values

    def _points_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        shape = (len(rows), *self.points.shape[1:])
        if 4 * math.prod(shape) > Limits().max_size:
            raise LimitError(
                f"{self.name}: {shape[1]} keypoints of {len(rows)} objects are too large; leave "
                f"out keypoints=True"
            )
        result = np.zeros(shape, np.float32)
        present = rows >= 0
        result[present] = self.points[rows[present]]
        return result


def _corners(box: Any, where: str) -> list[float]:
    numbers = check_numbers(box, "bbox", where)
    if len(numbers) != 4 or min(numbers[2:]) < 0 or max(map(abs, numbers)) > FARTHEST:
        raise LabelError(f"{where}: bbox must be [x, y, width, height], got {box!r:.60}")
    x, y, width, height = numbers
    return [x, y, x + width, y + height]


def _renumber(
    kinds: array[int], numbers: dict[Id, int], order: list[Id], name: str
) -> npt.NDArray[np.int64]:
    """Return the classes of annotations, 0 to the number of categories."""
    places = {identity: place for place, identity in enumerate(order)}
    unknown = next((identity for identity in numbers if identity not in places), None)
    if unknown is not None:
        raise LabelError(
            f"{name}: annotations refer to category {unknown!r}, which the file does not list"
        )
    table = np.array([places[identity] for identity in numbers], np.int64)
    return table[np.array(kinds, np.int64)] if len(kinds) else np.zeros(0, np.int64)
