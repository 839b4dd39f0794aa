"""The cache of remote blocks: what it saves, and what can happen to it at any time."""

import logging
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from support.archives import encoded, write_tar
from support.threads import run_in_threads

import imagearchive
from imagearchive import DataLoader, ImageArchive, LazyNPZDataset, Resize, SampleArchive
from imagearchive.errors import OptionError, OptionTypeError, StaleIndexError
from imagearchive.storage.location import locate
from imagearchive.storage.path_options import add_options, options_of
from imagearchive.storage.remote.block_file import BLOCK

MIB = 1 << 20
DATA = np.random.default_rng(5).bytes(9 * MIB + 12_345)
OTHER = np.random.default_rng(6).bytes(len(DATA))
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def url(faulty_server):
    faulty_server.put({"a/data.bin": DATA, "b/data.bin": OTHER})
    return faulty_server.url("a/data.bin")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def opened(url, folder, limit="1GB"):
    return locate(add_options(url, cache_dir=folder, cache_bytes=limit)).open()


def read_all(url, folder, limit="1GB"):
    with opened(url, folder, limit) as storage:
        return storage.read(0, storage.size)


def files_of(folder):
    return [path for path in Path(folder).rglob("*") if path.is_file()]


def blocks_of(folder):
    return [path for path in files_of(folder) if path.stat().st_size > 4096]


def size_of(folder):
    found = 0
    for path in files_of(folder):
        try:
            found += path.stat().st_size
        except FileNotFoundError:
            # Another process has removed or renamed it.
            pass
    return found


def data_requests(server):
    """The requests for more than the first byte, which asks for the identity."""
    return [one for one in server.requests if one.range != (0, 1)]


def in_child(function, *arguments):
    """Run a function in a forked child; return its exit code."""
    child = FORK.Process(target=function, args=arguments)
    child.start()
    child.join()
    return child.exitcode


# ---------------------------------------------------------------- what it saves


@pytest.fixture
def images():
    random = np.random.default_rng(1)
    return {
        f"c{number % 3}/{number:03}.png": encoded(random.integers(0, 256, (48, 64, 3), np.uint8))
        for number in range(48)
    }


@pytest.fixture
def shards(faulty_server, images, tmp_path):
    names = list(images)
    for number in range(3):
        path = write_tar(tmp_path / "s.tar", {name: images[name] for name in names[number::3]})
        faulty_server.put({f"s-{number}.tar": path.read_bytes()})
    return faulty_server.url("s-{0..2}.tar")


def batches(dataset, options):
    with DataLoader(dataset, **options) as loader:
        return [(images.copy(), np.array(labels)) for images, labels in loader]


@pytest.mark.parametrize("shuffle", [False, True, "blocks"])
def test_loader_second_epoch_requests_nothing(faulty_server, shards, folder, shuffle):
    options = {"batch_size": 8, "output": "numpy", "transform": Resize(8, 8), "shuffle": shuffle}
    dataset = ImageArchive(shards, cache_dir=folder)
    first = batches(dataset, options)
    faulty_server.forget()
    second = batches(dataset, options)
    assert faulty_server.requests == []
    for one, other in zip(first, second):
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])
    # A program that is started again asks whether the shards are still the same.
    with DataLoader(shards, cache_dir=folder, **options) as loader:
        assert len(list(loader)) == 6
    assert data_requests(faulty_server) == []
    assert len(faulty_server.requests) <= 2 * 3


def test_archive_members_are_read_from_the_cache(faulty_server, shards, images, folder):
    with imagearchive.open(shards, cache_dir=folder) as archive:
        assert dict(archive) == images
    faulty_server.forget()
    with imagearchive.open(shards, cache_dir=folder) as archive:
        assert dict(archive) == images
    assert data_requests(faulty_server) == []


