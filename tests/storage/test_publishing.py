"""Files that appear together, many small files, and whole directories."""

import errno
import os
import stat

import pytest
from support.files import descriptors

from imagearchive.storage.atomic import (
    AtomicFile,
    create_file,
    publish_together,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.bin"


def write(path, data, **options):
    with AtomicFile(path, **options) as target:
        target.file.write(data)


def test_publish_together_publishes_all(tmp_path):
    files = [AtomicFile(tmp_path / name) for name in "abc"]
    for file in files:
        file.file.write(b"data")
    publish_together(files)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


@pytest.mark.parametrize("when", range(3))
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_publish_together_takes_all_back_after_a_failure(tmp_path, monkeypatch, when, done, error):
    (tmp_path / "a").write_bytes(b"old")
    files = [AtomicFile(tmp_path / name, overwrite=True, sync=False) for name in "abc"]
    calls = []

    def failing(*args, real=os.replace):
        calls.append(args)
        if len(calls) - 1 < when or done:
            real(*args)
        if len(calls) - 1 == when:
            raise error

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(type(error)):
        publish_together(files)
    # What has replaced another file cannot be taken back.
    assert os.listdir(tmp_path) == ["a"]
    replaced = when > 0 or done
    assert (tmp_path / "a").read_bytes() == (b"" if replaced else b"old")


def test_publish_together_names_no_file_before_all_are_complete(tmp_path, monkeypatch):
    files = [AtomicFile(tmp_path / name) for name in "ab"]

    def fail(descriptor, real=os.fsync, left=[1]):  # noqa: B006 - counts the calls
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        publish_together(files)
    assert caught.value.filename == str(tmp_path / "b")
    assert os.listdir(tmp_path) == []


@pytest.fixture
def directory(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("part", [b"", b".part"])
def test_create_file_writes_below_a_descriptor(tmp_path, directory, part):
    before = os.umask(0o027)
    try:
        create_file(directory, b"\xff", lambda fd: os.write(fd, b"data"), 0o755, part)
    finally:
        os.umask(before)
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff"]
    path = os.path.join(os.fsencode(tmp_path), b"\xff")
    with open(path, "rb") as file:
        assert file.read() == b"data"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o750


@pytest.mark.parametrize("part", [b"", b".part"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_create_file_that_fails_leaves_nothing(tmp_path, directory, part, error):
    before = descriptors()

    def fail(descriptor):
        os.write(descriptor, b"half")
        raise error

    with pytest.raises(type(error)):
        create_file(directory, b"x", fail, 0o644, part)
    assert os.listdir(tmp_path) == []
    assert descriptors() == before


@pytest.mark.parametrize("part", [b"", b".part"])
def test_create_file_interrupted_right_after_the_open_leaves_nothing(
    tmp_path, directory, monkeypatch, part
):
    def interrupted(*args, real=os.open, **options):
        os.close(real(*args, **options))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "open", interrupted)
        create_file(directory, b"x", lambda fd: None, 0o644, part)
    assert os.listdir(tmp_path) == []


def test_create_file_replaces_only_under_a_temporary_name(tmp_path, directory):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()

    def write(descriptor):
        os.write(descriptor, b"new")

    for name in (b"file", b"link", b"folder"):
        with pytest.raises(FileExistsError):
            create_file(directory, name, write, 0o644)
    assert (tmp_path / "file").read_bytes() == b"old"
    create_file(directory, b"link", write, 0o644, b".part")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"old"
    with pytest.raises(IsADirectoryError):
        create_file(directory, b"folder", write, 0o644, b".part")
    # What has the temporary name belongs to somebody else.
    (tmp_path / ".part").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        create_file(directory, b"file", write, 0o644, b".part")
    assert (tmp_path / ".part").read_bytes() == b"theirs"
    assert sorted(os.listdir(tmp_path)) == [".part", "file", "folder", "link"]
