"""NPZ files row by row, against `numpy.load`."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Hashable, Iterable
from pathlib import Path
from random import Random

import numpy as np
from support.npz import boxes_of
from support.object_arrays import objects

from fuzz.harness import Harness, check
from fuzz.harnesses.memory import put, url
from fuzz.harnesses.npy import NpyHeaders
from fuzz.harnesses.objects import ObjectArrays
from fuzz.harnesses.zip import change_zip
from fuzz.mutation import mutate
from imagearchive.containers.npz.writer import NpzWriter
from imagearchive.datasets.npz.dataset import LazyNPZDataset
from imagearchive.errors import ImageArchiveError


class NpzRows(Harness):
    """Opens a file as a dataset, and reads samples, batches and whole arrays."""

    name = "npz"
    smoke_runs = 10_000
    tokens = (*NpyHeaders.tokens, *ObjectArrays.tokens)

    def seeds(self) -> Iterable[bytes]:
        """Return files with columns of every kind."""
        columns = {
            "images": np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3),
            "bboxes": objects(boxes_of(4)),
            "image_paths": np.array([f"{i}.jpg" for i in range(4)]),
            "when": np.array([1, 2, 3, 4], "<M8[s]"),
            "record": np.zeros(4, [("a", "<i4"), ("b", ">f8", 2)]),
        }
        ragged = {
            "images": columns["images"],
            "points.offsets": np.array([0, 1, 1, 3, 4]),
            "points.values": np.arange(8.0).reshape(4, 2),
            "names": np.array([b"a", b"bb", b"", b"c"]),
            "mean": np.float64(3),
        }
        for save in (np.savez, np.savez_compressed):
            for arrays in (columns, ragged):
                file = io.BytesIO()
                save(file, **arrays)
                yield file.getvalue()
        yield from _written()

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change the ZIP, or one array and then its checksum."""
        if rng.random() < 0.3:
            return change_zip(rng, data, other, self.tokens)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [(info.filename, archive.read(info)) for info in archive.infolist()]
                method = archive.infolist()[0].compress_type
        except Exception:
            return change_zip(rng, data, other, self.tokens)
        number = rng.randrange(len(members))
        name, content = members[number]
        # The data of most arrays is the least interesting part.
        head = content[:300] if b"|O" not in content[:128] else content
        members[number] = (name, mutate(rng, head, content, self.tokens) + content[len(head) :])
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content, method)
        return file.getvalue()

    def run(self, data: bytes) -> Hashable:
        """Read everything in three ways, which must agree."""
        put(x_npz=data)
        kinds = []
        with LazyNPZDataset(url("x.npz"), storage="memory") as dataset:
            samples = []
            for i in range(min(len(dataset), 5)):
                try:
                    samples.append(dataset[i])
                except ImageArchiveError as error:
                    kinds.append(type(error).__name__)
            if samples:
                try:
                    batch = dataset.get_batch(range(len(samples)))
                except ImageArchiveError as error:
                    kinds.append(type(error).__name__)
                else:
                    check(len(batch) == len(samples[0]), "the batch has other columns")
            for name in dataset.arrays:
                try:
                    array = dataset.arrays[name]
                    kinds.append(f"{array.dtype.kind}{array.ndim}")
                except ImageArchiveError as error:
                    kinds.append(type(error).__name__)
        return tuple(kinds[:12])


def _written() -> Iterable[bytes]:
    """Return a file as our own writer makes it, with ragged columns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npz")
        with NpzWriter(path) as writer:
            for i in range(4):
                points = np.zeros((i, 2), np.float32)
                writer.append(images=np.full((2, 2), i, np.uint8), points=points, text="t" * i)
        yield path.read_bytes()
