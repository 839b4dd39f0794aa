"""Scans TAR archives, and compares the rows with those of `tarfile`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from oracles.tar_scanner import tar_content, tar_rows

from imagearchive.containers.rows import (
    KIND_SPARSE,
    RowBuffer,
)
from imagearchive.containers.tar import scan as tar
from imagearchive.containers.tar.sparse import SparseStorage
from imagearchive.storage.local import MemoryStorage, open_storage
from support import tar_cases as cases

GOOD = cases.member(b"a", b"1" * 600) + cases.member(b"b", b"2")
# Many examples share one temporary folder; each writes its file anew.
RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)


class RemoteStorage:
    """Bytes that only come in copies, as from a server."""

    path = "remote.tar"
    zero_copy = False

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        assert 0 <= offset <= offset + size <= self.size
        return self._data[offset : offset + size]


def scan(data: bytes, strict: bool = True) -> RowBuffer:
    return tar.scan(MemoryStorage(data, "test.tar"), strict)


def names(rows: RowBuffer) -> list[bytes]:
    return [rows.name(row) for row in range(rows.rows)]


def facts(rows: RowBuffer) -> list[tuple[object, ...]]:
    """What the reference knows of each row."""
    fields = ["kind", "offset", "size", "header_offset", "mtime", "mode"]
    return [
        (rows.name(row).rstrip(b"/"), rows.link(row), *entry)
        for row, entry in enumerate(rows.entries[: rows.rows][fields].tolist())
    ]


def same_rows(one: RowBuffer, other: RowBuffer) -> None:
    assert one.rows == other.rows
    assert one.entries[: one.rows].tobytes() == other.entries[: one.rows].tobytes()
    for column in ("name_ends", "link_ends"):
        np.testing.assert_array_equal(
            getattr(one, column)[: one.rows], getattr(other, column)[: one.rows]
        )
    assert one.names[: one.name_bytes].tobytes() == other.names[: one.name_bytes].tobytes()


def content(storage: object, rows: RowBuffer, row: int) -> bytes:
    entry = rows.entries[row]
    if entry["kind"] == KIND_SPARSE:
        sparse = SparseStorage(storage, int(entry["header_offset"]), "sparse")
        assert sparse.size == entry["size"]
        return bytes(sparse.read(0, sparse.size))
    return bytes(storage.read(int(entry["offset"]), int(entry["size"])))


def check_against_tarfile(path: Path) -> RowBuffer:
    """Every row and every byte as `tarfile` has it, whatever the storage."""
    with open_storage(path, "mmap") as mapped, open_storage(path, "pread") as copied:
        rows = tar.scan(mapped)
        same_rows(rows, tar.scan(copied))
        same_rows(rows, tar.scan(RemoteStorage(path.read_bytes())))
        expected = tar_rows(path)
        assert facts(rows) == [tuple(row) for row in expected]
        for row, data in enumerate(tar_content(path)):
            if data is not None:
                assert content(copied, rows, row) == data
    return rows


def check_bytes(tmp_path: Path, data: bytes) -> RowBuffer:
    path = tmp_path / "made.tar"
    path.write_bytes(data)
    return check_against_tarfile(path)


PARTS = [(0, 3), (10, 5), (700, 512), (1300, 1), (2000, 7), (5000, 0)]
REAL_SIZE = 5000
STORED = os.urandom(sum(length for _, length in PARTS))


def sparse_member(version: str, parts=PARTS, real_size=REAL_SIZE, data=STORED) -> bytes:
    if version == "old":
        return cases.old_sparse(b"sparse", parts, real_size, data, per_block=2)
    return cases.pax_sparse(b"sparse", parts, real_size, data, version)


VERSIONS = ["old", *cases.SPARSE_VERSIONS]
