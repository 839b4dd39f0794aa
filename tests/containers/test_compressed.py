"""Archives that are compressed as a whole: all members, any order, damage, several streams."""

import bz2
import gzip
import io
import logging
import lzma
import multiprocessing
import os
import pickle
import random
import re
import struct
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from support.compressed import COMPRESS, bgzip, tar_of, zstd_frames
from support.deflate import photo
from support.files import bytes_read
from support.threads import run_in_threads

import imagearchive
from imagearchive.errors import (
    CorruptArchiveError,
    CorruptIndexError,
    LimitError,
    MissingDependencyError,
    StaleIndexError,
    UnsupportedArchiveError,
)
from imagearchive.index.table import IndexTable
from imagearchive.storage import xz
from imagearchive.storage.gzip import GzipFormat
from imagearchive.storage.local import MemoryStorage

compressions = pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)

MEMBERS = {f"c{i % 3}/{i:03}.jpg": photo(1000 + 3_000 * (i % 20), i) for i in range(40)}


@pytest.fixture(scope="module")
def plain():
    return tar_of(MEMBERS)


@compressions
def test_compressed_tar_has_the_members_of_the_plain_one(compress, plain, tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(compress(plain))
    for _ in ("built", "saved"):
        with imagearchive.open(path) as archive:
            assert list(archive) == sorted(MEMBERS, key=list(archive).index)
            assert dict(archive) == MEMBERS
            order = random.Random(3).sample(list(MEMBERS), len(MEMBERS))
            assert [archive[name] for name in order] == [MEMBERS[name] for name in order]
    assert sorted(os.listdir(tmp_path)) == ["x.tar.gz", "x.tar.idx.npy"]


@compressions
@pytest.mark.parametrize("storage", ["mmap", "pread", "memory"])
def test_compressed_tar_any_storage_is_read(compress, plain, storage, tmp_path):
    path = tmp_path / "x.tar"  # whatever its name
    path.write_bytes(compress(plain))
    with imagearchive.open(path, storage=storage) as archive:
        assert dict(archive) == MEMBERS


@settings(max_examples=30)
@given(st.data())
def test_compressed_tar_any_content_is_read(data):
    names = st.text("abc./é", min_size=1, max_size=120).filter(lambda n: not set(n) <= set("./"))
    members = data.draw(st.dictionaries(names, st.binary(max_size=3000), max_size=8))
    variant = data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    tar = tar_of(members, format=variant)
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder, "a.tar"), Path(folder, "b.tar.gz")
        one.write_bytes(tar)
        two.write_bytes(data.draw(st.sampled_from(list(COMPRESS.values())))(tar))
        with imagearchive.open(one) as expected, imagearchive.open(two) as found:
            assert list(found) == list(expected)
            assert dict(found) == dict(expected)


