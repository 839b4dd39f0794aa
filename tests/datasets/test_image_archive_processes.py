"""`ImageArchive` in threads, in processes and in pickles."""

import copy
import hashlib
import multiprocessing
import os
import pickle
import tarfile

import numpy as np
import pytest
from support.archives import write_tar
from support.threads import run_in_threads

from imagearchive import ImageArchive
from imagearchive.errors import (
    StaleIndexError,
)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """3,000 members of random bytes, and the digest that each must have."""
    random = np.random.default_rng(3)
    members = {
        f"{i % 7}/{i:05d}.bin": random.bytes(int(random.integers(10, 4000))) for i in range(3000)
    }
    path = write_tar(tmp_path_factory.mktemp("large") / "large.tar", members)
    return str(path), [hashlib.sha256(data).digest() for data in members.values()]


def wrong_reads(dataset, digests, seed, count=10_000):
    random = np.random.default_rng(seed)
    return sum(
        hashlib.sha256(dataset.read(i)).digest() != digests[i]
        for i in random.integers(0, len(digests), count).tolist()
    )


def read_in_child(dataset, digests, seed, results):
    results.put(wrong_reads(dataset, digests, seed))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(
    "options", [{}, {"open_after_fork": True, "storage": "pread"}, {"data_in_memory": True}]
)
def test_image_archive_processes_read_the_right_bytes(large, method, options):
    path, digests = large
    dataset = ImageArchive(path, **options)
    dataset.read(0)
    context = multiprocessing.get_context(method)
    results = context.Queue()
    workers = [
        context.Process(target=read_in_child, args=(dataset, digests, seed, results))
        for seed in range(2)
    ]
    for worker in workers:
        worker.start()
    assert wrong_reads(dataset, digests, 9, 3000) == 0
    assert [results.get(timeout=120) for _ in workers] == [0, 0]
    for worker in workers:
        worker.join()


@pytest.mark.parametrize("storage", ["mmap", "pread", "memory"])
def test_image_archive_threads_read_the_right_bytes(large, storage):
    path, digests = large
    dataset = ImageArchive(path, storage=storage)
    wrong = run_in_threads(lambda seed: wrong_reads(dataset, digests, seed))
    assert wrong == [0] * 4


def open_files(path):
    links = (os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd"))
    return [link for link in links if os.path.exists(link) and os.path.samefile(link, path)]


def test_image_archive_open_after_fork_opens_at_first_read(image_tar):
    ImageArchive(image_tar)
    dataset = ImageArchive(image_tar, open_after_fork=True, storage="pread")
    assert not open_files(image_tar)
    dataset.worker_open_archive(0)
    assert open_files(image_tar)
    late = ImageArchive(image_tar, open_after_fork=True, storage="pread")
    before = len(open_files(image_tar))
    late[0]
    assert len(open_files(image_tar)) == before + 1
    assert len(open_files(image_tar)) > 0
    early = ImageArchive(image_tar, storage="pread")
    assert len(open_files(image_tar)) == before + 2
    early.close()


class Widened(ImageArchive):
    """A subclass with arguments of its own."""

    def __init__(self, folder, factor):
        super().__init__(os.path.join(folder, "images.tar"))
        self.factor = factor

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label * self.factor


def test_image_archive_pickle_keeps_options_and_attributes(image_tar, tmp_path, monkeypatch):
    options = {
        "root": "", "extensions": ".png", "split_mask": [1, 0] * 6, "cache_size": 3,
        "storage": "pread", "strict": False, "mode": "single",
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    dataset = ImageArchive(image_tar.name, **options)
    dataset.transform = np.asarray
    dataset.note = "set later"
    data = pickle.dumps(dataset)
    monkeypatch.chdir("/")
    again = pickle.loads(data)
    assert list(again.samples) == list(dataset.samples)
    assert np.array_equal(again[1][0], dataset[1][0])
    assert again.note == "set later"
    assert copy.deepcopy(dataset)[0][1] == dataset[0][1]
    widened = pickle.loads(pickle.dumps(Widened(str(tmp_path), 10)))
    assert widened[0][1] == 20
    assert widened.factor == 10


def test_image_archive_pickle_of_changed_archive_raises_stale_index(image_tar):
    data = pickle.dumps(ImageArchive(image_tar))
    with tarfile.open(image_tar, "a") as archive:
        archive.addfile(tarfile.TarInfo("ant/1.png"))
    with pytest.raises(StaleIndexError):
        pickle.loads(data)


def test_image_archive_pickle_is_small(tmp_path):
    path = tmp_path / "million.tar"
    header = bytearray(tarfile.TarInfo("0000000").tobuf(tarfile.USTAR_FORMAT))
    with open(path, "wb") as file:
        for number in range(1_000_000):
            header[0:7] = b"%07d" % number
            header[148:156] = b"        "
            header[148:156] = b"%06o\0 " % sum(header)
            file.write(header)
    dataset = ImageArchive(path)
    assert len(dataset) == 1_000_000
    data = pickle.dumps(dataset)
    assert len(data) < 4096
    assert len(pickle.loads(data)) == 1_000_000


def test_image_archive_pickle_leaves_out_data_in_memory(large):
    path, _ = large
    assert len(pickle.dumps(ImageArchive(path, data_in_memory=True, open_after_fork=True))) < 4096
