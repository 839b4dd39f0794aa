"""Claim: a random row of a stored NPZ costs 0.6 us more than copying it, whatever the file's size.

Measures single rows and batches of stored and deflated NPZ files, and the memory that opening
takes. The alternative is what users write, ``np.load(path, mmap_mode="r")["images"][i]``, which
ignores ``mmap_mode`` and reads the whole array. The limits are a copy of the row, and `np.take`,
from an array in memory.

    python -m benchmarks.read.npz_rows [--large-mb 2048] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile

import numpy as np

from benchmarks.harness.interleave import compare, report
from imagearchive import LazyNPZDataset

SHAPE = (128, 128, 3)
ROW = int(np.prod(SHAPE))
ROWS = 500
BATCH = 64

PRIVATE = """
import sys
def private():
    with open("/proc/self/smaps_rollup") as file:
        fields = dict(line.split()[:2] for line in file if line.split()[0].endswith(":"))
    # The rest is mapped files: page cache, which the kernel can reclaim.
    return int(fields["Anonymous:"]) / 1024, int(fields["Rss:"]) / 1024
import numpy as np
from imagearchive import LazyNPZDataset
before = private()
dataset = LazyNPZDataset(sys.argv[1])
rows = [dataset[i]["image"] for i in np.random.default_rng(0).integers(0, len(dataset), 100)]
after = private()
print(after[0] - before[0], after[1] - before[1], sum(row.nbytes for row in rows) / 2**20)
"""


def write(path, megabytes, deflate=False):
    """Write an NPZ of noise, or of smooth images if it is deflated, block by block."""
    count = (megabytes << 20) // ROW
    rng = np.random.default_rng(0)
    if deflate:
        steps = rng.integers(-2, 3, (64, *SHAPE), np.int8).cumsum(1, dtype=np.int16)
        block = (steps & 0xFF).astype(np.uint8)
    else:
        block = rng.integers(0, 256, (64, *SHAPE), np.uint8)
    method = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    with (
        zipfile.ZipFile(path, "w", method) as archive,
        archive.open("images.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *SHAPE)}
        np.lib.format.write_array_header_1_0(member, header)
        for start in range(0, count, 64):
            member.write(block[: count - start].tobytes())
    return path


def rows(dataset, indices):
    for i in indices:
        dataset[i]["image"]


def copies(array, indices):
    for i in indices:
        array[i].copy()


def numpy_row(path, index):
    with np.load(path, mmap_mode="r") as file:
        return file["images"][index]


def single_rows(small, large):
    """Measure random rows of both files; the uncounted first round reads them into memory."""
    rng = np.random.default_rng(1)
    datasets = {path: LazyNPZDataset(path) for path in (small, large)}
    array = datasets[small].arrays["images"]
    indices = rng.integers(0, len(array), ROWS).tolist()
    far = rng.integers(0, len(datasets[large]), ROWS).tolist()
    times = compare(
        {
            "ours, small file": lambda: rows(datasets[small], indices),
            "ours, large file": lambda: rows(datasets[large], far),
            "copy of a row in memory": lambda: copies(array, indices),
        }
    )
    report("Random row, stored", times, "ours, small file", ROWS, "row")
    copy = times["copy of a row in memory"]
    for name in ("ours, small file", "ours, large file"):
        extra = statistics.median(a - b for a, b in zip(times[name], copy)) / ROWS
        print(f"  {name}: {extra * 1e6:.2f} us beyond the copy")
    turn = iter(indices * 100)
    times = compare(
        {
            "ours": lambda: rows(datasets[small], indices),
            "np.load(mmap_mode='r')": lambda: numpy_row(small, next(turn)),
        },
        rounds=9,
    )
    times["ours"] = [value / ROWS for value in times["ours"]]
    report("Random row against np.load, stored", times, "ours", 1, "row")


def batches(small):
    rng = np.random.default_rng(2)
    dataset = LazyNPZDataset(small)
    array = dataset.arrays["images"]
    wanted = [rng.integers(0, len(array), BATCH) for _ in range(20)]
    times = compare(
        {
            "get_batch": lambda: [dataset.get_batch(indices) for indices in wanted],
            "np.take in memory": lambda: [np.take(array, indices, 0) for indices in wanted],
        },
        rounds=15,
    )
    ratios = report(f"Batch of {BATCH}, stored", times, "get_batch", 20, "batch")
    print(f"  get_batch reaches {100 * ratios['np.take in memory']:.0f} % of np.take")


def deflated(path):
    rng = np.random.default_rng(3)
    dataset = LazyNPZDataset(path).prepare()
    indices = rng.integers(0, len(dataset), 100).tolist()
    turn = iter(indices * 100)
    times = compare(
        {
            "ours, 20 rows": lambda: rows(dataset, [next(turn) for _ in range(20)]),
            "np.load, 20 rows": lambda: [numpy_row(path, next(turn)) for _ in range(20)],
        },
        rounds=3,
    )
    report(f"Random row, deflated, {os.path.getsize(path) >> 20} MB", times, "ours, 20 rows", 20)


def memory(large):
    output = subprocess.run(
        [sys.executable, "-c", PRIVATE, large], capture_output=True, text=True, check=True
    ).stdout
    dirty, clean, held = map(float, output.split())
    print(f"\nOpening {os.path.getsize(large) >> 20} MB and keeping 100 random rows")
    print(f"  private memory {dirty:.1f} MB, of it rows {held:.1f} MB")
    print(f"  resident with mapped pages of the file: {clean:.1f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large-mb", type=int, default=2048)
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        small = write(os.path.join(folder, "small.npz"), 98)
        large = write(os.path.join(folder, "large.npz"), arguments.large_mb)
        single_rows(small, large)
        batches(small)
        memory(large)
        os.remove(large)
        deflated(write(os.path.join(folder, "deflated.npz"), 30, deflate=True))


if __name__ == "__main__":
    main()
