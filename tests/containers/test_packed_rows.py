"""Packed rows give back every row, and a scan that packs the rows of one that does not."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tar_cases as cases

from imagearchive.containers.packed_rows import PackedRows
from imagearchive.containers.rows import ENTRY_DTYPE, RowBuffer
from imagearchive.containers.tar import scan as tar
from imagearchive.containers.tar.parallel_scan import Plan, scan_segments
from imagearchive.storage.local import MemoryStorage, open_storage

NUMBERS = st.one_of(st.sampled_from([0, 1, 512, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))


@st.composite
def rows_of_any_kind(draw):
    """Draw rows of which some follow from the one before, and others in part."""
    count = draw(st.integers(0, 30))
    rows = np.zeros(count, ENTRY_DTYPE)
    position = draw(NUMBERS)
    for i in range(count):
        position = -(-position // 512) * 512 % 2**64
        size = draw(st.sampled_from([0, 7, 512, 900]))
        rows[i] = (i, (position + 512) % 2**64, size, size, position, 7, 0, 0, 0o644, 0, 0)
        position += 512 + size
        for field in draw(st.lists(st.sampled_from(ENTRY_DTYPE.names[1:]), max_size=2)):
            most = np.iinfo(ENTRY_DTYPE[field]).max
            rows[field][i] = draw(NUMBERS) % (7 if field == "kind" else most)
    return rows


@given(rows_of_any_kind(), st.integers(1, 40), st.data())
def test_packed_rows_give_back_every_row(rows, size, data):
    packed = PackedRows(ENTRY_DTYPE)
    for start in range(0, len(rows), size):
        packed.append(rows[start : start + size])
    assert len(packed) == len(rows)
    twice = PackedRows(ENTRY_DTYPE)
    for _ in range(2):
        twice.extend(packed)
    double = np.concatenate([rows, rows])
    double["index"] = np.arange(len(double))
    assert twice.unpack().tobytes() == double.tobytes()
    assert (twice.end, twice.kinds) == (packed.end, packed.kinds)
    assert packed.dtype == ENTRY_DTYPE
    assert packed.unpack().tobytes() == rows.tobytes()
    assert b"".join(chunk.tobytes() for chunk in packed.chunks()) == rows.tobytes()
    assert packed.kinds == set(rows["kind"].tolist())
    ends = rows["offset"] + rows["stored_size"]
    assert packed.end == (ends.max() if len(rows) else 0)
    chosen = data.draw(st.sets(st.integers(0, len(rows) - 1))) if len(rows) else set()
    mask = np.isin(np.arange(len(rows)), sorted(chosen))
    selected = rows[mask]
    selected["index"] = np.arange(len(selected))
    some = packed.select(mask)
    assert some.unpack().tobytes() == selected.tobytes()
    assert some.kinds == set(selected["kind"].tolist())
    assert some.end == max((selected["offset"] + selected["stored_size"]).tolist(), default=0)
    positions = np.array(sorted(chosen), np.uint64)
    found = packed.header_offsets(positions)
    assert found.tolist() == rows["header_offset"][positions].tolist()


@pytest.mark.parametrize("positions", [[3], [1, 1], [2, 1], [0, 2**63]])
def test_header_offsets_wrong_positions_are_refused(positions):
    packed = PackedRows(ENTRY_DTYPE)
    packed.append(np.zeros(3, ENTRY_DTYPE))
    with pytest.raises(IndexError, match="ascend below 3"):
        packed.header_offsets(np.array(positions, np.uint64))


def test_packed_rows_of_a_tar_are_small(tmp_path):
    path = write_members(tmp_path / "a.tar", [i % 5 for i in range(20_000)])
    with open_storage(path, "pread") as storage:
        packed = tar.scan(storage).packed_entries()
    parts = sum(chunk.nbytes for chunk in packed.chunks())
    assert parts == 64 * 20_000
    assert packed.nbytes < 10 * 20_000


def write_members(path, sizes, last=b""):
    """Write a TAR with a member of each size."""
    with path.open("wb") as file:
        for i, size in enumerate(sizes):
            file.write(cases.member(b"d%d/%06d" % (i % 3, i), b"x" * size))
        file.write(last + cases.END)
    return path


def check_scans(path):
    """Compare the rows of a scan that packs with those of one that reads from memory."""
    expected = tar.scan(MemoryStorage(path.read_bytes()))
    with open_storage(path, "pread") as storage:
        rows = tar.scan(storage)
    assert rows.rows == expected.rows
    if (packed := rows.packed_entries()) is not None:
        assert packed.unpack().tobytes() == expected.entries[: expected.rows].tobytes()
    for name in ("entries", "name_ends", "link_ends"):
        whole = getattr(expected, name)[: expected.rows]
        assert getattr(rows, name)[: rows.rows].tobytes() == whole.tobytes()
    assert rows.names[: rows.name_bytes].tobytes() == expected.names[: rows.name_bytes].tobytes()
    return rows


@pytest.mark.parametrize("count", [8191, 8192, 8193, 16_384, 20_000])
def test_scan_many_members_gives_the_rows_of_a_scan_in_memory(tmp_path, count):
    last = cases.pax([(b"path", b"p" * 200)]) + cases.member(b"short", b"1")
    last += cases.header(b"link", 0, b"2", link=b"d0/000000")
    sizes = [i % 700 for i in range(count)]
    rows = check_scans(write_members(tmp_path / "a.tar", sizes, last=last))
    assert rows.rows == count + 2


def test_scan_windows_that_end_where_rows_are_packed_stay_small(tmp_path):
    # The first windows have 4, 8, ... 128 KiB, or 504 blocks together, and the others 512 blocks.
    # Zeros move the members so that each 8192nd ends with a window.
    path = tmp_path / "a.tar"
    member = cases.member(b"a")
    path.write_bytes(member + bytes(504 * 512) + member * 60_000 + cases.END)
    with open_storage(path, "pread") as storage:
        tracemalloc.start()
        try:
            rows = tar.scan(storage)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert rows.rows == 60_001
    assert peak < 8 << 20


def test_row_buffer_append_packs_full_windows():
    expected, packing = RowBuffer(), RowBuffer(2, packs=True)
    for buffer in (expected, packing):
        for i in range(9000):
            buffer.append(b"%d" % i, size=i)
    assert len(packing.packed_entries()) == 9000
    assert packing.entries.tobytes() == expected.entries[:9000].tobytes()


@pytest.mark.parametrize("at", [0, 15_000, 29_000])
def test_scan_segments_joins_packed_runs(tmp_path, at):
    # A global header changes what follows it, so the runs behind it are not used.
    odd = cases.pax([(b"mtime", b"5")], b"g") if at else b""
    members = [cases.member(b"d%d/%06d" % (i % 3, i), b"x" * (i % 3)) for i in range(30_000)]
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join([*members[:at], odd, *members[at:], cases.END]))

    def first(storage, rows, cursor):
        tar.advance(storage, rows, cursor, 1 << 20)
        scan_segments(storage, rows, cursor, Plan(2, 10 << 20, 1 << 14, 10_000))
        assert rows.rows > 10_000

    expected = tar.scan(MemoryStorage(path.read_bytes()))
    with open_storage(path, "pread") as storage:
        rows = tar.scan(storage, first=first)
    assert rows.rows == expected.rows == 30_000
    for name in ("entries", "name_ends", "link_ends"):
        whole = getattr(expected, name)[:30_000]
        assert getattr(rows, name)[:30_000].tobytes() == whole.tobytes()
    assert rows.names[: rows.name_bytes].tobytes() == expected.names[: rows.name_bytes].tobytes()


def test_row_buffer_extend_packs_the_rows_of_another():
    expected, packing, other = RowBuffer(), RowBuffer(4, packs=True), RowBuffer()
    for i in range(20_000):
        other.append(b"name %d" % i, offset=512 * i, size=i)
    packed = RowBuffer(packs=True)
    packed.extend(other)
    assert packed.first_header() == other.first_header() == 0
    for buffer, second in ((expected, other), (packing, packed)):
        buffer.append(b"first", offset=1)
        buffer.extend(other, 2)
        buffer.extend(second)
        buffer.extend(other, 19_990)
    assert len(packing.packed_entries()) == packing.rows == expected.rows
    whole = expected.entries[: expected.rows]
    assert packing.entries[: packing.rows].tobytes() == whole.tobytes()
    assert packing.name(12_345) == expected.name(12_345)
    # It goes on as any other.
    packing.append(b"last", offset=7)
    assert packing.entries[packing.rows - 1]["offset"] == 7
