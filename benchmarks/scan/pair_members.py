"""Claim: pairing a million images with a million masks takes under 2 s, and opening again 5 ms.

The archive is a TAR of empty members, whose names alone matter. Each opening is a new process. The
first opening of an index in a process checks all of its columns, also without a pairing, so that is
measured by itself. The alternative is a dictionary of the names, as one would write it by hand.
Peak memory counts the pages of the index and of the pairing, too, which are mapped.

    python -m benchmarks.scan.pair_members --count 1000000
    python -m benchmarks.scan.pair_members --count 10000000 --rounds 1 --no-dictionary
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from imagearchive import Archive
from imagearchive.containers.tar.ustar import header

OURS = """
import resource, sys, time
from imagearchive import Archive, Mask, SampleArchive
start = time.perf_counter()
Archive(sys.argv[1])
print(time.perf_counter() - start)
fields = {"image": "images/{key}.jpg", "mask": Mask("masks/{key}.png")}
start = time.perf_counter()
dataset = SampleArchive(sys.argv[1], fields=fields)
print(time.perf_counter() - start)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
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
    numbers = np.arange(len(PARTS) * count)
    if shuffle:
        np.random.default_rng(0).shuffle(numbers)
    places = 10 ** np.arange(DIGITS - 1, -1, -1)
    with path.open("wb") as file:
        for start in range(0, len(numbers), CHUNK):
            part, keys = np.divmod(numbers[start : start + CHUNK], count)
            blocks = np.empty((len(keys), 512), np.uint8)
            for kind, (folder, end) in enumerate(PARTS):
                name = f"{folder}{'0' * DIGITS}{end}".encode()
                digits = keys[part == kind, None] // places % 10
                rows = np.tile(np.frombuffer(header(name, 0), np.uint8), (len(digits), 1))
                rows[:, len(folder) : len(folder) + DIGITS] += digits.astype(np.uint8)
                # The checksum of a header is six octal digits for the sum of its bytes.
                sums = int(bytes(rows[0, 148:154]), 8) if len(rows) else 0
                sums = sums + digits.sum(1)
                for place in range(6):
                    rows[:, 153 - place] = 48 + (sums >> 3 * place) % 8
                blocks[part == kind] = rows
            file.write(blocks.tobytes())
        file.write(bytes(1024))


PARTS = (("images/", ".jpg"), ("masks/", ".png"))
DIGITS = 9
CHUNK = 1 << 16


def seconds(script: str, path: Path) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    return [float(line) for line in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the archive is written")
    parser.add_argument("--no-dictionary", action="store_true", help="it takes much memory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for order in ("in order of their names", "in random order"):
            path = Path(folder, "pairs.tar")
            write(path, options.count, order != "in order of their names")
            Archive(path, overwrite_index=True).close()
            first, index, again, dictionary, peaks = [], [], [], [], []
            for _ in range(options.rounds):
                for saved in path.parent.glob("pairs.*.idx.npy"):
                    os.unlink(saved)
                paired = seconds(OURS, path)
                first.append(paired[1])
                peaks.append(paired[2])
                opened = seconds(OURS, path)
                index.append(opened[0])
                again.append(opened[1])
                if not options.no_dictionary:
                    dictionary += seconds(DICTIONARY, path)
            print(f"\n{options.count:,} images and masks, {order}; the index exists")
            report = {
                "pair, save, and open": first,
                "open the saved pairing": again,
                "open and check the index": index,
                "dictionaries": dictionary,
            }
            print(f"  peak memory while pairing  {statistics.median(peaks):10.0f} MiB")
            for name, values in report.items():
                if not values:
                    continue
                print(f"  {name:<26} {statistics.median(values) * 1e3:10.2f} ms")


if __name__ == "__main__":
    main()
