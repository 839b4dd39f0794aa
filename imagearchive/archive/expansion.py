"""What an archive describes beyond the bytes that it holds: repeated content, overlaps, holes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.containers.rows import KIND_SPARSE
from imagearchive.errors import LimitError
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.limits import RATIO_FLOOR, Limits, limit_hint

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["Expansion", "check_expansion", "find_repeats", "measure_expansion"]

# Members that agree in these are one stored file under several names.
_CONTENT = ("shard", "offset", "header_offset", "size", "stored_size", "method", "kind")


class Expansion(NamedTuple):
    """How much some members take, and how much of it the archive holds.

    Attributes
    ----------
    size : int
        Bytes of all of the members. A compressed one counts with its compressed bytes, as
        decompression has limits of its own.
    held : int
        Bytes of the archive that belong to at least one of them.
    """

    size: int
    held: int


def find_repeats(archive: Archive, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Find members that are the same stored file as an earlier one, as hard links are.

    Parameters
    ----------
    archive : Archive
    positions : ndarray of int64, shape (n,)

    Returns
    -------
    ndarray of int64, shape (n,)
        For each of them the index in `positions` of the first with the same content: its own
        where there is none before. Empty members and files of a directory repeat nothing.
    """
    count = len(positions)
    first = np.arange(count)
    candidates = np.flatnonzero(_takes_space(archive, positions))
    rows = archive.table.entries[positions[candidates]]
    # Most archives have no two members at the same offset.
    order = np.lexsort((candidates, rows["offset"], rows["shard"]))
    ordered = rows[order]
    same = np.ones(max(len(order) - 1, 0), np.bool_)
    for name in _CONTENT:
        same &= ordered[name][1:] == ordered[name][:-1]
    if not same.any():
        return first
    starts = np.concatenate([[True], ~same])
    group = np.cumsum(starts) - 1
    first[candidates[order]] = candidates[order][starts][group]
    return first


def measure_expansion(
    archive: Archive, positions: npt.NDArray[np.int64], *, holes: bool
) -> Expansion:
    """Compare what members take with the bytes of the archive that they are made of.

    Files of a directory are left out of both. `holes` says whether those of sparse files count.
    """
    rows = archive.table.entries[positions[_takes_space(archive, positions)]]
    stored = rows["stored_size"].astype(np.int64)
    sizes = np.where(holes & (rows["kind"] == KIND_SPARSE), rows["size"], rows["stored_size"])
    held = 0
    order = np.lexsort((rows["offset"], rows["shard"]))
    shards = rows["shard"][order]
    for part in np.split(order, np.flatnonzero(shards[1:] != shards[:-1]) + 1):
        if not len(part):
            continue
        starts = rows["offset"][part].astype(np.int64)
        ends = np.maximum.accumulate(starts + stored[part])
        begins = np.maximum(starts, np.concatenate([starts[:1], ends[:-1]]))
        held += int(np.maximum(ends - begins, 0).sum())
    # As Python integers, since sparse files may claim exbibytes.
    return Expansion(sum(sizes.tolist()), held)


def check_expansion(
    archive: Archive,
    positions: Sequence[int] | npt.NDArray[np.int64],
    limits: Limits,
    *,
    holes: bool = True,
) -> None:
    """Refuse to write members that take far more than the archive holds of them.

    Parameters
    ----------
    archive : Archive
    positions : sequence of int
    limits : Limits
        ``max_ratio`` counts for all of them together, above 64 MiB.
    holes : bool
        Whether the holes of sparse files are written as zeros.

    Raises
    ------
    LimitError
    """
    size, held = measure_expansion(archive, np.asarray(positions, np.int64), holes=holes)
    if size > max(RATIO_FLOOR, held * limits.max_ratio):
        raise LimitError(
            f"{archive.path}: the members take {pluralize(size, 'byte')}, of which the archive "
            f"holds only {held}: it has sparse files, links to one file, or members that overlap",
            hints=[limit_hint("max_ratio", limits.max_ratio)],
        )


def _takes_space(archive: Archive, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each member has bytes in a file that it shares with others."""
    table = archive.table
    rows = table.entries[positions]
    takes: npt.NDArray[np.bool_] = rows["size"] > 0
    if any(container.members_are_files for container in table.containers):
        for shard in np.unique(rows["shard"]).tolist():
            if table.container(shard).members_are_files:
                takes &= rows["shard"] != shard
    return takes
