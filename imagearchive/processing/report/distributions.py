"""Histograms and other summaries of many numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.processing.report.facts import Distribution, Histogram, SizeGrid

__all__ = [
    "bin_edges",
    "count_values",
    "distribution",
    "histogram",
    "size_grid",
    "sort_counts",
    "spread",
]

_BINS: Final = 32
# Values that differ by more than this factor are shown on a logarithmic scale.
_LINEAR: Final = 50.0

Numbers = npt.NDArray[Any]


def bin_edges(low: float, high: float, bins: int = _BINS) -> Numbers:
    """Return edges of about so many bins that contain all values from `low` to `high`.

    The bins have one width, a round number, unless the values are positive and differ by a factor
    of more than 50; then the edges grow by one factor.

    Returns
    -------
    ndarray of float64, shape (N + 1,)
    """
    if low == high:
        return np.array([low, high], np.float64)
    if low > 0 and high / low > _LINEAR:
        edges: Numbers = np.geomspace(low, high, bins + 1)
        edges[0], edges[-1] = low, high
        return edges
    raw = (high - low) / bins
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    start = math.floor(low / step)
    stop = max(math.ceil(high / step), start + 1)
    edges = np.arange(start, stop + 1) * step
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return edges


def histogram(values: Numbers) -> Histogram:
    """Count values in bins; there are no bins if there are no values."""
    if not len(values):
        return Histogram([], [])
    edges = bin_edges(float(values.min()), float(values.max()))
    if len(edges) == 2 and edges[0] == edges[1]:
        return Histogram(edges.tolist(), [len(values)])
    counts, _ = np.histogram(values, edges)
    return Histogram(edges.tolist(), counts.tolist())


def distribution(values: Numbers) -> Distribution | None:
    """Summarize values; None if there are none."""
    if not len(values):
        return None
    return Distribution(
        float(values.min()),
        float(np.median(values)),
        float(values.mean(dtype=np.float64)),
        float(values.max()),
        histogram(values),
    )


def size_grid(widths: Numbers, heights: Numbers) -> SizeGrid | None:
    """Count images by width and height; None if there are none."""
    if not len(widths):
        return None
    across, down = (
        bin_edges(float(sides.min()), float(sides.max()), 20) for sides in (widths, heights)
    )
    columns, rows = _bin_numbers(widths, across), _bin_numbers(heights, down)
    counts = np.zeros((len(down) - 1, len(across) - 1), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return SizeGrid(across.tolist(), down.tolist(), counts.tolist())


def _bin_numbers(values: Numbers, edges: Numbers) -> Numbers:
    return np.clip(np.searchsorted(edges, values, "right") - 1, 0, len(edges) - 2)


def count_values(values: Iterable[Any]) -> dict[str, int]:
    """Count how often each value occurs; the most frequent is first."""
    counts: dict[str, int] = {}
    for value in values:
        counts[str(value)] = counts.get(str(value), 0) + 1
    return sort_counts(counts)


def sort_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Sort counts, the largest first, and equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def spread(count: int, most: int | None) -> list[int]:
    """Return all of the first `count` integers or, if they are more than `most`, so many of them.

    They are evenly spread, and include the first and the last.
    """
    if most is None or count <= most:
        return list(range(count))
    chosen: list[int] = np.linspace(0, count - 1, most).round().astype(np.int64).tolist()
    return chosen
