"""``decompress_to=``: copies of compressed archives, made once, whole, and found again."""

import bz2
import contextlib
import fcntl
import gzip
import io
import lzma
import multiprocessing
import os
import pickle
import pty
import re
import shlex
import signal
import struct
import termios
import time

import numpy as np
import pytest
import zstandard
from support.command_line import start_command
from support.compressed import COMPRESS, tar_of
from support.deflate import photo
from support.files import bytes_read
from support.images import encode

import imagearchive
from imagearchive import DataLoader, ImageArchive, LazyNPZDataset
from imagearchive.cli import main
from imagearchive.containers.registry import scan_location
from imagearchive.errors import (
    CorruptArchiveError,
    LimitError,
    OptionError,
    UnsupportedArchiveError,
)
from imagearchive.storage.location import locate

MEMBERS = {f"c{i % 3}/{i:03}.jpg": photo(1000 + 900 * i, i) for i in range(30)}


@pytest.fixture(scope="module")
def one_piece():
    """A TAR in one xz block, too long to be entered in its middle."""
    return lzma.compress(tar_of({**MEMBERS, "zeros": bytes(65 << 20)}), preset=0)


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)
def test_decompress_to_any_format_reads_a_copy(compress, tmp_path):
    path, folder = tmp_path / "x.tar.gz", tmp_path / "plain"
    path.write_bytes(compress(tar_of(MEMBERS)))
    for _ in ("made", "found"):
        with imagearchive.open(path, decompress_to=folder) as archive:
            assert dict(archive) == MEMBERS
            assert archive.table.derived == {}
            assert imagearchive.verify(archive).failures == []
            with pickle.loads(pickle.dumps(archive)) as again:
                assert dict(again) == MEMBERS
    (copy,) = folder.glob("*.tar")
    assert copy.read_bytes() == tar_of(MEMBERS)
    assert len(os.listdir(folder)) == 2  # and its index
    assert sorted(os.listdir(tmp_path)) == ["plain", "x.tar.gz"]


def test_decompress_to_found_again_reads_little(one_piece, tmp_path):
    path = tmp_path / "it's one.tar.xz"
    path.write_bytes(one_piece)
    imagearchive.open(path, decompress_to=tmp_path / "plain").close()
    before = bytes_read()
    imagearchive.open(path, decompress_to=tmp_path / "plain").close()
    assert bytes_read() - before < 100_000


def test_decompress_to_of_a_changed_archive_makes_another_copy(tmp_path):
    path, folder = tmp_path / "x.tar.gz", tmp_path / "plain"
    for number in range(3):
        path.write_bytes(gzip.compress(tar_of({"a": b"%d" % number}), mtime=0))
        os.utime(path, (1, 1))
        with imagearchive.open(path, decompress_to=folder) as archive:
            assert archive["a"] == b"%d" % number
    assert len(list(folder.glob("x-*.tar"))) == 3


def test_decompress_to_leaves_plain_archives_alone(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of(MEMBERS))
    with imagearchive.open(path, decompress_to=tmp_path / "plain") as archive:
        assert dict(archive) == MEMBERS
    assert not (tmp_path / "plain").exists()


def test_decompress_to_of_several_archives_reads_their_copies(tmp_path):
    parts = {}
    for number, compress in enumerate([gzip.compress, bytes, lzma.compress]):
        members = {f"{number}/{name}": data for name, data in MEMBERS.items()}
        (tmp_path / f"{number}.tar").write_bytes(compress(tar_of(members)))
        parts |= members
    pattern = str(tmp_path / "{0..2}.tar")
    for _ in ("made", "found"):
        with imagearchive.open(pattern, decompress_to=tmp_path / "plain") as archive:
            assert dict(archive) == parts


def test_one_piece_is_refused_with_its_size_and_two_ways_out(one_piece, tmp_path):
    path = tmp_path / "x.tar.xz"
    path.write_bytes(one_piece)
    size = len(lzma.decompress(one_piece))
    command = shlex.join(["imagearchive", "convert", str(path), str(path)[:-3]])
    ways = rf"takes {size} bytes .* Convert it first: {re.escape(command)}; pass decompress_to=DIR"
    with pytest.raises(UnsupportedArchiveError, match=ways):
        imagearchive.open(path)
    plain = tar_of({**MEMBERS, "zeros": bytes(65 << 20)})
    path.write_bytes(zstandard.ZstdCompressor(write_content_size=False).compress(plain))
    with pytest.raises(UnsupportedArchiveError, match=f"takes {len(plain)} bytes when"):
        imagearchive.open(path)


