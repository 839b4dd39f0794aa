"""The guide to lazy NPZ datasets, block by block."""

import numpy as np
import pytest
from support.npz import SAVERS, equal, make_detector

from imagearchive import LazyNPZDataset

BASIC = """
from imagearchive import LazyNPZDataset

# Create lazy dataset (data not loaded into memory yet)
train_dataset = LazyNPZDataset('data/preprocessed/train_detector.npz')

print(f"Dataset length: {len(train_dataset)}")  # Quick - just returns count

# Access individual samples (loaded on-demand)
sample = train_dataset[0]
print(sample.keys())  # dict_keys(['image', 'bboxes', 'image_path'])

# Data is only loaded when accessed
image = sample['image']
bboxes = sample['bboxes']
"""


CACHING = """
# Cache the 100 most recently accessed samples
train_dataset = LazyNPZDataset(
    'data/preprocessed/train_detector.npz',
    cache_size=100  # LRU cache
)

# First access: loads from disk
sample1 = train_dataset[0]

# Second access: retrieved from cache (fast!)
sample1_again = train_dataset[0]
"""


TORCH = """
import torch
from torch.utils.data import DataLoader
from imagearchive import LazyNPZDataset

# Create lazy dataset
dataset = LazyNPZDataset('data/preprocessed/train_detector.npz', cache_size=50)

# Use with DataLoader
dataloader = DataLoader(
    dataset,
    batch_size=32,
    shuffle=True,
    num_workers=4,  # Multiple workers supported
    pin_memory=True
)

# Training loop
for batch in dataloader:
    images = batch['image']
    bboxes = batch['bboxes']
    # ... your training code
"""


COMBINING = """
from imagearchive import CombinedLazyDataset, LazyNPZDataset

# Load multiple datasets
train_ds = LazyNPZDataset('data/preprocessed/train_detector.npz')
val_ds = LazyNPZDataset('data/preprocessed/val_detector.npz')

# Combine them
combined = CombinedLazyDataset([train_ds, val_ds])

print(f"Combined length: {len(combined)}")  # Sum of both

# Access samples from either dataset
sample_from_train = combined[0]
sample_from_val = combined[len(train_ds)]  # First val sample
"""


BATCH = """
dataset = LazyNPZDataset('data/preprocessed/train_detector.npz')

# Get multiple samples as a batch
indices = [0, 1, 2, 3, 4]
batch = dataset.get_batch(indices)

# batch is a dict with batched arrays
print(batch['images'].shape)  # (5, H, W, 3)
print(batch['bboxes'].shape)  # (5,) - array of bbox lists
"""


NEW_APPROACH = """
# Only metadata loaded
dataset = LazyNPZDataset('train_detector.npz')

# Only batch worth of data in memory
for i in range(0, len(dataset), 32):
    batch_indices = range(i, min(i+32, len(dataset)))
    batch = dataset.get_batch(batch_indices)
    # Peak memory: ~300MB for batch of 32
"""


# Steps 2 to 4 of the full pipeline; it trains for 100 epochs.
PIPELINE = """
from imagearchive import LazyNPZDataset
from torch.utils.data import DataLoader

# Step 2: Create lazy datasets
train_ds = LazyNPZDataset('data/preprocessed/train_detector.npz', cache_size=100)
val_ds = LazyNPZDataset('data/preprocessed/val_detector.npz', cache_size=50)

# Step 3: Create data loaders
train_loader = DataLoader(train_ds, batch_size=32, shuffle=True, num_workers=4)
val_loader = DataLoader(val_ds, batch_size=32, shuffle=False, num_workers=2)

# Step 4: Train
for epoch in range(2):
    for batch in train_loader:
        # Only current batch is in memory!
        images = batch['image']
        bboxes = batch['bboxes']
        # ... training code
"""


@pytest.fixture(params=SAVERS)
def preprocessed(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = make_detector("data/preprocessed/train_detector.npz", 70, SAVERS[request.param])
    val = make_detector("data/preprocessed/val_detector.npz", 9, SAVERS[request.param])
    make_detector("train_detector.npz", 70, SAVERS[request.param])
    return train, val


def run(block):
    names = {"LazyNPZDataset": LazyNPZDataset, "np": np}
    exec(compile(block, "guide", "exec"), names)
    return names


def test_lazy_npz_guide_basic(preprocessed, capsys):
    train, _ = preprocessed
    found = run(BASIC)
    told = capsys.readouterr().out
    assert told == "Dataset length: 70\ndict_keys(['image', 'bboxes', 'image_path'])\n"
    assert equal(found["image"], train["images"][0])
    assert found["bboxes"] == train["bboxes"][0]
    assert found["sample"]["image_path"] == "raw/00000.jpg"


def test_lazy_npz_guide_caching(preprocessed):
    found = run(CACHING)
    assert equal(found["sample1"]["image"], found["sample1_again"]["image"])
    assert found["sample1"]["image"] is not found["sample1_again"]["image"]


# Four workers on two cores, and page-locked memory without an accelerator.
QUIET = pytest.mark.filterwarnings("ignore::UserWarning:torch.*", "ignore::DeprecationWarning")


@pytest.mark.needs_torch
@QUIET
def test_lazy_npz_guide_torch(preprocessed):
    train, _ = preprocessed
    found = run(TORCH)
    assert found["images"].shape == (70 % 32, 8, 8, 3)
    assert len(found["bboxes"]) == 70 % 32
    assert all(boxes in train["bboxes"].tolist() for boxes in found["bboxes"])


def test_lazy_npz_guide_combining(preprocessed, capsys):
    train, val = preprocessed
    found = run(COMBINING)
    assert capsys.readouterr().out == "Combined length: 79\n"
    assert equal(found["sample_from_train"]["image"], train["images"][0])
    assert equal(found["sample_from_val"]["image"], val["images"][0])


def test_lazy_npz_guide_batch(preprocessed, capsys):
    train, _ = preprocessed
    found = run(BATCH)
    assert capsys.readouterr().out == "(5, 8, 8, 3)\n(5,)\n"
    assert equal(found["batch"]["images"], train["images"][:5])
    assert found["batch"]["bboxes"].tolist() == train["bboxes"][:5].tolist()


def test_lazy_npz_guide_new_approach(preprocessed):
    train, _ = preprocessed
    assert equal(run(NEW_APPROACH)["batch"]["images"], train["images"][64:])


@pytest.mark.needs_torch
@QUIET
def test_lazy_npz_guide_pipeline(preprocessed):
    import torch

    assert run(PIPELINE)["images"].dtype == torch.uint8
