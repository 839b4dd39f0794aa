"""Claim: a ``.tar.gz`` costs no more than decompressing what is read.

Building the index, against inflating the file with ``zlib`` in the same process (at least 0.9x). A
random member of 100 kB, against inflating half the distance of two checkpoints (at most 1.5x). All
members in order, against one inflation (at least 0.9x), and an epoch in order by the threads of a
loader, against as many threads that each inflate the file (at least 0.9x). An epoch that shuffles
blocks. Opening the archive with its index (below 5 ms). The private memory that a worker process
takes for reading (below 5 MB). The members hold bytes that deflate hardly at all, as images do.

Beside them, where they are installed (``pip install 'imagearchive[bench]'``): rapidgzip,
indexed_gzip, and ratarmount.

    python -m benchmarks.read.compressed_archive [MEGABYTES]
"""

from __future__ import annotations

import importlib
import io
import multiprocessing
import os
import random
import sys
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import imagearchive
from benchmarks.harness.interleave import compare, report
from imagearchive.index.table import IndexTable
from imagearchive.storage.checkpoints import SPACING

MEMBER = 100_000
FEED = 1 << 16
THREADS = 2
BATCH = 32


def main(megabytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "images.tar.gz")
        count = megabytes * 1_000_000 // MEMBER
        write(path, count)
        print(f"{path.stat().st_size / 1e6:.0f} MB with {count} members of {MEMBER / 1e3:.0f} kB")
        building(path)
        reading(path, count)
        epochs(path)
        memory(path)


def write(path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    # A small image, whose decoding takes no time, in a member of the usual size.
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "JPEG")
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    with path.open("wb") as file:
        for number in range(count):
            # Like the entropy-coded data of an image: almost all bytes, almost equally often.
            noise = rng.normal(128, 60, MEMBER - image.tell()).astype(np.int64).astype(np.uint8)
            info = tarfile.TarInfo(f"class/{number:06}.jpg")
            info.size = MEMBER
            data = info.tobuf() + image.getvalue() + noise.tobytes()
            file.write(packer.compress(data + bytes(-len(data) % 512)))
        file.write(packer.compress(bytes(10_240)) + packer.flush())


def inflate(path: Path, limit: int = 1 << 62) -> int:
    """Inflate a file, or the first bytes of it, and return their number."""
    decoder = zlib.decompressobj(31)
    size = 0
    with path.open("rb") as file:
        while size < limit and (data := file.read(FEED)):
            size += len(decoder.decompress(data))
    return size


