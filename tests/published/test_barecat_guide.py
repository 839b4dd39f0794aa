"""Barecat's guide to PyTorch datasets, block by block.

The blocks are as published, except for the import line of the library.
"""

# ruff: noqa: E501

from __future__ import annotations

import gc
import io
import json
import sys
import tarfile
import types

import barecat as peer
import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

BASIC = """
import torch
from torch.utils.data import Dataset, DataLoader
from imagearchive.compat import barecat
from PIL import Image
import io

class BarecatDataset(Dataset):
    def __init__(self, archive_path, transform=None):
        self.bc = barecat.Barecat(archive_path, threadsafe=True)
        self.transform = transform

        # Cache list of paths for fast indexing
        self.paths = [
            f.path for f in self.bc.index.iter_all_fileinfos()
        ]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, idx):
        path = self.paths[idx]
        data = self.bc[path]
        image = Image.open(io.BytesIO(data)).convert('RGB')

        if self.transform:
            image = self.transform(image)

        return image

    def close(self):
        self.bc.close()
"""

MULTI_WORKER = """
dataset = BarecatDataset('data.barecat')
loader = DataLoader(
    dataset,
    batch_size=64,
    shuffle=True,
    num_workers=8,  # Safe with threadsafe=True
    pin_memory=True,
    prefetch_factor=2,
)
"""

LABELED = """
class LabeledBarecatDataset(Dataset):
    def __init__(self, archive_path, transform=None):
        self.bc = barecat.Barecat(archive_path, threadsafe=True)
        self.transform = transform
        self.paths = []
        self.labels = []

        # Build class-to-index mapping
        classes = set()
        for f in self.bc.index.iter_all_fileinfos():
            class_name = f.path.split('/')[0]
            classes.add(class_name)

        self.class_to_idx = {c: i for i, c in enumerate(sorted(classes))}

        # Cache paths and labels
        for f in self.bc.index.iter_all_fileinfos():
            self.paths.append(f.path)
            class_name = f.path.split('/')[0]
            self.labels.append(self.class_to_idx[class_name])

    def __getitem__(self, idx):
        data = self.bc[self.paths[idx]]
        image = Image.open(io.BytesIO(data)).convert('RGB')
        if self.transform:
            image = self.transform(image)
        return image, self.labels[idx]
"""

METADATA = """
import json

class MetadataBarecatDataset(Dataset):
    def __init__(self, archive_path, transform=None):
        self.bc = barecat.Barecat(archive_path, threadsafe=True)
        self.transform = transform

        # Load metadata from archive
        metadata = json.loads(self.bc['metadata.json'].decode())
        self.paths = list(metadata.keys())
        self.labels = [metadata[p]['label'] for p in self.paths]
"""

DECODED = """
from imagearchive.compat.barecat import DecodedView

class DecodedViewDataset(Dataset):
    def __init__(self, archive_path, transform=None):
        self.bc = barecat.Barecat(archive_path, threadsafe=True)
        self.dec = DecodedView(self.bc)
        self.transform = transform
        self.paths = list(self.bc.index.iter_all_paths())

    def __getitem__(self, idx):
        # Returns numpy array (H, W, C) for .jpg/.png
        image = self.dec[self.paths[idx]]
        if self.transform:
            image = self.transform(image)
        return image

    def close(self):
        self.bc.close()
"""

STREAMING = """
class StreamingBarecatDataset(torch.utils.data.IterableDataset):
    def __init__(self, archive_path, transform=None):
        self.archive_path = archive_path
        self.transform = transform

    def __iter__(self):
        # Each worker gets its own barecat instance
        bc = barecat.Barecat(self.archive_path)

        worker_info = torch.utils.data.get_worker_info()
        if worker_info is not None:
            # Split files across workers
            all_paths = list(bc.index.iter_all_paths())
            per_worker = len(all_paths) // worker_info.num_workers
            start = worker_info.id * per_worker
            end = start + per_worker if worker_info.id < worker_info.num_workers - 1 else len(all_paths)
            paths = all_paths[start:end]
        else:
            paths = list(bc.index.iter_all_paths())

        for path in paths:
            data = bc[path]
            image = Image.open(io.BytesIO(data)).convert('RGB')
            if self.transform:
                image = self.transform(image)
            yield image

        bc.close()
"""

