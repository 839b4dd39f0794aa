"""IDX files, written here byte by byte."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import imagearchive
from imagearchive import codecs
from imagearchive.arrays.idx import IDX_TYPES, parse_idx
from imagearchive.errors import DecodeError


def write_idx(array):
    """The bytes of an IDX file."""
    code = {dtype: code for code, dtype in IDX_TYPES.items()}[
        array.dtype.newbyteorder(">").str.replace("|", ">")
    ]
    head = struct.pack(">HBB", 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@given(
    arrays.arrays(
        st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"]),
        arrays.array_shapes(min_dims=1, max_dims=4, min_side=0),
    )
)
def test_parse_idx_returns_what_was_written(array):
    found = parse_idx(write_idx(array))
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert found.flags.writeable


def test_parse_idx_of_damaged_files_raises():
    whole = write_idx(np.arange(6, dtype=np.int16).reshape(2, 3))
    for data in (
        *(whole[:size] for size in range(len(whole))),
        whole + b"x",
        b"\0\0\x07" + whole[3:],
    ):
        with pytest.raises(DecodeError):
            parse_idx(data)
    with pytest.raises(DecodeError, match=r"NumPy cannot make an array of shape \(0, "):
        parse_idx(b"\0\0\x0e\x04" + bytes(4) + b"\xff" * 12)
    with pytest.raises(DecodeError, match="damaged"):
        parse_idx(b"\0\0\x08\x03" + b"\xff" * 12)


def test_decode_idx_in_a_compressed_file(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(write_idx(images)))
    with imagearchive.open(path) as archive:
        (name,) = archive
        found = codecs.decode("images.idx", archive[name])
    np.testing.assert_array_equal(found, images)
    assert codecs.decode("a.idx3-ubyte", write_idx(images)).shape == (2, 3, 4)
    with pytest.raises(imagearchive.errors.UnsupportedMemberError):
        codecs.encode("a.idx", images)
