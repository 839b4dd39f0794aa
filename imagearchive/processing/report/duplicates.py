"""Finds images of the same bytes, and images that look the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_DISTANCE", "bit_distances", "equal_groups", "join_pairs", "similar_pairs"]

#: Images look the same if their difference hashes differ in at most so many of 64 bits.
MAX_DISTANCE: Final = 3
_BANDS: Final = MAX_DISTANCE + 1
_BAND_BITS: Final = 64 // _BANDS
# How many of the images that follow one in a band it is compared with. Images of more than these
# that agree in a band do not all meet, which bounds the work.
_NEIGHBORS: Final = 512
_BITS: Final = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)

Integers = npt.NDArray[Any]


def equal_groups(values: Integers) -> list[list[int]]:
    """Return the indices of equal values, of those that occur more than once.

    Parameters
    ----------
    values : ndarray, shape (N,) or (N, k)
        With two dimensions, rows are compared.
    """
    if len(values) < 2:
        return []
    group = np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order])) + 1
    return [part.tolist() for part in np.split(order, starts) if len(part) > 1]


def bit_distances(first: Integers, second: Integers) -> Integers:
    """Return in how many bits the values of two arrays of uint64 differ."""
    differing = np.ascontiguousarray(first ^ second).view(np.uint8).reshape(-1, 8)
    distances: Integers = _BITS[differing].sum(axis=1, dtype=np.int64)
    return distances


def similar_pairs(hashes: Integers) -> Integers:
    """Return the pairs of hashes that differ in at most `MAX_DISTANCE` bits.

    Hashes that differ in three bits are equal in at least one of four bands of 16 bits, so only
    those that agree in a band are compared.

    Parameters
    ----------
    hashes : ndarray of uint64, shape (N,)

    Returns
    -------
    ndarray of int64, shape (P, 2)
        Each pair once, sorted. Where more than 512 hashes agree in a band, some may be missing.
    """
    found = [np.zeros((0, 2), np.int64)]
    for number in range(_BANDS):
        mask = np.uint64((1 << _BAND_BITS) - 1)
        band = (hashes >> np.uint64(number * _BAND_BITS)) & mask
        order = np.lexsort((hashes, band))
        sorted_band, sorted_hashes = band[order], hashes[order]
        for step in range(1, min(_NEIGHBORS, len(hashes) - 1) + 1):
            same = np.flatnonzero(sorted_band[step:] == sorted_band[:-step])
            if not len(same):
                break
            near = bit_distances(sorted_hashes[same], sorted_hashes[same + step]) <= MAX_DISTANCE
            same = same[near]
            found.append(np.sort(np.stack([order[same], order[same + step]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def join_pairs(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return groups of indices that pairs connect, the largest first."""
    parent: dict[int, int] = {}

    def find(index: int) -> int:
        root = index
        while parent.setdefault(root, root) != root:
            root = parent[root]
        while parent[index] != root:
            parent[index], index = root, parent[index]
        return root

    for first, second in pairs:
        low, high = sorted((find(first), find(second)))
        parent[high] = low
    groups: dict[int, list[int]] = {}
    for index in sorted(parent):
        groups.setdefault(find(index), []).append(index)
    return sorted(groups.values(), key=lambda group: (-len(group), group))
