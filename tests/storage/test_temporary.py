"""Temporary directories are removed by the next process if theirs was killed."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from imagearchive.errors import TargetExistsError
from imagearchive.storage.temporary import (
    LOCK_NAME,
    LockedDirectory,
    remove_stale_directories,
    resumable_directory,
)

TAG = "0123456789abcdef"


def run_killed(script):
    """Run a script that kills itself."""
    script = f"""
import os, signal
from imagearchive.storage.temporary import *
{script}
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_locked_directory_is_removed_with_its_content(tmp_path):
    with LockedDirectory(str(tmp_path), ".ours-") as folder:
        os.makedirs(os.path.join(folder.path, "a", "b"))
        os.symlink(tmp_path, os.path.join(folder.path, "a", "link"))
        with open(folder.file("c"), "w"):
            pass
        (tmp_path / "kept").touch()
    assert os.listdir(tmp_path) == ["kept"]
    folder.close()


def test_locked_directory_of_a_killed_process_is_removed_by_the_next(tmp_path):
    run_killed(f"""
folder = LockedDirectory({str(tmp_path)!r}, ".ours-")
os.makedirs(folder.path + "/a/b")
open(folder.path + "/a/c", "w").close()
""")
    assert len(os.listdir(tmp_path)) == 1
    with LockedDirectory(str(tmp_path), ".theirs-"):
        assert len(os.listdir(tmp_path)) == 2
    with LockedDirectory(str(tmp_path), ".ours-"):
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []


def test_locked_directory_leaves_that_of_a_living_process(tmp_path):
    with (
        LockedDirectory(str(tmp_path), ".ours-") as first,
        LockedDirectory(str(tmp_path), ".ours-") as second,
    ):
        assert set(os.listdir(tmp_path)) == {os.path.basename(one.path) for one in (first, second)}


def test_locked_directory_interrupted_while_it_is_removed_vanishes_with_its_object(
    tmp_path, monkeypatch
):
    def interrupt(*args, **options):
        monkeypatch.undo()
        raise KeyboardInterrupt

    def use():
        with LockedDirectory(str(tmp_path), ".ours-") as folder:
            os.mkdir(os.path.join(folder.path, "a"))
            monkeypatch.setattr(os, "fwalk", interrupt)

    with contextlib.suppress(KeyboardInterrupt):
        use()
    assert os.listdir(tmp_path) == []


def test_locked_directory_is_left_to_the_parent_by_a_forked_child(tmp_path):
    with LockedDirectory(str(tmp_path), ".ours-") as folder:
        pid = os.fork()
        if not pid:
            folder.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.path.exists(folder.path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [[], ["mine"]])
def test_locked_directory_leaves_what_is_not_ours(tmp_path, content):
    """A directory without a lock is removed only if it is empty."""
    (tmp_path / ".ours-12345678").mkdir()
    for name in content:
        (tmp_path / ".ours-12345678" / name).touch()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / LOCK_NAME).touch()
    (tmp_path / ".ours-link").symlink_to("victim")
    LockedDirectory(str(tmp_path), ".ours-").close()
    expected = [".ours-12345678"] * bool(content) + [".ours-link", "victim"]
    assert sorted(os.listdir(tmp_path)) == expected
    assert os.listdir(tmp_path / "victim") == [LOCK_NAME]


def test_resumable_directory_gets_its_name_at_the_end(tmp_path):
    target = tmp_path / "folder"
    with resumable_directory(f"{target}/", TAG) as (part, resumed):
        assert not resumed
        with open(os.path.join(part, "a"), "w"):
            pass
        assert not target.exists()
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(target) == ["a"]


def test_resumable_directory_without_files_is_removed_after_a_failure(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        resumable_directory(str(tmp_path / "a"), TAG) as (part, _),
    ):
        os.mkdir(os.path.join(part, "below"))
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("killed", [False, True])
def test_resumable_directory_is_continued(tmp_path, killed):
    target = str(tmp_path / ("a" * 250))
    if killed:
        run_killed(f"""
context = resumable_directory({target!r}, {TAG!r})
path, _ = context.__enter__()
open(path + "/file", "w").close()
""")
    else:
        with (
            pytest.raises(KeyboardInterrupt),
            resumable_directory(target, TAG) as (part, _),
            open(os.path.join(part, "file"), "w"),
        ):
            raise KeyboardInterrupt
    with resumable_directory(target, TAG[::-1]) as (part, resumed):
        assert not resumed
        assert os.listdir(part) == [LOCK_NAME]
    os.rmdir(target)
    with resumable_directory(target, TAG) as (part, resumed):
        assert resumed
    assert os.listdir(tmp_path) == ["a" * 250]
    assert os.listdir(target) == ["file"]


def test_resumable_directory_of_a_living_process_is_refused(tmp_path):
    target = str(tmp_path / "a")
    with resumable_directory(target, TAG):
        with (
            pytest.raises(TargetExistsError, match="another process is making this directory"),
            resumable_directory(target, TAG),
        ):
            pass
        remove_stale_directories(target)
    assert os.listdir(tmp_path) == ["a"]


def test_remove_stale_directories_removes_those_of_the_target(tmp_path):
    for name in ("a", "b"):
        run_killed(f"""
context = resumable_directory({str(tmp_path / name)!r}, {TAG!r})
path, _ = context.__enter__()
open(path + "/file", "w").close()
""")
    (tmp_path / f"a.{TAG[::-1]}.part").mkdir()
    (tmp_path / f"a.{TAG[::-1]}.part" / "mine").touch()
    remove_stale_directories(str(tmp_path / "a"))
    assert sorted(os.listdir(tmp_path)) == [f"a.{TAG[::-1]}.part", f"b.{TAG}.part"]


def test_resumable_directory_names_the_target_in_errors(tmp_path):
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "folder")
    with pytest.raises(NotADirectoryError) as caught, resumable_directory(path, TAG):
        pass
    assert caught.value.filename == path


def test_locked_directory_of_a_name_is_taken_over_with_its_files(tmp_path):
    first = LockedDirectory(str(tmp_path), ".x-", "name")
    (tmp_path / ".x-name" / "file").write_text("kept")
    with LockedDirectory(str(tmp_path), ".x-", "name") as other:
        assert other.path != first.path, "the first is in use"
    first.release()
    with LockedDirectory(str(tmp_path), ".x-", "name") as second:
        assert os.listdir(tmp_path) == [".x-name"]
        with open(os.path.join(second.path, "file")) as file:
            assert file.read() == "kept"
    assert os.listdir(tmp_path) == []


def test_locked_directory_of_another_name_is_removed(tmp_path):
    LockedDirectory(str(tmp_path), ".x-", "old").release()
    with LockedDirectory(str(tmp_path), ".x-", "new"):
        assert os.listdir(tmp_path) == [".x-new"]


def test_locked_directory_that_others_may_write_is_not_taken_over(tmp_path):
    (tmp_path / ".x-name").mkdir()
    (tmp_path / ".x-name").chmod(0o777)
    with LockedDirectory(str(tmp_path), ".x-", "name") as made:
        assert made.path != str(tmp_path / ".x-name")
    (tmp_path / ".x-name").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".x-name").symlink_to(tmp_path / "elsewhere")
    with LockedDirectory(str(tmp_path), ".x-", "name") as made:
        assert made.path != str(tmp_path / ".x-name")
