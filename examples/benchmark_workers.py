"""Measure how many images per second the loader yields with different numbers of threads.

    python examples/benchmark_workers.py train.tar

More threads than CPUs rarely help, because threads decode most of the time and do not wait. Leave
a CPU for the training loop if it needs one.
"""

from __future__ import annotations

import argparse
import sys
import time

from imagearchive import DataLoader
from imagearchive.errors import ImageArchiveError
from imagearchive.transforms import (
    Compose,
    ImageNetNormalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ToTensor,
)


def main() -> None:
    """Time each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument(
        "--images", type=int, default=10_000, help="images to load for each number of threads"
    )
    options = parser.parse_args()
    transform = Compose(
        [RandomResizedCrop(options.size), RandomHorizontalFlip(), ImageNetNormalize(), ToTensor()]
    )
    # The first pass is not counted: it reads from disk and imports torch.
    for number, workers in enumerate([max(options.workers), *options.workers]):
        loader = DataLoader(
            options.archive,
            batch_size=options.batch_size,
            num_workers=workers,
            shuffle=True,
            transform=transform,
            on_error="skip",
        )
        start, count = time.perf_counter(), 0
        for images, _ in loader:
            count += len(images)
            if count >= options.images:
                break
        rate = count / (time.perf_counter() - start)
        loader.close()
        if number:
            print(f"workers: {workers:3}   {rate:10,.0f} images/s")


if __name__ == "__main__":
    try:
        main()
    except ImageArchiveError as error:
        sys.exit(f"{type(error).__name__}: {error}")
