"""Rows of NPZ files as samples: against `numpy.load`, in loaders, processes and broken files."""

import copy
import functools
import gc
import multiprocessing
import os
import pickle
import tempfile
import threading
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from imagearchive import CombinedLazyDataset, LazyNPZDataset
from imagearchive.datasets.npz import collate as varying
from imagearchive.datasets.npz import columns as columns_module
from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    CorruptArchiveError,
    ImageArchiveError,
    MemberNotFoundError,
    OptionError,
    OptionTypeError,
    SampleIndexError,
    UnsafePickleError,
    UnsupportedArchiveError,
)

SAVERS = {"stored": np.savez, "deflated": np.savez_compressed}
STORAGES = ["mmap", "pread", "memory"]


def objects(values):
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def boxes_of(count):
    return [[[float(i), 2.0, 3.0, float(k)] for k in range(i % 4)] for i in range(count)]


def make_detector(path, count=24, save=np.savez, size=8):
    rng = np.random.default_rng(count)
    data = {
        "images": rng.integers(0, 256, (count, size, size, 3), np.uint8),
        "bboxes": objects(boxes_of(count)),
        "image_paths": np.array([f"raw/{i:05}.jpg" for i in range(count)]),
    }
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    save(path, **data)
    return data


@pytest.fixture
def detector(tmp_path):
    path = tmp_path / "train_detector.npz"
    return path, make_detector(path)


def equal(a, b):
    """Equal in dtype, shape and value; NaN equals itself, padding of records does not matter."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype.names != b.dtype.names:
        return False
    if a.dtype.names:
        return all(equal(a[name], b[name]) for name in a.dtype.names)
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


# --- the blocks of the guide ----------------------------------------------------------------

BASIC = """
from imagearchive import LazyNPZDataset

# Create lazy dataset (data not loaded into memory yet)
train_dataset = LazyNPZDataset('data/preprocessed/train_detector.npz')

print(f"Dataset length: {len(train_dataset)}")  # Quick - just returns count

# Access individual samples (loaded on-demand)
sample = train_dataset[0]
print(sample.keys())  # dict_keys(['image', 'bboxes', 'image_path'])

# Data is only loaded when accessed
image = sample['image']
bboxes = sample['bboxes']
"""

CACHING = """
# Cache the 100 most recently accessed samples
train_dataset = LazyNPZDataset(
    'data/preprocessed/train_detector.npz',
    cache_size=100  # LRU cache
)

# First access: loads from disk
sample1 = train_dataset[0]

# Second access: retrieved from cache (fast!)
sample1_again = train_dataset[0]
"""

TORCH = """
import torch
from torch.utils.data import DataLoader
from imagearchive import LazyNPZDataset

# Create lazy dataset
dataset = LazyNPZDataset('data/preprocessed/train_detector.npz', cache_size=50)

# Use with DataLoader
dataloader = DataLoader(
    dataset,
    batch_size=32,
    shuffle=True,
    num_workers=4,  # Multiple workers supported
    pin_memory=True
)

# Training loop
for batch in dataloader:
    images = batch['image']
    bboxes = batch['bboxes']
    # ... your training code
"""

COMBINING = """
from imagearchive import CombinedLazyDataset, LazyNPZDataset

# Load multiple datasets
train_ds = LazyNPZDataset('data/preprocessed/train_detector.npz')
val_ds = LazyNPZDataset('data/preprocessed/val_detector.npz')

# Combine them
combined = CombinedLazyDataset([train_ds, val_ds])

print(f"Combined length: {len(combined)}")  # Sum of both

# Access samples from either dataset
sample_from_train = combined[0]
sample_from_val = combined[len(train_ds)]  # First val sample
"""

BATCH = """
dataset = LazyNPZDataset('data/preprocessed/train_detector.npz')

# Get multiple samples as a batch
indices = [0, 1, 2, 3, 4]
batch = dataset.get_batch(indices)

# batch is a dict with batched arrays
print(batch['images'].shape)  # (5, H, W, 3)
print(batch['bboxes'].shape)  # (5,) - array of bbox lists
"""

NEW_APPROACH = """
# Only metadata loaded
dataset = LazyNPZDataset('train_detector.npz')

