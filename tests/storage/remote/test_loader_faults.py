"""An epoch on a server that makes mistakes: every sample is right, or an error names the object.

The server is asked as an HTTP server, and as a bucket of S3, which obstore reads.
"""

import dataclasses

import numpy as np
import pytest
from support.archives import encoded, write_tar
from support.servers.faults import (
    Cut,
    Delay,
    Drip,
    Drop,
    Header,
    IgnoreRange,
    Redirect,
    Replace,
    Shorten,
    Status,
)
from support.servers.faulty import FaultyServer
from support.servers.object_stores import http_bucket

from imagearchive import DataLoader, ImageArchive, Resize
from imagearchive.errors import ImageArchiveError, RemoteError, StaleIndexError
from imagearchive.storage.remote.prefetcher import PREFETCH_BYTES, prefetcher

SHARDS = 100
TOKEN = ("authorization", "Bearer old")
OPTIONS = {
    "retry_config": {"max_retries": 4, "backoff": {"init_backoff": "1ms", "max_backoff": "5ms"}},
    "client_options": {"timeout": "2s", "default_headers": {"Authorization": TOKEN[1]}},
}
# A shard is replaced by one of the same size, whose images are others.
REPLACED = "s-57.tar"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A hundred TARs of three images each, by name."""
    folder = tmp_path_factory.mktemp("shards")
    for number in range(SHARDS):
        images = [np.full((6, 5, 3), (number, image, 9), np.uint8) for image in range(3)]
        members = {f"{number:02}-{image}.bmp": encoded(images[image], "BMP") for image in range(3)}
        write_tar(folder / f"s-{number:02}.tar", members)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def shared_server(shards, tmp_path_factory):
    """A server of the shards, and the arguments that open them; the indexes are built once."""
    with FaultyServer(shards | {f"data/{name}": path for name, path in shards.items()}) as server:
        folder = tmp_path_factory.mktemp("index")
        retries = {"retry_config": OPTIONS["retry_config"]}
        bucket = http_bucket("s3", server.url(), client_options={"timeout": "2s"}, **retries)
        arguments = {
            "http": (server.url("s-{00..99}.tar"), OPTIONS),
            "s3": ("s3://data/s-{00..99}.tar", bucket),
        }
        for scheme, (url, options) in arguments.items():
            ipath = folder / f"{scheme}.idx.npy"
            arguments[scheme] = {"apath": url, "ipath": ipath, "storage_options": options}
            ImageArchive(**arguments[scheme]).close()
        yield server, arguments


@pytest.fixture
def server(shared_server, shards):
    server, _ = shared_server
    # In this order, because requests of the last test may still replace the shard.
    server.forget()
    server.put({REPLACED: shards[REPLACED], f"data/{REPLACED}": shards[REPLACED]})
    yield server
    # The loaders of this process share it.
    prefetcher().limit = PREFETCH_BYTES


@pytest.fixture
def dataset(server, shared_server):
    with ImageArchive(**shared_server[1]["http"]) as dataset:
        yield dataset


@pytest.fixture
def bucket_dataset(server, shared_server):
    with ImageArchive(**shared_server[1]["s3"]) as dataset:
        yield dataset


def epoch(dataset, on_error, after_first_batch=lambda: None):
    """Read an epoch in a random order; return a pixel of each sample, sorted."""
    loader = DataLoader(
        dataset,
        batch_size=10,
        num_workers=2,
        output="numpy",
        transform=Resize(6, 5),
        shuffle=True,
        seed=1,
        on_error=on_error,
        prefetch_bytes="16k",
    )
    found = []
    for number, (images, _) in enumerate(loader):
        found += [tuple(image[:, 0, 0].tolist()) for image in images]
        if number == 0:
            after_first_batch()
    return sorted(found)


EVERY_SAMPLE = [(number, image, 9) for number in range(SHARDS) for image in range(3)]


def name_of_case(value):
    return getattr(value, "__name__", type(value).__name__)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize(
    "fault",
    [
        Status(503, skip=5, times=4),
        Status(429, {"retry-after": "0"}, times=3),
        Cut(50, skip=3, times=3),
        Cut(50, reset=True, skip=3, times=3),
        Drop(skip=3, times=3),
        Shorten(7, skip=3, times=3),
        Drip(100, 0.001, skip=3, times=5),
        Delay(0.05, skip=3, times=5),
    ],
    ids=name_of_case,
)
def test_epoch_with_failures_that_pass_has_every_sample(server, dataset, fault, on_error):
    found = epoch(dataset, on_error, lambda: server.fail(fault))
    assert found == EVERY_SAMPLE


@pytest.mark.parametrize("on_error", ["raise", "skip", "replace"])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(503), RemoteError),
        (Status(404), ImageArchiveError),
        (Status(403), RemoteError),
        (Status(401, header=TOKEN), RemoteError),
        (Cut(50, reset=True), RemoteError),
        (Drop(), RemoteError),
        (Shorten(7), RemoteError),
        (IgnoreRange(), ImageArchiveError),
        (Redirect("/s-57.tar"), RemoteError),
        (Replace(b"x" * 10_240), StaleIndexError),
        (Header("etag", '"other"'), StaleIndexError),
        (Status(200, {"content-type": "text/html"}, b"<html>Log in"), RemoteError),
    ],
    ids=name_of_case,
)
def test_epoch_with_one_shard_of_a_hundred_out_is_an_error_that_names_it(
    server, dataset, fault, error, on_error
):
    fault = dataclasses.replace(fault, path=REPLACED)
    with pytest.raises(error, match=r"s-57\.tar: "):
        epoch(dataset, on_error, lambda: server.fail(fault))


@pytest.mark.parametrize(
    "fault",
    [Status(503, skip=5, times=4), Shorten(7, skip=3, times=2), Drop(skip=3, times=3)],
    ids=name_of_case,
)
def test_epoch_of_a_bucket_with_failures_that_pass_has_every_sample(server, bucket_dataset, fault):
    assert epoch(bucket_dataset, "skip", lambda: server.fail(fault)) == EVERY_SAMPLE


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(503), RemoteError),
        (Status(404), ImageArchiveError),
        (Status(403), RemoteError),
        (Drop(), RemoteError),
        (Shorten(7), ImageArchiveError),
        (IgnoreRange(), ImageArchiveError),
        (Redirect(f"/data/{REPLACED}"), RemoteError),
        (Header("etag", '"other"'), StaleIndexError),
    ],
    ids=name_of_case,
)
def test_epoch_of_a_bucket_with_one_shard_of_a_hundred_out_is_an_error_that_names_it(
    server, bucket_dataset, fault, error
):
    fault = dataclasses.replace(fault, path=f"data/{REPLACED}")
    with pytest.raises(error, match=r"s3://data/s-57\.tar: "):
        epoch(bucket_dataset, "skip", lambda: server.fail(fault))


def test_epoch_with_one_shard_replaced_by_one_of_its_size_never_mixes(server, dataset, shards):
    other = shards["s-02.tar"].read_bytes()
    with pytest.raises(StaleIndexError, match=r"s-57\.tar: "):
        epoch(dataset, "skip", lambda: server.put({REPLACED: other}))


def test_epoch_after_an_outage_has_every_sample(server, dataset):
    server.fail(Status(503))
    with pytest.raises(RemoteError):
        epoch(dataset, "skip")
    server.forget()
    assert epoch(dataset, "skip") == EVERY_SAMPLE
