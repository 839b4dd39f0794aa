"""The files below symbolic links to directories: rows of their own, as if the links were followed.

The work and the number of these rows are limited by what was read, because a few links to links
could multiply the files of an archive without end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.containers.left_out import LINK_LIMIT, LOOPING_LINK
from imagearchive.index.links import MAX_HOPS
from imagearchive.index.lookup import Lookup
from imagearchive.index.names import gather

__all__ = ["LinkedFiles", "LinkedPart", "append_linked", "linked_files"]

# Linked rows, and bytes of their names: this many times those of the archive, and a little more.
_FACTOR: Final = 16
_MORE_ROWS: Final = 1 << 16
_MORE_BYTES: Final = 1 << 22


class LinkedPart(NamedTuple):
    """Files below one directory that a link leads to.

    Attributes
    ----------
    link : int
        The row of the link.
    rows : ndarray of uint64
        The rows of the files, ascending.
    prefix : bytes
        Takes the place of the first `skip` bytes of their names.
    skip : int
    """

    link: int
    rows: npt.NDArray[np.uint64]
    prefix: bytes
    skip: int


class LinkedFiles(NamedTuple):
    """What links to directories add to an archive.

    Attributes
    ----------
    parts : list of LinkedPart
        In the order of the links.
    directories : list of bytes
        The linked directories that the archive names.
    reasons : dict of int to str
        By row of a link that is not followed: why.
    """

    parts: list[LinkedPart]
    directories: list[bytes]
    reasons: dict[int, str]


class _LimitReachedError(Exception):
    """The links would add too many rows."""


class _Followed(NamedTuple):
    name: bytes
    target: bytes
    origins: tuple[bytes, ...]
    """The directories that contain the links on the way."""


def linked_files(
    columns: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64], npt.NDArray[np.uint64]],
    lookup: Lookup,
    live: npt.NDArray[np.bool_],
    named: npt.NDArray[np.bool_],
    links: Mapping[int, bytes],
) -> LinkedFiles:
    """Follow links to directories, and those inside, except into a directory above the link.

    Parameters
    ----------
    columns : tuple of ndarray
        Names, their offsets, and the permutation that sorts them.
    lookup : Lookup
        Over these columns.
    live : ndarray of bool, shape (N,), by row
        Which rows are files.
    named : ndarray of bool, shape (N,), by row
        Which rows are directories.
    links : mapping of int to bytes
        By the row of a link, ascending: the directory that it leads to.
    """
    return _Follower(columns, lookup, live, named, links).follow()


class _Follower:
    def __init__(
        self,
        columns: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64], npt.NDArray[np.uint64]],
        lookup: Lookup,
        live: npt.NDArray[np.bool_],
        named: npt.NDArray[np.bool_],
        links: Mapping[int, bytes],
    ) -> None:
        self._names, self._offsets, self._order = columns
        self._lookup = lookup
        self._live = live
        self._named = named
        self._links = links
        # The links in the order of the sorted names.
        is_link = np.zeros(lookup.count, np.bool_)
        is_link[list(links)] = True
        self._ranks = np.flatnonzero(is_link[self._order])
        self._rows_left = _FACTOR * lookup.count + _MORE_ROWS
        self._bytes_left = _FACTOR * len(self._names) + _MORE_BYTES

    def follow(self) -> LinkedFiles:
        found = LinkedFiles([], [], {})
        for row, target in self._links.items():
            name = self._lookup.name(row)
            first = _Followed(name, target, (_parent(name),))
            if _is_loop(first):
                found.reasons[row] = LOOPING_LINK
                continue
            parts: list[LinkedPart] = []
            directories: list[bytes] = []
            try:
                pending = [first]
                while pending:
                    pending += self._one(row, pending.pop(), parts, directories)
            except _LimitReachedError:
                # A directory with a part of its files would be worse than none.
                found.reasons[row] = LINK_LIMIT
                continue
            found.parts.extend(parts)
            found.directories.extend(directories)
        return found

    def _one(
        self, link: int, followed: _Followed, parts: list[LinkedPart], directories: list[bytes]
    ) -> list[_Followed]:
        """Add the files of one linked directory; return the links inside that are followed."""
        prefix, skip = followed.name + b"/", len(followed.target) + 1
        low, high = self._lookup.bounds(followed.target + b"/")
        self._rows_left -= 1 + high - low
        self._bytes_left -= len(prefix)
        if self._rows_left < 0 or self._bytes_left < 0:
            raise _LimitReachedError
        rows = np.sort(self._order[low:high])
        files = rows[self._live[rows]]
        sizes = self._offsets[files + np.uint64(1)] - self._offsets[files]
        self._bytes_left -= int(sizes.sum()) + len(files) * (len(prefix) - skip)
        if self._bytes_left < 0:
            raise _LimitReachedError
        if len(files):
            parts.append(LinkedPart(link, files, prefix, skip))
        directories.append(followed.name)
        named = rows[self._named[rows]]
        if len(named):
            self._bytes_left -= len(named) * len(prefix)
            if self._bytes_left < 0:
                raise _LimitReachedError
            text, ends = gather(self._names, self._offsets, named, prefix, skip)
            data, ends = text.tobytes(), ends.tolist()
            directories += [data[start:end] for start, end in zip(ends, ends[1:])]
        inside = []
        for i in range(bisect_left(self._ranks, low), bisect_left(self._ranks, high)):
            row = int(self._order[self._ranks[i]])
            name = self._lookup.name(row)
            below = _Followed(
                prefix + name[skip:], self._links[row], (*followed.origins, _parent(name))
            )
            self._rows_left -= 1
            self._bytes_left -= len(below.name)
            if self._bytes_left < 0:
                raise _LimitReachedError
            if len(below.origins) <= MAX_HOPS and not _is_loop(below):
                inside.append(below)
        return inside


def _parent(name: bytes) -> bytes:
    return name.rpartition(b"/")[0]


def _is_loop(followed: _Followed) -> bool:
    """Whether a link leads to a directory that contains one of the links on the way."""
    target = followed.target
    if not target:
        return True
    below = target + b"/"
    return any(origin == target or origin.startswith(below) for origin in followed.origins)


def append_linked(
    entries: npt.NDArray[Any],
    names: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.uint64],
    live: npt.NDArray[np.uint64],
    parts: list[LinkedPart],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
    """Return the columns of the live rows and of linked files, each at the place of its link."""
    texts, lengths = [], []
    for rows, prefix, skip in [(live, b"", 0), *((p.rows, p.prefix, p.skip) for p in parts)]:
        text, ends = gather(names, offsets, rows, prefix, skip)
        texts.append(text)
        lengths.append(np.diff(ends))
    sources = np.concatenate([live, *(part.rows for part in parts)])
    places = np.concatenate(
        [live, *(np.full(len(part.rows), part.link, np.uint64) for part in parts)]
    )
    order = np.argsort(places, kind="stable").astype(np.uint64)
    all_offsets = np.zeros(len(sources) + 1, np.uint64)
    np.cumsum(np.concatenate(lengths), out=all_offsets[1:])
    return (entries[sources[order]], *gather(np.concatenate(texts), all_offsets, order))
