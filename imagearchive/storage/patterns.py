"""Expand paths, URLs, and patterns to the archives that they name."""

from __future__ import annotations

import fnmatch
import itertools
import math
import operator
import os
import re
from collections.abc import Iterator, Sequence
from typing import Final, overload

from imagearchive.errors import (
    ArchiveNotFoundError,
    OptionError,
    OptionTypeError,
    UnsupportedArchiveError,
)
from imagearchive.errors.arguments import check_path, shorten
from imagearchive.errors.plurals import pluralize
from imagearchive.storage.location import Location, locate
from imagearchive.storage.path_options import hide_credentials, with_text_of

__all__ = [
    "INDEX_SUFFIX",
    "ArchivePath",
    "absolute_paths",
    "as_text",
    "expand_path",
    "expand_paths",
]

#: One archive, several, or a pattern.
ArchivePath = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_RANGE: Final = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_WILDCARD: Final = re.compile(r"[*?[]")
MAX_PATHS: Final = 1_000_000
#: The suffix of index files. Wildcards do not match it, so that ``train-*`` finds only archives.
INDEX_SUFFIX: Final = ".idx.npy"


def as_text(path: ArchivePath) -> str | list[str]:
    """Return a path as text, or several as a list; an iterator is read once.

    Raises
    ------
    OptionTypeError
        It is neither a path nor an iterable of paths.
    """
    if isinstance(path, (str, bytes, os.PathLike)) or hasattr(path, "read"):
        return hide_credentials(check_path("path", path))
    try:
        return [hide_credentials(check_path("path", one)) for one in path]
    except TypeError:
        raise OptionTypeError(
            f"an archive is given by its path, a list of paths, or a pattern, not by "
            f"{shorten(path)}"
        ) from None


def absolute_paths(path: str | list[str]) -> str | list[str]:
    """Return the paths as absolute paths; patterns are not expanded."""
    return locate(path).path if isinstance(path, str) else [locate(one).path for one in path]


class BracePaths(Sequence[str]):
    """The paths that a brace pattern names, made when they are asked for.

    A process that reads a hundred thousand shards would otherwise hold the path of each, and pickle
    them for each worker. Equal to a list of the same paths.

    Parameters
    ----------
    choices : sequence of sequences of str
        The alternatives for each part of the path.
    pattern : str
        A path whose options all paths have.
    """

    def __init__(self, choices: Sequence[Sequence[str]], pattern: str) -> None:
        self._choices = choices
        self._pattern = pattern
        self._length = math.prod(map(len, choices))

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._length))]
        rest = range(self._length)[index]
        parts = []
        for options in reversed(self._choices):
            rest, place = divmod(rest, len(options))
            parts.append(options[place])
        return with_text_of(self._pattern, "".join(reversed(parts)))

    def __iter__(self) -> Iterator[str]:
        # The longest list, which may be very long, is not copied.
        middle = max(range(len(self._choices)), key=lambda part: len(self._choices[part]))
        before, after = (
            ["".join(parts) for parts in itertools.product(*choices)]
            for choices in (self._choices[:middle], self._choices[middle + 1 :])
        )
        for start in before:
            for part in self._choices[middle]:
                for end in after:
                    yield with_text_of(self._pattern, start + part + end)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (list, BracePaths)):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


class _Counted(Sequence[str]):
    """The numbers of a range as text, padded with zeros."""

    def __init__(self, low: int, high: int, width: int) -> None:
        self._range = range(low, high + 1)
        self._width = width

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return f"{self._range[index]:0{self._width}d}"


