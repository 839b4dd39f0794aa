"""When an index is used, and when it is built again."""

import logging
import os
import shutil
import tarfile

import numpy as np
import pytest
from support.archives import write_tar
from support.index_files import MEMBERS, append, contents, default_path, is_marked, mark

from imagearchive.archive.archive import Archive
from imagearchive.containers.bins.writer import write_split_data
from imagearchive.containers.tar.tar_container import TarContainer
from imagearchive.errors import (
    StaleIndexError,
)
from imagearchive.index.table import IndexTable
from imagearchive.storage.location import locate


def test_open_appended_archive_is_indexed_again(tar, caplog):
    IndexTable.open(tar)
    append(tar)
    with caplog.at_level(logging.INFO, "imagearchive.index.table"):
        table = IndexTable.open(tar)
    assert table.find("c/new.txt") == len(MEMBERS)
    assert "building the index again" in caplog.text


def test_open_replaced_archive_of_the_same_size_is_indexed_again(tar):
    IndexTable.open(tar)
    renamed = {name.replace("b/", "q/"): data for name, data in MEMBERS.items()}
    size = os.path.getsize(tar)
    write_tar(tar, renamed)
    assert os.path.getsize(tar) == size
    os.utime(tar, ns=(1, 1))
    assert set(contents(IndexTable.open(tar))) == set(renamed)


def test_open_touched_archive_keeps_its_index(tar):
    mark(IndexTable.open(tar))
    os.utime(tar, ns=(5, 5))
    table = IndexTable.open(tar)
    assert contents(table) == MEMBERS
    assert is_marked(table)


def test_open_copied_archive_keeps_its_index(tar, tmp_path):
    mark(IndexTable.open(tar))
    (tmp_path / "copy").mkdir()
    shutil.copyfile(tar, tmp_path / "copy" / "renamed.tar")
    shutil.copyfile(default_path(tar), tmp_path / "copy" / "renamed.idx.npy")
    table = IndexTable.open(tmp_path / "copy" / "renamed.tar")
    assert is_marked(table)
    assert table.files == [str(tmp_path / "copy" / "renamed.tar")]
    assert contents(table) == MEMBERS


def test_open_given_index_is_used_or_refused(tar, tmp_path):
    ipath = tmp_path / "mine"
    IndexTable.open(tar, ipath)
    assert not os.path.exists(default_path(tar))
    assert contents(IndexTable.open(tar, ipath)) == MEMBERS
    append(tar)
    with pytest.raises(StaleIndexError, match=r"mine.*overwrite_index"):
        IndexTable.open(tar, ipath)
    with pytest.raises(RuntimeError):
        IndexTable.open(tar, ipath)
    assert len(IndexTable.open(tar, ipath, overwrite=True)) == len(MEMBERS) + 1
    assert len(IndexTable.open(tar, ipath)) == len(MEMBERS) + 1


def test_open_with_overwrite_builds_again(tar):
    assert is_marked(mark(IndexTable.open(tar)))
    assert is_marked(IndexTable.open(tar))
    assert not is_marked(IndexTable.open(tar, overwrite=True))
    assert not is_marked(IndexTable.open(tar))


def test_open_archives_that_differ_only_in_extension_have_their_own_index(tmp_path):
    import zipfile

    tar = write_tar(tmp_path / "data.tar", MEMBERS)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("only.txt", b"zip")
    for _ in range(2):
        assert contents(IndexTable.open(tar)) == MEMBERS
        assert contents(IndexTable.open(tmp_path / "data.zip")) == {"only.txt": b"zip"}


def test_open_leaves_a_foreign_file_alone(tar):
    np.save(default_path(tar), np.arange(5))
    assert contents(IndexTable.open(tar)) == MEMBERS
    assert np.load(default_path(tar)).tolist() == [0, 1, 2, 3, 4]


def tar_of(path, names):
    """A deterministic archive: no times, all members of one size."""
    return write_tar(path, dict.fromkeys(names, b"x" * 100))


def test_open_notices_a_renamed_member(tmp_path):
    names = [f"cat/{i:05d}.png" for i in range(3000)]
    path = tar_of(tmp_path / "a.tar", names)
    assert IndexTable.open(path).find("dog/00501.png") == -1
    names[501] = "dog/00501.png"
    size = path.stat().st_size
    tar_of(path, names)
    assert path.stat().st_size == size
    assert IndexTable.open(path).find("dog/00501.png") == 501


def test_open_notices_a_member_appended_after_directories(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a/1"))
        for name in "bcd":
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
    assert len(IndexTable.open(path)) == 1
    with tarfile.open(path, "a") as archive:
        archive.addfile(tarfile.TarInfo("a/2"))
    assert len(IndexTable.open(path)) == 2


def test_open_saves_the_identity_of_a_touched_archive(tar):
    IndexTable.open(tar)
    os.utime(tar, ns=(77, 77))
    IndexTable.open(tar)
    table = IndexTable.load(default_path(tar), tar)
    assert table.meta["archives"][0]["identity"] == locate(tar).status().identity
    assert contents(table) == MEMBERS


def test_open_does_not_save_the_index_of_an_archive_that_changes(tar, monkeypatch):
    original, changes = TarContainer.scan, []

    def scan(container, storage, strict):
        found = original(container, storage, strict)
        if len(changes) < limit:
            changes.append(1)
            append(tar)
        return found

    monkeypatch.setattr(TarContainer, "scan", scan)
    limit = 1
    table = IndexTable.open(tar)
    assert len(table) == len(MEMBERS) + 1
    assert table.path is not None
    os.unlink(table.path)
    limit = 99
    for ipath in (None, tar + ".index"):
        with pytest.warns(RuntimeWarning, match="changes while it is read"):
            table = IndexTable.open(tar, ipath)
        assert table.path is None
    assert not os.path.exists(tar + ".index")


def test_open_archives_of_one_stem_keep_their_indexes(tar):
    stem = os.path.splitext(tar)[0]
    write_split_data(stem, [b"x" * i for i in range(9)], splits=3)
    first, second = (mark(IndexTable.open(path)) for path in (stem, tar))
    assert first.path == stem + ".idx.npy"
    assert second.path != first.path
    first, second = IndexTable.open(stem), IndexTable.open(tar)
    assert (len(first), len(second)) == (9, len(MEMBERS))
    assert is_marked(first)
    assert is_marked(second)


def test_open_after_a_scanner_update_builds_again(tar, shards, monkeypatch):
    paths = Archive(shards).table.files
    for path in (tar, *paths):
        mark(IndexTable.open(path))
    monkeypatch.setattr(TarContainer, "version", TarContainer.version + 1)
    assert not is_marked(IndexTable.open(tar))
    Archive(shards)
    assert not any(is_marked(IndexTable.load(default_path(path), path)) for path in paths)


def test_read_from_a_replaced_file_raises(tar, shards):
    archive, joined = Archive(tar), Archive(shards)
    for path in (tar, shards.replace("{0000..0002}", "0001")):
        write_tar(path + ".new", {"q": b"other"})
        os.replace(path + ".new", path)
    with pytest.raises(StaleIndexError, match="open the archive again"):
        archive["a/1.txt"]
    assert joined["a/0-1.txt"] == b"0 1"
    with pytest.raises(StaleIndexError):
        joined["a/1-1.txt"]
