"""The index on disk: its format, and what happens when it is damaged."""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from support.archives import write_tar
from support.index_files import MEMBERS, contents, default_path, read

from imagearchive.archive.archive import Archive
from imagearchive.containers.rows import ENTRY_DTYPE
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    CorruptIndexError,
    StaleIndexError,
    UnsupportedArchiveError,
)
from imagearchive.index import file_format as index_file
from imagearchive.index.column_checks import COLUMNS
from imagearchive.index.table import IndexTable
from imagearchive.storage.location import locate


def sections(path):
    arrays = []
    with open(path, "rb") as file:
        while file.peek(1):
            arrays.append(np.load(file))
    return arrays


def test_index_beside_replaces_the_last_extension():
    assert default_path("/path/to/my/archive.tar") == "/path/to/my/archive.idx.npy"
    assert default_path("/path/to/bins/") == "/path/to/bins.idx.npy"


def test_index_file_is_consecutive_npy_arrays(tar):
    table = IndexTable.open(tar)
    assert table.path == default_path(tar)
    entries, label_values, label_offsets, names, name_offsets, name_order, meta = sections(
        table.path
    )
    # Plain NumPy reads the table of offsets and sizes.
    np.testing.assert_array_equal(np.load(table.path), entries)
    assert entries.dtype == ENTRY_DTYPE
    assert entries["index"].tolist() == list(range(len(MEMBERS)))
    with tarfile.open(tar) as archive:
        assert [m.name for m in archive] == [
            names[int(a) : int(b)].tobytes().decode()
            for a, b in zip(name_offsets, name_offsets[1:])
        ]
        assert entries["offset"].tolist() == [m.offset_data for m in archive.getmembers()]
        assert entries["size"].tolist() == [m.size for m in archive.getmembers()]
    assert label_values.dtype == np.float64
    assert label_offsets.tolist() == list(range(len(MEMBERS) + 1))
    # Classes sort as names do: a, a-b, b.
    assert label_values.tolist() == [2] * 5 + [0] * 5 + [1] * 5
    assert [list(MEMBERS)[row] for row in name_order] == sorted(MEMBERS)
    description = json.loads(meta.tobytes())
    assert description["format"] == "imagearchive-index"
    assert description["archives"][0]["size"] == os.path.getsize(tar)


def test_index_file_sections_are_aligned_and_mapped(tar):
    IndexTable.open(tar)
    table = IndexTable.open(tar)
    base = table.entries
    while getattr(base, "base", None) is not None:
        base = base.base
    assert not table.entries.flags.writeable
    addresses = [getattr(table, name).ctypes.data for name in COLUMNS]
    assert all(address % 64 == 0 for address in addresses)


def test_index_round_trip_keeps_all_columns(tar):
    built = IndexTable.build(tar)
    opened = IndexTable.open(tar)
    again = IndexTable.open(tar)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(built, name), getattr(opened, name))
        np.testing.assert_array_equal(getattr(built, name), getattr(again, name))
    assert contents(again) == MEMBERS
    again.check()


def test_index_built_twice_is_the_same_bytes(tar):
    table = IndexTable.open(tar)
    first = Path(table.path).read_bytes()
    os.unlink(table.path)
    IndexTable.open(tar)
    assert Path(table.path).read_bytes() == first


def test_index_extra_sections_are_kept(tar):
    table = IndexTable.open(tar)
    table.add_extra({"checkpoints": np.arange(10, dtype=np.uint8)})
    again = IndexTable.open(tar)
    assert again.extra["checkpoints"].tolist() == list(range(10))
    assert contents(again) == MEMBERS


def test_index_names_that_are_not_utf8_are_kept(tmp_path):
    path = write_tar(tmp_path / "odd.tar", {"a/\udcff\udcfe.png": b"1", "a/é.png": b"2"})
    IndexTable.open(path)
    table = IndexTable.open(path)
    assert table.find("a/\udcff\udcfe.png") == 0
    assert table.find("a/é.png") == 1
    assert table.name_bytes(0) == b"a/\xff\xfe.png"


def test_index_of_an_empty_archive_is_empty(tmp_path):
    path = write_tar(tmp_path / "empty.tar", {})
    assert len(IndexTable.open(path)) == 0
    assert len(IndexTable.open(path)) == 0


def test_index_of_the_original_image_archive_loads(tmp_path, tar):
    with tarfile.open(tar) as archive:
        rows = [[i, m.offset_data, m.size, i % 3, 0.5] for i, m in enumerate(archive)]
    np.save(tmp_path / "old.npy", np.array(rows))
    table = IndexTable.open(tar, tmp_path / "old.npy")
    assert [bytes(read(table, i)) for i in range(len(table))] == list(MEMBERS.values())
    assert table.labels(4).tolist() == [1, 0.5]
    assert table.name(4) == "00000004"


