"""Brace patterns, whose paths are made when they are asked for."""

import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagearchive.storage.patterns import BracePaths, expand_paths

WORDS = st.lists(st.sampled_from(["a", "b", "", "x-y"]), min_size=2, max_size=4)
RANGES = st.tuples(st.integers(0, 120), st.integers(0, 30), st.integers(1, 4))


@st.composite
def patterns(draw):
    """Draw a pattern, and the paths that it names."""
    text, choices = "/data/", [["/data/"]]
    for number in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            words = draw(WORDS)
            text += "{" + ",".join(words) + "}"
            choices.append(words)
        else:
            low, more, width = draw(RANGES)
            first = str(low).zfill(width)
            text += f"{{{first}..{low + more}}}"
            choices.append([str(i).zfill(len(first)) for i in range(low, low + more + 1)])
        text += f"_{number}.tar"
        choices.append([f"_{number}.tar"])
    return text, ["".join(parts) for parts in itertools.product(*choices)]


@given(patterns(), st.data())
def test_brace_paths_are_those_of_the_product(drawn, data):
    text, expected = drawn
    found = expand_paths(text)
    assert found == expected
    assert list(found) == expected
    assert len(found) == len(expected)
    index = data.draw(st.integers(-len(expected), len(expected) - 1))
    assert found[index] == expected[index]
    assert found[index::2] == expected[index::2]
    assert expected[index] in found
    assert pickle.loads(pickle.dumps(found)) == expected
    with pytest.raises(IndexError):
        found[len(expected)]


def test_brace_paths_of_many_shards_take_no_memory():
    found = expand_paths("/data/train-{000000..999999}.tar")
    assert isinstance(found, BracePaths)
    assert found[-1] == "/data/train-999999.tar"
    assert len(pickle.dumps(found)) < 1000


def test_brace_paths_of_others_differ():
    assert expand_paths("/a{0..2}.tar") != expand_paths("/a{0..3}.tar")
    assert expand_paths("/a{0..1}.tar") != ["/a0.tar", "/a2.tar"]
    assert expand_paths("/a{0..1}.tar") != "/a0.tar"
