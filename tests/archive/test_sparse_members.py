"""Sparse members of a TAR, a few bytes of which describe files of any size."""

from __future__ import annotations

import os
import resource

import pytest
from support import tar_cases

from imagearchive import Archive, ImageArchive
from imagearchive.archive.extract import extract
from imagearchive.archive.verify import verify
from imagearchive.errors import LimitError

VERSIONS = ("old", *tar_cases.SPARSE_VERSIONS)
GIB = 1 << 30


def write_sparse(path, name, parts, size, version="1.0"):
    data = os.urandom(sum(length for _, length in parts))
    if version == "old":
        member = tar_cases.old_sparse(name, parts, size, data)
    else:
        member = tar_cases.pax_sparse(name, parts, size, data, version)
    path.write_bytes(member + tar_cases.END)
    return data


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    ("parts", "size"),
    [
        ([(0, 100), (GIB, 7), (3 * GIB, 5000)], 3 * GIB + 5000),
        ([(2 * GIB, 1)], 3 * GIB),
        ([(0, 0)], GIB),
        ([(0, 3), (5, 4)], 9),
        ([(100_000, 3)], 1_000_000),
    ],
)
def test_extract_sparse_member_writes_holes(tmp_path, version, existing, parts, size):
    path, target = tmp_path / "sparse.tar", tmp_path / "out"
    data = write_sparse(path, b"holes", parts, size, version)
    if existing:
        target.mkdir()
    extract(Archive(path), target)
    with (target / "holes").open("rb") as file:
        status = os.fstat(file.fileno())
        assert status.st_size == size
        assert status.st_blocks * 512 <= len(data) + 8192 * (1 + len(parts))
        for start, length in parts:
            file.seek(start)
            assert file.read(length) == data[:length]
            data = data[length:]


@pytest.fixture
def files_of_1_mib():
    """Let no file of this process become larger, as on a file system that has such a limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("files_of_1_mib")
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("size", [2 << 20, 1 << 62])
def test_extract_member_that_no_file_can_hold_names_it(tmp_path, size, existing):
    path, target = tmp_path / "sparse.tar", tmp_path / "out"
    write_sparse(path, b"holes", [(0, 100)], size)
    if existing:
        target.mkdir()
    with pytest.raises(
        LimitError, match=rf"sparse\.tar: member 'holes' takes {size} bytes"
    ) as info:
        extract(Archive(path), target)
    assert "only the other members" in str(info.value)
    assert "None" not in str(info.value)
    assert not (target / "holes").exists()


def test_extract_sparse_member_with_large_data_is_whole(tmp_path):
    path = tmp_path / "sparse.tar"
    data = write_sparse(path, b"holes", [(1000, 20_000_000)], 30_000_000)
    extract(Archive(path), tmp_path / "out")
    content = (tmp_path / "out" / "holes").read_bytes()
    assert content == bytes(1000) + data + bytes(30_000_000 - 20_001_000)


@pytest.mark.parametrize("version", tar_cases.SPARSE_VERSIONS)
def test_verify_huge_sparse_member_reads_only_its_data(tmp_path, version):
    path = tmp_path / "sparse.tar"
    write_sparse(path, b"holes", [(0, 10), (1 << 61, 100)], (1 << 62) + 100, version)
    result = verify(Archive(path))
    assert result.failures == []
    assert result.files == 1


@pytest.mark.parametrize(
    "read", [lambda path: Archive(path)["x.jpg"], lambda path: ImageArchive(path)[0]]
)
def test_read_sparse_image_mostly_holes_raises(tmp_path, read):
    path = tmp_path / "sparse.tar"
    write_sparse(path, b"x.jpg", [(0, 100)], 3 * GIB)
    with pytest.raises(LimitError, match=r"x\.jpg.*3221225472 bytes, .* the archive holds 100"):
        read(path)


def test_read_sparse_member_that_is_mostly_data_returns_it(tmp_path):
    path = tmp_path / "sparse.tar"
    size = 70 << 20
    data = write_sparse(path, b"data", [(size - 1_000_000, 1_000_000)], size)
    assert Archive(path)["data"] == bytes(size - 1_000_000) + data
