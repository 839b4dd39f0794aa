"""Batches of torch tensors, and torch's own loader around ours."""

from typing import ClassVar

import numpy as np
import pytest
from support.samples import (
    COUNT,
    TRAINING,
    Encoded,
    Numbered,
    damaged,
    labels_of,
    same_batches,
)

from imagearchive import Array, Boxes, Image, Label, Mask
from imagearchive.errors import (
    OptionError,
)
from imagearchive.loader.data_loader import DataLoader
from imagearchive.loader.order import EpochOrder
from imagearchive.loader.sharded_sampler import ShardedSampler
from imagearchive.transforms import (
    Compose,
    Lambda,
    Resize,
    ToTensor,
)

torch = pytest.importorskip("torch")


def test_batch_with_transform_is_tensors():
    loader = DataLoader(Encoded(), batch_size=8, transform=TRAINING, num_workers=2)
    images, labels = next(iter(loader))
    assert isinstance(images, torch.Tensor)
    assert images.shape == (8, 3, 16, 16)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    assert labels.dtype == torch.int64
    assert labels.tolist() == [i * 3 for i in range(8)]
    assert len(list(loader)) == len(loader) == 7


def test_batch_of_each_option_has_its_type_and_layout():
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


def test_batch_of_any_callable_has_its_values():
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


@pytest.fixture
def pinned(monkeypatch):
    """The addresses of pinned tensors, once ``pin()`` was called."""
    # Page-locked memory needs a device; knowing which tensors are put there does not.
    addresses = set()

    def pin(tensor):
        addresses.add(tensor.data_ptr())
        return tensor

    new = torch.empty

    def empty(*shape, pin_memory=False, **options):
        tensor = new(*shape, **options)
        return pin(tensor) if pin_memory else tensor

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    return addresses


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("on_error", ["skip", "replace"])
@pytest.mark.parametrize(
    "transform",
    [Resize(8, 8), Lambda(lambda image: torch.from_numpy(image[:8, :8].copy()).permute(2, 0, 1))],
    ids=["compiled", "function"],
)
def test_pin_memory_of_every_kind_of_batch_pins_all_tensors(
    pinned, transform, on_error, channels_last
):
    options = {
        "transform": transform, "on_error": on_error, "channels_last": channels_last,
        "return_indices": True, "num_workers": 2,
    }  # fmt: skip
    expected = list(DataLoader(Encoded(damaged()), 10, **options))
    assert not pinned
    got = list(DataLoader(Encoded(damaged()), 10, **options, pin_memory=True))
    assert same_batches(got, expected)
    assert all(tensor.data_ptr() in pinned for batch in got for tensor in batch)
    if channels_last:
        assert got[0][0].is_contiguous(memory_format=torch.channels_last)


class Scenes:
    """Samples with a field of each kind that becomes tensors."""

    fields: ClassVar = {
        "image": Image(),
        "mask": Mask(),
        "boxes": Boxes(labels="classes"),
        "classes": Label(ragged=True),
        "vector": Array(),
        "label": Label(),
    }

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {
            "image": np.full((12, 10, 3), index, np.uint8),
            "mask": np.full((12, 10), index, np.uint8),
            "boxes": np.tile(np.float32([0, 0, 5, 5]), (index, 1)),
            "classes": np.arange(index),
            "vector": np.full(3, index, np.float32),
            "label": index,
            "text": str(index),
        }


@pytest.mark.parametrize("ragged", ["list", "pad"])
def test_pin_memory_of_dict_samples_pins_the_tensors_of_every_field(pinned, ragged):
    options = {
        "transform": Compose([Resize(8, 8), ToTensor()]), "fields": Scenes.fields,
        "ragged": ragged, "return_indices": True, "num_workers": 2,
    }  # fmt: skip
    plain = list(DataLoader(Scenes(), 4, **options))
    assert not pinned
    tensors = 0
    for batch, expected in zip(
        DataLoader(Scenes(), 4, **options, pin_memory=True), plain, strict=True
    ):
        assert batch.keys() == expected.keys()
        for name, column in batch.items():
            for value, other in zip(column, expected[name], strict=True):
                assert np.array_equal(value, other)
            for value in column if isinstance(column, list) else [column]:
                if isinstance(value, torch.Tensor) and value.numel():
                    assert value.data_ptr() in pinned, name
                    tensors += 1
    assert tensors > 10


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batch_of_tensors_from_a_function_follows_the_options(num_workers):
    def tensor(image):
        return torch.from_numpy(image).permute(2, 0, 1).float() / 4

    def first(**options):
        loader = DataLoader(Numbered(), 3, transform=tensor, num_workers=num_workers, **options)
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


def test_batch_of_read_only_arrays_is_writable():
    def fixed(image):
        image = image[..., 0].astype(np.float32)
        image.flags.writeable = False
        return image

    loader = DataLoader(Numbered(), 2, transform=fixed, collate_fn=list, num_workers=1)
    for image, _ in next(iter(loader)):
        image += 1


def test_dtype_of_numpy_or_torch_is_accepted():
    for given, name in (
        (np.uint8, "uint8"), (np.dtype("float16"), "float16"), (torch.float32, "float32"),
    ):  # fmt: skip
        ((images, _),) = DataLoader(Numbered(4), 4, image_size=8, dtype=given)
        assert images.dtype == getattr(torch, name)
    for given in (torch.bfloat16, torch.int64, np.int32, int, "a", 3):
        with pytest.raises(OptionError, match="dtype"):
            DataLoader(Numbered(4), 4, image_size=8, dtype=given)


class Wrapped(torch.utils.data.IterableDataset):
    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        yield from self.loader


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_split_torch_workers_yields_every_sample_once(method):
    loader = DataLoader(Encoded(), 4, shuffle=True, transform=TRAINING, num_workers=2)
    theirs = torch.utils.data.DataLoader(
        Wrapped(loader), batch_size=None, num_workers=2, multiprocessing_context=method
    )
    seen = [label for _, labels in theirs for label in labels.tolist()]
    assert sorted(seen) == [3 * i for i in range(COUNT)]


def test_loader_order_equals_that_of_sharded_sampler():
    for drop_last in (False, True):
        for rank in range(3):
            options = {"shuffle": True, "seed": 2, "rank": rank, "world_size": 3}
            loader = DataLoader(
                Numbered(), 4, image_size=4, num_workers=2, drop_last=drop_last, **options
            )
            assert len(loader) == len(
                EpochOrder(COUNT, batch_size=4, drop_last=drop_last, **options)
            )
            sampler = ShardedSampler(Numbered(), drop_last=drop_last, **options)
            theirs = torch.utils.data.DataLoader(
                Numbered(), 4, sampler=sampler, drop_last=drop_last
            )
            for _ in range(2):
                assert labels_of(loader) == labels_of(theirs)
