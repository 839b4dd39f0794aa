"""The annotations of a COCO file as columns: those of each image are a range of their rows."""

from __future__ import annotations

import io
import math
import zlib
from array import array
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.codecs.coco_elements import check_id, check_numbers, coco_elements
from imagearchive.codecs.json_stream import JsonStream
from imagearchive.datasets.samples.flat_text import FlatText
from imagearchive.datasets.samples.saved_arrays import SavedArrays, is_array
from imagearchive.datasets.samples.segmentations import (
    FARTHEST,
    SECTIONS,
    Segmentations,
    check_size,
)
from imagearchive.errors import LabelError, LimitError
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.limits import Limits

if TYPE_CHECKING:
    from imagearchive.transforms.compound_fields import Coco

__all__ = ["CocoColumns", "parse_coco"]

Id = int | str


#: The arrays of every COCO file, and their types and numbers of dimensions.
_SECTIONS: Final[dict[str, tuple[type[np.generic], int]]] = {
    "file_names": (np.uint8, 1),
    "file_name_offsets": (np.int64, 1),
    # The range of the annotations of each image.
    "offsets": (np.int64, 1),
    "boxes": (np.float32, 2),
    "kinds": (np.int64, 1),
}
_MASKS: Final[dict[str, tuple[type[np.generic], int]]] = {
    # The outline of each annotation, and the height and width of each image.
    "outline_numbers": (np.int64, 1),
    "sizes": (np.int64, 2),
    **{name: (dtype, 1) for name, dtype in SECTIONS.items()},
}
_KEYPOINTS: Final[dict[str, tuple[type[np.generic], int]]] = {
    # The points of an object in one row. Objects without any take no room: there may be many.
    "points": (np.float32, 2),
    "point_rows": (np.int64, 1),
}


class CocoColumns:
    """Boxes, classes, masks, and keypoints of all images of a COCO file.

    Parameters
    ----------
    name : str
        Of the file, for messages.
    saved : SavedArrays
        What `parse_coco` returned.
    coco : Coco
        Says what was read.

    Attributes
    ----------
    classes : list of str
        The names of the categories, in the order of their ids.
    checksum : int
        Of the content of the file.
    file_names : FlatText
        Of the images.
    """

    def __init__(self, name: str, saved: SavedArrays, coco: Coco) -> None:
        self.name = name
        self._coco = coco
        self.classes: list[str] = saved.meta["classes"]
        self.checksum: int = saved.meta["checksum"]
        columns = saved.sections
        self.file_names = FlatText(columns["file_names"], columns["file_name_offsets"])
        self._offsets = columns["offsets"]
        self._boxes, self._kinds = columns["boxes"], columns["kinds"]
        if coco.masks:
            self._sizes, self._outline_numbers = columns["sizes"], columns["outline_numbers"]
            self._outlines = Segmentations(columns)
        if coco.keypoints:
            each = columns["points"].shape[1] // 3
            self._points = columns["points"].reshape(-1, each, 3)
            self._point_rows = columns["point_rows"]

    @staticmethod
    def is_valid(saved: SavedArrays, coco: Coco) -> bool:
        """Whether saved arrays have the right types; their values are checked as they are used."""
        wanted = {
            **_SECTIONS,
            **(_MASKS if coco.masks else {}),
            **(_KEYPOINTS if coco.keypoints else {}),
        }
        columns = saved.sections
        classes = saved.meta.get("classes")
        return (
            wanted.keys() <= columns.keys()
            and all(is_array(columns[name], *kind) for name, kind in wanted.items())
            and columns["boxes"].shape[1:] == (4,)
            and ("points" not in wanted or columns["points"].shape[1] in range(3, 1 << 31, 3))
            and FlatText(columns["file_names"], columns["file_name_offsets"]).is_valid
            and isinstance(saved.meta.get("checksum"), int)
            and isinstance(classes, list)
            and all(isinstance(name, str) for name in classes)
        )

    def __len__(self) -> int:
        return len(self.file_names)

    def values(self, row: int, max_pixels: float) -> list[npt.NDArray[Any]]:
        """Return the values of an image: boxes, classes, and masks and keypoints if asked for.

        Raises
        ------
        LimitError
            The masks or the keypoints are too large.
        ValueError, IndexError
            Saved arrays are damaged.
        """
        part = slice(int(self._offsets[row]), int(self._offsets[row + 1]))
        if not 0 <= part.start <= part.stop <= len(self._boxes):
            raise ValueError("the range of an image is outside of the annotations")
        values: list[npt.NDArray[Any]] = [self._boxes[part].copy(), self._kinds[part].copy()]
        if self._coco.masks:
            height, width = self._sizes[row].tolist()
            count = part.stop - part.start
            if height * width > max_pixels or count * height * width > Limits().max_size:
                raise LimitError(
                    f"{self.name}: {count} masks of {width} x {height} pixels are too large; leave "
                    f"out masks=True"
                )
            values.append(self._outlines.masks(self._outline_numbers[part], height, width))
        if self._coco.keypoints:
            values.append(self._points_of(self._point_rows[part]))
        return values

    def _points_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        shape = (len(rows), *self._points.shape[1:])
        if 4 * math.prod(shape) > Limits().max_size:
            raise LimitError(
                f"{self.name}: {shape[1]} keypoints of {len(rows)} objects are too large; leave "
                f"out keypoints=True"
            )
        result = np.zeros(shape, np.float32)
        present = rows >= 0
        result[present] = self._points[rows[present]]
        return result


