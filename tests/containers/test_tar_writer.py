"""The TAR and ZIP writers and packing, with tarfile, zipfile and GNU tar as oracles."""

import contextlib
import errno
import io
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import imagearchive
from imagearchive.archive import pack as packing
from imagearchive.archive.convert import convert, kind_of
from imagearchive.archive.pack import pack, shard_path
from imagearchive.archive.small_files import fill as fill_buffer
from imagearchive.archive.writers import TarWriter, ZipWriter
from imagearchive.containers.tar.ustar import header
from imagearchive.containers.zip import stream
from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    CorruptArchiveError,
    OptionError,
    OptionTypeError,
    TargetExistsError,
    UnsafePathError,
    UnsupportedMemberError,
)


def tar_names(path):
    with tarfile.open(path) as archive:
        return archive.getnames()


def gnu_tar(*arguments):
    return subprocess.run(["tar", *arguments], check=True, capture_output=True).stdout


def fill(folder, files):
    for name, data in files.items():
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    return folder


NAMES = [
    "a",
    "b/c.jpg",
    "b/" + "x" * 98,
    "x" * 100,
    "x" * 101,
    "d" * 155 + "/" + "x" * 100,
    "d" * 156 + "/" + "x" * 100,
    "/".join(["deep"] * 60),
    "größe/日本.png",
    "line\nbreak",
    "space and 'quotes'",
    b"\xff\xfe not utf-8".decode("utf-8", "surrogateescape"),
    "y" * 65536,
    "ä" * 300,
]


# ---------------------------------------------------------------- one archive


def test_tarfile_and_gnu_tar_read_what_was_written(tmp_path):
    path = str(tmp_path / "a.tar")
    content = {name: name.encode("utf-8", "surrogateescape")[:1000] * 3 for name in NAMES}
    with TarWriter(path) as tar:
        for name, data in content.items():
            tar.add(name, data)
        assert len(tar) == len(NAMES)
        assert not os.path.exists(path)
    with tarfile.open(path) as archive:
        assert archive.getnames() == NAMES
        for member in archive:
            assert archive.extractfile(member).read() == content[member.name]
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            assert member.isreg()
    listed = gnu_tar("--quoting-style=literal", "--null", "-tf", path)
    assert listed == b"".join(n.encode("utf-8", "surrogateescape") + b"\n" for n in NAMES)
    with imagearchive.open(path) as archive:
        assert list(archive) == NAMES
        assert {name: archive[name] for name in archive} == content
    assert os.path.getsize(path) % 10240 == 0


@given(
    st.lists(
        st.tuples(
            st.text(
                st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1
            ).filter(lambda name: name not in (".", "..")),
            st.binary(max_size=1500),
        ),
        max_size=8,
    )
)
@settings(max_examples=40, deadline=None)
def test_any_names_and_sizes(tmp_path_factory, members):
    path = str(tmp_path_factory.mktemp("any") / "a.tar")
    with TarWriter(path, index=False, sync=False) as tar:
        for name, data in members:
            tar.add(name, data)
    with tarfile.open(path) as archive:
        found = [(member.name, archive.extractfile(member).read()) for member in archive]
    assert found == members


@given(
    st.binary(min_size=1, max_size=400).filter(lambda name: b"\0" not in name),
    st.integers(0, 2**40),
    st.integers(-(2**35), 2**35),
    st.integers(0, 0o7777),
)
def test_headers_against_tarfile(name, size, mtime, mode):
    data = header(name, size, mtime, mode)
    assert len(data) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024)), errors="surrogateescape") as archive:
        member = archive.next()
    # tarfile drops slashes at the end.
    assert member.name.rstrip("/").encode("utf-8", "surrogateescape") == name.rstrip(b"/")
    assert (member.size, member.mtime, member.mode) == (size, mtime, mode)


def test_a_header_of_a_terabyte():
    data = header(b"big", 1 << 40)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.next().size == 1 << 40


