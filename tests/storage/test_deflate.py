"""Deflated members: whole, by ranges, damaged, from threads and forked children."""

import multiprocessing
import random
import zlib

import numpy as np
import pytest
from support.deflate import (
    CONTENTS,
    DAMAGED,
    FRONT,
    CountingStorage,
    deflate,
    example,
    member_of,
    photo,
)
from support.threads import run_in_threads

from imagearchive.errors import ClosedError, CorruptArchiveError
from imagearchive.storage.checkpoints import SPACING
from imagearchive.storage.deflate import DeflatedStorage, inflate
from imagearchive.storage.local import MemoryStorage
from imagearchive.storage.protocol import SelfCheckingStorage, Storage

with_and_without_checkpoints = pytest.mark.parametrize("known", [True, False])


def example_member(name, known=True):
    """Return a member, the storage below it, and its data."""
    data, stream, checkpoints = example(name)
    return *member_of(data, stream, checkpoints if known else None), data


# ---------------------------------------------------------------- whole members


def test_inflate_returns_the_data():
    data, stream, _ = example("zeros")
    file = MemoryStorage(FRONT + stream)
    assert inflate(file, len(FRONT), len(stream), len(data), zlib.crc32(data), "x") == data
    empty = deflate(b"")
    assert inflate(MemoryStorage(empty), 0, len(empty), 0, 0, "x") == b""


def damaged(*without):
    """Parametrize by the damaged members, without those that the unit cannot notice."""
    cases = [case for case in DAMAGED if not case[0].startswith(without)]
    return pytest.mark.parametrize("case", cases, ids=[case[0] for case in cases])


@damaged("trailing bytes")
def test_inflate_damaged_stream_is_refused(case):
    _, data, stream, wrong = case
    fields = (len(FRONT), len(stream), wrong.get("size", len(data)))
    crc = wrong.get("crc", zlib.crc32(data))
    file = MemoryStorage(FRONT + stream, "x.npz")
    with pytest.raises(CorruptArchiveError, match=r"x\.npz: a\.npy: deflate stream at offset 23"):
        inflate(file, *fields, crc, "x.npz: a.npy")


# ---------------------------------------------------------------- ranges


def ranges(size, count=60):
    rng = random.Random(7)
    for _ in range(count):
        offset = rng.randrange(size)
        yield offset, min(size - offset, rng.choice([0, 1, 100, 150_000, 2_000_000, 5_000_000]))


@pytest.mark.parametrize("name", CONTENTS)
@with_and_without_checkpoints
def test_deflated_read_any_range_returns_the_data(name, known):
    member, _, data = example_member(name, known)
    assert isinstance(member, Storage)
    assert isinstance(member, SelfCheckingStorage)
    assert not member.zero_copy
    for offset, size in ranges(len(data)):
        view = member.read(offset, size)
        assert view.readonly
        assert view == data[offset : offset + size]
    buffer = np.zeros(len(data) - 5, np.uint8)
    assert member.readinto(5, buffer) == len(buffer)
    assert buffer.tobytes() == data[5:]


def test_deflated_read_random_row_inflates_about_a_mebibyte():
    data, stream, checkpoints = example("noise")
    file = CountingStorage(FRONT + stream, "x")
    fields = (len(FRONT), len(stream), len(data), zlib.crc32(data), "a", checkpoints)
    for offset in range(0, len(data) - 1000, 333_333):
        with DeflatedStorage(file, *fields) as member:
            file.bytes_read = 0
            member.read(offset, 1000)
        assert file.bytes_read < SPACING + (1 << 18)


@with_and_without_checkpoints
@pytest.mark.parametrize("row", [1000, 150_000, 1_500_000])
def test_deflated_sequential_reads_inflate_nothing_twice(known, row):
    member, file, data = example_member("noise", known)
    for offset in range(0, len(data) - row, row):
        assert member.read(offset, row) == data[offset : offset + row]
        if row > 1000:
            # The same row again, as an overlapping window reads it.
            assert member.read(offset, row) == data[offset : offset + row]
    assert file.bytes_read <= len(example("noise")[1]) + (1 << 18)


