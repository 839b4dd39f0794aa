"""Which datasets are read natively, and which are asked for their samples."""

import numpy as np
import pytest
from PIL import Image
from support.archives import encoded, write_tar
from support.samples import all_labels

from imagearchive import CombinedLazyDataset, ImageArchive, LazyNPZDataset
from imagearchive.datasets.image_samples import ImageSamples
from imagearchive.loader.data_loader import DataLoader
from imagearchive.transforms import (
    Compose,
    ImageNetNormalize,
    Key,
    Pipeline,
    RandomResizedCrop,
    Resize,
    ToTensor,
    compile_pipeline,
)


@pytest.fixture
def samples_refused(monkeypatch):
    """Let `ImageArchive` refuse to make samples, so that only its encoded images are left."""

    def refuse(self, index):
        raise AssertionError("the loader asked for a sample instead of an encoded image")

    for name in ("__getitem__", "__getitems__"):
        # In the class that defines it: in a subclass it would stand for other samples.
        owner = next(kind for kind in ImageArchive.__mro__ if name in vars(kind))
        monkeypatch.setattr(owner, name, refuse)


def torch_data():
    return pytest.importorskip("torch.utils.data")


NATIVE = {
    "archive": lambda archive: (archive, range(12)),
    "combined": lambda archive: (CombinedLazyDataset([archive, archive]), [*range(12)] * 2),
    "concatenated": lambda archive: (
        torch_data().ConcatDataset([archive, archive]),
        [*range(12)] * 2,
    ),
    "subset": lambda archive: (torch_data().Subset(archive, [7, 0, -1]), [7, 0, 11]),
    "subset of concatenated": lambda archive: (
        torch_data().Subset(torch_data().ConcatDataset([archive, archive]), [20, 3]),
        [8, 3],
    ),
    "combined subsets": lambda archive: (
        CombinedLazyDataset(
            [torch_data().Subset(archive, [2]), torch_data().Subset(archive, [5, 4])]
        ),
        [2, 5, 4],
    ),
}


@pytest.mark.parametrize("kind", NATIVE)
def test_native_path_of_encoded_images_makes_no_samples(kind, image_tar, samples_refused):
    archive = ImageArchive(image_tar)
    dataset, indices = NATIVE[kind](archive)
    expected = [archive.label(index) for index in indices]
    assert all_labels(dataset) == expected
    samples = [sample for batch in DataLoader(dataset, 5, num_workers=1) for sample in batch]
    assert [sample["label"] for sample in samples] == expected


def test_native_path_of_a_subclass_that_overrides_nothing_makes_no_samples(
    image_tar, samples_refused
):
    class Named(ImageArchive):
        """Adds a method, and changes no sample."""

        def number(self):
            return len(self)

    assert all_labels(Named(image_tar)) == [ImageArchive(image_tar).label(i) for i in range(12)]


class AddsToLabels:
    """What users do: a class in front of a dataset's, which changes its samples."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label + 100


class Relabeled(AddsToLabels, ImageArchive):
    pass


class OwnCombined(AddsToLabels, CombinedLazyDataset):
    pass


def own_subset(path):
    class OwnSubset(AddsToLabels, torch_data().Subset):
        __getitems__ = None

    return OwnSubset(ImageArchive(path), range(12))


def own_concatenated(path):
    class OwnConcatDataset(AddsToLabels, torch_data().ConcatDataset):
        pass

    return OwnConcatDataset([ImageArchive(path)])


class Wrapper:
    """A dataset around another one, whose other attributes it hands on."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, label = self.dataset[index]
        return image, label + 100

    def __getattr__(self, name):
        return getattr(self.dataset, name)


class SideBySide:
    """A dataset with `datasets` that do not follow each other."""

    def __init__(self, *datasets):
        self.datasets = list(datasets)

    def __len__(self):
        return min(map(len, self.datasets))

    def __getitem__(self, index):
        return self.datasets[0][index][0], self.datasets[1][index][1] + 100


def negative(image):
    return 255 - np.asarray(image)


OWN_SAMPLES = {
    "subclass": Relabeled,
    "subset": own_subset,
    "concatenated": own_concatenated,
    "combined": lambda path: OwnCombined([ImageArchive(path)]),
    "part of combined": lambda path: CombinedLazyDataset([Relabeled(path)]),
    "wrapper": lambda path: Wrapper(ImageArchive(path)),
    "wrapper of combined": lambda path: Wrapper(CombinedLazyDataset([ImageArchive(path)])),
    "side by side": lambda path: SideBySide(ImageArchive(path), ImageArchive(path)),
    "target_transform": lambda path: ImageArchive(
        path, target_transform=lambda image, labels: int(labels[0]) + 100
    ),
}


