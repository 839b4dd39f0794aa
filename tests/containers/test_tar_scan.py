"""The TAR scanner against `tarfile`, in windows of any size."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.tar_scanner import tar_rows
from support import tar_cases as cases
from support.tar_rows import (
    GOOD,
    RELAXED,
    check_against_tarfile,
    check_bytes,
    content,
    facts,
    names,
    same_rows,
    scan,
)

from imagearchive.containers.rows import (
    ENTRY_DTYPE,
    KIND_CONTINUATION,
    KIND_DIRECTORY,
    KIND_FILE,
    KIND_HARDLINK,
    KIND_OTHER,
    KIND_SPARSE,
    KIND_SYMLINK,
    RowBuffer,
)
from imagearchive.containers.tar import scan as tar
from imagearchive.errors import CorruptArchiveError
from imagearchive.index.lookup import Lookup
from imagearchive.storage.local import open_storage


def test_entry_dtype_fields_match_native_code():
    rows = scan(cases.member(b"a", b"1" * 600) + cases.member(b"b", b"2", mtime=7, mode=0o640))
    written = dict(zip(ENTRY_DTYPE.names, rows.entries[1].tolist()))
    assert written == {
        "index": 1, "offset": 2048, "size": 1, "stored_size": 1, "header_offset": 1536,
        "mtime": 7 * 10**9, "crc": 0, "shard": 0, "mode": 0o640, "method": 0, "kind": KIND_FILE,
    }  # fmt: skip
    entries = np.zeros(1, ENTRY_DTYPE)
    for value, name in enumerate(ENTRY_DTYPE.names, 1):
        entries[name] = value
    offsets = np.array([0, 1], np.uint64)
    lookup = Lookup(entries, np.zeros(1, np.uint8), offsets, np.zeros(1, np.uint64))
    fields = ("shard", "offset", "size", "stored_size", "method", "kind")
    assert lookup.row(0) == tuple(int(entries[name][0]) for name in fields)


@RELAXED
@given(parts=st.lists(cases.archives(), min_size=1, max_size=3))
def test_scan_generated_archives_matches_tarfile(tmp_path, parts):
    path = tmp_path / "generated.tar"
    path.write_bytes(b"".join(parts))
    check_against_tarfile(path)


@RELAXED
@given(archive=cases.archives(), tail=cases.archives(), random=st.randoms(use_true_random=False))
def test_scan_window_any_windows_give_the_same_rows(archive, tail, random):
    whole = archive + tail
    expected = scan(whole)
    rows, cursor = RowBuffer(random.randint(1, 3)), tar.Cursor(len(whole))
    most = random.choice([1, 600, 20_000])
    while not cursor.done:
        assert cursor.offset <= cursor.need <= len(whole)
        start = cursor.offset - random.randint(0, min(cursor.offset, 700))
        end = min(len(whole), cursor.need + random.randint(0, most))
        tar.scan_window(whole[start:end], start, rows, cursor)
    same_rows(rows, expected)


def test_scan_window_without_the_needed_bytes_changes_nothing():
    whole = cases.member(b"a", b"1") + cases.member(b"b", b"2") + cases.END
    rows, cursor = RowBuffer(), tar.Cursor(len(whole))
    for window, start in ((b"", 0), (whole[:511], 0), (whole[512:], 512)):
        tar.scan_window(window, start, rows, cursor)
        assert (cursor.offset, cursor.need, cursor.done, rows.rows) == (0, 512, False, 0)
    tar.scan_window(whole, 0, rows, cursor)
    assert cursor.done
    assert names(rows) == [b"a", b"b"]


def test_scan_window_outside_the_file_raises():
    cursor = tar.Cursor(1024)
    with pytest.raises(ValueError, match="within the file"):
        tar.scan_window(bytes(1024), 512, RowBuffer(), cursor)
    for size, offset in ((-1, 0), (2**63, 0), (10, 11)):
        with pytest.raises(ValueError, match="must be within"):
            tar.Cursor(size, offset)


def own_testtar() -> Path:
    # Some installations have no tests at all.
    python_tests = pytest.importorskip("test")
    folders = [Path(folder) for folder in python_tests.__path__]
    candidates = [f / part / "testtar.tar" for f in folders for part in ("", "archivetestdata")]
    found = [path for path in candidates if path.exists()]
    if not found:
        pytest.skip("this interpreter was installed without its tests")
    return found[0]


def test_scan_testtar_of_python_matches_tarfile():
    rows = check_against_tarfile(own_testtar())
    assert rows.rows >= 33
    kinds = set(rows.entries[: rows.rows]["kind"].tolist())
    assert {KIND_FILE, KIND_SPARSE, KIND_HARDLINK, KIND_SYMLINK, KIND_DIRECTORY} <= kinds


def test_scan_volume_labels_are_skipped_and_continuations_are_not_files():
    data = b"".join(
        cases.member(b"x", b"12", flag, magic=cases.GNU_MAGIC)
        for flag in (b"V", b"M", b"N", b"V", b"D")
    )
    rows = scan(data + cases.member(b"a", b"1") + cases.END)
    assert rows.entries[: rows.rows]["kind"].tolist() == [
        *(KIND_CONTINUATION, KIND_OTHER, KIND_DIRECTORY, KIND_FILE)
    ]


def test_scan_volume_label_alone_is_an_empty_archive():
    label = cases.member(b"backup", b"", b"V", magic=cases.GNU_MAGIC)
    for data in (label, label + cases.END):
        assert scan(data).rows == 0


def test_scan_volume_label_that_is_cut_is_damage():
    label = cases.member(b"backup", b"1" * 600, b"V", magic=cases.GNU_MAGIC)
    for size in (513, 1112, 1200):
        with pytest.raises(CorruptArchiveError, match="truncated"):
            scan(label[:size])


def test_scan_duplicates_are_all_listed(tmp_path):
    data = cases.member(b"a", b"1") + cases.member(b"b", b"2") + cases.member(b"a", b"33")
    assert names(check_bytes(tmp_path, data + cases.END)) == [b"a", b"b", b"a"]


@pytest.mark.parametrize("zeros", [0, 1, 2, 7, 2000])
def test_scan_concatenated_archives_lists_all_members(tmp_path, zeros):
    one = cases.member(b"a", b"1") + bytes(512 * zeros)
    rows = check_bytes(tmp_path, one + cases.member(b"b", b"2") + one)
    assert names(rows) == [b"a", b"b", b"a"]


@pytest.mark.parametrize(
    "end", [b"", bytes(512), bytes(1024), bytes(10240), bytes(100), bytes(700)]
)
def test_scan_ends_of_archives_are_silent(caplog, end):
    assert names(scan(cases.member(b"a", b"1") + end)) == [b"a"]
    assert not caplog.records


def test_scan_bytes_after_the_end_are_ignored_and_logged(caplog):
    data = cases.member(b"a", b"1") + bytes(1024) + b"rubbish" * 400
    assert names(scan(data)) == [b"a"]
    assert "test.tar" in caplog.text
    assert "offset 2048" in caplog.text


def test_scan_huge_hole_after_the_end_does_not_hang(tmp_path, caplog):
    path = tmp_path / "hole.tar"
    path.write_bytes(GOOD)
    os.truncate(path, 1 << 43)
    for kind in ("pread", "mmap"):
        with open_storage(path, kind) as storage:
            assert names(tar.scan(storage)) == [b"a", b"b"]
    assert "are ignored" in caplog.text


def test_scan_empty_archive_has_no_rows():
    for blocks in (1, 2, 20, 3000):
        assert scan(bytes(512 * blocks)).rows == 0
    for data in (b"", bytes(100)):
        with pytest.raises(CorruptArchiveError, match=r"test\.tar: offset 0"):
            scan(data)


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_scan_members_beyond_8_gib_are_found(tmp_path, kind):
    """On disk as a file with a hole: it takes no room."""
    size, path = 9 * 2**30 + 5, tmp_path / "large.tar"
    if kind == "gnu":
        head = cases.header(b"large", cases.base_256(size, 12), magic=cases.GNU_MAGIC)
    else:
        head = cases.pax([(b"size", b"%d" % size)]) + cases.header(b"large", 0)
    end = len(head) + (size + 511) // 512 * 512
    with open(path, "wb") as file:
        file.write(head)
        file.seek(end)
        file.write(cases.member(b"after", b"after") + cases.END)
    for storage_kind in ("pread", "mmap"):
        with open_storage(path, storage_kind) as storage:
            rows = tar.scan(storage)
            assert rows.entries[:2]["size"].tolist() == [size, 5]
            assert rows.entries[:2]["offset"].tolist() == [len(head), end + 512]
            assert content(storage, rows, 1) == b"after"
    assert facts(rows) == [tuple(row) for row in tar_rows(path)]


@pytest.mark.parametrize("storage_kind", ["pread", "mmap"])
def test_scan_signal_runs_the_handler_during_the_scan(tmp_path, storage_kind):
    """The handler runs during the scan, not after it."""
    path = tmp_path / "long.tar"
    with path.open("wb") as file:
        # Holes read as blocks of zeros, which the scan goes through one by one.
        for number in range(100):
            file.seek(number * (60 << 20))
            file.write(cases.header(b"%d" % number))
        file.truncate(100 * (60 << 20))

    class InterruptedScanError(Exception):
        pass

    def interrupt(*_):
        raise InterruptedScanError

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with open_storage(path, storage_kind) as storage:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(InterruptedScanError) as raised:
                tar.scan(storage)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert any(str(entry.path).endswith("scan.pyx") for entry in raised.traceback)


def test_scan_threads_share_one_storage(tmp_path):
    path = tmp_path / "shared.tar"
    path.write_bytes(GOOD * 3000 + cases.END)
    with open_storage(path, "pread") as storage, ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: tar.scan(storage), range(8)))
    for rows in results:
        same_rows(rows, results[0])
    assert results[0].rows == 6000


def test_scan_large_and_small_members_match_tarfile(tmp_path):
    """The window of `pread` narrows and widens; the rows stay the same."""
    sizes = [5, 100_000, 300, *[10] * 3000, 2_000_000, 1, 50_000, 50_000, 50_000, *[700] * 900]
    path = tmp_path / "mixed.tar"
    with open(path, "wb") as file:
        for number, size in enumerate(sizes):
            file.write(cases.long_name(b"l" * 150) if number % 7 == 0 else b"")
            file.write(cases.header(b"m%d" % number, size))
            file.seek((size + 511) // 512 * 512, os.SEEK_CUR)
        file.write(cases.END)
    rows = check_against_tarfile(path)
    assert rows.entries[: rows.rows]["size"].tolist() == sizes
