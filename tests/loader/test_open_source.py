"""`open_source`: which datasets are read natively, and which are asked for their samples."""

import shutil
import zipfile

import numpy as np
import pytest

from imagearchive import CombinedLazyDataset, ImageArchive, LazyNPZDataset
from imagearchive.errors import ArchiveNotFoundError, ImageArchiveError, UnsupportedArchiveError
from imagearchive.loader.data_loader import DataLoader
from imagearchive.transforms import Compose, Resize, ToTensor

torch_data = pytest.importorskip("torch.utils.data")

TRANSFORM = Compose([Resize(8, 8), ToTensor()])


@pytest.fixture
def npz(tmp_path):
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


def labels_of(dataset, **options):
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
    assert labels_of(dataset) == expected
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
    assert labels_of(change(image_tar)) == [archive.label(index) + 100 for index in range(12)]


def test_open_source_of_a_subclass_that_overrides_nothing_makes_no_samples(
    image_tar, samples_refused
):
    class Named(ImageArchive):
        """Adds a method, and changes no sample."""

        def number(self):
            return len(self)

    assert labels_of(Named(image_tar)) == [ImageArchive(image_tar).label(i) for i in range(12)]


def test_open_source_of_an_npz_path_reads_rows_without_copies(npz):
    with DataLoader(npz, 5, transform=TRANSFORM, output="numpy", num_workers=1) as loader:
        assert not loader.dataset[0]["image"].flags.writeable
    # Without a transform the rows are handed out, and belong to the user.
    with DataLoader(npz, 5, num_workers=1) as loader:
        assert all(sample["image"].flags.writeable for batch in loader for sample in batch)


@pytest.mark.parametrize("kind", ["npz", "combined", "arrays"])
def test_open_source_of_arrays_fills_the_memory_of_the_loader(kind, npz):
    rows = LazyNPZDataset(npz)
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
def test_open_source_of_an_npz_of_any_name_reads_arrays(name, npz, tmp_path):
    path = tmp_path / "renamed" / name
    path.parent.mkdir()
    shutil.copy(npz, path)
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
def test_open_source_of_a_pattern_of_npz_reads_all_of_them(pattern, npz, tmp_path):
    for number in range(2):
        shutil.copy(npz, tmp_path / f"part-{number}.npz")
    assert labels_of(str(tmp_path / pattern)) == [*range(12)] * 2


@pytest.mark.parametrize("pattern", ["part-*.tar", "part-{0..1}.tar", "part-[01].tar"])
def test_open_source_of_a_pattern_of_tars_reads_all_of_them(pattern, image_tar, tmp_path):
    for number in range(2):
        shutil.copy(image_tar, tmp_path / f"part-{number}.tar")
    archive = ImageArchive(image_tar)
    assert labels_of(str(tmp_path / pattern)) == [archive.label(index) for index in range(12)] * 2


@pytest.mark.parametrize("pattern", ["none-*.tar", "none-*.npz", "none.tar", "none-{0..1}.npz"])
def test_open_source_of_nothing_raises_not_found(pattern, tmp_path):
    with pytest.raises(ArchiveNotFoundError, match="none"):
        DataLoader(str(tmp_path / pattern))
