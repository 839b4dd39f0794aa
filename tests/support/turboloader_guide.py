"""The blocks of TurboLoader's PyTorch integration guide, as published."""

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
