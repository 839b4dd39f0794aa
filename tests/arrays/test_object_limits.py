"""Limits of object arrays: what a short pickle can make a reader do."""

import itertools
import pickle
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from support.object_arrays import crafted, objects, open_array, open_stream

from imagearchive.arrays import npy
from imagearchive.arrays.objects.array import ObjectArray
from imagearchive.errors import DecodeError, LimitError, SampleIndexError
from imagearchive.storage.local import MemoryStorage

DEEP = 20_000
# The number of the first memo entry that an element makes.
NEXT_MEMO = 0x13


def with_tables(stream):
    """Return an `ObjectArray` of one element, whose tables someone else made."""
    tables = {
        "starts": np.array([0, len(stream)], np.uint64),
        "bases": np.zeros(1, np.uint32),
        "memo_ids": np.zeros(0, np.uint32),
        "memo_bases": np.zeros(0, np.uint32),
        "memo_starts": np.zeros(0, np.uint64),
        "memo_ends": np.zeros(0, np.uint64),
    }
    return ObjectArray(MemoryStorage(stream), 0, (1,), "file.npz: 'x.npy'", tables)


def nested_arrays(levels):
    """Return the pickle of arrays within arrays; pickle itself cannot write that many."""
    stream = pickle.dumps(objects([None]), protocol=2)[2:-1]
    place = stream.rindex(b"Na")
    return stream[:place] * levels + b"N" + stream[place + 1 :] * levels


def nested_dtypes(levels):
    """Return the pickle of a structured dtype within a structured dtype, and so on."""
    make = b"cnumpy\ndtype\nX\2\0\0\0V1K\0K\1\x87R"
    parts = [b"cnumpy\ndtype\nX\2\0\0\0i1K\0K\1\x87R(K\3X\1\0\0\0|NNNK\1K\1K\0tb"]
    x = b"X\1\0\0\0x"
    for level in range(levels):
        memo = level.to_bytes(4, "little")
        parts += b"r", memo, b"0", make, b"(K\3X\1\0\0\0|N", x, b"\x85}", x
        parts += b"j", memo, b"K\0\x86sK\1K\1K\0tb"
    return b"".join(parts)


@pytest.mark.parametrize(
    "stream",
    [
        b"]" * DEEP + b"a" * (DEEP - 1),
        b")" + b"\x85" * DEEP,
        b"N" + b"\x85" * DEEP,
        b"}" + b"K\1}" * DEEP + b"s" * DEEP,
        nested_arrays(260),
        nested_dtypes(300),
        nested_dtypes(DEEP),
    ],
    ids=["lists", "tuples", "tuples of None", "dicts", "arrays", "dtypes", "many dtypes"],
)
def test_object_array_nesting_is_limited_with_saved_tables(stream):
    array = with_tables(stream)
    with pytest.raises((LimitError, DecodeError), match=r"nested more than 256|nests too deeply"):
        array.element(0)
    with pytest.raises((LimitError, DecodeError), match=r"nested more than 256|nests too deeply"):
        array.whole()


def test_object_array_250_levels_are_read():
    value = 1
    for _ in range(249):
        value = [value]
    array = open_array(objects([value, value]), 4)
    assert array.element(1) == value
    assert array.whole()[1] == value


def test_object_array_lists_filled_after_they_were_referred_to_are_limited():
    count = 3000
    body = b"]\x94" * count
    for i in range(count - 2, -1, -1):
        body += b"j" + (NEXT_MEMO + i).to_bytes(4, "little") + b"a0"
    body = b"(" + body + b"0j" + (NEXT_MEMO + count - 1).to_bytes(4, "little") + b"t"
    stream = crafted(body)
    with pytest.raises(LimitError, match="nested"):
        open_stream(stream, (1,)).element(0)


def test_object_array_elements_that_are_one_object_are_shared():
    value = np.arange(100_000)
    array = open_array(objects([value] * 1000), 4)
    tracemalloc.start()
    whole = array.whole()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(one is whole[0] for one in whole)
    assert np.array_equal(whole[999], value)
    assert peak < 20 * value.nbytes
    # An element by itself is the reader's own.
    assert array.element(0) is not array.element(0)


@pytest.mark.parametrize("order", [1, -1])
def test_object_array_rows_that_are_one_object_are_shared(order):
    value = [*range(1000)]
    array = open_array(objects([None, *[value] * 1000]), 4)
    rows = array.rows(np.arange(2, 1001)[::order])
    assert len({id(row) for row in rows}) == 1
    assert rows[0] == value


def test_object_array_rows_with_several_axes_share_their_objects():
    value = [*range(1000)]
    array = open_array(objects([value] * 600, (200, 3)), 4)
    rows = array.rows(np.array([7, 199, 7]))
    assert rows.shape == (3, 3)
    assert len({id(item) for item in rows.ravel()}) == 1


def test_object_array_rows_out_of_range_raise():
    array = open_array(objects([1, 2, 3]), 4)
    assert array.rows(np.array([], np.intp)).shape == (0,)
    for wrong in (-1, 3):
        with pytest.raises(SampleIndexError, match=f"row {wrong} is out of range"):
            array.rows(np.array([0, wrong, 1]))


