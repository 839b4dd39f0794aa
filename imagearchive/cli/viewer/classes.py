"""The classes of images that their directories do not tell: from a table, or beside the images."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.archive.archive import Archive
from imagearchive.archive.name_tree import encode
from imagearchive.cli.output import escape_message
from imagearchive.cli.viewer.samples import FieldSamples
from imagearchive.datasets.listed_samples import ListedSamples
from imagearchive.datasets.selection import IMAGE_EXTENSIONS
from imagearchive.errors import ClosedError, ImageArchiveError
from imagearchive.index.names import ends_with

__all__ = ["Classes", "SiblingClasses", "classes_of_table"]

LABEL: Final = "cls"
_LONGEST_LABEL: Final = 200
# So many labels are read without being asked for.
FEW_LABELS: Final = 20_000
# Labels that are requested ahead.
_AHEAD: Final = 256
_IMAGE_SUFFIXES: Final = tuple(map(encode, IMAGE_EXTENSIONS))


class Classes:
    """The class of each member, if it has one. Safe for threads.

    Parameters
    ----------
    numbers : ndarray of int32, shape (N,)
        The class of each member; -1 for none.
    names : list of str
        Names of the classes.
    """

    def __init__(self, numbers: npt.NDArray[np.int32], names: list[str]) -> None:
        self._numbers, self._names = numbers, names

    def describe(self, limit: int, read: bool = False) -> dict[str, Any]:
        """Return the classes, sorted, each with the number of its members.

        Parameters
        ----------
        limit : int
            How many classes to list at most.
        read : bool
            Begin to read the labels, even if there are many.

        Returns
        -------
        dict
            ``total`` is the number of labels, 0 without classes, and ``read`` how many were read;
            None if nobody has asked for it. When all were, ``classes`` has ``name``, ``shown``, and
            ``count`` of each, and ``count`` is their number.
        """
        names = self._names
        counts = np.bincount(self._numbers[self._numbers >= 0], minlength=len(names)).tolist()
        rows = [
            {"name": name, "shown": escape_message(name), "count": count}
            for name, count in sorted(zip(names, counts), key=_by_number)[:limit]
        ]
        total = sum(counts)
        return {"total": total, "read": total, "classes": rows, "count": len(names)}

    def mask(self, name: str) -> npt.NDArray[np.bool_]:
        """Return which members are in a class; waits until all labels were read."""
        number = self._names.index(name) if name in self._names else -2
        found: npt.NDArray[np.bool_] = self._numbers == number
        return found

    def of(self, position: int) -> str | None:
        """Return the class of a member, if it is known."""
        number = int(self._numbers[position]) if len(self._numbers) else -1
        return None if number < 0 else self._names[number]

    def close(self) -> None:
        """Stop reading."""


def classes_of_table(count: int, listed: ListedSamples) -> Classes:
    """Return the classes that a table gives to members.

    Parameters
    ----------
    count : int
        Number of members.
    listed : ListedSamples
        The rows of the table, with labels of one column.
    """
    assert listed.labels is not None
    values, rows = np.unique(listed.labels, return_inverse=True)
    names = [str(listed.classes[one] if listed.classes else one) for one in values.tolist()]
    numbers = np.full(count, -1, np.int32)
    numbers[listed.positions] = rows
    return Classes(numbers, names)


class SiblingClasses(Classes):
    """The classes that small members tell: ``0001.cls`` beside ``0001.jpg``, or label fields.

    They are read in a thread, at once if they are few, and otherwise when somebody asks for them.

    Parameters
    ----------
    archive : Archive
    samples : FieldSamples, optional
        Which members belong to one sample, and which of them are labels.
    """

    def __init__(self, archive: Archive, samples: FieldSamples | None = None) -> None:
        # The class of each member is stored when the first is known.
        super().__init__(np.zeros(0, np.int32), [])
        self._archive, self._samples = archive, samples
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._total: int | None = None
        self._read = 0

    def describe(self, limit: int, read: bool = False) -> dict[str, Any]:
        """As in `Classes`."""
        with self._starting:
            if self._total is None:
                self._total = self._count_labels()
            few = self._total <= FEW_LABELS and not self._archive.requests_ahead
            if self._thread is None and self._total and (few or read):
                self._thread = threading.Thread(target=self._read_all, daemon=True)
                self._thread.start()
        if self._thread is None:
            return {"total": self._total, "read": None}
        if self._thread.is_alive():
            # Reading a few labels takes no longer than showing how many were read.
            self._thread.join(0.1)
        if self._thread.is_alive():
            return {"total": self._total, "read": min(self._read, self._total - 1)}
        return {**super().describe(limit), "total": self._total}

    def mask(self, name: str) -> npt.NDArray[np.bool_]:
        """As in `Classes`."""
        self.describe(0, read=True)
        if self._thread is not None:
            self._thread.join()
        if self._stopped:
            raise ClosedError("the viewer ends")
        if not len(self._numbers):
            return np.zeros(len(self._archive), np.bool_)
        return super().mask(name)

    def close(self) -> None:
        """Stop reading, and wait for the thread."""
        self._stopped = True
        if self._thread is not None:
            self._thread.join()

    def _count_labels(self) -> int:
        if self._samples is not None:
            return sum(int((of >= 0).sum()) for of in self._samples.label_positions())
        table = self._archive.table
        return int(ends_with(table.names, table.name_offsets, [encode(f".{LABEL}")]).sum())

    def _pairs(self) -> Iterator[tuple[Any, int]]:
        """Yield members, and the position of their label."""
        if self._samples is not None:
            for labels in self._samples.label_positions():
                for number in np.flatnonzero(labels >= 0).tolist():
                    members = [position for _, position in self._samples.members(number)]
                    yield members, int(labels[number])
            return
        table = self._archive.table
        samples = self._archive.samples()
        images = ends_with(table.names, table.name_offsets, _IMAGE_SUFFIXES)
        for image in np.flatnonzero(images).tolist():
            with suppress(ImageArchiveError):
                yield image, samples.find(image, [LABEL])

    def _read_all(self) -> None:
        archive, pairs = self._archive, self._pairs()
        numbers = np.full(len(archive), -1, np.int32)
        number_of: dict[str, int] = {}
        while (some := list(islice(pairs, _AHEAD))) and not self._stopped:
            archive.prefetch([label for _, label in some])
            for members, label in some:
                self._read += 1
                # A member whose label is too long or cannot be read is in no class.
                with suppress(ImageArchiveError, OSError):
                    if archive.table.entries["size"][label] <= _LONGEST_LABEL:
                        text = bytes(archive.read(label)).decode("utf-8", "replace").strip()
                        numbers[members] = number_of.setdefault(text, len(number_of))
        # Whoever sees the numbers needs the names.
        self._names = list(number_of)
        self._numbers = numbers


def _by_number(named: tuple[str, int]) -> tuple[bool, int, str]:
    """Sort numbers by their values, and before other names."""
    name = named[0]
    is_number = name.isascii() and name.isdecimal() and len(name) < 19
    return not is_number, int(name) if is_number else 0, name
