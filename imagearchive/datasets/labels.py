"""The labels of an `ImageArchive`: of class directories, of a label file, or beside the images."""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from imagearchive.archive.name_tree import decode
from imagearchive.archive.samples import Samples
from imagearchive.datasets.class_numbers import NO_CLASS, ClassNumbers, number_names
from imagearchive.datasets.label_files import LabelParser, read_label_file
from imagearchive.datasets.ragged_labels import RaggedLabels
from imagearchive.datasets.selection import find_classes
from imagearchive.errors import LabelError
from imagearchive.errors.plurals import pluralize

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.companion_files import CompanionFile
    from imagearchive.datasets.selection import Selection

__all__ = ["ArrayLabels", "ClassesFrom", "Labels", "NoLabels", "find_labels"]

logger = logging.getLogger(__name__)

ClassesFrom = Literal["directory", "archive"]

_EXTENSIONS: Final = re.compile(
    r"(\.(tar|zip|tgz|tbz2|txz|gz|bz2|xz|zst|barecat))+$", re.IGNORECASE
)


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

    def label_list(self, samples: npt.NDArray[np.int64]) -> list[Any]:
        """Return the labels of several samples, as `label` returns them."""
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

    def label_list(self, samples: npt.NDArray[np.int64]) -> list[int]:
        numbers: list[int] = self._numbers.numbers(samples, NO_CLASS).tolist()
        return numbers

    def values(self, sample: int) -> npt.NDArray[np.float64]:
        return self._numbers[sample].copy()

    def targets(self) -> npt.NDArray[np.int64]:
        return self._numbers.values.astype(np.int64)

    def sizes(self) -> None:
        return None

    def select(self, rows: npt.NDArray[np.int64]) -> ClassLabels:
        return ClassLabels(self.classes, self._numbers.select(rows))


class ArrayLabels:
    """One number for each sample, or an array of k numbers.

    Parameters
    ----------
    numbers : ndarray of int64 or of a floating type, shape (N,) or (N, k)
    classes : list of str
    """

    def __init__(self, numbers: npt.NDArray[Any], classes: list[str]) -> None:
        self.classes = classes
        self._numbers = numbers

    def label(self, sample: int) -> Any:
        """Return an integer, a float, or an array, as the numbers are."""
        label: Any = self._numbers[sample]
        return label.copy() if self._numbers.ndim > 1 else label.item()

    def label_list(self, samples: npt.NDArray[np.int64]) -> list[Any]:
        """Return the labels of several samples, as `label` returns them."""
        labels = self._numbers[samples]
        # A copy of each, so that a label that is kept does not keep the others.
        return [row.copy() for row in labels] if labels.ndim > 1 else labels.tolist()

    def values(self, sample: int) -> npt.NDArray[np.float64]:
        """Return the label as a new float64 array of shape (k,)."""
        return np.array(self._numbers[sample], np.float64).reshape(-1)

    def targets(self) -> npt.NDArray[Any]:
        """Return the labels of all samples as a new array."""
        return self._numbers.copy()

    def sizes(self) -> None:
        """Return None: the labels are not from a label file with several values."""
        return None

    def select(self, rows: npt.NDArray[np.int64]) -> ArrayLabels:
        """Return the labels of some of the samples."""
        return ArrayLabels(self._numbers[rows], self.classes)


class NoLabels:
    """No sample has a label, so each has `NO_CLASS`."""

    def __init__(self, count: int) -> None:
        self.classes: list[str] = []
        self._count = count

    def label(self, sample: int) -> int:
        """Return `NO_CLASS`."""
        return NO_CLASS

    def label_list(self, samples: npt.NDArray[np.int64]) -> list[int]:
        """Return `NO_CLASS` for each."""
        return [NO_CLASS] * len(samples)

    def values(self, sample: int) -> npt.NDArray[np.float64]:
        """Return `NO_CLASS` as an array of shape (1,)."""
        return np.array([NO_CLASS], np.float64)

    def targets(self) -> npt.NDArray[np.int64]:
        """Return `NO_CLASS` for each sample."""
        return np.full(self._count, NO_CLASS, np.int64)

    def sizes(self) -> None:
        """Return None: the labels are not from a label file."""
        return None

    def select(self, rows: npt.NDArray[np.int64]) -> NoLabels:
        """Return the labels of some of the samples."""
        return NoLabels(len(rows))


