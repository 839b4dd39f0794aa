"""Compressed members against the standard library; the limits of decompression."""

import bz2
import gzip
import lzma
import struct
import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from support.codecs import PIXELS, RNG

from imagearchive.codecs import DecodedView, decode, encode
from imagearchive.codecs.compression import compress, decompress
from imagearchive.errors import (
    DecodeError,
    LimitError,
    OptionError,
    OptionTypeError,
    UnsupportedMemberError,
)
from imagearchive.storage.limits import RATIO_FLOOR, Limits

PACK = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("kind", sorted(PACK))
@given(parts=st.lists(st.binary(max_size=2000), min_size=1, max_size=4))
def test_decompress_several_streams_are_concatenated(kind, parts):
    data = b"".join(PACK[kind](part) for part in parts)
    assert decode(f"a.{kind}", data) == b"".join(parts)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_decompress_zeros_after_the_last_stream_are_skipped(kind):
    for zeros in (4, 3 << 20):
        data = PACK[kind](b"one") + bytes(zeros)
        assert decode(f"a.{kind}", data) == b"one"
        assert decode(f"a.{kind}", data + PACK[kind](b"two")) == b"onetwo"
        with pytest.raises(DecodeError):
            decode(f"a.{kind}", data + b"x")


def test_decompress_zstandard_skippable_frames_are_skipped():
    frame = PACK["zst"]
    skipped = struct.pack("<II", 0x184D2A50, 5) + b"extra"
    assert decode("a.zst", skipped + frame(b"one") + skipped + frame(b"two") + skipped) == b"onetwo"


@pytest.mark.parametrize("kind", sorted(PACK))
def test_decode_stacked_extensions_are_decoded_in_turn(kind):
    assert decode(f"x.JSON.{kind.upper()}", PACK[kind](b"[1]")) == [1]
    np.testing.assert_array_equal(
        decode(f"a.png.{kind}", PACK[kind](encode("a.png", PIXELS))), PIXELS
    )
    assert decode(f"x.txt.{kind}.gz", encode(f"x.txt.{kind}.gz", "two")) == "two"
    assert decode(f"x.{kind}", encode(f"x.{kind}", b"raw")) == b"raw"
    assert compress(kind, b"a" * 99) == compress(kind, b"a" * 99)
    with pytest.raises(UnsupportedMemberError, match=r"unknown extension \.tar"):
        decode(f"x.tar.{kind}", PACK[kind](b""))


@pytest.mark.parametrize("kind", sorted(PACK))
def test_decompress_truncated_or_followed_by_garbage_is_refused(kind):
    data = PACK[kind](bytes(RNG.integers(0, 9, 3000, dtype=np.uint8)))
    for length in range(1, len(data), 41):
        with pytest.raises(DecodeError):
            decode(f"x.{kind}", data[:length])
    with pytest.raises(DecodeError):
        decode(f"x.{kind}", data + b"garbage")


@pytest.mark.parametrize("kind", sorted(PACK))
def test_decompress_beyond_the_limits_is_refused(kind):
    bomb = PACK[kind](bytes(80 << 20))
    with pytest.raises(LimitError, match=rf"x\.json\.{kind}: .*pass max_ratio to raise"):
        decode(f"x.json.{kind}", bomb, max_ratio=10)
    with pytest.raises(LimitError, match="pass max_size to raise"):
        decode(f"x.{kind}", bomb, max_ratio=1e9, max_size=70 << 20)
    assert len(decode(f"x.{kind}", bomb, max_ratio=1e9)) == 80 << 20


def test_limits_must_be_positive_numbers():
    zeros = gzip.compress(bytes(RATIO_FLOOR + 1))
    inf = float("inf")
    assert len(decode("x.gz", zeros, max_size=inf, max_ratio=inf)) == RATIO_FLOOR + 1
    with pytest.raises(LimitError, match=f"more than {RATIO_FLOOR};.*pass max_ratio to raise"):
        decode("x.gz", zeros, max_ratio=10)
    for name in ("max_size", "max_ratio", "max_pixels"):
        for value in (0, -1, float("nan")):
            with pytest.raises(OptionError, match=f"{name} must be"):
                DecodedView({}, **{name: value})
        for value in ("1", True):
            with pytest.raises(OptionTypeError, match=f"{name} must be a number"):
                DecodedView({}, **{name: value})


def test_decode_layers_of_compression_are_limited_together():
    bomb = gzip.compress(gzip.compress(bytes(80 << 20)))
    assert len(bomb) < 2000
    with pytest.raises(LimitError, match="max_ratio"):
        decode("x.gz.gz", bomb)
    data = b"x"
    for _ in range(5):
        data = gzip.compress(data)
    with pytest.raises(LimitError, match="layers"):
        decode("x.txt" + ".gz" * 5, data)
    with pytest.raises((LimitError, DecodeError)):
        decode("x" + ".gz" * 20000, data)


def test_decompress_xz_with_huge_dictionary_is_refused():
    filters = [
        {
            "id": lzma.FILTER_LZMA2,
            "dict_size": 512 << 20,
            "mode": lzma.MODE_FAST,
            "mf": lzma.MF_HC3,
            "nice_len": 3,
        }
    ]
    # The stream declares the dictionary; making one takes that memory, so patch the declaration.
    data = bytearray(lzma.compress(b"x" * 99, filters=[{**filters[0], "dict_size": 1 << 20}]))
    position = data.index(b"\x21\x01", 12) + 2
    data[position] = 36
    end = 12 + (data[12] + 1) * 4
    data[end - 4 : end] = struct.pack("<I", zlib.crc32(data[12 : end - 4]))
    with pytest.raises(LimitError, match="dictionary"):
        decode("x.xz", bytes(data))


def test_decompress_any_buffer_is_accepted():
    assert decompress("gz", memoryview(gzip.compress(b"abc")), Limits()) == b"abc"
    assert decompress("gz", gzip.compress(b"abc") + bytes(512), Limits()) == b"abc"
