"""Claim: a ``.tar.gz`` costs no more than decompressing what is read.

Four figures: building the index against inflating the file with ``zlib`` in the same process (at
least 0.9x); a random member of 100 kB against inflating half the distance of two checkpoints (at
most 1.5x); all members in order against one inflation (at least 0.9x); opening the archive with
its index (below 5 ms). The members are bytes that deflate hardly at all, as those of images.

    python -m benchmarks.read.compressed_archive [MEGABYTES]
"""

from __future__ import annotations

import gzip
import io
import random
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np

import imagearchive
from benchmarks.harness.interleave import compare, report
from imagearchive.index.table import IndexTable
from imagearchive.storage.checkpoints import SPACING

MEMBER = 100_000
FEED = 1 << 16


def main(megabytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "images.tar.gz")
        count = megabytes * 1_000_000 // MEMBER
        write(path, count)
        measure(path, count)


def write(path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    with gzip.open(path, "wb", 6) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(count):
            # Like the entropy-coded data of an image: almost all byte values, almost equally often.
            data = rng.normal(128, 60, MEMBER).astype(np.int64).astype(np.uint8).tobytes()
            info = tarfile.TarInfo(f"{number:06}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def inflate(path: Path, limit: int = 1 << 62) -> int:
    """Inflate a file, or the first bytes of it, and return their number."""
    decoder = zlib.decompressobj(31)
    size = 0
    with path.open("rb") as file:
        while size < limit and (data := file.read(FEED)):
            size += len(decoder.decompress(data))
    return size


def measure(path: Path, count: int) -> None:
    print(f"{path.stat().st_size / 1e6:.0f} MB with {count} members of {MEMBER / 1e3:.0f} kB")
    times = compare(
        {"index, not saved": lambda: IndexTable.build(path), "zlib": lambda: inflate(path)}
    )
    ratios = report("Building the index", times, "index, not saved", 1, "build")
    print(f"  {ratios['zlib']:.2f}x as fast as zlib (target: at least 0.9x)")

    imagearchive.open(path).close()
    index = path.with_suffix(".idx.npy")
    print(f"  the index takes {100 * index.stat().st_size / path.stat().st_size:.1f} % of the file")
    with imagearchive.open(path) as archive:
        rng = random.Random(0)
        spacing = SPACING if path.stat().st_size < 128 << 20 else 4 * SPACING

        def random_members() -> None:
            for _ in range(10):
                archive.read(rng.randrange(count))

        def half_spans() -> None:
            for _ in range(10):
                inflate(path, spacing // 2)

        times = compare({"random member": random_members, "half a span": half_spans})
        ratios = report("A random member", times, "random member", 10, "member")
        print(f"  {1 / ratios['half a span']:.2f}x the time of half a span (target: at most 1.5x)")

        def in_order() -> None:
            for position in range(count):
                archive.read(position)

        times = compare({"in order": in_order, "zlib": lambda: inflate(path)})
        ratios = report("All members in order", times, "in order", count, "member")
        print(f"  {ratios['zlib']:.2f}x as fast as zlib (target: at least 0.9x)")
    times = compare({"open": lambda: imagearchive.open(path).close()})
    report("Opening it with its index", times, "open", 1, "open")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
