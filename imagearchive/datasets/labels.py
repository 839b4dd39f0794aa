"""The labels of an `ImageArchive`: of class directories, of a label file, or beside the images."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from imagearchive.archive.name_tree import decode
from imagearchive.archive.samples import Samples
from imagearchive.datasets.label_files import LabelParser, read_label_file
from imagearchive.datasets.ragged_labels import RaggedLabels
from imagearchive.datasets.selection import find_classes
from imagearchive.errors import LabelError

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.selection import Selection

__all__ = ["NO_CLASS", "Labels", "find_labels"]

logger = logging.getLogger(__name__)

NO_CLASS: Final = -1


class Labels(Protocol):
    """The labels of all samples.

    Attributes
    ----------
    classes : list of str
        Names of the classes; empty if labels are not classes.
    """

    classes: list[str]

    def label(self, sample: int) -> Any:
        """Return the label that a sample of the dataset has."""
        ...

    def values(self, sample: int) -> npt.NDArray[np.float64]:
        """Return the label as a new float64 array of shape (k,)."""
        ...

    def targets(self) -> npt.NDArray[Any]:
        """Return the labels of all samples as a new array; see `ImageArchive.targets`."""
        ...

    def sizes(self) -> npt.NDArray[np.int64] | None:
        """Return how many values each sample has in a label file; None for other labels."""
        ...

    def select(self, rows: npt.NDArray[np.int64]) -> Labels:
        """Return the labels of some of the samples."""
        ...


class ClassLabels:
    """Numbers of classes, as `int`; samples outside of any class have `NO_CLASS`."""

    def __init__(self, classes: list[str], numbers: RaggedLabels) -> None:
        self.classes = classes
        self._numbers = numbers

    def label(self, sample: int) -> int:
        return self._numbers.number(sample, NO_CLASS)

    def values(self, sample: int) -> npt.NDArray[np.float64]:
        return self._numbers[sample].copy()

    def targets(self) -> npt.NDArray[np.int64]:
        return self._numbers.values.astype(np.int64)

    def sizes(self) -> None:
        return None

    def select(self, rows: npt.NDArray[np.int64]) -> ClassLabels:
        return ClassLabels(self.classes, self._numbers.select(rows))


class ListedLabels:
    """Lists of numbers from a label file."""

    def __init__(self, labels: RaggedLabels) -> None:
        self.classes: list[str] = []
        self._labels = labels

    def label(self, sample: int) -> npt.NDArray[np.float64]:
        return self.values(sample)

    def values(self, sample: int) -> npt.NDArray[np.float64]:
        return self._labels[sample].copy()

    def targets(self) -> npt.NDArray[Any]:
        return self._labels.as_array()

    def sizes(self) -> npt.NDArray[np.int64]:
        return np.diff(self._labels.offsets).astype(np.int64)

    def select(self, rows: npt.NDArray[np.int64]) -> ListedLabels:
        return ListedLabels(self._labels.select(rows))


class SiblingLabels:
    """Numbers in members beside the images: ``0001.cls`` beside ``0001.jpg``.

    They are read when they are asked for.
    """

    def __init__(self, archive: Archive, selection: Selection, extension: str) -> None:
        self.classes: list[str] = []
        self._archive = archive
        self._selection = selection
        self._samples = Samples(archive, (extension,))
        self._choices = [extension.lower().lstrip(".")]

    def label(self, sample: int) -> int | npt.NDArray[np.float64]:
        values = self.values(sample)
        is_integer = len(values) == 1 and float(values[0]).is_integer()
        return int(values[0]) if is_integer else values

    def values(self, sample: int) -> npt.NDArray[np.float64]:
        archive = self._archive
        position = self._samples.find(self._selection.position(sample), self._choices)
        text = bytes(archive.read(position)).decode("utf-8", "replace")
        try:
            return np.array([float(value) for value in text.split()], np.float64)
        except ValueError:
            raise LabelError(
                f"{archive.path}: member {archive.name(position)!r} must contain numbers, got "
                f"{text[:80]!r}"
            ) from None

    def targets(self) -> npt.NDArray[Any]:
        labels = [self.values(sample) for sample in range(len(self._selection))]
        offsets = np.cumsum([0, *(len(values) for values in labels)]).astype(np.uint64)
        found = RaggedLabels(np.concatenate([np.zeros(0), *labels]), offsets).as_array()
        are_integers = (
            found.dtype == np.float64
            and (np.abs(found) < 2.0**63).all()
            and (found == np.floor(found)).all()
        )
        return found.astype(np.int64) if are_integers else found

    def sizes(self) -> None:
        # They are not known without reading all members.
        return None

    def select(self, rows: npt.NDArray[np.int64]) -> SiblingLabels:
        # The selection, which is narrowed at the same time, says which members they are.
        return self


def find_labels(
    archive: Archive,
    selection: Selection,
    label_file: str | None,
    label_parser: LabelParser,
    label_extension: str | None,
) -> Labels:
    """Return the labels of the samples of a dataset; the arguments are those of `ImageArchive`.

    If the labels are classes, files outside of the class directories are removed from `selection`.
    """
    if label_file is not None:
        return ListedLabels(
            read_label_file(archive, label_file, len(selection), selection.resolver(), label_parser)
        )
    if label_extension is not None:
        return SiblingLabels(archive, selection, label_extension)
    if not archive.table.meta:
        # An index of the original ImageArchive: it has labels but no names.
        table = archive.table
        labels = RaggedLabels(table.label_values, table.label_offsets)
        chosen = selection.positions
        return ListedLabels(labels if chosen is None else labels.select(chosen))
    return _find_class_labels(archive, selection)


def _find_class_labels(archive: Archive, selection: Selection) -> ClassLabels:
    table = archive.table
    first = selection.first_positions()
    if first is None and not selection.prefix and len(table.label_values) == len(table):
        # Every member is in a class directory, and the index has its number.
        directories = table.lookup.children(0, len(table), 0)[0].tolist()
        names = [table.lookup.sorted_name(place) for place in directories]
        classes = [decode(name) for name in sorted(name[: name.index(b"/")] for name in names)]
        return ClassLabels(classes, RaggedLabels(table.label_values, table.label_offsets))
    classes, numbers = find_classes(table, selection.prefix, first)
    inside = numbers >= 0
    if not inside.any():
        # The samples are beside directories of other files.
        classes = []
    if classes and not inside.all() and selection.numbers is None:
        logger.info(
            "%s: %d files outside the class directories are not samples",
            archive.path,
            int((~inside).sum()),
        )
        selection.keep(np.flatnonzero(inside))
        numbers = numbers[inside]
    _warn_of_empty_classes(archive, classes, numbers)
    offsets = np.arange(len(numbers) + 1, dtype=np.uint64)
    return ClassLabels(classes, RaggedLabels(numbers.astype(np.float64), offsets))


def _warn_of_empty_classes(
    archive: Archive, classes: list[str], numbers: npt.NDArray[np.int64]
) -> None:
    has_sample = np.zeros(len(classes), np.bool_)
    has_sample[numbers[numbers >= 0]] = True
    empty = np.flatnonzero(~has_sample).tolist()
    if empty:
        names = ", ".join(repr(classes[number]) for number in empty[:5])
        logger.warning(
            "%s: %d of %d classes have no samples: %s%s; they keep their numbers. Choose other "
            "extensions, or a root that contains class directories only",
            archive.path,
            len(empty),
            len(classes),
            names,
            ", ..." if len(empty) > 5 else "",
        )
