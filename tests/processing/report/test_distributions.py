"""Histograms and summaries, against NumPy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from imagearchive.processing.report.distributions import (
    bin_edges,
    count_values,
    distribution,
    histogram,
    size_grid,
    spread,
)

values_of = st.lists(
    st.integers(1, 10**7) | st.floats(0.001, 1e9, allow_nan=False), min_size=1, max_size=50
)


@given(values_of)
def test_histogram_counts_every_value_once(values):
    array = np.array(values, np.float64)
    edges, counts = histogram(array)
    assert sum(counts) == len(values)
    assert edges[0] <= array.min()
    assert edges[-1] >= array.max()
    assert len(edges) == len(counts) + 1
    if len(counts) > 1:
        assert (np.diff(edges) > 0).all()
        assert counts == np.histogram(array, edges)[0].tolist()


@given(values_of)
def test_distribution_values_equal_numpy(values):
    array = np.array(values, np.float64)
    found = distribution(array)
    assert found[:4] == (array.min(), np.median(array), array.mean(), array.max())


def test_distribution_no_values_is_none():
    assert distribution(np.zeros(0)) is None
    assert size_grid(np.zeros(0), np.zeros(0)) is None


def test_bin_edges_wide_range_is_logarithmic():
    assert np.allclose(np.diff(np.log(bin_edges(1, 1e6))), np.log(1e6) / 32)
    assert np.allclose(np.diff(bin_edges(300, 640)), 20)


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=40))
def test_size_grid_sizes_equal_numpy(sizes):
    widths, heights = np.array(sizes).T
    grid = size_grid(widths, heights)
    assert sum(map(sum, grid.counts)) == len(sizes)
    if min(len(grid.width_edges), len(grid.height_edges)) > 2:
        expected, _, _ = np.histogram2d(heights, widths, [grid.height_edges, grid.width_edges])
        np.testing.assert_array_equal(grid.counts, expected)


def test_count_values_most_frequent_is_first():
    assert list(count_values([3, 1, 3, 2, 1, 3]).items()) == [("3", 3), ("1", 2), ("2", 1)]


@given(st.integers(0, 500), st.none() | st.integers(2, 60))
def test_spread_integers_are_distinct_and_include_both_ends(count, most):
    chosen = spread(count, most)
    assert len(chosen) == (count if most is None else min(count, most))
    assert sorted(set(chosen)) == chosen
    assert not count or (chosen[0], chosen[-1]) == (0, count - 1)
