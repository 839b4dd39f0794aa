"""Barecat archives: the package `barecat` writes, we read, and both agree."""

# The blocks of the guide are as they were published.
# ruff: noqa: E501

from __future__ import annotations

import gc
import importlib
import io
import itertools
import json
import os
import pathlib
import pickle
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import types
import warnings
import zipfile

import barecat as peer
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.archives import files_left

from imagearchive.compat import barecat
from imagearchive.containers.barecat import BarecatContainer
from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    CorruptArchiveError,
    ImageArchiveError,
    MemberNotFoundError,
    OptionError,
    UnsupportedArchiveError,
)
from imagearchive.storage.location import locate

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

BARECAT = BarecatContainer()


def scan_path(path, strict=True):
    rows, files = BARECAT.scan_location(locate(path), strict)
    return rows, [file.path for file in files]


def sniff(path):
    location = locate(path)
    location = location if location.exists() else BARECAT.resolve(location)
    return BARECAT.sniff_location(location, location.status())


def contents():
    rng = random.Random(5)
    files = {
        f"class_{i % 7:03d}/image {i}.jpg": rng.randbytes(rng.choice([0, 1, 700, 3000]))
        for i in range(120)
    }
    files.update({"top.txt": b"one\r\ntwo\n\xc3\xa4", ".hidden": b"h", "class_001/.hid.jpg": b"."})
    files.update({"deep/a/b/c/x.bin": b"deep", "deep/ä/日本.txt": b"unicode", "it's 100%.x": b"%"})
    return files


def write(path, files, **options):
    with peer.Barecat(path, readonly=False, **options) as archive:
        for name, data in files.items():
            archive[name] = data
        archive.mkdir("empty/directory")
    return path


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """An archive of several shards, and what is in it."""
    files = contents()
    path = write(
        str(tmp_path_factory.mktemp("original") / "data.barecat"), files, shard_size_limit=40_000
    )
    return path, files


@pytest.fixture
def copy(original, tmp_path):
    path, files = original
    shutil.copytree(os.path.dirname(path), tmp_path / "copy")
    for index in (tmp_path / "copy").glob("*.npy"):
        index.unlink()
    return str(tmp_path / "copy" / "data.barecat"), files


def change(path, *statements):
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


# --- the original as oracle -------------------------------------------------------------------


def test_everything_agrees_with_the_original(original):
    path, files = original
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
def test_glob_agrees_with_the_original(original, pattern, recursive, hidden):
    path, _ = original
    with peer.Barecat(path) as theirs, barecat.Barecat(path) as ours:
        # The original counts the root as a match of `**`, which Python's glob does not.
        expected = sorted(filter(None, theirs.glob(pattern, recursive, hidden)))
        assert sorted(ours.glob(pattern, recursive, hidden)) == expected
        expected = sorted(theirs.globfiles(pattern, recursive, hidden))
        assert sorted(ours.globfiles(pattern, recursive, hidden)) == expected


def test_infos_agree_with_the_original(original):
    path, _ = original
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


def test_iter_all_paths_yields_only_what_can_be_read(original):
    path, files = original
    with barecat.Barecat(path) as ours:
        assert {name: ours[name] for name in ours.index.iter_all_paths()} == files


def test_reading_parts_and_files(original):
    path, files = original
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


def test_what_only_writing_needs_is_refused(original):
    path, _ = original
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


def test_changed_archives_are_indexed_anew(copy):
    path, _ = copy
    with barecat.Barecat(path) as ours:
        assert "new" not in ours
    with peer.Barecat(path, readonly=False) as theirs:
        theirs["new"] = b"added"
        del theirs["top.txt"]
        theirs.rename(".hidden", "shown")
    with peer.Barecat(path) as theirs, barecat.Barecat(path) as ours:
        assert dict(ours.items()) == dict(theirs.items())
        assert ours["new"] == b"added"
        assert ours["shown"] == b"h"


