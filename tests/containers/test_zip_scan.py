"""The ZIP scanner against zipfile, against hand-made archives and against damage."""

import errno
import io
import logging
import os
import random
import stat
import struct
import threading
import tracemalloc
import warnings
import zipfile
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import zip_scanner as reference_zip

import imagearchive
from imagearchive.containers.rows import (
    ENTRY_DTYPE,
    KIND_DIRECTORY,
    KIND_ENCRYPTED,
    KIND_FILE,
    KIND_OTHER,
    KIND_SYMLINK,
    RowBuffer,
)
from imagearchive.containers.zip import records as zip_records
from imagearchive.containers.zip import scan as scanner
from imagearchive.errors import CorruptArchiveError, UnsupportedArchiveError
from imagearchive.storage.deflate import inflate
from imagearchive.storage.local import MemoryStorage, MmapStorage, PreadStorage

FULL = 0xFFFFFFFF


class CopyStorage:
    """Storage without a descriptor whose reads are copies, as a remote one's are."""

    def __init__(self, data, path="remote"):
        self.data, self.path, self.size = bytes(data), path, len(data)
        self.reads = 0

    def read(self, offset, size):
        assert 0 <= offset <= offset + size <= self.size
        self.reads += 1
        return bytearray(self.data[offset : offset + size])

    def readinto(self, offset, buffer):
        raise AssertionError

    def close(self):
        pass


def member(name=b"a", data=b"", method=0, flags=0, **other):
    return {"name": name, "data": data, "method": method, "flags": flags} | other


def build(*members, prefix=b"", comment=b"", shift=0, **end):
    """A ZIP archive in which every field can be made a lie."""
    out = bytearray(prefix)
    directory = b""
    for one in members:
        data = one["data"]
        if one["method"] == 8:
            packer = zlib.compressobj(6, zlib.DEFLATED, -15)
            payload = packer.compress(data) + packer.flush()
        else:
            payload = data
        payload = one.get("payload", payload)
        crc = one.get("crc", zlib.crc32(data))
        size, stored = one.get("size", len(data)), one.get("stored", len(payload))
        time, date = one.get("time", 0), one.get("date", 33)
        offset = one.get("offset", len(out) - shift)
        local_extra, extra = one.get("local_extra", b""), one.get("extra", b"")
        local_name = one.get("local_name", one["name"])
        sizes = one.get("local_sizes", (crc, stored, size))
        if one["flags"] & 8:
            sizes = (0, 0, 0)
        local_method = one.get("local_method", one["method"])
        out += struct.pack("<4s5H", b"PK\3\4", 20, one["flags"], local_method, time, date)
        out += struct.pack("<3L2H", *sizes, len(local_name), len(local_extra))
        out += local_name + local_extra + payload
        if one["flags"] & 8:
            out += struct.pack("<4s3L", b"PK\7\x08", crc, stored, size)
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 3 << 8 | 20, 20, one["flags"], one["method"], time, date,
            crc, stored, size, len(one["name"]), len(extra), 0, one.get("disk", 0), 0,
            one.get("attributes", 0), offset,
        ) + one["name"] + extra  # fmt: skip
    start = len(out)
    out += directory
    if "end64" in end:
        fields = {"entries": len(members), "size": len(directory), "offset": start - shift}
        fields |= end["end64"]
        at = len(out) - shift
        out += struct.pack(
            "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0,
            fields["entries"], fields["entries"], fields["size"], fields["offset"],
        )  # fmt: skip
        out += struct.pack("<4sLQL", b"PK\6\7", 0, fields.get("at", at), 1)
    entries = end.get("entries", len(members))
    out += struct.pack(
        "<4s4H2LH", b"PK\5\6", end.get("this_disk", 0), end.get("directory_disk", 0),
        end.get("here", entries), entries, end.get("size", len(directory)),
        end.get("offset", start - shift), end.get("comment_size", len(comment)),
    )  # fmt: skip
    return bytes(out) + comment


def scan(data, strict=True):
    return scanner.scan(MemoryStorage(data, "x.zip"), strict)


def as_dicts(rows):
    table = [
        {field: int(rows.entries[field][row]) for field in ENTRY_DTYPE.names}
        for row in range(rows.rows)
    ]
    for row, one in enumerate(table):
        one |= {"name": rows.name(row), "link": rows.link(row)}
    return table


def names(data, strict=True):
    rows = scan(data, strict)
    return [rows.name(row) for row in range(rows.rows)]


