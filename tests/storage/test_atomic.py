"""Files that appear when they are complete, one at a time."""

import errno
import fcntl
import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import sys

import pytest
from support.files import descriptors

from imagearchive.errors import ClosedError, ImageArchiveError, TargetExistsError
from imagearchive.storage.atomic import (
    AtomicFile,
    check_target,
)
from imagearchive.storage.temporary import temporary_name


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.bin"


def write(path, data, **options):
    with AtomicFile(path, **options) as target:
        target.file.write(data)


def in_child(function):
    """Run a function in a forked child; return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("options", [{}, {"sync": False}, {"buffering": 0}])
def test_atomic_file_appears_when_published(path, options):
    target = AtomicFile(path, **options)
    target.file.write(b"data")
    assert os.listdir(path.parent) == [os.path.basename(target.part)]
    target.complete()
    target.complete()
    assert not path.exists()
    target.publish()
    target.publish()
    assert target.published
    assert path.read_bytes() == b"data"
    assert os.listdir(path.parent) == ["a.bin"]
    with pytest.raises(ClosedError, match="closed already"):
        target.file.write(b"more")


def test_atomic_file_permissions_follow_the_umask(path):
    before = os.umask(0o027)
    try:
        write(path, b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("length", [200, 234, 255])
def test_atomic_file_takes_names_of_any_length(tmp_path, length):
    write(tmp_path / ("x" * length), b"data")
    assert os.listdir(tmp_path) == ["x" * length]


def test_atomic_file_fails_in_a_missing_folder(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no such directory to write 'a\.bin' to"
    ) as caught:
        AtomicFile(tmp_path / "missing" / "a.bin")
    assert caught.value.filename == str(tmp_path / "missing")


def test_atomic_file_names_the_target_in_errors_of_creation(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        AtomicFile(tmp_path / "file" / "a.bin")
    assert caught.value.filename == str(tmp_path / "file" / "a.bin")


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_atomic_file_left_by_an_exception_leaves_the_old_file(path, error):
    path.write_bytes(b"old")
    before = descriptors()
    with (
        pytest.raises(error),
        AtomicFile(path, overwrite=True) as target,
    ):
        target.file.write(bytes(100_000))
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["a.bin"]
    assert descriptors() == before


def test_atomic_file_that_is_forgotten_leaves_nothing(path):
    target = AtomicFile(path)
    target.file.write(b"data")
    del target
    assert os.listdir(path.parent) == []


def test_atomic_file_that_was_given_up_cannot_be_published(path):
    target = AtomicFile(path)
    target.abort()
    target.abort()
    with pytest.raises(ClosedError, match="given up"):
        target.publish()
    assert os.listdir(path.parent) == []


# Everything that publishing calls, in turn.
@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_atomic_file_whose_publication_fails_leaves_the_old_file(path, monkeypatch, step, error):
    path.write_bytes(b"old")
    before = descriptors()
    target = AtomicFile(path, overwrite=True)
    target.file.write(b"new")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)) as caught:
        target.publish()
    if isinstance(error, OSError):
        assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["a.bin"]
    assert descriptors() == before
    with pytest.raises(ClosedError):
        target.publish()


def test_atomic_file_on_a_full_disk_names_the_target_and_leaves_nothing(path):
    def work():
        # The limit of the file size stands for a full disk; without a handler it would kill.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write(path, bytes(1800))
        except OSError as error:
            os._exit(7 if error.errno == errno.EFBIG and error.filename == str(path) else 8)

    assert in_child(work) == 7
    assert os.listdir(path.parent) == []


def test_atomic_file_interrupted_right_after_the_rename_is_withdrawn(path, monkeypatch):
    target = AtomicFile(path)

    def interrupted(*args, real=os.replace):
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        target.publish()
    assert path.exists()
    target.withdraw()
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_atomic_file_of_a_killed_process_is_removed_by_the_next_writer(path, moment):
    path.write_bytes(b"old")
    script = f"""
