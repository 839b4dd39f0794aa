"""Extraction that is interrupted, or fails in the middle."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
import zipfile

import pytest
from support.files import limited, make_tar, unfinished

import imagearchive
from imagearchive.archive.checked_read import CHUNK_SIZE
from imagearchive.archive.convert import convert
from imagearchive.archive.extract import extract, select
from imagearchive.errors import (
    CorruptArchiveError,
    OptionError,
)
from imagearchive.index import file_format
from imagearchive.storage.location import locate


def test_extract_damaged_member_leaves_no_half_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(200):
            packed.writestr(f"{number}", random.Random(number).randbytes(500))
        offset = packed.infolist()[150].header_offset
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[offset + 100] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(raw)
    with imagearchive.open(tmp_path / "a.zip") as archive:
        for number, threads in enumerate([1, 3]):
            with pytest.raises(CorruptArchiveError, match="'150'"):
                extract(archive, tmp_path / f"out{number}", threads=threads)
            found = unfinished(tmp_path, f"out{number}")
            assert "150" not in found
            assert all(found[name] == random.Random(int(name)).randbytes(500) for name in found)


@pytest.mark.parametrize("size", [5000, CHUNK_SIZE + 5000])
@pytest.mark.parametrize("storage", ["mmap", "pread"])
def test_extract_checks_stored_members_of_a_zip(tmp_path, size, storage):
    """What is written elsewhere has no checksum that would show the damage later."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for name in ("d/1", "d/2", "d/3"):
            packed.writestr(name, name.encode() * (size // 3))
        offset = packed.getinfo("d/2").header_offset
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[offset + 1000] ^= 1
    (tmp_path / "a.zip").write_bytes(raw)
    message = r"a\.zip: 'd/2'.*: its checksum is \w+ but the archive says \w+"
    with imagearchive.open(tmp_path / "a.zip", storage=storage) as archive:
        with pytest.raises(CorruptArchiveError, match=message):
            extract(archive, tmp_path / "out", threads=1)
        assert sorted(unfinished(tmp_path, "out")) == ["d/1"]
        for target in ("b.tar", "b.zip", "bins"):
            with pytest.raises(CorruptArchiveError, match=message):
                convert(archive, tmp_path / target)
            assert not (tmp_path / target).is_file()
        assert not (tmp_path / "bins" / "index.dat").exists()
        extract(archive, tmp_path / "others", select(archive, ["d/1", "d/3"]))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("exists", [False, True])
def test_extract_interrupted_leaves_whole_files_only(tmp_path, threads, exists):
    if exists:
        (tmp_path / "out").mkdir()
    make_tar(tmp_path / "a.tar", {f"{i}": bytes([i % 256]) * 5000 for i in range(2000)})
    script = textwrap.dedent("""
        import os, signal, sys, threading, time
        import imagearchive
        from imagearchive.archive.extract import extract
        real, written, interrupted = os.write, [], threading.Event()
        def interrupt(*_):
            interrupted.set()
            raise KeyboardInterrupt
        def slow(fd, data):
            written.append(fd)
            if len(written) > 50:
                interrupted.wait()
            time.sleep(0.003)
            return real(fd, data)
        signal.signal(signal.SIGINT, interrupt)
        os.write = slow
        archive = imagearchive.open(sys.argv[1], storage=sys.argv[4])
        print("ready", flush=True)
        extract(archive, sys.argv[2], threads=int(sys.argv[3]))
    """)
    child = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "a.tar", tmp_path / "out", str(threads), "pread"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    child.stdout.readline()
    while len(list(tmp_path.glob("out*/*"))) < 5:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode != 0
    found = unfinished(tmp_path, "out")
    assert 0 < len(found) < 2000
    assert (tmp_path / "out").exists() == exists
    assert all(data == bytes([int(name) % 256]) * 5000 for name, data in found.items())


@pytest.mark.parametrize("storage", ["mmap", "pread"])
@pytest.mark.parametrize("exists", [False, True])
def test_extract_on_a_full_disk_names_the_file_and_leaves_no_part_of_it(tmp_path, storage, exists):
    path = make_tar(tmp_path / "a.tar", {"d/small": b"1", "d/large": bytes(50_000)})
    if exists:
        (tmp_path / "out").mkdir()
    with (
        imagearchive.open(path, storage=storage) as archive,
        limited(resource.RLIMIT_FSIZE, 10_000),
        pytest.raises(OSError, match="File too large") as caught,
    ):
        extract(archive, tmp_path / "out", threads=1)
    assert caught.value.filename == str(tmp_path / "out/d/large")
    assert caught.value.filename2 is None
    assert unfinished(tmp_path, "out") == {"d/small": b"1"}


def test_extract_names_a_file_that_cannot_be_made(tmp_path, monkeypatch):
    path = make_tar(tmp_path / "a.tar", {"d/x": b"1"})
    (tmp_path / "out").mkdir()
    real = os.open

    def refuse(name, *arguments, **options):
        if isinstance(name, bytes) and arguments and arguments[0] & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with (
        imagearchive.open(path, storage="pread") as archive,
        pytest.raises(OSError, match="No space left") as caught,
    ):
        extract(archive, tmp_path / "out")
    assert caught.value.filename == str(tmp_path / "out/d/x")


def test_extract_names_a_directory_that_cannot_be_made(tmp_path, monkeypatch):
    path = make_tar(tmp_path / "a.tar", {"d/e/x": b"1"})
    (tmp_path / "out").mkdir()
    real = os.mkdir

    def refuse(part, *arguments, **options):
        if part == b"e":
            raise PermissionError(errno.EACCES, "no", part)
        real(part, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", refuse)
    with imagearchive.open(path) as archive:
        with pytest.raises(PermissionError) as caught:
            extract(archive, tmp_path / "out")
        with pytest.raises(OptionError, match="empty string"):
            extract(archive, "")
    assert caught.value.filename == str(tmp_path / "out/d/e")


@pytest.mark.parametrize("size", [10, CHUNK_SIZE + 10])
def test_extract_names_an_archive_that_cannot_be_read(tmp_path, monkeypatch, size):
    path = make_tar(tmp_path / "a.tar", {"x": bytes(size)})
    with imagearchive.open(path, storage="pread") as archive:
        archive.read("x")

        def broken(*_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "pread", broken)
        monkeypatch.setattr(os, "preadv", broken)
        with pytest.raises(OSError, match="Input/output") as caught:
            extract(archive, tmp_path / "out")
        assert caught.value.filename == str(path)
        with pytest.raises(OSError, match="Input/output") as caught:
            convert(archive, tmp_path / "b.tar")
        assert caught.value.filename == str(path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("offset", "size"),
    [(2048, 11_000), (20_000, 0), (10_240, 1), (2**64 - 1, 1), (2**64 - 1, 2**64 - 1)],
)
def test_extract_refuses_ranges_outside_of_the_archive(tmp_path, monkeypatch, offset, size):
    """Ranges are checked where they are used, too, not only when the index is opened."""
    monkeypatch.setattr("imagearchive.index.saved_table.check_columns", lambda *arguments: None)
    make_tar(tmp_path / "a.tar", {"a": b"1", "b": b"2"})
    imagearchive.open(tmp_path / "a.tar").close()
    sections, meta, *_ = file_format.load(locate(tmp_path / "a.idx.npy"))
    entries = sections["entries"].copy()
    entries["offset"][1], entries["size"][1] = offset, size
    file_format.save(locate(tmp_path / "a.idx.npy"), {**sections, "entries": entries}, meta)
    with (
        imagearchive.open(tmp_path / "a.tar", storage="mmap") as archive,
        pytest.raises(CorruptArchiveError),
    ):
        extract(archive, tmp_path / "out")
    assert unfinished(tmp_path, "out") == {"a": b"1"}


def test_extract_on_a_full_disk_leaves_no_half_file(tmp_path):
    # A limit on the size of files stands for it.
    make_tar(tmp_path / "a.tar", {"small": b"1", "z/big": bytes(300_000)})
    script = textwrap.dedent("""
        import resource, signal, sys
        import imagearchive
        from imagearchive.archive.extract import extract
        archive = imagearchive.open(sys.argv[1])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            extract(archive, sys.argv[2])
        except OSError as error:
            print(error.strerror)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.tar", tmp_path / "out"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"File too large\n"
    assert unfinished(tmp_path, "out") == {"small": b"1"}


def test_extract_leaves_nothing_if_nothing_could_be_extracted(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x", random.Random(0).randbytes(500))
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[100] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(raw)
    with imagearchive.open(tmp_path / "a.zip") as archive, pytest.raises(CorruptArchiveError):
        extract(archive, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["a.idx.npy", "a.zip"]
