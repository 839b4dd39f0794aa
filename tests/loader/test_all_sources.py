"""Every kind of source yields the same batches for any number of workers, and resumes."""

import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from support.samples import MIXED, Encoded, Numbered, same_batches

from imagearchive import CombinedLazyDataset, ImageArchive, LazyNPZDataset
from imagearchive.loader.data_loader import DataLoader


@pytest.fixture
def folder(tar, npz, tmp_path):
    """A directory with the same images in every kind of file."""
    _, images, labels = npz
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
    return tmp_path


def small(image):
    return np.asarray(image.resize((20, 20)))


def archive_of(folder, **options):
    return ImageArchive(folder / "images.tar", **options)


def rows_of(folder, **options):
    return LazyNPZDataset(folder / "arrays.npz", **options)


def concatenated(folder):
    from torch.utils.data import ConcatDataset

    return ConcatDataset([archive_of(folder), Numbered()])


def subset(folder):
    from torch.utils.data import Subset

    return Subset(archive_of(folder), range(5, 40))


# Functions of the directory, since some sources keep state.
SOURCES = {
    "tar": lambda folder: str(folder / "images.tar"),
    "zip": lambda folder: folder / "pictures.zip",
    "folder": lambda folder: folder / "folder",
    "shards": lambda folder: str(folder / "shard-{0..1}.tar"),
    "pread": lambda folder: archive_of(folder, storage="pread"),
    "later": lambda folder: archive_of(folder, open_after_fork=True),
    "own transform": lambda folder: archive_of(folder, transform=small, cache_size=9),
    "own target": lambda folder: archive_of(folder, target_transform=lambda image, labels: 1.5),
    "npz": lambda folder: str(folder / "arrays.npz"),
    "npz cache": lambda folder: rows_of(folder, cache_size=7),
    "compressed": lambda folder: str(folder / "compressed.npz"),
    "combined": lambda folder: CombinedLazyDataset([rows_of(folder), rows_of(folder)]),
    "concat": concatenated,
    "subset": subset,
    "encoded": lambda folder: Encoded(),
    "pairs": lambda folder: Numbered(),
}
NEED_TORCH = {"concat", "subset"}

each_source = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.needs_torch if kind in NEED_TORCH else ())
        for kind in SOURCES
    ],
)


@each_source
def test_all_sources_with_any_num_workers_yield_the_same_batches(kind, folder):
    def run(num_workers):
        with DataLoader(
            SOURCES[kind](folder), 7, shuffle=True, seed=2, num_workers=num_workers,
            transform=MIXED, return_indices=True,
        ) as loader:  # fmt: skip
            return [batch for _ in range(2) for batch in loader]

    expected = run(0)
    indices = [i for batch in expected for i in batch[2].tolist()]
    count = len(indices) // 2
    assert count >= 35
    assert sorted(indices[:count]) == sorted(indices[count:]) == list(range(count))
    for num_workers in (1, 3, 8):
        assert same_batches(run(num_workers), expected)


@each_source
def test_all_sources_from_a_state_resume(kind, folder):
    def made():
        return DataLoader(
            SOURCES[kind](folder), 7, shuffle=True, seed=2, transform=MIXED, num_workers=2
        )

    with made() as loader, made() as other:
        iterator = iter(loader)
        next(iterator)
        other.load_state_dict(pickle.loads(pickle.dumps(loader.state_dict())))
        assert same_batches(list(other), list(iterator))
