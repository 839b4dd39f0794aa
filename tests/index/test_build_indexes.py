"""`build_indexes`: in threads, in processes, and after a part of it failed."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.archives import write_tar
from support.index_files import is_marked, mark

from imagearchive import Archive, IndexTable, build_indexes
from imagearchive.errors import (
    ArchiveNotFoundError,
    CorruptArchiveError,
    IncompleteError,
    StaleIndexError,
)


@pytest.fixture
def shards(tmp_path):
    """Eight shards: their paths."""
    return [
        str(write_tar(tmp_path / f"s-{number}.tar", {f"{number}/a.txt": b"%d" % number}))
        for number in range(8)
    ]


@pytest.mark.parametrize("kind", ["default", "processes", "executor"])
def test_build_indexes_builds_each_index(shards, tmp_path, kind):
    seen = []
    with ThreadPoolExecutor(2) as pool:
        executor = {"default": None, "processes": 2, "executor": pool}[kind]
        built = build_indexes(str(tmp_path / "s-*.tar"), executor=executor, progress=seen.append)
    assert [(one.archive, one.members) for one in built] == [(path, 1) for path in shards]
    assert sum(seen) == 8
    for path, one in zip(shards, built):
        assert one.path == path.replace(".tar", ".idx.npy")
        assert IndexTable.load(one.path, path).name(0) == f"{shards.index(path)}/a.txt"


@pytest.mark.parametrize("executor", [None, 2])
def test_build_indexes_failures_are_named_and_the_rest_is_done(shards, executor):
    with open(shards[3], "r+b") as file:
        file.truncate(700)
    os.unlink(shards[5])
    with pytest.raises(IncompleteError, match="2 of 8 archives failed") as caught:
        build_indexes(shards, executor=executor)
    (first, damaged), (second, missing) = caught.value.failures
    assert (first, second) == (shards[3], shards[5])
    assert isinstance(damaged, CorruptArchiveError)
    assert isinstance(missing, ArchiveNotFoundError)
    there = [os.path.exists(path.replace(".tar", ".idx.npy")) for path in shards]
    assert there == [number not in {3, 5} for number in range(8)]


@pytest.mark.parametrize("executor", [None, 1])
def test_build_indexes_again_builds_only_what_is_missing(shards, executor):
    build_indexes(shards)
    for path in shards[1:]:
        mark(IndexTable.open(path))
    os.unlink(shards[0].replace(".tar", ".idx.npy"))
    build_indexes(shards, executor=executor)
    assert [is_marked(IndexTable.open(path)) for path in shards] == [False] + 7 * [True]
    build_indexes(shards, executor=executor, overwrite=True)
    assert not any(is_marked(IndexTable.open(path)) for path in shards)


def test_build_indexes_with_ipath_saves_one_for_all(shards, tmp_path):
    ipath = tmp_path / "all.npy"
    build_indexes(shards, ipath, executor=2)
    archive = Archive(shards, ipath)
    assert archive.table.path == str(ipath)
    assert [archive[f"{number}/a.txt"] for number in range(8)] == [b"%d" % n for n in range(8)]
    write_tar(shards[2], {"2/b.txt": b"new"})
    with pytest.raises(StaleIndexError, match="one of them has changed"):
        build_indexes(shards, ipath)
    build_indexes(shards, ipath, overwrite=True)
    assert Archive(shards, ipath)["2/b.txt"] == b"new"
