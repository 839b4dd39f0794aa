"""Scanning split bins: other programs' sets, damage, and windows of any size."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bins import packets

import imagearchive
from imagearchive.containers.bins import BinsContainer
from imagearchive.containers.bins.writer import write_split_data
from imagearchive.datasets.bins import SplitDataLoader
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    ImageArchiveError,
)
from imagearchive.storage.location import locate

BINS = BinsContainer()


def scan_path(path, strict=True):
    rows, files = BINS.scan_location(locate(path), strict)
    return rows, [file.path for file in files]


def sniff(path):
    location = locate(path)
    return location.exists() and BINS.sniff_location(location, location.status(), b"")


def test_bins_open_as_archive(split_set):
    folder, data = split_set
    assert sniff(folder)
    with imagearchive.open(folder) as archive:
        assert archive["00000007"] == data[7]
        assert [bytes(archive.read(i)) for i in range(len(archive))] == data
        assert archive.listdir() == [f"{i:08d}" for i in range(len(data))]


def triplets(folder):
    return np.fromfile(os.path.join(folder, "index.dat"), "<u4").reshape(-1, 3)


DAMAGE = {
    "length in the index": (lambda t: t.__setitem__((50, 2), t[50, 2] + 1), "packet 50 at offset"),
    "position": (lambda t: t.__setitem__((50, 1), t[50, 1] + 1), "packet 50 at offset"),
    "beyond the bin": (
        lambda t: t.__setitem__((50, 1), 2**32 - 1),
        "packet 50 at offset 4294967295",
    ),
    "huge length": (lambda t: t.__setitem__((50, 2), 2**32 - 1), "packet 50 at offset"),
    "no such bin": (lambda t: t.__setitem__((50, 0), 777), r"bin00000777\.dat: no such bin"),
    "huge bin": (lambda t: t.__setitem__((50, 0), 2**32 - 1), "bin4294967295"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_bins_scan_wrong_index_raises_with_packet(split_set, kind, caplog):
    folder, data = split_set
    change, message = DAMAGE[kind]
    table = triplets(folder)
    change(table)
    table.tofile(os.path.join(folder, "index.dat"))
    with pytest.raises(CorruptArchiveError, match=message):
        SplitDataLoader(folder)
    with caplog.at_level(logging.WARNING), SplitDataLoader(folder, strict=False) as loader:
        assert list(loader) == data[:50]
    [record] = caplog.records
    assert record.getMessage().startswith(f"{folder}: {len(data) - 50} members are left out")
    assert re.search(message, record.getMessage())


def test_bins_scan_overlapping_packets_raises(tmp_path, caplog):
    # Packet 1 is inside packet 0, and both have the length that the index says.
    content = bytes(20) + (30).to_bytes(4, "little") + bytes(76)
    (tmp_path / "bin00000000.dat").write_bytes(len(content).to_bytes(4, "little") + content)
    index = np.array([[0, 0, 100], [0, 24, 30]], "<u4")
    (tmp_path / "index.dat").write_bytes(index.tobytes())
    with pytest.raises(CorruptArchiveError, match="packet 1 at offset 24: it overlaps another"):
        scan_path(str(tmp_path))
    with caplog.at_level(logging.INFO):
        rows, _ = scan_path(str(tmp_path), strict=False)
    assert rows.rows == 1
    assert "overlaps" in caplog.text


def test_bins_scan_truncated_or_missing_file_raises(split_set):
    folder, data = split_set
    index = os.path.join(folder, "index.dat")
    os.truncate(index, 12 * 300 - 5)
    with pytest.raises(CorruptArchiveError, match="entry 299 at offset 3588 is cut"):
        SplitDataLoader(folder)
    with pytest.raises(CorruptArchiveError, match="nothing can be appended"):
        write_split_data(folder, [b""], append=True)
    with SplitDataLoader(folder, strict=False) as loader:
        assert list(loader) == data[:299]
    os.truncate(index, 12 * 299)
    last = os.path.join(folder, "bin00000003.dat")
    os.truncate(last, os.path.getsize(last) - 1)
    with pytest.raises(CorruptArchiveError, match=r"bin00000003\.dat: packet \d+ at offset"):
        SplitDataLoader(folder)
    with pytest.raises(CorruptArchiveError, match=r"bin00000003\.dat.*cannot be appended"):
        write_split_data(folder, [b""] * 20, splits=13, append=True)
    for name in os.listdir(folder):
        if name.startswith("bin"):
            os.unlink(os.path.join(folder, name))
    with pytest.raises(CorruptArchiveError, match="no such bin"):
        SplitDataLoader(folder)


def test_bins_scan_other_directory_raises(tmp_path):
    with pytest.raises(ArchiveNotFoundError):
        SplitDataLoader(tmp_path / "missing")
    with pytest.raises(ArchiveNotFoundError, match=r"no index\.dat"):
        SplitDataLoader(tmp_path)
    with pytest.raises(ArchiveNotFoundError):
        scan_path(tmp_path)
    assert not sniff(tmp_path)
    assert not sniff(tmp_path / "missing")
    (tmp_path / "index.dat").touch()
    assert sniff(tmp_path)
    assert (
        list(SplitDataLoader(tmp_path)) == list(SplitDataLoader(tmp_path).iterate_binwise()) == []
    )
    (tmp_path / "other").touch()
    assert not sniff(tmp_path)


@settings(max_examples=60)
@given(st.data())
def test_bins_scan_any_damage_raises_or_stays_inside_bins(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged_bins"
    if not folder.exists():
        write_split_data(folder, packets(40, 3), splits=4)
        for path in list(folder.iterdir()):
            path.rename(folder / ("good-" + path.name))
    for path in folder.glob("good-*"):
        (folder / path.name[5:]).write_bytes(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(sorted(folder.glob("[!g]*.dat"))))
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(content)))
            content[place : place + 3] = data.draw(st.binary(min_size=1, max_size=4))
        else:
            del content[data.draw(st.integers(0, len(content))) :]
        path.write_bytes(content)
    try:
        rows, files = scan_path(folder)
    except ImageArchiveError:
        pass
    else:
        sizes = np.array([os.path.getsize(file) for file in files])
        entries = rows.entries[: rows.rows]
        assert (entries["offset"] + entries["size"] <= sizes[entries["shard"]]).all()
    rows, _ = scan_path(folder, strict=False)
    assert rows.rows <= 41


@pytest.mark.parametrize(
    "sizes",
    [[n % 97 for n in range(3000)], [20_000] * 50, [3000 + n % 97 for n in range(3000)]],
    ids=["near each other", "far apart", "more than one window"],
)
def test_bins_scan_any_distance_finds_the_packets(tmp_path, sizes):
    data = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    write_split_data(tmp_path / "x", data, splits=2)
    rows, files = scan_path(tmp_path / "x")
    bins = [Path(file).read_bytes() for file in files]
    entries = rows.entries[: rows.rows][["index", "shard", "offset", "size"]].tolist()
    found = {index: bins[shard][start : start + size] for index, shard, start, size in entries}
    assert found == dict(enumerate(data))
