"""The names of the package `barecat`, compared with the package itself."""

from __future__ import annotations

import importlib
import io
import itertools
import os
import pickle
import sys
import tarfile
import zipfile

import barecat as peer
import pytest
from support.barecat_archives import barecat_files

from imagearchive.compat import barecat
from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    CorruptArchiveError,
    MemberNotFoundError,
    OptionError,
)

PATTERNS = [
    "*",
    "**",
    "*/*",
    "**/*.jpg",
    "class_00?/*.jpg",
    "class_[12]*/*",
    "class_001/**",
    "[!.c]*",
    ".*",
    "deep/*/*/*",
    "nothing/*",
    "class_001",
    "deep/**/x*",
]


def test_barecat_reads_what_the_original_reads(barecat_archive):
    path, files = barecat_archive
    with peer.Barecat(path) as theirs, barecat.Barecat(path, threadsafe=True) as ours:
        assert list(ours) == [info.path for info in theirs.index.iter_all_fileinfos()]
        assert dict(ours.items()) == dict(theirs.items()) == files
        assert len(ours) == len(theirs) == ours.num_files
        assert ours.total_size == theirs.total_size
        assert sorted(ours.dirs()) == sorted(theirs.dirs())
        assert ours.num_dirs == theirs.num_dirs
        for folder in theirs.dirs():
            assert sorted(ours.listdir(folder)) == sorted(theirs.listdir(folder))
            assert {info.path for info in ours.scandir(folder)} == {
                info.path for info in theirs.scandir(folder)
            }
        for top in ("", "deep", "class_001"):
            assert sorted((a, sorted(b), sorted(c)) for a, b, c in ours.walk(top)) == sorted(
                (a, sorted(b), sorted(c)) for a, b, c in theirs.walk(top)
            )
        for name in [
            *files,
            "deep",
            "empty/directory",
            "empty/x",
            "deep/",
            "./top.txt",
            "a/../top.txt",
        ]:
            assert (name in ours, ours.exists(name), ours.isfile(name), ours.isdir(name)) == (
                name in theirs,
                theirs.exists(name),
                theirs.isfile(name),
                theirs.isdir(name),
            ), name


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_glob_returns_what_the_original_returns(barecat_archive, pattern, recursive, hidden):
    path, _ = barecat_archive
    with peer.Barecat(path) as theirs, barecat.Barecat(path) as ours:
        expected = sorted(theirs.glob(pattern, recursive, hidden))
        assert sorted(ours.glob(pattern, recursive, hidden)) == expected
        expected = sorted(theirs.globfiles(pattern, recursive, hidden))
        assert sorted(ours.globfiles(pattern, recursive, hidden)) == expected


def test_infos_equal_those_of_the_original(barecat_archive):
    path, _ = barecat_archive
    fields = ("path", "shard", "offset", "size", "crc32c", "mode", "mtime_ns", "end")
    with peer.Barecat(path) as theirs, barecat.Barecat(path) as ours:
        expected = list(theirs.index.iter_all_fileinfos())
        found = list(ours.index.iter_all_fileinfos())
        assert [[getattr(info, name) for name in fields] for info in found] == [
            [getattr(info, name) for name in fields] for info in expected
        ]
        assert {info.shard for info in found} > {0, 1}
        assert ours.index.lookup("deep/a/b/c/x.bin").size == 4
        assert ours.index.lookup("/deep/a").isdir()
        assert ours.index.lookup("deep/./a/").path == "deep/a"
        with pytest.raises(MemberNotFoundError):
            ours.index.lookup("deep/z")
        assert list(ours.index.iter_all_filepaths()) == list(ours)
        assert set(ours.index.iter_all_dirpaths()) == set(theirs.index.iter_all_dirpaths())


def test_iter_all_paths_yields_only_files(barecat_archive):
    path, files = barecat_archive
    with barecat.Barecat(path) as ours:
        assert {name: ours[name] for name in ours.index.iter_all_paths()} == files


def test_read_readinto_and_open_return_parts(barecat_archive):
    path, files = barecat_archive
    name = max(files, key=lambda name: len(files[name]))
    data = files[name]
    with peer.Barecat(path) as theirs, barecat.Barecat(path, verify=True) as ours:
        info = ours.index.lookup(name)
        for offset, size in itertools.product((0, 1, 2999, 3000, 9999), (-1, 0, 1, 5, 3000, 99999)):
            assert ours.read(name, offset, size) == theirs.read(name, offset, size)
            assert ours.read(info, offset, size) == ours.read(name, offset, size)
        for offset, size in itertools.product((0, 7, 2999, 9999), (0, 10, 3000, 5000)):
            mine, other = bytearray(size), bytearray(size)
            assert ours.readinto(name, mine, offset) == theirs.readinto(name, other, offset)
            assert mine == other
        with ours.open(info, "rb") as file:
            assert (file.read(10), file.seek(-5, 2), file.read()) == (data[:10], 2995, data[-5:])
        with ours.open("top.txt") as mine, theirs.open("top.txt") as other:
            assert mine.readlines() == other.readlines()
        with pytest.raises(OptionError, match="read-only"):
            ours.open(name, "r+b")
        assert ours.get("nothing") is None
        with pytest.raises(KeyError, match=r"top\.txt"):
            ours["top.tx"]


