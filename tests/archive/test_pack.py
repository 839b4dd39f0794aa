"""Packing files into TAR archives, in one or in shards."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import textwrap
from itertools import chain

import pytest
from support.files import fill, limited, samples, tar_names

import imagearchive
from imagearchive import TarWriter
from imagearchive.archive import pack_ahead
from imagearchive.archive.pack import pack, shard_path
from imagearchive.archive.small_files import fill as fill_buffer
from imagearchive.containers.tar.ustar import header
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    OptionError,
    UnsafePathError,
    UnsupportedMemberError,
)

TREE = {
    "b/2.jpg": b"two",
    "b/10.jpg": b"ten",
    "a.txt": b"file",
    "a/x": b"below",
    "a-b": b"dash",
    "größe.bin": bytes(70_000),
    ".hidden": b"h",
}


def test_pack_directory_in_bytewise_order(tmp_path):
    source = fill(tmp_path / "src", TREE)
    (tmp_path / "src" / "empty").mkdir()
    moved = []
    assert pack(source, tmp_path / "a.tar", progress=moved.append) == [str(tmp_path / "a.tar")]
    names = tar_names(tmp_path / "a.tar")
    assert names == sorted(TREE, key=str.encode)
    assert sum(moved) == len(TREE)
    with imagearchive.open(tmp_path / "a.tar") as archive:
        assert dict(archive) == TREE
    assert (tmp_path / "a.idx.npy").exists()


def test_pack_same_files_gives_the_same_bytes(tmp_path):
    first = fill(tmp_path / "one", TREE)
    second = fill(tmp_path / "two", dict(reversed(TREE.items())))
    os.chmod(second / "a.txt", 0o600)
    os.utime(second / "a.txt", (1, 1))
    pack(first, tmp_path / "1.tar")
    pack(second, tmp_path / "2.tar")
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    pack(second, tmp_path / "3.tar", mtime=None)
    with tarfile.open(tmp_path / "3.tar") as archive:
        assert archive.getmember("a.txt").mtime == 1


def test_pack_list_keeps_its_order(tmp_path):
    source = fill(tmp_path / "src", TREE)
    order = ["b/2.jpg", "a.txt", "./b/10.jpg", os.path.join(source, "a/x")]
    pack(order, tmp_path / "a.tar", root=source)
    assert tar_names(tmp_path / "a.tar") == ["b/2.jpg", "a.txt", "b/10.jpg", "a/x"]
    for wrong in ("../one", "/etc/passwd", "."):
        with pytest.raises(UnsafePathError, match="outside"):
            pack([wrong], tmp_path / "b.tar", root=source)
    with pytest.raises(FileNotFoundError):
        pack(["nope"], tmp_path / "b.tar", root=source)
    with pytest.raises(UnsupportedMemberError, match="directory"):
        pack(["b"], tmp_path / "b.tar", root=source)
    assert not (tmp_path / "b.tar").exists()


def test_pack_takes_names_that_are_not_text(tmp_path):
    fill(tmp_path / "src", {b"\xff": b"raw", "new\nline": b"n"})
    pack(tmp_path / "src", tmp_path / "a.tar")
    assert tar_names(tmp_path / "a.tar") == ["new\nline", "\udcff"]


def test_pack_empty_directory_makes_an_empty_archive_and_warns(tmp_path, caplog):
    (tmp_path / "src").mkdir()
    for options, name in (({}, "a.tar"), ({"shard_size": 20_000}, "a-000000.tar")):
        caplog.clear()
        assert pack(tmp_path / "src", tmp_path / "a.tar", **options) == [str(tmp_path / name)]
        assert tar_names(tmp_path / name) == []
        (record,) = caplog.records
        assert record.getMessage() == (
            f"{tmp_path}/a.tar has no members, because {tmp_path}/src contains no files"
        )
    with pytest.raises(OptionError, match="only 0 samples for 1 shard"):
        pack(tmp_path / "src", tmp_path / "a.tar", shards=1)


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 20])
def test_pack_shards_hold_equal_numbers_of_whole_samples(tmp_path, shards):
    fill(tmp_path / "src", samples(20))
    made = pack(tmp_path / "src", tmp_path / "x.tar", shards=shards)
    assert made == [str(tmp_path / f"x-{number:06d}.tar") for number in range(shards)]
    names = [tar_names(path) for path in made]
    assert list(chain.from_iterable(names)) == sorted(samples(20))
    counts = [len(part) // 3 for part in names]
    assert all(len(part) % 3 == 0 for part in names)
    assert max(counts) - min(counts) <= 1
    pattern = str(tmp_path / f"x-{{000000..{shards - 1:06d}}}.tar")
    with imagearchive.open(pattern) as archive:
        assert sorted(archive) == sorted(samples(20))


def test_pack_shards_of_nested_directories(tmp_path):
    files = {f"{a}/{b}/{c}.txt": f"{a}{b}{c}".encode() for a in "xyz" for b in "uvw" for c in "12"}
    fill(tmp_path / "src", files)
    made = pack(tmp_path / "src", tmp_path / "n.tar", shards=5)
    with imagearchive.open(made) as archive:
        assert {name: archive[name] for name in archive} == files
    assert len(os.listdir("/proc/self/fd")) < 200


def test_pack_shard_size_bounds_each_archive(tmp_path):
    fill(tmp_path / "src", {f"{i:03d}": bytes(5000) for i in range(50)} | {"025": bytes(90_000)})
    limit = 40 * 1024
    made = pack(tmp_path / "src", tmp_path / "x.tar", shard_size=limit)
    sizes = [os.path.getsize(path) for path in made]
    assert list(chain.from_iterable(map(tar_names, made))) == [f"{i:03d}" for i in range(50)]
    assert [tar_names(path) for path, size in zip(made, sizes) if size > limit] == [["025"]]
    # None could have taken a further file.
    assert all(size > limit - 16384 for size in sizes[:3])


def test_pack_shard_size_counts_the_headers_of_times_before_1970(tmp_path):
    """Such a time takes two more blocks in a TAR."""
    fill(tmp_path / "src", {f"{i:03d}": b"x" for i in range(60)})
    for one in (tmp_path / "src").iterdir():
        os.utime(one, (-1000, -1000))
    limit = 20 * 1024
    made = pack(tmp_path / "src", tmp_path / "x.tar", shard_size=limit, mtime=None)
    assert len(made) > 1
    assert max(map(os.path.getsize, made)) <= limit


def test_pack_refuses_wrong_options(tmp_path):
    fill(tmp_path / "src", TREE)
    for options, message in (
        ({"shards": 100}, "only 7 samples"),
        ({"shards": 0}, "at least 1"),
        ({"shard_size": 100}, "at least 10240"),
        ({"shards": 2, "shard_size": 10**6}, "not both"),
    ):
        with pytest.raises(OptionError, match=message):
            pack(tmp_path / "src", tmp_path / "a.tar", **options)
    with pytest.raises(OptionError, match="is inside"):
        pack(tmp_path / "src", tmp_path / "src" / "a" / "a.tar")
    with pytest.raises(ArchiveNotFoundError, match="no such directory"):
        pack(tmp_path / "nope", tmp_path / "a.tar")
    assert os.listdir(tmp_path) == ["src"]


def test_pack_follows_links(tmp_path):
    fill(tmp_path / "elsewhere", {"f": b"far", "d/g": b"deep"})
    source = fill(tmp_path / "src", {"a": b"near"})
    (source / "file").symlink_to(tmp_path / "elsewhere" / "f")
    (source / "folder").symlink_to(tmp_path / "elsewhere" / "d")
    pack(source, tmp_path / "a.tar")
    with imagearchive.open(tmp_path / "a.tar") as archive:
        assert dict(archive) == {"a": b"near", "file": b"far", "folder/g": b"deep"}
    (source / "loop").symlink_to(source)
    with pytest.raises(UnsupportedMemberError, match=r"loop.*a directory above it"):
        pack(source, tmp_path / "b.tar")
    (source / "loop").unlink()
    for place in ("dangling", "folder/dangling"):
        (source / place).symlink_to("nowhere")
        before = len(os.listdir("/proc/self/fd"))
        for options in ({}, {"shards": 2}, {"shard_size": 20_000}):
            with pytest.raises(FileNotFoundError, match="a symbolic link to 'nowhere'") as caught:
                pack(source, tmp_path / "b.tar", **options)
            assert caught.value.filename == str(source / place)
        with pytest.raises(FileNotFoundError, match="a symbolic link to 'nowhere'") as caught:
            pack([place], tmp_path / "b.tar", root=source)
        assert caught.value.filename == str(source / place)
        assert len(os.listdir("/proc/self/fd")) == before
        (source / place).unlink()
    assert not (tmp_path / "b.tar").exists()


def test_pack_errors_name_the_whole_path(tmp_path, monkeypatch):
    source = fill(tmp_path / "src", {"d/e/b": b""})
    (source / "d/e/a").symlink_to("b")
    real = os.open

    def refusing(name):
        def opened(path, *arguments, **options):
            if os.path.basename(os.fsencode(path)) == name:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return real(path, *arguments, **options)

        return opened

    for name, expected in ((b"a", "d/e/a"), (b"e", "d/e")):
        for options in ({}, {"shards": 1}, {"shard_size": 20_000}):
            with monkeypatch.context() as patch:
                patch.setattr(os, "open", refusing(name))
                # All files are special, that is, none is read ahead.
                patch.setattr(pack_ahead, "fill", lambda *arguments: (arguments[3], 0, True))
                with pytest.raises(PermissionError) as caught:
                    pack(source, tmp_path / "b.tar", **options)
            assert caught.value.filename == str(source / expected)
    with (
        limited(resource.RLIMIT_FSIZE, 100),
        pytest.raises(OSError, match="File too large") as caught,
    ):
        pack(source, tmp_path / "b.tar")
    assert caught.value.filename == str(tmp_path / "b.tar")
    assert os.listdir(tmp_path) == ["src"]


@pytest.mark.parametrize("replace", [False, True])
def test_pack_shards_appear_together_or_not_at_all(tmp_path, monkeypatch, replace):
    source = fill(tmp_path / "src", samples(6))
    if replace:
        pack(["0000.jpg"], tmp_path / "x-000001.tar", root=source, index=False)
    real = os.replace
    calls = []

    def interrupted(old, new):
        calls.append(new)
        real(old, new)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "x.tar", shards=5, overwrite=True)
    # What has taken the place of another one cannot be taken back.
    assert sorted(os.listdir(tmp_path)) == ["src", *["x-000001.tar"] * replace]


def test_pack_refuses_what_is_not_a_file(tmp_path):
    source = fill(tmp_path / "src", {"a": b""})
    os.mkfifo(source / "pipe")
    with pytest.raises(UnsupportedMemberError, match="pipe: cannot pack a FIFO"):
        pack(source, tmp_path / "a.tar")
    assert os.listdir(tmp_path) == ["src"]


def test_pack_file_that_changes_its_size_fails(tmp_path, monkeypatch):
    source = fill(tmp_path / "src", {"a": bytes(1000)})
    real = os.readv
    for change in (
        lambda path: os.truncate(path, 1010),
        lambda path: os.truncate(path, 10),
    ):
        (source / "a").write_bytes(bytes(1000))

        def meddle(fd, buffers, change=change):
            change(source / "a")
            return real(fd, buffers)

        monkeypatch.setattr(os, "readv", meddle)
        with pytest.raises(CorruptArchiveError, match="changed its size"):
            pack(["a"], tmp_path / "a.tar", root=source)
        monkeypatch.setattr(os, "readv", real)
    assert os.listdir(tmp_path) == ["src"]


@pytest.mark.parametrize("keep", [False, True])
def test_pack_reads_ahead_the_same_bytes(tmp_path, keep):
    """What is read ahead and what is not, mixed, as tarfile reads it."""
    generator = random.Random(5)
    sizes = [
        0,
        1,
        511,
        512,
        513,
        1023,
        4096,
        70_000,
        (1 << 18) - 1,
        1 << 18,
        (1 << 18) + 1,
        1 << 21,
    ]
    files = {}
    for number in range(400):
        folder = generator.choice(["", "a/", "a/b/", "ä/", "x" * 95 + "/"])
        name = generator.choice(["", "é", "n" * 90]) + f"{number:03d}"
        files[folder + name] = generator.randbytes(generator.choice(sizes[: 8 + number // 100]))
    source = fill(tmp_path / "src", files)
    for number, name in enumerate(files):
        os.utime(source / name, (0, generator.choice([-5, 0, 1, 2**31, 2**33]) + number))
    pack(source, tmp_path / "a.tar", mtime=None if keep else 0)
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == sorted(files, key=str.encode)
        for member in archive:
            assert archive.extractfile(member).read() == files[member.name]
            assert member.mtime == (int(os.stat(source / member.name).st_mtime) if keep else 0)
    # One file after the other gives the same archive.
    with TarWriter(tmp_path / "b.tar") as tar:
        for name in sorted(files, key=str.encode):
            tar.add_file(source / name, name, keep_mtime=keep)
        assert len(tar) == 400
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_pack_leaves_special_files_to_the_writer(tmp_path):
    source = fill(tmp_path / "src", {f"{i:04d}": b"x" for i in range(500)})
    (source / "0300").unlink()
    (source / "0300").symlink_to("0299")
    pack(source, tmp_path / "a.tar")
    assert len(tar_names(tmp_path / "a.tar")) == 500
    before = len(os.listdir("/proc/self/fd"))
    os.chmod(source / "0300", 0o644)
    (source / "0300").unlink()
    os.mkfifo(source / "0300")
    with pytest.raises(UnsupportedMemberError, match="0300"):
        pack(source, tmp_path / "b.tar")
    assert len(os.listdir("/proc/self/fd")) == before


def test_fill_checks_its_arguments(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        blank = header(b"", 0)
        assert fill_buffer(fd, b"", (), 0, blank, False, 10, bytearray(10)) == (0, 0, False)
        assert fill_buffer(fd, b"", (b"nope",), 0, blank, False, 10, bytearray(2000)) == (
            0,
            0,
            True,
        )
        (tmp_path / "f").write_bytes(bytes(600))
        assert fill_buffer(fd, b"", (b"f",), 0, blank, False, 599, bytearray(4096)) == (0, 0, True)
        assert fill_buffer(fd, b"", (b"f",), 0, blank, False, 600, bytearray(1536)) == (0, 0, False)
        assert fill_buffer(fd, b"", (b"f",), 0, blank, False, 600, bytearray(0)) == (0, 0, False)
        assert fill_buffer(fd, b"", (b"f",), 0, blank, False, 600, bytearray(1537)) == (
            1,
            1536,
            False,
        )
        for start, template in ((-1, blank), (2, blank), (0, b"short")):
            with pytest.raises(ValueError):
                fill_buffer(fd, b"", (b"f",), start, template, False, 10, bytearray(10))
        with pytest.raises(TypeError):
            fill_buffer(fd, b"", ("text",), 0, blank, False, 10, bytearray(10))
    finally:
        os.close(fd)


def test_pack_failure_in_the_last_shard_leaves_nothing(tmp_path):
    source = fill(tmp_path / "src", samples(6))
    (source / "9999.jpg").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        pack(sorted(os.listdir(source)), tmp_path / "x.tar", shards=3, root=source)
    assert os.listdir(tmp_path) == ["src"]


def test_pack_interrupted_leaves_nothing(tmp_path):
    fill(tmp_path / "src", {f"{i}": bytes(1000) for i in range(50)})
    script = textwrap.dedent("""
        import os, sys, time
        from imagearchive.archive import pack as module
        real = module.IndexedTarWriter.add_members
        def slow(self, *arguments, **options):
            real(self, *arguments, **options)
            print("ready", flush=True)
            time.sleep(20)
        module.IndexedTarWriter.add_members = slow
        module.pack(sys.argv[1], sys.argv[2])
    """)
    child = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "src", tmp_path / "a.tar"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    child.stdout.readline()
    assert any(name.endswith(".part") for name in os.listdir(tmp_path))
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode != 0
    assert os.listdir(tmp_path) == ["src"]


def test_pack_interrupted_at_any_close_closes_no_descriptor_twice(tmp_path, monkeypatch):
    source = fill(tmp_path / "src", {f"{name}/{name}": b"x" for name in "abcd"})
    real, closed, interrupted = os.close, [], 1

    def close(fd):
        closed.append(fd)
        # Fails if the descriptor is closed already.
        real(fd)
        if len(closed) == interrupted:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "close", close)
    while len(closed) >= interrupted - 1:
        closed.clear()
        try:
            pack(source, tmp_path / f"{interrupted}.tar", sync=False)
        except KeyboardInterrupt:
            interrupted += 1
        else:
            break
    assert interrupted > 5


def test_shard_path_numbers_the_archives():
    assert shard_path("d.x/train.tar", 3) == "d.x/train-000003.tar"
