"""Claim: a random row of a deflated NPZ is read at least 20 times as fast as by `np.load`.

``np.load(f)["images"][i]`` inflates the whole member each time; checkpoints inside the member make
that unnecessary. A second claim: building them costs at most 1.5 times one plain decompression. The
last lines show what reading row after row costs. 200 rows of 224 x 224 x 3 are 30 MB.

    python -m benchmarks.read.deflate_index [ROWS]
"""

from __future__ import annotations

import random
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

from benchmarks.harness.interleave import compare, report
from imagearchive.arrays.npy import parse_header
from imagearchive.containers.zip import scan as scanner
from imagearchive.storage.deflate import DeflatedStorage
from imagearchive.storage.local import MmapStorage


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "images.npz")
        steps = np.random.default_rng(0).integers(-3, 4, (rows, 224, 224, 3), np.int8)
        images = (np.cumsum(steps, axis=2) + 128).astype(np.uint8)
        np.savez_compressed(path, images=images)
        with MmapStorage(path) as storage:
            measure(path, storage, images)


def measure(path: Path, storage: MmapStorage, images: np.ndarray) -> None:
    entry = scanner.scan(storage).entries[0]
    columns = ("offset", "stored_size", "size", "crc")
    offset, stored, size, crc = (int(entry[name]) for name in columns)
    print(f"member of {size / 1e6:.1f} MB, deflated to {stored / 1e6:.1f} MB")

    def new(checkpoints: bytes | None = None) -> DeflatedStorage:
        return DeflatedStorage(storage, offset, stored, size, crc, "images.npy", checkpoints)

    def plain() -> None:
        if zlib.crc32(zlib.decompress(storage.read(offset, stored), -15, size)) != crc:
            raise ValueError("damaged")

    times = compare({"checkpoints, checked": lambda: new().build_checkpoints(), "zlib": plain})
    ratios = report("Building the checkpoints", times, "checkpoints, checked", 1, "build")
    print(f"  cost: {1 / ratios['zlib']:.2f}x one plain decompression (target: at most 1.5x)")

    checkpoints = new().build_checkpoints()
    print(f"  the checkpoints take {100 * len(checkpoints) / size:.1f} % of the inflated size")
    member = new(checkpoints)
    header = parse_header(member, where="images.npy")
    rng = random.Random(0)

    def row(number: int) -> np.ndarray:
        data = member.read(header.data_offset + number * header.row_size, header.row_size)
        return np.frombuffer(data, header.dtype).reshape(header.shape[1:])

    def indexed() -> None:
        number = rng.randrange(len(images))
        if not np.array_equal(row(number), images[number]):
            raise ValueError("wrong row")

    def load() -> None:
        number = rng.randrange(len(images))
        with np.load(path) as file:
            if not np.array_equal(file["images"][number], images[number]):
                raise ValueError("wrong row")

    contestants = {"indexed": lambda: [indexed() for _ in range(10)]}
    contestants["np.load"] = lambda: [load() for _ in range(10)]
    ratios = report("A random row", compare(contestants), "indexed", 10, "row")
    print(f"  {ratios['np.load']:.0f}x as fast as np.load (target: at least 20x)")

    times = compare({"row by row": lambda: [row(i) for i in range(len(images))], "zlib": plain})
    report("All rows in order", times, "row by row", len(images), "row")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