def test_convert_command_of_one_piece_writes_a_plain_archive(one_piece, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.tar.xz").write_bytes(one_piece)
    assert main(["convert", "-q", "x.tar.xz", "x.tar"]) == 0
    assert sorted(os.listdir(tmp_path)) == ["x.idx.npy", "x.tar", "x.tar.xz"]
    with imagearchive.open("x.tar") as archive:
        assert {name: archive[name] for name in MEMBERS} == MEMBERS


def test_commands_decompress_to_a_directory(one_piece, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.tar.xz").write_bytes(one_piece)
    assert main(["ls", "x.tar.xz"]) == 1
    assert "use --decompress-to DIR to keep" in capsys.readouterr().err
    for command in (["ls"], ["info"], ["verify", "-q"]):
        assert main([*command, "x.tar.xz", "--decompress-to", "plain"]) == 0
    assert len(list((tmp_path / "plain").glob("*.tar"))) == 1


def test_decompress_to_of_datasets_and_loaders(tmp_path):
    images = {f"c{i % 2}/{i}.png": encode(np.full((8, 8, 3), i, np.uint8), "PNG") for i in range(6)}
    path, folder = tmp_path / "x.tar.xz", tmp_path / "plain"
    path.write_bytes(lzma.compress(tar_of({**images, "labels.txt": b"c0/0.png 7\n"})))
    with ImageArchive(path, extensions=[".png"], decompress_to=folder) as dataset:
        assert dataset[3][1] == 1
        assert pickle.loads(pickle.dumps(dataset))[3][1] == 1
    inside = f"{path}/labels.txt"
    with ImageArchive(path, label_file=inside, extensions=[".png"], decompress_to=folder) as named:
        assert named[0][1] == 7
    with DataLoader(path, 7, decompress_to=folder) as loader:
        assert len(loader.dataset) == 6  # labels.txt is in no class
    assert len(list(folder.glob("*.tar"))) == 1
    with pytest.raises(OptionError, match="decompress_to= is for paths"):
        DataLoader([1, 2], decompress_to=folder)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("plain", [False, True])
def test_decompress_to_of_arrays_keeps_their_names(compress, plain, tmp_path):
    rows = np.arange(24_000, dtype=np.uint8).reshape(10, 20, 40, 3)
    lone, arrays = io.BytesIO(), io.BytesIO()
    np.save(lone, rows)
    np.savez(arrays, images=rows, labels=np.arange(10))
    (tmp_path / "images.npy.gz").write_bytes(compress(lone.getvalue()))
    (tmp_path / "x.npz.gz").write_bytes(compress(arrays.getvalue()))
    options = {"decompress_to": tmp_path / "plain"} if plain else {}
    with LazyNPZDataset(tmp_path / "images.npy.gz", **options) as dataset:
        assert dataset.keys == ("images",)
        assert np.array_equal(dataset[4]["image"], rows[4])
    with LazyNPZDataset(tmp_path / "x.npz.gz", **options) as dataset:
        assert dataset[3]["labels"] == 3
    for name in ("images.npy.gz", "x.npz.gz"):
        with DataLoader(tmp_path / name, 10, **options) as loader:
            assert isinstance(loader.dataset, LazyNPZDataset)
            (batch,) = loader
            assert np.array_equal(batch[7]["image"], rows[7])


def test_decompress_to_of_a_single_file_that_is_no_archive_reads_it_compressed(tmp_path):
    idx = b"\0\0\x08\1" + (5).to_bytes(4, "big") + b"abcde"
    (tmp_path / "labels.gz").write_bytes(gzip.compress(idx))
    with imagearchive.open(tmp_path / "labels.gz", decompress_to=tmp_path / "plain") as archive:
        assert dict(archive) == {"labels": idx}
    assert not (tmp_path / "plain").exists()


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("cut", [5, 20, 1000])
def test_decompress_to_of_a_truncated_archive_leaves_nothing(cut, tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(tar_of(MEMBERS))[:-cut])
    with pytest.raises(CorruptArchiveError, match=r"x\.tar\.gz"):
        imagearchive.open(path, decompress_to=tmp_path / "plain")
    assert os.listdir(tmp_path / "plain") == []


def test_decompress_to_with_a_wrong_checksum_leaves_nothing(tmp_path):
    data = bytearray(gzip.compress(tar_of(MEMBERS)))
    data[-8] ^= 1
    (tmp_path / "x.tar.gz").write_bytes(data)
    with pytest.raises(CorruptArchiveError, match="incorrect data check"):
        imagearchive.open(tmp_path / "x.tar.gz", decompress_to=tmp_path / "plain")
    assert os.listdir(tmp_path / "plain") == []


def test_decompress_to_of_zeros_beyond_the_ratio_is_refused(tmp_path):
    (tmp_path / "x.tar.xz").write_bytes(lzma.compress(bytes(80 << 20)))
    with pytest.raises(LimitError, match="more than 1000 times as many"):
        imagearchive.open(tmp_path / "x.tar.xz", decompress_to=tmp_path / "plain")
    assert os.listdir(tmp_path / "plain") == []


def _read(path, folder):
    with imagearchive.open(path, decompress_to=folder) as archive:
        return dict(archive) == MEMBERS


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_decompress_to_in_processes_makes_one_copy(method, tmp_path):
    path, folder = tmp_path / "x.tar.xz", tmp_path / "plain"
    path.write_bytes(lzma.compress(tar_of(MEMBERS)))
    with multiprocessing.get_context(method).Pool(3) as pool:
        assert pool.starmap(_read, [(path, folder)] * 3) == [True] * 3
    assert len(os.listdir(folder)) == 2


@pytest.fixture(scope="module")
def slow():
    """An archive that takes seconds to decompress."""
    return bz2.compress(tar_of(MEMBERS)[:-1024]) * 300


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "arguments",
    [["ls", "--decompress-to", "plain"], ["index"], ["index", "--ipath", "all.npy", "y.tar.bz2"]],
)
def test_interrupt_while_decompressing_leaves_nothing(
    signum, arguments, slow, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").mkdir()
    for name in ("x.tar.bz2", "y.tar.bz2"):
        (tmp_path / name).write_bytes(slow)
    with start_command(*arguments, "x.tar.bz2", env={**os.environ}) as process:
        deadline = time.monotonic() + 30
        while not _has_open(process.pid, "x.tar.bz2"):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.2)
        process.send_signal(signum)
        process.communicate(timeout=30)
    assert process.returncode == 128 + signum
    assert os.listdir("plain") == []
    assert sorted(os.listdir(tmp_path)) == ["plain", "x.tar.bz2", "y.tar.bz2"]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [(["ls", "--decompress-to", "plain"], b"decompressing x.tar.bz2"), (["index"], b"indexing x")],
)
def test_progress_on_a_terminal_is_a_bar(arguments, shown, slow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.tar.bz2").write_bytes(slow)
    terminal, end = pty.openpty()
    # A terminal of no size shows no bar.
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with start_command(*arguments, "x.tar.bz2", env={**os.environ}, stderr=end) as process:
        os.close(end)
        seen = b""
        with contextlib.suppress(OSError):
            while shown not in seen and (data := os.read(terminal, 4096)):
                seen += data
        process.terminate()
        # What it clears from the terminal has to be read.
        with contextlib.suppress(OSError):
            while os.read(terminal, 4096):
                pass
    os.close(terminal)
    assert shown in seen
    assert process.returncode == 128 + signal.SIGTERM


def test_progress_counts_stored_bytes_and_may_stop_a_scan(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(tar_of({"noise": os.urandom(5 << 20)})))
    seen = []
    scan_location(locate(path), progress=lambda done, total: seen.append((done, total)))
    size = path.stat().st_size
    assert {total for _, total in seen} == {size}
    done = [done for done, _ in seen]
    assert done == sorted(done)
    assert size - 20_000 < done[-1] <= size

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_location(locate(path), progress=stop)


def _has_open(pid, name):
    try:
        files = [
            os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")
        ]
    except FileNotFoundError:
        return False
    return any(file.endswith(name) for file in files)


def test_decompress_to_array_in_short_parts_is_not_copied(tmp_path):
    path, folder = tmp_path / "x.npy.gz", tmp_path / "plain"
    target = io.BytesIO()
    np.save(target, np.arange(1000))
    data = target.getvalue()
    path.write_bytes(gzip.compress(data[:3]) + gzip.compress(data[3:]))
    with imagearchive.open(path, decompress_to=folder) as archive:
        assert dict(archive) == {"x.npy": data}
    assert not folder.exists()
