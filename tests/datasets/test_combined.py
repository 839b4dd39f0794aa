"""`CombinedLazyDataset`."""

import numpy as np
import pytest
from support.npz import equal, make_detector

from imagearchive import CombinedLazyDataset, LazyNPZDataset
from imagearchive.errors import (
    OptionError,
    OptionTypeError,
    SampleIndexError,
)


def test_combined_samples_batches_and_indices(tmp_path):
    parts, data = [], []
    for number, count in enumerate((5, 0, 7)):
        path = tmp_path / f"{number}.npz"
        data.append(make_detector(path, count))
        parts.append(LazyNPZDataset(path, open_after_fork=True))
    combined = CombinedLazyDataset([parts[0], CombinedLazyDataset(parts[1:])])
    images = np.concatenate([part["images"] for part in data])
    boxes = [value for part in data for value in part["bboxes"]]
    assert "not open yet" in repr(combined)
    combined.worker_open_archive(0)
    assert len(combined) == 12
    assert combined.keys == ("images", "bboxes", "image_paths")
    for i in range(-12, 12):
        assert equal(combined[i]["image"], images[i])
    rows = [11, 0, -1, 5, 4, 4]
    batch = combined.get_batch(rows)
    assert equal(batch["images"], images[rows])
    assert batch["bboxes"].tolist() == [boxes[i] for i in rows]
    assert [equal(s["image"], images[i]) for s, i in zip(combined.__getitems__(rows), rows)]
    assert [len(s["bboxes"]) for s in combined] == list(map(len, boxes))
    assert combined.get_batch([])["images"].shape == (0, 8, 8, 3)
    for index in (12, -13):
        with pytest.raises(SampleIndexError):
            combined[index]
        with pytest.raises(SampleIndexError):
            combined.get_batch([index])
    with pytest.raises(OptionTypeError):
        combined["0"]
    with combined:
        pass
    assert all(part.closed for part in parts)


def test_combined_datasets_with_different_columns(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.arange(2))
    np.savez(tmp_path / "b.npz", images=np.ones((2, 5, 5), np.uint8), labels=np.arange(2) / 2)
    np.savez(tmp_path / "c.npz", images=np.ones((2, 5, 5), np.uint8))
    a, b, c = (LazyNPZDataset(tmp_path / f"{name}.npz") for name in "abc")
    batch = CombinedLazyDataset([a, b]).get_batch([3, 0])
    assert [image.shape for image in batch["images"]] == [(5, 5), (4, 4)]
    assert batch["labels"].tolist() == [0.5, 0.0]
    with pytest.raises(OptionError, match="different columns"):
        CombinedLazyDataset([a, c]).get_batch([0, 2])
    assert CombinedLazyDataset([a, c]).keys == ("images",)
    plain = [{"image": np.zeros((4, 4), np.uint8), "labels": 7}]
    batch = CombinedLazyDataset([plain, a]).get_batch([0, 1])
    assert batch["images"].shape == (2, 4, 4)
    assert batch["labels"].tolist() == [7, 0]
    with pytest.raises(OptionTypeError):
        CombinedLazyDataset([[1, 2]]).get_batch([0])
    with pytest.raises(OptionError):
        CombinedLazyDataset([])


@pytest.mark.parametrize("pattern", ["*.npz", "{0..2}.npz", "[0-2].npz"])
def test_combined_pattern_reads_the_files_in_order(tmp_path, monkeypatch, pattern):
    for number in range(3):
        make_detector(tmp_path / f"{number}.npz", number + 1)
    names = LazyNPZDataset(tmp_path / "2.npz").get_batch(range(3))["image_paths"].tolist()
    combined = CombinedLazyDataset(tmp_path / pattern)
    assert [len(part) for part in combined.datasets] == [1, 2, 3]
    assert combined.get_batch([3, 4, 5])["image_paths"].tolist() == names
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(CombinedLazyDataset([combined, f"~/{pattern}", tmp_path / "0.npz"])) == 13


def test_combined_things_that_are_not_datasets_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    make_detector(path, 1)
    with open(path, "rb") as file, pytest.raises(OptionTypeError, match="item 0 is b'PK"):
        CombinedLazyDataset(file)
    with pytest.raises(OptionTypeError, match="item 1 is 3"):
        CombinedLazyDataset([LazyNPZDataset(path), 3])