import os, signal
from imagearchive.storage.atomic import AtomicFile
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
with AtomicFile({str(path)!r}, overwrite=True) as target:
    target.file.write(b"new")
    os.write = os.{moment} = kill
    if {moment == "write"}:
        kill()
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    (part,) = set(os.listdir(path.parent)) - {"a.bin"}
    assert part.startswith("a.bin.")
    assert part.endswith(".part")
    # The writer of another file leaves it alone.
    write(path.with_name("b.bin"), b"other")
    assert sorted(os.listdir(path.parent)) == ["a.bin", part, "b.bin"]
    write(path, b"newer", overwrite=True)
    assert path.read_bytes() == b"newer"
    assert sorted(os.listdir(path.parent)) == ["a.bin", "b.bin"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_atomic_file_of_an_interrupted_process_leaves_nothing(path, signum):
    script = f"""
import signal, sys, time
from imagearchive.storage.atomic import AtomicFile
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
with AtomicFile({str(path)!r}) as target:
    target.file.write(b"new")
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        child.stdout.readline()
        assert len(os.listdir(path.parent)) == 1
        child.send_signal(signum)
        assert child.wait(60) != 0
    assert os.listdir(path.parent) == []


def test_atomic_file_is_left_alone_by_a_forked_child(path):
    target = AtomicFile(path)
    target.file.write(b"one ")
    assert in_child(target.abort) == 0
    target.file.write(b"two")
    target.publish()
    assert path.read_bytes() == b"one two"


def test_atomic_file_refuses_an_existing_target(path):
    path.write_bytes(b"old")
    with pytest.raises(TargetExistsError, match="exists; pass overwrite=True to replace it"):
        AtomicFile(path)
    assert issubclass(TargetExistsError, FileExistsError)
    assert issubclass(TargetExistsError, ImageArchiveError)
    assert os.listdir(path.parent) == ["a.bin"]
    write(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("make", "what"), [(os.mkfifo, "a FIFO"), (os.mkdir, "a directory")], ids=["fifo", "folder"]
)
def test_atomic_file_refuses_what_is_not_a_file(path, make, what, overwrite):
    make(path)
    with pytest.raises(TargetExistsError, match=f"is {what}; refusing to overwrite it"):
        AtomicFile(path, overwrite=overwrite)
    assert os.listdir(path.parent) == ["a.bin"]


def test_check_target_refuses_a_device():
    with pytest.raises(TargetExistsError, match="/dev/null is a device"):
        check_target("/dev/null", overwrite=True)


def test_atomic_file_refuses_a_target_that_appears_meanwhile(path):
    for make in (path.touch, lambda: os.mkfifo(path)):
        target = AtomicFile(path)
        make()
        with pytest.raises(TargetExistsError):
            target.publish()
        assert os.listdir(path.parent) == ["a.bin"]
        path.unlink()


def test_atomic_file_without_check_replaces_anything_but_a_directory(path):
    os.mkfifo(path)
    write(path, b"new", check=False)
    assert path.read_bytes() == b"new"
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write(path, b"new", check=False)
    assert caught.value.filename == str(path)
    assert os.listdir(path.parent) == ["a.bin"]


def test_atomic_file_replaces_a_link_and_not_its_target(tmp_path, path):
    (tmp_path / "file").write_bytes(b"old")
    path.symlink_to("file")
    write(path, b"new", overwrite=True)
    assert not path.is_symlink()
    assert (tmp_path / "file").read_bytes() == b"old"


def test_atomic_file_tells_before_it_replaces(path):
    calls = []
    write(path, b"1", overwrite=True, before_replace=lambda: calls.append("first"))
    write(path, b"2", overwrite=True, before_replace=lambda: calls.append(path.read_bytes()))
    assert calls == [b"1"]

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(path, b"3", overwrite=True, before_replace=fail)
    assert path.read_bytes() == b"2"
    assert os.listdir(path.parent) == ["a.bin"]


def test_two_atomic_files_of_one_path_do_not_mix(path):
    first, second = AtomicFile(path), AtomicFile(path)
    first.file.write(b"first")
    second.file.write(b"second")
    first.publish()
    with pytest.raises(TargetExistsError):
        second.publish()
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["a.bin"]


def test_two_atomic_files_that_overwrite_leave_the_last(path):
    first, second = AtomicFile(path, overwrite=True), AtomicFile(path, overwrite=True)
    first.file.write(b"first")
    second.file.write(b"second")
    second.publish()
    first.publish()
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["a.bin"]


def leave_stale(path):
    """Make the temporary file that a killed writer of `path` leaves; return its path."""
    part = temporary_name(str(path))
    with open(part, "wb") as file:
        file.write(b"stale")
    return part


@pytest.mark.parametrize("length", [5, 255])
def test_atomic_file_removes_the_stale_files_of_its_target_only(tmp_path, length):
    path = tmp_path / ("x" * length)
    for _ in range(3):
        leave_stale(path)
    other = leave_stale(tmp_path / ("x" * (length - 1)))
    write(path, b"new")
    assert sorted(os.listdir(tmp_path)) == sorted([os.path.basename(other), path.name])


@pytest.mark.parametrize("name", ["a.bin.part", "a.bin.0123456789ABCDEF.part", "a.bin.12.part"])
def test_atomic_file_keeps_files_of_other_programs(path, name):
    path.with_name(name).write_bytes(b"a download")
    write(path, b"new")
    assert path.with_name(name).read_bytes() == b"a download"


def test_atomic_file_keeps_the_file_of_a_living_process(path):
    script = f"""
from imagearchive.storage.atomic import AtomicFile
target = AtomicFile({str(path)!r}, overwrite=True)
target.file.write(b"slow")
print("ready", flush=True)
input()
target.publish()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        write(path, b"fast")
        assert path.read_bytes() == b"fast"
        assert len(os.listdir(path.parent)) == 2
        child.communicate(b"\n")
    assert path.read_bytes() == b"slow"
    assert os.listdir(path.parent) == ["a.bin"]


def test_atomic_file_removes_no_link_and_follows_none(tmp_path, path):
    (tmp_path / "victim").write_bytes(b"theirs")
    link = temporary_name(str(path))
    os.symlink("victim", link)
    write(path, b"new")
    assert (tmp_path / "victim").read_bytes() == b"theirs"
    assert os.path.islink(link)


def test_atomic_file_whose_part_is_gone_names_the_cause(path):
    target = AtomicFile(path)
    os.unlink(target.part)
    with pytest.raises(ClosedError, match="another process that writes this file"):
        target.publish()


def test_atomic_file_without_locks_removes_nothing(path, monkeypatch):
    """Where a file system has no locks, nothing tells whether a writer lives."""
    stale = leave_stale(path)

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    write(path, b"new")
    assert os.path.exists(stale)
    assert path.read_bytes() == b"new"


def test_atomic_files_in_one_folder_do_not_list_it_each_time(tmp_path, monkeypatch):
    for number in range(3000):
        (tmp_path / f"{number}").touch()
    calls = []
    monkeypatch.setattr(os, "listdir", lambda path, real=os.listdir: calls.append(1) or real(path))
    for number in range(300):
        write(tmp_path / f"{number}.bin", b"", sync=False)
    assert len(calls) < 100
