"""The columns of an NPZ, against `numpy.load`."""

import logging
import os
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.npz import SAVERS, STORAGES, equal
from support.object_arrays import objects

from imagearchive import LazyNPZDataset
from imagearchive.errors import (
    ImageArchiveError,
)

DTYPES = st.one_of(
    hnp.scalar_dtypes(),
    hnp.unicode_string_dtypes(max_len=4),
    hnp.byte_string_dtypes(max_len=4),
    hnp.datetime64_dtypes(),
    hnp.array_dtypes(subtype_strategy=hnp.scalar_dtypes(), max_size=3, allow_subarrays=True),
)


@st.composite
def npz_files(draw):
    length = draw(st.integers(0, 5))
    arrays = {}
    for name in draw(st.lists(st.sampled_from("abcdé "), min_size=1, max_size=4, unique=True)):
        shape = (length, *draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
        array = draw(hnp.arrays(draw(DTYPES), shape))
        order = draw(st.sampled_from(["C", "F", "swapped"]))
        if order == "swapped":
            array = array.astype(array.dtype.newbyteorder("S"))
        arrays[name] = np.asfortranarray(array) if order == "F" else array
    return arrays


@pytest.mark.filterwarnings("ignore:Stored array in format:UserWarning")
@settings(max_examples=60)
@given(npz_files(), st.sampled_from(sorted(SAVERS)), st.sampled_from(STORAGES), st.booleans())
def test_npz_columns_rows_are_those_of_numpy(arrays, saver, storage, copied):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.npz")
        SAVERS[saver](path, **arrays)
        with np.load(path) as expected, LazyNPZDataset(path, storage=storage, copy=copied) as found:
            length = len(next(iter(arrays.values())))
            assert found.keys == tuple(arrays)
            assert len(found) == length
            rows = np.arange(-length, length)[::-1]
            batch = found.get_batch(rows)
            for name in arrays:
                array = expected[name]
                native = array.dtype.newbyteorder("=")
                assert equal(batch[name], array[rows].astype(native))
                assert equal(found.arrays[name], array)
                for i in range(length):
                    row, item = found[i][name], array[i]
                    if isinstance(item, (str, bytes)):
                        assert type(row) in (str, bytes)
                        assert row == item
                        continue
                    assert equal(np.asarray(row).astype(native), np.asarray(item).astype(native))
                    if copied:
                        assert np.asarray(row).dtype == native
                    if isinstance(row, np.ndarray):
                        assert row.flags.writeable == copied
                        assert row.flags.aligned or not copied


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("saver", SAVERS)
def test_npz_columns_large_arrays(tmp_path, saver, storage):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 30, (400, 48, 64, 3), np.uint8)
    depth = np.asfortranarray(rng.random((400, 90), np.float32))
    SAVERS[saver](tmp_path / "x.npz", images=images, depth=depth)
    with LazyNPZDataset(tmp_path / "x.npz", storage=storage) as found:
        for i in rng.permutation(400)[:60].tolist():
            assert equal(found[i]["image"], images[i])
            assert equal(found[i]["depth"], depth[i])
        rows = rng.integers(0, 400, 64)
        batch = found.get_batch(rows)
        assert equal(batch["images"], images[rows])
        assert equal(batch["depth"], depth[rows])


def test_npz_columns_copies_are_writable_and_views_are_not(tmp_path):
    values = np.arange(40, dtype=">i4").reshape(4, 10)
    np.savez(tmp_path / "x.npz", values=values)
    row = LazyNPZDataset(tmp_path / "x.npz")[1]["values"]
    assert row.dtype.isnative
    row += 1
    assert row.flags.writeable
    view = LazyNPZDataset(tmp_path / "x.npz", copy=False)[1]["values"]
    assert equal(view, values[1])
    assert not view.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        view += 1


def test_npz_columns_checkpoints_are_kept_in_the_index(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 9, (300, 48, 64, 3), np.uint8)
    np.savez_compressed(tmp_path / "x.npz", images=images)
    LazyNPZDataset(tmp_path / "x.npz").prepare()[250]
    built = []
    monkeypatch.setattr(
        "imagearchive.storage.deflate.DeflatedStorage.build_checkpoints",
        lambda self, progress=None: built.append(self),
    )
    for _ in range(2):
        assert equal(LazyNPZDataset(tmp_path / "x.npz")[290]["image"], images[290])
    assert not built