@pytest.mark.parametrize(
    "size", [0, 1, 511, 512, 513, (1 << 20) - 512, 1 << 20, (1 << 20) + 1, 3 << 20]
)
def test_files_of_all_sizes(tmp_path, size):
    data = np.random.default_rng(size).bytes(size)
    source = fill(str(tmp_path / "src"), {"f": data})
    path = str(tmp_path / "a.tar")
    with TarWriter(path, index=False) as tar:
        tar.add("first", b"1")
        tar.add_file(os.path.join(source, "f"), "f")
        tar.add("again", data)
        tar.add_chunks("chunks", [data[:100], data[100:]], size)
    with tarfile.open(path) as archive:
        for name in ("f", "again", "chunks"):
            assert archive.extractfile(name).read() == data


def test_metadata_can_be_given(tmp_path):
    path = str(tmp_path / "a.tar")
    source = tmp_path / "f"
    source.write_bytes(b"x")
    os.utime(source, (5, 1234.5))
    with TarWriter(path, mtime=7, mode=0o600) as tar:
        tar.add("default", b"")
        tar.add("given", b"", mtime=-9, mode=0o755)
        tar.add_file(source, "kept", keep_mtime=True)
    with tarfile.open(path) as archive:
        found = {member.name: (member.mtime, member.mode) for member in archive}
    assert found == {"default": (7, 0o600), "given": (-9, 0o755), "kept": (1234, 0o600)}


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a/..", "dir/", "a\0b", "/", b"\0"]
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    with TarWriter(tmp_path / "a.tar") as tar, pytest.raises(UnsafePathError, match="name"):
        tar.add(name, b"")
    with ZipWriter(tmp_path / "a.zip") as packed, pytest.raises(UnsafePathError):
        packed.add(name if isinstance(name, str) else name.decode(), [b""])


def test_wrong_types_are_refused(tmp_path):
    with TarWriter(tmp_path / "a.tar") as tar, pytest.raises(OptionTypeError, match="str"):
        tar.add("a", "text")


def test_an_exception_leaves_nothing(tmp_path):
    for make in (TarWriter, ZipWriter):
        with pytest.raises(ZeroDivisionError), make(tmp_path / "a.tar"):
            raise ZeroDivisionError
        assert os.listdir(tmp_path) == []
    writer = TarWriter(tmp_path / "b.tar")
    del writer
    assert os.listdir(tmp_path) == []


def test_pieces_must_have_the_announced_size(tmp_path):
    with (
        pytest.raises(OptionError, match="2 bytes came where 3"),
        TarWriter(tmp_path / "a.tar") as tar,
    ):
        tar.add_chunks("a", [b"xy"], 3)
    assert os.listdir(tmp_path) == []


def test_an_archive_is_replaced_only_when_asked_and_whole(tmp_path):
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


def test_the_same_members_give_the_same_bytes(tmp_path):
    for make, names in ((TarWriter, "ab"), (ZipWriter, "cd")):
        for name in names:
            with make(tmp_path / name) as writer:
                for member in ("x", "y/z"):
                    data = member.encode()
                    writer.add(member, data if make is TarWriter else [data])
        first, second = ((tmp_path / name).read_bytes() for name in names)
        assert first == second


def test_a_closed_writer(tmp_path):
    tar = TarWriter(tmp_path / "a.tar")
    tar.close()
    tar.close()
    with pytest.raises(ValueError, match="closed"):
        tar.add("x", bytes(2 << 20))


def test_zip_members_are_aligned_and_read_by_zipfile(tmp_path):
    path = str(tmp_path / "a.zip")
    content = {"a": b"1", "größe/b.bin": bytes(3000), "c" * 300: b""}
    with ZipWriter(path) as packed:
        for name, data in content.items():
            packed.add(name, [data[:1], data[1:]], mtime=1_600_000_000, mode=0o755)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == content
        assert archive.infolist()[0].date_time == (2020, 9, 13, 12, 26, 40)
    with imagearchive.open(path) as archive:
        assert {name: archive[name] for name in archive} == content
        assert all(offset % 64 == 0 for offset in archive.table.entries["offset"].tolist())
    with ZipWriter(tmp_path / "b.zip") as packed, pytest.raises(UnsafePathError, match="UTF-8"):
        packed.add("\udcff", [b""])


