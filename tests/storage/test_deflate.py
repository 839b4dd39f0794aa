"""Deflated members: whole, by ranges, damaged, from threads and forked children."""

import logging
import multiprocessing
import os
import random
import struct
import sys
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagearchive.errors import (
    ClosedError,
    CorruptArchiveError,
    CorruptIndexError,
    MissingDependencyError,
)
from imagearchive.storage import deflate
from imagearchive.storage.deflate import SPACING, DeflatedStorage, inflate
from imagearchive.storage.local import MemoryStorage, PreadStorage
from imagearchive.storage.protocol import SelfCheckingStorage, Storage

FRONT = b"what comes before"


class Counting(MemoryStorage):
    """Counts the bytes that are asked for."""

    asked = 0

    def read(self, offset, size):
        self.asked += size
        return super().read(offset, size)


def packed(data, level=6, strategy=zlib.Z_DEFAULT_STRATEGY):
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
    return packer.compress(data) + packer.flush()


def photo(size, seed=0):
    """Bytes that deflate to about three quarters, as images do."""
    steps = np.random.default_rng(seed).integers(-9, 10, size)
    return np.cumsum(steps).astype(np.uint8).tobytes()


def member(data, stream=None, checkpoints=None, storage=Counting, **wrong):
    stream = packed(data) if stream is None else stream
    fields = {"stored": len(stream), "size": len(data), "crc": zlib.crc32(data)} | wrong
    file = storage(FRONT + stream + b"what comes after" * 9, "x.npz")
    return DeflatedStorage(file, len(FRONT), name="a.npy", checkpoints=checkpoints, **fields)


DATA = {
    "photo": (photo(5 << 20), {}),
    "noise": (random.Random(1).randbytes(4 << 20), {}),
    "zeros": (bytes(9 << 20), {}),
    "stored blocks": (photo(4 << 20, 2), {"level": 0}),
    "fixed codes": (photo(4 << 20, 3), {"level": 1, "strategy": zlib.Z_FIXED}),
    "text": (b"".join(b"%d, " % i for i in range(600_000)), {"level": 9}),
}
MEMBERS = {name: (data, packed(data, **options)) for name, (data, options) in DATA.items()}


@pytest.fixture(scope="module")
def built():
    """Checkpoints of each member, built once."""
    return {
        name: member(data, stream).build_checkpoints() for name, (data, stream) in MEMBERS.items()
    }


def ranges(size, count=60):
    rng = random.Random(7)
    for _ in range(count):
        offset = rng.randrange(size)
        yield offset, min(size - offset, rng.choice([0, 1, 100, 150_000, 2_000_000, 5_000_000]))


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("known", [True, False])
def test_any_range(name, known, built):
    data, stream = MEMBERS[name]
    one = member(data, stream, built[name] if known else None)
    assert isinstance(one, Storage)
    assert isinstance(one, SelfCheckingStorage)
    assert not one.zero_copy
    for offset, size in ranges(len(data)):
        view = one.read(offset, size)
        assert view.readonly
        assert view == data[offset : offset + size]
    buffer = np.zeros(len(data) - 5, np.uint8)
    assert one.readinto(5, buffer) == len(buffer)
    assert buffer.tobytes() == data[5:]


def test_checkpoints_start_inside_bytes(built):
    bits = set()
    for checkpoints in built.values():
        count = struct.unpack_from("<8s5Q", checkpoints)[4]
        table = np.frombuffer(checkpoints, deflate._POINT, count, deflate._HEAD.size)
        bits.update(table["bits"][1:].tolist())
    assert len(bits) > 4


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_empty_blocks_lead_to_every_bit(data):
    """Whatever follows the padding is decoded as if it stood alone."""
    split = data.draw(st.integers(1, 7))
    # Repeated, so that deflate does not resort to stored blocks, which must not be shifted.
    content = 9 * data.draw(st.binary(min_size=1, max_size=200))
    level = data.draw(st.sampled_from([1, 9]))
    stream = packed(content, level, zlib.Z_FIXED)
    shifted = int.from_bytes(stream, "little") << split
    octets = bytearray(shifted.to_bytes(len(stream) + 1, "little"))
    padding = deflate._PADDING[split]
    octets[0] |= padding[-1]
    decoder = zlib.decompressobj(-15)
    assert decoder.decompress(padding[:-1]) == b""
    assert decoder.decompress(octets) == content
    assert decoder.eof


def test_a_random_row_inflates_about_a_megabyte(built):
    data, stream = MEMBERS["noise"]
    file = Counting(FRONT + stream, "x")
    fields = (len(FRONT), len(stream), len(data), zlib.crc32(data), "a", built["noise"])
    for offset in range(0, len(data) - 1000, 333_333):
        with DeflatedStorage(file, *fields) as one:
            file.asked = 0
            one.read(offset, 1000)
        assert file.asked < SPACING + (1 << 18)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("row", [1000, 150_000, 1_500_000])
