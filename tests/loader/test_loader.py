"""The loader: what it yields, in which order, and what happens when things go wrong."""

import gc
import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import imagearchive
from imagearchive import CombinedLazyDataset, ImageArchive, LazyNPZDataset
from imagearchive.errors import (
    ArchiveNotFoundError,
    ClosedError,
    DecodeError,
    OptionError,
    OptionTypeError,
    StateMismatchError,
    WorkerError,
)
from imagearchive.images.render import HAVE_JPEG
from imagearchive.loader.array_sources import image_array
from imagearchive.loader.data_loader import DataLoader
from imagearchive.loader.order import EpochOrder
from imagearchive.loader.sharded_sampler import ShardedSampler
from imagearchive.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    ImageNetNormalize,
    Key,
    Lambda,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
    compile_pipeline,
)

COUNT = 53


def picture(index, size=None):
    """An RGB image whose content depends on `index`, smooth enough for JPEG."""
    width, height = size or (40 + index % 7, 30 + index % 5)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    planes = [x * 200, y * 200, np.full_like(x, index * 4 % 256)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def coded(image, kind="JPEG"):
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


FILES = [coded(picture(i), "PNG" if i % 5 == 4 else "JPEG") for i in range(COUNT)]


class Encoded:
    """The least that a data set of encoded images offers."""

    def __init__(self, files=FILES):
        self.files = list(files)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return Image.open(io.BytesIO(self.files[index])), self.label(index)

    def read(self, index):
        return self.files[index]

    def label(self, index):
        return index * 3

    def labels(self, index):
        return np.array([index * 3.0])

    def name(self, index):
        return f"{index % 4}/{index:03d}.jpg"

    def prefetch(self, indices):
        pass

    def encoded_images(self):
        return self


class Numbers:
    """Samples that are cheap to make and that tell their index."""

    def __init__(self, count=COUNT):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return np.full((4, 5, 3), index % 251, np.uint8), index


TRAINING = Compose([RandomResizedCrop(16), RandomHorizontalFlip(), ImageNetNormalize(), ToTensor()])
MIXED = Compose(
    [RandomResizedCrop(16), ColorJitter(0.4, 0.4, 0.4, 0.1), ImageNetNormalize(), ToTensor()]
)


def labels_of(loader):
    return [batch[1].tolist() for batch in loader]


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) for x, y in zip(first, second) for a, b in zip(x, y)
    )


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("imagearchive-loader")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert threads() == []


@pytest.fixture
def tar(tmp_path):
    path = tmp_path / "pictures.tar"
    with tarfile.open(path, "w") as archive:
        for index, data in enumerate(FILES):
            info = tarfile.TarInfo(
                f"class_{index % 4}/{index:03d}.{'png' if index % 5 == 4 else 'jpg'}"
            )
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


# What it yields


def test_without_transform_batches_are_lists_of_sample_dicts():
    source = Encoded()
    batches = list(DataLoader(source, batch_size=8, num_workers=2))
    assert [len(batch) for batch in batches] == [8] * 6 + [5]
    samples = [sample for batch in batches for sample in batch]
    for index, sample in enumerate(samples):
        assert set(sample) == {"image", "label", "labels", "filename", "index"}
        assert sample["index"] == index
        assert sample["label"] == index * 3
        assert sample["labels"].tolist() == [index * 3.0]
        assert sample["filename"] == source.name(index)
        expected = np.asarray(source[index][0].convert("RGB"))
        assert sample["image"].dtype == np.uint8
        assert sample["image"].shape == expected.shape
        assert np.abs(sample["image"].astype(int) - expected).max() <= 4
        assert np.abs(sample["image"].astype(int) - expected).mean() <= 0.5


def test_with_transform_batches_are_tensors():
    loader = DataLoader(Encoded(), batch_size=8, transform=TRAINING, num_workers=2)
    images, labels = next(iter(loader))
    assert isinstance(images, torch.Tensor)
    assert images.shape == (8, 3, 16, 16)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    assert labels.dtype == torch.int64
    assert labels.tolist() == [i * 3 for i in range(8)]
    assert len(list(loader)) == len(loader) == 7


def test_values_are_those_of_the_transform():
    transform = Compose([Resize(20, 20), CenterCrop(16, 16), ImageNetNormalize(), ToTensor()])
    source = Encoded()
    images = torch.cat([b[0] for b in DataLoader(source, 9, transform=transform, num_workers=2)])
    for index in range(COUNT):
        expected = transform(np.asarray(source[index][0].convert("RGB")))
        difference = np.abs(images[index].numpy() - expected)
        # Two grey levels, in units of the normalised image.
        assert difference.max() <= 2.5 / 255 / 0.224
        assert difference.mean() <= 0.5 / 255 / 0.224


def test_output_types_and_layouts():
    def first(**options):
        return next(iter(DataLoader(Encoded(), 4, image_size=(12, 10), num_workers=1, **options)))

    images, labels = first(output="numpy")
    assert isinstance(images, np.ndarray)
    assert isinstance(labels, np.ndarray)
    assert images.shape == (4, 3, 10, 12)
    assert images.dtype == np.float32
    assert images.max() > 1.5
    narrow, _ = first(output="numpy", dtype="uint8")
    assert narrow.dtype == np.uint8
    assert np.abs(narrow - images).max() <= 1
    half, _ = first(dtype="float16")
    assert half.dtype == torch.float16
    last, _ = first(channels_last=True)
    assert last.shape == (4, 3, 10, 12)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(last.numpy(), images)
    assert first(channels_last=True, output="numpy")[0].shape == (4, 10, 12, 3)
    indexed = first(return_indices=True)
    assert indexed[2].tolist() == [0, 1, 2, 3]
    assert indexed[2].dtype == torch.int64
    pinned, _ = first(pin_memory=True)
    assert pinned.is_pinned() == torch.cuda.is_available()


def test_images_of_different_shapes_need_a_size_or_a_collate_function():
    loader = DataLoader(Encoded(), 8, transform=ToTensor(), num_workers=1)
    with pytest.raises(OptionError, match="different shapes"):
        next(iter(loader))
    loader = DataLoader(
        Encoded(), 8, transform=ToTensor(), num_workers=1, collate_fn=lambda pairs: pairs
    )
    batch = next(iter(loader))
    assert [tuple(image.shape) for image, _ in batch][:2] == [(3, 30, 40), (3, 31, 41)]
    assert [label for _, label in batch] == [i * 3 for i in range(8)]
    loader = DataLoader(Encoded(), 8, num_workers=1, collate_fn=lambda s: [d["index"] for d in s])
    assert next(iter(loader)) == list(range(8))


def test_any_callable_is_a_transform():
    def halved(image):
        return image[:16, :16] // 2

    images, _ = next(iter(DataLoader(Encoded(), 5, transform=halved, num_workers=1)))
    assert images.shape == (5, 3, 16, 16)
    assert images.dtype == torch.float32
    assert images.max() <= 127
    both = Compose([Resize(16, 16), Lambda(lambda image: 255 - image), ToTensor()])
    plain = Compose([Resize(16, 16), ToTensor()])
    inverted, _ = next(iter(DataLoader(Encoded(), 5, transform=both, num_workers=1)))
    upright, _ = next(iter(DataLoader(Encoded(), 5, transform=plain, num_workers=1)))
    assert torch.equal(inverted, 255 - upright)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("on_error", ["skip", "replace"])
