"""Rows of an NPZ on a server: requested ahead, many at once."""

import numpy as np
import pytest

from imagearchive import CombinedLazyDataset, DataLoader, LazyNPZDataset, NpzWriter, Resize

COUNT = 64


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An NPZ with columns of every kind, and a plain array."""
    folder = tmp_path_factory.mktemp("rows")
    random = np.random.default_rng(0)
    with NpzWriter(folder / "x.npz") as writer:
        for number in range(COUNT):
            writer.append(
                images=random.integers(0, 256, (64, 64, 3), np.uint8),
                boxes=random.random((number % 4, 4)).astype(np.float32),
                grids=random.random((1 + number % 3, 2 + number % 2)),
                names=f"row {number}" * (1 + number * number),
                labels=number,
            )
    objects = np.empty(COUNT, object)
    for number in range(COUNT):
        objects[number] = [float(number)] * (number % 5) + [bytes(20_000)]
    with np.load(folder / "x.npz") as arrays:
        np.savez(folder / "objects.npz", **arrays, lists=objects)
    np.save(folder / "plain.npy", random.integers(0, 256, (COUNT, 64, 64, 3), np.uint8))
    return folder


@pytest.fixture
def put(faulty_server, written):
    def put_file(name):
        faulty_server.put({name: (written / name).read_bytes()})
        return faulty_server.url(name)

    return put_file


def same(one, other):
    """Whether two samples are equal."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        expected = other[name]
        if isinstance(value, np.ndarray):
            assert value.dtype == expected.dtype
            assert np.array_equal(value, expected), name
        else:
            assert value == expected, name
    return True


@pytest.mark.parametrize("name", ["x.npz", "objects.npz", "plain.npy"])
def test_rows_requested_ahead_are_those_of_the_file(put, written, name):
    indices = [*np.random.default_rng(1).permutation(COUNT).tolist(), 3, 3, COUNT - 1]
    with LazyNPZDataset(put(name)) as there, LazyNPZDataset(written / name) as here:
        assert there.requests_ahead > 0
        assert here.requests_ahead == 0
        for found, expected in zip(there.__getitems__(indices), here.__getitems__(indices)):
            assert same(found, expected)
        batch, expected = there.get_batch(indices), here.get_batch(indices)
        assert batch.keys() == expected.keys()
        for column, rows in batch.items():
            assert rows.shape == expected[column].shape
            for row, other in zip(rows, expected[column]):
                assert np.array_equal(row, other)
        assert same(there[-1], here[-1])


@pytest.mark.parametrize("name", ["x.npz", "objects.npz"])
def test_rows_of_a_batch_are_requested_together(faulty_server, put, name):
    """Neighbors are one request, whatever the number of columns."""
    with LazyNPZDataset(put(name)) as dataset:
        dataset.prepare()
        dataset.__getitems__(range(4))
        before = faulty_server.totals.requests
        dataset.__getitems__(range(8, 40))
        # Without reading ahead, each row is a request for each column, and three more.
        assert faulty_server.totals.requests - before <= 12


def test_rows_that_are_far_apart_are_requested_at_the_same_time(faulty_server, put):
    with LazyNPZDataset(put("plain.npy")) as dataset:
        dataset[0]
        faulty_server.configure(latency=0.05)
        dataset.__getitems__(range(0, COUNT, 16))
        assert faulty_server.totals.most_in_flight >= 3
        faulty_server.configure()


@pytest.mark.parametrize("combined", [False, True])
def test_loader_requests_rows_ahead(faulty_server, put, written, combined):
    def batches(source):
        loader = DataLoader(
            source,
            batch_size=8,
            shuffle=True,
            seed=1,
            num_workers=1,
            transform=Resize(8, 8),
            output="numpy",
        )
        return [(np.array(images), np.array(labels)) for images, labels in loader]

    url = put("x.npz")
    keys = ["images", "labels"]
    with LazyNPZDataset(url, keys=keys) as dataset:
        dataset.prepare()
        before = faulty_server.totals.requests
        found = batches(CombinedLazyDataset([dataset]) if combined else dataset)
        requests = faulty_server.totals.requests - before
    with LazyNPZDataset(written / "x.npz", keys=keys) as here:
        for (images, labels), (others, numbers) in zip(found, batches(here), strict=True):
            assert np.array_equal(images, others)
            assert np.array_equal(labels, numbers)
    assert requests < COUNT