DISTRIBUTED = """
from torch.utils.data.distributed import DistributedSampler

dataset = BarecatDataset('data.barecat')
sampler = DistributedSampler(dataset)
loader = DataLoader(
    dataset,
    batch_size=64,
    sampler=sampler,
    num_workers=4,
    pin_memory=True,
)

# In training loop
for epoch in range(num_epochs):
    sampler.set_epoch(epoch)  # Ensures different shuffling each epoch
    for batch in loader:
        ...
"""

PERSISTENT = """
loader = DataLoader(
    dataset,
    num_workers=4,
    persistent_workers=True,  # Workers stay alive between epochs
)
"""

COMPLETE = """
import torch
from torch.utils.data import Dataset, DataLoader
from torchvision import transforms
from imagearchive.compat import barecat
from PIL import Image
import io

class ImageNetBarecatDataset(Dataset):
    def __init__(self, archive_path, split='train', transform=None):
        self.bc = barecat.Barecat(archive_path, threadsafe=True)
        self.transform = transform

        # Filter by split
        self.paths = []
        self.labels = []
        classes = sorted(self.bc.listdir(split))
        self.class_to_idx = {c: i for i, c in enumerate(classes)}

        for cls in classes:
            cls_path = f"{split}/{cls}"
            for fname in self.bc.listdir(cls_path):
                self.paths.append(f"{cls_path}/{fname}")
                self.labels.append(self.class_to_idx[cls])

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, idx):
        data = self.bc[self.paths[idx]]
        image = Image.open(io.BytesIO(data)).convert('RGB')
        if self.transform:
            image = self.transform(image)
        return image, self.labels[idx]

    def close(self):
        self.bc.close()

# Usage
transform = transforms.Compose([
    transforms.RandomResizedCrop(224),
    transforms.RandomHorizontalFlip(),
    transforms.ToTensor(),
    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
])

train_dataset = ImageNetBarecatDataset(
    'imagenet.barecat',
    split='train',
    transform=transform,
)

train_loader = DataLoader(
    train_dataset,
    batch_size=256,
    shuffle=True,
    num_workers=8,
    pin_memory=True,
    persistent_workers=True,
)

# Training loop
for epoch in range(90):
    for images, labels in train_loader:
        images = images.cuda(non_blocking=True)
        labels = labels.cuda(non_blocking=True)
        # ... training step
"""


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A folder with the archives of the guide."""
    folder = tmp_path_factory.mktemp("guide")
    rng = np.random.default_rng(0)

    def jpeg():
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(stream, "JPEG")
        return stream.getvalue()

    images = {f"{kind}/image{i}.jpg": jpeg() for kind in ("cat", "dog", "owl") for i in range(4)}
    metadata = {name: {"label": len(name)} for name in images}
    sets = {
        "data": images,
        "imagenet": {
            f"{part}/{n}": data for part in ("train", "val") for n, data in images.items()
        },
        "metadata": {**images, "metadata.json": json.dumps(metadata).encode()},
    }
    for title, files in sets.items():
        with peer.Barecat(f"{folder}/{title}.barecat", readonly=False) as archive:
            for name, data in files.items():
                archive[name] = data
    with tarfile.open(folder / "data.tar", "w") as archive:
        for name, data in images.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return folder


@pytest.fixture
def guide(archives, monkeypatch):
    """Return a function that runs blocks of the guide in the directory of its archives."""
    monkeypatch.chdir(archives)
    namespace: dict = {}

    def run(*blocks):
        for block in blocks:
            exec(compile(block, "guide", "exec"), namespace)
        return namespace

    yield run
    # Ends persistent workers here, and not when Python happens to collect the loader.
    namespace.clear()
    gc.collect()


def to_array(image):
    return np.asarray(image, np.float32)


@pytest.mark.parametrize("archive", ["data.barecat", "data.tar"])
def test_guide_basic_dataset_returns_images(guide, archive):
    dataset = guide(BASIC)["BarecatDataset"](archive, transform=to_array)
    assert len(dataset) == 12
    assert dataset[11].shape == (40, 50, 3)
    dataset.close()


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning", "ignore:.*worker:UserWarning")
@pytest.mark.parametrize("block", ["MULTI_WORKER", "PERSISTENT"])
def test_guide_workers_return_every_image(guide, block):
    namespace = guide(BASIC, MULTI_WORKER, globals()[block])
    # Without a transform, the samples are Pillow images, which PyTorch does not collate.
    namespace["loader"].collate_fn = list
    found = [image for batch in namespace["loader"] for image in batch]
    assert len(found) == 12
    assert {image.size for image in found} == {(50, 40)}


def test_guide_labels_come_from_directories(guide):
    dataset = guide(BASIC, LABELED)["LabeledBarecatDataset"]("data.barecat")
    assert dataset.class_to_idx == {"cat": 0, "dog": 1, "owl": 2}
    assert [dataset[i][1] for i in range(12)] == [0] * 4 + [1] * 4 + [2] * 4


def test_guide_metadata_is_read_from_archive(guide):
    dataset = guide(BASIC, METADATA)["MetadataBarecatDataset"]("metadata.barecat")
    assert len(dataset.paths) == 12
    assert dataset.labels == [len(path) for path in dataset.paths]


@pytest.mark.parametrize("archive", ["data.barecat", "data.tar"])
def test_guide_decoded_view_returns_arrays(guide, archive):
    dataset = guide(BASIC, DECODED)["DecodedViewDataset"](archive)
    assert len(dataset.paths) == 12
    for index in range(12):
        assert dataset[index].shape == (40, 50, 3)
        assert dataset[index].dtype == np.uint8
    dataset.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_guide_streaming_splits_files_among_workers(guide, workers):
    namespace = guide(BASIC, STREAMING)
    dataset = namespace["StreamingBarecatDataset"]("data.barecat", transform=to_array)
    loader = namespace["DataLoader"](dataset, batch_size=None, num_workers=workers)
    assert len(list(loader)) == 12


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning", "ignore:.*worker:UserWarning")
def test_guide_distributed_sampler_runs(guide, tmp_path):
    namespace = guide(BASIC)
    plain = namespace["BarecatDataset"]
    namespace["BarecatDataset"] = lambda path: plain(path, transform=to_array)
    namespace["num_epochs"] = 2
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        guide(DISTRIBUTED)
    finally:
        torch.distributed.destroy_process_group()
    assert namespace["batch"].shape == (12, 40, 50, 3)


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning", "ignore:.*worker:UserWarning")
def test_guide_complete_training_runs(guide, monkeypatch):
    def compose(steps):
        def apply(image):
            for step in steps:
                image = step(image)
            return image

        return apply

    def random_resized_crop(size):
        return lambda image: image.resize((size, size))

    # A minimal stand-in for torchvision.
    transforms = types.ModuleType("torchvision.transforms")
    transforms.Compose = compose
    transforms.RandomResizedCrop = random_resized_crop
    transforms.RandomHorizontalFlip = lambda: lambda image: image
    transforms.ToTensor = lambda: lambda image: torch.tensor(to_array(image)).permute(2, 0, 1) / 255
    transforms.Normalize = lambda mean, std: (
        lambda tensor: (
            (tensor - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        )
    )
    torchvision = types.ModuleType("torchvision")
    torchvision.transforms = transforms
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "torchvision.transforms", transforms)
    # There is no GPU, and one epoch shows as much as ninety.
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor, non_blocking=False: tensor)
    namespace = guide("range = lambda epochs: [0]")
    guide(COMPLETE)
    assert namespace["images"].shape == (12, 3, 224, 224)
    assert sorted(namespace["labels"].tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert len(namespace["train_dataset"]) == 12
