"""The names of an archive as a directory tree: listings, lookups, and patterns."""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from bisect import bisect_left
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from imagearchive.errors import LimitError, MemberNotFoundError, OptionTypeError
from imagearchive.errors.arguments import shorten
from imagearchive.index.names import normalize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imagearchive.index.lookup import Lookup

__all__ = ["MAX_DEPTH", "NameTree", "decode", "encode", "name_text", "too_deep"]

# What a pattern finds, or an iterator over what it finds in a directory.
Matches: TypeAlias = "Iterator[tuple[str, bool] | Matches]"

# Most nested directories that are walked: their paths grow with the depth, so the time to walk them
# grows with its square. `extract` makes no deeper ones.
MAX_DEPTH: Final = 256

_MAGIC: Final = re.compile("[*?[]")
# Longer names are cut in messages, and not compared with others.
_LONGEST_SHOWN: Final = 400


def encode(name: str | os.PathLike[str]) -> bytes:
    """Return the stored bytes of a name."""
    text = name if isinstance(name, str) else name_text(name)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # A lone surrogate, which no stored name decodes to.
        return text.encode("utf-8", "surrogatepass")


def name_text(name: Any) -> str:
    """Return the name or pattern that an argument gives, as text.

    Raises
    ------
    OptionTypeError
        It is not text or a path.
    """
    try:
        return os.fsdecode(name)
    except TypeError:
        raise OptionTypeError(
            f"a name in an archive must be a string, got {shorten(name)}"
        ) from None


def decode(name: bytes) -> str:
    """Return a stored name as text; bytes that are not UTF-8 appear as surrogates."""
    return name.decode("utf-8", "surrogateescape")


class _Message:
    """The text of an error, composed when it is read.

    Searching for similar names takes a thousand times as long as finding that a name is missing,
    and most callers catch the error without reading it.
    """

    def __init__(self, write: Callable[[], str]) -> None:
        self._write = write

    @cached_property
    def _text(self) -> str:
        return self._write()

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return repr(self._text)

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (self._text,)


