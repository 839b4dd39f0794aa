"""Converting archives into other kinds."""

import os
import zipfile

import numpy as np
import pytest

import imagearchive
from imagearchive.archive.convert import convert, kind_of
from imagearchive.archive.writers import TarWriter
from imagearchive.errors import (
    OptionError,
    TargetExistsError,
)


def test_convert_arrays_through_every_container(tmp_path):
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


def test_convert_keeps_times_and_permissions(tmp_path):
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


def test_convert_takes_the_last_of_equal_names(tmp_path):
    for number in (0, 1):
        with TarWriter(tmp_path / f"{number}.tar") as tar:
            tar.add("x", b"%d" % number)
            tar.add(f"only{number}", b"")
    with imagearchive.open(str(tmp_path / "{0..1}.tar")) as archive:
        assert convert(archive, tmp_path / "all.tar") == 3
    with imagearchive.open(tmp_path / "all.tar") as archive:
        assert dict(archive) == {"only0": b"", "x": b"1", "only1": b""}


def test_convert_refuses_what_the_target_cannot_hold(tmp_path):
    with TarWriter(tmp_path / "a.tar") as tar:
        tar.add("x.jpg", b"1")
        tar.add("y.npy", b"no array")
    with imagearchive.open(tmp_path / "a.tar") as archive:
        with pytest.raises(OptionError, match=r"'x\.jpg' is not a \.npy"):
            convert(archive, tmp_path / "b.npz")
        with pytest.raises(TargetExistsError, match="exists"):
            convert(archive, tmp_path / "a.tar")
        with pytest.raises(OptionError, match="unknown extension"):
            convert(archive, tmp_path / "b.rar")
        with pytest.raises(OptionError, match="kind must be"):
            convert(archive, tmp_path / "b.tar", "rar")
    assert sorted(os.listdir(tmp_path)) == ["a.idx.npy", "a.tar"]
    assert [kind_of(name) for name in ("a.TAR", "a.zip", "x/", "x", "a.npz")] == [
        "tar",
        "zip",
        "bins",
        "bins",
        "npz",
    ]


def test_convert_large_members(tmp_path):
    data = np.random.default_rng(0).bytes(9 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("big", data)
    with imagearchive.open(tmp_path / "a.zip") as archive:
        convert(archive, tmp_path / "b.tar")
        convert(archive, tmp_path / "c.zip")
    for name in ("b.tar", "c.zip"):
        with imagearchive.open(tmp_path / name) as archive:
            assert archive["big"] == data
