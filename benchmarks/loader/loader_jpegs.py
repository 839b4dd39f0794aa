"""Claim: `DataLoader` trains from a TAR of JPEGs as fast as libjpeg-turbo alone decodes them.

All contestants read the same TAR with two threads or processes and deliver the same batches of
256; the consumer touches every batch. The limit is libjpeg-turbo: it decodes the same regions in
two threads, and does nothing with them.

    python -m benchmarks.loader.loader_jpegs --photos /usr/share/backgrounds
"""

from __future__ import annotations

import argparse
import ctypes
import io
import math
import mmap
import random
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.harness.compile_c import load_c
from benchmarks.harness.interleave import compare, report
from benchmarks.harness.jpegs import add_options, jpeg_tar, small_tar
from imagearchive import DataLoader
from imagearchive.transforms import (
    Compose,
    ImageNetNormalize,
    Key,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)

BATCH = 256
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


def consume(loader: Iterable[Any], size: Callable[[Any], int], expected: int) -> None:
    count = 0
    for batch in loader:
        count += size(batch)
    if count != expected:
        raise SystemExit(f"{loader}: {count} samples instead of {expected}")


class PillowDataset(torch.utils.data.Dataset):
    """What a careful user writes: one `pread` per image, Pillow, NumPy."""

    def __init__(self, path: Path, train: bool | None, size: int = 224) -> None:
        self.path = path
        self.size = size
        self.train = train
        with tarfile.open(path) as archive:
            members = [(m.offset_data, m.size, m.name) for m in archive if m.isfile()]
        self.offsets = np.array([m[0] for m in members])
        self.sizes = np.array([m[1] for m in members])
        self.labels = np.array([int(m[2].split("/")[0]) for m in members])
        self.file: Any = None

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Any:
        if self.file is None:
            self.file = self.path.open("rb", buffering=0)
        self.file.seek(self.offsets[index])
        image = Image.open(io.BytesIO(self.file.read(self.sizes[index]))).convert("RGB")
        if self.train is None:
            return {"image": np.asarray(image), "label": int(self.labels[index])}
        box = random_box(*image.size) if self.train else (0, 0, *image.size)
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        if self.train and random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        array = np.asarray(image, np.float32).transpose(2, 0, 1)
        array = (array / 255 - MEAN) / STD
        return torch.from_numpy(np.ascontiguousarray(array)), int(self.labels[index])


def random_box(width: int, height: int) -> tuple[float, float, float, float]:
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = 2 ** random.uniform(np.log2(3 / 4), np.log2(4 / 3))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            x, y = random.randint(0, width - w), random.randint(0, height - h)
            return x, y, x + w, y + h
    side = min(width, height)
    x, y = (width - side) // 2, (height - side) // 2
    return x, y, x + side, y + side