class NameTree:
    """Directory operations by binary search in the sorted names.

    A directory exists if a member's name begins with it, or if the archive names it.
    Immutable; any number of threads may use one.

    Parameters
    ----------
    lookup : Lookup
    directories : sequence of str
        Directories without members.
    """

    def __init__(
        self,
        lookup: Lookup,
        directories: Sequence[str] = (),
    ) -> None:
        self._lookup = lookup
        self._empty = sorted(encode(name) for name in directories)

    # --- one path ---------------------------------------------------------------------------

    def find(self, path: str | bytes | os.PathLike[str]) -> int:
        """Return the position of the file at a path, or -1."""
        return self._lookup.find(normalize(path if isinstance(path, bytes) else encode(path)))

    def require(self, path: str) -> int:
        """Return the position of the file at a path.

        Raises
        ------
        MemberNotFoundError
            There is no such file; the message names the closest match.
        """
        position = self.find(path)
        if position < 0:
            raise MemberNotFoundError(_Message(lambda: self._missing(path)))
        return position

    def _missing(self, path: str) -> str:
        if self.isdir(path):
            return f"{_shown(path)} is a directory; name a file in it"
        name = normalize(encode(path))
        closest = self._closest(name, directories=False) or self._closest(name, directories=True)
        hint = f"; did you mean {decode(closest)!r}?" if closest else ""
        return f"no member {_shown(path)}{hint}"

    def isfile(self, path: str | os.PathLike[str]) -> bool:
        """Whether the path is a file."""
        return self.find(path) >= 0

    def isdir(self, path: str | os.PathLike[str]) -> bool:
        """Whether the path is a directory, including those that only the names of files imply."""
        name = normalize(encode(path))
        return not name or self._has_directory(name)

    def _has_directory(self, name: bytes) -> bool:
        low, high = self._lookup.bounds(name + b"/")
        if high > low:
            return True
        i = bisect_left(self._empty, name)
        return i < len(self._empty) and (
            self._empty[i] == name or self._empty[i].startswith(name + b"/")
        )

    def _closest(self, name: bytes, directories: bool) -> bytes | None:
        """Return the most similar of the names, or directories, that sort near a missing one."""
        if len(name) > _LONGEST_SHOWN:
            # The time to compare grows with the square of the length.
            return None
        rank = self._lookup.bounds(name)[0]
        near = range(max(0, rank - 200), min(self._lookup.count, rank + 200))
        names = {self._lookup.sorted_name(other) for other in near}
        if directories:
            depth = name.count(b"/") + 1
            parts = [other.split(b"/") for other in names]
            names = {b"/".join(other[:depth]) for other in parts if len(other) > depth}
        texts = sorted(decode(other) for other in names if len(other) <= _LONGEST_SHOWN)
        matches = difflib.get_close_matches(decode(name), texts, 1, 0.6)
        return encode(matches[0]) if matches else None

    # --- listings ---------------------------------------------------------------------------

    def children(self, directory: str) -> tuple[list[str], list[int]]:
        """List a directory, given by its normalized name; the empty name is the root.

        Returns
        -------
        names : list of str
            Sorted bytewise.
        positions : list of int
            One for each name; -1 for a directory.
        """
        prefix = encode(directory) + b"/" if directory else b""
        names, positions, ordered = self._lookup.listing(prefix)
        if "" in names:
            # Only a damaged index has such names; a directory must not be inside itself.
            kept = [i for i, name in enumerate(names) if name]
            names = [names[i] for i in kept]
            positions = [positions[i] for i in kept]
        if self._empty:
            known = {name for name, position in zip(names, positions) if position < 0}
            for other in self._empty[bisect_left(self._empty, prefix) :]:
                if not other.startswith(prefix):
                    break
                name = decode(other[len(prefix) :].split(b"/")[0])
                if name and name not in known:
                    known.add(name)
                    names.append(name)
                    positions.append(-1)
                    ordered = False
        if not ordered:
            order = sorted(range(len(names)), key=lambda i: encode(names[i]))
            names = [names[i] for i in order]
            positions = [positions[i] for i in order]
        return names, positions

    def listing(self, path: str | os.PathLike[str]) -> tuple[str, list[str], list[int]]:
        """Return the normalized name of a directory and what `children` returns for it.

        Raises
        ------
        MemberNotFoundError
            There is no such directory.
        """
        name = normalize(encode(path))
        if name and not self._has_directory(name):
            raise MemberNotFoundError(_Message(lambda: self._no_directory(os.fspath(path), name)))
        directory = decode(name)
        return (directory, *self.children(directory))

    def _no_directory(self, path: str, name: bytes) -> str:
        if self._lookup.find(name) >= 0:
            return f"{_shown(path)} is a file, not a directory"
        closest = self._closest(name, directories=True)
        hint = f"; did you mean {decode(closest)!r}?" if closest else ""
        return f"no directory {_shown(path)}{hint}"

    def walk(self, path: str | os.PathLike[str]) -> Iterator[tuple[str, list[str], list[str]]]:
        """Walk a directory tree from the top, as `os.walk`; change the lists to prune it."""
        pending = [self.listing(path)[0]]
        while pending:
            current = pending.pop()
            if current.count("/") >= MAX_DEPTH:
                raise too_deep()
            folders: list[str] = []
            files: list[str] = []
            for name, position in zip(*self.children(current)):
                (folders if position < 0 else files).append(name)
            yield current, folders, files
            pending.extend(_inside(current, folder) for folder in reversed(folders))

    def directories(self) -> Iterator[str]:
        """Iterate over all directories, each before those inside it."""
        for name, folders, _ in self.walk(""):
            prefix = name + "/" if name else ""
            for folder in folders:
                yield prefix + folder

    # --- patterns ---------------------------------------------------------------------------

    def glob(self, pattern: str, *, recursive: bool, include_hidden: bool) -> Iterator[str]:
        """Iterate over the paths that `glob.glob` would find with the archive as ``root_dir``."""
        if not pattern or pattern.startswith("/"):
            return
        parts = re.split("/+", pattern)
        only_directories = parts[-1] == ""
        if only_directories:
            parts.pop()
        seen: set[str] = set()
        doubled = recursive and parts.count("**") > 1
        # A directory is matched once with each rest of the pattern. With two `**`, there are many
        # ways to come to it, and their number doubles with each further one.
        visited: set[tuple[int, str]] | None = set() if doubled else None
        # Without wildcards, a path is returned as the pattern spells it, even with doubled slashes.
        magic = _MAGIC.search(pattern)
        matches = self._match("", "", parts, recursive, include_hidden, visited)
        for path, is_directory in _flatten(matches):
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
            yield path if magic else pattern

    def glob_all(self, pattern: str, *, recursive: bool, include_hidden: bool) -> list[str]:
        """Return all that `glob` yields."""
        folder, slash, last = pattern.rpartition("/")
        if not last or "**" in last or ".." in folder or folder[:1] == "/" or _MAGIC.search(folder):
            return list(self.glob(pattern, recursive=recursive, include_hidden=include_hidden))
        # Fast path for wildcards only in the last component: a single listing.
        directory = normalize(encode(folder))
        if not _MAGIC.search(last):
            return list(self.glob(pattern, recursive=recursive, include_hidden=include_hidden))
        matches = _matcher(last)
        found = [name for name in self.children(decode(directory))[0] if matches(name)]
        if not include_hidden and last[0] != ".":
            found = [name for name in found if name[0] != "."]
        start = folder.rstrip("/") + slash
        return [start + name for name in found] if start else found

    def _match(
        self,
        shown: str,
        directory: str,
        parts: list[str],
        recursive: bool,
        hidden: bool,
        visited: set[tuple[int, str]] | None,
    ) -> Matches:
        """Match the remaining components of a pattern inside a directory.

        `shown` is the path as the pattern spells it, `directory` the same normalized. A pair of
        `parts` and `shown` in `visited` is not matched again.
        """
        if visited is not None:
            if (len(parts), shown) in visited:
                return
            visited.add((len(parts), shown))
        part, rest = parts[0], parts[1:]
        if recursive and part == "**":
            if rest:
                yield self._match(shown, directory, rest, recursive, hidden, visited)
            else:
                yield shown, True
            for name, position in self._visible(directory, hidden):
                if position >= 0:
                    if not rest:
                        yield shown + name, False
                    continue
                below, inside = shown + name, _inside(directory, name)
                if rest:
                    yield self._match(below + "/", inside, parts, recursive, hidden, visited)
                else:
                    yield self._recurse(below, inside, hidden)
            return
        if not _MAGIC.search(part):
            name = decode(normalize(encode(_inside(directory, part))))
            is_directory = not name or self._has_directory(encode(name))
            if rest:
                if is_directory and not (name == ".." or name.startswith("../")):
                    yield self._match(shown + part + "/", name, rest, recursive, hidden, visited)
            elif is_directory or self._lookup.find(encode(name)) >= 0:
                yield shown + part, is_directory
            return
        matches = _matcher(part)
        hidden_too = hidden or part.startswith(".")
        for name, position in zip(*self.children(directory)):
            if not matches(name) or (name[0] == "." and not hidden_too):
                continue
            if not rest:
                yield shown + name, position < 0
            elif position < 0:
                inside = _inside(directory, name)
                yield self._match(shown + name + "/", inside, rest, recursive, hidden, visited)

    def _visible(self, directory: str, hidden: bool) -> Iterator[tuple[str, int]]:
        for name, position in zip(*self.children(directory)):
            if hidden or name[0] != ".":
                yield name, position

    def _recurse(self, shown: str, directory: str, hidden: bool) -> Matches:
        """Yield a directory and everything below it."""
        yield shown, True
        for name, position in self._visible(directory, hidden):
            below = f"{shown}/{name}"
            if position < 0:
                yield self._recurse(below, _inside(directory, name), hidden)
            else:
                yield below, False


def _flatten(matches: Matches) -> Iterator[tuple[str, bool]]:
    """Run iterators that yield others in their place, without recursion."""
    stack = [matches]
    while stack:
        match = next(stack[-1], None)
        if match is None:
            stack.pop()
        elif isinstance(match, tuple):
            yield match
        elif len(stack) > MAX_DEPTH:
            raise too_deep()
        else:
            stack.append(match)


def too_deep() -> LimitError:
    """Return the error for names in more nested directories than are walked."""
    return LimitError(f"the names are nested more than {MAX_DEPTH} directories deep")


def _inside(directory: str, name: str) -> str:
    return directory + "/" + name if directory else name


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(fnmatch.translate(pattern)).match


def _shown(path: str) -> str:
    return repr(path) if len(path) <= _LONGEST_SHOWN else f"{path[:_LONGEST_SHOWN]!r}..."
