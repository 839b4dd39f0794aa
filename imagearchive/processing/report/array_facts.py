"""What is in the arrays of an NPZ: ranges, values that are not numbers, and labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.npz.dataset import LazyNPZDataset
from imagearchive.datasets.npz.file import NpzFile
from imagearchive.errors import ImageArchiveError
from imagearchive.processing.report.distributions import count_values, spread
from imagearchive.processing.report.facts import ArrayFacts

__all__ = ["array_facts", "image_rows", "summarize_array"]

_MOST_ARRAYS: Final = 100
# Arrays of up to this size are read whole, others row by row.
_WHOLE: Final = 64 << 20
_CHUNK: Final = 8 << 20
# An array of more different values does not hold labels.
_MOST_LABELS: Final = 1000
# Images have at least so many pixels on each side.
_SMALLEST_SIDE: Final = 8
_CHANNELS: Final = (1, 3, 4)


def array_facts(path: str, rows: int | None) -> list[ArrayFacts]:
    """Describe the arrays of an NPZ or a ``.npy``, at most a hundred.

    Parameters
    ----------
    path : str
    rows : int, optional
        How many rows of large arrays to read, evenly spread; None reads all.
    """
    facts: list[ArrayFacts] = []
    with NpzFile(path) as file:
        for name in list(file)[:_MOST_ARRAYS]:
            one = ArrayFacts(name)
            facts.append(one)
            try:
                _describe(file, one, path, rows)
            except (ImageArchiveError, OSError) as error:
                one.problem = getattr(error, "message", None) or str(error)
            except MemoryError:
                one.problem = "not enough memory to read it"
    return facts


def _describe(file: NpzFile, facts: ArrayFacts, path: str, rows: int | None) -> None:
    header = file.source(facts.name).header()
    facts.dtype = header.dtype.name if header.dtype.names is None else str(header.dtype)
    facts.shape = list(header.shape)
    if header.dtype == object:
        return
    size = math.prod(header.shape) * header.dtype.itemsize
    if size <= _WHOLE:
        facts.rows = header.shape[0] if header.shape else 1
        summarize_array(facts, [file[facts.name]])
        return
    count = header.shape[0]
    chosen = spread(count, rows)
    facts.rows = len(chosen)
    summarize_array(
        facts, _read_rows(path, facts.name, chosen, max(1, _CHUNK // max(1, size // count)))
    )


def _read_rows(
    path: str, name: str, rows: Sequence[int], together: int
) -> Iterator[npt.NDArray[Any]]:
    with LazyNPZDataset(path, keys=[name]) as dataset:
        for start in range(0, len(rows), together):
            yield _only(dataset.get_batch(rows[start : start + together]))


def _only(columns: Mapping[str, Any]) -> Any:
    """Return the only column, which may have another name than its array."""
    (value,) = columns.values()
    return value


def summarize_array(facts: ArrayFacts, parts: Iterable[npt.NDArray[Any]]) -> None:
    """Add the range, the mean, and the labels of an array, given in parts, to its facts."""
    total, count = 0.0, 0
    lows: list[float] = []
    highs: list[float] = []
    labels: list[Any] | None = [] if len(facts.shape) == 1 else None
    axis = _channel_axis(facts)
    sums: list[npt.NDArray[np.float64]] = []
    for part in parts:
        array = np.asarray(part)
        if axis is not None and array.size:
            sums.append(_channel_sums(array, axis))
        if array.dtype.kind in "biuf" and array.size:
            finite = array
            if array.dtype.kind == "f":
                facts.nan += int(np.isnan(array).sum())
                facts.infinite += int(np.isinf(array).sum())
                finite = array[np.isfinite(array)]
            if finite.size:
                lows.append(float(finite.min()))
                highs.append(float(finite.max()))
                total += float(finite.sum(dtype=np.float64))
                count += finite.size
        if labels is not None and array.dtype.kind in "biuSU":
            labels += array.tolist()
        else:
            labels = None
    if count:
        facts.minimum, facts.maximum, facts.mean = min(lows), max(highs), total / count
    if sums:
        pixels, first, second = np.sum(sums, axis=0)
        mean = first / pixels
        facts.channel_mean = mean.tolist()
        facts.channel_std = np.sqrt(np.maximum(second / pixels - mean**2, 0)).tolist()
    # Values that occur once each are names or numbers, not labels.
    if labels and len(set(labels)) <= min(_MOST_LABELS, max(2, len(labels) // 2)):
        texts = (
            one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in labels
        )
        facts.labels = count_values(texts)


def _channel_axis(facts: ArrayFacts) -> int | None:
    """Return the axis of the channels if an array may hold images; -1 stands for none."""
    if facts.dtype != "uint8" or not facts.shape or not facts.shape[0]:
        return None
    shape = facts.shape[1:]
    for axis, sides in ((3, shape[:2]), (1, shape[1:])):
        if len(shape) == 3 and shape[axis - 1] in _CHANNELS and min(sides) >= _SMALLEST_SIDE:
            return axis
    return -1 if len(shape) == 2 and min(shape) >= _SMALLEST_SIDE else None


def _channel_sums(array: npt.NDArray[Any], axis: int) -> npt.NDArray[np.float64]:
    """Return, for each channel, the number of values, their sum, and that of their squares."""
    channels = array[..., None] if axis < 0 else np.moveaxis(array, axis, -1)
    sums = []
    for channel in range(channels.shape[-1]):
        # Of 8 bits, counting takes less memory than squares.
        counts = np.zeros(256, np.int64)
        for row in channels[..., channel]:
            counts += np.bincount(row.reshape(-1), minlength=256)
        values = np.arange(256) / 255
        sums.append((counts.sum(), counts @ values, counts @ values**2))
    return np.array(sums, np.float64).T


def image_rows(path: str, facts: ArrayFacts, count: int) -> list[tuple[int, npt.NDArray[np.uint8]]]:
    """Return rows of an array of images, evenly spread, each as (row, pixels of shape (H, W, 3)).

    Raises
    ------
    ImageArchiveError, OSError
        The array cannot be read.
    """
    axis = _channel_axis(facts)
    if axis is None:
        return []
    rows = spread(facts.shape[0], count)
    with LazyNPZDataset(path, keys=[facts.name]) as dataset:
        values = [np.asarray(_only(dataset[row])) for row in rows]
    return [(row, _as_colors(value, axis)) for row, value in zip(rows, values)]


def _as_colors(image: npt.NDArray[np.uint8], axis: int) -> npt.NDArray[np.uint8]:
    channels = image[..., None] if axis < 0 else np.moveaxis(image, axis - 1, -1)
    if channels.shape[-1] == 1:
        channels = channels.repeat(3, axis=-1)
    return np.ascontiguousarray(channels[..., :3])