def content(data, entry):
    storage = MemoryStorage(data, "x.zip")
    offset, size, stored = (int(entry[key]) for key in ("offset", "size", "stored_size"))
    if entry["method"] == 8:
        return inflate(storage, offset, stored, size, int(entry["crc"]), "x.zip")
    found = bytes(storage.read(offset, stored))
    if zlib.crc32(found) != entry["crc"]:
        raise CorruptArchiveError("CRC")
    return found


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


@settings(max_examples=80, deadline=None)
@given(MEMBERS, FOREIGN, FOREIGN, st.booleans())
def test_matches_zipfile(members, comment, prefix, seekable):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicate name")
        data = zipped(members, comment, prefix, seekable)
    expected = reference_zip.rows(data)
    assert as_dicts(scan(data)) == expected
    assert as_dicts(scanner.scan(CopyStorage(data))) == expected
    assert scanner.sniff(MemoryStorage(data))


def test_every_storage_gives_the_same_rows(tmp_path):
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


def test_order_of_the_directory_is_kept_where_it_is_not_that_of_the_data():
    data = build(member(b"x", b"1" * 5000), member(b"y", b"2"), member(b"z", b"3"))
    start = data.index(b"PK\1\2")
    records = [data[start + 47 * i : start + 47 * (i + 1)] for i in range(3)]
    data = data[:start] + records[2] + records[0] + records[1] + data[start + 141 :]
    assert names(data) == [b"z", b"x", b"y"]
    assert [content(data, entry) for entry in as_dicts(scan(data))] == [b"3", b"1" * 5000, b"2"]
    assert as_dicts(scanner.scan(CopyStorage(data))) == reference_zip.rows(data)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_savez_writes_longer_local_headers(save):
    buffer = io.BytesIO()
    save(buffer, images=np.arange(1000), labels=np.zeros(3))
    data = buffer.getvalue()
    entries = as_dicts(scan(data))
    assert entries == reference_zip.rows(data)
    assert np.array_equal(np.load(io.BytesIO(content(data, entries[0]))), np.arange(1000))


def test_empty_archive():
    assert names(build()) == []
    assert names(build(comment=b"nothing")) == []
    assert scanner.sniff(MemoryStorage(build()))


def test_what_is_no_archive():
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
def test_comment_that_holds_the_magic(comment, prefix, shifted):
    data = build(
        member(b"true", b"1"), member(b"other", b"2"), prefix=prefix, comment=comment,
        shift=len(prefix) if shifted else 0,
    )  # fmt: skip
    assert names(data) == [b"true", b"other"]
    assert [content(data, entry) for entry in as_dicts(scan(data))] == [b"1", b"2"]


def test_stored_archive_inside_an_archive():
    inner = build(member(b"inner", b"1"))
    assert names(build(member(b"x.zip", inner))) == [b"x.zip"]


def test_end_record_behind_junk_or_with_a_cut_comment():
    assert names(build(member(b"a", b"1")) + b"\n\n") == [b"a"]
    assert names(build(member(b"a", b"1"), comment=b"long comment")[:-5]) == [b"a"]


def test_member_names():
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


def test_records_of_greatest_length_cross_the_window():
    extra = struct.pack("<HH", 0x9999, 65000) + bytes(65000)
    members = [member(f"{i}".encode() * 10000, extra=extra) for i in range(10, 40)]
    data = build(*members)
    assert names(data) == [one["name"] for one in members]
    assert as_dicts(scanner.scan(CopyStorage(data))) == as_dicts(scan(data))


def test_times():
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


def test_kinds_and_modes():
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


def test_link_targets_are_bounded_and_checked():
    link = {"attributes": stat.S_IFLNK << 16}
    for bad in (
        member(b"l", b"x" * 70000, **link),
        member(b"l", b"x" * 70000, 8, **link),
        member(b"l", b"abc", crc=1, **link),
        member(b"l", b"abc" * 9, 8, size=26, **link),
        member(b"l", b"abc", 8, payload=b"\xff\xff", **link),
    ):
        data = build(member(b"a", b"1"), bad, member(b"b", b"2"))
        with pytest.raises(CorruptArchiveError, match=r"x\.zip: member 'l' at offset 32.*link"):
            scan(data)
        rows = scan(data, strict=False)
        assert [rows.name(row) for row in range(rows.rows)] == [b"a", b"b"]
        assert rows.entries["index"][:2].tolist() == [0, 1]


def test_data_descriptors():
    data = build(member(b"a", b"12345", flags=8), member(b"b", bytes(900), 8, flags=8))
    assert [content(data, entry) for entry in as_dicts(scan(data))] == [b"12345", bytes(900)]


