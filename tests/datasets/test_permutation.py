"""`Permutation`: bijective, uniform, the same in every release."""

import pickle
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagearchive.datasets.permutation import (
    EXPLICIT_LIMIT,
    BlockPermutation,
    Permutation,
    permute_ranges,
)
from imagearchive.errors import OptionError, SampleIndexError

SIZES = st.one_of(
    st.integers(0, 40),
    st.integers(EXPLICIT_LIMIT - 3, EXPLICIT_LIMIT + 3),
    st.integers(EXPLICIT_LIMIT, 60_000),
)


def chi_square(counts):
    """(statistic - degrees of freedom) in standard deviations of the chi-square distribution."""
    counts = np.asarray(counts, float).ravel()
    expected = counts.sum() / len(counts)
    degrees = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees)


@settings(max_examples=60)
@given(SIZES, st.integers(-(2**70), 2**70), st.integers(0, 2**40))
def test_permutation_of_any_size_is_bijective(n, seed, epoch):
    order = Permutation(n, seed, epoch)
    values = order.take(np.arange(n))
    assert values.dtype == np.int64
    assert np.array_equal(np.sort(values), np.arange(n))


@pytest.mark.parametrize("n", [8193, 8281, 8282, 65_536, 65_537, 99_856, 250_001])
def test_permutation_around_squares_is_bijective(n):
    seen = np.zeros(n, bool)
    seen[Permutation(n, 9, 2).take(np.arange(n))] = True
    assert seen.all()


