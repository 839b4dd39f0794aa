"""TurboLoader's PyTorch integration guide, block by block.

The blocks are as published, except for the import line of the library and the placeholder paths.
Minimal stand-ins replace what a test machine lacks: torchvision, pytorch_lightning, and CUDA.
"""

import builtins
import contextlib
import io
import os
import subprocess
import sys
import tarfile
import types

import numpy as np
import pytest
from PIL import Image

from imagearchive.compat import turboloader

torch = pytest.importorskip("torch")
nn, optim = torch.nn, torch.optim

IMPORT = "from imagearchive.compat import turboloader"

QUICK_START = """
import turboloader
import torch

# 1. Create transforms
transforms = turboloader.Compose([
    turboloader.Resize(224, 224),
    turboloader.ImageNetNormalize(),
    turboloader.ToTensor()
])

# 2. Create TurboLoader
loader = turboloader.DataLoader(
    'imagenet_train.tar',
    batch_size=256,
    num_workers=8,
    shuffle=True
)

# 3. Training loop
for batch in loader:
    images = torch.stack([
        torch.from_numpy(transforms.apply(s['image'])).float()
        for s in batch
    ])
    labels = torch.tensor([s['label'] for s in batch])

    # Train your model
    outputs = model(images)
    loss = criterion(outputs, labels)
    # ...
"""

CONVERT = """
import turboloader
import torch
import numpy as np

loader = turboloader.DataLoader('data.tar', batch_size=32, num_workers=4)

for batch in loader:
    for sample in batch:
        # NumPy array (H, W, C) uint8
        image_np = sample['image']

        # Convert to PyTorch tensor (C, H, W) float32
        image_tensor = torch.from_numpy(image_np)

        # Permute from HWC to CHW
        image_tensor = image_tensor.permute(2, 0, 1).float()

        # Normalize to [0, 1]
        image_tensor /= 255.0
"""

TO_TENSOR = """
to_tensor = turboloader.ToTensor(turboloader.TensorFormat.PYTORCH_CHW)

for batch in loader:
    for sample in batch:
        # Automatically converts to CHW format
        image_chw = to_tensor.apply(sample['image'])  # (C, H, W)

        # Convert NumPy to PyTorch tensor
        image_tensor = torch.from_numpy(image_chw).float() / 255.0
"""

COMPLETE = """
import turboloader
import torch
import torch.nn as nn
import torch.optim as optim
from torchvision.models import resnet50

# Device setup
device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')

# Model
model = resnet50(num_classes=1000).to(device)
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

# Training transforms
train_transforms = turboloader.Compose([
    turboloader.Resize(256, 256),
    turboloader.RandomCrop(224, 224),
    turboloader.RandomHorizontalFlip(0.5),
    turboloader.ColorJitter(0.2, 0.2, 0.2, 0.1),
    turboloader.ImageNetNormalize(),
    turboloader.ToTensor()
])

# Create DataLoader
train_loader = turboloader.DataLoader(
    'imagenet_train.tar',
    batch_size=256,
    num_workers=8,
    shuffle=True
)

# Training loop
model.train()
for epoch in range(90):
    running_loss = 0.0
    correct = 0
    total = 0

    for batch_idx, batch in enumerate(train_loader):
        # Process batch
        images = []
        labels = []

        for sample in batch:
            img = train_transforms.apply(sample['image'])
            images.append(torch.from_numpy(img).float())
            labels.append(sample['label'])

        # Stack into batch tensors
        images = torch.stack(images).to(device)
        labels = torch.tensor(labels, dtype=torch.long).to(device)

        # Forward pass
        optimizer.zero_grad()
        outputs = model(images)
        loss = criterion(outputs, labels)

        # Backward pass
        loss.backward()
        optimizer.step()

        # Statistics
        running_loss += loss.item()
        _, predicted = outputs.max(1)
        total += labels.size(0)
        correct += predicted.eq(labels).sum().item()

        if batch_idx % 100 == 0:
            print(f'Epoch {epoch} [{batch_idx}/{len(train_loader)}] '
                  f'Loss: {running_loss/(batch_idx+1):.3f} '
                  f'Acc: {100.*correct/total:.2f}%')

    print(f'Epoch {epoch} completed. Acc: {100.*correct/total:.2f}%')
"""

