"""`make_once`: one makes the file, the others wait, and failures leave nothing."""

import multiprocessing
import os
import signal
import time

import pytest
from support.threads import run_in_threads

from imagearchive.storage.make_once import make_once


def write_slowly(path, log):
    def write(file):
        # One line for each beginning.
        with open(log, "a") as lines:
            lines.write("begun\n")
        for _ in range(20):
            file.write(b"x" * 1000)
            time.sleep(0.005)

    return make_once(path, write)


def begun(log):
    return len(log.read_text().splitlines())


def test_make_once_in_threads_writes_once(tmp_path):
    path, log = tmp_path / "made", tmp_path / "log"
    made = []
    run_in_threads(lambda _: made.append(write_slowly(str(path), log)), 5)
    assert sorted(made) == [False] * 4 + [True]
    assert begun(log) == 1
    assert path.read_bytes() == b"x" * 20_000
    assert sorted(os.listdir(tmp_path)) == ["log", "made"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_make_once_in_processes_writes_once(method, tmp_path):
    path, log = tmp_path / "made", tmp_path / "log"
    with multiprocessing.get_context(method).Pool(4) as pool:
        made = pool.starmap(write_slowly, [(str(path), log)] * 4)
    assert sorted(made) == [False] * 3 + [True]
    assert begun(log) == 1
    assert sorted(os.listdir(tmp_path)) == ["log", "made"]


def test_make_once_after_a_killed_process_begins_anew(tmp_path):
    path, log = tmp_path / "made", tmp_path / "log"
    child = multiprocessing.get_context("fork").Process(target=write_slowly, args=(str(path), log))
    child.start()
    while not (log.exists() and begun(log)):
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert not path.exists()
    assert write_slowly(str(path), log)
    assert begun(log) == 2
    assert sorted(os.listdir(tmp_path)) == ["log", "made"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_make_once_that_fails_leaves_nothing(error, tmp_path):
    def fail(file):
        file.write(b"x")
        raise error

    with pytest.raises(error):
        make_once(str(tmp_path / "made"), fail)
    assert os.listdir(tmp_path) == []
    assert make_once(str(tmp_path / "made"), lambda file: file.write(b"y"))


def test_make_once_without_its_directory_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        make_once(str(tmp_path / "none" / "made"), lambda file: None)
