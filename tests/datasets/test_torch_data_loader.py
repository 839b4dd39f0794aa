"""The datasets in `torch.utils.data.DataLoader`."""

import numpy as np
import pytest

from imagearchive import ImageArchive, SplitDataLoader

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, IterableDataset, get_worker_info  # noqa: E402


def to_tensor(image):
    return torch.from_numpy(np.array(image))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("hook", [True, False])
def test_data_loader_workers_read_all_images(image_tar, method, hook):
    dataset = ImageArchive(image_tar, transform=to_tensor, open_after_fork=True)
    loader = DataLoader(
        dataset,
        batch_size=5,
        # A spawned worker imports torch, which takes long.
        num_workers=1 if method == "spawn" else 2,
        multiprocessing_context=method,
        worker_init_fn=dataset.worker_open_archive if hook else None,
    )
    images = torch.cat([images for images, _ in loader])
    expected = torch.stack([to_tensor(image) for image, _ in ImageArchive(image_tar)])
    assert torch.equal(images, expected)


class Stream:
    """An iterable dataset over a loader, as a worker of PyTorch sees it."""

    def __init__(self, folder):
        self.loader = SplitDataLoader(folder, open_after_fork=True)

    def __iter__(self):
        return self.loader.iterate_binwise(shuffle=True, seed=4)


def test_data_loader_workers_read_all_packets(split_set):
    folder, data = split_set
    dataset = type("Dataset", (Stream, IterableDataset), {})(folder)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert sorted(loader) == sorted(data)
    loader = DataLoader(
        SplitDataLoader(folder, open_after_fork=True),
        batch_size=32,
        num_workers=1,
        collate_fn=list,
        multiprocessing_context="spawn",
        worker_init_fn=open_in_worker,
    )
    assert [packet for batch in loader for packet in batch] == data


def open_in_worker(worker_id):
    get_worker_info().dataset.worker_open_archive(worker_id)
