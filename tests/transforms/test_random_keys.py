"""Random choices: decided by the key, and never shared without one."""

import multiprocessing
import os
import pickle
import threading
import time

import numpy as np
import pytest
from support.images import photo
from support.threads import collide

from imagearchive import transforms as T
from imagearchive.transforms import Compose, Key


def test_key_decides_the_result():
    image = photo(60, 50)
    transform = Compose(
        [T.RandomResizedCrop(20), T.ColorJitter(0.4, 0.4, 0.4), T.RandomErasing(0.8)]
    )
    results = {}
    for seed in (1, 2):
        for epoch in (0, 1):
            for index in (0, 1):
                results[seed, epoch, index] = transform(image, Key(seed, epoch, index))
    assert len({r.tobytes() for r in results.values()}) == 8
    failures = []

    def work():
        for key, expected in results.items():
            if not np.array_equal(transform(image, Key(*key)), expected):
                failures.append(key)

    pool = [threading.Thread(target=work) for _ in range(8)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert not failures


def test_key_differs_by_position():
    image = np.arange(200, dtype=np.uint8).reshape(1, 200, 1)
    flips = Compose([T.RandomHorizontalFlip(), T.Lambda(np.copy), T.RandomHorizontalFlip()])
    unequal = sum(not np.array_equal(flips(image, Key(0, 0, i)), image) for i in range(200))
    assert 60 < unequal < 140


def test_key_positions_count_through_nested_compose():
    image = photo(30, 30)
    a, b, c = T.RandomCrop(25), T.RandomHorizontalFlip(), T.ColorJitter(0.5)
    key = Key(3, 4, 5)
    np.testing.assert_array_equal(
        Compose([a, Compose([b, c])])(image, key), Compose([a, b, c])(image, key)
    )


def draws(transform, count=20):
    image = np.arange(200, dtype=np.uint8).reshape(1, 200, 1)
    return tuple(int(transform(image)[0, 0, 0]) for _ in range(count))


def test_instances_without_key_do_not_share_a_stream():
    transforms = [T.RandomCrop(1) for _ in range(10)]
    assert len({draws(t) for t in transforms}) == 10
    assert draws(T.RandomCrop(1, seed=5)) == draws(T.RandomCrop(1, seed=5))
    crop = T.RandomCrop(1)
    assert draws(crop) != draws(crop)
    assert draws(pickle.loads(pickle.dumps(crop))) != draws(pickle.loads(pickle.dumps(crop)))
    assert pickle.loads(pickle.dumps(T.RandomCrop(1, seed=5))).seed == 5


def send_draws(pipe, transform):
    pipe.send(draws(transform))
    pipe.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_instances_in_other_processes_draw_other_numbers(method):
    context = multiprocessing.get_context(method)
    crop = T.RandomCrop(1, seed=9)
    seen = [draws(crop)]
    for _ in range(2):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=send_draws, args=(theirs, crop))
        process.start()
        theirs.close()
        seen.append(mine.recv())
        process.join()
        mine.close()
    assert len(set(seen)) == 3


def test_threads_of_a_forked_child_that_draw_at_once_draw_other_numbers(monkeypatch):
    def urandom(size, function=os.urandom):
        # Another thread goes on meanwhile.
        time.sleep(0.001)
        return function(size)

    crops = [T.RandomCrop(1, seed=number) for number in range(20)]
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def send():
        monkeypatch.setattr(os, "urandom", urandom)
        sender.send([collide(lambda _, one=crop: draws(one), 3) for crop in crops])

    process = context.Process(target=send)
    process.start()
    for crop, found in zip(crops, receiver.recv()):
        assert draws(crop) not in found
    process.join()


def draws_of_flip(transform):
    image = np.arange(200, dtype=np.uint8).reshape(10, 20)
    return tuple(int(transform(image)[0, 0, 0]) for _ in range(40))


def test_instances_of_different_classes_with_one_seed_are_independent():
    across, down = T.RandomHorizontalFlip(seed=1), T.RandomVerticalFlip(seed=1)
    assert draws_of_flip(across) == draws_of_flip(T.RandomHorizontalFlip(seed=1))
    across, down = T.RandomHorizontalFlip(seed=1), T.RandomVerticalFlip(seed=1)
    flips = [
        (across != 0, down != 0) for across, down in zip(draws_of_flip(across), draws_of_flip(down))
    ]
    assert len(set(flips)) == 4
