"""The ZIP scanner against `zipfile` and against archives made by hand."""

import io
import random
import struct
import threading
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import zip_scanner as reference_zip
from support.zip_cases import CopyStorage, as_dicts, build, content, member, names, scan

from imagearchive.containers.rows import (
    KIND_DIRECTORY,
    KIND_ENCRYPTED,
    KIND_FILE,
    KIND_OTHER,
    KIND_SYMLINK,
    RowBuffer,
)
from imagearchive.containers.zip import records as zip_records
from imagearchive.containers.zip import scan as scanner
from imagearchive.storage.local import MemoryStorage, MmapStorage, PreadStorage


def zipped(members, comment=b"", prefix=b"", seekable=True):
    """An archive as zipfile writes it."""
    buffer = io.BytesIO()
    buffer.write(prefix)
    if not seekable:
        buffer.seekable = lambda: False
        buffer.tell = _refuse
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data, method, date, mode in members:
            info = zipfile.ZipInfo(name, date)
            info.compress_type = method
            info.external_attr = mode << 16
            archive.writestr(info, data)
        archive.comment = comment
    return buffer.getvalue()


def _refuse(*_):
    raise OSError("not seekable")


DATES = st.tuples(
    st.integers(1980, 2107),
    st.integers(1, 12),
    st.integers(1, 28),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 29).map(lambda value: 2 * value),
)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
MEMBERS = st.lists(
    st.tuples(
        NAMES,
        st.binary(max_size=300) | st.integers(0, 2000).map(bytes),
        st.sampled_from([0, 8, 12, 14]),
        DATES,
        st.sampled_from([0o100644, 0o100755, 0, 0o40755, 0o10644]),
    ),
    max_size=8,
)
# Signatures in what surrounds the records mislead zipfile; tests of their own put them there.
FOREIGN = st.binary(max_size=60).filter(lambda data: b"PK" not in data)


@settings(max_examples=80)
@given(MEMBERS, FOREIGN, FOREIGN, st.booleans())
def test_scan_generated_archives_matches_zipfile(members, comment, prefix, seekable):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicate name")
        data = zipped(members, comment, prefix, seekable)
    expected = reference_zip.rows(data)
    assert as_dicts(scan(data)) == expected
    assert as_dicts(scanner.scan(CopyStorage(data))) == expected
    assert scanner.sniff(MemoryStorage(data))


def test_scan_every_storage_gives_the_same_rows(tmp_path):
    path = tmp_path / "many.zip"
    rng = random.Random(1)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(3000):
            size = rng.choice([0, 1, 100, 5000, 40000 if number % 100 == 0 else 7])
            method = rng.choice([0, 8])
            archive.writestr(f"{'d' * (number % 50)}/{number}é.bin", bytes(size), method)
    expected = reference_zip.rows(path.read_bytes())
    for kind in (MmapStorage, PreadStorage):
        with kind(path) as storage:
            assert as_dicts(scanner.scan(storage)) == expected
    remote = CopyStorage(path.read_bytes())
    assert as_dicts(scanner.scan(remote)) == expected
    assert remote.reads < 200


def test_scan_directory_order_is_kept():
    data = build(member(b"x", b"1" * 5000), member(b"y", b"2"), member(b"z", b"3"))
    start = data.index(b"PK\1\2")
    records = [data[start + 47 * i : start + 47 * (i + 1)] for i in range(3)]
    data = data[:start] + records[2] + records[0] + records[1] + data[start + 141 :]
    assert names(data) == [b"z", b"x", b"y"]
    assert [content(data, entry) for entry in as_dicts(scan(data))] == [b"3", b"1" * 5000, b"2"]
    assert as_dicts(scanner.scan(CopyStorage(data))) == reference_zip.rows(data)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_scan_savez_longer_local_headers_are_measured(save):
    buffer = io.BytesIO()
    save(buffer, images=np.arange(1000), labels=np.zeros(3))
    data = buffer.getvalue()
    entries = as_dicts(scan(data))
    assert entries == reference_zip.rows(data)
    assert np.array_equal(np.load(io.BytesIO(content(data, entries[0]))), np.arange(1000))


def test_scan_empty_archive_has_no_rows():
    assert names(build()) == []
    assert names(build(comment=b"nothing")) == []
    assert scanner.sniff(MemoryStorage(build()))


def test_scan_member_names_are_decoded():
    path = "日本/é.png".encode()
    raw = bytes(range(128, 256))
    extra = struct.pack("<HHBL", 0x7075, 5 + len(path), 1, zlib.crc32(b"ascii.png")) + path
    stale = struct.pack("<HHBL", 0x7075, 5 + len(path), 1, 1) + path
    data = build(
        member(raw),
        member(path, flags=0x800),
        member(b"\xff\xfe", flags=0x800),
        member(b"ascii.png", extra=extra),
        member(b"renamed.png", extra=stale),
        member(b"dir/"),
        member(b""),
        member(b"x" * 65535),
    )
    found = names(data)
    assert found[0].decode() == raw.decode("cp437")
    assert found[1:7] == [path, b"\xff\xfe", path, b"renamed.png", b"dir/", b""]
    assert found[7] == b"x" * 65535
    assert scan(data).entries["kind"][5] == KIND_DIRECTORY