VALIDATION = """
# Validation transforms (no randomness)
val_transforms = turboloader.Compose([
    turboloader.Resize(256, 256),
    turboloader.CenterCrop(224, 224),
    turboloader.ImageNetNormalize(),
    turboloader.ToTensor()
])

val_loader = turboloader.DataLoader(
    'imagenet_val.tar',
    batch_size=256,
    num_workers=8,
    shuffle=False  # Don't shuffle validation
)

# Validation loop
model.eval()
correct = 0
total = 0

with torch.no_grad():
    for batch in val_loader:
        images = []
        labels = []

        for sample in batch:
            img = val_transforms.apply(sample['image'])
            images.append(torch.from_numpy(img).float())
            labels.append(sample['label'])

        images = torch.stack(images).to(device)
        labels = torch.tensor(labels, dtype=torch.long).to(device)

        outputs = model(images)
        _, predicted = outputs.max(1)
        total += labels.size(0)
        correct += predicted.eq(labels).sum().item()

print(f'Validation Accuracy: {100.*correct/total:.2f}%')
"""

DISTRIBUTED = """
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel as DDP
import turboloader

def train(rank, world_size):
    # Initialize process group
    dist.init_process_group(
        backend='nccl',
        init_method='env://',
        world_size=world_size,
        rank=rank
    )

    # Set device
    torch.cuda.set_device(rank)
    device = torch.device(f'cuda:{rank}')

    # Model
    model = resnet50(num_classes=1000).to(device)
    model = DDP(model, device_ids=[rank])

    # TurboLoader with distributed sharding
    loader = turboloader.DataLoader(
        'imagenet_train.tar',
        batch_size=256,  # Per-GPU batch size
        num_workers=8,
        shuffle=True,
        enable_distributed=True,  # Enable automatic sharding
        drop_last=True  # Ensure equal batches across GPUs
    )

    # Transforms
    transforms = turboloader.Compose([
        turboloader.Resize(256, 256),
        turboloader.RandomCrop(224, 224),
        turboloader.RandomHorizontalFlip(0.5),
        turboloader.ImageNetNormalize(),
        turboloader.ToTensor()
    ])

    # Training
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    model.train()
    for epoch in range(90):
        for batch in loader:
            images = []
            labels = []

            for sample in batch:
                img = transforms.apply(sample['image'])
                images.append(torch.from_numpy(img).float())
                labels.append(sample['label'])

            images = torch.stack(images).to(device)
            labels = torch.tensor(labels, dtype=torch.long).to(device)

            optimizer.zero_grad()
            outputs = model(images)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()

        if rank == 0:
            print(f'Epoch {epoch} completed')

    dist.destroy_process_group()

if __name__ == '__main__':
    world_size = torch.cuda.device_count()
    mp.spawn(train, args=(world_size,), nprocs=world_size, join=True)
"""