def test_compressed_zip_is_read(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for name, data in MEMBERS.items():
            method = zipfile.ZIP_DEFLATED if "c1" in name else zipfile.ZIP_STORED
            writer.writestr(name, data, method)
    path = tmp_path / "x.zip.gz"
    path.write_bytes(gzip.compress(file.getvalue()))
    with imagearchive.open(path) as archive:
        assert dict(archive) == MEMBERS


@pytest.mark.parametrize("name", ["images.npy.gz", "images.npy"])
def test_compressed_array_is_an_archive_of_one_member(name, tmp_path):
    array = np.arange(60_000).reshape(200, 300)
    file = io.BytesIO()
    np.save(file, array)
    path = tmp_path / name
    path.write_bytes(gzip.compress(file.getvalue()))
    with imagearchive.open(path) as archive:
        assert list(archive) == ["images.npy"]
        assert archive["images.npy"] == file.getvalue()
        assert (np.load(archive.open("images.npy")) == array).all()


def test_compressed_text_is_refused(tmp_path):
    path = tmp_path / "notes.txt.gz"
    path.write_bytes(gzip.compress(b"to do: nothing"))
    with pytest.raises(UnsupportedArchiveError, match=r"gzip data, but neither .*b'to do: n'"):
        imagearchive.open(path)


def test_compressed_several_archives_are_read_as_one(tmp_path):
    parts = {}
    for number, compress in enumerate([gzip.compress, bytes, bgzip]):
        members = {f"{number}/{name}": data for name, data in MEMBERS.items()}
        (tmp_path / f"{number}.tar").write_bytes(compress(tar_of(members)))
        parts |= members
    for _ in ("built", "saved"):
        with imagearchive.open(str(tmp_path / "{0..2}.tar")) as archive:
            assert dict(archive) == parts


def test_compressed_touched_archive_keeps_its_index_and_a_changed_one_does_not(plain, tmp_path):
    path, ipath = tmp_path / "x.tar.gz", tmp_path / "x.tar.idx.npy"
    path.write_bytes(gzip.compress(plain, mtime=1))
    imagearchive.open(path, ipath=ipath).close()
    os.utime(path, (1, 1))
    imagearchive.open(path, ipath=ipath).close()
    changed = path.read_bytes()
    path.write_bytes(changed[:1000] + changed[1000:10_000][::-1] + changed[10_000:])
    with pytest.raises(StaleIndexError):
        imagearchive.open(path, ipath=ipath)


# ---------------------------------------------------------------- damage


def test_compressed_truncated_file_is_refused_or_served_in_part(plain, tmp_path):
    whole = gzip.compress(plain)
    path = tmp_path / "x.tar.gz"
    for length in range(len(whole) - 1, 600, -len(whole) // 25):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptArchiveError, match=r"x\.tar\.gz"):
            imagearchive.open(path)
        with imagearchive.open(path, strict=False) as archive:
            found = dict(archive)
        assert found.items() <= MEMBERS.items()
        assert length < len(whole) // 2 or len(found) > 20


def test_compressed_truncated_tar_in_a_whole_gzip_file_is_refused(plain, tmp_path):
    path = tmp_path / "x.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        infos = tar.getmembers()
    for cut in (512, infos[3].offset_data + 10, infos[3].offset + 300, infos[-1].offset_data):
        path.write_bytes(gzip.compress(plain[:cut]))
        (tmp_path / "y.tar").write_bytes(plain[:cut])
        with pytest.raises(CorruptArchiveError) as expected:
            imagearchive.open(tmp_path / "y.tar")
        with pytest.raises(CorruptArchiveError) as found:
            imagearchive.open(path)
        assert str(found.value).partition("offset")[2] == str(expected.value).partition("offset")[2]
        with (
            imagearchive.open(path, strict=False) as partly,
            imagearchive.open(tmp_path / "y.tar", strict=False) as plain_partly,
        ):
            assert dict(partly) == dict(plain_partly)


def test_compressed_wrong_checksum_names_the_members_it_covers(plain, tmp_path):
    half = (len(plain) // 2) & ~511
    second = bytearray(gzip.compress(plain[half:]))
    second[-8] ^= 1
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(plain[:half]) + second)
    with pytest.raises(
        CorruptArchiveError, match=r"damage is somewhere in the \d+ members from .* to"
    ) as error:
        imagearchive.open(path)
    first, *_, last = MEMBERS
    assert last in str(error.value)
    assert first not in str(error.value)
    with imagearchive.open(path, strict=False) as archive:
        assert dict(archive) == MEMBERS


def test_compressed_checksum_error_crosses_processes():
    damaged = bytearray(gzip.compress(b"x" * 100))
    damaged[-8] ^= 1
    stream = GzipFormat().stream(MemoryStorage(bytes(damaged)), 0, len(damaged), 100, "x.gz")
    with pytest.raises(CorruptArchiveError, match="incorrect data check") as error:
        stream.whole()
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value)
    # As PyTorch raises the errors of its workers.
    assert str(type(error.value)(message="other")) == "other"


@pytest.mark.parametrize("number", ["-1", "x", "1.5"])
def test_compressed_file_of_an_impossible_number_in_an_index_is_refused(plain, number, tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(plain))
    table = IndexTable.build(path)
    table.meta["derived"] = {number: table.meta["derived"]["0"]}
    with pytest.raises(CorruptIndexError, match="compressed files"):
        table.save(tmp_path / "other.idx.npy")


CHECKED = [name for name in COMPRESS if name not in ("zstd", "gzip, zeros at the end")]


@pytest.mark.parametrize("name", CHECKED)
def test_compressed_flipped_bits_are_refused(name, tmp_path):
    rng = random.Random(5)
    path = tmp_path / "x.tar"
    members = {name: MEMBERS[name] for name in list(MEMBERS)[:12]}
    whole = COMPRESS[name](tar_of(members))
    for _ in range(25):
        damaged = bytearray(whole)
        damaged[rng.randrange(20, len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            with imagearchive.open(path) as archive:
                # Fields that say nothing about the content, such as the time of a gzip member.
                assert dict(archive) == members
        except (CorruptArchiveError, UnsupportedArchiveError):
            assert os.listdir(tmp_path) == ["x.tar"]
        else:
            (tmp_path / "x.idx.npy").unlink()


@pytest.mark.parametrize("name", CHECKED)
def test_compressed_truncated_streams_are_refused(name, tmp_path):
    path = tmp_path / "x.tar"
    whole = COMPRESS[name](tar_of({name: MEMBERS[name] for name in list(MEMBERS)[:12]}))
    for length in range(12, len(whole) - 30, len(whole) // 15):
        path.write_bytes(whole[:length])
        with pytest.raises((CorruptArchiveError, UnsupportedArchiveError), match=r"x\.tar"):
            imagearchive.open(path)


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("x.tar.xz", lambda data: lzma.compress(data, preset=0)),
        ("x.tar.zst", zstandard.compress),
        ("y.tar.zst", lambda data: zstd_frames(data, 1 << 30, write_content_size=False)),
    ],
)
def test_compressed_data_in_one_large_piece_is_refused(name, compress, tmp_path):
    path = tmp_path / name
    path.write_bytes(compress(tar_of({"photo": photo(100_000), "zeros": bytes(65 << 20)})))
    with pytest.raises(
        UnsupportedArchiveError, match=r"one piece.* Convert it .*; pass decompress_to="
    ):
        imagearchive.open(path)


def zstd_zeros(count):
    """Return a frame of blocks of four bytes, each of which stands for 128 KiB of zeros."""
    block = (131_072 << 3 | 2).to_bytes(3, "little") + b"\0"
    return struct.pack("<I", 0xFD2FB528) + b"\0\x58" + block * count + b"\1\0\0"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.tar.gz", gzip.compress(bytes(80 << 20))),
        ("x.tar.bz2", bz2.compress(bytes(20 << 20)) * 4),
        ("x.tar.xz", lzma.compress(bytes(20 << 20)) * 4),
        ("x.tar.zst", zstd_zeros(160) * 4),
    ],
    ids=["gzip", "bzip2", "xz", "zstd"],
)
def test_compressed_zeros_beyond_the_ratio_are_refused(name, data, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    command = re.escape("more than 1000 times as many; if you trust the file, decompress it first")
    with pytest.raises(LimitError, match=rf"{command}: \S+ -dk? .*{name}"):
        imagearchive.open(path)
    assert os.listdir(tmp_path) == [name]


def test_compressed_zeros_up_to_64_mib_are_read(tmp_path):
    path = tmp_path / "x.tar.bz2"
    data = tar_of({"zeros": bytes(60 << 20)})
    path.write_bytes(bz2.compress(data))
    with imagearchive.open(path) as archive:
        assert len(archive["zeros"]) == 60 << 20


def xz_number(value):
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*octets, value])


