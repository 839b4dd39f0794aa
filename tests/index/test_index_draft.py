"""A large index is written by a thread while the rest of it is computed, with the same result."""

import errno
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support import tar_cases as cases
from support.index_files import contents, default_path

import imagearchive
from imagearchive.index import build as index_build
from imagearchive.index.file_format import IndexDraft, load, save
from imagearchive.index.index_locations import cache_location
from imagearchive.index.table import IndexTable
from imagearchive.storage import atomic
from imagearchive.storage.crc import crc32
from imagearchive.storage.location import locate

SECTIONS = {
    "entries": np.arange(300_000, dtype=np.uint64),
    "names": np.arange(100, dtype=np.uint8),
    "name_order": np.arange(50_000, dtype=np.uint64)[::-1],
}


def part_of(sections, names):
    return {name: sections[name] for name in names}


def temporary_files(folder):
    return [path for path in Path(folder).iterdir() if path.suffix == ".part"]


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def write_large(path, names, last=b""):
    """Write a TAR of so many members that their rows are packed."""
    with open(path, "wb") as file:
        for name in names:
            file.write(cases.member(name, b"x"))
        file.write(last + cases.END)
    return str(path)


NAMES = [b"d%d/%05d" % (i % 3, 9999 - i) for i in range(9000)]


