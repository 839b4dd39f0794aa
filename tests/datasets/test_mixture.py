"""`Mixture`: exact ratios, every sample once per pass, no state."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagearchive import Mixture
from imagearchive.errors import OptionError, OptionTypeError, SampleIndexError

weights = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5)


@given(weights, st.integers(0, 10**12))
def test_mixture_counts_are_the_weights_times_m_up_to_two(shares, m):
    mixture = Mixture([range(7)] * len(shares), shares, length=10)
    counts = mixture.counts(m)
    assert sum(counts) == m
    for count, share in zip(counts, shares):
        # Weights are rounded to fractions.
        assert abs(count - m * share / sum(shares)) < 2 + m * 2e-3


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data())
def test_mixture_locate_agrees_with_counts(sizes, data):
    shares = [data.draw(st.integers(1, 5)) for _ in sizes]
    mixture = Mixture([range(size) for size in sizes], shares, shuffle=False)
    seen = [0] * len(sizes)
    for index in range(len(mixture)):
        number, inner = mixture.locate(index)
        assert inner == seen[number] % sizes[number]
        seen[number] += 1
        assert mixture.counts(index + 1) == seen
        assert abs(seen[number] - (index + 1) * shares[number] / sum(shares)) < 2
    # By default, each dataset is read to its end.
    assert all(count >= size for count, size in zip(seen, sizes))


def test_mixture_shuffled_has_each_sample_once_per_pass_in_another_order():
    mixture = Mixture([range(50), range(10)], [1, 1], length=400)
    rows = [mixture.locate(i) for i in range(400)]
    second = [inner for number, inner in rows if number == 1]
    passes = [second[k : k + 10] for k in range(0, 200, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) > 15
    assert rows == [
        Mixture([range(50), range(10)], [1, 1], length=400).locate(i) for i in range(400)
    ]
    other = Mixture([range(50), range(10)], [1, 1], length=400, seed=1)
    assert rows != [other.locate(i) for i in range(400)]


def test_mixture_is_a_sequence_and_can_be_pickled():
    mixture = Mixture([list("abc"), list("xyz")], [2, 1])
    again = pickle.loads(pickle.dumps(mixture))
    assert list(again) == list(mixture) == mixture.__getitems__(range(len(mixture)))
    assert mixture[-1] == mixture[len(mixture) - 1]
    with pytest.raises(SampleIndexError):
        mixture[len(mixture)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "at least one dataset"),
        (([range(3)], [1, 2]), "must have 1 number, one for each dataset, got 2"),
        (([range(3)], [0]), "weights"),
        (([range(3)], ["1"]), "weights"),
        (([range(3), range(0)], [1, 1]), r"datasets\[1\] has no samples"),
        (([range(3)], [1e-9]), "at least 1/1000000"),
        (([range(3)], 1), "weights"),
    ],
)
def test_mixture_wrong_arguments_raise(arguments, message):
    with pytest.raises((OptionError, OptionTypeError), match=message):
        Mixture(*arguments)
