"""Claim: the threads of `DataLoader` scale with the cores as the processes of torch do.

For 1, 2, 4, ... threads up to the number of cores: random resized crops of the same JPEGs by our
threads, by as many processes of torch with Pillow, and by as many threads of libjpeg-turbo alone,
interleaved. With ``--device cuda``, batches are delivered in page-locked memory and copied to the
GPU, where a network trains on them; the share of the time in which the GPU had no work is printed.

    python -m benchmarks.loader.thread_scaling
    python -m benchmarks.loader.thread_scaling --device cuda
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import torch

from benchmarks.harness.interleave import compare, report
from benchmarks.harness.jpegs import add_options, jpeg_tar
from benchmarks.loader.loader_jpegs import BATCH, Limit, PillowDataset, consume, pillow
from imagearchive import DataLoader
from imagearchive.transforms import (
    Compose,
    ImageNetNormalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ToTensor,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="where batches are copied, such as cuda")
    options = parser.parse_args()
    path = jpeg_tar(options)
    data = PillowDataset(path, train=True)
    crop = RandomResizedCrop(224)
    transform = Compose([crop, RandomHorizontalFlip(), ImageNetNormalize(), ToTensor()])
    limit = Limit(path, crop, data)
    cores = len(os.sched_getaffinity(0))
    for power in range(cores.bit_length()):
        _compare(str(path), transform, data, limit, 2**power, options.rounds)
    if options.device != "cpu":
        _train(str(path), transform, cores, options.device)


def _compare(
    path: str, transform: Any, data: PillowDataset, limit: Limit, count: int, rounds: int
) -> None:
    def images(batch: Any) -> int:
        return len(batch[0])

    with _loader(path, transform, count) as loader:
        workers = pillow(data, count)
        times = compare(
            {
                "imagearchive": lambda: consume(loader, images, len(data)),
                "torch DataLoader, Pillow": lambda: consume(workers, images, len(data)),
                "libjpeg-turbo alone, same regions": lambda: limit.run(count),
            },
            rounds=rounds,
        )
    report(f"{count} threads or processes", times, "imagearchive", len(data), "image")


def _loader(path: str, transform: Any, count: int, **options: Any) -> DataLoader:
    return DataLoader(path, BATCH, shuffle=True, num_workers=count, transform=transform, **options)


def _train(path: str, transform: Any, threads: int, device: str) -> None:
    """Copy every batch without waiting, check it against the CPU's, and train a network."""
    loader = _loader(path, transform, threads, pin_memory=True)
    sums, expected = [], []
    for epoch in range(2):
        loader.set_epoch(epoch)
        for images, labels in loader:
            there = images.to(device, non_blocking=True)
            sums.append((there.double().sum(), labels.to(device, non_blocking=True).sum()))
        loader.set_epoch(epoch)
        expected += [(i.double().sum(), n.sum()) for i, n in loader]
    for (images, labels), (images_here, labels_here) in zip(sums, expected, strict=True):
        torch.testing.assert_close(images.cpu(), images_here, rtol=1e-9, atol=1e-6)
        assert int(labels) == int(labels_here)
    print(f"\n{len(sums)} batches copied without waiting: all equal to those of the CPU")

    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 7, 4), torch.nn.ReLU(), torch.nn.Conv2d(64, 128, 3, 2),
        torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(128, 10),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    count = 0
    start = time.perf_counter()
    events = []
    for images, labels in loader:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        there, wanted = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        began.record()
        with torch.autocast(device, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(network(there), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ended.record()
        events.append((began, ended))
        count += len(labels)
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    busy = sum(began.elapsed_time(ended) for began, ended in events) / 1000
    print(f"training: {count / elapsed:,.0f} images/s; the GPU computed for {busy / elapsed:.0%}")
    loader.close()


if __name__ == "__main__":
    main()