# ---------------------------------------------------------------- packing


TREE = {
    "b/2.jpg": b"two",
    "b/10.jpg": b"ten",
    "a.txt": b"file",
    "a/x": b"below",
    "a-b": b"dash",
    "größe.bin": bytes(70_000),
    ".hidden": b"h",
}


def test_a_directory_is_packed_in_bytewise_order(tmp_path):
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


def test_the_same_files_give_the_same_archive_anywhere(tmp_path):
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


def test_a_list_keeps_its_order(tmp_path):
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


def test_names_that_are_no_text_are_packed(tmp_path):
    fill(tmp_path / "src", {b"\xff": b"raw", "new\nline": b"n"})
    pack(tmp_path / "src", tmp_path / "a.tar")
    assert tar_names(tmp_path / "a.tar") == ["new\nline", "\udcff"]


def test_the_index_of_another_archive_stays(tmp_path, monkeypatch):
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
                writer.add("x", b"1" if make is TarWriter else [b"1"])
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
            writer.add("x", b"1" if make is TarWriter else [b"1"])
        assert len(np.load(folder / "data.idx.npy")) == 3


@pytest.mark.parametrize("make", [TarWriter, ZipWriter])
def test_a_replaced_archive_loses_its_index(tmp_path, make):
    """An index that fits by chance would give the bytes of other members."""
    for _ in range(2):
        with make(tmp_path / "a.x", overwrite=True) as writer:
            writer.add("x", b"1" if make is TarWriter else [b"1"])
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


@contextlib.contextmanager
def no_file_larger_than(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [6_000, 100_000, 3_000_000])
@pytest.mark.parametrize("make", [TarWriter, ZipWriter])
def test_a_full_disk_names_the_archive_and_leaves_nothing(tmp_path, make, size):
    data = bytes(size)
    with (
        no_file_larger_than(4_000),
        pytest.raises(OSError, match=r"a\.x") as caught,
        make(tmp_path / "a.x") as writer,
    ):
        writer.add("x", data if make is TarWriter else [data])
    assert caught.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == []


def test_a_missing_directory_is_what_the_error_names(tmp_path):
    for make in (TarWriter, ZipWriter):
        with pytest.raises(FileNotFoundError) as caught:
            make(tmp_path / "nodir" / "a.tar")
        assert caught.value.filename == str(tmp_path / "nodir")
        assert "no such directory to write 'a.tar' to" in str(caught.value)


@pytest.mark.parametrize("make", [TarWriter, ZipWriter])
@pytest.mark.parametrize("size", [3, 3_000_000])
def test_half_a_member_ends_the_archive(tmp_path, make, size):
    """Whoever catches the error must not get an archive with a broken member, nor none at all."""

    def chunks():
        yield bytes(size)
        raise OSError(errno.EIO, "the source is broken")

    def add(writer, name, data):
        if make is TarWriter:
            writer.add_chunks(name, data, 2 * size)
        else:
            writer.add(name, data)

    writer = make(tmp_path / "a.x")
    add(writer, "good", [bytes(2 * size)])
    with pytest.raises(OSError, match="the source is broken"):
        add(writer, "bad", chunks())
    for _ in range(2):
        with pytest.raises(ClosedError, match="given up when a member failed"):
            add(writer, "next", [bytes(2 * size)])
        with pytest.raises(ClosedError, match="given up when a member failed"):
            writer.close()
    assert os.listdir(tmp_path) == []
    with pytest.raises(OSError, match="the source is broken"), make(tmp_path / "b.x") as writer:
        add(writer, "bad", chunks())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("make", [TarWriter, ZipWriter])
