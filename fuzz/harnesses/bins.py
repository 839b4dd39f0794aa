"""Split bins."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Hashable, Iterable
from random import Random

from support.memory_location import FILES, OPENED

from fuzz.harness import Harness
from fuzz.harnesses.memory import url
from fuzz.mutation import mutate
from imagearchive.archive.archive import Archive
from imagearchive.containers.bins.writer import write_split_data
from imagearchive.datasets.bins import SplitDataLoader
from imagearchive.errors import CorruptArchiveError, ImageArchiveError


@functools.cache
def _files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "bins")
        write_split_data(target, [bytes([i]) * (i * 7) for i in range(12)], 200)
        found = {}
        for name in sorted(os.listdir(target)):
            with open(os.path.join(target, name), "rb") as file:
                found[name] = file.read()
        return found


class Bins(Harness):
    """Opens bins; an input is their index, and then the first bin."""

    name = "bins"
    smoke_runs = 8_000
    max_size = 1 << 12

    def seeds(self) -> Iterable[bytes]:
        """Return an index and its bin."""
        yield _files()["index.dat"] + b"BIN0" + _files()["bin00000000.dat"]

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change bytes; the index keeps its rows mostly."""
        index, mark, first = data.partition(b"BIN0")
        index = mutate(rng, index, other, self.tokens)
        if rng.random() < 0.9:
            index = index[: len(index) // 12 * 12]
        if rng.random() < 0.2:
            first = mutate(rng, first, other, self.tokens)
        return index + mark + first

    def run(self, data: bytes) -> Hashable:
        """Open the bins as an archive and as a dataset, and read all packets."""
        index, _, first = data.partition(b"BIN0")
        FILES.clear()
        OPENED.clear()
        for name, content in {**_files(), "index.dat": index, "bin00000000.dat": first}.items():
            FILES[f"bins/{name}"] = content
        try:
            archive = Archive(url("bins"), storage="memory")
        except CorruptArchiveError:
            with Archive(url("bins"), storage="memory", strict=False) as archive:
                _read(archive)
            raise
        with archive:
            refused = _read(archive)
        with SplitDataLoader(url("bins")) as packets:
            for i in range(min(len(packets), 20)):
                packets[i]
        return min(len(archive), 16), refused


def _read(archive: Archive) -> int:
    refused = 0
    for position in range(min(len(archive), 20)):
        try:
            archive.read(position)
        except ImageArchiveError:
            refused += 1
    return refused
