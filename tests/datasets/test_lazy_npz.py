"""`LazyNPZDataset`: columns, indices, cache, threads and processes."""

import gc
import multiprocessing
import pickle

import numpy as np
import pytest
from support.archives import write_tar
from support.npz import SAVERS, equal, make_detector
from support.object_arrays import objects
from support.threads import run_in_threads

from imagearchive import CombinedLazyDataset, LazyNPZDataset
from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    MemberNotFoundError,
    OptionError,
    OptionTypeError,
    SampleIndexError,
    UnsupportedArchiveError,
)
from imagearchive.storage.local import PreadStorage


def test_lazy_npz_kind(tmp_path):
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


def test_lazy_npz_keys_and_prefix_choose_columns(tmp_path):
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


def test_lazy_npz_single_values_are_not_columns(tmp_path):
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


def test_lazy_npz_images_decide_the_length(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 1)), a=np.zeros(3), b=np.zeros(3))
    assert LazyNPZDataset(tmp_path / "x.npz").keys == ("images",)


def test_lazy_npz_index_negative_and_wrong(detector):
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


def test_lazy_npz_closed_raises_and_views_stay_valid(detector):
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


def test_lazy_npz_open_after_fork_opens_at_first_read(detector):
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


def test_lazy_npz_transform_gets_the_sample(detector):
    path, data = detector
    found = LazyNPZDataset(path, cache_size=3, transform=lambda sample: sample["image"].sum())
    assert found[2] == data["images"][2].sum()
    assert found[2] == data["images"][2].sum()
    assert found.get_batch([2])["images"].shape == (1, 8, 8, 3)


def test_lazy_npz_cache_reads_once_and_returns_copies(detector, monkeypatch):
    path, data = detector
    found = LazyNPZDataset(path, cache_size=2, keys=["images", "bboxes"], storage="pread")
    reads = []
    readinto = PreadStorage.readinto
    found.prepare()

    def count(self, offset, buffer):
        # Only rows of images are read into a buffer.
        reads.append(offset)
        return readinto(self, offset, buffer)

    monkeypatch.setattr(PreadStorage, "readinto", count)
    for _ in range(3):
        sample = found[7]
        assert equal(sample["image"], data["images"][7])
        assert sample["bboxes"] == data["bboxes"][7]
        sample["image"][:] = 0
        sample["bboxes"][0][0] = -1
        sample["bboxes"].clear()
    assert len(reads) == 1
    for index in (1, 2, 7):
        found[index]
    assert len(reads) == 4
    assert reads[0] == reads[3]


def sums(samples):
    return [int(sample["image"].sum()) + len(sample["bboxes"]) for sample in samples]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("saver", "context"),
    [("stored", "fork"), ("deflated", "fork"), ("deflated", "spawn"), ("stored", "forkserver")],
)
def test_lazy_npz_processes_read_the_right_rows(tmp_path, saver, context):
    make_detector(tmp_path / "x.npz", 200, SAVERS[saver], size=64)
    found = LazyNPZDataset(tmp_path / "x.npz", cache_size=4)
    expected = sums(found)
    indices = np.random.default_rng(0).permutation(200).tolist()
    with multiprocessing.get_context(context).Pool(2) as pool:
        tasks = [pool.apply_async(found.__getitems__, (indices[i::2],)) for i in range(2)]
        for i, task in enumerate(tasks):
            assert sums(task.get(60)) == [expected[k] for k in indices[i::2]]
    assert sums(found.__getitems__(indices)) == [expected[k] for k in indices]


def test_lazy_npz_pickle_holds_no_data(tmp_path):
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
def test_lazy_npz_threads_read_the_right_rows(tmp_path, saver):
    make_detector(tmp_path / "x.npz", 300, SAVERS[saver], size=48)
    expected = sums(LazyNPZDataset(tmp_path / "x.npz"))
    found = LazyNPZDataset(tmp_path / "x.npz", cache_size=10, open_after_fork=True)

    def wrong_rows(seed):
        order = np.random.default_rng(seed).permutation(300).tolist()
        values = sums(found[i] for i in order)
        return [i for i, value in zip(order, values) if value != expected[i]]

    assert run_in_threads(wrong_rows) == [[]] * 4


def test_lazy_npz_of_a_tar_names_it_and_what_opens_it(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.jpg": b"1", "b.jpg": b"2"})
    with pytest.raises(UnsupportedArchiveError, match=r"\(TAR\) of 2 members.*ImageArchive"):
        LazyNPZDataset(path)


def test_suffix_selects_and_shortens_the_names(tmp_path):
    path = tmp_path / "mnist.npz"
    images = np.arange(60).reshape(15, 2, 2)
    arrays = {"x_train": images[:10], "y_train": np.arange(10), "x_test": images[10:]}
    np.savez(path, **arrays, y_test=np.arange(5), _train=np.arange(10))
    train = LazyNPZDataset(path, suffix="_train")
    test = LazyNPZDataset(path, suffix="_test", keys=("y", "x"))
    assert (train.keys, len(train)) == (("x", "y"), 10)
    assert (test.keys, len(test)) == (("y", "x"), 5)
    assert np.array_equal(test[4]["x"], images[14])
    assert len(LazyNPZDataset(path, prefix="x", suffix="test")) == 5
    with pytest.raises(UnsupportedArchiveError, match="name begins with 'q' and ends with '_val'"):
        LazyNPZDataset(path, prefix="q", suffix="_val")
    assert pickle.loads(pickle.dumps(test)).keys == ("y", "x")


def test_suffix_applies_to_the_names_of_ragged_columns(tmp_path):
    path = tmp_path / "ragged.npz"
    values, offsets = np.arange(6.0), np.array([0, 1, 6])
    np.savez(path, **{"x_a": np.zeros(2), "b_a.values": values, "b_a.offsets": offsets})
    dataset = LazyNPZDataset(path, suffix="_a")
    assert set(dataset.keys) == {"x", "b"}
    assert dataset[1]["b"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("pattern", ["a?.npz", "a{1..1}.npz", "~/a*.npz"])
def test_lazy_npz_pattern_names_one_file(tmp_path, monkeypatch, pattern):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    make_detector(tmp_path / "a1.npz", 2)
    assert len(LazyNPZDataset(pattern)) == 2
    make_detector(tmp_path / "a2.npz", 2)
    with pytest.raises(OptionError, match=r"2 paths match .*CombinedLazyDataset"):
        LazyNPZDataset(pattern.replace("..1", "..2"))