def test_nothing_is_added_to_a_closed_archive(tmp_path, make):
    writer = make(tmp_path / "a.x")
    writer.close()
    writer.close()
    before = (tmp_path / "a.x").read_bytes()
    with pytest.raises(ClosedError, match="the writer is closed"):
        writer.add("x", b"1" if make is TarWriter else [b"1"])
    if make is TarWriter:
        with pytest.raises(ClosedError):
            writer.add_file(tmp_path / "a.x", "x")
    writer = make(tmp_path / "b.x")
    writer.abort()
    with pytest.raises(ClosedError):
        writer.add("x", b"1" if make is TarWriter else [b"1"])
    writer.close()
    assert (tmp_path / "a.x").read_bytes() == before
    assert not (tmp_path / "b.x").exists()


@pytest.mark.parametrize("make", [TarWriter, ZipWriter])
def test_only_files_are_replaced(tmp_path, make):
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


def test_nothing_to_pack(tmp_path):
    (tmp_path / "src").mkdir()
    for options, name in (({}, "a.tar"), ({"shard_size": 20_000}, "a-000000.tar")):
        assert pack(tmp_path / "src", tmp_path / "a.tar", **options) == [str(tmp_path / name)]
        assert tar_names(tmp_path / name) == []
    with pytest.raises(OptionError, match="only 0 samples for 1 shards"):
        pack(tmp_path / "src", tmp_path / "a.tar", shards=1)


def samples(count):
    files = {}
    for number in range(count):
        for extension in ("cls", "jpg", "seg.png"):
            files[f"{number:04d}.{extension}"] = bytes(100 * (number % 7))
    return files


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 20])
def test_shards_hold_equal_numbers_of_whole_samples(tmp_path, shards):
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


def test_shards_in_nested_directories_keep_their_files_open(tmp_path):
    files = {f"{a}/{b}/{c}.txt": f"{a}{b}{c}".encode() for a in "xyz" for b in "uvw" for c in "12"}
    fill(tmp_path / "src", files)
    made = pack(tmp_path / "src", tmp_path / "n.tar", shards=5)
    with imagearchive.open(made) as archive:
        assert {name: archive[name] for name in archive} == files
    assert len(os.listdir("/proc/self/fd")) < 200


def test_shards_of_a_size(tmp_path):
    fill(tmp_path / "src", {f"{i:03d}": bytes(5000) for i in range(50)} | {"025": bytes(90_000)})
    limit = 40 * 1024
    made = pack(tmp_path / "src", tmp_path / "x.tar", shard_size=limit)
    sizes = [os.path.getsize(path) for path in made]
    assert list(chain.from_iterable(map(tar_names, made))) == [f"{i:03d}" for i in range(50)]
    assert [tar_names(path) for path, size in zip(made, sizes) if size > limit] == [["025"]]
    # None could have taken a further file.
    assert all(size > limit - 16384 for size in sizes[:3])


def test_options_of_packing_are_checked(tmp_path):
    fill(tmp_path / "src", TREE)
    for options, message in (
        ({"shards": 100}, "only 7 samples"),
        ({"shards": 0}, "at least one"),
        ({"shard_size": 100}, "cannot hold"),
        ({"shards": 2, "shard_size": 10**6}, "not both"),
    ):
        with pytest.raises(OptionError, match=message):
            pack(tmp_path / "src", tmp_path / "a.tar", **options)
    with pytest.raises(OptionError, match="would lie inside"):
        pack(tmp_path / "src", tmp_path / "src" / "a" / "a.tar")
    with pytest.raises(ArchiveNotFoundError, match="no such directory"):
        pack(tmp_path / "nope", tmp_path / "a.tar")
    assert os.listdir(tmp_path) == ["src"]


