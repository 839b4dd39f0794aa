"""Claim: pairing a million images with a million masks takes under 2 s, and opening again 5 ms.

The archive is a TAR of empty members, whose names alone matter. Each opening is a new process. The
first opening of an index in a process checks all of its columns, also without a pairing, so that is
measured by itself. The alternative is a dictionary of the names, as one would write it by hand.

    python -m benchmarks.scan.pair_members --count 1000000
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from imagearchive import Archive
from imagearchive.containers.tar.ustar import header

OURS = """
import sys, time
from imagearchive import Archive, Mask, SampleArchive
start = time.perf_counter()
Archive(sys.argv[1])
print(time.perf_counter() - start)
fields = {"image": "images/{key}.jpg", "mask": Mask("masks/{key}.png")}
start = time.perf_counter()
dataset = SampleArchive(sys.argv[1], fields=fields)
print(time.perf_counter() - start)
"""
DICTIONARY = """
import sys, time
from imagearchive import Archive
archive = Archive(sys.argv[1])
start = time.perf_counter()
parts = {"jpg": {}, "png": {}}
for position, name in enumerate(archive):
    folder, _, rest = name.partition("/")
    key, _, extension = rest.rpartition(".")
    parts[extension][key] = position
pairs = [(position, parts["png"][key]) for key, position in parts["jpg"].items()]
print(time.perf_counter() - start)
"""


def write(path: Path, count: int, shuffle: bool) -> None:
    names = [f"{folder}{k:09d}{end}" for folder, end in PARTS for k in range(count)]
    if shuffle:
        random.Random(0).shuffle(names)
    with path.open("wb") as file:
        for name in names:
            file.write(header(name.encode(), 0))
        file.write(bytes(1024))


PARTS = (("images/", ".jpg"), ("masks/", ".png"))


def seconds(script: str, path: Path) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    return [float(line) for line in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for order in ("in order of their names", "in random order"):
            path = Path(folder, "pairs.tar")
            write(path, options.count, order != "in order of their names")
            Archive(path, overwrite_index=True).close()
            first, index, again, dictionary = [], [], [], []
            for _ in range(options.rounds):
                for saved in path.parent.glob("pairs.*.idx.npy"):
                    os.unlink(saved)
                first.append(seconds(OURS, path)[1])
                opened = seconds(OURS, path)
                index.append(opened[0])
                again.append(opened[1])
                dictionary += seconds(DICTIONARY, path)
            print(f"\n{options.count:,} images and masks, {order}; the index exists")
            report = {
                "pair, save, and open": first,
                "open the saved pairing": again,
                "open and check the index": index,
                "dictionaries": dictionary,
            }
            for name, values in report.items():
                print(f"  {name:<26} {statistics.median(values) * 1e3:10.2f} ms")


if __name__ == "__main__":
    main()
