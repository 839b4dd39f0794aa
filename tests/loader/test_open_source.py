"""`open_source`: what a path, a pattern, or a list is opened as."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.archives import write_tar
from support.samples import COUNT, FILES, Numbered, all_labels, labels_of, smooth_image

import imagearchive
from imagearchive import ImageArchive, LazyNPZDataset
from imagearchive.errors import (
    ArchiveNotFoundError,
    ImageArchiveError,
    OptionError,
    OptionTypeError,
    UnsupportedArchiveError,
)
from imagearchive.loader.data_loader import DataLoader
from imagearchive.transforms import (
    ToTensor,
)


def test_open_source_of_an_npz_path_reads_rows_without_copies(small_npz):
    with DataLoader(small_npz, 5, image_size=8, output="numpy", num_workers=1) as loader:
        assert not loader.dataset[0]["image"].flags.writeable
    # Without a transform the rows are handed out, and belong to the user.
    with DataLoader(small_npz, 5, num_workers=1) as loader:
        assert all(sample["image"].flags.writeable for batch in loader for sample in batch)


@pytest.mark.parametrize("name", ["arrays.npz", "arrays.zip", "arrays", "arrays.tar"])
def test_open_source_of_an_npz_of_any_name_reads_arrays(name, small_npz, tmp_path):
    path = tmp_path / "renamed" / name
    path.parent.mkdir()
    shutil.copy(small_npz, path)
    with DataLoader(path, 12, image_size=8) as loader:
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


def test_open_source_of_a_mapping_raises(tar):
    with imagearchive.open(tar) as archive:
        for source in (archive, {"a": 1}):
            with pytest.raises(OptionTypeError, match="ImageArchive"):
                DataLoader(source)
    with pytest.raises(OptionError, match=r"columns .* got 3"):
        DataLoader(Numbered(), columns=3)


@pytest.fixture
def web(tmp_path):
    """Three samples of an image, a class, and a caption."""
    members = {}
    for number in range(3):
        members[f"{number}.jpg"] = FILES[number]
        members[f"{number}.cls"] = b"7"
        members[f"{number}.txt"] = b"a caption"
    return write_tar(tmp_path / "web.tar", members)


def test_open_source_of_samples_of_one_file_is_images_without_labels(web):
    samples = imagearchive.open(web).samples("jpg")
    assert next(iter(DataLoader(samples, 3, image_size=8)))[1].tolist() == [-1, -1, -1]


class Fixed:
    """A dataset of one sample."""

    def __init__(self, sample):
        self.sample = sample

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.sample


@pytest.mark.parametrize("image_size", [None, 8])
def test_open_source_of_samples_with_undecoded_labels_raises(image_size):
    image = smooth_image(0)
    for label in (memoryview(b"7"), bytearray(b"7")):
        with pytest.raises(OptionError, match="label of sample 0 is undecoded"):
            list(DataLoader(Fixed((image, label)), 1, image_size=image_size))


def test_open_source_of_samples_of_three_values_needs_a_transform():
    with pytest.raises(OptionError, match="sample 0 has 3 values"):
        list(DataLoader(Fixed((smooth_image(0), 1, 2)), 1))


@pytest.mark.parametrize("source", [["a.tar", 3], [3, "a.tar"], (Path("a.tar"), None)])
def test_open_source_of_paths_and_other_objects_raises(source):
    number = 0 if source[0] == 3 else 1
    with pytest.raises(
        OptionTypeError, match=rf"item {1 - number} is a path, and item {number} is"
    ):
        DataLoader(source)


def test_open_source_of_a_loader_raises(tar):
    with DataLoader(tar) as loader, pytest.raises(OptionTypeError, match="source must be a path"):
        DataLoader(loader)