def test_npz_columns_indexed_objects_are_kept_in_the_index(tmp_path, caplog):
    # Fewer than 1,000 are indexed anew each time.
    values = [np.arange(i % 50) for i in range(1100)]
    np.savez(tmp_path / "x.npz", values=objects(values))
    with caplog.at_level(logging.DEBUG, "imagearchive"):
        LazyNPZDataset(tmp_path / "x.npz").prepare()
        assert "indexed 1100 elements" in caplog.text
        caplog.clear()
        found = LazyNPZDataset(tmp_path / "x.npz")
        assert all(equal(found[i]["values"], values[i]) for i in range(1100))
    assert "indexed" not in caplog.text


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("saver", SAVERS)
def test_npz_columns_object_arrays(tmp_path, saver, storage):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (20 + i % 7, 30, 3), np.uint8) for i in range(1100)]
    targets = [{"boxes": [[1, 2]] * (i % 3), "id": i, "mask": None} for i in range(1100)]
    SAVERS[saver](tmp_path / "x.npz", images=objects(images), targets=objects(targets))
    with LazyNPZDataset(tmp_path / "x.npz", storage=storage) as found:
        for i in rng.permutation(1100)[:50].tolist():
            sample = found[i]
            assert isinstance(sample["image"], np.ndarray)
            assert equal(sample["image"], images[i])
            assert sample["image"].flags.writeable
            assert sample["targets"] == targets[i]
        batch = found.get_batch([3, -1, 3])
        assert batch["images"].shape == (3,)
        assert type(batch["images"][0]) is np.ndarray
        assert equal(batch["images"][1], images[-1])
        assert batch["targets"].tolist() == [targets[3], targets[-1], targets[3]]


def test_npz_columns_object_array_of_more_axes(tmp_path):
    values = np.empty((4, 2), object)
    values[:] = [[i, str(i)] for i in range(4)]
    np.savez(tmp_path / "x.npz", values=values, order=np.asfortranarray(values))
    found = LazyNPZDataset(tmp_path / "x.npz")
    assert found[2]["values"].tolist() == [2, "2"]
    assert found[2]["order"].tolist() == [2, "2"]
    assert found.get_batch([3, 0])["order"].tolist() == [[3, "3"], [0, "0"]]
    assert found.get_batch([])["values"].shape == (0, 2)
    assert found.arrays["order"].tolist() == values.tolist()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("saver", SAVERS)
def test_npz_columns_ragged(tmp_path, saver, storage):
    boxes = [np.arange(4 * k, dtype=">f4").reshape(k, 4) for k in (2, 0, 3)]
    texts = ["one", "", "drei \u00e4\ud800"]
    pictures = [np.full(shape, 7, np.uint8) for shape in ((2, 3, 3), (1, 1, 3), (4, 2, 3))]

    def offsets(lengths):
        return np.cumsum([0, *lengths])

    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    SAVERS[saver](
        tmp_path / "x.npz",
        **{
            "bboxes.values": np.concatenate(boxes),
            "bboxes.offsets": offsets(map(len, boxes)),
            "image_paths.utf8": np.frombuffer(b"".join(encoded), np.uint8),
            "image_paths.offsets": offsets(map(len, encoded)),
            "raw.bytes": np.frombuffer(b"abc", np.uint8),
            "raw.offsets": np.array([0, 1, 1, 3]),
            "images.values": np.concatenate([p.ravel() for p in pictures]),
            "images.offsets": offsets(p.size for p in pictures),
            "images.shapes": np.array([p.shape for p in pictures]),
        },
    )
    with LazyNPZDataset(tmp_path / "x.npz", storage=storage) as found:
        assert found.keys == ("bboxes", "image_paths", "raw", "images")
        assert found.kind == "detector"
        for i in range(3):
            sample = found[i]
            assert equal(sample["bboxes"], boxes[i].astype("f4"))
            assert sample["bboxes"].flags.writeable
            assert sample["image_path"] == texts[i]
            assert sample["raw"] == (b"a", b"", b"bc")[i]
            assert equal(sample["image"], pictures[i])
        batch = found.get_batch([2, 0])
        assert {name: column.shape for name, column in batch.items()} == dict.fromkeys(batch, (2,))
        assert equal(batch["bboxes"][0], boxes[2].astype("f4"))


@pytest.mark.parametrize(
    "broken",
    [
        {"x.values": np.zeros(5), "x.offsets": np.array([0, 9])},
        {"x.values": np.zeros(5), "x.offsets": np.array([3, 1])},
        {"x.values": np.zeros(5), "x.offsets": np.array([-1, 1])},
        {"x.values": np.zeros(5), "x.offsets": np.array([0.0, 1.0])},
        {"x.values": np.zeros(()), "x.offsets": np.array([0, 1])},
        {"x.values": np.zeros(5), "x.offsets": np.zeros((2, 2), int)},
        {"x.utf8": np.frombuffer(b"\xff\xfe", np.uint8), "x.offsets": np.array([0, 2])},
        {"x.utf8": np.zeros(2), "x.offsets": np.array([0, 2])},
        {
            "x.values": np.zeros(5),
            "x.offsets": np.array([0, 4]),
            "x.shapes": np.array([[3, 2]]),
        },
    ],
)
def test_npz_columns_ragged_with_wrong_offsets_raise(tmp_path, broken):
    np.savez(tmp_path / "x.npz", **broken)
    with pytest.raises(ImageArchiveError):
        LazyNPZDataset(tmp_path / "x.npz")[0]


def test_npz_columns_of_a_lone_npy(tmp_path):
    values = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "images.npy", values)
    with LazyNPZDataset(tmp_path / "images.npy") as found:
        assert found.keys == ("images",)
        assert equal(found[3]["image"], values[3])
    np.save(tmp_path / "mixed.npy", objects([1, "two"]))
    assert LazyNPZDataset(tmp_path / "mixed.npy")[1] == {"mixed": "two"}
