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

torch = pytest.importorskip("torch")


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
        "concat": lambda: torch.utils.data.ConcatDataset([ImageArchive(tar), Numbered()]),
        "subset": lambda: torch.utils.data.Subset(ImageArchive(tar), range(5, 40)),
        "encoded": Encoded,
        "pairs": Numbered,
    }


def test_all_sources_with_any_num_workers_yield_the_same_batches(sources):
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
            assert same_batches(run(num_workers), expected), kind


def test_all_sources_from_a_state_resume(sources):
    for kind, source in sources.items():

        def made(source=source):
            return DataLoader(source(), 7, shuffle=True, seed=2, transform=MIXED, num_workers=2)

        with made() as loader, made() as other:
            iterator = iter(loader)
            next(iterator)
            other.load_state_dict(pickle.loads(pickle.dumps(loader.state_dict())))
            assert same_batches(list(other), list(iterator)), kind
