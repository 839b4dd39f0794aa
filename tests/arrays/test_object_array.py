"""Object arrays against NumPy's own loading."""

import collections
import io
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.object_arrays import PROTOCOLS, crafted, objects, open_array, open_stream, same
from support.threads import run_in_threads

from imagearchive.arrays import npy
from imagearchive.arrays.objects.array import ObjectArray
from imagearchive.errors import (
    CorruptIndexError,
    DecodeError,
    ImageArchiveError,
    SampleIndexError,
)
from imagearchive.storage.local import MemoryStorage, PreadStorage

DTYPES = st.one_of(
    hnp.scalar_dtypes(),
    hnp.unicode_string_dtypes(max_len=5),
    hnp.byte_string_dtypes(max_len=5),
    hnp.datetime64_dtypes(),
    hnp.timedelta64_dtypes(),
    hnp.array_dtypes(subtype_strategy=hnp.scalar_dtypes(), max_size=3, allow_subarrays=True),
)
ARRAYS = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0)))
KEYS = st.one_of(
    st.integers(), st.text(), st.binary(), st.booleans(), st.none(), st.tuples(st.integers())
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**2100), max_value=2**2100),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(exclude_categories=[])),
    st.binary(),
    st.binary(min_size=600, max_size=700),
    st.binary().map(bytearray),
    st.sets(KEYS),
    st.frozensets(KEYS),
    ARRAYS,
    ARRAYS.map(np.asfortranarray),
    ARRAYS.map(np.transpose),
    ARRAYS.filter(lambda a: a.size > 0).map(lambda a: a.flat[0]),
    DTYPES,
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(st.text(), inner, max_size=3).map(collections.OrderedDict),
        st.lists(inner, max_size=3).map(objects),
    ),
    max_leaves=8,
)


@settings(max_examples=100)
@given(st.lists(VALUES, max_size=6), st.sampled_from(PROTOCOLS))
def test_object_array_element_matches_numpy(values, protocol):
    array = objects(values)
    stream = pickle.dumps(array, protocol=protocol)
    expected = pickle.loads(stream)
    found = open_stream(stream, array.shape)
    for i in np.random.default_rng(0).permutation(len(array)).tolist():
        element = found.element(i)
        assert same(element, expected[i]), (element, expected[i])
        if isinstance(element, np.ndarray):
            assert element.flags.writeable
            assert element.flags.aligned


@settings(max_examples=60)
@given(
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    st.sampled_from("CF"),
    st.sampled_from(PROTOCOLS),
)
def test_object_array_shapes_and_orders_match_numpy(shape, order, protocol):
    array = objects([[i, str(i)] for i in range(int(np.prod(shape)))], shape, order)
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|O", "fortran_order": order == "F", "shape": shape}
    )
    file.write(pickle.dumps(array, protocol=protocol))
    data = file.getvalue()
    header = npy.parse_header(data, where="x")
    expected = np.load(io.BytesIO(data), allow_pickle=True)
    found = ObjectArray(MemoryStorage(data), header.data_offset, header.shape, "x")
    flat = [found.element(i) for i in range(found.size)]
    assert flat == expected.ravel().tolist()
    if shape:
        for i in range(shape[0]):
            assert same(found.row(i), expected[i])
    with pytest.raises(SampleIndexError):
        found.element(found.size)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("shape", [(1, 1), (1001, 1), (7, 143), (2, 1000), (3, 5, 67)])