def test_cache_options_of_every_dataset_are_used(faulty_server, shards, tmp_path, folder):
    np.savez(tmp_path / "x.npz", image=np.arange(60_000).reshape(6, 10_000))
    faulty_server.put({"x.npz": (tmp_path / "x.npz").read_bytes()})
    url = faulty_server.url("x.npz")

    def read():
        samples = SampleArchive(shards, {"image": "c0/{key}.png"}, cache_dir=folder)
        arrays = LazyNPZDataset(url, keys=["image"], cache_dir=folder)
        return samples[5]["image"], arrays[3]["image"], ImageArchive(shards, cache_dir=folder)[7]

    first = read()
    faulty_server.forget()
    second = read()
    assert data_requests(faulty_server) == []
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_cache_read_of_a_part_fetches_only_its_blocks(faulty_server, url, folder):
    with opened(url, folder) as storage:
        assert storage.read(BLOCK + 5, 10_000) == DATA[BLOCK + 5 : BLOCK + 10_005]
        assert storage.read(3 * BLOCK - 7, 5000) == DATA[3 * BLOCK - 7 : 3 * BLOCK + 4993]
        # The last block is shorter.
        assert storage.read(len(DATA) - 9000, 9000) == DATA[-9000:]
        found = [one.range for one in data_requests(faulty_server)]
        last = len(DATA) // BLOCK * BLOCK
        assert found == [(BLOCK, 2 * BLOCK), (2 * BLOCK, 4 * BLOCK), (last, len(DATA))]
        faulty_server.forget()
        assert storage.read(2 * BLOCK, 2 * BLOCK) == DATA[2 * BLOCK : 4 * BLOCK]
        assert storage.read(BLOCK, 2 * BLOCK) == DATA[BLOCK : 3 * BLOCK]
        assert faulty_server.requests == []
        # What is there already is not requested again for what is not.
        assert storage.read(0, 3 * BLOCK) == DATA[: 3 * BLOCK]
        assert [one.range for one in faulty_server.requests] == [(0, BLOCK)]


def test_cache_threads_that_need_one_block_request_it_once(faulty_server, url, folder):
    faulty_server.configure(latency=0.05)
    with opened(url, folder) as storage:
        storage.read(0, 1)
        faulty_server.forget()
        found = []
        run_in_threads(lambda _: found.append(storage.read(5 * BLOCK + 10, 50_000)), 8)
    assert found == [DATA[5 * BLOCK + 10 : 5 * BLOCK + 50_010]] * 8
    assert len(faulty_server.requests) == 1


def test_cache_equal_base_names_are_different_objects(faulty_server, url, folder):
    assert read_all(url, folder) == DATA
    assert read_all(faulty_server.url("b/data.bin"), folder) == OTHER
    assert read_all(url, folder) == DATA


def test_cache_replaced_object_has_new_blocks(faulty_server, url, folder):
    assert read_all(url, folder) == DATA
    with opened(url, folder) as old:
        faulty_server.put({"a/data.bin": OTHER})
        assert read_all(url, folder) == OTHER
        # What was opened before is still what was opened.
        assert old.read(0, len(DATA)) == DATA
        for path in blocks_of(folder):
            path.unlink()
        with pytest.raises(StaleIndexError):
            old.read(0, len(DATA))


# ---------------------------------------------------------------- its size


def test_cache_size_is_never_exceeded(url, folder):
    random = np.random.default_rng(2)
    limit = 2 * MIB
    with opened(url, folder, limit) as storage:
        for _ in range(150):
            size = int(random.integers(1, 600_000))
            offset = int(random.integers(0, len(DATA) - size))
            assert storage.read(offset, size) == DATA[offset : offset + size]
            assert size_of(folder) <= limit
    assert size_of(folder) > limit // 2


def test_cache_block_that_was_used_last_stays(faulty_server, url, folder):
    with opened(url, folder, 2 * MIB) as storage:
        storage.read(0, 5000)
        for number in range(30, 0, -1):
            for path in blocks_of(folder):
                # As if a day had passed, in which only what is read again was used.
                os.utime(path, ns=(0, path.stat().st_mtime_ns - 86_400_000_000_000))
            storage.read(5, 5000)
            storage.read(number * BLOCK, 5000)
        faulty_server.forget()
        storage.read(0, 5000)
        assert faulty_server.requests == []
        storage.read(30 * BLOCK, 5000)
        assert len(faulty_server.requests) == 1


def read_randomly(url, folder, limit, seed, count):
    random = np.random.default_rng(seed)
    with opened(url, folder, limit) as storage:
        for _ in range(count):
            size = int(random.integers(1, 600_000))
            offset = int(random.integers(0, len(DATA) - size))
            assert storage.read(offset, size) == DATA[offset : offset + size]


