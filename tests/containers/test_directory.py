"""Plain directories: links, loops, and what is left out."""

import errno
import os

import numpy as np
import pytest
from support.archives import write_tar
from support.files import fill

import imagearchive
from imagearchive import ImageArchive
from imagearchive.containers import directory
from imagearchive.storage.location import LocalLocation


def image_folder(root):
    """Classes and samples as torchvision's ImageFolder finds them."""
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    samples = []
    for number, name in enumerate(classes):
        for folder, _, files in sorted(os.walk(os.path.join(root, name), followlinks=True)):
            samples += [
                (os.path.relpath(os.path.join(folder, file), root), number)
                for file in sorted(files)
            ]
    return classes, samples


@pytest.fixture
def linked(tmp_path):
    fill(tmp_path / "raw", {"cat/1.png": b"1", "cat/deep/2.png": b"2"})
    folder = fill(tmp_path / "data", {"dog/3.png": b"3"})
    (folder / "cat").symlink_to("../raw/cat")
    return folder


def test_directory_links_to_directories_keep_the_classes(linked):
    dataset = ImageArchive(linked)
    assert (dataset.classes, list(dataset.samples)) == image_folder(linked)
    assert list(dataset.samples) == [
        ("cat/1.png", 0),
        ("cat/deep/2.png", 0),
        ("dog/3.png", 1),
    ]
    assert [bytes(dataset.read(i)) for i in range(3)] == [b"1", b"2", b"3"]


def test_directory_linked_directory_can_be_listed_walked_and_searched(linked):
    with imagearchive.open(linked) as archive:
        assert archive.listdir("cat") == ["1.png", "deep"]
        assert archive.glob("cat/*.png") == ["cat/1.png"]
        assert archive.glob("**/*.png", recursive=True) == [
            *("cat/1.png", "cat/deep/2.png", "dog/3.png")
        ]
        assert [folder for folder, _, _ in archive.walk()] == ["", "cat", "cat/deep", "dog"]
        assert not archive.left_out


def test_directory_links_that_lead_nowhere_are_counted(linked, tmp_path):
    (linked / "self").symlink_to("self")
    (linked / "gone").symlink_to("nothing")
    (linked / "dog" / "through").symlink_to("3.png/x")
    (linked / "dog" / "up").symlink_to("..")
    (linked / "dog" / "far").symlink_to(tmp_path)
    os.mkfifo(linked / "pipe")
    with imagearchive.open(linked) as archive:
        assert {one.name: one.reason for one in archive.left_out.members} == {
            **dict.fromkeys(["self", "gone", "dog/through"], "dangling_link"),
            **dict.fromkeys(["dog/up", "dog/far/data"], "looping_link"),
            "pipe": "special",
        }
        assert "dog/far/raw/cat/1.png" in archive


def test_directory_links_to_links_are_followed_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(directory, "_MAX_LINKED", 500)
    fill(tmp_path / "data", {"d0/f": b"x"})
    for level in range(1, 25):
        for side in "ab":
            path = tmp_path / "data" / f"d{level}" / side
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(f"../d{level - 1}")
    with imagearchive.open(tmp_path / "data") as archive:
        assert len(archive) <= 501
        assert archive.left_out.counts["link_limit"] > 0


def test_directory_own_index_and_unfinished_files_are_no_members(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_tar(folder / "a.tar", {"x": b"1"})
    imagearchive.open(folder / "a.tar").close()
    (folder / "b.tar.0123456789abcdef.part").write_bytes(b"unfinished")
    # An array of the user's that happens to be called like an index; and a "part" that is data.
    np.save(folder / "c.idx.npy", np.arange(3))
    (folder / "c.tar").write_bytes(b"")
    (folder / "d.part").write_bytes(b"data")
    assert (folder / "a.idx.npy").exists()
    with imagearchive.open(folder) as archive:
        assert list(archive) == ["a.tar", "c.idx.npy", "c.tar", "d.part"]
        assert archive.left_out.counts == {"own_file": 2}


def test_directory_that_cannot_be_listed_is_counted_unless_strict(tmp_path, monkeypatch):
    fill(tmp_path / "data", {"a/1": b"1", "b/2": b"2"})
    listing = LocalLocation.list

    def refuse(location):
        if location.name == "a":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), location.path)
        return listing(location)

    monkeypatch.setattr(LocalLocation, "list", refuse)
    with pytest.raises(PermissionError):
        imagearchive.open(tmp_path / "data")
    with imagearchive.open(tmp_path / "data", strict=False) as archive:
        assert list(archive) == ["b/2"]
        assert archive.left_out.counts == {"unreadable_directory": 1}