def test_a_renamed_member_is_noticed(copy):
    path, _ = copy
    with barecat.Barecat(path) as ours:
        assert ".hidden" in ours
    with peer.Barecat(path, readonly=False) as theirs:
        theirs.rename(".hidden", ".hidde2")
    with barecat.Barecat(path) as ours:
        assert ours[".hidde2"] == b"h"
        assert ".hidden" not in ours


def test_nothing_is_written_beside_the_archive_but_our_index(copy):
    path, _ = copy
    before = set(os.listdir(os.path.dirname(path)))
    times = {
        name: os.stat(os.path.join(os.path.dirname(path), name)).st_mtime_ns for name in before
    }
    with barecat.Barecat(path) as ours:
        ours["top.txt"]
    after = set(os.listdir(os.path.dirname(path)))
    assert after - before == {"data.idx.npy"}
    assert times == {
        name: os.stat(os.path.join(os.path.dirname(path), name)).st_mtime_ns for name in before
    }


# --- older and unusual archives ---------------------------------------------------------------

OLD_SCHEMA = """
CREATE TABLE files (
    path TEXT PRIMARY KEY NOT NULL,
    parent TEXT GENERATED ALWAYS AS (rtrim(rtrim(path, replace(path, '/', '')), '/')) VIRTUAL,
    shard INTEGER NOT NULL, offset INTEGER NOT NULL, size INTEGER DEFAULT 0,
    crc32c INTEGER DEFAULT NULL, mode INTEGER DEFAULT NULL, uid INTEGER DEFAULT NULL,
    gid INTEGER DEFAULT NULL, mtime_ns INTEGER DEFAULT NULL) WITHOUT ROWID;
CREATE TABLE dirs (
    path TEXT PRIMARY KEY,
    parent TEXT GENERATED ALWAYS AS (CASE WHEN path = '' THEN NULL
        ELSE rtrim(rtrim(path, replace(path, '/', '')), '/') END) VIRTUAL,
    num_subdirs INTEGER DEFAULT 0, num_files INTEGER DEFAULT 0,
    num_files_tree INTEGER DEFAULT 0, size_tree INTEGER DEFAULT 0, mode INTEGER DEFAULT NULL,
    uid INTEGER DEFAULT NULL, gid INTEGER DEFAULT NULL, mtime_ns INTEGER DEFAULT NULL
    ) WITHOUT ROWID;
CREATE TABLE config (
    key TEXT PRIMARY KEY, value_text TEXT DEFAULT NULL, value_int INTEGER DEFAULT NULL
    ) WITHOUT ROWID;
INSERT INTO config (key, value_int)
    VALUES ('use_triggers', 1), ('shard_size_limit', 1000000), ('schema_version_major', 0), ('schema_version_minor', 2);
ATTACH '{source}' AS source;
INSERT INTO files (path, shard, offset, size, crc32c, mode, uid, gid, mtime_ns)
    SELECT path, shard, offset, size, crc32c, mode, uid, gid, mtime_ns FROM source.files;
INSERT INTO dirs (path, num_subdirs, num_files, num_files_tree, size_tree, mode, uid, gid, mtime_ns)
    SELECT path, num_subdirs, num_files, num_files_tree, size_tree, mode, uid, gid,
    mtime_ns FROM source.dirs;
DETACH source;
"""


