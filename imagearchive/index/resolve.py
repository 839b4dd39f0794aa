"""From the raw rows of a scanner to those of an index: what a reader would find on disk.

Names are normalized, of several members of one name the last one holds it, links take the place
of their targets, and what is not a file leaves the table.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.containers.rows import (
    KIND_DIRECTORY,
    KIND_ENCRYPTED,
    KIND_FILE,
    KIND_HARDLINK,
    KIND_SPARSE,
    KIND_SYMLINK,
    RowBuffer,
)
from imagearchive.index.links import link_targets
from imagearchive.index.lookup import Lookup
from imagearchive.index.names import gather, is_last_of_name, normalize_all, sort_names

__all__ = ["Resolved", "resolve"]


class Resolved(NamedTuple):
    """The columns of an index table; see `imagearchive.index.table.IndexTable`."""

    entries: npt.NDArray[Any]
    names: npt.NDArray[np.uint8]
    name_offsets: npt.NDArray[np.uint64]
    name_order: npt.NDArray[np.uint64]
    directories: list[bytes]
    """Directories that the archive names and that hold no file, sorted."""


def resolve(rows: RowBuffer) -> Resolved:
    """Turn raw rows into the columns of an index table."""
    count = rows.rows
    entries = rows.entries[:count]
    names, offsets = normalize_all(
        rows.names[: rows.name_bytes], rows.name_ends[:count], rows.link_ends[:count]
    )
    order = sort_names(names, offsets)
    kinds = entries["kind"]
    holds = is_last_of_name(names, offsets, order)
    links = np.flatnonzero((kinds == KIND_HARDLINK) | (kinds == KIND_SYMLINK))
    if len(links):
        lookup = Lookup(entries, names, offsets, order)
        entries = entries.copy()
        targets = link_targets(rows, lookup, links)
        found = targets >= 0
        entries[links[found]] = rows.entries[:count][targets[found]]
        kinds = entries["kind"]
    readable = (kinds == KIND_FILE) | (kinds == KIND_SPARSE) | (kinds == KIND_ENCRYPTED)
    live = np.flatnonzero(readable & holds).astype(np.uint64)
    named = np.flatnonzero((kinds == KIND_DIRECTORY) & holds)
    directories = [
        names[int(offsets[row]) : int(offsets[row + 1])].tobytes() for row in named.tolist()
    ]
    if len(live) < count:
        entries = entries[live]
        position = np.cumsum(readable & holds, dtype=np.uint64) - 1
        order = position[order[(readable & holds)[order]]]
        names, offsets = gather(names, offsets, live)
    elif entries.base is not None:
        entries = entries.copy()
    entries["index"] = np.arange(len(entries), dtype=np.uint64)
    if directories:
        lookup = Lookup(entries, names, offsets, order)
        directories = sorted(
            name
            for name in directories
            if name and lookup.bounds(name + b"/")[0] == lookup.bounds(name + b"/")[1]
        )
    return Resolved(entries, names, offsets, order, directories)
