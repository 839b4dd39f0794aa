"""Sparse members of TAR archives."""

from __future__ import annotations

import os

import numpy as np
import pytest
from support import tar_cases as cases
from support.tar_rows import (
    GOOD,
    PARTS,
    REAL_SIZE,
    STORED,
    VERSIONS,
    RemoteStorage,
    content,
    names,
    same_rows,
    scan,
    sparse_member,
)

from imagearchive.containers.rows import (
    KIND_SPARSE,
)
from imagearchive.containers.tar import scan as tar
from imagearchive.containers.tar.sparse import SparseStorage, sparse_map
from imagearchive.errors import ClosedError, CorruptArchiveError
from imagearchive.storage.local import MemoryStorage, open_storage


@pytest.mark.parametrize("version", VERSIONS)
def test_sparse_storage_reads_as_if_extracted(tmp_path, version):
    data = cases.member(b"a", b"1") + sparse_member(version) + cases.member(b"b", b"2") + cases.END
    rows = scan(data)
    assert names(rows) == [b"a", b"sparse", b"b"]
    entry = rows.entries[1]
    assert entry["kind"] == KIND_SPARSE
    assert entry["size"] == REAL_SIZE
    assert entry["stored_size"] == len(STORED)
    storage = MemoryStorage(data)
    assert bytes(storage.read(int(entry["offset"]), len(STORED))) == STORED
    real_size, parts, offset = sparse_map(storage, int(entry["header_offset"]))
    assert (real_size, offset) == (REAL_SIZE, entry["offset"])
    assert parts.dtype == np.int64
    assert parts.tolist() == [list(part) for part in PARTS if part[1]]

    whole = cases.expanded(PARTS, REAL_SIZE, STORED)
    sparse = SparseStorage(storage, int(entry["header_offset"]), "x.tar/sparse")
    assert (sparse.size, sparse.path) == (REAL_SIZE, "x.tar/sparse")
    edges = sorted({0, 1, 2, 3, 4, 9, 10, 15, 699, 700, 1211, 1212, 1300, 1301, 2006, 2007, 5000})
    for start in edges:
        for stop in edges:
            if start <= stop:
                assert bytes(sparse.read(start, stop - start)) == whole[start:stop]
                target = bytearray(b"\xff" * (stop - start))
                assert sparse.readinto(start, target) == stop - start
                assert target == whole[start:stop]
    for offset, size in ((-1, 1), (0, -1), (0, 5001), (5001, 0), (2**70, 1)):
        with pytest.raises(CorruptArchiveError, match="is not within"):
            sparse.read(offset, size)
    sparse.close()
    with pytest.raises(ClosedError):
        sparse.read(0, 1)
    assert bytes(storage.read(0, 1)) == b"a"


def test_scan_sparse_real_name_replaces_the_stand_in():
    stand_in = [(b"path", b"./GNUSparseFile.7/very-long")]
    data = cases.pax_sparse(b"real", PARTS, REAL_SIZE, STORED, "1.0", stand_in)
    assert names(scan(data + cases.END)) == [b"real"]


def test_scan_sparse_pax_size_is_the_stored_size():
    for version in cases.SPARSE_VERSIONS:
        size = len(STORED) + (512 if version == "1.0" else 0)
        extra = [(b"size", b"%d" % size)]
        data = cases.pax_sparse(b"sparse", PARTS, REAL_SIZE, STORED, version, extra)
        rows = scan(data + cases.member(b"b", b"2") + cases.END)
        assert names(rows) == [b"sparse", b"b"]
        assert content(MemoryStorage(data), rows, 0) == cases.expanded(PARTS, REAL_SIZE, STORED)


@pytest.mark.parametrize("version", ["old", "1.0"])
def test_scan_sparse_map_of_many_parts_is_read_once(version):
    parts = [(3 * number, 1) for number in range(20_000)]
    data = os.urandom(len(parts))
    archive = sparse_member(version, parts, 60_000, data) + cases.member(b"b", b"2") + cases.END
    rows = scan(archive)
    assert names(rows) == [b"sparse", b"b"]
    remote = RemoteStorage(archive)
    same_rows(rows, tar.scan(remote))
    # The window grows by doubling: no quadratic reading.
    assert sum(size for _, size in remote.reads) < 6 * len(archive)
    assert content(MemoryStorage(archive), rows, 0) == cases.expanded(parts, 60_000, data)


@pytest.mark.parametrize("version", VERSIONS)
def test_sparse_map_numbers_of_all_lengths_are_read(version):
    parts = [(10**power + (power == 0), 1 + 7 * (power % 2)) for power in range(10)]
    data = os.urandom(sum(length for _, length in parts))
    size, found, _ = sparse_map(
        MemoryStorage(sparse_member(version, parts, 2 * 10**9, data) + cases.END), 0
    )
    assert size == 2 * 10**9
    assert found.tolist() == [list(part) for part in parts]


