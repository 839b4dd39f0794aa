"""Mixtures of datasets in the loader."""

import itertools

import numpy as np
import pytest
from support.archives import write_tar
from support.samples import FILES, Rows

from imagearchive import (
    Compose,
    DataLoader,
    Mixture,
    Resize,
    SampleArchive,
    ToTensor,
)

RESIZE = Compose([Resize(8, 8), ToTensor()])


def test_mixture_in_the_loader_reads_each_dataset_natively_and_keeps_the_ratio(web, tmp_path):
    other = write_tar(tmp_path / "b.tar", {f"b{i}.jpg": FILES[i] for i in range(3)})
    fields = {"image": "{key}.jpg"}
    mixture = Mixture(
        [SampleArchive(web, fields=fields), SampleArchive(other, fields=fields)], [3, 1]
    )
    batches = list(DataLoader(mixture, 4, transform=RESIZE, output="numpy"))
    for batch in batches:
        assert sum(key.startswith("b") for key in batch["__key__"]) == 1
    ranks = [
        key
        for rank in range(2)
        for batch in DataLoader(mixture, 4, transform=RESIZE, rank=rank, world_size=2)
        for key in batch["__key__"]
    ]
    assert sorted(ranks) == sorted(key for batch in batches for key in batch["__key__"])
    keys = [mixture[i]["__key__"] for i in range(len(mixture))]
    assert keys == [key for batch in batches for key in batch["__key__"]]


@pytest.mark.parametrize("ranks", [1, 3])
def test_mixture_resumes_in_the_middle_on_another_number_of_ranks(web, ranks):
    """What one pass of the mixture has left is divided among the new ranks, and nothing twice."""
    fields = {"image": "{key}.jpg", "label": "{key}.cls"}
    some = ["03", "05", "07"]
    parts = [SampleArchive(web, fields=fields), SampleArchive(web, fields=fields, keys=some)]
    mixture = Mixture(parts, [2, 1], length=48, seed=5)

    def made(world_size, rank):
        return DataLoader(
            mixture, 4, transform=RESIZE, shuffle=False, world_size=world_size, rank=rank,
            num_workers=2,
        )  # fmt: skip

    def keys(batches):
        pairs = (zip(batch["__key__"], batch["label"].tolist()) for batch in batches)
        return list(itertools.chain.from_iterable(pairs))

    expected = [mixture[index] for index in range(48)]
    expected = [(sample["__key__"], sample["label"]) for sample in expected]
    before = [made(2, rank) for rank in range(2)]
    received, states = [], []
    for loader in before:
        batches = iter(loader)
        received += keys([next(batches), next(batches)])
        states.append(loader.state_dict())
        batches.close()
    assert sorted(received) == sorted(expected[:16])
    assert states[0] == states[1]
    after = [made(ranks, rank) for rank in range(ranks)]
    for loader in after:
        loader.load_state_dict(states[0])
    rest = [keys(loader) for loader in after]
    assert sorted(itertools.chain(*rest)) == sorted(expected[16:])
    if ranks == 1:
        assert rest[0] == expected[16:]
    # The next epoch is whole again.
    assert sum(len(keys(loader)) for loader in after) == 48


def test_mixture_of_pairs_in_the_loader_gives_pairs():
    rows = [Rows((np.full((8, 8, 3), i, np.uint8), k) for i in range(4)) for k in range(2)]
    _, labels = next(iter(DataLoader(Mixture(rows, [1, 1]), 8, transform=RESIZE)))
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4
