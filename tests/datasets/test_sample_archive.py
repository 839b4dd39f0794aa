"""`SampleArchive`: its arguments, and what it shares with the other datasets."""

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.archives import write_tar
from support.sample_archives import MASKS, VOC, WEB, same

import imagearchive
from imagearchive import Array, Boxes, CombinedLazyDataset, Image, Npz, Sample, SampleArchive
from imagearchive.errors import OptionError, OptionTypeError, SampleIndexError, StaleIndexError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (None, "fields must map names"),
        ({}, "fields must map names"),
        ({"__key__": "{key}.jpg"}, "name of a field"),
        ({"image": 3}, "must be a pattern"),
        ({"image": Image()}, "has no pattern"),
        ({"image": "image.jpg"}, "has no {key}"),
        ({"image": "{key}.jpg|"}, "alternative ''"),
        ({"image": "{key}|jpg"}, "alternative 'jpg'"),
        ({"image": "{key}_{id}.jpg"}, "only placeholder"),
        ({"image": "{key}" * 9}, "more than 8"),
        ({"x": "{key}.xyz"}, "there is no codec"),
        ({"x": "{key}"}, "no extension"),
        ({"x": "{key}.jpg|txt"}, "different kinds, Image and Text"),
        ({"boxes": Boxes("{key}.txt", relative=True)}, "no field of the kind Image"),
        ({"boxes": Boxes("{key}.txt", labels=["a", "b"])}, "'a' and 'b'"),
        ({"boxes": Boxes("{key}.txt", image="x")}, "names the image 'x'"),
        ({"a": Npz("{key}.npz", kinds={"b": Array()}), "b": "{key}.txt"}, "the entry 'b'"),
    ],
)
def test_sample_archive_wrong_fields_raise_option_error(tmp_path, fields, message):
    path = write_tar(tmp_path / "a.tar", {"a.txt": b"", "a.npz": b""})
    with pytest.raises((OptionError, OptionTypeError), match=message):
        SampleArchive(path, fields=fields)


@pytest.mark.parametrize("name", ["missing", "first_dot", "transform", "keys"])
def test_sample_archive_wrong_options_raise_option_error(voc, name):
    with pytest.raises((OptionError, OptionTypeError), match=name):
        SampleArchive(voc, fields=VOC, **{name: 3.5})


def test_sample_archive_without_any_archive_raises(tmp_path):
    with pytest.raises(OptionError, match="the field 'image' names no archive"):
        SampleArchive(fields={"image": "{key}.jpg"})


def test_sample_archive_is_a_sequence(voc):
    dataset = SampleArchive(voc, fields=VOC)
    assert dataset[-1]["__key__"] == "2007_3"
    assert [s["__key__"] for s in dataset.__getitems__([2, 0, -1])] == [
        "2007_2",
        "2007_0",
        "2007_3",
    ]
    for index in (4, -5):
        with pytest.raises(SampleIndexError):
            dataset[index]
    with pytest.raises(OptionTypeError):
        dataset[1.5]


def read_all(dataset):
    return [dataset[i] for i in range(len(dataset))]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_sample_archive_in_other_processes_gives_the_same_samples(voc, method):
    dataset = SampleArchive(voc, fields=VOC, open_after_fork=method == "fork")
    with multiprocessing.get_context(method).Pool(1) as pool:
        for a, b in zip(pool.apply(read_all, (dataset,)), dataset, strict=True):
            same(a, b)


def test_sample_archive_pickle_is_small_and_notices_another_archive(voc, tmp_path):
    dataset = SampleArchive(voc, fields=VOC, keys=["2007_1"])
    data = pickle.dumps(dataset)
    assert len(data) < 2000
    same(pickle.loads(data)[0], dataset[0])
    write_tar(voc, {"VOC/JPEGImages/2007_1.jpg": b"1", "VOC/Masks/2007_1.png": b"2"})
    with pytest.raises(StaleIndexError, match="changed since the dataset was pickled"):
        pickle.loads(data)


def test_sample_archive_threads_read_the_same_samples(voc):
    dataset = SampleArchive(voc, fields=VOC, cache_size=2)
    wanted = read_all(dataset)
    with ThreadPoolExecutor(4) as pool:
        for index, sample in pool.map(lambda i: (i % 4, dataset[i % 4]), range(200)):
            same(sample, wanted[index])


def test_sample_archive_cache_keeps_copies(voc):
    dataset = SampleArchive(voc, fields=VOC, cache_size=4)
    first = dataset[0]
    first["mask"][:] = 9
    again = dataset[0]
    np.testing.assert_array_equal(again["mask"], MASKS[0])
    assert isinstance(again, Sample)


def test_sample_archive_transform_gets_the_sample(voc):
    dataset = SampleArchive(voc, fields=VOC, transform=lambda sample: sample["mask"].max())
    assert dataset[0] == 255


def test_combined_dataset_of_sample_archives_has_their_samples(voc, shards):
    a, b = SampleArchive(voc, fields=VOC), SampleArchive(shards, fields=WEB)
    combined = CombinedLazyDataset([a, b])
    assert len(combined) == 10
    assert [s["__key__"] for s in combined.__getitems__([5, 0])] == ["d/1", "2007_0"]


def test_sample_archive_in_torch_loader_workers_and_subset(voc):
    data = pytest.importorskip("torch.utils.data")
    dataset = SampleArchive(voc, fields=VOC)
    loader = data.DataLoader(
        data.Subset(dataset, [3, 1]),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    assert [sample["__key__"] for sample in loader] == ["2007_3", "2007_1"]


def test_sample_archive_data_order_is_that_of_the_first_field(voc):
    assert SampleArchive(voc, fields=VOC).data_order() is None
    keys = ["2007_3", "2007_0", "2007_2"]
    assert SampleArchive(voc, fields=VOC, keys=keys).data_order().tolist() == [1, 2, 0]


def test_compressed_sample_archive_in_blocks_has_every_sample_once(voc, tmp_path):
    import tarfile

    path = tmp_path / "voc.tar.gz"
    with tarfile.open(voc) as source, tarfile.open(path, "w:gz") as target:
        for member in source:
            target.addfile(member, source.extractfile(member))
    dataset = SampleArchive(path, fields=VOC)
    images = SampleArchive(path, fields={"image": VOC["image"]})
    loader = imagearchive.DataLoader(
        images, 2, shuffle="blocks", block_size=2, blocks_per_window=1, image_size=8
    )
    keys = [key for batch in loader for key in batch["__key__"]]
    assert sorted(keys) == [f"2007_{i}" for i in range(4)]
    same(dataset[2], SampleArchive(voc, fields=VOC)[2])
