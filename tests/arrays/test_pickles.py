"""Object arrays against NumPy's own loading, and streams that want more than plain data."""

import collections
import io
import os
import pathlib
import pickle
import pickletools
import struct
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imagearchive.arrays import npy
from imagearchive.arrays.objects.allowed import GLOBALS
from imagearchive.arrays.objects.array import ObjectArray
from imagearchive.arrays.objects.indexer import LOOKAHEAD, PickleIndexer
from imagearchive.arrays.objects.symbols import is_allowed
from imagearchive.errors import (
    CorruptIndexError,
    DecodeError,
    ImageArchiveError,
    LimitError,
    SampleIndexError,
    UnsafePickleError,
)
from imagearchive.storage.local import MemoryStorage, PreadStorage

PROTOCOLS = [2, 3, 4, 5]


def objects(values, shape=None, order="C"):
    """An object array of exactly these values, whatever NumPy would make of them."""
    flat = np.empty(len(values), object)
    for i, value in enumerate(values):
        flat[i : i + 1] = [value] if not isinstance(value, np.ndarray) else wrapped(value)
    return flat if shape is None else flat.reshape(shape).copy(order)


def wrapped(value):
    cell = np.empty(1, object)
    cell[0] = value
    return cell


def opened(stream, shape):
    return ObjectArray(MemoryStorage(stream), 0, shape, "file.npz: 'x.npy'")


def opened_array(array, protocol):
    return opened(pickle.dumps(array, protocol=protocol), array.shape)


