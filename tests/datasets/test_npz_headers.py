"""NPZ files whose headers are far larger than what is stored of them."""

import json
import struct
import zipfile

import numpy as np
import pytest

import imagearchive
from imagearchive import LazyNPZDataset
from imagearchive.arrays import npy
from imagearchive.cli import main
from imagearchive.errors import LimitError


def write_long_headers(path, count, method):
    """Write an NPZ of arrays without rows, each with a header of 100,000 bytes."""
    fields = "".join(f"('{i:x}','B')," for i in range(6500))
    text = f"{{'descr': [{fields}], 'fortran_order': False, 'shape': (0,)}}".encode()
    data = b"\x93NUMPY\2\0" + struct.pack("<I", len(text)) + text
    with zipfile.ZipFile(path, "w", method) as archive:
        for number in range(count):
            archive.writestr(f"a{number}.npy", data)


@pytest.fixture
def parsed(monkeypatch):
    """The names of the arrays of the archive whose headers were parsed."""
    names = []
    original = npy.parse_header

    def parse(*args, where, **options):
        if ".idx.npy" not in where:
            names.append(where)
        return original(*args, where=where, **options)

    monkeypatch.setattr(npy, "parse_header", parse)
    return names


@pytest.fixture
def hostile(tmp_path):
    """A small deflated NPZ with 20 MB of headers."""
    write_long_headers(tmp_path / "x.npz", 200, zipfile.ZIP_DEFLATED)
    return tmp_path / "x.npz"


def test_lazy_npz_deflated_long_headers_are_limited(hostile, parsed):
    with pytest.raises(LimitError, match=r"x\.npz.*headers of this archive"):
        LazyNPZDataset(hostile)
    assert len(parsed) < 20


def test_convert_deflated_long_headers_are_limited(hostile, parsed, tmp_path):
    with imagearchive.open(hostile) as archive, pytest.raises(LimitError, match="headers of this"):
        imagearchive.convert(archive, tmp_path / "y.npz")
    assert len(parsed) < 20
    assert not (tmp_path / "y.npz").exists()


def test_info_deflated_long_headers_are_limited(hostile, parsed, capsys):
    assert main(["info", "--json", str(hostile)]) == 0
    arrays = json.loads(capsys.readouterr().out)["arrays"]
    assert arrays["a0"]["shape"] == [0]
    assert "headers of this archive" in arrays["a99"]["error"]
    assert len(parsed) < 20


def test_lazy_npz_stored_long_headers_are_read(tmp_path):
    write_long_headers(tmp_path / "x.npz", 15, zipfile.ZIP_STORED)
    with LazyNPZDataset(tmp_path / "x.npz") as data:
        assert len(data) == 0


def test_lazy_npz_many_small_deflated_arrays_are_read(tmp_path):
    arrays = {f"a{i}": np.arange(3) for i in range(3000)}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    with LazyNPZDataset(tmp_path / "x.npz") as data:
        assert data[1]["a2999"] == 1
