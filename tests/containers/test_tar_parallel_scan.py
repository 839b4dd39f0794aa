"""Scans of a TAR in several threads against the scan from start to end."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tar_cases as cases
from support.tar_rows import RemoteStorage, same_rows, sparse_member

from imagearchive.containers.rows import RowBuffer
from imagearchive.containers.tar import parallel_scan
from imagearchive.containers.tar import scan as tar
from imagearchive.containers.tar.parallel_scan import (
    Plan,
    make_plan,
    scan_in_parallel,
    scan_segments,
)
from imagearchive.containers.tar.tar_container import TarContainer
from imagearchive.errors import CorruptArchiveError
from imagearchive.storage.local import open_storage

LONG = b"long/" * 30 + b"name"


def outcome(storage, strict, plan=None):
    """What a scan gives: its rows or its error, and what it logs."""

    def first(storage, rows, cursor):
        scan_segments(storage, rows, cursor, plan)

    try:
        return tar.scan(storage, strict, first=None if plan is None else first), None
    except CorruptArchiveError as error:
        return None, str(error)


def check(data, plan):
    for strict in (True, False):
        expected, error = outcome(RemoteStorage(data), strict)
        found, other = outcome(RemoteStorage(data), strict, plan)
        assert error == other
        if expected is not None:
            same_rows(found, expected)


def plans():
    return st.builds(
        Plan,
        threads=st.integers(1, 3),
        segment=st.integers(1, 12).map(lambda blocks: 512 * blocks),
        search=st.sampled_from([512, 2048, 1 << 20]),
        rows=st.integers(0, 4),
    )


def with_lookalikes():
    """Parts of an archive: members, what belongs to the next one, and what looks like members."""
    member = st.sampled_from([
        cases.member(b"empty"),
        cases.member(b"small", b"1" * 700),
        cases.member(b"folder/", b"", b"5"),
        cases.member(b"link", b"", b"2", link=b"small"),
        cases.member(b"label", b"12", b"V", magic=cases.GNU_MAGIC),
        *(sparse_member(version) for version in ("old", "0.0", "0.1", "1.0")),
    ])  # fmt: skip
    before = st.sampled_from([
        cases.long_name(LONG),
        cases.long_name(LONG, b"K"),
        cases.pax([(b"path", b"by-pax" * 150)]),
        cases.pax([(b"mtime", b"12.5"), (b"comment", b"x" * 1500)]),
        cases.pax([(b"size", b"0")]),
        cases.pax([(b"comment", b"global")], b"g"),
        cases.pax([(b"mtime", b"7")], b"g"),
        cases.pax([(b"size", b"512")], b"g"),
    ])  # fmt: skip
    odd = st.sampled_from([bytes(512), bytes(1024), b"junk" * 128, cases.header(b"cut", size=9999)])
    flat = st.lists(st.one_of(member, member, before, odd), max_size=8).map(b"".join)
    inner = st.one_of(flat, cases.archives())
    return st.lists(
        st.one_of(
            member,
            before,
            odd,
            cases.archives(),
            inner.map(lambda data: cases.member(b"inner.tar", data)),
            inner.map(lambda data: cases.pax([(b"path", b"p" * 600)]) + cases.member(b"i", data)),
        ),
        min_size=1,
        max_size=8,
    ).map(b"".join)


@settings(max_examples=150)
@given(data=with_lookalikes(), plan=plans())
def test_scan_segments_lookalikes_give_the_rows_of_a_serial_scan(data, plan):
    check(data, plan)


@settings(max_examples=100)
@given(
    data=with_lookalikes(),
    plan=plans(),
    flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), max_size=3),
    reseal=st.booleans(),
    cut=st.integers(0, 2000),
)
def test_scan_segments_damage_gives_the_rows_and_error_of_a_serial_scan(
    data, plan, flips, reseal, cut
):
    damaged = bytearray(data)
    for position, mask in flips:
        position %= len(damaged)
        damaged[position] ^= mask
        start = position // 512 * 512
        if reseal and len(damaged) >= start + 512:
            damaged[start : start + 512] = cases.seal(damaged[start : start + 512])
    check(bytes(damaged[: len(damaged) - cut]), plan)


def numbered(count, size=700):
    return b"".join(cases.member(b"%d" % number, b"x" * size) for number in range(count))


class WatchedStorage(RemoteStorage):
    """Notes which thread reads what."""

    def __init__(self, data):
        super().__init__(data)
        self.threads = []

    def read(self, offset, size):
        self.threads.append(threading.current_thread())
        return super().read(offset, size)


def test_scan_segments_plain_members_are_read_by_the_threads():
    storage = WatchedStorage(numbered(200) + cases.END)
    rows, cursor = RowBuffer(), tar.Cursor(storage.size)
    scan_segments(storage, rows, cursor, Plan(3, 32 * 512, 4096, 8))
    assert threading.main_thread() not in storage.threads
    assert [rows.name(row) for row in range(rows.rows)] == [b"%d" % row for row in range(200)]
    np.testing.assert_array_equal(rows.entries["index"][: rows.rows], range(200))


def test_scan_segments_member_across_segments_is_found_once():
    data = numbered(4) + cases.member(b"large", b"x" * 100_000) + numbered(4) + cases.END
    check(data, Plan(2, 8 * 512, 2048, 8))


def test_scan_segments_file_descriptor_gives_the_rows_of_a_serial_scan(tmp_path):
    path = tmp_path / "many.tar"
    path.write_bytes((numbered(500) + cases.END) * 2)
    with open_storage(path, "pread") as storage:
        expected, _ = outcome(storage, True)
        found, _ = outcome(storage, True, Plan(2, 64 * 512, 1 << 16, 8))
    assert expected.rows == 1000
    same_rows(found, expected)


@pytest.mark.parametrize("cut", [1, 100, 512, 600, 1300])
def test_scan_in_parallel_archive_that_is_cut_is_an_error_as_in_a_serial_scan(tmp_path, cut):
    path = tmp_path / "cut.tar"
    path.write_bytes(numbered(3)[:-cut])
    with open_storage(path, "pread") as storage:
        for strict in (True, False):
            expected, error = outcome(storage, strict)
            if strict:
                with pytest.raises(CorruptArchiveError) as caught:
                    tar.scan(storage, strict, first=scan_in_parallel)
                assert str(caught.value) == error
            else:
                same_rows(tar.scan(storage, strict, first=scan_in_parallel), expected)


def test_scan_segments_last_member_cut_after_a_lookalike_is_an_error(tmp_path):
    # The thread of the last segment begins in the inner archive.
    inner = numbered(40, 0) + b"x" * 100
    data = numbered(4) + cases.member(b"inner.tar", inner)
    data = data[: len(data) - 100]
    path = tmp_path / "cut.tar"
    path.write_bytes(data)
    with open_storage(path, "pread") as storage:
        _, expected = outcome(storage, True)
        assert "padding" in expected
        assert outcome(storage, True, Plan(2, 16 * 512, 8192, 8)) == (None, expected)


def test_scan_segments_estimate_of_very_many_rows_is_not_allocated():
    # As of a huge archive that begins with small members.
    check(numbered(100) + cases.END, Plan(2, 8 * 512, 2048, 10**15))


class FailingStorage(RemoteStorage):
    """Fails in every thread but the main one."""

    def read(self, offset, size):
        if threading.current_thread() is not threading.main_thread():
            raise OSError("no answer")
        return super().read(offset, size)


def test_scan_segments_error_in_a_thread_leaves_the_work_to_the_scan():
    data = numbered(100) + cases.END
    found, error = outcome(FailingStorage(data), True, Plan(2, 8 * 512, 2048, 8))
    assert error is None
    same_rows(found, outcome(RemoteStorage(data), True)[0])


class InterruptedStorage(RemoteStorage):
    """Is interrupted when the main thread reads; the others are slow."""

    def read(self, offset, size):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        time.sleep(0.001)
        return super().read(offset, min(size, 512)) + bytes(max(0, size - 512))


def test_scan_segments_interrupt_ends_the_threads():
    # The first member spans the first segments, so the scan itself has to read it.
    data = cases.member(b"large", b"x" * 50_000) + numbered(3000, 0) + cases.END
    storage = InterruptedStorage(data)
    rows, cursor = RowBuffer(), tar.Cursor(storage.size)
    with pytest.raises(KeyboardInterrupt):
        scan_segments(storage, rows, cursor, Plan(2, 16 * 512, 8192, 8))
    assert not [one for one in threading.enumerate() if one.name == "imagearchive-scan"]
    assert len(storage.reads) < 1000


class GeneratedStorage:
    """An archive on a server with members of one size; counts the reads that wait for an answer."""

    path = "https://example.org/large.tar"
    zero_copy = False

    def __init__(self, members, size):
        self._stride = 512 + size
        self._header = cases.header(b"member", size=size)
        self.size = members * self._stride + 1024
        self._members = members
        self._lock = threading.Lock()
        self.waiting = self.most_waiting = self.bytes_read = 0

    def prefetch_ranges(self, ranges):
        pass

    def scattered(self):
        return self

    def check_unchanged(self):
        pass

    def close(self):
        pass

    def readinto(self, offset, buffer):
        memoryview(buffer)[:] = self.read(offset, len(buffer))
        return len(buffer)

    def read(self, offset, size):
        with self._lock:
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
            self.bytes_read += size
        time.sleep(0.001)
        out = bytearray(size)
        first = -(-max(0, offset - 511) // self._stride)
        for number in range(first, min(self._members, (offset + size) // self._stride + 1)):
            start = number * self._stride - offset
            header = self._header[max(0, -start) : max(0, size - start)]
            out[max(0, start) : max(0, start) + len(header)] = header
        with self._lock:
            self.waiting -= 1
        return bytes(out)


def test_tar_container_scan_of_large_members_on_a_server_asks_for_many_headers_at_once():
    storage = GeneratedStorage(3000, 1 << 20)
    rows = TarContainer().scan(storage)
    expected = np.arange(3000, dtype=np.uint64) * (512 + (1 << 20))
    np.testing.assert_array_equal(rows.entries["header_offset"][: rows.rows], expected)
    assert storage.most_waiting >= 16
    # Looking for the first member of a segment reads about one member.
    assert storage.bytes_read < storage.size / 10


def test_make_plan_small_members_on_a_server_are_read_in_order():
    storage = GeneratedStorage(10_000, 32 << 10)
    assert make_plan(storage, 100, 100 << 15, 60.0) is None


def test_tar_container_scan_of_a_large_local_archive_is_divided(tmp_path, monkeypatch):
    path = tmp_path / "sparse.tar"
    stride = 512 + (1 << 20)
    with open(path, "wb") as file:
        for number in range(100):
            file.seek(number * stride)
            file.write(cases.header(b"%d" % number, size=1 << 20))
        file.truncate(100 * stride + 1024)
    plans = []

    def plan(storage, rows, offset, seconds):
        # As if headers were slow to come.
        plans.append(make_plan(storage, rows, offset, 0.001 * rows))
        return plans[-1]

    monkeypatch.setattr(parallel_scan, "make_plan", plan)
    with open_storage(path, "pread") as storage, closing(storage):
        found = TarContainer().scan(storage)
        assert plans == [Plan(8, 8 * stride, 8 * stride, 8)]
        same_rows(found, tar.scan(storage))


@pytest.mark.parametrize(
    ("processors", "mean", "seconds", "threads"),
    [
        # In memory: half of the processors, but at least two, if it takes long enough.
        (8, 1536, 1e-7, None),
        (8, 1536, 4e-7, 4),
        (8, 60_000, 4e-7, 4),
        (2, 1536, 1e-7, None),
        (2, 1536, 4e-7, 2),
        (3, 60_000, 4e-7, 2),
        (1, 1536, 4e-7, None),
        (1, 60_000, 4e-7, None),
        # From a disk: as many reads as there are processors, or more, if only headers are read.
        (2, 1536, 1e-3, 2),
        (2, 60_000, 1e-3, 8),
    ],
)
def test_make_plan_uses_threads_where_they_are_faster(
    tmp_path, monkeypatch, processors, mean, seconds, threads
):
    monkeypatch.setattr(parallel_scan, "_processors", lambda: processors)
    path = tmp_path / "empty.tar"
    with open(path, "wb") as file:
        file.truncate(100_000 * mean)
    with open_storage(path, "pread") as storage:
        plan = make_plan(storage, 100, 100 * mean, 100 * seconds)
    assert (plan and plan.threads) == threads
