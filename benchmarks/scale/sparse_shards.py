"""Claim: 100,000 shards on a server open in a second and take little memory in each process.

A joined index describes shards that do not exist: nothing but the index is asked for when it is
opened. Each figure is of a process of its own, which has imported the library before: seconds, and
the anonymous memory that is added, which no other process shares; pages of the index are shared.
The order of an epoch is computed for 10^9 samples.

    python -m benchmarks.scale.sparse_shards [SHARDS [SAMPLES_PER_SHARD]]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

import imagearchive
from imagearchive import ImageArchive, ShardedSampler
from imagearchive.containers.registry import container_named
from imagearchive.containers.rows import ENTRY_DTYPE
from imagearchive.index.concatenate import _digest
from imagearchive.index.recorded_files import FILES, describe_files
from imagearchive.index.table import IndexTable
from imagearchive.storage.location import locate

TESTS = Path(__file__).parents[2] / "tests"
MEMBER = 61_440
SAMPLES = 10**9
RANKS = 4096
NAME_BYTES = 17


def main(shards: int, per_shard: int) -> None:
    sys.path.insert(0, str(TESTS))
    from support.servers.faulty import FaultyServer

    with tempfile.TemporaryDirectory() as folder, FaultyServer(record=False) as server:
        os.environ["XDG_CACHE_HOME"] = folder
        pattern = server.url(f"train-{{000000..{shards - 1:06}}}.tar")
        index = Path(folder, "train.idx.npy")
        write_index(index, [server.url(f"train-{n:06}.tar") for n in range(shards)], per_shard)
        server.put({"train.idx.npy": index})
        rows = shards * per_shard
        size = index.stat().st_size
        print(f"{shards:,} shards, {rows:,} samples: {size / rows:.1f} bytes of index per sample")
        # The first process downloads the index.
        run("order", pattern, server.url("train.idx.npy"))
        run("open", pattern, server.url("train.idx.npy"))
        before = server.totals.requests
        print(f"{'step':38} {'seconds':>9} {'private MB':>11}")
        for kind in ("open", "dataset", "order"):
            for step, seconds, memory in run(kind, pattern, server.url("train.idx.npy")):
                print(f"{step:38} {seconds:9.4f} {memory / 1e6:11.1f}")
        print(f"{server.totals.requests - before} requests for these processes")


def write_index(path: Path, urls: list[str], per_shard: int) -> None:
    """Write the joined index of shards that all have the same size."""
    rows = len(urls) * per_shard
    entries = np.zeros(rows, ENTRY_DTYPE)
    number = np.arange(rows, dtype=np.uint64)
    inside = number % np.uint64(per_shard)
    entries["index"] = number
    entries["shard"] = number // np.uint64(per_shard)
    entries["size"] = entries["stored_size"] = MEMBER
    entries["header_offset"] = inside * np.uint64(MEMBER + 512)
    entries["offset"] = entries["header_offset"] + np.uint64(512)
    entries["mode"] = 0o644
    table = IndexTable(
        entries=entries,
        label_values=np.zeros(0, np.float64),
        label_offsets=np.zeros(rows + 1, np.uint64),
        names=names(number, np.uint64(per_shard)),
        name_offsets=np.arange(rows + 1, dtype=np.uint64) * np.uint64(NAME_BYTES),
        name_order=number,
        files=urls,
        meta={"archives": [], "directories": [], "containers": []},
        extra={},
    )
    tar = container_named("tar")
    table.meta["containers"] = [{"name": tar.name, "version": tar.version, "first_file": 0}]
    table.meta["joined"] = table.meta["joined_paths"] = _digest(urls, None, True, "auto")
    size = per_shard * (MEMBER + 512) + 1024
    table.extra = {FILES: describe_files(dict.fromkeys(urls, (size, 'etag="0123456789ab"')))}
    table.save(locate(path))


def names(number: npt.NDArray[np.uint64], per_shard: np.uint64) -> npt.NDArray[np.uint8]:
    """Return names such as ``000123-000045.jpg``, one after the other."""
    text = np.empty((len(number), NAME_BYTES), np.uint8)
    text[:] = np.frombuffer(b"000000-000000.jpg", np.uint8)
    for last, value in ((5, number // per_shard), (12, number % per_shard)):
        for digit in range(6):
            text[:, last - digit] += ((value // np.uint64(10**digit)) % np.uint64(10)).astype("u1")
    return text.reshape(-1)


def run(kind: str, pattern: str, index: str) -> list[tuple[str, float, float]]:
    """Measure in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale.sparse_shards", "--measure", kind, pattern, index],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def anonymous_bytes() -> int:
    """Return how much memory of this process is not that of files."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("the system does not say")


def measure(kind: str, pattern: str, index: str) -> None:
    """Print what the steps of one process take."""
    base = anonymous_bytes()
    found = []

    def note(step: str, started: float) -> None:
        elapsed = time.perf_counter() - started
        found.append((step, elapsed, anonymous_bytes() - base))

    started = time.perf_counter()
    if kind == "open":
        archive = imagearchive.open(pattern, ipath=index, nested="auto")
        note("open", started)
        started = time.perf_counter()
        count = len(archive)
        note("len", started)
        name = archive.name(count // 2)
        started = time.perf_counter()
        assert archive.position(name) == count // 2
        note("look up a name", started)
    elif kind == "dataset":
        dataset = ImageArchive(pattern, ipath=index)
        note("ImageArchive", started)
        started = time.perf_counter()
        iter(ShardedSampler(dataset, rank=RANKS // 2, world_size=RANKS)).__next__()
        note("its first index of an epoch", started)
    else:
        sampler = ShardedSampler(SAMPLES, seed=1, rank=RANKS // 2, world_size=RANKS)
        iterator = iter(sampler)
        next(iterator)
        note(f"order of 10^9, a rank of {RANKS}: first", started)
        started = time.perf_counter()
        for _ in range(10_000):
            next(iterator)
        note("next 10,000", started)
        state = sampler.state_dict()
        started = time.perf_counter()
        other = ShardedSampler(SAMPLES, seed=1, rank=7, world_size=12)
        other.load_state_dict(state)
        next(iter(other))
        note("resume on 12 ranks: first", started)
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        main(*(int(value) for value in [*sys.argv[1:], "100000", "100"][:2]))