def test_open_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsupportedArchiveError, match="regular file"):
        IndexTable.open(tmp_path / "pipe")


def test_open_damaged_index_is_rebuilt_or_refused(tar, tmp_path):
    for ipath in (None, tmp_path / "given"):
        table = IndexTable.open(tar, ipath)
        data = Path(table.path).read_bytes()
        for length in [*range(0, len(data), 97), len(data) - 1]:
            with open(table.path, "wb") as file:
                file.write(data[:length])
            if ipath is None:
                assert contents(IndexTable.open(tar)) == MEMBERS
            else:
                with pytest.raises(CorruptIndexError, match="given"):
                    IndexTable.open(tar, ipath)


def test_open_index_with_flipped_bytes_raises_or_reads_right(tar, tmp_path):
    ipath = tmp_path / "given"
    IndexTable.open(tar, ipath)
    data = Path(ipath).read_bytes()
    for position in range(0, len(data), 13):
        flipped = bytearray(data)
        flipped[position] ^= 0x55
        with open(ipath, "wb") as file:
            file.write(flipped)
        try:
            with Archive(tar, ipath) as archive:
                for name in MEMBERS:
                    archive.get(name)
                for row in range(len(archive)):
                    archive.read(row)
                    archive.table.labels(row)
                archive.listdir("a")
            table = IndexTable.load(str(ipath), tar)
            table.check()
        except (CorruptIndexError, CorruptArchiveError, StaleIndexError, NotImplementedError):
            continue
        except KeyError:
            continue
        assert contents(table) == MEMBERS


def test_open_index_of_a_newer_format_says_so(tar, tmp_path):
    path = tmp_path / "new"
    IndexTable.open(tar, path)
    data = path.read_bytes()
    assert data.count(b'"version": 1}') == 1
    path.write_bytes(data.replace(b'"version": 1}', b'"version": 9}'))
    with pytest.raises(CorruptIndexError, match="newer release"):
        IndexTable.open(tar, tmp_path / "new")


def test_open_damaged_archive_raises_unless_not_strict(tar):
    os.truncate(tar, 6000)
    with pytest.raises(CorruptArchiveError, match=r"data\.tar.*\d+"):
        IndexTable.open(tar)
    table = IndexTable.open(tar, strict=False)
    assert 0 < len(table) < len(MEMBERS)
    assert contents(table).items() <= MEMBERS.items()
    # What was built without strict does not satisfy who asks for a whole archive.
    with pytest.raises(CorruptArchiveError):
        IndexTable.open(tar)
    assert len(IndexTable.open(tar, strict=False)) == len(table)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", UnsupportedArchiveError, "complete"),
        (b"hello", UnsupportedArchiveError, "hello"),
        (b"\x1f\x8b\x08\x00" * 200, CorruptArchiveError, "gzip"),
        (b"PK\x03\x04" + b"x" * 600, (CorruptArchiveError, UnsupportedArchiveError), "broken"),
    ],
)
def test_open_file_that_is_not_an_archive_says_what_it_is(tmp_path, data, error, message):
    path = tmp_path / "broken.tar"
    path.write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        IndexTable.open(path)
    assert "broken.tar" in str(caught.value)


def test_open_missing_archive_raises(tmp_path):
    with pytest.raises(ArchiveNotFoundError, match=r"missing\.tar"):
        IndexTable.open(tmp_path / "missing.tar")


@pytest.mark.parametrize(
    "change",
    [
        {"archives": 5}, {"archives": ["x"]}, {"archives": [{}]}, {"directories": 5},
        {"directories": [5]}, {"archives": [{"path": "data.tar", "size": "x"}]},
        {"containers": 7}, {"containers": []}, {"containers": [{"name": "tar", "version": 1}]},
        {"containers": [{"name": "tar", "version": 1, "first_file": 3}]},
        {"containers": [{"name": "rar", "version": 1, "first_file": 0}]},
    ],
)  # fmt: skip
def test_open_index_with_malformed_metadata_builds_again(tar, change):
    table = IndexTable.open(tar)
    columns = {name: getattr(table, name) for name in COLUMNS}
    index_file.save(locate(table.path), columns, {**table.meta, **change})
    assert contents(IndexTable.open(tar)) == MEMBERS


def test_index_repr_is_one_line(tmp_path):
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    assert repr(IndexTable.open(path)) == f"IndexTable([{str(path)!r}], {len(MEMBERS)} members)"