def expand_paths(path: ArchivePath) -> Sequence[str]:
    """Return the absolute paths of the archives that a path, a pattern, or a list of both names.

    ``{0000..0146}`` counts, padded with zeros as written; ``{a,b}`` lists alternatives. ``*``,
    ``?`` and ``[...]`` match within one component of a path. Matches are sorted, and there must be
    at least one. A path that exists is taken literally, even if it looks like a pattern; but braces
    in a URL are always a pattern, so that the server need not be asked first.

    Raises
    ------
    OptionError
        The list is empty, a range counts down, or the pattern names more than a million archives.
    ArchiveNotFoundError
        No archive matches a pattern with wildcards.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        parts = [expand_paths(part) for part in path]
        if not parts:
            raise OptionError("no archive is given: the list of paths is empty")
        return parts[0] if len(parts) == 1 else [one for part in parts for one in part]
    location = locate(path)
    text = location.path
    if not _has_wildcard(location) and "{" not in text:
        return [text]
    if location.local_path is not None and location.exists():
        return [text]
    expanded = _expand_braces(text)
    if not _WILDCARD.search(text):
        return expanded
    found: list[str] = []
    for one in expanded:
        if _WILDCARD.search(one) and _has_wildcard(locate(one)):
            found += _match_wildcards(locate(one))
        else:
            found.append(one)
    return found


def expand_path(name: str, path: object, several: str) -> str:
    """Return the path that an argument names, which may be a pattern that one path matches.

    Parameters
    ----------
    name : str
        The argument.
    path : object
    several : str
        What to do where a pattern names several paths, for the message.

    Raises
    ------
    OptionError, OptionTypeError
        It is not a path, or a pattern that names several.
    ArchiveNotFoundError
        Nothing matches the pattern.
    """
    text = check_path(name, path)
    found = expand_paths(text)
    if len(found) > 1:
        raise OptionError(
            f"{name} must be one path, but {len(found)} paths match "
            f"{hide_credentials(text)!r}; {several}"
        )
    # A path that is not a pattern stays as it was given, for messages.
    return text if found[0] == locate(text).path else found[0]


def _expand_braces(text: str) -> BracePaths:
    choices: list[Sequence[str]] = []
    for i, part in enumerate(_BRACES.split(text)):
        bounds = _RANGE.fullmatch(part)
        if i % 2 == 0:
            choices.append([part])
        elif bounds:
            low, high = bounds.groups()
            if int(high) < int(low) or int(high) - int(low) >= MAX_PATHS:
                raise OptionError(f"{text}: the range {{{part}}} names no archive, or too many")
            choices.append(_Counted(int(low), int(high), len(low)))
        elif "," in part:
            choices.append(part.split(","))
        else:
            choices.append([f"{{{part}}}"])
    if (count := math.prod(map(len, choices))) > MAX_PATHS:
        raise OptionError(
            f"{text}: the pattern names {pluralize(count, 'archive')}, more than {MAX_PATHS}"
        )
    return BracePaths(choices, text)


def _match_wildcards(pattern: Location) -> list[str]:
    """Return the paths that match a location whose path has wildcards, sorted.

    Only its own path if it exists, for which a listing is not preceded by another request.
    """
    if pattern.local_path is not None and pattern.exists():
        return [pattern.path]
    parts: list[str] = []
    base = pattern
    while _has_wildcard(base) and base.parent.path != base.path:
        parts.insert(0, base.name)
        base = base.parent
    found = [base]
    try:
        for part in parts:
            found = [one for folder in found for one in _match_component(folder, part)]
    except UnsupportedArchiveError:
        # Files on an HTTP server cannot be listed.
        if pattern.exists():
            return [pattern.path]
        raise
    paths = sorted(one.path for one in found)
    if not paths:
        raise ArchiveNotFoundError(f"{pattern.path}: no archive matches this pattern")
    return [pattern.path] if pattern.path in paths else paths


def _has_wildcard(location: Location) -> bool:
    """Whether a path has wildcards; a question mark that begins the query of a URL is none."""
    return _WILDCARD.search(getattr(location, "pattern", location.path)) is not None


def _match_component(folder: Location, part: str) -> list[Location]:
    if not _WILDCARD.search(part):
        one = folder.join(part)
        return [one] if one.exists() else []
    try:
        entries = folder.list()
    except OSError:
        return []
    matches = re.compile(fnmatch.translate(part)).match
    return [
        folder.join(entry.name)
        for entry in entries
        # As in a shell, a wildcard does not match the dot of a hidden file.
        if (matches(entry.name) or (folder.local_path is None and entry.name == part))
        and (part.startswith(".") or not entry.name.startswith("."))
        and not entry.name.endswith(INDEX_SUFFIX)
    ]
