"""Broken and malicious NPZ files."""

import functools
import os
import zipfile

import numpy as np
import pytest
from support.npz import SAVERS, boxes_of, equal
from support.object_arrays import objects
from support.threads import run_in_threads

from imagearchive import LazyNPZDataset
from imagearchive.errors import (
    CorruptArchiveError,
    ImageArchiveError,
    OptionError,
    UnsafePickleError,
    UnsupportedArchiveError,
)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("saver", SAVERS)
def test_npz_pickle_that_would_run_code_raises(tmp_path, monkeypatch, saver):
    monkeypatch.chdir(tmp_path)
    SAVERS[saver]("x.npz", images=np.zeros((2, 3)), bboxes=objects([[1], Evil()]))
    found = LazyNPZDataset("x.npz")
    for use in (lambda: found[0], lambda: found.get_batch([0]), lambda: found.arrays["bboxes"]):
        with pytest.raises(UnsafePickleError, match=r"x\.npz.*bboxes\.npy.*posix\.mkdir"):
            use()
    assert not os.path.exists("executed")
    assert LazyNPZDataset("x.npz", keys=["images"])[1]["image"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("storage", ["mmap", "pread"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("character", [0x110000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_npz_text_outside_unicode_raises(tmp_path, storage, order, character):
    path = tmp_path / "x.npz"
    texts = np.array([65, 66, character, 67], f"{order}u4").view(f"{order}U2")
    np.savez(path, images=np.zeros((2, 3)), names=texts)
    with LazyNPZDataset(path, storage=storage) as dataset:
        assert dataset[0]["names"] == "AB"
        with pytest.raises(CorruptArchiveError, match=r"names\.npy.*row 1 .*outside Unicode"):
            dataset[1]


def damaged_sources():
    rng = np.random.default_rng(5)
    return {
        "images": rng.integers(0, 256, (6, 5, 5, 3), np.uint8),
        "bboxes": objects(boxes_of(6)),
        "masks": np.asfortranarray(rng.random((6, 7))),
        "image_paths": np.array([f"{i}.jpg" for i in range(6)]),
    }


def read_all(path, **options):
    with LazyNPZDataset(path, **options) as found:
        return found.keys, [found[i] for i in range(len(found))], found.get_batch(range(len(found)))


def same_content(result, data):
    keys, samples, batch = result
    names = {"images": "image", "image_paths": "image_path"}
    # Damage in the directory may take an array away, but never alter one.
    return all(
        name in data
        and equal(batch[name].tolist(), data[name].tolist())
        and all(equal(s[names.get(name, name)], data[name][i]) for i, s in enumerate(samples))
        if data.get(name) is None or data[name].dtype != object
        else batch[name].tolist() == data[name].tolist()
        for name in keys
    )


@pytest.mark.parametrize("saver", SAVERS)
def test_npz_truncated_anywhere_raises(tmp_path, saver):
    SAVERS[saver](tmp_path / "whole.npz", **damaged_sources())
    whole = (tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(ImageArchiveError):
            read_all(path, overwrite_index=True)


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("verify", [True, False])
def test_npz_flipped_bit_raises_or_changes_nothing(tmp_path, saver, verify):
    data = damaged_sources()
    SAVERS[saver](tmp_path / "whole.npz", **data)
    whole = (tmp_path / "whole.npz").read_bytes()
    assert same_content(read_all(tmp_path / "whole.npz", verify=True), data)
    path = tmp_path / "flipped.npz"
    rng = np.random.default_rng(1)
    for position in rng.permutation(len(whole))[:120].tolist():
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            result = read_all(path, verify=verify, overwrite_index=True)
        except ImageArchiveError:
            continue
        # Without verify, damage in the content of a stored array is like damage in any mapping.
        assert not (verify or saver == "deflated") or same_content(result, data), position


def test_npz_unsupported_member_is_left_out(tmp_path, caplog):
    path = tmp_path / "x.npz"
    np.savez(path, images=np.zeros((3, 2)), other=np.ones(3))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", members["images.npy"])
        archive.writestr("other.npy", members["other.npy"], zipfile.ZIP_BZIP2)
        archive.writestr("readme.txt", "hello")
    found = LazyNPZDataset(path)
    assert found.keys == ("images",)
    assert "'other' is left out" in caplog.text
    with pytest.raises(NotImplementedError, match="method 12"):
        LazyNPZDataset(path, keys=["other"])


def test_npz_other_file_raises(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((3, 2)))
    with pytest.raises(UnsupportedArchiveError, match="a directory"):
        LazyNPZDataset(tmp_path)
    (tmp_path / "text.npz").write_bytes(b"no archive at all" * 50)
    with pytest.raises(UnsupportedArchiveError):
        LazyNPZDataset(tmp_path / "text.npz")
    with zipfile.ZipFile(tmp_path / "empty.npz", "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(UnsupportedArchiveError, match="no arrays with rows"):
        LazyNPZDataset(tmp_path / "empty.npz")
    np.savez(tmp_path / "scalar.npz", a=np.float64(1))
    with pytest.raises(UnsupportedArchiveError, match="no arrays with rows"):
        LazyNPZDataset(tmp_path / "scalar.npz")
    with pytest.raises(OptionError):
        LazyNPZDataset(tmp_path / "scalar.npz", cache_size=-1)


def test_npz_verify_in_many_threads_at_once(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.arange(1_000_000))
    for _ in range(5):
        with LazyNPZDataset(path, verify=True) as dataset:
            read = functools.partial(lambda data, _: data[7]["x"], dataset)
            assert run_in_threads(read, 6) == [7] * 6


def test_npz_verify_finds_damage(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 2000), np.uint8))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[3000] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    assert LazyNPZDataset(tmp_path / "x.npz")[0]["image"].shape == (2000,)
    with pytest.raises(CorruptArchiveError, match="checksum"):
        LazyNPZDataset(tmp_path / "x.npz", verify=True)[0]