@pytest.mark.parametrize(
    "transform",
    [Resize(8, 8), Lambda(lambda image: torch.from_numpy(image[:8, :8].copy()).permute(2, 0, 1))],
    ids=["compiled", "function"],
)
def test_all_of_a_batch_is_pinned(monkeypatch, transform, on_error, channels_last):
    # Page-locked memory itself needs a device; which tensors are put there does not.
    pinned = set()

    def pin(tensor):
        pinned.add(tensor.data_ptr())
        return tensor

    new = torch.empty

    def empty(*shape, pin_memory=False, **options):
        tensor = new(*shape, **options)
        return pin(tensor) if pin_memory else tensor

    options = {
        "transform": transform, "on_error": on_error, "channels_last": channels_last,
        "return_indices": True, "num_workers": 2,
    }  # fmt: skip
    expected = list(DataLoader(Encoded(damaged()), 10, **options))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    got = list(DataLoader(Encoded(damaged()), 10, **options, pin_memory=True))
    assert same(got, expected)
    assert all(tensor.data_ptr() in pinned for batch in got for tensor in batch)
    if channels_last:
        assert got[0][0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_tensors_of_a_function_become_what_the_options_say(num_workers):
    def tensor(image):
        return torch.from_numpy(image).permute(2, 0, 1).float() / 4

    def first(**options):
        loader = DataLoader(Numbers(), 3, transform=tensor, num_workers=num_workers, **options)
        return next(iter(loader))[0]

    expected = torch.arange(3.0)[:, None, None, None].expand(3, 3, 4, 5) / 4
    assert torch.equal(first(), expected)
    assert torch.equal(first(dtype="float16"), expected.half())
    last = first(channels_last=True)
    assert torch.equal(last, expected)
    assert last.is_contiguous(memory_format=torch.channels_last)
    array = first(output="numpy")
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, expected)
    array = first(output="numpy", channels_last=True)
    assert array.shape == (3, 4, 5, 3)
    assert np.array_equal(array, expected.permute(0, 2, 3, 1))
    with pytest.raises(OptionError, match="uint8 would cut"):
        first(dtype="uint8")


@pytest.mark.parametrize("result", [None, 3, "text", Image.new("RGB", (4, 4))])
def test_what_is_no_array_cannot_be_put_in_a_batch(result):
    loader = DataLoader(Numbers(), 3, transform=lambda image: result, num_workers=1)
    with pytest.raises(OptionError, match=f"returned {type(result).__name__}.*collate_fn"):
        next(iter(loader))
    loader = DataLoader(
        Numbers(), 3, transform=lambda image: result, num_workers=1, return_indices=True,
        collate_fn=list,
    )  # fmt: skip
    assert next(iter(loader)) == [(result, 0, 0), (result, 1, 1), (result, 2, 2)]


def test_a_batch_larger_than_the_data_set_takes_no_more_memory():
    images, labels = next(iter(DataLoader(Numbers(9), 1 << 31, image_size=64, num_workers=1)))
    assert images.shape == (9, 3, 64, 64)
    assert labels.tolist() == list(range(9))
    assert list(DataLoader(Numbers(9), 1 << 31, image_size=64, drop_last=True)) == []


def test_arrays_that_cannot_be_written_to_become_tensors_that_can():
    def fixed(image):
        image = image[..., 0].astype(np.float32)
        image.flags.writeable = False
        return image

    loader = DataLoader(Numbers(), 2, transform=fixed, collate_fn=list, num_workers=1)
    for image, _ in next(iter(loader)):
        image += 1


