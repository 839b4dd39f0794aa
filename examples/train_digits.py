"""Train a small CNN on images from a TAR archive and print its accuracy on held-out images.

Run ``python examples/train_digits.py [ARCHIVE]``. The archive has one directory per class.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from imagearchive import ImageArchive
from imagearchive.errors import ImageArchiveError

DIGITS = Path(__file__).parent / "data" / "digits.tar"


def to_tensor(image):
    """Return gray levels from 0 to 1, shape (1, H, W)."""
    return torch.from_numpy(np.asarray(image.convert("L"), np.float32) / 255).unsqueeze(0)


def network(classes):
    """Build a CNN for images of 8 x 8 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, classes),
    )  # fmt: skip


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", nargs="?", default=DIGITS, type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)

    start = time.perf_counter()
    count = len(ImageArchive(options.archive))
    opened = time.perf_counter() - start
    held_out = np.random.default_rng(0).permutation(count) < count // 5
    common = {"apath": options.archive, "transform": to_tensor, "open_after_fork": True}
    train = ImageArchive(**common, split_mask=~held_out)
    test = ImageArchive(**common, split_mask=held_out)
    print(
        f"{options.archive.name}: {count} images of {len(train.classes)} classes, opened in "
        f"{opened * 1e3:.1f} ms; {len(train)} to train on, {len(test)} held out"
    )

    def loader(dataset, shuffle):
        return DataLoader(
            dataset,
            batch_size=options.batch_size,
            shuffle=shuffle,
            num_workers=options.workers,
            worker_init_fn=dataset.worker_open_archive,
            persistent_workers=options.workers > 0,
        )

    model = network(len(train.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batches = loader(train, shuffle=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=6e-3, total_steps=options.epochs * len(batches)
    )
    start = time.perf_counter()
    for epoch in range(options.epochs):
        model.train()
        progress = tqdm(batches, desc=f"epoch {epoch + 1}/{options.epochs}", unit="batch")
        for images, labels in progress:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.set_postfix(loss=f"{loss.item():.3f}")
    seconds = time.perf_counter() - start
    print(f"trained on {options.epochs * len(train) / seconds:,.0f} samples/s")

    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in loader(test, shuffle=False):
            correct += int((model(images).argmax(1) == labels).sum())
    print(f"held-out accuracy: {correct / len(test):.2%}")
    return correct / len(test)


if __name__ == "__main__":
    try:
        main()
    except (ImageArchiveError, ValueError) as error:
        # PyTorch's loader raises ValueError for an invalid batch size.
        sys.exit(f"{type(error).__name__}: {error}")
