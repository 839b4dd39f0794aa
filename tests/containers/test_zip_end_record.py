"""Where the directory of a ZIP archive is found: comments, prefixes, ZIP64, and disks."""

import io
import os
import struct
import tracemalloc
import zipfile
import zlib

import pytest
from support.zip_cases import FULL, GOOD, as_dicts, build, content, member, names, scan, zip64

import imagearchive
from imagearchive.containers.zip import scan as scanner
from imagearchive.containers.zip.markers import METHOD_OTHER_DISK
from imagearchive.errors import CorruptArchiveError, UnsupportedArchiveError
from imagearchive.storage.local import MemoryStorage, MmapStorage, PreadStorage


def test_scan_bytes_without_an_end_record_raise():
    for data in (b"", b"PK", b"P" * 1000, b"PK\5\6" * 40, build()[:-1]):
        with pytest.raises(CorruptArchiveError, match=r"x\.zip"):
            scan(data)
    assert not scanner.sniff(MemoryStorage(b"GIF89a" * 20))
    assert not scanner.sniff(MemoryStorage(b""))


@pytest.mark.parametrize(
    "comment",
    [
        b"PK\5\6",
        b"see PK\5\6" + bytes(18),
        b"PK\5\6" + bytes(18) + b"and more",
        b"PK\5\6" * 1000,
        build(member(b"other", b"false")),
        build(member(b"other", b"false"), prefix=b"12345"),
        (b"PK\5\6" + b"\xff" * 18) * 100,
        b"PK\1\2" + bytes(42) + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, 46, 0, 0),
    ],
)
@pytest.mark.parametrize("prefix", [b"", b"#!/bin/sh\n" * 30])
@pytest.mark.parametrize("shifted", [False, True])
def test_scan_comment_that_holds_the_magic_is_skipped(comment, prefix, shifted):
    data = build(
        member(b"true", b"1"), member(b"other", b"2"), prefix=prefix, comment=comment,
        shift=len(prefix) if shifted else 0,
    )  # fmt: skip
    assert names(data) == [b"true", b"other"]
    assert [content(data, entry) for entry in as_dicts(scan(data))] == [b"1", b"2"]


def test_scan_archive_inside_an_archive_is_one_member():
    inner = build(member(b"inner", b"1"))
    assert names(build(member(b"x.zip", inner))) == [b"x.zip"]


def test_scan_end_record_before_junk_is_found():
    assert names(build(member(b"a", b"1")) + b"\n\n") == [b"a"]
    assert names(build(member(b"a", b"1"), comment=b"long comment")[:-5]) == [b"a"]


@pytest.mark.parametrize("behind", [b"", b"some bytes behind the end"])
@pytest.mark.parametrize("zip64_limit", [None, 1], ids=["zip32", "zip64"])
@pytest.mark.parametrize("prefix", [b"#" * 10, b"\0" * 512, b"\0" * (1 << 20), b"#" * (1 << 20)])
def test_scan_zip_behind_a_prefix_has_the_members_of_zipfile(
    tmp_path, monkeypatch, prefix, zip64_limit, behind
):
    buffer = io.BytesIO()
    if zip64_limit is not None:
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", zip64_limit)
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("b", b"22" * 100)
    monkeypatch.undo()
    path = tmp_path / "prefixed.zip"
    path.write_bytes(prefix + buffer.getvalue() + behind)
    with zipfile.ZipFile(path) as theirs:
        expected = {name: theirs.read(name) for name in theirs.namelist()}
    assert expected
    with imagearchive.open(path) as ours:
        assert dict(ours) == expected


def test_scan_zip64_fields_are_read():
    data = build(
        member(b"a", b"123", size=FULL, stored=FULL, offset=FULL, extra=zip64(3, 3, 0)),
        member(b"b", b"45", offset=FULL, disk=0xFFFF, extra=zip64(34, disk=0)),
        member(b"c", b"67", size=FULL, extra=b"\x99\x99\0\0" + zip64(2)),
        end64={},
        entries=0xFFFF,
        size=FULL,
        offset=FULL,
    )
    entries = as_dicts(scan(data))
    assert [entry["size"] for entry in entries] == [3, 2, 2]
    assert [content(data, entry) for entry in entries] == [b"123", b"45", b"67"]
    shifted = build(
        member(b"a", b"1"), prefix=b"#" * 99, shift=99, end64={}, entries=0xFFFF, size=FULL,
        offset=FULL,
    )  # fmt: skip
    assert content(shifted, as_dicts(scan(shifted))[0]) == b"1"
    for extra in (b"", zip64(), zip64(3, 3), b"\1\0\xff\0" + bytes(24), b"\1\0"):
        data = build(member(b"a", b"123", size=FULL, stored=FULL, offset=FULL, extra=extra))
        with pytest.raises(CorruptArchiveError, match="ZIP64"):
            scan(data)


