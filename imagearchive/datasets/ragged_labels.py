"""A list of numbers for each sample, in two flat arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["RaggedLabels"]


class RaggedLabels:
    """A list of floats for each sample, in two flat arrays.

    Attributes
    ----------
    values : ndarray of float64
    offsets : ndarray of uint64, shape (N + 1,)
        Sample ``i`` has ``values[offsets[i]:offsets[i + 1]]``.
    """

    def __init__(self, values: npt.NDArray[np.float64], offsets: npt.NDArray[np.uint64]) -> None:
        self.values = values
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.float64]:
        return self.values[int(self.offsets[index]) : int(self.offsets[index + 1])]

    def number(self, index: int, missing: int) -> int:
        """Return the only label of a sample as an integer, or `missing` if it has none."""
        place = int(self.offsets[index])
        return int(self.values[place]) if place < self.offsets[index + 1] else missing

    def numbers(self, indices: npt.NDArray[np.int64], missing: int) -> npt.NDArray[np.int64]:
        """Return what `number` returns for each of several samples."""
        places, ends = self.offsets[indices], self.offsets[indices + 1]
        if (places < ends).all():
            return self.values[places].astype(np.int64)
        return np.array([self.number(index, missing) for index in indices.tolist()], np.int64)

    @classmethod
    def grouped(
        cls,
        samples: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
        values: list[float],
        count: int,
    ) -> RaggedLabels:
        """Bring together the values of each of `count` samples, in their order.

        Parameters
        ----------
        samples, sizes : ndarray of int64, shape (k,)
            The k-th group of values belongs to this sample, and has this length.
        values : list of float
            The values of all groups, one group after the other.
        count : int
            Number of samples.
        """
        owners = np.repeat(samples, sizes)
        order = np.argsort(owners, kind="stable")
        offsets = np.zeros(count + 1, np.uint64)
        np.cumsum(np.bincount(owners, minlength=count), out=offsets[1:])
        return cls(np.array(values, np.float64)[order], offsets)

    def select(self, rows: npt.NDArray[np.int64]) -> RaggedLabels:
        """Return the labels of some rows."""
        starts = self.offsets[rows]
        counts = self.offsets[rows + 1] - starts
        offsets = np.zeros(len(rows) + 1, np.uint64)
        np.cumsum(counts, out=offsets[1:])
        places = np.repeat(starts - offsets[:-1], counts.astype(np.int64))
        places = places + np.arange(len(places), dtype=np.uint64)
        return RaggedLabels(self.values[places], offsets)

    def as_array(self) -> npt.NDArray[np.float64] | npt.NDArray[np.object_]:
        """Return all labels.

        Returns
        -------
        ndarray
            Shape (N,) if each sample has one label, (N, k) if each has k; otherwise an array of
            shape (N,) of arrays.
        """
        counts = np.diff(self.offsets)
        if len(counts) and (counts == counts[0]).all() and counts[0]:
            width = int(counts[0])
            flat = self.values[int(self.offsets[0]) : int(self.offsets[-1])]
            return np.array(flat) if width == 1 else flat.reshape(-1, width).copy()
        rows = np.empty(len(self), object)
        for i in range(len(self)):
            rows[i] = self[i]
        return rows
