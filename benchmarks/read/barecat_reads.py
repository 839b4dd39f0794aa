"""Claim: `Archive` reads and lists a Barecat archive 4 to 46 times as fast as package ``barecat``.

python -m benchmarks.read.barecat_reads
"""

from __future__ import annotations

import random
import tempfile

import barecat

import imagearchive
from benchmarks.harness.interleave import compare, report

IMAGES = 4_000
IMAGE_BYTES = 58_000
READS = 2_000
DIRECTORIES = 10_000
FILES_EACH = 5


def reads(folder: str) -> None:
    rng = random.Random(0)
    path = f"{folder}/images.barecat"
    with barecat.Barecat(path, readonly=False) as archive:
        for number in range(IMAGES):
            size = IMAGE_BYTES + rng.randrange(-10_000, 10_000)
            archive[f"class_{number % 100:03d}/{number:06d}.jpg"] = rng.randbytes(size)
    positions = [rng.randrange(IMAGES) for _ in range(READS)]
    with imagearchive.open(path) as ar, barecat.Barecat(path) as bc:
        names = [ar.name(position) for position in positions]
        times = compare(
            {
                "ar.read(position)": lambda: [len(ar.read(position)) for position in positions],
                "ar[name]": lambda: [len(ar[name]) for name in names],
                "barecat bc[path]": lambda: [len(bc[name]) for name in names],
                "limit: bytes(ar.read(position))": lambda: [
                    len(bytes(ar.read(position))) for position in positions
                ],
            }
        )
    report("random images of 58 kB", times, "ar[name]", READS)
    report("the same, without a copy", times, "ar.read(position)", READS)


def listings(folder: str) -> None:
    path = f"{folder}/directories.barecat"
    with barecat.Barecat(path, readonly=False) as archive:
        for number in range(DIRECTORIES):
            for file in range(FILES_EACH):
                archive[f"class_{number:03d}/{file}.jpg"] = b"x"
    with imagearchive.open(path) as ar, barecat.Barecat(path) as bc:
        rounds = range(200)
        times = compare(
            {
                "ar.listdir": lambda: [ar.listdir("class_007") for _ in rounds],
                "barecat listdir": lambda: [bc.listdir("class_007") for _ in rounds],
            }
        )
        report(
            f"listdir of one among {DIRECTORIES:,} directories", times, "ar.listdir", 200, "call"
        )
        times = compare(
            {
                "ar.glob": lambda: [ar.glob("class_007/*.jpg") for _ in rounds],
                "barecat glob": lambda: [bc.glob("class_007/*.jpg") for _ in rounds],
            }
        )
        report('glob("class_007/*.jpg") in the same', times, "ar.glob", 200, "call")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        reads(folder)
        listings(folder)


if __name__ == "__main__":
    main()