def test_cache_of_several_processes_stays_within_its_size(url, folder):
    limit = 3 * MIB
    children = [
        FORK.Process(target=read_randomly, args=(url, folder, limit, seed, 60)) for seed in range(3)
    ]
    for child in children:
        child.start()
    while any(child.is_alive() for child in children):
        assert size_of(folder) <= limit
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert size_of(folder) > limit // 2


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_cache_is_shared_by_processes(faulty_server, url, folder, method):
    assert read_all(url, folder) == DATA
    faulty_server.forget()
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        path = add_options(url, cache_dir=folder, cache_bytes="1GB")
        assert pool.apply(hash_of, (path,)) == hash(DATA[:MIB]) or method != "fork"
    assert data_requests(faulty_server) == []


def hash_of(path):
    with locate(path).open() as storage:
        return hash(storage.read(0, MIB))


def test_cache_of_a_bucket_works_in_a_forked_child(moto, image_tar, pictures, folder):
    moto.put("cached/images.tar", image_tar.read_bytes())
    url, options = "s3://data/cached/images.tar", moto.storage_options
    archive = imagearchive.open(url, storage_options=options, cache_dir=folder)
    assert archive.read(0)

    def read(missing):
        for path in missing:
            path.unlink()
        assert dict(archive) == pictures

    assert in_child(read, blocks_of(folder)) == 0
    moto.put("cached/images.tar", b"replaced")
    # Read from the cache, in the parent and in a child: the object is not there any more.
    assert in_child(read, []) == 0
    assert dict(archive) == pictures


# ---------------------------------------------------------------- what can happen to it


@pytest.mark.parametrize("call", ["write", "rename", "pwrite", "unlink", "mkdir"])
@pytest.mark.parametrize("count", [1, 4])
def test_cache_process_killed_while_it_writes_costs_only_reading(url, folder, call, count):
    limit = 2 * MIB

    def kill_in_call():
        left, original = [count], getattr(os, call)

        def killing(*arguments, **options):
            if call == "write" and left[0] == 1:
                # In the middle of a block.
                original(arguments[0], arguments[1][:1000])
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(os, call, killing)
        read_randomly(url, folder, limit, 1, 200)

    assert in_child(kill_in_call) == -signal.SIGKILL
    assert size_of(folder) <= limit
    read_randomly(url, folder, limit, 2, 30)
    assert size_of(folder) <= limit
    # Nothing is left that counts and is not used.
    assert size_of(folder) > limit // 2


@pytest.mark.parametrize("place", [3, 60, 130, 5000, BLOCK - 1])
def test_cache_damaged_block_is_fetched_again(faulty_server, url, folder, caplog, place):
    assert read_all(url, folder) == DATA
    for path in blocks_of(folder):
        content = bytearray(path.read_bytes())
        if place < len(content):
            content[place] ^= 1
        path.write_bytes(content)
    assert read_all(url, folder) == DATA
    assert "damaged" in caplog.text
    faulty_server.forget()
    assert read_all(url, folder) == DATA
    assert data_requests(faulty_server) == []


def test_cache_block_under_the_name_of_another_is_not_used(url, folder):
    assert read_all(url, folder) == DATA
    contents = [path.read_bytes() for path in blocks_of(folder)]
    for path, content in zip(blocks_of(folder), contents[1:] + contents[:1]):
        path.write_bytes(content)
    assert read_all(url, folder) == DATA


@pytest.mark.parametrize("size", [0, 10, 100, 5000])
def test_cache_truncated_files_are_written_again(faulty_server, url, folder, size):
    assert read_all(url, folder) == DATA
    for path in files_of(folder):
        os.truncate(path, min(size, path.stat().st_size))
    assert read_all(url, folder) == DATA
    faulty_server.forget()
    assert read_all(url, folder) == DATA
    assert data_requests(faulty_server) == []


def test_cache_deleted_while_it_is_used_is_made_again(faulty_server, url, folder):
    with opened(url, folder) as storage:
        for number in range(30, 0, -3):
            assert storage.read(number * BLOCK, 5000) == DATA[number * BLOCK :][:5000]
            shutil.rmtree(folder)
            storage.read((number + 1) * BLOCK, 5000)
            assert blocks_of(folder)
            faulty_server.forget()
            storage.read((number + 1) * BLOCK, 5000)
            assert faulty_server.requests == []


def test_cache_deleted_by_another_process_at_any_time_costs_only_reading(url, folder):
    limit = 3 * MIB
    child = FORK.Process(target=read_randomly, args=(url, folder, limit, 1, 60))
    child.start()
    while child.is_alive():
        shutil.rmtree(folder, ignore_errors=True)
    assert child.exitcode == 0
    read_randomly(url, folder, limit, 2, 10)
    assert blocks_of(folder)