def test_permutation_random_access_agrees_with_take():
    for n in (7, EXPLICIT_LIMIT, 20_011):
        order = Permutation(n, 5, 3)
        whole = order.take(np.arange(n))
        assert list(order) == whole.tolist()
        assert len(order) == n
        for position in (0, 1, n // 2, n - 1, -1, -n):
            assert order[position] == whole[position]
        picked = np.array([[n - 1, 0], [3, 3]], np.uint32)
        assert np.array_equal(order.take(picked), whole[picked])
        assert np.array_equal(pickle.loads(pickle.dumps(order)).take(np.arange(n)), whole)
        with pytest.raises(SampleIndexError):
            order[n]
        with pytest.raises(IndexError):
            order.take(np.array([0, n]))


def test_permutation_of_2_to_the_62_is_in_range():
    n = 2**62
    order = Permutation(n, 1)
    ends = np.array([0, 1, n // 2, n - 2, n - 1])
    values = order.take(ends)
    assert len(set(values.tolist())) == 5
    assert ((values >= 0) & (values < n)).all()
    with pytest.raises(OptionError):
        Permutation(n + 1)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_permutation_of_few_elements_reaches_all_orders_equally_often(n):
    trials = 300 * len(list(permutations(range(n))))
    counts = Counter(tuple(Permutation(n, 1, epoch)) for epoch in range(trials))
    every = [counts[order] for order in permutations(range(n))]
    assert chi_square(every) < 4


@pytest.mark.parametrize("n", [6, 7, 8, 31])
def test_permutation_elements_are_equally_likely_at_every_position(n):
    counts = np.zeros((n, n))
    for epoch in range(4000):
        counts[np.arange(n), Permutation(n, 77, epoch).take(np.arange(n))] += 1
    # Rows and columns are fixed sums: (n - 1)**2 degrees of freedom.
    statistic = ((counts - 4000 / n) ** 2 / (4000 / n)).sum()
    degrees = (n - 1) ** 2
    assert abs(statistic - degrees) < 4.5 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("n", [EXPLICIT_LIMIT + 1, 10_000, 123_457])
def test_permutation_by_network_spreads_evenly(n):
    cells = 32
    positions = np.arange(n)
    pairs = np.zeros((cells, cells))
    steps = np.zeros(cells)
    fixed = 0
    for seed in range(12):
        values = Permutation(n, seed).take(positions)
        np.add.at(pairs, (positions * cells // n, values * cells // n), 1)
        difference = np.diff(values) % n
        steps += np.bincount(difference * cells // n, minlength=cells)
        fixed += int((values == positions).sum())
    assert abs(chi_square(pairs)) < 5
    assert abs(chi_square(steps)) < 5
    assert fixed < 12 + 5 * np.sqrt(12)


def test_permutation_of_neighboring_seeds_and_epochs_is_unrelated():
    n = 20_000
    first = Permutation(n, 0, 0).take(np.arange(n))
    for seed, epoch in ((1, 0), (0, 1), (1, 1), (-1, 0), (2**64, 0), (0, 2**64)):
        other = Permutation(n, seed, epoch).take(np.arange(n))
        assert (first == other).sum() < 12
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.04


def test_permutation_never_changes_between_releases():
    # Saved states carry positions of this order: change ORDER_VERSION if these must change.
    assert list(Permutation(8, 0, 0)) == [5, 0, 4, 7, 3, 1, 6, 2]
    assert Permutation(10**6, 1, 2).take(np.arange(4)).tolist() == [271856, 219854, 174385, 511571]


BLOCKS = st.tuples(st.integers(0, 600), st.integers(1, 90), st.integers(1, 12))


@settings(max_examples=150)
@given(BLOCKS, st.integers(-(2**70), 2**70), st.integers(0, 2**40))
def test_block_permutation_of_any_size_is_bijective(shape, seed, epoch):
    n, block_size, blocks_per_window = shape
    order = BlockPermutation(n, seed, epoch, block_size, blocks_per_window)
    values = order.take(np.arange(n))
    assert values.dtype == np.int64
    assert len(order) == n
    assert np.array_equal(np.sort(values), np.arange(n))
    again = pickle.loads(pickle.dumps(order)).take(np.arange(n)[::-1])
    assert np.array_equal(again[::-1], values)


@settings(max_examples=150)
@given(BLOCKS, st.integers(0, 2**64), st.integers(0, 100))
def test_block_permutation_windows_consist_of_whole_blocks(shape, seed, epoch):
    n, block_size, blocks_per_window = shape
    order = BlockPermutation(n, seed, epoch, block_size, blocks_per_window)
    sizes = []
    for number in range(order.windows):
        start, stop = order.window(number)
        assert (order.window_of(np.arange(start, stop)) == number).all()
        sizes.append(stop - start)
        values = np.sort(order.take(np.arange(start, stop)))
        # The samples of a window are runs of neighbors of at least one block, but for the rest.
        runs = 1 + np.count_nonzero(np.diff(values) != 1) if len(values) else 0
        assert runs <= -(-len(values) // block_size) + 2
        assert len(values) < blocks_per_window * block_size + block_size
    assert sum(sizes) == n
    assert max(sizes) - min(sizes) < 2 * block_size


def test_block_permutation_of_other_epochs_has_other_blocks():
    orders = [BlockPermutation(10_000, 1, epoch, 64, 8).take(np.arange(512)) for epoch in range(8)]
    assert len({tuple(order) for order in orders}) == 8
    # A block begins elsewhere each time.
    assert len({int(np.sort(order)[0]) % 64 for order in orders}) > 3


def test_block_permutation_every_sample_comes_at_every_time_equally_often():
    n, epochs = 60, 4000
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        counts[np.arange(n), BlockPermutation(n, 7, epoch, 8, 3).take(np.arange(n))] += 1
    assert abs(chi_square(counts)) < 6


def test_block_permutation_never_changes():
    order = BlockPermutation(1000, 5, 3, 10, 4)
    assert order.take(np.arange(5)).tolist() == [722, 719, 332, 331, 630]
    huge = BlockPermutation(10**15, 5, 3, 64, 16)
    assert huge.take(np.array([0, 10**15 - 1])).tolist() == [381803410206254, 921124530881710]
    with pytest.raises(SampleIndexError):
        order.take(np.array([1000]))
    with pytest.raises(OptionError, match="block_size must be at least 1, got 0"):
        BlockPermutation(5, 0, 0, 0, 1)


@given(
    sizes=st.lists(st.sampled_from([0, 1, 2, 5, 300, 8191, 8192, 8193]), max_size=12),
    seed=st.integers(-(2**130), 2**130),
    data=st.data(),
)
@settings(max_examples=30)
def test_permute_ranges_are_those_of_permutation(sizes, seed, data):
    epochs = data.draw(
        st.lists(st.integers(-(2**130), 2**130), min_size=len(sizes), max_size=len(sizes))
    )
    found = [order.tolist() for order in permute_ranges(sizes, seed, epochs)]
    assert found == [list(Permutation(n, seed, e)) for n, e in zip(sizes, epochs)]


def test_permute_ranges_many_empty_ranges_are_empty():
    sizes = [0] * 20_000
    assert [len(order) for order in permute_ranges(sizes, 1, sizes)] == sizes
