"""What is in the arrays of an NPZ: ranges, values that are not numbers, and labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.npz.dataset import LazyNPZDataset
from imagearchive.datasets.npz.file import NpzFile
from imagearchive.errors import ImageArchiveError
from imagearchive.processing.report.distributions import count_values, spread
from imagearchive.processing.report.facts import ArrayFacts

__all__ = ["array_facts", "summarize_array"]

_MOST_ARRAYS: Final = 100
# Arrays of up to this size are read whole, others row by row.
_WHOLE: Final = 64 << 20
_CHUNK: Final = 8 << 20
# An array of more different values does not hold labels.
_MOST_LABELS: Final = 1000


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
            yield dataset.get_batch(rows[start : start + together])[name]


def summarize_array(facts: ArrayFacts, parts: Iterable[npt.NDArray[Any]]) -> None:
    """Add the range, the mean, and the labels of an array, given in parts, to its facts."""
    total, count = 0.0, 0
    lows: list[float] = []
    highs: list[float] = []
    labels: list[Any] | None = [] if len(facts.shape) == 1 else None
    for part in parts:
        array = np.asarray(part)
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
    # Values that occur once each are names or numbers, not labels.
    if labels and len(set(labels)) <= min(_MOST_LABELS, max(2, len(labels) // 2)):
        texts = (
            one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in labels
        )
        facts.labels = count_values(texts)
