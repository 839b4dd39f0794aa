"""Label and index files: lines of text that number the images of an archive and label them."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imagearchive.archive.name_tree import encode
from imagearchive.errors import LabelError
from imagearchive.index.names import normalise

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = [
    "LabelParser",
    "RaggedLabels",
    "inner_position",
    "parse_label_line",
    "read_index_file",
    "read_label_file",
]

logger = logging.getLogger(__name__)

#: A line of a label file -> the image it speaks of (its number or its path) and its values.
LabelParser = Callable[[str], "tuple[int | str, Sequence[float]] | None"]


class RaggedLabels:
    """A list of floats for each sample, in two flat arrays.

    Attributes
    ----------
    values : ndarray of float64
    offsets : ndarray of uint64, shape (N + 1,)
        Sample ``i`` has ``values[offsets[i]:offsets[i + 1]]``.
    """

    def __init__(self, values: npt.NDArray[np.float64], offsets: npt.NDArray[np.uint64]) -> None:
        self.values = values
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.float64]:
        return self.values[int(self.offsets[index]) : int(self.offsets[index + 1])]

    def number(self, index: int, missing: int) -> int:
        """Return the one label of a sample as a whole number, or `missing` where it has none."""
        place = int(self.offsets[index])
        return int(self.values[place]) if place < self.offsets[index + 1] else missing

    def select(self, rows: npt.NDArray[np.int64]) -> RaggedLabels:
        """Return the labels of some rows."""
        starts = self.offsets[rows]
        counts = self.offsets[rows + 1] - starts
        offsets = np.zeros(len(rows) + 1, np.uint64)
        np.cumsum(counts, out=offsets[1:])
        places = np.repeat(starts - offsets[:-1], counts.astype(np.int64))
        places = places + np.arange(len(places), dtype=np.uint64)
        return RaggedLabels(self.values[places], offsets)

    def as_array(self) -> npt.NDArray[np.float64] | npt.NDArray[np.object_]:
        """Return all labels: (N,) of one each, (N, k) of k each, else (N,) of arrays."""
        counts = np.diff(self.offsets)
        if len(counts) and (counts == counts[0]).all() and counts[0]:
            width = int(counts[0])
            flat = self.values[int(self.offsets[0]) : int(self.offsets[-1])]
            return np.array(flat) if width == 1 else flat.reshape(-1, width).copy()
        rows = np.empty(len(self), object)
        for i in range(len(self)):
            rows[i] = self[i]
        return rows


def parse_label_line(line: str) -> tuple[int | str, Sequence[float]]:
    """Parse ``image value value …``, where `image` is the number or the path of an image.

    Raises
    ------
    ValueError
        A value is no number.
    """
    first, *values = line.split()
    key: int | str = int(first) if first.lstrip("-").isdecimal() else first
    return key, [float(value) for value in values]


def read_index_file(archive: Archive, path: str) -> Iterator[tuple[int, str, str]]:
    """Yield ``(number, path, where)`` for each line ``number path`` of an index file."""
    for line, where in _lines(archive, path):
        number, _, name = line.replace("\t", " ", 1).partition(" ")
        if not (number.isascii() and number.isdecimal() and len(number) < 19 and name.strip()):
            raise LabelError(f"{where}: expected 'number path', found {line[:80]!r}")
        yield int(number), name.strip(), where


def read_label_file(
    archive: Archive,
    path: str,
    count: int,
    resolve: Callable[[int | str], int],
    parser: LabelParser = parse_label_line,
) -> RaggedLabels:
    """Read the labels of `count` samples.

    Several lines for one image append their values. How many samples no line speaks of is logged.

    Parameters
    ----------
    archive : Archive
        Where the file may lie inside.
    path : str
        On disk, or inside the archive as ``archive.tar/inner/path``.
    count : int
        How many samples there are.
    resolve : callable
        From what a line calls an image to the number of its sample, -1 where it is none; raises
        `LabelError` where no such image is in the archive.
    parser : callable
        See `LabelParser`; None for a line means that it says nothing.

    Raises
    ------
    LabelError
        The file cannot be found or parsed, in which case the message names file and line, or it
        speaks of no sample at all.
    """
    samples: list[int] = []
    sizes: list[int] = []
    values: list[float] = []
    for line, where in _lines(archive, path):
        try:
            parsed = parser(line)
            if parsed is None:
                continue
            key, found = parsed
            if not isinstance(key, str):
                key = operator.index(key)
            numbers = [float(value) for value in found]
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise LabelError(
                f"{where}: {line[:80]!r} is not 'image value value …' ({error}); pass "
                f"label_parser= for lines of another form"
            ) from error
        try:
            sample = resolve(key)
        except LabelError as error:
            raise LabelError(f"{where}: {error}") from None
        if sample >= 0:
            samples.append(sample)
            sizes.append(len(numbers))
            values.extend(numbers)
    owners = np.array(samples, np.int64)
    bare = count - len(np.unique(owners))
    if bare == count and count:
        raise LabelError(f"{path}: no line speaks of any of the {count} samples")
    if bare:
        logger.warning("%s: %d of %d samples have no line, and so no labels", path, bare, count)
    return _grouped(owners, np.array(sizes, np.int64), values, count)


def _grouped(
    samples: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], values: list[float], count: int
) -> RaggedLabels:
    """Bring the values of each sample together, in the order of their lines."""
    owners = np.repeat(samples, sizes)
    order = np.argsort(owners, kind="stable")
    offsets = np.zeros(count + 1, np.uint64)
    np.cumsum(np.bincount(owners, minlength=count), out=offsets[1:])
    return RaggedLabels(np.array(values, np.float64)[order], offsets)


def _lines(archive: Archive, path: str) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file that are not blank, each with what to call it in a message."""
    text = _text(archive, path)
    # Not splitlines(), which also ends a line at characters that names may have.
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if stripped:
            yield stripped, f"{path}: line {number}"


def inner_position(archive: Archive, path: str) -> int:
    """Return the position of the member that ``archive.tar/inner/path`` names; -1 if none.

    Parameters
    ----------
    path : str
        Absolute.
    """
    for own in archive.paths:
        if path.startswith(own + "/"):
            position = archive.table.lookup.find(normalise(encode(path[len(own) + 1 :])))
            if position >= 0:
                return position
    return -1


def _text(archive: Archive, path: str) -> str:
    if os.path.isfile(path):
        with open(path, "rb") as file:
            data = file.read()
    else:
        position = inner_position(archive, path)
        if position < 0:
            raise LabelError(
                f"{path}: no such file, neither on disk nor, as ARCHIVE/inner/path, in the archive"
            )
        data = bytes(archive.read(position))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not UTF-8 text (byte {error.start}); convert it") from None