class Vanishing:
    """Images, one of which the system cannot read."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 3:
            raise self.error
        return np.zeros((4, 5, 3), np.uint8), index


@pytest.mark.parametrize(
    "error",
    [OSError(24, "Too many open files"), FileNotFoundError("gone"), OSError(5, "I/O error")],
)
@pytest.mark.parametrize("on_error", ["raise", "skip", "replace"])
def test_errors_of_the_system_are_no_broken_images(error, on_error):
    loader = DataLoader(
        Vanishing(error), 2, num_workers=1, on_error=on_error, transform=ToTensor(), output="numpy"
    )
    with pytest.raises(OSError, match=str(error.args[-1])):
        list(loader)


def test_sources_of_pairs_dicts_and_images():
    class Dicts(Numbers):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return {"x": image, "y": np.array([label, -label], np.float32)}

    class Tensors(Numbers):
        def __getitem__(self, index):
            return torch.full((3, 4, 5), index, dtype=torch.uint8), index

    class Images(Numbers):
        def __getitem__(self, index):
            return Image.fromarray(super().__getitem__(index)[0])

    options = {"batch_size": 6, "image_size": (5, 4), "num_workers": 1}
    for source, labels in (
        (Numbers(), [0, 1, 2, 3, 4, 5]),
        (Dicts(), [[i, -i] for i in range(6)]),
        (Tensors(), [0, 1, 2, 3, 4, 5]),
        (Images(), [-1] * 6),
    ):
        images, got = next(iter(DataLoader(source, **options)))
        assert images.shape == (6, 3, 4, 5)
        assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
        assert got.tolist() == labels
    _, got = next(iter(DataLoader(Dicts(), **options, columns=("x", None))))
    assert got.tolist() == [-1] * 6
    with pytest.raises(OptionError, match="not 'nothing'"):
        next(iter(DataLoader(Dicts(), **options, columns=("x", "nothing"))))
    with pytest.raises(OptionError, match="pair of names"):
        DataLoader(Dicts(), **options, columns="x")
    samples = next(iter(DataLoader(Numbers(), batch_size=2, num_workers=0)))
    assert samples[1]["label"] == samples[1]["index"] == 1
    assert next(iter(DataLoader(Dicts(), 2, num_workers=0)))[1]["y"].tolist() == [1, -1]
    assert list(DataLoader([], 2, image_size=4)) == []
    with pytest.raises(OptionTypeError):
        DataLoader(iter([1]), 2)


def test_labels_that_do_not_stack_stay_a_list():
    class Ragged(Numbers):
        def __getitem__(self, index):
            return super().__getitem__(index)[0], list(range(index))

    class Words(Numbers):
        def __getitem__(self, index):
            return super().__getitem__(index)[0], f"word {index}"

    _, labels = next(iter(DataLoader(Ragged(), 3, image_size=4, num_workers=1)))
    assert labels == [[], [0], [0, 1]]
    _, labels = next(iter(DataLoader(Words(), 2, image_size=4, num_workers=1)))
    assert labels == ["word 0", "word 1"]


@pytest.mark.parametrize("output", ["torch", "numpy"])
def test_arrays_among_labels_are_what_is_asked_for_whether_or_not_they_stack(output):
    class Boxes(Numbers):
        def __getitem__(self, index):
            return super().__getitem__(index)[0], np.full((index // 2, 4), index, np.int16)

    kind = torch.Tensor if output == "torch" else np.ndarray
    for _, labels in DataLoader(Boxes(8), 2, image_size=4, num_workers=1, output=output):
        assert isinstance(labels, kind)
    _, labels = next(iter(DataLoader(Boxes(8), 8, image_size=4, num_workers=1, output=output)))
    assert isinstance(labels, list)
    assert all(isinstance(label, kind) for label in labels)
    assert [label.shape for label in labels] == [(k // 2, 4) for k in range(8)]
    assert {str(label.dtype).removeprefix("torch.") for label in labels} == {"int64"}
    assert [int(label.sum()) for label in labels] == [k * (k // 2) * 4 for k in range(8)]


def test_a_path_is_opened_as_an_archive(tar):
    with DataLoader(tar, batch_size=10, num_workers=2) as loader:
        assert len(loader) == 6
        samples = [sample for batch in loader for sample in batch]
    assert len(samples) == COUNT
    by_name = {sample["filename"]: sample for sample in samples}
    for index in range(COUNT):
        sample = by_name[f"class_{index % 4}/{index:03d}.{'png' if index % 5 == 4 else 'jpg'}"]
        assert sample["label"] == index % 4
        assert sample["image"].shape == np.asarray(picture(index)).shape
    with pytest.raises(ArchiveNotFoundError):
        DataLoader(tar + ".missing")


def test_exif_orientation_is_followed_only_when_asked():
    image = picture(3, (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    source = Encoded([buffer.getvalue()])
    for transpose, shape in ((False, (20, 30, 3)), (True, (30, 20, 3))):
        batch = next(iter(DataLoader(source, num_workers=0, exif_transpose=transpose)))
        assert batch[0]["image"].shape == shape
        images, _ = next(
            iter(DataLoader(source, num_workers=0, exif_transpose=transpose, transform=ToTensor()))
        )
        assert tuple(images.shape) == (1, 3, *shape[:2])


# Order


@pytest.mark.parametrize("transform", [TRAINING, MIXED], ids=["compiled", "mixed"])
def test_batches_do_not_depend_on_the_number_of_workers(transform):
    def run(num_workers, **options):
        loader = DataLoader(
            Encoded(), 8, shuffle=True, seed=5, num_workers=num_workers, transform=transform,
            **options,
        )  # fmt: skip
        return [batch for _ in range(2) for batch in loader]

    expected = run(0)
    for num_workers in range(1, 5):
        assert same(run(num_workers), expected)
    assert same(run(3, prefetch_batches=9), expected)
    assert not same(expected[:7], expected[7:])


def test_every_epoch_has_its_own_order_and_set_epoch_repeats_one():
    loader = DataLoader(Numbers(), 8, shuffle=True, seed=3, num_workers=2, image_size=4)
    epochs = [labels_of(loader) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(COUNT))
    assert loader.epoch == 3
    loader.set_epoch(1)
    assert labels_of(loader) == epochs[1]
    assert labels_of(loader) == epochs[2]
    assert labels_of(DataLoader(Numbers(), 8, num_workers=2, image_size=4))[0] == list(range(8))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_iterator_that_nobody_uses_takes_no_epoch_and_no_saved_position(num_workers):
    def made():
        return DataLoader(Numbers(), 8, shuffle=True, seed=3, num_workers=num_workers, image_size=4)

    loader = made()
    expected = [labels_of(loader) for _ in range(3)]
    loader = made()
    loader.set_epoch(1)
    iterator = iter(loader)
    first = [next(iterator)[1].tolist() for _ in range(3)]
    other = made()
    other.load_state_dict(loader.state_dict())
    unused = [iter(other) for _ in range(3)]
    assert threads() == [] or num_workers
    assert other.state_dict() == loader.state_dict()
    del unused[1]
    unused[0].close()
    assert first + labels_of(other) == expected[1]
    # An epoch is taken when its first batch is asked for, and by one iterator alone.
    assert [labels.tolist() for _, labels in unused[1]] == expected[2]
    assert list(unused[0]) == []
    assert other.epoch == 3
    iterator.close()


def test_closing_is_not_the_end_of_the_epoch_for_who_waits_for_a_batch():
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Numbers):
        def __getitem__(self, index):
            if index >= 8:
                begun.set()
                go_on.wait()
            return super().__getitem__(index)

    loader = DataLoader(Slow(), 4, image_size=4, num_workers=1)
    received = []
    consumer = threading.Thread(target=lambda: received.extend(loader))
    consumer.start()
    begun.wait()
    closer = threading.Thread(target=loader.close)
    closer.start()
    consumer.join()
    go_on.set()
    closer.join()
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (0, len(received) * 4)


def test_order_is_that_of_the_sampler():
    for drop_last in (False, True):
        for rank in range(3):
            options = {"shuffle": True, "seed": 2, "rank": rank, "world_size": 3}
            loader = DataLoader(
                Numbers(), 4, image_size=4, num_workers=2, drop_last=drop_last, **options
            )
            assert len(loader) == len(
                EpochOrder(COUNT, batch_size=4, drop_last=drop_last, **options)
            )
            sampler = ShardedSampler(Numbers(), drop_last=drop_last, **options)
            theirs = torch.utils.data.DataLoader(Numbers(), 4, sampler=sampler, drop_last=drop_last)
            for _ in range(2):
                assert labels_of(loader) == labels_of(theirs)


def test_distributed_takes_its_rank_from_the_environment(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    loader = DataLoader(Numbers(10), 5, image_size=4, enable_distributed=True, num_workers=0)
    assert labels_of(loader) == [[1, 3, 5, 7, 9]]
    assert labels_of(DataLoader(Numbers(10), 10, image_size=4, num_workers=0)) == [list(range(10))]
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(OptionError, match=r"rank must be .* got 2"):
        DataLoader(Numbers(10), enable_distributed=True)
    with pytest.raises(OptionError, match=r"rank must be .* got 4"):
        DataLoader(Numbers(10), rank=4, world_size=4)
    with pytest.raises(OptionError, match="both"):
        DataLoader(Numbers(10), rank=0)


# State


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_at_every_batch(num_workers):
    def made(world_size=1, rank=0, batch_size=6):
        return DataLoader(
            Encoded(), batch_size, shuffle=True, seed=1, transform=TRAINING,
            num_workers=num_workers, rank=rank, world_size=world_size,
        )  # fmt: skip

    loader = made()
    list(loader)
    whole = [list(loader), list(loader)]
    for received in range(len(loader) + 1):
        loader = made()
        loader.set_epoch(1)
        iterator = iter(loader)
        first = [next(iterator) for _ in range(received)]
        state = pickle.loads(pickle.dumps(loader.state_dict()))
        iterator.close()
        other = made()
        other.load_state_dict(state)
        assert other.state_dict() == state
        copy = pickle.loads(pickle.dumps(other))
        rest = list(other)
        if received < len(loader):
            assert same(first + rest, whole[0])
            assert same(list(other), whole[1])
            assert same(list(copy), rest)
            ranks = [made(3, rank, 4) for rank in range(3)]
            for rank in ranks:
                rank.load_state_dict(state)
            seen = [label for batch in first for label in batch[1].tolist()]
            seen += [label for rank in ranks for batch in labels_of(rank) for label in batch]
            assert sorted(seen) == [3 * i for i in range(COUNT)]
        else:
            assert (state["epoch"], state["position"]) == (2, 0)
            assert same(rest, whole[1])


def test_state_counts_what_was_received_not_what_was_prefetched():
    loader = DataLoader(Numbers(), 4, image_size=4, num_workers=3, prefetch_batches=8)
    iterator = iter(loader)
    assert loader.state_dict()["position"] == 0
    next(iterator)
    time.sleep(0.05)
    assert loader.state_dict()["position"] == 4
    loader.set_epoch(0)
    assert loader.state_dict()["position"] == 0
    iterator.close()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [2, 4, 11])
def test_ranks_that_came_to_the_end_agree_although_some_had_one_batch_more(num_workers, world_size):
    loaders = [
        DataLoader(
            Numbers(9), 2, image_size=4, num_workers=num_workers, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]
    assert len({len(loader) for loader in loaders}) == 2
    for loader in loaders:
        list(loader)
        state = loader.state_dict()
        assert (state["epoch"], state["position"]) == (1, 0)
    # To stop is not to come to the end.
    iterator = iter(loaders[0])
    next(iterator)
    iterator.close()
    assert list(iterator) == []
    if world_size < 5:
        state = loaders[0].state_dict()
        assert (state["epoch"], state["position"]) == (1, 2 * world_size)


def test_a_state_takes_the_place_of_what_the_loader_was_at():
    loader = DataLoader(Numbers(), 4, shuffle=True, image_size=4, num_workers=2)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    next(iterator)
    loader.load_state_dict(state)
    assert loader.state_dict() == state
    # The old iterator goes on as it was, and counts no more.
    next(iterator)
    assert loader.state_dict() == state
    assert len(labels_of(loader)) == len(loader) - 1
    iterator.close()


def test_states_of_other_data_are_refused_by_name():
    state = DataLoader(Encoded(), 4, shuffle=True, num_workers=0).state_dict()
    for other, name in (
        (DataLoader(Encoded(), 4, shuffle=True, seed=1), "seed was 0"),
        (DataLoader(Encoded(), 4), "shuffle was True"),
        (DataLoader(Encoded(FILES[:-1]), 4, shuffle=True), f"number of samples, n, was {COUNT}"),
        (DataLoader(Numbers(), 4, shuffle=True), "dataset was"),
    ):
        with pytest.raises(StateMismatchError, match=name):
            other.load_state_dict(state)
    with pytest.raises(StateMismatchError, match="position"):
        DataLoader(Encoded(), shuffle=True).load_state_dict({**state, "position": -1})
    with pytest.raises(StateMismatchError, match="no entry"):
        DataLoader(Encoded(), shuffle=True).load_state_dict({})


# Broken images


def damaged():
    files = list(FILES)
    files[7] = b"not a picture"
    files[8] = FILES[8][: len(FILES[8]) // 2]
    files[20] = b""
    if HAVE_JPEG:
        # Pillow alone fills in what is missing here, and does not tell.
        middle = len(FILES[33]) * 3 // 4
        files[33] = FILES[33][:middle] + b"\xff\xd0" * 8 + FILES[33][middle + 16 :]
    return files


BAD = {7, 8, 20, *([33] if HAVE_JPEG else [])}


@pytest.mark.parametrize("transform", [None, TRAINING, MIXED], ids=["none", "compiled", "mixed"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_images_raise_skip_or_replace(transform, num_workers):
    def made(on_error):
        return DataLoader(
            Encoded(damaged()), 10, shuffle=True, seed=4, transform=transform,
            num_workers=num_workers, on_error=on_error,
        )  # fmt: skip

    def indices(batch):
        if transform is None:
            return [sample["index"] for sample in batch]
        return [label // 3 for label in batch[1].tolist()]

    with pytest.raises(DecodeError, match=r"sample (7|8|20|33) \(\d/0\d\d.jpg\)"):
        list(made("raise"))
    loader = made("skip")
    batches = [indices(batch) for batch in loader]
    order = [batch.tolist() for batch in EpochOrder(COUNT, seed=4, batch_size=10)]
    assert batches == [[i for i in batch if i not in BAD] for batch in order]
    assert {bad.index for bad in loader.errors} == BAD
    assert all(bad.member == f"{bad.index % 4}/{bad.index:03d}.jpg" for bad in loader.errors)
    assert all(bad.reason for bad in loader.errors)
    list(loader)
    assert len(loader.errors) == len(BAD)

    flat = [i for batch in order for i in batch]
    expected = []
    for position in range(COUNT):
        while flat[position % COUNT] in BAD:
            position += 1
        expected.append(flat[position % COUNT])
    loader = made("replace")
    batches = [indices(batch) for batch in loader]
    assert [len(batch) for batch in batches] == [10, 10, 10, 10, 10, 3]
    assert [i for batch in batches for i in batch] == expected
    assert {bad.index for bad in loader.errors} == BAD


@pytest.mark.parametrize("transform", [TRAINING, MIXED], ids=["compiled", "mixed"])
def test_a_replacement_is_the_sample_that_it_says_it_is(transform):
    def images(source):
        loader = DataLoader(
            source, 10, shuffle=True, seed=4, transform=transform, on_error="replace",
            return_indices=True, num_workers=2,
        )  # fmt: skip
        return [
            (int(index), image, int(label))
            for batch in loader
            for image, label, index in zip(*batch)
        ]

    whole = {index: image for index, image, _ in images(Encoded())}
    replaced = images(Encoded(damaged()))
    assert len(replaced) == COUNT
    for index, image, label in replaced:
        assert index not in BAD
        assert label == index * 3
        assert torch.equal(image, whole[index])


def test_a_broken_image_is_logged_once(caplog):
    loader = DataLoader(Encoded(damaged()), 10, image_size=8, on_error="replace", num_workers=2)
    for _ in range(3):
        list(loader)
    said = [record.getMessage() for record in caplog.records]
    assert sorted(int(text.split()[1]) for text in said) == sorted(BAD)


def test_reports_of_broken_images_do_not_depend_on_the_number_of_workers():
    def errors(num_workers, on_error):
        loader = DataLoader(
            Encoded(damaged()), 32, shuffle=True, image_size=8, num_workers=num_workers,
            on_error=on_error,
        )  # fmt: skip
        for _ in range(3):
            list(loader)
        return [(bad.index, bad.member) for bad in loader.errors]

    for on_error in ("skip", "replace"):
        expected = errors(0, on_error)
        assert len(expected) == len(BAD)
        assert all(errors(k, on_error) == expected for k in (1, 2, 5, 8))


def test_when_all_is_broken():
    files = [b"x"] * 9
    loader = DataLoader(Encoded(files), 3, image_size=8, on_error="skip", num_workers=2)
    assert list(loader) == []
    assert len(loader.errors) == 9
    with pytest.raises(DecodeError, match="all broken"):
        list(DataLoader(Encoded(files), 3, image_size=8, on_error="replace", num_workers=2))


def test_errors_of_the_program_end_the_epoch_whatever_on_error_says():
    def wrong(image):
        raise ZeroDivisionError("mine")

    for on_error in ("raise", "skip", "replace"):
        loader = DataLoader(Encoded(), 4, transform=wrong, on_error=on_error, num_workers=2)
        with pytest.raises(ZeroDivisionError, match="mine"):
            next(iter(loader))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_stop_iteration_in_a_sample_does_not_pass_for_the_end(num_workers):
    class Ends(Numbers):
        def __getitem__(self, index):
            if index == 9:
                raise StopIteration
            return super().__getitem__(index)

    with pytest.raises(WorkerError, match="StopIteration"):
        list(DataLoader(Ends(), 4, image_size=4, num_workers=num_workers))


# Threads


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_read_ahead_where_the_data_set_can(num_workers):
    class Cold(Encoded):
        def __init__(self):
            super().__init__()
            self.asked, self.unasked = [], []

        def prefetch(self, indices):
            self.asked.append(list(indices))

        def read(self, index):
            if not any(index in indices for indices in self.asked):
                self.unasked.append(index)
            return super().read(index)

    source = Cold()
    loader = DataLoader(source, 8, shuffle=True, seed=1, image_size=8, num_workers=num_workers)
    assert len(labels_of(loader)) == 7
    assert source.asked == [batch.tolist() for batch in EpochOrder(COUNT, seed=1, batch_size=8)]
    assert source.unasked == []

    class Other(Numbers):
        prefetch = 3

    assert len(list(DataLoader(Other(), 8, image_size=4, num_workers=num_workers))) == 7


def test_leaving_early_stops_the_threads():
    loader = DataLoader(Numbers(2000), 4, image_size=4, num_workers=4)
    for _ in loader:
        assert len(threads()) == 4
        break
    assert threads() == []

    def fails():
        for _ in loader:
            raise KeyError("in the loop")

    with pytest.raises(KeyError):
        fails()
    assert threads() == []
    iterator = iter(loader)
    next(iterator)
    del iterator
    assert threads() == []

    def generator():
        yield from loader

    running = generator()
    next(running)
    running.close()
    assert threads() == []
    first, second = iter(loader), iter(loader)
    next(first), next(second)
    assert len(threads()) == 8
    loader.close()
    assert threads() == []
    assert list(first) == []
    with pytest.raises(ClosedError):
        iter(loader)


def test_iterating_and_closing_at_once_leaves_nothing_running(tar):
    for round_ in range(20):
        loader = DataLoader(tar, 4, image_size=8, num_workers=2)
        barrier = threading.Barrier(5)
        outcomes = []

        def consume(loader=loader, barrier=barrier, outcomes=outcomes):
            barrier.wait()
            try:
                outcomes.append(len(list(loader)))
            except ClosedError:
                outcomes.append("closed")

        consumers = [threading.Thread(target=consume) for _ in range(4)]
        for consumer in consumers:
            consumer.start()
        barrier.wait()
        time.sleep(round_ * 0.0005)
        loader.close()
        for consumer in consumers:
            consumer.join()
        assert len(outcomes) == 4
        assert threads() == []


def test_a_loader_that_is_closed_while_it_begins_does_not_begin():
    class Closing(Numbers):
        def __getitem__(self, index):
            # The first sample's shape is asked for when an epoch begins.
            loader.close()
            return super().__getitem__(index)

    for num_workers in (0, 2):
        loader = DataLoader(Closing(), 4, transform=ToTensor(), num_workers=num_workers)
        assert list(loader) == []
        assert threads() == []
        assert loader.state_dict()["epoch"] == 0
        with pytest.raises(ClosedError):
            iter(loader)


def test_an_iterator_in_a_cycle_is_collected_with_its_threads():
    loader = DataLoader(Numbers(500), 4, image_size=4, num_workers=2)
    holder = {"iterator": iter(loader)}
    holder["self"] = holder
    next(holder["iterator"])
    del holder
    gc.collect()
    assert threads() == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_that_is_dropped_is_kept_by_nobody(num_workers):
    loader = DataLoader(Numbers(8), 4, num_workers=num_workers)
    iterator = iter(loader)
    batches = [next(iterator), next(iterator)]
    images = [weakref.ref(sample["image"]) for batch in batches for sample in batch]
    del batches
    # The threads wait for work, or are about to.
    deadline = time.monotonic() + 20
    while any(image() is not None for image in images) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(image() is not None for image in images)
    iterator.close()


def test_concurrent_iterators_in_many_threads_of_two_loaders():
    loaders = [
        DataLoader(Encoded(), 5, shuffle=True, transform=TRAINING, num_workers=8, seed=seed)
        for seed in (0, 1)
    ]
    expected = [
        {tuple(label for batch in labels_of(loader) for label in batch) for _ in range(4)}
        for loader in (DataLoader(Encoded(), 5, shuffle=True, image_size=4, seed=s) for s in (0, 1))
    ]
    seen = [set(), set()]

    def consume(which):
        seen[which].add(tuple(i for batch in loaders[which] for i in batch[1].tolist()))

    consumers = [threading.Thread(target=consume, args=(k % 2,)) for k in range(8)]
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join()
    assert seen == expected


def test_one_iterator_shared_by_threads_gives_each_batch_once():
    for num_workers in (0, 3):
        iterator = iter(DataLoader(Numbers(400), 4, image_size=4, num_workers=num_workers))
        seen = []

        def consume(iterator=iterator, seen=seen):
            for _, labels in iterator:
                seen.extend(labels.tolist())

        consumers = [threading.Thread(target=consume) for _ in range(4)]
        for consumer in consumers:
            consumer.start()
        for consumer in consumers:
            consumer.join()
        assert sorted(seen) == list(range(400))


def test_forked_children_iterate_new_and_running_epochs():
    loader = DataLoader(Encoded(), 6, shuffle=True, transform=TRAINING, num_workers=2)
    expected = [list(loader), list(loader)]
    loader.set_epoch(0)
    iterator = iter(loader)
    first = [next(iterator), next(iterator)]
    receiver, sender = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            rest = list(iterator)
            again = list(loader)
            sender.send((same(first + rest, expected[0]), same(again, expected[1])))
            status = 0
        finally:
            os._exit(status)
    assert receiver.poll(60)
    assert receiver.recv() == (True, True)
    os.waitpid(pid, 0)
    assert same(first + list(iterator), expected[0])


def test_an_error_ends_an_iterator_for_all_threads_that_share_it():
    class Failing(Numbers):
        def __getitem__(self, index):
            if index == 30:
                time.sleep(0.05)
                raise ZeroDivisionError
            return super().__getitem__(index)

    for num_workers in (0, 3):
        iterator = iter(DataLoader(Failing(400), 4, image_size=4, num_workers=num_workers))
        seen, errors = [], []

        def consume(iterator=iterator, seen=seen, errors=errors):
            try:
                seen.extend(labels.tolist() for _, labels in iterator)
            except ZeroDivisionError as error:
                errors.append(error)

        consumers = [threading.Thread(target=consume) for _ in range(4)]
        for consumer in consumers:
            consumer.start()
        for consumer in consumers:
            consumer.join()
        assert len(errors) == 1
        assert sorted(i for labels in seen for i in labels) == list(range(28))


def test_a_loader_closes_what_it_opened_and_nothing_else(tar):
    with DataLoader(tar, 8) as loader:
        opened = loader.dataset
        opened[0]
    with pytest.raises(ClosedError):
        opened[0]
    given = ImageArchive(tar)
    with DataLoader(given, 8) as loader:
        assert loader.dataset is given
    given[0]


def succeeds_in_a_child(check):
    """Whether `check()` is true in a forked child, which is given a minute."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


