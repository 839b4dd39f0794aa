"""`Archive` as a file system, with a real one as oracle."""

import glob
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tar_cases
from support.archives import write_tar
from support.containers import MEMBERS

from imagearchive import Archive
from imagearchive.errors import (
    MemberNotFoundError,
)


def test_info_describes_the_member(archive):
    for position, name in enumerate(archive):
        info = archive.info(name)
        assert (info.name, info.position, info.size) == (name, position, len(MEMBERS[name]))
        assert archive.stat(position) == info
        assert os.path.exists(info.archive)
    assert archive.total_size == sum(map(len, MEMBERS.values()))


def test_listdir_and_scandir_match_the_file_system(archive, extracted):
    for folder, _, _ in os.walk(extracted):
        relative = os.path.relpath(folder, extracted).replace(".", "", folder == extracted)
        assert archive.listdir(relative) == sorted(os.listdir(folder))
        entries = {entry.name: entry for entry in archive.scandir(relative)}
        for real in os.scandir(folder):
            entry = entries.pop(real.name)
            assert entry.is_dir() == real.is_dir()
            assert entry.is_file() == real.is_file()
            assert entry.path == os.path.relpath(real.path, extracted)
            if real.is_file():
                assert entry.stat().size == real.stat().st_size
        assert not entries
    assert archive.listdir() == sorted(os.listdir(extracted))
    with pytest.raises(MemberNotFoundError, match="file"):
        archive.listdir("README")
    with pytest.raises(MemberNotFoundError):
        archive.listdir("nothing")


def test_walk_matches_the_file_system(archive, extracted):
    def relative(folder):
        return "" if folder == extracted else os.path.relpath(folder, extracted)

    expected = {
        relative(folder): (sorted(folders), sorted(files))
        for folder, folders, files in os.walk(extracted)
    }
    walked = {folder: (folders, files) for folder, folders, files in archive.walk()}
    assert walked == expected
    assert sorted(archive.dirs()) == sorted(folder for folder in expected if folder)
    assert sorted(archive.files()) == sorted(MEMBERS)
    assert [top for top, _, _ in archive.walk("images/cat")] == ["images/cat"]


@pytest.mark.parametrize(
    "path",
    [
        "README", "./README", "images//cat/0.png", "images/./cat/../dog/é.png", "images/cat/",
        "images", "", ".", "/", "/README", "..", "../README", "images/../../README", "nothing",
        "images/cat/0.png/x", "images/ca", "deep/er", "README/", "images/..",
    ],
)  # fmt: skip
def test_exists_isfile_isdir_match_the_file_system(archive, extracted, path):
    steps = os.path.normpath("./" + path).split("/")
    real = os.path.join(extracted, path.lstrip("/"))
    inside = steps[0] != ".."
    # A trailing slash makes no difference here, where the kernel insists on a directory.
    real = real.rstrip("/")
    assert archive.exists(path) == (inside and os.path.exists(real))
    assert archive.isfile(path) == (inside and os.path.isfile(real))
    assert archive.isdir(path) == (inside and os.path.isdir(real))
    assert (path in archive) == archive.isfile(path)


def test_glob_names_that_begin_with_two_dots_are_found(tmp_path):
    names = ["...", "..x/.h", "..x/f", "..x/g.png", "..y", "a/..b/c"]
    path, extracted = tmp_path / "dots.tar", tmp_path / "extracted"
    path.write_bytes(b"".join(tar_cases.member(name.encode(), b"1") for name in names))
    for name in names:
        (extracted / name).parent.mkdir(parents=True, exist_ok=True)
        (extracted / name).write_bytes(b"1")
    opened = Archive(path)
    for directory in ("", "..x", "./..x", "a", "a/..b", "..x/../..x"):
        assert opened.listdir(directory) == sorted(os.listdir(extracted / directory))
    for pattern in (
        "..x/f", "..x//f", "..x/*", "..x/.*", "..*/f", "*/f", "..x/", "..*", "...", "a/..b/*",
        "./..x/*", "..x/../..x/f", "a/../..x/f", "**",
    ):  # fmt: skip
        expected = sorted(glob.glob(pattern, root_dir=extracted, recursive=True))
        assert sorted(opened.glob(pattern, recursive=True)) == expected, pattern


