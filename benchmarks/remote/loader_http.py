"""Claim: shards on a server with latency are read in any order nearly as fast as in order.

Shards of small images that take 60 kB each, on a server of this machine with a latency, jitter, and
a bandwidth: samples per second of the first epoch, seconds to the first batch, requests and bytes
per sample, and seconds to the first batch after resuming in the middle. webdataset reads the same
shards in order, which is all that it can do, in two processes; it cannot resume in an epoch.

    python -m benchmarks.remote.loader_http [SAMPLES [BANDWIDTH_IN_MB]]
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imagearchive import DataLoader, ImageArchive, Resize, TarWriter

TESTS = Path(__file__).parents[2] / "tests"
MEMBER = 60_000
SHARDS = 4
BATCH = 64
LATENCIES = (0.0, 0.02, 0.1)

Batches = Callable[[], Iterator[Any]]


def main(samples: int, bandwidth: float) -> None:
    sys.path.insert(0, str(TESTS))
    from support.servers.faulty import FaultyServer

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        paths = write_shards(Path(folder), samples)
        with FaultyServer(paths, record=False) as server:
            pattern = server.url(f"train-{{0..{SHARDS - 1}}}.tar")
            ImageArchive(pattern).close()
            print(f"{samples} samples of {MEMBER // 1000} kB, {bandwidth / 1e6:.0f} MB/s")
            print(f"{'latency':>8} {'loader':14} {'samples/s':>9} {'MB/s':>6} {'first':>7}", end="")
            print(f" {'requests':>9} {'bytes':>7} {'resumed':>8}")
            for latency in LATENCIES:
                server.configure(latency=latency, jitter=latency / 10, bandwidth=bandwidth)
                for name, start in readers(pattern).items():
                    measure(server, name, latency, samples, start)


def write_shards(folder: Path, samples: int) -> dict[str, Path]:
    """Write JPEGs that are decoded in no time, with random bytes after their end."""
    random = np.random.default_rng(0)
    paths = {}
    for shard in range(SHARDS):
        path = folder / f"train-{shard}.tar"
        paths[path.name] = path
        with TarWriter(path, index=False) as tar:
            for number in range(shard, samples, SHARDS):
                file = io.BytesIO()
                pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(file, "JPEG")
                image = file.getvalue()
                tar.add(f"c/{number:07}.jpg", image + random.bytes(MEMBER - len(image)))
    return paths


def readers(pattern: str) -> dict[str, Callable[[int], Batches]]:
    """Return, by name, what opens the shards and skips some batches."""

    def ours(shuffle: Any) -> Callable[[int], Batches]:
        def start(skipped: int) -> Batches:
            loader = DataLoader(
                pattern,
                batch_size=BATCH,
                num_workers=2,
                shuffle=shuffle,
                seed=1,
                transform=Resize(16, 16),
                output="numpy",
            )
            if skipped:
                loader.load_state_dict({**loader.state_dict(), "position": skipped * BATCH})
            return lambda: iter(loader)

        return start

    found = {"random": ours(True), "blocks": ours("blocks"), "in order": ours(False)}
    try:
        import webdataset
    except ImportError:
        print("webdataset is not installed")
        return found

    def start(skipped: int) -> Batches:
        dataset = webdataset.WebDataset(pattern, shardshuffle=False).map(decode).batched(BATCH)
        loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=2)

        def batches() -> Iterator[Any]:
            iterator = iter(loader)
            # What has been seen has to be read again.
            for _ in range(skipped):
                next(iterator)
            return iterator

        return batches

    return {**found, "webdataset": start}


def decode(sample: dict[str, Any]) -> tuple[Any]:
    """Decode an image of webdataset."""
    return (np.asarray(Image.open(io.BytesIO(sample["jpg"])).convert("RGB")),)


def measure(
    server: Any, name: str, latency: float, samples: int, start: Callable[[int], Batches]
) -> None:
    before = server.totals
    started = time.perf_counter()
    first = 0.0
    count = 0
    for batch in start(0)():
        first = first or time.perf_counter() - started
        count += len(batch[0])
    elapsed = time.perf_counter() - started
    assert count == samples, (name, count)
    after = server.totals
    requests = (after.requests - before.requests) / samples
    sent = (after.sent - before.sent) / samples
    started = time.perf_counter()
    iterator = start(samples // BATCH // 2)()
    next(iterator)
    resumed = time.perf_counter() - started
    del iterator
    rate = samples / elapsed
    print(
        f"{latency * 1e3:5.0f} ms {name:14} {rate:9.0f} {rate * MEMBER / 1e6:6.0f} {first:6.2f}s "
        f"{requests:9.3f} {sent / MEMBER:6.2f}x {resumed:7.2f}s",
        flush=True,
    )


if __name__ == "__main__":
    given = [float(value) for value in sys.argv[1:]]
    defaults = [8192.0, 200.0]
    samples, megabytes = [*given, *defaults[len(given) :]]
    main(int(samples), megabytes * 1e6)
