"""Codecs that users register."""

import pytest

from imagearchive.codecs import DecodedView, decode, encode, register_codec
from imagearchive.codecs.codec_registry import CODECS
from imagearchive.errors import OptionError, OptionTypeError, UnsupportedMemberError


@pytest.fixture(autouse=True)
def _registered():
    """Remove what a test registers."""
    before = dict(CODECS)
    yield
    CODECS.clear()
    CODECS.update(before)


def flip(data):
    return bytes(data)[::-1]


def test_register_codec_new_extensions_are_decoded_and_encoded():
    register_codec([".Rot", "rot13"], flip, flip)
    assert decode("x.ROT", b"abc") == b"cba"
    assert DecodedView({"x.rot13": b"abc"})["x.rot13"] == b"cba"
    assert encode("x.rot", b"abc") == b"cba"


def test_register_codec_stackable_is_decoded_further():
    register_codec("flip", flip, flip, stackable=True)
    assert decode("x.json.flip", b"]1[") == [1]
    assert encode("x.json.flip", [1]) == b"]1["
    assert DecodedView({}).knows("x.json.flip")


def test_register_codec_replaces_a_built_in_codec():
    register_codec("json", None, lambda data: "mine")
    assert decode("x.json", b"") == "mine"
    # In both directions, and no longer as a compression.
    register_codec("gz", lambda value: b"gz", lambda data: "mine")
    assert (encode("x.json.gz", 1), decode("x.json.gz", b"")) == (b"gz", "mine")


def test_register_codec_without_encoder_cannot_encode():
    register_codec("json", None, lambda data: "mine")
    with pytest.raises(UnsupportedMemberError, match=r"x\.json: .*\.json cannot encode"):
        encode("x.json", 1)
    register_codec("lz4", None, bytes, stackable=True)
    with pytest.raises(UnsupportedMemberError, match=r"\.lz4 cannot encode"):
        encode("x.json.lz4", [1])


def test_register_codec_without_decoder_cannot_decode():
    register_codec("up", str.encode, None)
    with pytest.raises(UnsupportedMemberError, match=r"x\.up: .*\.up cannot decode"):
        decode("x.up", b"a")


@pytest.mark.parametrize("extension", ["", ".", "a.b", "a/b"])
def test_register_codec_invalid_extension_is_refused(extension):
    with pytest.raises(OptionError, match="one suffix"):
        register_codec(extension, None, None)


def test_register_codec_encoder_that_is_not_callable_is_refused():
    with pytest.raises(OptionTypeError, match="encoder must be callable, got 5"):
        register_codec("x", 5, None)


def test_register_codec_errors_of_the_decoder_reach_the_caller():
    register_codec("boom", None, lambda data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        decode("x.boom", b"")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decode(3, b""), "name must be a str .*got 3"),
        (lambda: encode(None, b""), "name must be a str .*got None"),
        (lambda: decode("x.json", "text"), "data must be bytes-like, got 'text'"),
        (lambda: register_codec(3, None, bytes), "extensions must be a str .*got 3"),
        (lambda: register_codec(["jp2", 3], None, bytes), r"extensions must be .*'jp2', 3"),
    ],
)
def test_codec_functions_wrong_types_are_refused(call, message):
    with pytest.raises(OptionTypeError, match=message):
        call()


def test_encode_unknown_extension_advises_on_writing_and_decode_on_reading():
    with pytest.raises(UnsupportedMemberError, match=r"x\.foo: .*encode the value yourself"):
        encode("x.foo", 3)
    with pytest.raises(UnsupportedMemberError, match=r"x\.foo: .*read the bytes"):
        decode("x.foo", b"3")