@pytest.mark.parametrize("count", [8, 20], ids=["begin", "wait"])
def test_a_fork_while_another_thread_begins_or_waits_hangs_nobody(count):
    parent, begun, go_on = os.getpid(), threading.Event(), threading.Event()

    class Blocking(Numbers):
        def blocked(self):
            if os.getpid() == parent and threading.current_thread() is not threading.main_thread():
                begun.set()
                go_on.wait()

        def __len__(self):
            # Called while an epoch begins.
            if self.count < 9:
                self.blocked()
            return self.count

        def __getitem__(self, index):
            if index >= 4:
                self.blocked()
            return super().__getitem__(index)

    loader = DataLoader(Blocking(count), 4, image_size=4, num_workers=1)
    iterator = iter(loader)
    first = [next(iterator)] if count > 8 else []
    # Holds the lock of the loader, or that of the iterator, until told to go on.
    other = threading.Thread(target=list, args=(iterator,))
    other.start()
    begun.wait()
    assert succeeds_in_a_child(lambda: len(first + list(iterator)) == count // 4)
    assert succeeds_in_a_child(lambda: len(labels_of(loader)) == count // 4)
    go_on.set()
    other.join()


class Wrapped(torch.utils.data.IterableDataset):
    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        yield from self.loader


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_torch_share_the_epoch(method):
    loader = DataLoader(Encoded(), 4, shuffle=True, transform=TRAINING, num_workers=2)
    theirs = torch.utils.data.DataLoader(
        Wrapped(loader), batch_size=None, num_workers=2, multiprocessing_context=method
    )
    seen = [label for _, labels in theirs for label in labels.tolist()]
    assert sorted(seen) == [3 * i for i in range(COUNT)]


def test_programs_end_although_iterators_are_forgotten(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import numpy as np
            from imagearchive.loader.data_loader import DataLoader

            class Numbers:
                def __len__(self):
                    return 10_000
                def __getitem__(self, index):
                    return np.zeros((4, 4, 3), np.uint8), index

            iterator = iter(DataLoader(Numbers(), 4, image_size=4, num_workers=4, output="numpy"))
            next(iterator)
            print("done")
            """
        )
    )
    ended = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "done\n"
    assert ended.stderr == ""


def test_an_interrupt_stops_the_threads(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import os, signal, threading, time
            import numpy as np
            from imagearchive.loader.data_loader import DataLoader

            class Slow:
                def __len__(self):
                    return 10_000
                def __getitem__(self, index):
                    time.sleep(0.01)
                    return np.zeros((4, 4, 3), np.uint8), index

            main = threading.main_thread().ident
            loader = DataLoader(Slow(), 500, image_size=4, num_workers=2, output="numpy")
            timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
            timer.start()
            try:
                for _ in loader:
                    pass
            except KeyboardInterrupt:
                timer.join()
                print(threading.active_count())
            """
        )
    )
    ended = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "1\n"


SLOW = """
import os, signal, sys, threading, time
import numpy as np
from imagearchive.loader.data_loader import DataLoader

class Slow:
    # As a thread inside a library that decodes a very large image.
    def __len__(self):
        return 100
    def __getitem__(self, index):
        if index:
            time.sleep(600)
        return np.zeros((4, 4, 3), np.uint8), index

main = threading.main_thread().ident
loader = DataLoader(Slow(), 1, image_size=4, num_workers=2, output="numpy")
iterator = iter(loader)
next(iterator)
interrupt = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
"""


@pytest.mark.parametrize(
    "rest",
    [
        "pass",
        "del iterator",
        """
        interrupt.start()
        try:
            next(iterator)
        except KeyboardInterrupt:
            pass
        """,
        """
        interrupt.start()
        try:
            with loader:
                time.sleep(600)
        except KeyboardInterrupt:
            pass
        """,
    ],
    ids=["exit", "forgotten", "interrupted", "interrupted-in-with"],
)
def test_nobody_waits_for_the_largest_image(tmp_path, rest):
    program = tmp_path / "program.py"
    program.write_text(SLOW + textwrap.dedent(rest) + "\nprint('done')\n")
    ended = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "done\n"
    assert ended.stderr == ""


def test_threads_that_the_system_refuses_leave_none_behind(monkeypatch):
    real, started = threading.Thread.start, []

    def start(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    loader = DataLoader(Numbers(), 4, image_size=4, num_workers=4, shuffle=True)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            next(iter(loader))
    assert len(started) == 2
    assert not any(thread.is_alive() for thread in started)
    # The epoch that could not begin is still to come.
    assert (loader.epoch, loader.state_dict()["epoch"]) == (0, 0)
    again = DataLoader(Numbers(), 4, image_size=4, num_workers=0, shuffle=True)
    assert labels_of(loader) == labels_of(again)


# Options


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_size": 0}, OptionError),
        ({"batch_size": "8"}, OptionTypeError),
        ({"num_workers": -1}, OptionError),
        ({"num_workers": 1.5}, OptionTypeError),
        ({"prefetch_batches": 0}, OptionError),
        ({"output": "jax"}, OptionError),
        ({"dtype": "int8"}, OptionError),
        ({"on_error": "ignore"}, OptionError),
        ({"image_size": 8, "transform": ToTensor()}, OptionError),
        ({"transform": 8}, OptionTypeError),
        ({"seed": None}, OptionTypeError),
        ({"batch_size": True}, OptionTypeError),
        ({"batch_size": 2.5}, OptionTypeError),
        ({"batch_size": 1 << 32}, OptionError),
        ({"num_workers": True}, OptionTypeError),
        ({"num_workers": 5000}, OptionError),
        ({"image_size": "8"}, OptionTypeError),
        ({"image_size": 8.5}, OptionTypeError),
        ({"image_size": (8, 8, 8)}, OptionTypeError),
        ({"image_size": (8, 0)}, OptionError),
        ({"transform": ToTensor}, OptionTypeError),
        ({"transform": [ToTensor()]}, OptionTypeError),
        ({"collate_fn": 3}, OptionTypeError),
        ({"dtype": np.int16}, OptionError),
        ({"dtype": np.dtype("float64")}, OptionError),
        ({"dtype": torch.int64}, OptionError),
        ({"on_error": None}, OptionError),
        ({"rank": 1}, OptionError),
        ({"rank": 2, "world_size": 2}, OptionError),
        ({"persistent_workers": True}, TypeError),
    ],
)
def test_options_are_checked_when_the_loader_is_made(options, error):
    name = next(iter(options))
    with pytest.raises(error, match=f"{name}|width|height"):
        DataLoader(Numbers(), **options)


