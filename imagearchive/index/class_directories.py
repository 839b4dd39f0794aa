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
        The root with a slash at its end, or empty.

    Returns
    -------
    names : list of bytes
    numbers : ndarray of int64, shape (N,)
        For each member, the number of the directory that it is in, at any depth; -1 for a member
        outside the root or in none of them.
    """
    low, high = lookup.bounds(prefix)
    ranks, is_directory = lookup.children(low, high, len(prefix))
    counts = np.diff(np.append(ranks, np.uint64(high))).astype(np.int64)
    names = []
    for rank in ranks[is_directory].tolist():
        name = lookup.sorted_name(rank)[len(prefix) :]
        names.append(name[: name.index(b"/")])
    # The sorted names include the slash; classes are sorted without it.
    by_name = sorted(range(len(names)), key=names.__getitem__)
    class_of = np.empty(len(names), np.int64)
    class_of[by_name] = np.arange(len(names))
    child = np.full(len(ranks), -1, np.int64)
    child[is_directory] = class_of
    numbers = np.full(lookup.count, -1, np.int64)
    numbers[order[low:high]] = np.repeat(child, counts)
    return [names[i] for i in by_name], numbers
