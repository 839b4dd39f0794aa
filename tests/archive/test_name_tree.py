"""Patterns over the names of an archive."""

import glob
import tarfile

import pytest

from imagearchive.archive.archive import Archive
from imagearchive.archive.name_tree import NameTree
from imagearchive.cli import main
from imagearchive.errors import LimitError


def write_deep(path, depth):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("d/" * depth + "x.txt"))
    return path


def test_glob_deep_names_are_found_without_recursion(tmp_path):
    with Archive(write_deep(tmp_path / "deep.tar", 250)) as archive:
        found = list(archive.glob("**", recursive=True))
        assert len(found) == 251
        assert list(archive.glob("**/*.txt", recursive=True)) == ["d/" * 250 + "x.txt"]
        assert len(list(archive.glob("*/" * 250 + "*"))) == 1


def test_glob_names_too_deep_are_refused(tmp_path):
    with Archive(write_deep(tmp_path / "deep.tar", 32_000)) as archive:
        for pattern in ("**", "**/*.txt"):
            with pytest.raises(LimitError, match="directories deep"):
                list(archive.glob(pattern, recursive=True))
        with pytest.raises(LimitError, match="directories deep"):
            list(archive.walk())
        # Names are found at any depth.
        assert archive["d/" * 32_000 + "x.txt"] == b""
        assert archive.listdir("d/" * 31_999) == ["d"]


def test_tree_names_too_deep_are_refused(tmp_path, capsys):
    path = write_deep(tmp_path / "deep.tar", 32_000)
    assert main(["tree", str(path)]) == 1
    assert "directories deep" in capsys.readouterr().err
    assert main(["tree", "--level", "2", str(path)]) == 0


@pytest.mark.parametrize("pattern", ["**/a/" * 12 + "y", "**/" * 30 + "y", "**/*/" * 8 + "y"])
def test_glob_many_double_stars_visit_each_directory_once_per_component(
    pattern, tmp_path, monkeypatch
):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("a/" * 60 + "x"))
    listed = []
    original = NameTree.children
    monkeypatch.setattr(
        NameTree, "children", lambda self, name: listed.append(name) or original(self, name)
    )
    with Archive(tmp_path / "x.tar") as archive:
        assert list(archive.glob(pattern, recursive=True)) == []
    assert len(listed) <= 2 * 61 * pattern.count("/")


@pytest.mark.parametrize("pattern", ["**/a/**/x", "**/**/b*", "**/./**/x", "*/../**/a/**", "**/**"])
def test_glob_several_double_stars_find_what_the_standard_library_finds(pattern, tmp_path):
    for name in ("a/b/a/x", "a/a/a/bx", "b/x", "x", "c/a/x"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).touch()
    expected = glob.glob(pattern, root_dir=tmp_path / "d", recursive=True)
    with Archive(tmp_path / "d") as archive:
        found = list(archive.glob(pattern, recursive=True))
    assert sorted(found) == sorted(set(expected) - {""})
