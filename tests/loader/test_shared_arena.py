"""`SharedArena`, with both ends in one process."""

import gc
import os

import pytest

from imagearchive.loader.shared_arena import MAX_BLOCKS, SharedArena

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="the system has no anonymous files"
)


@pytest.fixture
def arena():
    arena = SharedArena.create()
    arena.close_descriptor()
    return arena


def stored(arena, *texts):
    return bytearray(arena.store([memoryview(text) for text in texts]))


def test_arena_views_are_what_was_stored(arena):
    first = stored(arena, b"a" * 100, b"", b"bc")
    second = stored(arena, b"d" * 10_000)
    assert [bytes(view) for view in arena.views(first)] == [b"a" * 100, b"", b"bc"]
    assert [bytes(view) for view in arena.views(second)] == [b"d" * 10_000]


def test_arena_block_is_released_with_its_last_view(arena):
    views = arena.views(stored(arena, b"one", b"two"))
    last = views.pop()
    views.clear()
    gc.collect()
    assert list(arena.take_released()) == []
    assert bytes(last) == b"two"
    del last
    gc.collect()
    assert list(arena.take_released()) == [0]
    assert list(arena.take_released()) == []


def test_arena_free_blocks_are_reused_from_the_lowest_address(arena):
    places = [stored(arena, b"x" * 5000) for _ in range(4)]
    starts = [int.from_bytes(place[:8], "little") for place in places]
    assert starts == sorted(set(starts))
    arena.free(starts[2])
    arena.free(starts[1])
    # Too large for one gap, and large enough for both together.
    assert stored(arena, b"y" * 9000)[:8] == places[1][:8]
    assert stored(arena, b"y" * 5000)[:8] > places[3][:8]


def test_arena_without_room_stores_nothing(arena):
    blocks = [stored(arena, b"x") for _ in range(MAX_BLOCKS)]
    assert arena.store([memoryview(b"x")]) is None
    arena.free(int.from_bytes(blocks[MAX_BLOCKS // 2][:8], "little"))
    assert arena.store([memoryview(b"x")]) is not None
    assert arena.store([memoryview(b"x")]) is None


def test_arena_retired_keeps_blocks_in_use(arena):
    first, second = arena.views(stored(arena, b"a" * 9000)), arena.views(stored(arena, b"b" * 9000))
    arena.retire()
    assert bytes(first[0]) == b"a" * 9000
    first.clear()
    gc.collect()
    assert bytes(second[0]) == b"b" * 9000
