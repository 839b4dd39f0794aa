"""The index of several archives."""

import io
import os
import pickle
import subprocess
import sys
import threading
import time

import pytest
from support.archives import write_tar
from support.index_files import append, is_marked, mark

from imagearchive.archive.archive import Archive
from imagearchive.containers.tar.tar_container import TarContainer
from imagearchive.errors import (
    CorruptArchiveError,
    OptionError,
    StaleIndexError,
)
from imagearchive.index.table import IndexTable


def test_concatenate_shards_are_one_archive(shards):
    archive = Archive(shards)
    assert len(archive) == 24
    assert archive["b/2-3.txt"] == b"2 3"
    assert archive.table.entries["shard"].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    # Each archive has its own index; their sum is mapped from the cache.
    assert os.path.exists(shards.replace("{0000..0002}", "0001")[:-4] + ".idx.npy")
    for path in archive.table.files:
        mark(IndexTable.open(path))
    again = Archive(shards)
    assert again.table.path is not None
    assert all(is_marked(IndexTable.open(path)) for path in archive.table.files)
    assert dict(again) == dict(archive)


def test_concatenate_notices_a_changed_shard(shards):
    Archive(shards)
    path = shards.replace("{0000..0002}", "0001")
    time.sleep(0.01)
    append(path)
    assert Archive(shards)["c/new.txt"] == b"new"


def test_concatenate_many_shards_keep_few_files_open(tmp_path):
    for number in range(60):
        write_tar(tmp_path / f"s-{number}.tar", {f"{number}.txt": b"%d" % number})
    archive = Archive(str(tmp_path / "s-{0..59}.tar"), max_open=4, storage="pread")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for number in range(60):
            assert archive[f"{number}.txt"] == b"%d" % number
    assert len(os.listdir("/proc/self/fd")) - before <= 4


def test_concatenate_given_index_is_used_or_refused(shards, tmp_path):
    ipath = tmp_path / "joined"
    assert len(Archive(shards, ipath)) == 24
    assert len(Archive(shards, ipath)) == 24
    append(shards.replace("{0000..0002}", "0000"))
    with pytest.raises(StaleIndexError):
        Archive(shards, ipath)


def test_concatenate_index_of_other_shards_is_refused(shards, tmp_path):
    for number in range(3):
        write_tar(tmp_path / f"val-{number}.tar", {f"a/{number}.txt": b"val"})
    ipath = tmp_path / "joined"
    Archive(shards, ipath)
    with pytest.raises(StaleIndexError, match="built for others"):
        Archive(str(tmp_path / "val-{0..2}.tar"), ipath)
    with pytest.raises(OptionError):
        Archive(shards, shards.replace("{0000..0002}", "0001"), overwrite_index=True)


def test_concatenate_damaged_shard_raises_unless_not_strict(shards, tmp_path):
    os.truncate(shards.replace("{0000..0002}", "0001"), 3000)
    for ipath in (None, tmp_path / "joined"):
        with pytest.raises(CorruptArchiveError):
            Archive(shards, ipath)
        assert 0 < len(Archive(shards, ipath, strict=False)) < 24
        with pytest.raises((CorruptArchiveError, StaleIndexError)):
            Archive(shards, ipath)


def test_concatenate_many_shards_under_a_low_limit_of_files(tmp_path):
    code = f"""
import resource, warnings
warnings.simplefilter("error")
import imagearchive
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
archive = imagearchive.open({str(tmp_path)!r} + "/s-{{0..199}}.tar")
assert all(archive[f"{{i}}.txt"] == b"%d" % i for i in range(200))
"""
    for number in range(200):
        write_tar(tmp_path / f"s-{number}.tar", {f"{number}.txt": b"%d" % number})
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert len(list(tmp_path.glob("s-*.idx.npy"))) == 200


def test_pickle_of_an_archive_has_no_table(shards):
    assert len(pickle.dumps(Archive(shards))) < 1000


def test_concatenate_given_index_is_the_only_file_saved(shards, tmp_path):
    ipath = tmp_path / "joined"
    archive = Archive(shards, ipath)
    assert archive.table.path == str(ipath)
    assert dict(Archive(shards, ipath)) == dict(archive)
    assert not list(tmp_path.rglob("*.idx.npy"))


