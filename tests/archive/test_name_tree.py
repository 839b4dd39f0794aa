"""Patterns over the names of an archive."""

import tarfile

import pytest

from imagearchive.archive.archive import Archive
from imagearchive.errors import LimitError


def write_deep(path, depth):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("d/" * depth + "x.txt"))
    return path


def test_glob_deep_names_are_found_without_recursion(tmp_path):
    with Archive(write_deep(tmp_path / "deep.tar", 1500)) as archive:
        found = list(archive.glob("**", recursive=True))
        assert len(found) == 1501
        assert list(archive.glob("**/*.txt", recursive=True)) == ["d/" * 1500 + "x.txt"]
        assert len(list(archive.glob("*/" * 1500 + "*"))) == 1


def test_glob_names_too_deep_are_refused(tmp_path):
    with Archive(write_deep(tmp_path / "deep.tar", 32_000)) as archive:
        for pattern in ("**", "**/*.txt"):
            with pytest.raises(LimitError, match="directories deep"):
                list(archive.glob(pattern, recursive=True))
