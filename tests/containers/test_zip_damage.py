"""Damaged and hostile ZIP archives."""

import errno
import io
import logging
import random
import stat
import struct
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.zip_cases import (
    FULL,
    GOOD,
    CopyStorage,
    as_dicts,
    build,
    content,
    member,
    names,
    scan,
    zip64,
)

import imagearchive
from imagearchive import NpzWriter, ZipWriter
from imagearchive.containers.rows import (
    KIND_ENCRYPTED,
    KIND_FILE,
    KIND_SYMLINK,
)
from imagearchive.containers.zip import scan as scanner
from imagearchive.errors import CorruptArchiveError, UnsupportedArchiveError
from imagearchive.storage.local import MemoryStorage


def test_scan_bad_link_target_raises():
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


@pytest.mark.parametrize(
    "bad",
    [
        member(b"bad", b"123", size=4),
        member(b"bad", b"123", stored=4),
        member(b"bad", b"123", size=1 << 30, stored=1 << 30),
        member(b"bad", b"123", 8, size=1 << 30),
        member(b"bad", b"123", 8, stored=1 << 30),
        member(b"bad", b"123", offset=1),
        member(b"bad", b"123", offset=FULL - 1),
        member(b"bad", b"123", offset=FULL, extra=zip64(1 << 63)),
        member(b"bad", b"123", offset=FULL, extra=zip64((1 << 64) - 1)),
        member(b"bad", b"123", size=FULL, stored=FULL, extra=zip64(1 << 63, 1 << 63)),
        member(b"bad", b"123", size=FULL, stored=FULL, extra=zip64(1 << 40, 1 << 40)),
    ],
)
def test_scan_false_record_raises_or_leaves_the_others(bad, caplog):
    data = build(GOOD, bad, member(b"last", b"last"))
    with pytest.raises(CorruptArchiveError, match=r"x\.zip: .* at offset \d+: "):
        scan(data)
    with caplog.at_level(logging.INFO):
        rows = scan(data, strict=False)
    assert [rows.name(row) for row in range(rows.rows)] == [b"good", b"last"]
    assert "1 member is damaged" in caplog.text
    assert as_dicts(scanner.scan(CopyStorage(data), strict=False)) == as_dicts(rows)


def test_scan_overlapping_members_raise():
    twice = build(GOOD, member(b"good", b"good data", offset=0))
    inner = build(member(b"in", b"x" * 40))[:72]
    nested = build(member(b"out", inner), member(b"in", b"x" * 40, offset=33))
    for data in (twice, nested):
        with pytest.raises(CorruptArchiveError, match="overlaps"):
            scan(data)
        assert len(names(data, strict=False)) == 1


def test_scan_overlap_bomb_gives_one_member():
    kernel = build(member(b"0", bytes(10**6), 8))
    end = kernel.index(b"PK\1\2")
    local, record = kernel[:end], kernel[end : end + 47]
    count = 1000
    data = local + record * count
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, 47 * count, len(local), 0)
    with pytest.raises(CorruptArchiveError, match="overlaps"):
        scan(data + tail)
    assert scan(data + tail, strict=False).rows == 1


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
def test_scan_truncated_archive_raises_or_reads_right(number, strict):
    data = _sample_archives()[number]
    expected = {one["name"]: content(data, one) for one in as_dicts(scan(data))}
    lengths = {*range(0, len(data), 97), *range(len(data) - 60, len(data))}
    for length in sorted(lengths):
        cut = data[:length]
        with suppress(CorruptArchiveError, UnsupportedArchiveError):
            for one in as_dicts(scan(cut, strict)):
                assert content(cut, one) == expected[one["name"]]


def test_scan_without_directory_finds_whole_members(caplog):
    data = _sample_archives()[0]
    entries = as_dicts(scan(data))
    with caplog.at_level(logging.WARNING):
        rows = scan(data[: entries[1]["offset"] + 1], strict=False)
    assert "1 member found" in caplog.text
    assert [rows.name(row) for row in range(rows.rows)] == [b"a.npy"]
    (found,) = as_dicts(rows)
    assert content(data, found) == content(data, entries[0])


