"""`LRUCache`: what it keeps, what it drops, and many threads at once."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from imagearchive.storage.lru import LRUCache


def test_lru_get_returns_kept_value_or_none() -> None:
    cache = LRUCache[int, str](2)
    assert cache.get(1) is None
    assert cache.setdefault(1, "a") == "a"
    assert cache.get(1) == "a"
    assert len(cache) == 1


def test_lru_get_tells_kept_none_from_default() -> None:
    cache = LRUCache[int, None](2)
    missing = object()
    assert cache.get(1, missing) is missing
    cache.setdefault(1, None)
    assert cache.get(1, missing) is None


def test_lru_setdefault_of_known_key_keeps_first_value() -> None:
    cache = LRUCache[str, str](2)
    cache.setdefault("k", "first")
    assert cache.setdefault("k", "second") == "first"
    assert cache.get("k") == "first"


def test_lru_beyond_limit_drops_least_recently_used() -> None:
    cache = LRUCache[int, str](2)
    cache.setdefault(1, "a")
    cache.setdefault(2, "b")
    cache.get(1)
    cache.setdefault(3, "c")
    assert [cache.get(key) for key in (1, 2, 3)] == ["a", None, "c"]


def test_lru_limit_zero_keeps_nothing() -> None:
    cache = LRUCache[int, str](0)
    assert cache.setdefault(1, "a") == "a"
    assert len(cache) == 0


def test_lru_lower_limit_applies_at_next_setdefault() -> None:
    cache = LRUCache[int, int](4)
    for key in range(4):
        cache.setdefault(key, key)
    cache.limit = 2
    cache.setdefault(9, 9)
    assert [cache.get(key) for key in (0, 1, 2, 3, 9)] == [None, None, None, 3, 9]


def test_lru_on_evict_gets_each_dropped_value_once() -> None:
    dropped: list[str] = []
    cache = LRUCache[bytes, str](1, dropped.append)
    cache.setdefault(b"1", "a")
    cache.setdefault(b"2", "b")
    assert dropped == ["a"]
    cache.clear()
    cache.clear()
    assert dropped == ["a", "b"]


def test_lru_pop_oldest_returns_value_without_on_evict() -> None:
    dropped: list[str] = []
    cache = LRUCache[int, str](2, dropped.append)
    cache.setdefault(1, "a")
    cache.setdefault(2, "b")
    assert [cache.pop_oldest() for _ in range(3)] == ["a", "b", None]
    assert dropped == []


@pytest.mark.parametrize("limit", [1, 3])
def test_lru_threads_share_values_and_respect_limit(limit: int) -> None:
    cache = LRUCache[int, list[int]](limit)

    def work(seed: int) -> None:
        for step in range(3000):
            key = (seed + step * 7) % 5
            value = cache.get(key) or cache.setdefault(key, [key])
            assert value == [key]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert len(cache) <= limit