def test_object_array_rows_that_cross_batches_match(shape, protocol):
    shared = ["shared"]
    kinds = [1, [2], [], (3, [4], 5, 6), [[7], 8], "text", {"k": [9]}, np.arange(3), (), shared]
    rng = np.random.default_rng(5)
    count = int(np.prod(shape))
    array = objects([kinds[k] for k in rng.integers(0, len(kinds), count)], shape)
    found = open_array(array, protocol)
    assert len(found.tables["starts"]) == shape[0] + 1
    for i in (0, shape[0] // 2, shape[0] - 1):
        assert same(found.row(i), array[i])
    assert same(found.element(count - 1), array.flat[count - 1])
    assert same(found.whole(), array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_object_array_shared_values_are_copied_to_each_element(protocol):
    text, inner = "shared text", [1, ["deep"], {"k": (2, 3)}]
    image = np.arange(2000, dtype=np.uint8).reshape(20, 100)
    outer = [text, [text, inner], inner[1], image]
    array = objects([outer, inner, inner[1], outer[1], text, image, outer, (inner, image, text)])
    found = open_array(array, protocol)
    for i in (7, 0, 3, 2, 1, 5, 4, 6):
        assert same(found.element(i), array[i])
    found.element(1).append("mine")
    found.element(5)[:] = 0
    assert same(found.element(1), inner)
    assert same(found.element(7), array[7])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_object_array_recursive_values_are_decoded(protocol):
    a = [1]
    a.append(a)
    b = []
    t = (b, 2)
    b.append(t)
    array = objects([a, t, b, a])
    found = open_array(array, protocol)
    for i in (0, 3):
        value = found.element(i)
        assert value[0] == 1
        assert value[1] is value
    value = found.element(1)
    assert value[1] == 2
    assert value[0][0][1] == 2
    assert found.element(2)[0][1] == 2


def test_object_array_that_contains_itself_is_refused():
    array = np.empty(2, object)
    array[0] = array
    with pytest.raises(DecodeError, match="before it is complete"):
        open_array(array, 4).element(0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_object_array_longer_than_one_batch_is_decoded(protocol):
    values = [
        {"name": f"image_{i % 7}.png", "boxes": [[i, i + 0.5]] * (i % 4)} for i in range(2500)
    ]
    found = open_array(objects(values), protocol)
    for i in (0, 999, 1000, 1001, 1999, 2000, 2499):
        assert found.element(i) == values[i]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_object_array_optimized_pickle_is_decoded(protocol):
    array = objects([np.zeros((2, 2), np.uint8), ["a", "a"], "a", np.zeros(2, np.uint8)])
    stream = pickletools.optimize(pickle.dumps(array, protocol=protocol))
    found = open_stream(stream, array.shape)
    for i in range(4):
        assert same(found.element(i), array[i])


def test_object_array_pickle_of_python_2_is_decoded():
    stream = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02"
        b"U\x01bq\x03\x87q\x04Rq\x05(K\x01K\x02\x85q\x06cnumpy\ndtype\nq\x07U\x02O8q\x08K\x00K\x01"
        b"\x87q\tRq\n(K\x03U\x01|q\x0bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tq\x0cb\x89]q\r(U\x03"
        b"caf\xc3\xa9"[:-2]
        + b"h\x00h\x01K\x00\x85q\x0eh\x03\x87q\x0fRq\x10(K\x01K\x02\x85q\x11"
        b"h\x07U\x02u1q\x12K\x00K\x01\x87q\x13Rq\x14(K\x03h\x0bNNNJ\xff\xff\xff\xffJ\xff\xff\xff"
        b"\xffK\x00tq\x15b\x89U\x02\x01\xfftq\x16betq\x17b."
    )
    found = open_stream(stream, (2,))
    assert found.element(0) == "caf"
    assert found.element(1).tolist() == [1, 255]


def test_object_array_saved_tables_are_used_and_checked(tmp_path):
    array = objects([np.arange(i) for i in range(40)])
    np.save(tmp_path / "a.npy", array)
    with PreadStorage(tmp_path / "a.npy") as storage:
        header = npy.parse_header(storage, where="a")
        first = ObjectArray(storage, header.data_offset, header.shape, "a")
        again = ObjectArray(storage, header.data_offset, header.shape, "a", first.tables)
        for i in range(40):
            assert same(again.element(i), array[i])
        broken = dict(first.tables, starts=first.tables["starts"][:-1])
        with pytest.raises(CorruptIndexError):
            ObjectArray(storage, header.data_offset, header.shape, "a", broken)
        # Wrong tables give an error or other elements, nothing worse.
        rng = np.random.default_rng(0)
        for _ in range(200):
            lying = {name: table.copy() for name, table in first.tables.items()}
            for table in lying.values():
                if len(table):
                    table[rng.integers(len(table))] = rng.integers(0, storage.size * 2)
            liar = ObjectArray(storage, header.data_offset, header.shape, "a", lying)
            for i in range(40):
                try:
                    liar.element(i)
                except ImageArchiveError:
                    pass


def test_object_array_is_shared_by_threads():
    array = objects([[i, np.full(50, i)] for i in range(200)])
    found = open_array(array, 4)

    def work(seed):
        order = np.random.default_rng(seed).permutation(200).tolist()
        return [i for i in order if not same(found.element(i), array[i])]

    assert run_in_threads(work) == [[]] * 4


class Sparse:
    """A storage with a hole of zeros."""

    path = "sparse"

    def __init__(self, head, hole, tail):
        self.parts = (head, hole, tail)
        self.size = len(head) + hole + len(tail)

    def read(self, offset, size):
        head, hole, tail = self.parts
        if offset + size <= len(head):
            return head[offset : offset + size]
        found = bytearray(size)
        for i in range(offset, min(offset + size, len(head))):
            found[i - offset] = head[i]
        start = len(head) + hole
        for i in range(max(offset, start), offset + size):
            found[i - offset] = tail[i - start]
        return bytes(found)


def test_object_array_offsets_beyond_4_gib_are_found():
    stream = crafted(b"\x8e" + struct.pack("<Q", 5 << 30) + b"HOLE" + b"\x8c\x03end", 2)
    head, tail = stream.split(b"HOLE")
    storage = Sparse(head, 5 << 30, tail)
    found = ObjectArray(storage, 0, (2,), "sparse")
    assert found.element(1) == "end"
    assert found.tables["starts"][1] > 5 << 30