def test_scan_more_than_65535_members_are_counted(tmp_path):
    one = build(member(b"0" * 6, b""))
    local, record = one[:36], one[36:88]
    count = 70000
    numbers = [b"%06d" % number for number in range(count)]
    body = b"".join(local[:30] + number for number in numbers)
    directory = b"".join(
        record[:42] + struct.pack("<L", 36 * row) + number for row, number in enumerate(numbers)
    )
    end = struct.pack(
        "<4sQ2H2L4Q4sLQL", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), len(body),
        b"PK\6\7", 0, len(body) + len(directory), 1,
    )  # fmt: skip
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(directory), len(body), 0)
    rows = scan(body + directory + end + tail)
    assert rows.rows == count
    assert rows.name(69999) == b"069999"
    # Without ZIP64, old writers leave the low bits of the number.
    low = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 4464, 4464, len(directory), len(body), 0)
    assert scan(body + directory + low).rows == count
    wrong = end.replace(struct.pack("<Q", count), struct.pack("<Q", count - 1))
    with pytest.raises(CorruptArchiveError, match="counts 69999"):
        scan(body + directory + wrong + tail)


def test_scan_archive_beyond_4_gib_matches_zipfile(tmp_path):
    path = tmp_path / "huge.zip"
    size = 5 << 30
    first = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 33, 0, FULL, FULL, 3, 20)
    first += b"big" + zip64(size, size)
    second = build(member(b"small", b"12345"))[:40]
    with open(path, "wb") as file:
        file.write(first)
        file.seek(size, os.SEEK_CUR)
        at = file.tell()
        file.write(second)
        start = file.tell()
        head = struct.pack("<4s6H", b"PK\1\2", 3 << 8 | 45, 45, 0, 0, 0, 33)
        file.write(head + struct.pack("<3L5H2L", 0, FULL, FULL, 3, 20, 0, 0, 0, 0, 0))
        file.write(b"big" + zip64(size, size))
        file.write(
            head + struct.pack("<3L5H2L", zlib.crc32(b"12345"), 5, 5, 5, 12, 0, 0, 0, 0, FULL)
        )
        file.write(b"small" + zip64(at))
        length = file.tell() - start
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, length, start))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, start + length, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, length, FULL, 0))
    with zipfile.ZipFile(path) as archive:
        expected = [(info.filename, info.file_size) for info in archive.infolist()]
        assert archive.read("small") == b"12345"
    for kind in (MmapStorage, PreadStorage):
        with kind(path) as storage:
            rows = scanner.scan(storage)
            found = [(rows.name(row).decode(), int(rows.entries["size"][row])) for row in (0, 1)]
            assert found == expected
            assert bytes(storage.read(int(rows.entries["offset"][1]), 5)) == b"12345"


def test_scan_multi_disk_archive_raises_or_marks_members():
    data = build(
        member(b"here", b"1", disk=2),
        member(b"there", b"2", disk=1, offset=77),
        this_disk=2,
        directory_disk=2,
    )
    entries = as_dicts(scan(data))
    assert [entry["method"] for entry in entries] == [0, METHOD_OTHER_DISK]
    assert content(data, entries[0]) == b"1"
    for end in ({"this_disk": 2, "directory_disk": 1}, {"here": 1, "entries": 2}):
        with pytest.raises(UnsupportedArchiveError, match="multi-disk"):
            scan(build(member(b"a", b"1"), **end))


@pytest.mark.parametrize(
    "end",
    [
        {"entries": 0},
        {"entries": 1},
        {"entries": 3},
        {"entries": 0xFFFF},
        {"size": 46},
        {"size": 1 << 30},
        {"offset": 1 << 30},
        {"size": 0},
        {"entries": 0xFFFF, "end64": {"entries": 1 << 60}},
        {"entries": 0xFFFF, "size": FULL, "end64": {"size": 1 << 63}},
        {"offset": FULL, "end64": {"offset": (1 << 64) - 1}},
    ],
)
def test_scan_false_end_record_raises(end):
    data = build(GOOD, member(b"b", b"2"), **end)
    with pytest.raises(CorruptArchiveError):
        scan(data)


def test_scan_many_end_records_take_bounded_memory():
    count = 20_000
    record = build(member(b"a"))[31:78]
    assert record[:4] == b"PK\1\2"
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 7, 7, len(record) * count, 0, 0)
    storage = MemoryStorage(record * count + end * 2900, "x.zip")
    scan_of_one = MemoryStorage(record * count + end, "x.zip")
    peaks = []
    for one in (scan_of_one, storage):
        tracemalloc.start()
        with pytest.raises(CorruptArchiveError, match="it counts 7 members, not 20000"):
            scanner.scan(one)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


def test_scan_zip64_record_with_a_false_locator_is_found():
    for at in (0, 1 << 40, (1 << 64) - 1):
        data = build(GOOD, entries=0xFFFF, size=FULL, offset=FULL, end64={"at": at})
        assert names(data) == [b"good"]
