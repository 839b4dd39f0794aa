"""Index and label files: lines of text that number the images of an archive and label them."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from imagearchive.datasets.class_numbers import NO_CLASS, ClassNumbers
from imagearchive.datasets.ragged_labels import RaggedLabels
from imagearchive.errors import LabelError
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.companion_files import CompanionFile

__all__ = [
    "FileLabels",
    "LabelParser",
    "parse_label_line",
    "read_index_file",
    "read_label_file",
]

logger = logging.getLogger(__name__)

#: From a line of a label file to the image, as a number or a path, and its values: numbers, or the
#: name of a class as a string. None skips the line.
LabelParser = Callable[[str], "tuple[int | str, Sequence[float] | str] | None"]


class FileLabels(NamedTuple):
    """The labels in a label file.

    Attributes
    ----------
    numbers : ndarray of int64, shape (N,), or None
        One integer for each sample, `NO_CLASS` for those without a label; None if a sample has
        several values, or one that is not an integer.
    values : RaggedLabels
        The values of each sample.
    """

    numbers: npt.NDArray[np.int64] | None
    values: RaggedLabels


def parse_label_line(line: str) -> tuple[int | str, Sequence[float]]:
    """Parse ``image value value …``, where `image` is the number or the path of an image.

    Raises
    ------
    ValueError
        A value is not a number.
    """
    first, *values = line.split()
    key: int | str = int(first) if first.lstrip("-").isdecimal() else first
    return key, [_as_number(value) for value in values]


def _parse_name_line(line: str) -> tuple[int | str, str]:
    """Parse ``image class``, where the name of the class may contain spaces."""
    image, _, name = line.replace("\t", " ").partition(" ")
    return parse_label_line(image)[0], name.strip()


def _as_number(value: Any) -> float:
    """Return an integer as `int`, and any other number as `float`."""
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return float(value)
    try:
        return operator.index(value)
    except TypeError:
        return float(value)


def read_index_file(archive: Archive, path: CompanionFile) -> Iterator[tuple[int, str, str]]:
    """Yield ``(number, path, where)`` for each line ``number path`` of an index file."""
    for line, where in path.lines(archive):
        number, _, name = line.replace("\t", " ", 1).partition(" ")
        if not (number.isascii() and number.isdecimal() and len(number) < 19 and name.strip()):
            raise LabelError(f"{where}: expected 'number path', got {line[:80]!r}")
        yield int(number), name.strip(), where


def read_label_file(
    archive: Archive,
    path: CompanionFile,
    count: int,
    resolve: Callable[[int | str], int],
    parser: LabelParser = parse_label_line,
    class_to_idx: ClassNumbers | None = None,
) -> FileLabels:
    """Read the labels of `count` samples.

    The values of several lines for one image are appended. The number of unlabeled samples is
    logged.

    Parameters
    ----------
    archive : Archive
        May contain the file.
    path : CompanionFile
    count : int
        Number of samples.
    resolve : callable
        From the number or path of an image to its sample; -1 if the image is not a sample. Raises
        `LabelError` if the archive has no such image.
    parser : callable
        See `LabelParser`.
    class_to_idx : ClassNumbers, optional
        Numbers of the classes; then the label of an image is the name or number of a class.

    Raises
    ------
    LabelError
        The file cannot be found or parsed, or it labels none of the samples. The message names the
        file and the line.
    """
    if class_to_idx is not None and parser is parse_label_line:
        parser = _parse_name_line
    samples: list[int] = []
    sizes: list[int] = []
    values: list[float] = []
    for line, where in path.lines(archive):
        try:
            parsed = parser(line)
            if parsed is None:
                continue
            key, found = parsed
            if not isinstance(key, str):
                key = operator.index(key)
            if class_to_idx is None:
                numbers = [_as_number(value) for value in found]
            else:
                (name,) = [found] if isinstance(found, str) else found
                numbers = [class_to_idx.number(name, where)]
        except LabelError:
            raise
        except (ValueError, TypeError, IndexError, KeyError) as error:
            expected = "image value value …" if class_to_idx is None else "image class"
            raise LabelError(
                f"{where}: expected '{expected}', got {line[:80]!r} ({error}); pass "
                f"label_parser= for lines of another form"
            ) from error
        try:
            sample = resolve(key)
        except LabelError as error:
            raise LabelError(f"{where}: {error}{_form_hint(key, numbers, line)}") from None
        if sample >= 0:
            samples.append(sample)
            sizes.append(len(numbers))
            values.extend(numbers)
    owners = np.array(samples, np.int64)
    unlabeled = count - len(np.unique(owners))
    if unlabeled == count and count:
        raise LabelError(f"{path}: none of the {count} samples is labeled in this file")
    if unlabeled:
        logger.warning(
            "%s: no labels in this file for %d of %s", path, unlabeled, pluralize(count, "sample")
        )
    grouped = RaggedLabels.grouped(owners, np.array(sizes, np.int64), values, count)
    return FileLabels(_single_integers(owners, sizes, values, count), grouped)


def _single_integers(
    owners: npt.NDArray[np.int64], sizes: list[int], values: list[float], count: int
) -> npt.NDArray[np.int64] | None:
    """Return the label of each sample if all labels are single integers, otherwise None."""
    if any(size != 1 for size in sizes) or len(np.unique(owners)) < len(owners):
        return None
    if not all(isinstance(value, int) for value in values):
        return None
    numbers = np.full(count, NO_CLASS, np.int64)
    try:
        numbers[owners] = values
    except OverflowError:
        return None
    return numbers


def _form_hint(key: int | str, numbers: list[float], line: str) -> str:
    """Return what to do if a line is not of the default form, such as a line of a CSV file."""
    if numbers and "," not in str(key):
        return ""
    return (
        f"; expected 'image value value …', got {line[:80]!r}; pass label_parser= for lines of "
        f"another form, such as CSV"
    )
