"""`open_source`: which datasets are read natively, and which are asked for their samples."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.samples import COUNT, Numbered, labels_of, smooth_image

import imagearchive
from imagearchive import CombinedLazyDataset, ImageArchive, LazyNPZDataset
from imagearchive.errors import (
    ArchiveNotFoundError,
    ImageArchiveError,
    OptionError,
    OptionTypeError,
    UnsupportedArchiveError,
)
from imagearchive.loader.data_loader import DataLoader
from imagearchive.transforms import (
    Compose,
    ImageNetNormalize,
    Key,
    RandomResizedCrop,
    Resize,
    ToTensor,
    compile_pipeline,
)

torch = pytest.importorskip("torch")
torch_data = torch.utils.data

TRANSFORM = Compose([Resize(8, 8), ToTensor()])


@pytest.fixture
def small_npz(tmp_path):
    path = tmp_path / "arrays.npz"
    images = np.random.default_rng(0).integers(0, 256, (12, 9, 7, 3), np.uint8)
    np.savez(path, images=images, labels=np.arange(12))
    return str(path)


@pytest.fixture
def samples_refused(monkeypatch):
    """Let `ImageArchive` refuse to make samples, so that only its encoded images are left."""

    def refuse(self, index):
        raise AssertionError("the loader asked for a sample instead of an encoded image")

    monkeypatch.setattr(ImageArchive, "__getitem__", refuse)
    monkeypatch.setattr(ImageArchive, "__getitems__", refuse)


def all_labels(dataset, **options):
    loader = DataLoader(dataset, 5, transform=TRANSFORM, num_workers=1, **options)
    return [label for batch in loader for label in batch[1].tolist()]


NATIVE = {
    "archive": lambda archive: (archive, range(12)),
    "combined": lambda archive: (CombinedLazyDataset([archive, archive]), [*range(12)] * 2),
    "concatenated": lambda archive: (
        torch_data.ConcatDataset([archive, archive]),
        [*range(12)] * 2,
    ),
    "subset": lambda archive: (torch_data.Subset(archive, [7, 0, -1]), [7, 0, 11]),
    "subset of concatenated": lambda archive: (
        torch_data.Subset(torch_data.ConcatDataset([archive, archive]), [20, 3]),
        [8, 3],
    ),
    "combined subsets": lambda archive: (
        CombinedLazyDataset([torch_data.Subset(archive, [2]), torch_data.Subset(archive, [5, 4])]),
        [2, 5, 4],
    ),
}


@pytest.mark.parametrize("kind", NATIVE)
def test_open_source_of_encoded_images_makes_no_samples(kind, image_tar, samples_refused):
    archive = ImageArchive(image_tar)
    dataset, indices = NATIVE[kind](archive)
    expected = [archive.label(index) for index in indices]
    assert all_labels(dataset) == expected
    samples = [sample for batch in DataLoader(dataset, 5, num_workers=1) for sample in batch]
    assert [sample["label"] for sample in samples] == expected


class Relabelled(ImageArchive):
    """What users do: a subclass with other samples."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label + 100


class OwnSubset(torch_data.Subset):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label + 100

    __getitems__ = None


class OwnConcatDataset(torch_data.ConcatDataset):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label + 100


class OwnCombined(CombinedLazyDataset):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label + 100


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


@pytest.mark.parametrize(
    "change",
    [
        lambda path: Relabelled(path),
        lambda path: OwnSubset(ImageArchive(path), range(12)),
        lambda path: OwnConcatDataset([ImageArchive(path)]),
        lambda path: OwnCombined([ImageArchive(path)]),
        lambda path: CombinedLazyDataset([Relabelled(path)]),
        lambda path: Wrapper(ImageArchive(path)),
        lambda path: Wrapper(CombinedLazyDataset([ImageArchive(path)])),
        lambda path: ImageArchive(path, target_transform=lambda image, labels: labels[0] + 100),
    ],
    ids=[
        "subclass", "subset", "concatenated", "combined", "part of combined", "wrapper",
        "wrapper of combined", "target_transform",
    ],
)  # fmt: skip
def test_open_source_of_a_dataset_with_its_own_samples_asks_for_them(change, image_tar):
    archive = ImageArchive(image_tar)
    assert all_labels(change(image_tar)) == [archive.label(index) + 100 for index in range(12)]


