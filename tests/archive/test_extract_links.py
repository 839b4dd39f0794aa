"""Extraction of links, and of archives that describe more than they hold."""

import errno
import os
import tarfile

import pytest
from support import tar_cases
from support.bins import packets
from support.files import make_tar, tree

from imagearchive import Archive
from imagearchive.archive import expansion
from imagearchive.archive.extract import extract, select
from imagearchive.containers.bins.writer import write_split_data
from imagearchive.errors import LimitError, UnsafePathError
from imagearchive.storage.limits import Limits

CONTENT = os.urandom(5000)
MEMBERS = {
    "a/original": CONTENT,
    "b/hard": (tarfile.LNKTYPE, "a/original"),
    "b/soft": (tarfile.SYMTYPE, "../a/original"),
    "chained": (tarfile.LNKTYPE, "b/hard"),
    "other": CONTENT,
    "empty": b"",
}
NAMES = ["a/original", "b/hard", "b/soft", "chained"]


def inodes(folder, names=NAMES):
    return {os.lstat(folder / name).st_ino for name in names}


@pytest.fixture
def archive(tmp_path):
    with Archive(make_tar(tmp_path / "a.tar", MEMBERS)) as archive:
        yield archive


def contents():
    return {name: b"" if name == "empty" else CONTENT for name in MEMBERS}


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_extract_links_become_one_file_on_disk(tmp_path, archive, exists, threads):
    target = tmp_path / "out"
    if exists:
        target.mkdir()
    done = extract(archive, target, threads=threads)
    assert tree(target) == contents()
    assert len(inodes(target)) == 1
    assert os.lstat(target / "other").st_ino not in inodes(target)
    assert (done.files, done.bytes, done.skipped) == (6, 5 * len(CONTENT), 0)


def test_extract_100_000_links_to_one_megabyte_takes_one_megabyte(tmp_path):
    members = {"0": bytes(1 << 20)} | {
        f"{number:x}": (tarfile.LNKTYPE, "0") for number in range(1, 2000)
    }
    with Archive(make_tar(tmp_path / "a.tar", members)) as archive:
        extract(archive, tmp_path / "out")
    blocks = {entry.inode(): entry.stat().st_blocks for entry in os.scandir(tmp_path / "out")}
    assert len(os.listdir(tmp_path / "out")) == 2000
    assert sum(blocks.values()) * 512 <= 2 << 20


