"""Extraction against tarfile's ``data`` filter, and attacks."""

import os
import random
import stat
import tarfile
import threading
import time
import zipfile

import barecat
import numpy as np
import pytest
from support.files import make_tar, tree

import imagearchive
from imagearchive.archive.extract import extract, select
from imagearchive.archive.writers import TarWriter
from imagearchive.errors import (
    MemberNotFoundError,
    OptionError,
    TargetExistsError,
    UnsafePathError,
)

MANY = {f"class_{i % 7}/{i:05d}.bin": bytes([i % 256]) * (i * 13 % 9000) for i in range(700)}
HOSTILE = {
    "dots": {"../evil": b"x"},
    "deep dots": {"a/../../evil": b"x"},
    "only dots": {"..": b"x"},
    "symlink out": {"link": (tarfile.SYMTYPE, "/etc"), "link/evil": b"x"},
    "relative symlink out": {"link": (tarfile.SYMTYPE, "../.."), "ok": b"x"},
    "hard link out": {"link": (tarfile.LNKTYPE, "/etc/passwd")},
    "device": {"dev": (tarfile.CHRTYPE, "")},
    "fifo": {"pipe": (tarfile.FIFOTYPE, "")},
    "long component": {"x" * 65536: b"x"},
}


@pytest.mark.parametrize("threads", [1, 3, None])
@pytest.mark.parametrize("storage", ["mmap", "pread"])
def test_extract_gives_the_files_back(tmp_path, threads, storage):
    make_tar(tmp_path / "a.tar", MANY, mtime=1_600_000_000)
    moved = []
    with imagearchive.open(tmp_path / "a.tar", storage=storage) as archive:
        done = extract(archive, tmp_path / "out", threads=threads, progress=moved.append)
    assert tree(tmp_path / "out") == MANY
    assert (done.files, done.bytes) == (700, sum(map(len, MANY.values())))
    assert sum(moved) == 700
    assert os.stat(tmp_path / "out/class_3/00003.bin").st_mtime == 1_600_000_000


def test_extract_does_what_the_data_filter_does(tmp_path):
    members = {"a/x": b"1", "a/b/y": b"2", "z": bytes(100_000), "größe/日本": b"3"}
    path = make_tar(tmp_path / "a.tar", members, mtime=12345)
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "theirs", filter="data")
    with imagearchive.open(path) as archive:
        extract(archive, tmp_path / "ours")
    assert tree(tmp_path / "ours") == tree(tmp_path / "theirs") == members


@pytest.mark.parametrize("mode", [0o644, 0o755, 0o777, 0o6755, 0o400, 0o000, 0o111, 0o070, 0o4711])
def test_extract_leaves_the_permissions_of_the_data_filter(tmp_path, mode):
    path = make_tar(tmp_path / "a.tar", {"x": b"1"}, mode=mode)
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "theirs", filter="data")
    with imagearchive.open(path) as archive:
        extract(archive, tmp_path / "ours")
    ours, theirs = (
        stat.S_IMODE(os.stat(tmp_path / name / "x").st_mode) for name in ("ours", "theirs")
    )
    # Where none are recorded, the file shall be readable all the same.
    assert ours == (theirs if mode & 0o777 else 0o644)


def test_extract_every_container(tmp_path):
    content = {"a/x.bin": bytes(3000), "y": b"1"}
    make_tar(tmp_path / "a.tar", content)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in content.items():
            packed.writestr(name, data)
    with barecat.Barecat(str(tmp_path / "c.barecat"), readonly=False) as cat:
        for name, data in content.items():
            cat[name] = data
    imagearchive.write_split_data(tmp_path / "bins", content.values(), splits=2)
    for number, name in enumerate(["a.tar", "b.zip", "c.barecat"]):
        with imagearchive.open(tmp_path / name) as archive:
            extract(archive, tmp_path / f"out{number}")
        assert tree(tmp_path / f"out{number}") == content
    with imagearchive.open(tmp_path / "bins") as archive:
        extract(archive, tmp_path / "packets")
    assert [data for _, data in sorted(tree(tmp_path / "packets").items())] == [*content.values()]


def test_extract_makes_files_of_links_and_empty_directories(tmp_path):
    path = make_tar(
        tmp_path / "a.tar",
        {
            "d/x": b"content",
            "hard": (tarfile.LNKTYPE, "d/x"),
            "d/soft": (tarfile.SYMTYPE, "x"),
            "void/": (tarfile.DIRTYPE, ""),
        },
    )
    with imagearchive.open(path) as archive:
        extract(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"d/x": b"content", "hard": b"content", "d/soft": b"content"}
    assert (tmp_path / "out/void").is_dir()
    assert not (tmp_path / "out/d/soft").is_symlink()


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_extract_refuses_hostile_members_before_it_writes(tmp_path, case):
    (tmp_path / "jail").mkdir()
    path = make_tar(tmp_path / "a.tar", {"good": b"fine", **HOSTILE[case]})
    with imagearchive.open(path) as archive:
        with pytest.raises(UnsafePathError, match=r"nothing was written.*skip_unsafe"):
            extract(archive, tmp_path / "jail" / "out")
        assert not (tmp_path / "jail" / "out").exists()
        done = extract(archive, tmp_path / "jail" / "out", skip_unsafe=True)
    assert len(done.refused) == 1
    assert done.refused[0].reason
    assert sorted(os.listdir(tmp_path)) == ["a.idx.npy", "a.tar", "jail"]
    assert os.listdir(tmp_path / "jail") == ["out"]
    assert (tmp_path / "jail/out/good").read_bytes() == b"fine"
    for base, folders, files in os.walk(tmp_path / "jail"):
        for name in folders + files:
            assert not os.path.islink(os.path.join(base, name))