def test_integers_of_numpy_will_do_and_states_are_plain():
    loader = DataLoader(
        Numbers(), np.int64(8), image_size=np.int32(4), num_workers=np.int64(1),
        seed=np.uint8(3), shuffle=True, prefetch_batches=np.int16(1), rank=np.int64(0),
        world_size=np.int64(1),
    )  # fmt: skip
    loader.set_epoch(np.int64(5))
    next(iter(loader))
    state = loader.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert (state["epoch"], state["position"]) == (5, 8)
    plain = DataLoader(Numbers(), 8, image_size=4, num_workers=0, seed=3, shuffle=True)
    plain.load_state_dict(state)
    loader.set_epoch(5)
    assert labels_of(plain) == labels_of(loader)[1:]
    with pytest.raises(StateMismatchError, match="state_dict"):
        plain.load_state_dict(None)


def test_too_large_images_are_broken_images():
    loader = DataLoader(Encoded(), 4, image_size=8, max_pixels=1000, num_workers=1, on_error="skip")
    assert list(loader) == []
    assert len(loader.errors) == COUNT


def test_representation_names_what_matters():
    text = repr(DataLoader(Numbers(), 3, shuffle=True, seed=9, num_workers=1))
    assert "batch_size=3" in text
    assert "seed=9" in text


