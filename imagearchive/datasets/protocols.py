"""Methods by which `DataLoader` reads a dataset faster than one sample after another.

If a subclass overrides ``[i]``, `DataLoader` asks for its samples and ignores the methods of the
base class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["ConcatenatedDataset", "EncodedDataset", "EncodedImages", "OrderedDataset"]


class EncodedImages(Protocol):
    """Images as they are stored, with their labels. Safe for threads."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Any:
        """Return an encoded image, as bytes or a view of them."""
        ...

    def label(self, index: int) -> Any:
        """Return the label that a batch holds."""
        ...

    def labels(self, index: int) -> npt.NDArray[np.float64]:
        """Return all labels, shape (k,)."""
        ...

    def name(self, index: int) -> str:
        """Return a name for messages and reports."""
        ...

    def prefetch(self, indices: Sequence[int]) -> None:
        """Start to read these images ahead if possible; return at once."""
        ...

    def check_unchanged(self) -> None:
        """Raise StaleIndexError if a file has changed since it was opened."""
        ...


class EncodedDataset(Protocol):
    """A dataset whose samples are encoded images, decoded and otherwise unchanged."""

    def encoded_images(self) -> EncodedImages | None:
        """Return the images, or None if an option such as a transform changes them."""
        ...


class ConcatenatedDataset(Protocol):
    """A dataset of all samples of a first dataset, then those of a second, and so on."""

    def concatenated_datasets(self) -> Sequence[Any]:
        """Return the datasets in their order."""
        ...


class OrderedDataset(Protocol):
    """A dataset that knows where the data of its samples are."""

    def data_order(self) -> npt.NDArray[np.int64] | None:
        """Return the indices of the samples in the order of their data, or None if it is theirs."""
        ...

    def expect_nearby_reads(self, samples: int, places: int) -> None:
        """Get ready for reads that stay within so many samples at so many places for a while.

        If `samples` is 0, they may be anywhere.
        """
        ...
