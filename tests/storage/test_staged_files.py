"""A set of files gets its names together, or not at all."""

import os
import signal
import subprocess
import sys

import pytest

from imagearchive.storage.staged_files import StagedFiles


def stage(folder, content, names, obsolete=(), prefix=".staging-"):
    with StagedFiles(str(folder), prefix) as staged:
        for name in names:
            with open(staged.path(name), "w") as file:
                file.write(content)
        staged.publish(names, obsolete)


def read(folder):
    return {name: (folder / name).read_text() for name in os.listdir(folder)}


def test_staged_files_appear_when_published(tmp_path):
    (tmp_path / "other").write_text("mine")
    with StagedFiles(str(tmp_path), ".staging-") as staged:
        for name in "ab":
            with open(staged.path(name), "w") as file:
                file.write(name)
        assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == ["other"]
        staged.publish(["a", "b"])
    assert read(tmp_path) == {"a": "a", "b": "b", "other": "mine"}
    stage(tmp_path, "new", ["a", "c"], ["b", "missing"])
    assert read(tmp_path) == {"a": "new", "c": "new", "other": "mine"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_staged_files_left_by_an_exception_leave_the_old_files(tmp_path, error):
    stage(tmp_path, "old", ["a", "b"])
    with (
        pytest.raises(error),
        StagedFiles(str(tmp_path), ".staging-") as staged,
        open(staged.path("a"), "w"),
    ):
        raise error
    assert read(tmp_path) == {"a": "old", "b": "old"}


def test_staged_files_remove_whatever_else_was_made(tmp_path):
    with StagedFiles(str(tmp_path), ".staging-") as staged:
        folder = os.path.dirname(staged.path("a"))
        os.makedirs(os.path.join(folder, "x", "y"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("when", range(12))
def test_staged_files_interrupted_while_they_move_finish(tmp_path, monkeypatch, when):
    stage(tmp_path, "old", ["a", "b", "c", "d"])
    calls = []

    def interrupting(name):
        real = getattr(os, name)

        def call(*args, **options):
            # Before and after each of the calls that change the folder.
            calls.append(name)
            if len(calls) == when + 1:
                raise KeyboardInterrupt
            real(*args, **options)
            calls.append(name)
            if len(calls) == when + 1:
                raise KeyboardInterrupt

        return call

    with monkeypatch.context() as patch:
        for name in ("unlink", "replace"):
            patch.setattr(os, name, interrupting(name))
        with pytest.raises(KeyboardInterrupt):
            stage(tmp_path, "new", ["a", "b", "e"], ["c", "d"])
    assert read(tmp_path) == {"a": "new", "b": "new", "e": "new"}


@pytest.mark.parametrize("obsolete", [[], ["d"]])
def test_staged_files_never_look_whole_while_they_move(tmp_path, monkeypatch, obsolete):
    """A reader that goes by the last name sees the old files or the new ones."""
    names = ["a", "b", "last"]
    stage(tmp_path, "old", [*obsolete, *names])
    seen = []

    def watching(name):
        real = getattr(os, name)

        def call(*args, **options):
            real(*args, **options)
            found = read_visible()
            seen.append(found)
            if "last" in found:
                assert len(set(found.values())) == 1
                assert set(found) == set(names)

        return call

    def read_visible():
        return {
            name: (tmp_path / name).read_text()
            for name in os.listdir(tmp_path)
            if not name.startswith(".")
        }

    with monkeypatch.context() as patch:
        for name in ("unlink", "replace"):
            patch.setattr(os, name, watching(name))
        stage(tmp_path, "new", names, obsolete)
    assert len(seen) >= 5


def test_staged_file_alone_replaces_its_predecessor_at_once(tmp_path, monkeypatch):
    stage(tmp_path, "old", ["a"])

    def replace(*args, real=os.replace):
        assert (tmp_path / "a").read_text() == "old"
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        stage(tmp_path, "new", ["a"])
    assert read(tmp_path) == {"a": "new"}


def test_staged_files_clear_what_killed_processes_left(tmp_path):
    script = f"""
import os, signal
from imagearchive.storage.staged_files import StagedFiles
staged = StagedFiles({str(tmp_path)!r}, ".staging-")
open(staged.path("a"), "w").close()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = os.listdir(tmp_path)
    # Another prefix is another user of the folder.
    stage(tmp_path, "x", ["x"], prefix=".other-")
    assert sorted(os.listdir(tmp_path)) == [left, "x"]
    stage(tmp_path, "new", ["a"])
    assert sorted(os.listdir(tmp_path)) == ["a", "x"]


def test_staged_files_leave_those_of_a_living_process(tmp_path):
    with StagedFiles(str(tmp_path), ".staging-") as first:
        with open(first.path("a"), "w") as file:
            file.write("first")
        stage(tmp_path, "second", ["b"])
        first.publish(["a"])
    assert read(tmp_path) == {"a": "first", "b": "second"}
