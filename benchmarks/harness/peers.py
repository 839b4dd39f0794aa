"""The loaders that `compare_loaders.py` compares: what each needs, and one epoch of each.

Every function takes a `Task` and returns a function that runs one epoch and returns the number of
images. It raises ImportError where the library is not installed. All get the same JPEG bytes and
make float32 batches of (N, 3, 224, 224), normalized, in two workers; those that leave decoding to
the user get the same function with Pillow.
"""

from __future__ import annotations

import functools
import io
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.loader.loader_jpegs import BATCH, MEAN, STD, PillowDataset, random_box

Epoch = Callable[[], int]
SIDE = 224


@dataclass(frozen=True)
class Task:
    """What is loaded: the TAR, a folder for other forms of it, and how."""

    tar: Path
    folder: Path
    workers: int
    crop: bool

    def members(self) -> Iterator[tuple[str, bytes, int]]:
        """Yield name, bytes, and class of each image."""
        with tarfile.open(self.tar) as archive:
            for member in archive:
                name = member.name
                yield name, archive.extractfile(member).read(), int(name.split("/")[0])

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return a file or folder that `make` makes in the first run."""
        target = self.folder / f"{self.tar.stem}-{name}"
        if not target.exists():
            part = target.with_name(target.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(target)
        return target


def transform(data: Any, crop: bool) -> torch.Tensor:
    """Decode and transform with Pillow, as torchvision does."""
    source = io.BytesIO(data) if isinstance(data, (bytes, bytearray, memoryview)) else data
    image = Image.open(source).convert("RGB")
    box = random_box(*image.size) if crop else (0, 0, *image.size)
    image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
    if crop and random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    array = np.asarray(image, np.float32).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray((array / 255 - MEAN) / STD))


def count(loader: Any) -> int:
    """Run one epoch of batches of images and labels, touching each."""
    total = 0
    for images, *_ in loader:
        images[:, 0, 0, 0].sum()
        total += len(images)
    return total


def torch_loader(dataset: Any, task: Task, **options: Any) -> Epoch:
    """Return an epoch of torch's loader with persistent processes."""
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, num_workers=task.workers, persistent_workers=True, **options
    )
    return lambda: count(loader)


class Listed(torch.utils.data.Dataset):
    """Reads encoded images by a function that each process makes for itself."""

    def __init__(self, task: Task, open_reader: Callable[[], Callable[[str], bytes]]) -> None:
        self.names = [name for name, _, _ in task.members()]
        self.crop = task.crop
        self.open_reader = open_reader
        self.read: Any = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.read = self.read or self.open_reader()
        name = self.names[index]
        return transform(self.read(name), self.crop), int(name.split("/")[0])


def image_folder(task: Task) -> Epoch:
    """torchvision: a folder per class, extracted."""
    from torchvision.datasets import ImageFolder

    def extract(target: Path) -> None:
        with tarfile.open(task.tar) as archive:
            archive.extractall(target, filter="data")

    folder = task.once("files", extract)
    open_image = functools.partial(transform, crop=task.crop)
    return torch_loader(ImageFolder(folder, loader=open_image), task, shuffle=True)


def pillow_tar(task: Task) -> Epoch:
    """A careful class of one's own: offsets from tarfile, one pread for each image, Pillow."""
    return torch_loader(PillowDataset(task.tar, train=task.crop), task, shuffle=True)


def webdataset(task: Task) -> Epoch:
    """webdataset: the TAR as it is, read in order, shuffled in a buffer."""
    import webdataset as wds

    def load(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
        return transform(sample["jpg"], task.crop), int(sample["__key__"].split("/")[0])

    # Each worker needs a shard of its own.
    def split(target: Path) -> None:
        target.mkdir()
        members = list(task.members())
        for shard in range(task.workers):
            with tarfile.open(target / f"{shard}.tar", "w") as archive:
                for name, data, _ in members[shard :: task.workers]:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))

    folder = task.once(f"shards{task.workers}", split)
    urls = [str(path) for path in sorted(folder.iterdir())]
    dataset = wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(1000).map(load).batched(BATCH)
    loader = wds.WebLoader(
        dataset, batch_size=None, num_workers=task.workers, persistent_workers=True
    )
    return lambda: count(loader)


def litdata(task: Task) -> Epoch:
    """litdata: the images converted to its chunks."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    def convert(target: Path) -> None:
        target.mkdir()
        writer = BinaryWriter(str(target), chunk_bytes="64MB")
        for number, (_, data, label) in enumerate(task.members()):
            writer.add_item(number, {"image": data, "label": label})
        writer.done()
        writer.merge()

    class Decoded(StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[torch.Tensor, int]:
            sample = super().__getitem__(index)
            return transform(sample["image"], task.crop), sample["label"]

    dataset = Decoded(str(task.once("litdata", convert)), shuffle=True)
    loader = StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=task.workers, persistent_workers=True
    )
    return lambda: count(loader)


def mosaicml(task: Task) -> Epoch:
    """MosaicML streaming: the images converted to MDS shards."""
    from streaming import MDSWriter, StreamingDataset

    def convert(target: Path) -> None:
        columns = {"image": "bytes", "label": "int"}
        with MDSWriter(out=str(target), columns=columns) as writer:
            for _, data, label in task.members():
                writer.write({"image": data, "label": label})

    class Decoded(StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[torch.Tensor, int]:
            sample = super().__getitem__(index)
            return transform(sample["image"], task.crop), sample["label"]

    folder = str(task.once("mds", convert))
    return torch_loader(Decoded(local=folder, shuffle=True, batch_size=BATCH), task)


def barecat(task: Task) -> Epoch:
    """barecat: the images packed into its archive."""
    import barecat as library

    def convert(target: Path) -> None:
        target.mkdir()
        with library.Barecat(str(target / "images"), readonly=False) as archive:
            for name, data, _ in task.members():
                archive[name] = data

    path = task.once("barecat", convert) / "images"

    def open_reader() -> Callable[[str], bytes]:
        return library.Barecat(str(path)).__getitem__

    return torch_loader(Listed(task, open_reader), task, shuffle=True)


def ratarmount(task: Task) -> Epoch:
    """Ratarmount's library: the TAR as it is, and an SQLite index beside it."""
    from ratarmountcore.mountsource.factory import open_mount_source

    def open_reader() -> Callable[[str], bytes]:
        source = open_mount_source(str(task.tar), printDebug=0)

        def read(name: str) -> bytes:
            with source.open(source.lookup("/" + name)) as file:
                return file.read()

        return read

    open_reader()
    return torch_loader(Listed(task, open_reader), task, shuffle=True)