def test_schema_2_with_its_index_beside_it(copy):
    path, files = copy
    with sqlite3.connect(path + "-sqlite-index") as connection:
        connection.executescript(OLD_SCHEMA.format(source=path))
    connection.close()
    os.unlink(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.Barecat(path)
    with theirs, barecat.Barecat(path) as ours:
        assert list(ours) == [info.path for info in theirs.index.iter_all_fileinfos()]
        assert dict(ours.items()) == files
        assert sorted(ours.listdir("class_001")) == sorted(theirs.listdir("class_001"))
    assert sniff(path)
    assert sniff(path + "-sqlite-index")
    with barecat.Barecat(path + "-sqlite-index") as ours:
        assert len(ours) == len(files)


def test_empty_archives(tmp_path):
    path = str(tmp_path / "empty.barecat")
    with peer.Barecat(path, readonly=False):
        pass
    with barecat.Barecat(path) as ours:
        assert (list(ours), len(ours), ours.listdir(""), list(ours.dirs())) == ([], 0, [], [""])


def test_missing_values_stay_missing(copy):
    path, _ = copy
    change(
        path, "UPDATE files SET crc32c = NULL, mode = NULL, mtime_ns = NULL WHERE path = 'top.txt'"
    )
    with barecat.Barecat(path, verify=True) as ours:
        info = ours.index.lookup("top.txt")
        assert (info.crc32c, info.mode, info.mtime_ns, info.mtime_dt) == (None, None, None, None)
        assert ours["top.txt"] == contents()["top.txt"]


def test_a_live_wal_is_read(copy):
    path, files = copy
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute(
        "INSERT INTO files (path, shard, offset, size) "
        "SELECT 'late', shard, offset, size FROM files WHERE path = 'top.txt'"
    )
    writer.commit()
    assert os.path.getsize(path + "-wal")
    before = os.stat(path + "-wal").st_mtime_ns
    with barecat.Barecat(path) as ours:
        assert set(ours) == {*files, "late"}
        assert ours["late"] == files["top.txt"]
    assert os.stat(path + "-wal").st_mtime_ns == before
    writer.close()


def test_a_writer_that_holds_all_locks(copy):
    path, files = copy
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    with barecat.Barecat(path) as ours:
        assert set(ours) == set(files)
    writer.execute("ROLLBACK")
    writer.close()


def test_an_interrupted_writer_leaves_what_was_committed(copy):
    path, files = copy
    code = """
import barecat, os, sys
archive = barecat.Barecat(sys.argv[1], readonly=False)
archive.index.cursor.execute("PRAGMA cache_size = 2")
for number in range(3000):
    archive[f"lost/{number:050d}"] = b"lost"
os.kill(os.getpid(), 9)
"""
    process = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert process.returncode == -signal.SIGKILL
    assert os.path.getsize(path + "-journal")
    before = sorted(os.listdir(os.path.dirname(path)))
    rows, _ = scan_path(path)
    names = {rows.name(row) for row in range(rows.rows) if rows.entries["kind"][row] == 0}
    assert names == {name.encode() for name in files}
    assert sorted(os.listdir(os.path.dirname(path))) == before


@pytest.mark.parametrize("kind", ["tar", "zip", "directory"])
def test_any_archive_opens(tmp_path, kind):
    files = {name: data for name, data in contents().items() if data}
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


# --- processes and threads --------------------------------------------------------------------


def test_pickles_and_forks(original):
    path, files = original
    ours = barecat.Barecat(path, threadsafe=True, verify=True)
    ours["top.txt"]
    again = pickle.loads(pickle.dumps(ours))
    assert isinstance(again, barecat.Barecat)
    assert again._crc32c is not None
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


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(original, method, monkeypatch, tmp_path):
    from torch.utils.data import DataLoader

    # A module of its own, so that what is spawned need not import this one.
    (tmp_path / "whole_dataset.py").write_text(WHOLE)
    monkeypatch.syspath_prepend(str(tmp_path))
    path, files = original
    loader = DataLoader(
        importlib.import_module("whole_dataset").Whole(path),
        batch_size=16,
        num_workers=2,
        collate_fn=list,
        multiprocessing_context=method,
    )
    assert dict(itertools.chain.from_iterable(loader)) == files
    sys.modules.pop("whole_dataset")


# --- damage -----------------------------------------------------------------------------------


def test_checksums_are_compared_on_request(copy):
    path, files = copy
    info = barecat.Barecat(path).index.lookup("deep/a/b/c/x.bin")
    shard = f"{path}-shard-{info.shard:05d}"
    with open(shard, "r+b") as file:
        file.seek(info.offset)
        file.write(b"D")
    with barecat.Barecat(path) as ours:
        assert ours["deep/a/b/c/x.bin"] == b"Deep"
        assert not ours.check_crc32c(info)
        assert ours.check_crc32c("top.txt")
    with barecat.Barecat(path, verify=True) as ours:
        for reading in (
            lambda: ours["deep/a/b/c/x.bin"],
            lambda: ours.read(info),
            lambda: ours.readinto(info, bytearray(10)),
        ):
            with pytest.raises(
                CorruptArchiveError, match=r"shard-0000\d: 'deep/a/b/c/x.bin' at off"
            ):
                reading()
        assert ours["top.txt"] == files["top.txt"]


def test_verify_needs_crc32c(original, monkeypatch):
    monkeypatch.setitem(sys.modules, "crc32c", None)
    with pytest.raises(ImportError, match=r"imagearchive\[barecat\]"):
        barecat.Barecat(original[0], verify=True)


HOSTILE = {
    "text offset": "UPDATE files SET offset = 'x' WHERE path = 'top.txt'",
    "blob path": "UPDATE files SET path = x'00ff' WHERE path = 'top.txt'",
    "real size": "UPDATE files SET size = 1.5 WHERE path = 'top.txt'",
    "no size": "UPDATE files SET size = NULL WHERE path = 'top.txt'",
    "negative offset": "UPDATE files SET offset = -1 WHERE path = 'top.txt'",
    "negative size": "UPDATE files SET size = -5 WHERE path = 'top.txt'",
    "negative shard": "UPDATE files SET shard = -1 WHERE path = 'top.txt'",
    "huge shard": "UPDATE files SET shard = 1000000000 WHERE path = 'top.txt'",
    "missing shard": "UPDATE files SET shard = 77 WHERE path = 'top.txt'",
    "beyond": "UPDATE files SET offset = offset + 100000 WHERE path = 'top.txt'",
    "overflow": "UPDATE files SET offset = 9223372036854775807 WHERE path = 'top.txt'",
    "overflowing sum": "UPDATE files SET offset = 1 << 62, size = 1 << 62 WHERE path = 'top.txt'",
    "large crc": "UPDATE files SET crc32c = 1 << 33 WHERE path = 'top.txt'",
    "text mtime": "UPDATE files SET mtime_ns = 'now' WHERE path = 'top.txt'",
}
OFF = "UPDATE config SET value_int = 0 WHERE key = 'use_triggers'"


@pytest.mark.parametrize("kind", HOSTILE)
def test_impossible_rows(copy, kind):
    path, _ = copy
    change(path, OFF, HOSTILE[kind])
    with pytest.raises(CorruptArchiveError, match=r"data\.barecat"):
        barecat.Barecat(path)


def test_without_strict_what_lies_inside_is_served(copy, caplog):
    path, files = copy
    change(path, OFF, HOSTILE["beyond"])
    with barecat.Barecat(path, strict=False) as ours:
        assert dict(ours.items()) == {n: data for n, data in files.items() if n != "top.txt"}
    assert "'top.txt'" in caplog.text


def test_an_endless_view_is_not_run(copy):
    path, _ = copy
    change(
        path,
        "ALTER TABLE files RENAME TO hidden",
        "CREATE VIEW files AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) "
        "SELECT i AS path, i AS shard, i AS offset, i AS size FROM n",
    )
    with pytest.raises(UnsupportedArchiveError):
        scan_path(path)


def test_a_computed_column_is_not_run(copy):
    path, _ = copy
    change(
        path,
        "ALTER TABLE files RENAME TO hidden",
        "CREATE TABLE files (path TEXT, shard INTEGER, size INTEGER, "
        "offset INTEGER AS (length(zeroblob(1000000000))))",
    )
    with pytest.raises(CorruptArchiveError, match="no plain column offset"):
        scan_path(path)


def test_pages_that_point_at_one_another(tmp_path):
    # A tree of few pages in which every path leads to the same leaf: 10**20 rows to visit.
    path = write(str(tmp_path / "data.barecat"), {f"{i:0200d}": b"" for i in range(400)})
    with sqlite3.connect(path) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'files'"
        ).fetchone()
    connection.close()
    content = bytearray(pathlib.Path(path).read_bytes())
    start = (root - 1) * size
    inner = bytes(content[start : start + size])
    count = int.from_bytes(inner[3:5], "big")
    assert inner[0] == 5  # an inner page of a table
    cells = [int.from_bytes(inner[12 + 2 * i : 14 + 2 * i], "big") for i in range(count)]
    leaves = [int.from_bytes(inner[cell : cell + 4], "big") for cell in cells]
    chain = [root, *leaves[:14]]
    for page, child in zip(chain, [*chain[1:], leaves[-1]]):
        changed = bytearray(inner)
        for cell in (8, *cells):
            changed[cell : cell + 4] = child.to_bytes(4, "big")
        content[(page - 1) * size : page * size] = changed
    pathlib.Path(path).write_bytes(content)
    with pytest.raises(CorruptArchiveError, match="pages point at one another"):
        scan_path(path)


