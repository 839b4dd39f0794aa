"""Claim: image and caption take no longer than images alone, and a third of WebDataset with Pillow.

All contestants read the same pictures from one TAR with two threads or processes, crop and flip
them at random, normalize, and deliver batches of 64; the consumer touches every batch.

    python -m benchmarks.loader.image_caption --count 1000
"""

from __future__ import annotations

import argparse
import io
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
from imagearchive import DataLoader, ImageArchive, SampleArchive
from imagearchive.transforms import (
    Compose,
    ImageNetNormalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ToTensor,
)

BATCH = 64
TRAINING = Compose(
    [RandomResizedCrop(224), RandomHorizontalFlip(), ImageNetNormalize(), ToTensor()]
)
FIELDS = {"image": "{key}.jpg", "caption": "{key}.txt"}


def caption_tar(images: Path) -> Path:
    """Return the path of a TAR of the same images, each with a caption, as WebDataset has them."""
    target = images.with_name(images.stem + "-captions.tar")
    if target.exists():
        return target
    part = target.with_suffix(".part")
    with tarfile.open(images) as source, tarfile.open(part, "w") as archive:
        for number, member in enumerate(source):
            picture = source.extractfile(member)
            assert picture is not None
            caption = f"picture number {number} of the class {member.name.split('/')[0]}".encode()
            for extension, data in (("jpg", picture.read()), ("txt", caption)):
                info = tarfile.TarInfo(f"{number:06d}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    part.rename(target)
    return target


def by_pillow(data: bytes) -> torch.Tensor:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image = image.resize((224, 224), Image.Resampling.BILINEAR, box=random_box(*image.size))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    array = (np.asarray(image, np.float32).transpose(2, 0, 1) / 255 - MEAN) / STD
    return torch.from_numpy(np.ascontiguousarray(array))


def webdataset_loader(path: Path, count: int, workers: int) -> Any:
    """WebDataset with Pillow; it gives each worker shards of its own, so there is one for each."""
    import webdataset

    shards = []
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        share = -(-count // workers) * 2
        for worker in range(workers):
            shard = path.with_name(f"{path.stem}-{worker}-of-{workers}.tar")
            shards.append(str(shard))
            if shard.exists():
                continue
            with tarfile.open(shard, "w") as target:
                for member in members[worker * share : (worker + 1) * share]:
                    target.addfile(member, archive.extractfile(member))
    dataset = (
        webdataset.WebDataset(shards, shardshuffle=False)
        .shuffle(500)
        .to_tuple("jpg", "txt")
        .map_tuple(by_pillow, bytes.decode)
    )
    return torch.utils.data.DataLoader(dataset, BATCH, num_workers=workers, persistent_workers=True)


def pairs(batch: Any) -> int:
    batch[0][:, 0, 0, 0].sum()
    return len(batch[1])


def columns(batch: Any) -> int:
    batch["image"][:, 0, 0, 0].sum()
    return len(batch["caption"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    path, count, workers = caption_tar(jpeg_tar(options)), options.count, options.workers
    shared = {"shuffle": True, "num_workers": workers, "transform": TRAINING}
    plain = DataLoader(ImageArchive(path, extensions=[".jpg"]), BATCH, **shared)
    ours = DataLoader(SampleArchive(path, fields=FIELDS), BATCH, **shared)
    other = webdataset_loader(path, count, workers)
    times = compare(
        {
            "imagearchive, image and caption": lambda: consume(ours, columns, count),
            "imagearchive, images alone": lambda: consume(plain, pairs, count),
            "webdataset, Pillow": lambda: consume(other, pairs, count),
        },
        rounds=options.rounds,
    )
    report("image and caption", times, "imagearchive, image and caption", count, "sample")


if __name__ == "__main__":
    main()
