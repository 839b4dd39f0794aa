"""Paths that begin with ``~``, and URLs of no registered scheme."""

import os
import shutil

import numpy as np
import pytest
from support.archives import write_tar

import imagearchive
from imagearchive.cli import main
from imagearchive.errors import UnsupportedArchiveError
from imagearchive.storage.location import expand_home, locate
from imagearchive.storage.patterns import expand_paths


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    work = tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    return home


def test_locate_tilde_is_the_home_directory(home):
    assert locate("~/a.tar").path == f"{home}/a.tar"
    assert expand_paths("~/a-{0..1}.tar") == [f"{home}/a-0.tar", f"{home}/a-1.tar"]


def test_locate_existing_path_with_tilde_stands_for_itself(home):
    write_tar("~x.tar", {"a": b"1"})
    assert locate("~x.tar").path == os.path.abspath("~x.tar")
    os.mkdir("~")
    write_tar("~/b.tar", {"b": b"1"})
    assert list(imagearchive.open("~/b.tar")) == ["b"]


def test_expand_home_in_the_middle_stays(home):
    assert expand_home("a/~/b") == "a/~/b"


def test_every_reader_expands_tilde(home):
    write_tar(home / "a.tar", {"c/1.jpg": b"x", "d/2.jpg": b"x"})
    np.savez(home / "a.npz", images=np.zeros((3, 4, 4, 3), np.uint8))
    assert len(imagearchive.open("~/a.tar")) == 2
    assert len(imagearchive.open("~/*.tar")) == 2
    assert len(imagearchive.ImageArchive("~/a.tar")) == 2
    assert len(imagearchive.LazyNPZDataset("~/a.npz")) == 3
    with imagearchive.DataLoader("~/a.npz", num_workers=0) as loader:
        assert len(loader) == 3
    assert main(["ls", "~/a.tar"]) == 0


def test_file_url_is_an_error_that_gives_the_path():
    with pytest.raises(UnsupportedArchiveError, match=r"path alone, as in '/data/a\.tar'"):
        imagearchive.open("file:///data/a.tar")


def test_every_writer_expands_tilde(home):
    with imagearchive.TarWriter("~/a.tar") as tar:
        tar.add("x", b"1")
    with imagearchive.ZipWriter("~/a.zip") as packed:
        packed.add("x", b"1")
    with imagearchive.NpzWriter("~/a.npz") as npz:
        npz.append(x=np.zeros(2))
    imagearchive.write_split_data("~/bins", iter([b"1"]))
    with imagearchive.open("~/a.tar") as archive:
        imagearchive.extract(archive, "~/files")
        imagearchive.convert(archive, "~/b.zip")
    imagearchive.pack("~/files", "~/c.tar")
    assert {"a.tar", "a.zip", "a.npz", "bins", "files", "b.zip", "c.tar"} <= {*os.listdir(home)}
    assert os.listdir() == []


@pytest.mark.parametrize("url", ["ftp://host/a.tar", "hdfs://host/{0..9}.tar", "SFTP://h/*.npz"])
@pytest.mark.parametrize(
    "opener",
    [
        imagearchive.open,
        imagearchive.ImageArchive,
        imagearchive.LazyNPZDataset,
        imagearchive.DataLoader,
        imagearchive.SplitDataLoader,
    ],
)
def test_url_of_unknown_scheme_says_that_urls_cannot_be_read(home, url, opener):
    with pytest.raises(UnsupportedArchiveError, match=r":// cannot be read; those that can"):
        opener(url)


def test_url_like_path_that_exists_is_read(home):
    os.makedirs("http:/host")
    shutil.move(write_tar("a.tar", {"a": b"1"}), "http:/host/a.tar")
    assert list(imagearchive.open("http://host/a.tar")) == ["a"]
