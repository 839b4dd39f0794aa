"""Archives that GNU tar writes, against `tarfile` and the files on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support import tar_cases as cases
from support.tar_rows import (
    check_against_tarfile,
    content,
    names,
    scan,
)

from imagearchive.containers.rows import (
    KIND_DIRECTORY,
    KIND_FILE,
    KIND_HARDLINK,
    KIND_OTHER,
    KIND_SPARSE,
    KIND_SYMLINK,
    RowBuffer,
)
from imagearchive.containers.tar import scan as tar
from imagearchive.containers.tar.sparse import sparse_map
from imagearchive.storage.local import open_storage


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    if not cases.have_gnu_tar():
        pytest.skip("tar is not GNU's here")
    short = tmp_path_factory.mktemp("short")
    cases.make_tree(short, long_names=False)
    full = tmp_path_factory.mktemp("full")
    cases.make_tree(full)
    return {"v7": short, "oldgnu": full, "gnu": full, "ustar": short, "posix": full}


def check_against_disk(path: Path, folder: Path) -> RowBuffer:
    with open_storage(path, "pread") as storage:
        rows = tar.scan(storage)
        first = {}
        for row, name in enumerate(names(rows)):
            on_disk = os.fsencode(folder) + b"/" + name
            entry = rows.entries[row]
            assert entry["mode"] == os.lstat(on_disk).st_mode & 0o7777
            if entry["kind"] in (KIND_FILE, KIND_SPARSE):
                assert content(storage, rows, row) == Path(os.fsdecode(on_disk)).read_bytes()
                first[name] = row
            elif entry["kind"] == KIND_SYMLINK:
                assert rows.link(row) == os.readlink(on_disk)
            elif entry["kind"] == KIND_HARDLINK:
                assert rows.link(row) in first
            elif entry["kind"] == KIND_DIRECTORY:
                assert os.path.isdir(on_disk)
            else:
                assert entry["kind"] == KIND_OTHER
                assert name == b"pipe"
    found = {os.path.normpath(os.fsdecode(name)) for name in names(rows)}
    on_disk = {
        os.path.relpath(os.path.join(base, name), folder)
        for base, folders, files in os.walk(folder)
        for name in [*folders, *files]
    }
    assert found == on_disk
    return rows


@pytest.mark.parametrize("tar_format", cases.GNU_FORMATS)
def test_scan_gnu_tar_formats_match_tarfile(tree, tmp_path, tar_format):
    folder = tree[tar_format]
    if tar_format == "v7":
        # The oldest format has no FIFOs.
        options = ["--format=v7", "--exclude=pipe"]
        path = tmp_path / "gnu.tar"
        cases.gnu_tar(path, folder, *options)
        assert b"pipe" not in names(check_against_tarfile(path))
        return
    path = tmp_path / "gnu.tar"
    cases.gnu_tar(path, folder, f"--format={tar_format}")
    check_against_disk(path, folder)
    check_against_tarfile(path)


@pytest.mark.parametrize("version", cases.SPARSE_VERSIONS)
def test_scan_gnu_tar_sparse_pax_matches_tarfile(tree, tmp_path, version):
    path = tmp_path / "sparse.tar"
    cases.gnu_tar(path, tree["posix"], "--format=posix", "--sparse", f"--sparse-version={version}")
    rows = check_against_disk(path, tree["posix"])
    sparse = rows.entries[: rows.rows]["kind"] == KIND_SPARSE
    assert np.count_nonzero(sparse) == 2
    check_against_tarfile(path)


@pytest.mark.parametrize("tar_format", ["gnu", "oldgnu"])
def test_scan_gnu_tar_sparse_extension_blocks_match_tarfile(tree, tmp_path, tar_format):
    path = tmp_path / "sparse.tar"
    cases.gnu_tar(path, tree[tar_format], f"--format={tar_format}", "--sparse")
    rows = check_against_disk(path, tree[tar_format])
    largest = int(np.argmax(rows.entries[: rows.rows]["size"]))
    with open_storage(path) as storage:
        # More than fit the header and one block.
        assert len(sparse_map(storage, int(rows.entries[largest]["header_offset"]))[1]) > 25
    check_against_tarfile(path)


def test_scan_incremental_dump_times_are_not_a_prefix(tree, tmp_path):
    path = tmp_path / "incremental.tar"
    cases.gnu_tar(path, tree["gnu"], "--format=gnu", "--incremental")
    rows = scan(path.read_bytes())
    assert b"a.txt" in names(rows)
    found = dict(zip(names(rows), rows.entries["kind"].tolist()))
    assert found[b"deep/"] == KIND_DIRECTORY
    check_against_tarfile(path)
