"""``.npz`` members against NumPy and `zipfile`."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from support.codecs import PIXELS

from imagearchive.codecs import NpzArrays, decode, encode
from imagearchive.errors import (
    DecodeError,
    LimitError,
    MemberNotFoundError,
    UnsupportedMemberError,
)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_arrays_is_a_mapping(save):
    arrays = {"images": PIXELS, "labels": np.arange(4), "name": np.array("x")}
    target = io.BytesIO()
    save(target, **arrays)
    loaded = decode("x.npz", target.getvalue())
    assert isinstance(loaded, NpzArrays)
    assert list(loaded) == list(arrays)
    assert len(loaded) == 3
    assert "labels" in loaded
    for key, array in arrays.items():
        np.testing.assert_array_equal(loaded[key], array)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(loaded))["labels"], np.arange(4))
    with pytest.raises(MemberNotFoundError, match=r"no array 'x'; the archive has 'images'"):
        loaded["x"]
    again = np.load(io.BytesIO(encode("y.npz", loaded)))
    np.testing.assert_array_equal(again["images"], PIXELS)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_arrays_wrong_checksum_is_refused(save):
    target = io.BytesIO()
    save(target, a=np.arange(2000), b=np.arange(2000))
    data = bytearray(target.getvalue())
    # The CRC-32 of the second array, in the central directory.
    data[data.rindex(b"PK\1\2") + 16] ^= 1
    arrays = decode("x.npz", bytes(data))
    np.testing.assert_array_equal(arrays["a"], np.arange(2000))
    if save is np.savez_compressed:
        with pytest.raises(DecodeError, match=r"'b'.*CRC"):
            arrays["b"]


@pytest.mark.parametrize("name", ["file", "allow_pickle", "args", "kwds", "a/b", "é"])
def test_npz_arrays_any_name_round_trips(name):
    arrays = {name: np.arange(3), "other": np.ones((2, 2), np.float32)}
    data = encode("x.npz", arrays)
    assert data == encode("x.npz", arrays)
    for found in (decode("x.npz", data), np.load(io.BytesIO(data))):
        assert set(found) == set(arrays)
        np.testing.assert_array_equal(found[name], arrays[name])


def test_npz_arrays_decodes_only_what_is_accessed():
    target = io.BytesIO()
    np.savez_compressed(target, zeros=np.zeros(100 << 20, np.uint8), small=np.arange(3))
    loaded = decode("x.npz", target.getvalue(), max_ratio=10)
    np.testing.assert_array_equal(loaded["small"], np.arange(3))
    with pytest.raises(LimitError, match=r"'zeros'.*max_ratio"):
        loaded["zeros"]


def test_npz_arrays_damaged_is_refused():
    target = io.BytesIO()
    np.savez_compressed(target, a=np.arange(1000))
    data = bytearray(target.getvalue())
    with pytest.raises(DecodeError, match=r"^x\.npz: "):
        decode("x.npz", bytes(data[: len(data) // 2]))
    with pytest.raises(DecodeError):
        decode("x.npz", b"")
    with zipfile.ZipFile(target) as archive:
        start = archive.infolist()[0].header_offset + 80
    data[start : start + 40] = bytes(40)
    with pytest.raises(DecodeError, match="array 'a'"):
        decode("x.npz", bytes(data))["a"]


def npz_of(members):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target.getvalue()


def test_npz_arrays_directories_are_not_arrays():
    data = npz_of({"d/": b"", "d/a.npy": encode("a.npy", np.arange(3))})
    arrays = decode("x.npz", data)
    assert list(arrays) == ["d/a"]
    np.testing.assert_array_equal(arrays["d/a"], np.arange(3))


def test_npz_arrays_unsupported_compression_is_named():
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", encode("a.npy", np.arange(3)))
    with pytest.raises(UnsupportedMemberError, match=r"array 'a': .*method 12.*unpack"):
        decode("x.npz", target.getvalue())["a"]


def test_npz_arrays_many_names_are_shortened_in_the_message():
    arrays = decode("x.npz", npz_of({f"array{i}.npy": b"" for i in range(5000)}))
    with pytest.raises(MemberNotFoundError, match="'array0'") as caught:
        arrays["none"]
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({1: [1], "1": [2]}, "two arrays are named '1'"),
        ({"a\0b": [1]}, "without NUL"),
        ({"a" * 70000: [1]}, "at most 65531 bytes"),
        ({"\udcff": [1]}, "UTF-8 cannot express"),
        ({"a": [[1], [2, 3]]}, "array 'a': NumPy cannot make an array"),
    ],
)
def test_npz_arrays_what_a_file_cannot_hold_is_not_encoded(arrays, message):
    with pytest.raises(DecodeError, match=rf"^x\.npz: .*{message}"):
        encode("x.npz", arrays)
