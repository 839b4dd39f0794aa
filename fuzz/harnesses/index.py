"""Index files, which may come along with the data."""

from __future__ import annotations

import functools
import io
import json
import os
import tempfile
from collections.abc import Hashable, Iterable
from random import Random

import numpy as np
from support.npz import boxes_of
from support.object_arrays import objects

from fuzz.harness import Harness
from fuzz.harnesses.memory import put, url
from fuzz.harnesses.tar import Tar
from fuzz.harnesses.zip import small_zips
from fuzz.mutation import INTERESTING, mutate
from imagearchive.archive.archive import Archive
from imagearchive.arrays.npy import write_array
from imagearchive.datasets.npz.dataset import LazyNPZDataset
from imagearchive.errors import ImageArchiveError
from imagearchive.index.table import IndexTable

_NAMES = ("x.tar", "x.zip", "x.npz")


@functools.cache
def _archives() -> tuple[bytes, ...]:
    file = io.BytesIO()
    columns = {
        "images": np.arange(60, dtype=np.uint8).reshape(4, 15),
        "bboxes": objects(boxes_of(4)),
    }
    np.savez(file, **columns, names=np.array(["a", "b", "c", "d"]))
    return next(iter(Tar().seeds())), next(iter(small_zips())), file.getvalue()


class IndexFile(Harness):
    """Opens a fixed archive by a mutated index; the first byte of an input chooses the archive."""

    name = "index"
    smoke_runs = 25_000
    tokens = (
        b'"sections"', b'"archives"', b'"path"', b'"size"', b'"../', b'"containers"',
        b'"first_file"',
        b'"directories"', b'"name"', b'"tar"', b'"zip"', b'"bins"', b"null", b"[]", b"{}", b"-1",
        b"'<u8'", b"'|S0'", b"(4,)", b"\x93NUMPY",
    )  # fmt: skip

    def seeds(self) -> Iterable[bytes]:
        """Return the indexes that we save."""
        for number, (name, data) in enumerate(zip(_NAMES, _archives())):
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, name)
                index = os.path.join(folder, "x.idx.npy")
                with open(path, "wb") as file:
                    file.write(data)
                # The index records when the archive was changed.
                os.utime(path, ns=(0, 0))
                if name == "x.npz":
                    with LazyNPZDataset(path, ipath=index) as dataset:
                        dataset.prepare()
                else:
                    IndexTable.open(path, index)
                with open(index, "rb") as file:
                    yield bytes([number]) + file.read()

    def mutate(self, rng: Random, data: bytes, other: bytes) -> bytes:
        """Change bytes, or one section as an array, which keeps all headers valid."""
        if rng.random() < 0.4:
            return data[:1] + mutate(rng, data[1:], other[1:], self.tokens)
        try:
            sections = _sections(data[1:])
        except Exception:
            sections = []
        if not sections:
            return data[:1] + mutate(rng, data[1:], other[1:], self.tokens)
        for _ in range(rng.choice((1, 1, 2, 3))):
            _change_section(rng, sections)
        file = io.BytesIO()
        for section in sections:
            write_array(file, section)
        return data[:1] + file.getvalue()

    def run(self, data: bytes) -> Hashable:
        """Load the index, look up and read all members."""
        number, index = data[0] % 3 if data else 0, data[1:]
        name = _NAMES[number]
        stem, _, extension = name.partition(".")
        put(**{f"{stem}_{extension}": _archives()[number], "x.idx_npy": index})
        outcome: list[str] = []
        table = IndexTable.load(url("x.idx.npy"), url(name))
        outcome.append(str(min(len(table), 8)))
        for position in range(min(len(table), 30)):
            found = table.name(position)
            table.find(found)
            table.labels(position)
        table.staleness()
        outcome += _attempt(lambda: _read_archive(name))
        if number == 2:
            outcome += _attempt(_read_dataset)
        return tuple(outcome)


def _attempt(function: object) -> list[str]:
    try:
        function()  # type: ignore[operator]
    except ImageArchiveError as error:
        return [type(error).__name__]
    return ["read"]


def _read_archive(name: str) -> None:
    with Archive(url(name), url("x.idx.npy"), storage="memory") as archive:
        for position in range(min(len(archive), 30)):
            try:
                archive.read(position)
            except ImageArchiveError:
                pass
        list(archive.walk())
        list(archive.dirs())
        archive.glob("**", recursive=True)
        archive.table.check()


def _read_dataset() -> None:
    with LazyNPZDataset(url("x.npz"), ipath=url("x.idx.npy"), storage="memory") as dataset:
        for i in range(min(len(dataset), 4)):
            dataset[i]
        for name in dataset.arrays:
            dataset.arrays[name]


def _sections(data: bytes) -> list[np.ndarray]:
    file = io.BytesIO(data)
    found = []
    while file.tell() < len(data):
        found.append(np.load(file, allow_pickle=False))
    return found


def _change_section(rng: Random, sections: list[np.ndarray]) -> None:
    number = rng.randrange(len(sections))
    section = sections[number] = sections[number].copy()
    kind = rng.random()
    if number == len(sections) - 1 and kind < 0.8:
        sections[number] = _changed_metadata(rng, section)
    elif kind < 0.1:
        sections[number] = section[: rng.randrange(len(section) + 1)]
    elif kind < 0.2:
        sections[number] = np.concatenate([section, section])
    elif section.size:
        target = section.reshape(-1)
        at = rng.randrange(len(target))
        if section.dtype.names:
            target = target[rng.choice(section.dtype.names)]
        bits = 8 * target.dtype.itemsize
        old = int(target[at]) if target.dtype.kind in "iu" else 0
        new = rng.choice((rng.choice(INTERESTING), old + 1, old - 1, 0, old * 2)) % (1 << bits)
        value = np.frombuffer(new.to_bytes(bits // 8, "little"), target.dtype)[0]
        target[at] = value


def _changed_metadata(rng: Random, section: np.ndarray) -> np.ndarray:
    try:
        meta = json.loads(section.tobytes())
        part = meta
        while isinstance(part, dict | list) and part:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            key = rng.choice(keys)
            if rng.random() < 0.4 or not isinstance(part[key], dict | list):
                part[key] = rng.choice(
                    (
                        None,
                        -1,
                        0,
                        1 << 64,
                        1.5,
                        "",
                        "../x",
                        "x.tar",
                        [],
                        {},
                        [None],
                        True,
                        "a\0b",
                        "\ud800",
                    )
                )
                break
            part = part[key]
        return np.frombuffer(json.dumps(meta).encode(), np.uint8)
    except Exception:
        return np.frombuffer(mutate(rng, section.tobytes(), b"", ()), np.uint8)
