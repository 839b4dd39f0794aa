"""The argument ``keys=``: the keys of the samples, from a list or a text file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from imagearchive.datasets.companion_files import CompanionFile
from imagearchive.errors import OptionTypeError
from imagearchive.errors.arguments import shorten

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["Keys", "check_keys", "read_keys"]

Keys = CompanionFile | tuple[str, ...]


def check_keys(keys: Any) -> Keys | None:
    """Return ``keys=`` as a file, or as a tuple of keys."""
    if keys is None:
        return None
    if isinstance(keys, (str, os.PathLike)):
        return CompanionFile.at("keys", keys)
    if not isinstance(keys, Iterable) or isinstance(keys, (bytes, bytearray)):
        raise OptionTypeError(
            f"keys must be a list of keys, or the path of a text file, got {shorten(keys)}"
        )
    found = tuple(keys)
    wrong = next((key for key in found if not isinstance(key, str)), None)
    if wrong is not None:
        raise OptionTypeError(f"a key must be a str, got {shorten(wrong)}")
    return tuple(str(key) for key in found)


def read_keys(archive: Archive, keys: Keys) -> Sequence[str]:
    """Return the keys; `archive` may contain the file.

    Raises
    ------
    LabelError
        There is no such file, or it is not text.
    """
    return keys if isinstance(keys, tuple) else [line for line, _ in keys.lines(archive)]
