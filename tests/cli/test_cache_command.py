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


@pytest.fixture
def blocks(work, moto, run):
    """A folder with blocks of an archive in a bucket, and the options that made it."""
    options = [f"--storage-option={name}={moto.storage_options[name]}" for name in (
        "endpoint", "region", "access_key_id", "secret_access_key",
    )]  # fmt: skip
    with imagearchive.TarWriter(
        "s3://data/blocks/x.tar", overwrite=True, storage_options=moto.storage_options
    ) as tar:
        for number in range(3):
            tar.add(f"{number}.bin", bytes(400_000))
    options += ["--cache-dir=blocks", "--cache-bytes=4MB"]
    status, out, err = run("cat", "s3://data/blocks/x.tar", "1.bin", *options)
    assert (status, out, err) == (0, bytes(400_000), "")
    return "blocks", options


def block_files():
    return [path for path in Path("blocks").glob("imagearchive-blocks/??/*") if path.is_file()]


def test_cache_dir_of_a_command_holds_what_it_read(blocks, run, moto):
    _, options = blocks
    assert 2 <= len(block_files()) <= 5
    times = {path: path.stat().st_ino for path in block_files()}
    assert run("cat", "s3://data/blocks/x.tar", "1.bin", *options)[0] == 0
    assert {path: path.stat().st_ino for path in block_files()} == times


def test_cache_dir_shows_blocks(blocks, run):
    files = block_files()
    found = listed(run, "--cache-dir", "blocks")
    assert found["blocks"] == len(files)
    assert found["size"] >= sum(path.stat().st_size for path in files)
    assert found["last_used_ns"] == max(path.stat().st_mtime_ns for path in files)
    status, out, err = run("cache", "--cache-dir", "blocks")
    assert (status, err) == (0, "")
    assert out.startswith(b"%d blocks, " % len(files))
    assert listed(run, "--cache-dir", "none")["blocks"] == 0


def test_cache_dir_clean_removes_blocks_that_were_not_used(blocks, run):
    old, *new = block_files()
    days_ago = time.time() - 40 * 24 * 3600
    os.utime(old, (days_ago, days_ago))
    chosen = ["--cache-dir", "blocks", "--clean", "--older-than", "30"]
    assert run("cache", *chosen, "--dry-run")[1].startswith(b"1 block, ")
    assert old.exists()
    assert run("cache", *chosen)[1].endswith(b" removed\n")
    assert set(block_files()) == set(new)
    assert run("cache", "--cache-dir", "blocks", "--clean", "--all")[0] == 0
    assert not block_files()
    # The cache goes on working.
    assert run("cat", "s3://data/blocks/x.tar", "1.bin", *blocks[1])[1] == bytes(400_000)
    assert block_files()


def test_cache_dir_removed_blocks_make_room(blocks, run):
    """The count of what was removed is corrected when there is no room."""
    _, options = blocks
    for _ in range(12):
        assert run("cache", "--cache-dir", "blocks", "--clean", "--older-than", "1")[0] == 0
        for path in block_files():
            path.unlink()
        assert run("cat", "s3://data/blocks/x.tar", "1.bin", *options)[0] == 0
    assert len(block_files()) >= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["cache", "--cache-dir", "x", "--clean", "--stale"], "--stale chooses indexes"),
        (["ls", "x.tar", "--cache-bytes", "1GB"], "--cache-bytes needs --cache-dir"),
    ],
)
def test_cache_options_that_do_not_fit_are_usage_errors(work, run, options, message):
    status, _, err = run(*options)
    assert status == 2
    assert message in err