class ListedLabels:
    """Lists of numbers from a label file, or single integers."""

    def __init__(self, labels: RaggedLabels, numbers: npt.NDArray[np.int64] | None = None) -> None:
        self.classes: list[str] = []
        self._labels = labels
        self._numbers = numbers

    def label(self, sample: int) -> int | npt.NDArray[np.float64]:
        return self.values(sample) if self._numbers is None else int(self._numbers[sample])

    def label_list(self, samples: npt.NDArray[np.int64]) -> list[Any]:
        return [self.label(sample) for sample in samples.tolist()]

    def values(self, sample: int) -> npt.NDArray[np.float64]:
        return self._labels[sample].copy()

    def targets(self) -> npt.NDArray[Any]:
        return self._labels.as_array() if self._numbers is None else self._numbers.copy()

    def sizes(self) -> npt.NDArray[np.int64] | None:
        if self._numbers is not None:
            return None
        return np.diff(self._labels.offsets).astype(np.int64)

    def select(self, rows: npt.NDArray[np.int64]) -> ListedLabels:
        numbers = None if self._numbers is None else self._numbers[rows]
        return ListedLabels(self._labels.select(rows), numbers)


class SiblingLabels:
    """Numbers in members beside the images: ``0001.cls`` beside ``0001.jpg``.

    They are read when they are asked for. With `class_to_idx` they are names or numbers of classes.
    """

    def __init__(
        self,
        archive: Archive,
        selection: Selection,
        extension: str,
        class_to_idx: ClassNumbers | None,
    ) -> None:
        self.classes: list[str] = []
        self._class_to_idx = class_to_idx
        self._archive = archive
        self._selection = selection
        self._samples = Samples(archive, (extension,))
        self._choices = [extension.lower().lstrip(".")]

    def label(self, sample: int) -> int | npt.NDArray[np.float64]:
        values = self.values(sample)
        is_integer = len(values) == 1 and float(values[0]).is_integer()
        return int(values[0]) if is_integer else values

    def label_list(self, samples: npt.NDArray[np.int64]) -> list[Any]:
        return [self.label(sample) for sample in samples.tolist()]

    def values(self, sample: int) -> npt.NDArray[np.float64]:
        archive = self._archive
        position = self._samples.find(self._selection.position(sample), self._choices)
        text = bytes(archive.read(position)).decode("utf-8", "replace")
        if self._class_to_idx is not None:
            where = f"{archive.path}: member {archive.name(position)!r}"
            return np.array([self._class_to_idx.number(text.strip(), where)], np.float64)
        try:
            return np.array([float(value) for value in text.split()], np.float64)
        except ValueError:
            name = archive.name(position)
            if name.lower().endswith(".npy"):
                raise LabelError(
                    f"{archive.path}: member {name!r} is an array, but label_extension= reads "
                    f"numbers in text; use SampleArchive with "
                    f"fields={{'image': ..., 'label': Label('{{key}}.npy')}}"
                ) from None
            raise LabelError(
                f"{archive.path}: member {name!r} must contain numbers, got {text[:80]!r}"
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
    label_file: CompanionFile | None,
    label_parser: LabelParser,
    label_extension: str | None,
    class_to_idx: ClassNumbers | None,
    classes_from: ClassesFrom,
) -> Labels:
    """Return the labels of the samples of a dataset; the arguments are those of `ImageArchive`.

    If the labels are classes, files outside of the class directories are removed from `selection`.
    """
    if label_file is not None:
        read = read_label_file(
            archive,
            label_file,
            len(selection),
            selection.resolver(),
            label_parser,
            class_to_idx,
        )
        return ListedLabels(read.values, read.numbers)
    if label_extension is not None:
        return SiblingLabels(archive, selection, label_extension, class_to_idx)
    # An archive inside the only archive is a directory.
    are_inside = len(archive.paths) == 1 and "nested" in archive.table.meta
    if classes_from == "archive" and not are_inside:
        return _label_by_archive(archive, selection, class_to_idx)
    if not archive.table.meta:
        # An index of the original ImageArchive: it has labels but no names.
        table = archive.table
        labels = RaggedLabels(table.label_values, table.label_offsets)
        chosen = selection.positions
        return ListedLabels(labels if chosen is None else labels.select(chosen))
    return _find_class_labels(archive, selection, class_to_idx)


