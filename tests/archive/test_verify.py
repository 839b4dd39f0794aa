"""Verification finds what is damaged."""

import dataclasses
import errno
import gzip
import io
import os
import random
import resource
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import barecat
import numpy as np
import pytest
from support.files import limited, make_tar
from support.rendering import needs_jpeg

import imagearchive
from imagearchive.archive.verify import verify
from imagearchive.codecs import encode
from imagearchive.errors import OptionTypeError
from imagearchive.storage.limits import Limits


def test_verify_raises_faults_of_the_machine(tmp_path, monkeypatch):
    folder = tmp_path / "plain"
    folder.mkdir()
    for number in range(100):
        (folder / str(number)).write_bytes(b"x")
    with imagearchive.open(folder) as archive:
        highest = max(int(number) for number in os.listdir("/proc/self/fd"))
        held = [os.open("/dev/null", os.O_RDONLY)]
        # Files that were closed before have left free numbers below.
        while held[-1] <= highest:
            held.append(os.open("/dev/null", os.O_RDONLY))
        with (
            limited(resource.RLIMIT_NOFILE, held[-1] + 1),
            pytest.raises(OSError, match="Too many open files"),
        ):
            verify(archive)
        for fd in held:
            os.close(fd)
        assert not verify(archive).failures
    make_tar(tmp_path / "a.tar", {"x": b"1", "y": b"2"})
    for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):

        def fail(self, position, number=number):
            raise OSError(number, os.strerror(number))

        with imagearchive.open(tmp_path / "a.tar") as archive, monkeypatch.context() as patch:
            patch.setattr(imagearchive.Archive, "read_unverified", fail)
            with pytest.raises(OSError, match=os.strerror(number)) as caught:
                verify(archive)
            assert caught.value.filename == str(tmp_path / "a.tar")
    # A file that cannot be read is one.
    with imagearchive.open(folder) as archive:
        (folder / "50").unlink()
        (failure,) = (item for item in verify(archive).failures if item.position >= 0)
        assert failure.name == "50"
        assert failure.reason.lower().startswith("no such file")


def test_verify_reasons_do_not_repeat_the_name(tmp_path):
    content = {
        "cut.jpg": encode("a.jpg", np.zeros((40, 50, 3), np.uint8))[:200],
        "big.png": encode("a.png", np.zeros((40, 50, 3), np.uint8)),
        "x.json": b"{",
        "new\nline.npy": b"zz",
        "n" * 500 + ".npy": b"zz",
        "in.npz": b"PK",
        "ok.pkl": b"x",
    }
    make_tar(tmp_path / "a.tar", content)
    with imagearchive.open(tmp_path / "a.tar") as archive:
        found = verify(archive, decode=True, limits=Limits(max_pixels=1999))
        assert [failure.name for failure in found.failures] == [*content][:-1]
        for failure in found.failures:
            assert failure.name not in failure.reason
            assert "a.tar" not in failure.reason
            assert " at 0x" not in failure.reason
        assert "pass max_pixels to raise the limit (now 1999)" in found.failures[1].reason
        found = verify(archive, decode=True, limits=Limits(max_pixels=2000))
        assert found.failures[1].name == "x.json"
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x.bin", bytes(10_000))
    raw = bytearray((tmp_path / "b.zip").read_bytes())
    raw[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "b.zip").write_bytes(raw)
    with imagearchive.open(tmp_path / "b.zip") as archive:
        (failure,) = verify(archive).failures
    assert failure.name == "x.bin"
    assert "b.zip" not in failure.reason
    assert "x.bin" not in failure.reason


def test_verify_decodes_every_array_of_an_npz(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([print], dtype=object), b=np.arange(1000))
    raw = bytearray(buffer.getvalue())
    raw[raw.index(b"b.npy") + 30] ^= 0xFF
    make_tar(tmp_path / "a.tar", {"x.npz": bytes(raw)})
    with imagearchive.open(tmp_path / "a.tar") as archive:
        found = verify(archive, decode=True)
    assert [failure.name for failure in found.failures] == ["x.npz"]
    assert "array 'b'" in found.failures[0].reason


