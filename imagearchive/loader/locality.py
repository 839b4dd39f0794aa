"""What is stored near what: the order of the data, and reads that stay near each other."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["describe_data_order", "expect_nearby_reads", "find_data_order"]

_Indices = npt.NDArray[np.int64]


def find_data_order(dataset: Any) -> _Indices | None:
    """Return the indices of the samples in the order of their data, or None if that is their own.

    Parameters
    ----------
    dataset : object
        A dataset that offers `imagearchive.datasets.protocols.OrderedDataset`, a `Subset` or a
        concatenation of such, or any other, whose samples count as ordered.

    Returns
    -------
    ndarray of int64, shape (n,), or None
    """
    offered = getattr(dataset, "data_order", None)
    if callable(offered):
        return _unless_ascending(offered(), len(dataset))
    parts = getattr(dataset, "datasets", None)
    if isinstance(parts, (list, tuple)):
        return _concatenate(dataset, parts)
    return _select(dataset) if _is_subset(dataset) else None


def expect_nearby_reads(dataset: Any, samples: int, places: int) -> None:
    """Tell the datasets that a dataset consists of how far apart the next reads are.

    Parameters
    ----------
    dataset : object
        As for `find_data_order`.
    samples : int
        Within how many samples reads stay for a while; 0 if they may be anywhere.
    places : int
        At how many places these samples are.
    """
    offered = getattr(dataset, "expect_nearby_reads", None)
    if callable(offered):
        offered(samples, places)
        return
    parts = getattr(dataset, "datasets", None)
    if not isinstance(parts, (list, tuple)):
        parts = [dataset.dataset] if _is_subset(dataset) else []
    for part in parts:
        expect_nearby_reads(part, samples, places)


def describe_data_order(order: _Indices | None) -> str:
    """Return a short text that is the same for the same order."""
    if order is None:
        return "ascending"
    return hashlib.sha256(np.ascontiguousarray(order, "<i8").tobytes()).hexdigest()[:16]


def _is_subset(dataset: Any) -> bool:
    subset = getattr(sys.modules.get("torch.utils.data"), "Subset", None)
    return subset is not None and isinstance(dataset, subset)


def _unless_ascending(order: Any, count: int) -> _Indices | None:
    if order is None:
        return None
    found = np.asarray(order, np.int64)
    if found.shape != (count,) or np.array_equal(found, np.arange(count)):
        # A subclass may have other samples than the class whose method this is.
        return None
    return found


def _concatenate(dataset: Any, parts: Any) -> _Indices | None:
    orders = [find_data_order(part) for part in parts]
    if all(order is None for order in orders):
        return None
    found, first = [], 0
    for part, order in zip(parts, orders):
        found.append(first + (np.arange(len(part)) if order is None else order))
        first += len(part)
    return _unless_ascending(np.concatenate(found), len(dataset))


def _select(subset: Any) -> _Indices | None:
    """Return the order of a subset, whose samples may be in any order."""
    indices = np.asarray(subset.indices, np.int64)
    count = len(subset.dataset)
    indices = np.where(indices < 0, indices + count, indices)
    whole = find_data_order(subset.dataset)
    if whole is not None:
        places = np.empty(count, np.int64)
        places[whole] = np.arange(count)
        indices = places[indices]
    return _unless_ascending(np.argsort(indices, kind="stable"), len(subset))
