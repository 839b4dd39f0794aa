"""The native join of keys, against Python's dictionaries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagearchive.errors import CorruptIndexError
from imagearchive.index.key_join import SortedKeys, match_names
from imagearchive.index.name_order import sort_names
from imagearchive.index.names import take_parts


def columns(names):
    offsets = np.zeros(len(names) + 1, np.uint64)
    np.cumsum([len(name) for name in names], out=offsets[1:])
    return np.frombuffer(b"".join(names), np.uint8), offsets


def sorted_keys(keys, groups=None):
    text, offsets = columns(keys)
    order = sort_names(text, offsets)
    return SortedKeys(text, offsets, order, None if groups is None else np.array(groups, np.int64))


keys = st.lists(st.binary(max_size=3), max_size=30)


@given(keys, keys)
def test_find_in_finds_the_first_equal_key(own, others):
    found = sorted_keys(own).find_in(sorted_keys(others))
    assert found.tolist() == [others.index(key) if key in others else -1 for key in own]


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=1)), max_size=20).map(sorted))
def test_find_in_and_repeated_tell_groups_apart(pairs):
    groups, names = [group for group, _ in pairs], [name for _, name in pairs]
    own = sorted_keys(names, groups)
    assert own.find_in(own).tolist() == [pairs.index(pair) for pair in pairs]
    again = sorted((i - 1, i) for i in range(1, len(pairs)) if pairs[i] == pairs[i - 1])
    assert sorted(map(tuple, own.repeated().tolist())) == again


@given(st.lists(st.text("ab/.", max_size=6).map(str.encode), max_size=20))
def test_match_names_of_a_repeated_key_agrees_with_python(names):
    rows, starts, ends, _ = match_names(*columns(names), [b"a", b"/", b".B"], False)
    wanted = []
    for row, name in enumerate(names):
        key = name[1 : 1 + (len(name) - 4) // 2]
        if key and (b"a" + key + b"/" + key) == name[:-2] and name[-2:].lower() == b".b":
            wanted.append((row, key))
    text, offsets = take_parts(columns(names)[0], starts, ends)
    found = [text[a:b].tobytes() for a, b in zip(offsets[:-1], offsets[1:])]
    assert list(zip(rows.tolist(), found)) == wanted


def test_join_refuses_columns_that_do_not_fit():
    text, offsets = columns([b"ab", b"c"])
    good = np.arange(2, dtype=np.uint64)
    for order, groups in [
        (good[:1], None),
        (np.array([0, 2], np.uint64), None),
        (good, np.zeros(1, np.int64)),
    ]:
        with pytest.raises(CorruptIndexError):
            SortedKeys(text, offsets, order, groups)
    with pytest.raises(CorruptIndexError):
        SortedKeys(text, offsets + np.uint64(1), good)
    for starts, ends in [([0, 3], [1, 4]), ([4, 0], [4, 0]), ([0, 1], [1, 0]), ([0], [])]:
        with pytest.raises(CorruptIndexError):
            take_parts(text, np.array(starts, np.uint64), np.array(ends, np.uint64))


@pytest.mark.parametrize("literals", [[b"a"], [b""] * 10])
def test_match_names_without_a_key_or_with_too_many_raises(literals):
    with pytest.raises(ValueError, match="1 to 8 keys"):
        match_names(*columns([b"a"]), literals, False)
