"""Claim: comparing each image with its checksum once costs a data loader less than 5 %.

Reads stored JPEGs from a ZIP with ``verify`` set to never, first, and always: through `DataLoader`,
as ``dataset[i]``, and as bytes. Each run opens the archive again, so "first" compares every member.
Times are those of the processor, in all threads.

    python -m benchmarks.read.checksums [--count 500]
"""

import argparse
import time
import zlib

from benchmarks.harness.interleave import compare, report
from benchmarks.harness.jpegs import add_options, jpeg_tar
from imagearchive import Archive, Compose, DataLoader, ImageArchive, RandomResizedCrop, convert
from imagearchive.storage.crc import crc32, crc32c

MODES = ("never", "first", "always")
PASSES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.set_defaults(count=500)
    options = parser.parse_args()
    source = jpeg_tar(options)
    path = source.with_suffix(".zip")
    if not path.exists():
        convert(Archive(source), path)
    size = path.stat().st_size // options.count
    transform = Compose([RandomResizedCrop(224)])

    def batches(mode):
        with DataLoader(path, batch_size=64, transform=transform, verify=mode) as loader:
            for _ in loader:
                pass

    def samples(mode):
        with ImageArchive(path, verify=mode) as dataset:
            for index in range(0, options.count, 5):
                dataset[index]

    def copies(mode, passes):
        with Archive(path, verify=mode) as archive:
            for _ in range(passes):
                for position in range(len(archive)):
                    bytes(archive.read(position))

    for title, run, count in (
        ("DataLoader, one epoch", batches, options.count),
        ("dataset[i] with Pillow", samples, options.count // 5),
        ("bytes(archive.read(i)), one pass", lambda mode: copies(mode, 1), options.count),
        (
            f"bytes(archive.read(i)), {PASSES} passes",
            lambda mode: copies(mode, PASSES),
            PASSES * options.count,
        ),
    ):
        # Whichever runs first in a round pays for memory that the system took back.
        contestants = {"": lambda run=run: run("never")}
        contestants |= {mode: lambda mode=mode, run=run: run(mode) for mode in MODES}
        times = compare(contestants, rounds=9, clock=time.process_time)
        del times[""]
        ratios = report(f"{title}, {size / 1000:.0f} kB each", times, "never", count, "image")
        for mode in MODES[1:]:
            print(f"  the price of {mode!r} is {100 * (ratios[mode] - 1):.1f} %")

    data = bytes(path.read_bytes()[:58_000])
    functions = {"zlib.crc32": zlib.crc32, "crc32": crc32, "crc32c": crc32c}

    def repeat(function):
        for _ in range(2000):
            function(data)

    times = compare({name: lambda f=function: repeat(f) for name, function in functions.items()})
    report("checksums of 58 kB", times, "crc32", 2000, "call")


if __name__ == "__main__":
    main()