def test_barecat_options_for_writing_are_refused(barecat_archive):
    path, _ = barecat_archive
    for options in ({"readonly": False}, {"append_only": True}, {"overwrite": True}):
        with pytest.raises(OptionError, match="only read"):
            barecat.Barecat(path, **options)
    with pytest.raises(OptionError, match="DecodedView"):
        barecat.Barecat(path, auto_codec=True)
    with pytest.raises(ArchiveNotFoundError):
        barecat.Barecat(path + ".missing")
    archive = barecat.Barecat(path)
    archive.close()
    with pytest.raises(ClosedError):
        archive["top.txt"]


@pytest.mark.parametrize("kind", ["tar", "zip", "directory"])
def test_barecat_opens_any_container(tmp_path, kind):
    files = {name: data for name, data in barecat_files().items() if data}
    path = tmp_path / f"some.{kind}"
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    with barecat.Barecat(str(path), verify=True) as ours:
        assert dict(ours.items()) == files
        info = ours.index.lookup("deep/a/b/c/x.bin")
        assert (info.crc32c, info.size, ours.read(info)) == (None, 4, b"deep")
        assert ours.check_crc32c("top.txt")
        assert "a" in ours.listdir("deep")


def test_barecat_works_after_pickling_and_fork(barecat_archive):
    path, files = barecat_archive
    ours = barecat.Barecat(path, threadsafe=True, verify=True)
    ours["top.txt"]
    again = pickle.loads(pickle.dumps(ours))
    assert isinstance(again, barecat.Barecat)
    assert dict(again.items()) == files
    pids = []
    for _ in range(4):
        if (pid := os.fork()) == 0:
            os._exit(0 if all(ours[name] == files[name] for name in files for _ in range(5)) else 1)
        pids.append(pid)
    assert all(ours[name] == files[name] for name in files)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4


WHOLE = """
from imagearchive.compat import barecat

class Whole:
    def __init__(self, path):
        self.bc = barecat.Barecat(path, threadsafe=True)
        self.paths = [f.path for f in self.bc.index.iter_all_fileinfos()]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.paths[index], self.bc[self.paths[index]]
"""


@pytest.mark.needs_torch
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_barecat_works_in_data_loader_workers(barecat_archive, method, monkeypatch, tmp_path):
    from torch.utils.data import DataLoader

    # A module of its own, so that what is spawned need not import this one.
    (tmp_path / "whole_dataset.py").write_text(WHOLE)
    monkeypatch.syspath_prepend(str(tmp_path))
    path, files = barecat_archive
    loader = DataLoader(
        importlib.import_module("whole_dataset").Whole(path),
        batch_size=16,
        # A spawned worker imports torch, which takes long.
        num_workers=1 if method == "spawn" else 2,
        collate_fn=list,
        multiprocessing_context=method,
    )
    assert dict(itertools.chain.from_iterable(loader)) == files
    sys.modules.pop("whole_dataset")


def test_verify_compares_checksums(barecat_copy):
    path, files = barecat_copy
    info = barecat.Barecat(path).index.lookup("deep/a/b/c/x.bin")
    shard = f"{path}-shard-{info.shard:05d}"
    with open(shard, "r+b") as file:
        file.seek(info.offset)
        file.write(b"D")
    with barecat.Barecat(path, verify=False) as ours:
        assert ours["deep/a/b/c/x.bin"] == b"Deep"
        assert not ours.check_crc32c(info)
        assert ours.check_crc32c("top.txt")
    with barecat.Barecat(path) as ours:
        for reading in (
            lambda: ours["deep/a/b/c/x.bin"],
            lambda: ours.read(info),
            lambda: ours.readinto(info, bytearray(10)),
            lambda: pickle.loads(pickle.dumps(ours)).read(info),
        ):
            with pytest.raises(
                CorruptArchiveError, match=r"shard-0000\d: 'deep/a/b/c/x.bin' at off"
            ):
                reading()
        assert ours["top.txt"] == files["top.txt"]