def test_links_are_packed_as_what_they_lead_to(tmp_path):
    fill(tmp_path / "elsewhere", {"f": b"far", "d/g": b"deep"})
    source = fill(tmp_path / "src", {"a": b"near"})
    (source / "file").symlink_to(tmp_path / "elsewhere" / "f")
    (source / "folder").symlink_to(tmp_path / "elsewhere" / "d")
    pack(source, tmp_path / "a.tar")
    with imagearchive.open(tmp_path / "a.tar") as archive:
        assert dict(archive) == {"a": b"near", "file": b"far", "folder/g": b"deep"}
    (source / "loop").symlink_to(source)
    with pytest.raises(UnsupportedMemberError, match=r"loop.*it lies in"):
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


def test_errors_name_the_whole_path(tmp_path, monkeypatch):
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
                patch.setattr(packing, "fill", lambda *arguments: (arguments[3], 0, True))
                with pytest.raises(PermissionError) as caught:
                    pack(source, tmp_path / "b.tar", **options)
            assert caught.value.filename == str(source / expected)
    with no_file_larger_than(100), pytest.raises(OSError, match="File too large") as caught:
        pack(source, tmp_path / "b.tar")
    assert caught.value.filename == str(tmp_path / "b.tar")
    assert os.listdir(tmp_path) == ["src"]


@pytest.mark.parametrize("replace", [False, True])
def test_shards_appear_together_or_not_at_all(tmp_path, monkeypatch, replace):
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


def test_what_is_no_file_is_refused(tmp_path):
    source = fill(tmp_path / "src", {"a": b""})
    os.mkfifo(source / "pipe")
    with pytest.raises(UnsupportedMemberError, match="pipe: a FIFO"):
        pack(source, tmp_path / "a.tar")
    assert os.listdir(tmp_path) == ["src"]


def test_a_file_that_changes_its_size(tmp_path, monkeypatch):
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
def test_directories_of_every_kind_of_file(tmp_path, keep):
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


def test_a_file_that_vanishes_while_others_are_read_ahead(tmp_path):
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


def test_reading_ahead_checks_its_arguments(tmp_path):
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


def test_a_failure_in_the_last_shard_leaves_none(tmp_path):
    source = fill(tmp_path / "src", samples(6))
    (source / "9999.jpg").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        pack(sorted(os.listdir(source)), tmp_path / "x.tar", shards=3, root=source)
    assert os.listdir(tmp_path) == ["src"]