def test_too_few_files_are_no_damage(copy):
    path, _ = copy
    with (
        files_left(0),
        pytest.raises(OSError, match=f"Too many open files: '{re.escape(path)}'"),
    ):
        scan_path(path)
    scan_path(path)


def test_other_databases_and_versions(copy, tmp_path):
    path, _ = copy
    change(path, "UPDATE config SET value_int = 1 WHERE key = 'schema_version_major'")
    with pytest.raises(UnsupportedArchiveError, match="schema 1 is not supported"):
        barecat.Barecat(path)
    other = str(tmp_path / "other.db")
    change(other, "CREATE TABLE unrelated (a)")
    assert not sniff(other)
    with pytest.raises(UnsupportedArchiveError):
        barecat.Barecat(other)
    with pytest.raises(UnsupportedArchiveError):
        scan_path(other)
    (tmp_path / "noise").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    with pytest.raises(CorruptArchiveError):
        scan_path(tmp_path / "noise")
    with pytest.raises(ArchiveNotFoundError):
        scan_path(tmp_path / "missing")
    assert not sniff(tmp_path)


def test_a_schema_that_is_no_text(copy):
    path, _ = copy
    content = pathlib.Path(path).read_bytes()
    damaged = content.replace(b"CREATE TABLE dirs", b"CRE\xff\xc9 TABLE dirs")
    assert damaged != content
    pathlib.Path(path).write_bytes(damaged)
    assert sniff(path)
    with pytest.raises(CorruptArchiveError):
        scan_path(path)


