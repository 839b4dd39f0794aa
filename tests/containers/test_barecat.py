"""Barecat archives that the package `barecat` wrote, and damaged ones."""

from __future__ import annotations

import logging
import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import warnings

import barecat as peer
import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.archives import files_left
from support.barecat_archives import barecat_files, execute_sql, write_barecat

from imagearchive.compat import barecat
from imagearchive.containers.barecat import BarecatContainer
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    ImageArchiveError,
    UnsupportedArchiveError,
)
from imagearchive.storage.location import locate
from imagearchive.storage.path_options import add_options
from imagearchive.storage.staged_files import StagedFiles

BARECAT = BarecatContainer()


def scan_path(path, strict=True):
    rows, files = BARECAT.scan_location(locate(path), strict)
    return rows, [file.path for file in files]


def sniff(path):
    location = locate(path)
    location = location if location.exists() else BARECAT.resolve(location)
    head = pathlib.Path(location.path).read_bytes()[:512] if location.status().is_file else b""
    return BARECAT.sniff_location(location, location.status(), head)


# ---------------------------------------------------------------- index


def test_barecat_changed_archive_is_indexed_again(barecat_copy):
    path, _ = barecat_copy
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


def test_barecat_renamed_member_is_noticed(barecat_copy):
    path, _ = barecat_copy
    with barecat.Barecat(path) as ours:
        assert ".hidden" in ours
    with peer.Barecat(path, readonly=False) as theirs:
        theirs.rename(".hidden", ".hidde2")
    with barecat.Barecat(path) as ours:
        assert ours[".hidde2"] == b"h"
        assert ".hidden" not in ours


def test_barecat_open_writes_only_the_index(barecat_copy):
    path, _ = barecat_copy
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


# ---------------------------------------------------------------- older and unusual archives


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
    VALUES ('use_triggers', 1), ('shard_size_limit', 1000000),
        ('schema_version_major', 0), ('schema_version_minor', 2);
ATTACH '{source}' AS source;
INSERT INTO files (path, shard, offset, size, crc32c, mode, uid, gid, mtime_ns)
    SELECT path, shard, offset, size, crc32c, mode, uid, gid, mtime_ns FROM source.files;
INSERT INTO dirs (path, num_subdirs, num_files, num_files_tree, size_tree, mode, uid, gid, mtime_ns)
    SELECT path, num_subdirs, num_files, num_files_tree, size_tree, mode, uid, gid,
    mtime_ns FROM source.dirs;