def test_open_source_of_a_subclass_that_overrides_nothing_makes_no_samples(
    image_tar, samples_refused
):
    class Named(ImageArchive):
        """Adds a method, and changes no sample."""

        def number(self):
            return len(self)

    assert all_labels(Named(image_tar)) == [ImageArchive(image_tar).label(i) for i in range(12)]


def test_open_source_of_an_npz_path_reads_rows_without_copies(small_npz):
    with DataLoader(small_npz, 5, transform=TRANSFORM, output="numpy", num_workers=1) as loader:
        assert not loader.dataset[0]["image"].flags.writeable
    # Without a transform the rows are handed out, and belong to the user.
    with DataLoader(small_npz, 5, num_workers=1) as loader:
        assert all(sample["image"].flags.writeable for batch in loader for sample in batch)


@pytest.mark.parametrize("kind", ["npz", "combined", "arrays"])
def test_open_source_of_arrays_fills_the_memory_of_the_loader(kind, small_npz):
    rows = LazyNPZDataset(small_npz)
    dataset = {
        "npz": rows,
        "combined": CombinedLazyDataset([rows]),
        "arrays": [(rows[index]["image"], index) for index in range(12)],
    }[kind]
    loader = DataLoader(dataset, 4, transform=TRANSFORM, output="numpy", num_workers=1)
    for images, labels in loader:
        # A batch that is put together from images has no base.
        assert images.base is not None
        assert images.shape == (4, 3, 8, 8)
        assert len(labels) == 4


@pytest.mark.parametrize("name", ["arrays.npz", "arrays.zip", "arrays", "arrays.tar"])
def test_open_source_of_an_npz_of_any_name_reads_arrays(name, small_npz, tmp_path):
    path = tmp_path / "renamed" / name
    path.parent.mkdir()
    shutil.copy(small_npz, path)
    with DataLoader(path, 12, transform=TRANSFORM) as loader:
        assert isinstance(loader.dataset, LazyNPZDataset)
        ((_, labels),) = loader
    assert labels.tolist() == list(range(12))


@pytest.mark.parametrize("name", ["images.npy", "images.dat"])
def test_open_source_of_a_lone_npy_of_any_name_reads_rows(name, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 9, 7, 3), np.uint8)
    with open(tmp_path / name, "wb") as file:
        np.save(file, images)
    columns = (name.removesuffix(".npy"), None)
    with DataLoader(
        tmp_path / name, 12, transform=ToTensor(), output="numpy", columns=columns
    ) as loader:
        ((got, _),) = loader
    assert np.array_equal(got, images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["images.npz", "images.npy", "images.zip"])
