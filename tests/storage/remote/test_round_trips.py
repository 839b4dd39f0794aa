"""How many requests in sequence it takes to the first batch, from the start or the middle."""

from functools import partial

import numpy as np
import pytest
from support.archives import encoded, write_tar

import imagearchive
from imagearchive import (
    CombinedLazyDataset,
    DataLoader,
    ImageArchive,
    IndexTable,
    LazyNPZDataset,
    Resize,
    ToTensor,
)
from imagearchive.index.recorded_files import FILES, describe_files
from imagearchive.storage.patterns import expand_paths

SHARDS = 5
COUNT = 20


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Shards of images and their indexes, by name."""
    folder = tmp_path_factory.mktemp("shards")
    random = np.random.default_rng(1)
    images = [
        (f"c{number % 3}/{number:02}.png", encoded(random.integers(0, 256, (9, 8, 3), np.uint8)))
        for number in range(COUNT)
    ]
    for shard in range(SHARDS):
        IndexTable.open(write_tar(folder / f"s-{shard}.tar", dict(images[shard::SHARDS])))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Seconds without a request that end a round. A busy machine may send requests later than that; they
# then count as a round of their own, unless the next gap is long enough for them.
GAPS = 0.05, 0.25, 1


@pytest.fixture
def server(faulty_server, files):
    faulty_server.put(files)
    faulty_server.configure(round_gap=GAPS[0])
    return faulty_server


@pytest.fixture
def new_machine(tmp_path, monkeypatch):
    """Return a function after which this machine has no copy of any index."""
    numbers = iter(range(100))
    return lambda: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{next(numbers)}"))


def few_rounds(server, new_machine, source, position, most, openings=1):
    """Whether no opening on a new machine takes more rounds to the first batch."""
    for gap in GAPS:
        server.configure(round_gap=gap)
        new_machine()
        server.forget()
        if all(rounds(server, source, position) <= most for _ in range(openings)):
            return True
    return False


def rounds(server, source, position):
    """Return the number of rounds of requests from opening a source to the first batch."""
    before = server.totals.rounds
    with DataLoader(
        source(), 2, shuffle=True, transform=Resize(8, 8), output="numpy", num_workers=1
    ) as loader:
        if position:
            loader.load_state_dict({**loader.state_dict(), "position": position})
        assert len(next(iter(loader))[1]) == 2
        return server.totals.rounds - before


# One for the archives and their indexes, one for headers if indexes were copied from elsewhere, one
# for members, and two for what a machine that is busy sends too late.
MOST = 5


@pytest.mark.parametrize("position", [0, 2])
@pytest.mark.parametrize("name", ["s-0.tar", "s-{0..4}.tar"])
@pytest.mark.parametrize("opened", [str, ImageArchive])
def test_first_batch_of_archives_with_indexes_takes_few_rounds(
    server, new_machine, name, opened, position
):
    source = partial(opened, server.url(name))
    # Also when the indexes are on this machine.
    assert few_rounds(server, new_machine, source, position, MOST, openings=2)


@pytest.mark.parametrize("position", [0, 2])
def test_first_batch_of_archives_with_a_joined_index_takes_few_rounds(
    server, new_machine, tmp_path, position
):
    pattern = server.url("s-{0..4}.tar")
    new_machine()
    joined = ImageArchive(pattern, ipath=tmp_path / "joined.idx.npy").archive.table
    # As in the index of archives in a bucket, which can be written to.
    joined.extra = {**joined.extra, FILES: describe_files(joined.file_signatures)}
    joined.save(tmp_path / "joined.idx.npy")
    server.put({"joined.idx.npy": tmp_path / "joined.idx.npy"})
    opened = partial(ImageArchive, pattern, ipath=server.url("joined.idx.npy"))
    assert few_rounds(server, new_machine, opened, position, MOST - 1)
    # It is asked for once.
    assert [one.path for one in server.requests].count("joined.idx.npy") == 1


@pytest.mark.parametrize("position", [0, 2])
def test_first_batch_of_arrays_takes_few_rounds(server, new_machine, tmp_path, position):
    path = tmp_path / "a.npz"
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (60, 40, 40, 3), np.uint8)
    np.savez(path, images=images, labels=np.arange(60), boxes=random.random((60, 4)))
    IndexTable.open(path)
    server.put({"a.npz": path, "a.idx.npy": path.with_suffix(".idx.npy")})
    columns = partial(LazyNPZDataset, server.url("a.npz"), keys=["images", "labels"])
    # The headers of two arrays, and a first sample, which tells what the fields are; to resume,
    # some rows are compared.
    assert few_rounds(server, new_machine, columns, position, MOST + 5)


def test_rows_of_arrays_are_requested_ahead(server, tmp_path):
    path = tmp_path / "a.npz"
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (60, 40, 40, 3), np.uint8)
    np.savez(path, images=images, labels=np.arange(60))
    server.put({"a.npz": path, "b.npz": path})
    server.configure()
    parts = [LazyNPZDataset(server.url(name)) for name in ("a.npz", "b.npz")]
    assert [part.requests_ahead for part in parts] == [4096] * 2
    server.configure(latency=0.02)
    for dataset, count in ((parts[0], 60), (CombinedLazyDataset(parts), 120)):
        server.forget()
        loader = DataLoader(dataset, 10, shuffle=True, transform=ToTensor(), output="numpy")
        labels = [label for _, batch in loader for label in batch.tolist()]
        assert sorted(labels) == sorted(np.tile(np.arange(60), count // 60).tolist())
        # One after the other, each label and image would be a request.
        assert server.totals.requests < count
        assert server.totals.most_in_flight > 1
    server.forget()
    rows = [50, 3, 20, 21, 40]
    assert np.array_equal(parts[0].get_batch(rows)["images"], images[rows])
    assert server.totals.most_in_flight > 1
    server.forget()
    assert [sample["labels"] for sample in parts[1].__getitems__(rows)] == rows
    assert server.totals.requests < len(rows)
    assert LazyNPZDataset(path).requests_ahead == 0


def test_archives_without_an_index_are_asked_for_it_at_once(server, files, new_machine):
    names = {f"s-{number}.idx.npy": None for number in range(SHARDS)}
    server.put(names)
    new_machine()
    server.forget()
    imagearchive.open(server.url("s-{0..4}.tar"))
    first = [(one.path, one.status) for one in server.requests[: 2 * SHARDS]]
    assert {name for name, status in first if status == 404} == set(names)


def test_braces_in_a_url_are_expanded_without_a_request(server):
    server.forget()
    assert len(expand_paths(server.url("s-{0..4}.tar"))) == SHARDS
    assert server.requests == []


def test_many_archives_are_asked_for_their_status_before_their_indexes(server, new_machine, files):
    # A joined index on this machine may be all that is needed.
    count = 40
    server.put({f"m-{number:02}.tar": files["s-0.tar"] for number in range(count)})
    pattern = server.url(f"m-{{00..{count - 1}}}.tar")
    new_machine()
    server.configure()
    imagearchive.open(pattern)
    server.forget()
    imagearchive.open(pattern)
    assert len({one.path for one in server.requests}) == len(server.requests) == count
