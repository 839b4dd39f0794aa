"""Files that appear when they are complete, one at a time."""

import errno
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


@pytest.mark.parametrize("options", [{}, {"takeover": True}, {"sync": False}, {"buffering": 0}])
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
@pytest.mark.parametrize("takeover", [False, True])
def test_atomic_file_left_by_an_exception_leaves_the_old_file(path, error, takeover):
    path.write_bytes(b"old")
    before = descriptors()
    with (
        pytest.raises(error),
        AtomicFile(path, overwrite=True, takeover=takeover) as target,
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
@pytest.mark.parametrize("takeover", [False, True])
def test_atomic_file_of_a_killed_process_leaves_the_old_file(path, moment, takeover):
    path.write_bytes(b"old")
    script = f"""
import os, signal
from imagearchive.storage.atomic import AtomicFile
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
with AtomicFile({str(path)!r}, overwrite=True, takeover={takeover}) as target:
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
    # The next writer is not in its way; with a fixed name, it clears the remains away.
    write(path, b"newer", overwrite=True, takeover=takeover)
    assert path.read_bytes() == b"newer"
    assert set(os.listdir(path.parent)) == ({"a.bin"} if takeover else {"a.bin", part})


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


def test_atomic_file_is_taken_over_by_the_next_writer(path):
    path.write_bytes(b"old")
    first = AtomicFile(path, overwrite=True, takeover=True)
    first.file.write(b"first")
    second = AtomicFile(path, overwrite=True, takeover=True)
    second.file.write(b"second")
    with pytest.raises(ClosedError, match="another writer has begun to write this file"):
        first.publish()
    assert path.read_bytes() == b"old"
    third = AtomicFile(path, overwrite=True, takeover=True)
    # What was taken over is not removed by the one that lost it.
    second.abort()
    third.file.write(b"third")
    third.publish()
    assert path.read_bytes() == b"third"
    assert os.listdir(path.parent) == ["a.bin"]


def test_atomic_file_replaces_a_stale_part(path):
    stale = path.with_name("a.bin.part")
    stale.write_bytes(b"stale")
    write(path, b"new")
    assert stale.read_bytes() == b"stale"
    write(path, b"newer", overwrite=True, takeover=True)
    assert path.read_bytes() == b"newer"
    assert os.listdir(path.parent) == ["a.bin"]


def test_atomic_file_does_not_follow_a_link_at_its_part(tmp_path, path):
    (tmp_path / "victim").write_bytes(b"theirs")
    (tmp_path / "a.bin.part").symlink_to("victim")
    write(path, b"new", takeover=True)
    assert (tmp_path / "victim").read_bytes() == b"theirs"
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "victim"]
