"""Child processes of a parent that has read: each way of starting them, without a hang."""

import multiprocessing
import os
import signal
import time
import weakref
from types import SimpleNamespace

import pytest
from support.servers.faulty import FaultyServer
from support.threads import collide

import imagearchive
from imagearchive import ImageArchive
from imagearchive.storage.path_options import AccessOptions
from imagearchive.storage.remote.client import ObjectStatus
from imagearchive.storage.remote.clients import client_for
from imagearchive.storage.remote.prefetcher import Owner, prefetcher
from imagearchive.storage.remote.storage import RemoteStorage

# A child that takes longer has hung.
TIMEOUT = 60
FORKS = 200


@pytest.fixture
def archive(moto, image_tar):
    moto.put("forks/images.tar", image_tar.read_bytes())
    archive = imagearchive.open("s3://data/forks/images.tar", storage_options=moto.storage_options)
    archive.read(0)
    return archive


def in_child(call):
    """Fork; return whether `call` returned something true in the child."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(TIMEOUT)
        status = 1
        try:
            status = 0 if call() else 2
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def test_child_of_a_parent_that_has_read_a_bucket_reads(archive, pictures):
    assert in_child(lambda: dict(archive) == pictures)
    # The parent still does, too.
    assert dict(archive) == pictures


def test_child_opens_a_bucket_that_its_parent_has_not(archive, moto, image_tar, pictures):
    moto.put("forks/other.tar", image_tar.read_bytes())
    assert in_child(
        lambda: (
            dict(
                imagearchive.open("s3://data/forks/other.tar", storage_options=moto.storage_options)
            )
            == pictures
        )
    )


def test_grandchild_reads_as_its_parents_do(archive, pictures):
    def child():
        return dict(archive) == pictures and in_child(lambda: dict(archive) == pictures)

    assert in_child(child)


def test_child_gets_the_errors_of_its_helper(archive, moto):
    def child():
        try:
            imagearchive.open("s3://data/forks/none.tar", storage_options=moto.storage_options)
        except imagearchive.errors.ArchiveNotFoundError as error:
            return "none.tar" in str(error)

    assert in_child(child)


def test_child_in_the_middle_of_requests_ahead_reads(archive, pictures):
    for _ in range(10):
        archive.prefetch(pictures)
        assert in_child(lambda: archive.read_many(list(pictures)) == list(pictures.values()))
    assert archive.read_many(list(pictures)) == list(pictures.values())


def test_bucket_is_read_after_each_of_many_forks(archive, pictures):
    names = list(pictures)
    # A quarter of the number below, because each starts a helper.
    for number in range(FORKS // 4):
        archive.prefetch(names)
        which = number % len(names)
        assert in_child(lambda w=which: archive[names[w]] == pictures[names[w]]), number


def test_http_is_read_after_each_of_many_forks(image_tar, pictures):
    with FaultyServer({"images.tar": image_tar.read_bytes()}) as server:
        archive = imagearchive.open(server.url("images.tar"))
        archive.read(0)
        names = list(pictures)
        for number in range(FORKS):
            archive.prefetch(names)
            which = number % len(names)
            assert in_child(lambda w=which: archive[names[w]] == pictures[names[w]]), number


def _read_all(archive):
    return dict(archive)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_process_started_in_any_way_reads_a_pickled_archive(archive, pictures, method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map_async(_read_all, [archive] * 3).get(TIMEOUT)
    assert found == [pictures] * 3


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.needs_torch
def test_torch_workers_read_after_their_parent(archive, moto, context):
    torch_data = pytest.importorskip("torch.utils.data")
    dataset = ImageArchive("s3://data/forks/images.tar", storage_options=moto.storage_options)
    assert dataset[0][0].size == (7, 9)
    loader = torch_data.DataLoader(
        dataset,
        batch_size=3,
        num_workers=2,
        collate_fn=list,
        multiprocessing_context=context,
        timeout=TIMEOUT,
    )
    assert [[image.size for image, _ in batch] for batch in loader] == [[(7, 9)] * 3] * 4


def test_child_frees_no_client_of_its_parent():
    client = client_for("http", "", AccessOptions())
    alive = weakref.ref(client)
    del client
    # Freeing it could wait for a lock that no thread of the child holds.
    assert in_child(lambda: alive() is not None)


def test_threads_of_a_child_that_request_ahead_at_once_leave_nothing_behind(monkeypatch):
    def make_owner(fetch):
        # Another thread goes on meanwhile.
        time.sleep(0.001)
        return Owner(fetch)

    client = SimpleNamespace(read=lambda key, offset, size, status: memoryview(bytes(size)))
    storages = [
        RemoteStorage("memory", "key", lambda: client, ObjectStatus(1 << 20, 'etag="1"'))
        for _ in range(5)
    ]
    monkeypatch.setattr("imagearchive.storage.remote.storage.Owner", make_owner)

    def request_and_close():
        for storage in storages:
            # All threads find out about the fork at once.
            collide(lambda number, one=storage: one.prefetch(number << 16, 10), 4)
            storage.close()
        return prefetcher().used == 0

    assert in_child(request_and_close)
