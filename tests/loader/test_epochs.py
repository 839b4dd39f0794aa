"""The order of epochs, and who takes them."""

import numpy as np
import pytest
from support.samples import (
    COUNT,
    FILES,
    MIXED,
    TRAINING,
    Encoded,
    Numbered,
    labels_of,
    loader_threads,
    same_batches,
)

from imagearchive.errors import (
    OptionError,
)
from imagearchive.loader.data_loader import DataLoader
from imagearchive.loader.order import BlockShuffle, EpochOrder


@pytest.mark.parametrize("transform", [TRAINING, MIXED], ids=["compiled", "mixed"])
def test_epoch_with_any_num_workers_has_the_same_batches(transform):
    def run(num_workers, **options):
        loader = DataLoader(
            Encoded(), 8, shuffle=True, seed=5, num_workers=num_workers, transform=transform,
            **options,
        )  # fmt: skip
        return [batch for _ in range(2) for batch in loader]

    expected = run(0)
    for num_workers in range(1, 5):
        assert same_batches(run(num_workers), expected)
    assert same_batches(run(3, prefetch_batches=9), expected)
    assert not same_batches(expected[:7], expected[7:])


def test_epoch_order_differs_and_set_epoch_repeats_it():
    loader = DataLoader(Numbered(), 8, shuffle=True, seed=3, num_workers=2, image_size=4)
    epochs = [labels_of(loader) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(COUNT))
    assert loader.epoch == 3
    loader.set_epoch(1)
    assert labels_of(loader) == epochs[1]
    assert labels_of(loader) == epochs[2]
    assert labels_of(DataLoader(Numbered(), 8, num_workers=2, image_size=4))[0] == list(range(8))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epoch_of_an_unused_iterator_is_not_taken(num_workers):
    def made():
        return DataLoader(
            Numbered(), 8, shuffle=True, seed=3, num_workers=num_workers, image_size=4
        )

    loader = made()
    expected = [labels_of(loader) for _ in range(3)]
    loader = made()
    loader.set_epoch(1)
    iterator = iter(loader)
    first = [next(iterator)[1].tolist() for _ in range(3)]
    other = made()
    other.load_state_dict(loader.state_dict())
    unused = [iter(other) for _ in range(3)]
    assert loader_threads() == [] or num_workers
    assert other.state_dict() == loader.state_dict()
    del unused[1]
    unused[0].close()
    assert first + labels_of(other) == expected[1]
    # Only the iterator whose first batch is asked for takes an epoch.
    assert [labels.tolist() for _, labels in unused[1]] == expected[2]
    assert list(unused[0]) == []
    assert other.epoch == 3
    iterator.close()