def test_extract_selected_link_without_its_target_is_a_file(tmp_path, archive):
    extract(archive, tmp_path / "out", select(archive, ["b"]))
    assert tree(tmp_path / "out") == {"b/hard": CONTENT, "b/soft": CONTENT}
    assert len(inodes(tmp_path / "out", ["b/hard", "b/soft"])) == 1


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_extract_where_links_are_refused_copies(tmp_path, archive, monkeypatch, code):
    def refuse(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    done = extract(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == contents()
    assert len(inodes(tmp_path / "out")) == 4
    assert done.files == 6


def test_extract_copies_after_the_most_links_of_a_file(tmp_path, archive, monkeypatch):
    link, calls = os.link, []

    def limited(source, target, **options):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EMLINK, "Too many links")
        link(source, target, **options)

    monkeypatch.setattr(os, "link", limited)
    extract(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == contents()
    assert len(inodes(tmp_path / "out")) == 2
    assert calls[2] != calls[0]


def test_extract_copies_of_links_are_limited(tmp_path, archive, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(expansion, "RATIO_FLOOR", 1000)
    with pytest.raises(LimitError, match=r"a\.tar: the members take 25000 bytes.*only 10000"):
        extract(archive, tmp_path / "refused", limits=Limits(max_ratio=2))
    extract(archive, tmp_path / "allowed", limits=Limits(max_ratio=2.5))
    assert tree(tmp_path / "allowed") == contents()


@pytest.mark.parametrize("kept", [["a/original"], ["b/hard"], ["a/original", "chained"]])
def test_extract_skip_existing_does_not_link_to_what_was_there(tmp_path, archive, kept):
    target = tmp_path / "out"
    for name in kept:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(b"mine")
    done = extract(archive, target, existing="skip")
    assert tree(target) == contents() | dict.fromkeys(kept, b"mine")
    assert len(inodes(target, [name for name in NAMES if name not in kept])) == 1
    assert (done.files, done.skipped) == (6 - len(kept), len(kept))


def test_extract_replaces_files_by_links(tmp_path, archive):
    extract(archive, tmp_path / "out")
    before = inodes(tmp_path / "out")
    extract(archive, tmp_path / "out", existing="replace")
    assert tree(tmp_path / "out") == contents()
    assert len(inodes(tmp_path / "out")) == 1
    assert inodes(tmp_path / "out") != before
    assert not [name for name in os.listdir(tmp_path / "out") if name.endswith(".part")]


def test_extract_does_not_link_to_a_file_swapped_in_meanwhile(tmp_path, archive, monkeypatch):
    link = os.link
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")

    def swapped(source, target, *, src_dir_fd, **options):
        os.unlink(source, dir_fd=src_dir_fd)
        os.symlink(secret, source, dir_fd=src_dir_fd)
        link(source, target, src_dir_fd=src_dir_fd, **options)

    monkeypatch.setattr(os, "link", swapped)
    extract(archive, tmp_path / "out", select(archive, ["a", "b/hard"]))
    assert (tmp_path / "out/b/hard").read_bytes() == CONTENT
    assert not (tmp_path / "out/b/hard").is_symlink()


def test_extract_barecat_files_of_the_same_bytes_are_linked(tmp_path):
    barecat = pytest.importorskip("barecat")
    with barecat.Barecat(str(tmp_path / "a.barecat"), readonly=False) as writer:
        writer["x"] = CONTENT
        writer["y"] = CONTENT
        writer.index.cursor.execute("UPDATE files SET offset = 0")
    with Archive(tmp_path / "a.barecat") as archive:
        extract(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"x": CONTENT, "y": CONTENT}
    assert len(inodes(tmp_path / "out", ["x", "y"])) == 1


def test_extract_directory_files_are_not_linked(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / name).write_bytes(name.encode() * 9)
    with Archive(tmp_path / "in") as archive:
        extract(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": b"a" * 9, "b": b"b" * 9}


@pytest.mark.parametrize("depth", [256, 257, 32_000])
@pytest.mark.parametrize("directory", [False, True])
def test_extract_refuses_more_than_256_nested_directories(tmp_path, depth, directory):
    name = "/".join(["d"] * depth)
    members = {name: (tarfile.DIRTYPE, "")} if directory else {name + "/f": b"x"}
    with Archive(make_tar(tmp_path / "a.tar", {**members, "good": b"1"})) as archive:
        if depth <= 256:
            extract(archive, tmp_path / "out")
            assert os.path.exists(tmp_path / "out" / name)
            return
        with pytest.raises(UnsafePathError, match="more than 256 nested directories"):
            extract(archive, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        done = extract(archive, tmp_path / "out", skip_unsafe=True)
        assert len(done.refused) == 1
        assert os.listdir(tmp_path / "out") == ["good"]


def test_extract_of_a_sparse_file_counts_its_data_only(tmp_path, monkeypatch):
    monkeypatch.setattr(expansion, "RATIO_FLOOR", 0)
    member = tar_cases.pax_sparse(b"x", [(0, 1000)], 1 << 40, bytes(1000), "1.0")
    (tmp_path / "a.tar").write_bytes(member + tar_cases.END)
    with Archive(tmp_path / "a.tar") as archive:
        extract(archive, tmp_path / "out", limits=Limits(max_ratio=1))
    assert os.stat(tmp_path / "out/x").st_size == 1 << 40


def test_extract_bins_gives_every_packet_back(tmp_path):
    content = packets(50)
    write_split_data(tmp_path / "bins", content, splits=3)
    with Archive(tmp_path / "bins") as archive:
        extract(archive, tmp_path / "out")
    assert [data for _, data in sorted(tree(tmp_path / "out").items())] == content
