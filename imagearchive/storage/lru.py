"""`LRUCache`: a bounded mapping without a lock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["LRUCache"]

Key = TypeVar("Key", int, str, bytes)
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """The entries used most recently, at most `limit` of them.

    Parameters
    ----------
    limit : int
        How many entries to keep; 0 keeps none. A new value takes effect at the next `setdefault`.
    on_evict : callable, optional
        Called with each value that is dropped by `setdefault` or `clear`.

    Notes
    -----
    Safe for threads, and after a fork at any moment, since there is no lock: each step is one
    atomic operation on a dictionary. Threads that add entries at the same time may drop an entry
    more than necessary. A value may still be in use elsewhere when it is dropped, so `on_evict`
    must not invalidate values that threads share.
    """

    def __init__(self, limit: int, on_evict: Callable[[Value], object] | None = None) -> None:
        self.limit = limit
        self._on_evict = on_evict
        self._entries: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, default: Any = None) -> Value | Any:
        """Return the value of a key and mark it as used; `default` if there is none."""
        try:
            value = self._entries[key]
            self._entries.move_to_end(key)
        except KeyError:
            return default
        return value

    def setdefault(self, key: Key, value: Value) -> Value:
        """Add a value unless the key has one, drop what exceeds the limit, and return the kept one.

        Of several threads that add the same key at once, all get the value of the first.
        """
        kept = self._entries.setdefault(key, value)
        while len(self._entries) > self.limit:
            self._drop_oldest()
        return kept

    def values(self) -> list[Value]:
        """Return all values, in the order of their last use."""
        return list(self._entries.values())

    def pop_oldest(self) -> Value | None:
        """Remove the value that was unused longest and return it; None if there is none left."""
        try:
            return self._entries.popitem(last=False)[1]
        except KeyError:
            return None

    def clear(self) -> None:
        """Drop all entries."""
        while self._entries:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        value = self.pop_oldest()
        if value is not None and self._on_evict is not None:
            self._on_evict(value)
