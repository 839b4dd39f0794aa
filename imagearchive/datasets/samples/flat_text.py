"""Many strings in one array of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imagearchive.archive.name_tree import decode, encode
from imagearchive.datasets.samples.saved_arrays import is_array

__all__ = ["FlatText"]


@dataclass(frozen=True)
class FlatText:
    """Strings one after the other.

    Attributes
    ----------
    data : ndarray of uint8
    offsets : ndarray of int64, shape (N + 1,)
        Where each begins and ends.
    """

    data: npt.NDArray[Any]
    offsets: npt.NDArray[Any]

    @classmethod
    def of(cls, texts: Sequence[str]) -> FlatText:
        """Return strings in one array."""
        encoded = [encode(text) for text in texts]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def is_valid(self) -> bool:
        """Whether types and shapes are right. `bytes_of` checks the offsets that it uses."""
        return (
            is_array(self.data, np.uint8, 1)
            and is_array(self.offsets, np.int64, 1)
            and len(self.offsets) > 0
        )

    def bytes_of(self, number: int) -> bytes:
        """Return one string in UTF-8.

        Raises
        ------
        ValueError
            The offsets are damaged.
        """
        low, high = int(self.offsets[number]), int(self.offsets[number + 1])
        if not 0 <= low <= high <= len(self.data):
            raise ValueError(f"text {number} is outside of its array")
        return self.data[low:high].tobytes()

    def text(self, number: int) -> str:
        """Return one string."""
        return decode(self.bytes_of(number))