DETACH source;
"""


def test_barecat_schema_2_with_a_separate_index_is_read(barecat_copy):
    path, files = barecat_copy
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


def test_barecat_empty_archive_has_no_members(tmp_path):
    path = str(tmp_path / "empty.barecat")
    with peer.Barecat(path, readonly=False):
        pass
    with barecat.Barecat(path) as ours:
        assert (list(ours), len(ours), ours.listdir(""), list(ours.dirs())) == ([], 0, [], [""])


def test_barecat_missing_values_are_none(barecat_copy):
    path, _ = barecat_copy
    execute_sql(
        path, "UPDATE files SET crc32c = NULL, mode = NULL, mtime_ns = NULL WHERE path = 'top.txt'"
    )
    with barecat.Barecat(path, verify=True) as ours:
        info = ours.index.lookup("top.txt")
        assert (info.crc32c, info.mode, info.mtime_ns, info.mtime_dt) == (None, None, None, None)
        assert ours["top.txt"] == barecat_files()["top.txt"]


def test_barecat_live_wal_is_read(barecat_copy):
    path, files = barecat_copy
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


def test_barecat_copy_leaves_files_that_wait_for_an_upload(barecat_copy, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # As of a run that was interrupted, and is going to be continued.
    filesystem = fsspec.filesystem("memory")
    with StagedFiles(add_options("s3://data/x", None, filesystem), "-repack-", "0123") as staged:
        path = pathlib.Path(staged.path("shard.tar"))
        path.write_bytes(b"whole")
    archive, _ = barecat_copy
    writer = sqlite3.connect(archive)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute(
        "INSERT INTO files (path, shard, offset, size) "
        "SELECT 'late', shard, offset, size FROM files WHERE path = 'top.txt'"
    )
    writer.commit()
    assert os.path.getsize(archive + "-wal")
    scan_path(archive)
    writer.close()
    assert path.read_bytes() == b"whole"


def test_barecat_locked_by_a_writer_is_read(barecat_copy):
    path, files = barecat_copy
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    with barecat.Barecat(path) as ours:
        assert set(ours) == set(files)
    writer.execute("ROLLBACK")
    writer.close()


def test_barecat_interrupted_writer_leaves_committed_members(barecat_copy):
    path, files = barecat_copy
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


# ---------------------------------------------------------------- damage


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
def test_barecat_impossible_row_raises(barecat_copy, kind):
    path, _ = barecat_copy
    execute_sql(path, OFF, HOSTILE[kind])
    with pytest.raises(CorruptArchiveError, match=r"data\.barecat"):
        barecat.Barecat(path)


def test_barecat_not_strict_leaves_out_only_the_impossible_row(barecat_copy, caplog):
    path, files = barecat_copy
    execute_sql(path, OFF, HOSTILE["beyond"])
    with barecat.Barecat(path, strict=False) as ours:
        assert dict(ours.items()) == {n: data for n, data in files.items() if n != "top.txt"}
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "1 member is left out" in record.getMessage()
    assert "'top.txt' of" in record.getMessage()
    assert "is not inside" in record.getMessage()


def test_barecat_not_strict_leaves_out_the_members_of_a_missing_shard(barecat_copy):
    path, files = barecat_copy
    execute_sql(path, OFF, HOSTILE["missing shard"])
    with barecat.Barecat(path, strict=False) as ours:
        assert dict(ours.items()) == {n: data for n, data in files.items() if n != "top.txt"}


@pytest.mark.parametrize("strict", [True, False])
def test_barecat_overlapping_files_raise_or_are_left_out(tmp_path, strict, caplog):
    path = str(tmp_path / "data.barecat")
    write_barecat(path, {"a": bytes(100), "b": bytes(100), "c": bytes(50), "d": bytes(10)})
    statements = [OFF, "UPDATE files SET offset = 0 WHERE path IN ('a', 'b')"]
    execute_sql(path, *statements)
    with barecat.Barecat(path) as ours:
        assert len(ours) == 4
    execute_sql(path, OFF, "UPDATE files SET offset = 50 WHERE path = 'c'")
    if strict:
        with pytest.raises(CorruptArchiveError, match="'c' at offset 50 overlaps another file"):
            barecat.Barecat(path)
        return
    with barecat.Barecat(path, strict=False) as ours:
        assert sorted(ours) == ["a", "b", "d"]


def test_barecat_endless_view_is_not_run(barecat_copy):
    path, _ = barecat_copy
    execute_sql(
        path,
        "ALTER TABLE files RENAME TO hidden",
        "CREATE VIEW files AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) "
        "SELECT i AS path, i AS shard, i AS offset, i AS size FROM n",
    )
    with pytest.raises(UnsupportedArchiveError):
        scan_path(path)


def test_barecat_computed_column_is_not_run(barecat_copy):
    path, _ = barecat_copy
    execute_sql(
        path,
        "ALTER TABLE files RENAME TO hidden",
        "CREATE TABLE files (path TEXT, shard INTEGER, size INTEGER, "
        "offset INTEGER AS (length(zeroblob(1000000000))))",
    )
    with pytest.raises(CorruptArchiveError, match="no plain column offset"):
        scan_path(path)


def test_barecat_pages_that_share_a_leaf_raise(tmp_path):
    # A tree of few pages in which every path leads to the same leaf: 10**20 rows to visit.
    path = write_barecat(str(tmp_path / "data.barecat"), {f"{i:0200d}": b"" for i in range(400)})
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


def test_barecat_too_few_descriptors_raise_os_error(barecat_copy):
    path, _ = barecat_copy
    with (
        files_left(0),
        pytest.raises(OSError, match=f"Too many open files: '{re.escape(path)}'"),
    ):
        scan_path(path)
    scan_path(path)


def test_barecat_other_databases_and_versions_raise(barecat_copy, tmp_path):
    path, _ = barecat_copy
    execute_sql(path, "UPDATE config SET value_int = 1 WHERE key = 'schema_version_major'")
    with pytest.raises(UnsupportedArchiveError, match="schema 1 is not supported"):
        barecat.Barecat(path)
    other = str(tmp_path / "other.db")
    execute_sql(other, "CREATE TABLE unrelated (a)")
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


def test_barecat_schema_that_is_not_text_raises(barecat_copy):
    path, _ = barecat_copy
    content = pathlib.Path(path).read_bytes()
    damaged = content.replace(b"CREATE TABLE dirs", b"CRE\xff\xc9 TABLE dirs")
    assert damaged != content
    pathlib.Path(path).write_bytes(damaged)
    assert sniff(path)
    with pytest.raises(CorruptArchiveError):
        scan_path(path)


def test_barecat_names_that_are_not_utf8_are_kept(barecat_copy):
    path, files = barecat_copy
    execute_sql(
        path, OFF, "UPDATE files SET path = CAST(x'66ff2f78' AS TEXT) WHERE path = 'top.txt'"
    )
    with barecat.Barecat(path) as ours:
        assert ours["f\udcff/x"] == files["top.txt"]


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_barecat_any_damage_raises_or_reads(barecat_archive, tmp_path, data):
    path, _ = barecat_archive
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
