"""The command `cache`."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import imagearchive
from imagearchive.index.index_locations import cache_location
from imagearchive.index.table import IndexTable
from imagearchive.storage.location import locate


@pytest.fixture
def cached(archive):
    """Two archives whose combined index is in the cache, and one with its own index there."""
    shutil.copy(archive, "b.tar")
    shutil.copy(archive, "c.tar")
    imagearchive.open("{a,b}.tar").close()
    alone = locate("c.tar")
    IndexTable.build(alone).save(cache_location([alone.path], alone))
    return [os.path.abspath(name) for name in ("a.tar", "b.tar", "c.tar")]


def listed(run, *options):
    status, out, err = run("cache", "--json", *options)
    assert (status, err) == (0, "")
    return json.loads(out)


def touch(path):
    """Change an archive."""
    with open(path, "ab") as file:
        file.write(bytes(512))


def test_cache_without_indexes_lists_nothing(run, work):
    assert listed(run) == []
    assert run("cache") == (0, b"0 indexes, 0\n", "")


def test_cache_lists_archives_sizes_and_states(run, cached):
    joined, alone = listed(run)
    assert joined["archives"] == cached[:2]
    assert alone["archives"] == cached[2:]
    for one in (joined, alone):
        assert one["state"] == "fresh"
        assert one["size"] == os.path.getsize(one["path"])
        assert abs(time.time_ns() - one["last_used_ns"]) < 60e9
    assert b" and 1 more\n" in run("cache", "-h")[1]


def test_cache_changed_or_missing_archive_is_stale(run, cached):
    touch("b.tar")
    os.remove("c.tar")
    assert [one["state"] for one in listed(run)] == ["stale", "stale"]


def test_cache_index_without_names_of_archives_is_unknown(run, cached):
    folder = Path(listed(run)[0]["path"]).parent
    np.save(folder / "old.idx.npy", np.zeros((2, 3)))
    (folder / "other.idx.npy").write_bytes(b"not an index")
    assert [one["state"] for one in listed(run)][2:] == ["unknown", "unknown"]
    assert listed(run, "--clean", "--stale") == []


def test_cache_clean_stale_keeps_fresh_indexes(run, cached):
    touch("c.tar")
    before = listed(run)
    assert listed(run, "--clean", "--stale", "--dry-run") == before[1:]
    assert listed(run) == before
    assert listed(run, "--clean", "--stale") == before[1:]
    assert listed(run) == before[:1]


def test_cache_clean_older_than_removes_unused_indexes(run, cached):
    path = listed(run)[0]["path"]
    long_ago = time.time() - 10 * 86_400
    os.utime(path, (long_ago, long_ago))
    assert listed(run, "--clean", "--older-than", "11") == []
    assert [one["path"] for one in listed(run, "--clean", "--older-than", "9")] == [path]
    assert len(listed(run)) == 1


def test_cache_clean_all_removes_everything(run, cached):
    status, out, _ = run("cache", "--clean", "--all")
    assert (status, out.splitlines()[-1][:9]) == (0, b"2 indexes")
    assert listed(run) == []
    assert len(imagearchive.open("{a,b}.tar")) == 6


def test_cache_clean_without_choice_is_wrong_usage(run, cached):
    assert run("cache", "--clean")[0] == 2
    assert run("cache", "--dry-run")[0] == 2
    assert len(listed(run)) == 2
