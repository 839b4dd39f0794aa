"""What the writers of TAR and ZIP archives have in common."""

import errno
import os
import resource

import numpy as np
import pytest
from support.files import limited, tar_names

import imagearchive
from imagearchive.archive.writers import TarWriter, ZipWriter
from imagearchive.errors import (
    ClosedError,
    TargetExistsError,
    UnsafePathError,
)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a/..", "dir/", "a\0b", "/", b"\0"]
)
def test_writers_refuse_names_that_lead_out(tmp_path, name):
    with TarWriter(tmp_path / "a.tar") as tar, pytest.raises(UnsafePathError, match="name"):
        tar.add(name, b"")
    with ZipWriter(tmp_path / "a.zip") as packed, pytest.raises(UnsafePathError):
        packed.add(name if isinstance(name, str) else name.decode(), b"")


def test_writers_left_by_an_exception_leave_nothing(tmp_path):
    for make in (TarWriter, ZipWriter):
        with pytest.raises(ZeroDivisionError), make(tmp_path / "a.tar"):
            raise ZeroDivisionError
        assert os.listdir(tmp_path) == []
    writer = TarWriter(tmp_path / "b.tar")
    del writer
    assert os.listdir(tmp_path) == []


def test_writers_replace_an_archive_only_if_asked_and_when_whole(tmp_path):
    path = str(tmp_path / "a.tar")
    with TarWriter(path) as tar:
        tar.add("old", b"")
    with pytest.raises(TargetExistsError, match="exists; pass overwrite=True"):
        TarWriter(path)
    with pytest.raises(ZeroDivisionError), TarWriter(path, overwrite=True):
        raise ZeroDivisionError
    assert tar_names(path) == ["old"]
    with TarWriter(path, overwrite=True) as tar:
        tar.add("new", b"")
        assert tar_names(path) == ["old"]
    assert tar_names(path) == ["new"]
    with imagearchive.open(path) as archive:
        assert list(archive) == ["new"]
    # An archive that appears meanwhile is not replaced.
    late = str(tmp_path / "late.tar")
    tar = TarWriter(late)
    (tmp_path / "late.tar").write_bytes(b"somebody else's")
    with pytest.raises(TargetExistsError):
        tar.close()
    assert (tmp_path / "late.tar").read_bytes() == b"somebody else's"
    assert sorted(os.listdir(tmp_path)) == ["a.idx.npy", "a.tar", "late.tar"]


def test_writers_give_the_same_bytes_for_the_same_members(tmp_path):
    for make, names in ((TarWriter, "ab"), (ZipWriter, "cd")):
        for name in names:
            with make(tmp_path / name) as writer:
                for member in ("x", "y/z"):
                    data = member.encode()
                    writer.add(member, data)
        first, second = ((tmp_path / name).read_bytes() for name in names)
        assert first == second