def zip64(*values, disk=None):
    body = struct.pack(f"<{len(values)}Q", *values)
    body += b"" if disk is None else struct.pack("<L", disk)
    return struct.pack("<HH", 1, len(body)) + body


def test_zip64_fields():
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


def test_more_than_65535_members(tmp_path):
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


def test_archive_beyond_four_gibibytes(tmp_path):
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


def test_multi_disk():
    data = build(
        member(b"here", b"1", disk=2),
        member(b"there", b"2", disk=1, offset=77),
        this_disk=2,
        directory_disk=2,
    )
    entries = as_dicts(scan(data))
    assert [entry["method"] for entry in entries] == [0, scanner.METHOD_OTHER_DISK]
    assert content(data, entries[0]) == b"1"
    for end in ({"this_disk": 2, "directory_disk": 1}, {"here": 1, "entries": 2}):
        with pytest.raises(UnsupportedArchiveError, match="multi-disk"):
            scan(build(member(b"a", b"1"), **end))


GOOD = member(b"good", b"good data", date=33)


@pytest.mark.parametrize(
    "bad",
    [
        member(b"bad", b"123", size=4),
        member(b"bad", b"123", stored=4),
        member(b"bad", b"123", size=1 << 30, stored=1 << 30),
        member(b"bad", b"123", 8, size=1 << 30),
        member(b"bad", b"123", 8, stored=1 << 30),
        member(b"bad", b"123", local_method=8),
        member(b"bad", b"123", local_sizes=(0, 2, 3)),
        member(b"bad", b"123", local_sizes=(0, 3, 2)),
        member(b"bad", b"123", offset=1),
        member(b"bad", b"123", offset=FULL - 1),
        member(b"bad", b"123", offset=FULL, extra=zip64(1 << 63)),
        member(b"bad", b"123", offset=FULL, extra=zip64((1 << 64) - 1)),
        member(b"bad", b"123", size=FULL, stored=FULL, extra=zip64(1 << 63, 1 << 63)),
        member(b"bad", b"123", size=FULL, stored=FULL, extra=zip64(1 << 40, 1 << 40)),
    ],
)
def test_lies_are_refused_and_the_rest_served(bad, caplog):
    data = build(GOOD, bad, member(b"last", b"last"))
    with pytest.raises(CorruptArchiveError, match=r"x\.zip: .* at offset \d+: "):
        scan(data)
    with caplog.at_level(logging.WARNING):
        rows = scan(data, strict=False)
    assert [rows.name(row) for row in range(rows.rows)] == [b"good", b"last"]
    assert "1 members are damaged" in caplog.text
    assert as_dicts(scanner.scan(CopyStorage(data), strict=False)) == as_dicts(rows)


def test_overlapping_members_are_refused():
    twice = build(GOOD, member(b"good", b"good data", offset=0))
    inner = build(member(b"in", b"x" * 40))[:72]
    nested = build(member(b"out", inner), member(b"in", b"x" * 40, offset=33))
    for data in (twice, nested):
        with pytest.raises(CorruptArchiveError, match="overlaps"):
            scan(data)
        assert len(names(data, strict=False)) == 1


def test_overlap_bomb_yields_one_member():
    kernel = build(member(b"0", bytes(10**6), 8))
    end = kernel.index(b"PK\1\2")
    local, record = kernel[:end], kernel[end : end + 47]
    count = 1000
    data = local + record * count
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, 47 * count, len(local), 0)
    with pytest.raises(CorruptArchiveError, match="overlaps"):
        scan(data + tail)
    assert scan(data + tail, strict=False).rows == 1


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
def test_lying_end_records(end):
    data = build(GOOD, member(b"b", b"2"), **end)
    with pytest.raises(CorruptArchiveError):
        scan(data)


def test_many_end_records_take_neither_time_nor_memory():
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


def test_zip64_record_behind_a_lying_locator_is_found_in_its_place():
    for at in (0, 1 << 40, (1 << 64) - 1):
        data = build(GOOD, entries=0xFFFF, size=FULL, offset=FULL, end64={"at": at})
        assert names(data) == [b"good"]


def _sample_archives():
    stored = io.BytesIO()
    np.savez(stored, a=np.arange(30), b=np.array(["x", "yz"]))
    packed = io.BytesIO()
    np.savez_compressed(packed, a=np.arange(30), b=np.array(["x", "yz"]))
    made = build(
        member(b"plain", b"12345"),
        member(b"packed", b"abc" * 40, 8, flags=8),
        member(b"link", b"plain", attributes=0o120777 << 16),
        comment=b"PK\5\6 comment",
    )
    return [stored.getvalue(), packed.getvalue(), made]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("strict", [True, False])
