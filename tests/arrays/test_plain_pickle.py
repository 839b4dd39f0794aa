"""Whole pickles of plain data, loaded without `pickle`."""

import pickle
import subprocess
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagearchive.arrays.objects.plain_pickle import load_plain_pickle
from imagearchive.errors import DecodeError, ImageArchiveError, LimitError, UnsafePickleError

PLAIN = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.frozensets(st.integers(), max_size=3),
    ),
    max_leaves=8,
)

# As cifar-10-batches-py/data_batch_1: protocol 2, written by Python 2.
BATCH = (
    b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x01K\x02eU\tfilenamesq\x0a]q\x0bU\x05a.pngq\x0caU\x04"
    b"dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87"
    b"Rq\x07(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\x09(K\x03U\x01|NNNJ\xff"
    b"\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04\x00\x01\xfe\xfftbu."
)


@given(PLAIN, st.integers(2, 5))
def test_load_plain_pickle_equals_pickle(value, protocol):
    assert load_plain_pickle(pickle.dumps(value, protocol), "x") == value


@pytest.mark.parametrize("protocol", range(2, 6))
def test_load_plain_pickle_of_arrays_equals_pickle(protocol):
    value = OrderedDict(
        data=np.arange(3000, dtype=np.uint8).reshape(30, 100),
        floats=np.ones((2, 3), ">f4", order="F"),
        scalar=np.float32(3),
    )
    loaded = load_plain_pickle(pickle.dumps(value, protocol), "x")
    assert list(loaded) == list(value)
    for name, array in value.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype.kind == array.dtype.kind


def test_load_plain_pickle_of_python_2_has_text_for_ascii():
    loaded = load_plain_pickle(BATCH, "x")
    assert list(loaded) == ["labels", "filenames", "data"]
    assert loaded["filenames"] == ["a.png"]
    expected = pickle.loads(BATCH, encoding="bytes")[b"data"]
    np.testing.assert_array_equal(loaded["data"], expected)
    assert loaded["data"].tolist() == [[0, 1], [254, 255]]


def test_load_plain_pickle_cut_anywhere_raises():
    for data in (BATCH, pickle.dumps({"a": [46, b"..", "x"], "b": (1, 2.5)}, 4)):
        for size in range(len(data)):
            with pytest.raises((DecodeError, UnsafePickleError)):
                load_plain_pickle(data[:size], "x")
        assert load_plain_pickle(data + b"rest", "x")


class Runs:
    def __reduce__(self):
        return subprocess.getoutput, ("touch executed",)


def test_load_plain_pickle_of_other_objects_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in range(6):
        with pytest.raises(UnsafePickleError):
            load_plain_pickle(pickle.dumps([Runs()], protocol), "x")
    with pytest.raises(UnsafePickleError):
        load_plain_pickle(pickle.dumps({"a": test_load_plain_pickle_cut_anywhere_raises}), "x")
    assert not (tmp_path / "executed").exists()


def test_load_plain_pickle_nested_too_deeply_raises():
    data = b"\x80\x02" + b"]" * 600 + b"a" * 599 + b"."
    with pytest.raises((LimitError, DecodeError), match=r"nested more than 256 levels|nests"):
        load_plain_pickle(data, "x")


@given(st.binary(max_size=60), st.integers(0, len(BATCH)))
def test_load_plain_pickle_of_any_bytes_raises_our_errors(extra, place):
    for data in (b"\x80\x04" + extra, BATCH[:place] + extra + BATCH[place:]):
        try:
            load_plain_pickle(data, "x")
        except ImageArchiveError:
            pass
