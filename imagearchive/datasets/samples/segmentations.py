"""The outlines of objects in a COCO file, polygons or run lengths, and the masks that they give."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.codecs.coco_elements import check_numbers
from imagearchive.errors import LabelError
from imagearchive.errors.plurals import pluralize

__all__ = ["FARTHEST", "SECTIONS", "Segmentations", "check_size"]

#: Coordinates beyond it are not of any image.
FARTHEST: Final = 1e9

# A longer number in a compressed run length would not fit in 64 bits.
_LONGEST_NUMBER: Final = 12
# Crossings of edges and rows that are computed at a time.
_CROSSINGS: Final = 1 << 20


#: The arrays of `Segmentations`, and their types.
SECTIONS: Final[dict[str, type[np.generic]]] = {
    # x and y of the corners of all polygons, and all run lengths.
    "outlines": np.float32,
    "runs": np.uint32,
    # The range of each polygon, or list of run lengths, in these.
    "ring_starts": np.int64,
    "ring_ends": np.int64,
    # The end of the rings of each object, after a 0.
    "ring_offsets": np.int64,
    # The size that the run lengths of each object have; -1 for polygons.
    "run_heights": np.int64,
    "run_widths": np.int64,
}
_TYPECODES: Final = {np.float32: "f", np.uint32: "I", np.int64: "q"}


class Segmentations:
    """The outlines of many objects in flat arrays.

    An object has rings, each a range of points, or one list of run lengths.

    Parameters
    ----------
    columns : mapping of str to ndarray, optional
        Outlines that were saved, as `columns` returns them; `add` cannot be called then.
    """

    def __init__(self, columns: Mapping[str, Any] | None = None) -> None:
        if columns is None:
            columns = {name: array(_TYPECODES[dtype]) for name, dtype in SECTIONS.items()}
            columns["ring_offsets"].append(0)
        self._points = columns["outlines"]
        self._runs = columns["runs"]
        self._starts = columns["ring_starts"]
        self._ends = columns["ring_ends"]
        self._objects = columns["ring_offsets"]
        self._heights = columns["run_heights"]
        self._widths = columns["run_widths"]

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the outlines as the arrays of `SECTIONS`."""
        lists = (self._points, self._runs, self._starts, self._ends, self._objects)
        arrays = zip(SECTIONS.items(), (*lists, self._heights, self._widths))
        return {name: np.array(values, dtype) for (name, dtype), values in arrays}

    def __len__(self) -> int:
        return len(self._heights)

    def add(self, value: Any, where: str) -> None:
        """Add the value of ``"segmentation"`` of an annotation.

        Raises
        ------
        LabelError
            It is neither a list of polygons nor run lengths.
        """
        size = (-1, -1)
        if isinstance(value, list) and value:
            for ring in value:
                self._add_ring(ring, where)
        elif isinstance(value, dict):
            size = self._add_runs(value, where)
        else:
            raise LabelError(
                f"{where}: segmentation must be a list of polygons, or run lengths with counts and "
                f"size, got {value!r:.40}; leave out masks=True"
            )
        self._objects.append(len(self._starts))
        self._heights.append(size[0])
        self._widths.append(size[1])

    def _add_ring(self, ring: Any, where: str) -> None:
        numbers = check_numbers(ring, "segmentation", where)
        if len(numbers) % 2 or len(numbers) < 6:
            raise LabelError(
                f"{where}: a polygon must have x and y of three points or more, got "
                f"{pluralize(len(numbers), 'number')}"
            )
        if any(abs(number) > FARTHEST for number in numbers):
            raise LabelError(f"{where}: a polygon leads far out of any image")
        self._starts.append(len(self._points))
        self._points.extend(numbers)
        self._ends.append(len(self._points))

    def _add_runs(self, value: dict[str, Any], where: str) -> tuple[int, int]:
        counts = value.get("counts")
        height, width = check_size(value.get("size"), "size of the run lengths", where)
        if isinstance(counts, str):
            runs = _decode_runs(counts, where)
        else:
            runs = np.array(check_numbers(counts, "counts", where))
        # The sum of the floats cannot overflow, unlike that of integers.
        if (runs < 0).any() or (runs % 1).any() or runs.sum(dtype=np.float64) != height * width:
            raise LabelError(
                f"{where}: the run lengths do not add up to the {width} x {height} pixels of their "
                f"size"
            )
        self._starts.append(len(self._runs))
        self._runs.frombytes(runs.astype(np.uintc).tobytes())
        self._ends.append(len(self._runs))
        return height, width

    def size(self, number: int) -> tuple[int, int] | None:
        """Return the height and width that the run lengths of an object have."""
        height = self._heights[number]
        return None if height < 0 else (height, self._widths[number])

    def masks(self, numbers: npt.NDArray[np.int64], height: int, width: int) -> npt.NDArray[Any]:
        """Return the masks of some objects of one image, uint8 of shape (n, height, width).

        Raises
        ------
        ValueError
            Saved outlines are damaged.
        """
        result = np.zeros((len(numbers), height, width), np.uint8)
        for mask, number in zip(result, numbers.tolist()):
            for ring in range(self._objects[number], self._objects[number + 1]):
                part = slice(self._starts[ring], self._ends[ring])
                if self._heights[number] >= 0:
                    # Run lengths go down the columns.
                    runs = np.frombuffer(self._runs, np.uintc)[part]
                    if runs.sum(dtype=np.uint64) != height * width:
                        raise ValueError("run lengths do not add up to the size of the mask")
                    values = np.repeat((np.arange(len(runs)) & 1).astype(np.uint8), runs)
                    mask[:] = values.reshape(width, height).T
                else:
                    points = np.frombuffer(self._points, np.float32)[part]
                    _fill_polygon(mask, points.reshape(-1, 2).astype(np.float64))
        return result