LIGHTNING = """
import pytorch_lightning as pl
from torch.utils.data import IterableDataset, DataLoader as TorchDataLoader
import turboloader

class TurboLoaderWrapper(IterableDataset):
    def __init__(self, data_path, batch_size, num_workers, transform=None):
        self.loader = turboloader.DataLoader(
            data_path,
            batch_size=batch_size,
            num_workers=num_workers
        )
        self.transform = transform

    def __iter__(self):
        for batch in self.loader:
            for sample in batch:
                img = sample['image']
                if self.transform:
                    img = self.transform.apply(img)

                img_tensor = torch.from_numpy(img).float()
                label = sample.get('label', 0)

                yield img_tensor, label

class ImageNetDataModule(pl.LightningDataModule):
    def __init__(self, train_path, val_path, batch_size=256, num_workers=8):
        super().__init__()
        self.train_path = train_path
        self.val_path = val_path
        self.batch_size = batch_size
        self.num_workers = num_workers

    def setup(self, stage=None):
        self.train_transform = turboloader.Compose([
            turboloader.Resize(256, 256),
            turboloader.RandomCrop(224, 224),
            turboloader.RandomHorizontalFlip(0.5),
            turboloader.ImageNetNormalize(),
            turboloader.ToTensor()
        ])

        self.val_transform = turboloader.Compose([
            turboloader.Resize(256, 256),
            turboloader.CenterCrop(224, 224),
            turboloader.ImageNetNormalize(),
            turboloader.ToTensor()
        ])

    def train_dataloader(self):
        dataset = TurboLoaderWrapper(
            self.train_path,
            self.batch_size,
            self.num_workers,
            self.train_transform
        )
        return TorchDataLoader(dataset, batch_size=None, num_workers=0)

    def val_dataloader(self):
        dataset = TurboLoaderWrapper(
            self.val_path,
            self.batch_size,
            self.num_workers,
            self.val_transform
        )
        return TorchDataLoader(dataset, batch_size=None, num_workers=0)
"""

ORDERING = """
transforms = turboloader.Compose([
    # 1. Resize first
    turboloader.Resize(256, 256),

    # 2. Spatial augmentations
    turboloader.RandomCrop(224, 224),
    turboloader.RandomHorizontalFlip(0.5),

    # 3. Color augmentations
    turboloader.ColorJitter(0.2, 0.2, 0.2, 0.1),

    # 4. Normalize last
    turboloader.ImageNetNormalize(),

    # 5. Convert to tensor format
    turboloader.ToTensor()
])
"""

PINNING = """
# Convert batch to pinned memory for faster GPU transfer
images = torch.stack(images)
images = images.pin_memory().to(device, non_blocking=True)
"""

MIXED_PRECISION = """
from torch.cuda.amp import autocast, GradScaler

scaler = GradScaler()

for batch in loader:
    images = process_batch(batch)  # Your processing
    images = images.to(device)

    optimizer.zero_grad()

    with autocast():
        outputs = model(images)
        loss = criterion(outputs, labels)

    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
"""

ACCUMULATION = """
accumulation_steps = 4

for batch_idx, batch in enumerate(loader):
    images, labels = process_batch(batch)
    images, labels = images.to(device), labels.to(device)

    outputs = model(images)
    loss = criterion(outputs, labels) / accumulation_steps

    loss.backward()

    if (batch_idx + 1) % accumulation_steps == 0:
        optimizer.step()
        optimizer.zero_grad()
"""

WORKER_COUNT = """
import time

for num_workers in [1, 2, 4, 8, 16]:
    loader = turboloader.DataLoader(
        'data.tar',
        batch_size=256,
        num_workers=num_workers
    )

    start = time.time()
    count = 0
    for batch in loader:
        count += len(batch)
        if count >= 10000:
            break

    elapsed = time.time() - start
    throughput = count / elapsed
    print(f'Workers: {num_workers}, Throughput: {throughput:.1f} img/s')
"""

BATCH_SIZE = """
# Too small - underutilizes GPU
batch_size = 32  # ❌

# Good - balances memory and throughput
batch_size = 256  # ✓

# Adjust based on GPU memory
batch_size = 512  # For A100 80GB
"""

PREFETCH = """
# Prefetch next batch while training current
import threading
import queue

def prefetch_worker(loader, queue, device):
    for batch in loader:
        images = process_batch(batch)
        images = images.to(device, non_blocking=True)
        queue.put(images)
    queue.put(None)  # Sentinel

q = queue.Queue(maxsize=2)  # Prefetch 2 batches
thread = threading.Thread(target=prefetch_worker, args=(loader, q, device))
thread.start()

while True:
    images = q.get()
    if images is None:
        break
    # Train on images
    outputs = model(images)
    # ...
"""

COUNT = 10
CLASSES = 2


def write_tar(path, count, size=(20, 16)):
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG")
            info = tarfile.TarInfo(f"class_{number % CLASSES}/{number:05d}.jpg")
            info.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(info, buffer)
    return str(path)


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    return write_tar(tmp_path_factory.mktemp("tar") / "some.tar", COUNT)


