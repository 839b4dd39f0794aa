"""Claim: 10^9 samples in 100,000 shards on a server open in a second, and take little memory.

A joined index describes shards that do not exist: nothing but the index is asked for when it is
opened. Each figure is of a process of its own, which has imported the library before: seconds, and
the anonymous memory that is added, which no other process shares; pages of the index are shared.

There are two indexes: a whole one of 10^7 samples, on the server, and one of 10^9 samples on this
machine, which is a sparse file: only the rows that are looked at are in it. The first process of a
machine that opens a large index checks all of its rows. How long that process takes is printed for
the first index. The second index has no rows that could pass, so its check is left out.

    python -m benchmarks.scale.sparse_shards [SHARDS [SAMPLES_PER_SHARD [SPARSE_PER_SHARD]]]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import imagearchive
from imagearchive import ImageArchive, ShardedSampler
from imagearchive.arrays import npy
from imagearchive.containers.registry import container_named
from imagearchive.containers.rows import ENTRY_DTYPE
from imagearchive.index import column_checks, file_format
from imagearchive.index.concatenate import _digest
from imagearchive.index.recorded_files import FILES, describe_files
from imagearchive.index.table import IndexTable
from imagearchive.storage.location import locate

TESTS = Path(__file__).parents[2] / "tests"
MEMBER = 61_440
RANKS = 4096
NAME_BYTES = 17
# How many rows of the sparse index are there around each place that is looked at, and how many at
# its beginning, where class directories are looked for.
AROUND = 2048
BEGINNING = 1 << 18


def main(shards: int, per_shard: int, sparse: int) -> None:
    sys.path.insert(0, str(TESTS))
    from support.servers.faulty import FaultyServer

    with tempfile.TemporaryDirectory() as folder, FaultyServer(record=False) as server:
        os.environ["XDG_CACHE_HOME"] = folder
        pattern = server.url(f"train-{{000000..{shards - 1:06}}}.tar")
        index = Path(folder, "train.idx.npy")
        urls = [server.url(f"train-{n:06}.tar") for n in range(shards)]
        whole_table(urls, per_shard).write(locate(index))
        server.put({"train.idx.npy": index})
        rows = shards * per_shard
        size = index.stat().st_size
        print(f"{shards:,} shards, {rows:,} samples: {size / rows:.1f} bytes of index per sample")
        # The first process downloads the index, and checks it.
        for step, seconds, memory in run("open", pattern, server.url("train.idx.npy"))[:1]:
            print(f"first process of the machine: {step} {seconds:.2f} s, {memory / 1e6:.1f} MB")
        before = server.totals.requests
        print(f"{'step':38} {'seconds':>9} {'private MB':>11}")
        for kind in ("open", "dataset", "order"):
            for step, seconds, memory in run(kind, pattern, server.url("train.idx.npy")):
                print(f"{step:38} {seconds:9.4f} {memory / 1e6:11.1f}")
        print(f"{server.totals.requests - before} requests for these processes")
        rows = shards * sparse
        index = Path(folder, "sparse.idx.npy")
        write_sparse_index(index, urls, sparse)
        print(f"{rows:,} samples, {index.stat().st_size / rows:.1f} bytes of index per sample")
        for kind in ("open", "dataset", "order"):
            for step, seconds, memory in run(kind, pattern, str(index)):
                print(f"{step:38} {seconds:9.4f} {memory / 1e6:11.1f}")


def whole_table(urls: list[str], per_shard: int) -> IndexTable:
    """Return the joined index of shards that all have the same size."""
    rows = len(urls) * per_shard
    number = np.arange(rows, dtype=np.uint64)
    columns = {
        "entries": np.zeros(rows, ENTRY_DTYPE),
        "label_values": np.zeros(0, np.float64),
        "label_offsets": np.zeros(rows + 1, np.uint64),
        "names": np.empty(rows * NAME_BYTES, np.uint8),
        "name_offsets": np.arange(rows + 1, dtype=np.uint64) * np.uint64(NAME_BYTES),
        "name_order": number,
    }
    fill(columns, 0, rows, per_shard)
    table = IndexTable(
        **columns,
        files=urls,
        meta={"archives": [], "directories": [], "containers": []},
        extra={},
    )
    tar = container_named("tar")
    table.meta["containers"] = [{"name": tar.name, "version": tar.version, "first_file": 0}]
    table.meta["joined"] = table.meta["joined_paths"] = _digest(urls, None, True, "auto")
    size = per_shard * (MEMBER + 512) + 1024
    table.extra = {FILES: describe_files(dict.fromkeys(urls, (size, 'etag="0123456789ab"')))}
    return table


def fill(columns: dict[str, npt.NDArray[Any]], start: int, stop: int, per_shard: int) -> None:
    """Write some rows of the columns of an index."""
    number = np.arange(start, stop, dtype=np.uint64)
    entries = columns["entries"][start:stop]
    entries["index"] = number
    entries["shard"] = number // np.uint64(per_shard)
    entries["size"] = entries["stored_size"] = MEMBER
    entries["header_offset"] = number % np.uint64(per_shard) * np.uint64(MEMBER + 512)
    entries["offset"] = entries["header_offset"] + np.uint64(512)
    entries["mode"] = 0o644
    columns["name_order"][start:stop] = number
    columns["name_offsets"][start : stop + 1] = np.arange(
        start, stop + 1, dtype=np.uint64
    ) * np.uint64(NAME_BYTES)
    columns["names"][start * NAME_BYTES : stop * NAME_BYTES] = names(number, np.uint64(per_shard))


def write_sparse_index(path: Path, urls: list[str], per_shard: int) -> None:
    """Write the joined index of as many rows, of which only those that are looked at are there."""
    rows = len(urls) * per_shard
    table = whole_table(urls, 1)
    lengths = {"entries": rows, "names": rows * NAME_BYTES, "name_order": rows}
    lengths |= {"name_offsets": rows + 1, "label_offsets": rows + 1}
    places: dict[str, tuple[int, np.dtype[Any], int]] = {}
    with path.open("wb") as file:
        for name in column_checks.COLUMNS:
            column = getattr(table, name)
            length = lengths.get(name, len(column))
            file.write(npy.build_header(column.dtype, (length,), at=file.tell()))
            places[name] = file.tell(), column.dtype, length
            file.truncate(file.tell() + length * column.itemsize)
            file.seek(0, os.SEEK_END)
        npy.write_array(file, table.extra[FILES])
        # No section is compared with its checksum.
        sections = [{"name": name, "crc32": 0} for name in (*column_checks.COLUMNS, FILES)]
        meta = {"format": file_format.FORMAT, "version": file_format.VERSION, "sections": sections}
        text = json.dumps({**table.meta, **meta}).encode()
        npy.write_array(file, np.frombuffer(text, np.uint8))
    columns = {
        name: np.memmap(path, dtype, "r+", start, (length,))
        for name, (start, dtype, length) in places.items()
        if length
    }
    fill(columns, 0, min(BEGINNING, rows), per_shard)
    for row in looked_at(rows):
        fill(columns, max(0, row - AROUND), min(rows, row + AROUND), per_shard)


def looked_at(rows: int) -> list[int]:
    """Return the rows that are compared when the name of the first third is looked up."""
    low, high, found = 0, rows, [rows - 1]
    while low < high:
        found.append((low + high) // 2)
        if found[-1] < wanted_row(rows):
            low = found[-1] + 1
        else:
            high = found[-1]
    return found


def wanted_row(rows: int) -> int:
    """Return the row whose name is looked up."""
    return rows // 3


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


class EverythingPassed:
    """Says that every index was checked before."""

    def get(self, key: str) -> bool:
        return True


def measure(kind: str, pattern: str, index: str) -> None:
    """Print what the steps of one process take."""
    if not index.startswith("http"):
        # As if it had been checked: a sparse index has no rows to pass.
        column_checks._passed = EverythingPassed()
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
        name = archive.name(wanted_row(count))
        started = time.perf_counter()
        assert archive.position(name) == wanted_row(count)
        note("look up a name", started)
    elif kind == "dataset":
        dataset = ImageArchive(pattern, ipath=index)
        note("ImageArchive", started)
        started = time.perf_counter()
        iter(ShardedSampler(dataset, rank=RANKS // 2, world_size=RANKS)).__next__()
        note("its first index of an epoch", started)
    else:
        count = 10**9
        sampler = ShardedSampler(count, seed=1, rank=RANKS // 2, world_size=RANKS)
        iterator = iter(sampler)
        next(iterator)
        note(f"order of 10^9, a rank of {RANKS}: first", started)
        started = time.perf_counter()
        for _ in range(10_000):
            next(iterator)
        note("next 10,000", started)
        state = sampler.state_dict()
        started = time.perf_counter()
        other = ShardedSampler(count, seed=1, rank=7, world_size=12)
        other.load_state_dict(state)
        next(iter(other))
        note("resume on 12 ranks: first", started)
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        given, defaults = [int(value) for value in sys.argv[1:]], [100_000, 100, 10_000]
        main(*given, *defaults[len(given) :])