def parse_coco(name: str, data: bytes, coco: Coco) -> SavedArrays:
    """Return the columns of a COCO file.

    Parameters
    ----------
    name : str
        Of the file, for messages.
    data : bytes
        Its content.
    coco : Coco
        Says what is read.

    Raises
    ------
    LabelError
        The file is not a COCO file, or is damaged.
    """
    parser = _CocoParser(name, coco)
    return parser.parse(data)


class _CocoParser:
    """Collects the columns of a COCO file."""

    def __init__(self, name: str, coco: Coco) -> None:
        self.name = name
        self._coco = coco
        self._files: dict[Id, str] = {}
        self._sizes: dict[Id, Any] = {}
        self._points_each: int | None = None
        self._outlines = Segmentations()

    def parse(self, data: bytes) -> SavedArrays:
        """Return the columns; the content of the file is `data`."""
        name, coco = self.name, self._coco
        categories: dict[Id, str] = {}
        # An image may come after its annotations.
        numbers: dict[Id, int] = {}
        images, kinds = array("q"), array("q")
        kind_numbers: dict[Id, int] = {}
        boxes = array("d")
        points, point_rows = array("d"), array("q")
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
        order, offsets = self._sort(images, numbers)
        names = FlatText.of(list(self._files.values()))
        columns: dict[str, npt.NDArray[Any]] = {
            "file_names": names.data,
            "file_name_offsets": names.offsets,
            "offsets": offsets,
            "boxes": np.array(boxes, np.float32).reshape(-1, 4)[order],
            "kinds": _renumber(kinds, kind_numbers, order_of_kinds, name)[order],
        }
        each = self._points_each or 0
        if coco.keypoints and not each:
            raise LabelError(f"{name}: no annotation has keypoints; leave out keypoints=True")
        if coco.keypoints:
            columns["points"] = np.array(points, np.float32).reshape(-1, 3 * each)
            columns["point_rows"] = np.array(point_rows, np.int64)[order]
        if coco.masks:
            columns["sizes"] = np.array(list(self._sizes.values()), np.int64).reshape(-1, 2)
            self._check_sizes(columns["sizes"], order, offsets)
            columns["outline_numbers"] = order
            columns.update(self._outlines.columns())
        classes = [categories[identity] for identity in order_of_kinds]
        return SavedArrays(columns, {"classes": classes, "checksum": zlib.crc32(data)})

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
                f"each object, got {pluralize(len(numbers), 'number')}"
            )
        point_rows.append(len(points) // (3 * each) if numbers else -1)
        points.extend(numbers)

    def _check_images(self, numbers: dict[Id, int]) -> None:
        unlisted = numbers.keys() - self._files.keys()
        if unlisted:
            identity = next(one for one in numbers if one in unlisted)
            raise LabelError(
                f"{self.name}: annotations refer to {pluralize(len(unlisted), 'image')} that the "
                f"file does not list, such as image {identity!r}"
            )

    def _sort(
        self, images: array[int], numbers: dict[Id, int]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the order of annotations by image, and the range of each image."""
        rows = {identity: row for row, identity in enumerate(self._files)}
        row_of = np.array([rows[identity] for identity in numbers], np.int64)
        image_rows = row_of[np.array(images, np.int64)] if len(images) else np.zeros(0, np.int64)
        counts = np.bincount(image_rows, minlength=len(rows))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return np.argsort(image_rows, kind="stable").astype(np.int64), offsets

    def _check_sizes(
        self,
        sizes: npt.NDArray[np.int64],
        order: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
    ) -> None:
        """Compare the sizes of run lengths with those of images."""
        image_of = np.repeat(np.arange(len(self._files)), np.diff(offsets))
        for row, number in zip(image_of.tolist(), order.tolist()):
            size = self._outlines.size(number)
            if size is not None and size != tuple(sizes[row].tolist()):
                identity = list(self._files)[row]
                height, width = sizes[row].tolist()
                raise LabelError(
                    f"{self.name}: image {identity!r} has {width} x {height} pixels, but the run "
                    f"lengths of an annotation have {size[1]} x {size[0]}"
                )


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
