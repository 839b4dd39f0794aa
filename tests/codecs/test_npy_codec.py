"""``.npy`` members against NumPy."""

import io
import struct

import numpy as np
import pytest
from support.codecs import RNG, Danger

from imagearchive.codecs import decode, encode
from imagearchive.errors import (
    DecodeError,
    LimitError,
    UnsafePickleError,
)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24).reshape(2, 3, 4),
        np.asfortranarray(RNG.normal(size=(5, 7))),
        np.array(3.5),
        np.zeros((0, 3)),
        np.array(["a", "bc"]),
        np.arange(5, dtype=">u2"),
        np.zeros(3, [("x", "<f4"), ("y", "u1", (2,))]),
        np.ndarray(3, "<U0"),
        np.ndarray((2, 0), "|S0"),
    ],
)
def test_decode_npy_matches_numpy(array):
    target = io.BytesIO()
    np.save(target, array)
    for data in (target.getvalue(), memoryview(target.getvalue())):
        loaded = decode("x.npy", data)
        np.testing.assert_array_equal(loaded, array)
        assert loaded.dtype == array.dtype
        assert loaded.flags.writeable
    assert encode("x.npy", array) == target.getvalue()


def test_decode_npy_many_elements_of_zero_bytes_are_refused():
    for shape in ("(1000000000000,)", "(3, 1000000000000)"):
        target = io.BytesIO()
        header = f"{{'descr': '|V0', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        target.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        with pytest.raises(LimitError, match="elements of zero bytes"):
            decode("x.npy", target.getvalue())
    empty = np.zeros((0, 1 << 40), np.uint8)
    assert decode("x.npy", encode("x.npy", empty)).shape == empty.shape


def test_decode_npy_truncated_is_refused():
    data = encode("x.npy", np.arange(100))
    for length in range(0, len(data), 37):
        with pytest.raises(DecodeError, match=r"^x\.npy: "):
            decode("x.npy", data[:length])


def test_decode_npy_plain_objects_need_no_pickle():
    values = np.empty((2, 2), object)
    values[:] = [[1, "a"], [None, [1.5, (2, b"x")]]]
    target = io.BytesIO()
    np.save(target, values, allow_pickle=True)
    for options in ({}, {"allow_pickle": True}):
        loaded = decode("x.npy", target.getvalue(), **options)
        assert loaded.shape == (2, 2)
        assert loaded.tolist() == values.tolist()
    with pytest.raises(UnsafePickleError):
        encode("x.npy", np.array([None]))
    with pytest.raises(UnsafePickleError):
        encode("x.npz", {"a": np.array([None])})


def test_decode_npy_other_objects_need_allow_pickle():
    ran = Danger.ran
    records = np.zeros(1, [("a", object)])
    for values in (np.array([Danger()], object), np.array([complex], object), records):
        target = io.BytesIO()
        np.save(target, values, allow_pickle=True)
        with pytest.raises(UnsafePickleError, match=r"x\.npy.*allow_pickle=True"):
            decode("x.npy", target.getvalue())
    assert Danger.ran == ran
