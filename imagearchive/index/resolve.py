"""From the raw rows of a scanner to those of an index: what a reader would find on disk.

Names are normalized, of several members of one name the last one holds it, links take the place
of their targets, links to directories are followed, and what is not a file or has no name leaves
the table.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.containers.left_out import CONTINUATION, NO_NAME, REPLACED, SPECIAL, LeftOut
from imagearchive.containers.packed_rows import PackedRows
from imagearchive.containers.rows import (
    ENTRY_DTYPE,
    KIND_CONTINUATION,
    KIND_DIRECTORY,
    KIND_ENCRYPTED,
    KIND_FILE,
    KIND_HARDLINK,
    KIND_OTHER,
    KIND_SPARSE,
    KIND_SYMLINK,
    RowBuffer,
)
from imagearchive.index.linked_directories import LinkedPart, append_linked, linked_files
from imagearchive.index.links import LinkTargets, link_targets
from imagearchive.index.lookup import Lookup
from imagearchive.index.name_order import is_last_of_name, sort_and_compare_names, sort_names
from imagearchive.index.names import gather, normalize_all

__all__ = ["Resolved", "files_alone", "name_lookup", "resolve"]

# The kinds of members.
_READABLE = frozenset({KIND_FILE, KIND_SPARSE, KIND_ENCRYPTED})
_LINKS = frozenset({KIND_HARDLINK, KIND_SYMLINK})
# The rows of a scanner are not copied if its memory is at most so many times as large.
_MAX_SPARE = 1.25


class Resolved(NamedTuple):
    """The columns of an index table; see `imagearchive.index.table.IndexTable`."""

    entries: npt.NDArray[Any]
    names: npt.NDArray[np.uint8]
    name_offsets: npt.NDArray[np.uint64]
    name_order: npt.NDArray[np.uint64]
    directories: list[bytes]
    """Directories that the archive names and that hold no file, sorted."""
    left_out: LeftOut
    """The members that have no row, and why."""
    packed: PackedRows | None = None
    """The entries if they are still packed; `entries` is empty then."""


def resolve(
    rows: RowBuffer, *, keep_packed: bool = False, files: PackedRows | None = None
) -> Resolved:
    """Turn raw rows into the columns of an index table.

    Parameters
    ----------
    rows : RowBuffer
    keep_packed : bool
        Leave the entries packed if the rows are packed and none is a link.
    files : PackedRows, optional
        What `files_alone` returned, which becomes the entries if they are those.
    """
    count = rows.rows
    names, offsets = normalize_all(
        rows.names[: rows.name_bytes], rows.name_ends[:count], rows.link_ends[:count]
    )
    order, distinct = sort_and_compare_names(names, offsets)
    is_nameless = offsets[1:] == offsets[:-1]
    every_name_counts = distinct and not is_nameless.any()
    packed = rows.packed_entries() if keep_packed else None
    if packed is not None and packed.kinds & _LINKS:
        # The rows of targets are looked up by number.
        packed = None
    entries = np.empty(0, ENTRY_DTYPE) if packed is not None else rows.entries[:count]
    if packed is not None and every_name_counts and packed.kinds <= _READABLE:
        return Resolved(entries, names, offsets, order, [], rows.left_out, packed)
    kinds = _kinds(entries, packed)
    if packed is None and every_name_counts and _are_readable(kinds).all():
        # Nearly every archive: each row is that of a member.
        entries = _without_spare(entries, rows)
        entries["index"] = np.arange(count, dtype=np.uint64)
        return Resolved(entries, names, offsets, order, [], rows.left_out)
    holds = ~is_nameless
    if not distinct:
        holds &= is_last_of_name(names, offsets, order)
    links = np.flatnonzero((kinds == KIND_HARDLINK) | (kinds == KIND_SYMLINK))
    targets = LinkTargets(np.empty(0, np.int64), {}, {})
    if len(links):
        lookup = Lookup(entries, names, offsets, order)
        entries = entries.copy()
        targets = link_targets(rows, lookup, links)
        found = targets.rows >= 0
        entries[links[found]] = rows.entries[:count][targets.rows[found]]
        kinds = np.ascontiguousarray(entries["kind"])
    is_live = _are_readable(kinds) & holds
    is_named = (kinds == KIND_DIRECTORY) & holds
    directories = [
        names[int(offsets[row]) : int(offsets[row + 1])].tobytes()
        for row in np.flatnonzero(is_named).tolist()
    ]
    reasons = {row: reason for row, reason in targets.reasons.items() if holds[row]}
    parts: list[LinkedPart] = []
    if targets.directories:
        held = {row: target for row, target in targets.directories.items() if holds[row]}
        linked = linked_files((names, offsets, order), lookup, is_live, is_named, held)
        parts = linked.parts
        directories += linked.directories
        reasons |= linked.reasons
    left_out = rows.left_out
    # Packed rows are those of one file.
    shards = entries["shard"] if packed is None else np.zeros(count, np.uint32)
    nameless = np.flatnonzero(is_nameless & (kinds != KIND_DIRECTORY))
    for row in nameless[: left_out.max_listed].tolist():
        left_out.add(rows.name(row), NO_NAME, int(shards[row]))
    left_out.add_count(NO_NAME, len(nameless[left_out.max_listed :]))
    is_replaced = ~holds & ~is_nameless & (kinds != KIND_DIRECTORY)
    left_out.add_rows(names, offsets, is_replaced, REPLACED, shards)
    for kind, reason in ((KIND_OTHER, SPECIAL), (KIND_CONTINUATION, CONTINUATION)):
        left_out.add_rows(names, offsets, (kinds == kind) & holds, reason, shards)
    for row, reason in sorted(reasons.items()):
        left_out.add(_name(names, offsets, row), reason, int(shards[row]))
    live = np.flatnonzero(is_live).astype(np.uint64)
    if parts:
        entries, names, offsets = append_linked(entries, names, offsets, live, parts)
        order = sort_names(names, offsets)
        # A member may be stored below the name of a link.
        last = is_last_of_name(names, offsets, order)
        if not last.all():
            left_out.add_count(REPLACED, int((~last).sum()))
            entries = entries[last]
            names, offsets = gather(names, offsets, np.flatnonzero(last).astype(np.uint64))
            order = sort_names(names, offsets)
    elif len(live) < count:
        if packed is not None:
            # If there are as many, they are the same: a live row is that of a file.
            is_selected = files is not None and len(files) == len(live)
            packed = files if is_selected else packed.select(is_live)
        else:
            entries = entries[live]
        position = np.cumsum(is_live, dtype=np.uint64) - 1
        order = position[order[is_live[order]]]
        names, offsets = gather(names, offsets, live)
    elif packed is None:
        entries = _without_spare(entries, rows)
    entries["index"] = np.arange(len(entries), dtype=np.uint64)
    if directories:
        lookup = name_lookup(names, offsets, order)
        directories = sorted(
            name
            for name in set(directories)
            if name and lookup.bounds(name + b"/")[0] == lookup.bounds(name + b"/")[1]
        )
    return Resolved(entries, names, offsets, order, directories, left_out, packed)


def files_alone(rows: RowBuffer) -> PackedRows | None:
    """Return the rows of files if the other rows are directories, and most rows are packed.

    They are those of the index, unless a name occurs twice or is empty.
    """
    packed = rows.packed_entries()
    if packed is None or packed.kinds <= _READABLE:
        return packed
    if packed.kinds <= _READABLE | {KIND_DIRECTORY}:
        return packed.select(_are_readable(_kinds(rows.window, packed)))
    return None


def name_lookup(
    names: npt.NDArray[np.uint8], offsets: npt.NDArray[np.uint64], order: npt.NDArray[np.uint64]
) -> Lookup:
    """Return a lookup of names alone, whose rows are zeros: memory that nobody touches."""
    return Lookup(np.zeros(len(order), ENTRY_DTYPE), names, offsets, order)


def _kinds(entries: npt.NDArray[Any], packed: PackedRows | None) -> npt.NDArray[np.uint16]:
    """Return the kinds of all rows, contiguous, since they are compared many times."""
    if packed is None:
        return np.ascontiguousarray(entries["kind"])
    return np.concatenate([rows["kind"].copy() for rows in packed.chunks()])


def _are_readable(kinds: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    readable: npt.NDArray[np.bool_]
    readable = (kinds == KIND_FILE) | (kinds == KIND_SPARSE) | (kinds == KIND_ENCRYPTED)
    return readable


def _without_spare(entries: npt.NDArray[Any], rows: RowBuffer) -> npt.NDArray[Any]:
    """Return the entries, copied if they would keep much more memory of the scanner."""
    is_view = entries.base is not None
    return entries.copy() if is_view and _MAX_SPARE * len(entries) < len(rows.entries) else entries


def _name(names: npt.NDArray[np.uint8], offsets: npt.NDArray[np.uint64], row: int) -> bytes:
    return names[int(offsets[row]) : int(offsets[row + 1])].tobytes()