def test_cache_disk_that_is_full_is_logged_once(faulty_server, url, folder, tmp_path):
    log = tmp_path / "log"

    def read_with_full_disk():
        logging.basicConfig(filename=log, force=True)
        with opened(url, folder) as storage:
            storage.read(0, 10)
            log.write_text("")
            # The last block is short and fits.
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            assert storage.read(0, len(DATA)) == DATA
            assert storage.read(0, len(DATA)) == DATA

    assert in_child(read_with_full_disk) == 0
    text = log.read_text()
    assert text.count("\n") == 1
    assert "reading on without caching: File too large" in text
    # No part of a block is left.
    assert {path.name for path in files_of(folder)} >= {"count"}
    assert "new" not in {path.name for path in files_of(folder)}
    assert read_all(url, folder) == DATA


def test_cache_folder_that_cannot_be_made_is_logged_once(url, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert read_all(url, tmp_path / "file") == DATA
    assert [one.levelname for one in caplog.records] == ["WARNING"]
    assert (tmp_path / "file").read_text() == ""


def test_cache_folder_that_is_read_only_is_read(faulty_server, url, folder, monkeypatch):
    assert read_all(url, folder) == DATA
    for path in blocks_of(folder)[::2]:
        path.unlink()
    original = os.open

    def read_only(path, flags, *arguments, **options):
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(folder)):
            raise OSError(30, os.strerror(30), path)
        return original(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only)
    before = sorted(files_of(folder))
    faulty_server.forget()
    assert read_all(url, folder) == DATA
    assert sum(one.sent for one in faulty_server.requests) < len(DATA) * 0.6
    assert sorted(files_of(folder)) == before


def test_cache_folder_is_for_the_user_only(url, folder):
    read_all(url, folder)
    assert {path.stat().st_mode & 0o077 for path in folder.rglob("*")} == {0}
    assert folder.stat().st_mode & 0o077 == 0


def test_cache_lock_of_a_killed_process_is_not_kept_by_its_children(url, folder, tmp_path):
    original = os.rename

    def fork_and_die(*arguments):
        pid = os.fork()
        if not pid:
            signal.pause()
        (tmp_path / "pid").write_text(str(pid))
        os.kill(os.getpid(), signal.SIGKILL)
        original(*arguments)

    def write():
        os.rename = fork_and_die
        read_all(url, folder)

    assert in_child(write) == -signal.SIGKILL
    child = int((tmp_path / "pid").read_text())
    try:
        assert read_all(url, folder) == DATA
        assert len(blocks_of(folder)) == -(-len(DATA) // BLOCK)
    finally:
        os.kill(child, signal.SIGKILL)


# ---------------------------------------------------------------- its options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_bytes": "1GB"}, "cache_bytes needs cache_dir"),
        ({"cache_dir": "c", "cache_bytes": 1000}, "cache_bytes must be at least 1048576, got 1000"),
        ({"cache_dir": "c", "cache_bytes": "much"}, "cache_bytes must be a number of bytes"),
        ({"cache_dir": ""}, "cache_dir must be a path"),
        ({"cache_dir": "s3://bucket/cache"}, "cache_dir must be a folder on this machine"),
    ],
)
def test_cache_options_that_are_wrong_raise(options, message):
    for function in (imagearchive.open, ImageArchive, DataLoader):
        with pytest.raises(OptionError, match=message):
            function("http://127.0.0.1/x.tar", **options)
    with pytest.raises(OptionTypeError, match="cache_dir must be a path, got 3"):
        imagearchive.open("http://127.0.0.1/x.tar", cache_dir=3)


def test_cache_with_a_file_system_of_fsspec_raises(folder):
    import fsspec

    memory = fsspec.filesystem("memory")
    with pytest.raises(OptionError, match="cannot be combined with filesystem"):
        imagearchive.open("memory://x.tar", filesystem=memory, cache_dir=folder)


def test_cache_options_are_in_a_pickle(folder):
    path = add_options("http://host/x.tar", cache_dir=folder, cache_bytes="2MB")
    found = options_of(pickle.loads(pickle.dumps(path)))
    assert found.cache == (str(folder), 2 * MIB)
    assert found == options_of(path)
    assert found != options_of(add_options("http://host/x.tar", cache_dir=folder))


def test_loader_cache_dir_of_a_dataset_raises(shards, folder):
    with pytest.raises(OptionError, match="cache_dir= is for paths"):
        DataLoader(ImageArchive(shards), cache_dir=folder)
