"""Expand paths, URLs, and patterns to the archives that they name."""

from __future__ import annotations

import fnmatch
import itertools
import math
import os
import re
from collections.abc import Sequence
from typing import Final

from imagearchive.errors import ArchiveNotFoundError, OptionError, OptionTypeError
from imagearchive.errors.arguments import check_path, shorten
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


def expand_paths(path: ArchivePath) -> list[str]:
    """Return the absolute paths of the archives that a path, a pattern, or a list of both names.

    ``{0000..0146}`` counts, padded with zeros as written; ``{a,b}`` lists alternatives. ``*``,
    ``?`` and ``[...]`` match within one component of a path. Matches are sorted, and there must be
    at least one. A path that exists is taken literally, even if it looks like a pattern.

    Raises
    ------
    OptionError
        The list is empty, a range counts down, or the pattern names more than a million archives.
    ArchiveNotFoundError
        No archive matches a pattern with wildcards.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        expanded = [one for part in path for one in expand_paths(part)]
        if not expanded:
            raise OptionError("no archive is given: the list of paths is empty")
        return expanded
    location = locate(path)
    text = location.path
    if not _has_wildcard(location) and "{" not in text:
        return [text]
    if location.exists():
        return [text]
    found: list[str] = []
    for one in (with_text_of(text, one) for one in _expand_braces(text)):
        if not _WILDCARD.search(one) or not _has_wildcard(locate(one)) or locate(one).exists():
            found.append(one)
            continue
        matches = _match_wildcards(locate(one))
        if not matches:
            raise ArchiveNotFoundError(f"{one}: no archive matches this pattern")
        found += matches
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


def _expand_braces(text: str) -> list[str]:
    choices: list[list[str]] = []
    for i, part in enumerate(_BRACES.split(text)):
        bounds = _RANGE.fullmatch(part)
        if i % 2 == 0:
            choices.append([part])
        elif bounds:
            low, high = bounds.groups()
            if int(high) < int(low) or int(high) - int(low) >= MAX_PATHS:
                raise OptionError(f"{text}: the range {{{part}}} names no archive, or too many")
            width = len(low)
            choices.append([f"{number:0{width}d}" for number in range(int(low), int(high) + 1)])
        elif "," in part:
            choices.append(part.split(","))
        else:
            choices.append([f"{{{part}}}"])
    if (count := math.prod(map(len, choices))) > MAX_PATHS:
        raise OptionError(f"{text}: the pattern names {count} archives, more than {MAX_PATHS}")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _match_wildcards(pattern: Location) -> list[str]:
    """Return the paths that match a location whose path has wildcards, sorted."""
    parts: list[str] = []
    base = pattern
    while _has_wildcard(base) and base.parent.path != base.path:
        parts.insert(0, base.name)
        base = base.parent
    found = [base]
    for part in parts:
        found = [one for folder in found for one in _match_component(folder, part)]
    return sorted(one.path for one in found)


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
        if matches(entry.name)
        and (part.startswith(".") or not entry.name.startswith("."))
        and not entry.name.endswith(INDEX_SUFFIX)
    ]