def test_an_interrupt_leaves_nothing(tmp_path):
    fill(tmp_path / "src", {f"{i}": bytes(1000) for i in range(50)})
    script = textwrap.dedent("""
        import os, sys, time
        from imagearchive.archive import pack as module
        real = module.TarWriter.add_members
        def slow(self, *arguments, **options):
            real(self, *arguments, **options)
            print("ready", flush=True)
            time.sleep(20)
        module.TarWriter.add_members = slow
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


def test_shard_names():
    assert shard_path("d.x/train.tar", 3) == "d.x/train-000003.tar"


# ---------------------------------------------------------------- converting


def test_arrays_go_through_every_container(tmp_path):
    arrays = {"images": np.arange(60, dtype=np.uint8).reshape(5, 4, 3), "labels": np.arange(5)}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    with imagearchive.open(tmp_path / "a.npz") as archive:
        expected = dict(archive)
        for name in ("b.tar", "c.zip", "d.npz"):
            assert convert(archive, tmp_path / name) == 2
            with imagearchive.open(tmp_path / name) as other:
                assert dict(other) == expected
        assert convert(archive, tmp_path / "bins", splits=2) == 2
    with np.load(tmp_path / "d.npz") as loaded:
        for key, array in arrays.items():
            np.testing.assert_array_equal(loaded[key], array)
    with imagearchive.open(tmp_path / "b.tar") as archive:
        convert(archive, tmp_path / "e.npz", index=False)
    with np.load(tmp_path / "e.npz") as loaded:
        np.testing.assert_array_equal(loaded["labels"], arrays["labels"])
    with imagearchive.open(tmp_path / "bins") as archive:
        assert list(archive.values()) == list(expected.values())
        convert(archive, tmp_path / "f.tar")
    with imagearchive.open(tmp_path / "f.tar") as archive:
        assert list(archive.values()) == list(expected.values())


def test_times_and_permissions_survive(tmp_path):
    with TarWriter(tmp_path / "a.tar") as tar:
        tar.add("x", b"1", mtime=1_600_000_000, mode=0o755)
        tar.add("y", b"2")
    with imagearchive.open(tmp_path / "a.tar") as archive:
        convert(archive, tmp_path / "b.zip")
        convert(archive, tmp_path / "c.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "c.tar").read_bytes()
    with zipfile.ZipFile(tmp_path / "b.zip") as packed:
        assert packed.getinfo("x").external_attr >> 16 & 0o777 == 0o755
        assert packed.getinfo("x").date_time[0] == 2020
        assert packed.getinfo("y").date_time[0] == 1980


def test_the_last_of_equal_names_is_converted(tmp_path):
    for number in (0, 1):
        with TarWriter(tmp_path / f"{number}.tar") as tar:
            tar.add("x", b"%d" % number)
            tar.add(f"only{number}", b"")
    with imagearchive.open(str(tmp_path / "{0..1}.tar")) as archive:
        assert convert(archive, tmp_path / "all.tar") == 3
    with imagearchive.open(tmp_path / "all.tar") as archive:
        assert dict(archive) == {"only0": b"", "x": b"1", "only1": b""}


def test_what_cannot_be_converted(tmp_path):
    with TarWriter(tmp_path / "a.tar") as tar:
        tar.add("x.jpg", b"1")
        tar.add("y.npy", b"no array")
    with imagearchive.open(tmp_path / "a.tar") as archive:
        with pytest.raises(OptionError, match=r"'x\.jpg' is no \.npy"):
            convert(archive, tmp_path / "b.npz")
        with pytest.raises(TargetExistsError, match="exists"):
            convert(archive, tmp_path / "a.tar")
        with pytest.raises(OptionError, match="say what to write"):
            convert(archive, tmp_path / "b.rar")
        with pytest.raises(OptionError, match="choose one"):
            convert(archive, tmp_path / "b.tar", "rar")
    assert sorted(os.listdir(tmp_path)) == ["a.idx.npy", "a.tar"]
    assert [kind_of(name) for name in ("a.TAR", "a.zip", "x/", "x", "a.npz")] == [
        "tar",
        "zip",
        "bins",
        "bins",
        "npz",
    ]


def test_large_members_are_converted_piece_by_piece(tmp_path):
    data = np.random.default_rng(0).bytes(9 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("big", data)
    with imagearchive.open(tmp_path / "a.zip") as archive:
        convert(archive, tmp_path / "b.tar")
        convert(archive, tmp_path / "c.zip")
    for name in ("b.tar", "c.zip"):
        with imagearchive.open(tmp_path / name) as archive:
            assert archive["big"] == data


def test_time_stamps_beyond_those_of_zip(tmp_path):
    with ZipWriter(tmp_path / "a.zip") as packed:
        packed.add("old", [b""], mtime=-5)
        packed.add("new", [b""], mtime=2**40)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert [info.date_time[0] for info in archive.infolist()] == [1980, 2107]
    assert time.gmtime(4_354_819_200)[0] == 2108


def test_zip_writer_uses_zip64_fields_beyond_their_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "ZIP64_LIMIT", 1000)
    content = {f"{number}": bytes([number]) * size for number, size in enumerate((10, 2000, 999))}
    with ZipWriter(tmp_path / "a.zip") as packed:
        for name, data in content.items():
            packed.add(name, [data])
    assert b"PK\6\6" in (tmp_path / "a.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == content
    with imagearchive.open(tmp_path / "a.zip") as archive:
        assert dict(archive) == content


def test_zip_writer_stores_more_members_than_a_directory_without_zip64_counts(tmp_path):
    with ZipWriter(tmp_path / "a.zip", sync=False) as packed:
        for number in range(65_536):
            packed.add(f"{number}", [])
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert len(archive.namelist()) == 65_536
