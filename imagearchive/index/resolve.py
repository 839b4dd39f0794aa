"""From the raw rows of a scanner to those of an index: what a reader would find on disk.

Names are normalized, of several members of one name the last one holds it, links take the place
of their targets, and what is no file leaves the table.
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
from imagearchive.index.lookup import Lookup
from imagearchive.index.names import gather, is_last_of_name, normalize, normalize_all, sort_names

__all__ = ["Resolved", "resolve"]

# A chain of symbolic links longer than this counts as a loop; the limit of Linux.
MAX_HOPS = 40


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
        targets = np.array([_target(lookup, rows, kinds, int(link)) for link in links], np.int64)
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


def _target(lookup: Lookup, rows: RowBuffer, kinds: npt.NDArray[Any], link: int) -> int:
    """The row of the file that a link leads to, or -1 where it dangles, loops or leads outside."""
    row = link
    for _ in range(MAX_HOPS):
        kind = int(kinds[row])
        if kind == KIND_HARDLINK:
            # At extraction a hard link takes what stood under the name at that moment.
            row = lookup.find(normalize(rows.link(row)), before=row)
        elif kind == KIND_SYMLINK:
            name = _joined(lookup.name(row), rows.link(row))
            row = -1 if name is None else _walk(lookup, rows, kinds, name)
        else:
            return row
        if row < 0:
            return -1
    return -1


def _joined(name: bytes, link: bytes) -> bytes | None:
    """The name that a symbolic link points to; None where it leaves the archive."""
    if link.startswith(b"/"):
        return None
    parts = name.split(b"/")[:-1]
    for part in link.split(b"/"):
        if part == b"..":
            if not parts:
                return None
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _walk(lookup: Lookup, rows: RowBuffer, kinds: npt.NDArray[Any], name: bytes) -> int:
    """The row of a name, some directories of which may be symbolic links; -1 if there is none."""
    for _ in range(MAX_HOPS):
        row = lookup.find(name)
        if row >= 0:
            return row
        parts = name.split(b"/")
        for length in range(1, len(parts)):
            row = lookup.find(b"/".join(parts[:length]))
            if row >= 0 and kinds[row] == KIND_SYMLINK:
                target = _joined(b"/".join(parts[:length]), rows.link(row))
                if target is None:
                    return -1
                name = b"/".join([target, *parts[length:]] if target else parts[length:])
                break
        else:
            return -1
    return -1
