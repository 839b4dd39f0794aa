"""Claim: shards on a server with latency are read in any order nearly as fast as in order.

Small images that take 60 kB each, on a server of this machine with a latency, jitter, and a
bandwidth; for our loader, also such of 1 MB. For our loader and others, each with two workers and
the same images:

- samples and megabytes per second of the first epoch, and seconds to its first batch, from opening
  on; our shards have their index, as those of litdata and MosaicML streaming do;
- requests and bytes per sample, in sizes of a sample;
- samples per second of the second epoch, for those that have a cache;
- seconds to the first batch after resuming in the middle, with an empty cache.

In the end, the second epoch from our cache is compared with an epoch from the local file, with
images of about 100 kB that take as long to decode as photographs do.

    python -m benchmarks.remote.loader_http [SAMPLES [BANDWIDTH_IN_MB]]
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness.interleave import compare, report
from benchmarks.harness.jpegs import jpeg_tar
from benchmarks.harness.remote_peers import BATCH, BUCKET, WORKERS, Session, installed_peers
from imagearchive import DataLoader, ImageArchive, Resize, TarWriter

TESTS = Path(__file__).parents[2] / "tests"
MEMBER = 60_000
# Bytes and number of large samples, and the orders in which they are read.
LARGE = 1_000_000
LARGE_SAMPLES = 2048
LARGE_ORDERS = ("blocks", "in order")
SHARDS = 4
LATENCIES = (0.0, 0.02, 0.1)
# Images and rounds of the comparison of the second epoch with a local file.
PHOTOS = 1024
ROUNDS = 5

#: Opens a reader, given a folder for its cache, and a state or None.
Opens = Callable[[Path, Any], Session]


def main(samples: int, bandwidth: float) -> None:
    sys.path.insert(0, str(TESTS))
    from support.servers.faulty import FaultyServer

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "user")
        objects = write_shards(folder, "train", samples, MEMBER)
        objects |= write_shards(folder, "large", LARGE_SAMPLES, LARGE)
        peers = installed_peers()
        for number, peer in enumerate(peers):
            part = folder / f"{BUCKET}-{number}"
            peer.write(part, images(samples, MEMBER))
            if part.exists():
                objects |= {f"{BUCKET}/{number}/{path.name}": path for path in part.iterdir()}
        with FaultyServer(objects, record=False) as server:
            pattern, large = (
                server.url(f"{name}-{{0..{SHARDS - 1}}}.tar") for name in ("train", "large")
            )
            for one in (pattern, large):
                ImageArchive(one).close()
            readers = our_readers(pattern)
            large_readers = our_readers(large)
            for number, peer in enumerate(peers):
                shards = peer.package == "webdataset"
                url = pattern if shards else server.url(f"{BUCKET}/{number}")
                readers[peer.name] = lambda cache, state, peer=peer, url=url: peer.open(
                    url, cache, state
                )
            print(f"{samples} samples of {MEMBER // 1000} kB, {bandwidth / 1e6:.0f} MB/s")
            print(f"{'latency':>8} {'loader':18} {'samples/s':>9} {'MB/s':>6} {'first':>7}", end="")
            print(f" {'requests':>9} {'bytes':>7} {'2nd epoch':>10} {'resumed':>8}")
            for latency in LATENCIES:
                server.configure(latency=latency, jitter=latency / 10, bandwidth=bandwidth)
                for reader, opens in readers.items():
                    row = measure(server, reader, samples, MEMBER, opens)
                    print(f"{latency * 1e3:5.0f} ms {reader:18} {row}", flush=True)
                for reader in LARGE_ORDERS:
                    row = measure(server, reader, LARGE_SAMPLES, LARGE, large_readers[reader])
                    print(f"{latency * 1e3:5.0f} ms {f'1 MB, {reader}':18} {row}", flush=True)
            compare_with_local_file(server, folder)


def images(samples: int, size: int) -> Iterator[bytes]:
    """Make JPEGs that are decoded in no time, with random bytes after their end."""
    random = np.random.default_rng(0)
    for _ in range(samples):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(file, "JPEG")
        image = file.getvalue()
        yield image + random.bytes(size - len(image))


def write_shards(folder: Path, name: str, samples: int, size: int) -> dict[str, Path]:
    """Write images of a size into TARs; return their paths by name."""
    names = [f"{name}-{shard}.tar" for shard in range(SHARDS)]
    paths = {name: folder / name for name in names}
    writers = [TarWriter(path, index=False) for path in paths.values()]
    for number, image in enumerate(images(samples, size)):
        writers[number % SHARDS].add(f"c/{number:07}.jpg", image)
    for writer in writers:
        writer.close()
    return paths


def our_loader(pattern: str, shuffle: Any, cache: Path | None = None, size: int = 16) -> DataLoader:
    return DataLoader(
        pattern,
        batch_size=BATCH,
        num_workers=WORKERS,
        shuffle=shuffle,
        seed=1,
        transform=Resize(size, size),
        output="numpy",
        cache_dir=cache,
    )


def our_readers(pattern: str) -> dict[str, Opens]:
    """Return, by name, what opens the shards with our loader."""

    def ours(shuffle: Any, cached: bool = False) -> Opens:
        def opens(cache: Path, state: Any) -> Session:
            loader = our_loader(pattern, shuffle, cache if cached else None)
            if state is not None:
                loader.load_state_dict(state)
            return Session(lambda: (batch[0] for batch in loader), loader.state_dict)

        return opens

    return {
        "random": ours(True),
        "blocks": ours("blocks"),
        "in order": ours(False),
        "random, cache": ours(True, cached=True),
        "blocks, cache": ours("blocks", cached=True),
    }


def measure(server: Any, name: str, samples: int, size: int, opens: Opens) -> str:
    """Read two epochs, and begin another one in the middle; return the columns of the table."""
    settle(server)
    columns, state = read_two_epochs(server, name, samples, size, opens)
    # What the first session shares with its workers must be gone, or it answers for the next one.
    gc.collect()
    settle(server)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        started = time.perf_counter()
        next(opens(Path(cache), state).batches())
        resumed = time.perf_counter() - started
        gc.collect()
    return f"{columns} {resumed:7.2f}s"


def settle(server: Any) -> None:
    """Wait until the server has sent what readers requested ahead that were given up."""
    sent = -1
    while sent != server.totals.sent:
        sent = server.totals.sent
        time.sleep(0.2)


def read_two_epochs(
    server: Any, name: str, samples: int, size: int, opens: Opens
) -> tuple[str, Any]:
    """Return the columns about them, and the state in the middle of the first one."""
    state: Any = None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        before = server.totals
        started = time.perf_counter()
        session = opens(Path(cache), None)
        first, count = 0.0, 0
        for number, batch in enumerate(session.batches(), 1):
            first = first or time.perf_counter() - started
            count += len(batch)
            if number == samples // BATCH // 2:
                state = session.state()
        rate = samples / (time.perf_counter() - started)
        assert count == samples, (name, count)
        after = server.totals
        second = f"{'-':>10}"
        # Those without a cache read everything again.
        if any(Path(cache).iterdir()):
            started = time.perf_counter()
            count = sum(len(batch) for batch in session.batches())
            second = f"{count / (time.perf_counter() - started):10.0f}"
            assert count == samples, (name, count)
    requests = (after.requests - before.requests) / samples
    sent = (after.sent - before.sent) / samples / size
    columns = f"{rate:9.0f} {rate * size / 1e6:6.0f} {first:6.2f}s {requests:9.3f} {sent:6.2f}x"
    return f"{columns} {second}", state


def compare_with_local_file(server: Any, folder: Path) -> None:
    """Compare a second epoch from the cache with one from the file itself, in random order."""
    path = jpeg_tar(argparse.Namespace(cache=folder, photos=None, count=PHOTOS))
    server.put({"photos.tar": path})
    remote = our_loader(server.url("photos.tar"), True, folder / "cache", 224)
    local = our_loader(str(path), True, size=224)
    times = compare({"cache": lambda: list(remote), "local file": lambda: list(local)}, ROUNDS)
    report("Second epoch of photographs, in random order", times, "cache", PHOTOS, "sample")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning)
    given = [float(value) for value in sys.argv[1:]]
    defaults = [16384.0, 200.0]
    samples, megabytes = [*given, *defaults[len(given) :]]
    main(int(samples), megabytes * 1e6)