def test_names_that_are_no_utf_8(copy):
    path, files = copy
    change(path, OFF, "UPDATE files SET path = CAST(x'66ff2f78' AS TEXT) WHERE path = 'top.txt'")
    with barecat.Barecat(path) as ours:
        assert ours["f\udcff/x"] == files["top.txt"]


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_damage_ends_in_an_error_of_ours(original, tmp_path, data):
    path, _ = original
    target = str(tmp_path / "data.barecat")
    content = bytearray(pathlib.Path(path).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + 2] = data.draw(st.binary(min_size=1, max_size=4))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    pathlib.Path(target).write_bytes(content)
    for shard in pathlib.Path(path).parent.glob("*-shard-*"):
        if not os.path.exists(tmp_path / shard.name):
            os.symlink(shard, tmp_path / shard.name)
    sniff(target)
    try:
        rows, files = scan_path(target)
    except ImageArchiveError:
        return
    sizes = np.array([os.path.getsize(file) for file in files], np.uint64)
    entries = rows.entries[: rows.rows]
    assert (entries["offset"] + entries["size"] <= sizes[entries["shard"]])[
        entries["kind"] == 0
    ].all()


# --- the guide, block by block ----------------------------------------------------------------

BASIC = """
import torch
from torch.utils.data import Dataset, DataLoader
from imagearchive.compat import barecat
from PIL import Image
import io

class BarecatDataset(Dataset):
    def __init__(self, archive_path, transform=None):
        self.bc = barecat.Barecat(archive_path, threadsafe=True)
        self.transform = transform

        # Cache list of paths for fast indexing
        self.paths = [
            f.path for f in self.bc.index.iter_all_fileinfos()
        ]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, idx):
        path = self.paths[idx]
        data = self.bc[path]
        image = Image.open(io.BytesIO(data)).convert('RGB')

        if self.transform:
            image = self.transform(image)

        return image

    def close(self):
        self.bc.close()
"""

