"""What all datasets share: indices, and pickles of derived classes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from imagearchive import ImageArchive, LazyNPZDataset, SplitDataLoader
from imagearchive.datasets.dataset_base import resolve_index, resolve_indices
from imagearchive.errors import ClosedError, OptionTypeError, SampleIndexError, StaleIndexError


def test_resolve_index_counts_negative_ones_from_the_end():
    assert [resolve_index(i, 5, "x.npz") for i in (0, 4, -1, -5, np.uint8(3))] == [0, 4, 4, 0, 3]


@pytest.mark.parametrize("index", [5, -6, 10**30])
def test_resolve_index_out_of_range_raises(index):
    with pytest.raises(SampleIndexError, match=r"x\.npz: no sample .*; there are 5 samples"):
        resolve_index(index, 5, "x.npz")


@pytest.mark.parametrize("index", ["1", 1.0, None, slice(2), [1]])
def test_resolve_index_of_other_type_raises(index):
    with pytest.raises(OptionTypeError, match=r"packet must be an integer, got .*; use take\(\)"):
        resolve_index(index, 5, "x.npz", noun="packet", hint="use take()")


def test_resolve_indices_takes_any_iterable_of_integers():
    for indices in ([0, -1], range(0, 5, 4), np.array([0, 4], np.uint8), iter([0, 4]), (-5, -1)):
        assert resolve_indices(indices, 5, "x.npz").tolist() == [0, 4]
    assert resolve_indices([], 5, "x.npz").tolist() == []


def test_resolve_indices_out_of_range_raises():
    for indices in ([0, 5], [-6, 1]):
        with pytest.raises(SampleIndexError, match="there are 5 samples"):
            resolve_indices(indices, 5, "x.npz")


@pytest.fixture(params=["images", "npz", "bins"])
def dataset(request):
    if request.param == "images":
        return ImageArchive(request.getfixturevalue("image_tar"))
    if request.param == "npz":
        return LazyNPZDataset(request.getfixturevalue("detector")[0])
    return SplitDataLoader(request.getfixturevalue("split_set")[0])


class ArgumentsOfItsOwn:
    """Mixed into a dataset: another constructor, and an attribute."""

    def __init__(self, path, factor):
        super().__init__(path)
        self.factor = factor


class Images(ArgumentsOfItsOwn, ImageArchive):
    pass


class Rows(ArgumentsOfItsOwn, LazyNPZDataset):
    pass


class Packets(ArgumentsOfItsOwn, SplitDataLoader):
    pass


def test_dataset_pickle_holds_options_and_no_other_state(dataset):
    dataset[0]
    *_, state = dataset.__reduce__()
    assert state is None


def test_dataset_pickle_of_derived_class_keeps_its_attributes(image_tar, detector, split_set):
    for original in (Images(image_tar, 3), Rows(detector[0], 3), Packets(split_set[0], 3)):
        original.note = "set later"
        copy = pickle.loads(pickle.dumps(original))
        assert type(copy) is type(original)
        assert (copy.factor, copy.note, len(copy)) == (3, "set later", len(original))


def test_dataset_pickle_of_closed_dataset_opens_again(dataset):
    length = len(dataset)
    dataset.close()
    assert len(pickle.loads(pickle.dumps(dataset))) == length


def test_dataset_pickle_of_changed_npz_raises_stale_index(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 2)))
    pickled = pickle.dumps(LazyNPZDataset(tmp_path / "x.npz"))
    np.savez(tmp_path / "x.npz", images=np.zeros((9, 2)))
    with pytest.raises(StaleIndexError):
        pickle.loads(pickled)


def test_dataset_with_block_closes(dataset):
    with dataset:
        assert not dataset.closed
    assert dataset.closed
    dataset.close()
    with pytest.raises(ClosedError):
        dataset[0]
