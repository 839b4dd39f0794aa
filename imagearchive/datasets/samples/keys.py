"""The argument ``keys=``: the keys of the samples, from a list or a text file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from imagearchive.archive.name_tree import encode
from imagearchive.errors import LabelError, OptionTypeError
from imagearchive.errors.arguments import check_path, shorten
from imagearchive.index.names import normalize
from imagearchive.storage.location import locate

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["check_keys", "read_keys"]


def check_keys(keys: Any) -> str | tuple[str, ...] | None:
    """Return ``keys=`` as the path of a file, or as a tuple of keys."""
    if keys is None:
        return None
    if isinstance(keys, (str, os.PathLike)):
        return check_path("keys", keys)
    if not isinstance(keys, Iterable) or isinstance(keys, (bytes, bytearray)):
        raise OptionTypeError(
            f"keys must be a list of keys, or the path of a text file, got {shorten(keys)}"
        )
    found = tuple(keys)
    wrong = next((key for key in found if not isinstance(key, str)), None)
    if wrong is not None:
        raise OptionTypeError(f"a key must be a str, got {shorten(wrong)}")
    return tuple(str(key) for key in found)


def read_keys(archive: Archive, keys: str | Sequence[str]) -> Sequence[str]:
    """Return the keys, read from a file if they are a path.

    Parameters
    ----------
    archive : Archive
        May contain the file, under its name or as ``ARCHIVE/inner/path``.
    keys : str or sequence of str

    Raises
    ------
    LabelError
        There is no such file, or it is not text.
    """
    if not isinstance(keys, str):
        return keys
    position = _inner_position(archive, keys)
    if position >= 0:
        data = bytes(archive.read(position))
    else:
        location = locate(keys)
        if not location.exists() or not location.status().is_file:
            raise LabelError(
                f"{keys}: no such file, neither in {archive.path} nor on disk; keys= is a list of "
                f"keys, or a text file with a key on each line"
            )
        with closing(location.open("pread")) as storage:
            data = bytes(storage.read(0, storage.size))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"{keys}: not UTF-8 text (byte {error.start}); convert it") from None
    # Not splitlines(), which also splits at characters that names may contain.
    return [key for line in text.split("\n") if (key := line.strip())]


def _inner_position(archive: Archive, path: str) -> int:
    position = archive.table.lookup.find(normalize(encode(path)))
    if position >= 0:
        return int(position)
    whole = locate(path).path
    for own in archive.paths:
        if whole.startswith(own + "/"):
            return int(archive.table.lookup.find(normalize(encode(whole[len(own) + 1 :]))))
    return -1
