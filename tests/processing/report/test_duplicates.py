"""Groups of equal and similar hashes, against all pairs."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from imagearchive.processing.report.duplicates import (
    MAX_DISTANCE,
    bit_distances,
    equal_groups,
    join_pairs,
    similar_pairs,
)

hashes = st.integers(0, (1 << 64) - 1)


@st.composite
def near_hashes(draw):
    """Hashes of which some differ from others in a few bits."""
    found = draw(st.lists(hashes, min_size=1, max_size=8))
    for _ in range(draw(st.integers(0, 12))):
        bits = draw(st.lists(st.integers(0, 63), max_size=5))
        value = draw(st.sampled_from(found))
        for bit in bits:
            value ^= 1 << bit
        found.append(value)
    return found


@settings(max_examples=60)
@given(near_hashes())
def test_similar_pairs_near_hashes_are_those_of_all_pairs(values):
    expected = [
        [i, j]
        for i, j in itertools.combinations(range(len(values)), 2)
        if (values[i] ^ values[j]).bit_count() <= MAX_DISTANCE
    ]
    assert similar_pairs(np.array(values, np.uint64)).tolist() == expected


def test_similar_pairs_no_hashes_gives_no_pairs():
    assert similar_pairs(np.zeros(0, np.uint64)).shape == (0, 2)


@given(st.lists(st.tuples(hashes, hashes), min_size=1, max_size=10))
def test_bit_distances_pairs_equal_bit_count(pairs):
    first, second = (np.array(column, np.uint64) for column in zip(*pairs))
    expected = [(a ^ b).bit_count() for a, b in pairs]
    assert bit_distances(first, second).tolist() == expected


@given(st.lists(st.integers(0, 5), max_size=20))
def test_equal_groups_values_are_those_that_occur_twice(values):
    expected = [
        [i for i, value in enumerate(values) if value == one]
        for one in sorted(set(values))
        if values.count(one) > 1
    ]
    assert equal_groups(np.array(values, np.int64)) == expected


def test_join_pairs_chain_is_one_group():
    assert join_pairs([(5, 6), (1, 2), (2, 3), (3, 0)]) == [[0, 1, 2, 3], [5, 6]]
    assert join_pairs([]) == []