PATTERNS = st.lists(
    st.sampled_from(
        ["*", "**", "?", "images", "cat", "*.png", "[cd]*", "cat*", ".*", "deep", "er", "x.npy",
         "*/", "README", "[!c]*", "a b.png", "..", ".", "é*", ".hidden", "**a", ""]
    ),
    min_size=1,
    max_size=4,
).map("/".join).filter(lambda pattern: pattern[:1] != "/")  # fmt: skip


@settings(max_examples=300)
@given(PATTERNS, st.booleans(), st.booleans())
def test_glob_matches_python(glob_archive, extracted, pattern, recursive, hidden):
    options = {"recursive": recursive}
    if "include_hidden" in glob.glob.__kwdefaults__:
        options["include_hidden"] = hidden
    else:
        hidden = False
    if any(part == ".." for part in pattern.split("/")):
        # What leads out of the archive does not exist; on disk it leads somewhere.
        depth = 0
        for part in pattern.split("/"):
            depth += {"..": -1, ".": 0, "": 0, "**": -9}.get(part, 1)
            if depth < 0:
                return
    # Python returns some paths twice for patterns with several "**", and missing directories
    # for "missing/**".
    found = set(glob.glob(pattern, root_dir=extracted, **options))
    expected = sorted(path for path in found if os.path.exists(os.path.join(extracted, path)))
    got = sorted(glob_archive.glob(pattern, recursive=recursive, include_hidden=hidden))
    assert got == expected


@pytest.mark.parametrize("pattern", ["images//*", "images//cat", "images//cat//", "images/cat//*"])
def test_glob_keeps_doubled_slashes_as_python_does(glob_archive, extracted, pattern):
    expected = sorted(glob.glob(pattern, root_dir=extracted))
    assert expected
    assert sorted(glob_archive.glob(pattern)) == expected
    assert sorted(glob_archive.iglob(pattern)) == expected


@pytest.fixture(scope="module")
def glob_archive(tmp_path_factory):
    return Archive(write_tar(tmp_path_factory.mktemp("glob") / "g.tar", MEMBERS))


def test_listdir_includes_empty_directories(tmp_path):
    (tmp_path / "tree" / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "full").mkdir()
    (tmp_path / "tree" / "full" / "x").write_bytes(b"1")
    shutil.make_archive(str(tmp_path / "data"), "tar", tmp_path / "tree")
    shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "tree")
    for path in (tmp_path / "tree", tmp_path / "data.tar", tmp_path / "zipped.zip"):
        archive = Archive(path)
        assert archive.listdir() == ["empty", "full"]
        assert archive.listdir("empty") == ["inner"]
        assert archive.isdir("empty/inner")
        assert sorted(archive.dirs()) == ["empty", "empty/inner", "full"]
        assert list(archive) == ["full/x"]


def test_archive_names_outside_the_root_are_only_listed(tmp_path):
    names = ["/../x.png", "ok/1.png", "a/../../y", "../../z", "/abs/path", "//two//slashes", "./."]
    archive = Archive(write_tar(tmp_path / "out.tar", {name: name.encode() for name in names}))
    assert sum(1 for _ in archive.walk()) < 20
    assert set(archive) - {""} == {
        "../x.png", "ok/1.png", "a/../../y", "../../z", "abs/path", "two/slashes",
    }  # fmt: skip
    assert {archive[name] for name in archive if name} == {n.encode() for n in names if n != "./."}
    assert "ok/1.png" in archive.glob("**", recursive=True)
    assert not archive.exists("x.png")
    assert "" not in archive.listdir()
    assert list(archive.dirs())