def test_writers_keep_the_index_of_another_archive(tmp_path, monkeypatch):
    """``data.zip`` and ``data.tar`` have one default place for their index."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for make in (TarWriter, ZipWriter):
        folder = tmp_path / make.__name__
        folder.mkdir()
        np.savez(folder / "data.npz", a=np.zeros(3))
        with imagearchive.open(folder / "data.npz") as archive:
            place = archive.table.path
        assert place == str(folder / "data.idx.npy")
        before = (folder / "data.idx.npy").read_bytes()
        for overwrite in (False, True):
            with make(folder / "data.x", overwrite=overwrite) as writer:
                writer.add("x", b"1")
            assert (folder / "data.idx.npy").read_bytes() == before
        with imagearchive.open(folder / "data.x") as archive:
            elsewhere = archive.table.path
        assert elsewhere.startswith(str(tmp_path / "cache"))
        options = {"index": False} if make is TarWriter else {}
        make(folder / "data.x", overwrite=True, **options).close()
        assert not os.path.exists(elsewhere)
        # What a user put there is no index, and stays as well.
        np.save(folder / "data.idx.npy", np.arange(3))
        with make(folder / "data.x", overwrite=True) as writer:
            writer.add("x", b"1")
        assert len(np.load(folder / "data.idx.npy")) == 3


@pytest.mark.parametrize("make", [TarWriter, ZipWriter])
def test_writers_drop_the_index_of_a_replaced_archive(tmp_path, make):
    """An index that fits by chance would give the bytes of other members."""
    for _ in range(2):
        with make(tmp_path / "a.x", overwrite=True) as writer:
            writer.add("x", b"1")
        if make is TarWriter:
            writer.close()
            assert (tmp_path / "a.idx.npy").exists()
            writer = TarWriter(tmp_path / "a.x", overwrite=True, index=False)
        else:
            imagearchive.open(tmp_path / "a.x").close()
            assert (tmp_path / "a.idx.npy").exists()
            writer = ZipWriter(tmp_path / "a.x", overwrite=True)
        writer.close()
        assert not (tmp_path / "a.idx.npy").exists()


@pytest.mark.parametrize("size", [6_000, 100_000, 3_000_000])
@pytest.mark.parametrize("make", [TarWriter, ZipWriter])
def test_writers_on_a_full_disk_name_the_archive_and_leave_nothing(tmp_path, make, size):
    data = bytes(size)
    with (
        limited(resource.RLIMIT_FSIZE, 4_000),
        pytest.raises(OSError, match=r"a\.x") as caught,
        make(tmp_path / "a.x") as writer,
    ):
        writer.add("x", data)
    assert caught.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == []


def test_writers_name_a_missing_directory(tmp_path):
    for make in (TarWriter, ZipWriter):
        with pytest.raises(FileNotFoundError) as caught:
            make(tmp_path / "nodir" / "a.tar")
        assert caught.value.filename == str(tmp_path / "nodir")
        assert "no such directory to write 'a.tar' to" in str(caught.value)


@pytest.mark.parametrize("make", [TarWriter, ZipWriter])
@pytest.mark.parametrize("size", [3, 3_000_000])
def test_writers_give_up_after_half_a_member(tmp_path, make, size):
    """Whoever catches the error must not get an archive with a broken member, nor none at all."""

    def chunks():
        yield bytes(size)
        raise OSError(errno.EIO, "the source is broken")

    def add(writer, name, data):
        if make is TarWriter:
            writer.add_chunks(name, data, 2 * size)
        else:
            writer.add_chunks(name, data)

    writer = make(tmp_path / "a.x")
    add(writer, "good", [bytes(2 * size)])
    with pytest.raises(OSError, match="the source is broken"):
        add(writer, "bad", chunks())
    for _ in range(2):
        with pytest.raises(ClosedError, match="a member failed, so the archive was discarded"):
            add(writer, "next", [bytes(2 * size)])
        with pytest.raises(ClosedError, match="a member failed, so the archive was discarded"):
            writer.close()
    assert os.listdir(tmp_path) == []
    with pytest.raises(OSError, match="the source is broken"), make(tmp_path / "b.x") as writer:
        add(writer, "bad", chunks())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("make", "adding"),
    [(TarWriter, ["add", "add_chunks", "add_file"]), (ZipWriter, ["add", "add_chunks"])],
)
def test_writers_offer_only_what_users_call(tmp_path, make, adding):
    with make(tmp_path / "a.x") as writer:
        names = [name for name in dir(writer) if not name.startswith("_")]
    assert names == sorted(["abort", "close", "path", *adding])


@pytest.mark.parametrize("make", [TarWriter, ZipWriter])
def test_writers_take_no_members_when_closed(tmp_path, make):
    writer = make(tmp_path / "a.x")
    writer.close()
    writer.close()
    before = (tmp_path / "a.x").read_bytes()
    with pytest.raises(ClosedError, match="the writer is closed"):
        writer.add("x", b"1")
    if make is TarWriter:
        with pytest.raises(ClosedError):
            writer.add_file(tmp_path / "a.x", "x")
    writer = make(tmp_path / "b.x")
    writer.abort()
    with pytest.raises(ClosedError):
        writer.add("x", b"1")
    writer.close()
    assert (tmp_path / "a.x").read_bytes() == before
    assert not (tmp_path / "b.x").exists()


@pytest.mark.parametrize("make", [TarWriter, ZipWriter])
def test_writers_refuse_to_replace_what_is_not_a_file(tmp_path, make):
    """Renaming would put an archive in the place of a device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, what in (("pipe", "a FIFO"), ("folder", "a directory")):
        for overwrite in (False, True):
            with pytest.raises(TargetExistsError, match=what):
                make(tmp_path / name, overwrite=overwrite)
    late = make(tmp_path / "late", overwrite=True)
    os.mkfifo(tmp_path / "late")
    with pytest.raises(TargetExistsError, match="a FIFO"):
        late.close()
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    make(tmp_path / "link", overwrite=True).close()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert not (tmp_path / "link").is_symlink()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]