def test_enable_distributed_takes_the_rank_from_the_environment(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    loader = DataLoader(Numbered(10), 5, image_size=4, enable_distributed=True, num_workers=0)
    assert labels_of(loader) == [[1, 3, 5, 7, 9]]
    assert labels_of(DataLoader(Numbered(10), 10, image_size=4, num_workers=0)) == [list(range(10))]
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(OptionError, match=r"rank must be .* got 2"):
        DataLoader(Numbered(10), enable_distributed=True)
    with pytest.raises(OptionError, match=r"rank must be .* got 4"):
        DataLoader(Numbered(10), rank=4, world_size=4)
    with pytest.raises(OptionError, match="both"):
        DataLoader(Numbered(10), rank=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_prefetch_of_a_dataset_is_called_for_every_batch(num_workers):
    class Cold(Encoded):
        def __init__(self):
            super().__init__()
            self.asked, self.unasked = [], []

        def prefetch(self, indices):
            self.asked.append(list(indices))

        def read(self, index):
            if not any(index in indices for indices in self.asked):
                self.unasked.append(index)
            return super().read(index)

    source = Cold()
    loader = DataLoader(source, 8, shuffle=True, seed=1, image_size=8, num_workers=num_workers)
    assert len(labels_of(loader)) == 7
    assert source.asked == [batch.tolist() for batch in EpochOrder(COUNT, seed=1, batch_size=8)]
    assert source.unasked == []

    class Other(Numbered):
        prefetch = 3

    assert len(list(DataLoader(Other(), 8, image_size=4, num_workers=num_workers))) == 7


class Distant(Encoded):
    """Images of which many are requested ahead; remembers when each was asked for."""

    def __init__(self, count, ahead):
        super().__init__(FILES[index % COUNT] for index in range(count))
        self.requests_ahead = ahead
        self.asked = []

    def prefetch(self, indices):
        self.asked += indices


def test_requests_ahead_are_few_before_the_first_batch_and_double_with_each():
    source = Distant(1000, 400)
    iterator = iter(DataLoader(source, 8, shuffle=True, image_size=8, num_workers=0))
    leads = []
    for received in range(1, 61):
        next(iterator)
        leads.append(len(source.asked) - 8 * received)
    # Rounded up to whole batches, and doubled with each batch after those that are prepared ahead.
    assert leads[:7] == [56, 56, 56, 112, 224, 400, 400]
    assert leads[-1] == 400
    assert leads == sorted(leads)
    assert len(set(source.asked)) == len(source.asked)
    assert len(list(iterator)) == 65
    assert sorted(source.asked) == list(range(1000))


@pytest.mark.parametrize("ahead", [1, 7, 8])
def test_requests_ahead_of_few_samples_are_made(ahead):
    source = Distant(60, ahead)
    iterator = iter(DataLoader(source, 1, image_size=8, num_workers=0))
    for _ in range(30):
        next(iterator)
    assert len(source.asked) == 30 + ahead


@pytest.mark.parametrize(
    ("side", "options", "ahead"),
    [(8, {}, 8), (8, {"prefetch_batches": 3}, 3), (1800, {}, 2), (1200, {"dtype": "uint8"}, 7)],
)
def test_batches_ahead_are_more_if_they_are_small(side, options, ahead):
    source = Distant(60, 0)
    loader = DataLoader(source, 1, image_size=(side, side), num_workers=1, **options)
    iterator = iter(loader)
    next(iterator)
    assert len(source.asked) == 1 + ahead


# Of windows of 20 samples; the memory holds four times what is best requested ahead.
@pytest.mark.parametrize(("ahead", "asked"), [(20, [20, 40]), (21, [20, 60]), (40, [20, 60])])
def test_windows_of_blocks_are_requested_ahead_after_the_first_batch(ahead, asked):
    source = Distant(100, ahead)
    assert asked_by_batch(source, prefetch_batches=1)[:2] == asked
    assert sorted(source.asked) == list(range(100))


def test_windows_of_blocks_that_do_not_fit_are_requested_by_batches():
    source = Distant(100, 9)
    asked = asked_by_batch(source, prefetch_batches=1)
    assert all(total <= 5 * (received + 4) for received, total in enumerate(asked))
    order = EpochOrder(100, seed=0, batch_size=5, shuffle=BlockShuffle(5, 4))
    assert source.asked == [index for batch in order for index in batch.tolist()]


def asked_by_batch(source, **options):
    """Return how many samples of a source had been requested when each batch came."""
    loader = DataLoader(
        source, 5, shuffle="blocks", block_size=5, blocks_per_window=4, image_size=8, num_workers=0,
        **options,
    )  # fmt: skip
    iterator = iter(loader)
    asked = []
    for _ in range(len(loader)):
        next(iterator)
        asked.append(len(source.asked))
    return asked


def test_epoch_without_batches_warns_once(caplog):
    loader = DataLoader(Numbered(), COUNT + 1, drop_last=True, image_size=4)
    assert [list(loader) for _ in range(2)] == [[], []]
    [record] = caplog.records
    assert f"takes {COUNT + 1} samples, and the dataset has {COUNT}" in record.getMessage()


def test_epoch_of_a_dataset_without_samples_warns_once(caplog, tmp_path):
    class Nothing:
        def __len__(self):
            return 0

        def __getitem__(self, index):
            raise IndexError(index)

    for source in (Nothing(), _empty_npz(tmp_path)):
        caplog.clear()
        assert [list(DataLoader(source)) for _ in range(1)] == [[]]
        [record] = caplog.records
        assert "the dataset has no samples" in record.getMessage()


def test_epoch_that_resumes_at_its_end_does_not_warn(caplog):
    loader = DataLoader(Numbered(), 8, image_size=4)
    for _ in loader:
        state = loader.state_dict()
    resumed = DataLoader(Numbered(), 8, image_size=4)
    resumed.load_state_dict(state)
    list(resumed)
    assert not caplog.records


def _empty_npz(folder):
    path = str(folder / "empty.npz")
    np.savez(path, images=np.empty((0, 4, 4, 3), np.uint8), labels=np.empty(0, np.int64))
    return path