def test_scan_longest_records_cross_the_window():
    extra = struct.pack("<HH", 0x9999, 65000) + bytes(65000)
    members = [member(f"{i}".encode() * 10000, extra=extra) for i in range(10, 40)]
    data = build(*members)
    assert names(data) == [one["name"] for one in members]
    assert as_dicts(scanner.scan(CopyStorage(data))) == as_dicts(scan(data))


def test_scan_times_are_read_in_utc():
    stamp = struct.pack("<HHBl", 0x5455, 5, 1, -86400)
    data = build(
        member(b"dos", time=(23 << 11) | (59 << 5) | 29, date=(44 << 9) | (2 << 5) | 29),
        member(b"unix", extra=stamp, date=0),
        member(b"none", date=0),
        member(b"access only", extra=struct.pack("<HHBl", 0x5455, 5, 2, 1), date=33),
    )
    assert scan(data).entries["mtime"][:4].tolist() == [
        1709251198 * 10**9,
        -86400 * 10**9,
        0,
        315532800 * 10**9,
    ]


def test_scan_modes_give_kinds():
    def attributes(mode):
        return {"attributes": mode << 16}

    data = build(
        member(b"file", b"1", **attributes(0o100640)),
        member(b"dir/", **attributes(0o40755)),
        member(b"fifo", **attributes(0o10600)),
        member(b"link", b"file", **attributes(0o120777)),
        member(b"packed link", b"target/" * 30, 8, **attributes(0o120777)),
        member(b"secret", b"?" * 12, flags=1, size=3),
        member(b"secret link", b"?" * 12, flags=1, size=3, **attributes(0o120777)),
        member(b"lzma link", b"?" * 12, 14, **attributes(0o120777)),
        member(b"last", b"2"),
        member(b"from standard input", b"3", **attributes(0o10600)),
    )
    rows = scan(data)
    kinds = [KIND_FILE, KIND_DIRECTORY, KIND_OTHER, KIND_SYMLINK, KIND_SYMLINK, KIND_ENCRYPTED]
    kinds += [KIND_ENCRYPTED, KIND_FILE, KIND_FILE, KIND_FILE]
    assert rows.entries["kind"][: rows.rows].tolist() == kinds
    assert rows.entries["mode"][:4].tolist() == [0o640, 0o755, 0o600, 0o777]
    assert rows.entries["method"][7] == 14
    links = [rows.link(row) for row in range(rows.rows)]
    assert links == [b"", b"", b"", b"file", b"target/" * 30, b"", b"", b"", b"", b""]
    assert [rows.name(row) for row in (0, 3, 4, 5, 8)] == [
        b"file", b"link", b"packed link", b"secret", b"last",
    ]  # fmt: skip


def test_scan_data_descriptors_are_read():
    data = build(member(b"a", b"12345", flags=8), member(b"b", bytes(900), 8, flags=8))
    assert [content(data, entry) for entry in as_dicts(scan(data))] == [b"12345", bytes(900)]


def test_scan_threads_give_the_same_rows(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(build(*[member(b"%d" % i, b"x" * i) for i in range(500)]))
    expected = reference_zip.rows(path.read_bytes())
    wrong = []

    def work():
        with PreadStorage(path) as storage:
            if as_dicts(scanner.scan(storage)) != expected:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_central_records_without_reserved_room_raises():
    rows = RowBuffer(1)
    column = np.empty(1, np.uint64), np.empty(1, np.uint16)
    with pytest.raises(ValueError, match="reserve"):
        zip_records.central_records(bytes(4600), rows, *column, 0, 0)


def test_local_headers_of_file_pauses_for_signals(tmp_path):
    path = tmp_path / "a.zip"
    # Large enough that each header is read by itself.
    data = build(member(b"a", bytes(10_000)), member(b"a", bytes(10_000)))
    path.write_bytes(data)
    directory = data[data.index(b"PK\1\2") : data.index(b"PK\5\6")]
    count = 10_000
    window = directory * (count // 2)
    rows = RowBuffer(count)
    rows.reserve(count + len(window) // 46, 4 * len(window))
    room = len(rows.entries)
    digests, lengths = np.empty(room, np.uint64), np.empty(room, np.uint16)
    zip_records.central_records(window, rows, digests, lengths, 0, 0)
    with PreadStorage(path) as storage:
        row, code, _ = zip_records.local_headers_of_file(
            storage.fileno(), rows, digests, lengths, 0, storage.size
        )
        assert code == zip_records.Code.PAUSE
        assert 0 < row < count
        while code == zip_records.Code.PAUSE:
            row, code, _ = zip_records.local_headers_of_file(
                storage.fileno(), rows, digests, lengths, row, storage.size
            )
    assert (row, code) == (count, zip_records.Code.FINE)
    assert set(rows.entries["offset"][:count].tolist()) == {31, 31 + 10_000 + 31}