def xz_with_index(records, body=b""):
    """Return an xz stream with the records of an index, whose checksums match."""
    head = b"\xfd7zXZ\0\0\1" + struct.pack("<I", zlib.crc32(b"\0\1"))
    index = b"\0" + records
    index += bytes(-len(index) % 4)
    index += struct.pack("<I", zlib.crc32(index))
    tail = struct.pack("<I", len(index) // 4 - 1) + b"\0\1"
    return head + body + index + struct.pack("<I", zlib.crc32(tail)) + tail + b"YZ"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (xz_with_index(xz_number(1 << 60)), CorruptArchiveError),
        (xz_with_index(b"\1\x08" + xz_number(1 << 60), bytes(8)), UnsupportedArchiveError),
        (xz_with_index(b"\1" + xz_number(1 << 60) + b"\1", bytes(8)), CorruptArchiveError),
        (xz_with_index(xz_number(1_100_000) + b"\x08\0" * 1_100_000), LimitError),
    ],
    ids=["count", "output size", "stored size", "many blocks"],
)
def test_compressed_xz_index_with_huge_claims_is_refused(data, error, tmp_path):
    path = tmp_path / "x.tar.xz"
    path.write_bytes(data)
    with pytest.raises(error, match=r"x\.tar\.xz: "):
        imagearchive.open(path)


