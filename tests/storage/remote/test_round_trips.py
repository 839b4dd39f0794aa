"""How many requests in sequence it takes to the first batch, from the start or the middle."""

import numpy as np
import pytest
from support.archives import encoded, write_tar

from imagearchive import DataLoader, ImageArchive, IndexTable, Resize

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


@pytest.fixture
def server(faulty_server, files):
    faulty_server.put(files)
    faulty_server.configure(round_gap=0.04)
    return faulty_server


@pytest.fixture
def new_machine(tmp_path, monkeypatch):
    """Return a function after which this machine has no copy of any index."""
    numbers = iter(range(100))
    return lambda: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{next(numbers)}"))


def rounds(server, source, position=0):
    """The number of rounds of requests until the first batch, which is half of the samples."""
    before = server.totals.rounds
    loader = DataLoader(
        source(), COUNT // 2, shuffle=True, transform=Resize(8, 8), output="numpy", num_workers=1
    )
    with loader:
        if position:
            loader.load_state_dict({**loader.state_dict(), "position": position})
        images, _ = next(iter(loader))
        assert len(images) == COUNT // 2
        return server.totals.rounds - before


def test_first_batch_of_a_resumed_epoch_takes_as_many_rounds_as_that_of_a_new_one(
    server, new_machine
):
    def source():
        return ImageArchive(server.url(f"s-{{0..{SHARDS - 1}}}.tar"))

    new_machine()
    started = rounds(server, source)
    new_machine()
    assert rounds(server, source, COUNT // 2) == started