def _label_by_archive(
    archive: Archive, selection: Selection, class_to_idx: ClassNumbers | None
) -> ArrayLabels:
    """Make one class of each archive, named after its file."""
    first = selection.first_positions()
    shards = archive.table.files_of_members()
    shards = np.array(shards if first is None else shards[first], np.int64)
    names = [_class_name(path) for path in _archives_of_files(archive)]
    classes = sorted(set(names))
    numbers = number_names(names, classes)[shards]
    if class_to_idx is not None:
        return ArrayLabels(class_to_idx.of_numbered(classes, numbers, str(archive.path)), [])
    return ArrayLabels(numbers, classes)


def _archives_of_files(archive: Archive) -> list[str]:
    """Return the path of the archive that each file of the table belongs to."""
    pairs = sorted(zip(archive.opened_paths, archive.paths))
    # The files of an archive in several files begin with its path.
    opened = [path for path, _ in pairs]
    places = [bisect_right(opened, file) - 1 for file in archive.table.files]
    return [pairs[max(place, 0)][1] for place in places]


def _class_name(path: str) -> str:
    """Return the name of an archive without its extensions."""
    name = path.rpartition("/")[2]
    return _EXTENSIONS.sub("", name) or name


def _find_class_labels(
    archive: Archive, selection: Selection, class_to_idx: ClassNumbers | None
) -> Labels:
    table = archive.table
    first = selection.first_positions()
    if (
        class_to_idx is None
        and first is None
        and not selection.prefix
        and len(table.label_values) == len(table)
    ):
        # Every member is in a class directory, and the index has its number.
        directories = table.lookup.children(0, len(table), 0)[0].tolist()
        names = [table.lookup.sorted_name(place) for place in directories]
        classes = [decode(name) for name in sorted(name[: name.index(b"/")] for name in names)]
        return ClassLabels(classes, RaggedLabels(table.label_values, table.label_offsets))
    if first is None and not selection.prefix and not len(table.label_values):
        # No member is in a class directory, and there may be very many.
        return NoLabels(len(table))
    classes, numbers = find_classes(table, selection.prefix, first)
    inside = numbers >= 0
    if not inside.any():
        # The samples are beside directories of other files.
        classes = []
    if classes and not inside.all() and not selection.is_listed:
        logger.info(
            "%s: %s left out",
            archive.path,
            pluralize(
                int((~inside).sum()),
                "file outside the class directories is",
                "files outside the class directories are",
            ),
        )
        selection.keep(np.flatnonzero(inside))
        numbers = numbers[inside]
    if class_to_idx is not None:
        return ArrayLabels(class_to_idx.of_numbered(classes, numbers, str(archive.path)), [])
    if not selection.is_listed or selection.numbers is not None:
        # A list of members may be of few classes.
        _warn_of_empty_classes(archive, classes, numbers)
    return ArrayLabels(numbers, classes)


def _warn_of_empty_classes(
    archive: Archive, classes: list[str], numbers: npt.NDArray[np.int64]
) -> None:
    has_sample = np.zeros(len(classes), np.bool_)
    has_sample[numbers[numbers >= 0]] = True
    empty = np.flatnonzero(~has_sample).tolist()
    if empty:
        names = ", ".join(repr(classes[number]) for number in empty[:5])
        logger.warning(
            "%s: no samples in %d of %s: %s%s; the classes keep their numbers. Choose other "
            "extensions, or a root that contains class directories only",
            archive.path,
            len(empty),
            pluralize(len(classes), "class"),
            names,
            ", ..." if len(empty) > 5 else "",
        )
