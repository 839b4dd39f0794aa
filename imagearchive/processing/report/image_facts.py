"""Measures the images of an archive in threads, and summarizes what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.archive.name_tree import encode
from imagearchive.datasets.likely_root import likely_root
from imagearchive.datasets.selection import IMAGE_EXTENSIONS, find_classes
from imagearchive.errors import ImageArchiveError
from imagearchive.index.names import ends_with
from imagearchive.processing.report.distributions import (
    count_values,
    distribution,
    size_grid,
    sort_counts,
)
from imagearchive.processing.report.duplicates import (
    equal_groups,
    join_pairs,
    similar_pairs,
)
from imagearchive.processing.report.facts import (
    ClassFacts,
    DamagedImage,
    Duplicates,
    Example,
    ImageFacts,
)
from imagearchive.processing.report.identical import Digests
from imagearchive.processing.report.measure import Measured, measure
from imagearchive.storage.executors import Submits, run_tasks

if TYPE_CHECKING:
    from imagearchive.archive.archive import Archive

__all__ = ["Measurements", "class_of_images", "find_images", "measure_images"]

# Extension of labels.
_LABEL: Final = "cls"
_LONGEST_LABEL: Final = 1000
# Images per task.
_TASK: Final = 16
_MOST_DAMAGED: Final = 1000
_MOST_GROUPS: Final = 50
_MOST_OF_GROUP: Final = 20
_EXTREMES: Final = 6
_COMMON_SIZES: Final = 20

_ROW: Final = np.dtype(
    [
        ("decoded", np.bool_),
        ("width", np.int64),
        ("height", np.int64),
        ("orientation", np.uint8),
        ("digest", np.uint64, 2),
        ("hashed", np.bool_),
        ("hash", np.uint64),
        ("mean", np.float64, 3),
        ("mean_square", np.float64, 3),
    ]
)
Positions = npt.NDArray[np.int64]


def find_images(archive: Archive) -> Positions:
    """Return the positions of the images of an archive, by their extensions."""
    table = archive.table
    endings = [encode(f".{extension}") for extension in IMAGE_EXTENSIONS]
    return np.flatnonzero(ends_with(table.names, table.name_offsets, endings))


def class_of_images(
    archive: Archive, images: Positions, chosen: Positions, root: str | None = None
) -> tuple[ClassFacts | None, dict[int, str]]:
    """Count the images of each class.

    Classes are directories. If there are none, and images have labels beside them as WebDataset
    writes them, such as ``0001.cls``, classes are what these say.

    Parameters
    ----------
    archive : Archive
    images : ndarray of int64
        Positions of all images.
    chosen : ndarray of int64
        Positions of those whose class is wanted.
    root : str, optional
        The directory that contains the class directories; by default the one with the most images
        in its subdirectories, or the top one if these are less than half of all images.

    Returns
    -------
    facts : ClassFacts or None
        None if there are no classes.
    class_of : dict of int to str
        From the position of a chosen image to its class, of those that have one.
    """
    roots = [likely_root(archive.table) or "", ""] if root is None else [root.strip("/")]
    for top in roots:
        classes = find_classes(archive.table, encode(top + "/" if top else ""), images)
        numbers = np.asarray(classes.numbers)
        inside = numbers >= 0
        # A directory of few of the images does not tell about the archive.
        if 2 * np.count_nonzero(inside) >= len(images):
            break
    if not inside.any():
        return _classes_beside(archive, chosen)
    counts = np.bincount(numbers[inside], minlength=len(classes.names))
    named = {name: int(count) for name, count in zip(classes.names, counts) if count}
    of_chosen = numbers[np.searchsorted(images, chosen)]
    class_of = {
        position: classes.names[number]
        for position, number in zip(chosen.tolist(), of_chosen.tolist())
        if number >= 0
    }
    return ClassFacts(top, "", sort_counts(named), int((~inside).sum())), class_of


def _classes_beside(
    archive: Archive, chosen: Positions
) -> tuple[ClassFacts | None, dict[int, str]]:
    """Read the classes of images from the members beside them."""
    table = archive.table
    if not ends_with(table.names, table.name_offsets, [encode(f".{_LABEL}")]).any():
        return None, {}
    samples = archive.samples()
    class_of: dict[int, str] = {}
    for position in chosen.tolist():
        # Without a label, or with one that cannot be read, it is in no class.
        with suppress(ImageArchiveError, OSError):
            label = samples.find(position, [_LABEL])
            if table.entries["size"][label] <= _LONGEST_LABEL:
                class_of[position] = bytes(archive.read(label)).decode("utf-8", "replace").strip()
    if not class_of:
        return None, {}
    counts = count_values(class_of.values())
    return ClassFacts("", _LABEL, counts, len(chosen) - len(class_of)), class_of


def measure_images(
    archive: Archive,
    positions: Positions,
    executor: Submits,
    threads: int,
    progress: Callable[[int], object],
) -> Measurements:
    """Read, decode, and measure images."""
    result = Measurements(archive, positions)
    parts = (positions[start : start + _TASK].tolist() for start in range(0, len(positions), _TASK))
    call = partial(_measure_part, archive)
    with closing(
        run_tasks(call, parts, executor, in_flight=2 * threads, in_order=True)
    ) as outcomes:
        for outcome in outcomes:
            measured = outcome.get()
            result.add(measured)
            progress(len(measured))
    return result


def _measure_part(archive: Archive, positions: Sequence[int]) -> list[Measured]:
    archive.prefetch(positions)
    return [_measure_member(archive, position) for position in positions]


def _measure_member(archive: Archive, position: int) -> Measured:
    try:
        return measure(archive.read(position))
    except ImageArchiveError as error:
        return Measured(b"", error.message)
    except OSError as error:
        return Measured(b"", error.strerror or str(error))
    except MemoryError:
        return Measured(b"", "not enough memory to read it")


class Measurements:
    """What was measured of the images of an archive, in columns.

    Parameters
    ----------
    archive : Archive
    positions : ndarray of int64, shape (N,)
        Of the images that are measured.
    """

    def __init__(self, archive: Archive, positions: Positions) -> None:
        self._archive = archive
        self.positions = positions
        self._rows = np.zeros(len(positions), _ROW)
        self._formats: dict[str, int] = {}
        self._modes: dict[str, int] = {}
        self._damaged: list[DamagedImage] = []
        self._damaged_count = 0
        self._done = 0

    def add(self, measured: Sequence[Measured]) -> None:
        """Add the next images."""
        for one in measured:
            row = self._rows[self._done]
            if one.problem:
                self._damaged_count += 1
                if len(self._damaged) < _MOST_DAMAGED:
                    name = self._archive.name(int(self.positions[self._done]))
                    self._damaged.append(DamagedImage(name, one.problem, one.decoded))
            if one.digest:
                row["digest"] = np.frombuffer(one.digest, np.uint64)
            if one.decoded:
                row["decoded"] = True
                row["width"], row["height"] = one.width, one.height
                row["orientation"] = one.orientation
                row["mean"], row["mean_square"] = one.mean, one.mean_square
                row["hashed"], row["hash"] = one.hash is not None, one.hash or 0
                self._formats[one.format] = self._formats.get(one.format, 0) + 1
                self._modes[one.mode] = self._modes.get(one.mode, 0) + 1
            self._done += 1

    def decoded_positions(self) -> Positions:
        """Return the positions of the images that were decoded."""
        decoded: Positions = self.positions[self._rows["decoded"]]
        return decoded

    def example(self, row: int, value: float = 0.0) -> Example:
        """Return one of the images."""
        position = int(self.positions[row])
        return Example(position, self._archive.name(position), value)

    def digests(self) -> Digests:
        """Return the digests of the images that could be read."""
        rows = np.flatnonzero(self._rows["digest"].any(axis=1))
        return Digests(self.positions[rows], self._rows["digest"][rows], len(self.positions))

    def hashes(self) -> tuple[Positions, npt.NDArray[Any]]:
        """Return rows of images of different bytes that have a difference hash, and the hashes."""
        rows = np.flatnonzero(self._rows["digest"].any(axis=1))
        _, first = np.unique(self._rows["digest"][rows], axis=0, return_index=True)
        rows = rows[np.sort(first)]
        rows = rows[self._rows["hashed"][rows]]
        return rows, self._rows["hash"][rows]

    def summarize(self, images: Positions, compared: Digests) -> ImageFacts:
        """Return the facts about the images of an archive, of which these were measured.

        Parameters
        ----------
        images : ndarray of int64
            Positions of all images, at least one.
        compared : Digests
            Of the images that are compared for identical ones.
        """
        rows = np.flatnonzero(self._rows["decoded"])
        widths, heights = self._rows["width"][rows], self._rows["height"][rows]
        mean, std = self._moments(rows)
        file_sizes = distribution(self._archive.table.entries["size"][images].astype(np.int64))
        assert file_sizes is not None
        pairs, counts = np.unique(np.stack([widths, heights], 1), axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:_COMMON_SIZES]
        return ImageFacts(
            count=len(images),
            bytes=file_sizes,
            measured=len(self.positions),
            decoded=len(rows),
            formats=sort_counts(self._formats),
            modes=sort_counts(self._modes),
            orientations=count_values(self._rows["orientation"][rows].tolist()),
            width=distribution(widths),
            height=distribution(heights),
            megapixels=distribution(widths * heights / 1e6),
            aspect=distribution(widths / np.maximum(heights, 1)),
            sizes=size_grid(widths, heights),
            common_sizes=[(*pairs[i].tolist(), int(counts[i])) for i in order.tolist()],
            mean=mean,
            std=std,
            extremes=self._extremes(rows),
            damaged=self._damaged_count,
            damaged_images=self._damaged,
            identical=self._identical(compared),
            similar=self._similar(),
            compared=compared.among,
        )

    def _moments(self, rows: npt.NDArray[Any]) -> tuple[list[float] | None, list[float] | None]:
        if not len(rows):
            return None, None
        mean = self._rows["mean"][rows].mean(axis=0)
        square = self._rows["mean_square"][rows].mean(axis=0)
        return mean.tolist(), np.sqrt(np.maximum(square - mean**2, 0)).tolist()

    def _extremes(self, rows: npt.NDArray[Any]) -> dict[str, list[Example]]:
        found = self._rows[rows]
        pixels = (found["width"] * found["height"]).astype(np.float64)
        ratio = found["width"] / np.maximum(found["height"], 1)
        elongation = np.maximum(ratio, 1 / np.maximum(ratio, 1e-9))
        brightness = found["mean"].mean(axis=1)
        chosen = {
            "smallest": (pixels, 1),
            "largest": (pixels, -1),
            "darkest": (brightness, 1),
            "brightest": (brightness, -1),
            "most_elongated": (elongation, -1),
        }
        return {
            name: [
                self.example(int(rows[i]), float(values[i]))
                # Where all are equal, none stands out.
                for i in np.argsort(sign * values, kind="stable")[:_EXTREMES].tolist()
                if values.min() < values.max()
            ]
            for name, (values, sign) in chosen.items()
        }

    def _identical(self, compared: Digests) -> Duplicates:
        groups = equal_groups(compared.digests)
        return self._grouped([compared.positions[group].tolist() for group in groups])

    def _similar(self) -> Duplicates:
        rows, hashes = self.hashes()
        pairs = self.positions[rows[similar_pairs(hashes)]]
        return self._grouped(join_pairs(map(tuple, pairs.tolist())))

    def _grouped(self, groups: list[list[int]]) -> Duplicates:
        """Sort groups of positions, the largest first."""
        groups = sorted(groups, key=lambda group: (-len(group), group))
        return Duplicates(
            len(groups),
            sum(map(len, groups)),
            [
                [Example(position, self._archive.name(position), 0.0) for position in group]
                for group in (group[:_MOST_OF_GROUP] for group in groups[:_MOST_GROUPS])
            ],
        )