@pytest.mark.parametrize("kind", OWN_SAMPLES)
def test_native_path_of_a_dataset_with_its_own_samples_is_not_taken(kind, image_tar):
    archive = ImageArchive(image_tar)
    expected = [archive.label(index) + 100 for index in range(12)]
    assert all_labels(OWN_SAMPLES[kind](image_tar)) == expected


def test_native_path_of_a_dataset_with_a_transform_is_not_taken(tar):
    plain = ImageArchive(tar)
    options = {"batch_size": 10, "image_size": (16, 16), "num_workers": 2}
    upright = next(iter(DataLoader(plain, **options)))[0]
    changed = next(iter(DataLoader(ImageArchive(tar, transform=negative), **options)))[0]
    # Resampling rounds either way; decoders of Pillow and ours differ by little.
    assert abs(255 - upright - changed).mean() < 1
    target = ImageArchive(tar, target_transform=lambda image, labels: image.size[0])
    assert next(iter(DataLoader(target, **options)))[1].tolist() == [
        image.size[0] for image, _ in (plain[i] for i in range(10))
    ]


def test_native_path_of_a_dataset_with_another_pil_loader_is_not_taken(tar):
    def pil_loader(file):
        return negative(Image.open(file).convert("RGB"))

    images, _ = next(iter(DataLoader(ImageArchive(tar, loader=pil_loader), 8, image_size=16)))
    upright, _ = next(iter(DataLoader(ImageArchive(tar), 8, image_size=16)))
    # Resampling rounds either way; decoders of Pillow and ours differ by little.
    assert abs(255 - upright - images).mean() < 1


@pytest.mark.parametrize("kind", ["npz", "combined", "arrays"])
def test_native_path_of_arrays_fills_the_memory_of_the_loader(kind, small_npz):
    rows = LazyNPZDataset(small_npz)
    dataset = {
        "npz": rows,
        "combined": CombinedLazyDataset([rows]),
        "arrays": [(rows[index]["image"], index) for index in range(12)],
    }[kind]
    loader = DataLoader(dataset, 4, image_size=8, output="numpy", num_workers=1)
    for images, labels in loader:
        # A batch that was stacked from single images has no base.
        assert images.base is not None
        assert images.shape == (4, 3, 8, 8)
        assert len(labels) == 4


@pytest.mark.needs_torch
@pytest.mark.parametrize("nested", [False, True])
def test_native_path_of_torch_subsets_reads_their_images_ahead(tar, nested, monkeypatch):
    import torch

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


@pytest.mark.needs_torch
def test_native_path_of_combined_datasets_has_the_samples_of_its_parts(tar):
    import torch

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


@pytest.mark.parametrize(("side", "most"), [(8, 64), (300, 16)])
def test_native_path_takes_more_small_images_at_a_time(tmp_path, monkeypatch, side, most):
    rng = np.random.default_rng(0)
    data = encoded(rng.integers(0, 256, (side, side, 3), np.uint8), "JPEG")
    path = write_tar(tmp_path / "images.tar", {f"a/{k}.jpg": data for k in range(128)})
    taken = []
    render = Pipeline.render_all_into

    def record(self, images, keys, out, decoder=None):
        taken.append(len(images))
        render(self, images, keys, out, decoder)

    monkeypatch.setattr(Pipeline, "render_all_into", record)
    loader = DataLoader(str(path), 128, transform=Resize(4, 4), num_workers=0, output="numpy")
    assert [len(images) for images, _ in loader] == [128]
    assert taken == [most] * (128 // most)


def test_native_path_of_a_mapped_archive_reads_no_single_images(image_tar, monkeypatch):
    expected = [label for _, label in ImageArchive(image_tar).samples]

    def refuse(self, index):
        raise AssertionError("the loader read one image")

    with ImageArchive(image_tar, storage="mmap") as archive:
        loader = DataLoader(archive, 12, transform=Resize(4, 4), num_workers=0, output="numpy")
        monkeypatch.setattr(ImageSamples, "read", refuse)
        monkeypatch.setattr(ImageSamples, "label", refuse)
        ((images, labels),) = loader
    assert images.shape == (12, 3, 4, 4)
    assert labels.tolist() == expected
