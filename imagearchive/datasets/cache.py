"""A bounded cache of decoded samples that callers cannot modify."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from imagearchive.errors.arguments import check_integer
from imagearchive.storage.lru import LRUCache
from imagearchive.transforms.fields import Sample

__all__ = ["SampleCache", "private_copy"]

_MISSING: Final = object()


class SampleCache:
    """The samples used most recently, at most `size` of them; 0 keeps none.

    Callers get copies, which they may change. Safe for threads and after a fork, as `LRUCache` is.
    """

    def __init__(self, size: int) -> None:
        self.size = check_integer("cache_size", size, 0)
        self._samples = LRUCache[int, Any](self.size)

    def get(self, index: int, load: Callable[[int], Any]) -> Any:
        """Return a copy of the cached sample, or load it."""
        if not self.size:
            return load(index)
        sample = self._samples.get(index, _MISSING)
        if sample is not _MISSING:
            return private_copy(sample)
        sample = load(index)
        self._samples.setdefault(index, private_copy(sample))
        return sample

    def clear(self) -> None:
        """Forget all samples."""
        self._samples.clear()


def private_copy(value: Any) -> Any:
    """Return a copy that shares no memory with `value`."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.copy()
    if isinstance(value, (str, bytes, int, float, bool, type(None))):
        return value
    if isinstance(value, Sample):
        return Sample({key: private_copy(item) for key, item in value.items()}, value.fields)
    if type(value) is dict:
        # Dictionaries inside a sample may be shared or contain themselves; deepcopy handles both.
        return {
            key: copy.deepcopy(item) if type(item) is dict else private_copy(item)
            for key, item in value.items()
        }
    # A Pillow image copies itself, and loads its pixels first if necessary.
    own = getattr(value, "copy", None)
    if callable(own) and hasattr(value, "getbands"):
        return own()
    return copy.deepcopy(value)