def inflate_in_threads(path: Path) -> None:
    threads = [threading.Thread(target=inflate, args=(path,)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def installed(name: str) -> Any:
    """Return another package, or None with a message if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"  ({name.partition('.')[0]} is not installed)")
        return None


def building(path: Path) -> None:
    contestants: dict[str, Callable[[], object]] = {
        "imagearchive": lambda: IndexTable.build(path),
        "zlib": lambda: inflate(path),
    }
    rapidgzip, indexed_gzip = installed("rapidgzip"), installed("indexed_gzip")
    ratarmount = installed("ratarmountcore.mountsource.formats.tar")
    if rapidgzip is not None:

        def build_rapidgzip() -> None:
            with rapidgzip.open(str(path), parallelization=1) as file:
                file.seek(0, io.SEEK_END)

        contestants["rapidgzip, no table, 1 thread"] = build_rapidgzip
    if indexed_gzip is not None:

        def build_indexed_gzip() -> None:
            with indexed_gzip.IndexedGzipFile(str(path)) as file:
                file.build_full_index()

        contestants["indexed_gzip, no table"] = build_indexed_gzip
    if ratarmount is not None:
        contestants["ratarmount, 1 thread"] = lambda: ratarmount.SQLiteIndexedTar(
            str(path), indexFilePath=":memory:", parallelization=1, printDebug=0
        ).close()
    rounds = 7 if path.stat().st_size < 5e8 else 3
    ratios = report("Building the index", compare(contestants, rounds), "imagearchive", 1, "build")
    print(f"  {ratios['zlib']:.2f}x as fast as zlib (target: at least 0.9x)")


def reading(path: Path, count: int) -> None:
    imagearchive.open(path).close()
    index, size = path.with_suffix(".idx.npy"), path.stat().st_size
    print(f"  the index takes {100 * index.stat().st_size / size:.2f} % of the file")
    spacing = SPACING if size < 128 << 20 else 4 * SPACING
    rng = random.Random(0)
    with imagearchive.open(path) as archive:
        offsets = archive.table.entries["offset"].tolist()

        def random_members() -> None:
            for _ in range(10):
                archive.read(rng.randrange(count))

        def half_spans() -> None:
            for _ in range(10):
                inflate(path, spacing // 2)

        contestants: dict[str, Callable[[], object]] = {
            "imagearchive": random_members,
            "half a span": half_spans,
        }
        others = []
        rapidgzip, indexed_gzip = installed("rapidgzip"), installed("indexed_gzip")
        if rapidgzip is not None:
            others.append(("rapidgzip", rapidgzip.open(str(path), parallelization=1)))
        if indexed_gzip is not None:
            others.append(("indexed_gzip", indexed_gzip.IndexedGzipFile(str(path))))
        for name, file in others:
            file.seek(offsets[-1])
            file.read(MEMBER)

            def seek_and_read(file: Any = file) -> None:
                for _ in range(10):
                    file.seek(rng.choice(offsets))
                    file.read(MEMBER)

            contestants[name] = seek_and_read
        ratios = report("A random member", compare(contestants), "imagearchive", 10, "member")
        print(f"  {1 / ratios['half a span']:.2f}x the time of half a span (target: at most 1.5x)")
        for _, file in others:
            file.close()

        def in_order() -> None:
            for position in range(count):
                archive.read(position)

        times = compare({"in order": in_order, "zlib": lambda: inflate(path)}, 3)
        ratios = report("All members in order", times, "in order", count, "member")
        print(f"  {ratios['zlib']:.2f}x as fast as zlib (target: at least 0.9x)")
    times = compare({"open": lambda: imagearchive.open(path).close()})
    report("Opening it with its index (target: below 5 ms)", times, "open", 1, "open")


def epochs(path: Path) -> None:
    options: dict[str, Any] = {"num_workers": THREADS, "image_size": 8, "output": "numpy"}
    with (
        imagearchive.DataLoader(path, BATCH, **options) as ordered,
        imagearchive.DataLoader(path, BATCH, shuffle="blocks", **options) as blocks,
    ):
        contestants: dict[str, Callable[[], object]] = {
            "loader, in order": lambda: sum(1 for _ in ordered),
            "loader, shuffle='blocks'": lambda: sum(1 for _ in blocks),
            f"{THREADS} threads, each inflates the file": lambda: inflate_in_threads(path),
        }
        ratios = report(
            "An epoch", compare(contestants, 3), "loader, in order", len(ordered), "batch"
        )
    inflated = ratios[f"{THREADS} threads, each inflates the file"]
    print(f"  {inflated:.2f}x as fast as one inflation per thread (target: at least 0.9x)")


def memory(path: Path) -> None:
    # Pages of the file that are not on disk yet would count as memory of the process.
    os.sync()
    print("\nPrivate memory that a process takes to read 200 random members (target: below 5 MB)")
    for method in ("fork", "spawn"):
        with (
            imagearchive.open(path) as archive,
            multiprocessing.get_context(method).Pool(1) as pool,
        ):
            # The first task of a process imports what it needs.
            pool.apply(read_some, (archive, 0))
            taken = pool.apply(read_some, (archive, 200))
            print(f"  {method:<44} {taken / 1e6:12.1f} MB")


def read_some(archive: imagearchive.Archive, members: int) -> int:
    """Read members, and return by how much the private memory of this process has grown."""
    before = private_bytes()
    rng = random.Random(1)
    for _ in range(members):
        archive.read(rng.randrange(len(archive)))
    return private_bytes() - before


def private_bytes() -> int:
    with open("/proc/self/smaps_rollup") as file:
        sizes = [line.split()[1] for line in file if line.startswith("Private_Dirty")]
    return 1024 * int(sizes[0])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