def test_truncation_ends_in_our_error_or_the_right_data(number, strict):
    data = _sample_archives()[number]
    expected = {one["name"]: content(data, one) for one in as_dicts(scan(data))}
    lengths = {*range(0, len(data), 97), *range(len(data) - 60, len(data))}
    for length in sorted(lengths):
        cut = data[:length]
        with suppress(CorruptArchiveError, UnsupportedArchiveError):
            for one in as_dicts(scan(cut, strict)):
                assert content(cut, one) == expected[one["name"]]


def test_salvage_finds_what_is_whole(caplog):
    data = _sample_archives()[0]
    entries = as_dicts(scan(data))
    with caplog.at_level(logging.WARNING):
        rows = scan(data[: entries[1]["offset"] + 1], strict=False)
    assert "1 members found" in caplog.text
    assert [rows.name(row) for row in range(rows.rows)] == [b"a.npy"]
    (found,) = as_dicts(rows)
    assert content(data, found) == content(data, entries[0])


@pytest.mark.parametrize("number", range(3))
def test_flipped_bytes_end_in_our_error_or_the_right_data(number):
    data = _sample_archives()[number]
    expected = [content(data, one) for one in as_dicts(scan(data))]
    rng = random.Random(number)
    for position in range(len(data)):
        wrong = bytearray(data)
        wrong[position] ^= rng.randrange(1, 256)
        with suppress(CorruptArchiveError, UnsupportedArchiveError):
            for one in as_dicts(scan(wrong)):
                if one["kind"] in {KIND_FILE, KIND_SYMLINK} and one["method"] in {0, 8}:
                    assert content(wrong, one) in expected


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.data())
def test_noise_never_escapes_our_errors(noise, data):
    base = bytearray(_sample_archives()[2])
    at = data.draw(st.integers(0, len(base)))
    base[at : at + len(noise)] = noise
    for storage in (MemoryStorage(base), CopyStorage(base)):
        for strict in (True, False):
            with suppress(CorruptArchiveError, UnsupportedArchiveError):
                scanner.scan(storage, strict)


def test_threads_scan_at_once(tmp_path):
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


def test_the_kernel_refuses_room_that_was_not_reserved():
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


@pytest.mark.parametrize("strict", [False, True])
def test_scan_read_error_raises_os_error_that_names_the_file(strict):
    class BrokenDisk(MemoryStorage):
        def fileno(self):
            return 10**6

    with pytest.raises(OSError, match=r"disk\.zip") as raised:
        scanner.scan(BrokenDisk(build(member(b"a", b"1")), "disk.zip"), strict=strict)
    assert raised.value.errno == errno.EBADF
    assert raised.value.filename == "disk.zip"


@pytest.mark.parametrize("method", [0, 8])
@pytest.mark.parametrize("local_name", [b"sad", b"longer", b"", b"BAD"])
@pytest.mark.parametrize("storage", ["mmap", "pread"])
def test_member_with_other_local_name_is_refused_when_read(
    tmp_path, caplog, storage, local_name, method
):
    path = tmp_path / "names.zip"
    path.write_bytes(
        build(
            member(b"good", b"1"),
            member(b"bad", b"22", method, local_name=local_name),
            member(b"last", b"333"),
        )
    )
    with (
        caplog.at_level(logging.WARNING),
        imagearchive.open(path, storage=storage) as archive,
    ):
        assert list(archive) == ["good", "bad", "last"]
        assert bytes(archive.read("good")) == b"1"
        assert bytes(archive.read("last")) == b"333"
        for read in (archive.read, lambda name: archive.open(name).read()):
            with pytest.raises(CorruptArchiveError, match=r"names\.zip.*bad.*another name"):
                read("bad")
    assert "1 members cannot be read; the first: 'bad'" in caplog.text


def test_scan_other_local_name_is_left_out_unless_strict(caplog):
    data = build(member(b"good", b"1"), member(b"bad", b"22", local_name=b"sad"))
    rows = scanner.scan(MemoryStorage(data, "x.zip"), strict=False)
    assert [rows.name(row) for row in range(rows.rows)] == [b"good"]
    assert "another name" in caplog.text


def test_scan_other_local_name_may_not_hide_an_overlap():
    data = build(member(b"a", b"12345678"), member(b"b", b"1", local_name=b"c", offset=0))
    with pytest.raises(CorruptArchiveError, match="overlaps"):
        scanner.scan(MemoryStorage(data, "x.zip"))
