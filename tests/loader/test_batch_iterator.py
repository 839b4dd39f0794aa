"""`BatchIterator`: threads that start, share, end, and are closed."""

import gc
import threading
import time

import pytest
from support.samples import TRAINING, Encoded, Numbered, labels_of, loader_threads

from imagearchive import ImageArchive
from imagearchive.errors import (
    ClosedError,
    OptionTypeError,
)
from imagearchive.loader.data_loader import DataLoader
from imagearchive.transforms import (
    ToTensor,
)


def test_iterator_left_early_stops_its_threads():
    loader = DataLoader(Numbered(2000), 4, image_size=4, num_workers=4)
    for _ in loader:
        assert len(loader_threads()) == 4
        break
    assert loader_threads() == []

    def fails():
        for _ in loader:
            raise KeyError("in the loop")

    with pytest.raises(KeyError):
        fails()
    assert loader_threads() == []
    iterator = iter(loader)
    next(iterator)
    del iterator
    assert loader_threads() == []

    def generator():
        yield from loader

    running = generator()
    next(running)
    running.close()
    assert loader_threads() == []
    first, second = iter(loader), iter(loader)
    next(first), next(second)
    assert len(loader_threads()) == 8
    loader.close()
    assert loader_threads() == []
    assert list(first) == []
    with pytest.raises(ClosedError):
        iter(loader)


def test_loader_closed_during_iterations_leaves_no_threads(tar):
    for round_ in range(20):
        loader = DataLoader(tar, 4, image_size=8, num_workers=2)
        barrier = threading.Barrier(5)
        outcomes = []

        def consume(loader=loader, barrier=barrier, outcomes=outcomes):
            barrier.wait()
            try:
                outcomes.append(len(list(loader)))
            except ClosedError:
                outcomes.append("closed")

        consumers = [threading.Thread(target=consume) for _ in range(4)]
        for consumer in consumers:
            consumer.start()
        barrier.wait()
        time.sleep(round_ * 0.0005)
        loader.close()
        for consumer in consumers:
            consumer.join()
        assert len(outcomes) == 4
        assert loader_threads() == []


def test_loader_closed_while_an_epoch_begins_does_not_begin():
    class Closing(Numbered):
        def __getitem__(self, index):
            # An epoch asks for the shape of the first sample when it begins.
            loader.close()
            return super().__getitem__(index)

    for num_workers in (0, 2):
        loader = DataLoader(Closing(), 4, transform=ToTensor(), num_workers=num_workers)
        assert list(loader) == []
        assert loader_threads() == []
        assert loader.state_dict()["epoch"] == 0
        with pytest.raises(ClosedError):
            iter(loader)


def test_iterator_in_a_reference_cycle_is_collected_with_its_threads():
    loader = DataLoader(Numbered(500), 4, image_size=4, num_workers=2)
    holder = {"iterator": iter(loader)}
    holder["self"] = holder
    next(holder["iterator"])
    del holder
    gc.collect()
    assert loader_threads() == []


def test_iterators_in_many_threads_take_different_epochs():
    loaders = [
        DataLoader(Encoded(), 5, shuffle=True, transform=TRAINING, num_workers=8, seed=seed)
        for seed in (0, 1)
    ]
    expected = [
        {tuple(label for batch in labels_of(loader) for label in batch) for _ in range(4)}
        for loader in (DataLoader(Encoded(), 5, shuffle=True, image_size=4, seed=s) for s in (0, 1))
    ]
    seen = [set(), set()]

    def consume(which):
        seen[which].add(tuple(i for batch in loaders[which] for i in batch[1].tolist()))

    consumers = [threading.Thread(target=consume, args=(k % 2,)) for k in range(8)]
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join()
    assert seen == expected


def test_iterator_shared_by_threads_yields_each_batch_once():
    for num_workers in (0, 3):
        iterator = iter(DataLoader(Numbered(400), 4, image_size=4, num_workers=num_workers))
        seen = []

        def consume(iterator=iterator, seen=seen):
            for _, labels in iterator:
                seen.extend(labels.tolist())

        consumers = [threading.Thread(target=consume) for _ in range(4)]
        for consumer in consumers:
            consumer.start()
        for consumer in consumers:
            consumer.join()
        assert sorted(seen) == list(range(400))


def test_iterator_shared_by_threads_ends_for_all_on_an_error():
    class Failing(Numbered):
        def __getitem__(self, index):
            if index == 30:
                time.sleep(0.05)
                raise ZeroDivisionError
            return super().__getitem__(index)

    for num_workers in (0, 3):
        iterator = iter(DataLoader(Failing(400), 4, image_size=4, num_workers=num_workers))
        seen, errors = [], []

        def consume(iterator=iterator, seen=seen, errors=errors):
            try:
                seen.extend(labels.tolist() for _, labels in iterator)
            except ZeroDivisionError as error:
                errors.append(error)

        consumers = [threading.Thread(target=consume) for _ in range(4)]
        for consumer in consumers:
            consumer.start()
        for consumer in consumers:
            consumer.join()
        assert len(errors) == 1
        assert sorted(i for labels in seen for i in labels) == list(range(28))


def test_close_closes_only_datasets_that_the_loader_opened(tar):
    with DataLoader(tar, 8) as loader:
        opened = loader.dataset
        opened[0]
    with pytest.raises(ClosedError):
        opened[0]
    given = ImageArchive(tar)
    with DataLoader(given, 8) as loader:
        assert loader.dataset is given
    given[0]


def test_iterator_refused_a_thread_leaves_none_behind(monkeypatch):
    real, started = threading.Thread.start, []

    def start(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    loader = DataLoader(Numbered(), 4, image_size=4, num_workers=4, shuffle=True)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            next(iter(loader))
    assert len(started) == 2
    assert not any(thread.is_alive() for thread in started)
    # The epoch that could not begin is still the next one.
    assert (loader.epoch, loader.state_dict()["epoch"]) == (0, 0)
    again = DataLoader(Numbered(), 4, image_size=4, num_workers=0, shuffle=True)
    assert labels_of(loader) == labels_of(again)


def test_loader_used_as_an_iterator_or_a_sequence_says_what_to_do(tar):
    with DataLoader(tar, 4) as loader:
        with pytest.raises(OptionTypeError, match=r"next\(iter\(loader\)\)"):
            next(loader)
        with pytest.raises(OptionTypeError, match=r"loader\.dataset\[i\]"):
            loader[0]
        assert loader.epoch == 0