MULTI_WORKER = """
dataset = BarecatDataset('data.barecat')
loader = DataLoader(
    dataset,
    batch_size=64,
    shuffle=True,
    num_workers=8,  # Safe with threadsafe=True
    pin_memory=True,
    prefetch_factor=2,
)
"""

LABELED = """
class LabeledBarecatDataset(Dataset):
    def __init__(self, archive_path, transform=None):
        self.bc = barecat.Barecat(archive_path, threadsafe=True)
        self.transform = transform
        self.paths = []
        self.labels = []

        # Build class-to-index mapping
        classes = set()
        for f in self.bc.index.iter_all_fileinfos():
            class_name = f.path.split('/')[0]
            classes.add(class_name)

        self.class_to_idx = {c: i for i, c in enumerate(sorted(classes))}

        # Cache paths and labels
        for f in self.bc.index.iter_all_fileinfos():
            self.paths.append(f.path)
            class_name = f.path.split('/')[0]
            self.labels.append(self.class_to_idx[class_name])

    def __getitem__(self, idx):
        data = self.bc[self.paths[idx]]
        image = Image.open(io.BytesIO(data)).convert('RGB')
        if self.transform:
            image = self.transform(image)
        return image, self.labels[idx]
"""

METADATA = """
import json

class MetadataBarecatDataset(Dataset):
    def __init__(self, archive_path, transform=None):
        self.bc = barecat.Barecat(archive_path, threadsafe=True)
        self.transform = transform

        # Load metadata from archive
        metadata = json.loads(self.bc['metadata.json'].decode())
        self.paths = list(metadata.keys())
        self.labels = [metadata[p]['label'] for p in self.paths]
"""

DECODED = """
from imagearchive.compat.barecat import DecodedView

class DecodedViewDataset(Dataset):
    def __init__(self, archive_path, transform=None):
        self.bc = barecat.Barecat(archive_path, threadsafe=True)
        self.dec = DecodedView(self.bc)
        self.transform = transform
        self.paths = list(self.bc.index.iter_all_paths())

    def __getitem__(self, idx):
        # Returns numpy array (H, W, C) for .jpg/.png
        image = self.dec[self.paths[idx]]
        if self.transform:
            image = self.transform(image)
        return image

    def close(self):
        self.bc.close()
"""

STREAMING = """
class StreamingBarecatDataset(torch.utils.data.IterableDataset):
    def __init__(self, archive_path, transform=None):
        self.archive_path = archive_path
        self.transform = transform

    def __iter__(self):
        # Each worker gets its own barecat instance
        bc = barecat.Barecat(self.archive_path)

        worker_info = torch.utils.data.get_worker_info()
        if worker_info is not None:
            # Split files across workers
            all_paths = list(bc.index.iter_all_paths())
            per_worker = len(all_paths) // worker_info.num_workers
            start = worker_info.id * per_worker
            end = start + per_worker if worker_info.id < worker_info.num_workers - 1 else len(all_paths)
            paths = all_paths[start:end]
        else:
            paths = list(bc.index.iter_all_paths())

        for path in paths:
            data = bc[path]
            image = Image.open(io.BytesIO(data)).convert('RGB')
            if self.transform:
                image = self.transform(image)
            yield image

        bc.close()
"""