class Model(nn.Module):
    """A stand-in for a residual network: takes (N, 3, H, W) floats, returns class scores."""

    def __init__(self, num_classes=1000):
        super().__init__()
        self.scale = nn.Linear(3, num_classes)

    def forward(self, images):
        assert images.dtype == torch.float32
        assert images.shape[1] == 3
        return self.scale(images.mean((2, 3)))


def run(block, tar, **names):
    """Execute a block with the import line and the placeholder paths replaced."""
    text = block.replace("import turboloader", IMPORT)
    for placeholder in ("imagenet_train.tar", "imagenet_val.tar", "data.tar"):
        text = text.replace(placeholder, tar)
    namespace = {"turboloader": turboloader, "torch": torch, "nn": nn, "optim": optim, **names}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(text, "<block>", "exec"), namespace)
    namespace["printed"] = printed.getvalue()
    return namespace


def common(tar):
    model = Model()
    return {
        "loader": turboloader.DataLoader(tar, batch_size=4, num_workers=2),
        "model": model,
        "criterion": nn.CrossEntropyLoss(),
        "optimizer": optim.SGD(model.parameters(), lr=0.1),
        "device": torch.device("cpu"),
    }


def small(batch):
    resized = turboloader.Compose([turboloader.Resize(8, 8), turboloader.ToTensor()])
    return torch.stack([torch.from_numpy(resized.apply(s["image"])).float() for s in batch])


def test_guide_quick_start_gives_normalized_images(tar):
    names = run(QUICK_START, tar, model=Model(), criterion=nn.CrossEntropyLoss())
    assert names["images"].shape == (COUNT, 3, 224, 224)
    assert names["images"].dtype == torch.float32
    # Normalized values, not the few integers that a cast to bytes would leave.
    assert len(names["images"].unique()) > 500
    assert names["images"].min() < -1
    assert sorted(names["labels"].tolist()) == [0] * 5 + [1] * 5
    assert len(names["loader"]) == 1


def test_guide_images_are_height_width_channel_bytes(tar):
    names = run(CONVERT, tar)
    assert names["image_np"].shape == (16, 20, 3)
    assert names["image_np"].dtype == np.uint8
    assert names["image_tensor"].shape == (3, 16, 20)
    assert 0 <= names["image_tensor"].min() <= names["image_tensor"].max() <= 1


def test_guide_to_tensor_changes_only_the_layout(tar):
    names = run(TO_TENSOR, tar, **common(tar))
    image = names["sample"]["image"]
    assert np.array_equal(names["image_chw"], image.transpose(2, 0, 1))
    assert names["image_tensor"].max() <= 1


def stub_module(monkeypatch, name, **contents):
    module = types.ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def test_guide_training_and_validation_run(tar, monkeypatch):
    stub_module(monkeypatch, "torchvision")
    stub_module(monkeypatch, "torchvision.models", resnet50=Model)
    # Two epochs show as much as ninety.
    names = run(COMPLETE, tar, range=lambda count: builtins.range(min(count, 2)))
    lines = names["printed"].splitlines()
    assert lines[0].startswith("Epoch 0 [0/1] Loss: ")
    assert lines[-1].startswith("Epoch 1 completed. Acc: ")
    assert names["total"] == COUNT
    names = run(VALIDATION, tar, model=names["model"], device=names["device"])
    assert names["printed"].startswith("Validation Accuracy: ")
    assert names["total"] == COUNT