@pytest.mark.parametrize("kind", ["zip", "npz"])
def test_scan_without_directory_finds_members_of_our_own_archives(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        with ZipWriter(path) as writer:
            writer.add("a.txt", b"first")
            writer.add("b.txt", bytes(5000))
    else:
        with NpzWriter(path) as writer:
            writer.append(images=np.zeros((8, 8, 3), np.uint8), labels=1)
    data = path.read_bytes()
    expected = as_dicts(scan(data))
    found = as_dicts(scan(data[:-22], strict=False))
    assert [(one["name"], content(data, one)) for one in found] == [
        (one["name"], content(data, one)) for one in expected
    ]


def test_scan_without_directory_finds_members_after_an_encrypted_one():
    data = build(member(b"a", b"x" * 100, flags=1, payload=bytes(112)), member(b"b", b"y"))
    found = as_dicts(scan(data[: data.index(b"PK\1\2")], strict=False))
    assert [(one["name"], one["kind"]) for one in found] == [
        (b"a", KIND_ENCRYPTED),
        (b"b", KIND_FILE),
    ]


def test_damaged_deflated_member_is_named_once(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(build(member(b"a/b", bytes(100), 8, payload=b"\xff" * 10)))
    with (
        imagearchive.open(path) as archive,
        archive.open("a/b") as file,
        pytest.raises(CorruptArchiveError) as error,
    ):
        file.read(5)
    assert str(error.value).startswith(f"{path}: 'a/b': deflate stream at offset 33: ")


def test_scan_without_directory_ends_at_an_impossible_size():
    sizes = struct.pack("<2H2Q", 1, 16, 2**64 - 1, 5)
    lie = member(b"b", method=8, payload=bytes(5), local_extra=sizes, local_sizes=(0, FULL, FULL))
    data = build(member(b"a", b"x"), lie, member(b"c", b"z"))
    found = as_dicts(scan(data[: data.index(b"PK\1\2")], strict=False))
    assert [one["name"] for one in found] == [b"a"]


@pytest.mark.parametrize("number", range(3))
def test_scan_flipped_bytes_raise_or_read_right(number):
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


@settings(max_examples=150)
@given(st.binary(max_size=400), st.data())
def test_scan_noise_raises_only_archive_errors(noise, data):
    base = bytearray(_sample_archives()[2])
    at = data.draw(st.integers(0, len(base)))
    base[at : at + len(noise)] = noise
    for storage in (MemoryStorage(base), CopyStorage(base)):
        for strict in (True, False):
            with suppress(CorruptArchiveError, UnsupportedArchiveError):
                scanner.scan(storage, strict)


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
        assert archive.left_out.counts == {"damaged": 1}
    assert "1 member is left out or cannot be read: damaged (1); such as 'bad'" in caplog.text


@pytest.mark.parametrize(
    "different",
    [{"local_method": 8}, {"local_sizes": (0, 2, 3)}, {"local_sizes": (0, 3, 2)}],
    ids=["method", "stored size", "size"],
)
@pytest.mark.parametrize("storage", ["mmap", "pread"])
def test_member_with_other_local_method_or_size_is_refused_when_read(tmp_path, storage, different):
    path = tmp_path / "sizes.zip"
    path.write_bytes(
        build(member(b"a", b"1"), member(b"bad", b"123", **different), member(b"b", b"2"))
    )
    with zipfile.ZipFile(path) as peer:
        assert peer.read("a") == b"1"
    with imagearchive.open(path, storage=storage) as archive:
        assert (archive["a"], archive["b"]) == (b"1", b"2")
        with pytest.raises(CorruptArchiveError, match=r"sizes\.zip.*bad.*another method or size"):
            archive.read("bad")
        assert archive.left_out.counts == {"damaged": 1}
    rows = scanner.scan(MemoryStorage(path.read_bytes(), "sizes.zip"), strict=False)
    assert [rows.name(row) for row in range(rows.rows)] == [b"a", b"b"]
    assert [one.name for one in rows.left_out.members] == ["bad"]


def test_scan_other_local_name_is_left_out_unless_strict(caplog):
    data = build(member(b"good", b"1"), member(b"bad", b"22", local_name=b"sad"))
    with caplog.at_level(logging.INFO):
        rows = scanner.scan(MemoryStorage(data, "x.zip"), strict=False)
    assert [rows.name(row) for row in range(rows.rows)] == [b"good"]
    assert "another name" in caplog.text


def test_scan_other_local_name_may_not_hide_an_overlap():
    data = build(member(b"a", b"12345678"), member(b"b", b"1", local_name=b"c", offset=0))
    with pytest.raises(CorruptArchiveError, match="overlaps"):
        scanner.scan(MemoryStorage(data, "x.zip"))
