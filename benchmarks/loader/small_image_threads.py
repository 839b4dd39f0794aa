"""Claim: without the GIL, two threads decode small images at least 1.8 times as fast as one.

JPEGs of 32 x 32 pixels from one TAR, with `DataLoader`, and with `Archive.read` and `decode_image`
in threads of one's own, by one and by two threads, interleaved. Two processes that only count show
what the machine allows: the processors of a virtual machine are not always two. It needs no torch.

    python -m benchmarks.loader.small_image_threads
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor

from benchmarks.harness.interleave import compare, report
from benchmarks.harness.jpegs import add_options, jpeg_tar, small_tar
from imagearchive import DataLoader, open
from imagearchive.images.decode import decode_image
from imagearchive.transforms import (
    Compose,
    ImageNetNormalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ToTensor,
)

BATCH = 256
STEPS = 20_000_000
TRANSFORM = Compose(
    [RandomResizedCrop(32), RandomHorizontalFlip(), ImageNetNormalize(), ToTensor()]
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    path = small_tar(jpeg_tar(options))
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"Python {sys.version.split()[0]}, {'with' if gil else 'without'} the GIL")
    _processes(options.rounds)
    _loader(str(path), options.rounds)
    _own_threads(str(path), options.rounds)


def _processes(rounds: int) -> None:
    def run(count: int) -> None:
        workers = [
            multiprocessing.Process(target=_count, args=(STEPS // count,)) for _ in range(count)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    times = compare({"two processes": lambda: run(2), "one process": lambda: run(1)}, rounds)
    report("counting, half of it in each", times, "two processes", STEPS // 10**6, "million step")


def _count(steps: int) -> None:
    for _ in range(steps):
        pass


def _loader(path: str, rounds: int) -> None:
    def epoch(loader: DataLoader) -> None:
        for images, _labels in loader:
            images[0, 0, 0, 0].item()

    with (
        _loader_of(path, 1) as one,
        _loader_of(path, 2) as two,
    ):
        times = compare(
            {"two threads": lambda: epoch(two), "one thread": lambda: epoch(one)}, rounds
        )
        report("DataLoader", times, "two threads", len(one.dataset), "image")


def _loader_of(path: str, threads: int) -> DataLoader:
    return DataLoader(
        path, BATCH, shuffle=True, num_workers=threads, transform=TRANSFORM, output="numpy"
    )


def _own_threads(path: str, rounds: int) -> None:
    with open(path) as archive:
        count = len(archive)

        def decode(first: int, step: int) -> None:
            for position in range(first, count, step):
                decode_image(archive.read(position))

        def run(threads: int) -> None:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda number: decode(number, threads), range(threads)))

        times = compare({"two threads": lambda: run(2), "one thread": lambda: run(1)}, rounds)
        report("Archive.read and decode_image", times, "two threads", count, "image")


if __name__ == "__main__":
    main()
