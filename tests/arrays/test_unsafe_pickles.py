"""Object arrays whose pickles contain more than plain data, or are damaged."""

import collections
import os
import pathlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.object_arrays import PROTOCOLS, crafted, objects, open_stream

from imagearchive.errors import (
    DecodeError,
    ImageArchiveError,
    LimitError,
    UnsafePickleError,
)


class Reduce:
    """Is pickled as a call of its first argument."""

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
def test_object_array_other_than_plain_data_is_refused(name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = objects([1, [{"x": EVIL[name]}], 3])
    stream = pickle.dumps(array, protocol=protocol)
    with pytest.raises(UnsafePickleError, match=r"file\.npz: 'x\.npy'.*offset \d+"):
        open_stream(stream, (3,)).element(1)
    assert os.listdir(tmp_path) == []


def test_object_array_refused_global_is_named():
    stream = pickle.dumps(objects([Reduce(os.system, ("true",))]), protocol=2)
    with pytest.raises(UnsafePickleError, match=r"posix\.system"):
        open_stream(stream, (1,))
    stream = pickle.dumps(objects(["posix", Reduce(os.system, ("true",))]), protocol=4)
    with pytest.raises(UnsafePickleError, match=r"posix\.system"):
        open_stream(stream, (2,))


# The first memo entry after the preamble.
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
def test_object_array_crafted_stream_is_refused(name):
    expected = UnsafePickleError if name in UNSAFE else (UnsafePickleError, DecodeError)
    with pytest.raises(expected):
        open_stream(crafted(HOSTILE[name]), (1,)).element(0)


def test_object_array_scalar_outside_unicode_is_refused():
    value = np.array(["ab"], "<U2")[0]
    stream = pickle.dumps(objects([value]), 4)
    assert open_stream(stream, (1,)).element(0) == value
    broken = stream.replace("ab".encode("utf-32-le"), b"a\0\0\0\xff\xff\xff\x7f")
    with pytest.raises(DecodeError, match="outside Unicode"):
        open_stream(broken, (1,)).element(0)


def test_object_array_value_changed_by_later_element_is_refused():
    # Element 1 appends to the list that is element 0: NumPy would show it in both.
    with pytest.raises(DecodeError, match="changes a complete value"):
        open_stream(crafted(b"]\x94h\x13K\x05a", 2), (2,))


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
def test_object_array_stream_beyond_limits_is_refused(body):
    with pytest.raises((LimitError, DecodeError)):
        open_stream(crafted(body), (1,))


def test_object_array_key_with_too_many_values_is_refused():
    # Each tuple holds the one before twice: 60 steps, 2**60 values.
    body = b"K\x01\x94" + b"".join(
        b"h" + bytes([i]) + b"\x86\x94" for i in range(NEXT_MEMO, NEXT_MEMO + 60)
    )
    value = open_stream(crafted(b"(" + body + b"t"), (1,)).element(0)
    assert value[0][0] is value[0][1]
    with pytest.raises(DecodeError, match="too many values"):
        open_stream(crafted(b"}(" + body + b"Nu"), (1,)).element(0)


def test_object_array_header_that_does_not_match_is_refused():
    array = objects([1, 2, 3])
    stream = pickle.dumps(array, protocol=4)
    for shape in ((2,), (4,), (2**62,), (), (3, 1)):
        with pytest.raises(DecodeError):
            open_stream(stream, shape)
    with pytest.raises(DecodeError):
        open_stream(pickle.dumps(np.zeros(3), protocol=4), (3,))
    with pytest.raises(DecodeError):
        open_stream(pickle.dumps([1, 2, 3], protocol=4), (3,))
    with pytest.raises(DecodeError):
        open_stream(b"", (0,))


def test_object_array_shape_with_huge_number_is_refused():
    stream = pickle.dumps(objects([1, 2, 3]), protocol=2)
    lie = stream.replace(
        b"K\x03\x85", b"\x8b" + (5000).to_bytes(4, "little") + b"\x7f" * 5000 + b"\x85"
    )
    assert lie != stream
    with pytest.raises(DecodeError, match="not that of an object array of shape"):
        open_stream(lie, (3,))


def all_elements(stream, count):
    found = open_stream(stream, (count,))
    return [found.element(i) for i in range(count)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_object_array_truncated_stream_is_refused(protocol):
    values = [np.arange(7, dtype=">i4"), {"a": [1.5, "x", b"y"]}, np.float32(2), (1, 2**80), "x"]
    stream = pickle.dumps(objects(values), protocol=protocol)
    for size in range(len(stream)):
        with pytest.raises(DecodeError):
            all_elements(stream[:size], 5)


@settings(max_examples=300)
@given(st.data())
def test_object_array_flipped_bytes_raise_our_errors(data):
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


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_object_array_random_opcodes_raise_our_errors(body):
    try:
        open_stream(crafted(body), (1,)).element(0)
    except ImageArchiveError:
        pass