def check_size(value: Any, what: str, where: str) -> tuple[int, int]:
    """Return a height and a width, or raise LabelError."""
    pair = value if isinstance(value, list) else []
    if len(pair) != 2 or not all(type(side) is int and 0 < side < 1 << 24 for side in pair):
        raise LabelError(
            f"{where}: the {what} must be a height and a width in pixels, got {value!r:.40}"
        )
    if pair[0] * pair[1] >= 1 << 32:
        raise LabelError(f"{where}: the {what} is larger than any image, {pair[0]} x {pair[1]}")
    return pair[0], pair[1]


def _decode_runs(text: str, where: str) -> npt.NDArray[np.int64]:
    """Decode compressed run lengths.

    Each character holds five bits of a number, the lowest first; a sixth says that more follow.
    From the fourth number on, each is the difference to the one two before.
    """
    codes = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 32) == 0)
    lengths = np.diff(ends, prepend=-1)
    if (
        not len(codes)
        or codes.min() < 0
        or codes.max() > 63
        or not len(ends)
        or ends[-1] != len(codes) - 1
        or lengths.max() > _LONGEST_NUMBER
    ):
        raise LabelError(f"{where}: the compressed run lengths {text!r:.40} are damaged")
    starts = ends - lengths + 1
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((codes & 31) << shifts, starts)
    negative = (codes[ends] & 16) != 0
    numbers[negative] -= np.int64(1) << (5 * lengths[negative])
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _fill_polygon(mask: npt.NDArray[np.uint8], ring: npt.NDArray[np.float64]) -> None:
    """Set the pixels whose centers are inside a polygon, whose corners lie on edges of pixels."""
    height, width = mask.shape
    ends = np.roll(ring, -1, axis=0)
    low, high = np.minimum(ring[:, 1], ends[:, 1]), np.maximum(ring[:, 1], ends[:, 1])
    # An edge crosses the rows whose centers are in [low, high).
    first = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(high - 0.5), 0, height).astype(np.int64)
    top, bottom = int(first.min()), int(last.max())
    if top >= bottom:
        return
    toggles = np.zeros((bottom - top, width + 1), np.uint8)
    step = max(1, _CROSSINGS // height)
    for at in range(0, len(ring), step):
        part = slice(at, at + step)
        counts = last[part] - first[part]
        edges = np.repeat(np.arange(at, at + len(counts)), counts)
        rows = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
        (x, y), (x_end, y_end) = ring[edges].T, ends[edges].T
        crossings = x + (rows + 0.5 - y) * (x_end - x) / (y_end - y)
        columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)
        np.bitwise_xor.at(toggles, (rows - top, columns), 1)
    mask[top:bottom] |= np.bitwise_xor.accumulate(toggles, axis=1)[:, :width]
