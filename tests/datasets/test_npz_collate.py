"""Batches of NPZ rows in torch's loader."""

import copy
import pickle

import numpy as np
import pytest
from support.npz import equal
from support.object_arrays import objects

from imagearchive import CombinedLazyDataset, LazyNPZDataset
from imagearchive.datasets.npz import collate

torch = pytest.importorskip("torch")

from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset  # noqa: E402

CONTEXTS = [(0, None), (2, "fork"), (2, "spawn")]


class Wrapped(Dataset):
    """What users put around a dataset."""

    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        sample = self.inner[index]
        return sample["image"], sample["bboxes"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("workers", "context"), CONTEXTS)
def test_collate_boxes_of_different_number(detector, workers, context):
    path, data = detector
    found = LazyNPZDataset(path, open_after_fork=bool(workers))
    loader = DataLoader(
        found,
        batch_size=5,
        num_workers=workers,
        multiprocessing_context=context,
        worker_init_fn=found.worker_open_archive,
    )
    seen = []
    for batch in loader:
        assert list(batch) == ["image", "bboxes", "image_path"]
        assert isinstance(batch["image"], torch.Tensor)
        assert isinstance(batch["bboxes"], list)
        for image, boxes, path in zip(batch["image"], batch["bboxes"], batch["image_path"]):
            place = len(seen)
            assert equal(image.numpy(), data["images"][place])
            assert boxes == data["bboxes"][place]
            assert path == data["image_paths"][place]
            seen.append(path)
    assert len(seen) == 24


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_collate_through_wrappers(detector, workers):
    path, data = detector
    found = LazyNPZDataset(path)
    around = {
        "wrapped": Wrapped(found),
        "subset": Subset(found, range(24)),
        "concat": ConcatDataset([found, found]),
        "combined": CombinedLazyDataset([found, Subset(found, [3, 4])]),
    }
    for dataset in around.values():
        batch = next(iter(DataLoader(dataset, batch_size=6, num_workers=workers)))
        boxes = batch[1] if isinstance(batch, list) else batch["bboxes"]
        assert boxes == data["bboxes"][:6].tolist()


def test_collate_register_waits_for_import_of_torch(monkeypatch):
    monkeypatch.setattr(collate, "_registered", False)
    monkeypatch.setattr(torch.__spec__, "_initializing", True, raising=False)
    collate.register()
    assert not collate._registered
    monkeypatch.setattr(torch.__spec__, "_initializing", False)
    collate.register()
    assert collate._registered


def test_collate_arrays_and_images_of_several_sizes(tmp_path):
    sizes = [4, 4, 5, 4]
    np.savez(
        tmp_path / "x.npz",
        images=objects([np.full((k, 3, 3), k, np.uint8) for k in sizes]),
        bboxes=objects([np.zeros((k % 3, 4), ">f4") for k in sizes]),
        targets=objects([{"boxes": [[k] * 4] * (k % 3), "n": k} for k in sizes]),
        names=objects([np.array(["a"] * k) for k in sizes]),
    )
    found = LazyNPZDataset(tmp_path / "x.npz", cache_size=2)
    for _ in range(2):
        first, second = DataLoader(found, batch_size=2)
        assert first["image"].shape == (2, 4, 3, 3)
        assert [tuple(image.shape) for image in second["image"]] == [(5, 3, 3), (4, 3, 3)]
        assert [tuple(boxes.shape) for boxes in first["bboxes"]] == [(1, 4), (1, 4)]
        assert [tuple(boxes.shape) for boxes in second["bboxes"]] == [(2, 4), (1, 4)]
        assert second["targets"]["boxes"] == [[[5] * 4] * 2, [[4] * 4]]
        assert second["targets"]["n"].tolist() == [5, 4]
        assert second["names"][0].tolist() == ["a"] * 5


def test_collate_types_in_shared_and_cyclic_dictionaries(tmp_path):
    shared = {"boxes": [[1, 2]], "z": np.arange(2)}
    for _ in range(100):
        shared = {"a": shared, "b": shared}
    cycle = {"boxes": [1]}
    cycle["self"] = cycle
    np.savez(tmp_path / "x.npz", x=objects([shared, cycle]))
    with LazyNPZDataset(tmp_path / "x.npz", cache_size=2) as dataset:
        for _ in range(2):
            first, second = dataset[0]["x"], dataset[1]["x"]
            for _ in range(100):
                assert first["a"] is first["b"]
                first = first["a"]
            assert type(first["boxes"]) is collate.RaggedList
            assert first["boxes"] == [[1, 2]]
            assert second["self"] is second
            first["boxes"].append(3)


def test_collate_types_behave_as_lists_and_arrays(detector, tmp_path):
    path, data = detector
    boxes = LazyNPZDataset(path)[3]["bboxes"]
    assert isinstance(boxes, list)
    assert repr(boxes) == repr(data["bboxes"][3])
    assert pickle.loads(pickle.dumps(boxes)) == copy.deepcopy(boxes) == boxes
    assert np.asarray(boxes).shape == (3, 4)
    np.savez(tmp_path / "y.npz", rows=objects([np.arange(3), np.arange(4)]))
    row = LazyNPZDataset(tmp_path / "y.npz")[0]["rows"]
    assert isinstance(row, np.ndarray)
    assert torch.from_numpy(row).tolist() == [0, 1, 2]
    assert equal(pickle.loads(pickle.dumps(row)), row)