def ffcv(task: Task) -> Epoch:
    """FFCV: the images converted to .beton, here without encoding them again."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.fields.rgb_image import IMAGE_MODES
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import (
        NormalizeImage,
        RandomHorizontalFlip,
        Squeeze,
        ToTensor,
        ToTorchImage,
    )
    from ffcv.writer import DatasetWriter

    if not task.crop:
        raise NotImplementedError("it has no decoder that resizes whole images")

    def encode(destination: Any, data: bytes, malloc: Any) -> None:
        with Image.open(io.BytesIO(data)) as image:
            destination["width"], destination["height"] = image.size
        destination["mode"] = IMAGE_MODES["jpg"]
        destination["data_ptr"], storage = malloc(len(data))
        storage[:] = np.frombuffer(data, np.uint8)

    class Samples:
        def __init__(self) -> None:
            self.samples = [(data, label) for _, data, label in task.members()]

        def __len__(self) -> int:
            return len(self.samples)

        def __getitem__(self, index: int) -> tuple[bytes, int]:
            return self.samples[index]

    def convert(target: Path) -> None:
        fields = {"image": RGBImageField(), "label": IntField()}
        fields["image"].encode = encode
        DatasetWriter(str(target), fields, num_workers=1).from_indexed_dataset(Samples())

    # Without GPU, its pipeline normalizes before it makes tensors.
    image = [
        RandomResizedCropRGBImageDecoder((SIDE, SIDE)),
        RandomHorizontalFlip(),
        NormalizeImage(MEAN.ravel() * 255, STD.ravel() * 255, np.float32),
        ToTensor(),
        ToTorchImage(),
    ]
    loader = Loader(
        str(task.once("ffcv.beton", convert)),
        batch_size=BATCH,
        num_workers=task.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={"image": image, "label": [IntDecoder(), ToTensor(), Squeeze()]},
    )
    return lambda: count(loader)


def spdl(task: Task) -> Epoch:
    """SPDL: encoded images from a mapped TAR; FFmpeg decodes and resizes in threads."""
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    data = PillowDataset(task.tar, train=task.crop)
    file = np.memmap(task.tar, np.uint8, "r")
    stops = data.offsets + data.sizes
    order = np.arange(len(data))

    def batches() -> Iterator[Any]:
        np.random.default_rng().shuffle(order)
        for first in range(0, len(order), 32):
            yield order[first : first + 32].tolist()

    def filters(index: int) -> str:
        # The flip and the crop of each image are part of its filter graph.
        width, height = sizes[index]
        x0, y0, x1, y1 = random_box(width, height)
        flip = ",hflip" if random.random() < 0.5 else ""
        crop = f"crop={x1 - x0}:{y1 - y0}:{x0}:{y0},"
        return f"{crop}scale={SIDE}:{SIDE}:flags=bilinear{flip},format=pix_fmts=rgb24"

    whole = f"scale={SIDE}:{SIDE}:flags=bilinear,format=pix_fmts=rgb24"
    sizes = [
        Image.open(io.BytesIO(file[start : start + 4096].tobytes())).size
        for start in (data.offsets.tolist() if task.crop else ())
    ]

    def load(indices: list[int]) -> torch.Tensor:
        frames = [
            spdl.io.decode_packets(
                spdl.io.demux_image(file[data.offsets[i] : stops[i]].tobytes()),
                filter_desc=filters(i) if task.crop else whole,
            )
            for i in indices
        ]
        images = spdl.io.to_numpy(spdl.io.convert_frames(frames))
        floats = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        return floats.sub_(mean).div_(std)

    mean, std = torch.from_numpy(MEAN * 255), torch.from_numpy(STD * 255)

    def epoch() -> int:
        # Threads of torch would work beside those of the pipeline.
        torch.set_num_threads(1)
        builder = PipelineBuilder().add_source(batches())
        builder = builder.pipe(load, concurrency=task.workers, output_order="completion")
        pipeline = builder.aggregate(BATCH // 32).add_sink(2).build(num_threads=task.workers)
        total = 0
        with pipeline.auto_stop():
            for parts in pipeline.get_iterator():
                images = torch.cat(parts)
                images[:, 0, 0, 0].sum()
                total += len(images)
        return total

    return epoch


PEERS: dict[str, Callable[[Task], Epoch]] = {
    "torchvision ImageFolder": image_folder,
    "torch, Pillow, pread": pillow_tar,
    "webdataset": webdataset,
    "litdata": litdata,
    "MosaicML streaming": mosaicml,
    "barecat": barecat,
    "ratarmount": ratarmount,
    "FFCV": ffcv,
    "SPDL": spdl,
}