# Arrays


@pytest.fixture
def npz(tmp_path):
    path = tmp_path / "arrays.npz"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 20, 24, 3), np.uint8)
    labels = rng.integers(0, 10, 40)
    boxes = np.empty(40, object)
    boxes[:] = [rng.random((k % 3, 4)) for k in range(40)]
    np.savez(path, images=images, labels=labels, extra=np.arange(40.0), bboxes=boxes)
    return str(path), images, labels


def test_arrays_of_a_file_are_normalised_into_batches(npz):
    path, images, labels = npz
    transform = Compose([ImageNetNormalize(), ToTensor()])
    for source in (path, LazyNPZDataset(path)):
        batches = list(DataLoader(source, 16, transform=transform, num_workers=2))
        assert [len(batch[1]) for batch in batches] == [16, 16, 8]
        got = torch.cat([batch[0] for batch in batches]).numpy()
        mean = np.array([0.485, 0.456, 0.406], np.float32)
        std = np.array([0.229, 0.224, 0.225], np.float32)
        expected = ((images / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
        assert np.abs(got - expected).max() < 1e-5
        assert torch.cat([batch[1] for batch in batches]).tolist() == labels.tolist()


def test_arrays_are_cropped_and_resized_and_any_column_is_the_label(npz):
    path, _, _ = npz
    loader = DataLoader(path, 8, transform=TRAINING, num_workers=2, columns=("images", "extra"))
    images, labels = next(iter(loader))
    assert images.shape == (8, 3, 16, 16)
    assert labels.dtype == torch.float64
    assert labels.tolist() == list(range(8))
    loader = DataLoader(path, 3, image_size=8, num_workers=1, columns=("image", "bboxes"))
    _, boxes = next(iter(loader))
    assert [np.shape(box) for box in boxes] == [(0, 4), (1, 4), (2, 4)]


def test_arrays_without_transform_are_their_own_samples(npz):
    path, images, labels = npz
    with DataLoader(path, 7, num_workers=2, shuffle=True) as loader:
        samples = [sample for batch in loader for sample in batch]
    assert sorted(sample["index"] for sample in samples) == list(range(40))
    for sample in samples:
        assert np.array_equal(sample["image"], images[sample["index"]])
        assert sample["labels"] == labels[sample["index"]]
        sample["image"][:] = 0  # a copy, not the file


def test_patterns_of_files_and_combined_data_sets(npz, tar, tmp_path):
    path, images, _ = npz
    shutil.copy(path, tmp_path / "arrays2.npz")
    loader = DataLoader(str(tmp_path / "arrays*.npz"), 80, image_size=(24, 20), num_workers=2)
    batch = next(iter(loader))[0].numpy()
    assert np.array_equal(batch[40:], images.transpose(0, 3, 1, 2))
    with pytest.raises(ArchiveNotFoundError):
        DataLoader(str(tmp_path / "none*.npz"))

    first, second = ImageArchive(tar), ImageArchive(tar)
    for combined in (
        CombinedLazyDataset([first, second]),
        torch.utils.data.ConcatDataset([first, second]),
    ):
        loader = DataLoader(combined, 106, transform=Resize(16, 16), num_workers=2)
        pixels, labels = next(iter(loader))
        single, single_labels = next(
            iter(DataLoader(first, 53, transform=Resize(16, 16), num_workers=2))
        )
        assert torch.equal(pixels, torch.cat([single, single]))
        assert labels.tolist() == single_labels.tolist() * 2
        samples = next(iter(DataLoader(combined, 106, num_workers=2)))
        assert [sample["index"] for sample in samples] == list(range(106))


class Mixed:
    """Decoded images of every kind that a data set may return, small and large ones."""

    def __init__(self, broken=()):
        rng = np.random.default_rng(0)
        sizes = [
            (9, 8, 3),
            (9, 8, 3),
            (7, 11),
            (5, 6, 1),
            (900, 1000, 3),
            (1100, 900, 3),
            (9, 8, 4),
        ]
        self.images = [rng.integers(0, 256, size, np.uint8) for size in sizes * 4]
        self.images[2] = self.images[2].astype(np.float32)
        self.images[3] = Image.fromarray(self.images[3][:, :, 0])
        self.images[4] = torch.from_numpy(self.images[4].transpose(2, 0, 1))
        self.images[5] = self.images[5][::-1, ::-1]
        self.broken = broken

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index in self.broken:
            raise DecodeError("broken")
        return self.images[index], index


@pytest.mark.parametrize("num_workers", [0, 2])
def test_decoded_images_of_all_kinds_come_out_as_the_transform_leaves_them(num_workers):
    data = Mixed()
    whole = [Resize(6, 5), RandomHorizontalFlip()]
    transform = Compose([*whole, Lambda(three_channels), ImageNetNormalize(), ToTensor()])
    for source, steps in (
        (data, transform),
        (Mixed().images[:2] * 9, Compose([*whole, ImageNetNormalize(), ToTensor()])),
        (Mixed().images[:2] * 9, Compose([ImageNetNormalize(), ToTensor()])),
    ):
        loader = DataLoader(
            source, 16, num_workers=num_workers, transform=steps, output="numpy", seed=3
        )
        pipeline = compile_pipeline(steps, layout="CHW", dtype="float32")
        images = np.concatenate([batch[0] for batch in loader])
        for index, image in enumerate(images):
            item = source[index][0] if source is data else source[index]
            expected = pipeline.apply(image_array(item), Key(3, 0, index))
            np.testing.assert_array_equal(image, expected)


def test_a_broken_sample_among_decoded_ones_is_named():
    data = Mixed(broken=(5,))
    transform = Compose([Resize(6, 5), Lambda(three_channels), ToTensor()])
    loader = DataLoader(data, 28, num_workers=2, transform=transform)
    with pytest.raises(DecodeError, match="sample 5: broken"):
        list(loader)
    loader = DataLoader(data, 28, transform=transform, on_error="skip", num_workers=2)
    ((_, labels),) = loader
    assert labels.tolist() == [k for k in range(28) if k != 5]


def three_channels(array):
    return np.repeat(array[:, :, :1], 3, axis=2)


def test_a_data_set_with_a_transform_of_its_own_is_respected(tar):
    def inverted(image):
        return 255 - np.asarray(image)

    plain = ImageArchive(tar)
    options = {"batch_size": 10, "image_size": (16, 16), "num_workers": 2}
    upright = next(iter(DataLoader(plain, **options)))[0]
    changed = next(iter(DataLoader(ImageArchive(tar, transform=inverted), **options)))[0]
    # Resampling rounds either way; decoders of Pillow and ours differ by little.
    assert (255 - upright - changed).abs().mean() < 1
    target = ImageArchive(tar, target_transform=lambda image, labels: image.size[0])
    assert next(iter(DataLoader(target, **options)))[1].tolist() == [
        image.size[0] for image, _ in (plain[i] for i in range(10))
    ]


@pytest.fixture
def sources(tar, npz, tmp_path):
    """One of every kind, as functions, since some keep state."""
    path, images, labels = npz
    np.savez_compressed(tmp_path / "compressed.npz", images=images, labels=labels)
    with tarfile.open(tar) as archive, zipfile.ZipFile(tmp_path / "pictures.zip", "w") as zipped:
        for info in archive:
            data = archive.extractfile(info).read()
            zipped.writestr(info.name, data, zipfile.ZIP_DEFLATED)
            file = tmp_path / "folder" / info.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    shutil.copy(tar, tmp_path / "shard-0.tar")
    shutil.copy(tar, tmp_path / "shard-1.tar")

    def small(image):
        return np.asarray(image.resize((20, 20)))

    return {
        "tar": lambda: tar,
        "zip": lambda: tmp_path / "pictures.zip",
        "folder": lambda: tmp_path / "folder",
        "shards": lambda: str(tmp_path / "shard-{0..1}.tar"),
        "pread": lambda: ImageArchive(tar, storage="pread"),
        "later": lambda: ImageArchive(tar, open_after_fork=True),
        "own transform": lambda: ImageArchive(tar, transform=small, cache_size=9),
        "own target": lambda: ImageArchive(tar, target_transform=lambda image, labels: 1.5),
        "npz": lambda: path,
        "npz cache": lambda: LazyNPZDataset(path, cache_size=7),
        "compressed": lambda: str(tmp_path / "compressed.npz"),
        "combined": lambda: CombinedLazyDataset([LazyNPZDataset(path), LazyNPZDataset(path)]),
        "concat": lambda: torch.utils.data.ConcatDataset([ImageArchive(tar), Numbers()]),
        "subset": lambda: torch.utils.data.Subset(ImageArchive(tar), range(5, 40)),
        "encoded": Encoded,
        "pairs": Numbers,
    }


def test_all_kinds_of_sources_give_the_same_batches_for_any_number_of_workers(sources):
    for kind, source in sources.items():

        def run(num_workers, source=source):
            with DataLoader(
                source(), 7, shuffle=True, seed=2, num_workers=num_workers, transform=MIXED,
                return_indices=True,
            ) as loader:  # fmt: skip
                return [batch for _ in range(2) for batch in loader]

        expected = run(0)
        indices = [i for batch in expected for i in batch[2].tolist()]
        count = len(indices) // 2
        assert count >= 35, kind
        assert sorted(indices[:count]) == sorted(indices[count:]) == list(range(count)), kind
        for num_workers in (1, 3, 8):
            assert same(run(num_workers), expected), kind


def test_all_kinds_of_sources_resume(sources):
    for kind, source in sources.items():

        def made(source=source):
            return DataLoader(source(), 7, shuffle=True, seed=2, transform=MIXED, num_workers=2)

        with made() as loader, made() as other:
            iterator = iter(loader)
            next(iterator)
            other.load_state_dict(pickle.loads(pickle.dumps(loader.state_dict())))
            assert same(list(other), list(iterator)), kind


# What the source may be


def test_several_paths_are_one_data_set(tar, npz, tmp_path):
    path, images, _ = npz
    shutil.copy(tar, tmp_path / "more.tar")
    shutil.copy(path, tmp_path / "more.npz")
    single = labels_of(DataLoader(tar, COUNT, image_size=8))
    for source in ([tar, str(tmp_path / "more.tar")], (Path(tar), tmp_path / "more.tar")):
        assert labels_of(DataLoader(source, COUNT, image_size=8)) == single * 2
    assert labels_of(DataLoader(os.fsencode(tar), COUNT, image_size=8)) == single
    assert labels_of(DataLoader([tar], COUNT, image_size=8)) == single
    loader = DataLoader([path, tmp_path / "more.npz"], 80, transform=ToTensor())
    assert np.array_equal(next(iter(loader))[0][40:], images.transpose(0, 3, 1, 2))


def test_encoded_images_of_other_data_sets_are_decoded():
    encoded = [(coded(picture(i), "PNG"), i) for i in range(4)]
    pictures = [(picture(i), i) for i in range(4)]
    first, second = (DataLoader(source, 4, image_size=9) for source in (encoded, pictures))
    assert same(list(first), list(second))
    broken = [(b"nothing", 0), *encoded[1:]]
    assert labels_of(DataLoader(broken, 4, image_size=9, on_error="skip")) == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("image", "said"),
    [(3, "a int"), ("text", "a str"), (np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\)")],
)
def test_what_is_no_image_is_called_so(image, said):
    with pytest.raises(OptionError, match=f"{said}.*H, W, C"):
        list(DataLoader([(image, 0)] * 3, image_size=4))


def test_archives_and_other_mappings_are_no_data_sets(tar):
    with imagearchive.open(tar) as archive:
        for source in (archive, {"a": 1}):
            with pytest.raises(OptionTypeError, match="ImageArchive"):
                DataLoader(source)
    with pytest.raises(OptionError, match=r"columns .* got 3"):
        DataLoader(Numbers(), columns=3)


def test_a_function_that_is_called_like_ours_is_used(tar):
    def pil_loader(file):
        return Image.eval(Image.open(file).convert("RGB"), lambda value: 255 - value)

    images, _ = next(iter(DataLoader(ImageArchive(tar, loader=pil_loader), 8, image_size=16)))
    upright, _ = next(iter(DataLoader(ImageArchive(tar), 8, image_size=16)))
    # Resampling rounds either way; decoders of Pillow and ours differ by little.
    assert (255 - upright - images).abs().mean() < 1


class Zipped:
    """Several data sets side by side, which are not several in a row."""

    def __init__(self, *datasets):
        self.datasets = list(datasets)

    def __len__(self):
        return min(map(len, self.datasets))

    def __getitem__(self, index):
        return self.datasets[0][index][0], self.datasets[1][index][1] + 7


def test_data_sets_that_make_samples_of_their_own_are_asked_for_them(tar):
    transform = Compose([Resize(8, 8), ToTensor()])
    plain = ImageArchive(tar)
    expected = [plain.label(i) for i in range(len(plain))]
    for source, added in ((Zipped(plain, plain), 7),):
        labels = [
            label for batch in DataLoader(source, 16, transform=transform) for label in batch[1]
        ]
        assert labels == [label + added for label in expected]


@pytest.mark.parametrize("nested", [False, True])
def test_subsets_and_concatenations_of_torch_take_the_native_path(tar, nested, monkeypatch):
    dataset = ImageArchive(tar)
    both = torch.utils.data.ConcatDataset([dataset, dataset]) if nested else dataset
    picked = [7, 0, -1, 20, 3]
    subset = torch.utils.data.Subset(both, torch.tensor(picked))
    asked = []
    monkeypatch.setattr(ImageArchive, "prefetch", lambda self, indices: asked.extend(indices))
    transform = Compose([RandomResizedCrop(16), ImageNetNormalize(), ToTensor()])
    loader = DataLoader(subset, 2, transform=transform, return_indices=True, seed=5)
    batches = list(loader)
    positions = [p % len(dataset) for p in picked]
    assert asked == positions
    assert [i for batch in batches for i in batch[2].tolist()] == list(range(5))
    assert [i for b in batches for i in b[1].tolist()] == [dataset.label(p) for p in positions]
    pipeline = compile_pipeline(transform, layout="CHW", dtype="float32")
    images = np.concatenate([batch[0].numpy() for batch in batches])
    for index, position in enumerate(positions):
        expected = pipeline.render(dataset.read(position), Key(5, 0, index))
        np.testing.assert_array_equal(images[index], expected)
    (sample,) = next(iter(DataLoader(torch.utils.data.Subset(both, [4]), 1)))
    assert (sample["index"], sample["filename"]) == (0, dataset.name(4))


def test_states_of_subsets_and_arrays_know_their_data(tar, tmp_path):
    dataset = ImageArchive(tar)
    state = DataLoader(torch.utils.data.Subset(dataset, range(10)), 2).state_dict()
    DataLoader(torch.utils.data.Subset(dataset, list(range(10))), 2).load_state_dict(state)
    with pytest.raises(StateMismatchError):
        DataLoader(torch.utils.data.Subset(dataset, range(1, 11)), 2).load_state_dict(state)

    for name, first in (("a", 0), ("b", 0), ("c", 1)):
        images = np.full((20, 4, 5, 3), first, np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(20))
    state = DataLoader(str(tmp_path / "a.npz"), 2).state_dict()
    DataLoader(str(tmp_path / "b.npz"), 2).load_state_dict(state)
    with pytest.raises(StateMismatchError):
        DataLoader(str(tmp_path / "c.npz"), 2).load_state_dict(state)


def test_arrays_with_their_channels_first_are_images_too(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 12, 10), np.uint8)
    np.savez(tmp_path / "chw.npz", images=images, labels=np.arange(9))
    transform = Compose([ImageNetNormalize(), ToTensor()])
    loader = DataLoader(str(tmp_path / "chw.npz"), 9, transform=transform, output="numpy")
    ((got, _),) = loader
    for image, source in zip(got, images):
        np.testing.assert_array_equal(image, transform(source.transpose(1, 2, 0)))
    once = Compose([Resize(6, 5), ToTensor()])
    twice = DataLoader(
        [(once(image.transpose(1, 2, 0)), 0) for image in images], 9, transform=once,
        dtype=torch.uint8, channels_last=True,
    )  # fmt: skip
    ((got, _),) = twice
    assert got.shape == (9, 3, 5, 6)
    assert got.dtype == torch.uint8
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_dtypes_may_be_those_of_numpy_and_torch():
    for given, name in (
        (np.uint8, "uint8"), (np.dtype("float16"), "float16"), (torch.float32, "float32"),
    ):  # fmt: skip
        ((images, _),) = DataLoader(Numbers(4), 4, image_size=8, dtype=given)
        assert images.dtype == getattr(torch, name)
    for given in (torch.bfloat16, np.int32, int, "a", 3):
        with pytest.raises(OptionError, match="dtype"):
            DataLoader(Numbers(4), 4, image_size=8, dtype=given)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions take notes from 3.11 on")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_errors_of_a_function_say_for_which_sample(tar, num_workers):
    def picky(image):
        if image.shape[1] == 43:
            raise KeyError("unexpected")
        return image[:8, :8]

    loader = DataLoader(tar, 8, transform=picky, num_workers=num_workers)
    with pytest.raises(KeyError) as caught:
        list(loader)
    data = ImageArchive(tar)
    index = next(i for i in range(COUNT) if data[i][0].width == 43)
    note, hint = caught.value.__notes__
    assert note == f"raised for sample {index} ({data.name(index)})"
    assert "gets an (H, W, 3) array, not a Pillow image" in hint


def test_options_are_seen_and_not_set():
    loader = DataLoader(Numbers(4), 2, drop_last=True, num_workers=1)
    assert (loader.batch_size, loader.drop_last, loader.num_workers) == (2, True, 1)
    with pytest.raises(AttributeError):
        loader.batch_size = 3


def test_patterns_of_tar_files_are_their_archives(tar, tmp_path):
    shutil.copy(tar, tmp_path / "more-1.tar")
    shutil.copy(tar, tmp_path / "more-2.tar")
    assert len(DataLoader(str(tmp_path / "more-*.tar"), 1).dataset) == 2 * COUNT
    with pytest.raises(ArchiveNotFoundError, match="no file matches"):
        DataLoader(str(tmp_path / "less-*.tar"))
