"""Claim: `SplitDataLoader[i]` is 6 to 19 times as fast as that of the package ``splitdataloader``.

`iterate_binwise` is never slower, however few packets a bin holds. `write_split_data` is measured
too.

    python -m benchmarks.read.split_bins
"""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial

import splitdataloader as peer

from benchmarks.harness.interleave import compare, report
from imagearchive.containers.bins.writer import write_split_data
from imagearchive.datasets.bins import SplitDataLoader

READS = 2_000
# Size and number: packets of 58 kB that the processor's cache holds, and ten times what it holds.
SETS = {
    "300 B, 14 MB in all": (300, 40_000),
    "58 kB, 13 MB in all": (58_000, 200),
    "58 kB, 260 MB in all": (58_000, 4_000),
}
# Packets of 300 B per bin, and the number of bins.
BINS = ((1.5, 1_000), (10, 300), (1_000, 20))


def measure_bins(per_bin: float, bins: int, folder: str) -> None:
    """Compare the processor's time, as the smallest bins take no longer than opening a file."""
    packets = [random.Random(0).randbytes(300)] * int(per_bin * bins)
    write_split_data(f"{folder}/set", packets, splits=bins)
    theirs = peer.SplitDataLoader(f"{folder}/set")
    with SplitDataLoader(f"{folder}/set") as ours:
        for shuffle in (False, True):
            order = "shuffled" if shuffle else "as stored"
            times = compare(
                {
                    "iterate_binwise": partial(drain, ours, shuffle),
                    "splitdataloader": partial(drain, theirs, shuffle),
                },
                clock=time.process_time,
            )
            report(
                f"{per_bin} packets in each of {bins} bins, {order}, CPU",
                times,
                "iterate_binwise",
                bins,
                "bin",
            )


def drain(loader: SplitDataLoader | peer.SplitDataLoader, shuffle: bool) -> int:
    return sum(map(len, loader.iterate_binwise(shuffle)))


def measure(title: str, size: int, count: int, folder: str) -> None:
    rng = random.Random(0)
    packets = [rng.randbytes(size + rng.randrange(size // 4)) for _ in range(count)]
    picks = [rng.randrange(count) for _ in range(READS)]
    write_split_data(f"{folder}/set", packets)
    ours, theirs = SplitDataLoader(f"{folder}/set"), peer.SplitDataLoader(f"{folder}/set")
    target = memoryview(bytearray(2 * size))

    def copied(data: bytes | memoryview) -> int:
        target[: len(data)] = data
        return len(data)

    times = compare(
        {
            "SplitDataLoader[i]": lambda: [len(ours[i]) for i in picks],
            "SplitDataLoader.read(i), no copy": lambda: [len(ours.read(i)) for i in picks],
            "SplitDataLoader.read(i), copied to one place": lambda: [
                copied(ours.read(i)) for i in picks
            ],
            "splitdataloader[i]": lambda: [len(theirs[i]) for i in picks],
            "limit: a copy from memory": lambda: [
                len(bytes(memoryview(packets[i]))) for i in picks
            ],
        }
    )
    report(f"random packets of {title}, 128 bins", times, "SplitDataLoader[i]", READS)
    times = compare(
        {
            "iterate_binwise": lambda: sum(map(len, ours.iterate_binwise(True, 0))),
            "splitdataloader": lambda: sum(map(len, theirs.iterate_binwise(True))),
        }
    )
    report(f"binwise, shuffled, {title}", times, "iterate_binwise", count)
    ours.close()
    counter = itertools.count()

    def written(write: Callable[..., None]) -> None:
        write(f"{folder}/new{next(counter)}", packets, splits=128)

    times = compare(
        {
            "write_split_data (with fsync)": lambda: written(write_split_data),
            "splitdataloader (without)": lambda: written(peer.write_split_data),
        },
        rounds=3,
    )
    report(f"writing packets of {title}", times, "write_split_data (with fsync)", count)


def main() -> None:
    for per_bin, bins in BINS:
        with tempfile.TemporaryDirectory() as folder:
            measure_bins(per_bin, bins, folder)
    for title, (size, count) in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            measure(title, size, count, folder)


if __name__ == "__main__":
    main()
