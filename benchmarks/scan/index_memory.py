"""Claim: the index of ten million members opens in a millisecond and adds almost no memory.

The first time in a process its columns are checked, which is printed apart.

Memory means what a process has for itself: ``Private_Dirty`` of /proc/self/smaps_rollup, which
only swap could free. Mapped pages of the index are page cache, shared and dropped under memory
pressure; they are printed beside it.

    python -m benchmarks.scan.index_memory [--count 10000000]
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time

import numpy as np

from benchmarks.harness.synthetic import synthetic_index
from imagearchive import Archive, ImageArchive
from imagearchive.index.table import IndexTable


def private_memory() -> tuple[float, float]:
    """Private dirty and private clean memory of this process in MB."""
    with open("/proc/self/smaps_rollup") as file:
        fields = {line.split(":")[0]: line.split()[1] for line in file if ":" in line}
    return int(fields["Private_Dirty"]) / 1e3, int(fields["Private_Clean"]) / 1e3


def worker(dataset, seed, results) -> None:
    """Read 100,000 random rows and report the memory that this added."""
    before = private_memory()
    random = np.random.default_rng(seed)
    row, label = dataset.archive.table.lookup.row, dataset.label
    total = 0
    for position in memoryview(random.integers(0, len(dataset), 100_000)):
        total += row(position)[1] + label(position)
    after = private_memory()
    results.put((after[0] - before[0], after[1] - before[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000_000)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "synthetic.tar")
        synthetic_index(path, count)
        # The first opening in a process checks the columns; later ones know the file.
        start = time.perf_counter()
        IndexTable.open(path)
        first = time.perf_counter() - start
        seconds = []
        for _ in range(9):
            start = time.perf_counter()
            table = IndexTable.open(path)
            seconds.append(time.perf_counter() - start)
            assert len(table) == count
            del table
        print(f"{count:,} members")
        print(f"  index opens in {statistics.median(seconds) * 1e3:.2f} ms (median of 9)")
        print(f"  and the first time in a process in {first * 1e3:.0f} ms, for it is checked")
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            archive = Archive(path)
            seconds.append(time.perf_counter() - start)
            assert len(archive) == count
        print(f"  archive opens in {statistics.median(seconds) * 1e3:.2f} ms (median of 5)")
        del archive
        before = private_memory()
        start = time.perf_counter()
        dataset = ImageArchive(path)
        elapsed = time.perf_counter() - start
        after = private_memory()
        print(f"  dataset opens in {elapsed * 1e3:.2f} ms")
        print(f"  opening adds {after[0] - before[0]:.2f} MB private memory (dirty), "
              f"{after[1] - before[1]:.2f} MB page cache")  # fmt: skip
        for method in ("fork", "spawn"):
            context = multiprocessing.get_context(method)
            results = context.Queue()
            workers = [
                context.Process(target=worker, args=(dataset, seed, results)) for seed in range(8)
            ]
            for process in workers:
                process.start()
            found = [results.get() for _ in workers]
            for process in workers:
                process.join()
            print(f"  {method}: 100,000 random rows in each of 8 workers add at most "
                  f"{max(f[0] for f in found):.2f} MB private memory (dirty), "
                  f"{max(f[1] for f in found):.2f} MB page cache")  # fmt: skip


if __name__ == "__main__":
    main()