def test_reading_on_inflates_nothing_twice(known, row, built, monkeypatch):
    data, stream = MEMBERS["noise"]
    one = member(data, stream, built["noise"] if known else None)
    monkeypatch.setattr(one, "build_checkpoints", None)
    for offset in range(0, len(data) - row, row):
        assert one.read(offset, row) == data[offset : offset + row]
        if row > 1000:
            # The row again, and the one before, as an overlapping window reads them.
            assert one.read(offset, row) == data[offset : offset + row]
    assert one._storage.asked <= len(stream) + (1 << 18)


def test_rows_just_inflated_are_kept(built):
    data, stream = MEMBERS["photo"]
    one = member(data, stream, built["photo"])
    one.read(SPACING + 500_000, 1000)
    asked = one._storage.asked
    for offset in range(SPACING + 100_000, SPACING + 500_000, 7777):
        assert one.read(offset, 1000) == data[offset : offset + 1000]
    assert one._storage.asked == asked


def test_the_start_is_read_without_checkpoints(monkeypatch):
    data, stream = MEMBERS["photo"]
    one = member(data, stream)
    monkeypatch.setattr(one, "build_checkpoints", None)
    assert one.read(0, 128) == data[:128]
    assert one._storage.asked <= 1 << 16
    assert one.checkpoints is None


def test_small_members_are_inflated_once():
    data = photo(5000)
    one = member(data)
    assert one.read(4000, 1000) == data[4000:]
    asked = one._storage.asked
    assert one.read(0, 5000) == data
    assert one._storage.asked == asked
    assert member(b"").read(0, 0) == b""


