"""The loader on servers: what it requests, in which order, and what becomes of outages."""

import gc
import time

import numpy as np
import pytest
from support.archives import encoded, write_tar
from support.servers.faults import Header, Replace, Status

import imagearchive
from imagearchive import DataLoader, ImageArchive, Resize, SampleArchive
from imagearchive.errors import RemoteError, StaleIndexError
from imagearchive.storage.remote.prefetcher import prefetcher

QUICK = {"retry_config": {"max_retries": 0}}
COUNT = 96


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(1)
    return {
        f"c{number % 3}/{number:03}.png": encoded(random.integers(0, 256, (48, 64, 3), np.uint8))
        for number in range(COUNT)
    }


@pytest.fixture
def shards(faulty_server, images, tmp_path):
    names = list(images)
    for number in range(4):
        path = write_tar(tmp_path / "s.tar", {name: images[name] for name in names[number::4]})
        faulty_server.put({f"s-{number}.tar": path.read_bytes()})
    return faulty_server.url("s-{0..3}.tar")


def batches(source, **options):
    settings = {"batch_size": 8, "num_workers": 2, "output": "numpy", "transform": Resize(8, 8)}
    loader = DataLoader(source, **{**settings, **options})
    return [(images.copy(), np.array(labels)) for images, labels in loader]


@pytest.mark.parametrize("shuffle", [False, True, "blocks"])
def test_loader_gives_the_batches_of_files(shards, images, tmp_path, shuffle):
    names = list(images)
    for number in range(4):
        write_tar(tmp_path / f"s-{number}.tar", {name: images[name] for name in names[number::4]})
    found = batches(shards, shuffle=shuffle, seed=3)
    expected = batches(tmp_path / "s-{0..3}.tar", shuffle=shuffle, seed=3)
    assert len(found) == COUNT // 8
    for one, other in zip(found, expected):
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])


def test_loader_has_many_requests_in_flight(faulty_server, shards):
    dataset = ImageArchive(shards)
    # Members far from each other are a request each.
    faulty_server.configure(latency=0.05)
    batches(dataset, batch_size=4, num_workers=1, shuffle=True)
    assert faulty_server.totals.most_in_flight >= 4


def test_loader_requests_neighbors_together(faulty_server, shards):
    dataset = ImageArchive(shards)
    before = faulty_server.totals.requests
    batches(dataset)
    # Of 4 shards, all that is announced at once is one request each.
    assert faulty_server.totals.requests - before < COUNT / 2


def test_members_are_requested_ahead_by_their_size(faulty_server, tmp_path):
    for size, expected in ((100, 4096), (64_000, 1048), (4_000_000, 16)):
        path = write_tar(tmp_path / "m.tar", {f"{number}.bin": bytes(size) for number in range(2)})
        faulty_server.put({f"m-{size}.tar": path.read_bytes()})
        with imagearchive.open(faulty_server.url(f"m-{size}.tar")) as archive:
            assert archive.requests_ahead == expected
        with imagearchive.open(path) as archive:
            assert archive.requests_ahead == 0


def test_loader_left_early_leaves_no_memory_in_use(shards):
    dataset = ImageArchive(shards)
    loader = DataLoader(dataset, batch_size=8, num_workers=2, output="numpy")
    for _ in range(3):
        next(iter(loader))
    assert len(list(loader)) == COUNT // 8


def test_loader_that_is_dropped_in_the_middle_leaves_no_memory_in_use(shards):
    gc.collect()
    before = prefetcher().used
    options = {"transform": Resize(8, 8), "output": "numpy", "num_workers": 1}
    images, _ = next(iter(DataLoader(shards, 8, shuffle=True, **options)))
    assert images.shape == (8, 3, 8, 8)
    del images
    deadline = time.monotonic() + 20
    while prefetcher().used > before:
        gc.collect()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("on_error", ["raise", "skip", "replace"])
def test_outage_is_an_error_whatever_becomes_of_broken_samples(faulty_server, shards, on_error):
    dataset = ImageArchive(shards, storage_options=QUICK)
    faulty_server.fail(Status(status=503, path="s-2.tar"))
    with pytest.raises(RemoteError, match=r"s-2\.tar: the server answered 503"):
        batches(dataset, on_error=on_error)


def test_shard_that_is_gone_is_an_error_that_names_it(faulty_server, shards):
    dataset = ImageArchive(shards, storage_options=QUICK)
    faulty_server.put({"s-1.tar": None})
    with pytest.raises(FileNotFoundError, match=r"s-1\.tar"):
        batches(dataset, on_error="skip")


def test_shard_replaced_in_the_middle_of_an_epoch_is_an_error(faulty_server, shards):
    dataset = ImageArchive(shards, storage_options=QUICK)
    loader = DataLoader(dataset, batch_size=2, num_workers=1, output="numpy", on_error="skip")
    faulty_server.fail(Replace(data=b"x" * 100_000, skip=20))
    with pytest.raises(StaleIndexError, match="replaced"):
        list(loader)


def test_server_that_sends_another_state_is_an_error(faulty_server, shards):
    dataset = ImageArchive(shards, storage_options=QUICK)
    faulty_server.fail(Header(name="etag", value='"other"'))
    with pytest.raises(StaleIndexError):
        batches(dataset, on_error="skip")


def test_samples_of_several_fields_are_requested_ahead(faulty_server, images, tmp_path):
    members = {}
    for name, data in list(images.items())[:24]:
        key = name[3:-4]
        members |= {f"images/{key}.png": data, f"text/{key}.txt": key.encode()}
    path = write_tar(tmp_path / "pairs.tar", members)
    faulty_server.put({"pairs.tar": path.read_bytes()})
    dataset = SampleArchive(
        faulty_server.url("pairs.tar"), {"image": "images/{key}.png", "text": "text/{key}.txt"}
    )
    before = faulty_server.totals.requests
    loader = DataLoader(dataset, batch_size=8, num_workers=2, output="numpy")
    keys = [sample["text"] for batch in loader for sample in batch]
    assert keys == sorted(keys)
    assert faulty_server.totals.requests - before < 24


def test_prefetch_bytes_bounds_what_is_fetched(shards):
    from imagearchive.storage.remote.prefetcher import PREFETCH_BYTES, prefetcher

    try:
        assert len(batches(shards, prefetch_bytes="64k")) == COUNT // 8
        assert prefetcher().limit == 64 << 10
    finally:
        prefetcher().limit = PREFETCH_BYTES
