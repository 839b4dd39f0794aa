"""Which members a visitor asks for, as arrays of positions."""

from __future__ import annotations

import argparse
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.archive.archive import Archive
from imagearchive.archive.name_tree import decode, encode
from imagearchive.cli.argument_types import byte_size
from imagearchive.cli.viewer.classes import Classes
from imagearchive.datasets.selection import IMAGE_EXTENSIONS
from imagearchive.errors import OptionError
from imagearchive.index.names import contains, ends_with, normalize
from imagearchive.storage.lru import LRUCache

__all__ = ["KINDS", "Queries", "Query", "folder_text"]

KINDS: Final = ("all", "images", "other")
LONGEST_TEXT: Final = 200
# Ten million positions take 80 MB.
_KEPT_RESULTS: Final = 4
_IMAGE_SUFFIXES: Final = tuple(map(encode, IMAGE_EXTENSIONS))


@dataclass(frozen=True)
class Query:
    """What members have in common.

    Attributes
    ----------
    folder : str
        They are below this directory.
    text : str
        Their names contain it; the case of ASCII letters is ignored.
    smallest, largest : int or None
        Limits of their sizes in bytes, inclusive.
    kind : {"all", "images", "other"}
        Whether the extensions of their names are those of images.
    class_name : str
        Their class.
    """

    folder: str = ""
    text: str = ""
    smallest: int | None = None
    largest: int | None = None
    kind: str = "all"
    class_name: str = ""

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Query:
        """Return the query that the parameters of a request describe.

        Raises
        ------
        OptionError
        """
        text, kind = given.get("text", ""), given.get("kind", "all")
        if len(text) > LONGEST_TEXT:
            raise OptionError(f"search for at most {LONGEST_TEXT} characters, got {len(text)}")
        if kind not in KINDS:
            raise OptionError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        return cls(
            decode(_folder_name(given.get("folder", ""))),
            text,
            _size(given.get("smallest", "")),
            _size(given.get("largest", "")),
            kind,
            given.get("class", ""),
        )


def folder_text(name: str) -> str:
    """Return the name of a directory for an address, which holds only text: bytes are escaped."""
    return "".join(
        f"%{ord(one) - 0xDC00:02X}" if "\udc80" <= one <= "\udcff" else "%25" if one == "%" else one
        for one in name
    )


def _folder_name(text: str) -> bytes:
    return normalize(urllib.parse.unquote_to_bytes(encode(text)))


def _size(text: str) -> int | None:
    try:
        return byte_size(text) if text.strip() else None
    except argparse.ArgumentTypeError as error:
        raise OptionError(str(error)) from None


class Queries:
    """Answers queries from the index and the classes, and keeps the last results.

    Safe for threads.
    """

    def __init__(self, archive: Archive, classes: Classes) -> None:
        self._table = archive.table
        self._classes = classes
        self._results = LRUCache[str, Any](_KEPT_RESULTS)
        self._searching = threading.Lock()

    def positions(self, query: Query) -> npt.NDArray[np.int64] | range:
        """Return the positions of the members, ascending."""
        if query == Query():
            return range(len(self._table))
        key = repr(query)
        # Several requests of one page ask for the same result at once.
        with self._searching:
            found = self._results.get(key)
            if found is None:
                found = self._results.setdefault(key, self._search(query))
        kept: npt.NDArray[np.int64] = found
        return kept

    def _search(self, query: Query) -> npt.NDArray[np.int64]:
        table = self._table
        mask = np.ones(len(table), np.bool_)
        if query.folder:
            low, high = table.lookup.bounds(encode(query.folder) + b"/")
            mask[:] = False
            mask[table.name_order[low:high]] = True
        sizes = table.entries["size"]
        if query.smallest is not None:
            mask &= sizes >= np.uint64(min(query.smallest, 2**64 - 1))
        if query.largest is not None:
            mask &= sizes <= np.uint64(min(query.largest, 2**64 - 1))
        if query.kind != "all":
            images = ends_with(table.names, table.name_offsets, _IMAGE_SUFFIXES)
            mask &= images if query.kind == "images" else ~images
        if query.class_name:
            mask &= self._classes.mask(query.class_name)
        if query.text:
            mask &= contains(table.names, table.name_offsets, encode(query.text))
        return np.flatnonzero(mask)

    def index_of(self, query: Query, position: int) -> int | None:
        """Return at which place of the result a member is; None if it is not in it."""
        positions = self.positions(query)
        if isinstance(positions, range):
            return position
        index = int(np.searchsorted(positions, position))
        return index if index < len(positions) and positions[index] == position else None

    def folders(self, folder: str, limit: int) -> tuple[list[tuple[str, int]], int]:
        """Return the directories in a directory, each with the number of members below it.

        Returns
        -------
        folders : list of (str, int)
            The first `limit` of them, sorted by name.
        count : int
            How many there are.
        """
        lookup = self._table.lookup
        name = _folder_name(folder)
        prefix = name + b"/" if name else b""
        low, high = lookup.bounds(prefix)
        ranks, is_folder = lookup.children(low, high, len(prefix))
        counts = np.diff(np.append(ranks, np.uint64(high))).astype(np.int64)[is_folder]
        found = []
        for rank, count in zip(ranks[is_folder][:limit].tolist(), counts.tolist()):
            inside = lookup.sorted_name(rank)[len(prefix) :]
            found.append((decode(inside[: inside.index(b"/")]), count))
        return found, len(counts)