def test_compressed_xz_many_empty_streams_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(xz, "MAX_BLOCKS", 1000)
    path = tmp_path / "x.tar.xz"
    path.write_bytes(xz_with_index(b"\0") * 1001)
    with pytest.raises(LimitError, match="more than 1000 blocks and streams"):
        imagearchive.open(path)


def test_compressed_zstd_frame_with_a_huge_size_is_refused(tmp_path):
    path = tmp_path / "x.tar.zst"
    claim = struct.pack("<IBBQ", 0xFD2FB528, 0xC0, 0x58, 1 << 60)
    path.write_bytes(claim + b"\1\0\0")
    with pytest.raises(UnsupportedArchiveError, match="in one piece"):
        imagearchive.open(path)


def test_compressed_zstd_without_its_package_is_explained(tmp_path, monkeypatch):
    path = tmp_path / "x.tar.zst"
    path.write_bytes(zstandard.compress(tar_of({"a": b"b"})))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingDependencyError, match=r"imagearchive\[compressed\]"):
        imagearchive.open(path)


def test_compressed_garbage_after_the_data_is_ignored_with_a_warning(plain, tmp_path, caplog):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(plain) + b"garbage")
    with caplog.at_level(logging.WARNING), imagearchive.open(path) as archive:
        assert dict(archive) == MEMBERS
    assert "7 bytes after the last gzip member are ignored" in caplog.text


# ---------------------------------------------------------------- threads and processes


def _read_all(path, order):
    with imagearchive.open(path) as archive:
        return [archive[name] for name in order] == [MEMBERS[name] for name in order]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_compressed_processes_read_by_themselves(plain, method, tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(plain))
    imagearchive.open(path).close()
    orders = [random.Random(seed).sample(list(MEMBERS), len(MEMBERS)) for seed in range(2)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(_read_all, [(path, order) for order in orders]) == [True, True]


def test_compressed_threads_share_an_archive(plain, tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(plain))
    with imagearchive.open(path) as archive:

        def work(seed):
            for name in random.Random(seed).sample(list(MEMBERS), len(MEMBERS)):
                assert archive[name] == MEMBERS[name]

        run_in_threads(work, 5)


def test_compressed_reading_in_order_decompresses_once(plain, tmp_path, monkeypatch):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(plain))
    imagearchive.open(path).close()
    with imagearchive.open(path) as archive:
        before = bytes_read()
        for position in range(len(archive)):
            archive.read(position)
        assert bytes_read() - before < 1.1 * os.path.getsize(path) + (1 << 18)


@pytest.mark.parametrize("kind", ["frames", "skippable"])
def test_compressed_zstd_of_empty_frames_is_read(kind, tmp_path, plain):
    empty = {
        "frames": b"\x28\xb5\x2f\xfd\x00\x58\x01\x00\x00",
        "skippable": struct.pack("<II", 0x184D2A50, 0),
    }[kind]
    path = tmp_path / "x.tar.zst"
    path.write_bytes(empty * 9999 + zstandard.compress(plain) + empty * 7)
    with imagearchive.open(path) as archive:
        assert dict(archive) == MEMBERS
