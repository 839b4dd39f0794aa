"""Synthetic archives and index tables for the benchmarks."""

from __future__ import annotations

import dataclasses
import os
import tarfile
from collections.abc import Iterable

import numpy as np

from imagearchive.containers.rows import ENTRY_DTYPE
from imagearchive.index.table import IndexTable

__all__ = ["million_names", "synthetic_index", "write_members"]


def write_members(path: str | os.PathLike[str], members: Iterable[tuple[str, bytes]]) -> None:
    """Write a USTAR archive; faster than tarfile because all members share one header."""
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    with open(path, "wb") as file:
        for name, data in members:
            header[:100] = name.encode().ljust(100, b"\0")
            header[124:136] = b"%011o\0" % len(data)
            header[148:156] = b"        "
            header[148:156] = b"%06o\0 " % sum(header)
            file.write(header)
            file.write(data)
            file.write(b"\0" * (-len(data) % 512))
        file.write(b"\0" * 1024)


def million_names(count: int = 1_000_000) -> list[str]:
    """Return names as in a dataset of 1,000 classes, in random order."""
    order = np.random.default_rng(0).permutation(count).tolist()
    return [f"train/n{i % 1000:08d}/n{i % 1000:08d}_{i}.JPEG" for i in order]


def synthetic_index(path: str, count: int) -> None:
    """Save an index of `count` members for an archive that is a sparse file of zeros."""
    size = 1024
    with open(path, "wb") as file:
        file.truncate(size * count)
    entries = np.zeros(count, ENTRY_DTYPE)
    entries["index"] = np.arange(count)
    entries["offset"] = np.arange(count) * size + 512
    entries["header_offset"] = np.arange(count) * size
    entries["size"] = entries["stored_size"] = 512
    width = 20
    digits = np.arange(count, dtype=np.int64)
    names = np.full((count, width), ord("0"), np.uint8)
    for column in range(width - 1, width - 11, -1):
        names[:, column] = ord("0") + digits % 10
        digits //= 10
    names[:, 3] = ord("/")
    columns = {
        "entries": entries,
        "label_values": np.zeros(count),
        "label_offsets": np.arange(count + 1, dtype=np.uint64),
        "names": names.reshape(-1),
        "name_offsets": np.arange(count + 1, dtype=np.uint64) * np.uint64(width),
        "name_order": np.arange(count, dtype=np.uint64),
    }
    # A file of zeros is an empty TAR; its index only lacks the members.
    table = dataclasses.replace(IndexTable.build(path), **columns)
    table.save(os.path.splitext(path)[0] + ".idx.npy")
