"""Samples whose parts are in archives inside archives."""

import gzip
import io
import pickle

import numpy as np
import pytest
from support.archives import tar_bytes, zip_bytes
from support.layouts import mask, picture

from imagearchive import LazyNPZDataset, Mask, SampleArchive
from imagearchive.errors import OptionError

FIELDS = {"image": "images/{key}.png", "mask": Mask("masks/{key}.png")}


def parts():
    images = {f"{i}.png": picture(i, "PNG") for i in range(3)}
    masks = {f"{i}.png": mask(i) for i in range(3)}
    return {"images.tar": tar_bytes(images), "masks.zip": zip_bytes(masks)}


def values(dataset):
    return [(round(float(s["image"].mean()) / 8), int(s["mask"][0, 0])) for s in dataset]


@pytest.mark.parametrize("nested", [None, True, "auto", 1])
def test_sample_archive_of_archives_pairs_their_members(tmp_path, nested):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes(parts()))
    options = {} if nested is None else {"nested": nested}
    with SampleArchive(path, FIELDS, **options) as dataset:
        assert values(dataset) == [(0, 0), (1, 1), (2, 2)]
        assert values(pickle.loads(pickle.dumps(dataset))) == values(dataset)


def test_sample_archive_beside_other_members_opens_archives_if_asked(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes({"readme.txt": b"", **parts()}))
    with SampleArchive(path, {"text": "{key}.txt"}) as dataset:
        assert len(dataset) == 1
    with SampleArchive(path, FIELDS, nested=True) as dataset:
        assert values(dataset) == [(0, 0), (1, 1), (2, 2)]
    kept = {"image": "images.tar/{key}.png", "mask": Mask("masks.zip/{key}.png")}
    with SampleArchive(path, kept, nested="keep") as dataset:
        assert values(dataset) == [(0, 0), (1, 1), (2, 2)]


def test_sample_archive_of_npz_files_keeps_them_as_files(tmp_path):
    members = {}
    for number in range(2):
        file = io.BytesIO()
        np.savez(file, x=np.array([number]))
        members[f"{number}.npz"] = file.getvalue()
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes(members))
    with SampleArchive(path, {"arrays": "{key}.npz"}) as dataset:
        assert [sample["x"].tolist() for sample in dataset] == [[0], [1]]
    with SampleArchive(path, {"x": "{key}/x.npy"}) as dataset:
        assert [sample["x"].tolist() for sample in dataset] == [[0], [1]]


def test_sample_archive_wrong_nested_is_refused(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes(parts()))
    with pytest.raises(OptionError, match="nested must be"):
        SampleArchive(path, FIELDS, nested="yes")


def npz_of(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_npz_dataset_of_archives_has_their_arrays_as_columns(tmp_path, compress):
    parts = {"a.npz": npz_of(x=np.arange(5)), "b.npz": npz_of(x=np.arange(5) * 2)}
    path = tmp_path / "x.tar"
    path.write_bytes(compress(tar_bytes(parts)))
    with LazyNPZDataset(path) as dataset:
        assert dataset.keys == ("a/x", "b/x")
        assert {name: int(value) for name, value in dataset[3].items()} == {"a/x": 3, "b/x": 6}
        again = pickle.loads(pickle.dumps(dataset))
        assert int(again[4]["b/x"]) == 8
    with LazyNPZDataset(path, nested="keep") as dataset:
        assert dataset.keys == ("a.npz/x", "b.npz/x")
    path.write_bytes(compress(tar_bytes({**parts, "y.npy": b"", "note": b""})))
    with LazyNPZDataset(path, keys=["a/x"], nested=True) as dataset:
        assert int(dataset[2]["a/x"]) == 2
    with pytest.raises(OptionError, match="nested must be"):
        LazyNPZDataset(path, nested="yes")