class Recorder:
    """Takes the place of a native geometry and records the box that a transform asks for."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.box: Any = (0, 0, width, height)

    def resize(self, width: int, height: int, box: Any = None, filter: str = "") -> None:
        """Record the box."""
        self.box = box or self.box


class Limit:
    """libjpeg-turbo alone, on the regions that the transform of the loader asks for."""

    def __init__(self, path: Path, transform: Any, data: PillowDataset, epoch: int = 0) -> None:
        self.file = path.open("rb")
        self.map = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ)
        self.offsets = data.offsets.astype(np.uint64)
        self.sizes = data.sizes.astype(np.uint64)
        self.boxes = np.zeros((len(data), 4), np.int32)
        # The loader decodes at full size unless `reducing_gap` is given.
        self.scales = np.ones(len(data), np.int32)
        for index in range(len(data)):
            start = int(self.offsets[index])
            size = Image.open(io.BytesIO(self.map[start : start + 4096])).size
            recorder = Recorder(*size)
            transform.add_to(recorder, Key(0, epoch, index).at(0).stream())
            x0, y0, x1, y1 = recorder.box
            self.boxes[index] = [int(x0), int(y0), math.ceil(x1), math.ceil(y1)]
        self.library = load_c("jpeg_regions", "-pthread", "-ljpeg")
        self.base = np.frombuffer(self.map, np.uint8)

    def run(self, threads: int = 2) -> None:
        """Decode all regions once."""

        def at(array: np.ndarray) -> ctypes.c_void_p:
            return ctypes.c_void_p(array.ctypes.data)

        self.library.decode_regions(
            at(self.base), at(self.offsets), at(self.sizes), at(self.boxes), at(self.scales),
            len(self.offsets), threads,
        )  # fmt: skip


def ours(path: Path, transform: Any, workers: int) -> DataLoader:
    return DataLoader(
        str(path), BATCH, shuffle=True, num_workers=workers, transform=transform, output="numpy"
    )


def turbo(path: Path, workers: int, **options: Any) -> Any:
    import turboloader

    options.setdefault("image_size", 224)
    if options["image_size"]:
        options |= {"output_format": "pytorch", "transform": turboloader.ImageNetNormalize()}
    else:
        del options["image_size"]
    return turboloader.DataLoader(
        str(path), batch_size=BATCH, num_workers=workers, shuffle=True, **options
    )


def pillow(data: PillowDataset, workers: int) -> Any:
    return torch.utils.data.DataLoader(
        data, BATCH, shuffle=True, num_workers=workers, persistent_workers=True,
        collate_fn=list if data.train is None else None,
    )  # fmt: skip


def add_cpu_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="measure the CPU time of this process, which other programs disturb less; leaves out "
        "contestants that run in other processes",
    )


def measure(
    contestants: dict[str, Callable[[], object]], options: argparse.Namespace
) -> dict[str, list[float]]:
    if not options.cpu:
        return compare(contestants, rounds=options.rounds)
    times: dict[str, list[float]] = {n: [] for n in contestants if "torch" not in n}
    for turn in range(options.rounds + 1):
        for name, values in times.items():
            start = time.process_time()
            contestants[name]()
            if turn:
                values.append(time.process_time() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    add_cpu_option(parser)
    parser.add_argument("--only", choices=["crop", "resize", "dicts", "small", "memory"])
    options = parser.parse_args()
    path = jpeg_tar(options)
    workers, count = options.workers, options.count

    def images(batch: Any) -> int:
        batch[0][:, 0, 0, 0].sum()
        return len(batch[0])

    crop = RandomResizedCrop(224)
    finish = [ImageNetNormalize(), ToTensor()]
    if options.only in (None, "crop"):
        loader = ours(path, Compose([crop, RandomHorizontalFlip(), *finish]), workers)
        other = turbo(path, workers, train_aug=True)
        third = pillow(PillowDataset(path, train=True), workers)
        limit = Limit(path, crop, PillowDataset(path, train=True))
        times = measure(
            {
                "imagearchive": lambda: consume(loader, images, count),
                "turboloader, fused": lambda: consume(other, images, count),
                "torch DataLoader, Pillow": lambda: consume(third, images, count),
                "libjpeg-turbo alone, same regions": lambda: limit.run(workers),
            },
            options,
        )
        report("random resized crop 224, flip, normalize", times, "imagearchive", count, "image")
    if options.only in (None, "resize"):
        whole = Resize(224, 224)
        loader_whole = ours(path, Compose([whole, *finish]), workers)
        other_whole = turbo(path, workers)
        limit_whole = Limit(path, whole, PillowDataset(path, train=False))
        times = measure(
            {
                "imagearchive": lambda: consume(loader_whole, images, count),
                "turboloader, fused": lambda: consume(other_whole, images, count),
                "libjpeg-turbo alone, same regions": lambda: limit_whole.run(workers),
            },
            options,
        )
        report("resize 224 x 224 of the whole image", times, "imagearchive", count, "image")
    if options.only in (None, "dicts"):
        loader_dicts = DataLoader(str(path), BATCH, shuffle=True, num_workers=workers)
        other_dicts = turbo(path, workers, image_size=None)
        times = measure(
            {
                "imagearchive": lambda: consume(loader_dicts, dicts, count),
                "turboloader": lambda: consume(other_dicts, dicts, count),
            },
            options,
        )
        report("sample dicts, whole images", times, "imagearchive", count, "image")
    if options.only in (None, "small"):
        small = small_tar(path)
        loader_small = ours(
            small, Compose([RandomResizedCrop(32), RandomHorizontalFlip(), *finish]), workers
        )
        other_small = turbo(small, workers, train_aug=True, image_size=32)
        third_small = pillow(PillowDataset(small, train=True, size=32), workers)
        total = len(third_small.dataset)
        times = measure(
            {
                "imagearchive": lambda: consume(loader_small, images, total),
                "turboloader, fused": lambda: consume(other_small, images, total),
                "torch DataLoader, Pillow": lambda: consume(third_small, images, total),
            },
            options,
        )
        report("random resized crop 32 of 32 x 32", times, "imagearchive", total, "image")
    if options.only in (None, "memory"):
        memory(ours(path, Compose([crop, RandomHorizontalFlip(), *finish]), workers))


def memory(loader: DataLoader) -> None:
    """Print the private memory of the process in four epochs; pages of the archive are shared."""
    print("\nprivate memory in MB, least and most over the batches of an epoch")
    for epoch in range(4):
        seen = [private_bytes() for _ in loader]
        print(f"  epoch {epoch}: {min(seen) / 1e6:8.1f} {max(seen) / 1e6:8.1f}")


def private_bytes() -> int:
    fields = Path("/proc/self/status").read_text().split()
    name = "RssAnon:" if "RssAnon:" in fields else "VmData:"
    return int(fields[fields.index(name) + 1]) * 1024


def dicts(batch: Any) -> int:
    for sample in batch:
        sample["image"][0, 0, 0]
    return len(batch)


if __name__ == "__main__":
    main()