@pytest.mark.parametrize("dtype", ["<U0", "|S0", "|V0"])
def test_object_array_elements_of_no_bytes_are_limited(dtype):
    small = np.empty(1, object)
    small[0] = np.ndarray((7,), dtype)
    assert open_array(small, 4).element(0).shape == (7,)
    stream = pickle.dumps(small, protocol=2)
    large = stream.replace(b"K\x07\x85", b"J\x00\xca\x9a\x3b\x85")
    assert large != stream
    with pytest.raises(DecodeError, match="no bytes"):
        open_stream(large, (1,)).element(0)


@pytest.mark.parametrize("descr", ["<U0", "|S0", "|V0"])
def test_npy_header_elements_of_no_bytes_are_limited(descr):
    for count in (7, 10**9, 2**40):
        text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': ({count},), }}\n".encode()
        data = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text
        if count == 7:
            assert npy.parse_header(data, where="x").count == 7
        else:
            with pytest.raises(LimitError, match="zero bytes"):
                npy.parse_header(data, where="x")


def test_object_array_keys_are_weighed_together():
    """A tuple remembers no hash, so a large key must not be used again and again."""
    body = b"(" + b"N" * 1000 + b"t\x94"
    body += b"(" + b"j" + NEXT_MEMO.to_bytes(4, "little")
    body += (b"j" + NEXT_MEMO.to_bytes(4, "little")) * 90 + b"t\x94"
    key = b"j" + (NEXT_MEMO + 1).to_bytes(4, "little")
    body = body + b"0" + b"0" + b"}(" + (key + b"N") * 500 + b"u"
    with pytest.raises(DecodeError, match="too many values"):
        open_stream(crafted(body), (1,)).element(0)
    few = body.replace((key + b"N") * 500, (key + b"N") * 3)
    assert len(open_stream(crafted(few), (1,)).element(0)) == 1


@pytest.mark.parametrize("kind", [dict.fromkeys, OrderedDict.fromkeys, set, frozenset])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "keys",
    [
        [(2**61 - 1) * number for number in range(3000)],
        list(itertools.islice(itertools.product((-1, -2), repeat=12), 3000)),
    ],
    ids=["ints", "tuples"],
)
def test_object_array_keys_that_share_a_hash_are_limited(keys, protocol, kind):
    array = open_array(objects([kind(keys)]), protocol)
    with pytest.raises(LimitError, match="more than 64 keys that share one hash"):
        array.element(0)


@pytest.mark.parametrize("kind", [dict.fromkeys, OrderedDict.fromkeys, set, frozenset])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "make",
    [lambda number: (number, str(number)), int, str, lambda number: number / 8, lambda n: n << 70],
    ids=["tuples", "ints", "strings", "floats", "long-ints"],
)
def test_object_array_large_dicts_and_sets_are_read(make, protocol, kind):
    value = kind([make(number) for number in range(20_000)])
    assert open_array(objects([value]), protocol).element(0) == value


def long_integer(number):
    data = number.to_bytes((number.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8b" + len(data).to_bytes(4, "little") + data


def memoized(keys):
    """Return opcodes that put keys into the memo, and one for each that gets it."""
    puts = b"".join(key + b"\x940" for key in keys)
    return puts, [b"j" + (NEXT_MEMO + i).to_bytes(4, "little") for i in range(len(keys))]


def tuple_of_shared_hash(number):
    """Return a tuple of 1,000 items; all have the same hash."""
    items = [b"J" + ((-1) - (number >> bit & 1)).to_bytes(4, "little", signed=True)
             for bit in range(10)]  # fmt: skip
    return b"(" + b"J\xff\xff\xff\xff" * 990 + b"".join(items) + b"t"


@pytest.mark.parametrize(
    ("keys", "dicts", "sets"),
    [
        ([long_integer((number << 61) - number) for number in range(16, 1000)], 1, 20_000),
        ([long_integer((number << 61) - number) for number in range(16, 1000)], 50, 1),
        ([long_integer(1 << 1_600_000)], 1, 50_000),
        (
            [long_integer((1 << 80_000) + ((number << 61) - number)) for number in range(40)],
            1,
            9000,
        ),
        ([tuple_of_shared_hash(number) for number in range(60)], 1, 20_000),
        ([tuple_of_shared_hash(number) for number in range(4)], 5000, 1),
    ],
    ids=["reset", "dicts", "long", "long-reset", "tuples", "tuples-in-dicts"],
)
def test_object_array_keys_that_are_slow_to_compare_are_limited(keys, dicts, sets):
    puts, gets = memoized(keys)
    one = b"}(" + b"".join(get + b"N" for get in gets) + b"u" + (gets[-1] + b"Ns") * sets
    with pytest.raises((LimitError, DecodeError), match=r"share one hash|too many|too often"):
        open_stream(crafted(puts + b"](" + one * dicts + b"e"), (1,)).element(0)


def test_object_array_keys_are_counted_for_each_dict():
    values = [{(-1, -2): row, **{(row, key): key for key in range(1500)}} for row in range(100)]
    assert open_array(objects([values]), 4).element(0) == values
