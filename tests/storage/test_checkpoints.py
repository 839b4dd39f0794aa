"""Checkpoints: building them, their format, damaged ones."""

import logging
import os
import struct
import zlib

import numpy as np
import pytest
from support.deflate import CONTENTS, DAMAGED, example, member_of, photo, stream_of

from imagearchive.errors import CorruptArchiveError, CorruptIndexError, StaleIndexError
from imagearchive.storage import compressed as module
from imagearchive.storage.checkpoints import CheckpointBuilder, Checkpoints
from imagearchive.storage.compressed import build_checkpoints
from imagearchive.storage.deflate import DeflateStream
from imagearchive.storage.local import PreadStorage

# As the module's docstring says: a head, points, and windows.
HEAD = 48
POINT = np.dtype(
    [
        ("source", "<u8"),
        ("position", "<u8"),
        ("window", "<u8"),
        ("window_size", "<u4"),
        ("window_crc", "<u4"),
        ("bits", "<u4"),
        ("inside", "<u2"),
        ("deflated", "<u2"),
    ]
)


def points_of(data):
    magic, *_, count, crc = struct.unpack_from("<8s5Q", data)
    points = np.frombuffer(data, POINT, count, HEAD)
    assert magic == b"points\x01\0"
    assert crc == zlib.crc32(points.data)
    assert len(data) == HEAD + points.nbytes + points["window_size"].sum()
    return points


def with_points(data, points):
    """Return checkpoints with other points, whose checksum is right."""
    changed = bytearray(data)
    changed[HEAD : HEAD + points.nbytes] = points.tobytes()
    struct.pack_into("<Q", changed, HEAD - 8, zlib.crc32(points.tobytes()))
    return bytes(changed)


def test_checkpoints_format_matches_its_description():
    bits, deflated = set(), set()
    for name in CONTENTS:
        data, stream, saved = example(name)
        points = points_of(saved)
        identity = struct.unpack_from("<8s3Q", saved)[1:]
        assert identity == (len(stream), len(data), zlib.crc32(data))
        windows = saved[HEAD + points.nbytes :]
        assert tuple(points[0])[:4] == (0, 0, 0, 0)
        for point in points[1:]:
            window = windows[point["window"] :][: point["window_size"]]
            assert point["window_crc"] == zlib.crc32(window)
            window = zlib.decompress(window) if point["deflated"] else window
            assert window == data[point["position"] - (32 << 10) : point["position"]]
            assert point["inside"]
        bits.update(points["bits"][1:].tolist())
        deflated.update(points["deflated"][1:].tolist())
    # Blocks start at nearly every bit of a byte.
    assert len(bits) > 4
    assert deflated == {0, 1}


@pytest.mark.parametrize("name", CONTENTS)
def test_checkpoints_decoder_continues_at_its_position(name):
    data, stream, saved = example(name)
    parts = stream_of(data, stream)
    checkpoints = Checkpoints(parts, saved)
    assert len(checkpoints) == len(points_of(saved))
    for number in range(1, len(checkpoints)):
        position = checkpoints.position(number)
        assert checkpoints.last_before(position) == number
        assert checkpoints.last_before(position - 1) == number - 1
        decoder = parts.resume(checkpoints.point(number))
        assert decoder.position == position
        found = decoder.next(9999)
        assert found
        assert found == data[position : position + len(found)]


def test_checkpoint_builder_large_stream_gets_fewer_checkpoints():
    small, large = CheckpointBuilder(100 << 20), CheckpointBuilder(10 << 30)
    assert small.wants(1 << 20)
    assert not large.wants(1 << 20)
    assert large.wants(4 << 20)
    # One that needs no window is cheap.
    assert large.wants_free(1 << 18)


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


def test_build_checkpoints_error_of_the_storage_reaches_the_caller(tmp_path):
    data, stream, _ = example("photo")
    path = tmp_path / "x"
    path.write_bytes(stream)
    with PreadStorage(path) as file:
        parts = DeflateStream(file, 0, len(stream), len(data), "a", zlib.crc32(data))
        os.truncate(path, len(stream) // 2)
        with pytest.raises(StaleIndexError, match="changed while open"):
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
    for bad in (b"", good[:-1], good[: HEAD + 50], good[:HEAD], example("noise")[2]):
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
    [
        ("source", 2**63),
        ("position", 0),
        ("position", 2**63),
        ("bits", 8),
        ("bits", 2**31),
        ("window", 2**63),
        ("window", 2**64 - 1),
        ("window_size", 2**31),
    ],
)
def test_checkpoints_points_outside_the_stream_are_refused(field, value):
    """Whoever wrote them can have made their checksum fit."""
    content, stream, saved = example("photo")
    points = points_of(saved).copy()
    points[field][-1] = value
    with pytest.raises(CorruptIndexError, match="damaged"):
        member_of(content, stream, with_points(saved, points))[0].read(len(content) - 10, 10)


def test_checkpoints_wrong_bits_or_window_are_noticed_when_used():
    """Whoever wrote them can have made all checksums fit."""
    content, stream, saved = example("photo")
    points = points_of(saved).copy()
    points["bits"][-1] = 7 - points["bits"][-1]
    points["window_size"][-1] = 1000
    window = saved[HEAD + points.nbytes :][points["window"][-1] :]
    points["window_crc"][-1] = zlib.crc32(window[:1000])
    member, _ = member_of(content, stream, with_points(saved, points))
    with pytest.raises((CorruptIndexError, CorruptArchiveError), match="damaged"):
        member.read(len(content) - 10, 10)
