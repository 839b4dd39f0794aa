"""What a notebook shows of an index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from imagearchive.images.notebook import Summary, count_classes, counting_step, format_bytes

__all__ = ["summarize_table"]

_MOST_DIRECTORIES: Final = 100_000
#: The chart shows fewer.
_NAMED: Final = 10


class _Table(Protocol):
    entries: npt.NDArray[Any]
    label_values: npt.NDArray[np.float64]
    label_offsets: npt.NDArray[np.uint64]
    files: Sequence[str]
    path: str | None

    def __len__(self) -> int: ...

    def name(self, position: int, /) -> str: ...


def summarize_table(table: _Table) -> Summary:
    """Return its archives, its members, and how many are in each top-level directory."""
    files = [os.path.basename(path) for path in table.files[:3]]
    size = int(table.entries["size"].sum(dtype=np.uint64))
    facts = [
        ("members", f"{len(table):,}"),
        ("size of all members", format_bytes(size)),
        ("files", ", ".join(files) + (", ..." if len(table.files) > 3 else "")),
    ]
    if table.path is not None:
        facts.append(("index", os.path.basename(table.path)))
    classes, is_estimate = _directories(table)
    return Summary(repr(table), facts, classes, is_estimate)


def _directories(table: _Table) -> tuple[list[tuple[str, int]], bool]:
    """Return the top-level directories that have the most members, and whether it is an estimate.

    Their numbers are the labels of the members.
    """
    labels = table.label_values
    if not len(labels) or not 0 <= (top := float(labels.max())) < _MOST_DIRECTORIES:
        return [], False
    counts, is_estimate = count_classes(labels, range(int(top) + 1))
    named: list[tuple[str, int]] = []
    for number, count in sorted(counts, key=lambda one: -one[1]):
        if not count:
            break
        name = _directory(table, int(number)) if len(named) < _NAMED else number
        if name is None:
            # They are other labels than those of directories.
            return [], False
        named.append((name, count))
    return named, is_estimate


def _directory(table: _Table, number: int) -> str | None:
    step = counting_step(len(table.label_values))
    row = step * int(np.argmax(table.label_values[::step] == number))
    # Of another type, the number would make NumPy convert all of the offsets.
    member = int(np.searchsorted(table.label_offsets, np.uint64(row), "right")) - 1
    directory, slash, _ = table.name(member).partition("/")
    return directory if slash else None