def test_deflated_rows_just_inflated_are_kept():
    member, file, data = example_member("photo")
    member.read(SPACING + 500_000, 1000)
    before = file.bytes_read
    for offset in range(SPACING + 100_000, SPACING + 500_000, 7777):
        assert member.read(offset, 1000) == data[offset : offset + 1000]
    assert file.bytes_read == before


def test_deflated_read_at_the_start_needs_no_checkpoints():
    member, file, data = example_member("photo", known=False)
    assert member.read(0, 128) == data[:128]
    assert file.bytes_read <= 1 << 16
    assert member.checkpoints is None


def test_deflated_small_member_is_inflated_once():
    data = photo(5000)
    member, file = member_of(data)
    assert member.read(4000, 1000) == data[4000:]
    before = file.bytes_read
    assert member.read(0, 5000) == data
    assert file.bytes_read == before
    assert member_of(b"")[0].read(0, 0) == b""


def test_deflated_checkpoints_can_be_saved_and_passed_again():
    member, _, data = example_member("photo", known=False)
    saved = member.build_checkpoints()
    assert member.checkpoints == saved == example("photo")[2]
    again, _ = member_of(data, example("photo")[1], memoryview(np.frombuffer(saved, np.uint8)))
    assert again.read(3_000_000, 10) == data[3_000_000:3_000_010]


def test_deflated_range_outside_is_refused():
    member, _ = member_of(photo(5000))
    for offset, size in ((-1, 1), (0, -1), (0, 5001), (5001, 0), (1 << 70, 1)):
        with pytest.raises(CorruptArchiveError, match=r"^x\.npz: 'a\.npy': .* 5000 bytes"):
            member.read(offset, size)
    with pytest.raises(CorruptArchiveError):
        member.readinto(4990, bytearray(11))
    assert member.readinto(5000, bytearray()) == 0
    with pytest.raises(CorruptArchiveError):
        member.readinto(5001, bytearray())


def test_deflated_closed_storage_keeps_views_and_refuses_reads():
    member, _ = member_of(photo(5000))
    view = member.read(0, 10)
    member.close()
    member.close()
    assert view == photo(5000)[:10]
    with pytest.raises(ClosedError):
        member.read(0, 10)


# ---------------------------------------------------------------- damaged members


@damaged("trailing bytes", "shorter size")
def test_deflated_damaged_stream_is_refused_when_read_in_order(case):
    _, data, stream, wrong = case
    size = wrong.get("size", len(data))
    with pytest.raises(CorruptArchiveError, match=r"^x\.npz: 'a\.npy'"):
        member, _ = member_of(data, stream, **wrong)
        for offset in range(0, size, 100_000):
            member.read(offset, min(100_000, size - offset))


def test_deflated_failed_decoder_is_not_used_again():
    data = photo(3 << 20)
    stream = bytearray(deflate(data))
    stream[len(stream) // 2] ^= 0x55
    member, _ = member_of(data, bytes(stream))
    for _ in range(2):
        with pytest.raises(CorruptArchiveError):
            for offset in range(0, len(data), 100_000):
                member.read(offset, min(100_000, len(data) - offset))
        assert member.read(0, 1000) == data[:1000]


# ---------------------------------------------------------------- threads and processes


@with_and_without_checkpoints
def test_deflated_threads_share_a_member(known):
    member, _, data = example_member("photo", known)

    def work(seed):
        rng = random.Random(seed)
        for _ in range(15):
            offset = rng.randrange(len(data) - 1000)
            assert member.read(offset, 1000) == data[offset : offset + 1000]

    run_in_threads(work, 6)


@with_and_without_checkpoints
def test_deflated_forked_children_share_a_member(known):
    member, _, data = example_member("photo", known)
    # A decoder in use, and a lock that a thread of the parent holds at the fork.
    member.read(100_000, 1000)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def work(seed):
        rng = random.Random(seed)
        offsets = [101_000, *(rng.randrange(len(data) - 1000) for _ in range(10))]
        results.put(all(member.read(at, 1000) == data[at : at + 1000] for at in offsets))

    with member._lock.of_process():
        children = [context.Process(target=work, args=(seed,)) for seed in range(3)]
        for child in children:
            child.start()
    assert [results.get() for _ in children] == [True] * 3
    for child in children:
        child.join()
    assert member.read(101_000, 1000) == data[101_000:102_000]
