"""Claim: joint transforms in the loader take a third of the time of PyTorch with Pillow by hand.

Segmentation: an image and its mask, the same random resized crop of 224 pixels and flip for both.
Detection: an image and ten boxes, a random crop that overlaps a box (torchvision's RandomIoUCrop),
flip, resized to 256 pixels. All contestants read the same pictures from one TAR with two threads or
processes, normalize, and deliver batches; the consumer touches every batch. albumentations takes
part where it is installed.

    python -m benchmarks.loader.image_mask_boxes --count 1000
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.harness.interleave import compare, report
from benchmarks.harness.jpegs import add_options, jpeg_tar
from benchmarks.loader.loader_jpegs import MEAN, STD, consume, random_box
from imagearchive import Boxes, DataLoader, Mask, SampleArchive, TarWriter
from imagearchive.transforms import (
    Compose,
    ImageNetNormalize,
    RandomHorizontalFlip,
    RandomIoUCrop,
    RandomResizedCrop,
    Resize,
    ToTensor,
)

BATCH = 32
BOXES = 10
SIDE = 256
END = [RandomHorizontalFlip(), ImageNetNormalize(), ToTensor()]
SEGMENTATION = Compose([RandomResizedCrop(224), *END])
DETECTION = Compose([RandomIoUCrop(), Resize(SIDE, SIDE), *END])
MASKS = {"image": "{key}.jpg", "mask": Mask("{key}.png")}
DETECT = {"image": "{key}.jpg", "boxes": Boxes("{key}.npy")}


def labeled_tar(images: Path) -> Path:
    """Return the path of a TAR of the same images, each with a mask and boxes."""
    target = images.with_name(images.stem + "-masks-boxes.tar")
    if target.exists():
        return target
    rng = np.random.default_rng(0)
    with tarfile.open(images) as source, TarWriter(target) as writer:
        for number, member in enumerate(source):
            picture = source.extractfile(member)
            assert picture is not None
            data = picture.read()
            width, height = Image.open(io.BytesIO(data)).size
            # Regions of about 50 pixels, as masks have them, not noise.
            small = rng.integers(0, 21, (height // 50 + 1, width // 50 + 1), np.uint8)
            mask = Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)
            low = rng.uniform(0, (width * 0.7, height * 0.7), (BOXES, 2))
            boxes = np.concatenate([low, low + rng.uniform(20, 100, (BOXES, 2))], 1)
            boxes = np.minimum(boxes, (width, height) * 2).astype(np.float32)
            for extension, content in (("jpg", data), ("png", png(mask)), ("npy", npy(boxes))):
                writer.add(f"{number:06d}.{extension}", content)
    return target


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


class ByHand(torch.utils.data.Dataset):
    """What a careful user writes: one `pread` for each member, Pillow, NumPy, and torch."""

    def __init__(self, path: Path, parts: tuple[str, str], function: Any) -> None:
        self.path, self.parts, self.function = path, parts, function
        with tarfile.open(path) as archive:
            self.places = {m.name: (m.offset_data, m.size) for m in archive}
        self.file: int | None = None

    def __len__(self) -> int:
        return len(self.places) // 3

    def __getitem__(self, index: int) -> Any:
        if self.file is None:
            self.file = os.open(self.path, os.O_RDONLY)
        read = []
        for extension in self.parts:
            offset, size = self.places[f"{index:06d}.{extension}"]
            read.append(os.pread(self.file, size, offset))
        return self.function(*read)


def normalized(image: Image.Image) -> torch.Tensor:
    array = (np.asarray(image, np.float32).transpose(2, 0, 1) / 255 - MEAN) / STD
    return torch.from_numpy(np.ascontiguousarray(array))


def segment(jpeg: bytes, mask: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    classes = Image.open(io.BytesIO(mask))
    box = random_box(*image.size)
    image = image.resize((224, 224), Image.Resampling.BILINEAR, box=box)
    classes = classes.resize((224, 224), Image.Resampling.NEAREST, box=box)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        classes = classes.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return normalized(image), torch.from_numpy(np.array(classes))


def segment_by_albumentations(jpeg: bytes, mask: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    pipeline = albumentations_pipeline()
    image = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    result = pipeline(image=image, mask=np.asarray(Image.open(io.BytesIO(mask))))
    array = np.ascontiguousarray(result["image"].transpose(2, 0, 1))
    return torch.from_numpy(array), torch.from_numpy(np.ascontiguousarray(result["mask"]))


def albumentations_pipeline() -> Any:
    if not hasattr(albumentations_pipeline, "made"):
        # Otherwise it asks PyPI for a newer version.
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        import albumentations
        import cv2

        # Each worker has one core.
        cv2.setNumThreads(0)
        albumentations_pipeline.made = albumentations.Compose(  # type: ignore[attr-defined]
            [
                albumentations.RandomResizedCrop(size=(224, 224)),
                albumentations.HorizontalFlip(p=0.5),
                albumentations.Normalize(),
            ]
        )
    return albumentations_pipeline.made  # type: ignore[attr-defined]


def detect(jpeg: bytes, stored: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    boxes = torch.from_numpy(np.load(io.BytesIO(stored)))
    image, boxes = overlapping_crop(image, boxes)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = torch.stack(
            [image.width - boxes[:, 2], boxes[:, 1], image.width - boxes[:, 0], boxes[:, 3]], 1
        )
    boxes = boxes * torch.tensor([SIDE / image.width, SIDE / image.height] * 2)
    image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    sides = boxes[:, 2:] - boxes[:, :2]
    return normalized(image), boxes[(sides >= 1).all(1)]


def overlapping_crop(image: Image.Image, boxes: torch.Tensor) -> tuple[Image.Image, torch.Tensor]:
    """The steps of torchvision's ``RandomIoUCrop``, with tensors of boxes."""
    width, height = image.size
    while True:
        minimum = random.choice([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
        if minimum >= 1.0:
            return image, boxes
        for _ in range(40):
            scale = 0.3 + 0.7 * torch.rand(2)
            w, h = int(width * scale[0]), int(height * scale[1])
            if not 0.5 <= w / h <= 2.0:
                continue
            place = torch.rand(2)
            x, y = int((width - w) * place[0]), int((height - h) * place[1])
            centers = 0.5 * (boxes[:, :2] + boxes[:, 2:])
            low, high = torch.tensor([x, y]), torch.tensor([x + w, y + h])
            inside = ((centers > low) & (centers < high)).all(1)
            if not inside.any():
                continue
            kept = boxes[inside]
            common = (torch.minimum(kept[:, 2:], high) - torch.maximum(kept[:, :2], low)).clamp(0)
            area = common.prod(1)
            both = (kept[:, 2:] - kept[:, :2]).prod(1) + w * h - area
            if (area / both).max() < minimum:
                continue
            shift = torch.tensor([x, y, x, y])
            limit = torch.tensor([w, h, w, h], dtype=torch.float32)
            kept = torch.minimum((kept - shift).clamp(0), limit)
            return image.crop((x, y, x + w, y + h)), kept


def targets(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    images, boxes = zip(*samples)
    return torch.stack(images), list(boxes)


def pairs(batch: Any) -> int:
    batch[0][:, 0, 0, 0].sum()
    return len(batch[1])


def columns(second: str) -> Any:
    def size(batch: Any) -> int:
        batch["image"][:, 0, 0, 0].sum()
        return len(batch[second])

    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    path, workers, rounds = labeled_tar(jpeg_tar(options)), options.workers, options.rounds
    shared = {"shuffle": True, "num_workers": workers}
    load = {"batch_size": BATCH, "shuffle": True, "num_workers": workers}
    load |= {"persistent_workers": workers > 0}
    masks = DataLoader(SampleArchive(path, fields=MASKS), BATCH, transform=SEGMENTATION, **shared)
    hand = torch.utils.data.DataLoader(ByHand(path, ("jpg", "png"), segment), **load)
    count = len(masks.dataset)
    contestants = {
        "imagearchive": lambda: consume(masks, columns("mask"), count),
        "torch and Pillow by hand": lambda: consume(hand, pairs, count),
    }
    if importlib.util.find_spec("albumentations"):
        other = torch.utils.data.DataLoader(
            ByHand(path, ("jpg", "png"), segment_by_albumentations), **load
        )
        contestants["torch, Pillow, and albumentations"] = lambda: consume(other, pairs, count)
    report("image and mask", compare(contestants, rounds), "imagearchive", count, "sample")

    ours = DataLoader(SampleArchive(path, fields=DETECT), BATCH, transform=DETECTION, **shared)
    by_hand = torch.utils.data.DataLoader(
        ByHand(path, ("jpg", "npy"), detect), collate_fn=targets, **load
    )
    times = compare(
        {
            "imagearchive": lambda: consume(ours, columns("boxes"), count),
            "torch and Pillow by hand": lambda: consume(by_hand, pairs, count),
        },
        rounds,
    )
    report(f"image and {BOXES} boxes", times, "imagearchive", count, "sample")


if __name__ == "__main__":
    main()