def test_open_source_of_a_zip_of_images_of_any_name_reads_images(name, pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for member, data in pictures.items():
            archive.writestr(member, data)
    with DataLoader(tmp_path / name, 12, image_size=8) as loader:
        assert isinstance(loader.dataset, ImageArchive)
        assert len(loader.dataset) == len(pictures)


def test_open_source_of_a_zip_of_arrays_and_images_reads_images(pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "mixed.npz", "w") as archive:
        archive.writestr("a.npy", b"array")
        for member, data in pictures.items():
            archive.writestr(member, data)
    with DataLoader(tmp_path / "mixed.npz") as loader:
        assert isinstance(loader.dataset, ImageArchive)


def test_open_source_of_damaged_files_names_them(tmp_path):
    for name in ("empty.npz", "text.npz"):
        (tmp_path / name).write_bytes(b"" if "empty" in name else b"plain text" * 99)
        with pytest.raises(UnsupportedArchiveError, match=name):
            DataLoader(tmp_path / name)
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4" + bytes(999))
    with pytest.raises(ImageArchiveError, match=r"cut\.npz"):
        DataLoader(tmp_path / "cut.npz")


@pytest.mark.parametrize("pattern", ["part-*.npz", "part-{0..1}.npz", "part-[01].npz"])
def test_open_source_of_a_pattern_of_npz_reads_all_of_them(pattern, small_npz, tmp_path):
    for number in range(2):
        shutil.copy(small_npz, tmp_path / f"part-{number}.npz")
    assert all_labels(str(tmp_path / pattern)) == [*range(12)] * 2


@pytest.mark.parametrize("pattern", ["part-*.tar", "part-{0..1}.tar", "part-[01].tar"])
def test_open_source_of_a_pattern_of_tars_reads_all_of_them(pattern, image_tar, tmp_path):
    for number in range(2):
        shutil.copy(image_tar, tmp_path / f"part-{number}.tar")
    archive = ImageArchive(image_tar)
    assert all_labels(str(tmp_path / pattern)) == [archive.label(index) for index in range(12)] * 2


@pytest.mark.parametrize("pattern", ["none-*.tar", "none-*.npz", "none.tar", "none-{0..1}.npz"])
def test_open_source_of_nothing_raises_not_found(pattern, tmp_path):
    with pytest.raises(ArchiveNotFoundError, match="none"):
        DataLoader(str(tmp_path / pattern))


def test_open_source_of_a_path_opens_an_archive(tar):
    with DataLoader(tar, batch_size=10, num_workers=2) as loader:
        assert len(loader) == 6
        samples = [sample for batch in loader for sample in batch]
    assert len(samples) == COUNT
    by_name = {sample["filename"]: sample for sample in samples}
    for index in range(COUNT):
        sample = by_name[f"class_{index % 4}/{index:03d}.{'png' if index % 5 == 4 else 'jpg'}"]
        assert sample["label"] == index % 4
        assert sample["image"].shape == np.asarray(smooth_image(index)).shape
    with pytest.raises(ArchiveNotFoundError):
        DataLoader(tar + ".missing")


def test_open_source_of_several_paths_joins_them(tar, npz, tmp_path):
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


def test_open_source_of_combined_datasets_joins_their_samples(npz, tar, tmp_path):
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


def test_open_source_of_a_dataset_with_a_transform_applies_it(tar):
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


def test_open_source_of_a_mapping_raises(tar):
    with imagearchive.open(tar) as archive:
        for source in (archive, {"a": 1}):
            with pytest.raises(OptionTypeError, match="ImageArchive"):
                DataLoader(source)
    with pytest.raises(OptionError, match=r"columns .* got 3"):
        DataLoader(Numbered(), columns=3)


def test_open_source_of_a_dataset_with_another_pil_loader_calls_it(tar):
    def pil_loader(file):
        return Image.eval(Image.open(file).convert("RGB"), lambda value: 255 - value)

    images, _ = next(iter(DataLoader(ImageArchive(tar, loader=pil_loader), 8, image_size=16)))
    upright, _ = next(iter(DataLoader(ImageArchive(tar), 8, image_size=16)))
    # Resampling rounds either way; decoders of Pillow and ours differ by little.
    assert (255 - upright - images).abs().mean() < 1


class Zipped:
    """Several datasets side by side, which are not several in a row."""

    def __init__(self, *datasets):
        self.datasets = list(datasets)

    def __len__(self):
        return min(map(len, self.datasets))

    def __getitem__(self, index):
        return self.datasets[0][index][0], self.datasets[1][index][1] + 7


def test_open_source_of_datasets_side_by_side_asks_for_samples(tar):
    transform = Compose([Resize(8, 8), ToTensor()])
    plain = ImageArchive(tar)
    expected = [plain.label(i) for i in range(len(plain))]
    for source, added in ((Zipped(plain, plain), 7),):
        labels = [
            label for batch in DataLoader(source, 16, transform=transform) for label in batch[1]
        ]
        assert labels == [label + added for label in expected]


@pytest.mark.parametrize("nested", [False, True])
def test_open_source_of_torch_subsets_reads_their_images_ahead(tar, nested, monkeypatch):
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
