"""Files that are not archives are named for what they are."""

import shlex

import pytest

import imagearchive
from imagearchive.errors import UnsupportedArchiveError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


def test_open_other_compression_suggests_a_command_for_the_shell(tmp_path):
    path = tmp_path / "it's $HOME.npz"
    path.write_bytes(b"\x1f\x9d" + bytes(40))
    with pytest.raises(UnsupportedArchiveError) as raised:
        imagearchive.open(path)
    command = str(raised.value).split("decompress it first: ")[1]
    assert shlex.split(command) == ["gzip", "-d", str(path)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS, "a Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page.*download it again"),
        (b"<HTML><head></head></HTML>", "an HTML page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", "an XML document"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(40), "a 7-Zip archive.*unpack it, and pack"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file.*h5py"),
        (b"\xff\xd8\xff\xe0" + bytes(40), r"a single image \(JPEG\)"),
        (b"RIFF\1\2\3\4WEBPVP8 ", r"a single image \(WebP\)"),
    ],
)
@pytest.mark.parametrize(
    "opener", [imagearchive.open, imagearchive.LazyNPZDataset, imagearchive.DataLoader]
)
def test_open_foreign_file_names_its_format(tmp_path, opener, content, message):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(UnsupportedArchiveError, match=rf"data\.npz: {message}"):
        opener(path)