STAND_INS = """
import atexit, builtins, multiprocessing, os, sys
import torch, torch.distributed, torch.nn.parallel
from torch import nn, optim

cpu, real_device = torch.device("cpu"), torch.device

class AnyDevice(type):
    def __instancecheck__(cls, thing):
        return isinstance(thing, real_device)

class device(metaclass=AnyDevice):
    def __new__(cls, *arguments):
        return cpu

real_parallel = torch.nn.parallel.DistributedDataParallel
real_group = torch.distributed.init_process_group
torch.device = device
torch.cuda.device_count = lambda: 2
torch.cuda.set_device = lambda rank: None
torch.nn.parallel.DistributedDataParallel = lambda model, device_ids: real_parallel(model)
torch.distributed.init_process_group = lambda backend, **rest: real_group(backend="gloo", **rest)

def range(count):
    return builtins.range(min(count, 2))

def leave():
    # Some builds of torch occasionally abort in their destructors, when everything is done.
    sys.stdout.flush()
    os._exit(0)

if multiprocessing.parent_process() is not None:
    atexit.register(leave)

class resnet50(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.scale = nn.Linear(3, num_classes)
    def forward(self, images):
        assert images.shape == (256, 3, 224, 224)
        return self.scale(images.mean((2, 3)))
"""


def test_guide_distributed_training_runs(tmp_path):
    tar = write_tar(tmp_path / "many.tar", 520, (8, 8))
    block = DISTRIBUTED.replace("import turboloader", IMPORT).replace("imagenet_train.tar", tar)
    program = tmp_path / "program.py"
    program.write_text(STAND_INS + block)
    environment = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, str(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "Epoch 0 completed\nEpoch 1 completed\n"


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_guide_lightning_data_module_yields_every_sample(tar, monkeypatch):
    stub_module(monkeypatch, "pytorch_lightning", LightningDataModule=object)
    names = run(LIGHTNING, tar)
    module = names["ImageNetDataModule"](tar, tar, batch_size=4, num_workers=2)
    module.setup()
    for samples in (list(module.train_dataloader()), list(module.val_dataloader())):
        assert len(samples) == COUNT
        assert sorted(label for _, label in samples) == [0] * 5 + [1] * 5
        assert all(image.shape == (3, 224, 224) for image, _ in samples)


def test_guide_best_practices_run(tar, monkeypatch):
    names = run(ORDERING, tar)
    assert names["transforms"].apply(np.zeros((30, 30, 3), np.uint8)).shape == (3, 224, 224)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    names = run(PINNING, tar, images=[torch.zeros(3, 4, 4)] * 2, device=torch.device("cpu"))
    assert names["images"].shape == (2, 3, 4, 4)


@pytest.mark.filterwarnings("ignore:.*torch.cuda.amp.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*CUDA is not available.*:UserWarning")
def test_guide_mixed_precision_and_accumulation_run(tar):
    options = common(tar)
    run(MIXED_PRECISION, tar, process_batch=small, labels=torch.tensor([0] * 4), **options | {
        "loader": turboloader.DataLoader(tar, batch_size=4, num_workers=2, drop_last=True)
    })  # fmt: skip

    def both(batch):
        return small(batch), torch.tensor([sample["label"] for sample in batch])

    names = run(ACCUMULATION, tar, process_batch=both, **options)
    assert names["batch_idx"] == 2


def test_guide_performance_tuning_runs(tar):
    printed = run(WORKER_COUNT, tar)["printed"].splitlines()
    assert [line.split(",")[0] for line in printed] == [f"Workers: {n}" for n in (1, 2, 4, 8, 16)]
    assert run(BATCH_SIZE, tar)["batch_size"] == 512
    names = run(PREFETCH, tar, process_batch=small, **common(tar))
    names["thread"].join()
    assert names["images"] is None
    assert names["outputs"].shape == (2, 1000)


def test_guide_shuffling_and_ranks_partition_samples(tar):
    loader = turboloader.DataLoader(tar, batch_size=4, num_workers=2, shuffle=True)
    epochs = [[s["label"] for batch in loader for s in batch] for _ in range(2)]
    assert all(sorted(labels) == [0] * 5 + [1] * 5 for labels in epochs)
    ranks = [
        turboloader.DataLoader(
            tar, batch_size=2, num_workers=1, drop_last=True, rank=rank, world_size=2
        )
        for rank in range(2)
    ]
    parts = [[s["filename"] for batch in loader for s in batch] for loader in ranks]
    assert [len(part) for part in parts] == [4, 4]
    assert not set(parts[0]) & set(parts[1])
