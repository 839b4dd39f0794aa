"""`Lookup.file_ranges`: where members are, in the order of the files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagearchive.containers.rows import ENTRY_DTYPE
from imagearchive.errors import SampleIndexError
from imagearchive.index.lookup import Lookup

LARGEST = 2**63 - 1
NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
ROWS = st.lists(st.tuples(st.integers(0, 3), NUMBERS, NUMBERS), min_size=1, max_size=40)


def make_lookup(rows):
    entries = np.zeros(len(rows), ENTRY_DTYPE)
    for name, column in zip(("shard", "offset", "stored_size"), zip(*rows)):
        entries[name] = np.array(column, np.uint64)
    offsets, order = np.zeros(len(rows) + 1, np.uint64), np.arange(len(rows), dtype=np.uint64)
    return Lookup(entries, np.zeros(0, np.uint8), offsets, order)


def expected_ranges(rows, positions, gap):
    chosen = []
    for position in positions:
        shard, offset, size = rows[position]
        start = min(offset, LARGEST)
        chosen.append([shard, start, position % len(rows), min(start + size, LARGEST)])
    files = {}
    for shard, start, position, end in sorted(chosen):
        ranges = files.setdefault(shard, (position, []))[1]
        if gap is not None and ranges and start - ranges[-1][1] <= gap:
            ranges[-1][1] = max(ranges[-1][1], end)
        else:
            ranges.append([start, end])
    return [(shard, *files[shard]) for shard in sorted(files)]


def listed(found):
    return [
        (shard, position, np.stack([starts, ends], 1).tolist())
        for shard, position, starts, ends in found
    ]


@given(ROWS, st.data(), st.one_of(st.none(), st.integers(0, 100)))
def test_file_ranges_equal_sorted_and_joined_rows(rows, data, gap):
    within = st.integers(-len(rows), len(rows) - 1)
    positions = data.draw(st.lists(within, max_size=60))
    found = make_lookup(rows).file_ranges(np.array(positions, np.int64), gap)
    assert listed(found) == expected_ranges(rows, positions, gap)


def test_file_ranges_of_many_positions_equal_sorted_rows():
    rng = np.random.default_rng(5)
    rows = [(int(shard), int(offset), 9) for shard, offset in rng.integers(0, 50, (3000, 2))]
    positions = rng.permutation(3000)
    found = make_lookup(rows).file_ranges(positions)
    assert listed(found) == expected_ranges(rows, positions.tolist(), None)


@pytest.mark.parametrize("position", [-3, 2, 2**62])
def test_file_ranges_position_beyond_the_table_raises(position):
    lookup = make_lookup([(0, 0, 1), (0, 1, 1)])
    with pytest.raises(SampleIndexError, match=f"position {position} is out of range"):
        lookup.file_ranges(np.array([0, position]))