def test_verify_archive_without_its_end_is_a_failure(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for number in range(10):
            packed.writestr(str(number), b"x" * 1000)
    raw = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(raw[:4500])
    with imagearchive.open(tmp_path / "a.zip", strict=False) as archive:
        found = verify(archive)
    assert found.failures[0].position == -1
    assert found.failures[0].name == str(tmp_path / "a.zip")
    assert not found.failures[0].reason.startswith(str(tmp_path))


def test_verify_good_archives(tmp_path):
    content = {"a.png": encode("a.png", np.zeros((4, 5, 3), np.uint8)), "b.json": b"{}", "c": b"?"}
    make_tar(tmp_path / "a.tar", content)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in content.items():
            packed.writestr(name, data)
    with barecat.Barecat(str(tmp_path / "c.barecat"), readonly=False) as cat:
        for name, data in content.items():
            cat[name] = data
    for name, checked in (("a.tar", 0), ("b.zip", 3), ("c.barecat", 3)):
        with imagearchive.open(tmp_path / name) as archive:
            found = verify(archive, decode=True)
        assert not found.failures
        assert (found.files, found.checked, found.decoded) == (3, checked, 2)
        assert found.bytes == sum(map(len, content.values()))
    with imagearchive.open([tmp_path / "a.tar", tmp_path / "b.zip"]) as archive:
        found = verify(archive)
    assert not found.failures
    assert found.checked == 3


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_verify_finds_flipped_bits_in_a_zip(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as packed:
        for number in range(100):
            packed.writestr(f"{number}", random.Random(number).randbytes(300))
        starts = [info.header_offset for info in packed.infolist()]
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    for number in (3, 70):
        raw[starts[number] + 150] ^= 1
    (tmp_path / "a.zip").write_bytes(raw)
    with imagearchive.open(tmp_path / "a.zip") as archive:
        found = verify(archive)
    assert [(failure.position, failure.name) for failure in found.failures] == [
        (3, "3"),
        (70, "70"),
    ]
    assert found.files == 100


def test_verify_finds_flipped_bits_in_a_barecat(tmp_path):
    path = str(tmp_path / "c.barecat")
    with barecat.Barecat(path, readonly=False) as cat:
        cat["a"] = b"1" * 100
        cat["b"] = b"2" * 100
    shard = tmp_path / "c.barecat-shard-00000"
    raw = bytearray(shard.read_bytes())
    raw[150] ^= 1
    shard.write_bytes(raw)
    with imagearchive.open(path) as archive:
        assert [failure.name for failure in verify(archive).failures] == ["b"]


def test_verify_finds_images_that_cannot_be_decoded(tmp_path):
    good = encode("x.png", np.zeros((40, 50, 3), np.uint8))
    make_tar(
        tmp_path / "a.tar",
        {
            "a.png": good,
            "b.png": good[:-30],
            "c.json": b"{",
            "d.pkl": b"never loaded",
            "e.bin": b"",
        },
    )
    with imagearchive.open(tmp_path / "a.tar") as archive:
        assert not verify(archive).failures
        found = verify(archive, decode=True)
    assert [failure.name for failure in found.failures] == ["b.png", "c.json"]
    assert found.decoded == 1


@needs_jpeg
def test_verify_finds_damaged_images_that_pillow_decodes(tmp_path):
    good = encode("x.jpg", np.zeros((40, 50, 3), np.uint8))
    make_tar(tmp_path / "a.tar", {"a.jpg": good, "b.jpg": good[:-40] + b"\xff\xd9"})
    with imagearchive.open(tmp_path / "a.tar") as archive:
        assert not verify(archive).failures
        (failure,) = verify(archive, decode=True).failures
    assert failure.name == "b.jpg"
    assert "damaged" in failure.reason


def test_verify_finds_damaged_headers_and_truncation(tmp_path):
    make_tar(tmp_path / "a.tar", {f"{i}": bytes(600) for i in range(9)})
    raw = bytearray((tmp_path / "a.tar").read_bytes())
    damaged = bytearray(raw)
    damaged[5 * 1536 + 3] ^= 1
    for data in (damaged, raw[: 7 * 1536 - 700]):
        (tmp_path / "b.tar").write_bytes(data)
        with imagearchive.open(tmp_path / "b.tar", strict=False, overwrite_index=True) as archive:
            found = verify(archive)
        assert found.failures
        assert found.failures[0].position == -1
        assert "b.tar" in found.failures[0].name


def test_verify_finds_an_index_of_another_archive(tmp_path):
    make_tar(tmp_path / "a.tar", {f"{i:03d}": b"x" * 10 for i in range(300)})
    status = os.stat(tmp_path / "a.tar")
    with imagearchive.open(tmp_path / "a.tar") as archive:
        assert not verify(archive).failures
    # The same size and time, so that opening sees no difference.
    make_tar(tmp_path / "a.tar", {f"{i + 1:03d}": b"x" * 10 for i in range(300)})
    os.utime(tmp_path / "a.tar", ns=(status.st_atime_ns, status.st_mtime_ns))
    with imagearchive.open(tmp_path / "a.tar") as archive:
        found = verify(archive)
    assert "does not describe it" in found.failures[0].reason


def test_verify_large_members(tmp_path):
    data = np.random.default_rng(0).bytes(9 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("big", data)
    with imagearchive.open(tmp_path / "a.zip") as archive:
        assert not verify(archive).failures
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[-2_000_000] ^= 4
    (tmp_path / "a.zip").write_bytes(raw)
    with imagearchive.open(tmp_path / "a.zip") as archive:
        assert [failure.name for failure in verify(archive).failures] == ["big"]


@pytest.fixture
def zips(tmp_path):
    """Four ZIPs: the second has a wrong checksum, the third was replaced by other data."""
    for number in range(4):
        with zipfile.ZipFile(tmp_path / f"z-{number}.zip", "w") as file:
            for member in range(3):
                file.writestr(f"{number}/{member}.txt", f"content {number}{member}")
    data = bytearray((tmp_path / "z-1.zip").read_bytes())
    data[data.index(b"content 12")] ^= 1
    (tmp_path / "z-1.zip").write_bytes(data)
    return str(tmp_path / "z-{0..3}.zip")


def test_verify_in_processes_finds_what_it_finds_in_threads(zips):
    with imagearchive.open(zips) as archive:
        done = []
        here, there = verify(archive), verify(archive, executor=2, progress=done.append)
    assert there == dataclasses.replace(here, left_out=there.left_out)
    assert [(one.position, one.name) for one in there.failures] == [(5, "1/2.txt")]
    assert (there.files, there.checked, done) == (12, 12, [3, 3, 3, 3])


def test_verify_on_executor_names_archives_that_cannot_be_read(zips, tmp_path):
    with imagearchive.open(zips) as archive:
        (tmp_path / "z-0.zip").write_bytes(b"not a ZIP")
        (tmp_path / "z-2.zip").unlink()
        with ThreadPoolExecutor(2) as executor:
            found = verify(archive, executor=executor)
    assert found.files == 6
    names = [os.path.basename(one.name) for one in found.failures]
    assert names == ["z-0.zip", "z-2.zip", "2.txt"]
    assert found.failures[2].position == 5


def test_verify_on_executor_compares_the_joined_index(tmp_path):
    for number in range(2):
        make_tar(tmp_path / f"t-{number}.tar", {"a.txt": b"1", "b.txt": b"2"})
    ipath = tmp_path / "all.idx.npy"
    with (
        imagearchive.open(tmp_path / "t-{0..1}.tar", ipath=ipath) as archive,
        ThreadPoolExecutor(2) as executor,
    ):
        assert not verify(archive, executor=executor).failures
        make_tar(tmp_path / "t-1.tar", {"c.txt": b"1", "b.txt": b"2"})
        (failure,) = verify(archive, executor=executor).failures
    assert failure.name == str(tmp_path / "t-1.tar")
    assert "its index does not describe it" in failure.message


def test_verify_on_executor_takes_split_bins_and_archives_inside_archives(tmp_path):
    make_tar(tmp_path / "inner.tar", {"a.txt": b"1", "b.txt": b"2"})
    inner = (tmp_path / "inner.tar").read_bytes()
    make_tar(tmp_path / "outer.tar", {"x.tar": inner, "y.tar.gz": gzip.compress(inner)})
    imagearchive.write_split_data(tmp_path / "bins", [b"1", b"22", b"333"], 2)
    paths = [tmp_path / "bins", tmp_path / "outer.tar", tmp_path / "inner.tar"]
    with imagearchive.open(paths, nested=True) as archive, ThreadPoolExecutor(1) as executor:
        done = []
        found = verify(archive, executor=executor, progress=done.append)
    assert (found.files, found.failures, done) == (9, [], [3, 4, 2])


@pytest.mark.parametrize(
    "call",
    [
        imagearchive.verify,
        partial(imagearchive.extract, target="out"),
        partial(imagearchive.convert, target="out.zip"),
    ],
)
def test_functions_of_archives_given_a_path_say_to_open_it(call, tmp_path):
    path = make_tar(tmp_path / "a.tar", {"a.txt": b"a"})
    with pytest.raises(
        OptionTypeError, match=r"archive must be an open Archive, got .*open\(path\)"
    ):
        call(path)
