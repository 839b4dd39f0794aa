"""Claim: an element of a pickled array is read thousands of times as fast as by `np.load`.

The alternative is ``np.load(path, allow_pickle=True)["images"][i]``, which unpickles all of them.

    python -m benchmarks.read.object_arrays [--count 2000] [--side 224]
"""

from __future__ import annotations

import argparse
import os
import tempfile

import numpy as np

from benchmarks.harness.interleave import compare, report
from imagearchive import LazyNPZDataset


def write(path, count, side):
    """Write images of several sizes and lists of boxes, as data processors save them."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (side + 16, side, 3), np.uint8)
    images, boxes = np.empty(count, object), np.empty(count, object)
    for i in range(count):
        images[i] = noise[: side + i % 16].copy()
        boxes[i] = [[float(i), 2.0, 3.0, 4.0]] * (i % 5)
    np.savez(path, images=images, bboxes=boxes)
    return path


def numpy_element(path, index):
    with np.load(path, allow_pickle=True) as file:
        return file["images"][index]


def opened(path):
    # Delete the index that an earlier call saved.
    os.remove(path[:-4] + ".idx.npy")
    return LazyNPZDataset(path, keys=["images"])[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = write(os.path.join(folder, "x.npz"), arguments.count, arguments.side)
        # Otherwise saving an index would wait for the file that was just written.
        os.sync()
        dataset = LazyNPZDataset(path, keys=["images"]).prepare()
        turn = iter(np.random.default_rng(1).integers(0, arguments.count, 100_000).tolist())
        times = compare(
            {
                "ours, 100 elements": lambda: [dataset[next(turn)]["image"] for _ in range(100)],
                "ours, opening from nothing": lambda: opened(path),
                "ours, opening with its index": lambda: LazyNPZDataset(path, keys=["images"])[0],
                "np.load, 1 element": lambda: numpy_element(path, next(turn)),
            },
            rounds=7,
        )
    element = [value / 100 for value in times.pop("ours, 100 elements")]
    whole = times["np.load, 1 element"]
    report("Random element", {"ours": element, "np.load": whole}, "ours")
    for name in ("ours, opening from nothing", "ours, opening with its index"):
        report("Opening and one element", {name: times[name], "np.load": whole}, name, 1, "file")


if __name__ == "__main__":
    main()