def test_extract_refuses_nul_bytes_in_names(tmp_path):
    # A PAX record may hold one; a name in a file system may not.
    data = b"%d path=nul\0in the middle\n" % (len(b" path=nul\0in the middle\n") + 2)
    head = tarfile.TarInfo("././@PaxHeader")
    head.type, head.size = tarfile.XHDTYPE, len(data)
    member = tarfile.TarInfo("short")
    member.size = 1
    raw = head.tobuf(tarfile.USTAR_FORMAT) + data.ljust(512, b"\0")
    raw += member.tobuf(tarfile.USTAR_FORMAT) + b"x".ljust(512, b"\0") + bytes(1024)
    (tmp_path / "a.tar").write_bytes(raw)
    with imagearchive.open(tmp_path / "a.tar", strict=False) as archive:
        done = extract(archive, tmp_path / "out", skip_unsafe=True)
        assert done.files + len(done.refused) == len(archive)
    assert all("\0" not in name for name in tree(tmp_path / "out"))


def test_extract_drops_the_slash_of_absolute_names(tmp_path):
    path = make_tar(tmp_path / "a.tar", {"//abs/x": b"1"})
    with imagearchive.open(path) as archive:
        extract(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"abs/x": b"1"}


@pytest.mark.parametrize("existing", ["error", "skip", "replace"])
def test_extract_never_follows_links_in_the_target(tmp_path, existing):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_bytes(b"precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "d").symlink_to(tmp_path / "outside")
    path = make_tar(tmp_path / "a.tar", {"d/precious": b"evil"})
    with (
        imagearchive.open(path) as archive,
        pytest.raises(UnsafePathError, match="links are not followed"),
    ):
        extract(archive, out, existing=existing)
    assert tree(tmp_path / "outside") == {"precious": b"precious"}


def test_extract_replaces_a_link_instead_of_following_it(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "x").symlink_to(tmp_path / "precious")
    path = make_tar(tmp_path / "a.tar", {"x": b"new"})
    with imagearchive.open(path) as archive:
        with pytest.raises(TargetExistsError, match="exists"):
            extract(archive, out)
        extract(archive, out, existing="replace")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (out / "x").is_symlink()
    assert (out / "x").read_bytes() == b"new"


def test_extract_does_not_follow_a_link_swapped_in_meanwhile(tmp_path):
    (tmp_path / "outside").mkdir()
    out = tmp_path / "out"
    path = make_tar(tmp_path / "a.tar", {f"d/{i:04d}": b"x" * 10 for i in range(2000)})
    stop = threading.Event()

    def swap():
        generator = random.Random(1)
        while not stop.is_set():
            try:
                if generator.random() < 0.5:
                    os.rename(out / "d", out / f"moved{generator.random()}")
                    os.symlink(tmp_path / "outside", out / "d")
                else:
                    os.unlink(out / "d")
            except OSError:
                pass
            time.sleep(0.0005)

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        with imagearchive.open(path) as archive:
            for _ in range(5):
                try:
                    extract(archive, out, existing="replace")
                except (OSError, UnsafePathError):
                    pass
    finally:
        stop.set()
        attacker.join()
    assert os.listdir(tmp_path / "outside") == []


def test_extract_refuses_a_file_where_a_directory_is_needed(tmp_path):
    path = make_tar(tmp_path / "a.tar", {"a": b"1", "a/b": b"2"})
    with imagearchive.open(path) as archive, pytest.raises(UnsafePathError, match="out/a"):
        extract(archive, tmp_path / "out", threads=1)


def test_extract_existing_files_are_an_error_kept_or_replaced(tmp_path):
    path = make_tar(tmp_path / "a.tar", {"x": b"new", "y": b"y"})
    out = tmp_path / "out"
    out.mkdir()
    (out / "x").write_bytes(b"old")
    with imagearchive.open(path) as archive:
        with pytest.raises(TargetExistsError, match=r"out/x exists"):
            extract(archive, out)
        done = extract(archive, out, existing="skip")
        assert (done.files, done.skipped) == (1, 1)
        assert tree(out) == {"x": b"old", "y": b"y"}
        assert extract(archive, out, existing="replace").files == 2
        assert tree(out) == {"x": b"new", "y": b"y"}
        with pytest.raises(OptionError, match="existing must be"):
            extract(archive, out, existing="maybe")
        with pytest.raises(OptionError, match="threads must be at least 1, got 0"):
            extract(archive, out, threads=0, existing="replace")


def test_select_by_name_directory_and_pattern(tmp_path):
    content = {"a/1.jpg": b"1", "a/2.txt": b"2", "a/b/3.jpg": b"3", "c.jpg": b"4", "[x]": b"5"}
    path = make_tar(tmp_path / "a.tar", content)
    with imagearchive.open(path) as archive:
        names = [*content]
        for patterns, expected in (
            (["a"], names[:3]),
            (["a/"], names[:3]),
            (["./c.jpg"], ["c.jpg"]),
            (["*.jpg"], ["c.jpg"]),
            (["**/*.jpg"], ["a/1.jpg", "a/b/3.jpg", "c.jpg"]),
            (["c.jpg", "a/b", "c.jpg"], ["a/b/3.jpg", "c.jpg"]),
            (["[x]"], ["[x]"]),
            ([""], names),
        ):
            assert [archive.name(p) for p in select(archive, patterns)] == expected
        with pytest.raises(MemberNotFoundError, match=r"a/1\.jpg"):
            select(archive, ["a/1.jpeg"])
        extract(archive, tmp_path / "out", select(archive, ["a/b", "c.jpg"]))
    assert tree(tmp_path / "out") == {"a/b/3.jpg": b"3", "c.jpg": b"4"}


def test_extract_takes_the_last_of_equal_names(tmp_path):
    for number in (0, 1):
        make_tar(tmp_path / f"{number}.tar", {"x": b"%d" % number})
    with imagearchive.open([tmp_path / "0.tar", tmp_path / "1.tar"]) as archive:
        extract(archive, tmp_path / "out", threads=1)
    assert tree(tmp_path / "out") == {"x": b"1"}


def test_extract_many_directories(tmp_path):
    content = {f"{a}/{b}/f": f"{a}{b}".encode() for a in range(12) for b in range(12)}
    names = [*content]
    random.Random(3).shuffle(names)
    path = make_tar(tmp_path / "a.tar", {name: content[name] for name in names})
    with imagearchive.open(path) as archive:
        extract(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == content


def test_extract_paths_longer_than_path_max(tmp_path):
    name = "/".join(["d" * 200] * 30) + "/file"
    with TarWriter(tmp_path / "a.tar") as tar:
        tar.add(name, b"deep")
    with imagearchive.open(tmp_path / "a.tar") as archive:
        assert extract(archive, tmp_path / "out").files == 1


def test_extract_large_members(tmp_path):
    data = np.random.default_rng(0).bytes(9 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("big", data)
    with imagearchive.open(tmp_path / "a.zip") as archive:
        extract(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"big": data}


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("storage", ["mmap", "pread"])
def test_extract_keeps_times_of_any_era(tmp_path, storage, exists):
    times = [-2, -1, 1, 2**31, 2**33]
    with TarWriter(tmp_path / "a.tar") as tar:
        for number, seconds in enumerate(times):
            tar.add(f"{number}", b"x", mtime=seconds)
    if exists:
        (tmp_path / "out").mkdir()
    with imagearchive.open(tmp_path / "a.tar", storage=storage) as archive:
        extract(archive, tmp_path / "out")
    found = [os.stat(tmp_path / "out" / f"{number}").st_mtime for number in range(len(times))]
    assert found == times


def test_extract_replaces_links_and_files_but_no_directories(tmp_path):
    make_tar(tmp_path / "a.tar", {"file": b"new", "link": b"new"})
    make_tar(tmp_path / "b.tar", {"folder": b"new"})
    out = tmp_path / "out"
    (out / "folder").mkdir(parents=True)
    (out / "file").write_bytes(b"old")
    (tmp_path / "victim").write_bytes(b"theirs")
    (out / "link").symlink_to("../victim")
    with imagearchive.open(tmp_path / "a.tar") as archive:
        extract(archive, out, existing="replace")
    with (
        imagearchive.open(tmp_path / "b.tar") as archive,
        pytest.raises(IsADirectoryError) as caught,
    ):
        extract(archive, out, existing="replace")
    assert caught.value.filename == str(out / "folder")
    assert tree(out) == {"file": b"new", "link": b"new"}
    assert (tmp_path / "victim").read_bytes() == b"theirs"
    assert sorted(os.listdir(out)) == ["file", "folder", "link"]


def test_extract_new_directory_appears_when_whole(tmp_path):
    make_tar(tmp_path / "a.tar", MANY)
    seen = []
    with imagearchive.open(tmp_path / "a.tar") as archive:
        extract(
            archive,
            f"{tmp_path}/deep/out/",
            threads=1,
            progress=lambda count: seen.append((tmp_path / "deep/out").exists()),
        )
    assert not any(seen)
    assert tree(tmp_path / "deep/out") == MANY
    assert os.listdir(tmp_path / "deep") == ["out"]
