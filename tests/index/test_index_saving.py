"""Where an index is saved, and what happens when it cannot be."""

import builtins
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from support.index_files import MEMBERS, contents, default_path, is_marked, mark

from imagearchive.archive.archive import Archive
from imagearchive.errors import (
    OptionError,
)
from imagearchive.index import file_format as index_file
from imagearchive.index.index_locations import cache_location
from imagearchive.index.table import IndexTable
from imagearchive.storage import local
from imagearchive.storage.location import locate


def unwritable(monkeypatch, *folders):
    """Let the system refuse new files below some directories; permissions do not stop root."""

    def refuse(path, mode="r", *rest, real=open, **options):
        if set(mode) & set("wax+") and str(path).startswith(tuple(map(str, folders))):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, mode, *rest, **options)

    monkeypatch.setattr(builtins, "open", refuse)


def test_open_unwritable_directory_saves_in_the_cache(tar, tmp_path, monkeypatch):
    unwritable(monkeypatch, tmp_path)
    table = IndexTable.open(tar)
    assert table.path == cache_location([tar], locate(tar)).path
    assert table.path.startswith(platformdirs.user_cache_dir("imagearchive", appauthor=False))
    mark(table)
    table = IndexTable.open(tar)
    assert contents(table) == MEMBERS
    assert is_marked(table)


def test_open_without_an_index_compares_no_names_of_files(tar, monkeypatch):
    def advise(path):
        raise AssertionError(path)

    monkeypatch.setattr(local, "advise_on_path", advise)
    with pytest.raises(AssertionError):
        local.open_storage("nowhere")
    assert contents(IndexTable.open(tar)) == MEMBERS


def test_open_without_a_writable_directory_warns(tar, monkeypatch):
    unwritable(monkeypatch, "/")
    with pytest.warns(RuntimeWarning, match="cannot be saved"):
        table = IndexTable.open(tar)
    assert table.path is None
    assert contents(table) == MEMBERS
    with pytest.raises(OptionError, match="cannot write the index"):
        IndexTable.open(tar, "/nowhere/x.npy")


def test_open_read_only_directory_saves_in_the_cache(tar):
    """As an ordinary user meets it: in a child that gave up root, where the tests run as root."""
    folder = os.path.dirname(tar)
    code = f"""
import os, sys, tempfile
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
if os.getuid() == 0:
    os.chmod(os.environ["XDG_CACHE_HOME"], 0o777)
    import imagearchive.index.table, imagearchive.containers.tar.scan
    os.setuid(65534)
from imagearchive.index.table import IndexTable
table = IndexTable.open({tar!r})
assert table.path.startswith(os.environ["XDG_CACHE_HOME"]), table.path
assert len(table) == {len(MEMBERS)}
"""
    os.chmod(folder, 0o555)
    parents = []
    while (folder := os.path.dirname(folder)) != "/":
        mode = os.stat(folder).st_mode
        parents.append((folder, mode))
        os.chmod(folder, mode | 0o055)
    try:
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    finally:
        for folder, mode in parents:
            os.chmod(folder, mode)
        os.chmod(os.path.dirname(tar), 0o755)


def open_and_count(tar, barrier, results):
    barrier.wait()
    for _ in range(20):
        table = IndexTable.open(tar, overwrite=True)
        results.put(contents(table) == MEMBERS)


def test_open_in_several_processes_at_once_builds_whole_indexes(tar):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    builders = [
        context.Process(target=open_and_count, args=(tar, barrier, results)) for _ in range(3)
    ]
    for process in builders:
        process.start()
    assert all(results.get(timeout=60) for _ in range(60))
    for process in builders:
        process.join()
        assert process.exitcode == 0
    assert [name for name in os.listdir(os.path.dirname(tar)) if name.endswith(".part")] == []


def test_save_that_fails_leaves_the_old_index(tar, monkeypatch):
    table = IndexTable.open(tar)
    before = Path(table.path).read_bytes()

    def crash(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="No space"):
            table.save(table.path)
    assert Path(table.path).read_bytes() == before
    assert sorted(os.listdir(os.path.dirname(tar))) == ["data.idx.npy", "data.tar"]


def test_open_builds_the_index_again_if_another_process_removes_it(tar, monkeypatch):
    save = index_file.save

    def save_and_remove(location, sections, meta):
        save(location, sections, meta)
        os.unlink(location.path)

    monkeypatch.setattr(index_file, "save", save_and_remove)
    assert contents(IndexTable.open(tar)) == MEMBERS
    assert os.listdir(os.path.dirname(tar)) == ["data.tar"]


def test_save_that_is_killed_leaves_no_broken_index(tar, tmp_path):
    code = f"""
import os, signal
os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
from imagearchive.index.table import IndexTable
IndexTable.open({tar!r})
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not os.path.exists(default_path(tar))
    assert contents(IndexTable.open(tar)) == MEMBERS


def test_open_without_a_home_directory_works(tar, monkeypatch):
    def nowhere(*_, **__):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_cache_dir", nowhere)
    assert contents(IndexTable.open(tar)) == MEMBERS
    os.unlink(default_path(tar))
    unwritable(monkeypatch, "/")
    with pytest.warns(RuntimeWarning, match="no cache directory|cannot be saved"):
        assert contents(IndexTable.open(tar)) == MEMBERS


def test_open_with_overwrite_replaces_only_indexes(tar, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for ipath in (tar, tmp_path / "notes.txt", tmp_path):
        with pytest.raises((OptionError, index_file.NotAnIndexError)):
            IndexTable.open(tar, ipath, overwrite=True)
    assert contents(IndexTable.open(tar)) == MEMBERS
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(OptionError, match="directory"):
        IndexTable.open(tmp_path, tmp_path / "index")


def test_add_extra_many_sections_save_the_file_few_times(tar, monkeypatch):
    table, saved = IndexTable.open(tar), []

    def replace(*paths, real=os.replace):
        saved.append(paths)
        real(*paths)

    monkeypatch.setattr(os, "replace", replace)
    for number in range(100):
        table.add_extra({f"{number}": np.full(3, number)})
        # At least half of what was added is in the file at any time.
        assert 2 * len(IndexTable.load(table.path, tar).extra) > number
    assert len(saved) == 7
    table.save_extra()
    table.save_extra()
    assert len(saved) == 8
    extra = IndexTable.open(tar).extra
    assert {name: values[0] for name, values in extra.items()} == {f"{n}": n for n in range(100)}


def test_close_archive_saves_sections_that_were_added(tar):
    with Archive(tar) as archive:
        for number in range(7):
            archive.table.add_extra({f"{number}": np.zeros(1)})
    assert len(IndexTable.open(tar).extra) == 7
