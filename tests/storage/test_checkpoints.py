"""Checkpoints: building them, their format, damaged ones."""

import logging
import os
import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deflate import (
    CONTENTS,
    DAMAGED,
    deflate,
    example,
    member_of,
    photo,
    stream_of,
)

from imagearchive.errors import CorruptArchiveError, CorruptIndexError, MissingDependencyError
from imagearchive.storage import checkpoints as module
from imagearchive.storage.checkpoints import (
    BIT_PADDING,
    Checkpoints,
    DeflateStream,
    build_checkpoints,
)
from imagearchive.storage.local import PreadStorage

# As the module's docstring says: a head, points, and 32 KiB for each point but the first.
HEAD = 48
POINT = np.dtype([("source", "<u8"), ("position", "<u8"), ("crc", "<u4"), ("bits", "<u4")])


def points_of(data):
    magic, *_, count, crc = struct.unpack_from("<8s5Q", data)
    points = np.frombuffer(data, POINT, count, HEAD)
    assert magic == b"deflat\x01\0"
    assert crc == zlib.crc32(points.data)
    assert len(data) == HEAD + points.nbytes + (count - 1) * (32 << 10)
    return points


def test_checkpoints_format_matches_its_description():
    bits = set()
    for name in CONTENTS:
        data, stream, saved = example(name)
        points = points_of(saved)
        identity = struct.unpack_from("<8s3Q", saved)[1:]
        assert identity == (len(stream), len(data), zlib.crc32(data))
        windows = saved[HEAD + points.nbytes :]
        for number in range(1, len(points)):
            window = windows[(number - 1) << 15 : number << 15]
            position = int(points["position"][number])
            assert window == data[position - (32 << 10) : position]
            assert points["crc"][number] == zlib.crc32(window)
        bits.update(points["bits"][1:].tolist())
    # Blocks start at nearly every bit of a byte.
    assert len(bits) > 4


def test_checkpoints_decoder_continues_at_its_position():
    data, stream, saved = example("photo")
    checkpoints = Checkpoints(stream_of(data, stream), saved)
    for number in range(1, len(points_of(saved))):
        position = checkpoints.position(number)
        assert checkpoints.last_before(position) == number
        assert checkpoints.last_before(position - 1) == number - 1
        decoder, source = checkpoints.decoder(number)
        assert decoder.decompress(stream[source : source + 9999]) in data[position:]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_bit_padding_before_any_block_leaves_it_decodable(data):
    split = data.draw(st.integers(1, 7))
    # Repeated, so that deflate does not use stored blocks, which must not be shifted.
    content = 9 * data.draw(st.binary(min_size=1, max_size=200))
    level = data.draw(st.sampled_from([1, 9]))
    stream = deflate(content, level, zlib.Z_FIXED)
    shifted = int.from_bytes(stream, "little") << split
    octets = bytearray(shifted.to_bytes(len(stream) + 1, "little"))
    padding = BIT_PADDING[split]
    octets[0] |= padding[-1]
    decoder = zlib.decompressobj(-15)
    assert decoder.decompress(padding[:-1]) == b""
    assert decoder.decompress(octets) == content
    assert decoder.eof


def test_build_checkpoints_progress_is_reported_and_logged(monkeypatch, caplog):
    data, stream, expected = example("photo")
    seen = []
    monkeypatch.setattr(module.time, "monotonic", iter(range(0, 10**6, 6)).__next__)
    with caplog.at_level(logging.INFO):
        saved = build_checkpoints(
            stream_of(data, stream), lambda done, total: seen.append((done, total))
        )
    assert saved == expected
    assert seen == sorted(seen)
    assert seen[-1] == (len(stream), len(stream))
    assert "building checkpoints for random access: 100 %" in caplog.text
    assert len(saved) < len(data) * 0.04


@pytest.mark.parametrize("case", DAMAGED, ids=lambda case: case[0])
def test_build_checkpoints_damaged_stream_is_refused(case):
    _, data, stream, wrong = case
    with pytest.raises(CorruptArchiveError, match=r"x\.npz: a\.npy: deflate stream at offset 23"):
        build_checkpoints(stream_of(data, stream, **wrong))


def test_build_checkpoints_without_indexed_gzip_names_the_extra(monkeypatch):
    data, stream, _ = example("photo")
    monkeypatch.setitem(sys.modules, "indexed_gzip", None)
    with pytest.raises(MissingDependencyError, match=r"imagearchive\[compressed\]"):
        build_checkpoints(stream_of(data, stream))


def test_build_checkpoints_error_of_the_storage_reaches_the_caller(tmp_path):
    data, stream, _ = example("photo")
    path = tmp_path / "x"
    path.write_bytes(stream)
    with PreadStorage(path) as file:
        parts = DeflateStream(file, 0, len(stream), len(data), zlib.crc32(data), "a")
        os.truncate(path, len(stream) // 2)
        with pytest.raises(CorruptArchiveError, match="truncated while open"):
            build_checkpoints(parts)


@pytest.mark.parametrize("size", [1 << 30, 1 << 62])
def test_deflate_stream_impossible_size_is_refused_unread(size):
    with pytest.raises(CorruptArchiveError, match="cannot inflate"):
        stream_of(b"x" * 100, size=size)


def test_checkpoints_damaged_head_is_refused():
    data, stream, good = example("photo")
    for position in (*range(HEAD), HEAD, HEAD + 30, HEAD + 47):
        bad = bytearray(good)
        bad[position] ^= 4
        with pytest.raises(CorruptIndexError, match="delete the index"):
            Checkpoints(stream_of(data, stream), bytes(bad))


def test_checkpoints_of_other_length_or_member_are_refused():
    data, stream, good = example("photo")
    for bad in (b"", good[:-1], good + b"x", good[:HEAD], example("noise")[2]):
        with pytest.raises(CorruptIndexError):
            Checkpoints(stream_of(data, stream), bad)
    with pytest.raises(CorruptIndexError):
        Checkpoints(stream_of(data[:-1], stream, crc=zlib.crc32(data)), good)


def test_checkpoints_damaged_window_is_refused_where_it_is_used():
    data, stream, good = example("photo")
    bad = bytearray(good)
    bad[-1] ^= 1
    member, _ = member_of(data, stream, bytes(bad))
    with pytest.raises(CorruptIndexError, match="checkpoint 4"):
        member.read(len(data) - 10, 10)
    assert member.read(10, 10) == data[10:20]


def test_checkpoints_any_buffer_is_used_without_a_copy():
    data = photo(3 << 20)
    saved = np.frombuffer(build_checkpoints(stream_of(data)), np.uint8)
    checkpoints = Checkpoints(stream_of(data), memoryview(saved))
    assert np.shares_memory(np.frombuffer(checkpoints.data, np.uint8), saved)
    assert checkpoints.data.readonly


@pytest.mark.parametrize(
    ("field", "value"),
    [("source", 2**63), ("position", 0), ("position", 2**63), ("bits", 8), ("bits", 2**31)],
)
def test_checkpoints_points_outside_the_stream_are_refused(field, value):
    """Whoever wrote them can have made their checksum fit."""
    content, stream, saved = example("photo")
    points = points_of(saved).copy()
    points[field][-1] = value
    data = bytearray(saved)
    data[HEAD : HEAD + points.nbytes] = points.tobytes()
    struct.pack_into("<Q", data, HEAD - 8, zlib.crc32(points.tobytes()))
    with pytest.raises(CorruptIndexError, match="damaged"):
        member_of(content, stream, bytes(data))[0].read(len(content) - 10, 10)
