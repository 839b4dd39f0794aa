"""What is in the fields of samples: sizes of boxes, classes of masks, labels, and gaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.errors import ImageArchiveError
from imagearchive.images.decode import image_size
from imagearchive.processing.report.distributions import distribution, sort_counts, spread
from imagearchive.processing.report.facts import FieldFacts, SampleFacts
from imagearchive.storage.executors import Submits, run_tasks
from imagearchive.transforms.fields import Boxes, Field, Image, Keypoints, Label, Mask, Text

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive
    from imagearchive.datasets.samples.dataset import SampleArchive

__all__ = ["field_facts", "images_of_fields"]

# Samples per task.
_TASK: Final = 16
_MOST_LISTED: Final = 100
_MOST_LABELS: Final = 1000
_KINDS: Final = (Image, Mask, Boxes, Keypoints, Label, Text)


def images_of_fields(dataset: SampleArchive) -> tuple[Archive, npt.NDArray[np.int64]]:
    """Return the archive of the first field of images, and the positions of the images in it.

    Other fields of images count if they are in the same archive. Without any, there are none.
    """
    archive, found = None, [np.zeros(0, np.int64)]
    for name, kind in dataset.fields.items():
        if isinstance(kind, Image):
            where, positions = dataset.member_positions(name)
            archive = archive or where
            if where is archive:
                found.append(positions[positions >= 0])
    return archive or dataset.archives[0], np.unique(np.concatenate(found))


def field_facts(
    dataset: SampleArchive,
    most: int | None,
    executor: Submits,
    threads: int,
    progress: Callable[[int], object],
) -> SampleFacts:
    """Read samples in threads, and describe their fields.

    Parameters
    ----------
    dataset : SampleArchive
        With ``missing="none"``.
    most : int, optional
        How many samples to read, evenly spread; by default all.
    executor, threads, progress
        As for `measure_images`.
    """
    chosen = spread(len(dataset), most)
    facts = SampleFacts(len(dataset), len(chosen), {}, 0, [])
    columns = {name: _Column(kind) for name, kind in dataset.fields.items()}
    call = partial(_read_part, dataset)
    parts = [chosen[start : start + _TASK] for start in range(0, len(chosen), _TASK)]
    with closing(
        run_tasks(call, parts, executor, in_flight=2 * threads, in_order=True)
    ) as outcomes:
        for outcome in outcomes:
            for sample in outcome.get():
                _add(facts, columns, sample)
            progress(len(outcome.item))
    facts.extensions = sort_counts({name: one.present for name, one in columns.items()})
    names = dataset.class_names
    facts.fields = [column.summarize(name, names.get(name, ())) for name, column in columns.items()]
    return facts


@dataclass(frozen=True)
class _Read:
    """What one sample has: its values by field, or what is wrong with it."""

    key: str
    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def _read_part(dataset: SampleArchive, indices: Sequence[int]) -> list[_Read]:
    dataset.prefetch(indices)
    images = [name for name, kind in dataset.fields.items() if isinstance(kind, Image)]
    return [_read(dataset, index, images) for index in indices]


def _read(dataset: SampleArchive, index: int, images: Sequence[str]) -> _Read:
    key = dataset.key(index)
    try:
        sample = dataset.load(index, encoded=images)
    except (ImageArchiveError, OSError) as error:
        return _Read(key, problem=getattr(error, "message", None) or str(error))
    except MemoryError:
        return _Read(key, problem="not enough memory to read it")
    size = _size_of_image(sample, images)
    return _Read(
        key, {name: _measure(sample[name], kind, size) for name, kind in sample.fields.items()}
    )


def _size_of_image(sample: Mapping[str, Any], images: Sequence[str]) -> tuple[int, int] | None:
    encoded = next((sample[name] for name in images if sample[name] is not None), None)
    try:
        return None if encoded is None else image_size(encoded)
    except (ImageArchiveError, TypeError):
        # It is broken, or a decoder of the user has made something else of it.
        return None


def _measure(value: Any, kind: Field, size: tuple[int, int] | None) -> Any:
    """Return what is kept of a value, which is little; None if it is missing."""
    if value is None:
        return None
    if isinstance(kind, Boxes):
        sides = np.asarray(value, np.float64).reshape(-1, 4)
        sides = sides[:, 2:] - sides[:, :2]
        area = np.full(len(sides), np.nan)
        if size is not None:
            area = sides.prod(axis=1) / max(1, size[0] * size[1])
        return np.column_stack([sides, area])
    if isinstance(kind, Mask) and isinstance(value, np.ndarray):
        labels, counts = np.unique(value, return_counts=True)
        return labels.tolist(), counts.tolist()
    if isinstance(kind, Keypoints):
        return int(np.prod(np.shape(value)[:-1]))
    if isinstance(kind, Text):
        return len(value)
    if isinstance(kind, Label):
        return np.ravel(value).tolist()
    return True


class _Column:
    """The values of one field, as far as they are kept."""

    def __init__(self, kind: Field) -> None:
        self.kind = kind
        self.present = 0
        self._boxes: list[npt.NDArray[np.float64]] = []
        self._amounts: list[int] = []
        self._labels: dict[Any, int] = {}
        self._pixels: dict[Any, int] = {}

    def add(self, value: Any) -> None:
        self.present += 1
        if isinstance(self.kind, Boxes):
            self._boxes.append(value)
            self._amounts.append(len(value))
        elif isinstance(self.kind, Mask) and isinstance(value, tuple):
            for label, count in zip(*value):
                self._labels[label] = self._labels.get(label, 0) + 1
                self._pixels[label] = self._pixels.get(label, 0) + count
        elif isinstance(self.kind, (Keypoints, Text)):
            self._amounts.append(value)
        elif isinstance(self.kind, Label):
            for label in value:
                self._labels[label] = self._labels.get(label, 0) + 1

    def summarize(self, name: str, classes: Sequence[str]) -> FieldFacts:
        facts = FieldFacts(name, _kind_name(self.kind), self.present)
        if self._amounts:
            facts.amount = distribution(np.array(self._amounts, np.int64))
        if self._boxes:
            boxes = np.concatenate(self._boxes)
            facts.width, facts.height = distribution(boxes[:, 0]), distribution(boxes[:, 1])
            facts.area = distribution(boxes[np.isfinite(boxes[:, 2]), 2])
        named = _sum_by_name(self._labels, classes)
        # Values that occur once each are numbers, not classes.
        total = sum(named.values())
        if isinstance(self.kind, Mask) or len(named) <= max(2, total // 2):
            facts.labels = dict(list(sort_counts(named).items())[:_MOST_LABELS])
        pixels, total = _sum_by_name(self._pixels, classes), sum(self._pixels.values())
        facts.pixels = {name: pixels[name] / total for name in facts.labels if name in pixels}
        return facts


def _sum_by_name(counts: Mapping[Any, int], classes: Sequence[str]) -> dict[str, int]:
    """Return counts by name: several classes may have one name, and NaN is unequal to itself."""
    named: dict[str, int] = {}
    for label, count in counts.items():
        name = _label_name(label, classes)
        named[name] = named.get(name, 0) + count
    return named


def _label_name(label: Any, classes: Sequence[str]) -> str:
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, int) and 0 <= label < len(classes):
        return classes[label]
    return str(label)


def _kind_name(kind: Field) -> str:
    found = next((one for one in _KINDS if isinstance(kind, one)), type(kind))
    return found.__name__.lower()


def _add(facts: SampleFacts, columns: Mapping[str, _Column], sample: _Read) -> None:
    if sample.problem:
        facts.broken += 1
        if len(facts.broken_samples) < _MOST_LISTED:
            facts.broken_samples.append((sample.key, sample.problem))
        return
    absent = [name for name in columns if sample.values.get(name) is None]
    for name, column in columns.items():
        if name not in absent:
            column.add(sample.values[name])
    facts.incomplete += bool(absent)
    if len(facts.missing) < _MOST_LISTED:
        facts.missing += [(sample.key, name) for name in absent]
