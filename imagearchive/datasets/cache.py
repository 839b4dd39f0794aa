"""A bounded cache of decoded samples that nobody can corrupt."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from imagearchive.errors import OptionError

__all__ = ["SampleCache", "private_copy"]


class SampleCache:
    """The samples used last, at most `size` of them; 0 keeps none.

    What goes in and what comes out are copies, so a caller may change what it got. Safe for
    threads, without a lock that a fork could leave locked.
    """

    def __init__(self, size: int) -> None:
        if not isinstance(size, int) or size < 0:
            raise OptionError(f"cache_size={size!r}: a number of samples from 0 is wanted")
        self.size = size
        self._samples: OrderedDict[int, Any] = OrderedDict()

    def get(self, index: int, load: Callable[[int], Any]) -> Any:
        """Return a copy of the cached sample, or load it."""
        if not self.size:
            return load(index)
        try:
            sample = self._samples[index]
            self._samples.move_to_end(index)
        except KeyError:
            sample = load(index)
            self._samples[index] = private_copy(sample)
            while len(self._samples) > self.size:
                self._samples.popitem(last=False)
            return sample
        return private_copy(sample)

    def clear(self) -> None:
        """Forget all samples."""
        self._samples.clear()


def private_copy(value: Any) -> Any:
    """Return a copy that shares no memory with `value`."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.copy()
    if isinstance(value, (str, bytes, int, float, bool, type(None))):
        return value
    if type(value) is dict:
        # Only samples: a dictionary in one may hold others many times over, or itself.
        return {
            key: copy.deepcopy(item) if type(item) is dict else private_copy(item)
            for key, item in value.items()
        }
    # Pillow's images copy themselves, and load first where they have to.
    own = getattr(value, "copy", None)
    if callable(own) and hasattr(value, "getbands"):
        return own()
    return copy.deepcopy(value)