def test_build_reports_progress_and_checkpoints_can_be_kept(monkeypatch, caplog):
    data, stream = MEMBERS["photo"]
    one = member(data, stream)
    seen = []
    monkeypatch.setattr(deflate.time, "monotonic", iter(range(0, 10**6, 6)).__next__)
    with caplog.at_level(logging.INFO):
        checkpoints = one.build_checkpoints(lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (len(stream), len(stream))
    assert "building checkpoints for random access: 100 %" in caplog.text
    assert one.checkpoints == checkpoints
    assert len(checkpoints) < len(data) * 0.04
    again = member(data, stream, memoryview(np.frombuffer(checkpoints, np.uint8)))
    assert again.read(3_000_000, 10) == data[3_000_000:3_000_010]


def test_range_outside():
    one = member(photo(5000))
    for offset, size in ((-1, 1), (0, -1), (0, 5001), (5001, 0), (1 << 70, 1)):
        with pytest.raises(CorruptArchiveError, match=r"x\.npz: member 'a\.npy': .* 5000 bytes"):
            one.read(offset, size)
    with pytest.raises(CorruptArchiveError):
        one.readinto(4990, bytearray(11))
    assert one.readinto(5000, bytearray()) == 0
    with pytest.raises(CorruptArchiveError):
        one.readinto(5001, bytearray())


def test_closed():
    one = member(photo(5000))
    view = one.read(0, 10)
    one.close()
    one.close()
    assert view == photo(5000)[:10]
    with pytest.raises(ClosedError):
        one.read(0, 10)


def damaged():
    """Names, data and wrong fields or streams."""
    for size in (5000, 3 << 20):
        data = photo(size)
        stream = packed(data)
        yield "crc", data, stream, {"crc": 1}
        yield "longer", data, stream, {"size": size + 1}
        yield "shorter", data, stream, {"size": size - 1}
        yield "cut", data, stream[: len(stream) // 2], {}
        yield "trailer", data, stream + b"more", {}
        middle = len(stream) // 2
        flipped = bytearray(stream)
        flipped[middle] ^= 0x55
        yield "flipped", data, bytes(flipped), {}
        yield "noise", data, random.Random(2).randbytes(len(stream)), {}
        half = data[: size // 2]
        trailer = struct.pack("<2L", zlib.crc32(half), len(half))
        gzip = packed(half) + trailer + b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + packed(data[size // 2 :])
        yield "two streams", data, gzip, {"crc": zlib.crc32(data[size // 2 :])}


@pytest.mark.parametrize(
    "case",
    list(damaged()),
    ids=lambda case: f"{case[0]} {'small' if len(case[1]) < 10**6 else 'large'}",
)
def test_damage_is_found(case):
    name, data, stream, wrong = case
    size = wrong.get("size", len(data))
    fields = (len(FRONT), len(stream), size, wrong.get("crc", zlib.crc32(data)))
    file = MemoryStorage(FRONT + stream, "x.npz")
    if name != "trailer":
        with pytest.raises(
            CorruptArchiveError, match=r"x\.npz: a\.npy: deflate stream at offset 17"
        ):
            inflate(file, *fields, "x.npz: a.npy")
    with pytest.raises(CorruptArchiveError, match=r"x\.npz: member 'a\.npy'"):
        member(data, stream, **wrong).build_checkpoints()
    if name not in {"trailer", "shorter"}:
        with pytest.raises(CorruptArchiveError, match=r"x\.npz: member 'a\.npy'"):
            one = member(data, stream, **wrong)
            for offset in range(0, size, 100_000):
                one.read(offset, min(100_000, size - offset))


def test_a_decoder_that_failed_is_not_used_again():
    data = photo(3 << 20)
    stream = bytearray(packed(data))
    stream[len(stream) // 2] ^= 0x55
    one = member(data, bytes(stream))
    for _ in range(2):
        with pytest.raises(CorruptArchiveError):
            for offset in range(0, len(data), 100_000):
                one.read(offset, min(100_000, len(data) - offset))
        assert one.read(0, 1000) == data[:1000]


def test_sizes_no_stream_can_have_are_refused_unread():
    for size in (1 << 30, 1 << 62):
        with pytest.raises(CorruptArchiveError, match="cannot inflate"):
            member(b"x" * 100, size=size)
        with pytest.raises(CorruptArchiveError, match="cannot inflate"):
            inflate(MemoryStorage(bytes(100)), 0, 100, size, 0, "x")


def test_inflate():
    data, stream = MEMBERS["zeros"]
    file = MemoryStorage(FRONT + stream)
    assert inflate(file, len(FRONT), len(stream), len(data), zlib.crc32(data), "x") == data
    empty = packed(b"")
    assert inflate(MemoryStorage(empty), 0, len(empty), 0, 0, "x") == b""


def test_damaged_checkpoints(built):
    data, stream = MEMBERS["photo"]
    good = built["photo"]
    head = deflate._HEAD.size
    for position in (*range(head), head, head + 30, head + 47):
        bad = bytearray(good)
        bad[position] ^= 4
        with pytest.raises(CorruptIndexError, match="delete the index"):
            member(data, stream, bytes(bad))
    for bad in (b"", good[:-1], good + b"x", good[:head], built["noise"]):
        with pytest.raises(CorruptIndexError):
            member(data, stream, bad)
    with pytest.raises(CorruptIndexError):
        member(data[:-1], stream, good, crc=zlib.crc32(data))
    bad = bytearray(good)
    bad[-1] ^= 1
    one = member(data, stream, bytes(bad))
    with pytest.raises(CorruptIndexError, match="checkpoint 4"):
        one.read(len(data) - 10, 10)
    assert one.read(10, 10) == data[10:20]


def test_without_indexed_gzip(monkeypatch, built):
    data, stream = MEMBERS["photo"]
    monkeypatch.setitem(sys.modules, "indexed_gzip", None)
    with pytest.raises(MissingDependencyError, match=r"imagearchive\[compressed\]"):
        member(data, stream).build_checkpoints()
    one = member(data, stream)
    assert one.read(4_000_000, 10) == data[4_000_000:4_000_010]
    asked = one._storage.asked
    assert one.read(2_000_000, 10) == data[2_000_000:2_000_010]
    assert one._storage.asked == asked
    # Kept checkpoints need no library.
    assert member(data, stream, built["photo"]).read(4_000_000, 1) == data[4_000_000:4_000_001]
    monkeypatch.setattr(deflate, "WHOLE_WITHOUT_INDEX", 1 << 20)
    with pytest.raises(MissingDependencyError, match=r"x\.npz"):
        member(data, stream).read(4_000_000, 10)


def test_an_error_of_the_storage_comes_through(tmp_path):
    data, stream = MEMBERS["photo"]
    path = tmp_path / "x"
    path.write_bytes(stream)
    with PreadStorage(path) as file:
        one = DeflatedStorage(file, 0, len(stream), len(data), zlib.crc32(data), "a")
        os.truncate(path, len(stream) // 2)
        with pytest.raises(CorruptArchiveError, match="truncated while open"):
            one.build_checkpoints()


def test_threads_share_it(built):
    data, stream = MEMBERS["photo"]
    for checkpoints in (built["photo"], None):
        one = member(data, stream, checkpoints)
        wrong = []

        def work(seed, one=one, wrong=wrong):
            rng = random.Random(seed)
            for _ in range(15):
                offset = rng.randrange(len(data) - 1000)
                if one.read(offset, 1000) != data[offset : offset + 1000]:
                    wrong.append(offset)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


@pytest.mark.parametrize("known", [True, False])
def test_forked_children_share_it(known, built):
    data, stream = MEMBERS["photo"]
    one = member(data, stream, built["photo"] if known else None)
    # A decoder in use, and a lock that a thread of the parent holds at the fork.
    one.read(100_000, 1000)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def work(seed):
        rng = random.Random(seed)
        offsets = [101_000, *(rng.randrange(len(data) - 1000) for _ in range(10))]
        results.put(all(one.read(at, 1000) == data[at : at + 1000] for at in offsets))

    with one._lock:
        children = [context.Process(target=work, args=(seed,)) for seed in range(3)]
        for child in children:
            child.start()
    assert [results.get() for _ in children] == [True] * 3
    for child in children:
        child.join()
    assert one.read(101_000, 1000) == data[101_000:102_000]