@pytest.mark.parametrize("begun", [[], [1], [2], [3], [1, 2], [1, 2, 3]])
def test_index_draft_save_writes_what_save_writes(tmp_path, begun):
    save(locate(tmp_path / "expected.npy"), SECTIONS, {"a": 1})
    with IndexDraft(locate(tmp_path / "draft.npy")) as draft:
        names, start = list(SECTIONS), 0
        for stop in begun:
            draft.begin(part_of(SECTIONS, names[start:stop]))
            start = stop
        written = draft.save(SECTIONS, {"a": 1})
    file = load(locate(tmp_path / "draft.npy"))
    assert file.identity == written
    assert (tmp_path / "draft.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert temporary_files(tmp_path) == []


@pytest.mark.parametrize(
    "begun",
    [
        {"entries": SECTIONS["entries"].copy()},
        {"names": SECTIONS["names"]},
        {**SECTIONS, "more": SECTIONS["names"]},
    ],
)
def test_index_draft_that_began_with_other_sections_is_written_again(tmp_path, begun):
    save(locate(tmp_path / "expected.npy"), SECTIONS, {})
    with IndexDraft(locate(tmp_path / "draft.npy")) as draft:
        draft.begin(begun)
        draft.save(SECTIONS, {})
    assert (tmp_path / "draft.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert temporary_files(tmp_path) == []


def test_index_draft_begin_writes_before_the_index_is_saved(tmp_path):
    with IndexDraft(locate(tmp_path / "draft.npy")) as draft:
        draft.begin({"entries": SECTIONS["entries"]})
        [part] = temporary_files(tmp_path)
        wait_until(lambda: part.stat().st_size > SECTIONS["entries"].nbytes)
        assert not (tmp_path / "draft.npy").exists()
    assert list(tmp_path.iterdir()) == []


def test_index_draft_close_stops_the_thread_and_removes_the_file(tmp_path, monkeypatch):
    writes = []

    def slow(chunk, crc):
        writes.append(len(chunk))
        time.sleep(0.1)
        return crc32(chunk, crc)

    monkeypatch.setattr("imagearchive.index.file_format.crc32", slow)
    large = np.zeros(64 << 20, np.uint8)
    draft = IndexDraft(locate(tmp_path / "draft.npy"))
    draft.begin({"entries": large})
    wait_until(lambda: writes)
    draft.close()
    count = len(writes)
    assert sum(writes) < large.nbytes
    assert list(tmp_path.iterdir()) == []
    assert not [one for one in threading.enumerate() if one.name == "imagearchive-index"]
    draft.begin({"entries": large})
    assert len(writes) == count


def test_index_draft_write_that_fails_raises_from_save(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("imagearchive.index.file_format._SYNC_BYTES", 1 << 20)
    monkeypatch.setattr(atomic, "begin_writeback", fail)
    path = tmp_path / "draft.npy"
    with IndexDraft(locate(path)) as draft:
        draft.begin({"entries": SECTIONS["entries"]})
        draft.begin({"names": SECTIONS["names"]})
        with pytest.raises(OSError, match="No space") as caught:
            draft.save(SECTIONS, {})
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("directories", [[], [b"d1/", b"empty/"]])
def test_open_large_archive_begins_its_index_before_the_rest_is_known(
    tmp_path, monkeypatch, directories
):
    last = b"".join(cases.member(name, flag=b"5") for name in directories)
    path = write_large(tmp_path / "a.tar", NAMES, last)
    begun = []
    begin = IndexDraft.begin
    fingerprints = index_build.fingerprints

    def note(draft, sections):
        begun.extend(sections)
        begin(draft, sections)

    def compute(*arguments, **options):
        begun.append("digest")
        return fingerprints(*arguments, **options)

    monkeypatch.setattr(IndexDraft, "begin", note)
    monkeypatch.setattr(index_build, "fingerprints", compute)
    table = IndexTable.open(path)
    assert begun == [
        "entries", "label_values", "label_offsets", "names", "name_offsets", "name_order", "digest",
    ]  # fmt: skip
    expected = IndexTable.build(path)
    assert contents(table) == contents(expected)
    assert table.meta["directories"] == [name[:-1].decode() for name in directories[1:]]
    expected.save(str(tmp_path / "expected.npy"))
    assert Path(default_path(path)).read_bytes() == (tmp_path / "expected.npy").read_bytes()
    table.check()


@pytest.mark.parametrize(
    ("last", "lost"),
    [
        (cases.member(NAMES[17], b"y"), []),
        (cases.member(b"./" + NAMES[8999], b"y"), []),
        (cases.member(b"folder/", flag=b"5"), []),
        (cases.member(b"./", flag=b"5"), []),
        (cases.header(NAMES[0], flag=b"1", link=NAMES[1]), []),
        (cases.member(NAMES[3], flag=b"5"), [NAMES[3]]),
        (cases.member(b"d0/..", b"y"), []),
    ],
    ids=["replaced", "replaced-last", "directory", "root", "link", "now-a-directory", "nameless"],
)
def test_open_large_archive_whose_rows_change_saves_the_right_index(tmp_path, last, lost):
    path = write_large(tmp_path / "a.tar", NAMES, last)
    with imagearchive.open(path) as archive:
        assert sorted(archive) == sorted(name.decode() for name in NAMES if name not in lost)
        for name in [NAMES[1], NAMES[4], NAMES[8998]]:
            assert archive[name.decode()] == b"x"
    IndexTable.build(path).save(str(tmp_path / "expected.npy"))
    assert Path(default_path(path)).read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert temporary_files(tmp_path) == []


def test_open_large_archive_that_is_interrupted_leaves_no_file(tmp_path, monkeypatch):
    path = write_large(tmp_path / "a.tar", NAMES)

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(index_build, "fingerprints", interrupt)
    with pytest.raises(KeyboardInterrupt):
        IndexTable.open(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


def test_open_large_archive_on_a_full_disk_saves_in_the_cache(tmp_path, monkeypatch):
    path = write_large(tmp_path / "a.tar", NAMES)
    begin_sync = atomic.AtomicFile.begin_sync

    def fail(file):
        if file.path.startswith(str(tmp_path)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        begin_sync(file)

    monkeypatch.setattr("imagearchive.index.file_format._SYNC_BYTES", 1 << 18)
    monkeypatch.setattr(atomic.AtomicFile, "begin_sync", fail)
    table = IndexTable.open(path)
    assert table.path == cache_location([path], locate(path)).path
    assert contents(table) == contents(IndexTable.build(path))
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]
