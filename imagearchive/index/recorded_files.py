"""The section ``files`` of an index file: which files it was built from, and their state then.

Path, size, and identity of each file, all followed by NUL. Indexes in the cache directory have it,
because their name does not tell whose they are, and so have joined indexes of archives on servers,
which are opened without asking for the state of each.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.index.freshness import Signature

__all__ = ["FILES", "RecordedFiles", "describe_files"]

FILES: Final = "files"

# Records that are taken apart at a time.
_CHUNK: Final = 4096


def describe_files(found: Mapping[str, Signature]) -> npt.NDArray[np.uint8]:
    """Return the section for files as they were when they were indexed."""
    text = "".join(f"{path}\0{size}\0{identity}\0" for path, (size, identity) in found.items())
    return np.frombuffer(os.fsencode(text), np.uint8)


class RecordedFiles(Mapping[str, Signature]):
    """Size and identity of each file, by its path, read from the section when they are asked for.

    There may be very many, and every process that reads the archive has them.

    Parameters
    ----------
    sections : mapping of str to ndarray
        Those of an index file; without the section, there are no files.
    """

    def __init__(self, sections: Mapping[str, npt.NDArray[Any]]) -> None:
        section = sections.get(FILES, np.zeros(0, np.uint8))
        text = np.ascontiguousarray(section).reshape(-1).view(np.uint8)
        ends = np.flatnonzero(text == 0)
        self._text = text.data
        self._ends = ends.astype(np.uint32) if len(text) < 1 << 32 else ends
        # The record after the one that was found last: files are mostly asked for in order.
        self._next = 0
        # The numbers of the records, sorted by path; None if they are in this order.
        self._order: npt.NDArray[np.uint32] | None = None
        self._length = len(ends) // 3
        is_sorted, last, length = True, b"", 0
        for parts in self._chunks():
            paths = [last, *parts[::3]]
            is_sorted = is_sorted and paths == sorted(paths)
            last = paths[-1]
            are_sizes = [size.isdigit() and len(size) < 20 for size in parts[1::3]]
            if not all(are_sizes):
                # This is not a record, and neither is what follows.
                length += are_sizes.index(False)
                break
            length += len(are_sizes)
        self._length = length
        if not is_sorted:
            order = sorted(range(length), key=lambda number: self._field(number, 0))
            self._order = np.array(order, np.uint32)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        for parts in self._chunks():
            yield from map(os.fsdecode, parts[::3])

    def __getitem__(self, path: str) -> Signature:
        wanted, number = os.fsencode(path), self._next
        if number >= self._length or self._field(number, 0) != wanted:
            order = range(self._length) if self._order is None else self._order
            place = bisect_left(order, wanted, key=lambda number: self._field(int(number), 0))
            if place == self._length or self._field(int(order[place]), 0) != wanted:
                raise KeyError(path)
            number = int(order[place])
        self._next = number + 1
        return int(self._field(number, 1)), os.fsdecode(self._field(number, 2))

    def _field(self, number: int, which: int) -> bytes:
        place = 3 * number + which
        start = int(self._ends[place - 1]) + 1 if place else 0
        return bytes(self._text[start : int(self._ends[place])])

    def _chunks(self) -> Iterator[list[bytes]]:
        """Yield the fields of all records, those of some at a time."""
        for number in range(0, self._length, _CHUNK):
            last = 3 * min(number + _CHUNK, self._length) - 1
            start = int(self._ends[3 * number - 1]) + 1 if number else 0
            yield bytes(self._text[start : int(self._ends[last])]).split(b"\0")
