"""Claim: ``reducing_gap=3`` halves the CPU time of resizing large JPEGs, within half a grey level.

Whole JPEGs are resized so that decoding at 1/2, 1/4 or 1/8 leaves the resampler exactly the given
factor, which is the worst case of that gap. Differences are to the exact result; times are CPU
times, and the two contestants take turns.

Then the loader makes random resized crops of 224 pixels from photographs of 12 megapixels, at full
size and scaled. No scale saves the entropy decoding of all rows down to the end of the crop, so
libjpeg-turbo alone decodes the same regions at each scale, and then their entropy only.

    python -m benchmarks.loader.scaled_decoding [--photos 12] [--megapixels 12]
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness.jpegs import photographs
from benchmarks.loader.loader_jpegs import Limit, PillowDataset
from imagearchive import DataLoader, TarWriter
from imagearchive.images.render import Decoder
from imagearchive.transforms import (
    Compose,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
    compile_pipeline,
)

GAPS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
EXACT = 1e-9  # keeps the rounding of the target size from preventing the smaller decode


def encode(image: Image.Image, quality: int, subsampling: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()


def compare_gap(
    files: list[tuple[tuple[int, int], bytes]], divide: int, gap: float, decoder: Decoder
) -> tuple[list[float], int, float]:
    """Return the mean differences, the largest difference and the speed-up."""
    means, largest, exact_time, scaled_time = [], 0, 0.0, 0.0
    for (width, height), data in files:
        target = int(width / divide / gap), int(height / divide / gap)
        if min(target) < 8:
            continue
        left = max(1.0, min(width / target[0], height / target[1]) / divide * (1 - EXACT))
        exact = compile_pipeline(Resize(*target))
        scaled = compile_pipeline(Resize(*target), reducing_gap=left)
        start = time.thread_time()
        expected = exact.render(data, None, decoder)
        middle = time.thread_time()
        result = scaled.render(data, None, decoder)
        exact_time += middle - start
        scaled_time += time.thread_time() - middle
        difference = abs(result.astype(int) - expected)
        means.append(float(difference.mean()))
        largest = max(largest, int(difference.max()))
    return means, largest, exact_time / scaled_time


def compare_loaders(images: list[Image.Image], megapixels: float, rounds: int) -> None:
    """Time random resized crops of large photographs in the loader, exact and scaled by turns."""
    transform = Compose([RandomResizedCrop(224), RandomHorizontalFlip(), ToTensor()])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photographs.tar")
        with TarWriter(path) as writer:
            for number, image in enumerate(images * 2):
                scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
                large = image.resize((round(image.width * scale), round(image.height * scale)))
                writer.add(f"0/{number}.jpg", encode(large, 90, "4:2:0"))
        loaders = {
            gap: DataLoader(str(path), 8, transform=transform, num_workers=2, reducing_gap=gap)
            for gap in (None, 3, 1)
        }
        times: dict[float | None, list[float]] = {gap: [] for gap in loaders}
        for _ in range(rounds):
            for gap, loader in loaders.items():
                start = time.process_time()
                for _ in loader:
                    pass
                times[gap].append(time.process_time() - start)
        limits = time_regions(path, rounds)
    count = 2 * len(images)
    print(f"\nRandomResizedCrop(224) of {count} photographs of {megapixels:g} megapixels, CPU time")
    found = {
        "exact" if gap is None else f"reducing_gap={gap}": statistics.median(each)
        for gap, each in times.items()
    }
    print_ratios(found, count)
    print("the same regions by libjpeg-turbo alone, CPU time")
    print_ratios(limits, count)


def print_ratios(times: dict[str, float], count: int) -> None:
    """Print the time of an image, and how much faster each is than the first."""
    first = next(iter(times.values()))
    for name, seconds in times.items():
        each = seconds / count * 1e3
        print(f"  {name:15} {each:7.1f} ms an image {first / seconds:5.2f} times as fast")


def time_regions(path: Path, rounds: int) -> dict[str, float]:
    """Return the CPU seconds of decoding the crops at each scale, and of their entropy alone."""
    limit = Limit(path, RandomResizedCrop(224), PillowDataset(path, train=True))
    boxes = limit.boxes
    times: dict[str, list[float]] = {"1/1": [], "1/2": [], "1/4": [], "1/8": [], "entropy": []}
    for _ in range(rounds):
        for name, values in times.items():
            divide = int(name[2:]) if name[0] == "1" else 1
            limit.scales[:] = divide
            limit.boxes = -(-boxes // divide)
            if name == "entropy":
                # Rows that are skipped are decoded no further.
                limit.boxes[:, 1] = limit.boxes[:, 3]
            start = time.process_time()
            limit.run(threads=1)
            values.append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=12, help="photographs at most")
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each loader")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = photographs(options.photos)
    noise = Image.fromarray(rng.integers(0, 256, (1200, 1600, 3), np.uint8))
    sets = {
        f"{len(images)} photographs": [
            (image.size, encode(image, quality, subsampling))
            for image in images
            for quality, subsampling in ((90, "4:2:0"), (90, "4:4:4"), (75, "4:2:0"))
        ],
        "white noise": [(noise.size, encode(noise, 90, s)) for s in ("4:2:0", "4:4:4")],
    }
    decoder = Decoder(None)
    for title, files in sets.items():
        print(f"\n{title}, {len(files)} files")
        print("   gap   mean    worst mean   maximum   times as fast at 1/2, 1/4, 1/8")
        for gap in GAPS:
            found = [compare_gap(files, divide, gap, decoder) for divide in (2, 4, 8)]
            means = [value for each, _, _ in found for value in each]
            speed = "   ".join(f"{ratio:5.2f}" for _, _, ratio in found)
            print(
                f"{gap:6.1f} {np.mean(means):6.2f} {max(means):11.2f} "
                f"{max(largest for _, largest, _ in found):10d}      {speed}"
            )
    compare_loaders(images, options.megapixels, options.rounds)


if __name__ == "__main__":
    main()
