"""Where the links of an archive lead, in time linear in the names and targets that were read."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.containers.left_out import DANGLING_LINK, LOOPING_LINK, OUTSIDE_LINK
from imagearchive.containers.rows import KIND_DIRECTORY, KIND_HARDLINK, KIND_SYMLINK, RowBuffer
from imagearchive.index.lookup import Lookup
from imagearchive.index.names import normalize

__all__ = ["MAX_HOPS", "MAX_PATH", "LinkTargets", "link_targets"]

# The limits of Linux: how many symbolic links one path may lead through, and how long it may be.
MAX_HOPS: Final = 40
MAX_PATH: Final = 4096


class _Target(NamedTuple):
    """Where a symbolic link leads once all links on the way are resolved."""

    row: int
    """The member it leads to; -1 for a directory without a member of its own, or nothing."""

    directory: bytes | None
    """The directory it leads to, or None."""

    hops: int
    """Symbolic links on the way, this one included."""

    reason: str = ""
    """Why it leads to nothing, if it does."""


_DANGLING: Final = _Target(-1, None, 0, DANGLING_LINK)
_LOOPING: Final = _Target(-1, None, 0, LOOPING_LINK)
_OUTSIDE: Final = _Target(-1, None, 0, OUTSIDE_LINK)


class LinkTargets(NamedTuple):
    """Where links lead.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        The row of the file that each link leads to; -1 if it does not lead to a file.
    directories : dict of int to bytes
        By the row of a symbolic link to a directory: the normalized name of that directory.
    reasons : dict of int to str
        By the row of a link that leads to nothing: why; see `imagearchive.containers.left_out`.
    """

    rows: npt.NDArray[np.int64]
    directories: dict[int, bytes]
    reasons: dict[int, str]


class _Walk:
    """A path that is being resolved: the symbolic links before `start` are replaced already."""

    def __init__(self, link: int, path: bytes | None) -> None:
        self.link = link
        self.path = path
        self.start = 0
        self.hops = 1


def link_targets(rows: RowBuffer, lookup: Lookup, links: npt.NDArray[np.int64]) -> LinkTargets:
    """Find the files and directories that links lead to.

    Each link is resolved once, and links that lead through it use the result. A hard link takes
    what its target's name held at that moment of the extraction, so chains of hard links cannot
    loop and have no limit. Symbolic links are resolved after all members are extracted.

    Parameters
    ----------
    rows : RowBuffer
        The raw rows of a scanner.
    lookup : Lookup
        Over the normalized names of these rows.
    links : ndarray of int64, shape (n,)
        The rows that are links, ascending.

    Returns
    -------
    LinkTargets
        A link leads to nothing if it dangles, loops, leads out of the archive, through more than
        40 symbolic links or over a path of more than 4,096 bytes.
    """
    return _Resolver(rows, lookup).resolve(links)


class _Resolver:
    def __init__(self, rows: RowBuffer, lookup: Lookup) -> None:
        self._rows = rows
        self._lookup = lookup
        self._kinds: npt.NDArray[Any] = rows.entries["kind"][: rows.rows]
        # By the row of a hard link: the row of what is not a hard link, or -1.
        self._originals: dict[int, int] = {}
        # By the row of a symbolic link.
        self._targets: dict[int, _Target] = {}

    def resolve(self, links: npt.NDArray[np.int64]) -> LinkTargets:
        hard = (self._kinds[links] == KIND_HARDLINK).tolist()
        rows = links.tolist()
        for row, is_hard in zip(rows, hard):
            if is_hard:
                # A target comes before its link, so it is in the table already.
                found = self._lookup.find(normalize(self._rows.link(row)), before=row)
                self._originals[row] = self._originals.get(found, found)
        targets = [self._target(row) for row in rows]
        result = LinkTargets(np.array([one.row for one in targets], np.int64), {}, {})
        for position, (row, target) in enumerate(zip(rows, targets)):
            if target.directory is not None:
                result.directories[row] = target.directory
                result.rows[position] = -1
            elif target.reason:
                result.reasons[row] = target.reason
        return result

    def _target(self, row: int) -> _Target:
        row = self._originals.get(row, row)
        if row < 0:
            return _DANGLING
        return self._follow(row) if self._kinds[row] == KIND_SYMLINK else _Target(row, None, 0)

    def _follow(self, link: int) -> _Target:
        """Resolve a symbolic link, and before it those that its path leads through."""
        targets = self._targets
        walks = [self._begin(link)] if link not in targets else []
        pending = {link}
        while walks:
            walk = walks[-1]
            outcome = self._advance(walk)
            if isinstance(outcome, int):
                if outcome not in pending:
                    pending.add(outcome)
                    walks.append(self._begin(outcome))
                    continue
                outcome = _LOOPING
            targets[walk.link] = outcome
            walks.pop()
        return targets[link]

    def _begin(self, link: int) -> _Walk:
        target = self._rows.link(link)
        if target.startswith(b"/") or len(target) >= MAX_PATH:
            return _Walk(link, None)
        directory = self._lookup.name(link).rpartition(b"/")[0]
        path = normalize(directory + b"/" + target)
        # A path that leads out of the archive keeps its "..".
        return _Walk(link, None if b"/../" in b"/%b/" % path else path)

    def _advance(self, walk: _Walk) -> _Target | int:
        """Go on until the path is resolved; or return a link that must be resolved first."""
        lookup, kinds = self._lookup, self._kinds
        if walk.path is None:
            return _OUTSIDE
        while len(walk.path) <= MAX_PATH and walk.hops <= MAX_HOPS:
            path = walk.path
            end = len(path)
            row = lookup.find(path)
            row = self._originals.get(row, row)
            if row >= 0 and kinds[row] != KIND_SYMLINK:
                return _Target(row, path if kinds[row] == KIND_DIRECTORY else None, walk.hops)
            if row < 0:
                row, end = lookup.symlink_on(path, walk.start)
                if row < 0:
                    is_directory = self._is_directory(path)
                    return _Target(-1, path, walk.hops) if is_directory else _DANGLING
            target = self._targets.get(row)
            if target is None:
                return row
            rest = path[end + 1 :]
            walk.hops += target.hops
            if not rest and target.row >= 0:
                return target._replace(hops=walk.hops) if walk.hops <= MAX_HOPS else _LOOPING
            if target.directory is None:
                return _DANGLING if target.row >= 0 else target
            walk.start = len(target.directory)
            walk.path = b"/".join(part for part in (target.directory, rest) if part)
        return _LOOPING

    def _is_directory(self, path: bytes) -> bool:
        low, high = self._lookup.bounds(path + b"/" if path else b"")
        return low < high
