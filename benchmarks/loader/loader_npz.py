"""Claim: `DataLoader` over an NPZ of uint8 images is nearly as fast as one C loop that normalizes.

All contestants take the same rows in shuffled order and deliver normalized float32 batches of 256,
channels first. The C loop copies each row and writes into the same batch buffer again and again.

    python -m benchmarks.loader.loader_npz [--count 4000]
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness.compile_c import load_c
from benchmarks.harness.interleave import report
from benchmarks.loader.loader_jpegs import add_cpu_option, measure
from imagearchive import DataLoader, LazyNPZDataset
from imagearchive.transforms import Compose, ImageNetNormalize, ToTensor

BATCH = 256
SIDE = 224
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def arrays(cache: Path, count: int) -> Path:
    path = cache / f"arrays-{count}.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
        np.savez(path, images=images, labels=np.arange(count) % 10)
    return path


class Limit:
    """The C loop."""

    def __init__(self, path: Path, count: int, workers: int) -> None:
        self.library = load_c("normalize", "-march=native", "-pthread")
        self.images = np.load(path)["images"]
        self.order = np.random.default_rng(1).permutation(count)
        self.batch = np.zeros((BATCH, 3, SIDE, SIDE), np.float32)
        self.workers = workers

    def run(self) -> None:
        """Normalize all rows once."""
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (self.images, self.order, self.batch)]
        sizes = [len(self.order), SIDE * SIDE, BATCH]
        self.library.normalize(*pointers, *map(ctypes.c_int64, sizes), self.workers)


class Normalized(torch.utils.data.Dataset):
    """What a user of torch writes over the same rows."""

    def __init__(self, path: Path) -> None:
        self.rows = LazyNPZDataset(path, copy=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        sample = self.rows[index]
        image = (sample["image"] / np.float32(255) - MEAN) / STD
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), int(sample["labels"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir(), "imagearchive-benchmarks")
    parser.add_argument("--cache", type=Path, default=default)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    add_cpu_option(parser)
    options = parser.parse_args()
    path, count, workers = arrays(options.cache, options.count), options.count, options.workers
    limit = Limit(path, count, workers)
    loader = DataLoader(
        str(path), BATCH, shuffle=True, num_workers=workers,
        transform=Compose([ImageNetNormalize(), ToTensor()]),
    )  # fmt: skip
    theirs = torch.utils.data.DataLoader(
        Normalized(path), BATCH, shuffle=True, num_workers=workers, persistent_workers=True
    )

    def consume(batches: Any) -> None:
        seen = 0
        for images, labels in batches:
            images[:, 0, 0, 0].sum()
            seen += len(labels)
        if seen != count:
            raise SystemExit(f"{seen} rows instead of {count}")

    times = measure(
        {
            "imagearchive": lambda: consume(loader),
            "memcpy and normalize, one C loop": limit.run,
            "torch DataLoader over the same rows": lambda: consume(theirs),
        },
        options,
    )
    report(f"{count} arrays of {SIDE} x {SIDE} x 3", times, "imagearchive", count, "image")


if __name__ == "__main__":
    main()
