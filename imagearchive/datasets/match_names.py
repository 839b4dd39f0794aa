"""Matches the names in a table or a list with the members of an archive, all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from imagearchive.archive.name_tree import encode
from imagearchive.index.name_order import is_first_of_name, sort_names
from imagearchive.index.names import ends_with, gather, normalize, take_parts

if TYPE_CHECKING:
    from imagearchive.index.table import IndexTable

__all__ = ["MISSING", "match_names"]

#: The result for a name that no member fits.
MISSING: Final = -1

_SLASH: Final = ord("/")
_DOT: Final = ord(".")

_Positions = npt.NDArray[np.int64]
_Names = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]


def match_names(
    table: IndexTable,
    prefix: bytes,
    candidates: _Positions | None,
    names: Sequence[str],
    preferred: Sequence[bytes],
) -> _Positions:
    """Find the member that each name stands for.

    A name is the path of a member below a root. Its extension may be missing, or the directories
    that it begins with, or both. The more of a path a name contains, the better it fits: a name
    with the extension is compared first, and the whole path before the end of one.

    Parameters
    ----------
    table : IndexTable
    prefix : bytes
        The root with a slash at its end, or empty.
    candidates : ndarray of int64 or None
        Positions of the members that names may stand for, all below the root; None for all.
    names : sequence of str
    preferred : sequence of bytes
        Extensions such as ``b".jpg"``. A name without an extension stands for a member with one of
        these, if there is one.

    Returns
    -------
    ndarray of int64, shape (len(names),)
        The position of the member. `MISSING` if there is none. For a name that fits several
        members equally well, ``-2 - position`` of the first.
    """
    rows = np.arange(len(table)) if candidates is None else candidates
    relative = gather(table.names, table.name_offsets, rows.astype(np.uint64), skip=len(prefix))
    members = _Members(relative, preferred)
    wanted = _flatten([normalize(encode(name)) for name in names])
    found = np.full(len(names), MISSING, np.int64)
    depths = _depths(wanted)
    for keys, owners, depth in members.keys(depths):
        open_rows = np.flatnonzero((found == MISSING) & ((depths == depth) | (depth < 0)))
        if len(open_rows):
            found[open_rows] = _join(keys, gather(*wanted, open_rows.astype(np.uint64)), owners)
    # From numbers of candidates to positions.
    single, several = found >= 0, found < MISSING
    found[single] = rows[found[single]]
    found[several] = -2 - rows[-2 - found[several]]
    return found


class _Members:
    """The names of the candidates, and the parts of them by which they are known."""

    def __init__(self, names: _Names, preferred: Sequence[bytes]) -> None:
        self._data, self._offsets = names
        starts, ends = self._offsets[:-1], self._offsets[1:]
        self._slashes = np.flatnonzero(self._data == _SLASH).astype(np.uint64)
        self._slashes_before_end = np.searchsorted(self._slashes, ends)
        self._depths = self._slashes_before_end - np.searchsorted(self._slashes, starts)
        dots = np.flatnonzero(self._data == _DOT).astype(np.uint64)
        last = np.searchsorted(dots, ends) - 1
        stem_ends = dots[np.maximum(last, 0)] if len(dots) else starts
        # The dot of ".name" begins a name, not an extension.
        has_extension = (last >= 0) & (stem_ends > self._tail_starts(0, starts))
        self._stem_ends = np.where(has_extension, stem_ends, ends)
        mask = ends_with(self._data, self._offsets, preferred)
        self._stems = [np.flatnonzero(part) for part in (mask, ~mask) if part.any()]

    def _tail_starts(self, depth: int, starts: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Return where the last ``depth + 1`` components of each name start."""
        if not len(self._slashes):
            return starts
        slash = self._slashes[np.maximum(self._slashes_before_end - 1 - depth, 0)]
        return np.where(self._depths > depth, slash + np.uint64(1), starts)

    def keys(self, depths: npt.NDArray[np.int64]) -> Iterator[tuple[_Names, _Positions, int]]:
        """Yield keys, the candidates that have them, and how many slashes they contain.

        -1 stands for any number of slashes. `depths` are those of the names that are sought.
        """
        starts, ends = self._offsets[:-1], self._offsets[1:]
        everything = np.arange(len(starts))
        yield (self._data, self._offsets), everything, -1
        for rows in self._stems:
            yield self._parts(starts, self._stem_ends, rows), rows, -1
        sought = [depth for depth in np.unique(depths).tolist() if (self._depths > depth).any()]
        for depth in sought:
            tails = self._tail_starts(depth, starts)
            deep = self._depths >= depth
            rows = np.flatnonzero(deep)
            yield self._parts(tails, ends, rows), rows, depth
            for some in self._stems:
                rows = some[deep[some]]
                yield self._parts(tails, self._stem_ends, rows), rows, depth

    def _parts(
        self,
        starts: npt.NDArray[np.uint64],
        ends: npt.NDArray[np.uint64],
        rows: _Positions,
    ) -> _Names:
        return take_parts(self._data, starts[rows], ends[rows])


def _flatten(names: Sequence[bytes]) -> _Names:
    offsets = np.zeros(len(names) + 1, np.uint64)
    np.cumsum(np.fromiter(map(len, names), np.uint64, len(names)), out=offsets[1:])
    return np.frombuffer(b"".join(names), np.uint8), offsets


def _depths(names: _Names) -> npt.NDArray[np.int64]:
    """Return how many slashes each name contains."""
    data, offsets = names
    slashes = np.flatnonzero(data == _SLASH)
    return np.diff(np.searchsorted(slashes, offsets.astype(np.int64)))


def _join(keys: _Names, names: _Names, owners: _Positions) -> _Positions:
    """Return the owner of the key that equals each name, as `match_names` does."""
    count = len(owners)
    data = np.concatenate([keys[0], names[0]])
    offsets = np.concatenate([keys[1], names[1][1:] + keys[1][-1]])
    order = sort_names(data, offsets)
    # Equal names have the same group.
    groups = np.empty(len(order), np.int64)
    groups[order] = np.cumsum(is_first_of_name(data, offsets, order)[order]) - 1
    of_keys, of_names = groups[:count], groups[count:]
    counts = np.bincount(of_keys, minlength=len(order))[of_names]
    first = np.zeros(len(order), np.int64)
    first[of_keys[::-1]] = owners[::-1]
    owner = first[of_names]
    return np.where(counts == 1, owner, np.where(counts == 0, MISSING, -2 - owner))
