"""`SampleSource`: arrays, pairs, dicts and other decoded samples."""

import numpy as np
import pytest
from PIL import Image
from support.archives import tar_bytes
from support.samples import (
    TRAINING,
    Numbered,
    encoded_image,
    labels_of,
    same_batches,
    smooth_image,
)

from imagearchive import CombinedLazyDataset, LazyNPZDataset
from imagearchive.errors import (
    DecodeError,
    OptionError,
    OptionTypeError,
)
from imagearchive.loader.array_sources import image_array
from imagearchive.loader.data_loader import DataLoader
from imagearchive.transforms import (
    Compose,
    ImageNetNormalize,
    Key,
    Lambda,
    RandomHorizontalFlip,
    Resize,
    ToTensor,
    compile_pipeline,
)


@pytest.mark.needs_torch
def test_samples_of_pairs_dicts_and_images_become_batches():
    import torch

    class Dicts(Numbered):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return {"x": image, "y": np.array([label, -label], np.float32)}

    class Tensors(Numbered):
        def __getitem__(self, index):
            return torch.full((3, 4, 5), index, dtype=torch.uint8), index

    class Images(Numbered):
        def __getitem__(self, index):
            return Image.fromarray(super().__getitem__(index)[0])

    options = {"batch_size": 6, "image_size": (5, 4), "num_workers": 1}
    for source, labels in (
        (Numbered(), [0, 1, 2, 3, 4, 5]),
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
    with pytest.raises(OptionError, match="no entry 'nothing'"):
        next(iter(DataLoader(Dicts(), **options, columns=("x", "nothing"))))
    with pytest.raises(OptionError, match="pair of names"):
        DataLoader(Dicts(), **options, columns="x")
    samples = next(iter(DataLoader(Numbered(), batch_size=2, num_workers=0)))
    assert samples[1]["label"] == samples[1]["index"] == 1
    assert next(iter(DataLoader(Dicts(), 2, num_workers=0)))[1]["y"].tolist() == [1, -1]
    assert list(DataLoader([], 2, image_size=4)) == []
    with pytest.raises(OptionTypeError):
        DataLoader(iter([1]), 2)


def test_npz_images_are_normalized_into_batches(npz):
    path, images, labels = npz
    transform = Compose([ImageNetNormalize(), ToTensor()])
    for source in (path, LazyNPZDataset(path)):
        loader = DataLoader(source, 16, transform=transform, num_workers=2, output="numpy")
        batches = list(loader)
        assert [len(batch[1]) for batch in batches] == [16, 16, 8]
        got = np.concatenate([batch[0] for batch in batches])
        mean = np.array([0.485, 0.456, 0.406], np.float32)
        std = np.array([0.229, 0.224, 0.225], np.float32)
        expected = ((images / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
        assert np.abs(got - expected).max() < 1e-5
        assert np.concatenate([batch[1] for batch in batches]).tolist() == labels.tolist()


def test_npz_with_columns_takes_any_column_as_label(boxes_npz):
    path = boxes_npz
    loader = DataLoader(
        path, 8, transform=TRAINING, num_workers=2, columns=("images", "extra"), output="numpy"
    )
    images, labels = next(iter(loader))
    assert images.shape == (8, 3, 16, 16)
    assert labels.dtype == np.float64
    assert labels.tolist() == list(range(8))
    loader = DataLoader(
        path, 3, image_size=8, num_workers=1, columns=("image", "bboxes"), label_kind="values"
    )
    _, boxes = next(iter(loader))
    assert [np.shape(box) for box in boxes] == [(0, 4), (1, 4), (2, 4)]


def test_npz_without_transform_yields_copies_of_its_samples(npz):
    path, images, labels = npz
    with DataLoader(path, 7, num_workers=2, shuffle=True) as loader:
        samples = [sample for batch in loader for sample in batch]
    assert sorted(sample["index"] for sample in samples) == list(range(40))
    for sample in samples:
        assert np.array_equal(sample["image"], images[sample["index"]])
        assert sample["labels"] == labels[sample["index"]]
        sample["image"][:] = 0  # a copy, not the file


@pytest.mark.parametrize(
    ("columns", "names"), [(("images", "extra"), ["image", "extra"]), (("image", None), ["image"])]
)
def test_npz_with_columns_without_transform_yields_only_these(boxes_npz, columns, names):
    for source in (boxes_npz, LazyNPZDataset(boxes_npz, keys=["images", "bboxes", "extra"])):
        for batch in DataLoader(source, 3, columns=columns):
            assert all(list(sample) == ["index", *names] for sample in batch)


def test_dict_samples_with_columns_without_transform_hold_only_these():
    rows = [{"x": i, "y": -i, "z": str(i)} for i in range(4)]
    assert list(DataLoader(rows, 4, columns=("y", "z"), num_workers=0)) == [
        [{"index": i, "y": -i, "z": str(i)} for i in range(4)]
    ]
    with pytest.raises(OptionError, match=r"no entry 'label'.*its entries are 'x', 'y', 'z'"):
        list(DataLoader(rows, 4, columns=("x", "label"), num_workers=0))


@pytest.mark.parametrize("options", [{}, {"image_size": 4}])
def test_columns_of_samples_without_names_raise(tmp_path, options):
    pairs = [(smooth_image(i), i) for i in range(4)]
    with pytest.raises(OptionError, match=r"columns= is for samples that are dicts.*tuple"):
        list(DataLoader(pairs, 4, columns=("image", "label"), num_workers=0, **options))
    (tmp_path / "a.tar").write_bytes(tar_bytes({"0.png": encoded_image(0, "PNG")}))
    with pytest.raises(OptionError, match=r"columns= is for samples that are dicts.*ImageArchive"):
        DataLoader(tmp_path / "a.tar", 4, columns=("image", "label"), **options)


class MixedDataset:
    """Decoded images of every kind that a dataset may return, small and large ones."""

    def __init__(self, broken=()):
        import torch

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


def three_channels(array):
    return np.repeat(array[:, :, :1], 3, axis=2)


@pytest.mark.needs_torch
@pytest.mark.parametrize("num_workers", [0, 2])
def test_decoded_images_of_all_kinds_have_the_values_of_the_transform(num_workers):
    data = MixedDataset()
    whole = [Resize(6, 5), RandomHorizontalFlip()]
    transform = Compose([*whole, Lambda(three_channels), ImageNetNormalize(), ToTensor()])
    for source, steps in (
        (data, transform),
        (MixedDataset().images[:2] * 9, Compose([*whole, ImageNetNormalize(), ToTensor()])),
        (MixedDataset().images[:2] * 9, Compose([ImageNetNormalize(), ToTensor()])),
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


@pytest.mark.needs_torch
def test_broken_sample_among_decoded_ones_is_named():
    data = MixedDataset(broken=(5,))
    transform = Compose([Resize(6, 5), Lambda(three_channels), ToTensor()])
    loader = DataLoader(data, 28, num_workers=2, transform=transform)
    with pytest.raises(DecodeError, match="sample 5: broken"):
        list(loader)
    loader = DataLoader(data, 28, transform=transform, on_error="skip", num_workers=2)
    ((_, labels),) = loader
    assert labels.tolist() == [k for k in range(28) if k != 5]


def test_encoded_images_of_other_datasets_are_decoded():
    encoded = [(encoded_image(i, "PNG"), i) for i in range(4)]
    pictures = [(Image.fromarray(smooth_image(i)), i) for i in range(4)]
    first, second = (DataLoader(source, 4, image_size=9) for source in (encoded, pictures))
    assert same_batches(list(first), list(second))
    broken = [(b"nothing", 0), *encoded[1:]]
    assert labels_of(DataLoader(broken, 4, image_size=9, on_error="skip")) == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("image", "said"),
    [(3, "got int"), ("text", "got str"), (np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\)")],
)
def test_image_array_of_something_else_raises(image, said):
    with pytest.raises(OptionError, match=f"H, W, C.*{said}"):
        list(DataLoader([(image, 0)] * 3, image_size=4))


@pytest.mark.needs_torch
def test_image_array_with_channels_first_is_transposed(tmp_path):
    import torch

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


@pytest.fixture
def oddly_named_npz(tmp_path):
    path = tmp_path / "odd.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    extra = {"pixels_test": pixels[:4], "target_test": np.arange(4) + 100}
    np.savez(path, pixels=pixels, target_class=np.arange(20), **extra)
    return path


def test_keys_of_npz_need_not_be_repeated_as_columns(oddly_named_npz):
    options = {"transform": ToTensor(), "num_workers": 0, "batch_size": 20, "output": "numpy"}
    dataset = LazyNPZDataset(oddly_named_npz, keys=("pixels", "target_class"))
    parts = [dataset, CombinedLazyDataset([dataset, dataset])]
    for source in parts:
        images, labels = next(iter(DataLoader(source, **options)))
        assert images.shape == (20, 3, 8, 8)
        assert labels.tolist() == [*range(20)]
    only = LazyNPZDataset(oddly_named_npz, keys=("pixels",))
    assert next(iter(DataLoader(only, **options)))[1].tolist() == [-1] * 20


def test_columns_of_path_need_not_be_those_chosen_by_length(oddly_named_npz):
    columns = ("pixels_test", "target_test")
    loader = DataLoader(
        oddly_named_npz, 4, transform=ToTensor(), num_workers=0, output="numpy", columns=columns
    )
    assert len(loader) == 1
    assert next(iter(loader))[1].tolist() == [100, 101, 102, 103]


def test_repr_of_a_loader_of_an_array_is_short():
    loader = DataLoader(np.zeros((500, 8, 8, 3), np.uint8), 4)
    assert len(repr(loader).splitlines()) == 1
    assert len(repr(loader)) < 500
