"""JSON, MessagePack, text, class numbers and pickles."""

import gzip
import json
import pickle

import msgpack
import numpy as np
import pytest
from support.codecs import Danger

from imagearchive.codecs import decode, encode
from imagearchive.errors import (
    DecodeError,
    LimitError,
    UnsafePickleError,
)


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None]}, [], "ä", 7, True])
def test_json_and_msgpack_round_trip(value):
    assert decode("x.json", json.dumps(value).encode()) == value
    assert decode("x.msgpack", msgpack.packb(value)) == value
    for name in ("x.json", "x.msgpack"):
        assert decode(name, encode(name, value)) == value


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.json", b"{"),
        ("x.json", b"\xff\xfe\xff"),
        ("x.json", b"[" * 100_000),
        ("x.msgpack", b"\x92\x01"),
        ("x.msgpack", b"\xc1"),
        ("x.msgpack", b"\x01\x02"),
        ("x.msgpack", b"\xdd\xff\xff\xff\xff"),
        ("x.msgpack", b"\x91" * 100_000),
        ("x.txt", b"\xff"),
        ("x.cls", b"1.5"),
        ("x.cls", b""),
        ("x.cls", b"1_000"),
        ("x.cls", b"9" * 5000),
        ("x.gz", b""),
        ("x.gz", b"plain"),
        ("x.bz2", b"BZh9 no"),
        ("x.xz", b"\xfd7zXZ\0 no"),
        ("x.zst", b"\x28\xb5\x2f\xfd no"),
    ],
)
def test_decode_damaged_member_is_named(name, data):
    with pytest.raises(DecodeError, match=rf"^{name}: "):
        decode(name, data)


def nested(levels, kind):
    """Return bytes of JSON or MessagePack of that many levels."""
    return {
        "json lists": b"[" * levels + b"]" * levels,
        "json dicts": b'{"a":' * levels + b"1" + b"}" * levels,
        "json utf-16": ("[" * levels + "]" * levels).encode("utf-16"),
        "msgpack lists": b"\x91" * levels + b"\1",
        "msgpack maps": b"\x81\1" * levels + b"\1",
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["json lists", "json dicts", "json utf-16", "msgpack lists", "msgpack maps"],
)
def test_decode_nesting_up_to_512_levels_is_read(kind):
    name = f"x.{kind.split()[0]}"
    assert decode(name, nested(512, kind)) is not None
    for levels in (513, 1100, 100_000):
        with pytest.raises(DecodeError, match=rf"^{name}: .*nested more than 512 levels deep"):
            decode(name, nested(levels, kind))


def test_decode_json_brackets_in_strings_are_not_nesting():
    for text in ("[" * 1000, '"[' * 1000, "\\[" * 1000, "é[]{" * 1000):
        value = {text: [text]}
        for escaped in (True, False):
            assert decode("x.json", json.dumps(value, ensure_ascii=escaped).encode()) == value
    assert decode("x.json", b"[" + b",".join([b"[{}]"] * 1000) + b"]") == [[{}]] * 1000


def test_decode_json_closing_brackets_in_strings_do_not_hide_nesting():
    with pytest.raises(DecodeError, match="512 levels"):
        decode("x.json", b'["]]",' * 600 + b"1" + b"]" * 600)
    with pytest.raises(DecodeError):
        decode("x.json", b"[" * 600 + b'"' + b'\\"' * 100_000)


def test_encode_json_deeper_than_it_is_read_is_refused():
    value = []
    for _ in range(600):
        value = [value]
    for name in ("x.json", "x.msgpack"):
        with pytest.raises(DecodeError):
            encode(name, value)


def test_text_and_class_round_trip():
    assert decode("x.txt", "größe\n".encode()) == "größe\n"
    assert decode("x.cls", b" 17\n") == 17
    assert decode("x.cls", b"-1") == -1
    assert encode("x.cls", np.int64(5)) == b"5"
    assert encode("x.txt", "ä") == "ä".encode()
    assert decode("x.cls", encode("x.cls", -(10**18) + 1)) == -(10**18) + 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x.cls", "5"), ("x.cls", 10**18), ("x.txt", b"raw"), ("x.txt", "\ud800"),
        ("x.json", {1, 2}), ("x.json", "\ud800"), ("x.npz", [1]), ("x.gz", 5), ("x.xz", "text"),
        ("x.bz2", [1, 2]), ("x.zst", None),
    ],
)  # fmt: skip
def test_encode_unsupported_value_is_refused(name, value):
    with pytest.raises(DecodeError, match=rf"^{name}: "):
        encode(name, value)


@pytest.mark.parametrize("name", ["x.pkl", "x.pickle", "x.pkl.gz"])
def test_pickle_needs_allow_pickle(name):
    data = pickle.dumps(Danger())
    data = gzip.compress(data) if name.endswith("gz") else data
    with pytest.raises(UnsafePickleError, match=rf"{name}: .*allow_pickle=True"):
        decode(name, data)
    assert not Danger.ran
    plain = encode("x.pkl", {"a": 1}, allow_pickle=True)
    assert decode("x.pkl", plain, allow_pickle=True) == decode("x.pkl", plain) == {"a": 1}
    with pytest.raises(UnsafePickleError):
        encode("x.pkl", 1)
    with pytest.raises(DecodeError):
        decode("x.pkl", b"no pickle", allow_pickle=True)


def test_decode_too_many_json_values_are_refused():
    data = b"[" + b"{}," * 5_000_000 + b"{}]"
    with pytest.raises(LimitError, match="max_objects"):
        decode("x.json.gz", gzip.compress(data))
    small = b"[" + b"{}," * 1000 + b"{}]"
    assert len(decode("x.json.gz", gzip.compress(small))) == 1001


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd" + (5_000_000).to_bytes(4, "big") + b"\x80" * 5_000_000,
        (b"\xdc" + (1000).to_bytes(2, "big") + b"\xc0" * 1000) * 1,
        b"\xdd" + (5000).to_bytes(4, "big")
        + (b"\xdc" + (1000).to_bytes(2, "big") + b"\x90" * 1000) * 5000,
    ],
    ids=["one array", "few", "many arrays"],
)  # fmt: skip
def test_decode_too_many_msgpack_values_are_refused(data):
    if len(data) < 2000:
        assert decode("x.msgpack.gz", gzip.compress(data)) == [None] * 1000
        return
    with pytest.raises((LimitError, DecodeError), match=r"values|exceeds"):
        decode("x.msgpack.gz", gzip.compress(data))


def test_pickle_of_an_object_that_cannot_be_pickled_is_refused():
    with pytest.raises(DecodeError, match=r"^x\.pkl: the object cannot be pickled: "):
        encode("x.pkl", lambda: None, allow_pickle=True)
