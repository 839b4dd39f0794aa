"""The native checksums against zlib's and those of the package `crc32c`."""

import os
import threading
import zlib

import crc32c as peer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagearchive.errors import OptionError
from imagearchive.storage.checksums import check_verify, compared_members
from imagearchive.storage.crc import PositionSet, crc32, crc32c, use_instructions

ORACLES = [(crc32, zlib.crc32), (crc32c, peer.crc32c)]


@pytest.fixture(params=["instructions", "tables"])
def way(request):
    use_instructions(request.param == "instructions")
    yield
    use_instructions(True)


@pytest.mark.parametrize(("ours", "theirs"), ORACLES)
def test_crc_equals_the_oracle_for_every_length_and_alignment(way, ours, theirs):
    data = os.urandom(400)
    for start in range(17):
        for stop in range(start, len(data), 1 if start < 2 else 13):
            part = memoryview(data)[start:stop]
            assert ours(part) == theirs(bytes(part))


@pytest.mark.parametrize(("ours", "theirs"), ORACLES)
@pytest.mark.parametrize("size", [32_767, 32_768, 1_000_003])
def test_crc_of_large_data_equals_the_oracle(way, ours, theirs, size):
    data = os.urandom(size)
    assert ours(data) == theirs(data)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_crc_of_two_parts_is_that_of_the_whole(one, other):
    for ours, theirs in ORACLES:
        assert ours(other, ours(one)) == theirs(one + other)


def test_crc_takes_any_contiguous_buffer():
    array = np.arange(100, dtype=">f8").reshape(10, 10)
    assert crc32(array) == zlib.crc32(array.tobytes())
    with pytest.raises((BufferError, ValueError)):
        crc32(array[:, ::2])
    with pytest.raises(TypeError):
        crc32("text")


def test_position_set_holds_what_was_added():
    positions = PositionSet(100)
    assert 5 not in positions
    for position in (0, 5, 99, 100, -1, 1 << 40):
        positions.add(position)
    assert [p for p in range(-2, 103) if p in positions] == [0, 5, 99]
    positions.add_all(np.array([7, -1, 98, 100, 7]))
    assert [p for p in range(-2, 103) if p in positions] == [0, 5, 7, 98, 99]
    positions.add_all(np.array([], np.int64))
    assert positions.has_all(np.array([98, 7, 0]))
    assert not positions.has_all(np.array([7, 8]))


@pytest.mark.parametrize("count", [0, 1, 8, 9])
def test_position_set_full_contains_everything(count):
    assert all(p in PositionSet(count, full=True) for p in (-1, 0, 7, 1000))
    assert not any(p in PositionSet(count) for p in (-1, 0, 7, 1000))


def test_position_set_loses_nothing_between_threads():
    positions = PositionSet(80_000)

    def add(first):
        for position in range(first, 80_000, 8):
            positions.add(position)

    threads = [threading.Thread(target=add, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(position in positions for position in range(80_000))


def test_check_verify_takes_words_and_booleans():
    assert [check_verify(value) for value in (True, False, "first")] == ["always", "never", "first"]
    for wrong in ("sometimes", None, 1):
        with pytest.raises(OptionError, match="verify"):
            check_verify(wrong)


def test_compared_members_starts_by_mode():
    assert 3 in compared_members("never", 9, True)
    assert 3 in compared_members("always", 9, False)
    for mode, kept in (("first", True), ("always", False)):
        members = compared_members(mode, 9, True)
        assert 3 not in members
        members.add(3)
        assert (3 in members) is kept
