"""The names of an archive as a file system sees them: directories, listings, patterns."""

from __future__ import annotations

import difflib
import fnmatch
import re
from bisect import bisect_left
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from imagearchive._scan.names import normalise
from imagearchive.errors import MemberNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from imagearchive._scan.lookup import Lookup

__all__ = ["NameTree", "decode", "encode"]

_MAGIC = re.compile("[*?[]")


def encode(name: str) -> bytes:
    """Return the stored bytes of a name."""
    return name.encode("utf-8", "surrogateescape")


def decode(name: bytes) -> str:
    """Return a stored name as text; bytes that are no UTF-8 appear as surrogates."""
    return name.decode("utf-8", "surrogateescape")


class Child(NamedTuple):
    """An entry of a directory: its name in it, and its position, -1 for a directory."""

    name: bytes
    position: int


class NameTree:
    """Directory operations by binary search in the sorted names.

    A directory exists where a member's name begins with it, or where the archive names it.
    Immutable; any number of threads may use one.

    Parameters
    ----------
    lookup : Lookup
    order : ndarray of uint64, shape (N,)
        The permutation that sorts the names.
    directories : sequence of str
        Directories without members.
    """

    def __init__(
        self,
        lookup: Lookup,
        order: npt.NDArray[np.uint64],
        directories: Sequence[str] = (),
    ) -> None:
        self._lookup = lookup
        self._order = order
        self._empty = sorted(encode(name) for name in directories)

    # --- one path ---------------------------------------------------------------------------

    def find(self, path: str | bytes) -> int:
        """Return the position of the file at a path, or -1."""
        return self._lookup.find(normalise(encode(path) if isinstance(path, str) else path))

    def require(self, path: str) -> int:
        """Return the position of the file at a path.

        Raises
        ------
        MemberNotFoundError
            There is none; the message names the closest match.
        """
        position = self.find(path)
        if position >= 0:
            return position
        if self.isdir(path):
            raise MemberNotFoundError(f"{path!r} is a directory; list it with listdir()")
        closest = self._closest(normalise(encode(path)))
        hint = f"; did you mean {decode(closest)!r}?" if closest else ""
        raise MemberNotFoundError(f"no member {path!r}{hint}")

    def isfile(self, path: str) -> bool:
        """Whether a member has that name."""
        return self.find(path) >= 0

    def isdir(self, path: str) -> bool:
        """Whether the path is a directory, also one that only the names of its files imply."""
        name = normalise(encode(path))
        return not name or self._has_directory(name)

    def _has_directory(self, name: bytes) -> bool:
        low, high = self._lookup.bounds(name + b"/")
        if high > low:
            return True
        place = bisect_left(self._empty, name)
        return place < len(self._empty) and (
            self._empty[place] == name or self._empty[place].startswith(name + b"/")
        )

    def _closest(self, name: bytes) -> bytes | None:
        """The most similar of the names that sort beside a missing one."""
        place = self._lookup.bounds(name)[0]
        near = range(max(0, place - 200), min(self._lookup.count, place + 200))
        names = {decode(self._lookup.sorted_name(other)) for other in near}
        matches = difflib.get_close_matches(decode(name), sorted(names), 1, 0.6)
        return encode(matches[0]) if matches else None

    # --- listings ---------------------------------------------------------------------------

    def children(self, directory: bytes) -> list[Child]:
        """List a directory, given by its normalised name, sorted; the empty name is the root."""
        prefix = directory + b"/" if directory else b""
        skip = len(prefix)
        low, high = self._lookup.bounds(prefix)
        places, flags = self._lookup.children(low, high, skip)
        found: list[Child] = []
        sorted_name = self._lookup.sorted_name
        for place, is_directory in zip(places.tolist(), flags.tolist()):
            name = sorted_name(place)[skip:]
            if is_directory:
                found.append(Child(name[: name.index(b"/")], -1))
            elif found and found[-1].name == name and found[-1].position >= 0:
                # Archives read as one may share names; the last holds it.
                found[-1] = Child(name, int(self._order[place]))
            else:
                found.append(Child(name, int(self._order[place])))
        empty = (
            {
                name[skip:].split(b"/")[0]
                for name in self._empty[bisect_left(self._empty, prefix) :]
                if name.startswith(prefix) and len(name) > skip
            }
            if self._empty
            else set()
        )
        empty.difference_update(child.name for child in found if child.position < 0)
        if empty:
            found.extend(Child(name, -1) for name in empty)
        if empty or directory_order_differs(found):
            found.sort()
        return found

    def listing(self, path: str) -> tuple[bytes, list[Child]]:
        """Return the normalised name of a directory and what is in it.

        Raises
        ------
        MemberNotFoundError
            There is no such directory.
        """
        name = normalise(encode(path))
        if name and not self._has_directory(name):
            if self._lookup.find(name) >= 0:
                raise MemberNotFoundError(f"{path!r} is a file, not a directory")
            closest = self._closest(name)
            hint = f"; the nearest name is {decode(closest)!r}" if closest else ""
            raise MemberNotFoundError(f"no directory {path!r}{hint}")
        return name, self.children(name)

    def walk(self, path: str) -> Iterator[tuple[str, list[str], list[str]]]:
        """Walk a directory tree from the top, as `os.walk`; the lists may be changed to prune."""
        name, _ = self.listing(path)
        pending = [name]
        while pending:
            current = pending.pop()
            children = self.children(current)
            folders = [decode(child.name) for child in children if child.position < 0]
            files = [decode(child.name) for child in children if child.position >= 0]
            yield decode(current), folders, files
            prefix = current + b"/" if current else b""
            pending.extend(prefix + encode(folder) for folder in reversed(folders))

    def directories(self) -> Iterator[str]:
        """All directories, each before those inside it."""
        for name, folders, _ in self.walk(""):
            prefix = name + "/" if name else ""
            for folder in folders:
                yield prefix + folder

    # --- patterns ---------------------------------------------------------------------------

    def glob(self, pattern: str, *, recursive: bool, include_hidden: bool) -> Iterator[str]:
        """Paths that match, as `glob.glob` with the archive as ``root_dir``."""
        if not pattern or pattern.startswith("/"):
            return
        parts = re.split("/+", pattern)
        only_directories = parts[-1] == ""
        if only_directories:
            parts.pop()
        seen: set[str] = set()
        doubled = recursive and parts.count("**") > 1
        for path, is_directory in self._match("", b"", parts, recursive, include_hidden):
            if only_directories and not is_directory:
                continue
            if path == "" or only_directories:
                path = path.rstrip("/") + "/" if path else ""
            if not path:
                continue
            if doubled:
                if path in seen:
                    continue
                seen.add(path)
            yield path

    def _match(
        self, shown: str, directory: bytes, parts: list[str], recursive: bool, hidden: bool
    ) -> Iterator[tuple[str, bool]]:
        """Match the remaining components of a pattern inside a directory.

        `shown` is the path as the pattern spells it, `directory` the same normalised.
        """
        part, rest = parts[0], parts[1:]
        if recursive and part == "**":
            if rest:
                yield from self._match(shown, directory, rest, recursive, hidden)
            else:
                yield shown, True
            for child in self.children(directory):
                if not hidden and child.name.startswith(b"."):
                    continue
                below = shown + decode(child.name)
                if child.position < 0:
                    yield from (
                        self._match(
                            below + "/", _inside(directory, child.name), parts, recursive, hidden
                        )
                        if rest
                        else self._recurse(below, _inside(directory, child.name), hidden)
                    )
                elif not rest:
                    yield below, False
            return
        if not _MAGIC.search(part):
            name = normalise(_inside(directory, encode(part)))
            is_directory = not name or self._has_directory(name)
            outside = name.startswith(b"..")
            if rest:
                if is_directory and not outside:
                    yield from self._match(shown + part + "/", name, rest, recursive, hidden)
            elif is_directory or self._lookup.find(name) >= 0:
                yield shown + part, is_directory
            return
        matches = _matcher(part)
        for child in self.children(directory):
            name_text = decode(child.name)
            if not hidden and name_text.startswith(".") and not part.startswith("."):
                continue
            if not matches(name_text):
                continue
            if not rest:
                yield shown + name_text, child.position < 0
            elif child.position < 0:
                yield from self._match(
                    shown + name_text + "/", _inside(directory, child.name), rest, recursive, hidden
                )

    def _recurse(self, shown: str, directory: bytes, hidden: bool) -> Iterator[tuple[str, bool]]:
        """All that lies in a directory, itself first."""
        yield shown, True
        for child in self.children(directory):
            if not hidden and child.name.startswith(b"."):
                continue
            below = f"{shown}/{decode(child.name)}"
            if child.position < 0:
                yield from self._recurse(below, _inside(directory, child.name), hidden)
            else:
                yield below, False


def directory_order_differs(children: list[Child]) -> bool:
    """Whether names sorted with their slash, as in the table, sort otherwise without it."""
    return any(a.name > b.name for a, b in zip(children, children[1:]))


def _inside(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(fnmatch.translate(pattern)).match