def test_concatenate_given_index_uses_indexes_that_are_there(shards, tmp_path):
    Archive(shards)
    paths = [shards.replace("{0000..0002}", f"000{number}") for number in range(3)]
    for path in paths:
        mark(IndexTable.open(path))
    Archive(shards, tmp_path / "joined")
    assert all(is_marked(IndexTable.open(path)) for path in paths)


def test_concatenate_missing_indexes_are_built_in_several_threads(tmp_path, monkeypatch):
    for number in range(20):
        write_tar(tmp_path / f"s-{number}.tar", {f"{number}.txt": b"%d" % number})
    # Each of the first two scans ends only when both have begun.
    both = threading.Barrier(2, timeout=20)
    scan, begun = TarContainer.scan, []

    def scan_together(self, storage, strict):
        begun.append(storage.path)
        if len(begun) <= 2:
            both.wait()
        return scan(self, storage, strict)

    monkeypatch.setattr(TarContainer, "scan", scan_together)
    archive = Archive(str(tmp_path / "s-{0..19}.tar"))
    assert len(begun) == 20
    assert list(archive) == [f"{number}.txt" for number in range(20)]


def test_concatenate_damaged_shards_the_first_is_reported(tmp_path):
    for number in range(40):
        write_tar(tmp_path / f"s-{number}.tar", {f"{number}.txt": b"%d" % number})
    for number in (7, 9, 11):
        os.truncate(tmp_path / f"s-{number}.tar", 700)
    with pytest.raises(CorruptArchiveError, match=r"s-7\.tar"):
        Archive(str(tmp_path / "s-{0..39}.tar"))


def test_concatenate_progress_is_shown_on_a_terminal_only(tmp_path, monkeypatch):
    for number in range(4):
        write_tar(tmp_path / f"s-{number}.tar", {f"{number}.txt": b"%d" % number})

    class Screen(io.StringIO):
        def __init__(self, is_terminal):
            super().__init__()
            self.isatty = lambda: is_terminal

    scan = TarContainer.scan

    def scan_slowly(self, storage, strict):
        if storage.path.endswith("s-2.tar"):
            # The bar appears after two seconds.
            time.sleep(2.1)
        return scan(self, storage, strict)

    monkeypatch.setattr(TarContainer, "scan", scan_slowly)
    shown = {}
    for is_terminal in (True, False):
        monkeypatch.setattr(sys, "stderr", Screen(is_terminal))
        Archive(str(tmp_path / "s-{0..3}.tar"), overwrite_index=True)
        shown[is_terminal] = sys.stderr.getvalue()
    assert "indexing" in shown[True]
    assert "/4" in shown[True]
    assert shown[False] == ""


@pytest.mark.parametrize(("first", "second"), [(False, "auto"), ("auto", False)])
def test_concatenate_given_index_serves_auto_and_false_alike(shards, tmp_path, first, second):
    ipath = tmp_path / "joined.idx.npy"
    expected = dict(Archive(shards, ipath=ipath, nested=first))
    built = ipath.stat().st_mtime_ns
    assert dict(Archive(shards, ipath=ipath, nested=second)) == expected
    assert ipath.stat().st_mtime_ns == built
    with pytest.raises(StaleIndexError, match="built for others"):
        Archive(shards, ipath=ipath, nested=True)


def test_concatenate_given_index_of_archives_of_archives_is_for_one_value_of_nested(tmp_path):
    for number in range(2):
        write_tar(tmp_path / "inner.tar", {f"{number}.txt": b"text"})
        inner = (tmp_path / "inner.tar").read_bytes()
        write_tar(tmp_path / f"s-{number}.tar", {"cat.tar": inner})
    path, ipath = str(tmp_path / "s-{0..1}.tar"), tmp_path / "joined.idx.npy"
    assert list(Archive(path, ipath=ipath)) == ["cat.tar", "cat.tar"]
    with pytest.raises(StaleIndexError, match="another value of nested"):
        Archive(path, ipath=ipath, nested="auto")
    opened = Archive(path, ipath=ipath, nested="auto", overwrite_index=True)
    assert list(opened) == ["cat/0.txt", "cat/1.txt"]
    with pytest.raises(StaleIndexError, match="another value of nested"):
        Archive(path, ipath=ipath)
