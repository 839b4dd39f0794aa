"""Archives of which a few bytes describe many: links to one file, holes, and overlaps."""

import os
import tarfile

import numpy as np
import pytest
from support import tar_cases
from support.command_line import start_command
from support.files import make_tar

from imagearchive import Archive, convert
from imagearchive.archive.expansion import find_repeats, measure_expansion
from imagearchive.errors import LimitError
from imagearchive.storage.limits import Limits

GIB = 1 << 30


@pytest.fixture
def sparse(tmp_path):
    path = tmp_path / "sparse.tar"
    member = tar_cases.pax_sparse(b"x.jpg", [(0, 100)], 3 * GIB, os.urandom(100), "1.0")
    path.write_bytes(member + tar_cases.END)
    return path


@pytest.mark.parametrize("kind", ["tar", "zip", "bins"])
def test_convert_sparse_member_of_gigabytes_raises_before_it_writes(tmp_path, sparse, kind):
    with Archive(sparse) as archive, pytest.raises(LimitError, match=r"3221225472 bytes.*only 100"):
        convert(archive, tmp_path / "out", kind)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["tar", "zip", "bins"])
def test_convert_sparse_member_within_the_limits_writes_zeros(tmp_path, kind):
    data, size = os.urandom(1_000_000), 70_000_000
    member = tar_cases.pax_sparse(b"x", [(50, len(data))], size, data, "1.0")
    (tmp_path / "a.tar").write_bytes(member + tar_cases.END)
    with Archive(tmp_path / "a.tar") as archive:
        with pytest.raises(LimitError):
            convert(archive, tmp_path / "out", kind, limits=Limits(max_ratio=69))
        convert(archive, tmp_path / "out", kind, limits=Limits(max_ratio=70))
    with Archive(tmp_path / "out") as archive:
        assert bytes(archive.read(0)) == bytes(50) + data + bytes(size - 50 - len(data))


def test_convert_hard_links_count_to_the_limit(tmp_path):
    links = {f"{number}": (tarfile.LNKTYPE, "a") for number in range(9)}
    path = make_tar(tmp_path / "a.tar", {"a": bytes(8 << 20), **links})
    with Archive(path) as archive:
        with pytest.raises(LimitError, match="the members take 83886080 bytes"):
            convert(archive, tmp_path / "out.zip", limits=Limits(max_ratio=9))
        assert convert(archive, tmp_path / "out.zip", limits=Limits(max_ratio=10)) == 10


@pytest.mark.parametrize(
    "command", [["cat", "{}", "x.jpg"], ["convert", "{}", "{}.zip"]], ids=["cat", "convert"]
)
def test_command_line_sparse_member_names_the_option(sparse, command):
    with start_command(*(part.format(sparse) for part in command)) as process:
        out, errors = process.communicate()
    assert process.returncode == 1
    assert b"--max-ratio" in errors
    assert out == b""


def test_find_repeats_gives_the_first_of_each_content(tmp_path):
    members = {
        "a": b"1",
        "b": b"2",
        "c": (tarfile.LNKTYPE, "a"),
        "d": b"",
        "e": (tarfile.LNKTYPE, "d"),
        "f": (tarfile.LNKTYPE, "b"),
    }
    with Archive(make_tar(tmp_path / "a.tar", members)) as archive:
        assert find_repeats(archive, np.arange(6)).tolist() == [0, 1, 0, 3, 4, 1]
        assert find_repeats(archive, np.array([5, 2, 1, 0])).tolist() == [0, 1, 0, 1]


def test_measure_expansion_counts_shared_bytes_once(tmp_path):
    links = {f"l{number}": (tarfile.LNKTYPE, "a") for number in range(4)}
    path = make_tar(tmp_path / "a.tar", {"a": bytes(700), "b": bytes(50), **links})
    with Archive(path) as archive:
        assert measure_expansion(archive, np.arange(6), holes=True) == (5 * 700 + 50, 750)
    with Archive(str(path), storage="pread") as archive:
        assert measure_expansion(archive, np.array([], np.int64), holes=True) == (0, 0)


def test_measure_expansion_sees_files_of_several_archives_apart(tmp_path):
    for name in "ab":
        make_tar(tmp_path / f"{name}.tar", {name: bytes(700)})
    with Archive([str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]) as archive:
        assert measure_expansion(archive, np.arange(2), holes=True) == (1400, 1400)
        assert find_repeats(archive, np.arange(2)).tolist() == [0, 1]