def same(a, b):
    """Equal in type, dtype, shape and value, all the way down; NaN equals itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.dtype == object:
            return all(same(x, y) for x, y in zip(a.ravel(), b.ravel()))
        return a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, dict):
        return list(map(repr, a)) == list(map(repr, b)) and all(
            same(x, y) for x, y in zip(a.values(), b.values())
        )
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return repr(a) == repr(b) if isinstance(a, complex) else a == b


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


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, max_size=6), st.sampled_from(PROTOCOLS))
def test_every_element_is_what_numpy_loads(values, protocol):
    array = objects(values)
    stream = pickle.dumps(array, protocol=protocol)
    expected = pickle.loads(stream)
    found = opened(stream, array.shape)
    for i in np.random.default_rng(0).permutation(len(array)).tolist():
        element = found.element(i)
        assert same(element, expected[i]), (element, expected[i])
        if isinstance(element, np.ndarray):
            assert element.flags.writeable
            assert element.flags.aligned


@settings(max_examples=60, deadline=None)
@given(
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    st.sampled_from("CF"),
    st.sampled_from(PROTOCOLS),
)
def test_shapes_and_orders(shape, order, protocol):
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
def test_rows_of_several_elements_cross_batches(shape, protocol):
    shared = ["shared"]
    kinds = [1, [2], [], (3, [4], 5, 6), [[7], 8], "text", {"k": [9]}, np.arange(3), (), shared]
    rng = np.random.default_rng(5)
    count = int(np.prod(shape))
    array = objects([kinds[k] for k in rng.integers(0, len(kinds), count)], shape)
    found = opened_array(array, protocol)
    assert len(found.tables["starts"]) == shape[0] + 1
    for i in (0, shape[0] // 2, shape[0] - 1):
        assert same(found.row(i), array[i])
    assert same(found.element(count - 1), array.flat[count - 1])
    assert same(found.whole(), array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_values_shared_between_elements(protocol):
    text, inner = "shared text", [1, ["deep"], {"k": (2, 3)}]
    image = np.arange(2000, dtype=np.uint8).reshape(20, 100)
    outer = [text, [text, inner], inner[1], image]
    array = objects([outer, inner, inner[1], outer[1], text, image, outer, (inner, image, text)])
    found = opened_array(array, protocol)
    for i in (7, 0, 3, 2, 1, 5, 4, 6):
        assert same(found.element(i), array[i])
    found.element(1).append("mine")
    found.element(5)[:] = 0
    assert same(found.element(1), inner)
    assert same(found.element(7), array[7])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_values_that_hold_themselves(protocol):
    a = [1]
    a.append(a)
    b = []
    t = (b, 2)
    b.append(t)
    array = objects([a, t, b, a])
    found = opened_array(array, protocol)
    for i in (0, 3):
        value = found.element(i)
        assert value[0] == 1
        assert value[1] is value
    value = found.element(1)
    assert value[1] == 2
    assert value[0][0][1] == 2
    assert found.element(2)[0][1] == 2


def test_an_array_that_holds_itself_is_refused():
    array = np.empty(2, object)
    array[0] = array
    with pytest.raises(DecodeError, match="before it is complete"):
        opened_array(array, 4).element(0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_more_elements_than_one_batch(protocol):
    values = [
        {"name": f"image_{i % 7}.png", "boxes": [[i, i + 0.5]] * (i % 4)} for i in range(2500)
    ]
    found = opened_array(objects(values), protocol)
    for i in (0, 999, 1000, 1001, 1999, 2000, 2499):
        assert found.element(i) == values[i]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_optimised_stream_is_read(protocol):
    array = objects([np.zeros((2, 2), np.uint8), ["a", "a"], "a", np.zeros(2, np.uint8)])
    stream = pickletools.optimize(pickle.dumps(array, protocol=protocol))
    found = opened(stream, array.shape)
    for i in range(4):
        assert same(found.element(i), array[i])


def test_what_python_2_wrote():
    stream = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02"
        b"U\x01bq\x03\x87q\x04Rq\x05(K\x01K\x02\x85q\x06cnumpy\ndtype\nq\x07U\x02O8q\x08K\x00K\x01"
        b"\x87q\tRq\n(K\x03U\x01|q\x0bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tq\x0cb\x89]q\r(U\x03"
        b"caf\xc3\xa9"[:-2]
        + b"h\x00h\x01K\x00\x85q\x0eh\x03\x87q\x0fRq\x10(K\x01K\x02\x85q\x11"
        b"h\x07U\x02u1q\x12K\x00K\x01\x87q\x13Rq\x14(K\x03h\x0bNNNJ\xff\xff\xff\xffJ\xff\xff\xff"
        b"\xffK\x00tq\x15b\x89U\x02\x01\xfftq\x16betq\x17b."
    )
    found = opened(stream, (2,))
    assert found.element(0) == "caf"
    assert found.element(1).tolist() == [1, 255]


def test_windows_of_any_size_find_the_same():
    rng = np.random.default_rng(1)
    values = [rng.integers(0, 255, rng.integers(0, 3000), np.uint8) for _ in range(30)]
    values += [["text" * n, {"k": n}] for n in range(200)]
    stream = pickle.dumps(objects(values), protocol=4)
    tables = []
    for size in (LOOKAHEAD, LOOKAHEAD + 1, 4096, len(stream)):
        indexer = PickleIndexer(len(stream), len(values))
        outcome = "more"
        while outcome == "more":
            outcome = indexer.feed(stream[indexer.position : indexer.position + size])
        assert outcome == ""
        tables.append([table.tolist() for table in indexer.tables()])
    assert all(table == tables[0] for table in tables)


def test_tables_are_kept_and_checked(tmp_path):
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
        # Tables that lie are an error or other elements, never worse.
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


def test_threads_share_one():
    array = objects([[i, np.full(50, i)] for i in range(200)])
    found = opened_array(array, 4)
    failures = []

    def work(seed):
        order = np.random.default_rng(seed).permutation(200).tolist()
        failures.extend(i for i in order if not same(found.element(i), array[i]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_two_lists_of_names_agree():
    for module, name in GLOBALS:
        assert is_allowed(module.encode(), name.encode())
    words = sorted({word for names in GLOBALS for word in names})
    for module in words:
        for name in words:
            assert is_allowed(module.encode(), name.encode()) == ((module, name) in GLOBALS)


class Sparse:
    """A storage with a hole of zeros in it."""

    path = "sparse"

    def __init__(self, head, hole, tail):
        self.parts = (head, hole, tail)
        self.size = len(head) + hole + len(tail)

    def read(self, offset, size):
        head, hole, tail = self.parts
        if offset + size <= len(head):
            return head[offset : offset + size]
        found = bytearray(size)
        for place in range(offset, min(offset + size, len(head))):
            found[place - offset] = head[place]
        start = len(head) + hole
        for place in range(max(offset, start), offset + size):
            found[place - offset] = tail[place - start]
        return bytes(found)


def test_offsets_beyond_four_gibibytes():
    stream = crafted(b"\x8e" + struct.pack("<Q", 5 << 30) + b"HOLE" + b"\x8c\x03end", 2)
    head, tail = stream.split(b"HOLE")
    storage = Sparse(head, 5 << 30, tail)
    found = ObjectArray(storage, 0, (2,), "sparse")
    assert found.element(1) == "end"
    assert found.tables["starts"][1] > 5 << 30


# --- hostile streams ------------------------------------------------------------------------


class Reduce:
    """Pickles as a call of its first argument."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def touch(path):
    raise AssertionError("executed")


