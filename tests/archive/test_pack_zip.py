"""Packing into ZIP archives."""

import os
import zipfile
from pathlib import Path

import pytest
from support.files import fill, samples, tar_names

import imagearchive
from imagearchive.archive.pack import pack
from imagearchive.errors import CorruptArchiveError, UnsafePathError, UnsupportedMemberError


def test_pack_zip_holds_stored_members_and_an_index(tmp_path):
    files = {"a.txt": b"file", "a/x": b"below", "größe.bin": bytes(70_000), "large": bytes(3 << 20)}
    source = fill(tmp_path / "src", files)
    moved = []
    made = pack(source, tmp_path / "a.zip", mtime=10**9 + 1, progress=moved.append)
    assert made == [str(tmp_path / "a.zip")]
    assert sum(moved) == len(files)
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        assert packed.testzip() is None
        infos = packed.infolist()
    assert [info.filename for info in infos] == sorted(files, key=str.encode)
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    assert {info.date_time for info in infos} == {(2001, 9, 9, 1, 46, 40)}
    assert (tmp_path / "a.idx.npy").exists()
    with imagearchive.open(tmp_path / "a.zip") as archive:
        assert dict(archive) == files
    pack(source, tmp_path / "b.zip", index=False, shuffle=True)
    assert not (tmp_path / "b.idx.npy").exists()
    pack(source, tmp_path / "b.tar", index=False, shuffle=True)
    with zipfile.ZipFile(tmp_path / "b.zip") as packed:
        assert packed.namelist() == tar_names(tmp_path / "b.tar")


def test_pack_zip_name_that_is_not_text_is_refused(tmp_path):
    source = fill(tmp_path / "src", {b"\xff": b"raw"})
    with pytest.raises(UnsafePathError, match="not UTF-8, which a ZIP needs; use TAR"):
        pack(source, tmp_path / "a.zip")
    os.rename(os.fsencode(source) + b"/\xff", os.fsencode(source) + b"/device")
    os.unlink(tmp_path / "src" / "device")
    os.symlink("/dev/zero", tmp_path / "src" / "device")
    with pytest.raises(UnsupportedMemberError, match="device"):
        pack(source, tmp_path / "a.zip")
    os.unlink(tmp_path / "src" / "device")
    os.symlink("nowhere", tmp_path / "src" / "link")
    with pytest.raises(FileNotFoundError, match="src/link"):
        pack(source, tmp_path / "a.zip")
    assert os.listdir(tmp_path) == ["src"]


@pytest.mark.parametrize("change", [b"longer than before", b"s"])
def test_pack_zip_file_that_changes_its_size_fails(tmp_path, monkeypatch, change):
    fill(tmp_path / "src", {"a": b"before"})
    read = os.read

    def write_then_read(fd, size):
        monkeypatch.undo()
        (tmp_path / "src" / "a").write_bytes(change)
        return read(fd, size)

    monkeypatch.setattr(os, "read", write_then_read)
    with pytest.raises(CorruptArchiveError, match="changed its size"):
        pack(["a"], tmp_path / "a.zip", root=tmp_path / "src")
    assert os.listdir(tmp_path) == ["src"]


@pytest.mark.parametrize("options", [{"shards": 4}, {"shard_size": 10_240}])
@pytest.mark.parametrize("mtime", [0, 10**9 + 1, None])
def test_pack_zip_shards_are_the_same_on_an_executor(tmp_path, options, mtime):
    source = fill(tmp_path / "src", samples(20))
    options = {**options, "mtime": mtime}
    made = pack(source, tmp_path / "a.zip", **options)
    assert len(made) > 3
    names = []
    for path in made:
        with zipfile.ZipFile(path) as packed:
            names += packed.namelist()
        assert len(names) % 3 == 0
        assert os.path.getsize(path) <= 10_240 or "shards" in options
    assert names == sorted(samples(20))
    spread = pack(source, tmp_path / "b.zip", **options, executor=1)
    assert [Path(one).read_bytes() for one in spread] == [Path(one).read_bytes() for one in made]
    # Those that are there are kept, without overwrite.
    inodes = [os.stat(path).st_ino for path in spread]
    os.unlink(spread[1])
    assert pack(source, tmp_path / "b.zip", **options, executor=1) == spread
    after = [os.stat(path).st_ino for path in spread]
    assert after[:1] + after[2:] == inodes[:1] + inodes[2:]
