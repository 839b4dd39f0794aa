"""Class directories: the first component of the names below a root."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imagearchive.index.lookup import Lookup

__all__ = ["class_directories"]


def class_directories(
    lookup: Lookup, order: npt.NDArray[np.uint64], prefix: bytes
) -> tuple[list[bytes], npt.NDArray[np.int64]]:
    """Number the directories just below a root, sorted by name.

    Parameters
    ----------
    lookup : Lookup
    order : ndarray of uint64, shape (N,)
        The permutation that sorts the names.
    prefix : bytes
        The root with a slash at its end, or nothing.

    Returns
    -------
    names : list of bytes
    numbers : ndarray of int64, shape (N,)
        For each member the number of the directory it lies in, at any depth; -1 for one that lies
        in none, or outside the root.
    """
    low, high = lookup.bounds(prefix)
    places, flags = lookup.children(low, high, len(prefix))
    counts = np.diff(np.append(places, np.uint64(high))).astype(np.int64)
    names = []
    for place in places[flags].tolist():
        name = lookup.sorted_name(place)[len(prefix) :]
        names.append(name[: name.index(b"/")])
    # In the table a directory sorts with its slash, among the classes without it.
    by_name = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), np.int64)
    rank[by_name] = np.arange(len(names))
    child = np.full(len(places), -1, np.int64)
    child[flags] = rank
    numbers = np.full(lookup.count, -1, np.int64)
    numbers[order[low:high]] = np.repeat(child, counts)
    return [names[i] for i in by_name], numbers
