"""Small files that are created many at a time, against the general way and tarfile's."""

import io
import os
import resource
import subprocess
import sys
import tarfile
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.files import limited, make_tar, unfinished

import imagearchive
from imagearchive.archive.extract import extract
from imagearchive.archive.small_files import create_files

SIZES = st.one_of(st.integers(0, 600), st.sampled_from([65_535, 65_536, 65_537, 1 << 20]))
MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(["", "a/", "b/", "a/b/"]),
        SIZES,
        st.sampled_from([0o644, 0o600, 0o755, 0o777, 0o444, 0o4711]),
        st.integers(1, 1 << 33),
    ),
    max_size=20,
)


def describe(folder):
    """All files below a folder, with their permissions and times."""
    found = {}
    for base, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(base, name)
            status = os.stat(path)
            with open(path, "rb") as file:
                content = file.read()
            found[os.path.relpath(path, folder)] = (content, status.st_mode, status.st_mtime_ns)
    return found


@settings(max_examples=25)
@given(members=MEMBERS)
def test_extract_small_files_equals_the_general_way_and_tarfile(tmp_path_factory, members):
    folder = tmp_path_factory.mktemp("small")
    path = folder / "a.tar"
    with tarfile.open(path, "w") as archive:
        for number, (directory, size, mode, mtime) in enumerate(members):
            member = tarfile.TarInfo(f"{directory}{number}")
            member.size, member.mode, member.mtime = size, mode, mtime
            archive.addfile(member, io.BytesIO(bytes([number]) * size))
    with tarfile.open(path) as archive:
        archive.extractall(folder / "theirs", filter="data")
    expected = describe(folder / "theirs")
    assert len(expected) == len(members)
    # Members that are not mapped, and those of a target that exists, take the general way.
    (folder / "exists").mkdir()
    for target, storage in (("new", "mmap"), ("general", "pread"), ("exists", "mmap")):
        with imagearchive.open(path, storage=storage) as archive:
            done = extract(archive, folder / target, threads=1)
        assert (done.files, done.bytes) == (len(members), sum(size for _, size, _, _ in members))
        assert describe(folder / target) == expected


def test_extract_small_files_are_created_without_the_interpreter(tmp_path):
    """Python reports each file that it opens, so few reports show that files are batched."""
    make_tar(tmp_path / "a.tar", {f"d/{i}": b"x" * (i % 700) for i in range(2000)})
    script = textwrap.dedent("""
        import os, sys
        import imagearchive
        from imagearchive.archive.extract import extract
        created = 0
        def count(event, arguments):
            global created
            if event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT:
                created += 1
        with imagearchive.open(sys.argv[1]) as archive:
            sys.addaudithook(count)
            extract(archive, sys.argv[2])
        print(created)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.tar", tmp_path / "out"],
        capture_output=True,
        check=True,
    )
    assert int(done.stdout) < 20
    assert len(os.listdir(tmp_path / "out/d")) == 2000


def test_extract_small_files_on_a_full_disk_names_the_file_that_does_not_fit(tmp_path):
    members = {"d/1": b"1" * 100, "d/2": b"2" * 5000, "d/3": b"3" * 100}
    make_tar(tmp_path / "a.tar", members)
    with imagearchive.open(tmp_path / "a.tar") as archive:
        archive.read("d/1")
        with (
            limited(resource.RLIMIT_FSIZE, 4096),
            pytest.raises(OSError, match="File too large") as error,
        ):
            extract(archive, tmp_path / "out", threads=1)
        assert error.value.filename == str(tmp_path / "out/d/2")
        assert unfinished(tmp_path, "out") == {"d/1": members["d/1"]}
        extract(archive, tmp_path / "out", threads=1)
    assert {name: value[0] for name, value in describe(tmp_path / "out").items()} == members


# ---------------------------------------------------------------- the native function


def create(folder, names, source, ranges, mode=0o644, mtime=0):
    offsets, sizes = np.array(ranges, np.uint64).reshape(-1, 2).T.copy()
    count = len(ranges)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        modes, mtimes = np.full(count, mode, np.uint32), np.full(count, mtime, np.int64)
        return create_files(descriptor, names, source, offsets, sizes, modes, mtimes)
    finally:
        os.close(descriptor)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("mtime", [1, -1, -1_000_000_000, 1_500_000_000_999_999_999, -(10**15) - 7])
def test_create_files_sets_times_to_the_nanosecond(tmp_path, mtime):
    assert create(tmp_path, (b"a", b"b"), b"xyz", [(0, 2), (3, 0)], mtime=mtime) == 2
    assert contents(tmp_path) == {"a": b"xy", "b": b""}
    assert {path.stat().st_mtime_ns for path in tmp_path.iterdir()} == {mtime}


@pytest.mark.parametrize("outside", [(4, 0), (3, 1), (0, 4), (2**64 - 1, 1), (1, 2**64 - 1)])
def test_create_files_range_outside_of_the_source_ends_before_it(tmp_path, outside):
    assert create(tmp_path, (b"a", b"b", b"c"), b"xyz", [(1, 1), outside, (0, 1)]) == 1
    assert contents(tmp_path) == {"a": b"y"}


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_create_files_name_in_use_ends_before_it_and_stays(tmp_path, kind):
    (tmp_path / "elsewhere").write_bytes(b"kept")
    place = tmp_path / "in"
    place.mkdir()
    if kind == "file":
        (place / "b").write_bytes(b"kept")
    elif kind == "link":
        (place / "b").symlink_to(tmp_path / "elsewhere")
    else:
        (place / "b").mkdir()
    before = os.lstat(place / "b")
    assert create(place, (b"a", b"b", b"c"), b"xyz", [(0, 1)] * 3) == 1
    assert sorted(os.listdir(place)) == ["a", "b"]
    assert os.path.samestat(os.lstat(place / "b"), before)
    assert (tmp_path / "elsewhere").read_bytes() == b"kept"


def test_create_files_that_does_not_fit_leaves_nothing_of_it(tmp_path):
    with limited(resource.RLIMIT_FSIZE, 1000):
        done = create(tmp_path, (b"a", b"b", b"c"), bytes(5000), [(0, 1000), (0, 1001), (0, 1)])
    assert done == 1
    assert contents(tmp_path) == {"a": bytes(1000)}


def test_create_files_checks_its_arguments(tmp_path):
    assert create(tmp_path, (), b"", []) == 0
    with pytest.raises(ValueError, match="NUL"):
        create(tmp_path, (b"a", b"b\0c"), b"x", [(0, 1)] * 2)
    with pytest.raises(ValueError, match="for each name"):
        create(tmp_path, (b"a",), b"x", [(0, 1)] * 2)
    with pytest.raises(TypeError):
        create(tmp_path, ("text",), b"x", [(0, 1)])
    assert contents(tmp_path) == {}
