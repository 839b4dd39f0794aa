"""`state_dict` and `load_state_dict` of the loader."""

import json
import pickle
import threading
import time

import numpy as np
import pytest
from support.samples import (
    COUNT,
    FILES,
    TRAINING,
    Encoded,
    Numbered,
    labels_of,
    same_batches,
)

from imagearchive import ImageArchive
from imagearchive.errors import (
    StateMismatchError,
)
from imagearchive.loader.data_loader import DataLoader


@pytest.mark.parametrize("num_workers", [0, 2])
def test_state_at_every_batch_resumes(num_workers):
    def made(world_size=1, rank=0, batch_size=6):
        return DataLoader(
            Encoded(), batch_size, shuffle=True, seed=1, transform=TRAINING,
            num_workers=num_workers, rank=rank, world_size=world_size,
        )  # fmt: skip

    loader = made()
    list(loader)
    whole = [list(loader), list(loader)]
    for received in range(len(loader) + 1):
        loader = made()
        loader.set_epoch(1)
        iterator = iter(loader)
        first = [next(iterator) for _ in range(received)]
        state = pickle.loads(pickle.dumps(loader.state_dict()))
        iterator.close()
        other = made()
        other.load_state_dict(state)
        assert other.state_dict() == state
        copy = pickle.loads(pickle.dumps(other))
        rest = list(other)
        if received < len(loader):
            assert same_batches(first + rest, whole[0])
            assert same_batches(list(other), whole[1])
            assert same_batches(list(copy), rest)
            ranks = [made(3, rank, 4) for rank in range(3)]
            for rank in ranks:
                rank.load_state_dict(state)
            seen = [label for batch in first for label in batch[1].tolist()]
            seen += [label for rank in ranks for batch in labels_of(rank) for label in batch]
            assert sorted(seen) == [3 * i for i in range(COUNT)]
        else:
            assert (state["epoch"], state["position"]) == (2, 0)
            assert same_batches(rest, whole[1])


def test_state_counts_received_batches_not_prefetched_ones():
    loader = DataLoader(Numbered(), 4, image_size=4, num_workers=3, prefetch_batches=8)
    iterator = iter(loader)
    assert loader.state_dict()["position"] == 0
    next(iterator)
    time.sleep(0.05)
    assert loader.state_dict()["position"] == 4
    loader.set_epoch(0)
    assert loader.state_dict()["position"] == 0
    iterator.close()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [2, 4, 11])
def test_state_at_the_end_of_uneven_ranks_agrees(num_workers, world_size):
    loaders = [
        DataLoader(
            Numbered(9),
            2,
            image_size=4,
            num_workers=num_workers,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    assert len({len(loader) for loader in loaders}) == 2
    for loader in loaders:
        list(loader)
        state = loader.state_dict()
        assert (state["epoch"], state["position"]) == (1, 0)
    # A closed iterator has not come to the end.
    iterator = iter(loaders[0])
    next(iterator)
    iterator.close()
    assert list(iterator) == []
    if world_size < 5:
        state = loaders[0].state_dict()
        assert (state["epoch"], state["position"]) == (1, 2 * world_size)


def test_state_after_close_during_a_wait_is_not_the_end_of_the_epoch():
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Numbered):
        def __getitem__(self, index):
            if index >= 8:
                begun.set()
                go_on.wait()
            return super().__getitem__(index)

    loader = DataLoader(Slow(), 4, image_size=4, num_workers=1)
    received = []
    consumer = threading.Thread(target=lambda: received.extend(loader))
    consumer.start()
    begun.wait()
    closer = threading.Thread(target=loader.close)
    closer.start()
    consumer.join()
    go_on.set()
    closer.join()
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (0, len(received) * 4)


def test_load_state_dict_in_an_epoch_replaces_the_position():
    loader = DataLoader(Numbered(), 4, shuffle=True, image_size=4, num_workers=2)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    next(iterator)
    loader.load_state_dict(state)
    assert loader.state_dict() == state
    # The old iterator goes on, but no longer counts.
    next(iterator)
    assert loader.state_dict() == state
    assert len(labels_of(loader)) == len(loader) - 1
    iterator.close()


def test_state_of_other_data_raises():
    state = DataLoader(Encoded(), 4, shuffle=True, num_workers=0).state_dict()
    for other, name in (
        (DataLoader(Encoded(), 4, shuffle=True, seed=1), "seed was 0"),
        (DataLoader(Encoded(), 4), "shuffle was True"),
        (
            DataLoader(Encoded(FILES[:-1]), 4, shuffle=True),
            f"number of samples, n, was {COUNT}",
        ),
        (DataLoader(Numbered(), 4, shuffle=True), "dataset was"),
    ):
        with pytest.raises(StateMismatchError, match=name):
            other.load_state_dict(state)
    with pytest.raises(StateMismatchError, match="position"):
        DataLoader(Encoded(), shuffle=True).load_state_dict({**state, "position": -1})
    with pytest.raises(StateMismatchError, match="no entry"):
        DataLoader(Encoded(), shuffle=True).load_state_dict({})


@pytest.mark.needs_torch
def test_state_of_images_is_that_of_their_bytes_which_are_not_read(tar):
    class Read(Encoded):
        """The images of an archive, without their sizes."""

        def __init__(self):
            self.images = ImageArchive(tar)
            super().__init__(self.images.read(i) for i in range(len(self.images)))
            self.label, self.name = self.images.label, self.images.name

    class Unread(ImageArchive):
        def read(self, index):
            raise AssertionError

    read, unread = (DataLoader(dataset, 4, image_size=8) for dataset in (Read(), Unread(tar)))
    assert read.state_dict() == unread.state_dict()


@pytest.mark.needs_torch
def test_state_of_other_subsets_raises(tar):
    from torch.utils.data import Subset

    dataset = ImageArchive(tar)
    state = DataLoader(Subset(dataset, range(10)), 2).state_dict()
    DataLoader(Subset(dataset, list(range(10))), 2).load_state_dict(state)
    with pytest.raises(StateMismatchError):
        DataLoader(Subset(dataset, range(1, 11)), 2).load_state_dict(state)


def test_state_of_other_arrays_raises(tmp_path):
    for name, first in (("a", 0), ("b", 0), ("c", 1)):
        images = np.full((20, 4, 5, 3), first, np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(20))
    state = DataLoader(str(tmp_path / "a.npz"), 2).state_dict()
    DataLoader(str(tmp_path / "b.npz"), 2).load_state_dict(state)
    with pytest.raises(StateMismatchError):
        DataLoader(str(tmp_path / "c.npz"), 2).load_state_dict(state)


def test_state_with_numpy_integers_as_options_is_plain():
    loader = DataLoader(
        Numbered(), np.int64(8), image_size=np.int32(4), num_workers=np.int64(1),
        seed=np.uint8(3), shuffle=True, prefetch_batches=np.int16(1), rank=np.int64(0),
        world_size=np.int64(1),
    )  # fmt: skip
    loader.set_epoch(np.int64(5))
    next(iter(loader))
    state = loader.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert (state["epoch"], state["position"]) == (5, 8)
    plain = DataLoader(Numbered(), 8, image_size=4, num_workers=0, seed=3, shuffle=True)
    plain.load_state_dict(state)
    loader.set_epoch(5)
    assert labels_of(plain) == labels_of(loader)[1:]
    with pytest.raises(StateMismatchError, match="state_dict"):
        plain.load_state_dict(None)