@pytest.mark.parametrize(
    ("field", "number"),
    [
        (b"00000000144\0", 100),
        (b"00000000144 ", 100),
        (b"        144\0", 100),
        (b"144\0xxxxxxxx", 100),
        (b"\x80" + (100).to_bytes(11, "big"), 100),
        (b"\x80" + (1 << 64).to_bytes(11, "big"), None),
        (b"\x80" + b"\xff" * 11, None),
        (b"00000000149\0", None),
        (b"00000000144x", None),
    ],
)
def test_sparse_map_in_the_old_header_reads_every_kind_of_number(field, number):
    data = bytearray(sparse_member("old", [(0, 7)], 200, b"1234567") + cases.END)
    data[386:398] = field
    data[148:156] = b"%06o\0 " % sum(data[:148] + b" " * 8 + data[156:512])
    if number is None:
        with pytest.raises(CorruptArchiveError, match="map of the sparse file"):
            sparse_map(MemoryStorage(bytes(data)), 0)
    else:
        assert sparse_map(MemoryStorage(bytes(data)), 0)[1].tolist() == [[number, 7]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("parts", "real_size"),
    [
        ([(0, 3), (2, 3)], 100),
        ([(10, 3), (0, 3)], 100),
        ([(99, 2)], 100),
        ([(101, 1)], 100),
        ([(0, 7)], 100),
        ([(0, 2**32), (2**32, 2**32)], 2**34 - 1),
    ],
)
def test_sparse_map_that_contradicts_itself_raises(version, parts, real_size):
    data = sparse_member(version, parts, real_size, b"123456") + cases.END
    rows = scan(data)
    with pytest.raises(CorruptArchiveError, match=r"m\.tar: member 'sparse' at offset 0"):
        sparse_map(MemoryStorage(data, "m.tar"), int(rows.entries[0]["header_offset"]))


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30])
@pytest.mark.parametrize("version", cases.SPARSE_VERSIONS)
def test_sparse_map_near_the_limits_of_64_bits_raises_or_reads(version, number):
    for parts, real_size in (([(number, 1)], 50), ([(0, number)], 50), ([(0, 6)], number)):
        data = sparse_member(version, parts, real_size, b"123456") + cases.END
        if real_size >= 2**63:
            with pytest.raises(CorruptArchiveError):
                scan(data)
        elif real_size == 50:
            with pytest.raises(CorruptArchiveError):
                sparse_map(MemoryStorage(data), int(scan(data).entries[0]["header_offset"]))
        else:
            sparse = SparseStorage(MemoryStorage(data), 0, "sparse")
            assert sparse.size == number
            assert bytes(sparse.read(number - 9, 9)) == bytes(9)


@pytest.mark.parametrize(
    "text",
    [b"", b"1\n0\n", b"x\n0\n6\n", b"2\n0\n6\n", b"-1\n0\n6\n", b"1\n0\n6x\n", b"9" * 40 + b"\n"],
)
def test_sparse_map_malformed_before_the_data_raises(text):
    records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
    records.append((b"GNU.sparse.realsize", b"50"))
    data = cases.pax(records) + cases.member(b"a", cases.pad(text) + b"123456") + cases.END
    with pytest.raises(CorruptArchiveError, match="offset"):
        sparse_map(MemoryStorage(data), int(scan(data).entries[0]["header_offset"]))


@pytest.mark.parametrize("value", [b"0,6,", b"0", b"0,x", b"-1,6", b"0,6,9", b"\xff"])
def test_sparse_map_malformed_in_records_raises(value):
    records = [(b"GNU.sparse.size", b"50"), (b"GNU.sparse.map", value)]
    data = cases.pax(records) + cases.member(b"a", b"123456") + cases.END
    with pytest.raises(CorruptArchiveError, match="map"):
        sparse_map(MemoryStorage(data), int(scan(data).entries[0]["header_offset"]))


@pytest.mark.parametrize(
    "records",
    [
        [(b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9")],
        [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9")],
        [(b"GNU.sparse.realsize", b"9")],
        [(b"GNU.sparse.map", b"0,1")],
        [(b"GNU.sparse.name", b"x")],
    ],
)
def test_scan_incomplete_sparse_records_raise(records):
    """The map or the holes would pass for data."""
    data = (
        GOOD + cases.pax(records) + cases.member(b"a", cases.pad(b"1\n0\n1\n") + b"1") + cases.END
    )
    with pytest.raises(CorruptArchiveError, match="offset 3584: the description of the sparse"):
        scan(data)


def test_sparse_map_of_other_offsets_raises():
    data = cases.member(b"a", b"1") + cases.pax([(b"comment", b"x")], b"g") + cases.END
    storage = MemoryStorage(data, "m.tar")
    with pytest.raises(CorruptArchiveError, match="not a sparse file"):
        sparse_map(storage, 0)
    for offset in (-512, 1, 512, 1024, 2048, len(data), 2**64):
        with pytest.raises(CorruptArchiveError, match=rf"m\.tar: offset {offset}"):
            sparse_map(storage, offset)


@pytest.mark.parametrize("version", ["old", "0.0", "0.1", "1.0"])
def test_scan_file_sparse_map_larger_than_window_is_read(tmp_path, version):
    step = 10_000 if version == "old" else 10**12
    parts = [(step * number, 1) for number in range(14_000)]
    real_size = 14_000 * step
    data = sparse_member(version, parts, real_size, b"x" * len(parts)) + cases.END
    path = tmp_path / "sparse.tar"
    path.write_bytes(data)
    with open_storage(path, "pread") as storage:
        rows = tar.scan(storage)
        assert rows.entries["size"][0] == real_size
        assert len(sparse_map(storage, 0)[1]) == len(parts)