DISTRIBUTED = """
from torch.utils.data.distributed import DistributedSampler

dataset = BarecatDataset('data.barecat')
sampler = DistributedSampler(dataset)
loader = DataLoader(
    dataset,
    batch_size=64,
    sampler=sampler,
    num_workers=4,
    pin_memory=True,
)

# In training loop
for epoch in range(num_epochs):
    sampler.set_epoch(epoch)  # Ensures different shuffling each epoch
    for batch in loader:
        ...
"""

PERSISTENT = """
loader = DataLoader(
    dataset,
    num_workers=4,
    persistent_workers=True,  # Workers stay alive between epochs
)
"""

COMPLETE = """
import torch
from torch.utils.data import Dataset, DataLoader
from torchvision import transforms
from imagearchive.compat import barecat
from PIL import Image
import io

class ImageNetBarecatDataset(Dataset):
    def __init__(self, archive_path, split='train', transform=None):
        self.bc = barecat.Barecat(archive_path, threadsafe=True)
        self.transform = transform

        # Filter by split
        self.paths = []
        self.labels = []
        classes = sorted(self.bc.listdir(split))
        self.class_to_idx = {c: i for i, c in enumerate(classes)}

        for cls in classes:
            cls_path = f"{split}/{cls}"
            for fname in self.bc.listdir(cls_path):
                self.paths.append(f"{cls_path}/{fname}")
                self.labels.append(self.class_to_idx[cls])

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, idx):
        data = self.bc[self.paths[idx]]
        image = Image.open(io.BytesIO(data)).convert('RGB')
        if self.transform:
            image = self.transform(image)
        return image, self.labels[idx]

    def close(self):
        self.bc.close()

# Usage
transform = transforms.Compose([
    transforms.RandomResizedCrop(224),
    transforms.RandomHorizontalFlip(),
    transforms.ToTensor(),
    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
])

train_dataset = ImageNetBarecatDataset(
    'imagenet.barecat',
    split='train',
    transform=transform,
)

train_loader = DataLoader(
    train_dataset,
    batch_size=256,
    shuffle=True,
    num_workers=8,
    pin_memory=True,
    persistent_workers=True,
)

# Training loop
for epoch in range(90):
    for images, labels in train_loader:
        images = images.cuda(non_blocking=True)
        labels = labels.cuda(non_blocking=True)
        # ... training step
"""


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A folder with the archives of the guide."""
    folder = tmp_path_factory.mktemp("guide")
    rng = np.random.default_rng(0)

    def jpeg():
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(stream, "JPEG")
        return stream.getvalue()

    images = {f"{kind}/image{i}.jpg": jpeg() for kind in ("cat", "dog", "owl") for i in range(4)}
    metadata = {name: {"label": len(name)} for name in images}
    sets = {
        "data": images,
        "imagenet": {
            f"{part}/{n}": data for part in ("train", "val") for n, data in images.items()
        },
        "metadata": {**images, "metadata.json": json.dumps(metadata).encode()},
    }
    for title, files in sets.items():
        with peer.Barecat(f"{folder}/{title}.barecat", readonly=False) as archive:
            for name, data in files.items():
                archive[name] = data
    with tarfile.open(folder / "data.tar", "w") as archive:
        for name, data in images.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return folder


@pytest.fixture
def guide(archives, monkeypatch):
    """What runs blocks of the guide, in the folder of its archives."""
    monkeypatch.chdir(archives)
    namespace: dict = {}

    def run(*blocks):
        for block in blocks:
            exec(compile(block, "guide", "exec"), namespace)
        return namespace

    yield run
    # Workers that persist end here, and not when Python happens to find that nobody needs them.
    namespace.clear()
    gc.collect()


def to_array(image):
    return np.asarray(image, np.float32)


@pytest.mark.parametrize("archive", ["data.barecat", "data.tar"])
def test_guide_basic(guide, archive):
    dataset = guide(BASIC)["BarecatDataset"](archive, transform=to_array)
    assert len(dataset) == 12
    assert dataset[11].shape == (40, 50, 3)
    dataset.close()


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning", "ignore:.*worker:UserWarning")
@pytest.mark.parametrize("block", ["MULTI_WORKER", "PERSISTENT"])
def test_guide_workers(guide, block):
    namespace = guide(BASIC, MULTI_WORKER, globals()[block])
    # Without a transform the samples are images of Pillow, which PyTorch does not collate.
    namespace["loader"].collate_fn = list
    found = [image for batch in namespace["loader"] for image in batch]
    assert len(found) == 12
    assert {image.size for image in found} == {(50, 40)}


def test_guide_labels(guide):
    dataset = guide(BASIC, LABELED)["LabeledBarecatDataset"]("data.barecat")
    assert dataset.class_to_idx == {"cat": 0, "dog": 1, "owl": 2}
    assert [dataset[i][1] for i in range(12)] == [0] * 4 + [1] * 4 + [2] * 4


def test_guide_metadata(guide):
    dataset = guide(BASIC, METADATA)["MetadataBarecatDataset"]("metadata.barecat")
    assert len(dataset.paths) == 12
    assert dataset.labels == [len(path) for path in dataset.paths]


@pytest.mark.parametrize("archive", ["data.barecat", "data.tar"])
def test_guide_decoded_view(guide, archive):
    dataset = guide(BASIC, DECODED)["DecodedViewDataset"](archive)
    assert len(dataset.paths) == 12
    for index in range(12):
        assert dataset[index].shape == (40, 50, 3)
        assert dataset[index].dtype == np.uint8
    dataset.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_guide_streaming(guide, workers):
    namespace = guide(BASIC, STREAMING)
    dataset = namespace["StreamingBarecatDataset"]("data.barecat", transform=to_array)
    loader = namespace["DataLoader"](dataset, batch_size=None, num_workers=workers)
    assert len(list(loader)) == 12


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning", "ignore:.*worker:UserWarning")
def test_guide_distributed(guide, tmp_path):
    import torch.distributed

    namespace = guide(BASIC)
    plain = namespace["BarecatDataset"]
    namespace["BarecatDataset"] = lambda path: plain(path, transform=to_array)
    namespace["num_epochs"] = 2
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        guide(DISTRIBUTED)
    finally:
        torch.distributed.destroy_process_group()
    assert namespace["batch"].shape == (12, 40, 50, 3)


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning", "ignore:.*worker:UserWarning")
def test_guide_complete(guide, monkeypatch):
    import torch

    def compose(steps):
        def apply(image):
            for step in steps:
                image = step(image)
            return image

        return apply

    def random_resized_crop(size):
        return lambda image: image.resize((size, size))

    # torchvision in name only: what the block needs of it.
    transforms = types.ModuleType("torchvision.transforms")
    transforms.Compose = compose
    transforms.RandomResizedCrop = random_resized_crop
    transforms.RandomHorizontalFlip = lambda: lambda image: image
    transforms.ToTensor = lambda: lambda image: torch.tensor(to_array(image)).permute(2, 0, 1) / 255
    transforms.Normalize = lambda mean, std: (
        lambda tensor: (
            (tensor - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        )
    )
    torchvision = types.ModuleType("torchvision")
    torchvision.transforms = transforms
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "torchvision.transforms", transforms)
    # There is no GPU, and one epoch is as good as ninety.
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor, non_blocking=False: tensor)
    namespace = guide("range = lambda epochs: [0]")
    guide(COMPLETE)
    assert namespace["images"].shape == (12, 3, 224, 224)
    assert sorted(namespace["labels"].tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert len(namespace["train_dataset"]) == 12