# Only batch worth of data in memory
for i in range(0, len(dataset), 32):
    batch_indices = range(i, min(i+32, len(dataset)))
    batch = dataset.get_batch(batch_indices)
    # Peak memory: ~300MB for batch of 32
"""

# Steps 2 to 4 of the full pipeline; it trains for 100 epochs.
PIPELINE = """
from imagearchive import LazyNPZDataset
from torch.utils.data import DataLoader

# Step 2: Create lazy datasets
train_ds = LazyNPZDataset('data/preprocessed/train_detector.npz', cache_size=100)
val_ds = LazyNPZDataset('data/preprocessed/val_detector.npz', cache_size=50)

# Step 3: Create data loaders
train_loader = DataLoader(train_ds, batch_size=32, shuffle=True, num_workers=4)
val_loader = DataLoader(val_ds, batch_size=32, shuffle=False, num_workers=2)

# Step 4: Train
for epoch in range(2):
    for batch in train_loader:
        # Only current batch is in memory!
        images = batch['image']
        bboxes = batch['bboxes']
        # ... training code
"""


@pytest.fixture(params=SAVERS)
def preprocessed(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = make_detector("data/preprocessed/train_detector.npz", 70, SAVERS[request.param])
    val = make_detector("data/preprocessed/val_detector.npz", 9, SAVERS[request.param])
    make_detector("train_detector.npz", 70, SAVERS[request.param])
    return train, val


def run(block):
    names = {"LazyNPZDataset": LazyNPZDataset, "np": np}
    exec(compile(block, "guide", "exec"), names)
    return names


def test_guide_basic(preprocessed, capsys):
    train, _ = preprocessed
    found = run(BASIC)
    told = capsys.readouterr().out
    assert told == "Dataset length: 70\ndict_keys(['image', 'bboxes', 'image_path'])\n"
    assert equal(found["image"], train["images"][0])
    assert found["bboxes"] == train["bboxes"][0]
    assert found["sample"]["image_path"] == "raw/00000.jpg"


def test_guide_caching(preprocessed):
    found = run(CACHING)
    assert equal(found["sample1"]["image"], found["sample1_again"]["image"])
    assert found["sample1"]["image"] is not found["sample1_again"]["image"]


# Four workers on two cores, and page-locked memory without an accelerator.
QUIET = pytest.mark.filterwarnings("ignore::UserWarning:torch.*", "ignore::DeprecationWarning")


@QUIET
def test_guide_torch(preprocessed):
    train, _ = preprocessed
    found = run(TORCH)
    assert found["images"].shape == (70 % 32, 8, 8, 3)
    assert len(found["bboxes"]) == 70 % 32
    assert all(boxes in train["bboxes"].tolist() for boxes in found["bboxes"])


def test_guide_combining(preprocessed, capsys):
    train, val = preprocessed
    found = run(COMBINING)
    assert capsys.readouterr().out == "Combined length: 79\n"
    assert equal(found["sample_from_train"]["image"], train["images"][0])
    assert equal(found["sample_from_val"]["image"], val["images"][0])


def test_guide_batch(preprocessed, capsys):
    train, _ = preprocessed
    found = run(BATCH)
    assert capsys.readouterr().out == "(5, 8, 8, 3)\n(5,)\n"
    assert equal(found["batch"]["images"], train["images"][:5])
    assert found["batch"]["bboxes"].tolist() == train["bboxes"][:5].tolist()


def test_guide_new_approach(preprocessed):
    train, _ = preprocessed
    assert equal(run(NEW_APPROACH)["batch"]["images"], train["images"][64:])


@QUIET
def test_guide_pipeline(preprocessed):
    assert run(PIPELINE)["images"].dtype == torch.uint8


# --- against numpy.load ---------------------------------------------------------------------

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
@settings(max_examples=60, deadline=None)
@given(npz_files(), st.sampled_from(sorted(SAVERS)), st.sampled_from(STORAGES), st.booleans())
def test_rows_are_those_of_numpy(arrays, saver, storage, copied):
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
def test_large_arrays(tmp_path, saver, storage):
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


def test_checkpoints_are_kept_in_the_index(tmp_path, monkeypatch):
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


def test_located_objects_are_kept_in_the_index(tmp_path, monkeypatch):
    monkeypatch.setattr(columns_module, "_WORTH_SAVING", 0)
    values = [np.arange(i) for i in range(50)]
    np.savez(tmp_path / "x.npz", values=objects(values))
    LazyNPZDataset(tmp_path / "x.npz").prepare()
    monkeypatch.setattr(
        "imagearchive.arrays.objects.array.ObjectArray._build_tables",
        lambda *_: pytest.fail("walked again"),
    )
    found = LazyNPZDataset(tmp_path / "x.npz")
    assert all(equal(found[i]["values"], values[i]) for i in range(50))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("saver", SAVERS)
def test_object_arrays(tmp_path, saver, storage):
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


def test_an_object_array_of_more_axes(tmp_path):
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
def test_ragged_columns(tmp_path, saver, storage):
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
def test_ragged_columns_that_lie(tmp_path, broken):
    np.savez(tmp_path / "x.npz", **broken)
    with pytest.raises(ImageArchiveError):
        LazyNPZDataset(tmp_path / "x.npz")[0]


def test_a_lone_npy(tmp_path):
    values = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "images.npy", values)
    with LazyNPZDataset(tmp_path / "images.npy") as found:
        assert found.keys == ("images",)
        assert equal(found[3]["image"], values[3])
    np.save(tmp_path / "mixed.npy", objects([1, "two"]))
    assert LazyNPZDataset(tmp_path / "mixed.npy")[1] == {"mixed": "two"}


# --- the dataset as such --------------------------------------------------------------------


def test_kinds(tmp_path):
    images = np.zeros((3, 2, 2, 3), np.uint8)
    one = np.zeros((3, 4))
    cases = {
        "detector": [
            {"bboxes": objects([[], [[1, 2, 3, 4]], []])},
            {"bboxes": np.zeros((3, 5, 4))},
            {"bboxes": objects([np.zeros((2, 4))] * 3)},
        ],
        "teacher": [{"bboxes": one}, {"bboxes": objects([[1, 2, 3, 4]] * 3)}],
        "landmarker": [{"keypoints": np.zeros((3, 68, 3))}],
        None: [{"labels": np.zeros(3)}],
    }
    for kind, examples in cases.items():
        for number, columns in enumerate(examples):
            path = tmp_path / f"{kind}{number}.npz"
            np.savez(path, images=images, **columns)
            assert LazyNPZDataset(path).kind == kind
    np.savez(tmp_path / "no_images.npz", bboxes=one)
    assert LazyNPZDataset(tmp_path / "no_images.npz").kind is None


def test_which_arrays_are_columns(tmp_path):
    np.savez(
        tmp_path / "x.npz",
        train_images=np.zeros((5, 2)),
        train_labels=np.arange(5),
        test_images=np.zeros((3, 2)),
        test_labels=np.arange(3),
        mean=np.zeros(3),
        scale=np.float64(2),
    )
    path = tmp_path / "x.npz"
    train, test = (LazyNPZDataset(path, prefix=p) for p in ("train_", "test_"))
    assert (len(train), train.keys) == (5, ("images", "labels"))
    assert (len(test), test.keys) == (3, ("images", "labels"))
    assert train[4].keys() == {"image", "labels"}
    assert float(train.arrays["scale"]) == 2
    assert LazyNPZDataset(path).keys == ("test_images", "test_labels", "mean")
    assert LazyNPZDataset(path, keys=["train_labels"])[4] == {"train_labels": 4}
    assert LazyNPZDataset(path, keys=["labels", "image"], prefix="test_").keys == (
        "labels",
        "images",
    )
    with pytest.raises(OptionError, match="different lengths"):
        LazyNPZDataset(path, keys=["mean", "train_labels"])
    with pytest.raises(MemberNotFoundError, match="there are train_images"):
        LazyNPZDataset(path, keys=["masks"])
    with pytest.raises(OptionTypeError):
        LazyNPZDataset(path, keys="mean")
    with pytest.raises(UnsupportedArchiveError, match="no arrays with rows"):
        LazyNPZDataset(path, prefix="val_")


def test_single_values_are_no_columns(tmp_path):
    path = tmp_path / "meta.npz"
    np.savez(path, x=np.arange(5), config={"a": 1}, classes={"b": 2}, mean=0.5)
    with LazyNPZDataset(path) as dataset:
        assert dataset.keys == ("x",)
        assert len(dataset) == 5
        assert dataset.arrays["config"].item() == {"a": 1}
        assert dataset.arrays["mean"] == 0.5
    for key in ("config", "mean"):
        with pytest.raises(OptionError, match=f"'{key}' .*without rows.*dataset.arrays"):
            LazyNPZDataset(path, keys=["x", key])


def test_images_decide_where_lengths_differ(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 1)), a=np.zeros(3), b=np.zeros(3))
    assert LazyNPZDataset(tmp_path / "x.npz").keys == ("images",)


def test_indices(detector):
    path, data = detector
    found = LazyNPZDataset(path)
    assert equal(found[-1]["image"], data["images"][-1])
    assert equal(found[np.int64(3)]["image"], data["images"][3])
    for index in (24, -25, 10**30):
        with pytest.raises(SampleIndexError):
            found[index]
        with pytest.raises(IndexError):
            found.get_batch([0, index] if index < 2**60 else [2**60])
    for index in ("0", 1.0, slice(2), None):
        with pytest.raises(OptionTypeError):
            found[index]
    for indices in ([1.5], 3, [[0, 1]], "01"):
        with pytest.raises(OptionTypeError, match="list of integers"):
            found.get_batch(indices)
    assert [sample["image_path"] for sample in found] == data["image_paths"].tolist()
    assert found.get_batch([])["images"].shape == (0, 8, 8, 3)
    samples = found.__getitems__([5, 2, -1])
    assert [s["image_path"] for s in samples] == ["raw/00005.jpg", "raw/00002.jpg", "raw/00023.jpg"]


def test_closing(detector):
    path, data = detector
    with LazyNPZDataset(path, copy=False) as found:
        view = found[1]["image"]
        assert "24 samples of image, bboxes, image_path" in repr(found)
    assert found.closed
    found.close()
    assert "closed" in repr(found)
    gc.collect()
    assert equal(view, data["images"][1])
    assert not view.flags.writeable
    for use in (lambda: found[0], lambda: len(found), lambda: found.get_batch([0])):
        with pytest.raises(ClosedError):
            use()


def test_opening_later(detector):
    path, _ = detector
    found = LazyNPZDataset(path, open_after_fork=True)
    assert "not open yet" in repr(found)
    found.worker_open_archive(0)
    assert len(found) == 24
    assert LazyNPZDataset(path, open_after_fork=True)[3]["image_path"] == "raw/00003.jpg"
    missing = LazyNPZDataset(path.with_name("missing.npz"), open_after_fork=True)
    with pytest.raises(ArchiveNotFoundError):
        missing[0]
    with pytest.raises(FileNotFoundError):
        LazyNPZDataset(path.with_name("missing.npz"))


def test_transforms_see_the_sample(detector):
    path, data = detector
    found = LazyNPZDataset(path, cache_size=3, transform=lambda sample: sample["image"].sum())
    assert found[2] == data["images"][2].sum()
    assert found[2] == data["images"][2].sum()
    assert found.get_batch([2])["images"].shape == (1, 8, 8, 3)


def test_the_cache_reads_once_and_cannot_be_corrupted(detector, monkeypatch):
    path, data = detector
    found = LazyNPZDataset(path, cache_size=2)
    reads = []
    load = found._load
    monkeypatch.setattr(found, "_load", lambda index: reads.append(index) or load(index))
    for _ in range(3):
        sample = found[7]
        assert equal(sample["image"], data["images"][7])
        assert sample["bboxes"] == data["bboxes"][7]
        sample["image"][:] = 0
        sample["bboxes"][0][0] = -1
        sample["bboxes"].clear()
        del sample["image_path"]
    assert reads == [7]
    for index in (1, 2, 7):
        found[index]
    assert reads == [7, 1, 2, 7]


def test_copies_and_views(tmp_path):
    values = np.arange(40, dtype=">i4").reshape(4, 10)
    np.savez(tmp_path / "x.npz", values=values)
    row = LazyNPZDataset(tmp_path / "x.npz")[1]["values"]
    assert row.dtype.isnative
    row += 1
    torch.from_numpy(row)
    view = LazyNPZDataset(tmp_path / "x.npz", copy=False)[1]["values"]
    assert equal(view, values[1])
    assert not view.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        view += 1


# --- torch ----------------------------------------------------------------------------------

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
def test_default_collate_on_boxes_that_differ_in_number(detector, workers, context):
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
def test_what_users_put_around_it(detector, workers):
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


def test_torch_may_be_imported_by_another_thread_meanwhile(monkeypatch):
    monkeypatch.setattr(varying, "_registered", False)
    monkeypatch.setattr(torch.__spec__, "_initializing", True, raising=False)
    varying.register()
    assert not varying._registered
    monkeypatch.setattr(torch.__spec__, "_initializing", False)
    varying.register()
    assert varying._registered


def test_arrays_and_images_of_several_sizes(tmp_path):
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


def test_dictionaries_that_hold_one_another(tmp_path):
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
            assert type(first["boxes"]) is varying.RaggedList
            assert first["boxes"] == [[1, 2]]
            assert second["self"] is second
            first["boxes"].append(3)


def test_values_behave_as_lists_and_arrays(detector, tmp_path):
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


# --- processes and threads ------------------------------------------------------------------


def sums(samples):
    return [int(sample["image"].sum()) + len(sample["bboxes"]) for sample in samples]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("saver", "context"),
    [("stored", "fork"), ("deflated", "fork"), ("deflated", "spawn"), ("stored", "forkserver")],
)
def test_processes(tmp_path, saver, context):
    make_detector(tmp_path / "x.npz", 200, SAVERS[saver], size=64)
    found = LazyNPZDataset(tmp_path / "x.npz", cache_size=4)
    expected = sums(found)
    indices = np.random.default_rng(0).permutation(200).tolist()
    with multiprocessing.get_context(context).Pool(2) as pool:
        tasks = [pool.apply_async(found.__getitems__, (indices[i::2],)) for i in range(2)]
        for i, task in enumerate(tasks):
            assert sums(task.get(60)) == [expected[k] for k in indices[i::2]]
    assert sums(found.__getitems__(indices)) == [expected[k] for k in indices]


def test_a_pickle_holds_no_data(tmp_path):
    make_detector(tmp_path / "x.npz", 200)
    found = LazyNPZDataset(tmp_path / "x.npz", cache_size=100, prefix="", copy=False)
    list(found)
    stream = pickle.dumps(found)
    assert len(stream) < 1000
    again = pickle.loads(stream)
    assert again.cache_size == 100
    assert not again[3]["image"].flags.writeable
    combined = pickle.loads(pickle.dumps(CombinedLazyDataset([found, again])))
    assert len(combined) == 400


@pytest.mark.parametrize("saver", SAVERS)
def test_threads(tmp_path, saver):
    make_detector(tmp_path / "x.npz", 300, SAVERS[saver], size=48)
    expected = sums(LazyNPZDataset(tmp_path / "x.npz"))
    found = LazyNPZDataset(tmp_path / "x.npz", cache_size=10, open_after_fork=True)
    failures = []

    def work(seed):
        order = np.random.default_rng(seed).permutation(300).tolist()
        for index, value in zip(order, sums(found[i] for i in order)):
            if value != expected[index]:
                failures.append(index)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# --- broken and hostile files ---------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("saver", SAVERS)
def test_a_pickle_that_would_run_code(tmp_path, monkeypatch, saver):
    monkeypatch.chdir(tmp_path)
    SAVERS[saver]("x.npz", images=np.zeros((2, 3)), bboxes=objects([[1], Evil()]))
    found = LazyNPZDataset("x.npz")
    for use in (lambda: found[0], lambda: found.get_batch([0]), lambda: found.arrays["bboxes"]):
        with pytest.raises(UnsafePickleError, match=r"x\.npz.*bboxes\.npy.*posix\.mkdir"):
            use()
    assert not os.path.exists("executed")
    assert LazyNPZDataset("x.npz", keys=["images"])[1]["image"].tolist() == [0, 0, 0]


def damaged_sources():
    rng = np.random.default_rng(5)
    return {
        "images": rng.integers(0, 256, (6, 5, 5, 3), np.uint8),
        "bboxes": objects(boxes_of(6)),
        "masks": np.asfortranarray(rng.random((6, 7))),
        "image_paths": np.array([f"{i}.jpg" for i in range(6)]),
    }


def read_all(path, **options):
    with LazyNPZDataset(path, **options) as found:
        return found.keys, [found[i] for i in range(len(found))], found.get_batch(range(len(found)))


def same_content(result, data):
    keys, samples, batch = result
    names = {"images": "image", "image_paths": "image_path"}
    # Damage in the directory may take an array away, but never alter one.
    return all(
        name in data
        and equal(batch[name].tolist(), data[name].tolist())
        and all(equal(s[names.get(name, name)], data[name][i]) for i, s in enumerate(samples))
        if data.get(name) is None or data[name].dtype != object
        else batch[name].tolist() == data[name].tolist()
        for name in keys
    )


@pytest.mark.parametrize("saver", SAVERS)
def test_truncations(tmp_path, saver):
    SAVERS[saver](tmp_path / "whole.npz", **damaged_sources())
    whole = (tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(ImageArchiveError):
            read_all(path, overwrite_index=True)


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("verify", [True, False])
def test_flipped_bytes(tmp_path, saver, verify):
    data = damaged_sources()
    SAVERS[saver](tmp_path / "whole.npz", **data)
    whole = (tmp_path / "whole.npz").read_bytes()
    assert same_content(read_all(tmp_path / "whole.npz", verify=True), data)
    path = tmp_path / "flipped.npz"
    rng = np.random.default_rng(1)
    for position in rng.permutation(len(whole))[:120].tolist():
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            result = read_all(path, verify=verify, overwrite_index=True)
        except ImageArchiveError:
            continue
        # Without verify, damage in the content of a stored array is like damage in any mapping.
        assert not (verify or saver == "deflated") or same_content(result, data), position


def test_members_that_cannot_be_read_are_left_out(tmp_path, caplog):
    path = tmp_path / "x.npz"
    np.savez(path, images=np.zeros((3, 2)), other=np.ones(3))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", members["images.npy"])
        archive.writestr("other.npy", members["other.npy"], zipfile.ZIP_BZIP2)
        archive.writestr("readme.txt", "hello")
    found = LazyNPZDataset(path)
    assert found.keys == ("images",)
    assert "'other' is left out" in caplog.text
    with pytest.raises(NotImplementedError, match="method 12"):
        LazyNPZDataset(path, keys=["other"])


def test_files_that_are_no_npz(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((3, 2)))
    with pytest.raises(UnsupportedArchiveError, match="a directory"):
        LazyNPZDataset(tmp_path)
    (tmp_path / "text.npz").write_bytes(b"no archive at all" * 50)
    with pytest.raises(UnsupportedArchiveError):
        LazyNPZDataset(tmp_path / "text.npz")
    with zipfile.ZipFile(tmp_path / "empty.npz", "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(UnsupportedArchiveError, match="no arrays with rows"):
        LazyNPZDataset(tmp_path / "empty.npz")
    np.savez(tmp_path / "scalar.npz", a=np.float64(1))
    with pytest.raises(UnsupportedArchiveError, match="no arrays with rows"):
        LazyNPZDataset(tmp_path / "scalar.npz")
    with pytest.raises(OptionError):
        LazyNPZDataset(tmp_path / "scalar.npz", cache_size=-1)


def test_verify_in_many_threads_at_once(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.arange(1_000_000))
    for _ in range(5):
        results = []
        with LazyNPZDataset(path, verify=True) as dataset:
            read = functools.partial(lambda data, to: to.append(data[7]["x"]), dataset, results)
            threads = [threading.Thread(target=read) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert results == [7] * 6


def test_verify_finds_damage(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 2000), np.uint8))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[3000] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    assert LazyNPZDataset(tmp_path / "x.npz")[0]["image"].shape == (2000,)
    with pytest.raises(CorruptArchiveError, match="checksum"):
        LazyNPZDataset(tmp_path / "x.npz", verify=True)[0]


# --- combined -------------------------------------------------------------------------------


def test_combined(tmp_path):
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


def test_combined_parts_that_differ(tmp_path):
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