EVIL = {
    "os.system": Reduce(os.system, ("touch {mark}",)),
    "eval": Reduce(eval, ("__import__('os').mkdir('{mark}')",)),
    "exec": Reduce(exec, ("raise SystemExit",)),
    "getattr": Reduce(getattr, ("x", "upper")),
    "numpy.load": Reduce(np.load, ("{mark}",)),
    "numpy.fromfile": Reduce(np.fromfile, ("{mark}",)),
    "numpy.frombuffer": Reduce(np.frombuffer, (b"abc",)),
    "numpy.memmap": Reduce(np.memmap, ("{mark}",)),
    "own function": Reduce(touch, ("x",)),
    "class": collections.Counter,
    "instance": Reduce(object, ()),
    "path": pathlib.PurePosixPath("/x"),
    "range": range(3),
    "masked": np.ma.array([1]),
    "subclass": np.zeros(2).view(np.recarray),
    "type as data": np.ndarray,
    "dtype as data": np.dtype,
    "function as data": np.zeros,
    "state": Reduce(list, (), {"a": 1}),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", EVIL)
def test_anything_but_plain_data_is_refused(name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = objects([1, [{"x": EVIL[name]}], 3])
    stream = pickle.dumps(array, protocol=protocol)
    with pytest.raises(UnsafePickleError, match=r"file\.npz: 'x\.npy'.*offset \d+"):
        opened(stream, (3,)).element(1)
    assert os.listdir(tmp_path) == []


def test_the_refused_name_is_told():
    stream = pickle.dumps(objects([Reduce(os.system, ("true",))]), protocol=2)
    with pytest.raises(UnsafePickleError, match=r"posix\.system"):
        opened(stream, (1,))
    stream = pickle.dumps(objects(["posix", Reduce(os.system, ("true",))]), protocol=4)
    with pytest.raises(UnsafePickleError, match=r"posix\.system"):
        opened(stream, (2,))


def crafted(body, count=1, protocol=4):
    """The stream of an object array whose elements are these opcodes."""
    stream = pickle.dumps(objects([None] * count), protocol=protocol)
    if protocol >= 4:
        stream = stream[:2] + stream[11:]  # without its frame
    tail = stream.index(b"]\x94") + 2
    if count == 1:
        assert stream[tail : tail + 2] == b"Na"
        return stream[:tail] + b"(" + body + b"e" + stream[tail + 2 :]
    return stream[:tail] + b"(" + body + stream[tail + 1 + count :]


# What the preamble leaves for the elements.
NEXT_MEMO = 0x13
MAKE = b"cnumpy.core.multiarray\n_reconstruct\n"

HOSTILE = {
    "NEWOBJ_EX": b"cnumpy\nndarray\n)}\x92",
    "NEWOBJ": b"cnumpy\nndarray\n)\x81",
    "INST": b"(ios\nsystem\n",
    "OBJ": b"(cnumpy\nndarray\no",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"Pabc\n",
    "BINPERSID": b"NQ",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"N\x98",
    "GLOBAL": b"cos\nsystem\nX\x04\x00\x00\x00true\x85R",
    "GLOBAL with a dot": b"cnumpy\nndarray.tofile\n",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93",
    "STACK_GLOBAL from the memo": b"\x8c\x02os\x940\x8c\x06system\x940h\x13h\x14\x93",
    "STACK_GLOBAL of numbers": b"K\x01K\x02\x93",
    "STACK_GLOBAL of a changed word": b"\x8c\x05numpy\x8c\x04load\x93",
    "call of data": b"]K\x01\x85R",
    "ndarray called": b"cnumpy\nndarray\nK\x01\x85\x85R",
    "reconstruct of dtype": MAKE + b"cnumpy\ndtype\nK\x00\x85C\x01b\x87R",
    "array without state": MAKE + b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R",
    "dtype without state": b"cnumpy\ndtype\n\x8c\x02u1\x89\x88\x87R",
    "global in a tuple": b"cnumpy\nndarray\n\x85",
    "global kept in a tuple": b"cnumpy\nndarray\n\x85\x940Nh\x13\x86",
    "state of a list": b"]K\x01b",
    "state of a dict": b"}}b",
    "endless name": b"c" + b"a" * 700,
    "unknown opcode": b"\xff",
    "protocol 0": b"I1\n",
    "dup": b"]2",
    "unset memo": b"h\xee",
    "bad scalar": b"cnumpy.core.multiarray\nscalar\nNC\x01b\x86R",
    "object scalar": b"cnumpy.core.multiarray\nscalar\nh\x0fC\x08bbbbbbbb\x86R",
    "encode otherwise": b"c_codecs\nencode\n\x8c\x01a\x8c\x05rot13\x86R",
    "huge bytes": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    "huge bytearray": b"\x96\xff\xff\xff\xff\xff\xff\xff\xff",
    "huge long": b"\x8b\xff\xff\xff\x7f",
    "bytearray of a number": b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R",
    "unhashable": b"}]K\x01s",
    "unhashable in a set": b"\x8f(]\x90",
    "odd items": b"}(K\x01u",
    "bad utf-8": b"\x8c\x02\xff\xfe",
    "pops the list": b"00000000",
    "closes the list": b"e(",
}


UNSAFE = [name for name in HOSTILE if name.split()[0].isupper() and "numbers" not in name]


@pytest.mark.parametrize("name", HOSTILE)
def test_crafted_streams_end_in_our_error(name):
    expected = UnsafePickleError if name in UNSAFE else (UnsafePickleError, DecodeError)
    with pytest.raises(expected):
        opened(crafted(HOSTILE[name]), (1,)).element(0)


def test_a_value_changed_by_a_later_element_is_refused():
    # Element 1 appends to the list that is element 0: NumPy would show it in both.
    with pytest.raises(DecodeError, match="changes a complete value"):
        opened(crafted(b"]\x94h\x13K\x05a", 2), (2,))


@pytest.mark.parametrize(
    "body",
    [
        b"(" * 300 + b"t" * 300,
        b"]" * 300 + b"a" * 299,
        b"K\x01" + b"\x85" * 300,
        b"r\xff\xff\xff\x7f",
        b"Nr\xff\xff\xff\x7f",
    ],
)
def test_limits(body):
    with pytest.raises((LimitError, DecodeError)):
        opened(crafted(body), (1,))


def test_keys_that_would_hash_for_ever_are_refused():
    # Each tuple holds the one before twice: 60 steps, 2**60 values.
    body = b"K\x01\x94" + b"".join(
        b"h" + bytes([i]) + b"\x86\x94" for i in range(NEXT_MEMO, NEXT_MEMO + 60)
    )
    value = opened(crafted(b"(" + body + b"t"), (1,)).element(0)
    assert value[0][0] is value[0][1]
    with pytest.raises(DecodeError, match="too many values"):
        opened(crafted(b"}(" + body + b"Nu"), (1,)).element(0)


def test_counts_and_headers_that_lie():
    array = objects([1, 2, 3])
    stream = pickle.dumps(array, protocol=4)
    for shape in ((2,), (4,), (2**62,), (), (3, 1)):
        with pytest.raises(DecodeError):
            opened(stream, shape)
    with pytest.raises(DecodeError):
        opened(pickle.dumps(np.zeros(3), protocol=4), (3,))
    with pytest.raises(DecodeError):
        opened(pickle.dumps([1, 2, 3], protocol=4), (3,))
    with pytest.raises(DecodeError):
        opened(b"", (0,))


def test_a_shape_too_long_to_print():
    stream = pickle.dumps(objects([1, 2, 3]), protocol=2)
    lie = stream.replace(
        b"K\x03\x85", b"\x8b" + (5000).to_bytes(4, "little") + b"\x7f" * 5000 + b"\x85"
    )
    assert lie != stream
    with pytest.raises(DecodeError, match="not that of an object array of shape"):
        opened(lie, (3,))


def all_elements(stream, count):
    found = opened(stream, (count,))
    return [found.element(i) for i in range(count)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_truncated_streams(protocol):
    values = [np.arange(7, dtype=">i4"), {"a": [1.5, "x", b"y"]}, np.float32(2), (1, 2**80), "x"]
    stream = pickle.dumps(objects(values), protocol=protocol)
    for size in range(len(stream)):
        with pytest.raises(DecodeError):
            all_elements(stream[:size], 5)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes(data):
    values = [np.arange(7, dtype=">i4"), {"a": [1.5, "x", b"y"]}, np.float32(2), (1, 2**80), "x"]
    values += [np.array(["2020"], "M8[D]"), np.zeros(2, [("a", "i4"), ("b", "f4", (2,))])]
    stream = bytearray(
        pickle.dumps(objects(values), protocol=data.draw(st.sampled_from(PROTOCOLS)))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(stream) - 1))
        stream[position] ^= data.draw(st.integers(1, 255))
    try:
        all_elements(bytes(stream), len(values))
    except ImageArchiveError:
        pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_random_opcodes(body):
    try:
        opened(crafted(body), (1,)).element(0)
    except ImageArchiveError:
        pass
