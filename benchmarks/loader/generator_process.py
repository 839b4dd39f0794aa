"""Claim: `MpQItr` passes batches from another process many times as fast as ``splitdataloader``.

Small items, where the two are about equal, are measured too.

    python -m benchmarks.loader.generator_process
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import splitdataloader as peer

from benchmarks.harness.interleave import compare, report
from imagearchive.loader.generator_process import MpQItr

BATCHES = 60
SMALL = 20_000


def batches(count: int) -> Iterator[dict[str, np.ndarray]]:
    images = np.zeros((64, 3, 224, 224), np.uint8)
    for number in range(count):
        images[0, 0, 0, 0] = number
        yield {"images": images, "labels": np.zeros(64, np.int64)}


def consume(iterable: object) -> int:
    return sum(int(item["images"][0, 0, 0, 0]) for item in iterable)  # type: ignore[attr-defined]


def main() -> None:
    times = compare(
        {
            "MpQItr": lambda: consume(MpQItr(batches, BATCHES)),
            "splitdataloader.MpQItr": lambda: consume(peer.MpQItr(batches, BATCHES)),
        },
        rounds=5,
    )
    report("batches of 64 x 3 x 224 x 224 bytes", times, "MpQItr", BATCHES, "batch")
    times = compare(
        {
            "MpQItr": lambda: sum(MpQItr(range, SMALL)),
            "splitdataloader.MpQItr": lambda: sum(peer.MpQItr(range, SMALL)),
        },
        rounds=5,
    )
    report("integers", times, "MpQItr", SMALL)


if __name__ == "__main__":
    main()
